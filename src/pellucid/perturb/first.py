"""Features replaced one at a time where the model begins with a linear layer: its result changes by one column of the weights.

A `TorchFunctionMode` answers the first `F.linear` of the points without their being made. What the model is given holds NaN
everywhere, so that whatever reads it unseen shows in the scores; and one point of each example is compared with a full pass.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ..batch import Part, Run
from ..errors import PellucidError
from ..inputs import Tensors
from ..lean import HARMLESS, can_be_lean
from ..line import NotLean, tensors_in
from ..memory import is_out
from ..model import undisturbed
from ..view import InputView, View

__all__ = ["one_at_a_time"]

LEAST = 512  # features, from which it pays
KEEPING = {Tensor.clone, Tensor.contiguous, Tensor.flatten, torch.flatten, Tensor.view, Tensor.reshape, torch.reshape}


def one_at_a_time(view: View, fill: Tensors, run: Run, label: str) -> Tensor | None:
    """The scores `(T, features, B)` with each feature replaced; None where that is not so easy, as where examples see each other."""
    feature = view.features[0]
    count = feature[0].numel()
    if not isinstance(view, InputView) or not view.at_once or len(view.features) > 1 or count < LEAST or run.at_most is not None:
        return None
    if not can_be_lean(view.roots, view.features):
        return None
    change = (fill[0] - feature).flatten(1)
    standing = feature.new_full((1,) * feature.dim(), torch.nan)
    found: list[Tensor] = []

    def numbers(examples: slice, steps: slice) -> Tensors:
        return (torch.arange(steps.start, steps.stop)[:, None].expand(-1, len(feature[examples])),)

    def verb(block: View, at: Tensors, examples: slice, steps: slice) -> tuple[Tensor, Tensors]:
        run.count(at)
        stand_in = standing.expand(len(at[0]), *feature.shape[1:])
        with torch.no_grad(), _Unread(stand_in), _First(stand_in, feature[examples].flatten(1), change[examples], steps):
            return block.score((stand_in,)), ()

    def keep(part: Part) -> None:
        if not found:
            found.append(part.scores.new_empty(len(part.scores), count, view.size))
        found[0][:, part.steps, part.examples] = part.scores

    try:
        run.each(view, count, numbers, verb, keep, label)
    except NotLean:
        return None
    except Exception as error:
        if is_out(error) or isinstance(error, PellucidError):
            raise
        return None  # the model does with its input what a stand-in cannot stand
    return found[0] if _right(view, fill[0], change, found[0], run) else None


def _right(view: View, fill: Tensor, change: Tensor, found: Tensor, run: Run) -> bool:
    """Whether all scores are finite, and of each example the one with the largest change is what a full pass gives."""
    if not found.isfinite().all():
        return False
    numbers = change.abs().argmax(1)
    kept = (torch.arange(change.shape[1], device=fill.device) != numbers[:, None]).view(fill.shape)
    with undisturbed(view.roots):
        full = run.score(view, (torch.where(kept, view.features[0], fill),))[0]
    own = found.gather(1, numbers.expand(len(found), 1, -1))[:, 0]
    rounding = torch.finfo(found.dtype).eps ** 0.5 * 0.3
    return bool(torch.isclose(own, full, rtol=rounding, atol=rounding * float(found.abs().max())).all())


class _Unread(TorchDispatchMode):
    """Ends the pass where the stand-in is read: below functions, so that what runs in a script is seen too."""

    def __init__(self, stand_in: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._own = {stand_in.untyped_storage().data_ptr()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if any(t.untyped_storage().data_ptr() in self._own for t in tensors_in((*args, *(kwargs or {}).values())) if t.numel()):
            if func.overloadpacket.__name__ not in MOVED:
                raise NotLean
            self._own |= {t.untyped_storage().data_ptr() for t in tensors_in([found])}
        return found


# What a stand-in may go through on the way to its linear layer.
MOVED = {
    "view",
    "_unsafe_view",
    "expand",
    "alias",
    "detach",
    "clone",
    "_reshape_alias",
    "_reshape_copy",
    "unsqueeze",
    "squeeze",
    "_to_copy",
}


class _First(TorchFunctionMode):
    """One pass: the first linear layers of the stand-in, told what its points change."""

    def __init__(self, stand_in: Tensor, features: Tensor, change: Tensor, steps: slice) -> None:
        super().__init__()
        self._aliases = {id(stand_in): stand_in}
        self._features, self._change, self._steps = features, change, steps

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in HARMLESS or not any(id(t) in self._aliases for t in tensors_in((*args, *kwargs.values()))):
            return func(*args, **kwargs)
        if func is F.linear and args and self._is_row(args[0]):
            return self._linear(*args, **kwargs)
        if func in KEEPING and args and id(args[0]) in self._aliases:
            found = args[0] if func is Tensor.clone else func(*args, **kwargs)
            self._aliases[id(found)] = found
            return found
        raise NotLean

    def _is_row(self, tensor: Tensor) -> bool:
        """Whether it holds a point in each row."""
        own = self._aliases.get(id(tensor))
        rows = len(self._features) * (self._steps.stop - self._steps.start)
        return own is not None and tuple(own.shape) == (rows, self._features.shape[1])

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if weight.dim() != 2:
            raise NotLean
        columns = weight[:, self._steps].T.contiguous()
        before = F.linear(self._features, weight, bias)
        changed = self._change[:, self._steps].T[:, :, None]
        return torch.addcmul(before[None], changed, columns[:, None]).flatten(0, 1)
