"""The operations that are computed on patches only, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from ..rules.spellings import words
from .kernels import KERNELS, sliding
from .partial import Norm, Op, Partial, Pass, State, Unfit
from .patches import Rect, Slide, Span, cut, everything, join, rows_of

__all__ = ["STEPS"]


def pointwise(run: Pass, op: Op) -> Any:
    """Any function of single numbers, of one map or several, with numbers or with tensors that are the same for all copies."""
    leaves, spec = pytree.tree_flatten((op.args, op.kwargs))
    states = [leaf.state for leaf in leaves if isinstance(leaf, Partial)]
    sizes = states[0].sizes
    if any(state.sizes != sizes for state in states) or not all(_is_fixed(leaf, sizes) for leaf in leaves):
        return NotImplemented
    return _applied(run, op, leaves, spec, lambda leaf, rect: _fixed_at(leaf, sizes, rect))


def by_place(run: Pass, op: Op) -> Any:
    """A function of the channels at each place, whose other tensors are parameters."""
    leaves, spec = pytree.tree_flatten((op.args, op.kwargs))
    if sum(isinstance(leaf, Partial) for leaf in leaves) > 1 or not isinstance(leaves[0], Partial):
        return NotImplemented
    return _applied(run, op, leaves, spec, lambda leaf, rect: leaf)


def _applied(run: Pass, op: Op, leaves: list[Any], spec: Any, other: Callable[[Any, Rect], Any]) -> Any:
    states = [leaf.state for leaf in leaves if isinstance(leaf, Partial)]
    if op.changed is not None and op.changed is not leaves[0]:
        return NotImplemented
    rect, whole = _common(run, states)

    def of(values: list[Any]) -> Any:
        args, kwargs = pytree.tree_unflatten(values, spec)
        return op.func(*args, **kwargs)

    patches = [leaf.state.at(rect) if isinstance(leaf, Partial) else other(leaf, rect) for leaf in leaves]
    found = _in_place(run, op, states, patches) if op.changed is None else None
    found = of(patches) if found is None else found
    if op.changed is None and found is patches[0] and len(states) == 1 and states[0].patch is found:  # `x.float()` of floats is x
        return leaves[0]
    base = of(_bases(op, leaves)) if run.first and not whole else None
    return run.result(op, states, base, found, rect, states[0].sizes, whole)


def _common(run: Pass, states: Sequence[State]) -> tuple[Rect, bool]:
    """The rectangles that hold those of all, and whether they are the whole maps."""
    for state in states if len(states) > 1 else ():
        state.keep()
    whole = any(state.whole for state in states)
    return everything(run.count, states[0].sizes) if whole else join([s.rect for s in states], states[0].sizes), whole


def _bases(op: Op, leaves: list[Any]) -> list[Any]:
    bases: list[Any] = [leaf.state.base if isinstance(leaf, Partial) else leaf for leaf in leaves]
    return bases if op.changed is None else [torch.clone(bases[0]), *bases[1:]]


def _in_place(run: Pass, op: Op, states: list[State], patches: list[Any]) -> Tensor | None:
    """The two commonest functions in memory that nobody will read again: it saves them a third of their time."""
    if op.name == "relu" and not run.first and states[0].step.uses == 1:
        states[0].patch = None
        return torch.relu_(patches[0])
    if (
        op.name == "add"
        and len(states) == len(patches) == 2
        and patches[0].dtype == patches[1].dtype
        and patches[0].shape == patches[1].shape
    ):
        for i in (0, 1):
            if patches[i] is not states[i].patch:
                added: Tensor = patches[i].add_(patches[1 - i])
                return added
    return None


def _is_fixed(leaf: Any, sizes: tuple[int, int]) -> bool:
    """Whether an argument is a `Partial`, no tensor, or a tensor that is the same for all copies and no larger than they are."""
    if not isinstance(leaf, Tensor) or isinstance(leaf, Partial) or leaf.numel() == 1:
        return True
    shape = (*(1,) * (4 - leaf.dim()), *leaf.shape)
    return len(shape) == 4 and shape[0] == 1 and all(n in (1, m) for n, m in zip(shape[2:], sizes, strict=True))


def _fixed_at(leaf: Any, sizes: tuple[int, int], rect: Rect) -> Any:
    if not isinstance(leaf, Tensor) or leaf.dim() == 0 or leaf.shape[-2:].numel() == 1:
        return leaf
    channels = leaf.shape[-3] if leaf.dim() > 2 else 1
    return cut(rows_of(leaf.expand(1, channels, *sizes)), sizes, rect)


def batch_norm(run: Pass, op: Op) -> Any:
    """Batch-norm in eval mode; it may have been done with the convolution before it."""
    training = op.args[5] if len(op.args) > 5 else op.kwargs.get("training", False)
    source = op.args[0] if op.args else op.kwargs["input"]
    norm = _norm(*op.args, **op.kwargs) if op.func is F.batch_norm else None
    if training or (op.func is F.batch_norm and norm is None):
        raise Unfit("batch-norm by the batch's own statistics")
    if not isinstance(source, Partial):
        return NotImplemented
    state = source.state
    if state.normed is not None and state.normed.is_same(norm):
        state.normed = None
        patch, state.patch = state.patch, None
        return run.result(op, (state,), None, patch, state.rect, state.sizes, state.whole)
    if run.first and state.step.name == "conv2d":
        state.step.norm = norm
    return by_place(run, op)


def _norm(input: Tensor, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None, training: bool = False,
          momentum: float = 0.1, eps: float = 1e-5) -> Norm | None:  # fmt: skip
    """Named as `F.batch_norm` names them."""
    return None if training or running_mean is None or running_var is None else Norm(running_mean, running_var, weight, bias, eps)


def dropout(run: Pass, op: Op) -> Any:
    """Nothing, outside training."""
    training = op.args[2] if len(op.args) > 2 else op.kwargs.get("training", op.kwargs.get("train", True))
    if training:
        raise Unfit("dropout in training mode")
    return op.args[0] if op.args else op.kwargs["input"]


def softmax(run: Pass, op: Op) -> Any:
    """Over the channels of each place."""
    dim = op.args[1] if len(op.args) > 1 else op.kwargs.get("dim")
    return by_place(run, op) if dim in (1, -3) else NotImplemented


def where(run: Pass, op: Op) -> Any:
    """A choice for each number."""
    return pointwise(run, op) if len(op.args) == 3 else NotImplemented


def shaped(run: Pass, op: Op) -> Any:
    """New tensors, and others, of the copies' shape, dtype or device; their values are not asked for."""
    if (op.name in OTHERS) is (len(op.args) > 0 and isinstance(op.args[0], Partial)):
        return pointwise(run, op) if op.name in POINTWISE else NotImplemented
    args, kwargs = pytree.tree_map_only(
        Partial, lambda x: torch.zeros((), dtype=x.dtype, device=x.device).expand(x.shape), (op.args, op.kwargs)
    )
    return op.func(*args, **kwargs)


