"""Hooks see and replace what passes through layers and are gone afterwards; a model is left as it was."""

import functools
from collections import namedtuple

import pytest
import torch
from torch import nn

from pellucid.hooks import put, watch
from pellucid.model import in_train_mode, modules_of, undisturbed
from tests.models import Conv, Mlp, assert_same_state, state_of

Pair = namedtuple("Pair", "first second")


def hooks_of(model):
    return [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]


class Nested(nn.Module):
    """Takes and returns tensors in containers, and other things."""

    def forward(self, x, *, scale=None, label="none"):
        y = x if scale is None else x * scale["by"]
        return {"sum": y + 1, "parts": [y, (2 * y, label)]}, Pair(3 * y, None), 7


# watch


def test_watch_sees_what_layers_return_and_changes_nothing():
    model, x = Mlp().eval(), torch.randn(3, 5)
    layers = [model.net[0], model.net[2]]
    plain = model(x)
    with watch(layers) as seen:
        assert seen == [[], []]
        watched = model(x)
        model(2 * x)
    assert torch.equal(plain, watched)
    first = model.net[0](x)
    assert [len(calls) for calls in seen] == [2, 2]
    assert torch.equal(seen[0][0][0], first)
    assert torch.equal(seen[0][1][0], model.net[0](2 * x))
    assert torch.equal(seen[1][0][0], model.net[2](first.relu()))
    assert hooks_of(model) == [(0, 0)] * len(list(model.modules()))
    model(x)
    assert [len(calls) for calls in seen] == [2, 2]


def test_watch_sees_what_layers_receive_by_place_and_by_name():
    model, x, by = Nested(), torch.randn(2), torch.randn(2)
    with watch([model], of_input=True) as seen:
        found = model(x, scale={"by": by}, label="a")
    assert [torch.equal(a, b) for a, b in zip(seen[0][0], (x, by), strict=True)] == [True, True]
    torch.testing.assert_close(found[0]["sum"], x * by + 1)
    assert found[0]["parts"][1][1] == "a"


def test_watch_sees_all_tensors_of_a_nested_output_in_order_and_keeps_its_form():
    model, x = Nested(), torch.randn(2)
    with watch([model]) as seen:
        found = model(x)
    assert [torch.equal(a, b) for a, b in zip(seen[0][0], (x + 1, x, 2 * x, 3 * x), strict=True)] == [True] * 4
    assert isinstance(found[1], Pair)
    assert found[1].second is None
    assert found[2] == 7


@pytest.mark.parametrize("of_input", [False, True])
def test_what_was_seen_is_safe_from_later_work_in_place(of_input):
    layer, x = nn.ReLU(inplace=True), torch.tensor([[-1.0, 2.0]])
    with watch([layer], of_input=of_input) as seen:
        layer(x).add_(100)
    assert seen[0][0][0].tolist() == ([[-1.0, 2.0]] if of_input else [[0.0, 2.0]])


def test_what_was_seen_lies_on_the_way_of_the_gradient():
    model, x = Mlp(activation=nn.Tanh).eval(), torch.randn(3, 5, requires_grad=True)
    with watch([model.net[1]]) as seen:
        score = model(x)[:, 1].sum()
    (hidden,) = seen[0][0]
    (found,) = torch.autograd.grad(score, hidden, retain_graph=True)
    again = hidden.detach().requires_grad_()
    (expected,) = torch.autograd.grad(model.net[2:](again)[:, 1].sum(), again)
    torch.testing.assert_close(found, expected)
    assert torch.autograd.grad(score, x)[0].any()


def test_the_same_layer_twice_and_no_layer():
    layer = nn.Linear(2, 2)
    with watch([layer, layer]) as seen, watch([]) as nothing:
        layer(torch.ones(1, 2))
    assert torch.equal(seen[0][0][0], seen[1][0][0])
    assert nothing == []


# put


def test_put_replaces_what_a_layer_returns():
    model, x = Mlp().eval(), torch.randn(3, 5)
    value = torch.randn(3, 8)
    with put([model.net[2]], (value,)):
        found = model(x)
    assert torch.equal(found, model.net[3:](value))
    assert not torch.equal(found, model(x))


def test_put_replaces_what_a_layer_receives():
    model, x, by = Nested(), torch.randn(2), torch.randn(2)
    with put([model], (x, by), of_input=True):
        found = model(torch.zeros(2), scale={"by": torch.zeros(2)}, label="kept")
    torch.testing.assert_close(found[0]["parts"][0], x * by)
    assert found[0]["parts"][1][1] == "kept"


