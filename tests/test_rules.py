"""Rules of the backward engine against slow oracles: the papers' formulas in loops over dense matrices."""

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pellucid
from pellucid.errors import OptionError
from pellucid.rules import COMPOSITES, attn_lrp, deconvolution, deeplift, deeplift_shap, guided_backprop, lrp, relevance
from pellucid.rules.compared import DEEPLIFT, multipliers
from pellucid.rules.engine import Ruled
from pellucid.rules.secants import SECANTS
from pellucid.view import at_input

D = torch.float64


def rand(*shape):
    return torch.randn(*shape, dtype=D)


def close(found, expected, tolerance=1e-7):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def summed(op):
    """A model with one score: what an operation gives, in fixed random proportions."""

    def model(*inputs):
        y = op(*inputs)
        y = y.flatten(1) if y.dim() > 1 else y[:, None]
        torch.manual_seed(7)
        return (y * torch.randn(y.shape[1], dtype=D)).sum(1)

    return model


# --- LRP: rules of layers with weights


def dense(layer, x):
    """The matrix (outputs, inputs) and the bias of an affine layer, for one example of the shape of x."""
    with torch.no_grad():
        b = layer(torch.zeros_like(x)[None])[0].flatten()
        units = torch.eye(x.numel(), dtype=D).view(-1, *x.shape)
        w = torch.stack([layer(unit[None])[0].flatten() - b for unit in units], 1)
    return torch.where(w.abs() > 1e-12, w, 0.0), b


def divide_up(part, rest, r):
    """`R_i = sum_j part(j, i) / (sum_i part(j, i) + rest_j) R_j`; units without any part lose their relevance."""
    found = [0.0] * len(part[0])
    for j, parts in enumerate(part):
        total = sum(parts) + rest[j]
        for i, p in enumerate(parts):
            found[i] += p / total * r[j] if total else 0.0
    return torch.tensor(found, dtype=D)


def up(value):
    return max(value, 0.0)


def down(value):
    return min(value, 0.0)


def epsilon(w, b, x, r):
    return divide_up([[w_ji * x[i] for i, w_ji in enumerate(row)] for row in w], b, r)


def alpha_beta(w, b, x, r, alpha=2.0, beta=1.0):
    positive = divide_up([[up(w_ji * x[i]) for i, w_ji in enumerate(row)] for row in w], [up(v) for v in b], r)
    negative = divide_up([[down(w_ji * x[i]) for i, w_ji in enumerate(row)] for row in w], [down(v) for v in b], r)
    return alpha * positive - beta * negative


def z_plus(w, b, x, r):
    return alpha_beta(w, b, x, r, 1.0, 0.0)


def gamma(w, b, x, r, g=0.25):
    """Contributions, and the bias, that have the sign of the unit count 1 + g times."""
    parts, rest = [], []
    for j, row in enumerate(w):
        sign = up if sum(w_ji * x[i] for i, w_ji in enumerate(row)) + b[j] > 0 else down
        parts.append([w_ji * x[i] + g * sign(w_ji * x[i]) for i, w_ji in enumerate(row)])
        rest.append(b[j] + g * sign(b[j]))
    return divide_up(parts, rest, r)


def gamma_of_positive(w, b, x, r, g=0.25):
    """Montavon et al. 2019: `a_i (w_ij + g w_ij+)`, for inputs that are not negative and units that are on."""
    parts = [[x[i] * (w_ji + g * up(w_ji)) for i, w_ji in enumerate(row)] for row in w]
    return divide_up(parts, [v + g * up(v) for v in b], r)


def w_square(w, b, x, r):
    return divide_up([[w_ji**2 for w_ji in row] for row in w], [0.0] * len(w), r)


def flat(w, b, x, r):
    return divide_up([[float(w_ji != 0) for w_ji in row] for row in w], [0.0] * len(w), r)


def z_box(w, b, x, r, low=-3.0, high=4.0):
    lows, highs = ([v] * len(x) if isinstance(v, float) else v.flatten().tolist() for v in (low, high))
    parts = [[x[i] * w_ji - lows[i] * up(w_ji) - highs[i] * down(w_ji) for i, w_ji in enumerate(row)] for row in w]
    return divide_up(parts, [0.0] * len(w), r)


def without_bias(w, b, x, r):
    return epsilon([[abs(w_ji) for w_ji in row] for row in w], [0.0] * len(w), x, r)


TINY = 1e-13
RULES = {
    "epsilon": (relevance.epsilon(TINY), epsilon),
    "alpha2_beta1": (relevance.alpha_beta(2, 1, TINY), alpha_beta),
    "alpha3_beta2": (relevance.alpha_beta(3, 2, TINY), lambda *a: alpha_beta(*a, 3.0, 2.0)),
    "z_plus": (relevance.z_plus(TINY), z_plus),
    "gamma": (relevance.gamma(0.25, TINY), gamma),
    "large gamma": (relevance.gamma(10.0, TINY), lambda *a: gamma(*a, 10.0)),
    "w_square": (relevance.w_square(TINY), w_square),
    "flat": (relevance.flat(TINY), flat),
    "z_box": (relevance.z_box(-3.0, 4.0, TINY), z_box),
    "reweighted": (relevance.reweighted(torch.abs, bias=False, eps=TINY), without_bias),
}
every_rule = pytest.mark.parametrize("rule", RULES)


class Spelled(nn.Module):
    """An affine layer that no module of torch's runs."""

    def __init__(self, spelling):
        super().__init__()
        self.w, self.b, self.spelling = nn.Parameter(rand(4, 3)), nn.Parameter(rand(3)), spelling

    def forward(self, x):
        return self.spelling(x, self.w, self.b)


def layers():
    torch.manual_seed(3)
    spelled = {
        "addmm": lambda x, w, b: torch.addmm(b, x, w),
        "Tensor.addmm": lambda x, w, b: b.addmm(x, w),
        "addmm with factors": lambda x, w, b: torch.addmm(b, x, w, beta=0.5, alpha=2),
        "addmm with a negative factor": lambda x, w, b: torch.addmm(b, x, w, beta=0.5, alpha=-2),
        "weights first": lambda x, w, b: (w.t() @ x[:, :, None])[:, :, 0],
        "aten addmm": lambda x, w, b: torch.ops.aten.addmm.default(b, x, w),
        "matmul": lambda x, w, b: x @ w,
        "F.linear by keywords": lambda x, w, b: F.linear(input=x, weight=w.t(), bias=b),
        "matmul, transposed weight": lambda x, w, b: torch.matmul(x, w.t().contiguous().t()),
        "baddbmm": lambda x, w, b: torch.baddbmm(b, x[:, None], w.expand(len(x), 4, 3)),
    }
    found = {
        "linear": (nn.Linear(4, 3), (4,)),
        "linear without bias": (nn.Linear(4, 3, bias=False), (4,)),
        "linear over places": (nn.Linear(4, 3), (2, 4)),
        "weight norm": (nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), (4,)),
        "conv1d": (nn.Conv1d(2, 3, 3, stride=2, padding=1), (2, 5)),
        "conv1d, padding by name": (nn.Conv1d(2, 2, 3, padding="same"), (2, 4)),
        "conv2d": (nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=1), (2, 4, 3)),
        "conv2d, groups and dilation": (nn.Conv2d(4, 4, 2, groups=2, dilation=2, padding=1), (4, 3, 3)),
        "depthwise conv2d": (nn.Conv2d(3, 3, 2, groups=3, bias=False), (3, 3, 3)),
        "conv3d": (nn.Conv3d(1, 2, 2, padding=(0, 1, 0)), (1, 3, 2, 2)),
        "conv_transpose1d": (nn.ConvTranspose1d(2, 3, 3, stride=2, padding=1, output_padding=1), (2, 3)),
        "conv_transpose2d": (nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2), (4, 2, 2)),
        "conv_transpose3d": (nn.ConvTranspose3d(1, 2, 2), (1, 2, 2, 2)),
        "aten convolution": (AtenConvolution(), (2, 4)),
    }
    found |= {name: (Spelled(spelling), (4,)) for name, spelling in spelled.items()}
    for layer, _ in found.values():
        layer.to(D)
    return found


class AtenConvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Conv1d(2, 2, 2)

    def forward(self, x):
        return torch.ops.aten.convolution.default(x, self.inner.weight, self.inner.bias, [1], [0], [1], False, [0], 1)


LAYERS = layers()
every_layer = pytest.mark.parametrize("layer", LAYERS)


def is_affine_layer(op):
    return op.name in relevance.WITH_WEIGHTS


def arriving(layer, x):
    """The relevance that `summed` gives the outputs of a layer: their parts in the score, `(rows, outputs)`."""
    with torch.no_grad():
        y = layer(x).flatten(1)
    torch.manual_seed(7)
    return y * torch.randn(y.shape[1], dtype=D)


def slow(formula, layer, x, r):
    """A formula for every example by itself."""
    rows = []
    for row, relevances in zip(x, r, strict=True):
        w, b = dense(layer, row)
        rows.append(formula(w.tolist(), b.tolist(), row.flatten().tolist(), relevances.flatten().tolist()).view(row.shape))
    return torch.stack(rows)


@every_layer
@every_rule
def test_a_rule_is_its_formula_on_the_layers_matrix(rule, layer):
    (rule, formula), (layer, shape) = RULES[rule], LAYERS[layer]
    x = rand(2, *shape)
    found = lrp(at_input(summed(layer), x), [(is_affine_layer, rule)], TINY).values[0][0]
    close(found, slow(formula, layer, x, arriving(layer, x)))


@every_layer
def test_gamma_of_positive_inputs_is_montavons(layer):
    layer, shape = LAYERS[layer]
    x, net = rand(2, *shape).abs(), nn.Sequential(layer, nn.ReLU())
    found = lrp(at_input(summed(net), x), [(is_affine_layer, relevance.gamma(0.25, TINY))], TINY).values[0][0]
    close(found, slow(gamma_of_positive, layer, x, arriving(net, x)))


@pytest.mark.parametrize("layer", ["linear", "conv2d", "conv_transpose2d", "conv2d, groups and dilation"])
@pytest.mark.parametrize("kind", ["per place", "per channel", "per batch of one"])
def test_z_box_takes_bounds_of_any_shape_that_spreads(layer, kind):
    layer, shape = LAYERS[layer]
    x = rand(2, *shape)
    size = {"per place": shape, "per channel": (shape[0], *(1,) * (len(shape) - 1)), "per batch of one": (1, *shape)}[kind]
    low, high = -3 - torch.rand(size, dtype=D), 3 + torch.rand(size, dtype=D)
    found = lrp(at_input(summed(layer), x), [(is_affine_layer, relevance.z_box(low, high, TINY))], TINY).values[0][0]
    wide = [bound.expand(1, *shape)[0] for bound in (low, high)]
    close(found, slow(lambda *a: z_box(*a, *wide), layer, x, arriving(layer, x)))


def test_the_identity_rule_passes_relevance_on_as_it_is():
    layer, x = nn.Linear(4, 4).to(D), rand(2, 4)
    found = lrp(at_input(summed(layer), x), [(layer, relevance.passed)], TINY).values[0][0]
    close(found, arriving(layer, x))


