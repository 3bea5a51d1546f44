"""Pictures of discovered concepts: what each looks like and how important it is, and where on a picture each is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError, OptionError
from ..gallery import Thing
from .colour import colour_bar, palette
from .fitting import SIZE, legible
from .frame import MARGIN, Sheet, sheet
from .numbers import count, number, percent
from .picture import Layers, bare, paint
from .scale import scaled
from .thing import thing_of
from .tiles import INK, SOFT, Shown, tiled

if TYPE_CHECKING:
    from ..concept.bank import Concepts

__all__ = ["draw_concepts", "draw_maps"]

BARS, EMPTY = "#7d9cc0", "#f4f4f2"
NARROWEST = 6.0
NAMES, SCALE, GAP, AXIS = 1.05, 1.75, 0.07, 0.62  # inches: of names, of bars, between crops, below for the axis
CRISP = 96
DOUBTFUL = 0.5
FEW = 3  # examples of a concept that are no pictures
Box = tuple[float, float, float, float]
Looks = Callable[[Tensor], Any] | None


def draw_concepts(concepts: Concepts, most: int = 10, picture: Looks = None, width: float = 9.0) -> Figure:
    """A row for each concept, the most important first: a bar of its importance with its 95 % interval, and what shows it most.

    Crops that hold nothing of a concept are left out. What is no picture is drawn as tiles of text or of numbers.

    Args:
        concepts: what `discover` found.
        most: how many of them.
        picture: what a person is shown of a crop `(C, h, w)` or an example: see `show.thing.thing_of`. Default: the numbers as brightness,
            from the lowest of all crops to the highest where some lie outside [0, 1].
        width: of the figure, in inches.

    Raises:
        OptionError: no room. InputError: a crop that is nothing to look at.
    """
    if not width >= NARROWEST or most < 1:
        raise OptionError(
            f"width={width!r}, most={most!r}: nothing can be drawn; give {NARROWEST:g} inches or more, and one concept at least"
        )
    rows = range(min(most, len(concepts)))
    things = _things(concepts, rows, picture)
    words, notes = [*_words(concepts, len(rows))], [*_notes(concepts, rows)]
    if not all(isinstance(thing, np.ndarray) for row in things for thing in row):
        words.append("importance: total Sobol index, and 95 % of its bootstrap means")
        return tiled([_group(concepts, i, things[i]) for i in rows], width, words, notes)
    words.append("bars: total Sobol index, and 95 % of its bootstrap means; right: what shows the concept most")
    return _rows_of_pictures(concepts, things, width, words, notes)


def _things(concepts: Concepts, rows: Sequence[int], picture: Looks) -> list[list[Thing]]:
    """What there is to see of each concept, the strongest first; nothing where it is not there."""
    looks = picture or _brightness(concepts.shown)
    return [
        [
            thing_of(looks(each), what=f"example {int(i)}", stretch=picture is None)
            for each, i, strength in _shown(concepts, row)
            if strength > 0
        ]
        for row in rows
    ]


def _shown(concepts: Concepts, row: int) -> Iterator[tuple[Tensor, int, float]]:
    return zip(concepts.shown[row], concepts.examples[row].tolist(), concepts.strengths[row].tolist(), strict=True)


def _brightness(shown: Tensor) -> Callable[[Tensor], Any]:
    """Pictures in [0, 1], all by the same scale; other things as they are."""
    if shown.dim() != 5:
        return lambda each: each
    shown = shown.detach().cpu().double()
    low, high = min(0.0, float(shown.min())), float(shown.max())
    low, high = (0.0, 1.0) if low >= 0 and high <= 1 else (float(shown.min()), high)

    def looks(each: Tensor) -> Tensor:
        bright = ((each.cpu().double() - low) / max(high - low, 1e-12)).clamp(0, 1)
        return bright if len(bright) in (1, 3) else bright.mean(0, keepdim=True)

    return looks


def _words(concepts: Concepts, drawn: int) -> Iterator[str]:
    where = f"{'the input of ' if concepts.of_input else ''}{_layer(concepts.layer)}{f' (call {concepts.call})' if concepts.call else ''}"
    of = f"{drawn} of {count(len(concepts), 'concept')}" if drawn < len(concepts) else count(drawn, "concept")
    yield f"{of} at {where}, for {concepts.target}"
    kept = concepts.reconstruction
    parts = ("activations", kept.activations), ("score", kept.score), ("predictions", kept.predictions)
    told = [f"{percent(share)} of the {name}" for name, share in parts if math.isfinite(share)]
    if told:
        yield f"with the concepts alone the model keeps {', '.join(told)} ({count(kept.examples, 'example')})"


def _notes(concepts: Concepts, rows: Sequence[int]) -> Iterator[str]:
    kept = concepts.reconstruction
    if kept.score < DOUBTFUL or kept.activations < DOUBTFUL:
        yield "the concepts explain less than half of what the model does here: more concepts may, or another layer"
    if not bool(concepts.importance.isfinite().all()):
        yield "the score does not change with the concepts: their importance is not known"
    shaky = [str(i) for i in rows if float(concepts.stability[i]) < DOUBTFUL]
    if shaky:
        yield f"fitted to other examples, concept{'s' if len(shaky) > 1 else ''} {', '.join(shaky)} would be others"


def _layer(name: str) -> str:
    """A layer by its name, where that does not say what it is."""
    return name if name.startswith("layer") else f"layer {name}"


def _index(value: float) -> str:
    """A number around one with two decimals."""
    return f"{value:.2f}" if value >= 0.005 else "<0.01" if value > 0 else number(value)


def _group(concepts: Concepts, row: int, things: Sequence[Thing]) -> tuple[str, Sequence[Shown]]:
    """What is no picture: a heading, and tiles."""
    low, high = (_index(float(end)) for end in concepts.interval[row])
    heading = f"concept {row}   importance {_index(float(concepts.importance[row]))} ({low} to {high})"
    shown = zip(things[:FEW], concepts.examples[row].tolist(), concepts.strengths[row].tolist(), concepts.where[row].tolist(), strict=False)
    return heading, [
        Shown(thing, f"#{i}", [("holds", number(strength)), *([("at place", ", ".join(map(str, where)))] if where else [])])
        for thing, i, strength, where in shown
    ]


def _rows_of_pictures(
    concepts: Concepts, things: Sequence[Sequence[Thing]], width: float, words: Sequence[str], notes: Sequence[str]
) -> Figure:
    left, columns = NAMES + SCALE + 2 * MARGIN, max(1, *map(len, things))
    side = min((width - left - MARGIN + GAP) / columns - GAP, 1.5)
    shapes = [each.shape[0] / each.shape[1] for row in things for each in row if isinstance(each, np.ndarray)]
    tall = side * min(max(shapes, default=1.0), 1.5)
    step = max(tall, 0.42) + GAP
    page = sheet(width, step * len(things) + AXIS, words, notes)
    _names(page, concepts, len(things), step)
    _bars(page, concepts, len(things), step)
    ground = page.axes(left, 0, width - left, step * len(things))
    ground.set(xlim=(0, width - left), ylim=(step * len(things), 0))
    ground.set_axis_off()
    for row, shown in enumerate(things):
        for column, thing in enumerate(shown):
            assert isinstance(thing, np.ndarray)
            at = _crop(ground, thing, column * (side + GAP), row * step, side, tall)
            if concepts.crop is None and len(concepts.places) == 2:
                _ring(ground, at, concepts.where[row, column].tolist(), concepts.places)
        if not shown:
            ground.text(0, (row + 0.5) * step - GAP / 2, "no example holds it", fontsize=SIZE, color=SOFT, va="center")
    return legible(page.figure)


def _crop(ground: Axes, thing: NDArray[np.uint8], left: float, down: float, side: float, tall: float) -> Box:
    """As large as fits, its proportions kept, in a thin frame; where it lies."""
    scale = min(side / thing.shape[1], tall / thing.shape[0])
    wide, high = thing.shape[1] * scale, thing.shape[0] * scale
    small = max(thing.shape[:2]) <= CRISP
    at = (left, left + wide, down + high, down)
    ground.imshow(
        thing, cmap="gray", vmin=0, vmax=255, extent=at, interpolation="nearest" if small else "antialiased", aspect="auto", zorder=2
    )  # fmt: skip
    ground.add_patch(Rectangle((left, down), wide, high, fill=False, edgecolor="#b5b5b5", linewidth=0.6, zorder=3))
    return left, down, wide, high


def _ring(ground: Axes, at: Box, place: Sequence[int], places: Sequence[int]) -> None:
    """A box around the place that was found in a picture; seen on light and on dark."""
    left, down, wide, high = at
    step = wide / places[1], high / places[0]
    for colour, line in (("#ffffff", 2.2), ("#111111", 0.9)):
        corner = left + place[1] * step[0], down + place[0] * step[1]
        ground.add_patch(Rectangle(corner, *step, fill=False, edgecolor=colour, linewidth=line, zorder=4))


def _names(page: Sheet, concepts: Concepts, size: int, step: float) -> None:
    axes = page.axes(MARGIN, 0, NAMES, step * size)
    axes.set(xlim=(0, NAMES), ylim=(step * size, 0))
    axes.set_axis_off()
    for row in range(size):
        middle, stable = (row + 0.5) * step - GAP / 2, float(concepts.stability[row])
        known = math.isfinite(stable)
        axes.text(0, middle - 0.09 * known, f"concept {row}", fontsize=9.5, color=INK, va="center")
        if known:
            axes.text(0, middle + 0.09, f"stability {_index(stable)}", fontsize=8, color=SOFT, va="center")


def _bars(page: Sheet, concepts: Concepts, size: int, step: float) -> None:
    """Importance, with whiskers from end to end of its interval, on one scale."""
    axes = page.axes(MARGIN + NAMES, 0, SCALE, step * size)
    values, ends = concepts.importance[:size].double().numpy(), concepts.interval[:size].double().numpy()
    places = (np.arange(size) + 0.5) * step - GAP / 2
    axes.barh(places, np.nan_to_num(values), height=0.3 * step, color=BARS, zorder=2)
    axes.hlines(places, ends[:, 0], ends[:, 1], color=INK, linewidth=1.3, zorder=3)
    for end in ends.T:
        axes.vlines(end, places - 0.06, places + 0.06, color=INK, linewidth=1.3, zorder=3)
    highest = float(np.nanmax([*values, *ends[:, 1], 1e-6]))
    axes.set(xlim=(0, 1.45 * highest), ylim=(step * size, 0), yticks=[])
    for place, value, high in zip(places, values, np.nan_to_num(ends[:, 1]), strict=True):
        axes.text(
            max(value if math.isfinite(value) else 0, high) + 0.04 * highest, place, _index(value), fontsize=SIZE, va="center", color=INK
        )
    axes.locator_params(axis="x", nbins=3)
    axes.tick_params(labelsize=8)
    axes.set_xlabel("importance", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def draw_maps(
    concepts: Concepts, image: Tensor, maps: Tensor, example: int = 0, most: int = 7, picture: Looks = None, width: float = 9.0
) -> Figure:
    """A picture, and over it where each of the most important concepts is, all in the same colours.

    Args:
        concepts: what `discover` found.
        image: `(C, H, W)`; maps: `(K, h, w)`, the coefficients at the layer's places.
        example: its number, for the heading.
        most, picture, width: see `draw_concepts`.

    Raises:
        InputError: no picture. OptionError: no room.
    """
    if not width >= NARROWEST or most < 1:
        raise OptionError(
            f"width={width!r}, most={most!r}: nothing can be drawn; give {NARROWEST:g} inches or more, and one concept at least"
        )
    looks = picture or _brightness(image[None, None])
    seen = thing_of(looks(image), what="the image", stretch=picture is None)
    if not isinstance(seen, np.ndarray) or maps.dim() != 3:
        raise InputError(f"there is no map of inputs {tuple(image.shape)} at places {tuple(maps.shape[1:])}; maps are drawn over pictures")
    shown = scaled(maps[:most].clamp(min=0), "positive", 0.0)
    panels = len(shown.values) + 1
    columns = math.ceil(panels / math.ceil(panels / 4))
    room, tall, lines = _grid(seen, width, columns, math.ceil(panels / columns))
    words = f"where the concepts at {_layer(concepts.layer)} are", f"example {example}; in brackets: importance for {concepts.target}"
    page = sheet(width, lines * (tall + 0.36) + MARGIN, words)
    used = palette("positive")
    for i in range(panels):
        axes = page.axes(MARGIN + i % columns * (room + MARGIN), i // columns * (tall + 0.36) + 0.24, room, tall)
        bare(axes)
        axes.set_title("input" if not i else f"concept {i - 1} ({_index(float(concepts.importance[i - 1]))})", fontsize=9, pad=3)
        paint(axes, Layers(shown.values[i - 1] if i else shown.values[0], seen, used), "overlay" if i else "original_image")
    colour_bar(page.figure, page.axes(width - 1.0, 0.24, 0.13, tall), shown, used, "coefficient")
    return legible(page.figure)


def _grid(seen: NDArray[np.uint8], width: float, columns: int, lines: int) -> tuple[float, float, int]:
    """How wide and tall a panel is, beside the colour bar."""
    room = min((width - 1.15) / columns - MARGIN, 2.4)
    return room, room * min(max(seen.shape[0] / seen.shape[1], 0.4), 1.8), lines
