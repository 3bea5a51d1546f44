"""Methods that need gradients: plain, along paths, under noise, against references, through layers, as maps."""

from .cam import CAMS, channel_averaged, class_activation_map, guided_grad_cam
from .layers import gradient_x_activation, internal_influence, layer_conductance, neuron_conductance
from .paths import integrated_gradients
from .plain import gradient, input_x_gradient, saliency
from .shap import expected_gradients
from .smoothing import noise_tunnel

__all__ = [
    "CAMS",
    "channel_averaged",
    "class_activation_map",
    "expected_gradients",
    "gradient",
    "gradient_x_activation",
    "guided_grad_cam",
    "input_x_gradient",
    "integrated_gradients",
    "internal_influence",
    "layer_conductance",
    "neuron_conductance",
    "noise_tunnel",
    "saliency",
]
