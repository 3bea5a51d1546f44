"""What a run has stored, read back: explanations by number, rows as a table, sums over all; also while it grows."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import FileError, InputError, OptionError, need
from ..explanation import Explanation
from .columns import COLUMNS
from .manifest import Done, Manifest
from .parts import joined, of_these
from .rows import Reader, is_of_texts, named
from .source import Source
from .sources import source_of
from .store import Store
from .summary import Clusters, Means, clusters, means, top_features

if TYPE_CHECKING:
    from ..insights import Insights

__all__ = ["Results", "open"]


def open(out: str | Path, data: Any = None, **reading: Any) -> Results:
    """The results in a folder, whether the run goes on or has ended.

    Args:
        out: the run's folder.
        data: what was explained, for a run that did not keep its inputs; `reading` is what `run` was told about it.

    Raises:
        FileError: there is no run, or the data are not the run's.
    """
    results = Results(Path(out))
    if data is not None:
        results._source = _source_of(results, data, reading)
    return results


def _source_of(results: Results, data: Any, reading: dict[str, Any]) -> Source:
    """The run's data, read as the run read them."""
    facts, size = results.facts, reading.pop("size", None)
    given = {"prepare": None, "columns": (), "label": None} | reading
    if unknown := set(given) - {"prepare", "columns", "label"}:
        raise OptionError(f"open has no option {sorted(unknown)[0]!r}; what says how data are read is prepare, columns, label and size")
    reader = Reader(given["prepare"], named(given["columns"]), given["label"], getattr(torch, facts.get("dtype", "float32")))
    source = source_of(data, reader, facts["run"].get("seed", 0), size)
    source.form = facts.get("form", "")
    results.store.check({name: facts["run"].get(name) for name in facts["run"]} | source.identity())
    return source


@dataclass(frozen=True)
class _Known:
    """What is known of a block: the numbers of its examples, the row of each in the shard, and what was explained."""

    block: int
    attempt: int
    examples: list[int]
    rows: list[int | None]
    targets: list[str | None]


