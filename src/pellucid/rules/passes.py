"""One pass of a model whose operations have other backward rules, and what was noticed on the way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from ..batch import Run
from ..errors import OptionError
from ..inputs import Tensors
from ..inside import Look, Place, look
from ..model import Foreign
from ..view import InputView, back, leaves_at
from .engine import Ruled
from .spellings import words

__all__ = ["Seen", "refuse_hidden", "ruled_pass", "taped_pass", "unseen_in"]


class Seen(NamedTuple):
    """Scores `(T, rows)`; what came back `(T, rows, ...)` to the features, or to a place inside; what they are, `(rows, ...)`."""

    scores: Tensor
    gradients: Tensors
    features: Tensors


def ruled_pass(run: Run, view: InputView, points: Tensors, mode: Ruled, place: Place | None = None, relevance: bool = False) -> Seen:
    """Forward and back. `relevance` starts from the score itself, to be divided up, instead of from one."""
    run.count(points)
    with torch.inference_mode(False), torch.enable_grad():
        leaves, seen, scores = _forward(view, points, mode, place)
        mode.finished()
        mode.unseen |= unseen_in(scores, mode.ruling.nodes)
        seeded = scores * scores.detach() if relevance else scores
        try:
            found = back(seeded, leaves if seen is None else seen.held, mode.ruling.apart)
        except CheckpointError as error:
            raise OptionError(
                "the model runs parts again in the backward pass (torch.utils.checkpoint), where their operations cannot get rules; switch "
                "checkpointing off, or use a method without rules, such as integrated_gradients"
            ) from error
    run.backwards += len(points[0]) * len(scores)
    if seen is None:
        return Seen(scores.detach(), found, points)
    return Seen(scores.detach(), seen.place.features(found, seen.rows, 1), seen.features)


def taped_pass(run: Run, view: InputView, points: Tensors, mode: Ruled, place: Place | None = None) -> Seen:
    """Forward only: the mode's tape then holds the operations as they ran."""
    run.count(points)
    with torch.inference_mode(False), torch.enable_grad():
        _, seen, scores = _forward(view, points, mode, place)
    return Seen(scores.detach(), (), points if seen is None else seen.features)


def _forward(view: InputView, points: Tensors, mode: Ruled, place: Place | None) -> tuple[Tensors, Look | None, Tensor]:
    """What can be differentiated for, what is held at the place if there is one, and the scores."""
    leaves = leaves_at(points)
    mode.sources = leaves if place is None else ()
    with mode:
        seen = None if place is None else look(view, place, graph=True, points=leaves)
        scores = view.score(leaves) if seen is None else seen.scores
    return leaves, seen, scores


def refuse_hidden(roots: tuple[nn.Module, ...], method: str) -> None:
    """Refuse what is known to run where operations cannot be seen.

    Raises:
        OptionError: scripted parts, layers of another framework, copies on several devices.
    """
    for root in roots:
        for name, module in root.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                raise OptionError(
                    f"{_named(name, module)} is scripted, so its operations cannot get the rules of {method}; give the Python model, "
                    "or use a method without rules, such as integrated_gradients"
                )
            if isinstance(module, Foreign):
                raise OptionError(
                    f"{_named(name, module)} runs in {module.framework}, where operations cannot get the rules of {method}; use a method "
                    "without rules, such as integrated_gradients"
                )
            if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
                raise OptionError(
                    f"{_named(name, module)} runs on {len(module.device_ids)} devices in threads of their own, where operations cannot get "
                    f"the rules of {method}; give model.module instead"
                )


def _named(name: str, module: nn.Module) -> str:
    return f"layer {name!r} ({type(module).__name__})" if name else f"the model ({type(module).__name__})"


def unseen_in(scores: Tensor, names: frozenset[str]) -> set[str]:
    """Operations in the graph of the scores that should have had a rule, but ran where the mode did not see them."""
    return {name for node in _nodes(scores) if (name := _escaped(node, names))}


def _escaped(node: torch.autograd.graph.Node, names: frozenset[str]) -> str:
    kind = type(node).__name__
    if kind == "CppFunction":
        return "compiled or scripted code"
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        return "" if kind in ("_BackwardBackward", "_CutBackward") else f"autograd.Function {kind.removesuffix('Backward')!r}"
    name = kind.rstrip("0123456789").removesuffix("Backward")
    return f"{name!r}" if name in names else ""


def _nodes(scores: Tensor) -> Iterator[torch.autograd.graph.Node]:
    waiting, seen = [scores.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting += [following for following, _ in node.next_functions]


# Names of autograd's nodes that are in a graph only where an operation escaped.
NONLINEAR = frozenset(
    words(
        """Relu Elu Gelu Silu Mish Tanh Sigmoid Softmax SafeSoftmax LogSoftmax Softplus LeakyRelu Hardtanh Hardswish Hardsigmoid
    NativeLayerNorm NativeGroupNorm Exp Log Sqrt Rsqrt ScaledDotProductFlashAttentionForCpu ScaledDotProductEfficientAttention
    ScaledDotProductFlashAttention Prelu"""
    )
)
