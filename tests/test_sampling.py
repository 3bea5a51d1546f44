"""What stands in for removed features, sampling in rounds, standard errors, unions: laws and slow oracles."""

import itertools
import math

import pytest
import torch
from torch import nn

import pellucid
import pellucid.captum.attr as ours
from pellucid import OptionError
from pellucid.errors import InputError
from pellucid.inputs import expanded, references
from pellucid.perturb import (
    Until,
    banzhaf,
    blur,
    columns_of,
    estimators,
    feature_ablation,
    groups_of,
    lime,
    marginal,
    mean,
    occlusion,
    others,
    owen,
    rise,
    sentences_of,
    shapley,
    token,
    windows_of,
    words_of,
)
from pellucid.perturb.estimators import fit_errors
from pellucid.perturb.sampling import pairs, permutations
from pellucid.view import at_input


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    found = nn.Sequential(nn.Linear(9, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2)).double().eval()
    for p in found.parameters():
        p.data *= 2
    return found


@pytest.fixture(scope="module")
def x():
    return torch.randn(3, 9, generator=torch.Generator().manual_seed(1), dtype=torch.double)


def game(model, x, baseline):
    """The scores of one example's coalitions, one by one."""
    return lambda kept: model(torch.where(kept, x, baseline)[None])[0, 1].item()


# Fills


def test_a_mean_of_places_and_of_rows(x):
    image = torch.randn(2, 3, 4, 5)
    found = mean()(image)
    assert found.shape == image.shape
    torch.testing.assert_close(found[1, 2], image[1, 2].mean().expand(4, 5))
    torch.testing.assert_close(mean(x)(x[:2]), x.mean(0).expand(2, 9))


def test_blur_is_scipys_gaussian():
    from scipy.ndimage import gaussian_filter

    image = torch.randn(1, 2, 12, 9, dtype=torch.double)
    for sigma in (0.7, 2.0, 5.0):
        expected = gaussian_filter(image[0].numpy(), sigma, axes=(1, 2), mode="nearest", radius=math.ceil(4 * sigma))
        torch.testing.assert_close(blur(sigma)(image)[0], torch.from_numpy(expected))
    line = torch.randn(2, 1, 40, dtype=torch.double)
    torch.testing.assert_close(blur()(line), blur(2.0)(line))


def test_others_are_every_other_example():
    rows = torch.arange(4.0)[:, None]
    found = others()(rows)[..., 0]
    for example in range(4):
        assert sorted(found[:, example].tolist()) == [r for r in range(4) if r != example]
    assert others(2, seed=3)(rows).shape == (2, 4, 1)


