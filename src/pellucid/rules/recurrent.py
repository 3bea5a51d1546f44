"""Recurrent networks as the steps that they are made of, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Gate", "gru", "lstm", "plain", "recurrent", "single"]

Gate = Callable[[Tensor], Tensor]
Cell = Callable[[Tensor, tuple[Tensor, ...], tuple[Tensor | None, ...]], tuple[Tensor, ...]]


def lstm(gate: Gate) -> Cell:
    """A step of an LSTM, projected where it has weights for that."""

    def step(x: Tensor, state: tuple[Tensor, ...], weights: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
        h, c = state
        gates = F.linear(x, weights[0], weights[2]) + F.linear(h, weights[1], weights[3])  # type: ignore[arg-type]
        i, f, g, o = gates.chunk(4, -1)
        c = gate(f) * c + gate(i) * torch.tanh(g)
        h = gate(o) * torch.tanh(c)
        return (F.linear(h, weights[4]) if len(weights) > 4 and weights[4] is not None else h), c

    return step


def gru(gate: Gate) -> Cell:
    """A step of a GRU."""

    def step(x: Tensor, state: tuple[Tensor, ...], weights: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
        (h,) = state
        r, z, n = F.linear(x, weights[0], weights[2]).chunk(3, -1)  # type: ignore[arg-type]
        r_h, z_h, n_h = F.linear(h, weights[1], weights[3]).chunk(3, -1)  # type: ignore[arg-type]
        kept = gate(z + z_h)
        return ((1 - kept) * torch.tanh(n + gate(r + r_h) * n_h) + kept * h,)

    return step


def plain(activation: Callable[[Tensor], Tensor]) -> Cell:
    """A step without gates."""

    def step(x: Tensor, state: tuple[Tensor, ...], weights: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
        return (activation(F.linear(x, weights[0], weights[2]) + F.linear(state[0], weights[1], weights[3])),)  # type: ignore[arg-type]

    return step


def recurrent(cell: Cell, states: int) -> Callable[..., Any]:
    """`torch.lstm` and its kin: `(input, hx, params, ...)`, or `(data, batch_sizes, hx, params, ...)` of a packed sequence."""

    def run(input: Tensor, second: Any, third: Any, fourth: Any, *rest: Any) -> Any:
        if isinstance(third, list | tuple) and isinstance(fourth, bool):
            layers, dropout, training, both, first = rest[0], *rest[1:5]
            steps = list(input.transpose(0, 1) if first else input)
            outputs, final = _all(cell, steps, _states(second, states), third, fourth, layers, dropout, training, both)
            return torch.stack(outputs, 1 if first else 0), *final
        biased, layers, dropout, training, both = rest
        sizes = [int(size) for size in second]
        outputs, final = _all(cell, list(input.split(sizes)), _states(third, states), fourth, biased, layers, dropout, training, both)
        return torch.cat(outputs), *final

    return run


def _states(given: Any, count: int) -> tuple[Tensor, ...]:
    return tuple(given) if count > 1 else (given,)


def _all(
    cell: Cell, steps: list[Tensor], states: tuple[Tensor, ...], params: Sequence[Tensor], biased: bool, layers: int, dropout: float,
    training: bool, both: bool
) -> tuple[list[Tensor], tuple[Tensor, ...]]:  # fmt: skip
    """All layers and directions; a step's rows are the examples that are still there, the longest first."""
    directions = 2 if both else 1
    each = len(params) // (layers * directions)
    final: list[tuple[Tensor, ...]] = []
    for layer in range(layers):
        found = []
        for direction in range(directions):
            index = layer * directions + direction
            own = list(params[index * each : (index + 1) * each])
            weights = tuple(own) if biased else (own[0], own[1], None, None, *own[2:])
            outputs, last = _one_way(cell, steps, tuple(s[index] for s in states), weights, direction == 1)
            found.append(outputs)
            final.append(last)
        steps = found[0] if not both else [torch.cat(pair, -1) for pair in zip(*found, strict=True)]
        if dropout and training and layer < layers - 1:
            steps = [F.dropout(s, dropout, True) for s in steps]
    return steps, tuple(torch.stack(states) for states in zip(*final, strict=True))


def _one_way(
    cell: Cell, steps: list[Tensor], start: tuple[Tensor, ...], weights: tuple[Tensor | None, ...], backwards: bool
) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    state, outputs = start, [steps[0]] * len(steps)
    batched = steps[0].dim() > 1
    for t in reversed(range(len(steps))) if backwards else range(len(steps)):
        rows = len(steps[t]) if batched else len(start[0])
        here = tuple(s[:rows] for s in state) if batched and rows < len(state[0]) else state
        new = cell(steps[t], here, weights)
        outputs[t] = new[0]
        # Examples that have ended, or (backwards) have not begun, keep their state.
        state = tuple(torch.cat([n, s[rows:]]) if len(n) < len(s) else n for n, s in zip(new, state, strict=True)) if batched else new
    return outputs, state


def single(step: Cell, states: int) -> Callable[..., Any]:
    """`torch.lstm_cell` and its kin: `(input, hx, weights, ...)`."""

    def run(input: Tensor, hx: Any, *weights: Tensor | None) -> Any:
        found = step(input, _states(hx, states), weights)
        return found if states > 1 else found[0]

    return run
