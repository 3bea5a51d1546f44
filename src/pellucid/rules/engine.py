"""Another backward for any operation of any PyTorch code, however it is spelled.

A `Ruled` context watches every torch operation that runs inside it. An operation with a rule keeps its value and gets
the rule as its backward; the others keep autograd's. Modules may be shared, reused, subclassed or absent: only
operations count. Nothing is attached to the model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from ..errors import InputError, OptionError
from .operation import Kept, Op, Rule, Ruling, Tape
from .spellings import changed_by, reads, spelled

__all__ = ["OtherWay", "Ruled"]


class OtherWay(InputError):
    """The model runs other operations at the reference than at the input."""


class _Backward(torch.autograd.Function):
    """Gives outputs that exist already a rule as their backward."""

    @staticmethod
    def forward(ctx: Any, rule: Rule, op: Op, results: list[Tensor] | None, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.rule, ctx.op = rule, op
        if results is None:  # the first input was changed in place
            ctx.mark_dirty(inputs[0])
            return (inputs[0],)
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        found = ctx.rule(ctx.op, *grads)
        return None, None, None, *(g if active else None for g, active in zip(found, ctx.op.active, strict=True))


class _Cut(torch.autograd.Function):
    """Makes results active without what they came from, whose memory can then go."""

    @staticmethod
    def forward(ctx: Any, results: list[Tensor], token: Tensor) -> tuple[Tensor, ...]:
        return tuple(results)


class Ruled(TorchFunctionMode):
    """While it lasts, operations get backward rules.

    Args:
        reference: the tape of an earlier run at the reference; each rule then also sees its operation as it ran there.
        taping: make such a tape instead: `tape` holds the operations that have rules.
        rows: how many rows run here, and how many ran at the reference; each of those stands for a run of rows here.
    """

    def __init__(self, ruling: Ruling, reference: Tape | None = None, taping: bool = False, rows: tuple[int, int] = (1, 1)) -> None:
        super().__init__()
        self.ruling, self.taping, self.rows = ruling, taping, rows
        self.tape: Tape = []
        self.resting = 0
        self.sources: tuple[Tensor, ...] = ()
        self.unseen: set[str] = set()
        self.met: dict[str, str] = {}
        self._reference = None if reference is None else iter(reference)
        self._rewriting: list[str] = []
        self._kept: dict[int, list[Kept]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Ruled:
        if not self._rewriting and "torch._dynamo" in sys.modules:  # a graph that was compiled before cannot be watched
            self._stack.enter_context(torch.compiler.set_stance("force_eager"))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        if not self._rewriting:
            self._stack.close()

    def finished(self) -> None:
        """Refuse a run that was shorter than that at the reference."""
        if self._reference is not None and (left := next(self._reference, None)) is not None:
            raise OtherWay(_other_way("nothing more", f"{left.name!r} with shape {tuple(left.output.shape)}"))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        spelling = spelled(func)
        if any(map(self._foreign, args)) and not reads(func):
            args, kwargs = pytree.tree_map(lambda leaf: leaf.detach() if self._foreign(leaf) else leaf, (args, kwargs))
        changed = changed_by(spelling, args, kwargs)
        if changed is not None:
            self._save(changed)
        name, ruling = spelling.name, self.ruling
        if name in ("grad", "backward") and not self.resting:
            raise OptionError(
                f"the model calls torch's {name!r} itself, and a gradient of a gradient has no rule; explain a part without it, or use a "
                "method without rules, such as integrated_gradients"
            )
        if self.resting or name in ruling.plain or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        leaves, spec = pytree.tree_flatten((args, kwargs))
        places = [i for i, leaf in enumerate(leaves) if _is_float(leaf)]
        for i in places:
            if self._foreign(leaves[i]):
                leaves[i] = leaves[i].detach()
        active = sum(leaves[i].requires_grad for i in places)
        if any(isinstance(leaf, Tensor) and leaf.is_complex() and leaf.requires_grad for leaf in leaves):
            self.unseen.add(f"complex {name!r}")
        if not active:
            _refuse_vmap(name, leaves)
            return func(*args, **kwargs)
        if name in ruling.rewrites and name not in self._rewriting:
            result = self._rewritten(name, args, kwargs, changed)
            if result is not NotImplemented:
                return result
        rule = ruling.of(name, active, sum(isinstance(leaf, Tensor) and not isinstance(leaf, nn.Parameter) for leaf in leaves) > 1)
        return func(*args, **kwargs) if rule is None else self._ruled(name, rule, func, leaves, spec, places, changed)

    def _foreign(self, value: Any) -> bool:
        """Parameters that nobody froze, and other sources of gradients than ours: they do not depend on the features."""
        if not isinstance(value, Tensor) or not value.requires_grad or not value.is_leaf:
            return False
        return isinstance(value, nn.Parameter) or (bool(self.sources) and not any(value is source for source in self.sources))

    def _rewritten(self, name: str, args: Any, kwargs: Any, changed: Tensor | None) -> Any:
        self._rewriting.append(name)  # a rewrite may use the operation that it rewrites
        kwargs = {key: value for key, value in kwargs.items() if key not in ("inplace", "out")}
        try:
            with self:
                result = self.ruling.rewrites[name](*args, **kwargs)
        finally:
            self._rewriting.pop()
        if result is NotImplemented or changed is None:
            return result
        self._save(changed)  # the rewrite's own operations hold it too
        return changed.copy_(result)

    def _ruled(self, name: str, rule: Rule, func: Any, leaves: list[Any], spec: Any, places: list[int], changed: Tensor | None) -> Any:
        inputs = [leaves[i] for i in places]
        active = tuple(t.requires_grad for t in inputs)
        original = list(leaves)
        parents = tuple(t.grad_fn if a else None for t, a in zip(inputs, active, strict=True))
        for i in places:  # an operation that held what comes out of it would never be freed
            leaves[i] = None
        args, kwargs = pytree.tree_unflatten(leaves, spec)
        kwargs.pop("out", None)
        run_all = _function(func, leaves, spec, places, changed is not None)
        with_graph = name in self.ruling.graph and not self.taping
        in_place = changed is inputs[0] and not with_graph and not self.taping
        unread = in_place and name in self.ruling.by_output
        held = [t.detach() if changed is None or unread else t.detach().clone() for t in inputs]
        own = tuple(h.detach().requires_grad_(a) for h, a in zip(held, active, strict=True))
        with torch.set_grad_enabled(with_graph):
            results, result_spec = run_all(*((t.detach() for t in inputs) if in_place else own), in_place=in_place)
        floats = [i for i, result in enumerate(results) if _is_float(result)]
        if not floats:  # what is complex keeps its own gradient; what is whole has none
            if any(isinstance(result, Tensor) and result.is_complex() for result in results):
                self.unseen.add(f"complex {name!r}")
            live_args, live_kwargs = pytree.tree_unflatten(original, spec)
            return func(*live_args, **live_kwargs)
        graph = (tuple(results[i] for i in floats), own) if with_graph else None
        outputs = [results[i].detach() if with_graph else results[i] for i in floats]
        if not in_place:
            outputs = [o.clone() if o._is_view() or any(o is t for t in own) else o for o in outputs]

        def run(*tensors: Tensor) -> tuple[Tensor, ...]:
            out = run_all(*tensors)[0]
            return tuple(out[i] for i in floats)

        op = Op(name, run, self._keep(held), self._keep([o.detach() for o in outputs]), active, args, kwargs, parents, graph=graph)
        self._locate(op)
        self._pair(op)
        rule = (self.ruling.choose(op) if self.ruling.choose is not None else None) or rule
        for i, output in zip(floats, self._joined(op, rule, inputs, outputs, in_place), strict=True):
            results[i] = output
        return changed.copy_(results[0]) if changed is not None and not in_place else pytree.tree_unflatten(results, result_spec)

    def _locate(self, op: Op) -> None:
        """Say which module it belongs to, where that is wanted, or it is the first of its name."""
        if self.ruling.places or op.name not in self.met:
            op.module = _module()
            self.met.setdefault(op.name, _place(op.module))
        op.place = self.met[op.name]

    def _joined(self, op: Op, rule: Rule, inputs: list[Any], outputs: list[Tensor], in_place: bool) -> tuple[Tensor, ...]:
        """The outputs in the graph, with the rule as their way back to the inputs; on a tape without one."""
        if self.taping:
            return _Cut.apply(outputs, torch.zeros((), requires_grad=True, device=outputs[0].device))  # type: ignore[no-any-return,no-untyped-call]
        live = (t if a else t.detach() for t, a in zip(inputs, op.active, strict=True))
        return _Backward.apply(rule, op, None if in_place else outputs, *live)  # type: ignore[no-any-return,no-untyped-call]

    def given(self, name: str, rule: Rule, module: nn.Module, source: Tensor, result: Tensor) -> Tensor:
        """What a module made of a tensor while the mode rested, as one operation with this rule."""
        op = Op(name, _unknown, self._keep([source.detach()]), self._keep([result.detach()]), (True,), (), {}, (source.grad_fn,), module)
        self.met.setdefault(name, _place(module))
        found: tuple[Tensor, ...] = _Backward.apply(rule, op, [result.detach().clone()], source)  # type: ignore[no-untyped-call]
        return found[0]

    def _keep(self, tensors: Sequence[Tensor]) -> tuple[Kept, ...]:
        kept = tuple(map(Kept, tensors))
        for one in kept:
            if one.tensor.layout == torch.strided:
                self._kept.setdefault(one.tensor.untyped_storage().data_ptr(), []).append(one)
        return kept

    def _save(self, changed: Tensor) -> None:
        """What rules will ask for is copied before the model overwrites it."""
        if changed.layout != torch.strided:
            return
        for kept in self._kept.pop(changed.untyped_storage().data_ptr(), ()):
            kept.tensor = kept.tensor.clone()

    def _pair(self, op: Op) -> None:
        if self.taping:
            self.tape.append(op)
        if self._reference is None:
            return
        other = next(self._reference, None)
        if (
            other is None
            or other.name != op.name
            or not all(
                _fits(here.shape, there.shape, self.rows)
                for here, there in zip((*op.outputs, *op.inputs), (*other.outputs, *other.inputs), strict=False)
            )
        ):
            there = "nothing more" if other is None else f"{other.name!r} with shape {tuple(other.output.shape)}"
            raise OtherWay(_other_way(f"{op.name!r} with shape {tuple(op.output.shape)}", there))
        op.reference = other


def _unknown(*inputs: Tensor) -> tuple[Tensor, ...]:
    raise NotImplementedError("a module that was taken as one operation is not run again")


def _function(func: Any, leaves: list[Any], spec: Any, places: list[int], changes: bool) -> Callable[..., tuple[list[Any], Any]]:
    """The operation as a function of its floating-point tensors, which it leaves alone unless told otherwise."""

    def run(*tensors: Tensor, in_place: bool = False) -> tuple[list[Any], Any]:
        filled = list(leaves)
        for i, tensor in zip(places, tensors, strict=True):
            filled[i] = tensor.clone() if changes and not in_place else tensor
        args, kwargs = pytree.tree_unflatten(filled, spec)
        kwargs.pop("out", None)
        return pytree.tree_flatten(func(*args, **kwargs))

    return run


def _refuse_vmap(name: str, leaves: Sequence[Any]) -> None:
    batched = [t for t in leaves if isinstance(t, Tensor) and torch._C._functorch.is_batchedtensor(t)]
    if any(_unwrapped(t).requires_grad for t in batched):
        raise OptionError(
            f"the model runs {name!r} inside torch.vmap, where its backward cannot get a rule; write it with a batch dimension, "
            "or use a method without rules, such as integrated_gradients"
        )


def _unwrapped(tensor: Tensor) -> Tensor:
    while torch._C._functorch.is_batchedtensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def _other_way(here: str, there: str) -> str:
    return (
        f"the model takes another way at the baseline than at the input: it ran {here} at the input, and {there} at the baseline. "
        "Compare with a baseline that takes the same way, or use a method that follows no single run, such as integrated_gradients"
    )


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _fits(here: torch.Size, there: torch.Size, rows: tuple[int, int]) -> bool:
    """Whether a tensor of the reference has the same shape, or fewer rows, each of which stands for a run of rows."""
    return here == there or (len(here) == len(there) > 0 and here[1:] == there[1:] and (here[0], there[0]) == rows)


def _module() -> nn.Module | None:
    """The innermost module whose code is running: a frame's first argument, in the order of calls."""
    for frame in _frames():
        code = frame.f_code
        if code.co_argcount and code.co_varnames[0] in ("self", "module"):
            owner = frame.f_locals.get(code.co_varnames[0])
            if isinstance(owner, nn.Module):
                return owner
    return None


def _place(module: nn.Module | None) -> str:
    return "" if module is None else f" in {type(module).__name__}"


def _frames() -> Iterator[Any]:
    """The frames of the model's code: not beyond our own call of it, as looking at a frame keeps its values alive."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__") not in OURS:
        yield frame
        frame = frame.f_back


OURS = tuple(f"{__package__}.{name}" for name in ("passes", "compared"))
