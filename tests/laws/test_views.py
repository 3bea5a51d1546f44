"""Every method on every view: inputs, what a layer returns, what it receives, a neuron."""

import pytest
import torch
from torch import Tensor, nn

import pellucid
import pellucid.batch
from pellucid import METHODS, OptionError
from pellucid.gradient import layer_conductance, neuron_conductance
from pellucid.inside import at_layer, look
from pellucid.view import at_input
from tests.laws.test_methods import OPTIONS, RANDOM
from tests.models import Mlp, assert_same_state, cases, state_of

CASES = {case.name: case for case in cases()}
LAYERS = {
    "mlp": "net.1",
    "smooth": "net.2",
    "conv": "norm",
    "two inputs": "b",
    "with arguments": "a",
    "sequence": "rnn",
    "embedding": "out",
}
NEURONS = {"mlp": 3, "smooth": 0, "conv": (2, 1, 3), "two inputs": 4, "with arguments": 5, "sequence": (1, 2), "embedding": 1}
VIEWS = ("inputs", "layer", "layer input", "neuron")
every = pytest.mark.parametrize(("name", "view", "method"), [(n, v, m) for n in LAYERS for v in VIEWS for m in METHODS])


def place_of(name, view):
    if view == "inputs":
        return {}
    return {"layer": LAYERS[name], "of_input": view == "layer input"} | ({"neuron": NEURONS[name]} if view == "neuron" else {})


def explained(case, view, method, rows=slice(None), **options):
    target = case.target
    if isinstance(target, Tensor | list) and rows != slice(None):
        target = target[rows]
    return pellucid.explain(
        case.model,
        tuple(x[rows] for x in case.inputs),
        None if view == "neuron" else target,
        method,
        args=tuple(e[rows] if isinstance(e, Tensor) else e for e in case.extra),
        seed=5,
        **place_of(case.name, view),
        **OPTIONS.get(method, {}) | options,
    )


