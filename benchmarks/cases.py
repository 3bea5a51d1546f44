"""What is measured: each case returns rows of (what, figure, goal)."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import captum.attr
import torch
from torch import Tensor

import pellucid
import pellucid.captum.attr
from benchmarks import models
from benchmarks.measure import Work, interleaved, median, peak_memory, ratio
from benchmarks.metrics import metrics
from pellucid.batch import Run
from pellucid.gradient import integrated_gradients
from pellucid.rules import attn_lrp
from pellucid.view import at_input

Row = tuple[str, str, str]


def _bare(model: torch.nn.Module, x: Tensor, steps: int, chunk: int, target: int = 3) -> None:
    """Forward and backward passes with respect to the input, and nothing else."""
    for _ in range(steps // chunk):
        points = x.repeat(chunk, *(1,) * (x.dim() - 1)).requires_grad_()
        torch.autograd.grad(model(points)[:, target].sum(), points)


def _attribute(library: str, name: str, make: Callable[[], tuple[torch.nn.Module, Tensor]], **options: object) -> Work:
    """A method of `captum` or `pellucid`, made in whichever process calls this."""
    module = captum.attr if library == "captum" else pellucid.captum.attr
    model, x = make()
    method = getattr(module, name)(model)
    return lambda: method.attribute(x, target=3, **options)


def _resnet() -> tuple[torch.nn.Module, Tensor]:
    return models.resnet18(), torch.randn(1, 3, 224, 224)


def _wide() -> tuple[torch.nn.Module, Tensor]:
    return models.mlp(2000, 512, 512, 10), torch.randn(64, 2000)


def _counted(**arguments: object) -> str:
    cost = pellucid.explain(**arguments).cost  # type: ignore[arg-type]
    return f"{cost.forwards} forwards, {cost.backwards} backwards in {cost.calls} calls"


def ig_resnet() -> Iterator[Row]:
    """Integrated gradients, 50 steps, ResNet-18 shape at 224 x 224, one image."""
    model, x = _resnet()
    works = {f"bare {chunk}": functools.partial(_bare, model, x, 50, chunk) for chunk in (5, 10)}
    works |= {library: _attribute(library, "IntegratedGradients", lambda: (model, x)) for library in ("pellucid", "captum")}
    found = interleaved(works, rounds=5)
    best = min(("bare 5", "bare 10"), key=lambda name: median(found, name))
    yield "time / bare 50 forward and backward passes", f"{ratio(found, 'pellucid', best):.2f}", "<= 0.85"
    yield "captum's time / bare passes", f"{ratio(found, 'captum', best):.2f}", ""
    yield "seconds (pellucid, captum, bare)", ", ".join(f"{median(found, n):.2f}" for n in ("pellucid", "captum", best)), ""
    peaks = {
        library: peak_memory(functools.partial(_attribute, library, "IntegratedGradients", _resnet)) for library in ("pellucid", "captum")
    }
    yield "extra peak memory / captum's", f"{peaks['pellucid'] / peaks['captum']:.2f}", "<= 0.20"
    yield "extra peak memory (pellucid, captum)", ", ".join(f"{p / 2**20:.0f} MiB" for p in peaks.values()), ""
    long = peak_memory(functools.partial(_attribute, "pellucid", "IntegratedGradients", _resnet, n_steps=400))
    yield "extra peak memory at 400 steps / at 50", f"{long / peaks['pellucid']:.2f}", "about 1"
    yield "passes", _counted(model=model, inputs=x, target=3), ""


def ig_wide() -> Iterator[Row]:
    """Integrated gradients, 50 steps, perceptron 2000-512-512-10, 64 examples."""
    model, x = _wide()
    found = interleaved({n: _attribute(n, "IntegratedGradients", lambda: (model, x)) for n in ("pellucid", "captum")}, rounds=9)
    yield "captum's time / time", f"{ratio(found, 'captum', 'pellucid'):.1f}", ">= 4"
    yield "milliseconds (pellucid, captum)", ", ".join(f"{1000 * median(found, n):.0f}" for n in found), ""
    peaks = [peak_memory(functools.partial(_attribute, "pellucid", "IntegratedGradients", _wide, n_steps=n)) for n in (50, 400)]
    yield "extra peak memory at 50 and 400 steps", ", ".join(f"{p / 2**20:.0f} MiB" for p in peaks), "the same"


def ablation() -> Iterator[Row]:
    """Feature ablation, perceptron 100-128-128-10, one example, defaults."""
    model, x = models.mlp(100, 128, 128, 10), torch.randn(1, 100)
    found = interleaved({n: _attribute(n, "FeatureAblation", lambda: (model, x)) for n in ("pellucid", "captum")}, rounds=31, warmup=3)
    yield "captum's time / time", f"{ratio(found, 'captum', 'pellucid'):.0f}", ">= 40"
    yield "milliseconds (pellucid, captum)", ", ".join(f"{1000 * median(found, n):.2f}" for n in found), ""
    yield "passes", _counted(model=model, inputs=x, target=3, method="feature_ablation"), ""


PERTURBED: dict[str, tuple[str, tuple[int, ...], dict[str, object], tuple[str, str]]] = {
    "FeatureAblation, 100 features": ("FeatureAblation", (100, 128, 128, 10), {}, (">= 40", ">= 8")),
    "ShapleyValueSampling(25), 30 features": ("ShapleyValueSampling", (30, 128, 128, 10), {"n_samples": 25}, (">= 70", ">= 15")),
    "KernelShap(1000), 30 features": ("KernelShap", (30, 128, 128, 10), {"n_samples": 1000}, (">= 80", ">= 40")),
    "Lime(1000), 30 features": ("Lime", (30, 128, 128, 10), {"n_samples": 1000}, (">= 100", ">= 40")),
    "FeatureAblation, 2000 features": ("FeatureAblation", (2000, 512, 512, 10), {}, (">= 35", ">= 8")),
    "ShapleyValues, 7 features": ("ShapleyValues", (7, 32, 10), {}, (">= 1000", "")),
}


def perturbation() -> Iterator[Row]:
    """Perturbation of perceptrons, one example: captum's time / time, at captum's default and at its fastest `perturbations_per_eval`."""
    for what, (name, widths, options, goals) in PERTURBED.items():
        model, x = models.mlp(*widths), torch.randn(1, widths[0])
        works = {"pellucid": _attribute("pellucid", name, lambda m=model, x=x: (m, x), **options)}  # type: ignore[misc]
        for at_once in (1, 10, 100, 1000):
            works[f"captum {at_once}"] = _attribute(
                "captum",
                name,
                lambda m=model, x=x: (m, x),
                perturbations_per_eval=at_once,
                **options,  # type: ignore[misc]
            )
        if name == "ShapleyValues":  # seconds for each
            works = {n: works[n] for n in ("pellucid", "captum 1")}
        found = interleaved(works, rounds=3 if name == "ShapleyValues" else 7)
        best = min((n for n in works if n != "pellucid"), key=lambda n: median(found, n))
        yield f"{what}: captum's default / pellucid", f"{ratio(found, 'captum 1', 'pellucid'):.0f}", goals[0]
        if len(works) > 2:
            yield f"{what}: captum's best ({best.split()[1]} at once) / pellucid", f"{ratio(found, best, 'pellucid'):.1f}", goals[1]
        shown = ("pellucid", "captum 1", best)
        yield f"{what}: milliseconds (pellucid, captum, captum at best)", ", ".join(f"{1000 * median(found, n):.2f}" for n in shown), ""
    peaks = [peak_memory(functools.partial(_attribute, "pellucid", "KernelShap", _many, n_samples=number)) for number in (10**4, 10**5)]
    yield (
        "KernelShap of 300 features, 10^4 and 10^5 coalitions: extra peak memory",
        ", ".join(f"{p / 2**20:.0f} MiB" for p in peaks),
        "bounded",
    )


def _many() -> tuple[torch.nn.Module, Tensor]:
    return models.mlp(300, 128, 128, 10), torch.randn(1, 300)


def overhead() -> Iterator[Row]:
    """What is added to one call of a small model (30-128-128-10, one example)."""
    model, x = models.mlp(30, 128, 128, 10), torch.randn(1, 30)
    view, run = at_input(model, x, 3), Run()

    def bare() -> None:
        with torch.no_grad():
            model(x)[:, 3]

    found = interleaved({"bare": bare, "scored": lambda: run.score(view, view.features)}, rounds=31, warmup=3)
    added = [1e6 * (a - b) for a, b in zip(found["scored"], found["bare"], strict=True)]
    yield "microseconds added to a call", f"{sorted(added)[len(added) // 2]:.0f}", "<= 20"
    yield "microseconds of the bare call", f"{1e6 * median(found, 'bare'):.0f}", ""


def targets() -> Iterator[Row]:
    """Saliency of ten targets, ResNet-18 shape at 64 x 64, four images."""
    model, x = models.resnet18(), torch.randn(4, 3, 64, 64)
    saliency = captum.attr.Saliency(model)
    found = interleaved(
        {
            "pellucid": lambda: pellucid.explain_each(model, x, range(10), "saliency"),
            "captum": lambda: [saliency.attribute(x, target=t) for t in range(10)],
        },
        rounds=7,
    )
    yield "captum's time / time", f"{ratio(found, 'captum', 'pellucid'):.1f}", ">= 2"
    yield "milliseconds (pellucid, captum)", ", ".join(f"{1000 * median(found, n):.0f}" for n in found), ""
    cost = pellucid.explain_each(model, x, range(10), "saliency")[0].cost
    yield "passes", f"{cost.forwards} forwards, {cost.backwards} backwards in {cost.calls} calls", ""


def inside() -> Iterator[Row]:
    """Layer conductance (50 steps, two images) and Grad-CAM (eight images) of ResNet-18's third stage at 64 x 64."""
    model = models.resnet18()
    layer, two, eight = model[8], torch.randn(2, 3, 64, 64), torch.randn(8, 3, 64, 64)
    for name, x, rounds in (("LayerConductance", two, 7), ("LayerGradCam", eight, 15)):
        works = {
            library: functools.partial(getattr(module, name)(model, layer).attribute, x, target=3)
            for library, module in (("pellucid", pellucid.captum.attr), ("captum", captum.attr))
        }
        found = interleaved(works, rounds=rounds)
        yield f"{name}: captum's time / time", f"{ratio(found, 'captum', 'pellucid'):.2f}", ">= 1"
        yield f"{name}: milliseconds (pellucid, captum)", ", ".join(f"{1000 * median(found, n):.0f}" for n in found), ""


