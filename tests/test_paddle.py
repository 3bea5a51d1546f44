"""The Paddle bridge: a layer that runs in Paddle is explained as its torch twin with the same weights is."""

import copy
import math
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import captum.attr
import pytest
import torch
from torch import nn

import pellucid
from pellucid import InputError, MissingExtra, OptionError, OutputError
from pellucid.batch import Run
from pellucid.captum import attr
from pellucid.memory import bytes_per_example
from pellucid.paddle import as_torch

with warnings.catch_warnings():
    # What Paddle says while it is imported about a compiler's cache that nobody asked for.
    warnings.filterwarnings("ignore", "No ccache found", UserWarning)
    paddle = pytest.importorskip("paddle")

MASK = torch.arange(16).reshape(4, 4).repeat_interleave(3, 0).repeat_interleave(3, 1)[None]


def cnn(lib):
    n, maps = lib.nn, ("Conv2d", "BatchNorm2d", "MaxPool2d", "AdaptiveAvgPool2d")
    conv, norm, pool, mean = (getattr(n, name if lib is torch else name.replace("2d", "2D")) for name in maps)
    body = (conv(3, 6, 3, padding=1), norm(6), n.ReLU(), pool(2), conv(6, 8, 3, stride=2), n.GELU(), mean(2))
    return n.Sequential(*body, n.Flatten(), n.Linear(32, 4))


def transformer(lib):
    n = lib.nn

    class Block(n.Module if lib is torch else n.Layer):
        def __init__(self):
            super().__init__()
            self.first, self.second = n.LayerNorm(8), n.LayerNorm(8)
            self.q, self.k, self.v, self.out = (n.Linear(8, 8) for _ in range(4))
            self.mlp = n.Sequential(n.Linear(8, 16), n.GELU(), n.Linear(16, 8))

        def forward(self, x):
            h = self.first(x)
            found = n.functional.softmax(lib.einsum("btd,bsd->bts", self.q(h), self.k(h)) / math.sqrt(8), -1)
            x = x + self.out(lib.einsum("bts,bsd->btd", found, self.v(h)))
            return x + self.mlp(self.second(x))

    class Transformer(n.Module if lib is torch else n.Layer):
        def __init__(self):
            super().__init__()
            self.embed, self.blocks, self.head = n.Linear(6, 8), n.Sequential(Block(), Block()), n.Linear(8, 4)

        def forward(self, x):
            return self.head(self.blocks(self.embed(x)).mean(1))

    return Transformer()


def twins(make, dtype=torch.float32):
    """A torch module and a Paddle layer with the same weights, in eval mode."""
    ours, theirs = make(torch).to(dtype).eval(), make(paddle)
    theirs.to(dtype=str(dtype).removeprefix("torch."))
    theirs.eval()
    names = {"running_mean": "_mean", "running_var": "_variance"}
    known = theirs.state_dict()
    for name, value in ours.state_dict().items():
        head, _, last = name.rpartition(".")
        if last == "num_batches_tracked":
            continue
        if value.dim() == 1:
            value.uniform_(0.5, 1.5)
        known[f"{head}.{names.get(last, last)}"].set_value((value.T if value.dim() == 2 else value).numpy())
    return ours, theirs


def images(dtype=torch.float32):
    return torch.randn(2, 3, 12, 12, dtype=dtype)


def tokens(dtype=torch.float32):
    return torch.randn(2, 5, 6, dtype=dtype)


MODELS = pytest.mark.parametrize(("make", "inputs"), [(cnn, images), (transformer, tokens)], ids=["cnn", "transformer"])


def net(*, dropout=0.0):
    n = paddle.nn
    return n.Sequential(n.Linear(4, 8), n.BatchNorm1D(8), n.Tanh(), n.Dropout(dropout), n.Linear(8, 3))


def close(found, expected, tolerance):
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    scale = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
    assert float((found - expected).abs().max() / scale) < tolerance


