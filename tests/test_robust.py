"""Attacks, smallest perturbations, attacks compared: laws, slow oracles, refusals."""

import io
import statistics
from collections import namedtuple
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn

from pellucid import InputError, OptionError, OutputError, PellucidWarning, TargetError, at_input
from pellucid.batch import Run
from pellucid.inside import at_layer
from pellucid.robust import Attack, Grid, Summary, Trials, all_right, at_loss, compare, fgsm, pgd, smallest, within
from pellucid.robust.balls import BALLS
from pellucid.target import Several, resolve

from .models import Conv, Mlp, TwoInputs, assert_same_state, state_of

EACH = nn.CrossEntropyLoss(reduction="none")


def subjects():
    torch.manual_seed(3)
    rand = lambda *shape: torch.randn(*shape, dtype=torch.float64)  # noqa: E731
    return {
        "mlp": (Mlp(), (rand(3, 5),), ()),
        "conv": (Conv(), (rand(3, 2, 6, 6),), ()),
        "two inputs": (TwoInputs(), (rand(3, 4), rand(3, 3)), (rand(3, 1),)),
    }


@pytest.fixture(params=list(subjects()))
def subject(request):
    model, inputs, args = subjects()[request.param]
    return model.double().eval(), inputs, args


LABELS = torch.tensor([0, 2, 1])
ATTACKS = {
    "fgsm": lambda view, **more: fgsm(view, 0.3, **more),
    "linf": lambda view, **more: pgd(view, 0.3, 0.1, 5, **more),
    "l2": lambda view, **more: pgd(view, 0.3, 0.1, 5, norm="L2", **more),
    "linf from anywhere": lambda view, **more: pgd(view, 0.3, 0.1, 5, random_start=True, seed=7, **more),
    "l2 from anywhere": lambda view, **more: pgd(view, 0.3, 0.1, 5, norm="L2", random_start=True, seed=7, **more),
}


@pytest.fixture(params=list(ATTACKS))
def attack(request):
    return ATTACKS[request.param]


def size_of(change, name):
    rows = change.flatten(1)
    return rows.norm(dim=1) if name == "l2" else rows.abs().amax(1)


# Laws


@pytest.mark.parametrize("targeted", [False, True])
def test_an_attack_raises_the_loss_and_a_targeted_one_lowers_it(subject, attack, targeted):
    model, inputs, args = subject
    view = at_loss(model, inputs, LABELS, EACH, args)
    before, after = view.score(view.features)[0], view.score(attack(view, targeted=targeted))[0]
    assert ((after < before) if targeted else (after > before)).all()


@pytest.mark.parametrize("name", list(ATTACKS))
def test_an_attack_stays_in_the_ball_and_reaches_for_its_edge(subject, name):
    model, inputs, args = subject
    found = ATTACKS[name](at_loss(model, inputs, LABELS, EACH, args))
    for moved, x in zip(found, inputs, strict=True):
        sizes = size_of(moved - x, name[:2])
        assert (sizes <= 0.3 + 1e-12).all()
        assert (sizes > 0.2).all()


def test_bounds_hold_and_masked_values_stay(subject, attack):
    model, inputs, args = subject
    inputs = tuple(x.clamp(-1, 1) for x in inputs)
    masks = tuple((torch.rand_like(x) < 0.6).to(x) for x in inputs)
    found = attack(at_loss(model, inputs, LABELS, EACH, args), mask=masks, bounds=(-1, 1))
    for moved, x, mask in zip(found, inputs, masks, strict=True):
        assert (moved >= -1).all()
        assert (moved <= 1).all()
        assert torch.equal(moved[mask == 0], x[mask == 0])
        assert (moved != x)[mask == 1].float().mean() > 0.4


def test_a_batch_equals_its_examples_one_by_one(subject, attack):
    model, inputs, args = subject
    masks = tuple((torch.rand_like(x) < 0.6).to(x) for x in inputs)
    together = attack(at_loss(model, inputs, LABELS, EACH, args), mask=masks)
    for row in range(3):
        one = slice(row, row + 1)
        view = at_loss(model, tuple(x[one] for x in inputs), LABELS[one], EACH, tuple(a[one] for a in args))
        for alone, moved in zip(attack(view, mask=tuple(m[one] for m in masks)), together, strict=True):
            torch.testing.assert_close(alone, moved[one], rtol=1e-9, atol=1e-9)


