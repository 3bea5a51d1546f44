"""Attributions before and after an attack: laws, slow oracles, a planted model whose reasons stay, pictures, refusals."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from rich.console import Console
from torch import nn

import pellucid
from pellucid import InputError, OptionError
from pellucid.robust import Moved, at_loss, attributions_moved, fgsm

from .models import Conv, Mlp, TwoInputs, assert_same_state, state_of


def images(channels=3, count=4):
    torch.manual_seed(2)
    return torch.rand(count, channels, 6, 8, dtype=torch.float64)


def classifier(channels=3, classes=3):
    torch.manual_seed(3)
    body = nn.Sequential(nn.Conv2d(channels, 5, 3, padding=1), nn.Tanh(), nn.Conv2d(5, 4, 3), nn.Tanh(), nn.Flatten())
    return nn.Sequential(body, nn.Linear(4 * 4 * 6, classes)).double().eval()


def attacked(model, x, epsilon=0.2):
    return fgsm(at_loss(model, x, model(x).argmax(1), nn.CrossEntropyLoss(reduction="none")), epsilon)[0]


@pytest.fixture
def moved():
    model, x = classifier(), images()
    return attributions_moved(model, x, None, attacked(model, x), "input_x_gradient", classes=["cat", "dog", "owl"])


# Laws


@pytest.mark.parametrize("method", ["integrated_gradients", "smoothgrad", "kernel_shap", "rise"])
def test_nothing_moves_where_nothing_is_attacked(method):
    model, x = classifier(), images()
    found = attributions_moved(model, x, 1, x, method, seed=4)
    assert torch.equal(found.before.attribution, found.after.attribution)
    assert found.largest.tolist() == found.length.tolist() == [0.0] * 4
    assert found.top_overlap.tolist() == [1.0] * 4
    torch.testing.assert_close(found.rank_correlation, torch.ones(4, dtype=torch.float64))
    assert not found.flipped.any()


def test_the_gradients_of_a_linear_model_stay_whatever_is_added():
    linear, curved = nn.Sequential(nn.Flatten(), nn.Linear(144, 3)).double(), classifier()
    for model, stays in ((linear, True), (curved, False)):
        found = attributions_moved(model, images(), 1, lambda x: x + torch.randn_like(x), "saliency")
        assert bool((found.rank_correlation > 1 - 1e-9).all()) == stays
        assert bool((found.top_overlap == 1).all()) == stays


def test_a_batch_equals_its_examples_one_by_one(moved):
    model, x = classifier(), images()
    for row in range(4):
        own = attributions_moved(model, x[row : row + 1], None, moved.attacked[0][row : row + 1], "input_x_gradient")
        for name in ("largest", "length", "flipped", "rank_correlation", "top_overlap"):
            torch.testing.assert_close(getattr(own, name)[0], getattr(moved, name)[row])


def test_everything_is_as_it_was():
    model, x = Conv().train(), torch.randn(2, 2, 6, 6)
    before, kept = state_of(model), x.clone()
    attributions_moved(model, x, 0, lambda x: x.add_(1), "integrated_gradients", steps=3)
    assert_same_state(before, state_of(model))
    assert torch.equal(x, kept)


# Oracles


def test_numbers_by_hand(moved):
    x, other = images(), moved.attacked[0]
    change = (other - x).flatten(1).numpy()
    np.testing.assert_allclose(moved.largest, np.abs(change).max(1))
    np.testing.assert_allclose(moved.length, np.sqrt((change**2).sum(1)))
    assert moved.largest.tolist() == pytest.approx([0.2] * 4)
    model = classifier()
    assert moved.flipped.tolist() == (model(x).argmax(1) != model(other).argmax(1)).tolist()
    for row in range(4):
        one, two = (each.attribution[row].sum(0).flatten().numpy() for each in (moved.before, moved.after))  # of pixels, not of colours
        assert float(moved.rank_correlation[row]) == pytest.approx(scipy.stats.spearmanr(one, two).statistic)
        best = [set(np.argsort(-np.abs(values))[:10].tolist()) for values in (one, two)]
        assert float(moved.top_overlap[row]) == pytest.approx(len(best[0] & best[1]) / 10)


def test_attributions_are_those_of_explain(moved):
    model, x = classifier(), images()
    said = model(x).argmax(1)
    for points, own in ((x, moved.before), (moved.attacked[0], moved.after)):
        assert torch.equal(own.attribution, pellucid.explain(model, points, said, "input_x_gradient").attribution)


def test_another_target_after():
    model, x = classifier(), images()
    found = attributions_moved(model, x, 0, x + 0.1, "input_x_gradient", after=2)
    assert torch.equal(found.after.attribution, pellucid.explain(model, x + 0.1, 2, "input_x_gradient").attribution)
    assert found.explained(1) == ("output 0", "output 2")


def test_what_is_explained_of_an_example(moved):
    said = classifier()(images()).argmax(1)
    for row in range(4):
        name = f"output {said[row]} ({['cat', 'dog', 'owl'][said[row]]})"
        assert moved.explained(row) == (name, name)


def test_several_inputs():
    torch.manual_seed(0)
    model, x = TwoInputs(), (torch.randn(3, 4), torch.randn(3, 3))
    other = (x[0] + 0.5, x[1] - torch.tensor([0.0, 0.0, 2.0]))
    for given in (other, lambda both: tuple(o.clone() for o in other)):
        found = attributions_moved(model, x, 1, given, "input_x_gradient", args=(torch.rand(3, 1),), k=100)
        torch.testing.assert_close(found.largest, torch.full((3,), 2.0))
        torch.testing.assert_close(found.length, torch.full((3,), math.sqrt(4 * 0.25 + 4)))
        assert (found.k, found.top_overlap.tolist()) == (7, [1.0] * 3)
        assert found.draw(2) is not None


def test_whole_numbers():
    words = torch.tensor([[3, 200, 7, 1]], dtype=torch.uint8)
    model = lambda ids: torch.stack([ids.float().sum(1), -ids.float()[:, 0]], 1)  # noqa: E731
    found = attributions_moved(model, words, 0, words.flip(1), "feature_ablation")
    assert float(found.largest) == 193
    assert found.change[0].tolist() == [[-2, -193, 193, 2]]
    assert found.draw() is not None


def test_words_are_compared_and_not_their_embeddings():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(5 * 8, 2)).double()
    x = torch.randn(1, 5, 8, dtype=torch.float64)
    found = attributions_moved(model, x, 0, x + torch.randn_like(x), "input_x_gradient", names=["the", "film", "was", "not", "bad"], k=2)
    one, two = (each.attribution[0].sum(1).numpy() for each in (found.before, found.after))
    assert float(found.rank_correlation) == pytest.approx(scipy.stats.spearmanr(one, two).statistic)
    figure = found.draw()
    labels = [tick.get_text() for tick in figure.axes[1].get_yticklabels()]
    order = np.argsort(-np.maximum(np.abs(one), np.abs(two)), kind="stable")
    assert labels == [["the", "film", "was", "not", "bad"][i] for i in order]
    added = (found.attacked[0] - x)[0].norm(dim=1).numpy()
    np.testing.assert_allclose([bar.get_width() for bar in figure.axes[1].patches], added[order])


def test_attributions_that_are_not_finite_have_no_agreement():
    model, x = Mlp().double(), torch.randn(3, 5, dtype=torch.float64)
    found = attributions_moved(model, x, 0, x + 0.1, "input_x_gradient")
    broken = found.after.attribution.clone()
    broken[1, 2] = torch.nan
    found = replace(found, after=replace(found.after, attributions=(broken,)))
    for numbers in (found.rank_correlation, found.top_overlap):
        assert numbers.isnan().tolist() == [False, True, False]
    assert any("1 attributions are NaN" in text.get_text() for text in found.draw(1).texts)


def test_a_model_without_classes():
    model, x = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), torch.randn(3, 4)
    found = attributions_moved(model, x, None, x + 1, "input_x_gradient")
    assert found.flipped is None
    assert found.draw().texts[0].get_text().startswith("score ")
    assert "changed" not in repr(found)


# What is shown


def titles(figure):
    return [axes.get_title() for axes in figure.axes]


def test_five_pictures(moved):
    figure = moved.draw(2)
    figure.draw_without_rendering()
    before, change, after = (axes.images[0].get_array() for axes in figure.axes[:3])
    x, other = (tensor[0][2].permute(1, 2, 0).numpy() for tensor in (moved.inputs, moved.attacked))
    low, high = min(x.min(), other.min()), max(x.max(), other.max())
    scale = (0.0, 1.0) if low >= 0 and high <= 1 else (low, high - low)
    factor = int(titles(figure)[1].split()[2])
    most = np.abs(other - x).max() / scale[1]
    assert factor * most <= 0.5 < 2.5 * factor * most  # the next rounder factor would be too large
    for shown, values in ((before, (x - scale[0]) / scale[1]), (after, (other - scale[0]) / scale[1])):
        assert np.abs(shown.astype(int) - 255 * values).max() < 1.01
    assert np.abs(change.astype(int) - 255 * (0.5 + factor * (other - x) / scale[1])).max() < 1.01
    heads = [title.split("\n")[0] for title in titles(figure)]
    assert heads[:5] == ["before", f"change × {factor}", "after", "attribution before", "attribution after"]
    assert titles(figure)[0].split("\n")[1].split()[0] in ("cat", "dog", "owl")
    assert "rank correlation" in figure.texts[1].get_text()
    assert "example 3 of 4" in figure.texts[1].get_text()


def test_both_maps_are_on_one_scale():
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).double(), images(1)
    found = attributions_moved(model, x, 0, 2 * x, "input_x_gradient")  # of a linear model twice as much
    both = [axes.images[0].get_array() for axes in found.draw(0, outliers=0).axes[3:5]]
    stronger = np.ptp(both[1], axis=2) >= np.ptp(both[0], axis=2) - 0.02
    assert stronger.mean() > 0.95
    assert not np.allclose(both[0], both[1])


def test_a_picture_that_nothing_was_added_to():
    found = attributions_moved(classifier(), images(), 0, images(), "input_x_gradient")
    assert titles(found.draw())[1].strip() == "no change"


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_layers(channels):
    model, x = classifier(channels), images(channels)
    found = attributions_moved(model, x, 0, x + 0.1, "input_x_gradient", layer=model[0][2])
    assert found.before.attribution.shape == (4, 4, 4, 6)
    assert found.largest.tolist() == pytest.approx([0.1] * 4)
    assert len(found.draw().axes) == 6


@pytest.mark.parametrize("shape", [(7,), (3, 20), (2, 3, 2, 2), (40,)])
def test_bars_of_what_is_no_picture(shape):
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 3)), torch.randn(2, *shape)
    found = attributions_moved(model, x, 1, x + 0.25, "input_x_gradient")
    figure = found.draw(1, top=6)
    bars, changes = figure.axes[0].patches, figure.axes[1].patches
    assert len(bars) == 12
    assert [bar.get_width() for bar in changes] == pytest.approx([0.25] * 6, abs=1e-5)
    one, two = (each.attribution[1].flatten().double().numpy() for each in (found.before, found.after))
    order = np.argsort(-np.maximum(np.abs(one), np.abs(two)), kind="stable")[:6]
    np.testing.assert_allclose([bar.get_width() for bar in bars], np.concatenate([one[order], two[order]]))
    assert any(f"{math.prod(shape) - 6} weaker one" in text.get_text() for text in figure.texts)


def test_names_of_columns():
    x = torch.randn(1, 3)
    found = attributions_moved(nn.Linear(3, 2), x, 1, x + 1, "input_x_gradient", names=["age", "height", "weight"])
    assert {tick.get_text() for tick in found.draw().axes[1].get_yticklabels()} == {"age", "height", "weight"}


def test_what_is_printed(moved):
    assert repr(moved).startswith("Moved(input x gradient of 4 examples; ")
    console = Console(width=90, record=True, file=io.StringIO())
    console.print(moved)
    lines = console.export_text().splitlines()
    assert ["#", "before", "after", "L-inf", "L2", "ranks", "top-10"] in [line.split() for line in lines]
    assert sum(line[:1].isdigit() for line in lines) == 4
    many = attributions_moved(nn.Linear(3, 2), torch.randn(30, 3), 0, torch.randn(30, 3), "saliency")
    console.print(many)
    assert "the first 20 of 30 examples" in console.export_text()


def test_it_is_a_record(moved):
    assert isinstance(moved, Moved)
    assert len(moved) == 4
    with pytest.raises(AttributeError):
        moved.k = 3


# Refusals


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda m, x: attributions_moved(m, x, 0, x[:2]), InputError, r"attacked has the shapes \[\(2, 3, 6, 8\)\]"),
        (lambda m, x: attributions_moved(m, x, 0, lambda x: None), InputError, "attacked must be a tensor"),
        (lambda m, x: attributions_moved(m, x, 0, x * torch.nan), InputError, "attacked of shape .* NaN"),
        (lambda m, x: attributions_moved(m, x, 0, x, k=0), OptionError, "k is 0"),
        (lambda m, x: attributions_moved(m, x, 0, x, "magic"), OptionError, "magic"),
        (lambda m, x: attributions_moved(m, x, 0, x, "saliency").draw(4), InputError, "example=4 is not one of the 4 examples"),
        (lambda m, x: attributions_moved(m, x, 0, x, "saliency").draw(top=3), OptionError, "no option 'top'; it has width, outliers"),
        (lambda m, x: attributions_moved(m, x, 0, x, "saliency").draw(width=3), OptionError, "width=3 leaves no room"),
    ],
)
def test_refused(make, error, words):
    with pytest.raises(error, match=words):
        make(classifier(), images())


def test_refused_bars():
    found = attributions_moved(nn.Linear(3, 2), torch.randn(2, 3), 0, torch.randn(2, 3), "saliency")
    with pytest.raises(OptionError, match="top=0 shows no bar"):
        found.draw(top=0)
    with pytest.raises(OptionError, match="width=2 leaves no room"):
        found.draw(width=2)
