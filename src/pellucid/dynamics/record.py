"""What a model said about each training example in each epoch, recorded in one line of any training loop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import FileError, InputError, OptionError

__all__ = ["Dynamics", "Indexed", "Recorder"]

FORMAT = "pellucid-dynamics-1"


@dataclass(frozen=True, eq=False)
class Dynamics:
    """Of N examples in E epochs; what was not seen is NaN (-1 where it is a class).

    Attributes:
        probability: `(N, E)`, of the label.
        margin: `(N, E)`, the label's logit less the largest other.
        predicted: int `(N, E)`.
        labels: int `(N,)`.
        chances: `(N, E, C)`, of all classes, if they were kept.
    """

    probability: Tensor
    margin: Tensor
    predicted: Tensor
    labels: Tensor
    chances: Tensor | None = None

    @property
    def correct(self) -> Tensor:
        """bool `(N, E)`: the prediction was the label; False where it was not seen."""
        return self.predicted == self.labels[:, None]

    @property
    def seen(self) -> Tensor:
        """bool `(N, E)`."""
        return self.predicted >= 0

    def __len__(self) -> int:
        return len(self.labels)

    def save(self, path: str | Path) -> Path:
        """One safetensors file.

        Raises:
            FileError: it cannot be written.
        """
        parts = {name: getattr(self, name) for name in ("probability", "margin", "predicted", "labels")}
        parts |= {} if self.chances is None else {"chances": self.chances}
        try:
            save_file({name: part.contiguous() for name, part in parts.items()}, path, {"pellucid": json.dumps(FORMAT)})
        except (OSError, SafetensorError) as error:
            raise FileError(f"cannot write the dynamics to {str(path)!r}: {error}; name a file in a folder that exists") from error
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Dynamics:
        """What `save` wrote.

        Raises:
            FileError: there is none.
        """
        try:
            with safe_open(path, "pt") as file:
                if json.loads((file.metadata() or {})["pellucid"]) != FORMAT:
                    raise ValueError("another format")
                return cls(**{name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise FileError(f"{str(path)!r} holds no training dynamics that Pellucid saved ({type(error).__name__}: {error})") from error


class Recorder:
    """Keeps, for every example and epoch, what the model said of it.

    `recorder.update(indices, logits, labels)` after each forward pass, in any loop or `training_step`; an epoch ends where an example
    comes again, or where `epoch` says so. `Indexed(dataset)` makes a data set that yields the indices.

    Args:
        size: how many examples there are, if that is known.
        chances: keep the probabilities of all classes, not of the label only.

    >>> recorder = Recorder()
    >>> for epoch in range(2):
    ...     recorder.update([0, 1], torch.tensor([[2.0, 0.0], [epoch, 0.5]]), torch.tensor([0, 0]))
    >>> recorder.dynamics.correct.tolist()
    [[True, True], [False, True]]
    """

    def __init__(self, size: int | None = None, chances: bool = False) -> None:
        self._size, self._wanted = size or 0, chances
        self._epochs: list[dict[int, tuple[float, float, int]]] = []
        self._chances: list[dict[int, Tensor]] = []
        self._labels: dict[int, int] = {}

    def update(self, indices: Tensor | Sequence[int], logits: Tensor, labels: Tensor, epoch: int | None = None) -> None:
        """One batch.

        Args:
            indices: `(B,)`, which examples; logits: `(B, C)`, or `(B,)` of a binary model; labels: `(B,)`.
            epoch: its number; by default it is found.

        Raises:
            InputError: shapes that do not fit, labels that are no classes, an example whose label has changed.
        """
        which = [int(i) for i in (indices.tolist() if isinstance(indices, Tensor) else indices)]
        table = logits.detach().float().cpu()
        table = torch.stack([-table, table], 1) / 2 if table.dim() == 1 else table
        classes = labels.detach().cpu().long().flatten()
        self._check(which, table, classes)
        now = self._epoch(which, epoch)
        own = table.gather(1, classes[:, None])[:, 0]
        margin = own - table.scatter(1, classes[:, None], -torch.inf).amax(1)
        chances = table.softmax(1)
        rows = zip(which, chances.gather(1, classes[:, None])[:, 0].tolist(), margin.tolist(), table.argmax(1).tolist(), strict=True)
        for i, (index, *numbers) in enumerate(rows):
            self._epochs[now][index] = (numbers[0], numbers[1], int(numbers[2]))
            self._labels[index] = int(classes[i])
            if self._wanted:
                self._chances[now][index] = chances[i]

    def _check(self, which: Sequence[int], table: Tensor, classes: Tensor) -> None:
        if table.dim() != 2 or not len(which) == len(table) == len(classes):
            raise InputError(
                f"{len(which)} indices, logits {tuple(table.shape)} and {len(classes)} labels do not fit; give (B,), (B, classes) and (B,)"
            )
        if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < table.shape[1]:
            raise InputError(f"labels are {int(classes.min())} to {int(classes.max())}, and there are {table.shape[1]} classes")
        if any(index < 0 for index in which):
            raise InputError(f"index {min(which)} is negative; number examples from 0")
        for index, label in zip(which, classes.tolist(), strict=True):
            if self._labels.get(index, label) != label:
                raise InputError(f"example {index} had the label {self._labels[index]} and now has {label}; indices must stay the same")

    def _epoch(self, which: Sequence[int], epoch: int | None) -> int:
        if epoch is not None and epoch < 0:
            raise OptionError(f"epoch is {epoch}; epochs are numbered from 0")
        again = bool(self._epochs) and any(index in self._epochs[-1] for index in which)
        now = epoch if epoch is not None else len(self._epochs) - (0 if again or not self._epochs else 1)
        while len(self._epochs) <= now:
            self._epochs.append({})
            self._chances.append({})
        return now

    @property
    def dynamics(self) -> Dynamics:
        """What was recorded so far.

        Raises:
            InputError: nothing was.
        """
        if not self._labels:
            raise InputError("nothing was recorded; call update(indices, logits, labels) in the training loop")
        size, epochs = max(self._size, 1 + max(self._labels)), len(self._epochs)
        numbers = torch.full((size, epochs, 2), torch.nan)
        predicted, labels = torch.full((size, epochs), -1), torch.full((size,), -2)
        for index, label in self._labels.items():
            labels[index] = label
        for epoch, rows in enumerate(self._epochs):
            if rows:
                where = torch.tensor(list(rows))
                numbers[where, epoch] = torch.tensor([row[:2] for row in rows.values()])
                predicted[where, epoch] = torch.tensor([row[2] for row in rows.values()])
        return Dynamics(numbers[..., 0], numbers[..., 1], predicted, labels, self._all_chances(size, epochs))

    def _all_chances(self, size: int, epochs: int) -> Tensor | None:
        if not self._wanted:
            return None
        width = len(next(iter(next(rows for rows in self._chances if rows).values())))
        found = torch.full((size, epochs, width), torch.nan)
        for epoch, rows in enumerate(self._chances):
            if rows:
                found[torch.tensor(list(rows)), epoch] = torch.stack(list(rows.values()))
        return found


class Indexed(Dataset[Any]):
    """A data set whose items begin with their index.

    >>> Indexed([("a", 0), ("b", 1)])[1]
    (1, 'b', 1)
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Any:
        item = self.inner[index]
        return (index, *item) if isinstance(item, tuple | list) else (index, item)
