"""Heads: what the output of each kind of model says, and at which place of a text it says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from ..output import fields_of, scores_in

__all__ = ["HEADS", "Head", "head_of"]


@dataclass(frozen=True)
class Head:
    """What an output says.

    Attributes:
        task: in words.
        at: what has scores of its own: the whole "example"; each "token"; the token behind a "mask", or the one that comes "last"
            and next, among all that the vocabulary has; both ends of a "span" of the text.
        fields: where the scores are, if not in the usual place.
    """

    task: str
    at: Literal["example", "token", "mask", "last", "span"] = "example"
    fields: tuple[str, ...] = ()

    @property
    def of_vocabulary(self) -> bool:
        """Whether the classes are the tokens of a vocabulary."""
        return self.at in ("mask", "last")


CLASSES, TOKENS = Head("classification"), Head("scores of every token", "token")
NEXT = Head("the next token", "last")
# By the end of the model's name, as transformers has them.
HEADS: Mapping[str, Head] = {
    "ForSequenceClassification": Head("sequence classification"),
    "ForImageClassification": Head("image classification"),
    "ForTokenClassification": Head("token classification", "token"),
    "ForQuestionAnswering": Head("question answering", "span", ("start_logits", "end_logits")),
    "ForMaskedLM": Head("masked language model", "mask"),
    "ForCausalLM": Head("causal language model", "last"),
    "LMHeadModel": Head("causal language model", "last"),
    "ForConditionalGeneration": Head("sequence to sequence", "last"),
}


def head_of(roots: Sequence[nn.Module], output: Any, vocabulary: int | None = None) -> Head:
    """What the output says: by the model's name where the output is as that promises, else by its shape.

    Args:
        vocabulary: how many tokens the model knows.
    """
    scores = scores_in(output)
    for root in roots:
        for ending, head in HEADS.items():
            if type(root).__name__.endswith(ending) and _fits(head, output, scores):
                return head
    if scores is None or scores.dim() != 3:
        return CLASSES
    return NEXT if scores.shape[2] == vocabulary else TOKENS


def _fits(head: Head, output: Any, scores: Tensor | None) -> bool:
    if head.fields:
        return all(field in fields_of(output) for field in head.fields)
    return scores is not None and scores.dim() == (2 if head.at == "example" else 3)
