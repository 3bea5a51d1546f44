"""Exact incremental inference: the scores of an image with one small window replaced, for many windows."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..inputs import tile
from ..memory import budget, is_out, release
from ..model import in_train_mode, undisturbed
from ..view import InputView
from .partial import Partial, Pass
from .plan import Plan, planned
from .steps import STEPS

__all__ = ["pays", "window_scores"]

Window = tuple[int, int]

CPU_BYTES, GPU_PARTS = 64 * 2**20, 8
# How far, of the largest score, whole images and patches may be apart; a GPU may round convolutions to ten bits.
AGREEMENT, ON_GPU = {torch.float32: 1e-4, torch.float64: 1e-9}, 100
# What an operation on patches costs beside its multiply-adds, and a weight that a pass reads once, in multiply-adds.
PER_STEP, PER_WEIGHT = 8_000_000, 50
GAIN = 0.8


def window_scores(view: InputView, fill: Tensor, starts: Tensor, window: Window, chunk: int | None = None) -> Tensor | None:
    """The scores of one image with a window of `fill` at each of the starts, each operation computed where it changes.

    Equal, up to rounding, to `view.score` of the images in which `x[:, :, y : y + h, x : x + w]` is that part of `fill`.
    Source: Nakandala, Kumar and Papakonstantinou 2019, "Incremental and approximate inference for faster occlusion-based
    deep CNN explanations" (its exact part); here for any code, by following what the model asks of torch.

    Args:
        view: of one example; its first features are the image, `(1, C, H, W)`.
        fill: `(1, C, H, W)`, what stands in a window.
        starts: `(windows, 2)`, first row and column of each window; what reaches beyond the image is left off.
        window: height and width.
        chunk: windows per pass; None: by memory.

    Returns:
        `(targets, windows)`; None where it cannot be done: another kind of image, layers in training mode, compiled or
        scripted parts, autocast, examples that cannot share a call, code that looks into the tensors' memory.

    >>> from pellucid.view import at_input
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(2)).eval()
    >>> image, grey = torch.randn(1, 3, 32, 32), torch.zeros(1, 3, 32, 32)
    >>> _ = net(image)
    >>> scores = window_scores(at_input(net, image, target=0), grey, torch.tensor([[0, 0], [8, 20]]), (4, 4))
    >>> image[:, :, 8:12, 20:24] = 0
    >>> torch.allclose(scores[0, 1], net(image)[0, 0], atol=1e-6)
    True
    """
    if not _suits(view, fill, starts):
        return None
    starts = starts.detach().to("cpu", torch.long)
    with _quiet(view):
        first = _attempt(view, fill)
        if first is None:
            return None
        plan = first.plan(starts, window)
        for most in _chunk_sizes(min(len(starts), chunk or _by_memory(view, first, plan))):
            try:
                found = _scores(view, fill, starts, window, first, plan.chunks(most, first.extra))
                return found if found is not None and _agrees(view, fill, starts, window, found) else None
            except Exception as error:
                if not is_out(error):  # whatever the model cannot do with such tensors, the dense way shows it to the user
                    return None
            release()
    return None


def pays(view: InputView, starts: Tensor, window: Window) -> bool:
    """Whether `window_scores` can be used and, by a count of multiply-adds in one pass, takes less time than whole images.

    >>> from pellucid.view import at_input
    >>> net = torch.nn.Sequential(*(torch.nn.Conv2d(16, 16, 3, padding=1) for _ in range(4)), torch.nn.Flatten()).eval()
    >>> view, starts = at_input(net, torch.randn(1, 16, 96, 96), target=0), 8 * torch.cartesian_prod(*2 * [torch.arange(12)])
    >>> pays(view, starts, (8, 8)), pays(view, starts[:1], (8, 8))
    (True, False)
    """
    if not _suits(view, view.features[0], starts):
        return False
    with _quiet(view):
        first = _attempt(view, view.features[0])
    if first is None:
        return False
    plan = first.plan(starts, window)
    chunks = plan.chunks(_by_memory(view, first, plan), first.extra)
    ours = plan.cost(chunks) + len(chunks) * first.extra + len(starts) * first.tail + 3 * (plan.whole + first.tail)
    return ours < GAIN * len(starts) * (plan.whole + first.tail)


class First(NamedTuple):
    """The first pass, and its scores."""

    run: Pass
    scores: Tensor

    @property
    def tail(self) -> int:
        """Multiply-adds of one copy on plain tensors."""
        return self.run.macs.count // self.run.count

    @property
    def extra(self) -> int:
        """What a pass costs beside the multiply-adds of its windows, in multiply-adds."""
        return len(self.run.steps) * PER_STEP + self.run.macs.weights * PER_WEIGHT

    def plan(self, starts: Tensor, window: Window) -> Plan:
        """What windows cost."""
        return planned(self.run.steps, starts.to("cpu"), window)


def _suits(view: InputView, fill: Tensor, starts: Tensor) -> bool:
    image = view.features[0]
    modules = [m for root in view.roots for m in root.modules()]
    return (
        view.size == 1
        and view.at_once is not False
        and image.dim() == 4
        and image.dtype in AGREEMENT
        and type(image) in (Tensor, nn.Parameter)
        and image.layout == torch.strided
        and fill.shape == image.shape
        and fill.dtype == image.dtype
        and len(starts) > 0
        and int(starts.min()) >= 0
        and not torch.is_autocast_enabled(image.device.type)
        and not in_train_mode(view.roots)
        and not any(isinstance(m, torch.jit.ScriptModule | nn.DataParallel) or type(m).__name__ == "OptimizedModule" for m in modules)
    )


@contextmanager
def _quiet(view: InputView) -> Iterator[None]:
    """No graphs, of autograd or of the compiler, and the model as it was."""
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # a graph that was compiled before cannot be followed
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(undisturbed(view.roots))
        stack.enter_context(torch.no_grad())
        yield


def _attempt(view: InputView, fill: Tensor) -> First | None:
    """The first pass, of two windows of one place in a corner: no rectangles are smaller, so none need more of the one map.

    Two, because a single copy could not be told from what all copies share.
    """
    run = Pass(STEPS, 2)
    try:
        with run.macs:
            scores = _through(view, fill, torch.zeros(2, 2, dtype=torch.long, device="cpu"), (1, 1), run)
    except Exception:  # whatever the model cannot do with such tensors, the dense way shows it to the user
        return None
    return First(run, scores) if scores.shape[1] == run.count else None


def _through(view: InputView, fill: Tensor, starts: Tensor, window: Window, run: Pass) -> Tensor:
    image = run.begin(view.features[0], fill, starts, window)
    others = tuple(tile(f, run.count).clone() for f in view.features[1:])
    scores = view.pick.scores(view.call((image, *others)), run.count)
    return scores.state.let_go() if isinstance(scores, Partial) else scores


def _by_memory(view: InputView, first: First, plan: Plan) -> int:
    image = view.features[0]
    limit = CPU_BYTES if image.device.type != "cuda" else budget(image.device) // GPU_PARTS
    each = max(3 * plan.numbers * image.element_size(), 3 * first.run.macs.largest // first.run.count)
    return max(1, limit // each)


def _chunk_sizes(most: int) -> Iterator[int]:
    while most:
        yield most
        most //= 2


def _scores(view: InputView, fill: Tensor, starts: Tensor, window: Window, first: First, chunks: Sequence[Tensor]) -> Tensor | None:
    found = first.scores.new_empty(len(first.scores), len(starts))
    for some in chunks:
        at = starts[some] if len(some) > 1 else starts[some].expand(2, 2)
        run = Pass(STEPS, len(at), first.run.steps, first=False)
        scores = _through(view, fill, at, window, run)
        if scores.shape != (len(found), len(at)):
            return None
        found[:, some.to(found.device)] = scores[:, : len(some)]
    return found


def _agrees(view: InputView, fill: Tensor, starts: Tensor, window: Window, found: Tensor) -> bool:
    """Whether the window in the middle has the score that the model gives the whole image."""
    middle = len(starts) // 2
    (y, x), image = starts[middle].tolist(), view.features[0].clone()
    inside = (..., slice(y, y + window[0]), slice(x, x + window[1]))
    image[inside] = fill[inside]
    dense = view.score((image, *view.features[1:]))[:, 0]
    largest = torch.cat([dense.abs(), found.abs().flatten()]).max()
    allowed = AGREEMENT[image.dtype] * (ON_GPU if image.is_cuda else 1)
    return bool((dense - found[:, middle]).abs().max() <= allowed * largest)
