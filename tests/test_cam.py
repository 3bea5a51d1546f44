"""Class activation maps: the papers' formulas, layouts, tokens, and a truth planted in a small vision transformer."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pellucid
from pellucid import MAPS, InputError, OptionError
from pellucid.gradient.cam import CAMS, Grid, class_activation_map, grid_of
from pellucid.view import at_input
from tests.models import Conv, assert_same_state, state_of


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Conv().double().eval()


@pytest.fixture(scope="module")
def x():
    torch.manual_seed(1)
    return torch.randn(3, 2, 6, 6).double()


def pieces(model, x, target):
    """Of one example: activations `(C, h, w)` of the layer `second`, gradients, score, and a function of activations."""

    def rest(held):
        first = F.relu(model.norm(model.first(x)))
        return model.head(F.max_pool2d(F.relu(first + model.other(held)), 2).mean((2, 3)))[0, target]

    held = model.second(F.relu(model.norm(model.first(x)))).detach().requires_grad_()
    score = rest(held)
    (gradient,) = torch.autograd.grad(score, held)
    return held[0].detach(), gradient[0], float(score.detach()), rest


def grad_cam(a, g, score, rest):
    return sum(g[c].mean() * a[c] for c in range(len(a))).relu()


def grad_cam_plus_plus(a, g, score, rest):
    total = torch.zeros_like(a[0])
    for c in range(len(a)):
        alpha = g[c] ** 2 / (2 * g[c] ** 2 + a[c].sum() * g[c] ** 3)
        total += (torch.nan_to_num(alpha) * g[c].relu()).sum() * a[c]
    return total.relu()


def hires_cam(a, g, score, rest):
    return (g * a).sum(0).relu()


def layer_cam(a, g, score, rest):
    return (g.relu() * a).sum(0).relu()


def xgrad_cam(a, g, score, rest):
    return sum((g[c] * a[c]).sum() / a[c].sum() * a[c] for c in range(len(a))).relu()


def eigen_cam(a, g, score, rest):
    flat = a.flatten(1).T  # places x channels
    values, vectors = torch.linalg.eigh(flat.T @ flat)
    along = flat @ vectors[:, values.argmax()]
    return (along * along.sum().sign()).view(a.shape[1:]).relu()


def ablation_cam(a, g, score, rest):
    total = torch.zeros_like(a[0])
    for c in range(len(a)):
        without = a.clone()
        without[c] = 0
        total += (score - float(rest(without[None]).detach())) / score * a[c]
    return total.relu()


ORACLES = {f.__name__: f for f in (grad_cam, grad_cam_plus_plus, hires_cam, layer_cam, xgrad_cam, eigen_cam, ablation_cam)}


@pytest.mark.parametrize("kind", ORACLES)
def test_papers(model, x, kind):
    found = pellucid.explain(model, x, 2, kind, layer="second", resize=False).attribution
    assert found.shape == (3, 1, 6, 6)
    for i in range(3):
        torch.testing.assert_close(found[i, 0], ORACLES[kind](*pieces(model, x[i : i + 1], 2)), rtol=1e-7, atol=1e-9)


def seen_through(model, x, target):
    """Score-CAM's channels of one example in the picture's size, and the score seen through each."""
    held = model.second(F.relu(model.norm(model.first(x)))).detach()
    large = F.interpolate(held, (6, 6), mode="bilinear", align_corners=False)[0]
    masks = [(u - u.min()) / (u.max() - u.min()) for u in large]
    return held[0], large, torch.stack([model(x * mask)[0, target] for mask in masks]).detach()


def test_score_cam_of_the_paper_and_of_interpretdl(model, x):
    paper = pellucid.explain(model, x, 2, "score_cam", layer="second", resize=False).attribution
    other = pellucid.explain(model, x, 2, "score_cam_interpretdl", layer="second").attribution
    for i in range(3):
        held, large, scores = seen_through(model, x[i : i + 1], 2)
        rise = scores - model(torch.zeros_like(x[:1]))[0, 2].detach()
        torch.testing.assert_close(paper[i, 0], (rise.softmax(0)[:, None, None] * held).sum(0).relu())
        torch.testing.assert_close(other[i, 0], (scores[:, None, None] * large).sum(0))


@pytest.mark.parametrize("kind", MAPS)
def test_batch_is_loop_and_the_model_unchanged(model, x, kind):
    before = state_of(model)
    found = pellucid.explain(model, x, torch.tensor([0, 2, 1]), kind, layer=model.second)
    assert_same_state(before, state_of(model))
    assert found.attribution.shape == (x.shape if kind == "guided_grad_cam" else (3, 1, 6, 6))
    assert found.draw() is not None
    for i, target in enumerate([0, 2, 1]):
        alone = pellucid.explain(model, x[i : i + 1], target, kind, layer=model.second).attribution
        torch.testing.assert_close(found.attribution[i : i + 1], alone, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("kind", CAMS)
def test_channels_last_is_the_same_map(model, x, kind):
    class Moved(nn.Module):
        def forward(self, x):
            return x

    moved = Moved()
    forward = lambda x: rest(moved(model.second(first(x)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2), first(x))  # noqa: E731
    first = lambda x: F.relu(model.norm(model.first(x)))  # noqa: E731
    rest = lambda held, kept: model.head(F.max_pool2d(F.relu(kept + model.other(held)), 2).mean((2, 3)))  # noqa: E731
    found = class_activation_map(at_input(forward, x, 2), moved, kind, layout="channels_last").values[0][0]
    expected = class_activation_map(at_input(model, x, 2), model.second, kind).values[0][0]
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize(
    ("shape", "picture", "options", "expected"),
    [
        ((2, 8, 7, 7), (28, 28), {}, Grid("channels_first", (7, 7))),
        ((2, 7, 7, 96), (28, 28), {}, Grid("channels_last", (7, 7))),
        ((2, 8, 5, 7), (20, 28), {"layout": "channels_first"}, Grid("channels_first", (5, 7))),
        ((2, 197, 64), (224, 224), {}, Grid("tokens", (14, 14), 1)),
        ((2, 196, 64), (224, 224), {}, Grid("tokens", (14, 14), 0)),
        ((2, 201, 64), (224, 224), {}, Grid("tokens", (14, 14), 5)),
        ((2, 33, 64), (64, 128), {}, Grid("tokens", (4, 8), 1)),
        ((2, 17, 64), (16, 16), {"special": 1}, Grid("tokens", (4, 4), 1)),
        ((2, 8, 30), (60,), {}, Grid("channels_first", (30,))),
        ((2, 8, 4, 5, 6), (8, 10, 12), {"layout": "channels_first"}, Grid("channels_first", (4, 5, 6))),
    ],
)
def test_grids(shape, picture, options, expected):
    assert grid_of(shape, picture, **options) == expected


def test_refusals(model, x):
    with pytest.raises(OptionError, match="give layer="):
        pellucid.explain(model, x, 2, "grad_cam")
    with pytest.raises(OptionError, match="layout 'diagonal' is unknown"):
        pellucid.explain(model, x, 2, "grad_cam", layer="second", layout="diagonal")
    with pytest.raises(InputError, match="does not lie on a picture"):
        pellucid.explain(model, x, 2, "grad_cam", layer="head")
    with pytest.raises(InputError, match="may have its channels first or last"):
        grid_of((2, 4, 6, 9), (20, 20))
    assert grid_of((2, 8, 5, 7), (20, 28)).layout == grid_of((1, 8, 224, 299), (224, 299)).layout == "channels_first"
    assert grid_of((2, 5, 7, 8), (20, 28)).layout == "channels_last"
    with pytest.raises(InputError, match="are no grid on a picture"):
        grid_of((2, 19, 64), (7, 9))


class Vit(nn.Module):
    """Patches of 4 x 4, a class token, one block of attention, and the class read from the class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.start = nn.Conv2d(1, 24, 4, 4), nn.Parameter(torch.zeros(1, 1, 24))
        self.place = nn.Parameter(torch.randn(1, 26, 24)[:, :26] * 0.02)
        self.norm, self.attention = nn.LayerNorm(24), nn.MultiheadAttention(24, 2, batch_first=True)
        self.block = nn.Sequential(nn.LayerNorm(24), nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 24))
        self.head = nn.Linear(24, 2)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.start.expand(len(x), -1, -1), tokens], 1) + self.place
        tokens = self.norm(tokens)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head((tokens + self.block(tokens))[:, 0])


