"""The door to influence: every method's law, its slow oracle, forms of data, interrupted runs, pictures, refusals."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from matplotlib.image import AxesImage
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import pellucid
from pellucid import Explanation, FileError, InputError, OptionError, OutputError, UntrustedResult
from pellucid.dynamics import Recorder
from pellucid.influence import INFLUENCES, Examples, Faiss, influence, nearest, representer, sample_gradients, top
from pellucid.influence.projection import Projection
from pellucid.show.terminal import terminal
from pellucid.show.training import ranked

OPTIONS = {
    "exact": {"damping": 0.1},
    "conjugate_gradient": {"damping": 0.1, "tolerance": 1e-6},
    "lissa": {"damping": 0.1, "depth": 100},
    "arnoldi": {"damping": 0.1, "steps": 30, "dimensions": 20},
    "ek_fac": {"draws": 4},
    "trak": {"projection": 8},
    "representer": {"penalty": 0.01},
}
LOSS = nn.CrossEntropyLoss(reduction="none")


def network():
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.fixture(scope="module")
def data():
    """A trained perceptron, training examples and queries."""
    torch.manual_seed(0)
    x, q = torch.randn(30, 5).double(), torch.randn(4, 5).double()
    rule = torch.randn(5, 3).double()
    y, z = (x @ rule).argmax(1), (q @ rule).argmax(1).roll(1)
    model = network().double()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(80):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.zero_grad(set_to_none=True)
    return model.eval(), x, y, q, z


def ask(data, method, **options):
    model, x, y, q, z = data
    return influence(model, (x, y), (q, z), method, seed=0, batch_size=8, **OPTIONS.get(method, {}) | options)


@pytest.mark.parametrize("method", INFLUENCES)
def test_the_model_is_as_it_was_and_the_numbers_come_again(data, method):
    model = data[0]
    before = {n: v.clone() for n, v in model.state_dict().items()}
    model[2].bias.requires_grad_(False)
    model.train()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    try:
        found = ask(data, method)
        assert torch.equal(torch.get_rng_state(), state)
        assert all(m.training for m in model.modules())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        assert [p.requires_grad for p in model.parameters()] == [True, True, True, False]
    finally:
        model[2].bias.requires_grad_(True)
        model.eval()
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert found.attribution.shape == (4, 30)
    assert found.attribution.isfinite().all()
    whole = ask(data, method)
    assert torch.equal(whole.attribution, ask(data, method).attribution)
    assert whole.method == method
    assert len(whole) == 4
    assert whole.cost.forwards >= 34
    assert (whole.cost.backwards > 0) == (method not in ("representer", "similarity"))


@pytest.mark.parametrize("method", INFLUENCES)
def test_queries_together_are_queries_one_by_one(data, method):
    model, x, y, q, z = data
    whole = ask(data, method).attribution
    one = [
        influence(model, (x, y), (q[i : i + 1], z[i : i + 1]), method, seed=0, batch_size=8, **OPTIONS.get(method, {})) for i in range(4)
    ]
    torch.testing.assert_close(torch.cat([each.attribution for each in one]), whole, rtol=1e-4, atol=1e-6)
    small = ask(data, method, memory=12_000).attribution  # bytes: one query at a time, few gradients at a time
    torch.testing.assert_close(small, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", INFLUENCES)
def test_data_in_every_form(data, method):
    model, x, y, q, z = data
    whole = ask(data, method).attribution
    batches = [[x[k : k + 8], y[k : k + 8]] for k in range(0, 30, 8)]
    for train in (TensorDataset(x, y), DataLoader(TensorDataset(x, y), 8), batches, Examples((x, y), 8)):
        for queries in ((q, z), [(q[:3], z[:3]), (q[3:], z[3:])]):
            found = influence(model, train, queries, method, seed=0, batch_size=8, **OPTIONS.get(method, {}))
            torch.testing.assert_close(found.attribution, whole, rtol=1e-4, atol=1e-6)


# Oracles


def gradients(data, loss=F.cross_entropy):
    model, x, y, q, z = data
    return sample_gradients(model, [q], z, loss).rows(), sample_gradients(model, [x], y, loss).rows()


def test_tracin_and_its_last_layer(data):
    asked, train = gradients(data)
    torch.testing.assert_close(ask(data, "tracin").attribution, asked @ train.T)
    last = slice(48, None)
    torch.testing.assert_close(ask(data, "tracin_last").attribution, asked[:, last] @ train[:, last].T)
    torch.testing.assert_close(ask(data, "tracin", layers=["2"]).attribution, asked[:, last] @ train[:, last].T)
    torch.testing.assert_close(ask(data, "tracin_last", layer="0").attribution, asked[:, :48] @ train[:, :48].T)


def test_another_loss_for_the_queries(data):
    model, x, y, q, z = data
    own = sample_gradients(model, [q], z, F.multi_margin_loss).rows()
    found = influence(model, (x, y), (q, z), loss=nn.CrossEntropyLoss(), query_loss=nn.MultiMarginLoss())
    torch.testing.assert_close(found.attribution, own @ gradients(data)[1].T)
    torch.testing.assert_close(found.scores, F.multi_margin_loss(model(q), z, reduction="none").detach())


def test_trak_is_a_regression_on_gradients_of_margins(data):
    model, x, y, q, z = data

    def margin(out, labels):
        p = out.softmax(1).gather(1, labels[:, None])[:, 0]
        return (p / (1 - p)).log()

    one, few = (x[:, :2], y), (q[:, :2], z)
    small = nn.Sequential(nn.Linear(2, 3)).double()  # nine parameters for thirty examples
    asked, train = (sample_gradients(small, [part[0]], part[1], margin).rows() for part in (few, one))
    train = train + 0
    doubt = 1 - small(one[0]).softmax(1).gather(1, y[:, None])[:, 0].detach()
    expected = asked @ torch.linalg.solve(train.T @ train + 0.2 * 30 * torch.eye(9).double(), train.T) * doubt
    found = influence(small, one, few, "trak", projection=None, damping=0.2)
    torch.testing.assert_close(found.attribution, expected)
    assert found.healthy
    wide = influence(model, (x, y), (q, z), "trak", projection=64)
    assert not wide.healthy  # more dimensions than examples
    assert "projection=" in next(c.message for c in wide.health if not c.passed)


def test_trak_of_one_logit(data):
    _, x, y, q, z = data
    torch.manual_seed(0)
    model = nn.Linear(5, 1).double()
    y, z = (y > 0).long(), (z > 0).long()
    two = nn.Linear(5, 2).double()
    with torch.no_grad():
        two.weight.copy_(torch.cat([-model.weight, model.weight]) / 2)
        two.bias.copy_(torch.cat([-model.bias, model.bias]) / 2)
    loss = nn.BCEWithLogitsLoss(reduction="none")
    one = influence(model, (x, y), (q, z), "trak", projection=None, damping=0.1, loss=lambda o, y: loss(o[:, 0], y.double()))
    other = influence(two, (x, y), (q, z), "trak", projection=None, damping=0.2)
    # The gradient of the margin is sqrt(2) as long over two logits of half the weight each: so twice the damping is the same.
    torch.testing.assert_close(one.attribution, other.attribution)


def test_projections_keep_inner_products():
    torch.manual_seed(0)
    model, x, y = network(), torch.randn(6, 5), torch.tensor([0, 1, 2, 0, 1, 2])
    found = sample_gradients(model, [x], y, F.cross_entropy)
    exact = found.rows() @ found.rows().T
    several = [(p := Projection(64, seed).of(found)) @ p.T for seed in range(60)]
    mean = torch.stack(several).mean(0)
    torch.testing.assert_close(mean, exact, rtol=0.1, atol=0.1 * float(exact.diagonal().max()))
    assert Projection(64, 1).of(found).equal(Projection(64, 1).of(found))
    with pellucid.influence.parts.within(100):  # column by column
        torch.testing.assert_close(Projection(64, 1).of(found), (several and Projection(64, 1).of(found)))
    with pytest.raises(OptionError, match="projection=0"):
        Projection(0)


def test_representer_values_add_up(data):
    """Law: over all training examples they are the logit of the layer that was fitted again. Oracle: scikit-learn's fit."""
    model, x, y, q, z = data
    penalty = 0.01
    found = representer(model, model[2], Examples((x, y), 8), nn.CrossEntropyLoss(), penalty)
    hidden, asked = model[:2](x).detach(), model[:2](q).detach()
    ones = lambda rows: torch.cat([rows, torch.ones(len(rows), 1).double()], 1)  # noqa: E731
    fit = LogisticRegression(C=1 / (2 * penalty * 30), fit_intercept=False, tol=1e-12, max_iter=5000).fit(ones(hidden).numpy(), y.numpy())
    logits = torch.tensor(fit.decision_function(ones(asked).numpy()))
    for classes in (z, (z + 1) % 3):
        scores = found.scores(asked, classes)
        torch.testing.assert_close(scores.sum(1), logits.gather(1, classes[:, None])[:, 0], rtol=1e-4, atol=1e-5)
    chances = torch.tensor(fit.predict_proba(ones(hidden).numpy()))
    pulls = (F.one_hot(y, 3) - chances) / (2 * penalty * 30)
    torch.testing.assert_close(found.pulls, pulls, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ask(data, "representer").attribution, found.scores(asked, z), rtol=1e-5, atol=1e-7)
    with pytest.raises(OutputError, match="does not give the model's output"):
        influence(model, (x, y), (q, z), "representer", layer="0")
    with pytest.raises(OptionError, match=r"need the last nn\.Linear"):
        influence(model, (x, y), (q, z), "representer", layer="1")