def test_calls_of_any_size_give_the_same(subject, attack):
    model, inputs, args = subject
    view = at_loss(model, inputs, LABELS, EACH, args)
    for few in (1, 2):
        run = Run(at_most=few)
        for own, other in zip(attack(view, run=run), attack(view), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-9)
        assert run.calls > 2
        assert not run.alone


def test_everything_is_as_it_was(subject, attack):
    model, inputs, args = subject
    kept = [x.clone() for x in inputs]
    inputs[0].requires_grad_()
    before = state_of(model)
    found = attack(at_loss(model, inputs, LABELS, EACH, args))
    assert_same_state(before, state_of(model))
    assert [x.requires_grad for x in inputs] == [True] + [False] * (len(inputs) - 1)
    assert all(torch.equal(x, k) and x.grad is None for x, k in zip(inputs, kept, strict=True))
    assert not any(moved.requires_grad for moved in found)


def test_everything_is_as_it_was_after_an_error(attack):
    model, x = Mlp().train(), torch.randn(3, 5)
    calls = []

    def failing(output, labels):
        calls.append(torch.rand(1))
        raise ZeroDivisionError

    before = state_of(model)
    with pytest.raises(ZeroDivisionError):
        attack(at_loss(model, x, LABELS, failing))
    assert calls
    assert_same_state(before, state_of(model))
    assert not x.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_stays(attack, dtype):
    x = torch.randn(3, 5).to(dtype)
    (moved,) = attack(at_loss(Mlp().to(dtype), x, LABELS, EACH))
    assert moved.dtype == dtype
    assert moved.isfinite().all()
    assert not torch.equal(moved, x)


# Oracles


def slow(model, x, label, radius, step, steps, norm, signed, lower, upper):
    """One example, one value at a time."""
    point = x.clone()
    for _ in range(steps):
        leaf = point.clone().requires_grad_()
        loss = -F.log_softmax(model(leaf[None])[0], 0)[label]
        (gradient,) = torch.autograd.grad(loss, leaf)
        length = sum(float(g) ** 2 for g in gradient) ** 0.5
        change = []
        for value, origin, g in zip(point.tolist(), x.tolist(), gradient.tolist(), strict=True):
            move = ((g > 0) - (g < 0)) if signed else g / length
            change.append(value + step * move - origin)
        far = sum(c**2 for c in change) ** 0.5
        inside = [max(-radius, min(radius, c)) for c in change] if norm == "Linf" else [c * min(1, radius / far) for c in change]
        point = torch.tensor([min(upper, max(lower, o + c)) for o, c in zip(x.tolist(), inside, strict=True)], dtype=x.dtype)
    return point


@pytest.mark.parametrize(("norm", "radius"), [("Linf", 0.25), ("L2", 0.4)])
def test_pgd_by_hand(norm, radius):
    model, x = Mlp().double(), torch.randn(4, 5, dtype=torch.float64).clamp(-1, 1)
    labels = [0, 1, 2, 0]
    (found,) = pgd(at_loss(model, x, torch.tensor(labels), EACH), radius, 0.15, 4, norm=norm, bounds=(-1, 1))
    for moved, one, label in zip(found, x, labels, strict=True):
        torch.testing.assert_close(moved, slow(model, one, label, radius, 0.15, 4, norm, norm == "Linf", -1, 1), rtol=1e-6, atol=1e-6)


def test_fgsm_of_a_linear_model():
    model, x = nn.Linear(4, 3), torch.randn(2, 4)
    (found,) = fgsm(at_input(model, x, target=1), 0.5)
    torch.testing.assert_close(found, x + 0.5 * model.weight[1].sign())
    (lower,) = fgsm(at_input(model, x, target=1), 0.5, targeted=True)
    torch.testing.assert_close(lower, x - 0.5 * model.weight[1].sign())


def test_the_default_loss_is_that_of_probabilities():
    model, x = Mlp().double(), torch.randn(3, 5, dtype=torch.float64)
    soft = nn.Sequential(model, nn.Softmax(1))
    for labels in (LABELS, LABELS.tolist()):
        view = at_loss(soft, x, labels)
        torch.testing.assert_close(view.score((x,))[0], EACH(model(x), LABELS))
        torch.testing.assert_close(fgsm(view, 0.1), fgsm(at_loss(model, x, LABELS, EACH), 0.1))


