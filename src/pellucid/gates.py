"""Stochastic gates: features or units that a network learns to do without, by the expected number of open gates as a penalty."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from .errors import InputError, OptionError

__all__ = ["BinaryConcreteStochasticGates", "GaussianStochasticGates", "StochasticGatesBase"]

REDUCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"none": lambda p: p, "mean": lambda p: p.mean(), "sum": lambda p: p.sum()}


class StochasticGatesBase(nn.Module, ABC):
    """A gate between 0 and 1 for each element of an example: random in train mode, as learned in eval mode.

    Args:
        n_gates: how many gates.
        mask: `(...)` of integers that broadcasts to the input, the gate of each element; None: each element has its own.
        reg_weight: what the penalty is multiplied by.
        reg_reduction: `"sum"` or `"mean"` of the probabilities that gates are open, or `"none"`, one for each gate.

    Raises:
        OptionError: an unknown reduction, no gates. InputError: a mask that is not of integers from 0 to `n_gates - 1`.
    """

    mask: Tensor | None
    learned: str

    def __init__(self, n_gates: int, mask: Tensor | None = None, reg_weight: float = 1.0, reg_reduction: str = "sum") -> None:
        super().__init__()
        if n_gates < 1:
            raise OptionError(f"n_gates is {n_gates}; at least one gate is needed")
        if reg_reduction not in REDUCTIONS:
            raise OptionError(f"reg_reduction is {reg_reduction!r}; use one of {', '.join(map(repr, REDUCTIONS))}")
        if mask is not None:
            _check_mask(mask, n_gates)
        self.n_gates, self.reg_weight, self.reg_reduction = n_gates, reg_weight, reg_reduction
        self.register_buffer("mask", None if mask is None else mask.detach().clone().long())

    def forward(self, input_tensor: Tensor) -> tuple[Tensor, Tensor]:
        """The gated input, `(B, ...)` of the input's dtype, and the penalty to add to the loss.

        Raises:
            InputError: an input without a batch dimension, or, without a mask, of another number of elements than gates.
        """
        if self.mask is None:
            self._check(input_tensor)
        rows, shape = input_tensor.size(0), input_tensor.size()
        gates = self._sample_gate_values(rows).clamp(0, 1)
        if self.mask is not None:
            gates = gates.gather(1, self.mask.expand_as(input_tensor).reshape(rows, -1))
        gated = input_tensor * _of_type(gates.reshape(shape), input_tensor)
        return gated, REDUCTIONS[self.reg_reduction](self._get_gate_active_probs()) * self.reg_weight

    def get_gate_values(self, clamp: bool = True) -> Tensor:
        """`(n_gates,)`: the values in eval mode; beyond 0 and 1 too without `clamp`, which tells closed gates apart."""
        values = self._get_gate_values().detach()
        return values.clamp(0, 1) if clamp else values.clone()

    def get_gate_active_probs(self) -> Tensor:
        """`(n_gates,)`: the probability that each gate is more than 0."""
        return self._get_gate_active_probs().detach()

    @abstractmethod
    def _get_gate_values(self) -> Tensor:
        """`(n_gates,)`: the values in eval mode, before they are clamped."""

    @abstractmethod
    def _sample_gate_values(self, batch_size: int) -> Tensor:
        """`(batch_size, n_gates)`: random values in train mode, the learned ones in eval mode, before they are clamped."""

    @abstractmethod
    def _get_gate_active_probs(self) -> Tensor:
        """`(n_gates,)`: the probability that a random value is more than 0."""

    @classmethod
    def _from_pretrained(cls, values: Tensor, *args: Any, **kwargs: Any) -> Self:
        """Gates with these learned values `(n_gates,)`; the rest as for the class, without `n_gates`."""
        if values.dim() != 1:
            raise InputError(f"the learned values have shape {tuple(values.shape)}; give one for each gate: (n_gates,)")
        gates = cls(len(values), *args, **kwargs)
        gates.load_state_dict({cls.learned: values}, strict=False)
        return gates

    def _check(self, given: Tensor) -> None:
        if given.dim() < 2 or given[0].numel() != self.n_gates:
            raise InputError(
                f"the input has shape {tuple(given.shape)}, and there are {self.n_gates} gates; give (B, ...) with as many elements in "
                "each example as gates, or a mask that says which gate each element has"
            )


def _check_mask(mask: Tensor, n_gates: int) -> None:
    if mask.is_floating_point() or mask.is_complex() or mask.dtype == torch.bool:
        raise InputError(f"mask has dtype {mask.dtype}; it must hold the number of each element's gate: use .long()")
    low, high = int(mask.min()), int(mask.max())
    if low < 0 or high != n_gates - 1:
        raise InputError(f"mask has numbers from {low} to {high}; for {n_gates} gates they go from 0 to {n_gates - 1}")


@torch.fx.wrap
def _of_type(gates: Tensor, like: Tensor) -> Tensor:
    """The gates in the input's dtype, so that gating does not change it; of numbers that have no fractions, in their own."""
    return gates.to(like.dtype) if like.is_floating_point() else gates


