"""Where `pellucid explain` gets its model and its example: `module:function`, model folders, images, tables, texts."""

from __future__ import annotations

import csv
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import nn

from ..errors import FileError, InputError, OptionError
from ..task import Sample, Task

__all__ = ["Reading", "kind_of", "read", "task_of"]

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
TABLES = {".csv", ".tsv"}
TEXTS = {".txt", ".md", ".rst"}


def kind_of(file: Path) -> str:
    """image, table or text, by the file's ending."""
    for kind, endings in (("image", IMAGES), ("table", TABLES), ("text", TEXTS)):
        if file.suffix.lower() in endings:
            return kind
    known = ", ".join(sorted(IMAGES | TABLES | TEXTS))
    raise FileError(f"{str(file)!r} ends in {file.suffix!r}; known endings are {known}")


def read(file: Path, row: int = 0) -> Any:
    """The raw example: a PIL image, a row of numbers with the names of its columns, or a text."""
    if not file.is_file():
        raise FileError(f"{str(file)!r} is not a file")
    return READERS[kind_of(file)](file, row)


def _image(file: Path, row: int) -> Image.Image:
    try:
        return Image.open(file).convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise FileError(f"{str(file)!r} is not an image that Pillow can read ({error})") from error


def _text(file: Path, row: int) -> str:
    try:
        words = file.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise FileError(f"{str(file)!r} is not UTF-8 text ({error.reason} at byte {error.start})") from error
    if not words:
        raise FileError(f"{str(file)!r} holds no text")
    return words


class Reading(list[float]):
    """A row of numbers that knows its columns' names."""

    names: tuple[str, ...] = ()


def _table(file: Path, row: int) -> Reading:
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    try:
        lines = [line for line in csv.reader(file.read_text(encoding="utf-8").splitlines(), delimiter=delimiter) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FileError(f"{str(file)!r} is not a table of comma-separated values ({error})") from error
    names = tuple(lines.pop(0)) if lines and not all(_is_number(cell) for cell in lines[0]) else ()
    if not 0 <= row < len(lines):
        raise FileError(f"{str(file)!r} has {len(lines)} rows of numbers, so there is no row {row}; count from 0")
    for column, cell in enumerate(lines[row]):
        if not _is_number(cell):
            raise FileError(f"{str(file)!r}, row {row}, column {column}: {cell!r} is not a number; give numbers only")
    found = Reading(float(cell) for cell in lines[row])
    found.names = names
    return found


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


READERS: dict[str, Callable[[Path, int], Any]] = {"image": _image, "table": _table, "text": _text}


def task_of(source: str, kind: str, size: tuple[int, int] | None, classes: tuple[str, ...]) -> Task:
    """The task behind `module:function` or a model folder; a bare module is fed images in [0, 1] or rows as they are."""
    if Path(source).is_dir():
        from ..huggingface import task_in

        return task_in(Path(source))
    made = _called(source)
    if isinstance(made, Task):
        return made
    if not isinstance(made, nn.Module):
        raise OptionError(f"{source} returned {type(made).__name__}; it must return a torch module or a pellucid.Task")
    if kind == "text":
        raise OptionError(
            f"{source} returned a bare module, which cannot read a text; return a pellucid.Task whose `prepare` turns a string into tensors"
        )
    prepare = (lambda raw: _picture(raw, size)) if kind == "image" else _row
    return Task(made.eval(), "image" if kind == "image" else "table", prepare, classes)


def _called(source: str) -> Any:
    module, _, function = source.partition(":")
    if not function:
        raise OptionError(f"{source!r} is neither a folder nor module:function (such as mypackage.models:load)")
    sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), function)()
    except ModuleNotFoundError as error:
        raise OptionError(f"{source!r}: no module {error.name!r} can be found from {Path.cwd()}") from error
    except AttributeError as error:
        raise OptionError(f"{source!r}: {error}") from error
    finally:
        sys.path.remove(str(Path.cwd()))


def _picture(raw: Image.Image, size: tuple[int, int] | None) -> Sample:
    image = raw if size is None else raw.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    picture = np.asarray(image, dtype=np.uint8)
    return Sample((torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255,), picture=picture)


def _row(raw: Reading) -> Sample:
    if not raw:
        raise InputError("the row is empty; give at least one number")
    return Sample((torch.tensor([raw], dtype=torch.float32),), names=raw.names)
