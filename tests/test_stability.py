"""Stability: against loops over points and over numbers, Captum, and explanations whose stability is planted."""

from functools import partial

import captum.metrics
import numpy as np
import pytest
import torch
from torch import nn

from pellucid import InputError, OptionError, at_input
from pellucid.metrics.relative_stability import relative_input_stability, relative_output_stability, relative_representation_stability
from pellucid.metrics.stability import around, average_sensitivity, local_lipschitz, max_sensitivity

PLAIN = [max_sensitivity, average_sensitivity, local_lipschitz]
RELATIVE = [relative_input_stability, relative_output_stability]
SMALLEST = 1e-6


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double().eval()
    x = torch.randn(4, 5).double()

    def explained(points, count):
        """Input x gradient of the largest output."""
        with torch.enable_grad():
            leaves = points[0].clone().requires_grad_()
            return leaves.detach() * torch.autograd.grad(model(leaves).amax(1).sum(), leaves)[0]

    return model, x, explained


def points_of(x, radius, seed, samples):
    """The points that the functions draw, `(B, samples, ...)`."""
    return around(x, radius, seed)(samples)[0]


def said(explained, row):
    return explained((row[None],), 1)[0]


def test_points_lie_in_the_ball_and_fill_it():
    x = torch.arange(6.0).view(2, 3) * 100
    moved = points_of(x, 0.5, 3, 2000) - x[:, None]
    assert moved.abs().amax() <= 0.5
    assert (moved.amax((0, 1)) > 0.49).all()
    assert (moved.amin((0, 1)) < -0.49).all()
    assert moved.mean().abs() < 0.01
    assert float(moved.var()) == pytest.approx(1 / 12, rel=0.05)


def test_points_are_the_same_whatever_the_batch_and_the_way_they_are_drawn():
    x = torch.randn(3, 2, 4)
    whole = points_of(x, 0.1, 5, 7)
    torch.testing.assert_close(torch.cat([points_of(row[None], 0.1, 5, 7) for row in x]), whole)
    draw = around(x, 0.1, 5)
    torch.testing.assert_close(torch.cat([draw(3)[0], draw(1)[0], draw(3)[0]], 1), whole)
    assert not torch.equal(points_of(x, 0.1, 6, 7), whole)
    assert around((x.half(), x), 0.1)(2)[0].dtype == torch.float16
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one, two = points_of(x, 0.1, None, 2), points_of(x, 0.1, None, 2)
    assert torch.equal(one, two)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert not torch.equal(points_of(x, 0.1, None, 2), one)


@pytest.mark.parametrize("norm", [1, 2, float("inf")])
def test_plain_measures_against_a_loop(case, norm):
    _, x, explained = case
    points = points_of(x, 0.3, 1, 6)
    found = [measure(explained, x, 0.3, 6, 1, norm=norm) for measure in PLAIN]
    for i in range(4):
        own = said(explained, x[i]).numpy()
        moves = [np.linalg.norm(said(explained, p).numpy() - own, norm) for p in points[i]]
        parts = [move / np.linalg.norm(own, norm) for move in moves]
        steps = [np.linalg.norm((p - x[i]).numpy(), norm) for p in points[i]]
        slopes = [move / step for move, step in zip(moves, steps, strict=True)]
        for value, expected in zip(found, (max(parts), sum(parts) / 6, max(slopes)), strict=True):
            assert float(value[i]) == pytest.approx(expected)


def test_the_largest_is_captums(case):
    _, x, explained = case
    points = points_of(x, 0.2, 4, 5)
    theirs = captum.metrics.sensitivity_max(
        lambda inputs: (explained((inputs[0] if isinstance(inputs, tuple) else inputs,), 1),),
        x,
        lambda _: points.flatten(0, 1),
        n_perturb_samples=5,
    )
    torch.testing.assert_close(max_sensitivity(explained, x, 0.2, 5, 4), theirs)


