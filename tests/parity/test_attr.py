"""`pellucid.captum.attr` against the installed `captum.attr`: signatures, numbers, shapes and types for every form of argument.

Expected values always come from Captum. Its integrated gradients keep quadrature weights in float32, so that method is
compared with a relative tolerance of 1e-6 even in float64; all else must agree to rounding.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from captum import attr as theirs
from torch import Tensor, nn

from pellucid import InputError, OutputError, PellucidWarning
from pellucid.captum import attr as ours
from tests.models import Case, cases

FEW_STEPS = pytest.mark.filterwarnings("ignore:.completeness.:pellucid.PellucidWarning")
METHODS = ("Saliency", "InputXGradient", "IntegratedGradients", "GradientShap", "NoiseTunnel", "FeatureAblation")
BASES = ("Attribution", "GradientAttribution", "PerturbationAttribution")
NAMES = ("mlp", "smooth", "conv", "two inputs", "with arguments", "regression", "sequence", "embedding")
EXACT, INTEGRATED = {torch.float64: 1e-12, torch.float32: 2e-5}, {torch.float64: 1e-6, torch.float32: 2e-5}

# What is asked of every method that draws nothing: class, constructor keywords, `attribute` keywords.
ASKED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "saliency": ("Saliency", {}, {}),
    "signed": ("Saliency", {}, {"abs": False}),
    "input x gradient": ("InputXGradient", {}, {}),
    "integrated": ("IntegratedGradients", {}, {"n_steps": 20, "baselines": 0.3}),
    "averaged": ("IntegratedGradients", {"multiply_by_inputs": False}, {"n_steps": 7}),
    "ablation": ("FeatureAblation", {}, {"baselines": 0.3}),
}


def same(found: Any, expected: Any, tolerance: float = 1e-12, empty: bool = False) -> None:
    """Equal in kind (tensor or tuple), dtype, shape and, within parts of the largest value, in numbers."""
    assert type(found) is type(expected)
    if isinstance(expected, tuple):
        assert len(found) == len(expected)
        for f, e in zip(found, expected, strict=True):
            same(f, e, tolerance)
        return
    scale = float(expected.detach().abs().max())
    assert empty or scale > 0, "nothing is compared if Captum finds zero"
    torch.testing.assert_close(found.detach(), expected.detach(), rtol=tolerance, atol=tolerance * scale)


def both(name: str, model: Any, *inputs: Any, init: dict[str, Any] | None = None, **keywords: Any) -> tuple[Any, Any]:
    """What the two classes of that name find."""
    found = (getattr(place, name)(model, **(init or {})).attribute(*inputs, **keywords) for place in (ours, theirs))
    return next(found), next(found)


def case_of(name: str, dtype: torch.dtype = torch.float64) -> Case:
    return next(case for case in cases(dtype) if case.name == name)


def inputs_of(case: Case) -> Any:
    return case.inputs if len(case.inputs) > 1 else case.inputs[0]


def asked(case: Case, **more: Any) -> dict[str, Any]:
    """Target and arguments of a case as Captum's keywords."""
    return {"target": case.target, "additional_forward_args": case.extra or None, **more}


def tunnels(case: Case, method: str, init: dict[str, Any] | None = None) -> tuple[Any, Any]:
    """Both noise tunnels around the same method."""
    first, second = (place.NoiseTunnel(getattr(place, method)(case.model, **(init or {}))) for place in (ours, theirs))
    return first, second


class TestSurface:
    @pytest.mark.parametrize(
        ("name", "member"),
        [(n, m) for n in METHODS + BASES for m in ("__init__", "attribute", "compute_convergence_delta")]
        + [(n, "attribute_future") for n in METHODS],
    )
    def test_signatures(self, name: str, member: str) -> None:
        def parameters(place: Any) -> Any:
            function = getattr(getattr(place, name), member, None)
            return function and [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]

        assert parameters(ours) == parameters(theirs)

    @pytest.mark.parametrize("name", BASES)
    def test_names_of_base_classes(self, name: str) -> None:
        def names(place: Any) -> set[str]:
            kinds = [k for k in getattr(place, name).__mro__ if k is not object]
            return {n for k in kinds for n in [*vars(k), *inspect.get_annotations(k)] if not n.startswith("_")}

        assert names(ours) == names(theirs)

    @pytest.mark.parametrize("name", METHODS + BASES)
    def test_bases_and_names(self, name: str) -> None:
        mine, other = getattr(ours, name), getattr(theirs, name)
        assert [k.__name__ for k in mine.__mro__] == [k.__name__ for k in other.__mro__]
        assert mine.get_name() == other.get_name()
        assert name in ours.__all__

    @pytest.mark.parametrize("init", [{}, {"multiply_by_inputs": False}])
    @pytest.mark.parametrize("name", METHODS)
    def test_traits(self, name: str, init: dict[str, Any]) -> None:
        takes = "multiply_by_inputs" in inspect.signature(getattr(theirs, name)).parameters

        def traits(place: Any) -> Any:
            inner = place.IntegratedGradients(abs, **init) if name == "NoiseTunnel" else abs
            made = getattr(place, name)(inner, **(init if takes else {}))
            return made.has_convergence_delta(), made.multiplies_by_inputs, made.forward_func, made.get_name()

        assert traits(ours) == traits(theirs)

    @pytest.mark.parametrize("name", METHODS[:-1])
    def test_no_futures(self, name: str) -> None:
        for place in (theirs, ours):
            inner = place.Saliency(abs) if name == "NoiseTunnel" else abs
            with pytest.raises(NotImplementedError):
                getattr(place, name)(inner).attribute_future()

    @FEW_STEPS
    def test_positional_arguments(self) -> None:
        case = case_of("mlp")
        x, model = case.inputs[0], case.model
        same(*both("Saliency", model, x, 1, False, None))
        same(*both("InputXGradient", model, x, 1, None))
        same(*both("IntegratedGradients", model, x, 0.1, 1, None, 30, "riemann_middle", 60, False), 1e-6)
        same(*both("FeatureAblation", model, x, 0.1, 1, None, torch.tensor([[0, 0, 1, 1, 2]]), 2, False))


