"""Discovered concepts: a planted model found again, Sobol indices known in closed form, slow oracles, laws, pictures, refusals."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import sklearn.decomposition  # noqa: F401  its first import draws from numpy's generator
import torch
import torch.nn.functional as F
from torch import nn

from pellucid import FileError, InputError, OptionError, PellucidWarning, TargetError, at_input
from pellucid.batch import Run
from pellucid.concept.bank import Concepts
from pellucid.concept.discovery import discover, of_concept, within
from pellucid.concept.factors import coefficients_of, factorised, followed, matched, norm_of, stability
from pellucid.concept.importance import design, head_of, importances, interval, masks_at, reconstruction, total_indices
from pellucid.concept.rows import at_crops, at_places, held_by, of_crops
from pellucid.seeds import generator
from pellucid.view import gradients

from .models import assert_same_state, state_of
from .test_dynamics_pictures import assert_it_fits, words_of

WEIGHTS = torch.tensor([3.0, 2.0, 1.0, 0.0], dtype=torch.float64)  # of dots, stripes, block and the pattern that no class needs


class Planted(nn.Module):
    """Four detectors of patterns of 8 x 8, each with a vector of twelve channels; the first class weighs them by `WEIGHTS`."""

    def __init__(self):
        super().__init__()
        one, wave = torch.ones(8), torch.tensor([1.0, 1, 1, 1, -1, -1, -1, -1])
        fast = torch.tensor([1.0, -1]).repeat(4)
        self.patterns = torch.stack(
            [torch.outer(fast, fast), torch.outer(one, fast), torch.outer(one, one), torch.outer(wave, one)]
        ).double()
        self.detect, self.mix = nn.Conv2d(1, 4, 8, 8, bias=False), nn.Conv2d(4, 12, 1, bias=False)
        self.first, self.relu, self.head = nn.ReLU(), nn.ReLU(), nn.Linear(12, 2, bias=False)
        self.double()
        self.bank = (torch.rand(4, 12, generator=generator(5, 0)).double() ** 3) * torch.tensor([1.0, 2, 0.5, 1])[:, None]
        with torch.no_grad():
            self.detect.weight.copy_(self.patterns[:, None] / 64)
            self.mix.weight.copy_(self.bank.T[:, :, None, None])
            weights = torch.linalg.pinv(self.bank)
            self.head.weight.copy_(torch.stack([weights @ WEIGHTS, weights @ WEIGHTS.flip(0)]))

    def forward(self, x):
        return self.head(self.relu(self.mix(self.first(self.detect(x)))).mean((2, 3)))


def planted_images(size=40, seed=1):
    """Cells with a pattern each, or none, of any strength."""
    source = generator(seed, 0)
    which = torch.randint(0, 5, (size, 4, 4), generator=source)
    strength = 0.5 + torch.rand(size, 4, 4, generator=source).double()
    patterns = torch.cat([Planted().patterns, torch.zeros(1, 8, 8).double()])
    cells = patterns[which] * strength[..., None, None]
    return cells.permute(0, 1, 3, 2, 4).reshape(size, 1, 32, 32)


class Colours(nn.Module):
    """Upright stripes in red, level stripes in green, blocks of blue, and level stripes in red, which no class needs: at any size."""

    def __init__(self):
        super().__init__()
        self.edges, self.relu, self.head = nn.Conv2d(3, 7, 3, padding=1, padding_mode="replicate", bias=False), nn.ReLU(), nn.Linear(7, 1)
        self.double()
        across = torch.tensor([[0, 0, 0], [-1.0, 0, 1], [0, 0, 0]])
        kernels = torch.zeros(7, 3, 3, 3)
        kernels[0, 0], kernels[1, 0], kernels[2, 1], kernels[3, 1] = across, -across, across.T, -across.T
        kernels[4, 2, 1, 1], kernels[5, 0], kernels[6, 0] = 1, across.T, -across.T
        with torch.no_grad():
            self.edges.weight.copy_(kernels)
            self.head.weight.copy_(torch.tensor([[10.0, 10, 5, 5, 1, 0, 0]]))
            self.head.bias.zero_()

    truth = torch.tensor([[1, 1, 0, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1, 1]]).double()

    def forward(self, x):
        return self.head(self.relu(self.edges(x)).mean((2, 3)))


def coloured_images(size=16, seed=2):
    source = generator(seed, 0)
    found = torch.zeros(size, 3, 32, 32, dtype=torch.float64)
    wave = 0.5 + 0.5 * torch.sin(torch.arange(16) * math.pi / 2 + 0.3).double()
    looks = [(0, wave.expand(16, 16)), (1, wave[:, None].expand(16, 16)), (2, torch.ones(16, 16)), (0, wave[:, None].expand(16, 16))]
    for image, (top, left) in itertools.product(range(size), itertools.product((0, 16), (0, 16))):
        colour, look = looks[int(torch.randint(0, 4, (), generator=source))]
        found[image, colour, top : top + 16, left : left + 16] = look * (0.5 + float(torch.rand((), generator=source)))
    return found


@pytest.fixture(scope="module")
def planted():
    model, x = Planted().eval(), planted_images()
    return model, x, discover(at_input(model, x, 0), "relu", concepts=4, crop=None, samples=64, seed=0)


class Small(nn.Module):
    """A convolutional network with nothing planted."""

    def __init__(self, channels=6):
        super().__init__()
        self.one, self.relu1 = nn.Conv2d(1, 5, 3, padding=1), nn.ReLU()
        self.two, self.relu2, self.pool = nn.Conv2d(5, channels, 3, 2), nn.ReLU(inplace=True), nn.MaxPool2d(2)
        self.hidden, self.relu3, self.out = nn.Linear(channels, 7), nn.ReLU(), nn.Linear(7, 3)

    def forward(self, x):
        found = self.pool(self.relu2(self.two(self.relu1(self.one(x))))).mean((2, 3))
        return self.out(self.relu3(self.hidden(found)))


class Words(nn.Module):
    """Token ids to a class; a mask goes along."""

    def __init__(self):
        super().__init__()
        self.words, self.hidden, self.relu, self.out = nn.Embedding(9, 6), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)

    def forward(self, ids, mask):
        found = self.relu(self.hidden(self.words(ids))) * mask[..., None]
        return self.out(found.sum(1) / mask.sum(1, keepdim=True))


class Row(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 3))

    def forward(self, x):
        return self.net(x)


def subjects():
    """A model, a layer, its view at inputs, and options, for pictures, tokens and rows."""
    torch.manual_seed(4)
    conv, words, row = Small().double().eval(), Words().double().eval(), Row().double().eval()
    ids, mask = torch.randint(0, 9, (16, 5)), (torch.rand(16, 5) > 0.2).double()
    mask[:, 0] = 1
    pictures, table = torch.rand(14, 1, 12, 12).double(), torch.randn(30, 5).double()

    def of_words(chosen, target=1):
        return at_input(words, ids[chosen], target, args=(mask[chosen],))

    return {
        "crops": (conv, "relu2", lambda chosen, target=1: at_input(conv, pictures[chosen], target), {"crop": 5}),
        "places": (conv, "relu2", lambda chosen, target=1: at_input(conv, pictures[chosen], target), {"crop": None}),
        "tokens": (words, "relu", of_words, {}),
        "rows": (row, "net.1", lambda chosen, target=1: at_input(row, table[chosen], target), {}),
    }


@pytest.fixture(scope="module", params=list(subjects()))
def subject(request):
    model, layer, view, options = subjects()[request.param]
    found = discover(view(slice(None)), layer, concepts=3, samples=8, refits=2, best=4, seed=3, **options)
    return request.param, model, layer, view, options, found


# What was planted is found


def test_the_planted_concepts_are_found_in_their_order(planted):
    model, _, found = planted
    order, cosines = matched(model.bank, found.vectors)
    assert bool((cosines > 0.95).all())
    assert order.tolist() == [0, 1, 2, 3]  # the most important first
    assert bool((found.importance[:3] > 0.02).all())
    assert float(found.importance[3]) < 0.005
    assert bool((found.stability > 0.95).all())
    assert found.explained > 0.99
    assert all(share > 0.99 for share in found.reconstruction[:3])


def test_importance_is_what_the_planted_weights_say(planted):
    """The class is a weighted sum of patterns, so that an image's indices are the squares of its terms over their sum."""
    model, x, found = planted
    with torch.no_grad():
        terms = WEIGHTS * model.first(model.detect(x)).mean((2, 3))
    known = (terms**2 / (terms**2).sum(1, keepdim=True)).mean(0)
    torch.testing.assert_close(found.importance, known, atol=0.03, rtol=0)
    assert bool((found.interval[:, 0] <= found.importance).all() & (found.importance <= found.interval[:, 1]).all())


