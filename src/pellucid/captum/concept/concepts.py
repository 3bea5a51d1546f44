"""Concepts, and the data that their examples come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset, IterableDataset

from ...errors import InputError

__all__ = ["Concept", "CustomIterableDataset", "concepts_to_str", "dataset_to_dataloader", "examples_of"]


class Concept:
    """A concept: a number, a name, and batches of its examples."""

    def __init__(self, id: int, name: str, data_iter: DataLoader[Any] | None) -> None:
        self.id, self.name, self.data_iter = id, name, data_iter

    @property
    def identifier(self) -> str:
        """Name and number, `"stripes-0"`."""
        return f"{self.name}-{self.id}"

    def __repr__(self) -> str:
        return f"Concept({self.id!r}, {self.name!r})"


def concepts_to_str(concepts: list[Concept]) -> str:
    """The numbers of concepts, `"0-1"`."""
    return "-".join(str(concept.id) for concept in concepts)


class CustomIterableDataset(IterableDataset[Any]):
    """The files of a folder, in the order of their names, each made a tensor; or what is made of the path of a file."""

    def __init__(self, transform_filename_to_tensor: Callable[..., Any], path: str) -> None:
        self.transform_filename_to_tensor, self.path, self.file_itr = transform_filename_to_tensor, path, None
        if Path(path).is_dir():
            self.file_itr = sorted(str(file) for file in Path(path).iterdir() if not file.name.startswith("."))

    def __iter__(self) -> Iterator[Any]:
        if self.file_itr is None:
            return iter(self.transform_filename_to_tensor(self.path))
        return map(self.transform_filename_to_tensor, self.file_itr)


def dataset_to_dataloader(dataset: Dataset[Any], batch_size: int = 64) -> DataLoader[Any]:
    """A loader of batches in the order of the data set."""
    return DataLoader(dataset, batch_size=batch_size)


def examples_of(concept: Concept) -> Any:
    """The loader of a concept's examples.

    Raises:
        InputError: it has none.
    """
    if concept.data_iter is None:
        raise InputError(f"{concept} has no data_iter; give it a loader of its examples")
    return concept.data_iter
