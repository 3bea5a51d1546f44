"""Layer and neuron classes against the installed Captum: numbers, shapes, types, signatures."""

import inspect

import pytest
import torch
from captum import attr as theirs
from torch import nn

from pellucid import InputError, OptionError
from pellucid.captum import attr as ours
from tests.models import Conv, cases

CASES = {case.name: case for case in cases()}
LAYERS = {
    "mlp": lambda m: m.net.net[1] if hasattr(m.net, "net") else m.net[1],
    "smooth": lambda m: m.net[2],
    "conv": lambda m: m.first,
    "two inputs": lambda m: m.b,
    "with arguments": lambda m: m.a,
    "sequence": lambda m: m.out,
    "regression": lambda m: m.net.net[1],
    "embedding": lambda m: m.out,
}
METHODS = {
    "LayerGradientXActivation": {},
    "LayerIntegratedGradients": {"n_steps": 20},
    "LayerConductance": {"n_steps": 20},
    "InternalInfluence": {"n_steps": 20},
    "LayerGradCam": {},
    "LayerFeatureAblation": {},
}
DELTAS = ("LayerIntegratedGradients", "LayerConductance")
NEURONS = {
    "NeuronGradient": {},
    "NeuronIntegratedGradients": {"n_steps": 20},
    "NeuronConductance": {"n_steps": 20, "method": "gausslegendre"},
    "NeuronFeatureAblation": {},
}
CLASSES = [*METHODS, *NEURONS, "LayerActivation", "LayerGradientShap", "NeuronGradientShap"]
pytestmark = pytest.mark.filterwarnings("ignore:.completeness.:pellucid.PellucidWarning", "ignore:.*layer:UserWarning")


def same(found, expected, tolerance=1e-6):
    assert type(found) is type(expected)
    if isinstance(expected, tuple | list):
        assert len(found) == len(expected)
        for f, e in zip(found, expected, strict=True):
            same(f, e, tolerance)
        return
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    torch.testing.assert_close(found, expected.detach(), rtol=tolerance, atol=tolerance * float(expected.detach().abs().max()))


def asked(case):
    inputs = case.inputs if len(case.inputs) > 1 else case.inputs[0]
    return inputs, {"target": case.target, "additional_forward_args": case.extra or None}


def both(name, model, layer, *args, **keywords):
    for place in (ours, theirs):
        yield getattr(place, name)(model, layer).attribute(*args, **keywords)


@pytest.mark.parametrize("name", CLASSES)
def test_signatures(name):
    for method in ("__init__", "attribute"):
        found, expected = (inspect.signature(getattr(getattr(place, name), method)).parameters for place in (ours, theirs))
        assert list(found) == list(expected)
        defaults = lambda parameters: [p.default for p in parameters.values() if not callable(p.default)]  # noqa: E731
        assert [repr(d) for d in defaults(found)] == [repr(d) for d in defaults(expected)]
        assert [p.kind for p in found.values()] == [p.kind for p in expected.values()]


@pytest.mark.parametrize("of_input", [False, True])
@pytest.mark.parametrize("case", LAYERS)
def test_activations(case, of_input):
    case = CASES[case]
    layer, (inputs, _) = LAYERS[case.name](case.model), asked(case)
    arguments = {"additional_forward_args": case.extra or None, "attribute_to_layer_input": of_input}
    same(*both("LayerActivation", case.model, layer, inputs, **arguments))


