"""Captum's neuron classes: the methods of the library at inputs, of a neuron's activation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ...batch import Run
from ...gradient import expected_gradients, gradient, integrated_gradients, neuron_conductance
from ...inputs import draws, expanded
from ...inside import of_neuron
from ...perturb import feature_ablation, groups_of
from ...view import InputView
from .base import BaselineType, GradientAttribution, PerturbationAttribution, TargetType, answer
from .layer import InternalAttribution

__all__ = [
    "NeuronAttribution",
    "NeuronConductance",
    "NeuronFeatureAblation",
    "NeuronGradient",
    "NeuronGradientShap",
    "NeuronIntegratedGradients",
]


class NeuronAttribution(InternalAttribution):
    """A method that explains a neuron of a layer."""

    def _neuron(self, inputs: Any, selector: Any, additional_forward_args: Any, of_input: bool) -> InputView:
        return of_neuron(self._view(inputs, None, additional_forward_args), self.layer, selector, of_input)


class NeuronGradient(NeuronAttribution, GradientAttribution):
    """The gradient of a neuron's activation."""

    def attribute(
        self, inputs: Any, neuron_selector: Any, additional_forward_args: Any = None, attribute_to_neuron_input: bool = False
    ) -> Any:
        """Attributions of the inputs' shape."""
        view = self._neuron(inputs, neuron_selector, additional_forward_args, attribute_to_neuron_input)
        return answer(inputs, view, gradient(view))


class NeuronIntegratedGradients(NeuronAttribution, GradientAttribution):
    """Integrated gradients of a neuron's activation."""

    def __init__(
        self, forward_func: Callable[..., Any], layer: Any, device_ids: list[int] | None = None, multiply_by_inputs: bool = True
    ) -> None:
        InternalAttribution.__init__(self, forward_func, layer, device_ids)
        self._multiply_by_inputs = multiply_by_inputs

    def attribute(
        self,
        inputs: Any,
        neuron_selector: Any,
        baselines: BaselineType = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        attribute_to_neuron_input: bool = False,
    ) -> Any:
        """Attributions of the inputs' shape."""
        view = self._neuron(inputs, neuron_selector, additional_forward_args, attribute_to_neuron_input)
        starts, run = expanded(view.features, baselines), Run(internal_batch_size)
        found = integrated_gradients(view, starts, n_steps, method, multiply=self._multiply_by_inputs, run=run)
        return answer(inputs, view, found)


class NeuronConductance(NeuronAttribution, GradientAttribution):
    """`pellucid.gradient.neuron_conductance`."""

    def __init__(
        self, forward_func: Callable[..., Any], layer: Any, device_ids: list[int] | None = None, multiply_by_inputs: bool = True
    ) -> None:
        InternalAttribution.__init__(self, forward_func, layer, device_ids)
        self._multiply_by_inputs = multiply_by_inputs

    def attribute(
        self,
        inputs: Any,
        neuron_selector: Any,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "riemann_trapezoid",
        internal_batch_size: int | None = None,
        attribute_to_neuron_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Attributions of the inputs' shape."""
        view = self._view(inputs, target, additional_forward_args)
        place, run = self._place(view, attribute_to_neuron_input), Run(internal_batch_size)
        starts = expanded(view.features, baselines)
        found = neuron_conductance(view, place, neuron_selector, starts, n_steps, method, self._multiply_by_inputs, run)
        return answer(inputs, view, found)


class NeuronGradientShap(NeuronAttribution, GradientAttribution):
    """Expected gradients of a neuron's activation."""

    def __init__(
        self, forward_func: Callable[..., Any], layer: Any, device_ids: list[int] | None = None, multiply_by_inputs: bool = True
    ) -> None:
        InternalAttribution.__init__(self, forward_func, layer, device_ids)
        self._multiply_by_inputs = multiply_by_inputs

    def attribute(
        self,
        inputs: Any,
        neuron_selector: Any,
        baselines: Any,
        n_samples: int = 5,
        stdevs: float | tuple[float, ...] = 0.0,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
    ) -> Any:
        """Attributions of the inputs' shape."""
        view = self._neuron(inputs, neuron_selector, additional_forward_args, attribute_to_neuron_input)
        found = expected_gradients(view, draws(view.features, baselines), n_samples, stdevs, self._multiply_by_inputs)
        return answer(inputs, view, found)


class NeuronFeatureAblation(NeuronAttribution, PerturbationAttribution):
    """The fall of a neuron's activation when a feature is replaced."""

    def attribute(
        self,
        inputs: Any,
        neuron_selector: Any,
        baselines: BaselineType = None,
        additional_forward_args: Any = None,
        feature_mask: Tensor | tuple[Tensor, ...] | None = None,
        attribute_to_neuron_input: bool = False,
        perturbations_per_eval: int = 1,
    ) -> Any:
        """Attributions of the inputs' shape."""
        view = self._neuron(inputs, neuron_selector, additional_forward_args, attribute_to_neuron_input)
        run = Run(None if perturbations_per_eval == 1 else perturbations_per_eval * view.size)
        return answer(inputs, view, feature_ablation(view, expanded(view.features, baselines), groups_of(view.features, feature_mask), run))
