"""What a hunt found in `pellucid.rules`, put right since: each test states what should hold."""

import contextlib
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pellucid
from pellucid.captum import attr
from pellucid.errors import PellucidError
from pellucid.rules import deconvolution, deeplift, guided_backprop, lrp
from pellucid.rules.secants import IN_PIECES, SCALE_FREE, SMOOTH, WITH_POLES
from pellucid.view import at_input

D = torch.float64


def rand(*shape, seed=0, dtype=D):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=D).to(dtype)


W = rand(6, 6, seed=1)


def lifted(model, x, x0=None, target=None, **options):
    return deeplift(at_input(model, x, target), (torch.zeros_like(x) if x0 is None else x0,), **options)


def relevance(model, x, target=None, composite="epsilon"):
    return lrp(at_input(model, x, target), composite)


def keeps_score(found, model, x, rtol=1e-6):
    torch.testing.assert_close(found.scores[0], model(x), rtol=rtol, atol=1e-6)


# --- the score itself changes

METHODS = {"deeplift": lifted, "lrp": relevance}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bound", [torch.tensor(0.3, dtype=D), torch.full((6,), 0.3, dtype=D)], ids=["number", "row"])
def test_clamp_max_with_a_tensor_is_a_minimum(method, bound):
    model = lambda x: torch.clamp_max(x @ W, bound).sum(1)  # noqa: E731
    keeps_score(METHODS[method](model, rand(3, 6)), model, rand(3, 6))


@pytest.mark.parametrize("method", METHODS)
def test_normalize_by_the_maximum_keeps_its_score(method):
    model = lambda x: F.normalize(x @ W, p=float("inf"), dim=1)[:, 0]  # noqa: E731
    keeps_score(METHODS[method](model, rand(3, 6)), model, rand(3, 6))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_rms_norm_without_eps_keeps_its_score_in_half_precision(method, dtype):
    model = lambda x: F.rms_norm(x, (8,))[:, 0]  # noqa: E731
    x = 0.01 * rand(2, 8, dtype=dtype)
    keeps_score(METHODS[method](model, x), model, x, rtol=0.05)


NORMS = {
    "layer_norm": lambda x: F.layer_norm(x, (8,))[:, 0],
    "rms_norm": lambda x: F.rms_norm(x, (8,), eps=1e-5)[:, 0],
    "group_norm": lambda x: F.group_norm(x, 2)[:, 0],
    "normalize": lambda x: F.normalize(x, dim=1)[:, 0],
}


@pytest.mark.parametrize("name", NORMS)
def test_normalisation_of_numbers_in_the_thousands_keeps_its_score_in_half_precision(name):
    x = 1000 * rand(2, 8, dtype=torch.float16)
    keeps_score(relevance(NORMS[name], x), NORMS[name], x, rtol=0.05)


def test_a_quotient_keeps_its_score_in_half_precision():
    model = lambda x: (x / torch.tensor(1e-5, dtype=torch.float16))[:, 0]  # noqa: E731
    x = 0.001 * rand(2, 8, dtype=torch.float16)
    keeps_score(lifted(model, x), model, x, rtol=0.05)


# --- NaN, zero, or lost


@pytest.mark.parametrize("method", METHODS)
def test_attention_whose_row_sees_nothing_is_finite_as_the_model_is(method):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(6, 2, batch_first=True, dtype=D).eval()
    causal, padding = ~torch.ones(4, 4).tril().bool(), torch.tensor([[True, False, False, False]])

    def model(x):
        return attention(x, x, x, key_padding_mask=padding.expand(len(x), -1), attn_mask=causal, need_weights=False)[0].sum((1, 2))

    x = rand(2, 4, 6)
    assert model(x).isfinite().all()
    found = METHODS[method](model, x)
    keeps_score(found, model, x)
    assert found.values[0].isfinite().all()


def test_a_masked_maximum_is_complete():
    hidden = torch.tensor([False, True, False, True, False, False])
    found = lifted(lambda x: (x @ W).masked_fill(hidden, -torch.inf).amax(1), rand(3, 6))
    assert found.gap.abs().max() < 1e-9


FOURIER = {
    "rfft": lambda x: torch.fft.rfft(x @ W).abs().sum(1),
    "fnet": lambda x: torch.fft.fft(torch.fft.fft(x @ W, dim=-1), dim=-2).real[:, 0],
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FOURIER)
def test_what_goes_through_a_fourier_transform_is_not_lost(name, method):
    assert METHODS[method](FOURIER[name], rand(1, 6)).values[0].abs().max() > 1e-3


