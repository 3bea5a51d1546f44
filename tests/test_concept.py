"""Concepts: laws of TCAV, a slow oracle, a planted concept found and chance rejected, saving and loading, refusals."""

import random
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sklearn.linear_model  # noqa: F401  its first import draws from Python's generator
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pellucid.captum.concept as captum
from pellucid import FileError, InputError, OptionError, PellucidWarning, TargetError, at_input
from pellucid.batch import Run
from pellucid.concept import Vectors, activations, against_chance, derivatives, fit, load, save, scores, significance, vectors, whose
from pellucid.target import Several, resolve

from .models import Conv, Mlp, assert_same_state, state_of


class Twice(nn.Module):
    """A layer that runs twice, one that returns two tensors, one whose examples lie along the second dimension."""

    def __init__(self):
        super().__init__()
        self.act, self.first, self.gru, self.last = nn.Tanh(), nn.Linear(4, 5), nn.GRU(1, 3), nn.Linear(8, 2)

    def forward(self, x):
        hidden = self.act(self.first(x))
        steps, state = self.gru(x.T[:, :, None])
        return self.last(self.act(torch.cat([hidden, steps[-1] + state[0]], 1)))


def subjects():
    torch.manual_seed(3)
    rand = lambda *shape: torch.randn(*shape, dtype=torch.float64)  # noqa: E731
    return {
        "mlp": (Mlp(), [name for name, _ in Mlp().named_modules() if name][:3], lambda n: rand(n, 5)),
        "conv": (Conv(), [name for name, _ in Conv().named_modules() if name][:3], lambda n: rand(n, 2, 6, 6)),
        "twice": (Twice(), ["first", "gru", ("act", 0), ("act", 1)], lambda n: rand(n, 4)),
    }


@pytest.fixture(params=list(subjects()))
def subject(request):
    model, layers, draw = subjects()[request.param]
    return model.double().eval(), layers, draw


def word(layer):
    return layer if isinstance(layer, str) else f"{layer[0]} (call {layer[1]})"


# What layers hold, and how the score depends on it


def test_activations_are_what_the_layers_return(subject):
    model, layers, draw = subject
    x, seen = draw(7), {}
    found = activations(model, x, layers)
    assert list(found) == list(map(word, layers))
    for layer in layers:
        name, call = layer if isinstance(layer, tuple) else (layer, 0)
        calls = seen[word(layer)] = []
        keep = lambda _, args, output, calls=calls: calls.append(deepcopy(output))  # noqa: E731
        handle = model.get_submodule(name).register_forward_hook(keep)
        with torch.no_grad():
            model(x)
        handle.remove()
        held = calls[call] if isinstance(calls[call], tuple) else (calls[call],)
        held = [t.movedim(1, 0) if name == "gru" else t for t in held]
        torch.testing.assert_close(found[word(layer)], torch.cat([t.reshape(7, -1) for t in held], 1))


def test_activations_of_batches_are_those_of_all(subject):
    model, layers, draw = subject
    x = draw(70)
    whole = activations(model, x, layers)
    forms = [(x,), [x[:30], x[30:]], DataLoader([*x], 8), DataLoader(TensorDataset(x), 8), iter([x[:69], x[69:]])]
    for form in forms:
        for name, rows in activations(model, form, layers).items():
            torch.testing.assert_close(rows, whole[name])
    inner = activations(model, x, layers[0], of_input=True)
    torch.testing.assert_close(inner[word(layers[0])], x.reshape(70, -1))


def test_derivatives_are_finite_differences(subject):
    """A slow oracle: the layer's output moved by a little along a vector, by a hook."""
    model, layers, draw = subject
    x, layer = draw(3), layers[0]
    found = derivatives(at_input(model, x, 1), layers)
    vector = torch.randn(found[layer].shape[1], dtype=torch.float64)

    def moved(size):
        handle = model.get_submodule(layer).register_forward_hook(lambda _, args, output: output + size * vector.reshape(output.shape[1:]))
        with torch.no_grad():
            result = model(x)[:, 1]
        handle.remove()
        return result

    slope = (moved(1e-6) - moved(-1e-6)) / 2e-6
    torch.testing.assert_close(found[layer] @ vector, slope, rtol=1e-5, atol=1e-8)
    own = scores(found[layer], torch.stack([vector, -vector]))
    share = sum(float(s) > 0 for s in slope) / 3
    torch.testing.assert_close(own.sign_count, torch.tensor([share, 1 - share], dtype=torch.float64))
    torch.testing.assert_close(own.magnitude, torch.stack([slope.mean(), -slope.mean()]), rtol=1e-5, atol=1e-8)


