"""Designs of coalitions and what is estimated from their scores, against slow and obvious re-implementations."""

import itertools
import math

import pytest
import torch

from pellucid.errors import InputError, OptionError
from pellucid.perturb.estimators import (
    banzhaf_of_all,
    constrained_least_squares,
    interactions_of_all,
    shapley_of_all,
    shapley_of_orders,
)
from pellucid.perturb.odd_gp import MOST_PAIRS, Prior, odd_gp
from pellucid.perturb.sampling import SHARES, every, pairs, permutations


def random_game(groups, examples=2):
    """A score for every coalition, in the order of `every`."""
    return torch.randn(2**groups, examples, dtype=torch.float64)


def number(kept):
    """The rows of `every` that hold these coalitions."""
    return (kept.long() << torch.arange(kept.shape[1])).sum(1)


def subsets(groups):
    return itertools.chain.from_iterable(itertools.combinations(groups, size) for size in range(len(groups) + 1))


def gains(scores, groups, *joining):
    """For every coalition of the other groups its size, and what the joining ones add to each other's effect."""
    place = lambda members: sum(1 << m for m in members)  # noqa: E731
    for others in subsets([g for g in range(groups) if g not in joining]):
        yield len(others), sum((-1) ** (len(joining) - len(some)) * scores[place((*others, *some))] for some in subsets(joining))


def slow_shapley(scores, groups):
    weight = [math.factorial(s) * math.factorial(groups - s - 1) / math.factorial(groups) for s in range(groups)]
    return torch.stack([sum(weight[size] * gain for size, gain in gains(scores, groups, i)) for i in range(groups)])


def fit(groups, scores, count=10**6, seed=0):
    """KernelSHAP of pairs."""
    half, weights = pairs(groups, count, seed)
    kept = torch.cat([half, ~half])
    return constrained_least_squares(kept, scores[number(kept)], torch.cat([weights, weights]), scores[-1], scores[0])


def drawn(groups, scores, count, seed=0):
    """Pairs, and half the differences of their scores."""
    half, _ = pairs(groups, count, seed)
    return half, (scores[number(half)] - scores[number(~half)]) / 2


def process(groups, scores, count=10**6, seed=0):
    """Odd-GP of pairs."""
    return odd_gp(*drawn(groups, scores, count, seed), scores[-1] - scores[0], seed)


# Designs


@pytest.mark.parametrize("groups", [0, 1, 2, 5])
def test_every_coalition_is_there_once_opposite_its_complement(groups):
    kept = every(groups)
    assert kept.dtype == torch.bool
    assert kept.shape == (2**groups, groups)
    assert number(kept).tolist() == list(range(2**groups))
    assert torch.equal(kept, ~kept.flip(0))


CASES = [(1, 5), (2, 0), (2, 9), (3, 2), (3, 9), (4, 7), (5, 8), (6, 20), (6, 31), (9, 100), (16, 300), (30, 15), (100, 500), (1100, 40)]


@pytest.mark.parametrize(("groups", "count"), CASES)
@pytest.mark.parametrize("by", SHARES)
def test_no_pair_comes_twice_and_there_are_as_many_as_fit(groups, count, by):
    kept, weights = pairs(groups, count, seed=3, by=by)
    assert kept.dtype == torch.bool
    assert weights.dtype == torch.float64
    assert len(kept) == len(weights) == min(count, 2 ** (groups - 1) - 1)
    assert bool((weights > 0).all())
    assert len(torch.unique(torch.cat([kept, ~kept]), dim=0)) == 2 * len(kept)
    assert bool(((kept.sum(1) > 0) & (2 * kept.sum(1) <= groups)).all())


@pytest.mark.parametrize("groups", range(2, 9))
def test_all_pairs_carry_the_weights_of_the_shapley_kernel(groups):
    kept, weights = pairs(groups, 10**6, seed=0)
    sizes = kept.sum(1).tolist()
    assert weights.tolist() == pytest.approx([(groups - 1) / (math.comb(groups, s) * s * (groups - s)) for s in sizes])


