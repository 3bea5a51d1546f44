"""Records that are written as JSON or as a page, and read again."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

from ..errors import FileError, OptionError
from ..explanation import Check, Cost, Provenance
from ..files import written

__all__ = ["Saved", "as_json", "made", "numbers", "parsed", "plain"]


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


def as_json(record: Any, words: Mapping[str, Any]) -> str:
    """A record's own words, and what every record tells of how it was made."""
    told = {
        "options": dict(record.options),
        "health": [plain(asdict(check)) for check in record.health],
        "cost": asdict(record.cost),
        "provenance": asdict(replace(record.provenance, versions=dict(record.provenance.versions))),
    }
    return json.dumps({**words, **told}, ensure_ascii=False, allow_nan=False, default=str)


@contextmanager
def parsed(text: str, form: str) -> Iterator[dict[str, Any]]:
    """The words of a JSON of this form.

    Raises:
        FileError: it is something else, or no record can be made of them.
    """
    try:
        words = json.loads(text)
        if words["format"] != form:
            raise ValueError(f"format {words['format']!r} is not {form!r}")
        yield words
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise FileError(f"this is not a {form} of pellucid ({type(error).__name__}: {error})") from error


def made(words: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a prompt and how a record was made, which every record tells."""
    return {
        "parts": tuple((piece, unit) for piece, unit in words["parts"]),
        "options": words["options"],
        "health": tuple(Check(**{**check, "value": numbers(check["value"])}) for check in words["health"]),
        "cost": Cost.of(words["cost"]),
        "provenance": Provenance(**words["provenance"]),
    }


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
