"""Hugging Face model folders as tasks: what a model says of a text, of a question and its context, of an image, of both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .batch import Run
from .errors import FileError, InputError, need
from .output import tensor_of
from .picks import PerExample, Pick, Same, Sum
from .question import Question
from .task import Sample, Task
from .text import encoded, read

__all__ = ["task_in"]

TOKENIZERS = ("tokenizer*", "vocab*", "*.model")
MASK = "[MASK]"


class Scores(nn.Module):
    """The model as a function of one tensor (embeddings or pixels): the scores of an example, at its own place of the text."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, features: Tensor, place: Tensor | None = None, **context: Any) -> Tensor:
        """`(B, classes)`; of a first and a last token the sum of both scores, `(B,)`."""
        output = self.model(**{self.name: features}, **context)
        if place is None:
            return tensor_of(output)
        rows = torch.arange(len(features), device=features.device)
        if place.shape[1] == 1:
            return tensor_of(output)[rows, place[:, 0]]
        ends: Tensor = output.start_logits[rows, place[:, 0]] + output.end_logits[rows, place[:, 1]]
        return ends


@dataclass(frozen=True, eq=False)
class _Folder:
    """A folder, what it says about its model, and the library that reads it."""

    library: Any
    path: Path
    config: Any

    def model(self, kind: str) -> nn.Module:
        """The model, if the folder has all its weights: transformers would draw missing ones at random."""
        found, report = getattr(self.library, kind).from_pretrained(self.path, local_files_only=True, output_loading_info=True)
        missing = sorted(report["missing_keys"])
        if missing:
            raise FileError(f"{str(self.path)!r} lacks weights of {', '.join(missing[:4])}; save the whole fine-tuned model")
        loaded: nn.Module = found.eval()
        return loaded

    def reader(self, kind: str, *files: str) -> Any:
        """The tokenizer or processor."""
        if not any(found for pattern in files for found in self.path.glob(pattern)):
            what = "tokenizer" if kind == "AutoTokenizer" else "processor"
            raise FileError(f"{str(self.path)!r} holds no {what}; write it there too: {what}.save_pretrained({str(self.path)!r})")
        return getattr(self.library, kind).from_pretrained(self.path, local_files_only=True)

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels, in their order."""
        return tuple(self.config.id2label[i] for i in sorted(self.config.id2label))


def task_in(folder: Path) -> Task:
    """The task of a model that `save_pretrained` wrote to a folder.

    Texts are a string, or a pair (question, context); of a masked language model, with [MASK] in them. A model that answers questions
    about images takes a pair (image, question).

    Raises:
        MissingExtra: transformers is not installed.
        FileError: the folder holds no model, or one for another purpose.
    """
    transformers = need("transformers", "hf")
    with _reading(folder):
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    kind = (config.architectures or ["a model without a head"])[0]
    for ending, make in TASKS.items():
        if kind.endswith(ending):
            with _reading(folder), _without_bars(transformers.utils.logging):
                return make(_Folder(transformers, folder, config), kind)
    raise FileError(f"{str(folder)!r} holds {kind}; folders with ...{', ...'.join(TASKS)} can be explained")


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


def _text(folder: _Folder, kind: str) -> Task:
    tokenizer = folder.reader("AutoTokenizer", *TOKENIZERS)
    model = folder.model(kind)
    answers, masked, decodes = kind.endswith("ForQuestionAnswering"), kind.endswith("MaskedLM"), bool(folder.config.is_encoder_decoder)

    def prepare(raw: str | tuple[str, str]) -> Sample:
        """Explained at the embeddings, against those of the padding token."""
        if answers and isinstance(raw, str):
            raise InputError("the model finds the answer to a question in a context, and there is one text only; give (question, context)")
        if masked and isinstance(raw, str):
            raw = raw.replace(MASK, tokenizer.mask_token)
        entries = dict(encoded(tokenizer, raw, (model,)))
        if decodes:  # the first token of its answer
            entries["decoder_input_ids"] = torch.tensor([[folder.config.decoder_start_token_id]])
        return _sample(model, tokenizer, entries)

    classes = () if masked or answers or kind.endswith(GENERATE) else folder.classes
    return Task(Scores(model, "inputs_embeds").eval(), "text", prepare, classes, model, tokenizer)


def _sample(model: nn.Module, tokenizer: Any, entries: Mapping[str, Any]) -> Sample:
    """Entries as tensors: vectors, their reference, the places where the scores are."""
    reading = read(Question(model, entries, None, "", tokenizer=tokenizer), "integrated_gradients", {}, Run())
    words = next(part for part in reading.parts if part.name == "input_ids")
    keywords = {name: value for name, value in entries.items() if name != "input_ids"}
    place = _place(reading.asked.target)
    names = words.text.tokens[0] if words.text is not None else ()
    return Sample(
        (words.feature,),
        keywords if place is None else keywords | {"place": place},
        (words.stand.value,),
        tuple(token or "" for token in names),
        entries=entries,
    )


def _place(pick: Pick) -> Tensor | None:
    """`(B, 1)` or `(B, 2)`: the tokens that a prediction is at; None where it is of the whole text."""
    if isinstance(pick, Sum):
        ends = [part.inner for _, part in pick.terms]  # type: ignore[attr-defined]
        return torch.tensor([[end.index[0] if isinstance(end, Same) else end.indices[0][0] for end in ends]])
    index = pick.index if isinstance(pick, Same) else pick.indices[0] if isinstance(pick, PerExample) else ()
    return torch.tensor([[index[0]]]) if len(index) == 2 else None


def _image(folder: _Folder, kind: str) -> Task:
    model = folder.model(kind)
    processor = folder.library.AutoImageProcessor.from_pretrained(folder.path, local_files_only=True)

    def prepare(image: Any) -> Sample:
        pixels: Tensor = processor(image.convert("RGB"), return_tensors="pt")["pixel_values"]
        return Sample((pixels,), picture=_resized(image, pixels))

    return Task(Scores(model, "pixel_values").eval(), "image", prepare, folder.classes)


def _resized(image: Any, pixels: Tensor) -> Any:
    shown = image.convert("RGB").resize((pixels.shape[3], pixels.shape[2]))
    return np.array(shown, dtype=np.uint8)


def _question(folder: _Folder, kind: str) -> Task:
    """Questions about a text, or, where the model reads images, about one."""
    return _seen(folder, kind) if hasattr(folder.config, "image_size") or hasattr(folder.config, "vision_config") else _text(folder, kind)


def _seen(folder: _Folder, kind: str) -> Task:
    tokenizer = folder.reader("AutoTokenizer", *TOKENIZERS)
    processor = folder.reader("AutoImageProcessor", "*processor*.json")
    model = folder.model(kind)

    def prepare(raw: Any) -> Sample:
        """Explained at the words' embeddings and the pixels."""
        if not isinstance(raw, tuple):
            raise InputError("the model answers questions about images; give an image and a question")
        image, text = raw
        entries = dict(encoded(tokenizer, text, (model,))) | dict(processor(image.convert("RGB"), return_tensors="pt"))
        sample = _sample(model, tokenizer, entries)
        picture = _resized(image, entries["pixel_values"])
        return replace(sample, picture=picture)

    return Task(Scores(model, "inputs_embeds").eval(), "several", prepare, folder.classes, model, tokenizer)


GENERATE = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
TASKS: Mapping[str, Callable[[_Folder, str], Task]] = {
    "ForSequenceClassification": _text,
    "ForTokenClassification": _text,
    "ForQuestionAnswering": _question,
    "ForMaskedLM": _text,
    **dict.fromkeys(GENERATE, _text),
    "ForImageClassification": _image,
}
