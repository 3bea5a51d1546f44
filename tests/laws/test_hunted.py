"""What a hunt for silently wrong numbers found: each of these was wrong, or crashed, once."""

import pytest
import torch
from torch import nn

import pellucid
from pellucid import InputError, TargetError
from pellucid.batch import Run, elsewhere
from pellucid.view import at_input


class Centred(nn.Module):
    """Examples see each other through their mean, which copies of the batch do not change."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        return torch.tanh(3 * self.layer(x - x.mean(0)))


class Offset(nn.Module):
    """Small differences on a large score, and examples that see each other."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 1)

    def forward(self, x):
        return 1e3 + torch.tanh(self.layer((x - x.mean(0)) / (x.std(0, unbiased=False) + 0.1)))[:, 0]


@pytest.fixture
def x():
    torch.manual_seed(0)
    return torch.randn(5, 6)


@pytest.mark.parametrize("method", ["smoothgrad", "vargrad", "gradient_shap", "integrated_gradients", "feature_ablation"])
@pytest.mark.parametrize("model", [Centred(), nn.MultiheadAttention(6, 2)], ids=["mean", "attention over the batch"])
def test_examples_that_see_each_other_are_never_stacked(model, method, x):
    forward = model if isinstance(model, Centred) else lambda x: model(x[:, None], x[:, None], x[:, None])[0][:, 0]
    found = pellucid.explain(forward, x, 1, method, seed=3)
    assert found.check("batching") is not None


def test_that_is_seen_where_the_scores_are_at_their_limits_too(x):
    """Scores at the features moved by less than a thousandth, those of the ablated ones by a third."""
    torch.manual_seed(233)
    model = Centred()
    found = pellucid.explain(model, x, 1, "feature_ablation").attribution
    with torch.no_grad():
        expected = torch.stack([(model(x) - model(x * (torch.arange(6) != k)))[:, 1] for k in range(6)], 1)
    assert torch.allclose(found, expected, atol=1e-5)


def test_that_is_seen_on_a_large_score_too(x):
    model, baselines = Offset(), torch.randn(5, 6) * 3 + 1
    found = pellucid.explain(model, x, None, "feature_ablation", baselines=baselines)
    assert found.check("batching") is not None
    with torch.no_grad():
        for feature in range(6):
            without = x.clone()
            without[:, feature] = baselines[:, feature]
            torch.testing.assert_close(found.attribution[:, feature], model(x) - model(without))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_examples_that_do_not_are_stacked_in_every_precision(dtype, offset):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 10)).eval().to(dtype)
    x = torch.randn(7, 64).to(dtype)
    view = at_input(lambda x: net(x) + offset, x, 3)
    run = Run()
    assert run.settle(view, elsewhere(view.features)).view.at_once
    assert not run.alone


@pytest.mark.parametrize("method", list(pellucid.METHODS))
@pytest.mark.parametrize("train", [True, False])
def test_statistics_of_the_batch(method, train, x):
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=train), nn.ReLU(), nn.Linear(8, 3)).train(train)
    found = pellucid.explain(model, x, 1, method, seed=0)
    assert found.attribution.shape == x.shape
    assert torch.isfinite(found.attribution).all()


def root(x):
    return x.sqrt().sum(1)


@pytest.mark.parametrize("scale", [1.0, 1e25])
def test_a_tolerance_is_not_met_by_silence(scale):
    """The gradient of a root is infinite at the baseline; a huge score overflows where it is squared."""
    x = torch.rand(2, 4) + 0.1
    found = pellucid.explain(lambda x: root(x), x, None, tolerance=0.01)
    torch.testing.assert_close(found.attribution, x.sqrt(), rtol=0.02, atol=1e-3)
    assert not found.check("tolerance").passed
    large = pellucid.explain(lambda x: (x**2).sum(1) * scale, x, None, tolerance=0.01)
    torch.testing.assert_close(large.attribution / scale, x**2, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1e-36])
def test_a_tolerance_is_relative_however_small_the_score(scale):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1)).eval(), torch.randn(4, 6)
    plain, tiny = (pellucid.explain(lambda x, s=s: net(x)[:, 0] * s, x, None, tolerance=1e-2).attribution for s in (1.0, scale))
    torch.testing.assert_close(tiny / scale, plain, rtol=0.05, atol=0.02 * float(plain.abs().max()))


def test_a_baseline_that_integers_cannot_hold():
    ids = torch.randint(1, 5, (2, 3))
    with pytest.raises(InputError, match=r"cannot hold; give whole numbers"):
        pellucid.explain(lambda x: x.float().sum(1), ids, None, "feature_ablation", baselines=0.5)
    assert (
        pellucid.explain(lambda x: x.float().sum(1), ids, None, "feature_ablation", baselines=1.0).attribution.tolist()
        == (ids - 1).tolist()
    )


@pytest.mark.parametrize("target", ["--1", "²", "1.5"])
def test_words_that_only_look_like_numbers(target, x):
    with pytest.raises(TargetError, match="is not a class"):
        pellucid.explain(nn.Linear(6, 3), x, target, "saliency")


def test_a_small_variance_beside_a_large_gradient(x):
    options = {"samples": 8, "stdev": 0.01, "relative": False, "seed": 3}
    score = lambda x: (1000 * x + 0.5 * x**2).sum(1)  # noqa: E731
    rough = pellucid.explain(score, x, None, "vargrad", **options).attribution
    exact = pellucid.explain(score, x.double(), None, "vargrad", **options).attribution
    assert float(rough.mean()) == pytest.approx(float(exact.mean()), rel=0.3)
    assert float(rough.mean()) == pytest.approx(1e-4, rel=0.5)