def test_the_identity_rule_refuses_a_layer_that_changes_the_shape():
    layer = nn.Linear(4, 3).to(D)
    with pytest.raises(OptionError, match="identity rule"):
        lrp(at_input(summed(layer), rand(2, 4)), [(layer, relevance.passed)])


@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 2.0), (0.5, -0.5), (1.0, 1.0)])
def test_alpha_less_beta_must_be_one(alpha, beta):
    with pytest.raises(OptionError, match="conserved"):
        relevance.alpha_beta(alpha, beta)


@pytest.mark.parametrize("eps", [1e-9, 0.1, 3.0])
def test_epsilon_moves_the_denominator_away_from_zero(eps):
    layer, x = LAYERS["linear"][0], rand(5, 4)
    w, b, r = layer.weight.detach(), layer.bias.detach(), arriving(layer, x)
    found = lrp(at_input(summed(layer), x), [(layer, relevance.epsilon(eps))], TINY).values[0][0]
    for row in range(5):
        z = w @ x[row] + b
        close(
            found[row], torch.stack([sum(x[row, i] * w[j, i] * r[row, j] / (z[j] + eps * z[j].sign()) for j in range(3)) for i in range(4)])
        )


# --- LRP: networks, one layer at a time


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return x + self.conv(x)


def max_pool_back(layer, x, r):
    """All to the largest element of each window, found in a loop."""
    found, y = torch.zeros_like(x), layer(x)
    size, stride = layer.kernel_size, layer.stride
    for n, c, i, j in [
        (n, c, i, j) for n in range(y.shape[0]) for c in range(y.shape[1]) for i in range(y.shape[2]) for j in range(y.shape[3])
    ]:
        window = x[n, c, i * stride : i * stride + size, j * stride : j * stride + size]
        a, b = divmod(int(window.argmax()), window.shape[1])
        found[n, c, i * stride + a, j * stride + b] += r[n, c, i, j]
    return found


def formula_of(layer, formulas):
    return formulas.get(layer) or formulas.get(type(layer), epsilon)


def propagated(net, x, formulas):
    """Relevance through a sequence of layers, from the outputs in `summed`'s proportions down to x."""
    points = [x]
    with torch.no_grad():
        for layer in net:
            points.append(layer(points[-1]))
    r = arriving(lambda y: y, points[-1]).view(points[-1].shape)
    for layer, point in zip(reversed(net), reversed(points[:-1]), strict=True):
        if isinstance(layer, nn.MaxPool2d):
            r = max_pool_back(layer, point, r)
        elif isinstance(layer, Residual):
            with torch.no_grad():
                branch = layer.conv(point)
            whole = point + branch
            r = point / whole * r + slow(formula_of(layer.conv, formulas), layer.conv, point, branch / whole * r)
        elif not isinstance(layer, nn.ReLU | nn.Tanh | nn.Flatten):
            r = slow(formula_of(layer, formulas), layer, point, r)
        r = r.view(point.shape)
    return r


def batch_norm(channels):
    norm = nn.BatchNorm2d(channels).to(D).eval()
    for values in (norm.running_mean, norm.weight.data, norm.bias.data):
        values.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm


def networks():
    torch.manual_seed(5)
    found = {
        "mlp": (nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)), (5,)),
        "max pooling": (
            nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.MaxPool2d(3, 1), nn.Conv2d(2, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(2, 3)),
            (1, 5, 5),
        ),
        "average pooling": (
            nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)),
            (1, 5, 5),
        ),
        "batch norm": (nn.Sequential(nn.Conv2d(1, 2, 2), batch_norm(2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3)), (1, 4, 4)),
        "residual": (nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), Residual(), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)), (1, 3, 3)),
    }
    for net, _ in found.values():
        net.to(D).eval()
    return found


NETWORKS = networks()


@pytest.mark.parametrize("net", NETWORKS)
@pytest.mark.parametrize("composite", ["epsilon", "z_plus", "epsilon_plus", "gamma", "alpha2_beta1", "epsilon_alpha2_beta1"])
def test_a_network_is_propagated_layer_by_layer(net, composite):
    net, shape = NETWORKS[net]
    x = rand(2, *shape)
    formula = {"epsilon": epsilon, "gamma": gamma}.get(composite, alpha_beta if "alpha" in composite else z_plus)
    formulas = {nn.Conv2d: formula} if composite.startswith("epsilon") else {nn.Conv2d: formula, nn.Linear: formula}
    close(lrp(at_input(summed(net), x), composite).values[0][0], propagated(net, x, formulas), 1e-5)


def test_the_first_layer_may_have_a_rule_of_its_own():
    net, x = NETWORKS["residual"][0], rand(2, 1, 3, 3)
    points = [x]
    for layer in net:
        points.append(layer(points[-1]).detach())
    above = propagated(net[1:], points[1], {nn.Conv2d: z_plus})
    for composite, formula in (("epsilon_plus_flat", flat), ("epsilon_plus_w_square", w_square)):
        close(lrp(at_input(summed(net), x), composite).values[0][0], slow(formula, net[0], x, above), 1e-5)


# --- LRP: conservation


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.out = nn.Embedding(7, 4), nn.Linear(4, 3, bias=False)

    def forward(self, ids):
        return self.out(self.embedding(ids).relu().mean(1))


class Joined(nn.Module):
    """Sums, joins and means of branches, and a residual addition that is written as an operation in place."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(8, 2, bias=False)

    def forward(self, x):
        h = self.a(x).relu()
        h += x
        g = torch.stack([self.b(h), h, h - 2 * x]).mean(0)
        return self.out(torch.cat([h, g], 1)).logsumexp(1) if self.training else self.out(torch.cat([h, g], 1))


def pooled(pool, dims):
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    return nn.Sequential(conv(1, 3, 2, bias=False), nn.ReLU(), pool, nn.Flatten(), nn.LazyLinear(2, bias=False))


CONSERVING = {
    "relu": lambda x: x.relu(),
    "tanh": lambda x: x.tanh(),
    "gelu": F.gelu,
    "x * x": lambda x: x * x,
    "square": lambda x: x**2,
    "product of three": lambda x: x * x.tanh() * x.relu(),
    "product of halves": lambda x: x[:, :2] * x[:, 2:],
    "matmul of activations": lambda x: x[:, :, None] @ x.tanh()[:, None],
    "einsum of activations": lambda x: torch.einsum("bi,bj->bij", x, x.tanh()),
    "einsum of three": lambda x: torch.einsum("bi,bj,bk->bijk", x, x.tanh(), x.exp()),
    "bilinear": lambda x: F.bilinear(x, x.tanh(), torch.ones(3, 4, 4, dtype=D).tril()),
    "addition of a product": lambda x: torch.addmm(x, x, torch.ones(4, 4, dtype=D).tril()),
    "addition of a product of activations": lambda x: torch.baddbmm(x[:, :, None] * x[:, None], x[:, :, None], x.tanh()[:, None]),
    "quotient": lambda x: x / x.exp().sum(1, keepdim=True),
    "subtraction": lambda x: x - 3 * x.tanh(),
    "alpha": lambda x: torch.sub(x, x.exp(), alpha=0.3),
    "rsub": lambda x: torch.rsub(x, x.exp(), alpha=0.3),
    "negation": lambda x: -x,
    "layer norm": lambda x: F.layer_norm(x, (4,), torch.arange(1, 5, dtype=D)),
    "rms norm": lambda x: F.rms_norm(x, (4,), torch.arange(1, 5, dtype=D)),
    "group norm": lambda x: F.group_norm(x, 2, torch.arange(1, 5, dtype=D)),
    "instance norm": lambda x: F.instance_norm(x.view(-1, 2, 2), use_input_stats=True),
    "normalize": lambda x: F.normalize(x),
    "normalize by another norm": lambda x: F.normalize(x, p=3),
    "standardised by hand": lambda x: (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + 1e-5).sqrt(),
    "rms norm by hand": lambda x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True)),
    "gate": lambda x: x * (2 * x).sigmoid(),
    "gate of another shape": lambda x: x * x.mean(1, keepdim=True).sigmoid().expand(-1, 4),
    "glu": lambda x: F.glu(x),
    "silu": F.silu,
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "max": lambda x: x.max(1, keepdim=True).values,
    "amin": lambda x: x.amin(1, keepdim=True),
    "maximum": lambda x: torch.maximum(x, 2 * x),
    "interpolate": lambda x: F.interpolate(x[:, None], 7, mode="linear"),
    "cumsum": lambda x: x.cumsum(1),
    "index": lambda x: x[:, [0, 2, 2]],
    "setitem": lambda x: set_first(x),
    "nested sums": lambda x: torch.cat([x.sum(1, keepdim=True), x.mean(1, keepdim=True), x], 1),
}  # fmt: skip


def set_first(x):
    h = x * 2
    h[:, 0] = x[:, 1]
    return h


def conserved(net, *inputs, tolerance=1e-6, **options):
    found = lrp(at_input(net, inputs, **options))
    close(sum(v.flatten(2).sum(2) for v in found.values), found.scores, tolerance)


@pytest.mark.parametrize("name", CONSERVING)
def test_an_operation_without_addends_conserves_relevance_whatever_its_factors(name):
    conserved(summed(CONSERVING[name]), rand(4, 4) + 0.05)


def test_a_linear_operation_whose_weights_and_bias_come_from_the_input_conserves_relevance():
    conserved(summed(lambda x: F.linear(x, x.tanh(), x[:, 0])), rand(1, 4))


@pytest.mark.parametrize("name", CONSERVING)
def test_an_operation_between_layers_without_biases_conserves_relevance(name):
    first, op = nn.Linear(5, 4, bias=False).to(D), CONSERVING[name]
    conserved(summed(lambda x: op(first(x))), rand(4, 5))


POOLS = {
    "max1": (nn.MaxPool1d(2), 1),
    "max2, overlapping": (nn.MaxPool2d(3, 1, padding=1), 2),
    "max3": (nn.MaxPool3d(2), 3),
    "adaptive max1": (nn.AdaptiveMaxPool1d(2), 1),
    "adaptive max2": (nn.AdaptiveMaxPool2d(3), 2),
    "adaptive max3": (nn.AdaptiveMaxPool3d(2), 3),
    "average1": (nn.AvgPool1d(2), 1),
    "average2, padded": (nn.AvgPool2d(3, 2, padding=1), 2),
    "average2, divisor": (nn.AvgPool2d(2, divisor_override=3), 2),
    "average3": (nn.AvgPool3d(2), 3),
    "adaptive average1": (nn.AdaptiveAvgPool1d(2), 1),
    "adaptive average2": (nn.AdaptiveAvgPool2d((3, 1)), 2),
    "adaptive average3": (nn.AdaptiveAvgPool3d(2), 3),
    "lp1": (nn.LPPool1d(2, 2), 1),
    "lp2": (nn.LPPool2d(3, 2), 2),
}


@pytest.mark.parametrize("name", POOLS)
def test_every_pooling_conserves_relevance(name):
    pool, dims = POOLS[name]
    net, x = pooled(pool, dims).to(D), rand(3, 1, *(5,) * dims)
    net(x)
    conserved(net, x, target=1)


def test_branches_and_residual_additions_conserve_relevance():
    conserved(Joined().to(D).eval(), rand(4, 4), target=1)


def test_batch_norm_that_only_scales_conserves_relevance():
    norm = nn.BatchNorm1d(4).to(D).eval()
    norm.running_var.uniform_(0.5, 2)
    conserved(summed(nn.Sequential(nn.Linear(4, 4, bias=False), norm, nn.ReLU()).to(D)), rand(3, 4))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("both", [False, True])
def test_recurrent_networks_without_biases_that_start_from_zero_conserve_relevance(kind, both):
    net = kind(3, 4, 2, bias=False, batch_first=True, bidirectional=both).to(D)
    conserved(summed(lambda x: net(x)[0]), rand(3, 4, 3))


def test_embeddings_conserve_relevance():
    net, ids = Embedded().to(D), torch.tensor([[1, 2, 5], [0, 0, 6]])
    found = pellucid.explain(net, ids, 2, "lrp", layer="embedding")
    close(found.attribution.flatten(1).sum(1), net(ids)[:, 2].detach(), 1e-6)


def test_a_bias_takes_its_part_of_the_relevance():
    layer, x = nn.Linear(4, 1).to(D), rand(3, 4)
    found = lrp(at_input(layer, x, 0))
    close(found.values[0][0].sum(1), found.scores[0] - layer.bias.detach())


def hidden_in(kind, layer):
    inner = lambda x: layer(x)  # noqa: E731
    return {"function of a function": lambda x: inner(x), "dictionary": Holder({"a": [layer]}), "parameter alone": with_parameter(layer.w)}[
        kind
    ]


class Holder:
    def __init__(self, parts):
        self.parts = parts

    def __call__(self, x):
        return self.parts["a"][0](x)


def with_parameter(w):
    return lambda x: x @ w.t().contiguous().t()


@pytest.mark.parametrize("kind", ["function of a function", "dictionary", "parameter alone"])
def test_what_is_made_of_parameters_is_no_input_wherever_the_model_hides_them(kind):
    layer = Spelled(lambda x, w, b: x @ w.t().contiguous().t()).to(D)
    conserved(hidden_in(kind, layer), rand(3, 4), target=0)


# --- LRP: attention and normalisation, as AttnLRP has them


class Block(nn.Module):
    """One head of attention without biases; `how` it is spelled."""

    def __init__(self, how):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(4, 4, bias=False) for _ in range(4))
        self.how = how
        self.double()

    def forward(self, x):
        q, k, v = self.q(x), self.k(x), self.v(x)
        return self.o(SPELLED_ATTENTION[self.how](q, k, v))


SPELLED_ATTENTION = {
    "matmul": lambda q, k, v: torch.softmax(q @ k.transpose(1, 2) / 2, -1) @ v,
    "bmm": lambda q, k, v: torch.bmm(F.softmax(torch.bmm(q * 0.5, k.mT), 2), v),
    "einsum": lambda q, k, v: torch.einsum("bts,bsf->btf", torch.einsum("btf,bsf->bts", q, k).mul(0.5).softmax(dim=-1), v),
    "baddbmm": lambda q, k, v: torch.baddbmm(torch.zeros(1, 1, 1, dtype=D), q, k.mT, alpha=0.5).softmax(-1) @ v,
    "sdpa": F.scaled_dot_product_attention,
    "products and sums": lambda q, k, v: (((q[:, :, None] * k[:, None]).sum(3) / 2).softmax(2)[..., None] * v[:, None]).sum(2),
    "masked": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=torch.ones(3, 3, dtype=D).triu() - 1),
    "causal": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
}  # fmt: skip


def attention_back(block, x, r):
    """Relevance of one example's places through a `Block`: epsilon, uniform products, softmax, in loops over places and features."""
    q, k, v = (layer(x).detach() for layer in (block.q, block.k, block.v))
    logits = torch.tensor([[sum(q[t, f] * k[s, f] for f in range(4)) / 2 for s in range(3)] for t in range(3)], dtype=D)
    added = torch.zeros(3, 3, dtype=D)
    if block.how == "causal":
        added = torch.full((3, 3), -torch.inf, dtype=D).triu(1)
    if block.how == "masked":
        added = torch.ones(3, 3, dtype=D).triu() - 1
    chances = ((logits + added).exp().T / (logits + added).exp().sum(1)).T
    mixed = chances @ v
    of_mixed = torch.stack([slow(epsilon, block.o, m[None], o[None])[0] for m, o in zip(mixed, r, strict=True)])
    of_chances, of_v = torch.zeros(3, 3, dtype=D), torch.zeros(3, 4, dtype=D)
    for t, s, f in [(t, s, f) for t in range(3) for s in range(3) for f in range(4)]:
        part = chances[t, s] * v[s, f] / mixed[t, f] * of_mixed[t, f]
        of_chances[t, s] += part / 2
        of_v[s, f] += part / 2
    of_q, of_k = torch.zeros(3, 4, dtype=D), torch.zeros(3, 4, dtype=D)
    for t, s in [(t, s) for t in range(3) for s in range(3)]:
        if chances[t, s] == 0:
            continue
        z = logits[t, s] + added[t, s]
        of_sum = z * (of_chances[t, s] - chances[t, s] * sum(of_chances[t, j] for j in range(3)))
        of_logit = of_sum * logits[t, s] / z
        for f in range(4):
            part = q[t, f] * k[s, f] / 2 / logits[t, s] * of_logit
            of_q[t, f] += part / 2
            of_k[s, f] += part / 2
    pairs = ((block.q, of_q), (block.k, of_k), (block.v, of_v))
    return sum(torch.stack([slow(epsilon, layer, a[None], b[None])[0] for a, b in zip(x, of, strict=True)]) for layer, of in pairs)


