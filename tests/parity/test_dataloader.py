"""`DataLoaderAttribution` and `ProductBaselines` against the installed Captum and slow oracles: numbers, shapes, passes, refusals."""

import inspect
import random
import warnings

import numpy as np
import pytest
import torch
from captum import attr as theirs
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pellucid.captum import attr as ours
from pellucid.captum.attr import dataloader
from pellucid.captum.attr.baselines import ProductBaselines
from pellucid.captum.attr.dataloader import DataLoaderAttribution, InputRole
from pellucid.errors import InputError, OptionError, OutputError, PellucidWarning
from tests.parity.test_perturbation import same


class Counted:
    """A loader that counts how often it is read."""

    def __init__(self, *tensors, size=3, change=lambda batch: batch):
        self.loader, self.change, self.passes = DataLoader(TensorDataset(*tensors), batch_size=size), change, 0

    def __iter__(self):
        self.passes += 1
        return map(self.change, self.loader)

    def __len__(self):
        return len(self.loader)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double().eval()


@pytest.fixture
def x():
    return torch.randn(8, 4).double()


def product(a, b):
    return (a.unsqueeze(2) * b.unsqueeze(1)).sin().sum((1, 2))


def total(so_far, output, inputs):
    return output.sum(0) if so_far is None else so_far + output.sum(0)


def kept_labels(so_far, output, inputs):
    so_far = so_far or []
    return [*so_far, (output.argmax(1) == inputs[-1]).double()]


def accuracy(found):
    return torch.cat(found).mean()


METRICS = {
    "outputs": {},
    "sums": {"reduce": total},
    "square": {"reduce": total, "to_metric": lambda s: s[:, None] * s},
    "one": {"to_metric": lambda found: found.square().mean()},
}


def both(make, function, **keywords):
    """Ours, theirs, and how often each read the loader."""
    loaders = make(), make()
    found = DataLoaderAttribution(ours.FeatureAblation(function)).attribute(loaders[0], **keywords)
    expected = theirs.DataLoaderAttribution(theirs.FeatureAblation(function)).attribute(loaders[1], **keywords)
    return found, expected, loaders[0].passes, loaders[1].passes


@pytest.mark.parametrize("method", ["__init__", "attribute", "attribute_future"])
def test_signatures(method):
    found, expected = (
        inspect.signature(getattr(c, method)).parameters.values() for c in (DataLoaderAttribution, theirs.DataLoaderAttribution)
    )
    assert [(p.name, p.default, p.kind) for p in found] == [(p.name, p.default, p.kind) for p in expected]


def test_the_rest_of_the_surface(model):
    found, expected = DataLoaderAttribution(ours.FeatureAblation(model)), theirs.DataLoaderAttribution(theirs.FeatureAblation(model))
    assert found.get_name() == expected.get_name()
    assert found.has_convergence_delta() is expected.has_convergence_delta() is False
    assert found.forward_func is expected.forward_func is model
    with pytest.raises(NotImplementedError, match="attribute_future"):
        found.attribute_future()
    from captum.attr._core.dataloader_attr import InputRole as Theirs

    assert all(getattr(Theirs, role.name) == role for role in InputRole)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("in_shape", [True, False])
@pytest.mark.parametrize(("per_pass", "passes"), [(1, 1), (2, 2), (3, 2), (4, 1), (9, 1)])
def test_metrics_and_passes(model, x, metric, in_shape, per_pass, passes):
    keywords = {**METRICS[metric], "perturbations_per_pass": per_pass, "return_input_shape": in_shape}
    found, expected, read, before = both(lambda: Counted(x), model, **keywords)
    same(found, expected, 1e-12)
    assert (read, read < before) == (passes, True)


@pytest.mark.parametrize("baselines", [None, 0.5, 2, (0.3,), torch.full((1, 1), 0.2), torch.arange(4.0).double().view(1, 4)])
@pytest.mark.parametrize("mask", [None, [[0, 0, 1, 1]], [[0, 5, 5, 2]], [[1, 1, 1, 1]], [[0]], [[3, 2, 1, 0]]])
def test_baselines_and_masks(model, x, baselines, mask):
    mask = None if mask is None else torch.tensor(mask)
    for in_shape in (True, False):
        keywords = {"baselines": baselines, "feature_mask": mask, "return_input_shape": in_shape}
        same(*both(lambda: Counted(x), model, **keywords)[:2])  # Captum rounds baselines to float32