def test_a_batch_is_its_examples_one_by_one(subject):
    model, layers, draw = subject
    x, target = draw(5), [0, 1, 1, 0, 1]
    whole = derivatives(at_input(model, x, target), layers)
    few = derivatives(at_input(model, x, target), layers, run=Run(at_most=2))
    for name, rows in whole.items():
        alone = [derivatives(at_input(model, x[i : i + 1], target[i]), layers)[name] for i in range(5)]
        torch.testing.assert_close(rows, torch.cat(alone))
        torch.testing.assert_close(rows, few[name])
        weights = torch.randn(2, rows.shape[1], dtype=torch.float64)
        each = [scores(one, weights) for one in alone]
        for whole_score, parts in zip(scores(rows, weights), zip(*each, strict=True), strict=True):
            torch.testing.assert_close(whole_score, torch.stack(parts).mean(0))


def concepts(draw, *numbers):
    return [captum.Concept(k, f"c{k}", DataLoader([*draw(9)], 4, shuffle=True)) for k in numbers]


def test_everything_stays_as_it_was(subject, tmp_path, monkeypatch):
    model, layers, draw = subject
    monkeypatch.chdir(tmp_path)
    names = [layer for layer in layers if isinstance(layer, str)]
    sets, x = [concepts(draw, 0, 1)], draw(4)
    before, numpy, python = state_of(model), np.random.get_state()[1].tolist(), random.getstate()
    tcav = captum.TCAV(model, names)
    first = tcav.interpret(x, sets, target=1)
    against_chance(at_input(model, x, 1), layers, draw(12), [draw(4) for _ in range(3)], seed=1)
    with pytest.raises(RuntimeError):
        tcav.interpret(x, [[sets[0][0], captum.Concept(5, "", [x.new_zeros(2, 1)])]], target=1)
    torch.set_rng_state(before["rng"])  # what `draw` has taken
    again = captum.TCAV(model, names).interpret(x, sets, target=1)
    assert_same_state(before, state_of(model))
    assert (numpy, python) == (np.random.get_state()[1].tolist(), random.getstate())
    assert not [*Path.cwd().iterdir()]
    for layer in names:
        assert all(torch.equal(first["0-1"][layer][name], again["0-1"][layer][name]) for name in ("sign_count", "magnitude"))


# Vectors


def test_vectors_are_those_of_the_classifier():
    from sklearn.linear_model import SGDClassifier

    a, b, c = (torch.randn(20, 4) + 4 * torch.eye(4)[k] for k in range(3))
    found = vectors({"a": a, "b": b, "c": c}, held_out=0.0, seed=5)
    torch.testing.assert_close(found.weights.norm(dim=1), torch.ones(3))
    assert torch.isnan(torch.tensor(found.accuracy))
    assert found.concepts == ("a", "b", "c")
    assert [int(found.weights[k].argmax()) for k in range(3)] == [0, 1, 2]
    two = vectors({"a": a, "b": b}, seed=5)
    assert torch.equal(two.weights[0], -two.weights[1])
    assert two.weights[0] @ (a.mean(0) - b.mean(0)) > 0
    rows, labels = torch.cat([a, b]), torch.arange(2).repeat_interleave(20)
    exact = SGDClassifier(alpha=0.01, max_iter=1000, tol=1e-3, random_state=5)
    own = fit(rows, 7 * labels, held_out=0.0, seed=5)
    order = torch.cat([k + torch.randperm(20, generator=_generator(5, i)) for i, k in enumerate((0, 20))])
    exact.fit(rows[order].numpy(), labels[order].numpy())
    torch.testing.assert_close(own.weights[1], torch.as_tensor(exact.coef_[0], dtype=torch.float32))
    assert own.classes == [0, 7]


def _generator(seed, sample):
    from pellucid.seeds import generator

    return generator(seed, sample)


def test_accuracy_is_of_examples_that_were_not_fitted_to():
    noise = {"a": torch.randn(60, 200), "b": torch.randn(60, 200)}  # separable where it is fitted, in 200 dimensions
    held = torch.tensor([vectors(noise, 0.5, seed=s).accuracy for s in range(5)])
    assert 0.35 < held.mean() < 0.65
    assert vectors({"a": noise["a"], "b": noise["b"] + 3}, seed=0).accuracy == 1


