"""Captum's robustness classes: attacks, the smallest perturbation that fools a model, attacks compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ..errors import OptionError
from ..robust import BALLS, Attack, Ball, Grid, Summary, Trials, all_right, at_loss, compare, fgsm, pgd, smallest, within
from ..robust.minimal import search_of
from ..seeds import resolve_seed
from .attr.base import TargetType, TensorOrTupleOfTensorsGeneric

__all__ = ["FGSM", "PGD", "AttackComparator", "MinParamPerturbation", "Perturbation"]

MetricResultType = TypeVar("MetricResultType", float, Tensor, tuple[float | Tensor, ...])


class Perturbation:
    """A perturbation of inputs, `perturb(inputs, ...)`; to call it is to perturb."""

    perturb: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.perturb(*args, **kwargs)


class FGSM(Perturbation):
    """The fast gradient sign method: `pellucid.robust.fgsm`.

    `bound` puts values between the bounds and may be replaced; gradients up to `zero_thresh` count as zero.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        loss_func: Callable[..., Any] | None = None,
        lower_bound: float = float("-inf"),
        upper_bound: float = float("inf"),
    ) -> None:
        super().__init__()
        self.forward_func, self.loss_func = forward_func, loss_func
        self.bound: Callable[[Tensor], Tensor] = within(lower_bound, upper_bound)
        self.zero_thresh = 10**-6

    def perturb(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        epsilon: float,
        target: Any,
        additional_forward_args: Any = None,
        targeted: bool = False,
        mask: TensorOrTupleOfTensorsGeneric | None = None,
    ) -> TensorOrTupleOfTensorsGeneric:
        """Examples of the inputs' form. Without `loss_func`, -log of the output at the target is raised: of probabilities."""
        view = at_loss(self.forward_func, inputs, target, self.loss_func, additional_forward_args)
        moved = fgsm(view, epsilon, targeted=targeted, mask=mask, bounds=self.bound, threshold=self.zero_thresh)
        return _like(inputs, moved)


# Captum steps by the sign of the gradient in either norm.
SIGNED: dict[str, Ball] = {name: replace(ball, direction=torch.sign) for name, ball in BALLS.items()}


class PGD(Perturbation):
    """Projected gradient descent, by signs in either norm: `pellucid.robust.pgd`.

    Random starts follow from torch's random state, which is not moved, and from how many the object has made.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        loss_func: Callable[..., Any] | None = None,
        lower_bound: float = float("-inf"),
        upper_bound: float = float("inf"),
    ) -> None:
        super().__init__()
        self.forward_func = forward_func
        self.fgsm = FGSM(forward_func, loss_func)
        self.bound: Callable[[Tensor], Tensor] = within(lower_bound, upper_bound)
        self._starts = 0

    def perturb(
        self,
        inputs: TensorOrTupleOfTensorsGeneric,
        radius: float,
        step_size: float,
        step_num: int,
        target: Any,
        additional_forward_args: Any = None,
        targeted: bool = False,
        random_start: bool = False,
        norm: str = "Linf",
        mask: TensorOrTupleOfTensorsGeneric | None = None,
    ) -> TensorOrTupleOfTensorsGeneric:
        """Examples of the inputs' form, each within the radius."""
        view = at_loss(self.forward_func, inputs, target, self.fgsm.loss_func, additional_forward_args)
        moved = pgd(
            view, radius, step_size, step_num, norm=SIGNED.get(norm, norm), targeted=targeted, random_start=random_start,
            seed=resolve_seed(None) + self._starts, mask=mask, bounds=self.bound, threshold=self.fgsm.zero_thresh,
        )  # fmt: skip
        self._starts += random_start
        return _like(inputs, moved)