@pytest.mark.parametrize("how", SPELLED_ATTENTION)
@pytest.mark.parametrize("method", [lrp, attn_lrp])
def test_attention_divides_relevance_by_the_propositions_of_attnlrp(how, method):
    block, x = Block(how), rand(2, 3, 4)
    found = method(at_input(summed(block), x), eps=TINY).values[0][0]
    r = arriving(block, x).view(2, 3, 4)
    close(found, torch.stack([attention_back(block, *pair) for pair in zip(x, r, strict=True)]), 1e-6)


def test_softmax_is_its_first_order_expansion():
    x, v = rand(3, 4), torch.arange(4, dtype=D)
    found = lrp(at_input(lambda x: x.softmax(1) @ v, x)).values[0][0]
    for row in range(3):
        s = [float(x[row, i].exp() / sum(x[row].exp())) for i in range(4)]
        r = [s[i] * i for i in range(4)]
        close(found[row], torch.tensor([float(x[row, i]) * (r[i] - s[i] * sum(r)) for i in range(4)], dtype=D))


@pytest.mark.parametrize(
    "op", [lambda a, b: a * b, torch.mul, lambda a, b: torch.einsum("bi,bi->bi", a, b), lambda a, b: a.clone().mul_(b)]
)
def test_the_factors_of_a_product_get_half_each(op):
    a, b = rand(2, 3), rand(2, 3)
    found = lrp(at_input(summed(op), (a, b))).values
    r = arriving(lambda x: x, a * b)
    for values in found:
        close(values[0], r / 2)


NORMS = {
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (5,), w, b, 1e-3), True, True, 1e-3),
    "layer norm without affine": (lambda x, w, b: F.layer_norm(x, (5,), eps=1e-3), False, True, 1e-3),
    "rms_norm": (lambda x, w, b: F.rms_norm(x, (5,), w, 1e-3), "no bias", False, 1e-3),
    "layer norm by hand": (
        lambda x, w, b: (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True, correction=0) + 1e-3) * w + b, True, True, 1e-3
    ),
    "rms norm by hand": (lambda x, w, b: w * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3)), "no bias", False, 1e-3),
    "rms norm by division": (lambda x, w, b: w * x / (x.square().mean(-1, keepdim=True) + 1e-3) ** 0.5, "no bias", False, 1e-3),
    "group_norm": (lambda x, w, b: F.group_norm(x, 1, w, b, 1e-3), True, True, 1e-3),
}  # fmt: skip


@pytest.mark.parametrize("name", NORMS)
def test_normalisation_is_linear_with_its_variance_held(name):
    op, affine, centred, eps = NORMS[name]
    x, w, b = rand(3, 5), rand(5), rand(5)
    found = lrp(at_input(summed(lambda x: op(x, w, b)), x)).values[0][0]
    r = arriving(lambda x: op(x, w, b), x)
    w, b = (w if affine else torch.ones(5, dtype=D)), (b if affine is True else torch.zeros(5, dtype=D))
    for row in range(3):
        mean = x[row].mean() if centred else 0.0
        scale = ((x[row] - mean).square().mean() + eps).sqrt()
        matrix = [[float(w[j] / scale) * ((i == j) - centred / 5) for i in range(5)] for j in range(5)]
        close(found[row], epsilon(matrix, b.tolist(), x[row].tolist(), r[row].tolist()), 1e-6)


# --- LRP: gates


def by_hand(lstm, x):
    """Relevance of the last state of an LSTM for one example: a signal takes all that passes its gate, sums share by contribution."""
    w, u, b = (getattr(lstm, name).detach() for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0"))
    b = b + lstm.bias_hh_l0.detach()
    h, c, seen = [torch.zeros(2, dtype=D)], [torch.zeros(2, dtype=D)], []
    for t in range(2):
        i, f, g, o = (w @ x[t] + u @ h[t] + b).chunk(4)
        seen.append((f.sigmoid() * c[t], i.sigmoid() * g.tanh(), g))
        c.append(seen[t][0] + seen[t][1])
        h.append(o.sigmoid() * c[-1].tanh())
    torch.manual_seed(7)
    of_h, of_c, found = h[2] * torch.randn(2, dtype=D), torch.zeros(2, dtype=D), torch.zeros_like(x)
    for t in (1, 0):
        kept, new, g = seen[t]
        of_c = of_c + of_h
        of_g = of_c * new / c[t + 1]
        of_c, of_h = of_c * kept / c[t + 1], torch.zeros(2, dtype=D)
        for unit in range(2):
            row = 4 + unit
            for i in range(x.shape[1]):
                found[t, i] += w[row, i] * x[t, i] / g[unit] * of_g[unit]
            for i in range(2):
                of_h[i] += u[row, i] * h[t][i] / g[unit] * of_g[unit]
    return found


class Cells(nn.Module):
    """An LSTM written with another's weights."""

    def __init__(self, lstm, how):
        super().__init__()
        self.lstm, self.how = lstm, how
        self.cell = nn.LSTMCell(3, 2).to(D)
        self.cell.load_state_dict({name.removesuffix("_l0"): value for name, value in lstm.state_dict().items()})

    def forward(self, x):
        if self.how == "module":
            return self.lstm(x)[1][0][0]
        h = c = x.new_zeros(len(x), 2)
        for t in range(x.shape[1]):
            h, c = self.cell(x[:, t], (h, c)) if self.how == "cells" else self.step(x[:, t], h, c)
        return h

    def step(self, x, h, c):
        cell = self.cell
        i, f, g, o = (F.linear(x, cell.weight_ih, cell.bias_ih) + F.linear(h, cell.weight_hh, cell.bias_hh)).chunk(4, 1)
        c = torch.sigmoid(f) * c + i.sigmoid() * torch.tanh(g)
        return torch.sigmoid(o) * c.tanh(), c


@pytest.mark.parametrize("how", ["module", "cells", "operations"])
def test_in_an_lstm_signals_take_all_and_gates_nothing(how):
    net, x = Cells(nn.LSTM(3, 2, batch_first=True).to(D), how), rand(3, 2, 3)
    found = lrp(at_input(summed(net), x), eps=TINY).values[0][0]
    close(found, torch.stack([by_hand(net.lstm, row) for row in x]), 1e-6)


@pytest.mark.parametrize("gate", [torch.sigmoid, F.hardsigmoid, lambda g: g.sigmoid()[:, :, None].squeeze(2), lambda g: 1 - g.sigmoid()])
def test_what_comes_out_of_a_sigmoid_is_a_gate(gate):
    a, b = rand(2, 3), rand(2, 3)
    signal, opener = lrp(at_input(summed(lambda a, b: a * gate(b)), (a, b))).values
    close(signal[0], arriving(lambda x: x, a * gate(b)))
    assert not opener.any()


# --- composites


def two_part_net():
    features = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Conv2d(2, 2, 2), nn.ReLU())
    return nn.Sequential(OrderedDict(features=features, flat=nn.Flatten(), head=nn.Linear(8, 3))).to(D)


