"""A part of a page: one example with its explanations side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..explanation import Explanation

__all__ = ["Section"]


@dataclass(frozen=True, eq=False)
class Section:
    """A title, some paragraphs, and explanations of the same example by several methods.

    Attributes:
        title: the section's heading.
        text: plain text; an empty line begins a new paragraph.
        explanations: all about the same example.
        example: which example of each explanation.
        table: rows under the explanations, all with the same columns.
    """

    title: str
    text: str = ""
    explanations: Sequence[Explanation] = ()
    example: int = 0
    table: Sequence[Mapping[str, str]] = ()
