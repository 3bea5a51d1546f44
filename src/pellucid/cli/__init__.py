"""The command line: `pellucid demo`, `pellucid explain`, `pellucid insights`, `pellucid methods`, `pellucid run`."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from .. import __version__
from ..errors import PellucidError
from .demo import demo
from .explain import explain
from .insights import insights
from .methods import methods
from .run import run

__all__ = ["app", "main"]


class Commands(TyperGroup):
    """What Pellucid refuses is one message on standard error and exit code 2; Ctrl-C is another, and 130."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except PellucidError as error:
            _complain(Text.assemble((f"{type(error).__name__}: ", "bold red"), str(error)))
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            _complain(Text("interrupted; what was written so far is kept"))
            raise typer.Exit(130) from error


def _complain(text: Text) -> None:
    Console(stderr=True).print(text, soft_wrap=True)


app = typer.Typer(
    cls=Commands,
    help="Explanations you can check: why a PyTorch model did what it did, and how far that answer can be trusted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command()(demo)
app.command()(explain)
app.command()(insights)
app.command()(methods)
app.command()(run)


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
    """Run the command line; a stream that cannot encode a character gets a question mark in its place."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    app()
