"""`evaluate`: its numbers are those of the metrics by themselves, each set of removed places is scored once, failures stay apart."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import wilcoxon
from torch import nn

import pellucid
from pellucid import InputError, OptionError, evaluate, metrics
from pellucid.evaluation import METRICS
from pellucid.evaluation.case import _copies, _rows

METHODS = ["integrated_gradients", "saliency", "input_x_gradient", "guided_backprop", "occlusion"]


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 4)).double().eval()
    return model, torch.randn(5, 2, 6, 6).double(), [0, 1, 2, 3, 1]


@pytest.fixture(scope="module")
def whole(case):
    model, x, y = case
    truth = torch.zeros(5, 6, 6, dtype=torch.bool)
    truth[:, 1:4, 2:5] = True
    return evaluate(model, x, y, METHODS, list(METRICS), truth=truth, seed=3, strict=True)


def test_every_metric_of_every_method_is_there(whole):
    assert whole.methods == (*METHODS, "random", "constant")
    assert whole.metrics == tuple(METRICS)
    for method in METHODS:
        for metric in METRICS:
            values = whole.scores[method, metric]
            assert values.shape == (5,)
            assert values.dtype == torch.float64
            assert values.isfinite().all(), (method, metric)
    assert not whole.failures


@torch.no_grad()
def curve_by_hand(model, x, y, maps, portions, removed, first):
    found = []
    for i, target in enumerate(y):
        order = torch.empty(36, dtype=torch.long)
        order[maps[i].flatten().argsort(descending=True)] = torch.arange(36)
        scores = [float(model(x[i : i + 1])[0, target])] if first else []
        for k in portions:
            hole = removed(order, round(36 * k / 20)).view(6, 6)
            scores.append(float(model(torch.where(hole, 0.0, x[i])[None])[0, target]))
        found.append(np.mean(scores if first else [*scores, float(model(x[i : i + 1])[0, target])]))
    return torch.tensor(found)


def test_the_numbers_are_those_of_the_metrics_alone(case, whole):
    model, x, y = case
    view = pellucid.at_input(model, x, y)
    for method in ("integrated_gradients", "saliency"):
        explained = pellucid.explain(model, x, y, method)
        values = explained.attribution
        sums = values.sum(1, keepdim=True) if method != "saliency" else values.norm(dim=1, keepdim=True)
        alone = {
            "deletion": curve_by_hand(model, x, y, sums, range(1, 21), lambda order, k: order < k, first=True),
            "insertion": curve_by_hand(model, x, y, sums, range(20), lambda order, k: order >= k, first=False),
            "road": metrics.road(view, sums, seed=3),
            "comprehensiveness": metrics.comprehensiveness(view, sums),
            "sufficiency": metrics.sufficiency(view, sums),
            "sensitivity_n": metrics.sensitivity_n(view, sums, samples=50, seed=3).mean(1),
            "infidelity": metrics.infidelity(view, sums, metrics.random_subsets((sums,), 0.1, 100, 3), 0.0, once=True),
            "sparseness": metrics.sparseness(sums),
        }
        for metric, expected in alone.items():
            torch.testing.assert_close(whole.scores[method, metric], expected.double(), msg=f"{method} {metric}")
    ig = pellucid.explain(model, x, y, "integrated_gradients")
    gap = metrics.completeness(ig.attribution, ig.scores, ig.baseline_scores, relative=True)
    torch.testing.assert_close(whole.scores["integrated_gradients", "completeness"], gap)


def test_sensitivity_asks_each_example_with_its_own_target(case, whole):
    model, x, y = case

    def explained(points, count):
        return pellucid.explain(model, points[0], [t for t in y for _ in range(count)], "saliency").attributions

    torch.testing.assert_close(whole.scores["saliency", "max_sensitivity"], metrics.max_sensitivity(explained, x, 0.02, 10, 3))


def test_rows_come_back_in_their_order():
    rows = torch.arange(12.0).view(6, 2)  # three examples, twice each
    assert torch.equal(_rows(_copies(rows, 2), 2), rows)
    assert _copies(rows, 2)[:, 0].tolist() == [0, 4, 8, 2, 6, 10]


def test_randomisation_finds_guided_backprop_and_localisation_uses_the_truth(whole):
    other = max(whole.mean(method, "random_logit") for method in ("integrated_gradients", "input_x_gradient"))
    assert whole.mean("guided_backprop", "random_logit") > other
    assert 0 <= whole.mean("saliency", "relevance_mass") <= 1
    assert whole.mean("constant", "relevance_mass") == pytest.approx(9 / 36)


def test_each_set_of_places_is_scored_once_for_all():
    """16 images, five methods, deletion and insertion: as many forwards as distinct sets of places, and those of settling."""
    torch.manual_seed(0)
    seen = []

    class Counting(nn.Module):
        def forward(self, x):
            seen.append(x.detach().clone())
            return x.flatten(1) @ torch.linspace(-1, 1, 36).double().view(36, 1).expand(36, 2)

    x = torch.rand(16, 1, 6, 6).double() + 0.5
    maps = {str(i): torch.rand(16, 1, 6, 6).double() for i in range(4)} | {"again": None}
    maps["again"] = maps["0"] * 2
    model = Counting()
    own = {name: (lambda model, inputs, target, m=m: m) for name, m in maps.items()}
    found = evaluate(model, x, [0] * 16, own, {"deletion": {"steps": 9}, "insertion": {"steps": 9}}, controls=(), seed=0)
    assert not found.failures
    distinct = {row.numpy().tobytes() for points in seen for row in points}
    expected = set()
    for m in maps.values():
        for i in range(16):
            order = m[i].flatten().argsort(descending=True).argsort().view(1, 6, 6)
            for k in range(10):
                for removed in (order < 4 * k, order >= 4 * k):
                    expected.add(torch.where(removed, 0.0, x[i]).numpy().tobytes())
    assert expected <= distinct
    # besides: the output that says whether there are classes, and the pair that settles whether examples share a call
    assert found.removed.forwards <= len(expected) + 6 * 16
    assert found.removed.forwards < 16 * 5 * 18


def test_own_functions_controls_and_options(case):
    captum = pytest.importorskip("captum.attr")
    model, x, y = case
    own = {
        "captum": lambda model, inputs, target: captum.Saliency(model).attribute(inputs, target=target, abs=False),
        "short": ("integrated_gradients", {"steps": 3}),
        "gradient": {},
    }
    found = evaluate(model, x, y, own, ["deletion"], controls=("random",), seed=0)
    assert found.methods == ("captum", "short", "gradient", "random")
    assert not found.failures
    assert found.controls == ("random",)
    values = captum.Saliency(model).attribute(x, target=torch.tensor(y), abs=False).sum(1)
    expected = curve_by_hand(model, x, y, values, range(1, 21), lambda order, k: order < k, first=True)
    torch.testing.assert_close(found.scores["captum", "deletion"], expected)


def test_the_predicted_class_where_no_target_is_given(case):
    model, x, _ = case
    found = evaluate(model, x, methods=["saliency"], metrics=["deletion"], controls=(), seed=0)
    best = model(x).argmax(1).tolist()
    expected = evaluate(model, x, best, ["saliency"], ["deletion"], controls=(), seed=0)
    torch.testing.assert_close(found.scores["saliency", "deletion"], expected.scores["saliency", "deletion"])


def test_class_activation_maps_and_attention_are_told_apart(case):
    model, x, y = case
    found = evaluate(
        model, x, y, {"grad_cam": {"layer": model[1]}}, ["deletion", "parameter_randomisation"], controls=(), seed=0, strict=True
    )
    assert found.scores["grad_cam", "deletion"].isfinite().all()
    with pytest.raises(OptionError, match="is of a layer"):
        evaluate(model, x, y, ["grad_cam"], ["deletion"])
    with pytest.raises(OptionError, match="tokens inside the model"):
        evaluate(model, x, y, ["rollout"], ["deletion"])


def test_several_inputs_extra_arguments_and_tables():
    torch.manual_seed(0)
    net = nn.Linear(7, 3).double()

    def model(a, b, scale):
        return net(torch.cat([a, b], 1)) * scale

    a, b, scale = torch.randn(4, 3).double(), torch.randn(4, 4).double(), torch.rand(4, 1).double()
    found = evaluate(model, (a, b), [0, 1, 2, 0], ["input_x_gradient"], ["deletion", "max_sensitivity"], args=(scale,), seed=0)
    for i in range(4):
        one = evaluate(model, (a[i : i + 1], b[i : i + 1]), [i % 3], ["input_x_gradient"], ["deletion", "max_sensitivity"],
                       args=(scale[i : i + 1],), seed=0)  # fmt: skip
        for metric in found.metrics:
            torch.testing.assert_close(found.scores["input_x_gradient", metric][i : i + 1], one.scores["input_x_gradient", metric])


def test_means_intervals_ranks_and_tests(whole):
    values = whole.scores["saliency", "deletion"]
    assert whole.mean("saliency", "deletion") == pytest.approx(float(values.mean()))
    low, high = whole.interval("saliency", "deletion")
    means = np.random.default_rng(1).choice(values.numpy(), (20000, 5)).mean(1)
    assert [low, high] == pytest.approx(np.quantile(means, [0.025, 0.975]).tolist(), abs=0.1 * (high - low))
    ranks = whole.ranks("deletion")
    assert min(ranks, key=ranks.get) == min(whole.methods, key=lambda m: whole.mean(m, "deletion"))
    assert whole.ranks("consensus") == {}
    chance = whole.against("insertion")["saliency"]
    differences = (whole.scores["saliency", "insertion"] - whole.scores["random", "insertion"]).numpy()
    assert chance == pytest.approx(wilcoxon(differences, alternative="greater").pvalue)
    assert set(whole.against("deletion")) == set(METHODS)
    assert len(whole.table()) == 7 * len(METRICS)


def test_truth_is_above_the_controls_on_a_planted_model():
    torch.manual_seed(0)
    weights = torch.zeros(30).double()
    weights[:6] = torch.tensor([3.0, 2.0, 1.5, 2.5, 1.0, 2.0])
    x = torch.rand(12, 30).double() + 0.5
    asked = [m for m, metric in METRICS.items() if metric.family == "faithfulness" and m not in ("road", "monotonicity")]
    found = evaluate(lambda x: (x @ weights)[:, None], x, 0, {"truth": lambda *_: x * weights}, asked, seed=0, strict=True)
    for metric in asked:
        better = 1 if METRICS[metric].better == "high" else -1
        for control in found.controls:
            other = found.mean(control, metric)
            assert math.isnan(other) or better * (found.mean("truth", metric) - other) > 0, (metric, control)
        assert found.against(metric)["truth"] < 0.01


def test_failures_are_told_and_the_rest_goes_on(case):
    model, x, y = case

    def broken(model, inputs, target):
        raise ValueError("no such luck")

    found = evaluate(model, x, y, {"broken": broken, "saliency": {}}, ["deletion", "pointing_game"], controls=(), seed=0)
    assert found.failures["broken", ""] == "ValueError: no such luck"
    assert "give truth=" in found.failures["saliency", "pointing_game"]
    assert found.scores["saliency", "deletion"].isfinite().all()
    assert found.scores["broken", "deletion"].isnan().all()
    with pytest.raises(ValueError, match="no such luck"):
        evaluate(model, x, y, {"broken": broken}, ["deletion"], strict=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metrics": ["deletoin"]}, "no metric 'deletoin'"),
        ({"metrics": {"deletion": {"step": 3}}}, "deletion has no option 'step'"),
        ({"metrics": []}, "metrics is empty"),
        ({"methods": []}, "methods is empty"),
        ({"methods": ["saliency", "saliency"]}, "comes twice"),
        ({"controls": ["zeros"]}, "no control 'zeros'"),
        ({"methods": [lambda x: x]}, "takes \\(model, inputs, target\\)"),
        ({"methods": ["nothing_like_it"]}, "nothing_like_it"),
    ],
)
def test_refusals(case, options, words):
    model, x, y = case
    with pytest.raises(OptionError, match=words):
        evaluate(model, x, y, **({"controls": ()} | options))


def test_more_refusals(case, whole):
    model, x, y = case
    with pytest.raises(InputError, match="truth has 3 entries"):
        evaluate(model, x, y, ["saliency"], ["pointing_game"], truth=torch.ones(3, 6, 6))
    with pytest.raises(InputError, match="2 fill for 1 inputs"):
        evaluate(model, x, y, ["saliency"], ["deletion"], fill=(0.0, 1.0))
    with pytest.raises(InputError, match="returned the shapes"):
        evaluate(model, x, y, {"own": lambda m, x, t: x[:2]}, ["deletion"], strict=True)
    with pytest.raises(OptionError, match="no picture"):
        whole.draw("bars")
    with pytest.raises(OptionError, match="level is 95"):
        whole.interval("saliency", "deletion", 95)
    with pytest.raises(OptionError, match="was not evaluated"):
        whole.mean("lime", "deletion")
    with pytest.raises(OptionError, match="nothing to test"):
        whole.against("consensus")


def test_it_is_repeatable_and_leaves_model_and_randomness_alone(case, whole):
    model, x, y = case
    before, state, hooks = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state(), dict(model._forward_hooks)
    again = evaluate(model, x, y, ["saliency"], ["deletion", "max_sensitivity", "parameter_randomisation"], seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert dict(model._forward_hooks) == hooks
    for metric in again.metrics:
        torch.testing.assert_close(again.scores["saliency", metric], whole.scores["saliency", metric])


def test_pictures_words_and_files(whole, tmp_path):
    figure = whole.draw()
    texts = [t.get_text() for t in figure.axes[0].texts]
    assert any("road" in t for t in texts)
    curves = whole.draw("curves")
    assert [line.get_label() for line in curves.axes[0].lines] == list(whole.methods)
    np.testing.assert_allclose(curves.axes[0].lines[0].get_ydata(), whole.curves["integrated_gradients", "deletion"].mean(0))
    assert whole.markdown().count("\n") == 1 + len(whole.methods)
    assert "<table" in whole._repr_html_()
    saved = json.loads(whole.save(tmp_path / "e.json").read_text())
    assert saved["scores"]["saliency"]["deletion"] == pytest.approx(whole.scores["saliency", "deletion"].tolist())
    assert repr(whole) == f"Evaluation(7 methods x {len(METRICS)} metrics, 5 examples)"


# --- what a reviewer found


def linear(outputs=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, outputs)).double()


class SeesTheBatch(nn.Module):
    """Every example takes part in the score of every other."""

    def __init__(self):
        super().__init__()
        self.net = linear()

    def forward(self, x):
        h = self.net(x)
        return h - h.mean(0)


def test_examples_that_see_each_other_are_scored_batch_by_batch():
    model, x = SeesTheBatch(), torch.randn(4, 6).double()
    view, maps = pellucid.at_input(model, x, [0, 1, 2, 0]), torch.randn(4, 6).double()
    alone = metrics.deletion(view, maps, None, 5).scores
    torch.testing.assert_close(metrics.deletion(view, maps, None, 5, run=metrics.Shared()).scores, alone)
    found = evaluate(model, x, [0, 1, 2, 0], ["gradient"], {"local_lipschitz": {"radius": 1e-4}}, controls=(), seed=0, strict=True)
    assert float(found.scores["gradient", "local_lipschitz"].max()) < 10


@pytest.mark.parametrize("target", [lambda o: o[:, 0] - o[:, 0].mean(), lambda o: o.softmax(0)[:, 0]])
def test_a_target_that_looks_at_the_batch_is_no_row_by_itself(target):
    x, net = torch.randn(4, 6).double(), linear()
    wrapped = nn.ModuleList([net])[0].forward  # a callable in which nobody sees the layers
    maps = torch.randn(4, 6).double()
    for view in (pellucid.at_input(net, x, target), pellucid.at_input(wrapped, x, target)):
        scores = metrics.deletion(view, maps, None, 3).scores
        expected = [
            target(net(torch.where(maps > torch.tensor(np.percentile(maps, p, axis=1))[:, None], 0.0, x))) for p in (200 / 3, 100 / 3, 0)
        ]
        torch.testing.assert_close(scores, torch.stack([target(net(x)), *expected], 1).detach())


def test_baselines_of_each_example_go_along_and_others_are_refused():
    x, net = torch.randn(4, 6).double(), linear()
    per_example = torch.randn(4, 6).double()
    found = evaluate(net, x, 0, ["integrated_gradients"], ["max_sensitivity"], baselines=per_example, controls=(), seed=0, strict=True)

    def explained(points, count):
        return pellucid.explain(net, points[0], 0, "integrated_gradients", baselines=per_example.repeat_interleave(count, 0)).attribution

    torch.testing.assert_close(found.scores["integrated_gradients", "max_sensitivity"], metrics.max_sensitivity(explained, x, 0.02, 10, 0))
    with pytest.raises(InputError):
        evaluate(net, x, 0, ["integrated_gradients"], ["completeness"], baselines=per_example[:2], strict=True)


def test_distributions_of_baselines_are_never_repeated():
    x, net = torch.randn(4, 6).double(), linear()
    torch.manual_seed(1)
    references = torch.randn(20, 6).double()
    stable = {"gs": ("gradient_shap", {"samples": 20})}
    values = [
        float(evaluate(net, x, 0, stable, ["max_sensitivity"], baselines=references[:n], controls=(), seed=0).mean("gs", "max_sensitivity"))
        for n in (9, 10, 11, 20)
    ]
    assert max(values) < 4 * min(values)


def test_own_methods_get_copies_and_leave_nothing_behind():
    net, x = linear(), torch.randn(4, 6).double()
    kept = x.clone()

    def gradient(model, inputs, target):
        inputs.requires_grad_()
        model(inputs)[:, target].sum().backward()
        return inputs.grad

    def rude(model, inputs, target):
        return inputs.mul_(0) + 1

    found = evaluate(net, x, 0, {"one": gradient, "two": gradient, "rude": rude}, ["completeness"], controls=(), seed=0, strict=True)
    expected = pellucid.explain(net, x, 0, "gradient").attribution
    alone = metrics.completeness_of(pellucid.at_input(net, x, 0), expected, relative=True)
    for name in ("one", "two"):
        torch.testing.assert_close(found.scores[name, "completeness"], alone)
    assert torch.equal(x, kept)
    assert all(p.grad is None for p in net.parameters())


def test_pooled_maps_count_a_place_once():
    """A model of colours that is linear: exact attributions correlate fully, also where some channels are the fill already."""
    torch.manual_seed(0)
    weights = torch.randn(3, 4, 4).double()
    x = torch.randn(5, 3, 4, 4).double() * (torch.rand(5, 3, 4, 4) > 0.4)
    asked = ["faithfulness_correlation", "sensitivity_n", "infidelity"]
    found = evaluate(
        lambda x: (x * weights).flatten(1).sum(1)[:, None], x, 0, ["input_x_gradient"], asked, controls=(), seed=0, strict=True
    )
    assert found.mean("input_x_gradient", "faithfulness_correlation") == pytest.approx(1)
    assert found.mean("input_x_gradient", "sensitivity_n") == pytest.approx(1)
    assert found.mean("input_x_gradient", "infidelity") == pytest.approx(0, abs=1e-9)


def test_shared_arguments_stay_shared_and_own_methods_get_them():
    torch.manual_seed(0)
    table = torch.randn(4, 6).double()

    def model(points, table):
        return (-(points[:, None] - table).square().sum(2)).exp().sum(1, keepdim=True)

    x = torch.randn(4, 6).double()
    given = evaluate(model, x, 0, ["gradient"], ["local_lipschitz"], args=(table,), controls=(), seed=0, strict=True)
    closed = evaluate(lambda x: model(x, table), x, 0, ["gradient"], ["local_lipschitz"], controls=(), seed=0, strict=True)
    torch.testing.assert_close(given.scores["gradient", "local_lipschitz"], closed.scores["gradient", "local_lipschitz"])
    own = evaluate(model, x, 0, {"own": lambda m, p, t: m(p) * p}, ["deletion"], args=(table,), controls=(), seed=0, strict=True)
    assert own.scores["own", "deletion"].isfinite().all()


def test_a_constant_map_removes_in_any_order_and_ties_are_fair():
    x = torch.arange(1.0, 11.0)[None].double()
    found = evaluate(lambda x: x.sum(1)[:, None], x, 0, {"reversed": lambda m, p, t: -p, "true": lambda m, p, t: p}, ["deletion"], seed=0)
    assert found.mean("true", "deletion") < found.mean("constant", "deletion") < found.mean("reversed", "deletion")
    assert found.curves["constant", "deletion"][0, -1] == 0


def test_outputs_with_fields_have_classes():
    net, x = linear(), torch.randn(4, 6).double()

    class Fields(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return {"logits": self.net(x)}

    asked = ["deletion", "random_logit"]
    for target in (None, -1):
        found = evaluate(Fields(), x, target, ["gradient"], asked, controls=(), seed=0, strict=True)
        plain = evaluate(net, x, target, ["gradient"], asked, controls=(), seed=0, strict=True)
        for metric in asked:
            torch.testing.assert_close(found.scores["gradient", metric], plain.scores["gradient", metric])


def test_road_is_shared_too_and_every_cost_counts():
    torch.manual_seed(0)
    seen = []

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))

        def forward(self, x):
            seen.append(len(x))
            return self.net(x)

    maps = torch.rand(3, 1, 6, 6)
    own = {name: (lambda model, inputs, target: maps) for name in "ab"}
    once = evaluate(Counting(), maps, 0, {"a": own["a"]}, ["road"], controls=(), seed=0, strict=True).removed.forwards
    twice = evaluate(Counting(), maps, 0, own, ["road"], controls=(), seed=0, strict=True)
    assert twice.removed.forwards == once
    seen.clear()
    found = evaluate(Counting(), maps, 0, ["gradient"], ["max_sensitivity", "deletion", "random_logit"], controls=(), seed=0, strict=True)
    measured = 1  # one example shows how much memory a call takes, before anything is counted or after
    assert abs(found.cost.forwards - sum(seen)) <= measured


@pytest.mark.parametrize(
    "options",
    [{"methods": {"saliency": None}}, {"methods": [3]}, {"methods": None}, {"methods": {}}, {"metrics": [("deletion", {})]},
     {"metrics": {"deletion": None}}, {"metrics": 3}, {"kind": "nonsense"}, {"metrics": {"deletion": {"steps": 0}}, "strict": True}],
)  # fmt: skip
def test_odd_arguments_are_refused_by_name(options):
    with pytest.raises(OptionError):
        evaluate(linear(), torch.randn(2, 6).double(), 0, **({"methods": ["saliency"], "metrics": ["deletion"]} | options))


def test_missing_and_infinite_numbers_are_told():
    from pellucid.evaluation import Evaluation

    inf, nan = float("inf"), float("nan")
    scores = {("a", "completeness"): torch.tensor([inf, 0.0, 0.0]), ("b", "completeness"): torch.tensor([nan, 1.0, 1.0])}
    found = Evaluation(("a", "b"), ("completeness",), scores)
    assert found.ranks("completeness") == {"a": 2, "b": 1}
    assert found.numbers("b", "completeness") == 2
    assert "b by completeness: 1" in found._repr_html_()