def gradient(model, x, weights=None):
    x = x.detach().requires_grad_()
    y = model(x)
    return y.detach(), torch.autograd.grad(y, x, torch.ones_like(y) if weights is None else weights)[0]


@MODELS
def test_outputs_and_gradients_are_the_twins(make, inputs):
    ours, theirs = twins(make)
    x, weights = inputs(), torch.randn(2, 4)
    for found, expected in zip(gradient(as_torch(theirs), x, weights), gradient(ours, x, weights), strict=True):
        close(found, expected, 1e-5)


@MODELS
def test_gradients_are_those_of_finite_differences(make, inputs):
    _, theirs = twins(make, torch.float64)
    assert torch.autograd.gradcheck(as_torch(theirs), (inputs(torch.float64)[:1].requires_grad_(),), fast_mode=True)


METHODS = [
    ("gradient", {}),
    ("saliency", {}),
    ("input_x_gradient", {}),
    ("integrated_gradients", {"steps": 20}),
    ("integrated_gradients", {"tolerance": 1e-2}),
    ("smoothgrad", {"samples": 5}),
    ("gradient_shap", {"samples": 5, "stdev": 0.1}),
    ("feature_ablation", {}),
    ("occlusion", {"window": 3}),
    ("shapley", {"evaluations": 40}),
    ("lime", {"samples": 40}),
    ("rise", {"samples": 20, "cells": 3}),
]


@MODELS
@pytest.mark.parametrize(
    ("method", "options"), METHODS, ids=[name + "".join(o for o in opts if o == "tolerance") for name, opts in METHODS]
)
def test_explanations_are_the_twins(make, inputs, method, options):
    ours, theirs = twins(make)
    x, target = inputs(), [1, 3]
    if method in ("shapley", "lime") and make is cnn:
        options = options | {"feature_mask": MASK}
    if method == "gradient_shap":
        options = options | {"baselines": torch.randn(3, *x.shape[1:])}
    found, expected = (pellucid.explain(model, x, target, method, seed=0, **options) for model in (as_torch(theirs), ours))
    close(found.attribution, expected.attribution, 1e-4)
    close(found.scores, expected.scores, 1e-5)
    assert [(c.name, c.passed) for c in found.health] == [(c.name, c.passed) for c in expected.health]


def test_many_targets_at_once():
    ours, theirs = twins(transformer)
    x = tokens()
    both = (pellucid.explain_each(model, x, [0, 1, 3], "integrated_gradients", steps=5) for model in (as_torch(theirs), ours))
    for found, expected in zip(*both, strict=True):
        close(found.attribution, expected.attribution, 1e-4)


def test_a_wide_linear_layer_is_ablated_as_it_is():
    """Shortcuts that follow what torch is asked for give up where Paddle takes over."""
    layer = paddle.nn.Linear(600, 3)
    twin = nn.Linear(600, 3)
    twin.load_state_dict({"weight": torch.tensor(layer.weight.numpy().T), "bias": torch.tensor(layer.bias.numpy())})
    x = torch.randn(2, 600)
    for model in (lambda bridge: bridge, lambda bridge: nn.Sequential(bridge, nn.Softmax(1)), lambda bridge: lambda x: bridge(x) + twin(x)):
        found, expected = (pellucid.explain(model(m), x, 1, "feature_ablation").attribution for m in (as_torch(layer), twin))
        close(found, expected, 1e-4)


def test_captum_runs_on_top():
    ours, theirs = twins(cnn)
    x = images()
    found, expected = (captum.attr.IntegratedGradients(model).attribute(x, target=1, n_steps=10) for model in (as_torch(theirs), ours))
    close(found, expected, 1e-4)


def test_a_bridge_may_be_part_of_a_torch_model():
    ours, theirs = twins(transformer)
    x = tokens()
    head = nn.Sequential(nn.Tanh(), nn.Linear(4, 2))
    found, expected = (pellucid.explain(nn.Sequential(model, head), x, 1, "saliency") for model in (as_torch(theirs), ours))
    close(found.attribution, expected.attribution, 1e-4)
    found, expected = (pellucid.explain(nn.Sequential(model, head), x, 1, "saliency", layer="1.0") for model in (as_torch(theirs), ours))
    close(found.attribution, expected.attribution, 1e-4)


