"""Models of transformers and what tokenizers return, taken as they are: numbers against captum, loops and hand-made tensors."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import pellucid
from pellucid import Explanation, InputError, OptionError, OutputError, PellucidWarning, TargetError
from pellucid.methods import ATTENTIONS, EVERY, METHODS
from pellucid.show.example import example_of, headline
from pellucid.show.terminal import terminal
from pellucid.show.text import highlighted, words_of
from pellucid.text import head_maps, layer_maps
from tests import hugging
from tests.hugging import TEXT
from tests.models import assert_same_state, state_of

transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")
FAST = {"samples": 10}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Folders as `save_pretrained` leaves them, each made when it is first asked for; and what `from_pretrained` makes of them."""
    root, known = tmp_path_factory.mktemp("models"), {}

    def load(make: str, which: str, **options: Any) -> tuple[nn.Module, Any]:
        key = f"{make}-{which}-{options}"
        if key not in known:
            folder = getattr(hugging, make)(root / str(len(known)), **options)
            tokenizer = None if make == "vit" else transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            known[key] = hugging.loaded(folder, which), tokenizer
        return known[key]

    return load


@pytest.fixture
def bert(home):
    return home("bert", "BertForSequenceClassification")


def tagger(home):
    return home("bert", "BertForTokenClassification", kind="BertForTokenClassification", labels=("O", "PER", "LOC"))


def answerer(home):
    return home("bert", "BertForQuestionAnswering", kind="BertForQuestionAnswering")


def filler(home):
    return home("bert", "BertForMaskedLM", kind="BertForMaskedLM")


def words_in(model: nn.Module) -> nn.Embedding:
    return model.get_input_embeddings()


def close(found: Tensor, expected: Tensor, **options: Any) -> None:
    torch.testing.assert_close(found, expected, **{"rtol": 1e-9, "atol": 1e-11} | options)


# --- numbers

MODELS = {
    "BERT": ("bert", "BertForSequenceClassification", TEXT, {}),
    "DistilBERT": ("distilbert", "DistilBertForSequenceClassification", TEXT, {}),
    "GPT-2": ("gpt2", "GPT2LMHeadModel", "the play was not", {}),
    "Llama": ("llama", "LlamaForCausalLM", "the play was not", {}),
    "T5": ("t5", "T5ForConditionalGeneration", "the play was not", {"decoder_input_ids": torch.tensor([[0, 5, 6]])}),
    "ViT": ("vit", "ViTForImageClassification", "", {}),
}


@pytest.mark.parametrize("name", MODELS)
def test_integrated_gradients_are_complete(home, name):
    make, kind, text, further = MODELS[name]
    model, tokenizer = home(make, kind)
    inputs = (
        {"pixel_values": torch.rand(1, 3, 16, 16).double()} if tokenizer is None else {**tokenizer(text, return_tensors="pt")} | further
    )

    def gap(**options: Any) -> float:
        found = pellucid.explain(model, inputs, tokenizer=tokenizer, **options)
        change = found.scores - found.baseline_scores
        return float(((sum(a.sum() for a in found.attributions) - change) / change).abs())

    assert gap() <= 1e-3
    assert gap(tolerance=1e-6, steps=4097) <= 1e-5


def test_integrated_gradients_equal_captums_at_the_embedding(bert):
    captum = pytest.importorskip("captum.attr")
    model, tokenizer = bert
    inputs = tokenizer([TEXT, "a good film"], padding=True, return_tensors="pt")
    ids = inputs["input_ids"]
    special = (ids == 2) | (ids == 3)
    logits = lambda ids, mask, types: model(ids, attention_mask=mask, token_type_ids=types).logits  # noqa: E731
    rival = captum.LayerIntegratedGradients(logits, model.bert.embeddings.word_embeddings)
    context = (inputs["attention_mask"], inputs["token_type_ids"])
    expected = rival.attribute(ids, ids * special, target=1, additional_forward_args=context, n_steps=50)
    found = pellucid.explain(model, inputs, 1, tokenizer=tokenizer, steps=50)
    close(found.attribution, expected)
    assert found.attribution.dtype == torch.float64
    assert not found.attribution[special].any()


def test_attributions_equal_those_of_vectors_that_are_given(bert):
    model, tokenizer = bert
    inputs = tokenizer(TEXT, return_tensors="pt")
    words, ids = words_in(model), inputs["input_ids"]
    blank = torch.where((ids == 2) | (ids == 3), ids, 0)
    with torch.no_grad():
        here, there = words(ids), words(blank)
    context = {name: value for name, value in inputs.items() if name != "input_ids"}
    plain = lambda vectors, **context: model(inputs_embeds=vectors, **context).logits  # noqa: E731
    for method in ("integrated_gradients", "saliency", "deeplift", "attn_lrp", "generic_attention"):
        found = pellucid.explain(model, inputs, "POS", method, tokenizer=tokenizer)
        expected = pellucid.explain(plain, here, 1, method, baselines=there, kwargs=context)
        close(found.attribution, expected.attribution)
        close(found.scores, expected.scores)
        close(found.features[0], here)


def test_a_padded_batch_is_its_texts_one_by_one(bert):
    model, tokenizer = bert
    texts = [TEXT, "a good film", "anna made it ."]
    for method in ("integrated_gradients", "saliency", "gradient_shap", "feature_ablation", "shapley", "occlusion", "deeplift", "rollout"):
        options = {"samples": 1} if method == "gradient_shap" else {}
        together = pellucid.explain(model, tokenizer(texts, padding=True, return_tensors="pt"), 1, method, tokenizer=tokenizer, **options)
        for i, text in enumerate(texts):
            alone = pellucid.explain(model, tokenizer(text, return_tensors="pt"), 1, method, tokenizer=tokenizer, **options)
            length = alone.attribution.shape[1]
            close(together.attribution[i, :length], alone.attribution[0], rtol=1e-7, atol=1e-9)
            assert not together.attribution[i, length:].any()
            assert [t for t in together.display.tokens[i] if t is not None] == list(alone.display.tokens[0])


def test_the_attention_mask_hides_words(bert):
    model, tokenizer = bert
    inputs = tokenizer("a good film", return_tensors="pt")
    open_ = pellucid.explain(model, inputs, 1, tokenizer=tokenizer)
    inputs["attention_mask"][0, 2] = 0
    found = pellucid.explain(model, inputs, 1, tokenizer=tokenizer)
    assert open_.attribution[0, 2].any()
    assert not found.attribution[0, 2].any()
    close(found.scores, model(**inputs).logits[:, 1])
    assert found.display.tokens[0][2] is None


def test_positions_for_all_examples_stay_one_row(bert):
    model, tokenizer = bert
    inputs = {**tokenizer(["a good film", "bad plot"], padding=True, return_tensors="pt")}
    expected = pellucid.explain(model, inputs, 1, tokenizer=tokenizer)
    seen = set()
    places = model.bert.embeddings.position_embeddings.register_forward_pre_hook(lambda _, args: seen.add(tuple(args[0].shape)))
    found = pellucid.explain(model, inputs | {"position_ids": torch.arange(5)[None]}, 1, tokenizer=tokenizer)
    places.remove()
    assert seen == {(1, 5)}
    close(found.attribution, expected.attribution)


