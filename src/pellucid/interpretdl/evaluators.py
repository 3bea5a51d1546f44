"""InterpretDL's evaluators of pictures: an explanation in, numbers out that say how far it can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..batch import Run
from ..errors import InputError, OptionError, warn
from ..explanation import Check
from ..metrics import (
    curve,
    in_order,
    responses,
    spaced,
    windows,
)
from ..metrics.infidelity import Responses
from ..metrics.steps import Order, Steps
from ..pictures import Pictures
from .base import Interpreter, evaluating, numpy

__all__ = [
    "LERF",
    "MORF",
    "DeletionInsertion",
    "Infidelity",
    "Perturbation",
    "numbers_in",
    "results_of",
    "tell",
    "wanted_sides",
]

GREY = 127  # what stands in for a pixel, in every channel
STEPS = 20


class _Side(NamedTuple):
    """One curve: its name in the scores, in the probabilities and in the pictures, and how it goes."""

    score: str
    probas: str
    images: str
    order: Order
    inserted: bool = False


MORF = _Side("MoRF_score", "MoRF_probas", "MoRF_images", "most")
LERF = _Side("LeRF_score", "LeRF_probas", "LeRF_images", "least")
DELETION = _Side("deletion_score", "del_probas", "deletion_images", "most")
INSERTION = _Side("insertion_score", "ins_probas", "insertion_images", "most", inserted=True)


class _OfPicture(Interpreter):
    """Evaluates the explanation of one picture."""

    def _one(self, img_path: Any, resize_to: int | None, crop_to: int | None) -> Pictures:
        shown = self.pictures(img_path, resize_to, crop_to)
        if len(shown) != 1:
            raise InputError(f"there are {len(shown)} pictures, and an explanation is of one; evaluate them one by one")
        return shown

    def _grey(self) -> Tensor:
        return self.statistics.normalised(np.full((1, 1, 1, self.statistics.channels), GREY, np.uint8)).to(self.place)


class _Curves(_OfPicture):
    """Evaluates by curves of probabilities."""

    sides: tuple[_Side, ...]

    def evaluate(
        self,
        img_path: Any,
        explanation: Any,
        batch_size: int | None = None,
        resize_to: int | None = 224,
        crop_to: int | None = None,
        limit_number_generated_samples: int | None = None,
    ) -> dict[str, Any]:
        """`{..._score, ..._probas (K,), ..._images (K, H, W, 3)}` of each curve, of the class predicted for the picture itself.

        Args:
            img_path: one picture: a path, a PIL image or an array.
            explanation: a map `(H, W)`, coarser or not, or `(C, H, W)`, whose magnitudes are summed; or the `lime_results` of a
                LIME interpreter: its superpixels then go one by one, those of the largest weights first.
            batch_size: pictures per call at most; None: as many as memory allows.
            resize_to, crop_to: of files.
            limit_number_generated_samples: steps of a map, 20 if not given; of superpixels, pictures at most.

        Raises:
            InputError: several pictures, or an explanation of another form. OptionError: a limit that leaves no curve.
        """
        shown = self._one(img_path, resize_to, crop_to)
        steps_of = _steps_of(explanation, shown, limit_number_generated_samples)
        found: dict[str, Any] = {}
        with evaluating(self.model):
            view = self.view((shown.tensor,), None, "probability")
            for side in self.sides:
                steps = steps_of(side)
                along = curve(view, steps, self._grey(), side.inserted, Run(batch_size))
                tell(along.checks)
                found |= {side.score: float(along.mean[0]), side.probas: numpy(along.scores[0])}
                found[side.images] = _images(shown.shown, steps, side.inserted)
        return found


class Perturbation(_Curves):
    """MoRF and LeRF: the mean probability while the most, or the least, relevant pixels go grey first.

    Source: Samek et al. 2015. A faithful explanation has a low MoRF score and a high LeRF score.

    Args:
        model, device, options: those of every interpreter.
        compute_MoRF, compute_LeRF: which of the two.

    Raises:
        OptionError: neither.

    >>> model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2))
    >>> picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    >>> sorted(Perturbation(model, compute_LeRF=False).evaluate(picture, picture.mean(2)))
    ['MoRF_images', 'MoRF_probas', 'MoRF_score']
    """

    def __init__(self, model: Any, device: str = "gpu:0", compute_MoRF: bool = True, compute_LeRF: bool = True, **options: Any) -> None:
        super().__init__(model, device, **options)
        self.compute_MoRF, self.compute_LeRF = compute_MoRF, compute_LeRF
        self.sides = wanted_sides({"compute_MoRF": (compute_MoRF, MORF), "compute_LeRF": (compute_LeRF, LERF)})


class DeletionInsertion(_Curves):
    """The mean probability while the most relevant pixels go grey, and while they appear in grey.

    Source: Petsiuk, Das, Saenko 2018. A faithful explanation has a low deletion score and a high insertion score.
    Deletion is `Perturbation`'s MoRF.

    Args:
        model, device, options: those of every interpreter.
        compute_deletion, compute_insertion: which of the two.

    Raises:
        OptionError: neither.

    >>> model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2))
    >>> picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    >>> DeletionInsertion(model).evaluate(picture, picture.mean(2), limit_number_generated_samples=4)["ins_probas"].shape
    (5,)
    """

    def __init__(
        self, model: Any, device: str = "gpu:0", compute_deletion: bool = True, compute_insertion: bool = True, **options: Any
    ) -> None:
        super().__init__(model, device, **options)
        self.compute_deletion, self.compute_insertion = compute_deletion, compute_insertion
        self.sides = wanted_sides({"compute_deletion": (compute_deletion, DELETION), "compute_insertion": (compute_insertion, INSERTION)})


def wanted_sides(asked: Mapping[str, tuple[bool, _Side]]) -> tuple[_Side, ...]:
    """The curves that were asked for, by the name of the option that asks.

    Raises:
        OptionError: none is.
    """
    sides = tuple(side for wanted, side in asked.values() if wanted)
    if not sides:
        raise OptionError(f"{' and '.join(asked)} are both false, and nothing is left to compute; leave one true")
    return sides


def tell(checks: Sequence[Check]) -> None:
    """Warn of the checks that did not pass."""
    for check in checks:
        if not check.passed:
            warn(check.name, check.message)


def _images(shown: NDArray[np.uint8], steps: Steps, inserted: bool) -> NDArray[np.uint8]:
    """The pictures along the curve, `(steps + 1, H, W, C)`."""
    chosen = numpy(steps.chosen(slice(0, 1), torch.arange(steps.count))[0])[:, 0, 0, :, :, None]
    changed = np.where(chosen != inserted, np.uint8(GREY), shown)
    return np.concatenate([changed, shown] if inserted else [shown, changed])


def _steps_of(explanation: Any, shown: Pictures, limit: int | None) -> Callable[[_Side], Steps]:
    if isinstance(explanation, Mapping):
        return _superpixels(explanation, shown, limit)
    if limit is not None and limit < 1:
        raise OptionError(f"limit_number_generated_samples is {limit}; a curve needs at least one step")
    values = _map(explanation, shown, flat=True)
    return lambda side: spaced((shown.tensor,), values, limit or STEPS, side.order)


def _superpixels(results: Mapping[str, Any], shown: Pictures, limit: int | None) -> Callable[[_Side], Steps]:
    if not {"segmentation", "lime_weights"} <= set(results) or not results["lime_weights"]:
        raise InputError(
            f"the explanation is a dictionary of {list(map(str, results))[:6]}; of LIME, give the interpreter's lime_results, "
            "with 'segmentation' and 'lime_weights'"
        )
    segments = torch.as_tensor(numbers_in(results["segmentation"])).long().to(shown.tensor.device)
    if segments.shape != shown.tensor.shape[2:]:
        raise InputError(
            f"the segmentation has shape {tuple(segments.shape)} and the picture {tuple(shown.tensor.shape[2:])}; "
            "give the picture that was explained, with the same resize_to and crop_to"
        )
    weights = next(iter(results["lime_weights"].values()))
    order = [int(segment) for segment, weight in sorted(weights, key=lambda pair: -abs(pair[1]))]
    if limit is not None and limit < 2:
        raise OptionError(f"limit_number_generated_samples is {limit}; a curve of superpixels needs two pictures: the first and the last")

    def steps(side: _Side) -> Steps:
        every = in_order((shown.tensor,), segments[None], order if side.order == "most" else order[::-1])
        if limit is None or limit > every.count:
            return every
        # Of all pictures; the unchanged one is the last of an insertion, else the first.
        numbers = np.linspace(0, every.count, limit).astype(int).tolist()
        return every.some(numbers[:-1] if side.inserted else [number - 1 for number in numbers[1:]])

    return steps


def _map(explanation: Any, shown: Pictures, flat: bool) -> Tensor:
    """`(1, H, W)` of the picture's size; `flat`: magnitudes summed over channels, if there are any."""
    values = torch.as_tensor(numbers_in(explanation), device=shown.tensor.device).squeeze()
    channels, height, width = shown.tensor.shape[1:]
    if flat and values.dim() == 3 and len(values) == channels:
        values = values.abs().sum(0)
    if values.dim() != 2:
        forms = f"(H, W) or ({channels}, H, W)" if flat else "(H, W): sum over the channels first"
        raise InputError(f"the explanation has shape {tuple(values.shape)} without its dimensions of 1; that of one picture is {forms}")
    if height != width and tuple(values.shape) == (width, height):
        raise InputError(f"the explanation has shape {(width, height)} for a picture of {height} x {width}; give it with rows first: .T")
    if values.shape == (height, width):
        return values[None]
    return F.interpolate(values[None, None], (height, width), mode="bilinear", align_corners=False)[0]


