"""What takes work: predicting, explaining, measuring, averaging; each is a job that tells how far it is."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import OptionError
from .arguments import STORED
from .catalogue import Row
from .examples import Example, Unreadable
from .faithful import curves
from .following import Following
from .given import Given
from .importance import Importance
from .jobs import QUICK, SLOW, USUAL, Event, Ticket, Work, told_error
from .predictions import Said, predict
from .questions import Question
from .subject import Ready, Subject
from .told import told_said
from .weights import dependence

if TYPE_CHECKING:
    from .session import Session

__all__ = ["WORK"]

CHUNK = 64  # examples that are predicted at a time
AHEAD = 10_000  # examples of an iterable that are predicted before they are looked at: it may have no end
MOST = 2000  # examples whose attributions are averaged

Steps = Generator[Event, None, Any]


def scan(session: Session, given: Given, following: Following) -> None:
    """Predict every example that was not predicted yet, of an iterable the first; it goes on when nobody listens."""
    following.begin(0, "scan", lambda ticket: _scan(session, ticket), SLOW, stays=True)


def _scan(session: Session, ticket: Ticket) -> Steps:
    catalogue, examples = session.catalogue, session.examples
    while (stop := examples.upto(_next(session))) > catalogue.scanned:
        catalogue.upto(stop)
        _predicted(session, catalogue.rows[catalogue.scanned : stop], ticket)
        catalogue.scanned = stop
        yield {"done": stop, "total": examples.size if examples.ended else None}
        ticket.used = 0.0  # each part has the time of a request
    stopped = examples.stopped
    return {"scanned": catalogue.scanned, "stopped": None if stopped is None else told_error(stopped)}


def _next(session: Session) -> int:
    """Up to which example is predicted next."""
    stop = session.catalogue.scanned + CHUNK
    return stop if session.examples.indexed else min(stop, max(AHEAD, len(session.catalogue.rows)))


def _predicted(session: Session, rows: Sequence[Row], ticket: Ticket) -> None:
    pairs = list(zip(rows, session.examples.read([row.index for row in rows]), strict=True))
    for row, found in pairs:
        if isinstance(found, Unreadable):
            row.error = told_error(found.error)
        else:
            row.label = found.label
            row.title = row.title or _titled(session.subjects[0], found.raw)
    whole = [(row, found) for row, found in pairs if isinstance(found, Example)]
    said = [_said(subject, whole, ticket) for subject in session.subjects]
    for (row, _), *answers in zip(whole, *said, strict=True):
        row.said = tuple(answers)
        row.found |= {(i, _stored(i)): (None, one.healthy) for i, one in enumerate(answers) if one.healthy is not None}


def _stored(model: int) -> str:
    return Question(model, 0, STORED).manner


def _titled(subject: Subject, raw: Any) -> str:
    try:
        return subject.title(raw)
    except Exception:  # the user's code; the list tells it
        return ""


def _said(subject: Subject, pairs: Sequence[tuple[Row, Example]], ticket: Ticket) -> list[Said]:
    """One answer for each; those that cannot be prepared say why."""
    if subject.said is not None:
        return [subject.said(example.raw, row.label) for row, example in pairs]
    prepared = [_prepared(subject, example) for _, example in pairs]
    fine = [(one, row.label) for one, (row, _) in zip(prepared, pairs, strict=True) if isinstance(one, Ready)]
    answers = iter(predict(subject, [one for one, _ in fine], [label for _, label in fine], ticket))
    return [next(answers) if isinstance(one, Ready) else one for one in prepared]


def _prepared(subject: Subject, example: Example) -> Ready | Said:
    try:
        return subject.ready(example.raw)
    except Exception as error:  # the user's `prepare`
        return Said(error=told_error(error))


def explain(session: Session, given: Given, following: Following) -> None:
    """Answer some questions, each in its turn."""
    for number, one in enumerate(given.many("questions", session.jobs.most)):
        try:
            question = session.question(one)
        except OptionError as error:
            following.refuse(number, error)
        else:
            following.begin(number, question.key, _asking(session, question), USUAL)


def _asking(session: Session, question: Question) -> Work:
    def work(ticket: Ticket) -> Steps:
        yield from ()
        return session.answer(question, ticket)

    return work


def predictions(session: Session, given: Given, following: Following) -> None:
    """What each model says of an example, as it is or with an edit."""
    row, edit = session.row(given), given.fields_of("edit")

    def work(ticket: Ticket) -> Steps:
        yield from ()
        example = session.examples[row.index]

        def said(model: int, subject: Subject) -> Said:
            if subject.said is not None and not edit:
                return subject.said(example.raw, example.label)
            return predict(subject, [session.ready(model, row.index, edit)], [example.label], ticket)[0]

        return {"said": [told_said(subject, said(i, subject)) for i, subject in enumerate(session.subjects)]}

    following.begin(0, f"predict {row.index} {sorted(edit.items())}", work, QUICK)


def trust(session: Session, given: Given, following: Following) -> None:
    """The deletion and insertion curves of an answer."""
    question = session.question(given)

    def work(ticket: Ticket) -> Steps:
        yield from ()
        ready = session.ready(question.model, question.index, question.edit)
        return curves(session.subjects[question.model], ready, session.answer(question, ticket), ticket)

    following.begin(0, f"trust {question.key}", work, USUAL)


def weights(session: Session, given: Given, following: Following) -> None:
    """Whether an answer depends on what the model has learned."""
    question = session.question(given)

    def work(ticket: Ticket) -> Steps:
        yield from ()
        subject, ready = session.subjects[question.model], session.ready(question.model, question.index, question.edit)
        return dependence(
            subject, ready, session.answer(question, ticket), ticket, lambda shapes: session.references(question.model, shapes)
        )

    following.begin(0, f"weights {question.key}", work, USUAL)


def importance(session: Session, given: Given, following: Following) -> None:
    """What matters over the chosen examples; each is explained on the way."""
    chosen = [row.index for row in session.catalogue.chosen(session.filter(given))]
    base = given.fields_of("question")
    questions = [session.question(Given(base | {"index": i})) for i in chosen[: given.whole("limit", 1, MOST, 200)]]

    def work(ticket: Ticket) -> Steps:
        gathered, failed = Importance(), 0
        for done, question in enumerate(questions):
            yield {"done": done, "total": len(questions)}
            ticket.used = 0.0
            try:
                gathered.add(session.answer(question, ticket), session.ready(question.model, question.index))
            except Exception:  # this example is counted as failed, the others are averaged
                failed += 1
        return gathered.told() | {"failed": failed, "chosen": len(chosen)}

    following.begin(0, f"importance {base} {[q.index for q in questions]}", work, SLOW)


def export(session: Session, given: Given, following: Following) -> None:
    """The current view as one HTML file."""
    from .export import exporting

    following.begin(0, f"export {given.fields}", exporting(session, given), SLOW)


WORK: Mapping[str, Callable[[Session, Given, Following], None]] = {
    "scan": scan,
    "explain": explain,
    "predict": predictions,
    "trust": trust,
    "weights": weights,
    "importance": importance,
    "export": export,
}
