"""Odd-GP: Shapley values, and how sure they are, from few complementary pairs of coalitions, by a Gaussian process.

With coalitions as signs `x` in {-1, 1}^n, `D(x) = (v(x) - v(-x)) / 2` is the odd part of a game, which alone decides its
Shapley values: of `D(x) = sum over odd T of d_T prod(x_k, k in T)` they are `phi_i = 2 sum over T with i of d_T / |T|`.
A Gaussian process on `D` that knows it to be odd therefore gives a Gaussian posterior of them. The page `docs/shapley.md` derives it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from ..errors import InputError

__all__ = ["MOST_PAIRS", "OddGP", "Prior", "odd_gp"]

MOST_PAIRS = 10_000  # their covariance has this many rows and columns
FITTED = 400  # pairs that the prior is fitted to
STEPS, BOLDEST, HALVINGS, ENOUGH = 30, 2.0, 8, 0.01  # of the fit: steps, of logarithms; it ends with a smaller gain of log-likelihood
INTERACTING = 2.0  # what the reaches add up to before the fit
JITTER = 1e-9  # of the prior variance, always added to the noise: keeps every factorisation positive
NODES = 64  # Gauss-Legendre, exact up to 128 groups
RANGE = 20.0  # of logarithms: nothing overflows


class OddGP(NamedTuple):
    """Posterior means and variances of Shapley values, `(groups, B)` each."""

    values: Tensor
    variances: Tensor


class Prior(NamedTuple):
    """What is expected of `D` before any score is seen; its Walsh coefficients `d_T` are independent, of mean 0.

    `cov(D(x), D(y)) = sum_k main_k x_k y_k + higher sinh(sum_k reach_k x_k y_k) / sinh(sum_k reach_k)`. The second term spreads
    the variance `higher` over the odd sets `T` as tosses of coins do, group `k` coming up with the odds `tanh(reach_k)`.

    Attributes:
        main: `(n,)`, variances of the groups' own effects.
        reach: `(n,)`, positive: how readily a group takes part in interactions.
        higher: variance of what is beyond `main`.
        noise: variance of what neither says.
    """

    main: Tensor
    reach: Tensor
    higher: Tensor
    noise: Tensor

    @classmethod
    def of(cls, logs: Tensor) -> Prior:
        """From the logarithms of the reaches, then of the mean of `main`, of `higher` and of `noise`; `main` goes with the reaches."""
        numbers = logs.clamp(-RANGE, RANGE).exp()
        reach, (mean, higher, noise) = numbers[:-3], numbers[-3:]
        main = mean * reach / reach.mean()
        return cls(main, reach, higher, noise + JITTER * (main.sum() + higher))

    def covariance(self, x: Tensor, y: Tensor) -> Tensor:
        """Of `D` at the rows of x, `(m, n)`, and of y."""
        inner, most = (x * self.reach) @ y.T, self.reach.sum()
        ratio = ((inner - most).exp() - (-inner - most).exp()) / -torch.expm1(-2 * most)  # of hyperbolic sines, without overflow
        return (x * self.main) @ y.T + self.higher * ratio

    def observed(self, x: Tensor) -> Tensor:
        """Of what is seen of `D` at the rows of x; the first is seen without noise."""
        noise = self.noise.expand(len(x)).clone()
        noise[0] = 0
        return self.covariance(x, x) + torch.diag(noise)

    def shapley_covariance(self, x: Tensor) -> Tensor:
        """Of the Shapley values and `D` at the rows of x, `(m, n)`: each order of the kernel divided by its size, by integration.

        `2 x_i (main_i + scale odds_i 1/2 int_-1^1 prod_{k != i} (1 + t odds_k x_k) dt)`.
        """
        odds, scale = self._coins()
        integral = torch.zeros_like(x)
        for node, weight in zip(*np.polynomial.legendre.leggauss(min(NODES, (x.shape[1] + 1) // 2)), strict=True):
            logs = torch.log1p(float(node) * odds * x) - torch.log1p(odds)
            integral += float(weight) / 2 * (logs.sum(1, keepdim=True) - logs).exp()
        return 2 * x * (self.main + scale * odds / (1 + odds) * integral)

    def shapley_variance(self) -> Tensor:
        """Of the Shapley values, `(n,)`: `4 sum over T with i of var(d_T) / |T|^2`."""
        odds, scale = self._coins()
        heads = odds / (1 + odds)
        count = len(heads)
        others = torch.zeros(count, count, dtype=odds.dtype, device=odds.device)  # [i, s]: s heads among the groups but i
        others[:, 0] = 1
        for index, head in enumerate(heads):
            tossed = head.expand(count).clone()
            tossed[index] = 0
            more = others.roll(1, 1)
            more[:, 0] = 0
            others = others + tossed[:, None] * (more - others)
        sizes = torch.arange(1, count + 1, dtype=odds.dtype, device=odds.device)
        return 4 * (self.main + scale * heads * (others[:, ::2] / sizes[::2] ** 2).sum(1))

    def _coins(self) -> tuple[Tensor, Tensor]:
        """The odds of heads, and `higher` in parts of the probability of an odd number of heads."""
        return torch.tanh(self.reach), self.higher * 2 / -torch.expm1(-2 * self.reach.sum())


def odd_gp(kept: Tensor, differences: Tensor, change: Tensor, seed: int) -> OddGP:
    """Shapley values from the differences of complementary coalitions, with the variances of what is left unknown.

    Efficient: the values add up to `change`, up to rounding. Every column is fitted and answered by itself, so it does not
    depend on the others. A group's posterior is normal: its standard deviation is the root of its variance. Variances are the
    posterior's times `1 + (groups + 3) / fitted pairs`, an allowance for the prior being fitted to the same data: data that
    a fit of p numbers to m has not seen lie further off, by 2 p / m in squared deviations (Akaike 1974), and the reaches,
    tied together as they are, count about half. Measured coverages are in `docs/shapley.md`.
    Source: the identity in Fumagalli et al. 2026 (OddSHAP); the kernel and its Shapley moments are derived in `docs/shapley.md`.

    Args:
        kept: bool `(pairs, groups)`, one coalition of each pair; neither all nor none.
        differences: `(pairs, B)`, half of its score less its complement's.
        change: `(B,)`, the score of all groups less that of none.
        seed: which pairs the prior is fitted to, where there are more than 400.

    Raises:
        InputError: shapes that do not fit, no groups, or more than 10,000 pairs.

    >>> from pellucid.perturb.sampling import pairs
    >>> kept, _ = pairs(12, 60, seed=0)
    >>> game = lambda kept: 3.0 * kept[:, :1] - 2 * kept[:, 1:2] + 4 * kept[:, 2:5].all(1, keepdim=True)
    >>> found = odd_gp(kept, (game(kept) - game(~kept)) / 2, torch.tensor([5.0]), seed=0)
    >>> [round(value, 2) for value in found.values[:5].flatten().tolist()]  # 3, -2, 4/3, 4/3, 4/3
    [3.0, -2.0, 1.33, 1.33, 1.33]
    """
    pairs, groups = _checked(kept, differences, change)
    data = torch.cat([change[None].double() / 2, differences.double()]).detach()
    signs = torch.cat([torch.ones(1, groups, dtype=torch.bool, device=data.device), kept.to(data.device)]).to(data.dtype) * 2 - 1
    chosen = torch.randperm(pairs, generator=Generator().manual_seed(seed))[:FITTED].to(data.device)
    chosen = torch.cat([chosen.new_zeros(1), chosen + 1])
    means, variances = data.new_zeros(2, groups, data.shape[1])
    for index, column in enumerate(data.T):
        means[:, index], variances[:, index] = _column(signs, column, chosen)
    return OddGP((means + (2 * data[0] - means.sum(0)) / groups).to(differences.dtype), variances.to(differences.dtype))


def _checked(kept: Tensor, differences: Tensor, change: Tensor) -> tuple[int, int]:
    shapes = tuple(kept.shape), tuple(differences.shape), tuple(change.shape)
    if [len(s) for s in shapes] != [2, 2, 1] or shapes[0][0] != shapes[1][0] or shapes[1][1:] != shapes[2] or not shapes[0][1]:
        raise InputError(f"coalitions, differences and change of shapes {shapes}; give (pairs, groups), (pairs, examples) and (examples,)")
    if len(kept) > MOST_PAIRS:
        raise InputError(f"{len(kept)} pairs for a Gaussian process; give at most {MOST_PAIRS}, or use constrained_least_squares")
    return len(kept), kept.shape[1]


def _column(signs: Tensor, data: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Means and variances `(n,)` for one example; the first datum, of all groups and none, is taken as exact."""
    largest = data.abs().max()
    if not (largest > 0 and largest.isfinite()):  # nothing changes, or nothing is known
        return (nothing := (largest * 0).expand(signs.shape[1])), nothing
    unit = data / largest
    scale = unit.square().mean().sqrt()
    logs = fitted(signs[chosen], (unit / scale)[chosen])
    prior, allowance = Prior.of(logs), 1 + len(logs) / len(chosen)
    factor = torch.linalg.cholesky(prior.observed(signs))
    whitened = torch.linalg.solve_triangular(factor, torch.cat([prior.shapley_covariance(signs), (unit / scale)[:, None]], 1), upper=False)
    covariance, white = whitened[:, :-1], whitened[:, -1]
    unknown = (prior.shapley_variance() - covariance.square().sum(0)).clamp_min(0)
    return covariance.T @ white * scale * largest, allowance * unknown * (scale * largest) ** 2