def test_similarity(data):
    model, x, _, q, _ = data
    a, b = model[:2](q).detach(), model[:2](x).detach()
    torch.testing.assert_close(ask(data, "similarity").attribution, F.normalize(a) @ F.normalize(b).T)
    torch.testing.assert_close(ask(data, "similarity", likeness="inner_product").attribution, a @ b.T)
    found = ask(data, "similarity", likeness="euclidean", layer="0")
    torch.testing.assert_close(found.attribution, -(model[0](q)[:, None] - model[0](x)).norm(dim=2).detach())
    assert found.draw(0).texts  # all scores are negative, and the largest are shown
    with pytest.raises(OptionError, match="likeness is 'l1'"):
        ask(data, "similarity", likeness="l1")


@pytest.mark.parametrize("method", ["tracin", "ek_fac", "trak", "similarity"])
def test_checkpoints(data, tmp_path, method):
    """Means over checkpoints, or for TracIn sums with learning rates; TRAK multiplies two means."""
    model, x, y, q, z = data
    torch.manual_seed(3)
    others = [network().double().eval() for _ in range(2)]
    for number, other in enumerate(others):
        torch.save(other.state_dict() | ({"learning_rate": 0.5} if number else {}), tmp_path / f"{number}.pt")
    before = {n: v.clone() for n, v in model.state_dict().items()}
    found = ask(data, method, checkpoints=tmp_path)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    each = [
        influence(other, (x, y), (q, z), method, seed=i, batch_size=8, **OPTIONS.get(method, {})).attribution
        for i, other in enumerate(others)
    ]
    if method == "tracin":
        torch.testing.assert_close(found.attribution, each[0] + 0.5 * each[1])
    elif method == "similarity":
        torch.testing.assert_close(found.attribution, (each[0] + each[1]) / 2)
    elif method == "trak":
        doubts = [1 - other(x).softmax(1).gather(1, y[:, None])[:, 0].detach() for other in others]
        kernels = [scores / doubt for scores, doubt in zip(each, doubts, strict=True)]
        torch.testing.assert_close(found.attribution, (kernels[0] + kernels[1]) / 2 * (doubts[0] + doubts[1]) / 2)
    else:
        first = influence(model, (x, y), (q, z), method, seed=0, batch_size=8, checkpoints=[tmp_path / "0.pt"], **OPTIONS[method])
        torch.testing.assert_close(first.attribution, each[0])


