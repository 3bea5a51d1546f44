"""Tables in files, read by number: CSV and TSV line by line, Parquet a row group at a time."""

from __future__ import annotations

import csv
import decimal
import hashlib
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import FileError, InputError, need
from .rows import LABELS, One, Reader, Rows, together
from .source import Source, told

__all__ = ["Lines", "Parquet"]

STRIDE = 256  # of so many rows, the place of the first is remembered


class Lines(Source):
    """A CSV or TSV table, with a header or without; numbers become a row, one column of anything else goes to `prepare`."""

    kind = "table"

    def __init__(self, path: Path, reader: Reader) -> None:
        self.path, self.reader = path.resolve(), reader
        self.delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        self.places, digest, count = array("Q"), hashlib.blake2b(digest_size=12), 0
        header: tuple[str, ...] | None = None
        cells: list[str] = []
        last = 0
        for place, row in self._all(0, digest):
            if header is None:
                header = _names(row)
                if header:
                    continue
            if count % STRIDE == 0:
                self.places.append(place)
            cells, count, last = cells or row, count + 1, place
        if not count:
            raise FileError(f"data={str(path)!r} holds no rows; give a table with at least one")
        self._ends(last)
        self.count, self.digest = count, digest.hexdigest()
        self.header = header or tuple(f"column {i}" for i in range(len(cells)))
        if any("\ufffd" in name for name in self.header):
            raise FileError(f"data={str(path)!r} is not UTF-8 text; save it as UTF-8")
        self.columns, self.label = columns_of(self.header, reader, str(path))
        self.names = self.columns

    def _all(self, place: int, digest: Any = None) -> Iterator[tuple[int, list[str]]]:
        """The rows from a place on, each with its own place; empty lines are none, a cell in quotes may go over several lines.

        Raises:
            FileError: it is no such table.
        """
        lines = _Read(self.path, place, digest)
        try:
            for row in csv.reader(lines, delimiter=self.delimiter):
                if len(row) > 1 or (row and row[0].strip()):
                    yield place, row
                place = lines.place
        except FileError:
            raise
        except (csv.Error, OSError) as error:
            raise FileError(f"data={str(self.path)!r} is no {self.path.suffix[1:]} table from byte {place} on: {error}") from error

    def _ends(self, last: int) -> None:
        """A quotation mark that is never closed would take all rows behind it into one cell."""
        with self.path.open(encoding="utf-8", errors="replace", newline="") as file:
            file.seek(last)
            try:
                list(csv.reader(file, delimiter=self.delimiter, strict=True))
            except csv.Error as error:
                if "unexpected end" in str(error):
                    raise FileError(f"data={str(self.path)!r}: a quotation mark behind byte {last} is never closed") from error

    def mark(self) -> str:
        """Of the whole file."""
        return self.digest

    def read(self, start: int, stop: int) -> Rows:
        """The rows; one with a cell that is no number is told."""
        read, failed = [], {}
        for number, (_, cells) in enumerate(self._all(self.places[start // STRIDE]), start - start % STRIDE):
            if number >= stop:
                break
            if number < start:
                continue
            try:
                read.append((number - start, self._one(cells, number)))
            except Exception as error:
                failed[number - start] = told(error)
        return together(read, stop - start, failed=failed, form=self.form)

    def _one(self, cells: list[str], number: int) -> One:
        if len(cells) != len(self.header):
            raise InputError(f"row {number} has {len(cells)} cells under a header of {len(self.header)}")
        if any("\ufffd" in cell for cell in cells):
            raise InputError(f"row {number} is not UTF-8 text; save the table as UTF-8")
        return one_of(dict(zip(self.header, cells, strict=True)), self.columns, self.label, self.reader, number)


class _Read:
    """Lines of a file as text, and the place behind the last of them."""

    def __init__(self, path: Path, place: int, digest: Any = None) -> None:
        self.path, self.place, self.digest = path, place, digest

    def __iter__(self) -> Iterator[str]:
        with self.path.open("rb") as file:
            file.seek(self.place)
            for line in file:
                if not self.place and line.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise FileError(f"data={str(self.path)!r} is UTF-16 text; save it as UTF-8")
                text = line.decode("utf-8-sig" if not self.place else "utf-8", "replace")
                self.place += len(line)
                if self.digest is not None:
                    self.digest.update(line)
                yield text


def _names(row: list[str]) -> tuple[str, ...]:
    """The header, if it is one."""
    return () if all(_is_number(cell) for cell in row) else tuple(cell.strip() for cell in row)


class Parquet(Source):
    """A Parquet table; a row group at a time is read."""

    kind = "table"

    def __init__(self, path: Path, reader: Reader) -> None:
        self.path, self.reader = path.resolve(), reader
        try:
            about = need("pyarrow.parquet", "scale").ParquetFile(self.path)
        except (OSError, ValueError) as error:
            raise FileError(f"data={str(path)!r} is not a Parquet table ({error})") from error
        sizes = [about.metadata.row_group(i).num_rows for i in range(about.num_row_groups)]
        self.starts = np.cumsum([0, *sizes])
        self.count = int(self.starts[-1])
        if not self.count:
            raise FileError(f"data={str(path)!r} holds no rows; give a table with at least one")
        self.columns, self.label = columns_of(tuple(about.schema_arrow.names), reader, str(path))
        self.names = self.columns
        self._held: tuple[int, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_held": None}

    def mark(self) -> str:
        """Of the bytes at the beginning and the end, which tell columns and row groups, and of the length."""
        digest = hashlib.blake2b(str(self.path.stat().st_size).encode(), digest_size=12)
        with self.path.open("rb") as file:
            digest.update(file.read(2**16))
            file.seek(max(0, self.path.stat().st_size - 2**16))
            digest.update(file.read())
        return digest.hexdigest()

    def read(self, start: int, stop: int) -> Rows:
        """The rows; one with a cell that is no number is told."""
        read, failed = [], {}
        for place, cells in enumerate(self._rows(start, stop)):
            try:
                read.append((place, one_of(cells, self.columns, self.label, self.reader, start + place)))
            except Exception as error:
                failed[place] = told(error)
        return together(read, stop - start, failed=failed, form=self.form)

    def _rows(self, start: int, stop: int) -> Iterator[Mapping[str, Any]]:
        while start < stop:
            group = int(np.searchsorted(self.starts, start, "right")) - 1
            end = min(stop, int(self.starts[group + 1]))
            yield from self._group(group).slice(start - int(self.starts[group]), end - start).to_pylist()
            start = end

    def _group(self, number: int) -> Any:
        if self._held is None or self._held[0] != number:
            wanted = [*self.columns, *([self.label] if self.label else [])]
            self._held = number, need("pyarrow.parquet", "scale").ParquetFile(self.path).read_row_group(number, columns=wanted)
        return self._held[1]


def columns_of(header: tuple[str, ...], reader: Reader, path: str) -> tuple[tuple[str, ...], str]:
    """The columns that are explained, and the label's ("": none).

    Raises:
        InputError: a column that is not there, or is there twice.
    """
    label = next((n for n in LABELS if n in header and n not in reader.columns), "") if reader.label is None else reader.label
    if isinstance(label, int):
        if not -len(header) <= label < len(header):
            raise InputError(f"label is {label}, and data={path!r} has {len(header)} columns: {', '.join(header)}")
        label = header[label]
    for name in (*reader.columns, *([label] if label else [])):
        if name not in header:
            raise InputError(f"data={path!r} has no column {name!r}; its columns are {', '.join(header)}")
    if twice := [name for name in header if header.count(name) > 1]:
        raise InputError(f"data={path!r} has two columns that are called {twice[0]!r}; give each a name of its own")
    return reader.columns or tuple(n for n in header if n != label), label


def one_of(cells: Mapping[str, Any], columns: tuple[str, ...], label: str, reader: Reader, row: int) -> One:
    """One row: numbers as they are, or what `prepare` makes of it.

    Raises:
        InputError: a cell that is no number.
    """
    own = _label(cells[label]) if label else None
    if reader.prepare is not None:
        chosen = {name: _number(cells[name]) for name in columns}
        value: Any = chosen if len(columns) > 1 else next(iter(chosen.values()))
        return replace(reader, columns=(), label="")(value, own)
    if len(columns) == 1 and not _is_number(cells[columns[0]]):
        if cells[columns[0]] is None or cells[columns[0]] == "":
            raise InputError(f"row {row}, column {columns[0]}: there is nothing")
        return Reader(dtype=reader.dtype)(cells[columns[0]], own)
    for name in columns:
        if not _is_number(cells[name]):
            raise InputError(f"row {row}, column {name}: {cells[name]!r} is not a number; give prepare=, or columns= of numbers")
    return One((torch.tensor([float(cells[name]) for name in columns], dtype=reader.dtype),), own)


def _label(cell: Any) -> Any:
    """A number, where a cell says no more than that; else its words ("007" is a name). None: there is none."""
    if isinstance(cell, decimal.Decimal):
        cell = float(cell)
    if isinstance(cell, str):
        words, found = cell.strip(), _number(cell)
        if not words or words.lower() == "nan":
            return None
        if not isinstance(found, float) or not np.isfinite(found):
            return cell
        return found if not found.is_integer() else int(found) if words in (str(int(found)), f"{int(found)}.0") else cell
    if isinstance(cell, float):
        return None if np.isnan(cell) else int(cell) if cell.is_integer() else cell
    return cell if cell is None or isinstance(cell, int) else str(cell)


def _number(cell: Any) -> Any:
    return float(cell) if isinstance(cell, str) and _is_number(cell) else cell


def _is_number(cell: Any) -> bool:
    if isinstance(cell, list | dict | bytes) or cell is None or (isinstance(cell, str) and "_" in cell):
        return False
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True
