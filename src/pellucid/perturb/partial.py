"""Maps that are known in part: one map, and many copies of it that differ from it in a rectangle each.

A `Partial` goes through the model's own code as if it were the copies, `(N, C, H, W)`. Operations that have a step are
computed on the rectangles only. Any other operation gets the copies themselves, and from there on the tensors are plain.
A first pass, with a few copies, also runs the one map and keeps what later passes read of it (`Step`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ..rules.spellings import changed_by, spelled, words
from .patches import Rect, Slide, Span, cut, everything, lay, rows_of, same

__all__ = ["Macs", "Norm", "Op", "Partial", "Pass", "State", "Step", "Unfit"]


class Unfit(Exception):
    """The model cannot be followed; the dense way is the way."""


@dataclass(frozen=True, eq=False)
class Norm:
    """The arguments of a batch-norm in eval mode."""

    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float

    def is_same(self, other: Norm | None) -> bool:
        """Whether the other has the very same arguments."""
        return other is not None and all(getattr(self, f.name) is getattr(other, f.name) or f.name == "eps" for f in fields(self))


@dataclass(eq=False)
class Step:
    """What the first pass keeps of an operation's result.

    Attributes:
        shape: of the map, `(1, C, H, W)`.
        reads: the results that it was made of.
        slides: how a kernel slid over them, along each axis.
        macs: multiply-adds for each place.
        uses: how many operations read it.
        rows: the one map by places (`rows_of`), if one of them may read beyond the rectangles.
        norm: the batch-norm that reads it.
        whole: whether the first pass knew the copies only as a whole, and so nothing of the one map.
        weights: what a convolution was last asked to use, and what it used for it.
    """

    name: str
    shape: torch.Size
    reads: tuple[Step, ...] = ()
    slides: tuple[Slide, Slide] | None = None
    macs: int = 0
    whole: bool = False
    uses: int = 0
    rows: Tensor | None = None
    norm: Norm | None = None
    weights: tuple[Tensor, Norm | None, Tensor, Tensor | None] | None = None

    @property
    def sizes(self) -> tuple[int, int]:
        return self.shape[2], self.shape[3]


@dataclass(eq=False)
class State:
    """What a `Partial` holds: patches `(N, C, h, w)` at `rect`, or, once something else wanted them, the copies themselves.

    `whole`: the patches are the whole copies. `base` is the one map, in the first pass. `normed`: a batch-norm that was
    done with the convolution, and that the model has not asked for yet.
    """

    step: Step
    patch: Tensor | None
    rect: Rect
    whole: bool = False
    base: Tensor | None = None
    normed: Norm | None = None
    dense: Tensor | None = None

    @property
    def sizes(self) -> tuple[int, int]:
        return self.step.sizes

    @property
    def own(self) -> Tensor:
        """The patches themselves."""
        if self.patch is None or self.normed is not None:
            raise Unfit(f"{self.step.name} is read once more than in the first pass")
        return self.patch

    def keep(self) -> None:
        """Later passes, too, may read places around the patches."""
        if self.base is not None and self.step.rows is None:
            self.step.rows = rows_of(self.base)

    def at(self, rect: Rect, outside: float = 0.0) -> Tensor:
        """The copies in other rectangles: the patches, if these are theirs, or a new tensor."""
        own = self.own
        if same(self.rect, rect):
            return own
        if self.step.rows is None:
            raise Unfit(f"{self.step.name} was not kept")
        found = cut(self.step.rows, self.sizes, rect, outside)
        lay(own, self.rect, found, rect)
        return found

    def all(self) -> Tensor:
        """The whole copies, which the state then holds."""
        if not self.whole:
            rect = everything(len(self.own), self.sizes)
            self.patch, self.rect, self.whole = self.at(rect), rect, True
        return self.own

    def let_go(self) -> Tensor:
        """The whole copies as a plain tensor, which from now on is what the state stands for."""
        if self.dense is None:
            self.keep()
            self.dense = self.all().contiguous()
            self.patch = self.base = None
        return self.dense

    def become(self, other: State) -> None:
        """What in-place work does."""
        for each in fields(self):
            setattr(self, each.name, getattr(other, each.name))


def _lengths(rect: Rect) -> tuple[int, int]:
    return rect[0].length, rect[1].length


class Macs(TorchDispatchMode):
    """Counts the multiply-adds of convolutions and matrix products, the numbers of those matrices, and the bytes of the largest tensor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count, self.weights, self.largest, self.resting = 0, 0, 0, True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if not self.resting:
            name = func.__name__.split(".")[0]
            if name in MACS:
                self.count += MACS[name](found, *args)
                self.weights += args[2 if "add" in name else 1].numel()
            if isinstance(found, Tensor) and not any(isinstance(a, Tensor) and _share(a, found) for a in args):
                self.largest = max(self.largest, found.numel() * found.element_size())
        return found


