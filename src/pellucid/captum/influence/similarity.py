"""Captum's similarity of activations."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ...errors import InputError, OptionError
from ...hooks import watch
from ...inside import layer_named
from ...loaders import passed, refuse_shuffled
from ...model import undisturbed
from .base import DataInfluence, loader_of

__all__ = ["SimilarityInfluence", "cosine_similarity"]


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
        self.influence_src_dataloader = loader_of(influence_src_dataset, batch_size)
        refuse_shuffled(self.influence_src_dataloader, "influence_src_dataset")
        self.similarity_metric, self.similarity_direction, self.batch_size = similarity_metric, similarity_direction, batch_size

    def influence(  # type: ignore[override]
        self, inputs: Any, top_k: int = 1, additional_forward_args: Any = None, load_src_from_disk: bool = True, **kwargs: Any
    ) -> dict[str, Any]:
        """`{layer: (indices, similarities)}`, `(n_test, top_k)` each; `zero_acts-layer` holds the pairs whose activations are zero."""
        extra = () if additional_forward_args is None else additional_forward_args
        extra = extra if isinstance(extra, tuple) else (extra,)
        asked = self._activations((*(inputs if isinstance(inputs, tuple) else (inputs,)), *extra))
        sources = [
            self._activations(batch if isinstance(batch, tuple | list) else (batch,)) for batch in passed(self.influence_src_dataloader)
        ]
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
