"""`pellucid run`: every example of a data set, as a TOML file says."""

from __future__ import annotations

import functools
import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..errors import FileError, OptionError
from ..scale import Explainer, Results
from ..scale import run as run_over
from ..task import Task
from .source import made_by

__all__ = ["run"]

FILE = {"model": "text", "data": "text", "out": "text", "options": "table", "prepare": "text"}
EXPLAINER = {"method": "text", "target": "text, number or list", "dtype": "text", "layer": "text or list", "classes": "list",
             "baselines": "text, number, real or list", "at_most": "number"}  # fmt: skip
RUN = {"engine": "text", "workers": "text or number", "strict": "yes", "seed": "number", "block": "number", "arrays": "text",
       "keep_inputs": "yes", "tune": "yes or list", "columns": "text or list", "label": "text or number", "size": "list",
       "retry": "yes"}  # fmt: skip
KEYS = FILE | EXPLAINER | RUN
TYPES = {"text": str, "number": int, "real": float, "yes": bool, "list": list, "table": dict}
WORDS = {"number": "a whole number", "real": "a number", "yes": "true or false", "list": "a list", "table": "a table", "text": "a text"}


def run(
    config: Annotated[Path, typer.Argument(help="A TOML file: model, data, out, method, options, ...")],
    out: Annotated[Path | None, typer.Option(help="The folder of the run, instead of the file's.")] = None,
    engine: Annotated[str | None, typer.Option(help="local, ray or torchrun, instead of the file's.")] = None,
    workers: Annotated[str | None, typer.Option(help="A number, or all: one for each GPU, or each core.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first example that fails.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Explain blocks again that hold examples which failed.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Explain every example of a data set; interrupted, it goes on where it was when it is run again."""
    asked = _read(config)
    given = {"out": out, "engine": engine, "workers": _number(workers), "strict": strict or None, "retry": retry or None}
    asked |= {name: value for name, value in given.items() if value is not None}
    if missing := [name for name in ("model", "data", "out") if name not in asked]:
        raise OptionError(f"{str(config)!r} has no {missing[0]!r}; it needs a model, data and a folder out")
    here = config.resolve().parent
    target = Path(asked["out"]) if out is not None else here / asked["out"]
    data = _data(asked["data"], here)
    explainer, prepare = _explainer(asked, here, isinstance(data, Path))
    options = {name: asked[name] for name in RUN if name in asked}
    if "size" in options:
        options["size"] = tuple(options["size"])
    results = run_over(explainer, data, target, prepare=prepare, progress=not quiet, **options)
    if int(os.environ.get("RANK", "0")) == 0:
        _summary(results, target)


def _read(config: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FileError(f"{str(config)!r} cannot be read as TOML: {error}; see the page on runs for an example") from error
    if unknown := [name for name in found if name not in KEYS]:
        raise OptionError(f"{str(config)!r} has {unknown[0]!r}; what it may have is {', '.join(KEYS)}")
    for name, value in found.items():
        kinds = KEYS[name].replace(" or ", ", ").split(", ")
        if not any(type(value) is TYPES[kind] for kind in kinds):
            raise OptionError(f"{str(config)!r} has {name} = {value!r}; give {' or '.join(WORDS[kind] for kind in kinds)}")
    return found


def _number(words: str | None) -> int | str | None:
    return int(words) if words is not None and words.isdecimal() else words


def _explainer(asked: Mapping[str, Any], here: Path, raw: bool) -> tuple[Explainer, Callable[[Any], Any] | None]:
    """What is asked of every example, and how it is prepared: by the task, if it is raw."""
    named = {name: asked[name] for name in EXPLAINER if name in asked} | dict(asked.get("options", {}))
    if isinstance(named.get("target"), list):  # a place in an output of several dimensions
        named["target"] = tuple(named["target"])
    prepare = made_by(asked["prepare"], here, call=False) if "prepare" in asked else None
    made = made_by(asked["model"], here)
    if not isinstance(made, Task):
        if not callable(made):
            raise OptionError(f"{asked['model']} gave {type(made).__name__}; it must give a torch module or a pellucid.Task")
        return Explainer(made.eval() if hasattr(made, "eval") else made, **named), prepare
    if made.classes:
        named.setdefault("classes", made.classes)
    own = functools.partial(_as_row, made) if made.kind == "table" else made.prepare
    return Explainer(made.model, **named), prepare or (own if raw else None)


def _as_row(task: Task, cells: Any) -> Any:
    """A table's row comes by name, and a task takes its numbers in order."""
    return task.prepare(list(cells.values()) if isinstance(cells, Mapping) else cells)


def _data(words: str, here: Path) -> Any:
    """A folder or file beside the configuration, or what a function gives."""
    path = here / words
    return made_by(words, here) if ":" in words and not path.exists() else path


def _summary(results: Results, out: Path) -> None:
    total, table = results.total, Table("", "", box=SIMPLE_HEAD, show_header=False)
    each = total.seconds / max(1, total.examples)
    rows = {
        "explained": f"{total.examples - total.failed} of {len(results)}",
        "failed": f"{total.failed}",
        "to look at": f"{total.unhealthy} (a health check failed: column health)",
        "cost": f"{total.seconds:.1f} s of workers, {1000 * each:.1f} ms each; {total.forwards} forwards, {total.backwards} backwards",
        "stored": f"{total.bytes / 2**20:.1f} MiB in {out}",
    }
    for name, value in rows.items():
        table.add_row(name, escape(value))
    console = Console()
    console.print(table)
    console.print(f'In Python: [bold]pellucid.scale.open("{escape(str(out))}")[/]', soft_wrap=True, highlight=False)