def numbers_in(values: Any) -> NDArray[Any]:
    """Floating point numbers."""
    array = numpy(values) if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise InputError(
            f"the explanation is {type(values).__name__} of {array.dtype}; give an array of numbers, or the lime_results of LIME"
        )
    # A copy, because torch takes no arrays that run backwards, and warns of those that cannot be written.
    return np.array(array, np.float32 if array.dtype == np.float32 else np.float64, order="C")


class Infidelity(_OfPicture):
    """How far an explanation is from saying by how much the logit falls when windows go grey; 0 is best.

    Windows of 32, 64 and 128 pixels, 8 apart; the explanation's scale does not matter: `pellucid.metrics.infidelity`.
    Source: Yeh et al. 2019.

    Attributes:
        results: of the last picture: predict, proba_diff, explanation, infid.

    >>> model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2))
    >>> picture = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    >>> Infidelity(model).evaluate(picture, picture.mean(2)) >= 0
    True
    """

    results: Mapping[str, Any] = {}

    def evaluate(
        self,
        img_path: Any,
        explanation: Any,
        recompute: bool = False,
        batch_size: int | None = 50,
        resize_to: int | None = 224,
        crop_to: int | None = None,
    ) -> float:
        """The infidelity, of the predicted class's logit.

        Args:
            img_path: one picture: a path, a PIL image or an array.
            explanation: a map `(H, W)`, coarser or not.
            recompute: kept for InterpretDL's sake: nothing is kept from one picture to the next.
            batch_size: pictures per call at most.
            resize_to, crop_to: of files.

        Raises:
            InputError: several pictures, one smaller than 32 pixels, or an explanation of another form.
        """
        shown = self._one(img_path, resize_to, crop_to)
        values = _map(explanation, shown, flat=False)
        with evaluating(self.model):
            view = self.view((shown.tensor,), None, "logit")
            found = responses(view, values, windows(view.features), self._grey(), Run(batch_size))
        self.results = results_of(self, found, explanation)
        return float(self.results["infid"])


def results_of(evaluator: Interpreter, found: Responses, explanation: Any) -> dict[str, Any]:
    """InterpretDL's `results` of an infidelity."""
    tell(found.checks)
    return {
        "predict": {"label": (evaluator.labels or [0])[0], "proba": evaluator.predicted_proba},
        "proba_diff": numpy(found.differences[0]),
        "explanation": explanation,
        "infid": float(found.infidelity()[0]),
    }
