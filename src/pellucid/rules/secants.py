"""DeepLIFT as one principle: each operation's secant between the reference and the input.

A rule gives multipliers m with `sum(m * (inputs - reference inputs)) = outputs - reference outputs` (the summation to
delta of Shrikumar et al. 2017, equation 1); chained like gradients (their equation 3) they explain the whole change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..inputs import accurate
from .averaged import averaged, ratio
from .choices import larger, pooled, selection, where
from .operation import Grads, Op, Rule, fitted, sole
from .spellings import words

__all__ = [
    "BILINEAR",
    "CONVOLUTIONS",
    "IN_PIECES",
    "POOLS",
    "SCALE_FREE",
    "SECANTS",
    "SHAPES",
    "SMOOTH",
    "WITH_POLES",
    "dim_of",
    "is_inverse",
    "places_of_quotient",
    "product",
]


def _wide(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(t.to(accurate(t.dtype)) for t in tensors)


def _points(op: Op) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The active input and the output, here and at the reference, in the dtype for sums."""
    index, (inputs, outputs) = op.active.index(True), op.at_reference
    here = op.inputs[index], inputs[index], op.output, outputs[0]
    x, x0, y, y0 = _wide(here)
    return x, x0, y, y0


def bent(op: Op, grad: Tensor) -> Grads:
    """Rescale rule (their equation 10) of what is linear in pieces: the difference quotient, the slope where nothing moves."""
    if not _elementwise(op):
        return averaged(op, grad)
    x, x0, y, y0 = _points(op)
    step = x - x0
    # Below a few units in the last place a difference is rounding, and both points lie on one piece.
    still = step.abs() <= 4 * torch.finfo(op.output.dtype).eps * x.abs()
    slope = ratio(y - y0, step, torch.zeros((), dtype=y.dtype, device=y.device), still)
    if bool(still.any()):
        slope = torch.where(still, _slope_at(op, op.inputs[op.active.index(True)]), slope)
    return sole(op, grad.to(slope) * slope)


def _elementwise(op: Op) -> bool:
    return sum(op.active) == 1 and op.inputs[op.active.index(True)].shape == op.output.shape


def _slope_at(op: Op, point: Tensor) -> Tensor:
    """The derivative of an elementwise operation at a point."""
    index = op.active.index(True)
    inputs = tuple(point if i == index else t for i, t in enumerate(op.inputs))
    found = op.pull_at(inputs, torch.ones_like(op.output))[index]
    assert found is not None
    return found.to(accurate(found.dtype))


def smooth(scale: Callable[[Tensor], Tensor] = torch.ones_like) -> Rule:
    """Rescale rule of a smooth function of one number.

    Near each other the quotient of differences is rounding, and the slope halfway is exact up to the square of the step.
    The two errors meet at the cube root of the precision, in units of the `scale` on which the function bends: one, or the
    distance from where it has a pole.
    """

    def rule(op: Op, grad: Tensor) -> Grads:
        if not _elementwise(op):
            return averaged(op, grad)
        x, x0, y, y0 = _points(op)
        step, eps = x - x0, torch.finfo(y.dtype).eps
        near = step.abs() <= eps ** (1 / 3) * torch.minimum(scale(x), scale(x0))
        halfway = _slope_at(op, ((x + x0) / 2).to(op.output.dtype))
        return sole(op, grad.to(y) * ratio(y - y0, step, halfway, near))

    return rule


