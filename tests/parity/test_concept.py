"""Captum's TCAV, side by side with the installed captum: the same classifier, the same scores."""

import inspect

import captum.attr
import captum.concept as theirs
import pytest
import torch
from captum.concept._utils.common import concepts_to_str
from captum.concept._utils.data_iterator import CustomIterableDataset, dataset_to_dataloader
from torch import nn
from torch.utils.data import DataLoader

import pellucid.captum.attr
import pellucid.captum.concept as ours


class TwoTensors(nn.Module):
    def forward(self, x):
        return x.tanh(), x * x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.act, self.two = nn.Conv2d(2, 3, 3), nn.Tanh(), TwoTensors()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(24, 6), nn.Softplus(), nn.Linear(6, 4))

    def forward(self, x, shift=0.0):
        a, b = self.two(self.act(self.conv(x)))
        return self.body(torch.cat([a, b], 1) + shift)


def images(count, seed, shift=0.0):
    return torch.randn(count, 2, 4, 4, generator=torch.Generator().manual_seed(seed)) + shift


def concepts(library, count):
    return [library.Concept(k, f"concept{k}", DataLoader([*images(7 + k, k, 0.3 * k)], batch_size=3, shuffle=False)) for k in range(count)]


def centroids(library):
    """Least squares against one-hot labels: nothing in it is random."""

    class Exact(library.Classifier):
        def __init__(self):
            pass

        def train_and_eval(self, dataloader, ridge=1.0):
            x, y = (torch.cat(parts) for parts in zip(*dataloader, strict=True))
            self.labels = y.unique().flip(0)  # in another order than the concepts
            hot = (y[:, None] == self.labels).float()
            self.w = torch.linalg.solve(x.T @ x + ridge * torch.eye(x.shape[1]), x.T @ (hot - hot.mean(0))).T
            return {"accs": ((x @ self.w.T).argmax(1) == hot.argmax(1)).float().mean()}

        def weights(self):
            return self.w

        def classes(self):
            return self.labels.tolist()

    return Exact()


@pytest.fixture
def net():
    torch.manual_seed(1)
    net = Net().eval()
    net.body[3].weight.data *= 20  # scores that differ by more than the tolerance
    return net


def both(net, tmp_path, layers, sets, count=4, options=None, **call):
    found = []
    for library in (ours, theirs):
        own = concepts(library, count)
        made = {**(options or {})}
        attribution = made.pop("by", None)
        if attribution:
            made["layer_attr_method"] = attribution(pellucid.captum.attr if library is ours else captum.attr, net)
        tcav = library.TCAV(net, layers, classifier=centroids(library), save_path=str(tmp_path / library.__name__), **made)
        found.append((tcav, tcav.interpret(images(9, 99), [[own[i] for i in ids] for ids in sets], **call)))
    return found


def compare(found):
    (_, a), (_, b) = found
    assert set(a) == set(b)
    for key, layers in b.items():
        assert list(a[key]) == list(layers)
        for layer, values in layers.items():
            assert a[key][layer].keys() == values.keys()
            for name, value in values.items():
                torch.testing.assert_close(a[key][layer][name], value, rtol=1e-5, atol=1e-5)
    assert max(float(values["magnitude"].abs().max()) for layers in a.values() for values in layers.values()) > 1e-2


CASES = {
    "pairs": ([[0, 1], [0, 2], [2, 1]], {}, {"target": 1}),
    "sets of several sizes": ([[0, 1, 2], [3, 0], [3, 2, 1, 0]], {}, {"target": [0, 1, 2, 3, 0, 1, 2, 3, 0]}),
    "inputs of layers": ([[0, 1]], {"attribute_to_layer_input": True}, {"target": 2}),
    "options of the classifier": ([[0, 1]], {"ridge": 0.2}, {"target": 0}),
    "more arguments": ([[0, 1]], {}, {"target": 0, "additional_forward_args": (0.7,)}),
    "another method": (
        [[1, 2], [0, 1, 2]],
        {"by": lambda attr, net: attr.LayerIntegratedGradients(net, None)},
        {"target": 1, "n_steps": 9},
    ),
    "gradients times activations": ([[1, 2]], {"by": lambda attr, net: attr.LayerGradientXActivation(net, None)}, {"target": 1}),
}