def test_small_sizes_are_exhausted_and_the_others_share_alike():
    counts = torch.bincount(pairs(30, 1500, seed=0)[0].sum(1), minlength=16).tolist()
    assert counts[1] == 30
    assert set(counts[2:15]) <= {108, 109}
    assert counts[15] in (54, 55)  # half of it: these are their own complements' size
    assert torch.bincount(pairs(30, 1500, seed=0, by="kernel")[0].sum(1))[2] > 250


@pytest.mark.parametrize(("groups", "count"), [(12, 300), (30, 1500)])
def test_the_weights_of_a_size_add_up_to_its_part_of_the_kernel(groups, count):
    kept, weights = pairs(groups, count, seed=1)
    for size in range(1, groups // 2 + 1):
        both = 2 if 2 * size == groups else 1
        assert float(weights[kept.sum(1) == size].sum()) * both == pytest.approx((groups - 1) / (size * (groups - size)))


def test_pairs_of_a_size_are_drawn_evenly():
    chosen = torch.cat([pairs(6, 12, seed)[0] for seed in range(1000)])
    for size, total in ((2, 15), (3, 10)):
        found = torch.unique(number(chosen[chosen.sum(1) == size]), return_counts=True)[1].double()
        assert len(found) == total
        assert float((found / found.mean() - 1).abs().max()) < 0.2


def test_few_pairs_reach_all_sizes_over_the_seeds():
    counts = sum(torch.bincount(pairs(21, 4, seed)[0].sum(1), minlength=11) for seed in range(500))
    assert counts[0] == 0
    assert counts[1:].float().std() < 0.15 * counts[1:].float().mean()


def test_designs_follow_from_the_seed_and_leave_the_random_state_alone():
    before = torch.get_rng_state()
    for design in (lambda seed: pairs(20, 100, seed)[0], lambda seed: permutations(20, 9, seed)):
        assert torch.equal(design(4), design(4))
        assert not torch.equal(design(4), design(5))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("count", [0, 1, 4, 7])
def test_orders_are_permutations_and_come_with_their_reverse(count):
    orders = permutations(6, count, seed=0)
    assert orders.dtype == torch.int64
    assert orders.shape == (count, 6)
    assert torch.equal(orders.sort(1).values, torch.arange(6).expand(count, 6))
    assert torch.equal(orders[1::2], orders[0 : count // 2 * 2 : 2].flip(1))


def test_designs_that_make_no_sense_are_refused():
    with pytest.raises(OptionError, match="leverage, kernel, root"):
        pairs(4, 3, seed=0, by="luck")
    for groups, count in ((0, 3), (4, -1)):
        with pytest.raises(InputError, match="pairs of coalitions"):
            pairs(groups, count, seed=0)
    with pytest.raises(InputError, match="sampled"):
        every(31)


# Estimators


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_shapley_and_banzhaf_values_are_their_formulas(groups):
    scores, kept = random_game(groups), every(groups)
    shuffled = torch.randperm(len(kept))
    banzhaf = torch.stack([sum(gain for _, gain in gains(scores, groups, i)) / 2 ** (groups - 1) for i in range(groups)])
    torch.testing.assert_close(shapley_of_all(kept, scores), slow_shapley(scores, groups))
    torch.testing.assert_close(shapley_of_all(kept[shuffled], scores[shuffled]), slow_shapley(scores, groups))
    torch.testing.assert_close(banzhaf_of_all(kept, scores), banzhaf)


@pytest.mark.parametrize("groups", [2, 3, 5])
def test_interactions_are_their_formula(groups):
    scores = random_game(groups)
    weight = [math.factorial(s) * math.factorial(groups - s - 2) / math.factorial(groups - 1) for s in range(groups - 1)]
    found = interactions_of_all(every(groups), scores)
    for i, j in itertools.permutations(range(groups), 2):
        torch.testing.assert_close(found[i, j], sum(weight[size] * gain for size, gain in gains(scores, groups, i, j)))
    torch.testing.assert_close(found.diagonal().T, shapley_of_all(every(groups), scores))


def test_one_group_interacts_with_none():
    assert interactions_of_all(every(1), torch.tensor([[1.0], [3.0]])).flatten().tolist() == [2.0]


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 5, 8])
def test_least_squares_on_all_coalitions_is_exact(groups):
    scores = random_game(groups)
    torch.testing.assert_close(fit(groups, scores), shapley_of_all(every(groups), scores))


@pytest.mark.parametrize("groups", [2, 5])
def test_all_orders_are_exact(groups):
    scores, orders = random_game(groups), torch.tensor(list(itertools.permutations(range(groups))))
    present = orders.argsort(1)[:, None] < torch.arange(groups + 1)[None, :, None]
    prefixes = scores[number(present.flatten(0, 1))].view(len(orders), groups + 1, -1)
    torch.testing.assert_close(shapley_of_orders(orders, prefixes).values, shapley_of_all(every(groups), scores))


def test_standard_errors_of_orders_tell_how_far_the_mean_is():
    scores = random_game(7, 1)
    exact, ratios = shapley_of_all(every(7), scores), []
    for seed in range(200):
        orders = permutations(7, 200, seed)
        present = orders.argsort(1)[:, None] < torch.arange(8)[None, :, None]
        found = shapley_of_orders(orders, scores[number(present.flatten(0, 1))].view(200, 8, 1))
        ratios.append(((found.values - exact) / found.errors).square().mean())
    assert torch.stack(ratios).mean().sqrt() == pytest.approx(1, abs=0.1)


def test_one_pair_of_orders_has_no_standard_error():
    found = shapley_of_orders(permutations(3, 2, seed=0), torch.randn(2, 4, 5))
    assert bool((found.errors == math.inf).all())
    assert bool(found.values.isfinite().all())


ALL = {
    "exact": lambda groups, scores: shapley_of_all(every(groups), scores),
    "least squares": lambda groups, scores: fit(groups, scores, 20),
    "Odd-GP": lambda groups, scores: process(groups, scores, 20).values,
}


@pytest.mark.parametrize("name", ALL)
def test_values_are_efficient_and_follow_scale_and_shift(name):
    scores = random_game(7)
    found = ALL[name](7, scores)
    torch.testing.assert_close(found.sum(0), scores[-1] - scores[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(ALL[name](7, -3 * scores + 5), -3 * found, rtol=1e-5, atol=1e-6)
    assert torch.equal(ALL[name](7, scores[:, 1:])[:, 0], found[:, 1]) or name != "Odd-GP"


@pytest.mark.parametrize("name", ["exact", "least squares"])
def test_values_are_linear(name):
    one, two = random_game(6), random_game(6)
    torch.testing.assert_close(ALL[name](6, one + 2 * two), ALL[name](6, one) + 2 * ALL[name](6, two))


def test_what_changes_nothing_gets_exactly_zero_and_equals_get_equal_values():
    kept = every(6)
    bits = kept.double()
    scores = (torch.sin(3 * bits[:, 0] + 2 * bits[:, 1]) + torch.exp(bits[:, 3] + bits[:, 4]) * bits[:, 0])[:, None]
    for of_all in (shapley_of_all, banzhaf_of_all):
        found = of_all(kept, scores)
        assert found[[2, 5]].abs().max() == 0
        assert float((found[3] - found[4]).abs()) < 1e-14
    assert interactions_of_all(kept, scores)[2].abs().max() == 0


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_too_few_coalitions_leave_equal_shares_and_no_more(rows):
    half, weights = pairs(8, 1000, seed=0)
    kept, full, empty = half[:rows], torch.tensor([3.0]).double(), torch.tensor([1.0]).double()
    scores = torch.randn(rows, 1, dtype=torch.float64)
    found = constrained_least_squares(kept, scores, weights[:rows], full, empty)
    torch.testing.assert_close(found.sum(0), full - empty)
    torch.testing.assert_close(torch.stack([found[k].sum(0) for k in kept]) + 1 if rows else scores, scores)  # they are met exactly
    beyond = found - 2 / 8
    rank = torch.linalg.matrix_rank(torch.cat([kept.double() - kept.double().mean(1, keepdim=True), beyond.T]))
    assert int(rank) == rows  # nothing beyond what the rows ask for


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_scores_type_comes_back(dtype):
    scores = torch.randn(16, 3, dtype=torch.float64).to(dtype)
    exact = shapley_of_all(every(4), scores.double())
    for found in (shapley_of_all(every(4), scores), fit(4, scores)):
        assert found.dtype == dtype
        torch.testing.assert_close(found, exact.to(dtype))
    assert interactions_of_all(every(4), scores).dtype == dtype
    assert process(4, scores).values.dtype == process(4, scores).variances.dtype == dtype


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="all 8 are needed"):
        shapley_of_all(every(3)[[0, 1, 2, 3, 4, 5, 6, 6]], torch.zeros(8, 1))
    with pytest.raises(InputError, match="all 8 are needed"):
        banzhaf_of_all(every(3)[:4], torch.zeros(4, 1))
    with pytest.raises(InputError, match="shapes"):
        constrained_least_squares(every(3), torch.zeros(8, 1), torch.ones(7), torch.ones(1), torch.zeros(1))
    with pytest.raises(InputError, match="groups \\+ 1"):
        shapley_of_orders(torch.tensor([[0, 1]]), torch.zeros(1, 2, 1))
    with pytest.raises(InputError, match="shapes"):
        odd_gp(every(3), torch.zeros(8, 2), torch.zeros(1), seed=0)
    with pytest.raises(InputError, match="constrained_least_squares"):
        odd_gp(torch.zeros(MOST_PAIRS + 1, 2, dtype=torch.bool), torch.zeros(MOST_PAIRS + 1, 1), torch.zeros(1), seed=0)


# The Gaussian process


def prior_of(groups):
    return Prior.of(torch.cat([torch.randn(groups) * 0.7 - 1, torch.tensor([-1.5, 0.3, -3.0])]).double())


def coefficient_variances(prior):
    """Of the Walsh coefficient of each odd set: by main effects, and by tosses of coins that come up odd."""
    groups, odds = len(prior.main), torch.tanh(prior.reach)
    chances = {some: math.prod((odds[k] if k in some else 1) / (1 + odds[k]) for k in range(groups)) for some in subsets(range(groups))}
    odd = {some: chance for some, chance in chances.items() if len(some) % 2}
    extra = lambda some: prior.main[some[0]] if len(some) == 1 else 0  # noqa: E731
    return {some: extra(some) + prior.higher * chance / sum(odd.values()) for some, chance in odd.items()}


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 5, 6])
def test_the_kernel_and_its_shapley_moments_are_sums_over_odd_sets(groups):
    prior, signs = prior_of(groups), every(groups).double() * 2 - 1
    variances = coefficient_variances(prior)
    waves = {some: signs[:, list(some)].prod(1) for some in variances}
    # The Shapley values of each wave, by the subset formula, not by the identity that the code rests on.
    values = {some: slow_shapley(wave[:, None], groups)[:, 0] for some, wave in waves.items()}
    covariance = sum(v * torch.outer(waves[some], waves[some]) for some, v in variances.items())
    mixed = sum(v * torch.outer(waves[some], values[some]) for some, v in variances.items())
    torch.testing.assert_close(prior.covariance(signs, signs), covariance)
    torch.testing.assert_close(prior.shapley_covariance(signs), mixed)
    torch.testing.assert_close(prior.shapley_variance(), sum(v * values[some].square() for some, v in variances.items()))


