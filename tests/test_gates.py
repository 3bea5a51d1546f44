"""Stochastic gates: captum's numbers and checkpoints, laws, refusals."""

import inspect
import math

import captum.module as theirs
import pytest
import torch
from torch import nn

import pellucid.captum.module as ours
from pellucid import InputError, OptionError

KINDS = ["BinaryConcreteStochasticGates", "GaussianStochasticGates"]
MASKS = {
    "none": (6, None, (4, 6)),
    "none, with dimensions": (6, None, (4, 2, 3)),
    "shared": (3, torch.tensor([0, 0, 1, 2, 2, 2]), (4, 6)),
    "broadcast": (2, torch.tensor([[0], [1]]), (4, 2, 3)),
}


def pair(kind, n, *args, **options):
    """Both libraries' gates, of one seed, and with learned values that are not near the first ones."""
    made = []
    for library in (ours, theirs):
        torch.manual_seed(1)
        made.append(getattr(library, kind)(n, *args, **options))
    assert all(torch.equal(a, b) for a, b in zip(made[0].parameters(), made[1].parameters(), strict=True))
    values = torch.linspace(-3, 3, n)
    for gates in made:
        next(gates.parameters()).data.copy_(values)
    return made


@pytest.mark.parametrize("name", theirs.__all__)
def test_signatures(name):
    assert set(ours.__all__) == set(theirs.__all__)
    shape = lambda f: [(p.name, p.kind, p.default) for p in inspect.signature(f).parameters.values()]  # noqa: E731
    for method in ("__init__", "forward", "get_gate_values", "get_gate_active_probs"):
        assert shape(getattr(getattr(ours, name), method)) == shape(getattr(getattr(theirs, name), method)), method


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", list(MASKS))
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_captums_numbers(kind, case, training, reduction):
    n, mask, shape = MASKS[case]
    x, found = torch.randn(shape), []
    for gates in pair(kind, n, mask=mask, reg_weight=0.3, reg_reduction=reduction):
        torch.manual_seed(7)
        gated, penalty = gates.train(training)(x)
        loss = gated.square().sum() + penalty.sum()
        if (kind, reduction) == (KINDS[0], "none") and isinstance(gates, theirs.StochasticGatesBase):
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                loss.backward()
            next(gates.parameters()).grad = found[0][2]
        else:
            loss.backward()
        found.append(
            (gated, penalty, next(gates.parameters()).grad, gates.get_gate_active_probs(), *map(gates.get_gate_values, (True, False)))
        )
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
    assert found[0][2].abs().sum() > 0


@pytest.mark.parametrize(
    ("kind", "options"),
    [(KINDS[0], {"temperature": 0.2, "lower_bound": -0.3, "upper_bound": 1.5, "eps": 1e-4}), (KINDS[1], {"std": 1.7})],
)
def test_captums_numbers_with_other_options(kind, options):
    found = []
    for gates in pair(kind, 5, **options):
        torch.manual_seed(7)
        found.append((*gates(torch.ones(3, 5)), gates.get_gate_active_probs(), gates.get_gate_values(False)))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ["none", "shared"])
