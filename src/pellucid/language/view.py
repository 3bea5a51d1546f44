"""The view of an answer as a function of which units of the prompt are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, OptionError
from ..inputs import Tensors
from ..view import View
from .answer import Answer, answer_of, generated
from .likelihood import Likelihood
from .prefix import Spent
from .prompt import Prompt
from .reader import Reader

__all__ = ["TARGETS", "PromptView", "at_prompt", "check_length"]

REMEMBERED = 2**14  # rows


@dataclass(eq=False)
class Asked:
    """A prompt, answers to it, and what is known already of how likely they are.

    Attributes:
        start: what is read where nothing of a prompt is left; None: nothing can be.
    """

    prompt: Prompt
    answers: tuple[Answer, ...]
    likelihood: Likelihood
    start: int | None = None
    remembered: dict[tuple[int, ...], Tensor] = field(default_factory=dict)
    state: tuple[Any, ...] = ()

    def rows(self, choices: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """What the model reads of the prompt.

        Raises:
            InputError: nothing, and there is no token to begin with.
        """
        found = self.prompt.rows(choices)
        if self.start is None and not all(found):
            raise InputError(
                "without its units nothing is left of the prompt, and the model must read a token before an answer; give a stand_in, or a "
                "tokenizer with a token that begins or ends a text"
            )
        return [row or (self.start or 0,) for row in found]

    def log_probabilities(self, choices: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """`(rows, T)` for each answer; what is known of a model that was changed since is forgotten."""
        if (state := self.likelihood.reader.state()) != self.state:
            self.remembered, self.state = {}, state
        new = [own for own in dict.fromkeys(choices) if own not in self.remembered]
        found = {own: self.remembered[own] for own in choices if own in self.remembered}
        if new:
            rows = self.rows(new)
            table = self.likelihood([(row, answer.ids) for row in rows for answer in self.answers])
            found |= zip(new, table.unflatten(0, (len(new), -1)), strict=True)
            self._remember({own: found[own] for own in new[:REMEMBERED]})
        whole = torch.stack([found[own] for own in choices])
        return [whole[:, i, : len(answer.ids)] for i, answer in enumerate(self.answers)]

    def _remember(self, found: dict[tuple[int, ...], Tensor]) -> None:
        for old in list(self.remembered)[: max(0, len(self.remembered) + len(found) - REMEMBERED)]:
            del self.remembered[old]
        self.remembered |= found


def _tokens(found: Tensor) -> Tensor:
    return found


def _sequence(found: Tensor) -> Tensor:
    return found.sum(1, keepdim=True)


def _both(found: Tensor) -> Tensor:
    return torch.cat([_sequence(found), found], 1)


# What is explained of log-probabilities `(rows, T)`, `(rows, targets)`.
TARGETS: dict[str, Callable[[Tensor], Tensor]] = {"tokens": _tokens, "sequence": _sequence, "both": _both}
SCALES: dict[str, Callable[[Tensor], Tensor]] = {"log_prob": _tokens, "prob": torch.exp}


WAY_OUT = "it has no gradient; use feature_ablation, shapley, lime, banzhaf or owen, or explain the embeddings"


def _no_gradient(points: Tensors) -> Tensors:
    raise OptionError(f"a unit is there or not: {WAY_OUT}")


@dataclass(frozen=True, eq=False)
class PromptView(View):
    """Which units of a prompt are there as features, how likely the answer is as score.

    A feature is 1 where the unit is as given, 0 where its stand-in is (-1, -2, ...: where further ones are).

    Attributes:
        asked: the prompt and the answers.
        target, scale: keys of `TARGETS` and `SCALES`.
        picked: the only one of the targets that counts; None: all.
    """

    features: Tensors
    asked: Asked
    target: str = "tokens"
    scale: str = "log_prob"
    picked: int | None = None
    roots: tuple[nn.Module, ...] = ()
    at_once: bool | None = True
    own_gradient: Callable[[Tensors], Tensors] | None = _no_gradient

    def score(self, points: Tensors) -> Tensor:
        """`(targets, rows)`. Two answers: how much more likely the first is.

        Raises:
            InputError: features that are none.
        """
        (values,) = points
        found = self.asked.log_probabilities(self.choices(values))
        scored = [SCALES[self.scale](TARGETS[self.target](own)) for own in found]
        scores = (scored[0] - scored[1] if len(scored) > 1 else scored[0]).T.to(values.device)
        return scores if self.picked is None else scores[self.picked : self.picked + 1]

    def choices(self, values: Tensor) -> list[tuple[int, ...]]:
        """The number of each unit's form, for features `(rows, units)`."""
        numbers = 1 - values.detach().double().cpu()
        most = self.asked.prompt.stand_ins
        if bad := values.detach().cpu()[(numbers != numbers.round()) | (numbers < 0) | (numbers > most)].tolist():
            lowest = "0" if most == 1 else f"{1 - most} to 0"
            raise InputError(f"a unit is 1 (there) or {lowest} (replaced), not {bad[0]:g}: {WAY_OUT}")
        return [tuple(row) for row in numbers.long().tolist()]

    def some(self, rows: Sequence[int]) -> PromptView:
        return replace(self, features=(self.features[0][list(rows)],))

    def moved(self, points: Tensors) -> PromptView:
        return replace(self, features=points)

    def readings(self) -> Iterator[PromptView]:
        yield self

    def targets(self) -> Sequence[View]:
        """The view of each target by itself; what one has found out the others know."""
        return (self,) if self.picked is not None else [replace(self, picked=i) for i in range(len(self.names))]

    @property
    def baselines(self) -> Tensors:
        """All units replaced: `(1, units)`, or `(R, 1, units)` where there are R stand-ins."""
        (whole,), count = self.features, self.asked.prompt.stand_ins
        if count == 1:
            return (torch.zeros_like(whole),)
        return (torch.stack([torch.full_like(whole, -i) for i in range(count)]),)

    @property
    def names(self) -> tuple[str, ...]:
        """What the targets are, in words."""
        answer = self.asked.answers[0]
        whole = " rather than ".join(repr(own.text) for own in self.asked.answers)
        found = {"tokens": answer.labels, "sequence": (whole,), "both": (whole, *answer.labels)}[self.target]
        return found if self.picked is None else (found[self.picked],)

    @property
    def labels(self) -> tuple[str, ...]:
        """What the units say."""
        return self.asked.prompt.labels

    @property
    def spent(self) -> Spent:
        """Calls and tokens so far: less than rows times their lengths, where beginnings were shared."""
        return self.asked.likelihood.spent


