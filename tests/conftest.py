"""Settings that must hold before torch is imported: one thread per worker, no display."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_start():
    """Every test begins with the same random state."""
    torch.manual_seed(0)
