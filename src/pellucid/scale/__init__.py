"""From one prediction to a data set: runs that store what they find, go on where they were, and use the machines there are."""

from .explainer import Explainer
from .manifest import Done
from .results import Results, open
from .run import run
from .summary import Clusters, Means

__all__ = ["Clusters", "Done", "Explainer", "Means", "Results", "open", "run"]
