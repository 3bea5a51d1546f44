"""The command line: `pellucid demo`, `pellucid explain`, `pellucid methods`."""

from __future__ import annotations

import sys
from typing import Annotated

import torch
import typer
from rich.console import Console

from .. import __version__
from ..errors import PellucidError
from .demo import demo
from .explain import explain
from .methods import methods

__all__ = ["app", "main"]

app = typer.Typer(
    help="Explanations you can check: why a PyTorch model did what it did, and how far that answer can be trusted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command()(demo)
app.command()(explain)
app.command()(methods)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pellucid {__version__} (torch {torch.__version__})")
        raise typer.Exit


@app.callback()
def common(
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; small models are fastest with one.")] = 1,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")] = False,
) -> None:
    """What holds for every command."""
    torch.set_num_threads(threads)


def main() -> None:
    """Run the command line; what Pellucid refuses is one message on standard error and exit code 2."""
    console = Console(stderr=True)
    try:
        app(standalone_mode=True)
    except PellucidError as error:
        console.print(f"[bold red]{type(error).__name__}:[/] ", end="")
        console.print(str(error), markup=False, highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("interrupted; what was written so far is kept")
        sys.exit(130)
