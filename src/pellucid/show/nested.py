"""A tree of pieces of a prompt: each under that which it is part of, words on colours; as a figure, a page, lines on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from rich.text import Text

from .card import checks
from .colour import colour_bar, ink_on, palette, paper
from .fitting import LINE, SIZE, cut, legible, lines
from .frame import MARGIN, Sheet, sheet
from .label import Label, labels
from .numbers import count, literal, number
from .scale import Scaled, scaled
from .style import CARD, web_page
from .terminal import SHOWN, Terminal, style_of
from .text import FAINT, Block, Word, background, write_word

if TYPE_CHECKING:
    from ..language.tree import Hierarchy, Node

__all__ = ["document", "draw", "styled", "terminal"]

INDENT, NUMBERS, GAP, STRIPE = 0.28, 0.75, 0.07, 0.22  # inches
MOST_LINES = 2
FINEST = ("word", "token", "unit")
LOOK = """
.pellucid.nested{max-width:60rem}
.nested .tree details{margin:.25rem 0 .25rem .2rem;padding-left:.8rem;border-left:2px solid var(--line)}
.nested .tree summary{list-style-position:outside}
.nested .piece{border-radius:.25em;padding:.1em .3em;overflow-wrap:anywhere;print-color-adjust:exact;
-webkit-print-color-adjust:exact}
.nested .leaf{margin:.25rem 0 .25rem 1.2rem}
.nested .value{font-variant-numeric:tabular-nums;color:var(--soft);display:inline-block;min-width:4.6em;font-size:.85rem}
.nested .level{color:var(--soft);font-size:.75rem;margin-left:.4em}
.nested .words{line-height:2;max-width:none;overflow-wrap:anywhere}
"""


@dataclass(frozen=True)
class Line:
    """What stands in one line: a piece, the words of one beside each other, or how many pieces are left out."""

    depth: int
    nodes: tuple[Node, ...]
    piece: Node | None = None
    left_out: int = 0

    @property
    def value(self) -> float:
        """Of all of it."""
        return sum(node.value for node in self.nodes) if self.piece is None else self.piece.value


def lines_of(told: Hierarchy, most: int) -> list[Line]:
    """The tree line by line, without the root; the weakest of more than `most` pieces together."""
    pieces = [node for _, node in told.tree.walk() if node.level not in FINEST and node is not told.tree]
    kept = {id(node) for node in sorted(pieces, key=lambda node: -abs(node.value))[:most]}
    return list(_under(told.tree, 0, kept))


def _under(node: Node, depth: int, kept: set[int]) -> Iterator[Line]:
    if _is_of_words(node):
        yield Line(depth, node.children, node)
        return
    shown = [child for child in node.children if any(id(piece) in kept for _, piece in child.walk())]
    for child in shown:
        if _is_of_words(child):
            yield Line(depth, child.children, child)
        else:
            yield Line(depth, (child,))
            yield from _under(child, depth + 1, kept)
    rest = tuple(child for child in node.children if not any(child is one for one in shown))
    if rest:
        yield Line(depth, rest, left_out=len(rest))


def _is_of_words(node: Node) -> bool:
    """Whether somebody looked into it, and found words."""
    return any(child.level in FINEST for child in node.children)


def _shares(told: Hierarchy) -> tuple[dict[int, float], Scaled]:
    """The value of every piece on one scale, by the piece."""
    nodes = [node for _, node in told.tree.walk() if node is not told.tree] or [told.tree]
    shown = scaled([node.value for node in nodes])
    whole = max(-1.0, min(1.0, told.tree.value / shown.unit)) if shown.unit else 0.0
    return {id(told.tree): whole, **{id(node): float(share) for node, share in zip(nodes, shown.values, strict=True)}}, shown


def _heading(told: Hierarchy) -> tuple[str, str]:
    said = "".join(" " * (label.spaced and i > 0) + label.text for i, label in enumerate(labels(told.tokens)))
    sizes = f"{count(told.evaluations, 'evaluation')} · the whole prompt {number(told.tree.value, signed=True)}"
    return f"What “{cut(said, 4.0)}” rests on", f"{told.method.replace('_', ' ')} · {' > '.join(told.levels)} · {sizes}"


def _seen(text: str) -> str:
    return " ".join(text.split()) or "␣"


# --- figure


def draw(told: Hierarchy, width: float = 8.0, most: int = 40) -> Figure:
    """Pieces in boxes of their colour, their numbers at the right, and words beside each other under the piece that they are of."""
    shares, shown = _shares(told)
    rows = [(line, *_room(line, shares, shown, width)) for line in lines_of(told, most)]
    tall = sum(high for _, _, high in rows) + 0.75
    page = sheet(width, tall, _heading(told), shown.notes)
    down = 0.05
    for line, held, high in rows:
        _place(page, line, held, high, down, width, shares)
        down += high
    bar = page.axes(MARGIN + 0.7, down + 0.15, 3.2, 0.12)
    unit = f"attribution to the answer's {told.measure}; dashed: negative"
    colour_bar(page.figure, bar, shown, palette("all"), unit, "horizontal")
    return legible(page.figure)


def _room(line: Line, shares: dict[int, float], shown: Scaled, width: float) -> tuple[list[str] | Block, float]:
    """What a line holds, and how tall it is."""
    room = width - 2 * MARGIN - NUMBERS - line.depth * INDENT
    if line.piece is not None:
        own = replace(shown, values=np.array([shares[id(node)] for node in line.nodes]))
        block = Block.of(_words(line.nodes), own, room - STRIPE)
        return block, block.tall + GAP
    text = f"{count(line.left_out, 'weaker piece')} (net)" if line.left_out else _seen(line.nodes[0].text)
    held = lines(text, room - 0.2, MOST_LINES)
    return held, LINE * len(held) + 0.1 + GAP


def _words(nodes: Sequence[Node]) -> list[Word]:
    return [Word(label.text, (i,), label.special, label.spaced) for i, label in enumerate(labels([node.text for node in nodes]))]


def _place(page: Sheet, line: Line, held: list[str] | Block, high: float, down: float, width: float, shares: dict[int, float]) -> None:
    room = width - 2 * MARGIN - NUMBERS - line.depth * INDENT
    axes = page.axes(MARGIN + line.depth * INDENT, down, room + NUMBERS, high - GAP)
    axes.set(xlim=(0, room + NUMBERS), ylim=(high - GAP, 0))
    axes.set_axis_off()
    share = 0.0 if line.left_out else shares[id(line.piece or line.nodes[0])]
    if isinstance(held, Block):
        stripe = Rectangle((0.02, 0.03), STRIPE - 0.1, high - GAP - 0.06, facecolor=paper(share), edgecolor="#555555", linewidth=0.8)
        axes.add_patch(stripe)
        for box in held.boxes:
            write_word(axes, replace(box, left=box.left + STRIPE))
    else:
        _box(axes, held, share, room, high - GAP, bool(line.left_out))
    value = number(line.value, signed=True)
    axes.text(room + NUMBERS, (high - GAP) / 2, value, ha="right", va="center", fontsize=SIZE, color="#333333")


def _box(axes: Axes, held: Sequence[str], share: float, wide: float, high: float, faint: bool) -> None:
    colour = "#ffffff" if faint else paper(share)
    style = "dashed" if share < 0 else "dotted" if share != share else "solid"
    patch = FancyBboxPatch(
        (0.02, 0.01), wide - 0.04, high - 0.02, boxstyle="round,pad=0,rounding_size=0.05", facecolor=colour,
        edgecolor="#bbbbbb" if faint else "#555555", linestyle=style, linewidth=0.8, clip_on=False,
    )  # fmt: skip
    axes.add_patch(patch)
    ink = "#6a6a6a" if faint else ink_on(colour)
    for row, text in enumerate(held):
        axes.text(0.1, 0.05 + LINE * (row + 0.5), literal(text), ha="left", va="center_baseline", fontsize=SIZE, color=ink)


# --- page


def document(told: Hierarchy, title: str) -> str:
    """A page."""
    return web_page(title, styled(told))


def styled(told: Hierarchy) -> str:
    """A piece of HTML with its own style sheet, for a notebook."""
    shares, shown = _shares(told)
    first, second = _heading(told)
    tops = (told.tree,) if _is_of_words(told.tree) else told.tree.children
    body = "".join(_html(child, shares) for child in tops) or escape(told.tree.text)
    notes = "".join(f'<p class="small">⚠ {escape(note)}</p>' for note in shown.notes)
    unit = f"full colour: ±{number(shown.unit, 2)} of the answer's {told.measure}; underlined with dashes: negative"
    legend = f'<p class="scale"><span>{escape(unit)}</span></p>' if shown.unit else ""
    health = checks(told.flat().explanation()) if told.health else ""
    return (
        f'<style>{CARD}{LOOK}</style><article class="pellucid nested"><p class="headline">{escape(first)}</p>'
        f'<p class="details">{escape(second)}</p><div class="tree">{body}</div>{legend}{notes}{health}</article>'
    )


def _html(node: Node, shares: dict[int, float]) -> str:
    if not node.children:
        return f'<p class="leaf">{_piece(node, shares[id(node)])}</p>'
    if _is_of_words(node):
        words = zip(labels([child.text for child in node.children]), node.children, strict=True)
        inside = "".join(_word(label, child, shares[id(child)], i) for i, (label, child) in enumerate(words))
        return f'<p class="leaf words">{_value(node, shares[id(node)])} {inside}<span class="level">{escape(node.level)}</span></p>'
    inside = "".join(_html(child, shares) for child in node.children)
    return f"<details open><summary>{_piece(node, shares[id(node)])}</summary>{inside}</details>"


def _piece(node: Node, share: float) -> str:
    text = f'<span class="piece"{_shade(share)}>{escape(_seen(node.text))}</span>'
    return f'{_value(node)} {text}<span class="level">{escape(node.level)}</span>'


def _value(node: Node, share: float = 0.0) -> str:
    """The number, on its colour where its words have colours of their own."""
    known = f" ± {number(node.error, 2)}" if node.error == node.error else ""
    said = number(node.value, signed=True)
    return f'<span class="value"><span class="piece"{_shade(share)} title="{escape(said + known)}">{said}</span></span>'


def _shade(share: float) -> str:
    return "" if abs(share) < FAINT else f' style="{background(share)}"'


def _word(label: Label, node: Node, share: float, place: int) -> str:
    space = " " if label.spaced and place else ""
    tip = number(node.value, signed=True)
    return f'{space}<span class="piece"{_shade(share)} title="{tip}">{escape(label.text)}</span>'


# --- terminal


def terminal(told: Hierarchy) -> Terminal:
    """Pieces line by line, each with its number, deeper ones further in.

    >>> from pellucid.language.tree import Hierarchy, Node
    >>> tree = Node("a b", "prompt", (0, 1), 3.0, (), 0.0, (Node("a", "sentence", (0,), 1.0), Node("b", "sentence", (1,), 2.0)))
    >>> print(str(terminal(Hierarchy(tree, ("sentence",), ("c",)))).splitlines()[2])
      +1.00  a
    """
    shares, shown = _shares(told)
    head = tuple(Text(line.translate(SHOWN), style) for line, style in zip(_heading(told), ("bold", "dim"), strict=True))
    body = Text("\n").join(_printed(line, shares) for line in lines_of(told, 60))
    failed = [check.name for check in told.health if not check.passed]
    verdict = f"✗ failed: {', '.join(failed)}" if failed else f"✓ {count(len(told.health), 'check')} passed"
    legend = Text(f"full colour at {number(shown.unit, 2)}, underlined: negative", "dim")
    return Terminal(head, body, (), (Text(verdict, "bold" if failed else "dim"),) if told.health else (), (legend,))


def _printed(line: Line, shares: dict[int, float]) -> Text:
    text = Text("  " * line.depth)
    text.append(f"{number(line.value, signed=True):>7}  ", "dim" if line.left_out else "bold")
    if line.left_out:
        return text.append(f"{count(line.left_out, 'weaker piece')} (net)", "dim")
    if line.piece is None:
        return text.append(_seen(line.nodes[0].text).translate(SHOWN), style_of(shares[id(line.nodes[0])]))
    for i, (label, node) in enumerate(zip(labels([node.text for node in line.nodes]), line.nodes, strict=True)):
        text.append(" " if label.spaced and i else "")
        text.append(label.text.translate(SHOWN), style_of(shares[id(node)]))
    return text