def test_the_model_stays_as_it_was(bert):
    model, tokenizer = bert
    inputs = tokenizer(TEXT, return_tensors="pt")
    before, entries = state_of(model), {name: value.clone() for name, value in inputs.items()}
    for method in ("integrated_gradients", "shapley", "generic_attention"):
        pellucid.explain(model, inputs, 1, method, tokenizer=tokenizer)
    head_maps(model, inputs, 1, tokenizer=tokenizer, steps=2)
    with pytest.raises(TargetError):
        pellucid.explain(model, inputs, "MAYBE", tokenizer=tokenizer)
    assert_same_state(before, state_of(model))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(inputs[name], value) for name, value in entries.items())


@pytest.mark.parametrize("method", [*METHODS, *ATTENTIONS])
def test_every_method_takes_words(bert, method):
    model, tokenizer = bert
    options = {"seed": 0} | (FAST if method in ("lime", "rise") else {})
    found = pellucid.explain(model, tokenizer(TEXT, return_tensors="pt"), "POS", method, tokenizer=tokenizer, **options)
    tokens = len(found.display.tokens[0])
    assert found.attribution.shape[:2] == (1, tokens)
    assert found.attribution.isfinite().all()
    assert found.attribution.any()
    assert found.attribution.dtype == torch.float64
    words, _, _ = words_of(example_of(found))
    assert [word.text for word in words] == ["[CLS]", "the", "play", "was", "not", "unbelievable", ",", "anna", ".", "[SEP]"]


@pytest.mark.parametrize("method", sorted(set(EVERY) - set(METHODS) - set(ATTENTIONS)))
def test_maps_of_pictures_say_why_not(bert, method):
    model, tokenizer = bert
    with pytest.raises((InputError, OptionError), match=r"layer=|image|picture|\(B, C"):
        pellucid.explain(model, tokenizer(TEXT, return_tensors="pt"), "POS", method, tokenizer=tokenizer)


# --- words that matter, known beforehand


class Sentiment(nn.Module):
    """Adds up what its words are worth; knows nothing of transformers but how its inputs are called."""

    def __init__(self, worth: dict[int, float], size: int) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(size, 4), nn.Linear(4, 2, bias=False)
        nn.init.zeros_(self.words.weight)
        for word, value in worth.items():
            self.words.weight.data[word] = value
        self.head.weight.data = torch.tensor([[-0.25] * 4, [0.25] * 4])

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        found = self.words(input_ids)
        found = found if attention_mask is None else found * attention_mask[..., None]
        return {"logits": self.head(found.sum(1))}


@pytest.mark.parametrize(
    "method", ["integrated_gradients", "feature_ablation", "shapley", "banzhaf", "owen", "lime", "occlusion", "deeplift"]
)
def test_what_each_word_is_worth_is_found(method):
    tokenizer = hugging.wordpiece()
    good, bad = tokenizer.convert_tokens_to_ids(["good", "bad"])
    model = Sentiment({good: 2.0, bad: -3.0}, len(tokenizer)).double()
    inputs = {**tokenizer(["a good film", "the bad bad plot was good"], padding=True, return_tensors="pt")}
    inputs.pop("token_type_ids")
    options = {"surrogate": "linear", "seed": 0} if method == "lime" else {}
    found = pellucid.explain(model, inputs, 1, method, tokenizer=tokenizer, **options)
    expected = torch.where(inputs["input_ids"] == good, 2.0, torch.where(inputs["input_ids"] == bad, -3.0, 0.0)).double()
    own = found.attribution if found.attribution.dim() == 2 else found.attribution.sum(-1)
    close(own, expected, rtol=1e-6, atol=1e-8)
    if method in ("shapley", "owen"):
        assert found.check("completeness").passed


def test_words_of_several_tokens_are_taken_away_whole():
    tokenizer = hugging.wordpiece()
    pieces = tokenizer.convert_tokens_to_ids(["un", "##believ", "##able"])

    class All(nn.Module):
        """1 where all pieces of the word are there."""

        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(len(tokenizer), len(tokenizer))
            self.words.weight.data = torch.eye(len(tokenizer))

        def forward(self, input_ids: Tensor, **_: Any) -> Tensor:
            seen = self.words(input_ids).amax(1)
            return seen[:, pieces].prod(1)

    inputs = tokenizer("the play was unbelievable", return_tensors="pt")
    apart = pellucid.explain(All(), inputs, None, "shapley", tokenizer=tokenizer).attribution
    whole = pellucid.explain(All(), inputs, None, "shapley", tokenizer=tokenizer, feature_mask="words").attribution
    close(apart, torch.tensor([[0, 0, 0, 0, 1, 1, 1, 0]]) / 3, rtol=1e-5, atol=1e-6)
    close(whole, torch.tensor([[0.0, 0, 0, 0, 1, 1, 1, 0]]), rtol=1e-5, atol=1e-6)
    with pytest.raises(OptionError, match="'letters'"):
        pellucid.explain(All(), inputs, None, "shapley", tokenizer=tokenizer, feature_mask="letters")


def test_hidden_words_are_those_that_the_mask_hides(bert):
    model, tokenizer = bert
    inputs = tokenizer("a good film", return_tensors="pt")
    found = pellucid.explain(model, inputs, 1, "feature_ablation", tokenizer=tokenizer, baselines="removed")
    for place in (1, 2, 3):
        ids, mask = inputs["input_ids"].clone(), inputs["attention_mask"].clone()
        ids[0, place] = mask[0, place] = 0
        less = model(ids, attention_mask=mask).logits[0, 1]
        close(found.attribution[0, place], found.scores[0] - less)
    assert not found.attribution[0, [0, 4]].any()
    with pytest.raises(OptionError, match="'removed'"):
        pellucid.explain(model, inputs, 1, tokenizer=tokenizer, baselines="removed")


# --- inputs as they are


def test_all_ways_to_give_the_same_inputs_agree(bert):
    model, tokenizer = bert
    inputs = tokenizer("a good film", return_tensors="pt")

    @dataclasses.dataclass
    class Batch:
        input_ids: Tensor
        attention_mask: Tensor
        token_type_ids: Tensor | None = None

    expected = pellucid.explain(model, inputs, 1, tokenizer=tokenizer).attribution
    for given in ({**inputs}, Batch(**inputs), Batch(inputs["input_ids"], inputs["attention_mask"]), "a good film", ["a good film"]):
        close(pellucid.explain(model, given, 1, tokenizer=tokenizer).attribution, expected)
    close(pellucid.explain(model, None, 1, tokenizer=tokenizer, kwargs={**inputs}).attribution, expected)
    close(pellucid.explain(model, inputs["input_ids"], 1, tokenizer=tokenizer).attribution, expected)
    close(pellucid.explain(lambda **given: model(**given).logits, inputs, 1, tokenizer=tokenizer).attribution, expected)
    further = pellucid.explain(model, inputs, 1, tokenizer=tokenizer, kwargs={"output_hidden_states": True, "return_dict": False})
    close(further.attribution, expected)


