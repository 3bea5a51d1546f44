"""The door: `influence(model, train, queries, method=...)` gives an `Explanation` whose attributions are to training examples."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, SequentialSampler

from ..errors import OptionError
from ..explanation import Check, Cost, Display, Explanation
from ..gallery import Gallery
from ..hooks import around
from ..inside import layer_named
from ..memory import Peak
from ..model import in_train_mode
from ..seeds import resolve_seed
from ..show.scale import one_of
from ..trust import provenance_of, refuse
from ..trust.identity import checkpoint_of, identity, layer_of
from ..trust.provenance import hash_of, hash_of_weights
from .checkpoints import Checkpoints
from .examples import Examples
from .loss import Loss
from .methods import INFLUENCES
from .neighbours import top
from .queries import Queries
from .store import Store
from .study import Scored, Study

__all__ = ["influence"]

Look = Callable[[tuple[Any, ...]], Any]


def influence(
    model: nn.Module,
    train: Any,
    queries: Any,
    method: str = "tracin",
    *,
    loss: Loss | None = None,
    query_loss: Loss | None = None,
    layers: Sequence[nn.Module | str] | None = None,
    checkpoints: Any = None,
    load: Callable[[nn.Module, Any], Any] | None = None,
    batch_size: int = 64,
    classes: Sequence[str] = (),
    names: Sequence[str] = (),
    look: Look | None = None,
    kept: int = 8,
    store: Any = None,
    memory: int = 2**30,
    seed: int | None = None,
    strict: bool = False,
    progress: bool | None = None,
    **options: Any,
) -> Explanation:
    """Which training examples speak for what a model says of the queries, and which against it.

    The attributions are one tensor `(queries, training examples)`: positive for proponents, which lower the query's loss, negative for
    opponents. `draw()` shows the strongest of both.

    Args:
        train: the training examples, in an order that stays: a `DataLoader` without shuffling, a `Dataset` of `(input, ..., label)`, a
            tuple of tensors `(inputs, ..., labels)`, or a list of such batches.
        queries: the same; or inputs alone, of which the predicted class is explained.
        method: a name in `pellucid.influence.INFLUENCES`: "tracin", "tracin_last", "exact", "conjugate_gradient", "lissa", "arnoldi",
            "ek_fac", "trak", "representer", "similarity".
        loss: of the output and labels: one number for each example, their sum or mean; None: cross entropy.
        query_loss: another one for the queries.
        layers: modules or names; their parameters only.
        checkpoints: files, or a folder of them; None: the model's own weights.
        load: `load(model, checkpoint)` puts weights into the model and returns the learning rate; None: a state dict is loaded.
        batch_size: of data sets and tuples of tensors.
        classes: names of the classes.
        names: of the columns, where examples are rows of a table.
        look: from one example `(input, ..., label)` to what a person sees: a picture `(H, W)` or `(H, W, 3)`, a text, a row as a mapping.
        kept: how many proponents and opponents of each query are kept to look at.
        store: a folder that keeps what is computed; an interrupted run goes on from there, with the same numbers.
        memory: bytes for gradients and vectors that are held at a time; besides them only the scores grow with the training examples.
        seed: for what is random; None derives one from torch's random state without moving it.
        strict: raise where a check fails, or where labels had to be guessed.
        progress: a progress bar; None shows one when the work takes longer than two seconds.
        options: the method's own (damping, projection, layer, ...).

    Raises:
        InputError: a loader that shuffles or changes, data of another form.
        OptionError: an unknown method or option, parameters that are all frozen.
        OutputError: a loss or an output of another form.
        FileError: a checkpoint that does not fit, a store of another run.
        UntrustedResult: `strict`, and a check that failed.

    >>> net, x, y = nn.Linear(4, 3), torch.randn(20, 4), torch.randint(0, 3, (20,))
    >>> found = influence(net, (x, y), (x[:2], y[:2]))
    >>> found.attribution.shape, int(found.attribution[0].argmax())
    (torch.Size([2, 20]), 0)
    """
    work = _method(method, options)
    # A run that is stored must go on later, whatever has been drawn meanwhile.
    seed, start = 0 if seed is None and store is not None else resolve_seed(seed), time.perf_counter()
    if kept < 1 or memory < 1:
        raise OptionError(f"kept is {kept} and memory is {memory}; both must be positive")
    chosen = None if layers is None else [_layer(model, each) for each in ([layers] if isinstance(layers, str | nn.Module) else layers)]
    asked = Queries.of(model, queries, batch_size)
    loss = loss or asked.usual_loss()
    examples = train if isinstance(train, Examples) else Examples(train, batch_size)
    saved = Checkpoints.given(model, checkpoints, load)
    run = _identified(model, method, options, saved, (loss, query_loss), chosen) | {"seed": seed, "queries": hash_of(asked.tensors())}
    tally, peak = _Tally(), Peak(next((p.device for p in model.parameters()), torch.device("cpu")))
    study = Study(saved, examples, asked.examples, loss, query_loss or loss, chosen, Store(store, run), memory, seed, progress)
    with tally.counting(model):
        scored = work(study, **options)
    told = Explanation(
        attributions=(scored.values,),
        features=asked.features,
        scores=asked.losses(query_loss or loss),
        method=method,
        target=scored.target.format("the predicted class" if asked.guessed else "the label"),
        options={
            name: value if isinstance(value, str | int | float | bool | None) else str(value)
            for name, value in options.items()
            if value is not None
        },
        predictions=asked.predictions,
        confidences=asked.confidences,
        health=(asked.check, *_checks(model, scored)),
        cost=Cost(tally.forwards, tally.backwards, tally.calls, time.perf_counter() - start, peak.rise()),
        provenance=provenance_of(model, (model,), asked.features, seed),
        display=Display("examples", tuple(names), tuple(classes), gallery=_gallery(study, asked, scored, kept, look, classes, names)),
    )
    if strict:
        refuse(told)
    return told


def _identified(
    model: nn.Module, method: str, options: Mapping[str, Any], saved: Checkpoints, losses: Sequence[Any], layers: Sequence[nn.Module] | None
) -> dict[str, Any]:
    """What tells a run from another with the same queries."""
    return {
        "method": method,
        "options": {name: layer_of(model, value) for name, value in sorted(options.items())},
        "checkpoints": [checkpoint_of(each) for each in saved.each],
        "load": identity(saved.load),
        "loss": identity(losses[0]),
        "query_loss": identity(losses[1]),
        "layers": None if layers is None else [layer_of(model, each) for each in layers],
        "in train mode": [name for name, module in model.named_modules() if module.training],
        "weights": hash_of_weights((model,)),
    }


def _method(method: str, options: Mapping[str, Any]) -> Callable[..., Scored]:
    found = INFLUENCES[one_of(method, INFLUENCES, "method")]
    known = list(inspect.signature(found).parameters)[1:]
    for name in options:
        if name not in known:
            raise OptionError(f"{method} has no option {name!r}; it has {', '.join(known) or 'none'}")
    return found


def _layer(model: nn.Module, given: Any) -> nn.Module:
    if not isinstance(given, str | nn.Module):
        raise OptionError(f"layers holds {given!r}; give modules of the model, or their names")
    return layer_named((model,), given) if isinstance(given, str) else given


def _checks(model: nn.Module, scored: Scored) -> Iterator[Check]:
    bad = int((~torch.isfinite(scored.values)).sum())
    yield Check("finite", not bad, f"{bad} scores are NaN or infinite" if bad else "all scores are finite", float(bad))
    random = in_train_mode((model,))
    names = ", ".join(random[:3])
    yield Check(
        "mode", not random, f"in train mode, so the answer is random: {names}; call model.eval()" if random else "nothing is random"
    )
    yield from scored.checks


class _Tally:
    """Examples sent forward and backward through a model."""

    def __init__(self) -> None:
        self.forwards, self.backwards, self.calls = 0, 0, 0

    @contextmanager
    def counting(self, model: nn.Module) -> Iterator[None]:
        """While the block runs."""
        with around([model], self._sent, self._came):
            yield

    def _sent(self, _: nn.Module, given: Any) -> Any:
        first = next((x for x in given[0] if isinstance(x, Tensor)), None)
        self.forwards, self.calls = self.forwards + (0 if first is None else len(first)), self.calls + 1
        return given

    def _came(self, _: nn.Module, output: Any) -> Any:
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(self._back)
        return output

    def _back(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def _gallery(
    study: Study, asked: Queries, scored: Scored, kept: int, look: Look | None, classes: Sequence[str], names: Sequence[str]
) -> Gallery:
    """The queries, and the strongest of their proponents and opponents."""
    count = min(kept, scored.values.shape[1])
    strongest = [top(scored.values.nan_to_num(), count, largest)[0] for largest in (True, False)]
    indices = torch.cat(strongest, 1).unique().tolist()
    found = dict(_found(study.train, indices))
    shown = [(i, _look(found[i], look, names), _label(found[i][-1], classes)) for i in indices]
    own = [example for batch in asked.examples for example in _split(batch)]
    return Gallery(
        tuple(_look(example, look, names) for example in own),
        tuple(_label(example[-1], classes) for example in own),
        tuple(indices),
        tuple(thing for _, thing, _ in shown),
        tuple(label for _, _, label in shown),
        scored.unit,
        scored.sides,
    )


def _look(example: tuple[Any, ...], look: Look | None, names: Sequence[str]) -> Any:
    from ..show.thing import thing_of  # matplotlib loads with the first picture

    return thing_of(example[0] if look is None else look(example), names, stretch=True)


def _label(label: Any, classes: Sequence[str]) -> str:
    value = label.tolist() if isinstance(label, Tensor) else label
    if isinstance(value, int) and 0 <= value < len(classes):
        return classes[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _split(batch: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """A batch as its examples."""
    size = len(next(part for part in batch if isinstance(part, Tensor)))
    for i in range(size):
        yield tuple(part[i] if isinstance(part, Tensor | list | tuple) else part for part in batch)


def _found(train: Examples, indices: Sequence[int]) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """The examples of these numbers: from the data set, where it says them by number, else by going through the batches."""
    data, wanted = train.data, set(indices)
    if isinstance(data, DataLoader) and isinstance(data.sampler, SequentialSampler) and data.batch_size is not None:
        yield from ((i, next(_split(data.collate_fn([data.dataset[i]])))) for i in indices)
        return
    place = 0
    for batch in train:
        for example in _split(batch):
            if place in wanted:
                yield place, example
            place += 1