def at_prompt(
    model: Callable[..., Any],
    prompt: Prompt,
    answer: str | Tensor | Sequence[int] | None = None,
    against: str | Tensor | Sequence[int] | None = None,
    target: str | None = None,
    scale: str = "log_prob",
    shared: bool = True,
    options: Mapping[str, Any] | None = None,
    seed: int | None = None,
    at_most: int | None = None,
    progress: bool | None = None,
) -> PromptView:
    """The view of how likely an answer is, as a function of the units of the prompt that are there.

    Args:
        model: see `log_likelihood`.
        prompt: see `text_prompt`, `template_prompt`, `chat_prompt`, `token_prompt`.
        answer: a text, token ids, or None: what the model generates.
        against: another answer: the score is then how much more likely `answer` is, log p(answer) - log p(against).
        target: "tokens" (a score for each of the T tokens, given those before it), "sequence" (one, of all together), "both" (that
            one first); by default "tokens", and "sequence" where there are two answers.
        scale: "log_prob", or "prob" for probabilities.
        shared: whether what prompts begin with alike may be read once.
        options: arguments of `model.generate`, where the answer is generated; None: the likeliest 25 tokens.
        seed: of an answer that is sampled.
        at_most: rows per call of the model; None: by memory.
        progress: show a progress bar; None: only when the work takes longer than two seconds.

    Raises:
        OptionError: an unknown target or scale, or two answers token by token.
        InputError: more tokens than the model reads, an answer without any, a prompt of which nothing may be left.

    >>> from pellucid.language import token_prompt
    >>> from pellucid.perturb import feature_ablation
    >>> view = at_prompt(torch.nn.Embedding(9, 9), token_prompt([3, 4, 5], stand_in=0), [6, 7])
    >>> feature_ablation(view, view.baselines).values[0].shape
    torch.Size([2, 1, 3])
    """
    target = target or ("tokens" if against is None else "sequence")
    for given, known, what in ((target, TARGETS, "target"), (scale, SCALES, "scale")):
        if given not in known:
            raise OptionError(f"{what} is {given!r}; choose one of {', '.join(map(repr, known))}")
    if against is not None and target != "sequence":
        raise OptionError(f"target is {target!r} and there are two answers, whose tokens have no partners; choose 'sequence'")
    reader, start = Reader.of(model), _start(model, prompt.tokenizer)
    asked = Asked(prompt, (), Likelihood(reader, shared, at_most, progress=progress), start)
    given_row = asked.rows([(0,) * prompt.size])[0]
    check_length(reader, given_row, 1)
    own = generated(model, given_row, prompt.tokenizer, options, seed) if answer is None else answer_of(answer, prompt.tokenizer)
    asked.answers = (own,) if against is None else (own, answer_of(against, prompt.tokenizer))
    for choices in range(prompt.stand_ins + 1):
        check_length(reader, asked.rows([(choices,) * prompt.size])[0], max(len(a.ids) for a in asked.answers))
    return PromptView((torch.ones(1, prompt.size, dtype=reader.dtype, device=reader.device),), asked, target, scale, None, reader.roots)


def _start(model: Any, tokenizer: Any) -> int | None:
    """A token that begins a text, or else one that ends it."""
    for source in (tokenizer, getattr(model, "generation_config", None), getattr(model, "config", None)):
        for name in ("bos_token_id", "eos_token_id"):
            found = getattr(source, name, None)
            if isinstance(found, int):
                return found
    return None


def check_length(reader: Reader, row: Sequence[int], answer: int) -> None:
    """Refuse a prompt and an answer that are together more than the model reads.

    Raises:
        InputError: they are.
    """
    if reader.longest is not None and len(row) + answer - 1 > reader.longest:
        raise InputError(
            f"the prompt has {len(row)} tokens and the answer {answer}, and the model reads {reader.longest} at most; shorten one of them"
        )
