"""What can go wrong, in one tree::

    PellucidError
    ├── InputError          inputs, baselines, masks or extra arguments that do not fit    (ValueError)
    ├── TargetError         a target that the model's output does not have                 (ValueError)
    ├── OutputError         a model that returns something that cannot be scored           (TypeError)
    ├── OptionError         an unknown method, or an option that a method does not have    (ValueError)
    ├── FileError           a file that cannot be read, or is not what it should be        (OSError)
    ├── RemoteError         an endpoint that fails, refuses, or has been asked enough      (ConnectionError)
    ├── MissingExtra        a feature whose optional dependency is not installed           (ImportError)
    └── UntrustedResult     `strict=True` and a result that fails a health check
        └── IncompleteAttribution   attributions that do not add up to what they explain

    PellucidWarning         the same health check, without `strict`; `.code` names the check

Every message names the value, the rule it breaks, and the way out.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Mapping
from types import ModuleType

__all__ = [
    "FileError",
    "IncompleteAttribution",
    "InputError",
    "MissingExtra",
    "OptionError",
    "OutputError",
    "PellucidError",
    "PellucidWarning",
    "RemoteError",
    "TargetError",
    "UntrustedResult",
    "need",
    "warn",
]


class PellucidError(Exception):
    """The root of the tree: `except PellucidError` catches whatever Pellucid refuses."""


class InputError(PellucidError, ValueError):
    """Inputs, baselines, masks or extra arguments do not fit the model or each other."""


class TargetError(PellucidError, ValueError):
    """The target names something that the model's output does not have."""


class OutputError(PellucidError, TypeError):
    """The model returned something that is not one score (or one row of scores) per example."""


class OptionError(PellucidError, ValueError):
    """An unknown method, or a value that an option cannot take."""


class FileError(PellucidError, OSError):
    """A file is missing, unreadable, or not of the expected kind."""


class RemoteError(PellucidError, ConnectionError):
    """An endpoint cannot be reached, refuses, answers something else, or has been asked as often as it may be.

    Attributes:
        answers: what it had answered before, by the text that it was asked about.
        status: the HTTP status that it refuses with, if it does.
    """

    def __init__(self, message: str, answers: Mapping[str, tuple[float, ...]] | None = None, status: int | None = None) -> None:
        super().__init__(message)
        self.answers, self.status = dict(answers or {}), status


class MissingExtra(PellucidError, ImportError):
    """A feature needs an optional dependency that is not installed."""


class UntrustedResult(PellucidError):
    """A result fails one of its own health checks and `strict=True` was asked for."""


class IncompleteAttribution(UntrustedResult):
    """The attributions do not add up to what they should explain, and `strict=True` was asked for."""


class PellucidWarning(UserWarning):
    """A result that should not be taken at face value; `code` names the check that failed."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"[{code}] {message}")
        self.code = code


def warn(code: str, message: str) -> None:
    """Issue a `PellucidWarning` that points at the user's line, not at one of ours."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("pellucid"):
        frame, level = frame.f_back, level + 1
    warnings.warn(PellucidWarning(code, message), stacklevel=level)


def need(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say which extra brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(f"{module} is not installed; it comes with the extra {extra!r}: pip install 'pellucid[{extra}]'") from error
