"""Captum's Shapley classes: exact where all coalitions fit into what was asked for, from complementary pairs where not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from ...batch import Run
from ...errors import OptionError
from ...explanation import Found
from ...inputs import Tensors, expanded
from ...perturb import Groups, Until, groups_of, shapley
from ...perturb.shapley import EXACT_GROUPS
from ...picks import Every
from ...view import View
from .base import BaselineType, PerturbationAttribution, TargetType, answer, report
from .lime import Lime
from .perturbation import at_once, in_background

__all__ = ["KernelShap", "ShapleyValueSampling", "ShapleyValues", "all_coalitions"]


def checked(n_samples: int | Literal["auto"]) -> int | None:
    """The number of samples; None for "auto"."""
    if n_samples == "auto":
        return None
    if isinstance(n_samples, str) or n_samples < 1:
        raise OptionError(f"n_samples is {n_samples!r}; give a number, at least one, or 'auto'")
    return n_samples


def sampled(view: View, baselines: Tensors, groups: Groups, evaluations: int | None, run: Run) -> Found:
    """Shapley values from so many coalitions, or until they are good enough."""
    until = Until.of(None, None, None) if evaluations is None else None
    return shapley(view, baselines, groups, evaluations, check=False, run=run, until=until)


class ShapleyValueSampling(PerturbationAttribution):
    """Shapley values from as many evaluations as `n_samples` orders of the features take: `pellucid.perturb.shapley`."""

    def attribute(
        self,
        inputs: Any,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: Any = None,
        feature_mask: Tensor | tuple[Tensor, ...] | None = None,
        n_samples: int | Literal["auto"] = 25,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
    ) -> Any:
        """Attributions of the inputs' shape; without a target `(B, outputs, ...)` of a model with several.

        `perturbations_per_eval=1`, the default, leaves it to the program how much is evaluated at once. `n_samples="auto"` goes on
        until the standard error is 5 % of the attributions, and is exact for up to 16 groups.
        """
        orders = checked(n_samples)
        evaluations = lambda groups: None if orders is None else orders * max(1, groups.count - 1)  # noqa: E731
        return self._answered(
            inputs, baselines, target, additional_forward_args, feature_mask, evaluations, perturbations_per_eval, show_progress
        )

    def attribute_future(
        self,
        inputs: Any,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: Any = None,
        feature_mask: Tensor | tuple[Tensor, ...] | None = None,
        n_samples: int | Literal["auto"] = 25,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
    ) -> torch.futures.Future[Any]:
        """A future of what `attribute` gives, for a model that returns futures of tensors."""
        waiting = ShapleyValueSampling(lambda *args: self.forward_func(*args).wait())
        arguments = (inputs, baselines, target, additional_forward_args, feature_mask, n_samples, perturbations_per_eval, show_progress)
        return in_background(lambda: waiting.attribute(*arguments))

    def _answered(
        self, inputs: Any, baselines: Any, target: Any, arguments: Any, mask: Any,
        evaluations: Callable[[Groups], int | None], per_eval: int, progress: bool
    ) -> Any:  # fmt: skip
        view = self._view(inputs, Every() if target is None else target, arguments)
        starts, groups = expanded(view.features, baselines), groups_of(view.features, mask)
        found = sampled(view, starts, groups, evaluations(groups), Run(at_once(per_eval, view.size), progress))
        if len(found.scores) == 1:
            return answer(inputs, view, found)
        report(view, found)
        values = tuple(v.transpose(0, 1) for v in found.values)
        return values if isinstance(inputs, tuple | list) else values[0]


class ShapleyValues(ShapleyValueSampling):
    """Exact Shapley values, by the 2^n coalitions of n features or groups."""

    def attribute(  # type: ignore[override]
        self,
        inputs: Any,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: Any = None,
        feature_mask: Tensor | tuple[Tensor, ...] | None = None,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
    ) -> Any:
        """Attributions of the inputs' shape; without a target `(B, outputs, ...)` of a model with several.

        Raises:
            OptionError: more groups than can be enumerated.
        """
        return self._answered(
            inputs, baselines, target, additional_forward_args, feature_mask, all_coalitions, perturbations_per_eval, show_progress
        )


def all_coalitions(groups: Groups) -> int:
    """How many coalitions there are.

    Raises:
        OptionError: more groups than can be enumerated.
    """
    if groups.count > EXACT_GROUPS:
        raise OptionError(
            f"exact Shapley values of {groups.count} features take 2^{groups.count} evaluations; group them with feature_mask to "
            f"{EXACT_GROUPS} at most, or use ShapleyValueSampling or KernelShap"
        )
    return int(2**groups.count)


class KernelShap(Lime):
    """Shapley values by weighted least squares, efficiency solved exactly: `pellucid.perturb.shapley`."""

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        super().__init__(forward_func)

    def attribute(  # type: ignore[override]
        self,
        inputs: Any,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: Any = None,
        feature_mask: Tensor | tuple[Tensor, ...] | None = None,
        n_samples: int | Literal["auto"] = 25,
        perturbations_per_eval: int = 1,
        return_input_shape: bool = True,
        show_progress: bool = False,
    ) -> Any:
        """Attributions of the inputs' shape, or `(B, features)` without `return_input_shape`; `n_samples` coalitions for each.

        `n_samples="auto"` as in `ShapleyValueSampling`.
        """
        coalitions = checked(n_samples)
        view = self._view(inputs, target, additional_forward_args)
        starts, groups = expanded(view.features, baselines), groups_of(view.features, feature_mask)
        run = Run(at_once(perturbations_per_eval, view.size), show_progress)
        found = sampled(view, starts, groups, None if coalitions is None else max(2, coalitions - 2), run)
        return answer(inputs, view, found) if return_input_shape else found.notes["groups"][0].T
