"""The surface: public names, types, version; importing brings only what is needed."""

import importlib.metadata
import importlib.resources
import inspect
import json
import re
import subprocess
import sys

import pytest
import torch

import pellucid

HEAVY = ("paddle", "pandas", "matplotlib", "sklearn", "skimage", "transformers", "tqdm", "IPython", "captum", "PIL", "rich", "typer")


@pytest.mark.parametrize("name", pellucid.__all__)
def test_public_names_exist_and_are_documented(name):
    value = getattr(pellucid, name)
    if inspect.isclass(value) or inspect.isroutine(value):
        assert (value.__doc__ or "").strip()
        assert not value.__doc__.startswith(f"{name}(")  # what a dataclass writes itself
        assert value.__module__.startswith("pellucid")
    else:
        assert f"`pellucid.{name}`" in inspect.getdoc(pellucid.explain)


def test_public_names_are_sorted_and_complete():
    assert len(set(pellucid.__all__)) == len(pellucid.__all__)
    errors = {name for name, value in vars(pellucid.errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert len(errors) == 11
    assert errors <= set(pellucid.__all__)
    namespace = {}
    exec("from pellucid import *", namespace)
    assert set(pellucid.__all__) <= set(namespace)


def imported_by(code):
    """The heavy libraries in a fresh process after this code."""
    code += f"\nimport sys, json\nprint(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stderr == ""
    return set(json.loads(found.stdout.splitlines()[-1]))


def test_importing_brings_nothing_that_torch_does_not():
    by_torch = imported_by("import torch, numpy, safetensors.torch")
    assert by_torch < set(HEAVY)
    assert imported_by("import pellucid") <= by_torch


def test_explaining_and_captums_names_bring_no_drawing():
    code = """
import torch, pellucid
from pellucid import captum
model = torch.nn.Linear(3, 2)
pellucid.explain(model, torch.randn(2, 3), 1, "smoothgrad", samples=3).save(path := __import__("tempfile").mktemp())
pellucid.Explanation.load(path), __import__("os").remove(path)
captum.attr.Saliency(model).attribute(torch.randn(2, 3), target=0)
"""
    assert not imported_by(code) & {"matplotlib", "sklearn", "skimage", "transformers", "IPython", "captum", "PIL"}


def test_types_are_announced():
    assert importlib.resources.files("pellucid").joinpath("py.typed").is_file()


def test_the_version_is_that_of_the_package():
    assert pellucid.__version__ == importlib.metadata.version("pellucid")
    assert re.fullmatch(r"\d+\.\d+\.\d+", pellucid.__version__)


def test_every_error_has_the_common_root_and_a_builtin_one():
    roots = {
        "InputError": ValueError,
        "TargetError": ValueError,
        "OutputError": TypeError,
        "OptionError": ValueError,
        "FileError": OSError,
        "RemoteError": ConnectionError,
        "MissingExtra": ImportError,
    }
    for name, root in roots.items():
        assert issubclass(getattr(pellucid, name), pellucid.PellucidError)
        assert issubclass(getattr(pellucid, name), root)
    assert issubclass(pellucid.UntrustedResult, pellucid.PellucidError)
    assert issubclass(pellucid.PellucidWarning, UserWarning)
    assert not issubclass(pellucid.PellucidWarning, pellucid.PellucidError)


def test_the_methods_are_those_that_explain_knows():
    for method in pellucid.METHODS:
        model = torch.nn.Linear(3, 2)
        assert pellucid.explain(model, torch.randn(2, 3), 1, method).method == method
