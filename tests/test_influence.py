"""Influence of training examples: inner products against gradients multiplied out one by one, laws, refusals."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score
from torch import nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset

from pellucid import FileError, InputError, OptionError, OutputError
from pellucid.influence import Checkpoints, projected, sample_gradients, self_influence, tracin
from pellucid.influence.gradients import PerExample
from pellucid.influence.layout import Layout
from pellucid.influence.parts import Outer, within


class Tied(nn.Module):
    """One weight in two layers, and a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.b.weight, self.scale = self.a.weight, nn.Parameter(torch.randn(6))

    def forward(self, x):
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)) * self.scale)))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.c = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.c(torch.tanh(self.a(torch.tanh(self.a(x)))))


class Reused(nn.Module):
    """An embedding whose table a function uses again."""

    def __init__(self):
        super().__init__()
        self.words, self.hidden = nn.Embedding(9, 6), nn.Linear(6, 6)

    def forward(self, ids):
        return F.linear(self.hidden(self.words(ids)).tanh().mean(1), self.words.weight)[:, :3]


class Shared(nn.Module):
    """A layer that runs once for the whole batch, as with position embeddings."""

    def __init__(self):
        super().__init__()
        self.inner, self.place, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.query = nn.Parameter(torch.randn(1, 6))

    def forward(self, x):
        return self.out(torch.tanh(self.inner(x) + self.place(self.query)))


class Transposed(nn.Module):
    """Sequence first inside."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.b(F.relu(self.a(x.transpose(0, 1))).mean(0))


class Sorted(nn.Module):
    """Examples change places inside, and back."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        order = x.sum(1).argsort()
        return self.b(torch.tanh(self.a(x[order])[order.argsort()]))


class Folded(nn.Module):
    """Steps and examples in one dimension."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x.flatten(0, 1))).view(len(x), -1, 8).mean(1))


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.spare = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x):
        return self.a(x)


class Saved(nn.Module):
    """A layer that runs again on the way back."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.b(torch.utils.checkpoint.checkpoint(lambda x: torch.tanh(self.a(x)), x, use_reentrant=False))


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.norm, self.out = nn.Embedding(9, 6, padding_idx=0), nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, ids):
        return self.out(self.norm(self.words(ids))).mean(1)


def picture(*layers):
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3))


MODELS = {
    "perceptron": (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 3, bias=False)), (6,)),
    "sequence": (lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3), nn.Flatten(), nn.Linear(15, 3)), (5, 6)),
    "convolutions": (lambda: picture(nn.Conv2d(2, 3, 3, 2, 1), nn.ReLU(), nn.Conv2d(3, 4, 2, bias=False)), (2, 7, 7)),
    "odd convolutions": (
        lambda: picture(
            nn.Conv2d(2, 4, 3, groups=2), nn.Conv2d(4, 2, 3, padding=1, padding_mode="circular"), nn.Conv2d(2, 2, 3, padding="same")
        ),
        (2, 7, 7),
    ),
    "signal": (lambda: picture(nn.Conv1d(2, 3, 3), nn.Tanh()), (2, 9)),
    "norms": (lambda: picture(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.ReLU()), (2, 6, 6)),
    "words": (Words, None),
    "tied": (Tied, (6,)),
    "shared": (Shared, (6,)),
    "transposed": (Transposed, (7, 6)),
    "sorted": (Sorted, (6,)),
    "folded": (Folded, (5, 6)),
    "unused": (Unused, (6,)),
    "saved": (Saved, (6,)),
    "old weight norm": (lambda: nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)), nn.Linear(4, 3)), (6,)),
    "reused": (Reused, None),
    "twice": (Twice, (6,)),
    "recurrent": (lambda: nn.Sequential(nn.LSTM(6, 4, batch_first=True), Last(), nn.Linear(4, 3)), (5, 6)),
}


class Last(nn.Module):
    def forward(self, x):
        return x[0][:, -1]


def data(shape, count, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 9, (count, 5), generator=generator) if shape is None else torch.randn(count, *shape, generator=generator).double()
    return x, torch.randint(0, 3, (count,), generator=generator)


def slow(model, x, y, parameters=None):
    """One backward pass for each example."""
    parameters = list(model.parameters()) if parameters is None else parameters
    rows = []
    for i in range(len(x)):
        loss = F.cross_entropy(model(x[i : i + 1].clone()), y[i : i + 1])
        grads = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([g.flatten() for g in grads]))
    return torch.stack(rows)