def test_put_goes_in_order_over_tensors_layers_and_calls():
    model, values = Nested(), tuple(torch.full((2,), float(i)) for i in range(8))
    with put([model], values):
        first, second = model(torch.zeros(2)), model(torch.zeros(2))
    read = lambda out: [float(t[0]) for t in (out[0]["sum"], *out[0]["parts"][:1], out[0]["parts"][1][0], out[1].first)]  # noqa: E731
    assert read(first) == [0, 1, 2, 3]
    assert read(second) == [4, 5, 6, 7]
    assert first[2] == 7
    chain = nn.Sequential(nn.Identity(), nn.Identity())
    with put([chain[0], chain[1]], (torch.ones(1), torch.zeros(1))), watch([chain[0]]) as seen:
        assert float(chain(torch.full((1,), 9.0))) == 0
    assert float(seen[0][0][0]) == 1


def test_what_is_put_is_copied_and_takes_part_in_the_gradient():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(inplace=True), nn.Linear(3, 1))
    value = torch.tensor([[-1.0, 2.0, 3.0]], requires_grad=True)
    with put([model[0]], (value,)):
        (found,) = torch.autograd.grad(model(torch.zeros(1, 2)).sum(), value)
    assert value.tolist() == [[-1, 2, 3]]  # the ReLU worked in place on a copy
    torch.testing.assert_close(found, model[2].weight.detach() * torch.tensor([[0.0, 1, 1]]))


# both


def test_watching_and_putting_nest_in_either_order():
    layer, mine = nn.Identity(), torch.full((1,), 5.0)
    with put([layer], (mine,)), watch([layer]) as seen:
        layer(torch.zeros(1))
    assert float(seen[0][0][0]) == 5  # hooks run in the order in which they came
    with watch([layer]) as seen, put([layer], (mine,)):
        assert float(layer(torch.zeros(1))) == 5
    assert float(seen[0][0][0]) == 0


class Failing(nn.Module):
    def forward(self, x):
        raise ValueError("the layer failed")


@pytest.mark.parametrize("of_input", [False, True])
@pytest.mark.parametrize("hook", [lambda m, i: watch(m, i), lambda m, i: put(m, (torch.ones(1), torch.ones(1)), i)], ids=["watch", "put"])
def test_hooks_are_gone_after_an_exception(hook, of_input):
    model = nn.Sequential(nn.Identity(), Failing())
    model[0].register_forward_hook(lambda *_: None)  # the user's own stays
    before = hooks_of(model)

    def run(fail):
        with hook([model[0], model[1]], of_input):
            assert hooks_of(model) != before
            fail()

    with pytest.raises(ValueError, match="the layer failed"):
        run(lambda: model(torch.ones(1)))
    assert hooks_of(model) == before
    with pytest.raises(KeyError):
        run(lambda: {}["nothing"])
    assert hooks_of(model) == before
    with pytest.raises(AttributeError), hook([model[0], "no layer"], of_input):
        pass
    assert hooks_of(model) == before


# undisturbed


def disturb(model):
    for parameter in model.parameters():
        assert not parameter.requires_grad
    model(torch.randn(4, 2, 6, 6))
    torch.rand(3)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_and_the_random_state_are_as_before(training, fails):
    model = Conv().train(training)
    model.first.weight.requires_grad_(False)
    model.head.bias.grad = torch.ones(4)
    before = state_of(model)

    def block():
        with undisturbed((model,)):
            disturb(model)
            assert training == bool((model.norm.running_mean != before["values"]["norm.running_mean"]).any())
            if fails:
                raise ValueError("in the block")

    if fails:
        with pytest.raises(ValueError, match="in the block"):
            block()
    else:
        block()
    assert_same_state(before, state_of(model))
    assert not model.first.weight.requires_grad
    assert model.second.weight.requires_grad
    assert model.norm.num_batches_tracked == 0


