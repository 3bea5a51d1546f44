"""A folder of images, read by number, without holding the list of all of them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import FileError, OptionError
from .rows import One, Reader, Rows, together
from .source import Source, told

__all__ = ["Folder"]

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
STRIDE = 256  # of so many lines, the place of the first is remembered


class Folder(Source):
    """All images below a folder, in the order of their names; the folder that a picture lies in is its label, if there are several.

    What begins with a dot is no image. Pictures are turned as their cameras say. The list of files lies in a file of its own, of which
    only the places of some lines are held.
    """

    kind = "folder"
    named = True

    def __init__(self, path: Path, reader: Reader, size: tuple[int, int] | None = None) -> None:
        self.path, self.reader, self.size = path.resolve(), reader, _size(size)
        try:
            with tempfile.NamedTemporaryFile("wb", prefix="pellucid-", suffix=".txt", delete=False) as file:
                self.list = Path(file.name)
                digest, folders = self._listed(file)
        except OSError as error:
            if isinstance(error, FileError):
                raise
            raise FileError(f"the list of {str(path)!r} cannot be written to {tempfile.gettempdir()!r}: {error}; make room") from error
        self.digest: str = digest.hexdigest()
        self.classes = tuple(folders) if len(folders) > 1 and reader.label != "" else ()
        self._classes = {name: number for number, name in enumerate(self.classes)}
        if not self.count:
            self.list.unlink()
            raise FileError(f"data={str(path)!r} holds no image; known endings are {', '.join(sorted(IMAGES))}")

    def _listed(self, file: Any) -> tuple[Any, dict[str, None]]:
        """Write the list down; a hash of it, and the folders that hold pictures."""
        self.places, digest, place, self.count = array("Q"), hashlib.blake2b(digest_size=12), 0, 0
        folders: dict[str, None] = {}
        for name, length in _files(self.path, ""):
            line = _line(name)
            if self.count % STRIDE == 0:
                self.places.append(place)
            place += file.write(line)
            digest.update(line + str(length).encode())
            self.count += 1
            if "/" in name:
                folders[name.split("/", 1)[0]] = None
        return digest, folders

    def identity(self) -> dict[str, Any]:
        """The size that pictures get tells runs apart, too."""
        return super().identity() | {"size": None if self.size is None else list(self.size)}

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
                read.append((place, self._one(name)))
            except Exception as error:
                failed[place] = told(error)
        return together(read, stop - start, [n.encode("utf-8", "replace").decode() for n in names], failed, self.form)

    def _one(self, name: str) -> One:
        label = self._classes.get(name.split("/", 1)[0]) if "/" in name else None
        found = picture(self.path / name, self.size)
        if found.mode == "L" and self.form.startswith("(3,"):  # a grey picture among colours
            found = found.convert("RGB")
        return self.reader(found, label)


def _size(size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    if not isinstance(size, tuple | list) or len(size) != 2 or not all(type(edge) is int and edge > 0 for edge in size):
        raise OptionError(f"size is {size!r}; give (height, width) in pixels")
    return size[0], size[1]


def picture(path: Path, size: tuple[int, int] | None = None) -> Image.Image:
    """A picture, read to its end, in greys or in colours.

    Raises:
        FileError: it is none, is cut off, or has more than 8 bits for a colour.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise FileError(f"{path.name!r} has more than 8 bits for a colour (mode {image.mode}), which would be cut; save it with 8")
            image.load()
            turned = ImageOps.exif_transpose(image)
            found = turned if turned.mode in ("L", "RGB") else turned.convert("L" if turned.mode in ("1", "LA") else "RGB")
            return found if size is None else found.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    except FileError:
        raise
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FileError(f"{path.name!r} is not an image that Pillow can read ({error})") from error


def _files(folder: Path, inside: str, above: tuple[str, ...] = ()) -> Iterator[tuple[str, int]]:
    """Names and lengths of images, folder by folder; of one folder at a time the names are held.

    Raises:
        FileError: a folder that cannot be read.
    """
    here = os.path.realpath(folder / inside)
    if here in above:  # a link to a folder that it lies in
        return
    try:
        with os.scandir(here) as found:
            entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise FileError(f"the folder {str(folder / inside)!r} cannot be read: {error}") from error
    for entry in entries:
        name = f"{inside}{entry.name}"
        if entry.is_dir():
            yield from _files(folder, f"{name}/", (*above, here))
        elif Path(entry.name).suffix.lower() in IMAGES:
            yield name, entry.stat().st_size if entry.is_file() else -1


def _line(name: str) -> bytes:
    """A name on a line of its own, whatever it holds."""
    return name.replace("\\", "\\\\").replace("\n", "\\n").encode("utf-8", "surrogateescape") + b"\n"


def _name(line: bytes) -> str:
    words = line.rstrip(b"\n").decode("utf-8", "surrogateescape")
    return re.sub(r"\\(n|\\)", _letter, words)


def _letter(found: re.Match[str]) -> str:
    return "\n" if found[1] == "n" else "\\"


def _lines(path: Path, places: array[int], start: int, stop: int) -> list[str]:
    found = []
    with path.open("rb") as file:
        file.seek(places[start // STRIDE])
        for number, line in enumerate(file, start - start % STRIDE):
            if number >= stop:
                break
            if number >= start:
                found.append(_name(line))
    return found
