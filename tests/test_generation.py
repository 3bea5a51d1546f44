"""Explaining generated text: every method against its slow definition, laws, planted truth, budgets, refusals."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from pellucid.errors import InputError, OptionError, UntrustedResult
from pellucid.language import chat_prompt, template_prompt, text_prompt, token_prompt
from pellucid.language.embedded import BY_VECTORS
from pellucid.language.explain import BY_PARTS, explain_generation
from pellucid.language.result import Generated
from pellucid.language.units import groupings, joined, owners, parts_of, prompt_of

from . import copier, hugging

transformers = pytest.importorskip("transformers")

TEXT, ANSWER = "the play was not good in paris . anna made it .", " was bad"
KINDS = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "t5": "T5ForConditionalGeneration"}


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """A model in double precision and its tokenizer, by name."""
    folder = tmp_path_factory.mktemp("generation")
    known = {}

    def loaded(name):
        if name not in known:
            model = hugging.loaded(getattr(hugging, name)(folder / name), KINDS[name])
            known[name] = model, hugging.sentencepiece() if name == "t5" else hugging.byte_level()
        return known[name]

    return loaded


def likelihoods(model, prompt, answer):
    """Log-probabilities `(T,)` by one pass over ids, without anything shared."""
    given = torch.tensor([answer])
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            before = torch.cat([torch.full((1, 1), model.config.decoder_start_token_id), given[:, :-1]], 1)
            logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=before).logits
        else:
            logits = model(torch.tensor([[*prompt, *answer[:-1]]])).logits[:, -len(answer) :]
    return logits.log_softmax(2)[0].gather(1, given.T)[:, 0]


def answer_ids(tokenizer):
    return tokenizer.encode(ANSWER, add_special_tokens=False)


# --- units taken away


@pytest.mark.parametrize("name", KINDS)
def test_ablation_is_what_each_token_loses(load, name):
    model, tokenizer = load(name)
    told = explain_generation(model, tokenizer, TEXT, ANSWER)
    prompt, answer = text_prompt(TEXT, tokenizer), answer_ids(tokenizer)
    whole, *without = (
        likelihoods(model, prompt.rows([[int(i == gone) for i in range(prompt.size)]])[0], answer) for gone in range(-1, prompt.size)
    )
    falls = torch.stack([whole - own for own in without], 1)
    torch.testing.assert_close(told.matrix, falls, atol=1e-9, rtol=0)
    torch.testing.assert_close(told.sequence, falls.sum(0), atol=1e-9, rtol=0)
    torch.testing.assert_close(told.probabilities, whole.exp(), atol=1e-9, rtol=0)
    assert told.units == prompt.labels
    assert told.cost.forwards == prompt.size + 2  # all, none, and each without one
    assert told.measure == "log-probability"


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_shapley_values_are_means_over_all_subsets(load, name):
    model, tokenizer = load(name)
    told = explain_generation(model, tokenizer, TEXT, ANSWER, units=[(0, 20), (20, 30), (30, 47)], method="shapley")
    prompt = text_prompt(TEXT, tokenizer, [(0, 20), (20, 30), (30, 47)])
    value = {
        kept: likelihoods(model, prompt.rows([[int(i not in kept) for i in range(3)]])[0] or (0,), answer_ids(tokenizer))
        for size in range(4)
        for kept in itertools.combinations(range(3), size)
    }
    for unit in range(3):
        others = [own for own in value if unit not in own]
        expected = sum(
            math.factorial(len(own)) * math.factorial(2 - len(own)) / 6 * (value[tuple(sorted((*own, unit)))] - value[own])
            for own in others
        )
        torch.testing.assert_close(told.matrix[:, unit], expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(told.matrix.sum(1), value[0, 1, 2] - value[()], atol=1e-9, rtol=0)
    assert told.cost.forwards == 8


@pytest.mark.parametrize("method", BY_PARTS)
def test_tokens_add_up_to_the_text(load, method):
    model, tokenizer = load("llama")
    options = {"unions": "sentence"} if method == "owen" else {}
    told = explain_generation(model, tokenizer, TEXT, ANSWER, method=method, seed=0, **options)
    torch.testing.assert_close(told.matrix.sum(0), told.sequence, atol=1e-8, rtol=0)
    assert told.matrix.shape == (len(answer_ids(tokenizer)), 12)


def test_words_join_in_sentences(load):
    model, tokenizer = load("llama")
    prompt = text_prompt(TEXT, tokenizer)
    by_name = explain_generation(model, tokenizer, TEXT, ANSWER, method="owen", unions="sentence")
    by_ids = explain_generation(model, tokenizer, TEXT, ANSWER, method="owen", unions=torch.tensor([[0] * 8 + [1] * 4])[:, : prompt.size])
    torch.testing.assert_close(by_name.matrix, by_ids.matrix)
    sentences = explain_generation(model, tokenizer, TEXT, ANSWER, units="sentence", method="shapley")
    torch.testing.assert_close(by_name.sequence[:8].sum(), sentences.sequence[0], atol=1e-8, rtol=0)


def test_a_sample_of_coalitions_is_paid_for_exactly(load):
    model, tokenizer = load("gpt2")
    for evaluations in (20, 41):
        told = explain_generation(model, tokenizer, TEXT, ANSWER, method="shapley", evaluations=evaluations, estimator="kernel", seed=3)
        assert told.cost.forwards <= evaluations + 2
        assert abs(float(told.matrix.sum() - (told.sequence.sum()))) < 1e-8
        same = explain_generation(model, tokenizer, TEXT, ANSWER, method="shapley", evaluations=evaluations, estimator="kernel", seed=3)
        assert torch.equal(told.matrix, same.matrix)
        assert told.provenance.seed == 3


class Counting(nn.Module):
    """A language model that counts the rows that it reads."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.embedding, self.rows = nn.Embedding(30, 30), 0

    def forward(self, ids):
        self.rows += len(ids)
        return self.embedding(ids).cumsum(1)


