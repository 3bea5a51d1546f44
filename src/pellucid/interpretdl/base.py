"""What all interpreters share: a model in eval mode as a function of probabilities, pictures and texts read, results drawn and saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import InputError, OptionError, TargetError, warn
from ..explanation import Display, Explanation, Found
from ..inputs import Tensors
from ..model import Foreign, modules_of, undisturbed
from ..pictures import Pictures, pictures, statistics_given, statistics_of
from ..target import resolve, tensor_of
from ..trust import health_of
from ..view import InputView, at_input

__all__ = [
    "GRADIENT_OF",
    "Interpreter",
    "Scored",
    "evaluating",
    "logits_of",
    "numpy",
    "paths_of",
    "report",
    "show",
    "torch_of",
]

# What is differentiated, of the model's output.
GRADIENT_OF: Mapping[str, Callable[[Tensor], Tensor]] = {
    "probability": lambda output: output.softmax(1),
    "logit": lambda output: output,
    "loss": lambda output: -output.log_softmax(1),
}


class Scored(nn.Module):
    """A model whose output is read as probabilities, logits or losses, one for each class."""

    def __init__(self, model: Callable[..., Any], of: str = "probability") -> None:
        super().__init__()
        if of not in GRADIENT_OF:
            raise OptionError(f"gradient_of is {of!r}; choose one of {', '.join(map(repr, GRADIENT_OF))}")
        self.model, self.of = model, of

    def forward(self, *inputs: Any, **keywords: Any) -> Tensor:
        """`(B, classes)`."""
        output = tensor_of(logits_of(self.model(*inputs, **keywords)))
        if output.dim() == 2 and output.shape[1] == 1 and self.of != "logit":
            raise TargetError(
                "the model returns one number for each example, of which there is no probability; let it return one for each class: "
                "torch.cat([-x, x], 1) / 2 for a binary logit"
            )
        if output.dim() != 2:
            raise TargetError(
                f"the model returns a tensor of shape {tuple(output.shape)}; interpreters are for classes: (examples, classes)"
            )
        return GRADIENT_OF[self.of](output)


def logits_of(output: Any) -> Any:
    """Of a model that returns more."""
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]
    return output[0] if isinstance(output, tuple | list) and output else output


def torch_of(model: Any) -> Callable[..., Any]:
    """A torch model or a function as it is, a Paddle layer as a torch module."""
    if isinstance(model, nn.Module):
        return model
    if any(kind.__module__.partition(".")[0] == "paddle" for kind in type(model).__mro__):
        from ..paddle import as_torch

        return as_torch(model)
    if not callable(model):
        raise InputError(f"the model is {type(model).__name__}; give a torch module, a Paddle layer, or a function of tensors")
    found: Callable[..., Any] = model
    return found


@contextmanager
def evaluating(model: Callable[..., Any]) -> Iterator[None]:
    """The model's modules in eval mode, and back as they were."""
    roots = modules_of(model)
    modules = [module for root in roots for module in root.modules() if not isinstance(module, Foreign)]
    modes = [module.training for module in modules]
    foreign = [(module, module.modes()) for root in roots for module in root.modules() if isinstance(module, Foreign)]
    try:
        for root in roots:
            root.eval()
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for other, kept in foreign:
            other.restore(kept)


