"""Generated tokens explained by what the model computes from the vectors of its tokens: gradients, paths, relevance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import OptionError
from ..explain import explain_each
from ..explanation import Check, Explanation
from ..hooks import around, watch
from ..inputs import accurate
from ..methods import DISTRIBUTIONS, WITHOUT_BASELINES
from ..model import undisturbed
from ..text.vocabulary import Vocabulary, configuration_of
from .answer import Answer
from .prompt import Prompt
from .reader import Reader, last_states, logits_of
from .units import owners

__all__ = ["BY_VECTORS", "OF_LOGITS", "Told", "by_vectors"]

# Methods that divide what the model computes go to logits, which add up to them; the others to log-probabilities.
OF_LOGITS = ("lrp", "attn_lrp")
BY_VECTORS = (
    "input_x_gradient", "integrated_gradients", "attn_lrp", "lrp", "deeplift", "gradient_shap", "gradient", "saliency",
    "smoothgrad", "smoothgrad_sq", "vargrad"
)  # fmt: skip
IDS = "input_ids"


@dataclass(frozen=True, eq=False)
class Told:
    """What was found: of the whole answer `(units,)`, and of each token `(T, units)` where tokens have some of their own.

    Attributes:
        earlier: `(1 + T, T)`, of the whole answer and of each token, what lies on tokens generated before; None: not known.
        fixed: `(1 + T,)`, what lies on tokens of the prompt that are no units.
        checks: what was checked.
        forwards, backwards, calls: what it cost.
        seed: of a random method.
    """

    sequence: Tensor
    matrix: Tensor | None
    checks: tuple[Check, ...]
    forwards: int = 0
    backwards: int = 0
    calls: int = 0
    seed: int | None = None
    earlier: Tensor | None = None
    fixed: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Scored:
    """A model as a function of ids that scores the answers: `(rows, T)`, or `(rows, 1)` for all tokens together.

    Attributes:
        answers: one, or two of which the second is what the first is compared with.
        scale: "logit", "log_prob" or "prob".
        whole: the tokens together, rather than each.
    """

    reader: Reader
    answers: tuple[Answer, ...]
    scale: str
    whole: bool

    def __call__(self, entries: Mapping[str, Tensor]) -> Tensor:
        found = [self._scores(answer, lead, entries) for answer, lead in zip(self.answers, ("", "against_"), strict=False)]
        together = [SCALES[self.scale](own.sum(1, keepdim=True) if self.whole else own) for own in found]
        return together[0] if len(together) == 1 else together[0] - together[1]

    def _scores(self, answer: Answer, lead: str, entries: Mapping[str, Tensor]) -> Tensor:
        """Logits or log-probabilities `(rows, T)` of the tokens of one answer."""
        logits = self._logits(lead, entries, len(answer.ids))
        labels = torch.tensor(answer.ids, device=logits.device).expand(len(logits), -1)
        picked = logits.gather(2, labels[:, :, None])[:, :, 0]
        return picked if self.scale == "logit" else picked - logits.logsumexp(2)

    def _logits(self, lead: str, entries: Mapping[str, Tensor], keep: int) -> Tensor:
        decodes, takes = self.reader.start is not None, self.reader.takes
        ids = entries[IDS if decodes else lead + IDS]
        given: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "use_cache": False}
        given |= {"decoder_input_ids": entries[f"{lead}decoder_{IDS}"]} if decodes else {"logits_to_keep": keep}
        given = {name: value for name, value in given.items() if name in takes}
        head = self.reader.head if not decodes and "logits_to_keep" not in takes else None
        context: Any = nullcontext()
        if head is not None:
            context = around([head], lambda _, call: last_states(call, ids.shape[1], keep), lambda _, output: output)
        # Attention in plain operations: several targets then go back together, as fused kernels cannot.
        with context, sdpa_kernel(SDPBackend.MATH):
            output = self.reader.model(**{IDS: ids}, **given) if IDS in takes else self.reader.model(ids, **given)
        return logits_of(output, len(ids), keep).to(self.reader.dtype)


def _called(scored: Scored, *roots: Any, **entries: Tensor) -> Tensor:
    """For `pellucid.explain`, which finds the modules among the arguments."""
    return scored(entries)


SCALES: Mapping[str, Callable[[Tensor], Tensor]] = {"logit": lambda x: x, "log_prob": lambda x: x, "prob": torch.exp}


@dataclass(frozen=True, eq=False)
class _Row:
    """One entry of the call: its ids, the unit of each token, and where answer tokens stand: which of them; the rest is -1."""

    ids: tuple[int, ...]
    units: tuple[int | None, ...]
    earlier: tuple[int, ...]


def by_vectors(
    reader: Reader, prompt: Prompt, answers: tuple[Answer, ...], method: str, scale: str, earlier: bool, settings: Mapping[str, Any]
) -> Told:
    """Attributions at the embeddings of the tokens, summed over their dimensions and over the tokens of each unit.

    Args:
        method: one of `BY_VECTORS`.
        earlier: whether generated tokens, too, are compared with a stand-in by methods that compare.
        settings: further arguments of `pellucid.explain`: seed, at_most, progress, and options of the method.

    Raises:
        OptionError: stand-ins that are not tokens. InputError: tokens that reach no embedding.
    """
    rows, checks = dict(_rows(reader, prompt, answers)), tuple[Check, ...]()
    entries = {name: torch.tensor([row.ids], device=reader.device) for name, row in rows.items()}
    entries |= {name.replace(IDS, "attention_mask"): torch.ones_like(ids) for name, ids in entries.items()}
    count = len(answers[0].ids)
    words, passes = _words(reader, lambda: Scored(reader, answers, scale, False)(entries))
    settings = {"embeddings": words, "tokenizer": prompt.tokenizer, **settings}
    if _compares(method, settings):
        blank = Vocabulary(prompt.tokenizer, configuration_of(reader.roots)).blank or (0, "token 0")
        settings["baselines"] = _baselines(reader, prompt, rows, blank[0], earlier, method)
        checks = (_reference(prompt, blank[1]),)

    def asked(whole: bool) -> list[Explanation]:
        scored = partial(_called, Scored(reader, answers, scale, whole), *reader.roots)
        return explain_each(scored, entries, list(range(1 if whole else count)), method, **settings)

    tokens = asked(False) if len(answers) == 1 else []
    adds_up = bool(tokens) and scale != "prob" and tokens[0].display.pooling == "sum" and method not in SIGNLESS
    wholes = [] if adds_up or (count == 1 and tokens) else asked(True)
    told = _told(prompt, rows, wholes, tokens, count)
    return replace(told, checks=(*checks, *told.checks), forwards=told.forwards + passes, calls=told.calls + passes)


OVER_NOISE = ("smoothgrad", "smoothgrad_sq", "vargrad")
SIGNLESS = ("saliency", "gradient", "smoothgrad_sq", "vargrad")


def _compares(method: str, settings: Mapping[str, Any]) -> bool:
    """Whether the method, or that which it averages, takes baselines."""
    return (settings.get("of", "gradient") if method in OVER_NOISE else method) not in WITHOUT_BASELINES


def _words(reader: Reader, run: Callable[[], Any]) -> tuple[list[str] | None, int]:
    """The embeddings of words that a pass uses, by name, where the model says which they are (None: found by what they receive); passes."""
    named = getattr(reader.model, "get_input_embeddings", None)
    own = named() if callable(named) else None
    if not isinstance(own, nn.Embedding):
        return None, 0
    every = {module: name for root in reader.roots for name, module in root.named_modules() if isinstance(module, nn.Embedding)}
    alike = [module for module in every if module.weight.shape == own.weight.shape]
    several = len(alike) > 1
    if several:  # an encoder's, a decoder's, and one that both were made from
        with undisturbed(reader.roots), torch.no_grad(), watch(alike) as seen:
            run()
        alike = [module for module, calls in zip(alike, seen, strict=True) if calls]
    return [every[module] for module in alike], int(several)


def _reference(prompt: Prompt, blank: str) -> Check:
    """What units are compared with."""
    held = [slot.forms[1:] for slot in prompt.slots if slot.unit is not None]
    words = "their stand-ins" if any(form for forms in held for form in forms) else f"{blank!r} in place of each token"
    return Check("reference", True, f"units are compared with {words}; all other tokens stay as they are")


def _rows(reader: Reader, prompt: Prompt, answers: Sequence[Answer]) -> Iterator[tuple[str, _Row]]:
    ids, units = owners(prompt)
    own = tuple(units)
    if reader.start is not None:
        yield IDS, _Row(ids, own, (-1,) * len(ids))
    for answer, lead in zip(answers, ("", "against_"), strict=False):
        given = answer.ids[:-1]
        places = tuple(range(len(given))) if not lead else (-1,) * len(given)
        if reader.start is not None:
            yield f"{lead}decoder_{IDS}", _Row((reader.start, *given), (None,) * (1 + len(given)), (-1, *places))
        else:
            yield lead + IDS, _Row((*ids, *given), (*own, *(None,) * len(given)), (*(-1,) * len(ids), *places))


def _baselines(reader: Reader, prompt: Prompt, rows: Mapping[str, _Row], number: int, earlier: bool, method: str) -> dict[str, Tensor]:
    """For each entry the ids that its own are compared with: those of units are replaced, all others stay."""
    ways = [_stand_ins(prompt, way, number) for way in range(1, 1 + prompt.stand_ins)]
    if len(ways) > 1 and method not in DISTRIBUTIONS:
        raise OptionError(f"{method} compares with one stand-in, and there are {len(ways)}; give one, or use gradient_shap")

    def replaced(row: _Row, way: Sequence[int]) -> list[int]:
        later = [number if earlier and place >= 0 else own for own, place in zip(row.ids, row.earlier, strict=True)]
        return [way[i] if unit is not None else later[i] for i, unit in enumerate(row.units)]

    return {name: torch.tensor([replaced(row, way) for way in ways], device=reader.device) for name, row in rows.items()}


def _stand_ins(prompt: Prompt, way: int, blank: int) -> list[int]:
    """For each token of the prompt what stands in for it: a token of the stand-in, or the blank one where that is removed."""
    ids, units = owners(prompt)
    (other,) = prompt.rows([tuple(way if own else 0 for own in (True,) * prompt.size)])
    if len(other) == len(ids):
        return list(other)
    if any(slot.forms[min(way, len(slot.forms) - 1)] for slot in prompt.slots if slot.unit is not None):
        raise OptionError(
            "a stand-in has another number of tokens than what it stands for, and vectors stand for vectors; give a token's id"
        )
    return [own if unit is None else blank for own, unit in zip(ids, units, strict=True)]


def _told(prompt: Prompt, rows: Mapping[str, _Row], wholes: list[Explanation], tokens: list[Explanation], count: int) -> Told:
    found = torch.stack([_divided(each, prompt.size, rows, count) for each in (*wholes, *tokens)])
    found = found if wholes else torch.cat([found.sum(0, keepdim=True), found])
    own, later, fixed = found.split([prompt.size, count, 1], 1)
    costs = [each[0].cost for each in (wholes, tokens) if each]
    return Told(
        own[0],
        own[1:] if tokens else None,
        tuple(_merged([*tokens, *wholes], len(tokens))),
        sum(cost.forwards for cost in costs),
        sum(cost.backwards for cost in costs),
        sum(cost.calls for cost in costs),
        seed=(tokens or wholes)[0].provenance.seed,
        earlier=later,
        fixed=fixed[:, 0],
    )


def _divided(one: Explanation, units: int, rows: Mapping[str, _Row], count: int) -> Tensor:
    """Attributions of one target: of each unit, of each token of the answer that was read, and of all other tokens `(units + T + 1,)`."""
    squares, first = one.display.pooling == "norm", one.attributions[0]
    values = first.new_zeros(units + count + 1, dtype=accurate(first.dtype))
    for display, found in zip(one.display.parts or (one.display,), one.attributions, strict=True):
        row = rows[display.title or next(iter(rows))]
        places = [own if own is not None else units + (at if at >= 0 else count) for own, at in zip(row.units, row.earlier, strict=True)]
        numbers = found[0].to(values)
        values.index_add_(0, torch.tensor(places, device=values.device), (numbers.square() if squares else numbers).sum(1))
    return values.sqrt() if squares else values


OWN = ("target", "conservation", "reference")


def _merged(found: Sequence[Explanation], tokens: int) -> Iterator[Check]:
    """The checks of all targets: of each kind the one that came out worst."""
    for name in dict.fromkeys(check.name for one in found for check in one.health if check.name not in OWN):
        own = [(i, check) for i, one in enumerate(found) for check in one.health if check.name == name]
        i, worst = max(own, key=lambda pair: (not pair[1].passed, abs(pair[1].value or 0.0)))
        where = f"token {i + 1}: " if len(found) > 1 and i < tokens and len({check.message for _, check in own}) > 1 else ""
        yield replace(worst, message=where + worst.message)
    kept = [check.value for one in found for check in one.health if check.name == "conservation" and check.value is not None]
    if kept:
        low, high = min(kept), max(kept)
        words = (
            f"the relevances add up to {low:.3g} of the score"
            if low == high
            else f"the relevances of a token add up to {low:.3g} to {high:.3g} of its score"
        )
        yield Check(
            "conservation",
            True,
            f"{words}; biases, stabilisers and softmax took (or gave) the rest",
            max(kept, key=lambda k: abs(math.log(max(k, 1e-9)))),
        )