def test_losses_of_each_their_sum_or_their_mean_attack_alike(attack):
    model, x = Mlp().double(), torch.randn(3, 5, dtype=torch.float64)
    expected = attack(at_loss(model, x, LABELS, EACH))
    for reduction in ("sum", "mean"):
        found = attack(at_loss(model, x, LABELS, nn.CrossEntropyLoss(reduction=reduction)), run=Run())
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_labels_in_a_list_go_with_their_examples():
    model, x = Mlp().double(), torch.randn(3, 5, dtype=torch.float64)
    picked = lambda output, labels: -torch.stack([row[label] for row, label in zip(output, labels, strict=True)])  # noqa: E731
    view = at_loss(model, x, [0, 2, 1], picked)
    run = Run(at_most=1)
    assert torch.equal(fgsm(view, 0.1, run=run)[0], fgsm(view, 0.1)[0])
    assert not run.alone


def test_a_layers_activations_can_be_attacked():
    model, x = Mlp().double(), torch.randn(3, 5, dtype=torch.float64)
    view = at_layer(at_loss(model, x, LABELS, EACH), model.net[1])
    (found,) = pgd(view, 0.2, 0.1, 3)
    assert found.shape == (3, 12)
    assert (view.score((found,)) > view.score(view.features)).all()


def test_gradients_up_to_the_threshold_do_not_count():
    weight = torch.tensor([[1.0, 0.01, -0.1]])
    view = at_input(lambda x: (x * weight).sum(1), torch.zeros(2, 3))
    assert fgsm(view, 1.0, threshold=0.05)[0].tolist() == [[1.0, 0.0, -1.0]] * 2
    assert fgsm(view, 1.0)[0].tolist() == [[1.0, 1.0, -1.0]] * 2


@pytest.mark.parametrize("norm", list(BALLS))
def test_random_starts_fill_the_ball(norm):
    x, free = torch.zeros(2, 4, dtype=torch.float64), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    view = at_input(lambda x: x.sum(1), x)
    starts = torch.stack([pgd(view, 2.0, 0.1, 0, norm=norm, random_start=True, seed=s, mask=free)[0] for s in range(800)])
    assert (starts[:, 0, 3] == 0).all()
    for row, dims in ((0, 3), (1, 4)):
        sizes = starts[:, row, :dims].abs() if norm == "Linf" else starts[:, row].norm(dim=1)
        shares = (sizes / 2).flatten() ** (1 if norm == "Linf" else dims)  # uniform, if the points are
        assert sizes.max() <= 2 + 1e-9
        quarters = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
        torch.testing.assert_close(torch.quantile(shares, quarters), quarters, rtol=0, atol=0.06)
        assert (starts[:, row, :dims].mean(0).abs() < 0.15).all()


def test_a_seed_says_where_an_attack_starts():
    view = at_loss(Mlp(), torch.randn(3, 5), LABELS, EACH)
    start = lambda seed: pgd(view, 0.5, 0.1, 1, random_start=True, seed=seed)[0]  # noqa: E731
    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))
    torch.manual_seed(5)
    first = start(None)
    torch.manual_seed(6)
    assert not torch.equal(first, start(None))


# What cannot be attacked, and what is doubtful


def test_bounds_that_inputs_break_are_reported():
    view = at_input(lambda x: x.sum(1), torch.tensor([[0.5, 3.0]]))
    with pytest.warns(PellucidWarning, match="1 values of the inputs are themselves beyond"):
        assert fgsm(view, 0.1, bounds=(0, 1))[0].tolist() == [[pytest.approx(0.6), 1.0]]
    assert fgsm(view, 0.1, bounds=(0, 1), mask=torch.tensor([[1, 0]]))[0].tolist() == [[pytest.approx(0.6), 3.0]]


def test_bounds_may_be_tensors_or_a_function():
    view = at_input(lambda x: x.sum(1), torch.zeros(2, 3))
    assert fgsm(view, 1.0, bounds=(-1, torch.tensor([0.5, 2.0, 0.0])))[0].tolist() == [[0.5, 1.0, 0.0]] * 2
    assert fgsm(view, 1.0, bounds=lambda x: x.clamp(max=0.25))[0].tolist() == [[0.25] * 3] * 2


