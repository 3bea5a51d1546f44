"""A word-level vocabulary: what a word is, which words are known, and their numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["LONGEST", "PADDING", "UNKNOWN", "ids", "numbered", "padded", "split", "vocabulary"]

PADDING, UNKNOWN = 0, 1
LONGEST = 64

_WORD = re.compile(r"[a-z_]+(?:'[a-z]+)?|[0-9]+")


def split(text: str) -> list[str]:
    """The words of a text in lower case; numbers are words, punctuation is not."""
    return _WORD.findall(text.lower())


def vocabulary(texts: Iterable[str], at_least: int = 3) -> tuple[str, ...]:
    """The words that occur `at_least` times, sorted."""
    counts = Counter(word for text in texts for word in split(text))
    return tuple(sorted(word for word, count in counts.items() if count >= at_least))


def numbered(known: Sequence[str]) -> Mapping[str, int]:
    """The number of each known word; padding and the unknown word have the first two."""
    return {word: number for number, word in enumerate(known, start=2)}


def ids(text: str, numbers: Mapping[str, int]) -> list[int]:
    """The numbers of a text's words, `UNKNOWN` for a word that has none."""
    return [numbers.get(word, UNKNOWN) for word in split(text)]


def padded(rows: Iterable[Sequence[int]]) -> Tensor:
    """Rows of different lengths as one tensor `(N, longest)`, filled up with `PADDING`."""
    tensors = [torch.tensor(row) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=PADDING)
