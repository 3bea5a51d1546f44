"""Explanations on a terminal: words on their colours, bars of block characters, as wide as the terminal is."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

from ..explanation import Explanation
from .colour import BAD, ink_on, paper
from .example import details, example_of, headline, unit_of
from .numbers import count, number
from .several import headings
from .table import IMPORTANCE, Bar, adds_up, bars
from .table import ranking as _bars_of
from .text import FAINT, words_of

if TYPE_CHECKING:
    from ..tables import Importance

__all__ = ["Terminal", "ranking", "style_of", "terminal"]

NARROW = 48  # columns under which a bar has a line of its own
STRONGEST = 6
# Signs that move the cursor or ring the bell are shown, not sent; line breaks and tabs by arrows.
SHOWN = {code: 0x2400 + code for code in range(32)} | dict.fromkeys(range(0x7F, 0xA0), 0xFFFD) | {10: "↵", 9: "→"}
# What a terminal without Unicode shows instead, one sign for each, so that styles stay in place.
ASCII = str.maketrans("✓✗−±·▌▐█│–…→↵\N{NO-BREAK SPACE}", "+x-~;###|-.>\\ ")


@dataclass(frozen=True, eq=False)
class Terminal:
    """What rich prints: lines of text, and bars that fill what is left of the width."""

    head: tuple[Text, ...]
    words: Text | None
    bars: tuple[Bar, ...]
    foot: tuple[Text, ...]
    coloured: tuple[Text, ...] = ()
    colourless: tuple[Text, ...] = ()
    width: int | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = max(1, min(options.max_width, self.width or options.max_width))
        legend = self.coloured if console.color_system is not None and not console.no_color else self.colourless
        body = [] if self.words is None else [self.words]
        for text in (*self.head, *body, *_lines(self.bars, width), *legend, *self.foot):
            shown = _plain(text) if options.ascii_only else text
            yield from _folded(shown, console, width)

    def __str__(self) -> str:
        """As it is printed on 80 columns without colours."""
        console = Console(width=80, color_system=None)
        with console.capture() as capture:
            console.print(self)
        return capture.get()


def terminal(explanation: Explanation, example: int = 0, width: int | None = None) -> Terminal:
    """One example of an explanation, for `rich.print`: texts and tables in full, a short summary of other kinds.

    Words that speak for the score are on red, those against on blue and underlined; without colours the strongest are listed.

    Args:
        explanation: what to show.
        example: which example.
        width: columns at most; None: as many as the terminal has.

    Raises:
        InputError: no such example, or names that do not fit.

    >>> import torch; from pellucid import Display
    >>> one = torch.tensor([[0.5, -0.25]])
    >>> told = Explanation((one,), (one,), torch.tensor([1.0]), "shapley", "output", display=Display("text", ("good", "plot")))
    >>> print(str(terminal(told)).splitlines()[2])
    good plot
    """
    head = (Text(_visible(headline(explanation, example)), "bold"), Text(_visible(" · ".join(details(explanation, example))), "dim"))
    health = (_health(explanation),)
    if explanation.display.kind == "text":
        words, legend, strongest = _highlighted(explanation, example)
        return Terminal(head, words, (), health, (legend,), (strongest,), width)
    if explanation.display.kind == "several":
        return _several(head, explanation, example, health, width)
    if explanation.display.kind == "table":
        found = bars(explanation, example)
        total = f"; all together {number(sum(bar.length for bar in found), signed=True)}" if adds_up(explanation) else ""
        return Terminal(head, None, tuple(found), (Text(unit_of(explanation) + total, "dim"), *health), width=width)
    return Terminal(head, None, (), (_summary(explanation, example), *health), width=width)


def _several(head: tuple[Text, ...], explanation: Explanation, example: int, health: tuple[Text, ...], width: int | None) -> Terminal:
    """Each input below its heading: texts as words, others by their size."""
    body, coloured, colourless = Text(), [], []
    for which, heading in enumerate(headings(explanation, example)):
        body.append(f"{_visible(heading)}\n" if not which else f"\n{_visible(heading)}\n", "dim")
        if explanation.display.of_input(which).kind == "text":
            words, legend, strongest = _highlighted(explanation, example, which)
            body.append_text(words)
            coloured.append(legend)
            colourless.append(strongest)
        else:
            body.append_text(_summary(explanation, example, which))
    return Terminal(head, body, (), health, tuple(coloured), tuple(colourless), width)


def ranking(ranked: Importance, top: int = 20, width: int | None = None) -> Terminal:
    """What matters over a data set, for `rich.print`: bars, the most important first.

    Raises:
        OptionError: top is not positive.
    """
    heading = Text(f"importance over {count(int(ranked.counts.max()), 'example')}", "bold")
    told = Text(IMPORTANCE[ranked.kind] + "; ± one standard error", "dim")
    return Terminal((heading, Text(_visible(ranked.source), "dim")), None, tuple(_bars_of(ranked, top)), (told,), width=width)


def _visible(text: str) -> str:
    return text.translate(SHOWN)


def _health(explanation: Explanation) -> Text:
    failed = [check.name for check in explanation.health if not check.passed]
    total = count(len(explanation.health), "check")
    if not explanation.health:
        return Text("? nothing was checked", "dim")
    if not failed:
        return Text(f"✓ {total} passed", "dim")
    return Text(_visible(f"✗ {len(failed)} of {total} failed: {', '.join(failed)}"), "bold")


def _summary(explanation: Explanation, example: int, which: int = 0) -> Text:
    values = example_of(explanation, example, which).values
    known = values[np.isfinite(values)]
    extremes = f"from {number(float(known.min()))} to {number(float(known.max()))}" if known.size else "none of them finite"
    shape = " x ".join(map(str, values.shape)) or "1"
    return Text(f"{explanation.display.of_input(which).kind}: attributions {shape}, {extremes}")


# --- words


def _highlighted(explanation: Explanation, example: int, which: int = 0) -> tuple[Text, Text, Text]:
    """The words, a legend, and the strongest words for terminals without colours."""
    words, values, shown = words_of(example_of(explanation, example, which))
    text = Text()
    for i, (word, share) in enumerate(zip(words, shown.values.tolist(), strict=True)):
        text.append(" " if word.spaced and i and not text.plain.endswith("\n") else "")
        text.append(_visible(word.text), style_of(share, word.special))
        text.append("\n" if "\n" in word.text else "")
    notes = "".join(f"; {note}" for note in shown.notes)
    unit = f"{unit_of(explanation)}, full colour at {number(shown.unit, 2)}{notes}"
    legend = Text.assemble((" for ", style_of(1.0)), " ", ("against", style_of(-1.0)), f" {unit}")
    strongest = _strongest([_visible(word.text) for word in words], values.tolist())
    return text, legend, Text(f"{strongest}; {unit_of(explanation)}{notes}")


def style_of(share: float, special: bool = False) -> Style:
    """Ink and paper both, so that it is read on dark and light terminals; underlined where negative, bold where strong."""
    faint = Style(dim=True, italic=True) if special else Style()
    if share != share:
        return Style(color=ink_on(BAD), bgcolor=BAD, strike=True)
    if abs(share) < FAINT:
        return faint
    ground = paper(share)
    return Style(color=ink_on(ground), bgcolor=ground, underline=share < 0 or None, bold=abs(share) > 0.5 or None, italic=special or None)


def _strongest(words: Sequence[str], values: Sequence[float]) -> str:
    finite = [(word, value) for word, value in zip(words, values, strict=True) if np.isfinite(value) and value]
    order = sorted(finite, key=lambda pair: -abs(pair[1]))[:STRONGEST]
    return "strongest: " + (", ".join(f"{word} {number(value, 2, signed=True)}" for word, value in order) or "none")


# --- bars


def _lines(found: Sequence[Bar], width: int) -> Iterator[Text]:
    """Bars beside their names and numbers, or under them where there is little room."""
    if not found:
        return
    names = [_visible(bar.name).replace("\N{NO-BREAK SPACE}", " ") for bar in found]
    numbers = max(cell_len(bar.words) for bar in found)
    room = min(max(map(cell_len, names)), max(width - numbers - 2 - 16, 0))
    beside = width >= NARROW and room >= min(12, max(map(cell_len, names)))
    long = width - room - numbers - 2 if beside else width
    lengths = [0.0, *(bar.length for bar in found)]
    low, span = min(lengths), (max(lengths) - min(lengths)) or 1.0
    for name, bar in zip(names, found, strict=True):
        blocks = _blocks(bar, low, span, long)
        if not beside:
            yield from (Text(name), Text(bar.words), blocks)
            continue
        first, *rest = _wrapped(name, room)
        yield Text.assemble(_padded(first, room), " ", bar.words.rjust(numbers), " ", blocks)
        yield from (Text(line) for line in rest)


def _padded(name: str, room: int) -> str:
    return name + " " * (room - cell_len(name))


def _wrapped(name: str, room: int) -> list[str]:
    """A name in lines of so many columns, between words where it can be."""
    lines = textwrap.wrap(name, room) or [""]
    return [part for line in lines for part in (chop_cells(line, room) if cell_len(line) > room else [line])]


def _blocks(bar: Bar, low: float, span: float, width: int) -> Text:
    """From (or to) the zero that all bars share; half columns count."""
    zero = round(-low / span * 2 * width)
    end = round((bar.length - low) / span * 2 * width)
    first, last = sorted((zero, end))
    signs = {(True, True): "█", (True, False): "▌", (False, True): "▐", (False, False): " "}
    cells = "".join(signs[first <= 2 * i < last, first <= 2 * i + 1 < last] for i in range(width)).rstrip()
    if not cells and bar.length:
        cells = " " * min(zero // 2, width - 1) + "│"
    return Text(cells, bar.colour)


# --- lines


def _plain(text: Text) -> Text:
    """Without what a terminal of ASCII cannot show, sign by sign."""
    shown = text.copy()
    shown.plain = text.plain.translate(ASCII).encode("ascii", "replace").decode()
    return shown


def _folded(text: Text, console: Console, width: int) -> Iterator[Text]:
    """In lines that fit; words that do not fit into one are divided."""
    for line in text.wrap(console, width, overflow="fold", no_wrap=False):
        line.no_wrap, line.overflow = True, "fold"
        yield line
