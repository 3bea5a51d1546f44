"""Captum's layer classes: the methods of the library at another view, and what passes through a layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...batch import Run
from ...explanation import Found
from ...gradient import (
    channel_averaged,
    expected_gradients,
    gradient_x_activation,
    integrated_gradients,
    internal_influence,
    layer_conductance,
)
from ...inputs import Tensors, draws, expanded
from ...inside import Place, at_layer, lifted, look
from ...model import undisturbed
from ...perturb import feature_ablation, feature_permutation, groups_of
from ...picks import Every
from ...view import InputView
from .base import Attribution, BaselineType, GradientAttribution, PerturbationAttribution, TargetType, report, with_delta

__all__ = [
    "InternalAttribution",
    "InternalInfluence",
    "LayerActivation",
    "LayerAttribution",
    "LayerConductance",
    "LayerFeatureAblation",
    "LayerFeaturePermutation",
    "LayerGradCam",
    "LayerGradientShap",
    "LayerGradientXActivation",
    "LayerIntegratedGradients",
]


class InternalAttribution(Attribution):
    """A model, one of its layers (a module, a name, `(layer, number of its call)`, or a list of these), and a method."""

    def __init__(self, forward_func: Callable[..., Any], layer: Any, device_ids: list[int] | None = None) -> None:
        super().__init__(forward_func)
        self.layer, self.device_ids = layer, device_ids

    def _place(self, view: InputView, of_input: bool, run: Run | None = None) -> Place:
        return (run or Run()).place(view, self.layer, of_input).place

    def _answer(self, view: InputView, place: Place, found: Found) -> Any:
        """As Captum returns it: a tensor, a tuple where the layer holds several, a list of these for a list of layers."""
        report(view, found)
        values = list(place.back(tuple(v[0] for v in found.values)))
        by_layer = []
        for count in place.counts:
            mine, values = tuple(values[:count]), values[count:]
            by_layer.append(mine if count > 1 else mine[0])
        return by_layer if isinstance(self.layer, list) else by_layer[0]


class LayerAttribution(InternalAttribution):
    """A method whose attributions are those of a layer."""

    @staticmethod
    def interpolate(layer_attribution: Tensor, interpolate_dims: int | tuple[int, ...], interpolate_mode: str = "nearest") -> Tensor:
        """The attributions resized in all but their first two dimensions."""
        return F.interpolate(layer_attribution, interpolate_dims, mode=interpolate_mode)


class LayerActivation(LayerAttribution):
    """What the layer returns (or receives)."""

    def attribute(self, inputs: Any, additional_forward_args: Any = None, attribute_to_layer_input: bool = False) -> Any:
        """The activations, of the layer's shape."""
        view = replace(self._view(inputs, None, additional_forward_args), pick=Every())
        with undisturbed(view.roots):
            seen = look(view, self.layer, attribute_to_layer_input)
        return self._answer(view, seen.place, Found(tuple(t[None] for t in seen.features), seen.scores.detach()))

    @property
    def multiplies_by_inputs(self) -> bool:
        """Always: an activation is a quantity of the input."""
        return True


