"""The names that Captum keeps in one file, `captum.attr._core.llm_attr`."""

from ...language.answer import GENERATION
from .llm import BaseLLMAttribution, LLMAttribution
from .llm_gradient import LLMGradientAttribution
from .llm_result import LLMAttributionResult
from .remote import RemoteLLMAttribution

DEFAULT_GEN_ARGS = dict(GENERATION)

__all__ = [
    "DEFAULT_GEN_ARGS",
    "BaseLLMAttribution",
    "LLMAttribution",
    "LLMAttributionResult",
    "LLMGradientAttribution",
    "RemoteLLMAttribution",
]
