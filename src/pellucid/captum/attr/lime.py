"""Captum's LIME: `LimeBase` with functions of the user's, `Lime` with its defaults."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from ...batch import Run
from ...errors import OptionError, OutputError, warn
from ...inputs import Tensors, expanded
from ...perturb import Groups, groups_of
from ...seeds import generator, resolve_seed
from ...view import InputView
from ..linear_model import LinearModel, Model, SkLearnLasso
from .base import BaselineType, PerturbationAttribution, TargetType, as_tuple
from .perturbation import at_once

__all__ = ["Lime", "LimeBase", "get_exp_kernel_similarity_function"]


class LimeBase(PerturbationAttribution):
    """A simple model fitted to the outputs of perturbed inputs, with functions that perturb, compare and translate."""

    def __init__(
        self,
        forward_func: Callable[..., Any],
        interpretable_model: Model,
        similarity_func: Callable[..., Any],
        perturb_func: Callable[..., Any],
        perturb_interpretable_space: bool,
        from_interp_rep_transform: Callable[..., Any] | None,
        to_interp_rep_transform: Callable[..., Any] | None,
    ) -> None:
        super().__init__(forward_func)
        self.interpretable_model, self.similarity_func, self.perturb_func = interpretable_model, similarity_func, perturb_func
        self.perturb_interpretable_space = perturb_interpretable_space
        self.from_interp_rep_transform, self.to_interp_rep_transform = from_interp_rep_transform, to_interp_rep_transform
        needed = "from_interp_rep_transform" if perturb_interpretable_space else "to_interp_rep_transform"
        if getattr(self, needed) is None:
            raise OptionError(f"{needed} is None, but perturb_interpretable_space={perturb_interpretable_space} needs it; give a function")

    def attribute(
        self,
        inputs: Any,
        target: TargetType = None,
        additional_forward_args: Any = None,
        n_samples: int = 50,
        perturbations_per_eval: int = 1,
        show_progress: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        """The fitted model's representation, `(1, features)`; `kwargs` go to the functions.

        `perturbations_per_eval=1`, the default, leaves it to the program how much is evaluated at once.
        """
        view = self._view(inputs, target, additional_forward_args)
        return self._fitted(view, inputs, n_samples, Run(at_once(perturbations_per_eval, 1), show_progress), kwargs)

    def _fitted(self, view: InputView, inputs: Any, n_samples: int, run: Run, kwargs: dict[str, Any]) -> Tensor:
        if n_samples < 1:
            raise OptionError(f"n_samples is {n_samples}; at least one is needed")
        with torch.no_grad():
            samples = [pair for _, pair in zip(range(n_samples), self._perturbed(inputs, kwargs), strict=False)]
            if len(samples) < n_samples:
                warn("samples", f"perturb_func gave {len(samples)} samples where n_samples asks for {n_samples}; these are used")
            similarities = [torch.as_tensor(self.similarity_func(inputs, point, z, **kwargs)).flatten() for z, point in samples]
            scores = _scores(view, [as_tuple(point) for _, point in samples], run)
            interpretable = torch.cat([z for z, _ in samples]).float()
            return self._fit(interpretable, scores.float(), torch.cat(similarities).float())

    def _fit(self, interpretable: Tensor, scores: Tensor, weights: Tensor) -> Tensor:
        batch = interpretable, scores, weights.to(scores.device)
        # Our own takes the batch whole; a loader takes it apart, example by example.
        own = isinstance(self.interpretable_model, LinearModel)
        with torch.random.fork_rng(devices=[]):  # a new layer draws its weights, and a loader a number
            self.interpretable_model.fit([batch] if own else DataLoader(TensorDataset(*batch), batch_size=len(scores)))
        return self.interpretable_model.representation()

    def _perturbed(self, inputs: Any, kwargs: dict[str, Any]) -> Iterator[tuple[Tensor, Any]]:
        """Interpretable samples, and the inputs that they stand for."""
        if inspect.isgeneratorfunction(self.perturb_func):
            samples: Iterator[Any] = self.perturb_func(inputs, **kwargs)
        else:
            samples = iter(lambda: self.perturb_func(inputs, **kwargs), object())
        for sample in samples:
            if self.perturb_interpretable_space and self.from_interp_rep_transform is not None:
                yield sample, self.from_interp_rep_transform(sample, inputs, **kwargs)
            elif self.to_interp_rep_transform is not None:
                yield self.to_interp_rep_transform(sample, inputs, **kwargs), sample

    def attribute_future(self) -> None:
        """Not for LIME, in Captum neither."""
        raise NotImplementedError(f"attribute_future is not implemented for {type(self).__name__}")

    @property
    def multiplies_by_inputs(self) -> bool:
        """Never: what the surrogate sees is up to its functions."""
        return False


def _scores(view: InputView, points: list[Tensors], run: Run) -> Tensor:
    """The score of each point, one example each."""

    def some(_: slice, steps: slice) -> Tensors:
        return tuple(torch.stack(parts) for parts in zip(*points[steps], strict=True))

    found = run.scores(view, len(points), some, "lime")
    if found.shape[0] * found.shape[2] != 1:
        raise OutputError(
            f"the model returns {found.shape[0] * found.shape[2]} numbers for one perturbed input; one is needed: give a target"
        )
    return found.flatten()


def get_exp_kernel_similarity_function(distance_mode: str = "cosine", kernel_width: float = 1.0) -> Callable[..., float]:
    """`exp(-d^2 / (2 width^2))`, with d the cosine or euclidean distance between the inputs."""
    if distance_mode not in ("cosine", "euclidean"):
        raise OptionError(f"distance_mode is {distance_mode!r}; it must be 'cosine' or 'euclidean'")

    def similarity(original_inp: Any, perturbed_inp: Any, __: Any, **kwargs: Any) -> float:
        original, perturbed = (_flat(as_tuple(inputs)).view(1, -1) for inputs in (original_inp, perturbed_inp))
        return float(_kernel(distance_mode, kernel_width, original, perturbed))

    similarity.kernel = distance_mode, kernel_width  # type: ignore[attr-defined]
    return similarity


def _flat(tensors: Tensors) -> Tensor:
    return torch.cat([t.flatten(1).float() for t in tensors], 1)


def _kernel(mode: str, width: float, original: Tensor, perturbed: Tensor) -> Tensor:
    if mode == "cosine":
        distance = 1 - torch.nn.functional.cosine_similarity(original, perturbed, dim=1)
    else:
        distance = (original - perturbed).norm(dim=1)
    return (-distance.square() / (2 * width**2)).exp()


def default_perturb_func(original_inp: Any, **kwargs: Any) -> Tensor:
    """Half of the interpretable features, at random."""
    return torch.bernoulli(torch.full((1, kwargs["num_interp_features"]), 0.5)).long().to(as_tuple(original_inp)[0].device)


def default_from_interp_rep_transform(curr_sample: Tensor, original_inputs: Any, **kwargs: Any) -> Any:
    """The inputs, with the baseline where the sample has a feature at zero."""
    masks, baselines = as_tuple(kwargs["feature_mask"]), as_tuple(kwargs["baselines"])
    found = tuple(
        torch.where(curr_sample[0].to(m.device)[m].bool(), x, torch.as_tensor(b).to(x))
        for m, x, b in zip(masks, as_tuple(original_inputs), baselines, strict=True)
    )
    return found if isinstance(original_inputs, tuple) else found[0]


class Lime(LimeBase):
    """LIME: random halves of the features, weighted by nearness, and a lasso."""

    def __init__(
        self,
        forward_func: Callable[..., Any],
        interpretable_model: Model | None = None,
        similarity_func: Callable[..., Any] | None = None,
        perturb_func: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__(
            forward_func,
            interpretable_model or SkLearnLasso(alpha=0.01),
            similarity_func or get_exp_kernel_similarity_function(),
            perturb_func or default_perturb_func,
            True,
            default_from_interp_rep_transform,
            None,
        )

    def attribute(  # type: ignore[override]
        self,
        inputs: Any,
        baselines: BaselineType = None,
        target: TargetType = None,
        additional_forward_args: Any = None,
        feature_mask: Tensor | tuple[Tensor, ...] | None = None,
        n_samples: int = 25,
        perturbations_per_eval: int = 1,
        return_input_shape: bool = True,
        show_progress: bool = False,
    ) -> Any:
        """Attributions of the inputs' shape, or `(B, features)` coefficients without `return_input_shape`.

        A model that returns one value for the whole batch gets one set of coefficients.
        """
        view = self._view(inputs, target, additional_forward_args)
        starts, groups = expanded(view.features, baselines), groups_of(view.features, feature_mask)
        run = Run(at_once(perturbations_per_eval, 1), show_progress)
        alone = view.size == 1 or self._one_for_all(view)
        parts = [(view, starts, groups)] if alone else [_example(view, starts, groups, i) for i in range(view.size)]
        found = torch.cat([self._coefficients(*part, n_samples, run) for part in parts])
        if not found.any():
            warn(
                "signal", "all coefficients are zero: the surrogate's penalty is too strong for this score; use another alpha or surrogate"
            )
        if not return_input_shape:
            return found
        by_feature = _in_shape(found, groups, view.features)
        return by_feature if isinstance(inputs, tuple | list) else by_feature[0]

    def _one_for_all(self, view: InputView) -> bool:
        scores = Run().here(view)
        if scores.shape[1] not in (1, view.size):
            raise OutputError(
                f"the model returns {scores.shape[1]} scores for {view.size} examples; one for each, or one for all, is needed"
            )
        return scores.shape[1] == 1

    def _coefficients(self, view: InputView, starts: Tensors, groups: Groups, n_samples: int, run: Run) -> Tensor:
        inputs = view.features if len(view.features) > 1 else view.features[0]
        keywords = {
            "num_interp_features": groups.count,
            "feature_mask": groups.ids if len(view.features) > 1 else groups.ids[0],
            "baselines": starts if len(view.features) > 1 else starts[0],
        }
        kernel = getattr(self.similarity_func, "kernel", None)
        if self.perturb_func is default_perturb_func and kernel is not None and type(self) is Lime and view.size == 1:
            return self._by_default(view, starts, groups, n_samples, run, kernel).view(1, -1)
        return self._fitted(view, inputs, n_samples, run, keywords).view(1, -1)

    def _by_default(self, view: InputView, starts: Tensors, groups: Groups, n_samples: int, run: Run, kernel: tuple[str, float]) -> Tensor:
        """The same with the default functions, for all samples at once."""
        kept = torch.rand(n_samples, groups.count, generator=generator(resolve_seed(None), 0)) < 0.5
        similarities: dict[int, Tensor] = {}

        def points(_: slice, steps: slice) -> Tensors:
            found = tuple(
                torch.where(kept[steps].to(i.device)[:, i[0]].unsqueeze(1), x, b)
                for i, x, b in zip(groups.ids, view.features, starts, strict=True)
            )
            similarities[steps.start] = _kernel(*kernel, _flat(view.features), _flat(tuple(f[:, 0] for f in found)))
            return found

        scores = run.scores(view, n_samples, points, "lime").flatten()
        return self._fit(kept.to(scores.device).float(), scores.float(), torch.cat([similarities[start] for start in sorted(similarities)]))


def _example(view: InputView, starts: Tensors, groups: Groups, i: int) -> tuple[InputView, Tensors, Groups]:
    one = slice(i, i + 1)
    ids = tuple(g if len(g) == 1 else g[one] for g in groups.ids)
    return view.some([i]), tuple(s[one] for s in starts), replace(groups, ids=ids)


def _in_shape(found: Tensor, groups: Groups, features: Tensors) -> Tensors:
    """Coefficients `(B or 1, groups)` as attributions of the inputs' shape, in their dtype."""
    spread = groups.spread(found.T[None])
    return tuple(s[0].to(x.dtype if x.is_floating_point() else s.dtype) for s, x in zip(spread, features, strict=True))