def closed(slope: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Rule:
    """The rescale rule of a function whose secant slope has a closed form in `x, x0, y, y0`, without cancellation."""

    def rule(op: Op, grad: Tensor) -> Grads:
        at = _points(op)
        return sole(op, grad.to(at[0]) * slope(*at))

    return rule


def power(op: Op, grad: Tensor) -> Grads:
    """`x ** n`: exact for small whole n, as in `x^2 - a^2 = (x + a)(x - a)`."""
    exponent = op.argument(1, "exponent")
    if op.name == "pow" and isinstance(exponent, int | float) and exponent in (2, 3):
        x, x0, *_ = _points(op)
        slope = x + x0 if exponent == 2 else x * x + x * x0 + x0 * x0
        return sole(op, grad.to(slope) * slope)
    return smooth(torch.abs)(op, grad)


def product(op: Op, grad: Tensor) -> Grads:
    """Exact for what is linear in each of two tensors: the gradient halfway."""
    if op.name in ("einsum", "bilinear") and sum(op.active) > 2:  # of three factors
        return averaged(op, grad)
    inputs, _ = op.at_reference
    halfway = tuple((x + x0) / 2 for x, x0 in zip(op.inputs, inputs, strict=True))
    return op.pull_at(halfway, grad)


def rectified(op: Op, grad: Tensor) -> Grads:
    """The rescale rule of `relu`: the share of the step from x0 to x that is above zero."""
    x, x0, *_ = _points(op)
    share = torch.maximum(x, x0).div_((x - x0).abs_()).nan_to_num_(0.0).clamp_(0, 1)
    return sole(op, grad * share)


def quotient(op: Op, grad: Tensor) -> Grads:
    """`y = x / d`: from `x = y d` follows `change of x = mean y * change of d + mean d * change of y`, which is exact."""
    if op.kwargs.get("rounding_mode") is not None:
        return averaged(op, grad)
    above, below = places_of_quotient(op)
    if below is None or not op.active[below]:
        return tuple(None if g is None else torch.where(grad == 0, 0.0, g) if g.shape == grad.shape else g for g in op.pull(grad))
    (y, y0), (d, d0) = (op.output, op.at_reference[1][0]), (op.inputs[below], op.at_reference[0][below])
    through = ratio(2 * grad, d + d0, 0.0)
    below_share = torch.where(through == 0, 0.0, -through * (y + y0) / 2)  # what is not chosen may be infinite
    shares = {above: through, below: below_share}
    return tuple(shares[i].sum_to_size(t.shape) if a else None for i, (t, a) in enumerate(zip(op.inputs, op.active, strict=True)))


def places_of_quotient(op: Op) -> tuple[int | None, int | None]:
    """Where numerator and denominator are among the floating-point inputs; None where they are numbers or whole."""
    given = [op.argument(0, "input", 0), op.argument(1, "other", 0)]
    order = (1, 0) if op.name == "rdiv" else (0, 1)
    found, places = 0, [None, None]
    for argument in (0, 1):
        if given[argument] is None:  # a floating-point tensor
            places[argument], found = found, found + 1  # type: ignore[call-overload]
    return places[order[0]], places[order[1]]


def bag(op: Op, grad: Tensor) -> Grads:
    """A sum, a mean or a maximum of rows."""
    return selection(op, grad) if op.kwargs.get("mode") in ("max", 2) else product(op, grad)


def dim_of(op: Op) -> int:
    """The dimension of a softmax; torch's old choice where none is given."""
    dim = op.argument(1, "dim")
    return int(dim) if dim is not None else 0 if op.inputs[0].dim() in (0, 1, 3) else 1


def softmax(op: Op, grad: Tensor) -> Grads:
    """`exp` of the log-probabilities by its secant; their shared shift, logsumexp, by the mix of both softmaxes that is complete.

    One exists, as logsumexp is convex, and no exponential can overflow or vanish.
    """
    (x,), (x0,), y, y0 = _wide(op.inputs), _wide(op.at_reference[0]), *_wide((op.output, op.at_reference[1][0]))
    dim = dim_of(op)
    log_y, log_y0 = x.log_softmax(dim), x0.log_softmax(dim)
    moved = (log_y - log_y0).nan_to_num(0, 0, 0)  # what is masked is -inf in both
    eps = torch.finfo(y.dtype).eps
    near = moved.abs() <= eps ** (1 / 3)
    through = grad.to(y) * ratio(y - y0, moved, ((log_y + log_y0) / 2).exp(), near)
    return (_less_shift(x, x0, y, y0, dim, through, through.sum(dim, keepdim=True)).to(op.inputs[0].dtype),)


def log_softmax(op: Op, grad: Tensor) -> Grads:
    """The identity less logsumexp."""
    (x,), (x0,), y, y0 = _wide(op.inputs), _wide(op.at_reference[0]), *_wide((op.output, op.at_reference[1][0]))
    dim = dim_of(op)
    through = grad.to(y)
    return (_less_shift(x, x0, y.exp(), y0.exp(), dim, through, through.sum(dim, keepdim=True)).to(op.inputs[0].dtype),)


def logsumexp(op: Op, grad: Tensor) -> Grads:
    """A mix of the softmaxes here and at the reference."""
    (x,), (x0,) = _wide(op.inputs), _wide(op.at_reference[0])
    dim, keep = op.argument(1, "dim"), bool(op.argument(2, "keepdim", False))
    shift = grad.to(x.dtype)
    if not keep:
        for place in sorted(d % x.dim() for d in ([dim] if isinstance(dim, int) else dim)):
            shift = shift.unsqueeze(place)
    mixed = _less_shift(x, x0, (x - x.logsumexp(dim, True)).exp(), (x0 - x0.logsumexp(dim, True)).exp(), dim, torch.zeros_like(x), shift)
    return (-mixed.to(op.inputs[0].dtype),)


def _less_shift(x: Tensor, x0: Tensor, p: Tensor, p0: Tensor, dim: int, through: Tensor, shift: Tensor) -> Tensor:
    """`through` less the secant of logsumexp, pulled by `shift`: a mix of the probabilities `p` and `p0`."""
    step = (x - x0).nan_to_num(0, 0, 0)
    rise = (x.logsumexp(dim, keepdim=True) - x0.logsumexp(dim, keepdim=True)).nan_to_num(0, 0, 0)
    low, width = (p0 * step).sum(dim, keepdim=True), ((p - p0) * step).sum(dim, keepdim=True)
    tiny = torch.finfo(x.dtype).eps ** (2 / 3)
    mix = ratio(rise - low, width, 0.5, width.abs() <= tiny).clamp(0, 1)
    return through - (mix * p + (1 - mix) * p0) * shift


def masked_product(op: Op, grad: Tensor) -> Grads:
    """A product; where one factor has no gradient and differs from the reference (a mask), the change goes to the other."""
    if sum(op.active) > 1 or op.reference is None:
        inverse = next((i for i, parent in enumerate(op.parents) if op.active[i] and is_inverse(parent)), None)
        return product(op, grad) if inverse is None else _times_inverse(op, grad, inverse)
    own, index = op.pull(grad), op.active.index(True)
    factors = [next((v for i, v in enumerate(_factors(o)) if v is not None and i != index), None) for o in (op, op.reference)]
    here, there = factors
    if here is None or there is None or (here.shape == there.shape and torch.equal(here, there)) or not _elementwise(op):
        return own
    x, x0, y, y0 = _points(op)
    other = (here != fitted(there, here.shape)).expand(x.shape)
    kept = own[index]
    assert kept is not None
    return sole(op, torch.where(other, grad.to(y) * ratio(y - y0, x - x0, 0.0), kept.to(y)))


def _times_inverse(op: Op, grad: Tensor, inverse: int) -> Grads:
    """`y = x r` with `r` one over something: as the quotient that it is, so that both ways to write it give one answer."""
    inputs, outputs = op.at_reference
    r, r0, mean = op.inputs[inverse], inputs[inverse], (op.output + outputs[0]) / 2
    through = ratio(2 * grad, r + r0, 0.0)
    shares = {inverse: through * mean, 1 - inverse: through * r * r0}
    return tuple(shares[i].sum_to_size(x.shape) if a else None for i, (x, a) in enumerate(zip(op.inputs, op.active, strict=True)))


def is_inverse(parent: Any) -> bool:
    """Whether a tensor is one over another, but for its shape."""
    while parent is not None:
        op = getattr(parent, "op", None)
        if not isinstance(op, Op):
            if type(parent).__name__.rstrip("0123456789") not in SHAPES:
                return False
            parent = parent.next_functions[0][0]
            continue
        if op.name in ("div", "rdiv"):
            above, _ = places_of_quotient(op)
            return above is None or not op.active[above]
        exponent = op.argument(1, "exponent") if op.name == "pow" else None
        return op.name in ("reciprocal", "rsqrt") or (isinstance(exponent, int | float) and exponent < 0)
    return False


SHAPES = {f"{name}Backward" for name in words("View UnsafeView Reshape ReshapeAlias Expand Permute Transpose T Unsqueeze Squeeze Clone")}


def _factors(op: Op) -> list[Tensor | None]:
    """The factors of a product that are no parameters, in order; those that are not floating point are among its arguments."""
    if len(op.inputs) > 1:
        return list(op.inputs)
    mask = next((a for a in op.args if isinstance(a, Tensor)), None)
    return [*op.inputs, mask] if op.active.index(True) == 0 else [mask, *op.inputs]


IN_PIECES = words(
    """relu6 leaky_relu prelu rrelu hardtanh hardsigmoid threshold abs clamp hardshrink softshrink floor ceil round trunc sign"""
)
SMOOTH = words(
    """elu selu celu gelu silu mish sigmoid logsigmoid tanh softplus hardswish exp expm1 exp2 erf erfc sin cos tan sinh cosh atan
    asinh softsign tanhshrink rpow"""
)
SCALE_FREE = words("log log2 log10 digamma lgamma")
# By how far a number is from where they end.
WITH_POLES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "log1p": lambda x: (1 + x).abs(),
    **dict.fromkeys(("asin", "acos", "atanh"), lambda x: (1 - x.abs()).abs()),
    "acosh": lambda x: (x - 1).abs(),
}
BILINEAR = words("""mul matmul rmatmul einsum baddbmm addmm addbmm addmv addr outer ger tensordot inner bilinear linear""")
CONVOLUTIONS = words("""conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution""")
POOLS = words("""max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d""")