@pytest.mark.parametrize("case", list(CASES))
def test_scores(net, tmp_path, case):
    sets, options, call = CASES[case]
    found = both(net, tmp_path, ["conv", "act", "body.1"], sets, options=options, **call)
    compare(found)
    (a, _), (b, _) = found
    for key in b.cavs:
        for layer, cav in b.cavs[key].items():
            mine = a.cavs[key][layer]
            torch.testing.assert_close(mine.stats["weights"], cav.stats["weights"], rtol=1e-4, atol=1e-5)
            assert list(mine.stats["classes"]) == list(cav.stats["classes"])
            assert mine.stats["accs"] == cav.stats["accs"]
            assert mine.layer == cav.layer


def test_captums_own_objects_go_in(net):
    own, by = concepts(ours, 2), captum.attr.LayerGradientXActivation(net, net.act, multiply_by_inputs=False)
    given = ours.TCAV(net, ["conv"], classifier=centroids(theirs), layer_attr_method=by).interpret(images(5, 3), [own], target=1)
    plain = ours.TCAV(net, ["conv"], classifier=centroids(ours)).interpret(images(5, 3), [own], target=1)
    for name in ("sign_count", "magnitude"):
        torch.testing.assert_close(given["0-1"]["conv"][name], plain["0-1"]["conv"][name])
    assert by.layer is net.act


@pytest.mark.filterwarnings("ignore:Using default classifier", "ignore:Creating a tensor from a list")
def test_default_classifiers_agree_where_concepts_are_far_apart(net, tmp_path):
    own = [[library.Concept(k, "c", DataLoader([*images(30, k, 4.0 * k)], 30)) for k in range(2)] for library in (ours, theirs)]
    a = ours.TCAV(net, "conv").interpret(images(9, 99), [own[0]], target=1)["0-1"]["conv"]
    b = theirs.TCAV(net, "conv", save_path=str(tmp_path)).interpret(images(9, 99), [own[1]], target=1)["0-1"]["conv"]
    torch.testing.assert_close(a["sign_count"], b["sign_count"], rtol=0, atol=0.25)
    torch.testing.assert_close(a["magnitude"], b["magnitude"], rtol=0.7, atol=0)


PUBLIC = {
    "Concept": ["__init__"],
    "ConceptInterpreter": ["__init__"],
    "CAV": ["__init__", "assemble_save_path", "create_cav_dir_if_missing", "load", "save"],
    "Classifier": ["__init__", "train_and_eval", "weights", "classes"],
    "DefaultClassifier": ["__init__", "weights", "classes"],
    "TCAV": [
        "__init__", "interpret", "compute_cavs", "load_cavs", "generate_activation", "generate_activations", "generate_all_activations",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", list(PUBLIC))
def test_signatures(name):
    for method in PUBLIC[name]:
        mine, other = (inspect.signature(getattr(getattr(library, name), method)) for library in (ours, theirs))
        assert [(p.name, p.default, p.kind) for p in mine.parameters.values()] == [
            (p.name, p.default, p.kind) for p in other.parameters.values()
        ], method


def test_helpers(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.txt").write_text(name)
    mine = [*ours.CustomIterableDataset(lambda path: path, str(tmp_path))]
    assert mine == [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
    assert mine == sorted(CustomIterableDataset(lambda path: path, f"{tmp_path}/"))
    read = lambda path: iter([path])  # noqa: E731
    assert [*ours.CustomIterableDataset(read, "file")] == [*CustomIterableDataset(read, "file")] == ["file"]
    a, b = (make([*torch.arange(130)]) for make in (ours.dataset_to_dataloader, dataset_to_dataloader))
    assert [x.tolist() for x in a] == [x.tolist() for x in b]
    assert ours.concepts_to_str(concepts(ours, 3)) == concepts_to_str(concepts(theirs, 3)) == "0-1-2"
    assert repr(concepts(ours, 1)) == repr(concepts(theirs, 1))
    assert concepts(ours, 1)[0].identifier == concepts(theirs, 1)[0].identifier
