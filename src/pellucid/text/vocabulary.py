"""A vocabulary: what a model's token ids are called, which of them are special, and which stands for nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import TargetError

__all__ = ["GOES_ON", "Vocabulary", "configuration_of", "joined", "labels_of"]

KINDS = ("pad", "mask", "unk", "eos", "bos", "cls", "sep")
SPACES = ("\u0120", "\u2581")  # how byte-level and SentencePiece tokenizers write the space before a word
GOES_ON = "##"
END = "</w>"  # how some others write the end of one


def configuration_of(roots: Sequence[nn.Module]) -> Any:
    """The configuration that a model carries, as those of transformers do; of several parts, that which reads text."""
    config = next((found for root in roots if hasattr(found := getattr(root, "config", None), "to_dict")), None)
    text = getattr(config, "get_text_config", None)
    return text() if callable(text) else config


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """What is known of tokens: all of it from a tokenizer, the special ids from a configuration alone."""

    tokenizer: Any = None
    config: Any = None

    def special(self, kind: str) -> int | None:
        """The id of the token of a kind: pad, mask, unk, eos, bos, cls, sep."""
        for known in (self.tokenizer, self.config):
            found = getattr(known, f"{kind}_token_id", None)
            if isinstance(found, list | tuple):
                found = found[0] if found else None
            if found is not None:
                return int(found)
        return None

    @property
    def blank(self) -> tuple[int, str] | None:
        """The id that stands for no word, and what it is called: padding, else the unknown word, else the end of a text."""
        for kind in ("pad", "unk", "eos"):
            found = self.special(kind)
            if found is not None:
                return found, self.token(found)
        return None

    @property
    def marks(self) -> frozenset[int]:
        """Ids of tokens that are no part of the text ([CLS], </s>, a mask); an unknown word is one."""
        named = {kind: self.special(kind) for kind in KINDS}
        others = {found for kind, found in named.items() if kind != "unk" and found is not None}
        listed = {int(i) for i in getattr(self.tokenizer, "all_special_ids", ())}
        return frozenset(others | (listed - {named["unk"]}))

    def token(self, number: int) -> str:
        """One token as the tokenizer writes it."""
        return self.tokens([number])[0]

    def tokens(self, numbers: Sequence[int]) -> tuple[str, ...]:
        """Tokens as the tokenizer writes them; by their numbers where there is none."""
        if self.tokenizer is None:
            return tuple(f"#{number}" for number in numbers)
        named = self.tokenizer.convert_ids_to_tokens(list(numbers))
        # Ids that a model keeps free have no name.
        found = [token if token is not None else f"#{number}" for number, token in zip(numbers, named, strict=True)]
        return _spaced(found, [number in self.marks for number in numbers]) if any(t.endswith(END) for t in found) else tuple(found)

    def words(self, numbers: Sequence[int]) -> str:
        """A run of tokens as people read it."""
        if self.tokenizer is None:
            return " ".join(self.tokens(numbers))
        return str(self.tokenizer.decode(list(numbers))).strip()

    def numbers(self, text: str, marked: bool = False) -> list[int]:
        """The ids of a text, with or without special tokens.

        Raises:
            TargetError: there is no tokenizer.
        """
        if self.tokenizer is None:
            raise TargetError(f"{text!r} is a word, and no tokenizer is known; give tokenizer=, or the token's id")
        return [int(i) for i in self.tokenizer(text, add_special_tokens=marked)["input_ids"]]

    def number(self, word: str) -> int:
        """The id of a token, named as the tokenizer writes it or as a person does.

        Where words begin with a mark, a plain word is looked for with it first: that is how it follows another.

        Raises:
            TargetError: it is no single token, or no tokenizer is known.
        """
        known = self._known(word)
        if known is not None and (word[:1] in SPACES or word.startswith(GOES_ON) or known in self.marks):
            return known
        spaced = [found for mark in SPACES if (found := self._known(mark + word)) is not None]
        if spaced or known is not None:
            return spaced[0] if spaced else int(known or 0)
        pieces = self.numbers(word)
        if len(pieces) != 1 or pieces[0] == self.special("unk"):
            said = f"{len(pieces)} tokens ({' '.join(self.tokens(pieces))})" if len(pieces) != 1 else "not in the vocabulary"
            raise TargetError(f"{word!r} is {said}; a place holds one token: give one of them, or an id")
        return pieces[0]

    def _known(self, word: str) -> int | None:
        if self.tokenizer is None:
            return None
        found = self.tokenizer.convert_tokens_to_ids(word)
        return int(found) if found is not None and (found != self.special("unk") or self.token(int(found)) == word) else None


def joined(tokens: Sequence[str], words: Sequence[int | None]) -> tuple[str, ...]:
    """With a mark where a word goes on, of a tokenizer that marks neither where words begin nor that they go on."""
    if any(token.startswith((*SPACES, GOES_ON)) for token in tokens):
        return tuple(tokens)
    goes_on = [i > 0 and word is not None and word == words[i - 1] for i, word in enumerate(words)]
    return tuple(f"{GOES_ON if on else ''}{token.removesuffix(END)}" for token, on in zip(tokens, goes_on, strict=True))


def _spaced(tokens: Sequence[str], special: Sequence[bool]) -> tuple[str, ...]:
    """With the mark where words begin, of a tokenizer that marks where they end."""
    begins = [i == 0 or special[i - 1] or tokens[i - 1].endswith(END) for i in range(len(tokens))]
    each = zip(tokens, begins, special, strict=True)
    return tuple(f"{SPACES[1] if first and not own else ''}{token.removesuffix(END)}" for token, first, own in each)


def labels_of(roots: Sequence[nn.Module]) -> tuple[str, ...]:
    """The classes' names that a model carries in its configuration, in their order; none where it has none.

    Models of other purposes have names in their configuration too, by which nobody meant anything.
    """
    for root in roots:
        labels = getattr(getattr(root, "config", None), "id2label", None)
        if isinstance(labels, Mapping) and labels and all(isinstance(i, int) for i in labels):
            given = any(label != f"LABEL_{i}" for i, label in labels.items())
            return tuple(str(labels[i]) for i in sorted(labels)) if given or type(root).__name__.endswith("Classification") else ()
    return ()
