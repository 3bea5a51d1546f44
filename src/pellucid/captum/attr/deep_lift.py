"""Captum's DeepLift and DeepLiftShap, of inputs, layers and neurons: `pellucid.rules.deeplift`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...errors import OptionError
from ...inputs import Tensors, draws, expanded
from ...rules import deeplift, deeplift_shap
from ...rules.compared import Attribute, differences, multipliers
from .base import BaselineType, GradientAttribution, TargetType, answer, as_tuple, with_delta
from .layer import LayerAttribution
from .neuron import NeuronAttribution

__all__ = ["DeepLift", "DeepLiftShap", "LayerDeepLift", "LayerDeepLiftShap", "NeuronDeepLift", "NeuronDeepLiftShap"]

CustomFunction = Callable[..., tuple[Tensor, ...]] | None


def _attribute(custom: CustomFunction, multiply: bool) -> Attribute:
    """What is made of the multipliers: Captum hands a function of one, two or three arguments what it asks for."""
    if custom is None:
        return differences if multiply else multipliers
    count = len(inspect.signature(custom).parameters)
    if not 1 <= count <= 3:
        raise OptionError(f"custom_attribution_func takes {count} arguments; it gets multipliers, inputs and baselines: one to three")

    def attribute(multiplied: Tensors, features: Tensors, references: Tensors) -> Tensors:
        found = [_as_tuple(custom(*(tuple(m[t] for m in multiplied), features, references)[:count])) for t in range(len(multiplied[0]))]
        return tuple(torch.stack(parts) for parts in zip(*found, strict=True))

    return attribute


def _as_tuple(found: Any) -> Tensors:
    values = as_tuple(found)
    if not all(isinstance(value, Tensor) for value in values):
        raise OptionError(
            f"custom_attribution_func returned {type(found).__name__}; it must return a tensor, or a tuple with one for each input"
        )
    return values


class DeepLift(GradientAttribution):
    """The change of the output from the baseline, carried back through secants: `pellucid.rules.deeplift`."""

    def __init__(self, model: Callable[..., Any], multiply_by_inputs: bool = True, eps: float = 1e-10) -> None:
        super().__init__(model)
        self.model, self.eps = model, eps
        self._multiply_by_inputs = multiply_by_inputs

    def attribute(
        self,
        inputs: Any,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        custom_attribution_func: CustomFunction = None,
    ) -> Any:
        """Attributions of the inputs' shape, with `(B,)` deltas if asked for."""
        view = self._view(inputs, target, additional_forward_args)
        found = deeplift(view, expanded(view.features, baselines), _attribute(custom_attribution_func, self._multiply_by_inputs))
        delta = found.difference[0] if return_convergence_delta else None
        return with_delta(answer(inputs, view, found), delta, return_convergence_delta)

    def has_convergence_delta(self) -> bool:
        """Summation to delta."""
        return True


class DeepLiftShap(DeepLift):
    """DeepLIFT averaged over a distribution of baselines: `pellucid.rules.deeplift_shap`."""

    def __init__(self, model: Callable[..., Any], multiply_by_inputs: bool = True) -> None:
        super().__init__(model, multiply_by_inputs)

    def attribute(  # type: ignore[override]
        self,
        inputs: Any,
        baselines: Any,
        target: TargetType = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        custom_attribution_func: CustomFunction = None,
    ) -> Any:
        """Attributions of the inputs' shape, with `(B * baselines,)` deltas, an example's baselines together, if asked for."""
        view = self._view(inputs, target, additional_forward_args)
        found = deeplift_shap(view, draws(view.features, baselines), _attribute(custom_attribution_func, self._multiply_by_inputs))
        delta = found.notes["sample_gap"][0].T.flatten() if return_convergence_delta else None
        return with_delta(answer(inputs, view, found), delta, return_convergence_delta)


class LayerDeepLift(LayerAttribution, DeepLift):
    """DeepLIFT of what a layer holds at the inputs, compared with what it holds at the baselines."""

    def __init__(self, model: Callable[..., Any], layer: Any, multiply_by_inputs: bool = True) -> None:
        LayerAttribution.__init__(self, model, layer)
        self.model, self._multiply_by_inputs = model, multiply_by_inputs

    def attribute(  # type: ignore[override]
        self,
        inputs: Any,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        custom_attribution_func: CustomFunction = None,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Attributions of the layer's shape, with `(B,)` deltas if asked for."""
        view = self._view(inputs, target, additional_forward_args)
        place = self._place(view, attribute_to_layer_input)
        made = _attribute(custom_attribution_func, self._multiply_by_inputs)
        found = deeplift(view, expanded(view.features, baselines), made, place)
        delta = found.difference[0] if return_convergence_delta else None
        return with_delta(self._answer(view, place, found), delta, return_convergence_delta)


class LayerDeepLiftShap(LayerDeepLift):
    """DeepLIFT of a layer averaged over a distribution of baselines."""

    def attribute(  # type: ignore[override]
        self,
        inputs: Any,
        baselines: Any,
        target: TargetType = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        custom_attribution_func: CustomFunction = None,
    ) -> Any:
        """Attributions of the layer's shape, with `(B * baselines,)` deltas if asked for."""
        view = self._view(inputs, target, additional_forward_args)
        place = self._place(view, attribute_to_layer_input)
        made = _attribute(custom_attribution_func, self._multiply_by_inputs)
        found = deeplift_shap(view, draws(view.features, baselines), made, place)
        delta = found.notes["sample_gap"][0].T.flatten() if return_convergence_delta else None
        return with_delta(self._answer(view, place, found), delta, return_convergence_delta)


class NeuronDeepLift(NeuronAttribution, GradientAttribution):
    """DeepLIFT of a neuron's activation."""

    def __init__(self, model: Callable[..., Any], layer: Any, multiply_by_inputs: bool = True) -> None:
        NeuronAttribution.__init__(self, model, layer)
        self._multiply_by_inputs = multiply_by_inputs

    def attribute(
        self,
        inputs: Any,
        neuron_selector: Any,
        baselines: BaselineType = None,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
        custom_attribution_func: CustomFunction = None,
    ) -> Any:
        """Attributions of the inputs' shape."""
        view = self._neuron(inputs, neuron_selector, additional_forward_args, attribute_to_neuron_input)
        made = _attribute(custom_attribution_func, self._multiply_by_inputs)
        return answer(inputs, view, deeplift(view, expanded(view.features, baselines), made))


class NeuronDeepLiftShap(NeuronAttribution, GradientAttribution):
    """DeepLIFT of a neuron's activation averaged over a distribution of baselines."""

    def __init__(self, model: Callable[..., Any], layer: Any, multiply_by_inputs: bool = True) -> None:
        NeuronAttribution.__init__(self, model, layer)
        self._multiply_by_inputs = multiply_by_inputs

    def attribute(
        self,
        inputs: Any,
        neuron_selector: Any,
        baselines: Any,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
        custom_attribution_func: CustomFunction = None,
    ) -> Any:
        """Attributions of the inputs' shape."""
        view = self._neuron(inputs, neuron_selector, additional_forward_args, attribute_to_neuron_input)
        made = _attribute(custom_attribution_func, self._multiply_by_inputs)
        return answer(inputs, view, deeplift_shap(view, draws(view.features, baselines), made))
