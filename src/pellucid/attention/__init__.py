"""What a transformer's attention says about a prediction: rollout, generic attention, transition attention, bidirectional maps."""

from .maps import ATTENTION_MAPS, ON_A_PATH, attention_map, relevance_matrices
from .watch import Attention, Seen, attentions

__all__ = ["ATTENTION_MAPS", "ON_A_PATH", "Attention", "Seen", "attention_map", "attentions", "relevance_matrices"]
