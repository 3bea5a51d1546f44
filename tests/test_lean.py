"""Cheaper passes of frozen models: exact, sound against odd models, and gone where they do not fit."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pellucid
from pellucid import batch
from pellucid.batch import Run
from pellucid.gradient import integrated_gradients
from pellucid.lean import Lean, Recorder
from pellucid.perturb import feature_ablation
from pellucid.view import at_input
from tests.models import Conv, assert_same_state, state_of


@pytest.fixture(autouse=True)
def always_worthwhile(monkeypatch):
    monkeypatch.setattr(batch, "LEAN_FROM", 2)
    monkeypatch.setattr(batch, "LEAN_BYTES", 0)


def norm(channels, dim=2):
    layer = (nn.BatchNorm1d, nn.BatchNorm2d)[dim - 1](channels)
    layer.running_mean.normal_(0, 0.5)
    layer.running_var.uniform_(0.3, 3)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    return layer


class Shared(nn.Module):
    """One convolution used twice, each time before another batch-norm; its folding would be ambiguous."""

    def __init__(self):
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(2, 2, 3, padding=1), norm(2), norm(2)

    def forward(self, x):
        return self.b(self.conv(F.relu(self.a(self.conv(x))))).tanh().mean((1, 2, 3))


class Peeking(nn.Module):
    """The convolution's result goes into the batch-norm and somewhere else."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 3, 3), norm(3)

    def forward(self, x):
        y = self.conv(x)
        return (self.norm(y).relu() + y.sigmoid()).mean((1, 2, 3))


class Moody(nn.Module):
    """What it does depends on the values: a result that was only normalised when watched is used elsewhere later."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 3, 3), norm(3)

    def forward(self, x):
        y = self.conv(x)
        z = self.norm(y).relu().mean((1, 2, 3))
        return z + y.sigmoid().mean((1, 2, 3)) if len(x) > 2 else z


class Mixed(nn.Module):
    """Arithmetic, reshaping and a second use of the input before and beside the first layer."""

    def __init__(self):
        super().__init__()
        self.first, self.other, self.norm, self.out = nn.Linear(72, 6), nn.Linear(72, 6), norm(6, 1), nn.Linear(6, 1)
        self.register_buffer("mean", torch.rand(1, 2, 1, 1))

    def forward(self, x):
        y = ((x - self.mean) / 0.7 * 2).reshape(x.shape[0], -1)
        z = self.norm(self.first(y)).tanh() * torch.sigmoid(self.other(torch.flatten(x, 1)))
        return self.out(z)[:, 0] + x.pow(3).mean((1, 2, 3))


class Flat(nn.Module):
    """`view` after a convolution: a layout that is not contiguous must not break it."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(2, 3, 3), nn.Linear(48, 1)

    def forward(self, x):
        y = self.conv(x).relu()
        return self.out(y.view(y.size(0), -1))[:, 0]


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)

    def forward(self, x):
        x -= 0.5
        x.mul_(2)
        return self.conv(x).relu_().mean((1, 2, 3))


