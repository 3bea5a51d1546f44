"""Language models: answers scored by shared prefixes against one token at a time; prompts in units; Captum's LLMAttribution."""

import copy
import functools
import itertools
import math

import pytest
import torch
from torch import nn

from pellucid.batch import Run
from pellucid.errors import InputError, OptionError, OutputError
from pellucid.gradient import integrated_gradients
from pellucid.language import (
    Likelihood,
    answer_of,
    at_prompt,
    chat_prompt,
    generated,
    log_likelihood,
    template_prompt,
    text_prompt,
    token_prompt,
)
from pellucid.language.reader import Reader
from pellucid.language.trie import Row, planned
from pellucid.perturb import banzhaf, feature_ablation, groups_of, lime, owen, shapley
from pellucid.view import gradients
from tests import hugging

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

CORPUS = [
    "The quick brown fox jumps over the lazy dog. It never stops! Does it sleep? No.",
    "Dave lives in Palm Coast, FL and is a lawyer. His personal interests include playing guitar, hiking and spending time.",
    "The movie was great, the actors were terrible, and the ending felt wonderful.\n\nPassages stand apart.\n\nThis one too.",
] * 3
SIZES = {"vocab_size": 320, "bos_token_id": 0, "eos_token_id": 0}
SMALL = {
    "gpt2": lambda: transformers.GPT2Config(n_layer=2, n_embd=32, n_head=4, n_positions=96, initializer_range=0.3, **SIZES),
    "llama": lambda: transformers.LlamaConfig(**_rope(), **SIZES),
    "sliding": lambda: transformers.MistralConfig(**_rope(), sliding_window=6, **SIZES),
    "wide": lambda: transformers.MistralConfig(**_rope(), sliding_window=90, **SIZES),
    "opt": lambda: transformers.OPTConfig(
        hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=96, word_embed_proj_dim=32,
        pad_token_id=1, init_std=0.3, **SIZES
    ),
    "bloom": lambda: transformers.BloomConfig(hidden_size=32, n_layer=2, n_head=4, pad_token_id=1, initializer_range=0.3, **SIZES),
    "mamba": lambda: transformers.MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=4, pad_token_id=1, **SIZES),
    "t5": lambda: transformers.T5Config(
        d_model=32, d_ff=64, d_kv=8, num_layers=2, num_heads=4, decoder_start_token_id=1, pad_token_id=1, vocab_size=320, eos_token_id=0
    ),
}  # fmt: skip
CAUSAL = [name for name in SMALL if name != "t5"]
SHARING = ["gpt2", "llama", "sliding", "wide", "opt", "bloom"]
ANSWER = [17, 40, 40, 9]


