"""On a GPU: the same answers, on the same device, whatever fits; skipped where there is none."""

from copy import deepcopy

import pytest
import torch

import pellucid
from pellucid import METHODS, batch, metrics
from pellucid.captum.metrics import sensitivity_max
from pellucid.captum.robust import FGSM, PGD
from pellucid.concept import against_chance
from pellucid.gates import BinaryConcreteStochasticGates, GaussianStochasticGates
from pellucid.influence import INFLUENCES, influence
from pellucid.robust import (
    CORRUPTIONS,
    Grid,
    Trials,
    all_right,
    at_loss,
    attributions_moved,
    compare,
    corrupted,
    fgsm,
    pgd,
    robustness,
    smallest,
)
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


# Attacks and corruptions

EACH = torch.nn.CrossEntropyLoss(reduction="none")


@pytest.fixture
def both():
    """A model, examples and labels, here and there."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.Tanh(), torch.nn.Linear(9, 3)).double().eval()
    x, labels = torch.rand(5, 6).double(), torch.arange(5) % 3
    return [(model, x, labels), (deepcopy(model).cuda(), x.cuda(), labels)]  # labels follow the output


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("random_start", [False, True])
def test_attacks_are_the_same_there(both, norm, random_start):
    mask, upper = (torch.arange(6) > 0).double()[None], torch.full((6,), 0.875)
    found = []
    for model, x, labels in both:
        view = at_loss(model, x.clamp(0, 0.875), labels, EACH)
        options = {"mask": mask, "bounds": (0, upper)}  # these too
        found += [fgsm(view, 0.2, **options)[0], pgd(view, 0.3, 0.1, 4, norm=norm, random_start=random_start, seed=2, **options)[0]]
    assert found[2].is_cuda
    assert found[3].is_cuda
    torch.testing.assert_close(found[2].cpu(), found[0])
    torch.testing.assert_close(found[3].cpu(), found[1], rtol=1e-6, atol=1e-9)


def test_captums_attacks_run_there(both):
    model, x, labels = both[1]
    assert FGSM(model, EACH).perturb(x, 0.1, labels.cuda()).is_cuda
    for norm in ("Linf", "L2"):
        moved = PGD(model, EACH).perturb(x, 0.3, 0.1, 3, labels.cuda(), random_start=True, norm=norm)
        assert moved.is_cuda
        assert not torch.equal(moved, x)
    assert sensitivity_max(lambda x: x**2, x).is_cuda


def test_searches_and_comparisons_are_the_same_there(both):
    said = []
    for model, x, labels in both:
        attack = lambda points, epsilon, model=model, labels=labels: fgsm(at_loss(model, points, labels, EACH), epsilon)[0]  # noqa: E731
        own = model(x).argmax(1).tolist()
        right = lambda output, own=own: all_right(output, own)  # noqa: E731
        said.append(smallest(Trials(model, x), attack, "epsilon", Grid(0.0, 4.0, 0.125), right, together=3).value)
        compared = compare(Trials(model, x), lambda output: output[:, 0], {"a": lambda points: 2 * points}, together=2)
        said.append(compared["a"]["mean"].cpu().tolist())
    assert said[0] == said[2]
    assert said[1] == pytest.approx(said[3])


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_are_the_same_there(name):
    images = (torch.rand(3, 3, 20, 24, generator=torch.Generator().manual_seed(0)) * 255).round() / 255
    for dtype, far in ((torch.float32, 1e-4), (torch.float16, 5e-3)):
        given = images.to(dtype)
        found = corrupted(given.cuda(), name, 3, 1)
        assert found.is_cuda
        assert found.dtype == dtype
        # A JPEG rounds its coefficients, which a hair can turn.
        assert float((found.cpu().float() - corrupted(given, name, 3, 1).float()).abs().quantile(0.99)) < far
    assert corrupted(images.cuda(), name, 2, 1, (torch.zeros(3, 1, 1), 1)).is_cuda


def test_robustness_and_moved_attributions_are_the_same_there():
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 3)).double().eval()
    images, labels, found = torch.rand(6, 3, 8, 8).double(), [0, 1, 2, 0, 1, 2], []
    for own, x in ((model, images), (deepcopy(model).cuda(), images.cuda())):
        changed = robustness(own, x, labels, ["gaussian_noise", "contrast", "rotation"], (1, 5), seed=3)
        moved = attributions_moved(own, x, None, lambda x: (x + 0.1).clamp(0, 1), steps=20, seed=3)
        assert moved.draw(1) is not None
        found.append((changed.right, moved.largest.cpu(), moved.length.cpu(), moved.rank_correlation.cpu(), moved.top_overlap.cpu()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


# Concepts, gates, metrics


def test_concepts_are_the_same_there(both):
    torch.manual_seed(2)
    concept, randoms, found = torch.rand(40, 6).double() + 0.3, torch.rand(4, 10, 6).double(), []
    for model, x, _ in both:
        view = pellucid.at_input(model, x, 1)
        found.append(against_chance(view, "1", concept.to(x.device), randoms.to(x.device).unbind(), seed=0)["1"])
    assert found[1].sign_count.concept.is_cuda
    for one, other in zip(found[0].magnitude[:2], found[1].magnitude[:2], strict=True):
        torch.testing.assert_close(other.cpu(), one, rtol=1e-4, atol=1e-6)
    assert found[1].magnitude.p == pytest.approx(found[0].magnitude.p, rel=1e-3)
    assert found[1].accuracy == pytest.approx(found[0].accuracy)


@pytest.mark.parametrize("kind", [BinaryConcreteStochasticGates, GaussianStochasticGates])
def test_gates_work_there(kind):
    torch.manual_seed(0)
    gates = kind(3, mask=torch.tensor([0, 0, 1, 2])).eval()
    x = torch.rand(5, 4)
    expected = gates(x)
    gates = gates.cuda()
    for one, other in zip(gates(x.cuda()), expected, strict=True):
        assert one.is_cuda
        torch.testing.assert_close(one.cpu(), other)
    gated, penalty = gates.train()(x.cuda())
    (gated.sum() + penalty).backward()
    assert all(parameter.grad.is_cuda for parameter in gates.parameters())
    assert bool(((gated >= 0) & (gated <= x.cuda())).all())


def test_metrics_are_the_same_there(both):
    moves, found = torch.randn(5, 8, 6, generator=torch.Generator().manual_seed(3)).double(), []
    for model, x, labels in both:
        view = pellucid.at_input(model, x, labels)
        values = pellucid.explain(model, x, labels, "integrated_gradients", steps=20).attribution
        near = moves.to(x.device)
        explained = lambda points, count, model=model: (model(points[0])[:, :1] * points[0],)  # noqa: E731
        found.append(
            (
                metrics.infidelity_to(view, values, lambda count, x=x, near=near: ((near,), (x[:, None] - near,)), 8),
                metrics.sensitivity(explained, (x,), lambda count, x=x, near=near: (x[:, None] + 0.1 * near,), 8),
                metrics.deletion(view, values, 0.0, 6).scores,
                metrics.insertion(view, values, 0.0, 6).scores,
            )
        )
    for one, other in zip(*found, strict=True):
        assert other.is_cuda
        torch.testing.assert_close(other.detach().cpu(), one.detach(), rtol=1e-6, atol=1e-9)
