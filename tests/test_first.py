"""Features replaced one at a time in the result of a first linear layer: equal to full passes, or not done."""

import pytest
import torch
from torch import nn

import pellucid
from pellucid.batch import Run
from pellucid.perturb import feature_ablation, groups_of
from pellucid.perturb.first import LEAST, one_at_a_time
from pellucid.view import at_input

WIDE = 600


class Twice(nn.Module):
    """Two linear layers read the input."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(WIDE, 8), nn.Linear(WIDE, 8, bias=False)

    def forward(self, x):
        return torch.tanh(self.a(x)) * self.b(x.clone())


class Also(nn.Module):
    """Something else reads the input too."""

    def __init__(self, reads):
        super().__init__()
        self.a, self.reads = nn.Linear(WIDE, 4), reads

    def forward(self, x):
        return self.a(x) + self.reads(x)


class Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sum(1, keepdim=True)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def mlp():
    return nn.Sequential(nn.Linear(WIDE, 16), nn.Tanh(), nn.Linear(16, 4))


def flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(WIDE, 16), nn.ReLU(), nn.Linear(16, 4))


MODELS = {
    "perceptron": (mlp, (WIDE,), True),
    "no bias": (lambda: nn.Sequential(nn.Linear(WIDE, 4, bias=False)), (WIDE,), True),
    "pictures": (flat, (1, 20, 30), True),
    "two branches": (Twice, (WIDE,), True),
    "a sum beside": (lambda: Also(lambda x: x.sum(1, keepdim=True)), (WIDE,), False),
    "in place": (lambda: Also(lambda x: x.mul_(2)[:, :4]), (WIDE,), False),
    "a function of one's own": (lambda: Also(Hidden.apply), (WIDE,), False),
    "a layer before": (lambda: nn.Sequential(nn.LayerNorm(WIDE), mlp()), (WIDE,), False),
    "rows in reach": (lambda: nn.Sequential(nn.Unflatten(1, (2, WIDE // 2)), nn.Linear(WIDE // 2, 4), nn.Flatten()), (WIDE,), False),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [1, 3])
def test_ablation_is_a_loop_of_full_passes(name, size):
    make, shape, easy = MODELS[name]
    torch.manual_seed(0)
    model = make().double().eval()
    before = {n: p.clone() for n, p in model.state_dict().items()}
    x, blank = torch.randn(size, *shape).double(), torch.randn(size, *shape).double()
    view, run = at_input(model, x.clone(), 2), Run()
    with torch.no_grad():
        expected = torch.empty(size, x[0].numel()).double()
        for feature in range(x[0].numel()):
            point = x.flatten(1).clone()
            point[:, feature] = blank.flatten(1)[:, feature]
            expected[:, feature] = model(x.clone())[:, 2] - model(point.view_as(x))[:, 2]
    found = feature_ablation(view, (blank,), run=run)
    torch.testing.assert_close(found.values[0][0].flatten(1), expected)
    ends = Run().settle(view, (blank,))
    assert (one_at_a_time(ends.view, (blank,), Run(), "") is not None) == easy
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())


def test_what_is_small_grouped_or_limited_takes_full_passes():
    model, x = mlp().double(), torch.randn(2, WIDE).double()
    view = Run().settle(at_input(model, x, 0), (torch.zeros_like(x),)).view
    assert one_at_a_time(view, (torch.zeros_like(x),), Run(at_most=7), "") is None
    layer, few = nn.Linear(LEAST - 1, 2).double(), torch.randn(2, LEAST - 1).double()
    small = Run().settle(at_input(layer, few, 0), (torch.zeros_like(few),)).view
    assert one_at_a_time(small, (torch.zeros_like(few),), Run(), "") is None
    grouped = feature_ablation(at_input(model, x, 0), (torch.zeros_like(x),), groups_of((x,), torch.arange(WIDE)[None] // 2))
    torch.testing.assert_close(grouped.values[0][..., 0::2], grouped.values[0][..., 1::2])


def test_the_cost_is_counted_and_half_precision_is_left_alone():
    model, x = mlp().eval(), torch.randn(1, WIDE)
    assert pellucid.explain(model, x, 0, "feature_ablation").cost.forwards == WIDE + 5
    half = pellucid.explain(mlp().bfloat16(), x.bfloat16(), 0, "feature_ablation")
    assert half.attribution.dtype == torch.bfloat16


def test_a_score_that_is_not_finite_is_named():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(WIDE, 4)

        def forward(self, x):
            return torch.where(self.a(x) > 1e9, torch.nan, self.a(x)).log()

    found = pellucid.explain(Broken(), torch.randn(1, WIDE), 0, "feature_ablation")
    assert not found.check("finite").passed
