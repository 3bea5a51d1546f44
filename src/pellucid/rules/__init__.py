"""One backward engine: operations, however they are spelled, get other backward rules; DeepLIFT, guided methods and LRP are tables."""

from .compared import deeplift, deeplift_shap
from .guided import deconvolution, guided_backprop
from .lrp import COMPOSITES, attn_lrp, lrp

__all__ = ["COMPOSITES", "attn_lrp", "deconvolution", "deeplift", "deeplift_shap", "guided_backprop", "lrp"]