def test_train_mode_and_lost_gradients_are_reported():
    model = nn.Sequential(Mlp(), nn.Dropout()).train()
    with pytest.warns(PellucidWarning, match="train mode"):
        fgsm(at_loss(model, torch.randn(3, 5), LABELS, EACH), 0.1)
    certain = nn.Softmax(1)  # of which float32 makes a zero
    with pytest.warns(PellucidWarning, match="gradient of 1 examples has NaN"):
        (found,) = fgsm(at_loss(certain, torch.tensor([[200.0, 0.0], [1.0, 0.0]]), 1), 0.5)
    assert found.tolist() == [[200.0, 0.0], [1.5, -0.5]]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"radius": -0.1}, OptionError, "radius is -0.1"),
        ({"radius": float("nan")}, OptionError, "radius is nan"),
        ({"step_size": -1}, OptionError, "step_size is -1"),
        ({"steps": -1}, OptionError, "steps is -1"),
        ({"norm": "L1"}, OptionError, "norm is 'L1'; give one of 'Linf', 'L2'"),
        ({"mask": torch.ones(2, 5)}, InputError, r"a mask has shape \(2, 5\), and its input \(3, 5\)"),
        ({"mask": torch.ones(5)}, InputError, r"a mask has shape \(5,\)"),
        ({"mask": torch.full((3, 5), 2.0)}, InputError, "not between 0 and 1"),
        ({"mask": (torch.ones(3, 5), torch.ones(3, 5))}, InputError, "2 masks for 1 inputs"),
        ({"bounds": (1, 0)}, OptionError, "the lower bound 1 is not below the upper bound 0"),
        ({"threshold": -1.0}, OptionError, "threshold is -1"),
    ],
)
def test_refused_options(options, error, words):
    view = at_loss(Mlp(), torch.randn(3, 5), LABELS, EACH)
    with pytest.raises(error, match=words):
        pgd(view, **{"radius": 0.1, "step_size": 0.1, "steps": 1, **options})


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"radius": "0.1"}, OptionError, "radius is '0.1'; it must be a number"),
        ({"radius": None}, OptionError, "radius is None; it must be a number"),
        ({"radius": torch.ones(3)}, OptionError, "the same for all examples"),
        ({"step_size": float("inf")}, OptionError, "step_size is inf.*finite"),
        ({"radius": float("inf"), "random_start": True}, OptionError, "radius is inf.*finite"),
        ({"steps": 2.5}, OptionError, "steps is 2.5; give a whole number"),
        ({"bounds": 1}, OptionError, "bounds is 1; give the least and the largest"),
        ({"bounds": (1,)}, OptionError, r"bounds is \(1,\)"),
        ({"bounds": None}, OptionError, "bounds is None"),
        ({"bounds": (None, 1)}, OptionError, "a bound is None; give numbers"),
        ({"bounds": (torch.zeros(4), 1)}, InputError, r"a bound has shape \(4,\), and its input \(3, 5\)"),
        ({"mask": [[1, 0, 1, 0, 1]]}, InputError, "a mask is list; give a tensor"),
    ],
)
def test_options_of_no_kind(options, error, words):
    view = at_loss(Mlp(), torch.randn(3, 5), LABELS, EACH)
    with pytest.raises(error, match=words):
        pgd(view, **{"radius": 0.1, "step_size": 0.1, "steps": 1, **options})


def test_what_is_no_view_cannot_be_attacked():
    with pytest.raises(InputError, match=r"an attack is on a view, not on Mlp; give at_loss\("):
        fgsm(Mlp(), 0.1)
    with pytest.raises(InputError, match="batch sizes"):
        fgsm(at_loss(Mlp(), torch.randn(0, 5), LABELS[:0], EACH), 0.1)
    with pytest.raises(OptionError, match="loss is 'cross entropy'; give a function"):
        at_loss(Mlp(), torch.randn(3, 5), LABELS, "cross entropy")


@pytest.mark.parametrize("loss", [EACH, F.cross_entropy, partial(F.cross_entropy, reduction="none"), nn.MultiMarginLoss(reduction="none")])
def test_labels_of_losses_of_classes(loss):
    model, x = Mlp().double(), torch.randn(3, 5, dtype=torch.float64)
    expected = fgsm(at_loss(model, x, LABELS, loss), 0.1)[0]
    assert torch.equal(fgsm(at_loss(model, x, LABELS.tolist(), loss), 0.1)[0], expected)
    assert torch.equal(fgsm(at_loss(model, x, LABELS.int(), loss), 0.1)[0], expected)
    assert torch.equal(fgsm(at_loss(model, x, 1, loss), 0.1)[0], fgsm(at_loss(model, x, torch.ones(3).long(), loss), 0.1)[0])
    for wrong, words in (
        ([0, 1, 3], "the labels go from 0 to 3, and the model has 3 classes; use 0 to 2"),
        ([0, 1, -1], "the labels go from -1 to 1"),
        ([0, 1], "target has 2 classes for 3 examples"),
        ([0.0, 1.0, 2.0], r"target has dtype torch.float32.*use \.long\(\)"),
        (None, "target is None; the loss takes the number"),
    ):
        with pytest.raises(TargetError, match=words):
            fgsm(at_loss(model, x, wrong, loss), 0.1)


