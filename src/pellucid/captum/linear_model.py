"""Captum's linear surrogates, `captum._utils.models.linear_model`: fitted by scikit-learn or by gradient descent."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import OptionError, warn

__all__ = [
    "LinearModel",
    "Model",
    "SGDLasso",
    "SGDLinearModel",
    "SGDLinearRegression",
    "SGDRidge",
    "SkLearnLasso",
    "SkLearnLinearModel",
    "SkLearnLinearRegression",
    "SkLearnLogisticRegression",
    "SkLearnRidge",
    "SkLearnSGDClassifier",
    "l2_loss",
    "sgd_train_linear_model",
    "sklearn_train_linear_model",
]

Report = dict[str, int | float | Tensor]


class Model(ABC):
    """What LIME fits: `fit` to batches of `(x, y)` or `(x, y, weight)`, then `representation` holds the coefficients."""

    @abstractmethod
    def fit(self, train_data: Iterable[Any], **kwargs: Any) -> Report | None:
        """Fit to the data."""

    @abstractmethod
    def representation(self) -> Tensor:
        """What explains: coefficients."""

    @abstractmethod
    def __call__(self, x: Any) -> Any:
        """The fitted model's predictions."""


class LinearModel(nn.Module, Model):
    """A linear layer, behind a normalisation if asked for, that `train_fn` makes and fits."""

    SUPPORTED_NORMS: tuple[str | None, ...] = (None, "batch_norm", "layer_norm")

    def __init__(self, train_fn: Callable[..., Report], **kwargs: Any) -> None:
        super().__init__()
        self.norm: nn.Module | None = None
        self.linear: nn.Linear | None = None
        self.train_fn, self.construct_kwargs = train_fn, kwargs

    def _construct_model_params(
        self,
        in_features: int | None = None,
        out_features: int | None = None,
        norm_type: str | None = None,
        affine_norm: bool = False,
        bias: bool = True,
        weight_values: Tensor | None = None,
        bias_value: Tensor | None = None,
        classes: Tensor | None = None,
    ) -> None:
        if norm_type not in self.SUPPORTED_NORMS:
            raise OptionError(f"norm_type is {norm_type!r}; it may be {', '.join(map(repr, self.SUPPORTED_NORMS))}")
        if weight_values is not None:
            in_features, out_features = weight_values.shape[-1], 1 if weight_values.dim() == 1 else len(weight_values)
        if in_features is None or out_features is None:
            raise OptionError("the size of the linear model is not known; give in_features and out_features, or weight_values")
        norms: dict[str | None, Callable[[], nn.Module | None]] = {
            None: lambda: None,
            "batch_norm": lambda: nn.BatchNorm1d(in_features, eps=1e-8, affine=affine_norm),
            "layer_norm": lambda: nn.LayerNorm(in_features, eps=1e-8, elementwise_affine=affine_norm),
        }
        self.norm, self.linear = norms[norm_type](), nn.Linear(in_features, out_features, bias=bias)
        if weight_values is not None:
            self.linear.weight.data = weight_values
        if bias_value is not None:
            if not bias:
                raise OptionError("bias_value is given, but bias is False; give one or the other")
            self.linear.bias.data = bias_value
        if classes is not None:
            self.linear.classes = classes

    def fit(self, train_data: Iterable[Any], **kwargs: Any) -> Report:
        """Fit to the data; returns training time, loss and the like."""
        return self.train_fn(self, dataloader=train_data, construct_kwargs=self.construct_kwargs, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """Predictions `(rows, outputs)`."""
        found: Tensor = self._fitted(x if self.norm is None else self.norm(x))
        return found

    @property
    def _fitted(self) -> nn.Linear:
        if self.linear is None:
            raise OptionError("the linear model has not been fitted; call fit first")
        return self.linear

    def representation(self) -> Tensor:
        """The coefficients."""
        return self._fitted.weight.detach()

    def bias(self) -> Tensor | None:
        """The intercept, if there is one."""
        return None if self.linear is None or self.linear.bias is None else self.linear.bias.detach()

    def classes(self) -> Tensor | None:
        """The classes of a classifier."""
        found = None if self.linear is None else getattr(self.linear, "classes", None)
        return None if found is None else found.detach()


def l2_loss(x1: Tensor, x2: Tensor, weights: Tensor | None = None) -> Tensor:
    """Half the (weighted) mean squared difference."""
    if weights is None:
        return (x1 - x2).pow(2).mean() / 2
    loss: Tensor = ((weights / weights.norm(p=1)) * (x1 - x2).pow(2)).sum() / 2
    return loss


class SGDLinearModel(LinearModel):
    """Fitted by stochastic gradient descent."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(train_fn=sgd_train_linear_model, **kwargs)


class SGDLasso(SGDLinearModel):
    """With an L1 penalty."""

    def fit(self, train_data: Iterable[Any], **kwargs: Any) -> Report:
        """Fit to the data."""
        return super().fit(train_data, loss_fn=l2_loss, reg_term=1, **kwargs)


class SGDRidge(SGDLinearModel):
    """With an L2 penalty."""

    def fit(self, train_data: Iterable[Any], **kwargs: Any) -> Report:
        """Fit to the data."""
        return super().fit(train_data, loss_fn=l2_loss, reg_term=2, **kwargs)


class SGDLinearRegression(SGDLinearModel):
    """Without a penalty."""

    def fit(self, train_data: Iterable[Any], **kwargs: Any) -> Report:
        """Fit to the data."""
        return super().fit(train_data, loss_fn=l2_loss, reg_term=None, **kwargs)


class SkLearnLinearModel(LinearModel):
    """Fitted by a class of scikit-learn, named by its path (`linear_model.Lasso`)."""

    def __init__(self, sklearn_module: str, **kwargs: Any) -> None:
        super().__init__(train_fn=sklearn_train_linear_model, **kwargs)
        self.sklearn_module = sklearn_module

    def fit(self, train_data: Iterable[Any], **kwargs: Any) -> Report:
        """Fit to the data."""
        return super().fit(train_data, sklearn_trainer=self.sklearn_module, **kwargs)


class SkLearnLasso(SkLearnLinearModel):
    """`sklearn.linear_model.Lasso`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("linear_model.Lasso", **kwargs)


class SkLearnRidge(SkLearnLinearModel):
    """`sklearn.linear_model.Ridge`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("linear_model.Ridge", **kwargs)


class SkLearnLinearRegression(SkLearnLinearModel):
    """`sklearn.linear_model.LinearRegression`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("linear_model.LinearRegression", **kwargs)


class SkLearnLogisticRegression(SkLearnLinearModel):
    """`sklearn.linear_model.LogisticRegression`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("linear_model.LogisticRegression", **kwargs)


class SkLearnSGDClassifier(SkLearnLinearModel):
    """`sklearn.linear_model.SGDClassifier`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("linear_model.SGDClassifier", **kwargs)


def sklearn_train_linear_model(
    model: LinearModel,
    dataloader: Iterable[Any],
    construct_kwargs: dict[str, Any],
    sklearn_trainer: str = "Lasso",
    norm_input: bool = False,
    **fit_kwargs: Any,
) -> Report:
    """Fit a class of scikit-learn to all batches together, and give the model its coefficients."""
    import sklearn.linear_model
    import sklearn.svm

    x, y, w = (_stacked(parts) for parts in zip(*(_point(data) for data in dataloader), strict=True))
    mean, std = x.mean(0), x.std(0)
    fitted_to = (x - mean) / std if norm_input else x
    start, trained = time.perf_counter(), attrgetter(sklearn_trainer)(sklearn)(**construct_kwargs)
    try:
        trained.fit(fitted_to, y, sample_weight=w, **fit_kwargs)
    except TypeError:
        warn("surrogate", f"{sklearn_trainer} takes no weights of samples, so it was fitted without; use one that does")
        trained.fit(fitted_to, y, **fit_kwargs)
    took, bias = time.perf_counter() - start, np.atleast_1d(trained.intercept_)
    weights, classes = torch.as_tensor(np.atleast_2d(trained.coef_)), getattr(trained, "classes_", None)
    model._construct_model_params(
        norm_type=None, weight_values=weights.float(), bias_value=torch.as_tensor(bias).float(),
        classes=None if classes is None else torch.as_tensor(classes)
    )  # fmt: skip
    if norm_input:
        model.norm = _Normal(torch.as_tensor(mean), torch.as_tensor(std))
    return {"train_time": took}


def _stacked(parts: tuple[Any, ...]) -> Any:
    return None if parts[0] is None else np.concatenate([part.cpu().numpy() for part in parts])


def _point(data: Any, device: Any = None) -> tuple[Tensor, Tensor, Tensor | None]:
    x, y, *w = data if device is None else (part.to(device) for part in data)
    return x, y, w[0] if w else None


class _Normal(nn.Module):
    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / (self.std + 1e-8)


def sgd_train_linear_model(
    model: LinearModel,
    dataloader: Iterable[Any],
    construct_kwargs: dict[str, Any],
    max_epoch: int = 100,
    reduce_lr: bool = True,
    initial_lr: float = 0.01,
    alpha: float = 1.0,
    loss_fn: Callable[..., Tensor] = l2_loss,
    reg_term: int | None = 1,
    patience: int = 10,
    threshold: float = 1e-4,
    running_loss_window: int | None = None,
    device: Any = None,
    init_scheme: str | None = "zeros",
    debug: bool = False,
) -> Report:
    """Gradient descent until the mean loss of a window of steps has not improved for `patience` steps, or `max_epoch`."""
    batches = list(dataloader)
    x, y, _ = _point(batches[0], device)
    model._construct_model_params(in_features=x.shape[1], out_features=y.shape[1] if y.dim() == 2 else 1, **construct_kwargs)
    model.to(x)
    model.train()
    _initialise(model._fitted, init_scheme)
    optimiser = torch.optim.SGD(model.parameters(), lr=initial_lr)
    slower = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.5, patience=patience, threshold=threshold)
    losses: list[Tensor] = []
    best: Tensor | None = None
    stale, start, window = 0, time.perf_counter(), running_loss_window or len(x) * len(batches)
    for epoch, batch in _rounds(batches, max_epoch):
        x, y, w = _point(batch, device)
        with torch.enable_grad():
            loss = loss_fn(y.view(len(x), -1), model(x), None if w is None else w.view(len(x), -1))
            if reg_term is not None:
                loss = loss + alpha * torch.norm(model._fitted.weight, p=reg_term)
        losses = [*losses[-window:], loss.detach()]
        mean = torch.stack(losses).mean()
        stale = stale + 1 if best is not None and (mean > best or bool(torch.isclose(best, mean, atol=threshold))) else 0
        best = mean if best is None else torch.minimum(best, mean)
        if stale >= patience:
            break
        if debug:
            print(f"epoch {epoch}: loss {float(loss):.4g}, mean {float(mean):.4g}, least {float(best):.4g}")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if reduce_lr:
            slower.step(mean)
    return {"train_time": time.perf_counter() - start, "train_loss": float(mean), "train_iter": len(losses), "train_epoch": epoch}


def _rounds(batches: list[Any], epochs: int) -> Iterator[tuple[int, Any]]:
    for epoch in range(epochs):
        for batch in batches:
            yield epoch, batch


def _initialise(layer: nn.Linear, scheme: str | None) -> None:
    if scheme not in (None, "zeros", "xavier"):
        raise OptionError(f"init_scheme is {scheme!r}; it may be 'zeros', 'xavier' or None")
    with torch.no_grad():
        if scheme == "xavier":
            nn.init.xavier_uniform_(layer.weight)
        elif scheme == "zeros":
            layer.weight.zero_()
        if scheme is not None and layer.bias is not None:
            layer.bias.zero_()