SECANTS: Mapping[str, Rule] = {
    **dict.fromkeys(IN_PIECES, bent),
    **dict.fromkeys(SMOOTH, smooth()),
    **dict.fromkeys(SCALE_FREE, smooth(torch.abs)),
    **{name: smooth(distance) for name, distance in WITH_POLES.items()},
    **dict.fromkeys(("div", "rdiv"), quotient),
    **dict.fromkeys(BILINEAR + CONVOLUTIONS, product),
    **dict.fromkeys(POOLS, pooled),
    **dict.fromkeys(("amax", "amin"), selection),
    **dict.fromkeys(("max", "min", "maximum", "minimum"), larger),
    "relu": rectified,
    "softmax": softmax,
    "log_softmax": log_softmax,
    "logsumexp": logsumexp,
    "where": where,
    "masked_fill": where,
    "embedding_bag": bag,
    "mul": masked_product,
    "pow": power,
    "square": closed(lambda x, x0, y, y0: x + x0),
    "sqrt": closed(lambda x, x0, y, y0: ratio(torch.ones_like(y), y + y0, 0.0)),
    "rsqrt": closed(lambda x, x0, y, y0: -((y * y0) ** 2) / (y + y0)),
    "reciprocal": closed(lambda x, x0, y, y0: -y * y0),
}