# The layer is left as it is.


@pytest.mark.filterwarnings("ignore:When training, we now always track:UserWarning")
@pytest.mark.parametrize("train", [False, True])
def test_the_layer_is_left_as_it_was(train):
    layer = net()
    layer.train() if train else layer.eval()
    layer[0].weight.stop_gradient = True
    layer[4].eval()
    layer[2].train()
    before = {name: value.numpy().copy() for name, value in layer.state_dict().items()}
    modes = [one.training for one in layer.sublayers(include_self=True)]
    hooks = len(layer._forward_pre_hooks) + len(layer._forward_post_hooks)
    for method in ("integrated_gradients", "feature_ablation"):
        pellucid.explain(as_torch(layer), torch.randn(3, 4), 1, method)
    assert [one.training for one in layer.sublayers(include_self=True)] == modes
    assert [p.stop_gradient for p in layer.parameters()] == [True, False, False, False, True, True, False, False]
    assert all(p.grad is None for p in layer.parameters())
    assert len(layer._forward_pre_hooks) + len(layer._forward_post_hooks) == hooks
    for name, value in layer.state_dict().items():
        assert (value.numpy() == before[name]).all(), name
    assert paddle.is_grad_enabled()


def test_parameters_keep_the_gradients_that_they_have():
    layer = net()
    layer.eval()
    layer(paddle.ones([2, 4])).sum().backward()
    before = [p.grad.numpy().copy() for p in layer.parameters() if p.grad is not None]
    gradient(as_torch(layer), torch.randn(2, 4))
    after = [p.grad.numpy() for p in layer.parameters() if p.grad is not None]
    assert before
    assert all((a == b).all() for a, b in zip(before, after, strict=True))


def test_modes_are_the_layers():
    layer = net(dropout=0.5)
    bridge = as_torch(layer)
    assert bridge.training
    assert bridge.eval() is bridge
    assert not bridge.training
    assert not any(one.training for one in layer.sublayers(include_self=True))
    nn.Sequential(bridge).train()
    assert all(one.training for one in layer.sublayers(include_self=True))
    layer.eval()
    assert not bridge.training
    layer[3].train()
    assert bridge.training
    assert bridge.in_train_mode() == ["3"]


@pytest.mark.filterwarnings("ignore:When training, we now always track:UserWarning")
def test_health_knows_of_train_mode_inside():
    layer = net(dropout=0.5)
    modes = [c for c in pellucid.explain(as_torch(layer), torch.randn(3, 4), 1, "saliency").health if c.name == "mode"]
    assert not modes[0].passed
    assert "(1, 3)" in modes[0].message
    layer.eval()
    assert all(c.passed for c in pellucid.explain(as_torch(layer), torch.randn(3, 4), 1, "saliency").health if c.name == "mode")


def test_provenance_hashes_the_weights():
    layer, x = net(), torch.randn(2, 4)
    layer.eval()
    bridge = as_torch(layer)
    first, again = (pellucid.explain(bridge, x, 1, "saliency").provenance.weights for _ in range(2))
    layer[0].weight.set_value(layer[0].weight.numpy() * 2)
    changed = pellucid.explain(bridge, x, 1, "saliency").provenance.weights
    assert first == again != changed
    assert pellucid.explain(nn.Sequential(bridge), x, 1, "saliency").provenance.weights != first
    assert set(bridge.state_dict()) == set(layer.state_dict())


def test_a_copy_has_weights_of_its_own():
    layer, x = net(), torch.randn(2, 4)
    layer.eval()
    bridge = as_torch(layer)
    other = copy.deepcopy(bridge)
    before = bridge(x)
    other.layer[0].weight.set_value(other.layer[0].weight.numpy() * 2)
    assert torch.equal(bridge(x), before)
    assert not torch.equal(other(x), before)