@FEW_STEPS
class TestEveryModel:
    @pytest.mark.parametrize("what", ASKED)
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
    @pytest.mark.parametrize("name", NAMES)
    def test_numbers(self, name: str, dtype: torch.dtype, what: str) -> None:
        case, (method, init, keywords) = case_of(name, dtype), ASKED[what]
        if len(case.inputs) > 1 and "baselines" in keywords:
            keywords = {**keywords, "baselines": (0.3, -0.2)}
        found, expected = both(method, case.model, inputs_of(case), init=init, **asked(case), **keywords)
        same(found, expected, (INTEGRATED if method == "IntegratedGradients" else EXACT)[dtype])
        assert {t.dtype for t in (found if isinstance(found, tuple) else (found,))} == {dtype}

    @pytest.mark.parametrize("what", ASKED)
    def test_tuple_of_one(self, what: str) -> None:
        case, (method, init, keywords) = case_of("conv"), ASKED[what]
        found, expected = both(method, case.model, case.inputs, init=init, **asked(case), **keywords)
        assert isinstance(found, tuple)
        same(found, expected, 1e-6)

    @pytest.mark.parametrize("what", ASKED)
    def test_one_example(self, what: str) -> None:
        case, (method, init, keywords) = case_of("smooth"), ASKED[what]
        same(*both(method, case.model, case.inputs[0][:1], init=init, target=[2], **keywords), 1e-6)

    @pytest.mark.parametrize("what", ASKED)
    def test_inputs_that_require_gradients(self, what: str) -> None:
        case, (method, init, keywords) = case_of("mlp"), ASKED[what]
        same(*both(method, case.model, case.inputs[0].clone().requires_grad_(), init=init, target=0, **keywords), 1e-6)

    @pytest.mark.parametrize("what", ASKED)
    def test_default_arguments(self, what: str) -> None:
        case, (method, init, _) = case_of("regression"), ASKED[what]
        same(*both(method, case.model, case.inputs[0], init=init), 1e-6)

    @pytest.mark.parametrize("what", ASKED)
    def test_output_of_one_column(self, what: str) -> None:
        case, (method, init, keywords) = case_of("regression"), ASKED[what]
        for target in (None, 0):
            same(*both(method, case.model.net, case.inputs[0], init=init, target=target, **keywords), 1e-6)

    @pytest.mark.parametrize("what", ASKED)
    def test_functions(self, what: str) -> None:
        case, (method, init, keywords) = case_of("two inputs"), ASKED[what]
        model, (a, b) = case.model, case.inputs
        keywords = {**keywords, "target": 1, "additional_forward_args": (b,)}
        same(*both(method, lambda x, y: model(x, y).softmax(1), a, init=init, **keywords), 1e-6)

    @pytest.mark.parametrize("what", ASKED)
    def test_views(self, what: str) -> None:
        """Inputs that do not lie in order in memory."""
        case, (method, init, keywords) = case_of("mlp"), ASKED[what]
        x = torch.randn(5, 6, dtype=torch.float64).T[::2]
        same(*both(method, case.model, x, init=init, target=1, **keywords), 1e-6)

    @pytest.mark.parametrize("what", ASKED)
    def test_without_gradients(self, what: str) -> None:
        case, (method, init, keywords) = case_of("mlp"), ASKED[what]
        with torch.no_grad():
            same(*both(method, case.model, case.inputs[0], init=init, target=1, **keywords), 1e-6)

    @pytest.mark.parametrize("what", ASKED)
    def test_examples_of_one_number(self, what: str) -> None:
        """Inputs `(B,)`: an example has no dimensions of its own."""
        method, init, keywords = ASKED[what]
        same(*both(method, lambda x: x**3, torch.randn(4, dtype=torch.float64), init=init, **keywords), 1e-6)

    @pytest.mark.parametrize("method", ["Saliency", "FeatureAblation"])
    def test_list_of_inputs(self, method: str) -> None:
        """Captum refuses a list. To take it is no harm, to answer for its first input only is."""
        case = case_of("two inputs")
        with pytest.raises(AssertionError, match="must be a torch"):
            getattr(theirs, method)(case.model).attribute(list(case.inputs), target=1)
        try:
            found = getattr(ours, method)(case.model).attribute(list(case.inputs), target=1)
        except (AssertionError, TypeError, ValueError):
            return
        assert isinstance(found, tuple | list), "the answer is that for the first input alone"
        same(tuple(found), getattr(theirs, method)(case.model).attribute(case.inputs, target=1))


def _targets() -> list[Any]:
    """Every form of target that suits a model of 3 classes and 3 examples, and one of 4 tokens by 4 tags."""
    tensors = torch.tensor(1), torch.tensor([2]), torch.tensor([[0]]), torch.tensor([0, 2, 1])
    flat = (0, -1, (2,), *tensors, [1, 0, 2], [(1,), (0,), (2,)])
    deep = ((0, 3), (-1, 2), [(0, 1), (1, 2), (3, 0)])
    return [pytest.param(m, t, id=f"{m} {t}") for m, forms in (("mlp", flat), ("two inputs", flat), ("sequence", deep)) for t in forms]


@FEW_STEPS
class TestTargets:
    @pytest.mark.parametrize("what", ASKED)
    @pytest.mark.parametrize(("name", "target"), _targets())
    def test_form(self, name: str, target: Any, what: str) -> None:
        case, (method, init, keywords) = case_of(name), ASKED[what]
        if len(case.inputs) > 1 and "baselines" in keywords:
            keywords = {**keywords, "baselines": (0.3, -0.2)}
        same(*both(method, case.model, inputs_of(case), init=init, target=target, **keywords), 1e-6)

    @pytest.mark.parametrize("name", [n for n in NAMES if n != "regression"])
    def test_of_each_model(self, name: str) -> None:
        case = case_of(name)
        for target in case.targets:
            same(*both("Saliency", case.model, inputs_of(case), **asked(case, target=target)))
            same(*both("FeatureAblation", case.model, inputs_of(case), **asked(case, target=target)))


def _baselines() -> list[Any]:
    """Every form of baseline for one input `(3, 5)`, and for two, `(3, 4)` and `(3, 3)`."""
    torch.manual_seed(7)
    one, full, a, b = torch.randn(1, 5).double(), torch.randn(3, 5).double(), torch.randn(3, 4).double(), torch.randn(1, 3).double()
    single = {"None": None, "int": 1, "float": -0.4, "one row": one, "all rows": full, "tuple": (one,)}
    double = {"None": None, "numbers": (1, 0.5), "tensors": (a, b), "mixed": (a, 2), "mixed other": (-0.5, b)}
    return [pytest.param(m, v, id=f"{m}: {n}") for m, forms in (("smooth", single), ("two inputs", double)) for n, v in forms.items()]


