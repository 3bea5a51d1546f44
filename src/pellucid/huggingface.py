"""Hugging Face model folders as tasks: sequence classification from text, image classification from images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .errors import FileError, need
from .task import Sample, Task

__all__ = ["task_in"]


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
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise FileError(f"{str(folder)!r} holds no Hugging Face model ({str(error).splitlines()[0]})") from error
    kind = (config.architectures or ["a model without a head"])[0]
    for ending, make in (("ForSequenceClassification", _text), ("ForImageClassification", _image)):
        if kind.endswith(ending):
            return make(transformers, folder, config)
    raise FileError(
        f"{str(folder)!r} holds {kind}; folders with ...ForSequenceClassification and ...ForImageClassification can be explained"
    )


def _classes(config: Any) -> tuple[str, ...]:
    return tuple(config.id2label[i] for i in sorted(config.id2label))


def _text(transformers: Any, folder: Path, config: Any) -> Task:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    words = model.get_input_embeddings()

    def prepare(text: str) -> Sample:
        """Explained at the embeddings, against those of the padding token."""
        encoded = dict(tokenizer(text, return_tensors="pt", truncation=True))
        ids = encoded.pop("input_ids")
        blank = torch.full_like(ids, tokenizer.pad_token_id or 0)
        with torch.no_grad():
            embedded, baseline = words(ids), words(blank)
        return Sample((embedded,), encoded, (baseline,), tuple(tokenizer.convert_ids_to_tokens(ids[0].tolist())))

    return Task(Logits(model, "inputs_embeds").eval(), "text", prepare, _classes(config))


def _image(transformers: Any, folder: Path, config: Any) -> Task:
    model = transformers.AutoModelForImageClassification.from_pretrained(folder, local_files_only=True).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)

    def prepare(image: Any) -> Sample:
        pixels: Tensor = processor(image.convert("RGB"), return_tensors="pt")["pixel_values"]
        shown = image.convert("RGB").resize((pixels.shape[3], pixels.shape[2]))
        return Sample((pixels,), picture=np.asarray(shown, dtype=np.uint8))

    return Task(Logits(model, "pixel_values").eval(), "image", prepare, _classes(config))
