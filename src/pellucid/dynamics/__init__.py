"""How training went, example by example: a recorder for any loop, and what it tells about labels that may be wrong."""

from .record import Dynamics, Indexed, Recorder
from .scores import SUSPICIONS, DataMap, Forgetting, area_under_margin, data_map, forgetting, learning_epoch, outliers, suspicion

__all__ = [
    "SUSPICIONS",
    "DataMap",
    "Dynamics",
    "Forgetting",
    "Indexed",
    "Recorder",
    "area_under_margin",
    "data_map",
    "forgetting",
    "learning_epoch",
    "outliers",
    "suspicion",
]
