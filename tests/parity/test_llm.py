"""Language models against the installed Captum: signatures, and the numbers of every method where Captum's are right."""

import importlib
import inspect
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

theirs = pytest.importorskip("captum.attr")
transformers = pytest.importorskip("transformers")

import pellucid.captum.attr as ours  # noqa: E402
from pellucid import PellucidWarning  # noqa: E402
from tests import hugging  # noqa: E402

PROMPT = "the film was not very good"
TARGET = " bad plot"
NAMES = ["LLMAttribution", "LLMGradientAttribution", "RemoteLLMAttribution"]


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """A model by its name, in double precision, and its tokenizer."""
    folder, known = tmp_path_factory.mktemp("models"), {}

    def loaded(name):
        if name not in known:
            kind, make = {"gpt2": ("GPT2LMHeadModel", hugging.gpt2), "llama": ("LlamaForCausalLM", hugging.llama)}[name]
            place = make(folder / name)
            known[name] = hugging.loaded(place, kind), transformers.PreTrainedTokenizerFast.from_pretrained(place)
        return known[name]

    return loaded


def template(module, **options):
    return module.TextTemplateInput("the {} was {} {}", ["film", "not very", "good"], **options)


def by_name(module):
    return module.TextTemplateInput(
        "{who} was {how}, {who} said, in {where}",
        {"who": "anna", "how": "very good", "where": "paris"},
        baselines={"who": "it", "how": "bad", "where": "a play"},
        mask={"who": 0, "how": 1, "where": 0},
    )


INPUTS = {
    "removed": lambda module, tokenizer: template(module),
    "replaced": lambda module, tokenizer: template(module, baselines=["plot", "very", "bad"]),
    "grouped": lambda module, tokenizer: template(module, baselines=["plot", "very", "bad"], mask=[0, 1, 0]),
    "named": lambda module, tokenizer: by_name(module),
    "function": lambda module, tokenizer: module.TextTemplateInput(lambda one, two: f"the {one} was {two}", ["film", "good"]),
    "tokens": lambda module, tokenizer: module.TextTokenInput("the film was", tokenizer, baselines=5),
    "skipped": lambda module, tokenizer: module.TextTokenInput("the film was", tokenizer, skip_tokens=tokenizer.encode("the")[:1]),
}


def attributed(module, name, model, tokenizer, inp, target=TARGET, attr_target="log_prob", layer=None, options=None, **given):
    """The result of a perturbation method, or of a gradient method if there is a layer."""
    made = getattr(module, name)(model, *([] if layer is None else [layer]))
    if layer is not None:
        return module.LLMGradientAttribution(made, tokenizer).attribute(inp, target, **(options or {}))
    # A cache is where Captum goes wrong: it reads the whole text once more on top of it.
    given = {"use_cached_outputs": False, **given} if module is theirs else given
    return module.LLMAttribution(made, tokenizer, attr_target).attribute(inp, target, **given, **(options or {}))


def assert_same(found, known, tolerance=2e-6):
    for name in ("seq_attr", "token_attr"):
        expected = getattr(known, name)
        if expected is not None:
            assert expected.abs().max() > 1e-3
            np.testing.assert_allclose(getattr(found, name).numpy(), expected.numpy(), rtol=tolerance, atol=tolerance)
    assert list(found.input_tokens) == list(known.input_tokens)
    assert found.output_tokens == known.output_tokens


def parameters(function):
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values() if p.name != "skip_tokens"]


@pytest.mark.parametrize("name", NAMES)
def test_signatures_are_captums(name):
    mine, captums = getattr(ours, name), getattr(theirs, name)
    for method in ("__init__", "attribute", "attribute_future"):
        assert parameters(getattr(mine, method)) == parameters(getattr(captums, method))
    for table in ("SUPPORTED_METHODS", "SUPPORTED_INPUTS"):
        assert {kind.__name__ for kind in getattr(captums, table)} <= {kind.__name__ for kind in getattr(mine, table)}
    assert issubclass(mine, ours.Attribution)
    assert issubclass(ours.RemoteLLMAttribution, ours.LLMAttribution)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("attr_target", ["log_prob", "prob"])
def test_feature_ablation(load, name, kind, attr_target):
    model, tokenizer = load(name)
    found, known = (
        attributed(module, "FeatureAblation", model, tokenizer, INPUTS[kind](module, tokenizer), attr_target=attr_target)
        for module in (ours, theirs)
    )
    if attr_target == "prob":  # which are small here
        scale = float(known.seq_attr.abs().max())
        for result in (found, known):
            result.seq_attr, result.token_attr = result.seq_attr / scale, result.token_attr / scale
    assert_same(found, known)