# Interrupted runs


class Interrupted(nn.Module):
    """A model that is stopped from outside at some call."""

    def __init__(self, inner, at=None):
        super().__init__()
        self.inner, self.at, self.calls = inner, at, 0

    def forward(self, x):
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return self.inner(x)


@pytest.mark.parametrize("method", INFLUENCES)
def test_an_interrupted_run_goes_on(data, method, tmp_path, monkeypatch):
    monkeypatch.setattr("pellucid.influence.store.ROWS", 8)
    model, x, y, q, z = data
    options = {"seed": 0, "batch_size": 4} | OPTIONS.get(method, {})
    whole = Interrupted(model)
    expected = influence(whole, (x, y), (q, z), method, store=tmp_path / "whole", **options)
    torch.testing.assert_close(influence(model, (x, y), (q, z), method, **options).attribution, expected.attribution)
    stopped = Interrupted(model, at=whole.calls - 2)
    before = {n: v.clone() for n, v in stopped.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        influence(stopped, (x, y), (q, z), method, store=tmp_path / "run", **options)
    assert all(torch.equal(v, before[n]) for n, v in stopped.state_dict().items())
    again = Interrupted(model)
    found = influence(again, (x, y), (q, z), method, store=tmp_path / "run", **options)
    assert torch.equal(found.attribution, expected.attribution)
    if method != "representer":  # which stores nothing: it is one pass
        assert again.calls < whole.calls
    third = Interrupted(model)
    assert torch.equal(influence(third, (x, y), (q, z), method, store=tmp_path / "run", **options).attribution, expected.attribution)
    assert not list((tmp_path / "run").glob("*.part*"))


def test_a_store_of_another_run(data, tmp_path):
    model, x, y, q, z = data
    ask(data, "tracin", store=tmp_path / "run")
    for change, word in (
        ({"method": "similarity"}, "method was 'tracin'"),
        ({"queries": (q[:2], z[:2])}, "queries was"),
        ({"loss": nn.MultiMarginLoss()}, "loss was"),
        ({"seed": 1}, "seed was 0"),
    ):
        given = {"queries": (q, z), "method": "tracin", "seed": 0, "batch_size": 8} | change
        with pytest.raises(FileError, match=f"belongs to another run: {word}"):
            influence(model, (x, y), store=tmp_path / "run", **given)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot be used"):
        ask(data, "tracin", store=tmp_path / "file")
    with pytest.raises(FileError, match="batches of another size"):
        influence(model, (x, y), (q, z), "tracin", seed=0, batch_size=7, store=tmp_path / "run")
    shard = next((tmp_path / "run").glob("scores-*"))
    shard.write_bytes(b"nothing")
    with pytest.raises(FileError, match="cannot be read"):
        ask(data, "tracin", store=tmp_path / "run")


def test_what_tells_runs_apart(data, tmp_path):
    """Layers of one shape, losses of one name, a checkpoint file that was written again, modes: each is another run."""
    _, x, y, q, z = data
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.Dropout(0.0), nn.Linear(5, 3)).double().eval()
    weights = [torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([3.0, 2.0, 1.0]).double()]
    path = tmp_path / "one.pt"

    def loss(scale):
        return lambda out, y: scale * F.cross_entropy(out, y, reduction="none")

    for number, (one, other) in enumerate(
        [
            ({"layers": [model[0]]}, {"layers": [model[2]]}),
            ({"method": "tracin_last", "layer": model[0]}, {"method": "tracin_last", "layer": model[2]}),
            ({"loss": loss(1)}, {"loss": loss(2)}),
            ({"loss": nn.CrossEntropyLoss(weights[0], reduction="sum")}, {"loss": nn.CrossEntropyLoss(weights[1], reduction="sum")}),
            ({"checkpoints": [path]}, {"checkpoints": [path]}),
            ({"load": lambda m, c: 1.0, "checkpoints": ["a"]}, {"load": lambda m, c: 2.0, "checkpoints": ["a"]}),
        ]
    ):
        torch.save(model.state_dict(), path)
        influence(model, (x, y), (q, z), store=tmp_path / str(number), **one)
        influence(model, (x, y), (q, z), store=tmp_path / str(number), **one)  # again, whatever torch's random state
        torch.randn(1)
        torch.save({n: v + 1 for n, v in model.state_dict().items()}, path)
        with pytest.raises(FileError, match="belongs to another run"):
            influence(model, (x, y), (q, z), store=tmp_path / str(number), **other)
    influence(model, (x, y), (q, z), store=tmp_path / "mode")
    with pytest.raises(FileError, match="in train mode was"):
        influence(model.train(), (x, y), (q, z), store=tmp_path / "mode")