def test_moments_are_those_of_sampled_games():
    prior, kept = prior_of(4), every(4)
    signs = kept.double() * 2 - 1
    variances = coefficient_variances(prior)
    waves = torch.stack([signs[:, list(some)].prod(1) * v.sqrt() for some, v in variances.items()], 1)
    games = waves @ torch.randn(waves.shape[1], 40_000, dtype=torch.float64)
    values = shapley_of_all(kept, games)
    torch.testing.assert_close(values.var(1), prior.shapley_variance(), rtol=0.05, atol=0)
    torch.testing.assert_close(games @ values.T / 40_000, prior.shapley_covariance(signs), rtol=0.1, atol=0.02)


def test_the_kernel_neither_overflows_nor_vanishes():
    for logs in (-30.0, -5.0, 2.0, 30.0):
        prior, signs = Prior.of(torch.full((43,), logs, dtype=torch.float64)), torch.ones(1, 40, dtype=torch.float64)
        assert float(prior.covariance(signs, signs)) == pytest.approx(float(prior.main.sum() + prior.higher), rel=1e-6)
        assert bool(prior.shapley_covariance(signs).isfinite().all())
        assert bool((prior.shapley_variance() > 0).all())


@pytest.mark.parametrize(("groups", "count"), [(1, 5), (2, 5), (3, 2), (9, 0), (9, 4), (30, 8), (12, 200)])
def test_any_number_of_pairs_gives_finite_efficient_values(groups, count):
    half, _ = pairs(groups, count, seed=0)
    differences, change = torch.randn(len(half), 3).double(), torch.randn(3).double()
    differences[:, 1] = change[1] = 0
    found = odd_gp(half, differences, change, seed=0)
    assert found.values.shape == found.variances.shape == (groups, 3)
    torch.testing.assert_close(found.values.sum(0), change, rtol=0, atol=1e-12)
    assert bool(found.variances.isfinite().all())
    assert float(found.variances.min()) >= 0
    assert float(found.values[:, 1].abs().max()) == float(found.variances[:, 1].max()) == 0