@every
def test_batch_is_loop_the_model_unchanged_and_laws_hold(name, view, method):
    case = CASES[name]
    before = state_of(case.model)
    found = explained(case, view, method)
    assert_same_state(before, state_of(case.model))
    for i in range(3):
        for a, b in zip(found.attributions, explained(case, view, method, slice(i, i + 1)).attributions, strict=True):
            torch.testing.assert_close(a[i : i + 1], b, rtol=1e-8, atol=1e-11)
    for a, x in zip(found.attributions, found.features, strict=True):
        assert (a.shape, a.dtype) == (x.shape, x.dtype)
    finer = {"integrated_gradients": {"steps": 200}, "gradient_shap": {"samples": 2000}}.get(method)
    if finer:
        check = explained(case, view, method, **finer).check("completeness")
        assert check.passed, check.message


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_that_changes_nothing_is_explained_like_the_input(method):
    model, x = nn.Sequential(nn.Identity(), Mlp(activation=nn.GELU)).double().eval(), torch.randn(3, 5).double()
    keywords = {"seed": 5, **OPTIONS.get(method, {})}
    at_inputs, at_identity = (pellucid.explain(model, x, 1, method, **place, **keywords) for place in ({}, {"layer": "0"}))
    torch.testing.assert_close(at_identity.attribution, at_inputs.attribution, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_what_the_last_layer_returns_is_the_output(method):
    model, x = Mlp().double().eval(), torch.randn(3, 5).double()
    keywords = {"seed": 5, **OPTIONS.get(method, {})}
    asked = {"target": 2}, {"layer": "net.4", "neuron": 2}
    of_output, of_neuron = (pellucid.explain(model, x, method=method, **what, **keywords).attribution for what in asked)
    torch.testing.assert_close(of_neuron, of_output, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["mlp", "smooth", "conv"])
def test_conductance_adds_up_over_a_layer_and_over_the_inputs(name):
    case = CASES[name]
    view = at_input(case.model, case.inputs, case.target)
    zeros = tuple(torch.zeros_like(x) for x in case.inputs)
    place = look(view, LAYERS[name] if name != "conv" else "head", of_input=name == "conv").place
    whole = layer_conductance(view, place, zeros, 3000)
    torch.testing.assert_close(whole.values[0][0].flatten(1).sum(1), (whole.scores - whole.baseline_scores)[0], rtol=5e-3, atol=1e-4)
    for neuron in (0, 3):
        of_one = neuron_conductance(view, place, neuron, zeros, 3000)
        torch.testing.assert_close(of_one.values[0][0].flatten(1).sum(1), whole.values[0][0][:, neuron], rtol=2e-2, atol=1e-3)


def test_conductance_is_the_same_in_calls_of_any_size():
    case = CASES["conv"]
    view, zeros = at_input(case.model, case.inputs, case.target), tuple(torch.zeros_like(x) for x in case.inputs)
    place = look(view, "second").place
    found = [layer_conductance(view, place, zeros, 20, run=pellucid.batch.Run(most)).values[0] for most in (None, 1, 7)]
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


class Positions(nn.Module):
    """Adds one embedding of positions, shared by all examples, through a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.position, self.out = nn.Embedding(4, 3), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(x + self.position(torch.arange(4))).flatten(1))


@pytest.mark.parametrize("method", METHODS)
def test_what_all_examples_share_is_attributed_for_each(method):
    model, x = Positions().double().eval(), torch.randn(3, 4, 3).double()
    found = pellucid.explain(model, x, 1, method, layer="position", seed=5, **OPTIONS.get(method, {}))
    assert found.attribution.shape == (3, 4, 3)
    own = lambda i: torch.tanh(x[i] + p)  # noqa: E731
    if method == "gradient":
        p = model.position.weight.detach().requires_grad_()
        for i in range(3):
            (expected,) = torch.autograd.grad(model.out(own(i).flatten())[1], p)
            torch.testing.assert_close(found.attribution[i], expected)


def test_the_gradient_of_what_all_share_in_one_watched_pass():
    model, x = Positions().double().eval(), torch.randn(3, 4, 3).double()
    view = at_input(model, x, 1)
    zeros = (torch.zeros_like(x),)
    place = look(view, "position").place
    assert place.shared
    conducted = layer_conductance(view, place, zeros, 5).values[0]
    assert conducted.shape == (1, 3, 4, 3)
    assert not conducted.any()  # it does not change on the way


def test_the_view_of_a_layer_scores_as_the_model_does():
    for name, layer in LAYERS.items():
        case = CASES[name]
        view = at_input(case.model, case.inputs, case.target, case.extra)
        for of_input in (False, True):
            inner = at_layer(view, layer, of_input)
            torch.testing.assert_close(inner.score(inner.features), view.score(view.features))


def test_words_and_refusals():
    case = CASES["mlp"]
    found = pellucid.explain(case.model, case.inputs, layer="net.1", neuron=(2,), method="saliency")
    assert found.target == "neuron (2,) of layer net.1"
    assert found.predictions is None
    at = pellucid.explain(case.model, case.inputs, 1, "saliency", layer="net.1", of_input=True)
    assert at.options["layer"] == "the input of layer net.1"
    with pytest.raises(OptionError, match="belong to a layer"):
        pellucid.explain(case.model, case.inputs, 1, "saliency", neuron=2)
    with pytest.raises(OptionError, match=r"no layer 'net\.9'"):
        pellucid.explain(case.model, case.inputs, 1, "saliency", layer="net.9")


@pytest.mark.parametrize("method", [m for m in METHODS if m not in RANDOM])
@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_layers_of_compiled_models(method):
    model, x = Mlp().double().eval(), torch.randn(3, 5).double()
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    for what in ({"target": 1, "layer": model.net[1]}, {"layer": model.net[1], "neuron": 2}):
        found, expected = (pellucid.explain(m, x, method=method, **what, **OPTIONS.get(method, {})).attribution for m in (compiled, model))
        torch.testing.assert_close(found, expected)
