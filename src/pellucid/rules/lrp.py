"""Layer-wise relevance propagation: the score itself, divided among the inputs operation by operation."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Part, Run
from ..errors import OptionError
from ..explanation import Check, Found
from ..hooks import around
from ..inputs import Tensors, differentiable
from ..inside import Place
from ..model import layers_of
from ..view import InputView, View
from .engine import Ruled
from .operation import Grads, Op, Rule, Ruling
from .passes import NONLINEAR, refuse_hidden, ruled_pass
from .relevance import (
    TINY,
    WITH_WEIGHTS,
    alpha_beta,
    applies,
    epsilon,
    flat,
    gamma,
    logsumexp,
    passed,
    product,
    share,
    softmax,
    w_square,
    z_plus,
)
from .rewrites import REWRITES, gated, with_constant_scales
from .secants import BILINEAR, CONVOLUTIONS, IN_PIECES, POOLS, SCALE_FREE, SMOOTH, WITH_POLES
from .spellings import MOVES, SUMS, words

__all__ = ["COMPOSITES", "Composite", "Pattern", "attn_lrp", "everywhere", "lrp"]

# What a rule is for: a module, a class of modules, the name of an operation ("conv2d") or of modules ("features.*"),
# "first" (weights that no others come before), or a function of the operation.
Pattern = nn.Module | type[nn.Module] | str | Callable[[Op], bool]
Composite = Sequence[tuple[Pattern, Rule]]


def everywhere(rule: Rule) -> Composite:
    """The rule at whatever has weights."""
    return tuple((name, rule) for name in sorted(WITH_WEIGHTS))


COMPOSITES: Mapping[str, Composite] = {
    "epsilon": (),
    "z_plus": everywhere(z_plus()),
    "gamma": everywhere(gamma()),
    "alpha2_beta1": everywhere(alpha_beta()),
    "epsilon_plus": (("conv*", z_plus()),),
    "epsilon_plus_flat": (("first", flat()), ("conv*", z_plus())),
    "epsilon_plus_w_square": (("first", w_square()), ("conv*", z_plus())),
    "epsilon_alpha2_beta1": (("conv*", alpha_beta()),),
    "epsilon_alpha2_beta1_flat": (("first", flat()), ("conv*", alpha_beta())),
}


def _without_rule(op: Op, *relevances: Tensor) -> Grads:
    """An operation that no rule is known for shares by its own gradient, and is reported."""
    return share(op, relevances, TINY)


def _constant(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda input: function(input).detach()


def _over_constant(input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    """A quotient is its numerator on another scale; what only stands in a denominator gets nothing."""
    if rounding_mode is not None:
        return NotImplemented
    if not isinstance(input, Tensor) or not input.requires_grad:
        return torch.div(input, other).detach()
    return torch.div(input, other.detach() if isinstance(other, Tensor) else other)


def _inverse_power(input: Tensor, exponent: Any) -> Any:
    return torch.pow(input, exponent).detach() if isinstance(exponent, int | float) and exponent < 0 else NotImplemented


# Normalisation is a scale: what it divides by, and what opens a gate, gets no relevance.
LRP_REWRITES: dict[str, Callable[..., Any]] = {
    **REWRITES,
    **with_constant_scales(),
    **gated(_constant(torch.sigmoid)),
    "rsqrt": _constant(torch.rsqrt),
    "reciprocal": _constant(torch.reciprocal),
    "div": _over_constant,
    "rdiv": lambda input, other: (other / input).detach(),
    "pow": _inverse_power,
}
# What only scales others, or is linear in its first tensor: their own gradient is the rule.
OWN = ("var", "std", "norm", "linalg_norm", "linalg_vector_norm", "grid_sample", "grid_sampler", "embedding_bag")
# Arithmetic has rules too, so none of it may be in the graph by itself.
NODES = NONLINEAR | frozenset(words("Mm Addmm Bmm Baddbmm Mul Div Convolution NativeBatchNorm Add Sub Mean Sum Pow"))
DROPOUTS = tuple(name for name in SUMS if "dropout" in name)
PASSED = ("relu", "pow", "square", "sqrt", *IN_PIECES, *SMOOTH, *SCALE_FREE, *WITH_POLES, *DROPOUTS)


def _ruling(eps: float) -> Ruling:
    linear = epsilon(eps)
    names = {*SUMS, *BILINEAR, *CONVOLUTIONS}
    rules: dict[str, Rule] = {
        **dict.fromkeys(names, lambda op, *r: product(op, *r) if sum(op.active) > 1 and op.name in BILINEAR else linear(op, *r)),
        **dict.fromkeys(PASSED, passed),
        "softmax": softmax,
        "logsumexp": logsumexp,
        "div": linear,
        **dict.fromkeys(("rdiv", "rsqrt", "reciprocal"), passed),  # what comes of it is made a constant
        **dict.fromkeys(OWN, _without_rule),
    }
    native = frozenset({*MOVES, *POOLS})
    return Ruling(rules, LRP_REWRITES, native, default=_without_rule, graph=frozenset(names - set(DROPOUTS)) | {"div", "rdiv"}, nodes=NODES)


def lrp(
    view: InputView,
    composite: str | Composite = "epsilon",
    eps: float = 1e-9,
    place: Place | None = None,
    run: Run | None = None,
) -> Found:
    """Relevance: the score, divided at each operation among what it was made of, down to the inputs.

    Rules see operations, so residual additions, functional activations, shared layers, all poolings and norms are in order:
    weights by epsilon or as the composite says; sums by what each term contributed; activations pass relevance on; maxima
    give all to the winner; normalisation counts as a scale; products of two activations halve it, gates get none; softmax by
    its first-order expansion (AttnLRP).
    Law (conservation): without biases and softmax the relevances add up to the score; `health` says how much was absorbed.
    Sources: Bach et al. 2015; Montavon et al. 2019; Achtibat et al. 2024 for attention and normalisation; Arras et al. 2017
    for gates.

    Args:
        composite: a name in `COMPOSITES`, or pairs (pattern, rule), of which the first that fits counts: a pattern is a
            module, a class, the name of an operation or of modules (with `*`), "first", or a function of the operation.
        eps: the stabiliser of the epsilon rule.
        place: stop at what the model holds there.

    Raises:
        OptionError: an unknown composite; parts whose operations cannot be seen.

    >>> import torch; from pellucid.view import at_input
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8, bias=False), torch.nn.ReLU(), torch.nn.Linear(8, 2, bias=False))
    >>> found = lrp(at_input(net, torch.randn(4, 3), target=1))
    >>> torch.allclose(found.values[0].sum(2), found.scores, atol=1e-5)
    True
    """
    if eps < 0:
        raise OptionError(f"eps is {eps}; a stabiliser is not negative")
    pairs, run = _pairs(composite), run or Run()
    features = differentiable(view.features)
    refuse_hidden(view.roots, "lrp")
    named = _Choice(pairs, view.roots)
    ruling = replace(_ruling(eps), choose=named, places=bool(pairs)) if pairs else _ruling(eps)
    activations = [layer for layer in layers_of(view.roots) if _is_activation(layer)]
    known, odd = {*ruling.rules, "activation"}, dict[str, str]()
    found: list[Part] = []

    def verb(block: View, points: Tensors, *_: object) -> tuple[Tensor, Tensors]:
        assert isinstance(block, InputView)
        mode = Ruled(ruling)
        with _as_one(activations, mode):
            seen = ruled_pass(run, block, points, mode, place, relevance=True)
        odd.update({name: where for name, where in mode.met.items() if name not in known} | dict.fromkeys(mode.unseen, ""))
        return seen.scores, seen.gradients

    run.each(run.ready(view, 1), 1, lambda examples, _: tuple(f[None, examples] for f in features), verb, found.append, "lrp")
    values = tuple(torch.cat([x[:, 0] for x in parts], 1) for parts in zip(*(part.gradients for part in found), strict=True))
    scores = torch.cat([part.scores[:, 0] for part in found], 1)
    return Found(values, scores, law="conservation", checks=(_check(odd, named),))


def attn_lrp(view: InputView, eps: float = 1e-6, place: Place | None = None, run: Run | None = None) -> Found:
    """LRP as AttnLRP has it for transformers: epsilon for weights, and `lrp`'s rules for attention and normalisation.

    Source: Achtibat et al. 2024.

    >>> import torch; from pellucid.view import at_input
    >>> net = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    >>> attn_lrp(at_input(lambda x: net(x).mean((1, 2)), torch.randn(4, 5, 8))).values[0].shape
    torch.Size([1, 4, 5, 8])
    """
    return lrp(view, (), eps, place, run)


def _pairs(composite: str | Composite) -> Composite:
    if isinstance(composite, str):
        if composite not in COMPOSITES:
            raise OptionError(f"composite {composite!r} is unknown; the composites are {', '.join(COMPOSITES)}, or pairs (pattern, rule)")
        return COMPOSITES[composite]
    if not isinstance(composite, list | tuple):
        raise OptionError(f"composite is {composite!r}; give one of {', '.join(COMPOSITES)}, or pairs (pattern, rule)")
    pairs: Composite = tuple(composite)
    for pair in pairs:
        if not (isinstance(pair, tuple) and len(pair) == 2 and callable(pair[1])):
            raise OptionError(f"a composite is made of pairs (pattern, rule), with rules as in pellucid.rules.relevance; got {pair!r}")
    return pairs


@dataclass(eq=False)
class _Choice:
    """The rule of an operation by the first pattern that fits."""

    pairs: Composite
    roots: tuple[nn.Module, ...]

    def __post_init__(self) -> None:
        self.names = {module: name for root in self.roots for name, module in root.named_modules()}
        self.passed_over: set[str] = set()
        self.fitted: set[int] = set()

    @property
    def idle(self) -> list[str]:
        """Patterns that fitted nothing, of those that a person wrote."""
        named = self.pairs in COMPOSITES.values()
        return [] if named else [repr(pattern) for i, (pattern, _) in enumerate(self.pairs) if i not in self.fitted]

    def __call__(self, op: Op) -> Rule | None:
        found = next((i for i, (pattern, _) in enumerate(self.pairs) if self._fits(pattern, op)), None)
        self.fitted |= set() if found is None else {found}
        rule = None if found is None else self.pairs[found][1]
        if rule is None or applies(rule, op):
            return rule
        self.passed_over.add(op.name)
        return None

    def _fits(self, pattern: Pattern, op: Op) -> bool:
        if isinstance(pattern, str):
            if pattern == "first":
                return op.name in WITH_WEIGHTS and not _after_weights(op)
            return fnmatchcase(op.name, pattern) or (op.module is not None and fnmatchcase(self.names.get(op.module, ""), pattern))
        if isinstance(pattern, nn.Module):
            return op.module is pattern
        return isinstance(op.module, pattern) if isinstance(pattern, type) else bool(pattern(op))


def _after_weights(op: Op) -> bool:
    """Whether an operation with weights comes before this one."""
    waiting, seen = list(op.parents), set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        before = getattr(node, "op", None)
        if isinstance(before, Op) and before.name in WITH_WEIGHTS:
            return True
        waiting += [following for following, _ in node.next_functions]
    return False


def _is_activation(layer: nn.Module) -> bool:
    """An activation written as several operations, by its name: it has no weights and no parts."""
    own = not type(layer).__module__.startswith("torch.")
    empty = not layer._modules and not layer._parameters
    return own and empty and re.search(r"gelu|silu|swish|mish|activation|relu", type(layer).__name__, re.IGNORECASE) is not None


def _by_element(layer: nn.Module, source: Tensor) -> bool:
    """Whether the module maps each number by itself: some stay as they are when the others are made zero."""
    sample = source.detach()[: None if source.numel() <= 4096 else 1].clone()
    irregular = (torch.arange(sample.numel(), device=sample.device) * 2654435761 >> 16) & 1 == 1
    kept = irregular.view(sample.shape)
    with torch.no_grad():
        try:
            usual, other, rest = (layer.forward(torch.where(m, sample, 0.0)) for m in (torch.ones_like(kept), kept, ~kept))
        except (RuntimeError, ValueError, IndexError, TypeError):
            return False
        return bool(usual.shape == sample.shape and torch.equal(usual[kept], other[kept]) and torch.equal(usual[~kept], rest[~kept]))


@contextmanager
def _as_one(layers: Sequence[nn.Module], mode: Ruled) -> Iterator[None]:
    """While the block runs, each of the layers is one operation, that passes relevance on."""
    sources: list[Tensor | None] = []

    def before(layer: nn.Module, args: Any) -> Any:
        (positional, keywords), source = args, args[0][0] if len(args[0]) == 1 and not args[1] else None
        fits = isinstance(source, Tensor) and source.requires_grad and torch.is_grad_enabled() and _by_element(layer, source)
        sources.append(source if fits else None)
        mode.resting += fits
        return ((source.detach(),) if fits and isinstance(source, Tensor) else positional), keywords

    def after(layer: nn.Module, output: Any) -> Any:
        source = sources.pop()
        if source is None:
            return output
        mode.resting -= 1
        return mode.given("activation", passed, layer, source, output)

    if not layers:
        yield
        return
    with around(layers, before, after):
        yield


def _check(odd: Mapping[str, str], choice: _Choice) -> Check:
    words = "every operation had a rule"
    if odd:
        places = ", ".join(f"{name}{where}" for name, where in sorted(odd.items()))
        words = f"{places}: no rule is known, so relevance was shared by the operation's own gradient"
    if choice.passed_over:
        words += f"; the composite's rule is for weights, and was passed over for {', '.join(sorted(choice.passed_over))}"
    if choice.idle:
        words += f"; the composite's {', '.join(choice.idle)} fitted nothing"
    return Check("rules", not odd and not choice.idle, words, float(len(odd)) if odd else None)