def test_what_paddle_keeps_is_counted_as_memory():
    wide = paddle.nn.Sequential(paddle.nn.Linear(4, 5000), paddle.nn.Tanh(), paddle.nn.Linear(5000, 1))
    view = pellucid.at_input(as_torch(wide), torch.randn(3, 4), 0)
    assert 5000 * 4 <= bytes_per_example(view) < 4 * 5000 * 4


# Graphs.


def test_no_graph_without_gradients():
    layer = net()
    layer.eval()
    bridge, x = as_torch(layer), torch.randn(2, 4, requires_grad=True)
    with torch.no_grad():
        assert not bridge(x).requires_grad
    with torch.inference_mode():
        assert not bridge(x.detach().clone()).requires_grad
    assert not bridge(x.detach()).requires_grad
    with paddle.no_grad():
        assert bridge(x).requires_grad
        assert not paddle.is_grad_enabled()


def test_gradients_may_be_taken_again_and_in_part():
    layer = net()
    layer.eval()
    bridge, x = as_torch(layer), torch.randn(2, 4, requires_grad=True)
    y = bridge(x)
    first, again = (torch.autograd.grad(y[:, 0].sum(), x, retain_graph=True)[0] for _ in range(2))
    other = torch.autograd.grad(y[:, 1].sum(), x, retain_graph=True)[0]
    both = torch.autograd.grad(y[:, :2].sum(), x)[0]
    assert torch.equal(first, again)
    torch.testing.assert_close(first + other, both)


def test_a_second_derivative_is_refused():
    bridge, x = as_torch(net()).eval(), torch.randn(2, 4, requires_grad=True)
    with pytest.raises(OptionError, match="Paddle layer cannot be differentiated again"):
        torch.autograd.grad(bridge(x).sum(), x, create_graph=True)


def test_memory_does_not_grow():
    layer = paddle.nn.Sequential(paddle.nn.Linear(64, 256), paddle.nn.Tanh(), paddle.nn.Linear(256, 2))
    bridge, x = as_torch(layer), torch.randn(32, 64)

    def held():
        return paddle.base.core.host_memory_stat_current_value("Allocated", 0)

    gradient(bridge, x)
    before = held()
    for _ in range(20):
        gradient(bridge, x)
        bridge(x)
        bridge(x.clone().requires_grad_())  # a graph that nobody goes back through
    assert held() == before


def test_what_is_edited_in_place_corrupts_nothing():
    layer = paddle.nn.Sequential(paddle.nn.Linear(4, 3), paddle.nn.Sigmoid())
    bridge, x = as_torch(layer), torch.randn(2, 4)
    _, expected = gradient(bridge, x)
    given = x.clone().requires_grad_()
    y = bridge(given)
    weights = torch.ones_like(y)
    with torch.no_grad():
        y.mul_(100)
        given.zero_()
    found = torch.autograd.grad(y, given, weights)[0]
    assert torch.equal(found, expected)
    assert torch.equal(weights, torch.ones_like(y))


def test_a_layer_may_work_in_place_on_its_inputs():
    class InPlace(paddle.nn.Layer):
        def forward(self, x, ids):
            ids.add_(paddle.ones_like(ids))
            return paddle.nn.functional.relu_(x) * ids.astype(x.dtype)

    x, ids = torch.tensor([[-1.0, 2.0]], requires_grad=True), torch.tensor([[1, 2]])
    y = as_torch(InPlace())(x, ids)
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.tensor([[0.0, 3.0]]))
    assert torch.equal(ids, torch.tensor([[1, 2]]))
    assert torch.equal(x, torch.tensor([[-1.0, 2.0]]))


def test_gradients_share_no_memory():
    class Sum(paddle.nn.Layer):
        def forward(self, x, y):
            return x + y

    class Same(paddle.nn.Layer):
        def forward(self, x):
            return x

    x, y, weights = torch.randn(3, requires_grad=True), torch.randn(3, requires_grad=True), torch.ones(3)
    found = torch.autograd.grad(as_torch(Sum())(x, y), (x, y), weights)
    same = torch.autograd.grad(as_torch(Same())(x), x, weights)
    places = {t.data_ptr() for t in (x, y, weights, *found, *same)}
    assert len(places) == 6
    assert as_torch(Same())(x).data_ptr() != x.data_ptr()


