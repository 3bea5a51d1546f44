"""Hugging Face model folders as tasks: sequence classification from text, image classification from images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .errors import FileError, need, warn
from .task import Sample, Task

__all__ = ["task_in"]

TOKENIZERS = ("tokenizer*", "vocab*", "*.model")


class Logits(nn.Module):
    """The model as a function of one tensor (embeddings or pixels) that returns a tensor."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, features: Tensor, **context: Tensor) -> Tensor:
        """The logits, `(B, classes)`."""
        logits: Tensor = self.model(**{self.name: features}, **context).logits
        return logits


def task_in(folder: Path) -> Task:
    """The task of a model that `save_pretrained` wrote to a folder.

    Raises:
        MissingExtra: transformers is not installed.
        FileError: the folder holds no model, or one for another purpose.
    """
    transformers = need("transformers", "hf")
    with _reading(folder):
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    kind = (config.architectures or ["a model without a head"])[0]
    for ending, make in (("ForSequenceClassification", _text), ("ForImageClassification", _image)):
        if kind.endswith(ending):
            with _reading(folder), _without_bars(transformers.utils.logging):
                return make(transformers, folder, config)
    raise FileError(
        f"{str(folder)!r} holds {kind}; folders with ...ForSequenceClassification and ...ForImageClassification can be explained"
    )


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Whatever transformers raises about the folder (it has no common root) becomes one error."""
    try:
        yield
    except FileError:
        raise
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FileError(f"{str(folder)!r} holds no model that transformers can load ({said}); save_pretrained writes one") from error


@contextmanager
def _without_bars(logging: Any) -> Iterator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _loaded(kind: Any, folder: Path) -> nn.Module:
    """The model, if the folder has all its weights: transformers would draw missing ones at random."""
    model, report = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    missing = sorted(report["missing_keys"])
    if missing:
        raise FileError(f"{str(folder)!r} lacks weights of {', '.join(missing[:4])}; save the whole fine-tuned model")
    loaded: nn.Module = model.eval()
    return loaded


def _classes(config: Any) -> tuple[str, ...]:
    return tuple(config.id2label[i] for i in sorted(config.id2label))


def _text(transformers: Any, folder: Path, config: Any) -> Task:
    if not any(found for pattern in TOKENIZERS for found in folder.glob(pattern)):
        raise FileError(f"{str(folder)!r} holds no tokenizer; write it there too: tokenizer.save_pretrained({str(folder)!r})")
    model = _loaded(transformers.AutoModelForSequenceClassification, folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    words = model.get_input_embeddings()  # type: ignore[operator]
    places = getattr(config, "max_position_embeddings", None) or 0  # XLNet says -1
    most = min(tokenizer.model_max_length, places) if places > 0 else None

    def prepare(text: str) -> Sample:
        """Explained at the embeddings, against those of the padding token."""
        encoded = dict(tokenizer(text, return_tensors="pt", truncation=True, max_length=most))
        ids = encoded.pop("input_ids")
        whole = len(tokenizer(text)["input_ids"])
        if whole > ids.shape[1]:
            warn("truncated", f"the text has {whole} tokens; the model reads, and the explanation is about, the first {ids.shape[1]}")
        blank = torch.full_like(ids, tokenizer.pad_token_id or 0)
        with torch.no_grad():
            embedded, baseline = words(ids), words(blank)
        return Sample((embedded,), encoded, (baseline,), tuple(tokenizer.convert_ids_to_tokens(ids[0].tolist())))

    return Task(Logits(model, "inputs_embeds").eval(), "text", prepare, _classes(config))


def _image(transformers: Any, folder: Path, config: Any) -> Task:
    model = _loaded(transformers.AutoModelForImageClassification, folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)

    def prepare(image: Any) -> Sample:
        pixels: Tensor = processor(image.convert("RGB"), return_tensors="pt")["pixel_values"]
        shown = image.convert("RGB").resize((pixels.shape[3], pixels.shape[2]))
        return Sample((pixels,), picture=np.array(shown, dtype=np.uint8))

    return Task(Logits(model, "pixel_values").eval(), "image", prepare, _classes(config))