def made(name):
    make, shape = MODELS[name]
    torch.manual_seed(0)
    model = make().double().eval()
    (x, y), (q, z) = data(shape, 7, 1), data(shape, 3, 2)
    with torch.no_grad():
        model(x)
    return model, x, y, q, z


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("name", MODELS)
def test_inner_products_are_those_of_gradients(name, reduction):
    model, x, y, q, z = made(name)
    before = {n: p.clone() for n, p in model.state_dict().items()}
    loss = nn.CrossEntropyLoss(reduction=reduction)
    a, b = sample_gradients(model, [x.clone()], y, loss), sample_gradients(model, [q.clone()], z, loss)
    expected, other = slow(model, x, y), slow(model, q, z)
    torch.testing.assert_close(a.dot(b), expected @ other.T)
    torch.testing.assert_close(a.squared(), expected.square().sum(1))
    torch.testing.assert_close(a.rows().square().sum(1), expected.square().sum(1))
    torch.testing.assert_close(a.rows() @ b.rows().T, expected @ other.T)
    torch.testing.assert_close(a.joined([b]).dot(a), torch.cat([expected, other]) @ expected.T)
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_dropout_in_training_is_no_reason_for_another_way():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(), nn.Linear(8, 3))
    x, y = torch.randn(5, 6), torch.tensor([0, 1, 2, 0, 1])
    state = torch.get_rng_state()
    assert list(sample_gradients(model, [x], y, F.cross_entropy).parts) == ["0", "2"]
    assert torch.equal(torch.get_rng_state(), state)


class Viewed(nn.Module):
    """A model that cannot read pictures whose channels are last in memory."""

    def __init__(self):
        super().__init__()
        self.first, self.out = nn.Conv2d(2, 3, 3), nn.Linear(75, 3)

    def forward(self, x):
        return self.out(torch.tanh(self.first(x)).view(len(x), -1))


def test_a_layer_that_has_changed_is_looked_at_again():
    model, x, y, _, _ = made("perceptron")
    sample_gradients(model, [x], y, F.cross_entropy)
    handle = model[0].register_forward_hook(lambda m, i, o: o * 3)
    torch.testing.assert_close(sample_gradients(model, [x], y, F.cross_entropy).rows(), slow(model, x, y))
    handle.remove()
    prune.l1_unstructured(model[0], "weight", 0.5)
    found = sample_gradients(model, [x], y, F.cross_entropy)
    names = Layout.of(list(model.named_parameters()))
    torch.testing.assert_close(found.flat(names), slow(model, x, y))


def test_layers_that_were_not_asked_for_are_looked_at_later():
    model, x, y, _, _ = made("reused")
    sample_gradients(model, [x], y, F.cross_entropy, [model.hidden])
    layout = Layout.of(list(model.named_parameters()))
    torch.testing.assert_close(sample_gradients(model, [x], y, F.cross_entropy).flat(layout), slow(model, x, y))


def test_losses_that_use_the_model():
    model, x, y, _, _ = made("perceptron")
    model.scale = nn.Parameter(torch.ones(3).double())

    def loss(output, labels):
        plain = F.cross_entropy(output * model.scale, labels, reduction="none")
        return plain + 0.1 * model[0].weight.square().sum()

    def rows(parameters):
        each = [torch.autograd.grad(loss(model(x[i : i + 1]), y[i : i + 1]).sum(), parameters) for i in range(7)]
        return torch.stack([torch.cat([g.flatten() for g in row]) for row in each])

    layout = Layout.of(list(model.named_parameters()))
    torch.testing.assert_close(sample_gradients(model, [x], y, loss).flat(layout), rows(list(model.parameters())))


def test_layers_that_run_twice_in_some_batches():
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            held = torch.tanh(self.a(x))
            return self.b(torch.tanh(self.a(held)) if len(x) == 3 else held)

    torch.manual_seed(0)
    model, x, y = Sometimes().double(), torch.randn(7, 6).double(), torch.arange(7) % 3
    own = PerExample(model, F.cross_entropy)
    parts = [own([x[:4]], y[:4]), own([x[4:]], y[4:])]
    expected = torch.cat([slow(model, x[:4], y[:4]), torch.cat([slow_of(model, x[4:], y[4:], i) for i in range(3)])])
    whole = parts[0].joined(parts[1:])
    assert list(whole.parts) == ["a", "b"]
    torch.testing.assert_close(whole.rows()[:4], expected[:4])
    torch.testing.assert_close(parts[0].dot(parts[1]), parts[0].rows() @ parts[1].rows().T)


def slow_of(model, x, y, i):
    return slow(model, x[i : i + 1], y[i : i + 1])


def test_an_unused_layer_costs_no_other_its_parts():
    model, x, y, _, _ = made("unused")
    found = sample_gradients(model, [x], y, F.cross_entropy)
    assert isinstance(found.parts["a"], Outer)
    assert not found.parts["spare"].rows().any()