@pytest.mark.parametrize("method", ["tracin", "ek_fac", "conjugate_gradient"])
def test_a_run_goes_on_with_another_memory(data, method, tmp_path):
    model, x, y, q, z = data
    options = {"seed": 0, "batch_size": 2} | OPTIONS.get(method, {})
    expected = influence(model, (x, y), (q, z), method, **options).attribution
    for memory in (1, 2**30, 1):
        found = influence(model, (x, y), (q, z), method, store=tmp_path / "run", memory=memory, **options).attribution
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_what_was_noticed_is_still_known_when_a_run_goes_on(data, tmp_path):
    """And vectors that were solved with other examples are refused, also where no score was stored yet."""
    model, x, y, q, z = data
    for _ in range(2):
        found = ask(data, "conjugate_gradient", steps=1, tolerance=1e-9, store=tmp_path / "run")
        assert not found.check("converged").passed
    with pytest.raises(UntrustedResult, match="converged"):
        ask(data, "conjugate_gradient", steps=1, tolerance=1e-9, store=tmp_path / "run", strict=True)
    for shard in (tmp_path / "run").glob("scores-*"):
        shard.unlink()
    options = OPTIONS["conjugate_gradient"] | {"steps": 1, "tolerance": 1e-9, "seed": 0, "store": tmp_path / "run"}
    with pytest.raises(FileError, match="solved with other training examples"):
        influence(model, (x.flip(0), y.flip(0)), (q, z), "conjugate_gradient", **options)


