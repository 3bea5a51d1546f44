"""InterpretDL's evaluators of texts: an explanation in, numbers out that say how far it can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..batch import Run
from ..errors import InputError, OptionError
from ..inputs import Tensors
from ..metrics import curve, masks, ngrams, percentiles, random_masks, responses, sorted_values, thresholded
from ..metrics.steps import Steps, places_of
from .base import evaluating, numpy
from .evaluators import LERF, MORF, numbers_in, results_of, tell, wanted_sides
from .tokens import Text, TextInterpreter

__all__ = ["InfidelityNLP", "PerturbationNLP"]


class _OfTokens(TextInterpreter):
    """Evaluates the explanation of a text whose first and last token are special and stay."""

    def _tokens(self, raw_text: Any, explanation: Any, tokenizer: Any, max_seq_len: int) -> tuple[Text, Tensor, int, int]:
        """The text, `(1, tokens)` its explanation, how many tokens come before the padding, and the padding's number."""
        text = self._read(raw_text, tokenizer, None, max_seq_len)
        ids, pad = text.tensors[0], getattr(tokenizer, "pad_token_id", None)
        if pad is None:
            raise OptionError("the tokenizer has no pad_token_id, which stands in for tokens; set one, such as that of a mask token")
        length = int((ids[0] != pad).nonzero().max()) + 1 if bool((ids != pad).any()) else 0
        if len(ids) != 1 or length < 3:
            raise InputError(f"the text {str(raw_text)[:40]!r} has no token between its first and its last; give one text with words in it")
        values = torch.as_tensor(numbers_in(explanation), device=ids.device).squeeze()
        if values.shape != ids.shape[1:]:
            raise InputError(
                f"the explanation has shape {tuple(values.shape)} without its dimensions of 1, for {ids.shape[1]} tokens; give a number "
                "for each token that the tokenizer returns, the special ones too (of an embedding, the sum over its dimensions)"
            )
        return text, places_of((ids,), values[None], "the explanation")[0], length, int(pad)


class PerturbationNLP(_OfTokens):
    """MoRF and LeRF of a text: the mean probability while the most, or the least, relevant tokens become padding first.

    Source: Samek et al. 2015. The first and the last token (as [CLS] and [SEP]) stay.

    >>> class Tokenizer:
    ...     pad_token_id = 0
    ...     def __call__(self, text, max_seq_len=128):
    ...         return {"input_ids": [1, 4, 5, 6, 2]}
    >>> model = torch.nn.Sequential(torch.nn.Embedding(8, 2), torch.nn.Flatten(), torch.nn.Linear(10, 2))
    >>> PerturbationNLP(model).evaluate("three words here", [0, 3, 1, 2, 0], Tokenizer())["MoRF_samples"][0].tolist()
    [[1, 4, 5, 6, 2], [1, 0, 5, 6, 2], [1, 0, 5, 0, 2], [1, 0, 0, 0, 2]]
    """

    def evaluate(
        self,
        raw_text: Any,
        explanation: Any,
        tokenizer: Any,
        compute_MoRF: bool = True,
        compute_LeRF: bool = True,
        batch_size: int | None = None,
        max_seq_len: int = 128,
        percentile: bool = False,
    ) -> dict[str, Any]:
        """`{MoRF_score, MoRF_probas (K,), MoRF_samples ((K, tokens),), ...}` of the predicted class, the text itself first.

        MoRF pads one token after another, LeRF starts with two. Tokens of equal relevance go together.

        Args:
            raw_text: one text.
            explanation: a number for each token that the tokenizer returns.
            tokenizer: makes the model's inputs; its `pad_token_id` stands in for tokens.
            compute_MoRF, compute_LeRF: which of the two.
            batch_size: texts per call at most; None: as many as memory allows.
            max_seq_len: tokens at most.
            percentile: step by percentiles of the relevance, 100 of them, not by tokens.

        Raises:
            InputError: a text without words, or another number of relevances than tokens. OptionError: neither curve is wanted,
                or the tokenizer has no padding.
        """
        sides = wanted_sides({"compute_MoRF": (compute_MoRF, MORF), "compute_LeRF": (compute_LeRF, LERF)})
        text, values, length, pad = self._tokens(raw_text, explanation, tokenizer, max_seq_len)
        inner = (values[:, 1 : length - 1],)
        levels = percentiles(inner, range(101)) if percentile else sorted_values(inner)
        ids = text.tensors[0]
        fill = torch.full_like(ids, pad)
        fill[:, [0, length - 1]] = ids[:, [0, length - 1]]
        # InterpretDL's choice: the highest percentile for MoRF, and the lowest level for LeRF, are left out.
        rows = {"most": levels[:, : 100 if percentile else None].flip(1), "least": levels[:, 1:]}
        found: dict[str, Any] = {}
        with evaluating(self.model):
            view = self._view(text, None, "probability")
            for side in sides:
                steps = thresholded((values,), rows[side.order], side.order, inclusive=True)
                along = curve(view, steps, fill, run=Run(batch_size))
                tell(along.checks)
                found |= {side.score: float(along.mean[0]), side.probas: numpy(along.scores[0])}
                found[side.images.replace("images", "samples")] = (_texts(view.features, steps, fill),)
        return found


