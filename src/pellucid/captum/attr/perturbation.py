"""Captum's perturbation classes: FeatureAblation, FeaturePermutation, Occlusion."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...batch import Run
from ...errors import OptionError, warn
from ...explanation import Found
from ...inputs import expanded
from ...perturb import feature_ablation, feature_permutation, groups_of, occlusion, shuffled, windows_of
from ...picks import Every
from .base import BaselineType, PerturbationAttribution, TargetType, answer

__all__ = ["FeatureAblation", "FeaturePermutation", "Occlusion", "at_once", "in_background"]


class FeatureAblation(PerturbationAttribution):
    """The fall of the output when a feature is replaced: `pellucid.perturb.feature_ablation`."""

    def attribute(
        self,
        inputs: Any,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: Any = None,
        feature_mask: Tensor | tuple[Tensor, ...] | None = None,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Attributions `(outputs, ...)`: of the inputs' shape with a target; with None one row for each output of each example.

        `perturbations_per_eval=1`, the default, leaves it to the program how much is evaluated at once.
        """
        if kwargs:
            raise OptionError(f"FeatureAblation.attribute has no argument {sorted(kwargs)}; see help(FeatureAblation.attribute)")
        view = self._view(inputs, Every() if target is None else target, additional_forward_args)
        run = Run(at_once(perturbations_per_eval, view.size), show_progress)
        found = feature_ablation(view, expanded(view.features, baselines), groups_of(view.features, feature_mask), run)
        return answer(inputs, view, _rows_of_outputs(found))

    def attribute_future(
        self,
        inputs: Any,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: Any = None,
        feature_mask: Tensor | tuple[Tensor, ...] | None = None,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
        **kwargs: Any,
    ) -> torch.futures.Future[Any]:
        """A future of what `attribute` gives, for a model that returns futures of tensors."""
        waiting = FeatureAblation(lambda *args: self.forward_func(*args).wait())
        arguments = (inputs, baselines, target, additional_forward_args, feature_mask, perturbations_per_eval, show_progress)
        return in_background(lambda: waiting.attribute(*arguments, **kwargs))


class FeaturePermutation(FeatureAblation):
    """The fall of the output when a feature is permuted between examples: `pellucid.perturb.feature_permutation`."""

    def __init__(self, forward_func: Callable[..., Any], perm_func: Callable[[Tensor, Tensor], Tensor] = shuffled) -> None:
        super().__init__(forward_func)
        self.perm_func = perm_func

    def attribute(  # type: ignore[override]
        self,
        inputs: Any,
        target: TargetType = None,
        additional_forward_args: Any = None,
        feature_mask: Tensor | tuple[Tensor, ...] | None = None,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Attributions as those of `FeatureAblation`; of one example, which cannot be permuted, zeros and a warning."""
        kwargs.pop("baselines", None)
        if kwargs:
            raise OptionError(f"FeaturePermutation.attribute has no argument {sorted(kwargs)}; see help(FeaturePermutation.attribute)")
        view = self._view(inputs, Every() if target is None else target, additional_forward_args)
        if view.size == 1:
            warn("signal", "a single example cannot be permuted, so every attribution is zero; give a batch")
        run = Run(at_once(perturbations_per_eval, view.size), show_progress)
        found = feature_permutation(view, groups_of(view.features, feature_mask), self.perm_func, run=run)
        return answer(inputs, view, _rows_of_outputs(found))

    def attribute_future(  # type: ignore[override]
        self,
        inputs: Any,
        target: TargetType = None,
        additional_forward_args: Any = None,
        feature_mask: Tensor | tuple[Tensor, ...] | None = None,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
        **kwargs: Any,
    ) -> torch.futures.Future[Any]:
        """A future of what `attribute` gives, for a model that returns futures of tensors."""
        waiting = FeaturePermutation(lambda *args: self.forward_func(*args).wait(), self.perm_func)
        arguments = (inputs, target, additional_forward_args, feature_mask, perturbations_per_eval, show_progress)
        return in_background(lambda: waiting.attribute(*arguments, **kwargs))


class Occlusion(FeatureAblation):
    """The fall of the output when a window is hidden: `pellucid.perturb.occlusion`."""

    def attribute(  # type: ignore[override]
        self,
        inputs: Any,
        sliding_window_shapes: tuple[int, ...] | tuple[tuple[int, ...], ...],
        strides: int | tuple[int, ...] | tuple[int | tuple[int, ...], ...] | None = None,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: Any = None,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
    ) -> Any:
        """Attributions as those of `FeatureAblation`, averaged over the windows that cover a feature."""
        view = self._view(inputs, Every() if target is None else target, additional_forward_args)
        run = Run(at_once(perturbations_per_eval, view.size), show_progress)
        windows = windows_of(view.features, sliding_window_shapes, strides)
        return answer(inputs, view, _rows_of_outputs(occlusion(view, expanded(view.features, baselines), windows, run)))

    def attribute_future(self, *args: Any, **kwargs: Any) -> Any:
        """Not for occlusion, in Captum neither."""
        raise NotImplementedError("attribute_future is not implemented for Occlusion")


def at_once(perturbations_per_eval: int, size: int) -> int | None:
    """How many rows may run at once; None, for the default of 1, leaves it to the program."""
    if not isinstance(perturbations_per_eval, int) or perturbations_per_eval < 1:
        raise OptionError(f"perturbations_per_eval is {perturbations_per_eval!r}; it must be an integer of at least 1")
    return None if perturbations_per_eval == 1 else perturbations_per_eval * size


def _rows_of_outputs(found: Found) -> Found:
    """Every output of every example as a row of its own, `(1, B * outputs, ...)`, as Captum has it."""
    if len(found.scores) == 1:
        return found
    values = tuple(v.transpose(0, 1).flatten(0, 1)[None] for v in found.values)
    return Found(values, found.scores.T.reshape(1, -1))


def in_background(work: Callable[[], Any]) -> torch.futures.Future[Any]:
    """A future of what some work gives, which a thread of its own does."""
    future: torch.futures.Future[Any] = torch.futures.Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