def test_maps_are_where_the_patterns_are(planted):
    model, _, found = planted
    x = planted_images(6, 9)
    with torch.no_grad():
        true = model.first(model.detect(x))
    small = found.maps(at_input(model, x), resize=False)
    for k in range(4):
        assert float(np.corrcoef(small[:, k].flatten(), true[:, k].flatten())[0, 1]) > 0.99
    large = found.maps(at_input(model, x))
    torch.testing.assert_close(large, F.interpolate(small, (32, 32), mode="bilinear", align_corners=False))


def test_random_concepts_explain_less(planted):
    model, x, found = planted
    view, run = at_input(model, x, 0), Run()
    for seed in range(5):
        random = F.normalize(torch.rand(4, 12, generator=generator(seed, 0)).double(), dim=1)
        kept = reconstruction(head_of(view, held_by(view, "relu"), random, run), run)
        assert kept.activations < found.reconstruction.activations - 0.05
        assert kept.score < found.reconstruction.score - 0.05


def test_planted_concepts_are_found_in_crops_of_any_size():
    model, x = Colours().eval(), coloured_images()
    found = discover(at_input(model, x), "relu", concepts=4, crop=12, samples=32, seed=0)
    order, cosines = matched(model.truth, found.vectors)
    assert bool((cosines > 0.95).all())
    with torch.no_grad():
        pooled = model.relu(model.edges(x)).mean((2, 3)) * model.head.weight
    terms = pooled @ model.truth.T
    known = (terms**2 / (terms**2).sum(1, keepdim=True)).mean(0)
    torch.testing.assert_close(found.importance[order], known, atol=0.04, rtol=0)
    assert order.tolist() == known.argsort(descending=True).tolist()
    for k, colour in ((int(order[0]), 0), (int(order[1]), 1), (int(order[2]), 2)):
        assert bool((found.shown[k].sum((2, 3)).argmax(1) == colour).all())


# Sobol indices


def evaluated(function, factors, samples, seed):
    one, other = design(factors, samples, seed)
    points = masks_at(one[None], other[None], slice(0, samples * (factors + 1)))[:, 0]
    values = function(points).view(factors + 1, samples)
    return one, other, values[0], values[1:]