def rules() -> Iterator[Row]:
    """DeepLIFT and guided backpropagation, ResNet-18 shape, four images of 112 x 112; AttnLRP, a six-layer BERT shape, 4 x 64 tokens."""
    usual, apart, x = models.resnet18(), models.resnet18(shared=False), torch.randn(4, 3, 112, 112)
    gradient = functools.partial(_bare, usual, x, 1, 1)
    for name in ("DeepLift", "GuidedBackprop"):
        works = {
            "pellucid": functools.partial(getattr(pellucid.captum.attr, name)(usual).attribute, x, target=3),
            "captum": functools.partial(getattr(captum.attr, name)(apart).attribute, x, target=3),
            "gradient": gradient,
        }
        found = interleaved(works, rounds=9)
        goals = {"DeepLift": ("<= 0.65", "<= 3"), "GuidedBackprop": ("", "<= 1.3")}[name]
        yield f"{name}: time / captum's", f"{ratio(found, 'pellucid', 'captum'):.2f}", goals[0]
        yield f"{name}: time / one gradient", f"{ratio(found, 'pellucid', 'gradient'):.2f}", goals[1]
        yield f"{name}: milliseconds (pellucid, captum, gradient)", ", ".join(f"{1000 * median(found, n):.0f}" for n in found), ""
    bert, tokens = models.Bert(), torch.randn(4, 64, 256)
    view = at_input(bert, tokens, 1)
    works = {"attn_lrp": lambda: attn_lrp(view), "gradient": functools.partial(_bare, bert, tokens, 1, 1, 1)}
    found = interleaved(works, rounds=9)
    yield "attn_lrp: time / one gradient", f"{ratio(found, 'attn_lrp', 'gradient'):.2f}", "<= 2"
    yield "attn_lrp: milliseconds (pellucid, gradient)", ", ".join(f"{1000 * median(found, n):.0f}" for n in found), ""
    peaks = [
        peak_memory(functools.partial(_with_references, library, count))
        for library, count in (("pellucid", 400), ("pellucid", 50), ("captum", 400))
    ]
    yield "DeepLiftShap, extra peak memory (400 references, 50, captum 400)", ", ".join(f"{p / 2**20:.0f} MiB" for p in peaks), "bounded"


