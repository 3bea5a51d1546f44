"""Captum's influence classes: TracIn by checkpoints, and similarity of activations."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..errors import FileError, InputError, OptionError
from ..hooks import watch
from ..influence import Checkpoints, Outer, SampleGradients, projected, sample_gradients, self_influence, tracin
from ..inside import layer_named
from ..model import undisturbed
from ..seeds import generator

__all__ = [
    "DataInfluence",
    "KMostInfluentialResults",
    "SimilarityInfluence",
    "TracInCP",
    "TracInCPBase",
    "TracInCPFast",
    "TracInCPFastRandProj",
]


class KMostInfluentialResults(NamedTuple):
    """Of each test example, the training examples with the largest (or smallest) influence, `(n_test, k)` each."""

    indices: Tensor
    influence_scores: Tensor


class DataInfluence(ABC):
    """What all influence methods have: `influence(inputs)`."""

    @abstractmethod
    def influence(self, inputs: Any = None, **kwargs: Any) -> Any:
        """The influence of training examples on test examples."""


def _load_flexible_state_dict(model: nn.Module, path: Any) -> float:
    """Load a state dict, saved from the model itself or from its `DataParallel`; the learning rate that it holds, else 1."""
    held = torch.load(path, map_location="cpu")
    rate = held.pop("learning_rate", 1.0) if isinstance(held, dict) else 1.0
    inner = model.module if isinstance(model, nn.DataParallel) else model
    inner.load_state_dict({name.removeprefix("module."): value for name, value in held.items()})
    return float(rate)


class TracInCPBase(DataInfluence):
    """A model, its training data, and checkpoints of its training."""

    def __init__(
        self,
        model: nn.Module,
        train_dataset: Dataset[Any] | DataLoader[Any],
        checkpoints: str | list[str] | Iterator[str],
        checkpoints_load_func: Callable[..., Any] = _load_flexible_state_dict,
        loss_fn: nn.Module | Callable[..., Any] | None = None,
        batch_size: int | None = 1,
        test_loss_fn: nn.Module | Callable[..., Any] | None = None,
    ) -> None:
        self.model, self.loss_fn, self.test_loss_fn = model, loss_fn, test_loss_fn or loss_fn
        self.batch_size, self.checkpoints_load_func = batch_size, checkpoints_load_func
        self.train_dataloader = train_dataset if isinstance(train_dataset, DataLoader) else _loader(train_dataset, batch_size)
        self.checkpoints = checkpoints

    @property
    def checkpoints(self) -> list[Any]:
        """What is loaded, in order."""
        return self._checkpoints

    @checkpoints.setter
    def checkpoints(self, given: str | Path | Iterable[Any]) -> None:
        if isinstance(given, str | Path):
            folder = Path(given)
            if not folder.is_dir():
                raise FileError(f"checkpoints is {str(folder)!r}, which is no folder; give one, or a list of files")
            self._checkpoints = sorted(str(path) for path in folder.iterdir() if path.is_file())
        else:
            self._checkpoints = list(given)

    def _gradients(self, model: nn.Module, inputs: Sequence[Any], labels: Any, loss: Any, layers: Any) -> SampleGradients:
        return sample_gradients(model, inputs, labels, loss, layers)

    def _steps(self) -> Checkpoints:
        return Checkpoints(self.model, self.checkpoints, self.checkpoints_load_func)

    def _scores(self, inputs: Any, layers: Any, progress: bool, aggregate: bool = False) -> Tensor:
        return tracin(
            self._steps(), self.train_dataloader, _batches(inputs), self.loss_fn, self.test_loss_fn, layers, aggregate, progress or None,
            self._gradients
        )  # fmt: skip

    def _self(self, inputs: Any, layers: Any, progress: bool) -> Tensor:
        data = self.train_dataloader if inputs is None else _batches(inputs)
        return self_influence(self._steps(), data, self.loss_fn, layers, progress or None, self._gradients)


def _loader(dataset: Dataset[Any], batch_size: int | None) -> DataLoader[Any]:
    if batch_size is None:
        return DataLoader(dataset, batch_size=None)
    if batch_size < 1:
        raise OptionError(f"batch_size is {batch_size}; at least one is needed")
    return DataLoader(dataset, batch_size=batch_size, shuffle=False)


def _batches(inputs: Any) -> Iterable[Sequence[Any]]:
    """A loader as it is; one batch (inputs, ..., labels) as a list of one."""
    if isinstance(inputs, DataLoader):
        return inputs
    if not isinstance(inputs, tuple | list) or not inputs:
        raise InputError(f"inputs is {type(inputs).__name__}; give a batch (inputs, ..., labels), or a DataLoader of such")
    return [inputs]


def _most(scores: Tensor, k: int | None, proponents: bool) -> Tensor | KMostInfluentialResults:
    if k is None:
        return scores
    if not 1 <= k <= scores.shape[1]:
        raise OptionError(f"k is {k}, and there are {scores.shape[1]} training examples; give 1 to {scores.shape[1]}, or None for all")
    found = scores.topk(k, 1, largest=proponents)
    return KMostInfluentialResults(found.indices, found.values)


class TracInCP(TracInCPBase):
    """Influence by the gradients of all parameters, or of some layers: `pellucid.influence.tracin`."""

    def __init__(
        self,
        model: nn.Module,
        train_dataset: Dataset[Any] | DataLoader[Any],
        checkpoints: str | list[str] | Iterator[str],
        checkpoints_load_func: Callable[..., Any] = _load_flexible_state_dict,
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
        return _most(self._scores(inputs, self.layers, show_progress, aggregate), k, proponents)

    def self_influence(self, inputs: Any = None, show_progress: bool = False, outer_loop_by_checkpoints: bool = False) -> Tensor:
        """`(n,)`, of the training examples by default. Every checkpoint is loaded once in any case."""
        return self._self(inputs, self.layers, show_progress)

    def compute_intermediate_quantities(self, inputs: Any, aggregate: bool = False) -> Tensor:
        """Vectors `(n, D)` whose inner products are influences; with `aggregate` their sum, `(1, D)`."""
        found = projected(self._steps(), _batches(inputs), self.loss_fn, self.layers)
        return found.sum(0, keepdim=True) if aggregate else found


class TracInCPFast(TracInCPBase):
    """Influence by the weight of the last linear layer alone (its bias is left out, as in Captum)."""

    def __init__(
        self,
        model: nn.Module,
        final_fc_layer: nn.Module | str,
        train_dataset: Dataset[Any] | DataLoader[Any],
        checkpoints: str | list[str] | Iterator[str],
        checkpoints_load_func: Callable[..., Any] = _load_flexible_state_dict,
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

    def _gradients(self, model: nn.Module, inputs: Sequence[Any], labels: Any, loss: Any, layers: Any) -> SampleGradients:
        return weights_only(sample_gradients(model, inputs, labels, loss, [self._final]))

    def influence(  # type: ignore[override]
        self, inputs: Any, k: int | None = None, proponents: bool = True, show_progress: bool = False
    ) -> Tensor | KMostInfluentialResults:
        """`(n_test, n_train)`, or the `k` most influential."""
        return _most(self._scores(inputs, None, show_progress), k, proponents)

    def self_influence(self, inputs: Any = None, show_progress: bool = False, outer_loop_by_checkpoints: bool = False) -> Tensor:
        """`(n,)`, of the training examples by default."""
        return self._self(inputs, None, show_progress)


def weights_only(found: SampleGradients) -> SampleGradients:
    """Without the bias of a linear layer."""
    return SampleGradients({name: Outer(p.left, p.right) if isinstance(p, Outer) else p for name, p in found.parts.items()})


class TracInCPFastRandProj(TracInCPFast):
    """`TracInCPFast` by vectors that are computed once, so that `k` nearest ones can be searched; exactly, and projected if asked."""

    def __init__(
        self,
        model: nn.Module,
        final_fc_layer: nn.Module | str,
        train_dataset: Dataset[Any] | DataLoader[Any],
        checkpoints: str | list[str] | Iterator[str],
        checkpoints_load_func: Callable[..., Any] = _load_flexible_state_dict,
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
        data = _batches(inputs)
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
        queries = self.compute_intermediate_quantities(inputs)
        if self.nearest_neighbors is not None:
            indices, scores = self.nearest_neighbors.get_nearest_neighbors(queries if proponents else -queries, k)
            return KMostInfluentialResults(indices, scores if proponents else -scores)
        found = _most(queries @ self._vectors.T, k, proponents)
        assert isinstance(found, KMostInfluentialResults)
        return found


def cosine_similarity(test: Tensor, train: Tensor, replace_nan: float = 0.0) -> Tensor:
    """`(n_test, n_train)`; what is zero everywhere is like nothing."""
    a, b = test.flatten(1), train.flatten(1)
    found: Tensor = ((a @ b.T) / (a.norm(dim=1)[:, None] * b.norm(dim=1))).nan_to_num(nan=replace_nan)
    return found


class SimilarityInfluence(DataInfluence):
    """The training examples whose activations at a layer are most like the test example's; nothing is written to disk."""

    def __init__(
        self,
        module: nn.Module,
        layers: str | list[str],
        influence_src_dataset: Dataset[Any],
        activation_dir: str,
        model_id: str = "",
        similarity_metric: Callable[..., Tensor] = cosine_similarity,
        similarity_direction: str = "max",
        batch_size: int = 1,
        **kwargs: Any,
    ) -> None:
        self.module, self.layers = module, [layers] if isinstance(layers, str) else list(layers)
        self._watched()
        if similarity_direction not in ("max", "min"):
            raise OptionError(f"similarity_direction is {similarity_direction!r}; choose 'max' or 'min'")
        self.influence_src_dataset, self.activation_dir, self.model_id = influence_src_dataset, activation_dir, model_id
        self.influence_src_dataloader = _loader(influence_src_dataset, batch_size)
        self.similarity_metric, self.similarity_direction, self.batch_size = similarity_metric, similarity_direction, batch_size

    def influence(  # type: ignore[override]
        self, inputs: Any, top_k: int = 1, additional_forward_args: Any = None, load_src_from_disk: bool = True, **kwargs: Any
    ) -> dict[str, Any]:
        """`{layer: (indices, similarities)}`, `(n_test, top_k)` each; `zero_acts-layer` holds the pairs whose activations are zero."""
        extra = () if additional_forward_args is None else additional_forward_args
        extra = extra if isinstance(extra, tuple) else (extra,)
        asked = self._activations((*(inputs if isinstance(inputs, tuple) else (inputs,)), *extra))
        sources = [self._activations(batch if isinstance(batch, tuple | list) else (batch,)) for batch in self.influence_src_dataloader]
        if not sources:
            raise InputError("influence_src_dataset holds no examples")
        found: dict[str, Any] = {}
        for name in self.layers:
            train = torch.cat([source[name] for source in sources])
            similar = self.similarity_metric(asked[name], train)
            if similar.shape != (len(asked[name]), len(train)):
                raise InputError(
                    f"similarity_metric returned {tuple(similar.shape)} for {len(asked[name])} and {len(train)} examples; it must return "
                    "one number for each pair"
                )
            best = similar.topk(min(top_k, len(train)), 1, largest=self.similarity_direction == "max")
            found[name] = (best.indices, best.values)
            zero = (asked[name].flatten(1) == 0).all(1)[:, None] | (train.flatten(1) == 0).all(1)
            if bool(zero.any()):
                found[f"zero_acts-{name}"] = zero.nonzero()
                warnings.warn(
                    f"activations of layer {name} are zero for some examples, which are like nothing", RuntimeWarning, stacklevel=2
                )
        return found

    def _watched(self) -> list[nn.Module]:
        return [layer_named((self.module,), name) for name in self.layers]

    def _activations(self, inputs: Sequence[Any]) -> dict[str, Tensor]:
        with undisturbed((self.module,)), torch.no_grad(), watch(self._watched()) as seen:
            self.module(*inputs)
        for name, calls in zip(self.layers, seen, strict=True):
            if not calls or not calls[0]:
                raise OptionError(f"layer {name!r} does not run, or returns no tensor; choose another")
        return {name: calls[0][0] for name, calls in zip(self.layers, seen, strict=True)}