WEIGHED = torch.tensor([3.0, 1.0, 0.5, 0.0], dtype=torch.float64)
CURVES = torch.tensor([2.0, 1.0, 0.3], dtype=torch.float64)
SPREAD = CURVES**2 / 12
# Of a sum of independent terms, and of a product of (1 + a_i (m_i - 1/2)): V_i prod (1 + V_j) / (prod (1 + V_j) - 1), j other than i.
KNOWN = {
    "sum": (lambda m: m @ WEIGHED, WEIGHED**2 / (WEIGHED**2).sum()),
    "product": (
        lambda m: (1 + CURVES * (m - 0.5)).prod(1),
        SPREAD * ((1 + SPREAD).prod() / (1 + SPREAD)) / ((1 + SPREAD).prod() - 1),
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_total_indices_are_the_known_ones(name):
    function, known = KNOWN[name]
    _, _, here, there = evaluated(function, len(known), 4096, 0)
    torch.testing.assert_close(total_indices(here, there), known, atol=0.005, rtol=0)


@pytest.mark.parametrize("name", KNOWN)
def test_total_indices_are_jansens_slowly(name):
    function, known = KNOWN[name]
    one, other, here, there = evaluated(function, len(known), 64, 1)
    found = total_indices(here, there)
    at = lambda point: float(function(point[None])[0])  # noqa: E731
    ys = [at(point) for point in one]
    mean = sum(ys) / 64
    variance = sum((y - mean) ** 2 for y in ys) / 63
    for i in range(len(known)):
        total = 0.0
        for j in range(64):
            swapped = one[j].clone()
            swapped[i] = other[j, i]
            total += (ys[j] - at(swapped)) ** 2
        assert float(found[i]) == pytest.approx(total / (2 * 64 * variance), abs=1e-9)


def test_total_indices_agree_with_scipy():
    function, _ = KNOWN["product"]
    _, other, here, there = evaluated(function, 3, 4096, 2)
    values = {"f_A": here[None].numpy(), "f_B": function(other)[None].numpy(), "f_AB": there[:, None].numpy()}
    rival = scipy.stats.sobol_indices(func=values, n=4096).total_order
    np.testing.assert_allclose(total_indices(here, there).numpy(), rival.ravel(), rtol=0.02)


def test_masks_are_uniform_and_independent():
    one, other = design(5, 1024, 7)
    both = torch.cat([one, other], 1)
    assert bool((both.sort(0).values - (torch.arange(1024)[:, None] + 0.5) / 1024).abs().max() < 1e-3)
    assert float((torch.corrcoef(both.T) - torch.eye(10)).abs().max()) < 0.02
    assert not torch.equal(one, design(5, 1024, 8)[0])


def test_an_index_of_nothing_is_not_known():
    here = torch.full((2, 8), 0.1) * torch.tensor([[1.0], [0.0]])
    assert bool(total_indices(here, here[:, None].expand(2, 3, 8)).isnan().all())


def test_importance_is_the_slow_one(subject):
    """The score with the layer's output replaced by masked coefficients times the bank, one example and one mask at a time."""
    name, model, layer, view, _, found = subject
    size, samples, factors = 3, 4, 3
    own = view(slice(0, size))
    head = head_of(own, held_by(own, layer), found.vectors, Run())
    indices = importances(head, samples, 11, Run())
    for example in range(size):
        one = view(slice(example, example + 1))
        amounts = found.coefficients(one)[0]
        a, b = design(factors, samples, generator(11, example).initial_seed())

        def scored(mask, amounts=amounts, one=one):
            made = (amounts * mask) @ found.vectors
            made = made.movedim(-1, 0) if name in ("crops", "places") else made
            handle = model.get_submodule(layer).register_forward_hook(lambda *_: made[None])
            with torch.no_grad():
                score = float(model(*one.features, *one.call.arguments)[0, 1])
            handle.remove()
            return score

        ys = [scored(mask) for mask in a]
        variance = np.var(ys, ddof=1)
        for i in range(factors):
            swapped = [torch.cat([p[:i], q[i : i + 1], p[i + 1 :]]) for p, q in zip(a, b, strict=True)]
            total = sum((y - scored(mask)) ** 2 for y, mask in zip(ys, swapped, strict=True))
            assert float(indices[example, i]) == pytest.approx(total / (2 * samples * variance), abs=1e-6)


def test_the_interval_is_that_of_a_mean():
    """Of many examples a bootstrap interval is that of the normal distribution."""
    indices = torch.rand(400, 3, generator=generator(0, 0)).double() * torch.tensor([1.0, 0.5, 0.1])
    found = interval(indices, 0)
    half = 1.96 * indices.std(0) / 20
    torch.testing.assert_close(found, torch.stack([indices.mean(0) - half, indices.mean(0) + half], 1), rtol=0.01, atol=0)
    assert bool(interval(indices[:1], 0).isnan().all())


# Factors


def test_factors_make_up_rows_that_have_some():
    made = torch.rand(60, 3, generator=generator(1, 0)).double() * (torch.rand(60, 3, generator=generator(2, 0)) > 0.5)
    bank = F.normalize(torch.rand(3, 8, generator=generator(3, 0)).double() * (torch.rand(3, 8, generator=generator(4, 0)) > 0.5), dim=1)
    found = factorised(made @ bank, 3, 0)
    assert bool((found >= 0).all())
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3).double())
    assert bool((matched(bank, found)[1] > 0.99).all())
    left, explained = norm_of(made @ bank, coefficients_of(made @ bank, found), found)
    assert explained > 0.999
    assert left == pytest.approx(float((made @ bank - coefficients_of(made @ bank, found) @ found).pow(2).sum().sqrt()))
    scaled = factorised(1e-12 * (made @ bank), 3, 0)
    torch.testing.assert_close(scaled, found)