class TestBaselines:
    @pytest.mark.parametrize(("name", "baselines"), _baselines())
    def test_integrated_gradients(self, name: str, baselines: Any) -> None:
        case = case_of(name)
        found, expected = both(
            "IntegratedGradients", case.model, inputs_of(case), baselines, n_steps=20, return_convergence_delta=True, **asked(case)
        )
        same(found[0], expected[0], 1e-6)
        scale = float(max(e.abs().max() for e in (expected[0] if isinstance(expected[0], tuple) else expected[:1])))
        torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-6 * scale)

    @pytest.mark.parametrize("perturbations", [1, 3])
    @pytest.mark.parametrize(("name", "baselines"), _baselines())
    def test_feature_ablation(self, name: str, baselines: Any, perturbations: int) -> None:
        case = case_of(name)
        same(*both("FeatureAblation", case.model, inputs_of(case), baselines, perturbations_per_eval=perturbations, **asked(case)), 1e-7)

    @pytest.mark.parametrize("shape", [(2, 6, 6), (1, 2, 1, 1), (1, 1, 6, 6), (3, 1, 1, 1)], ids=str)
    def test_ablation_broadcasts(self, shape: tuple[int, ...]) -> None:
        """Captum documents baselines "broadcastable to match the dimensions of inputs" for FeatureAblation."""
        case = case_of("conv")
        baseline = torch.randn(shape, dtype=torch.float64)
        same(*both("FeatureAblation", case.model, case.inputs[0], baseline, **asked(case)))

    def test_no_broadcasting_from_the_right(self) -> None:
        """`(6,)` for examples of shape `(2, 6, 6)`: rows, columns or a mistake? Captum takes columns; here it is refused."""
        case = case_of("conv")
        with pytest.raises(InputError, match=r"baselines has shape \(6,\)"):
            ours.FeatureAblation(case.model).attribute(case.inputs[0], torch.zeros(6), **asked(case))


ARGUMENTS = {
    "tensor": torch.tensor([[0.5], [1.5], [-1.0]]).double(),
    "float": 0.7,
    "tensor and float": (torch.tensor([[0.5], [1.5], [-1.0]]).double(), 0.3),
    "float and tensor": (0.3, torch.linspace(-1, 1, 18).double().view(3, 6)),
    "tensor without dimensions": (torch.tensor(0.3).double(), 2),
    "two tensors": (torch.tensor([[2.0], [0.1], [1.0]]).double(), torch.linspace(-1, 1, 18).double().view(3, 6)),
}


@FEW_STEPS
class TestArguments:
    @pytest.mark.parametrize("what", ASKED)
    @pytest.mark.parametrize("extra", ARGUMENTS)
    def test_form(self, extra: str, what: str) -> None:
        case, (method, init, keywords) = case_of("two inputs"), ASKED[what]
        keywords = {**keywords, "target": [0, 1, 2], "additional_forward_args": ARGUMENTS[extra]}
        keywords = {**keywords, "baselines": (0.3, -0.2)} if "baselines" in keywords else keywords
        found, expected = both(method, case.model, case.inputs, init=init, **keywords)
        same(found, expected, 1e-6)

    def test_of_any_type(self) -> None:
        case = case_of("mlp")

        def forward(x: Tensor, words: list[str], nothing: None, table: dict[str, float], power: Tensor) -> Tensor:
            assert words == ["a", "b"]
            assert nothing is None
            return case.model(x * table["scale"]) ** power

        extra = (["a", "b"], None, {"scale": 2.0}, torch.tensor([[2.0], [3.0], [1.0]]).double())
        for method in ("Saliency", "InputXGradient", "IntegratedGradients", "FeatureAblation"):
            same(*both(method, forward, case.inputs[0], target=1, additional_forward_args=extra), 1e-6)


RULES = ("gausslegendre", "riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid")


def their_rule(rule: str, steps: int) -> float:
    """What Captum's result must be multiplied with.

    Its trapezoid weights are 1/n, halved at the ends, though the step between n nodes is 1/(n - 1): they add up to
    (n - 1)/n, so the integral of a constant comes out too small by that factor. Pellucid's weights add up to one.
    """
    return steps / (steps - 1) if rule == "riemann_trapezoid" else 1.0


@FEW_STEPS
class TestIntegratedGradients:
    @pytest.mark.parametrize("multiply", [True, False])
    @pytest.mark.parametrize("steps", [2, 5, 50])
    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("name", ["smooth", "with arguments"])
    def test_rules(self, name: str, rule: str, steps: int, multiply: bool) -> None:
        case = case_of(name)
        keywords = asked(case, n_steps=steps, method=rule)
        found, expected = both("IntegratedGradients", case.model, inputs_of(case), init={"multiply_by_inputs": multiply}, **keywords)
        factor = their_rule(rule, steps)
        scaled = tuple(e * factor for e in expected) if isinstance(expected, tuple) else expected * factor
        same(found, scaled, 1e-6)

    def test_their_trapezoid_of_a_constant(self) -> None:
        """The deviation above is Captum's: the gradient of a linear model is constant, and its mean is that constant."""
        layer, x = nn.Linear(3, 1).double(), torch.randn(2, 3).double()
        found, expected = both("IntegratedGradients", layer, x, target=0, n_steps=4, method="riemann_trapezoid")
        exact = x * layer.weight.detach()
        same(found, exact)
        same(expected, exact * 3 / 4)

    def test_one_step(self) -> None:
        case = case_of("smooth")
        same(*both("IntegratedGradients", case.model, case.inputs[0], n_steps=1, target=1), 1e-6)

    def test_few_steps_warn(self) -> None:
        """The numbers are Captum's; that they do not add up is said."""
        case = case_of("conv")
        expected = theirs.IntegratedGradients(case.model).attribute(case.inputs[0], target=2, n_steps=2, method="riemann_left")
        with pytest.warns(PellucidWarning, match="completeness"):
            found = ours.IntegratedGradients(case.model).attribute(case.inputs[0], target=2, n_steps=2, method="riemann_left")
        same(found, expected, 1e-6)

    @pytest.mark.filterwarnings("ignore:Internal batch size cannot be less")
    @pytest.mark.parametrize("rule", ["gausslegendre", "riemann_right"])
    @pytest.mark.parametrize("size", [1, 2, 3, 7, 30, 1000])
    @pytest.mark.parametrize("name", ["conv", "with arguments", "sequence"])
    def test_internal_batch_size(self, name: str, size: int, rule: str) -> None:
        case = case_of(name)
        keywords = asked(case, n_steps=11, method=rule, internal_batch_size=size)
        same(*both("IntegratedGradients", case.model, inputs_of(case), **keywords), 1e-6)

    @pytest.mark.parametrize("multiply", [True, False])
    @pytest.mark.parametrize("single", [True, False])
    @pytest.mark.parametrize("name", NAMES)
    def test_delta(self, name: str, single: bool, multiply: bool) -> None:
        """Left Riemann sums of few steps leave a delta worth comparing."""
        case = case_of(name)
        inputs = inputs_of(case) if single else case.inputs
        keywords = asked(case, n_steps=4, method="riemann_left", return_convergence_delta=True)
        found, expected = both("IntegratedGradients", case.model, inputs, init={"multiply_by_inputs": multiply}, **keywords)
        assert isinstance(found, tuple)
        same(found[0], expected[0], 1e-6)
        same(found[1], expected[1], 1e-5)
        assert found[1].shape == (3,)


