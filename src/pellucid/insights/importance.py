"""What matters over many examples: means of the attributions of columns, words and pixels, gathered one example at a time."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from ..show.scale import Array, finite
from .questions import Answer
from .subject import Part, Ready
from .told import packed, seen_of

__all__ = ["Importance"]

MOST = 30


class Importance:
    """Sums over examples, by column, word or pixel; nothing else of an example is kept."""

    def __init__(self) -> None:
        self.examples = 0
        self._named: list[dict[str, list[float]]] = []
        self._maps: list[dict[tuple[int, ...], list[Any]]] = []
        self._parts: list[Part] = []
        self._mass: list[float] = []

    def add(self, answer: Answer, ready: Ready) -> None:
        """One more example; what is not finite counts as zero."""
        self.examples += 1
        for i, (part, values) in enumerate(zip(ready.parts, seen_of(answer.explanation, ready), strict=True)):
            if i == len(self._parts):
                self._parts.append(part)
                self._named.append(defaultdict(lambda: [0.0, 0.0, 0.0]))
                self._maps.append({})
                self._mass.append(0.0)
            known = finite(values)
            self._mass[i] += float(np.abs(known).sum())
            self._part(i, part, known)

    def _part(self, i: int, part: Part, values: Array) -> None:
        if values.ndim == 1:
            names = part.names if len(part.names) == len(values) else [f"feature {j}" for j in range(len(values))]
            for name, value in zip(names, values.tolist(), strict=True):
                sums = self._named[i][name.casefold() if part.kind == "text" else name]
                sums[0] += abs(value)
                sums[1] += value
                sums[2] += 1
            return
        maps = self._maps[i].setdefault(values.shape, [np.zeros(values.shape), np.zeros(values.shape), 0])
        maps[0] += np.abs(values)
        maps[1] += values
        maps[2] += 1

    def told(self) -> dict[str, Any]:
        """Means of magnitudes and of signed values; of words per occurrence, those with the most magnitude altogether first."""
        total = sum(self._mass)
        parts = [
            {
                "name": part.name,
                "kind": part.kind,
                "share": mass / total if total else None,
                "named": self._told_named(named),
                "maps": [
                    {"shape": list(s), "size": n, "magnitude": packed(a / n), "signed": packed(v / n)} for s, (a, v, n) in maps.items()
                ][:4],
            }
            for part, mass, named, maps in zip(self._parts, self._mass, self._named, self._maps, strict=True)
        ]
        return {"examples": self.examples, "parts": parts}

    def _told_named(self, named: dict[str, list[float]]) -> list[dict[str, Any]]:
        first = sorted(named.items(), key=lambda item: -item[1][0])[:MOST]
        return [{"name": name, "magnitude": a / n, "signed": v / n, "size": int(n)} for name, (a, v, n) in first]
