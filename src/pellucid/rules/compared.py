"""DeepLIFT and DeepLiftShap: the change of the score from a reference, carried back through every operation's secant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..batch import Part, Run, Sum
from ..errors import OptionError
from ..explanation import Check, Found
from ..inputs import Tensors, accurate, differentiable, joined
from ..inside import Place
from ..memory import is_out
from ..view import InputView, View
from .averaged import averaged
from .engine import OtherWay, Ruled
from .operation import Ruling
from .passes import Seen, refuse_hidden, ruled_pass, taped_pass
from .reveal import revealing
from .rewrites import REWRITES, gated
from .secants import BILINEAR, CONVOLUTIONS, SECANTS
from .spellings import MOVES, SUMS

__all__ = ["DEEPLIFT", "Attribute", "deeplift", "deeplift_shap", "differences", "multipliers"]

DEEPLIFT = Ruling(
    SECANTS, {**REWRITES, **gated(torch.sigmoid)}, MOVES | SUMS, frozenset(BILINEAR + CONVOLUTIONS), frozenset({"mul"}), averaged
)

# (multipliers (T, rows, ...), features (rows, ...), reference features (rows, ...)) -> attributions (T, rows, ...)
Attribute = Callable[[Tensors, Tensors, Tensors], Tensors]

# One row of a reference stands for many, unless that breaks completeness.
SHARED_GAP = 1e-3


def differences(multiplied: Tensors, features: Tensors, references: Tensors) -> Tensors:
    """Multipliers times the distance from the reference."""
    return tuple(m * (x - r) for m, x, r in zip(multiplied, features, references, strict=True))


def multipliers(multiplied: Tensors, features: Tensors, references: Tensors) -> Tensors:
    """The multipliers themselves."""
    return multiplied


def deeplift(
    view: InputView,
    baselines: Tensors,
    attribute: Attribute = differences,
    place: Place | None = None,
    rule: str = "rescale",
    run: Run | None = None,
) -> Found:
    """DeepLIFT: `(x - x0) * m`, the multipliers m chained from the secant of every operation between x0 and x.

    Every operation counts, however it is spelled: activations, products, max-pooling, normalisation, softmax, attention,
    recurrent cells; one without a closed form uses its averaged gradient, scaled to be complete.
    Law (completeness): the attributions add up to `score(x) - score(x0)`, up to rounding.
    Source: Shrikumar, Greenside, Kundaje 2017, equations 1, 3 and 10; products, softmax and normalisation by the same
    principle.

    Args:
        baselines: `(B, ...)` per input. Where they are the same for all examples, one forward pass of one row serves all.
        attribute: what is made of multipliers, features and references.
        place: attribute to what the model holds there, compared with what it holds at the baselines.
        rule: of activations behind weights: "rescale", or "reveal_cancel" (their equations 12 to 15), where what raises a unit and
            what lowers it count apart.

    Raises:
        OptionError: parts whose operations cannot be seen. OtherWay: a model that runs other operations at the baselines.

    >>> import torch; from pellucid.view import at_input
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.GELU(), torch.nn.Linear(8, 2))
    >>> x = torch.randn(4, 3)
    >>> found = deeplift(at_input(net, x, target=1), (torch.zeros_like(x),))
    >>> bool(found.gap.abs().max() < 1e-5)
    True
    """
    same = all(bool((b == b[:1]).all()) for b in baselines)
    references = tuple(b[:1] for b in baselines) if same else baselines
    return _explained(view, _Pairs(references, not same, attribute, place, rule, run or Run()), 1, baselines)


def deeplift_shap(
    view: InputView,
    references: Tensors,
    attribute: Attribute = differences,
    place: Place | None = None,
    rule: str = "rescale",
    run: Run | None = None,
) -> Found:
    """DeepLIFT averaged over a distribution of references, which approximates Shapley values (DeepSHAP).

    Law (completeness): the attributions add up to `score(x)` less the mean score of the references.
    Source: Lundberg and Lee 2017, section 4.2.

    Args:
        references: `(N, ...)` per input. `notes["sample_gap"]`, `(T, N, B)`, is the law's gap for each of them.

    >>> import torch; from pellucid.view import at_input
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> found = deeplift_shap(at_input(net, torch.randn(4, 3), target=1), (torch.randn(5, 3),))
    >>> bool(found.gap.abs().max() < 1e-5)
    True
    """
    return _explained(view, _Pairs(references, False, attribute, place, rule, run or Run()), len(references[0]), None)


def _ruling(rule: str, elsewhere: set[str]) -> Ruling:
    if rule not in RULES:
        raise OptionError(f"rule {rule!r} is unknown; DeepLIFT's rules are {' and '.join(map(repr, RULES))}")
    return RULES[rule](DEEPLIFT, elsewhere)


RULES: dict[str, Callable[[Ruling, set[str]], Ruling]] = {"rescale": lambda ruling, _: ruling, "reveal_cancel": revealing}


@dataclass(eq=False)
class _Pairs:
    """Runs of examples paired with references: each with its own, or all with all.

    `sharing`: whether a reference runs once for all examples that it is paired with. That needs a model that gets
    nothing besides the features, and is given up where it does not hold.
    """

    references: Tensors
    own: bool
    attribute: Attribute
    place: Place | None
    rule: str
    run: Run
    sharing: bool = True
    complete: bool = True
    unseen: set[str] = field(default_factory=set)
    elsewhere: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.ruling = _ruling(self.rule, self.elsewhere)

    def block(self, view: InputView, points: Tensors, examples: slice, steps: slice) -> tuple[Tensor, Tensors]:
        """Scores here `(T, rows)`, and attributions, gaps and scores at the references."""
        rows = examples if self.own else steps
        references = tuple(r[rows] for r in self.references)
        if self.sharing and not self.own and self.place is None and not _arguments(view):
            found = self._shared(view, points, references)
            if found is not None:
                return found
            self.sharing = False
        copies = len(points[0]) // len(references[0])
        wide = references if self.own else tuple(r.repeat_interleave(copies, 0) for r in references)
        taping = Ruled(self.ruling, taping=True)
        there = taped_pass(self.run, view, wide, taping, self.place)
        return self._carried(view, points, taping, there, len(points[0]))

    def _shared(self, view: InputView, points: Tensors, references: Tensors) -> tuple[Tensor, Tensors] | None:
        taping = Ruled(self.ruling, taping=True)
        try:
            scores = self._once(view, references, taping)
            wide = tuple(r.repeat_interleave(view.size, 0) for r in references)
            found = self._carried(view, points, taping, Seen(scores, (), wide), len(references[0]))
        except (OtherWay, RuntimeError, ValueError, IndexError, TypeError) as error:
            if is_out(error):
                raise
            return None
        return found if self.complete else None

    def _once(self, view: InputView, references: Tensors, taping: Ruled) -> Tensor:
        """The scores `(T, rows)` of each reference for each example, from one call of the model for the references."""
        self.run.count(references)
        count, size = len(references[0]), view.size
        with torch.inference_mode(False), torch.enable_grad(), taping:
            leaves = tuple(r.detach().clone().requires_grad_() for r in references)
            taping.sources = leaves
            output = view.some([0] * count).call(leaves)
            output = pytree.tree_map_only(
                torch.Tensor, lambda t: t.repeat_interleave(size, 0) if t.dim() and len(t) == count else t, output
            )
            return view.pick.at([*range(size)] * count).scores(output, count * size).detach()

    def _carried(self, view: InputView, points: Tensors, taping: Ruled, there: Seen, rows: int) -> tuple[Tensor, Tensors]:
        mode = Ruled(self.ruling, taping.tape, rows=(len(points[0]), rows))
        here = ruled_pass(self.run, view, points, mode, self.place)
        self.unseen |= mode.unseen
        steps = differences(here.gradients, here.features, there.features)
        change = here.scores - there.scores
        gaps = joined(steps, 2).sum(2) - change
        self.complete = bool((gaps.abs() <= SHARED_GAP * change.abs() + 1e-6 * here.scores.abs()).all())
        if self.attribute is not differences:
            steps = self.attribute(here.gradients, here.features, there.features)
            gaps = joined(steps, 2).sum(2) - change
        return here.scores, (*steps, gaps, there.scores)


def _arguments(view: InputView) -> bool:
    leaves = pytree.tree_leaves((view.call.arguments, dict(view.call.keywords)))
    return any(isinstance(leaf, Tensor) and leaf.dim() for leaf in leaves)


def _explained(view: InputView, pairs: _Pairs, count: int, baselines: Tensors | None) -> Found:
    features = differentiable(view.features)
    refuse_hidden(view.roots, "deeplift")
    total, scores, notes = Sum(view.size), Sum(view.size), Sum(view.size)

    def verb(block: View, points: Tensors, examples: slice, steps: slice) -> tuple[Tensor, Tensors]:
        assert isinstance(block, InputView)
        return pairs.block(block, points, examples, steps)

    def points(examples: slice, steps: slice) -> Tensors:
        return tuple(f[None, examples].expand(steps.stop - steps.start, *f[examples].shape) for f in features)

    def add(part: Part) -> None:
        *values, gaps, there = part.gradients
        for i, value in enumerate(values):
            total.add(i, part.examples, value.to(accurate(value.dtype)).sum(1) / count)
        scores.add(0, part.examples, part.scores.sum(1) / count)
        for i, of_pairs in enumerate((gaps, there)):
            padded = of_pairs.new_zeros(len(of_pairs), of_pairs.shape[2], count)
            padded[..., part.steps] = of_pairs.transpose(1, 2)
            notes.add(i, part.examples, padded)

    pairs.run.each(pairs.run.ready(view, count), count, points, verb, add, "deeplift")
    gaps, there = notes.values()
    law = "summation to delta" if pairs.attribute is differences else ""
    dtypes = [f.dtype for f in (features if pairs.place is None else total.values())]
    values = tuple(v.to(dtype) for v, dtype in zip(total.values(), dtypes, strict=True))
    checks = (_unseen(pairs.unseen),) if pairs.unseen else (_rescaled(pairs.elsewhere),) if pairs.elsewhere else ()
    return Found(values, scores.values()[0], there.mean(2), baselines, law, notes={"sample_gap": gaps.transpose(1, 2)}, checks=checks)


def _rescaled(names: set[str]) -> Check:
    words = f"reveal_cancel is for activations directly behind weights; {', '.join(sorted(names))} got the rescale rule"
    return Check("rules", True, words, float(len(names)))


def _unseen(names: set[str]) -> Check:
    words = f"{', '.join(sorted(names))} ran where its operations cannot be seen; autograd's own gradient was used in place of its rule"
    return Check("rules", False, words, float(len(names)))
