"""How a run begins: its store is new, or that of the same run; one example is explained before anything is written."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ..errors import FileError, InputError, OptionError
from ..explanation import Explanation
from .explainer import Explainer
from .manifest import Manifest
from .rows import Rows, is_of_texts
from .store import AGAIN, BIG, Store
from .tuning import WAYS, chosen, suits, tuned
from .work import Work, fed, placed

__all__ = ["Wishes", "prepared"]

BYTES, MOST, OF_TEXTS = 32 * 2**20, 256, 32  # of a block
ARRAYS = ("safetensors", "zarr")
TRIED = 8  # examples, one of which must be explained before a run begins


@dataclass(frozen=True)
class Wishes:
    """How the store of a run is to be."""

    block: int | None = None
    arrays: str = "safetensors"
    keep_inputs: bool = True
    tune: bool | str | Sequence[str] = True
    retry: bool = False

    def __post_init__(self) -> None:
        for name in ("keep_inputs", "retry"):
            if not isinstance(getattr(self, name), bool):
                raise OptionError(f"{name} is {getattr(self, name)!r}; give True or False")
        if self.arrays not in ARRAYS:
            raise OptionError(f"arrays is {self.arrays!r}; give one of {', '.join(ARRAYS)}")
        if self.block is not None and (isinstance(self.block, bool) or not isinstance(self.block, int) or self.block < 1):
            raise OptionError(f"block is {self.block!r}; give a whole number of examples, at least 1")
        if not isinstance(self.tune, bool | list | tuple):
            raise OptionError(f"tune is {self.tune!r}; give True, False, or a list of some of {', '.join(WAYS)}")
        if wrong := [way for way in self.ways if way not in WAYS]:
            raise OptionError(f"tune has {wrong[0]!r}; give some of {', '.join(WAYS)}, True or False")

    @property
    def ways(self) -> tuple[str, ...]:
        """Those that were asked for."""
        return () if isinstance(self.tune, bool | str) else tuple(self.tune)

    @property
    def modules(self) -> tuple[str, ...]:
        """What must be installed."""
        return ("zarr",) if self.arrays == "zarr" else ()


def prepared(work: Work, wishes: Wishes) -> Work:
    """The work, with its store begun, or found to be of the same run.

    Raises:
        FileError: the folder is of another run, or cannot be written.
    """
    loaded = work.explainer.loaded()
    identity = loaded.identity() | work.source.identity() | {"seed": work.seed}
    if (work.folder / "run.json").exists():
        store = Store.open(work.folder)
        if wishes.retry and (before := store.facts["run"].get("mark")) != identity["mark"]:
            store.check(identity | {"mark": before})
            store.mended(identity["mark"])
        store.check(identity)
        _same_way(store, wishes)
    else:
        store = _begun(work, loaded, identity, wishes)
    work.source.form = store.facts["form"]
    try:
        if store.arrays is not None:
            store.arrays.begin(store.facts["count"], store.facts["block"])
        work.source.settle(work.folder)
    except OSError as error:
        raise FileError(f"out={str(work.folder)!r} cannot be written to: {error}; {AGAIN}") from error
    return replace(work, block=int(store.facts["block"]), attempts=_attempts(store, wishes.retry))


def _attempts(store: Store, retry: bool) -> dict[int, int]:
    """Which attempt at a block is to be there, if not the first: of blocks whose files are gone, and of failed ones, another."""
    manifest = Manifest(store.folder)
    gone = {n for n in range(len(manifest.stored)) if manifest.stored[n] and not store.has(n, manifest.attempt(n))}
    again = gone | (manifest.failing if retry else set())
    return manifest.attempts | {number: manifest.attempt(number) + 1 for number in again}


def _same_way(store: Store, wishes: Wishes) -> None:
    given = {"block": wishes.block, "arrays": wishes.arrays, "keep_inputs": wishes.keep_inputs}
    for name, value in given.items():
        if value is not None and value != store.facts[name]:
            raise OptionError(f"{name} is {value!r}, but the run in {str(store.folder)!r} has {store.facts[name]!r}; give that")


def _begun(work: Work, loaded: Explainer, identity: dict[str, object], wishes: Wishes) -> Store:
    """A new store; what fails for all examples fails before it."""
    source = work.source
    if wishes.arrays == "zarr" and source.count is None:
        raise OptionError("zarr arrays need to know how many examples there are, and the data do not say; give arrays='safetensors'")
    here = placed(loaded, work.device)
    found, one, classes = _probed(here, work)
    source.form = one.form
    if not wishes.keep_inputs and (is_of_texts(source.form) or not _are_inputs(found, fed(one, here))):
        raise OptionError("keep_inputs=False, but what is explained are not the inputs (a layer, a text, inputs by name); keep them")
    if wishes.arrays == "zarr" and is_of_texts(source.form):
        raise OptionError("texts are of different lengths, and zarr arrays hold one shape; give arrays='safetensors'")
    ways = _ways(here, work, wishes, one, found.cost.seconds, classes)
    kept = [name for name in BIG if name != "features" or wishes.keep_inputs]
    large = {name: tensor for name, tensor in found._tensors() if name.split(".")[0] in kept}
    facts = {
        "run": identity,
        "block": wishes.block or _size(one),
        "count": source.count,
        "arrays": wishes.arrays,
        "keep_inputs": wishes.keep_inputs,
        "tuned": list(ways),
        "names": list(source.names),
        "classes": list(classes),
        "labels": list(source.classes),
        "form": source.form,
        "dtype": _called(source.reader.dtype),
        "features": [_called(feature.dtype) for feature in found.features],
        "tensors": {name: [list(tensor.shape[1:]), _called(tensor.dtype)] for name, tensor in large.items()},
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    return Store.begin(work.folder, facts)


def _called(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _are_inputs(found: Explanation, rows: Rows) -> bool:
    """Whether the data give the explained features again."""
    inputs = rows.inputs
    return isinstance(inputs, tuple) and len(inputs) == len(found.features) and all(map(torch.equal, inputs, found.features))


def _ways(explainer: Explainer, work: Work, wishes: Wishes, one: Rows, seconds: float, classes: tuple[str, ...]) -> tuple[str, ...]:
    """The ways that make the model cheaper: those that pay, or those that were asked for, if the question can be asked of them."""
    if wishes.tune is True:
        return chosen(explainer, fed(work.source.first(TRIED), explainer), work.source.count, work.seed, seconds)
    if wishes.ways and not suits(explainer):
        raise OptionError(f"tune is {list(wishes.ways)}, but {explainer.method} needs the model as it is; leave it out")
    if wishes.ways:  # whether it works
        tuned(explainer, wishes.ways).explain(fed(one, explainer), work.seed, work.source.names_of(classes))
    return wishes.ways


def _probed(explainer: Explainer, work: Work) -> tuple[Explanation, Rows, tuple[str, ...]]:
    """One example's explanation, that example, and the names of the classes, if the data's are the model's.

    Raises:
        InputError: none of the first examples can be read.
        Exception: none of them can be explained; what is wrong with the first of them.
    """
    error: Exception | None = None
    unread: list[tuple[int, str]] = []
    for number, one in enumerate(work.source.each(TRIED)):
        if not len(one):
            unread.append((number, next(iter(one.failed.values()), "there is none")))
            continue
        rows = fed(one, explainer)
        last: Exception | None = None
        for classes in dict.fromkeys((work.source.classes, ())):
            try:
                return explainer.explain(rows, work.seed, work.source.names_of(classes)), one, classes
            except Exception as found:
                last = found
        error = error or last
    if error is None:
        place, words = unread[0]
        raise InputError(f"none of the first {len(unread)} examples can be read; example {place}: {words}")
    raise error


def _size(rows: Rows) -> int:
    """Examples of a block."""
    tensors = rows.inputs if isinstance(rows.inputs, tuple) else ()
    each = sum(t[0].numel() * t.element_size() for t in tensors if len(t))
    return max(1, min(MOST, BYTES // each)) if each else OF_TEXTS