PATTERNS = {
    "a module": (lambda net: [(net.features[2], relevance.z_plus())], ["features.2"]),
    "a class": (lambda net: [(nn.Conv2d, relevance.z_plus())], ["features.0", "features.2"]),
    "a base class": (lambda net: [(nn.modules.conv._ConvNd, relevance.z_plus())], ["features.0", "features.2"]),
    "names with a star": (lambda net: [("features.*", relevance.z_plus())], ["features.0", "features.2"]),
    "a name": (lambda net: [("head", relevance.z_plus())], ["head"]),
    "an operation": (lambda net: [("linear", relevance.z_plus())], ["head"]),
    "operations with a star": (lambda net: [("conv*", relevance.z_plus())], ["features.0", "features.2"]),
    "first": (lambda net: [("first", relevance.z_plus())], ["features.0"]),
    "a function": (lambda net: [(lambda op: op.output.dim() == 4, relevance.z_plus())], ["features.0", "features.2"]),
    "the first that fits": (
        lambda net: [(net.features[0], relevance.epsilon()), ("conv*", relevance.z_plus()), (nn.Conv2d, relevance.flat())], ["features.2"]
    ),
    "what fits nothing": (lambda net: [("conv1d", relevance.z_plus()), (nn.LSTM, relevance.z_plus())], []),
}  # fmt: skip


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_chooses_the_layers_that_it_says(name):
    (pairs, chosen), net, x = PATTERNS[name], two_part_net(), rand(2, 1, 4, 4)
    formulas = {net.get_submodule(path): z_plus for path in chosen}
    sequence = nn.Sequential(*net.features, net.flat, net.head)
    close(lrp(at_input(summed(net), x), pairs(net)).values[0][0], propagated(sequence, x, formulas), 1e-6)


def test_first_is_the_first_layer_of_each_input():
    a, b, last = nn.Linear(3, 4).to(D), nn.Linear(2, 4).to(D), nn.Linear(4, 2).to(D)
    net = lambda x, y: last(a(x).tanh() + b(y).tanh())  # noqa: E731
    x, y = rand(2, 3), rand(2, 2)
    found = lrp(at_input(summed(net), (x, y)), [("first", relevance.flat())]).values
    with torch.no_grad():
        parts = a(x).tanh(), b(y).tanh()
    of_sum = slow(epsilon, last, sum(parts), arriving(last, sum(parts)))
    for values, layer, point, part in zip(found, (a, b), (x, y), parts, strict=True):
        close(values[0], slow(flat, layer, point, of_sum * part / sum(parts)), 1e-6)


def test_first_is_no_layer_that_another_branch_comes_before():
    a, b = nn.Linear(3, 3).to(D), nn.Linear(3, 3).to(D)
    x = rand(2, 3)
    point = (x + a(x)).detach()
    r = slow(epsilon, b, point, arriving(b, point))
    expected = r * x / point + slow(flat, a, x, r * a(x).detach() / point)
    close(lrp(at_input(summed(lambda x: b(x + a(x))), x), [("first", relevance.flat())]).values[0][0], expected, 1e-6)


def test_a_layer_that_runs_twice_has_its_rule_twice():
    layer, x = nn.Linear(3, 3).to(D), rand(2, 3)
    middle = layer(x).detach().relu()
    expected = slow(z_plus, layer, x, slow(z_plus, layer, middle, arriving(layer, middle)))
    net = nn.Sequential(layer, nn.ReLU(), layer)
    close(lrp(at_input(summed(net), x), [(layer, relevance.z_plus())]).values[0][0], expected, 1e-6)


def test_an_unknown_composite_names_the_composites():
    net = nn.Linear(3, 2)
    with pytest.raises(OptionError, match="epsilon_plus_flat") as error:
        pellucid.explain(net, torch.randn(2, 3), 0, "lrp", composite="epsilon_flat_plus")
    assert all(name in str(error.value) for name in COMPOSITES)


@pytest.mark.parametrize("wrong", [["conv*"], [("conv*",)], [("conv*", "z_plus")], [["conv*", relevance.z_plus()]]])
def test_a_composite_that_is_no_pairs_is_refused(wrong):
    with pytest.raises(OptionError, match="pairs"):
        pellucid.explain(nn.Linear(3, 2), torch.randn(2, 3), 0, "lrp", composite=wrong)


@pytest.mark.parametrize("composite", COMPOSITES)
def test_every_composite_conserves_relevance_where_every_unit_has_positive_parts(composite):
    net = nn.Sequential(nn.Conv2d(1, 3, 2, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3, bias=False)).to(D)
    for p in net.parameters():
        p.data.abs_()
    x = torch.rand(2, 1, 5, 5, dtype=D)
    found = pellucid.explain(net, x, 1, "lrp", composite=composite)
    kept = found.attribution.flatten(1).sum(1) / net(x)[:, 1].detach()
    close(kept, torch.full((2,), {"alpha2_beta1": 4.0, "epsilon_alpha2_beta1": 2.0}.get(composite, 1.0), dtype=D), 1e-6)


# --- DeepLIFT: every operation, however it is spelled


def complete(net, inputs, baselines, tolerance=1e-10):
    """Summation to delta of every example, and the score of the model itself."""
    found = deeplift(at_input(net, inputs), baselines)
    with torch.no_grad():
        here, there = net(*inputs), net(*baselines)
    close(found.scores[0], here, 1e-12)
    change = here - there
    gap = sum(v[0].flatten(1).sum(1) for v in found.values) - change
    assert (gap.abs() <= tolerance * change.abs() + 1e-13 * (1 + here.abs() + there.abs())).all(), (gap, change)
    return found


# What the operation takes after its input, and the points that it is asked at.
TAKES = {
    "leaky_relu": (0.2,), "prelu": (torch.tensor([0.3], dtype=D),), "threshold": (0.1, 0.5), "clamp": (-0.5, 0.7), "hardshrink": (0.4,),
    "clip": (-0.5, 0.7), "clamp_min": (0.2,), "clamp_max": (0.2,), "pow": (2,), "float_power": (3,), "softmax": (1,), "log_softmax": (1,),
    "logsumexp": (1,), "softmin": (1,), "hardtanh": (-0.8, 0.6), "elu": (0.7,),
}  # fmt: skip
POSITIVE = {"log", "log2", "log10", "digamma", "lgamma", "sqrt", "rsqrt"}
INSIDE_ONE = {"asin", "acos", "log1p", "tan", "arcsin", "arccos"}
NAMES = [
    "relu", "relu6", "leaky_relu", "prelu", "rrelu", "hardtanh", "hardsigmoid", "threshold", "abs", "absolute", "clamp", "clip",
    "clamp_min", "clamp_max", "hardshrink", "softshrink", "elu", "selu", "celu", "gelu", "silu", "mish", "sigmoid", "expit",
    "logsigmoid", "log_sigmoid", "tanh", "softplus", "hardswish", "exp", "expm1", "exp2", "erf", "erfc", "sin", "cos", "tan", "sinh",
    "cosh", "atan", "asinh", "softsign", "tanhshrink", "asin", "acos", "arcsin", "arccos", "arctan", "arcsinh", "log", "log1p",
    "log2", "log10", "digamma", "lgamma", "pow", "float_power", "square", "sqrt", "rsqrt", "reciprocal", "softmax", "log_softmax",
    "logsumexp", "softmin",
]  # fmt: skip
MODULES = {
    "relu": nn.ReLU(), "relu6": nn.ReLU6(), "leaky_relu": nn.LeakyReLU(0.3), "prelu": nn.PReLU(dtype=D), "rrelu": nn.RReLU().eval(),
    "hardtanh": nn.Hardtanh(), "hardsigmoid": nn.Hardsigmoid(), "threshold": nn.Threshold(0.1, -0.3), "hardshrink": nn.Hardshrink(),
    "softshrink": nn.Softshrink(), "elu": nn.ELU(), "selu": nn.SELU(), "celu": nn.CELU(0.5), "gelu": nn.GELU("tanh"), "silu": nn.SiLU(),
    "mish": nn.Mish(), "sigmoid": nn.Sigmoid(), "logsigmoid": nn.LogSigmoid(), "tanh": nn.Tanh(), "softplus": nn.Softplus(2.0, 5.0),
    "hardswish": nn.Hardswish(), "softsign": nn.Softsign(), "tanhshrink": nn.Tanhshrink(), "softmax": nn.Softmax(1),
    "log_softmax": nn.LogSoftmax(1), "softmin": nn.Softmin(1),
}  # fmt: skip
MORE = {
    "rpow": lambda x: 2**x,
    "Tensor.__rpow__": lambda x: x.__rpow__(0.5),
    "torch.pow of a number": lambda x: torch.pow(2.0, x),
    "cube": lambda x: x**3,
    "fourth power": lambda x: x**4,
    "fifth power by tensor": lambda x: torch.pow(x, torch.tensor(5.0, dtype=D)),
    "in place power": lambda x: x.clone().pow_(2),
    "x ** 2 in place": lambda x: x.clone().__ipow__(2),
    "aten.pow": lambda x: torch.ops.aten.pow.Tensor_Scalar(x, 2),
    "aten._softmax": lambda x: torch.ops.aten._softmax.default(x, 1, False),
    "aten._log_softmax": lambda x: torch.ops.aten._log_softmax.default(x, 1, False),
    "softmax by keyword": lambda x: torch.softmax(input=x, dim=-1),
    "softmax of a dtype": lambda x: F.softmax(x, 1, dtype=torch.float64),
    "inplace keyword": lambda x: F.relu(x.clone(), inplace=True),
    "module in place": lambda x: nn.ReLU(inplace=True)(x.clone()),
    "clamp by tensors": lambda x: torch.clamp(x, torch.tensor(-0.5, dtype=D), torch.tensor(0.5, dtype=D)),
    "clamp from below": lambda x: x.clamp(min=0.1),
    "clamp from above": lambda x: x.clamp(max=0.1),
    "softplus, sharp": lambda x: F.softplus(x, 50.0),
    "silu by hand": lambda x: x * torch.sigmoid(x),
    "swish twice": lambda x: x.mul(x.sigmoid()).mul(torch.tanh(x)),
    "abs, twice bent": lambda x: (x.abs() - 0.5).abs(),
    "reciprocal by division": lambda x: 1 / (3.5 + x),
    "negative power": lambda x: (3.5 + x) ** -1.5,
    "__abs__": abs,
    "rdiv": lambda x: 2 / (x + 10),
    "div": lambda x: x / (x.exp() + 1),
    "div in place": lambda x: x.clone().div_(x.exp() + 1),
    "/=": lambda x: x.clone().__itruediv__(x.exp() + 1),
    "torch.div": lambda x: torch.true_divide(x, x.cosh()),
    "div by a number": lambda x: x / 3,
}  # fmt: skip


