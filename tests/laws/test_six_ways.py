"""One network written in many ways: rules see operations, so the spelling changes no method's answer."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pellucid
from tests.models import assert_same_state, state_of

RULED = ("deeplift", "deeplift_shap", "guided_backprop", "deconvolution", "lrp", "attn_lrp")
every_method = pytest.mark.parametrize("method", RULED)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
aten = torch.ops.aten
Way = Callable[[Tensor], Tensor]


def explained(model, x, method="deeplift", target=1, baseline=None, **options):
    """With references of their own for the methods that compare: one, or five."""
    draws = torch.randn(5, *x.shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(7)).to(x.dtype) / 2
    if method.startswith("deeplift"):
        options["baselines"] = baseline if baseline is not None else draws if method == "deeplift_shap" else draws[:1].expand(x.shape)
    return pellucid.explain(model, x, target, method, **options)


def assert_close(found, expected, least=0.0):
    """Within rounding of the largest attribution."""
    tolerance = max(least, {torch.float32: 1e-6, torch.float64: 1e-12}[expected.dtype])
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * max(1.0, float(expected.abs().max())))


def assert_complete(found, tolerance):
    change = (found.scores - found.baseline_scores).double()
    flat = found.attribution.double().flatten(1)
    assert ((flat.sum(1) - change).abs() <= tolerance * torch.maximum(change.abs(), 0.1 * flat.abs().sum(1))).all()


# --- activations


class Spelled(nn.Module):
    """Linear layers with two activations between them, however these are given."""

    def __init__(self, first: Way, second: Way) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(5, 9), nn.Linear(9, 6), nn.Linear(6, 3)
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.second(self.b(self.first(self.a(x)))))


def assigned(function: Way) -> Way:
    """In place where torch has no such spelling."""

    def run(x: Tensor) -> Tensor:
        x[:] = function(x.clone())
        return x

    return run


# The module, and then the function, the tensor's method (or the operator below it), and in place.
ACTIVATIONS: dict[str, tuple[Callable[[], nn.Module], Way, Way, Way]] = {
    "relu": (nn.ReLU, F.relu, lambda x: x.relu(), lambda x: x.relu_()),
    "relu6": (nn.ReLU6, F.relu6, aten.relu6, lambda x: F.relu6(x, inplace=True)),
    "leaky_relu": (
        lambda: nn.LeakyReLU(0.1),
        lambda x: F.leaky_relu(x, 0.1),
        lambda x: aten.leaky_relu(x, 0.1),
        lambda x: F.leaky_relu_(x, 0.1),
    ),
    "elu": (nn.ELU, F.elu, aten.elu, F.elu_),
    "gelu": (nn.GELU, F.gelu, aten.gelu, aten.gelu_),
    "silu": (nn.SiLU, F.silu, aten.silu, lambda x: F.silu(x, inplace=True)),
    "sigmoid": (nn.Sigmoid, F.sigmoid, lambda x: x.sigmoid(), lambda x: x.sigmoid_()),
    "tanh": (nn.Tanh, F.tanh, lambda x: x.tanh(), lambda x: x.tanh_()),
    "softplus": (nn.Softplus, F.softplus, aten.softplus, assigned(F.softplus)),
    "hardswish": (nn.Hardswish, F.hardswish, aten.hardswish, lambda x: F.hardswish(x, inplace=True)),
    "hardtanh": (nn.Hardtanh, F.hardtanh, aten.hardtanh, F.hardtanh_),
    "mish": (nn.Mish, F.mish, aten.mish, lambda x: F.mish(x, inplace=True)),
    "softmax": (
        lambda: nn.Softmax(-1),
        lambda x: F.softmax(x, -1),
        lambda x: x.softmax(-1),
        assigned(lambda x: torch.special.softmax(x, -1)),
    ),
    "log_softmax": (
        lambda: nn.LogSoftmax(-1),
        lambda x: F.log_softmax(x, -1),
        lambda x: x.log_softmax(-1),
        assigned(lambda x: torch.special.log_softmax(x, -1)),
    ),
}


def subclass(module: nn.Module) -> nn.Module:
    """A module of a user's subclass of the activation's class."""
    found = copy.copy(module)
    found.__class__ = type(f"My{type(module).__name__}", (type(module),), {"__module__": __name__})
    return found


def six_ways(name: str) -> dict[str, nn.Module]:
    module, function, method, in_place = ACTIVATIONS[name]
    shared = module()
    return {
        "modules": Spelled(module(), module()),
        "functional": Spelled(function, function),
        "methods": Spelled(method, method),
        "in place": Spelled(in_place, in_place),
        "one module": Spelled(shared, shared),
        "subclasses": Spelled(subclass(module()), subclass(module())),
    }


@every_dtype
@every_method
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_in_six_ways_gives_one_answer(name, method, dtype):
    x = torch.randn(4, 5, dtype=torch.float64).to(dtype)
    ways = {way: explained(net.to(dtype), x, method).attribution for way, net in six_ways(name).items()}
    assert ways["modules"].any()
    for found in ways.values():
        assert_close(found, ways["modules"])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_in_six_ways_adds_up(name):
    x = torch.randn(4, 5).double()
    for net in six_ways(name).values():
        assert_complete(explained(net.double(), x, strict=True), 1e-11)


RECTIFIERS = {
    "clamp": lambda x: x.clamp(min=0),
    "clamp_min": lambda x: torch.clamp_min(x, 0),
    "clamp_": lambda x: x.clamp_(0),
    "clip": lambda x: torch.clip(x, 0),
    "threshold": lambda x: F.threshold(x, 0.0, 0.0),
    "threshold_": lambda x: F.threshold_(x, 0.0, 0.0),
    "relu_": F.relu_,
    "torch.relu": torch.relu,
    "aten.relu.default": aten.relu.default,
    "aten.relu_": aten.relu_.default,
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "maximum of a number": lambda x: torch.maximum(x, x.new_zeros(())),
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "masked_fill": lambda x: x.masked_fill(x < 0, 0.0),
    "masked_fill_": lambda x: x.masked_fill_(x < 0, 0.0),
    "leaky without leak": lambda x: F.leaky_relu(x, 0.0),
    "half of x and its size": lambda x: (x + x.abs()) / 2,
}


@every_dtype
@pytest.mark.parametrize("way", RECTIFIERS)
def test_deeplift_knows_a_rectifier_by_what_it_does(way, dtype):
    x = torch.randn(4, 5, dtype=torch.float64).to(dtype)
    expected = explained(Spelled(nn.ReLU(), nn.ReLU()).to(dtype), x).attribution
    assert_close(explained(Spelled(RECTIFIERS[way], RECTIFIERS[way]).to(dtype), x).attribution, expected)


@pytest.mark.parametrize("method", ["guided_backprop", "deconvolution"])
@pytest.mark.parametrize("way", RECTIFIERS)
def test_a_rectifier_gets_the_guided_rule_or_is_reported(way, method):
    x = torch.randn(4, 5).double()
    expected = explained(Spelled(nn.ReLU(), nn.ReLU()).double(), x, method).attribution
    found = explained(Spelled(F.relu, RECTIFIERS[way]).double(), x, method)
    if "no rule" not in found.check("rules").message:
        assert_close(found.attribution, expected)


# --- other operations


class Around(nn.Module):
    """Weights around one operation."""

    def __init__(self, before: nn.Module, operation: Way, after: nn.Module) -> None:
        super().__init__()
        self.before, self.operation, self.after = before, operation, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.operation(self.before(x)))


def with_norm(kind: type[nn.Module], *args, **options) -> nn.Module:
    """A norm with weights and statistics of its own."""
    torch.manual_seed(3)
    norm = kind(*args, **options).double().eval()
    for tensor in (*norm.parameters(), *(b for b in norm.buffers() if b.is_floating_point())):
        tensor.data.uniform_(0.5, 1.5)
    return norm


LAYER, GROUP, BATCH = with_norm(nn.LayerNorm, 8), with_norm(nn.GroupNorm, 2, 4), with_norm(nn.BatchNorm2d, 4)
RMS = with_norm(nn.RMSNorm, 8, eps=1e-5)


def of(norm: nn.Module, x: Tensor, name: str = "weight") -> Tensor:
    return getattr(norm, name).detach().to(x.dtype)


def like(norm: nn.Module) -> Way:
    """The module itself, in the dtype that is asked for."""
    copies = {dtype: copy.deepcopy(norm).to(dtype).requires_grad_(False) for dtype in (torch.float32, torch.float64)}
    return lambda x: copies[x.dtype](x)


def standard(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    centred = x - x.mean(dims, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(dims, keepdim=True) + 1e-5)


def standard_by_var(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    return (x - x.mean(dims, keepdim=True)) * (x.var(dims, unbiased=False, keepdim=True) + 1e-5).rsqrt()


def affine(norm: nn.Module, x: Tensor, like: Tensor) -> Tensor:
    shape = (-1,) if like.dim() == 2 else (1, -1, 1, 1)
    return x * of(norm, x).view(shape) + of(norm, x, "bias").view(shape)


def batch_normed(x: Tensor) -> Tensor:
    mean, var = (of(BATCH, x, name).view(1, -1, 1, 1) for name in ("running_mean", "running_var"))
    return affine(BATCH, (x - mean) / torch.sqrt(var + 1e-5), x)


def halves(function: Callable[[Tensor, Tensor], Tensor]) -> Way:
    return lambda x: function(*x.chunk(2, 1))


def positive(x: Tensor) -> Tensor:
    return x * x + 1


class Residual(nn.Module):
    def __init__(self, add: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.add = add

    def forward(self, x: Tensor) -> Tensor:
        return self.add(x, torch.tanh(x))


def added_up(a: Tensor, b: Tensor) -> Tensor:
    a = a.clone()
    a += b
    return a


def changed(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda a, b: getattr(a.clone(), name)(b)


FLAT = {
    "layer norm": [
        like(LAYER),
        lambda x: F.layer_norm(x, (8,), of(LAYER, x), of(LAYER, x, "bias")),
        lambda x: torch.layer_norm(x, (8,), of(LAYER, x), of(LAYER, x, "bias")),
        lambda x: aten.native_layer_norm(x, (8,), of(LAYER, x), of(LAYER, x, "bias"), 1e-5)[0],
        lambda x: affine(LAYER, standard(x, (-1,)), x),
        lambda x: affine(LAYER, standard_by_var(x, (-1,)), x),
    ],
    "rms norm": [
        like(RMS),
        lambda x: F.rms_norm(x, (8,), of(RMS, x), 1e-5),
        lambda x: torch.rms_norm(x, (8,), of(RMS, x), 1e-5),
        lambda x: of(RMS, x) * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)),
        lambda x: of(RMS, x) * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt(),
    ],
    "residual": [
        Residual(operator.add),
        Residual(torch.add),
        Residual(lambda a, b: b.add(a)),
        Residual(changed("add_")),
        Residual(added_up),
        Residual(lambda a, b: a - -b),
        Residual(lambda a, b: torch.stack([a, b]).sum(0)),
        Residual(lambda a, b: sum([a, b])),
    ],
    "product": [
        halves(operator.mul),
        halves(torch.mul),
        halves(lambda a, b: b.mul(a)),
        halves(torch.multiply),
        halves(changed("mul_")),
        halves(lambda a, b: torch.einsum("bi,bi->bi", a, b)),
        halves(lambda a, b: torch.matmul(a[..., None, None], b[..., None, None])[..., 0, 0]),
    ],
    "quotient": [
        halves(lambda a, b: a / positive(b)),
        halves(lambda a, b: torch.div(a, positive(b))),
        halves(lambda a, b: a.div(positive(b))),
        halves(lambda a, b: torch.true_divide(a, positive(b))),
        halves(lambda a, b: a.clone().div_(positive(b))),
        halves(lambda a, b: a * positive(b).reciprocal()),
        halves(lambda a, b: a * (1 / positive(b))),
    ],
    "gate": [
        nn.GLU(1),
        lambda x: F.glu(x, 1),
        aten.glu,
        halves(lambda a, b: a * torch.sigmoid(b)),
        halves(lambda a, b: b.sigmoid().mul_(a)),
        halves(lambda a, b: F.sigmoid(b) * a),
    ],
    "attention of features": [
        lambda x: torch.softmax(x, -1) * x,
        lambda x: x.softmax(1).mul(x),
        lambda x: F.softmax(x, dim=1) * x,
        lambda x: x * nn.Softmax(dim=-1)(x),
    ],
    "largest": [
        lambda x: x.amax(1, keepdim=True).expand(-1, 4),
        lambda x: x.max(1, keepdim=True)[0].expand(-1, 4),
        lambda x: torch.max(x, dim=1, keepdim=True).values.expand(-1, 4),
        lambda x: F.adaptive_max_pool1d(x, 1).expand(-1, 4),
        lambda x: x.max(1).values[:, None].expand(-1, 4),
    ],
}
IMAGES = {
    "max pool": [
        nn.MaxPool2d(2),
        lambda x: F.max_pool2d(x, 2),
        lambda x: torch.max_pool2d(x, (2, 2)),
        lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
        lambda x: aten.max_pool2d_with_indices(x, (2, 2), (2, 2))[0],
        lambda x: x.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2)),
        lambda x: F.adaptive_max_pool2d(x, 3),
    ],
    "overlapping max pool": [
        nn.MaxPool2d(3, 1, 1),
        lambda x: F.max_pool2d(x, 3, stride=1, padding=1),
        lambda x: F.max_pool2d(input=x, kernel_size=(3, 3), stride=(1, 1), padding=1),
        lambda x: aten.max_pool2d_with_indices(x, (3, 3), (1, 1), (1, 1))[0],
        lambda x: F.pad(x, (1, 1, 1, 1), value=-1e4).unfold(2, 3, 1).unfold(3, 3, 1).amax((-1, -2)),
    ],
    "group norm": [
        like(GROUP),
        lambda x: F.group_norm(x, 2, of(GROUP, x), of(GROUP, x, "bias")),
        lambda x: torch.group_norm(x, 2, of(GROUP, x), of(GROUP, x, "bias")),
        lambda x: affine(GROUP, standard(x.unflatten(1, (2, 2)), (2, 3, 4)).flatten(1, 2), x),
        lambda x: affine(GROUP, standard_by_var(x.unflatten(1, (2, 2)), (2, 3, 4)).flatten(1, 2), x),
    ],
    "batch norm": [
        like(BATCH),
        lambda x: F.batch_norm(x, *(of(BATCH, x, name) for name in ("running_mean", "running_var", "weight", "bias"))),
        lambda x: torch.batch_norm(
            x, *(of(BATCH, x, name) for name in ("weight", "bias", "running_mean", "running_var")), False, 0.1, 1e-5, False
        ),
        batch_normed,
    ],
    "instance norm": [
        nn.InstanceNorm2d(4),
        F.instance_norm,
        lambda x: standard(x, (2, 3)),
        lambda x: F.group_norm(x, 4),
    ],
    "mean": [
        nn.AdaptiveAvgPool2d(1),
        lambda x: F.adaptive_avg_pool2d(x, 1),
        lambda x: x.mean((2, 3), keepdim=True),
        lambda x: F.avg_pool2d(x, 6),
        lambda x: (x.sum((2, 3)) / 36)[..., None, None],
    ],
}


def around(name: str, way: int) -> nn.Module:
    torch.manual_seed(0)
    if name in FLAT:
        narrow = {"product": 4, "quotient": 4, "gate": 4, "largest": 4}.get(name, 8)
        return Around(nn.Sequential(nn.Linear(5, 8), nn.Tanh()), FLAT[name][way], nn.Sequential(nn.Linear(narrow, 6), nn.Linear(6, 3)))
    return Around(nn.Conv2d(2, 4, 3, padding=1), IMAGES[name][way], nn.Sequential(nn.Flatten(), nn.Tanh(), nn.LazyLinear(3)))


def operation(name: str, way: int, dtype: torch.dtype) -> nn.Module:
    """Every way has the same weights, also of layers that find their width."""
    model = around(name, way)
    if name in IMAGES:
        model(torch.zeros(1, 2, 6, 6))
        torch.manual_seed(1)
        for parameter in model.after.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5)
    return model.to(dtype).eval()


def inputs_of(name: str, dtype: torch.dtype) -> Tensor:
    torch.manual_seed(2)
    return torch.randn(3, *((5,) if name in FLAT else (2, 6, 6)), dtype=torch.float64).to(dtype)


WAYS = [(name, way) for group in (FLAT, IMAGES) for name, ways in group.items() for way in range(1, len(ways))]


# A sum that is written apart from its products has a stabiliser of its own: what it adds, the eps of either method.
STABILISED = {"lrp": 1e-7, "attn_lrp": 1e-4}


@every_dtype
@every_method
@pytest.mark.parametrize(("name", "way"), WAYS)
def test_an_operation_in_other_words_gives_one_answer(name, way, method, dtype):
    x = inputs_of(name, dtype)
    expected = explained(operation(name, 0, dtype), x, method).attribution
    assert expected.any()
    assert_close(explained(operation(name, way, dtype), x, method).attribution, expected, STABILISED.get(method, 0.0))


@pytest.mark.parametrize(("name", "way"), WAYS)
def test_an_operation_in_other_words_adds_up(name, way):
    assert_complete(explained(operation(name, way, torch.float64), inputs_of(name, torch.float64), strict=True), 1e-11)


# --- linear layers


PRODUCTS = {
    "functional": lambda x, w, b: F.linear(x, w, b),
    "operator": lambda x, w, b: x @ w.t() + b,
    "method": lambda x, w, b: x.matmul(w.T).add(b),
    "mm": lambda x, w, b: torch.mm(x, w.t()) + b,
    "addmm": lambda x, w, b: torch.addmm(b, x, w.t()),
    "aten.addmm": lambda x, w, b: aten.addmm(b, x, w.t()),
    "einsum": lambda x, w, b: torch.einsum("bi,oi->bo", x, w) + b,
    "tensordot": lambda x, w, b: torch.tensordot(x, w, ([1], [1])) + b,
    "bmm": lambda x, w, b: torch.bmm(x[:, None], w.t().expand(len(x), -1, -1))[:, 0] + b,
    "sum of products": lambda x, w, b: (x[:, None] * w).sum(-1) + b,
    "inner": lambda x, w, b: torch.inner(x, w) + b,
    "conv1d": lambda x, w, b: F.conv1d(x[..., None], w[..., None], b)[..., 0],
    "in place": lambda x, w, b: (x @ w.t()).add_(b),
    "the other way round": lambda x, w, b: (w @ x.t()).t() + b,
}


class Product(nn.Module):
    """A bias and a matrix, multiplied in one of many ways."""

    def __init__(self, way: str | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers, self.way = nn.ModuleList([nn.Linear(5, 7), nn.Linear(7, 3)]), way

    def forward(self, x: Tensor) -> Tensor:
        first, second = (
            layer if self.way is None else (lambda x, layer=layer: PRODUCTS[self.way](x, layer.weight, layer.bias)) for layer in self.layers
        )
        return second(F.relu(first(x)))


@every_dtype
@every_method
@pytest.mark.parametrize("way", PRODUCTS)
def test_a_linear_layer_in_other_words_gives_one_answer(way, method, dtype):
    x = torch.randn(4, 5, dtype=torch.float64).to(dtype)
    options = {"eps": 1e-15} if "lrp" in method else {}  # else each of two operations adds its own to the denominator
    expected = explained(Product(None).to(dtype), x, method, **options).attribution
    found = explained(Product(way).to(dtype), x, method, **options).attribution
    assert_close(found, expected, 1e-9 if options else 0.0)


# --- whole networks


class Block(nn.Module):
    """A residual block whose only ReLU works in place and is used three times."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.one, self.two, self.head = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Linear(4, 3)
        self.norms = nn.ModuleList(with_norm(nn.BatchNorm2d, 4) for _ in range(3))
        self.relu, self.way = nn.ReLU(inplace=way == "one in place"), way
        self.relus = nn.ModuleList(subclass(nn.ReLU()) if way == "subclasses" else nn.ReLU() for _ in range(3))

    def rectified(self, x: Tensor, number: int) -> Tensor:
        ways = {"functional": F.relu, "methods": Tensor.relu, "in place": Tensor.relu_, "one in place": self.relu, "one module": self.relu}
        return ways.get(self.way, self.relus[number])(x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.rectified(self.norms[0](self.stem(x)), 0)
        y = self.norms[2](self.two(self.rectified(self.norms[1](self.one(x)), 1)))
        if self.way in ("one in place", "in place"):
            y += x
        else:
            y = torch.add(y, x) if self.way == "functional" else y + x
        return self.head(F.max_pool2d(self.rectified(y, 2), 2).mean((2, 3)))


@every_dtype
@every_method
@pytest.mark.parametrize("way", ["functional", "methods", "in place", "one in place", "one module", "subclasses"])
def test_a_residual_block_gives_one_answer(way, method, dtype):
    x = torch.randn(3, 2, 8, 8, dtype=torch.float64).to(dtype)
    expected = explained(Block("modules").to(dtype).eval(), x, method).attribution
    found = explained(Block(way).to(dtype).eval(), x, method)
    assert_close(found.attribution, expected)
    if method == "deeplift":
        assert_complete(found, {torch.float32: 1e-5, torch.float64: 1e-12}[dtype])


class Attending(nn.Module):
    """A transformer's block; attention by a module, by a function, or step by step."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.attention, self.other = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True), nn.LayerNorm(8)
        self.up, self.down, self.head, self.way = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 3), way

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attended(self.norm(x))
        return self.head((x + self.down(F.gelu(self.up(self.other(x))))).mean(1))

    def attended(self, x: Tensor) -> Tensor:
        own = self.attention
        if self.way in ("module", "with weights"):
            return own(x, x, x, need_weights=self.way == "with weights")[0]
        if self.way == "causal module":
            return own(x, x, x, attn_mask=nn.Transformer.generate_square_subsequent_mask(x.shape[1]).to(x), need_weights=False)[0]
        q, k, v = F.linear(x, own.in_proj_weight, own.in_proj_bias).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return own.out_proj(self.mixed(q, k, v).transpose(1, 2).flatten(2))

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        causal = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).tril()
        if self.way == "function":
            return F.scaled_dot_product_attention(q, k, v)
        if self.way == "causal":
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        if self.way == "masked":
            return F.scaled_dot_product_attention(q, k, v, attn_mask=causal)
        if self.way == "einsum":
            return torch.einsum("bhqk,bhkd->bhqd", (torch.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(4)).softmax(-1), v)
        scores = q @ k.transpose(-2, -1) / math.sqrt(4)
        if self.way == "causal spelled":
            scores = scores.masked_fill(~causal, -torch.inf)
        if self.way == "causal by a large number":
            scores = scores + torch.zeros_like(scores).masked_fill(~causal, torch.finfo(scores.dtype).min)
        if self.way == "causal by where":
            scores = torch.where(causal, scores, torch.finfo(scores.dtype).min)
        return torch.matmul(F.softmax(scores, dim=-1), v)


ATTENTION = [("module", way) for way in ("with weights", "function", "spelled", "einsum")]
ATTENTION += [("causal module", f"causal{way}") for way in ("", " spelled", " by a large number", " by where")]
ATTENTION += [("causal module", "masked")]


@every_dtype
@every_method
@pytest.mark.parametrize(("way", "other"), ATTENTION)
def test_attention_gives_one_answer(way, other, method, dtype):
    x = torch.randn(3, 5, 8, dtype=torch.float64).to(dtype)
    expected, found = (explained(Attending(w).to(dtype).eval(), x, method) for w in (way, other))
    assert_close(found.attribution, expected.attribution)
    if method == "deeplift":
        assert_complete(found, {torch.float32: 1e-5, torch.float64: 1e-12}[dtype])


class Remembering(nn.Module):
    """An LSTM as a module, as a loop of cells, or gate by gate."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.head, self.way = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 3), way
        self.cell = nn.LSTMCell(3, 4)
        for name, value in self.cell.named_parameters():
            value.data = getattr(self.rnn, f"{name}_l0").data

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "module":
            return self.head(self.rnn(x)[0].mean(1))
        h = c = x.new_zeros(len(x), 4)
        seen = []
        for t in range(x.shape[1]):
            h, c = self.cell(x[:, t], (h, c)) if self.way == "cells" else self.step(x[:, t], h, c)
            seen.append(h)
        return self.head(torch.stack(seen, 1).mean(1))

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        own = self.cell
        gates = F.linear(x, own.weight_ih, own.bias_ih) + F.linear(h, own.weight_hh, own.bias_hh)
        i, f, g, o = gates.chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


@every_dtype
@every_method
@pytest.mark.parametrize("way", ["cells", "gates"])
def test_an_lstm_gives_one_answer(way, method, dtype):
    x = torch.randn(3, 5, 3, dtype=torch.float64).to(dtype)
    expected = explained(Remembering("module").to(dtype), x, method).attribution
    found = explained(Remembering(way).to(dtype), x, method)
    assert_close(found.attribution, expected)
    if method == "deeplift":
        assert_complete(found, {torch.float32: 1e-5, torch.float64: 1e-12}[dtype])


# --- weights that are no parameters when they are used


class Made(nn.Module):
    """Weights are made of parameters: scaled, cast, turned."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.way = nn.Linear(5, 7), nn.Linear(7, 3), way

    def forward(self, x: Tensor) -> Tensor:
        ways = {"plain": lambda w: w, "scaled": lambda w: 2 * (w / 2), "turned": lambda w: w.t().t(), "cast": lambda w: w.double()}
        return F.linear(F.relu(F.linear(x, ways[self.way](self.a.weight), self.a.bias)), ways[self.way](self.b.weight), self.b.bias)


@every_method
@pytest.mark.parametrize("way", ["scaled", "turned", "cast"])
@pytest.mark.parametrize("hidden", [False, True], ids=["model", "dictionary"])
def test_what_is_made_of_parameters_is_no_input(hidden, way, method):
    held, x = {"model": Made(way).double()}, torch.randn(4, 5).double()
    model = (lambda x: held["model"](x)) if hidden else held["model"]
    assert_close(explained(model, x, method).attribution, explained(Made("plain").double(), x, method).attribution)


@every_method
@pytest.mark.parametrize("composite", ["z_plus", "gamma"])
def test_normed_weights_keep_the_rule_of_weights(composite, method):
    plain, normed = Made("plain").double(), Made("plain").double()
    for layer in (normed.a, normed.b):
        torch.nn.utils.parametrizations.weight_norm(layer)
    options = {"composite": composite} if method == "lrp" else {}
    x = torch.randn(4, 5).double()
    assert_close(explained(normed, x, method, **options).attribution, explained(plain, x, method, **options).attribution)


# --- guises


@pytest.fixture(scope="module")
def block() -> Block:
    return Block("one in place").double().eval()


@pytest.fixture(scope="module")
def picture() -> Tensor:
    torch.manual_seed(5)
    return torch.randn(3, 2, 8, 8).double()


DEPRECATED = pytest.mark.filterwarnings(
    "ignore:The .grad attribute", "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:.*is deprecated:UserWarning"
)


@DEPRECATED
@every_method
def test_a_compiled_model_is_seen_before_and_after_it_ran(block, picture, method):
    expected = explained(block, picture, method).attribution
    compiled = torch.compile(copy.deepcopy(block), backend="eager")
    assert_close(explained(compiled, picture, method).attribution, expected)
    explained(compiled, picture, "integrated_gradients", steps=3)
    compiled(picture)
    assert_close(explained(compiled, picture, method).attribution, expected)


@DEPRECATED
def test_a_compiled_part_is_seen_too(block, picture):
    model = copy.deepcopy(block)
    model.forward = torch.compile(model.forward, backend="eager")
    model(picture)
    assert_close(explained(model, picture).attribution, explained(block, picture).attribution)


@DEPRECATED
@every_method
def test_an_exported_program_gives_its_answer(block, picture, method):
    program = torch.export.export(block, (picture,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    assert_close(explained(program, picture, method).attribution, explained(block, picture, method).attribution)


@DEPRECATED
@every_method
@pytest.mark.parametrize("kind", ["trace", "script"])
def test_scripted_models_are_refused(picture, kind, method):
    scripted = torch.jit.trace(Plain().double(), picture) if kind == "trace" else torch.jit.script(Plain().double())
    with pytest.raises(pellucid.OptionError, match="scripted"):
        explained(scripted, picture, method)


@DEPRECATED
@every_method
def test_a_scripted_part_is_refused_by_its_name(picture, method):
    model = nn.Sequential(torch.jit.script(Plain().double()), nn.Linear(3, 3).double())
    with pytest.raises(pellucid.OptionError, match=r"'0'.*scripted"):
        explained(model, picture, method)


@DEPRECATED
def test_a_scripted_function_is_not_passed_over_in_silence(picture):
    own = torch.jit.script(scripted_gelu)
    found = explained(lambda x: own(x.flatten(1))[:, :3] * 3, picture + 1)
    assert not found.healthy


def scripted_gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1.0 + torch.erf(x / 1.41421))


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


class Cubed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        return grad * 3 * ctx.saved_tensors[0] ** 2


@pytest.mark.parametrize("method", [name for name in RULED if name not in ("guided_backprop", "deconvolution")])
def test_an_autograd_function_is_reported(method):
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    found = explained(lambda x: Cubed.apply(model(x)), torch.randn(3, 5).double(), method)
    rules = found.check("rules")
    assert rules is not None
    assert not rules.passed
    assert "Cubed" in rules.message


@pytest.mark.parametrize("method", ["guided_backprop", "deconvolution"])
def test_an_autograd_function_is_named(method):
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    assert "Cubed" in explained(lambda x: Cubed.apply(model(x)), torch.randn(3, 5).double(), method).check("rules").message


def test_an_autograd_function_makes_strict_deeplift_fail():
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    with pytest.raises(pellucid.IncompleteAttribution):
        explained(lambda x: Cubed.apply(model(x)), torch.randn(3, 5).double(), strict=True)


@every_method
def test_vmap_inside_the_model_is_refused(method):
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    with pytest.raises(pellucid.OptionError, match="vmap"):
        explained(lambda x: torch.vmap(model)(x), torch.randn(3, 5).double(), method)


GUISES = {
    "data parallel": nn.DataParallel,
    "symbolic trace": torch.fx.symbolic_trace,
    "functional call": lambda model: lambda x: torch.func.functional_call(model, dict(model.named_parameters()), (x,)),
    "function": lambda model: lambda x: model(x),
    "method": lambda model: model.forward,
    "sequence": lambda model: nn.Sequential(nn.Identity(), model),
    "hooked": lambda model: hooked(copy.deepcopy(model)),
    "frozen": lambda model: copy.deepcopy(model).requires_grad_(False),
    "parametrized": lambda model: parametrized(copy.deepcopy(model)),
    "copied": copy.deepcopy,
    "channels last": lambda model: lambda x: model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last)),
    "row by row": lambda model: lambda x: torch.cat([model(row[None]) for row in x.unbind()]),
    "halves": lambda model: lambda x: torch.cat([model(part) for part in x.split(2)]),
}


def hooked(model: nn.Module) -> nn.Module:
    model.two.register_forward_hook(lambda module, inputs, output: output.clone())
    return model


def parametrized(model: nn.Module) -> nn.Module:
    torch.nn.utils.parametrizations.weight_norm(model.one)
    return model


@DEPRECATED
@every_method
@pytest.mark.parametrize("guise", GUISES)
def test_a_guise_changes_nothing(block, picture, guise, method):
    expected = explained(copy.deepcopy(block), picture, method).attribution
    assert_close(explained(GUISES[guise](copy.deepcopy(block)), picture, method).attribution, expected)


@every_method
def test_a_checkpointed_model_gives_its_answer_or_is_refused_clearly(block, picture, method):
    def model(x: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)

    try:
        found = explained(model, picture, method)
    except pellucid.PellucidError:
        return
    if found.healthy:
        assert_close(found.attribution, explained(block, picture, method).attribution)


@every_method
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_gradient_mode_changes_nothing(block, picture, context, method):
    with context():
        found = explained(block, picture.clone(), method).attribution
    assert_close(found, explained(block, picture, method).attribution)


# --- less precise numbers


def near(found: Tensor, expected: Tensor, share: float) -> bool:
    """Within a share of the whole attribution."""
    return bool((found.float() - expected).norm() <= share * expected.norm())


SMALL = {
    "modules": lambda: Spelled(nn.ReLU(), nn.GELU()),
    "softmax": lambda: Spelled(nn.Softmax(-1), nn.Tanh()),
    "attention": lambda: nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Linear(5, 8), Attending("function")),
}


@every_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("name", SMALL)
def test_half_precision_is_near_single(name, dtype, method):
    torch.manual_seed(0)
    model, x = SMALL[name]().eval(), torch.randn(4, 5)
    expected = explained(copy.deepcopy(model), x, method).attribution
    found = explained(model.to(dtype), x.to(dtype), method)
    assert found.attribution.dtype == dtype
    assert torch.isfinite(found.attribution).all()
    assert found.check("finite").passed
    assert near(found.attribution, expected, 0.1 if dtype == torch.bfloat16 else 0.02)


@every_method
@pytest.mark.parametrize("inside", [False, True], ids=["around", "inside"])
def test_autocast_is_near_single_precision(inside, method):
    model, x = Attending("function").eval(), torch.randn(3, 5, 8)
    expected = explained(model, x, method).attribution

    def cast(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(x)

    if inside:
        found = explained(cast, x, method).attribution
    else:
        with torch.autocast("cpu", torch.bfloat16):
            found = explained(model, x, method).attribution
    assert torch.isfinite(found).all()
    assert near(found, expected, 0.1)


# --- a batch is its examples


class Timed(nn.Module):
    """An LSTM that wants places first: examples lie at dimension 1."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(3, 4, num_layers=2, bidirectional=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x.transpose(0, 1))[0][-1])


class Windowed(nn.Module):
    """Windows as rows of a batch, in either order; every window has its own shift, so that a wrong pair shows."""

    def __init__(self, examples_first: bool) -> None:
        super().__init__()
        self.examples_first, self.shift = examples_first, nn.Parameter(torch.randn(4, 1, 3))
        self.up, self.head = nn.Linear(3, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        windows = x.unflatten(1, (4, -1)) + self.shift
        windows = windows if self.examples_first else windows.transpose(0, 1)
        rows = self.up(windows.flatten(0, 1))
        rows = F.softmax(rows @ rows.transpose(1, 2), -1) @ torch.tanh(rows)
        back = rows.unflatten(0, windows.shape[:2])
        return self.head((back if self.examples_first else back.transpose(0, 1)).mean(2).prod(1))


class Mixed(nn.Module):
    """Its first dimension holds examples here, features there, and places elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.head = nn.Linear(3, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        turned = torch.tanh(self.up(x)).permute(2, 1, 0)  # features, places, examples
        return self.head(F.gelu(turned).softmax(1).mul(turned).sum(1).t())


class Stacked(nn.Module):
    """Examples twice over, once as they are and once turned round, as rows of one batch."""

    def __init__(self, interleaved: bool) -> None:
        super().__init__()
        self.up, self.head, self.interleaved = nn.Linear(24, 6), nn.Linear(6, 3), interleaved

    def forward(self, x: Tensor) -> Tensor:
        both = torch.stack([x.flatten(1), -x.flatten(1).flip(1)], 1 if self.interleaved else 0).flatten(0, 1)
        rows = F.relu(self.up(both))
        one, other = rows.unflatten(0, (-1, 2)).unbind(1) if self.interleaved else rows.chunk(2)
        return self.head(one * other + one)


BATCHES = {
    "softmax inside": lambda: nn.Sequential(nn.Linear(3, 6), nn.Softmax(1), nn.Flatten(), nn.Tanh(), nn.Linear(48, 3)),
    "places first": Timed,
    "windows of examples": lambda: Windowed(True),
    "examples of windows": lambda: Windowed(False),
    "features first": Mixed,
    "copies in turn": lambda: Stacked(True),
    "copies in blocks": lambda: Stacked(False),
}


@every_method
@pytest.mark.parametrize(
    ("size", "dtype"), [(2, torch.float64), (3, torch.float64), (4, torch.float64), (8, torch.float64), (4, torch.float32)]
)
@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_is_its_examples_one_by_one(name, size, method, dtype):
    torch.manual_seed(0)
    model, x = BATCHES[name]().to(dtype), torch.randn(size, 8, 3).to(dtype)
    together = explained(model, x, method)
    if method.startswith("deeplift"):
        assert_complete(together, {torch.float32: 1e-4, torch.float64: 1e-11}[dtype])
    for i in range(size):
        assert_close(together.attribution[i : i + 1], explained(model, x[i : i + 1], method).attribution)


@pytest.mark.parametrize("name", BATCHES)
def test_a_reference_for_each_example_is_its_own(name):
    torch.manual_seed(0)
    model, x, baseline = BATCHES[name]().double(), torch.randn(4, 8, 3).double(), torch.randn(4, 8, 3).double()
    together = explained(model, x, baseline=baseline)
    assert_complete(together, 1e-11)
    for i in range(4):
        row = slice(i, i + 1)
        assert_close(together.attribution[row], explained(model, x[row], baseline=baseline[row]).attribution)


@pytest.mark.parametrize("name", BATCHES)
def test_deeplift_shap_is_the_mean_of_deeplift(name):
    torch.manual_seed(0)
    model, x, references = BATCHES[name]().double(), torch.randn(3, 8, 3).double(), torch.randn(4, 8, 3).double()
    parts = [explained(model, x, baseline=reference[None].expand(x.shape)).attribution for reference in references]
    assert_close(explained(model, x, "deeplift_shap", baseline=references).attribution, sum(parts) / 4)


@pytest.mark.parametrize("method", ["deeplift", "deeplift_shap"])
@pytest.mark.parametrize("name", BATCHES)
def test_how_much_runs_at_once_changes_nothing(name, method):
    torch.manual_seed(0)
    model, x = BATCHES[name]().double(), torch.randn(4, 8, 3).double()
    expected = explained(model, x, method).attribution
    for at_most in (1, 3):
        assert_close(explained(model, x, method, at_most=at_most).attribution, expected)


# --- ways that differ at the reference


class Branching(nn.Module):
    def __init__(self, here: Way, there: Way) -> None:
        super().__init__()
        self.a, self.b, self.here, self.there = nn.Linear(5, 6), nn.Linear(6, 3), here, there

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.a(x)
        return self.b(self.here(hidden) if x.sum() > 0 else self.there(hidden))


@pytest.mark.parametrize("method", ["deeplift", "deeplift_shap"])
@pytest.mark.parametrize(
    ("here", "there", "words"),
    [
        (torch.relu, torch.tanh, "relu.* at the input, and .*tanh.* at the baseline"),
        (torch.tanh, lambda x: x, "tanh.* at the input, and nothing more at the baseline"),
        (lambda x: x, torch.tanh, "nothing more at the input, and .*tanh.* at the baseline"),
        (lambda x: x.sigmoid().sigmoid(), torch.sigmoid, "sigmoid.* at the input, and nothing more at the baseline"),
        (torch.sigmoid, lambda x: x.sigmoid().sigmoid(), "nothing more at the input, and .*sigmoid.* at the baseline"),
        (lambda x: F.gelu(x.repeat(1, 2))[:, :6], F.gelu, r"gelu.*\(\d, 12\) at the input, and .*gelu.*\(\d, 6\) at the baseline"),
    ],
    ids=["other", "fewer there", "more there", "once there", "twice there", "other shape"],
)
def test_another_way_at_the_baseline_is_refused_by_its_operation(here, there, words, method):
    baseline = torch.full((1, 5), -1.0) if method == "deeplift" else torch.full((3, 5), -1.0)
    with pytest.raises(pellucid.InputError, match=f"another way.*{words}"):
        explained(Branching(here, there), torch.rand(3, 5), method, baseline=baseline)


def test_the_same_way_at_the_baseline_is_followed():
    model, x = Branching(torch.relu, torch.tanh).double(), torch.rand(3, 5).double()
    assert_complete(explained(model, x, baseline=torch.full((1, 5), 0.1).double(), strict=True), 1e-12)


# --- train mode


def in_training() -> nn.Module:
    parts = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Flatten(), nn.Linear(144, 3)
    return nn.Sequential(*parts).double().train()


@every_method
def test_a_model_in_train_mode_stays_as_it_was_and_is_reported(picture, method):
    model = in_training()
    before, kept = state_of(model), picture.clone()
    found = explained(model, picture, method)
    assert_same_state(before, state_of(model))
    assert torch.equal(picture, kept)
    assert not found.check("mode").passed
    assert torch.isfinite(found.attribution).all()


@every_method
def test_a_model_in_eval_mode_stays_as_it_was(block, picture, method):
    before, kept = state_of(block), picture.clone()
    explained(block, picture, method)
    assert_same_state(before, state_of(block))
    assert torch.equal(picture, kept)


class Failing(Spelled):
    def forward(self, x: Tensor) -> Tensor:
        super().forward(x)
        raise RuntimeError("out of order")


@every_method
def test_a_model_that_fails_leaves_no_rules_behind(method):
    with pytest.raises(RuntimeError, match="out of order"):
        explained(Failing(F.relu, F.relu), torch.randn(2, 5), method)
    x = torch.tensor([-1.0, 2.0], requires_grad=True)
    (grad,) = torch.autograd.grad(-F.relu(x).sum(), x)
    assert grad.tolist() == [0, -1]
    assert torch.overrides._get_current_function_mode() is None