def test_labels_that_are_ignored_and_shares_of_classes():
    model, x = Mlp(), torch.randn(3, 5)
    with pytest.warns(PellucidWarning, match=r"the gradient of 1 of 3 examples is zero"):
        (found,) = fgsm(at_loss(model, x, torch.tensor([0, -100, 1]), EACH), 0.1)
    assert torch.equal(found[1], x[1])
    shares = nn.functional.one_hot(LABELS, 3).float()
    assert torch.equal(fgsm(at_loss(model, x, shares, EACH), 0.1)[0], fgsm(at_loss(model, x, LABELS, EACH), 0.1)[0])


def test_attacks_that_cannot_work_are_reported():
    x = torch.randn(3, 5)
    blind = lambda output, labels: output.detach().sum(1)  # noqa: E731
    for attack in (lambda view: fgsm(view, 0.1), lambda view: pgd(view, 0.1, 0.1, 3)):
        with pytest.warns(PellucidWarning, match=r"\[zero\] the gradient of 3 of 3 examples is zero") as caught:
            assert torch.equal(attack(at_loss(Mlp(), x, LABELS, blind))[0], x)
        assert len(caught) == 1
    with pytest.warns(PellucidWarning, match=r"\[loss\] the model returned more than 1 at a target"):
        fgsm(at_loss(lambda x: x[:, :3] + 100, x, LABELS), 0.1)


def test_refused_losses_and_outputs():
    x = torch.randn(3, 5)
    with pytest.raises(OptionError, match=r"epsilon is -0\.1.*targeted=True"):
        fgsm(at_loss(Mlp(), x, LABELS, EACH), -0.1)
    with pytest.raises(OutputError, match=r"the model returned -.* at the target.*softmax.*CrossEntropyLoss"):
        fgsm(at_loss(lambda x: x[:, :3] - 100, x, LABELS), 0.1)
    with pytest.raises(OutputError, match=r"the loss returned \(3, 3\) for 3 examples"):
        fgsm(at_loss(Mlp(), x, LABELS, lambda output, labels: output), 0.1)
    with pytest.raises(TargetError, match="2 scores for each example"):
        fgsm(at_input(nn.Identity(), x, target=Several((resolve(0, 3), resolve(1, 3)))), 0.1)
    with pytest.raises(TargetError, match="out of range"):
        fgsm(at_loss(nn.Softmax(1), x, 9), 0.1)
    with pytest.raises(InputError, match="needs floating point"):
        fgsm(at_loss(Mlp(), torch.ones(3, 5, dtype=torch.long), LABELS, EACH), 0.1)


# The smallest perturbation


def push(x, by):
    return x - by * torch.tensor([1.0, 0.0])


def classify(x):
    return x


def first_by_hand(x, values, label):
    return next((v for v in values if int((push(x, v)).argmax()) != label), None)


@pytest.mark.parametrize("search", ["linear", "binary"])
@pytest.mark.parametrize("together", [1, 3, 50])
@pytest.mark.parametrize("gap", [0.0, 0.3, 2.26, 3.74])
def test_the_smallest_value_is_found(search, together, gap):
    x, grid = torch.tensor([[gap, 0.0]]), Grid(0.0, 4.0, 0.25)
    values = [0.25 * k for k in range(16)]
    found = smallest(Trials(classify, x), push, "by", grid, lambda o: all_right(o, 0), search=search, together=together)
    expected = first_by_hand(x, values, 0)
    assert found.value == expected
    assert torch.equal(found.inputs, push(x, expected))


@pytest.mark.parametrize("search", ["linear", "binary"])
def test_nothing_is_found_where_the_model_is_right_throughout(search):
    calls = []

    def model(x):
        calls.append(len(x))
        return x

    grid = Grid(0.0, 4.0, 0.25)
    trials = Trials(model, torch.tensor([[9.0, 0.0]]))
    assert smallest(trials, push, "by", grid, lambda o: all_right(o, 0), search=search, together=4) is None
    assert calls == [4] * 4 if search == "linear" else len(calls) < 7


def test_a_grid_has_no_rounding_and_whole_numbers_stay_whole():
    grid = Grid(0.0, 1.0, 0.1)
    assert [grid[k] for k in range(len(grid))] == [0.1 * k for k in range(10)]
    assert isinstance(Grid(0, 10, 3)[2], int)
    assert [len(Grid(0, 10, 3)), len(Grid(0, 9, 3)), len(Grid(0.0, 1.05, 0.1))] == [4, 3, 11]
    for k in range(1, 400):
        assert len(Grid(0.0, k * 0.1, 0.1)) == k