def test_an_embedding_that_shortens_its_vectors():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 6, max_norm=0.5), nn.Flatten(), nn.Linear(30, 3)).double()
    before = model[0].weight.detach().clone()
    x, y = torch.randint(0, 9, (4, 5)), torch.tensor([0, 1, 2, 0])
    found = sample_gradients(model, [x], y, F.cross_entropy)
    assert torch.equal(model[0].weight, before)
    torch.testing.assert_close(found.rows(), slow(model, x, y))


def test_statistics_of_the_batch_are_refused():
    torch.manual_seed(0)
    x, y = torch.randn(4, 6), torch.tensor([0, 1, 2, 0])
    for layer in (nn.BatchNorm1d(6), nn.BatchNorm1d(6, track_running_stats=False).eval()):
        with pytest.raises(OptionError, match="statistics of the batch"):
            sample_gradients(nn.Sequential(layer, nn.Linear(6, 3)), [x], y, F.cross_entropy)


@pytest.mark.parametrize(
    "loss",
    [
        lambda out, y: F.cross_entropy(out, y)[None],
        lambda out, y: F.cross_entropy(out, y)[None, None],
        lambda out, y: F.binary_cross_entropy_with_logits(out, F.one_hot(y, 3).to(out), reduction="none").mean(0),
        lambda out, y: (F.cross_entropy(out, y, reduction="none") - F.cross_entropy(out, y)).square(),
        lambda out, y: F.cross_entropy(out @ out.T, torch.arange(len(out))),
        lambda out, y: F.cross_entropy(out, y).square(),
        nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0]).double()),
    ],
)
def test_losses_that_are_not_of_single_examples(loss):
    model, x, y, _, _ = made("perceptron")
    with pytest.raises(OutputError, match="neither one for each example"):
        sample_gradients(model, [x], y, loss)


def test_class_weights_are_noticed_where_all_losses_are_the_same():
    model, x, y, _, _ = made("perceptron")
    model[2].weight.data.zero_()
    with pytest.raises(OutputError, match="neither one for each example"):
        sample_gradients(model, [x], y, nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0]).double()))


def test_losses_that_are_no_functions():
    model, x, y, _, _ = made("perceptron")
    for loss in ("ce", nn.CrossEntropyLoss, 3):
        with pytest.raises(OptionError, match="give a function"):
            sample_gradients(model, [x], y, loss)
    with pytest.raises(OutputError, match="returns float"):
        sample_gradients(model, [x], y, lambda out, y: 1.0)


def test_a_model_that_needs_its_channels_first():
    torch.manual_seed(0)
    model, x, y = Viewed().double(), torch.randn(5, 2, 7, 7).double(), torch.tensor([0, 1, 2, 0, 1])
    for _ in range(2):
        found = sample_gradients(model, [x], y, F.cross_entropy)
        torch.testing.assert_close(found.rows(), slow(model, x, y))
    with pytest.raises(RuntimeError, match="shape"):
        sample_gradients(model, [x[..., :6]], y, F.cross_entropy)


def test_both_ways_of_an_outer_product():
    model, x, y, q, z = made("convolutions")
    loss = nn.CrossEntropyLoss()
    a, b = sample_gradients(model, [x], y, loss), sample_gradients(model, [q], z, loss)
    whole = a.dot(b)
    with within(1000):  # block by block
        torch.testing.assert_close(a.dot(b), whole)
        torch.testing.assert_close(a.squared(), a.rows().square().sum(1))
    part, other = a.parts["0"], b.parts["0"]
    torch.testing.assert_close(part._by_places(other), part.rows() @ other.rows().T)


def test_some_layers_only():
    model, x, y, _, _ = made("perceptron")
    found = sample_gradients(model, [x], y, F.cross_entropy, [model[2]])
    torch.testing.assert_close(found.rows(), slow(model, x, y, [model[2].weight]))
    model[2].weight.requires_grad_(False)
    assert sample_gradients(model, [x], y, F.cross_entropy).rows().shape == (7, 56)
    with pytest.raises(OptionError, match="no parameter with requires_grad"):
        sample_gradients(model, [x], y, F.cross_entropy, [model[2]])
    model[2].weight.requires_grad_(True)


def test_means_that_are_not_of_examples_alike():
    """Class weights and ignored labels make the share of an example depend on the others."""
    model, x, y, _, _ = made("perceptron")
    weight = torch.tensor([1.0, 2.0, 3.0]).double()
    with pytest.raises(OutputError, match="neither one for each example"):
        sample_gradients(model, [x], y, nn.CrossEntropyLoss(weight))
    y[1] = -100
    with pytest.raises(OutputError, match="neither one for each example"):
        sample_gradients(model, [x], y, nn.CrossEntropyLoss())
    for reduction in ("sum", "none"):
        found = sample_gradients(model, [x], y, nn.CrossEntropyLoss(weight, reduction=reduction)).rows()
        rows = [
            torch.autograd.grad(weight[c] * F.cross_entropy(model(x[i : i + 1]), c[None]), list(model.parameters()))
            for i, c in enumerate(y)
            if c >= 0
        ]
        expected = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
        torch.testing.assert_close(found[y >= 0], expected)
        assert not found[1].any()


