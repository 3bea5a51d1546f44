"""Groups: which features belong together, numbered without gaps across all inputs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError, OptionError, need
from ..inputs import Tensors

__all__ = ["Groups", "few_enough", "groups_of", "per_feature", "superpixels", "unions_of"]


@dataclass(frozen=True, eq=False)
class Groups:
    """The group of every feature.

    Attributes:
        ids: per input `(1, ...)`, or `(B, ...)` where examples are grouped differently; numbers 0 to `count - 1`.
        count: how many groups there are.
        single: every feature is a group of its own, in order.
    """

    ids: Tensors
    count: int
    single: bool = False

    def features_of(self, rows: Tensor, examples: slice) -> Tensors:
        """What holds for the groups, for their features: `(steps, count)` -> `(steps, b or 1, ...)` per input."""
        if self.single:
            return self._parts(rows[:, None], self.ids)
        return tuple(rows.to(i.device)[:, i if len(i) == 1 else i[examples]] for i in self.ids)

    def spread(self, values: Tensor) -> Tensors:
        """Give each feature the number of its group: `(T, count, B)` -> `(T, B, ...)` per input."""
        by_example = values.transpose(1, 2)
        return self._parts(by_example, self.ids) if self.single else tuple(_spread(by_example, i) for i in self.ids)

    @staticmethod
    def _parts(values: Tensor, ids: Tensors) -> Tensors:
        """`(a, b, count)` cut into the shapes of the inputs, `(a, b, ...)`."""
        parts = values.split([i.numel() for i in ids], 2) if len(ids) > 1 else (values,)
        return tuple(part.reshape(*part.shape[:2], *i.shape[1:]).to(i.device) for part, i in zip(parts, ids, strict=True))


def _spread(values: Tensor, ids: Tensor) -> Tensor:
    if len(ids) == 1:
        return values[:, :, ids[0]]
    flat = ids.reshape(1, len(ids), -1).expand(len(values), -1, -1)
    return values.gather(2, flat).reshape(len(values), *ids.shape)


def per_feature(groups: Groups, by_group: Tensor, features: Tensors) -> Tensors:
    """Numbers of groups `(T, groups, B)` as numbers of features, in the features' dtype."""
    return tuple(f.to(x.dtype) if x.is_floating_point() else f for f, x in zip(groups.spread(by_group), features, strict=True))


def groups_of(features: Tensors, masks: Tensor | Sequence[Tensor | None] | None = None) -> Groups:
    """The groups that masks of ids describe; without a mask every feature is a group of its own.

    Equal ids are one group, also across inputs. Ids need not be consecutive.

    Raises:
        InputError: another number of masks than inputs, masks of other types or shapes.
    """
    given = masks if isinstance(masks, tuple | list) else (masks,) * (len(features) if masks is None else 1)
    if len(given) != len(features):
        raise InputError(f"{len(given)} feature masks for {len(features)} inputs; give one for each (None: every feature on its own)")
    if all(m is None for m in given):
        return _singles(features)
    ids = _filled(features, [_checked(f, m, i) for i, (f, m) in enumerate(zip(features, given, strict=True))])
    known, numbered = torch.unique(torch.cat([i.flatten() for i in ids]), return_inverse=True)
    parts = numbered.split([i.numel() for i in ids])
    return Groups(tuple(p.view_as(i) for p, i in zip(parts, ids, strict=True)), len(known))


def _singles(features: Tensors) -> Groups:
    sizes = [f[0].numel() for f in features]
    starts = itertools.accumulate(sizes, initial=0)
    ids = (torch.arange(s, s + n, device=f.device).view(1, *f.shape[1:]) for f, s, n in zip(features, starts, sizes, strict=False))
    return Groups(tuple(ids), sum(sizes), single=True)


def _checked(feature: Tensor, mask: Tensor | None, index: int) -> Tensor | None:
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.is_floating_point() or mask.is_complex():
        found = f"{mask.dtype}" if isinstance(mask, Tensor) else type(mask).__name__
        raise InputError(f"feature_mask[{index}] is {found}; it must be a tensor of integer ids")
    try:
        rows = mask.shape[0] if mask.dim() == feature.dim() else 1
        return (
            mask.to(feature.device).long().expand(rows, *feature.shape[1:]) if rows in (1, len(feature)) else _misfit(feature, mask, index)
        )
    except RuntimeError:
        return _misfit(feature, mask, index)


