"""Attributions of texts: words on a background of their colour, as HTML and as a figure.

Pieces of words (WordPiece's `##ing`, SentencePiece's `\u2581the`, byte-level `\u0120the`) are put together and written as
people write them; Chinese and Japanese pieces stand alone.
"""

from __future__ import annotations

import codecs
import itertools
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from html import escape

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Text
from matplotlib.textpath import TextPath
from matplotlib.transforms import Bbox

from ..explanation import Explanation
from .colour import AGAINST, BAD, FOR, colour_bar, ink_on, palette, paper
from .example import Example, example_of, title, unit_of
from .fonts import IDEOGRAPHS, fonts, legible
from .frame import MARGIN, Sheet, sheet
from .numbers import literal, number, shortened
from .scale import Array, Scaled, pooled, scaled

__all__ = ["FAINT", "Block", "Word", "background", "draw_text", "highlighted", "merged", "pieces_of", "words_of", "write_word"]

FAINT = 0.04
SPECIAL = re.compile(r"\[(CLS|SEP|PAD|MASK|UNK|BOS|EOS)\]|<(/?s|pad|unk|mask|bos|eos|cls|sep)>|<\|\w+\|>")
BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
SPACE, NEWLINE, START, GOES_ON = "\u0120", "\u010a", "\u2581", "##"
SIZE = 12
CLINGS = re.compile("[\u3001-\u3011\uff01-\uff0f\uff1a-\uff20]")  # their punctuation
ROW, GAP, CLOSE, PAD, BOX = 0.36, 0.07, 0.015, 0.06, 0.28
LONGEST = 60


@dataclass(frozen=True)
class Word:
    """A word as it is shown.

    Attributes:
        text: as people write it.
        pieces: the numbers of the tokens that it is made of.
        special: a token that is no part of the text ([CLS], </s>, padding).
        spaced: whether a space stands before it.
    """

    text: str
    pieces: tuple[int, ...]
    special: bool = False
    spaced: bool = True


def words_of(one: Example, outliers: float = 2, merge: bool = True) -> tuple[tuple[Word, ...], Array, Scaled]:
    """The words, the attribution of each (pooled over its pieces and their embeddings), and the same scaled.

    Raises:
        InputError: there are names, but not one for each token.
    """
    values = one.pooled()
    tokens = one.named(len(values), "token")
    words = merged(tokens, one.special) if merge else tuple(Word(t, (i,), _special(t, one.special)) for i, t in enumerate(tokens))
    sums = np.array([pooled(values[list(word.pieces)], 0, one.pooling) for word in words])
    return words, sums, scaled(sums, outliers=outliers)


def _special(token: str, known: Collection[str] = ()) -> bool:
    return token in known or bool(SPECIAL.fullmatch(token))


def merged(tokens: Sequence[str], known: Collection[str] = ()) -> tuple[Word, ...]:
    """The words that tokens are pieces of, by the marks of WordPiece, SentencePiece and byte-level tokenizers.

    What is `known` to be special stands alone, as does what usually is ([CLS], </s>).

    >>> [word.text for word in merged(["[CLS]", "un", "##believ", "##able", "!", "[SEP]"])]
    ['[CLS]', 'unbelievable', '!', '[SEP]']
    >>> [word.text for word in merged(["\u0120play", "ing", "\u0120caf", "\u00c3\u00a9"])]
    ['playing', 'café']
    """
    special = [_special(token, known) for token in tokens]
    pieces = pieces_of(tokens, special)
    marked = any(piece.starts for piece in pieces)
    begins = [not i or not _joins(pieces[i - 1], piece, marked) for i, piece in enumerate(pieces)]
    word_of = list(itertools.accumulate(map(int, begins)))
    words: list[Word] = []
    for _, run in itertools.groupby(range(len(pieces)), word_of.__getitem__):
        numbers = tuple(run)
        text, first = "".join(pieces[i].text for i in numbers), pieces[numbers[0]]
        last = words[-1] if words else Word("", (), True)
        alone = first.special or last.special
        spaced = first.starts or not marked or alone
        words.append(
            Word(
                text or ("\u2423" if tokens[numbers[0]] else ""), numbers, first.special, spaced and (alone or not _touch(last.text, text))
            )
        )
    return tuple(words)


def _touch(before: str, text: str) -> bool:
    """Whether two words are written without a space, whatever their language: ideographs, and their punctuation beside anything."""
    ends = before[-1:], text[:1]
    return all(map(IDEOGRAPHS.match, ends)) or any(map(CLINGS.match, ends))


@dataclass(frozen=True)
class _Piece:
    """A token without its marks: whether it begins a word, goes on with one, or ends within a letter; `leads` is its first."""

    text: str
    starts: bool = False
    goes_on: bool = False
    cut: bool = False
    special: bool = False
    leads: str = ""


