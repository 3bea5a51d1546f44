"""Settings that must hold before torch is imported: one thread per worker, no display."""

import os
import random

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pytest
import torch

torch.set_num_threads(1)


def _seed():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_collectstart(collector):
    """Models that a test file makes while it is read are the same each time, whatever was read before it."""
    _seed()


@pytest.fixture(autouse=True, scope="module")
def _same_beginning():
    """What a file's fixtures draw does not depend on the tests before it."""
    _seed()


@pytest.fixture(autouse=True)
def _same_start():
    """Every test begins with the same random state."""
    _seed()
