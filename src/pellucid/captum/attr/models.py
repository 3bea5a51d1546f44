"""Captum's helpers around models: embeddings as inputs, references of tokens, inputs as layers."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import OptionError

__all__ = [
    "InterpretableEmbeddingBase",
    "ModelInputWrapper",
    "TokenReferenceBase",
    "configure_interpretable_embedding_layer",
    "remove_interpretable_embedding_layer",
]


class InterpretableEmbeddingBase(nn.Module):
    """Stands where an embedding stood and passes on embeddings that are given in place of indices."""

    def __init__(self, embedding: nn.Module, full_name: str) -> None:
        super().__init__()
        self.num_embeddings = getattr(embedding, "num_embeddings", None)
        self.embedding_dim = getattr(embedding, "embedding_dim", None)
        self.embedding, self.full_name = embedding, full_name

    def forward(self, *inputs: Any, **kwargs: Any) -> Tensor:
        """The first argument, by place or by keyword, as it is."""
        given = [*inputs, *kwargs.values()]
        if not given:
            raise OptionError(f"{self.full_name} was called without arguments; it passes on the embeddings that it is given")
        passed: Tensor = given[0]
        return passed

    def indices_to_embeddings(self, *input: Any, **kwargs: Any) -> Tensor:
        """What the embedding makes of indices."""
        found: Tensor = self.embedding(*input, **kwargs)
        return found


class TokenReferenceBase:
    """Baselines of token indices: one token (of padding, say) everywhere."""

    def __init__(self, reference_token_idx: int = 0) -> None:
        self.reference_token_idx = reference_token_idx

    def generate_reference(self, sequence_length: int, device: torch.device) -> Tensor:
        """`(sequence_length,)` indices."""
        return torch.full((sequence_length,), self.reference_token_idx, device=device)


def configure_interpretable_embedding_layer(model: nn.Module, embedding_layer_name: str = "embedding") -> InterpretableEmbeddingBase:
    """Put an `InterpretableEmbeddingBase` where the model's embedding is, until `remove_interpretable_embedding_layer`.

    `LayerIntegratedGradients` at the embedding answers the same question without changing the model.
    """
    parent, _, name = embedding_layer_name.rpartition(".")
    try:
        holder = model.get_submodule(parent)
        embedding = holder.get_submodule(name)
    except AttributeError as error:
        raise OptionError(f"the model has no layer {embedding_layer_name!r} ({error})") from error
    if isinstance(embedding, InterpretableEmbeddingBase):
        raise OptionError(f"{embedding_layer_name!r} is interpretable already; take it out with remove_interpretable_embedding_layer first")
    found = InterpretableEmbeddingBase(embedding, embedding_layer_name)
    setattr(holder, name, found)
    return found


def remove_interpretable_embedding_layer(model: nn.Module, interpretable_emb: InterpretableEmbeddingBase) -> None:
    """Put the model's own embedding back."""
    parent, _, name = interpretable_emb.full_name.rpartition(".")
    setattr(model.get_submodule(parent), name, interpretable_emb.embedding)


class _Input(nn.Module):
    """An input as a layer."""

    def __init__(self, input_name: str) -> None:
        super().__init__()
        self.input_name = input_name

    def forward(self, x: Any) -> Any:
        return x


class ModelInputWrapper(nn.Module):
    """The model with a layer of its own for each argument, `input_maps[name]`, so that layer methods reach inputs too."""

    def __init__(self, module_to_wrap: nn.Module) -> None:
        super().__init__()
        self.module = module_to_wrap
        self.arg_name_list = list(inspect.signature(module_to_wrap.forward).parameters)
        self.input_maps = nn.ModuleDict({name: _Input(name) for name in self.arg_name_list})

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model returns."""
        placed = [self.input_maps[name](arg) for name, arg in zip(self.arg_name_list, args, strict=False)]
        return self.module(*placed, *args[len(placed) :], **{name: self.input_maps[name](arg) for name, arg in kwargs.items()})