# Traced graphs hold these as calls: torch.fx has no tensor of a size that it does not know yet. Draws are of float32 also
# for other parameters, so that a seed means the same, and because uniform numbers near one are one in less.
@torch.fx.wrap
def _uniform(rows: int, gates: int, eps: float, device: torch.device) -> Tensor:
    return torch.empty(rows, gates, device=device, dtype=torch.float32).uniform_(eps, 1 - eps)


@torch.fx.wrap
def _normal(rows: int, gates: int, std: float, device: torch.device) -> Tensor:
    return torch.empty(rows, gates, device=device, dtype=torch.float32).normal_(0, std)


class BinaryConcreteStochasticGates(StochasticGatesBase):
    """Hard concrete gates: `s = sigmoid((logit(u) + log_alpha) / temperature)`, stretched to (lower, upper) and cut to [0, 1].

    Source: Louizos, Welling and Kingma 2018 (Learning sparse neural networks through L0 regularization), equations 10 to 13:
    a gate is open with probability `sigmoid(log_alpha - temperature * log(-lower / upper))`.

    Args:
        n_gates, mask, reg_weight, reg_reduction: see `StochasticGatesBase`.
        temperature: between 0 and 1, how soft the gates are.
        lower_bound: less than 0; upper_bound: more than 1; what the gates are stretched to.
        eps: random numbers keep this distance from 0 and 1.

    Raises:
        OptionError: a temperature or bounds that are not so; else see `StochasticGatesBase`.

    >>> gates = BinaryConcreteStochasticGates(5, reg_weight=0.01).eval()
    >>> gated, penalty = gates(torch.ones(3, 5))
    >>> gated.shape, torch.equal(gated[0], gates.get_gate_values())
    (torch.Size([3, 5]), True)
    """

    learned = "log_alpha_param"

    def __init__(
        self,
        n_gates: int,
        mask: Tensor | None = None,
        reg_weight: float = 1.0,
        temperature: float = 2 / 3,
        lower_bound: float = -0.1,
        upper_bound: float = 1.1,
        eps: float = 1e-8,
        reg_reduction: str = "sum",
    ) -> None:
        super().__init__(n_gates, mask, reg_weight, reg_reduction)
        if not (0 < temperature < 1 and lower_bound < 0 and upper_bound > 1):
            raise OptionError(
                f"temperature {temperature} must be between 0 and 1, lower_bound {lower_bound} less than 0, upper_bound {upper_bound} "
                "more than 1: a gate that is not stretched is never closed"
            )
        self.log_alpha_param = nn.Parameter(torch.empty(n_gates).normal_(0.0, 0.01))
        self.temperature, self.lower_bound, self.upper_bound, self.eps = temperature, lower_bound, upper_bound, eps
        self.active_prob_offset = temperature * math.log(-lower_bound / upper_bound)

    def _sample_gate_values(self, batch_size: int) -> Tensor:
        if not self.training:
            return self._get_gate_values().expand(batch_size, self.n_gates)
        drawn = _uniform(batch_size, self.n_gates, self.eps, self.log_alpha_param.device)
        return self._stretched(torch.sigmoid((torch.logit(drawn) + self.log_alpha_param) / self.temperature))

    def _stretched(self, value: Tensor) -> Tensor:
        return value * (self.upper_bound - self.lower_bound) + self.lower_bound

    def _get_gate_values(self) -> Tensor:
        return self._stretched(torch.sigmoid(self.log_alpha_param))

    def _get_gate_active_probs(self) -> Tensor:
        return torch.sigmoid(self.log_alpha_param - self.active_prob_offset)


class GaussianStochasticGates(StochasticGatesBase):
    """Gaussian gates: `mu + noise` of a fixed standard deviation, cut to [0, 1].

    Source: Yamada, Lindenbaum, Negahban and Kluger 2020 (Feature selection using stochastic gates), equations 4 and 6: a
    gate is open with probability `Phi(mu / std)`.

    Args:
        n_gates, mask, reg_weight, reg_reduction: see `StochasticGatesBase`.
        std: of the noise.

    Raises:
        OptionError: a standard deviation that is not positive; else see `StochasticGatesBase`.

    >>> gates = GaussianStochasticGates(2, mask=torch.tensor([0, 0, 1])).eval()
    >>> gated, penalty = gates(torch.ones(1, 3))
    >>> bool(gated[0, 0] == gated[0, 1]), tuple(penalty.shape)
    (True, ())
    """

    learned = "mu"

    def __init__(
        self, n_gates: int, mask: Tensor | None = None, reg_weight: float = 1.0, std: float = 0.5, reg_reduction: str = "sum"
    ) -> None:
        super().__init__(n_gates, mask, reg_weight, reg_reduction)
        if not std > 0:
            raise OptionError(f"std is {std}; the noise of the gates needs a positive one")
        self.mu = nn.Parameter(torch.empty(n_gates).normal_(0.5, 0.01))
        self.std = std

    def _sample_gate_values(self, batch_size: int) -> Tensor:
        if not self.training:
            return self.mu.expand(batch_size, self.n_gates)
        return self.mu + _normal(batch_size, self.n_gates, self.std, self.mu.device)

    def _get_gate_values(self) -> Tensor:
        return self.mu

    def _get_gate_active_probs(self) -> Tensor:
        return 0.5 * (1 + torch.erf(self.mu / self.std / math.sqrt(2)))
