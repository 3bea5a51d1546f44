"""`pellucid explain`: a user's model and file, explained by several methods, on one page."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from ..errors import OptionError
from ..methods import EVERY, find, kinds_of
from ..show import Section
from ..show.terminal import terminal
from .demo import explained
from .output import folder, summary, write
from .source import given, task_of

__all__ = ["explain"]


def explain(
    model: Annotated[
        str | None, typer.Argument(help="module:function that returns a torch module or a pellucid.Task, or a Hugging Face model folder.")
    ] = None,
    file: Annotated[Path | None, typer.Argument(help="An image, a CSV or TSV table, or a text file.")] = None,
    text: Annotated[str | None, typer.Option(help="A text instead of a file; beside an image, the question about it.")] = None,
    context: Annotated[str | None, typer.Option(help="The text that answers the question in --text.")] = None,
    named: Annotated[str | None, typer.Option("--model", help="The model, instead of the first argument.")] = None,
    method: Annotated[list[str] | None, typer.Option("--method", "-m", help="A method (see `pellucid methods`); may be repeated.")] = None,
    target: Annotated[str | None, typer.Option(help="Class name or number, or a difference: 'cat - dog'. Default: the prediction.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="NAME=VALUE for the methods that have it; may be repeated.")
    ] = None,
    classes: Annotated[str | None, typer.Option(help="The classes' names, separated by commas.")] = None,
    size: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH to resize an image to.")] = None,
    token: Annotated[
        str | None, typer.Option(help="Of a model that says something of every token: which one, its number or the token itself.")
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Explain what a layer holds instead of the inputs: its name; needed by class activation maps.")
    ] = None,
    neuron: Annotated[str | None, typer.Option(help="Explain a unit of that layer instead of an output: 3, or 2,1,1.")] = None,
    row: Annotated[int, typer.Option(min=0, help="Which row of a table.")] = 0,
    seed: Annotated[int, typer.Option(help="For random methods.")] = 0,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail where a health check fails, or where the target had to be guessed.")
    ] = False,
    save: Annotated[bool, typer.Option("--save", help="Save the explanations themselves too, as safetensors.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for the page and the pictures.")] = Path("pellucid-out"),
) -> None:
    """Explain one prediction of your model; write a page and pictures."""
    console = Console()
    methods = list(dict.fromkeys(find(name, {})[0] for name in method or ["saliency", "integrated_gradients", "feature_ablation"]))
    options = _options(option or [], methods)
    place = _place(layer, neuron)
    if named is not None:
        model, file = named, Path(model) if model is not None and file is None else file
    if model is None:
        raise typer.BadParameter("give module:function or a Hugging Face model folder", param_hint="MODEL")
    if file is None and text is None:
        raise typer.BadParameter("give a file, or a text: --text 'a good film'", param_hint="FILE")
    raw, kind, title = given(file, row, text, context)
    task = task_of(model, kind, _size(size), _names(classes))
    wanted = target if token is None else (int(token) if _is_number(token) else token, target)
    folder(out)
    explanations = []
    for name in methods:
        with console.status(f"{name} ..."):
            explanations.append(explained(task, raw, name, wanted, seed, strict=strict, **place, **options[name]))
    sections = [Section(title, f"Model: {model}", explanations)]
    path = write(sections, out, f"{title}: why?", "")
    if save:
        for explanation in explanations:
            explanation.save(out / f"{explanation.method}.safetensors")
    summary(sections, console)
    for explanation in explanations:
        if explanation.display.kind in ("text", "several"):
            console.print(f"\n{explanation.method}", style="bold")
            console.print(replace(terminal(explanation), head=(), foot=()))
    console.print(f"The page: [bold]{escape(str(path))}[/] (pictures beside it)", soft_wrap=True)


def _is_number(token: str) -> bool:
    return token.removeprefix("-").isdigit()


def _place(layer: str | None, neuron: str | None) -> dict[str, Any]:
    if neuron is None:
        return {} if layer is None else {"layer": layer}
    if re.fullmatch(r"-?\d+(,-?\d+)*", neuron.replace(" ", "")) is None:
        raise OptionError(f"--neuron is {neuron!r}; give the unit's index in one example, such as 3 or 2,1,1")
    index = tuple(int(part) for part in neuron.split(","))
    return {"layer": layer, "neuron": index[0] if len(index) == 1 else index}


def _size(size: str | None) -> tuple[int, int] | None:
    if size is None:
        return None
    found = re.fullmatch("([1-9][0-9]*)[xX]([1-9][0-9]*)", size)
    if found is None:
        raise OptionError(f"--size is {size!r}; give HEIGHTxWIDTH, such as 224x224")
    return int(found[1]), int(found[2])


def _names(classes: str | None) -> tuple[str, ...]:
    names = tuple(name.strip() for name in classes.split(",")) if classes is not None else ()
    if not all(names):
        raise OptionError(f"--classes is {classes!r}, in which a name is empty; give names separated by commas, such as cat,dog")
    return names


def _options(given: list[str], methods: list[str]) -> dict[str, dict[str, Any]]:
    """Each method's share of the options; one that no method has is refused."""
    pairs = dict(_pair(text) for text in given)
    takes = {name: [p for p in inspect.signature(EVERY[name]).parameters if p != "asked"] for name in methods}
    for option in pairs:
        if not any(option in names for names in takes.values()):
            raise OptionError(f"{', '.join(methods)}: there is no option {option!r}; `pellucid methods` lists the options of each method")
    return {name: {o: _checked(name, o, v) for o, v in pairs.items() if o in takes[name]} for name in methods}


def _checked(method: str, option: str, value: Any) -> Any:
    """The value, if it is of a kind that the method's signature names, and that can be written on a command line."""
    if not set(kinds_of(method, option)) & {int, float, bool, str}:
        raise OptionError(f"{method}'s option {option!r} cannot be given on the command line; use pellucid.explain in Python")
    find(method, {option: value})
    return value


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