def test_other_training_examples_are_another_run(data, tmp_path):
    model, x, y, q, z = data
    ask(data, "tracin", store=tmp_path / "run")
    with pytest.raises(FileError, match="other training examples"):
        influence(model, (x.flip(0), y.flip(0)), (q, z), "tracin", seed=0, batch_size=8, store=tmp_path / "run")


# Refusals


class Shuffled(Dataset):
    """Another order in every pass, without a sampler that says so."""

    def __init__(self, x, y):
        self.x, self.y, self.reads = x, y, 0

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        self.reads += 1
        i = (i + self.reads // len(self.x)) % len(self.x)
        return self.x[i], self.y[i]


def test_data_that_changes(data):
    model, x, y, q, z = data
    with pytest.raises(InputError, match="shuffles"):
        influence(model, DataLoader(TensorDataset(x, y), 8, shuffle=True), (q, z))
    with pytest.raises(InputError, match="queries shuffles"):
        influence(model, (x, y), DataLoader(TensorDataset(q, z), 8, shuffle=True))
    with pytest.raises(InputError, match=r"not the same in every pass: batch 0 has changed"):
        influence(model, Shuffled(x, y), (q, z), "ek_fac", draws=1)
    with pytest.raises(InputError, match="an iterator can be gone through once only"):
        influence(model, iter([(x, y)]), (q, z), "ek_fac", draws=1)
    with pytest.raises(InputError, match="holds no examples"):
        influence(model, [], (q, z))
    with pytest.raises(InputError, match="30 and 29 rows"):
        influence(model, (x, y[1:]), (q, z))
    with pytest.raises(InputError, match="a batch is dict"):
        influence(model, [{"x": x, "y": y}], (q, z))
    with pytest.raises(InputError, match="is str"):
        influence(model, "train", (q, z))
    with pytest.raises(OptionError, match="batch_size is 0"):
        influence(model, (x, y), (q, z), batch_size=0)


def test_options_and_losses_that_do_not_fit(data, tmp_path):
    model, x, y, q, z = data
    with pytest.raises(OptionError, match="method 'shapley' is unknown; choose one of 'tracin'"):
        influence(model, (x, y), (q, z), "shapley")
    with pytest.raises(OptionError, match="tracin has no option 'damping'; it has none"):
        influence(model, (x, y), (q, z), damping=1)
    with pytest.raises(OptionError, match="arnoldi has no option 'dims'; it has damping"):
        influence(model, (x, y), (q, z), "arnoldi", dims=1)
    with pytest.raises(OptionError, match="must not be negative"):
        ask(data, "exact", damping=-1)
    with pytest.raises(OptionError, match="kept is 0"):
        ask(data, "tracin", kept=0)
    with pytest.raises(OptionError, match="the Hessian of 75 parameters takes"):
        ask(data, "exact", memory=100)
    with pytest.raises(OutputError, match="neither one for each example"):
        influence(model, (x, y), (q, z), loss=lambda out, y: F.cross_entropy(out, y) ** 2 + 1)
    with pytest.raises(OutputError, match="are no classes; say how it was trained"):
        influence(model, (x, torch.randn(30, 3).double()), (q, torch.randn(4, 3).double()))
    with pytest.raises(OutputError, match="are no classes; say how it was trained"):
        influence(nn.Linear(5, 1).double(), (x, y), (q, z))
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "a.pt")
    with pytest.raises(FileError, match="cannot be loaded into the model"):
        ask(data, "tracin", checkpoints=[tmp_path / "a.pt"])
    with pytest.raises(FileError, match="which is no folder"):
        ask(data, "tracin", checkpoints=tmp_path / "missing")
    frozen = network().double().requires_grad_(False)
    with pytest.raises(OptionError, match="no parameter with requires_grad"):
        influence(frozen, (x, y), (q, z))
    with pytest.raises(OptionError, match="no layer 'head'"):
        ask(data, "tracin", layers=["head"])


