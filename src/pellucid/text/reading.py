"""A reading: named inputs and texts as `explain` takes them further: a model of vectors, references, targets, and what to draw."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..attention import ON_A_PATH
from ..batch import Run
from ..errors import InputError
from ..explanation import Check, Display, Found, Pooling
from ..inputs import Tensors
from ..methods import ATTENTIONS, DISTRIBUTIONS, EVERY, MAPS, WITHOUT_BASELINES, WITHOUT_GRADIENT
from ..model import modules_of, undisturbed
from ..output import fields_of, scores_in
from ..picks import Whole
from ..question import Question
from ..view import InputView, at_input
from .entries import Entries, entries_of, places_in
from .heads import head_of
from .meaning import Meaning, Said
from .model import Read, holding, keeping
from .parts import Part, check_sizes, masks_of, name_of, of_ids, of_numbers, of_sites, reads_last
from .references import HIDDEN, per_part
from .sites import Site, block_of, chosen, counted, sites_in
from .tokens import Text, misplaced, text_of, unmasked
from .vocabulary import Vocabulary, configuration_of, labels_of

__all__ = ["STATED", "Reading", "read"]

ADD_UP = ("shapley", "owen")
STATED = Check("target", True, "explained: {}")
ELSEWHERE = (
    "the model's score is read at the last token that is not padding: where padding stands in for the last word, it is read elsewhere; "
    "give another: baselines=..."
)
GUESSED = Check("target", True, "no target was given, so the prediction is explained: {}", guessed=True)


@dataclass(frozen=True, eq=False)
class Reading:
    """What was asked, in terms of tensors.

    Attributes:
        asked: the question, its model a function of the parts, its target a pick.
        options: those of the method.
        roots: the modules that run.
        parts: what is attributed.
        output, said: what the model returned for the inputs, and what that says.
        checks: what was noticed.
        guessed: the target is the prediction.
        replaced: the parts themselves are replaced.
        apart: tokens are taken away one by one.
    """

    asked: Question
    options: dict[str, Any]
    roots: tuple[nn.Module, ...]
    parts: tuple[Part, ...]
    output: Any
    said: Said
    checks: tuple[Check, ...]
    guessed: bool
    replaced: bool
    apart: bool

    @property
    def view(self) -> InputView:
        """The score as a function of the parts."""
        asked = self.asked
        found = at_input(asked.model, asked.inputs, asked.target, asked.args, asked.kwargs, asked.classes)
        return replace(found, roots=self.roots)

    @property
    def chosen(self) -> Check:
        """How the target was found."""
        return GUESSED if self.guessed else STATED

    @property
    def predicted(self) -> tuple[Tensor | None, Tensor | None]:
        """Class and probability of each example, where the model has classes."""
        return self.said.predictions, self.said.confidences

    def told(self, found: Found, method: str) -> Found:
        """What was found; nothing of it for tokens that stayed, which have no part in the change."""
        if not self.replaced:
            return found
        live = [part.live for part in self.parts]
        values, errors = (_only(tensors, live) for tensors in (found.values, found.errors))
        # Each group is one token: they add up.
        told = {"law": "completeness" if method in ADD_UP else "", "pooling": "sum"} if self.apart else {}
        return replace(found, values=values, errors=errors, **told)  # type: ignore[arg-type]

    def display(self, features: Tensors, pooling: Pooling, at_layer: bool, picture: Any = None) -> Display:
        """How to draw what was attributed."""
        text = next((part.text for part in self.parts if part.text is not None), None)
        own = [_shown(part.feature, part.text, part.name) for part in self.parts]
        if at_layer:
            own = [_shown(f, text if text is not None and f.shape[1:2] == text.ids.shape[1:2] else None, "") for f in features]
        own = [replace(one, picture=picture if one.kind == "image" else None, pooling=pooling) for one in own]
        whole = own[0] if len(own) == 1 else Display("several", parts=tuple(own), pooling=pooling)
        return replace(whole, kind=self.asked.kind or whole.kind, classes=tuple(self.asked.classes), answers=self.said.answers)


def _only(tensors: Tensors | None, live: Sequence[Tensor | None]) -> Tensors | None:
    return None if tensors is None else tuple(t if own is None else t * own for t, own in zip(tensors, live, strict=True))


def _shown(feature: Tensor, text: Text | None, name: str) -> Display:
    if text is not None and text.tokens:
        first = tuple(token or "" for token in text.tokens[0])
        return Display("text", first, title=name, tokens=text.tokens, special=text.special)
    kinds: dict[int, Any] = {2: "table", 3: "series"}
    image = feature.dim() == 4 and feature.shape[1] in (1, 3)
    return Display("image" if image else kinds.get(feature.dim(), "tensor"), title=name)


@dataclass(frozen=True, eq=False)
class _Watched:
    """One pass of the model with what was given, and what was seen."""

    roots: tuple[nn.Module, ...]
    entries: Entries
    vocabulary: Vocabulary
    behind: tuple[Any, ...]
    further: dict[str, Any]
    sites: list[Site]
    output: Any
    texts: dict[str, Text]


def read(asked: Question, method: str, options: dict[str, Any], run: Run) -> Reading:
    """Run the model once, and find where its inputs enter, what they say, and what the target means.

    Args:
        asked: the question (`pellucid.explain`), its inputs by name, or texts.

    Raises:
        InputError, OptionError, TargetError, OutputError: see `pellucid.explain`.
    """
    seen = _watch(asked, run)
    by_ids = _by_ids(asked, method)
    own = chosen(seen.sites, asked.embeddings or "word", seen.entries)
    parts = _parts(asked, own, seen, method, by_ids)
    own = [] if by_ids else own
    meaning = _meaning(asked, seen, len(parts[0].feature))
    pick = Whole() if asked.neuron is not None else meaning.pick(asked.target)
    replaced = by_ids and (asked.layer is None or asked.neuron is not None)
    mask = _mask(method, options, parts) if replaced else {}
    single = options.get("feature_mask", "tokens") == "tokens" and all(part.live is not None for part in parts)
    return Reading(
        replace(_tensors(asked, own, parts, seen), target=pick, classes=meaning.classes),
        options | mask,
        seen.roots,
        tuple(parts),
        seen.output,
        Said() if asked.neuron is not None else meaning.said(pick),
        tuple(_checks(parts, seen, method)),
        asked.target is None and not isinstance(pick, Whole),
        replaced,
        bool(mask) and single,
    )


def _tensors(asked: Question, own: Sequence[Site], parts: Sequence[Part], seen: _Watched) -> Question:
    """The question about the parts, which a model of them gets before everything else."""
    entries = seen.entries
    steady = counted(seen.sites) if any(part.live is not None for part in parts) else []
    model = Read(asked.model, own, [part.name for part in parts[len(own) :]], entries.places, _masked(parts, entries), steady)
    named = {name: value for name, value in entries.values.items() if name not in entries.places and name not in model.direct}
    kept = keeping(own, [part.text.kept if part.stand.keeps and part.text else None for part in parts[: len(own)]])
    return replace(
        asked,
        model=model,
        inputs=tuple(part.feature for part in parts),
        args=(*(entries.values[name] for name in entries.places), *seen.behind),
        kwargs=named | seen.further | kept | holding(steady),
        baselines=tuple(part.stand.value for part in parts),
        layer=_layer(asked, seen, own),
    )


def _by_ids(asked: Question, method: str) -> bool:
    """Whether ids themselves are replaced: where no gradient is needed, or only at a layer behind them."""
    if asked.layer is None or asked.neuron is not None:
        return method in WITHOUT_GRADIENT
    given = asked.baselines
    vectors = given == "zeros" if isinstance(given, str) else isinstance(given, float | tuple | Mapping | Tensor)
    return method not in DISTRIBUTIONS and method not in MAPS and not vectors


def _layer(asked: Question, seen: _Watched, own: Sequence[Site]) -> Any:
    """The layer that is explained; none where that is what an embedding returns, and is explained so already."""
    if asked.layer is None and asked.embeddings == "sum" and own:
        block = block_of(seen.roots, seen.sites)
        return None if block in [site.name for site in own] else block
    if asked.neuron is None and not asked.of_input and any(asked.layer in (site.name, site.module) for site in own):
        return None
    return asked.layer


def _watch(asked: Question, run: Run) -> _Watched:
    tokenizer = getattr(asked.tokenizer, "tokenizer", asked.tokenizer)  # a processor has one
    roots = modules_of(asked.model)
    inputs, further = (asked.kwargs, {}) if asked.inputs is None else (asked.inputs, dict(asked.kwargs or {}))
    entries = entries_of(inputs, tokenizer, roots)
    vocabulary = Vocabulary(tokenizer, configuration_of(roots))
    behind = asked.args if isinstance(asked.args, tuple) else () if asked.args is None else (asked.args,)
    _check_length(entries, roots)

    def forward() -> Any:
        values = {name: v.clone() if isinstance(v, Tensor) and v.is_floating_point() else v for name, v in entries.values.items()}
        by_place = [values.pop(name) for name in entries.places]
        return asked.model(*by_place, *behind, **values, **further)

    with undisturbed(roots), torch.no_grad():
        sites, output = sites_in(roots, entries, forward)
    run.calls, run.forwards = run.calls + 1, run.forwards + max((site.rows for site in sites), default=1)
    names = dict.fromkeys(site.entry for site in sites if site.entry and site.kind == "word" and entries.values[site.entry].dim() == 2)
    given = [asked.names if i == 0 else () for i in range(len(names))]
    texts = {name: text_of(entries, name, vocabulary, own) for name, own in zip(names, given, strict=True)}
    return _Watched(roots, entries, vocabulary, behind, further, sites, output, texts)


def _check_length(entries: Entries, roots: Sequence[nn.Module]) -> None:
    """Refuse a text for which the model has too few places; it would say that an index is out of range."""
    places = places_in(roots)
    ids = entries.values.get("input_ids")
    if places is not None and isinstance(ids, Tensor) and ids.shape[-1] > places:
        raise InputError(f"the text has {ids.shape[-1]} tokens, and the model reads {places}: truncation=True, max_length={places}")


def _parts(asked: Question, own: Sequence[Site], seen: _Watched, method: str, replaces: bool) -> list[Part]:
    entries, wanted = seen.entries, asked.embeddings or "word"
    size = own[0].rows if own else None
    by_name = isinstance(wanted, str) and wanted in ("word", "all", "sum")
    listed = [wanted] if isinstance(wanted, str) else list(wanted)
    numbers = [n for n, t in entries.numbers.items() if (len(t) == (size or len(t)) if by_name else n in listed)]
    ids = list(dict.fromkeys(site.entry for site in own if site.entry))
    if not own and not numbers:
        raise InputError(_nothing(entries, seen.sites))
    words = ids if replaces else [name_of(site) for site in own if site.kind == "word"]
    names = [*(ids if replaces else map(name_of, own)), *numbers]
    given = per_part(asked.baselines, names, words)
    count = len(ids if replaces else own)
    parts = (
        of_ids(ids, given[:count], entries, seen.texts, seen.vocabulary)
        if replaces
        else of_sites(own, given[:count], seen.texts, seen.vocabulary, method in DISTRIBUTIONS)
    ) + of_numbers(numbers, given[count:], entries)
    check_sizes(parts)
    return parts


def _nothing(entries: Entries, sites: Sequence[Site]) -> str:
    """Why nothing can be attributed."""
    for name, ids in entries.ids.items():
        padded = next((s.ids.shape[-1] for s in sites if _begins_with(s.ids, ids)), None)
        if padded is not None:
            way = f'padding="max_length", max_length={padded}'
            return f"the model pads {name} from {ids.shape[-1]} to {padded} tokens itself; give as many: tokenizer(..., {way})"
    return (
        f"none of {', '.join(entries.values)} can be attributed: no embedding looks up ids, none is of real numbers; embeddings "
        f"that ran are {', '.join(site.name for site in sites) or 'none'}; explain a layer: layer=..., or give inputs_embeds"
    )


def _begins_with(longer: Tensor, ids: Tensor) -> bool:
    few = ids.shape[-1]
    return longer.dim() == ids.dim() and longer.shape[-1] > few > 0 and torch.equal(longer[..., :few], ids.to(longer))


def _masked(parts: Sequence[Part], entries: Entries) -> dict[str, str]:
    """For ids of which some are to be hidden, the entry that hides them."""
    hidden = [p.name for p in parts if p.live is not None and isinstance(p.stand.value, Tensor) and bool((p.stand.value == HIDDEN).any())]
    return {name: entries.mask_of(name)[0] for name in hidden}


def _mask(method: str, options: dict[str, Any], parts: Sequence[Part]) -> dict[str, Any]:
    """Which features are taken away together, where the method can be told and the user has not said."""
    given = options.get("feature_mask")
    if "feature_mask" not in inspect.signature(EVERY[method]).parameters or not (given is None or isinstance(given, str)):
        return {}
    return {"feature_mask": masks_of(parts, given or "tokens")}


def _meaning(asked: Question, seen: _Watched, size: int) -> Meaning:
    scores, config = scores_in(seen.output), seen.vocabulary.config
    head = head_of(seen.roots, seen.output, getattr(config, "vocab_size", None))
    places = scores.shape[1] if scores is not None and scores.dim() == 3 else None
    if head.at == "span":
        places = fields_of(seen.output)[head.fields[0]].shape[1]
    fitting = [text for text in seen.texts.values() if text.ids.shape[1] == places]
    text = next((t for t in fitting if t.name.startswith("decoder")), fitting[0] if fitting else None)
    sides = seen.entries.sides
    if sides is None and "token_type_ids" in seen.entries.values:
        sides = seen.entries.values["token_type_ids"]
    sides = sides if text is not None and sides is not None and bool((sides == 1).any()) and sides.shape == text.ids.shape else None
    classes = tuple(asked.classes) or (() if head.of_vocabulary else labels_of(seen.roots))
    if not asked.classes and scores is not None and scores.shape[-1] != len(classes):
        classes = ()
    independent = getattr(config, "problem_type", None) == "multi_label_classification"
    return Meaning(head, seen.output, size, classes, seen.vocabulary, text, sides, independent)


def _checks(parts: Sequence[Part], seen: _Watched, method: str) -> Iterator[Check]:
    compares = method not in WITHOUT_BASELINES and method not in MAPS and (method not in ATTENTIONS or method in ON_A_PATH)
    for part in parts:
        if compares and part.stand.said:
            kept = "; special tokens stay" if part.stays else ""
            yield Check("reference", True, f"{part.name} is compared with {part.stand.said}{kept}")
        if part.live is not None and part.text is not None and reads_last(seen.roots, part, seen.vocabulary.special("pad")):
            yield Check("reference", False, ELSEWHERE)
    for text in seen.texts.values():
        for found in (unmasked(seen.entries, text, seen.vocabulary), misplaced(text, seen.sites)):
            if found is not None:
                yield found