def relative_by_hand(model, x, explained, points, kind, norm, layer=None):
    """The paper's equations, number by number."""
    best = []
    for row, near in zip(x, points, strict=True):
        own, ratios = said(explained, row), []
        for point in near:
            here, there = model(row[None])[0].detach(), model(point[None])[0].detach()
            if here.argmax() != there.argmax():
                continue
            change = np.linalg.norm([(a - b) / b for a, b in zip(said(explained, point).tolist(), own.tolist(), strict=True)], norm)
            if kind == "output":
                below = (there - here).tolist()
            else:
                a, b = (point, row) if kind == "input" else (layer(point[None])[0].detach(), layer(row[None])[0].detach())
                below = [(p - q) / q for p, q in zip(a.tolist(), b.tolist(), strict=True)]
            ratios.append(change / max(np.linalg.norm(below, norm), SMALLEST))
        best.append(max(ratios) if ratios else float("nan"))
    return best


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("radius", [0.01, 1.5])
def test_relative_measures_against_a_loop(case, radius, norm):
    model, x, explained = case
    view, points = at_input(model, x, 0), points_of(x, radius, 2, 9)
    options = {"radius": radius, "samples": 9, "seed": 2, "norm": norm}
    for measure, kind in zip(RELATIVE, ("input", "output"), strict=True):
        expected = relative_by_hand(model, x, explained, points, kind, norm)
        assert measure(view, explained, **options).tolist() == pytest.approx(expected)
    expected = relative_by_hand(model, x, explained, points, "representation", norm, model[:2])
    assert relative_representation_stability(view, explained, "1", **options).tolist() == pytest.approx(expected)
    assert relative_representation_stability(view, explained, model[1], **options).tolist() == pytest.approx(expected)
    changed = model(points.flatten(0, 1)).argmax(1).view(4, 9) != model(x).argmax(1)[:, None]
    assert bool(changed.any()) == (radius > 1)  # so that points which do not count are among those above


def test_points_of_another_class_do_not_count():
    """The class is the sign of the first number, and the explanation is wild where it is negative."""
    view = at_input(lambda x: torch.stack([x[:, 0], -x[:, 0]], 1), torch.tensor([[0.1, 1.0], [0.1, 1.0]]))
    points = torch.tensor([[[0.2, 1.0], [-0.2, 1.0]], [[-0.1, 1.0], [-0.2, 1.0]]])

    def explained(given, count):
        return torch.where(given[0][:, :1] > 0, 1.0, 1e6) * given[0].abs()

    found = relative_input_stability(view, explained, lambda count: (points[:, :count],), 2)
    assert found[0].item() == pytest.approx(1)  # (0.2 - 0.1) / 0.1 of both
    assert found[1].isnan()  # nothing is left
    one = at_input(lambda x: x[:, 0], view.features)
    assert (relative_input_stability(one, explained, lambda count: (points[:, :count],), 2) > 1e5).all()  # no classes: all points count


def test_small_denominators():
    x = torch.tensor([[1.0, 0.0]]).double()
    view = at_input(lambda x: x.sum(1), x)
    moved = torch.tensor([[[1.0, 1e-8]]]).double()
    # The second number is zero, so it is taken in parts of the smallest; the change of the input is below the smallest too.
    found = relative_input_stability(view, lambda p, count: torch.cat([p[0][:, :1], p[0][:, 1:] * 3], 1), lambda count: (moved,), 1)
    assert found.item() == pytest.approx(3)
    steady = relative_output_stability(view, lambda p, count: p[0] + 1, lambda count: (moved,), 1, smallest=0.5)
    assert steady.item() == pytest.approx(1e-8 / 0.5)


def test_what_is_planted():
    """Attributions of a linear model never move; those of its product with the input move as the input does; a jump is wild."""
    torch.manual_seed(0)
    weights = torch.tensor([1.0, -2.0, 3.0]).double()
    x = torch.rand(5, 3).double() + 1
    view = at_input(lambda x: x @ weights, x)

    def constant(points, count):
        return weights.expand(len(points[0]), 3)

    def product(points, count):
        return points[0] * weights

    def jump(points, count):
        return torch.where(points[0] > x.repeat_interleave(count, 0), 10.0, 1.0) * weights

    options = {"radius": 0.01, "samples": 20, "seed": 0}
    for measure in PLAIN:
        values = [measure(e, x, **options) for e in (constant, product, jump)]
        assert (values[0] == 0).all()
        assert (values[0] < values[1]).all()
        assert (values[1] < values[2]).all()
    for measure in RELATIVE:
        values = [measure(view, e, **options) for e in (constant, product, jump)]
        assert (values[0] == 0).all()
        assert (values[1] < values[2]).all()
    torch.testing.assert_close(relative_input_stability(view, product, **options), torch.ones(5).double())
    # No direction stretches more than the largest weight, and some points come near it.
    steep = local_lipschitz(product, x, samples=200, seed=0)
    assert (steep <= 3 + 1e-9).all()
    assert (steep > 2.8).all()


def test_explanations_that_are_zero():
    x = torch.ones(2, 3)
    for measure in PLAIN:
        assert measure(lambda p, count: torch.zeros_like(p[0]), x).tolist() == [0, 0]
    from_zero = max_sensitivity(lambda p, count: p[0] - 1, x, 0.1, seed=0)
    torch.testing.assert_close(from_zero, (points_of(x, 0.1, 0, 10) - 1).norm(dim=2).amax(1).double())
    still = local_lipschitz(lambda p, count: p[0], x, lambda count: (x[:, None].expand(2, count, 3),))
    assert still.isnan().all()  # no point is elsewhere


