"""Files that are written whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .errors import FileError

__all__ = ["written"]


def written(path: Path, write: Callable[[Path], Any]) -> None:
    """Whole, or not at all: an interruption leaves no half of a file behind.

    Raises:
        FileError: it cannot be written.
    """
    part = path.with_name(f"{path.name}.part{os.getpid()}")
    try:
        write(part)
        part.replace(path)
    except (OSError, SafetensorError) as error:
        raise FileError(f"cannot write {str(path)!r}: {error}") from error
    finally:
        part.unlink(missing_ok=True)
