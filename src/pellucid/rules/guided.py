"""Guided backpropagation and deconvolution: gradients that pass a rectifier only where they are positive."""

from __future__ import annotations

import torch
from torch import Tensor

from ..batch import Part, Run
from ..explanation import Check, Found
from ..inputs import Tensors, differentiable
from ..inside import Place
from ..view import InputView, View
from .engine import Ruled
from .operation import Grads, Op, Rule, Ruling
from .passes import refuse_hidden, ruled_pass
from .rewrites import REWRITES
from .spellings import words

__all__ = ["deconvolution", "guided_backprop"]

RELUS = ("relu", "relu6", "threshold")
# Rectifiers that let something through below zero, or bend smoothly: the rule of ReLU is extended to them, which is said.
OTHER_RECTIFIERS = words("leaky_relu prelu rrelu elu celu selu gelu silu mish softplus hardswish")
# No rectifiers, or only with some bounds: what they are is said, and they keep their own gradient.
OTHERS = words(
    "tanh sigmoid hardtanh hardsigmoid logsigmoid softsign tanhshrink hardshrink softshrink clamp maximum minimum where masked_fill abs"
)


def _guided(op: Op, grad: Tensor) -> Grads:
    """Where the gradient and the unit are positive."""
    positive = grad.clamp(min=0)
    if op.name != "relu":
        return op.pull(positive)
    found = torch.ops.aten.threshold_backward(positive, op.output, 0)
    return tuple(found if active else None for active in op.active)


def _deconvolved(op: Op, grad: Tensor) -> Grads:
    """Where the gradient is positive, whatever the unit."""
    return tuple(grad.clamp(min=0) if active else None for active in op.active)


def _cuts_at_zero(op: Op) -> bool:
    """Whether a clamp is ReLU or ReLU6 by another name, as `nn.ReLU6` is a `hardtanh`."""
    return op.argument(1, "min_val" if op.name == "hardtanh" else "min") == 0 and len(op.inputs) == 1


def guided_backprop(view: InputView, place: Place | None = None, run: Run | None = None) -> Found:
    """The gradient, but a rectifier lets pass only what is positive, forward and backward.

    Law: on a network without rectifiers it is the gradient; it has no completeness.
    Source: Springenberg, Dosovitskiy, Brox, Riedmiller 2015, section 3.4. Leaky and smooth rectifiers (leaky ReLU, ELU, GELU,
    SiLU, ...) get the positive part of the gradient times their own slope, and `health` says so.

    >>> import torch; from pellucid.view import at_input
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> guided_backprop(at_input(net, torch.randn(4, 3), target=1)).values[0].shape
    torch.Size([1, 4, 3])
    """
    return _backwards(view, _guided, "guided_backprop", place, run or Run())


def deconvolution(view: InputView, place: Place | None = None, run: Run | None = None) -> Found:
    """The gradient, but a rectifier passes on the positive part of what comes back, whether the unit was on or not.

    Source: Zeiler and Fergus 2014, section 2.1 (a "deconvnet", max-pooling by its switches).

    >>> import torch; from pellucid.view import at_input
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> deconvolution(at_input(net, torch.randn(4, 3), target=1)).values[0].shape
    torch.Size([1, 4, 3])
    """
    return _backwards(view, _deconvolved, "deconvolution", place, run or Run())


def _backwards(view: InputView, rule: Rule, method: str, place: Place | None, run: Run) -> Found:
    features = differentiable(view.features)
    refuse_hidden(view.roots, method)
    met: dict[str, str] = {}
    unseen: set[str] = set()
    found: list[Part] = []

    def other(op: Op, *grads: Tensor) -> Grads:
        if op.name in ("hardtanh", "clamp") and _cuts_at_zero(op):
            met["relu"] = ""
            return rule(op, *grads)
        met[op.name] = op.place
        return op.pull(*grads)

    def rectifier(op: Op, *grads: Tensor) -> Grads:
        met[op.name] = op.place
        return rule(op, *grads)

    by_output = frozenset(("relu",) if rule is _guided else RELUS + OTHER_RECTIFIERS)
    rules = {**dict.fromkeys(RELUS + OTHER_RECTIFIERS, rectifier), **dict.fromkeys(OTHERS, other)}
    ruling = Ruling(rules, RECURRENT, by_output=by_output, nodes=NODES)

    def verb(block: View, points: Tensors, *_: object) -> tuple[Tensor, Tensors]:
        assert isinstance(block, InputView)
        mode = Ruled(ruling)
        seen = ruled_pass(run, block, points, mode, place)
        unseen.update(mode.unseen)
        return seen.scores, seen.gradients

    run.each(run.ready(view, 1), 1, lambda examples, _: tuple(f[None, examples] for f in features), verb, found.append, method)
    values = tuple(torch.cat([x[:, 0] for x in parts], 1) for parts in zip(*(part.gradients for part in found), strict=True))
    return Found(values, torch.cat([part.scores[:, 0] for part in found], 1), pooling="norm", checks=(_check(met, unseen, method),))


# Recurrent cells hold rectifiers or none; the rest of an attention block is linear or a product, and keeps its own gradient.
RECURRENT = {name: REWRITES[name] for name in ("rnn_relu", "rnn_relu_cell", "clamp_min", "clamp_max")}
NODES = frozenset(words("Relu Elu Gelu Silu Mish Softplus LeakyRelu Prelu Hardswish"))


def _check(met: dict[str, str], unseen: set[str], method: str) -> Check:
    """Which operations got the rule, and which have none."""
    exact = [name for name in met if name in RELUS]
    extended = [name for name in met if name in OTHER_RECTIFIERS]
    without = sorted(set(met) - {*exact, *extended})
    words = (
        f"{method} ruled {', '.join(exact + extended)}" if exact or extended else "the model runs no rectifier: this is its plain gradient"
    )
    if extended:
        words += f"; for {', '.join(extended)} the rule of ReLU was extended"
    if without:
        places = ", ".join(f"{name}{met[name]}" for name in without)
        words += f"; {places} have no rule in this method and kept their own gradient"
    if unseen:
        words += f"; {', '.join(sorted(unseen))} ran where operations cannot be seen, and have no rule"
    return Check("rules", bool(exact or extended) and not unseen, words, float(len(exact + extended)))
