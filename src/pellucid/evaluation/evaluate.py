"""`evaluate`: several methods by several metrics on the same examples, every set of removed places scored once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor

from ..batch import Run, elsewhere
from ..errors import OptionError, PellucidError
from ..explanation import Cost, Found
from ..memory import Peak
from ..metrics.removal import Fill, Shared
from ..output import scores_in
from ..picks import PerExample
from ..progress import Bar
from ..seeds import resolve_seed
from ..task import Kind
from ..trust import health_of
from ..view import InputView, at_input
from .case import Case, Setting, checked_truth
from .metrics import CURVES, Metric, measured_by
from .record import Evaluation
from .ways import CONTROLS, Way, ways_of

__all__ = ["evaluate"]

USUAL = ("deletion", "insertion", "faithfulness_correlation", "max_sensitivity", "sparseness")
KINDS: dict[int, Kind] = {2: "table", 3: "series", 4: "image"}


def evaluate(
    model: Callable[..., Any],
    inputs: Tensor | Sequence[Tensor],
    target: Any = None,
    methods: Any = ("integrated_gradients", "saliency"),
    metrics: Any = USUAL,
    *,
    baselines: Any = None,
    fill: Fill = None,
    truth: Tensor | None = None,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    classes: Sequence[str] = (),
    kind: Kind | None = None,
    controls: Sequence[str] = tuple(CONTROLS),
    seed: int | None = None,
    strict: bool = False,
    at_most: int | None = None,
    progress: bool | None = None,
) -> Evaluation:
    """Compare methods by metrics, on the same examples, next to maps that know nothing.

    Metrics that remove places look at one number for each pixel, token or column. Every set of places of an example is scored
    once, whichever methods and metrics ask for it. The model is as it was afterwards.

    Args:
        model: a module or any callable of tensors.
        inputs: `(B, ...)`, or a tuple of such.
        target: as of `explain`; None: the predicted class of each example, where the model has classes.
        methods: names of methods; or a mapping of names of your own to a method's name, to `(name, options)`, to options, or to
            a function `(model, inputs, target) -> attributions`. Class activation maps take their `layer` as an option.
        metrics: names in `pellucid.evaluation.METRICS`, or a mapping of names to options.
        baselines: of the methods; an option `baselines` of one method is its own.
        fill: what stands in for removed places: in every form of baselines, or `pellucid.metrics.NoisyLinear`; None: zeros.
        truth: for localisation, `(B or 1, ...)` booleans of the places of the only input: where the object is.
        args, kwargs, classes, kind: as of `explain`; "text" says that an input `(B, N, D)` has N places.
        controls: "random" and "constant" maps, to compare with.
        seed: of everything random; None derives one from torch's random state without moving it.
        strict: raise what a method or a metric raises; otherwise the others go on, and `failures` says what happened.
        at_most: examples per call of the model.
        progress: a progress bar; None shows one when the work takes longer than two seconds.

    Raises:
        OptionError: unknown methods, metrics or options. InputError, TargetError: as of `explain`.

    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> found = evaluate(net, torch.randn(4, 6), methods=["saliency", "input_x_gradient"], metrics=["deletion", "sparseness"], seed=0)
    >>> found.methods, found.scores["saliency", "deletion"].shape
    (('saliency', 'input_x_gradient', 'random', 'constant'), torch.Size([4]))
    """
    start, seed, asked = time.perf_counter(), resolve_seed(seed), measured_by(metrics)
    view = at_input(model, inputs, target, args, kwargs, classes)
    ways = ways_of(methods, controls, baselines, seed, view)
    run, asking, peak = Shared(at_most, False), Run(at_most, False), Peak(view.features[0].device)
    view, count = _with_target(view, target, asking)
    if kind is not None and kind not in get_args(Kind):
        raise OptionError(f"kind is {kind!r}; choose one of {', '.join(get_args(Kind))}")
    kind = kind or KINDS.get(view.features[0].dim(), "tensor")
    run.removal(view, fill, "removal")  # a fill that does not fit is not each metric's failure
    setting = Setting(view, fill, run, seed, kind, checked_truth(truth, view.size), count)
    settled: Any = asking.settle(view, elsewhere(view.features), 2).view
    setting = replace(setting, settled=settled)
    setting.spent.append(asking)
    gathered = _Gathered(setting, strict)
    with Bar(len(ways) * (1 + len(asked)), "evaluate", progress) as bar:
        cases = [case for way in ways if (case := gathered.explained(way, bar)) is not None]
        rivals = {case.way.name: case.maps for case in cases if not case.way.control}
        for case in cases:
            for name, (metric, options) in asked.items():
                gathered.measured(replace(case, rivals=rivals), name, metric, options, bar)
    scores = {(w.name, m): gathered.scores.get((w.name, m), torch.full((view.size,), torch.nan).double()) for w in ways for m in asked}
    every = [run, *setting.spent]
    sums = {what: sum(getattr(each, what) for each in every) for what in ("forwards", "backwards", "calls")}
    cost = Cost(**sums, seconds=time.perf_counter() - start, peak_memory=peak.rise())
    checks = tuple(check for _, _, removal in run.removals for check in removal.checks)
    return Evaluation(
        methods=tuple(way.name for way in ways),
        metrics=tuple(asked),
        scores=scores,
        controls=tuple(way.name for way in ways if way.control),
        curves=gathered.curves,
        failures=gathered.failures,
        health=gathered.health,
        checks=checks,
        cost=cost,
        removed=Cost(run.forwards, 0, run.calls),
        seed=seed,
        target=str(view.pick),
    )


def _with_target(view: InputView, target: Any, run: Run) -> tuple[InputView, int]:
    """The view with its target, and how many classes the model has (0: none)."""
    output = scores_in(run.output(view))
    if output is None or output.dim() != 2 or output.shape[1] < 2 or not output.is_floating_point():
        return view, 0
    return (replace(view, pick=PerExample(output.argmax(1)[:, None].cpu())) if target is None else view), output.shape[1]


class _Gathered:
    """What is known so far; what fails is kept in words, and the rest goes on."""

    def __init__(self, setting: Setting, strict: bool) -> None:
        self.setting, self.strict = setting, strict
        self.scores: dict[tuple[str, str], Tensor] = {}
        self.curves: dict[tuple[str, str], Tensor] = {}
        self.failures: dict[tuple[str, str], str] = {}
        self.health: dict[str, tuple[str, ...]] = {}

    def explained(self, way: Way, bar: Bar) -> Case | None:
        """What a method says about the examples; None if it fails."""
        try:
            case = Case(self.setting, way, way.of(self.setting.view, self.setting.one_more()))
            case.maps  # noqa: B018  # computed here, where a failure is the method's
            self.health[way.name] = _failed(self.setting.view, case.found) if not way.control else ()
            return case
        except Exception as error:
            self._failed(way.name, "", error)
            return None
        finally:
            bar.update(1)

    def measured(self, case: Case, name: str, metric: Metric, options: Mapping[str, Any], bar: Bar) -> None:
        """One metric of one method."""
        try:
            if name in CURVES:
                self.curves[case.way.name, name] = CURVES[name](case, **options).double().cpu()
            values = self.curves[case.way.name, name].mean(1) if name in CURVES else metric.of(case, **options)
            self.scores[case.way.name, name] = values.double().cpu()
        except Exception as error:
            self._failed(case.way.name, name, error)
        bar.update(1)

    def _failed(self, method: str, metric: str, error: Exception) -> None:
        if self.strict:
            raise error
        known = str(error).strip() or type(error).__name__
        self.failures[method, metric] = known if isinstance(error, PellucidError) else f"{type(error).__name__}: {known}"


def _failed(view: InputView, found: Found) -> tuple[str, ...]:
    return tuple(check.name for check in health_of(view, found) if not check.passed)