def test_coefficients_are_the_least_squares_that_are_not_negative():
    bank = F.normalize(torch.rand(4, 9, generator=generator(1, 1)).double(), dim=1)
    rows = torch.randn(5, 6, 9, generator=generator(2, 1)).double().relu() * torch.tensor([1e-9, 1e-3, 1, 1e3, 0])[:, None, None]
    found = coefficients_of(rows, bank)
    for row, own in zip(rows.reshape(-1, 9), found.reshape(-1, 4), strict=True):
        slow = scipy.optimize.nnls(bank.T.numpy(), row.numpy() / max(float(row.norm()), 1e-30))[0] * float(row.norm())
        np.testing.assert_allclose(own, slow, atol=1e-9 * float(row.norm()))
    slope = (found @ bank - rows) @ bank.T  # of half the squares: zero where a concept takes part, positive where it does not
    assert bool((slope[found > 0].abs() < 1e-9 * rows.norm()).all() & (slope > -1e-9 * rows.norm()).all())
    assert 0.1 < float((found > 0).double().mean()) < 0.9


def test_gradients_go_through_the_factorisation():
    bank = F.normalize(torch.rand(4, 9, generator=generator(1, 2)).double(), dim=1)
    rows = torch.rand(7, 9, generator=generator(2, 2)).double()
    torch.testing.assert_close(followed(rows.requires_grad_(), bank).detach(), coefficients_of(rows.detach(), bank))
    assert torch.autograd.gradcheck(lambda each: followed(each, bank), (rows,))


def test_banks_are_matched_as_all_orders_would_be():
    one, other = torch.rand(4, 6, generator=generator(0, 1)), torch.rand(5, 6, generator=generator(0, 2))
    order, cosines = matched(one, other)
    table = F.cosine_similarity(one[:, None], other[None], dim=2)
    best = max(itertools.permutations(range(5), 4), key=lambda chosen: sum(float(table[i, j]) for i, j in enumerate(chosen)))
    assert order.tolist() == list(best)
    torch.testing.assert_close(cosines, table[range(4), list(best)])
    with pytest.raises(InputError, match="cannot be matched"):
        matched(other, one)


def test_what_is_planted_is_stable_and_noise_is_not(planted):
    model, x, found = planted
    rows = at_places(at_input(model, x, 0), held_by(at_input(model, x, 0), "relu"), 0, Run()).values
    noise = torch.rand(40, 4, 12, generator=generator(0, 0)).double()
    shaky = stability(noise, factorised(noise.flatten(0, 1), 4, 0), 4, 0)
    assert float(shaky.mean()) < 0.9 < float(stability(rows, found.vectors, 4, 0).min())
    assert bool(stability(rows, found.vectors, 0, 0).isnan().all())


# Crops and places


def test_rows_are_those_of_every_crop_by_itself():
    model, layer, view, _ = subjects()["crops"]
    own = view(slice(None))
    rows = at_crops(own, held_by(own, layer), (5, 4), None, 0, Run(at_most=7))
    assert rows.where[0, :, :2].amax(0).tolist() == [7, 8]  # the last ones end at the edge
    covered = torch.zeros(12, 12)
    for top, left, tall, wide in rows.where[0].tolist():
        covered[top : top + tall, left : left + wide] += 1
    assert bool((covered > 0).all())
    for i, j in itertools.product((0, 5, 13), range(rows.where.shape[1])):
        top, left, tall, wide = rows.where[i, j].tolist()
        crop = F.interpolate(own.features[0][i : i + 1, :, top : top + tall, left : left + wide], (12, 12), mode="bilinear")
        with torch.no_grad():
            held = model.relu2(model.two(model.relu1(model.one(crop))))
        torch.testing.assert_close(rows.values[i, j], held.mean((2, 3))[0])


def test_random_crops_follow_from_the_seed_and_lie_inside():
    _, layer, view, _ = subjects()["crops"]
    draw = lambda seed, chosen: at_crops(view(chosen), held_by(view(chosen), layer), (5, 3), 20, seed, Run())  # noqa: E731
    found = draw(1, slice(None))
    assert found.values.shape == (14, 20, 6)
    assert bool((found.where >= 0).all() & (found.where[..., 0] <= 7).all() & (found.where[..., 1] <= 9).all())
    assert found.where[..., 0].unique().tolist() == list(range(8))
    assert torch.equal(found.where[:3], draw(1, slice(0, 3)).where)
    assert not torch.equal(found.where, draw(2, slice(None)).where)


def test_the_error_is_the_norm_of_what_is_left(subject):
    name, _, layer, view, _, found = subject
    own = view(slice(None))
    held = held_by(own, layer)
    rows = (at_crops(own, held, (5, 5), None, 3, Run()) if name == "crops" else at_places(own, held, 3, Run())).values.flatten(0, 1)
    amounts = np.stack([scipy.optimize.nnls(found.vectors.T.numpy(), row.numpy())[0] for row in rows])
    left = np.linalg.norm(rows.numpy() - amounts @ found.vectors.numpy())
    assert found.error == pytest.approx(left, rel=1e-6)
    assert found.explained == pytest.approx(1 - left**2 / float(rows.square().sum()), rel=1e-6)


