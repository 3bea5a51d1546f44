"""Health: each check lets the healthy pass and sees the sickness that it is there for."""

import warnings

import pytest
import torch
from torch import nn

import pellucid
from pellucid import PellucidWarning, UntrustedResult
from pellucid.captum import attr
from pellucid.errors import warn
from tests.models import Conv, Embedded, Mlp

X = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))


def smooth():
    return Mlp(activation=nn.Tanh).eval()


def steep(x):
    """Nearly a step, which few gradients see."""
    return torch.sigmoid(40 * (x.sum(1) - 1.3))


def check(name, *args, **options):
    return pellucid.explain(*args, **options).check(name)


# finite


def test_finite():
    assert check("finite", smooth(), X, 1, "gradient").passed
    infinite = check("finite", lambda x: x.sqrt().sum(1), torch.tensor([[0.0, 1.0], [4.0, 0.0]]), None, "gradient")
    assert not infinite.passed
    assert infinite.value == 2
    assert infinite.message == "2 attributions and 0 scores are NaN or infinite"
    nan = check("finite", lambda x: x.sqrt().sum(1), torch.tensor([[0.0, 1.0]]), None, "input_x_gradient")  # 0 * inf
    assert (nan.passed, nan.value) == (False, 1)
    score = check("finite", lambda x: x.log().sum(1), torch.tensor([[0.0, 1.0], [2.0, 3.0]]), None, "feature_ablation", baselines=1.0)
    assert not score.passed
    assert "1 scores" in score.message


def test_infinities_that_cancel_in_the_sum_are_seen():
    def poles(x):
        return x[:, 0].sqrt() - x[:, 1].sqrt() + x[:, 2]

    found = check("finite", poles, torch.zeros(1, 3), None, "gradient")
    assert (found.passed, found.value) == (False, 2)


def test_huge_numbers_whose_sum_overflows_are_finite():
    x = torch.full((1, 4), 3e38)
    explanation = pellucid.explain(lambda x: x[:, 0], torch.ones(1, 4), None, "gradient")
    found = pellucid.trust.health_of(
        pellucid.at_input(lambda x: x[:, 0], torch.ones(1, 4)), pellucid.Found((x[None],), explanation.scores[None])
    )
    assert {c.name: c.passed for c in found}["finite"]


# signal


def test_signal():
    assert check("signal", smooth(), X, 1, "gradient").passed
    zero = check("signal", lambda x: 0 * x.sum(1), X, None, "gradient")
    assert not zero.passed
    assert "3 of 3 examples have attribution zero everywhere, 0 one value" in zero.message
    detached = check("signal", lambda x: (x > 0).float().sum(1) + 0 * x[:, 0], X, None, "gradient")
    assert not detached.passed
    same = check("signal", lambda x: x.sum(1), X, None, "gradient")
    assert not same.passed
    assert "0 of 3 examples have attribution zero everywhere, 3 one value" in same.message
    one_of_three = check("signal", lambda x: (x**2).sum(1), X * torch.tensor([[1.0], [0], [1]]), None, "gradient")
    assert not one_of_three.passed
    assert "1 of 3" in one_of_three.message


def test_a_single_feature_cannot_differ_from_others_but_can_be_zero():
    assert check("signal", lambda x: 2 * x[:, 0], torch.ones(2, 1), None, "gradient").passed
    assert not check("signal", lambda x: 0 * x[:, 0], torch.ones(2, 1), None, "gradient").passed


def test_signal_looks_at_all_inputs_together():
    assert check("signal", lambda a, b: a.sum(1) + 0 * b.sum(1), (X, X), None, "gradient").passed
    assert not check("signal", lambda a, b: 0 * a.sum(1) + 0 * b.sum(1), (X, X), None, "gradient").passed


# mode


class Functional(nn.Module):
    """Looks up its layer by itself, so that its name is the layer's place."""

    def __init__(self, layer, shape):
        super().__init__()
        self.inner, self.shape = layer, shape

    def forward(self, x):
        y = self.inner(x.reshape(len(x), *self.shape))
        y = y[0] if isinstance(y, tuple) else y
        return (y.flatten(1) ** 2).sum(1)


class Attending(nn.MultiheadAttention):
    def forward(self, x):
        return super().forward(x, x, x, need_weights=False)[0]


