"""How a run begins: its store is new, or that of the same run; one example is explained before anything is written."""

from __future__ import annotations

import datetime
import platform
from dataclasses import dataclass, replace

import torch

from ..errors import InputError, OptionError
from ..explanation import Explanation
from .arrays import Arrays
from .explainer import Explainer
from .rows import Rows
from .store import BIG, Store
from .tuning import WAYS, chosen
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
    tune: bool | tuple[str, ...] = True

    def __post_init__(self) -> None:
        if self.arrays not in ARRAYS:
            raise OptionError(f"arrays is {self.arrays!r}; give one of {', '.join(ARRAYS)}")
        if self.block is not None and (isinstance(self.block, bool) or not isinstance(self.block, int) or self.block < 1):
            raise OptionError(f"block is {self.block!r}; give a whole number of examples, at least 1")
        for way in () if isinstance(self.tune, bool) else self.tune:
            if way not in WAYS:
                raise OptionError(f"tune has {way!r}; give some of {', '.join(WAYS)}, True or False")

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
        store.check(identity)
        _same_way(store, wishes)
    else:
        store = _begun(work, loaded, identity, wishes)
    work.source.settle(work.folder)
    return replace(work, block=int(store.facts["block"]))


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
    rows = source.first(TRIED)
    found, classes = _probed(here, rows, work)
    tune = wishes.tune
    ways = chosen(here, fed(rows, here), source.count, work.seed, found.cost.seconds) if tune is True else tune or ()
    facts = {
        "run": identity,
        "block": wishes.block or _size(rows),
        "count": source.count,
        "arrays": wishes.arrays,
        "keep_inputs": wishes.keep_inputs,
        "tuned": list(ways),
        "names": list(source.names),
        "classes": list(classes),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    store = Store.begin(work.folder, facts)
    if wishes.arrays == "zarr":
        kept = [name for name in BIG if name != "features" or wishes.keep_inputs]
        tensors = {name: tensor for name, tensor in found._tensors() if name.split(".")[0] in kept}
        Arrays(work.folder / "arrays.zarr").begin(tensors, source.count or 0, store.facts["block"])
    return store


def _probed(explainer: Explainer, rows: Rows, work: Work) -> tuple[Explanation, tuple[str, ...]]:
    """One example's explanation, and the names of the classes, if the data's are the model's.

    Raises:
        InputError: none of the first examples can be read.
        Exception: none of them can be explained; what is wrong with the first of them.
    """
    if not len(rows):
        place, words = next(iter(rows.failed.items()), (0, "there are none"))
        raise InputError(f"none of the first {rows.size} examples can be read; example {place}: {words}")
    error: Exception | None = None
    for place in range(len(rows)):
        one = fed(rows.some(place, place + 1), explainer)
        for classes in dict.fromkeys((work.source.classes, ())):
            try:
                return explainer.explain(one, work.seed, work.source.names, classes), classes
            except Exception as found:
                error = error or found
    assert error is not None
    raise error


def _size(rows: Rows) -> int:
    """Examples of a block."""
    tensors = rows.inputs if isinstance(rows.inputs, tuple) else ()
    each = sum(t[0].numel() * t.element_size() for t in tensors if len(t))
    return max(1, min(MOST, BYTES // each)) if each else OF_TEXTS
