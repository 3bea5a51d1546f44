"""TCAV: how often, and how much, a class grows along a concept's vector; and whether more than along those of chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..batch import Part, Run, Sum
from ..errors import InputError, TargetError, warn
from ..inputs import Tensors, accurate
from ..inside import look
from ..model import in_train_mode
from ..seeds import generator, resolve_seed
from ..view import InputView, View
from .activations import Named, activations, flat, listed, word
from .vectors import vectors

__all__ = ["Compared", "Scores", "Verdict", "against_chance", "derivatives", "scores", "significance"]


class Scores(NamedTuple):
    """Of each vector `(C,)`: the share of examples whose score grows along it, and the mean of how much."""

    sign_count: Tensor
    magnitude: Tensor


class Compared(NamedTuple):
    """Scores of a concept and of random ones, `(K,)` each, and how likely means so far apart are by chance."""

    concept: Tensor
    random: Tensor
    p: float


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a test with concept activation vectors found at a layer.

    Attributes:
        sign_count: Kim et al.'s score, the share of examples.
        magnitude: the mean directional derivative.
        accuracy: of the concept's classifiers, their mean.
    """

    sign_count: Compared
    magnitude: Compared
    accuracy: float


def derivatives(view: InputView, layers: Named | Sequence[Named], of_input: bool = False, run: Run | None = None) -> dict[str, Tensor]:
    """The gradients of the score with respect to what layers hold, `{layer: (B, F)}`; one backward pass for all layers.

    Raises:
        OptionError: no such layer, or one that does not run. TargetError: several targets.

    >>> from pellucid.view import at_input
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    >>> bool((derivatives(at_input(net, torch.randn(5, 3), 1), "0")["0"] == net[1].weight[1]).all())
    True
    """
    run, asked, total = run or Run(), listed(layers), Sum(view.size)
    if modes := in_train_mode(view.roots):
        warn("mode", f"the model is in train mode ({', '.join(modes[:4])}): its gradients are not those of later; call model.eval()")
    place = run.place(view, asked, of_input).place

    def verb(block: View, points: Tensors, *_: object) -> tuple[Tensor, Tensors]:
        assert isinstance(block, InputView)
        seen = run.inside(block, place, points=points)
        return seen.scores, seen.gradients

    def add(part: Part) -> None:
        if len(part.scores) != 1:
            raise TargetError(f"the view has {len(part.scores)} scores for each example, and concepts are about one; choose one target")
        for i, gradient in enumerate(part.gradients):
            total.add(i, part.examples, gradient[:, 0])

    def forward(one: View) -> object:
        assert isinstance(one, InputView)
        return look(one, place, graph=True)

    run.each(
        run.ready(view, 1), 1, lambda examples, _: tuple(f[None, examples] for f in view.features), verb, add, "concepts", forward
    )  # fmt: skip
    return dict(zip(map(word, asked), flat(tuple(g[0] for g in total.values()), place.counts), strict=True))


def scores(gradients: Tensor, weights: Tensor) -> Scores:
    """How the score changes along vectors: `S = gradient . v` of each example; the share of `S > 0`, and its mean.

    Source: Kim et al. 2018, equations 1 (directional derivative) and 2 (the share). The mean is Captum's "magnitude".

    Args:
        gradients: `(B, F)` of the score at a layer, or other sensitivities of it.
        weights: `(C, F)`, the vectors; magnitudes grow with their lengths.

    Raises:
        InputError: vectors of another layer, or of examples of another shape.

    >>> found = scores(torch.tensor([[1.0, 0.0], [-2.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> found.sign_count.tolist(), found.magnitude.tolist()
    ([0.5, 0.5], [-0.5, 0.5])
    """
    if gradients.dim() != 2 or weights.dim() != 2 or gradients.shape[1] != weights.shape[1]:
        raise InputError(
            f"the gradients {tuple(gradients.shape)} and the vectors {tuple(weights.shape)} are not of the same layer and shape; give "
            "inputs and the concepts' examples the same shape"
        )
    _doubtful(gradients)
    exact = accurate(gradients.dtype)
    along = gradients.detach().to(exact) @ weights.detach().to(gradients.device, exact).T
    return Scores((along > 0).to(exact).mean(0), along.mean(0))


def _doubtful(gradients: Tensor) -> None:
    unknown, none = int((~gradients.isfinite()).any(1).sum()), int((gradients == 0).all(1).sum())
    if unknown:
        warn("finite", f"the gradients of {unknown} of {len(gradients)} examples are not finite: their signs mean nothing")
    if none:
        warn("zero", f"the score of {none} of {len(gradients)} examples does not change with the layer: they count as not growing")


