"""Numbers and names as people read them, in pictures and pages alike."""

from __future__ import annotations

import math

__all__ = ["count", "literal", "memory", "number", "percent", "shortened"]

MINUS = "\N{MINUS SIGN}"
_VISIBLE = str.maketrans({"\n": "↵", "\r": "", "\t": "→", "\v": " ", "\f": " "})


def number(value: float, digits: int = 3, signed: bool = False) -> str:
    """So many digits, with a real minus sign; NaN and infinities by name.

    >>> number(1.9), number(-0.00012345, 2).replace(MINUS, "-"), number(1234.5, signed=True)
    ('1.90', '-0.00012', '+1,234')
    """
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{MINUS if value < 0 else ''}infinite"
    if value == 0:
        return "0"
    places = ",.0f" if 1000 <= abs(value) < 1e6 else f"#.{digits}g"
    return f"{value:{'+' if signed else ''}{places}}".rstrip(".").replace("-", MINUS)


def percent(share: float) -> str:
    """A share in percent, never rounded up to certainty, on one line.

    >>> [percent(share).replace("\N{NO-BREAK SPACE}", " ") for share in (0.99999, 0.123, 1.0)]
    ['>99.9 %', '12.3 %', '100 %']
    """
    if 0.9995 <= share < 1:
        return ">99.9\N{NO-BREAK SPACE}%"
    return f"{100 * share:.3g}\N{NO-BREAK SPACE}%" if math.isfinite(share) else number(share)


def count(amount: int, noun: str) -> str:
    """An amount with its noun.

    >>> count(1, "call"), count(1200, "forward")
    ('1 call', '1,200 forwards')
    """
    return f"{amount:,} {noun}{'' if amount == 1 else 's'}"


def memory(size: float) -> str:
    """Bytes in the unit that gives one to three digits.

    >>> memory(512), memory(3.2e6)
    ('512 B', '3.2 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def shortened(text: str, width: int) -> str:
    """The text, or as much of its two ends as fits."""
    if len(text) <= width:
        return text
    tail = width // 3
    return f"{text[: width - tail - 1]}…{text[-tail:]}"


def literal(text: str) -> str:
    """Text that matplotlib draws as it stands: no mathematics between dollar signs, line breaks shown as signs."""
    return text.translate(_VISIBLE).replace("$", r"\$")
