"""How likely a model finds given answers after given prompts: teacher-forced log-probabilities of every token of the answers."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..memory import is_out, release
from ..model import undisturbed
from ..progress import Bar
from .prefix import Kept, Spent, Walk, batches, kept_of, padded, told
from .reader import Reader
from .trie import Plan, Row, planned

__all__ = ["Likelihood", "log_likelihood"]

# What a call costs beside its tokens, in tokens: small models on a CPU were measured; a GPU reads hundreds in the time it takes to start.
CALL = {"cpu": 32.0, "cuda": 256.0}
ROWS = 2048  # that are planned together
WIDTH = 2**22  # tokens that are planned together

Request = tuple[Sequence[int], Sequence[int]]  # a prompt, an answer


def log_likelihood(
    model: Callable[..., Any],
    prompts: Tensor | Sequence[Sequence[int]],
    answers: Tensor | Sequence[int] | Sequence[Sequence[int]],
    shared: bool = True,
    at_most: int | None = None,
) -> Tensor:
    """The log-probability of each token of an answer, given the prompt and the answer's tokens before it: `(prompts, T)`.

    `log p(answer | prompt)` is the sum over T. Law: a row is what it is alone, one token at a time, without a cache.
    What prompts begin with alike is read once where that pays; only positions that are asked about reach the output layer;
    the softmax is taken in float32 (float64 for a model in it).

    Args:
        model: a causal language model, one with encoder and decoder (T5), or any callable that maps token ids `(rows, L)` to
            logits `(rows, L, vocabulary)`, as a tensor, first in a tuple, or as `.logits`.
        prompts: token ids; they may have different lengths. A causal model sees no padding: it lies behind what is asked.
        answers: token ids of one answer to all prompts, or of one for each; shorter ones are filled up with zeros.
        shared: whether keys and values of common beginnings may be shared.
        at_most: rows per call; None: by memory.

    Raises:
        InputError: no tokens, or more than the model reads. OutputError: the model does not return logits.

    >>> tied = torch.nn.Embedding(5, 5)
    >>> log_likelihood(tied, [[1, 2], [3]], [4, 0]).shape
    torch.Size([2, 2])
    """
    prompts = prompts.tolist() if isinstance(prompts, Tensor) else prompts
    answers = answers.tolist() if isinstance(answers, Tensor) else answers
    several = len(answers) > 0 and not isinstance(answers[0], int)
    own: Sequence[Any] = answers if several else [answers] * len(prompts)
    if len(own) != len(prompts):
        raise InputError(f"{len(own)} answers for {len(prompts)} prompts; give one for all, or one for each")
    likelihood = Likelihood(Reader.of(model), shared, at_most)
    with undisturbed(likelihood.reader.roots):
        return likelihood(list(zip(prompts, own, strict=True)))


@dataclass(eq=False)
class Likelihood:
    """A model that is asked many times about prompts that resemble each other: the first is kept, and what others begin with as it does.

    Attributes:
        shared: whether beginnings are shared; found out to be False where the model's cache cannot be, or where a shared beginning
            does not give what reading it all gives.
        at_most: rows per call.
        spent: what it has cost so far.
        kept: the first row, whose keys and values are known.
        proof: a row and its log-probabilities, to be found again from a shared beginning; None: that was done.
        progress: show a progress bar; None: only when the work takes longer than two seconds.
        state: of the model, for which something is kept.
        causal: it was seen that the model reads no answer before it is asked for it.
    """

    reader: Reader
    shared: bool = True
    at_most: int | None = None
    spent: Spent = field(default_factory=Spent)
    kept: Kept | None = None
    proof: tuple[Row, Tensor] | None = None
    progress: bool | None = None
    state: tuple[Any, ...] = ()
    causal: bool = False

    def __call__(self, requests: Sequence[Request]) -> Tensor:
        """The log-probabilities `(requests, T)`; 0 behind the end of a shorter answer.

        Raises:
            InputError, OutputError: see `log_likelihood`.
        """
        rows, where = _rows(requests)
        self._check(rows)
        if (state := self.reader.state()) != self.state:
            self.kept, self.proof, self.state = None, None, state
        self.spent.plain += sum(len(row.tokens) for row in rows)
        block = max(1, min(ROWS, WIDTH // max(len(row.tokens) for row in rows)))
        with Bar(len(rows), "reading", self.progress) as bar:
            found = [value for start in range(0, len(rows), block) for value in self._block(rows[start : start + block], bar)]
        table = found[0].new_zeros(len(requests), max(row.asked for row in rows))
        for value, (row, answer) in zip(table, where, strict=True):
            value[: rows[row].asked] = found[row][answer]
        return table

    def _check(self, rows: Sequence[Row]) -> None:
        longest, most = max(len(row.tokens) for row in rows), self.reader.longest
        if most is not None and longest > most:
            raise InputError(
                f"a prompt and its answer have {longest + 1} tokens, and the model reads {most} at most; shorten the prompt or the answer"
            )

    def _block(self, rows: Sequence[Row], bar: Bar) -> list[Tensor]:
        """Rows that are planned together, in smaller calls if memory ends."""
        try:
            return self._found(rows, bar)
        except (RuntimeError, MemoryError) as error:
            most = self._most(rows)
            if not is_out(error) or most == 1:
                raise
            self.at_most = most // 2
        release()
        return self._block(rows, bar)

    def _found(self, rows: Sequence[Row], bar: Bar) -> list[Tensor]:
        if self.reader.start is not None:
            return self._decoded(rows, bar)
        first = [self._first(rows[0])] if self.shared and self.kept is None else []
        bar.update(len(first))
        if first and self.kept is None and not self.causal and self.reader.configured:
            self._check_causal(rows)
        return first + self._walked(rows[len(first) :], bar)

    def _first(self, row: Row) -> Tensor:
        """The first row of all is read whole, and kept if it can be."""
        ids = torch.tensor([row.tokens], device=self.reader.device)
        self.spent.count(ids)
        heard = self.reader.read(ids, torch.ones_like(ids), row.asked, cache=True)
        self.kept = None if self.reader.stretches else kept_of(row.tokens, heard.cache)
        self.shared = self.kept is not None
        value = told(heard.logits, [len(row.tokens)], [row], self.reader.dtype)[0]
        self.proof = (row, value)
        return value

    def _check_causal(self, rows: Sequence[Row]) -> None:
        """Refuse a model that reads an answer before it is asked for it, as one for masked words does.

        Asked of models that keep nothing of what they read, where they are to share it.
        """
        row = next((row for row in rows if row.asked > 1), None)
        if row is None:
            return
        other = next(token for token in (*row.tokens, 0, 1) if token != row.tokens[-1])
        ids = torch.tensor([row.tokens, row.tokens, (*row.tokens[:-1], other)], device=self.reader.device)
        self.spent.count(ids)
        one, again, changed = self.reader.read(ids, torch.ones_like(ids), row.asked).logits[:, :-1].to(self.reader.dtype)
        close = partial(torch.allclose, rtol=self.reader.rounding, atol=self.reader.rounding)
        self.causal = not close(one, again) or close(one, changed)  # what is never twice the same draws, by dropout perhaps
        if not self.causal:
            raise InputError(
                f"what {type(self.reader.model).__name__} says of a token changes with the tokens behind it, so it reads the answer that "
                "it is asked for; give a causal model (...ForCausalLM; of BERT's kind with is_decoder=True), or one with a decoder"
            )

    def _walked(self, rows: Sequence[Row], bar: Bar) -> list[Tensor]:
        """Rows of a causal model, in any order."""
        if not rows:
            return []
        order = sorted(range(len(rows)), key=[row.tokens for row in rows].__getitem__)
        found = self._in_order([rows[i] for i in order], bar)
        return [value for _, value in sorted(zip(order, found, strict=True), key=lambda pair: pair[0])]

    def _in_order(self, rows: list[Row], bar: Bar) -> list[Tensor]:
        walk = Walk(self.reader, self.kept, self._most(rows), self._call, self.spent, bar)
        plan = self._plan(rows)
        if plan is None or self.proof is None:
            return walk.found(rows, plan)
        row, value = self.proof
        place = bisect.bisect([own.tokens for own in rows], row.tokens)
        more = [*rows[:place], row, *rows[place:]]
        again = self._plan(more)
        if again is None or again.leaving(place, again.cuts[1]):  # it shares nothing: another one has to be the proof
            more, again, place = rows, plan, next(i for i in range(len(rows)) if not plan.leaving(i, plan.cuts[1]))
            (value,) = walk.found(rows[place : place + 1], None)
        found = walk.found(more, again)
        bar.update(-1)  # for the proof
        self.proof = None
        if not torch.allclose(found[place], value, rtol=self.reader.rounding, atol=self.reader.rounding):
            self.shared, self.kept = False, None
            bar.update(-len(rows))
            return walk.found(rows, None)
        return found if more is rows else [*found[:place], *found[place + 1 :]]

    @property
    def _call(self) -> float:
        """What a call costs beside its tokens, in tokens; nothing where rows must not be padded."""
        return 0.0 if self.reader.stretches else CALL.get(self.reader.device.type, CALL["cuda"])

    def _plan(self, rows: Sequence[Row]) -> Plan | None:
        """How beginnings are shared, if that pays."""
        if self.kept is None:
            return None
        plan = planned(rows, self.kept.tokens, self._call, self._most(rows))
        return plan if len(plan.cuts) > 1 else None

    def _most(self, rows: Sequence[Row]) -> int:
        """Rows per call."""
        longest, asked = max(len(row.tokens) for row in rows), max(row.asked for row in rows)
        each = self.reader.bytes_of(longest, asked) + (2 * longest * self.kept.bytes_per_token if self.kept is not None else 0)
        return max(1, min(self.at_most or len(rows), self.reader.room // each))

    def _decoded(self, rows: Sequence[Row], bar: Bar) -> list[Tensor]:
        """Rows of a model with encoder and decoder."""
        found: dict[int, Tensor] = {}
        for batch in batches(range(len(rows)), [len(row.prompt) for row in rows], self._most(rows), self._call):
            own = [rows[i] for i in batch]
            ids, mask = padded([row.prompt for row in own], self.reader.device)
            decoded, _ = padded([(self.reader.start or 0, *row.answers[0][:-1]) for row in own], self.reader.device)
            self.spent.count(ids)
            self.spent.tokens += decoded.numel()
            values = told(self.reader.answer(ids, mask, decoded), [row.asked for row in own], own, self.reader.dtype)
            bar.update(len(batch))
            found |= {i: value[: len(row.answers), : row.asked] for i, row, value in zip(batch, own, values, strict=True)}
        return [found[i] for i in range(len(rows))]


def _rows(requests: Sequence[Request]) -> tuple[list[Row], list[tuple[int, int]]]:
    """The distinct passes that requests need, and for each request its pass, and which of its answers.

    Raises:
        InputError: a prompt or an answer without tokens.
    """
    passes: dict[tuple[Any, Any], dict[tuple[int, ...], int]] = {}
    where = []
    for given, asked in requests:
        prompt, answer = tuple(given), tuple(asked)
        if not prompt or not answer:
            what = "an answer" if prompt else "a prompt"
            raise InputError(f"{what} has no tokens; give at least one (of a prompt: one that nothing stands in for)")
        answers = passes.setdefault((prompt, answer[:-1]), {})
        where.append(((prompt, answer[:-1]), answers.setdefault(answer, len(answers))))
    number = {key: i for i, key in enumerate(passes)}
    rows = [Row(prompt, tuple(answers)) for (prompt, _), answers in passes.items()]
    return rows, [(number[key], answer) for key, answer in where]
