"""What was found by trying: perturbation, rounds, references and attention where users take them."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pellucid
from pellucid import InputError, OptionError
from pellucid.batch import Run
from pellucid.inputs import references
from pellucid.perturb import Until, blur, feature_ablation, groups_of, marginal, mean, token
from pellucid.perturb.evaluate import Scorer
from pellucid.perturb.rounds import sampled
from pellucid.perturb.samplers import Orders, Pairs
from pellucid.view import at_input
from tests.test_attention import HEADS, WIDE, Block, fused, like
from tests.test_attention import slow as slow
from tests.test_attention import x as x

ALL = ["shapley", "banzhaf", "owen", "lime", "rise", "occlusion", "feature_ablation"]
MANY = 600


@pytest.mark.parametrize("method", ALL)
def test_models_in_train_mode_are_left_alone(method):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(32, 2)).train()
    before = {n: p.clone() for n, p in model.state_dict().items()}
    state = torch.get_rng_state()
    options = {"feature_mask": torch.arange(36).view(1, 1, 6, 6) // 2} if method in ("shapley", "banzhaf", "owen", "lime") else {}
    pellucid.explain(model, torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0)), 1, method, seed=0, **options)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())


def test_occlusion_counts_windows_in_half_precision():
    image = torch.zeros(1, 1, 64, 64)
    image[0, 0, 32, 32] = 1
    options = {"window": 24, "stride": 1}
    found = [
        pellucid.explain(lambda z: z[:, 0, 32, 32], image.to(d), None, "occlusion", **options).attribution.float()
        for d in (torch.float32, torch.bfloat16)
    ]
    torch.testing.assert_close(found[0], found[1], rtol=0.01, atol=0.01)


@pytest.mark.parametrize("method", ALL)
def test_scores_that_are_whole_numbers_or_truths(method):
    rows = torch.ones(2, 4)
    expected = pellucid.explain(lambda r: (r.sum(1) > 3.5).float(), rows, None, method, seed=0).attribution
    assert expected.any()
    for model in (lambda r: (r.sum(1) > 3.5).long(), lambda r: r.sum(1) > 3.5):
        torch.testing.assert_close(pellucid.explain(model, rows, None, method, seed=0).attribution, expected)


def test_an_example_without_values_has_no_say_in_rounds():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    rows = torch.randn(2, 20).double()
    model = lambda r: torch.where(r[:, :1] == rows[1, :1], torch.nan, net(r))  # noqa: E731
    for until in ({"tolerance": 0.1}, {"top": 3}):
        found = pellucid.explain(model, rows, 0, "shapley", seed=0, **until)
        alone = pellucid.explain(net, rows[:1], 0, "shapley", seed=0, **until)
        torch.testing.assert_close(found.attribution[:1], alone.attribution)
        torch.testing.assert_close(found.errors[0][:1], alone.errors[0])
        assert not found.check("scores").passed


@pytest.mark.parametrize("groups", [6, 7, 12])
def test_orders_come_with_their_reverses_in_every_round(groups):
    torch.manual_seed(0)
    weights, row = torch.randn(groups, groups).double(), torch.randn(1, groups).double()
    score = lambda r: ((r @ weights) * r).sum(1)  # noqa: E731  exact for an order with its reverse
    found = sampled(Scorer(at_input(score, row), (torch.zeros_like(row),), Run()), groups_of((row,)), Orders(groups, 0), Until(seconds=0.1))
    assert float(found.averages.errors.max()) < 1e-9


def test_interrupted_while_estimating_keeps_the_last_answer(monkeypatch):
    wide = nn.Sequential(nn.Linear(30, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    estimates, plain = [], Pairs.estimate

    def estimate(self, *args):
        estimates.append(1)
        if len(estimates) == 3:
            raise KeyboardInterrupt
        return plain(self, *args)

    monkeypatch.setattr(Pairs, "estimate", estimate)
    found = pellucid.explain(wide, torch.randn(1, 30).double(), 0, "shapley", tolerance=1e-9, seed=0)
    assert found.check("sampling").message.startswith("interrupted")


def test_odd_requests():
    wide, row = nn.Linear(30, 1).double(), torch.randn(1, 30).double()
    assert pellucid.explain(wide, row, 0, "shapley", seconds=math.inf, tolerance=0.5, seed=0).check("sampling").passed
    one = torch.zeros(1, 30, dtype=torch.long)
    alone = pellucid.explain(wide, row, 0, "shapley", feature_mask=one, estimator="permutation", seconds=1.0).attribution
    torch.testing.assert_close(alone, (wide(row) - wide(0 * row)).detach().expand(1, 30))
    with pytest.raises(OptionError, match="evaluations is 1"):
        pellucid.explain(wide, row, 0, "owen", unions=torch.arange(30)[None] // 3, evaluations=1)
    with pytest.raises(OptionError, match="finite"):
        blur(math.inf)
    ids = torch.zeros(1, 2, dtype=torch.long)
    for wrong in (marginal(torch.full((2, 2), 0.9)), mean(torch.full((2, 2), 0.9)), token(0.5)):
        with pytest.raises(InputError, match="whole number"):
            feature_ablation(at_input(lambda i: i.sum(1).float(), ids), references((ids,), wrong))
    with pytest.raises(InputError, match="no value of the input"):
        token(300)(torch.zeros(1, 2, dtype=torch.uint8))


def test_a_lasso_of_a_batch_is_that_of_its_examples():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    model = lambda z: net(z)[:, 0] * z.abs().sum(1)  # noqa: E731
    rows = torch.cat([torch.randn(1, 6), 50 * torch.randn(1, 6)])
    options = {"surrogate": "lasso", "samples": 100, "seed": 0}
    alone = pellucid.explain(model, rows[:1], None, "lime", **options).attribution
    assert alone.any()
    torch.testing.assert_close(pellucid.explain(model, rows, None, "lime", **options).attribution[:1], alone)
    broken = lambda z: torch.where(z[:, 0] == rows[1, 0], torch.nan, model(z))  # noqa: E731
    torch.testing.assert_close(pellucid.explain(broken, rows, None, "lime", **options).attribution[:1], alone)


def test_rise_of_whole_numbers():
    picture = torch.full((1, 1, 32, 32), 200, dtype=torch.uint8)
    score = lambda z: z.float()[:, 0, :8, :8].mean((1, 2))  # noqa: E731
    whole, real = (
        pellucid.explain(score, p, None, "rise", cells=4, samples=600, seed=0).attribution[0, 0] for p in (picture, picture.float())
    )
    assert float(whole[4, 4]) == pytest.approx(float(real[4, 4]), rel=0.8)
    assert float(whole[4, 4]) > 5 * abs(float(whole[28, 28]))


# First layers


def test_each_example_is_compared():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(MANY, 8), nn.Tanh(), nn.Linear(8, 1), nn.Sigmoid()).eval()
    rows = torch.randn(2, MANY) * 0.1
    rows[1, 7] = 1e7  # what is left of its columns after so large a change is rounding
    whole = pellucid.explain(model, rows, None, "feature_ablation").attribution
    alone = pellucid.explain(model, rows[1:], None, "feature_ablation").attribution
    torch.testing.assert_close(whole[1:], alone, rtol=1e-3, atol=1e-5)


class Reading(nn.Module):
    def __init__(self, way):
        super().__init__()
        self.a, self.b, self.way = nn.Linear(MANY, 8), nn.Linear(8, 1), way
        graph = torch.jit.CompilationUnit("def f(x):\n    return (x[:, 0] > 0.1).float()[:, None]\n")
        self.scripted = [graph.f]

    def forward(self, x):
        if self.way == "keywords":
            return F.linear(input=torch.flatten(input=x, start_dim=1), weight=self.a.weight, bias=self.a.bias)
        if self.way == "a vector":
            return F.linear(x, self.a.weight[0])[:, None]
        if self.way == "contiguous":
            assert x.is_contiguous()
            return self.a(x)
        return self.b(torch.tanh(self.a(x))) + self.scripted[0](x)


@pytest.mark.parametrize("way", ["keywords", "a vector", "contiguous", "a script"])
def test_ways_of_reading_that_a_stand_in_cannot_stand(way):
    torch.manual_seed(0)
    model, rows = Reading(way).eval(), torch.randn(3, MANY)
    found = pellucid.explain(model, rows, 0, "feature_ablation").attribution
    for feature in (0, 5):
        without = rows.clone()
        without[:, feature] = 0
        expected = (model(rows) - model(without)).detach()[:, 0]
        torch.testing.assert_close(found[:, feature], expected, rtol=1e-3, atol=1e-5)


# Attention


def test_maps_under_no_grad_and_of_models_without_gradient(slow, x):
    model = like(slow, fused)
    expected = pellucid.explain(model, x, 2, "generic_attention").attribution
    with torch.no_grad():
        torch.testing.assert_close(pellucid.explain(model, x, 2, "generic_attention").attribution, expected)
    with torch.inference_mode():
        assert pellucid.explain(model, x, 2, "rollout").attribution.shape == x.shape
    with pytest.raises(InputError, match="no gradient"):
        pellucid.explain(lambda x: torch.no_grad()(model)(x), x, 2, "rollout")


class Stacked(nn.Module):
    """Heads before examples, in one dimension."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDE, n) for n in (WIDE, WIDE, WIDE, 3))

    def forward(self, x):
        q, k, v = (torch.cat(layer(x).split(WIDE // 2, 2), 0) for layer in (self.q, self.k, self.v))
        mixed = torch.softmax(q.bmm(k.transpose(1, 2)), 2).bmm(v)
        return self.o(torch.cat(mixed.split(len(x), 0), 2).mean(1))


class Windows(nn.Module):
    def __init__(self):
        super().__init__()
        self.p, self.o = nn.Conv2d(3, WIDE, 4, 4), nn.Linear(WIDE, 2)

    def forward(self, x):
        y = self.p(x).unflatten(2, (2, 4)).unflatten(4, (2, 4)).permute(0, 2, 4, 3, 5, 1)
        w = y.reshape(len(x) * 4, -1, WIDE).unflatten(2, (2, -1)).transpose(1, 2)
        return self.o(F.scaled_dot_product_attention(w, w, w).transpose(1, 2).flatten(2).reshape(len(x), -1, WIDE).mean(1))


def test_heads_before_examples_and_windows_are_refused():
    torch.manual_seed(0)
    stacked, words = Stacked().eval(), torch.randn(4, 5, WIDE)
    with pytest.raises(InputError, match="heads before examples"):
        pellucid.explain(stacked, words, 1, "generic_attention")
    assert pellucid.explain(stacked, words[:1], 1, "generic_attention").attribution.shape == (1, 5, 1)
    for size in (1, 2):
        with pytest.raises(InputError, match="of windows"):
            pellucid.explain(Windows().eval(), torch.randn(size, 3, 32, 32), 1, "rollout")


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.encoder, self.decoder = nn.Embedding(20, WIDE), Block(fused), Block(fused)

    def forward(self, a, b):
        return (self.encoder(self.words(a)).mean(1) * self.decoder(self.words(b)).mean(1)).sum(1)


def test_one_attention_is_not_taken_for_two_inputs():
    torch.manual_seed(0)
    model, ids = Two().eval(), torch.randint(0, 20, (2, 6))
    with pytest.raises(InputError, match="may be over input 0 or 1"):
        pellucid.explain(model, (ids, ids.flip(1)), None, "generic_attention")
    found = pellucid.explain(model, (ids, ids.flip(1)), None, "generic_attention", pattern=("encoder", "decoder"))
    assert not torch.equal(found.attributions[0], found.attributions[1])


def test_maps_keep_the_precision_of_embeddings():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDE, HEADS, 16, batch_first=True).bfloat16().eval()
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(5 * WIDE, 3).bfloat16())
    assert pellucid.explain(model, torch.randn(1, 5, WIDE).bfloat16(), 0, "rollout").attribution.dtype == torch.bfloat16
