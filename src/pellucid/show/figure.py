"""Which picture belongs to which kind of explanation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from matplotlib.figure import Figure

from ..errors import OptionError
from ..explanation import Explanation
from .image import draw_image
from .scale import one_of
from .series import draw_series
from .several import draw_several
from .table import draw_table
from .text import draw_text
from .training import draw_training

__all__ = ["KINDS", "drawn"]

KINDS: Mapping[str, Callable[..., Figure]] = {
    "image": draw_image,
    "table": draw_table,
    "text": draw_text,
    "series": draw_series,
    "tensor": draw_table,
    "examples": draw_training,
    "several": draw_several,
}


def drawn(explanation: Explanation, example: int, options: Mapping[str, Any]) -> Figure:
    """The picture of one example.

    Raises:
        OptionError: an option that pictures of this kind do not have. InputError: no such example.
    """
    kind = explanation.display.kind
    picture = KINDS[one_of(kind, KINDS, "kind")]
    known = list(inspect.signature(picture).parameters)[2:]
    for name in options:
        if name not in known:
            raise OptionError(f"a picture of kind {kind!r} has no option {name!r}; it has {', '.join(known)}")
    return picture(explanation, example, **options)
