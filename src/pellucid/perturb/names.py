"""Groups by name: the tokens of a word or a sentence, the columns of a category; as masks of ids for `feature_mask`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..errors import InputError

__all__ = ["columns_of", "sentences_of", "words_of"]

Token = str | int | None
STARTS = ("\u2581", "\u0120")  # how SentencePiece and byte-level tokenizers mark the first token of a word
CONTINUES = "##"  # how WordPiece marks any other
ENDS = (".", "!", "?", "\n")


def words_of(tokens: Sequence[Token] | Sequence[Sequence[Token]]) -> Tensor:
    """The word of every token, `(B, L)`: one group for each word.

    Args:
        tokens: of one text or of several of one length: the tokens themselves (`##` goes on with a word; where some tokens
            start with \u2581 or \u0120, those without go on), or a tokenizer's word numbers (Hugging Face's `word_ids`; None, a
            special token, is a group by itself).

    For embeddings `(B, L, D)` give `words_of(tokens)[..., None]`.

    Raises:
        InputError: no tokens, or texts of different lengths.

    >>> words_of(["[CLS]", "un", "##believ", "##able", "!"]).tolist()
    [[0, 1, 1, 1, 2]]
    >>> words_of([None, 0, 0, 1, None]).tolist()
    [[0, 1, 1, 2, 3]]
    """
    return _ids(tokens, lambda text: [not _goes_on(text, i) for i in range(len(text))])


def sentences_of(tokens: Sequence[str] | Sequence[Sequence[str]]) -> Tensor:
    """The sentence of every token, `(B, L)`: a new one begins behind `.`, `!`, `?` or a line's end.

    >>> sentences_of(["It", "rains", ".", "We", "stay", "!"]).tolist()
    [[0, 0, 0, 1, 1, 1]]
    """
    return _ids(tokens, lambda text: [i > 0 and _ends(text[i - 1]) and not _ends(text[i]) for i in range(len(text))])


def columns_of(names: Sequence[str] | Mapping[str, int], separator: str = "=") -> Tensor:
    """The category of every column, `(1, F)`: the columns of a one-hot block are one group.

    Args:
        names: the columns' names, `job=clerk` beside `job=smith`; or how many columns each has, `{"age": 1, "job": 3}`.
        separator: what follows the category in a name.

    Raises:
        InputError: no columns, or a category without any.

    >>> columns_of(["age", "job=clerk", "job=smith", "height"]).tolist()
    [[0, 1, 1, 2]]
    >>> columns_of({"age": 1, "job": 3}).tolist()
    [[0, 1, 1, 1]]
    """
    if isinstance(names, Mapping):
        if any(width < 1 for width in names.values()):
            raise InputError(f"widths are {dict(names)}; every category has at least one column")
        names = [name for name, width in names.items() for _ in range(width)]
    if not names:
        raise InputError("there are no columns; give their names, or how many each category has")
    categories = [name.split(separator)[0] if separator else name for name in names]
    known = {category: number for number, category in enumerate(dict.fromkeys(categories))}
    return torch.tensor([[known[category] for category in categories]])


def _ends(token: Token) -> bool:
    return str(token).endswith(ENDS)


def _goes_on(text: Sequence[Token], at: int) -> bool:
    """Whether the token belongs to the word of the one before."""
    token = text[at]
    if at == 0 or token is None:
        return False
    if isinstance(token, int):
        return token == text[at - 1]
    if any(str(t).startswith(STARTS) for t in text):
        return not token.startswith(STARTS)
    return token.startswith(CONTINUES)


def _ids(tokens: Sequence[Token] | Sequence[Sequence[Token]], begins: Callable[[Sequence[Token]], list[bool]]) -> Tensor:
    several = len(tokens) > 0 and not isinstance(tokens[0], str | int | None)
    texts: list[Sequence[Token]] = list(tokens) if several else [tokens]  # type: ignore[arg-type, list-item]
    lengths = sorted({len(text) for text in texts})
    if len(lengths) != 1 or not lengths[0]:
        raise InputError(
            f"texts of {', '.join(map(str, lengths)) or 'no'} tokens; give at least one token, and as many for each (pad them)"
        )
    rows = [list(itertools.accumulate(map(int, begins(text)))) for text in texts]
    found = torch.tensor(rows)
    return found - found[:, :1]