class TestConvergenceDelta:
    @pytest.mark.parametrize("method", ["Saliency", "InputXGradient", "IntegratedGradients", "GradientShap"])
    @pytest.mark.parametrize(("name", "start"), _baselines())
    def test_of_any_attributions(self, name: str, start: Any, method: str) -> None:
        case = case_of(name)
        attributions = tuple(torch.randn_like(x) for x in case.inputs) if len(case.inputs) > 1 else torch.randn_like(case.inputs[0])
        first, second = (getattr(place, method)(case.model) for place in (ours, theirs))
        for target in (1, [0, 1, 2], torch.tensor([2, 2, 0])):
            arguments = attributions, start, inputs_of(case), target
            same(first.compute_convergence_delta(*arguments), second.compute_convergence_delta(*arguments), 1e-7)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
    @pytest.mark.parametrize("name", NAMES)
    def test_of_every_model(self, name: str, dtype: torch.dtype) -> None:
        case = case_of(name, dtype)
        start = tuple(torch.randn_like(x[:1]) for x in case.inputs)
        arguments = case.inputs, start, case.inputs, case.target, case.extra or None
        first, second = (place.IntegratedGradients(case.model).compute_convergence_delta(*arguments) for place in (ours, theirs))
        same(first, second, EXACT[dtype])


def _numeric(forward: Any, inputs: Any, target: Any = None, additional_forward_args: Any = None) -> tuple[Tensor, ...]:
    """Gradients of the squared output: a source of gradients other than the default, under Captum's calling convention."""
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    extra = additional_forward_args if isinstance(additional_forward_args, tuple) else ()
    with torch.enable_grad():
        leaves = tuple(x.detach().requires_grad_() for x in inputs)
        output = forward(*leaves, *extra)
        chosen = output[:, target] if isinstance(target, int) else output.gather(1, torch.as_tensor(target).view(-1, 1))
        return torch.autograd.grad((chosen**2).sum(), leaves)


@FEW_STEPS
class TestGradientFunc:
    @pytest.mark.parametrize("target", [1, [0, 2, 1]])
    @pytest.mark.parametrize("name", ["smooth", "with arguments"])
    @pytest.mark.parametrize("method", ["Saliency", "InputXGradient", "IntegratedGradients"])
    def test_replaced(self, method: str, name: str, target: Any) -> None:
        case, found = case_of(name), []
        for place in (ours, theirs):
            made = getattr(place, method)(case.model)
            made.gradient_func = lambda forward_fn, inputs, target_ind=None, additional_forward_args=None: _numeric(
                forward_fn, inputs, target_ind, additional_forward_args
            )
            found.append(made.attribute(inputs_of(case), **asked(case, target=target)))
        same(*found, 1e-6)

    @pytest.mark.parametrize("name", ["smooth", "with arguments", "sequence"])
    def test_default(self, name: str) -> None:
        case = case_of(name)
        inputs = tuple(x.clone().requires_grad_() for x in case.inputs)
        first, second = (p.Saliency(case.model).gradient_func(case.model, inputs, case.target, case.extra or None) for p in (ours, theirs))
        same(first, second)


