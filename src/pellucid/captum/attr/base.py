"""What Captum's attribution classes share: the model, the shape of answers, warnings about results not to be trusted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from torch import Tensor

from ...batch import Run
from ...errors import warn
from ...explanation import Found
from ...inputs import Tensors, expanded
from ...trust.health import concerns
from ...view import InputView, at_input, gradients

__all__ = [
    "Attribution",
    "BaselineType",
    "GradientAttribution",
    "PerturbationAttribution",
    "TargetType",
    "TensorOrTupleOfTensorsGeneric",
    "compute_gradients",
]

TensorOrTupleOfTensorsGeneric = TypeVar("TensorOrTupleOfTensorsGeneric", Tensor, tuple[Tensor, ...])
BaselineType = Tensor | int | float | tuple[Tensor | int | float, ...] | None
TargetType = int | tuple[int, ...] | Tensor | list[tuple[int, ...]] | list[int] | None


def compute_gradients(
    forward_fn: Callable[..., Any], inputs: Any, target_ind: TargetType = None, additional_forward_args: Any = None
) -> Tensors:
    """The gradients of each example's score with respect to the inputs, one tensor for each."""
    view = at_input(forward_fn, inputs, target_ind, additional_forward_args)
    return tuple(g[0] for g in gradients(view, view.features)[1])


class Attribution:
    """A model, and a method that attributes its output."""

    attribute: Callable[..., Any]
    attribute_future: Callable[..., Any]
    _multiply_by_inputs = False

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        self.forward_func = forward_func

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether attributions hold the factor of the input, or of its distance from the baseline."""
        return self._multiply_by_inputs

    def has_convergence_delta(self) -> bool:
        """Whether the method has a law whose gap it can return."""
        return False

    compute_convergence_delta: Callable[..., Any]

    @classmethod
    def get_name(cls) -> str:
        """The class name in words: "Integrated Gradients"."""
        return "".join(c if c.islower() or i == 0 else f" {c}" for i, c in enumerate(cls.__name__))

    def _view(self, inputs: Any, target: Any, additional_forward_args: Any) -> InputView:
        return at_input(self.forward_func, inputs, target, additional_forward_args)


class GradientAttribution(Attribution):
    """A method that needs gradients; `gradient_func` may be replaced by another source of them."""

    def __init__(self, forward_func: Callable[..., Any]) -> None:
        super().__init__(forward_func)
        self.gradient_func: Callable[..., Any] = compute_gradients

    def compute_convergence_delta(
        self, attributions: Any, start_point: BaselineType, end_point: Any, target: TargetType = None, additional_forward_args: Any = None
    ) -> Tensor:
        """`(B,)`: the sum of the attributions less the change of the score from start to end point."""
        view = self._view(end_point, target, additional_forward_args)
        starts = expanded(view.features, start_point, "start_point")
        run = Run()
        here, there = run.here(view), run.here(replace(view, features=starts))
        values = tuple(a.detach()[None] for a in as_tuple(attributions))
        return Found(values, here, there).difference[0]

    def attribute_future(self) -> None:
        """Not for gradient methods, in Captum neither."""
        raise NotImplementedError(f"attribute_future is not implemented for {type(self).__name__}")

    def _view(self, inputs: Any, target: Any, additional_forward_args: Any) -> InputView:
        view = super()._view(inputs, target, additional_forward_args)
        if self.gradient_func is compute_gradients:
            return view
        own = lambda points: self.gradient_func(self.forward_func, points, target, additional_forward_args)  # noqa: E731
        return replace(view, own_gradient=own, at_once=False)  # it knows the target and arguments of one batch only


class PerturbationAttribution(Attribution):
    """A method that needs only outputs."""

    @property
    def multiplies_by_inputs(self) -> bool:
        """A difference of outputs holds the factor."""
        return True


def as_tuple(value: Any) -> Tensors:
    """A tensor or a tuple of tensors as a tuple."""
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def report(view: InputView, found: Found) -> None:
    """Doubts become warnings."""
    for check in concerns(view, found):
        warn(check.name, check.message)


def answer(inputs: Any, view: InputView, found: Found) -> Any:
    """The attributions as Captum returns them: a tensor for a tensor, a tuple for a tuple."""
    report(view, found)
    values = tuple(v[0] for v in found.values)
    return values if isinstance(inputs, tuple | list) else values[0]


def with_delta(attributions: Any, delta: Tensor | None, wanted: bool) -> Any:
    """The attributions, with the convergence delta if it was asked for."""
    return (attributions, delta) if wanted else attributions
