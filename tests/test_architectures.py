"""DeepLIFT and LRP on models as their libraries write them: nothing is rewritten, and the numbers add up."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pellucid

tf = pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:LSTM with projections:UserWarning"),
    pytest.mark.usefixtures("_quiet"),
]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 50}
TOKENS = (3, 6, 32)


@pytest.fixture(scope="module")
def _quiet() -> Iterator[None]:
    """Transformers says nothing while these tests run."""
    before = tf.logging.get_verbosity()
    tf.logging.set_verbosity_error()
    yield
    tf.logging.set_verbosity(before)


class Asked(nn.Module):
    """A model of a library, given features by their name."""

    def __init__(self, model: nn.Module, key: str, result: Callable[[Any], Tensor], start: bool, options: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.key, self.result, self.start, self.options = model, key, result, start, options

    def forward(self, x: Tensor) -> Tensor:
        start = {"decoder_input_ids": torch.zeros(len(x), 2, dtype=torch.long)} if self.start else {}
        return self.result(self.model(**{self.key: x}, **start, **self.options))


def last(output: Any) -> Tensor:
    return output.logits[:, -1]


def logits(output: Any) -> Tensor:
    return output.logits


@dataclass(frozen=True)
class Kind:
    """How a model is made, what it wants, how precise it is inside when its numbers are doubles, and what it hides."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = TOKENS
    key: str = "inputs_embeds"
    result: Callable[[Any], Tensor] = logits
    start: bool = False
    single: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    hidden: str = ""

    def made(self, dtype: torch.dtype) -> nn.Module:
        torch.manual_seed(0)
        model = spread(self.build())
        return (Asked(model, self.key, self.result, self.start, self.options) if self.key else model).to(dtype).eval()

    def points(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Inputs, and a baseline far from them."""
        torch.manual_seed(1)
        return torch.randn(self.shape).to(dtype), 2 * torch.randn(1, *self.shape[1:]).to(dtype) + 1


def spread(model: nn.Module) -> nn.Module:
    """Larger weights than a library begins with, which would hardly change any score."""
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.dim() > 1:
            fan = weight.shape[1:].numel() if not isinstance(module, nn.Embedding) else 1
            nn.init.normal_(weight, std=1.5 * fan**-0.5)
        bias = getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter):
            nn.init.normal_(bias, std=0.1)
        if isinstance(module, nn.RNNBase):
            for matrix in (p for p in module.parameters() if p.dim() > 1):
                nn.init.normal_(matrix, std=1.5 * matrix.shape[1] ** -0.5)
    return model


def picture(size: int = 32) -> dict[str, Any]:
    return {"shape": (3, 3, size, size), "key": "pixel_values"}


def decoder(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(tf, f"{name}ForCausalLM")(getattr(tf, f"{name}Config")(**options))


def encoder(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(tf, f"{name}ForSequenceClassification")(getattr(tf, f"{name}Config")(num_labels=5, **options))


def classifier(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(tf, f"{name}ForImageClassification")(getattr(tf, f"{name}Config")(num_labels=5, **options))


class Detector(nn.Module):
    """The pieces of DETR: a convolutional body, places, a transformer, learned queries."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 16, 2, 2))
        self.mixer = nn.Transformer(16, 2, 1, 2, 32, batch_first=True)
        self.places, self.queries, self.head = nn.Parameter(torch.randn(1, 16, 16)), nn.Parameter(torch.randn(1, 3, 16)), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.body(x).flatten(2).transpose(1, 2) + self.places
        return self.head(self.mixer(seen, self.queries.expand(len(x), -1, -1))).amax(1)


class Causal(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, **options)
        self.mixer, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
        return self.head(self.mixer(x, mask=mask, is_causal=True)[:, -1])


class Encoded(Causal):
    def forward(self, x: Tensor) -> Tensor:
        padding = torch.arange(x.shape[1]).expand(len(x), -1) >= x.shape[1] - 2
        return self.head(self.mixer(x, src_key_padding_mask=padding)[:, 0])


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], hidden: int = 6, **options: Any) -> None:
        super().__init__()
        self.rnn = kind(8, hidden, num_layers=2, bidirectional=True, batch_first=True, **options)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0].mean(1))


