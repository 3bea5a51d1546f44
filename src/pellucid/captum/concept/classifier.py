"""Linear classifiers between concepts, which their activation vectors are taken from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ...concept import fit
from ...errors import InputError, OptionError

__all__ = ["Classifier", "DefaultClassifier", "trained"]


class Classifier(ABC):
    """A linear classifier between concepts: `train_and_eval`, and then its weights and classes."""

    @abstractmethod
    def __init__(self) -> None: ...

    @abstractmethod
    def train_and_eval(self, dataloader: DataLoader[Any], **kwargs: Any) -> dict[str, Any] | None:
        """Fit to batches of (activations `(b, F)`, numbers of concepts `(b,)`); returns statistics, such as accuracies."""

    @abstractmethod
    def weights(self) -> Tensor:
        """`(C, F)`, one row for each class."""

    @abstractmethod
    def classes(self) -> list[int]:
        """The numbers of the concepts, in the order of the weights."""


class DefaultClassifier(Classifier):
    """`pellucid.concept.fit`, a linear support vector machine; split and fit follow from the seed, or from torch's random state."""

    def __init__(self) -> None:
        self._fitted: Any = None

    def train_and_eval(  # type: ignore[override]
        self, dataloader: DataLoader[Any], test_split_ratio: float = 0.33, *, seed: int | None = None
    ) -> dict[str, Any] | None:
        """`{"accs": accuracy}` on the held-out share of every concept's examples."""
        rows, labels = (torch.cat(parts) for parts in zip(*dataloader, strict=True))
        self._fitted = fit(rows, labels, test_split_ratio, seed)
        return {"accs": torch.tensor(self._fitted.accuracy)}

    def weights(self) -> Tensor:
        """`(C, F)`; of two classes the second row is the first one's opposite."""
        return self._known.weights  # type: ignore[no-any-return]

    def classes(self) -> list[int]:
        """The numbers of the concepts."""
        return np.asarray(self._known.classes)  # type: ignore[return-value]

    @property
    def _known(self) -> Any:
        if self._fitted is None:
            raise OptionError("no classifier has been fitted; call train_and_eval first")
        return self._fitted


def trained(classifier: Classifier, held: Mapping[int, list[Tensor]], options: dict[str, Any]) -> dict[str, Any]:
    """Weights and classes of a classifier, and what it tells."""
    if len({part.shape[1] for parts in held.values() for part in parts}) > 1:
        raise InputError(f"a layer holds numbers of other shapes for the concepts {list(held)}; give all examples the same shape")
    data = [(part, torch.full((len(part),), id)) for id, parts in held.items() for part in parts]
    # A loader draws a number for every pass: not from torch's own generator.
    told = classifier.train_and_eval(DataLoader(data, batch_size=None, generator=torch.Generator()), **options)  # type: ignore[arg-type]
    weights, classes = torch.as_tensor(classifier.weights()).detach().clone(), classifier.classes()
    classes = classes.detach().cpu().numpy() if isinstance(classes, Tensor) else classes
    if weights.dim() != 2 or len(weights) != len(classes) or set(map(int, classes)) != set(held):
        raise OptionError(
            f"the classifier has weights {tuple(weights.shape)} and classes {list(classes)}; the concepts are {list(held)}: it must have "
            "one row and one class for each"
        )
    return {"weights": weights, "classes": classes, **(told or {})}
