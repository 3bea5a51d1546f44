"""`python -m benchmarks.completeness`: how far DeepLIFT is from adding up, Captum's and Pellucid's, on many architectures.

Each model is small, random and unmodified; the gap is the largest over four examples of `|sum - change|`, in parts of the
change of the score from a random baseline to the input.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")

import captum.attr
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pellucid.captum.attr
from benchmarks.models import Block

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 50}


class Functional(nn.Module):
    """A perceptron whose activation is a function."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.out, self.activation = nn.Linear(12, 24), nn.Linear(24, 24), nn.Linear(24, 3), activation

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.activation(self.second(self.activation(self.first(x)))))


class Recurrent(nn.Module):
    """A recurrent layer, read at the last step."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.layer, self.out = kind(8, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x)[0][:, -1])


class Attention(nn.Module):
    """Transformer blocks, read at the mean, or causally at the last step."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, activation="gelu")
        self.blocks, self.out, self.causal = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 3), causal

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1]) if self.causal else None
        held = self.blocks(x, mask=mask)
        return self.out(held[:, -1] if self.causal else held.mean(1))


class Pretrained(nn.Module):
    """A model of transformers as a function of one tensor."""

    def __init__(self, model: nn.Module, name: str, last: bool = False) -> None:
        super().__init__()
        self.model, self.name, self.last = model, name, last

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(**{self.name: x}).logits
        return logits[:, -1] if self.last else logits


def residual() -> nn.Module:
    """Residual blocks, each using one ReLU twice in place."""
    return nn.Sequential(Block(3, 8, 1), Block(8, 16, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))


def overlapping() -> nn.Module:
    """Convolutions with overlapping max-pooling."""
    stages = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)]
    return nn.Sequential(*stages, nn.Flatten(), nn.Linear(72, 3))


def models() -> Iterator[tuple[str, Callable[[], nn.Module], tuple[int, ...]]]:
    """Name, maker, shape of one example."""
    import transformers as t

    t.logging.set_verbosity_error()
    yield "perceptron, F.relu", lambda: Functional(F.relu), (12,)
    yield "perceptron, F.gelu", lambda: Functional(F.gelu), (12,)
    yield "softmax in the middle", lambda: nn.Sequential(nn.Linear(12, 24), nn.Softmax(1), nn.Linear(24, 3)), (12,)
    yield "residual, one ReLU for all", residual, (3, 16, 16)
    yield "overlapping max-pooling", overlapping, (3, 16, 16)
    yield "LSTM", lambda: Recurrent(nn.LSTM), (5, 8)
    yield "GRU", lambda: Recurrent(nn.GRU), (5, 8)
    yield "transformer encoder", lambda: Attention(False), (5, 16)
    yield "causal attention", lambda: Attention(True), (5, 16)
    bert = t.BertConfig(**SIZES)
    yield "BERT", lambda: Pretrained(t.BertForSequenceClassification(bert), "inputs_embeds"), (6, 32)
    gpt = t.GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=32, bos_token_id=0, eos_token_id=0)
    yield "GPT-2", lambda: Pretrained(t.GPT2LMHeadModel(gpt), "inputs_embeds", True), (6, 32)
    llama = t.LlamaConfig(**SIZES, num_key_value_heads=2)
    yield "Llama", lambda: Pretrained(t.LlamaForCausalLM(llama), "inputs_embeds", True), (6, 32)
    vit = t.ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32, patch_size=8)
    yield "ViT", lambda: Pretrained(t.ViTForImageClassification(vit), "pixel_values"), (3, 32, 32)
    convnext = t.ConvNextConfig(hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 2, 1])
    yield "ConvNeXt", lambda: Pretrained(t.ConvNextForImageClassification(convnext), "pixel_values"), (3, 64, 64)
    mamba = t.MambaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, state_size=8)
    yield "Mamba", lambda: Pretrained(t.MambaForCausalLM(mamba), "inputs_embeds", True), (6, 32)


def gap(library: str, model: nn.Module, x: Tensor, baselines: Tensor) -> float | str:
    """The relative gap, or the name of the error."""
    module = captum.attr if library == "captum" else pellucid.captum.attr
    with torch.no_grad():
        change = (model(x) - model(baselines))[:, 1]
    try:
        found = module.DeepLift(model).attribute(x, baselines, target=1).detach()
    except (RuntimeError, AssertionError) as error:
        return type(error).__name__
    return float(((found.flatten(1).sum(1) - change).abs() / change.abs()).max())


def table() -> Iterator[tuple[str, float | str, float | str]]:
    """Per architecture: Captum's gap and Pellucid's."""
    for name, make, shape in models():
        torch.manual_seed(0)
        model, x, baselines = make().eval(), torch.randn(4, *shape), torch.randn(4, *shape)
        with warnings.catch_warnings(action="ignore"):
            yield name, gap("captum", model, x, baselines), gap("pellucid", model, x, baselines)


def main() -> None:
    """Print the table."""
    show = lambda value: value if isinstance(value, str) else f"{value:.1e}"  # noqa: E731
    print(f"{'architecture':28}{'Captum':>16}{'Pellucid':>12}")
    for name, theirs, ours in table():
        print(f"{name:28}{show(theirs):>16}{show(ours):>12}")


if __name__ == "__main__":
    main()