def test_what_survives_is_what_the_model_says_with_the_rebuilt_layer(subject):
    name, model, layer, view, _, found = subject
    own = view(slice(None))
    made = found.coefficients(own) @ found.vectors
    made = made.movedim(-1, 1) if name in ("crops", "places") else made
    outputs, held = [], []
    for change in (None, made, torch.zeros_like(made)):
        hook = lambda _, args, output, change=change: held.append(output.clone()) if change is None else change.clone()  # noqa: E731
        handle = model.get_submodule(layer).register_forward_hook(hook)
        with torch.no_grad():
            outputs.append(model(*own.features, *own.call.arguments))
        handle.remove()
    true, kept, empty = (each[:, 1] for each in outputs)
    for told in (found.check(own), found.reconstruction):
        assert told.activations == pytest.approx(float(1 - (made - held[0]).square().sum() / held[0].square().sum()), rel=1e-6)
        assert told.score == pytest.approx(float(1 - (kept - true).square().sum() / (empty - true).square().sum()), rel=1e-6)
        assert told.predictions == float((outputs[0].argmax(1) == outputs[1].argmax(1)).double().mean())
        assert told.examples == own.size


def test_the_best_examples_hold_most(subject):
    name, _, _, view, _, found = subject
    own = view(slice(None))
    for k in range(3):
        assert found.examples[k].unique().numel() == 4
        assert found.strengths[k].tolist() == sorted(found.strengths[k].tolist(), reverse=True)
        if name == "crops":
            for i, (top, left, tall, wide), strength in zip(found.examples[k], found.where[k], found.strengths[k], strict=True):
                crop = own.features[0][int(i), :, top : top + tall, left : left + wide]
                j = int((found.examples[k] == i).nonzero()[0])
                assert torch.equal(found.shown[k, j], crop)
                assert float(strength) > 0
        else:
            amounts = found.coefficients(own)[..., k]
            best = amounts.reshape(own.size, -1).amax(1).topk(4)
            torch.testing.assert_close(found.strengths[k], best.values)
            assert torch.equal(found.shown[k], own.features[0][found.examples[k]])
            for i, where, strength in zip(found.examples[k], found.where[k].tolist(), found.strengths[k], strict=True):
                assert float(amounts[(int(i), *where)]) == pytest.approx(float(strength))


def test_importance_and_all_that_belongs_to_a_concept_come_in_one_order(subject):
    _, _, layer, view, _, found = subject
    assert found.importance.tolist() == sorted(found.importance.tolist(), reverse=True)
    own = view(slice(None))
    again = importances(head_of(own, held_by(own, layer), found.vectors, Run()), 128, 5, Run()).nanmean(0)
    assert float((again - found.importance).abs().max()) < 0.25  # eight samples only
    torch.testing.assert_close(found.vectors.norm(dim=1), torch.ones(3).double())


def test_what_a_layer_receives_and_one_of_its_calls():
    class Again(Small):
        """What "relu2" returns is what "pool" receives, and what the second call of "relu1" returns."""

        def forward(self, x):
            found = self.pool(self.relu1(self.relu2(self.two(self.relu1(self.one(x))))))
            return self.out(self.relu3(self.hidden(found.mean((2, 3)))))

    model, x = Again().double().eval(), torch.rand(14, 1, 12, 12).double()
    view = at_input(model, x, 1)
    found = [
        discover(view, layer, concepts=3, crop=5, samples=8, refits=1, of_input=of_input, seed=0)
        for layer, of_input in (("relu2", False), ("pool", True), (("relu1", 1), False), (model.relu2, False))
    ]
    for each in found[1:]:
        for name in ("vectors", "importance", "stability"):
            torch.testing.assert_close(getattr(each, name), getattr(found[0], name))
        torch.testing.assert_close(each.maps(view), found[0].maps(view))
        torch.testing.assert_close(of_concept(view, each, 1).score((x,)), of_concept(view, found[0], 1).score((x,)))
    assert "the input of layer pool" in words_of(found[1].draw())
    assert "layer relu1 (call 1)" in words_of(found[2].draw())
    with pytest.raises(OptionError, match="runs 2 times"):
        discover(view, "relu1", concepts=3, seed=0)


def test_few_of_many_places_are_taken_at_random(monkeypatch):
    _, layer, view, _ = subjects()["places"]
    own = view(slice(None))
    held = held_by(own, layer)
    whole = at_places(own, held, 0, Run())
    assert whole.values.shape == (14, math.prod(held.places), 6)
    monkeypatch.setattr("pellucid.concept.rows.MOST", 14 * 5)
    some = at_places(own, held, 0, Run(at_most=3))
    assert some.values.shape == (14, 5, 6)
    for i, j in itertools.product(range(14), range(5)):
        row, column = some.where[i, j].tolist()
        assert torch.equal(some.values[i, j], whole.values[i, row * held.places[1] + column])
    assert len({tuple(map(tuple, each)) for each in some.where.tolist()}) > 1


