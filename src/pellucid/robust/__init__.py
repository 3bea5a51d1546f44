"""How little it takes to change what a model says, and why it says it: attacks, smallest perturbations, corruptions."""

from .attacks import fgsm, pgd
from .balls import BALLS, Ball, within
from .compare import ORIGINAL, Attack, compare
from .corruptions import CORRUPTIONS, SEVERITIES, Corruption, corrupted, draw_corruptions
from .losses import at_loss
from .minimal import SEARCHES, Grid, Smallest, all_right, smallest
from .moved import Moved, attributions_moved
from .robustness import Robustness, robustness
from .summary import STATISTICS, Row, Summary
from .trials import Trials

__all__ = [
    "BALLS",
    "CORRUPTIONS",
    "ORIGINAL",
    "SEARCHES",
    "SEVERITIES",
    "STATISTICS",
    "Attack",
    "Ball",
    "Corruption",
    "Grid",
    "Moved",
    "Robustness",
    "Row",
    "Smallest",
    "Summary",
    "Trials",
    "all_right",
    "at_loss",
    "attributions_moved",
    "compare",
    "corrupted",
    "draw_corruptions",
    "fgsm",
    "pgd",
    "robustness",
    "smallest",
    "within",
]