@pytest.mark.parametrize("kind", ["replaced", "grouped", "skipped"])
def test_shapley_values(load, kind):
    model, tokenizer = load("llama")
    found, known = (attributed(m, "ShapleyValues", model, tokenizer, INPUTS[kind](m, tokenizer)) for m in (ours, theirs))
    assert_same(found, known)


@pytest.mark.parametrize("method", ["ShapleyValueSampling", "KernelShap"])
def test_sampled_shapley_values_are_those_of_all_coalitions_where_there_are_few(load, method):
    model, tokenizer = load("gpt2")
    known = attributed(theirs, "ShapleyValues", model, tokenizer, template(theirs))
    assert_same(attributed(ours, method, model, tokenizer, template(ours)), known, 1e-5)


SURROGATES = {ours: "pellucid.captum.linear_model", theirs: "captum._utils.models.linear_model"}


def test_lime_with_a_surrogate_that_is_exact(load):
    """Of two units, with all of their coalitions, there is one plane that fits best."""
    model, tokenizer = load("gpt2")
    found = []
    for module, place in SURROGATES.items():
        surrogate = importlib.import_module(place).SkLearnLinearRegression()
        method = module.Lime(model, surrogate, lambda *_, **__: torch.ones(1), _AllOfTwo())
        inp = module.TextTemplateInput("the {} was {}", ["film", "good"])
        given = {} if module is ours else {"use_cached_outputs": False}
        found.append(module.LLMAttribution(method, tokenizer).attribute(inp, TARGET, n_samples=4, **given))
    np.testing.assert_allclose(found[0].seq_attr.numpy(), found[1].seq_attr.numpy(), rtol=1e-4, atol=1e-5)
    assert found[1].token_attr is None
    np.testing.assert_allclose(found[0].token_attr.sum(0).numpy(), found[0].seq_attr.numpy(), rtol=1e-4, atol=1e-5)


class _AllOfTwo:
    """The four coalitions of two units, one after another."""

    def __init__(self):
        self.number = 0

    def __call__(self, original, **_):
        self.number += 1
        return torch.tensor([[self.number & 1, self.number >> 1 & 1]])


def test_targets_of_ids(load):
    model, tokenizer = load("llama")
    ids = torch.tensor(tokenizer.encode(" was a bad"))
    found, known = (attributed(module, "FeatureAblation", model, tokenizer, template(module), ids) for module in (ours, theirs))
    assert_same(found, known)
    assert found.output_tokens == ["was", "a", "bad"]