def test_the_split_follows_from_the_seed():
    parts = {"a": torch.randn(20, 4), "b": torch.randn(20, 4)}
    one, same, other = (vectors(parts, seed=s).weights for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    torch.manual_seed(4)
    first = vectors(parts).weights
    torch.manual_seed(4)
    assert torch.equal(first, vectors(parts).weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_of_numbers(dtype):
    found = vectors({"a": torch.randn(9, 3).to(dtype) + 2, "b": torch.randn(9, 3).to(dtype)}, seed=0)
    assert found.weights.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert scores(torch.randn(5, 3).to(dtype), found.weights).magnitude.isfinite().all()


# Significance


def planted():
    """A network whose class 1 grows with the third number and ignores all others but for a little."""
    net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    with torch.no_grad():
        net[0].weight.copy_(0.3 * torch.eye(8) + 0.02 * torch.randn(8, 8))
        net[2].weight.copy_(0.05 * torch.randn(2, 8))
        net[2].weight[1, 2] = 1.0
    return net.eval()


def test_a_planted_concept_is_found_and_a_random_one_is_not():
    net, draw = planted(), lambda n: torch.randn(n, 8, dtype=torch.float64)
    view, randoms = at_input(net, draw(30), 1), [draw(20) for _ in range(20)]
    with_it, chance, against = draw(200) + 3 * torch.eye(8)[2], draw(200), draw(200) - 3 * torch.eye(8)[2]
    found = against_chance(view, ["0", "1"], with_it, randoms, seed=0)
    for layer in ("0", "1"):
        assert found[layer].sign_count.p < 0.01
        assert found[layer].magnitude.p < 0.01
        assert found[layer].sign_count.concept.mean() > 0.9
        assert found[layer].accuracy > 0.8
    for one in against_chance(view, ["0", "1"], chance, randoms, seed=0).values():
        assert min(one.sign_count.p, one.magnitude.p) > 0.05
    assert all(one.magnitude.p < 0.01 and one.magnitude.concept.mean() < 0 for one in against_chance(view, "0", against, randoms).values())


def test_chance_is_found_no_more_often_than_p_says():
    net, draw = planted(), lambda n: torch.randn(n, 8, dtype=torch.float64)
    view = at_input(net, draw(9), 1)
    p = [against_chance(view, "1", draw(50), [draw(5) for _ in range(10)], seed=s)["1"].magnitude.p for s in range(40)]
    assert sum(value < 0.1 for value in p) <= 8  # 4 expected; more than 8 in 5 of 100 such tests


def test_the_t_test_is_scipys():
    from scipy.stats import ttest_ind

    a, b = torch.rand(9), torch.rand(7) + 0.3
    assert significance(a, b) == pytest.approx(ttest_ind(a.numpy(), b.numpy(), equal_var=False).pvalue, rel=1e-5)
    assert significance(a, b) == pytest.approx(significance(b, a))
    assert significance([1.0, 1.0], [1.0, 1.0]) == 1
    assert significance([1.0, 1.0], [0.0, 0.0]) == 0
    assert 0 < significance([1.0, 1.0, 1.0], [0.0, 1.0, 0.2]) < 1


# Saving and loading


def test_vectors_are_saved_for_one_model_and_its_concepts(tmp_path):
    net, parts = Mlp().eval(), {"a": torch.randn(6, 5), "b": torch.randn(6, 5)}
    layer = next(name for name, _ in net.named_modules() if name)
    own = vectors({name: activations(net, part, layer)[layer] for name, part in parts.items()}, seed=0)
    marks, path = whose(net, parts), tmp_path / "v.safetensors"
    own.save(path, marks)
    back = Vectors.load(path, whose(net, {"a": [parts["a"][4:], parts["a"][:4]], "b": parts["b"]}))  # the order does not matter
    assert (back.concepts, back.accuracy) == (own.concepts, pytest.approx(own.accuracy))
    assert torch.equal(back.weights, own.weights)
    assert b"pickle" not in path.read_bytes()
    moved = Mlp().eval()
    moved.load_state_dict({name: value + 1e-3 for name, value in net.state_dict().items()})
    with pytest.raises(FileError, match="vectors of other model"):
        Vectors.load(path, whose(moved, parts))
    for other in ({"a": parts["a"] + 1e-3, "b": parts["b"]}, {"b": parts["a"], "a": parts["b"]}, {"a": parts["a"]}):
        with pytest.raises(FileError, match="vectors of other concepts"):
            Vectors.load(path, whose(net, other))
    path.write_bytes(b"nothing")
    with pytest.raises(FileError, match="cannot be read"):
        Vectors.load(path, marks)
    with pytest.raises(FileError, match="cannot write"):
        save(tmp_path / "no" / "folder", {}, {})
    with pytest.raises(FileError, match="cannot be read"):
        load(tmp_path / "missing", {})
    with pytest.raises(OptionError, match="no module"):
        whose(lambda x: x, parts)


def test_tcav_reads_what_it_wrote_and_nothing_else(tmp_path):
    net, x = Mlp().eval(), torch.randn(4, 5)
    layer = next(name for name, _ in net.named_modules() if name)
    own = concepts(lambda n: torch.randn(n, 5), 0, 1)
    first = captum.TCAV(net, layer, save_path=str(tmp_path), seed=1)
    found = first.interpret(x, [own], target=1)["0-1"][layer]
    assert [path.name for path in tmp_path.rglob("*.*")] == [f"0-1-{layer}.safetensors"]
    second = captum.TCAV(net, layer, save_path=str(tmp_path), seed=1)
    second.generate_activation = None  # what is stored needs none
    assert second.load_cavs(own) == ([], {})
    for name, value in second.interpret(x, [own], target=1)["0-1"][layer].items():
        assert torch.equal(found[name], value)
    cav = captum.CAV.load(str(tmp_path), "default_model_id", own, layer)
    assert torch.equal(cav.stats["weights"], first.cavs["0-1"][layer].stats["weights"])
    assert list(cav.stats["classes"]) == [0, 1]
    assert captum.CAV.load(str(tmp_path), "another", own, layer) is None
    changed = Mlp().eval()
    changed.load_state_dict({name: -value for name, value in net.state_dict().items()})
    data = [captum.Concept(0, "c0", DataLoader(torch.randn(9, 5))), own[1]]
    for model, options, given, what in (
        (changed, {"seed": 1}, own, "model"), (net, {"seed": 2}, own, "classifiers"), (net, {"seed": 1}, data, "concepts"),
        (net, {"seed": 1, "attribute_to_layer_input": True}, own, "layers"),
    ):  # fmt: skip
        other = captum.TCAV(model, layer, save_path=str(tmp_path), **options)
        with pytest.raises(FileError, match=f"vectors of other {what}"):
            other.interpret(x, [given], target=1)
    captum.TCAV(changed, layer, save_path=str(tmp_path), seed=1).compute_cavs([own], force_train=True)
    with pytest.raises(FileError, match="other model"):
        captum.TCAV(net, layer, save_path=str(tmp_path), seed=1).interpret(x, [own], target=1)


def test_a_model_that_has_learnt_since_gets_new_vectors():
    net, x = Mlp().eval(), torch.randn(4, 5)
    layer = next(name for name, _ in net.named_modules() if name)
    own, tcav = concepts(lambda n: torch.randn(n, 5), 0, 1), captum.TCAV(net, layer, seed=1)
    tcav.interpret(x, [own], target=1)
    before = tcav.cavs["0-1"][layer]
    tcav.interpret(x, [own], target=1)
    assert tcav.cavs["0-1"][layer] is before
    tcav.generate_all_activations()
    with torch.no_grad():
        next(net.parameters()).mul_(-2)
    found = tcav.interpret(x, [own], target=1)
    assert tcav.cavs["0-1"][layer] is not before
    fresh = captum.TCAV(net, layer, seed=1).interpret(x, [own], target=1)
    assert torch.equal(found["0-1"][layer]["magnitude"], fresh["0-1"][layer]["magnitude"])


# Refusals


def tcav_refusals():
    draw = lambda n: torch.randn(n, 5)  # noqa: E731
    a, b, same = concepts(draw, 0, 1, 0)
    return {
        "one concept": ([[a]], InputError, "two concepts at least"),
        "no sets": ([], InputError, "two concepts at least"),
        "a number twice in a set": ([[a, same]], InputError, "a number twice"),
        "a number twice in sets": ([[a, b], [same, b]], InputError, "have the same number"),
        "no examples": ([[a, captum.Concept(3, "empty", DataLoader([]))]], InputError, "has no examples"),
        "no data": ([[a, captum.Concept(3, "none", None)]], InputError, "no data_iter"),
        "other shapes": ([[a, captum.Concept(3, "tall", DataLoader(torch.randn(4, 2, 5)))]], InputError, "other shapes"),
    }


@pytest.mark.parametrize("case", list(tcav_refusals()))
def test_tcav_refuses(case):
    sets, error, words = tcav_refusals()[case]
    with pytest.raises(error, match=words):
        captum.TCAV(nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2)), "0").interpret(torch.randn(3, 5), sets, target=0)


