"""What a run says as a whole, beside sums written out; and ways to make a model cheaper, which change no number."""

import copy
import shutil
import sys

import matplotlib.figure
import numpy as np
import pytest
import torch
from torch import nn

import pellucid
from pellucid.errors import InputError, OptionError
from pellucid.scale import Explainer, run
from pellucid.scale.tuning import Folded, chosen, fold, tuned

from .test_scale import attributions

pytest.importorskip("pyarrow")


@pytest.fixture
def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


@pytest.fixture
def results(net, tmp_path):
    x, y = torch.randn(37, 6, dtype=torch.float64), torch.arange(37) % 3
    explainer = Explainer(net, "input_x_gradient", classes=("a", "b", "c"), names=tuple("pqrstu"))
    return run(explainer, (x, y), tmp_path / "out", block=5)


@pytest.mark.parametrize("by", ["prediction", "label"])
def test_means_of_classes(by, results):
    values, groups = attributions(results), torch.tensor(results.table().to_pydict()[by])
    found = results.means(by)
    assert list(found.names) == ["abc"[g] for g in sorted(set(groups.tolist()))]
    for i, group in enumerate(sorted(set(groups.tolist()))):
        own = values[groups == group]
        assert found.counts[i] == len(own)
        assert torch.allclose(found.signed[i].double(), own.mean(0), atol=1e-6)
        assert torch.allclose(found.size[i].double(), own.abs().mean(0), atol=1e-6)
        assert torch.allclose(found.features[i].double(), results[0:37].features[0][groups == group].mean(0), atol=1e-6)
    assert isinstance(found.draw(), matplotlib.figure.Figure)
    assert found.draw()._repr_png_().startswith(b"\x89PNG")  # a notebook shows it


def test_means_of_all_and_another_word(results):
    assert torch.allclose(results.means(None).signed[0].double(), attributions(results).mean(0), atol=1e-6)
    with pytest.raises(OptionError, match="by is 'colour'"):
        results.means("colour")


def test_the_features_that_matter_most(results):
    sizes = attributions(results).abs().mean(0)
    (told,) = results.top_features(3).values()
    best = sizes.argsort(descending=True)[:3]
    assert [name for name, _, _ in told] == ["pqrstu"[i] for i in best]
    assert [size for _, size, _ in told] == pytest.approx(sizes[best].tolist(), rel=1e-5)
    assert set(results.top_features(2, by="label")) == {"a", "b", "c"}


def test_groups_that_were_planted_are_found(tmp_path):
    """Three kinds of examples, each with attributions in a direction of its own and of any length."""
    generator = np.random.default_rng(0)
    kinds = generator.integers(0, 3, 90)
    x = torch.zeros(90, 9)
    for i, kind in enumerate(kinds):
        x[i, 3 * kind : 3 * kind + 3] = torch.tensor([1.0, 2.0, 3.0]) * generator.uniform(0.1, 10)
    results = run(Explainer(nn.Linear(9, 1, bias=False), "input_x_gradient"), x + 0.01 * torch.randn(90, 9), tmp_path / "out", block=16)
    found = results.clusters(3)
    assert found.examples == tuple(range(90))
    assert list(found.counts) == sorted(np.bincount(kinds).tolist(), reverse=True)
    for group in range(3):
        own = kinds[np.array(found.groups) == group]
        assert len(set(own.tolist())) == 1
        assert kinds[found.typical[group]] == own[0]
    assert found.groups == results.clusters(3).groups
    with pytest.raises(InputError, match="count is 91"):
        results.clusters(91)


def test_pictures_of_classes_are_drawn(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))
    results = run(Explainer(net, "input_x_gradient", target="label"), (torch.rand(40, 3, 8, 8), torch.arange(40) % 10), tmp_path / "out")
    found = results.means("label")
    assert found.signed.shape == (10, 3, 8, 8)
    assert isinstance(found.draw(), matplotlib.figure.Figure)
    assert found.draw()._repr_png_().startswith(b"\x89PNG")  # a notebook shows it
    (told,) = results.top_features(1).values()
    assert told[0][0].startswith("(")


