"""Captum's metrics, side by side with the installed captum, and against their formulas."""

import captum.attr
import captum.metrics as theirs
import pytest
import torch
from torch import nn

import pellucid.captum.attr
import pellucid.captum.metrics as ours
from pellucid import InputError, OptionError
from pellucid.metrics import sensitivity


class Two(nn.Module):
    """Two inputs and an argument."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(5, 8), nn.Linear(3, 8), nn.Linear(8, 3)

    def forward(self, x, y, scale=1.0):
        return self.out(torch.tanh(self.a(x) + self.b(y))) * scale


@pytest.fixture(scope="module")
def nets():
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double().eval()
    return one, Two().double().eval(), torch.randn(4, 5).double(), torch.randn(4, 3).double()


def noise(shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.3


def moved(inputs, baselines=None):
    """The same noise for the same number of rows."""
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    moves = tuple(noise(x.shape) for x in given)
    points = tuple(x - m for x, m in zip(given, moves, strict=True))
    return (moves, points) if isinstance(inputs, tuple) else (moves[0], points[0])


@pytest.mark.filterwarnings("ignore:.?max_examples_per_batch")
@pytest.mark.parametrize("most", [None, 1, 4, 9, 100])
@pytest.mark.parametrize("normalize", [False, True])
def test_infidelity(nets, normalize, most):
    one, two, x, y = nets
    target = torch.tensor([0, 2, 1, 1])
    attributions = noise(x.shape, 7)
    options = {"target": target, "n_perturb_samples": 7, "max_examples_per_batch": most, "normalize": normalize}
    a, b = (library.infidelity(one, moved, x, attributions, **options) for library in (ours, theirs))
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    both, scale = (attributions, noise(y.shape, 8)), torch.rand(4, 1).double()
    for args in (scale, (2.0,)):
        a, b = (library.infidelity(two, moved, (x, y), both, additional_forward_args=args, **options) for library in (ours, theirs))
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("multiply", [True, False])
@pytest.mark.parametrize("baselines", [None, 0.5, "tensor"])
def test_decorated(nets, multiply, baselines):
    one, _, x, _ = nets
    x = torch.where(torch.arange(5) == 2, 0.0, x)  # nothing to divide by
    found = []
    for library in (ours, theirs):

        @library.infidelity_perturb_func_decorator(multiply)
        def perturb(inputs, baselines=None):
            return inputs - noise(inputs.shape)

        ends = torch.full_like(x, 0.25) if baselines == "tensor" else baselines
        found.append(library.infidelity(one, perturb, x, noise(x.shape, 3), baselines=ends, target=1, n_perturb_samples=5))
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-9)


def test_infidelity_is_zero_for_what_is_said_exactly():
    weights = torch.randn(5).double()
    found = ours.infidelity(lambda x: x @ weights, moved, torch.randn(4, 5).double(), weights.expand(4, 5), n_perturb_samples=20)
    assert found.max() < 1e-20
    wrong = ours.infidelity(lambda x: x @ weights, moved, torch.randn(4, 5).double(), 3 * weights.expand(4, 5), n_perturb_samples=20)
    assert wrong.min() > 1e-3
    scaled = ours.infidelity(
        lambda x: x @ weights, moved, torch.randn(4, 5).double(), 3 * weights.expand(4, 5), n_perturb_samples=20, normalize=True
    )
    assert scaled.max() < 1e-20


def shifted(inputs, perturb_radius=0.02):
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    return tuple(x + perturb_radius * noise(x.shape) for x in given)


@pytest.mark.filterwarnings("ignore:.?max_examples_per_batch")
@pytest.mark.parametrize("norm", ["fro", 1, float("inf")])
@pytest.mark.parametrize("most", [None, 1, 9])
def test_sensitivity_max(nets, norm, most):
    one, two, x, y = nets
    options = {"perturb_func": shifted, "n_perturb_samples": 5, "norm_ord": norm, "max_examples_per_batch": most, "perturb_radius": 0.5}
    target = torch.tensor([0, 2, 1, 1])
    for name in ("Saliency", "IntegratedGradients"):
        a, b = (
            metrics.sensitivity_max(getattr(attr, name)(one).attribute, x, target=target, **options)
            for metrics, attr in ((ours, pellucid.captum.attr), (theirs, captum.attr))
        )
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)
    kwargs = {"target": [0, 1, 2, 0], "baselines": (x * 0.5, 0.0), "additional_forward_args": torch.rand(4, 1).double()}
    a, b = (
        metrics.sensitivity_max(attr.IntegratedGradients(two).attribute, (x, y), **kwargs, **options)
        for metrics, attr in ((ours, pellucid.captum.attr), (theirs, captum.attr))
    )
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_masks_of_each_example(nets):
    """Captum gives the masks of the batch to all copies of it, and fails."""
    one, _, x, _ = nets
    masks = torch.stack([torch.arange(5) % (2 + i % 2) for i in range(4)])
    attribute = pellucid.captum.attr.FeatureAblation(one).attribute
    options = {"perturb_func": shifted, "n_perturb_samples": 3, "perturb_radius": 0.5}
    whole = ours.sensitivity_max(attribute, x, target=1, feature_mask=masks, max_examples_per_batch=4, **options)
    own = attribute(x, target=1, feature_mask=masks)
    moved_by = 0.5 * noise(x.shape)
    other = attribute(x + moved_by, target=1, feature_mask=masks)
    torch.testing.assert_close(whole, (other - own).norm(dim=1) / own.norm(dim=1))


def test_default_noise(nets):
    one, _, x, _ = nets
    attribute = pellucid.captum.attr.Saliency(one).attribute
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = ours.sensitivity_max(attribute, x, target=1, max_examples_per_batch=4)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(first, ours.sensitivity_max(attribute, x, target=1))  # however many go together
    assert (first > 0).all()
    one_by_one = []
    for i in range(4):
        torch.manual_seed(3)
        one_by_one.append(ours.sensitivity_max(attribute, x[i : i + 1], target=1))
    torch.testing.assert_close(torch.cat(one_by_one), first)
    assert all((a - b).abs().max() <= 0.1 for a, b in zip(ours.default_perturb_func((x,), 0.1), (x,), strict=True))
    nothing = ours.sensitivity_max(lambda x: torch.zeros_like(x), x)
    assert not nothing.any()


def test_a_largest_of_several(nets):
    x = torch.ones(2, 4)
    points = torch.stack([torch.full((3, 4), 1.5), torch.full((3, 4), 3.0)])
    found = sensitivity(lambda p, count: (p[0],), (x,), lambda count: (points[:, :count],), 3)
    torch.testing.assert_close(found, torch.tensor([[0.5] * 3, [2.0] * 3]))


def test_refusals(nets):
    one, _, x, _ = nets
    with pytest.raises(InputError, match="must return"):
        ours.infidelity(one, lambda x: x, x, x, target=0)
    with pytest.raises(InputError, match="perturbed inputs have the shapes"):
        ours.infidelity(one, lambda x: (x, x[:, :2]), x, x, target=0)
    with pytest.raises(InputError, match="attribution"):
        ours.infidelity(one, moved, x, x[:, :2], target=0)
    with pytest.raises(OptionError, match="0 samples"):
        ours.infidelity(one, moved, x, x, target=0, n_perturb_samples=0)
    with pytest.warns(UserWarning, match="max_examples_per_batch is 1"):
        ours.infidelity(one, moved, x, x, target=0, max_examples_per_batch=1)
