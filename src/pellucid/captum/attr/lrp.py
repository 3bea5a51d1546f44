"""Captum's LRP and LayerLRP with its propagation rules: `pellucid.rules.lrp`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import OptionError
from ...explanation import Found
from ...hooks import watch
from ...model import layers_of, undisturbed
from ...rules import lrp
from ...rules.operation import Rule
from ...rules.relevance import epsilon, passed, reweighted
from ...view import InputView
from .base import GradientAttribution, TargetType, answer, as_tuple, compute_gradients, with_delta
from .layer import LayerAttribution

__all__ = ["LRP", "Alpha1_Beta0_Rule", "EpsilonRule", "GammaRule", "IdentityRule", "LayerLRP", "PropagationRule"]


class PropagationRule(ABC):
    """How a module divides relevance; set it as `module.rule`."""

    STABILITY_FACTOR = 1e-9

    @property
    @abstractmethod
    def native(self) -> Rule:
        """The rule in `pellucid.rules.relevance`."""


class EpsilonRule(PropagationRule):
    """By contribution, with a stabiliser."""

    def __init__(self, epsilon: float = 1e-9) -> None:
        self.STABILITY_FACTOR = epsilon

    @property
    def native(self) -> Rule:
        """LRP-epsilon."""
        return epsilon(self.STABILITY_FACTOR)


class GammaRule(PropagationRule):
    """Positive weights count more."""

    def __init__(self, gamma: float = 0.25, set_bias_to_zero: bool = False) -> None:
        self.gamma, self.set_bias_to_zero = gamma, set_bias_to_zero

    @property
    def native(self) -> Rule:
        """LRP-epsilon with weights `w + gamma w+`."""
        return reweighted(lambda w: w + self.gamma * w.clamp(min=0), not self.set_bias_to_zero, self.STABILITY_FACTOR)


class Alpha1_Beta0_Rule(PropagationRule):
    """Positive weights only."""

    def __init__(self, set_bias_to_zero: bool = False) -> None:
        self.set_bias_to_zero = set_bias_to_zero

    @property
    def native(self) -> Rule:
        """LRP-epsilon with weights `w+`."""
        return reweighted(lambda w: w.clamp(min=0), not self.set_bias_to_zero, self.STABILITY_FACTOR)


class IdentityRule(EpsilonRule):
    """Relevance as it is, for modules whose input has the shape of their output."""

    @property
    def native(self) -> Rule:
        """All of it passes."""
        return passed


def _composite(view: InputView, verbose: bool) -> tuple[tuple[nn.Module, Rule], ...]:
    """The modules that carry a rule of their own."""
    pairs = []
    for module in layers_of(view.roots):
        rule = vars(module).get("rule")
        if rule is None:
            continue
        if not isinstance(rule, PropagationRule):
            raise OptionError(f"module {type(module).__name__} has the rule {rule!r}; a rule is a PropagationRule such as EpsilonRule()")
        if verbose:
            print(f"Applied {rule} on layer {module}")
        pairs.append((module, rule.native))
    return tuple(pairs)


class LRP(GradientAttribution):
    """Relevance of the inputs: `pellucid.rules.lrp`, by epsilon but for modules with a `rule`, which stays where it is."""

    def __init__(self, model: Callable[..., Any]) -> None:
        super().__init__(model)
        self.model = model

    def attribute(
        self,
        inputs: Any,
        target: TargetType = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        verbose: bool = False,
    ) -> Any:
        """Relevances of the inputs' shape, with `(B,)` deltas, output less their sum, if asked for."""
        view = self._view(inputs, target, additional_forward_args)
        found = lrp(view, _composite(view, verbose))
        delta = -found.difference[0] if return_convergence_delta else None
        return with_delta(answer(inputs, view, found), delta, return_convergence_delta)

    def has_convergence_delta(self) -> bool:
        """Conservation."""
        return True

    @property
    def multiplies_by_inputs(self) -> bool:
        """Always."""
        return True

    def compute_convergence_delta(self, attributions: Any, output: Tensor) -> Tensor:  # type: ignore[override]
        """The output less the sum of the relevances."""
        found: Tensor = output.flatten() - sum(a.flatten(1).sum(1) for a in as_tuple(attributions))
        return found


class LayerLRP(LRP, LayerAttribution):
    """Relevance of what a layer, several, or (None) every layer that has no parts holds."""

    def __init__(self, model: Callable[..., Any], layer: Any) -> None:
        LayerAttribution.__init__(self, model, layer)
        self.model, self.gradient_func = model, compute_gradients

    def attribute(  # type: ignore[override]
        self,
        inputs: Any,
        target: TargetType = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        verbose: bool = False,
    ) -> Any:
        """Relevances of the layer's shape, a list for several layers, with deltas likewise if asked for."""
        view = self._view(inputs, target, additional_forward_args)
        asked, self.layer = self.layer, _every_layer(view) if self.layer is None else self.layer
        try:
            place = self._place(view, attribute_to_layer_input)
            found = lrp(view, _composite(view, verbose), place=place)
            relevances = self._answer(view, place, found)
            return with_delta(relevances, _deltas(relevances, found), return_convergence_delta)
        finally:
            self.layer = asked


def _deltas(relevances: Any, found: Found) -> Any:
    by_layer = relevances if isinstance(relevances, list) else [relevances]
    deltas = [found.scores[0] - torch.stack([t.flatten(1).sum(1) for t in as_tuple(part)]).sum(0) for part in by_layer]
    return deltas if isinstance(relevances, list) else deltas[0]


def _every_layer(view: InputView) -> list[Any]:
    """Every call of every module without parts, in the order of the model's modules."""
    modules = [module for module in layers_of(view.roots) if not module._modules]
    with undisturbed(view.roots), torch.no_grad(), watch(modules) as calls:
        view.score(view.features)
    return [(module, number) for module, seen in zip(modules, calls, strict=True) for number in range(len(seen))]