class Hooked(Peeking):
    """Somebody watches the convolution."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.conv.register_forward_hook(lambda module, args, out: self.seen.append(out.detach().mean()) and None)


class NoModel(nn.Module):
    def forward(self, x):
        return x.pow(3).mean((1, 2, 3))


MODELS = [Conv, Shared, Peeking, Moody, Mixed, Flat, InPlace, Hooked, NoModel]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("at_most", [None, 5])
def test_cheaper_passes_give_the_same_answer(kind, at_most, monkeypatch):
    model = kind().double().eval()
    x, b = torch.randn(3, 2, 6, 6).double(), torch.randn(3, 2, 6, 6).double()
    view = at_input(model, x, [3, 0, 1] if kind is Conv else None)
    before = state_of(model)
    lean = integrated_gradients(view, (b,), 11, run=Run(at_most)).values[0]
    ablated = feature_ablation(view, (b,), run=Run(at_most)).values[0]
    assert_same_state(before, state_of(model))
    monkeypatch.setattr(batch, "LEAN_FROM", 10**9)
    torch.testing.assert_close(lean, integrated_gradients(view, (b,), 11).values[0], rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(ablated, feature_ablation(view, (b,)).values[0], rtol=1e-9, atol=1e-13)


def lean_of(model, x):
    run = Run()
    integrated_gradients(at_input(model.eval(), x), (torch.zeros_like(x),), 8, run=run)
    return run.lean


@pytest.mark.parametrize(("kind", "folds"), [(Conv, 2), (Shared, 0), (Peeking, 0), (Mixed, 1), (Flat, 0)])
def test_what_is_folded(kind, folds):
    model = kind().eval()
    with torch.no_grad(), Recorder((model,)) as recorder:
        model(torch.randn(1, 2, 6, 6))
    assert len(recorder.pairs) == folds


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*:DeprecationWarning")
def test_it_stays_where_it_fits_and_goes_where_it_does_not():
    x = torch.randn(2, 2, 6, 6)
    assert isinstance(lean_of(Mixed(), x), Lean)
    assert isinstance(lean_of(Peeking(), x), Lean)
    assert lean_of(Moody(), x) is None
    assert lean_of(Hooked(), x) is None
    assert lean_of(torch.jit.trace(Peeking().eval(), x), x) is None


def test_batch_norm_in_train_mode_is_not_folded():
    model = Conv().train()
    with torch.no_grad(), Recorder((model,)) as recorder:
        model(torch.randn(4, 2, 6, 6))
    assert not recorder.pairs


def test_the_first_layer_runs_once_for_the_whole_line(monkeypatch):
    rows = []
    real = F.linear

    class Watching(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is real and args[1].shape[1] == 72:
                rows.append(len(args[0]))
            return func(*args, **(kwargs or {}))

    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.Tanh(), nn.Linear(8, 1)).eval()
    x = torch.randn(2, 2, 6, 6)
    with Watching():
        integrated_gradients(at_input(model, x), (torch.zeros_like(x),), 40)
    assert sum(rows) < 20


@pytest.mark.parametrize("method", ["integrated_gradients", "feature_ablation", "smoothgrad", "gradient_shap"])
def test_batch_is_loop_and_chunks_do_not_matter_with_cheaper_passes(method):
    model, x = Conv().double().eval(), torch.randn(3, 2, 6, 6).double()
    options = {"steps": 9} if method == "integrated_gradients" else {"samples": 9} if method != "feature_ablation" else {}
    together = pellucid.explain(model, x, 1, method, seed=1, **options).attribution
    chunked = pellucid.explain(model, x, 1, method, seed=1, at_most=4, **options).attribution
    torch.testing.assert_close(together, chunked, rtol=1e-9, atol=1e-13)
    for i in range(3):
        alone = pellucid.explain(model, x[i : i + 1], 1, method, seed=1, **options).attribution
        torch.testing.assert_close(alone[0], together[i], rtol=1e-9, atol=1e-13)


def test_several_targets_with_cheaper_passes():
    model, x = Conv().double().eval(), torch.randn(3, 2, 6, 6).double()
    together = pellucid.explain_each(model, x, [0, 2], steps=9)
    for target, found in zip([0, 2], together, strict=True):
        torch.testing.assert_close(found.attribution, pellucid.explain(model, x, target, steps=9).attribution, rtol=1e-9, atol=1e-13)


# What a line must notice: each of these once gave wrong numbers, or none.


class Normalised(nn.Module):
    """Affine steps on the input, then something that is not, then layers."""

    def __init__(self, between) -> None:
        super().__init__()
        self.between = between
        self.net = nn.Sequential(nn.Linear(72, 16), nn.Softplus(), nn.Linear(16, 2))

    def forward(self, x):
        return self.net(self.between(x.flatten(1) * 2 - 0.7))


def through_a_hook(x):
    if x.requires_grad:
        x.register_hook(lambda g: g.clamp(-1e-3, 1e-3))
    return x


def forces(x):
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        (found,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
    return found


def written(x, change):
    change(x)
    return x


BETWEEN = {
    "elu in place": nn.ELU(inplace=True),
    "functional relu in place": lambda x: F.relu(x, inplace=True),
    "hardtanh in place": lambda x: F.hardtanh(x, 0, 1, True),
    "part of it in place": lambda x: written(x, lambda x: x[:, :10].mul_(0)),
    "behind autograd's back": lambda x: written(x, lambda x: x.data.mul_(3)),
    "detached": lambda x: written(x, lambda x: x.detach().mul_(3)),
    "a hook": through_a_hook,
    "a derivative": forces,
    "a norm without gradient": lambda x: x / x.detach().norm(dim=1, keepdim=True) * 10,
    "a number": lambda x: x / x.detach().norm().item() if len(x) == 1 else x / x.detach().norm(dim=1, keepdim=True),
    "a checkpoint": lambda x: torch.utils.checkpoint.checkpoint(lambda x: x * 2, x, use_reentrant=False),
}


@pytest.mark.parametrize("at_most", [None, 1])
@pytest.mark.parametrize("between", BETWEEN)
def test_a_line_notices_what_bends_it(between, at_most):
    torch.manual_seed(3)
    model, x = Normalised(BETWEEN[between]).double().eval(), torch.rand(4, 2, 6, 6).double()
    baselines = torch.rand(1, 2, 6, 6).double() * 0.3
    found = pellucid.explain(model, x, 1, steps=12, rule="riemann_middle", baselines=baselines, at_most=at_most).attribution
    nodes = (torch.arange(12) + 0.5) / 12
    for i in range(4):
        total = torch.zeros(1, 2, 6, 6).double()
        for node in nodes:
            point = (baselines + node * (x[i : i + 1] - baselines)).requires_grad_()
            total += torch.autograd.grad(model(point * 1.0)[0, 1], point)[0] / 12
        torch.testing.assert_close(found[i], (total * (x[i] - baselines))[0], rtol=1e-6, atol=1e-8)


def test_checkpointed_first_layers():
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Softplus(), nn.Flatten(), nn.Linear(64, 2)).double().eval()
    x = torch.rand(4, 2, 6, 6).double()
    checkpointed = lambda x: torch.utils.checkpoint.checkpoint(net, x, use_reentrant=False)  # noqa: E731
    found, expected = (pellucid.explain(m, x, 1, steps=12).attribution for m in (checkpointed, net))
    torch.testing.assert_close(found, expected)
