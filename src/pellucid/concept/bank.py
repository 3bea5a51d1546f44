"""A bank of concepts that was found in a layer: what each looks like, how much of each is where, saved, loaded and drawn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..batch import Run
from ..errors import FileError, InputError, OptionError, TargetError
from ..gradient.cam import resized
from ..inside import ANYTHING
from ..model import modules_of
from ..trust.identity import identity
from ..view import InputView
from .factors import coefficients_of
from .importance import Reconstruction, head_of, reconstruction
from .rows import Held, held_by, read
from .vectors import load, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Concepts", "mark_of", "one_score"]

TENSORS = ("vectors", "importance", "interval", "stability", "examples", "where", "strengths", "shown")


@dataclass(frozen=True, eq=False)
class Concepts:
    """Concepts of a layer, the one that a score depends on most first.

    Attributes:
        vectors: `(K, C)`, the bank: not negative, of length one.
        importance: `(K,)`, total Sobol indices, the mean over examples; NaN where no score changes with the concepts.
        interval: `(K, 2)`, between which 95 % of bootstrap means lie (drawn over examples).
        stability: `(K,)`, the mean cosine to the same concept of banks fitted to other draws of the examples.
        examples: `(K, M)`, the numbers of those that show each concept most, the strongest first, each once.
        where: `(K, M, 4)`, top, left, height and width of their crops; `(K, M, D)`, the index of the place where there were no crops.
        strengths: `(K, M)`, how much of the concept is there.
        shown: `(K, M, ...)`, those crops, or the whole examples.
        error: the Frobenius norm of what the factors leave of the vectors that they were fitted to.
        explained: the share of the squares of those vectors that they explain.
        reconstruction: what is left of the model when it sees the concepts only.
        layer, call, of_input, layout: where the concepts are.
        places: the shape of the places that the layer has vectors for.
        crop: height and width of the crops; None where there were none.
        target: of which score.
        model: what tells the model from others.
    """

    vectors: Tensor
    importance: Tensor
    interval: Tensor
    stability: Tensor
    examples: Tensor
    where: Tensor
    strengths: Tensor
    shown: Tensor
    error: float
    explained: float
    reconstruction: Reconstruction
    layer: str
    call: int
    of_input: bool
    layout: str
    places: tuple[int, ...]
    crop: tuple[int, int] | None
    target: str
    seed: int
    model: str

    def __len__(self) -> int:
        return len(self.vectors)

    def one(self, concept: int) -> int:
        """Its number, if there is such a concept.

        Raises:
            OptionError: there is none.
        """
        if not 0 <= concept < len(self):
            raise OptionError(f"there is no concept {concept!r}; there are 0 to {len(self) - 1}")
        return concept

    def held(self, view: InputView) -> Held:
        """The layer in the view's model.

        Raises:
            OptionError: no such layer. InputError: another layer: of other vectors.
        """
        found = held_by(replace(view, pick=ANYTHING), (self.layer, self.call), self.of_input, self.layout)
        if found.channels != self.vectors.shape[1]:
            raise InputError(
                f"{found.place.words} holds vectors of {found.channels} numbers, and the concepts are vectors of {self.vectors.shape[1]}; "
                "give the model that they were found in"
            )
        return found

    def coefficients(self, view: InputView, run: Run | None = None) -> Tensor:
        """How much of each concept is at each place of a layer: `(B, h, w, K)`, `(B, N, K)` of tokens, `(B, K)` where there are no places.

        Non-negative least squares at every place. The view's target does not matter.
        """
        held = self.held(view)

        def take(values: Tensor, _: slice) -> Tensor:
            return coefficients_of(held.vectors(values).to(held.dtype), self.vectors)

        points = lambda examples, _: tuple(f[None, examples] for f in view.features)  # noqa: E731
        return read(view, held, 1, points, take, run or Run(), "coefficients")[:, 0]

    def maps(self, view: InputView, resize: bool = True, run: Run | None = None) -> Tensor:
        """Where on pictures each concept is: `(B, K, H, W)`, in the picture's size if `resize`; of tokens `(B, K, N)`.

        Source: Fel et al. 2023, section 3.4. These maps are the coefficients of the layer's places; attributions of a concept to the
        inputs, which the paper's are, come from methods on `of_concept`.

        Raises:
            InputError: the layer has no places.
        """
        found, held = self.coefficients(view, run), self.held(view)
        if not held.places:
            raise InputError(f"{held.place.words} has no places to draw a map of; use coefficients, or methods on of_concept")
        if not held.picture:
            return found.movedim(-1, 1)
        small = held.on_picture(found)
        return resized(small, held.picture) if resize else small

    def check(self, view: InputView, run: Run | None = None) -> Reconstruction:
        """How much of the model is left for these inputs when the layer holds the concepts only; best asked of inputs not seen before."""
        one_score(view, "give one")
        used = run or Run()
        return reconstruction(head_of(view, self.held(view), self.vectors, used), used)

    def draw(self, most: int = 10, picture: Callable[[Tensor], Any] | None = None, width: float = 9.0) -> Figure:
        """A row for each concept, the most important first: its importance, and the crops that show it most; see `show.concepts`."""
        from ..show.concepts import draw_concepts

        return draw_concepts(self, most, picture, width)

    def draw_maps(
        self, view: InputView, example: int = 0, most: int = 7, picture: Callable[[Tensor], Any] | None = None, width: float = 9.0
    ) -> Figure:
        """A picture, and where on it each of the most important concepts is; see `show.concepts`."""
        from ..show.concepts import draw_maps

        if not 0 <= example < view.size:
            raise InputError(f"example={example}; there are the examples 0 to {view.size - 1}")
        one = view.some([example])
        return draw_maps(self, one.features[0][0], self.maps(one, resize=False)[0], example, most, picture, width)

    def save(self, path: str | Path) -> None:
        """Write everything to a safetensors file.

        Raises:
            FileError: it cannot be written.
        """
        rest = {name: value for name, value in vars(self).items() if name not in TENSORS}
        save(path, {name: getattr(self, name) for name in TENSORS}, {"concepts": json.dumps(rest), "model": self.model})

    @classmethod
    def load(cls, path: str | Path, model: Callable[..., Any] | None = None) -> Concepts:
        """Read what `save` wrote; with a model, only if the concepts were found in it.

        Raises:
            FileError: it cannot be read, holds something else, or concepts of another model.
        """
        tensors, told = load(path, {} if model is None else {"model": mark_of(modules_of(model))})
        if "concepts" not in told or set(tensors) != set(TENSORS):
            raise FileError(f"{str(path)!r} holds no discovered concepts; give a file that Concepts.save wrote")
        values: dict[str, Any] = {**tensors, **_read(json.loads(told["concepts"]))}
        return cls(**values)


def _read(told: Mapping[str, Any]) -> dict[str, Any]:
    crop = None if told["crop"] is None else tuple(told["crop"])
    return {**told, "crop": crop, "places": tuple(told["places"]), "reconstruction": Reconstruction(*told["reconstruction"])}


def mark_of(roots: tuple[nn.Module, ...]) -> str:
    """What tells a model from others, by its structure and weights."""
    return hashlib.sha256(" ".join(map(identity, roots)).encode()).hexdigest()


def one_score(view: InputView, way: str) -> None:
    """Refuse views with several scores for an example, or one for a whole batch.

    Raises:
        TargetError: such a view.
    """
    few = view.some(range(min(2, view.size)))
    shape = tuple(Run().here(few).shape)
    if shape != (1, few.size):
        raise TargetError(f"the view has scores of shape {shape} for {few.size} examples, and importance is for one target; {way}")
