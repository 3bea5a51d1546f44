"""What a page is told when it opens: models, classes, methods with their arguments, orders, colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from ..model import in_train_mode
from ..show.colour import AGAINST, BAD, FOR, diverging
from .arguments import layer_of, layers_of, offered
from .catalogue import SORTS, VERDICTS

if TYPE_CHECKING:
    from .session import Session

__all__ = ["start_of"]

SHADES = 33


def start_of(session: Session) -> dict[str, Any]:
    """All that does not depend on an example."""
    from .. import __version__

    subjects = session.subjects
    return {
        "title": session.title,
        "version": __version__,
        "models": [
            {
                "name": s.name,
                "classes": list(s.classes),
                "layers": layers_of(s),
                "layer": layer_of(s),
                "targeted": s.targeted,
                "stored": bool(s.methods),
                "learned": isinstance(s.model, nn.Module) and any(True for _ in s.model.parameters()),
                "exclusive": s.exclusive,
            }
            for s in subjects
        ],
        "methods": offered(subjects),
        "sorts": [name for name in SORTS if name != "loss" or any(not s.methods or not s.classes for s in subjects)],
        "verdicts": list(VERDICTS),
        "size": len(session.catalogue.rows),
        "known": session.examples.ended,
        "notices": list(_notices(session)),
        "colours": {"for": FOR, "against": AGAINST, "bad": BAD, "diverging": _shades()},
    }


def _shades() -> list[list[int]]:
    return (np.asarray(diverging()(np.linspace(0, 1, SHADES)))[:, :3] * 255).round().astype(int).tolist()  # type: ignore[no-any-return]


def _notices(session: Session) -> Any:
    for subject in session.subjects:
        layers = in_train_mode(subject.roots)
        if layers:
            shown = ", ".join(layers[:3])
            yield f"{subject.name} is in train mode ({shown}): what it says is random or depends on the batch; call model.eval()"
