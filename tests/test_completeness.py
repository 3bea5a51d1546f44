"""Completeness: against the sum it is, and methods that are known to be complete, or not."""

import pytest
import torch
from torch import nn

import pellucid
from pellucid import InputError, TargetError, at_input
from pellucid.batch import Run
from pellucid.metrics.completeness import completeness, completeness_of


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double().eval()
    x = torch.randn(4, 5).double()
    return model, x, [0, 2, 1, 1]


@pytest.mark.parametrize("relative", [False, True])
def test_against_a_loop(case, relative):
    model, x, target = case
    given, base = (torch.randn(4, 2, 3).double(), torch.randn(4, 7).double()), torch.randn(4, 5).double()
    found = completeness_of(at_input(model, x, target), given, base, relative)
    for i in range(4):
        change = float(model(x)[i, target[i]].detach() - model(base)[i, target[i]].detach())
        gap = abs(sum(part[i].sum().item() for part in given) - change)
        assert float(found[i]) == pytest.approx(gap / abs(change) if relative else gap)


def test_complete_methods_have_no_gap_and_others_do(case):
    model, x, target = case
    view = at_input(model, x, target)
    for method, options in (("integrated_gradients", {"steps": 200}), ("deeplift", {}), ("shapley_values", {})):
        found = completeness_of(view, pellucid.explain(model, x, target, method, baselines=0.3, **options).attribution, 0.3, True)
        assert (found < 1e-3).all(), method
    for given in (pellucid.explain(model, x, target, "saliency").attribution, torch.rand(4, 5), torch.ones(4, 5)):
        assert (completeness_of(view, given, 0.3, True) > 0.05).all()


def test_a_view_and_its_scores_say_the_same(case):
    model, x, target = case
    view, given = at_input(model, x, target), torch.randn(4, 5).double()
    here, there = (view.score((p,))[0].detach() for p in (x, torch.zeros_like(x)))
    torch.testing.assert_close(completeness_of(view, given), completeness(given, here, there))
    single = [completeness_of(view.some([i]), given[i : i + 1], relative=True) for i in range(4)]
    torch.testing.assert_close(torch.cat(single), completeness_of(view, given, relative=True))


def test_several_baselines_have_a_mean_score(case):
    model, x, target = case
    view, given, base = at_input(model, x, target), torch.randn(4, 5).double(), torch.randn(6, 4, 5).double()
    there = torch.stack([view.score((b,))[0] for b in base]).mean(0).detach()
    expected = (given.sum(1) - (view.score((x,))[0].detach() - there)).abs()
    for run in (None, Run(at_most=1)):
        torch.testing.assert_close(completeness_of(view, given, base, run=run), expected)
    torch.testing.assert_close(completeness_of(view, given, base[:1]), completeness_of(view, given, base[0]))


def test_of_a_layer(case):
    model, x, target = case
    inner = pellucid.explain(model, x, target, "integrated_gradients", layer=model[1], steps=200)
    view = pellucid.at_layer(at_input(model, x, target), model[1])
    base = pellucid.at_layer(at_input(model, torch.zeros_like(x), target), model[1]).features[0]
    assert (completeness_of(view, inner.attribution, base) < 1e-4).all()


def test_defined_values():
    zero, some, scores = torch.zeros(1, 3), torch.tensor([[1.0, -1.0, 2.0]]), torch.tensor([5.0])
    assert completeness(zero, scores, 3.0).item() == 2
    assert completeness(zero, scores, 3.0, relative=True).item() == 1
    assert completeness(zero, scores, 5.0, relative=True).item() == 0  # nothing to explain, and nothing said
    assert completeness(some, scores, 5.0, relative=True).item() == float("inf")
    assert completeness(some, scores, torch.tensor([3.0])).item() == 0
    assert completeness((some.half(), some), scores.half(), 1.0).dtype == torch.float64


def test_sums_are_exact_whatever_the_precision():
    """2048 + 1 is 2048 in half precision, and 2 ** 24 + 1 is 2 ** 24 in single."""
    assert completeness(torch.ones(1, 4096).half(), torch.tensor([4096.0]), 0.0).item() == 0
    assert completeness(torch.tensor([[2.0**24, 1.0, 1.0]]), torch.tensor([2.0**24 + 2]), 0.0).item() == 0


def test_refusals(case):
    model, x, target = case
    given, scores = torch.ones(2, 3), torch.ones(2)
    for says, call in (
        ("scores has shape \\(3,\\) for attributions of 2", lambda: completeness(given, torch.ones(3), 0.0)),
        ("scores has shape \\(2, 1\\)", lambda: completeness(given, torch.ones(2, 1), 0.0)),
        ("scores has shape \\(\\)", lambda: completeness(given, torch.tensor(1.0), 0.0)),
        ("baseline_scores has shape \\(4,\\)", lambda: completeness(given, scores, torch.ones(4))),
        ("scores has values that are NaN", lambda: completeness(given, scores * torch.nan, 0.0)),
        ("baseline_scores has values", lambda: completeness(given, scores, float("inf"))),
        ("attribution of shape", lambda: completeness(given * torch.nan, scores, 0.0)),
        ("infinite values", lambda: completeness(given / 0, scores, 0.0)),
        ("must be a tensor", lambda: completeness([], scores, 0.0)),
        ("one score for the whole batch", lambda: completeness_of(at_input(lambda x: x.sum(), x), x)),
        ("attributions of 2 examples", lambda: completeness_of(at_input(model, x, target), given)),
        ("baselines has shape", lambda: completeness_of(at_input(model, x, target), x, torch.ones(2, 5))),
    ):
        with pytest.raises(InputError, match=says):
            call()
    from pellucid.target import Every

    with pytest.raises(TargetError, match="3 targets"):
        completeness_of(at_input(model, x, Every()), x)
