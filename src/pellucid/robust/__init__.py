"""How little it takes to change what a model says: attacks, smallest perturbations, attacks compared."""

from .attacks import at_loss, fgsm, pgd
from .balls import BALLS, Ball, within
from .compare import ORIGINAL, Attack, Summary, compare
from .minimal import SEARCHES, Grid, Smallest, all_right, smallest
from .trials import Trials

__all__ = [
    "BALLS",
    "ORIGINAL",
    "SEARCHES",
    "Attack",
    "Ball",
    "Grid",
    "Smallest",
    "Summary",
    "Trials",
    "all_right",
    "at_loss",
    "compare",
    "fgsm",
    "pgd",
    "smallest",
    "within",
]