@pytest.mark.parametrize(
    "strided", [lambda x: x.transpose(1, 2), lambda x: x[:, ::2], lambda x: x[:, :1].expand(-1, 5, -1), lambda x: x.flip(1)]
)
def test_inputs_that_lie_otherwise_in_memory(strided):
    class Weighted(paddle.nn.Layer):
        def forward(self, x):
            return (x * paddle.arange(x.size, dtype=x.dtype).reshape(x.shape)).tanh()

    x = strided(torch.randn(2, 5, 6) / 60)
    y, found = gradient(as_torch(Weighted()), x, torch.ones(()).expand(x.shape))
    scale = torch.arange(x.numel()).reshape(x.shape)
    torch.testing.assert_close(y, (x * scale).tanh())
    torch.testing.assert_close(found, (1 - (x * scale).tanh() ** 2) * scale)


def test_threads():
    bridge, x = as_torch(twins(cnn)[1]), images()
    expected = [gradient(bridge, x, w)[1] for w in torch.eye(4)[:, None].expand(4, 2, 4)]

    def work(i):
        return torch.equal(gradient(bridge, x, torch.eye(4)[i % 4].expand(2, 4))[1], expected[i % 4])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(80)))
    assert threading.active_count() < 10


# What goes in and out.


class Both(paddle.nn.Layer):
    """Ids and numbers in; a nested structure out."""

    def __init__(self):
        super().__init__()
        self.words, self.out = paddle.nn.Embedding(10, 4), paddle.nn.Linear(4, 3)

    def forward(self, ids, x, mask=None, *, scale=1.0, unused=None):
        held = self.words(ids) * x
        held = held if mask is None else held * mask.astype(held.dtype).unsqueeze(-1)
        logits = self.out(held.mean(1)) * scale
        return {"logits": logits, "states": [held, (logits, held.argmax(-1))], "ids": ids, "loss": None}


def test_ids_numbers_keywords_and_nested_outputs():
    layer, ids, x = Both(), torch.tensor([[1, 2, 3]]), torch.randn(1, 3, 4, requires_grad=True)
    unused = torch.randn(2, requires_grad=True)
    found = as_torch(layer)(ids, x, mask=torch.tensor([[True, True, False]]), scale=2.0, unused=unused)
    assert found["loss"] is None
    assert torch.equal(found["ids"], ids)
    assert found["states"][1][1].dtype == torch.int64
    assert not found["states"][1][1].requires_grad
    assert torch.equal(found["states"][1][0], found["logits"])
    table = torch.tensor(layer.words.weight.numpy())
    weight = torch.tensor(layer.out.weight.numpy())
    held = table[ids] * x * torch.tensor([1.0, 1.0, 0.0])[:, None]
    expected = (held.mean(1) @ weight + torch.tensor(layer.out.bias.numpy())) * 2
    torch.testing.assert_close(found["logits"], expected)
    total = found["logits"].sum() + (3 * found["states"][0]).sum() + found["states"][1][0][0, 0]
    wanted = expected.sum() + (3 * held).sum() + expected[0, 0]
    torch.testing.assert_close(torch.autograd.grad(total, x, retain_graph=True)[0], torch.autograd.grad(wanted, x)[0])
    assert torch.autograd.grad(total, (unused, x), allow_unused=True)[0] is None


def test_structures_go_in_as_well():
    class Mixed(paddle.nn.Layer):
        def forward(self, pair, options):
            return pair[0] * pair[1] + options["shift"]

    a, b = torch.randn(2, requires_grad=True), torch.randn(2)
    y = as_torch(Mixed())((a, b), {"shift": torch.ones(2)})
    torch.testing.assert_close(y, a * b + 1)
    assert torch.equal(torch.autograd.grad(y.sum(), a)[0], b)


