"""Text: tokenizers' output and models of transformers as they are; words with their attributions, whatever the model says of them."""

from .attended import HeadMaps, LayerMaps, head_maps, layer_maps
from .entries import encoded, is_named
from .meaning import Each
from .reading import STATED, Reading, read
from .vocabulary import labels_of

__all__ = ["STATED", "Each", "HeadMaps", "LayerMaps", "Reading", "encoded", "head_maps", "is_named", "labels_of", "layer_maps", "read"]
