"""Attribution of language models under Captum's names: slow definitions, laws, planted truths, what Captum refuses, what is refused."""

import copy
import itertools
import math
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pellucid import InputError, OptionError, PellucidWarning, TargetError
from pellucid.captum.attr import (
    DeepLift,
    FeatureAblation,
    GradientShap,
    ImageMaskInput,
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    LayerGradientShap,
    LayerGradientXActivation,
    LayerIntegratedGradients,
    Lime,
    LLMAttribution,
    LLMAttributionResult,
    LLMGradientAttribution,
    Occlusion,
    ProductBaselines,
    Saliency,
    ShapleyValues,
    ShapleyValueSampling,
    TextTemplateInput,
    TextTokenInput,
)
from pellucid.captum.linear_model import SkLearnLinearRegression
from pellucid.gradient import integrated_gradients
from pellucid.inside import at_layer
from pellucid.language import chat_prompt, template_prompt, text_prompt, token_prompt
from pellucid.language.forced import Forced, forced_view
from pellucid.language.in_place import in_place
from pellucid.language.made import made_prompt
from pellucid.language.media import MediaLikelihood
from pellucid.language.prefix import Spent
from pellucid.language.reader import Reader
from tests import hugging

transformers = pytest.importorskip("transformers")

TARGET = " bad plot"
CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | trim }}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
METHODS = {
    FeatureAblation: {},
    ShapleyValues: {},
    ShapleyValueSampling: {"n_samples": 4},
    KernelShap: {"n_samples": 9},
    Lime: {"n_samples": 12},
}


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """A model by its name, in double precision, and its tokenizer."""
    folder, known = tmp_path_factory.mktemp("models"), {}
    kinds = {
        "gpt2": ("GPT2LMHeadModel", hugging.gpt2),
        "llama": ("LlamaForCausalLM", hugging.llama),
        "t5": ("T5ForConditionalGeneration", hugging.t5),
    }

    def loaded(name):
        if name not in known:
            kind, make = kinds[name]
            place = make(folder / name)
            known[name] = hugging.loaded(place, kind), transformers.PreTrainedTokenizerFast.from_pretrained(place)
        return known[name]

    return loaded


def sentence(**options):
    return TextTemplateInput("the {} was {} {}", ["film", "not very", "good"], **options)


REPLACED = {"baselines": ["plot", "very", "bad"]}


def slowly(model, ids, answer):
    """The definition: one token at a time, without a cache."""
    found = []
    for t, token in enumerate(answer):
        with torch.no_grad():
            if model.config.is_encoder_decoder:
                logits = model(torch.tensor([ids]), decoder_input_ids=torch.tensor([[0, *answer[:t]]]), use_cache=False).logits
            else:
                logits = model(torch.tensor([[*ids, *answer[:t]]]), use_cache=False).logits
        found.append(float(logits[0, -1].log_softmax(0)[token]))
    return np.array(found)


def table(model, tokenizer, inp, target=TARGET):
    """The log-probabilities of the target's tokens for every coalition."""
    answer = tokenizer.encode(target, add_special_tokens=False)
    rows = list(itertools.product([0, 1], repeat=inp.n_itp_features))
    ids = {row: inp.to_model_input(torch.tensor([row])) for row in rows}
    return {row: slowly(model, tokenizer.encode(own) if isinstance(own, str) else own[0].tolist(), answer) for row, own in ids.items()}


def with_whole(logprobs, scale):
    found = np.concatenate([[logprobs.sum()], logprobs])
    return np.exp(found) if scale == "prob" else found


def shapley_of(scores, units):
    """The mean over all orders of what a unit adds when it comes."""
    values = []
    for unit in range(units):
        total = 0.0
        for order in itertools.permutations(range(units)):
            before = [int(order.index(i) < order.index(unit)) for i in range(units)]
            after = [int(there or i == unit) for i, there in enumerate(before)]
            total = total + scores[tuple(after)] - scores[tuple(before)]
        values.append(total / math.factorial(units))
    return np.stack(values, 1)


def whole(found):
    return torch.cat([found.seq_attr[None], found.token_attr]).numpy()


# --- perturbing: the definitions


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5"])
@pytest.mark.parametrize("scale", ["log_prob", "prob"])
def test_ablation_and_shapley_values_are_their_definitions(load, name, scale):
    model, tokenizer = load(name)
    inp = sentence(**REPLACED)
    scores = {row: with_whole(found, scale) for row, found in table(model, tokenizer, inp).items()}
    size = max(abs(found).max() for found in scores.values())
    falls = np.stack([scores[1, 1, 1] - scores[tuple(int(i != unit) for i in range(3))] for unit in range(3)], 1)
    ablated = LLMAttribution(FeatureAblation(model), tokenizer, scale).attribute(inp, TARGET)
    np.testing.assert_allclose(whole(ablated) / size, falls / size, atol=1e-10)
    for method in (ShapleyValues, ShapleyValueSampling, KernelShap):  # the samples are enough for all coalitions
        found = LLMAttribution(method(model), tokenizer, scale).attribute(inp, TARGET)
        np.testing.assert_allclose(whole(found) / size, shapley_of(scores, 3) / size, atol=1e-6 if method is KernelShap else 1e-10)
    np.testing.assert_allclose(ablated.output_probs, with_whole(table(model, tokenizer, inp)[1, 1, 1], "prob")[1:], rtol=1e-9)


def test_tokens_are_replaced_in_their_places(load):
    model, tokenizer = load("llama")
    inp = TextTokenInput("the film was", tokenizer, baselines=9, skip_tokens=tokenizer.encode("the")[:1])
    assert inp.n_itp_features < len(tokenizer.encode("the film was"))
    scores = table(model, tokenizer, inp)
    found = LLMAttribution(FeatureAblation(model), tokenizer).attribute(inp, TARGET)
    ones = (1,) * inp.n_itp_features
    for unit in range(inp.n_itp_features):
        fall = scores[ones] - scores[tuple(int(i != unit) for i in range(inp.n_itp_features))]
        np.testing.assert_allclose(found.token_attr[:, unit], fall, atol=1e-10)
    assert found.input_tokens == inp.values


@pytest.mark.parametrize("method", METHODS)
def test_tokens_add_up_to_the_whole(load, method):
    """log p(answer) is the sum over its tokens, and every method is linear in it; a probability is no sum. Lime's lasso is not linear."""
    model, tokenizer = load("gpt2")
    made = Lime(model, SkLearnLinearRegression()) if method is Lime else method(model)
    found = LLMAttribution(made, tokenizer).attribute(sentence(), TARGET, **METHODS[method])
    assert found.seq_attr.abs().max() > 0.01
    torch.testing.assert_close(found.token_attr.sum(0), found.seq_attr, rtol=1e-4, atol=1e-5)
    probable = LLMAttribution(made, tokenizer, "prob").attribute(sentence(), TARGET, **METHODS[method])
    assert (probable.token_attr.sum(0) - probable.seq_attr).abs().max() > 10 * probable.seq_attr.abs().max()


