"""Captum's influence functions: by the whole Hessian, and by an Arnoldi iteration."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ...errors import OptionError
from ...influence.checkpoints import Checkpoints, load_weights
from ...influence.curvature import Curvature
from ...influence.examples import Examples
from ...influence.gradients import PerExample
from ...influence.inverse import LowRank, arnoldi, dense
from ...influence.layout import Weights
from ...inside import layer_named
from ...progress import Bar
from .base import DataInfluence, KMostInfluentialResults, batches_of, loader_of, most

__all__ = ["ArnoldiInfluenceFunction", "InfluenceFunctionBase", "IntermediateQuantitiesInfluenceFunction", "NaiveInfluenceFunction"]

Data = Dataset[Any] | DataLoader[Any]
LossFunction = nn.Module | Callable[..., Any] | None


class InfluenceFunctionBase(DataInfluence):
    """A model at one checkpoint, its training data, and the data of its Hessian; the user's weights come back after every use."""

    def __init__(
        self,
        model: nn.Module,
        train_dataset: Data,
        checkpoint: str,
        checkpoints_load_func: Callable[..., Any] = load_weights,
        layers: list[str] | None = None,
        loss_fn: LossFunction = None,
        batch_size: int | None = 1,
        hessian_dataset: Data | None = None,
        test_loss_fn: LossFunction = None,
        sample_wise_grads_per_batch: bool = False,
    ) -> None:
        self.model, self.checkpoint, self.checkpoints_load_func = model, checkpoint, checkpoints_load_func
        self.loss_fn, self.test_loss_fn = loss_fn, test_loss_fn or loss_fn
        self.batch_size, self.sample_wise_grads_per_batch = batch_size, sample_wise_grads_per_batch
        self.train_dataloader = loader_of(train_dataset, batch_size)
        self.hessian_dataloader = self.train_dataloader if hessian_dataset is None else loader_of(hessian_dataset, batch_size)
        self.layer_modules = None if layers is None else [layer_named((model,), name) for name in layers]

    @contextmanager
    def _at_checkpoint(self) -> Iterator[Curvature]:
        """The curvature of the loss, while the model has the weights of the checkpoint."""
        with Checkpoints(self.model, [self.checkpoint], self.checkpoints_load_func).loaded() as rates:
            next(rates)
            examples = Examples(self.hessian_dataloader, what="hessian_dataset")
            yield Curvature(self.model, examples, self.loss_fn, "hessian", self.layer_modules)


class IntermediateQuantitiesInfluenceFunction(InfluenceFunctionBase):
    """Influence by inner products of vectors, one for each example: its gradient times a root of the inverse Hessian."""

    @property
    @abstractmethod
    def root(self) -> LowRank:
        """The root."""

    def compute_intermediate_quantities(
        self, inputs_dataset: Any, aggregate: bool = False, show_progress: bool = False, return_on_cpu: bool = True, test: bool = False
    ) -> Tensor:
        """`(n, projection_dim)`, of training examples or, with `test`, of test examples; with `aggregate` their sum `(1, ...)`."""
        data = Examples(batches_of(inputs_dataset), what="inputs_dataset")
        loss, found = self.test_loss_fn if test else self.loss_fn, []
        with self._at_checkpoint() as curvature, Bar(len(data), "intermediate quantities", show_progress or None) as bar:
            weights = Weights(self.root.root.T.to(next(self.model.parameters()).device), curvature.layout)
            own = PerExample(self.model, loss, self.layer_modules)
            for batch in data.on(self.model):
                rows = own(batch[:-1], batch[-1]).times(weights)
                found.append(rows.sum(0, keepdim=True) if aggregate else rows)
                bar.update(len(rows))
        vectors = torch.cat(found).sum(0, keepdim=True) if aggregate else torch.cat(found)
        return vectors.cpu() if return_on_cpu else vectors

    def influence(  # type: ignore[override]
        self, inputs: Any, k: int | None = None, proponents: bool = True, show_progress: bool = False
    ) -> Tensor | KMostInfluentialResults:
        """`(n_test, n_train)`, or the `k` most influential."""
        asked = self.compute_intermediate_quantities(inputs, test=True)
        train = self.compute_intermediate_quantities(self.train_dataloader, show_progress=show_progress)
        return most(asked @ train.T, k, proponents)

    def self_influence(self, inputs_dataset: Any = None, show_progress: bool = False) -> Tensor:
        """`(n,)`, of the training examples by default."""
        data = self.train_dataloader if inputs_dataset is None else inputs_dataset
        return self.compute_intermediate_quantities(data, show_progress=show_progress).square().sum(1)


