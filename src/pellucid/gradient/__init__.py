"""Methods that need gradients: plain, along paths, under noise, against references."""

from .paths import integrated_gradients
from .plain import gradient, input_x_gradient, saliency
from .shap import expected_gradients
from .smoothing import noise_tunnel

__all__ = ["expected_gradients", "gradient", "input_x_gradient", "integrated_gradients", "noise_tunnel", "saliency"]
