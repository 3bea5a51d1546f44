"""How far an answer can be trusted: health checks, and where the answer comes from."""

from .health import health_of, refuse
from .provenance import provenance_of

__all__ = ["health_of", "provenance_of", "refuse"]
