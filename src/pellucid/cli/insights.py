"""`pellucid insights`: many predictions of a model, looked at in the browser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from .. import zoo
from ..errors import OptionError
from ..insights import Insights
from ..insights import insights as look
from ..scale import open as opened
from ..task import Task
from .source import made_by

__all__ = ["insights"]


def insights(
    source: Annotated[
        str,
        typer.Argument(
            help="`demo`; the folder of a run (`pellucid run`); or module:function that returns (models, data), a mapping of the arguments "
            "of pellucid.insights, or what pellucid.insights returned. Models are torch modules or pellucid.Tasks; data are examples or "
            "pairs (example, label)."
        ),
    ],
    model: Annotated[str, typer.Option(help=f"Which model of the demo: {', '.join(zoo.NAMES)}.")] = "digits",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 finds a free one.")] = 0,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    expose: Annotated[bool, typer.Option("--expose", help="Let other machines reach it: whoever has the link can use the model.")] = False,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Show the page in the browser.")] = True,
    export: Annotated[Path | None, typer.Option(help="Write the view to this HTML file instead of serving it.")] = None,
) -> None:
    """Look at many predictions in the browser: filter, compare, explain, edit."""
    console = Console()
    with console.status("getting ready ..."):
        looked = _looked(source, model)
    if export is not None:
        with console.status("explaining ..."):
            path = looked.export(export)
        console.print(Text.assemble("The file: ", (str(path.resolve()), "bold")), soft_wrap=True)
        looked.close()
        return
    serving = looked.serve(host, port, expose=expose, open_browser=open_browser)
    console.print(Text.assemble("The page: ", (serving.url, "bold"), "\nThe link holds the key to it. Ctrl-C ends it."), soft_wrap=True)
    serving.wait()
    looked.close()


def _looked(source: str, model: str) -> Insights:
    if source == "demo":
        return demo_of(model)
    if Path(source).is_dir():
        return opened(source).insights()
    if ":" not in source:
        raise OptionError(f"{source!r} is neither `demo`, nor the folder of a run, nor module:function (such as mypackage.looking:load)")
    return looked_at(source, made_by(source, Path.cwd()))


def looked_at(source: str, made: Any) -> Insights:
    """What the user's function gave, ready to be looked at."""
    for fits, look_at in READINGS:
        if fits(made):
            return look_at(made)
    raise OptionError(
        f"{source} gave {type(made).__name__}; it must give (models, data), a mapping with `models` and `data`, or what pellucid.insights "
        "returns"
    )


READINGS: tuple[tuple[Callable[[Any], bool], Callable[[Any], Insights]], ...] = (
    (lambda made: isinstance(made, Insights), lambda made: made),
    (lambda made: hasattr(made, "insights") and isinstance(made.insights, Insights), lambda made: made.insights),
    (lambda made: isinstance(made, Mapping) and {"models", "data"} <= set(made), lambda made: look(**made)),
    (lambda made: isinstance(made, tuple) and len(made) in (2, 3), lambda made: look(*made)),
)


def demo_of(name: str) -> Insights:
    """One of the small models, with the examples that it has never seen."""
    if name not in zoo.NAMES:
        raise OptionError(f"--model is {name!r}; the demo has {', '.join(zoo.NAMES)}")
    task: Task = getattr(zoo, name)()
    return look(task, zoo.held_out(name, 10_000), title=f"Demo: {name}")