def test_random_perturbations_are_tried_several_times():
    lucky = iter([False] * 4 + [True])

    def perturbation(x, by):
        return -x if next(lucky) else x

    trials = Trials(classify, torch.tensor([[1.0, 0.0]]))
    found = smallest(trials, perturbation, "by", Grid(0, 9, 1), lambda o: all_right(o, 0), attempts=3)
    assert found.value == 1


def test_before_and_after_preprocessing():
    doubled = lambda x: 2 * x  # noqa: E731
    trials = Trials(classify, torch.tensor([[1.0, 0.0]]), doubled)
    value = lambda before: smallest(trials, push, "by", Grid(0, 9, 0.5), lambda o: all_right(o, 0), before=before).value  # noqa: E731
    assert (value(True), value(False)) == (1.5, 2.5)


def test_inputs_of_any_kind():
    letters = {"a": [1.0, 0.0], "b": [0.0, 1.0]}
    read = lambda text: torch.tensor([letters[c] for c in text]).mean(0, keepdim=True)  # noqa: E731
    replaced = lambda text, count: "b" * count + text[count:]  # noqa: E731
    found = smallest(Trials(classify, "aaaaa", read), replaced, "count", Grid(0, 6, 1), lambda o: all_right(o, 0), before=True)
    assert found == ("bbbaa", 3)


def test_what_works_in_place_leaves_the_inputs_as_they_were():
    x = torch.tensor([[1.0, 0.0]])

    def perturbation(given, by):
        return given.sub_(by * torch.tensor([1.0, 0.0]))

    def model(given):
        return given.mul_(3)

    found = smallest(Trials(model, x, lambda x: x.add_(1)), perturbation, "by", Grid(0, 9, 1), lambda o: all_right(o, 0))
    assert x.tolist() == [[1.0, 0.0]]
    assert found.value == 2
    assert found.inputs.tolist() == [[0.0, 1.0]]


def test_trials_leave_the_model_and_the_random_state():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5)).train()
    before = state_of(model)
    Trials(model, torch.randn(4, 2)).outputs([torch.randn(4, 2) for _ in range(3)])
    torch.set_rng_state(before["rng"])
    outputs = Trials(model, torch.randn(4, 2))
    torch.set_rng_state(before["rng"])
    outputs.outputs([torch.ones(4, 2)])
    assert_same_state(before, state_of(model))


def test_arguments_go_with_their_examples():
    x, scale, shared = torch.randn(2, 3), torch.tensor([[1.0], [10.0]]), torch.arange(3.0)
    trials = Trials(lambda x, scale, shared, word: x * scale + shared, x, args=(scale, shared, "word"))
    together, alone = trials.outputs([x, 2 * x, 3 * x]), [trials.outputs([k * x])[0] for k in (1, 2, 3)]
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize(
    ("grid", "words"), [((2, 1, 0.1), "from 2 to 1"), ((1, 1, 1), "from 1 to 1"), ((0, 1, 0), "steps of 0"), ((0, 1, -1), "steps of -1")]
)
def test_refused_grids(grid, words):
    with pytest.raises(OptionError, match=words):
        Grid(*grid)


def test_refused_searches():
    trials, right = Trials(classify, torch.ones(1, 2)), lambda o: all_right(o, 0)
    with pytest.raises(OptionError, match="'golden' is not known; use one of 'linear', 'binary'"):
        smallest(trials, push, "by", Grid(0, 1, 0.5), right, search="golden")
    with pytest.raises(OptionError, match="0 attempts"):
        smallest(trials, push, "by", Grid(0, 1, 0.5), right, attempts=0)
    with pytest.raises(OptionError, match="0 perturbations are to share"):
        smallest(trials, push, "by", Grid(0, 1, 0.5), right, together=0)
    with pytest.raises(OutputError, match=r"the model returned \(1,\) for 2 perturbations of 1 examples"):
        smallest(Trials(lambda x: x.sum()[None], torch.ones(1, 2)), push, "by", Grid(0, 1, 0.5), right, together=2)
    with pytest.raises(InputError, match="the model takes str; that needs tensors"):
        smallest(Trials(len, "aa"), lambda x, by: x, "by", Grid(0, 1, 0.5), right, together=2)
    with pytest.raises(TargetError, match="no target says what is right"):
        all_right(torch.ones(2, 3), None)
    with pytest.raises(TargetError, match="3 targets for 2 examples"):
        all_right(torch.ones(2, 3), [0, 1, 2])
    with pytest.raises(OutputError, match=r"returned \(2,\)"):
        all_right(torch.ones(2), 0)
    with pytest.raises(TargetError, match="targets go from 3 to 3, and there are 3 classes"):
        all_right(torch.ones(2, 3), 3)
    with pytest.raises(InputError, match="no examples"):
        smallest(Trials(classify, torch.ones(0, 2)), push, "by", Grid(0, 1, 0.5), right)
    with pytest.raises(OutputError, match=r"right returned \(2,\), and one truth is needed"):
        smallest(Trials(classify, torch.ones(2, 2)), push, "by", Grid(0, 1, 0.5), lambda o: o.argmax(1) == 0)
    with pytest.raises(OptionError, match="'one' is none"):
        Grid(0, "one", 0.5)


