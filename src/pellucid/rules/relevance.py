"""Rules of layer-wise relevance propagation: how an operation divides what arrives at its outputs among its inputs.

What goes backward is relevance itself, not a gradient: at every operation the inputs' relevances add up to the outputs',
less what a bias or a stabiliser absorbs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import OptionError
from ..inputs import accurate
from .operation import Grads, Op, Rule
from .secants import SHAPES, dim_of, is_inverse
from .spellings import words

__all__ = [
    "alpha_beta",
    "applies",
    "epsilon",
    "flat",
    "gamma",
    "logsumexp",
    "passed",
    "product",
    "reweighted",
    "share",
    "softmax",
    "w_square",
    "z_box",
    "z_plus",
]

EPSILON = 1e-9
# What has no weights of its own needs protection from zero only: a larger stabiliser would absorb at each of them.
TINY = 1e-12


def stabilised(z: Tensor, eps: float) -> Tensor:
    """`z` moved away from zero by `eps`."""
    wide = z.to(accurate(z.dtype))
    return torch.copysign(torch.tensor(eps, dtype=wide.dtype, device=wide.device), wide).add_(wide)


def share(op: Op, relevances: tuple[Tensor, ...], eps: float) -> Grads:
    """Each input gets by what it contributed: `x * J' (R / z)`."""
    weights = tuple(portion(r, z, eps, z.dtype) for r, z in zip(relevances, op.outputs, strict=True))
    return tuple(None if g is None else g * x for g, x in zip(op.pull(*weights), op.inputs, strict=True))


def portion(relevance: Tensor, z: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """`R / z`, nothing where both are zero, as large as the type can hold at most."""
    found = relevance / stabilised(z, eps)
    found = found if eps else found.nan_to_num(0.0, 0.0, 0.0)
    most = torch.finfo(dtype).max
    return found.to(dtype) if dtype == found.dtype else found.clamp(-most, most).to(dtype)


def epsilon(eps: float = EPSILON) -> Rule:
    """LRP-epsilon: `R_i = x_i sum_j w_ij R_j / (z_j + eps sign z_j)`. Bach et al. 2015, equation 58."""

    def rule(op: Op, *relevances: Tensor) -> Grads:
        return share(op, relevances, eps if op.name in WITH_WEIGHTS else TINY)

    return rule


def passed(op: Op, *relevances: Tensor) -> Grads:
    """All of it goes to the only input: elementwise functions, and the identity rule (Achtibat et al. 2024, proposition 3.4)."""
    index = op.active.index(True)
    if relevances[0].shape != op.inputs[index].shape:
        if sum(op.active) > 1 or op.module is not None:
            raise OptionError(
                f"the identity rule passes relevance on as it is, but {op.name!r} makes {tuple(relevances[0].shape)} of "
                f"{tuple(op.inputs[index].shape)}; choose another rule for it"
            )
        return share(op, relevances, TINY)
    return tuple(relevances[0] if i == index else None for i in range(len(op.inputs)))


def product(op: Op, *relevances: Tensor) -> Grads:
    """The factors of a product get equal parts (Achtibat et al. 2024, propositions 3.2, 3.3), an addend what it contributed.

    A factor that comes out of a sigmoid is a gate, one over something a scale: the other takes all (Arras et al. 2017, section 3).
    """
    addend = ADDENDS.get(op.name)
    factors = [a and i != addend for i, a in enumerate(op.active)]
    gates = [f and (_is_gate(parent) or is_inverse(parent)) for f, parent in zip(factors, op.parents, strict=True)]
    gated = any(gates) and sum(factors) > sum(gates)
    found = []
    for i, r in enumerate(share(op, relevances, TINY)):
        parts = 1 if not factors[i] or gated else sum(factors)
        found.append(None if r is None else torch.zeros_like(r) if gated and gates[i] else r / parts)
    return tuple(found)


# The place of what is added to a product.
ADDENDS = {"addmm": 0, "addbmm": 0, "baddbmm": 0, "addmv": 0, "addr": 0, "linear": 2, "bilinear": 3}


def _is_gate(parent: Any) -> bool:
    """Whether a tensor is the result of a sigmoid, but for its shape, scale and distance from a constant."""
    while parent is not None:
        op = getattr(parent, "op", None)
        if not isinstance(op, Op):
            if type(parent).__name__.rstrip("0123456789") not in SHAPES:
                return False
            parent = parent.next_functions[0][0]
        elif op.name in ("sigmoid", "hardsigmoid"):
            return True
        elif op.name in ("sub", "rsub", "neg", "mul", "div") and sum(op.active) == 1:
            parent = op.parents[op.active.index(True)]
        else:
            return False
    return False


def softmax(op: Op, relevance: Tensor) -> Grads:
    """`R_i = x_i (R_i - s_i sum_j R_j)`, the first-order expansion. Achtibat et al. 2024, proposition 3.1."""
    x, dim = op.inputs[0], dim_of(op)
    found = x * (relevance - op.output * relevance.sum(dim, keepdim=True))
    return (torch.where(torch.isfinite(x), found, 0.0).to(x.dtype),)  # what is masked (-inf) has no part in it


def logsumexp(op: Op, relevance: Tensor) -> Grads:
    """A soft maximum: each takes its softmax share, as the winner of a maximum takes all."""
    (chances,) = (g for g in op.pull(torch.ones_like(relevance)) if g is not None)
    return (chances * _kept(op, relevance),)


def _kept(op: Op, relevance: Tensor) -> Tensor:
    """What a reduction returned, with the dimensions that it took away."""
    dims = op.argument(1, "dim")
    if relevance.dim() < op.inputs[0].dim():
        for place in sorted(d % op.inputs[0].dim() for d in ([dims] if isinstance(dims, int) else dims)):
            relevance = relevance.unsqueeze(place)
    return relevance


# --- rules of layers with weights


class Weighted(NamedTuple):
    """An operation `f(x, w) + b` that is linear in x and in w, as a function of these; `signs` of its own factors of w and b."""

    op: Op
    places: tuple[int, int, int | None]
    signs: tuple[int, int] = (1, 1)

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor | None]:
        inputs, (x, w, b) = self.op.inputs, self.places
        return inputs[x], self.signs[0] * inputs[w], None if b is None else self.signs[1] * inputs[b]

    def at(self, x: Tensor, w: Tensor, b: Tensor | None = None) -> tuple[Tensor, ...]:
        """All inputs of the operation; without a bias, with zeros."""
        found = list(self.op.inputs)
        found[self.places[0]], found[self.places[1]] = x, self.signs[0] * w
        if self.places[2] is not None:
            found[self.places[2]] = torch.zeros_like(found[self.places[2]]) if b is None else self.signs[1] * b
        return tuple(found)

    def run(self, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        return self.op.run(*self.at(x, w, b))[0]

    def pull(self, w: Tensor, grad: Tensor) -> Tensor:
        """`w' grad`."""
        found = self.op.pull_at(self.at(self.parts[0], w), grad)[self.places[0]]
        assert found is not None
        return found

    def back(self, found: Tensor) -> Grads:
        return tuple(found if i == self.places[0] else None for i in range(len(self.op.inputs)))


def weighted(op: Op) -> Weighted | None:
    """The operation as one with weights, if it is."""
    if sum(op.active) != 1 or op.name not in WITH_WEIGHTS or len(op.inputs) < 2:
        return None
    x = op.active.index(True)
    if op.name == "matmul":
        return Weighted(op, (x, 1 - x, None))
    first = {"addmm": 1, "addbmm": 1, "baddbmm": 1}.get(op.name, 0)
    if first:  # beta * b + alpha * x @ w
        signs = [-1 if op.kwargs.get(name, 1) < 0 else 1 for name in ("alpha", "beta")]
        return Weighted(op, (x, 3 - x, 0), (signs[0], signs[1])) if x else None
    return Weighted(op, (0, 1, 2 if len(op.inputs) > 2 else None)) if x == 0 else None


WITH_WEIGHTS = frozenset(
    words("""linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution addmm baddbmm addbmm matmul""")
)


def of_weights(make: Callable[[Weighted, Tensor], Tensor]) -> Rule:
    """A rule for operations with weights."""

    def rule(op: Op, *relevances: Tensor) -> Grads:
        layer = weighted(op)
        assert layer is not None
        return layer.back(make(layer, relevances[0]).to(layer.parts[0].dtype))

    rule.of_weights = True  # type: ignore[attr-defined]
    return rule


def applies(rule: Rule, op: Op) -> bool:
    """Whether a rule is for such an operation: rules of weights are for operations with weights."""
    return not getattr(rule, "of_weights", False) or weighted(op) is not None


def gamma(g: float = 0.25, eps: float = EPSILON) -> Rule:
    """LRP-gamma: weights that agree with the output's sign count `1 + g` times.

    Montavon et al. 2019, section 10.2.3, for inputs that are positive; for signed ones Andeol et al. 2021, equation 5.
    """

    def found(layer: Weighted, relevance: Tensor) -> Tensor:
        x, w, b = layer.parts
        more, less = (w + g * w.clamp(min=0)), (w + g * w.clamp(max=0))
        up_b, down_b = (None, None) if b is None else (b + g * b.clamp(min=0), b + g * b.clamp(max=0))
        positive, negative, z = x.clamp(min=0), x.clamp(max=0), layer.op.output
        z_up = layer.run(positive, more, up_b) + layer.run(negative, less)
        z_down = layer.run(positive, less, down_b) + layer.run(negative, more)
        up = portion((z > 0) * relevance, z_up, eps, z.dtype)
        down = portion((z < 0) * relevance, z_down, eps, z.dtype)
        at_positive = layer.pull(more, up) + layer.pull(less, down)
        at_negative = layer.pull(less, up) + layer.pull(more, down)
        return positive * at_positive + negative * at_negative

    return of_weights(found)


def alpha_beta(alpha: float = 2.0, beta: float = 1.0, eps: float = EPSILON, bias: bool = True) -> Rule:
    """LRP-alpha-beta: positive and negative contributions apart, `alpha` times the one less `beta` times the other.

    Bach et al. 2015, equation 60; `alpha - beta = 1` conserves relevance, but for what the `bias` takes if it counts.
    """
    if abs(alpha - beta - 1) > 1e-6 or beta < 0:
        raise OptionError(f"alpha is {alpha} and beta {beta}; relevance is conserved if alpha - beta = 1 and beta >= 0")

    def found(layer: Weighted, relevance: Tensor) -> Tensor:
        x, w, b = layer.parts
        signs = (x.clamp(min=0), w.clamp(min=0), w.clamp(max=0)), (x.clamp(max=0), w.clamp(max=0), w.clamp(min=0))
        (positive, w_up, w_down), (negative, _, _) = signs
        up_b, down_b = (None, None) if b is None or not bias else (b.clamp(min=0), b.clamp(max=0))
        total = torch.zeros_like(x)
        z_up = layer.run(positive, w_up, up_b) + layer.run(negative, w_down)
        up = portion(alpha * relevance, z_up, eps, x.dtype)
        total = positive * layer.pull(w_up, up) + negative * layer.pull(w_down, up)
        if beta:
            z_down = layer.run(positive, w_down, down_b) + layer.run(negative, w_up)
            down = portion(-beta * relevance, z_down, eps, x.dtype)
            total = total + positive * layer.pull(w_down, down) + negative * layer.pull(w_up, down)
        return total

    return of_weights(found)


def z_plus(eps: float = EPSILON, bias: bool = True) -> Rule:
    """LRP-z+: positive contributions only. Montavon et al. 2017, equation 13; alpha-beta with 1 and 0."""
    return alpha_beta(1.0, 0.0, eps, bias)


def w_square(eps: float = EPSILON) -> Rule:
    """LRP-w2: by the squares of the weights, whatever the inputs. Montavon et al. 2017, equation 12."""
    return of_weights(lambda layer, relevance: _by_weights(layer, relevance, layer.parts[1] ** 2, eps))


def flat(eps: float = EPSILON) -> Rule:
    """LRP-flat: to all inputs of a unit alike. Lapuschkin et al. 2019, methods."""
    return of_weights(lambda layer, relevance: _by_weights(layer, relevance, torch.ones_like(layer.parts[1]), eps))


def _by_weights(layer: Weighted, relevance: Tensor, w: Tensor, eps: float) -> Tensor:
    z = layer.run(torch.ones_like(layer.parts[0]), w)
    return layer.pull(w, portion(relevance, z, eps, w.dtype))


def z_box(low: float | Tensor, high: float | Tensor, eps: float = EPSILON) -> Rule:
    """LRP-zB, for inputs between `low` and `high`, such as pixels. Montavon et al. 2017, equation 14."""

    def found(layer: Weighted, relevance: Tensor) -> Tensor:
        x, w, _ = layer.parts
        lows, highs = (torch.as_tensor(bound, dtype=x.dtype, device=x.device).expand(x.shape) for bound in (low, high))
        w_up, w_down = w.clamp(min=0), w.clamp(max=0)
        z = layer.run(x, w) - layer.run(lows, w_up) - layer.run(highs, w_down)
        part = portion(relevance, z, eps, x.dtype)
        return x * layer.pull(w, part) - lows * layer.pull(w_up, part) - highs * layer.pull(w_down, part)

    return of_weights(found)


def reweighted(change: Callable[[Tensor], Tensor], bias: bool = True, eps: float = EPSILON) -> Rule:
    """LRP-epsilon with other weights: `R_i = x_i sum_j w'_ij R_j / z'_j`, where `w' = change(w)`, with or without the bias."""

    def found(layer: Weighted, relevance: Tensor) -> Tensor:
        x, w, b = layer.parts
        z = layer.run(x, change(w), b if bias else None)
        return x * layer.pull(change(w), portion(relevance, z, eps, x.dtype))

    return of_weights(found)
