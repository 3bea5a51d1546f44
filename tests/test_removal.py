"""Removal: what is remembered, imputation against a dense system, both orders, monotonicity; all against slow loops."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from pellucid import InputError, OptionError, TargetError, at_input
from pellucid.metrics import (
    NoisyLinear,
    Shared,
    area_between,
    deletion,
    faithfulness_correlation,
    infidelity,
    insertion,
    masks,
    monotonicity,
    monotonicity_correlation,
    random_subsets,
    road,
    sensitivity_n,
)
from pellucid.metrics.removal import removal_of
from pellucid.target import Several, resolve


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 3 * 4, 3)).double().eval()
    x = torch.randn(4, 2, 5, 6).double()
    return model, x, at_input(model, x, [0, 1, 2, 1]), torch.randn(4, 5, 6).double()


def test_shared_scores_are_those_of_their_own_runs(case):
    _model, _x, view, importance = case
    shared = Shared()
    fill = 0.25
    for measure in (deletion, insertion):
        for order in ("most", "least"):
            alone = measure(view, importance, fill, 7, order).scores
            torch.testing.assert_close(measure(view, importance, fill, 7, order, shared).scores, alone)
    steps = random_subsets((importance[:, None],), 4, 10, 0)
    torch.testing.assert_close(infidelity(view, importance, steps, fill, run=shared), infidelity(view, importance, steps, fill))


def test_each_set_of_places_costs_one_forward_whoever_asks(case):
    _model, _x, view, importance = case
    shared = Shared()
    fill = 0.0
    deletion(view, importance, fill, 8, run=shared)
    after_one = shared.forwards
    deletion(view, importance * 3 + 1, fill, 8, run=shared)  # the same order
    deletion(view, -importance, fill, 8, "least", shared)  # the same sets again, and the features themselves
    assert shared.forwards == after_one
    # settling costs a pair, its sizes and the lean probe; apart from that each example has 8 sets of its own
    sets = {
        (i, tuple(row.flatten().tolist()))
        for i in range(4)
        for row in [importance[i] > np.percentile(importance[i], p) for p in np.arange(8) / 8 * 100]
    }
    probe = Shared()
    removal_of(view, fill, probe).scorer.run.settle(view, (torch.zeros_like(view.features[0]),), 8)
    assert after_one == probe.forwards + len(sets)
    other = torch.randn_like(importance)
    deletion(view, other, fill, 8, run=shared)
    assert after_one + 4 * 7 <= shared.forwards <= after_one + 4 * 8


def test_another_fill_is_another_score(case):
    _model, _x, view, importance = case
    shared, fills = Shared(), (0.0, 1.0)
    first, second = (deletion(view, importance, fill, 4, run=shared).scores for fill in fills)
    torch.testing.assert_close(second, deletion(view, importance, 1.0, 4).scores)
    assert not torch.allclose(first, second)


def test_several_references_are_not_remembered_but_right(case):
    _model, x, view, importance = case
    several = torch.stack([torch.zeros_like(x), torch.ones_like(x)])
    expected = deletion(view, importance, several, 4).scores
    torch.testing.assert_close(deletion(view, importance, several, 4, run=Shared()).scores, expected)


def test_nan_scores_are_noticed_when_shared():
    view = at_input(lambda x: torch.log(x.sum(1)), torch.ones(1, 3))
    found = deletion(view, torch.tensor([[1.0, 2.0, 3.0]]), -5.0, 3, run=Shared())
    assert [check.name for check in found.checks] == ["scores"]
    assert not found.checks[0].passed


def test_one_score_for_a_batch_and_several_targets_are_refused():
    x = torch.randn(3, 4)
    with pytest.raises(InputError, match="one score for the whole batch of 3"):
        deletion(at_input(lambda x: x.sum(), x), x, 0.0, 2, run=Shared())


def dense(image, hole):
    """Every pixel of one channel is an equation of a dense system: itself where it is known, else the mean of its neighbours."""
    height, width = image.shape
    system, right = np.zeros((height * width, height * width)), np.zeros(height * width)
    for y in range(height):
        for x in range(width):
            own = y * width + x
            if not hole[y, x]:
                system[own, own], right[own] = 1, image[y, x]
                continue
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    if (dy or dx) and 0 <= y + dy < height and 0 <= x + dx < width:
                        weight = 1 / 12 if dy and dx else 1 / 6
                        system[own, (y + dy) * width + x + dx] -= weight
                        system[own, own] += weight
    return np.linalg.solve(system, right).reshape(height, width)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_imputation_solves_the_neighbours_equations(share):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 7).double()
    holes = torch.rand(4, 2, 1, 6, 7) < share
    holes[..., 2, 3] = False  # where nothing is left, nothing can be solved
    (found,) = NoisyLinear(noise=0.0)((x,), (holes,))
    for n in range(4):
        for i in range(2):
            for c in range(3):
                np.testing.assert_allclose(found[n, i, c], dense(x[i, c].numpy(), holes[n, i, 0].numpy()), atol=1e-10)


def test_imputation_by_channel_with_noise_and_of_everything():
    torch.manual_seed(0)
    x = torch.randn(2, 2, 5, 5).double()
    holes = torch.rand(1, 2, 2, 5, 5) < 0.4
    (found,) = NoisyLinear(noise=0.0)((x,), (holes,))
    np.testing.assert_allclose(found[0, 1, 1], dense(x[1, 1].numpy(), holes[0, 1, 1].numpy()), atol=1e-10)
    (all_gone,) = NoisyLinear(noise=0.0)((x,), (torch.ones(1, 2, 1, 5, 5, dtype=torch.bool),))
    torch.testing.assert_close(all_gone[0], x.mean((2, 3), keepdim=True).expand_as(x))
    (noisy,) = NoisyLinear(noise=0.1, seed=3)((x,), (holes,))
    grain = (noisy - found)[0]
    assert (grain[~holes[0]] == 0).all()
    assert 0.03 < float(grain[holes[0]].std()) < 0.3
    torch.testing.assert_close(NoisyLinear(0.1, 3)((x[1:],), (holes[:, 1:],))[0][0, 0], noisy[0, 1])  # batch = loop


def test_imputation_is_for_pictures():
    view = at_input(lambda x: x.sum(1), torch.ones(1, 3))
    with pytest.raises(InputError, match="no neighbouring pixels"):
        deletion(view, torch.ones(1, 3), NoisyLinear())


def slow_area(model, x, target, importance, shares, replaced):
    flat, total = importance.flatten().numpy(), importance.numel()
    means = []
    for sign in (1, -1):
        order, scores = sorted(range(total), key=lambda i: (sign * flat[i], i)), []
        for share in shares:
            hole = np.zeros(total, bool)
            hole[order[: max(1, int(np.ceil(round(share * total, 9))))]] = True
            scores.append(float(model(replaced(x, hole.reshape(importance.shape))[None])[0, target].detach()))
        means.append(np.mean(scores))
    return means[0] - means[1]


def filled(image, hole):
    return torch.stack([torch.from_numpy(dense(channel.numpy(), hole)) for channel in image])


def test_area_between_and_road_against_loops(case):
    model, x, view, importance = case
    shares = (0.1, 0.3, 0.55, 1.0)
    found = area_between(view, importance, 0.5, shares)
    for i, target in enumerate([0, 1, 2, 1]):
        expected = slow_area(
            model, x[i], target, importance[i], shares, lambda image, hole: torch.where(torch.from_numpy(hole), 0.5, image)
        )
        assert float(found[i]) == pytest.approx(expected, abs=1e-9)
    found = road(view, importance, shares[:3], noise=0.0, run=Shared())
    for i, target in enumerate([0, 1, 2, 1]):
        expected = slow_area(model, x[i], target, importance[i], shares[:3], filled)
        assert float(found[i]) == pytest.approx(expected, abs=1e-9)
    assert (area_between(view, torch.ones(4, 5, 6).double()) == 0).all()  # says nothing, both orders are one


def test_monotonicity_against_a_loop(case):
    model, x, view, importance = case
    wide = importance[:, None].expand(-1, 2, -1, -1)
    found = monotonicity(view, importance, 0.0, steps=1000)
    for i, target in enumerate([0, 1, 2, 1]):
        flat, scores, shown = importance[i].flatten().abs(), [], torch.zeros(30, dtype=torch.bool)
        for place in [None, *sorted(range(30), key=lambda k: (float(flat[k]), k))]:
            if place is not None:
                shown[place] = True
            scores.append(float(model(torch.where(shown.view(5, 6), x[i], 0.0)[None])[0, target].detach()))
        assert float(found[i]) == pytest.approx(np.mean(np.diff(scores) >= 0))
    assert float((monotonicity(view, wide, 0.0, 10) - monotonicity(view, importance, 0.0, 10)).abs().max()) <= 1


def test_monotonicity_correlation_against_scipy(case):
    model, x, view, importance = case
    found = monotonicity_correlation(view, importance, 0.0, 3, 25, seed=5)
    chosen = random_subsets((importance[:, None],), 3, 25, 5).chosen(slice(0, 1), torch.arange(25))[0][:, 0, 0]
    for i, target in enumerate([0, 1, 2, 1]):
        said = [float(importance[i].abs()[mask].sum()) for mask in chosen]
        changes = [float((model(x[i : i + 1]) - model((x[i] * ~mask)[None]))[0, target].abs().detach()) for mask in chosen]
        assert float(found[i]) == pytest.approx(spearmanr(said, changes).statistic)


def test_sensitivity_n_is_the_correlation_at_each_size(case):
    _model, _x, view, importance = case
    found = sensitivity_n(view, importance, 0.0, (2, 0.5), 20, seed=7)
    for column, (size, seed) in enumerate([(2, 7), (0.5, 8)]):
        torch.testing.assert_close(found[:, column], faithfulness_correlation(view, importance, 0.0, size, 20, seed))


@pytest.fixture(scope="module")
def planted():
    """A block of bright pixels is all that matters, by a sum."""
    torch.manual_seed(0)
    weights = torch.zeros(1, 8, 8).double()
    weights[:, 2:4, 3:6] = 1.0
    x = 0.1 * torch.rand(6, 1, 8, 8).double() + weights
    return at_input(lambda x: (x * weights).flatten(1).sum(1), x), (x * weights)[:, 0]


@pytest.mark.parametrize(
    "measure",
    [
        lambda view, a: area_between(view, a, 0.0),
        lambda view, a: road(view, a),
        lambda view, a: monotonicity_correlation(view, a, samples=200, seed=0),
        lambda view, a: sensitivity_n(view, a, seed=0).mean(1),
        lambda view, a: -deletion(view, a, 0.0).mean,
        lambda view, a: insertion(view, a, 0.0).mean,
    ],
    ids=["area_between", "road", "monotonicity_correlation", "sensitivity_n", "deletion", "insertion"],
)
def test_truth_is_above_random_and_constant(planted, measure):
    view, truth = planted
    torch.manual_seed(1)
    found = measure(view, truth)
    assert float((found - measure(view, torch.rand_like(truth))).mean()) > 0
    constant = measure(view, torch.ones_like(truth))
    assert constant.isnan().all() or float((found - constant).mean()) >= 0


def test_monotonicity_tells_where_the_order_matters():
    """Weak features lower the score only where the strong one is shown: given back before it they cannot."""
    torch.manual_seed(0)
    x = torch.ones(8, 10).double()
    view = at_input(lambda x: x[:, 0] * (1 - 0.05 * x[:, 1:].sum(1)), x)
    truth = torch.tensor([0.55] + [-0.05] * 9).double().expand(8, 10)
    assert (monotonicity(view, truth) == 1).all()
    assert float(monotonicity(view, torch.rand(8, 10)).mean()) < 0.8
    assert (monotonicity(view, torch.ones(8, 10)) == 0.1).all()  # of equal ones the first: nine falls in ten


def test_batch_is_loop_and_the_model_stays(case):
    model, _x, view, importance = case
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    measures = (
        lambda v, a: area_between(v, a, 0.0),
        lambda v, a: road(v, a),
        lambda v, a: monotonicity(v, a, 0.0, 10),
        lambda v, a: monotonicity_correlation(v, a, 0.0, seed=1),
        lambda v, a: sensitivity_n(v, a, 0.0, seed=1).mean(1),
    )
    for measure in measures:
        whole = measure(view, importance)
        torch.testing.assert_close(torch.cat([measure(view.some([i]), importance[i : i + 1]) for i in range(4)]), whole)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_refusals(case):
    _model, x, view, importance = case
    with pytest.raises(OptionError, match="shares are"):
        area_between(view, importance, 0.0, (0.0,))
    with pytest.raises(OptionError, match="steps is 0"):
        monotonicity(view, importance, steps=0)
    with pytest.raises(OptionError, match="sizes is empty"):
        sensitivity_n(view, importance, sizes=())
    with pytest.raises(InputError, match="for an input of shape"):
        monotonicity(view, importance[:, 0])
    with pytest.raises(InputError, match="NaN"):
        area_between(view, importance * torch.nan)
    with pytest.raises(InputError, match="depends on what is removed"):
        infidelity(view, importance, masks(view.features, torch.zeros(1, 5, 6).bool()), NoisyLinear())
    both = at_input(_model, x, Several((resolve(0, 4), resolve(1, 4))))
    with pytest.raises(TargetError, match="targets"):
        deletion(both, importance, 0.0)
