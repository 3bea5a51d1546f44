"""What training dynamics say about each example: forgotten, learned late, never sure of; and which labels look wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import OptionError
from .record import Dynamics

__all__ = [
    "SUSPICIONS",
    "DataMap",
    "Forgetting",
    "area_under_margin",
    "data_map",
    "forgetting",
    "learning_epoch",
    "outliers",
    "suspicion",
]


class Forgetting(NamedTuple):
    """Of each example: how often it was forgotten, whether it was ever right, and when first (-1 if never)."""

    events: Tensor
    learned: Tensor
    first: Tensor


class DataMap(NamedTuple):
    """Of each example, over epochs: mean and deviation of the label's probability, and how often it was predicted."""

    confidence: Tensor
    variability: Tensor
    correctness: Tensor


def forgetting(dynamics: Dynamics) -> Forgetting:
    """How often an example that was right was wrong the next time it was seen.

    Source: Toneva et al. 2019, definition of forgetting events, section 2.

    >>> seen = torch.tensor([[0, 1, 0, 0, 1]])
    >>> example = Dynamics(seen.float(), seen.float(), seen, torch.tensor([0]))
    >>> forgetting(example).events.tolist()
    [2]
    """
    correct, seen = dynamics.correct, dynamics.seen
    right = torch.zeros(len(correct), dtype=torch.bool)
    events = torch.zeros(len(correct), dtype=torch.long)
    for now, there in zip(correct.T, seen.T, strict=True):
        events += right & ~now & there
        right = torch.where(there, now, right)
    learned = correct.any(1)
    return Forgetting(events, learned, torch.where(learned, correct.int().argmax(1), -1))


def learning_epoch(dynamics: Dynamics) -> Tensor:
    """The mean number of the epochs in which an example was right; of one that never was, the number of epochs.

    Source: InterpretDL's TIDY (which leaves out what was never right).
    """
    correct = dynamics.correct.double()
    epochs = torch.arange(correct.shape[1], dtype=torch.float64)
    times = correct.sum(1)
    return torch.where(times > 0, correct @ epochs / times.clamp_min(1), float(correct.shape[1]))


def area_under_margin(dynamics: Dynamics) -> Tensor:
    """The mean over epochs of the label's logit less the largest other. Low where the label fights what the model generalises.

    Source: Pleiss et al. 2020, equation 1.
    """
    return dynamics.margin.double().nanmean(1)


def data_map(dynamics: Dynamics) -> DataMap:
    """Where an example lies between easy, hard and ambiguous.

    Source: Swayamdipta et al. 2020, section 2.
    """
    probability, seen = dynamics.probability.double(), dynamics.seen
    mean = probability.nanmean(1)
    spread = (probability - mean[:, None]).square().nanmean(1).sqrt()
    return DataMap(mean, spread, dynamics.correct.double().sum(1) / seen.sum(1).clamp_min(1))


# How likely a label is to be wrong, by what; more is worse.
SUSPICIONS: Mapping[str, Callable[[Dynamics], Tensor]] = {
    "area_under_margin": lambda dynamics: -area_under_margin(dynamics),
    "learning_epoch": learning_epoch,
    "forgetting": lambda dynamics: torch.where(
        forgetting(dynamics).learned, forgetting(dynamics).events, dynamics.predicted.shape[1]
    ).double(),
    "confidence": lambda dynamics: -data_map(dynamics).confidence,
}


def suspicion(dynamics: Dynamics, by: str = "area_under_margin") -> Tensor:
    """A score `(N,)` for every example, higher where its label looks wrong; what was never seen has NaN.

    Raises:
        OptionError: an unknown measure.
    """
    if by not in SUSPICIONS:
        raise OptionError(f"by is {by!r}; choose one of {', '.join(map(repr, SUSPICIONS))}")
    return torch.where(dynamics.seen.any(1), SUSPICIONS[by](dynamics), torch.nan)


def outliers(scores: Tensor, deviations: float = 5.0) -> Tensor:
    """The examples whose score lies so many standard deviations above the mean, the worst first.

    >>> outliers(torch.tensor([0.0] * 30 + [9.0])).tolist()
    [30]
    """
    known = scores[scores.isfinite()]
    limit = known.mean() + deviations * known.std(unbiased=False)
    found = (scores > limit).nonzero().flatten()
    return found[scores[found].argsort(descending=True, stable=True)]
