"""Explained texts as rows of one HTML table, every word on the colour of its importance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from ..errors import InputError
from .scale import array_of

__all__ = ["Html", "cell", "marked", "plain_token", "table", "tooltip"]

HEAD = ("True Label", "Predicted Label", "Attribution Label", "Attribution Score", "Word Importance")
LEGEND = {"Negative": -1.0, "Neutral": 0.0, "Positive": 1.0}


@dataclass(frozen=True)
class Html:
    """HTML that a notebook renders; stands in for IPython's where that is not installed."""

    data: str

    def _repr_html_(self) -> str:
        return self.data


def plain_token(token: str) -> str:
    """A special token without angle brackets: `<pad>` is `#pad`."""
    return f"#{token.strip('<>')}" if token.startswith("<") and token.endswith(">") else token


def cell(text: object) -> str:
    """A table cell in bold."""
    return f'<td><text style="padding-right:2em"><b>{escape(str(text))}</b></text></td>'


def tooltip(item: object, text: object) -> str:
    """An item with a text that shows when the mouse is over it."""
    return f'<div class="tooltip">{escape(str(item))}<span class="tooltiptext">{escape(str(text))}</span></div>'


def marked(words: Sequence[str], importances: Any) -> str:
    """A table cell of words, green for and red against, grey where the importance is not finite.

    Raises:
        InputError: fewer importances than words, or more than one dimension.
    """
    if importances is None or len(importances) == 0:
        return "<td></td>"
    shares = array_of(importances)
    if shares.ndim != 1:
        raise InputError(f"importances {shares.shape} are not one per word; give attributions.sum(-1)")
    if len(words) > len(shares):
        raise InputError(f"there are {len(words)} words and {len(shares)} importances; give one for each word")
    return f"<td>{''.join(map(_mark, words, shares.tolist()))}</td>"


def _mark(word: str, share: float) -> str:
    told = "" if np.isfinite(share) else f' title="{share}"'
    style = f"background-color: {_shade(share)}; opacity:1.0; line-height:1.75"
    return f'<mark style="{style}"{told}><font color="black"> {escape(plain_token(word))} </font></mark>'


def _shade(share: float) -> str:
    if not np.isfinite(share):
        return "hsl(0, 0%, 75%)"
    within = max(-1.0, min(1.0, share))
    hue, light = (120, 100 - int(50 * within)) if within > 0 else (0, 100 - int(-40 * within))
    return f"hsl({hue}, 75%, {light}%)"


def table(rows: Iterable[Sequence[str]], legend: bool) -> str:
    """Rows of ready cells under the head, after a legend of the colours if wanted."""
    head = "".join(f'<th scope="col" style="text-align:left">{name}</th>' for name in HEAD)
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    whole = f'<table style="width: 100%"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return _legend() + whole if legend else whole


def _legend() -> str:
    box = "display: inline-block; width: 10px; height: 10px; border: 1px solid; background-color:"
    entries = "".join(f'<span style="{box} {_shade(share)}"></span> {name} ' for name, share in LEGEND.items())
    style = "border-top: 1px solid; margin-top: 5px; padding-top: 5px; display: inline-block"
    return f'<div style="{style}"><b>Legend: </b>{entries}</div>'
