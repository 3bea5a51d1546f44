"""Captum's stochastic gates."""

from ..gates import BinaryConcreteStochasticGates, GaussianStochasticGates, StochasticGatesBase

__all__ = ["BinaryConcreteStochasticGates", "GaussianStochasticGates", "StochasticGatesBase"]
