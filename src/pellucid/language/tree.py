"""What a generated text rests on, as a tree: the prompt, its passages, their sentences, their words, as deep as was looked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ..explanation import Check, Cost, Provenance
from .interpretable import Parts
from .result import LOG_PROBABILITY, Generated
from .saved import Saved, as_json, made, parsed, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Hierarchy", "Node"]

FORMAT = "pellucid-hierarchy-1"


@dataclass(frozen=True)
class Node:
    """A piece of the prompt.

    Attributes:
        text: what it says.
        level: what kind of piece it is: "prompt", "passage", "sentence", "word".
        units: the finest units that it is made of.
        value: its attribution, of the whole answer.
        values: of each token of the answer.
        error: the standard error of the value, NaN where it is not known.
        children: its parts, in order; none where nobody looked inside.
    """

    text: str
    level: str
    units: tuple[int, ...]
    value: float
    values: tuple[float, ...] = ()
    error: float = math.nan
    children: tuple[Node, ...] = ()

    def leaves(self) -> Iterator[Node]:
        """The finest pieces that were looked at, in order."""
        if not self.children:
            yield self
        for child in self.children:
            yield from child.leaves()

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Node]]:
        """Every piece with its depth, each before its parts."""
        yield depth, self
        for child in self.children:
            yield from child.walk(depth + 1)


@dataclass(frozen=True, eq=False)
class Hierarchy(Saved):
    """Attributions of an answer from coarse to fine.

    Law of nested Shapley (Owen) values: the values of the parts of a piece add up to its own, at every level; those of the whole prompt
    to what the prompt changes.

    Attributes:
        tree: the prompt.
        levels: from coarse to fine.
        tokens, probabilities: of the answer.
        method, measure, options, health, cost, provenance: as in `Generated`.
        evaluations: how many prompts were scored.
        parts: the prompt in pieces, each with its finest unit or None.

    >>> tree = Node("a b", "prompt", (0, 1), 3.0, (), 0.0, (Node("a", "word", (0,), 1.0), Node(" b", "word", (1,), 2.0)))
    >>> Hierarchy(tree, ("word",), ("c",)).flat().strongest(most=1)
    [(1, 2.0)]
    """

    tree: Node
    levels: tuple[str, ...]
    tokens: tuple[str, ...]
    probabilities: tuple[float, ...] = ()
    method: str = "owen"
    measure: str = LOG_PROBABILITY
    evaluations: int = 0
    parts: Parts = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    health: tuple[Check, ...] = ()
    cost: Cost = field(default_factory=Cost)
    provenance: Provenance = field(default_factory=Provenance)

    def flat(self) -> Generated:
        """The finest pieces that were looked at as units of one record, for its pictures, its page and its JSON."""
        leaves = list(self.tree.leaves())
        number = {unit: i for i, leaf in enumerate(leaves) for unit in leaf.units}
        values = torch.tensor([leaf.value for leaf in leaves], dtype=torch.float64)
        rows = torch.tensor([leaf.values for leaf in leaves], dtype=torch.float64).T if leaves[0].values else None
        return Generated(
            tuple(leaf.text for leaf in leaves),
            self.tokens,
            values,
            rows,
            torch.tensor(self.probabilities, dtype=torch.float64) if self.probabilities else None,
            self.method,
            self.measure,
            tuple((text, None if unit is None else number[unit]) for text, unit in self.parts),
            self.options,
            self.health,
            self.cost,
            self.provenance,
        )

    def strongest(self, most: int = 5) -> list[Node]:
        """The finest pieces by magnitude, the largest first."""
        return sorted(self.tree.leaves(), key=lambda leaf: -abs(leaf.value))[:most]

    def gap(self) -> float:
        """How far, at most, the parts of a piece are from adding up to it."""
        inner = (node for _, node in self.tree.walk() if node.children)
        return max((abs(node.value - sum(child.value for child in node.children)) for node in inner), default=0.0)

    def draw(self, width: float = 8.0, most: int = 40) -> Figure:
        """A figure that belongs to nobody else: pieces under those that they are parts of, words on colours.

        Args:
            width: inches.
            most: rows at most; of more, those of the strongest pieces.
        """
        from ..show.nested import draw

        return draw(self, width, most)

    def html(self, title: str = "What the generated text rests on") -> str:
        """One self-contained page: the prompt, its pieces in frames within frames, to be opened and closed. No scripts."""
        from ..show.nested import document

        return document(self, title)

    def _repr_html_(self) -> str:
        from ..show.nested import styled

        return styled(self)

    def __rich__(self) -> Any:
        from ..show.nested import terminal

        return terminal(self)

    def __repr__(self) -> str:
        pieces = sum(1 for _ in self.tree.leaves())
        return f"Hierarchy({self.method}: {len(self.tokens)} tokens on {pieces} pieces of {', '.join(self.levels)})"

    def to_json(self) -> str:
        """Everything as JSON of the form `pellucid-hierarchy-1`: the fields by name; numbers that are not finite by name."""
        words = {name: getattr(self, name) for name in PLAIN}
        words |= {
            "format": FORMAT,
            "tree": plain(asdict(self.tree)),
            "probabilities": plain(self.probabilities),
        }
        return as_json(self, words)

    @classmethod
    def from_json(cls, text: str) -> Hierarchy:
        """What `to_json` wrote.

        Raises:
            FileError: it is something else.
        """
        with parsed(text, FORMAT) as words:
            return cls(
                tree=_node(words["tree"]),
                levels=tuple(words["levels"]),
                tokens=tuple(words["tokens"]),
                probabilities=tuple(map(float, words["probabilities"])),
                **{name: words[name] for name in ("method", "measure", "evaluations")},
                **made(words),
            )


PLAIN = ("levels", "tokens", "method", "measure", "evaluations", "parts")


def _node(words: Mapping[str, Any]) -> Node:
    found = {name: words[name] for name in ("text", "level")} | {name: float(words[name]) for name in ("value", "error")}
    children = tuple(_node(child) for child in words["children"])
    return Node(units=tuple(words["units"]), values=tuple(map(float, words["values"])), children=children, **found)
