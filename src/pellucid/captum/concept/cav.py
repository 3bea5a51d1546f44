"""Concept activation vectors, and the files that they are kept in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...concept import load, save
from ...errors import OptionError
from .concepts import Concept, concepts_to_str

__all__ = ["CAV", "loaded", "named"]


class CAV:
    """Concept activation vectors of a layer: `stats` has weights `(C, F)`, classes, and what the classifier told."""

    def __init__(
        self,
        concepts: list[Concept],
        layer: str,
        stats: dict[str, Any] | None = None,
        save_path: str = "./cav/",
        model_id: str = "default_model_id",
    ) -> None:
        self.concepts, self.layer, self.stats, self.save_path, self.model_id = concepts, layer, stats, save_path, model_id
        self.marks: Mapping[str, str] = {}

    @staticmethod
    def assemble_save_path(path: str, model_id: str, concepts: list[Concept], layer: str) -> str:
        """`path/model_id/0-1-layer.safetensors`."""
        return str(Path(path) / model_id / f"{concepts_to_str(concepts)}-{layer}.safetensors")

    @staticmethod
    def create_cav_dir_if_missing(save_path: str, model_id: str) -> None:
        """Make the folder of a model."""
        (Path(save_path) / model_id).mkdir(parents=True, exist_ok=True)

    def save(self) -> None:
        """Write the numbers of `stats`, without pickle, and what tells whose they are."""
        self.create_cav_dir_if_missing(self.save_path, self.model_id)
        path = self.assemble_save_path(self.save_path, self.model_id, self.concepts, self.layer)
        save(path, {name: _numbers(name, value) for name, value in (self.stats or {}).items()}, {**named(self.concepts), **self.marks})

    @staticmethod
    def load(cavs_path: str, model_id: str, concepts: list[Concept], layer: str) -> CAV | None:
        """What is stored for concepts of these numbers and names; None where there is nothing."""
        return loaded(cavs_path, model_id, concepts, layer, {})


def loaded(save_path: str, model_id: str, concepts: list[Concept], layer: str, marks: Mapping[str, str]) -> CAV | None:
    """What is stored for concepts, if all that it depends on is as these marks say.

    Raises:
        FileError: it is not.
    """
    path = CAV.assemble_save_path(save_path, model_id, concepts, layer)
    if not Path(path).exists():
        return None
    stats, told = load(path, {**named(concepts), **marks})
    cav = CAV(concepts, layer, {**stats, "classes": stats["classes"].numpy()} if "classes" in stats else dict(stats), save_path, model_id)
    cav.marks = told
    return cav


def named(concepts: list[Concept]) -> dict[str, str]:
    """The names of concepts, as a file keeps them."""
    return {"names": repr([concept.identifier for concept in concepts])}


def _numbers(name: str, value: Any) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise OptionError(f"stats[{name!r}] is {type(value).__name__}, which cannot be saved as numbers ({error}); leave it out") from error
