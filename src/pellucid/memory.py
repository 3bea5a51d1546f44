"""Memory: what an example takes, what a call may take, how far the peak rises, and whether an error means the end of it."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from .inputs import Tensors
from .view import View

__all__ = ["CPU_BUDGET", "USUAL_GROWTH", "Forward", "Peak", "budget", "bytes_of", "bytes_per_example", "is_out", "release", "rows_within"]

# Activations of one call on a CPU. Larger calls are no faster (measured: the page on speed), but of large examples
# at least a few should share one.
CPU_BUDGET, CPU_FEW, CPU_BUDGET_OF_FEW = 48 * 2**20, 32, 128 * 2**20
GPU_SHARE = 0.4
# Rough activations per byte of input, where a call is too small to be worth measuring.
USUAL_GROWTH = 64
BYTES_PER_TOKEN = 2**18


class Peak:
    """The peak at the time of making, to be compared with the peak later: allocated on a GPU, resident on a CPU.

    The counters are read and never reset, so a rise below an earlier peak of the process shows as zero.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._before = device, _peak(device)

    def rise(self) -> int:
        """Bytes by which the peak is higher than it was."""
        return max(0, _peak(self._device) - self._before)


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def is_out(error: BaseException) -> bool:
    """Whether the error says that memory came to its end."""
    words = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in words or "can't allocate memory" in words


def release() -> None:
    """Give back what nothing holds any more."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def bytes_of(tensors: Tensors) -> int:
    """The bytes of the tensors' values."""
    return sum(t.numel() * t.element_size() for t in tensors)


def budget(device: torch.device) -> int:
    """Bytes of activations that one call may hold."""
    if device.type != "cuda":
        return CPU_BUDGET
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(GPU_SHARE * (free + unused))


Passed = Callable[[Tensors], None]
Forward = Callable[[View], object]


def ignored(points: Tensors) -> None:
    """Nobody counts."""


def rows_within(view: View, passed: Passed = ignored, forward: Forward | None = None) -> int:
    """How many examples one call may hold; `forward` is what is done with their view, to score it by default."""
    each, device = max(1, bytes_per_example(view, passed, forward)), view.features[0].device
    # Where only the part behind a layer is kept, the pass before it gains from many rows.
    few = (CPU_BUDGET_OF_FEW // each if forward else min(CPU_FEW, CPU_BUDGET_OF_FEW // each)) if device.type != "cuda" else 1
    return max(1, few, budget(device) // each)


_measured: WeakKeyDictionary[Any, dict[Any, int]] = WeakKeyDictionary()


def bytes_per_example(view: View, passed: Passed = ignored, forward: Forward | None = None) -> int:
    """Bytes that one example costs in a call: its input thrice, and the activations that its gradient would need.

    `passed` hears of the pass that measures, which each model needs once for each shape.
    """
    one = view.examples(slice(0, 1))
    if forward is not None:
        return 3 * bytes_of(one.features) + _saved_bytes(one, passed, forward)
    key = tuple((tuple(f.shape), f.dtype, f.device) for f in one.features)
    known = _measured.setdefault(view.roots[0], {}) if view.roots else {}
    if key not in known:
        known[key] = 3 * bytes_of(one.features) + _saved_bytes(one, passed, _scored)
    return known[key]


def _saved_bytes(one: View, passed: Passed, forward: Forward) -> int:
    """The bytes of what autograd keeps for the gradient of one example, without what belongs to the model."""
    if not all(f.is_floating_point() for f in one.features):
        return sum(f.numel() for f in one.features) * BYTES_PER_TOKEN
    if any(p.is_inference() for root in one.roots for p in root.parameters()):  # which autograd refuses to keep
        return USUAL_GROWTH * bytes_of(one.features)
    own = {p.untyped_storage().data_ptr() for root in one.roots for p in root.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    passed(one.features)
    try:
        _kept(one, pack, forward)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        if is_out(error):
            raise
        return USUAL_GROWTH * bytes_of(one.features)  # the model refuses an example by itself
    return sum(kept.values())


def _scored(one: View) -> None:
    one.score(tuple(f.clone().requires_grad_() for f in one.features))


def _kept(one: View, pack: Callable[[Tensor], Tensor], forward: Forward) -> None:
    with (
        warnings.catch_warnings(action="ignore"),  # what a user would hear in a real pass, they hear there
        torch.inference_mode(False),
        torch.enable_grad(),
        saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        forward(one)
