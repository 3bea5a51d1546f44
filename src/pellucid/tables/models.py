"""How a model of tables is asked: rows of codes decoded into its own kind of table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import OptionError, OutputError
from ..methods import DISTRIBUTIONS, METHODS, WITHOUT_GRADIENT
from .columns import cells_at, values_of, word_of
from .frame import Group, Table

__all__ = ["Decoder", "asker_of", "classes_of", "compared_with", "differentiable_from"]


def asker_of(model: Any) -> str:
    """How the model is asked: the name of its method, or nothing if it is called.

    Raises:
        OptionError: it can be asked in no way.
    """
    if not isinstance(model, nn.Module):
        for name in ("predict_proba", "decision_function", "predict"):
            if callable(getattr(model, name, None)):
                return name
    if not callable(model):
        raise OptionError(f"model is {type(model).__name__}; give an estimator with predict, a torch module, or a function of the table")
    return ""


def classes_of(model: Any) -> tuple[str, ...]:
    """The names of a model's classes, if it tells them."""
    if isinstance(model, nn.Module):
        return ()
    known = getattr(model, "classes_", ())
    return () if isinstance(known, list) else tuple(map(str, np.asarray(known).tolist()))


@dataclass(frozen=True, eq=False)
class Decoder:
    """The model as a function of codes `(rows, groups)`."""

    model: Any
    ask: str
    pool: Table
    groups: Sequence[Group]

    def __call__(self, codes: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        try:
            return self._scores(codes, *args, **kwargs)
        except Exception as error:
            error.add_note(self._note(codes, error))
            raise

    def _scores(self, codes: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        of = {i: codes[:, g] for g, group in enumerate(self.groups) for i in group.at}
        data = self.pool.built([cells_at(column, of[i]) for i, column in enumerate(self.pool.columns)])
        output = (getattr(self.model, self.ask) if self.ask else self.model)(data, *args, **kwargs)
        return _tensor(output, self.ask, self.model)

    def _note(self, codes: Tensor, error: Exception) -> str:
        """Which row it was; a row that the model refuses by itself is looked for."""
        for code in codes[:256]:
            try:
                self._scores(code[None])
            except Exception as other:
                if type(other) is type(error):
                    return f"pellucid asked the model about the row {self._row(code)}: columns of an example and of the background mixed"
        return f"pellucid asked the model about {len(codes)} rows of {len(self.pool.names)} columns at once"

    def _row(self, code: Tensor) -> str:
        cells = sorted((i, code[g : g + 1]) for g, group in enumerate(self.groups) for i in group.at)
        return ", ".join(f"{self.pool.names[i]} = {word_of(values_of(cells_at(self.pool.columns[i], row))[0])}" for i, row in cells)


def _tensor(output: Any, ask: str, model: Any) -> Tensor:
    """What a model returned, as scores.

    Raises:
        OutputError: it is no array of numbers.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, list) and output and isinstance(output[0], np.ndarray):
        raise OutputError(
            f"the model returned {len(output)} arrays, one for each of its outputs; give a function that returns one of them: "
            "lambda rows: model.predict_proba(rows)[0]"
        )
    found = np.asarray(output)
    if ask == "predict" and classes_of(model):
        found = found[:, None] == np.asarray(model.classes_)
    try:
        scores = torch.from_numpy(np.array(found, dtype=found.dtype if found.dtype.kind == "f" else np.float64))
    except (TypeError, ValueError) as error:
        words = f"the model returned {found.dtype} of shape {found.shape}; it must return a number, or a row of numbers, for each row"
        raise OutputError(words) from error
    # A margin is that of the second class; that of the first is its opposite.
    return torch.stack([-scores, scores], 1) if ask == "decision_function" and scores.dim() == 1 and classes_of(model) else scores


def differentiable_from(model: Any, method: str, pool: Table) -> Tensor:
    """All rows as one tensor of numbers that a module takes.

    Raises:
        OptionError: the model or the data does not allow gradients.
    """
    if not isinstance(pool.columns[0], Tensor) or asker_of(model):
        can = ", ".join(name for name in METHODS if name in WITHOUT_GRADIENT)
        raise OptionError(
            f"{method} needs gradients, and {type(model).__name__} is no torch module (or function of tensors); use one of {can}"
        )
    numbers: Tensor = pool.built(pool.columns)
    return numbers


def compared_with(rows: Tensor, method: str) -> Tensor:
    """What a gradient method compares with."""
    if method not in DISTRIBUTIONS and len(rows) > 1:
        raise OptionError(
            f"{method} compares with one row, and background has {len(rows)}; give one row, such as their mean, or use gradient_shap, "
            "deeplift_shap or shapley, which mean over all"
        )
    return rows
