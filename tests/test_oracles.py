"""Each method against a slow and obvious re-implementation of its formula."""

import itertools

import numpy as np
import pytest
import torch

import pellucid
from pellucid.gradient.quadrature import RULES, rule
from tests.models import cases

CASES = [c for c in cases() if c.name in ("mlp", "smooth", "conv", "embedding", "two inputs")]
every_case = pytest.mark.parametrize("case", CASES, ids=repr)


def score(case, inputs, i):
    """The score of example i, the model called with that example alone."""
    target = case.target if not isinstance(case.target, torch.Tensor | list) else int(case.target[i])
    output = case.model(*(x[None] for x in inputs), *case.extra)[0]
    return output[target]


def slow_gradient(case, inputs, i):
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    return torch.autograd.grad(score(case, leaves, i), leaves)


@every_case
def test_the_gradient_is_the_slope(case):
    found = pellucid.explain(case.model, case.inputs, case.target, "gradient").attributions
    step = 1e-6
    for i, (index, x) in itertools.product(range(3), enumerate(case.inputs)):
        for place in list(np.ndindex(*x.shape[1:]))[:12]:
            up, down = ([y[i].clone() for y in case.inputs] for _ in range(2))
            up[index][place] += step
            down[index][place] -= step
            with torch.no_grad():
                slope = (score(case, up, i) - score(case, down, i)) / (2 * step)
            assert abs(found[index][(i, *place)] - slope) < 1e-6


@every_case
def test_saliency_and_input_x_gradient_follow_from_the_gradient(case):
    gradients = pellucid.explain(case.model, case.inputs, case.target, "gradient").attributions
    saliency = pellucid.explain(case.model, case.inputs, case.target, "saliency").attributions
    products = pellucid.explain(case.model, case.inputs, case.target, "input_x_gradient").attributions
    for g, s, p, x in zip(gradients, saliency, products, case.inputs, strict=True):
        assert torch.equal(s, g.abs())
        assert torch.equal(p, g * x)


@every_case
@pytest.mark.parametrize("name", RULES)
def test_integrated_gradients_is_a_loop_over_the_nodes(case, name):
    nodes, weights = rule(name, 6)
    found = pellucid.explain(case.model, case.inputs, case.target, steps=6, rule=name, baselines=tuple(0.2 for _ in case.inputs))
    for i in range(3):
        total = [torch.zeros_like(x[0]) for x in case.inputs]
        for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
            point = [0.2 + node * (x[i] - 0.2) for x in case.inputs]
            for t, g in zip(total, slow_gradient(case, point, i), strict=True):
                t += weight * g
        for a, t, x in zip(found.attributions, total, case.inputs, strict=True):
            torch.testing.assert_close(a[i], (x[i] - 0.2) * t, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("steps", [2, 3, 10, 51])
def test_rules_integrate_constants_exactly_and_lines_where_they_should(name, steps):
    nodes, weights = rule(name, steps)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-12)
    assert float(nodes.min()) >= 0
    assert float(nodes.max()) <= 1
    mean = float((nodes * weights).sum())
    expected = {"riemann_left": 0.5 - 0.5 / steps, "riemann_right": 0.5 + 0.5 / steps}.get(name, 0.5)
    assert mean == pytest.approx(expected, abs=1e-12)


def test_gauss_legendre_integrates_polynomials_of_degree_2n_minus_1():
    nodes, weights = rule("gausslegendre", 5)
    for degree in range(10):
        assert float((weights * nodes**degree).sum()) == pytest.approx(1 / (degree + 1), abs=1e-12)
    assert abs(float((weights * nodes**10).sum()) - 1 / 11) > 1e-9


@every_case
def test_expected_gradients_converge_to_the_mean_of_integrated_gradients(case):
    references = tuple(torch.randn(4, *x.shape[1:], dtype=x.dtype) for x in case.inputs)
    found = pellucid.explain(case.model, case.inputs, case.target, "gradient_shap", baselines=references, samples=4000, seed=2)
    exact = [torch.zeros_like(x) for x in case.inputs]
    for j in range(4):
        row = tuple(r[j : j + 1] for r in references)
        for e, a in zip(exact, pellucid.explain(case.model, case.inputs, case.target, baselines=row, steps=400).attributions, strict=True):
            e += a / 4
    for a, e in zip(found.attributions, exact, strict=True):
        assert (a - e).norm() < 0.03 * e.norm()
    spread = found.check("spread").value
    assert 0 < spread < 0.03


