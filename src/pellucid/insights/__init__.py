"""Insights: look at many predictions, in the browser, in the notebook, or in one file that can be mailed."""

from .app import Insights, insights

__all__ = ["Insights", "insights"]