class MinParamPerturbation:
    """The smallest parameter of an attack that makes the model wrong: `pellucid.robust.smallest`."""

    def __init__(
        self,
        forward_func: Callable[..., Any],
        attack: Callable[..., Any] | Perturbation,
        arg_name: str,
        arg_min: int | float,
        arg_max: int | float,
        arg_step: int | float,
        mode: str = "linear",
        num_attempts: int = 1,
        preproc_fn: Callable[..., Any] | None = None,
        apply_before_preproc: bool = False,
        correct_fn: Callable[..., Any] | None = None,
    ) -> None:
        self.forward_func, self.attack, self.arg_name = forward_func, attack, arg_name
        self.arg_min, self.arg_max, self.arg_step = arg_min, arg_max, arg_step
        self.mode, self.num_attempts = mode, num_attempts
        self.preproc_fn, self.apply_before_preproc = preproc_fn, apply_before_preproc
        self.correct_fn: Callable[..., Any] = correct_fn or all_right
        Grid(arg_min, arg_max, arg_step), search_of(mode)  # refused here rather than when it is used

    def evaluate(
        self,
        inputs: Any,
        additional_forward_args: tuple[Any, ...] | None = None,
        target: TargetType = None,
        perturbations_per_eval: int = 1,
        attack_kwargs: dict[str, Any] | None = None,
        correct_fn_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Any, int | float | None]:
        """The perturbed inputs and the parameter; `(None, None)` where the model is right throughout."""
        judged = {} if target is None and self.correct_fn is not all_right else {"target": target}
        found = smallest(
            Trials(self.forward_func, inputs, self.preproc_fn, _as_args(additional_forward_args)),
            self.attack,
            self.arg_name,
            Grid(self.arg_min, self.arg_max, self.arg_step),
            lambda output: self.correct_fn(output, **{**judged, **(correct_fn_kwargs or {})}),
            search=self.mode,
            attempts=self.num_attempts,
            together=perturbations_per_eval,
            before=self.apply_before_preproc,
            options=attack_kwargs,
        )
        return (None, None) if found is None else (found.inputs, found.value)


class AttackComparator(Generic[MetricResultType]):
    """A metric of the model without and with attacks, batch by batch: `pellucid.robust.compare`."""

    def __init__(
        self, forward_func: Callable[..., Any], metric: Callable[..., MetricResultType], preproc_fn: Callable[..., Any] | None = None
    ) -> None:
        self.forward_func, self.preproc_fn = forward_func, preproc_fn
        self.metric: Callable[..., Any] = metric
        self.attacks: dict[str, Attack] = {}
        self.reset()

    def add_attack(
        self,
        attack: Perturbation | Callable[..., Any],
        name: str | None = None,
        num_attempts: int = 1,
        apply_before_preproc: bool = True,
        attack_kwargs: dict[str, Any] | None = None,
        additional_attack_arg_names: list[str] | None = None,
    ) -> None:
        """Another attack, by default under the name of its class; `additional_attack_arg_names` are keywords of `evaluate`."""
        name = type(attack).__name__ if name is None else name
        if name in self.attacks:
            raise OptionError(f"there is an attack called {name!r} already; give this one another name")
        self.attacks[name] = Attack(
            attack, name, num_attempts, apply_before_preproc, attack_kwargs or {}, additional_attack_arg_names or ()
        )  # fmt: skip

    def evaluate(
        self, inputs: Any, additional_forward_args: Any = None, perturbations_per_eval: int = 1, **kwargs: Any
    ) -> dict[str, MetricResultType | dict[str, MetricResultType]]:
        """The metric of a batch: `{"Original": metric, name: {"mean": ..., "min": ..., "max": ...}}`; `kwargs` go to the metric."""
        trials = Trials(self.forward_func, inputs, self.preproc_fn, _as_args(additional_forward_args))
        results = compare(trials, self.metric, list(self.attacks.values()), perturbations_per_eval, kwargs)
        self._summary.add(results)
        return results

    def summary(self) -> dict[str, dict[str, MetricResultType]]:
        """The means of all batches so far, each batch counting the same."""
        return self._summary.values()

    def reset(self) -> None:
        """Forget all batches."""
        self._summary = Summary(per_example=False, statistics=("mean",))


def _like(inputs: TensorOrTupleOfTensorsGeneric, found: tuple[Tensor, ...]) -> TensorOrTupleOfTensorsGeneric:
    return found if isinstance(inputs, tuple | list) else found[0]


def _as_args(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else () if value is None else (value,)