class Quadratic(torch.nn.Module):
    """`x' A x`, whose gradient `2 A x` is linear: the moments of its gradient under noise are known."""

    def __init__(self):
        super().__init__()
        a = torch.randn(4, 4, dtype=torch.float64)
        self.a = torch.nn.Parameter(a + a.T)

    def forward(self, x):
        return ((x @ self.a) * x).sum(1)


@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_noise_gives_the_moments_that_it_must(kind):
    model, x, sigma = Quadratic(), torch.randn(2, 4, dtype=torch.float64), 0.7
    mean = 2 * x @ model.a.detach()
    variance = 4 * sigma**2 * (model.a.detach() ** 2).sum(1).expand_as(x)
    exact = {"smoothgrad": mean, "smoothgrad_sq": mean**2 + variance, "vargrad": variance}[kind]
    found = pellucid.explain(model, x, None, kind, samples=20_000, stdev=sigma, relative=False, seed=1).attribution
    assert (found - exact).norm() < 0.03 * exact.norm()


def test_relative_noise_is_in_parts_of_each_examples_range():
    model = Quadratic()
    x = torch.tensor([[0.0, 1, 2, 4], [0, 0.1, 0.2, 0.4]], dtype=torch.float64)
    found = pellucid.explain(model, x, None, "vargrad", samples=64, stdev=0.5, relative=True, seed=1).attribution
    torch.testing.assert_close(found[0], 100 * found[1])


def test_the_spread_is_what_another_seed_does():
    case = CASES[0]
    runs = [pellucid.explain(case.model, case.inputs, 1, "smoothgrad", samples=16, stdev=1.0, seed=s) for s in range(40)]
    found = torch.stack([r.attribution[0] for r in runs])
    true = float((found - found.mean(0)).norm(dim=1).square().mean().sqrt() / found.mean(0).norm())
    told = torch.tensor([pellucid.gradient.noise_tunnel(
        pellucid.at_input(case.model, case.inputs, 1), pellucid.gradient.gradient, 16, 1.0, relative=True, seed=s
    ).spread[0, 0] for s in range(40)])  # fmt: skip
    assert float(told.square().mean().sqrt()) == pytest.approx(true, rel=0.35)


@every_case
def test_feature_ablation_is_a_loop_over_the_features(case):
    found = pellucid.explain(case.model, case.inputs, case.target, "feature_ablation", baselines=tuple(0.4 for _ in case.inputs))
    for i, (index, x) in itertools.product(range(3), enumerate(case.inputs)):
        whole = [y[i] for y in case.inputs]
        for place in np.ndindex(*x.shape[1:]):
            less = [y.clone() for y in whole]
            less[index][place] = 0.4
            with torch.no_grad():
                fall = score(case, whole, i) - score(case, less, i)
            torch.testing.assert_close(found.attributions[index][(i, *place)], fall, rtol=1e-9, atol=1e-12)


def test_groups_are_removed_together_and_ids_are_only_names():
    case = CASES[0]
    first = torch.tensor([[0, 0, 1, 2, 1]])
    other = torch.tensor([[70, 70, 3, 90_000, 3]])
    a = pellucid.explain(case.model, case.inputs, 1, "feature_ablation", feature_mask=first)
    b = pellucid.explain(case.model, case.inputs, 1, "feature_ablation", feature_mask=other)
    assert torch.equal(a.attribution, b.attribution)
    x = case.inputs[0]
    for ids in (0, 1, 2):
        members = (first[0] == ids).nonzero()[:, 0]
        less = x.clone()
        less[:, members] = 0
        with torch.no_grad():
            fall = case.model(x)[:, 1] - case.model(less)[:, 1]
        for member in members:
            torch.testing.assert_close(a.attribution[:, member], fall)