@pytest.mark.parametrize("layout", ["channels_first", "channels_last", "tokens"])
def test_every_layout_holds_the_same_concepts(layout):
    class Lying(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.relu, self.out = nn.Conv2d(1, 6, 3, 2, 1), nn.ReLU(), nn.Linear(6, 2)

        def forward(self, x):
            found = self.conv(x)
            found = {"channels_first": found, "channels_last": found.movedim(1, -1), "tokens": found.flatten(2).mT}[layout]
            found = self.relu(found)
            return self.out(found.mean((2, 3) if layout == "channels_first" else tuple(range(1, found.dim() - 1))))

    model, x = Lying().double().eval(), torch.rand(10, 1, 8, 12, generator=generator(0, 0)).double()
    view = at_input(model, x, 1)
    found = discover(view, "relu", concepts=3, crop=4, samples=8, seed=0)
    assert found.layout == layout
    maps = found.maps(view)
    with torch.no_grad():
        slow = coefficients_of(F.relu(model.conv(x)).movedim(1, -1), found.vectors).movedim(-1, 1)
    torch.testing.assert_close(found.maps(view, resize=False), slow)
    assert maps.shape == (10, 3, 8, 12)
    reference = TOLD.setdefault("importance", found.importance)
    torch.testing.assert_close(found.importance, reference)


TOLD: dict[str, torch.Tensor] = {}


# Laws of the house


def test_a_batch_is_its_examples_one_by_one(subject):
    name, _, _, view, _, found = subject
    whole = found.coefficients(view(slice(0, 6)))
    torch.testing.assert_close(whole, torch.cat([found.coefficients(view(slice(i, i + 1))) for i in range(6)]))
    torch.testing.assert_close(whole, found.coefficients(view(slice(0, 6)), run=Run(at_most=2)))
    if name != "rows":
        maps = found.maps(view(slice(0, 6)))
        torch.testing.assert_close(maps, torch.cat([found.maps(view(slice(i, i + 1))) for i in range(6)]))


def test_the_size_of_calls_does_not_matter(subject):
    _, _, layer, view, options, found = subject
    few = discover(view(slice(None)), layer, concepts=3, samples=8, refits=2, best=4, seed=3, run=Run(at_most=5), **options)
    for name in ("vectors", "importance", "interval", "stability", "strengths"):
        torch.testing.assert_close(getattr(few, name), getattr(found, name))


def test_everything_stays_as_it_was_and_seeds_decide(subject, tmp_path, monkeypatch):
    _, model, layer, view, options, found = subject
    monkeypatch.chdir(tmp_path)
    before, numpy = state_of(model), np.random.get_state()[1].tolist()
    draw = lambda **more: discover(view(slice(None)), layer, concepts=3, samples=8, refits=2, best=4, **options, **more)  # noqa: E731
    again = draw(seed=3)
    assert all(torch.equal(getattr(again, name), getattr(found, name)) for name in ("vectors", "importance", "interval", "stability"))
    assert not torch.equal(draw(seed=4).importance, found.importance)
    assert torch.equal(draw().importance, draw().importance)
    of_concept(view(slice(None)), found, 1).score(view(slice(None)).features)
    with pytest.raises(InputError, match="rank"):
        discover(view(slice(None)), layer, 90, **options)
    assert_same_state(before, state_of(model))
    assert numpy == np.random.get_state()[1].tolist()
    assert not [*Path.cwd().iterdir()]


def test_a_model_whose_examples_see_each_other_is_called_with_all():
    """Found out, and obeyed: every point then has a call of its own, with the whole batch."""

    class Together(Small):
        def forward(self, x):
            found = super().forward(x)
            return found + found.mean()

    torch.manual_seed(0)
    model, x = Together().double().eval(), torch.rand(8, 1, 12, 12).double()
    run = Run()
    found = discover(at_input(model, x, 1), "relu2", concepts=2, crop=6, samples=4, refits=1, seed=0, run=run)
    assert run.alone
    assert bool(found.importance.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_have_the_type_of_the_activations(dtype):
    torch.manual_seed(0)
    model, x = Small().to(dtype).eval(), torch.rand(10, 1, 12, 12, dtype=dtype)
    found = discover(at_input(model, x, 1), "relu2", concepts=2, crop=6, samples=8, refits=1, seed=0)
    assert {found.vectors.dtype, found.strengths.dtype, found.maps(at_input(model, x)).dtype} == {torch.float32}
    assert found.shown.dtype == dtype
    exact = discover(at_input(Small().to(dtype).eval(), x, 1), "relu2", concepts=2, crop=6, samples=8, refits=1, seed=0)
    assert exact.vectors.shape == (2, 6)


def test_saved_and_loaded(subject, tmp_path):
    _, model, _, view, _, found = subject
    path = tmp_path / "concepts.safetensors"
    found.save(path)
    again = Concepts.load(path, model)
    for name, value in vars(found).items():
        other = getattr(again, name)
        assert torch.equal(other, value) if isinstance(value, torch.Tensor) else other == value, name
    assert torch.equal(again.coefficients(view(slice(0, 3))), found.coefficients(view(slice(0, 3))))
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    try:
        with pytest.raises(FileError, match="other model"):
            Concepts.load(path, model)
        Concepts.load(path)
    finally:
        with torch.no_grad():
            next(model.parameters()).sub_(1e-3)


def test_another_file_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"vectors": torch.ones(2)}, tmp_path / "other")
    with pytest.raises(FileError, match="holds no discovered concepts"):
        Concepts.load(tmp_path / "other")
    with pytest.raises(FileError, match="cannot be read"):
        Concepts.load(tmp_path / "none")


# A concept as a score, and what it is made of


def test_a_concept_is_a_score(subject):
    _, _, _, view, _, found = subject
    own = view(slice(0, 4))
    amounts = found.coefficients(own)
    for k in range(3):
        score = of_concept(own, found, k).score(own.features)[0]
        torch.testing.assert_close(score, amounts[..., k].reshape(4, -1).mean(1))


