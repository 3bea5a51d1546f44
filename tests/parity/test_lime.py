"""LIME and its surrogates against the installed Captum."""

import inspect

import pytest
import torch
from captum import attr as theirs
from captum._utils.models import linear_model as their_models
from captum.attr._core import lime as their_lime
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pellucid import OptionError, PellucidWarning, TargetError
from pellucid.captum import attr as ours
from pellucid.captum import linear_model as our_models
from pellucid.captum.attr import lime as our_lime
from tests.models import TwoInputs, cases

CASES = {case.name: case for case in cases()}
pytestmark = pytest.mark.filterwarnings("ignore:You are providing multiple inputs:UserWarning", "ignore:Minimum element:UserWarning")
SURROGATES = ("SGDLasso", "SGDRidge", "SGDLinearRegression", "SkLearnLasso", "SkLearnRidge", "SkLearnLinearRegression")


def same(found, expected, tolerance=1e-5):
    assert type(found) is type(expected)
    if isinstance(expected, tuple):
        for f, e in zip(found, expected, strict=True):
            same(f, e, tolerance)
        return
    assert found.shape == expected.shape
    torch.testing.assert_close(found.double(), expected.detach().double(), rtol=tolerance, atol=tolerance * float(expected.abs().max()))


def dealt(original, **kwargs):
    """The same coalitions for both libraries."""
    source = torch.Generator().manual_seed(4)
    while True:
        yield (torch.rand(1, kwargs["num_interp_features"], generator=source) < 0.5).long()


@pytest.mark.parametrize("name", ["Lime", "LimeBase"])
def test_signatures(name):
    for method in ("__init__", "attribute"):
        found, expected = (inspect.signature(getattr(getattr(place, name), method)).parameters for place in (ours, theirs))
        assert list(found) == list(expected)
        assert [repr(p.default) for p in found.values()] == [repr(p.default) for p in expected.values()]
        assert [p.kind for p in found.values()] == [p.kind for p in expected.values()]


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("weighted", [False, True])
def test_surrogates(name, weighted):
    source = torch.Generator().manual_seed(0)
    x, w = torch.rand(60, 4, generator=source), torch.rand(60, generator=source)
    y = x @ torch.tensor([1.0, -2.0, 0.0, 3.0]) + 0.5
    options = {"alpha": 0.01} if name.startswith("SkLearn") and "Regression" not in name else {}
    fitted = []
    for place in (our_models, their_models):
        model = getattr(place, name)(**options)
        data = TensorDataset(x, y, w) if weighted else TensorDataset(x, y)
        model.fit(DataLoader(data, batch_size=20), **({"max_epoch": 20} if name.startswith("SGD") else {}))
        fitted.append(model)
    same(fitted[0].representation(), fitted[1].representation())
    same(fitted[0].bias(), fitted[1].bias())
    same(fitted[0](x), fitted[1](x).detach())
    if not name.startswith("SGD"):
        assert fitted[0].classes() is None


