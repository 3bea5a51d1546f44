"""Texts with their importances, several on one page, in InterpretDL's form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import torch

from ..errors import InputError
from ..explanation import Display, Explanation
from ..show.text import highlighted

__all__ = ["VisualizationTextRecord", "visualize_text"]


@dataclass(frozen=True)
class VisualizationTextRecord:
    """A text: its words, a number for each, and what was true, predicted (and how surely), and explained."""

    words: Sequence[str]
    word_importances: Sequence[float]
    true_label: Any
    pred_label: Any
    pred_prob: float
    interp_label: Any

    def highlighted(self) -> str:
        """The words on their colours, as HTML.

        Raises:
            InputError: not one number for each word.
        """
        values = torch.as_tensor(self.word_importances, dtype=torch.float32)
        if values.shape != (len(self.words),):
            raise InputError(f"there are {len(self.words)} words and importances {tuple(values.shape)}; give one number for each word")
        shown = Explanation(
            attributions=(values[None],),
            features=(torch.zeros(1, len(self.words)),),
            scores=torch.tensor([float(self.pred_prob)]),
            method="",
            target=str(self.interp_label),
            display=Display("text", names=tuple(map(str, self.words))),
        )
        return highlighted(shown)


HEAD = ("True Label", "Predicted Label (Prob)", "Target Label", "Word Importance")


def visualize_text(text_records: Sequence[VisualizationTextRecord]) -> Any:
    """A table of texts as HTML, shown where there is a notebook.

    Returns:
        `IPython.display.HTML` if IPython is there, else the HTML as a string.
    """
    rows = "".join(
        f"<tr><td>{escape(str(r.true_label))}</td><td>{escape(str(r.pred_label))} ({float(r.pred_prob):.2f})</td>"
        f"<td>{escape(str(r.interp_label))}</td><td>{r.highlighted()}</td></tr>"
        for r in text_records
    )
    head = "".join(f"<th>{name}</th>" for name in HEAD)
    page = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    try:
        from IPython.display import HTML
    except ImportError:
        return page
    return HTML(page)  # type: ignore[no-untyped-call]