def test_several_inputs_are_explained():
    layer, ids, x = Both(), torch.randint(0, 10, (2, 3)), torch.randn(2, 3, 4)
    model = as_torch(layer)
    run = lambda x, ids: model(ids, x)["logits"]  # noqa: E731
    found = pellucid.explain(run, x, 1, args=(ids,), steps=20, strict=True)
    assert found.attribution.shape == x.shape
    ablated = pellucid.explain(lambda ids, x: model(ids, x), (ids, x), lambda output: output["logits"][:, 0], "feature_ablation")
    assert [a.shape for a in ablated.attributions] == [ids.shape, x.shape]


def test_what_the_layer_does_not_use_has_gradient_zero():
    class First(paddle.nn.Layer):
        def forward(self, x, y):
            return x * 2

    class Constant(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.bias = self.create_parameter([2])

        def forward(self, x):
            return self.bias + paddle.zeros([len(x), 2])

    x, y = torch.randn(3, 2), torch.randn(3, 2)
    found = pellucid.explain(as_torch(First()), (x, y), 1, "gradient")
    assert torch.equal(found.attributions[1], torch.zeros(3, 2))
    assert torch.equal(pellucid.explain(as_torch(Constant()), x, 1, "gradient").attribution, torch.zeros(3, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_stay(dtype):
    class Flat(paddle.nn.Layer):
        def forward(self, x):
            return x.flatten()

    x, weights = torch.randn(2, 3).to(dtype), torch.randn(6).to(dtype)
    y, found = gradient(as_torch(Flat()), x, weights)
    assert torch.equal(y, x.flatten())
    assert torch.equal(found, weights.reshape(2, 3))


@pytest.mark.parametrize("shape", [(6,), (5, 6)])
def test_layer_normalisation_is_differentiated_rightly(shape):
    """Paddle's own gradient is wrong here (3.3.1, CPU)."""
    theirs, ours = paddle.nn.LayerNorm(list(shape)), nn.LayerNorm(shape)
    own = paddle._C_ops.layer_norm
    for one, other in ((theirs.weight, ours.weight), (theirs.bias, ours.bias)):
        values = torch.rand(shape) + 0.5
        one.set_value(values.numpy().reshape(one.shape))
        other.data.copy_(values)
    x, weights = tokens(), torch.randn(2, 5, 6)
    for found, expected in zip(gradient(as_torch(theirs), x, weights), gradient(ours, x, weights), strict=True):
        close(found, expected, 1e-5)
    assert paddle._C_ops.layer_norm is own


def test_recurrent_layers_that_paddle_cannot_differentiate_say_so():
    theirs, ours = paddle.nn.LSTM(6, 8, num_layers=2), nn.LSTM(6, 8, num_layers=2, batch_first=True)
    theirs.eval()
    ours.load_state_dict({name: torch.tensor(value.numpy()) for name, value in theirs.state_dict().items() if "cell" not in name})
    x, bridge = tokens(), as_torch(theirs)
    found, expected = (pellucid.explain(lambda x, m=m: m(x)[0][:, -1], x, 1, "feature_ablation") for m in (bridge, ours))
    close(found.attribution, expected.attribution, 1e-4)
    with pytest.raises((RuntimeError, ValueError)) as caught:
        gradient(lambda x: bridge(x)[0], x)
    assert any("feature_ablation" in note for note in caught.value.__notes__)


# Refusals.


@pytest.mark.parametrize("wrap", [lambda bridge: bridge, lambda bridge: nn.Sequential(bridge, nn.Softmax(1))], ids=["alone", "part"])
@pytest.mark.parametrize("method", ["deeplift", "deeplift_shap", "lrp", "attn_lrp", "guided_backprop", "deconvolution"])
def test_methods_with_rules_are_refused(method, wrap):
    model = wrap(as_torch(net()).eval())
    options = {"baselines": torch.zeros(2, 4)} if method == "deeplift_shap" else {}
    with pytest.raises(OptionError, match=r"runs in Paddle, .* such as integrated_gradients"):
        pellucid.explain(model, torch.randn(2, 4), 1, method, **options)


@pytest.mark.parametrize("layer", ["4", "7", None], ids=["name", "other", "object"])
def test_layers_inside_are_refused(layer):
    theirs = twins(cnn)[1]
    bridge, x = as_torch(theirs), images()
    layer = theirs[4] if layer is None else layer
    for method in ("saliency", "grad_cam", "layer_cam", "guided_grad_cam"):
        with pytest.raises(OptionError, match="runs in Paddle, whose layers cannot be watched"):
            pellucid.explain(bridge, x, 1, method, layer=layer)
    for refused in (attr.LayerConductance, attr.LayerGradCam, attr.LayerActivation):
        with pytest.raises(OptionError, match="runs in Paddle, whose layers cannot be watched"):
            refused(bridge, layer).attribute(x, **({} if refused is attr.LayerActivation else {"target": 1}))
    with pytest.raises(OptionError, match="runs in Paddle, whose layers cannot be watched"):
        pellucid.explain(bridge, x, method="saliency", layer=layer, neuron=0)


def test_captums_names_refuse_as_well():
    bridge = as_torch(net()).eval()
    for refused in (attr.DeepLift, attr.LRP, attr.GuidedBackprop, attr.Deconvolution):
        with pytest.raises(OptionError, match="runs in Paddle"):
            refused(bridge).attribute(torch.randn(2, 4), target=1)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.Linear(2, 2), ["Linear", "torch module already"]),
        (paddle.nn.Linear, ["the class Linear", "as_torch(Linear(...))"]),
        (lambda x: x, ["function", "paddle.nn.Layer"]),
        (None, ["NoneType", "paddle.nn.Layer"]),
    ],
)
def test_what_is_no_layer(layer, words):
    with pytest.raises(InputError) as caught:
        as_torch(layer)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(("result", "word"), [(object(), "object"), (None, "no tensor"), ([], "no tensor")])
