"""Captum's gradient classes: Saliency, InputXGradient, IntegratedGradients, GradientShap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...batch import Run
from ...gradient import expected_gradients, gradient, input_x_gradient, integrated_gradients, saliency
from ...inputs import draws, expanded
from .base import BaselineType, GradientAttribution, TargetType, answer, with_delta

__all__ = ["GradientShap", "InputXGradient", "IntegratedGradients", "Saliency"]


class Saliency(GradientAttribution):
    """The (absolute) gradient: `pellucid.gradient.saliency`."""

    def attribute(self, inputs: Any, target: TargetType = None, abs: bool = True, additional_forward_args: Any = None) -> Any:
        """Attributions of the inputs' shape; `abs=False` keeps the sign."""
        view = self._view(inputs, target, additional_forward_args)
        return answer(inputs, view, (saliency if abs else gradient)(view))


class InputXGradient(GradientAttribution):
    """The gradient times the input: `pellucid.gradient.input_x_gradient`."""

    def attribute(self, inputs: Any, target: TargetType = None, additional_forward_args: Any = None) -> Any:
        """Attributions of the inputs' shape."""
        view = self._view(inputs, target, additional_forward_args)
        return answer(inputs, view, input_x_gradient(view))

    @property
    def multiplies_by_inputs(self) -> bool:
        """Always."""
        return True


class IntegratedGradients(GradientAttribution):
    """The gradient averaged along the path from a baseline: `pellucid.gradient.integrated_gradients`."""

    def __init__(self, forward_func: Callable[..., Any], multiply_by_inputs: bool = True) -> None:
        super().__init__(forward_func)
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
    ) -> Any:
        """Attributions of the inputs' shape, with `(B,)` deltas if asked for; `internal_batch_size` caps what is found anyway."""
        view = self._view(inputs, target, additional_forward_args)
        starts, run = expanded(view.features, baselines), Run(internal_batch_size)
        found = integrated_gradients(view, starts, n_steps, method, multiply=self._multiply_by_inputs, run=run)
        delta = found.difference[0] if return_convergence_delta else None
        return with_delta(answer(inputs, view, found), delta, return_convergence_delta)

    def has_convergence_delta(self) -> bool:
        """Completeness."""
        return True


class GradientShap(GradientAttribution):
    """Gradients between inputs and random baselines: `pellucid.gradient.expected_gradients`."""

    def __init__(self, forward_func: Callable[..., Any], multiply_by_inputs: bool = True) -> None:
        super().__init__(forward_func)
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
    ) -> Any:
        """Attributions of the inputs' shape, with `(B * n_samples,)` deltas, an example's samples together, if asked for."""
        view = self._view(inputs, target, additional_forward_args)
        references, check = draws(view.features, baselines), return_convergence_delta
        found = expected_gradients(view, references, n_samples, stdevs, self._multiply_by_inputs, check=check)
        delta = found.notes["sample_gap"][0].T.flatten() if check else None
        return with_delta(answer(inputs, view, found), delta, return_convergence_delta)

    def has_convergence_delta(self) -> bool:
        """Completeness in expectation."""
        return True