def _texts(features: Tensors, steps: Steps, fill: Tensor) -> NDArray[Any]:
    """The texts along the curve, `(steps + 1, tokens)`."""
    chosen = steps.chosen(slice(0, 1), torch.arange(steps.count))[0][:, 0]
    return numpy(torch.cat([features[0], torch.where(chosen, fill, features[0])]))


class InfidelityNLP(_OfTokens):
    """How far an explanation is from saying by how much the probability falls when tokens become padding; 0 is best.

    Source: Yeh et al. 2019. The first and the last token (as [CLS] and [SEP]) stay.

    Attributes:
        results: of the last text: predict, proba_diff, explanation, infid.

    >>> class Tokenizer:
    ...     pad_token_id = 0
    ...     def __call__(self, text, max_seq_len=128):
    ...         return {"input_ids": [1, 4, 5, 6, 2]}
    >>> model = torch.nn.Sequential(torch.nn.Embedding(8, 2), torch.nn.Flatten(), torch.nn.Linear(10, 2))
    >>> InfidelityNLP(model).evaluate("three words here", [0, 3, 1, 2, 0], Tokenizer()) >= 0
    True
    """

    results: Mapping[str, Any] = {}

    def evaluate(
        self,
        raw_text: Any,
        explanation: Any,
        tokenizer: Any,
        max_seq_len: int = 128,
        is_random_samples: bool = False,
        recompute: bool = False,
        batch_size: int | None = None,
        seed: int | None = None,
    ) -> float:
        """The infidelity, of the predicted class's probability.

        Args:
            raw_text: one text.
            explanation: a number for each token that the tokenizer returns.
            tokenizer: makes the model's inputs; its `pad_token_id` stands in for tokens.
            max_seq_len: tokens at most.
            is_random_samples: 1 to 5 % of the tokens at random, 40 times each, for long texts; else all runs of 1 to 5 tokens.
            recompute: kept for InterpretDL's sake: nothing is kept from one text to the next.
            batch_size: texts per call at most; None: as many as memory allows.
            seed: of the random samples; None: by torch's random state, which is left as it is.

        Raises:
            InputError: a text without words, or too short for random samples; another number of relevances than tokens.
            OptionError: the tokenizer has no padding.
        """
        text, values, length, pad = self._tokens(raw_text, explanation, tokenizer, max_seq_len)
        ids = text.tensors[0]
        rows = random_masks(length, seed=seed) if is_random_samples else ngrams(length)
        steps = masks((ids,), F.pad(rows, (0, ids.shape[1] - length)).to(ids.device))
        with evaluating(self.model):
            view = self._view(text, None, "probability")
            found = responses(view, values, steps, torch.full_like(ids, pad), Run(batch_size))
        self.results = results_of(self, found, explanation)
        return float(self.results["infid"])