def test_losses_that_are_none():
    model, x, y, _, _ = made("perceptron")
    with pytest.raises(OutputError, match="neither one for each example"):
        sample_gradients(model, [x], y, lambda out, labels: F.cross_entropy(out, labels) ** 2 + out.abs().sum())
    with pytest.raises(OutputError, match="give loss_fn"):
        sample_gradients(model, [x], y, None)
    one = nn.Sequential(model, nn.Linear(3, 1).double())
    own = sample_gradients(one, [x], y, None)
    grads = [torch.autograd.grad(one(x[i : i + 1]).sum(), list(one.parameters())) for i in range(7)]
    expected = torch.stack([torch.cat([g.flatten() for g in row]) for row in grads])
    torch.testing.assert_close(own.dot(own), expected @ expected.T)


# Checkpoints


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two checkpoints of a perceptron on digits with one label in twenty flipped."""
    x, y = (torch.tensor(part) for part in load_digits(return_X_y=True))
    x, y = x[:600].float() / 16, y[:600].clone()
    generator = torch.Generator().manual_seed(0)
    wrong = torch.randperm(600, generator=generator)[:30]
    y[wrong] = (y[wrong] + torch.randint(1, 10, (30,), generator=generator)) % 10
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    folder, paths = tmp_path_factory.mktemp("checkpoints"), []
    for epoch in range(15):
        for rows in torch.randperm(600).split(64):
            loss = F.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch in (4, 9):
            paths.append(str(folder / f"{epoch}.pt"))
            torch.save(model.state_dict(), paths[-1])
    truth = torch.zeros(600)
    truth[wrong] = 1
    return model, TensorDataset(x, y), paths, truth


def load(model, path):
    model.load_state_dict(torch.load(path))
    return 0.5


def test_tracin_is_the_sum_over_checkpoints(trained):
    model, dataset, paths, _ = trained
    own = {n: p.clone() for n, p in model.state_dict().items()}
    loads = []

    def counted(model, path):
        loads.append(path)
        return load(model, path)

    checkpoints, loss = Checkpoints(model, paths, counted), nn.CrossEntropyLoss(reduction="sum")
    queries = [(dataset.tensors[0][:4], dataset.tensors[1][:4]), (dataset.tensors[0][4:6], dataset.tensors[1][4:6])]
    found = tracin(checkpoints, DataLoader(dataset, 128), queries, loss)
    assert loads == paths  # each once
    assert all(torch.equal(p, own[n]) for n, p in model.state_dict().items())
    expected = torch.zeros(6, 600)
    twin = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    for path in paths:
        load(twin, path)
        gradients = slow(twin, *dataset.tensors)
        expected += 0.5 * gradients[:6] @ gradients.T
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(tracin(checkpoints, DataLoader(dataset, 128), queries, loss, aggregate=True), found.sum(0, keepdim=True))
    own_influence = self_influence(checkpoints, DataLoader(dataset, 100), loss)
    torch.testing.assert_close(own_influence[:6], found[:, :6].diagonal(), rtol=1e-3, atol=1e-5)
    vectors = projected(checkpoints, [dataset.tensors], loss)
    torch.testing.assert_close(vectors[:6] @ vectors.T, found, rtol=1e-3, atol=1e-4)


def test_flipped_labels_influence_themselves(trained):
    model, dataset, paths, truth = trained
    found = self_influence(Checkpoints(model, paths, load), DataLoader(dataset, 128), nn.CrossEntropyLoss())
    assert average_precision_score(truth, found) >= 0.85


def test_checkpoints_that_do_not_fit(trained, tmp_path):
    model, dataset, paths, _ = trained
    loss = nn.CrossEntropyLoss()
    torch.save(nn.Linear(3, 3).state_dict(), tmp_path / "other.pt")
    own = {n: p.clone() for n, p in model.state_dict().items()}
    for path in (tmp_path / "other.pt", tmp_path / "missing.pt"):
        with pytest.raises(FileError, match="cannot be loaded"):
            self_influence(Checkpoints(model, [paths[0], path], load), DataLoader(dataset, 128), loss)
        assert all(torch.equal(p, own[n]) for n, p in model.state_dict().items())
    with pytest.raises(OptionError, match="no checkpoints"):
        self_influence(Checkpoints(model, [], load), DataLoader(dataset, 128), loss)
    with pytest.raises(InputError, match="no examples"):
        self_influence(Checkpoints(model, paths, load), [], loss)
    with pytest.raises(InputError, match="queries holds no examples"):
        tracin(Checkpoints(model, paths, load), DataLoader(dataset, 128), [], loss)
