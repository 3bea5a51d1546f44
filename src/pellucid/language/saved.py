"""Records that are written as JSON or as a page, and read again."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

from ..errors import FileError, OptionError
from ..files import written

__all__ = ["Saved", "numbers", "plain"]


class Saved(ABC):
    """What can be saved."""

    @abstractmethod
    def to_json(self) -> str:
        """Everything."""

    @abstractmethod
    def html(self) -> str:
        """A page."""

    @classmethod
    @abstractmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` wrote."""

    def save(self, path: str | Path) -> Path:
        """Write `.json` (everything, for `load`) or `.html` (the page), by the end of the path.

        Raises:
            OptionError: another end. FileError: it cannot be written.
        """
        path, writers = Path(path), {".json": self.to_json, ".html": self.html}
        if path.suffix.lower() not in writers:
            raise OptionError(f"{str(path)!r} ends with {path.suffix!r}; end it with .json for everything, or .html for a page")
        text = writers[path.suffix.lower()]()
        written(path, lambda part: part.write_text(text, encoding="utf-8"))
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read the JSON that `save` wrote.

        Raises:
            FileError: the file is missing, or is something else.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            if isinstance(error, FileError):
                raise
            raise FileError(f"cannot read {str(path)!r}: {error}") from error


def plain(value: Any) -> Any:
    """Numbers that are not finite by name, as JSON has none."""
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def numbers(value: Any) -> Any:
    """What `plain` made of numbers, as numbers."""
    return [numbers(each) for each in value] if isinstance(value, list) else float(value) if isinstance(value, str) else value
