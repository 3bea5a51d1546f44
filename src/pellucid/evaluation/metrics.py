"""The metrics by name, as `evaluate` asks for them: what each needs, and whether more or less of it is better."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import OptionError
from ..metrics import (
    area_between,
    auc,
    average_sensitivity,
    cascade,
    completeness,
    completeness_of,
    comprehensiveness,
    consensus,
    curves,
    effective_number,
    entropy,
    erasure,
    faithfulness_correlation,
    infidelity,
    iou,
    local_lipschitz,
    max_sensitivity,
    monotonicity,
    monotonicity_correlation,
    pointing_game,
    random_logit,
    random_subsets,
    relative_input_stability,
    relative_output_stability,
    relevance_mass,
    relevance_rank,
    road,
    sensitivity_n,
    sparseness,
    sufficiency,
)
from ..metrics.removal import Imputation
from ..metrics.steps import ranked
from .case import Case
from .ways import targets_of

__all__ = ["CURVES", "METRICS", "Metric", "measured_by"]

Better = Literal["high", "low", ""]


@dataclass(frozen=True)
class Metric:
    """A metric: `of(case, **options)` is one number for each example.

    Attributes:
        family: what it is about.
        better: "high" or "low"; empty where neither is.
        says: in a few words.
    """

    family: str
    better: Better
    says: str
    of: Callable[..., Tensor]


def _curve(inserted: bool) -> Callable[..., Tensor]:
    def of(case: Case, *, steps: int = 20) -> Tensor:
        """The scores along the curve, in equal portions of the places; their mean is the metric."""
        if steps < 1:
            raise OptionError(f"steps is {steps}; a curve needs at least one")
        total = sum(m[0].numel() for m in case.maps)
        portions = [round(total * k / min(steps, total)) for k in range(min(steps, total) + 1)]
        counts = portions[:-1] if inserted else portions[1:]
        chosen = ranked(case.view.features, case.ordered, counts)
        return curves.curve(case.view, chosen, case.setting.fill, inserted, case.setting.run).scores

    return of


# Of these the whole curve is kept, `(B, steps + 1)`; the number is its mean.
CURVES: Mapping[str, Callable[..., Tensor]] = {"deletion": _curve(inserted=False), "insertion": _curve(inserted=True)}


def _mean_of(name: str) -> Callable[..., Tensor]:
    def of(case: Case, *, steps: int = 20) -> Tensor:
        return CURVES[name](case, steps=steps).mean(1)

    return of


def _removing(metric: Callable[..., Tensor], shares: Sequence[float]) -> Callable[..., Tensor]:
    def of(case: Case, *, shares: Sequence[float] = shares) -> Tensor:
        return metric(case.view, case.ordered, case.setting.fill, shares, case.setting.run)

    return of


def _road(case: Case, *, shares: Sequence[float] = curves.ROAD_SHARES, noise: float = 0.01) -> Tensor:
    return road(case.view, case.ordered, shares, noise, case.setting.seed, case.setting.run)


def _faithfulness(case: Case, *, size: int | float = 0.1, samples: int = 100) -> Tensor:
    setting = case.setting
    return faithfulness_correlation(case.view, case.maps, setting.fill, size, samples, setting.seed, setting.run)


def _sensitivity_n(case: Case, *, sizes: Sequence[int | float] = erasure.SIZES, samples: int = 50) -> Tensor:
    setting = case.setting
    return sensitivity_n(case.view, case.maps, setting.fill, sizes, samples, setting.seed, setting.run).mean(1)


def _infidelity(case: Case, *, size: int | float = 0.1, samples: int = 100, scaled: bool = True) -> Tensor:
    steps = random_subsets(case.maps, size, samples, case.setting.seed)
    return infidelity(case.view, case.maps, steps, case.setting.fill, scaled, case.setting.run, once=True)


def _monotonicity(case: Case, *, steps: int = 50) -> Tensor:
    return monotonicity(case.view, case.maps, case.setting.fill, steps, case.setting.run)


def _monotonicity_correlation(case: Case, *, size: int | float = 0.05, samples: int = 100) -> Tensor:
    setting = case.setting
    return monotonicity_correlation(case.view, case.maps, setting.fill, size, samples, setting.seed, setting.run)


def _around(metric: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def of(case: Case, *, radius: float = 0.02, samples: int = 10) -> Tensor:
        return metric(case.again, case.view.features, radius, samples, case.setting.seed)

    return of


def _relative(metric: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def of(case: Case, *, radius: float = 0.02, samples: int = 10) -> Tensor:
        return metric(case.view, case.again, radius, samples, case.setting.seed, run=case.setting.run)

    return of


def _randomisation(case: Case, *, by: str = "rank_correlation", magnitude: bool = False) -> Tensor:
    """Of all stages of randomisation the last, when nothing learnt is left."""
    model: Any = case.view.call.model
    with warnings.catch_warnings():
        if case.way.control:  # a control does not look at the model, and need not be told so
            warnings.simplefilter("ignore")
        found = cascade(model, case.of_model, by=by, magnitude=magnitude, seed=case.setting.seed)
    return found.similarities[-1]


def _random_logit(case: Case, *, by: str = "rank_correlation", magnitude: bool = False) -> Tensor:
    """The likeness of the explanation of another class."""
    own, classes = targets_of(case.view.pick, "random_logit", case.view.features[0].device), case.setting.classes
    if not classes or own is None or isinstance(own, tuple | list):
        raise OptionError("random_logit explains another class; the model has no classes, or the target is not one")
    every = torch.as_tensor(own).expand(case.view.size) % classes
    return random_logit(case.of_targets, every, classes, by, magnitude, case.setting.seed)


def _located(metric: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def of(case: Case) -> Tensor:
        values = case.single
        return metric(values.reshape(len(values), *(n for n in values.shape[1:] if n > 1)), case.truth)

    return of


def _complexity(metric: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def of(case: Case) -> Tensor:
        return metric(case.maps)

    return of


def _consensus(case: Case) -> Tensor:
    """Rank correlation with the mean ranks of the others; controls are nobody's rivals."""
    others = [maps for name, maps in case.rivals.items() if name != case.way.name]
    if not others:
        raise OptionError("consensus is between methods; evaluate two or more")
    return consensus([case.maps, *others])[:, 0]


