"""A run over a data set that is looked at: what it stored answers where otherwise a model would."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from numbers import Real
from typing import TYPE_CHECKING, Any

from ..errors import InputError, OptionError
from ..explanation import Display, Explanation
from ..task import Kind, Sample
from .arguments import STORED
from .examples import Examples, Label
from .predictions import Said
from .subject import Ready, Subject, fed, part_of, subjects_of, title_of

if TYPE_CHECKING:
    from ..scale.results import Results

__all__ = ["Stored", "StoredExamples", "subjects_of_run"]

BLOCKS = 16  # whose rows are kept


class Stored:
    """One example of a run: its row, read with its block; its explanation, read when it is looked at.

    Attributes:
        row: prediction, label, health and the rest by name.
        raw: the example itself, where the data were given.
        pictures: whether it is one.
    """

    def __init__(self, row: Mapping[str, Any], read: Callable[[], Explanation], raw: Any, pictures: bool) -> None:
        self.row, self._read, self.raw, self.pictures = row, read, raw, pictures

    @cached_property
    def explanation(self) -> Explanation:
        """What the run found.

        Raises:
            FileError: it cannot be read.
        """
        return self._read()

    @cached_property
    def ready(self) -> Ready:
        """As a person sees it, with the answer that is known."""
        found = self.explanation
        parts = []
        for i, x in enumerate(found.features):
            shown = found.display.of_input(i)
            name = shown.title or ("input" if len(found.features) == 1 else f"input {i + 1}")
            parts.append(part_of(x, name, shown.kind if shown.kind != "several" else None, _names(shown), shown.picture, _cells(shown)))
        return Ready(Sample(found.features, names=parts[0].names), tuple(parts), found)

    def feeds(self) -> Any:
        """What another model is fed: the raw example, or what the run's model was fed.

        Raises:
            InputError: the run was not about the model's inputs.
        """
        if self.raw is not None:
            return self.raw
        display = self.explanation.display
        if any(shown.kind in ("text", "examples") for shown in (display, *display.parts)):
            raise InputError("the run kept no inputs that another model could be fed; give the raw examples, too: insights(model, data)")
        return replace(self.ready.sample, picture=self.ready.parts[0].picture)


def _names(shown: Display) -> tuple[str, ...]:
    return tuple(token or "" for token in shown.tokens[0] if token is not None) if shown.tokens else shown.names


def _cells(shown: Display) -> Any:
    return list(shown.cells[0]) if shown.cells else None


class StoredExamples(Sequence[Any]):
    """Pairs `(Stored, label)`, as far as the run has come without a gap; it may go on meanwhile.

    Args:
        data: the raw examples, or pairs with labels, by the same numbers.
        classes: their names, where the run does not know them.

    Raises:
        InputError: there are more or fewer raw examples than the run has.
    """

    def __init__(self, results: Results, data: Any = None, classes: Sequence[str] = ()) -> None:
        self.results, self.block, self._given = results, int(results.facts["block"]), tuple(classes)
        self.data = None if data is None else Examples(data)
        if self.data is not None and self.data.indexed and self.data.size != len(results):
            raise InputError(f"data has {self.data.size} examples, but the run has {len(results)}; give those that were explained")
        self._lock = threading.RLock()
        self._rows = lru_cache(BLOCKS)(self._read_rows)

    def __len__(self) -> int:
        with self._lock:
            if self.results.complete:
                return len(self.results)
            stored = self.results.refresh().manifest.stored
            whole = next((number for number, there in enumerate(stored) if not there), len(stored))
            return min(len(self.results), whole * self.block)

    def __getitem__(self, number: Any) -> tuple[Stored, Any]:
        """The example of that number, and its label.

        Raises:
            InputError: it could not be explained.
        """
        with self._lock:
            rows = self._rows(number // self.block)
        row = {name: values[number % self.block] for name, values in rows.items()}
        if row["error"] is not None:
            raise InputError(f"the run could not explain it: {row['error']}")
        raw = None if self.data is None else self.data[number].raw
        return Stored(row, lambda: self._explanation(number), raw, self._display.get("kind") == "image"), self._label(row["label"])

    @cached_property
    def _display(self) -> Mapping[str, Any]:
        """How the run's examples are drawn, as the first that were explained say."""
        with self._lock:
            block = next(self.results.blocks_with_answers(), None)
            found: Mapping[str, Any] = {} if block is None else (self.results.words_of(block) or {}).get("display", {})
        return found

    @property
    def classes(self) -> tuple[str, ...]:
        """The names, in the order of the output."""
        return self._given or tuple(self.results.facts["classes"]) or tuple(self._display.get("classes", ()))

    @property
    def title(self) -> str:
        """What was run."""
        run, total = self.results.facts["run"], self.results.total
        failed = f", {total.failed:,} failed" if total.failed else ""
        return f"{run['model']}: {run['method'].replace('_', ' ')} of {total.examples:,} examples{failed}"

    def _explanation(self, number: int) -> Explanation:
        with self._lock:
            found: Explanation = self.results[number]
        return found

    def _read_rows(self, block: int) -> dict[str, list[Any]]:
        rows: dict[str, list[Any]] = self.results.rows_of(block).to_pydict()
        return rows

    def _label(self, label: Any) -> Any:
        """What is neither a number nor the name of a class cannot be compared with a prediction."""
        known = label in self.classes if isinstance(label, str) else isinstance(label, Real) and math.isfinite(label)
        return label if known else None


