"""Sites: where the ids of a call enter a model, that is, which embeddings look them up; found by watching one pass."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import InputError, OptionError
from ..hooks import around
from ..model import layers_of
from .entries import Entries

__all__ = ["Site", "block_of", "chosen", "counted", "sites_in"]

ALMOST = 0.5
KINDS: Mapping[str, re.Pattern[str]] = {
    "position": re.compile(r"(^|[._])(pos|place|wpe|relative)", re.IGNORECASE),
    "type": re.compile(r"(^|[._])(token_?)?(type|segment)", re.IGNORECASE),
}


@dataclass(frozen=True, eq=False)
class Site:
    """One call of an embedding.

    Attributes:
        module, name, call: which embedding, and the number of its call.
        entry: the entry whose ids it looked up; "" for numbers that the model made itself.
        ids, output: what it received, and what it returned; examples first.
        rows: the number of examples.
        turned: the model has tokens first (XLNet).
    """

    module: nn.Embedding
    name: str
    call: int
    entry: str
    ids: Tensor
    output: Tensor
    rows: int
    turned: bool = False

    @property
    def kind(self) -> str:
        """What it embeds: "word", "position" or "type"."""
        return next((kind for kind, named in KINDS.items() if named.search(self.name) or named.search(self.entry)), "word")

    @property
    def feature(self) -> Tensor:
        """What it returned, examples first: `(B, ..., L, D)`; what all examples share, once for each."""
        return self.spread(self.output)

    def spread(self, output: Tensor) -> Tensor:
        """Vectors of the shape that it returned, examples first."""
        if len(output) == self.rows and output.dim() > 2:
            return output
        if output.dim() > 2 and len(output) % self.rows == 0:  # several texts for each example
            apart: Tensor = output.unflatten(0, (self.rows, -1))
            return apart
        return output.expand(self.rows, *output.shape[-2:])

    def back(self, feature: Tensor) -> Tensor:
        """Features of any number of rows as it would return them."""
        if self.turned:
            return feature.transpose(0, 1)
        return feature.flatten(0, 1) if feature.dim() > max(self.output.dim(), 3) else feature

    def embedded(self, ids: Tensor) -> Tensor:
        """The vectors of other ids, as it looks them up."""
        counts = type(self.module).forward is not nn.Embedding.forward and self.kind != "word"  # places for itself
        found: Tensor = F.embedding(ids, self.module.weight) if counts else self.module(ids)
        return found


def sites_in(roots: Sequence[nn.Module], entries: Entries, run: Callable[[], Any]) -> tuple[list[Site], Any]:
    """Every call of an embedding in one pass, each with the entry whose ids it received; and what the pass returned."""
    names = {module: name for root in roots for name, module in root.named_modules()}
    modules = [module for module in layers_of(tuple(roots)) if isinstance(module, nn.Embedding)]
    with _listening(modules) as seen:
        output = run()
    owners = _owners([ids for _, _, ids, _ in seen], entries.ids)
    looked_up = (entries.ids[name] for name in owners if name and not KINDS["position"].search(name))
    rows = next((len(tensor) for tensor in (*looked_up, *entries.numbers.values())), 1)
    each = zip(seen, owners, strict=True)
    return [_site(one, names[one[0]], owner, entries, rows) for one, owner in each], output


_Seen = tuple[nn.Embedding, int, Tensor, Tensor]


def _site(seen: _Seen, name: str, owner: str, entries: Entries, rows: int) -> Site:
    module, call, ids, found = seen
    if owner and _is_turned(ids, entries.ids[owner]):
        return Site(module, name, call, owner, ids.T, found.transpose(0, 1), rows, turned=True)
    return Site(module, name, call, owner, ids, found, rows)


@contextmanager
def _listening(modules: Sequence[nn.Embedding]) -> Iterator[list[_Seen]]:
    """Which embedding received which whole numbers, in which of its calls, and what it returned."""
    seen: list[_Seen] = []
    open_: dict[nn.Module, Tensor | None] = {}
    calls: Counter[nn.Module] = Counter()

    def before(module: nn.Module, given: Any) -> Any:
        tensors = (leaf for leaf in pytree.tree_leaves(given) if isinstance(leaf, Tensor) and not leaf.is_floating_point())
        open_[module] = next(tensors, None)
        return given

    def after(module: Any, output: Any) -> Any:
        ids = open_.pop(module, None)
        if ids is not None and isinstance(output, Tensor):
            seen.append((module, calls[module], ids, output.detach()))
        calls[module] += 1
        return output

    with around(modules, before, after):
        yield seen


def _owners(received: Sequence[Tensor], entries: Mapping[str, Tensor]) -> list[str]:
    """The entry that each of the received ids are: the same memory, else the same numbers, else most of them."""
    found = [""] * len(received)
    for same in (_is_turned, _same_memory, _same_numbers, _most_numbers):
        for i, ids in enumerate(received):
            free = [name for name in entries if same is not _most_numbers or name not in found]
            found[i] = found[i] or next((name for name in free if same(ids, entries[name])), "")
    return found


def _is_turned(ids: Tensor, entry: Tensor) -> bool:
    """Tokens first, examples last."""
    if entry.dim() != 2 or ids.shape != entry.shape[::-1] or (ids.shape == entry.shape and torch.equal(ids, entry.to(ids))):
        return False
    return torch.equal(ids, entry.T.to(ids))


def _same_memory(ids: Tensor, entry: Tensor) -> bool:
    return ids.numel() == entry.numel() > 0 and ids.data_ptr() == entry.data_ptr()


def _same_numbers(ids: Tensor, entry: Tensor) -> bool:
    return ids.numel() == entry.numel() and torch.equal(ids.flatten(), entry.flatten().to(ids))


def _most_numbers(ids: Tensor, entry: Tensor) -> bool:
    """Models put another number where a picture stands among words."""
    return ids.shape == entry.shape and float((ids == entry.to(ids)).float().mean()) > ALMOST


def chosen(sites: Sequence[Site], wanted: str | Sequence[str], entries: Entries) -> list[Site]:
    """The sites that are attributed: those of words, all, or those of entries or embeddings by name.

    Raises:
        InputError: ids reach no embedding. OptionError: a name of neither an entry nor an embedding.
    """
    words = [site for site in sites if site.entry and site.kind == "word"]
    if wanted in ("word", "sum"):
        return words
    if wanted == "all":
        shapes = {site.output.shape[-2:] for site in words}
        return [site for site in sites if site in words or site.output.shape[-2:] in shapes]
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    known = [*entries.values, *(site.name for site in sites)]
    for name in names:
        if name not in known:
            raise OptionError(f"embeddings names {name!r}; give 'word', 'all', 'sum', or some of {', '.join(dict.fromkeys(known))}")
        if name in entries.ids and not any(site.entry == name for site in sites):
            raise InputError(f"no embedding looks up {name}; the embeddings are {', '.join(site.name for site in sites) or 'none'}")
    own = [site for site in sites if site.entry in names or site.name in names]
    return own if any(site.name in names for site in own) else [s for s in own if s.kind == "word" or not _is_word(s.entry, sites)]


def _is_word(entry: str, sites: Sequence[Site]) -> bool:
    return any(site.entry == entry and site.kind == "word" for site in sites)


def counted(sites: Sequence[Site]) -> list[Site]:
    """Embeddings of places that the model counted itself, passing over padding, as those of RoBERTa's kind do.

    One more token of padding would move all words behind it to other places.
    """
    return [site for site in sites if site.kind == "position" and not site.entry and site.module.padding_idx is not None]


def block_of(roots: Sequence[nn.Module], sites: Sequence[Site]) -> str:
    """The name of the layer that puts the embeddings of the words together with all others.

    Raises:
        OptionError: they are put together outside of any layer.
    """
    words = [site for site in sites if site.entry and site.kind == "word"]
    if not words:
        raise OptionError("embeddings='sum' is what an embedding of words is added up to, and no ids reach one")
    parent = words[0].name.rpartition(".")[0]
    inside = [site for site in sites if site.name.startswith(f"{parent}.") and site.output.shape[-1] == words[0].output.shape[-1]]
    if parent and len(inside) > 1 and not any(isinstance(child, nn.ModuleList) for child in _named(roots, parent).children()):
        return parent
    if len(inside) <= 1:
        return words[0].name
    raise OptionError(f"{parent!r} adds its embeddings up itself; name the first layer behind them: layer=..., of_input=True")


def _named(roots: Sequence[nn.Module], name: str) -> nn.Module:
    modules: dict[str, nn.Module] = {known: module for root in roots for known, module in root.named_modules()}
    return modules[name]
