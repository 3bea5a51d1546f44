"""DeepLIFT, guided methods and LRP against the installed Captum, where Captum is right: numbers, shapes, types, signatures."""

import importlib
import inspect

import pytest
import torch
import torch.nn.functional as F
from captum import attr as theirs
from captum.attr._utils import lrp_rules as their_rules
from torch import nn

import pellucid
from pellucid import InputError, OptionError
from pellucid.captum import attr as ours
from pellucid.captum.attr import lrp as our_rules
from tests.models import assert_same_state, state_of

CLASSES = [
    "DeepLift",
    "DeepLiftShap",
    "LRP",
    "GuidedBackprop",
    "Deconvolution",
    "GuidedGradCam",
    "LayerDeepLift",
    "LayerDeepLiftShap",
    "LayerLRP",
    "NeuronDeepLift",
    "NeuronDeepLiftShap",
    "NeuronGuidedBackprop",
    "NeuronDeconvolution",
]
pytestmark = pytest.mark.filterwarnings("ignore:.*hooks:UserWarning", "ignore:Setting backward hooks:UserWarning")


class Net(nn.Module):
    """What Captum gets right: modules used once, pooling away from activations and without overlap, one score per example."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu, self.second, self.pool = nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 6, 3), nn.MaxPool2d(2)
        self.third, self.norm, self.other, self.mean = nn.Conv2d(6, 4, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2)
        self.dense, self.tanh, self.out = nn.Linear(16, 7), nn.Tanh(), nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.third(self.pool(self.second(self.relu(self.first(x)))))
        x = self.mean(self.other(self.norm(x)))
        return self.out(self.tanh(self.dense(x.flatten(1))))


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.relu, self.out = nn.Linear(4, 6), nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 3)

    def forward(self, a: torch.Tensor, b: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return self.out(self.relu(self.a(a) + scale * self.b(b)))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(3)
    return Net().double().eval()


@pytest.fixture(scope="module")
def x():
    return torch.randn(4, 2, 11, 11, generator=torch.Generator().manual_seed(1)).double()


@pytest.fixture(scope="module")
def other(x):
    return torch.randn(4, 2, 11, 11, generator=torch.Generator().manual_seed(2)).double()


def same(found, expected, scale=None, tolerance=1e-6):
    assert type(found) is type(expected)
    if isinstance(expected, tuple | list):
        for f, e in zip(found, expected, strict=True):
            same(f, e, scale, tolerance)
        return
    expected = expected.detach()
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(scale or expected.abs().max()))


def both(name, make, *args, **keywords):
    return [getattr(place, name)(*make).attribute(*args, **keywords) for place in (ours, theirs)]


@pytest.mark.parametrize("name", CLASSES)
def test_signatures(name):
    for method in ("__init__", "attribute"):
        found, expected = (inspect.signature(getattr(getattr(place, name), method)).parameters for place in (ours, theirs))
        assert list(found) == list(expected)
        assert [repr(p.default) for p in found.values()] == [repr(p.default) for p in expected.values()]
        assert [p.kind for p in found.values()] == [p.kind for p in expected.values()]


@pytest.mark.parametrize("name", CLASSES)
def test_what_a_class_says_of_itself(name, net):
    makes = [net] if not name.startswith(("Layer", "Neuron", "GuidedGrad")) else [net, net.second]
    found, expected = (getattr(place, name)(*makes) for place in (ours, theirs))
    for word in ("multiplies_by_inputs",):
        if hasattr(type(expected), word) and not name.startswith("Neuron"):
            assert getattr(found, word) == getattr(expected, word)
    assert found.has_convergence_delta() == expected.has_convergence_delta()
    path = getattr(theirs, name).__module__
    pellucid.captum.install()
    try:
        assert getattr(importlib.import_module(path), name) is getattr(ours, name)
    finally:
        pellucid.captum.uninstall()


@pytest.mark.parametrize("target", [1, [0, 1, 2, 0], torch.tensor([2, 2, 1, 0])], ids=["one", "list", "tensor"])
@pytest.mark.parametrize("kind", ["none", "number", "own", "one row"])
def test_deeplift(net, x, other, kind, target):
    baseline = {"none": None, "number": 0.3, "own": other, "one row": other[:1]}[kind]
    found, expected = both("DeepLift", [net], x, baseline, target, return_convergence_delta=True)
    same(found[0], expected[0])
    same(found[1], expected[1], scale=float(net(x).detach().abs().max()))


@pytest.mark.parametrize("multiply", [True, False])
@pytest.mark.parametrize("count", [2, 3])
def test_deeplift_shap(net, x, other, multiply, count):
    found, expected = both("DeepLiftShap", [net, multiply], x, other[:count], [0, 1, 2, 0], return_convergence_delta=True)
    same(found[0], expected[0])
    same(found[1], expected[1], scale=float(expected[1].detach().abs().max() if not multiply else net(x).detach().abs().max()))
    drawn = both("DeepLiftShap", [net, multiply], x, lambda: other[:2], 1)
    same(*drawn)


def one(multiplied):
    return tuple(3 * m for m in multiplied)


def two(multiplied, inputs):
    return tuple(m * x for m, x in zip(multiplied, inputs, strict=True))


def three(multiplied, inputs, baselines):
    return tuple(m * (x - b).abs() for m, x, b in zip(multiplied, inputs, baselines, strict=True))


@pytest.mark.parametrize("function", [one, two, three])
def test_custom_attribution_functions(net, x, other, function):
    same(*both("DeepLift", [net], x, other, 1, custom_attribution_func=function))
    same(*both("DeepLiftShap", [net], x, other[:3], 1, custom_attribution_func=function))
    same(*both("LayerDeepLift", [net, net.second], x, other, 1, custom_attribution_func=function))
    same(*both("NeuronDeepLift", [net, net.dense], x, 3, other, custom_attribution_func=function))


def test_a_custom_function_of_four_arguments_is_refused(net, x):
    with pytest.raises(OptionError, match="takes 4 arguments"):
        ours.DeepLift(net).attribute(x, target=1, custom_attribution_func=lambda a, b, c, d: a)


LAYERS = ("first", "relu", "second", "pool", "third", "norm", "mean", "dense", "out")


@pytest.mark.parametrize("of_input", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_layers(net, x, other, layer, of_input):
    make = [net, getattr(net, layer)]
    keywords = {"attribute_to_layer_input": of_input, "return_convergence_delta": True}
    if layer in ("relu", "pool") and of_input:  # there Captum's own delta is not zero
        found = ours.LayerDeepLift(*make).attribute(x, other, 1, **keywords)
        assert found[1].abs().max() < 1e-10 < theirs.LayerDeepLift(*make).attribute(x, other, 1, **keywords)[1].abs().max()
        return
    found, expected = both("LayerDeepLift", make, x, other, 1, **keywords)
    same(found[0], expected[0])
    same(found[1], expected[1], scale=float(net(x).detach().abs().max()))
    found, expected = both("LayerDeepLiftShap", make, x, other[:3], [0, 1, 2, 0], **keywords)
    same(found[0], expected[0])
    if layer not in ("relu",):  # Captum keeps no relevance of activations
        found, expected = both("LayerLRP", make, x, 1, **keywords)
        same(found[0], expected[0], tolerance=3e-6)  # Captum stabilises sums too
        same(found[1], expected[1], scale=float(net(x).detach().abs().max()))


def test_relevance_of_several_layers_and_of_all(net, x):
    found, expected = both("LayerLRP", [net, [net.first, net.third]], x, 2, return_convergence_delta=True)
    same(found[0], expected[0])
    same(found[1], expected[1], scale=float(net(x).detach().abs().max()))
    everything = ours.LayerLRP(net, None).attribute(x, 2)
    assert [tuple(r.shape[1:]) for r in everything][:3] == [(5, 11, 11), (5, 11, 11), (6, 9, 9)]
    same(everything[0], expected[0][0])


@pytest.mark.parametrize(
    ("layer", "neuron"), [("second", (1, 2, 2)), ("dense", 3), ("dense", (slice(1, 4),)), ("pool", (slice(0, 2), 1, 1))]
)
def test_neurons(net, x, other, layer, neuron):
    make = [net, getattr(net, layer)]
    for of_input in (False, True):
        if of_input and neuron == 3:
            neuron = (3,)
        same(*both("NeuronGuidedBackprop", make, x, neuron, attribute_to_neuron_input=of_input))
        same(*both("NeuronDeconvolution", make, x, neuron, attribute_to_neuron_input=of_input))
        same(*both("NeuronDeepLift", make, x, neuron, other, attribute_to_neuron_input=of_input))
        same(*both("NeuronDeepLiftShap", make, x, neuron, other[:3], attribute_to_neuron_input=of_input))


@pytest.mark.parametrize("name", ["GuidedBackprop", "Deconvolution"])
def test_guided(net, x, name):
    same(*both(name, [net], x, [0, 1, 2, 0]))


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("of_input", [False, True])
def test_guided_grad_cam(net, x, mode, of_input):
    same(*both("GuidedGradCam", [net, net.second], x, 1, interpolate_mode=mode, attribute_to_layer_input=of_input))


def test_guided_grad_cam_refuses_what_captum_answers_with_nothing(net, x):
    with pytest.raises(InputError, match="does not lie on an input"):
        ours.GuidedGradCam(net, net.dense).attribute(x, 1)


def test_lrp(net, x):
    found, expected = both("LRP", [net], x, [0, 1, 2, 0], return_convergence_delta=True)
    same(found[0], expected[0])
    same(found[1], expected[1], scale=float(net(x).detach().abs().max()))
    rows = torch.arange(4)
    same(ours.LRP(net).compute_convergence_delta(found[0], net(x)[rows, torch.tensor([0, 1, 2, 0])].detach()), found[1], tolerance=1e-5)


RULES = [
    ("EpsilonRule", {"epsilon": 0.3}),
    ("GammaRule", {}),
    ("GammaRule", {"gamma": 2.0, "set_bias_to_zero": True}),
    ("Alpha1_Beta0_Rule", {}),
    ("Alpha1_Beta0_Rule", {"set_bias_to_zero": True}),
]


@pytest.mark.parametrize(("name", "options"), RULES)
def test_rules_of_modules_stay_on_the_modules(name, options, x):
    torch.manual_seed(3)
    net, found = Net().double().eval(), []
    for place, library in ((our_rules, ours), (their_rules, theirs)):
        for module in (net.first, net.third, net.dense):
            module.rule = getattr(place, name)(**options)
        net.norm.rule = place.IdentityRule()
        before = state_of(net)
        found.append(library.LRP(net).attribute(x, 1))
        if library is ours:
            assert_same_state(before, state_of(net))
            assert type(net.first.rule) is getattr(our_rules, name)
    same(*found)


def test_a_rule_that_is_none_is_refused(x):
    net = Net().double().eval()
    net.first.rule = "epsilon"
    with pytest.raises(OptionError, match="a rule is a PropagationRule"):
        ours.LRP(net).attribute(x, 1)


def test_rules_are_told_if_asked(net, x, capsys):
    net.first.rule = our_rules.GammaRule()
    try:
        ours.LRP(net).attribute(x, 1, verbose=True)
    finally:
        del net.first.rule
    assert "GammaRule" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["DeepLift", "LRP", "GuidedBackprop", "Deconvolution"])
def test_two_inputs_and_additional_arguments(name):
    torch.manual_seed(0)
    net, inputs = Pair().eval(), (torch.randn(3, 4), torch.randn(3, 3))
    keywords = {"additional_forward_args": 2.0}
    if name == "LRP":  # Captum's relevance of a sum of two layers is that of each as if it were alone
        found = ours.LRP(net).attribute(inputs, 1, **keywords)
        assert [tuple(f.shape) for f in found] == [(3, 4), (3, 3)]
        return
    baselines = {"baselines": (torch.randn(3, 4), 0.5)} if name == "DeepLift" else {}
    same(*both(name, [net], inputs, target=1, **baselines, **keywords))


@pytest.mark.parametrize("name", ["DeepLift", "LRP", "GuidedBackprop"])
def test_what_captum_gets_wrong_is_right_or_refused(name):
    """Functional activations: Captum gives the plain gradient for DeepLIFT and guided backpropagation."""
    torch.manual_seed(0)
    first, second = nn.Linear(5, 8), nn.Linear(8, 2)

    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = first, second

        def forward(self, x):
            return self.second(F.relu(self.first(x)))

    modules, x = nn.Sequential(first, nn.ReLU(), second), torch.randn(3, 5)
    found = getattr(ours, name)(Functional()).attribute(x, target=1)
    same(found, getattr(theirs, name)(modules).attribute(x, target=1))
    if name != "LRP":
        wrong = getattr(theirs, name)(Functional()).attribute(x, target=1)
        assert not torch.allclose(found, wrong, rtol=1e-3)
