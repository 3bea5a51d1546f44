"""Training examples that speak for and against what a model says of a query."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from matplotlib.figure import Figure

from ..errors import InputError, OptionError
from ..explanation import Explanation
from ..gallery import Gallery
from .example import details, headline
from .numbers import number
from .tiles import Shown, tiled

__all__ = ["Ranked", "draw_training", "ranked"]

NARROWEST = 6.0


@dataclass(frozen=True)
class Ranked:
    """A training example: its index, its label, its score, and its place in the gallery."""

    index: int
    label: str
    score: float
    place: int


def ranked(explanation: Explanation, example: int, count: int) -> tuple[list[Ranked], list[Ranked]]:
    """Proponents and opponents of a query, the strongest first; only those whose scores have that sign, of those that were kept.

    Raises:
        InputError: no such query, or an explanation that keeps no training examples. OptionError: a count that is not positive.
    """
    gallery = gallery_of(explanation)
    if not 0 <= example < len(explanation):
        raise InputError(f"example={example} is not one of the {len(explanation)} queries; they are numbered from 0")
    if count < 1:
        raise OptionError(f"count={count} shows no example; give at least 1")
    scores = explanation.attribution[example].detach().float().cpu()
    every = [
        Ranked(i, label, float(scores[i]), place) for place, (i, label) in enumerate(zip(gallery.indices, gallery.labels, strict=True))
    ]
    best = sorted((each for each in every if each.score > 0), key=lambda each: -each.score)
    worst = sorted((each for each in every if each.score < 0), key=lambda each: each.score)
    return best[:count], worst[:count]


def gallery_of(explanation: Explanation) -> Gallery:
    """What the training examples look like.

    Raises:
        InputError: the explanation is about something else.
    """
    if explanation.display.gallery is None:
        raise InputError(f"this explanation by {explanation.method} is not about training examples; kind='examples' belongs to those")
    return explanation.display.gallery


def draw_training(explanation: Explanation, example: int = 0, count: int = 6, width: float = 8.0, titled: bool = True) -> Figure:
    """A query, its proponents and its opponents: pictures, texts or rows, with labels and scores.

    Args:
        count: of each, at most as many as were kept.
        width: in inches, at least six.
        titled: what the model said, above.
    """
    if not width >= NARROWEST:
        raise OptionError(f"width={width!r} leaves no room; give {NARROWEST:g} inches or more")
    gallery = gallery_of(explanation)
    best, worst = ranked(explanation, example, count)
    groups = [("", [Shown(gallery.asked[example], "the query", [*_said(explanation, example)])])]
    groups += [("for it", [_shown(gallery, each) for each in best])] if best else []
    groups += [("against it", [_shown(gallery, each) for each in worst])] if worst else []
    words = [headline(explanation, example), " · ".join(details(explanation, example))] if titled else []
    return tiled(groups, width, [*words, f"scores: {gallery.unit}"], [*_left(best, worst)])


def _said(explanation: Explanation, example: int) -> Iterator[tuple[str, str]]:
    gallery = gallery_of(explanation)
    yield "label", gallery.asked_labels[example]
    if explanation.predictions is not None:
        predicted = int(explanation.predictions[example])
        yield "model", explanation.display.classes[predicted] if explanation.display.classes else str(predicted)


def _shown(gallery: Gallery, each: Ranked) -> Shown:
    return Shown(gallery.things[each.place], f"#{each.index}", [("label", each.label), ("score", number(each.score, signed=True))])


def _left(best: list[Ranked], worst: list[Ranked]) -> Iterator[str]:
    if not best or not worst:
        yield "no training example speaks " + " or ".join(side for side, found in (("for it", best), ("against it", worst)) if not found)