def test_nothing_is_right_about_nan():
    assert all_right(torch.tensor([[1.0, 0.0]]), 0)
    assert not all_right(torch.tensor([[torch.nan, 0.0]]), 0)


# Attacks compared


def test_a_comparison_by_hand():
    torch.manual_seed(2)
    x, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    Scores = namedtuple("Scores", "right margin")
    metric = lambda o, labels: Scores((o.argmax(1) == labels).long(), o[range(len(o)), labels])  # noqa: E731
    noise = lambda x, size, labels: x + size * torch.randn_like(x)  # noqa: E731
    attacks = [Attack(noise, "noise", 4, options={"size": 2.0}, asked=["labels"]), Attack(lambda x: -x, "flip", before=False)]
    for together in (1, 2, 6, 100):
        torch.manual_seed(4)
        found = compare(Trials(classify, x, lambda x: x + 1), metric, attacks, together, {"labels": labels})
        torch.manual_seed(4)
        tries = [metric(noise(x, 2.0, labels) + 1, labels) for _ in range(4)]
        rows = [torch.stack(values).double() for values in zip(*tries, strict=True)]
        for index, name in enumerate(Scores._fields):
            torch.testing.assert_close(getattr(found["noise"]["mean"], name).double(), rows[index].mean(0))
            torch.testing.assert_close(getattr(found["noise"]["min"], name).double(), rows[index].amin(0))
            torch.testing.assert_close(getattr(found["noise"]["max"], name).double(), rows[index].amax(0))
        torch.testing.assert_close(found["flip"]["mean"].margin, -(x + 1)[range(5), labels])
        torch.testing.assert_close(found["Original"].margin, (x + 1)[range(5), labels])
        assert list(found) == ["Original", "noise", "flip"]
        assert [*found["noise"]] == ["mean", "min", "max"]
        assert [*found["flip"]] == ["mean"]


@pytest.mark.parametrize("per_example", [True, False])
def test_a_summary_by_hand(per_example):
    summary = Summary(per_example)
    batches = [torch.tensor([1.0, 2.0, 6.0]), torch.tensor([4.0])]
    for values in batches:
        summary.add({"Original": values, "a": {"mean": (values, torch.tensor(2.0))}, "b": {"mean": values, "min": -values, "max": values}})
    mean = 13 / 4 if per_example else (3 + 4) / 2
    found = summary.values()
    assert [*found] == ["Original", "a", "b Mean Attempt", "b Min Attempt", "b Max Attempt"]
    assert float(found["Original"]["mean"]) == pytest.approx(mean)
    assert float(found["a"]["mean"][0]) == pytest.approx(mean)
    assert float(found["a"]["mean"][1]) == 2
    assert float(found["b Min Attempt"]["mean"]) == pytest.approx(-mean)


def test_functions_by_name_are_attacks():
    trials, metric = Trials(classify, torch.tensor([[1.0, 0.0], [3.0, 0.0]])), lambda o: o[:, 0]
    found = compare(trials, metric, {"half": lambda x: x / 2, "none": lambda x: 0 * x})
    assert {name: value["mean"].tolist() for name, value in found.items() if name != "Original"} == {"half": [0.5, 1.5], "none": [0, 0]}


