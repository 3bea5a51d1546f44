"""Shapley classes against the installed Captum, the subset formula, and the axioms."""

import inspect
import itertools
import math

import pytest
import torch
from captum import attr as theirs
from torch import nn

import pellucid
from pellucid import OptionError
from pellucid.captum import attr as ours
from pellucid.perturb import banzhaf, groups_of, shapley, shapley_interactions
from pellucid.view import at_input
from tests.models import Mlp, cases

CASES = {case.name: case for case in cases()}
CLASSES = ("ShapleyValueSampling", "ShapleyValues", "KernelShap")
pytestmark = pytest.mark.filterwarnings(
    "ignore:You are attempting to compute Shapley Values:UserWarning", "ignore:Minimum element:UserWarning"
)


def by_subsets(f, x, b):
    """The definition, subset by subset."""
    n, found = x.shape[1], torch.zeros_like(x)

    def value(kept):
        mask = torch.zeros(n, dtype=torch.bool)
        mask[list(kept)] = True
        return f(torch.where(mask, x, b)).detach()

    for i in range(n):
        others = [j for j in range(n) if j != i]
        for size in range(n):
            weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
            for kept in itertools.combinations(others, size):
                found[:, i] += weight * (value((*kept, i)) - value(kept))
    return found


@pytest.fixture(scope="module")
def mlp():
    torch.manual_seed(1)
    return Mlp().double().eval(), torch.randn(3, 5).double(), torch.randn(3, 5).double()


@pytest.mark.parametrize("name", CLASSES)
def test_signatures(name):
    for method in ("__init__", "attribute"):
        found, expected = (inspect.signature(getattr(getattr(place, name), method)).parameters for place in (ours, theirs))
        assert list(found) == list(expected)
        assert [repr(p.default) for p in found.values()] == [repr(p.default) for p in expected.values()]


@pytest.mark.parametrize("name", CLASSES)
def test_a_few_features_are_exact(mlp, name):
    model, x, b = mlp
    expected = by_subsets(lambda x: model(x)[:, 1], x, b)
    options = {"n_samples": 40} if name != "ShapleyValues" else {}
    found = getattr(ours, name)(model).attribute(x, b, 1, **options)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", ["mlp", "two inputs", "with arguments", "regression"])
def test_exact_values_are_captums(case):
    case = CASES[case]
    single = len(case.inputs) == 1
    inputs, baselines = (case.inputs[0], 0.2) if single else (case.inputs, tuple(0.2 for _ in case.inputs))
    masks = tuple(torch.arange(x[:1].numel()).view_as(x[:1]) % 3 + k for k, x in enumerate(case.inputs))
    arguments = (inputs, baselines, case.target, case.extra or None, masks[0] if single else masks)
    found, expected = (place.ShapleyValues(case.model).attribute(*arguments) for place in (ours, theirs))
    assert type(found) is type(expected)
    for f, e in zip((found,) if single else found, (expected,) if single else expected, strict=True):
        assert f.shape == e.shape
        torch.testing.assert_close(f.double(), e.double(), rtol=1e-5, atol=1e-6)


def test_shapes_without_a_target_and_of_one_score_for_a_batch(mlp):
    model, x, _ = mlp
    for place in (ours, theirs):
        assert place.ShapleyValueSampling(model).attribute(x, n_samples=2).shape == (3, 3, 5)
        assert place.ShapleyValueSampling(lambda x: model(x).sum()).attribute(x, n_samples=2).shape == (1, 5)
    found = ours.ShapleyValueSampling(model).attribute(x, n_samples=50)
    torch.testing.assert_close(found[:, 1], ours.ShapleyValues(model).attribute(x, target=1))
    torch.testing.assert_close(ours.KernelShap(model).attribute(x, target=1, n_samples=60), found[:, 1])


def test_kernel_shap_in_the_shape_of_groups(mlp):
    model, x, _ = mlp
    mask = torch.tensor([[4, 4, 700, 700, 2]])
    in_groups = ours.KernelShap(model).attribute(x, target=1, feature_mask=mask, n_samples=30, return_input_shape=False)
    spread = ours.KernelShap(model).attribute(x, target=1, feature_mask=mask, n_samples=30)
    assert in_groups.shape == (3, 3)
    torch.testing.assert_close(spread, in_groups[:, [1, 1, 2, 2, 0]])
    torch.testing.assert_close(in_groups.sum(1), (model(x) - model(torch.zeros_like(x)))[:, 1].detach())


