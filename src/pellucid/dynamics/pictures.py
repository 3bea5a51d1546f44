"""Figures of training dynamics: the data map, forgetting, and the course of single examples"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError, OptionError
from ..show.colour import LINES
from ..show.fitting import LINE, SIZE, cut, inches, legible
from ..show.frame import Sheet, sheet
from ..show.numbers import count as counted
from ..show.numbers import literal, percent
from ..show.scale import Array
from .record import Dynamics
from .scores import data_map, forgetting

__all__ = ["draw_data_map", "draw_forgetting", "draw_trajectories", "finite_of", "known_of", "left_out", "name_of", "unbroken"]

INK, SOFT, BARS = "#222222", "#5a5a5a", "#7d8ca3"
NARROWEST = 6.0
MOST = 20_000  # points of a data map
NAMED = 8  # rings with names
BINS = ("never", "under 25 %", "25 to 50 %", "50 to 75 %", "75 % or more", "always")
# From red to blue through yellow, dark at both ends: ordered for every kind of colour vision.
LOOKS = (("#8f1127", "X"), ("#d9552c", "v"), ("#eda63a", "D"), ("#86b4cf", "s"), ("#4480b8", "^"), ("#1d3a73", "o"))
REGIONS = (("← easy to learn", 0.21, 0.985, 0), ("← hard to learn", 0.21, 0.015, 0), ("ambiguous", 0.506, 0.42, 90))
LAST_BAR = 24  # forgetting events; what was forgotten more often shares a bar


def draw_data_map(
    dynamics: Dynamics,
    *,
    suspects: Tensor | Sequence[int] | None = None,
    classes: Sequence[str] = (),
    width: float = 8.0,
    seed: int = 0,
) -> Figure:
    """Every example by how sure the model was of its label (up) and how much that changed from epoch to epoch (right).

    What is easy to learn lies at the top left, what is hard to learn (often mislabelled) at the bottom left, what is ambiguous at the
    right. Colours and signs say in what share of the epochs the label was predicted. Beside it, how many examples have what.

    Source: Swayamdipta et al. 2020, figure 1.

    Args:
        dynamics: what a `Recorder` recorded.
        suspects: the indices of examples to ring, those that matter most first: the first are named.
        classes: names of the classes.
        width: of the figure, in inches.
        seed: of the choice of 20,000 points where there are more; the histograms count all.

    Raises:
        InputError: nothing was recorded, indices that do not exist, too few names. OptionError: a figure that is too narrow.

    >>> from pellucid.dynamics import Recorder
    >>> recorder = Recorder()
    >>> for epoch in range(2):
    ...     recorder.update([0, 1], torch.tensor([[2.0, 0.0], [epoch, 0.5]]), torch.tensor([0, 0]))
    >>> draw_data_map(recorder.dynamics, suspects=[1]).texts[0].get_text()
    'data map of 2 examples'
    """
    known = known_of(dynamics, classes, width)
    ringed = [] if suspects is None else _indices(suspects, len(dynamics), "suspects")
    where = data_map(dynamics)
    there = finite_of(known, where.confidence)
    places = torch.stack([where.variability, where.confidence], 1).numpy()
    groups = _groups(where.correctness.numpy())
    drawn, rings = _drawn(there, ringed, seed), [i for i in ringed if there[i]]
    main = width - 3.6
    tall = max(main, 4.2)
    notes = [*_map_notes(dynamics, there, len(drawn), len(ringed) - len(rings), seed), *left_out(known, there)]
    page = sheet(width, tall + 0.5, [*_map_words(dynamics, int(there.sum()), rings, classes)], notes)
    axes = page.axes(0.6, 0.05, main, tall)
    _regions(axes)
    _points(axes, places[drawn], groups[drawn])
    across, up = places[rings].T
    axes.scatter(across, up, s=70, facecolors="none", edgecolors="#000000", linewidths=1, zorder=5, label="suspects", clip_on=False)
    _sides(page, tall, places[there], groups[there])
    return legible(page.figure)


def _map_words(dynamics: Dynamics, size: int, rings: Sequence[int], classes: Sequence[str]) -> Iterator[str]:
    yield f"data map of {counted(size, 'example')}"
    yield f"{counted(dynamics.predicted.shape[1], 'epoch')} (Swayamdipta et al. 2020); dashed: farther right is impossible"
    if rings:
        named = (f"#{i} labelled {cut(name_of(dynamics.labels[i], classes), 1.5)}" for i in rings[:NAMED])
        more = [f"and {len(rings) - NAMED:,} more"] if len(rings) > NAMED else []
        yield "ringed: " + ", ".join(unbroken(words) for words in (*named, *more))


def _map_notes(dynamics: Dynamics, there: NDArray[np.bool_], drawn: int, lost: int, seed: int) -> Iterator[str]:
    if dynamics.predicted.shape[1] == 1:
        yield "one epoch only: nothing could vary"
    if drawn < there.sum():
        yield f"{drawn:,} of {int(there.sum()):,} points are drawn, chosen at random (seed {seed}); the histograms count all"
    if lost:
        yield f"{counted(lost, 'suspect')} without a place, and not ringed"


def unbroken(words: str) -> str:
    """To be kept on one line."""
    return words.replace(" ", "\N{NO-BREAK SPACE}")


def left_out(known: NDArray[np.bool_], there: NDArray[np.bool_]) -> Iterator[str]:
    """How many examples are not shown, and why."""
    for lost, why in ((~known, "never seen"), (known & ~there, "with nothing but NaN")):
        if lost.any():
            yield f"{counted(int(lost.sum()), 'example')} {why}, and left out"


def finite_of(known: NDArray[np.bool_], values: Tensor) -> NDArray[np.bool_]:
    """Which examples can be drawn.

    Raises:
        InputError: none.
    """
    there: NDArray[np.bool_] = known & ~values.isnan().numpy()
    if not there.any():
        raise InputError(f"of {counted(int(known.sum()), 'example')} that were seen all are NaN; train again with a lower learning rate")
    return there


def _groups(correctness: Array) -> NDArray[np.int64]:
    """The number of the bin: the ends, never and always, are bins of their own."""
    return np.digitize(correctness, (0.25, 0.5, 0.75, 1.0)) + (correctness > 0)


def _drawn(there: NDArray[np.bool_], ringed: Sequence[int], seed: int) -> NDArray[np.int64]:
    """Which points are drawn: all, or a choice with all rings in it."""
    places = np.flatnonzero(there)
    if len(places) <= MOST:
        return places
    chosen = np.random.default_rng(seed).choice(places, MOST, replace=False)
    own = np.intersect1d(places, np.array(ringed, dtype=np.int64))
    return np.union1d(np.setdiff1d(chosen, own, assume_unique=True)[: max(MOST - len(own), 0)], own)


def _regions(axes: Axes) -> None:
    """The frame of a data map: how far its points can lie apart, and what its regions are called."""
    axes.set(xlim=(-0.015, 0.53), ylim=(-0.035, 1.035))
    axes.set_xlabel("variability: deviation of the label's probability", fontsize=9)
    axes.set_ylabel("confidence: mean probability of the label", fontsize=9)
    up = np.linspace(0, 1, 201)
    axes.plot(np.sqrt(up * (1 - up)), up, color="#b5b5b5", linewidth=0.9, linestyle="dashed", zorder=1)
    for name, x, y, turned in REGIONS:
        axes.text(x, y, name, fontsize=10, weight="bold", color=SOFT, va="bottom" if turned else "center", rotation=turned, zorder=6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SIZE)


def _points(axes: Axes, places: Array, groups: NDArray[np.int64]) -> None:
    """The points, small and faint where there are many; what is rare is drawn last."""
    size, opacity = float(np.clip(900 / math.sqrt(len(places)), 5, 34)), float(np.clip(12 / math.sqrt(len(places)), 0.3, 0.85))
    sizes = np.bincount(groups, minlength=len(BINS))
    for rank, group in enumerate(np.argsort(-sizes, kind="stable").tolist()):
        own, (colour, sign) = places[groups == group], LOOKS[group]
        axes.scatter(
            own[:, 0], own[:, 1], s=size, c=colour, marker=sign, alpha=opacity, linewidths=0, label=BINS[group],
            rasterized=True, zorder=2 + rank / 10, clip_on=False,
        )  # fmt: skip


def _sides(page: Sheet, tall: float, places: Array, groups: NDArray[np.int64]) -> None:
    """Three histograms above each other; the last one, of correctness, is the legend."""
    left, each = page.figure.get_figwidth() - 1.85, (tall - 1.3) / 3.4
    for column, limit, down, name in ((1, 1.0, 0.05, "confidence"), (0, 0.5, each + 0.55, "variability")):
        axes = page.axes(left, down, 1.65, each)
        axes.hist(places[:, column], bins=20, range=(0, limit), color=BARS)
        axes.set_xlim(0, limit)
        axes.set_xticks([0, limit / 2, limit])
        axes.set_xlabel(name, fontsize=9, labelpad=1)
        _counts(axes.yaxis, 3)
        _plain(axes)
    _legend(page.axes(left, 2 * each + 1.3, 1.65, tall - 2 * each - 1.25), np.bincount(groups, minlength=len(BINS)))


def _counts(axis: Any, most: int) -> None:
    """Whole numbers, with commas."""
    axis.set_major_locator(MaxNLocator(most, integer=True))
    axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _legend(axes: Axes, sizes: NDArray[np.int64]) -> None:
    """How many examples were right how often, each bar with the sign of its points."""
    axes.barh(range(len(BINS)), sizes, color=[colour for colour, _ in LOOKS], height=0.7)
    wide = float(axes.get_position().width) * _figure(axes).get_figwidth()
    axes.set(xlim=(0, sizes.max() * wide / (wide - inches(f"{sizes.max():,}", 8) - 0.08)), ylim=(-0.6, len(BINS) - 0.4))
    for row, ((colour, sign), size) in enumerate(zip(LOOKS, sizes.tolist(), strict=True)):
        axes.plot(-0.1 / wide, row, marker=sign, color=colour, markersize=5.5, clip_on=False, transform=axes.get_yaxis_transform())
        axes.annotate(f"{size:,}", (size, row), (3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(BINS)), BINS, fontsize=8)
    axes.tick_params(axis="y", length=0, pad=15)
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.set_title("correctness: how often right", fontsize=9, loc="right", pad=3)


def draw_forgetting(dynamics: Dynamics) -> Figure:
    """How many examples were forgotten how often: right, and wrong the next time they were seen; apart, those that were never right.

    Source: Toneva et al. 2019, figure 1.

    Args:
        dynamics: what a `Recorder` recorded.

    Raises:
        InputError: nothing was recorded.
    """
    known = known_of(dynamics)
    events, learned = (part.numpy()[known] for part in forgetting(dynamics)[:2])
    sizes = np.bincount(np.minimum(events[learned], LAST_BAR), minlength=1)
    never, kept = int((~learned).sum()), int((learned & (events == 0)).sum())
    page = sheet(7.0, 3.3, _forgotten_words(dynamics, kept, never, len(events)), tuple(left_out(known, known)))
    axes = page.rows(1)[0]
    names = [*map(str, range(len(sizes)))]
    names[LAST_BAR:] = [f"{LAST_BAR}+"] if len(names) > LAST_BAR else []
    rows = [*range(len(sizes)), len(sizes) + 0.5]
    bars = axes.bar(rows, [*sizes.tolist(), never], color=[*[LOOKS[4][0]] * len(sizes), LOOKS[0][0]], width=0.8)
    bars[-1].set_hatch("///")
    bars[-1].set_edgecolor("white")
    axes.bar_label(bars, [f"{size:,}" for size in (*sizes.tolist(), never)], fontsize=SIZE, padding=2, rotation=90 if len(rows) > 14 else 0)
    axes.set_xticks(rows, [*names, "never\nlearned"])
    axes.margins(y=0.2 if len(rows) > 14 else 0.1)
    axes.set_xlim(-0.7, max(len(sizes) + 1.2, 5))
    axes.set_xlabel("how often it was forgotten", fontsize=9)
    axes.set_ylabel("examples", fontsize=9)
    _counts(axes.yaxis, 5)
    _plain(axes)
    axes.tick_params(axis="x", length=0)
    return page.figure


def _forgotten_words(dynamics: Dynamics, kept: int, never: int, all_: int) -> tuple[str, str]:
    return (
        f"{kept:,} of {counted(all_, 'example')} {'was' if 1 in (kept, all_) else 'were'} never forgotten ({percent(kept / all_)})",
        f"{counted(dynamics.predicted.shape[1], 'epoch')} (Toneva et al. 2019); {never:,} never learned",
    )


def draw_trajectories(dynamics: Dynamics, which: Tensor | Sequence[int], *, classes: Sequence[str] = ()) -> Figure:
    """The probability of the label from epoch to epoch, a line for each of a few examples; a cross where another class was predicted.

    Source: the training dynamics of Swayamdipta et al. 2020, section 2.

    Args:
        dynamics: what a `Recorder` recorded.
        which: the indices of up to a dozen examples.
        classes: names of the classes.

    Raises:
        InputError: nothing was recorded, indices that do not exist or too many of them, examples never seen, too few names.
    """
    known_of(dynamics, classes)
    chosen = _indices(which, len(dynamics), "which")
    if not 1 <= len(chosen) <= len(LINES):
        raise InputError(f"which names {counted(len(chosen), 'example')}; give 1 to {len(LINES)}, as many lines as can be told apart")
    there = dynamics.probability.isfinite()
    lost = [i for i in chosen if not there[i].any()]
    if lost:
        raise InputError(f"which names example {lost[0]}, which was never seen, or only with NaN; leave it out")
    page = sheet(7.0, 3.4, ("probability of the label", "✕ another class was predicted"))
    names = [cut(f"#{i} labelled {name_of(dynamics.labels[i], classes)}", 2.3) for i in chosen]
    room = max(inches(name, SIZE) for name in names) + 0.4
    axes = page.axes(0.6, 0.05, 7.0 - 0.6 - room, 2.85)
    for i, (colour, dash) in zip(chosen, LINES, strict=False):
        _trajectory(axes, dynamics, i, colour, dash)
    last = dynamics.predicted.shape[1] - 1
    axes.set(xlim=(-0.02 * last - 0.1, 1.02 * last + 0.1), ylim=(-0.04, 1.04))
    axes.set_xlabel("epoch", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    _plain(axes)
    _at_the_end(axes, [float(dynamics.probability[i][there[i]][-1]) for i in chosen], names)
    return legible(page.figure)


def _trajectory(axes: Axes, dynamics: Dynamics, index: int, colour: str, dash: Any) -> None:
    there = dynamics.probability[index].isfinite().numpy()
    epochs, chances, wrong = np.flatnonzero(there), dynamics.probability[index].numpy()[there], ~dynamics.correct[index].numpy()[there]
    axes.plot(epochs, chances, color=colour, linestyle=dash, linewidth=1.5, marker="o", markersize=2.5, label=f"#{index}", clip_on=False)
    axes.plot(epochs[wrong], chances[wrong], color=colour, linestyle="none", marker="x", markersize=6, markeredgewidth=1.6, clip_on=False)


def _scale(axes: Axes) -> Array:
    """Inches for one unit of the data, across and up."""
    size = axes.get_position()
    inches = np.array([size.width, size.height]) * _figure(axes).get_size_inches()
    units: Array = inches / np.array([np.ptp(axes.get_xlim()), np.ptp(axes.get_ylim())])
    return units


def _at_the_end(axes: Axes, heights: Sequence[float], names: Sequence[str]) -> None:
    """The names beside the ends of their lines, apart from each other."""
    step = LINE / float(_scale(axes)[1])
    order = sorted(range(len(names)), key=heights.__getitem__)
    places = _apart([heights[i] for i in order], step, axes.get_ylim())
    beside = 1 + 0.25 / (axes.get_position().width * _figure(axes).get_figwidth())
    frame: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "textcoords": axes.get_yaxis_transform(), "annotation_clip": False}
    line: dict[str, Any] = {"arrowstyle": "-", "linewidth": 1.2, "shrinkA": 2, "shrinkB": 1, "relpos": (0, 0.5)}
    for place, i in zip(places, order, strict=True):
        own = line | {"color": LINES[i][0], "linestyle": LINES[i][1]}
        axes.annotate(literal(names[i]), (1.0, heights[i]), (beside, place), fontsize=SIZE, va="center", arrowprops=own, **frame)


def _apart(heights: Sequence[float], step: float, limits: tuple[float, float]) -> list[float]:
    """Ascending heights, moved up where they are less than a step apart, then down where they leave the limits."""
    places: list[float] = []
    for height in heights:
        places.append(max(height, places[-1] + step if places else limits[0]))
    top = limits[1]
    for i in reversed(range(len(places))):
        places[i] = min(places[i], top)
        top = places[i] - step
    return places


def _figure(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def name_of(index: int | Tensor, classes: Sequence[str]) -> str:
    """The name of a class, or its number."""
    return str(classes[int(index)]) if len(classes) else str(int(index))


def _indices(given: Tensor | Sequence[int], size: int, what: str) -> list[int]:
    """Each once, in the order given.

    Raises:
        InputError: they are not indices, or not of these examples.
    """
    try:
        values: list[Any] = torch.as_tensor(given).flatten().tolist()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{what} is a {type(given).__name__} ({error}); give a list or a tensor of indices") from error
    for value in values:
        if isinstance(value, bool | float):
            raise InputError(f"{what} holds {value!r}; give indices, which a mask has as mask.nonzero()")
        if not 0 <= value < size:
            raise InputError(f"{what} holds {value}, and there are the examples 0 to {size - 1}; give indices of these")
    return list(dict.fromkeys(values))


def known_of(dynamics: Dynamics, classes: Sequence[str] = (), width: float = NARROWEST) -> NDArray[np.bool_]:
    """Which examples were seen.

    Raises:
        InputError: none were, or there are names but not of every class. OptionError: a figure that is too narrow.
    """
    if not width >= NARROWEST:
        raise OptionError(f"width={width!r} leaves no room; give {NARROWEST:g} inches or more")
    known: NDArray[np.bool_] = dynamics.seen.any(1).numpy()
    if not known.any():
        raise InputError(f"of {counted(len(dynamics), 'example')} none was seen; record a training run with Recorder.update")
    highest = int(torch.maximum(dynamics.labels.amax(), dynamics.predicted.amax()))
    if len(classes) and highest >= len(classes):
        raise InputError(f"there are {counted(len(classes), 'name')} of classes, and class {highest} occurs; give a name for each, or none")
    return known