def test_statistics_by_hand():
    Scores = namedtuple("Scores", "right margin")
    batches = [[3.0, -1.0, 2.0], [5.0], [0.5, 4.0]]
    values = sorted(value for batch in batches for value in batch)
    summary = Summary()
    for batch in batches:
        metric = Scores(torch.tensor(batch), 2.0)
        summary.add({"Original": metric, "a": {"mean": metric, "min": metric, "max": metric}})
    found = summary.values()["a Max Attempt"]
    expected = [statistics.fmean(values), statistics.stdev(values), statistics.median(values), min(values), max(values)]
    assert list(found) == ["mean", "std", "median", "min", "max"]
    assert [float(each.right) for each in found.values()] == pytest.approx(expected)
    assert [float(each.margin) for each in found.values()] == pytest.approx([2, 0, 2, 2, 2])
    rows = summary.rows()
    assert [(row.attack, row.part, row.size) for row in rows][:3] == [
        ("Original", "right", 6),
        ("Original", "margin", 3),
        ("a Mean Attempt", "right", 6),
    ]
    assert list(rows[0].numbers.values()) == pytest.approx(expected)
    once = Summary(statistics=["median", "std"]).add({"Original": torch.tensor([4.0])}).values()["Original"]
    assert float(once["median"]) == 4
    assert bool(once["std"].isnan())
    by_batch = Summary(per_example=False).add({"Original": torch.tensor([1.0, 2.0])}).add({"Original": torch.tensor([5.0])}).rows()[0]
    assert (by_batch.size, by_batch.numbers["mean"], by_batch.numbers["max"]) == (2, 3.25, 5)


def test_a_summary_is_shown():
    summary = Summary()
    assert repr(summary) == "Summary(nothing yet; 0 examples)"
    with pytest.raises(OptionError, match="no results yet"):
        summary.draw()
    summary.add(
        {
            "Original": (torch.tensor([1.0, 1.0, 0.0]), torch.tensor([-2.0, -4.0, 1.0])),
            "noise $x$": {"mean": (torch.zeros(3), -torch.ones(3))},
        }
    )
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(summary)
    lines = [line.split() for line in console.export_text().splitlines()]
    assert ["attack", "metric", "mean", "std", "median", "min", "max", "values"] in lines
    assert ["Original", "0", "0.667", "0.577", "1.00", "0", "1.00", "3"] in lines
    figure = summary.draw()
    figure.draw_without_rendering()
    assert [len(axes.patches) for axes in figure.axes] == [2, 2]
    assert [bar.get_width() for axes in figure.axes for bar in axes.patches] == pytest.approx([2 / 3, 0, -5 / 3, -1])
    assert repr(summary) == "Summary(Original, noise $x$; 3 examples)"
    with pytest.raises(OptionError, match="width=1 leaves no room"):
        summary.draw(1)


def test_refused_comparisons():
    trials, metric = Trials(classify, torch.ones(2, 2)), lambda o, **_: o.mean(1)
    one = Attack(lambda x: x, "one")
    with pytest.raises(OptionError, match="two attacks have one name"):
        compare(trials, metric, [one, one])
    with pytest.raises(OptionError, match="cannot be called 'Original'"):
        Attack(lambda x: x, "Original")
    with pytest.raises(OptionError, match="0 attempts"):
        Attack(lambda x: x, "none", 0)
    with pytest.warns(PellucidWarning, match="asks for 'labels', which is not given"):
        compare(trials, metric, [Attack(lambda x: x, "asks", asked=["labels"])])
    for metric_, words in (
        (lambda o: None, "the metric is None"),
        (lambda o: "good", "the metric is 'good'"),
        (lambda o: [o], "the metric is"),
    ):
        with pytest.raises(OutputError, match=words):
            compare(trials, metric_, [one])
    with pytest.raises(OptionError, match="an attack is function; give Attack"):
        compare(trials, metric, [lambda x: x])
    with pytest.raises(OptionError, match="the attack 'word' is str; give a function"):
        Attack("noise", "word")
    with pytest.raises(InputError, match="no examples"):
        compare(Trials(classify, torch.ones(0, 2)), metric, [one])
    with pytest.raises(OptionError, match="the statistic 'mode' is not known"):
        Summary(statistics=["mode"])
    with pytest.raises(OutputError, match=r"has shape \(2,\) after \(\)"):
        Summary().add({"Original": torch.ones(3)}).add({"Original": torch.ones(3, 2)})
    shapes = iter([2, 2, 1])
    with pytest.raises(OutputError, match=r"shape \(1,\) after \(2,\)"):
        compare(trials, lambda o: torch.ones(next(shapes)), [Attack(lambda x: x, "twice", 2)])


def test_within():
    assert within(-1, 2)(torch.tensor([-3.0, 0.0, 3.0])).tolist() == [-1.0, 0.0, 2.0]
    with pytest.raises(OptionError, match="lower bound nan"):
        within(float("nan"), 1)
