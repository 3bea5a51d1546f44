"""What matters over a whole data set: the mean importance of each column or token, with its standard error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InputError
from ..explanation import Explanation
from ..show.scale import array_of, one_of, pooled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["KINDS", "Importance", "importance"]


@dataclass(frozen=True, eq=False)
class Importance:
    """What matters over a data set: a number for each column (or token), the standard error over examples, how often it came.

    Attributes:
        names: of the columns or tokens, the most important first.
        values, errors: `(n,)`; the error is NaN of what came once.
        counts: `(n,)`, in how many examples (places) it came.
        kind: how single attributions were put together.
        source: the method and the target.
    """

    names: tuple[str, ...]
    values: Tensor
    errors: Tensor
    counts: Tensor
    kind: str
    source: str

    def __len__(self) -> int:
        return len(self.names)

    def draw(self, *, top: int = 20, width: float = 7.0) -> Figure:
        """Bars, the most important first, with whiskers of one standard error."""
        from ..show.table import draw_importance

        return draw_importance(self, top, width)

    def __rich__(self) -> Any:
        from ..show.terminal import ranking

        return ranking(self)


KINDS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "mean_abs": torch.abs,
    "normlime": lambda rows: rows.square() / rows.abs().sum(1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny),
}


def importance(
    explanation: Explanation | Sequence[Explanation],
    kind: str = "mean_abs",
    *,
    ids: Tensor | None = None,
    words: Callable[[int], str] | None = None,
) -> Importance:
    """What matters over all examples of an explanation, or of several.

    Args:
        explanation: of a table, or of texts.
        kind: "mean_abs", the mean of `|w_ij|` over the examples i in which j comes; "normlime", of `w_ij^2 / sum_k |w_ik|`, so
            that a strong attribution counts more where it stands out (Ahern et al. 2019).
        ids: of texts, the token ids `(B, L)`; not needed where they are what was explained.
        words: the token of an id, `tokenizer.convert_ids_to_tokens`.

    Raises:
        OptionError: an unknown kind. InputError: attributions that are not one for each column or token.

    >>> from pellucid.tables import explain_table
    >>> rows = [[41, "clerk"], [23, "smith"]]
    >>> found = explain_table(lambda rows: [row[0] for row in rows], rows, background=[[30, "clerk"]], columns=["age", "job"])
    >>> importance(found).names, importance(found).values.tolist()
    (('age', 'job'), [9.0, 0.0])
    """
    weigh = KINDS[one_of(kind, KINDS, "kind")]
    several = [explanation] if isinstance(explanation, Explanation) else list(explanation)
    if not several:
        raise InputError("there is no explanation; give at least one")
    given = [None] * len(several) if ids is None else list(ids.split([len(each) for each in several]))
    each = [_occurrences(one, own) for one, own in zip(several, given, strict=True)]
    names = several[0].display.names if several[0].display.kind != "text" else ()
    if any(one.display.names != names for one in several if one.display.kind != "text"):
        raise InputError("the explanations have different columns; importance is of the same columns in all")
    weights = torch.cat([weigh(rows).flatten() for rows, _ in each])
    known, at, counts = torch.cat([own.flatten() for _, own in each]).unique(return_inverse=True, return_counts=True)
    means = weights.new_zeros(len(known)).index_add_(0, at, weights) / counts
    squares = weights.new_zeros(len(known)).index_add_(0, at, (weights - means[at]).square())
    errors = (squares / (counts - 1) / counts).sqrt()
    order = means.nan_to_num(torch.inf).argsort(descending=True, stable=True)
    called = [_called(int(i), names, words) for i in known[order]]
    source = f"{several[0].method.replace('_', ' ')} of {several[0].target}"
    return Importance(tuple(called), means[order], errors[order], counts[order], kind, source)


def _occurrences(explanation: Explanation, ids: Tensor | None) -> tuple[Tensor, Tensor]:
    """One number for each column or token of every example, and what it is about, `(B, n)` each."""
    values = array_of(explanation.attribution)
    rows = torch.from_numpy(pooled(values, tuple(range(2, values.ndim)), explanation.display.pooling))
    if explanation.display.kind == "text":
        ids = explanation.features[0] if ids is None else ids
        if ids.is_floating_point() or ids.shape != rows.shape:
            raise InputError(
                f"ids have shape {tuple(ids.shape)} ({ids.dtype}); importance of texts needs token ids {tuple(rows.shape)}: ids="
            )
        return rows, ids.cpu().long()
    return rows, torch.arange(rows.shape[1]).expand(rows.shape)


def _called(i: int, names: Sequence[str], words: Callable[[int], str] | None) -> str:
    return words(i) if words else names[i] if i < len(names) else f"token {i}" if not names else f"feature {i}"