def test_a_tokenizer_is_only_for_names(bert):
    model, tokenizer = bert
    inputs = tokenizer("a good film", return_tensors="pt")
    named = pellucid.explain(model, inputs, 1, tokenizer=tokenizer)
    found = pellucid.explain(model, inputs, 1)  # what a fast tokenizer returns knows its tokens
    close(found.attribution, named.attribution)
    assert found.display.tokens == named.display.tokens == (("[CLS]", "a", "good", "film", "[SEP]"),)
    plain = pellucid.explain(model, {**inputs}, 1)
    assert plain.display.tokens[0] == ("#2", "#5", "#7", "#9", "#3")
    assert plain.attribution[0, 0].any()  # nothing says that it is special
    given = pellucid.explain(model, {**inputs}, 1, names=("<", "a", "good", "film", ">"))
    assert given.display.tokens[0] == given.display.names == ("<", "a", "good", "film", ">")
    with pytest.raises(InputError, match="2 names for 5 tokens"):
        pellucid.explain(model, {**inputs}, 1, names=("a", "b"))


def test_real_numbers_are_attributed_as_they_are(bert, home):
    model, tokenizer = bert
    inputs = {**tokenizer("a good film", return_tensors="pt")}
    vectors = words_in(model)(inputs.pop("input_ids")).detach()
    found = pellucid.explain(model, {"inputs_embeds": vectors, **inputs}, 1, names=("[CLS]", "a", "good", "film", "[SEP]"))
    expected = pellucid.explain(lambda x, **given: model(inputs_embeds=x, **given).logits, vectors, 1, kwargs=inputs)
    close(found.attribution, expected.attribution)
    vit, _ = home("vit", "ViTForImageClassification")
    pixels = torch.rand(2, 3, 16, 16).double()
    named = pellucid.explain(vit, {"pixel_values": pixels}, "dog", "grad_cam", layer="vit.layernorm")
    close(named.attribution, pellucid.explain(vit, pixels, "dog", "grad_cam", layer="vit.layernorm").attribution)
    assert named.target == "output 1 (dog)"
    assert named.display.kind == "image"


def test_embeddings_together_and_apart(bert):
    model, tokenizer = bert
    inputs = tokenizer("who made it ?", "anna .", return_tensors="pt")
    before = model.bert.embeddings
    everything = pellucid.explain(model, inputs, 1, tokenizer=tokenizer, embeddings="all")
    assert [part.title for part in everything.display.parts] == [
        "input_ids", "bert.embeddings.token_type_embeddings", "bert.embeddings.position_embeddings"
    ]  # fmt: skip
    assert [tuple(a.shape) for a in everything.attributions] == [(1, 9, 16)] * 3
    blank = torch.zeros_like(inputs["input_ids"])
    start = before.LayerNorm(
        before.word_embeddings(torch.where(inputs["input_ids"].lt(4) & inputs["input_ids"].gt(1), inputs["input_ids"], 0))
        + before.token_type_embeddings(blank) + before.position_embeddings(blank)
    )  # fmt: skip
    seen: list[Tensor] = []
    hook = before.register_forward_hook(lambda *_: seen.append(start) or start)
    close(everything.baseline_scores, model(**inputs).logits[:, 1].detach(), rtol=1e-6)
    hook.remove()
    summed = pellucid.explain(model, inputs, 1, tokenizer=tokenizer, embeddings="sum")
    close(summed.attribution, pellucid.explain(model, inputs, 1, tokenizer=tokenizer, layer="bert.embeddings").attribution)
    assert summed.display.kind == "text"
    assert summed.options["layer"] == "layer bert.embeddings"
    types = pellucid.explain(model, inputs, 1, tokenizer=tokenizer, embeddings=["token_type_ids"])
    assert [part.title for part in (types.display, *types.display.parts)] == ["bert.embeddings.token_type_embeddings"]
    assert not types.attribution[0, :6].any()  # of the first text, compared with itself
    assert types.attribution[0, 6:].any()
    with pytest.raises(OptionError, match="'words'"):
        pellucid.explain(model, inputs, 1, tokenizer=tokenizer, embeddings="words")


def test_sums_outside_of_any_layer_name_the_way_out(home):
    model, tokenizer = home("gpt2", "GPT2LMHeadModel")
    inputs = tokenizer("the film", return_tensors="pt")
    with pytest.raises(OptionError, match="of_input=True"):
        pellucid.explain(model, inputs, tokenizer=tokenizer, embeddings="sum")
    found = pellucid.explain(model, inputs, tokenizer=tokenizer, layer="transformer.drop", of_input=True)
    assert found.check("completeness").value < 1e-6
    llama, tokenizer = home("llama", "LlamaForCausalLM")
    alone = pellucid.explain(llama, tokenizer("the film", return_tensors="pt"), tokenizer=tokenizer, embeddings="sum")
    close(alone.attribution, pellucid.explain(llama, tokenizer("the film", return_tensors="pt"), tokenizer=tokenizer).attribution)


@pytest.mark.parametrize(
    ("given", "ids"),
    [
        ("mask", [2, 4, 4, 4, 3]), ("unk", [2, 1, 1, 1, 3]), ("bad", [2, 8, 8, 8, 3]), (8, [2, 8, 8, 8, 3]), (0, [2, 0, 0, 0, 3]),
        ("the bad", [2, 6, 8, 0, 3]), (torch.tensor([2, 6, 8, 10, 3]), [2, 6, 8, 10, 3]),
        (torch.tensor([[2, 6, 8, 0, 3]]), [2, 6, 8, 0, 3]),
        ({"input_ids": "bad"}, [2, 8, 8, 8, 3]), (("bad",), [2, 8, 8, 8, 3]), (pellucid.perturb.token(8, keep=[2, 3]), [2, 8, 8, 8, 3]),
    ],
)  # fmt: skip
def test_what_words_are_compared_with(bert, given, ids):
    model, tokenizer = bert
    inputs = tokenizer("a good film", return_tensors="pt")
    assert inputs["input_ids"].tolist() == [[2, 5, 7, 9, 3]]
    other = model(**{**inputs, "input_ids": torch.tensor([ids])}).logits[:, 1].detach()
    for method in ("integrated_gradients", "feature_ablation"):
        found = pellucid.explain(model, inputs, 1, method, tokenizer=tokenizer, baselines=given)
        close(found.baseline_scores, other)


def test_vectors_and_zeros_are_possible_references(bert):
    model, tokenizer = bert
    inputs = tokenizer("a good film", return_tensors="pt")
    vectors = torch.randn(1, 5, 16).double()
    context = {name: value for name, value in inputs.items() if name != "input_ids"}
    for given, other in (("zeros", 0 * vectors), (0.0, 0 * vectors), (vectors, vectors), (0.5, 0 * vectors + 0.5)):
        found = pellucid.explain(model, inputs, 1, tokenizer=tokenizer, baselines=given)
        close(found.baseline_scores, model(inputs_embeds=other, **context).logits[:, 1].detach())
    for given in ("zeros", 0.5, vectors):
        with pytest.raises((OptionError, TargetError), match=r"baselines|'zeros'"):
            pellucid.explain(model, inputs, 1, "feature_ablation", tokenizer=tokenizer, baselines=given)


