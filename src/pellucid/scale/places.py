"""Examples in files: a folder of images, a CSV table, a Parquet table; read by number, without holding the list of all of them."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
import tempfile
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from ..errors import FileError, InputError, need
from .rows import LABELS, One, Reader, Rows, together
from .sources import Source, told

__all__ = ["Folder", "Lines", "Parquet", "place_of"]

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
STRIDE = 256  # of so many lines, the place of the first is remembered


def place_of(path: Path, reader: Reader, size: tuple[int, int] | None = None) -> Source:
    """The source behind a path.

    Raises:
        FileError: nothing is there, or nothing that is known.
    """
    if not path.exists():
        raise FileError(f"data={str(path)!r} is not there (seen from {Path.cwd()}); give a folder of images, a CSV or a Parquet file")
    if path.is_dir():
        return Folder(path, reader, size)
    kinds: dict[str, type[Lines] | type[Parquet]] = {".csv": Lines, ".tsv": Lines, ".parquet": Parquet, ".pq": Parquet}
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise FileError(f"data={str(path)!r} ends in {path.suffix!r}; give a folder of images, or a file that ends in {', '.join(kinds)}")
    return kind(path, reader)


class Folder(Source):
    """All images below a folder, in the order of their names; the folder that a picture lies in is its label, if there are several.

    The list of files lies in a file of its own, of which only the places of some lines are held.
    """

    kind = "folder"

    def __init__(self, path: Path, reader: Reader, size: tuple[int, int] | None = None) -> None:
        self.path, self.reader, self.size = path.resolve(), reader, size
        with tempfile.NamedTemporaryFile("wb", prefix="pellucid-", suffix=".txt", delete=False) as file:
            self.list = Path(file.name)
            self.places, digest, place, self.count = array("Q"), hashlib.blake2b(digest_size=12), 0, 0
            for name, length in _files(self.path, ""):
                line = name.encode("utf-8", "surrogateescape") + b"\n"
                if self.count % STRIDE == 0:
                    self.places.append(place)
                place += file.write(line)
                digest.update(line + str(length).encode())
                self.count += 1
        self.digest = digest.hexdigest()
        folders = sorted(entry.name for entry in os.scandir(self.path) if entry.is_dir())
        self.classes = tuple(folders) if len(folders) > 1 and reader.label != "" else ()
        if not self.count:
            self.list.unlink()
            raise FileError(f"data={str(path)!r} holds no image; known endings are {', '.join(sorted(IMAGES))}")

    def settle(self, folder: Path) -> None:
        """The list goes where every worker can read it."""
        kept = folder / f"files-{self.digest}.txt"
        if not kept.exists():
            part = kept.with_name(f"{kept.name}.part{os.getpid()}")
            shutil.copyfile(self.list, part)
            part.replace(kept)
        self.close()
        self.list = kept

    def close(self) -> None:
        """The list that was nobody's yet is gone."""
        if self.list.parent == Path(tempfile.gettempdir()):
            self.list.unlink(missing_ok=True)

    def mark(self) -> str:
        """Of all names and lengths."""
        return self.digest

    def read(self, start: int, stop: int) -> Rows:
        """The pictures; one that is none is told."""
        names = _lines(self.list, self.places, start, stop)
        read, failed = [], {}
        for place, name in enumerate(names):
            try:
                read.append((place, self._one(name.decode("utf-8", "surrogateescape"))))
            except Exception as error:
                failed[place] = told(error)
        return together(read, stop - start, [n.decode("utf-8", "replace") for n in names], failed)

    def _one(self, name: str) -> One:
        label = self.classes.index(name.split("/", 1)[0]) if self.classes and "/" in name else None
        return self.reader(picture(self.path / name, self.size), label)


def picture(path: Path, size: tuple[int, int] | None = None) -> Image.Image:
    """A picture, read to its end.

    Raises:
        FileError: it is none, or is cut off.
    """
    try:
        with Image.open(path) as image:
            found = image if image.mode in ("L", "RGB") else image.convert("RGB")
            found.load()
            return found if size is None else found.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FileError(f"{path.name!r} is not an image that Pillow can read ({error})") from error


def _files(folder: Path, inside: str) -> Iterator[tuple[str, int]]:
    """Names and lengths of images, folder by folder; of one folder at a time the names are held."""
    with os.scandir(folder / inside) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        name = f"{inside}{entry.name}"
        if entry.is_dir():
            yield from _files(folder, f"{name}/")
        elif Path(entry.name).suffix.lower() in IMAGES:
            yield name, entry.stat().st_size