MASKS: dict[str, tuple[str, Any]] = {
    "groups": ("mlp", torch.tensor([[0, 0, 1, 2, 2]])),
    "gaps": ("mlp", torch.tensor([[700, 0, 0, 90000, 3]])),
    "negative": ("mlp", torch.tensor([[-1, 0, 0, 2, -1]])),
    "int32": ("mlp", torch.tensor([[0, 0, 1, 2, 2]], dtype=torch.int32)),
    "booleans": ("mlp", torch.tensor([[True, False, False, True, False]])),
    "one group": ("mlp", torch.zeros(1, 5, dtype=torch.long)),
    "tuple of one": ("mlp", (torch.tensor([[0, 0, 1, 2, 2]]),)),
    "full": ("mlp", torch.tensor([[0, 0, 1, 2, 2]] * 3)),
    "each example": ("mlp", torch.tensor([[0, 0, 1, 2, 2], [1, 0, 0, 2, 1], [5, 5, 5, 5, 0]])),
    "channels": ("conv", torch.arange(2).view(1, 2, 1, 1)),
    "places": ("conv", (torch.arange(36) // 8).view(1, 1, 6, 6)),
    "places of each": ("conv", (torch.arange(108) % 5).view(3, 1, 6, 6)),
    "steps": ("sequence", torch.tensor([0, 0, 1, 1]).view(1, 4, 1)),
    "shared": ("two inputs", (torch.tensor([[0, 0, 1, 1]]), torch.tensor([[1, 2, 2]]))),
    "apart": ("two inputs", (torch.tensor([[0, 0, 1, 1]]), torch.tensor([[2, 3, 3]]))),
    "shared by all": ("with arguments", (torch.tensor([[0, 1, 2, 3]]), torch.tensor([[3, 0, 9]]))),
    "shared, of each": ("two inputs", (torch.tensor([[0, 0, 1, 1], [1, 0, 4, 4], [0, 0, 0, 0]]), torch.tensor([[1, 2, 2]]))),
}


class TestFeatureAblation:
    @pytest.mark.parametrize("perturbations", [1, 3, 1000])
    @pytest.mark.parametrize("mask", MASKS)
    def test_masks(self, mask: str, perturbations: int) -> None:
        name, ids = MASKS[mask]
        case = case_of(name)
        keywords = asked(case, feature_mask=ids, perturbations_per_eval=perturbations)
        same(*both("FeatureAblation", case.model, inputs_of(case), **keywords))

    @pytest.mark.parametrize("perturbations", [1, 2, 3, 1000])
    @pytest.mark.parametrize("name", NAMES)
    def test_perturbations_per_eval(self, name: str, perturbations: int) -> None:
        case = case_of(name)
        same(*both("FeatureAblation", case.model, inputs_of(case), **asked(case, perturbations_per_eval=perturbations)))

    def test_mask_without_batch(self) -> None:
        """Captum broadcasts it, though only with one perturbation per call."""
        case = case_of("mlp")
        same(*both("FeatureAblation", case.model, case.inputs[0], target=1, feature_mask=torch.tensor([0, 0, 1, 2, 2])))

    @pytest.mark.parametrize("perturbations", [1, 3, 1000])
    @pytest.mark.parametrize("name", NAMES)
    def test_every_output(self, name: str, perturbations: int) -> None:
        """Without a target each number of the output has a row: `(B * C, ...)`."""
        case = case_of(name)
        keywords = asked(case, target=None, perturbations_per_eval=perturbations)
        found, expected = both("FeatureAblation", case.model, inputs_of(case), **keywords)
        same(found, expected)
        outputs = case.model(*case.inputs, *case.extra).numel()
        assert (found[0] if isinstance(found, tuple) else found).shape[0] == outputs

    def test_every_output_of_groups(self) -> None:
        case = case_of("two inputs")
        mask = torch.tensor([[0, 0, 1, 1]]), torch.tensor([[1, 2, 2]])
        same(*both("FeatureAblation", case.model, case.inputs, (0.2, 1), feature_mask=mask))

    @pytest.mark.parametrize("mask", [None, torch.tensor([[0, 0, 1, 2, 2]])], ids=["alone", "groups"])
    @pytest.mark.parametrize("size", [1, 3, 4])
    @pytest.mark.parametrize(
        "forward",
        [
            pytest.param(lambda y: y.sum(), id="no dimensions"),
            pytest.param(lambda y: y.sum().reshape(1), id="one element"),
            pytest.param(lambda y: y.sum().reshape(1, 1), id="one row"),
            pytest.param(lambda y: float(y.sum()), id="python float"),
        ],
    )
    def test_one_score_for_the_batch(self, forward: Callable[[Tensor], Any], size: int, mask: Tensor | None) -> None:
        case = case_of("mlp")
        x = torch.randn(size, 5, dtype=torch.float64)
        found, expected = both("FeatureAblation", lambda x: forward(case.model(x)), x, feature_mask=mask)
        same(found, expected)
        assert found.shape == (1, 5)

    def test_one_score_for_two_inputs(self) -> None:
        case = case_of("with arguments")
        same(*both("FeatureAblation", lambda *x: case.model(*x).prod(), case.inputs, (1, 0.1), additional_forward_args=case.extra))

    @pytest.mark.parametrize("size", [1, 2, 3, 5])
    @pytest.mark.parametrize("columns", [2, 3])
    def test_several_scores_for_the_batch(self, columns: int, size: int) -> None:
        """Captum documents "a tensor of a fixed size for the full batch": each of its numbers has a row."""
        case = case_of("mlp")
        x = torch.randn(size, 5, dtype=torch.float64)
        same(*both("FeatureAblation", lambda x: case.model(x).square().sum(0)[:columns], x, 0.3))

    def test_several_scores_and_a_target(self) -> None:
        """Captum reads one row for three examples as the batch's; it may as well be a batch lost on the way: refused."""
        case = case_of("mlp")
        forward = lambda x: case.model(x).sum(0, keepdim=True)  # noqa: E731
        theirs.FeatureAblation(forward).attribute(case.inputs[0], target=2)
        with pytest.raises(OutputError, match=r"shape \(1, 3\) for 3 examples"):
            ours.FeatureAblation(forward).attribute(case.inputs[0], target=2)

    @pytest.mark.parametrize(
        "mask", [None, (torch.tensor([[0, 0, 1, 1, 2]]), torch.zeros(1, 0, dtype=torch.long))], ids=["alone", "groups"]
    )
    def test_empty_input(self, mask: Any) -> None:
        """Captum skips an input without any features."""
        case = case_of("mlp")
        x = case.inputs[0]
        found, expected = both("FeatureAblation", lambda a, b: case.model(a), (x, x[:, :0]), target=1, feature_mask=mask)
        same(found[0], expected[0])
        assert (found[1].shape, found[1].dtype) == (expected[1].shape, expected[1].dtype) == ((3, 0), torch.float64)

    @pytest.mark.parametrize("baselines", [None, 3, torch.tensor([[1, 2, 3, 4]]), torch.arange(12).view(3, 4) % 11], ids=str)
    @pytest.mark.parametrize("target", [2, [0, 1, 2], None])
    def test_ids(self, target: Any, baselines: Any) -> None:
        case = case_of("embedding")
        ids = torch.randint(1, 11, (3, 4))
        for perturbations in (1, 3):
            same(*both("FeatureAblation", case.model, ids, baselines, target=target, perturbations_per_eval=perturbations))

    def test_ids_beside_numbers(self) -> None:
        case = case_of("embedding")
        ids, weights = torch.randint(1, 11, (3, 4)), torch.randn(3, 4, 6, dtype=torch.float64)
        forward = lambda ids, weights: case.model(case.model.embedding(ids) * weights)  # noqa: E731
        mask = torch.arange(4).view(1, 4), torch.arange(4).view(1, 4, 1)
        same(*both("FeatureAblation", forward, (ids, weights), (5, 0.5), target=1))
        same(*both("FeatureAblation", forward, (ids, weights), (5, 0.5), target=1, feature_mask=mask))

    def test_forward_in_float32_of_integers(self) -> None:
        case = case_of("mlp", torch.float32)
        same(*both("FeatureAblation", lambda x: case.model(x.float()), torch.randint(-3, 4, (3, 5)), 1, target=1), EXACT[torch.float32])

    def test_futures(self) -> None:
        case = case_of("with arguments")

        def forward(*arguments: Any) -> torch.futures.Future[Tensor]:
            future: torch.futures.Future[Tensor] = torch.futures.Future()
            future.set_result(case.model(*arguments))
            return future

        mask = torch.tensor([[0, 0, 1, 1]]), torch.tensor([[1, 2, 2]])
        for keywords in ({}, {"feature_mask": mask, "baselines": (0.5, 1)}):
            found, expected = (p.FeatureAblation(forward).attribute_future(case.inputs, **asked(case), **keywords) for p in (ours, theirs))
            assert isinstance(found, torch.futures.Future)
            same(found.wait(), expected.wait())

    def test_progress(self, capsys: pytest.CaptureFixture[str]) -> None:
        case = case_of("mlp")
        same(*both("FeatureAblation", case.model, case.inputs[0], target=1, show_progress=True))
        assert capsys.readouterr().err.count("100%") >= 2


KINDS = ("smoothgrad", "smoothgrad_sq", "vargrad")
# Method and keywords; the noise tunnel is around it.
TUNNELLED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "saliency": ("mlp", "Saliency", {}),
    "saliency, target of each": ("conv", "Saliency", {"target": [1, 0, 3]}),
    "saliency, tensor of targets": ("conv", "Saliency", {"target": torch.tensor([1, 0, 3]), "abs": False}),
    "saliency, list of tuples": ("sequence", "Saliency", {"target": [(0, 1), (1, 2), (3, 0)]}),
    "saliency, one score": ("regression", "Saliency", {}),
    "input x gradient": ("smooth", "InputXGradient", {}),
    "input x gradient, arguments": ("with arguments", "InputXGradient", {}),
    "integrated": ("smooth", "IntegratedGradients", {"n_steps": 6}),
    "integrated, one baseline": ("smooth", "IntegratedGradients", {"baselines": torch.full((1, 5), 0.3).double(), "n_steps": 6}),
    "integrated, baseline of each": ("smooth", "IntegratedGradients", {"baselines": torch.eye(3, 5).double(), "n_steps": 6}),
    "integrated, mixed": ("with arguments", "IntegratedGradients", {"baselines": (torch.eye(3, 4).double(), 0.2), "n_steps": 6}),
    "ablation": ("embedding", "FeatureAblation", {}),
    "ablation, groups": ("mlp", "FeatureAblation", {"feature_mask": torch.tensor([[0, 0, 1, 2, 2]]), "perturbations_per_eval": 2}),
    "ablation, groups of each": (
        "mlp",
        "FeatureAblation",
        {"feature_mask": MASKS["each example"][1], "baselines": torch.eye(3, 5).double()},
    ),
    "ablation, shared groups": ("two inputs", "FeatureAblation", {"feature_mask": MASKS["shared, of each"][1], "baselines": (1, 0.2)}),
}


@FEW_STEPS
class TestNoiseTunnel:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("what", TUNNELLED)
    def test_without_noise(self, what: str, kind: str) -> None:
        name, method, keywords = TUNNELLED[what]
        case = case_of(name)
        for size in (None, 2, 3, 50):
            again = {**asked(case), **keywords, "nt_type": kind, "nt_samples": 4, "nt_samples_batch_size": size, "stdevs": 0.0}
            found, expected = (t.attribute(inputs_of(case), **again) for t in tunnels(case, method))
            if kind == "vargrad":  # nothing varies: what is left is the rounding of moments
                assert type(found) is type(expected)
                pairs = zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]
                for f, e in pairs:
                    torch.testing.assert_close(f, e.detach(), rtol=0, atol=1e-12)
            else:
                same(found, expected, 1e-6)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
    @pytest.mark.parametrize("name", NAMES)
    def test_every_model(self, name: str, dtype: torch.dtype) -> None:
        case = case_of(name, dtype)
        keywords = asked(case, stdevs=0.0, nt_type="smoothgrad_sq")
        found, expected = (t.attribute(inputs_of(case), **keywords) for t in tunnels(case, "InputXGradient"))
        same(found, expected, EXACT[dtype])

    @pytest.mark.parametrize("init", [{}, {"multiply_by_inputs": False}], ids=["global", "local"])
    @pytest.mark.parametrize(("name", "baselines"), _baselines())
    def test_deltas(self, name: str, baselines: Any, init: dict[str, Any]) -> None:
        """`(B * nt_samples,)`, the samples of an example together."""
        case = case_of(name)
        keywords = asked(case, n_steps=3, method="riemann_left", return_convergence_delta=True, stdevs=0.0, nt_samples=4)
        found, expected = (
            t.attribute(inputs_of(case), baselines=baselines, **keywords) for t in tunnels(case, "IntegratedGradients", init)
        )
        assert type(found) is tuple
        same(found[0], expected[0], 1e-6)
        same(found[1], expected[1], 1e-5)
        assert found[1].shape == (12,)

    def test_deltas_in_parts(self) -> None:
        """Captum's order then depends on the size of the parts (part by part); here it stays that of one part."""
        case = case_of("smooth")
        keywords = asked(case, n_steps=3, method="riemann_left", return_convergence_delta=True, stdevs=0.0, nt_samples=4)
        whole = tunnels(case, "IntegratedGradients")[1].attribute(case.inputs[0], **keywords)
        for size in (1, 3):
            found, expected = (
                t.attribute(case.inputs[0], **keywords, nt_samples_batch_size=size) for t in tunnels(case, "IntegratedGradients")
            )
            same(found[0], expected[0], 1e-6)
            same(found[1].sort().values, expected[1].sort().values, 1e-5)
            same(found[1], whole[1], 1e-5)

    def test_flag_without_deltas(self) -> None:
        case = case_of("smooth")
        keywords = asked(case, n_steps=8, return_convergence_delta=False, stdevs=0.0)
        same(*(t.attribute(case.inputs[0], **keywords) for t in tunnels(case, "IntegratedGradients")), 1e-6)

    @pytest.mark.parametrize("stdevs", [(0.0, 0.0), 0.0])
    def test_stdevs(self, stdevs: Any) -> None:
        case = case_of("two inputs")
        same(*(t.attribute(case.inputs, stdevs=stdevs, **asked(case)) for t in tunnels(case, "Saliency")))

    def test_tuple_of_one(self) -> None:
        case = case_of("smooth")
        same(*(t.attribute(case.inputs, stdevs=(0.0,), **asked(case)) for t in tunnels(case, "Saliency")))

    def test_every_output(self) -> None:
        """Captum's tunnel mixes the outputs of an example with its noisy copies; without noise nothing but the ablation may come out."""
        case = case_of("mlp")
        found = ours.NoiseTunnel(ours.FeatureAblation(case.model)).attribute(case.inputs[0], stdevs=0.0)
        same(found, theirs.FeatureAblation(case.model).attribute(case.inputs[0]))

    def test_examples_of_one_number(self) -> None:
        x = torch.randn(4, dtype=torch.float64)
        same(*(p.NoiseTunnel(p.Saliency(lambda x: x**3)).attribute(x, stdevs=0.0) for p in (ours, theirs)))

    @pytest.mark.parametrize("kind", KINDS[:2])
    def test_around_gradient_shap(self, kind: str) -> None:
        case = _linear(2)
        keywords = {"target": 1, "baselines": tuple(b[:1] for b in case.extra), "n_samples": 3, "return_convergence_delta": True}
        found, expected = (
            t.attribute(case.inputs, stdevs=0.0, nt_type=kind, **keywords)
            for t in tunnels(case, "GradientShap", {"multiply_by_inputs": False})
        )
        same(found[0], expected[0])
        same(found[1], expected[1])
        assert found[1].shape == (3 * 5 * 3,)


