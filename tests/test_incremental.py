"""Occlusion computed where it changes equals occlusion of whole images, whatever the network is made of and how it is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import pellucid
import pellucid.perturb.incremental as incremental
from pellucid import zoo
from pellucid.perturb.incremental import pays, window_scores
from pellucid.perturb.partial import Partial
from pellucid.view import InputView, at_input
from tests.models import Conv, assert_same_state, state_of

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


def dense_scores(view: InputView, fill: Tensor, starts: Tensor, window: tuple[int, int]) -> Tensor:
    """One whole image after the other."""
    found = []
    for y, x in starts.tolist():
        image, inside = view.features[0].clone(), (..., slice(y, y + window[0]), slice(x, x + window[1]))
        image[inside] = fill[inside]
        with torch.no_grad():
            found.append(view.score((image, *view.features[1:])))
    return torch.cat(found, 1)


def grid(size: tuple[int, int], stride: int) -> Tensor:
    return torch.cartesian_prod(torch.arange(0, size[0], stride), torch.arange(0, size[1], stride))


def check(model: Any, x: Any, window=(3, 4), stride=3, target: Any = 0, chunk=None, followed=True, **options: Any) -> InputView:
    """`followed`: whether at least the first operations are done on patches."""
    view = at_input(model, x, target, **options)
    image = view.features[0]
    fill, starts = torch.randn_like(image), grid(image.shape[2:], stride)
    before = state_of(model) if isinstance(model, nn.Module) else None
    scores = window_scores(view, fill, starts, window, chunk)
    if before is not None:
        assert_same_state(before, state_of(model))
    dense = dense_scores(view, fill, starts, window)
    assert scores is not None
    assert scores.shape == dense.shape
    with torch.no_grad():
        largest = max(
            float(dense.abs().max()),
            *(float(o.abs().max()) for o in [model(*view.features, *view.call.arguments)] if isinstance(o, Tensor)),
            0,
        )
    assert float((scores - dense).abs().max()) <= TOLERANCE[image.dtype] * largest
    with incremental._quiet(view):
        steps = incremental._attempt(view, fill).run.steps
    assert (len(steps) > 1) == followed
    return view


def net(*layers: nn.Module, channels: int = 3, size=(23, 17), classes: int = 3, dtype=torch.float64) -> nn.Sequential:
    """The layers and a linear head on everything that they give."""
    body = nn.Sequential(*layers).to(dtype).eval()
    for norm in body.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean, 0, 0.3)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.normal_(norm.weight)
    with torch.no_grad():
        width = body(torch.zeros(1, channels, *size, dtype=dtype)).numel()
    return nn.Sequential(body, nn.Flatten(), nn.Linear(width, classes, dtype=dtype)).eval()


def image(*size: int, channels: int = 3, dtype=torch.float64) -> Tensor:
    return torch.randn(1, channels, *(size or (23, 17)), dtype=dtype)


LAYERS: dict[str, Callable[[], list[nn.Module]]] = {
    "strided": lambda: [nn.Conv2d(3, 5, 3, 2, 1), nn.ReLU(), nn.Conv2d(5, 4, (2, 3), (1, 2), (1, 0))],
    "beyond the kernel": lambda: [nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 1, 3), nn.Conv2d(4, 4, 2, 3)],
    "dilated": lambda: [nn.Conv2d(3, 5, 3, dilation=(2, 3), padding=(2, 1)), nn.Tanh(), nn.Conv2d(5, 4, 3, 2, dilation=2)],
    "grouped": lambda: [nn.Conv2d(3, 6, 3, groups=3), nn.ELU(), nn.Conv2d(6, 6, 3, groups=6, bias=False), nn.Conv2d(6, 4, 1)],
    "same": lambda: [nn.Conv2d(3, 4, (5, 3), padding="same", dilation=(1, 2)), nn.SiLU(), nn.Conv2d(4, 4, 3, padding="valid")],
    "normed": lambda: [nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(True), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)],
    "norm first": lambda: [nn.BatchNorm2d(3), nn.PReLU(3), nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), nn.BatchNorm2d(4), nn.GELU()],
    "max": lambda: [nn.Conv2d(3, 4, 3), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, ceil_mode=True), nn.Conv2d(4, 3, 2)],
    "max dilated": lambda: [nn.Conv2d(3, 4, 3), nn.MaxPool2d((3, 2), 1, (1, 0), dilation=2), nn.ReLU6()],
    "average": lambda: [nn.Conv2d(3, 4, 3), nn.AvgPool2d(3, 2, 1), nn.Hardswish(), nn.AvgPool2d(2, 1)],
    "average ceil": lambda: [nn.AvgPool2d(3, 2, 1, True, False), nn.Conv2d(3, 4, 2), nn.AvgPool2d(2, ceil_mode=True)],
    "average without padding": lambda: [nn.AvgPool2d((3, 2), (2, 1), (1, 1), False, False), nn.AvgPool2d(3, 2, divisor_override=5)],
    "zero pad": lambda: [nn.ZeroPad2d((1, 2, 3, 0)), nn.Conv2d(3, 4, 3), nn.ConstantPad2d(1, 0.7), nn.MaxPool2d(3, 2)],
    "reflect": lambda: [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), nn.ReLU()],
    "deep": lambda: [layer for c in (3, 4, 4, 4) for layer in (nn.Conv2d(c, 4, 3, 1, 1), nn.ReLU(True), nn.MaxPool2d(2, ceil_mode=True))],
    "transposed": lambda: [nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.ConvTranspose2d(4, 3, 3, 2), nn.ReLU()],
    "upsampled": lambda: [nn.Conv2d(3, 4, 3, 2), nn.Upsample(scale_factor=2), nn.Conv2d(4, 3, 3)],
    "group norm": lambda: [nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 3, 3)],
    "adaptive": lambda: [nn.Conv2d(3, 4, 3), nn.AdaptiveMaxPool2d((5, 4)), nn.Conv2d(4, 3, 3), nn.AdaptiveAvgPool2d((2, 1))],
    "dropout": lambda: [nn.Conv2d(3, 4, 3), nn.Dropout2d(), nn.ReLU(), nn.Dropout(), nn.Softmax(1), nn.AlphaDropout(), nn.Conv2d(4, 2, 1)],
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    layers = net(*LAYERS[name]())
    for window, stride in (((3, 4), 4), ((1, 1), 7), ((8, 5), 5), ((30, 2), 6)):
        check(layers, image(), window, stride)


@pytest.mark.parametrize("name", ["normed", "deep", "average"])
def test_single_precision(name):
    check(net(*LAYERS[name](), dtype=torch.float32), image(dtype=torch.float32))


class Written(nn.Module):
    """Convolutions around code."""

    def __init__(self, code: Callable[..., Any]) -> None:
        super().__init__()
        self.code = code
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.c, self.norm = nn.Conv2d(4, 4, 3, 2, padding=1), nn.BatchNorm2d(4)
        self.out = nn.LazyLinear(3)
        self.place = nn.Parameter(torch.randn(4, 23, 17))

    def forward(self, x: Tensor, *others: Any) -> Tensor:
        return self.out(self.code(self, x, *others).flatten(1))


def written(code: Callable[..., Any], *others: Any) -> Written:
    model = Written(code).double().eval()
    with torch.no_grad():
        model(image(), *others)
    return model


def in_place(m: Written, x: Tensor) -> Tensor:
    y = m.a(x)
    y += 1
    y.relu_().mul_(2)
    z = y.detach()
    z.clamp_(max=1.5)
    y -= m.b(z)
    y[:, 0] = 0  # no step: plain from here
    return y.sigmoid_()


def used_twice(m: Written, x: Tensor) -> Tensor:
    """What a batch-norm or a ReLU reads is read again."""
    y = m.b(m.a(x))
    z = F.relu(y)
    return m.norm(y) + z * torch.relu(z - 1) - y


def changed_after(m: Written, x: Tensor) -> Tensor:
    """A map changes in place after a convolution has read it, and the input too."""
    y = m.a(x)
    z = m.b(y)
    y.relu_()
    x.mul_(2)
    return z + m.b(y) + m.a(x)


def views(m: Written, x: Tensor) -> Tensor:
    y = m.a(x)
    part = y[:, :2]
    part.add_(1)
    return m.b(y) + y


def decisions(m: Written, x: Tensor) -> Tensor:
    if x.shape[0] != len(x) or x.size(1) != 3 or not x.is_floating_point() or x.dim() != 4 or x.requires_grad:
        raise AssertionError
    y = m.a(x) if x.shape[-1] > 3 else x
    return torch.where(y > 0.1, y, y.abs() / 3).masked_fill(y > 1, 0.5).to(x.dtype).contiguous()


def attention(m: Written, x: Tensor) -> Tensor:
    y = F.max_pool2d(F.relu(m.a(x)), 4)
    tokens = y.flatten(2).transpose(1, 2)
    return F.scaled_dot_product_attention(tokens, tokens, tokens)


CODE: dict[str, Callable[..., Any]] = {
    "residual": lambda m, x: F.relu(m.norm(m.b(F.relu(m.a(x)))) + m.a(x)),
    "downsampled": lambda m, x: F.relu(m.c(m.b(m.a(x)))) + F.avg_pool2d(m.a(x), 3, 2, 1),
    "products": lambda m, x: torch.sigmoid(m.a(x)) * m.b(m.a(x)) / (2 + m.a(x).square()),
    "concatenated": lambda m, x: torch.cat([m.a(x), F.max_pool2d(m.b(m.a(x)), 3, 1, 1), x], 1).relu(),
    "concatenated otherwise": lambda m, x: torch.cat([m.a(x), m.b(m.a(x))], 2),
    "constants": lambda m, x: (2 - m.a(x * 0.5 + 1)) * m.place + m.place[0] - m.place[:, :1, :1] + torch.tensor(3.0) + m.place[0, 0],
    "numbers first": lambda m, x: 1 / (3 + m.a(x).exp()) + 2 ** m.a(x) + torch.add(1, m.a(x), alpha=2),
    "functions": lambda m, x: torch.conv2d(input=torch.nn.functional.pad(x, (1, 1)), weight=m.a.weight, stride=(2, 1)),
    "squeezed": lambda m, x: m.a(x) * torch.sigmoid(F.adaptive_avg_pool2d(m.a(x), 1)),
    "pooled": lambda m, x: m.b(m.a(x)).mean((2, 3)),
    "largest": lambda m, x: m.b(m.a(x)).amax((-1, -2)),
    "indices": lambda m, x: F.max_pool2d(m.a(x), 2, return_indices=True)[0],
    "matrix": lambda m, x: m.a(x) @ m.place[0].T,
    "permuted": lambda m, x: F.layer_norm(m.a(x).permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2),
    "reshaped": lambda m, x: m.b(m.a(x).view(len(x), 2, 2, *x.shape[2:]).transpose(1, 2).reshape(len(x), 4, *x.shape[2:])),
    "new tensors": lambda m, x: torch.zeros_like(m.a(x)).add_(m.a(x)) + x.new_ones(len(x), 1, 1, 1) + torch.ones_like(x)[:, :1],
    "other precision": lambda m, x: (m.a(x).float().double() + m.a(x).type(torch.float64)).clone(),
    "out": lambda m, x: torch.add(m.a(x), 1, out=torch.empty_like(m.a(x))),
    "value at once": lambda m, x: m.b(m.a(x)) if float(x.sum()) < 1e9 else x,
    "attention": attention, "in place": in_place, "used twice": used_twice, "changed after": changed_after, "views": views,
    "decisions": decisions,
}  # fmt: skip


@pytest.mark.parametrize("name", CODE)
def test_code(name):
    followed = name not in ("value at once",)
    model = written(CODE[name])
    for window, chunk in (((4, 3), None), ((1, 6), 3)):
        check(model, image(), window, 4, target=1, chunk=chunk, followed=followed)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_network(data):
    """Layers, sizes, windows and starts at random."""
    pick = lambda *values: data.draw(st.sampled_from(values))  # noqa: E731
    torch.manual_seed(data.draw(st.integers(0, 999)))
    size, layers = (pick(9, 12, 20, 31), pick(8, 13, 26)), []
    for _ in range(pick(1, 2, 3, 4)):
        conv = nn.Conv2d(3, 3, pick(1, 2, 3, (3, 1)), pick(1, 2), pick(0, 1), pick(1, 2), pick(1, 3))
        pool = nn.AvgPool2d(3, pick(1, 2), 1, pick(False, True), pick(False, True)) if pick(0, 1) else nn.MaxPool2d(2, 1, pick(0, 1))
        layers += [conv, pick(nn.ReLU(), nn.Tanh(), nn.BatchNorm2d(3), nn.ReLU(True))] + ([pool] if pick(0, 1) else [])
    try:
        model = net(*layers, size=size)
    except RuntimeError:  # nothing is left of the map
        return
    view = at_input(model, image(*size), 0)
    starts = torch.tensor(data.draw(st.lists(st.tuples(st.integers(0, size[0] + 2), st.integers(0, size[1] - 1)), min_size=1, max_size=9)))
    window, fill = (pick(1, 3, 5, 40), pick(1, 2, 7)), image(*size)
    scores, dense = window_scores(view, fill, starts, window, pick(None, 1, 4)), dense_scores(view, fill, starts, window)
    torch.testing.assert_close(scores, dense, rtol=1e-11, atol=1e-11)


# --- targets, arguments and inputs


def test_targets():
    model, x = net(*LAYERS["normed"]()), image()
    for target in (2, [1], torch.tensor([2]), lambda out: out[:, 0] - out.logsumexp(1)):
        check(model, x, target=target)
    several = check(model, x, target=0)
    from pellucid.target import Several, resolve

    view = InputView(several.features, several.call, Several(tuple(resolve(t, 1) for t in (0, 2, [1]))), several.roots)
    starts, fill = grid((23, 17), 5), image()
    torch.testing.assert_close(window_scores(view, fill, starts, (4, 4)), dense_scores(view, fill, starts, (4, 4)), rtol=1e-11, atol=1e-11)


def test_a_map_as_output():
    check(nn.Conv2d(3, 4, 3).double(), image(), target=(2, 5, 6))
    check(lambda x: {"map": F.relu(torch.conv2d(x, torch.ones(1, 3, 2, 2).to(x)))}, image(), target=lambda out: out["map"].amax((1, 2, 3)))


def test_second_inputs_and_arguments():
    model = written(
        lambda m, x, other, weight, *rest: m.a(x) * weight.view(-1, 1, 1, 1) + m.b(other), torch.ones(1, 4, 23, 17).double(), torch.ones(1)
    )
    other, weight = image(channels=4), torch.randn(1, dtype=torch.float64)
    check(model, (image(), other), args=(weight,))
    check(model, image(), args=(other, weight))
    shared = written(lambda m, x, weight, *_: m.a(x) * weight, 1.0)
    check(shared, image(), args=(torch.tensor(2.0).double(), "word"))


@pytest.mark.parametrize("task", [zoo.digits, zoo.tiles])
def test_trained_models(task):
    found = task()
    size = (1, 8, 8) if task is zoo.digits else (3, 32, 32)
    check(found.model, torch.rand(1, *size), (3, 3), 2)


def test_the_model_of_other_tests():
    check(Conv().double().eval(), image(9, 12, channels=2), (2, 3), 1)


def test_one_window_and_windows_outside():
    view, fill = at_input(net(*LAYERS["deep"]()), image(), 0), image()
    for starts in ([[4, 5]], [[0, 0], [22, 16], [23, 0], [40, 40]]):
        scores, dense = window_scores(view, fill, torch.tensor(starts), (5, 5)), dense_scores(view, fill, torch.tensor(starts), (5, 5))
        torch.testing.assert_close(scores, dense, rtol=1e-11, atol=1e-11)


def test_memory_that_ends_halves_the_chunk(monkeypatch):
    view, fill, starts, seen = at_input(net(*LAYERS["deep"]()), image(), 0), image(), grid((23, 17), 2), []
    through = incremental._through

    def limited(view, fill, at, window, run):
        seen.append(len(at))
        if len(at) > 10:
            raise torch.OutOfMemoryError
        return through(view, fill, at, window, run)

    monkeypatch.setattr(incremental, "_through", limited)
    scores = window_scores(view, fill, starts, (3, 3))
    torch.testing.assert_close(scores, dense_scores(view, fill, starts, (3, 3)), rtol=1e-11, atol=1e-11)
    assert max(seen) > 10


# --- where it cannot be


class Nosy(nn.Module):
    """Asks for what a tensor without values cannot say."""

    def forward(self, x: Tensor) -> Tensor:
        if type(x) is not Tensor:
            raise TypeError(type(x))
        return x.sum((2, 3))


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return (F.relu(x) if self.calls % 2 else x.abs()).sum((2, 3))


REFUSED: dict[str, Callable[[], tuple[Any, Tensor]]] = {
    "training batch-norm": lambda: (nn.Sequential(nn.BatchNorm2d(3), nn.Flatten()).double(), image()),
    "training dropout": lambda: (nn.Sequential(nn.Dropout(), nn.Flatten()).double(), image()),
    "functional dropout": lambda: (lambda x: F.dropout(x).flatten(1), image()),
    "functional batch-norm": lambda: (lambda x: F.batch_norm(x, None, None, training=True).flatten(1), image()),
    "rows": lambda: (nn.Sequential(nn.Linear(4, 2)), torch.randn(1, 4)),
    "complex": lambda: (lambda x: (x * 1j).abs().flatten(1), image().to(torch.complex128)),
    "complex inside": lambda: (lambda x: (x * 1j).abs().flatten(1), image()),
    "half": lambda: (lambda x: x.flatten(1), image(dtype=torch.bfloat16)),
    "whole numbers": lambda: (lambda x: x.float().flatten(1), torch.ones(1, 3, 8, 8, dtype=torch.long)),
    "two images": lambda: (lambda x: x.flatten(1), torch.randn(2, 3, 8, 8)),
    "one score for all": lambda: (lambda x: x.sum().view(1, 1), image()),
    "examples that see each other": lambda: (lambda x: (x - x.mean(0)).flatten(1), image()),
    "nosy": lambda: (Nosy(), image()),
    "another way each time": lambda: (Counting(), image()),
    "inner autocast": lambda: (autocast, image(dtype=torch.float32)),
    "vmap": lambda: (lambda x: torch.vmap(lambda one: one.relu().flatten())(x), image()),
}


def autocast(x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return F.conv2d(x, torch.ones(2, 3, 2, 2)).flatten(1)


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    model, x = REFUSED[name]()
    before = state_of(model) if isinstance(model, nn.Module) else None
    view = at_input(model, x, 0)
    starts = torch.tensor([[0, 0], [2, 3]])
    assert window_scores(view, torch.zeros_like(x), starts, (2, 2)) is None
    assert not pays(view, starts, (2, 2))
    if before is not None and name != "another way each time":
        assert_same_state(before, state_of(model))


def test_scripted_and_autocast_and_negative():
    model, x = net(*LAYERS["max"](), dtype=torch.float32), image(dtype=torch.float32)
    starts, fill = torch.tensor([[0, 0], [2, 3]]), torch.zeros_like(x)
    with torch.autocast("cpu"):
        assert window_scores(at_input(model, x, 0), fill, starts, (2, 2)) is None
    assert window_scores(at_input(model, x, 0), fill, -starts, (2, 2)) is None
    assert window_scores(at_input(model, x, 0), fill, starts, (2, 2)) is not None


def test_a_partial_has_no_values_of_its_own():
    seen = []

    def model(x: Tensor) -> Tensor:
        y = F.relu(torch.conv2d(x, torch.ones(2, 3, 3, 3).to(x)))
        seen.append((type(y), y.shape, y.dtype, y.device))
        return y.flatten(1)

    x = image()
    assert window_scores(at_input(model, x, 0), torch.zeros_like(x), grid((23, 17), 6), (3, 3), 6) is not None
    kinds = {kind for kind, *_ in seen}
    assert kinds == {Partial, Tensor}  # the last is the image that is compared
    assert all(shape[1:] == (2, 21, 15) and dtype == x.dtype and device == x.device for _, shape, dtype, device in seen)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["residual", "concatenated", "constants", "in place", "changed after"])
def test_on_a_gpu(name):
    check(written(CODE[name]).cuda(), image().cuda(), (4, 3), 4)


def test_whether_it_pays():
    convs = [nn.Conv2d(8, 8, 3, padding=1) for _ in range(5)]
    model = net(*convs, channels=8, size=(96, 96), dtype=torch.float32)
    view, starts = at_input(model, image(96, 96, channels=8, dtype=torch.float32), 0), grid((96, 96), 4)
    assert pays(view, starts, (5, 5))
    assert not pays(view, torch.zeros(500, 2).long(), (90, 90))
    assert not pays(view, starts[:2], (5, 5))


def test_occlusion_uses_it_where_it_pays_and_says_so(monkeypatch):
    monkeypatch.setattr("pellucid.perturb.methods.pays", lambda *_: True)
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()
    x = torch.randn(2, 3, 96, 96)
    before = state_of(net)
    fast = pellucid.explain(net, x, 1, "occlusion", window=9, stride=6, baselines=0.2)
    assert_same_state(before, state_of(net))
    dense = pellucid.explain(net, x, 1, "occlusion", window=9, stride=6, baselines=0.2, at_most=64)
    assert fast.check("incremental") is not None
    assert dense.check("incremental") is None
    torch.testing.assert_close(fast.attribution, dense.attribution, rtol=0, atol=1e-6 * float(net(x).detach().abs().max()))
