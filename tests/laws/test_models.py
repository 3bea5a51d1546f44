"""The same network in many guises gives the same answer: compiled, traced, wrapped, working in place, under other modes."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pellucid
from pellucid import METHODS, OptionError
from tests.laws.test_methods import OPTIONS

every_method = pytest.mark.parametrize("method", METHODS)


class Plain(nn.Module):
    """Convolution, batch-norm, ReLU, pool, linear: what every guise below computes too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)
        nn.init.normal_(self.norm.running_mean)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.conv(x))).mean((2, 3)))


class InPlace(Plain):
    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2).div_(2)
        return self.head(self.norm(self.conv(x)).relu_().mean((2, 3)))


class Watched(Plain):
    """Keeps what it saw, detached, and asks about it."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x.detach().sum().item()
        return super().forward(x)


@dataclass
class Output:
    logits: Tensor
    hidden: Tensor


class Structured(Plain):
    def forward(self, x: Tensor) -> Output:  # type: ignore[override]
        return Output(super().forward(x), x)


class Dictionary(Plain):
    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"logits": super().forward(x)}


@pytest.fixture(scope="module")
def plain() -> Plain:
    torch.manual_seed(0)
    return Plain().double().eval()


@pytest.fixture(scope="module")
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(3, 2, 6, 6).double()


def like(kind: type[Plain], plain: Plain) -> Plain:
    other = kind().double().eval()
    other.load_state_dict(plain.state_dict())
    return other


RULED = ("deeplift", "deeplift_shap", "guided_backprop", "deconvolution", "lrp", "attn_lrp")
GUISES = {
    "in place": lambda plain, x: like(InPlace, plain),
    "watched": lambda plain, x: like(Watched, plain),
    "traced": lambda plain, x: torch.jit.trace(plain, x[:2]),
    "compiled": lambda plain, x: torch.compile(plain, backend="eager"),
    "exported": lambda plain, x: torch.export.export(plain, (x[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},)).module(),
    "data parallel": lambda plain, x: nn.DataParallel(plain),
    "function": lambda plain, x: lambda x: plain(x),
    "method": lambda plain, x: plain.forward,
    "trained again": lambda plain, x: like(Plain, plain).requires_grad_(True),
    "hooked": lambda plain, x: hooked(like(Plain, plain)),
}


def hooked(model: nn.Module) -> nn.Module:
    model.head.register_forward_hook(lambda module, inputs, output: output + 0)  # type: ignore[union-attr]
    return model


def attributed(model, x, method, target=1):
    return pellucid.explain(model, x, target, method, seed=3, **OPTIONS.get(method, {})).attribution


@every_method
@pytest.mark.parametrize("guise", GUISES)
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute", "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:.*is deprecated:UserWarning"
)
def test_every_guise_of_a_model_gives_its_answer(plain, x, guise, method):
    model = GUISES[guise](plain, x)
    if guise == "traced" and method in RULED:
        with pytest.raises(OptionError, match="is scripted, so its operations cannot get the rules"):
            attributed(model, x, method)
        return
    torch.testing.assert_close(attributed(model, x, method), attributed(plain, x, method), rtol=1e-8, atol=1e-10)


@every_method
@pytest.mark.parametrize(
    ("kind", "target"),
    [(Structured, lambda output: output.logits[:, 1]), (Dictionary, lambda output: output["logits"][:, 1])],
    ids=["dataclass", "dict"],
)
def test_outputs_of_other_kinds_are_scored_by_a_function(plain, x, kind, target, method):
    torch.testing.assert_close(attributed(like(kind, plain), x, method, target), attributed(plain, x, method), rtol=1e-8, atol=1e-10)


@every_method
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_gradient_mode_does_not_matter(plain, x, context, method):
    with context():
        given = x.clone()
        found = attributed(plain, given, method)
    torch.testing.assert_close(found, attributed(plain, x, method), rtol=1e-8, atol=1e-10)


@every_method
def test_inputs_that_want_a_gradient_get_none(plain, x, method):
    given = x.clone().requires_grad_()
    found = attributed(plain, given, method)
    assert given.grad is None
    assert not found.requires_grad
    assert all(p.grad is None for p in plain.parameters())


@every_method
def test_an_input_that_is_not_used_gets_zeros(plain, x, method):
    if method in ("shapley", "banzhaf", "lime", "rise"):
        pytest.skip("a sample of coalitions gives it zero in expectation only")
    found = pellucid.explain(lambda x, y: plain(x), (x, x[:, :1]), 1, method, seed=3, **OPTIONS.get(method, {}))
    assert not found.attributions[1].any()
    if method not in ("gradient_shap", "smoothgrad", "smoothgrad_sq", "vargrad", "owen"):  # whose draws depend on the inputs before
        torch.testing.assert_close(found.attribution, attributed(plain, x, method), rtol=1e-8, atol=1e-10)


@every_method
def test_a_score_that_depends_on_nothing_is_zero_and_said_so(x, method):
    found = pellucid.explain(lambda x: torch.ones(len(x), 2).double(), x, 1, method, seed=3, **OPTIONS.get(method, {}))
    assert not found.attribution.any()
    signal = found.check("signal")
    assert signal is not None
    assert not signal.passed


def test_names_of_groups_do_not_matter(plain, x):
    groups = torch.arange(36).view(1, 1, 6, 6) // 7
    names = torch.tensor([900, -3, 17, 4, 70_000, 2])[groups]
    one, other = (pellucid.explain(plain, x, 1, "feature_ablation", feature_mask=g).attribution for g in (groups, names))
    torch.testing.assert_close(one, other, rtol=0, atol=0)