@pytest.mark.parametrize("method", [ShapleyValues, ShapleyValueSampling, KernelShap])
def test_efficiency(load, method):
    model, tokenizer = load("llama")
    inp = TextTokenInput("the film was very good , anna", tokenizer)
    assert inp.n_itp_features >= 6
    ids, answer = tokenizer.encode("the film was very good , anna"), tokenizer.encode(TARGET)
    change = slowly(model, ids, answer) - slowly(model, [0] * len(ids), answer)
    options = {ShapleyValues: {}, ShapleyValueSampling: {"n_samples": 3}, KernelShap: {"n_samples": 30}}[method]
    found = LLMAttribution(method(model), tokenizer).attribute(inp, TARGET, **options)
    np.testing.assert_allclose(found.seq_attr.sum(), change.sum(), rtol=1e-6)
    np.testing.assert_allclose(found.token_attr.sum(1), change, rtol=1e-6)


class Planted(nn.Module):
    """The logit of token 1 is 3 where token 7 was read, all others are 0."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0, dtype=torch.float64))
        self.sizes = []

    def forward(self, ids):
        self.sizes.append(len(ids))
        seen = (ids == 7).cumsum(1).clamp(max=1).to(self.scale)
        return torch.nn.functional.one_hot(torch.tensor(1), 10).to(self.scale) * seen[:, :, None] * self.scale


RISE = 3 - math.log(9 + math.exp(3)) + math.log(10)


@pytest.mark.parametrize("method", METHODS)
def test_the_only_word_that_matters_is_found(method):
    made = Lime(Planted(), SkLearnLinearRegression()) if method is Lime else method(Planted())
    found = LLMAttribution(made, None).attribute(token_prompt([3, 7, 5, 6], stand_in=0), [1], **METHODS[method])
    np.testing.assert_allclose(found.seq_attr, [0, RISE, 0, 0], atol=1e-5)
    assert found.input_tokens == ["3", "7", "5", "6"]
    assert found.output_tokens == ["1"]


# --- what may be asked


def test_a_text_is_explained_by_its_words(load):
    model, tokenizer = load("llama")
    found = LLMAttribution(FeatureAblation(model), tokenizer).attribute("the film was not very good", TARGET)
    assert [word.strip() for word in found.input_tokens] == ["the", "film", "was", "not", "very", "good"]
    ids, answer = tokenizer.encode("the film was not very good"), tokenizer.encode(TARGET)
    words = text_prompt("the film was not very good", tokenizer)
    for unit in range(6):
        (without,) = words.rows([tuple(int(i == unit) for i in range(6))])
        assert len(without) < len(ids)
        np.testing.assert_allclose(found.token_attr[:, unit], slowly(model, ids, answer) - slowly(model, without, answer), atol=1e-10)
    assert found.inp is None


def chatting(load):
    model, tokenizer = load("llama")
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = CHAT
    return model, tokenizer


MESSAGES = [{"role": "system", "content": "very good"}, {"role": "user", "content": "was the film bad ?"}]


def test_a_chat_is_explained_by_its_messages(load):
    model, tokenizer = chatting(load)
    found = LLMAttribution(ShapleyValues(model), tokenizer).attribute(MESSAGES, TARGET)
    assert found.input_tokens == ["very good", "was the film bad ?"]
    scores = {}
    for row in itertools.product([0, 1], repeat=2):
        text = tokenizer.apply_chat_template(
            [{**m, "content": m["content"] if there else ""} for m, there in zip(MESSAGES, row, strict=True)],
            tokenize=False,
            add_generation_prompt=True,
        )
        scores[row] = slowly(model, tokenizer.encode(text, add_special_tokens=False), tokenizer.encode(TARGET))
    np.testing.assert_allclose(found.token_attr, shapley_of(scores, 2), atol=1e-10)


@pytest.mark.parametrize("scale", ["log_prob", "prob"])
def test_two_answers_are_compared(load, scale):
    model, tokenizer = load("gpt2")
    inp, other = sentence(**REPLACED), " good film made"
    scores = {row: with_whole(found, scale)[:1] for row, found in table(model, tokenizer, inp).items()}
    others = {row: with_whole(found, scale)[:1] for row, found in table(model, tokenizer, inp, other).items()}
    expected = shapley_of({row: scores[row] - others[row] for row in scores}, 3)[0]
    for pair in ((TARGET, other), tuple(torch.tensor(tokenizer.encode(text)) for text in (TARGET, other))):
        for method in (ShapleyValues, KernelShap):
            found = LLMAttribution(method(model), tokenizer, scale).attribute(inp, pair)
            np.testing.assert_allclose(found.seq_attr / abs(expected).max(), expected / abs(expected).max(), atol=1e-5)
            assert found.token_attr is None
            assert found.output_probs is None
            assert found.output_tokens == ["bad plot rather than good film made"]
            assert found.generated().measure.startswith("difference of")


def test_targets_of_several_forms(load):
    model, tokenizer = load("gpt2")
    explained = LLMAttribution(FeatureAblation(model), tokenizer)
    ids = tokenizer.encode(TARGET, add_special_tokens=False)
    known = explained.attribute(sentence(), TARGET)
    for target in (torch.tensor(ids), ids, tuple(ids)):
        torch.testing.assert_close(explained.attribute(sentence(), target).token_attr, known.token_attr)
    given = {"max_new_tokens": 3, "do_sample": False}
    with torch.no_grad():
        prompt = torch.tensor([tokenizer.encode("the film was not very good")])
        greedy = model.generate(prompt, attention_mask=torch.ones_like(prompt), pad_token_id=0, **given)[0, prompt.shape[1] :]
    assert len(greedy) == 3
    torch.testing.assert_close(
        explained.attribute(sentence(), gen_args=given).token_attr, explained.attribute(sentence(), greedy).token_attr
    )
    assert len(explained.attribute(sentence()).output_tokens) == 25


def test_skip_tokens_does_what_it_did_in_captum_0_8(load):
    """The target gets special tokens then, and those that are named are left out."""
    model, tokenizer = load("gpt2")
    from tokenizers import processors

    begins = copy.deepcopy(tokenizer)
    begins.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    ids = begins.encode(TARGET)
    assert ids == [0, *tokenizer.encode(TARGET)]
    explained = LLMAttribution(FeatureAblation(model), begins)

    def of(target, **options):
        return explained.attribute(sentence(), target, **options).token_attr

    torch.testing.assert_close(of(TARGET, skip_tokens=[0]), of(torch.tensor(ids[1:])))
    torch.testing.assert_close(of(TARGET, skip_tokens=["<|endoftext|>"]), of(torch.tensor(ids[1:])))
    torch.testing.assert_close(of(TARGET, skip_tokens=[5]), of(torch.tensor(ids)))
    torch.testing.assert_close(of(torch.tensor(ids), skip_tokens=[0, ids[1]]), of(torch.tensor(ids[2:])))
    gradient = LLMGradientAttribution(InputXGradient(model), begins)
    found = gradient.attribute(TextTokenInput("the film", begins), TARGET, skip_tokens=[0])
    torch.testing.assert_close(found.token_attr, gradient.attribute(TextTokenInput("the film", begins), torch.tensor(ids[1:])).token_attr)


def test_subclasses_of_inputs_say_what_the_model_reads(load):
    class Shouted(TextTemplateInput):
        def to_model_input(self, perturbed_tensor=None):
            return super().to_model_input(perturbed_tensor) + " made it"

    model, tokenizer = load("gpt2")
    explained = LLMAttribution(FeatureAblation(model), tokenizer)
    longer = explained.attribute(TextTemplateInput("the {} was {} made it", ["film", "good"]), TARGET)
    found = explained.attribute(Shouted("the {} was {}", ["film", "good"]), TARGET)
    torch.testing.assert_close(found.token_attr, longer.token_attr)


def test_a_prompt_with_several_stand_ins_is_meant_over_them(load):
    model, tokenizer = load("gpt2")
    explained = LLMAttribution(ShapleyValues(model), tokenizer)
    prompt = template_prompt("the {} was {}", ["film", "good"], tokenizer, [("plot", "play"), ("bad", "very good")])
    each = [
        explained.attribute(TextTemplateInput("the {} was {}", ["film", "good"], own), TARGET)
        for own in (["plot", "bad"], ["play", "very good"])
    ]
    torch.testing.assert_close(explained.attribute(prompt, TARGET).token_attr, (each[0].token_attr + each[1].token_attr) / 2)


# --- trials


def test_trials_are_means_over_the_draws_of_baselines(load):
    model, tokenizer = load("gpt2")
    ways = [["plot", "very", "bad"], ["play", "", "made"], ["paris", "not", "it"]]
    drawn = iter(ways * 9)
    explained = LLMAttribution(ShapleyValues(model), tokenizer)
    found = explained.attribute(sentence(baselines=lambda: next(drawn)), TARGET, num_trials=3)
    each = [explained.attribute(sentence(baselines=own), TARGET).token_attr for own in ways]
    torch.testing.assert_close(found.token_attr, torch.stack(each).mean(0))  # a trial has one draw for all of its texts
    assert next(drawn) == ways[0]


def test_product_baselines_are_drawn_together(load):
    model, tokenizer = load("gpt2")
    texts = set()
    baselines = ProductBaselines({("who", "whose"): [("anna", "it"), ("paris", "who")], "how": ["bad", "good"]})
    inp = TextTemplateInput(
        "{who} was {how} in {whose} play", {"who": "un", "how": "very", "whose": "the"}, baselines, {"who": 0, "whose": 0, "how": 1}
    )
    random.seed(1)
    found = LLMAttribution(FeatureAblation(model), tokenizer).attribute(
        inp, TARGET, num_trials=8, _inspect_forward=lambda prompt, *_: texts.add(prompt)
    )
    assert len({text for text in texts if "anna" in text or "who" in text}) >= 4
    assert all(("anna" in text) == ("it play" in text) for text in texts)
    assert found.seq_attr[0] == found.seq_attr[2]  # one unit
    random.seed(1)
    again = LLMAttribution(FeatureAblation(model), tokenizer).attribute(inp, TARGET, num_trials=8)
    assert torch.equal(found.seq_attr, again.seq_attr)


def test_trials_of_a_random_method_have_draws_of_their_own(load):
    model, tokenizer = load("gpt2")
    inp = TextTokenInput("the film was very good", tokenizer)
    exact = LLMAttribution(ShapleyValues(model), tokenizer).attribute(inp, TARGET).seq_attr

    def error(seed, trials):
        torch.manual_seed(seed)
        found = LLMAttribution(ShapleyValueSampling(model), tokenizer).attribute(inp, TARGET, trials, n_samples=2)
        return float((found.seq_attr - exact).norm())

    one, many = ([error(seed, trials) for seed in range(6)] for trials in (1, 12))
    assert np.mean(many) < 0.6 * np.mean(one)  # 0.29 of it for independent draws; all of it for the same ones
    assert error(0, 12) == many[0]


def test_all_tokens_meet_the_same_draws(load):
    model, tokenizer = load("gpt2")
    inp = TextTokenInput("the film was very good", tokenizer)
    for method, options in ((KernelShap, {"n_samples": 12}), (Lime, {"n_samples": 20})):
        surrogate = (SkLearnLinearRegression(),) if method is Lime else ()
        model_calls = Counted(model)
        explained = LLMAttribution(method(model_calls, *surrogate), tokenizer)
        found = explained.attribute(inp, TARGET, use_cached_outputs=False, **options)
        torch.testing.assert_close(found.token_attr.sum(0), found.seq_attr, rtol=1e-3, atol=1e-4)
        assert model_calls.rows <= 2 + options["n_samples"]


# --- what it costs


class Counted(nn.Module):
    """A model that counts the rows that it reads."""

    def __init__(self, model):
        super().__init__()
        self.inner, self.config, self.rows, self.most = model, model.config, 0, 0

    def forward(self, input_ids, attention_mask=None, past_key_values=None, use_cache=None, logits_to_keep=0):
        self.rows, self.most = self.rows + len(input_ids), max(self.most, len(input_ids))
        given = {"past_key_values": past_key_values, "use_cache": use_cache, "logits_to_keep": logits_to_keep}
        return self.inner(input_ids, attention_mask=attention_mask, **given)


@pytest.mark.parametrize("limit", [1, 2, 3, 50])
def test_perturbations_may_share_calls(load, limit):
    model, tokenizer = load("llama")
    inp, counted = TextTokenInput("the film was very good", tokenizer), Counted(model)
    options = {"perturbations_per_eval": limit}
    found = LLMAttribution(FeatureAblation(counted), tokenizer).attribute(inp, TARGET, use_cached_outputs=False, **options)
    expected = LLMAttribution(FeatureAblation(model), tokenizer).attribute(inp, TARGET)
    torch.testing.assert_close(found.token_attr, expected.token_attr)
    assert limit == 1 or 1 < counted.most <= limit
    assert counted.rows == inp.n_itp_features + 2  # all there, none there, and each once away, whatever the number of tokens
    shared = LLMAttribution(FeatureAblation(model), tokenizer).attribute(inp, TARGET, **options)
    torch.testing.assert_close(shared.token_attr, expected.token_attr)


def test_what_prompts_begin_with_alike_is_read_once(load):
    model, tokenizer = load("gpt2")
    prompt = token_prompt([5, 9] * 20, tokenizer, stand_in=3)
    tokens = []

    def count(_, args, kwargs):
        tokens.append(kwargs["input_ids"].numel())

    for shared in (True, False):
        with model.register_forward_pre_hook(count, with_kwargs=True):
            LLMAttribution(FeatureAblation(model), tokenizer).attribute(prompt, [8, 7], use_cached_outputs=shared)
        tokens.append(-1)
    middle = tokens.index(-1)
    assert sum(tokens[:middle]) < 0.75 * sum(tokens[middle + 1 : -1])


# --- gradients


def integrated_slowly(model, ids, others, answer, steps=64):
    """The formula, one target token at a time: the mean gradient along the line between embeddings, times its length."""
    table, found = model.get_input_embeddings().weight.detach(), []
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    for t, token in enumerate(answer):
        end, start = (table[[*row, *answer[:t]]] for row in (ids, others))
        total = 0.0
        for node, weight in zip(nodes, weights, strict=True):
            point = (start + (node + 1) / 2 * (end - start))[None].requires_grad_()
            score = model(inputs_embeds=point, use_cache=False).logits[0, -1].log_softmax(0)[token]
            total = total + weight / 2 * torch.autograd.grad(score, point)[0][0]
        found.append((total * (end - start)).sum(1)[: len(ids)].numpy())
    return np.stack(found)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_integrated_gradients_are_their_definition(load, name):
    model, tokenizer = load(name)
    inp = TextTokenInput("the film was very", tokenizer, baselines=9)
    ids, answer = inp.inp_tensor[0].tolist(), tokenizer.encode(TARGET)
    expected = integrated_slowly(model, ids, [9] * len(ids), answer)
    for method in (IntegratedGradients(model), LayerIntegratedGradients(model, model.get_input_embeddings())):
        found = LLMGradientAttribution(method, tokenizer).attribute(inp, TARGET, n_steps=64)
        np.testing.assert_allclose(found.token_attr, expected, atol=1e-8)
        np.testing.assert_allclose(found.seq_attr, expected.sum(0), atol=1e-8)
    few = LLMGradientAttribution(IntegratedGradients(model), tokenizer)
    forced, tried = Forced.together, []
    try:
        Forced.together = property(lambda own: tried.append(1) or 1)
        apart = few.attribute(inp, TARGET, n_steps=64)
    finally:
        Forced.together = forced
    assert len(tried) > len(answer) / 2
    np.testing.assert_allclose(apart.token_attr, expected, atol=1e-8)


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_completeness_and_its_gap(load, name):
    model, tokenizer = load(name)
    inp, text = TextTokenInput("the film was very", tokenizer, baselines=5), "the film was very"
    answer = tokenizer.encode(TARGET, add_special_tokens=False)
    free = tokenizer.encode(text)
    change = slowly(model, free, answer) - slowly(model, [5] * len(free), answer)
    found, gap = LLMGradientAttribution(IntegratedGradients(model), tokenizer).attribute(
        inp, TARGET, n_steps=300, return_convergence_delta=True
    )
    np.testing.assert_allclose(found.token_attr.sum(1), change, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gap, found.token_attr.sum(1).numpy() - change, atol=1e-9)
    np.testing.assert_allclose(found.output_probs, np.exp(slowly(model, free, answer)), rtol=1e-9)


def test_a_gradient_of_a_template(load):
    model, tokenizer = load("llama")
    ids, answer = tokenizer.encode("the film was very good"), tokenizer.encode(TARGET)
    plain = LLMGradientAttribution(InputXGradient(model), tokenizer)
    each = plain.attribute(TextTokenInput("the film was very good", tokenizer), TARGET).token_attr
    starts = [i for i, token in enumerate(tokenizer.convert_ids_to_tokens(ids)) if i == 0 or token.startswith("\u0120")]
    words = [each[:, start:stop].sum(1) for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True)]
    found = plain.attribute(TextTemplateInput("the {} was {}", ["film", "very good"]), TARGET)
    torch.testing.assert_close(found.token_attr, torch.stack([words[1], words[3] + words[4]], 1))
    grouped = plain.attribute(TextTemplateInput("{} {} was {}", ["the", "film", "very good"], mask=[0, 1, 0]), TARGET)
    torch.testing.assert_close(grouped.token_attr[:, 0], words[0] + words[3] + words[4])
    torch.testing.assert_close(grouped.token_attr[:, 2], grouped.token_attr[:, 0])
    text = plain.attribute("the film was very good", TARGET)
    torch.testing.assert_close(text.token_attr, torch.stack(words, 1))
    assert len(answer) == len(text.output_tokens)


def test_baselines_of_a_template_are_the_other_end_of_the_path(load):
    model, tokenizer = load("gpt2")
    explained = LLMGradientAttribution(IntegratedGradients(model), tokenizer)
    found = explained.attribute(TextTemplateInput("the {} was {}", ["film", "good"], ["plot", "very"]), TARGET, n_steps=200)
    answer = tokenizer.encode(TARGET)
    here, there = (tokenizer.encode(text) for text in ("the film was good", "the plot was very"))
    assert len(here) == len(there)
    np.testing.assert_allclose(found.token_attr.sum(1), slowly(model, here, answer) - slowly(model, there, answer), rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match=r"has \d+ tokens and what stands in for it \d+"):
        explained.attribute(TextTemplateInput("the {} was {}", ["film", "good"], ["plot", "not very good"]), TARGET)


def test_a_gradient_of_a_chat_is_that_of_its_tokens(load):
    model, tokenizer = chatting(load)
    text = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    ids = tokenizer.encode(text, add_special_tokens=False)
    plain = LLMGradientAttribution(InputXGradient(model), tokenizer)
    found, each = plain.attribute(MESSAGES, TARGET), plain.attribute(token_prompt(ids, tokenizer), TARGET).token_attr
    ends = np.cumsum([len(tokenizer.decode([i])) for i in ids])
    for unit, message in enumerate(MESSAGES):
        start = text.index(message["content"])
        inside = [start <= end - len(tokenizer.decode([i])) < start + len(message["content"]) for i, end in zip(ids, ends, strict=True)]
        torch.testing.assert_close(found.token_attr[:, unit], each[:, torch.tensor(inside)].sum(1))


def test_two_answers_are_compared_by_gradients(load):
    model, tokenizer = load("gpt2")
    inp, explained = TextTokenInput("the film was", tokenizer), LLMGradientAttribution(IntegratedGradients(model), tokenizer)
    one, other = (explained.attribute(inp, text) for text in (TARGET, " good film made"))
    found = explained.attribute(inp, (TARGET, " good film made"))
    torch.testing.assert_close(found.seq_attr, one.seq_attr - other.seq_attr)
    assert found.token_attr is None


@pytest.mark.parametrize("layer", [False, True])
def test_gradient_shap_between_tokens_is_at_the_embeddings(load, layer):
    """With one reference, its mean over many places is integrated gradients."""
    model, tokenizer = load("gpt2")
    inp = TextTokenInput("the film was", tokenizer)
    method = LayerGradientShap(model, model.transformer.wte) if layer else GradientShap(model)
    found = LLMGradientAttribution(method, tokenizer).attribute(inp, TARGET, n_samples=400)
    exact = LLMGradientAttribution(IntegratedGradients(model), tokenizer).attribute(inp, TARGET, n_steps=100)
    torch.testing.assert_close(found.seq_attr, exact.seq_attr, rtol=0.02, atol=0.02)


def test_a_forced_answer_has_the_likelihood_of_the_engine(load):
    for name in ("llama", "t5"):
        model, tokenizer = load(name)
        answer = tokenizer.encode(TARGET, add_special_tokens=False)
        view = forced_view(model, token_prompt([5, 9, 12, 7], stand_in=3), answer)
        scores = view.score((torch.tensor([[1.0, 1, 1, 1], [0, 1, 0, 1]], dtype=torch.float64),))
        expected = [slowly(model, ids, answer) for ids in ([5, 9, 12, 7], [3, 9, 3, 7])]
        np.testing.assert_allclose(scores.detach().T, expected, atol=1e-10)
    with pytest.raises(InputError, match="other numbers than 0 and 1"):
        view.score((torch.full((1, 4), 0.5),))
    found = integrated_gradients(at_layer(view, model.encoder.embed_tokens), (torch.zeros(1, 4, 16, dtype=torch.float64),), 5)
    assert found.values[0].shape == (len(answer), 1, 4, 16)


# --- images


SQUARES = torch.arange(8)[:, None] // 4 * 2 + torch.arange(8)[None] // 4


def painting():
    return Image.fromarray(np.random.default_rng(0).integers(0, 200, (8, 8, 3), dtype=np.uint8))


def whites(image):
    """How white each of the four squares is, `(1, 4)`."""
    array = torch.as_tensor(np.asarray(image, dtype=np.float64) / 255)
    return torch.stack([array[square == SQUARES].mean() for square in range(4)])[None]


class Seeing(nn.Module):
    """Token 1 is as likely as an image's squares are dark, by weights; what is read does not matter."""

    def __init__(self, among_rows=False, needs=()):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([2.0, 0.0, -1.0, 3.0], dtype=torch.float64))
        self.sizes, self.among_rows, self.needs, self.given = [], among_rows, needs, []

    def forward(self, input_ids, pixels, attention_mask=None, **others):
        self.sizes.append(len(input_ids))
        self.given.append({"input_ids": input_ids, "attention_mask": attention_mask, **others})
        own = -pixels @ self.weights
        own = own - own.mean() if self.among_rows and len(own) > 1 else own
        odds = torch.zeros(*input_ids.shape, 12, dtype=own.dtype)
        odds[:, :, 1] = own[:, None]
        return odds


