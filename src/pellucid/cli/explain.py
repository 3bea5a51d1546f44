"""`pellucid explain`: a user's model and file, explained by several methods, on one page."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ..errors import OptionError
from ..methods import METHODS, find
from ..show import Section
from .demo import explained
from .output import folder, summary, write
from .source import kind_of, read, task_of

__all__ = ["explain"]


def explain(
    model: Annotated[
        str, typer.Argument(help="module:function that returns a torch module or a pellucid.Task, or a Hugging Face model folder.")
    ],
    file: Annotated[Path, typer.Argument(help="An image, a CSV or TSV table, or a text file.")],
    method: Annotated[list[str] | None, typer.Option("--method", "-m", help="A method (see `pellucid methods`); may be repeated.")] = None,
    target: Annotated[str | None, typer.Option(help="Class name or number, or a difference: 'cat - dog'. Default: the prediction.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="NAME=VALUE for the methods that have it; may be repeated.")
    ] = None,
    classes: Annotated[str | None, typer.Option(help="The classes' names, separated by commas.")] = None,
    size: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH to resize an image to.")] = None,
    row: Annotated[int, typer.Option(min=0, help="Which row of a table.")] = 0,
    seed: Annotated[int, typer.Option(help="For random methods.")] = 0,
    strict: Annotated[bool, typer.Option(help="Fail where a health check fails, or where the target had to be guessed.")] = False,
    save: Annotated[bool, typer.Option(help="Save the explanations themselves too (safetensors).")] = False,
    out: Annotated[Path, typer.Option(help="Folder for the page and the pictures.")] = Path("pellucid-out"),
) -> None:
    """Explain one prediction of your model; write a page and pictures."""
    console = Console()
    methods = method or ["saliency", "integrated_gradients", "feature_ablation"]
    options = _options(option or [], methods)
    raw = read(file, row)
    task = task_of(model, kind_of(file), _size(size), tuple(classes.split(",")) if classes else ())
    folder(out)
    explanations = []
    for name in methods:
        with console.status(f"{name} ..."):
            explanations.append(explained(task, raw, name, target, seed, strict=strict, **options[name]))
    sections = [Section(file.name, f"Model: {model}", explanations)]
    path = write(sections, out, f"{file.name}: why?", "")
    if save:
        for explanation in explanations:
            explanation.save(out / f"{explanation.method}.safetensors")
    summary(sections, console)
    console.print(f"The page: [bold]{path}[/] (pictures beside it)", soft_wrap=True)


def _size(size: str | None) -> tuple[int, int] | None:
    if size is None:
        return None
    height, _, width = size.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise OptionError(f"--size is {size!r}; give HEIGHTxWIDTH, such as 224x224")
    return int(height), int(width)


def _options(given: list[str], methods: list[str]) -> dict[str, dict[str, Any]]:
    """Each method's share of the options; one that no method has is refused."""
    pairs = dict(_pair(text) for text in given)
    takes = {name: set(inspect.signature(METHODS[find(name, {})[0]]).parameters) for name in methods}
    for option in pairs:
        if not any(option in names for names in takes.values()):
            raise OptionError(f"no method among {', '.join(methods)} has an option {option!r}; see `pellucid methods`")
    return {name: {o: v for o, v in pairs.items() if o in takes[name]} for name in methods}


def _pair(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise OptionError(f"--option is {text!r}; give NAME=VALUE, such as steps=100")
    return name, _value(value)


def _value(text: str) -> Any:
    known = {"true": True, "false": False, "none": None}
    if text.lower() in known:
        return known[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
