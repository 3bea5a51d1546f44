"""A run over a data set: every example explained, stored as it comes, resumed where it was."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import OptionError, need, warn
from .batches import Stream
from .begin import Wishes, prepared
from .explainer import Explainer
from .local import alone_here, devices_of, in_processes
from .manifest import Line, Manifest
from .progress import Examples
from .results import Results
from .rows import Reader, Rows, named
from .sources import source_of
from .store import Store, alone
from .work import Report, Work

__all__ = ["run"]

Block = tuple[int, Rows | None]


def run(
    explainer: Explainer | nn.Module,
    data: Any,
    out: str | Path,
    *,
    engine: str = "local",
    workers: int | str = 1,
    strict: bool = False,
    seed: int = 0,
    progress: bool | None = None,
    block: int | None = None,
    arrays: str = "safetensors",
    keep_inputs: bool = True,
    tune: bool | Sequence[str] = True,
    prepare: Callable[[Any], Any] | None = None,
    columns: Sequence[str] = (),
    label: str | int | None = None,
    size: tuple[int, int] | None = None,
    retry: bool = False,
) -> Results:
    """Explain every example of a data set, and keep the answers in a folder.

    The folder can be opened while it grows (`pellucid.scale.open`). Run again, after an interruption, a kill or a full disk, and it goes
    on where it was: what is stored is not computed again. An example gets the numbers that `explain` gives it with this seed, whatever the
    number of workers and their order (up to the rounding that another batch size brings; the blocks are always the same).

    Args:
        explainer: what every example is asked; a module stands for `Explainer(module)`.
        data: a DataLoader that does not shuffle, a data set (torch, Hugging Face, a list of examples), tensors `(inputs, labels)`, a folder
            of images, a CSV, TSV or Parquet file; or batches that come in one order only, for the local engine.
        out: the folder; new, or of the same run.
        engine: "local" (this machine), "ray" (a Ray cluster; the folder must be one that all machines see) or "torchrun" (this call is made
            by every process that torchrun started).
        workers: of the local engine, processes: 1 is this one, "all" one for each GPU, or for each core where there is none. Of Ray,
            actors. torchrun knows its own.
        strict: an example that fails stops the run, and so does a health check that fails. Otherwise both are written down.
        seed: for random methods.
        progress: a progress bar with the time left; None shows one when the work takes longer than two seconds.
        block: examples that are explained and stored together; None: 32 MiB of inputs, 256 at most.
        arrays: "safetensors": a file for each block, which `Explanation.load` reads; "zarr": arrays over all examples.
        keep_inputs: store the inputs beside the attributions; without them, give `open` the data.
        tune: whether ways to make the model cheaper are tried where a run is long enough to pay for it (channels-last pictures, folded
            batch-norm, torch.compile); or which ones to use in any case. What was used stands in `Results.facts["tuned"]`.
        prepare: makes tensors (or `(tensors, label)`, or a `pellucid.Sample`) of a raw example: a picture, a row by name, a text.
        columns: of examples by name, which are inputs.
        label: the column, or the place in a tuple, of the label; "" where there is none.
        size: `(height, width)` to resize the pictures of a folder to.
        retry: in a run that goes on, explain the blocks again that have examples which failed: after an accident, or with data that were
            mended (as many examples, in their order; no other change is looked for). A block takes the place of the old one when all of
            it is stored.

    Returns:
        What is stored, to be read back as Explanations.

    Raises:
        FileError: a folder that cannot be written, that belongs to another run, or a disk that is full; what is stored stays.
        InputError: data of no known form, or of which nothing can be explained.
        OptionError: an unknown engine, method or option; a model that cannot be pickled.
        MissingExtra: pyarrow (always), ray or zarr are not installed; they come with the extra "scale".

    >>> import tempfile, torch
    >>> net = torch.nn.Linear(3, 2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     results = run(Explainer(net, "saliency"), torch.randn(5, 3), folder)
    ...     len(results), results[4].attribution.shape
    (5, torch.Size([1, 3]))
    """
    asked = explainer if isinstance(explainer, Explainer) else Explainer(explainer)
    wishes = Wishes(block, arrays, keep_inputs, tune, retry)
    _known(engine, strict, seed, prepare, label, out)
    for module in ("pyarrow", "pyarrow.parquet", *wishes.modules, *(["ray"] if engine == "ray" else [])):
        need(module, "scale")
    source = source_of(data, Reader(prepare, named(columns), label, asked.reading), seed, size)
    work = Work(asked, source, Path(out), 0, seed, strict)
    ENGINES[engine](work, wishes, workers, progress)
    results = Results(Path(out), source)
    _tell(results)
    return results


def _known(engine: Any, strict: Any, seed: Any, prepare: Any, label: Any, out: Any) -> None:
    """Raises OptionError for what is none of the values that there are."""
    if engine not in ENGINES:
        raise OptionError(f"engine is {engine!r}; give one of {', '.join(ENGINES)}")
    if not isinstance(strict, bool):
        raise OptionError(f"strict is {strict!r}; give True or False")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise OptionError(f"seed is {seed!r}; give a whole number, so that every worker draws the same")
    if prepare is not None and not callable(prepare):
        raise OptionError(f"prepare is {type(prepare).__name__}; give a function of a raw example")
    if isinstance(label, bool) or not isinstance(label, int | str | None):
        raise OptionError(f"label is {label!r}; give the name of a column, a place, or '' for none")
    if not isinstance(out, str | os.PathLike):
        raise OptionError(f"out is {out!r}; give the path of a folder")


def _locally(work: Work, wishes: Wishes, workers: int | str, progress: bool | None) -> None:
    devices = devices_of(workers)

    def engine(ready: Work, blocks: Iterator[Block], report: Report) -> None:
        if devices == [None]:
            alone_here(ready, blocks, report)
        else:
            in_processes(ready, blocks, report, devices)

    _driven(work, wishes, progress, engine)


def _on_ray(work: Work, wishes: Wishes, workers: int | str, progress: bool | None) -> None:
    from .ray import on_ray

    def engine(ready: Work, blocks: Iterator[Block], report: Report) -> None:
        on_ray(ready, blocks_of(ready), report, workers)

    _driven(work, wishes, progress, engine)


def _by_rank(work: Work, wishes: Wishes, workers: int | str, progress: bool | None) -> None:
    from .torchrun import ranks

    with ExitStack() as held, ranks() as own:
        work = replace(work, device=own.device)

        def begin() -> None:
            held.enter_context(alone(work.folder))
            Store.clean(work.folder)
            prepared(work, wishes)

        own.first(begin)
        ready = prepared(work, wishes)
        manifest = Manifest(work.folder)
        own.wait()  # nobody writes before everybody has read what is there
        with Examples(ready.source.count, manifest, progress if own.rank == 0 else False, own.size) as bar:
            alone_here(ready, own.share(blocks_left(ready, manifest)), bar.done)
        own.wait()


def _driven(work: Work, wishes: Wishes, progress: bool | None, engine: Callable[[Work, Iterator[Block], Report], None]) -> None:
    """One process gives out the work."""
    with alone(work.folder):
        Store.clean(work.folder)
        ready = prepared(work, wishes)
        manifest = Manifest(work.folder)
        with Examples(ready.source.count, manifest, progress) as bar:
            engine(ready, blocks_left(ready, manifest), bar.done)


ENGINES: dict[str, Callable[[Work, Wishes, int | str, bool | None], None]] = {"local": _locally, "ray": _on_ray, "torchrun": _by_rank}


def blocks_left(work: Work, manifest: Manifest) -> Iterator[Block]:
    """The blocks that are not stored, or are to be made again, in order; those of a stream come with their examples."""

    def due(number: int) -> bool:
        return number not in manifest or work.attempts.get(number, 0) > manifest.attempt(number)

    if isinstance(work.source, Stream):
        return _streamed(work, manifest, due)
    return ((number, None) for number in range(blocks_of(work)) if due(number))


def blocks_of(work: Work) -> int:
    """How many there are."""
    return -(-(work.source.count or 0) // work.block)


def _streamed(work: Work, manifest: Manifest, due: Callable[[int], bool]) -> Iterator[Block]:
    assert isinstance(work.source, Stream)
    number, examples = -1, 0
    for number, rows in enumerate(work.source.blocks(work.block)):
        examples += rows.size
        if due(number):
            yield number, rows
    if manifest.blocks is None:
        line = Line(work.folder)
        line.add({"end": number + 1, "examples": examples})
        line.close()


def _tell(results: Results) -> None:
    failed = results.total.failed
    if failed:
        first = next(results.failed)
        warn("failed", f"{failed} of {len(results)} examples could not be explained, the first is example {first[0]}: {first[1]}; "
             "`Results.failed` has all of them")  # fmt: skip
