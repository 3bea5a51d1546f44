"""Results that are kept as long as there is room: those that were not asked for the longest go first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

__all__ = ["Kept"]


class Kept:
    """Values by key, up to so many bytes.

    >>> kept = Kept(10)
    >>> kept.put("a", "first", 6), kept.put("b", "second", 6)
    (None, None)
    >>> kept.get("a"), kept.get("b")
    (None, 'second')
    """

    def __init__(self, most: int) -> None:
        self.most, self.size = most, 0
        self._values: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, key: str, value: Any, size: int) -> None:
        """Keep this; what is larger than all room is not kept."""
        with self._lock:
            self._drop(key)
            if size > self.most:
                return
            self._values[key] = (value, size)
            self.size += size
            while self.size > self.most:
                self._drop(next(iter(self._values)))

    def _drop(self, key: str) -> None:
        if key in self._values:
            self.size -= self._values.pop(key)[1]

    def get(self, key: str) -> Any:
        """The value, or None."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def __len__(self) -> int:
        """How many there are."""
        return len(self._values)
