"""InterpretDL's LIME over many pictures: NormLIME and its fast form, G-LIME, and LIME with a prior."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..batch import Run
from ..errors import FileError, InputError, OptionError
from ..perturb.normlime import averaged, region_features, shared_regions
from .base import evaluating, numpy
from .lime import GLOBAL, LIMECVInterpreter, Weights, of_every_class

__all__ = [
    "FastNormLIMECVInterpreter",
    "GLIMECVInterpreter",
    "LIMEPriorInterpreter",
    "NormLIMECVInterpreter",
    "saved_weights",
]


class _WithShared(LIMECVInterpreter):
    """Superpixels of different pictures as shared features: fitted to the pictures at hand instead of downloaded."""

    def __init__(self, model: Any, device: str = "gpu:0", random_seed: int | None = None, clusters: int = 50, **options: Any) -> None:
        super().__init__(model, device, random_seed, **options)
        self.clusters = clusters
        self._centres: NDArray[np.float64] | None = None

    def _fit(self, pictures_: Sequence[NDArray[np.uint8]], segments: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
        features = [region_features(picture, own) for picture, own in zip(pictures_, segments, strict=True)]
        found = shared_regions(features, self.clusters, self.random_seed or 0)
        together, numbers = np.concatenate(features), np.concatenate(found)
        self._centres = np.stack([together[numbers == k].mean(0) for k in range(int(numbers.max()) + 1)])
        return found

    def clustered(self, picture: NDArray[np.uint8], segments: NDArray[np.int64]) -> NDArray[np.int64]:
        """The nearest shared feature of each superpixel."""
        if self._centres is None:
            raise InputError("there are no shared features yet; compute global weights first")
        features = region_features(picture, segments)
        near: NDArray[np.int64] = ((features[:, None] - self._centres[None]) ** 2).sum(2).argmin(1)
        return near


class NormLIMECVInterpreter(_WithShared):
    """What counts for each class over many pictures: the normalised weights of their LIME explanations.

    Source: Ahern et al. 2019.
    """

    def interpret(  # type: ignore[override]
        self,
        image_paths: Sequence[Any],
        num_samples: int = 1000,
        batch_size: int | None = 50,
        save_path: str | Path | None = "normlime_weights.npy",
        temp_data_file: str | Path | None = None,
        resize_to: int | None = 224,
        crop_to: int | None = None,
    ) -> dict[int, dict[int, float]]:
        """`{class: {shared feature: importance}}`, also written to `save_path` as a .npy of JSON (no pickle), if one is given.

        `temp_data_file` is not needed: nothing is cached on disk.
        """
        results = []
        for image in [image_paths] if isinstance(image_paths, str | Path) else image_paths:
            weights = LIMECVInterpreter.interpret(self, image, None, 1, num_samples, batch_size, resize_to, crop_to, False)
            results.append((weights, self.lime_results["input"], self.lime_results["segmentation"]))
        if not results:
            raise InputError("image_paths is empty; give at least one picture")
        clusters = self._fit([picture for _, picture, _ in results], [segments for _, _, segments in results])
        found = _over_classes([(weights, own) for (weights, _, _), own in zip(results, clusters, strict=True)], "normlime")
        if save_path is not None:
            saved_weights(found, save_path, self._centres)
        return found


def _over_classes(results: Sequence[tuple[Weights, NDArray[np.int64]]], kind: str) -> dict[int, dict[int, float]]:
    classes = sorted({label for weights, _ in results for label in weights})
    found = {}
    for label in classes:
        renamed = [[(int(own[region]), weight) for region, weight in weights[label]] for weights, own in results if label in weights]
        found[label] = {feature: importance for feature, (importance, _) in sorted(averaged(renamed, kind).items())}
    return found


def saved_weights(weights: Mapping[int, Mapping[int, Any]], path: str | Path, centres: NDArray[np.float64] | None = None) -> None:
    """Written as text in a .npy, with what shared features look like: `numpy.load` gives a string of JSON, and no pickle is needed."""
    words = {"weights": {str(c): {str(k): v for k, v in own.items()} for c, own in weights.items()}}
    words |= {} if centres is None else {"centres": centres.tolist()}
    try:
        with Path(path).open("wb") as file:
            np.save(file, np.array(json.dumps(words)))
    except OSError as error:
        raise FileError(f"cannot write the weights to {str(path)!r}: {error}; name a file in a folder that exists") from error


def loaded_weights(path: str | Path) -> tuple[dict[int, dict[int, float]], NDArray[np.float64]]:
    """What `saved_weights` wrote of superpixels: their weights, and what they look like."""
    try:
        words = json.loads(str(np.load(Path(path), allow_pickle=False)))
        weights = {int(c): {int(k): float(v) for k, v in own.items()} for c, own in words["weights"].items()}
        return weights, np.array(words["centres"])
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise FileError(f"{str(path)!r} holds no global weights that Pellucid wrote ({error})") from error


class GLIMECVInterpreter(_WithShared):
    """LIME with a prior from other pictures.

    Source: Li et al. 2023, in InterpretDL's form. `prior_method="none"` is ridge regression without a prior, not LIME.
    """

    def __init__(self, model: Any, device: str = "gpu:0", random_seed: int | None = None, **options: Any) -> None:
        super().__init__(model, device, random_seed, **options)
        self._global: GLOBAL = {}

    def compute_global_weights(
        self, g_name: str = "normlime", list_of_lime_explanations: Sequence[Mapping[str, Any]] | None = None,
        list_file_paths: Sequence[Any] | None = None, save_path: str | Path | None = None
    ) -> dict[int, dict[int, float]]:  # fmt: skip
        """Importances of shared features, from the `lime_results` of other pictures, or from pictures to be explained first.

        Args:
            g_name: "normlime", "avg", or "square" (any other name, in InterpretDL).
        """
        results = list(list_of_lime_explanations or ())
        for image in list_file_paths or ():
            LIMECVInterpreter.interpret(self, image, visual=False)
            results.append(self.lime_results)
        if not results:
            raise InputError("there are no explanations; give list_of_lime_explanations or list_file_paths")
        clusters = self._fit([r["input"] for r in results], [r["segmentation"] for r in results])
        self._global = _over_classes([(r["lime_weights"], own) for r, own in zip(results, clusters, strict=True)], g_name)
        if save_path is not None:
            saved_weights(self._global, save_path, self._centres)
        return {label: dict(own) for label, own in self._global.items()}

    def set_global_weights(self, global_weights_info: str | Path | GLOBAL) -> None:
        """Importances from a file that was saved here, or a mapping of shared features that this object has computed.

        Raises:
            InputError: a mapping, where it is not known what its features look like.
        """
        if isinstance(global_weights_info, str | Path):
            self._global, self._centres = loaded_weights(global_weights_info)
        elif self._centres is None:
            raise InputError("numbers of shared features mean nothing without what these look like; load the file that save_path wrote")
        else:
            self._global = global_weights_info

    def interpret(  # type: ignore[override]
        self,
        data: Any,
        interpret_class: Any = None,
        top_k: int = 1,
        prior_method: str = "none",
        prior_reg_force: float = 1.0,
        num_samples: int = 1000,
        batch_size: int | None = 50,
        resize_to: int | None = 224,
        crop_to: int | None = None,
        visual: bool = True,
        save_path: Any = None,
    ) -> Weights:
        """As LIME's; `prior_method` "none" or "ridge", which uses the global weights."""
        if prior_method not in ("none", "ridge"):
            raise OptionError(f"prior_method is {prior_method!r}; choose 'none' or 'ridge'")
        if prior_method == "ridge" and not self._global:
            raise InputError(
                "there are no global weights for prior_method='ridge'; call compute_global_weights or set_global_weights first"
            )
        priors = self._global if prior_method == "ridge" else {}
        return self._interpreted(
            data, interpret_class, top_k, num_samples, batch_size, resize_to, crop_to, visual, save_path, priors, prior_reg_force
        )

    def clustered(self, picture: NDArray[np.uint8], segments: NDArray[np.int64]) -> NDArray[np.int64]:
        """The nearest shared feature; each its own where there are none."""
        return LIMECVInterpreter.clustered(self, picture, segments) if self._centres is None else super().clustered(picture, segments)


