"""Captum's names over Pellucid's methods: replace `captum` by `pellucid.captum` in an import, or call `install()`."""

from . import attr
from .install import install, uninstall

__all__ = ["attr", "install", "uninstall"]
