"""Targets of models that read text: classes, tokens and spans by name, at places of each example's own text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from ..errors import TargetError
from ..output import fields_of, scores_in, tensor_of
from ..picks import Custom, Field, Mixed, PerExample, Pick, Same, Several, Sum, Whole
from ..target import Expression, target
from .heads import Head
from .tokens import Text
from .vocabulary import SPACES, Vocabulary

__all__ = ["Each", "Meaning", "Said", "plain"]

Index = tuple[int, ...]
ENDS = {"start": "start_logits", "end": "end_logits"}
LONGEST = 30  # tokens of an answer


@dataclass(frozen=True)
class Each:
    """Several targets of one pass."""

    targets: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Said:
    """What the model said of each example: the class and its chance, where there is one, and an answer in words."""

    predictions: Tensor | None = None
    confidences: Tensor | None = None
    answers: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Meaning:
    """An output, and all that tells what its numbers stand for.

    Attributes:
        text: whose places the output has, if it has places.
        sides: of a question and its context, `(B, L)`: 1 where an answer may lie.
        independent: classes do not exclude each other.
    """

    head: Head
    output: Any
    size: int
    classes: Sequence[str] = ()
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    text: Text | None = None
    sides: Tensor | None = None
    independent: bool = False

    def pick(self, spec: Any) -> Pick:
        """The pick that a target means; of None, the prediction.

        Raises:
            TargetError: a class, token, place or field that there is not.
        """
        if isinstance(spec, Pick):
            return spec
        if isinstance(spec, Each):
            return Several(tuple(self.pick(one) for one in spec.targets))
        if spec is None:
            return self._guess()
        if isinstance(spec, Expression):
            return Sum(tuple((weight, self.pick(part)) for weight, part in spec.terms))
        if hasattr(spec, "__array__") and not callable(spec):
            values = torch.as_tensor(spec)
            spec = values.tolist() if values.numel() > 1 else int(values)
        if isinstance(spec, list | range):
            return self._listed(list(spec))
        if callable(spec):
            return Custom(spec)
        return self._difference(spec) or self._everywhere(spec, range(self.size))

    def _listed(self, specs: list[Any]) -> Pick:
        if len(specs) != self.size:
            raise TargetError(f"target is a list of {len(specs)} for {self.size} examples; a list has one entry per example")
        picks = [self._difference(one) or self._everywhere(one, [i]) for i, one in enumerate(specs)]
        plain = [p.index for p in picks if isinstance(p, Same)]
        return PerExample(tuple(plain)) if len(plain) == len(picks) and len(set(map(len, plain))) == 1 else Mixed(tuple(picks))

    def _difference(self, spec: Any) -> Pick | None:
        """`"a - b"`, unless that is a name itself."""
        if not isinstance(spec, str) or " - " not in spec or spec in self.classes:
            return None
        first, *rest = (part.strip() for part in spec.split(" - "))
        found = target(first)
        for other in rest:
            found = found - target(other)
        return self.pick(found)

    def _everywhere(self, spec: Any, examples: Sequence[int]) -> Pick:
        """One target of some examples, each at its own place."""
        name, rest = self._field(spec)
        scores = tensor_of(self.output) if name is None else fields_of(self.output)[name]
        if rest is None and scores.dim() == 1:
            return Field(str(name), Whole())
        indices = [self._best(name, scores, i) if rest is None else self._index(rest, scores, i) for i in examples]
        inner = Same(indices[0], self._named(indices[0], examples[0], name)) if len(set(indices)) == 1 else PerExample(tuple(indices))
        return inner if name is None else Field(name, inner)

    def _field(self, spec: Any) -> tuple[str | None, Any]:
        """The field that a target begins with, and the rest of it."""
        known = fields_of(self.output)
        if isinstance(spec, tuple) and len(spec) == 2 and isinstance(spec[1], str) and ENDS.get(spec[1], spec[1]) in known:
            spec = spec[::-1]  # (3, "start"): as it is said of other models
        first, rest = (spec[0], spec[1:]) if isinstance(spec, tuple) and spec else (spec, ())
        name = ENDS.get(first, first) if isinstance(first, str) and first not in self.classes else ""
        if isinstance(known.get(name), Tensor):
            return name, rest or None
        if scores_in(self.output) is None:
            tensor_of(self.output)  # says which fields there are
        return None, spec

    def _index(self, rest: Any, scores: Tensor, example: int) -> Index:
        parts = tuple(rest) if isinstance(rest, tuple) else (rest,)
        if scores.dim() == 3 and len(parts) == 1 and self.head.of_vocabulary:
            parts = (self._place_of(example), *parts)
        if scores.dim() == 3 and len(parts) == 1:
            raise TargetError(f"target {rest!r} says no token; give (token, class), the token by number or name: {self._places(example)}")
        if scores.dim() == 3 and len(parts) == 2 and parts[1] is None:
            place = self._place(parts[0], example)
            return place, int(scores[example, place].argmax())
        at_place = scores.dim() == 3 or self.head.at == "span"
        found = [self._place(part, example) if at_place and i == 0 else self._class(part) for i, part in enumerate(parts)]
        shape = scores.shape[1:]
        if len(found) != len(shape) or any(not -n <= i < n for i, n in zip(found, shape, strict=True)):
            raise TargetError(
                f"target {rest!r} is {tuple(found)}, and one example's output has the shape {tuple(shape)}; indices count from 0"
            )
        return tuple(found)

    def _place(self, part: Any, example: int) -> int:
        """The number of a token: counted from the end of its own text where it is negative, or by what it says."""
        if self.text is None or not self.text.tokens:
            return _whole(part)
        places = self.text.places(example)
        if isinstance(part, str):
            fitting = [p for p in places if plain(self.text.tokens[example][p] or "") == part]
            if len(fitting) != 1:
                raise TargetError(f"{part!r} is {len(fitting)} of the text's tokens; give its number: {self._places(example)}")
            return fitting[0]
        number = _whole(part)
        if number not in places and not -len(places) <= number < 0:
            raise TargetError(f"the text has {len(places)} tokens, none of the number {number}: {self._places(example)}")
        return places[number] if number < 0 else number

    def _places(self, example: int) -> str:
        tokens = self.text.tokens[example] if self.text is not None and self.text.tokens else ()
        shown = [f"{i} {token!r}" for i, token in enumerate(tokens) if token is not None]
        return ", ".join(shown[:40]) + (", ..." if len(shown) > 40 else "")

    def _class(self, part: Any) -> int:
        if isinstance(part, str) and part in self.classes:
            return list(self.classes).index(part)
        if isinstance(part, str) and self.head.of_vocabulary:
            return self.vocabulary.number(part)
        if isinstance(part, str) and not part.removeprefix("-").isdigit():
            known = ", ".join(map(repr, list(self.classes)[:20]))
            raise TargetError(
                f"target {part!r} is not a class; {f'the classes are {known}' if known else 'give classes=[...], or its number'}"
            )
        return _whole(part)

    def _place_of(self, example: int) -> int:
        """Where the score is, if nobody says: the only mask, or the last token."""
        if self.text is None or not self.text.tokens:
            return -1
        places = self.text.places(example)
        if self.head.at == "last":
            return places[-1]
        mask = self.vocabulary.special("mask")
        masked = [p for p in places if int(self.text.ids[example, p]) == mask]
        if len(masked) != 1:
            raise TargetError(f"the text has {len(masked)} mask tokens; say which: target=(token, class), {self._places(example)}")
        return masked[0]

    def _best(self, name: str | None, scores: Tensor, example: int) -> Index:
        """The prediction."""
        if self.head.at == "span" and name in self.head.fields:
            return (self._span(example)[self.head.fields.index(name)],)
        if scores.dim() == 3 and self.head.at == "token":
            return self._surest(scores, example)
        if scores.dim() == 3:
            place = self._place_of(example)
            return place, int(scores[example, place].argmax())
        return (int(scores[example].argmax()),)

    def _guess(self) -> Pick:
        if self.head.at == "span":
            return Sum(tuple((1.0, self._everywhere(name, range(self.size))) for name in self.head.fields))
        scores = tensor_of(self.output)
        if scores.dim() < 2 or scores[0].numel() == 1:
            return Whole()
        if scores.dim() > 3:
            raise TargetError(f"one example's output has the shape {tuple(scores.shape[1:])}; give a target: {scores.dim() - 1} indices")
        indices = [self._best(None, scores, i) for i in range(self.size)]
        return Same(indices[0], self._named(indices[0], 0)) if len(set(indices)) == 1 else PerExample(tuple(indices))

    def _surest(self, scores: Tensor, example: int) -> Index:
        """The token that the model is surest to be something, and what."""
        chances = scores[example].softmax(-1).clone()
        if "O" in self.classes:
            chances[:, list(self.classes).index("O")] = 0
        if self.text is not None and not bool(self.text.kept[example].all()):
            chances[self.text.kept[example]] = 0
        place, best = divmod(int(chances.argmax()), chances.shape[1])
        return place, best

    def _span(self, example: int) -> tuple[int, int]:
        """First and last token of the likeliest answer: of the words that an answer may hold, in order, and not too long."""
        start, end = (fields_of(self.output)[name][example].double() for name in self.head.fields)
        both = start[:, None] + end[None]
        allowed = torch.ones_like(both, dtype=torch.bool).triu().tril(LONGEST - 1)
        words = None if self.text is None else ~self.text.kept[example]
        if words is not None and self.sides is not None:
            words = words & (self.sides[example].to(words.device) == 1)
        if words is not None and bool(words.any()):
            allowed = allowed & words[:, None] & words[None]
        first, last = divmod(int(both.masked_fill(~allowed, -torch.inf).argmax()), len(end))
        return first, last

    def _named(self, index: Index, example: int, name: str | None = None) -> str:
        """An entry of the output in words."""
        tokens = self.text.tokens[example] if self.text is not None and self.text.tokens else ()
        here = f"'{plain(tokens[index[0]] or '')}'" if 0 <= index[0] < len(tokens) else ""
        if self.head.at == "span":
            return here
        if self.head.of_vocabulary and len(index) == 2:
            return repr(self.vocabulary.token(index[1])) if self.vocabulary.tokenizer is not None else ""
        label = self.classes[index[-1]] if 0 <= index[-1] < len(self.classes) else ""
        return f"{label} of {here}" if len(index) == 2 and here and label else label

    def said(self, pick: Pick) -> Said:
        """What the model says where the pick looks."""
        if self.head.at == "span":
            return self._answered()
        scores = scores_in(self.output)
        if scores is None or scores.dim() not in (2, 3) or len(scores) != self.size or scores.shape[-1] < 2:
            return Said()
        places = [self._seen(pick, i) for i in range(self.size)] if scores.dim() == 3 else []
        if None in places:
            return Said()
        rows = scores if scores.dim() == 2 else torch.stack([scores[i, place] for i, place in enumerate(places)])
        best = rows.argmax(1)
        chance = rows.sigmoid() if self.independent else rows if _is_distribution(rows) else rows.softmax(1)
        if scores.dim() == 2:
            return Said(best, chance.gather(1, best[:, None])[:, 0])
        answers = tuple(self._answer(place or 0, int(b), i) for i, (place, b) in enumerate(zip(places, best, strict=True)))
        return Said(best, chance.gather(1, best[:, None])[:, 0], answers)

    def _seen(self, pick: Pick, example: int) -> int | None:
        """The place that a pick looks at."""
        while isinstance(pick, Several | Sum | Mixed):
            pick = pick.picks[example if isinstance(pick, Mixed) else 0] if not isinstance(pick, Sum) else pick.terms[0][1]
        index = pick.index if isinstance(pick, Same) else pick.indices[example] if isinstance(pick, PerExample) else ()
        return index[0] if len(index) == 2 else None

    def _answer(self, place: int, best: int, example: int) -> str:
        if self.head.of_vocabulary:
            return repr(self.vocabulary.words([best]) or self.vocabulary.token(best))
        return self._named((place, best), example) or f"class {best}"

    def _answered(self) -> Said:
        spans = [self._span(i) for i in range(self.size)]
        start, end = (fields_of(self.output)[name].softmax(1) for name in self.head.fields)
        chances = torch.stack([start[i, first] * end[i, last] for i, (first, last) in enumerate(spans)])
        if self.text is None or not self.text.tokens:
            return Said(None, chances, tuple(f"tokens {first} to {last}" for first, last in spans))
        answers = (repr(self.vocabulary.words(self.text.ids[i, first : last + 1].tolist())) for i, (first, last) in enumerate(spans))
        return Said(None, chances, tuple(answers))


def plain(token: str) -> str:
    """A token without the marks of its tokenizer."""
    return token.lstrip("".join(SPACES)).removeprefix("##")


def _whole(part: Any) -> int:
    if isinstance(part, Integral) and not isinstance(part, bool):
        return int(part)
    if isinstance(part, str) and part.removeprefix("-").isdigit():
        return int(part)
    raise TargetError(f"target {part!r} is neither a number nor a name that is known; indices are whole numbers")


def _is_distribution(rows: Tensor) -> bool:
    return bool((rows >= 0).all()) and torch.allclose(rows.sum(1), torch.ones_like(rows[:, 0]), atol=1e-3)
