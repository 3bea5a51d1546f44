"""Captum's robustness classes, side by side with the installed captum."""

import inspect
from collections import namedtuple

import captum.robust as theirs
import pytest
import torch
from torch import nn

from pellucid import OptionError, OutputError, PellucidWarning, TargetError
from pellucid.captum import robust as ours

from ..models import Conv, Mlp, TwoInputs

EACH = nn.CrossEntropyLoss(reduction="none")
LABELS = torch.tensor([0, 2, 1])


def parameters(function):
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("name", theirs.__all__)
def test_signatures(name):
    a, b = getattr(ours, name), getattr(theirs, name)
    methods = [m for m in vars(b) if callable(getattr(b, m)) and (not m.startswith("_") or m in ("__init__", "__call__"))]
    assert methods
    for method in methods:
        assert parameters(getattr(a, method)) == parameters(getattr(b, method)), method
    assert issubclass(a, ours.Perturbation) == issubclass(b, theirs.Perturbation)
    assert set(ours.__all__) == set(theirs.__all__)


class Likely(nn.Module):
    """Probabilities."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *inputs):
        return self.model(*inputs).softmax(-1)


def subjects():
    torch.manual_seed(11)
    return {
        "mlp": (Mlp(), torch.randn(3, 5), None),
        "conv": (Conv(), torch.randn(3, 2, 6, 6), None),
        "two inputs": (TwoInputs(), (torch.randn(3, 4), torch.randn(3, 3)), (torch.randn(3, 1), 0.5)),
    }


@pytest.fixture(params=list(subjects()))
def subject(request):
    model, inputs, args = subjects()[request.param]
    return model.eval(), inputs, args


def both(model, loss, *args):
    return [lambda cls, lib=lib: getattr(lib, cls)(Likely(model) if loss is None else model, loss, *args) for lib in (ours, theirs)]


def masked(inputs):
    torch.manual_seed(12)
    draw = lambda x: (torch.rand_like(x) < 0.5).to(x)  # noqa: E731
    return tuple(map(draw, inputs)) if isinstance(inputs, tuple) else draw(inputs)


def bounded(inputs):
    return tuple(x.clamp(-1, 1) for x in inputs) if isinstance(inputs, tuple) else inputs.clamp(-1, 1)


def assert_equal(a, b):
    assert type(a) is type(b)
    for one, two in zip(a if isinstance(a, tuple) else (a,), b if isinstance(b, tuple) else (b,), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("loss", [None, EACH])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("bounds", [(), (-1.0, 1.0)])
def test_attacks_are_bit_equal(subject, targeted, loss, mask, bounds):
    model, inputs, args = subject
    inputs = bounded(inputs) if bounds else inputs
    options = {"additional_forward_args": args, "targeted": targeted, "mask": masked(inputs) if mask else None}
    a, b = both(model, loss, *bounds)
    found = a("FGSM").perturb(inputs, 0.1, LABELS, **options)
    assert_equal(found, b("FGSM").perturb(inputs, 0.1, LABELS, **options))
    assert not torch.equal(found[0], inputs[0])
    for norm in ("Linf", "L2"):
        ball = {"radius": 0.25, "step_size": 0.1, "step_num": 4, "target": LABELS, "norm": norm, **options}
        assert_equal(a("PGD")(inputs, **ball), b("PGD")(inputs, **ball))


@pytest.mark.parametrize("target", [1, LABELS, LABELS.tolist(), torch.tensor([2])])
def test_targets(target):
    model, x, _ = subjects()["mlp"]
    a, b = both(model, None)
    assert_equal(a("FGSM").perturb(x, 0.2, target), b("FGSM").perturb(x, 0.2, target))


@pytest.mark.parametrize("target", [(2, 1), [(0, 1), (1, 2), (3, 0)]])
def test_targets_of_deeper_outputs(target):
    model, x = nn.Sequential(nn.Linear(5, 12), nn.Unflatten(1, (4, 3)), nn.Softmax(-1)), torch.randn(3, 5)
    assert_equal(ours.FGSM(model).perturb(x, 0.2, target), theirs.FGSM(model).perturb(x, 0.2, target))


def test_attributes_that_may_be_changed():
    model, x, _ = subjects()["mlp"]
    found = []
    for library in (ours, theirs):
        fgsm, pgd = library.FGSM(Likely(model)), library.PGD(Likely(model))
        fgsm.zero_thresh, fgsm.bound = 0.05, lambda x: x.clamp(max=0.3)
        pgd.fgsm.zero_thresh, pgd.bound = 0.05, lambda x: x.clamp(max=0.3)
        found.append((fgsm.perturb(x.clamp(max=0.3), 0.2, LABELS), pgd.perturb(x.clamp(max=0.3), 0.2, 0.1, 3, LABELS)))
    assert_equal(found[0], found[1])


def test_inputs_of_one_number_each_and_no_steps():
    x = torch.tensor([0.3, -0.2])
    for norm in ("Linf", "L2"):
        assert ours.PGD(torch.exp).perturb(x, 0.5, 0.1, 9, None, norm=norm).tolist() == pytest.approx([-0.2, -0.7], abs=1e-5)
    assert torch.equal(ours.PGD(torch.exp).perturb(x, 0.5, 0.1, 0, None), x)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_random_starts_are_others_each_time_and_move_no_state(norm):
    model, x, _ = subjects()["mlp"]
    options = {"radius": 0.5, "step_size": 0.1, "step_num": 1, "target": LABELS, "random_start": True, "norm": norm}
    before = torch.get_rng_state()
    pgd = ours.PGD(model, EACH)
    first, second = (pgd.perturb(x, **options) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(first, second)
    assert torch.equal(first, ours.PGD(model, EACH).perturb(x, **options))
    torch.manual_seed(99)
    assert not torch.equal(first, ours.PGD(model, EACH).perturb(x, **options))
    assert ((first - x).norm(dim=1) if norm == "L2" else (first - x).abs()).max() <= 0.5 + 1e-6


def test_where_captum_is_wrong():
    model, x, _ = subjects()["mlp"]
    logits = lambda x: model(x) - 100  # noqa: E731
    before = model(x)[range(3), LABELS]
    assert (model(theirs.FGSM(logits).perturb(x, 0.1, LABELS))[range(3), LABELS] > before).all()  # the wrong way, without a word
    with pytest.raises(OutputError, match="CrossEntropyLoss"):
        ours.FGSM(logits).perturb(x, 0.1, LABELS)
    with pytest.raises(RuntimeError, match="must match"):
        theirs.PGD(model, EACH).perturb(x, 0.1, 0.1, 1, LABELS, random_start=True, norm="L2")
    ours.PGD(model, EACH).perturb(x, 0.1, 0.1, 1, LABELS, random_start=True, norm="L2")
    two = (torch.randn(3, 4), torch.randn(3, 3))
    assert len(theirs.FGSM(TwoInputs(), EACH).perturb(two, 0.1, LABELS, mask=(torch.ones(3, 4),))) == 1
    with pytest.raises(ValueError, match="1 masks for 2 inputs"):
        ours.FGSM(TwoInputs(), EACH).perturb(two, 0.1, LABELS, mask=(torch.ones(3, 4),))
    with pytest.raises(ZeroDivisionError):
        theirs.FGSM(model, lambda *_: 1 / 0).perturb(x, 0.1, LABELS)
    assert x.requires_grad
    sure = lambda x: torch.cat([x, 0 * x], 1)  # noqa: E731  an output that is zero, not at the target
    one = torch.tensor([[0.5]])
    assert torch.equal(theirs.FGSM(sure).perturb(one, 0.1, 0), one)
    assert torch.equal(ours.FGSM(sure).perturb(one, 0.1, 0), one - 0.1)


# The smallest parameter


def noisy(inp, std):
    return inp + std * torch.randn_like(inp)


def shifted(inp, by):
    return inp - by


@pytest.mark.parametrize("mode", ["linear", "binary", "BINARY"])
@pytest.mark.parametrize("together", [1, 2, 5, 40])
@pytest.mark.parametrize("attempts", [1, 3])
@pytest.mark.parametrize("before", [False, True])
def test_the_smallest_parameter(mode, together, attempts, before):
    model, x, _ = subjects()["mlp"]
    labels = model(2 * x[:1] + 1).argmax(1)
    prepared = lambda x: 2 * x + 1  # noqa: E731
    for attack, name, top in ((noisy, "std", 4), (shifted, "by", 8), (shifted, "by", 0.75)):
        found = []
        for library in (ours, theirs):
            torch.manual_seed(5)
            search = library.MinParamPerturbation(model, attack, name, 0.0, top, 0.125, mode, attempts, prepared, before)
            found.append(search.evaluate(x[:1], target=labels, perturbations_per_eval=together))
        assert found[0][1] == found[1][1]
        assert (found[0][0] is None) == (found[1][0] is None)
        assert found[0][0] is None or torch.equal(found[0][0], found[1][0])
        assert type(found[0]) is tuple


@pytest.mark.parametrize("mode", ["linear", "binary"])
def test_nothing_found(mode):
    for library in (ours, theirs):
        search = library.MinParamPerturbation(nn.Identity(), shifted, "by", 0.0, 2.0, 0.125, mode)
        assert search.evaluate(torch.eye(3), target=[0, 1, 2]) == (None, None)


@pytest.mark.parametrize("mode", ["linear", "binary"])
@pytest.mark.parametrize("together", [1, 4])
def test_the_smallest_step_of_an_attack_with_arguments(mode, together):
    model, inputs, args = subjects()["two inputs"]
    call = lambda both, *args: model(*both, *args)  # noqa: E731  Captum hands a tuple over as one argument
    labels = call(inputs, *args).argmax(1)
    attack = lambda both, epsilon, sign: tuple(x + sign * epsilon for x in both)  # noqa: E731
    wrong = lambda output, target, at_most: (output.argmax(1) != target).sum() < at_most  # noqa: E731
    found = []
    for library in (ours, theirs):
        search = library.MinParamPerturbation(call, attack, "epsilon", 0, 20, 1, mode, correct_fn=wrong)
        options = {"attack_kwargs": {"sign": -1}, "correct_fn_kwargs": {"at_most": 2}}
        found.append(search.evaluate(inputs, args, labels, together, **options))
    assert found[0][1] == found[1][1]
    assert isinstance(found[0][1], int)
    assert_equal(*(f[0] for f in found))


def test_the_smallest_epsilon_of_fgsm():
    model, x, _ = subjects()["mlp"]
    label = model(x[:1]).argmax(1)
    found = []
    for library in (ours, theirs):
        search = library.MinParamPerturbation(model, library.FGSM(model, EACH), "epsilon", 0.0, 4.0, 0.0625)
        found.append(search.evaluate(x[:1], target=label, attack_kwargs={"target": label}))
    assert found[0][1] == found[1][1] > 0
    assert torch.equal(found[0][0], found[1][0])


def test_refused_searches():
    make = ours.MinParamPerturbation
    with pytest.raises(OptionError, match="from 2 to 1"):
        make(Mlp(), noisy, "std", 2, 1, 0.1)
    with pytest.raises(OptionError, match="steps of 0"):
        make(Mlp(), noisy, "std", 0, 1, 0)
    with pytest.raises(OptionError, match="'cubic' is not known"):
        make(Mlp(), noisy, "std", 0, 1, 0.1, mode="cubic")
    with pytest.raises(TargetError, match="no target says"):
        make(Mlp(), noisy, "std", 0, 1, 0.1).evaluate(torch.randn(1, 5))


# Attacks compared

Scores = namedtuple("Scores", "right top")
METRICS = {
    "tensor": lambda output, target: (output.argmax(1) == target).float(),
    "of the batch": lambda output, target: output.mean(0, keepdim=True).sum(1),
    "number": lambda output, target: float((output.argmax(1) == target).float().mean()),
    "tuple": lambda output, target: ((output.argmax(1) == target).float(), 0.5),
    "named": lambda output, target: Scores((output.argmax(1) == target).float(), output.amax(1)),
}


def assert_alike(a, b):
    assert type(a) is type(b) or type(a).__name__ == type(b).__name__
    if isinstance(a, dict):
        assert set(a) == set(b)  # Captum's order of statistics is another in each process
        for key in a:
            assert_alike(a[key], b[key])
    elif isinstance(a, tuple):
        assert getattr(a, "_fields", None) == getattr(b, "_fields", None)
        for one, two in zip(a, b, strict=True):
            assert_alike(one, two)
    else:
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", list(METRICS))
@pytest.mark.parametrize("together", [1, 3, 4, 50])
def test_comparisons(name, together):
    model, *_ = subjects()["mlp"]
    batches = [(torch.randn(n, 5), torch.randint(0, 3, (n,))) for n in (4, 4, 2)]
    found = []
    for library in (ours, theirs):
        torch.manual_seed(8)
        comparator = library.AttackComparator(model, METRICS[name], lambda x: x + 0.5)
        comparator.add_attack(noisy, "noise", num_attempts=5, attack_kwargs={"std": 0.7})
        comparator.add_attack(
            library.FGSM(model, EACH), apply_before_preproc=False, attack_kwargs={"epsilon": 0.3}, additional_attack_arg_names=["target"]
        )
        comparator.add_attack(shifted, attack_kwargs={"by": 0.3})
        results = [comparator.evaluate(x, perturbations_per_eval=together, target=y) for x, y in batches[:2]]
        results += [comparator.summary(), comparator.reset(), comparator.summary()]
        last = comparator.evaluate(*batches[2][:1], perturbations_per_eval=together, target=batches[2][1])
        found.append([r for r in results if r is not None] + [last, comparator.summary()])
    for one, two in zip(*found, strict=True):
        assert_alike(one, two)
    assert list(found[0][2]) == ["Original", "noise Mean Attempt", "noise Min Attempt", "noise Max Attempt", "FGSM", "function"]
    assert found[0][3] == {}


@pytest.mark.parametrize("together", [1, 2, 3])
def test_summaries_weigh_batches_alike_and_arguments_are_repeated(together):
    model, inputs, args = subjects()["two inputs"]
    call = lambda both, *args: model(*both, *args)  # noqa: E731
    found = []
    for library in (ours, theirs):
        torch.manual_seed(8)
        comparator = library.AttackComparator(call, METRICS["named"])
        comparator.add_attack(lambda both: tuple(x + torch.randn_like(x) for x in both), "noise", 3)
        results = [comparator.evaluate(inputs, args, together, target=LABELS)]
        few = tuple(x[:1] for x in inputs), (args[0][:1], args[1])
        found.append([*results, comparator.evaluate(*few, together, target=LABELS[:1]), comparator.summary()])
    for one, two in zip(*found, strict=True):
        assert_alike(one, two)


def test_refused_comparisons():
    comparator = ours.AttackComparator(Mlp(), METRICS["tensor"])
    comparator.add_attack(noisy, "noise", attack_kwargs={"std": 1.0}, additional_attack_arg_names=["mask"])
    with pytest.raises(OptionError, match="there is an attack called 'noise' already"):
        comparator.add_attack(noisy, "noise")
    with pytest.warns(PellucidWarning, match="'noise' asks for 'mask', which is not given"):
        comparator.evaluate(torch.randn(3, 5), target=LABELS)
    with pytest.raises(OptionError, match="0 attempts"):
        comparator.add_attack(noisy, "none", num_attempts=0)
