"""Integrated gradients to a tolerance: right to about the tolerance, no more steps than needed, no nonsense at the edges."""

import pytest
import torch

import pellucid
from pellucid import OptionError
from tests.models import Mlp, cases

CASES = [c for c in cases() if c.name not in ("sequence",)]


def reference(model, inputs, target, args=()):
    return pellucid.explain(model, inputs, target, args=args, steps=2000, rule="riemann_middle").attributions


def error(found, exact):
    difference = torch.cat([(a - b).flatten(1) for a, b in zip(found, exact, strict=True)], 1).norm(dim=1)
    return difference / torch.cat([b.flatten(1) for b in exact], 1).norm(dim=1)


@pytest.mark.parametrize("case", CASES, ids=repr)
@pytest.mark.parametrize("tolerance", [0.1, 0.01])
def test_the_error_is_about_the_tolerance(case, tolerance):
    exact = reference(case.model, case.inputs, case.target, case.extra)
    found = pellucid.explain(case.model, case.inputs, case.target, args=case.extra, tolerance=tolerance)
    assert (error(found.attributions, exact) <= 1.5 * tolerance).all()
    assert found.check("tolerance").passed
    assert found.cost.backwards <= 3 * 65


@pytest.mark.parametrize("case", [c for c in CASES if c.target is not None], ids=repr)
def test_probabilities(case):
    model = lambda *x: (8 * case.model(*x)).softmax(-1)  # noqa: E731
    exact = reference(model, case.inputs, case.target, case.extra)
    found = pellucid.explain(model, case.inputs, case.target, args=case.extra, tolerance=0.01)
    assert (error(found.attributions, exact) <= 0.02).all()
    assert found.check("completeness").passed


def test_a_smooth_path_takes_few_steps_and_a_rough_one_more():
    x = torch.randn(6, 5).double()
    smooth = pellucid.explain(Mlp(activation=torch.nn.Tanh).double(), x, 1, tolerance=1e-3)
    rough = pellucid.explain(Mlp().double(), 5 * x, 1, tolerance=1e-3)
    assert smooth.cost.backwards < rough.cost.backwards


def test_each_example_gets_the_steps_that_it_needs():
    net = Mlp().double()
    x = torch.randn(8, 5).double() * torch.logspace(-2, 1.5, 8).double()[:, None]
    view = pellucid.at_input(net, x, 1)
    steps = pellucid.gradient.integrated_gradients(view, (torch.zeros_like(x),), tolerance=0.005).notes["steps"][0]
    assert len(set(steps.tolist())) > 1


@pytest.mark.parametrize("case", CASES[:3], ids=repr)
def test_a_batch_is_its_examples_one_by_one(case):
    together = pellucid.explain(case.model, case.inputs, 1, tolerance=0.01)
    for i in range(3):
        alone = pellucid.explain(case.model, tuple(x[i : i + 1] for x in case.inputs), 1, tolerance=0.01)
        for a, b in zip(alone.attributions, together.attributions, strict=True):
            torch.testing.assert_close(a[0], b[i], rtol=1e-8, atol=1e-12)


def test_examples_that_see_each_other():
    model = lambda x: torch.tanh(x - x.mean(0)).pow(3).sum(1)  # noqa: E731
    x = torch.randn(3, 4).double()
    exact = pellucid.explain(model, x, None, steps=400).attributions
    assert (error(pellucid.explain(model, x, None, tolerance=0.01).attributions, exact) < 0.02).all()


EDGES = {
    "linear": lambda x: x @ torch.arange(4.0).double(),
    "constant": lambda x: x.sum(1) * 0 + 3,
    "saturated": lambda x: torch.sigmoid(60 * x.sum(1)),
    "sigmoid of linear": lambda x: torch.sigmoid(3 * x.sum(1) + 1),
    "steps out of [0, 1]": lambda x: 0.5 + 3 * torch.sin(2 * x.sum(1)),
}


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_edges(name, dtype):
    model = lambda x: EDGES[name](x.double()).to(dtype)  # noqa: E731
    x = torch.rand(3, 4).to(dtype) + 0.1
    x[2] = 0
    found = pellucid.explain(model, x, None, tolerance=0.01)
    assert torch.isfinite(found.attribution).all()
    assert (found.attribution[2] == 0).all()
    gap = (found.attribution.double().sum(1) - (found.scores - found.baseline_scores).double()).abs()
    assert (gap <= 0.02 * (found.scores - found.baseline_scores).abs().double() + 1e-6).all()
    if name == "linear":
        assert found.cost.backwards == 3 * 5


def test_half_precision_and_several_targets_and_no_multiplication():
    net, x = Mlp(activation=torch.nn.Tanh), torch.randn(3, 5)
    exact = pellucid.explain(net, x, 1, steps=200)
    half = pellucid.explain(net.half(), x.half(), 1, tolerance=0.05)
    assert half.attribution.dtype == torch.float16
    assert (error((half.attribution.float(),), exact.attributions) < 0.06).all()
    net.float()
    local = pellucid.explain(net, x, 1, tolerance=0.01, multiply=False)
    assert (error((local.attribution * x,), exact.attributions) < 0.02).all()
    for target, one in zip((0, 2), pellucid.explain_each(net, x, [0, 2], tolerance=0.01), strict=True):
        assert (error(one.attributions, reference(net, x, target)) < 0.02).all()


def test_what_it_refuses():
    net, x = Mlp(), torch.randn(2, 5)
    with pytest.raises(OptionError, match="between 0 and 1"):
        pellucid.explain(net, x, 1, tolerance=2.0)
    with pytest.raises(OptionError, match="at least 5"):
        pellucid.explain(net, x, 1, tolerance=0.1, steps=3)
    with pytest.raises(OptionError, match="whole batch"):
        pellucid.explain(lambda x: net(x).sum(), x, None, tolerance=0.1)


def test_an_unreached_tolerance_is_said():
    found = pellucid.explain(Mlp().double(), 20 * torch.randn(4, 5).double(), 1, tolerance=1e-6, steps=9)
    check = found.check("tolerance")
    assert not check.passed
    assert "did not reach" in check.message