def seen(image, **more):
    return {"input_ids": torch.tensor([[2, 3, 4]]), "pixels": whites(image), **more}


def logistic(squares, weights=(2.0, 0.0, -1.0, 3.0)):
    own = -float(np.dot(squares, weights))
    return own - math.log(11 + math.exp(own))


@pytest.mark.parametrize("method", [FeatureAblation, ShapleyValues, KernelShap])
@pytest.mark.parametrize("limit", [1, 2])
def test_the_squares_of_an_image_that_matter(method, limit):
    model, inp = Seeing(), ImageMaskInput(painting(), mask=SQUARES, processor_fn=seen)
    own = whites(painting())[0].numpy()
    scores = {row: np.array([logistic(np.where(row, own, 1.0))]) for row in itertools.product([0, 1], repeat=4)}
    expected = shapley_of(scores, 4)[0]
    if method is FeatureAblation:
        expected = [scores[1, 1, 1, 1][0] - scores[tuple(int(i != unit) for i in range(4))][0] for unit in range(4)]
    found = LLMAttribution(method(model), None).attribute(inp, torch.tensor([1]), perturbations_per_eval=limit)
    np.testing.assert_allclose(found.seq_attr, expected, atol=1e-5 if method is KernelShap else 1e-10)
    assert abs(found.seq_attr[1]) < 1e-5  # nobody looks there
    assert max(model.sizes) == 2 if limit == 2 else max(model.sizes) > 2
    assert found.inp is inp
    figure, _ = found.plot_image_heatmap()
    assert figure.axes