@pytest.mark.parametrize("masks", [None, ([[0, 0, 3, 3]], [[3, 1, 1]]), ([[4, 1, 1, 1]], [[2, 2, 2]]), ([[0]], [[1]])])
@pytest.mark.parametrize("baselines", [None, (0.1, 1), (torch.ones(1, 4).double(), 0.5)])
def test_two_inputs_and_labels(masks, baselines):
    tensors = torch.randn(7, 4).double(), torch.randint(3, (7,)), torch.randn(7, 3).double()
    masks = None if masks is None else tuple(map(torch.tensor, masks))
    for in_shape in (True, False):
        keywords = {"input_roles": (0, 2, 0), "baselines": baselines, "feature_mask": masks, "return_input_shape": in_shape}
        same(*both(lambda: Counted(*tensors), product, **keywords)[:2])
    keywords = {"input_roles": (InputRole.need_forward, InputRole.no_forward, InputRole.need_attr)}
    same(*both(lambda: Counted(*tensors), product, **keywords)[:2], 1e-12)


@pytest.mark.parametrize("mask", [None, [[[0, 1, 1]]], [[[0], [1]]], [[[0, 1, 0], [4, 4, 1]]]])
def test_more_dimensions(mask):
    x, function = torch.randn(5, 2, 3).double(), lambda x: x.exp().cumsum(2).sum(1)
    mask = None if mask is None else torch.tensor(mask)
    same(*both(lambda: Counted(x), function, feature_mask=mask)[:2], 1e-12)


def test_accuracy_by_an_oracle(model, x):
    labels = model(x).argmax(1)
    keywords = {"input_roles": (0, 2), "reduce": kept_labels, "to_metric": accuracy, "baselines": -1.0}
    found, expected, read, _ = both(lambda: Counted(x, labels), model, **keywords)
    same(found, expected, 0)
    points, right = x.numpy(), labels.numpy()
    falls = []
    for i in range(4):
        without = points.copy()
        without[:, i] = -1.0
        falls.append(1 - np.mean(model(torch.from_numpy(without)).argmax(1).numpy() == right))
    np.testing.assert_allclose(found[0].numpy(), [falls], atol=1e-15)
    assert found[0].any()
    assert read == 1


@pytest.mark.parametrize("change", [lambda batch: batch[0], tuple, list])
def test_forms_of_batches(model, x, change):
    found = DataLoaderAttribution(ours.FeatureAblation(model)).attribute(Counted(x, change=change))
    held = found if isinstance(found, torch.Tensor) else found[0]
    assert isinstance(found, torch.Tensor) == isinstance(change([x]), torch.Tensor)
    without = [model(torch.where(torch.arange(4) == i, 0, x)) for i in range(4)]
    expected = torch.stack([(model(x) - w).detach().flatten() for w in without], 1)
    torch.testing.assert_close(held, expected)


def test_what_captum_cannot(model):
    ids, table = torch.randint(1, 9, (6, 3)), nn.Embedding(9, 2).double()  # Captum makes floats of token ids
    found = DataLoaderAttribution(ours.FeatureAblation(lambda ids: table(ids).prod(2).sum(1))).attribute(Counted(ids))
    scores = table(ids).prod(2) - table(torch.zeros_like(ids)).prod(2)
    torch.testing.assert_close(found[0], scores.detach())
    numbers = torch.randn(6).double()  # an input without features dimensions
    torch.testing.assert_close(DataLoaderAttribution(ours.FeatureAblation(torch.exp)).attribute(Counted(numbers))[0], numbers.exp() - 1)
    hot = torch.full((4, 2), torch.inf)  # inf * 0 is NaN
    found = DataLoaderAttribution(ours.FeatureAblation(lambda x: x.tanh().sum(1))).attribute(Counted(hot))
    assert torch.equal(found[0], torch.ones(4, 2))
    numbers = DataLoaderAttribution(ours.FeatureAblation(model)).attribute(
        Counted(torch.ones(4, 4).double()), to_metric=lambda outputs: float(outputs.sum())
    )
    assert numbers[0].shape == (1, 4)


