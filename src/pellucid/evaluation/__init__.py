"""Evaluation: methods compared by metrics, next to maps that know nothing."""

from .evaluate import evaluate
from .metrics import METRICS, Metric
from .record import Evaluation
from .ways import CONTROLS

__all__ = ["CONTROLS", "METRICS", "Evaluation", "Metric", "evaluate"]
