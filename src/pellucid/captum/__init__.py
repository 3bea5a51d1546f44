"""Captum's names over Pellucid's methods: replace `captum` by `pellucid.captum` in an import, or call `install()`."""

from . import attr, concept, influence, metrics, module, robust
from .install import install, uninstall

__version__ = "0.9.0"
"""The Captum whose surface this is; libraries compare it before they use what is new."""

__all__ = ["attr", "concept", "influence", "install", "metrics", "module", "robust", "uninstall"]