@pytest.mark.parametrize("of_input", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", LAYERS)
def test_layers(case, method, of_input):
    case = CASES[case]
    layer, (inputs, arguments) = LAYERS[case.name](case.model), asked(case)
    if method == "LayerFeatureAblation" and case.target is None:
        arguments["target"] = None
    same(*both(method, case.model, layer, inputs, attribute_to_layer_input=of_input, **arguments, **METHODS[method]))


@pytest.mark.parametrize("method", DELTAS)
@pytest.mark.parametrize("baseline", [None, 0.3])
def test_deltas_and_baselines(method, baseline):
    case = CASES["smooth"]
    inputs, arguments = asked(case)
    found, expected = both(method, case.model, case.model.net[1], inputs, baseline, n_steps=50, return_convergence_delta=True, **arguments)
    same(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", NEURONS)
@pytest.mark.parametrize("of_input", [False, True])
@pytest.mark.parametrize(
    ("case", "neuron"),
    [
        ("mlp", 2),
        ("mlp", (3,)),
        ("smooth", (slice(1, 4),)),
        ("conv", (1, 2, 2)),
        ("conv", (slice(0, 2), 1, slice(1, 3))),
        ("regression", 4),
    ],
    ids=str,
)
def test_neurons(case, neuron, method, of_input):
    case = CASES[case]
    layer, (inputs, arguments) = LAYERS[case.name](case.model), asked(case)
    if method != "NeuronConductance":
        del arguments["target"]
    elif any(isinstance(i, slice) for i in (neuron if isinstance(neuron, tuple) else ())):
        pytest.skip("Captum's conductance of several neurons multiplies their sums")
    same(*both(method, case.model, layer, inputs, neuron, attribute_to_neuron_input=of_input, **arguments, **NEURONS[method]))


def test_a_neuron_may_be_a_function():
    case = CASES["mlp"]
    chosen = lambda activation: activation[:, :3].square().sum(1)  # noqa: E731
    same(*both("NeuronGradient", case.model, case.model.net[1], case.inputs[0], chosen))
    same(*both("NeuronIntegratedGradients", case.model, case.model.net[1], case.inputs[0], chosen, n_steps=20))


def test_several_layers_give_a_list():
    case = CASES["two inputs"]
    layers, (inputs, arguments) = [case.model.a, case.model.b], asked(case)
    for method in ("LayerGradientXActivation", "LayerIntegratedGradients"):
        same(*both(method, case.model, layers, inputs, **arguments))
    same(*both("LayerActivation", case.model, layers, inputs))


def test_masks_and_baselines_of_a_layer():
    case = CASES["conv"]
    inputs, arguments = asked(case)
    mask = torch.arange(6).view(1, 6, 1, 1) // 2
    for baseline in (None, 0.4, torch.randn(1, 6, 6, 6).double()):
        same(*both("LayerFeatureAblation", case.model, case.model.first, inputs, baseline, layer_mask=mask, **arguments))


@pytest.mark.parametrize(("relu", "summed"), [(False, True), (True, True), (True, False)])
def test_grad_cam(relu, summed):
    case = CASES["conv"]
    inputs, arguments = asked(case)
    same(*both("LayerGradCam", case.model, case.model.second, inputs, relu_attributions=relu, attr_dim_summation=summed, **arguments))


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_interpolate(mode):
    x = torch.randn(2, 1, 3, 3)
    found, expected = (place.LayerAttribution.interpolate(x, (6, 7), mode) for place in (ours, theirs))
    same(found, expected)


def test_expected_gradients_of_a_layer_are_complete():
    case = CASES["smooth"]
    x, (_, arguments) = case.inputs[0], asked(case)
    torch.manual_seed(0)
    found, delta = ours.LayerGradientShap(case.model, case.model.net[1]).attribute(
        x, torch.zeros(2, 5).double(), n_samples=400, return_convergence_delta=True, **arguments
    )
    assert found.shape == (3, 12)
    assert delta.shape == (1200,)
    scores = case.model(x)[torch.arange(3), case.target] - case.model(torch.zeros(1, 5).double())[0, case.target]
    torch.testing.assert_close(found.sum(1), scores, rtol=0, atol=1e-2)


def test_recurrent_states_are_examples_first_inside_and_as_the_layer_has_them_outside():
    case = CASES["sequence"]
    found = ours.LayerIntegratedGradients(case.model, case.model.rnn).attribute(case.inputs[0], target=case.target)
    assert [f.shape for f in found] == [(3, 4, 6), (1, 3, 6)]
    assert not found[1].any()  # the last state is not used


def test_layers_by_name_and_by_call():
    model = Conv().double().eval()
    x = torch.randn(3, 2, 6, 6).double()
    by_name, by_module = (ours.LayerActivation(model, layer).attribute(x) for layer in ("second", model.second))
    assert torch.equal(by_name, by_module)
    with pytest.raises(OptionError, match=r"no layer 'secund'.*'second'"):
        ours.LayerActivation(model, "secund").attribute(x)
    twice = nn.Sequential(model.relu, nn.Flatten(), nn.Linear(72, 3).double(), model.relu)
    with pytest.raises(OptionError, match="layer '0' runs 2 times; say which call, from 0 to 1"):
        ours.LayerActivation(twice, model.relu).attribute(x)
    assert ours.LayerActivation(twice, (model.relu, 1)).attribute(x).shape == (3, 3)
    with pytest.raises(OptionError, match="call 2 is not among 0 to 1"):
        ours.LayerActivation(twice, (model.relu, 2)).attribute(x)
    with pytest.raises(OptionError, match="does not run"):
        ours.LayerActivation(model, nn.ReLU()).attribute(x)


def test_layers_without_tensors():
    class Silent(nn.Module):
        def forward(self, x):
            return None

    silent = Silent()
    with pytest.raises(InputError, match="returns no tensor"):
        ours.LayerActivation(lambda x: (silent(x), x)[1], silent).attribute(torch.ones(1, 2))


def test_query_key_and_value_have_gradients_of_their_own():
    """Captum gives each of them the gradient of whatever else the same tensor goes into."""
    case = CASES["embedding"]
    x, (_, arguments), model = case.inputs[0], asked(case), case.model
    found = ours.LayerGradientXActivation(model, model.attention, multiply_by_inputs=False).attribute(
        x, attribute_to_layer_input=True, **arguments
    )
    leaves = [x.clone().requires_grad_() for _ in range(3)]
    score = model.out(torch.nn.functional.gelu(x + model.attention(*leaves, need_weights=False)[0]).mean(1))[:, case.target]
    same(found, torch.autograd.grad(score.sum(), leaves))


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Module()
        self.inner.embedding, self.out = nn.Embedding(9, 4), nn.Linear(4, 2)

    def forward(self, ids, weight=1.0):
        return self.out((self.inner.embedding(ids) * weight).mean(1))


@pytest.mark.filterwarnings("ignore:In order to make embedding layers")
def test_interpretable_embeddings():
    model, ids = Words().double().eval(), torch.randint(9, (3, 5))
    plain, own = model(ids), model.inner.embedding
    results = []
    for place in (ours, theirs):
        layer = place.configure_interpretable_embedding_layer(model, "inner.embedding")
        embedded = layer.indices_to_embeddings(ids)
        results.append(place.IntegratedGradients(model).attribute(embedded, target=1, n_steps=10))
        place.remove_interpretable_embedding_layer(model, layer)
        assert model.inner.embedding is own
    same(*results)
    assert torch.equal(model(ids), plain)
    with pytest.raises(OptionError, match=r"no layer 'inner\.words'"):
        ours.configure_interpretable_embedding_layer(model, "inner.words")
    ours.configure_interpretable_embedding_layer(model, "inner.embedding")
    with pytest.raises(OptionError, match="interpretable already"):
        ours.configure_interpretable_embedding_layer(model, "inner.embedding")


def test_references_of_tokens():
    found, expected = (place.TokenReferenceBase(7).generate_reference(4, torch.device("cpu")) for place in (ours, theirs))
    same(found, expected)


def test_inputs_as_layers():
    from captum.attr._utils.input_layer_wrapper import ModelInputWrapper

    model, ids = Words().double().eval(), torch.randint(9, (3, 5))
    weight = torch.rand(3, 5, 1).double()
    found, expected = (
        place.LayerIntegratedGradients(wrapped, [wrapped.module.inner.embedding, wrapped.input_maps["weight"]]).attribute(
            (ids, weight), (0, 0.0), target=1, n_steps=10
        )
        for place, wrapped in ((ours, ours.ModelInputWrapper(model)), (theirs, ModelInputWrapper(model)))
    )
    same(found, expected)
