"""A session: models, examples, and everything that can be asked about them, whoever asks (a page, a notebook, a file)."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import OptionError
from ..inputs import Tensors
from ..metrics import agreement
from ..show.scale import array_of
from .catalogue import Catalogue, Filter, Row
from .edits import editable, edited
from .examples import Example, Examples, Unreadable
from .following import Following
from .given import Given
from .jobs import Event, Jobs, Ticket, told_error
from .kept import Kept
from .questions import Answer, Question, ask
from .start import start_of
from .subject import Ready, Subject
from .table import table_of
from .told import channels_of, finite_or_none, packed, told_glimpse, told_label, told_part, told_said
from .work import WORK

__all__ = ["Session"]

COSTS = 1000  # of questions that are remembered, to tell how far the next one is
READY = 64 * 2**20  # bytes of prepared examples that are kept
REFERENCES = 16
PAGE = 200  # rows of a list
FAR = 10_000_000  # the highest number of an example that can be asked for
FURTHER = 10_000  # examples that an iterable is read for one request


class Session:
    """Models and examples that are looked at.

    Args:
        subjects: the models.
        examples: the examples.
        title: of the page.
        most, seconds, size: limits: jobs that wait, seconds of a job, bytes of explanations that are kept.
    """

    def __init__(
        self,
        subjects: Sequence[Subject],
        examples: Examples,
        title: str = "",
        most: int = 256,
        seconds: float = 600,
        size: int = 512 * 2**20,
    ) -> None:
        self.subjects, self.examples, self.title = tuple(subjects), examples, title
        self.catalogue = Catalogue(examples, self.subjects)
        self.jobs = Jobs(most, seconds, size)
        self._ready = Kept(READY)
        self._references = Kept(8)
        self._costs = Kept(COSTS)
        self.quick: Mapping[str, Callable[[Given], dict[str, Any]]] = {
            "start": lambda given: start_of(self),
            "samples": self.samples,
            "confusion": lambda given: self.catalogue.confusion(self.filter(given)),
            "sample": self.sample,
            "agreement": self.agreement,
            "save": self.save,
            "table": lambda given: table_of(self, self.filter(given)),
            "channel": self.channel,
            "cancel": lambda given: {"cancelled": self.jobs.cancel(given.text("key", most=40_000))},
        }
        self.long = frozenset(WORK)

    # What is known already.

    def filter(self, given: Given) -> Filter:
        """Which rows a request means."""
        return Filter(
            model=given.whole("model", 0, len(self.subjects) - 1, 0),
            verdict=given.text("verdict", "all"),
            predicted=given.wholes("predicted"),
            labels=given.wholes("labels"),
            low=given.number("low", 0, 1, 0),
            high=given.number("high", 0, 1, 1),
            search=given.text("search"),
            disagree=given.flag("disagree"),
            sort=given.text("sort", "index"),
            descending=given.flag("descending"),
            method=_spelled(given.text("method", most=4000)),
        )

    def samples(self, given: Given) -> dict[str, Any]:
        """A page of the list; no example of it is explained for that."""
        asked, offset = self.filter(given), given.whole("offset", 0, FAR, 0)
        self._read(offset + PAGE)
        chosen = self.catalogue.chosen(asked)
        page = chosen[offset : offset + given.whole("limit", 1, PAGE, 50)]
        read = self.examples.read([row.index for row in page])
        rows = [self.told_row(row, found, asked) for row, found in zip(page, read, strict=True)]
        return {
            "rows": rows,
            "total": len(chosen),
            "all": len(self.catalogue.rows),
            "known": self.examples.ended,
            "scanned": self.catalogue.scanned,
        }

    def told_row(self, row: Row, found: Example | Unreadable, asked: Filter) -> dict[str, Any]:
        if isinstance(found, Unreadable):
            row.error = told_error(found.error)
            return {"index": row.index, "error": row.error, "title": "", "said": []}
        row.label = found.label
        glimpse, error = None, row.error
        try:
            glimpse = self.subjects[asked.model].glimpse(found.raw)
            row.title = row.title or self.subjects[asked.model].title(found.raw)
        except Exception as problem:  # the user's code
            error = told_error(problem)
        kept = row.found.get((asked.model, asked.method))
        return {
            "index": row.index,
            "title": row.title,
            "label": told_label(row.label),
            "labelName": self.catalogue.label(row),
            "correct": [said.right(row.label) for said in row.said],
            "said": [told_said(subject, said) for subject, said in zip(self.subjects, row.said, strict=False)],
            "mass": None if kept is None else finite_or_none(kept[0]),
            "healthy": None if kept is None else kept[1],
            "error": error,
        } | told_glimpse(glimpse)

    def question(self, given: Given) -> Question:
        """The question of a request."""
        self._reach(given)
        return Question.of(given, self.subjects, len(self.catalogue.rows))

    def _reach(self, given: Given) -> None:
        """Read an iterable as far as the example that a request names, within reason."""
        self._read(given.whole("index", 0, FAR) + 1)

    def _read(self, stop: int) -> None:
        known = self.examples.size  # which grows while a run goes on that is looked at
        self.catalogue.upto(known if self.examples.indexed else self.examples.upto(min(stop, known + FURTHER)))

    def row(self, given: Given) -> Row:
        """The row of the example that a request names."""
        self._reach(given)
        return self.catalogue.rows[given.whole("index", 0, len(self.catalogue.rows) - 1)]

    def sample(self, given: Given) -> dict[str, Any]:
        """An example as a person sees it, as each model reads it."""
        row, edit = self.row(given), given.fields_of("edit")
        try:
            example = self.examples[row.index]
        except Exception as error:  # the user's data set
            return {"index": row.index, "error": told_error(error)}
        row.label = example.label
        seen = [self._seen(subject, i, row.index, example.raw, edit) for i, subject in enumerate(self.subjects)]
        said = row.said if not edit and row.said else (None,) * len(self.subjects)
        return {
            "index": row.index,
            "label": told_label(row.label),
            "labelName": self.catalogue.label(row),
            "text": example.raw if isinstance(example.raw, str) else None,
            "editable": next((one["editable"] for one in seen if "editable" in one), ""),
            "models": [one | {"said": told_said(subject, s)} for subject, one, s in zip(self.subjects, seen, said, strict=True)],
        }

    def _seen(self, subject: Subject, model: int, index: int, raw: Any, edit: Mapping[str, Any]) -> dict[str, Any]:
        try:
            ready = self.ready(model, index, edit)
        except Exception as error:  # the user's `prepare`
            # The example as it was, so that an edit that failed can be mended.
            return {"error": told_error(error), **(self._seen(subject, model, index, raw, {}) if edit else {"parts": []})}
        pairs = zip(ready.parts, ready.sample.inputs, strict=True)
        return {"parts": [told_part(part) | {"channels": channels_of(part, x)} for part, x in pairs], "editable": editable(raw, ready)}

    def ready(self, model: int, index: int, edit: Mapping[str, Any] | None = None) -> Ready:
        """An example ready for a model."""
        key = f"{model}/{index}"
        found: Ready | None = None if edit else self._ready.get(key)
        if found is None:
            found = edited(self.subjects[model], self.examples[index].raw, edit or {})
            if not edit:
                self._ready.put(key, found, found.size)
        return found

    def agreement(self, given: Given) -> dict[str, Any]:
        """The rank correlation of two answers that are kept; None where their shapes differ or they are gone."""
        first, second = (self.jobs.kept.get(given.text(name, most=40_000)) for name in ("first", "second"))
        if first is None or second is None or not _alike(first, second):
            return {"correlation": None}
        found = agreement([first.explanation.attributions, second.explanation.attributions])
        return {"correlation": finite_or_none(float(found[0, 0, 1]))}

    def save(self, given: Given) -> dict[str, Any]:
        """An answer that is kept, in the library's own format."""
        answer = self._answered(given)
        with tempfile.TemporaryDirectory() as folder:
            path = answer.explanation.save(Path(folder) / "explanation.safetensors")
            return {
                "name": f"{answer.explanation.method}-{answer.question.index}.safetensors",
                "data": base64.b64encode(path.read_bytes()).decode(),
            }

    def channel(self, given: Given) -> dict[str, Any]:
        """The attributions of one channel of one picture of an answer that is kept."""
        answer = self._answered(given)
        attribution = answer.explanation.attributions[given.whole("part", 0, len(answer.explanation.attributions) - 1)]
        if attribution.dim() != 4:
            raise OptionError("only the attributions of pictures have channels")
        return {"values": packed(array_of(attribution[0, given.whole("channel", 0, attribution.shape[1] - 1)]))}

    def _answered(self, given: Given) -> Answer:
        answer: Answer | None = self.jobs.kept.get(given.text("key", most=40_000))
        if answer is None:
            raise OptionError("that explanation is no longer kept; ask for it again")
        return answer

    # What takes work; `work` says how.

    def follow(self, name: str, given: Given, tell: Callable[[Event | None], None]) -> Following:
        """Begin the work of a request, and tell of it until None.

        Raises:
            OptionError: a request that cannot be begun.
        """
        following = Following(self.jobs, tell)
        WORK[name](self, given, following)
        following.done()
        return following

    def answer(self, question: Question, ticket: Ticket) -> Answer:
        """Explain, unless the answer is kept; the list learns of it."""
        found: Answer | None = self.jobs.kept.get(question.key)
        if found is None:
            subject = self.subjects[question.model]
            ready = self.ready(question.model, question.index, question.edit)
            ticket.expected = self._costs.get(question.method_key) or question.passes
            found = ask(subject, ready, question, ticket, lambda shapes: self.references(question.model, shapes))
            self.jobs.kept.put(question.key, found, found.size)
            self._costs.put(question.method_key, found.explanation.cost.forwards, 1)
            ticket.expected = None
        if not question.edit:
            self.catalogue.rows[question.index].found[question.model, question.manner] = (found.mass, found.explanation.healthy)
        return found

    def references(self, model: int, shapes: Sequence[torch.Size]) -> Tensors | None:
        """Some other examples of these shapes, evenly spaced; None if there are fewer than two."""
        key = f"{model}/{shapes}"
        known: Tensors | None = self._references.get(key)
        if known is None:
            step = max(1, self.examples.size // REFERENCES)
            samples = []
            for index in range(0, self.examples.size, step)[:REFERENCES]:
                try:
                    inputs = self.subjects[model].ready(self.examples[index].raw).sample.inputs
                except Exception:  # one that cannot be read is no reference
                    continue
                if [x.shape[1:] for x in inputs] == list(shapes):
                    samples.append(inputs)
            known = tuple(torch.cat(parts) for parts in zip(*samples, strict=True)) if len(samples) > 1 else None
            if known is not None:
                self._references.put(key, known, 1)
        return known

    def close(self) -> None:
        """Stop all work."""
        self.jobs.close()


def _spelled(manner: str) -> str:
    """JSON as Python writes it."""
    try:
        return json.dumps(json.loads(manner), sort_keys=True)
    except (ValueError, RecursionError):
        return ""


def _alike(first: Answer, second: Answer) -> bool:
    one, other = first.explanation.attributions, second.explanation.attributions
    return [a.shape for a in one] == [a.shape for a in other]