def subjects_of_run(
    examples: StoredExamples,
    models: Any,
    classes: Sequence[str] = (),
    kind: Kind | None = None,
    names: Sequence[str] = (),
    prepare: Callable[[Any], Any] | None = None,
) -> tuple[Subject, ...]:
    """The run, and models beside it, which are fed the raw examples, or what the run's model was fed."""
    run = examples.results.facts["run"]
    stored = Subject(
        "the run", absent, lambda given: given.ready, tuple(classes), targeted=False, glimpse=_glimpse,
        titled=_titled, said=lambda given, label: said_of_row(given.row, label, run["target"]), methods=(STORED,),
    )  # fmt: skip
    if models is None:
        return (stored,)
    live = subjects_of(models, classes, kind, names, prepare if examples.data is not None else lambda given: given)
    return (stored, *map(_fed, live))


def _fed(subject: Subject) -> Subject:
    """The same, of stored examples."""

    def ready(given: Stored) -> Ready:
        found = subject.ready(given.feeds())
        inputs = tuple(fed(x, subject.model) for x in found.sample.inputs)
        return replace(found, sample=replace(found.sample, inputs=inputs))

    return replace(subject, ready=ready, glimpse=_glimpse, titled=_titled)


def said_of_row(row: Mapping[str, Any], label: Label, target: Any) -> Said:
    """What the model said when the run explained it; the score is known of the class that was explained."""
    predicted, score = row["prediction"], row["score"]
    if predicted is None:
        measured = isinstance(label, int | float) and score is not None
        return Said(value=score, loss=(score - label) ** 2 if measured else None, healthy=row["healthy"])
    explained = target is None or target == predicted
    confidence = math.nan if row["confidence"] is None else row["confidence"]
    return Said(((predicted, score if explained and score is not None else math.nan, confidence),), healthy=row["healthy"])


def _titled(given: Stored) -> str:
    """The name of the file or the row; the words of a text, the cells of a table. Pictures are not read for it."""
    if given.row["key"]:
        return str(given.row["key"])
    return "" if given.pictures else title_of(_glimpse(given))


def _glimpse(given: Stored) -> Any:
    part = given.ready.parts[0]
    if part.kind == "image":
        return part.picture
    return " ".join(part.names) if part.kind == "text" else dict(zip(part.names, part.cells, strict=False))


def absent(*args: Any, **kwargs: Any) -> Any:
    """In place of the model.

    Raises:
        OptionError: always.
    """
    raise OptionError("a run is looked at without its model; give it, too: results.insights(model)")