class _Linear(nn.Module):
    """Gradients are the same everywhere, so that the place on a path does not matter."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 3) for _ in range(inputs))

    def forward(self, *inputs: Tensor) -> Tensor:
        return sum(layer(x) for layer, x in zip(self.layers, inputs, strict=True))


def _linear(inputs: int, dtype: torch.dtype = torch.float64) -> Case:
    """A linear model of some inputs; its `extra` are baselines, six rows each."""
    torch.manual_seed(3)
    x, b = (tuple(torch.randn(n, 4, dtype=dtype) for _ in range(inputs)) for n in (3, 6))
    return Case("linear", _Linear(inputs).to(dtype).eval(), x, 1, b)


class TestGradientShapOfLinearModels:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
    @pytest.mark.parametrize("target", [1, (2,), torch.tensor([0]), torch.tensor([0, 2, 1]), [0, 2, 1], [(0,), (2,), (1,)]], ids=str)
    @pytest.mark.parametrize("inputs", [1, 2])
    def test_one_baseline(self, inputs: int, target: Any, dtype: torch.dtype) -> None:
        case = _linear(inputs, dtype)
        baselines = tuple(b[:1] for b in case.extra) if inputs > 1 else case.extra[0][:1]
        same(*both("GradientShap", case.model, inputs_of(case), baselines, target=target), EXACT[dtype])

    @pytest.mark.parametrize("samples", [1, 5, 8])
    @pytest.mark.parametrize("inputs", [1, 2])
    def test_local_deltas(self, inputs: int, samples: int) -> None:
        """Without the factor of the inputs the delta is not zero, and `(B * n_samples,)`, the samples of an example together."""
        case = _linear(inputs)
        baselines = tuple(b[:1] for b in case.extra)
        found, expected = both(
            "GradientShap", case.model, case.inputs, baselines, samples, target=1, return_convergence_delta=True,
            init={"multiply_by_inputs": False},
        )  # fmt: skip
        same(found[0], expected[0])
        same(found[1], expected[1])
        assert found[1].shape == (3 * samples,)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
    def test_deltas(self, dtype: torch.dtype) -> None:
        """Zero but for rounding, whatever was drawn; with noise too."""
        case = _linear(2, dtype)
        keywords = {"target": 1, "stdevs": (0.3, 0.1), "n_samples": 7, "return_convergence_delta": True}
        found, expected = both("GradientShap", case.model, case.inputs, case.extra, **keywords)
        torch.testing.assert_close(found[1], expected[1], rtol=0, atol=10 * torch.finfo(dtype).eps)
        assert [a.shape for a in found[0]] == [a.shape for a in expected[0]]

    @pytest.mark.parametrize("stdevs", [0.0, 0.4])
    def test_local_attributions_of_a_distribution(self, stdevs: float) -> None:
        case = _linear(2)
        keywords = {"target": [0, 2, 1], "stdevs": stdevs, "init": {"multiply_by_inputs": False}}
        same(*both("GradientShap", case.model, case.inputs, case.extra, **keywords))

    def test_examples_of_one_number(self) -> None:
        x, row = torch.randn(4, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        same(*both("GradientShap", lambda x: 3 * x, x, row))

    def test_functions_of_baselines(self) -> None:
        case = _linear(1)
        x, row = case.inputs[0], case.extra[0][:1]
        same(*both("GradientShap", case.model, x, lambda: row, target=1))
        same(*both("GradientShap", case.model, x, lambda inputs: row + inputs.mean(), target=1))

    def test_functions_of_two_baselines(self) -> None:
        case = _linear(2)
        same(*both("GradientShap", case.model, case.inputs, lambda inputs: tuple(x.mean(0, keepdim=True) for x in inputs), target=1))

    def test_arguments(self) -> None:
        case = _linear(1)
        forward = lambda x, scale, shift: case.model(x) * scale + shift  # noqa: E731
        extra = torch.tensor([[1.0], [-2.0], [0.5]]).double(), 3
        same(*both("GradientShap", forward, case.inputs[0], case.extra[0][:1], target=0, additional_forward_args=extra))
        extra = torch.tensor([[1.0], [-2.0], [0.5]]).double()
        forward = lambda x, scale: case.model(x) * scale  # noqa: E731
        same(*both("GradientShap", forward, case.inputs[0], case.extra[0][:1], target=0, additional_forward_args=extra))

    def test_a_number_of_rows_for_each_input(self) -> None:
        """One input with a distribution, the other with a single row."""
        case = _linear(2)
        found, expected = both("GradientShap", case.model, case.inputs, (case.extra[0], case.extra[1][:1]), target=1)
        same(found[1], expected[1])
        assert found[0].shape == expected[0].shape


def runs(method: Any, inputs: Any, count: int, first: int = 0, **keywords: Any) -> Any:
    """`(count, values)`: all that the method finds, flat, under different seeds."""
    found = []
    for seed in range(first, first + count):
        torch.manual_seed(seed)
        np.random.seed(seed)
        parts = method.attribute(inputs, **keywords)
        parts = torch.utils._pytree.tree_leaves(parts)
        found.append(torch.cat([p.detach().flatten() for p in parts]))
    return torch.stack(found)


def agree(found: Tensor, expected: Tensor, sharp: float = 0.02) -> None:
    """The means over runs differ by less than six of their standard errors, which are small enough for that to say something."""
    error = (found.var(0) / len(found) + expected.var(0) / len(expected)).sqrt()
    assert float(error.max()) < sharp * float(expected.mean(0).abs().max())
    assert float((expected.var(0) / len(expected)).max()) > 0
    distance = (found.mean(0) - expected.mean(0)).abs()
    assert bool((distance <= 6 * error + 1e-12).all()), (distance / error).max()


class _Curved(nn.Module):
    """Smooth, with an interaction of all inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(3, 6), nn.Linear(2, 6), nn.Linear(6, 2)

    def forward(self, a: Tensor, b: Tensor | None = None, scale: Any = 1.0) -> Tensor:
        return self.out(torch.tanh(self.a(a) * (1 if b is None else self.b(b)) * scale))