# -- cheaper models ------------------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """Two batch norms that can be folded, and one that cannot, because its input is used twice."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.Conv2d(6, 6, 1)
        self.n1, self.n2, self.n3 = nn.BatchNorm2d(6), nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.last = nn.Linear(6, 3)

    def forward(self, x):
        x = self.n1(self.one(x)).relu()
        x = (x + self.n2(self.two(x))).relu()
        y = self.three(x)
        return self.last((y + self.n3(y)).mean((2, 3)))


@pytest.fixture
def residual():
    torch.manual_seed(2)
    net = Residual()
    net(torch.randn(64, 1, 8, 8))  # statistics that are not zero and one
    return net.eval()


def test_batch_norm_is_folded_where_that_is_the_same(residual):
    x = torch.randn(5, 1, 8, 8)
    own = copy.deepcopy(residual)
    assert fold(own, (x,), {}) == 2
    assert isinstance(own.n3, nn.BatchNorm2d)
    assert torch.allclose(own(x), residual(x), atol=1e-6)


@pytest.mark.parametrize("ways", [("channels_last",), ("folded",), ("channels_last", "folded")])
def test_cheaper_ways_give_the_same_numbers(ways, residual, tmp_path):
    x, before = torch.randn(5, 1, 8, 8), copy.deepcopy(residual.state_dict())
    results = run(Explainer(residual, target=1, steps=10), x, tmp_path / "out", tune=ways)
    wanted = pellucid.explain(residual, x, 1, steps=10).attribution
    assert torch.allclose(attributions(results), wanted, atol=1e-5 * float(wanted.abs().max()) + 1e-7)
    assert results.facts["tuned"] == list(ways)
    assert results[3].cost.tuned == results[1:4].cost.tuned == ways
    results[3].save(tmp_path / "one.safetensors")
    assert pellucid.Explanation.load(tmp_path / "one.safetensors").cost.tuned == ways
    assert f"model made cheaper: {', '.join(ways)}" in results[3]._repr_html_()
    assert all(torch.equal(value, before[name]) for name, value in residual.state_dict().items())
    assert run(Explainer(residual, target=1, steps=10), x, tmp_path / "out").facts["tuned"] == list(ways)


def test_what_is_chosen_is_right_and_short_runs_choose_nothing(residual, monkeypatch):
    from pellucid.scale import tuning
    from pellucid.scale.rows import Rows

    x = torch.randn(4, 1, 8, 8)
    rows = Rows((x,), tuple(range(4)), 4)
    explainer = Explainer(residual, "saliency", 1)
    assert chosen(explainer, rows, 4, 0) == ()
    monkeypatch.setattr(tuning, "LONG", 0.0)
    monkeypatch.setattr(tuning, "WORTH", float("inf"))
    assert chosen(explainer, rows, 4, 0) == ("channels_last", "folded")
    assert chosen(Explainer(residual, "lrp", 1), rows, 4, 0) == ()  # rules look at operations one by one
    monkeypatch.setitem(tuning.WAYS, "folded", lambda model: nn.Sequential(model, nn.Tanh()))  # one that is wrong is refused
    assert chosen(explainer, rows, 4, 0) == ("channels_last",)
    assert isinstance(tuned(explainer, ("channels_last",)).model, Residual)
    assert Folded(residual)(x).shape == (4, 3)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32" or shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # the compiler's own
def test_compiled_models_in_any_order_of_methods(residual, tmp_path):
    """Hooks and rules before, between and after compiled passes: each method gives what it gives without compilation."""
    x = torch.randn(3, 1, 8, 8)
    methods = {"integrated_gradients": {"steps": 6}, "saliency": {}, "occlusion": {}, "deeplift": {}, "guided_backprop": {}}
    own = {m: pellucid.explain(residual, x, 1, m, **options).attribution for m, options in methods.items()}
    for order in (list(methods), list(methods)[::-1]):
        torch._dynamo.reset()
        compiled = torch.compile(copy.deepcopy(residual))
        for method in order:
            found = pellucid.explain(compiled, x, 1, method, **methods[method]).attribution
            assert torch.allclose(found, own[method], atol=1e-5), (order, method)
    results = run(Explainer(residual, target=1, steps=6), x, tmp_path / "out", tune=["compiled"])
    assert torch.allclose(attributions(results), own["integrated_gradients"], atol=1e-5)
