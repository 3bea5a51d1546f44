"""Words in figures: how wide they are, cut or broken into lines so that they fit, in fonts that have their signs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.textpath import text_to_path

from .fonts import fonts

__all__ = ["LINE", "SIZE", "cut", "inches", "legible", "lines"]

SIZE, LINE = 8.5, 0.155  # of small print: points, and inches from line to line
LONGEST = 200  # letters of a line


def legible(figure: Figure) -> Figure:
    """With fonts for what the usual one lacks: names, texts and rows may be in any language (what is bold is ours)."""
    for text in figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_fontweight() == "normal"):
        text.set(fontfamily=fonts())
    return figure


@cache
def _em(sign: str) -> float:
    """How wide a sign is, in units of the size of its font."""
    with warnings.catch_warnings():
        # A sign that all fonts lack is as wide as the box drawn in its place.
        warnings.simplefilter("ignore")
        wide = text_to_path.get_text_width_height_descent(sign, FontProperties(family=fonts(), size=10), False)[0]
    # On a screen letters are moved to whole pixels, which makes some words wider.
    return 0.104 * float(wide)


def inches(words: str, size: float = SIZE) -> float:
    """How wide words are."""
    return sum(map(_em, words)) * size / 72


def _printable(words: str) -> str:
    return "".join(sign if sign.isprintable() else " " for sign in words)


def cut(words: str, room: float, size: float = SIZE) -> str:
    """As much of it as fits on a line."""
    words = " ".join(_printable(words[: 4 * LONGEST]).split())
    return words if inches(words, size) <= room else _ended(words, room, size)


def _ended(words: str, room: float, size: float = SIZE) -> str:
    """With an ellipsis, because something is missing."""
    kept = words[:LONGEST]
    while kept and inches(kept + "…", size) > room:
        kept = kept[:-1]
    return kept.rstrip() + "…"


def lines(words: str, room: float, most: int) -> list[str]:
    """Words in lines no wider than the room; those that are too many are cut."""
    found = [""]
    for word in _pieces(words, room):
        joined = f"{found[-1]} {word}".lstrip()
        if inches(joined, SIZE) <= room:
            found[-1] = joined
        elif len(found) == most:
            return [*found[:-1], _ended(joined, room)]
        else:
            found.append(word)
    return [line for line in found if line]


def _pieces(words: str, room: float) -> Iterator[str]:
    """The words; those that are wider than the room in pieces, cut after a dash or the like if there is one."""
    for word in _printable(words).split():
        start = 0
        for end in range(2, len(word) + 1):
            if end > start + 1 and inches(word[start:end], SIZE) > room:
                cut = max(word.rfind(sign, start, end - 1) + 1 for sign in "_-/")
                cut = cut if cut > start else end - 1
                yield word[start:cut]
                start = cut
        yield word[start:]
