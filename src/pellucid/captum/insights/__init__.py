"""Captum Insights' names (Captum 0.8) over `pellucid.insights`."""

from . import features
from .visualizer import AttributionVisualizer, Batch, FilterConfig, OutputScore, VisualizationOutput

__all__ = ["AttributionVisualizer", "Batch", "FilterConfig", "OutputScore", "VisualizationOutput", "features"]