def pieces_of(tokens: Sequence[str], special: Sequence[bool]) -> list[_Piece]:
    """Tokens without the marks of their tokenizer; special ones as they are."""
    byte_level = _is_byte_level([token for token, own in zip(tokens, special, strict=True) if not own])
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    found: list[_Piece] = []
    for token, own in zip(tokens, special, strict=True):
        single = BYTE.fullmatch(token)
        if own:
            decoder.reset()
            found.append(_Piece(token, special=True))
        elif byte_level or single:
            text = decoder.decode(bytes([int(single[1], 16)]) if single else bytes(_bytes()[sign] for sign in token))
            found.append(_Piece(text.removeprefix(" "), text.startswith(" "), bool(single), bool(decoder.getstate()[0])))
        elif token.startswith((START, SPACE)):
            found.append(_Piece(token[1:].replace(START, " "), True))
        elif token.startswith(GOES_ON) and token != GOES_ON:
            found.append(_Piece(token[len(GOES_ON) :], goes_on=True))
        else:
            found.append(_Piece(token))
    for i, piece in reversed(list(enumerate(found))):
        later = found[i + 1].leads if piece.cut and not piece.text and i + 1 < len(found) else ""
        found[i] = replace(piece, leads=piece.text[:1] or later)
    return found


def _joins(before: _Piece, piece: _Piece, marked: bool) -> bool:
    """Whether a piece belongs to the word of the one before."""
    if before.special or piece.special or piece.starts or "\n" in before.text + piece.text:
        return False
    if before.cut or (before.starts and not before.text):
        return True
    if IDEOGRAPHS.match(piece.leads) or IDEOGRAPHS.match(before.text[-1:]):
        return False
    return marked or piece.goes_on


@cache
def _bytes() -> dict[str, int]:
    """The sign by which byte-level tokenizers write a byte: itself if it can be seen, else the next free one above 255."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


def _is_byte_level(tokens: Sequence[str]) -> bool:
    """Whether tokens are bytes: nothing else is UTF-8 when it is read so, but for plain English."""
    text = "".join(tokens)
    if not all(sign in _bytes() for sign in text) or not any(ord(sign) > 127 for sign in text):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(bytes(_bytes()[sign] for sign in text))
    except UnicodeDecodeError:
        return False
    return True


def highlighted(explanation: Explanation, example: int = 0, which: int = 0, merge: bool = True) -> str:
    """The words as one self-contained, escaped HTML paragraph; each word's attribution is in its tooltip.

    A dashed line marks what speaks against the score, a dotted one what is not finite, for readers who cannot tell
    the colours apart.
    """
    one = example_of(explanation, example, which)
    words, sums, shown = words_of(one, merge=merge)
    spans = "".join(
        (" " if word.spaced and i else "") + _span(word, value, share, one.names)
        for i, (word, value, share) in enumerate(zip(words, sums.tolist(), shown.values.tolist(), strict=True))
    )
    return f'<p style="line-height:2;margin:.4em 0;overflow-wrap:anywhere">{spans}</p>'


def _span(word: Word, value: float, share: float, tokens: Sequence[str]) -> str:
    shown = escape(word.text).replace("\n", "↵<br>")
    pieces = " (" + " ".join(tokens[i] for i in word.pieces) + ")" if len(word.pieces) > 1 else ""
    tip = f'title="{escape(number(value, signed=True) + pieces)}"'
    faint = "opacity:.6;font-size:.85em;" if word.special else ""
    if abs(share) < FAINT:
        return f'<span {tip} style="{faint}">{shown}</span>' if faint else f"<span {tip}>{shown}</span>"
    return f'<span {tip} style="{faint}{background(share)}padding:.1em .25em;border-radius:.25em">{shown}</span>'


def background(share: float) -> str:
    """A see-through background, so that zero is the page's own ground, light or dark, and the text stays readable."""
    if share != share:
        return f"background:{BAD};color:#111111;border-bottom:2px dotted;"
    colour, opacity = to_rgb(FOR if share > 0 else AGAINST), abs(share)
    red, green, blue = (round(255 * channel) for channel in colour)
    seen = "#" + "".join(f"{round(255 - opacity * (255 - channel)):02x}" for channel in (red, green, blue))
    ink = "color:#ffffff;" if ink_on(seen) == "#ffffff" else ""
    line = "border-bottom:2px dashed;" if share < 0 else ""
    return f"background:rgba({red},{green},{blue},{opacity:.2f});{ink}{line}"


