"""A prompt and what was generated from it as HTML: pointing at a token, or focusing it, shows what it rests on. No scripts.

Each unit's background is a variable, `--u3`; one rule for each token sets those of the units that it rests on. So it works
where scripts do not run, as in notebooks that are not trusted, and by keyboard.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import to_rgb

from .card import checks
from .colour import AGAINST, FOR
from .label import Label, labels, rests_on
from .numbers import count, number, percent, shortened
from .scale import Array, Scaled, array_of, scaled
from .style import CARD, web_page
from .text import FAINT

if TYPE_CHECKING:
    from ..language.result import Generated

__all__ = ["document", "shades", "styled"]

LEVELS = 10
MOST_NUMBERS, LONG = 1500, 2500
MODES = {"light": ("#ffffff", 0.6), "dark": ("#1f2023", 0.75)}  # paper, and how much of the full colour leaves ink readable

LOOK = """
.pellucid.transcript{max-width:72rem}
.transcript .panes{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,19rem),1fr));gap:.4rem 1.6rem}
.transcript .pane{min-width:0}
.transcript .name{color:var(--soft);font-size:.8rem;margin:.2rem 0;font-weight:650}
.transcript .words{max-width:none;margin:0;line-height:1.9;white-space:pre-wrap;overflow-wrap:anywhere}
.transcript .long{max-height:60vh;overflow:auto}
.transcript .unit{border-radius:.2em;padding:.12em .03em;box-decoration-break:clone;-webkit-box-decoration-break:clone;
print-color-adjust:exact;-webkit-print-color-adjust:exact}
.transcript .special{font-style:italic;font-size:.85em;color:var(--soft)}
.transcript button.token{font:inherit;color:inherit;background:none;border:0;
margin:0;padding:.12em .03em;line-height:1.2;border-radius:.2em;
text-decoration:underline dotted var(--soft);text-underline-offset:.25em;cursor:pointer;white-space:pre-wrap;text-align:left}
.transcript button.token:hover,.transcript button.token:focus{text-decoration:none;outline:2px solid var(--ink);
outline-offset:1px}
.transcript:has(.token:hover) button.token:focus:not(:hover){outline:1px dashed var(--soft)}
.transcript .rests{min-height:4.2em;margin:.5rem 0 0;padding:.4rem 0 0;
border-top:1px solid var(--line);
font-size:.9rem;overflow-wrap:anywhere}
.transcript .rests p{margin:0;max-width:none}
.transcript .steps{display:inline-flex;width:9rem;height:.8rem}
.transcript .steps b{flex:1}
.transcript .wide{overflow-x:auto}
.transcript td.number{padding-left:.8rem}
.transcript th[scope=col]:not(:first-child){text-align:right}
"""


def document(told: Generated, title: str) -> str:
    """A page."""
    return web_page(title, styled(told))


def styled(told: Generated) -> str:
    """A piece of HTML with its own style sheet, for a notebook."""
    own = f"g{zlib.crc32(told.to_json().encode()):08x}"
    matrix = None if told.matrix is None or not told.matrix.numel() else scaled(told.matrix)
    whole = scaled(told.sequence) if told.sequence.numel() else None
    rules = "".join(_rules(own, whole, matrix))
    return f"<style>{CARD}{LOOK}{_variables()}{rules}</style>{_card(told, own, whole, matrix)}"


# --- style


def shades(mode: str, sign: int) -> list[str]:
    """The backgrounds of one sign from the faintest to the strongest, on the paper of this mode."""
    paper, most = MODES[mode]
    ground, full = np.array(to_rgb(paper)), np.array(to_rgb(FOR if sign > 0 else AGAINST))
    mixed = [ground + (full - ground) * most * level / LEVELS for level in range(1, LEVELS + 1)]
    return ["#" + "".join(f"{round(255 * channel):02x}" for channel in each) for each in mixed]


def _variables() -> str:
    """Backgrounds by level; what speaks against has a dashed line too, for readers who cannot tell the colours apart."""
    line = "repeating-linear-gradient(90deg,var({}) 0 4px,#0000 4px 7px) 0 100%/100% {} no-repeat;"
    dash = f"--dash:{line.format('--ink', '2px')}--thin:{line.format('--soft', '1px')}"
    lost = "--x:repeating-linear-gradient(135deg,#8888 0 3px,#0000 3px 6px);"

    def levels(mode: str) -> str:
        plus = "".join(f"--p{i}:{shade};" for i, shade in enumerate(shades(mode, 1), 1))
        return plus + "".join(
            f"--n{i}:var(--{'dash' if i > LEVELS / 3 else 'thin'}),{shade};" for i, shade in enumerate(shades(mode, -1), 1)
        )

    return f".transcript{{{dash}{lost}{levels('light')}}}\n@media (prefers-color-scheme:dark){{.transcript{{{levels('dark')}}}}}\n"


def _rules(own: str, whole: Scaled | None, matrix: Scaled | None) -> Iterator[str]:
    """What the variables of the units are: by the whole text, and by the token that is pointed at, or else focused."""
    at_rest = f".{own}:not(:has(.token:hover,.token:focus))" if matrix is not None else f".{own}"
    yield f"{at_rest}{{--rw:block;{_levels(whole)}}}\n"
    for token, row in enumerate(matrix.values if matrix is not None else ()):
        pointed, focused = f".{own}:has(.t{token}:hover)", f".{own}:not(:has(.token:hover)):has(.t{token}:focus)"
        yield f"{pointed},{focused}{{--r{token}:block;{_levels(row)}}}\n"


def _levels(shares: Scaled | Array | None) -> str:
    values = shares.values if isinstance(shares, Scaled) else () if shares is None else shares
    return "".join(f"--u{unit}:var(--{level});" for unit, share in enumerate(values) if (level := _level(float(share))))


def _level(share: float) -> str:
    if share != share:
        return "x"
    return "" if abs(share) < FAINT else f"{'p' if share > 0 else 'n'}{max(1, round(abs(share) * LEVELS))}"


# --- words


def _card(told: Generated, own: str, whole: Scaled | None, matrix: Scaled | None) -> str:
    alive = matrix is not None
    how = "Point at a token, or focus it, to see what it rests on in the prompt." if alive else "Colours show what it rests on."
    details = f"{told.method.replace('_', ' ')} · attribution to the {told.measure} · {count(len(told.units), 'unit')} of the prompt"
    notes = dict.fromkeys(note.replace("grey", "striped") for each in (matrix, whole) if each is not None for note in each.notes)
    return "".join(
        (
            f'<article class="pellucid transcript {own}"><p class="headline">{how}</p><p class="details">{escape(details)}</p>',
            f'<div class="panes">{_pane("Prompt", _prompt(told))}<div class="pane">{_pane("Generated", _generated(told, own, alive))}',
            f'<div class="rests">{"".join(_readouts(told, own, alive))}</div></div></div>',
            _legend(whole, matrix),
            *(f'<p class="small">⚠ {escape(note)}</p>' for note in notes),
            _numbers(told),
            checks(told.explanation()) if told.health else "",
            "</article>",
        )
    )


def _pane(name: str, words: Iterator[str]) -> str:
    """A named text; one that is long scrolls, by keyboard too."""
    text = "".join(words)
    scrolls = f' long" tabindex="0" role="region" aria-label="{name}"' if len(re.sub("<.*?>", "", text)) > LONG else '"'
    return f'<div class="pane{scrolls}><p class="name">{name}</p><p class="words">{text}</p></div>'


def _prompt(told: Generated) -> Iterator[str]:
    """The prompt in its own words, or else its units with the spaces that their marks stand for."""
    values = array_of(told.sequence).tolist()
    for text, unit in told.parts:
        yield escape(text) if unit is None else _unit(unit, Label(text), values[unit])
    shown = {unit for _, unit in told.parts}
    for unit, label in enumerate(labels(told.units)):
        if unit not in shown:
            yield (" " if label.spaced and unit else "") + _unit(unit, label, values[unit])


def _unit(unit: int, label: Label, value: float) -> str:
    special = " special" if label.special else ""
    tip = f"whole text: {number(value, signed=True)}"
    return f'<span class="unit{special}" style="background:var(--u{unit},none)" title="{tip}">{escape(label.text)}</span>{_broken(label)}'


def _broken(label: Label) -> str:
    return "<br>" if label.text.endswith("↵") else ""


def _generated(told: Generated, own: str, alive: bool) -> Iterator[str]:
    for i, label in enumerate(labels(told.tokens)):
        space = " " if label.spaced and i else ""
        special = " special" if label.special else ""
        if alive:
            words = f'<button type="button" class="token t{i}{special}" aria-describedby="{own}-{i}">{escape(label.text)}</button>'
        else:
            words = f'<span class="{special.strip()}">{escape(label.text)}</span>' if special else escape(label.text)
        yield space + words + _broken(label)


def _readouts(told: Generated, own: str, alive: bool) -> Iterator[str]:
    """What each rests on, in words; those that are not asked for are hidden."""
    yield f'<p style="display:var(--rw,none)">The whole text rests on: {escape(rests_on(told, None))}</p>'
    for i, label in enumerate(labels(told.tokens) if alive else ()):
        chance = "" if told.probabilities is None else f" ({percent(float(told.probabilities[i]))} likely)"
        words = f"“{label.text}”{chance} rests on: {rests_on(told, i)}"
        yield f'<p id="{own}-{i}" style="display:var(--r{i},none)">{escape(words)}</p>'


def _legend(whole: Scaled | None, matrix: Scaled | None) -> str:
    scales = [(matrix, "a token"), (whole, "the whole text")]
    words = ", ".join(f"±{number(each.unit, 2)} for {name}" for each, name in scales if each is not None and each.unit)
    steps = [*(f"n{level}" for level in range(LEVELS, 0, -1)), "", *(f"p{level}" for level in range(1, LEVELS + 1))]
    bar = "".join(f'<b style="background:var(--{step})"></b>' if step else "<b></b>" for step in steps)
    ends = f'<span>against</span><span class="steps" aria-hidden="true">{bar}</span><span>for</span>'
    return f'<p class="scale">{ends}<span>full colour: {words}; dashed line: against</span></p>' if words else ""


def _numbers(told: Generated) -> str:
    """All numbers as a table, folded away; a matrix that is too large for one is left to `save`."""
    columns, left = [("whole text", array_of(told.sequence))], ""
    if told.matrix is not None and told.matrix.numel() <= MOST_NUMBERS:
        names = (label.text for label in labels(told.tokens))
        columns += list(zip(names, array_of(told.matrix), strict=True))
    elif told.matrix is not None:
        left = f'<p class="small">The {told.matrix.numel():,} numbers of single tokens are in the JSON that save writes.</p>'
    head = "".join(f'<th scope="col">{escape(shortened(name, 24))}</th>' for name in ("unit", *(name for name, _ in columns)))
    rows = "".join(_row(label, [float(column[i]) for _, column in columns]) for i, label in enumerate(labels(told.units)))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    region = f'<div class="wide" tabindex="0" role="region" aria-label="All numbers">{table}</div>'
    return f"<details><summary>All numbers</summary>{region}{left}</details>"


def _row(label: Label, values: Sequence[float]) -> str:
    cells = "".join(f'<td class="number">{number(value)}</td>' for value in values)
    return f'<tr><th scope="row">{escape(shortened(label.text, 44))}</th>{cells}</tr>'
