"""Which examples may share a call, how large calls are, and what happens when memory ends."""

import pytest
import torch
from torch import nn

import pellucid
from pellucid.batch import Run
from pellucid.gradient import integrated_gradients
from pellucid.view import at_input
from tests.models import Mlp


class Counting(Mlp):
    """Notes the sizes of its calls; memory ends above a size."""

    def __init__(self, room: int = 10**9) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.room = room

    def forward(self, x):
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory (pretended)")
        self.sizes.append(len(x))
        return super().forward(x)


METHODS = ["saliency", "integrated_gradients", "gradient_shap", "smoothgrad", "feature_ablation"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("room", [4, 8, 11])
def test_when_memory_ends_smaller_calls_go_on(method, room):
    torch.manual_seed(2)
    model = Counting().double().eval()
    x = torch.randn(4, 5).double()
    expected = pellucid.explain(model, x, 1, method, seed=1).attribution
    model.room = room
    found = pellucid.explain(model, x, 1, method, seed=1)
    torch.testing.assert_close(found.attribution, expected, rtol=1e-10, atol=1e-13)
    assert max(model.sizes[-3:]) <= room


def test_a_whole_batch_that_does_not_fit_is_divided():
    model = Counting().double().eval()
    x = torch.randn(9, 5).double()
    view = at_input(model, x, 1)
    expected = pellucid.gradient.gradient(view).values[0]
    model.room = 4
    torch.testing.assert_close(pellucid.gradient.gradient(view).values[0], expected)


def test_when_a_single_example_does_not_fit_the_error_comes_out():
    model = Counting(room=0)
    with pytest.raises(torch.OutOfMemoryError):
        pellucid.explain(model, torch.randn(2, 5), 1)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("at_most", [1, 2, 3, 7, 1000])
def test_at_most_is_a_limit(at_most):
    model = Counting()
    run = Run(at_most)
    integrated_gradients(at_input(model, torch.randn(3, 5), 1), (torch.zeros(3, 5),), 6, run=run)
    settling = 2  # the features alone, and with the baselines
    assert max(model.sizes[settling:]) <= at_most
    assert run.calls == len(model.sizes)
    assert run.forwards == sum(model.sizes)
    assert run.backwards == 18


def test_calls_are_as_large_as_the_budget_of_memory(monkeypatch):
    model = Counting()
    monkeypatch.setattr(pellucid.memory, "CPU_BUDGET", 8_000)
    few, many = Run(), Run()
    view = at_input(model, torch.randn(2, 5), 1)
    integrated_gradients(view, (torch.zeros(2, 5),), 50, run=few)
    largest = max(model.sizes)
    assert 2 < largest < 100
    model.sizes.clear()
    integrated_gradients(view, (torch.zeros(2, 5),), 400, run=many)
    assert max(model.sizes) == largest


# --- per example or shared: decided by what the model does (an argument's size cannot tell)

X = torch.randn(5, 4, dtype=torch.float64)


def loop_of_gradients(function, x):
    """Integrated gradients of a function of the whole batch, 50 steps, one point at a time."""
    from pellucid.gradient.quadrature import rule

    total = torch.zeros_like(x)
    for node, weight in zip(*rule("gausslegendre", 50), strict=True):
        point = (node * x).requires_grad_()
        total += weight * torch.autograd.grad(function(point).sum(), point)[0]
    return total * x


ADJACENCY = torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 2]])
W = torch.randn(4, 4, dtype=torch.float64)


def graph(x, edges):
    """Nodes as batch: each hears from its neighbours."""
    heard = torch.zeros_like(x).index_add(0, edges[1], torch.tanh(x @ W)[edges[0]])
    return (x + heard).pow(2).sum(1)