class Packed(Recurrent):
    """Sequences of different lengths."""

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.tensor([x.shape[1] - i % 3 for i in range(len(x))])
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.head(nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0].mean(1))


class Bottleneck(nn.Module):
    """As torchvision has it: one in-place ReLU for three places."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(width, width, 1, bias=False), nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.conv3, self.relu = nn.Conv2d(width, 2 * width, 1, bias=False), nn.ReLU(inplace=True)
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(width), nn.BatchNorm2d(width), nn.BatchNorm2d(2 * width)
        self.downsample = nn.Sequential(nn.Conv2d(width, 2 * width, 1, stride, bias=False), nn.BatchNorm2d(2 * width))

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += self.downsample(identity)
        return self.relu(out)


def resnet() -> nn.Module:
    stem = nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
    return nn.Sequential(*stem, Bottleneck(8, 1), Bottleneck(16, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5))


def vgg() -> nn.Module:
    parts: list[nn.Module] = []
    for before, after in ((3, 8), (8, 8), (8, 12)):
        parts += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(192, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 5))


def clip() -> nn.Module:
    vision = {**SIZES, "image_size": 32, "patch_size": 8}
    return tf.CLIPVisionModelWithProjection(tf.CLIPVisionConfig(**vision, projection_dim=5))


def perceiver() -> nn.Module:
    sizes = {"num_latents": 4, "d_latents": 16, "d_model": 32, "num_blocks": 1, "num_self_attends_per_block": 2}
    return tf.PerceiverModel(tf.PerceiverConfig(**sizes, num_self_attention_heads=2, num_cross_attention_heads=2))


GPT = {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
GROUPED = {**SIZES, "num_key_value_heads": 2, "head_dim": 8}
T5 = {"vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
TIED = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 1}
HEARD = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64}
WHISPER = {"vocab_size": 50, "d_model": 32, **HEARD, "decoder_ffn_dim": 64, "max_source_positions": 20, "num_mel_bins": 16, **TIED}
IMAGE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 32, "patch_size": 8}

KINDS: dict[str, Kind] = {
    "bert": Kind(encoder("Bert", **SIZES)),
    "bert, spelled attention": Kind(encoder("Bert", **SIZES, attn_implementation="eager")),
    "roberta": Kind(encoder("Roberta", **SIZES)),
    "electra": Kind(encoder("Electra", **SIZES, embedding_size=32)),
    "distilbert": Kind(encoder("DistilBert", vocab_size=50, dim=32, n_layers=2, n_heads=4, hidden_dim=64)),
    "deberta": Kind(encoder("DebertaV2", **SIZES, relative_attention=True, pos_att_type=["p2c", "c2p"])),
    "albert": Kind(encoder("Albert", **SIZES, embedding_size=32)),
    "modernbert": Kind(encoder("ModernBert", **SIZES, pad_token_id=0, attn_implementation="sdpa"), single=True),
    "gpt2": Kind(lambda: tf.GPT2LMHeadModel(tf.GPT2Config(**GPT)), result=last),
    "gpt neox": Kind(decoder("GPTNeoX", **SIZES), result=last),
    "llama": Kind(decoder("Llama", **SIZES, num_key_value_heads=2), result=last, single=True),
    "llama, spelled attention": Kind(
        decoder("Llama", **SIZES, num_key_value_heads=2, attn_implementation="eager"), result=last, single=True
    ),
    "mistral": Kind(decoder("Mistral", **GROUPED, sliding_window=3), result=last, single=True),
    "qwen3": Kind(decoder("Qwen3", **GROUPED), result=last, single=True),
    "gemma2": Kind(decoder("Gemma2", **GROUPED, query_pre_attn_scalar=8, sliding_window=4), result=last, single=True),
    "phi3": Kind(decoder("Phi3", **SIZES, num_key_value_heads=2, pad_token_id=0), result=last, single=True),
    "bloom": Kind(decoder("Bloom", vocab_size=50, hidden_size=32, n_layer=2, n_head=4), result=last, single=True, hidden="GeLUFunction"),
    "opt": Kind(decoder("OPT", vocab_size=50, hidden_size=32, word_embed_proj_dim=32, num_hidden_layers=2, num_attention_heads=4,
                        ffn_dim=64, max_position_embeddings=32), result=last),
    "mamba": Kind(decoder("Mamba", vocab_size=50, hidden_size=32, num_hidden_layers=2, state_size=8), result=last, single=True),
    "t5": Kind(lambda: tf.T5ForConditionalGeneration(tf.T5Config(**T5)), result=last, start=True, single=True),
    "t5 gated": Kind(
        lambda: tf.T5ForConditionalGeneration(tf.T5Config(**T5, feed_forward_proj="gated-gelu")), result=last, start=True, single=True
    ),
    "whisper": Kind(
        lambda: tf.WhisperForConditionalGeneration(tf.WhisperConfig(**WHISPER)), (3, 16, 40), "input_features", last, start=True
    ),
    "vit": Kind(classifier("ViT", **IMAGE), **picture()),
    "deit": Kind(classifier("DeiT", **IMAGE), **picture()),
    "swin": Kind(
        classifier("Swin", image_size=32, patch_size=2, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4), **picture()
    ),
    "convnext": Kind(classifier("ConvNext", hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 2, 1]), **picture(64)),
    "resnet": Kind(classifier("ResNet", embedding_size=8, hidden_sizes=[16, 32], depths=[2, 2]), **picture(64)),
    "mobilenet": Kind(classifier("MobileNetV2", image_size=32, depth_multiplier=0.35), **picture()),
    "clip": Kind(clip, result=lambda output: output.image_embeds, **picture()),
    "perceiver": Kind(perceiver, key="inputs", result=lambda output: output.last_hidden_state.mean(1)),
    "detector": Kind(Detector, (3, 3, 32, 32), ""),
    "encoder": Kind(Encoded, (3, 6, 16), ""),
    "encoder, norm first": Kind(lambda: Encoded(norm_first=True, activation=F.gelu), (3, 6, 16), ""),
    "causal": Kind(Causal, (3, 6, 16), ""),
    "lstm": Kind(lambda: Recurrent(nn.LSTM), (3, 5, 8), ""),
    "lstm projected": Kind(lambda: Recurrent(nn.LSTM, 9, proj_size=6), (3, 5, 8), ""),
    "gru": Kind(lambda: Recurrent(nn.GRU), (3, 5, 8), ""),
    "rnn": Kind(lambda: Recurrent(nn.RNN, nonlinearity="relu"), (3, 5, 8), ""),
    "lstm packed": Kind(lambda: Packed(nn.LSTM), (3, 5, 8), ""),
    "gru packed": Kind(lambda: Packed(nn.GRU), (3, 5, 8), ""),
    "vgg": Kind(vgg, (3, 3, 32, 32), ""),
    "residual network": Kind(resnet, (3, 3, 32, 32), ""),
}  # fmt: skip
every_kind = pytest.mark.parametrize("name", KINDS)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def most_changed(model: nn.Module, x: Tensor, baseline: Tensor) -> list[int]:
    """For each example the output that differs most from the baseline's."""
    with torch.no_grad():
        change = (model(x) - model(baseline.expand(x.shape))).abs()
    assert (change.amax(1) > 0.05).all()
    return change.argmax(1).tolist()


