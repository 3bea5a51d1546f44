"""A block of examples, explained together; where that fails, in halves, until the examples that fail stand alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..errors import OptionError
from ..explanation import Explanation
from ..trust import refuse
from .explainer import Explainer
from .parts import in_order, joined
from .rows import NAMELESS, Names, Rows
from .source import told

__all__ = ["Answer", "answered"]


@dataclass(frozen=True, eq=False)
class Answer:
    """What came out of a block: the explanation of the examples at `places`, its target for each, and what was wrong with the others."""

    explanation: Explanation | None
    places: tuple[int, ...]
    rows: Rows
    failed: Mapping[int, str]
    targets: tuple[str, ...] = ()


def answered(explainer: Explainer, rows: Rows, seed: int, strict: bool = False, names: Names = NAMELESS) -> Answer:
    """All examples of the block that can be explained.

    Raises:
        Exception: `strict`, and an example that cannot be read or explained, or an explanation that failed a check.
    """
    if strict and rows.failed:
        place, words = next(iter(rows.failed.items()))
        raise OptionError(f"example {place} of the block cannot be read: {words}; mend it, or run without strict")
    failed = dict(rows.failed)
    parts: list[Explanation] = []
    places: list[int] = []
    targets: list[str] = []
    waiting = rows.alike()[::-1]
    while waiting:
        chosen = waiting.pop()
        some = rows.picked(chosen) if len(chosen) < len(rows) else rows
        try:
            found = explainer.explain(some, seed, names)
        except Exception as error:
            if strict:
                raise
            if len(chosen) == 1:
                failed[some.places[0]] = told(error)
            else:
                middle = len(chosen) // 2
                waiting += [chosen[middle:], chosen[:middle]]
            continue
        if len(found.scores) != len(some):  # one number for the whole batch is none of one example
            waiting += [[row] for row in reversed(chosen)]
            continue
        if strict:
            refuse(_without_guesses(found))
        parts.append(found)
        places += some.places
        targets += explainer.targets(found, some, names)
    order = sorted(range(len(places)), key=places.__getitem__)
    whole = in_order(joined(parts), order) if parts else None
    return Answer(whole, tuple(places[i] for i in order), rows, failed, tuple(targets[i] for i in order))


def _without_guesses(explanation: Explanation) -> Explanation:
    """A run says of every example what was predicted, so a target that was guessed misleads nobody."""
    return replace(explanation, health=tuple(check for check in explanation.health if not check.guessed))
