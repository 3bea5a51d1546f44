"""Curvature and its inverses: against whole matrices made by another way, and against retraining."""

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from torch import nn
from torch.func import functional_call, jacrev

from pellucid import OptionError, OutputError
from pellucid.influence import ConjugateGradient, Curvature, Examples, Lissa, arnoldi, dense, ek_fac, sample_gradients
from pellucid.influence.ek_fac import _Work
from pellucid.influence.parts import Outer


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.q, self.out = nn.Embedding(7, 4), nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, ids):
        q, k, v = self.q(self.words(ids)).chunk(3, -1)
        return self.out(F.scaled_dot_product_attention(q, k, v).mean(1))


MODELS = {
    "perceptron": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), lambda n: torch.randn(n, 4).double()),
    "convolutions": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Softplus(), nn.Flatten(), nn.Linear(18, 3)),
        lambda n: torch.randn(n, 1, 5, 5).double(),
    ),
    "attention": (Attention, lambda n: torch.randint(0, 7, (n, 5))),
    "kinks": (lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3)), lambda n: torch.randn(n, 4).double()),
}


def made(name, count=7):
    make, points = MODELS[name]
    torch.manual_seed(0)
    return make().double().eval(), points(count), torch.randint(0, 3, (count,))


def oracles(model, x, y):
    """The Hessian and the Gauss-Newton matrix, by `torch.func` and by their formulas."""
    named = {n: p.detach() for n, p in model.named_parameters()}
    flat = torch.cat([p.flatten() for p in named.values()])

    def output(flat):
        pieces = flat.split([p.numel() for p in named.values()])
        return functional_call(model, {n: v.view(p.shape) for (n, p), v in zip(named.items(), pieces, strict=True)}, (x.clone(),))

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        whole = jacrev(jacrev(lambda flat: F.cross_entropy(output(flat), y, reduction="sum")))(flat)
        slopes = jacrev(output)(flat)
    p = output(flat).softmax(1)
    bent = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    return {"hessian": whole, "gauss_newton": torch.einsum("ncp,ncd,ndq->pq", slopes, bent, slopes)}


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("name", MODELS)
def test_products_are_those_of_the_matrix(name, kind):
    model, x, y = made(name)
    before = {n: v.clone() for n, v in model.state_dict().items()}
    expected = oracles(model, x, y)[kind]
    vectors = torch.randn(3, len(expected)).double()
    for reduction, size in (("sum", 7), ("none", 3), ("mean", 1)):
        curvature = Curvature(model, Examples((x, y), size), nn.CrossEntropyLoss(reduction=reduction), kind)
        torch.testing.assert_close(curvature.times(vectors), vectors @ expected)
        torch.testing.assert_close(curvature.times(vectors[:1]), vectors[:1] @ expected)
    torch.testing.assert_close(curvature.matrix(), expected)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_one_after_the_other_where_several_at_once_fail(monkeypatch):
    model, x, y = made("perceptron")
    curvature = Curvature(model, Examples((x, y), 4), F.cross_entropy)
    vectors = torch.randn(3, curvature.layout.size).double()
    expected, real = curvature.times(vectors), torch.autograd.grad

    def refusing(*args, is_grads_batched=False, **kwargs):
        if is_grads_batched:
            raise RuntimeError("Batching rule not implemented")
        return real(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", refusing)
    torch.testing.assert_close(curvature.times(vectors), expected)


def test_a_part_of_the_parameters():
    model, x, y = made("perceptron")
    whole = oracles(model, x, y)["hessian"]
    own = Curvature(model, Examples((x, y)), F.cross_entropy, "hessian", [model[2]])
    torch.testing.assert_close(own.matrix(), whole[25:, 25:])


def test_curvature_refuses():
    model, x, y = made("perceptron")
    with pytest.raises(OptionError, match="curvature is 'fisher'"):
        Curvature(model, Examples((x, y)), F.cross_entropy, "fisher")

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return (self.inner(x),)

    with pytest.raises(OutputError, match="needs a tensor"):
        Curvature(Pair(), Examples((x, y)), lambda out, y: F.cross_entropy(out[0], y), "gauss_newton").matrix()


# Inverses


@pytest.fixture(scope="module")
def trained():
    """A small perceptron on digits, its curvature with damping, and gradients of queries and training examples."""
    torch.manual_seed(0)
    x, y = (torch.tensor(part) for part in load_digits(return_X_y=True))
    x, y = x[:300, ::3].double() / 16, y[:300]
    model = nn.Sequential(nn.Linear(22, 10), nn.Tanh(), nn.Linear(10, 10)).double()
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(150):
        loss = F.cross_entropy(model(x), y) + 1e-3 * sum(p.square().sum() for p in model.parameters())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    examples, loss = Examples((x, y), 64), nn.CrossEntropyLoss()
    curvature = Curvature(model, examples, loss)
    whole = oracles(model, x, y)
    layout = curvature.layout
    train = sample_gradients(model, [x], y, loss).flat(layout)
    queries = sample_gradients(model, [x[:12]], y[:12].roll(1), loss).flat(layout)
    return model, examples, curvature, whole, queries, train


DAMPING = 300 * 0.05  # of the summed loss: 0.05 of the mean


def solved(matrix, damping, queries):
    return torch.linalg.solve(matrix + damping * torch.eye(len(matrix)).to(matrix), queries.T).T


def test_dense_and_conjugate_gradients_solve(trained):
    _, _, curvature, whole, queries, _ = trained
    expected = solved(whole["hessian"], DAMPING, queries)
    found, _ = dense(curvature, DAMPING).times(queries)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    found, (check,) = ConjugateGradient(curvature, DAMPING, 1e-8, 400).times(queries)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    assert check.passed
    assert check.value <= 1e-8
    one = torch.cat([ConjugateGradient(curvature, DAMPING, 1e-8, 400).times(q[None])[0] for q in queries])
    torch.testing.assert_close(one, found, rtol=1e-5, atol=1e-8)  # each query by itself
    _, (check,) = ConjugateGradient(curvature, DAMPING, 1e-8, 3).times(queries)
    assert not check.passed
    assert "more steps" in check.message
    nothing, _ = ConjugateGradient(curvature, DAMPING).times(torch.zeros(2, queries.shape[1]).double())
    assert not nothing.any()


def test_lissa_comes_near(trained):
    _, _, curvature, whole, queries, _ = trained
    expected = solved(whole["hessian"], DAMPING, queries[:2])
    found, (check,) = Lissa(curvature, DAMPING, 1500).times(queries[:2])
    assert float((found - expected).norm() / expected.norm()) < 0.05
    assert check.passed
    _, (check,) = Lissa(curvature, DAMPING, 5).times(queries[:2])
    assert not check.passed
    assert "larger depth" in check.message


def test_downward_curvature_is_told(trained):
    _, _, curvature, whole, queries, _ = trained
    assert float(torch.linalg.eigvalsh(whole["hessian"])[0]) < 0
    _, (check,) = ConjugateGradient(curvature, 0.0, 1e-8, 400).times(queries)
    assert not check.passed
    assert "downward" in check.message
    _, (check,) = dense(curvature, 0.0, 1e-6).times(queries)
    assert "left out" in check.message


def test_arnoldi_finds_the_largest(trained):
    _, _, curvature, whole, queries, _ = trained
    values, vectors = torch.linalg.eigh(whole["hessian"])
    top = vectors[:, -10:] / (values[-10:] + DAMPING).sqrt()
    found, _ = arnoldi(curvature, DAMPING, 60, 10, 1e-9, 0.0).times(queries)
    torch.testing.assert_close(found, queries @ top @ top.T, rtol=1e-4, atol=1e-7)
    size = len(values)
    found, _ = arnoldi(curvature, DAMPING, size, None, 1e-9, 0.0).times(queries)
    torch.testing.assert_close(found, solved(whole["hessian"], DAMPING, queries), rtol=1e-5, atol=1e-7)
    with pytest.raises(OptionError, match="at least one"):
        arnoldi(curvature, DAMPING, 0)
    with pytest.raises(OptionError, match="no eigenvalue"):
        arnoldi(curvature, 0.0, 10, tolerance=1e9)


@pytest.mark.parametrize("name", ["perceptron", "convolutions"])
def test_ek_fac_is_the_fisher_matrix_in_kronecker_directions(name):
    """Every layer's Fisher matrix as a whole, its diagonal in the eigenvectors of both sides."""
    model, x, y = made(name, 40)
    curvature = Curvature(model, Examples((x, y), 16), nn.CrossEntropyLoss())
    layout, found = curvature.layout, ek_fac(curvature, 3.0, draws=4)
    drawn = list(_Work(curvature, 0, None, 4).gradients())
    queries = sample_gradients(model, [x[:5]], y[:5], F.cross_entropy)
    values, expected = layout.split(found.times(queries.flat(layout))[0]), {}
    for part, names in queries.names.items():
        pieces = [each.parts[part] for each in drawn]
        rows = torch.cat([piece.rows() for piece in pieces])
        fisher, own = rows.T @ rows, queries.parts[part].rows()
        if isinstance(pieces[0], Outer):
            left, right = (torch.cat([getattr(p.whole(), side).flatten(0, 1) for p in pieces]) for side in ("left", "right"))
            places = torch.arange(left.shape[1] * (right.shape[1] - 1)).view(left.shape[1], -1)
            order = torch.cat([places, places.numel() + torch.arange(left.shape[1])[:, None]], 1).flatten()
            basis = torch.kron(torch.linalg.eigh(left.T @ left)[1], torch.linalg.eigh(right.T @ right)[1])[order.argsort()]
        else:
            basis = torch.eye(len(fisher)).double()
        held = (basis.T @ fisher @ basis).diagonal() + 3.0
        expected |= dict(zip(names, ((own @ basis / held) @ basis.T).split([layout.shapes[n].numel() for n in names], 1), strict=True))
    for each, rows in expected.items():
        torch.testing.assert_close(values[each].flatten(1), rows, rtol=1e-6, atol=1e-9)


def test_the_fisher_matrix_is_the_gauss_newton_matrix_of_many_draws():
    model, x, y = made("perceptron", 6)
    for loss, labels, output in (
        (nn.CrossEntropyLoss(), y, lambda z: torch.diag_embed(z.softmax(1)) - z.softmax(1)[:, :, None] * z.softmax(1)[:, None]),
        (nn.MSELoss(reduction="sum"), torch.randn(6, 3).double(), lambda z: 2 * torch.eye(3).double().expand(6, 3, 3)),
        (nn.BCEWithLogitsLoss(reduction="sum"), torch.rand(6, 3).double(), lambda z: torch.diag_embed(z.sigmoid() * (1 - z.sigmoid()))),
    ):
        curvature = Curvature(model, Examples((x, labels), 6), loss, "gauss_newton")
        work = _Work(curvature, 0, None, 1000)
        layout, total = curvature.layout, 0
        for found in work.gradients():
            rows = found.flat(layout)
            total = total + rows.T @ rows
        expected = curvature.matrix()
        assert float((total - expected).norm() / expected.norm()) < 0.1, type(loss)
        assert output(model(x)).shape == (6, 3, 3)


def test_ek_fac_and_arnoldi_rank_as_the_hessian_does(trained):
    """Damping 0.05 of the mean loss, for both and for the exact answer."""
    _, _, curvature, whole, queries, train = trained
    exact = solved(whole["hessian"], DAMPING, queries) @ train.T
    for inverse in (ek_fac(curvature, DAMPING), arnoldi(curvature, DAMPING, 150, 100, 1e-9)):
        found = inverse.times(queries)[0] @ train.T
        each = [spearmanr(a, b)[0] for a, b in zip(found, exact, strict=True)]
        assert sum(each) / len(each) >= 0.6
        assert spearmanr(found.flatten(), exact.flatten())[0] >= 0.6


def test_an_empirical_fisher_matrix_where_labels_cannot_be_drawn():
    model, x, y = made("perceptron")
    found = ek_fac(Curvature(model, Examples((x, y), 4), lambda out, y: F.multi_margin_loss(out, y, reduction="none")))
    assert "empirical" in found.times(torch.zeros(1, found.layout.size).double())[1][0].message


def test_influence_is_what_leaving_out_does():
    """Logistic regression with a penalty, trained again without each of forty examples."""
    torch.manual_seed(0)
    x, y = (torch.tensor(part) for part in load_digits(n_class=2, return_X_y=True))
    x, y = x[:120, ::4].double() / 16, y[:120]
    y = torch.where(torch.rand(120) < 0.15, 1 - y, y)
    penalty = 0.01

    def fitted(x, y, count):
        model = nn.Linear(16, 2).double()
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        optimizer = torch.optim.LBFGS(
            model.parameters(), max_iter=500, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe"
        )

        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y, reduction="sum") / count + penalty / 2 * sum(p.square().sum() for p in model.parameters())
            loss.backward()
            return loss

        optimizer.step(closure)
        return model.requires_grad_(True)

    train, queries = (x[:80], y[:80]), (x[80:], y[80:])
    whole = fitted(*train, 80)
    curvature = Curvature(whole, Examples(train), nn.CrossEntropyLoss())
    asked = sample_gradients(whole, [queries[0]], queries[1], F.cross_entropy).flat(curvature.layout)
    rows = sample_gradients(whole, [train[0]], train[1], F.cross_entropy).flat(curvature.layout)
    for inverse in (dense(curvature, 80 * penalty), ConjugateGradient(curvature, 80 * penalty, 1e-8)):
        found = inverse.times(asked)[0] @ rows.T
        before = F.cross_entropy(whole(queries[0]), queries[1], reduction="none").detach()
        left, all_ = list(range(40)), []
        for i in left:
            keep = [j for j in range(80) if j != i]
            other = fitted(train[0][keep], train[1][keep], 80)
            all_.append(F.cross_entropy(other(queries[0]), queries[1], reduction="none").detach() - before)
        real = torch.stack(all_, 1)
        assert spearmanr(found[:, :40].flatten(), real.flatten())[0] >= 0.97
        assert float((found[:, :40] - real).norm() / real.norm()) < 0.25  # in size too: influence is in units of the loss