def test_images_that_would_see_each_other_are_asked_about_alone():
    inp = ImageMaskInput(painting(), mask=SQUARES, processor_fn=seen)
    model = Seeing(among_rows=True)
    found = LLMAttribution(FeatureAblation(model), None).attribute(inp, torch.tensor([1, 5]))
    right = LLMAttribution(FeatureAblation(Seeing()), None).attribute(inp, torch.tensor([1, 5]))
    torch.testing.assert_close(found.token_attr, right.token_attr)
    assert sum(size > 1 for size in model.sizes) == 1  # which showed it


def test_inputs_of_several_images_in_one_row_stay_alone():
    """Patches of all images one behind the other, as some processors give them: rows of them cannot be told apart."""
    inp = ImageMaskInput(painting(), mask=SQUARES, processor_fn=lambda image: seen(image, patches=torch.zeros(4, 3), name="one"))
    model = Seeing()
    LLMAttribution(FeatureAblation(model), None).attribute(inp, torch.tensor([1, 5]))
    assert set(model.sizes) == {1}


def test_what_belongs_to_tokens_goes_on_behind_the_prompt():
    reader, model = None, Seeing()
    ids = torch.tensor([[2, 3, 4]])
    given = {
        "input_ids": ids,
        "pixels": whites(painting()).float(),
        "attention_mask": torch.tensor([[0, 1, 1]]),
        "token_type_ids": torch.tensor([[1, 1, 0]]),
        "position_ids": torch.tensor([[0, 1, 2]]),
    }
    reader = Reader.of(model)
    assert reader.weights == torch.float64
    found = MediaLikelihood(reader)([(given, [1, 5, 6])])
    (got,) = model.given
    assert {name: value.tolist() for name, value in got.items()} == {
        "input_ids": [[2, 3, 4, 1, 5]],
        "attention_mask": [[0, 1, 1, 1, 1]],
        "token_type_ids": [[1, 1, 0, 0, 0]],
        "position_ids": [[0, 1, 2, 3, 4]],
    }
    own = logistic(whites(painting())[0].float().numpy())
    assert found[0, 0] == pytest.approx(own, rel=1e-5)
    assert given["input_ids"] is ids


