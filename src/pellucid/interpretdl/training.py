"""InterpretDL's interpreters of a training run: forgetting events and noisy labels, training dynamics, and the BHDF detector."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..dynamics import Dynamics, Recorder, forgetting, learning_epoch, outliers
from ..errors import FileError, InputError, OptionError
from ..model import Foreign
from ..target import tensor_of
from .base import Interpreter, logits_of

__all__ = ["BHDFInterpreter", "ForgettingEventsInterpreter", "TrainingDynamics"]

Traces = Mapping[int, list[list[int]]]


class ForgettingEventsInterpreter(Interpreter):
    """Trains a model and counts how often each example is forgotten. Source: Toneva et al. 2019.

    The model is trained: unlike everything else here, it is not as it was afterwards.
    """

    def interpret(
        self,
        train_reader: Iterable[Any] | Callable[[], Iterable[Any]],
        optimizer: torch.optim.Optimizer,
        batch_size: int | None = None,
        epochs: int = 1,
        find_noisy_labels: bool = False,
        save_path: str | Path | None = "assets",
    ) -> tuple[dict[int, list[list[int]]], Any]:
        """`(stats, (count_forgotten, forgotten))`, or `(stats, noisy ids)`.

        `stats[id]` holds, for each epoch, whether the example was right and what was predicted; `count_forgotten` the ids by number of
        events (-1: never right), `forgotten` what was predicted instead. Written as JSON in the folder `save_path`.

        Args:
            train_reader: yields `(index, input, label)` batches, tensors or arrays; or single examples, then batched by `batch_size`.
        """
        recorder = Recorder()
        trained(self, train_reader, optimizer, epochs, recorder, batch_size)
        dynamics = recorder.dynamics
        stats = stats_of(dynamics)
        found: Any = noisy_labels(dynamics).tolist() if find_noisy_labels else counted(dynamics)
        if save_path is not None:
            _written(Path(save_path), stats, found, find_noisy_labels)
        return stats, found

    def find_noisy_labels(self, stats: Traces) -> list[int]:
        """TIDY: the ids of examples learned so late that their labels look wrong, the worst first."""
        return [int(i) for i in noisy_labels(_dynamics_of(stats))]

    def compute_and_order_forgetting_stats(self, stats: Traces, epochs: int, save_path: str | Path | None = None) -> Any:
        """`(count_forgotten, forgotten)` of statistics over so many epochs; written if a folder is named."""
        found = counted(_dynamics_of({i: [trace[:epochs] for trace in traces] for i, traces in stats.items()}))
        if save_path is not None:
            _written(Path(save_path), stats, found, False)
        return found


def _dynamics_of(stats: Traces) -> Dynamics:
    """Statistics as `interpret` returns them, as dynamics: a label is a prediction that was right."""
    size, epochs = 1 + max(stats), len(next(iter(stats.values()))[0])
    predicted, right = torch.full((size, epochs), -1), torch.zeros(size, epochs, dtype=torch.bool)
    for index, (ok, guessed) in stats.items():
        right[index], predicted[index] = torch.tensor(ok).bool(), torch.tensor(guessed)
    labels = torch.where(right.any(1), predicted.gather(1, right.int().argmax(1, keepdim=True))[:, 0], -2)
    numbers = torch.full((size, epochs), torch.nan)
    return Dynamics(numbers, numbers, predicted, labels)


def trained(
    interpreter: Interpreter, reader: Iterable[Any] | Callable[[], Iterable[Any]], optimizer: torch.optim.Optimizer, epochs: int,
    recorder: Recorder,
    batch_size: int | None = None
) -> None:  # fmt: skip
    """Train by cross-entropy, and record what the model says of each example just before it learns from it."""
    if isinstance(interpreter.model, Foreign):
        raise OptionError(
            f"the model runs in {interpreter.model.framework} and cannot be trained from torch; record its logits: Recorder.update"
        )
    if epochs > 1 and not callable(reader) and iter(reader) is reader:
        raise InputError("train_reader can be read only once; give a loader, a list, or a function that returns a new iterator")
    for epoch in range(epochs):
        for indices, inputs, labels in _batches(reader() if callable(reader) else reader, batch_size):
            output = interpreter.model(inputs.to(interpreter.place, interpreter.dtype if inputs.is_floating_point() else None))
            logits, labels = tensor_of(logits_of(output)), labels.reshape(-1)
            recorder.update(indices, logits, labels, epoch)
            loss = nn.functional.cross_entropy(logits, labels.to(logits.device).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def stats_of(dynamics: Dynamics) -> dict[int, list[list[int]]]:
    """`{id: [right or not, predicted]}`, a number for each epoch."""
    correct, predicted = dynamics.correct.int().tolist(), dynamics.predicted.tolist()
    return {i: [correct[i], predicted[i]] for i in range(len(dynamics)) if bool(dynamics.seen[i].any())}


def counted(dynamics: Dynamics) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """The ids by their number of forgetting events (-1: never right), and what was predicted when they were forgotten."""
    found = forgetting(dynamics)
    counts: dict[int, list[int]] = {}
    forgotten: dict[int, list[int]] = {}
    for i in dynamics.seen.any(1).nonzero().flatten().tolist():
        seen = dynamics.seen[i]
        learned, correct, predicted = bool(found.learned[i]), dynamics.correct[i][seen].tolist(), dynamics.predicted[i][seen].tolist()
        counts.setdefault(int(found.events[i]) if learned else -1, []).append(i)
        lost = [t + 1 for t in range(len(correct) - 1) if correct[t] and not correct[t + 1]]
        forgotten[i] = [predicted[t] for t in lost] if learned else predicted
    return dict(sorted(counts.items())), forgotten


def noisy_labels(dynamics: Dynamics, deviations: float = 5.0) -> Tensor:
    """TIDY: the ids of examples learned so late that their labels look wrong, the worst first; those never right are left out.

    `pellucid.dynamics.suspicion` ranks all, with these first.
    """
    return outliers(torch.where(dynamics.correct.any(1), learning_epoch(dynamics), torch.nan), deviations)


def _batches(reader: Iterable[Any], size: int | None) -> Iterable[tuple[list[int], Tensor, Tensor]]:
    rows: list[tuple[Any, Any, Any]] = []
    for item in reader:
        if isinstance(item, list) and item and isinstance(item[0], tuple | list) and len(item[0]) == 3 and np.ndim(item[0][0]) == 0:
            yield _stacked(item)  # InterpretDL's: a list of (index, input, label)
        elif len(item) == 3 and np.ndim(item[0]) == 0:
            rows.append(tuple(item))
            if len(rows) == (size or 1):
                yield _stacked(rows)
                rows = []
        elif len(item) == 3:
            yield [int(i) for i in item[0]], torch.as_tensor(item[1]), torch.as_tensor(item[2])
        else:
            raise InputError(f"train_reader yields {len(item)} things; give (index, input, label), one example or a batch of each")
    if rows:
        yield _stacked(rows)


def _stacked(rows: list[Any]) -> tuple[list[int], Tensor, Tensor]:
    indices, inputs, labels = zip(*rows, strict=True)
    return [int(i) for i in indices], torch.stack([torch.as_tensor(x) for x in inputs]), torch.tensor([int(y) for y in labels])


def _written(folder: Path, stats: Traces, found: Any, noisy: bool) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        parts = {"stats": stats, **({"noisy": found} if noisy else {"count_forgotten": found[0], "forgotten": found[1]})}
        for name, part in parts.items():
            (folder / f"{name}.json").write_text(json.dumps(part), encoding="utf-8")
    except OSError as error:
        raise FileError(f"cannot write to the folder {str(folder)!r}: {error}; name another, or save_path=None") from error


class TrainingDynamics:
    """The probabilities of all classes for every example and epoch while a model is trained. Source: Jia et al. 2023."""

    def __init__(self, paddle_model: Any, device: str = "gpu:0") -> None:
        self.interpreter = Interpreter(paddle_model, device)

    def generator(self, train_loader: Iterable[Any], optimizer: torch.optim.Optimizer, epochs: int) -> tuple[dict[int, NDArray[Any]], Any]:
        """Train, and return `{index: (epochs, classes)}` with the labels; the loader yields `(index, input, label)` batches."""
        recorder = Recorder(chances=True)
        if isinstance(self.interpreter.model, nn.Module):
            self.interpreter.model.train()
        trained(self.interpreter, train_loader, optimizer, epochs, recorder)
        dynamics = recorder.dynamics
        chances = dynamics.chances
        assert chances is not None  # the recorder was asked for them
        return {i: chances[i].numpy() for i in dynamics.seen.any(1).nonzero().flatten().tolist()}, dynamics.labels.numpy()

    @staticmethod
    def transform(logits: Mapping[int, NDArray[Any]], assigned_targets: Any) -> tuple[NDArray[np.float16], NDArray[np.int16]]:
        """`(n, epochs, classes)`, the label's probability first, then the others by their mean, largest first; and these classes.

        Epochs in which an example was not seen are interpolated, class by class (InterpretDL: all classes of them alike).

        Raises:
            InputError: an example that was never seen.
        """
        found, orders = [], []
        for index in sorted(logits):
            rows = np.asarray(logits[index], dtype=float)
            seen = ~np.isnan(rows).any(1)
            if not seen.any():
                raise InputError(f"example {index} was seen in no epoch; leave it out")
            places = np.arange(len(rows))
            rows = np.stack([np.interp(places, places[seen], column[seen]) for column in rows.T], 1)
            label = int(np.asarray(assigned_targets)[index])
            others = [k for k in np.argsort(-rows.mean(0), kind="stable").tolist() if k != label]
            orders.append([label, *others])
            found.append(rows[:, orders[-1]])
        return np.asarray(found, dtype=np.float16), np.asarray(orders, dtype=np.int16)

    def save(
        self, logits: Mapping[int, NDArray[Any]], assigned_targets: Any, label_flip: Any = None, save_path: str | Path | None = None
    ) -> Path:
        """A .npz without pickle: `td`, `labels`, and `label_flip` if it is known which labels were flipped."""
        dynamics, labels = self.transform(logits, assigned_targets)
        path = Path(save_path or "assets/training_dynamics.npz")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            flips: dict[str, Any] = {} if label_flip is None else {"label_flip": np.asarray(label_flip)}
            np.savez(path, td=dynamics, labels=labels, **flips)
        except OSError as error:
            raise FileError(f"cannot write {str(path)!r}: {error}; name a file in a folder that exists") from error
        return path


class _Detector(nn.Module):
    """Two layers of LSTM over the label's probability, epoch by epoch, and two classes."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(1, width, 2, batch_first=True), nn.Linear(width, 2)

    def forward(self, probability: Tensor) -> Tensor:
        """`(n, epochs)` -> probabilities `(n, 2)`."""
        found: Tensor = self.out(self.lstm(probability[..., None])[0][:, -1]).softmax(1)
        return found


