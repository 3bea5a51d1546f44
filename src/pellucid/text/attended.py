"""Inside a model that reads text: what each layer holds of each token, and what each of its attention heads does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ..attention import Heads, heads_of
from ..attention.heads import alike
from ..batch import Run
from ..errors import InputError, OptionError
from ..gradient import integrated_gradients
from ..inputs import Tensors, accurate, expanded
from ..inside import Layer, lifted, placed
from ..question import Question
from .meaning import plain
from .reading import Reading, read
from .tokens import Text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["HeadMaps", "LayerMaps", "head_maps", "layer_maps"]

By = Literal["head", "token"]


@dataclass(frozen=True, eq=False)
class LayerMaps:
    """What the layers of a model hold of each token.

    Attributes:
        layers: their names.
        values: `(layers, B, L)`, the part of the score of each token at each layer.
        gaps: `(layers, B)`, how far a layer's values are from the change of the score.
        tokens: of each example; None where it has none.
        target: what is explained.
    """

    layers: tuple[str, ...]
    values: Tensor
    gaps: Tensor
    tokens: tuple[tuple[str | None, ...], ...]
    target: str

    def draw(self, example: int = 0, width: float = 7.0) -> Figure:
        """A heat map: a row for each layer, the first at the top, and a column for each token."""
        from ..show.heat import Panel, draw_heat

        there = [i for i, token in enumerate(self.tokens[example]) if token is not None]
        names = tuple(plain(self.tokens[example][i] or "") for i in there)
        panel = Panel(self.values[:, example][:, there], alike(self.layers), names, "parts of the score", True, "layer")
        return draw_heat([panel], f"explains {self.target}", "each layer's tokens, by integrated gradients", width)


@dataclass(frozen=True, eq=False)
class HeadMaps:
    """What the attention heads of a model do for a score: `heads`, and the tokens that they look at."""

    heads: Heads
    tokens: tuple[tuple[str | None, ...], ...]
    target: str

    def matrix(self, what: str = "values", by: By = "head", example: int = 0) -> Tensor:
        """One number for each layer and head, `(layers, heads)`, or for each layer and token, `(layers, tokens)`.

        Of "values" the sum: the part of the score. Of "norms" the mean over tokens of what is added for them, all that they look at
        together; for each token looked at, of all heads together. Of "weights", for each token looked at, the mean over queries and
        heads; each head's weights add up to one, so that it has no number of its own.

        Raises:
            OptionError: something else.
        """
        if what not in ("values", "norms", "weights") or by not in ("head", "token") or (what, by) == ("weights", "head"):
            raise OptionError(f"what is {what!r}, by {by!r}; give 'values' or 'norms' by 'head' or 'token', or 'weights' by 'token'")
        there = [i for i, token in enumerate(self.tokens[example]) if token is not None]
        found: Tensor = getattr(self.heads, what)[:, example]
        if by == "head":
            return found[:, :, there].sum((2, 3)) / (1 if what == "values" else len(there))
        if what == "values":
            return found[..., there].sum((1, 2))
        looks = self.heads.together[:, example] if what == "norms" else found.mean(1)
        chosen: Tensor = looks[:, there][:, :, there].mean(1)
        return chosen

    def draw(self, by: By = "head", example: int = 0, width: float = 7.0) -> Figure:
        """Heat maps beside each other, rows are layers: the score's parts, and norms; of tokens the weights too."""
        from ..show.heat import Panel, draw_heat

        tokens = tuple(plain(token) for token in self.tokens[example] if token is not None)
        rows = alike(self.heads.names)
        columns = tokens if by == "token" else tuple(map(str, range(self.heads.values.shape[2])))
        said = {"values": "parts of the score", "norms": "length of what is added", "weights": "attention"}
        panels = [
            Panel(self.matrix(what, by, example), rows, columns, words, what == "values", "layer", "head" if by == "head" else "")
            for what, words in said.items()
            if (what, by) != ("weights", "head")
        ]
        return draw_heat(panels, f"explains {self.target}", f"attention by layer and {by}", width)


