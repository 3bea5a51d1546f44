"""Captum's `ProductBaselines`: a baseline for each feature, drawn independently from the values that it may have."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from ...errors import OptionError

__all__ = ["ProductBaselines"]

Key = str | tuple[str, ...]


class ProductBaselines:
    """Draws one of the values given for each feature; features under one key, a tuple of names, are drawn together.

    The draws follow Python's `random`, so `random.seed` repeats them.

    >>> random.seed(0)
    >>> ProductBaselines({"name": ["Ann", "Bo"], ("city", "country"): [("Rome", "Italy")]})()
    {'name': 'Bo', 'city': 'Rome', 'country': 'Italy'}
    """

    def __init__(self, baseline_values: Sequence[Sequence[Any]] | dict[Key, Sequence[Any]]) -> None:
        named = isinstance(baseline_values, dict)
        self.dict_keys: list[Key] = list(baseline_values) if isinstance(baseline_values, dict) else []
        self.baseline_values = _lists(baseline_values)
        for i, values in enumerate(self.baseline_values):
            _check(self.dict_keys[i] if named else i, values)
        names = [name for key in self.dict_keys for name in _names(key)]
        if len(set(names)) < len(names):
            raise OptionError(f"baseline_values names {sorted({n for n in names if names.count(n) > 1})} twice; give each feature one key")

    def sample(self) -> list[Any] | dict[str, Any]:
        """One baseline for each feature: a list where lists were given, a dictionary by name where a dictionary was."""
        drawn = [random.choice(values) for values in self.baseline_values]
        if not self.dict_keys:
            return drawn
        pairs = zip(self.dict_keys, drawn, strict=True)
        return {name: value for key, values in pairs for name, value in zip(_names(key), _values(key, values), strict=True)}

    def __call__(self) -> list[Any] | dict[str, Any]:
        """The same as `sample`."""
        return self.sample()


def _lists(given: Any) -> list[Any]:
    if isinstance(given, dict):
        return list(given.values())
    if isinstance(given, list | tuple):
        return list(given)
    raise OptionError(
        f"baseline_values is {type(given).__name__}; it must be a list or a dictionary with a list of values for each feature"
    )


def _check(key: Key | int, values: Any) -> None:
    if not hasattr(values, "__len__") or not hasattr(values, "__getitem__") or not len(values):
        raise OptionError(f"baseline_values[{key!r}] is {values!r}; it must be a list of one value at least")
    if isinstance(key, tuple):
        for value in values:
            if not isinstance(value, tuple | list) or len(value) != len(key):
                raise OptionError(f"baseline_values[{key!r}] has {value!r}; each value must be a tuple of {len(key)}, one for each name")


def _names(key: Key) -> tuple[str, ...]:
    return key if isinstance(key, tuple) else (key,)


def _values(key: Key, values: Any) -> Any:
    return values if isinstance(key, tuple) else (values,)