def test_batches_of_several_lengths():
    batches = [[torch.randn(2, n).double(), torch.randn(2, 3).double()] for n in (4, 6, 2)]  # of a tuple Captum makes an error
    keywords = {
        "feature_mask": (torch.tensor([[1]]), torch.tensor([[0]])),
        "baselines": (0.5, torch.ones(1, 1)),
        "return_input_shape": False,
    }
    function = lambda a, b: a.sum(1) * b.sum(1)  # noqa: E731
    found, expected = (
        c.attribute(batches, **keywords)
        for c in (
            DataLoaderAttribution(ours.FeatureAblation(function)),
            theirs.DataLoaderAttribution(theirs.FeatureAblation(function)),
        )
    )
    same(found, expected, 1e-12)
    with pytest.raises(InputError, match=r"a batch of shape \(2, 6\) fits neither"):
        DataLoaderAttribution(ours.FeatureAblation(function)).attribute(batches)


def test_memory_ends(model, x, monkeypatch):
    whole = DataLoaderAttribution(ours.FeatureAblation(model)).attribute(Counted(x))
    outputs = x.shape[0] * 3 * 8
    for room, passes in ((1, 5), (2 * outputs, 3), (5 * outputs, 1)):
        monkeypatch.setattr(dataloader, "STATE_BYTES", room)
        loader = Counted(x)
        same(DataLoaderAttribution(ours.FeatureAblation(model)).attribute(loader), whole, 0)
        assert loader.passes == passes


@pytest.mark.parametrize("own", [False, True])
def test_shuffled_loaders_are_read_in_one_order(model, x, own):
    source = torch.Generator().manual_seed(5) if own else None
    loader = DataLoader(TensorDataset(x), 3, shuffle=True, generator=source)
    state = torch.get_rng_state()
    found = DataLoaderAttribution(ours.FeatureAblation(model)).attribute(loader, perturbations_per_pass=2)[0]
    assert torch.equal(state, torch.get_rng_state())
    plain = DataLoaderAttribution(ours.FeatureAblation(model)).attribute(Counted(x))[0]
    assert not torch.equal(found, plain)
    rows = [{tuple(row.round(decimals=9).tolist()) for row in values.reshape(8, 3 * 4)} for values in (found, plain)]
    assert rows[0] == rows[1]


def test_doubts(model, x):
    shuffled = Counted(x, change=lambda batch: [batch[0][np.random.default_rng().permutation(len(batch[0]))] + random.random()])
    with pytest.warns(PellucidWarning, match="other batches in each pass"), warnings.catch_warnings():
        DataLoaderAttribution(ours.FeatureAblation(model)).attribute(shuffled, perturbations_per_pass=2)
    training = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    with pytest.warns(PellucidWarning, match="train mode"):
        DataLoaderAttribution(ours.FeatureAblation(training)).attribute(Counted(x))
    assert not training[0].num_batches_tracked


def test_a_loader_that_is_read_once(model, x):
    once = (batch for batch in x.split(3))
    same(
        DataLoaderAttribution(ours.FeatureAblation(model)).attribute(once),
        DataLoaderAttribution(ours.FeatureAblation(model)).attribute(x.split(3)),
        0,
    )
    with pytest.raises(InputError, match="the loader is empty in pass 2"):
        DataLoaderAttribution(ours.FeatureAblation(model)).attribute(iter(x.split(3)), perturbations_per_pass=2)


def test_the_model_may_work_in_place(x):
    inplace = lambda x: x.mul_(2).sum(1)  # noqa: E731
    held = x.clone()
    found = DataLoaderAttribution(ours.FeatureAblation(inplace)).attribute(Counted(x))
    torch.testing.assert_close(found[0], 2 * held)
    assert torch.equal(x, held)


@pytest.mark.parametrize("mask", [None, [[0, 0, 4, 2]]])
def test_shapley_values(model, x, mask):
    groups = torch.tensor(mask or [[0, 1, 2, 3]])
    loader = Counted(x)
    keywords = {"reduce": total, "to_metric": lambda s: s.square(), "baselines": 0.3}
    found = DataLoaderAttribution(ours.ShapleyValues(model)).attribute(loader, feature_mask=groups, return_input_shape=False, **keywords)
    whole = lambda rows: model(rows).sum(0, keepdim=True).square()  # noqa: E731
    expected = []
    for output in range(3):
        kept = lambda z, k=output: whole(torch.where(z[:, groups[0]] > 0, x, 0.3))[:, k]  # noqa: E731
        ids = sorted(set(groups.flatten().tolist()))
        ones = torch.zeros(1, 5).double()
        ones[:, ids] = 1
        expected.append(theirs.ShapleyValues(kept).attribute(ones))
    torch.testing.assert_close(found, torch.cat(expected)[:, : found.shape[1]].detach().to(found), rtol=1e-6, atol=1e-6)
    assert loader.passes == 1