def test_relevance_through_a_spectrogram_is_not_lost():
    window = torch.hann_window(16, dtype=D)
    model = lambda x: torch.stft(x, 16, window=window, return_complex=True).abs().sum((1, 2))  # noqa: E731
    assert relevance(model, rand(2, 64)).values[0].abs().max() > 1e-3


# --- numbers without sense

QUOTIENTS = {
    "normalize": lambda x: F.normalize(x, dim=1)[:, 0],
    "norm": lambda x: (x / (x.norm(dim=1, keepdim=True) + 1e-8))[:, 0],
    "sum": lambda x: (x.abs() / (x.abs().sum(1, keepdim=True) + 1e-8))[:, 0],
}


@pytest.mark.parametrize("dtype", [torch.float32, D])
@pytest.mark.parametrize("name", QUOTIENTS)
def test_a_quotient_from_zero_has_multipliers_of_its_own_size(name, dtype):
    found = lifted(QUOTIENTS[name], rand(3, 6, dtype=dtype))
    assert found.gap.abs().max() < 1e-4
    assert found.values[0].abs().max() < 10


def test_cosine_similarity_from_zero_is_complete():
    found = lifted(lambda x: F.cosine_similarity(x, torch.ones(6, dtype=D), dim=1), rand(3, 6))
    assert found.gap.abs().max() < 1e-6


POLES = {"asin": (1.0, 0.997), "acos": (-1.0, -0.998), "log1p": (-0.9999, -0.997)}


@pytest.mark.parametrize("name", POLES)
def test_the_secant_of_a_function_with_a_pole_is_its_difference_quotient(name):
    function, (at, reference) = getattr(torch, name), (torch.full((1, 1), end) for end in POLES[name])
    found = lifted(lambda x: function(x).sum(1), at, reference)
    assert found.gap.abs().max() < 1e-2 * (function(at) - function(reference)).abs().max()


def test_a_sampling_grid_that_moves_is_complete():
    grid = lambda x: torch.tanh((x @ W)[:, :2]).view(-1, 1, 1, 2)  # noqa: E731
    found = lifted(lambda x: F.grid_sample(x.view(-1, 1, 2, 3), grid(x), align_corners=False).flatten(), rand(3, 6))
    assert found.gap.abs().max() < 1e-6


def test_a_batch_is_its_examples_one_by_one_where_one_of_them_needs_more_places():
    model = lambda x: x.median(1)[0]  # noqa: E731
    x, x0 = torch.tensor([[0.3, -1.0, 2.1], [0.0, 1.0, 0.5]]), torch.tensor([[1.0, 0.7, -0.4], [0.0, -1000.0, 1000.0]])
    together = lifted(model, x, x0).values[0][0, :1]
    torch.testing.assert_close(together, lifted(model, x[:1], x0[:1]).values[0][0])


# --- relevance


@pytest.mark.parametrize("numerator", [torch.tensor(2), 2, 2.0], ids=["integer tensor", "integer", "number"])
def test_a_denominator_gets_what_it_gets_under_a_tensor(numerator):
    x = rand(3, 6)
    expected = relevance(lambda x: (torch.tensor(2.0, dtype=D) / (x @ W).exp())[:, 0], x).values[0]
    torch.testing.assert_close(relevance(lambda x: (numerator / (x @ W).exp())[:, 0], x).values[0], expected)


def test_additions_into_places_divide_relevance():
    places = torch.tensor([0, 1, 0, 1, 0, 1])

    def model(x):
        rows = torch.arange(len(x))[:, None].expand(-1, 6)
        return torch.zeros(len(x), 2, dtype=D).index_put((rows, places), x @ W, accumulate=True)[:, 0]

    found = relevance(model, rand(3, 6))
    torch.testing.assert_close(found.values[0].sum(2), found.scores)


def test_weights_that_are_no_parameters_but_require_a_gradient_are_weights():
    net = nn.Sequential(nn.Linear(6, 4, bias=False), nn.ReLU(), nn.Linear(4, 1, bias=False)).to(D)
    given = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}
    found = relevance(lambda x: torch.func.functional_call(net, given, (x,)), rand(3, 6), 0)
    torch.testing.assert_close(found.values[0].sum(2), found.scores)


