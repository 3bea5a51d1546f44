"""Randomisation: which parameters are drawn when, what is left of the user's model, and what is known of guided backpropagation."""

import copy
import threading

import numpy as np
import pytest
import scipy.stats
import torch
from matplotlib.figure import Figure
from skimage.metrics import structural_similarity
from torch import nn
from torch.nn.modules import module as hooks

import pellucid
from pellucid import InputError, OptionError, PellucidWarning, TargetError, zoo
from pellucid.metrics.cascades import draw_cascades
from pellucid.metrics.randomisation import ORDERS, SIMILARITIES, Cascade, cascade, random_logit
from pellucid.zoo.data import digits


class Net(nn.Module):
    """Registered in another order than it runs, with parameters of its own, statistics, and a layer that never runs."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(6, 3)
        self.norm = nn.BatchNorm1d(6)
        self.first = nn.Linear(4, 6)
        self.unused = nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.tensor([1.0, 2.0, 3.0, 4.0]))

    def forward(self, x):
        return self.last(torch.tanh(self.norm(self.first(x * self.scale))))


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = Net()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))
        model.norm.running_mean.normal_()
        model.norm.running_var.uniform_(0.5, 2)
    model.norm.weight.requires_grad_(False)
    return model.eval()


def saliency(x, target=0):
    return lambda model: pellucid.explain(model, x, target, "saliency").attribution


X = torch.linspace(-1, 1, 20).view(5, 4)
INWARDS = ("last", "norm", "unused", "first", "Net")  # from the output; what never runs comes after the one before it


def states(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def recorded(model, **options):
    """The state of the model at every call, and the cascade."""
    seen = []

    def explained(net):
        seen.append(states(net))
        return saliency(X)(net)

    return seen, cascade(model, explained, seed=3, **options)


def owner(name):
    return name.split(".")[0] if "." in name else "Net"


# --- which parameters are drawn -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_layers_are_drawn_in_the_order_in_which_they_run(net, order):
    seen, found = recorded(net, order=order)
    expected = INWARDS[::-1] if order == "bottom_up" else INWARDS
    # What never ran keeps its place beside the layer registered before it.
    assert found.layers == expected
    assert found.similarities.shape == (6, 5)
    assert all(torch.equal(seen[0][name], value) for name, value in net.state_dict().items())
    for step in range(1, 6):
        drawn = {layer for layer in expected if any(owner(n) == layer and not torch.equal(v, seen[0][n]) for n, v in seen[step].items())}
        assert drawn == ({expected[step - 1]} if order == "independent" else {*expected[:step]})


def test_a_layer_is_drawn_alike_in_every_order(net):
    down, up, alone = (recorded(net, order=order)[0] for order in ("top_down", "bottom_up", "independent"))
    assert all(torch.equal(down[5][name], up[5][name]) for name in down[5])
    assert all(torch.equal(alone[1][name], down[1][name]) for name in down[1])
    other = cascade(net, saliency(X), seed=4).similarities
    assert not torch.equal(other[1:], cascade(net, saliency(X), seed=3).similarities[1:])
    part = recorded(net, layers=["norm"])[0]
    assert all(torch.equal(part[1][name], alone[2][name]) for name in part[1])


def test_layers_draw_as_torch_initialises_them(net):
    seen, _ = recorded(net)
    end = seen[-1]
    for name, fan in (("last", 6), ("first", 4)):
        for part in ("weight", "bias"):
            assert end[f"{name}.{part}"].abs().max() <= fan**-0.5
            assert not torch.equal(end[f"{name}.{part}"], seen[0][f"{name}.{part}"])
    assert torch.equal(end["norm.weight"], torch.ones(6))
    assert torch.equal(end["norm.running_mean"], torch.zeros(6))
    assert torch.equal(end["norm.running_var"], torch.ones(6))


def test_other_parameters_keep_mean_and_deviation():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.many = nn.Parameter(torch.rand(100, 50) * 3 + 7)
            self.one = nn.Parameter(torch.tensor(5.0))
            self.nothing = nn.Parameter(torch.zeros(3))
            self.register_buffer("positions", torch.arange(4.0))

        def forward(self, x):
            return (x * self.one).sum(1) + self.many.sum() + self.nothing.sum() + self.positions.sum()

    ones = []
    for seed in range(30):
        seen = []

        def explained(model, seen=seen):
            seen.append(states(model))
            model(X)
            return X

        cascade(Own(), explained, seed=seed)
        before, after = seen
        ones.append(float(after["one"]))
    assert float(after["many"].mean()) == pytest.approx(float(before["many"].mean()), abs=0.05)
    assert float(after["many"].std()) == pytest.approx(float(before["many"].std()), rel=0.05)
    assert abs(np.corrcoef(before["many"].flatten(), after["many"].flatten())[0, 1]) < 0.05
    assert torch.equal(after["nothing"], torch.zeros(3))
    assert torch.equal(after["positions"], before["positions"])
    # Of a single number the magnitude is the deviation.
    assert np.mean(ones) == pytest.approx(5, abs=3)
    assert np.std(ones) == pytest.approx(5, rel=0.5)


def test_a_reset_that_reaches_further_than_the_layer_changes_the_layer_only():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)
            self.own = nn.Parameter(torch.rand(4))

        def reset_parameters(self):
            self.inner.reset_parameters()
            self.own = nn.Parameter(torch.rand(4) + 10)  # another object in its place

        def forward(self, x):
            return self.inner(x * self.own).sum(1)

    model, seen = locked(Outer()), []
    before, own = states(model), model.own

    def explained(net):
        seen.append(states(net))
        return saliency(X, None)(net)

    assert cascade(model, explained, order="bottom_up", seed=0).layers == ("Outer", "inner")
    assert (seen[1]["own"] >= 10).all()
    assert torch.equal(seen[1]["inner.weight"], before["inner.weight"])
    assert not torch.equal(seen[2]["inner.weight"], before["inner.weight"])
    assert model.own is own
    assert torch.equal(own, before["own"])


def test_a_reset_that_needs_to_know_more_is_left_alone():
    class Picky(nn.Linear):
        def reset_parameters(self, spread=None):
            nn.init.constant_(self.weight, 1.0 if spread is None else spread)
            if hasattr(self, "ready"):
                raise ValueError("give a spread")

    model, seen = nn.Sequential(Picky(4, 3)), []
    nn.init.normal_(model[0].weight, 7.0)
    model[0].ready = True

    def explained(net):
        seen.append(net[0].weight.detach().clone())
        return saliency(X)(net)

    cascade(model, explained, seed=0)
    assert not torch.equal(seen[0], seen[1])
    assert float(seen[1].mean()) == pytest.approx(7, abs=1)


def test_weights_under_another_name_and_attention():
    torch.manual_seed(0)
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    seen, found = [], []

    def explained(model):
        seen.append((model[0].weight.detach().clone(), model[1].in_proj_weight.clone(), model[1].out_proj.weight.clone()))
        x = model[0](X)[:, None]
        return model[1](x, x, x)[0].detach()

    model = nn.ModuleList([normed, nn.MultiheadAttention(3, 1, batch_first=True)])
    found = cascade(model, explained, seed=0)
    assert set(found.layers) == {"0", "0.parametrizations.weight", "1", "1.out_proj"}
    assert all(not torch.equal(a, b) for a, b in zip(seen[0], seen[-1], strict=True))


def test_old_weight_normalisation_is_drawn_though_its_reset_does_nothing():
    with pytest.warns(FutureWarning, match="weight_norm"):
        layer = nn.utils.weight_norm(nn.Linear(4, 3))
    model, before, seen = nn.Sequential(layer), states(layer), []

    def explained(net):
        seen.append(states(net))
        return net(X).detach()

    cascade(model, explained, seed=0)
    assert all(not torch.equal(seen[1][name], seen[0][name]) for name in seen[0])
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


def test_shared_parameters_are_drawn_once():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4, bias=False), nn.Linear(4, 1))
    model[2].weight = model[0].weight
    assert cascade(model, saliency(X), seed=0).layers == ("3", "2", "0")  # the bias of "0" is its own
    model[0].bias = None
    seen = []

    def explained(net):
        seen.append(net[0].weight.detach().clone())
        return saliency(X)(net)

    assert cascade(model, explained, order="bottom_up", seed=0).layers == ("0", "3")
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[1], seen[2])


def test_stages():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5)), nn.Tanh(), nn.Sequential(nn.Linear(5, 1)))
    seen = []

    def explained(net):
        seen.append(states(net))
        return saliency(X)(net)

    assert cascade(model, explained, layers=["0", "2"], seed=0).layers == ("2", "0")
    assert [n for n in seen[0] if torch.equal(seen[0][n], seen[1][n])] == ["0.0.weight", "0.0.bias", "0.2.weight", "0.2.bias"]
    assert all(not torch.equal(seen[0][n], seen[2][n]) for n in seen[0])
    with pytest.raises(OptionError, match="'1' has no parameters"):
        cascade(model, saliency(X), layers=["1"])
    with pytest.raises(OptionError, match="no layer 'seven'"):
        cascade(model, saliency(X), layers=["seven"])


# --- what is left of the model --------------------------------------------------------------------------------------------------


def locked(model):
    """A model that cannot be copied."""
    model.lock = threading.Lock()
    with pytest.raises(TypeError):
        copy.deepcopy(model)
    return model


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("prepare", [lambda model: model, locked])
def test_the_model_is_as_it_was(net, order, error, prepare):
    model = prepare(net)
    model(X).sum().backward()
    before, objects = states(model), {name: id(p) for name, p in (*model.named_parameters(), *model.named_buffers())}
    grads = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    modes, wanted = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    keys, state, calls = [*vars(model)], torch.get_rng_state(), []

    def explained(given):
        calls.append(given is model)
        given.train()
        torch.rand(3)
        if error is not None and len(calls) == 4:
            raise error("enough")
        return saliency(X)(given.eval())

    if error is None:
        cascade(model, explained, order, seed=0)
    else:
        with pytest.raises(error, match="enough"):
            cascade(model, explained, order, seed=0)
    assert set(calls) == {prepare is locked}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert objects == {name: id(p) for name, p in (*model.named_parameters(), *model.named_buffers())}
    for name, p in model.named_parameters():
        assert (p.grad is None) == (grads[name] is None)
        assert p.grad is None or torch.equal(p.grad, grads[name])
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert [*vars(model)] == keys
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert not hooks._global_forward_pre_hooks


def test_in_place_and_in_a_copy_are_the_same(net):
    found = [cascade(net, saliency(X), order, seed=1).similarities for order in ORDERS]
    locked(net)
    again = [cascade(net, saliency(X), order, seed=1).similarities for order in ORDERS]
    for one, other in zip(found, again, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


def test_every_explanation_begins_with_the_same_random_state(net):
    drawn = []

    def explained(model):
        drawn.append(torch.rand(5))
        return saliency(X)(model)

    cascade(net, explained, seed=0)
    assert all(torch.equal(noise, drawn[0]) for noise in drawn)


# --- similarities ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("magnitude", [False, True])
def test_similarities_against_scipy(net, magnitude):
    seen = []

    def explained(model):
        seen.append(pellucid.explain(model, X, 1, "input_x_gradient").attribution)
        return seen[-1]

    found = cascade(net, explained, magnitude=magnitude, seed=0)
    for step, values in enumerate(seen):
        for i in range(5):
            pair = [v[i].abs() if magnitude else v[i] for v in (seen[0], values)]
            assert float(found.similarities[step, i]) == pytest.approx(scipy.stats.spearmanr(*(p.numpy() for p in pair))[0])
    torch.testing.assert_close(found.by_layer, found.similarities.mean(1))
    torch.testing.assert_close(found.by_example, found.similarities[1:].mean(0))
    assert found.similarities.dtype == torch.float64


def test_structural_similarity_against_scikit_image():
    torch.manual_seed(0)
    one, other = torch.randn(3, 2, 9, 8), torch.randn(3, 2, 9, 8)
    found = random_logit(lambda classes: one if classes[0] == 0 else other, [0] * 3, [1] * 3, by="ssim")
    for i in range(3):
        a, b = (m[i].sum(0).double() / m[i].sum(0).double().abs().max() for m in (one, other))
        assert float(found[i]) == pytest.approx(structural_similarity(a.numpy(), b.numpy(), data_range=2.0))
    same = random_logit(lambda classes: one[:, 0, :4, :4], [0] * 3, [1] * 3, by="ssim")
    assert same.tolist() == pytest.approx([1, 1, 1])
    nothing = random_logit(lambda classes: torch.zeros(1, 5, 5), [0], [1], by="ssim")
    assert nothing.tolist() == [1]
    for wrong, says in ((torch.rand(1, 2, 9), "at least 3 x 3"), (torch.rand(1, 9), "maps"), (torch.full((1, 4, 4), torch.inf), "finite")):
        with pytest.raises(InputError, match=says):
            random_logit(lambda classes, wrong=wrong: wrong, [0], [1], by="ssim")


@pytest.mark.parametrize("by", SIMILARITIES)
def test_an_explanation_of_anything_but_the_model_is_always_the_same(net, by):
    """An edge detector; it runs the model, but only for show."""
    maps = torch.rand(5, 6, 6)

    def edges(model):
        model(X)
        return maps.diff(dim=1)[:, :, :-1]

    found = cascade(net, edges, by=by, seed=0)
    assert found.by_layer.tolist() == pytest.approx([1] * 6)


def test_constant_explanations_have_no_similarity(net):
    values = iter([torch.rand(2, 4), *[torch.tensor([[1.0, 1, 1, 1], [1, 2, 3, 4]])] * 5])
    found = cascade(net, lambda model: (model(X), next(values))[1], seed=0)
    assert found.similarities[1:, 0].isnan().all()
    assert found.by_layer.isfinite().all()
    assert found.by_example[0].isnan()


def test_a_batch_is_its_examples(net):
    whole = cascade(net, saliency(X), seed=2).similarities
    parts = [cascade(net, saliency(X[i : i + 1]), seed=2).similarities for i in range(5)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-5, atol=1e-6)


# --- what is known --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def handwriting():
    data = digits().held_out
    return zoo.digits().model, data.x[:48], data.y[:48]


def test_guided_backpropagation_hardly_depends_on_the_model_and_the_gradient_does(handwriting):
    """Adebayo et al. 2018, figures 2 and 4; Sixt et al. 2020."""
    model, x, y = handwriting
    end, ssim, other = {}, {}, {}
    for method in ("guided_backprop", "saliency"):

        def explained(net, target=y, method=method):
            return pellucid.explain(net, x, target, method).attribution

        found = cascade(model, explained, seed=0)
        assert found.layers == ("classifier.4", "classifier.2", "features.2", "features.0")
        end[method], ssim[method] = found.by_layer, cascade(model, explained, by="ssim", seed=0).by_layer
        other[method] = random_logit(lambda classes, explained=explained: explained(model, classes), y, 10, seed=0).nanmean()
    assert end["guided_backprop"][1] > 0.8  # the last layer drawn anew
    assert end["saliency"][1] < 0.4
    assert end["guided_backprop"][-1] > 0.5  # all of them
    assert end["saliency"][-1] < 0.2
    assert (ssim["guided_backprop"][1:] > ssim["saliency"][1:] + 0.2).all()
    assert other["guided_backprop"] > 0.7
    assert other["saliency"] < 0.4


# --- random logit ---------------------------------------------------------------------------------------------------------------


def test_random_logit_compares_with_another_class():
    torch.manual_seed(0)
    table, targets, asked = torch.randn(7, 12), torch.tensor([0, 3, 6, 6, 2]), []

    def explained(classes):
        asked.append(classes)
        return table[classes]

    chosen = set()
    for seed in range(40):
        found = random_logit(explained, targets, 7, seed=seed)
        own, other = asked[-2:]
        assert torch.equal(own, targets)
        assert (own != other).all()
        assert ((other >= 0) & (other < 7)).all()
        expected = [scipy.stats.spearmanr(table[a], table[b])[0] for a, b in zip(own, other, strict=True)]
        assert found.tolist() == pytest.approx(expected)
        chosen.add(int(other[0]))
        parts = [random_logit(explained, targets[i : i + 1], 7, seed=seed) for i in range(5)]
        torch.testing.assert_close(torch.cat(parts), found)
    assert chosen == {1, 2, 3, 4, 5, 6}
    random_logit(explained, targets.tolist(), [1, 1, 1, 1, 1])
    assert asked[-1].tolist() == [1] * 5
    state = torch.get_rng_state()
    assert torch.equal(random_logit(explained, targets, 7), random_logit(explained, targets, 7))
    assert torch.equal(torch.get_rng_state(), state)


def test_random_logit_tells_a_class_from_none():
    """The gradients of a linear model are its rows; a map of the input alone is the same for every class."""
    torch.manual_seed(0)
    model, x, y = nn.Linear(40, 5), torch.rand(8, 40), torch.arange(8) % 5
    truth = random_logit(lambda classes: pellucid.explain(model, x, classes, "input_x_gradient").attribution, y, 5, seed=1)
    assert truth.abs().mean() < 0.3
    assert random_logit(lambda classes: x, y, 5).tolist() == pytest.approx([1] * 8)
    assert random_logit(lambda classes: torch.ones(8, 3), y, 5).isnan().all()


# --- refusals and figures -------------------------------------------------------------------------------------------------------


def test_another_model_is_noticed(net):
    with pytest.warns(PellucidWarning, match="never ran the layers that were drawn anew"):
        cascade(net, lambda _: saliency(X)(net))
    # Never run, and yet explained, by the weights themselves.
    for by_hand in (lambda model: model.weight * X, lambda model: model.weight):
        assert (cascade(nn.Linear(4, 1), by_hand, seed=0).by_layer[1:] < 1).all()


def test_refusals(net):
    explained = saliency(X)
    for says, call in (
        ("order is 'sideways'", lambda: cascade(net, explained, "sideways")),
        ("by is 'kendall'", lambda: cascade(net, explained, by="kendall")),
        ("by is 'kendall'", lambda: random_logit(lambda c: X, [0], 2, by="kendall")),
    ):
        with pytest.raises(OptionError, match=says):
            call()
    for says, call in (
        ("parameters can be drawn anew in a torch module", lambda: cascade(lambda x: x, explained)),
        ("no layers with parameters", lambda: cascade(nn.ReLU(), lambda model: X)),
        ("NaN", lambda: cascade(net, lambda model: X * torch.nan)),
        ("infinite", lambda: cascade(net, lambda model: X / 0)),
        ("must be a tensor", lambda: cascade(net, lambda model: 3)),
        ("have the shapes", lambda: random_logit(lambda c: X[:, : 1 + int(c[0])], [0], [1])),
    ):
        with pytest.raises(InputError, match=says):
            call()
    answers = iter([X, X, X * torch.inf])
    with pytest.raises(InputError) as caught:
        cascade(net, lambda model: next(answers))
    # Nothing ran, so the order is that of registration: from its end "unused", then "first".
    assert caught.value.__notes__ == ["explained() with 'first' drawn anew"]
    for targets, others, says in (
        ([0, 1], 1, "0 to 1 of 1 classes"),
        ([0, 5], 5, "0 to 5 of 5"),
        ([0, -1], 5, "-1 to 0"),
        ([0, 1], [1, 1], "another class for each"),
        ([0, 1], [1], "another class for each"),
        ([0.5], 3, "integers"),
        ([], 3, "integers"),
        (torch.tensor([[0]]), 3, "integers"),
    ):
        with pytest.raises(TargetError, match=says):
            random_logit(lambda c: X, targets, others)


def example(layers=3, size=6, by="cosine"):
    torch.manual_seed(0)
    rows = torch.cat([torch.ones(1, size), torch.rand(layers, size)]).double()
    return Cascade(tuple(f"block.{i}.layer" for i in range(layers)), rows, "top_down", by, False, 0)


def test_figures():
    one = example()
    figure = draw_cascades({"gradient": one, "a $ sign": one})
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["as trained", *one.layers]
    assert np.allclose(axes.lines[0].get_xdata(), one.by_layer)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["gradient", r"a \$ sign"]
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert 0 <= drawn.x0 <= drawn.x1 <= width
    assert 0 <= drawn.y0 <= drawn.y1 <= height
    many = example(100, 2)
    many.similarities[4] = torch.nan
    figure = many.draw("m")
    assert len(figure.axes[0].get_yticks()) < 60
    assert any("2 of 202 similarities left out" in text.get_text().replace("\n", " ") for text in figure.texts)
    for by in SIMILARITIES:
        example(by=by).draw()


def test_figures_refuse():
    with pytest.raises(InputError, match="differ in layers"):
        draw_cascades({"a": example(), "b": example(4)})
    with pytest.raises(InputError, match="there are 0"):
        draw_cascades({})
    with pytest.raises(InputError, match="there are 9"):
        draw_cascades({str(i): example() for i in range(9)})
    with pytest.raises(OptionError, match="width=2"):
        draw_cascades({"a": example()}, width=2)