def test_flipped_whole_numbers_are_other_examples(data):
    """Sums over an example would not tell."""
    x, y = torch.randint(0, 9, (12, 6)), torch.arange(12) % 3
    batches = [(x, y), (x.flip(1), y)]

    class Other(list):
        def __iter__(self):
            batches.reverse()
            return iter([batches[0]])

    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(24, 3))
    with pytest.raises(InputError, match="not the same in every pass"):
        influence(model, Other(batches), (x[:2], y[:2]), "ek_fac", draws=1)


def test_a_load_that_changes_more_than_weights(data):
    _, x, y, q, z = data
    torch.manual_seed(0)
    model = network().double().eval()
    model.register_buffer("count", torch.zeros(1), persistent=False)
    own = list(model.parameters())

    def load(model, state):
        model.train()
        model.count += 1
        model.load_state_dict(state, assign=True)

    state = {n: v + 1 for n, v in model.state_dict().items()}
    before = {n: v.clone() for n, v in model.state_dict().items()}
    influence(model, (x, y), (q, z), checkpoints=[state], load=load)
    assert not model.training
    assert float(model.count) == 0
    assert all(a is b for a, b in zip(own, model.parameters(), strict=True))
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    (bad := torch.tensor([1.0]))
    for checkpoints, message in (([bad], "Tensor cannot be loaded"), (5, "checkpoints is 5")):
        with pytest.raises((FileError, OptionError), match=message):
            influence(model, (x, y), (q, z), checkpoints=checkpoints)


def test_a_loader_with_a_generator_of_its_own(data):
    model, x, y, q, z = data
    own = torch.Generator().manual_seed(3)
    state = own.get_state()
    influence(model, DataLoader([(a, int(b)) for a, b in zip(x, y, strict=True)], 8, generator=own), (q, z))
    assert torch.equal(own.get_state(), state)


# What comes back


def test_queries_without_labels(data):
    model, x, y, q, _ = data
    found = influence(model, (x, y), q)
    known = influence(model, (x, y), (q, model(q).argmax(1)))
    assert torch.equal(found.attribution, known.attribution)
    assert found.target == "the loss of the predicted class"
    assert found.check("target").guessed
    with pytest.raises(UntrustedResult, match="no labels were given"):
        influence(model, (x, y), q, strict=True)
    with pytest.raises(InputError, match="no classes that could be predicted"):
        influence(nn.Linear(5, 1).double(), (x, y), q)


def test_train_mode_is_told(data):
    _, x, y, q, z = data
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(), nn.Linear(8, 3)).double()
    found = influence(model, (x, y), (q, z))
    assert not found.check("mode").passed
    assert influence(model.eval(), (x, y), (q, z)).healthy


def test_saved_and_loaded(data, tmp_path):
    x, y = torch.rand(12, 1, 6, 6), torch.arange(12) % 3
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    found = influence(model, (x, y), (x[:2], y[:2]), classes=("a", "b", "c"), kept=3)
    loaded = Explanation.load(found.save(tmp_path / "one.safetensors"))
    assert torch.equal(loaded.attribution, found.attribution)
    mine, own = loaded.display.gallery, found.display.gallery
    assert (mine.indices, mine.labels, mine.asked_labels, mine.unit, mine.sides) == (
        own.indices,
        own.labels,
        own.asked_labels,
        own.unit,
        own.sides,
    )
    assert all((a == b).all() for a, b in zip(mine.things, own.things, strict=True))
    assert (own.things[0] == (x[own.indices[0], 0] * 255).round().byte().numpy()).all()
    assert own.asked_labels == ("a", "b")