def test_tokens_are_replaced_but_for_those_kept():
    ids = torch.tensor([[1, 5, 6, 2], [1, 7, 2, 0]])
    assert token(9, keep=(0, 1, 2))(ids).tolist() == [[1, 9, 9, 2], [1, 9, 2, 0]]
    model = lambda ids: nn.functional.one_hot(ids, 10).double().sum(1)  # noqa: E731
    found = pellucid.explain(model, ids, 5, "feature_ablation", baselines=token(9, keep=(0, 1, 2)))
    assert found.attribution.tolist() == [[0, 1, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("method", ["feature_ablation", "shapley", "owen", "banzhaf", "lime", "rise", "occlusion"])
def test_scores_are_means_over_references(net, x, method):
    rows = torch.randn(5, 9, dtype=torch.double)
    options = {"surrogate": "linear"} if method == "lime" else {}
    found = pellucid.explain(net, x, 1, method, baselines=marginal(rows), seed=0, **options)
    one_by_one = [pellucid.explain(net, x, 1, method, baselines=row[None], seed=0, **options).attribution for row in rows]
    torch.testing.assert_close(found.attribution, torch.stack(one_by_one).mean(0))
    if found.baseline_scores is not None:
        torch.testing.assert_close(found.baseline_scores, net(rows)[:, 1].mean().expand(3))
    assert found.baselines is None
    for at_most in (1, 4, 7):
        again = pellucid.explain(net, x, 1, method, baselines=marginal(rows), seed=0, at_most=at_most, **options)
        torch.testing.assert_close(again.attribution, found.attribution)


def test_references_of_several_inputs_belong_together():
    model = lambda a, b: (a * b).sum(1)  # noqa: E731
    a, b = torch.randn(2, 3).double(), torch.randn(2, 3).double()
    rows = torch.randn(4, 3).double(), torch.randn(4, 3).double()
    found = pellucid.explain(model, (a, b), None, "feature_ablation", baselines=marginal(rows))
    torch.testing.assert_close(found.attributions[0], (a - rows[0].mean(0)) * b)
    joint = pellucid.explain(model, (a, b), None, "shapley", baselines=marginal(rows, count=3, seed=1))
    assert joint.check("completeness").value < 1e-9
    torch.testing.assert_close(
        sum(t.sum(1) for t in joint.attributions),
        joint.scores - joint.baseline_scores,
    )


def test_references_at_a_layer(net, x):
    rows = torch.randn(4, 9, dtype=torch.double)
    found = pellucid.explain(net, x, 1, "feature_ablation", layer="0", baselines=marginal(rows))
    one_by_one = [pellucid.explain(net, x, 1, "feature_ablation", layer="0", baselines=row[None]).attribution for row in rows]
    torch.testing.assert_close(found.attribution, torch.stack(one_by_one).mean(0))


def test_gradient_methods_take_single_references_and_distributions(net, x):
    rows = torch.randn(4, 9, dtype=torch.double)
    a = pellucid.explain(net, x, 1, baselines=mean(rows)).attribution
    torch.testing.assert_close(a, pellucid.explain(net, x, 1, baselines=rows.mean(0)).attribution)
    a = pellucid.explain(net, x, 1, "gradient_shap", baselines=marginal(rows), seed=0).attribution
    torch.testing.assert_close(a, pellucid.explain(net, x, 1, "gradient_shap", baselines=rows, seed=0).attribution)
    with pytest.raises(InputError, match=r"\(4, 1, 9\)"):
        pellucid.explain(net, x, 1, baselines=marginal(rows))


def test_fills_refuse_what_they_cannot_fill(x):
    for fill in (mean(), blur()):
        with pytest.raises(InputError, match="places"):
            fill(x)
    with pytest.raises(InputError, match="reference rows of shape"):
        marginal(torch.zeros(4, 3))(x)
    with pytest.raises(InputError, match="only one"):
        others()(x[:1])
    with pytest.raises(InputError, match="float64"):
        token(3)(x)
    for wrong in (lambda: marginal(x, count=0), lambda: others(0), lambda: blur(-1.0)):
        with pytest.raises(OptionError):
            wrong()
    with pytest.raises(InputError, match="as many for each"):
        marginal((x, x[:2]))
    with pytest.raises(InputError, match="references for the input"):
        references((x,), torch.zeros(2, 4, 9))
    with pytest.raises(InputError, match=r"perturb\.marginal"):
        expanded((x,), torch.zeros(7, 9))


# Sampling in rounds


def test_pairs_are_completed_not_drawn_anew():
    for groups in (5, 8, 13):
        some = pairs(groups, 9, seed=0).kept
        more, weights = pairs(groups, 40, seed=1, drawn=some)
        assert torch.equal(more[: len(some)], some)
        assert len(more) == len({tuple(row) for row in more.tolist()}) == len(weights)
        assert len(more) <= max(40, len(some))
        assert len(more) >= min(40, 2 ** (groups - 1) - 1)
        everything, weights = pairs(groups, 10**6, seed=2, drawn=more)
        assert len(everything) == 2 ** (groups - 1) - 1
        size = everything.sum(1)
        kernel = torch.tensor([(groups - 1) / (math.comb(groups, s) * s * (groups - s)) for s in size.tolist()]).double()
        torch.testing.assert_close(weights / weights[0], kernel / kernel[0])


@pytest.mark.parametrize("estimator", ["kernel", "permutation", "odd_gp"])
def test_rounds_end_at_the_tolerance(net, x, estimator):
    view, blank = at_input(nn.Sequential(nn.Linear(18, 24), nn.Tanh(), nn.Linear(24, 2)).double(), torch.cat([x, x.flip(1)], 1), 1), None
    blank = (torch.zeros_like(view.features[0]),)
    exact = shapley(view, blank, evaluations=2**18).values[0]
    found = shapley(view, blank, estimator=estimator, seed=0, until=Until(tolerance=0.02))
    error = found.errors[0].norm(dim=2) / found.values[0].norm(dim=2)
    assert float(error.max()) <= 0.02
    assert found.checks[-1].passed
    assert found.checks[-1].value == pytest.approx(float(error.max()))
    true = (found.values[0] - exact).norm(dim=2) / exact.norm(dim=2)
    assert float(true.max()) < 0.06
    torch.testing.assert_close(found.values[0].sum(2), found.scores - found.baseline_scores)


def test_few_groups_are_exact_whatever_the_tolerance(net, x):
    found = pellucid.explain(net, x, 1, "shapley", evaluations="auto")
    torch.testing.assert_close(found.attribution, pellucid.explain(net, x, 1, "shapley", evaluations=2**9).attribution)
    assert found.errors is None
    assert found.cost.forwards <= 3 * (2**9 + 2)


def test_the_order_of_the_largest_ends_sampling():
    torch.manual_seed(0)
    weights = torch.tensor([5.0, 3.0, 2.0, *[0.01] * 27]).double()
    model = lambda x: (x * weights).sum(1) + 0.5 * torch.sin(x.sum(1) / 3)  # noqa: E731
    x = torch.ones(1, 30).double()
    quick = pellucid.explain(model, x, None, "shapley", top=3, seed=0)
    slow = pellucid.explain(model, x, None, "shapley", tolerance=0.02, seed=0)
    assert quick.check("sampling").passed
    assert slow.check("sampling").passed
    assert quick.attribution[0].argsort(descending=True)[:3].tolist() == [0, 1, 2]
    assert quick.cost.forwards < slow.cost.forwards


def test_a_deadline_ends_sampling_and_is_no_failure(net):
    wide = nn.Sequential(nn.Linear(40, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    found = pellucid.explain(wide, torch.randn(1, 40).double(), 0, "shapley", seconds=1e-6, seed=0)
    assert found.check("sampling").passed
    assert "1 round:" in found.check("sampling").message
    both = pellucid.explain(wide, torch.randn(1, 40).double(), 0, "shapley", seconds=1e-6, tolerance=1e-9, seed=0)
    assert not both.check("sampling").passed


def test_an_interrupted_run_returns_what_is_known():
    calls = []
    inner = nn.Sequential(nn.Linear(40, 16), nn.Tanh(), nn.Linear(16, 1)).double()

    def model(x):
        calls.append(len(x))
        if sum(calls) > 600:
            raise KeyboardInterrupt
        return inner(x)

    x = torch.randn(1, 40).double()
    found = pellucid.explain(model, x, 0, "shapley", tolerance=1e-6, seed=0)
    assert not found.check("sampling").passed
    assert found.check("sampling").message.startswith("interrupted after")
    torch.testing.assert_close(found.attribution.sum(1), inner(x)[:, 0] - inner(0 * x)[:, 0])
    calls.append(10**6)
    with pytest.raises(KeyboardInterrupt):  # nothing is known yet
        pellucid.explain(model, x, 0, "shapley", tolerance=1e-6, seed=0)


def test_batch_is_loop_in_rounds_of_fixed_size(net):
    wide = nn.Sequential(nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    x = torch.randn(3, 20).double()
    for method in ("shapley", "banzhaf", "lime"):
        number = {"samples": 300} if method == "lime" else {"evaluations": 300}
        whole = pellucid.explain(wide, x, 0, method, seed=0, **number)
        for i in range(3):
            alone = pellucid.explain(wide, x[i : i + 1], 0, method, seed=0, **number)
            torch.testing.assert_close(whole.attribution[i : i + 1], alone.attribution)
            torch.testing.assert_close(whole.errors[0][i : i + 1], alone.errors[0])


def test_captums_classes_sample_in_rounds(net, x):
    exact = ours.ShapleyValues(net).attribute(x, target=1)
    torch.testing.assert_close(ours.KernelShap(net).attribute(x, target=1, n_samples="auto"), exact)
    torch.testing.assert_close(ours.ShapleyValueSampling(net).attribute(x, target=1, n_samples="auto"), exact)
    with pytest.raises(OptionError, match="'many'"):
        ours.KernelShap(net).attribute(x, target=1, n_samples="many")


def test_ends_that_are_none():
    for wrong in ({"tolerance": 0.0}, {"top": 0}, {"seconds": -1.0}):
        with pytest.raises(OptionError, match="positive"):
            Until(**wrong)
    layer, row = nn.Linear(3, 1), torch.randn(1, 3)
    with pytest.raises(OptionError, match="'auto' for rounds"):
        pellucid.explain(layer, row, 0, "shapley", evaluations="all")
    with pytest.raises(OptionError, match="no standard error"):
        pellucid.explain(layer, row, 0, "lime", samples="auto", surrogate="lasso")


# Standard errors


def calibrated(values, errors, truth):
    """The root mean square of errors in parts of what was told."""
    z = (torch.stack(values) - truth) / torch.stack(errors)
    return float(z.square().mean().sqrt())


@pytest.mark.parametrize(
    ("kind", "number", "low", "high"), [("shapley", 60, 0.6, 1.3), ("shapley", 240, 0.8, 1.25), ("banzhaf", 200, 0.8, 1.25)]
)
def test_standard_errors_are_what_seeds_bring(net, x, kind, number, low, high):
    view, blank = at_input(net, x[:1], 1), (torch.zeros(1, 9).double(),)
    method = {"shapley": shapley, "banzhaf": banzhaf}[kind]
    exact = method(view, blank, evaluations=2**9).values[0]
    options = {"estimator": "kernel"} if kind == "shapley" else {}
    found = [method(view, blank, evaluations=number, seed=seed, **options) for seed in range(60)]
    assert low < calibrated([f.values[0] for f in found], [f.errors[0] for f in found], exact) < high


def test_standard_errors_of_lime_are_what_seeds_bring(net, x):
    view, blank = at_input(net, x[:1], 1), (torch.zeros(1, 9).double(),)
    truth = lime(view, blank, samples=100_000, surrogate="linear", seed=10**6).values[0]
    found = [lime(view, blank, samples=100, surrogate="linear", seed=seed) for seed in range(60)]
    assert 0.8 < calibrated([f.values[0] for f in found], [f.errors[0] for f in found], truth) < 1.25


def test_fit_errors_are_a_slow_leave_one_out(monkeypatch):
    """The sum of what each row's absence changes, squared; whatever the size of the blocks."""
    torch.manual_seed(0)
    kept, weights = torch.rand(30, 4) < 0.5, torch.rand(30).double() + 0.1
    rows, targets = 2 * kept.double() - 1, torch.randn(30, 2).double()
    roots = weights.sqrt()[:, None]
    fit = lambda keep: torch.linalg.lstsq(rows[keep] * roots[keep], targets[keep] * roots[keep]).solution  # noqa: E731
    whole = fit(torch.arange(30))
    changes = torch.stack([whole - fit(torch.tensor([j for j in range(30) if j != i])) for i in range(30)])
    for block in (2**25, 200):
        monkeypatch.setattr(estimators, "BLOCK", block)
        found = fit_errors(kept, lambda some: 2 * some - 1, weights, targets, whole, torch.ones(30))
        torch.testing.assert_close(found, changes.square().sum(0).sqrt())
    assert not fit_errors(kept, lambda some: 2 * some - 1, weights, targets, whole, torch.zeros(30)).any()


def test_estimates_do_not_depend_on_blocks(monkeypatch, net, x):
    wide = nn.Sequential(nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    row = torch.randn(2, 20).double()
    view, blank = at_input(wide, row, 0), (torch.zeros_like(row),)
    methods = [lambda m=m: m(view, blank, evaluations=300, seed=0) for m in (shapley, banzhaf)]
    usual = [method() for method in methods]
    monkeypatch.setattr(estimators, "BLOCK", 1000)
    for method, before in zip(methods, usual, strict=True):
        found = method()
        torch.testing.assert_close(found.values[0], before.values[0])
        torch.testing.assert_close(found.errors[0], before.errors[0])


def test_errors_are_saved_and_drawn(net, x, tmp_path):
    wide = nn.Sequential(nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    found = pellucid.explain(wide, torch.randn(2, 20).double(), 0, "shapley", evaluations=200, seed=0)
    again = pellucid.Explanation.load(found.save(tmp_path / "found.safetensors"))
    assert torch.equal(again.errors[0], found.errors[0])
    figure = found.draw(1)
    words = [text.get_text() for text in figure.axes[0].texts]
    assert sum(" ± " in word for word in words) == 10
    assert " ± " in found._repr_html_()


# Unions


def slow_owen(score, unions, groups):
    """The mean over all orders in which unions stay together."""
    total, count = torch.zeros(groups).double(), 0
    for order in itertools.permutations(range(len(unions))):
        for inner in itertools.product(*(itertools.permutations(unions[u]) for u in order)):
            kept = torch.zeros(groups, dtype=torch.bool)
            before = score(kept)
            for group in itertools.chain(*inner):
                kept[group] = True
                after = score(kept)
                total[group] += after - before
                before = after
            count += 1
    return total / count


@pytest.mark.parametrize("unions", [[[0, 1, 2], [3, 4], [5]], [[0, 2, 4], [1, 3, 5]], [[0], [1], [2], [3], [4], [5]], [[0, 1, 2, 3, 4, 5]]])
def test_owen_values_are_means_over_orders(unions):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    x, blank = torch.randn(2, 6).double(), torch.randn(2, 6).double()
    ids = torch.empty(1, 6, dtype=torch.long)
    for number, union in enumerate(unions):
        ids[0, union] = number
    found = owen(at_input(model, x, 1), (blank,), groups_of((x,), ids)).values[0][0]
    for i in range(2):
        torch.testing.assert_close(found[i], slow_owen(game(model, x[i], blank[i]), unions, 6))
    if len(unions) in (1, 6):
        torch.testing.assert_close(found, shapley(at_input(model, x, 1), (blank,)).values[0][0])
    sampled = owen(at_input(model, x, 1), (blank,), groups_of((x,), ids), evaluations=5000, seed=0, until=Until(tolerance=0.01))
    torch.testing.assert_close(sampled.values[0][0], found, rtol=0.1, atol=0.05)


def test_a_union_is_worth_its_shapley_value(net, x):
    ids = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 2]])
    blank = (torch.zeros_like(x),)
    apart = owen(at_input(net, x, 1), blank, groups_of((x,), ids)).values[0][0]
    together = shapley(at_input(net, x, 1), blank, groups_of((x,), ids)).notes["groups"][0]
    for union in range(3):
        torch.testing.assert_close(apart[:, ids[0] == union].sum(1), together[union])


def test_orders_keep_unions_together():
    orders = permutations(7, 50, 0, [[0, 3, 6], [1, 2], [4, 5]])
    union = torch.tensor([0, 1, 1, 0, 2, 2, 0])[orders]
    assert bool(((union.diff(dim=1) != 0).sum(1) == 2).all())
    assert len({tuple(order) for order in orders.tolist()}) > 30


def test_a_group_in_two_unions_is_refused(net, x):
    with pytest.raises(InputError, match="within one union"):
        owen(
            at_input(net, x, 1),
            (torch.zeros_like(x),),
            groups_of((x,), torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1]])),
            groups_of((x,), torch.tensor([[0, 0, 1, 1, 2, 2, 2, 2, 2]])),
        )


def test_banzhaf_of_a_sample_is_exact_on_linear_models(x):
    layer = nn.Linear(40, 1).double()
    row = torch.randn(2, 40).double()
    found = banzhaf(at_input(layer, row, 0), (torch.zeros_like(row),), evaluations=200, seed=0)
    torch.testing.assert_close(found.values[0][0], row * layer.weight.detach())
    assert float(found.errors[0].max()) < 1e-9


# Scores that are not finite


def test_scores_that_are_not_finite_are_named(net, x):
    def model(rows):
        out = net(rows)
        return torch.where((rows[:, :1] == 0) & (rows[:, 4:5] != 0), torch.nan, out)

    found = pellucid.explain(model, x, 1, "feature_ablation")
    assert "3 scores are NaN or infinite, the first (nan) of example 0 with group 0 replaced" in found.check("scores").message
    assert torch.isnan(found.attribution[:, 0]).all()
    assert torch.isfinite(found.attribution[:, 1:]).all()
    inf = lambda rows: torch.where(rows[:, 2] == 0, torch.inf, net(rows)[:, 1])  # noqa: E731
    view, blank = at_input(inf, x), (torch.zeros_like(x),)
    message = occlusion(view, blank, windows_of((x,), (2,), 1)).checks[0].message
    assert "(inf) of example 0 with [1:3] of input 0 hidden" in message
    assert "under mask" in rise(view, blank, 20, seed=0).checks[0].message
    assert "replaced" in shapley(view, blank, evaluations=100, seed=0).checks[0].message
    assert "replaced" in lime(view, blank, samples=100, seed=0).checks[0].message


def test_one_bad_example_does_not_touch_the_others(net, x):
    def model(rows):
        return torch.where((rows[:, 1] == 0) & (rows[:, 0] == x[1, 0]), torch.nan, net(rows)[:, 1])

    view, blank = at_input(model, x), (torch.zeros_like(x),)
    for method in (shapley, banzhaf):
        good, bad = method(at_input(net, x, 1), blank, evaluations=100, seed=0), method(view, blank, evaluations=100, seed=0)
        torch.testing.assert_close(good.values[0][:, [0, 2]], bad.values[0][:, [0, 2]])
        assert torch.isnan(bad.values[0][:, 1]).any()


# Groups by name


def test_words_and_sentences():
    assert words_of(["\u2581un", "able", "\u2581to", "go"]).tolist() == [[0, 0, 1, 1]]
    assert words_of(["\u0120a", "b", "\u0120c"]).tolist() == [[0, 0, 1]]
    assert words_of([["a", "##b", "c"], ["a", "b", "##c"]]).tolist() == [[0, 0, 1], [0, 1, 1]]
    assert words_of([None, 0, 0, None, None]).tolist() == [[0, 1, 1, 2, 3]]
    assert sentences_of(["A", "b", "?", "!", "C", "."]).tolist() == [[0, 0, 0, 0, 1, 1]]
    with pytest.raises(InputError, match="2, 3 tokens"):
        words_of([["a", "b"], ["a", "b", "c"]])
    with pytest.raises(InputError, match="texts of 0 tokens"):
        words_of([])


def test_columns_of_a_category_are_removed_together():
    mask = columns_of(["age", "job=clerk", "job=smith", "height"])
    assert mask.tolist() == columns_of({"age": 1, "job": 2, "height": 1}).tolist() == [[0, 1, 1, 2]]
    assert columns_of(["job_a", "job_b", "age"], "_").tolist() == [[0, 0, 1]]
    x = torch.tensor([[1.0, 0.0, 1.0, 2.0]])
    found = feature_ablation(at_input(lambda x: x[:, 1] + 10 * x[:, 2], x), (torch.zeros_like(x),), groups_of((x,), mask))
    assert found.values[0].tolist() == [[[0.0, 10.0, 10.0, 0.0]]]
    with pytest.raises(InputError, match="at least one column"):
        columns_of({"age": 0})
    with pytest.raises(InputError, match="no columns"):
        columns_of([])
