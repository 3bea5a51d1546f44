"""Captum's GuidedBackprop, Deconvolution and GuidedGradCam: `pellucid.rules.guided_backprop` and its kin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...errors import InputError
from ...explanation import Found
from ...rules import deconvolution, guided_backprop
from .base import GradientAttribution, TargetType, answer, as_tuple
from .layer import LayerAttribution, LayerGradCam
from .neuron import NeuronAttribution

__all__ = ["Deconvolution", "GuidedBackprop", "GuidedGradCam", "NeuronDeconvolution", "NeuronGuidedBackprop"]


class ModifiedReluGradientAttribution(GradientAttribution):
    """A gradient that rectifiers pass on in another way."""

    method: Callable[..., Found]

    def __init__(self, model: Callable[..., Any]) -> None:
        super().__init__(model)
        self.model = model

    def attribute(self, inputs: Any, target: TargetType = None, additional_forward_args: Any = None) -> Any:
        """Attributions of the inputs' shape."""
        view = self._view(inputs, target, additional_forward_args)
        return answer(inputs, view, type(self).method(view))


class GuidedBackprop(ModifiedReluGradientAttribution):
    """`pellucid.rules.guided_backprop`."""

    method = staticmethod(guided_backprop)


class Deconvolution(ModifiedReluGradientAttribution):
    """`pellucid.rules.deconvolution`."""

    method = staticmethod(deconvolution)


class GuidedGradCam(GradientAttribution):
    """Guided backpropagation times the upsampled Grad-CAM of a layer."""

    def __init__(self, model: Callable[..., Any], layer: Any, device_ids: list[int] | None = None) -> None:
        super().__init__(model)
        self.model, self.layer, self.device_ids = model, layer, device_ids

    def attribute(
        self,
        inputs: Any,
        target: TargetType = None,
        additional_forward_args: Any = None,
        interpolate_mode: str = "nearest",
        attribute_to_layer_input: bool = False,
    ) -> Any:
        """Attributions of the inputs' shape.

        Raises:
            InputError: an input on which the layer's map does not lie, for which Captum returns an empty tensor.
        """
        maps = LayerGradCam(self.forward_func, self.layer).attribute(
            inputs, target, additional_forward_args, attribute_to_layer_input, relu_attributions=True
        )
        if isinstance(maps, tuple):
            raise InputError(f"the layer holds {len(maps)} tensors; Grad-CAM is of one: choose another layer")
        guided = GuidedBackprop(self.forward_func).attribute(inputs, target, additional_forward_args)
        found = []
        for x, gradient in zip(as_tuple(inputs), as_tuple(guided), strict=True):
            if maps.dim() != x.dim():
                raise InputError(
                    f"the layer's map {tuple(maps.shape)} does not lie on an input of shape {tuple(x.shape)}; choose a layer with as many "
                    "dimensions, or pellucid.explain(..., method='guided_grad_cam'), which understands tokens"
                )
            found.append(gradient * LayerAttribution.interpolate(maps, tuple(x.shape[2:]), interpolate_mode))
        return tuple(found) if isinstance(inputs, tuple | list) else found[0]


class _NeuronModifiedRelu(NeuronAttribution, GradientAttribution):
    method: Callable[..., Found]

    def __init__(self, model: Callable[..., Any], layer: Any, device_ids: list[int] | None = None) -> None:
        NeuronAttribution.__init__(self, model, layer, device_ids)

    def attribute(
        self, inputs: Any, neuron_selector: Any, additional_forward_args: Any = None, attribute_to_neuron_input: bool = False
    ) -> Any:
        """Attributions of the inputs' shape."""
        view = self._neuron(inputs, neuron_selector, additional_forward_args, attribute_to_neuron_input)
        return answer(inputs, view, type(self).method(view))


class NeuronGuidedBackprop(_NeuronModifiedRelu):
    """Guided backpropagation of a neuron's activation."""

    method = staticmethod(guided_backprop)


class NeuronDeconvolution(_NeuronModifiedRelu):
    """Deconvolution of a neuron's activation."""

    method = staticmethod(deconvolution)