def allowed(kind: Kind, dtype: torch.dtype) -> float:
    """Norms and rotations in single precision remain what they are in a model of doubles."""
    return 1e-5 if dtype == torch.float32 or kind.single else 1e-11


def assert_complete(found: pellucid.Explanation, most: float) -> None:
    flat = torch.cat([a.double().flatten(1) for a in found.attributions], 1)
    change = found.scores.double() - found.baseline_scores.double()
    gap = (flat.sum(1) - change).abs() / torch.maximum(change.abs(), 0.1 * flat.abs().sum(1))
    assert float(gap.max()) <= most


@every_dtype
@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if not kind.hidden])
def test_deeplift_adds_up_on_models_as_they_are(name, dtype):
    kind = KINDS[name]
    model, (x, baseline) = kind.made(dtype), kind.points(dtype)
    found = pellucid.explain(model, x, most_changed(model, x, baseline), "deeplift", baselines=baseline, strict=True)
    assert_complete(found, allowed(kind, dtype))


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.hidden])
def test_what_a_model_hides_from_deeplift_is_reported_by_its_name(name):
    kind = KINDS[name]
    model, (x, baseline) = kind.made(torch.float32), kind.points(torch.float32)
    rules = pellucid.explain(model, x, 1, "deeplift", baselines=baseline).check("rules")
    assert not rules.passed
    assert kind.hidden in rules.message
    with pytest.raises(pellucid.UntrustedResult):
        pellucid.explain(model, x, 1, "deeplift", baselines=baseline, strict=True)


