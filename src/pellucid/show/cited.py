"""An answer with its sources: bars under each statement, a page whose numbers lead to sources and back, lines on a terminal."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rich.text import Text

from ..errors import OptionError
from .card import checks
from .colour import FOR
from .fitting import LINE, SIZE, legible, lines
from .frame import MARGIN, Sheet, sheet
from .numbers import count, literal, number, percent
from .style import CARD, web_page
from .terminal import SHOWN, Terminal

if TYPE_CHECKING:
    from ..language.citations import Citations

__all__ = ["document", "draw", "styled", "terminal"]

BAR, INDENT, NUMBER = 1.6, 0.25, 0.95  # inches
MOST_LINES = 3
LOOK = """
.pellucid.cited{max-width:60rem}
.cited .answer{max-width:none;line-height:1.8;overflow-wrap:anywhere;white-space:pre-wrap;margin:.2rem 0 .8rem}
.cited .statement{border-radius:.25em;padding:.08em .1em}
.cited .marks a,.cited .back a{font-size:.75em;vertical-align:super;text-decoration:none;color:var(--good);padding:0 .1em}
.cited .name{color:var(--soft);font-size:.8rem;margin:.2rem 0;font-weight:650}
.cited ol{margin:.2rem 0;padding-left:2.2rem}
.cited li{margin:.3rem 0;overflow-wrap:anywhere}
.cited li.unused{color:var(--soft)}
.cited li:target,.cited .statement:target{outline:2px solid var(--ink);outline-offset:2px}
.cited table{max-width:46rem}
"""


def _heading(told: Citations) -> tuple[str, str]:
    cited = {source for i in range(len(told.statements)) for source in told.cited(i)}
    sizes = f"{count(len(told.statements), 'statement')} · {len(cited)} of {count(len(told.sources), 'source')} cited"
    known = [value for value in told.lds.tolist() if value == value]
    fits = f" · unseen ablations predicted with rank correlation {number(sum(known) / len(known), 2)}" if known else ""
    return "What the answer rests on", f"context cite · {sizes}{fits}"


# --- figure


def draw(told: Citations, most: int = 3, width: float = 8.0) -> Figure:
    """Each statement, and under it bars of the sources that support it most, with their numbers and what they say.

    Raises:
        OptionError: `most` is not positive.
    """
    if most < 1:
        raise OptionError(f"most={most!r} shows no source; give at least 1")
    room = width - 2 * MARGIN
    blocks = [_block(told, i, most, room) for i in range(len(told.statements))]
    tall = sum(high for _, _, high in blocks) + 0.45
    page = sheet(width, tall, _heading(told), [])
    longest = max([float(told.scores.nan_to_num(0.0).max()) if told.scores.numel() else 0.0, 1e-12])
    down = 0.05
    for said, rows, high in blocks:
        _write(page, said, rows, down, high, room, longest)
        down += high
    words = "bars: by how much a source raises the statement's log-odds; in brackets its number"
    page.figure.text(MARGIN / width, 0.16 / page.figure.get_figheight(), words, fontsize=SIZE, color="#444444")
    return legible(page.figure)


Row = tuple[int, float, list[str]]


def _block(told: Citations, statement: int, most: int, room: float) -> tuple[list[str], list[Row], float]:
    """A statement in lines, its sources, and how tall it all is."""
    chance = f" ({percent(float(told.probabilities[statement]))} likely)"
    said = lines(f"{told.statements[statement]}{chance}", room - 0.1, MOST_LINES)
    cited = [(i, value) for i, value in told.top(most)[statement] if i in told.cited(statement)]
    rows = [(i, value, lines(told.sources[i], room - INDENT - BAR - NUMBER - 0.1, MOST_LINES)) for i, value in cited]
    high = LINE * len(said) + sum(LINE * len(text) + 0.07 for _, _, text in rows) + (0 if rows else LINE) + 0.24
    return said, rows, high


def _write(page: Sheet, said: Sequence[str], rows: Sequence[Row], down: float, high: float, room: float, longest: float) -> None:
    axes = page.axes(MARGIN, down, room, high)
    axes.set(xlim=(0, room), ylim=(high, 0))
    axes.set_axis_off()
    at = _lines(axes, said, 0.0, 0.04, "#111111", "bold") + 0.05
    if not rows:
        _lines(axes, ["rests on none of the sources"], INDENT, at, "#6a6a6a", "normal")
    for source, value, text in rows:
        wide = BAR * value / longest
        axes.add_patch(Rectangle((INDENT, at + 0.02), wide, LINE - 0.04, facecolor=FOR, linewidth=0))
        axes.text(INDENT + wide + 0.05, at + LINE / 2, number(value, signed=True), fontsize=7.5, va="center_baseline", color="#333333")
        axes.text(INDENT + BAR + NUMBER - 0.08, at + LINE / 2, f"[{source + 1}]", fontsize=SIZE, ha="right", va="center_baseline")
        at = _lines(axes, text, INDENT + BAR + NUMBER, at, "#222222", "normal") + 0.07


def _lines(axes: Axes, text: Sequence[str], left: float, down: float, ink: str, weight: str) -> float:
    for row, words in enumerate(text):
        place = down + LINE * (row + 0.5)
        axes.text(left, place, literal(words), fontsize=SIZE, va="center_baseline", color=ink, fontweight=weight)
    return down + LINE * len(text)


# --- page


def document(told: Citations, title: str) -> str:
    """A page."""
    return web_page(title, styled(told))


def styled(told: Citations) -> str:
    """A piece of HTML with its own style sheet, for a notebook."""
    own = f"c{zlib.crc32(told.to_json().encode()):08x}"
    _, second = _heading(told)
    used: dict[int, list[int]] = {}
    for statement in range(len(told.statements)):
        for source in told.cited(statement):
            used.setdefault(source, []).append(statement)
    health = checks(told.flat().explanation()) if told.health else ""
    return (
        f'<style>{CARD}{LOOK}</style><article class="pellucid cited"><p class="headline">The numbers lead to the sources</p>'
        f'<p class="details">{escape(second)}</p><p class="name">Answer</p><p class="answer">{"".join(_answer(told, own))}</p>'
        f'<p class="name">Sources</p><ol>{"".join(_sources(told, own, used))}</ol>{_table(told)}{health}</article>'
    )


def _answer(told: Citations, own: str) -> Iterator[str]:
    """The answer in its own words, each statement followed by the numbers of its sources."""
    (text, spans), at = (told.answer, told.spans) if told.spans else _joined(told.statements), 0
    for number_, (start, stop) in enumerate(spans):
        yield escape(text[at:start])
        links = "".join(
            f'<a href="#{own}-s{source}" title="{escape(_tip(told, number_, source))}">[{source + 1}]</a>' for source in told.cited(number_)
        )
        said = escape(text[start:stop])
        yield f'<span class="statement" id="{own}-a{number_}">{said}</span><span class="marks">{links}</span>'
        at = stop
    yield escape(text[at:])


def _joined(statements: Sequence[str]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Statements one behind the other, and where each stands."""
    ends = list(itertools.accumulate(len(one) + 1 for one in statements))
    return " ".join(statements), tuple((end - 1 - len(one), end - 1) for one, end in zip(statements, ends, strict=True))