def fitted(signs: Tensor, data: Tensor) -> Tensor:
    """The logarithms of the prior under which the data are likeliest; reaches are expected within a factor of e of each other.

    Source: Rasmussen and Williams 2006, equations 5.8 and 5.9.
    """
    groups = signs.shape[1]
    start = [math.log(INTERACTING / groups)] * groups + [-math.log(groups), 0.0, -4.0]
    with torch.inference_mode(False), torch.enable_grad():
        signs, data = signs.clone(), data.clone()

        def loss(at: Tensor) -> tuple[float, Tensor]:
            logs = at.clone().requires_grad_()
            covariance = Prior.of(logs).observed(signs)
            unlikely, slope = _unlikeliness(covariance.detach(), data)
            apart = (logs[:groups] - logs[:groups].mean()).square().sum() / 2
            return float(unlikely + apart.detach()), torch.autograd.grad((slope * covariance).sum() + apart, logs)[0]

        return _lowest(loss, torch.tensor(start, dtype=data.dtype, device=data.device))


def _lowest(loss: Callable[[Tensor], tuple[float, Tensor]], at: Tensor) -> Tensor:
    """Where a loss that returns its slope is low: BFGS; steps are halved until they descend (torch.optim takes seconds to load).

    Source: Nocedal and Wright 2006, algorithms 3.1 and 6.1.
    """
    value, slope = loss(at)
    inverse = torch.eye(len(at), dtype=at.dtype, device=at.device) / (1 + slope.norm())
    for count in range(STEPS):
        step = -(inverse @ slope)
        step = step * min(1.0, BOLDEST / max(float(step.abs().max()), 1e-300))
        for _ in range(HALVINGS):
            new_value, new_slope = loss(at + step)
            if new_value <= value + 1e-4 * float(step @ slope):
                break
            step = step / 2
        else:
            return at
        turn = new_slope - slope
        if (along := float(step @ turn)) > 0:
            if not count:
                inverse = inverse / inverse[0, 0] * along / float(turn @ turn)
            ahead = inverse @ turn
            mixed = torch.outer(step, (1 + turn @ ahead / along) * step / 2 - ahead)
            inverse = inverse + (mixed + mixed.T) / along
        at, gain, value, slope = at + step, value - new_value, new_value, new_slope
        if gain < ENOUGH:
            break
    return at


def _unlikeliness(covariance: Tensor, data: Tensor) -> tuple[Tensor, Tensor]:
    """The negative logarithm of the likelihood, up to a constant, and its slope in the covariance."""
    factor, _ = torch.linalg.cholesky_ex(covariance)
    inverse = torch.cholesky_inverse(factor)
    explained = inverse @ data
    return data @ explained / 2 + factor.diagonal().log().sum(), (inverse - torch.outer(explained, explained)) / 2