def _rope():
    return {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 96, "initializer_range": 0.3, "pad_token_id": 1
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Small random models and a tokenizer trained on a few sentences, as `save_pretrained` writes them."""
    made = tmp_path_factory.mktemp("language")
    transformers.utils.logging.disable_progress_bar()
    for name, config in SMALL.items():
        torch.manual_seed(3)
        kind = transformers.AutoModelForSeq2SeqLM if name == "t5" else transformers.AutoModelForCausalLM
        kind.from_config(config()).save_pretrained(made / name)
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(CORPUS, tokenizers.trainers.BpeTrainer(vocab_size=320, special_tokens=["<|end|>"], initial_alphabet=alphabet))
    bpe.save(str(made / "bpe.json"))
    transformers.utils.logging.enable_progress_bar()
    return made


@pytest.fixture(scope="module")
def load(folder):
    """A model by its name, in eval mode."""

    @functools.cache
    def loaded(name, dtype=torch.float32):
        kind = transformers.AutoModelForSeq2SeqLM if name == "t5" else transformers.AutoModelForCausalLM
        transformers.utils.logging.disable_progress_bar()
        model = kind.from_pretrained(folder / name, dtype=dtype, local_files_only=True).eval()
        transformers.utils.logging.enable_progress_bar()
        return model

    return loaded


@pytest.fixture(scope="module")
def tokenizer(folder):
    """Byte-level, no special token added to a text, none for padding."""
    return transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "bpe.json"), bos_token="<|end|>", eos_token="<|end|>")


def slowly(model, prompt, answer):
    """The definition: one token at a time, one row at a time, no cache, no padding."""
    found = []
    for t, token in enumerate(answer):
        with torch.no_grad():
            if model.config.is_encoder_decoder:
                decoded = torch.tensor([[model.config.decoder_start_token_id, *answer[:t]]])
                logits = model(input_ids=torch.tensor([list(prompt)]), decoder_input_ids=decoded).logits
            else:
                logits = model(torch.tensor([[*prompt, *answer[:t]]]), use_cache=False).logits
        found.append(logits[0, -1].double().log_softmax(0)[token])
    return torch.stack(found)


def prompts(kind, length=20, seed=0):
    """Sets of prompts of one beginning or another."""
    source = torch.Generator().manual_seed(seed)
    whole = torch.randint(2, 320, (length,), generator=source).tolist()
    if kind == "ablation":
        return [whole] + [[*whole[:i], 1, *whole[i + 1 :]] for i in range(length)]
    if kind == "removal":
        return [whole] + [[*whole[:i], *whole[i + 1 :]] for i in range(length)] + [whole[:k] for k in range(1, length)]
    if kind == "tree":
        keeps = itertools.product([True, False], repeat=5)
        return [[t if keep[i // 4] else 1 for i, t in enumerate(whole[:20])] for keep in keeps]
    if kind == "subsets":
        keeps = torch.rand(25, length, generator=source) < 0.5
        return [whole] + [[t for t, keep in zip(whole, own, strict=True) if keep] or [1] for own in keeps.tolist()]
    return torch.randint(2, 320, (12, length), generator=source).tolist()


KINDS = ["ablation", "removal", "tree", "subsets", "strangers"]


# --- log-likelihood


@pytest.mark.parametrize("name", SMALL)
def test_log_likelihood_is_that_of_one_token_at_a_time(load, name):
    model, rows = load(name), prompts("removal", 9)
    expected = torch.stack([slowly(model, row, ANSWER) for row in rows])
    for shared in (True, False):
        found = log_likelihood(model, rows, ANSWER, shared)
        torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SHARING)
def test_shared_beginnings_change_nothing(load, name, kind):
    model, rows = load(name, torch.float64), prompts(kind)
    plainly = Likelihood(Reader.of(model), shared=False)
    expected = plainly([(row, ANSWER) for row in rows])
    for at_most in (None, 1, 3):
        likelihood = Likelihood(Reader.of(model), at_most=at_most)
        found = torch.cat([likelihood([(row, ANSWER) for row in part]) for part in (rows[:1], rows[1:8], rows[8:])])
        # Bloom's softmax is in float32.
        torch.testing.assert_close(found, expected, atol=2e-6 if name == "bloom" else 1e-10, rtol=0)
        assert likelihood.shared
        assert plainly.spent.plain == sum(len(row) + 3 for row in set(map(tuple, rows))) <= likelihood.spent.plain


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize(("kind", "length", "part"), [("ablation", 60, 0.75), ("tree", 20, 0.8), ("removal", 60, 0.7)])
def test_shared_beginnings_are_read_once(load, name, kind, length, part):
    likelihood = Likelihood(Reader.of(load(name)))
    likelihood([(row, ANSWER) for row in prompts(kind, length)])
    assert likelihood.spent.tokens < part * likelihood.spent.plain


def test_a_state_that_cannot_be_shared_is_not(load):
    likelihood = Likelihood(Reader.of(load("mamba")))
    likelihood([(row, ANSWER) for row in prompts("ablation")])
    assert not likelihood.shared


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_that_looks_back_only_so_far(kind):
    model = transformers.MistralForCausalLM(transformers.MistralConfig(**_rope(), sliding_window=24, **SIZES)).eval()
    likelihood, whole = Likelihood(Reader.of(model)), prompts(kind, 40 if kind != "tree" else 20)
    for rows in ([row[:12] for row in whole], whole):
        expected = log_likelihood(model, rows, ANSWER, shared=False)
        torch.testing.assert_close(likelihood([(row, ANSWER) for row in rows]), expected, atol=2e-5, rtol=1e-5)
    assert likelihood.shared


def test_beginnings_are_shared_beyond_a_window(load):
    likelihood, rows = Likelihood(Reader.of(load("sliding"))), prompts("strangers", 40)[:2]
    tails = [[*row, *tail] for row in rows for tail in prompts("strangers", 4)]
    found = likelihood([(row, ANSWER) for row in tails])
    torch.testing.assert_close(found, log_likelihood(load("sliding"), tails, ANSWER, shared=False), atol=2e-5, rtol=1e-5)
    assert likelihood.shared
    assert likelihood.spent.tokens < 0.5 * likelihood.spent.plain


class Stretched(transformers.GPT2LMHeadModel):
    """Its logits depend on how many tokens it is given at a time."""

    def forward(self, input_ids=None, past_key_values=None, attention_mask=None, use_cache=None, logits_to_keep=0):
        output = super().forward(input_ids, past_key_values, attention_mask, use_cache=use_cache, logits_to_keep=logits_to_keep)
        output.logits = output.logits * (1 + input_ids.shape[1] / 10)
        return output


def test_a_cache_that_does_not_give_the_same_is_found_out():
    model, rows = Stretched(SMALL["gpt2"]()).eval(), prompts("ablation", 40)
    likelihood = Likelihood(Reader.of(model))
    found = likelihood([(row, ANSWER) for row in rows])
    assert not likelihood.shared
    torch.testing.assert_close(found, log_likelihood(model, rows, ANSWER, shared=False))


def test_a_first_row_that_shares_nothing_is_no_proof():
    model, (first, *heads) = Stretched(SMALL["gpt2"]()).eval(), prompts("strangers", 40)[:3]
    rows = [first[:3], *([*head, *tail] for head in heads for tail in prompts("strangers", 4))]
    likelihood = Likelihood(Reader.of(model))
    found = torch.cat([likelihood([(row, ANSWER) for row in part]) for part in (rows[:1], rows[1:])])
    assert not likelihood.shared
    torch.testing.assert_close(found[1:], log_likelihood(model, rows[1:], ANSWER, shared=False))
    honest = Likelihood(Reader.of(transformers.GPT2LMHeadModel(SMALL["gpt2"]()).eval()))
    honest([(row, ANSWER) for row in rows])
    assert honest.shared
    assert honest.spent.tokens < 0.6 * honest.spent.plain


def test_answers_of_their_own_and_of_several_lengths(load):
    model, rows = load("llama"), prompts("removal", 8)[:6]
    rows, answers = [*rows, [5, 6, 7], [8, 9]], [[5], [6, 7, 8], [5], [9, 9], [6, 7, 3], [2], [4], [1, 2, 3]]
    found = log_likelihood(model, rows, answers)
    assert found.shape == (8, 3)
    torch.testing.assert_close(log_likelihood(model, rows[6:], answers[6:], shared=False), found[6:], atol=2e-5, rtol=1e-5)
    for value, row, answer in zip(found, rows, answers, strict=True):
        torch.testing.assert_close(value[: len(answer)].double(), slowly(model, row, answer), atol=2e-5, rtol=1e-5)
        assert not value[len(answer) :].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_float32(load, dtype):
    rows = prompts("ablation", 12)
    found = log_likelihood(load("llama", dtype), rows, ANSWER)
    assert found.dtype == torch.float32
    # The softmax is not in half precision: probabilities of all tokens add up to one.
    (total,) = log_likelihood(load("llama", dtype), rows[:1] * 320, [[i] for i in range(320)]).logsumexp(0)
    assert abs(float(total)) < 1e-5
    torch.testing.assert_close(found, log_likelihood(load("llama"), rows, ANSWER), atol=0.25, rtol=0.05)


class Plain(nn.Module):
    """A recurrent model of ids alone; `shape` is how it returns logits."""

    def __init__(self, shape="tensor"):
        super().__init__()
        self.words, self.cell, self.out, self.shape = nn.Embedding(320, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, 320), shape
        self.seen = []

    def forward(self, ids):
        logits = self.out(self.cell(self.words(ids))[0])
        self.seen.append(logits.shape[1])
        return {"tensor": logits, "tuple": (logits, None), "dict": {"logits": logits}, "heads": logits[:, None], "flat": logits[0]}[
            self.shape
        ]


class Named(Plain):
    """One that names its output layer."""

    def get_output_embeddings(self):
        return self.out


def of_plain(model, row, answer):
    with torch.no_grad():
        logits = model.out(model.cell(model.words(torch.tensor([[*row, *answer[:-1]]])))[0])
    return logits[0, -len(answer) :].log_softmax(1)[range(len(answer)), answer]


@pytest.mark.parametrize("make", [Plain, lambda: Plain("tuple"), lambda: Plain("dict"), lambda: Plain("heads"), Named])
def test_any_model_of_ids(make):
    model, rows = make(), prompts("removal", 9)
    expected = torch.stack([of_plain(model, row, ANSWER) for row in rows])
    torch.testing.assert_close(log_likelihood(model, rows, ANSWER), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(log_likelihood(lambda ids: model(ids), rows, ANSWER), expected, atol=1e-5, rtol=1e-5)


def test_only_positions_that_are_asked_about_reach_the_output_layer(load):
    model = Named()
    log_likelihood(model, prompts("strangers"), ANSWER)
    assert set(model.seen) == {len(ANSWER)}
    assert not model.out._forward_pre_hooks
    gpt2, seen = load("gpt2"), []
    handle = gpt2.lm_head.register_forward_hook(lambda module, args, output: seen.append(output.shape[1]))
    log_likelihood(gpt2, prompts("tree"), ANSWER)
    handle.remove()
    assert set(seen) <= {0, len(ANSWER)}


def test_a_wrapper_passes_on_what_its_base_takes(load):
    class Wrapper(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base

        def get_base_model(self):
            return self.base

        def forward(self, input_ids=None, attention_mask=None, **options):
            return self.base(input_ids, attention_mask=attention_mask, **options)

    model, rows = load("llama"), prompts("ablation", 40)
    likelihood = Likelihood(Reader.of(Wrapper(model)))
    torch.testing.assert_close(likelihood([(row, ANSWER) for row in rows]), log_likelihood(model, rows, ANSWER))
    assert likelihood.shared


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_the_end_of_memory_halves_a_call(load, name):
    model, rows = load(name), prompts("ablation")

    def small(module, args, kwargs):
        if len(kwargs["input_ids"]) > 3:
            raise torch.OutOfMemoryError("out of memory")

    expected = log_likelihood(model, rows, ANSWER)
    handle = model.register_forward_pre_hook(small, with_kwargs=True)
    try:
        likelihood = Likelihood(Reader.of(model))
        torch.testing.assert_close(likelihood([(row, ANSWER) for row in rows]), expected, atol=1e-5, rtol=1e-5)
    finally:
        handle.remove()
    assert likelihood.at_most is not None
    assert likelihood.at_most <= 3


def test_what_is_kept_of_a_model_goes_with_its_weights(view, load):
    model = copy.deepcopy(load("llama", torch.float64))
    prompt = view("llama").asked.prompt
    seen = at_prompt(model, prompt, " hiking")
    points = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)), dtype=torch.float64)
    before = seen.score((points,))
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(-1)
    after = seen.score((points,))
    torch.testing.assert_close(after, at_prompt(model, prompt, " hiking").score((points,)))
    assert (after - before).abs().max() > 1e-3
    handle = model.model.layers[0].register_forward_hook(lambda module, args, output: 2 * output)
    hooked = seen.score((points,))
    torch.testing.assert_close(hooked, at_prompt(model, prompt, " hiking", shared=False).score((points,)))
    handle.remove()
    torch.testing.assert_close(seen.score((points,)), after)


def test_tensors_of_ids(load):
    ids = torch.tensor(prompts("strangers"))
    found = log_likelihood(load("llama"), ids, torch.tensor(ANSWER))
    torch.testing.assert_close(found, log_likelihood(load("llama"), ids.tolist(), ANSWER))


def test_many_answers_share_their_prompt(load):
    likelihood, prompt = Likelihood(Reader.of(load("llama"))), prompts("strangers", 60)[0]
    answers = [[i, 5, 6] for i in range(30)]
    found = likelihood([(prompt, answer) for answer in answers])
    expected = torch.stack([slowly(load("llama"), prompt, answer) for answer in answers[:5]])
    torch.testing.assert_close(found[:5].double(), expected, atol=2e-5, rtol=1e-5)
    assert likelihood.spent.tokens < 200


def test_likelihood_refuses(load):
    gpt2 = load("gpt2")
    with pytest.raises(InputError, match="reads 96 at most"):
        log_likelihood(gpt2, [[5] * 95], ANSWER)
    log_likelihood(gpt2, [[5] * 93], ANSWER)
    with pytest.raises(InputError, match="a prompt has no tokens"):
        log_likelihood(gpt2, [[5], []], ANSWER)
    with pytest.raises(InputError, match="an answer has no tokens"):
        log_likelihood(gpt2, [[5]], [])
    with pytest.raises(InputError, match="2 answers for 1 prompts"):
        log_likelihood(gpt2, [[5]], [[1], [2]])
    with pytest.raises(OutputError, match="returns logits"):
        log_likelihood(Plain("flat"), [[5]], ANSWER)
    with pytest.raises(OutputError, match="returns logits"):
        log_likelihood(transformers.GPT2Model(SMALL["gpt2"]()), [[5]], ANSWER)
    bare = copy.deepcopy(load("t5"))
    bare.config.decoder_start_token_id = bare.generation_config.decoder_start_token_id = None
    with pytest.raises(InputError, match="decoder_start_token_id"):
        log_likelihood(bare, [[5]], ANSWER)


# --- plans


def slow_cost(rows, kept, cuts, call):
    """What cuts cost where every batch is one call: by sets of beginnings."""
    tokens = [row.tokens for row in rows]

    def alike(one, other):
        return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))

    free = [len(own) - row.asked for own, row in zip(tokens, rows, strict=True)]
    company = []
    for i in range(len(rows)):
        others = [min(alike(tokens[i], tokens[j]), free[j]) for j in (i - 1, i + 1) if 0 <= j < len(rows)]
        company.append(min(free[i], max([alike(tokens[i], kept), *others])))
    cost, left = 0.0, set(range(len(rows)))
    for depth, until in zip(cuts, [*cuts[1:], math.inf], strict=True):
        gone = {i for i in left if company[i] < until}
        left -= gone
        cost += sum(len(tokens[i]) - depth for i in gone) + call * bool(gone)
        fresh = {tokens[i][:until] for i in left} - {tuple(kept[:until])} if left else set()
        cost += len(fresh) * (until - depth) + call * bool(fresh) if fresh else 0
    return cost


@pytest.mark.parametrize("seed", range(12))
def test_a_plan_is_the_cheapest_of_all(seed):
    source = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, 2, (7, 6), generator=source).tolist()
    rows = sorted({Row(tuple(own), ((9, 9),)) for own in drawn})
    kept = drawn[0] if seed % 2 else []
    for call in (0.5, 3.0, 50.0):
        plan = planned(rows, kept, call, 100)
        every = [(0, *rest) for n in range(6) for rest in itertools.combinations(range(1, 7), n)]
        assert plan.cost == pytest.approx(slow_cost(rows, kept, plan.cuts, call))
        assert plan.cost == pytest.approx(min(slow_cost(rows, kept, cuts, call) for cuts in every))


# --- views


TEXT = "Dave lives in Palm Coast, FL and is a lawyer."


@pytest.fixture(scope="module")
def view(load, tokenizer):
    """The answer " hiking" to a template of four values."""
    prompt = template_prompt(
        "{} lives in {}, {} and is a {}. His interests include",
        ["Dave", "Palm Coast", "FL", "lawyer"],
        tokenizer,
        ["Sarah", "Seattle", "WA", "doctor"],
    )
    return lambda name="gpt2", dtype=torch.float64, **options: at_prompt(load(name, dtype), prompt, **{"answer": " hiking and", **options})


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5"])
def test_ablation_is_the_fall_of_each_token(view, load, name):
    seen = view(name)
    found = feature_ablation(seen, seen.baselines).values[0]
    answer, prompt = seen.asked.answers[0].ids, seen.asked.prompt
    rows = prompt.rows([(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)])
    whole, *without = (slowly(load(name, torch.float64), row, answer) for row in rows)
    torch.testing.assert_close(found[:, 0], torch.stack([whole - own for own in without], 1), atol=1e-9, rtol=0)
    assert seen.names == seen.asked.answers[0].labels
    assert seen.labels == ("Dave", "Palm Coast", "FL", "lawyer")


def test_shapley_values_of_every_token_add_up(view):
    seen = view("llama")
    found = shapley(seen, seen.baselines)
    totals = found.values[0].sum(2)
    torch.testing.assert_close(totals, found.scores - found.baseline_scores, atol=1e-9, rtol=0)
    together = shapley(view("llama", target="sequence"), seen.baselines).values[0]
    torch.testing.assert_close(found.values[0].sum(0, keepdim=True), together, atol=1e-9, rtol=0)
    both = shapley(view("llama", target="both"), seen.baselines).values[0]
    torch.testing.assert_close(both, torch.cat([together, found.values[0]]), atol=1e-9, rtol=0)


def test_probabilities_and_contrasts(view):
    whole = torch.ones(1, 4, dtype=torch.float64)
    logs = view().score((whole,))
    torch.testing.assert_close(view(scale="prob").score((whole,)), logs.exp())
    torch.testing.assert_close(view(scale="prob", target="sequence").score((whole,)), logs.sum(0, keepdim=True).exp())
    against = view(answer=" hiking", against=" terrible")
    torch.testing.assert_close(
        against.score((whole,)),
        view(answer=" hiking", target="sequence").score((whole,)) - view(answer=" terrible", target="sequence").score((whole,)),
    )
    assert against.names == ("' hiking' rather than ' terrible'",)


def test_answers_that_differ_in_their_last_token_share_a_pass(view):
    seen = view(answer=[40], against=[41])
    seen.score((seen.features[0],))
    assert seen.spent.calls == 1
    other = view(answer=[40])
    other.score((other.features[0],))
    assert seen.spent.tokens == other.spent.tokens


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_every_method_of_coalitions(view, name):
    seen = view(name)
    exact = shapley(seen, seen.baselines)
    fall = exact.scores - exact.baseline_scores
    for method in (lime, banzhaf):
        assert method(seen, seen.baselines, seed=0).values[0].shape == (len(fall), 1, 4)
    sampled = shapley(seen, seen.baselines, evaluations=12, estimator="kernel", seed=0)
    torch.testing.assert_close(sampled.values[0].sum(2), fall, atol=1e-9, rtol=0)
    unions = groups_of(seen.features, torch.tensor([[0, 0, 1, 1]]))
    torch.testing.assert_close(owen(seen, seen.baselines, unions).values[0].sum(2), fall, atol=1e-9, rtol=0)
    grouped = feature_ablation(seen, seen.baselines, unions).values[0]
    merged = at_prompt(seen.asked.likelihood.reader.model, seen.asked.prompt.grouped([0, 0, 1, 1]), " hiking and")
    torch.testing.assert_close(grouped[:, :, [0, 2]], feature_ablation(merged, merged.baselines).values[0], atol=1e-9, rtol=0)
    assert merged.labels == ("Dave Palm Coast", "FL lawyer")


def test_targets_one_by_one(view):
    seen = view()
    whole = feature_ablation(seen, seen.baselines).values[0]
    before = seen.spent.calls
    for i, one in enumerate(seen.targets()):
        torch.testing.assert_close(feature_ablation(one, one.baselines).values[0], whole[i : i + 1])
        assert one.names == seen.names[i : i + 1]
    assert seen.spent.calls == before  # they know what the first has found out


def test_rows_are_counted(view):
    seen, run = view(), Run()
    feature_ablation(seen, seen.baselines, run=run)
    assert run.forwards - (1 + 1 + 4) in (0, 1)  # the ends, the units, and once for a model the row that memory is measured by
    assert run.backwards == 0


def test_several_stand_ins_are_meant(load, tokenizer):
    model, values = load("gpt2", torch.float64), ["He", "sad"]
    ways = [template_prompt("{} feels {} now", values, tokenizer, own) for own in (["It", "fine"], ["She", "glad"])]
    both = template_prompt("{} feels {} now", values, tokenizer, [("It", "She"), ("fine", "glad")])
    seen = at_prompt(model, both, " and")
    assert seen.baselines[0].shape == (2, 1, 2)
    single = [at_prompt(model, own, " and") for own in ways]
    expected = sum(feature_ablation(own, own.baselines).values[0] for own in single) / 2
    torch.testing.assert_close(feature_ablation(seen, seen.baselines).values[0], expected, atol=1e-9, rtol=0)


def test_a_copy_of_the_example_and_other_points(view):
    seen = view()
    points = torch.tensor([[1.0, 0, 1, 1], [0, 0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(seen.moved((points,)).some([1, 0]).features[0], points[[1, 0]])
    assert list(seen.readings()) == [seen]
    assert seen.at_once


@pytest.mark.parametrize("at_most", [1, 3])
def test_limits_change_nothing(view, at_most):
    seen, limited = view("llama"), view("llama", at_most=at_most)
    expected = shapley(seen, seen.baselines).values[0]
    torch.testing.assert_close(shapley(limited, limited.baselines, run=Run(at_most)).values[0], expected, atol=1e-9, rtol=0)


def test_units_have_no_gradient(view):
    seen = view()
    with pytest.raises(OptionError, match="no gradient"):
        gradients(seen, seen.features)
    with pytest.raises(InputError, match="no gradient"):
        integrated_gradients(seen, seen.baselines)
    for wrong in (0.5, 2.0, -1.0):
        with pytest.raises(InputError, match="1 \\(there\\) or 0"):
            seen.score((torch.full((1, 4), wrong),))


def test_a_prompt_that_is_planted_is_found():
    """The answer is told by one token only: it gets everything."""

    class Last(nn.Module):
        def forward(self, ids):
            logits = torch.zeros(*ids.shape, 50)
            logits[..., 7] = 4.0 * (ids == 3).cumsum(1).clamp(max=1)
            return logits

    seen = at_prompt(Last(), token_prompt([5, 6, 3, 8], stand_in=0), [7])
    found = feature_ablation(seen, seen.baselines).values[0].flatten()
    assert found.tolist() == pytest.approx([0, 0, float(seen.score(seen.features) - seen.score(seen.baselines)), 0], abs=1e-6)
    assert found[2] > 2


# --- Captum


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("way", [{"use_cached_outputs": False}, {"forward_in_tokens": False}])
def test_captum_of_a_template(view, load, tokenizer, name, way):
    attr = pytest.importorskip("captum.attr")
    model = load(name)
    theirs = attr.TextTemplateInput(
        "{} lives in {}, {} and is a {}. His interests include",
        ["Dave", "Palm Coast", "FL", "lawyer"],
        ["Sarah", "Seattle", "WA", "doctor"],
    )
    for kind, method in ((attr.FeatureAblation, feature_ablation), (attr.ShapleyValues, shapley)):
        expected = attr.LLMAttribution(kind(model), tokenizer).attribute(theirs, target=" hiking and", **way)
        seen = view(name, torch.float32, target="both")
        found = method(seen, seen.baselines).values[0][:, 0]
        torch.testing.assert_close(found[0], expected.seq_attr, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(found[1:], expected.token_attr, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("scale", ["log_prob", "prob"])
def test_captum_of_tokens(load, tokenizer, scale):
    attr = pytest.importorskip("captum.attr")
    model = load("llama")
    method = attr.LLMAttribution(attr.FeatureAblation(model), tokenizer, attr_target=scale)
    expected = method.attribute(attr.TextTokenInput(TEXT, tokenizer, baselines=5), target=" Okay", use_cached_outputs=False)
    prompt = text_prompt(TEXT, tokenizer, by="token", stand_in=5, fixed=())
    seen = at_prompt(model, prompt, " Okay", target="both", scale=scale)
    found = feature_ablation(seen, seen.baselines).values[0][:, 0]
    torch.testing.assert_close(found[0], expected.seq_attr, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(found[1:], expected.token_attr, atol=2e-5, rtol=1e-4)


# --- prompts


def joined(prompt, choices=None):
    return prompt.rows([choices or (0,) * prompt.size])[0]


@pytest.mark.parametrize("by", ["token", "word", "sentence", "passage", [(0, 8), (20, 30)], lambda text: [(3, 9)]])
@pytest.mark.parametrize("text", CORPUS[:3])
def test_a_text_keeps_its_tokens(tokenizer, text, by):
    prompt = text_prompt(text, tokenizer, by, stand_in=3)
    ids = tuple(tokenizer(text)["input_ids"])
    assert joined(prompt) == ids
    assert prompt.text() == text
    for unit in range(prompt.size):
        own = joined(prompt, [int(i == unit) for i in range(prompt.size)])
        assert len(own) == len(ids)
        assert {b for a, b in zip(ids, own, strict=True) if a != b} <= {3}
        assert tokenizer.decode([a for a, b in zip(ids, own, strict=True) if a != b]).strip() == prompt.labels[unit].strip()


def test_words_sentences_and_passages(tokenizer):
    text = CORPUS[2]
    words = text_prompt(text, tokenizer, "word")
    assert [label.strip() for label in words.labels] == text.split()
    sentences = text_prompt(CORPUS[0], tokenizer, "sentence")
    assert [label.strip() for label in sentences.labels] == [
        "The quick brown fox jumps over the lazy dog.",
        "It never stops!",
        "Does it sleep?",
        "No.",
    ]
    assert sentences.text([0, 1, 0, 1]) == "The quick brown fox jumps over the lazy dog. Does it sleep?"
    passages = text_prompt(text, tokenizer, "passage")
    assert [label.strip() for label in passages.labels] == [part.strip() for part in text.split("\n\n")]
    assert passages.text([1, 1, 0]).strip() == "This one too."


def test_stand_ins_of_a_text(tokenizer):
    prompt = text_prompt("The lazy dog", tokenizer, "word", stand_in=(None, 3, " cat"))
    assert prompt.stand_ins == 3
    assert prompt.text([0, 1, 0]) == "The dog"
    count = len(tokenizer.encode(" lazy"))
    assert joined(prompt, [0, 2, 0]) == (*tokenizer.encode("The"), *[3] * count, *tokenizer.encode(" dog"))
    assert prompt.text([0, 3, 0]) == "The cat dog"


def special(folder):
    """A tokenizer that puts a token before each text."""
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "bpe.json"), bos_token="<|end|>", eos_token="<|end|>", unk_token="Q"
    )
    made._tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="<|end|> $A", special_tokens=[("<|end|>", 0)])
    return made


def test_special_tokens_stay(folder):
    tokenizer = special(folder)
    prompt = text_prompt("A Q<|end|> dog", tokenizer, "token")
    gone = joined(prompt, [1] * prompt.size)
    assert gone == (0, 0)
    assert joined(prompt)[0] == 0
    every = text_prompt("A dog", tokenizer, "token", fixed=())
    assert every.size == prompt.size - 1 or joined(every, [1] * every.size) == ()
    kept = text_prompt("A dog", tokenizer, "token", fixed=["A"])
    assert joined(kept, [1] * kept.size) == tuple(tokenizer.encode("A", add_special_tokens=False))


def test_a_slow_tokenizer_tells_words_by_their_marks(tokenizer):
    class Slow:
        is_fast, all_special_ids, unk_token_id = False, (), None

        def __call__(self, text, return_special_tokens_mask, return_offsets_mapping):
            assert not return_offsets_mapping
            ids = tokenizer.encode(text)
            return {"input_ids": ids, "special_tokens_mask": [0] * len(ids)}

        def __getattr__(self, name):
            return getattr(tokenizer, name)

    fast, slow = (text_prompt("The lazy dog. It sleeps", own, "word") for own in (tokenizer, Slow()))
    assert fast.labels == slow.labels
    assert [s.strip() for s in text_prompt("The lazy dog. It sleeps", Slow(), "sentence").labels] == ["The lazy dog.", "It sleeps"]
    with pytest.raises(InputError, match="slow one"):
        text_prompt("The lazy dog", Slow(), "passage")


@pytest.mark.parametrize("mask", [None, [4, 4, 2]])
def test_templates_are_what_captum_makes_of_them(tokenizer, mask):
    attr = pytest.importorskip("captum.attr")
    values, others = ["a lazy", "dog", ""], ["the", "", "fox"]
    theirs = attr.TextTemplateInput("{}{} and {}!", values, others, mask=mask)
    ours = template_prompt("{}{} and {}!", values, tokenizer, others, mask)
    order = list(range(3)) if mask is None else [theirs.formatted_mask[0], theirs.formatted_mask[2]]
    assert ours.size == theirs.n_itp_features
    for choices in itertools.product([0, 1], repeat=ours.size):
        kept = torch.zeros(1, ours.size)
        kept[0, order] = 1 - torch.tensor(choices, dtype=torch.float)
        text = theirs.to_model_input(kept)
        assert ours.text(choices) == text
        assert joined(ours, choices) == tuple(tokenizer.encode(text))


def test_templates_by_name_and_by_function(tokenizer):
    named = template_prompt("{who} likes {what}", {"what": "dogs", "who": "He"}, tokenizer, {"who": "It", "what": "cats"})
    assert named.text() == "He likes dogs"
    assert named.text([1, 0]) == "He likes cats"
    made = template_prompt(lambda *parts: " ".join(p for p in parts if p), ["a", "b", "c"], tokenizer)
    assert made.text([0, 1, 0]) == "a c"


def test_conversations(tokenizer):
    chatty = copy.deepcopy(tokenizer)
    turns = "{% for m in messages %}<|end|>{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    chatty.chat_template = turns + "{% if add_generation_prompt %}<|end|>bot:{% endif %}"
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": ["The dog sleeps. ", "Who sleeps?"]}]
    prompt = chat_prompt(messages, chatty, stand_in="...")
    assert prompt.labels == ("Be brief.", "The dog sleeps. ", "Who sleeps?")
    whole = "<|end|>system: Be brief.\n<|end|>user: The dog sleeps. Who sleeps?\n<|end|>bot:"
    assert prompt.text() == whole
    assert joined(prompt) == tuple(chatty(whole, add_special_tokens=False)["input_ids"])
    assert prompt.text([0, 1, 0]) == whole.replace("The dog sleeps. ", "...")
    assert chat_prompt(messages, chatty, roles=["user"]).labels == prompt.labels[1:]
    with pytest.raises(InputError, match="no chat template"):
        chat_prompt(messages, tokenizer)
    with pytest.raises(InputError, match="name some of these"):
        chat_prompt(messages, chatty, roles=["tool"])
    with pytest.raises(InputError, match="texts can be explained"):
        chat_prompt([{"role": "user", "content": [{"type": "image"}]}], chatty)


def test_prompts_refuse(tokenizer):
    with pytest.raises(OptionError, match="by is 'letter'"):
        text_prompt("a b", tokenizer, "letter")
    with pytest.raises(InputError, match="no unit"):
        text_prompt("   ", tokenizer)
    with pytest.raises(InputError, match="overlap"):
        text_prompt("The lazy dog", tokenizer, [(0, 5), (3, 8)])
    with pytest.raises(InputError, match="without gaps"):
        token_prompt([1, 2], units=[0, 2])
    with pytest.raises(InputError, match="3 units for 2 tokens"):
        token_prompt([1, 2], units=[0, 1, 2])
    with pytest.raises(InputError, match="no tokenizer"):
        token_prompt([1, 2], stand_in="x")
    with pytest.raises(InputError, match="in the form of the values"):
        template_prompt("{} {}", ["a", "b"], tokenizer, ["x"])
    with pytest.raises(InputError, match="does not take the values"):
        template_prompt("{} {} {}", ["a", "b"], tokenizer)
    with pytest.raises(InputError, match="at least one text"):
        template_prompt("{}", [], tokenizer)
    with pytest.raises(InputError, match="1 ids for 2 units"):
        token_prompt([1, 2]).grouped([0])
    with pytest.raises(InputError, match="3 labels for 1 units"):
        token_prompt([1, 2]).grouped([0, 0], ["a", "b", "c"])


# --- answers


def state_of(model):
    """Everything that must not change."""
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    return (
        {k: v.clone() for k, v in model.state_dict().items()}.__repr__(),
        copy.deepcopy(vars(model.generation_config)).__repr__(),
        model.config.to_dict().__repr__(),
        [m.training for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
        hooks,
        torch.get_rng_state().tolist(),
    )


@pytest.mark.parametrize("name", ["gpt2", "t5"])
@pytest.mark.parametrize("training", [False, True])
def test_the_model_stays_as_it_was(load, tokenizer, name, training):
    model = copy.deepcopy(load(name)).train(training)
    model.generation_config.max_length = 7
    before = state_of(model)
    seen = at_prompt(model, text_prompt(TEXT, tokenizer), options={"max_new_tokens": 3, "do_sample": True})
    feature_ablation(seen, seen.baselines)
    log_likelihood(model, [[4, 5]], [6])
    with pytest.raises(InputError):
        log_likelihood(model, [[]], [6])
    assert state_of(model) == before


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5"])
def test_an_answer_is_generated_greedily(load, tokenizer, name):
    model = load(name)
    seen = at_prompt(model, text_prompt("The dog", tokenizer))
    answer = seen.asked.answers[0].ids
    ids = torch.tensor([tokenizer.encode("The dog")])
    with torch.no_grad():
        whole = model.generate(ids, max_new_tokens=25, do_sample=False, pad_token_id=1)[0].tolist()
    assert answer == tuple(whole[1 if name == "t5" else ids.shape[1] :])
    assert len(seen.names) == len(answer)
    # Greedy: none of the tokens is less likely than another.
    likelier = seen.asked.likelihood([(ids[0].tolist(), (*answer[:-1], i)) for i in range(320)])[:, -1]
    assert int(likelier.argmax()) == answer[-1]


def test_a_sampled_answer_follows_from_its_seed(load, tokenizer):
    model, ids, options = load("gpt2"), tokenizer.encode("The dog"), {"max_new_tokens": 8, "do_sample": True}
    first, again, other = (generated(model, ids, tokenizer, options, seed) for seed in (1, 1, 2))
    assert first == again != other


def test_answers_refuse(load, tokenizer):
    prompt = text_prompt(TEXT, tokenizer)
    with pytest.raises(InputError, match="has no tokens"):
        answer_of("", tokenizer)
    with pytest.raises(InputError, match="no tokenizer"):
        at_prompt(load("gpt2"), token_prompt([4, 5], stand_in=0), "yes")
    with pytest.raises(InputError, match="no method generate"):
        at_prompt(Plain(), prompt)
    with pytest.raises(InputError, match="reads 96 at most"):
        at_prompt(load("gpt2"), text_prompt("dog " * 200, tokenizer), " yes")
    with pytest.raises(InputError, match="reads 96 at most"):  # before anything is generated
        at_prompt(load("gpt2"), text_prompt("dog " * 200, tokenizer))
    with pytest.raises(InputError, match="reads 96 at most"):  # where a stand-in is too long
        at_prompt(load("gpt2"), template_prompt("{}", ["a"], tokenizer, ["dog " * 200]), " yes")
    with pytest.raises(OptionError, match="target is 'word'"):
        at_prompt(load("gpt2"), prompt, " yes", target="word")
    with pytest.raises(OptionError, match="scale is 'logit'"):
        at_prompt(load("gpt2"), prompt, " yes", scale="logit")
    with pytest.raises(OptionError, match="no partners"):
        at_prompt(load("gpt2"), prompt, " yes", " no", target="tokens")


def test_where_nothing_is_left_a_text_begins(load, tokenizer):
    model = load("gpt2", torch.float64)
    seen = at_prompt(model, text_prompt("The dog", tokenizer), " sleeps")
    torch.testing.assert_close(seen.score(seen.baselines)[:, 0], slowly(model, [0], seen.asked.answers[0].ids), atol=1e-9, rtol=0)
    bare = Plain()
    with pytest.raises(InputError, match="nothing is left"):
        at_prompt(bare, token_prompt([4, 5]), [6])
    assert at_prompt(bare, token_prompt([4, 5], stand_in=0), [6]).score((torch.zeros(1, 2),)).shape == (1, 1)


def stretched(kind):
    """Llama that encodes places otherwise in texts of more than 16 tokens."""
    transformers = hugging.quiet()
    kinds = {
        "longrope": {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "original_max_position_embeddings": 16},
        "dynamic": {"factor": 8.0},
    }
    places = {"rope_type": kind, "rope_theta": 10000.0, **kinds[kind]}
    config = transformers.LlamaConfig(vocab_size=40, max_position_embeddings=96, rope_parameters=places, **hugging.SIZES)
    config.original_max_position_embeddings = 16
    return hugging.lively(transformers.LlamaForCausalLM(config))


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_rows_of_other_lengths_share_nothing_where_places_stretch(kind):
    model = stretched(kind)
    begun = torch.randint(3, 40, (20,), generator=torch.Generator().manual_seed(0)).tolist()
    prompts = [begun, [*begun[:19], 5], *([*begun[:10], token] for token in range(5))]
    alone = torch.cat([log_likelihood(model, [prompt], [7, 8], shared=False) for prompt in prompts])
    torch.testing.assert_close(log_likelihood(model, prompts, [7, 8]), alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(log_likelihood(model, prompts, [7, 8], shared=False), alone, atol=1e-5, rtol=0)


def test_a_model_that_reads_the_answer_is_refused():
    transformers = hugging.quiet()
    model = hugging.lively(transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=20, **hugging.SIZES)))
    with pytest.raises(InputError, match="changes with the tokens behind it"):
        log_likelihood(model, [[5, 6, 7]], [6, 7, 8])
    assert log_likelihood(model, [[5, 6, 7]], [6]).shape == (1, 1)