RESTLESS = [
    (nn.Dropout(0.5), (12,)),
    (nn.Dropout2d(0.5), (3, 2, 2)),
    (nn.AlphaDropout(0.2), (12,)),
    (nn.BatchNorm1d(12), (12,)),
    (nn.BatchNorm2d(3), (3, 2, 2)),
    (nn.BatchNorm1d(12, track_running_stats=False), (12,)),
    (nn.InstanceNorm1d(3, track_running_stats=True), (3, 4)),
    (nn.LSTM(4, 2, num_layers=2, dropout=0.5, batch_first=True), (3, 4)),
    (nn.RReLU(), (12,)),
    (Attending(4, 2, dropout=0.5, batch_first=True), (3, 4)),
]
QUIET = [
    (nn.Dropout(0.0), (12,)),
    (nn.LayerNorm(12), (12,)),
    (nn.GroupNorm(1, 3), (3, 4)),
    (nn.InstanceNorm1d(3), (3, 4)),
    (nn.LSTM(4, 2, num_layers=2, batch_first=True), (3, 4)),
    (nn.GRU(4, 2, batch_first=True), (3, 4)),
    (Attending(4, 2, batch_first=True), (3, 4)),
    (nn.LeakyReLU(), (12,)),
]


def named(value):
    return type(value).__name__ if isinstance(value, nn.Module) else ""


@pytest.mark.parametrize(("layer", "shape"), RESTLESS, ids=named)
def test_mode_sees_layers_that_behave_otherwise_in_training(layer, shape):
    model, x = Functional(layer, shape), torch.randn(3, 12)
    for training, passed in ((True, False), (False, True)):
        model.train(training)
        found = check("mode", model, x, None, "gradient")
        assert found.passed is passed
    model.eval()
    with torch.no_grad():
        calm = model(x)
        model.train()
        differ = [not torch.allclose(model(x[:2]), calm[:2]) for _ in range(5)]
    assert any(differ)  # the sickness is real
    found = check("mode", model, x, None, "gradient")
    assert "inner" in found.message
    assert found.value == 1


@pytest.mark.parametrize(("layer", "shape"), QUIET, ids=named)
def test_mode_lets_layers_pass_that_are_the_same_in_training(layer, shape):
    model, x = Functional(layer, shape).train(), torch.randn(3, 12)
    with torch.no_grad():
        torch.testing.assert_close(model(x), model.eval()(x))  # the health is real
    assert check("mode", model.train(), x, None, "gradient").passed


def test_mode_of_one_layer_left_in_train_mode_and_of_no_known_model():
    model = Conv().eval()
    model.other.train()
    found = check("mode", model, torch.randn(2, 2, 6, 6), 1, "gradient")
    assert not found.passed
    assert "(other)" in found.message
    many = nn.Sequential(*(nn.Dropout(0.1) for _ in range(6)))
    assert "(0, 1, 2, 3, ...)" in check("mode", many, X, 1, "gradient").message
    unknown = check("mode", lambda x: x.cumsum(1), X, 1, "gradient")
    assert unknown.passed
    assert "not known" in unknown.message


# completeness


def test_completeness():
    healthy = check("completeness", smooth(), X, 1, steps=50)
    assert healthy.passed
    few, many = (check("completeness", steep, torch.full((1, 5), 1.0), None, steps=steps, rule="riemann_left") for steps in (3, 2000))
    assert not few.passed
    assert "more steps or samples" in few.message
    assert many.passed
    assert pellucid.explain(smooth(), X, 1, "gradient").check("completeness") is None


def test_the_gap_is_the_one_that_follows_from_the_values():
    model = smooth()
    explanation = pellucid.explain(model, X, 1, steps=2, rule="riemann_left")
    with torch.no_grad():
        change = model(X)[:, 1] - model(torch.zeros_like(X))[:, 1]
    mass = explanation.attribution.abs().sum(1)
    relative = (explanation.attribution.sum(1) - change).abs() / torch.maximum(change.abs(), mass / 10)
    found = explanation.check("completeness")
    assert found.value == pytest.approx(float(relative.max()), rel=1e-4)
    assert found.passed == bool(relative.max() <= 0.05)


def test_without_a_change_of_the_score_the_gap_is_measured_by_the_attributions():
    x = torch.tensor([[1.0, 1.0, 0.0]])
    assert check("completeness", lambda x: x[:, 0] ** 3 - x[:, 1] ** 3, x, None, steps=50).passed
    assert check("completeness", lambda x: 0 * x.sum(1), x, None, steps=5).passed


def test_nan_is_not_complete():
    assert not check("completeness", lambda x: x.sqrt().sum(1), torch.tensor([[-1.0, 1.0]]), None, baselines=-2.0).passed


