"""Rows that begin alike: where a shared beginning is read once, and from where each row is read by itself. Whole numbers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Plan", "Row", "planned"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Row(NamedTuple):
    """A prompt, and answers to it that are alike but for their last token: one pass tells of all of them."""

    prompt: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> tuple[int, ...]:
        """What a causal model reads to tell of the answers."""
        return (*self.prompt, *self.answers[0][:-1])

    @property
    def asked(self) -> int:
        """Of how many last positions logits are wanted."""
        return len(self.answers[0])


@dataclass(frozen=True, eq=False)
class Plan:
    """How rows, sorted by their tokens, are read.

    At each cut, rows that are alone from there on are read to their end; of the others every distinct beginning is read as far as
    the next cut, once.

    Attributes:
        cuts: depths, from 0.
        company: of each row, the depth down to which it begins as another one, or as the kept sequence.
        joint: of each two neighbours, the depth down to which they are alike.
        known: of each row, how much of it is the beginning of the kept sequence.
        cost: in tokens, with those that the calls themselves are worth.
    """

    cuts: tuple[int, ...]
    company: Ints
    joint: Ints
    known: Ints
    cost: float

    def leaving(self, row: int, until: float) -> bool:
        """Whether a row is read to its end rather than to the next cut."""
        return bool(self.company[row] < until)

    def beginnings(self, rows: Sequence[int], until: int) -> list[list[int]]:
        """The staying ones of the rows of one beginning, by their beginnings at the next cut."""
        found: list[list[int]] = []
        for row in rows:
            if self.leaving(row, until):
                continue
            if found and found[-1][-1] == row - 1 and self.joint[row - 1] >= until:
                found[-1].append(row)
            else:
                found.append([row])
        return found


def planned(rows: Sequence[Row], kept: Sequence[int], call: float, most: int) -> Plan:
    """The cheapest cuts, by the number of tokens that are read.

    Args:
        rows: in the order of their tokens.
        kept: a sequence that is known already: its beginnings cost nothing.
        call: what a call costs beside its tokens, in tokens.
        most: rows per call.

    >>> rows = [Row((1, 2, 3, 4, n), ((9,),)) for n in range(3)]
    >>> planned(rows, (), 1, 8).cuts, planned(rows, (), 100, 8).cuts
    ((0, 4), (0,))
    """
    tokens = [row.tokens for row in rows]
    table = _table(tokens)
    free = np.array([len(own) - row.asked for own, row in zip(tokens, rows, strict=True)])
    joint = np.minimum(_alike(table[1:], table[:-1]), np.minimum(free[1:], free[:-1]))
    known = np.minimum(_alike(table, _table([tuple(kept)], table.shape[1])), free)
    company = np.maximum(known, np.maximum(np.append(joint, 0), np.insert(joint, 0, 0)))
    lengths = np.array([len(own) for own in tokens])
    costs = _Costs(np.unique(np.concatenate([[0], joint, known])), company, joint, known, lengths, call, most)
    cuts, cost = costs.cheapest()
    return Plan(cuts, company, joint, known, cost)


def _table(tokens: Sequence[tuple[int, ...]], width: int = 0) -> Ints:
    """Rows of one length, filled with what is no token."""
    width = width or max(map(len, tokens))
    found = np.full((len(tokens), width), -1, dtype=np.int64)
    for row, own in zip(found, tokens, strict=True):
        row[: len(own)] = own[:width]
    return found


def _alike(one: Ints, other: Ints) -> Ints:
    """How many numbers rows have in common before they differ."""
    differ = one != other
    found: Ints = np.where(differ.any(1), differ.argmax(1), one.shape[1])
    return found


@dataclass(frozen=True, eq=False)
class _Costs:
    """Costs of the way from one depth to another, from the counts of what lies at each."""

    depths: Ints
    company: Ints
    joint: Ints
    known: Ints
    lengths: Ints
    call: float
    most: int

    @cached_property
    def gone(self) -> tuple[Ints, Ints]:
        """For each depth, how many rows are alone there, and what their lengths add up to."""
        order = np.argsort(self.company, kind="stable")
        count = np.searchsorted(self.company[order], self.depths, "left")
        return count, np.insert(np.cumsum(self.lengths[order]), 0, 0)[count]

    @cached_property
    def fresh(self) -> Ints:
        """For each depth, how many distinct beginnings of rows with company there are that the kept sequence does not have."""
        both = np.minimum(self.known[1:], self.known[:-1])
        found: Ints = self._reaching(self.company) - self._reaching(self.joint) - self._reaching(self.known) + self._reaching(both)
        return found

    def _reaching(self, values: Ints) -> Ints:
        return len(values) - np.searchsorted(np.sort(values), self.depths, "left")

    def calls(self, count: Ints) -> Floats:
        """What the calls for so many rows cost."""
        return self.call * np.ceil(count / self.most)

    def cheapest(self) -> tuple[tuple[int, ...], float]:
        """The cuts, and the cost: the last first, each with the best way on from there."""
        (gone, lengths), depths = self.gone, self.depths
        best, following = np.zeros(len(depths)), np.full(len(depths), -1)
        for i in reversed(range(len(depths))):
            count = len(self.lengths) - gone[i]
            best[i] = float(self.lengths.sum() - lengths[i] - depths[i] * count + self.calls(count))
            leave, on = gone[i + 1 :] - gone[i], self.fresh[i + 1 :]
            cost = lengths[i + 1 :] - lengths[i] - depths[i] * leave + self.calls(leave) + on * (depths[i + 1 :] - depths[i])
            cost = cost + self.calls(on) + best[i + 1 :]
            if len(cost) and cost.min() < best[i]:
                best[i], following[i] = cost.min(), i + 1 + int(cost.argmin())
        at, cuts = 0, [0]
        while following[at] >= 0:
            at = int(following[at])
            cuts.append(int(depths[at]))
        return tuple(cuts), float(best[0])