def significance(concept: Tensor | Sequence[float], random: Tensor | Sequence[float]) -> float:
    """The p value of Welch's two-sided t-test: how likely means of scores so far apart are if both come from one source.

    Source: Kim et al. 2018, section 3.3. Welch's, because a concept's scores spread less than those of random ones.
    The scores of a group must not share examples, or what all have in common looks like an effect (see `against_chance`).

    Args:
        concept, random: `(K,)` scores, at least two each.

    Raises:
        InputError: fewer, or scores that are not finite.

    >>> significance([0.9, 1.0, 0.95], [0.4, 0.6, 0.5]) < 0.01
    True
    """
    from scipy.stats import ttest_ind_from_stats

    one, two = (torch.as_tensor(group).detach().double().flatten().cpu() for group in (concept, random))
    if min(len(one), len(two)) < 2 or not bool(one.isfinite().all() & two.isfinite().all()):
        raise InputError(f"there are {len(one)} and {len(two)} scores; a t-test needs two of each at least, all finite: make more runs")
    spreads = float(one.std()), float(two.std())
    if not any(spreads):  # t is 0 / 0 or infinite
        return float(one.mean() == two.mean())
    return float(ttest_ind_from_stats(float(one.mean()), spreads[0], len(one), float(two.mean()), spreads[1], len(two), equal_var=False)[1])


def against_chance(
    view: InputView,
    layers: Named | Sequence[Named],
    concept: Any,
    randoms: Sequence[Any],
    of_input: bool = False,
    held_out: float = 0.33,
    seed: int | None = None,
    run: Run | None = None,
) -> dict[str, Verdict]:
    """Whether a score grows (or falls) along a concept more than along random directions: `{layer: Verdict}`.

    In run k a part of the concept's examples is told from random set k, and random set k + 1 from random set k; a t-test
    compares the scores of both. Every run has examples of its own, all of the same number. Kim et al. give all of the
    concept's examples to every run; its scores then share what is peculiar to those examples, and a set of random
    examples is found significant far more often than p says.
    Source: Kim et al. 2018, section 3.3. Of several layers or concepts, compare p with your level over their number.

    Args:
        view: of the inputs whose class is asked about, `at_input(model, inputs, target)`.
        layers, of_input: see `activations`.
        concept: its examples.
        randoms: sets of random examples, at least three, ten or more to be useful; each set by itself.
        held_out, seed: see `vectors`.

    Raises:
        InputError: fewer sets, a concept with fewer than two examples for each, see `vectors` too.

    >>> from pellucid.view import at_input
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2))
    >>> found = against_chance(at_input(net, torch.randn(9, 6), 1), "0", torch.randn(40, 6), torch.randn(4, 10, 6).unbind(), seed=0)
    >>> found["0"].sign_count.concept.shape, 0 <= found["0"].sign_count.p <= 1
    (torch.Size([4]), True)
    """
    if len(randoms) < 3:
        raise InputError(f"there are {len(randoms)} random sets; give three at least, and ten to find anything")
    seed, model = resolve_seed(seed), view.call.model
    gradients = derivatives(view, layers, of_input, run)
    own = activations(model, concept, layers, of_input)
    other = [activations(model, examples, layers, of_input, f"random set {k}") for k, examples in enumerate(randoms)]
    return {name: _judged(gradients[name], own[name], [rows[name] for rows in other], held_out, seed) for name in gradients}


def _judged(gradients: Tensor, concept: Tensor, randoms: Sequence[Tensor], held_out: float, seed: int) -> Verdict:
    count = len(randoms)
    size = min(len(concept) // count, *map(len, randoms))
    if size < 2:
        raise InputError(
            f"the concept has {len(concept)} examples for {count} random sets, the smallest of {min(map(len, randoms))}; every run needs "
            "two examples of its own on each side: give more, or fewer sets"
        )
    parts = concept[torch.randperm(len(concept), generator=generator(seed, 0))].split(size)
    sides = [(parts[k], randoms[k][:size]) for k in range(count)] + [(randoms[k - 1][:size], randoms[k][:size]) for k in range(count)]
    fitted = [vectors({"concept": one, "random": two}, held_out, seed + k) for k, (one, two) in enumerate(sides)]
    found = scores(gradients, torch.stack([each.weights[0] for each in fitted]))
    accuracy = sum(each.accuracy for each in fitted[:count]) / count
    signs, sizes = (Compared(s[:count], s[count:], significance(s[:count], s[count:])) for s in found)
    return Verdict(signs, sizes, accuracy)