def test_a_classifier_of_scikit_learn_and_normalised_input():
    source = torch.Generator().manual_seed(0)
    x = torch.rand(60, 4, generator=source)
    y = (x[:, 0] > 0.5).long()
    model = our_models.SkLearnLinearModel("linear_model.LogisticRegression")
    model.fit(DataLoader(TensorDataset(x, y), batch_size=60), norm_input=True)
    z = ((x - x.mean(0)) / x.std(0, correction=0)).numpy()
    expected = LogisticRegression().fit(z, y.numpy())
    torch.testing.assert_close(model.representation().double(), torch.as_tensor(expected.coef_).double(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(x)[:, 0].double(), torch.as_tensor(expected.decision_function(z)).double(), rtol=1e-4, atol=1e-4)
    assert model.classes().tolist() == [0, 1]


@pytest.mark.filterwarnings("ignore::UserWarning")  # Captum's own
@pytest.mark.parametrize("name", ["SkLearnLogisticRegression", "SkLearnSGDClassifier"])
def test_classifiers_fit_what_captums_fit(name):
    from captum._utils.models.linear_model import model as theirs

    source = torch.Generator().manual_seed(0)
    x, w = torch.rand(60, 4, generator=source), torch.rand(60, generator=source)
    data = DataLoader(TensorDataset(x, (x[:, 0] + x[:, 1] > 1).long(), w), batch_size=20)
    fitted = []
    for place in (our_models, theirs):
        model = getattr(place, name)(**({"random_state": 0} if name == "SkLearnSGDClassifier" else {}))
        model.fit(data)
        fitted.append(model)
    same(fitted[0].representation(), fitted[1].representation())
    same(fitted[0].bias(), fitted[1].bias())
    assert fitted[0].classes().tolist() == [0, 1]


def test_surrogates_refuse():
    with pytest.raises(OptionError, match="norm_type is 'odd'"):
        our_models.LinearModel(lambda *a, **k: {})._construct_model_params(2, 1, norm_type="odd")
    with pytest.raises(OptionError, match="has not been fitted"):
        our_models.SkLearnLasso().representation()


def explained(place, models, module, case, linear=True, **options):
    surrogate = models.SkLearnLinearRegression() if linear else models.SkLearnLasso(alpha=0.001)
    inputs = case.inputs if len(case.inputs) > 1 else case.inputs[0]
    method = place.Lime(case.model, surrogate, module.get_exp_kernel_similarity_function("euclidean", 2.0), dealt)
    return method.attribute(inputs, target=case.target, additional_forward_args=case.extra or None, n_samples=40, **options)


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("name", ["mlp", "smooth", "two inputs", "with arguments", "regression"])
def test_lime_by_the_same_coalitions(name, linear):
    case = CASES[name]
    found, expected = (
        explained(*library, case, linear, baselines=tuple(0.1 for _ in case.inputs) if len(case.inputs) > 1 else 0.1)
        for library in ((ours, our_models, our_lime), (theirs, their_models, their_lime))
    )
    same(found, expected, 1e-4)


@pytest.mark.parametrize("shape", [True, False])
def test_lime_with_groups(shape):
    case = CASES["mlp"]
    mask = torch.tensor([[0, 0, 1, 1, 2]])
    found, expected = (
        explained(*library, case, feature_mask=mask, return_input_shape=shape, perturbations_per_eval=7)
        for library in ((ours, our_models, our_lime), (theirs, their_models, their_lime))
    )
    same(found, expected, 1e-4)


def test_gaps_in_the_ids_change_nothing():
    case = CASES["mlp"]
    masks = torch.tensor([[0, 0, 1, 1, 2]]), torch.tensor([[3, 3, 70, 70, 90000]])
    one, other = (explained(ours, our_models, our_lime, case, feature_mask=mask) for mask in masks)
    torch.testing.assert_close(one, other)


def test_defaults_on_a_linear_model_are_exact():
    torch.manual_seed(0)
    layer, x = nn.Linear(5, 2).double(), torch.randn(3, 5).double()
    for method in (ours.Lime(layer, our_models.SkLearnLinearRegression()), ours.Lime(layer, our_models.SkLearnRidge(alpha=1e-6))):
        found = method.attribute(x, target=1, n_samples=200)
        torch.testing.assert_close(found, x * layer.weight[1].detach(), rtol=1e-3, atol=1e-4)
        assert found.dtype == torch.float64


def test_defaults_follow_torch_and_do_not_move_it():
    case = CASES["mlp"]
    ask = lambda: ours.Lime(case.model).attribute(case.inputs[0], target=1, n_samples=30)  # noqa: E731
    torch.manual_seed(3)
    first, state = ask(), torch.get_rng_state()
    torch.manual_seed(3)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, ask())


def test_one_score_for_a_batch_gets_one_set_of_coefficients():
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 1).double(), torch.randn(3, 4).double()
    found = ours.Lime(lambda x: layer(x).sum(), our_models.SkLearnLinearRegression()).attribute(x, n_samples=100)
    assert found.shape == (1, 4)
    torch.testing.assert_close(found[0], (x * layer.weight.detach()).sum(0), rtol=1e-3, atol=1e-4)


def test_coefficients_that_are_all_zero_are_told():
    case = CASES["mlp"]
    with pytest.warns(PellucidWarning, match="all coefficients are zero"):
        ours.Lime(lambda x: 1e-3 * case.model(x)).attribute(case.inputs[0], target=1)


def test_lime_base_with_functions_of_its_own():
    torch.manual_seed(0)
    model, inputs = TwoInputs().double().eval(), (torch.randn(1, 4).double(), torch.randn(1, 3).double())

    def perturbed(original, **kwargs):
        source = torch.Generator().manual_seed(7)
        while True:
            yield tuple(x * (torch.rand(x.shape, generator=source) < 0.5) for x in original)

    def near(original, point, z, **kwargs):
        return torch.exp(-sum((a - b).norm() for a, b in zip(original, point, strict=True)) / kwargs["width"])

    to = lambda point, original, **kwargs: torch.cat([(p != 0).long() for p in point], 1)  # noqa: E731
    found = [
        place.LimeBase(model, models.SkLearnRidge(alpha=0.1), near, perturbed, False, None, to).attribute(
            inputs, 2, n_samples=50, width=3.0
        )
        for place, models in ((ours, our_models), (theirs, their_models))
    ]
    same(*found)


def test_lime_refuses():
    case = CASES["mlp"]
    with pytest.raises(OptionError, match="from_interp_rep_transform is None"):
        ours.LimeBase(case.model, our_models.SkLearnLasso(), lambda *a: 1.0, lambda x: x, True, None, None)
    with pytest.raises(OptionError, match="n_samples is 0"):
        ours.Lime(case.model, perturb_func=dealt).attribute(case.inputs[0], target=1, n_samples=0)
    with pytest.raises(OptionError, match="'cosine' or 'euclidean'"):
        our_lime.get_exp_kernel_similarity_function("manhattan")
    with pytest.raises(TargetError):
        ours.Lime(case.model).attribute(case.inputs[0])