# Sequences of different lengths have these by their place in the batch.
@pytest.mark.parametrize("name", [name for name in KINDS if "packed" not in name])
def test_a_batch_is_its_examples_one_by_one(name):
    kind = KINDS[name]
    model, (x, baseline) = kind.made(torch.float64), kind.points(torch.float64)
    together = pellucid.explain(model, x, 1, "deeplift", baselines=baseline).attribution
    alone = torch.cat([pellucid.explain(model, row[None], 1, "deeplift", baselines=baseline).attribution for row in x])
    tolerance = 1e-4 if kind.single else 1e-9
    torch.testing.assert_close(together, alone, rtol=0, atol=tolerance * float(alone.abs().max()))


@every_kind
def test_every_operation_has_a_rule_of_relevance(name):
    kind = KINDS[name]
    model, (x, _) = kind.made(torch.float32), kind.points(torch.float32)
    found = pellucid.explain(model, x, 1, "attn_lrp")
    assert torch.isfinite(found.attribution).all()
    assert found.attribution.any()
    rules = found.check("rules")
    assert rules.passed, rules.message


@pytest.mark.parametrize("composite", ["epsilon", "gamma", "epsilon_plus_flat"])
@pytest.mark.parametrize("name", ["bert", "vit", "convnext", "resnet", "vgg", "residual network", "gpt2"])
def test_composites_run_on_models_as_they_are(name, composite):
    kind = KINDS[name]
    model, (x, _) = kind.made(torch.float64), kind.points(torch.float64)
    found = pellucid.explain(model, x, 1, "lrp", composite=composite)
    assert torch.isfinite(found.attribution).all()
    assert found.check("rules").passed, found.check("rules").message


INSIDE = [
    ("bert", "model.bert.encoder.layer.1"),
    ("gpt2", "model.transformer.h.1"),
    ("vit", "model.vit.layernorm"),
    ("convnext", "model.convnext.encoder.stages.1"),
    ("resnet", "model.resnet.encoder.stages.0"),
    ("residual network", "4"),
    ("residual network", "4.bn3"),
    ("vgg", "2"),
    ("encoder", "mixer.layers.0"),
    ("detector", "body"),
    ("lstm", "rnn"),
]
BRANCHES = ("4.bn3",)  # what goes past the layer stays what it is for the input


