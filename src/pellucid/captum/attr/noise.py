"""Captum's NoiseTunnel: another attribution averaged over noisy inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from ...batch import Run
from ...gradient.smoothing import scales_of, smooth
from ...inputs import Tensors, tile
from ...picks import Every
from ...seeds import generator, resolve_seed
from ...view import InputView, at_input, stacked
from .base import Attribution, as_tuple

__all__ = ["NoiseTunnel"]


class NoiseTunnel(Attribution):
    """SmoothGrad, its square or VarGrad of any attribution: `pellucid.gradient.noise_tunnel`."""

    def __init__(self, attribution_method: Attribution) -> None:
        super().__init__(attribution_method.forward_func)
        self.attribution_method = attribution_method

    def attribute(
        self,
        inputs: Any,
        nt_type: str = "smoothgrad",
        nt_samples: int = 5,
        nt_samples_batch_size: int | None = None,
        stdevs: float | tuple[float, ...] = 1.0,
        draw_baseline_from_distrib: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Attributions as the wrapped method shapes them; `kwargs` are its own; deltas `(B * nt_samples,)` if it returns them."""
        view = at_input(self.forward_func, inputs, Every(), kwargs.get("additional_forward_args"))
        view = cast(InputView, Run().ready(view, nt_samples))
        seed, deltas = resolve_seed(None), list[Tensor]()
        source = generator(seed, -2) if draw_baseline_from_distrib else None

        def attribute(points: Tensors) -> Tensors:
            copies, flat = len(points[0]), stacked(points)
            found = self.attribution_method.attribute(
                flat if isinstance(inputs, tuple | list) else flat[0], **_grown(kwargs, view, copies, source)
            )
            if kwargs.get("return_convergence_delta"):
                found, delta = found
                deltas.append(delta.unflatten(0, (copies, view.size, -1)))
            return tuple(a.unflatten(0, (1, copies, -1)) for a in as_tuple(found))

        values, _ = smooth(
            attribute, view.features, scales_of(view.features, stdevs, False), nt_samples, nt_type, seed,
            at_once=bool(view.at_once), at_most=nt_samples_batch_size,
        )  # fmt: skip
        attributions = tuple(v[0] for v in values)
        shaped = attributions if isinstance(inputs, tuple | list) else attributions[0]
        return (shaped, torch.cat(deltas).transpose(0, 1).flatten()) if deltas else shaped

    def attribute_future(self) -> None:
        """Not for noise tunnels, in Captum neither."""
        raise NotImplementedError("attribute_future is not implemented for NoiseTunnel")

    def has_convergence_delta(self) -> bool:
        """As the wrapped method."""
        return self.attribution_method.has_convergence_delta()

    @property
    def multiplies_by_inputs(self) -> bool:
        """As the wrapped method."""
        return self.attribution_method.multiplies_by_inputs


def _grown(keywords: Mapping[str, Any], view: InputView, copies: int, source: torch.Generator | None) -> dict[str, Any]:
    """The wrapped method's arguments for stacked copies of the batch; a source draws one of the baselines for each copy."""
    grown = dict(keywords)
    size = view.size
    for name in ("baselines", "feature_mask", "target"):
        if name in grown:
            grown[name] = _each(grown[name], lambda value: _repeated(value, size, copies))
    if source is not None:
        grown["baselines"] = _drawn(keywords["baselines"], size, copies, source)
    if keywords.get("additional_forward_args") is not None:
        grown["additional_forward_args"] = view.call.at([*range(size)] * copies).arguments
    return grown


def _each(value: Any, change: Any) -> Any:
    return tuple(change(v) for v in value) if isinstance(value, tuple) else change(value)


def _repeated(value: Any, size: int, copies: int) -> Any:
    """What has one entry for each example, once more for each copy."""
    if isinstance(value, list) and len(value) == size:
        return value * copies
    return tile(value, copies) if isinstance(value, Tensor) and value.dim() and len(value) == size > 1 else value


def _drawn(baselines: Any, size: int, copies: int, source: torch.Generator) -> Any:
    """For every copy one row of the distribution, the same for all its examples and inputs."""
    count = max(len(b) for b in as_tuple(baselines))
    rows = torch.randint(count, (copies,), generator=source).repeat_interleave(size)
    return _each(baselines, lambda b: b[rows.to(b.device)] if len(b) == count else b.expand(len(rows), *b.shape[1:]))
