"""How far the peak of memory rises while something runs."""

from __future__ import annotations

import sys

import torch

__all__ = ["Peak"]


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
