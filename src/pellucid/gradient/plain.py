"""Methods of one gradient: the gradient itself, saliency, input x gradient."""

from __future__ import annotations

from dataclasses import replace

from ..batch import Part, Run
from ..explanation import Found
from ..inputs import Tensors, differentiable
from ..view import View

__all__ = ["gradient", "input_x_gradient", "saliency"]


def gradient(view: View, run: Run | None = None) -> Found:
    """The gradient of each example's score with respect to its features, `(T, B, ...)`.

    Source: Baehrens et al. 2010, equation 1. Raises `InputError` for features without gradients (integers).

    >>> import torch; from pellucid.view import at_input
    >>> view = at_input(torch.nn.Linear(3, 2), torch.ones(4, 3), target=1)
    >>> gradient(view).values[0].shape
    torch.Size([1, 4, 3])
    """
    features = differentiable(view.features)
    found: list[Part] = []
    (run or Run()).gradients(view, 1, lambda examples, _: tuple(f[None, examples] for f in features), found.append)
    return Found(_joined([part.gradients for part in found]), _joined([(part.scores,) for part in found])[0], pooling="norm")


def _joined(parts: list[Tensors]) -> Tensors:
    """Parts `(T, 1, b, ...)` of the batch, joined to `(T, B, ...)`."""
    import torch

    return tuple(p[0][:, 0] if len(p) == 1 else torch.cat([x[:, 0] for x in p], 1) for p in zip(*parts, strict=True))


def saliency(view: View, run: Run | None = None) -> Found:
    """The absolute gradient, `|dscore/dx|`.

    Source: Simonyan, Vedaldi, Zisserman 2014, section 3 (there with the maximum over colour channels, left to the picture).

    >>> import torch; from pellucid.view import at_input
    >>> bool((saliency(at_input(torch.nn.Linear(3, 2), torch.ones(4, 3), target=1)).values[0] >= 0).all())
    True
    """
    found = gradient(view, run)
    return replace(found, values=tuple(g.abs() for g in found.values))


def input_x_gradient(view: View, run: Run | None = None) -> Found:
    """The gradient times the features, `x * dscore/dx`: exact (and complete up to the bias) for a linear model.

    Source: Shrikumar et al. 2016, section 2.

    >>> import torch; from pellucid.view import at_input
    >>> layer = torch.nn.Linear(3, 1, bias=False)
    >>> x = torch.randn(4, 3)
    >>> torch.allclose(input_x_gradient(at_input(layer, x, target=0)).values[0][0].sum(1), layer(x)[:, 0], atol=1e-6)
    True
    """
    found = gradient(view, run)
    return Found(tuple(g * x for g, x in zip(found.values, view.features, strict=True)), found.scores)
