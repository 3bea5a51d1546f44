"""Fonts for what the usual one lacks: signs of any language in figures."""

from __future__ import annotations

import re
from functools import cache

from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.text import Text

__all__ = ["IDEOGRAPHS", "fonts", "legible"]

# Signs that are written without spaces: ideographs, kana, their punctuation and full-width forms.
IDEOGRAPHS = re.compile("[\u2e80-\u30ff\u31c0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")
FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "PingFang SC", "Heiti SC",
    "Hiragino Sans GB", "Microsoft YaHei", "SimHei", "Yu Gothic", "Droid Sans Fallback", "Arial Unicode MS", "Last Resort High-Efficiency",
)  # fmt: skip


@cache
def _known_fonts() -> tuple[str, ...]:
    """Fonts for what the usual one lacks, of those that are installed; last one with a sign for everything."""
    known = {font.name for font in fontManager.ttflist}
    return tuple(name for name in FONTS if name in known)


def fonts() -> list[str]:
    """The usual ones, and after them those that have what they lack."""
    return [*rcParams["font.family"], *_known_fonts()]


def legible(figure: Figure) -> Figure:
    """The figure, with fonts for the signs that the usual one lacks; those may have no bold."""
    for text in figure.findobj(Text):
        if isinstance(text, Text) and IDEOGRAPHS.search(text.get_text()):
            text.set(fontfamily=fonts(), fontweight="normal")
    return figure