def test_special_tokens_stay_in_distributions_too(bert):
    model, tokenizer = bert
    texts = ["a good film", "the bad plot was not good"]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    found = pellucid.explain(model, inputs, 1, "deeplift_shap", tokenizer=tokenizer, baselines=["bad", "a plot"])
    kept = (inputs["input_ids"] == 2) | (inputs["input_ids"] == 3) | (inputs["attention_mask"] == 0)
    assert not found.attribution[kept].any()
    assert found.check("completeness").value < 1e-6
    usual = pellucid.explain(model, inputs, 1, "gradient_shap", tokenizer=tokenizer, samples=200, seed=0)
    exact = pellucid.explain(model, inputs, 1, "integrated_gradients", tokenizer=tokenizer)
    close(usual.baseline_scores, exact.baseline_scores)
    close(usual.attribution, exact.attribution, rtol=0.3, atol=0.05 * float(exact.attribution.abs().max()))


# --- outputs as they are


class Says(nn.Module):
    def __init__(self, *fields: str, of: type = dict) -> None:
        super().__init__()
        self.fields, self.of, self.body = fields, of, nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Any:
        parts = dict(zip(self.fields, self.body(x).split(2, 1), strict=False))
        return self.of(parts) if self.of is dict else self.of(*parts.values())


@dataclasses.dataclass
class Answer:
    start: Tensor
    end: Tensor


@dataclasses.dataclass
class Guess:
    score: Tensor
    words: str = "said"


def test_fields_of_outputs_are_targets():
    x = torch.randn(3, 4)
    for model, target, index in (
        (Says("logits", "hidden"), 1, 1), (Says("other", "logits"), ("other", 0), 0), (Says("only"), 1, 1),
        (Says("start", "end", of=Answer), ("end", 1), 3), (Says("a", "b", of=lambda *parts: parts), ("1", 0), 2),
        (Says("a", of=lambda *parts: parts), 1, 1), (Says("a", of=Guess), 0, 0),
    ):  # fmt: skip
        found = pellucid.explain(model, x, target, "gradient")
        close(found.attribution, model.body.weight[index].detach().expand(3, 4), rtol=1e-5, atol=1e-6)
    two = pellucid.explain_each(Says("start", "end", of=Answer), x, [("start", 0), ("end", 1)], "gradient")
    assert [one.target for one in two] == ["start, output 0", "end, output 1"]
    with pytest.raises(OutputError, match=r"'start' \(3, 2\), 'end' \(3, 2\)"):
        pellucid.explain(Says("start", "end", of=Answer), x, 1)
    with pytest.raises(TargetError, match=r"'middle'.*'start' \(3, 2\)"):
        pellucid.explain(Says("start", "end", of=Answer), x, ("middle", 1))
    whole = pellucid.explain(lambda x: {"height": x.sum(1), "width": x}, x, "height", "gradient")
    assert whole.attribution.eq(1).all()
    assert whole.target == "height"


def test_classes_come_from_the_configuration(bert, home):
    model, tokenizer = bert
    found = pellucid.explain(model, tokenizer("a good film", return_tensors="pt"), "POS - NEG", tokenizer=tokenizer)
    assert found.target == "output 1 (POS) - output 0 (NEG)"
    assert found.display.classes == ("NEG", "POS")
    assert headline(found, 0) in (
        f"predicted {name} ({100 * float(found.confidences[0]):.3g}\N{NO-BREAK SPACE}%)" for name in ("NEG", "POS")
    )
    vit, _ = home("vit", "ViTForImageClassification")
    assert pellucid.explain(vit, torch.rand(1, 3, 16, 16).double(), "cow", "saliency").display.classes == ("cat", "dog", "cow")
    mine = pellucid.explain(model, tokenizer("a good film", return_tensors="pt"), "yes", tokenizer=tokenizer, classes=("no", "yes"))
    assert mine.target == "output 1 (yes)"
    with pytest.raises(TargetError, match="'MAYBE' is not a class; the classes are 'NEG', 'POS'"):
        pellucid.explain(model, tokenizer("a good film", return_tensors="pt"), "MAYBE", tokenizer=tokenizer)


