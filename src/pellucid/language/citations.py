"""An answer with its sources: for each of its statements, how much each passage of the context made the model say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InputError, OptionError
from ..explanation import Check, Cost, Provenance
from .interpretable import Parts
from .result import Generated
from .saved import Saved, as_json, made, numbers, parsed, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Citations"]

FORMAT = "pellucid-citations-1"
MEASURE = "log-odds"
SHARE = 0.2  # of the strongest source's score, from which on others are cited too
NUMBERS = ("scores", "whole", "probabilities", "lds", "drops", "rivals")


@dataclass(frozen=True, eq=False)
class Citations(Saved):
    """Statements of an answer and the sources that they rest on; `S` statements, `D` sources.

    Attributes:
        sources, statements: what they say.
        scores: `(S, D)`, by how much a source raises the log-odds of a statement; above 0 it supports it.
        whole: `(D,)`, of the whole answer.
        probabilities: `(S,)`, of each statement with all sources there.
        lds: `(S,)`, how well scores predict the likelihood without some of the sources: a rank correlation; NaN where nothing is said.
        drops, rivals: `(S,)`, the fall of a statement's log-probability without its strongest sources, and without others; None: not tried.
        answer: the whole answer.
        spans: where in it each statement stands.
        parts: the prompt in pieces, each with its source or None.
        options, health, cost, provenance: as in `Explanation`.

    Raises:
        InputError: shapes that do not match.

    >>> scores = torch.tensor([[0.1, 3.0], [2.0, 0.5]])
    >>> found = Citations(("One.", "Two."), ("A.", "B."), scores, scores.sum(0), torch.ones(2), torch.ones(2))
    >>> found.top(1), found.cited(1)
    ([[(1, 3.0)], [(0, 2.0)]], [0, 1])
    """

    sources: tuple[str, ...]
    statements: tuple[str, ...]
    scores: Tensor
    whole: Tensor
    probabilities: Tensor
    lds: Tensor
    drops: Tensor | None = None
    rivals: Tensor | None = None
    answer: str = ""
    spans: tuple[tuple[int, int], ...] = ()
    parts: Parts = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    health: tuple[Check, ...] = ()
    cost: Cost = field(default_factory=Cost)
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        statements, sources = len(self.statements), len(self.sources)
        shapes = {"scores": (statements, sources), "whole": (sources,)}
        shapes |= dict.fromkeys(("probabilities", "lds", "drops", "rivals"), (statements,))
        for name, shape in shapes.items():
            given = getattr(self, name)
            if given is not None and tuple(given.shape) != shape:
                raise InputError(f"{name} has shape {tuple(given.shape)}; for {statements} statements and {sources} sources it is {shape}")

    def top(self, most: int = 3) -> list[list[tuple[int, float]]]:
        """For each statement its strongest sources, with their scores, the best first; only those that support it.

        Raises:
            OptionError: `most` is not positive.
        """
        if most < 1:
            raise OptionError(f"most is {most}; give at least 1")
        found = []
        for row in self.scores:
            order = row.argsort(descending=True, stable=True)[:most].tolist()
            found.append([(source, float(row[source])) for source in order if float(row[source]) > 0])
        return found

    def cited(self, statement: int, share: float = SHARE) -> list[int]:
        """The sources of a statement, in order: those with at least this part of the score of the strongest.

        Raises:
            InputError: no such statement.
        """
        if not -len(self.statements) <= statement < len(self.statements):
            raise InputError(f"statement={statement!r} is not one of the {len(self.statements)}; they are numbered from 0")
        row = self.scores[statement]
        best = float(row.max()) if len(row) else 0.0
        return [source for source, value in enumerate(row.tolist()) if value > 0 and value >= share * best]

    def flat(self) -> Generated:
        """Statements by sources as one record, for its pictures, its page and its JSON."""
        return Generated(
            self.sources,
            self.statements,
            self.whole,
            self.scores,
            self.probabilities,
            "context_cite",
            MEASURE,
            self.parts,
            self.options,
            self.health,
            self.cost,
            self.provenance,
        )

    def draw(self, most: int = 3, width: float = 8.0) -> Figure:
        """A figure that belongs to nobody else: each statement, and under it bars of its strongest sources.

        Args:
            most: sources of a statement at most.
            width: inches.
        """
        from ..show.cited import draw

        return draw(self, most, width)

    def html(self, title: str = "What the answer rests on") -> str:
        """One self-contained page: the answer with numbers that lead to its sources, and back. No scripts."""
        from ..show.cited import document

        return document(self, title)

    def _repr_html_(self) -> str:
        from ..show.cited import styled

        return styled(self)

    def __rich__(self) -> Any:
        from ..show.cited import terminal

        return terminal(self)

    def __repr__(self) -> str:
        cited = {source for i in range(len(self.statements)) for source in self.cited(i)}
        return f"Citations({len(self.statements)} statements on {len(cited)} of {len(self.sources)} sources)"

    def to_json(self) -> str:
        """Everything as JSON of the form `pellucid-citations-1`: the fields by name; numbers that are not finite by name, or null."""
        words: dict[str, Any] = {name: getattr(self, name) for name in ("sources", "statements", "answer", "spans", "parts")}
        words |= {name: None if (value := getattr(self, name)) is None else plain(value.tolist()) for name in NUMBERS}
        return as_json(self, {**words, "format": FORMAT})

    @classmethod
    def from_json(cls, text: str) -> Citations:
        """What `to_json` wrote.

        Raises:
            FileError: it is something else.
        """
        with parsed(text, FORMAT) as words:
            found: dict[str, Any] = {
                name: None if words[name] is None else torch.tensor(numbers(words[name]), dtype=torch.float64) for name in NUMBERS
            }
            found["scores"] = found["scores"].reshape(len(words["statements"]), len(words["sources"]))
            return cls(
                sources=tuple(words["sources"]),
                statements=tuple(words["statements"]),
                **found,
                answer=words["answer"],
                spans=tuple((start, stop) for start, stop in words["spans"]),
                **made(words),
            )