class Bad(captum.DefaultClassifier):
    def classes(self):
        return [0]


class Reused(captum.DefaultClassifier):
    """Hands out the same tensor every time."""

    def weights(self):
        self.kept = getattr(self, "kept", torch.zeros(2, 5))
        return self.kept.copy_(super().weights())


def test_vectors_outlive_the_next_fit():
    net, own = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 2)), concepts(lambda n: torch.randn(n, 5), 0, 1)
    found = captum.TCAV(net, ["0", "1"], classifier=Reused(), seed=0).compute_cavs([own])["0-1"]
    assert not torch.equal(found["0"].stats["weights"], found["1"].stats["weights"])


def test_other_refusals(tmp_path):
    net, x, a, b = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2)), torch.randn(3, 5), torch.randn(4, 3), torch.randn(4, 3)
    own = concepts(lambda n: torch.randn(n, 5), 0, 1)
    view = at_input(net, x, 0)
    for refused, error, words in (
        (lambda: captum.TCAV(net, "nowhere"), OptionError, "no layer 'nowhere'"),
        (lambda: captum.TCAV(net, "0", model_id=""), OptionError, "model_id"),
        (lambda: captum.TCAV(net, "0", classifier=Bad()).interpret(x, [own], 0), OptionError, "one row and one class"),
        (lambda: captum.TCAV(net, "0", test_split=0.5).interpret(x, [own], 0), TypeError, "test_split"),
        (lambda: captum.TCAV(net, "0").interpret(x, [own], 0, attribute_to_layer_input=True), OptionError, "belongs to TCAV"),
        (lambda: captum.DefaultClassifier().weights(), OptionError, "train_and_eval first"),
        (lambda: captum.CAV(own, "0", {"words": "many"}, str(tmp_path)).save(), OptionError, "cannot be saved"),
        (lambda: activations(net, x, "nowhere"), OptionError, "no layer"),
        (lambda: activations(net, x, []), OptionError, "at least one"),
        (lambda: activations(net, [], "0"), InputError, "no examples"),
        (lambda: activations(net, x[:0], "0"), InputError, "no examples"),
        (lambda: activations(net, 3, "0"), InputError, "give its examples"),
        (lambda: activations(net, [x, torch.randn(2, 2, 5)], "0"), InputError, "the same shape"),
        (lambda: vectors({"a": a}), InputError, "one concept"),
        (lambda: vectors({"a": a, "b": b[:0]}), InputError, "at least one example"),
        (lambda: vectors({"a": a, "b": b[:, :2]}), InputError, "the same shape"),
        (lambda: vectors({"a": a, "b": b / 0}), InputError, "infinity"),
        (lambda: vectors({"a": a, "b": b}, held_out=1.0), OptionError, "held_out"),
        (lambda: fit(a, torch.ones(4)), InputError, "same label"),
        (lambda: scores(a, b[:, :2]), InputError, "same layer"),
        (lambda: derivatives(replace(view, pick=Several((resolve(0, 3), resolve(1, 3)))), "0"), TargetError, "choose one target"),
        (lambda: significance([1.0], [0.0, 1.0]), InputError, "two of each"),
        (lambda: significance([1.0, float("nan")], [0.0, 1.0]), InputError, "finite"),
        (lambda: against_chance(view, "0", x, [x, x]), InputError, "three at least"),
        (lambda: against_chance(view, "0", x, [x, x, x]), InputError, "two examples of its own"),
    ):
        with pytest.raises(error, match=words):
            refused()


def test_doubtful_scores_say_so():
    net, x = nn.Sequential(nn.Linear(5, 3), nn.Dropout(), nn.Linear(3, 2)), torch.randn(3, 5)
    with pytest.warns(PellucidWarning, match=r"\[mode\]"):
        activations(net, x, "0")
    with pytest.warns(PellucidWarning, match=r"\[mode\]"):
        derivatives(at_input(net, x, 0), "0")
    with pytest.warns(PellucidWarning, match=r"\[zero\] the score of 1 of 2"):
        scores(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.ones(1, 2))
    with pytest.warns(PellucidWarning, match=r"\[finite\]"):
        scores(torch.tensor([[float("nan"), 0.0], [1.0, 0.0]]), torch.ones(1, 2))
