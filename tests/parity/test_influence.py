"""Captum's influence classes, side by side with the installed captum."""

import warnings

import captum.influence as theirs
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pellucid.captum.influence as ours
from pellucid import FileError, InputError, OptionError


def perceptron():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def convolutions():
    return nn.Sequential(nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(6, 3))


@pytest.fixture(scope="module")
def data():
    torch.manual_seed(0)
    x, y = torch.randn(11, 6).double(), torch.randint(0, 3, (11,))
    q, z = torch.randn(4, 6).double(), torch.randint(0, 3, (4,))
    return TensorDataset(x, y), (q, z)


@pytest.fixture(scope="module", params=[perceptron, convolutions])
def case(request, tmp_path_factory, data):
    torch.manual_seed(1)
    model, folder = request.param().double(), tmp_path_factory.mktemp("c")
    for number in range(3):
        torch.save(request.param().double().state_dict(), folder / f"{number}.pt")
    return model, str(folder), *data


SUM, NONE = nn.CrossEntropyLoss(reduction="sum"), nn.CrossEntropyLoss(reduction="none")


@pytest.mark.parametrize("grouped", [False, True])
def test_tracincp(case, grouped):
    model, folder, train, test = case
    loss = SUM if grouped else NONE
    options = {"loss_fn": loss, "batch_size": 4, "sample_wise_grads_per_batch": grouped}
    a, b = (library.TracInCP(model, train, folder, **options) for library in (ours, theirs))
    torch.testing.assert_close(a.influence(test), b.influence(test), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(a.self_influence(), b.self_influence(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(a.self_influence(test), b.self_influence(test), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(a.influence(test, aggregate=True), b.influence(test, aggregate=True), rtol=1e-5, atol=1e-5)
    for proponents in (True, False):
        own, other = (library.influence(test, k=3, proponents=proponents) for library in (a, b))
        assert torch.equal(own.indices, other.indices)
        torch.testing.assert_close(own.influence_scores, other.influence_scores, rtol=1e-5, atol=1e-5)
    own, other = a.compute_intermediate_quantities(test), b.compute_intermediate_quantities(test)
    torch.testing.assert_close(own @ own.T, other @ other.T, rtol=1e-5, atol=1e-5)
    assert a.compute_intermediate_quantities(test, aggregate=True).shape == (1, own.shape[1])
    loader = DataLoader(TensorDataset(*test), 3)
    torch.testing.assert_close(a.influence(loader), b.influence(test), rtol=1e-5, atol=1e-5)


def test_tracincp_of_some_layers_and_another_loss(case):
    model, folder, train, test = case
    last = list(dict(model.named_modules()))[-1]
    options = {"layers": [last], "loss_fn": NONE, "test_loss_fn": nn.MultiMarginLoss(reduction="none"), "batch_size": 5}
    a, b = (library.TracInCP(model, train, folder, **options) for library in (ours, theirs))
    torch.testing.assert_close(a.influence(test), b.influence(test), rtol=1e-5, atol=1e-5)


def test_tracincp_fast(case):
    model, folder, train, test = case
    options = {"loss_fn": SUM, "batch_size": 4}
    for layer in (model[-1], str(len(model) - 1)):
        a, b = (library.TracInCPFast(model, layer, train, folder, **options) for library in (ours, theirs))
        torch.testing.assert_close(a.influence(test), b.influence(test), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(a.self_influence(), b.self_influence(), rtol=1e-5, atol=1e-5)
        own, other = a.influence(test, k=2), b.influence(test, k=2)
        assert torch.equal(own.indices, other.indices)


def test_tracincp_fast_of_an_inner_layer(tmp_path, data):
    """By autograd, because Captum takes the gradient of the model's output for that of the layer's."""
    train, (q, z) = data
    torch.manual_seed(2)
    model = perceptron().double()
    torch.save(model.state_dict(), tmp_path / "one.pt")

    def rows(x, y):
        losses = [nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1]) for i in range(len(x))]
        return torch.stack([torch.autograd.grad(loss, model[0].weight)[0].flatten() for loss in losses])

    expected = rows(q, z) @ rows(*train.tensors).T
    options = {"loss_fn": SUM, "batch_size": 4}
    a, b = (library.TracInCPFast(model, model[0], train, str(tmp_path), **options).influence((q, z)) for library in (ours, theirs))
    torch.testing.assert_close(a, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(b, expected, rtol=0.1)


def test_tracincp_by_vectors(case):
    model, folder, train, test = case
    a = ours.TracInCPFastRandProj(model, model[-1], train, folder, loss_fn=SUM, batch_size=4)
    b = theirs.TracInCPFast(model, model[-1], train, folder, loss_fn=SUM, batch_size=4)
    for proponents in (True, False):
        own, other = a.influence(test, k=3, proponents=proponents), b.influence(test, k=3, proponents=proponents)
        assert torch.equal(own.indices, other.indices)
        torch.testing.assert_close(own.influence_scores, other.influence_scores, rtol=1e-5, atol=1e-5)
    vectors = a.compute_intermediate_quantities(test)
    torch.testing.assert_close(vectors @ a.compute_intermediate_quantities(train[:]).T, b.influence(test), rtol=1e-5, atol=1e-5)
    few = ours.TracInCPFastRandProj(model, model[-1], train, folder, loss_fn=SUM, batch_size=4, projection_dim=6)
    assert few.compute_intermediate_quantities(test).shape == (4, 6)
    many = [
        ours.TracInCPFastRandProj(model, model[-1], train, folder, loss_fn=SUM, projection_dim=6, seed=s).compute_intermediate_quantities(
            test
        )
        for s in range(300)
    ]
    mean = sum(v @ v.T for v in many) / 300  # unbiased
    torch.testing.assert_close(mean, vectors @ vectors.T, rtol=0.25, atol=0.15 * float(vectors.square().sum(1).max()))

    class Neighbours:
        def setup(self, table):
            self.table = table

        def get_nearest_neighbors(self, query, k):
            found = (query @ self.table.T).topk(k)
            return found.indices, found.values

    own = ours.TracInCPFastRandProj(model, model[-1], train, folder, loss_fn=SUM, nearest_neighbors=Neighbours())
    assert torch.equal(own.influence(test, k=3, proponents=False).indices, a.influence(test, k=3, proponents=False).indices)


@pytest.mark.filterwarnings("ignore:.*Using this implementation stores")
def test_tracincp_by_vectors_beside_captum(case):
    """Captum's own class, with an exact search in the place of Annoy."""
    model, folder, train, test = case
    options = {"loss_fn": SUM, "batch_size": 4}
    a = ours.TracInCPFastRandProj(model, model[-1], train, folder, **options, nearest_neighbors=ours.AnnoyNearestNeighbors())
    b = theirs.TracInCPFastRandProj(model, model[-1], train, folder, **options, nearest_neighbors=ours.AnnoyNearestNeighbors())
    for proponents in (True, False):
        own, other = a.influence(test, k=4, proponents=proponents), b.influence(test, k=4, proponents=proponents)
        assert torch.equal(own.indices, other.indices)
        torch.testing.assert_close(own.influence_scores, other.influence_scores, rtol=1e-5, atol=1e-5)
    own, other = a.compute_intermediate_quantities(test), b.compute_intermediate_quantities(test)
    torch.testing.assert_close(own @ own.T, other @ other.T, rtol=1e-5, atol=1e-5)


def test_similarity(case, tmp_path):
    model, _, train, (q, _) = case
    sources = [x for x, _ in train]
    layers = ["0", str(len(model) - 1)]
    a = ours.SimilarityInfluence(model, layers, sources, str(tmp_path / "ours"), "m", batch_size=3)
    b = theirs.SimilarityInfluence(model, layers, sources, str(tmp_path / "theirs"), "m", batch_size=11)
    own = a.influence(q, top_k=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it writes over its own files
        other = b.influence(q, top_k=4, load_src_from_disk=False)
    for layer in layers:
        assert torch.equal(own[layer][0], other[layer][0])
        torch.testing.assert_close(own[layer][1], other[layer][1], rtol=1e-5, atol=1e-5)
    assert not (tmp_path / "ours").exists()
    least = ours.SimilarityInfluence(model, layers[0], sources, "", similarity_direction="min").influence(q)[layers[0]]
    assert least[1].shape == (4, 1)
    zero = nn.Sequential(nn.Linear(6, 4), nn.ReLU()).double()
    zero[0].bias.data.fill_(-100)
    with pytest.warns(RuntimeWarning, match="are zero"):
        found = ours.SimilarityInfluence(zero, "1", sources, "").influence(q)
    assert len(found["zero_acts-1"]) == 44


def test_similarity_keeps_the_order_and_the_random_state(case):
    model, _, train, (q, _) = case
    sources = [x for x, _ in train]
    torch.manual_seed(4)
    state = torch.get_rng_state()
    ours.SimilarityInfluence(model, "0", sources, "").influence(q)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(InputError, match="influence_src_dataset shuffles"):
        ours.SimilarityInfluence(model, "0", DataLoader(sources, 3, shuffle=True), "")


def test_refusals(case, tmp_path):
    model, folder, train, test = case
    with pytest.raises(FileError, match="which is no folder"):
        ours.TracInCP(model, train, str(tmp_path / "missing"), loss_fn=SUM)
    with pytest.raises(OptionError, match="no layer 'head'"):
        ours.TracInCP(model, train, folder, layers=["head"], loss_fn=SUM)
    with pytest.raises(OptionError, match=r"must be nn\.Linear"):
        ours.TracInCPFast(model, model[0] if not isinstance(model[0], nn.Linear) else model[1], train, folder, loss_fn=SUM)
    with pytest.raises(OptionError, match="k is 0"):
        ours.TracInCP(model, train, folder, loss_fn=SUM).influence(test, k=0)
    assert ours.TracInCP(model, train, folder, loss_fn=SUM).influence(test, k=99).indices.shape == (4, 11)  # as many as there are
    with pytest.raises(OptionError, match="batch_size is None"):
        ours.TracInCP(model, train, folder, loss_fn=SUM, batch_size=None)
    with pytest.raises(InputError, match="inputs is Tensor"):
        ours.TracInCP(model, train, folder, loss_fn=SUM).influence(test[0])
    with pytest.raises(OptionError, match="batch_size is 0"):
        ours.TracInCP(model, train, folder, loss_fn=SUM, batch_size=0)
    with pytest.raises(OptionError, match="'max' or 'min'"):
        ours.SimilarityInfluence(model, "0", [], "", similarity_direction="best")


# Influence functions


def functions(library, name):
    if library is ours:
        return getattr(ours, name)
    from captum.influence._core.arnoldi_influence_function import ArnoldiInfluenceFunction

    return {"NaiveInfluenceFunction": theirs.NaiveInfluenceFunction, "ArnoldiInfluenceFunction": ArnoldiInfluenceFunction}[name]


FUNCTIONS = {
    "NaiveInfluenceFunction": {"projection_dim": 12, "hessian_reg": 0.1},
    "ArnoldiInfluenceFunction": {"projection_dim": 6, "arnoldi_dim": 14, "arnoldi_tol": 1e-6, "hessian_reg": 0.1},
}


@pytest.fixture(scope="module", params=[perceptron, convolutions])
def fitted(request, tmp_path_factory, data):
    """A model that was trained for a while, in double precision."""
    torch.manual_seed(1)
    model, (x, y), path = request.param().double(), data[0].tensors, tmp_path_factory.mktemp("c") / "one.pt"
    x, (q, z) = x.double(), data[1]
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(model.state_dict(), path)
    return model, str(path), TensorDataset(x, y), (q.double(), z)


OLD = pytest.mark.filterwarnings("ignore:To copy construct from a tensor", "ignore:A lambda")  # Captum's own


@OLD
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_influence_functions(fitted, name, grouped):
    model, path, train, test = fitted
    options = {"loss_fn": SUM if grouped else NONE, "batch_size": 4, "sample_wise_grads_per_batch": grouped} | FUNCTIONS[name]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    a = functions(ours, name)(model, train, path, **options)
    assert torch.equal(torch.get_rng_state(), state)
    b = functions(theirs, name)(model, train, path, **options)
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(a.influence(test), b.influence(test), **close)
    torch.testing.assert_close(a.self_influence(), b.self_influence(), **close)
    torch.testing.assert_close(a.self_influence(test), b.self_influence(test), **close)
    for proponents in (True, False):
        own, other = (f.influence(test, k=3, proponents=proponents) for f in (a, b))
        assert torch.equal(own.indices, other.indices)
        torch.testing.assert_close(own.influence_scores, other.influence_scores, **close)
    own, other = a.compute_intermediate_quantities(test), b.compute_intermediate_quantities(test)
    torch.testing.assert_close(own @ own.T, other @ other.T, **close)
    whole = a.compute_intermediate_quantities(test, aggregate=True)
    torch.testing.assert_close(whole, own.sum(0, keepdim=True))
    if name == "NaiveInfluenceFunction":
        torch.testing.assert_close(own, other, **close)
        assert a.R.shape == b.R.shape
    else:
        assert [tuple(v.shape for v in column) for column in a.R] == [tuple(v.shape for v in column) for column in b.R]


@OLD
@pytest.mark.parametrize("name", FUNCTIONS)
def test_influence_functions_of_some_layers_and_another_hessian(fitted, name):
    model, path, train, test = fitted
    last = list(dict(model.named_modules()))[-1]
    few = TensorDataset(*train[:8])
    options = {"layers": [last], "loss_fn": NONE, "hessian_dataset": few, "batch_size": 5} | FUNCTIONS[name]
    options["test_loss_fn"] = nn.MultiMarginLoss(reduction="none")
    a, b = (functions(library, name)(model, train, path, **options) for library in (ours, theirs))
    torch.testing.assert_close(a.influence(test), b.influence(test), rtol=1e-5, atol=1e-5)
    # Captum forgets the other loss as soon as the k largest are wanted.
    assert torch.equal(a.influence(test, k=2).indices, b.influence(test).topk(2).indices)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_influence_functions_leave_the_model_as_it_was(fitted, name):
    model, path, train, test = fitted
    torch.manual_seed(9)
    other = perceptron().double() if isinstance(model[0], nn.Linear) else convolutions().double()
    before = {n: p.clone() for n, p in other.state_dict().items()}
    made = functions(ours, name)(other, train, path, loss_fn=NONE, batch_size=4, **FUNCTIONS[name])
    same = functions(ours, name)(model, train, path, loss_fn=NONE, batch_size=4, **FUNCTIONS[name])
    torch.testing.assert_close(made.influence(test), same.influence(test))  # by the checkpoint, whatever the model holds
    assert all(torch.equal(p, before[n]) for n, p in other.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in other.parameters())
    rows = [made.influence((test[0][i : i + 1], test[1][i : i + 1])) for i in range(4)]
    torch.testing.assert_close(made.influence(test), torch.cat(rows))


def test_influence_functions_refuse(fitted, tmp_path):
    model, path, train, _ = fitted
    with pytest.raises(OptionError, match="no eigenvalue of the Hessian is above"):
        ours.NaiveInfluenceFunction(model, train, path, loss_fn=NONE, hessian_inverse_tol=1e9)
    with pytest.raises(FileError, match="cannot be loaded"):
        ours.NaiveInfluenceFunction(model, train, str(tmp_path / "none.pt"), loss_fn=NONE)
    with pytest.raises(InputError, match="shuffles"):
        ours.NaiveInfluenceFunction(model, DataLoader(train, 4, shuffle=True), path, loss_fn=NONE)
    with pytest.raises(OptionError, match="at least two"):
        ours.ArnoldiInfluenceFunction(model, train, path, loss_fn=NONE, arnoldi_dim=1)


def test_nearest_neighbours():
    torch.manual_seed(0)
    table, query = torch.randn(300, 7), torch.randn(5, 7)
    found = ours.AnnoyNearestNeighbors()
    found.setup(table)
    indices, values = found.get_nearest_neighbors(query, 4)
    expected = (query @ table.T).topk(4)
    assert torch.equal(indices, expected.indices)
    torch.testing.assert_close(values, expected.values)
    with pytest.raises(OptionError, match="num_trees"):
        ours.AnnoyNearestNeighbors(0)
