"""One example of an explanation as a card of HTML: the picture, what was checked, what it cost, where it comes from."""

from __future__ import annotations

import io
import warnings
from base64 import b64encode
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..explanation import Check, Cost, Explanation, Provenance
from .colour import AGAINST, FOR
from .example import details, example_of, headline, unit_of
from .figure import drawn
from .numbers import count, memory, number
from .several import headings
from .style import CARD
from .table import listed
from .text import highlighted, words_of

__all__ = ["card", "checks", "costs", "pictured", "styled_card", "verdict"]

SHARP = 150
NARROW: Mapping[str, Mapping[str, Any]] = {"image": {"original": False}, "series": {"width": 4.2}, "examples": {"width": 6.0}}


def styled_card(explanation: Explanation, example: int = 0) -> str:
    """A card that carries its own style sheet, for a notebook."""
    return f"<style>{CARD}</style>{card(explanation, example)}"


def card(explanation: Explanation, example: int = 0, narrow: bool = False) -> str:
    """A card; a narrow one stands beside others about the same example and leaves out what they share."""
    told = [f"explains {explanation.target}"] if narrow else details(explanation, example)
    return "".join(
        (
            f'<article class="pellucid {explanation.display.kind}">',
            f'<p class="headline">{escape(_name(explanation) if narrow else headline(explanation, example))}</p>',
            f'<p class="details">{escape(" · ".join(told))}</p>',
            BODIES[explanation.display.kind](explanation, example, narrow),
            checks(explanation),
            f'<p class="small">Cost: {escape(costs(explanation.cost))}</p>',
            "</article>",
        )
    )


def _name(explanation: Explanation) -> str:
    return explanation.method.replace("_", " ")


def _picture(explanation: Explanation, example: int, narrow: bool) -> str:
    options = NARROW.get(explanation.display.kind, {}) if narrow else {}
    figure = drawn(explanation, example, {"titled": False, **options})
    return _image(figure, _alternative(explanation, example))


def _image(figure: Figure, words: str) -> str:
    """The figure inside the page, with words for those who cannot see it."""
    width = round(figure.get_figwidth() * 96)
    return f'<img src="{_inline(figure)}" width="{width}" alt="{escape(words)}">'


def pictured(explanation: Explanation, example: int) -> str:
    """The input itself as a card, where it is something to look at beside the narrow cards; else nothing."""
    if explanation.display.kind != "image":
        return ""
    figure = drawn(explanation, example, {"titled": False, "method": "original_image"})
    words = '<p class="headline">the example</p><p class="details">the input</p>'
    return f'<article class="pellucid image">{words}{_image(figure, "The image that is explained")}</article>'


def _inline(figure: Figure) -> str:
    file = io.BytesIO()
    with warnings.catch_warnings():
        # Names may have signs that matplotlib's font lacks; it draws a box and says so.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(file, format="png", dpi=SHARP)
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"


def _alternative(explanation: Explanation, example: int) -> str:
    """What the picture shows, in words."""
    values = example_of(explanation, example).values
    known = values[np.isfinite(values)]
    extremes = f"from {number(known.min())} to {number(known.max())}" if known.size else "none of them finite"
    asked = f"{headline(explanation, example)}, explains {explanation.target}"
    return f"Attributions by {_name(explanation)}: {asked}; {count(values.size, 'value')}, {extremes}."


def _text(explanation: Explanation, example: int, narrow: bool, which: int = 0) -> str:
    _, _, shown = words_of(example_of(explanation, example, which))
    notes = "".join(f'<p class="small">⚠ {escape(note)}</p>' for note in shown.notes)
    ends = [number(side * shown.unit, 2) for side in (-1, 1)]
    bar = f'<i style="background:linear-gradient(to right,{AGAINST},transparent,{FOR})" aria-hidden="true"></i>'
    signs = "; underlined with dashes: negative" if (shown.values < 0).any() else ""
    unit = f"<span>{escape(unit_of(explanation))}{signs}</span>"
    legend = f'<p class="scale"><span>{ends[0]}</span>{bar}<span>{ends[1]}</span>{unit}</p>'
    return highlighted(explanation, example, which) + (legend if shown.unit else "") + notes


def _several(explanation: Explanation, example: int, narrow: bool) -> str:
    """Words as words; everything else in one picture."""
    kinds = [part.kind for part in explanation.display.parts]
    told = "".join(
        f'<p class="small">{escape(heading)}</p>{_text(explanation, example, narrow, which)}'
        for which, heading in enumerate(headings(explanation, example))
        if kinds[which] == "text"
    )
    return told + ("" if set(kinds) == {"text"} else _picture(explanation, example, narrow))


def _table(explanation: Explanation, example: int, narrow: bool) -> str:
    return listed(explanation, example)


BODIES: Mapping[str, Callable[[Explanation, int, bool], str]] = {
    "image": _picture,
    "series": _picture,
    "text": _text,
    "table": _table,
    "tensor": _table,
    "examples": _picture,
    "several": _several,
}


def verdict(explanation: Explanation) -> str:
    """How many checks passed, in words and with a symbol, as HTML."""
    total, failed = len(explanation.health), len(_failed(explanation))
    if not total:
        return '<span class="failed">? nothing was checked</span>'
    if not failed:
        return f'<span class="passed">✓ {count(total, "check")} passed</span>'
    return f'<span class="failed">✗ {failed} of {count(total, "check")} failed</span>'


def checks(explanation: Explanation) -> str:
    """What failed, in full; all checks and the provenance folded away."""
    failed = "".join(map(_failure, _failed(explanation)))
    head = '<tr><th scope="col">check</th><th scope="col">result</th><th scope="col">what was found</th></tr>'
    rows = "".join(map(_checked, explanation.health))
    table = f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>" if rows else ""
    origin = f'<p class="small">From: {escape(_origin(explanation.provenance))}</p>'
    return f"{failed}<details><summary>{verdict(explanation)}</summary>{table}{origin}</details>"


def _failure(check: Check) -> str:
    return f'<p class="failure">{_symbol(check)} {escape(check.name)}: {escape(check.message)}</p>'


def _failed(explanation: Explanation) -> list[Check]:
    return [check for check in explanation.health if not check.passed]


def _symbol(check: Check) -> str:
    return '<span class="passed">✓ passed</span>' if check.passed else '<span class="failed">✗ failed</span>'


def _checked(check: Check) -> str:
    cells = f"<td>{_symbol(check)}</td><td>{escape(check.message)}</td>"
    return f'<tr><th scope="row">{escape(check.name)}</th>{cells}</tr>'


def costs(cost: Cost) -> str:
    """What it cost, in words."""
    passes = f"{count(cost.forwards, 'forward')} and {count(cost.backwards, 'backward')} in {count(cost.calls, 'call')}"
    rise = f", peak memory +{memory(cost.peak_memory)}" if cost.peak_memory else ""
    tuned = f"; model made cheaper: {', '.join(cost.tuned)}" if cost.tuned else ""
    return f"{passes}, {number(cost.seconds, 2)} s{rise}{tuned}"


def _origin(provenance: Provenance) -> str:
    """Where it comes from, short: hashes by their first digits."""
    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions.items())
    weights = " ".join(each[:8] for each in provenance.weights.split())
    seed = "" if provenance.seed is None else f"seed {provenance.seed}"
    hashes = (f"weights {weights}" if weights else "", f"inputs {provenance.inputs[:8]}" if provenance.inputs else "")
    parts = (provenance.model, *hashes, seed, versions, provenance.created)
    return " · ".join(filter(None, parts)) or "not recorded"