def test_the_slope_of_a_concept_is_a_finite_difference():
    _, layer, view, options = subjects()["places"]
    own = view(slice(0, 2))
    found = discover(view(slice(None)), layer, concepts=3, samples=8, refits=0, seed=3, **options)
    asked = of_concept(own, found, 1)
    _, (slope,) = gradients(asked, own.features)
    step = torch.randn(own.features[0].shape, generator=generator(0, 0)).double()
    ends = [asked.score((own.features[0] + sign * 1e-6 * step,))[0] for sign in (1, -1)]
    torch.testing.assert_close((slope[0] * step).sum((1, 2, 3)), (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-8)
    assert bool((slope != 0).any())


def test_what_a_concept_is_made_of():
    """The vector of the first planted concept is fed by one detector alone, at the layer before."""
    model = Planted().eval()
    view = at_input(model, planted_images(20), 0)
    found = discover(view, "relu", concepts=4, crop=None, samples=16, seed=0)
    found = replace(found, vectors=F.normalize(model.bank, dim=1))  # to the last digit
    for k in (0, 2):
        parts = within(view, found, k, "first", share=1.0, concepts=4, crop=None, samples=16, seed=0)
        assert parts.target == f"concept {k} of relu"
        assert float(parts.vectors[0, k]) == pytest.approx(1)
        assert parts.importance.tolist() == pytest.approx([1, 0, 0, 0], abs=0.15)  # sixteen samples
        assert bool((parts.importance[1:] < 1e-9).all())


def test_the_parts_are_those_of_the_crops_that_show_a_concept():
    model, layer, view, options = subjects()["crops"]
    own = view(slice(None))
    found = discover(own, layer, concepts=3, samples=8, refits=0, seed=3, **options)
    rows = at_crops(own, held_by(own, layer), (5, 5), None, 3, Run())
    amounts = coefficients_of(rows.values, found.vectors)[..., 0].flatten()
    chosen = amounts.argsort(descending=True)[: math.ceil(0.1 * len(amounts))]
    boxes, count = rows.where.flatten(0, 1)[chosen].tolist(), rows.where.shape[1]
    crops = [own.features[0][int(i) // count, :, t : t + h, w : w + v] for i, (t, w, h, v) in zip(chosen, boxes, strict=True)]
    x = F.interpolate(torch.stack(crops), (12, 12), mode="bilinear")
    parts = within(own, found, 0, "relu1", concepts=2, samples=8, refits=0, best=3, seed=3)
    slow = discover(of_concept(at_input(model, x, 1), found, 0), "relu1", concepts=2, crop=1.0, samples=8, refits=0, best=3, seed=3)
    torch.testing.assert_close(parts.vectors, slow.vectors)
    torch.testing.assert_close(parts.importance, slow.importance)
    assert parts.vectors.shape == (2, 5)
    assert math.isnan(parts.reconstruction.predictions)


# Pictures


def test_a_picture_shows_every_concept(subject):
    name, _, _, _, _, found = subject
    figure = found.draw()
    assert_it_fits(figure)
    words = words_of(figure)
    for k in range(3):
        assert f"concept {k}" in words
        value = float(found.importance[k])
        assert (f"{value:.2f}" if value >= 0.005 else "<0.01") in words
    images = [image for axes in figure.axes for image in axes.get_images()]
    assert len(images) == (int((found.strengths > 0).sum()) if name in ("crops", "places") else 0)
    assert "concept 1" not in words_of(found.draw(most=1))


def test_what_holds_nothing_of_a_concept_is_not_drawn(planted):
    found = planted[2]
    lacking = found.strengths.clone()
    lacking[1, 2:], lacking[2] = 0, 0
    figure = replace(found, strengths=lacking).draw()
    assert len([image for axes in figure.axes for image in axes.get_images()]) == 8 + 2 + 0 + 8
    assert words_of(figure).count("no example holds it") == 1
    assert_it_fits(figure)


def test_doubts_are_told(planted):
    found = planted[2]
    shaky = replace(found, stability=torch.tensor([1.0, 0.2, 1.0, 0.3]), reconstruction=found.reconstruction._replace(score=0.1))
    words = words_of(shaky.draw())
    assert "concepts 1, 3 would be others" in words
    assert "less than half" in words
    assert "would be others" not in words_of(found.draw())


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (224, 3)])
def test_ten_concepts_by_eight_crops_fit(side, channels):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(channels, 24, max(1, side // 6), max(1, side // 8)), nn.ReLU(), nn.Flatten(1), nn.LazyLinear(2)).eval()
    x = torch.randn(12, channels, side, side)
    with torch.no_grad():
        model(x)
    view = at_input(model, x, 1)
    found = discover(view, "1", concepts=10, crop=0.5, samples=4, refits=1, seed=0)
    figure = found.draw()
    assert_it_fits(figure)
    assert figure.get_figheight() < 12
    drawn = [image for axes in figure.axes for image in axes.get_images()]
    assert len(drawn) == int((found.strengths > 0).sum()) > 40
    assert drawn[0].get_array().shape[:2] == (side // 2, side // 2)
    maps = found.draw_maps(view, 3)
    assert_it_fits(maps)
    assert len([axes for axes in maps.axes if axes.get_images()]) >= 8


def test_a_bar_is_as_long_as_its_importance(planted):
    figure = planted[2].draw()
    bars = [patch for axes in figure.axes if axes.get_xlabel() == "importance" for patch in axes.patches]
    np.testing.assert_allclose([bar.get_width() for bar in bars], planted[2].importance, rtol=1e-6)


def test_a_function_says_what_a_person_sees(subject):
    name, _, _, _, _, found = subject
    if name == "tokens":
        figure = found.draw(picture=lambda ids: " ".join(f"word{int(i)}" for i in ids))
        assert f"word{int(found.shown[0, 0, 0])}" in words_of(figure)
        assert f"at place {int(found.where[0, 0, 0])}" in words_of(figure)
    elif name == "rows":
        assert "height" in words_of(found.draw(picture=lambda row: {"height": float(row[0])}))
    else:
        figure = found.draw(picture=lambda crop: crop.clamp(0, 1) * 0)
        assert all(not image.get_array().any() for axes in figure.axes for image in axes.get_images())


# Refusals


def build(**options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(600, 2)).eval()
    x = options.pop("x", torch.rand(6, 1, 12, 12))
    layer, target = options.pop("layer", "1"), options.pop("target", 1)
    return discover(at_input(model, x, target), layer, **{"concepts": 2, "samples": 4, "refits": 0, "seed": 0} | options)


REFUSED = {
    "negative": (
        {"layer": "0"},
        InputError,
        r"layer 0 holds negative numbers, down to -.*choose a layer that ends with a ReLU, such as '1'",
    ),
    "one image": ({"x": torch.rand(1, 1, 12, 12)}, InputError, "one image"),
    "crops too large": ({"crop": 13}, OptionError, r"crop=13 does not fit pictures of 12 x 12"),
    "share above one": ({"crop": 1.5}, OptionError, "does not fit"),
    "no crops": ({"per_image": 0}, OptionError, "per_image=0"),
    "rank": ({"concepts": 7}, InputError, "rank [1-6], too low for 7 concepts"),
    "alike": ({"x": torch.ones(5, 1, 12, 12)}, InputError, "rank"),
    "none": ({"concepts": 0}, OptionError, "concepts=0"),
    "no layer": ({"layer": "relu"}, OptionError, "there is no layer 'relu'"),
    "samples": ({"samples": 1}, OptionError, "samples=1"),
    "tested": ({"tested": 1}, OptionError, "tested=1"),
    "layout": ({"layout": "sideways"}, OptionError, "layout 'sideways' is unknown"),
    "no target": ({"target": None}, TargetError, "no target"),
    "infinite": ({"x": torch.full((3, 1, 12, 12), math.inf)}, InputError, "NaN or infinity"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_refused(name):
    options, kind, words = REFUSED[name]
    with pytest.raises(kind, match=words):
        build(**options)


@pytest.mark.parametrize("activation", [nn.GELU(), nn.LeakyReLU(1e-3), nn.ELU()])
def test_activations_a_little_below_zero_are_refused(activation):
    model = nn.Sequential(nn.Linear(5, 9), activation, nn.Linear(9, 3)).eval()
    with pytest.raises(InputError, match="negative numbers"):
        discover(at_input(model, torch.randn(30, 5), 1), "1", concepts=2, seed=0)


def test_other_refusals(planted):
    model, x, found = planted
    view = at_input(model, x, 0)
    with pytest.raises(OptionError, match="no concept 4"):
        of_concept(view, found, 4)
    with pytest.raises(OptionError, match="share=0"):
        within(view, found, 0, "first", share=0)
    with pytest.raises(InputError, match="example=99"):
        found.draw_maps(view, 99)
    with pytest.raises(OptionError, match="most=0"):
        found.draw(most=0)
    with pytest.raises(TargetError, match=r"scores of shape \(1, 1\)"):
        discover(at_input(lambda x: model(x).sum(), x), "relu", concepts=2)
    with pytest.raises(InputError, match="vectors of 3 numbers"):
        found.coefficients(at_input(Renamed(), x))
    with pytest.raises(OptionError, match="crop"):
        of_crops((4, 4), 0)
    row = subjects()["rows"]
    own = row[2](slice(None))
    with pytest.raises(InputError, match="has no places"):
        discover(own, "net.1", concepts=2, samples=4, seed=0).maps(own)


class Renamed(nn.Module):
    """A layer of the same name, with other vectors."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(1, 3, 8, 8).double(), nn.ReLU()

    def forward(self, x):
        return self.relu(self.conv(x)).mean((1, 2, 3))


def test_a_score_that_does_not_depend_on_the_layer_has_no_important_concepts():
    class Aside(Small):
        def forward(self, x):
            return super().forward(x) * 0 + x.mean((1, 2, 3))[:, None]

    torch.manual_seed(0)
    model, x = Aside().eval(), torch.rand(8, 1, 12, 12)
    with pytest.warns(PellucidWarning, match="importance is not known"):
        found = discover(at_input(model, x, 0), "relu2", concepts=2, crop=6, samples=4, refits=0, seed=0)
    assert bool(found.importance.isnan().all() & found.interval.isnan().all())
    assert math.isnan(found.reconstruction.score)
    figure = found.draw()
    assert_it_fits(figure)
    assert "not known" in words_of(figure)


def test_a_model_in_train_mode_is_warned_of():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(600, 2)).train()
    before = state_of(model)
    with pytest.warns(PellucidWarning, match="train mode"):
        discover(at_input(model, torch.rand(6, 1, 12, 12), 1), "2", concepts=2, samples=4, refits=0, seed=0)
    torch.set_rng_state(before["rng"])
    assert_same_state(before, state_of(model))