def test_completeness_of_samples():
    few = check("completeness", steep, torch.full((1, 5), 1.0), None, "gradient_shap", samples=3, seed=0)
    assert not few.passed
    assert check("completeness", smooth(), X, 1, "gradient_shap", samples=3000, seed=0).passed


# spread

RANDOM = ("smoothgrad", "smoothgrad_sq", "vargrad", "gradient_shap", "lime", "rise")


@pytest.mark.parametrize("method", RANDOM)
def test_spread(method):
    def bent(x):
        return torch.sigmoid(6 * (x.sum(1) - 1.3))

    options = {} if method in ("gradient_shap", "lime", "rise") else {"stdev": 0.5, "relative": False}
    x = torch.tensor([[0.1, 0.3, 0.5, 0.7, 0.9]])
    few, many = (check("spread", bent, x, None, method, samples=samples, seed=2, **options) for samples in (4, 4000))
    assert not few.passed
    assert "more samples" in few.message
    assert many.passed
    assert many.value < few.value / 5


def test_methods_without_randomness_have_no_spread():
    for method in set(pellucid.METHODS) - set(RANDOM):
        assert check("spread", smooth(), X, 1, method) is None


@pytest.mark.parametrize(("method", "samples"), [*((m, s) for m in RANDOM[:4] for s in (8, 13)), ("lime", 60), ("rise", 60)])
def test_spread_is_about_what_many_seeds_give(method, samples):
    model, x = smooth().double(), X[:1].double()
    options = (
        {"baselines": torch.randn(6, 5).double()} if method == "gradient_shap" else {} if method in ("lime", "rise") else {"stdev": 0.5}
    )
    answers, told = [], []
    for seed in range(150):
        explanation = pellucid.explain(model, x, 1, method, samples=samples, seed=seed, **options)
        answers.append(explanation.attribution.flatten())
        told.append(explanation.check("spread").value)
    found = torch.stack(answers)
    real = (found - found.mean(0)).norm(dim=1).square().mean().sqrt() / found.mean(0).norm()
    assert real / 2 < torch.tensor(told).square().mean().sqrt() < 2 * real


def test_spread_is_that_of_the_worst_example():
    model = smooth()
    each = [check("spread", model, X[i : i + 1], 1, "smoothgrad", seed=1).value for i in range(3)]
    assert check("spread", model, X, 1, "smoothgrad", seed=1).value == pytest.approx(max(each), rel=1e-3)
    assert max(each) > 1.01 * min(each)


def test_without_randomness_in_the_answer_the_spread_is_zero():
    found = check("spread", lambda x: x @ torch.arange(1.0, 6), X, None, "smoothgrad", samples=6)
    assert found.passed
    assert found.value == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("method", ["smoothgrad", "gradient_shap"])
def test_one_sample_tells_no_spread_and_is_not_trusted(method):
    found = check("spread", smooth(), X, 1, method, samples=1)
    assert not found.passed
    assert found.value is None


# tolerance


def test_tolerance():
    reached = check("tolerance", smooth(), X, 1, tolerance=0.01)
    assert reached.passed
    assert reached.value <= 0.01
    missed = check("tolerance", steep, torch.full((2, 5), 1.0), None, tolerance=1e-6, steps=5)
    assert not missed.passed
    assert "2 examples did not reach 1e-06" in missed.message
    assert missed.value > 1e-6
    assert pellucid.explain(smooth(), X, 1, steps=5).check("tolerance") is None


def test_tolerance_tells_the_real_error():
    model = smooth().double()
    exact = pellucid.explain(model, X.double(), 1, steps=300).attribution
    for tolerance in (0.1, 0.01, 0.001):
        explanation = pellucid.explain(model, X.double(), 1, tolerance=tolerance)
        error = ((explanation.attribution - exact).norm(dim=1) / exact.norm(dim=1)).max()
        assert explanation.check("tolerance").passed
        assert error <= tolerance


# target and batching


def test_target():
    stated = check("target", smooth(), X, 1, "gradient")
    assert (stated.passed, stated.guessed, stated.message) == (True, False, "explained: output 1")
    only = check("target", lambda x: x.sum(1), X, None, "gradient")
    assert (only.passed, only.guessed) == (True, False)
    guessed = check("target", smooth(), X, None, "gradient")
    assert (guessed.passed, guessed.guessed) == (True, True)


