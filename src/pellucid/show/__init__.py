"""Pictures and pages of explanations: `draw` for a figure, `html` for a notebook, `page` for a file to send around."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .section import Section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..explanation import Explanation

__all__ = ["Section", "draw", "html", "page"]

# matplotlib loads with the first picture, not with the package.


def draw(explanation: Explanation, example: int = 0, **options: Any) -> Figure:
    """One example of an explanation as a figure that belongs to nobody else (pyplot does not know it).

    Args:
        explanation: what to draw; its `display.kind` says how.
        example: which example.
        options: those of `draw_image`, `draw_table`, `draw_text` or `draw_series`.

    Raises:
        InputError: no such example, or shapes and names that do not fit.
        OptionError: an option, or a value of it, that this kind of picture does not have.
    """
    from .figure import drawn

    return drawn(explanation, example, options)


def html(explanation: Explanation, example: int = 0) -> str:
    """One example of an explanation as a self-contained piece of HTML: picture, health, cost and provenance."""
    from .card import styled_card

    return styled_card(explanation, example)


def page(sections: Sequence[Section], title: str, introduction: str = "") -> str:
    """One self-contained HTML page: no network, light and dark, readable on a phone.

    Args:
        sections: one per example.
        title: of the page.
        introduction: plain text under the title; an empty line begins a new paragraph.
    """
    from .report import report

    return report(sections, title, introduction)
