"""Parts: what is attributed of one call, each with what stands in for it, and what of it is taken away together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, OptionError
from ..perturb import words_of
from .entries import Entries
from .references import Stand, ids_for, stand_for
from .sites import Site
from .tokens import Text
from .vocabulary import Vocabulary

__all__ = ["Part", "masks_of", "of_ids", "of_numbers", "of_sites", "reads_last"]

PATCHES = 8  # squares of a picture, along each side


@dataclass(frozen=True, eq=False)
class Part:
    """One thing that is attributed.

    Attributes:
        name: of its entry, or of its embedding.
        feature: `(B, ...)`.
        stand: what stands in for it.
        text: whose tokens it has.
        live: of ids, `(B, L)`, where another token stands in.
    """

    name: str
    feature: Tensor
    stand: Stand
    text: Text | None = None
    live: Tensor | None = None

    @property
    def stays(self) -> bool:
        """Whether there are special tokens, and they are compared with themselves."""
        if self.text is None or not bool(self.text.kept.any()):
            return False
        value, kept = self.stand.value, self.text.kept
        if not isinstance(value, Tensor) or self.stand.keeps or value.dim() != self.feature.dim():
            return self.stand.keeps
        return bool((value.expand_as(self.feature)[kept] == self.feature[kept]).all())


def of_sites(sites: Sequence[Site], given: Sequence[Any], texts: dict[str, Text], vocabulary: Vocabulary, spread: bool) -> list[Part]:
    """What embeddings return, one part for each."""
    found = []
    main = next(iter(texts.values()), None)
    for site, own in zip(sites, given, strict=True):
        text = texts.get(site.entry, main if main is not None and main.ids.shape[1:] == site.feature.shape[1:-1] else None)
        stand = stand_for(own, site, texts.get(site.entry), vocabulary, spread)
        found.append(Part(name_of(site), site.feature, stand, text))
    return found


def name_of(site: Site) -> str:
    """What the part of a site is called: the entry of words, else the embedding."""
    return site.entry if site.entry and site.kind == "word" else site.name


def of_ids(names: Sequence[str], given: Sequence[Any], entries: Entries, texts: dict[str, Text], vocabulary: Vocabulary) -> list[Part]:
    """Ids themselves."""
    found = []
    for name, own in zip(names, given, strict=True):
        ids, text = entries.values[name], texts.get(name)
        stand = Stand(torch.zeros_like(ids), "number 0") if text is None and own is None else _ids(own, name, text, vocabulary)
        value = stand.value(ids) if callable(stand.value) else stand.value
        live = (value != ids) if value.dim() <= ids.dim() else (value != ids).any(0)
        found.append(Part(name, ids, stand, text, live.expand_as(ids)))
    return found


def _ids(own: Any, name: str, text: Text | None, vocabulary: Vocabulary) -> Stand:
    if text is None:
        raise OptionError(f"baselines for {name} cannot be given to methods that replace ids; leave them out")
    return ids_for(own, text, vocabulary)


def of_numbers(names: Sequence[str], given: Sequence[Any], entries: Entries) -> list[Part]:
    """Entries of real numbers: pixels, vectors."""
    stands = (
        Stand(None, "zeros") if own is None or (isinstance(own, str) and own == "zeros") else Stand(own, "what was given") for own in given
    )
    return [Part(name, entries.values[name], stand) for name, stand in zip(names, stands, strict=True)]


def masks_of(parts: Sequence[Part], by: str) -> tuple[Tensor, ...]:
    """Groups for methods that take features away: each token, or each word of tokens; squares of pictures; other numbers alone.

    Tokens that stay go with the first that does not: nothing is asked about them.

    Raises:
        OptionError: neither tokens nor words.
    """
    if by not in ("tokens", "words"):
        raise OptionError(f"feature_mask is {by!r}; give 'tokens', 'words', or a tensor of ids")
    found: list[Tensor] = []
    free = 0
    for part in parts:
        ids = _numbered(part, by)
        found.append(ids + free)
        free += int(ids.max()) + 1
    return tuple(found)


def _numbered(part: Part, by: str) -> Tensor:
    feature = part.feature
    if part.live is not None and feature.dim() == 2:
        return torch.stack([_of_text(part, i, by) for i in range(len(feature))]).to(feature.device)
    if feature.dim() == 4:
        down, across = (torch.arange(n) // max(1, n // PATCHES) for n in feature.shape[2:])
        return (down[:, None] * (int(across.max()) + 1) + across)[None, None].to(feature.device)
    if feature.dim() == 3:  # a place and its numbers
        return torch.arange(feature.shape[1], device=feature.device)[None, :, None]
    return torch.arange(feature[0].numel(), device=feature.device).view(1, *feature.shape[1:])


def _of_text(part: Part, example: int, by: str) -> Tensor:
    """The group of each token of an example, from 0 without gaps."""
    live = (part.live if part.live is not None else torch.ones_like(part.feature, dtype=torch.bool))[example].cpu()
    if not live.any():
        return torch.zeros(len(live), dtype=torch.long)
    own = torch.arange(len(live))
    if by == "words" and part.text is not None and part.text.tokens:
        own = words_of([token or "" for token in part.text.tokens[example]])[0]
    known = own[live].unique()
    return torch.where(live, torch.searchsorted(known, own.clamp(known[0], known[-1])), 0)


def reads_last(roots: Sequence[nn.Module], part: Part, pad: int | None) -> bool:
    """Whether padding stands in for a text's last token, of a model that reads its score at the last token that is not padding.

    In transformers these are the sequence classifiers of causal models, whose last layer is called `score`.
    """
    value, ids = part.stand.value, part.feature
    if pad is None or not isinstance(value, Tensor) or value.shape != ids.shape:
        return False
    named = any(type(root).__name__.endswith("ForSequenceClassification") and hasattr(root, "score") for root in roots)
    real = torch.ones_like(ids) if part.text is None else part.text.real.long()
    last = real.cumsum(1).argmax(1)
    replaced = (value == pad) & (ids != pad)
    return named and bool(replaced.gather(1, last[:, None]).any())


def check_sizes(parts: Sequence[Part]) -> None:
    """Refuse parts of different numbers of examples.

    Raises:
        InputError: there are.
    """
    sizes = {part.name: len(part.feature) for part in parts}
    if len(set(sizes.values())) > 1:
        raise InputError(f"the inputs have different numbers of examples: {sizes}; say which are attributed: embeddings=[...]")
