"""Where a path leads: a folder of images, a CSV table, a Parquet table."""

from __future__ import annotations

from pathlib import Path

from ..errors import FileError, OptionError
from .folder import Folder
from .rows import Reader
from .source import Source
from .tables import Lines, Parquet

__all__ = ["place_of"]

KINDS: dict[str, type[Lines] | type[Parquet]] = {".csv": Lines, ".tsv": Lines, ".parquet": Parquet, ".pq": Parquet}


def place_of(path: Path, reader: Reader, size: tuple[int, int] | None = None) -> Source:
    """The source behind a path.

    Raises:
        FileError: nothing is there, or nothing that is known. OptionError: a size of what has none.
    """
    if not path.exists():
        raise FileError(f"data={str(path)!r} is not there (seen from {Path.cwd()}); give a folder of images, a CSV or a Parquet file")
    if path.is_dir():
        return Folder(path, reader, size)
    if size is not None:
        raise OptionError(f"size is {size!r}, and {path.name!r} holds no pictures; leave it out")
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise FileError(f"data={str(path)!r} ends in {path.suffix!r}; give a folder of images, or a file that ends in {', '.join(KINDS)}")
    return kind(path, reader)