def test_the_picture_shows_the_strongest(data):
    x, y = torch.rand(40, 3, 6, 6), torch.arange(40) % 3
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 3))
    found = influence(model, (x, y), (x[:2], y[:2]), classes=("cat", "dog", "eel"))
    scores = found.attribution[1]
    best, worst = ranked(found, 1, 4)
    assert [each.index for each in best] == scores.topk(4).indices.tolist()
    assert [each.index for each in worst] == (-scores).topk(4).indices.tolist()
    figure = found.draw(1, count=4)
    words = [text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text"))]
    assert {"for the label dog", "against the label dog", "the query", *(f"#{each.index}" for each in best + worst)} <= set(words)
    pictures = [image.get_array() for axes in figure.axes for image in axes.findobj(AxesImage)]
    assert len(pictures) == 9
    shown = (x[best[0].index].permute(1, 2, 0) * 255).round().byte()
    assert (pictures[1] == shown.numpy()).all()
    assert "img" in found._repr_html_()
    assert str(terminal(found))
    for options, message in (({"count": 0}, "count=0"), ({"width": 2}, "leaves no room")):
        with pytest.raises(OptionError, match=message):
            found.draw(0, **options)
    with pytest.raises(InputError, match="example=7"):
        found.draw(7)
    with pytest.raises(InputError, match="not about training examples"):
        pellucid.explain(model, x[:1], 0, kind="examples").draw()


def test_texts_and_rows(data):
    model, x, y, q, z = data
    rows = influence(model, (x, y), (q, z), names=["a", "b", "c", "d", "e"])
    assert rows.display.gallery.asked[0] == {name: f"{value:.3g}" for name, value in zip("abcde", q[0].tolist(), strict=True)} or set(
        rows.display.gallery.asked[0]
    ) == set("abcde")
    texts = influence(model, (x, y), (q, z), look=lambda example: f"a text about {float(example[0][0]):.3f}")
    assert texts.display.gallery.asked[0] == f"a text about {float(q[0, 0]):.3f}"
    for found in (rows, texts):
        assert found.draw(2).axes
    with pytest.raises(InputError, match="there are 2 names"):
        influence(model, (x, y), (q, z), names=["a", "b"])


@pytest.mark.parametrize("method", INFLUENCES)
def test_a_model_that_works_in_place_leaves_the_data(data, method):
    class Halved(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = data[0]

        def forward(self, x):
            return self.inner(x.mul_(0.5))

    _, x, y, q, z = data
    whole = influence(data[0], (x / 2, y), (q / 2, z), method, seed=0, batch_size=8, **OPTIONS.get(method, {}))
    before = x.clone(), q.clone()
    for train in ((x, y), [(x[:16], y[:16]), (x[16:], y[16:])]):
        found = influence(Halved(), train, (q, z), method, seed=0, batch_size=8, **OPTIONS.get(method, {}))
        assert torch.equal(x, before[0])
        assert torch.equal(q, before[1])
        if isinstance(train, tuple) or method not in ("lissa", "ek_fac"):  # which draw, and step, batch by batch
            torch.testing.assert_close(found.attribution, whole.attribution, rtol=1e-4, atol=1e-6)


def test_half_precision(data):
    _, x, y, q, z = data
    torch.manual_seed(0)
    model = network().eval()
    exact = influence(model, (x.float(), y), (q.float(), z)).attribution
    for dtype in (torch.bfloat16, torch.float16):
        found = influence(model.to(dtype), (x.to(dtype), y), (q.to(dtype), z)).attribution
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, exact, rtol=0.1, atol=0.03 * float(exact.abs().max()))
        model = model.float()


# Neighbours


def test_nearest_is_a_search_of_all(data):
    torch.manual_seed(0)
    rows, queries = torch.randn(100, 6), torch.randn(5, 6)
    for largest in (True, False):
        indices, values = nearest(queries, rows.split(7), 9, largest)
        expected = (queries @ rows.T).topk(9, 1, largest=largest)
        assert torch.equal(indices, expected.indices)
        torch.testing.assert_close(values, expected.values)
        assert torch.equal(top(queries @ rows.T, 9, largest)[0], expected.indices)
    for k in (0, 101):
        with pytest.raises(OptionError, match=f"k is {k}, and there are 100"):
            nearest(queries, rows.split(7), k)


def test_an_index_for_very_many(data):
    pytest.importorskip("faiss")
    torch.manual_seed(0)
    rows, queries = torch.randn(5000, 8), torch.randn(6, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        indices, values = Faiss(rows.split(1000), probes=10_000).nearest(queries, 5)
    expected = (queries @ rows.T).topk(5)
    assert torch.equal(indices, expected.indices)
    torch.testing.assert_close(values, expected.values)


def test_faiss_under_captums_interface(data):
    pytest.importorskip("faiss")
    import pellucid.captum.influence as captum

    torch.manual_seed(0)
    rows, queries = torch.randn(3000, 8), torch.randn(6, 8)
    several = (captum.FaissNearestNeighbors(10_000), captum.AnnoyNearestNeighbors())
    with pytest.raises(InputError, match="call setup"):
        several[0].get_nearest_neighbors(queries, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for each in several:
            each.setup(rows)
    one, other = (each.get_nearest_neighbors(queries, 5) for each in several)
    assert torch.equal(one[0], other[0])
    torch.testing.assert_close(one[1], other[1])


# Why is this one wrong?


@pytest.fixture(scope="module")
def wrong(data):
    model, _, _, q, _ = data
    predicted = model(q).argmax(1)
    return q[0], (int(predicted[0]) + 1) % 3, int(predicted[0])


def test_why_wrong(data, wrong, tmp_path):
    model, x, y, q, _ = data
    point, label, predicted = wrong
    found = pellucid.why_wrong(model, (x, y), (point, label), classes=("ant", "bee", "cow"), seed=0)
    names = ("ant", "bee", "cow")
    assert (found.predicted, found.label) == (names[predicted], names[label])
    asked = influence(model, (x, y), (q[:1], torch.tensor([label])), "ek_fac", seed=0)
    assert torch.equal(found.influential.attribution, asked.attribution)
    assert torch.equal(found.nearest.attribution, influence(model, (x, y), (q[:1], torch.tensor([label])), "similarity").attribution)
    total = (model(q)[0, predicted] - model(q)[0, label]) - (model(0 * q)[0, predicted] - model(0 * q)[0, label])
    assert float(found.attribution.attribution.sum()) == pytest.approx(float(total.detach()), rel=0.02)
    own = sample_gradients(model, [x], y, F.cross_entropy).squared()
    torch.testing.assert_close(found.suspicion, own)
    rows = found.rows(3)
    assert 3 <= len(rows) <= 9
    worst = rows[0]["training example"].removeprefix("#")
    assert rows[0]["suspicion (by self influence)"] == f"{int((own >= own[int(worst)]).sum())} of 30"
    page = found.save(tmp_path / "why.html").read_text()
    assert f"Why {found.predicted}, and not {found.label}?" in page
    assert page.count("<section") == 4
    assert "<iframe" in found._repr_html_()
    with pytest.raises(FileError, match="cannot write the page"):
        found.save(tmp_path / "none" / "why.html")


def test_why_wrong_with_what_was_recorded(data, wrong):
    model, x, y, *_ = data
    point, label, _ = wrong
    recorder = Recorder()
    for scale in (1.0, -1.0, 1.0):
        recorder.update(range(30), scale * model(x), y)
    found = pellucid.why_wrong(model, (x, y), (point[None], torch.tensor([label])), dynamics=recorder.dynamics)
    assert found.forgotten.max() == 1
    assert {"times forgotten", "suspicion (by margins)"} <= set(found.rows()[0])
    with pytest.raises(InputError, match="dynamics knows 30 examples, and there are 29"):
        pellucid.why_wrong(model, (x[1:], y[1:]), (point, label), dynamics=recorder.dynamics)


def test_why_wrong_refuses(data, wrong):
    model, x, y, *_ = data
    point, label, predicted = wrong
    with pytest.raises(InputError, match="the model is right"):
        pellucid.why_wrong(model, (x, y), (point, predicted))
    with pytest.raises(InputError, match="the label is 9, and the model has the classes 0 to 2"):
        pellucid.why_wrong(model, (x, y), (point, 9))
    with pytest.raises(InputError, match="example is Tensor"):
        pellucid.why_wrong(model, (x, y), point)
    with pytest.raises(InputError, match="example holds 2 examples"):
        pellucid.why_wrong(model, (x, y), (x[:2], y[:2]))
    with pytest.raises(InputError, match=r"input of shape \(1, 1, 5\)"):
        pellucid.why_wrong(model, (x, y), (point[None, None], label))
    with pytest.raises(InputError, match="must return"):
        pellucid.why_wrong(nn.Linear(5, 1).double(), (x, y), (point, label))