@dataclass(frozen=True)
class _Box:
    """Where a word stands, in inches from the top left corner of the text."""

    word: str
    share: float
    left: float
    row: int
    width: float
    special: bool


def _boxes(words: Sequence[Word], shares: Sequence[float], width: float) -> Iterator[_Box]:
    """The words in rows, as wide as they are drawn; a line break in the text begins a new row."""
    left, row = 0.0, 0
    for word, share in zip(words, shares, strict=True):
        shown = shortened(word.text, LONGEST)
        size = _width(shown) + 2 * PAD
        left += (GAP if word.spaced else CLOSE) if left else 0.0
        if left and left + size > width:
            left, row = 0.0, row + 1
        yield _Box(shown, share, left, row, size, word.special)
        left, row = (0.0, row + 1) if "\n" in word.text else (left + size, row)


def _width(word: str) -> float:
    """Inches."""
    with warnings.catch_warnings():
        # A sign that the fonts lack is as wide as the box drawn in its place.
        warnings.simplefilter("ignore")
        path = TextPath((0, 0), literal(word) or " ", size=SIZE, prop=FontProperties(family=fonts()))
    return max(float(path.get_extents().width), SIZE / 4) / 72 if len(path.vertices) else SIZE / 4 / 72


class _Quiet(Text):
    """Text that makes no noise about signs that no font has; they are drawn as boxes."""

    def draw(self, renderer: RendererBase) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            super().draw(renderer)

    def get_window_extent(self, renderer: RendererBase | None = None, dpi: float | None = None) -> Bbox:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            return super().get_window_extent(renderer, dpi)


def draw_text(
    explanation: Explanation,
    example: int = 0,
    *,
    which: int = 0,
    outliers: float = 2,
    merge: bool = True,
    width: float = 7.0,
    titled: bool = True,
) -> Figure:
    """The words in boxes of their colour, wrapped, above a colour bar; dashed boxes speak against the score.

    Args:
        explanation: with attributions `(B, T, ...)`, pooled over all but the words.
        example, which: which example, and which of several inputs.
        outliers: the percentage of the total magnitude that may lie beyond the ends of the colour scale.
        merge: whether pieces of words are put together.
        width: of the figure, in inches.
        titled: whether to write a title.
    """
    words, _, shown = words_of(example_of(explanation, example, which), outliers, merge)
    block = Block.of(words, shown, width - 2 * MARGIN)
    page = sheet(width, block.tall + 0.85, title(explanation, example) if titled else (), shown.notes)
    block.write(page, 0.05, unit_of(explanation))
    return legible(page.figure)


@dataclass(frozen=True, eq=False)
class Block:
    """Words in rows, so many inches tall and wide, and a colour bar below them."""

    boxes: tuple[_Box, ...]
    shown: Scaled
    width: float

    @classmethod
    def of(cls, words: Sequence[Word], shown: Scaled, width: float) -> Block:
        """The words in as many rows as they take."""
        return cls(tuple(_boxes(words, shown.values.tolist(), width)), shown, width)

    @property
    def tall(self) -> float:
        """Inches, without the colour bar."""
        return (self.boxes[-1].row + 1) * ROW

    def write(self, page: Sheet, down: float, unit: str) -> None:
        """Draw it so many inches below the heading."""
        axes = page.axes(MARGIN, down, self.width, self.tall)
        axes.set(xlim=(0, self.width), ylim=(self.tall, 0))
        axes.set_axis_off()
        for box in self.boxes:
            write_word(axes, box)
        bar = page.axes(MARGIN + 0.2, down + self.tall + 0.15, min(3.2, self.width - 0.76), 0.12)
        colour_bar(page.figure, bar, self.shown, palette("all"), f"{unit}; dashed: negative", "horizontal")


def write_word(axes: Axes, box: _Box) -> None:
    """A word in its box, on its colour."""
    top, faint = box.row * ROW + (ROW - BOX) / 2, abs(box.share) < FAINT
    colour = "#ffffff" if faint else paper(box.share)
    style = "dashed" if box.share < 0 else "dotted" if box.share != box.share else "solid"
    patch = FancyBboxPatch(
        (box.left, top), box.width, BOX, boxstyle="round,pad=0,rounding_size=0.05",
        facecolor=colour, edgecolor="none" if faint else "#555555", linestyle=style, linewidth=0.8, clip_on=False,
    )  # fmt: skip
    axes.add_patch(patch)
    ink = "#6a6a6a" if box.special and faint else ink_on(colour)
    text = _Quiet(box.left + box.width / 2, top + BOX * 0.7, literal(box.word), ha="center", va="baseline", fontsize=SIZE, color=ink)
    text.set_fontfamily(fonts())
    if box.special:
        text.set_fontstyle("italic")
    axes.add_artist(text)
