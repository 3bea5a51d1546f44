"""Captum's perturbation classes: FeatureAblation."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...batch import Run
from ...errors import OptionError
from ...explanation import Found
from ...inputs import expanded
from ...perturb import feature_ablation, groups_of
from ...target import Every
from .base import BaselineType, PerturbationAttribution, TargetType, answer

__all__ = ["FeatureAblation"]


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
        run = Run(_rows(perturbations_per_eval, view.size), show_progress)
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
        return _in_background(lambda: waiting.attribute(*arguments, **kwargs))


def _rows(perturbations_per_eval: int, size: int) -> int | None:
    if not isinstance(perturbations_per_eval, int) or perturbations_per_eval < 1:
        raise OptionError(f"perturbations_per_eval is {perturbations_per_eval!r}; it must be an integer of at least 1")
    return None if perturbations_per_eval == 1 else perturbations_per_eval * size


def _rows_of_outputs(found: Found) -> Found:
    """Every output of every example as a row of its own, `(1, B * outputs, ...)`, as Captum has it."""
    if len(found.scores) == 1:
        return found
    values = tuple(v.transpose(0, 1).flatten(0, 1)[None] for v in found.values)
    return Found(values, found.scores.T.reshape(1, -1))


def _in_background(work: Callable[[], Any]) -> torch.futures.Future[Any]:
    future: torch.futures.Future[Any] = torch.futures.Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
