"""Language models: prompts in units, how likely an answer is after them, and what each unit contributes."""

from .answer import Answer, answer_of, generated
from .citations import Citations
from .context import cite
from .explain import explain_generation
from .forced import forced_view
from .hierarchy import explain_hierarchy
from .in_place import in_place
from .likelihood import Likelihood, log_likelihood
from .made import made_prompt
from .media import at_media
from .prompt import Prompt, Slot, TextPrompt, TokenPrompt, chat_prompt, template_prompt, token_prompt
from .remote import RemoteLLMProvider, RemoteView, VLLMProvider, remote_view
from .result import Generated
from .spans import text_prompt
from .tree import Hierarchy, Node
from .units import prompt_of
from .view import PromptView, at_prompt

__all__ = [
    "Answer",
    "Citations",
    "Generated",
    "Hierarchy",
    "Likelihood",
    "Node",
    "Prompt",
    "PromptView",
    "RemoteLLMProvider",
    "RemoteView",
    "Slot",
    "TextPrompt",
    "TokenPrompt",
    "VLLMProvider",
    "answer_of",
    "at_media",
    "at_prompt",
    "chat_prompt",
    "cite",
    "explain_generation",
    "explain_hierarchy",
    "forced_view",
    "generated",
    "in_place",
    "log_likelihood",
    "made_prompt",
    "prompt_of",
    "remote_view",
    "template_prompt",
    "text_prompt",
    "token_prompt",
]
