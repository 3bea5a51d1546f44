"""Four small trained models with their data, real and offline: digits, tiles of photographs, tumours, sentences."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

from ..task import Task
from .data import LOADERS
from .models import Sentences
from .prepare import as_digit, as_row, as_text, as_tile
from .shelf import check, facts, trained
from .words import numbered

__all__ = ["NAMES", "accuracy", "cancer", "digits", "held_out", "sentences", "tiles"]

NAMES = tuple(LOADERS)


def digits() -> Task:
    """Which digit a picture shows: a convolutional network, trained on 8x8 digits in white ink on black.

    Raw examples: PIL images or arrays, of any size; bright paper is inverted.
    """
    return Task(trained("digits"), "image", as_digit, _classes("digits"))


def tiles() -> Task:
    """Which of eight photographs a 32x32 tile was cut from: a residual network with batch normalisation.

    Raw examples: PIL images or arrays, of any size.
    """
    return Task(trained("tiles"), "image", as_tile, _classes("tiles"))


def cancer() -> Task:
    """Whether a breast tumour is malignant or benign: a multilayer perceptron on 30 measurements.

    Raw examples: 30 numbers, in the units of the data set.
    """
    return Task(trained("cancer"), "table", partial(as_row, facts=facts("cancer")), _classes("cancer"))


def sentences() -> Task:
    """Which library's documentation a sentence or two come from: a small transformer that reads up to 64 words.

    Raw examples: strings.
    """
    model = cast(Sentences, trained("sentences"))
    prepare = partial(as_text, model=model, numbers=numbered(facts("sentences")["words"]))
    return Task(model, "text", prepare, _classes("sentences"))


def held_out(name: str, count: int = 48) -> list[tuple[Any, int]]:
    """The first raw examples that the model has never seen, with the number of their class, always in the same order.

    Raises:
        OptionError: a name that is not in the zoo.
        MissingExtra: "tiles" without scikit-image.
    """
    check(name)
    split = LOADERS[name]().held_out
    return list(zip(split.raw[:count], split.y[:count].tolist(), strict=True))


def accuracy(name: str) -> float:
    """The part of the held-out examples that the model got right when it was trained.

    Raises:
        OptionError: a name that is not in the zoo.
    """
    return float(facts(name)["held_out_accuracy"])


def _classes(name: str) -> tuple[str, ...]:
    return tuple(facts(name)["classes"])