def _curved() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(5)
    return _Curved().double().eval(), torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)


class TestStatistics:
    """Pellucid's draws are not Captum's (all examples share them, places are stratified): their distribution is."""

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("method", ["Saliency", "InputXGradient", "FeatureAblation"])
    def test_noise_tunnel(self, method: str, kind: str) -> None:
        model, x, _ = _curved()
        keywords = {"nt_type": kind, "nt_samples": 60, "stdevs": 0.5, "target": [0, 1]}
        found, expected = (runs(p.NoiseTunnel(getattr(p, method)(model)), x, 40, **keywords) for p in (ours, theirs))
        agree(found, expected, 0.05)

    def test_variance_of_few_samples(self) -> None:
        """The variance is that of the samples, divided by their number: its expectation depends on how many there are."""
        model, x, _ = _curved()
        keywords = {"nt_type": "vargrad", "nt_samples": 3, "stdevs": 0.3, "target": 0}
        found, expected = (runs(p.NoiseTunnel(p.Saliency(model)), x, 300, **keywords) for p in (ours, theirs))
        agree(found, expected, 0.1)

    @pytest.mark.parametrize("size", [None, 7])
    def test_noise_of_two_inputs(self, size: int | None) -> None:
        """Each input has noise of its own, of its own size."""
        model, a, b = _curved()
        scale = torch.tensor([[0.5], [1.5]]).double()
        keywords = {"stdevs": (0.6, 0.2), "nt_samples": 40, "nt_samples_batch_size": size, "target": 1, "additional_forward_args": scale}
        found, expected = (runs(p.NoiseTunnel(p.InputXGradient(model)), (a, b), 40, **keywords) for p in (ours, theirs))
        agree(found, expected, 0.05)

    @FEW_STEPS
    def test_drawn_baselines(self) -> None:
        model, x, _ = _curved()
        rows = torch.randn(5, 3, dtype=torch.float64)
        keywords = {
            "stdevs": 0.2, "nt_samples": 40, "target": 1, "baselines": rows, "draw_baseline_from_distrib": True, "n_steps": 5,
            "return_convergence_delta": True,
        }  # fmt: skip
        found, expected = (runs(p.NoiseTunnel(p.IntegratedGradients(model)), x, 30, **keywords) for p in (ours, theirs))
        agree(found[:, :6], expected[:, :6], 0.05)
        assert found.shape == expected.shape

    @pytest.mark.parametrize("multiply", [True, False])
    @pytest.mark.parametrize("stdevs", [0.0, 0.4])
    def test_gradient_shap(self, stdevs: float, multiply: bool) -> None:
        model, x, _ = _curved()
        rows = torch.randn(4, 3, dtype=torch.float64)
        keywords = {"baselines": rows, "n_samples": 60, "stdevs": stdevs, "target": [1, 0]}
        found, expected = (runs(p.GradientShap(model, multiply_by_inputs=multiply), x, 40, **keywords) for p in (ours, theirs))
        agree(found, expected, 0.05)

    def test_gradient_shap_of_two_inputs(self) -> None:
        """Captum draws the rows of each input alone, Pellucid a row of all inputs: the same for all pairs of rows."""
        model, a, b = _curved()
        first, second = torch.randn(2, 3, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
        rows = first.repeat_interleave(3, 0), second.repeat(2, 1)
        scale = torch.tensor([[0.5], [1.5]]).double()
        keywords = {"baselines": rows, "n_samples": 60, "stdevs": (0.3, 0.1), "target": 0, "additional_forward_args": scale}
        found, expected = (runs(p.GradientShap(model), (a, b), 40, **keywords) for p in (ours, theirs))
        agree(found, expected, 0.05)

    @FEW_STEPS
    def test_deltas_of_gradient_shap(self) -> None:
        """One delta for each example and sample, and as large as Captum's on average."""
        model, x, _ = _curved()
        keywords = {"baselines": x.flip(0)[:1] + 1, "n_samples": 12, "target": [1, 0], "return_convergence_delta": True}
        found, expected = (runs(p.GradientShap(model), x, 150, **keywords)[:, 6:] for p in (ours, theirs))
        assert found.shape == expected.shape == (150, 24)
        agree(found.view(150, 2, 12).square().mean(2), expected.view(150, 2, 12).square().mean(2), 0.05)

    @FEW_STEPS
    @pytest.mark.parametrize("method", ["GradientShap", "NoiseTunnel", "drawn"])
    def test_seeds(self, method: str) -> None:
        model, x, _ = _curved()
        if method == "GradientShap":
            made, keywords = ours.GradientShap(model), {"baselines": torch.randn(9, 3).double(), "stdevs": 0.3}
        else:
            made, keywords = (
                ours.NoiseTunnel(ours.IntegratedGradients(model)),
                {"baselines": torch.randn(9, 3).double()[: 9 if method == "drawn" else 1]},
            )
            keywords["draw_baseline_from_distrib"] = method == "drawn"
        first, again, other = (runs(made, x, 1, seed, target=1, return_convergence_delta=True, **keywords) for seed in (4, 4, 5))
        assert torch.equal(first, again)
        assert not torch.allclose(first, other)