def _completeness(case: Case, *, relative: bool = True) -> Tensor:
    """Against the method's own baseline, or what replaces removed places where it has none."""
    found = case.found
    if found.baseline_scores is not None:
        return completeness(case.attributions, found.scores[0], found.baseline_scores[0], relative)
    fill = case.setting.fill
    if isinstance(fill, Imputation):
        raise OptionError("completeness compares with a baseline, and the fill depends on what is removed; give the method a baseline")
    return completeness_of(case.view, case.attributions, fill, relative, case.setting.run)


METRICS: Mapping[str, Metric] = {
    "deletion": Metric("faithfulness", "low", "mean score while the most important places are removed", _mean_of("deletion")),
    "insertion": Metric("faithfulness", "high", "mean score while the most important places are shown", _mean_of("insertion")),
    "area_between": Metric("faithfulness", "high", "least important removed first, less most important first",
                           _removing(area_between, curves.TENTHS)),
    "road": Metric("faithfulness", "high", "the same, removed pixels imputed from their neighbours", _road),
    "comprehensiveness": Metric("faithfulness", "high", "fall of the score without the most important places",
                                _removing(comprehensiveness, erasure.SHARES)),
    "sufficiency": Metric("faithfulness", "low", "fall of the score with them only", _removing(sufficiency, erasure.SHARES)),
    "faithfulness_correlation": Metric("faithfulness", "high", "of what random subsets are said to give and what they give", _faithfulness),
    "sensitivity_n": Metric("faithfulness", "high", "that correlation, over sizes of the subsets", _sensitivity_n),
    "infidelity": Metric("faithfulness", "low", "squared error of what subsets are said to give, best scale", _infidelity),
    "monotonicity": Metric("faithfulness", "high", "how often the score does not fall as places are given back", _monotonicity),
    "monotonicity_correlation": Metric("faithfulness", "high", "rank correlation of magnitudes and effects", _monotonicity_correlation),
    "max_sensitivity": Metric("robustness", "low", "the most it moves near the input", _around(max_sensitivity)),
    "average_sensitivity": Metric("robustness", "low", "how far it moves near the input", _around(average_sensitivity)),
    "local_lipschitz": Metric("robustness", "low", "the most it moves for each unit that the input does", _around(local_lipschitz)),
    "relative_input_stability": Metric("robustness", "low", "relative change for the input's", _relative(relative_input_stability)),
    "relative_output_stability": Metric("robustness", "low", "relative change for the outputs'", _relative(relative_output_stability)),
    "parameter_randomisation": Metric("randomisation", "low", "likeness to the map of a model that learnt nothing", _randomisation),
    "random_logit": Metric("randomisation", "low", "likeness to the map of another class", _random_logit),
    "pointing_game": Metric("localisation", "high", "is the maximum inside the object", _located(pointing_game)),
    "relevance_mass": Metric("localisation", "high", "share of positive relevance inside", _located(relevance_mass)),
    "relevance_rank": Metric("localisation", "high", "share of the K highest places inside", _located(relevance_rank)),
    "iou": Metric("localisation", "high", "intersection over union of the K highest places", _located(iou)),
    "auc": Metric("localisation", "high", "area under the ROC curve for being inside", _located(auc)),
    "sparseness": Metric("complexity", "high", "Gini index of magnitudes", _complexity(sparseness)),
    "entropy": Metric("complexity", "low", "entropy of magnitudes, in nats", _complexity(entropy)),
    "effective_number": Metric("complexity", "low", "how many places carry it", _complexity(effective_number)),
    "consensus": Metric("agreement", "", "rank correlation with the other methods", _consensus),
    "completeness": Metric("axioms", "low", "gap between the sum and the change of the score, relative", _completeness),
}  # fmt: skip


def measured_by(metrics: Any) -> dict[str, tuple[Metric, dict[str, Any]]]:
    """The metrics asked for with their options: names, or a mapping of names to options.

    Raises:
        OptionError: none, an unknown name, or an option that the metric does not have.
    """
    if not isinstance(metrics, str | Mapping | Iterable):
        raise OptionError(f"metrics is {metrics!r}; give a list of names, or a mapping of names to options")
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    if strange := [name for name in names if not isinstance(name, str)]:
        raise OptionError(f"{strange[0]!r} is no name of a metric; for options give a mapping of names to options")
    asked = dict(metrics) if isinstance(metrics, Mapping) else {name: {} for name in names}
    if not asked:
        raise OptionError("metrics is empty; give at least one name")
    found = {}
    for name, options in asked.items():
        if not isinstance(options, Mapping):
            raise OptionError(f"the options of {name!r} are {options!r}; give a mapping, such as {{}}")
        if name not in METRICS:
            raise OptionError(f"there is no metric {name!r}; choose among {', '.join(METRICS)}")
        known = [p.name for p in inspect.signature(METRICS[name].of).parameters.values() if p.kind is p.KEYWORD_ONLY]
        for option in options:
            if option not in known:
                raise OptionError(f"{name} has no option {option!r}; it has {', '.join(known) or 'none'}")
        found[name] = METRICS[name], dict(options)
    return found