class FastNormLIMECVInterpreter(_WithShared):
    """Global importances without LIME: a ridge regression of probabilities on which shared features occur in a 10 x 10 grid.

    Source: InterpretDL (`precompute_global_prior`).
    """

    GRID = 10

    def interpret(  # type: ignore[override]
        self, image_paths: Sequence[Any], resize_to: int | None = 224, crop_to: int | None = None, batch_size: int | None = 50
    ) -> dict[int, dict[int, float]]:
        """`{class: {shared feature: coefficient}}`."""
        from sklearn.linear_model import Ridge

        several = [image_paths] if isinstance(image_paths, str | Path) else image_paths
        read = [self.pictures(image, resize_to, crop_to) for image in several]
        if not read:
            raise InputError("image_paths is empty; give at least one picture")
        cells = [_grid(one.shown.shape[1:3], self.GRID) for one in read]
        clusters = self._fit([one.shown[0] for one in read], cells)
        occurs = np.zeros((len(read), int(max(c.max() for c in clusters)) + 1))
        for row, own in enumerate(clusters):
            occurs[row, own] = 1
        with evaluating(self.model):
            chances = np.concatenate([numpy(self._chances(one.tensor, Run(batch_size))) for one in read])
        fit = Ridge(alpha=1).fit(occurs, chances)
        return {label: dict(enumerate(np.atleast_2d(fit.coef_)[label].tolist())) for label in range(chances.shape[1])}

    def _chances(self, tensor: Tensor, run: Run) -> Tensor:
        return run.here(of_every_class(self.view((tensor,), None, "probability"))).T


