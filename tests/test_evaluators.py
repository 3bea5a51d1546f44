"""Metrics and InterpretDL's evaluators: slow re-implementations of their formulas, their laws, planted truth, InterpretDL's own numbers."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import nn

from pellucid import InputError, OptionError, PellucidWarning, TargetError, at_input
from pellucid.batch import Run
from pellucid.interpretdl import (
    DeletionInsertion,
    Infidelity,
    InfidelityNLP,
    Perturbation,
    PerturbationNLP,
    PointGame,
    PointGameSegmentation,
)
from pellucid.metrics import (
    box_mask,
    curve,
    deletion,
    in_order,
    infidelity,
    insertion,
    masks,
    ngrams,
    overlap,
    percentiles,
    random_masks,
    responses,
    windows,
)
from tests.parity.interpretdl_nets import Cnn, Text, load

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def normalised(pictures):
    return torch.from_numpy((pictures.astype(np.float64) / 255 - MEAN) / STD).permute(0, 3, 1, 2)


def picture(height=20, width=24, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


class InFloat64(nn.Module):
    """Pictures come in float32."""

    def __init__(self, model):
        super().__init__()
        self.model = model.double()

    def forward(self, x):
        return self.model(x.double())


@pytest.fixture
def cnn():
    return InFloat64(Cnn()).eval()


def chance(model, picture, label):
    """One picture at a time."""
    with torch.no_grad():
        return float(model(normalised(picture[None]))[0].softmax(0)[label])


def best(model, picture):
    with torch.no_grad():
        return int(model(normalised(picture[None]))[0].argmax())


# --- curves, by their definition --------------------------------------------------------------------------------------------


def slow_versions(shown, relevance, limit, order, inserted):
    """Pixel by pixel."""
    percents = [100 / limit * (i - 1) for i in range(limit, 0, -1)]
    levels = [np.percentile(relevance, q) for q in percents]
    versions = []
    for level in levels if order == "most" else levels[::-1]:
        version = np.full_like(shown, 127) if inserted else shown.copy()
        for y, x in itertools.product(range(shown.shape[0]), range(shown.shape[1])):
            if relevance[y, x] > level if order == "most" else relevance[y, x] < level:
                version[y, x] = shown[y, x] if inserted else 127
        versions.append(version)
    return [*versions, shown] if inserted else [shown, *versions]


@pytest.mark.parametrize("limit", [None, 1, 7])
@pytest.mark.parametrize("ties", [False, True])
def test_curves_of_a_map_are_their_definition(cnn, limit, ties):
    shown = picture()
    relevance = np.random.default_rng(1).normal(size=(20, 24))
    relevance = relevance.round() if ties else relevance
    label = best(cnn, shown)
    results = {
        **Perturbation(cnn, "cpu").evaluate(shown, relevance, limit_number_generated_samples=limit),
        **DeletionInsertion(cnn, "cpu").evaluate(shown, relevance, 3, limit_number_generated_samples=limit),
    }
    sides = {
        ("MoRF_score", "MoRF_probas", "MoRF_images"): ("most", False),
        ("LeRF_score", "LeRF_probas", "LeRF_images"): ("least", False),
        ("deletion_score", "del_probas", "deletion_images"): ("most", False),
        ("insertion_score", "ins_probas", "insertion_images"): ("most", True),
    }
    assert set(results) == set(itertools.chain(*sides))
    for (score, probas, images), (order, inserted) in sides.items():
        versions = slow_versions(shown, relevance, limit or 20, order, inserted)
        expected = [chance(cnn, version, label) for version in versions]
        assert (results[images] == np.stack(versions)).all()
        assert results[images].dtype == np.uint8
        np.testing.assert_allclose(results[probas], expected, rtol=1e-6)
        assert results[score] == pytest.approx(np.mean(expected), rel=1e-6)


def slow_superpixels(shown, segments, order, inserted):
    version, versions = np.full_like(shown, 127) if inserted else shown.copy(), []
    for segment in order:
        version = version.copy()
        version[segments == segment] = shown[segments == segment] if inserted else 127
        versions.append(version)
    return [*versions, shown] if inserted else [shown, *versions]


@pytest.mark.parametrize("limit", [None, 2, 4, 100])
def test_curves_of_superpixels_are_their_definition(cnn, limit):
    shown = picture()
    segments = np.random.default_rng(2).integers(0, 6, (20, 24))
    weights = [(3, 0.5), (0, -0.9), (5, 0.1), (1, -0.05), (2, 0.01)]  # 4 has no weight
    order, results = [0, 3, 5, 1, 2], {"segmentation": segments, "lime_weights": {2: weights}}
    found = {
        **Perturbation(cnn).evaluate(shown, results, limit_number_generated_samples=limit),
        **DeletionInsertion(cnn).evaluate(shown, results, limit_number_generated_samples=limit),
    }
    for name, going, inserted in (
        ("MoRF", order, False),
        ("LeRF", order[::-1], False),
        ("deletion", order, False),
        ("insertion", order, True),
    ):
        versions = slow_superpixels(shown, segments, going, inserted)
        if limit is not None and limit < len(versions):
            versions = [versions[i] for i in np.linspace(0, len(versions) - 1, limit).astype(int)]
        assert (found[f"{name}_images"] == np.stack(versions)).all()
        expected = np.mean([chance(cnn, version, best(cnn, shown)) for version in versions])
        assert found[f"{name}_score"] == pytest.approx(expected, rel=1e-6)


def net(inputs=6):
    return nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, 3)).double()


@pytest.mark.parametrize("order", ["most", "least"])
@pytest.mark.parametrize("along", [deletion, insertion])
def test_a_batch_is_its_examples_one_by_one(along, order):
    model, x, relevance = net(), torch.randn(4, 6).double(), torch.randn(4, 6).double()
    whole = along(at_input(model, x, [0, 1, 2, 0]), relevance, 0.5, 6, order).scores
    for i, label in enumerate([0, 1, 2, 0]):
        one = slice(i, i + 1)
        alone = along(at_input(model, x[one], label), relevance[one], 0.5, 6, order, Run(at_most=2)).scores
        torch.testing.assert_close(whole[one], alone, rtol=1e-12, atol=0)


def test_the_order_of_the_negative_is_the_other_order():
    view, relevance = at_input(net(), torch.randn(3, 6).double(), 1), torch.randn(3, 6).double()
    for along in (deletion, insertion):
        scores = {order: along(view, sign * relevance, 0.0, 5, order).scores for order, sign in (("most", -1), ("least", 1))}
        # Below the percentiles 20 to 100, and below 0 to 80: the same but for the ends; an insertion has the original last.
        steps = {order: s[:, 1:] if along is deletion else s[:, :-1] for order, s in scores.items()}
        torch.testing.assert_close(steps["most"][:, :-1], steps["least"][:, 1:])
    one_by_one = [in_order(view.features, torch.arange(6)[None], order) for order in (relevance.argsort(1), (-relevance).argsort(1, True))]
    torch.testing.assert_close(*(curve(view, steps, 0.0).scores for steps in one_by_one))


def test_one_by_one_deletion_of_one_order_is_insertion_of_the_other_backwards():
    view = at_input(net(), torch.randn(2, 6).double(), 1)
    order = torch.tensor([4, 0, 3, 1, 5, 2])
    gone = curve(view, in_order(view.features, torch.arange(6)[None], order), 0.0).scores
    shown = curve(view, in_order(view.features, torch.arange(6)[None], order.flip(0)), 0.0, inserted=True).scores
    torch.testing.assert_close(gone[:, :-1].flip(1), torch.cat([shown[:, :5], gone[:, :1]], 1))


def test_any_increasing_function_of_the_relevance_gives_the_same_curve():
    view, relevance = at_input(net(), torch.randn(3, 6).double(), 1), torch.randn(3, 6).double()
    assert torch.equal(deletion(view, relevance, 0.0, 5).scores, deletion(view, 3 * relevance + 7, 0.0, 5).scores)


def test_several_inputs_share_one_order():
    model = lambda a, b: (a.sum(1) + 10 * b.sum(1)).double()  # noqa: E731
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]])
    found = curve(
        view := at_input(model, (a, b)), in_order(view.features, (torch.tensor([[0, 1]]), torch.tensor([[2]])), [2, 0, 1]), (0.0, 0.0)
    )
    assert found.scores.tolist() == [[33.0, 3.0, 2.0, 0.0]]
    assert deletion(view, (a, b), (0.0, 0.0), 3).scores.tolist() == [[33.0, 3.0, 1.0, 1.0]]  # above 2.33, 1.67 and 1


def test_a_fill_of_several_references_is_their_mean():
    view, relevance = at_input(net(), torch.randn(2, 6).double(), 1), torch.randn(2, 6).double()
    references = torch.randn(3, 1, 6).double()
    whole = deletion(view, relevance, references.expand(3, 2, 6), 4).scores
    each = torch.stack([deletion(view, relevance, r.expand(2, 6), 4).scores for r in references])
    torch.testing.assert_close(whole, each.mean(0))


def test_percentiles_are_those_of_numpy():
    values = torch.randn(3, 41).double()
    percents = [0, 5, 12.5, 33.3, 50, 95, 100]
    np.testing.assert_array_equal(percentiles((values,), percents).numpy(), np.percentile(values.numpy(), percents, axis=1).T)


def test_channels_and_embeddings_share_a_map():
    pictures, texts = at_input(lambda x: x.sum((1, 2, 3)), torch.randn(2, 3, 4, 5)), at_input(lambda x: x.sum((1, 2)), torch.randn(2, 7, 3))
    flat = torch.rand(2, 4, 5)
    torch.testing.assert_close(deletion(pictures, flat, 0.0).scores, deletion(pictures, flat[:, None].expand(2, 3, 4, 5), 0.0).scores)
    assert deletion(texts, torch.rand(2, 7), 0.0).scores.shape == (2, 21)


def test_a_curve_says_what_is_not_finite():
    view = at_input(lambda x: 1 / x.sum(1), torch.ones(1, 2))
    checks = curve(view, in_order(view.features, torch.tensor([[0, 1]]), [0, 1]), 0.0).checks
    assert "at step 1" in checks[0].message


def test_evaluators_warn_of_what_is_not_finite():
    shown, relevance = picture(), np.arange(480.0)[::-1].reshape(20, 24)
    grey = (127 / 255 - MEAN[0]) / STD[0]

    def model(x):
        return torch.where((x[:, :1, 0, 0] - grey).abs() < 1e-5, torch.nan, torch.ones(len(x), 2))

    with pytest.warns(PellucidWarning, match="NaN"):
        Perturbation(model, compute_LeRF=False).evaluate(shown, relevance)


# --- infidelity ---------------------------------------------------------------------------------------------------------------


def slow_infidelity(differences, products):
    products, differences = np.array(products), np.array(differences)
    if np.mean(products**2) == 0:
        return np.mean(differences**2)
    scale = np.mean(differences * products) / np.mean(products**2)
    return np.mean((differences - scale * products) ** 2)


def test_infidelity_of_windows_is_its_definition(cnn):
    shown = picture(68, 44)
    shown[5:40, 5:40] = 127  # what is grey already does not change
    relevance = np.random.default_rng(3).normal(size=(68, 44))
    label, differences, products = best(cnn, shown), [], []
    for size in (32, 64, 128):
        for y, x in itertools.product(range(0, 68, 8), range(0, 44, 8)):
            if y + size > 68 or x + size > 44:
                continue
            changed = shown.copy()
            changed[y : y + size, x : x + size] = 127
            with torch.no_grad():
                differences.append(float((cnn(normalised(shown[None])) - cnn(normalised(changed[None])))[0, label]))
            products.append(sum(relevance[i] * (shown[i] != changed[i]).sum() for i in np.ndindex(68, 44)))
    evaluator = Infidelity(cnn, "cpu")
    assert len(differences) == 10
    assert evaluator.evaluate(shown, relevance) == pytest.approx(slow_infidelity(differences, products), rel=1e-4)
    np.testing.assert_allclose(evaluator.results["proba_diff"], differences, rtol=1e-3, atol=1e-7)


def test_infidelity_in_float64_is_its_definition():
    model, x, values = net().requires_grad_(False), torch.randn(3, 6).double(), torch.randn(3, 6).double()
    rows = torch.rand(9, 6) < 0.5
    found = infidelity(at_input(model, x, 1), values, masks((x,), rows), 0.25)
    for i in range(3):
        differences = [float(model(x[i])[1] - model(torch.where(row, 0.25, x[i]))[1]) for row in rows]
        products = [float((row * values[i]).sum()) for row in rows]
        assert float(found[i]) == pytest.approx(slow_infidelity(differences, products), rel=1e-10)
        unscaled = infidelity(at_input(model, x[i : i + 1], 1), values[i : i + 1], masks((x,), rows), 0.25, scaled=False)
        assert float(unscaled) == pytest.approx(np.mean((np.array(differences) - products) ** 2), rel=1e-10)


def test_infidelity_of_a_linear_model_is_zero_for_what_it_does_and_blind_to_scale():
    weights, x = torch.randn(1, 3, 9, 8).double(), torch.rand(2, 3, 9, 8).double()
    view = at_input(lambda x: (x * weights).sum((1, 2, 3)), x)
    steps = windows(view.features, (3, 5), 2)
    assert infidelity(view, weights * x, steps, 0.0).max() < 1e-20
    assert infidelity(view, -5 * weights * x, steps, 0.0).max() < 1e-20
    noise = torch.randn(2, 3, 9, 8).double()
    wrong = infidelity(view, noise, steps, 0.0)
    assert wrong.min() > 0.1
    torch.testing.assert_close(wrong, infidelity(view, 7 * noise, steps, 0.0))


def test_attributions_of_nothing_have_the_infidelity_of_saying_nothing():
    view = at_input(net(), torch.randn(2, 6).double(), 0)
    found = responses(view, torch.zeros(2, 6), masks(view.features, torch.eye(6).bool()), 0.0)
    torch.testing.assert_close(found.infidelity(), found.differences.square().mean(1))


def test_masks_of_texts():
    expected = [[int(i <= j < i + k) for j in range(7)] for k in range(1, 6) for i in range(1, 7 - k)]
    assert ngrams(7).int().tolist() == expected
    drawn = random_masks(250, seed=4)
    assert drawn.sum(1).tolist() == [int(250 * p / 100) for p in range(1, 6) for _ in range(40)]
    assert not drawn[:, [0, -1]].any()
    assert drawn[:, 1:-1].any(0).float().mean() > 0.95
    assert torch.equal(drawn, random_masks(250, seed=4))
    assert not torch.equal(drawn, random_masks(250, seed=5))


def test_masks_without_channels_and_windows_are_the_same_steps():
    view = at_input(lambda x: x.square().sum((1, 2, 3)), torch.randn(2, 3, 6, 6))
    steps = windows(view.features, (4,), 1)
    rows = steps.chosen(slice(None), torch.arange(9))[0][:, 0, 0]
    assert rows[4].nonzero().aminmax(dim=0).min.tolist() == [1, 1]
    found = [infidelity(view, torch.ones(2, 6, 6), s, 0.0) for s in (steps, masks(view.features, rows))]
    torch.testing.assert_close(*found)


# --- localisation ---------------------------------------------------------------------------------------------------------------


def test_overlap_is_its_definition():
    maps, truth = torch.randn(4, 6, 5), torch.rand(4, 6, 5) < 0.3
    found = overlap(maps, truth, 0.4)
    for i in range(4):
        marked, inside = maps[i] > 0.4 * maps[i].max(), truth[i]
        precision, recall = float((marked & inside).sum() / marked.sum()), float((marked & inside).sum() / inside.sum())
        wins = [(a > b) + 0.5 * (a == b) for a in maps[i][inside].tolist() for b in maps[i][~inside].tolist()]
        assert float(found.precision[i]) == pytest.approx(precision)
        assert float(found.recall[i]) == pytest.approx(recall)
        assert float(found.f1[i]) == pytest.approx(2 * precision * recall / (precision + recall + 1e-6))
        assert float(found.auc[i]) == pytest.approx(np.mean(wins))
        assert float(found.ap[i]) == pytest.approx(average_precision_score(inside.flatten(), maps[i].flatten()))


def test_the_true_place_is_found_and_a_random_map_is_not():
    truth = box_mask((2, 1, 5, 4), 8, 9)
    found = overlap(torch.stack([truth.float(), torch.rand(8, 9), -truth.float()]), truth[None])
    assert found.precision[0] == found.recall[0] == found.auc[0] == found.ap[0] == 1
    assert found.auc[1] < 1
    assert found.auc[2] == found.precision[2] == found.recall[2] == found.f1[2] == 0  # nothing positive, nothing marked


def test_a_constant_map_orders_nothing():
    truth = box_mask((0, 0, 2, 2), 4, 4)[None]
    found = overlap(torch.stack([torch.ones(4, 4), torch.zeros(4, 4)]), truth)
    assert found.auc.tolist() == [0.5, 0.5]
    assert found.ap.tolist() == [0.25, 0.25]
    assert found.precision.tolist() == [0.25, 0.0]
    assert found.recall.tolist() == [1.0, 0.0]


def test_point_games():
    values = np.random.default_rng(5).uniform(size=(1, 6, 8))
    truth = np.zeros((6, 8), bool)
    truth[1:4, 2:7] = True
    by_box, by_segmentation = PointGame().evaluate((2, 1, 7, 4), values, 0.5), PointGameSegmentation().evaluate(truth, values, 0.5)
    assert by_box == by_segmentation
    assert list(by_box) == ["precision", "recall", "f1_score", "auc_score", "ap_score"]
    assert by_box["auc_score"] == pytest.approx(roc_auc_score(truth.flatten(), values.flatten()))
    with pytest.warns(PellucidWarning, match="whole picture"):
        found = PointGame().evaluate((0, 0, 8, 6), values)
    assert np.isnan(found["auc_score"])
    assert found["precision"] == found["ap_score"] == 1


# --- texts ----------------------------------------------------------------------------------------------------------------------


class Tokenizer:
    pad_token_id = 0

    def __init__(self, *ids):
        self.ids = list(ids)

    def __call__(self, text, max_seq_len=128):
        return {"input_ids": list(self.ids)}


WORDS = (1, 17, 5, 23, 9, 28, 11, 14, 2)


@pytest.fixture
def text():
    return Text().double().eval()


def chance_of_ids(model, ids, label):
    with torch.no_grad():
        return float(model(torch.tensor([ids]))[0].softmax(0)[label])


@pytest.mark.parametrize("percentile", [False, True])
def test_perturbation_of_a_text_is_its_definition(text, percentile):
    relevance = np.random.default_rng(6).normal(size=9)
    relevance[4] = relevance[2]
    inner = relevance[1:-1]
    levels = np.percentile(inner, range(101)) if percentile else np.sort(inner)
    expected = {"MoRF": [list(WORDS)], "LeRF": [list(WORDS)]}
    for name, going in (("MoRF", levels[:100][::-1]), ("LeRF", levels[1:])):
        for level in going:
            beyond = relevance >= level if name == "MoRF" else relevance <= level
            expected[name].append([w if i in (0, 8) or not beyond[i] else 0 for i, w in enumerate(WORDS)])
    found = PerturbationNLP(text, "cpu").evaluate("words", relevance, Tokenizer(*WORDS), percentile=percentile, batch_size=4)
    with torch.no_grad():
        label = int(text(torch.tensor([WORDS])).argmax())
    for name, versions in expected.items():
        assert found[f"{name}_samples"][0].tolist() == versions
        probas = [chance_of_ids(text, ids, label) for ids in versions]
        np.testing.assert_allclose(found[f"{name}_probas"], probas, rtol=1e-10)
        assert found[f"{name}_score"] == pytest.approx(np.mean(probas))


def test_infidelity_of_a_text_is_its_definition(text):
    relevance = np.random.default_rng(7).normal(size=9)
    with torch.no_grad():
        label = int(text(torch.tensor([WORDS])).argmax())
    differences, products = [], []
    for size in range(1, 6):
        for start in range(1, 9 - size):
            changed = [0 if start <= i < start + size else w for i, w in enumerate(WORDS)]
            differences.append(chance_of_ids(text, WORDS, label) - chance_of_ids(text, changed, label))
            products.append(sum(r for r, a, b in zip(relevance, WORDS, changed, strict=True) if a != b))
    evaluator = InfidelityNLP(text)
    assert evaluator.evaluate("words", relevance, Tokenizer(*WORDS)) == pytest.approx(slow_infidelity(differences, products), rel=1e-8)
    assert evaluator.results["predict"]["label"] == label


def test_random_samples_of_a_long_text_repeat_with_their_seed():
    model = Text(length=60).double().eval()
    ids = [1, *np.random.default_rng(8).integers(3, 30, 58).tolist(), 2]
    relevance = np.random.default_rng(9).normal(size=60)
    first, again, other = (
        InfidelityNLP(model).evaluate("long", relevance, Tokenizer(*ids), is_random_samples=True, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again != other


def test_padding_behind_a_text_is_left_alone(text):
    padded, relevance = (1, 20, 7, 26, 2, 0, 0, 0, 0), np.arange(9.0)
    found = PerturbationNLP(text).evaluate("words", relevance, Tokenizer(*padded))
    assert found["MoRF_samples"][0].tolist() == [[*row, 0, 0, 0, 0] for row in
        ([1, 20, 7, 26, 2], [1, 20, 7, 0, 2], [1, 20, 0, 0, 2], [1, 0, 0, 0, 2])]  # fmt: skip
    assert InfidelityNLP(text).evaluate("words", relevance, Tokenizer(*padded)) >= 0
    one_word = PerturbationNLP(text).evaluate("word", relevance, Tokenizer(1, 20, 2, 0, 0, 0, 0, 0, 0))
    assert one_word["LeRF_samples"][0].tolist() == [[1, 20, 2, 0, 0, 0, 0, 0, 0]]  # InterpretDL skips the first step, and there is no other
    assert one_word["LeRF_score"] == one_word["LeRF_probas"][0]


def test_further_inputs_of_the_model_go_along(text):
    class Typed(nn.Module):
        def __init__(self):
            super().__init__()
            self.text = text

        def forward(self, ids, types):
            assert types.shape == ids.shape
            return self.text(ids) * (1 + types.double().mean(1, keepdim=True))

    class Both(Tokenizer):
        def __call__(self, text, max_seq_len=128):
            return {"input_ids": self.ids, "types": [1] * len(self.ids)}

    relevance = np.arange(9.0)
    found = PerturbationNLP(Typed()).evaluate("words", relevance, Both(*WORDS))
    with torch.no_grad():
        expected = [
            (2 * text(torch.tensor([row]))[0]).softmax(0)[text(torch.tensor([WORDS])).argmax()] for row in found["MoRF_samples"][0].tolist()
        ]
    np.testing.assert_allclose(found["MoRF_probas"], expected, rtol=1e-10)
    assert InfidelityNLP(Typed()).evaluate("words", relevance, Both(*WORDS)) > 0


# --- planted truth --------------------------------------------------------------------------------------------------------------


def corner(x):
    """Looks at a corner of the picture alone."""
    bright = x[:, :, 2:14, 3:15].mean((1, 2, 3))
    return torch.stack([3 * bright, 0 * bright], 1)


def test_the_true_map_beats_a_random_one():
    shown = picture(40, 48)
    shown[2:14, 3:15] = 250
    truth = np.zeros((40, 48))
    truth[2:14, 3:15] = np.random.default_rng(1).uniform(1, 2, (12, 12))
    random = np.random.default_rng(0).uniform(size=(40, 48))
    right, wrong = (
        {
            **Perturbation(corner).evaluate(shown, values),
            **DeletionInsertion(corner).evaluate(shown, values),
            "infidelity": Infidelity(corner).evaluate(shown, values),
            **PointGame().evaluate((3, 2, 15, 14), values),
        }
        for values in (truth, random)
    )
    assert all(right[name] < wrong[name] for name in ("MoRF_score", "deletion_score", "infidelity"))
    assert all(right[name] > wrong[name] for name in ("LeRF_score", "insertion_score", "auc_score", "ap_score", "f1_score"))


# --- the user's things, and calls one after another -----------------------------------------------------------------------------


def test_deletion_is_morf_and_one_side_alone_is_the_same(cnn):
    shown, relevance = picture(), np.random.default_rng(1).normal(size=(3, 20, 24)).astype(np.float32)
    both = {**Perturbation(cnn).evaluate(shown, relevance), **DeletionInsertion(cnn).evaluate(shown, relevance)}
    np.testing.assert_array_equal(both["MoRF_probas"], both["del_probas"])
    summed = Perturbation(cnn).evaluate(shown, np.abs(relevance).sum(0))
    np.testing.assert_array_equal(both["MoRF_probas"], summed["MoRF_probas"])
    for evaluator in (
        Perturbation(cnn, compute_MoRF=False),
        Perturbation(cnn, compute_LeRF=False),
        DeletionInsertion(cnn, compute_deletion=False),
        DeletionInsertion(cnn, compute_insertion=False),
    ):
        alone = evaluator.evaluate(shown, relevance)
        assert len(alone) == 3
        assert all(np.array_equal(value, both[name]) for name, value in alone.items())


def test_nothing_is_kept_between_calls(cnn):
    lime = {"segmentation": np.arange(480).reshape(20, 24) // 100, "lime_weights": {0: [(0, 0.3), (1, -0.2)]}}
    relevance = np.random.default_rng(1).normal(size=(20, 24))
    evaluator = DeletionInsertion(cnn)
    evaluator.evaluate(picture(seed=1), lime)
    after = evaluator.evaluate(picture(), relevance)
    assert after["deletion_score"] == DeletionInsertion(cnn).evaluate(picture(), relevance)["deletion_score"]
    large = [picture(40, 40, seed) for seed in (1, 2)]
    again, values = Infidelity(cnn), np.random.default_rng(1).normal(size=(40, 40))
    found = [again.evaluate(one, values) for one in large]
    assert found == [Infidelity(cnn).evaluate(one, values) for one in large]
    assert found[0] != found[1]


def test_the_model_stays_as_it_was():
    class Noisy(Cnn):
        def __init__(self):
            super().__init__()
            self.norm, self.drop = nn.BatchNorm2d(3), nn.Dropout(0.5)

        def forward(self, x):
            return super().forward(self.drop(self.norm(x)))

    model = Noisy().train()
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    shown, values = picture(40, 40), np.random.default_rng(0).uniform(size=(40, 40))
    first = (Perturbation(model).evaluate(shown, values)["LeRF_score"], Infidelity(model).evaluate(shown, values))
    assert first == (Perturbation(model).evaluate(shown, values)["LeRF_score"], Infidelity(model).evaluate(shown, values))
    assert model.training
    assert model.norm.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_calls_are_as_large_as_asked():
    seen = []

    def model(x):
        seen.append(len(x))
        return x.mean((2, 3))

    Perturbation(model).evaluate(picture(), picture().mean(2), batch_size=4)
    assert max(seen) <= 4
    assert sum(seen) < 60
    seen.clear()
    Infidelity(model).evaluate(picture(64, 64), picture(64, 64).mean(2), batch_size=10)
    assert max(seen) <= 10


def test_grey_pictures():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = DeletionInsertion(model).evaluate(picture()[..., 0], np.random.default_rng(0).normal(size=(1, 20, 24)))
    assert found["insertion_images"].shape == (21, 20, 24, 1)
    assert Infidelity(model).evaluate(picture(40, 36)[..., 0], torch.randn(40, 36)) >= 0


def test_files_and_coarse_maps(cnn, tmp_path):
    from PIL import Image

    Image.fromarray(picture(30, 45)).save(tmp_path / "picture.png")
    found = Perturbation(cnn).evaluate(str(tmp_path / "picture.png"), np.random.default_rng(0).uniform(size=(1, 5, 7)), resize_to=40)
    assert found["MoRF_images"].shape == (21, 40, 60, 3)
    assert Infidelity(cnn).evaluate(tmp_path / "picture.png", torch.rand(1, 1, 5, 7), resize_to=40, crop_to=36) >= 0


# --- what is refused ------------------------------------------------------------------------------------------------------------


FLAT = np.random.default_rng(0).uniform(size=(20, 24))
LIME = {"segmentation": np.zeros((20, 24), int), "lime_weights": {0: [(0, 1.0)]}}


@pytest.mark.parametrize(
    ("explanation", "limit", "says"),
    [
        (FLAT[:, 0], None, r"\(20,\).*\(H, W\) or \(3, H, W\)"),
        (np.ones((2, 20, 24)), None, r"\(2, 20, 24\)"),
        (FLAT.T, None, "rows first"),
        (np.full((20, 24), np.nan), None, "NaN"),
        ("map.png", None, "give an array of numbers"),
        (FLAT, 0, "at least one step"),
        ({"weights": {}}, None, "lime_results"),
        ({**LIME, "lime_weights": {}}, None, "lime_results"),
        ({**LIME, "segmentation": np.zeros((8, 8), int)}, None, r"\(8, 8\).*\(20, 24\)"),
        ({**LIME, "lime_weights": {0: [(0, 1.0), (4, 0.5)]}}, None, "group 4"),
        ({**LIME, "lime_weights": {0: [(0, 1.0), (0, 0.5)]}}, None, "twice"),
        (LIME, 1, "two pictures"),
    ],
)
def test_curves_refuse(explanation, limit, says):
    for evaluator in (Perturbation(corner), DeletionInsertion(corner)):
        with pytest.raises((InputError, OptionError), match=says):
            evaluator.evaluate(picture(), explanation, limit_number_generated_samples=limit)


def test_evaluators_refuse():
    with pytest.raises(OptionError, match="compute_MoRF and compute_LeRF"):
        Perturbation(corner, compute_MoRF=False, compute_LeRF=False)
    with pytest.raises(OptionError, match="compute_deletion"):
        DeletionInsertion(corner, "cpu", False, False)
    with pytest.raises(InputError, match="2 pictures"):
        Perturbation(corner).evaluate(np.stack([picture(), picture()]), FLAT)
    with pytest.raises(InputError, match="no window of"):
        Infidelity(corner).evaluate(picture(), FLAT)
    with pytest.raises(InputError, match="sum over the channels"):
        Infidelity(corner).evaluate(picture(40, 40), np.ones((3, 40, 40)))


@pytest.mark.parametrize("evaluator", [PerturbationNLP, InfidelityNLP])
def test_texts_refuse(text, evaluator):
    words = Tokenizer(*WORDS)
    for raw, relevance, tokenizer, says in (
        ("  ", np.ones(9), words, "empty"),
        ("no words", np.ones(2), Tokenizer(1, 2), "no token between"),
        ("only padding", np.ones(4), Tokenizer(0, 0, 0, 0), "no token between"),
        ("words", np.ones(7), words, r"\(7,\).*9 tokens"),
        ("words", np.ones((1, 9, 4)), words, r"\(9, 4\).*embedding"),
        ("words", np.full(9, np.inf), words, "infinite"),
    ):
        with pytest.raises(InputError, match=says):
            evaluator(text).evaluate(raw, relevance, tokenizer)
    without = Tokenizer(*WORDS)
    without.pad_token_id = None
    with pytest.raises(OptionError, match="pad_token_id"):
        evaluator(text).evaluate("words", np.ones(9), without)


def test_options_of_texts_are_refused(text):
    with pytest.raises(OptionError, match="compute_MoRF"):
        PerturbationNLP(text).evaluate("words", np.ones(9), Tokenizer(*WORDS), False, False)
    with pytest.raises(InputError, match="none at all"):
        InfidelityNLP(text).evaluate("words", np.ones(9), Tokenizer(*WORDS), is_random_samples=True)


@pytest.mark.parametrize(
    ("box", "says"),
    [((2, 1, 2, 4), "empty"), ((-1, 0, 3, 3), "beyond"), ((0, 0, 25, 3), "24 wide"), ((0, 0, 3), "four"), ((0, 0.5, 3, 3), "whole")],
)
def test_boxes_refuse(box, says):
    with pytest.raises(InputError, match=says):
        PointGame().evaluate(box, FLAT)


def test_localisation_refuses():
    for truth, says in (
        (np.ones((8, 8)), r"\(1, 8, 8\)"),
        (np.zeros((20, 24)), "nothing inside"),
        (np.full((20, 24), 255), "255"),
        (np.ones((2, 20, 24)), "one map"),
    ):
        with pytest.raises(InputError, match=says):
            PointGameSegmentation().evaluate(truth, FLAT)
    with pytest.raises(InputError, match="one map"):
        PointGame().evaluate((0, 0, 2, 2), np.ones((3, 20, 24)))
    with pytest.raises(InputError, match="NaN"):
        PointGame().evaluate((0, 0, 2, 2), np.full((20, 24), np.nan))
    with pytest.raises(OptionError, match="threshold is 25"):
        PointGame().evaluate((0, 0, 2, 2), FLAT, 25)


def test_metrics_refuse():
    x = torch.randn(2, 3, 4, 4)
    view = at_input(lambda x: x.sum((1, 2, 3)), x)
    flat = torch.rand(2, 4, 4)
    single = masks((x,), torch.ones(1, 4, 4).bool())
    for error, says, call in (
        (OptionError, "order is 'first'", lambda: deletion(view, flat, 0.0, order="first")),
        (OptionError, "steps is 0", lambda: deletion(view, flat, 0.0, 0)),
        (InputError, r"\(2, 5, 4\)", lambda: insertion(view, torch.rand(2, 5, 4), 0.0)),
        (InputError, "2 tensors of importance for 1", lambda: deletion(view, (flat, flat), 0.0)),
        (InputError, "could be meant", lambda: deletion(at_input(lambda x: x.sum((1, 2)), x[:, 0]), flat[:, 0], 0.0)),
        (InputError, "empty", lambda: in_order((x,), torch.zeros(1, 4, 4).long(), [])),
        (InputError, r"\(3, 1\) for 2 examples", lambda: in_order((x,), torch.zeros(1, 4, 4).long(), torch.zeros(3, 1).long())),
        (InputError, "2 tensors of groups for 1", lambda: in_order((x,), [torch.zeros(1, 4, 4).long()] * 2, [0])),
        (TargetError, "2 targets", lambda: deletion(at_input(lambda x: x.sum((1, 2, 3)), x, _two()), flat, 0.0)),
        (InputError, "whole batch", lambda: deletion(at_input(lambda x: x.sum(), x), flat, 0.0)),
        (InputError, "3 references", lambda: infidelity(view, flat, single, torch.zeros(3, *x.shape))),
        (InputError, "booleans", lambda: masks((x,), torch.ones(1, 4, 4))),
        (InputError, "one input", lambda: masks((x, x), torch.ones(1, 4, 4).bool())),
        (InputError, "no windows", lambda: windows((x[0],))),
        (OptionError, "at least 1 pixel", lambda: windows((x,), (0,))),
        (InputError, "2 tokens", lambda: ngrams(2)),
        (OptionError, "shares", lambda: random_masks(100, (1.5,))),
    ):
        with pytest.raises(error, match=says):
            call()


def _two():
    from pellucid.target import Several, Whole

    return Several((Whole(), Whole()))


# --- InterpretDL's own numbers --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def numbers():
    return np.load(Path(__file__).parent / "parity" / "interpretdl_numbers.npz")


def explained(numbers, name):
    """The picture and the explanation that were evaluated, and the limit."""
    limit = json.loads(str(numbers["meta"]))[name]["arguments"]["limit_number_generated_samples"]
    if "lime" in name:
        order = numbers["out/lime_cv/order"][0]
        weights = numbers["out/lime_cv/weights"][0]
        results = {"segmentation": numbers["in/lime_cv/segmentation"], "lime_weights": {0: [(int(i), float(weights[i])) for i in order]}}
        return numbers["in/picture_lime"], results, limit
    flat = np.abs(numbers["out/gradcam"][0])
    return numbers["in/pictures"][:1], flat if "coarse" in name else numbers["out/intgrad_cv_probability"][:1], limit


@pytest.mark.parametrize("case", ["", "_limit", "_coarse", "_lime", "_lime_limit"])
@pytest.mark.parametrize("name", ["perturbation", "deletion_insertion"])
def test_curves_are_interpretdls(numbers, name, case):
    shown, explanation, limit = explained(numbers, name + case)
    evaluator = {"perturbation": Perturbation, "deletion_insertion": DeletionInsertion}[name](load("cnn", numbers), "cpu")
    found = evaluator.evaluate(shown, explanation, batch_size=8, limit_number_generated_samples=limit)
    keys = [key.rpartition("/")[2] for key in numbers.files if key.startswith(f"out/{name}{case}/")]
    assert len(keys) == 4
    for key in keys:
        np.testing.assert_allclose(found[key], numbers[f"out/{name}{case}/{key}"], rtol=1e-5)


@pytest.mark.parametrize("case", ["", "_coarse"])
def test_infidelity_is_interpretdls(numbers, case):
    evaluator = Infidelity(load("cnn", numbers), "cpu")
    found = evaluator.evaluate(numbers["in/infidelity/picture"], numbers[f"in/infidelity{case}/explanation"])
    np.testing.assert_allclose(
        evaluator.results["proba_diff"], numbers[f"out/infidelity{case}/difference"], rtol=1e-4, atol=1e-5
    )  # Paddle's rounding
    np.testing.assert_allclose(found, numbers[f"out/infidelity{case}"], rtol=1e-4)


def test_infidelity_of_a_text_is_interpretdls(numbers):
    evaluator = InfidelityNLP(load("text", numbers), "cpu")
    found = evaluator.evaluate("nine tokens", numbers["in/infidelity_nlp/explanation"], Tokenizer(*WORDS))
    assert (ngrams(9).numpy() == numbers["out/infidelity_nlp/masked"]).all()
    np.testing.assert_allclose(evaluator.results["proba_diff"], numbers["out/infidelity_nlp/difference"], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found, numbers["out/infidelity_nlp"], rtol=1e-4)


@pytest.mark.parametrize("name", ["point_game", "point_game_segmentation"])
def test_point_games_are_interpretdls(numbers, name):
    values = numbers["in/point_game/map"]
    if name == "point_game":
        found = PointGame().evaluate((5, 3, 16, 11), values, threshold=0.6)
    else:
        found = PointGameSegmentation().evaluate(numbers["in/point_game_segmentation/truth"], values)
    for key, value in found.items():
        assert value == pytest.approx(float(numbers[f"out/{name}/{key}"]), rel=1e-12)