def planted(count):
    """Noise with one patch, bright for class 1 and dark for class 0; and which patch it is."""
    x, where, label = 0.3 * torch.randn(count, 1, 20, 20), torch.randint(25, (count,)), torch.randint(2, (count,))
    for i in range(count):
        row, column = divmod(int(where[i]), 5)
        x[i, 0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 2.0 if label[i] else -2.0
    return x, where, label


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    model = Vit()
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(150):
        x, _, label = planted(64)
        optimiser.zero_grad()
        F.cross_entropy(model(x), label).backward()
        optimiser.step()
    model.eval()
    x, where, label = planted(200)
    assert float((model(x).argmax(1) == label).float().mean()) > 0.98
    bright = label == 1
    return model, x[bright], where[bright]


@pytest.mark.parametrize("kind", ["grad_cam", "hires_cam", "layer_cam", "ablation_cam"])
def test_the_map_of_a_transformer_lands_on_the_patch_that_decides(vit, kind):
    model, x, where = vit
    found = pellucid.explain(model, x, 1, kind, layer="norm", resize=False).attribution
    assert found.shape == (len(x), 1, 5, 5)
    hit = float((found.flatten(1).argmax(1) == where).float().mean())
    assert hit > 0.9
    large = pellucid.explain(model, x, 1, kind, layer="norm").attribution
    assert large.shape == (len(x), 1, 20, 20)
