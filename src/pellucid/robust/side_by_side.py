"""The picture of one attacked example: before, what was added, after, and the attributions of both."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..errors import InputError, OptionError
from ..explanation import Explanation
from ..show.colour import colour_bar, palette
from ..show.example import Example, example_of, rows_of, unit_of
from ..show.fitting import cut, inches, legible
from ..show.frame import MARGIN, sheet
from ..show.numbers import count, literal, number
from ..show.picture import Layers, bare, map_of, paint
from ..show.scale import Array, array_of, finite, scaled
from .printed import prediction

if TYPE_CHECKING:
    from .moved import Moved

__all__ = ["draw_moved"]

BAR, SIZE, LINE = 1.2, 9, 0.34  # inches of a colour bar with its label, points, inches of two bars
FACTORS = [m * 10**e for e in range(9) for m in (1, 2, 5)]
BEFORE, AFTER, ADDED = "#a6a6a6", "#0072b2", "#222222"


def draw_moved(moved: Moved, example: int, options: Mapping[str, Any]) -> Figure:
    """The picture of its kind.

    Raises:
        InputError: no such example. OptionError: an option that pictures of this kind do not have.
    """
    if not isinstance(example, int) or not 0 <= example < len(moved):
        raise InputError(f"example={example!r} is not one of the {count(len(moved), 'example')}; they are numbered from 0")
    image = moved.before.display.kind == "image" and moved.inputs[0].dim() == 4
    picture: Callable[..., Figure] = draw_images if image else draw_bars
    known = list(inspect.signature(picture).parameters)[2:]
    for name in options:
        if name not in known:
            raise OptionError(f"this picture has no option {name!r}; it has {', '.join(known)}")
    return picture(moved, example, **options)


def _words(moved: Moved, example: int) -> tuple[str, str, str]:
    one, other = (prediction(each, example) for each in (moved.before, moved.after))
    size, length, rank, top = (
        float(each[min(example, len(each) - 1)]) for each in (moved.largest, moved.length, moved.rank_correlation, moved.top_overlap)
    )
    said = [f"explains {', then '.join(dict.fromkeys(moved.explained(example)))}", moved.before.method.replace("_", " ")]
    said += [f"example {example + 1} of {len(moved)}"] if len(moved) > 1 else []
    return (
        f"{one} → {other}",
        f"change: L-inf {number(size)}, L2 {number(length)} · attributions: rank correlation {number(rank, 2)}, "
        f"top-{moved.k} overlap {number(top, 2)}",
        " · ".join(said),
    )


def draw_images(moved: Moved, example: int, width: float = 10.0, outliers: float = 2) -> Figure:
    """Five pictures and a colour bar.

    Raises:
        OptionError: too little room.
    """
    side = (width - BAR - 6 * MARGIN) / 5
    if side < 0.9:
        raise OptionError(f"width={width!r} leaves no room for five pictures; give 6.5 inches or more")
    pictures, factor = _pictures(moved, example)
    maps = [_map(each, example) for each in (moved.before, moved.after)]
    shown, used = scaled(np.stack(maps), outliers=outliers), palette("all")
    tall = side * min(max(pictures[0].shape[0] / pictures[0].shape[1], 0.4), 2.5)
    page = sheet(width, tall + 0.5, _words(moved, example), shown.notes)
    panels = [page.axes(MARGIN + (side + MARGIN) * i, 0.4, side, tall) for i in range(5)]
    for panel in panels:
        bare(panel)
    for panel, picture in zip(panels[:3], pictures, strict=True):
        paint(panel, Layers(shown.values[0], picture, used), "original_image")
    for panel, values, picture in zip(panels[3:], shown.values, pictures[::2], strict=True):
        paint(panel, Layers(values, picture, used), "overlay")
    heads = ("before", f"change × {factor:,}" if factor else "no change", "after", "attribution before", "attribution after")
    below = (prediction(moved.before, example), "grey: none" if factor else "", prediction(moved.after, example), "", "")
    for panel, head, under in zip(panels, heads, below, strict=True):
        panel.set_title(f"{head}\n{literal(cut(under, side, SIZE))}", fontsize=SIZE)
    colour_bar(page.figure, page.axes((side + MARGIN) * 5 + 0.15, 0.4, 0.13, tall), shown, used, unit_of(moved.before))
    return legible(page.figure)


def _map(explanation: Explanation, example: int) -> Array:
    one = example_of(explanation, example)
    return map_of(one.values, 0, one.pooling)


def _pictures(moved: Moved, example: int) -> tuple[list[NDArray[Any]], int]:
    """Before, the amplified change on grey, and after, on one scale; and how much the change is amplified."""
    both = [_upright(array_of(tensor[0][example])) for tensor in (moved.inputs, moved.attacked)]
    low, high = float(min(map(np.min, both))), float(max(map(np.max, both)))
    fits = low >= 0 and high <= 255
    start, span = (0.0, 1.0 if high <= 1 else 255.0) if fits else (low, high - low or 1.0)
    change = (both[1] - both[0]) / span
    most = float(np.abs(change).max())
    # Half of the range is all that grey can give away.
    factor = max((f for f in FACTORS if f * most <= 0.5), default=1) if most else 0
    one, other = ((each - start) / span for each in both)
    return [_bytes(each) for each in (one, 0.5 + factor * change, other)], factor


def _upright(values: Array) -> Array:
    """`(H, W, 3)` or `(H, W)`; other numbers of channels are averaged."""
    known = finite(values)
    return np.moveaxis(known, 0, 2) if len(known) == 3 else known.mean(0)


def _bytes(values: Array) -> NDArray[np.uint8]:
    whole: NDArray[np.uint8] = np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
    return whole


def draw_bars(moved: Moved, example: int, width: float = 8.0, top: int = 10) -> Figure:
    """Of each of the strongest features or words, how much was added, and two bars.

    Raises:
        OptionError: no bars, or too little room.
    """
    if top < 1:
        raise OptionError(f"top={top!r} shows no bar; give at least 1")
    if not width >= 5:
        raise OptionError(f"width={width!r} leaves no room; give 5 inches or more")
    (names, one), (_, other) = (_things(each, example) for each in (moved.before, moved.after))
    added, label = _added(moved, example, names)
    strongest = np.argsort(-np.maximum(np.abs(finite(one)), np.abs(finite(other))), kind="stable")[:top]
    words = [cut(names[i], 2.6, SIZE) for i in strongest]
    left = max(inches(word, SIZE) for word in words) + 2 * MARGIN
    room, tall = width - left - 2 * MARGIN, LINE * len(words)
    share = 0.0 if added is None else 0.32
    lost = int((~np.isfinite(np.concatenate([one, other]))).sum())
    notes = [f"{lost} attributions are NaN or infinite; they have no bar"] if lost else []
    notes += [f"{count(len(names) - len(words), 'weaker one')} not shown"] if len(names) > len(words) else []
    page = sheet(width, tall + 0.8, _words(moved, example), notes)
    attributions = page.axes(left + share * room + MARGIN * bool(share), 0.3, (1 - share) * room, tall)
    _paired(attributions, one[strongest], other[strongest], unit_of(moved.before))
    first = attributions
    if added is not None:
        first = page.axes(left, 0.3, share * room - MARGIN, tall)
        first.barh(range(len(words)), added[strongest], height=0.5, color=ADDED)
        _plain(first, len(words), label)
    first.set_yticks(range(len(words)), list(map(literal, words)), fontsize=SIZE)
    return legible(page.figure)


def _paired(axes: Axes, one: Array, other: Array, label: str) -> None:
    for values, shift, colour, name in ((one, -0.19, BEFORE, "before"), (other, 0.19, AFTER, "after")):
        axes.barh(np.arange(len(values)) + shift, finite(values), height=0.36, color=colour, label=name)
    _plain(axes, len(one), label)
    axes.legend(ncols=2, fontsize=SIZE, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.1, handlelength=1.2)


def _plain(axes: Axes, rows: int, label: str) -> None:
    axes.set_ylim(rows - 0.4, -0.6)
    axes.set_yticks(range(rows), [""] * rows)
    axes.axvline(0, color="#444444", linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.margins(x=0.08)
    axes.locator_params(axis="x", nbins=4)
    axes.set_xlabel(label, fontsize=SIZE)


def _things(explanation: Explanation, example: int) -> tuple[list[str], Array]:
    """What has a bar: words, columns, or every number; and its attribution."""
    inputs = rows_of(explanation, example)
    if explanation.display.kind == "text":
        values = inputs[0].pooled()
        return list(inputs[0].named(len(values), "token")), values
    flat = np.concatenate([one.values.reshape(-1) for one in inputs])
    names = explanation.display.names
    return (list(names) if len(names) == len(flat) else _numbered(inputs)), flat


def _numbered(inputs: Sequence[Example]) -> list[str]:
    lead = [f"input {i}: " if len(inputs) > 1 else "" for i in range(len(inputs))]
    return [
        f"{start}feature {place[0] if len(place) == 1 else list(place)}"
        for start, one in zip(lead, inputs, strict=True)
        for place in np.ndindex(one.values.shape)
    ]


def _added(moved: Moved, example: int, names: Sequence[str]) -> tuple[Array | None, str]:
    """What the attack added to each thing that has a bar; None where layers are explained and not inputs."""
    rows = [array_of(change[example]) for change in moved.change]
    if moved.before.display.kind == "text":
        lengths = np.sqrt((rows[0].reshape(len(rows[0]), -1) ** 2).sum(1))
        return (lengths, "change (norm)") if len(lengths) == len(names) else (None, "")
    flat = np.concatenate([row.reshape(-1) for row in rows])
    return (flat, "change") if len(flat) == len(names) else (None, "")
