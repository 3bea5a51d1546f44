"""How training went, example by example: a recorder for any loop, what it tells about labels that may be wrong, and figures of it."""

from typing import TYPE_CHECKING, Any

from .record import Dynamics, Indexed, Recorder
from .scores import SUSPICIONS, DataMap, Forgetting, area_under_margin, data_map, forgetting, learning_epoch, outliers, suspicion

if TYPE_CHECKING:
    from .pictures import draw_data_map, draw_forgetting, draw_trajectories
    from .suspects import draw_suspects

__all__ = [
    "SUSPICIONS",
    "DataMap",
    "Dynamics",
    "Forgetting",
    "Indexed",
    "Recorder",
    "area_under_margin",
    "data_map",
    "draw_data_map",
    "draw_forgetting",
    "draw_suspects",
    "draw_trajectories",
    "forgetting",
    "learning_epoch",
    "outliers",
    "suspicion",
]


def __getattr__(name: str) -> Any:
    # matplotlib loads with the first picture, not with the package.
    if name.startswith("draw_") and name in __all__:
        from . import pictures, suspects

        return getattr(suspects if name == "draw_suspects" else pictures, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