def test_the_cost_is_what_the_model_was_asked():
    model = Counting()
    told = explain_generation(model, None, [5, 6, 7, 8], [9, 10], method="shapley", stand_in=0)
    assert told.cost.forwards == model.rows == 16
    reading = next(check for check in told.health if check.name == "reading")
    assert "16 prompts" in reading.message


# --- vectors


def embedded(model, prompt, answer):
    """The vectors of all tokens, and the logits `(T, words)` that they give, as a function of them; of a causal model."""
    ids = torch.tensor([[*prompt, *answer[:-1]]])
    vectors = model.get_input_embeddings()(ids).detach()
    return vectors, lambda given: model(inputs_embeds=given, use_cache=False).logits[0, -len(answer) :]


def by_unit(values, units, count):
    """Numbers of tokens, added up for units, and for tokens that are none."""
    found = torch.zeros(count + 1, dtype=values.dtype)
    for value, unit in zip(values, [*units, *[count] * (len(values) - len(units))], strict=True):
        found[count if unit is None else unit] += value
    return found[:count]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_input_times_gradient_of_each_token(load, name):
    model, tokenizer = load(name)
    told = explain_generation(model, tokenizer, TEXT, ANSWER, method="input_x_gradient", earlier=True)
    prompt, answer = text_prompt(TEXT, tokenizer), answer_ids(tokenizer)
    row, units = owners(prompt)
    vectors, logits = embedded(model, row, answer)
    for t, token in enumerate(answer):
        given = vectors.clone().requires_grad_()
        logits(given).log_softmax(1)[t, token].backward()
        each = (given.grad * vectors)[0].sum(1)
        torch.testing.assert_close(told.matrix[t, : prompt.size], by_unit(each, units, prompt.size), atol=1e-9, rtol=0)
        torch.testing.assert_close(told.matrix[t, prompt.size :], each[len(row) :], atol=1e-9, rtol=0)
    assert told.units[prompt.size :] == tuple(tokenizer.decode([i]) for i in answer[:-1])
    torch.testing.assert_close(told.matrix.sum(0), told.sequence)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_integrated_gradients_along_the_line_from_stand_ins(load, name):
    model, tokenizer = load(name)
    told = explain_generation(model, tokenizer, TEXT, ANSWER, method="integrated_gradients", stand_in=7, steps=12)
    prompt, answer = text_prompt(TEXT, tokenizer), answer_ids(tokenizer)
    row, units = owners(prompt)
    vectors, logits = embedded(model, row, answer)
    start, _ = embedded(model, [7 if unit is not None else i for i, unit in zip(row, units, strict=True)], answer)
    nodes, weights = np.polynomial.legendre.leggauss(12)
    for t, token in enumerate(answer):
        mean = torch.zeros_like(vectors)
        for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
            given = (start + node * (vectors - start)).requires_grad_()
            logits(given).log_softmax(1)[t, token].backward()
            mean += weight * given.grad
        each = (mean * (vectors - start))[0].sum(1)
        torch.testing.assert_close(told.matrix[t], by_unit(each, units, prompt.size), atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("method", ["integrated_gradients", "deeplift"])
def test_units_add_up_to_what_they_change_in_each_token(load, name, method):
    """Whatever is no unit, earlier generated tokens too, stays: the same law as of units that are replaced by a token."""
    model, tokenizer = load(name)
    options = {"tolerance": 1e-4, "steps": 4097} if method == "integrated_gradients" else {}
    told = explain_generation(model, tokenizer, TEXT, ANSWER, method=method, stand_in=7, **options)
    prompt, answer = text_prompt(TEXT, tokenizer, stand_in=7), answer_ids(tokenizer)
    change = likelihoods(model, prompt.rows([(0,) * prompt.size])[0], answer) - likelihoods(
        model, prompt.rows([(1,) * prompt.size])[0], answer
    )
    torch.testing.assert_close(told.matrix.sum(1), change, atol=2e-3, rtol=2e-3)
    by_parts = explain_generation(model, tokenizer, TEXT, ANSWER, method="shapley", stand_in=7, evaluations=64, estimator="kernel", seed=0)
    torch.testing.assert_close(told.matrix.sum(1), by_parts.matrix.sum(1), atol=2e-3, rtol=2e-3)


def relevance_of_llama(model, vectors, place, token):
    """AttnLRP (Achtibat et al. 2024) of one logit as input times the gradient of a network with the same values, written out.

    Normalisation divides by a constant; an activation passes on what it gets; a product of two divides it in halves.
    """
    config = model.config
    heads, width = config.num_attention_heads, config.hidden_size // config.num_attention_heads

    def half(product):
        return product / 2 + (product / 2).detach()

    def norm(layer, x):
        return x * (x.square().mean(-1, keepdim=True) + layer.variance_epsilon).rsqrt().detach() * layer.weight

    given = vectors.clone().requires_grad_()
    x, length = given, vectors.shape[1]
    cos, sin = model.model.rotary_emb(x, torch.arange(length)[None])

    def turned(x):
        first, second = x.chunk(2, -1)
        return x * cos[:, None] + torch.cat([-second, first], -1) * sin[:, None]

    masked = torch.ones(length, length).triu(1).bool()
    for layer in model.model.layers:
        y, own = norm(layer.input_layernorm, x), layer.self_attn
        q, k, v = (project(y).unflatten(2, (-1, width)).transpose(1, 2) for project in (own.q_proj, own.k_proj, own.v_proj))
        k, v = (each.repeat_interleave(heads // each.shape[1], 1) for each in (k, v))
        scores = half(turned(q) @ turned(k).transpose(2, 3)) * width**-0.5
        chances = scores.masked_fill(masked, -math.inf).softmax(3)
        x = x + own.o_proj(half(chances @ v).transpose(1, 2).flatten(2))
        y = norm(layer.post_attention_layernorm, x)
        gate = layer.mlp.gate_proj(y)
        passed = gate * (nn.functional.silu(gate) / gate).detach()
        x = x + layer.mlp.down_proj(half(passed * layer.mlp.up_proj(y)))
    logit = model.lm_head(norm(model.model.norm, x))[0, place, token]
    logit.backward()
    return (given.grad * vectors)[0].sum(1), logit.detach()


def test_attn_lrp_of_each_generated_token_of_llama(load):
    model, tokenizer = load("llama")
    told = explain_generation(model, tokenizer, TEXT, ANSWER, method="attn_lrp", earlier=True, eps=1e-12)
    prompt, answer = text_prompt(TEXT, tokenizer), answer_ids(tokenizer)
    row, units = owners(prompt)
    vectors, logits = embedded(model, row, answer)
    kept = []
    for t, token in enumerate(answer):
        each, logit = relevance_of_llama(model, vectors, len(row) - 1 + t, token)
        torch.testing.assert_close(logit, logits(vectors)[t, token].detach())  # the network written out is the same
        torch.testing.assert_close(told.matrix[t, : prompt.size], by_unit(each, units, prompt.size), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(told.matrix[t, prompt.size :], each[len(row) :], atol=1e-6, rtol=1e-5)
        kept.append(float(each.sum() / logit))
    check = next(check for check in told.health if check.name == "conservation")
    assert check.value == pytest.approx(max(kept, key=lambda k: abs(math.log(max(k, 1e-9)))), rel=1e-3)
    assert told.measure == "logit"
    assert next(check for check in told.health if check.name == "rules").passed


def test_relevances_add_up_where_nothing_takes_any():
    """Without softmax, biases and norms, what lies on units and on earlier tokens is the token's logit."""

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.embedding, self.middle, self.out = nn.Embedding(20, 8), nn.Linear(8, 16, bias=False), nn.Linear(16, 20, bias=False)

        def forward(self, input_ids):
            return self.out(self.middle(self.embedding(input_ids).cumsum(1)).relu())

    model = Sum().double()
    told = explain_generation(model, None, [3, 4, 5], [6, 7, 8], method="attn_lrp", earlier=True)
    with torch.no_grad():
        logits = model(torch.tensor([[3, 4, 5, 6, 7]]))[0, -3:]
    torch.testing.assert_close(told.matrix.sum(1), logits.gather(1, torch.tensor([[6], [7], [8]]))[:, 0], atol=1e-4, rtol=1e-4)
    assert told.units == ("3", "4", "5", "6", "7")
    assert bool((told.matrix[0, 3:] == 0).all())
    assert float(told.matrix[1, 4]) == 0.0  # no token rests on itself
    hidden = explain_generation(model, None, [3, 4, 5], [6, 7, 8], method="attn_lrp")
    torch.testing.assert_close(hidden.matrix, told.matrix[:, :3])
    assert "earlier=True" in next(check for check in hidden.health if check.name == "elsewhere").message


@pytest.mark.parametrize(("name", "method"), [("llama", method) for method in BY_VECTORS] + [("t5", "attn_lrp"), ("gpt2", "gradient_shap")])
def test_methods_of_vectors(load, name, method):
    model, tokenizer = load(name)
    told = explain_generation(model, tokenizer, TEXT, ANSWER, method=method, seed=0)
    assert told.matrix.shape == (len(answer_ids(tokenizer)), len(told.units))
    assert bool(told.matrix.isfinite().all())
    again = explain_generation(model, tokenizer, TEXT, ANSWER, method=method, seed=0)
    assert torch.equal(told.matrix, again.matrix)
    if method not in ("gradient", "saliency", "smoothgrad", "smoothgrad_sq", "vargrad"):
        torch.testing.assert_close(told.matrix.sum(0), told.sequence)


@pytest.mark.parametrize("method", ["shapley", "feature_ablation", "input_x_gradient", "integrated_gradients"])
@pytest.mark.parametrize("name", KINDS)
def test_a_contrast_is_the_difference_of_two(load, name, method):
    model, tokenizer = load(name)
    options = {"units": "sentence", "stand_in": 7, "method": method}
    both = explain_generation(model, tokenizer, TEXT, ANSWER, against=" good film", **options)
    one, other = (explain_generation(model, tokenizer, TEXT, own, **options) for own in (ANSWER, " good film"))
    torch.testing.assert_close(both.sequence, one.sequence - other.sequence, atol=1e-7, rtol=1e-5)
    assert both.matrix is None
    assert "rather than" in both.health[0].message
    assert both.measure == "log-probability beyond that of “good film”"
    assert bool(both.explanation().scores.isnan().all())  # the answer's own log-probability is not what is explained


def test_probabilities_instead_of_their_logarithms(load):
    model, tokenizer = load("gpt2")
    for method in ("shapley", "integrated_gradients"):
        told = explain_generation(model, tokenizer, TEXT, ANSWER, method=method, scale="prob", units="sentence", stand_in=7)
        prompt = text_prompt(TEXT, tokenizer, "sentence", 7)
        ends = [likelihoods(model, prompt.rows([(way,) * 2])[0], answer_ids(tokenizer)) for way in (0, 1)]
        torch.testing.assert_close(told.matrix.sum(1), ends[0].exp() - ends[1].exp(), atol=1e-3, rtol=1e-2)
        torch.testing.assert_close(told.sequence.sum(), ends[0].sum().exp() - ends[1].sum().exp(), atol=1e-4, rtol=1e-2)
        assert told.measure == "probability"


# --- planted truth


@pytest.mark.parametrize(
    "method", ["feature_ablation", "shapley", "lime", "banzhaf", "integrated_gradients", "deeplift", "attn_lrp", "input_x_gradient"]
)
def test_what_is_copied_is_found(method):
    """The answer is what stands in the one sentence of many that the question is about: its word is found far above chance."""
    model, tokenizer = copier.Copier(sharp=6.0).double(), copier.tokenizer()
    hits, chance = 0, []
    for seed in range(12):
        facts = copier.facts(5, seed)
        name, thing = facts[seed % 5]
        text = " ".join(f"{n} likes {t} ." for n, t in facts) + f" {name} likes"
        options = {"stand_in": "<pad>"} if method in BY_PARTS else {}
        options |= {"evaluations": 200} if method in ("shapley", "banzhaf") else {"samples": 200} if method == "lime" else {}
        told = explain_generation(model, tokenizer, text, thing, method=method, seed=seed, **options)
        truth = 4 * (seed % 5) + 2
        assert told.units[truth] == thing
        hits += told.strongest(0, 1)[0][0] in (truth, len(told.units) - 1, len(told.units) - 2)
        chance.append(3 / len(told.units))
    assert hits >= 9
    assert hits / 12 > 4 * sum(chance) / 12


# --- prompts


def test_units_of_texts(load):
    _, tokenizer = load("gpt2")
    assert [label.strip() for label in prompt_of("a b. c", tokenizer).labels] == ["a", "b.", "c"]
    assert [label.strip() for label in prompt_of("a b. c", tokenizer, "sentence").labels] == ["a b.", "c"]
    assert prompt_of("a\n\nb", tokenizer, "paragraph").labels == prompt_of("a\n\nb", tokenizer, "passage").labels
    several = prompt_of(["the film ", "was bad . ", "was it ?"], tokenizer)
    assert [label.strip() for label in several.labels] == ["the film", "was bad .", "was it ?"]
    assert several.text() == "the film was bad . was it ?"
    assert prompt_of(torch.tensor([[4, 5]]), tokenizer).size == 2
    named = prompt_of("{who} {what}", tokenizer, {"who": "anna", "what": "play"}, {"who": "it", "what": "was"})
    assert (named.text(), named.text([1, 0])) == ("anna play", "it play")
    with pytest.raises(OptionError, match="one text"):
        prompt_of("a b", tokenizer, "document")
    with pytest.raises(OptionError, match="messages"):
        prompt_of(["a", "b"], tokenizer, "message")
    with pytest.raises(OptionError, match="no conversation"):
        prompt_of("a b", tokenizer, roles=["user"])
    with pytest.raises(OptionError, match="already"):
        prompt_of(token_prompt([1, 2]), tokenizer, "word")
    with pytest.raises(OptionError, match="token_prompt"):
        prompt_of([1, 2], tokenizer, "word")
    for nothing in (None, [], [1, "a"], 3.0):
        with pytest.raises(InputError, match="give a text"):
            prompt_of(nothing, tokenizer)


CHAT = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | trim }}\n{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
MESSAGES = [{"role": "system", "content": " be good . "}, {"role": "user", "content": "the film was bad . who made it ?"}]


@pytest.fixture(scope="module")
def chatty():
    tokenizer = copy.deepcopy(hugging.byte_level())
    tokenizer.chat_template = CHAT
    return tokenizer


def test_units_of_messages(chatty):
    words = prompt_of(MESSAGES, chatty, "sentence", roles=["user"])
    assert words.labels == ("the film was bad . ", "who made it ?")
    assert words.text() == "<system>be good .\n<user>the film was bad . who made it ?\n<bot>"
    assert words.text([1, 0]) == "<system>be good .\n<user>who made it ?\n<bot>"
    assert prompt_of(MESSAGES, chatty).labels == (MESSAGES[0]["content"], MESSAGES[1]["content"])
    with pytest.raises(OptionError, match="written anew"):
        prompt_of(MESSAGES, chatty, "token")
    with pytest.raises(OptionError, match="is a text"):
        prompt_of(MESSAGES, chatty, "word", 0)


@pytest.mark.parametrize("case", ["text", "chat", "template", "twice"])
def test_tokens_know_their_units(chatty, case):
    prompt = {
        "text": lambda: text_prompt(TEXT, chatty, "word"),
        "chat": lambda: prompt_of(MESSAGES, chatty, "word"),
        "template": lambda: template_prompt("so {} made {}!", [" anna ", "it"], chatty),
        "twice": lambda: template_prompt("{b} then {a}", {"a": "anna", "b": "the film"}, chatty),
    }[case]()
    ids, units = owners(prompt)
    assert ids == prompt.rows([(0,) * prompt.size])[0]
    for unit in range(prompt.size):
        own = [i for i, other in zip(ids, units, strict=True) if other == unit]
        assert chatty.decode(own).strip() == prompt.labels[unit].strip()
    parts = parts_of(prompt)
    assert "".join(text for text, _ in parts) == prompt.text()
    assert {unit for _, unit in parts} - {None} == set(range(prompt.size))


def test_a_template_that_changes_its_values_cannot_be_followed(chatty):
    prompt = template_prompt(lambda who: who[::-1], ["anna"], chatty)
    with pytest.raises(InputError, match="changes what it is given"):
        owners(prompt)
    assert parts_of(prompt) == ()


def test_messages_and_templates_by_vectors(chatty, load):
    model, _ = load("llama")
    told = explain_generation(model, chatty, MESSAGES, ANSWER, units="word", roles=["user"], method="input_x_gradient")
    assert [unit.strip() for unit in told.units] == MESSAGES[1]["content"].split()
    prompt = prompt_of(MESSAGES, chatty, "word", roles=["user"])
    row, units = owners(prompt)
    vectors, logits = embedded(model, row, answer_ids(chatty))
    given = vectors.clone().requires_grad_()
    logits(given).log_softmax(1)[0, answer_ids(chatty)[0]].backward()
    torch.testing.assert_close(told.matrix[0], by_unit((given.grad * vectors)[0].sum(1), units, prompt.size), atol=1e-9, rtol=0)
    assert float(next(check for check in told.health if check.name == "elsewhere").value) > 0


def test_levels_nest(chatty):
    text = "anna made it . the film was bad .\n\nwho made it ?"
    fine, (passages, sentences) = groupings(text, chatty, ("passage", "sentence", "word"), None, None)
    assert (passages, sentences) == ([0] * 9 + [1] * 4, [0] * 4 + [1] * 5 + [2] * 4)
    assert joined(fine.labels[:4]).strip() == "anna made it ."
    _, (messages,) = groupings(MESSAGES, chatty, ("message", "sentence"), None, None)
    assert [messages.index(own) for own in messages] == [0, 1, 1]
    for wrong in (("word", "sentence"), ("letter",), (), ("word", "word")):
        with pytest.raises(OptionError, match="coarse ones first"):
            groupings(text, chatty, wrong, None, None)


# --- what comes with it


def test_everything_is_told(load, tmp_path):
    model, tokenizer = load("llama")
    told = explain_generation(model, tokenizer, TEXT, ANSWER, method="lime", samples=30, seed=1, units="word")
    names = {check.name for check in told.health}
    assert {"target", "finite", "signal", "mode", "spread", "reading"} <= names
    assert told.options == {"units": "word", "samples": 30}
    assert len(told.provenance.weights) == 64
    assert told.provenance.model == "LlamaForCausalLM"
    assert told.cost.calls > 0
    assert "".join(text for text, _ in told.parts) == TEXT
    again = Generated.load(told.save(tmp_path / "told.json"))
    torch.testing.assert_close(again.matrix, told.matrix)
    assert again.health == told.health
    assert told.draw().axes
    assert "button" in told.html()


def test_an_answer_that_was_generated_is_a_guess(load):
    model, tokenizer = load("gpt2")
    options = {"generation": {"max_new_tokens": 2, "do_sample": False}}
    told = explain_generation(model, tokenizer, TEXT, **options)
    ids = model.generate(torch.tensor([tokenizer.encode(TEXT)]), max_new_tokens=2, do_sample=False, pad_token_id=0)[0, -2:]
    assert told.tokens == tuple(tokenizer.decode([int(i)]) for i in ids)
    assert told.health[0].guessed
    with pytest.raises(UntrustedResult, match="no answer was given"):
        explain_generation(model, tokenizer, TEXT, strict=True, **options)


def test_redundant_words_are_told_of():
    """Two units of which one is enough: one by one nothing happens."""

    class Either(nn.Module):
        def forward(self, ids):
            there = ((ids == 3) | (ids == 4)).cumsum(1).clamp(max=1)
            return torch.stack([torch.zeros_like(there)] * 5 + [5.0 * there], -1)

    told = explain_generation(Either(), None, [3, 4], [5], stand_in=0)
    assert told.sequence.abs().max() < 1e-6
    check = next(check for check in told.health if check.name == "together")
    assert abs(check.value) < 1e-6
    fair = explain_generation(Either(), None, [3, 4], [5], stand_in=0, method="shapley").sequence
    assert float(fair[0]) == pytest.approx(float(fair[1]))
    assert float(fair.sum()) == pytest.approx(math.log(6) - math.log(1 + 5 * math.exp(-5)), rel=1e-4)


def state_of(model):
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    values = {k: v.clone() for k, v in model.state_dict().items()}
    return (
        values.__repr__(),
        [m.training for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
        hooks,
        torch.get_rng_state().tolist(),
    )


@pytest.mark.parametrize("method", ["shapley", "attn_lrp", "integrated_gradients", "lime"])
@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_the_model_stays_as_it_was(load, name, method):
    model, tokenizer = load(name)
    model = copy.deepcopy(model)
    before = state_of(model)
    explain_generation(model, tokenizer, "the film was bad", ANSWER, method=method)
    with pytest.raises(OptionError):
        explain_generation(model, tokenizer, TEXT, ANSWER, method=method, nonsense=1)
    with pytest.raises(InputError):
        explain_generation(model, tokenizer, TEXT * 20, [10**6], method=method)
    assert state_of(model) == before


def test_a_model_in_train_mode_is_told_of(load):
    model, tokenizer = load("gpt2")
    model = copy.deepcopy(model).train()
    told = explain_generation(model, tokenizer, "the film", ANSWER)
    assert not next(check for check in told.health if check.name == "mode").passed


def test_refusals(load):
    model, tokenizer = load("llama")

    def ask(**options):
        return explain_generation(model, tokenizer, TEXT, ANSWER, **options)

    for options, says in (
        ({"method": "rise"}, "does not explain generated text"),
        ({"method": "grad_cam"}, "does not explain generated text"),
        ({"method": "magic"}, "unknown method"),
        ({"scale": "logit"}, "methods of vectors only"),
        ({"scale": "odds", "method": "attn_lrp"}, "scale is 'odds'"),
        ({"earlier": True}, "methods of vectors"),
        ({"units": "letter"}, "by is 'letter'"),
        ({"method": "shapley", "steps": 4}, "no option 'steps'"),
        ({"method": "integrated_gradients", "stand_in": (3, 4)}, "one stand-in"),
        ({"method": "integrated_gradients", "stand_in": " the good film"}, "another number of tokens"),
        ({"method": "owen", "unions": "letter"}, "coarse ones first"),
    ):
        with pytest.raises(OptionError, match=says):
            ask(**options)
    with pytest.raises(InputError, match="can be attributed"):
        explain_generation(lambda ids: torch.zeros(*ids.shape, 9), None, [3, 4], [5], method="input_x_gradient")
    chat = chat_prompt([{"role": "user", "content": "a"}], tokenizer, chat_template=CHAT)
    with pytest.raises(OptionError, match="already"):
        explain_generation(model, tokenizer, chat, ANSWER, stand_in="b")
