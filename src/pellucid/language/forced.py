"""An answer that is forced on a model with its graph: all of its tokens' log-probabilities in one pass, which gradients go back through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..inputs import joined
from ..picks import Every
from ..view import InputView, at_input
from .in_place import in_place
from .interpretable import presence
from .prompt import Prompt, TokenPrompt
from .reader import Reader, logits_of

__all__ = ["Forced", "by_unit", "forced_view"]


@dataclass(frozen=True, eq=False)
class Forced:
    """The log-probability of each of an answer's tokens `(rows, T)`, as a function of which units are there, `(rows, units)`.

    Attributes:
        model: see `pellucid.language.log_likelihood`.
        prompt: in place, as by `in_place`.
        answer: its token ids.
    """

    model: Callable[..., Any]
    reader: Reader
    prompt: TokenPrompt
    answer: tuple[int, ...]

    def __call__(self, there: Tensor) -> Tensor:
        """One call of the model.

        Raises:
            InputError: anything but ones and zeros: between them lies no token, but a path of embeddings.
        """
        choices = [tuple(int(not own) for own in row) for row in presence(there, self.prompt.size).tolist()]
        ids = torch.tensor(self.prompt.rows(choices), device=self.reader.device)
        asked = torch.tensor(self.answer, device=ids.device).expand(len(ids), -1)
        logits = self._logits(ids, asked[:, :-1]).to(self.reader.dtype)
        return logits.log_softmax(2).gather(2, asked[:, :, None])[:, :, 0]

    def _logits(self, ids: Tensor, before: Tensor) -> Tensor:
        """`(rows, T, vocabulary)`."""
        keep, start = len(self.answer), self.reader.start
        settings: dict[str, Any] = {"use_cache": False}
        if start is None:
            ids = torch.cat([ids, before], 1)
            settings["logits_to_keep"] = keep
        else:
            settings["decoder_input_ids"] = torch.cat([torch.full_like(ids[:, :1], start), before], 1)
        settings["attention_mask"] = torch.ones_like(ids)
        known = {name: value for name, value in settings.items() if name in self.reader.takes}
        output = self.model(input_ids=ids, **known) if "input_ids" in self.reader.takes else self.model(ids, **known)
        return logits_of(output, len(ids), keep)

    @property
    def units(self) -> list[int | None]:
        """For each token of the prompt, the unit that it belongs to."""
        return [slot.unit for slot in self.prompt.slots for _ in slot.forms[0]]

    @property
    def together(self) -> int:
        """How many tokens' gradients may go back together: each has one of all logits."""
        vocabulary = int(getattr(getattr(self.model, "config", None), "vocab_size", None) or 2**16)
        return max(1, self.reader.room // (len(self.answer) * vocabulary * 8))


def forced_view(model: Callable[..., Any], prompt: Prompt, answer: Sequence[int]) -> InputView:
    """The view of the log-probability of each of an answer's tokens, `(T, rows)`, as a function of the units that are there.

    The units themselves have no gradient; at a layer (`pellucid.at_layer`), the embeddings say, every gradient method applies.
    Law: each score is that of `pellucid.language.log_likelihood`.

    Raises:
        InputError: a prompt with stand-ins of another length; see `in_place`.

    >>> from pellucid import at_layer
    >>> from pellucid.gradient import integrated_gradients
    >>> from pellucid.language import token_prompt
    >>> tied = torch.nn.Embedding(9, 9)
    >>> view = at_layer(forced_view(tied, token_prompt([3, 4], stand_in=0), [6, 7]), tied)
    >>> integrated_gradients(view, (torch.zeros_like(view.features[0]),)).values[0].shape
    torch.Size([2, 1, 3, 9])
    """
    reader = Reader.of(model)
    made = Forced(model, reader, in_place(prompt), tuple(answer))
    return at_input(made, torch.ones(1, made.prompt.size, dtype=reader.dtype, device=reader.device), Every())


def by_unit(values: Tensor, units: Sequence[int | None], count: int) -> Tensor:
    """Attributions `(T, 1, positions, ...)` of a layer as those of so many units, `(T, count)`: the sums over their tokens,
    in float32 at least.

    Raises:
        InputError: a layer whose second dimension is not the positions of the prompt and of the answer.
    """
    if values.dim() < 4 or values.shape[2] < len(units):
        raise InputError(
            f"the layer holds {tuple(values.shape[1:])} for a prompt of {len(units)} tokens; choose one that returns (1, positions, ...), "
            "such as the embedding or a block"
        )
    by_token = joined((values[:, 0, : len(units)],), 2).sum(2)
    found = by_token.new_zeros(len(values), count)
    places = torch.tensor([i for i, own in enumerate(units) if own is not None], device=found.device)
    owners = torch.tensor([own for own in units if own is not None], device=found.device)
    return found.index_add(1, owners, by_token[:, places])