def test_what_is_no_tensor_is_not_returned(result, word):
    class Odd(paddle.nn.Layer):
        def forward(self, x):
            return result

    with pytest.raises(OutputError, match=rf"Odd returned .*{word}"):
        as_torch(Odd())(torch.ones(2))


def test_where_paddle_cannot_reach():
    with pytest.raises(InputError, match=r"on meta.*tensor\.cpu"):
        as_torch(net())(torch.ones(2, 4, device="meta"))


def test_a_bridge_does_not_move_its_layer():
    bridge = as_torch(net())
    assert bridge.to("cpu").float() is bridge
    with pytest.raises(OptionError, match="do that in Paddle"):
        bridge.double()


def test_the_layers_own_error_stays_itself_and_leaves_paddle_as_it_was():
    with pytest.raises(ValueError, match="mul") as caught:
        pellucid.explain(as_torch(net()).eval(), torch.ones(3, 7), 1)
    assert "(3, 7) torch.float32" in caught.value.__notes__[0]
    assert paddle.is_grad_enabled()


def test_an_old_paddle(monkeypatch):
    monkeypatch.setattr(paddle, "__version__", "2.6.2")
    with pytest.raises(MissingExtra, match=r"2\.6\.2.*3\.0"):
        as_torch(net())


def test_no_paddle(monkeypatch):
    monkeypatch.setitem(sys.modules, "paddle", None)
    with pytest.raises(MissingExtra, match=r"pellucid\[paddle\]"):
        as_torch(object())


def test_importing_the_bridge_does_not_import_paddle():
    code = "import sys, pellucid, pellucid.paddle; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_costs_are_counted_as_for_any_model():
    layer = net()
    layer.eval()
    run = Run()
    pellucid.gradient.saliency(pellucid.at_input(as_torch(layer), torch.randn(2, 4), 1), run)
    assert (run.forwards, run.backwards) == (2, 2)
