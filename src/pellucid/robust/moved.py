"""Attributions before and after an attack: what was changed, what the model then says, and how far its reasons moved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InputError, OptionError
from ..explain import explain
from ..explanation import Explanation
from ..inputs import Tensors, as_tensors, joined
from ..metrics import agreement
from ..picks import PerExample, Pick
from ..seeds import resolve_seed
from ..target import resolve
from .trials import copied

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Moved", "attributions_moved"]


@dataclass(frozen=True, eq=False)
class Moved:
    """What an attack did to the attributions of B examples; `draw` shows one of them, `print` all.

    Attributes:
        before, after: the explanations of the inputs and of what the attack made of them.
        inputs, attacked: per input of the model `(B, ...)`.
        picks: what is explained before and after.
        k: how many are the most important, for `top_overlap`; never more than there are.
    """

    before: Explanation
    after: Explanation
    inputs: Tensors
    attacked: Tensors
    picks: tuple[Pick, Pick]
    k: int

    def __len__(self) -> int:
        return len(self.before)

    @cached_property
    def change(self) -> Tensors:
        """What the attack added, per input `(B, ...)`."""
        return tuple(_real(after) - _real(before) for before, after in zip(self.inputs, self.attacked, strict=True))

    @cached_property
    def largest(self) -> Tensor:
        """`(B,)`: the largest change of a value, the L-inf norm over all inputs."""
        return joined(self.change, 1).abs().amax(1)

    @cached_property
    def length(self) -> Tensor:
        """`(B,)`: the L2 norm of the change, over all inputs."""
        lengths: Tensor = joined(self.change, 1).norm(dim=1)
        return lengths

    @cached_property
    def flipped(self) -> Tensor | None:
        """bool `(B,)`: whether the predicted class is another; None of a model without classes."""
        one, other = self.before.predictions, self.after.predictions
        return None if one is None or other is None else one != other

    @cached_property
    def rank_correlation(self) -> Tensor:
        """`(B,)` float64: Spearman's, of the attributions of what a person sees (pixels, words); NaN where one side is constant.

        Source: Ghorbani, Abid and Zou 2019 (Interpretation of neural networks is fragile), section 2.
        """
        return self._agreement("rank_correlation")

    @cached_property
    def top_overlap(self) -> Tensor:
        """`(B,)` float64: the share of the k strongest that are so before and after.

        Source: Ghorbani, Abid and Zou 2019, section 2 (top-k intersection).
        """
        return self._agreement("top_overlap")

    def _agreement(self, by: str) -> Tensor:
        both = [seen(each) for each in (self.before, self.after)]
        known = torch.stack([joined(each, 1).isfinite().all(1) for each in both]).all(0)
        finite = [tuple(part.nan_to_num(0.0, 0.0, 0.0) for part in each) for each in both]
        return torch.where(known, agreement(finite, by, self.k)[:, 0, 1], torch.nan)

    def explained(self, example: int) -> tuple[str, str]:
        """What is explained of an example, before and after, in words."""
        classes = self.before.display.classes
        own = [pick.at([example]) for pick in self.picks]
        known = [resolve(pick.indices[0], 1, classes) if isinstance(pick, PerExample) else pick for pick in own]
        return str(known[0]), str(known[1])

    def draw(self, example: int = 0, **options: Any) -> Figure:
        """Before, what was added (amplified), after, and the attributions of both on one scale.

        Of images as pictures; of anything else as two bars for each of the strongest features or words.

        Args:
            example: which.
            options: `width` in inches; of images `outliers`, of others `top`, how many bars (see `Explanation.draw`).

        Raises:
            InputError: no such example. OptionError: an option that there is not.
        """
        from .side_by_side import draw_moved

        return draw_moved(self, example, options)

    def __repr__(self) -> str:
        from .printed import said

        return f"Moved({said(self)})"

    def __rich__(self) -> Any:
        from .printed import moved

        return moved(self)


def _real(values: Tensor) -> Tensor:
    # Differences of bytes are no bytes.
    return values if values.is_floating_point() else values.float()


def seen(explanation: Explanation) -> Tensors:
    """Attributions of what a person sees: the colours of a pixel and the embedding of a word pooled, `(B, ...)` each."""
    kind, pool = explanation.display.kind, _POOLED[explanation.display.pooling]
    return tuple(pool(a, dims) if (dims := _pooled(kind, a)) else a for a in explanation.attributions)


def _pooled(kind: str, values: Tensor) -> tuple[int, ...]:
    """The dimensions that a person does not see."""
    if kind == "text":
        return tuple(range(2, values.dim()))
    return (1,) if kind == "image" and values.dim() == 4 else ()


_POOLED: Mapping[str, Callable[[Tensor, tuple[int, ...]], Tensor]] = {
    "sum": lambda values, dims: values.sum(dims),
    "mean": lambda values, dims: values.mean(dims),
    "norm": lambda values, dims: torch.linalg.vector_norm(values, dim=dims),
}


def attributions_moved(
    model: Callable[..., Any],
    inputs: Tensor | Sequence[Tensor],
    target: Any,
    attacked: Any,
    method: str = "integrated_gradients",
    *,
    after: Any = None,
    k: int = 10,
    seed: int | None = None,
    **options: Any,
) -> Moved:
    """Explain inputs before and after an attack, and compare.

    The same output is explained both times, with the same seed, so that nothing but the attack moves the attributions.
    How much is much? Compare with a random change as large: `attacked=x + epsilon * torch.randn_like(x).sign()`.
    Source: Ghorbani, Abid and Zou 2019 (Interpretation of neural networks is fragile).

    Args:
        model: a module or any callable of tensors.
        inputs: `(B, ...)` or a tuple of such.
        target: which output is explained, see `pellucid.explain`; None: the class predicted before, where there are classes.
        attacked: the inputs after the attack, of the same shapes; or a function that makes them of the inputs.
        method: how to explain, see `pellucid.explain`.
        after: another target for the attacked inputs (the class that the model then says, for one); None: the same.
        k: how many are the most important, for the overlap.
        seed: of a random method; None: follows from torch's random state, which is not moved.
        options: what `explain` takes besides.

    Raises:
        InputError: attacked inputs of other shapes. OptionError: k below 1. What `explain` raises.

    >>> net, x = torch.nn.Linear(6, 3), torch.randn(4, 6)
    >>> found = attributions_moved(net, x, 1, lambda x: x + 0.1, "input_x_gradient")
    >>> found.before.attribution.shape, bool((found.largest < 0.11).all()), found.rank_correlation.shape
    (torch.Size([4, 6]), True, torch.Size([4]))
    """
    if k < 1:
        raise OptionError(f"k is {k}; at least one attribution must be the most important")
    own = as_tensors(inputs)
    other = _attacked(attacked, inputs, own)
    options["seed"] = resolve_seed(seed)
    before = explain(model, inputs, target, method, **options)
    target = before.predictions if target is None and before.predictions is not None else target
    after = target if after is None else after
    found = explain(model, other if isinstance(inputs, tuple | list) else other[0], after, method, **options)
    picks = [resolve(each, len(own[0]), before.display.classes) for each in (target, after)]
    return Moved(before, found, own, other, (picks[0], picks[1]), min(k, sum(part[0].numel() for part in seen(before))))


def _attacked(given: Any, inputs: Any, own: Tensors) -> Tensors:
    made = given(copied(inputs)) if callable(given) else given
    other = as_tensors(made, "attacked")
    if [o.shape for o in other] != [x.shape for x in own]:
        raise InputError(
            f"attacked has the shapes {[tuple(o.shape) for o in other]}, and the inputs {[tuple(x.shape) for x in own]}; an attack "
            "changes values, not shapes"
        )
    return tuple(o.to(x) for o, x in zip(other, own, strict=True))