def called(op, rest, copied=False):
    return lambda x: op(x.clone() if copied else x, *rest)


def spellings():
    found = dict(MORE)
    for name in NAMES:
        rest, aten = TAKES.get(name, ()), getattr(torch.ops.aten, name, None)
        for owner in (F, torch, torch.Tensor, torch.special):
            if hasattr(owner, name):
                found[f"{owner.__name__}.{name}"] = called(getattr(owner, name), rest)
            if hasattr(owner, name + "_"):
                found[f"{owner.__name__}.{name}_"] = called(getattr(owner, name + "_"), rest, copied=True)
        if aten is not None and "default" in aten.overloads():
            found[f"aten.{name}"] = called(aten.default, rest)
        if name in MODULES:
            found[f"nn {name}"] = MODULES[name]
    without_gradient = ("Tensor.float_power_", "torch.asinh_", "Tensor.asinh_", "torch.arcsinh_", "Tensor.arcsinh_")
    return {name: op for name, op in found.items() if name not in without_gradient}


SPELLINGS = spellings()
every_spelling = pytest.mark.parametrize("spelling", SPELLINGS)


def pairs(x, far=None):
    """Points and baselines in one batch: far apart, at zero (nearly), near, nearly equal, and equal."""
    nearby = (
        [x * (1 - step) for step in (0.95, 0.3, 1e-4, 1e-6, 1e-9, 0.0)] if far is None else [x - s for s in (0.01, 1e-4, 1e-6, 1e-9, 0.0)]
    )
    found = [x.flip(0) if far is None else far, *nearby]
    return (torch.cat([x] * len(found)),), (torch.cat(found),)


def points(name, rows=4, places=6):
    base = name.split(".")[-1].rstrip("_").removeprefix("nn ")
    x = torch.rand(rows, places, dtype=D) * 4 - 2
    if base in INSIDE_ONE:
        return x * 0.45
    return x.abs() + 0.2 if base in POSITIVE else x


@every_spelling
def test_every_spelling_of_an_elementwise_operation_is_complete(spelling):
    op, x = SPELLINGS[spelling], points(spelling)
    complete(summed(op), *pairs(x, x.roll(1, 1)))
    complete(summed(op), (x,), (x[:1].expand_as(x),))


def test_an_operation_that_writes_into_another_tensor_is_complete():
    x, x0 = rand(3, 4), rand(3, 4)
    complete(summed(lambda x: torch.tanh(x, out=torch.empty_like(x)) * x), (x,), (x0,))


@every_spelling
def test_the_multiplier_of_nearly_equal_points_is_the_derivative(spelling):
    op, x = SPELLINGS[spelling], points(spelling)
    step = torch.tensor([[1e-5], [1e-7], [1e-9], [0.0]], dtype=D)
    found = deeplift(at_input(summed(op), x), (x - step,), multipliers).values[0][0]
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(summed(op)(leaf).sum(), leaf)
    assert ((found - slope).abs() <= (200 * step + 1e-7) * (1 + slope.abs())).all()


OF_SEVERAL_NUMBERS = ("softma", "softmi", "log_softmax", "logsumexp", "by hand", "swish", "div", "/=")


@pytest.mark.parametrize("spelling", [name for name in SPELLINGS if not any(part in name for part in OF_SEVERAL_NUMBERS)])
def test_the_multiplier_of_an_elementwise_operation_is_its_difference_quotient(spelling):
    op, x = SPELLINGS[spelling], points(spelling)
    x0 = x.roll(1, 1)
    found = deeplift(at_input(summed(op), x), (x0,), multipliers).values[0][0]
    torch.manual_seed(7)
    with torch.no_grad():
        close(found, torch.randn(6, dtype=D) * (op(x) - op(x0)) / (x - x0), 1e-9)


W, T, B3 = rand(4, 3), rand(2, 4, 4), rand(3)
HALVES = {
    "mul": lambda a, b: a * b,
    "torch.mul": torch.mul,
    "multiply": torch.multiply,
    "mul_": lambda a, b: a.clone().mul_(b),
    "*=": lambda a, b: a.clone().__imul__(b),
    "aten.mul": torch.ops.aten.mul.Tensor,
    "by broadcasting": lambda a, b: a[:, :, None] * b[:, None],
    "matmul": lambda a, b: a[:, :, None] @ b[:, None],
    "bmm": lambda a, b: torch.bmm(a[:, None], b[:, :, None]),
    "aten.bmm": lambda a, b: torch.ops.aten.bmm.default(a[:, None], b[:, :, None]),
    "rmatmul": lambda a, b: b[:, :, None].__rmatmul__(a[:, None]),
    "einsum": lambda a, b: torch.einsum("bi,bj->bij", a, b),
    "einsum of a list": lambda a, b: torch.einsum("bi,bi->bi", [a, b]),
    "einsum of three": lambda a, b: torch.einsum("bi,bi,bi->bi", a, b, a),
    "einsum of three different": lambda a, b: torch.einsum("bi,bj,bk->bijk", a, b, a.tanh()),
    "baddbmm": lambda a, b: torch.baddbmm(a[:, :, None] * b[:, None], a[:, :, None], b[:, None], beta=0.5, alpha=3),
    "baddbmm_": lambda a, b: (a[:, :, None] + b[:, None]).baddbmm_(a[:, :, None], b[:, None]),
    "bilinear": lambda a, b: F.bilinear(a, b, T),
    "nn.Bilinear": nn.Bilinear(4, 4, 3, dtype=D),
    "addcmul": lambda a, b: torch.addcmul(a, a, b, value=0.3),
    "addcdiv": lambda a, b: torch.addcdiv(a, a, b.exp(), value=0.3),
    "lerp": lambda a, b: torch.lerp(a, b, a.sigmoid()),
    "lerp by a number": lambda a, b: torch.lerp(a, b, 0.3),
    "div": lambda a, b: a / b.exp(),
    "pow": lambda a, b: a.exp() ** b,
    "atan2": torch.atan2,
    "hypot": torch.hypot,
    "logaddexp": torch.logaddexp,
    "maximum": torch.maximum,
    "fmax": torch.fmax,
    "torch.max": torch.max,
    "Tensor.max": lambda a, b: a.max(b),
    "minimum": torch.minimum,
    "fmin": torch.fmin,
    "torch.min": torch.min,
    "clamp by tensors": lambda a, b: a.clamp(b - 0.5, b + 0.5),
    "cross": lambda a, b: torch.cross(a[:, :3], b[:, 1:], 1),
    "cosine_similarity": lambda a, b: F.cosine_similarity(a, b)[:, None],
    "pairwise_distance": lambda a, b: F.pairwise_distance(a, b)[:, None],
    "cdist": lambda a, b: torch.cdist(a[:, :, None], b[:, :, None]),
    "mse": lambda a, b: F.mse_loss(a, b, reduction="none"),
    "smooth_l1": lambda a, b: F.smooth_l1_loss(a, b, reduction="none"),
    "kl_div": lambda a, b: F.kl_div(a, b.softmax(1), reduction="none"),
    "bce": lambda a, b: F.binary_cross_entropy_with_logits(a, b.sigmoid(), reduction="none"),
    "addition": lambda a, b: torch.add(a, b.tanh(), alpha=2) - torch.sub(b, a, alpha=0.5) + torch.rsub(a, b),
    "glu": lambda a, b: F.glu(torch.cat([a, b], 1), 1),
    "nn.GLU": lambda a, b: nn.GLU(1)(torch.cat([a, b], 1)),
    "where": lambda a, b: torch.where(a > b, a, 2 * b),
    "where of one": lambda a, b: torch.where(a > 0, a.tanh(), 0.1 * a) * b,
    "where of numbers": lambda a, b: torch.where(a > 0, a, 0.0) + torch.where(b < 0.5, 2.0, b),
    "Tensor.where": lambda a, b: a.where(a > b, b.exp()),
    "aten.where": lambda a, b: torch.ops.aten.where.self(a > b, a, b),
    "where with a fixed condition": lambda a, b: torch.where(torch.tensor([True, False, True, False]), a, b),
    "where that broadcasts": lambda a, b: torch.where((a > 0)[:, :, None], a[:, :, None], b[:, None]),
    "masked_fill": lambda a, b: a.masked_fill(a < 0.1, 0.3) + b,
    "masked_fill_": lambda a, b: a.clone().masked_fill_(a < 0, -1.0) + b,
    "masked_fill by a tensor": lambda a, b: torch.masked_fill(a, a < 0, torch.tensor(0.5, dtype=D)) * b,
    "masked attention": lambda a, b: (
        (a[:, :, None] * b[:, None]).masked_fill(torch.ones(4, 4).triu(1).bool(), -torch.inf).softmax(2) @ b[:, :, None]
    ),
    "a mask set by index": lambda a, b: set_where(a, a < 0) * b,
    "a mask as a factor": lambda a, b: a * (a > 0) + b * (b > 0).to(b),
}  # fmt: skip


def set_where(x, mask):
    h = x.clone()
    h[mask] = 0.0
    return h


@pytest.mark.parametrize("name", HALVES)
def test_every_operation_of_two_tensors_is_complete(name):
    op, (a, a0), (b, b0) = HALVES[name], *((x[0], x0[0]) for x, x0 in (pairs(rand(4, 4)), pairs(rand(4, 4))))
    complete(summed(op), (a, b), (a0, b0))
    complete(summed(op), (a, b), (a[:1].expand_as(a), b[:1].expand_as(b)))
    complete(summed(op), (a, b), (a, b0))


def test_a_product_of_three_is_complete():
    complete(summed(lambda a, b: F.bilinear(a, b, T * a.mean())), (rand(1, 4), rand(1, 4)), (rand(1, 4), rand(1, 4)))


def test_a_kink_at_the_very_end_of_the_way_is_complete():
    x, x0, low = (torch.full((1, 1), value, dtype=D) for value in (0.02, -1.0, 0.0))
    complete(lambda x, low: x.clamp(low, low + 1)[:, 0], (x, low), (x0, low))


