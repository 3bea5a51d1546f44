"""What every method obeys, on every kind of model."""

import pytest
import torch

import pellucid
from pellucid import METHODS
from tests.models import Mlp, assert_same_state, cases, state_of

CASES = cases()
RANDOM = ("gradient_shap", "smoothgrad", "smoothgrad_sq", "vargrad", "lime", "rise")
every_case = pytest.mark.parametrize("case", CASES, ids=repr)
every_method = pytest.mark.parametrize("method", METHODS)
OPTIONS = {
    "integrated_gradients": {"steps": 7},
    "gradient_shap": {"samples": 6},
    "smoothgrad": {"samples": 4},
    "smoothgrad_sq": {"samples": 4},
    "vargrad": {"samples": 4},
    "lime": {"samples": 30},
    "shapley": {"evaluations": 24},
    "rise": {"samples": 40},
}


def explained(case, method, inputs=None, target="own", extra=None, **options):
    return pellucid.explain(
        case.model,
        case.inputs if inputs is None else inputs,
        case.target if target == "own" else target,
        method,
        args=case.extra if extra is None else extra,
        seed=5,
        **OPTIONS.get(method, {}),
        **options,
    )


def of_example(case, i):
    target = case.target
    if isinstance(target, torch.Tensor | list):
        target = int(target[i])
    extra = tuple(e[i : i + 1] if isinstance(e, torch.Tensor) else e for e in case.extra)
    return tuple(x[i : i + 1] for x in case.inputs), target, extra


@every_case
@every_method
def test_a_batch_is_its_examples_one_by_one(case, method):
    together = explained(case, method)
    for i in range(3):
        inputs, target, extra = of_example(case, i)
        alone = explained(case, method, inputs, target, extra)
        for a, b in zip(alone.attributions, together.attributions, strict=True):
            torch.testing.assert_close(a[0], b[i], rtol=1e-9, atol=1e-12)