class BHDFInterpreter:
    """Finds wrong labels by an LSTM over training dynamics. Source: Jia et al. 2023.

    InterpretDL downloads a detector; here `fit` trains one where it is known which labels were flipped, or the caller gives one.

    Args:
        detector: from `(n, epochs)` to probabilities `(n, 2)`, the second that of a wrong label.
    """

    def __init__(self, detector: Callable[[Tensor], Tensor] | None = None, device: str = "gpu:0") -> None:
        self.detector, self.device = detector, device

    def fit(self, training_dynamics: Any, label_flip: Any, epochs: int = 60, seed: int = 0) -> BHDFInterpreter:
        """Train a detector on dynamics `(n, epochs, classes)` of which `label_flip` says which labels were flipped."""
        sequences = torch.as_tensor(np.asarray(training_dynamics, dtype=np.float32))[:, :, 0]
        flipped = torch.as_tensor(np.asarray(label_flip)).long()
        if len(sequences) != len(flipped) or flipped.unique().numel() != 2:
            raise InputError(f"{len(sequences)} examples and label_flip of {tuple(flipped.shape)}; give 0 or 1 for each, and some of both")
        weight = len(flipped) / (2 * torch.bincount(flipped, minlength=2).float())
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            detector = _Detector(16)
            optimizer = torch.optim.Adam(detector.parameters(), 1e-2)
            for _ in range(epochs):
                loss = nn.functional.nll_loss(detector(sequences).clamp_min(1e-9).log(), flipped, weight)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        self.detector = detector.eval()
        return self

    def interpret(
        self, training_dynamics: Any = None, training_dynamics_path: str | Path | None = "assets/training_dynamics.npz"
    ) -> tuple[NDArray[np.int64], list[float]]:
        """The order of the examples, the cleanest first, and the probability that each one's label is wrong."""
        if (training_dynamics is None) == (training_dynamics_path is None):
            raise OptionError("give training_dynamics or training_dynamics_path, one of the two (path=None with the former)")
        if self.detector is None:
            raise OptionError("there is no detector; give one, or train it: BHDFInterpreter().fit(dynamics, label_flip)")
        table = training_dynamics if training_dynamics_path is None else _loaded(Path(training_dynamics_path))
        if isinstance(table, Mapping):
            table = np.stack([np.asarray(table[key]) for key in sorted(table)])
        sequences = torch.as_tensor(np.asarray(table, dtype=np.float32))[:, :, 0]
        with torch.no_grad():
            scores = self.detector(sequences)[:, 1]
        return scores.argsort(stable=True).numpy(), scores.tolist()


def _loaded(path: Path) -> NDArray[Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            found: NDArray[Any] = file["td"]
            return found
    except (OSError, KeyError, ValueError) as error:
        raise FileError(f"{str(path)!r} holds no training dynamics ({error}); TrainingDynamics.save writes them") from error
