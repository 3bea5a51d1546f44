"""Captum's `LLMAttributionResult`: attributions of a generated text, over Pellucid's `Generated`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import InputError, OptionError
from ...language.result import Generated
from .interpretable import ImageMaskInput, InterpretableInput, TextTemplateInput

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ...show.frame import Sheet

__all__ = ["LLMAttributionResult"]

CAPTUMS = {"sequence": "seq_attr", "matrix": "token_attr", "probabilities": "output_probs"}


class LLMAttributionResult:
    """What a generated text rests on; in a notebook a token that is pointed at shows what it rests on in the prompt.

    Attributes:
        input_tokens: a name for each feature of the prompt.
        output_tokens: the generated tokens.
        inp: what the features belong to, where it is known.
        record: what else is known for `generated()`: fields of `Generated`, such as `method` and `measure`.

    >>> LLMAttributionResult(input_tokens=["sky", "is"], output_tokens=["blue"], seq_attr=[2.0, 0.5]).seq_attr_dict
    {'sky': 2.0, 'is': 0.5}
    """

    def __init__(
        self,
        *,
        input_tokens: list[str],
        output_tokens: list[str],
        seq_attr: Any,
        token_attr: Any = None,
        output_probs: Any = None,
        inp: InterpretableInput | None = None,
    ) -> None:
        self.input_tokens, self.output_tokens, self.inp = input_tokens, output_tokens, inp
        self.record: dict[str, Any] = {}
        self._seq_attr, self._token_attr, self._output_probs = _tensor(seq_attr), _optional(token_attr), _optional(output_probs)
        self._check()

    def _check(self) -> None:
        try:
            self.generated()
        except InputError as error:
            name, _, rule = str(error).partition(" ")
            raise InputError(f"{CAPTUMS.get(name, name)} {rule}") from error

    def generated(self) -> Generated:
        """The same as Pellucid's own record, with its pictures, its page and its JSON."""
        known: dict[str, Any] = {
            "units": tuple(map(str, self.input_tokens)),
            "tokens": tuple(map(str, self.output_tokens)),
            "sequence": self._seq_attr.detach(),
            "matrix": None if self._token_attr is None else self._token_attr.detach(),
            "probabilities": None if self._output_probs is None else self._output_probs.detach(),
            "measure": "score",  # a probability or its logarithm; arguments of Captum's result do not say
            "parts": self._parts(),
        }
        return Generated(**known | self.record)

    def _parts(self) -> tuple[tuple[str, int | None], ...]:
        """The prompt in its own words, where a template says them; features are its segments, whatever their groups."""
        if not isinstance(self.inp, TextTemplateInput) or len(self.inp.values) != len(self.input_tokens):
            return ()
        return self.inp.segments.parts(by_segment=True)

    @property
    def seq_attr(self) -> Tensor:
        """`(features,)`, attributions of the whole generated text."""
        return self._seq_attr

    @seq_attr.setter
    def seq_attr(self, seq_attr: Any) -> None:
        self._set("_seq_attr", _tensor(seq_attr))

    @property
    def token_attr(self) -> Tensor | None:
        """`(tokens, features)`, attributions of each token; None where the method gives none."""
        return self._token_attr

    @token_attr.setter
    def token_attr(self, token_attr: Any) -> None:
        self._set("_token_attr", _optional(token_attr))

    @property
    def output_probs(self) -> Tensor | None:
        """`(tokens,)`, the probability of each token."""
        return self._output_probs

    @output_probs.setter
    def output_probs(self, output_probs: Any) -> None:
        self._set("_output_probs", _optional(output_probs))

    def _set(self, name: str, value: Tensor | None) -> None:
        """Refuse what does not fit, and stay as it was then."""
        before = getattr(self, name)
        setattr(self, name, value)
        try:
            self._check()
        except InputError:
            setattr(self, name, before)
            raise

    @property
    def seq_attr_dict(self) -> dict[str, float]:
        """Attributions by name; a name that comes again is followed by its number, so that none is lost: "the", "the (2)"."""
        found: dict[str, float] = {}
        for name, value in zip(self.input_tokens, self._seq_attr.tolist(), strict=True):
            again, key = 1, name
            while key in found:
                again += 1
                key = f"{name} ({again})"
            found[key] = value
        return found

    def plot_token_attr(self, show: bool = False) -> tuple[Figure, Axes] | None:
        """A heat map of output tokens by features; the figure and its axes, or None if shown at once.

        Raises:
            OptionError: there is no `token_attr`.
        """
        from ...show.generated import heat_map

        if self._token_attr is None:
            raise OptionError("token_attr is None: single tokens were not attributed; plot_seq_attr draws the whole text")
        return _shown(*heat_map(self.generated(), _room, sequence=False), show)

    def plot_seq_attr(self, show: bool = False) -> tuple[Figure, Axes] | None:
        """Bars of the whole text's attributions in the order of the prompt; the figure and its axes, or None if shown at once."""
        from ...show.generated import bars

        return _shown(*bars(self.generated(), _room, top=max(1, len(self.input_tokens))), show)

    def plot_image_heatmap(
        self,
        show: bool = False,
        target_token_pos: int | tuple[int, int] | None = None,
        border_width: int = 2,
        show_legends: bool = True,
    ) -> tuple[Figure, Axes] | None:
        """The image in the colours of its regions' attributions: of the whole text, a token, or tokens from m up to n.

        Raises:
            InputError: the input is no `ImageMaskInput`, or there are no such tokens. OptionError: there is no `token_attr`.
        """
        from ...show.canvas import canvas
        from ...show.regions import attributed

        if not isinstance(self.inp, ImageMaskInput):
            raise InputError(f"plot_image_heatmap draws the regions of an image; inp is {type(self.inp).__name__}, not an ImageMaskInput")
        values = self._at(target_token_pos)
        figure, axes = canvas(None, True, (6.4, 4.8))
        attributed(axes, self.inp.regions, values, border_width, show_legends)
        return _shown(figure, axes, show)

    def _at(self, place: int | tuple[int, int] | None) -> Tensor:
        if place is None or isinstance(place, int):
            return self.generated().of(place)
        if self._token_attr is None:
            return self.generated().of(0)
        rows = self._token_attr[slice(*place)]
        if not len(rows):
            raise InputError(
                f"target_token_pos={place!r} has none of the {len(self.output_tokens)} tokens; give (first, one after the last)"
            )
        return rows.sum(0)

    def _repr_html_(self) -> str:
        return self.generated()._repr_html_()

    def __rich__(self) -> Any:
        return self.generated().__rich__()

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in ("input_tokens", "output_tokens", "seq_attr", "token_attr"))
        return f"LLMAttributionResult({values}, output_probs={self._output_probs!r}, inp={self.inp!r})"


def _tensor(values: Any) -> Tensor:
    return values if isinstance(values, Tensor) else torch.as_tensor(values)


def _optional(values: Any) -> Tensor | None:
    return None if values is None else _tensor(values)


def _room(width: float, height: float, notes: Sequence[str]) -> Sheet:
    """A sheet of pyplot's, which shows it and closes it; without a heading."""
    from matplotlib import pyplot

    from ...show.frame import Sheet

    figure = pyplot.figure(figsize=(width, height + 0.2 * len(notes)))
    for line, note in enumerate(notes):
        figure.text(0.02, 0.2 * (len(notes) - line - 0.5) / figure.get_figheight(), f"⚠ {note}", fontsize=9, va="center")
    return Sheet(figure, 0.0, 0.2 * len(notes))


def _shown(figure: Figure, axes: Axes, show: bool) -> tuple[Figure, Axes] | None:
    from ...show.canvas import present
    from ...show.fitting import legible

    legible(figure)
    present(show)
    return None if show else (figure, axes)