@pytest.mark.parametrize("together", [None, 1, 3, 50])
def test_a_batch_is_its_examples_however_many_go_together(case, together):
    model, x, explained = case
    for measure in PLAIN:
        whole = measure(explained, x, 0.3, 8, 7)
        torch.testing.assert_close(measure(explained, x, 0.3, 8, 7, together), whole)
        torch.testing.assert_close(torch.cat([measure(explained, row[None], 0.3, 8, 7, together) for row in x]), whole)
    view = at_input(model, x)
    for measure in (*RELATIVE, lambda v, e, **o: relative_representation_stability(v, e, "1", **o)):
        options = {"radius": 0.3, "samples": 8, "seed": 7}
        whole = measure(view, explained, **options)
        torch.testing.assert_close(measure(view, explained, together=together, **options), whole)
        parts = [measure(view.some([i]), explained, together=together, **options) for i in range(4)]
        torch.testing.assert_close(torch.cat(parts), whole)


def test_targets_grow_with_the_points_and_so_do_arguments():
    """Every example comes `count` times in a row, and the view gives each its own argument."""
    x, y = torch.rand(3, 4).double() + 1, torch.tensor([0, 1, 2])
    scale = torch.tensor([[1.0], [2.0], [3.0]]).double()
    view = at_input(lambda x, s: x[:, :3] * s, x, y, args=scale)
    seen = []

    def explained(points, count):
        targets = y.repeat_interleave(count)[: len(points[0])]
        seen.append(count)
        return nn.functional.one_hot(targets, 4).double() * points[0] + 1

    own = relative_output_stability(view, explained, 0.1, 5, 0, together=2)
    assert seen == [1, 2, 2, 1]
    points = points_of(x, 0.1, 0, 5)
    for i in range(3):
        one, ratios = nn.functional.one_hot(y[i], 4).double(), []
        for point in points[i]:
            if point[:3].argmax() == x[i, :3].argmax():
                change = (one * (point - x[i])) / (one * x[i] + 1)
                ratios.append(float(change.norm() / ((point - x[i])[:3] * scale[i]).norm()))
        assert float(own[i]) == pytest.approx(max(ratios))


def test_several_inputs():
    a, b = torch.rand(2, 3).double(), torch.rand(2, 2, 2).double()

    def explained(points, count):
        return points[0] * 2, points[1] * 2

    torch.testing.assert_close(local_lipschitz(explained, (a, b), seed=0), torch.full((2,), 2.0).double())
    view = at_input(lambda a, b: a.sum(1) + b.sum((1, 2)), (a, b))
    torch.testing.assert_close(relative_input_stability(view, explained, seed=0), torch.ones(2).double())


def test_the_model_is_as_it_was(case):
    model, x, explained = case
    before = {name: value.clone() for name, value in model.state_dict().items()}
    hooks, state = [len(m._forward_hooks) for m in model.modules()], torch.get_rng_state()
    relative_representation_stability(at_input(model, x), explained, "0")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [len(m._forward_hooks) for m in model.modules()] == hooks
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.requires_grad for p in model.parameters())


def test_refusals(case):
    model, x, explained = case
    view = at_input(model, x)
    calls = [partial(measure, explained, x) for measure in PLAIN] + [partial(measure, view, explained) for measure in RELATIVE]
    for call in calls:
        for wrong in ({"samples": 0}, {"together": 0}):
            with pytest.raises(OptionError, match="at least 1"):
                call(**wrong)
        for radius in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(OptionError, match="radius is"):
                call(radius=radius)
    for says, wrong in (
        ("attributions of 4 points for 4[04]", lambda p, count: torch.zeros(4, 5)),
        ("NaN", lambda p, count: p[0] * torch.nan),
        ("infinite", lambda p, count: p[0] / 0),
        ("must be a tensor", lambda p, count: None),
    ):
        for measure in PLAIN:
            with pytest.raises(InputError, match=says):
                measure(wrong, x)
        with pytest.raises(InputError, match=says):
            relative_input_stability(view, wrong)
    with pytest.raises(InputError, match="which noise cannot move"):
        max_sensitivity(explained, x.long())
    with pytest.raises(InputError, match=r"they must be \[\(4, 10, 5\)\]"):
        local_lipschitz(explained, x, lambda count: (x[:, None],))
    with pytest.raises(OptionError, match="smallest is 0"):
        relative_output_stability(view, explained, smallest=0)
    with pytest.raises(OptionError, match="no layer 'nine'"):
        relative_representation_stability(view, explained, "nine")
    with pytest.raises(InputError, match="one answer for the whole batch"):
        relative_input_stability(at_input(lambda x: x.sum(), x), explained)