SINGLE = {
    "addmm": lambda x: torch.addmm(x, x, x.tanh()),
    "addmm with weights": lambda x: torch.addmm(B3, x, W),
    "addmm_": lambda x: x.clone().addmm_(x, x.exp(), beta=2, alpha=0.5),
    "mm": lambda x: torch.mm(x, x.exp()),
    "addbmm": lambda x: torch.addbmm(x, x[None], x.tanh()[None]),
    "addmv": lambda x: torch.addmv(x[0], x, x[1])[None],
    "mv": lambda x: torch.mv(x, x[1])[None],
    "dot": lambda x: torch.dot(x[0], x[1])[None, None],
    "addr": lambda x: torch.addr(x, x[0], x[1]),
    "outer": lambda x: torch.outer(x[0], x[1]),
    "ger": lambda x: torch.ger(x[0], x[1]),
    "tensordot": lambda x: torch.tensordot(x, x.exp(), 1),
    "inner": lambda x: torch.inner(x, x.tanh()),
    "linear": lambda x: F.linear(x, x.tanh(), x[0]),
    "aten.linear": lambda x: torch.ops.aten.linear.default(x, x.tanh()),
    "multi_dot": lambda x: torch.linalg.multi_dot([x, x.tanh(), x.exp()]),
    "chained matmul": lambda x: x @ x.tanh() @ x.T,
    "kron": lambda x: torch.kron(x, x.tanh()),
    "conv1d": lambda x: F.conv1d(x[None], x[:, :, None].tanh()),
    "conv2d": lambda x: F.conv2d(x[None, None], x[None, None, :2, :2], x[0, :1], padding=1),
    "conv3d": lambda x: F.conv3d(x[None, None, None], x[None, None, None, :2, :2]),
    "conv_transpose1d": lambda x: F.conv_transpose1d(x[None], x[:, :2, None]),
    "conv_transpose2d": lambda x: F.conv_transpose2d(x[None, None], x[None, None, :2, :2], stride=2),
    "conv_transpose3d": lambda x: F.conv_transpose3d(x[None, None, None], x[None, None, None, :2, :2]),
    "convolution": lambda x: torch.convolution(x[None], x[:, :, None].tanh(), None, [1], [0], [1], False, [0], 1),
    "embedding_bag": lambda x: F.embedding_bag(torch.tensor([[0, 1], [2, 2]]), x),
    "embedding_bag, weighted": lambda x: F.embedding_bag(torch.tensor([[0, 1], [2, 3]]), x, per_sample_weights=x[:2, :2], mode="sum"),
    "det": lambda x: torch.linalg.det(x)[None, None],
    "inverse": lambda x: torch.linalg.inv(x + 9 * torch.eye(4, dtype=D)),
    "matrix_exp": lambda x: torch.matrix_exp(x),
    "max of all": lambda x: x.max()[None, None],
    "min of all": lambda x: torch.min(x)[None, None],
    "amax of all": lambda x: x.amax()[None, None],
    "logsumexp of all": lambda x: x.logsumexp((0, 1))[None, None],
}  # fmt: skip


def as_one(op):
    """An operation without a dimension of examples, as a model of a single one."""
    return summed(lambda x: op(x[0])[None])


@pytest.mark.parametrize("name", SINGLE)
def test_every_operation_on_matrices_is_complete(name):
    x = rand(1, 4, 4)
    for x0 in (x.flip(1), x * 0, x * 0.7, x * (1 - 1e-4), x * (1 - 1e-9), x):
        complete(as_one(SINGLE[name]), (x,), (x0,))