@pytest.mark.parametrize(("name", "layer"), INSIDE)
def test_deeplift_adds_up_at_a_layer(name, layer):
    kind = KINDS[name]
    model, (x, baseline) = kind.made(torch.float64), kind.points(torch.float64)
    target = most_changed(model, x, baseline)
    found = pellucid.explain(model, x, target, "deeplift", baselines=baseline, layer=layer)
    assert_complete(found, 1e-11)
    whole = pellucid.explain(model, x, target, "deeplift", baselines=baseline)
    if layer not in BRANCHES:
        torch.testing.assert_close(found.baseline_scores, whole.baseline_scores)


@pytest.mark.parametrize(("name", "layer", "neuron"), [
    ("bert", "model.bert.encoder.layer.0", (2, 5)),
    ("gpt2", "model.transformer.h.0", (3, 1)),
    ("vit", "model.vit.layernorm", (1, 4)),
    ("residual network", "4", (0, 0, 5)),
    ("residual network", "4.conv2", (3, 2, 2)),
    ("vgg", "3", (1, 4, 4)),
    ("encoder", "mixer.layers.0", (0, 3)),
])  # fmt: skip
def test_deeplift_adds_up_for_a_neuron(name, layer, neuron):
    kind = KINDS[name]
    model, (x, baseline) = kind.made(torch.float64), kind.points(torch.float64)
    found = pellucid.explain(model, x, None, "deeplift", baselines=baseline, layer=layer, neuron=neuron)
    assert (found.scores - found.baseline_scores).abs().min() > 1e-4
    assert_complete(found, 1e-11)


def with_ids(name: str) -> nn.Module:
    kind = KINDS[name]
    torch.manual_seed(0)
    return Asked(spread(kind.build()), "input_ids", kind.result, kind.start, kind.options).double().eval()


IDS = {
    "bert": "model.bert.embeddings.word_embeddings",
    "roberta": "model.roberta.embeddings.word_embeddings",
    "distilbert": "model.distilbert.embeddings.word_embeddings",
    "gpt2": "model.transformer.wte",
    "llama": "model.model.embed_tokens",
}


@pytest.mark.parametrize("method", ["deeplift", "deeplift_shap", "attn_lrp", "guided_backprop"])
@pytest.mark.parametrize("name", IDS)
def test_tokens_are_explained_at_their_embeddings(name, method):
    model = with_ids(name)
    ids = torch.randint(3, 50, (3, 6))
    baselines = {"deeplift": 2, "deeplift_shap": torch.randint(3, 50, (4, 6))}
    options = {"baselines": baselines[method]} if method in baselines else {}
    found = pellucid.explain(model, ids, 1, method, layer=IDS[name], **options)
    assert found.attribution.shape == (3, 6, 32)
    assert torch.isfinite(found.attribution).all()
    if method == "deeplift":
        assert_complete(found, allowed(KINDS[name], torch.float64))


def test_tokens_at_their_embeddings_are_embeddings_given_outright():
    ids = torch.randint(3, 50, (3, 6))
    by_ids, kind = with_ids("bert"), KINDS["bert"]
    given = Asked(by_ids.model, kind.key, kind.result, kind.start, {})
    table = by_ids.model.bert.embeddings.word_embeddings
    expected = pellucid.explain(given, table(ids).detach(), 1, "deeplift", baselines=table(torch.full((1, 6), 2)).detach())
    found = pellucid.explain(by_ids, ids, 1, "deeplift", layer=IDS["bert"], baselines=2)
    torch.testing.assert_close(found.attribution, expected.attribution, rtol=0, atol=1e-12)


def test_models_are_as_they_were():
    kind = KINDS["bert"]
    model, (x, baseline) = kind.made(torch.float64), kind.points(torch.float64)
    before, names = {k: v.clone() for k, v in model.state_dict().items()}, {n: sorted(vars(m)) for n, m in model.named_modules()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pellucid.explain(model, x, 1, "deeplift", baselines=baseline)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert names == {n: sorted(vars(m)) for n, m in model.named_modules()}
    assert all(p.requires_grad for p in model.parameters())
