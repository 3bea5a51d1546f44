"""Where `pellucid explain` gets its model and its example: `module:function`, model folders, images, tables, texts."""

from __future__ import annotations

import csv
import importlib
import io
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import nn

from ..errors import FileError, InputError, OptionError
from ..task import Sample, Task
from .blame import blaming

__all__ = ["Reading", "given", "kind_of", "made_by", "read", "task_of"]

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
        what = "is a folder" if file.is_dir() else f"is not there (seen from {Path.cwd()})"
        raise FileError(f"{str(file)!r} {what}; give an image, a table or a text file")
    return READERS[kind_of(file)](file, row)


SHOWN = 32  # letters of a text that name a page


def given(file: Path | None, row: int, text: str | None, context: str | None) -> tuple[Any, str, str]:
    """The raw example, its kind and its name: a file's, or a text of the command line, with its context or an image.

    Raises:
        OptionError: neither a file nor a text, or a context alone. FileError: a file that cannot be read.
    """
    if context is not None and text is None:
        raise OptionError("--context goes with a question: give it with --text")
    if text is None:
        if file is None:
            raise OptionError("there is neither a file nor a text; give one")
        return read(file, row), kind_of(file), file.name
    if not text.strip():
        raise OptionError(f"--text is {text!r}; give at least one word")
    if file is not None and kind_of(file) == "text" and context is None:
        return (text, read(file, row)), "text", file.name
    if file is None:
        shown = text if len(text) <= SHOWN else f"{text[:SHOWN].rstrip()}…"
        return text if context is None else (text, context), "text", shown
    if kind_of(file) != "image" or context is not None:
        raise OptionError(f"--text beside {str(file)!r} is the question about an image, or about a text file; give one of these")
    return (read(file, row), text), "several", file.name


def _image(file: Path, row: int) -> Image.Image:
    try:
        with Image.open(file) as image:
            mode, colours = image.mode, image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FileError(f"{str(file)!r} is not an image that Pillow can read ({error}); give another") from error
    if mode.startswith(("I", "F")):
        raise FileError(f"{str(file)!r} has more than 8 bits for a colour (mode {mode}), which would be cut; save it with 8")
    return colours


def _text(file: Path, row: int) -> str:
    words = _words(file).strip()
    if not words:
        raise FileError(f"{str(file)!r} holds no text; give a file with at least one word")
    return words


def _words(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(f"{str(file)!r} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise FileError(f"cannot read {str(file)!r}: {error.strerror}; give a file that you may read") from error


class Reading(list[float]):
    """A row of numbers that knows its columns' names."""

    names: tuple[str, ...] = ()


def _table(file: Path, row: int) -> Reading:
    lines = _lines(file)
    names = tuple(lines.pop(0)) if lines and not all(_is_number(cell) for cell in lines[0]) else ()
    if not lines:
        raise FileError(f"{str(file)!r} holds no row of numbers; give a table with at least one")
    if not 0 <= row < len(lines):
        raise FileError(f"{str(file)!r} has no row {row}; rows count from 0, so give --row 0 to {len(lines) - 1}")
    cells = lines[row]
    if names and len(names) != len(cells):
        raise FileError(f"{str(file)!r}, row {row} has {len(cells)} cells under a header of {len(names)}; give one cell for each column")
    for column, cell in enumerate(cells):
        if not _is_number(cell):
            place = f"row {row}, column {column}" + (f" ({names[column]})" if names else "")
            raise FileError(f"{str(file)!r}, {place}: {cell!r} is not a number; give numbers only, separated by commas (.tsv: by tabs)")
    found = Reading(float(cell) for cell in cells)
    found.names = names
    return found


def _lines(file: Path) -> list[list[str]]:
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    try:
        return [line for line in csv.reader(io.StringIO(_words(file)), delimiter=delimiter) if line]
    except csv.Error as error:
        raise FileError(f"{str(file)!r} is not a table that Python's csv can read ({error}); save it as plain CSV") from error


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


READERS: dict[str, Callable[[Path, int], Any]] = {"image": _image, "table": _table, "text": _text}


def task_of(source: str, kind: str, size: tuple[int, int] | None, classes: tuple[str, ...]) -> Task:
    """The task behind `module:function` or a model folder; a bare module is fed images in [0, 1] or rows as they are."""
    made = _in_folder(Path(source), kind) if Path(source).is_dir() else made_by(source, Path.cwd())
    if isinstance(made, Task):
        if size is not None:
            raise OptionError(f"{source} prepares its examples itself, so --size has no meaning; leave it out")
        return replace(made, classes=classes or made.classes)
    if not isinstance(made, nn.Module):
        raise OptionError(f"{source} gave {type(made).__name__}; it must give a torch module or a pellucid.Task")
    return _bare(source, made.eval(), kind, size, classes)


def _bare(source: str, model: nn.Module, kind: str, size: tuple[int, int] | None, classes: tuple[str, ...]) -> Task:
    if kind in ("text", "several"):
        raise OptionError(
            f"{source} returned a bare module, which cannot read a text; return a pellucid.Task whose `prepare` turns a string into tensors"
        )
    if kind == "image":
        return Task(model, "image", lambda raw: _picture(raw, size), classes)
    if size is not None:
        raise OptionError("--size is for images, and the file is a table; leave it out")
    return Task(model, "table", _row, classes)


def _in_folder(folder: Path, kind: str) -> Task:
    from ..huggingface import task_in

    task = task_in(folder)
    if task.kind != kind:
        raise OptionError(f"{str(folder)!r} holds a model that takes {WORDS[task.kind]}, and what it is given is of the kind {kind!r}")
    return task


WORDS = {"text": "texts", "image": "images", "several": "images with questions about them: give a file and --text"}


def made_by(source: str, folder: Path, call: bool = True) -> Any:
    """What `module:function`, found from the folder, gives, or the function itself; or the module or task where one is named."""
    module, _, function = source.partition(":")
    if module.endswith(".py") or not all(part.isidentifier() for part in [*module.split("."), function]):
        raise OptionError(f"{source!r} is neither a folder nor module:function (such as mypackage.models:load, without .py)")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    with blaming(source):
        return _made(module, function, call)


def _made(module: str, function: str, call: bool) -> Any:
    loaded = importlib.import_module(module)
    if not hasattr(loaded, function):
        raise OptionError(f"the module {module} has no function {function!r}; give one that it has")
    found = getattr(loaded, function)
    return found() if call and callable(found) and not isinstance(found, nn.Module) else found


def _picture(raw: Image.Image, size: tuple[int, int] | None) -> Sample:
    height, width = size or (raw.height, raw.width)
    try:
        image = raw if size is None else raw.resize((width, height), Image.Resampling.BILINEAR)
    except (MemoryError, ValueError, OverflowError) as error:
        raise OptionError(f"--size is {height}x{width}, more than memory holds; give the size that the model takes") from error
    picture = np.array(image, dtype=np.uint8)
    return Sample((torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255,), picture=picture)


def _row(raw: Reading) -> Sample:
    if not raw:
        raise InputError("the row is empty; give at least one number")
    return Sample((torch.tensor([raw], dtype=torch.float32),), names=raw.names)