def _lines(path: Path, places: array[int], start: int, stop: int) -> list[bytes]:
    found = []
    with path.open("rb") as file:
        file.seek(places[start // STRIDE])
        for number, line in enumerate(file, start - start % STRIDE):
            if number >= stop:
                break
            if number >= start:
                found.append(line.rstrip(b"\n"))
    return found


class Lines(Source):
    """A CSV or TSV table, with a header or without; numbers become a row, one column of anything else goes to `prepare`."""

    kind = "table"

    def __init__(self, path: Path, reader: Reader) -> None:
        self.path, self.reader = path.resolve(), reader
        self.delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        self.places, digest, count = array("Q"), hashlib.blake2b(digest_size=12), 0
        self.header: tuple[str, ...] = ()
        for place, record in _records(self.path):
            digest.update(record)
            if not place and (names := self._names(record)):
                self.header = names
            else:
                if count % STRIDE == 0:
                    self.places.append(place)
                count += 1
        if not count:
            raise FileError(f"data={str(path)!r} holds no rows; give a table with at least one")
        self.count, self.digest = count, digest.hexdigest()
        cells = len(next(self._cells(0, 1)))
        header = self.header or tuple(f"column {i}" for i in range(cells))
        self.columns, self.label = columns_of(header, reader, str(path))
        self.header, self.names = header, self.columns

    def _names(self, record: bytes) -> tuple[str, ...]:
        cells = next(csv.reader(io.StringIO(record.decode("utf-8-sig")), delimiter=self.delimiter))
        return () if all(_is_number(cell) for cell in cells) else tuple(cell.strip() for cell in cells)

    def mark(self) -> str:
        """Of the whole file."""
        return self.digest

    def _cells(self, start: int, stop: int) -> Iterator[list[str]]:
        with self.path.open("rb") as file:
            file.seek(self.places[start // STRIDE])
            text = (line.decode("utf-8", "replace").lstrip("\ufeff") for line in file if line.strip())
            for number, cells in enumerate(csv.reader(text, delimiter=self.delimiter), start - start % STRIDE):
                if number >= stop:
                    return
                if number >= start:
                    yield cells

    def read(self, start: int, stop: int) -> Rows:
        """The rows; one with a cell that is no number is told."""
        read, failed = [], {}
        for place, cells in enumerate(self._cells(start, stop)):
            try:
                if len(cells) != len(self.header):
                    raise InputError(f"row {start + place} has {len(cells)} cells under a header of {len(self.header)}")
                read.append(
                    (place, one_of(dict(zip(self.header, cells, strict=True)), self.columns, self.label, self.reader, start + place))
                )
            except Exception as error:
                failed[place] = told(error)
        return together(read, stop - start, failed=failed)


def _records(path: Path) -> Iterator[tuple[int, bytes]]:
    """The rows of a table as they stand, each with its place; a cell in quotes may go over several lines."""
    record, place, end = b"", 0, 0
    with path.open("rb") as file:
        for line in file:
            record, end = record + line, end + len(line)
            if record.count(b'"') % 2 == 0:
                if record.strip():
                    yield place, record
                record, place = b"", end


class Parquet(Source):
    """A Parquet table; a row group at a time is read."""

    kind = "table"

    def __init__(self, path: Path, reader: Reader) -> None:
        self.path, self.reader = path.resolve(), reader
        try:
            about = need("pyarrow.parquet", "scale").ParquetFile(self.path)
        except OSError as error:
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
        return together(read, stop - start, failed=failed)

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
        InputError: a column that is not there.
    """
    label = next((n for n in LABELS if n in header), "") if reader.label is None else reader.label
    label = header[label] if isinstance(label, int) else label
    for name in (*reader.columns, *([label] if label else [])):
        if name not in header:
            raise InputError(f"data={path!r} has no column {name!r}; its columns are {', '.join(header)}")
    return reader.columns or tuple(n for n in header if n != label), label


def one_of(cells: Mapping[str, Any], columns: tuple[str, ...], label: str, reader: Reader, row: int) -> One:
    """One row: numbers as they are, or what `prepare` makes of it."""
    own = _label(cells[label]) if label else None
    if reader.prepare is not None:
        chosen = {name: _number(cells[name]) for name in columns}
        value: Any = chosen if len(columns) > 1 else next(iter(chosen.values()))
        return Reader(reader.prepare, columns, "")(value, own)
    if len(columns) == 1 and not _is_number(cells[columns[0]]):
        return Reader()(cells[columns[0]], own)
    for name in columns:
        if not _is_number(cells[name]):
            raise InputError(f"row {row}, column {name}: {cells[name]!r} is not a number; give prepare=, or columns= of numbers")
    return One((torch.tensor([float(cells[name]) for name in columns]),), own)


def _label(cell: Any) -> Any:
    found = _number(cell)
    return int(found) if isinstance(found, float) and found.is_integer() else found


def _number(cell: Any) -> Any:
    return float(cell) if isinstance(cell, str) and _is_number(cell) else cell


def _is_number(cell: Any) -> bool:
    if isinstance(cell, list | dict | bytes) or cell is None:
        return False
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True