def _tip(told: Citations, statement: int, source: int) -> str:
    return f"{number(float(told.scores[statement, source]), signed=True)}: {told.sources[source]}"


def _sources(told: Citations, own: str, used: dict[int, list[int]]) -> Iterator[str]:
    for source, text in enumerate(told.sources):
        back = "".join(f'<a href="#{own}-a{i}" aria-label="statement {i + 1}">↑{i + 1}</a>' for i in used.get(source, []))
        look = "" if source in used else ' class="unused"'
        yield f'<li id="{own}-s{source}"{look}>{escape(text)} <span class="back">{back}</span></li>'


def _table(told: Citations) -> str:
    """Every statement with its likelihood, its strongest sources, and how well that was checked."""
    head = ("statement", "probability", "strongest sources", "rank correlation", "fall without", "without others")
    titles = "".join(f'<th scope="col">{name}</th>' for name in head)
    rows = "".join(_row(told, i) for i in range(len(told.statements)))
    return f"<details><summary>All numbers</summary><table><thead><tr>{titles}</tr></thead><tbody>{rows}</tbody></table></details>"


def _row(told: Citations, statement: int) -> str:
    top = ", ".join(f"[{source + 1}] {number(value, signed=True)}" for source, value in told.top(3)[statement]) or "none"
    falls = [number(float(each[statement])) if each is not None else "" for each in (told.drops, told.rivals)]
    chance, score = percent(float(told.probabilities[statement])), number(float(told.lds[statement]), 2)
    cells = "".join(f'<td class="number">{cell}</td>' for cell in (score, *falls))
    said = escape(told.statements[statement])
    return f'<tr><th scope="row">{said}</th><td class="number">{chance}</td><td>{escape(top)}</td>{cells}</tr>'


# --- terminal


def terminal(told: Citations) -> Terminal:
    """Each statement, and under it the sources that it rests on.

    >>> import torch; from pellucid.language.citations import Citations
    >>> one = torch.ones(1)
    >>> told = Citations(("Anna likes tea.",), ("Tea.",), torch.tensor([[2.0]]), torch.tensor([2.0]), one, one)
    >>> print(str(terminal(told)).splitlines()[-1])
      [1] +2.00  Anna likes tea.
    """
    head = tuple(Text(line.translate(SHOWN), style) for line, style in zip(_heading(told), ("bold", "dim"), strict=True))
    body = Text("\n").join(line for i in range(len(told.statements)) for line in _printed(told, i))
    failed = [check.name for check in told.health if not check.passed]
    verdict = f"✗ failed: {', '.join(failed)}" if failed else f"✓ {count(len(told.health), 'check')} passed"
    return Terminal(head, body, (), (Text(verdict, "bold" if failed else "dim"),) if told.health else ())


def _printed(told: Citations, statement: int) -> Iterator[Text]:
    yield Text(f"{told.statements[statement]} ({percent(float(told.probabilities[statement]))})".translate(SHOWN), "bold")
    cited = [(source, value) for source, value in told.top(3)[statement] if source in told.cited(statement)]
    for source, value in cited:
        yield Text(f"  [{source + 1}] {number(value, signed=True)}  {told.sources[source]}".translate(SHOWN))
    if not cited:
        yield Text("  rests on none of the sources", "dim")