def _grid(shape: tuple[int, ...], cells: int) -> NDArray[np.int64]:
    rows, columns = (np.arange(n) * cells // n for n in shape)
    return np.asarray(rows[:, None] * cells + columns[None], dtype=np.int64)


class LIMEPriorInterpreter(GLIMECVInterpreter):
    """LIME with a prior computed fast: `FastNormLIMECVInterpreter`, then `prior_method="ridge"`.

    Args:
        prior_method: "none" or "ridge".
    """

    def __init__(
        self, model: Any, prior_method: str = "none", device: str = "gpu:0", random_seed: int | None = None, **options: Any
    ) -> None:
        super().__init__(model, device, random_seed, **options)
        if prior_method not in ("none", "ridge"):
            raise OptionError(f"prior_method is {prior_method!r}; choose 'none' or 'ridge' (the device comes behind it)")
        self.prior_method = prior_method

    def interpreter_init(
        self, list_file_paths: Sequence[Any] | None = None, batch_size: int = 0, weights_file_path: str | Path | None = None
    ) -> None:
        """The prior, from pictures or from a file."""
        if weights_file_path is not None and list_file_paths is None:
            self.set_global_weights(weights_file_path)
            return
        fast = FastNormLIMECVInterpreter(self.model, self.device, self.random_seed, self.clusters)
        fast.statistics = self.statistics
        self._global = fast.interpret(list(list_file_paths or ()), batch_size=batch_size or None)
        self._centres = fast._centres
        if weights_file_path is not None:
            saved_weights(self._global, weights_file_path, self._centres)

    def interpret(  # type: ignore[override]
        self,
        data: Any,
        interpret_class: Any = None,
        prior_reg_force: float = 1.0,
        num_samples: int = 1000,
        batch_size: int | None = 50,
        resize_to: int | None = 224,
        crop_to: int | None = None,
        visual: bool = True,
        save_path: Any = None,
    ) -> Weights:
        """As LIME's."""
        return super().interpret(
            data, interpret_class, 1, self.prior_method, prior_reg_force, num_samples, batch_size, resize_to, crop_to, visual, save_path
        )
