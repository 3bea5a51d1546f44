"""Every example in a docstring runs, and what is public says what it is."""

import dataclasses
import doctest
import importlib
import inspect
import pkgutil

import pytest

import pellucid

MODULES = sorted({"pellucid", *(found.name for found in pkgutil.walk_packages(pellucid.__path__, "pellucid."))} - {"pellucid.__main__"})
PACKAGES = [name for name in MODULES if hasattr(importlib.import_module(name), "__path__")]
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def test_the_modules_are_found():
    assert {"pellucid.explain", "pellucid.gradient.paths", "pellucid.captum.attr.noise", "pellucid.zoo.train"} <= set(MODULES)
    assert {"pellucid", "pellucid.captum.attr", "pellucid.trust", "pellucid.zoo"} <= set(PACKAGES)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    runner, report = doctest.DocTestRunner(optionflags=FLAGS), []
    for found in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name), name):
        runner.run(found, out=report.append)
    assert not runner.summarize(verbose=False).failed, "".join(report)


def test_there_are_examples_to_run():
    finder = doctest.DocTestFinder(exclude_empty=True)
    examples = [e for name in MODULES for found in finder.find(importlib.import_module(name), name) for e in found.examples]
    assert len(examples) > 20


@pytest.mark.parametrize("name", MODULES)
def test_a_module_says_what_it_is_and_its_names_exist(name):
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip()
    for public in getattr(module, "__all__", ()):
        assert hasattr(module, public), public


@pytest.mark.parametrize("name", PACKAGES)
def test_public_names_of_packages_have_docstrings(name):
    package = importlib.import_module(name)
    for public in getattr(package, "__all__", ()):
        value = getattr(package, public)
        if not (inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value)):
            continue  # a constant
        words = value.__doc__ or ""
        made = dataclasses.is_dataclass(value) and words.startswith(f"{value.__name__}(")  # what dataclasses write themselves
        assert words.strip(), f"{name}.{public} has no docstring"
        assert not made, f"{name}.{public} has no docstring"


@pytest.mark.parametrize("function", [pellucid.explain, pellucid.at_input])
def test_every_argument_is_described(function):
    described = inspect.getdoc(function)
    for argument in inspect.signature(function).parameters:
        assert f"\n    {argument}: " in described, argument
