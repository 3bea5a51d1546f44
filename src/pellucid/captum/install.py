"""`install()` registers `pellucid.captum` under the name `captum`, so that libraries built on Captum run unchanged."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

__all__ = ["install", "uninstall"]

# The module that answers at each of Captum's paths, public and private, as far as its classes are here; None is a
# package that only holds others.
PATHS: dict[str, str | None] = {
    "captum": "pellucid.captum",
    "captum._utils": None,
    "captum._utils.models": "pellucid.captum.linear_model",
    "captum._utils.models.model": "pellucid.captum.linear_model",
    "captum._utils.models.linear_model": "pellucid.captum.linear_model",
    "captum._utils.models.linear_model.model": "pellucid.captum.linear_model",
    "captum._utils.models.linear_model.train": "pellucid.captum.linear_model",
    "captum.influence": "pellucid.captum.influence",
    "captum.influence._core": None,
    "captum.influence._core.arnoldi_influence_function": "pellucid.captum.influence.functions",
    "captum.influence._core.influence": "pellucid.captum.influence.base",
    "captum.influence._core.influence_function": "pellucid.captum.influence.functions",
    "captum.influence._core.similarity_influence": "pellucid.captum.influence.similarity",
    "captum.influence._core.tracincp": "pellucid.captum.influence.tracincp",
    "captum.influence._core.tracincp_fast_rand_proj": "pellucid.captum.influence.tracincp",
    "captum.influence._utils": None,
    "captum.influence._utils.common": "pellucid.captum.influence.base",
    "captum.influence._utils.nearest_neighbors": "pellucid.captum.influence.neighbours",
    "captum.concept": "pellucid.captum.concept",
    "captum.concept._core": None,
    "captum.concept._core.cav": "pellucid.captum.concept",
    "captum.concept._core.concept": "pellucid.captum.concept",
    "captum.concept._core.tcav": "pellucid.captum.concept",
    "captum.concept._utils": None,
    "captum.concept._utils.classifier": "pellucid.captum.concept",
    "captum.concept._utils.common": "pellucid.captum.concept",
    "captum.concept._utils.data_iterator": "pellucid.captum.concept",
    "captum.insights": "pellucid.captum.insights",
    "captum.insights.attr_vis": "pellucid.captum.insights",
    "captum.insights.attr_vis.app": "pellucid.captum.insights.visualizer",
    "captum.insights.attr_vis.attribution_calculation": "pellucid.captum.insights.visualizer",
    "captum.insights.attr_vis.features": "pellucid.captum.insights.features",
    "captum.metrics": "pellucid.captum.metrics",
    "captum.metrics._core": None,
    "captum.metrics._core.infidelity": "pellucid.captum.metrics",
    "captum.metrics._core.sensitivity": "pellucid.captum.metrics",
    "captum.module": "pellucid.captum.module",
    "captum.module.binary_concrete_stochastic_gates": "pellucid.captum.module",
    "captum.module.gaussian_stochastic_gates": "pellucid.captum.module",
    "captum.module.stochastic_gates_base": "pellucid.captum.module",
    "captum.robust": "pellucid.captum.robust",
    "captum.robust._core": None,
    "captum.robust._core.fgsm": "pellucid.captum.robust",
    "captum.robust._core.metrics": None,
    "captum.robust._core.metrics.attack_comparator": "pellucid.captum.robust",
    "captum.robust._core.metrics.min_param_perturbation": "pellucid.captum.robust",
    "captum.robust._core.perturbation": "pellucid.captum.robust",
    "captum.robust._core.pgd": "pellucid.captum.robust",
    "captum.attr": "pellucid.captum.attr",
    "captum.attr._core": None,
    "captum.attr._core.saliency": "pellucid.captum.attr.gradient",
    "captum.attr._core.input_x_gradient": "pellucid.captum.attr.gradient",
    "captum.attr._core.integrated_gradients": "pellucid.captum.attr.gradient",
    "captum.attr._core.gradient_shap": "pellucid.captum.attr.gradient",
    "captum.attr._core.deep_lift": "pellucid.captum.attr.deep_lift",
    "captum.attr._core.guided_backprop_deconvnet": "pellucid.captum.attr.guided",
    "captum.attr._core.guided_grad_cam": "pellucid.captum.attr.guided",
    "captum.attr._core.lrp": "pellucid.captum.attr.lrp",
    "captum.attr._core.noise_tunnel": "pellucid.captum.attr.noise",
    "captum.attr._core.feature_ablation": "pellucid.captum.attr.perturbation",
    "captum.attr._core.feature_permutation": "pellucid.captum.attr.perturbation",
    "captum.attr._core.kernel_shap": "pellucid.captum.attr.shapley",
    "captum.attr._core.shapley_value": "pellucid.captum.attr.shapley",
    "captum.attr._core.dataloader_attr": "pellucid.captum.attr.dataloader",
    "captum.attr._core.lime": "pellucid.captum.attr.lime",
    "captum.attr._core.occlusion": "pellucid.captum.attr.perturbation",
    "captum.attr._core.llm_attr": "pellucid.captum.attr.llm_attr",
    "captum.attr._core.remote_provider": "pellucid.captum.attr.remote",
    "captum.attr._core.layer": None,
    "captum.attr._core.layer.layer_activation": "pellucid.captum.attr.layer",
    "captum.attr._core.layer.layer_gradient_x_activation": "pellucid.captum.attr.layer",
    "captum.attr._core.layer.layer_integrated_gradients": "pellucid.captum.attr.layer",
    "captum.attr._core.layer.layer_conductance": "pellucid.captum.attr.layer",
    "captum.attr._core.layer.internal_influence": "pellucid.captum.attr.layer",
    "captum.attr._core.layer.grad_cam": "pellucid.captum.attr.layer",
    "captum.attr._core.layer.layer_gradient_shap": "pellucid.captum.attr.layer",
    "captum.attr._core.layer.layer_feature_ablation": "pellucid.captum.attr.layer",
    "captum.attr._core.layer.layer_deep_lift": "pellucid.captum.attr.deep_lift",
    "captum.attr._core.layer.layer_lrp": "pellucid.captum.attr.lrp",
    "captum.attr._core.layer.layer_feature_permutation": "pellucid.captum.attr.layer",
    "captum.attr._core.neuron": None,
    "captum.attr._core.neuron.neuron_gradient": "pellucid.captum.attr.neuron",
    "captum.attr._core.neuron.neuron_integrated_gradients": "pellucid.captum.attr.neuron",
    "captum.attr._core.neuron.neuron_conductance": "pellucid.captum.attr.neuron",
    "captum.attr._core.neuron.neuron_gradient_shap": "pellucid.captum.attr.neuron",
    "captum.attr._core.neuron.neuron_feature_ablation": "pellucid.captum.attr.neuron",
    "captum.attr._core.neuron.neuron_deep_lift": "pellucid.captum.attr.deep_lift",
    "captum.attr._core.neuron.neuron_guided_backprop_deconvnet": "pellucid.captum.attr.guided",
    "captum.attr._models": None,
    "captum.attr._models.base": "pellucid.captum.attr.models",
    "captum.attr._utils": None,
    "captum.attr._utils.input_layer_wrapper": "pellucid.captum.attr.models",
    "captum.attr._utils.interpretable_input": "pellucid.captum.attr.interpretable",
    "captum.attr._utils.attribution": "pellucid.captum.attr.base",
    "captum.attr._utils.baselines": "pellucid.captum.attr.baselines",
    "captum.attr._utils.stat": "pellucid.captum.attr.stat",
    "captum.attr._utils.summarizer": "pellucid.captum.attr.summarizer",
    "captum.attr._utils.class_summarizer": "pellucid.captum.attr.summarizer",
    "captum.attr._utils.lrp_rules": "pellucid.captum.attr.lrp",
    "captum.attr._utils.visualization": "pellucid.captum.attr.visualization",
}

_before: dict[str, ModuleType] = {}
_added: list[tuple[ModuleType, str]] = []


def install() -> None:
    """From here on `import captum` finds `pellucid.captum`; what holds Captum's classes already keeps them."""
    if _added:
        return
    _before.update({name: module for name, module in sys.modules.items() if _is_captum(name)})
    for name in _before:
        del sys.modules[name]
    for name, ours in PATHS.items():
        sys.modules[name] = _package(name) if ours is None else importlib.import_module(ours)
        parent, _, child = name.rpartition(".")
        if parent and not hasattr(sys.modules[parent], child):
            setattr(sys.modules[parent], child, sys.modules[name])
            _added.append((sys.modules[parent], child))


def uninstall() -> None:
    """Undo `install`: Captum, where it is installed, answers to its name again."""
    if not _added:
        return
    for name in [name for name in sys.modules if _is_captum(name)]:
        del sys.modules[name]
    for parent, child in _added:
        delattr(parent, child)
    sys.modules.update(_before)
    _before.clear()
    _added.clear()


def _package(name: str) -> ModuleType:
    package = ModuleType(f"pellucid.{name}", "Stands in for a package of Captum's.")
    package.__path__ = []
    return package


def _is_captum(name: str) -> bool:
    return name == "captum" or name.startswith("captum.")