def test_shapley_values_from_samples():
    x = torch.randn(5, 12).double()
    loader = Counted(x)
    found = DataLoaderAttribution(ours.ShapleyValueSampling(lambda x: x.exp().sum(1))).attribute(loader)
    torch.testing.assert_close(found[0], x.exp() - 1)  # of a sum every sample is right
    assert loader.passes == 2


@pytest.mark.parametrize(
    ("error", "words", "keywords"),
    [
        (OptionError, "perturbations_per_pass is 0", {"perturbations_per_pass": 0}),
        (OptionError, "give each element need_attr", {"input_roles": (0, 1)}),
        (OptionError, "need_attr to one at least", {"input_roles": (1,)}),
        (OptionError, "input_roles is", {"input_roles": (3,)}),
        (InputError, "2 baselines for 1 inputs", {"baselines": (1, 2)}),
        (InputError, r"baselines has shape \(3, 4\)", {"baselines": torch.ones(3, 4)}),
        (InputError, "2 feature masks for 1 inputs", {"feature_mask": (torch.zeros(1, 4).long(),) * 2}),
        (InputError, r"feature_mask\[0\] has shape \(3, 4\)", {"feature_mask": torch.zeros(3, 4).long()}),
        (InputError, "has the id -2", {"feature_mask": torch.tensor([[-2, 0, 1, 1]]), "return_input_shape": False}),
        (OutputError, "the metric is str", {"to_metric": str}),
        (OutputError, "it must have as many", {"to_metric": lambda outputs: outputs[outputs > 0]}),
    ],
)
def test_refusals(model, x, error, words, keywords):
    with pytest.raises(error, match=words):
        DataLoaderAttribution(ours.FeatureAblation(model)).attribute(Counted(x), **keywords)


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        ([], "gives no batch"),
        ([{"x": torch.ones(2, 2)}], "gives dict"),
        ([("a", "b")], "element 0 of a batch is str"),
        ([(torch.ones(2, 4).double(),), (torch.ones(2, 4).double(), torch.ones(2))], "a batch has 2 elements"),
    ],
)
def test_loaders_that_are_refused(model, loader, words):
    with pytest.raises(InputError, match=words):
        DataLoaderAttribution(ours.FeatureAblation(model)).attribute(loader)


@pytest.mark.parametrize("name", ["FeaturePermutation", "Occlusion", "KernelShap", "Lime", "IntegratedGradients"])
def test_methods_that_are_refused(model, name):
    with pytest.raises(AssertionError):
        theirs.DataLoaderAttribution(getattr(theirs, name)(model))
    with pytest.raises(OptionError, match=f"attr_method is {name}"):
        DataLoaderAttribution(getattr(ours, name)(model))


VALUES = [[[1, 2, 3], ["a", "b"]], {"x": [1, 2, 3], ("y", "z"): [(1, 2), (3, 4), (5, 6)], "w": ["q"]}, ([1, 2], (3, 4)), {}, []]


@pytest.mark.parametrize("values", VALUES)
def test_product_baselines(values):
    found, expected = ProductBaselines(values), theirs.ProductBaselines(values)
    assert vars(found).keys() == vars(expected).keys()
    for ask in ("sample", "__call__"):
        random.seed(4)
        drawn = [getattr(found, ask)() for _ in range(20)]
        random.seed(4)
        assert drawn == [getattr(expected, ask)() for _ in range(20)]
    assert inspect.signature(ProductBaselines).parameters.keys() == inspect.signature(theirs.ProductBaselines).parameters.keys()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([[1], []], r"baseline_values\[1\] is \[\]"),
        ({"a": 3}, r"baseline_values\['a'\] is 3"),
        ({("a", "b"): [(1, 2), (3,)]}, "must be a tuple of 2"),
        ({"a": [1], ("a", "b"): [(1, 2)]}, r"\['a'\] twice"),
        (None, "baseline_values is NoneType"),
    ],
)
def test_product_baselines_that_are_refused(values, words):
    with pytest.raises(OptionError, match=words):
        ProductBaselines(values)
