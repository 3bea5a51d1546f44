"""On a GPU: the same answers, on the same device, whatever fits; skipped where there is none."""

import pytest
import torch

import pellucid
from pellucid import METHODS, batch
from pellucid.influence import INFLUENCES, influence
from tests.laws.test_methods import OPTIONS
from tests.models import assert_same_state, cases, state_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
CASES = cases()


def moved(value, device):
    if isinstance(value, torch.Tensor):
        return value.to(device)
    return tuple(moved(v, device) for v in value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("case", CASES, ids=repr)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("lean", [False, True])
def test_the_gpu_says_what_the_cpu_says(case, method, lean, monkeypatch):
    if lean:
        monkeypatch.setattr(batch, "LEAN_FROM", 2)
        monkeypatch.setattr(batch, "LEAN_BYTES", 0)
    options = OPTIONS.get(method, {})
    expected = pellucid.explain(case.model, case.inputs, case.target, method, args=case.extra, seed=3, **options)
    model = case.model.cuda()
    try:
        before, state = state_of(model), torch.cuda.get_rng_state()
        inputs, target, extra = (moved(v, "cuda") for v in (case.inputs, case.target, case.extra))
        found = pellucid.explain(model, inputs, target, method, args=extra, seed=3, **options)
        assert_same_state(before, state_of(model))
        assert torch.equal(state, torch.cuda.get_rng_state())
    finally:
        case.model.cpu()
    for a, b in zip(found.attributions, expected.attributions, strict=True):
        assert a.is_cuda
        torch.testing.assert_close(a.cpu(), b, rtol=1e-6, atol=1e-9)
    if method != "feature_ablation":
        assert found.cost.backwards > 0


def test_to_a_tolerance_in_half_precision():
    case = CASES[1]
    model = case.model.cuda().half()
    try:
        x = case.inputs[0].cuda().half()
        found = pellucid.explain(model, x, 1, tolerance=0.05)
        assert found.attribution.dtype == torch.float16
        assert torch.isfinite(found.attribution).all()
        assert found.draw() is not None
    finally:
        case.model.cpu().double()


def test_memory_that_ends_for_real():
    """One call of all points would need far more than there is."""
    free, _ = torch.cuda.mem_get_info()
    width = int(free / 4 / 40_000)
    model = torch.nn.Sequential(torch.nn.Linear(8, width), torch.nn.Tanh(), torch.nn.Linear(width, 1)).cuda()
    x = torch.randn(64, 8, device="cuda")
    found = pellucid.explain(model, x, 0, steps=1000, at_most=64_000)
    assert found.check("completeness").passed
    assert found.cost.calls > 2


@pytest.mark.parametrize("method", INFLUENCES)
def test_influence_is_the_same_there(method):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).double()
    train, queries = (torch.randn(30, 5).double(), torch.arange(30) % 3), (torch.randn(4, 5).double(), torch.arange(4) % 3)
    options = {"exact": {"damping": 0.5}, "arnoldi": {"damping": 0.5}, "trak": {"projection": 8}}.get(method, {})
    expected = influence(model, train, queries, method, seed=0, **options)
    found = influence(model.cuda(), train, queries, method, seed=0, **options)  # the examples follow the model
    assert found.attribution.is_cuda or method == "representer"
    torch.testing.assert_close(found.attribution.cpu(), expected.attribution, rtol=1e-5, atol=1e-7)
