"""Rows of tokens read by a causal model, with what many of them begin with read once: its keys and values are kept and shared."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..memory import bytes_of
from ..progress import Bar
from .reader import Reader
from .trie import Plan, Row

__all__ = ["Kept", "Spent", "Walk", "batches", "kept_of", "padded", "told"]

Alone = tuple[int, int]  # which beginning, which row


@dataclass
class Spent:
    """What reading has cost.

    Attributes:
        calls: of the model.
        tokens: that it read, padding included.
        plain: that it would have read row by row, without anything shared.
    """

    calls: int = 0
    tokens: int = 0
    plain: int = 0

    def count(self, ids: Tensor) -> None:
        """Another call."""
        self.calls += 1
        self.tokens += ids.numel()


@dataclass(frozen=True, eq=False)
class Kept:
    """A sequence that was read, with the cache of its keys and values, `(1, heads, tokens, width)` in each layer.

    Attributes:
        tokens: of the sequence; none where a layer looks back only so far that it has forgotten some: then nothing can be cut off
            the cache, but rows may still go on from where they part.
        bytes_per_token: what the cache holds of each.
    """

    tokens: tuple[int, ...]
    cache: Any
    bytes_per_token: int

    def beginning(self, depth: int, copies: int) -> Any:
        """The cache of its first tokens, so many times."""
        return _taken(self.cache, torch.zeros(copies, dtype=torch.long), depth)


def kept_of(tokens: tuple[int, ...], cache: Any) -> Kept | None:
    """The sequence, if rows may go on from such a cache; None where a layer keeps something else than keys and values of tokens."""
    layers = getattr(cache, "layers", None)
    if type(cache).__name__ != "DynamicCache" or not layers or any(type(layer).__name__ not in LAYERS for layer in layers):
        return None
    held = tuple(t for layer in layers for t in (layer.keys, layer.values))
    if not all(isinstance(t, Tensor) and t.dim() == 4 and len(t) == 1 for t in held):
        return None
    whole = all(t.shape[2] == len(tokens) for t in held)
    return Kept(tokens if whole else (), cache if whole else None, bytes_of(held) // len(tokens))


# Layers of a cache that hold the keys and values of all tokens, or of the last ones.
LAYERS = ("DynamicLayer", "DynamicSlidingWindowLayer")


def _taken(cache: Any, rows: Tensor, depth: int) -> Any:
    """A cache of its own for some rows of another, as deep; reading on does not change the other one."""
    found = copy.copy(cache)
    found.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in found.layers:
        layer.keys, layer.values = (_rows(t[:, :, :depth], rows) for t in (layer.keys, layer.values))
        if hasattr(layer, "cumulative_length"):
            layer.cumulative_length = depth
    return found


def _rows(tensor: Tensor, rows: Tensor) -> Tensor:
    return tensor.expand(len(rows), -1, -1, -1) if len(tensor) == 1 else tensor.index_select(0, rows.to(tensor.device))


def _joined(one: Any, other: Any) -> Any:
    """The rows of two caches that are as deep."""
    for layer, further in zip(one.layers, other.layers, strict=True):
        layer.keys, layer.values = torch.cat([layer.keys, further.keys]), torch.cat([layer.values, further.values])
    return one


def told(logits: Tensor, lengths: Sequence[int], rows: Sequence[Row], dtype: torch.dtype) -> Tensor:
    """The log-probabilities `(rows, answers, T)` of the answers; 0 where a row has fewer or shorter ones.

    Args:
        logits: `(rows, K, vocabulary)`, of the last K positions of the longest row.
        lengths: how many tokens were read in each row; what follows, up to the longest, is padding.
    """
    count, most = max(len(row.answers) for row in rows), max(row.asked for row in rows)
    labels, positions, real = [], [], []
    for length, row in zip(lengths, rows, strict=True):
        fill = most - row.asked
        own = [(*answer, *(0,) * fill) for answer in row.answers]
        labels.append(own + [own[-1]] * (count - len(own)))
        start = logits.shape[1] - max(lengths) + length - row.asked
        positions.append([*range(start, start + row.asked), *(start,) * fill])
        real.append([True] * row.asked + [False] * fill)
    at = torch.tensor(positions, device=logits.device)
    same = len(set(zip(lengths, (row.asked for row in rows), strict=True))) == 1
    asked = (logits if same else logits.gather(1, at[:, :, None].expand(-1, -1, logits.shape[2]))).to(dtype)
    picked = asked.gather(2, torch.tensor(labels, device=logits.device).transpose(1, 2))
    found = (picked - asked.logsumexp(2, keepdim=True)).transpose(1, 2)
    return found * torch.tensor(real, device=logits.device)[:, None]


def padded(rows: Sequence[Sequence[int]], device: torch.device, depth: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of ids `(rows, L)`, zeros behind the shorter ones, and a mask `(rows, depth + L)` of what is none of these zeros."""
    longest = max(map(len, rows))
    ids = torch.tensor([(*row, *(0,) * (longest - len(row))) for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, torch.arange(depth + longest, device=device) < depth + lengths[:, None]


def batches(items: Sequence[Any], lengths: Sequence[int], most: int, call: float) -> Iterator[list[Any]]:
    """Items in batches, the longest first; another batch begins where padding would cost more than a call."""
    order = sorted(range(len(items)), key=lambda i: -lengths[i])
    batch: list[Any] = []
    longest = waste = 0
    for i in order:
        waste += longest - lengths[i]
        if batch and (len(batch) >= most or waste > call):
            yield batch
            batch = []
        if not batch:
            longest, waste = lengths[i], 0
        batch.append(items[i])
    if batch:
        yield batch


@dataclass(eq=False)
class Walk:
    """One way through the beginnings of rows, as deep as wide: what is held at a time is a few batches, however many rows there are.

    Attributes:
        most: rows per call.
        call: what a call costs beside its tokens, in tokens.
    """

    reader: Reader
    kept: Kept | None
    most: int
    call: float
    spent: Spent
    bar: Bar
    rows: Sequence[Row] = ()
    tokens: Sequence[tuple[int, ...]] = ()
    values: dict[int, Tensor] = field(default_factory=dict)

    def found(self, rows: Sequence[Row], plan: Plan | None) -> list[Tensor]:
        """The log-probabilities `(answers, T)` of each row; rows come in the order of their tokens, and without a plan are read whole."""
        self.rows, self.tokens, self.values = rows, [row.tokens for row in rows], {}
        if plan is None:
            self._end([(0, row) for row in range(len(rows))], None, 0)
        else:
            self._descend(plan, [list(range(len(rows)))], None, plan.cuts)
        return [self.values[row] for row in range(len(rows))]

    def _descend(self, plan: Plan, beginnings: list[list[int]], cache: Any, cuts: Sequence[int]) -> None:
        """Read all rows of some beginnings, whose cache there is, to their ends."""
        depth, until = cuts[0], cuts[1] if len(cuts) > 1 else math.inf
        alone = [(own, row) for own, rows in enumerate(beginnings) for row in rows if plan.leaving(row, until)]
        self._end(alone, cache, depth)
        if len(cuts) == 1:
            return
        on = [(own, found) for own, rows in enumerate(beginnings) for found in plan.beginnings(rows, cuts[1])]
        known = [found for _, found in on if plan.known[found[0]] >= cuts[1]]
        fresh = [(own, found) for own, found in on if plan.known[found[0]] < cuts[1]]
        for start in range(0, max(len(fresh), 1), self.most):
            part = fresh[start : start + self.most]
            further = self._further(part, cache, depth, cuts[1]) if part else None
            rows = [found for _, found in part]
            if known and self.kept is not None and start == 0:
                own = self.kept.beginning(cuts[1], len(known))
                further, rows = _joined(further, own) if part else own, rows + known
            self._descend(plan, rows, further, cuts[1:])

    def _further(self, part: list[tuple[int, list[int]]], cache: Any, depth: int, until: int) -> Any:
        """The cache of these beginnings at the next cut."""
        ids = torch.tensor([self.tokens[rows[0]][depth:until] for _, rows in part], device=self.reader.device)
        past = None if cache is None else _taken(cache, torch.tensor([own for own, _ in part]), depth)
        self.spent.count(ids)
        return self.reader.read(ids, ids.new_ones(len(ids), until, dtype=torch.bool), 0, past, cache=True).cache

    def _end(self, alone: list[Alone], cache: Any, depth: int) -> None:
        """Read rows from a depth to their ends."""
        for batch in batches(alone, [len(self.tokens[row]) for _, row in alone], self.most, self.call):
            rows = [self.rows[row] for _, row in batch]
            tails = [self.tokens[row][depth:] for _, row in batch]
            lengths = [len(tail) for tail in tails]
            ids, mask = padded(tails, self.reader.device, depth)
            past = None if cache is None else _taken(cache, torch.tensor([own for own, _ in batch]), depth)
            keep = max(lengths) - min(length - row.asked for length, row in zip(lengths, rows, strict=True))
            self.spent.count(ids)
            logits = self.reader.read(ids, mask, keep, past).logits
            self.bar.update(len(batch))
            values = told(logits, lengths, rows, self.reader.dtype)
            for (_, place), row, value in zip(batch, rows, values, strict=True):
                self.values[place] = value[: len(row.answers), : row.asked]
