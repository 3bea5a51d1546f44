"""A page of explanations: one self-contained HTML file, every example with its methods side by side."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape

from ..explanation import Explanation
from .card import card, pictured, verdict
from .example import headline
from .numbers import memory, number, percent
from .section import Section
from .style import CARD, PAGE

__all__ = ["report"]


def report(sections: Sequence[Section], title: str, introduction: str = "") -> str:
    """The page as a string to write to a file."""
    named = [(f"s{i}", section) for i, section in enumerate(sections, 1)]
    return "".join(
        (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f"<title>{escape(title)}</title>\n<style>{PAGE}{CARD}</style>\n</head>\n<body>\n",
            f"<header><h1>{escape(title)}</h1>{_paragraphs(introduction)}{_contents(named)}</header>\n<main>\n",
            *(_section(anchor, section) for anchor, section in named),
            f"</main>\n<footer>{_footer(sections)}</footer>\n</body>\n</html>\n",
        )
    )


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{escape(part.strip())}</p>" for part in re.split(r"\n\s*\n", text) if part.strip())


def _contents(named: Sequence[tuple[str, Section]]) -> str:
    if len(named) < 2:
        return ""
    entries = "".join(f'<li><a href="#{anchor}">{escape(section.title)}</a></li>' for anchor, section in named)
    return f'<nav aria-label="Examples"><ul>{entries}</ul></nav>'


def _section(anchor: str, section: Section) -> str:
    several = len(section.explanations) > 1
    cards = [card(explanation, section.example, narrow=several) for explanation in section.explanations]
    first = pictured(section.explanations[0], section.example) if several else ""
    return "".join(
        (
            f'<section id="{anchor}" aria-labelledby="{anchor}-title">',
            f'<h2 id="{anchor}-title">{escape(section.title)}</h2>',
            _paragraphs(section.text),
            f'<p class="said">{escape(" / ".join(_said(section)))}</p>' if several else "",
            f'<div class="cards">{first}{"".join(cards)}</div>' if cards else "",
            _compared(section) if several else "",
            _listed(section.table) if section.table else "",
            "</section>\n",
        )
    )


def _listed(rows: Sequence[Mapping[str, str]]) -> str:
    """A table of words; what begins with a digit or a sign stands at the right."""
    numbers = {name: all(row[name][:1] in "+−-0123456789–" for row in rows) for name in rows[0]}
    looks = {name: ' class="number"' if found else "" for name, found in numbers.items()}
    head = "".join(f'<th scope="col"{looks[name]}>{escape(name)}</th>' for name in rows[0])
    body = "".join("<tr>" + "".join(f"<td{looks[name]}>{escape(row[name])}</td>" for name in rows[0]) + "</tr>" for row in rows)
    return f'<div class="wide"><table class="compared"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _said(section: Section) -> list[str]:
    """What the model said about the example; several lines only if the explanations are about several scores."""
    return list(dict.fromkeys(headline(explanation, section.example) for explanation in section.explanations))


def _gap(explanation: Explanation) -> str:
    check = explanation.check("completeness")
    return "no such law" if check is None or check.value is None else percent(check.value)


COLUMNS: Mapping[str, Callable[[Explanation], str]] = {
    "completeness gap": _gap,
    "forwards": lambda explanation: f"{explanation.cost.forwards:,}",
    "backwards": lambda explanation: f"{explanation.cost.backwards:,}",
    "seconds": lambda explanation: number(explanation.cost.seconds, 2),
    "peak memory": lambda explanation: f"+{memory(explanation.cost.peak_memory)}" if explanation.cost.peak_memory else "–",
}


def _compared(section: Section) -> str:
    """The methods of one section in one table."""
    numbers = "".join(f'<th scope="col" class="number">{name}</th>' for name in COLUMNS)
    head = f'<tr><th scope="col">method</th><th scope="col">health</th>{numbers}</tr>'
    rows = "".join(_row(explanation) for explanation in section.explanations)
    table = f"<caption>The methods compared</caption><thead>{head}</thead><tbody>{rows}</tbody>"
    return f'<div class="wide"><table class="compared">{table}</table></div>'


def _row(explanation: Explanation) -> str:
    cells = "".join(f'<td class="number">{escape(column(explanation))}</td>' for column in COLUMNS.values())
    method = escape(explanation.method.replace("_", " "))
    return f'<tr><th scope="row">{method}</th><td>{verdict(explanation)}</td>{cells}</tr>'


def _footer(sections: Sequence[Section]) -> str:
    return f"<p>{escape(' '.join(_made(sections)))}</p>"


def _made(sections: Sequence[Section]) -> Iterator[str]:
    """What made the page, as far as the explanations know."""
    yield "Peak memory: the rise above the highest point of the process so far."
    yield "Red is positive, blue is negative, the neutral middle is zero; every picture has a scale of its own."
    made = (explanation.provenance.versions for section in sections for explanation in section.explanations)
    versions = sorted({f"{name} {version}" for each in made for name, version in each.items()})
    if versions:
        yield f"Made with {', '.join(versions)}."
