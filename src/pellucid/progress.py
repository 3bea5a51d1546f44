"""A progress bar that stays away from short work."""

from __future__ import annotations

import time
from typing import Any

__all__ = ["Bar"]

AFTER = 2.0


class Bar:
    """A tqdm bar that appears only when the work turns out to be long (or was asked for)."""

    def __init__(self, total: int, label: str = "", wanted: bool | None = None) -> None:
        self.total, self.label, self.wanted = total, label, wanted
        self._done, self._start = 0, time.perf_counter()
        self._bar: Any = None

    def __enter__(self) -> Bar:
        if self.wanted:
            self._show()
        return self

    def update(self, done: int) -> None:
        """Some more of the work is done."""
        self._done += done
        if self._bar is not None:
            self._bar.update(done)
        elif self.wanted is None and self._done < self.total and time.perf_counter() - self._start > AFTER:
            self._show()

    def _show(self) -> None:
        from tqdm.auto import tqdm

        self._bar = tqdm(total=self.total, initial=self._done, desc=self.label or None, unit="pass", leave=bool(self.wanted))

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