def test_a_mapping_of_ids_alone_is_text(load):
    model, tokenizer = load("gpt2")

    class Encoded(TextTemplateInput):
        def to_model_input(self, perturbed_tensor=None):
            return tokenizer(super().to_model_input(perturbed_tensor), return_tensors="pt")

    explained = LLMAttribution(FeatureAblation(model), tokenizer)
    found = explained.attribute(Encoded("the {} was {}", ["film", "good"]), TARGET)
    torch.testing.assert_close(
        found.token_attr, explained.attribute(TextTemplateInput("the {} was {}", ["film", "good"]), TARGET).token_attr
    )


# --- the user's objects, the record, other precisions


@pytest.mark.parametrize("training", [False, True])
def test_the_model_stays_as_it_was(load, training):
    model, tokenizer = load("gpt2")
    model = copy.deepcopy(model).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config, state = copy.deepcopy(vars(model.generation_config)), torch.get_rng_state()
    wanted = [p.requires_grad for p in model.parameters()]

    def check():
        assert model.training is training
        assert vars(model.generation_config) == config
        assert torch.equal(torch.get_rng_state(), state)
        assert [p.requires_grad for p in model.parameters()] == wanted
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
        assert all(p.grad is None for p in model.parameters())

    perturbing = LLMAttribution(ShapleyValueSampling(model), tokenizer)
    gradient = LLMGradientAttribution(IntegratedGradients(model), tokenizer)
    custom = LLMAttribution(Lime(model, perturb_func=lambda *_, **__: torch.randint(0, 2, (1, 3))), tokenizer)
    with pytest.warns(PellucidWarning) if training else _quietly():
        for work in (
            lambda: perturbing.attribute(sentence(), gen_args={"max_new_tokens": 2, "do_sample": True}, num_trials=2),
            lambda: gradient.attribute(TextTokenInput("the film", tokenizer), TARGET, n_steps=80),
            lambda: custom.attribute(sentence(), TARGET, n_samples=5),
        ):
            work()
            check()

    def stop(*_):
        raise KeyError("stop")

    with model.transformer.h[1].register_forward_hook(stop):
        for explained, inp in ((perturbing, sentence()), (gradient, TextTokenInput("the film", tokenizer))):
            with pytest.raises(KeyError, match="stop"):
                explained.attribute(inp, TARGET)
    check()