def _share(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


MACS: Mapping[str, Callable[..., int]] = {
    "convolution": lambda out, x, weight, *rest: (x if rest[4] else out).numel() * weight[0].numel(),
    "mm": lambda out, a, b: a.numel() * b.shape[-1],
    "bmm": lambda out, a, b: a.numel() * b.shape[-1],
    "addmm": lambda out, bias, a, b: a.numel() * b.shape[-1],
    "baddbmm": lambda out, bias, a, b: a.numel() * b.shape[-1],
}


class Op(NamedTuple):
    """One operation that the model asks for."""

    name: str
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    changed: Tensor | None


@dataclass(eq=False)
class Pass:
    """One pass of `count` copies through the model.

    Attributes:
        table: the steps by name; `NotImplemented` from a step: not in this case.
        steps: what the first pass kept, or keeps.
        macs: counts, in the first pass, what plain tensors cost.
    """

    table: Mapping[str, Callable[[Pass, Op], Any]]
    count: int
    steps: list[Step] = field(default_factory=list)
    first: bool = True
    macs: Macs = field(default_factory=Macs)
    _next: int = 0

    def begin(self, base: Tensor, fill: Tensor, starts: Tensor, window: tuple[int, int]) -> Partial:
        """Copies of an image `(1, C, H, W)` with a window of `fill` in each, the windows as far as they lie inside."""
        sizes = (base.shape[2], base.shape[3])
        lengths = tuple(min(a, b) for a, b in zip(window, sizes, strict=True))
        ys, xs = (Span(starts[:, i].clamp(max=sizes[i] - lengths[i]), lengths[i]) for i in (0, 1))
        step = self.step("input", base.shape)
        step.rows = rows_of(base) if step.rows is None else step.rows
        filled, old = cut(rows_of(fill), sizes, (ys, xs)), cut(step.rows, sizes, (ys, xs))
        inside = (ys.places() >= starts[:, :1])[:, None, :, None] & (xs.places() >= starts[:, 1:])[:, None, None, :]
        patch = torch.where(inside.to(base.device), filled, old)
        self.macs.resting = False
        return Partial(self, State(step, patch, (ys, xs), base=base if self.first else None))

    @property
    def upcoming(self) -> Step | None:
        """What the first pass knows of the step that is made next."""
        if self.first:
            return None
        if self._next == len(self.steps):
            raise Unfit("the model does more than in the first pass")
        return self.steps[self._next]

    def step(self, name: str, shape: torch.Size, reads: tuple[Step, ...] = ()) -> Step:
        """The next step."""
        known = self.upcoming
        self._next += 1
        if known is None:
            self.steps.append(Step(name, shape, reads))
            return self.steps[-1]
        if (known.name, known.shape, known.reads) != (name, shape, reads):
            raise Unfit(f"{name} {tuple(shape)} where the first pass had {known.name} {tuple(known.shape)}")
        return known

    def result(
        self, op: Op, sources: Sequence[State], base: Tensor | None, patch: Any, rect: Rect, sizes: tuple[int, int], whole: bool
    ) -> Partial:
        """What an operation made of the sources, as a `Partial`; that which it worked on, if it worked in place."""
        if not isinstance(patch, Tensor) or patch.is_complex() or patch.shape != (self.count, *patch.shape[1:2], *_lengths(rect)):
            raise Unfit(f"{op.name} gave something else than patches")
        step = self.step(op.name, torch.Size((1, patch.shape[1], *sizes)), tuple(source.step for source in sources))
        if base is not None and base.shape != step.shape:
            raise Unfit(f"{op.name} gave {tuple(base.shape)} rather than {tuple(step.shape)}")
        if self.first:
            step.whole = whole
        state = State(step, patch, rect, whole, base)
        if isinstance(op.changed, Partial):
            op.changed.state.become(state)
            return op.changed
        return Partial(self, state)

    def run(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One operation: by its step, or on plain tensors."""
        spelling = spelled(func)
        if spelling.name in READS or (spelling.name == "get" and getattr(getattr(func, "__self__", None), "__name__", "") in PROPERTIES):
            return func(*args, **kwargs)
        op = Op(spelling.name, func, args, kwargs, changed_by(spelling, args, kwargs))
        states = [leaf.state for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Partial)]
        if self.first:
            for state in states:
                state.step.uses += 1
        step = self.table.get(op.name)
        if step is not None and kwargs.get("out") is None and all(state.dense is None for state in states):
            self.macs.resting = True
            found = step(self, op)
            self.macs.resting = False
            if found is not NotImplemented:
                return found
        return func(*self.plain(args), **self.plain(kwargs))

    def plain(self, values: Any) -> Any:
        """The values with plain tensors."""
        return pytree.tree_map_only(Partial, lambda partial: partial.state.let_go(), values)


class Partial(Tensor):
    """Looks like the copies, and has no values of its own: whatever wants some asks the pass."""

    state: State
    follower: Pass

    @staticmethod
    def __new__(cls, follower: Pass, state: State) -> Partial:
        assert state.patch is not None
        shape = (follower.count, *state.step.shape[1:])
        made: Partial = Tensor._make_wrapper_subclass(cls, shape, dtype=state.patch.dtype, device=state.patch.device)
        made.state, made.follower = state, follower
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            follower = next(leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Partial)).follower
            return follower.run(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise Unfit(f"{func} asks for values without having asked the pass")


# What is true of the copies whatever their values.
READS = frozenset(words("size dim numel nelement ndimension stride is_floating_point is_complex is_contiguous element_size len get_device"))
PROPERTIES = frozenset(
    words("shape dtype device ndim layout requires_grad is_cuda is_sparse is_mkldnn is_quantized is_meta is_leaf grad grad_fn")
)