ALONG = {
    "max": lambda x: x.max(1).values,
    "max by keyword": lambda x: torch.max(input=x, dim=-1, keepdim=True)[0],
    "min": lambda x: torch.min(x, 1)[0],
    "amax": lambda x: x.amax(1),
    "amax of two": lambda x: torch.amax(x.unflatten(1, (2, -1)), (1, 2), keepdim=True),
    "amin": lambda x: torch.amin(x, -1),
    "aminmax": lambda x: torch.stack(torch.aminmax(x, dim=1), 1),
    "aten.amax": lambda x: torch.ops.aten.amax.default(x, [1]),
    "aten.max": lambda x: torch.ops.aten.max.dim(x, 1)[0],
    "topk": lambda x: x.topk(3, 1).values,
    "sort": lambda x: x.sort(1).values,
    "median": lambda x: x.median(1).values,
    "kthvalue": lambda x: x.kthvalue(2, 1).values,
    "cummax": lambda x: x.cummax(1).values,
    "prod": lambda x: x.prod(1),
    "cumprod": lambda x: x.cumprod(1),
    "cumsum": lambda x: x.cumsum(1),
    "logcumsumexp": lambda x: x.logcumsumexp(1),
    "logsumexp": lambda x: x.logsumexp(1),
    "logsumexp, kept": lambda x: torch.logsumexp(x.unflatten(1, (2, 4)), (1, 2), keepdim=True),
    "norm": lambda x: x.norm(dim=1),
    "vector_norm": lambda x: torch.linalg.vector_norm(x, 3, 1),
    "std": lambda x: x.std(1),
    "var": lambda x: x.var(1),
    "var_mean": lambda x: torch.stack(torch.var_mean(x, 1), 1),
    "softmax of places": lambda x: x.unflatten(1, (2, 4)).softmax(1),
    "masked softmax": lambda x: (x + torch.tensor([0, 0, -torch.inf, 0, -torch.inf, 0, 0, 0])).softmax(1),
    "softmax of one": lambda x: (x[:, :1] + x[:, 1:]).unsqueeze(2).softmax(2) * x[:, 1:, None],
    "large softmax": lambda x: (x * 300).softmax(1),
    "large log_softmax": lambda x: (x * 300).log_softmax(1),
    "cross_entropy": lambda x: F.cross_entropy(x, torch.zeros(len(x), dtype=torch.long), reduction="none"),
    "softmin": lambda x: F.softmin(x, 1),
    "sinc": lambda x: torch.sinc(x),
    "fmod": lambda x: torch.fmod(x, 0.7),
    "remainder": lambda x: x % 0.7,
    "frac": lambda x: x.frac(),
    "round": lambda x: x.round() * x,
    "xlogy": lambda x: torch.xlogy(x, x.exp()),
    "erfinv": lambda x: torch.erfinv(x.tanh() * 0.9),
    "logit": lambda x: torch.logit(x.sigmoid()),
    "entr": lambda x: torch.special.entr(x.exp()),
    "ndtr": lambda x: torch.special.ndtr(x),
    "log_ndtr": lambda x: torch.special.log_ndtr(x),
    "i0": lambda x: torch.i0(x),
    "polygamma": lambda x: torch.polygamma(1, x.exp() + 0.5),
    "layer_norm": lambda x: F.layer_norm(x, (8,), torch.arange(8, dtype=D), torch.ones(8, dtype=D)),
    "layer_norm of two": lambda x: F.layer_norm(x.unflatten(1, (2, 4)), (2, 4)),
    "nn.LayerNorm": nn.LayerNorm(8, dtype=D),
    "torch.layer_norm": lambda x: torch.layer_norm(x, (8,)),
    "native_layer_norm": lambda x: torch.native_layer_norm(x, (8,), None, None, 1e-5)[0],
    "rms_norm": lambda x: F.rms_norm(x, (8,)),
    "nn.RMSNorm": nn.RMSNorm(8, dtype=D),
    "group_norm": lambda x: F.group_norm(x, 2),
    "nn.GroupNorm": nn.GroupNorm(2, 8, dtype=D),
    "instance_norm": lambda x: F.instance_norm(x.unflatten(1, (2, 4))),
    "nn.InstanceNorm1d": lambda x: nn.InstanceNorm1d(2, affine=True, dtype=D)(x.unflatten(1, (2, 4))),
    "nn.InstanceNorm1d, tracking": lambda x: nn.InstanceNorm1d(2, track_running_stats=True, dtype=D).eval()(x.unflatten(1, (2, 4))),
    "batch_norm": nn.BatchNorm1d(8, dtype=D).eval(),
    "local_response_norm": lambda x: F.local_response_norm(x[:, :, None], 3),
    "normalize": lambda x: F.normalize(x),
    "normalize along another dimension": lambda x: F.normalize(x.unflatten(1, (2, 4)), dim=-1, p=1),
    "lp_pool1d": lambda x: F.lp_pool1d(x[:, None], 2, 2),
    "avg_pool1d": lambda x: F.avg_pool1d(x[:, None], 3, 2, padding=1, count_include_pad=False),
    "interpolate": lambda x: F.interpolate(x[:, None], 5, mode="linear"),
    "attention": lambda x: F.scaled_dot_product_attention(x.view(-1, 4, 2), x.view(-1, 4, 2).tanh(), x.view(-1, 4, 2).exp()),
    "causal attention": lambda x: F.scaled_dot_product_attention(*(x.view(-1, 4, 2),) * 3, is_causal=True, scale=2.0),
    "attention with a mask": lambda x: F.scaled_dot_product_attention(
        *(x.view(-1, 4, 2),) * 3, attn_mask=torch.tensor([[1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
    ),
    "attention of grouped queries": lambda x: F.scaled_dot_product_attention(
        x.view(-1, 4, 1, 2).repeat(1, 1, 3, 1), *(x.view(-1, 4, 1, 2)[:, :2].repeat(1, 1, 3, 1).cumsum(2),) * 2, enable_gqa=True
    ),
    "attention by aten": lambda x: torch.ops.aten._scaled_dot_product_attention_math.default(*(x.view(-1, 4, 2),) * 3)[0],
}  # fmt: skip


@pytest.mark.parametrize("name", ALONG)
def test_every_operation_along_a_dimension_is_complete(name):
    x = rand(4, 8)
    complete(summed(ALONG[name]), *pairs(x))
    complete(summed(ALONG[name]), (x,), (x[:1].expand_as(x),))


RECURRENT = {
    "rnn_tanh": nn.RNN(3, 4, 2, batch_first=True, bidirectional=True),
    "rnn_relu": nn.RNN(3, 4, nonlinearity="relu", batch_first=True, bias=False),
    "lstm": nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True),
    "lstm, projected": nn.LSTM(3, 4, 2, batch_first=True, proj_size=2, bidirectional=True),
    "lstm without bias": nn.LSTM(3, 4, batch_first=True, bias=False, proj_size=2),
    "gru": nn.GRU(3, 4, 2, batch_first=True, bidirectional=True),
    "gru without bias": nn.GRU(3, 4, batch_first=True, bias=False),
}  # fmt: skip
for _net in RECURRENT.values():
    _net.to(D).eval()


def outputs(found):
    """All that a recurrent network gives, `(rows, ...)`."""
    sequence, last = found
    last = last if isinstance(last, tuple) else (last,)
    return torch.cat([sequence.flatten(1), *(state.transpose(0, 1).flatten(1) for state in last)], 1)


@pytest.mark.parametrize("name", RECURRENT)
def test_every_recurrent_network_is_complete(name):
    net, x = RECURRENT[name], rand(4, 3, 3)
    complete(summed(lambda x: outputs(net(x))), *pairs(x))
    complete(summed(lambda x: outputs(net(x))), (x,), (torch.zeros_like(x),))


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize("sort", [True, False])
def test_packed_sequences_are_complete(name, sort):
    net, x, lengths = RECURRENT[name], rand(4, 3, 3), torch.tensor([3, 2, 2, 1] if sort else [1, 3, 2, 3])

    def run(x):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=sort)
        sequence, last = net(packed)
        return outputs((nn.utils.rnn.pad_packed_sequence(sequence, batch_first=True)[0], last))

    found = complete(summed(run), (x,), (x.flip(1),)).values[0][0]
    assert all(not found[i, length:].any() for i, length in enumerate(lengths.tolist()))


@pytest.mark.parametrize("name", RECURRENT)
def test_sequences_without_a_batch_dimension_or_with_places_first_are_complete(name):
    net, x = RECURRENT[name], rand(1, 3, 3)
    complete(summed(lambda x: net(x[0])[0][None]), (x,), (x.flip(1),))
    first = type(net)(3, 2, batch_first=False).to(D)
    complete(summed(lambda x: first(x.transpose(0, 1))[0].transpose(0, 1)), (rand(4, 3, 3),), (rand(4, 3, 3),))


@pytest.mark.parametrize("name", RECURRENT)
def test_states_that_depend_on_the_input_are_explained(name):
    net, x, h = RECURRENT[name], rand(4, 3, 3), rand(4, 4)
    count = net.num_layers * (1 + net.bidirectional)
    complete(summed(lambda x, h: outputs(net(x, _start(net, h, count)))), (x, h), (x.flip(0), h.flip(0)))


def _start(net, h, count):
    wide = h.expand(count, *h.shape)
    return (wide[..., : net.proj_size or 4].contiguous(), wide.tanh().contiguous()) if isinstance(net, nn.LSTM) else wide.contiguous()


CELLS = {"lstm": nn.LSTMCell(3, 4), "gru": nn.GRUCell(3, 4), "rnn": nn.RNNCell(3, 4), "relu": nn.RNNCell(3, 4, nonlinearity="relu"),
         "lstm without bias": nn.LSTMCell(3, 4, bias=False), "gru without bias": nn.GRUCell(3, 4, bias=False)}  # fmt: skip


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_is_complete(name):
    cell, (x, x0), (h, h0) = CELLS[name].to(D), pairs(rand(4, 3)), pairs(rand(4, 4))

    def run(x, h):
        found = cell(x, (h, h.exp()) if isinstance(cell, nn.LSTMCell) else h)
        return torch.cat(found, 1) if isinstance(found, tuple) else found

    complete(summed(run), x + h, x0 + h0)


def ops_of(run, *inputs):
    """The names of the operations that got a rule."""
    mode = Ruled(DEEPLIFT, taping=True)
    with mode:
        run(*(x.clone().requires_grad_() for x in inputs))
    return {op.name for op in mode.tape}


def test_every_rule_is_tested():
    x, matrix = rand(2, 8).abs() / 4, rand(4, 4)
    names = set()
    for op in SPELLINGS.values():
        names |= ops_of(op, x)
    for op in HALVES.values():
        names |= ops_of(op, rand(4, 4), rand(4, 4))
    for op in SINGLE.values():
        names |= ops_of(op, matrix)
    for op in ALONG.values():
        names |= ops_of(op, rand(4, 8))
    for op, dims in MAX_POOLS.values():
        names |= ops_of(op, rand(1, 2, *(6,) * dims))
    assert set(SECANTS) - names - {"floor", "ceil", "trunc", "sign", "atanh", "acosh"} == set()  # as `round`; in the hunted


# --- DeepLIFT: max pooling

MAX_POOLS = {
    "max_pool1d": (lambda x: F.max_pool1d(x, 3, 2, 1), 1),
    "torch.max_pool1d": (lambda x: torch.max_pool1d(x, 2, 1), 1),
    "max_pool1d, dilated": (lambda x: F.max_pool1d(x, 2, 1, dilation=2), 1),
    "nn.MaxPool1d": (nn.MaxPool1d(2, ceil_mode=True), 1),
    "max_pool2d": (lambda x: F.max_pool2d(x, 2), 2),
    "overlapping": (lambda x: F.max_pool2d(x, 3, 1, padding=1), 2),
    "dilated": (lambda x: F.max_pool2d(x, (2, 3), (1, 2), padding=(1, 1), dilation=(2, 1)), 2),
    "with a ceiling": (lambda x: F.max_pool2d(x, 4, 4, ceil_mode=True), 2),
    "by keywords": (lambda x: F.max_pool2d(input=x, kernel_size=3, stride=2, padding=1, ceil_mode=True), 2),
    "with indices": (lambda x: F.max_pool2d(x, 3, 2, return_indices=True)[0], 2),
    "nn, with indices": (lambda x: nn.MaxPool2d(3, 2, return_indices=True)(x)[0], 2),
    "torch.max_pool2d": (lambda x: torch.max_pool2d(x, 2, 1), 2),
    "aten": (lambda x: torch.ops.aten.max_pool2d.default(x, [2, 2]), 2),
    "aten, with indices": (lambda x: torch.ops.aten.max_pool2d_with_indices.default(x, [3, 3], [1, 1], [1, 1])[0], 2),
    "max_pool3d": (lambda x: F.max_pool3d(x, 3, 2, 1), 3),
    "nn.MaxPool3d": (nn.MaxPool3d((1, 2, 3)), 3),
    "adaptive_max_pool1d": (lambda x: F.adaptive_max_pool1d(x, 4), 1),
    "adaptive_max_pool2d": (lambda x: F.adaptive_max_pool2d(x, (4, 2)), 2),
    "nn.AdaptiveMaxPool2d": (nn.AdaptiveMaxPool2d((None, 4)), 2),
    "adaptive_max_pool3d": (lambda x: F.adaptive_max_pool3d(x, (4, 2, 1)), 3),
    "without a batch dimension": (lambda x: torch.stack([F.max_pool2d(row, 3, 2) for row in x]), 2),
    "amax": (lambda x: x.flatten(2).amax(2), 2),
    "max": (lambda x: x.max(-1).values, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", MAX_POOLS)
@pytest.mark.parametrize("kind", ["random", "negative", "ties", "near", "same", "one baseline"])
def test_every_max_pooling_is_complete(name, kind):
    op, dims = MAX_POOLS[name]
    x, x0 = rand(3, 2, *(6,) * dims), rand(3, 2, *(6,) * dims)
    if kind == "negative":
        x, x0 = -x.abs() - 1, -x0.abs() - 1
    if kind == "ties":
        x, x0 = x.round(), x0.round()
    if kind in ("near", "same"):
        x0 = x + 1e-7 * x0 * (kind == "near")
    if kind == "one baseline":
        x0 = torch.zeros_like(x)
    found = complete(summed(op), (x,), (x0,)).values[0]
    assert found.isfinite().all()


def test_the_multipliers_of_max_pooling_lie_between_zero_and_one():
    x, x0 = rand(50, 1, 4), rand(50, 1, 4)
    found = deeplift(at_input(lambda x: F.max_pool1d(x, 4)[:, 0, 0], x), (x0,), multipliers).values[0][0]
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-12


def test_max_pooling_gives_the_whole_change_to_the_larger_of_the_two_maxima():
    x, x0 = rand(40, 1, 4), rand(40, 1, 4)
    found = deeplift(at_input(lambda x: F.max_pool1d(x, 4)[:, 0, 0], x), (x0,)).values[0][0]
    for row in range(40):
        new, old = x[row, 0], x0[row, 0]
        expected = torch.zeros(4, dtype=D)
        expected[new.argmax() if new.max() > old.max() else old.argmax()] = new.max() - old.max()
        close(found[row, 0], expected)


# --- DeepLIFT: the formulas of the paper


def slow_deeplift(net, x, x0):
    """The rescale rule through linear layers and elementwise functions: multipliers as products of matrices, for one example."""
    multiplier, points = torch.eye(x.numel(), dtype=D), (x, x0)
    for layer in net:
        new = tuple(layer(p[None])[0].detach().flatten() for p in points)
        if isinstance(layer, nn.Linear):
            multiplier = layer.weight.detach() @ multiplier
        else:
            multiplier = torch.stack([(a - b) / (p - q) * row for a, b, p, q, row in zip(*new, *points, multiplier, strict=True)])
        points = new
    return multiplier


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU, nn.LeakyReLU, nn.Sigmoid, nn.ELU])
def test_the_rescale_rule_on_a_network_of_three_layers(activation):
    net = nn.Sequential(nn.Linear(4, 6), activation(), nn.Linear(6, 5), activation(), nn.Linear(5, 3)).to(D)
    x, x0 = rand(5, 4), rand(5, 4)
    expected = torch.stack([slow_deeplift(net, *pair) for pair in zip(x, x0, strict=True)])
    for target in range(3):
        view = at_input(net, x, target)
        close(deeplift(view, (x0,), multipliers).values[0][0], expected[:, target], 1e-9)
        close(deeplift(view, (x0,)).values[0][0], expected[:, target] * (x - x0), 1e-9)


def test_deeplift_shap_is_the_mean_over_the_references():
    net, x, references = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3)).to(D), rand(3, 4), rand(5, 4)
    expected = torch.stack([torch.stack([slow_deeplift(net, row, r)[1] * (row - r) for r in references]).mean(0) for row in x])
    close(deeplift_shap(at_input(net, x, 1), (references,)).values[0][0], expected, 1e-9)


def test_a_network_that_is_linear_gets_its_weights_as_multipliers():
    net, x = nn.Sequential(nn.Conv2d(1, 2, 2), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(2, 2)).to(D), rand(2, 1, 3, 3)
    (gradient,) = torch.autograd.grad(net(x.requires_grad_())[:, 1].sum(), x)
    close(deeplift(at_input(net, x.detach(), 1), (rand(2, 1, 3, 3),), multipliers).values[0][0], gradient)


# --- multi-head attention: the rewritten forward is torch's

ATTENTIONS = {
    "plain": ({}, {}),
    "without bias": ({"bias": False}, {}),
    "padding": ({}, {"key_padding_mask": torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 1]]).bool()}),
    "padding as numbers": ({}, {"key_padding_mask": torch.tensor([[0, 0, 0], [0, 0, -torch.inf], [0, -1, -2]], dtype=D)}),
    "mask": ({}, {"attn_mask": torch.ones(3, 3).triu(1).bool()}),
    "mask as numbers": ({}, {"attn_mask": torch.ones(3, 3, dtype=D).tril() - 2}),
    "mask of heads": ({}, {"attn_mask": torch.ones(6, 3, 3).triu(1).bool()}),
    "mask of heads as numbers": ({}, {"attn_mask": torch.arange(54, dtype=D).view(6, 3, 3) / 20}),
    "causal": ({}, {"attn_mask": torch.ones(3, 3).triu(1).bool(), "is_causal": True, "need_weights": False}),
    "mask and padding": (
        {}, {"attn_mask": torch.ones(3, 3).triu(1).bool(), "key_padding_mask": torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 1]]).bool()}
    ),
    "bias of keys and values": ({"add_bias_kv": True}, {}),
    "zero key": ({"add_zero_attn": True}, {}),
    "all that is added": (
        {"add_zero_attn": True, "add_bias_kv": True},
        {"attn_mask": torch.ones(6, 3, 3).triu(1).bool(), "key_padding_mask": torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 1]]).bool()},
    ),
    "other keys and values": ({"kdim": 3, "vdim": 5}, {}),
    "without weights": ({}, {"need_weights": False}),
    "weights of each head": ({}, {"average_attn_weights": False}),
    "places first": ({"batch_first": False}, {}),
}  # fmt: skip