class Averaging(nn.Module):
    """Puts a new tensor into the place of a buffer, as a moving average is often written."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("absent", None)
        self.line = nn.Linear(2, 2)

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean()
        return self.line(x - self.mean)


def test_a_buffer_that_the_model_replaces_is_put_back():
    model = Averaging().train()
    own = model.mean
    with undisturbed((model,)):
        model(torch.ones(3, 2))
        assert float(model.mean) == pytest.approx(0.1)
    assert model.mean is own
    assert float(own) == 0
    assert list(model._buffers) == ["mean", "absent"]


def test_undisturbed_nests_and_knows_shared_parameters():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    state = torch.get_rng_state()
    with undisturbed((model,)):
        with undisturbed((model, model[0])):
            torch.rand(2)
        assert torch.equal(torch.get_rng_state(), state)
        assert not any(p.requires_grad for p in model.parameters())
    assert all(p.requires_grad for p in model.parameters())
    with undisturbed(()):
        torch.rand(2)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_made_in_inference_mode_is_left_alone():
    with torch.inference_mode():
        model = nn.Linear(2, 2)
    with undisturbed((model,)):
        assert model(torch.ones(1, 2)).shape == (1, 2)
    assert all(p.requires_grad for p in model.parameters())


# modules_of


class Keeper:
    def __init__(self, model):
        self.model = model

    def __call__(self, x):
        return self.model(x)

    def score(self, x):
        return self.model(x)


EVERYWHERE = nn.Linear(2, 2)


def by_global(x):
    return EVERYWHERE(x)


class Holder(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 2)

    def forward(self, x):
        return self.inner(x)

    def other(self, x):
        return self.inner(x) + 1


def closing(model):
    def inner(x):
        return model(x)

    return inner


def closing_late():
    def inner(x):
        return late(x)

    if EVERYWHERE is None:
        late = EVERYWHERE
    return inner


def test_the_modules_that_a_callable_runs():
    one, two = Holder(), nn.Linear(2, 2)
    assert modules_of(one) == (one,)
    assert modules_of(one.other) == (one,)
    assert modules_of(one.forward) == (one,)
    assert modules_of(functools.partial(one, 1)) == (one,)
    assert modules_of(functools.partial(one.other)) == (one,)
    assert modules_of(functools.partial(lambda model, x: model(x), two)) == (two,)
    assert modules_of(functools.partial(lambda x, model: model(x), model=two)) == (two,)
    assert modules_of(functools.partial(functools.partial(closing(one), 1), other=two)) == (one, two)
    assert modules_of(closing(one)) == (one,)
    assert modules_of(closing(one.other)) == (one,)
    assert set(modules_of(lambda x: two(one(x)))) == {one, two}
    assert modules_of(lambda x: one(one(x))) == (one,)
    assert modules_of(by_global) == (EVERYWHERE,)
    assert modules_of(lambda x: EVERYWHERE(x)) == (EVERYWHERE,)
    assert modules_of(lambda x: x.EVERYWHERE) == ()
    assert modules_of(lambda x, model=one: model(x)) == (one,)
    assert modules_of(lambda x, *, model=one: model(x)) == (one,)
    assert modules_of(Keeper(one)) == (one,)
    assert modules_of(Keeper(one).score) == (one,)


def test_what_runs_no_known_module_gives_none():
    models = {"a": Holder()}
    for forward in (lambda x: x, torch.relu, len, closing(models), closing_late(), lambda x: models["a"](x), object()):
        assert modules_of(forward) == ()


# in_train_mode


def test_layers_in_train_mode_are_named_by_their_place():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.0)))
    assert in_train_mode((model,)) == ["1", "2.0"]
    assert in_train_mode((model.eval(),)) == []
    model[2][0].train()
    assert in_train_mode((model,)) == ["2.0"]
    assert in_train_mode((nn.Dropout(0.5),)) == ["Dropout"]
    assert in_train_mode((nn.Dropout(0.5), model)) == ["Dropout", "2.0"]
    assert in_train_mode(()) == []


@pytest.mark.parametrize(
    ("layer", "acts"),
    [
        (nn.Dropout1d(0.2), True),
        (nn.FeatureAlphaDropout(0.2), True),
        (nn.BatchNorm3d(2), True),
        (nn.SyncBatchNorm(2), True),
        (nn.GRU(2, 2, num_layers=2, dropout=0.1), True),
        (nn.GRU(2, 2, num_layers=2), False),
        (nn.MultiheadAttention(2, 1, dropout=0.1), True),
        (nn.MultiheadAttention(2, 1), False),
        (nn.InstanceNorm2d(2), False),
        (nn.InstanceNorm2d(2, track_running_stats=True), True),
        (nn.LayerNorm(2), False),
        (nn.Linear(2, 2), False),
    ],
    ids=str,
)
def test_which_layers_act_in_train_mode(layer, acts):
    assert in_train_mode((layer.train(),)) == ([type(layer).__name__] if acts else [])
    assert in_train_mode((layer.eval(),)) == []