class Results(Sequence[Explanation]):
    """The answers of a run, by the number of the example.

    `results[17]` is an `Explanation` of one example, `results[10:20]` one of all in that range that could be explained. They are read
    when they are asked for: the run may be larger than memory.

    Attributes:
        facts: what the run is: method, options, hashes, blocks, versions.
    """

    def __init__(self, folder: Path, source: Source | None = None) -> None:
        self.store, self.manifest, self._source = Store.open(folder), Manifest(folder), source
        self.facts = self.store.facts
        self._known: _Known | None = None

    def refresh(self) -> Results:
        """Look for what has come since."""
        self.manifest.refresh()
        return self

    def __len__(self) -> int:
        """How many examples the data have; of a stream, how many came so far."""
        count = self.facts["count"]
        if count is None:
            count = self.manifest.examples
        return int(self.manifest.total.examples if count is None else count)

    @property
    def total(self) -> Done:
        """What is stored: examples, how many of them failed or are not healthy, what they cost (seconds of all workers), bytes."""
        return self.manifest.total

    @property
    def complete(self) -> bool:
        """Whether every example is there."""
        ended = self.facts["count"] is not None or self.manifest.blocks is not None
        return ended and self.manifest.total.examples >= len(self)

    @property
    def failed(self) -> Iterator[tuple[int, str]]:
        """The examples that could not be explained, each with its error, in order."""
        for table in self.tables(["example", "error"]):
            rows = table.to_pydict()
            yield from ((i, error) for i, error in zip(rows["example"], rows["error"], strict=True) if error is not None)

    def blocks(self) -> Iterator[int]:
        """The numbers of the blocks that are stored."""
        return (number for number, stored in enumerate(self.manifest.stored) if stored)

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[Any]:
        """The rows, a pyarrow table for each block."""
        for number in self.blocks():
            yield self.rows_of(number, None if columns is None else list(columns))

    def table(self, columns: Sequence[str] | None = None) -> Any:
        """All rows in one pyarrow table (`.to_pandas()`, `.to_pydict()`): prediction, score, health, cost, error."""
        if unknown := [name for name in columns or () if name not in COLUMNS]:
            raise InputError(f"there is no column {unknown[0]!r}; the columns are {', '.join(COLUMNS)}")
        arrow = need("pyarrow", "scale")
        tables = _of_one_type(list(self.tables(columns)), arrow)
        return (
            arrow.concat_tables(tables, promote_options="permissive") if tables else arrow.table({name: [] for name in columns or COLUMNS})
        )

    def explanations(self, inputs: bool = True) -> Iterator[tuple[list[int], Explanation]]:
        """Block by block: the numbers of the examples that could be explained, and their explanation.

        Without `inputs`, those of a run that did not keep them are not missed, and features are empty.
        """
        for number in self.blocks():
            known = self._rows(number)
            found = [e for e, r in zip(known.examples, known.rows, strict=True) if r is not None]
            if found:
                yield found, self._block(number, 0, len(found), inputs or self._source is not None)

    def blocks_with_answers(self) -> Iterator[int]:
        """The blocks in which some example could be explained."""
        return (number for number in self.blocks() if any(row is not None for row in self._rows(number).rows))

    def insights(self, models: Any = None, data: Any = None, **view: Any) -> Insights:
        """The results as a page, a widget or a file to look at: predictions, health, errors and maps as they are stored.

        Args:
            models: None: nothing is computed. Models beside the run can be asked what it was not: other methods, classes, edits.
            data: the raw examples, for models that are not fed what the run kept (tokens of texts, say).
            view: what `pellucid.insights.insights` takes besides: classes, title, prepare, ...

        Raises:
            InputError: data that have another length. MissingExtra: pyarrow is not installed.
        """
        from ..insights import insights
        from ..insights.stored import StoredExamples

        return insights(models, StoredExamples(self, data, view.get("classes", ())), **view)

    def means(self, by: str | None = "prediction") -> Means:
        """The mean attribution of each class ("prediction" or "label"), or of all: `summary.means`."""
        return means(self, by)

    def top_features(self, count: int = 10, by: str | None = None) -> dict[str, list[tuple[str, float, float]]]:
        """The features with the largest mean magnitude, of all or of each class: name, mean magnitude, mean attribution."""
        return top_features(self, count, by)

    def clusters(self, count: int = 8, seed: int = 0) -> Clusters:
        """Groups of examples that are explained alike: `summary.clusters`."""
        return clusters(self, count, seed)

    def __getitem__(self, which: Any) -> Any:
        """One example by its number, or several by a slice.

        Raises:
            IndexError: no such example. InputError: it failed, or is not there yet.
        """
        if isinstance(which, slice):
            return self._several(range(*which.indices(len(self))))
        try:
            asked = operator.index(which)
        except TypeError as error:
            raise InputError(f"an example is asked for by its number, several by a slice; {which!r} is neither") from error
        number = asked + len(self) if asked < 0 else asked
        if not 0 <= number < len(self):
            raise IndexError(f"there is no example {which}; they count from 0, and there are {len(self)}")
        block, place = divmod(number, self.facts["block"])
        if block not in self.manifest and block not in self.refresh().manifest:
            raise InputError(f"example {number} is not explained yet; {self.total.examples} of {len(self)} are")
        row = self._rows(block).rows[place]
        if row is None:
            words = self.rows_of(block, ["error"])["error"][place].as_py()
            raise InputError(f"example {number} could not be explained: {words}")
        return self._block(block, row, row + 1)

    def _several(self, numbers: range) -> Explanation:
        found = []
        for number in numbers:
            block, place = divmod(number, self.facts["block"])
            if block in self.manifest and (row := self._rows(block).rows[place]) is not None:
                found.append((block, row))
        if not found:
            raise InputError(f"none of the examples {numbers.start} to {numbers.stop} is there; {self.total.examples} of {len(self)} are")
        runs: list[tuple[int, int, int]] = []
        for block, row in found:
            if runs and runs[-1][0] == block and runs[-1][2] == row:
                runs[-1] = block, runs[-1][1], row + 1
            else:
                runs.append((block, row, row + 1))
        return joined([self._block(*run) for run in runs])

    def rows_of(self, block: int, columns: list[str] | None = None) -> Any:
        """The rows of a block, a pyarrow table; where another attempt took their place in the meantime, those."""
        attempt = self.manifest.attempt(block)
        if not self.store.has(block, attempt):
            self.refresh()
        return self.store.rows(block, columns, self.manifest.attempt(block))

    def words_of(self, block: int) -> dict[str, Any] | None:
        """What is said of a block in words; None of one in which every example failed."""
        return self.store.words(block, self._rows(block).attempt)

    def _rows(self, block: int) -> _Known:
        """The block's examples, their targets, and the row of each in the shard; those of the last block asked for are remembered."""
        table = None
        if self._known is None or self._known.block != block or not self.store.has(block, self._known.attempt):
            table = self.rows_of(block, ["example", "row", "target"]).to_pydict()
        if table is not None:
            self._known = _Known(block, self.manifest.attempt(block), table["example"], table["row"], table["target"])
        assert self._known is not None
        return self._known

    def _block(self, block: int, start: int, stop: int, inputs: bool = True) -> Explanation:
        known = self._rows(block)
        words = self.words_of(block)
        assert words is not None
        places = [place for place, row in enumerate(known.rows) if row is not None]
        tensors = self.store.tensors(block, start, stop, known.examples[0], places, attempt=known.attempt)
        if "features.0" not in tensors:
            wanted = [places[i] for i in range(start, stop)]
            tensors |= self._features(known.examples[0], wanted) if inputs else {"features.0": torch.zeros(stop - start, 0)}
        for name, tensor in tensors.items():
            if name.startswith("baselines.") and len(tensor) == 1:
                tensors[name] = tensor.expand(stop - start, *tensor.shape[1:])
        targets = [known.targets[place] or "" for place in places]
        return of_these(Explanation._from(words, tensors), start, stop, len(places), targets, is_of_texts(self.facts.get("form", "")))

    def _features(self, first: int, places: list[int]) -> dict[str, Tensor]:
        """The inputs, out of the data.

        Raises:
            FileError: no data are given, or these examples can no longer be read.
        """
        if self._source is None:
            raise FileError(f"the run in {str(self.store.folder)!r} did not keep its inputs; give open the data, too")
        rows = self._source.read(first + min(places), first + max(places) + 1)
        if lost := [place for place in places if place - min(places) not in rows.places]:
            words = rows.failed.get(lost[0] - min(places), "it is not there")
            raise FileError(f"example {first + lost[0]}, which was explained, can no longer be read: {words}")
        wanted = torch.tensor([rows.places.index(place - min(places)) for place in places])
        dtypes = self.facts.get("features", [])
        return {f"features.{i}": value[wanted].to(getattr(torch, dtypes[i])) for i, value in enumerate(rows.inputs)}

    def __repr__(self) -> str:
        total, state = self.total, "complete" if self.complete else f"{self.total.examples} of {len(self)} so far"
        run = self.facts["run"]
        return f"Results({run['method']} of {run['model']}, {state}; {total.failed} failed, {total.unhealthy} to look at)"


def _of_one_type(tables: list[Any], arrow: Any) -> list[Any]:
    """Labels that are numbers in one block and words in another are words."""
    kinds = {table.schema.field("label").type for table in tables if "label" in table.column_names} - {arrow.null()}
    if len(kinds) < 2 or kinds <= {arrow.int64(), arrow.float64()}:
        return tables
    place = tables[0].column_names.index("label")
    return [table.set_column(place, "label", table["label"].cast(arrow.string())) for table in tables]
