"""EK-FAC: the Fisher matrix of each layer as a Kronecker product, with the eigenvalues that its eigenvectors really have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..errors import OptionError
from ..explanation import Check
from ..model import said, undisturbed
from ..progress import Bar
from ..seeds import generator
from .curvature import Curvature
from .examples import Batch, size_of
from .gradients import PerExample
from .inverse import Inverse
from .layout import Layout
from .parts import Outer, Part, SampleGradients

__all__ = ["EkFac", "ek_fac"]

RELATIVE = 0.1  # the damping of Grosse et al., in parts of the mean eigenvalue of a layer

ENOUGH = 10_000  # gradients, from which the Fisher matrix is estimated


@dataclass(frozen=True, eq=False)
class Block:
    """The Fisher matrix of one layer, summed over examples: `eigenvalues` along the columns of `of_output` times those of `of_input`.

    For layers that are no outer product the columns are the parameters themselves, and there are no two sides.
    """

    eigenvalues: Tensor
    of_output: Tensor | None = None
    of_input: Tensor | None = None

    def solved(self, gradients: Tensor, damping: float | None) -> Tensor:
        """`(C, parameters)`: the inverse, damped, times gradients."""
        held = self.eigenvalues + (RELATIVE * self.eigenvalues.mean() if damping is None else damping)
        held = held.clamp_min(1e-30)
        if self.of_output is None or self.of_input is None:
            return gradients / held
        inside = self.of_output.T @ gradients.unflatten(1, (len(self.of_output), -1)) @ self.of_input
        found: Tensor = self.of_output @ (inside / held) @ self.of_input.T
        return found.flatten(1)


@dataclass(frozen=True, eq=False)
class EkFac(Inverse):
    """The blocks of all layers, and the order of the parameters.

    Attributes:
        damping: added to every eigenvalue; None: a tenth of the mean eigenvalue of each layer.
        names: of each part, its parameters.
        labels: where the labels of the gradients came from, in words.
    """

    blocks: Mapping[str, Block]
    names: Mapping[str, tuple[str, ...]]
    layout: Layout
    damping: float | None
    labels: str

    def times(self, gradients: Tensor) -> tuple[Tensor, tuple[Check, ...]]:
        values = self.layout.split(gradients)
        found: dict[str, Tensor] = {}
        for part, block in self.blocks.items():
            names = self.names[part]
            rows = [values[name].reshape(len(gradients), len(values[name][0]) if block.of_output is not None else 1, -1) for name in names]
            solved = block.solved(torch.cat(rows, 2).flatten(1), self.damping)
            widths = [row.shape[2] for row in rows]
            pieces = solved.unflatten(1, (rows[0].shape[1], -1)).split(widths, 2)
            found |= {name: piece.flatten(1).reshape(values[name].shape) for name, piece in zip(names, pieces, strict=True)}
        return self.layout.joined(found), (Check("curvature", True, f"Fisher matrix of each layer by itself, of {self.labels}"),)


def ek_fac(curvature: Curvature, damping: float | None = None, draws: int | None = None, seed: int = 0, bar: Bar | None = None) -> EkFac:
    """The Fisher matrix of the model's own predictions, layer by layer; two passes forward and backward over the examples for each draw.

    Labels are drawn from what the model predicts (cross entropy, binary cross entropy, squared error); for another loss the labels of the
    examples are taken, which gives the empirical Fisher matrix.
    Source: George et al. 2018, algorithm 1; Grosse et al. 2023, section 3.

    Args:
        damping: added to the eigenvalues of the summed matrix; None: a tenth of the mean eigenvalue of each layer.
        draws: how many labels are drawn for each example; None: one, and more where there are fewer than ten thousand examples.
    """
    if draws is not None and draws < 1:
        raise OptionError(f"draws is {draws}; at least one label must be drawn for each example")
    work = _Work(curvature, seed, bar, draws)
    sides: dict[str, tuple[Tensor, Tensor]] = {}
    for found in work.gradients():
        for name, part in found.parts.items():
            if isinstance(part, Outer):
                sides[name] = _added(sides.get(name), _squares(part.whole()))
    bases = {name: (torch.linalg.eigh(left)[1], torch.linalg.eigh(right)[1]) for name, (left, right) in sides.items()}
    eigenvalues: dict[str, Tensor] = {}
    for found in work.gradients():
        for name, part in found.parts.items():
            own = _along(part, *bases[name]) if isinstance(part, Outer) else _squared(part)
            eigenvalues[name] = eigenvalues[name] + own if name in eigenvalues else own
    blocks = {name: Block(values, *bases.get(name, (None, None))) for name, values in eigenvalues.items()}
    return EkFac(blocks, found.names, curvature.layout, damping, work.words)


def _squares(part: Outer) -> tuple[Tensor, Tensor]:
    left, right = part.left.flatten(0, 1), part.right.flatten(0, 1)
    return left.T @ left, right.T @ right


def _added(one: tuple[Tensor, Tensor] | None, other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return other if one is None else (one[0] + other[0], one[1] + other[1])


def _along(part: Outer, of_output: Tensor, of_input: Tensor) -> Tensor:
    """`(O, I)`: squares of the gradients in the basis of both sides, summed over examples."""
    whole = part.whole()
    turned = replace(whole, left=whole.left @ of_output, right=whole.right @ of_input)
    if turned.left.shape[1] == 1:
        own: Tensor = turned.left[:, 0].square().T @ turned.right[:, 0].square()
        return own
    return _squared(turned).view(turned.left.shape[2], -1)


def _squared(part: Part) -> Tensor:
    """`(parameters,)`, summed over examples."""
    return sum((rows.square().sum(0) for rows in part.blocks()), torch.zeros(()))


@dataclass(frozen=True)
class _Work:
    """Gradients of all batches, with labels that the model itself would give; the same ones in every pass."""

    curvature: Curvature
    seed: int
    bar: Bar | None
    draws: int | None = None

    @property
    def _draw(self) -> Draw | None:
        loss = self.curvature.loss
        return DRAWS.get(loss if loss in DRAWS else type(loss))

    @property
    def words(self) -> str:
        return "the labels of the examples (empirical)" if self._draw is None else "labels that the model predicts"

    def gradients(self) -> Iterator[SampleGradients]:
        """Of each batch and draw, their squares adding up to those of the examples."""
        curvature, draw = self.curvature, self._draw
        of_batch = PerExample(curvature.model, curvature.loss, curvature.layers)
        for number, batch in enumerate(curvature.examples.on(curvature.model)):
            for labels, weight in self._labels(batch, draw, number):
                yield of_batch(batch[:-1], labels).scaled(weight**0.5)
            if self.bar is not None:
                self.bar.update(size_of(batch))

    def _labels(self, batch: Batch, draw: Draw | None, number: int) -> Iterator[tuple[Any, float]]:
        if draw is None:
            yield batch[-1], 1.0
            return
        model, source = self.curvature.model, generator(self.seed, number)
        with undisturbed((model,)), torch.no_grad():
            output = said(model, batch[:-1])
        count = self.draws or max(1, -(-ENOUGH // max(1, len(self.curvature.examples))))
        for _ in range(count):
            yield draw(output.float().cpu(), source).to(output.device, batch[-1].dtype), 1 / count


Draw = Callable[[Tensor, Generator], Tensor]


def _class(output: Tensor, source: Generator) -> Tensor:
    chances = output.softmax(1).movedim(1, -1)
    found: Tensor = torch.multinomial(chances.flatten(0, -2), 1, generator=source).view(chances.shape[:-1])
    return found


def _yes_or_no(output: Tensor, source: Generator) -> Tensor:
    found: Tensor = torch.bernoulli(output.sigmoid(), generator=source)
    return found


def _number(output: Tensor, source: Generator) -> Tensor:
    """The squared error is the logarithm of a normal density of variance one half."""
    return torch.normal(output, 0.5**0.5, generator=source)


DRAWS: Mapping[Any, Draw] = {
    nn.CrossEntropyLoss: _class,
    F.cross_entropy: _class,
    nn.BCEWithLogitsLoss: _yes_or_no,
    F.binary_cross_entropy_with_logits: _yes_or_no,
    nn.MSELoss: _number,
    F.mse_loss: _number,
}