class _quietly:
    def __enter__(self):
        return None

    def __exit__(self, *_):
        return None


def test_a_method_stays_as_it_was(load):
    model, tokenizer = load("gpt2")
    for method, kind in (
        (FeatureAblation(model), LLMAttribution),
        (LayerIntegratedGradients(model, model.transformer.wte), LLMGradientAttribution),
    ):
        before = dict(vars(method))
        explained = kind(method, tokenizer)
        explained.attribute(TextTokenInput("the film", tokenizer), TARGET)
        assert vars(method) == before
        assert explained.attr_method.forward_func is model
        assert explained.device == torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_other_precisions(load, dtype):
    exact, tokenizer = load("llama")
    model = copy.deepcopy(exact).to(dtype)
    known = LLMAttribution(FeatureAblation(exact), tokenizer).attribute(sentence(), TARGET)
    assert known.seq_attr.dtype == torch.float64
    found = LLMAttribution(FeatureAblation(model), tokenizer).attribute(sentence(), TARGET)
    assert found.seq_attr.dtype == found.token_attr.dtype == found.output_probs.dtype == torch.float32
    close = 0.5 if dtype == torch.bfloat16 else 1e-3
    torch.testing.assert_close(found.seq_attr.double(), known.seq_attr, rtol=close, atol=close)
    words = TextTokenInput("the film was", tokenizer)
    found, known = (LLMGradientAttribution(InputXGradient(own), tokenizer).attribute(words, TARGET) for own in (model, exact))
    assert found.seq_attr.dtype == torch.float32
    torch.testing.assert_close(found.seq_attr.double(), known.seq_attr, rtol=close, atol=close)


def test_the_record_of_a_result(load, tmp_path):
    model, tokenizer = load("gpt2")
    inp = sentence()
    found = LLMAttribution(ShapleyValues(model), tokenizer).attribute(inp, TARGET, perturbations_per_eval=4)
    assert isinstance(found, LLMAttributionResult)
    record = found.generated()
    assert (record.method, record.measure) == ("shapley_values", "log-probability")
    assert "".join(record.tokens) == TARGET
    assert record.options["perturbations_per_eval"] == 4
    assert record.cost.calls > 0
    assert "".join(text for text, _ in record.parts) == "the film was not very good"
    assert float(record.explanation(0).scores) == pytest.approx(math.log(found.output_probs[0]))
    assert type(record).load(record.save(tmp_path / "found.json")).method == "shapley_values"
    assert "not very" in record.html()
    other = LLMAttribution(FeatureAblation(model), tokenizer, "prob").attribute(inp, TARGET).generated()
    assert other.measure == "probability"
    gradient = LLMGradientAttribution(IntegratedGradients(model), tokenizer).attribute(TextTokenInput("the film", tokenizer), TARGET)
    assert gradient.generated().method == "layer_integrated_gradients"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_gpu_says_what_the_cpu_says(load):
    model, tokenizer = load("gpt2")
    inp, picture = sentence(**REPLACED), ImageMaskInput(painting(), mask=SQUARES, processor_fn=seen)
    tokens = TextTokenInput("the film", tokenizer)
    asked = [
        lambda own: LLMAttribution(ShapleyValues(own), tokenizer).attribute(inp, TARGET),
        lambda own: LLMAttribution(KernelShap(own), tokenizer).attribute(inp, TARGET),
        lambda own: LLMAttribution(FeatureAblation(own), tokenizer).attribute(inp, gen_args={"max_new_tokens": 2, "do_sample": False}),
        lambda own: LLMGradientAttribution(IntegratedGradients(own), tokenizer).attribute(tokens, TARGET, n_steps=80),
    ]
    there = copy.deepcopy(model).cuda()
    for ask in asked:
        found = ask(there)
        assert found.seq_attr.is_cuda
        torch.testing.assert_close(found.token_attr.cpu(), ask(model).token_attr, rtol=1e-6, atol=1e-8)
    seeing = [LLMAttribution(FeatureAblation(own), None).attribute(picture, [1]).seq_attr.cpu() for own in (Seeing(), Seeing().cuda())]
    torch.testing.assert_close(*seeing)


# --- refusals


def test_the_wrong_method_is_refused(load):
    model, tokenizer = load("gpt2")
    for method in (Saliency(model), IntegratedGradients(model)):
        with pytest.raises(OptionError, match=rf"does not take {type(method).__name__}.*LLMGradientAttribution"):
            LLMAttribution(method, tokenizer)
    with pytest.raises(OptionError, match=r"does not take FeatureAblation.*there is LLMAttribution"):
        LLMGradientAttribution(FeatureAblation(model), tokenizer)
    with pytest.raises(OptionError, match=r"does not take DeepLift; give one of LayerGradientShap"):
        LLMGradientAttribution(DeepLift(model), tokenizer)
    with pytest.raises(OptionError, match="attr_target is 'odds'"):
        LLMAttribution(FeatureAblation(model), tokenizer, "odds")
    with pytest.raises(OptionError, match="does not say which layer embeds"):
        LLMGradientAttribution(IntegratedGradients(Planted()), tokenizer)
    with pytest.raises(NotImplementedError):
        LLMAttribution(FeatureAblation(model), tokenizer).attribute_future()