def head_maps(
    model: Callable[..., Any],
    inputs: Any,
    target: Any = None,
    *,
    tokenizer: Any = None,
    baselines: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    classes: Sequence[str] = (),
    steps: int = 20,
    start: str = "reference",
    pattern: str | None = None,
    at_most: int | None = None,
) -> HeadMaps:
    """Each layer's and head's part of a score, by integrated gradients of its attention, beside weights and norms.

    Args:
        model, inputs, target, tokenizer, baselines, kwargs, classes, at_most: as for `pellucid.explain`.
        steps, start, pattern: as for `pellucid.attention.heads_of`, which has the sources.

    Raises:
        InputError, OptionError, TargetError: as `pellucid.explain` and `pellucid.attention.heads_of`.

    >>> import torch; from torch import nn
    >>> class Reader(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.words, self.head = nn.Embedding(9, 8), nn.Linear(8, 2)
    ...         self.mix = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    ...     def forward(self, input_ids):
    ...         return self.head(self.mix(self.words(input_ids)).mean(1))
    >>> found = head_maps(Reader().eval(), {"input_ids": torch.tensor([[3, 1, 4, 1]])}, 1, baselines=0)
    >>> found.matrix("norms").shape, found.matrix("values", "token").shape
    (torch.Size([1, 2]), torch.Size([1, 4]))
    """
    reading, run = _read(Question(model, inputs, target, "", baselines, (), kwargs, tuple(classes), tokenizer=tokenizer), at_most)
    found = heads_of(reading.view, _baselines(reading), steps, start, pattern, run)
    return HeadMaps(found, _tokens(reading, found.values.shape[-1]), str(reading.asked.target))


def layer_maps(
    model: Callable[..., Any],
    inputs: Any,
    target: Any = None,
    *,
    layers: Sequence[Layer] = (),
    tokenizer: Any = None,
    baselines: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    classes: Sequence[str] = (),
    steps: int = 50,
    at_most: int | None = None,
) -> LayerMaps:
    """Each token's part of a score at each layer, by integrated gradients of what the layer returns.

    At each layer they add up to the change of the score, if all of it passes through what the layer returns: completeness.
    Source: Sundararajan, Taly, Yan 2017, equation 1, at layers.

    Args:
        model, inputs, target, tokenizer, baselines, kwargs, classes, at_most: as for `pellucid.explain`.
        layers: modules or their names; by default those of the longest `nn.ModuleList` that lies in no other.
        steps: gradients for each layer and example.

    Raises:
        OptionError: no such layer. InputError: a layer without one vector for each token.
    """
    reading, run = _read(Question(model, inputs, target, "", baselines, (), kwargs, tuple(classes), tokenizer=tokenizer), at_most)
    view, starts = reading.view, _baselines(reading)
    length = max(part.feature.shape[1] for part in reading.parts)
    found, gaps, names = [], [], []
    for layer in layers or _blocks(reading.roots):
        seen = run.place(view, layer)
        inner = placed(view, seen.place, seen.features)
        one = integrated_gradients(inner, lifted(view, seen.place, starts), steps, run=run)
        own = [value[0].sum(-1) for value in one.values if value.dim() == 4 and value.shape[2] == length]
        if not own:
            raise InputError(f"{seen.place.words} holds no vector for each of {length} tokens; name others: layers=[...]")
        found.append(torch.stack(own).sum(0).to(accurate(own[0].dtype)))
        gaps.append(one.difference[0])
        names.append(seen.place.names[0])
    return LayerMaps(tuple(names), torch.stack(found), torch.stack(gaps), _tokens(reading, length), str(reading.asked.target))


def _read(asked: Question, at_most: int | None) -> tuple[Reading, Run]:
    run = Run(at_most)
    return read(asked, "integrated_gradients", {}, run), run


def _baselines(reading: Reading) -> Tensors:
    asked = reading.asked
    return expanded(asked.inputs, asked.baselines)


def _tokens(reading: Reading, length: int) -> tuple[tuple[str | None, ...], ...]:
    texts = (part.text for part in reading.parts)
    text: Text | None = next((t for t in texts if t is not None and t.tokens and t.ids.shape[1] == length), None)
    numbered = tuple(f"token {i}" for i in range(length))
    return text.tokens if text is not None else (numbered,) * len(reading.parts[0].feature)


def _blocks(roots: Sequence[nn.Module]) -> list[str]:
    """The names of the layers of the longest list of layers that lies in no other."""
    lists = {name: module for root in roots for name, module in root.named_modules() if isinstance(module, nn.ModuleList) and len(module)}
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if not outer:
        raise OptionError("the model has no nn.ModuleList of layers; name the layers: layers=[...]")
    name = max(outer, key=lambda own: len(lists[own]))
    return [f"{name}.{i}" for i in range(len(lists[name]))]