class NaiveInfluenceFunction(IntermediateQuantitiesInfluenceFunction):
    """By the eigenvectors of the whole Hessian of the summed loss, for small models: `pellucid.influence.inverse.dense`."""

    def __init__(
        self,
        model: nn.Module,
        train_dataset: Data,
        checkpoint: str,
        checkpoints_load_func: Callable[..., Any] = load_weights,
        layers: list[str] | None = None,
        loss_fn: LossFunction = None,
        batch_size: int | None = 1,
        hessian_dataset: Data | None = None,
        test_loss_fn: LossFunction = None,
        sample_wise_grads_per_batch: bool = False,
        projection_dim: int | None = 50,
        seed: int = 42,
        hessian_reg: float = 1e-6,
        hessian_inverse_tol: float = 1e-5,
        projection_on_cpu: bool = True,
        show_progress: bool = False,
    ) -> None:
        super().__init__(
            model, train_dataset, checkpoint, checkpoints_load_func, layers, loss_fn, batch_size, hessian_dataset, test_loss_fn,
            sample_wise_grads_per_batch
        )  # fmt: skip
        self.projection_dim, self.seed = projection_dim, seed
        self.hessian_reg, self.hessian_inverse_tol = hessian_reg, hessian_inverse_tol
        with self._at_checkpoint() as curvature, Bar(0, "Hessian", show_progress or None) as bar:
            found = dense(curvature, hessian_reg, hessian_inverse_tol, projection_dim, bar)
        self._root = LowRank(found.root.cpu()) if projection_on_cpu else found

    @property
    def root(self) -> LowRank:
        return self._root

    @property
    def R(self) -> Tensor:
        """The root, `(parameters, projection_dim)`."""
        return self._root.root


class ArnoldiInfluenceFunction(IntermediateQuantitiesInfluenceFunction):
    """By the largest eigenvalues of the Hessian in a Krylov space: `pellucid.influence.inverse.arnoldi`."""

    def __init__(
        self,
        model: nn.Module,
        train_dataset: Data,
        checkpoint: str,
        checkpoints_load_func: Callable[..., Any] = load_weights,
        layers: list[str] | None = None,
        loss_fn: LossFunction = None,
        batch_size: int | None = 1,
        hessian_dataset: Data | None = None,
        test_loss_fn: LossFunction = None,
        sample_wise_grads_per_batch: bool = False,
        projection_dim: int | None = 50,
        seed: int = 0,
        arnoldi_dim: int = 200,
        arnoldi_tol: float = 1e-1,
        hessian_reg: float = 1e-3,
        hessian_inverse_tol: float = 1e-4,
        projection_on_cpu: bool = True,
        show_progress: bool = False,
    ) -> None:
        super().__init__(
            model, train_dataset, checkpoint, checkpoints_load_func, layers, loss_fn, batch_size, hessian_dataset, test_loss_fn,
            sample_wise_grads_per_batch
        )  # fmt: skip
        if arnoldi_dim < 2:
            raise OptionError(f"arnoldi_dim is {arnoldi_dim}; at least two are needed, because Captum does not use the last one")
        self.projection_dim, self.seed, self.arnoldi_dim, self.arnoldi_tol = projection_dim, seed, arnoldi_dim, arnoldi_tol
        self.hessian_reg, self.hessian_inverse_tol = hessian_reg, hessian_inverse_tol
        with self._at_checkpoint() as curvature, Bar(0, "Arnoldi iteration", show_progress or None) as bar:
            self._root = arnoldi(
                curvature, hessian_reg, arnoldi_dim - 1, projection_dim, arnoldi_tol, hessian_inverse_tol, seed, projection_on_cpu, bar
            )
            self._layout = curvature.layout

    @property
    def root(self) -> LowRank:
        return self._root

    @property
    def R(self) -> Sequence[tuple[Tensor, ...]]:
        """The columns of the root, each as a tuple of tensors of the parameters' shapes."""
        named = self._layout.split(self._root.root.T)
        return [tuple(values[k] for values in named.values()) for k in range(self._root.root.shape[1])]