def contiguous(run: Pass, op: Op) -> Any:
    """The maps themselves, however they lie in memory."""
    return op.args[0] if len(op.args) == 1 and not op.kwargs else NotImplemented


def detach(run: Pass, op: Op) -> Any:
    """Another tensor with the same values: what is done to one in place is done to both."""
    return Partial(run, op.args[0].state) if op.changed is None else NotImplemented


def concatenation(run: Pass, op: Op) -> Any:
    """Of maps, by channels."""
    tensors = op.args[0] if op.args else op.kwargs["tensors"]
    dim = op.args[1] if len(op.args) > 1 else op.kwargs.get("dim", op.kwargs.get("axis", 0))
    if dim not in (1, -3) or not all(isinstance(t, Partial) for t in tensors):
        return NotImplemented
    states = [t.state for t in tensors]
    if any(state.sizes != states[0].sizes for state in states):
        return NotImplemented
    rect, whole = _common(run, states)
    base = None if whole or not run.first else torch.cat([state.base for state in states], 1)
    return run.result(op, states, base, torch.cat([state.at(rect) for state in states], 1), rect, states[0].sizes, whole)


def pad(run: Pass, op: Op) -> Any:
    """A constant around the maps."""
    return _padded(run, op, *op.args, **op.kwargs)


def _padded(run: Pass, op: Op, input: Any, pad: Sequence[int], mode: str | float = "constant", value: float | None = None) -> Any:
    if not isinstance(input, Partial) or (isinstance(mode, str) and mode != "constant") or len(pad) > 4 or min(pad, default=0) < 0:
        return NotImplemented
    state, (left, right, top, bottom) = input.state, (*pad, *(0,) * (4 - len(pad)))
    sizes = (state.sizes[0] + top + bottom, state.sizes[1] + left + right)

    def of(one: Tensor) -> Any:
        return op.func(one, pad, mode, value) if isinstance(mode, str) else op.func(one, pad, mode)

    if state.whole:
        made = run.result(op, (state,), None, of(state.own), everything(run.count, sizes), sizes, True)
    else:
        ys, xs = (Span(span.start + by, span.length) for span, by in zip(state.rect, (top, left), strict=True))
        base = None if state.base is None else of(state.base)
        made = run.result(op, (state,), base, state.own.clone(), (ys, xs), sizes, False)
    made.state.step.slides = Slide(1, 1, top, 1), Slide(1, 1, left, 1)
    return made


POINTWISE = words(
    """relu relu6 leaky_relu elu selu celu gelu silu mish hardswish hardsigmoid hardtanh sigmoid tanh softplus softsign
    tanhshrink softshrink hardshrink threshold logsigmoid exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square abs neg positive sign pow
    rpow clamp add sub mul div rsub rdiv maximum minimum reciprocal erf erfc sin cos tan asin acos atan sinh cosh atan2 floor ceil
    round trunc frac remainder fmod eq ne lt gt le ge logical_and logical_or logical_not isnan isinf isfinite masked_fill nan_to_num
    addcmul addcdiv lerp clone to type type_as float double half bfloat16 bool"""
)
OTHERS = frozenset(words("to type_as expand_as view_as reshape_as"))
STEPS: Mapping[str, Callable[[Pass, Op], Any]] = {
    **dict.fromkeys(POINTWISE, pointwise),
    **dict.fromkeys(KERNELS, sliding),
    **dict.fromkeys(words("dropout dropout2d feature_dropout alpha_dropout feature_alpha_dropout"), dropout),
    **dict.fromkeys(words("softmax log_softmax"), softmax),
    **dict.fromkeys(words("pad constant_pad_nd"), pad),
    **dict.fromkeys(words("zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty"), shaped),
    **dict.fromkeys(OTHERS, shaped),
    "prelu": by_place,
    "batch_norm": batch_norm,
    "where": where,
    "contiguous": contiguous,
    "detach": detach,
    "cat": concatenation,
}
