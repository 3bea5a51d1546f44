"""Progress in examples, those of earlier runs included, with the time left."""

from __future__ import annotations

from typing import Any

from ..progress import Bar
from .manifest import Done, Manifest

__all__ = ["Examples"]


class Examples(Bar):
    """A bar over all examples of a run; the time left follows from what this run has done.

    Of `share` processes that cannot see each other, each stands for all.
    """

    def __init__(self, count: int | None, manifest: Manifest, wanted: bool | None, share: int = 1) -> None:
        super().__init__(count or 0, "explaining", wanted)
        self._share, self._count, self._manifest = share, count, manifest
        self._before, self._failed = manifest.total.examples, manifest.total.failed

    def __enter__(self) -> Examples:
        super().__enter__()
        return self

    def done(self, line: Done) -> None:
        """Another block, unless it was counted before."""
        if line.again and line.block in self._manifest:
            return
        self._failed += line.failed
        self.update(min(line.examples * self._share, self.total - self._before - self._done) if self._count else line.examples)
        if self._bar is not None and self._failed:
            self._bar.set_postfix(failed=self._failed)

    def update(self, done: int) -> None:
        """Some more; without a known end the bar only counts."""
        if self._count is None:
            self.total = self._done + done + 1
        super().update(done)

    def _show(self) -> None:
        from tqdm.auto import tqdm

        done: Any = self._before + self._done
        self._bar = tqdm(total=self._count, initial=self._before, desc=self.label, unit="example", leave=bool(self.wanted))
        self._bar.update(done - self._before)
