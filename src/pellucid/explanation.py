"""An explanation: what a method found, what was checked about it, what it cost, and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import FileError
from .gallery import Gallery
from .inputs import joined
from .task import Kind

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Check", "Cost", "Display", "Explanation", "Found", "Pooling", "Provenance"]

Pooling = Literal["sum", "norm", "mean"]
FORMAT = "pellucid-explanation-1"


@dataclass(frozen=True, eq=False)
class Found:
    """What a method found, before anyone judges it; `T` targets, `B` examples.

    Attributes:
        values: `(T, B, ...)` per feature tensor (`(T, 1, ...)` of a model with one score for the whole batch).
        scores: `(T, B)`, the score of the features.
        baseline_scores: `(T, B)`, the score that the law compares with: of the baselines, or their mean.
        law: the name of what the values should add up to; empty where the method has no such law.
        spread: `(T, B)`, of a random method: the relative standard deviation that another seed would bring, estimated
            from the two halves of the samples.
        notes: further numbers worth telling (steps used, estimated error), `(T, ...)` each.
        pooling: how the numbers of one thing (the colours of a pixel, the embedding of a token) become one where a person
            looks: the "sum" of parts of the score, the "norm" of a gradient, the "mean" of a number that a group shares.
        checks: what the method itself noticed.
        errors: standard errors of the values, of their shapes, where the method knows them.
    """

    values: tuple[Tensor, ...]
    scores: Tensor
    baseline_scores: Tensor | None = None
    baselines: tuple[Tensor, ...] | None = None
    law: str = ""
    spread: Tensor | None = None
    seed: int | None = None
    notes: Mapping[str, Tensor] = field(default_factory=dict)
    pooling: Pooling = "sum"
    checks: tuple[Check, ...] = ()
    errors: tuple[Tensor, ...] | None = None

    def of_target(self, index: int) -> Found:
        """What was found for one of several targets; the dimension of targets stays, with length one."""
        one = slice(index, index + 1)
        cut = {name: value[one] for name in ("scores", "baseline_scores", "spread") if (value := getattr(self, name)) is not None}
        errors = None if self.errors is None else tuple(e[one] for e in self.errors)
        return replace(
            self, values=tuple(v[one] for v in self.values), errors=errors, notes={n: v[one] for n, v in self.notes.items()}, **cut
        )

    @property
    def gap(self) -> Tensor | None:
        """`(T, B)`: how far the values are from their law; None without a law."""
        return self.difference if self.law and self.baseline_scores is not None else None

    @property
    def difference(self) -> Tensor:
        """`(T, B)`: the sum of the values less the change of the score from the baselines (Captum's convergence delta)."""
        total = joined(self.values, 2).sum(2)
        change = self.scores.to(total) - (0 if self.baseline_scores is None else self.baseline_scores.to(total))
        return (total.sum(1, keepdim=True) if change.shape[1] == 1 else total) - change


@dataclass(frozen=True)
class Check:
    """One thing that was checked: its name, whether it came out well, a sentence, and the number behind it.

    `guessed` marks what was chosen for the user; `strict` refuses it.
    """

    name: str
    passed: bool
    message: str
    value: float | None = None
    guessed: bool = False


@dataclass(frozen=True)
class Cost:
    """What the answer cost.

    Attributes:
        forwards: examples sent forward through the model (a batch of 8 counts 8).
        backwards: examples sent backward.
        calls: calls of the model.
        seconds: wall-clock time.
        peak_memory: bytes by which the peak rose: allocated on the GPU, resident on the CPU.
        tuned: what made the model cheaper in a run: "channels_last", "folded" (batch norm), "compiled".
    """

    forwards: int = 0
    backwards: int = 0
    calls: int = 0
    seconds: float = 0.0
    peak_memory: int = 0
    tuned: tuple[str, ...] = ()

    @classmethod
    def of(cls, words: Mapping[str, Any]) -> Cost:
        """What was saved."""
        return cls(**{**words, "tuned": tuple(words.get("tuned", ()))})


@dataclass(frozen=True)
class Provenance:
    """Where the answer comes from: hashes of weights and inputs, versions, seed, time."""

    weights: str = ""
    inputs: str = ""
    model: str = ""
    seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    created: str = ""


@dataclass(frozen=True, eq=False)
class Display:
    """What a picture of the explanation needs to know about the data.

    Attributes:
        kind: image, table, text, series, plain tensor; several of these; or examples, where training examples are what is
            attributed to.
        names: columns of a table, or tokens of a (the first) text.
        classes: the classes' names, in the order of the model's output.
        picture: `(H, W, 3)` or `(H, W)` uint8: the (first) example as a person sees it; images only.
        pooling: how the attributions of one pixel's channels or one token's embedding become one number: sum, norm, mean.
        cells: of a table, what stands in each example's columns, in words ("clerk", "41").
        gallery: of training examples, what those look like that matter most.
        tokens: of texts, each example's own; None where it has none, and others in the batch are longer.
        special: of texts, tokens that are no part of them.
        answers: what the model said of each example in words, where that is not one of the classes.
        title, parts: of several inputs, what each is called, and how it is drawn.
    """

    kind: Kind = "tensor"
    names: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    picture: NDArray[np.uint8] | None = None
    pooling: Pooling = "sum"
    cells: tuple[tuple[str, ...], ...] = ()
    gallery: Gallery | None = None
    tokens: tuple[tuple[str | None, ...], ...] = ()
    special: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    title: str = ""
    parts: tuple[Display, ...] = ()

    def of_input(self, which: int) -> Display:
        """How one of several inputs is drawn."""
        return self.parts[which] if which < len(self.parts) else self

    @classmethod
    def _from(cls, words: Mapping[str, Any], tensors: Mapping[str, Tensor], place: str = "") -> Display:
        """What was saved; earlier files have no cells, no gallery, no tokens."""
        picture = tensors[f"{place}picture"].numpy() if f"{place}picture" in tensors else None
        told = cls(words["kind"], tuple(words["names"]), tuple(words["classes"]), picture, words["pooling"])
        shown = {name.removeprefix("gallery."): tensor for name, tensor in tensors.items() if name.startswith("gallery.")}
        return replace(
            told,
            cells=tuple(map(tuple, words.get("cells", ()))),
            gallery=None if words.get("gallery") is None else Gallery.of(words["gallery"], shown),
            tokens=tuple(map(tuple, words.get("tokens", ()))),
            special=tuple(words.get("special", ())),
            answers=tuple(words.get("answers", ())),
            title=words.get("title", ""),
            parts=tuple(cls._from(part, tensors, f"part.{i}.") for i, part in enumerate(words.get("parts", ()))),
        )

    def words(self) -> dict[str, Any]:
        """All of it but the pictures, as it is saved."""
        found = {name: getattr(self, name) for name in WORDS}
        found["gallery"] = None if self.gallery is None else self.gallery.words()
        return found | {"parts": [part.words() for part in self.parts]}


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a method found about a batch of predictions.

    Attributes:
        attributions: one tensor per input, of the input's shape, dtype and device; of training examples, `(B, N)`.
        features: what was attributed: the inputs; of training examples, the queries' inputs.
        baselines: what they were compared with, where the method compares; of the features' shapes.
        scores: `(B,)`, the model's score of each example for the target.
        baseline_scores: `(B,)`, the score of the baselines, where the method has any.
        predictions: `(B,)` the class with the highest output and its probability `(B,)`, for models with classes.
        method, options, target: what was asked, in words that can be asked again.
        errors: standard errors of the attributions, of their shapes, where the method knows them (sampled Shapley values, LIME).
        health: what was checked, and how it came out.
        cost, provenance: what it cost and where it comes from.
        display: what a picture needs to know.
    """

    attributions: tuple[Tensor, ...]
    features: tuple[Tensor, ...]
    scores: Tensor
    method: str
    target: str
    options: Mapping[str, Any] = field(default_factory=dict)
    baselines: tuple[Tensor, ...] | None = None
    baseline_scores: Tensor | None = None
    predictions: Tensor | None = None
    confidences: Tensor | None = None
    errors: tuple[Tensor, ...] | None = None
    health: tuple[Check, ...] = ()
    cost: Cost = Cost()
    provenance: Provenance = field(default_factory=Provenance)
    display: Display = field(default_factory=Display)

    def __len__(self) -> int:
        """The number of examples explained."""
        return len(self.features[0])

    @property
    def attribution(self) -> Tensor:
        """The attributions of the first (often the only) input."""
        return self.attributions[0]

    @property
    def healthy(self) -> bool:
        """Whether every check came out well."""
        return all(check.passed for check in self.health)

    def check(self, name: str) -> Check | None:
        """The check of that name, or None if it was not made."""
        return next((check for check in self.health if check.name == name), None)

    def draw(self, example: int = 0, **options: Any) -> Figure:
        """The explanation of one example as a matplotlib figure, by what it explains (image, text, table, series)."""
        from .show import draw

        return draw(self, example, **options)

    def _repr_html_(self) -> str:
        from .show import html

        return html(self)

    def __rich__(self) -> Any:
        from .show.terminal import terminal

        return terminal(self)

    def __repr__(self) -> str:
        shapes = ", ".join(str(tuple(a.shape)) for a in self.attributions)
        failed = [check.name for check in self.health if not check.passed]
        verdict = "healthy" if not failed else "look at: " + ", ".join(failed)
        return f"Explanation({self.method} of {self.target}, attributions {shapes}; {verdict})"

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file (no pickle): the tensors, and everything else as JSON in its header.

        Raises:
            FileError: the file cannot be written.
        """
        path = Path(path)
        try:
            save_file(dict(self._tensors()), path, {"pellucid": json.dumps(self._words(), default=str)})
        except (OSError, SafetensorError) as error:
            raise FileError(f"cannot write the explanation to {str(path)!r}: {error}; name a file in a folder that exists") from error
        return path

    @classmethod
    def load(cls, path: str | Path) -> Explanation:
        """Read what `save` wrote.

        Raises:
            FileError: the file is missing, or is not an explanation that Pellucid saved.
        """
        path = Path(path)
        try:
            with safe_open(path, "pt") as file:
                words = json.loads((file.metadata() or {})["pellucid"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return cls._from(words, tensors)
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise FileError(f"{str(path)!r} is not an explanation saved by pellucid ({type(error).__name__}: {error})") from error

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        for group in GROUPS:
            for i, tensor in enumerate(getattr(self, group) or ()):
                yield f"{group}.{i}", tensor.detach().cpu().contiguous().clone()
        for name in SINGLES:
            tensor = getattr(self, name)
            if tensor is not None:
                yield name, tensor.detach().cpu().contiguous().clone()
        for place, display in (("", self.display), *((f"part.{i}.", part) for i, part in enumerate(self.display.parts))):
            if display.picture is not None:
                yield f"{place}picture", torch.from_numpy(np.array(display.picture))
        if self.display.gallery is not None:
            yield from ((f"gallery.{name}", picture) for name, picture in self.display.gallery.pictures().items())

    def _words(self) -> dict[str, Any]:
        provenance = asdict(replace(self.provenance, versions=dict(self.provenance.versions)))
        return {
            "format": FORMAT,
            "method": self.method,
            "target": self.target,
            "options": dict(self.options),
            "health": [asdict(check) for check in self.health],
            "cost": asdict(self.cost),
            "provenance": provenance,
            "display": self.display.words(),
        }

    @classmethod
    def _from(cls, words: dict[str, Any], tensors: dict[str, Tensor]) -> Explanation:
        if words["format"] != FORMAT:
            raise ValueError(f"format {words['format']!r} is not {FORMAT!r}")
        if missing := {"attributions.0", "features.0", "scores"} - set(tensors):
            raise ValueError(f"{', '.join(sorted(missing))} is missing")
        grouped = {g: tuple(tensors[f"{g}.{i}"] for i in range(sum(n.startswith(f"{g}.") for n in tensors))) for g in GROUPS}
        return cls(
            attributions=grouped["attributions"],
            features=grouped["features"],
            baselines=grouped["baselines"] or None,
            errors=grouped["errors"] or None,
            **{name: tensors.get(name) for name in SINGLES},  # type: ignore[arg-type]
            method=words["method"],
            target=words["target"],
            options=words["options"],
            health=tuple(Check(**check) for check in words["health"]),
            cost=Cost.of(words["cost"]),
            provenance=Provenance(**words["provenance"]),
            display=Display._from(words["display"], tensors),
        )


WORDS = ("kind", "names", "classes", "pooling", "cells", "tokens", "special", "answers", "title")
GROUPS = ("attributions", "features", "baselines", "errors")
SINGLES = ("scores", "baseline_scores", "predictions", "confidences")