def test_tokens_are_classified(home):
    model, tokenizer = tagger(home)
    inputs = tokenizer(["anna made the film", "it was in paris ."], padding=True, return_tensors="pt")
    logits = model(**inputs).logits.detach()
    for target, expected in (
        ((1, "PER"), logits[:, 1, 1]), ((-2, 2), logits[[0, 1], [4, 5], 2]),
        ([("anna", "PER"), ("paris", "LOC")], logits[[0, 1], [1, 4], [1, 2]]),
        ((2, None), logits[:, 2].amax(1)), (lambda out: out.logits[:, 1, 0], logits[:, 1, 0]),
    ):  # fmt: skip
        close(pellucid.explain(model, inputs, target, "saliency", tokenizer=tokenizer).scores, expected)
    found = pellucid.explain(model, inputs, (1, "PER"), "saliency", tokenizer=tokenizer)
    assert found.target == "output (1, 1) (PER of 'anna')"
    close(found.confidences, logits[:, 1].softmax(1).amax(1))
    assert found.display.answers[1].endswith(" of 'it'")
    guessed = pellucid.explain(model, inputs, None, "saliency", tokenizer=tokenizer)
    assert guessed.check("target").guessed
    chances = logits.softmax(2)[..., 1:] * (inputs["attention_mask"] * (inputs["input_ids"] > 4))[..., None]
    flat = chances.flatten(1).argmax(1)
    close(guessed.scores, torch.stack([logits[i, f // 2, f % 2 + 1] for i, f in enumerate(flat.tolist())]))
    for wrong, words in (("PER", "1 'anna'"), (("cow", "PER"), "0 of the text's tokens"), ((9, 1), "none of the number 9")):
        with pytest.raises(TargetError, match=words):
            pellucid.explain(model, tokenizer("anna made it", return_tensors="pt"), wrong, tokenizer=tokenizer)


def test_questions_are_answered_by_spans(home):
    model, tokenizer = answerer(home)
    inputs = tokenizer("who made it ?", "anna made the film in paris .", return_tensors="pt")
    output = model(**inputs)
    start, end = output.start_logits[0].detach(), output.end_logits[0].detach()
    spans = {(i, j): float(start[i] + end[j]) for i in range(6, 13) for j in range(i, 13)}  # words of the context, in order
    first, last = max(spans, key=spans.get)
    found = pellucid.explain(model, inputs, tokenizer=tokenizer)
    assert found.check("target").guessed
    close(found.scores[0], torch.tensor(spans[first, last], dtype=torch.float64))
    assert found.display.answers == (repr(tokenizer.decode(inputs["input_ids"][0, first : last + 1])),)
    close(found.confidences[0], start.softmax(0)[first] * end.softmax(0)[last])
    for target, expected in (
        ("start_logits", start[first]), (("start", -3), start[11]), ("start", start[first]), ("end", end[last]),
        (("start", 8), start[8]), (("end_logits", "paris"), end[11]),
        (("paris", "end"), end[11]),
    ):  # fmt: skip
        close(pellucid.explain(model, inputs, target, "saliency", tokenizer=tokenizer).scores[0], expected)
    assert pellucid.explain(model, inputs, ("end", "paris"), "saliency", tokenizer=tokenizer).target == "end_logits, output 11 ('paris')"
    with pytest.raises(TargetError, match="40"):
        pellucid.explain(model, inputs, ("start", 40), tokenizer=tokenizer)
    both = tokenizer(["who ?"] * 2, ["anna made the film .", "anna ."], padding=True, return_tensors="pt")
    with pytest.raises(TargetError, match="the text has 7 tokens, none of the number 8"):
        pellucid.explain(model, both, ("start", 8), tokenizer=tokenizer)


def test_masks_are_filled_in(home):
    model, tokenizer = filler(home)
    inputs = tokenizer(["the film was [MASK] .", "[MASK] made it"], padding=True, return_tensors="pt")
    logits = model(**inputs).logits.detach()
    at = logits[[0, 1], [4, 1]]
    good, bad = tokenizer.convert_tokens_to_ids(["good", "bad"])
    for target, expected in (
        ("good", at[:, good]), ("good - bad", at[:, good] - at[:, bad]),
        (["bad", "anna"], at[[0, 1], [bad, tokenizer.convert_tokens_to_ids("anna")]]),
        ((2, "good"), logits[:, 2, good]), (good, at[:, good]), (None, at.amax(1)),
    ):  # fmt: skip
        close(pellucid.explain(model, inputs, target, "saliency", tokenizer=tokenizer).scores, expected)
    assert pellucid.explain(model, tokenizer("a [MASK] film", return_tensors="pt"), "good", "saliency", tokenizer=tokenizer).target == (
        f"output (2, {good}) ('good')"
    )
    for text, target, words in (
        ("a film", "good", "0 mask tokens"), ("[MASK] [MASK]", "good", "2 mask tokens"), ("a [MASK]", "unbelievable", "3 tokens"),
        ("a [MASK]", "zebra", "not in the vocabulary"),
    ):  # fmt: skip
        with pytest.raises(TargetError, match=words):
            pellucid.explain(model, tokenizer(text, return_tensors="pt"), target, tokenizer=tokenizer)


@pytest.mark.parametrize("name", ["GPT-2", "Llama"])
def test_the_next_token_is_explained(home, name):
    make, kind, *_ = MODELS[name]
    model, tokenizer = home(make, kind)
    texts = ["the film", "the play was not very"]
    each = [tokenizer(text, return_tensors="pt") for text in texts]
    last = torch.cat([model(**one).logits[:, -1] for one in each]).detach()
    good = tokenizer.convert_tokens_to_ids("\u0120good")
    together = pellucid.explain(model, texts, "good", tokenizer=tokenizer)  # a tokenizer that cannot pad
    close(together.scores, last[:, good])
    close(pellucid.explain(model, texts, None, "saliency", tokenizer=tokenizer).scores, last.amax(1))
    for i, one in enumerate(each):
        alone = pellucid.explain(model, one, "good", tokenizer=tokenizer)
        length = alone.attribution.shape[1]
        close(together.attribution[i, :length], alone.attribution[0], rtol=1e-6, atol=1e-8)
    assert [word.text for word in words_of(example_of(together, 0))[0]] == ["the", "film"]
    with pytest.raises(TargetError, match="no tokenizer"):
        pellucid.explain(model, {"input_ids": each[0]["input_ids"]}, "good", baselines=0)


def test_a_text_that_answers_a_text_has_two_inputs(home):
    model, tokenizer = home("t5", "T5ForConditionalGeneration")
    inputs = {**tokenizer("the film was", return_tensors="pt"), "decoder_input_ids": torch.tensor([[0, 6]])}
    found = pellucid.explain(model, inputs, "good", tokenizer=tokenizer)
    assert [part.title for part in found.display.parts] == ["input_ids", "decoder_input_ids"]
    assert [a.shape[1] for a in found.attributions] == [4, 2]
    assert not found.attributions[1][0, 0].any()  # the token that begins every answer
    close(found.scores, model(**inputs).logits[:, -1, tokenizer.convert_tokens_to_ids("\u2581good")].detach())
    assert [word.text for word in words_of(example_of(found, 0, 0))[0]] == ["the", "film", "was", "</s>"]
    printed = str(terminal(found))
    assert "input_ids: adds up to" in printed
    assert "the film was </s>" in printed


def test_several_targets_of_one_pass(bert):
    model, tokenizer = bert
    inputs = tokenizer("a good film", return_tensors="pt")
    found = pellucid.explain_each(model, inputs, ["NEG", 1], "integrated_gradients", tokenizer=tokenizer)
    for one, target in zip(found, (0, 1), strict=True):
        close(one.attribution, pellucid.explain(model, inputs, target, tokenizer=tokenizer).attribution)


def test_neurons_and_layers_of_named_inputs(bert):
    model, tokenizer = bert
    inputs = tokenizer(["a good film", "bad plot"], padding=True, return_tensors="pt")
    layer = "bert.encoder.layer.0"
    neuron = pellucid.explain(model, inputs, layer=layer, neuron=(1, 3), tokenizer=tokenizer)
    assert neuron.attribution.shape == (2, 5, 16)
    seen: list[Tensor] = []
    hook = model.bert.encoder.layer[0].register_forward_hook(lambda _, __, out: seen.append(out if isinstance(out, Tensor) else out[0]))
    model(**inputs)
    hook.remove()
    close(neuron.scores, seen[0][:, 1, 3].detach())
    at_layer = pellucid.explain(model, inputs, 1, layer=layer, tokenizer=tokenizer)
    assert at_layer.display.kind == "text"
    assert at_layer.check("completeness").value < 1e-6
    assert [t for t in at_layer.display.tokens[1] if t] == ["[CLS]", "bad", "plot", "[SEP]"]
    plain = pellucid.explain(model, inputs, 1, tokenizer=tokenizer)
    for method in ("integrated_gradients", "saliency", "gradient_shap"):
        options = {"samples": 1} if method == "gradient_shap" else {}
        expected = pellucid.explain(model, inputs, 1, method, tokenizer=tokenizer, seed=0, **options)
        for words in ("bert.embeddings.word_embeddings", words_in(model)):
            found = pellucid.explain(model, inputs, 1, method, layer=words, tokenizer=tokenizer, seed=0, **options)
            close(found.attribution, expected.attribution)
    ablated = pellucid.explain(model, inputs, 1, "feature_ablation", layer="bert.embeddings.word_embeddings", tokenizer=tokenizer)
    assert ablated.attribution.shape == plain.attribution.shape
    assert ablated.attribution.any()
    zeros = pellucid.explain(model, inputs, 1, layer=layer, tokenizer=tokenizer, baselines="zeros")
    assert zeros.check("completeness").value < 1e-6
    assert not torch.allclose(zeros.baseline_scores, at_layer.baseline_scores)


# --- refusals and warnings


def test_what_does_not_fit_is_refused_in_words(bert):
    model, tokenizer = bert
    good = tokenizer("a good film", return_tensors="pt")
    for inputs, options, words in (
        ("a good film", {}, "no tokenizer is known"), (tokenizer("a good film"), {}, "return_tensors='pt'"), ({}, {}, "hold no tensor"),
        ({"input_ids": torch.tensor([1, 2])}, {}, r"unsqueeze\(0\)"), ("  ", {"tokenizer": tokenizer}, "empty"),
        (("a", "b", "c"), {"tokenizer": tokenizer}, "pair"),
        (tokenizer("good " * 40, return_tensors="pt"), {}, "42 tokens, and the model reads 24"),
        (good, {"baselines": {"pixel_values": 0}}, "'pixel_values'"), (good, {"baselines": (0, 1)}, "2 baselines for 1 inputs"),
        (good, {"baselines": torch.zeros(1, 4, dtype=torch.long)}, "one id for each token"), (good, {"embeddings": "nothing"}, "'nothing'"),
        ({"attention_mask": torch.ones(1, 3)}, {}, "."),
    ):  # fmt: skip
        with pytest.raises((InputError, OptionError, ValueError), match=words):
            pellucid.explain(model, inputs, 1, **options)


def test_ids_that_no_embedding_looks_up_are_refused():
    weight = torch.randn(9, 4)
    functional = lambda input_ids: nn.functional.embedding(input_ids, weight).sum(1)  # noqa: E731
    with pytest.raises(InputError, match=r"none of input_ids can be attributed.*inputs_embeds"):
        pellucid.explain(functional, {"input_ids": torch.tensor([[1, 2]])}, 1)


def test_a_text_that_is_too_long_is_cut_with_a_warning(bert):
    model, tokenizer = bert
    with pytest.warns(PellucidWarning, match="the text has 42 tokens"):
        found = pellucid.explain(model, "good " * 40, 1, "saliency", tokenizer=tokenizer)
    assert found.attribution.shape == (1, 24, 16)


def test_padding_that_nothing_hides_fails_a_check(bert):
    model, tokenizer = bert
    inputs = {**tokenizer(["a good film", "bad"], padding=True, return_tensors="pt")}
    assert pellucid.explain(model, inputs, 1, "saliency", tokenizer=tokenizer).check("attention_mask") is None
    inputs.pop("attention_mask")
    assert not pellucid.explain(model, inputs, 1, "saliency", tokenizer=tokenizer).check("attention_mask").passed


def test_padding_before_a_text_that_moves_it_fails_a_check(home):
    model, tokenizer = home("gpt2", "GPT2LMHeadModel")
    ids = tokenizer("the film", return_tensors="pt")["input_ids"]
    inputs = {"input_ids": torch.nn.functional.pad(ids, (2, 0)), "attention_mask": torch.nn.functional.pad(torch.ones_like(ids), (2, 0))}
    found = pellucid.explain(model, inputs, None, "saliency", tokenizer=tokenizer)
    assert not found.check("position_ids").passed
    places = (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)
    right = pellucid.explain(model, inputs | {"position_ids": places}, None, "saliency", tokenizer=tokenizer)
    assert right.check("position_ids") is None
    alone = pellucid.explain(model, {"input_ids": ids}, None, "saliency", tokenizer=tokenizer)
    close(right.attribution[:, 2:], alone.attribution, rtol=1e-6)
    assert [t for t in right.display.tokens[0] if t] == list(alone.display.tokens[0])


# --- what people see


def test_each_example_draws_its_own_words_and_no_padding(bert, tmp_path):
    model, tokenizer = bert
    found = pellucid.explain(model, ["a good film", TEXT], 1, tokenizer=tokenizer)
    kept = Explanation.load(found.save(tmp_path / "texts.safetensors"))
    assert kept.display.tokens == found.display.tokens
    for one in (found, kept):
        assert [word.text for word in words_of(example_of(one, 0))[0]] == ["[CLS]", "a", "good", "film", "[SEP]"]
        assert "unbelievable" in highlighted(one, 1)
        assert "unbelievable" not in highlighted(one, 0)
        assert "[PAD]" not in str(terminal(one, 0)) + highlighted(one, 0)
        assert ">good<" in one._repr_html_()
        values = words_of(example_of(one, 0))[1]
        close(torch.from_numpy(values), found.attribution[0, :5].sum(-1))
        assert one.draw(1).axes
    assert json.dumps(found.display.words())


def test_special_tokens_of_any_name_are_marked():
    tokenizer = hugging.wordpiece()
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["@@user"]}
        if hasattr(tokenizer, "additional_special_tokens")
        else {"extra_special_tokens": ["@@user"]}
    )
    model = Sentiment({7: 1.0, len(tokenizer) - 1: 5.0}, len(tokenizer))
    inputs = {**tokenizer("@@user a good film", return_tensors="pt")}
    inputs.pop("token_type_ids")
    found = pellucid.explain(model, inputs, 1, tokenizer=tokenizer)
    words = words_of(example_of(found))[0]
    assert [word.text for word in words if word.special] == ["[CLS]", "@@user", "[SEP]"]
    assert not found.attribution[0, 1].any()


def test_tokens_that_end_words_are_joined():
    from pellucid.text.vocabulary import Vocabulary

    class Clip:
        all_special_ids = (0,)
        names = ("<|startoftext|>", "play", "ing</w>", "a</w>", "un")

        def convert_ids_to_tokens(self, ids):
            return [self.names[i] for i in ids]

    assert Vocabulary(Clip()).tokens([0, 1, 2, 3, 4, 2]) == ("<|startoftext|>", "\u2581play", "ing", "\u2581a", "\u2581un", "ing")


def test_tokens_without_marks_are_joined_by_the_words_that_they_are_of():
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = Tokenizer(models.BPE({letter: i for i, letter in enumerate("abcdefgmil")}, []))
    letters.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = hugging.quiet().PreTrainedTokenizerFast(tokenizer_object=letters)
    inputs = {**tokenizer("bad film", return_tensors="pt")}
    assert inputs["input_ids"].tolist() == [[1, 0, 3, 5, 8, 9, 7]]
    model = Sentiment({8: 1.0}, 10)
    for given in (tokenizer, None):
        named = pellucid.explain(
            lambda input_ids, **_: model(input_ids), tokenizer("bad film", return_tensors="pt"), 1, tokenizer=given, baselines=0
        )
        words, sums, _ = words_of(example_of(named))
        assert [word.text for word in words] == ["bad", "film"]
        assert sums.tolist() == pytest.approx([0.0, 1.0])


class Vqa(nn.Module):
    """A question about a picture: how bright its left half is, if the word for it is there."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.patch = nn.Embedding(9, 4), nn.Conv2d(3, 1, 1, bias=False)
        nn.init.zeros_(self.words.weight)
        self.words.weight.data[5] = 0.25
        nn.init.ones_(self.patch.weight)

    def forward(self, input_ids: Tensor, pixel_values: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        asked = self.words(input_ids).sum((1, 2))
        left = self.patch(pixel_values)[..., :4].mean((1, 2, 3))
        return torch.stack([0 * asked, asked * left], 1)


@pytest.mark.parametrize("method", ["integrated_gradients", "shapley", "feature_ablation", "deeplift"])
def test_words_and_pixels_of_one_question(method):
    inputs = {"input_ids": torch.tensor([[2, 5, 6], [5, 1, 1]]), "pixel_values": torch.ones(2, 3, 8, 8)}
    options = {"evaluations": 200, "seed": 0} if method == "shapley" else {}
    names = (("[CLS]", "left", "?"), ("left", "is", "it"))
    found = pellucid.explain(Vqa(), inputs, 1, method, baselines=(0, None), names=names, **options)
    assert found.scores.tolist() == [3, 3]
    words, pixels = found.attributions
    assert pixels[..., :4].abs().min() > 0
    assert pixels[..., 4:].abs().max() < 1e-6 + 0.05 * (method == "shapley")
    own = words.sum(-1) if words.dim() == 3 else words
    assert own.abs().argmax(1).tolist() == [1, 0]
    if method in ("integrated_gradients", "deeplift"):  # a product: half to each
        close(own.sum(1), torch.tensor([1.5, 1.5]), rtol=1e-5)
        close(pixels.sum((1, 2, 3)), torch.tensor([1.5, 1.5]), rtol=1e-5)
    assert [part.kind for part in found.display.parts] == ["text", "image"]
    assert len(found.draw(1).axes) >= 4
    html, printed = found._repr_html_(), str(terminal(found, 1))
    assert "left" in html
    assert html.count("<img") == 1
    assert "pixel_values" in printed


def test_models_of_pictures_and_texts():
    tokenizer = hugging.wordpiece()
    parts = {"vocab_size": len(tokenizer), "image_size": 16, "patch_size": 4, "num_labels": 3, **hugging.SIZES}
    vilt = hugging.lively(transformers.ViltForQuestionAnswering(transformers.ViltConfig(**parts))).double()
    inputs = {**tokenizer("who made it ?", return_tensors="pt"), "pixel_values": torch.rand(1, 3, 16, 16).double()}
    found = pellucid.explain(vilt, inputs, 2, tokenizer=tokenizer)
    assert [tuple(a.shape) for a in found.attributions] == [(1, 6, 16), (1, 3, 16, 16)]
    assert found.check("completeness").value < 1e-3
    text = {"vocab_size": len(tokenizer), "eos_token_id": 3, **hugging.SIZES}
    vision = {"image_size": 16, "patch_size": 4, **hugging.SIZES}
    clip = hugging.lively(
        transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    ).double()
    both = {**tokenizer(["a good film", "bad"], padding=True, return_tensors="pt"), "pixel_values": torch.rand(2, 3, 16, 16).double()}
    both.pop("token_type_ids")
    with pytest.raises(OutputError, match=r"'logits_per_image' \(2, 2\)"):
        pellucid.explain(clip, both, 1, tokenizer=tokenizer)
    own = lambda output: output.logits_per_image.diagonal()  # noqa: E731
    alike = pellucid.explain(clip, both, own, tokenizer=tokenizer)
    close(alike.scores, own(clip(**both)).detach())
    assert alike.check("completeness").value < 1e-2
    only = pellucid.explain(clip, both, own, tokenizer=tokenizer, embeddings=["input_ids"])
    assert len(only.attributions) == 1


# --- inside


def test_attention_heads_are_complete_and_norms_are_those_of_the_paper(home):
    model, tokenizer = answerer(home)
    inputs = tokenizer(["who made it ?", "who ?"], ["anna made the film .", "anna ."], padding=True, return_tensors="pt")
    found = head_maps(model, inputs, ("start", 5), tokenizer=tokenizer, steps=30)
    heads = found.heads
    assert heads.values.shape == (2, 2, 2, 12, 12)
    assert heads.gaps.abs().max() < 1e-6 * heads.values.abs().max()
    model.set_attn_implementation("eager")
    output = model(**inputs, output_attentions=True, output_hidden_states=True)
    model.set_attn_implementation("sdpa")
    for number, (layer, weights) in enumerate(zip(model.bert.encoder.layer, output.attentions, strict=True)):
        close(heads.weights[number], weights.detach())
        value = layer.attention.self.value(output.hidden_states[number]).detach().unflatten(2, (2, 8))
        dense = layer.attention.output.dense.weight.detach().unflatten(1, (2, 8))
        moved = torch.einsum("bmhd,chd->bhmc", value, dense)
        each = weights.detach()[..., None] * moved[:, :, None]  # alpha f(x), as equation 4 writes it
        close(heads.norms[number], each.norm(dim=-1))
        close(heads.together[number], each.sum(1).norm(dim=-1))
    assert found.matrix("norms").shape == (2, 2)
    close(found.matrix("values", "head", 1).sum(1), heads.values[:, 1].sum((1, 2, 3)))
    real = int(inputs["attention_mask"][1].sum())
    assert found.matrix("weights", "token", 1).shape == (2, real)
    close(found.matrix("weights", "token", 1).sum(1), torch.ones(2).double())
    assert len(found.draw().axes) == 4
    assert len(found.draw("token", 1).axes) == 6
    with pytest.raises(OptionError, match="'weights' by 'token'"):
        found.matrix("weights")


def test_attention_from_zero_is_that_of_the_paper(home):
    model, tokenizer = answerer(home)
    inputs = tokenizer("who ?", "anna .", return_tensors="pt")
    heads = head_maps(model, inputs, ("start", 5), tokenizer=tokenizer, steps=40, start="zero").heads
    model.set_attn_implementation("eager")
    number = 1

    def with_(weights: Tensor) -> Tensor:
        """The score where the layer attends so, by a softmax that returns it."""
        before, calls = torch.nn.functional.softmax, []

        def softmax(*args: Any, **kwargs: Any) -> Tensor:
            calls.append(1)
            return weights if len(calls) == number + 1 else before(*args, **kwargs)

        torch.nn.functional.softmax = softmax
        try:
            return model(**inputs).start_logits[0, 5]
        finally:
            torch.nn.functional.softmax = before

    full = heads.weights[number]
    total = torch.zeros_like(full)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        at = (node * full).requires_grad_()
        (gradient,) = torch.autograd.grad(with_(at), at)
        total += weight * gradient
    model.set_attn_implementation("sdpa")
    close(heads.values[number], full * total, rtol=1e-6, atol=1e-9)


def test_layers_hold_the_whole_score(home):
    model, tokenizer = answerer(home)
    inputs = tokenizer("who made it ?", "anna made the film .", return_tensors="pt")
    found = layer_maps(model, inputs, "end", tokenizer=tokenizer)
    assert found.layers == ("bert.encoder.layer.0", "bert.encoder.layer.1")
    change = pellucid.explain(model, inputs, "end", tokenizer=tokenizer)
    total = (change.scores - change.baseline_scores).expand(2, 1)
    close(found.values.sum(2), total, rtol=1e-5)
    assert found.gaps.abs().max() < 1e-6
    by_hand = pellucid.explain(model, inputs, "end", tokenizer=tokenizer, layer="bert.encoder.layer.1").attribution.sum(-1)
    close(found.values[1], by_hand)
    last = found.values[1].abs()
    place = int(last.argmax())
    assert last[0, place] > 0.99 * last.sum()  # only the token itself is read behind the last layer
    assert len(found.draw().axes) == 2
    with pytest.raises(OptionError, match=r"no layer 'bert\.decoder'"):
        layer_maps(model, inputs, "end", layers=["bert.decoder"], tokenizer=tokenizer)


def test_captums_refusals_work_here(bert):
    """What captum refuses of the same model: ids, dictionaries, outputs with fields, distributions at the embedding."""
    model, tokenizer = bert
    inputs = tokenizer("a good film", return_tensors="pt")
    for method in ("saliency", "gradient_shap", "lrp", "deeplift"):
        found = pellucid.explain(model, inputs, "POS", method, tokenizer=tokenizer, **({"composite": "epsilon"} if method == "lrp" else {}))
        assert math.isfinite(float(found.attribution.sum()))


def test_a_terminal_without_colours_prints_the_words(bert):
    model, tokenizer = bert
    found = pellucid.explain(model, TEXT, "POS", tokenizer=tokenizer)
    file = io.StringIO()
    Console(file=file, width=70, color_system=None).print(found)
    assert "[CLS] the play was not unbelievable , anna . [SEP]" in file.getvalue()


def test_padding_in_place_of_a_word_moves_no_other():
    """RoBERTa counts places by what is no padding: by other ids alone all words behind a replaced one would move."""
    torch.manual_seed(0)
    transformers = hugging.quiet()
    config = transformers.RobertaConfig(vocab_size=30, max_position_embeddings=24, pad_token_id=1, type_vocab_size=1, **hugging.SIZES)
    model = hugging.lively(transformers.RobertaForSequenceClassification(config)).double()
    ids, mask = torch.tensor([[0, 5, 6, 7, 8, 2], [0, 9, 6, 2, 1, 1]]), torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    found = pellucid.explain(model, {"input_ids": ids, "attention_mask": mask}, 1, "feature_ablation")
    places = torch.where(ids == 1, 1, 1 + mask.cumsum(1))

    def score(given):
        with torch.no_grad():
            return model(given, attention_mask=mask, position_ids=places).logits[:, 1]

    for place in range(1, 5):
        other = ids.clone()
        other[:, place] = torch.where((ids[:, place] > 2), 1, ids[:, place])
        torch.testing.assert_close(found.attribution[:, place], score(ids) - score(other), atol=1e-12, rtol=0)


def test_a_classifier_that_looks_for_padding_fails_a_check(tmp_path):
    transformers, tokenizer = hugging.quiet(), hugging.byte_level()
    config = transformers.GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, eos_token_id=0, pad_token_id=0)
    model = transformers.GPT2ForSequenceClassification(config).eval()

    def failed(method, baselines):
        health = pellucid.explain(model, "the film was good", 1, method, tokenizer=tokenizer, baselines=baselines).health
        return ["read" in check.message for check in health if check.name == "reference" and not check.passed]

    assert failed("feature_ablation", None) == [True]
    assert failed("feature_ablation", " the") == failed("integrated_gradients", None) == []


def test_only_special_tokens_that_stay_are_said_to_stay(bert):
    model, tokenizer = bert
    whole = torch.full((1, 5), 6)
    for given, stay in ((None, True), ("zeros", False), (0.5, False), (whole, False)):
        health = pellucid.explain(model, "the film was", 1, "gradient_shap", tokenizer=tokenizer, baselines=given, seed=0).health
        (said,) = [check.message for check in health if check.name == "reference"]
        assert said.endswith("special tokens stay") is stay


@pytest.mark.parametrize("method", ["integrated_gradients", "feature_ablation"])
@pytest.mark.parametrize("given", [10**6, -5, ["a film", "the plot"]])
def test_references_that_the_model_does_not_know_are_refused(bert, method, given):
    model, tokenizer = bert
    with pytest.raises(OptionError, match="baselines"):
        pellucid.explain(model, "the film was", 1, method, tokenizer=tokenizer, baselines=given)


def test_a_text_for_an_encoder_and_a_decoder_asks_for_the_first_token_of_the_answer(home):
    model, tokenizer = home("t5", "T5ForConditionalGeneration")
    found = pellucid.explain(model, "the play was", tokenizer=tokenizer)
    given = dict(tokenizer("the play was", return_tensors="pt"), decoder_input_ids=torch.tensor([[0]]))
    with torch.no_grad():
        best = int(model(**given).logits[0, 0].argmax())
    assert f"output (0, {best})" in found.target
    # What the decoder reads is one token of number 0, as is the only distance in it, which is no word.
    assert [tuple(own.shape[:2]) for own in found.attributions] == [(1, 4), (1, 1)]
    labelled = dict(tokenizer("the play was", return_tensors="pt"), labels=torch.tensor([[5, 6]]))
    assert pellucid.explain(model, labelled, tokenizer=tokenizer).target.startswith("output (-1,")


def _tokens_first():
    config = transformers.XLNetConfig(vocab_size=40, d_model=16, n_layer=2, n_head=2, d_inner=32, num_labels=3)
    torch.manual_seed(0)
    return transformers.XLNetForSequenceClassification(config).double().eval()


@pytest.mark.parametrize("size", [1, 3, 6])
def test_models_that_have_tokens_first_are_read_the_right_way_round(size):
    """XLNet's embedding gets `(tokens, examples)`; with as many examples as tokens nobody sees it from the shape."""
    model, ids = _tokens_first(), torch.randint(8, 40, (size, 6))
    with torch.no_grad():
        vectors = model.transformer.word_embedding(ids)
    found = pellucid.explain(model, {"input_ids": ids}, 1, steps=20, baselines="zeros")
    wanted = pellucid.explain(lambda v: model(inputs_embeds=v).logits, vectors, 1, steps=20)
    assert torch.allclose(found.attribution, wanted.attribution, atol=1e-12)
    ablated = pellucid.explain(model, {"input_ids": ids}, 1, "feature_ablation", baselines=7).attribution
    for place in range(6):
        other = ids.clone()
        other[:, place] = 7
        with torch.no_grad():
            assert torch.allclose(ablated[:, place], (model(ids).logits - model(other).logits)[:, 1], atol=1e-12)


def test_a_model_that_pads_the_ids_itself_says_how_long():
    config = transformers.LongformerConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, attention_window=4,
        max_position_embeddings=64,
    )  # fmt: skip
    model = transformers.LongformerForSequenceClassification(config).eval()
    with pytest.raises(InputError, match=r"from 6 to 8 tokens itself.*max_length=8"):
        pellucid.explain(model, {"input_ids": torch.randint(5, 40, (2, 6))}, 1, "saliency")
    assert pellucid.explain(model, {"input_ids": torch.randint(5, 40, (2, 8))}, 1, "saliency").attribution.shape == (2, 8, 16)


@pytest.mark.parametrize(
    ("rope", "most"),
    [
        (None, 64),
        ({"rope_type": "default"}, 64),
        ({"rope_type": "dynamic", "factor": 4.0}, 256),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, 256),  # as Qwen's page has it
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}, 64),  # as it is written after stretching
    ],
)
def test_places_that_are_stretched_are_counted(rope, most):
    from pellucid.language.reader import Reader
    from pellucid.text.entries import context_of

    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=64,
        rope_parameters=None if rope is None else rope | {"rope_theta": 10000.0},
    )  # fmt: skip
    assert context_of(config) == most
    model = transformers.LlamaForCausalLM(config).eval()
    assert Reader.of(model).longest == most
    with torch.no_grad():
        assert torch.isfinite(model(torch.randint(0, 40, (1, most))).logits).all()
