"""`pellucid methods`: the methods and their options."""

from __future__ import annotations

import inspect

from rich.console import Console
from rich.table import Column, Table

from ..methods import ATTENTIONS, EVERY, MAPS, WITHOUT_GRADIENT

__all__ = ["methods"]


def methods() -> None:
    """List the methods, what each needs, and its options with their defaults."""
    table = Table(Column("method", overflow="fold"), "needs", "options (--option NAME=VALUE)")
    for name, method in EVERY.items():
        parameters = [p for p in inspect.signature(method).parameters.values() if p.name != "asked"]
        options = ", ".join(f"{p.name}={p.default}" for p in parameters)
        needs = "outputs" if name in WITHOUT_GRADIENT else "gradients"
        table.add_row(name, "--layer" if name in MAPS else "attention" if name in ATTENTIONS else needs, options)
    Console().print(table)
