"""What the user's own code raises, told in one message: what it was, where it was, and what it was called with."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError, OptionError, PellucidError

__all__ = ["blaming", "blaming_the_model"]

OURS = Path(__file__).parents[1]


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """Around a call of the user's code: whatever it raises is named as its own.

    Raises:
        OptionError: the code raised something else than a `PellucidError`.
    """
    try:
        yield
    except PellucidError:
        raise
    except ModuleNotFoundError as error:
        where = f"no module {error.name!r} can be found from {Path.cwd()}"
        raise OptionError(f"{what}: {where}; run from the folder that it lies in, or install it") from error
    except Exception as error:
        raise OptionError(f"{what} raised {_said(error)}") from error


@contextmanager
def blaming_the_model() -> Iterator[None]:
    """Around an explanation: an error out of the model's own forward is told with the shapes it was called with.

    Raises:
        InputError: the model raised.
    """
    try:
        yield
    except PellucidError:
        raise
    except Exception as error:
        notes = [note for note in getattr(error, "__notes__", ()) if note.startswith("pellucid called the model")]
        if not notes:
            raise
        raise InputError(f"the model raised {_said(error)}\n{notes[0]}; give it an example of the shape that it takes") from error


def _said(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if _is_theirs(Path(frame.filename))]
    place = f" (line {theirs[-1].lineno} of {theirs[-1].filename})" if theirs else ""
    return f"{type(error).__name__}: {error}{place}"


def _is_theirs(file: Path) -> bool:
    return file.is_relative_to(Path.cwd()) and not file.is_relative_to(OURS) and "site-packages" not in file.parts
