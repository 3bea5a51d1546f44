"""What a transformer's attention says about a prediction: rollout, generic attention, transition attention, bidirectional maps."""

from .heads import Heads, heads_of
from .maps import ATTENTION_MAPS, ON_A_PATH, attention_map, relevance_matrices
from .watch import Attention, Seen, attentions

__all__ = ["ATTENTION_MAPS", "ON_A_PATH", "Attention", "Heads", "Seen", "attention_map", "attentions", "heads_of", "relevance_matrices"]