class Interpreter:
    """One explanation method in InterpretDL's form.

    Args:
        model: a torch module, a function of tensors, or a Paddle layer.
        device: kept for InterpretDL's sake: a model runs where it is, and one without parameters on the CPU.
        mean, std: what pictures in [0, 1] are normalised by; the model's own, or ImageNet's, if not given.
        classes: names of the classes, for pictures and labels.
        use_cuda: as `device`.
    """

    def __init__(
        self,
        model: Any,
        device: str = "gpu:0",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        classes: Sequence[str] = (),
        use_cuda: bool | None = None,
    ) -> None:
        self.user = self.model = torch_of(model)
        self.device, self.classes = device, tuple(classes)
        self.statistics = statistics_given(mean, std) or statistics_of(model)
        self.predicted_label: NDArray[np.int64] | None = None
        self.predicted_proba: NDArray[np.float32] | None = None
        self.labels: list[int] | None = None

    def pictures(self, inputs: Any, resize_to: int | None, crop_to: int | None) -> Pictures:
        """The pictures, where the model is."""
        found = pictures(inputs, resize_to, crop_to, statistics=self.statistics)
        return Pictures(found.tensor.to(self.place, self.dtype), found.shown, found.statistics)

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in."""
        parameters = self.model.parameters() if isinstance(self.model, nn.Module) else iter(())
        return next((p.dtype for p in parameters if p.is_floating_point()), torch.float32)

    @property
    def place(self) -> torch.device:
        """Where the model is."""
        parameters = self.model.parameters() if isinstance(self.model, nn.Module) else iter(())
        return next((p.device for p in parameters), torch.device("cpu"))

    def view(self, tensors: Tensors, labels: Any, of: str, keywords: Mapping[str, Any] | None = None) -> InputView:
        """The labels' scores, the predicted ones' if none are given; both are remembered as results."""
        probable = Scored(self.model)
        with undisturbed(modules_of(self.user)), torch.no_grad():
            chances = probable(*(t.clone() for t in tensors), **(keywords or {}))
        self.predicted_label = numpy(chances.argmax(1))
        self.predicted_proba = numpy(chances.amax(1))
        self.labels = _labels(self.numbered(labels), len(tensors[0]), chances)
        found = at_input(Scored(self.model, of), tensors, self.labels, kwargs=keywords)
        return replace(found, roots=modules_of(self.user))  # names of layers are the user's

    def numbered(self, labels: Any) -> Any:
        """Labels that are names of classes as their numbers.

        Raises:
            TargetError: a name that no class has.
        """
        if isinstance(labels, str):
            if labels not in self.classes:
                names = ", ".join(map(repr, self.classes[:20])) or "not known: give classes= to the interpreter"
                raise TargetError(f"label {labels!r} is not the name of a class; the classes are {names}")
            return self.classes.index(labels)
        several = isinstance(labels, list | tuple)
        return [self.numbered(label) for label in labels] if several else labels

    def of_predicted(self, view: InputView) -> InputView:
        """The same view, of the predicted classes."""
        return replace(view, pick=resolve([int(label) for label in np.asarray(self.predicted_label)], view.size))

    def draw(
        self,
        values: Tensor | Sequence[Tensor],
        view: InputView,
        shown: Pictures,
        visual: bool,
        save_path: Any,
        method: str,
        pooling: Any = "sum",
    ) -> None:
        """Each picture beside its attributions: shown if `visual`, saved under `save_path` if that is given."""
        report(values)
        paths = paths_of(save_path, len(shown))
        if not visual and save_path is None:
            return
        for i, path in enumerate(paths):
            explained = self._explanation(values[i], view, shown, i, method, pooling)
            show(explained, path, visual)

    def _explanation(self, values: Tensor, view: InputView, shown: Pictures, i: int, method: str, pooling: Any) -> Explanation:
        label = (self.labels or [0])[i]
        one = view.examples(slice(i, i + 1))
        with undisturbed(view.roots), torch.no_grad():
            scores = one.score(one.features)
        picture = seen(shown.shown[i])
        found = Found((values[None, None],), scores)
        known = self.predicted_label is not None and self.predicted_proba is not None
        own = [torch.as_tensor(part[i : i + 1]) for part in (self.predicted_label, self.predicted_proba) if part is not None]
        return Explanation(
            attributions=(values[None].detach(),),
            features=(one.features[0],),
            scores=scores[0],
            method=method,
            target=f"output {label}",
            predictions=own[0] if known else None,
            confidences=own[1] if known else None,
            health=tuple(health_of(one, found)),
            display=Display("image", classes=self.classes, picture=picture, pooling=pooling),
        )


def seen(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """As a person can see it: grey without its dimension, other than three colours as their mean."""
    if picture.shape[-1] == 1:
        return picture[..., 0]
    return picture if picture.shape[-1] == 3 else picture.mean(-1).astype(np.uint8)


def _labels(labels: Any, size: int, chances: Tensor) -> list[int]:
    if labels is None:
        return [int(label) for label in chances.argmax(1)]
    alone = isinstance(labels, int | np.integer)
    given = [int(label) for label in np.asarray(labels).reshape(-1)] * (size if alone else 1)
    if len(given) != size:
        raise TargetError(f"there are {len(given)} labels for {size} inputs; give one for each, or one number for all")
    wrong = [label for label in given if not -chances.shape[1] <= label < chances.shape[1]]
    if wrong:
        raise TargetError(
            f"label {wrong[0]} is not a class of the model, which returns {chances.shape[1]}; give 0 to {chances.shape[1] - 1}"
        )
    return given


def paths_of(save_path: Any, size: int) -> list[Path | None]:
    """Where each picture is saved, if it is.

    Raises:
        OptionError: another number of paths than pictures, or a kind of file that cannot be drawn.
    """
    if save_path is None:
        return [None] * size
    given = [save_path] if isinstance(save_path, str | Path) else list(save_path)
    if len(given) != size:
        raise OptionError(f"save_path has {len(given)} paths for {size} pictures; give one for each")
    found = [Path(path) for path in given]
    for path in found:
        if path.suffix.lower() not in DRAWN:
            raise OptionError(f"save_path is {str(path)!r}; end it in one of {', '.join(DRAWN)}")
    return list(found)


DRAWN = (".png", ".jpg", ".jpeg", ".pdf", ".svg", ".webp", ".tif", ".tiff")


def report(values: Tensor | Sequence[Tensor]) -> None:
    """Warn of attributions that say nothing."""
    together = torch.cat([v.detach().flatten().float() for v in values])
    if not bool(together.isfinite().all()):
        warn("finite", f"{int((~together.isfinite()).sum())} attributions are NaN or infinite: what the model returns is, or its gradient")
    elif not bool(together.any()):
        warn("signal", "all attributions are zero: the score does not depend on the inputs in a way that this method sees")


def show(explained: Explanation, path: Path | None, visual: bool) -> None:
    """The picture, saved and shown where there is a screen or a notebook."""
    figure = explained.draw()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    if visual:
        _displayed(figure)


WITHOUT_WINDOWS = ("agg", "cairo", "pdf", "pgf", "ps", "svg", "template")


def _displayed(figure: Any) -> None:
    """In a notebook as its output; in a window where matplotlib has one; else nowhere."""
    import sys

    import matplotlib as mpl

    shell: Any = sys.modules.get("IPython")
    if shell is not None and shell.get_ipython() is not None:
        shell.display.display(figure)
    elif mpl.get_backend().lower() not in WITHOUT_WINDOWS:
        import matplotlib.pyplot as plt

        figure.canvas.draw()
        window = plt.figure(figsize=figure.get_size_inches())
        window.figimage(np.asarray(figure.canvas.buffer_rgba()), resize=True)
        plt.show()


def numpy(tensor: Tensor) -> NDArray[Any]:
    """On the host; bfloat16, which numpy has not, as float32."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


# InterpretDL's kinds of interpreters, which differ in what they need of a model; here one base serves all.
InputGradientInterpreter = InputOutputInterpreter = IntermediateLayerInterpreter = TransformerInterpreter = Interpreter
InterpreterEvaluator = Interpreter
