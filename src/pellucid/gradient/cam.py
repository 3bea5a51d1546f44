"""Class activation maps: what is made of a layer's activations and gradients where both lie on a picture."""

from __future__ import annotations

from torch import Tensor

__all__ = ["channel_averaged"]


def channel_averaged(gradient: Tensor, activation: Tensor) -> Tensor:
    """The activation, each channel weighted by the mean of its gradient: Grad-CAM before its sum over channels.

    Source: Selvaraju et al. 2017, equations 1 and 2.
    """
    places = tuple(range(3, gradient.dim()))
    return (gradient.mean(places, keepdim=True) if places else gradient) * activation