def _misfit(feature: Tensor, mask: Tensor, index: int) -> Tensor:
    raise InputError(f"feature_mask[{index}] has shape {tuple(mask.shape)}; it must broadcast to the input's shape {tuple(feature.shape)}")


def _filled(features: Tensors, ids: list[Tensor | None]) -> Tensors:
    """Inputs without a mask get ids beyond all others."""
    free = 1 + max((int(i.max()) for i in ids if i is not None and i.numel()), default=-1)
    found = []
    for feature, given in zip(features, ids, strict=True):
        size = feature[0].numel()
        found.append(given if given is not None else torch.arange(free, free + size, device=feature.device).view(1, *feature.shape[1:]))
        free += size if given is None else 0
    return tuple(found)


MOST_GROUPS = 10_000


def few_enough(groups: Groups, what: str) -> None:
    """Refuse a fit whose matrix, groups x groups, would not fit into memory.

    Raises:
        OptionError: more than 10,000 groups.
    """
    if groups.count > MOST_GROUPS:
        raise OptionError(
            f"{what} fits {groups.count} numbers for each example, {MOST_GROUPS} at most; put features together with feature_mask "
            "(images: pellucid.perturb.superpixels), or use feature_ablation or occlusion"
        )


def unions_of(groups: Groups, unions: Groups) -> list[list[int]]:
    """The groups of each union.

    Raises:
        InputError: a group that lies in more than one union.
    """
    own = torch.full((groups.count,), -1, dtype=torch.long)
    for ids, outer in zip(groups.ids, unions.ids, strict=True):
        both = torch.stack([t.cpu().expand(max(len(ids), len(outer)), *t.shape[1:]).flatten() for t in (ids, outer)]).unique(dim=1)
        for group, union in both.T.tolist():
            if own[group] not in (-1, union):
                raise InputError(f"group {group} lies in the unions {int(own[group])} and {union}; every group must lie within one union")
            own[group] = union
    return [(own == union).nonzero().flatten().tolist() for union in range(unions.count)]


SEGMENTERS = ("slic", "quickshift", "felzenszwalb")


def superpixels(images: Tensor, by: str | Callable[[NDArray[np.float64]], NDArray[np.int64]] = "slic", **options: Any) -> Tensor:
    """A mask of ids `(B, 1, H, W)` of regions of similar colour, for `feature_mask`.

    Args:
        images: `(B, C, H, W)`; what is seen, scaled by itself to 0..1, as the model gets it or before normalisation.
        by: a segmenter of scikit-image (extra `vision`), or a function of one image `(H, W, C)` that returns ids `(H, W)`.
        options: the segmenter's own (`n_segments=50`, `compactness=10`, `kernel_size=4`, ...).

    Raises:
        OptionError: an unknown segmenter. InputError: no images. MissingExtra: scikit-image is not installed.

    >>> image = torch.zeros(1, 3, 16, 16); image[..., 8:] = 1
    >>> mask = superpixels(image, n_segments=4)
    >>> mask.shape, bool(mask[0, 0, 0, 0] != mask[0, 0, 0, 15])
    (torch.Size([1, 1, 16, 16]), True)
    """
    if images.dim() != 4:
        raise InputError(f"images of shape {tuple(images.shape)}; superpixels are of images (examples, channels, height, width)")
    if isinstance(by, str) and by not in SEGMENTERS:
        raise OptionError(f"by is {by!r}; choose one of {', '.join(map(repr, SEGMENTERS))}, or give a function")
    segment = getattr(need("skimage.segmentation", "vision"), by) if isinstance(by, str) else by
    found = []
    for image in images.detach().to("cpu", torch.float64):
        low, high = image.min(), image.max()
        seen = ((image - low) / (high - low if high > low else 1.0)).movedim(0, -1).expand(-1, -1, max(3, len(image))).contiguous().numpy()
        found.append(torch.as_tensor(np.asarray(segment(seen, **options)), dtype=torch.long))
    return torch.stack(found).unsqueeze(1).to(images.device)