def attending(name):
    """A model of attention of three places to three, and its inputs; its score takes in the attention weights as well."""
    options, keywords = ATTENTIONS[name]
    net = nn.MultiheadAttention(4, 2, **{"batch_first": True, **options}).to(D).eval()
    sizes = (4, options.get("kdim", 4), options.get("vdim", 4))

    def run(*inputs):
        inputs = inputs if net.batch_first else [x.transpose(0, 1) for x in inputs]
        out, weights = net(*inputs, **keywords)
        out = out if net.batch_first else out.transpose(0, 1)
        return out if weights is None else torch.cat([out.flatten(1), weights.flatten(1)], 1)

    return summed(run), tuple(rand(3, 3, size) for size in sizes)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_multi_head_attention_is_complete(name):
    net, inputs = attending(name)
    complete(net, inputs, tuple(x.flip(0) for x in inputs))
    complete(net, inputs, tuple(torch.zeros_like(x) for x in inputs))


@pytest.mark.parametrize("name", ATTENTIONS)
@pytest.mark.parametrize("method", ["lrp", "attn_lrp", "deeplift"])
def test_the_rewritten_attention_gives_the_models_own_score(name, method):
    net, inputs = attending(name)
    close(pellucid.explain(net, inputs, None, method).scores, net(*inputs).detach(), 1e-12)


def test_attention_without_a_batch_dimension_is_complete():
    net, x = nn.MultiheadAttention(4, 2).to(D).eval(), rand(1, 3, 4)
    mask = torch.ones(3, 3).triu(1).bool()
    for keywords in ({}, {"attn_mask": mask}, {"key_padding_mask": mask[0]}, {"average_attn_weights": False}):
        run = lambda x, keywords=keywords: torch.cat([o.flatten() for o in net(x[0], x[0], x[0], **keywords)])[None]  # noqa: E731
        complete(summed(run), (x,), (x.flip(1),))


@pytest.mark.parametrize("first", [True, False])
def test_torchs_transformer_is_complete(first):
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, 0.0, "gelu", 1e-5, True, first), 2, enable_nested_tensor=False)
    net = nn.Transformer(4, 2, 1, 1, 8, 0.0, batch_first=True, norm_first=first, custom_encoder=encoder).to(D).eval()
    padding, causal = torch.tensor([[0, 0, 0], [0, 0, 1]]).bool(), torch.ones(2, 2).triu(1).bool()
    run = summed(lambda x, y: net(x, y, tgt_mask=causal, src_key_padding_mask=padding, memory_key_padding_mask=padding))
    complete(run, (rand(2, 3, 4), rand(2, 2, 4)), (rand(2, 3, 4), rand(2, 2, 4)), 1e-9)


# --- guided backpropagation and deconvolution


def slow_guided(net, x, target, rectify):
    """What comes back through a sequence of layers, one matrix at a time; `rectify(what comes back, what went in)` at activations."""
    points = [x]
    with torch.no_grad():
        for layer in net:
            points.append(layer(points[-1]))
    back = F.one_hot(torch.full((len(x),), target), points[-1].shape[1]).to(D)
    for layer, point, after in zip(reversed(net), reversed(points[:-1]), reversed(points[1:]), strict=True):
        back = back.reshape(after.shape)
        if isinstance(layer, nn.ReLU | nn.LeakyReLU):
            back = rectify(back, point)
        elif isinstance(layer, nn.MaxPool2d):
            back = max_pool_back(layer, point, back)
        elif not isinstance(layer, nn.Flatten):
            rows = [dense(layer, row)[0].T @ b.flatten() for row, b in zip(point, back, strict=True)]
            back = torch.stack(rows).view(point.shape)
    return back


def picture_net(activation):
    layers = (nn.Conv2d(1, 3, 2), activation(), nn.MaxPool2d(2, 2), nn.Conv2d(3, 3, 2, padding=1), activation(), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(27, 3)).to(D)


@pytest.mark.parametrize("activation", [nn.ReLU, lambda: nn.ReLU(inplace=True)])
@pytest.mark.parametrize("target", [0, 2])
def test_guided_backpropagation_passes_what_is_positive_forward_and_backward(activation, target):
    net, x = picture_net(activation), rand(3, 1, 5, 5)
    plain = nn.Sequential(*(nn.ReLU() if isinstance(layer, nn.ReLU) else layer for layer in net))
    expected = slow_guided(plain, x, target, lambda back, point: back * (back > 0) * (point > 0))
    close(guided_backprop(at_input(net, x, target)).values[0][0], expected)


@pytest.mark.parametrize("target", [0, 2])
def test_deconvolution_passes_what_is_positive_backward(target):
    net, x = picture_net(nn.ReLU), rand(3, 1, 5, 5)
    expected = slow_guided(net, x, target, lambda back, point: back * (back > 0))
    close(deconvolution(at_input(net, x, target)).values[0][0], expected)


def test_guided_backpropagation_of_a_leaky_rectifier_takes_its_slope():
    net, x = picture_net(nn.LeakyReLU), rand(3, 1, 5, 5)
    expected = slow_guided(net, x, 1, lambda back, point: back * (back > 0) * torch.where(point > 0, 1.0, 0.01))
    close(guided_backprop(at_input(net, x, 1)).values[0][0], expected)


@pytest.mark.parametrize("method", [guided_backprop, deconvolution])
def test_without_rectifiers_both_are_the_gradient(method):
    net, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(D), rand(2, 3)
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(leaf)[:, 1].sum(), leaf)
    close(method(at_input(net, x, 1)).values[0][0], slope)


RELU_MODULES = ("nn relu", "inplace keyword", "module in place")
RELU_SPELLINGS = [name for name in SPELLINGS if name.split(".")[-1].rstrip("_") == "relu" or name in RELU_MODULES]


@pytest.mark.parametrize("spelling", RELU_SPELLINGS)
@pytest.mark.parametrize("method", [guided_backprop, deconvolution])
def test_a_rectifier_is_one_however_it_is_spelled(spelling, method):
    first, x = nn.Linear(3, 4).to(D), rand(3, 3)
    found = method(at_input(summed(lambda x: SPELLINGS[spelling](first(x))), x)).values[0]
    close(found, method(at_input(summed(lambda x: first(x).relu()), x)).values[0])


# --- models that change values in place afterwards


def in_place_pairs():
    def gated(x):
        h = x.sigmoid()
        h.mul_(x)
        return h

    def added(x):
        y = F.relu(x)
        y += 1
        return y * x

    def of_slice(x):
        y = x * 1
        y[:, :2].relu_()
        return y

    def of_view(x):
        y = x * 2
        y.view(-1, 2, 2)[:, 0].relu_()
        return y.tanh()

    def zeroed(x):
        y = x.tanh()
        z = y * x
        y[:, 0] = 0
        return z + y

    def twice(x):
        y = x.exp()
        z = y * y
        y.relu_().sub_(1).mul_(x)
        return z + y

    def product_then_changed(x):
        y = x + 0.5
        z = y * x
        y.zero_()
        return z

    def input_itself(x):
        x = x * 1
        y = x.tanh()
        x.add_(3)
        return x * y

    def weights_in_place(x):
        y = x.clone()
        y /= y.exp().sum(1, keepdim=True)
        y **= 2
        return y

    def reused(x):
        y = x.clone()
        for _ in range(3):
            y.mul_(x).add_(x).tanh_()
        return y

    def filled(x):
        y = x.exp()
        z = y * x
        y.masked_fill_(torch.tensor([True, False, False, True]), 0.0)
        return y + z

    def copied(x):
        y = torch.zeros_like(x)
        y[:, 1:] = x[:, :-1].exp()
        y.copy_(y * x)
        return y

    def relu_of_recorded(x):
        y = x * x.exp()
        z = y.tanh()
        y.relu_()
        return y * z

    def looped(x):
        y = x
        for _ in range(3):
            y = (y * x + x).tanh()
        return y

    keep, mask = torch.tensor([0.0, 1, 1, 1], dtype=D), torch.tensor([True, False, False, True])
    return {
        "h.mul_(x) of a sigmoid": (gated, lambda x: x.sigmoid() * x),
        "y += 1 of a relu": (added, lambda x: (F.relu(x) + 1) * x),
        "relu_ of a slice": (of_slice, lambda x: torch.cat([(x * 1)[:, :2].relu(), (x * 1)[:, 2:]], 1)),
        "relu_ of a view": (of_view, lambda x: torch.cat([(x * 2)[:, :2].relu(), (x * 2)[:, 2:]], 1).tanh()),
        "a column set to zero": (zeroed, lambda x: x.tanh() * x + x.tanh() * keep),
        "several": (twice, lambda x: x.exp() * x.exp() + (x.exp().relu() - 1) * x),
        "zero_ of a factor": (product_then_changed, lambda x: (x + 0.5) * x),
        "the input itself": (input_itself, lambda x: (x * 1 + 3) * (x * 1).tanh()),
        "division and power": (weights_in_place, lambda x: (x / x.exp().sum(1, keepdim=True)) ** 2),
        "in a loop": (reused, looped),
        "masked_fill_": (filled, lambda x: x.exp().masked_fill(mask, 0.0) + x.exp() * x),
        "copy_": (copied, lambda x: F.pad(x[:, :-1].exp(), (1, 0)) * x),
        "relu_ of what was read": (relu_of_recorded, lambda x: (x * x.exp()).relu() * (x * x.exp()).tanh()),
    }


IN_PLACE = in_place_pairs()
# Autograd itself refuses to differentiate these, so that only a method with a rule for each operation can.
WITHOUT_GRADIENT = ("a column set to zero", "several", "zero_ of a factor", "masked_fill_", "copy_")


WAYS = [
    (name, method)
    for name in IN_PLACE
    for method in ("deeplift", "deeplift_shap", "guided_backprop", "deconvolution", "lrp")
    if name not in WITHOUT_GRADIENT or "deeplift" in method
]


@pytest.mark.parametrize(("name", "method"), WAYS)
@pytest.mark.parametrize("layer", [False, True])
def test_work_in_place_gives_what_its_twin_gives(name, method, layer):
    first = nn.Linear(4, 4).to(D)
    here, twin = (summed(lambda x, op=op: op(first(x)) if layer else op(x)) for op in IN_PLACE[name])
    x = rand(3, 4)
    options = {"baselines": rand(3, 4)} if "deeplift" in method else {}
    a, b = (pellucid.explain(net, x, None, method, **options) for net in (here, twin))
    close(a.scores, here(x).detach(), 1e-12)
    close(a.attribution, b.attribution, 1e-9)
    assert "deeplift" not in method or a.check("completeness").passed
