"""Examples as they are read: one by one, each with its label; then together, as a model takes them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..task import Sample

__all__ = ["NAMELESS", "Names", "One", "Reader", "Rows", "form_of", "is_of_texts", "named", "together"]

LABELS = ("label", "labels", "target", "y")


def named(columns: str | Sequence[str]) -> tuple[str, ...]:
    """Columns: one, or several."""
    return (columns,) if isinstance(columns, str) else tuple(columns)


@dataclass(frozen=True, eq=False)
class One:
    """One example: what is attributed (tensors without a batch dimension, a text, or these by name), and what belongs to it.

    `names` are of what the first tensor holds: the tokens of a text, the columns of a row.
    """

    inputs: Any
    label: Any = None
    keywords: Mapping[str, Any] = field(default_factory=dict)
    baselines: tuple[Any, ...] | None = None
    names: tuple[str, ...] = ()

    @property
    def length(self) -> int:
        """Of a text that was made vectors of its tokens; 0 of anything else."""
        first = self.inputs[0] if isinstance(self.inputs, tuple) and self.inputs else None
        text = isinstance(first, Tensor) and first.dim() == 2 and len(first) == len(self.names)
        return len(self.names) if text else 0


@dataclass(frozen=True, eq=False)
class Rows:
    """The examples of a block, `size` of them, of which those at `places` could be read.

    Attributes:
        inputs: tensors `(n, ...)`, a list of texts, or a dictionary of these.
        labels, keys, names: one for each that was read; empty where there are none.
        failed: what was wrong with the others, by their place.
        lengths: of texts that are filled up to the longest.
    """

    inputs: Any
    places: tuple[int, ...]
    size: int
    labels: tuple[Any, ...] = ()
    keys: tuple[str, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    baselines: tuple[Any, ...] | None = None
    failed: Mapping[int, str] = field(default_factory=dict)
    names: tuple[tuple[str, ...], ...] = ()
    lengths: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.places)

    def some(self, start: int, stop: int) -> Rows:
        """A run of those that were read."""
        return self.picked(range(len(self))[start:stop])

    def picked(self, chosen: Sequence[int]) -> Rows:
        """Some of those that were read, in this order; texts as long as the longest of these."""

        def of(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(values[i] for i in chosen) if values else ()

        lengths = of(self.lengths)
        ends = (max(lengths, default=0), max(self.lengths, default=0))

        def cut(value: Any, dims: int) -> Any:
            return _mapped(value, lambda part: _taken(part, chosen, ends, dims))

        baselines = None if self.baselines is None else tuple(cut(b, 3) if isinstance(b, Tensor) else b for b in self.baselines)
        return Rows(
            cut(self.inputs, 3), of(self.places), self.size, of(self.labels), of(self.keys), cut(dict(self.keywords), 2), baselines,
            names=of(self.names), lengths=lengths,
        )  # fmt: skip

    def alike(self) -> list[list[int]]:
        """Which of those that were read can share a call: texts of one length."""
        groups: dict[int, list[int]] = {}
        for row in range(len(self)):
            groups.setdefault(self.lengths[row] if self.lengths else 0, []).append(row)
        return list(groups.values())

    def one(self, row: int) -> One:
        """One of those that were read."""
        own = self.picked([row])
        inputs = _mapped(own.inputs, lambda part: part[0])
        baselines = None if own.baselines is None else tuple(b[0] if isinstance(b, Tensor) else b for b in own.baselines)
        names = own.names[0] if own.names else ()
        return One(inputs, own.labels[0] if own.labels else None, _mapped(dict(own.keywords), lambda part: part[0]), baselines, names)

    @property
    def form(self) -> str:
        """Shapes and types of an example; they are the same for all."""
        return form_of(self.one(0)) if len(self) else ""


def _taken(part: Any, chosen: Sequence[int], ends: tuple[int, int], dims: int) -> Any:
    """Those rows of a tensor or a list, cut to the first end where it was filled up to the second."""
    if not isinstance(part, Tensor):
        return [part[i] for i in chosen]
    run = len(chosen) and list(chosen) == list(range(chosen[0], chosen[-1] + 1))
    found = part[chosen[0] : chosen[-1] + 1] if run else part[torch.as_tensor(list(chosen), dtype=torch.long, device=part.device)]
    length, longest = ends
    return found[:, :length] if length < longest and part.dim() >= dims and part.shape[1] == longest else found


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, Mapping):
        return {name: _mapped(part, change) for name, part in value.items()}
    return tuple(map(change, value)) if isinstance(value, tuple) else change(value)


@dataclass(frozen=True)
class Names:
    """What data call things: columns, classes in the order of the output, and labels that are places in a list of folders."""

    columns: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


NAMELESS = Names()


@dataclass(frozen=True)
class Reader:
    """From what a data set holds to one example.

    Attributes:
        prepare: makes tensors, `(tensors, label)` or a `pellucid.Sample` of a raw example; None: what can be a tensor becomes one.
        columns: of examples by name, those that are inputs.
        label: the column, or the place in a tuple, of the label; "" where there is none; None: the last of a tuple, and of columns
            the one that is called label, labels, target or y.
        dtype: of numbers that have none of their own: cells, Python's numbers, pixels, float64 of numpy.
    """

    prepare: Callable[[Any], Any] | None = None
    columns: tuple[str, ...] = ()
    label: str | int | None = None
    dtype: torch.dtype = torch.float32

    def __call__(self, item: Any, label: Any = None) -> One:
        """One example; `label` is what is known of it otherwise."""
        if isinstance(item, One):
            return item
        if self.prepare is not None:
            item, own = self._split(item)
            made = self.prepare(item)
            made, other = made if _is_labelled(made) else (made, None)
            label = next((found for found in (other, own, label) if found is not None), None)
        else:
            made, own = self._split(item)
            made, label = _row_of(made), own if own is not None else label
        if isinstance(made, Sample):
            baselines = None if made.baselines is None else tuple(b[0] if isinstance(b, Tensor) and b.dim() else b for b in made.baselines)
            keywords = {name: k[0] for name, k in made.keywords.items()}
            return One(tuple(x[0] for x in made.inputs), _plain(label), keywords, baselines, made.names)
        return One(_inputs(made, self.dtype), _plain(label))

    def _split(self, item: Any) -> tuple[Any, Any]:
        """What is explained, and the label."""
        if isinstance(item, Mapping):
            name = self.label if self.label is not None else next((n for n in LABELS if n in item and n not in self.columns), "")
            if name and name not in item:
                raise InputError(f"there is no column {name!r}; the columns are {', '.join(map(str, item))}")
            names = self.columns or tuple(n for n in item if n != name)
            if missing := [n for n in names if n not in item]:
                raise InputError(f"there is no column {missing[0]!r}; the columns are {', '.join(map(str, item))}")
            return item[names[0]] if len(names) == 1 else {n: item[n] for n in names}, item.get(name) if name else None
        if isinstance(item, tuple | list) and len(item) > 1 and self.label != "" and not _is_row(item):
            place = self.label if isinstance(self.label, int) else -1
            rest = [part for i, part in enumerate(item) if i != place % len(item)]
            return (rest[0] if len(rest) == 1 else tuple(rest)), item[place]
        return (item[0] if isinstance(item, tuple | list) and len(item) == 1 else item), None


def _row_of(made: Any) -> Any:
    """Numbers by name are the cells of a row, as those of a table file are."""
    cells = [*made.values()] if isinstance(made, Mapping) else []
    if cells and all(isinstance(cell, int | float) or (isinstance(cell, Tensor | np.generic) and not cell.ndim) for cell in cells):
        return [cell.item() if isinstance(cell, Tensor | np.generic) else cell for cell in cells]
    return made


def _is_row(item: Sequence[Any]) -> bool:
    return isinstance(item, list) and all(isinstance(cell, int | float) for cell in item)


def _is_labelled(made: Any) -> bool:
    return (
        isinstance(made, tuple)
        and len(made) == 2
        and (isinstance(made[1], int | str) or (isinstance(made[1], Tensor) and not made[1].dim()))
    )


def _plain(label: Any) -> Any:
    """A label as it can be written down; one that is no single number or word is left out."""
    if isinstance(label, Tensor | np.ndarray | np.generic):
        return label.item() if np.prod(label.shape) == 1 else None
    return label if isinstance(label, int | float | str) else None


def _inputs(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return {name: part if isinstance(part, str) else _tensor(part, dtype) for name, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_tensor(part, dtype) for part in value)
    return (_tensor(value, dtype),)


def _tensor(value: Any, dtype: torch.dtype) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if any(kind.__module__ == "PIL.Image" for kind in type(value).__mro__):  # Pillow is imported where pictures come from only
        pixels = np.array(value if value.mode in ("L", "RGB") else value.convert("RGB"))
        shades = torch.from_numpy(pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        return (shades.to(torch.promote_types(dtype, torch.float32)) / 255).to(dtype)
    try:
        found = np.asarray(value)
        made = torch.from_numpy(np.array(found))
        return made.to(dtype) if found.dtype == np.float64 or found.ndim == 0 else made
    except (TypeError, ValueError) as error:
        raise InputError(
            f"an example is {type(value).__name__}, which is no tensor ({error}); give prepare=, which makes one of it"
        ) from error


def form_of(one: One) -> str:
    """Shapes and types, in words; the examples of a run have one form, in which the length of a text is n."""
    return " ".join(
        f"{name} {_form(part, one.length, dims)}" if name else _form(part, one.length, dims)
        for name, part, dims in (("", one.inputs, 2), ("keywords", dict(one.keywords), 1), ("baselines", one.baselines, 2))
        if part
    )


def is_of_texts(form: str) -> bool:
    """Whether examples of a form may be of different lengths."""
    return re.search(r"\btext\b(?!:)|\(n, ", form) is not None


def _form(value: Any, length: int, dims: int) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_form(part, length, dims)}" for name, part in value.items()) + "}"
    if isinstance(value, tuple):
        return ", ".join(_form(part, length, dims) for part in value)
    if isinstance(value, Tensor):
        sizes = ["n", *value.shape[1:]] if length and value.dim() == dims and len(value) == length else value.shape
        return f"({', '.join(map(str, sizes))}{',' * (value.dim() == 1)}) {str(value.dtype).removeprefix('torch.')}"
    return "text" if isinstance(value, str) else "a number" if isinstance(value, int | float) else type(value).__name__


def together(
    read: Sequence[tuple[int, One]], size: int, keys: Sequence[str] = (), failed: Mapping[int, str] | None = None, form: str = ""
) -> Rows:
    """Examples at their places in the block as one batch; those of another form are among the failed.

    The form is that of the run, or, where no example has it, the most frequent one.
    """
    forms = Counter(form_of(one) for _, one in read)
    form = form if form in forms or not forms else forms.most_common(1)[0][0]
    odd, fitting = dict(failed or {}), []
    for place, one in read:
        if form_of(one) == form:
            fitting.append((place, one))
        else:
            odd[place] = f"InputError: its shape is {form_of(one)}, and others have {form}; examples of a run have one shape: see prepare="
    ones = [one for _, one in fitting]
    places = tuple(place for place, _ in fitting)
    labels = tuple(one.label for one in ones) if any(one.label is not None for one in ones) else ()
    inputs = _joined([one.inputs for one in ones]) if ones else ()
    keywords = _joined([dict(one.keywords) for one in ones]) if ones and ones[0].keywords else {}
    own = tuple(keys[p] for p in places) if keys else ()
    names = tuple(one.names for one in ones) if any(one.names for one in ones) else ()
    lengths = tuple(one.length for one in ones)
    return Rows(inputs, places, size, labels, own, keywords, _baselines(ones, inputs), odd, names, lengths if len(set(lengths)) > 1 else ())


def _baselines(ones: Sequence[One], inputs: Any) -> tuple[Any, ...] | None:
    """Those of each example; a number that all share stays one."""
    if not ones or ones[0].baselines is None:
        return None
    return tuple(map(_of_each, zip(*(one.baselines or () for one in ones), strict=True), inputs))


def _of_each(parts: tuple[Any, ...], like: Tensor) -> Any:
    if isinstance(parts[0], Tensor):
        return _stacked(parts)
    same = len(set(parts)) == 1
    return parts[0] if same else torch.stack([torch.full_like(x, part) for x, part in zip(like, parts, strict=True)])


def _joined(parts: Sequence[Any]) -> Any:
    first = parts[0]
    if isinstance(first, Mapping):
        return {name: _joined([part[name] for part in parts]) for name in first}
    if isinstance(first, tuple):
        return tuple(_joined(own) for own in zip(*parts, strict=True))
    return _stacked(parts) if isinstance(first, Tensor) else list(parts)


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """Texts are filled up with zeros to the longest."""
    if len({part.shape for part in parts}) < 2:
        return torch.stack(list(parts))
    found = parts[0].new_zeros(len(parts), max(map(len, parts)), *parts[0].shape[1:])
    for row, part in enumerate(parts):
        found[row, : len(part)] = part
    return found
