"""Captum's TracIn classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ...errors import OptionError
from ...influence import Checkpoints, Outer, SampleGradients, projected, self_influence, tracin
from ...influence.checkpoints import load_weights
from ...influence.gradients import PerExample
from ...inside import layer_named
from ...seeds import generator
from .base import DataInfluence, KMostInfluentialResults, batches_of, loader_of, most

__all__ = ["TracInCP", "TracInCPBase", "TracInCPFast", "TracInCPFastRandProj"]


class TracInCPBase(DataInfluence):
    """A model, its training data, and checkpoints of its training."""

    def __init__(
        self,
        model: nn.Module,
        train_dataset: Dataset[Any] | DataLoader[Any],
        checkpoints: str | list[str] | Iterator[str],
        checkpoints_load_func: Callable[..., Any] = load_weights,
        loss_fn: nn.Module | Callable[..., Any] | None = None,
        batch_size: int | None = 1,
        test_loss_fn: nn.Module | Callable[..., Any] | None = None,
    ) -> None:
        self.model, self.loss_fn, self.test_loss_fn = model, loss_fn, test_loss_fn or loss_fn
        self.batch_size, self.checkpoints_load_func = batch_size, checkpoints_load_func
        self.train_dataloader = loader_of(train_dataset, batch_size)
        self.checkpoints = checkpoints

    @property
    def checkpoints(self) -> list[Any]:
        """What is loaded, in order."""
        return self._checkpoints

    @checkpoints.setter
    def checkpoints(self, given: str | Path | Iterable[Any]) -> None:
        self._checkpoints = list(Checkpoints.given(self.model, given, self.checkpoints_load_func).each)

    def _gradients(self, model: nn.Module, loss: Any, layers: Any) -> Callable[[Sequence[Any], Any], SampleGradients]:
        return PerExample(model, loss, layers)

    def _steps(self) -> Checkpoints:
        return Checkpoints(self.model, self.checkpoints, self.checkpoints_load_func)

    def _scores(self, inputs: Any, layers: Any, progress: bool, aggregate: bool = False) -> Tensor:
        return tracin(
            self._steps(), self.train_dataloader, batches_of(inputs), self.loss_fn, self.test_loss_fn, layers, aggregate, progress or None,
            self._gradients
        )  # fmt: skip

    def _self(self, inputs: Any, layers: Any, progress: bool) -> Tensor:
        data = self.train_dataloader if inputs is None else batches_of(inputs)
        return self_influence(self._steps(), data, self.loss_fn, layers, progress or None, self._gradients)


class TracInCP(TracInCPBase):
    """Influence by the gradients of all parameters, or of some layers: `pellucid.influence.tracin`."""

    def __init__(
        self,
        model: nn.Module,
        train_dataset: Dataset[Any] | DataLoader[Any],
        checkpoints: str | list[str] | Iterator[str],
        checkpoints_load_func: Callable[..., Any] = load_weights,
        layers: list[str] | None = None,
        loss_fn: nn.Module | Callable[..., Any] | None = None,
        batch_size: int | None = 1,
        test_loss_fn: nn.Module | Callable[..., Any] | None = None,
        sample_wise_grads_per_batch: bool = False,
    ) -> None:
        super().__init__(model, train_dataset, checkpoints, checkpoints_load_func, loss_fn, batch_size, test_loss_fn)
        self.sample_wise_grads_per_batch = sample_wise_grads_per_batch
        self.layers = None if layers is None else [layer_named((model,), name) for name in layers]

    def influence(  # type: ignore[override]
        self, inputs: Any, k: int | None = None, proponents: bool = True, show_progress: bool = False, aggregate: bool = False
    ) -> Tensor | KMostInfluentialResults:
        """`(n_test, n_train)`, or the `k` most influential; of all test examples together, `(1, n_train)`, with `aggregate`."""
        return most(self._scores(inputs, self.layers, show_progress, aggregate), k, proponents)

    def self_influence(self, inputs: Any = None, show_progress: bool = False, outer_loop_by_checkpoints: bool = False) -> Tensor:
        """`(n,)`, of the training examples by default. Every checkpoint is loaded once in any case."""
        return self._self(inputs, self.layers, show_progress)

    def compute_intermediate_quantities(self, inputs: Any, aggregate: bool = False) -> Tensor:
        """Vectors `(n, D)` whose inner products are influences; with `aggregate` their sum, `(1, D)`."""
        found = projected(self._steps(), batches_of(inputs), self.loss_fn, self.layers)
        return found.sum(0, keepdim=True) if aggregate else found


class TracInCPFast(TracInCPBase):
    """Influence by the weight of the last linear layer alone (its bias is left out, as in Captum)."""

    def __init__(
        self,
        model: nn.Module,
        final_fc_layer: nn.Module | str,
        train_dataset: Dataset[Any] | DataLoader[Any],
        checkpoints: str | list[str] | Iterator[str],
        checkpoints_load_func: Callable[..., Any] = load_weights,
        loss_fn: nn.Module | Callable[..., Any] | None = None,
        batch_size: int | None = 1,
        test_loss_fn: nn.Module | Callable[..., Any] | None = None,
        vectorize: bool = False,
    ) -> None:
        super().__init__(model, train_dataset, checkpoints, checkpoints_load_func, loss_fn, batch_size, test_loss_fn)
        self.vectorize = vectorize
        self.final_fc_layer = final_fc_layer

    @property
    def final_fc_layer(self) -> nn.Module:
        """The layer whose gradients are compared."""
        return self._final

    @final_fc_layer.setter
    def final_fc_layer(self, layer: nn.Module | str) -> None:
        found = layer_named((self.model,), layer) if isinstance(layer, str) else layer
        if not isinstance(found, nn.Linear):
            raise OptionError(f"final_fc_layer is {type(found).__name__}; it must be nn.Linear: use TracInCP with layers=[...] for others")
        self._final: nn.Module = found

    def _gradients(self, model: nn.Module, loss: Any, layers: Any) -> Callable[[Sequence[Any], Any], SampleGradients]:
        own = PerExample(model, loss, [self._final])
        return lambda inputs, labels: weights_only(own(inputs, labels))

    def influence(  # type: ignore[override]
        self, inputs: Any, k: int | None = None, proponents: bool = True, show_progress: bool = False
    ) -> Tensor | KMostInfluentialResults:
        """`(n_test, n_train)`, or the `k` most influential."""
        return most(self._scores(inputs, None, show_progress), k, proponents)

    def self_influence(self, inputs: Any = None, show_progress: bool = False, outer_loop_by_checkpoints: bool = False) -> Tensor:
        """`(n,)`, of the training examples by default."""
        return self._self(inputs, None, show_progress)


def weights_only(found: SampleGradients) -> SampleGradients:
    """Without the bias of a linear layer."""
    return SampleGradients({name: replace(p, bias=False) if isinstance(p, Outer) else p for name, p in found.parts.items()}, found.names)


class TracInCPFastRandProj(TracInCPFast):
    """`TracInCPFast` by vectors that are computed once, so that `k` nearest ones can be searched; exactly, and projected if asked."""

    def __init__(
        self,
        model: nn.Module,
        final_fc_layer: nn.Module | str,
        train_dataset: Dataset[Any] | DataLoader[Any],
        checkpoints: str | list[str] | Iterator[str],
        checkpoints_load_func: Callable[..., Any] = load_weights,
        loss_fn: nn.Module | Callable[..., Any] | None = None,
        batch_size: int | None = 1,
        test_loss_fn: nn.Module | Callable[..., Any] | None = None,
        vectorize: bool = False,
        nearest_neighbors: Any = None,
        projection_dim: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            model, final_fc_layer, train_dataset, checkpoints, checkpoints_load_func, loss_fn, batch_size, test_loss_fn, vectorize
        )
        if projection_dim is not None and projection_dim < 1:
            raise OptionError(f"projection_dim is {projection_dim}; at least one dimension is needed, or None")
        self.projection_dim, self.seed, self.nearest_neighbors = projection_dim, seed, nearest_neighbors
        self._vectors = self.compute_intermediate_quantities(self.train_dataloader)
        if nearest_neighbors is not None:
            nearest_neighbors.setup(self._vectors)

    def compute_intermediate_quantities(self, inputs: Any) -> Tensor:
        """Vectors `(n, D)` whose inner products are the influences, or with `projection_dim` estimates of them."""
        data = batches_of(inputs)
        return projected(self._steps(), data, self.loss_fn, None, self._projected, self._gradients)

    def _projected(self, checkpoint: int, gradients: SampleGradients) -> Tensor:
        rows = gradients.rows()
        if self.projection_dim is None or rows.shape[1] * len(self.checkpoints) <= self.projection_dim:
            return rows
        dims = max(1, self.projection_dim // len(self.checkpoints))
        matrix = torch.randn(rows.shape[1], dims, generator=generator(self.seed, checkpoint)) / dims**0.5
        found: Tensor = rows @ matrix.to(rows)
        return found

    def influence(  # type: ignore[override]
        self, inputs: Any = None, k: int = 5, proponents: bool = True
    ) -> KMostInfluentialResults:
        """The `k` training examples with the largest (smallest) inner product with each of the inputs."""
        if k is None:
            raise OptionError("k is None; say how many are wanted, or use TracInCPFast for all scores")
        queries = self.compute_intermediate_quantities(inputs)
        if self.nearest_neighbors is not None:
            indices, scores = self.nearest_neighbors.get_nearest_neighbors(queries if proponents else -queries, k)
            return KMostInfluentialResults(indices, scores if proponents else -scores)
        found = most(queries @ self._vectors.T, k, proponents)
        assert isinstance(found, KMostInfluentialResults)
        return found