def test_a_guessed_target_is_the_predicted_class():
    model = nn.Linear(5, 5)
    with torch.no_grad():
        model.weight.copy_(torch.eye(5))
        model.bias.zero_()
    x = torch.eye(5)[[3, 0, 3]]
    explanation = pellucid.explain(model, x, None, "input_x_gradient")
    assert torch.equal(explanation.attribution, x)
    assert explanation.check("target").message.endswith("outputs 3, 0, 3")
    alike = pellucid.explain(model, x[[0, 2]], None, "gradient", classes="vwxyz")
    assert alike.check("target").message.endswith("output 3 (y)")
    assert torch.equal(alike.attribution, torch.eye(5)[[3, 3]])
    with pytest.raises(UntrustedResult, match="target"):
        pellucid.explain(model, x, None, "input_x_gradient", strict=True)


def test_a_target_with_braces_in_its_name():
    explanation = pellucid.explain(smooth(), X, "{0}", "gradient", classes=("{0}", "{}", "{x}"))
    assert explanation.check("target").message == "explained: output 0 ({0})"


def test_batching():
    assert check("batching", smooth(), X, 1, steps=5) is None
    among = lambda x: ((x - x.mean(0)) ** 2).sum(1)  # noqa: E731
    explanation = pellucid.explain(among, X, None, steps=20, rule="riemann_middle")
    assert "a call of its own" in explanation.check("batching").message
    assert explanation.cost.calls >= 20
    # The gradients of the sum of the scores, as the examples see each other, at the middles of twenty parts of the path.
    expected = torch.zeros_like(X)
    for place in (torch.arange(20) + 0.5) / 20:
        point = (place * X).requires_grad_()
        expected += torch.autograd.grad(among(point).sum(), point)[0] / 20 * X
    torch.testing.assert_close(explanation.attribution, expected)


# the whole


@pytest.mark.parametrize("method", pellucid.METHODS)
def test_a_healthy_case_passes_every_check_of_its_method(method):
    options = {"steps": 30} if method == "integrated_gradients" else {"samples": 2000} if method in RANDOM else {}
    if method in RANDOM and method not in ("gradient_shap", "lime", "rise"):
        options["stdev"] = 0.05
    model = Mlp().eval() if method in ("guided_backprop", "deconvolution") else smooth()
    explanation = pellucid.explain(model, X, 1, method, seed=0, strict=True, **options)
    expected = {"target", "finite", "signal", "mode"}
    expected |= (
        {"completeness"} if method in ("integrated_gradients", "gradient_shap", "deeplift", "deeplift_shap", "shapley", "owen") else set()
    )
    expected |= {"rules"} if method in ("guided_backprop", "deconvolution") else set()
    expected |= {"rules", "conservation"} if method in ("lrp", "attn_lrp") else set()
    expected |= {"spread"} if method in RANDOM else set()
    assert {c.name for c in explanation.health} == expected
    assert explanation.healthy


def test_a_transformer_is_healthy():
    assert pellucid.explain(Embedded().eval(), torch.randn(2, 4, 6), 1, steps=40, strict=True).healthy


# Captum's classes warn


def caught(call):
    with warnings.catch_warnings(record=True, action="always") as found:
        call()
    return [w for w in found if issubclass(w.category, PellucidWarning)]


SICK = [
    ("finite", lambda: attr.Saliency(lambda x: x.sqrt().sum(1)).attribute(torch.zeros(1, 3))),
    ("mode", lambda: attr.InputXGradient(nn.Sequential(nn.Dropout(0.5), Mlp()).train()).attribute(X, target=1)),
    ("mode", lambda: attr.FeatureAblation(nn.Sequential(nn.Dropout(0.5), Mlp()).train()).attribute(X, target=1)),
    ("completeness", lambda: attr.IntegratedGradients(steep).attribute(torch.full((1, 5), 1.0), n_steps=1, method="riemann_left")),
]


@pytest.mark.parametrize(("code", "call"), SICK, ids=[f"{i} {code}" for i, (code, _) in enumerate(SICK)])
def test_warnings_of_captums_classes_carry_the_checks_code_and_point_here(code, call):
    found = caught(call)
    assert code in [w.message.code for w in found]
    for warning in found:
        assert str(warning.message).startswith(f"[{warning.message.code}] ")
        assert warning.filename == __file__
    with pytest.raises(PellucidWarning):  # the suite's filters make errors of warnings
        call()


def test_healthy_captum_calls_do_not_warn():
    model = smooth()
    for method in (attr.Saliency(model), attr.InputXGradient(model), attr.IntegratedGradients(model), attr.FeatureAblation(model)):
        assert not caught(lambda method=method: method.attribute(X, target=1))


def test_warn_names_the_check():
    with pytest.warns(PellucidWarning, match=r"^\[spread\] too wide$") as found:
        warn("spread", "too wide")
    assert found[0].message.code == "spread"
    assert found[0].filename == __file__