@every_case
@every_method
def test_how_much_runs_at_once_changes_nothing(case, method):
    free, tight = explained(case, method), explained(case, method, at_most=2)
    for a, b in zip(free.attributions, tight.attributions, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@every_case
@every_method
@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_as_it_was(case, method, training):
    case.model.train(training)
    try:
        before, inputs = state_of(case.model), [x.clone() for x in case.inputs]
        explained(case, method)
        assert_same_state(before, state_of(case.model))
        assert all(torch.equal(a, b) and not a.requires_grad for a, b in zip(inputs, case.inputs, strict=True))
    finally:
        case.model.eval()


class Failing(Mlp):
    """Fails at its n-th call."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.left = [calls]

    def forward(self, x):
        self.left[0] -= 1
        if self.left[0] < 0:
            raise ValueError("the model failed")
        return super().forward(x)


@every_method
@pytest.mark.parametrize("calls", [0, 1, 2])
def test_the_model_is_as_it_was_after_an_exception(method, calls):
    model = Failing(calls).train()
    x = torch.randn(2, 5)
    before = state_of(model)
    with pytest.raises(ValueError, match="the model failed") as error:
        pellucid.explain(model, x, 1, method, at_most=1)
    assert "pellucid called the model with inputs" in "".join(error.value.__notes__)
    after = state_of(model)
    assert_same_state(before, after)


@every_case
@every_method
def test_attributions_have_the_shape_dtype_and_device_of_the_inputs(case, method):
    for a, x in zip(explained(case, method).attributions, case.inputs, strict=True):
        assert (a.shape, a.dtype, a.device) == (x.shape, x.dtype, x.device)


@every_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_precisions_agree_with_double(method, dtype):
    model = Mlp(activation=torch.nn.GELU).double().eval()
    x = torch.randn(3, 5).double()
    exact = pellucid.explain(model, x, 1, method, seed=1, **OPTIONS.get(method, {})).attribution
    found = pellucid.explain(model.to(dtype), x.to(dtype), 1, method, seed=1, **OPTIONS.get(method, {})).attribution
    assert found.dtype == dtype
    tolerance = {torch.float16: 0.02, torch.bfloat16: 0.15, torch.float32: 1e-4}[dtype]
    assert (found.double() - exact).norm() <= tolerance * exact.norm()


@pytest.mark.parametrize("method", RANDOM)
def test_a_seed_gives_the_same_answer_and_another_seed_another(method):
    case = CASES[1]
    first, second = explained(case, method), explained(case, method)
    assert torch.equal(first.attribution, second.attribution)
    other = pellucid.explain(case.model, case.inputs, case.target, method, seed=6, **OPTIONS[method])
    assert not torch.equal(first.attribution, other.attribution)
    assert first.provenance.seed == 5


@pytest.mark.parametrize("method", RANDOM)
def test_without_a_seed_the_answer_follows_torch_and_does_not_move_it(method):
    case = CASES[1]
    ask = lambda: pellucid.explain(case.model, case.inputs, case.target, method, **OPTIONS[method])  # noqa: E731
    torch.manual_seed(3)
    first, state = ask(), torch.get_rng_state()
    torch.manual_seed(3)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first.attribution, ask().attribution)
    torch.manual_seed(4)
    assert not torch.equal(first.attribution, ask().attribution)


@every_case
def test_integrated_gradients_are_complete(case):
    baselines = tuple(0.3 for _ in case.inputs)
    explanation = pellucid.explain(case.model, case.inputs, case.target, steps=300, args=case.extra, baselines=baselines)
    total = sum(a.flatten(1).sum(1) for a in explanation.attributions)
    gap = (total - (explanation.scores - explanation.baseline_scores)).abs()
    assert gap.max() < 5e-3
    assert explanation.check("completeness").passed


@every_case
def test_expected_gradients_of_one_linear_piece_are_complete(case):
    """Close to the input every model is linear, and there completeness holds for any number of samples."""
    near = tuple(x[:1] + 1e-5 * torch.randn_like(x) for x in case.inputs)
    inputs, target, extra = of_example(case, 0)
    explanation = explained(case, "gradient_shap", inputs, target, extra, baselines=near if len(near) > 1 else near[0])
    total = sum(a.flatten(1).sum(1) for a in explanation.attributions)
    change = explanation.scores - explanation.baseline_scores
    torch.testing.assert_close(total, change, rtol=1e-3, atol=1e-10)


@every_method
def test_several_targets_are_the_targets_one_by_one(method):
    case = CASES[2]
    options = {"seed": 5, **OPTIONS.get(method, {})}
    together = pellucid.explain_each(case.model, case.inputs, [0, [1, 2, 3], "2 - 1"], method, **options)
    for target, found in zip([0, [1, 2, 3], pellucid.target(2) - pellucid.target(1)], together, strict=True):
        alone = pellucid.explain(case.model, case.inputs, target, method, **options)
        torch.testing.assert_close(found.attribution, alone.attribution, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found.scores, alone.scores)


@every_method
def test_several_targets_take_the_forward_passes_of_one(method):
    case, options = CASES[0], OPTIONS.get(method, {})
    explained(case, method)  # the first time, the memory that an example takes is measured
    one = pellucid.explain(case.model, case.inputs, 0, method, seed=5, **options)
    ten = pellucid.explain_each(case.model, case.inputs, [0, 1, 2] * 3 + [0], method, seed=5, **options)
    assert ten[0].cost.forwards == one.cost.forwards
    assert ten[0].cost.backwards == 10 * one.cost.backwards


@every_method
def test_under_no_grad_and_inference_mode(method):
    case = CASES[0]
    usual = explained(case, method).attribution
    with torch.no_grad():
        assert torch.equal(explained(case, method).attribution, usual)
    with torch.inference_mode():
        inputs = tuple(x.clone() for x in case.inputs)
        torch.testing.assert_close(explained(case, method, inputs).attribution, usual)


def test_each_method_says_how_the_numbers_of_one_thing_become_one():
    case = CASES[1]
    size = case.inputs[0].shape[1]
    said = {m: explained(case, m).display.pooling for m in METHODS}
    gradients = {"gradient", "saliency", "smoothgrad", "guided_backprop", "deconvolution"}
    assert said == {m: "norm" if m in gradients else "mean" if m == "rise" else "sum" for m in METHODS}
    mask = torch.zeros(1, size, dtype=torch.long)
    assert pellucid.explain(case.model, case.inputs, case.target, "feature_ablation", feature_mask=mask).display.pooling == "mean"
    assert pellucid.explain(case.model, case.inputs, case.target, "smoothgrad", of="integrated_gradients").display.pooling == "sum"
