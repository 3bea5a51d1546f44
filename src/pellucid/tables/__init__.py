"""Models on tables: columns of any type by name, and what matters over a whole data set."""

from .explain import explain_table
from .importance import Importance, importance

__all__ = ["Importance", "explain_table", "importance"]