def test_targets_that_are_generated(load):
    model, tokenizer = load("gpt2")
    given = {"gen_args": {"max_new_tokens": 1, "do_sample": False}}
    found, known = (attributed(module, "FeatureAblation", model, tokenizer, template(module), None, **given) for module in (ours, theirs))
    assert len(found.output_tokens) == 1
    np.testing.assert_allclose(found.token_attr.numpy(), known.token_attr.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*ids")
def test_an_answer_that_ends_within_a_character(load):
    """Captum looks for its other half behind the end."""
    model, tokenizer = load("gpt2")
    ids = torch.tensor(tokenizer.encode(" was \u20ac")[:3])
    with pytest.raises(IndexError):
        attributed(theirs, "FeatureAblation", model, tokenizer, template(theirs), ids)
    was, space, byte = attributed(ours, "FeatureAblation", model, tokenizer, template(ours), ids).output_tokens
    assert (was, space) == ("was", "")
    assert byte
    assert "\ufffd" not in byte


LAYERS = {
    "gpt2": lambda model: {"embedding": model.transformer.wte, "block": model.transformer.h[0]},
    "llama": lambda model: {"embedding": model.model.embed_tokens, "block": model.model.layers[0]},
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("place", ["embedding", "block"])
@pytest.mark.parametrize("kind", ["tokens", "skipped"])
@pytest.mark.parametrize("method", ["LayerIntegratedGradients", "LayerGradientXActivation"])
def test_gradients(load, name, place, kind, method):
    model, tokenizer = load(name)
    layer = LAYERS[name](model)[place]
    options = {"n_steps": 7, "method": "riemann_middle"} if method == "LayerIntegratedGradients" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PellucidWarning)  # seven steps are not always enough, and it says so
        found = attributed(ours, method, model, tokenizer, INPUTS[kind](ours, tokenizer), layer=layer, options=options)
    known = attributed(theirs, method, model, tokenizer, INPUTS[kind](theirs, tokenizer), layer=layer, options=options)
    assert_same(found, known)


def test_integrated_gradients_are_those_at_the_embeddings(load):
    """Captum refuses the class."""
    model, tokenizer = load("gpt2")
    with pytest.raises(AssertionError):
        theirs.LLMGradientAttribution(theirs.IntegratedGradients(model), tokenizer)
    known = attributed(
        theirs,
        "LayerIntegratedGradients",
        model,
        tokenizer,
        INPUTS["tokens"](theirs, tokenizer),
        layer=model.transformer.wte,
        options={"n_steps": 40},
    )
    mine = ours.LLMGradientAttribution(ours.IntegratedGradients(model), tokenizer)
    assert_same(mine.attribute(INPUTS["tokens"](ours, tokenizer), TARGET, n_steps=40), known)


def test_inputs_of_captums_own_are_taken(load):
    model, tokenizer = load("gpt2")
    for kind in ("replaced", "grouped", "tokens"):
        found = attributed(ours, "FeatureAblation", model, tokenizer, INPUTS[kind](theirs, tokenizer))
        assert_same(found, attributed(theirs, "FeatureAblation", model, tokenizer, INPUTS[kind](theirs, tokenizer)))


def test_what_is_told_of_each_prompt_is_what_captum_tells(load):
    model, tokenizer = load("gpt2")
    told = {ours: {}, theirs: {}}
    for module, heard in told.items():

        def listen(prompt, response, found, heard=heard):
            heard[prompt, response] = found

        attributed(module, "FeatureAblation", model, tokenizer, template(module), _inspect_forward=listen)
    assert told[ours].keys() >= told[theirs].keys()  # what is left without any unit is asked about as well
    assert len(told[theirs]) == 4
    for key, found in told[theirs].items():
        assert told[ours][key] == pytest.approx(found, rel=1e-5)


# --- images


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    """A small random LLaVA; four tokens of an image, then a few of text."""
    hugging.quiet()
    vision = transformers.CLIPVisionConfig(
        image_size=16, patch_size=8, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, projection_dim=16
    )
    text = transformers.LlamaConfig(vocab_size=60, num_key_value_heads=1, max_position_embeddings=48, **hugging.SIZES)
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=59, image_seq_length=4)
    return hugging.lively(transformers.LlavaForConditionalGeneration(config)).double()


def processed(image):
    pixels = torch.as_tensor(np.asarray(image, dtype=np.float64) / 255 - 0.5).permute(2, 0, 1)[None]
    ids = torch.tensor([[1, 59, 59, 59, 59, 7, 8]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


def image_input(module):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))
    mask = torch.arange(16)[:, None] // 8 * 2 + torch.arange(16)[None] // 8
    return module.ImageMaskInput(picture, mask=mask, processor_fn=processed)


class Words:
    """A tokenizer of numbers; Captum asks it for the names of tokens."""

    def decode(self, ids):
        return " ".join(str(int(i)) for i in torch.as_tensor(ids).flatten())

    def __call__(self, text, **_):
        ends = np.cumsum([len(word) + 1 for word in text.split()]).tolist()
        offsets = [(end - 1 - len(word), end - 1) for word, end in zip(text.split(), ends, strict=True)]
        return {"input_ids": [int(word) for word in text.split()], "offset_mapping": offsets}


@pytest.mark.parametrize("method", ["FeatureAblation", "ShapleyValues"])
@pytest.mark.parametrize("attr_target", ["log_prob", "prob"])
def test_images(llava, method, attr_target):
    target = torch.tensor([11, 40, 23])
    found, known = (attributed(module, method, llava, Words(), image_input(module), target, attr_target) for module in (ours, theirs))
    scale = float(known.seq_attr.abs().max())
    for result in (found, known):
        result.seq_attr, result.token_attr = result.seq_attr / scale, result.token_attr / scale
    assert_same(found, known, 1e-4)
    assert found.inp.n_itp_features == 4


def test_an_answer_after_an_image_is_generated(llava):
    given = {"gen_args": {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}}
    found, known = (attributed(module, "FeatureAblation", llava, Words(), image_input(module), None, **given) for module in (ours, theirs))
    assert found.output_tokens == known.output_tokens
    np.testing.assert_allclose(found.token_attr.numpy(), known.token_attr.numpy(), rtol=1e-4, atol=1e-5)