class LayerGradientXActivation(LayerAttribution, GradientAttribution):
    """The activation times its gradient: `pellucid.gradient.gradient_x_activation`."""

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Any,
        device_ids: list[int] | None = None,
        multiply_by_inputs: bool = True,
        memory_efficient: bool = False,
    ) -> None:
        InternalAttribution.__init__(self, forward_func, layer, device_ids)
        self._multiply_by_inputs, self.memory_efficient = multiply_by_inputs, memory_efficient

    def attribute(
        self,
        inputs: Any,
        target: TargetType = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Attributions of the layer's shape."""
        view = self._view(inputs, target, additional_forward_args)
        by = torch.mul if self._multiply_by_inputs else lambda gradient, activation: gradient
        found, place = gradient_x_activation(view, self.layer, attribute_to_layer_input, by)
        return self._answer(view, place, found)


class LayerIntegratedGradients(LayerAttribution, GradientAttribution):
    """Integrated gradients from the layer's activation at the baselines to that at the inputs."""

    def __init__(
        self, forward_func: Callable[..., Any], layer: Any, device_ids: list[int] | None = None, multiply_by_inputs: bool = True
    ) -> None:
        InternalAttribution.__init__(self, forward_func, layer, device_ids)
        self._multiply_by_inputs = multiply_by_inputs

    def attribute(
        self,
        inputs: Any,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Attributions of the layer's shape, with `(B,)` deltas (to the change of the score between the inputs) if asked for."""
        view, run = self._view(inputs, target, additional_forward_args), Run(internal_batch_size)
        starts = expanded(view.features, baselines)
        place = self._place(view, attribute_to_layer_input)
        found = integrated_gradients(
            at_layer(view, place), lifted(view, place, starts), n_steps, method, multiply=self._multiply_by_inputs, run=run
        )
        delta = _delta(view, starts, found, run) if return_convergence_delta else None
        return with_delta(self._answer(view, place, found), delta, return_convergence_delta)

    def has_convergence_delta(self) -> bool:
        """Completeness, for a layer that all paths cross."""
        return True


def _delta(view: InputView, starts: Tensors, found: Found, run: Run) -> Tensor:
    """`(B,)`: the sum of the attributions less the change of the score from the baselines to the inputs."""
    there = run.here(replace(view, features=starts))
    return replace(found, baseline_scores=there).difference[0]


class LayerConductance(LayerAttribution, GradientAttribution):
    """`pellucid.gradient.layer_conductance`."""

    def attribute(
        self,
        inputs: Any,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Attributions of the layer's shape, with `(B,)` deltas if asked for."""
        view = self._view(inputs, target, additional_forward_args)
        run = Run(internal_batch_size)
        place, starts = self._place(view, attribute_to_layer_input, run), expanded(view.features, baselines)
        found = layer_conductance(view, place, starts, n_steps, method, run)
        delta = found.difference[0] if return_convergence_delta else None
        return with_delta(self._answer(view, place, found), delta, return_convergence_delta)

    def has_convergence_delta(self) -> bool:
        """Completeness, for a layer that all paths cross."""
        return True

    @property
    def multiplies_by_inputs(self) -> bool:
        """Always."""
        return True


class InternalInfluence(LayerAttribution, GradientAttribution):
    """`pellucid.gradient.internal_influence`."""

    def attribute(
        self,
        inputs: Any,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Attributions of the layer's shape."""
        view = self._view(inputs, target, additional_forward_args)
        run = Run(internal_batch_size)
        place, starts = self._place(view, attribute_to_layer_input, run), expanded(view.features, baselines)
        found = internal_influence(view, place, starts, n_steps, method, run)
        return self._answer(view, place, found)


class LayerGradCam(LayerAttribution, GradientAttribution):
    """Grad-CAM of a convolution layer: `pellucid.gradient.cam`."""

    def attribute(
        self,
        inputs: Any,
        target: TargetType = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        attr_dim_summation: bool = True,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """`(B, 1, ...)`, or `(B, C, ...)` without `attr_dim_summation`; the second dimension is the channels'."""
        view = self._view(inputs, target, additional_forward_args)
        found, place = gradient_x_activation(view, self.layer, attribute_to_layer_input, channel_averaged)
        values = tuple(v.sum(2, keepdim=True) if attr_dim_summation else v for v in found.values)
        values = tuple(F.relu(v) for v in values) if relu_attributions else values
        return self._answer(view, place, replace(found, values=values))


class LayerGradientShap(LayerAttribution, GradientAttribution):
    """Expected gradients between the layer's activations at the inputs and at random baselines."""

    def __init__(
        self, forward_func: Callable[..., Any], layer: Any, device_ids: list[int] | None = None, multiply_by_inputs: bool = True
    ) -> None:
        InternalAttribution.__init__(self, forward_func, layer, device_ids)
        self._multiply_by_inputs = multiply_by_inputs

    def attribute(
        self,
        inputs: Any,
        baselines: Any,
        n_samples: int = 5,
        stdevs: float | tuple[float, ...] = 0.0,
        target: TargetType = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
    ) -> Any:
        """Attributions of the layer's shape, with `(B * n_samples,)` deltas if asked for; `stdevs` is of noise at the layer."""
        view, check = self._view(inputs, target, additional_forward_args), return_convergence_delta
        place = self._place(view, attribute_to_layer_input)
        references = lifted(view, place, draws(view.features, baselines))
        found = expected_gradients(at_layer(view, place), references, n_samples, stdevs, self._multiply_by_inputs, check=check)
        delta = found.notes["sample_gap"][0].T.flatten() if check else None
        return with_delta(self._answer(view, place, found), delta, check)

    def has_convergence_delta(self) -> bool:
        """Completeness in expectation."""
        return True


class LayerFeatureAblation(LayerAttribution, PerturbationAttribution):
    """The fall of the score when a unit of the layer is replaced."""

    def attribute(
        self,
        inputs: Any,
        layer_baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: Any = None,
        layer_mask: Tensor | tuple[Tensor, ...] | None = None,
        attribute_to_layer_input: bool = False,
        perturbations_per_eval: int = 1,
    ) -> Any:
        """Attributions of the layer's shape; baselines and mask are the layer's."""
        view = self._view(inputs, target, additional_forward_args)
        place = self._place(view, attribute_to_layer_input)
        inner = at_layer(view, place)
        run = Run(None if perturbations_per_eval == 1 else perturbations_per_eval * view.size)
        found = feature_ablation(inner, expanded(inner.features, layer_baselines), groups_of(inner.features, layer_mask), run)
        return self._answer(view, place, found)


class LayerFeaturePermutation(LayerAttribution, PerturbationAttribution):
    """The fall of the score when a unit of the layer is permuted between examples."""

    def attribute(
        self,
        inputs: Any,
        target: TargetType = None,
        additional_forward_args: Any = None,
        layer_mask: Tensor | tuple[Tensor, ...] | None = None,
        perturbations_per_eval: int = 1,
    ) -> Any:
        """Attributions of the layer's shape; the mask is the layer's."""
        view = self._view(inputs, target, additional_forward_args)
        place = self._place(view, False)
        inner = at_layer(view, place)
        run = Run(None if perturbations_per_eval == 1 else perturbations_per_eval * view.size)
        return self._answer(view, place, feature_permutation(inner, groups_of(inner.features, layer_mask), run=run))