@pytest.mark.parametrize("estimator", ["kernel", "odd_gp", "permutation"])
def test_samples_are_efficient_and_come_close(estimator):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(14, 24), nn.Tanh(), nn.Linear(24, 2)).double(), torch.randn(2, 14).double()
    exact = pellucid.explain(model, x, 1, "shapley", evaluations=2**14).attribution
    errors = []
    for evaluations in (100, 2000):
        found = pellucid.explain(model, x, 1, "shapley", evaluations=evaluations, estimator=estimator, seed=1)
        torch.testing.assert_close(found.attribution.sum(1), found.scores - found.baseline_scores)
        assert found.cost.forwards <= 2 * (evaluations + 8) + 2
        errors.append((found.attribution - exact).norm() / exact.norm())
    assert errors[1] < 0.35 * errors[0] < 0.1
    told = found.check("spread").value
    assert 0.2 < float(errors[1]) / told < 5


@pytest.mark.parametrize("evaluations", [30, 10_000])
def test_axioms(evaluations):
    torch.manual_seed(0)
    f = lambda x: (x[:, 0] * x[:, 1] + torch.tanh(x[:, 2] + x[:, 3]) + x[:, 4:7].prod(1))[:, None]  # noqa: E731
    g = lambda x: (x[:, :3].sum(1) ** 2)[:, None]  # noqa: E731
    x = torch.randn(2, 8).double()
    x[:, 3] = x[:, 2]
    x[:, 1] = x[:, 0]
    ask = lambda h: shapley(at_input(h, x, 0), (torch.zeros_like(x),), evaluations=evaluations, seed=3).values[0][0]  # noqa: E731
    of_f, of_g, of_both = ask(f), ask(g), ask(lambda x: 2 * f(x) - 3 * g(x))
    torch.testing.assert_close(of_both, 2 * of_f - 3 * of_g)  # linearity
    if evaluations > 2**8:
        assert of_f[:, 7].abs().max() < 1e-12  # dummy
        torch.testing.assert_close(of_f[:, 0], of_f[:, 1])  # symmetry
        torch.testing.assert_close(of_f[:, 2], of_f[:, 3])


def test_banzhaf_values_and_interactions(mlp):
    model, x, b = mlp
    view = at_input(model, x, 1)
    found = banzhaf(view, (b,)).values[0][0]
    f = lambda kept: model(torch.where(kept, x, b))[:, 1].detach()  # noqa: E731
    rows = torch.tensor(list(itertools.product([False, True], repeat=5)))
    for i in range(5):
        inside = [f(row) - f(row & (torch.arange(5) != i)) for row in rows if row[i]]
        torch.testing.assert_close(found[:, i], torch.stack(inside).mean(0))
    pairs = shapley_interactions(view, (b,))
    assert pairs.shape == (1, 3, 5, 5)
    torch.testing.assert_close(pairs[0].diagonal(dim1=1, dim2=2), shapley(view, (b,)).values[0][0])
    assert torch.equal(pairs, pairs.transpose(2, 3))


def test_refusals(mlp):
    model, x, _ = mlp
    wide = nn.Linear(30, 2).double()
    with pytest.raises(OptionError, match=r"30 features take 2\^30"):
        ours.ShapleyValues(wide).attribute(torch.randn(1, 30).double(), target=1)
    with pytest.raises(OptionError, match="n_samples is 0"):
        ours.ShapleyValueSampling(model).attribute(x, target=1, n_samples=0)
    with pytest.raises(OptionError, match="estimator 'best' is unknown"):
        pellucid.explain(model, x, 1, "shapley", estimator="best")
    with pytest.raises(OptionError, match="30 groups"):
        shapley_interactions(at_input(wide, torch.randn(1, 30).double(), 1), (torch.zeros(1, 30).double(),))


def test_a_hundred_thousand_coalitions_of_many_groups():
    layer = nn.Linear(40, 1).double()
    x = torch.randn(1, 40).double()
    found = shapley(at_input(layer, x, 0), (torch.zeros_like(x),), groups_of((x,)), 100_000, seed=0)
    torch.testing.assert_close(found.values[0][0], x * layer.weight.detach())


def test_a_future():
    model, x = Mlp().eval(), torch.randn(2, 5)

    def later(x):
        future = torch.futures.Future()
        future.set_result(model(x))
        return future

    for name in ("ShapleyValueSampling", "ShapleyValues"):
        found = getattr(ours, name)(later).attribute_future(x, target=1, n_samples=40).wait()
        torch.testing.assert_close(found, ours.ShapleyValues(model).attribute(x, target=1))


@pytest.mark.parametrize("method", ["shapley", "lime"])
def test_a_photograph_pixel_by_pixel_is_refused_with_the_way_out(method):
    picture = torch.zeros(1, 3, 64, 64)
    with pytest.raises(OptionError, match=r"12288 numbers .*superpixels"):
        pellucid.explain(lambda x: x.mean((1, 2, 3)), picture, None, method)
