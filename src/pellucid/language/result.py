"""What a generated text rests on: attributions of its tokens, and of the whole, to the units of the prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InputError, OptionError
from ..explanation import Check, Cost, Display, Explanation, Provenance
from .interpretable import Parts

if TYPE_CHECKING:
    from matplotlib.figure import Figure
from .saved import Saved, as_json, made, numbers, parsed, plain

__all__ = ["LOG_PROBABILITY", "PROBABILITY", "Generated"]

FORMAT = "pellucid-generated-1"
LOG_PROBABILITY, PROBABILITY = "log-probability", "probability"


@dataclass(frozen=True, eq=False)
class Generated(Saved):
    """What moved each generated token, and the generated text as a whole; `U` units of the prompt, `T` generated tokens.

    For log-probabilities and additive methods the rows of the matrix add up to the sequence, because
    log p(text) = sum over t of log p(token t | prompt, tokens before t).

    Attributes:
        units: what was taken away or perturbed in the prompt: tokens, segments, regions.
        tokens: the tokens of the generated text.
        sequence: `(U,)`, attributions of the whole generated text.
        matrix: `(T, U)`, attributions of each token; None where the method gives none.
        probabilities: `(T,)`, of each token given the prompt and the tokens before it; None where they are not known.
        method: by which they were found.
        measure: of what, "log-probability" or "probability", in whose unit attributions are.
        parts: the prompt in pieces, each with its unit or None; empty: the units are the prompt.
        options: what else was asked.
        health, cost, provenance: as in `Explanation`.

    Raises:
        InputError: lengths or shapes that do not match.

    >>> told = Generated(("The", "sky", "is"), ("blue",), torch.tensor([0.0, 2.0, 0.5]), torch.tensor([[0.0, 2.0, 0.5]]))
    >>> told.strongest(0, 2)
    [(1, 2.0), (2, 0.5)]
    """

    units: tuple[str, ...]
    tokens: tuple[str, ...]
    sequence: Tensor
    matrix: Tensor | None = None
    probabilities: Tensor | None = None
    method: str = "attribution"
    measure: str = LOG_PROBABILITY
    parts: Parts = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    health: tuple[Check, ...] = ()
    cost: Cost = field(default_factory=Cost)
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        units, tokens = len(self.units), len(self.tokens)
        _shaped("sequence", self.sequence, (units,), "one number for each of the units")
        if self.matrix is not None:
            _shaped("matrix", self.matrix, (tokens, units), "a row for each token, a column for each unit")
        if self.probabilities is not None:
            _shaped("probabilities", self.probabilities, (tokens,), "one number for each of the tokens")
        for text, unit in self.parts:
            if unit is not None and not 0 <= unit < units:
                raise InputError(f"the part {text!r} belongs to unit {unit}; there are 0 to {units - 1}, and None for what always stays")

    def of(self, token: int | None = None) -> Tensor:
        """`(U,)`, the attributions of a token, or with None of the whole text.

        Raises:
            OptionError: the tokens have no attributions of their own. InputError: no such token.
        """
        if token is None:
            return self.sequence
        if self.matrix is None:
            raise OptionError(f"{self.method} gave no attributions of single tokens; token=None has those of the whole text")
        if not -len(self.tokens) <= token < len(self.tokens):
            raise InputError(f"token={token!r} is not one of the {len(self.tokens)} generated tokens; they are numbered from 0")
        return self.matrix[token]

    def strongest(self, token: int | None = None, most: int = 5) -> list[tuple[int, float]]:
        """Units and attributions by magnitude, the largest first; zeros and what is not finite left out."""
        pairs = [(unit, value) for unit, value in enumerate(self.of(token).tolist()) if value and math.isfinite(value)]
        return sorted(pairs, key=lambda pair: -abs(pair[1]))[:most]

    def explanation(self, token: int | None = None) -> Explanation:
        """One row as an `Explanation` of a text, for whatever takes one; the score is NaN where probabilities are not known."""
        values = self.of(token).detach()[None]
        place = "" if token is None else f"{self.tokens[token]!r}, token {token % len(self.tokens) + 1} of {len(self.tokens)}"
        return Explanation(
            (values,),
            (torch.ones_like(values),),
            self._score(token).to(values.device),
            self.method,
            f"{self.measure} of {place or 'the generated text'}",
            self.options,
            health=self.health,
            cost=self.cost,
            provenance=self.provenance,
            display=Display("text", _marked(self.units)),
        )

    def _score(self, token: int | None) -> Tensor:
        """`(1,)`."""
        if self.probabilities is None or self.measure not in (LOG_PROBABILITY, PROBABILITY):
            return torch.full((1,), math.nan)
        logs = (self.probabilities if token is None else self.probabilities[token]).detach().double().log().sum().view(1)
        return logs if self.measure == LOG_PROBABILITY else logs.exp()

    def draw(self, kind: str | None = None, **options: Any) -> Figure:
        """A figure that belongs to nobody else.

        Args:
            kind: "tokens", a heat map of generated tokens by units; "sequence", bars in the order of the prompt; "words", the prompt on
                colours. None: a heat map where there is a matrix.
            options: those of the kind (`pellucid.show.generated`).

        Raises:
            OptionError: an unknown kind, or a heat map without a matrix.
        """
        from ..show.generated import draw

        return draw(self, kind, **options)

    def html(self, title: str = "What the generated text rests on") -> str:
        """One self-contained page: a token that is pointed at or focused shows what it rests on in the prompt. No scripts."""
        from ..show.transcript import document

        return document(self, title)

    def _repr_html_(self) -> str:
        from ..show.transcript import styled

        return styled(self)

    def __rich__(self) -> Any:
        from ..show.generated import terminal

        return terminal(self)

    def __repr__(self) -> str:
        rows = "no matrix" if self.matrix is None else f"matrix {tuple(self.matrix.shape)}"
        return f"Generated({self.method}: {len(self.tokens)} tokens on {len(self.units)} units, {rows})"

    def to_json(self) -> str:
        """Everything as JSON of the form `pellucid-generated-1`.

        `format`, `method`, `measure`, `dtype`: strings; `units`, `tokens`: lists of strings; `sequence`: U numbers; `matrix`: T lists
        of U numbers, or null; `probabilities`: T numbers, or null; `parts`: pairs of a string and a unit's index or null; `options`,
        `cost`, `provenance`: objects; `health`: a list of objects. NaN and infinities are the strings "NaN", "Infinity", "-Infinity".
        """
        tensors = {name: getattr(self, name) for name in NUMBERS}
        words = {
            "format": FORMAT,
            "method": self.method,
            "measure": self.measure,
            "dtype": str(self.sequence.dtype).removeprefix("torch."),
            "units": self.units,
            "tokens": self.tokens,
            "parts": self.parts,
            **{name: None if tensor is None else plain(tensor.tolist()) for name, tensor in tensors.items()},
        }
        return as_json(self, words)

    @classmethod
    def from_json(cls, text: str) -> Generated:
        """What `to_json` wrote.

        Raises:
            FileError: it is something else.
        """
        with parsed(text, FORMAT) as words:
            units, tokens, kind = tuple(words["units"]), tuple(words["tokens"]), getattr(torch, words["dtype"])
            found = {name: None if words[name] is None else torch.tensor(numbers(words[name]), dtype=kind) for name in NUMBERS}
            if found["matrix"] is not None:
                found["matrix"] = found["matrix"].reshape(len(tokens), len(units))
            return cls(
                units,
                tokens,
                **found,  # type: ignore[arg-type]
                method=words["method"],
                measure=words["measure"],
                **made(words),
            )


NUMBERS = ("sequence", "matrix", "probabilities")


def _shaped(name: str, tensor: Tensor, shape: tuple[int, ...], rule: str) -> None:
    if tuple(tensor.shape) != shape:
        raise InputError(f"{name} has shape {tuple(tensor.shape)}; it must be {shape}: {rule}")


def _marked(units: tuple[str, ...]) -> tuple[str, ...]:
    """Texts with spaces of their own as SentencePiece writes them, so that pieces of words are put together."""
    if all(unit.strip(" ") in ("", unit) for unit in units):
        return units
    return tuple("\u2581" + unit[1:] if unit.startswith(" ") else unit for unit in units)
