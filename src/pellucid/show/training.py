"""Training examples that speak for and against what a model says of a query."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from matplotlib.figure import Figure

from ..errors import InputError, OptionError
from ..explanation import Explanation
from ..gallery import Gallery
from .example import details, headline
from .fitting import cut
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


def ranked(explanation: Explanation, example: int, count: int) -> list[list[Ranked]]:
    """The strongest of each side, of those that were kept: the largest scores, and where there is another side the smallest.

    Raises:
        InputError: no such query, or an explanation that keeps no training examples. OptionError: a count that is not positive.
    """
    gallery = gallery_of(explanation)
    if not 0 <= example < len(explanation):
        raise InputError(f"example={example} is not one of the {len(explanation)} queries; they are numbered from 0")
    if count < 1:
        raise OptionError(f"count={count} shows no example; give at least 1")
    scores = explanation.attribution[example].detach().float().cpu()
    named = enumerate(zip(gallery.indices, gallery.labels, strict=True))
    every = sorted((Ranked(i, label, float(scores[i]), place) for place, (i, label) in named), key=lambda each: -each.score)
    if len(gallery.sides) == 1:
        return [every[:count]]
    return [[each for each in every if each.score > 0][:count], [each for each in reversed(every) if each.score < 0][:count]]


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
    gallery, strongest = gallery_of(explanation), ranked(explanation, example, count)
    sides = [side.format(cut(gallery.asked_labels[example], 3.0)) for side in gallery.sides]
    found = dict(zip(sides, strongest, strict=True))
    unit = f"scores: {gallery.unit}"
    words = [headline(explanation, example), " · ".join(details(explanation, example)), unit] if titled else []
    groups = [("" if titled else unit, [Shown(gallery.asked[example], "the query", [*_said(explanation, example)])])]
    groups += [(side, [_shown(gallery, each) for each in best]) for side, best in found.items() if best]
    return tiled(groups, width, words, [f"no training example speaks {side}" for side, best in found.items() if not best])


def _said(explanation: Explanation, example: int) -> Iterator[tuple[str, str]]:
    gallery = gallery_of(explanation)
    yield "label", gallery.asked_labels[example]
    if explanation.predictions is not None:
        predicted = int(explanation.predictions[example])
        yield "model", explanation.display.classes[predicted] if explanation.display.classes else str(predicted)


def _shown(gallery: Gallery, each: Ranked) -> Shown:
    return Shown(gallery.things[each.place], f"#{each.index}", [("label", each.label), ("score", number(each.score, signed=True))])
