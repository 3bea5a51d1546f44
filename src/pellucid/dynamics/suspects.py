"""A gallery of the labels that look wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError, OptionError
from ..show.numbers import count as counted
from ..show.thing import thing_of, value_of
from ..show.tiles import Shown, tiled
from .pictures import finite_of, known_of, left_out, name_of, unbroken
from .record import Dynamics
from .scores import suspicion

if TYPE_CHECKING:
    Several = Sequence[Any] | Tensor | NDArray[Any] | Callable[[int], Any]

__all__ = ["draw_suspects"]

# By what, its short name, its sign as people read it, what it is, and whose.
MEASURES: Mapping[str, tuple[str, int, str, str]] = {
    "area_under_margin": ("margin", -1, "mean margin of the label's logit, low where it looks wrong", "Pleiss et al. 2020"),
    "learning_epoch": ("epoch", 1, "mean epoch in which it was right, or how many there were if it never was", "TIDY"),
    "forgetting": ("forgotten", 1, "how often it was, or how many epochs there were if it was never learned", "Toneva et al. 2019"),
    "confidence": ("confidence", -1, "mean probability of the label, low where it looks wrong", "Swayamdipta et al. 2020"),
}


def draw_suspects(
    dynamics: Dynamics,
    pictures: Several,
    *,
    by: str = "area_under_margin",
    count: int = 12,
    classes: Sequence[str] = (),
    width: float = 8.0,
) -> Figure:
    """The examples whose labels look most wrong, the worst first: index, label, what the model predicted at last if that differs, score.

    Source: the measures of `SUSPICIONS`; Pleiss et al. 2020 for the default.

    Args:
        dynamics: what a `Recorder` recorded.
        pictures: what the examples look like, one for each: an array `(N, H, W)` or `(N, H, W, 3)` of uint8 or of numbers in [0, 1], a
            tensor `(N, C, H, W)`, PIL images, texts, or table rows as mappings from names to values; or a function from an index to one.
        by: one of `SUSPICIONS`.
        count: how many.
        classes: names of the classes.
        width: of the figure, in inches.

    Raises:
        InputError: nothing was recorded, not as many pictures as examples, pictures that cannot be drawn, too few names.
        OptionError: an unknown measure, a count that is not positive, a figure that is too narrow.

    >>> from pellucid.dynamics import Recorder
    >>> recorder = Recorder()
    >>> recorder.update([0, 1], torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0]))
    >>> draw_suspects(recorder.dynamics, ["a film to love", "dull"], classes=("good", "bad")).texts[0].get_text()
    'the 2 most suspicious of 2 labels'
    """
    known = known_of(dynamics, classes, width)
    if not isinstance(count, Integral) or count < 1:
        raise OptionError(f"count={count!r} shows no example; give a whole number from 1")
    scores = suspicion(dynamics, by)
    there = finite_of(known, scores)
    order = torch.where(scores.isnan(), -torch.inf, scores).argsort(descending=True, stable=True).numpy()
    worst = order[there[order]][:count].tolist()
    look = _lookup(pictures, len(dynamics))
    things = [thing_of(look(i), what=f"pictures[{i}]") for i in worst]
    short, sign, *_ = MEASURES[by]
    shown = [
        Shown(thing, f"#{i}", [*_said(dynamics, i, classes), (short, value_of(sign * float(scores[i])))])
        for i, thing in zip(worst, things, strict=True)
    ]
    return tiled([("", shown)], width, _suspect_words(dynamics, worst, by, int(there.sum())), [*left_out(known, there)])


def _suspect_words(dynamics: Dynamics, worst: Sequence[int], by: str, all_: int) -> tuple[str, ...]:
    short, _, meaning, source = MEASURES[by]
    differ = any(_last(dynamics, i) != int(dynamics.labels[i]) for i in worst)
    last = "model: its last prediction" + (", where that is not the label" if differ else " was the label of all of these")
    several = f"{len(worst):,} " if len(worst) > 1 else ""
    return f"the {several}most suspicious of {counted(all_, 'label')}", f"{short}: {meaning} ({unbroken(source)})", last


def _said(dynamics: Dynamics, index: int, classes: Sequence[str]) -> Iterator[tuple[str, str]]:
    label, last = int(dynamics.labels[index]), _last(dynamics, index)
    yield "label", name_of(label, classes)
    if last != label:
        yield "model", name_of(last, classes)


def _last(dynamics: Dynamics, index: int) -> int:
    """What was predicted when it was last seen."""
    return int(dynamics.predicted[index][dynamics.seen[index]][-1])


def _lookup(pictures: Several, size: int) -> Callable[[int], Any]:
    if callable(pictures):
        return pictures
    if len(pictures) != size:
        raise InputError(
            f"there are {counted(len(pictures), 'picture')} for {counted(size, 'example')}; give one for each, or a function from an index"
        )
    return lambda index: _item(pictures, index)


def _item(pictures: Any, index: int) -> Any:
    try:
        return pictures[index]
    except (KeyError, IndexError, TypeError) as error:
        kind = type(pictures).__name__
        raise InputError(
            f"pictures[{index}] of a {kind} fails ({error!r}); give a sequence (of a data frame: to_dict('records')) or a function"
        ) from error
