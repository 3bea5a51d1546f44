"""One example of an explanation, made ready to draw: numbers, names, picture, and the words around them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from .numbers import number, percent
from .scale import Array, array_of, finite, pooled

if TYPE_CHECKING:
    from ..explanation import Explanation, Pooling

__all__ = ["Example", "details", "example_of", "headline", "pixels", "rows_of", "said_of", "title", "unit_of"]


@dataclass(frozen=True, eq=False)
class Example:
    """One input of one example.

    Attributes:
        values: its attributions, without the batch dimension.
        features: what they are about; of the same shape unless a layer was attributed.
        names: the names that were given, or none.
        picture: `(H, W)` or `(H, W, 3)` uint8, where a person can look at the example.
        pooling: how several numbers of one thing become one: sum, norm or mean.
        special: names of tokens that are no part of a text.
    """

    values: Array
    features: Array
    names: tuple[str, ...]
    picture: NDArray[np.uint8] | None
    pooling: Pooling = "sum"
    special: tuple[str, ...] = ()

    def pooled(self) -> Array:
        """One number for each thing along the first axis."""
        return pooled(self.values, tuple(range(1, self.values.ndim)), self.pooling) if self.values.ndim else self.values.reshape(1)

    def named(self, size: int, word: str = "feature") -> tuple[str, ...]:
        """One name for each of `size` things, numbered where none was given.

        Raises:
            InputError: there are names, but not as many.
        """
        if self.names and len(self.names) != size:
            raise InputError(
                f"there are {len(self.names)} names for {size} attributions of shape {self.values.shape}; "
                f"give as many names as there are columns or tokens, or none"
            )
        return self.names or tuple(f"{word} {i}" for i in range(size))


def example_of(explanation: Explanation, example: int = 0, which: int = 0) -> Example:
    """The numbers of one input (`which`) of one example.

    Raises:
        InputError: the explanation has no such example or input.
    """
    _check(example, len(explanation), "example")
    _check(which, len(explanation.attributions), "which")
    values = _row(explanation.attributions[which], example)
    features = _row(explanation.features[min(which, len(explanation.features) - 1)], example)
    display = explanation.display.of_input(which)
    picture = display.picture if example == 0 and (which == 0 or explanation.display.parts) else None
    if not display.tokens:
        return Example(values, features, display.names, picture, display.pooling)
    tokens = display.tokens[example] if example < len(display.tokens) else ()
    there = [i for i, token in enumerate(tokens) if token is not None]  # padding is nothing to look at
    if len(tokens) == len(values):
        values, features = values[there], features[there] if len(features) == len(tokens) else features
    return Example(values, features, tuple(tokens[i] or "" for i in there), picture, display.pooling, display.special)


def rows_of(explanation: Explanation, example: int) -> list[Example]:
    """Every input of one example."""
    return [example_of(explanation, example, which) for which in range(len(explanation.attributions))]


def headline(explanation: Explanation, example: int) -> str:
    """What the model said: its answer or the predicted class, and its confidence; or else the score."""
    name = said_of(explanation, example)
    if name is None:
        return f"score {number(_number(explanation.scores, example))}"
    if explanation.confidences is None:
        return f"predicted {name}"
    return f"predicted {name} ({percent(_number(explanation.confidences, example))})"


def said_of(explanation: Explanation, example: int) -> str | None:
    """What the model said: in words if these are known, else by its class, if it has classes."""
    if explanation.display.answers:
        return explanation.display.answers[example]
    return None if explanation.predictions is None else _class(explanation, int(_number(explanation.predictions, example)))


def details(explanation: Explanation, example: int) -> Iterator[str]:
    """What was asked, how, and how far the answer adds up."""
    yield f"explains {explanation.target}"
    place = [explanation.options["layer"]] if "layer" in explanation.options else []
    yield " at ".join([explanation.method.replace("_", " "), *place])
    check = explanation.check("completeness")
    if check is not None:
        gap = "" if check.value is None else f" {percent(check.value)}"
        yield f"{'✓' if check.passed else '✗'}\N{NO-BREAK SPACE}completeness gap{gap}"
    if len(explanation) > 1:
        yield f"example {example + 1} of {len(explanation)}"


def title(explanation: Explanation, example: int) -> tuple[str, str]:
    """The headline, and the details in one line that breaks between them only."""
    parts = (part.replace(" ", "\N{NO-BREAK SPACE}") for part in details(explanation, example))
    return headline(explanation, example), " · ".join(parts)


def unit_of(explanation: Explanation) -> str:
    """What the attributions are measured in, as far as it is known: what adds up to the score has its unit."""
    if explanation.check("completeness") is not None:
        return "attribution (in units of the score)"
    over = _OVER.get(explanation.display.kind)
    several = explanation.attribution.dim() > 2 and explanation.attribution.shape[_CHANNELS.get(explanation.display.kind, -1)] > 1
    return f"attribution (norm over {over})" if explanation.display.pooling == "norm" and over and several else "attribution"


_OVER = {"image": "colours", "text": "the embedding"}
_CHANNELS = {"image": 1, "text": 2}


def pixels(features: Array) -> NDArray[np.uint8]:
    """`(C, H, W)` or `(H, W)` as a picture: values in [0, 1] or [0, 255] as they are, others stretched to fill it."""
    known = finite(features)
    if known.ndim == 3:
        known = np.moveaxis(known, 0, 2) if len(known) == 3 else known.mean(0)
    low, high = float(known.min()), float(known.max())
    fits = low >= 0 and high <= 255
    start, span = (0.0, 1.0 if high <= 1 else 255.0) if fits else (low, high - low or 1.0)
    return np.rint((known - start) / span * 255).astype(np.uint8)


def _class(explanation: Explanation, index: int) -> str:
    classes: Sequence[str] = explanation.display.classes
    return classes[index] if index < len(classes) else f"class {index}"


def _row(tensor: Tensor, example: int) -> Array:
    # A model with one score for the whole batch has one row of attributions.
    return array_of(tensor[example if len(tensor) > 1 else 0])


def _number(tensor: Tensor, example: int) -> float:
    return float(_row(tensor, example).reshape(-1)[0])


def _check(index: int, size: int, what: str) -> None:
    if not isinstance(index, int | np.integer) or not 0 <= index < size:
        have = f"{what} can be 0" if size == 1 else f"{what} can be 0 to {size - 1}"
        raise InputError(f"{what}={index!r} is not in this explanation; {have}")
