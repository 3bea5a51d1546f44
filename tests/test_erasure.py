"""Faithfulness by erasure: against slow loops over every subset, and truth above random and constant maps on a planted model."""

import numpy as np
import pytest
import torch
from torch import nn

from pellucid import InputError, OptionError, at_input
from pellucid.metrics import comprehensiveness, faithfulness_correlation, sufficiency


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(24, 10), nn.Tanh(), nn.Linear(10, 3)).double().eval()
    x = torch.randn(4, 2, 3, 4).double()
    return model, x, at_input(model, x, [0, 1, 2, 1]), torch.randn_like(x)


def slow(model, x, target, attribution, share, fill, keep):
    flat, count = attribution.flatten(), max(1, int(np.ceil(round(share * attribution.numel(), 9))))
    best = sorted(range(len(flat)), key=lambda i: -float(flat[i]))[:count]
    chosen = torch.zeros(len(flat), dtype=torch.bool)
    chosen[best] = True
    chosen = chosen.view(attribution.shape)
    return float(model(torch.where(chosen == keep, x, torch.full_like(x, fill))[None])[0, target].detach())


@pytest.mark.parametrize("fill", [0.0, 0.5])
def test_against_a_loop(case, fill):
    model, x, view, attribution = case
    shares = (0.01, 0.1, 0.3, 1.0)
    for measure, keep in ((comprehensiveness, False), (sufficiency, True)):
        found = measure(view, attribution, fill, shares)
        for i, target in enumerate([0, 1, 2, 1]):
            scores = [slow(model, x[i], target, attribution[i], share, fill, keep) for share in shares]
            assert float(found[i].detach()) == pytest.approx(float(model(x[i : i + 1])[0, target].detach()) - np.mean(scores))


def test_maps_without_channels(case):
    _model, x, view, attribution = case
    wide = attribution[:, :1].expand(-1, 2, -1, -1)
    found = comprehensiveness(view, attribution[:, 0], shares=(0.5,))
    rows = wide[:, 0].flatten(1)
    kept = torch.ones(4, 12)
    kept.scatter_(1, rows.topk(6, 1).indices, 0.0)
    expected = view.score((x,))[0] - view.score((x * kept.view(4, 1, 3, 4),))[0]
    torch.testing.assert_close(found, expected.detach())


@pytest.mark.parametrize("size", [1, 5, 0.25])
def test_correlation_over_subsets(case, size):
    model, x, view, attribution = case
    found = faithfulness_correlation(view, attribution, 0.0, size, 40, seed=3)
    from pellucid.metrics import random_subsets

    masks = random_subsets((attribution,), size, 40, 3).chosen(slice(0, 1), torch.arange(40))[0][:, 0]
    count = size if isinstance(size, int) else round(size * 24)
    assert (masks.flatten(1).sum(1) == count).all()
    for i, target in enumerate([0, 1, 2, 1]):
        said = [float(attribution[i][mask].sum()) for mask in masks]
        falls = [float((model(x[i : i + 1])[0, target] - model((x[i] * ~mask)[None])[0, target]).detach()) for mask in masks]
        assert float(found[i]) == pytest.approx(np.corrcoef(said, falls)[0, 1])


@pytest.fixture(scope="module")
def planted():
    """Five of thirty features matter, by a sum that no map gets wrong who knows them."""
    torch.manual_seed(0)
    weights = torch.zeros(30).double()
    weights[:5] = torch.tensor([3.0, -2.0, 1.5, 2.5, 1.0]).double()
    x = torch.rand(6, 30).double() + 0.5
    x[:, 1] = -x[:, 1]
    view = at_input(lambda x: x @ weights, x)
    return view, x * weights


def test_truth_is_above_random_and_constant_maps(planted):
    view, truth = planted
    torch.manual_seed(1)
    others = [torch.rand_like(truth), torch.ones_like(truth), -truth]
    for other in others[:1] + others[2:]:
        assert (comprehensiveness(view, truth) > comprehensiveness(view, other)).all()
        assert (sufficiency(view, truth) < sufficiency(view, other)).all()
        assert (faithfulness_correlation(view, truth, size=3, seed=0) > faithfulness_correlation(view, other, size=3, seed=0)).all()
    # One order among equals happens to begin with what matters: only what it says of subsets can tell.
    assert faithfulness_correlation(view, others[1], size=3, seed=0).isnan().all()
    torch.testing.assert_close(faithfulness_correlation(view, truth, size=3, seed=0), torch.ones(6).double())


def test_a_batch_is_its_examples_and_seeds_repeat(case):
    _, _x, view, attribution = case
    for measure in (comprehensiveness, sufficiency):
        one = torch.cat([measure(view.some([i]), attribution[i : i + 1]) for i in range(4)])
        torch.testing.assert_close(one, measure(view, attribution))
    whole = faithfulness_correlation(view, attribution, seed=2)
    torch.testing.assert_close(
        torch.cat([faithfulness_correlation(view.some([i]), attribution[i : i + 1], seed=2) for i in range(4)]), whole
    )
    state = torch.get_rng_state()
    assert torch.equal(faithfulness_correlation(view, attribution), faithfulness_correlation(view, attribution))
    assert torch.equal(torch.get_rng_state(), state)


def test_several_inputs():
    torch.manual_seed(0)
    a, b = torch.rand(3, 4).double(), torch.rand(3, 2).double()
    view = at_input(lambda x, y: x.sum(1) + 10 * y.sum(1), (a, b))
    found = comprehensiveness(view, (a, 10 * b), shares=(1 / 6, 2 / 6))
    best = torch.cat([a, 10 * b], 1).sort(1, descending=True).values[:, :2]
    torch.testing.assert_close(found, (best[:, 0] + best.sum(1)) / 2)


def test_refusals(case):
    _, _x, view, attribution = case
    for shares in ((), (0.0,), (1.5,)):
        with pytest.raises(OptionError, match="shares are"):
            comprehensiveness(view, attribution, shares=shares)
    with pytest.raises(InputError, match="attribution"):
        sufficiency(view, attribution[:, :, :2])
    for options in ({"size": 0}, {"size": 25}, {"samples": 1}):
        with pytest.raises(OptionError, match="samples"):
            faithfulness_correlation(view, attribution, **options)