def test_checkpoints_go_either_way(kind, case):
    n, mask, shape = MASKS[case]
    own, other = pair(kind, n, mask=mask)
    assert list(own.state_dict()) == list(other.state_dict())
    fresh = getattr(ours, kind)(n, mask=None if mask is None else torch.arange(n).repeat(2)[: len(mask)])
    fresh.load_state_dict(other.state_dict())
    x = torch.randn(shape)
    assert torch.equal(fresh.eval()(x)[0], other.eval()(x)[0])
    other.load_state_dict(fresh.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_gates_of_learned_values(kind):
    values = torch.tensor([-1.0, 0.3, 2.0])
    gates = getattr(ours, kind)._from_pretrained(values, reg_weight=0.1)
    assert torch.equal(next(gates.parameters()).data, values)
    assert gates.reg_weight == 0.1
    with pytest.raises(InputError, match=r"shape \(1, 3\)"):
        getattr(ours, kind)._from_pretrained(values[None])


def concrete_open(gates, draws):
    """Louizos et al. 2018, equations 10 and 11, one number at a time."""
    opened = []
    for alpha in gates.log_alpha_param.tolist():
        values = [1 / (1 + math.exp(-(math.log(u) - math.log(1 - u) + alpha) / gates.temperature)) for u in draws]
        opened.append(sum(s * (gates.upper_bound - gates.lower_bound) + gates.lower_bound > 0 for s in values) / len(draws))
    return opened


def test_the_probability_of_concrete_gates():
    gates = pair(KINDS[0], 7)[0]
    even = [(k + 0.5) / 20000 for k in range(20000)]
    torch.testing.assert_close(gates.get_gate_active_probs(), torch.tensor(concrete_open(gates, even)), rtol=0, atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_open_gates_are_as_frequent_as_their_probability(kind):
    gates = pair(kind, 7)[0].train()
    opened = (gates(torch.ones(20000, 7))[0] > 0).float().mean(0)
    torch.testing.assert_close(opened, gates.get_gate_active_probs(), rtol=0, atol=0.015)


@pytest.mark.parametrize("kind", KINDS)
def test_elements_of_one_gate_share_it(kind):
    gates = getattr(ours, kind)(3, mask=torch.tensor([0, 0, 1, 2, 2, 2])).train()
    gated = gates(torch.ones(8, 6))[0]
    assert torch.equal(gated[:, 0], gated[:, 1])
    assert torch.equal(gated[:, 3], gated[:, 5])
    assert not torch.equal(gated[:, 1], gated[:, 2])
    assert not torch.equal(gated[0], gated[1])  # drawn anew for each example


@pytest.mark.parametrize("kind", KINDS)
def test_gates_find_the_feature_that_matters(kind):
    x = torch.randn(256, 4)
    y, model, gates = 3 * x[:, :1], nn.Linear(4, 1), getattr(ours, kind)(4, reg_weight=0.3)
    optimizer = torch.optim.Adam([*model.parameters(), *gates.parameters()], lr=0.05)
    for _ in range(300):
        gated, penalty = gates(x)
        optimizer.zero_grad()
        ((model(gated) - y).square().mean() + penalty).backward()
        optimizer.step()
    open_gates = gates.get_gate_active_probs()
    assert open_gates[0] > 0.9
    assert (open_gates[1:] < 0.3).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_of_the_input_stays(kind, dtype):
    gates = getattr(ours, kind)(3)
    assert gates(torch.ones(2, 3, dtype=dtype))[0].dtype == dtype
    assert gates.to(dtype)(torch.ones(2, 3, dtype=dtype))[0].dtype == dtype
    assert gates(torch.ones(2, 3, dtype=torch.long))[0].is_floating_point()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clamp", [True, False])
def test_what_is_read_is_a_copy(kind, clamp):
    gates = getattr(ours, kind)(3)
    before = next(gates.parameters()).detach().clone()
    gates.get_gate_values(clamp).zero_()
    assert torch.equal(next(gates.parameters()).data, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_gates_can_be_traced(kind, training):
    gates = getattr(ours, kind)(3, mask=torch.tensor([0, 0, 1, 2])).train(training)
    traced = torch.fx.symbolic_trace(gates)
    for rows in (2, 5):
        found = []
        for module in (gates, traced):
            torch.manual_seed(0)
            found.append(module(torch.ones(rows, 4))[0])
        assert torch.equal(*found)


@pytest.mark.parametrize(
    ("kind", "options", "error", "words"),
    [
        (0, {"n_gates": 0}, OptionError, "n_gates is 0"),
        (1, {"reg_reduction": "max"}, OptionError, "reg_reduction is 'max'; use one of 'none', 'mean', 'sum'"),
        (0, {"mask": torch.tensor([0, 1])}, InputError, "from 0 to 1; for 3 gates they go from 0 to 2"),
        (0, {"mask": torch.tensor([0, 3])}, InputError, "from 0 to 3"),
        (0, {"mask": torch.tensor([-1, 2])}, InputError, "from -1 to 2"),
        (1, {"mask": torch.tensor([0.0, 2.0])}, InputError, "mask has dtype torch.float32"),
        (0, {"temperature": 1.0}, OptionError, r"temperature 1\.0 must be between 0 and 1"),
        (0, {"lower_bound": 0.0}, OptionError, "less than 0"),
        (0, {"upper_bound": 1.0}, OptionError, "more than 1"),
        (1, {"std": 0.0}, OptionError, r"std is 0\.0"),
    ],
)
def test_refused_gates(kind, options, error, words):
    with pytest.raises(error, match=words):
        getattr(ours, KINDS[kind])(**{"n_gates": 3, **options})


@pytest.mark.parametrize("shape", [(3,), (2, 4), (2, 3, 2)])
def test_refused_inputs(shape):
    with pytest.raises(InputError, match="there are 3 gates"):
        ours.GaussianStochasticGates(3)(torch.ones(shape))


def test_the_base_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        ours.StochasticGatesBase(3)
