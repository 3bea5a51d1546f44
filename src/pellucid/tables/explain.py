"""`explain_table`: what a model says about rows of a table, an attribution for each column or category."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..errors import OptionError
from ..explain import explain
from ..explanation import Explanation
from ..methods import DISTRIBUTIONS, WITHOUT_GRADIENT, find
from ..perturb import marginal
from .background import background_of, grouped, is_dear
from .frame import fitted_to, joined_with, read_table
from .models import Decoder, asker_of, classes_of, compared_with, differentiable_from
from .telling import by_group, told_of

__all__ = ["explain_table"]

CELLS = 2**19  # in a call of the model, unless told otherwise
SAMPLED = ("shapley", "banzhaf", "owen")
COMPARED = WITHOUT_GRADIENT | DISTRIBUTIONS | {"integrated_gradients", "deeplift"}
ELSEWHERE = {"baselines": "background", "names": "columns", "layer": "pellucid.explain", "neuron": "pellucid.explain"}


def explain_table(
    model: Any,
    data: Any,
    target: Any = None,
    method: str = "shapley",
    *,
    background: Any = None,
    columns: Sequence[Any] | None = None,
    categories: Mapping[str, Sequence[Any]] | str | None = None,
    classes: Sequence[str] = (),
    seed: int | None = None,
    **options: Any,
) -> Explanation:
    """Explain what a model says about rows of a table: one attribution for each column, or category of columns.

    Args:
        model: a scikit-learn estimator or pipeline (its `predict_proba`, else `decision_function`, else `predict`), a torch
            module (it gets a float tensor), or a function of what `data` is.
        data: the rows to explain: a pandas DataFrame of any types, an array, a tensor, a list of rows or of dictionaries. The
            model gets its own kind and types.
        target: which output, as in `pellucid.explain`; classes by the names in the model's `classes_`. None: the predicted class.
        method: one of `pellucid.METHODS`; those that need gradients need a torch module and numbers. Shapley values are exact
            for few columns, else sampled until they are good enough.
        background: rows that stand in for what is taken away, in the same columns; scores are meant over them. None: one
            typical row of at least 20 rows of data: the mean of numbers (rounded where they are whole), the most frequent
            value or one-hot category of everything else.
        columns: names of the columns of an array; of data with names, which columns the model gets, in this order.
        categories: one-hot blocks that are one category each: `{"job": ["job=clerk", "job=smith"]}`, or what separates the
            category from the value in the columns' names, `"="`.
        classes: names of the classes, where the model does not tell them.
        seed: for methods that draw samples.
        options: the method's own, and `strict`, `at_most`, `progress` of `pellucid.explain`.

    `features` are the numbers of numeric columns; of all others, the number of the value among the sorted ones.

    Raises:
        InputError: columns that do not exist or differ, no rows, or no background where one is needed.
        OptionError: a method that the model or the data does not allow.

    >>> rows = [{"age": 41, "job": "clerk"}, {"age": 23, "job": "smith"}]
    >>> wage = lambda rows: [row["age"] + 10 * (row["job"] == "smith") for row in rows]
    >>> found = explain_table(wage, rows, background={"age": 30, "job": "clerk"})
    >>> found.attribution.tolist(), found.display.cells[0]
    ([[11.0, 0.0], [-7.0, 10.0]], ('41', 'clerk'))
    """
    for name in options:
        if name in ELSEWHERE:
            raise OptionError(f"explain_table has no {name}: use {ELSEWHERE[name]}")
    name, ask = find(method, {})[0], asker_of(model)
    table = fitted_to(read_table(data, columns, "data"), model)
    groups = grouped(table.names, categories)
    inner = find(str(options["of"]), {})[0] if "of" in options else name
    rows = background_of(table, background, groups) if inner in COMPARED or background is not None else None
    rows = rows if inner in COMPARED else None
    told = tuple(classes) or classes_of(model)
    if name in WITHOUT_GRADIENT and rows is not None:
        if name in SAMPLED and "evaluations" not in options and not is_dear(len(groups), rows.size):
            options["evaluations"] = "auto"
        pool, size = joined_with(table, rows), rows.size
        decoder = Decoder(model, ask, pool, groups)
        if name == "shapley":
            options.setdefault("estimator", "kernel")  # rows are cheap, whatever codes look like
        options["at_most"] = options.get("at_most") or max(256, CELLS // len(pool.columns))
        codes = torch.arange(table.size + size, device=pool.device)[:, None].repeat(1, len(groups))
        here, there = codes[: table.size], marginal(codes[table.size :])
        found = explain(decoder, here, target, method, baselines=there, classes=told, seed=seed, kind="table", **options)
    else:
        pool, size = (table, 0) if rows is None else (joined_with(table, rows), rows.size)
        numbers = differentiable_from(model, name, pool)
        compared = None if rows is None else compared_with(numbers[table.size :], inner)
        here = numbers[: table.size]
        found = explain(model, here, target, method, baselines=compared, classes=told, seed=seed, kind="table", **options)
        found = by_group(found, groups)
    return told_of(found, model, ask, table, pool, size, groups)
