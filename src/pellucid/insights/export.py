"""The current view as one HTML file: the page's own code, and in place of a server the answers as embedded JSON."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Generator, Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from ..errors import OptionError
from .given import Given
from .importance import Importance
from .jobs import Event, Ticket
from .questions import Question
from .start import start_of

if TYPE_CHECKING:
    from .session import Session

__all__ = ["document", "export", "exporting"]

ROWS = 1000  # rows of the list that a file holds
EXAMPLES = 200  # examples that it explains
COLUMNS = 4


def export(session: Session, view: Mapping[str, Any]) -> str:
    """The document, made in the caller's turn.

    Raises:
        OptionError: a view that is not there.
    """
    found: list[Event | None] = []
    following = session.follow("scan", Given({}), lambda event: None)
    for job, _ in following.jobs:
        job.finished.wait()
    following = session.follow("export", Given({"columns": [{}], **view}), found.append)
    for job, _ in following.jobs:
        job.finished.wait()
    last = [event for event in found if event is not None][-1]
    if last["kind"] != "result":
        raise OptionError(f"the view was not exported: {last.get('error', {}).get('message', last['kind'])}")
    return str(last["value"]["html"])


def exporting(session: Session, given: Given) -> Callable[[Ticket], Generator[Event, None, dict[str, Any]]]:
    """The work of writing a file: explain what is shown first, then put everything together.

    Raises:
        OptionError: a view that is not there.
    """
    asked, most = session.filter(given), given.whole("examples", 1, EXAMPLES, 24)
    chosen = session.catalogue.chosen(asked)[:ROWS]
    first = [row.index for row in chosen[:most]]
    shown = given.fields.get("example")
    if isinstance(shown, int) and 0 <= shown < len(session.catalogue.rows) and shown not in first:
        first = [shown, *first[: most - 1]]
    columns, aim = [column.fields for column in given.many("columns", COLUMNS)], given.fields_of("target")
    questions = [(session.question(Given(one)), i == 0) for index in first for i, one in _asked(columns, index, aim, index == shown)]
    view = {name: given.fields.get(name) for name in ("look", "target")} | {"columns": columns}
    view |= {"filter": {"sort": asked.sort, "descending": asked.descending}}
    view |= {"example": shown if shown in first else next(iter(first), None)}

    def work(ticket: Ticket) -> Generator[Event, None, dict[str, Any]]:
        answers, gathered = [], Importance()
        for done, (question, counts) in enumerate(questions):
            yield {"done": done, "total": len(questions)}
            ticket.used = 0.0
            try:
                answer = session.answer(question, ticket)
                answers.append({"question": _told(question), "told": answer.told})
                if counts:
                    gathered.add(answer, session.ready(question.model, question.index))
            except Exception:  # an example that cannot be explained is listed without its explanation
                continue
        read = session.examples.read([row.index for row in chosen])
        data = {
            "start": start_of(session) | {"size": len(chosen)},
            "rows": [session.told_row(row, found, asked) for row, found in zip(chosen, read, strict=True)],
            "samples": [session.sample(Given({"index": index})) for index in first],
            "answers": answers,
            "importance": gathered.told() | {"failed": 0, "chosen": len(chosen)} if gathered.examples else None,
            "view": _address(view),
        }
        name = re.sub(r"[^a-z0-9]+", "-", (session.title or "insights").lower()).strip("-")
        return {"name": f"{name or 'insights'}.html", "html": document(data), "rows": len(chosen), "explanations": len(answers)}

    return work


def _asked(
    columns: list[Mapping[str, Any]], index: int, aim: Mapping[str, Any], is_shown: bool
) -> Generator[tuple[int, dict[str, Any]], None, None]:
    """The questions about an example, with the numbers of their columns; of the one that is shown also about the chosen class."""
    for i, column in enumerate(columns):
        base = {**column, "index": index, "probability": aim.get("probability") is True}
        yield i, base
        if is_shown and aim.get("class") is not None:
            yield -1, base | {"target": aim["class"], "versus": aim.get("versus")}


def _told(question: Question) -> dict[str, Any]:
    names = ("model", "index", "method", "options", "target", "versus", "probability", "layer", "seed")
    return {name: getattr(question, name) for name in names}


def _address(view: Mapping[str, Any]) -> str:
    """What the page would write into its address."""
    return urlencode({name: json.dumps(value) for name, value in view.items() if value is not None})


def document(data: Mapping[str, Any]) -> str:
    """One file: style, code and data inside, and a policy that lets nothing else run or load.

    Data cannot end its element: every `<` is written as an escape.
    """
    page = files(__package__) / "page"
    style, code = (page / "page.css").read_text("utf-8"), (page / "page.js").read_text("utf-8")
    embedded = json.dumps(data, allow_nan=False, ensure_ascii=False)
    for sign in "<>&\u2028\u2029":
        embedded = embedded.replace(sign, f"\\u{ord(sign):04x}")
    embedded = re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", embedded)  # bytes that were no text, as Python reads them
    # A policy in a file says nothing of frames, bases and forms: the page has none.
    policy = f"default-src 'none'; img-src data: blob:; script-src '{_hash(code)}'; style-src '{_hash(style)}'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>Pellucid Insights</title>\n'
        f'<link rel="icon" href="data:,">\n<style>{style}</style>\n</head>\n<body>\n<div id="pellucid-page"></div>\n'
        f'<script type="application/json" id="pellucid-data">{embedded}</script>\n<script type="module">{code}</script>\n</body>\n</html>\n'
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