def test_a_rotation_by_complex_numbers_conserves_relevance_or_is_named():
    turn = torch.polar(torch.ones(3, dtype=D), torch.tensor([0.3, 0.9, 2.0], dtype=D))
    model = lambda x: torch.view_as_real(torch.view_as_complex((x @ W).reshape(-1, 3, 2)) * turn).flatten(1)[:, :2].sum(1)  # noqa: E731
    found = relevance(model, rand(3, 6))
    assert not found.checks[0].passed or torch.allclose(found.values[0].sum(2), found.scores)


def squared(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return (x @ w) * (x @ w)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_scripted_function_is_named():
    scripted = torch.jit.script(squared)
    model, x = (lambda x: scripted(x, W).sum(1)), rand(3, 6)
    for _ in range(3):  # torch compiles it on the second run
        found = relevance(model, x)
        assert not found.checks[0].passed


def test_a_softmax_without_a_dimension_has_its_rule():
    x = rand(3, 6)
    with pytest.warns(UserWarning, match="Implicit dimension"):
        found = relevance(lambda x: F.softmax(x @ W)[:, 0], x).values[0]  # type: ignore[call-arg]
    torch.testing.assert_close(found, relevance(lambda x: F.softmax(x @ W, 1)[:, 0], x).values[0])


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.filterwarnings("ignore:Implicit dimension")
def test_a_softmax_without_a_dimension_is_complete(name):
    assert lifted(lambda x: getattr(F, name)(x @ W)[:, 0], rand(3, 6)).gap.abs().max() < 1e-9


ALIASES = {"arctan": torch.atan, "arcsin": torch.asin, "arccos": torch.acos, "arcsinh": torch.asinh}


@pytest.mark.parametrize("name", ALIASES)
def test_an_operation_by_its_other_name_has_its_rule(name):
    x = rand(3, 6)
    one, other = (relevance(lambda x, f=f: f(0.1 * (x @ W)).sum(1), x).values[0] for f in (ALIASES[name], getattr(torch, name)))
    torch.testing.assert_close(one, other)


def test_matmul_of_linalg_is_a_product():
    x = rand(3, 6)
    one, other = (
        relevance(lambda x, f=f: f((x @ W)[:, None], x[:, :, None])[:, 0, 0], x).values[0] for f in (torch.matmul, torch.linalg.matmul)
    )
    torch.testing.assert_close(one, other)


def test_alpha_and_beta_are_finite_in_half_precision():
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
    x = rand(4, 1, 8, 8).abs().half()
    x[:, :, :4] = 0
    assert relevance(nn.Sequential(*layers).half(), x, 0, "alpha2_beta1").values[0].isfinite().all()


class SiluAndMul(nn.Module):
    def forward(self, x):
        gate, value = x.chunk(2, 1)
        return F.silu(gate) * value


class CReLU(nn.Module):
    def forward(self, x):
        return torch.cat([x.relu(), (-x).relu()], 1)


class ReluFlipped(nn.Module):
    def forward(self, x):
        return x.relu().flip(1)


@pytest.mark.parametrize("kind", [SiluAndMul, CReLU, ReluFlipped])
def test_a_module_named_like_an_activation_that_mixes_places_is_its_operations(kind):
    layer, x = kind(), rand(3, 6)
    as_module = relevance(nn.Sequential(nn.Linear(6, 6, dtype=D), layer), x, 0)
    as_function = relevance(lambda x: layer.forward(x)[:, 0], x)
    assert as_module.values[0].shape == as_function.values[0].shape
    torch.testing.assert_close(relevance(nn.Sequential(layer), x, 0).values[0], as_function.values[0])


# --- crashes


@pytest.mark.parametrize("method", METHODS)
def test_a_sparse_factor_is_no_obstacle(method):
    adjacency = torch.eye(6, dtype=D).to_sparse()
    found = METHODS[method](lambda x: torch.sparse.mm(adjacency, (x @ W).relu().T).T.sum(1), rand(3, 6))
    torch.testing.assert_close(found.values[0].sum(2), found.scores)


def test_a_quotient_by_a_zero_that_is_not_chosen_is_no_obstacle():
    found = lifted(lambda x: torch.where(x > 100, x / 0, x @ W).sum(1), rand(3, 6))
    assert found.gap.abs().max() < 1e-9


@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_differentiates_itself_is_explained_or_refused_in_words(method):
    def force(x):
        with torch.enable_grad():
            at = x if x.requires_grad else x.clone().requires_grad_()
            return torch.autograd.grad((at @ W).tanh().sum(), at, create_graph=True)[0].sum(1)

    with contextlib.suppress(PellucidError):
        METHODS[method](force, rand(3, 6))


@pytest.mark.parametrize("examples", [1, 3])
def test_a_custom_function_that_returns_a_tensor_is_taken_or_refused_in_words(examples):
    net, x = nn.Linear(6, 2), rand(examples, 6, dtype=torch.float32)
    with contextlib.suppress(PellucidError):
        assert attr.DeepLift(net).attribute(x, target=0, custom_attribution_func=lambda m: m[0] * 2).shape == x.shape


@pytest.mark.parametrize("kind", ["LayerDeepLift", "LayerLRP"])
def test_an_empty_list_of_layers_is_refused_in_words(kind):
    with pytest.raises(PellucidError):
        getattr(attr, kind)(nn.Linear(6, 2), []).attribute(rand(3, 6, dtype=torch.float32), target=0)


# --- guided backpropagation, and what is said


@pytest.mark.parametrize("method", [guided_backprop, deconvolution])
def test_clamp_max_at_zero_is_no_rectifier(method):
    x, out = rand(3, 6), rand(6, seed=2)
    one, other = (method(at_input(lambda x, f=f: f(x @ W) @ out, x)) for f in (lambda z: z.clamp_max(0), lambda z: z.clamp(max=0)))
    torch.testing.assert_close(one.values[0], other.values[0])


@pytest.mark.parametrize("method", [guided_backprop, deconvolution])
def test_normalisation_and_softmax_in_plain_sight_fail_no_check(method):
    net = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3), nn.Softmax(1))
    assert method(at_input(net, rand(3, 6, dtype=torch.float32), 0)).checks[0].passed