def _with_references(library: str, count: int) -> Work:
    module = captum.attr if library == "captum" else pellucid.captum.attr
    method = module.DeepLiftShap(models.resnet18(shared=False))
    references = torch.randn(count, 3, 32, 32)
    return lambda: method.attribute(torch.randn(1, 3, 32, 32), references, target=3)


def tolerance() -> Iterator[Row]:
    """Integrated gradients to a tolerance; small CNNs on handwritten digits in float32, 48 held-out images, median relative L2 error."""
    for activation in (torch.nn.ReLU, torch.nn.GELU):
        model, x = models.digits(activation)
        exact_model, exact_x = copy.deepcopy(model).double(), x.double()
        with torch.no_grad():
            best = model(x).argmax(1)
        for squash in (True, False):
            exact = _integrated(_scored(exact_model, squash), exact_x, best, 4000, rule_name="riemann_middle")[0]
            scored = _scored(model, squash)
            theirs = captum.attr.IntegratedGradients(scored).attribute(x, target=best, n_steps=50)
            name = f"{activation.__name__}, {'probability' if squash else 'logit'}"
            yield f"{name}: captum, 50 passes", f"error {_error(exact, theirs):.1e}", ""
            for most, goal in GOALS[activation, squash]:
                found, _ = _integrated(scored, x, best, most, tolerance=1e-9)
                yield f"{name}: at most {most} passes", f"error {_error(exact, found):.1e}", goal
            found, steps = _integrated(scored, x, best, None, tolerance=0.02)
            yield f"{name}: tolerance 0.02", f"error {_error(exact, found):.1e} in {steps:.0f} passes", ""


