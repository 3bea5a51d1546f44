"""What a request gives, read with care: every value has a name, a kind and bounds, and nothing else is looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..errors import OptionError

__all__ = ["Given"]


class Given:
    """The fields of one request.

    Raises:
        OptionError: from every reading, if a value is not what the field takes.

    >>> given = Given({"index": 3})
    >>> given.whole("index", 0, 9), given.text("search")
    (3, '')
    """

    def __init__(self, fields: Any) -> None:
        if not isinstance(fields, Mapping):
            raise OptionError(f"the request is a {type(fields).__name__}; it must be an object with named fields")
        self.fields = fields

    def _refuse(self, name: str, rule: str) -> OptionError:
        return OptionError(f"{name} is {str(self.fields.get(name))[:60]!r}; give {rule}")

    def whole(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number within bounds."""
        value = self.fields.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._refuse(name, f"a whole number from {low} to {high}")
        return value

    def number(self, name: str, low: float, high: float, default: float) -> float:
        """A finite number within bounds."""
        value = self.fields.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not low <= value <= high:
            raise self._refuse(name, f"a number from {low:g} to {high:g}")
        return float(value)

    def text(self, name: str, default: str = "", most: int = 500) -> str:
        """A text, not longer than that."""
        value = self.fields.get(name, default)
        if not isinstance(value, str) or len(value) > most:
            raise self._refuse(name, f"a text of at most {most} letters")
        return value

    def flag(self, name: str) -> bool:
        """True or false; false if it is not given."""
        value = self.fields.get(name, False)
        if not isinstance(value, bool):
            raise self._refuse(name, "true or false")
        return value

    def wholes(self, name: str, most: int = 10_000) -> tuple[int, ...]:
        """A list of whole numbers; empty if it is not given."""
        value = self.fields.get(name, [])
        if not isinstance(value, list) or len(value) > most or not all(isinstance(v, int) and not isinstance(v, bool) for v in value):
            raise self._refuse(name, f"a list of at most {most} whole numbers")
        return tuple(value)

    def fields_of(self, name: str) -> dict[str, Any]:
        """An object; empty if it is not given."""
        value = self.fields.get(name) or {}
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise self._refuse(name, "an object with named fields")
        return dict(value)

    def many(self, name: str, most: int) -> list[Given]:
        """A list of objects."""
        value = self.fields.get(name, [])
        if not isinstance(value, list) or not 0 < len(value) <= most:
            raise self._refuse(name, f"a list of 1 to {most} objects")
        return [Given(v) for v in value]