@pytest.mark.parametrize("scale", [1e-250, 1e-30, 1e30, 1e150])
def test_huge_and_tiny_scores_are_the_same_game(scale):
    scores = random_game(6)
    torch.testing.assert_close(process(6, scores * scale, 20).values / scale, process(6, scores, 20).values, rtol=1e-4, atol=1e-6)


def test_scores_that_are_not_numbers_stay_in_their_column():
    scores = random_game(6, 3)
    scores[7, 0], scores[-1, 1] = math.nan, math.inf
    found = process(6, scores).values
    assert bool(found[:, :2].isnan().all())
    assert torch.equal(found[:, 2:], process(6, scores[:, 2:]).values)


def test_the_seed_chooses_what_the_prior_is_fitted_to(monkeypatch):
    monkeypatch.setitem(odd_gp.__globals__, "FITTED", 20)
    scores = random_game(7)
    data = (*drawn(7, scores, 40), scores[-1] - scores[0])
    found = [odd_gp(*data, seed).values for seed in (1, 1, 2)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_games_that_are_explained_without_noise_are_factorised(dtype):
    half, _ = pairs(15, 150, seed=0)
    games = [
        lambda kept: kept[:, :1] * 2.0,
        lambda kept: kept.sum(1, keepdim=True) / 7,
        lambda kept: kept[:, :3].all(1, keepdim=True) * 1.0,
    ]
    for game in games:
        found = odd_gp(half, ((game(half) - game(~half)) / 2).to(dtype), game(every(1).expand(2, 15)).to(dtype).diff(dim=0)[0], seed=0)
        exact = shapley_of_all(every(3), game(torch.cat([every(3), torch.zeros(8, 12, dtype=torch.bool)], 1)))
        torch.testing.assert_close(found.values[:3], exact.to(dtype), rtol=1e-3, atol=1e-4)


def test_odd_gp_works_in_inference_mode_and_leaves_gradients_off():
    scores = random_game(6)
    expected = process(6, scores, 20).values
    with torch.inference_mode():
        assert torch.equal(process(6, scores.clone(), 20).values, expected)
    assert not process(6, scores.requires_grad_(), 20).values.requires_grad


class Smooth:
    """A game of a random perceptron between two points: scores of coalitions `(m, n)`."""

    def __init__(self, groups, seed):
        source = torch.Generator().manual_seed(seed)
        self.first, self.second = (torch.randn(groups, k, generator=source).double() for k in (16, 1))
        self.last = torch.randn(16, generator=source).double()

    def __call__(self, kept):
        return (torch.tanh((kept.double() * self.second.T) @ self.first / 2) @ self.last)[:, None]


def test_odd_gp_is_nearer_than_least_squares_and_knows_how_near():
    ratios, errors = [], []
    for seed in range(20):
        game, kept = Smooth(10, seed), every(10)
        scores = game(kept)
        exact = shapley_of_all(kept, scores)
        found = process(10, scores, 60, seed)
        ratios.append((found.values - exact) / found.variances.sqrt())
        errors.append([float((values - exact).square().sum()) for values in (found.values, fit(10, scores, 60, seed))])
    ratio = torch.cat(ratios).abs()
    assert 0.5 < float((ratio < 1).double().mean()) < 0.9
    assert float((ratio < 1.96).double().mean()) > 0.85
    ours, plain = torch.tensor(errors).median(0).values.tolist()
    assert ours < plain / 3