ARGUMENTS = {
    "a prior that is as long as the batch": (lambda x, prior: (x**3).sum(1) * prior.sum(), torch.rand(5).double()),
    "a weight per example": (lambda x, w: torch.tanh(x).sum(1) * w, torch.rand(5).double()),
    "a row for all": (lambda x, row: torch.sigmoid(x * row).sum(1), torch.randn(1, 4).double()),
    "a matrix as long as the batch": (lambda x, m: torch.tanh(x @ m[:4]).sum(1), torch.randn(5, 4).double()),
    "a list of edges": (graph, ADJACENCY),
    "no tensor": (lambda x, power: (x**power).sum(1), 3),
}


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize("method", ["integrated_gradients", "feature_ablation", "smoothgrad", "gradient_shap"])
def test_arguments_mean_what_the_model_makes_of_them(name, method):
    function, extra = ARGUMENTS[name]
    x = X[:2] if name == "a matrix as long as the batch" else X
    found = pellucid.explain(function, x, None, method, args=extra, seed=1)
    slow = pellucid.explain(lambda z: function(z, extra), x, None, method, seed=1, at_most=1 if name != "a list of edges" else None)
    torch.testing.assert_close(found.attribution, slow.attribution, rtol=1e-8, atol=1e-10)
    if method == "integrated_gradients":
        torch.testing.assert_close(found.attribution, loop_of_gradients(lambda z: function(z, extra), x), rtol=1e-8, atol=1e-10)


def test_edges_of_two_nodes_look_like_two_examples_and_are_not():
    edges = torch.tensor([[0, 1], [1, 0]])
    x = X[:2]
    found = pellucid.explain(graph, x, None, args=(edges,))
    torch.testing.assert_close(found.attribution, loop_of_gradients(lambda z: graph(z, edges), x))
    assert found.check("batching") is not None


def test_a_mixture_of_shared_and_per_example_arguments():
    def function(x, weight, *, prior):
        return torch.tanh(x).sum(1) * weight * prior.sum()

    weight, prior = torch.rand(5).double(), torch.rand(5).double()
    found = pellucid.explain(function, X, None, args=weight, kwargs={"prior": prior})
    torch.testing.assert_close(found.attribution, loop_of_gradients(lambda z: function(z, weight, prior=prior), X))
    assert found.cost.calls < 12


def test_nested_arguments_grow_with_the_batch():
    def function(x, extra):
        return torch.tanh(x + extra["shift"][0]).sum(1)

    extra = {"shift": (torch.randn(5, 4).double(),)}
    found = pellucid.explain(function, X, None, args=extra)
    torch.testing.assert_close(found.attribution, loop_of_gradients(lambda z: function(z, extra), X))
    assert found.cost.calls < 12


class Coupled(nn.Module):
    """Every example sees the mean of all."""

    def forward(self, x):
        return torch.tanh(x - x.mean(0)).pow(3).sum(1)


def test_examples_that_see_each_other_do_not_share_calls_with_other_points():
    found = pellucid.explain(Coupled(), X, None)
    torch.testing.assert_close(found.attribution, loop_of_gradients(Coupled(), X))
    assert "call of its own" in found.check("batching").message


def test_one_score_for_the_whole_batch():
    found = pellucid.explain(lambda x: (x**2).sum(), X, None, "feature_ablation")
    assert found.attribution.shape == (1, 4)
    torch.testing.assert_close(found.attribution[0], (X**2).sum(0))
    torch.testing.assert_close(pellucid.explain(lambda x: (x**2).sum(), X, None).attribution, X**2)


def test_progress_shows_when_asked(capsys):
    pellucid.explain(Mlp(), torch.randn(2, 5), 1, progress=True)
    assert "integrated gradients" in capsys.readouterr().err
    pellucid.explain(Mlp(), torch.randn(2, 5), 1)
    assert capsys.readouterr().err == ""


def test_a_model_that_works_in_place_does_not_change_the_inputs():
    def model(x):
        x -= 1
        x.relu_()
        return x.sum(1)

    x = torch.randn(3, 4)
    before = x.clone()
    for method in METHODS:
        pellucid.explain(model, x, None, method)
        assert torch.equal(x, before)


def test_parameters_cost_no_saved_activations():
    """The weight gradient of a linear layer needs its input; with frozen parameters autograd keeps none of it."""
    seen = []
    layer = nn.Linear(5, 3)
    layer.register_forward_hook(lambda module, args, out: seen.append((module.weight.requires_grad, out.requires_grad)) or None)
    pellucid.explain(layer, torch.randn(2, 5), 1, "saliency")
    assert seen[-1] == (False, True)
    assert layer.weight.requires_grad