REFUSED = [
    ({"num_trials": 0}, OptionError, "num_trials is 0"),
    ({"gen_args": {"max_new_tokens": 3}}, OptionError, "gen_args are for generating"),
    ({"baselines": 0}, OptionError, "baselines cannot be passed on"),
    ({"additional_forward_args": 1}, OptionError, "additional_forward_args cannot be passed on"),
    ({"perturbation_per_eval": 8}, OptionError, "no argument.*perturbation_per_eval"),
    ({"perturbations_per_eval": 0}, OptionError, "perturbations_per_eval is 0"),
    ({"target": 3.5}, TargetError, "target is 3.5"),
    ({"target": ""}, InputError, "has no tokens"),
    ({"target": torch.tensor([], dtype=torch.long)}, InputError, "has no tokens"),
    ({"target": (TARGET, "")}, InputError, "has no tokens"),
    ({"inp": 7}, InputError, "inp is int; give a TextTemplateInput"),
    ({"inp": ["a", "b"]}, InputError, "inp is list"),
    ({"inp": []}, InputError, "inp is list"),
    ({"inp": "the film " * 60}, InputError, r"the model reads 48 at most"),
    ({"inp": [{"role": "user", "content": "a"}]}, InputError, "no chat template"),
]


@pytest.mark.parametrize(("given", "error", "words"), REFUSED)
def test_refusals(load, given, error, words):
    model, tokenizer = load("gpt2")
    given = {"inp": sentence(), "target": TARGET, **given}
    with pytest.raises(error, match=words):
        LLMAttribution(FeatureAblation(model), tokenizer).attribute(**given)


def test_unknown_options_of_every_method_are_refused(load):
    model, tokenizer = load("gpt2")
    for method in METHODS:
        with pytest.raises((TypeError, OptionError), match="n_sample_"):
            LLMAttribution(method(model), tokenizer).attribute(sentence(), TARGET, n_sample_=3)
    with pytest.raises(TypeError, match="n_step_"):
        LLMGradientAttribution(IntegratedGradients(model), tokenizer).attribute("the film", TARGET, n_step_=3)


def test_without_a_tokenizer_text_is_refused(load):
    model, tokenizer = load("gpt2")
    explained = LLMAttribution(FeatureAblation(model), None)
    for inp in (sentence(), "the film", MESSAGES):
        with pytest.raises(InputError, match="there is no tokenizer"):
            explained.attribute(inp, [5])
    assert explained.attribute(TextTokenInput("the film", tokenizer), [5]).output_tokens
    with pytest.raises(InputError, match="there is no tokenizer"):
        explained.attribute(token_prompt([5, 6]), TARGET)


def test_what_a_gradient_cannot_have_is_refused(load):
    model, tokenizer = load("gpt2")
    explained = LLMGradientAttribution(IntegratedGradients(model), tokenizer)
    picture = ImageMaskInput(painting(), mask=SQUARES, processor_fn=seen)
    with pytest.raises(InputError, match="ImageMaskInput has no tokens"):
        explained.attribute(picture, [5])
    with pytest.raises(InputError, match="written in another form"):
        explained.attribute(TextTemplateInput("the {0!r} was", ["film"]), TARGET)
    with pytest.raises(InputError, match="the baselines move"):
        explained.attribute(TextTemplateInput("the {} was {}", ["film film", "good"], ["film", "good good"]), TARGET)
    with pytest.raises(InputError, match="other numbers than 0 and 1"):
        explained.attribute(
            TextTokenInput("the film", tokenizer), TARGET, baselines=torch.full((1, 4), 0.5)[:, : len(tokenizer.encode("the film"))]
        )
    with pytest.raises(InputError, match="made by a function"):
        in_place(made_prompt(lambda choices: "the film", ["a"], tokenizer))
    head = LLMGradientAttribution(LayerGradientXActivation(model, model.transformer.wpe), tokenizer)
    with pytest.raises(InputError, match="choose one that returns"):
        LLMGradientAttribution(LayerGradientXActivation(model, model.lm_head), tokenizer).attribute("the film was good", torch.tensor([5]))
    assert head.attribute(TextTokenInput("the film", tokenizer), TARGET).seq_attr.abs().max() > 0


def test_units_in_a_text_are_found_where_they_stand(load):
    _, tokenizer = load("gpt2")
    prompt = template_prompt("film {} was {} film", ["film", "film"], tokenizer, ["plot", "play"])
    found = in_place(prompt)
    assert found.rows([(0, 0), (1, 0), (0, 1)]) == [
        tuple(tokenizer.encode(text)) for text in ("film film was film film", "film plot was film film", "film film was play film")
    ]
    assert found.labels == prompt.labels
    twice = in_place(template_prompt("the {w} was not {w}", {"w": "good"}, tokenizer, {"w": "bad"}))
    assert twice.rows([(1,)]) == [tuple(tokenizer.encode("the bad was not bad"))]
    spaced = chat_prompt([{"role": "user", "content": " good "}], _with(tokenizer))
    assert sum(slot.unit is not None for slot in in_place(spaced).slots) == len(tokenizer.encode("good"))
    with pytest.raises(InputError, match="this tokenizer is a slow one"):
        in_place(template_prompt("the {}", ["film"], _Slow(), ["plot"]))


def _with(tokenizer):
    found = copy.deepcopy(tokenizer)
    found.chat_template = CHAT
    return found


class _Slow:
    is_fast = False


def test_prompts_that_a_function_makes():
    with pytest.raises(InputError, match="no units"):
        made_prompt(lambda choices: "a", [])
    for given, words in (
        (3, "a model input is a int"),
        ({"pixels": 1}, "has input_ids of a NoneType"),
        ({"input_ids": torch.ones(2, 3), "pixels": 1}, r"input_ids of shape \(2, 3\)"),
        (torch.ones(2, 3, dtype=torch.long), r"Tensor of shape \(2, 3\)"),
        ("text", "there is no tokenizer"),
    ):
        with pytest.raises(InputError, match=words):
            made_prompt(lambda choices, given=given: given, ["unit"])


def test_media_refuses():
    class Pair(nn.Module):
        config = type("Config", (), {"is_encoder_decoder": True, "decoder_start_token_id": 0})()

        def forward(self, input_ids, decoder_input_ids):
            raise AssertionError

    inp = ImageMaskInput(painting(), mask=SQUARES, processor_fn=seen)
    with pytest.raises(InputError, match="an encoder and a decoder"):
        LLMAttribution(FeatureAblation(Pair()), None).attribute(inp, torch.tensor([1]))
    with pytest.raises(InputError, match="no method generate"):
        LLMAttribution(FeatureAblation(Seeing()), None).attribute(inp)
    assert MediaLikelihood(Reader.of(Seeing())).spent == Spent()


def test_an_occlusion_is_an_ablation_too(load):
    model, tokenizer = load("gpt2")
    found = LLMAttribution(Occlusion(model), tokenizer).attribute(sentence(), TARGET, sliding_window_shapes=(1,))
    torch.testing.assert_close(found.token_attr, LLMAttribution(FeatureAblation(model), tokenizer).attribute(sentence(), TARGET).token_attr)