def _scored(model: torch.nn.Module, squash: bool) -> Callable[[Tensor], Tensor]:
    return (lambda x: model(x).softmax(1)) if squash else model


def _integrated(scored: Callable[[Tensor], Tensor], x: Tensor, best: Tensor, steps: int | None, **options: Any) -> tuple[Tensor, float]:
    """Attributions, and passes per example."""
    found = integrated_gradients(at_input(scored, x, best), (torch.zeros_like(x),), steps, run=Run(progress=False), **options)
    used = found.notes.get("steps")
    return found.values[0][0], 0.0 if used is None else float(used.double().mean())


def _error(exact: Tensor, found: Tensor) -> float:
    return float(((found.double() - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)).median())


GOALS = {
    (torch.nn.ReLU, True): [(25, "captum's")],
    (torch.nn.ReLU, False): [(25, ""), (33, "")],
    (torch.nn.GELU, True): [(17, "captum's"), (33, "")],
    (torch.nn.GELU, False): [(17, "captum's")],
}

CASES: dict[str, Callable[[], Iterator[Row]]] = {
    "ig_resnet": ig_resnet,
    "ig_wide": ig_wide,
    "ablation": ablation,
    "perturbation": perturbation,
    "overhead": overhead,
    "targets": targets,
    "inside": inside,
    "rules": rules,
    "tolerance": tolerance,
    "metrics": metrics,
}