SPELLINGS = {
    "matmul": lambda x, w: (x @ w.T).relu()[:, 0],
    "index": lambda x, w: F.linear(x, w)[:, 0].relu(),
    "view": lambda x, w: F.linear(x, w).view(-1).relu(),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_reveal_cancel_is_the_same_in_every_spelling_or_says_where_not(name):
    w, x = torch.tensor([[1.0, -1.0]]), torch.tensor([[3.0, 1.0]])
    expected = pellucid.explain(lambda x: x[:, 0] - F.linear(x, w).relu()[:, 0], x, None, "deeplift", rule="reveal_cancel").attribution
    found = pellucid.explain(lambda x: x[:, 0] - SPELLINGS[name](x, w), x, None, "deeplift", rule="reveal_cancel")
    if name != "matmul":  # a move between weights and activation: the rescale rule, and it is said
        assert "relu" in found.check("rules").message
        return
    torch.testing.assert_close(found.attribution, expected)


# --- what stays behind


@pytest.mark.parametrize("method", METHODS)
def test_what_the_caller_forgets_is_forgotten(method):
    x = rand(3, 6)
    seen = weakref.ref(x)
    METHODS[method](lambda x: (x @ W).relu().sum(1), x)
    del x
    assert seen() is None


@pytest.mark.parametrize("function", [torch.atanh, torch.acosh, torch.asin, torch.log1p])
def test_functions_with_poles_are_complete_near_them(function):
    near = torch.tensor([[1e-9, 1e-6, 1e-3, 0.4]], dtype=D)
    pole = {torch.acosh: 1.0, torch.log1p: -1.0}.get(function)
    x, x0 = (pole + near, pole + 2 * near) if pole is not None else (1 - near, 1 - 2 * near)
    found = lifted(lambda x: function(x).sum(1), x, x0)
    assert (found.gap.abs() <= 1e-9 * (found.scores - found.baseline_scores).abs()).all()


@pytest.mark.parametrize("name", [*SMOOTH, *IN_PIECES, *SCALE_FREE, *WITH_POLES])
def test_every_elementwise_operation_has_a_rule_of_relevance(name):
    function = getattr(F, name, None) or getattr(torch, name, None)
    if function is None or name in ("rpow", "prelu", "threshold", "clamp", "rrelu"):  # take further arguments
        return
    x = torch.full((2, 3), 1.5 if name == "acosh" else 0.4, dtype=D)
    assert lrp(at_input(lambda x: function(x).sum(1), x)).checks[0].passed, name