# --- Captum's tutorial, with only the import and the model changed

TUTORIAL = """
from pellucid.captum.attr import (
    FeatureAblation, LayerIntegratedGradients, LLMAttribution, LLMGradientAttribution, ProductBaselines, ShapleyValues,
    ShapleyValueSampling, TextTemplateInput, TextTokenInput,
)

eval_prompt = "Dave lives in Palm Coast, FL and is a lawyer. His personal interests include"
model_input = tokenizer(eval_prompt, return_tensors="pt")
model.eval()
with torch.no_grad():
    output_ids = model.generate(model_input["input_ids"], max_new_tokens=15)[0]
    response = tokenizer.decode(output_ids, skip_special_tokens=True)

fa = FeatureAblation(model)
llm_attr = LLMAttribution(fa, tokenizer)
inp = TextTemplateInput(
    template="{} lives in {}, {} and is a {}. {} personal interests include",
    values=["Dave", "Palm Coast", "FL", "lawyer", "His"],
)
target = "playing guitar, hiking, and spending time with his family."
skip_tokens = [1]  # skip the special token for the start of the text <s>
attr_res = llm_attr.attribute(inp, target=target, skip_tokens=skip_tokens)
results["strings"] = attr_res
print("attr to the output sequence:", attr_res.seq_attr.shape)
print("attr to the output tokens:", attr_res.token_attr.shape)
attr_res.plot_token_attr(show=True)

inp = TextTemplateInput(
    template="{name} lives in {city}, {state} and is a {occupation}. {pronoun} personal interests include",
    values={"name": "Dave", "city": "Palm Coast", "state": "FL", "occupation": "lawyer", "pronoun": "His"},
    baselines={"name": "Sarah", "city": "Seattle", "state": "WA", "occupation": "doctor", "pronoun": "Her"},
)
attr_res = llm_attr.attribute(inp, target=target)
results["dictionary"] = attr_res
attr_res.plot_token_attr(show=True)

inp = TextTemplateInput(
    template="{name} lives in {city}, {state} and is a {occupation}. {pronoun} personal interests include",
    values={"name": "Dave", "city": "Palm Coast", "state": "FL", "occupation": "lawyer", "pronoun": "His"},
    baselines={"name": "Sarah", "city": "Seattle", "state": "WA", "occupation": "doctor", "pronoun": "Her"},
    mask={"name": 0, "city": 1, "state": 1, "occupation": 2, "pronoun": 0},
)
attr_res = llm_attr.attribute(inp, target=target)
results["mask"] = attr_res
attr_res.plot_token_attr(show=True)

baselines = ProductBaselines(
    {
        ("name", "pronoun"): [("Sarah", "Her"), ("John", "His"), ("Martin", "His"), ("Rachel", "Her")],
        ("city", "state"): [("Seattle", "WA"), ("Boston", "MA")],
        "occupation": ["doctor", "engineer", "teacher", "technician", "plumber"],
    }
)
inp = TextTemplateInput(
    "{name} lives in {city}, {state} and is a {occupation}. {pronoun} personal interests include",
    values={"name": "Dave", "city": "Palm Coast", "state": "FL", "occupation": "lawyer", "pronoun": "His"},
    baselines=baselines,
    mask={"name": 0, "city": 1, "state": 1, "occupation": 2, "pronoun": 0},
)
attr_res = llm_attr.attribute(inp, target=target, num_trials=3)
results["product"] = attr_res
attr_res.plot_token_attr(show=True)


def prompt_fn(*examples):
    main_prompt = "Decide if the following movie review enclosed in quotes is Positive or Negative. Reply only Positive or Negative."
    subset = [elem for elem in examples if elem]
    if not subset:
        prompt = main_prompt
    else:
        prefix = "Here are some examples of movie reviews: "
        prompt = prefix + " \\n".join(subset) + "\\n " + main_prompt
    return "[INST] " + prompt + "[/INST]"


input_examples = [
    "'The movie was ok, the actors weren't great' -> Negative",
    "'I loved it, it was an amazing story!' -> Positive",
    "'Total waste of time!!' -> Negative",
]
inp = TextTemplateInput(prompt_fn, values=input_examples)
attr_res = llm_attr.attribute(inp, target="Positive", skip_tokens=skip_tokens)
results["function"] = attr_res
attr_res.plot_token_attr(show=True)

for method in (ShapleyValueSampling, ShapleyValues):
    sv_llm_attr = LLMAttribution(method(model), tokenizer)
    attr_res = sv_llm_attr.attribute(inp, target="Positive")
    results[method.__name__] = attr_res
    attr_res.plot_token_attr(show=True)

emb_layer = model.get_submodule("model.embed_tokens")
lig = LayerIntegratedGradients(model, emb_layer)
llm_attr = LLMGradientAttribution(lig, tokenizer)
inp = TextTokenInput(eval_prompt, tokenizer, skip_tokens=skip_tokens)
attr_res = llm_attr.attribute(inp, target=target, skip_tokens=skip_tokens)
results["gradient"] = attr_res
attr_res.plot_seq_attr(show=True)
"""


@pytest.mark.filterwarnings("ignore::pellucid.PellucidWarning")  # fifty steps are not enough for so wild a model
def test_captums_tutorial_runs(monkeypatch, capsys):
    from matplotlib import pyplot

    tokenizer = hugging.byte_level()
    sizes = {"vocab_size": len(tokenizer), "num_key_value_heads": 1, "max_position_embeddings": 1024, **hugging.SIZES}
    config = transformers.LlamaConfig(bos_token_id=0, eos_token_id=0, pad_token_id=0, **sizes)
    model, shown, results = hugging.lively(transformers.LlamaForCausalLM(config)), [], {}
    monkeypatch.setattr(pyplot, "show", lambda *_, **__: shown.append(len(pyplot.get_fignums())))
    exec(TUTORIAL, {"model": model, "tokenizer": tokenizer, "results": results, "torch": torch})
    pyplot.close("all")
    assert len(shown) == len(results) == 8
    tokens = len(tokenizer.encode("playing guitar, hiking, and spending time with his family."))
    assert capsys.readouterr().out == (
        f"attr to the output sequence: torch.Size([5])\nattr to the output tokens: torch.Size([{tokens}, 5])\n"
    )
    mask = results["mask"].seq_attr_dict
    assert mask["Dave"] == mask["His"] != mask["lawyer"]
    assert mask["Palm Coast"] == mask["FL"]
    torch.testing.assert_close(results["ShapleyValueSampling"].seq_attr, results["ShapleyValues"].seq_attr, rtol=1e-4, atol=1e-4)
    for found in results.values():
        torch.testing.assert_close(found.token_attr.sum(0), found.seq_attr, rtol=1e-3, atol=1e-3)
        assert found.seq_attr.abs().max() > 1e-3
