"""Citations: the fit against scikit-learn's, laws, planted sources far above chance, several statements of one pass, checks, pages."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from pellucid.errors import FileError, InputError, OptionError, UntrustedResult
from pellucid.language import token_prompt
from pellucid.language.answer import Answer
from pellucid.language.citations import Citations
from pellucid.language.context import cite
from pellucid.language.datamodel import crossed, datamodeling_score, log_odds, sparse_linear
from pellucid.language.statements import statements_of
from pellucid.show.cited import terminal

from . import copier, hugging

pytest.importorskip("transformers")


def drawn(rows=40, sources=6, targets=3, seed=0):
    source = torch.Generator().manual_seed(seed)
    kept = torch.rand(rows, sources, generator=source) < 0.5
    return kept, torch.randn(rows, targets, generator=source, dtype=torch.float64)


# --- the linear model


@pytest.mark.parametrize("alpha", [0.01, 0.2])
def test_the_fit_is_that_of_scikit_learn(alpha):
    """As ContextCite has it: masks standardised, log-odds per token, a LASSO, and back."""
    from sklearn.linear_model import Lasso
    from sklearn.preprocessing import StandardScaler

    kept, scores = drawn()
    kept[:, 2] = True  # a source that was always there
    sizes = torch.tensor([4, 1, 7])
    found = sparse_linear(kept, scores, alpha, sizes)
    for target in range(3):
        scaler = StandardScaler()
        rows = scaler.fit_transform(kept.double().numpy())
        fitted = Lasso(alpha=alpha).fit(rows, scores[:, target].numpy() / int(sizes[target]))
        weights = fitted.coef_ / scaler.scale_ * int(sizes[target])
        expected = fitted.predict(rows) * int(sizes[target])
        np.testing.assert_allclose(found.weights[:, target], weights, atol=1e-9)
        np.testing.assert_allclose(found.of(kept)[:, target], expected, atol=1e-9)
    assert bool((found.weights[2] == 0).all())


def test_what_is_additive_is_found_as_it_is():
    kept, _ = drawn()
    truth = torch.tensor([[3.0, 0.0], [0.0, -2.0], [0.5, 0.0], [0.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    found = sparse_linear(kept, kept.double() @ truth + 4.0, alpha=1e-7)
    torch.testing.assert_close(found.weights, truth, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.intercepts, torch.full((2,), 4.0, dtype=torch.float64), atol=1e-4, rtol=0)
    strong = sparse_linear(kept, kept.double() @ truth + 4.0, alpha=0.4)
    assert int((strong.weights == 0).sum()) > int((truth == 0).sum())


def test_log_odds():
    chances = torch.tensor([1e-30, 0.01, 0.5, 0.9, 1 - 1e-6], dtype=torch.float64)
    torch.testing.assert_close(log_odds(chances.log()), (chances / (1 - chances)).log())
    assert float(log_odds(torch.zeros(1))) == pytest.approx(math.log(1e7), rel=1e-6)
    assert bool(log_odds(torch.tensor([-200.0, -1e4])).isfinite().all())


def test_the_score_of_a_linear_model_is_spearmans():
    from scipy.stats import spearmanr

    _, scores = drawn()
    predicted = scores + torch.randn(scores.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).round(decimals=1)
    found = datamodeling_score(predicted, scores)
    for target in range(3):
        assert float(found[target]) == pytest.approx(spearmanr(predicted[:, target], scores[:, target]).statistic)
    assert bool(datamodeling_score(torch.ones(5, 1), torch.arange(5.0)[:, None]).isnan().all())


def test_each_ablation_is_predicted_without_it():
    kept, scores = drawn(rows=17)
    found = crossed(kept, scores, 0.05, folds=4)
    for fold in range(4):
        out = torch.arange(17) % 4 == fold
        weights = sparse_linear(kept[~out], scores[~out], 0.05).weights
        torch.testing.assert_close(found[out], (kept[out].double() - kept.double().mean(0)) @ weights + scores.mean(0))
    noise = datamodeling_score(crossed(*drawn(rows=400, seed=5)), drawn(rows=400, seed=5)[1])
    assert bool((noise.nan_to_num() < 0.15).all())  # it does not predict what cannot be predicted


def test_shapes_are_refused():
    kept, scores = drawn()
    with pytest.raises(InputError, match="m at least 2"):
        sparse_linear(kept[:1], scores[:1])
    with pytest.raises(InputError, match="give \\(m, sources\\)"):
        sparse_linear(kept, scores[:3])
    with pytest.raises(InputError, match="for both"):
        datamodeling_score(scores, scores[:, :1])


# --- statements


def test_an_answer_in_statements():
    tokenizer = hugging.byte_level()
    text = " The film was bad. Anna made it!\nWho? "
    ids = tuple(tokenizer.encode(text))
    answer = Answer.of((*ids, tokenizer.eos_token_id), tokenizer)
    found, statements = statements_of(answer, tokenizer)
    assert found == text
    assert [one.text for one in statements] == ["The film was bad.", "Anna made it!", "Who?"]
    for one in statements:
        assert tokenizer.decode([ids[i] for i in one.tokens]).strip() == one.text
        assert text[slice(*one.span)].strip() == one.text
    assert len(ids) not in statements[-1].tokens  # the end of the text is no part of what it says
    words = statements_of(answer, tokenizer, "word")[1]
    assert [one.text for one in words] == text.split()
    assert [one.text for one in statements_of(answer, tokenizer, "answer")[1]] == [text.strip()]
    tokens = statements_of(answer, tokenizer, "token")[1]
    assert "".join(one.text for one in tokens) == "".join(text.split())
    assert [one.text for one in statements_of(answer, tokenizer, [(1, 9)])[1]] == ["The film"]
    with pytest.raises(OptionError, match="choose one of 'sentence'"):
        statements_of(answer, tokenizer, "letter")
    with pytest.raises(InputError, match="has no statement"):
        statements_of(answer, tokenizer, [(0, 1)])


def test_an_answer_of_whole_words():
    tokenizer = copier.tokenizer()
    answer = Answer.of(tokenizer.encode("tea . Ben likes jam ."), tokenizer)
    text, statements = statements_of(answer, tokenizer)
    assert (text, [one.text for one in statements]) == ("tea . Ben likes jam .", ["tea .", "Ben likes jam ."])
    assert [one.tokens for one in statements] == [(0, 1), (2, 3, 4, 5)]


# --- the whole of it


def asked(seed=0, count=8, **options):
    """A context of facts, a question about one of them, an answer that goes on with another."""
    model, tokenizer = copier.Copier(sharp=8.0).double(), copier.tokenizer()
    facts = copier.facts(count, seed)
    (name, thing), (other, its) = facts[seed % count], facts[(seed + 3) % count]
    context = " ".join(f"{n} likes {t} ." for n, t in facts)
    settings = {"template": "{context} {question}", "seed": seed, **options}
    return cite(model, tokenizer, context, f"{name} likes", f"{thing} . {other} likes {its} .", **settings), (
        seed % count,
        (seed + 3) % count,
    )


def test_the_source_of_each_statement_is_found():
    """Of eight sources the one that was copied: 1 in 8 by chance."""
    right = 0
    for seed in range(10):
        found, truth = asked(seed, ablations=48, drop=0)
        right += sum(top[0][0] == source for top, source in zip(found.top(1), truth, strict=True) if top)
    assert right >= 17


def test_few_ablations_find_less_than_many():
    def right(ablations):
        found = (asked(seed, ablations=ablations, drop=0) for seed in range(8))
        return sum(bool(top) and top[0][0] == source for one, truth in found for top, source in zip(one.top(1), truth, strict=True))

    assert right(4) < right(48)


def slow_logs(model, tokenizer, facts, kept, question, answer):
    """The log-probability of each token of the answer after the sources that are kept, as a loop."""
    text = "".join(f"{n} likes {t} . " for (n, t), keep in zip(facts, kept, strict=True) if keep) + question
    ids, own = tokenizer.encode(text), tokenizer.encode(answer)
    with torch.no_grad():
        logits = model(torch.tensor([[*ids, *own[:-1]]]))[0, -len(own) :]
    return logits.log_softmax(1).gather(1, torch.tensor(own)[:, None])[:, 0]


def test_scores_are_those_of_the_definition():
    found, _ = asked(2, ablations=40, keep=0.6, alpha=0.02)
    model, tokenizer, facts = copier.Copier(sharp=8.0).double(), copier.tokenizer(), copier.facts(8, 2)
    from pellucid.seeds import generator

    kept = torch.rand(40, 8, generator=generator(2, 0)) < 0.6
    question, answer = f"{facts[2][0]} likes", f"{facts[2][1]} . {facts[5][0]} likes {facts[5][1]} ."
    logs = torch.stack([slow_logs(model, tokenizer, facts, row, question, answer) for row in kept.tolist()])
    for statement, tokens in enumerate([(0, 1), (2, 3, 4, 5)]):
        chances = logs[:, tokens].sum(1).exp()
        odds = (chances / (1 - chances)).log()[:, None]
        expected = sparse_linear(kept, odds, 0.02, torch.tensor([len(tokens)])).weights[:, 0]
        torch.testing.assert_close(found.scores[statement], expected, atol=1e-7, rtol=1e-6)
        lds = datamodeling_score(crossed(kept, odds, 0.02, torch.tensor([len(tokens)])), odds)
        assert float(found.lds[statement]) == pytest.approx(float(lds))
    whole = slow_logs(model, tokenizer, facts, [True] * 8, question, answer)
    torch.testing.assert_close(found.probabilities, torch.stack([whole[:2].sum(), whole[2:].sum()]).exp())
    for statement, tokens in enumerate([(0, 1), (2, 3, 4, 5)]):
        best = int(found.scores[statement].argmax())
        without = slow_logs(model, tokenizer, facts, [i != best for i in range(8)], question, answer)
        assert float(found.drops[statement]) == pytest.approx(float((whole - without)[list(tokens)].sum()), abs=1e-8)


def test_several_statements_cost_one_pass():
    both, _ = asked(1, ablations=20, drop=0)
    assert both.cost.forwards <= 21
    alone, _ = asked(1, ablations=20, drop=0, statements="answer")
    assert alone.cost.forwards == both.cost.forwards
    torch.testing.assert_close(alone.scores[0], both.whole)
    first, _ = asked(1, ablations=20, drop=0, statements=[(0, 5)])
    torch.testing.assert_close(first.scores[0], both.scores[0])


class Game(nn.Module):
    """Log-odds of word 1 as a function of the tokens that were read."""

    def __init__(self, value):
        super().__init__()
        self.value, self.rows = value, []
        self.exact = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, ids):
        self.rows += ids.tolist()
        odds = torch.tensor([[self.value(row[: i + 1]) for i in range(len(row))] for row in ids.tolist()], dtype=torch.float64)
        return torch.stack([torch.zeros_like(odds), odds], 2)


WORTH = {3: 2.0, 4: -1.0, 5: 0.0, 6: 0.5, 7: 0.0, 8: 3.0}


def additive(row):
    return sum(WORTH.get(token, 0.0) for token in row) - 2.0


def both_or_nothing(row):
    """What no sum can say: exactly one of two."""
    return 4.0 * ((3 in row) != (4 in row)) - 2.0


class Reading(nn.Module):
    """Every word is as likely; what was read is remembered."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def forward(self, ids):
        self.rows += ids.tolist()
        return torch.zeros(*ids.shape, 40)


def sources(value, answer=(1,), **options):
    model = Game(value)
    return model, cite(
        model, None, token_prompt(list(WORTH), stand_in=0), answer=list(answer), seed=0, **{"statements": "token", **options}
    )


def test_additive_log_odds_are_told_exactly():
    _, found = sources(additive, ablations=64, alpha=1e-7)
    torch.testing.assert_close(found.scores[0], torch.tensor(list(WORTH.values()), dtype=torch.float64), atol=1e-3, rtol=0)
    assert float(found.lds[0]) > 0.98
    assert all(check.passed for check in found.health)
    assert found.top(2) == [[(5, pytest.approx(3.0, abs=1e-3)), (0, pytest.approx(2.0, abs=1e-3))]]
    assert found.cited(0) == [0, 5]
    assert found.cited(0, share=0.1) == [0, 3, 5]


@pytest.mark.parametrize("held_out", [0, 12])
@pytest.mark.parametrize("drop", [0, 1, 2])
def test_the_budget_is_kept(held_out, drop):
    model, found = sources(additive, ablations=20, held_out=held_out, drop=drop)
    assert len(model.rows) == len({tuple(row) for row in model.rows}) == found.cost.forwards
    assert found.cost.forwards <= 21 + held_out + (1 + 4) * bool(drop)
    assert (found.drops is None) == (drop == 0)


def test_held_out_ablations_are_predicted_by_the_fit_to_all_others():
    _, found = sources(additive, ablations=30, held_out=20, alpha=0.3)
    from pellucid.seeds import generator

    kept = torch.rand(50, 6, generator=generator(0, 0)) < 0.5
    odds = torch.tensor([[additive([t for t, keep in zip(WORTH, row, strict=True) if keep])] for row in kept.tolist()], dtype=torch.float64)
    fit = sparse_linear(kept[:30], odds[:30], 0.3)
    torch.testing.assert_close(found.scores[0], fit.weights[:, 0], atol=1e-9, rtol=0)
    assert float(found.lds[0]) == pytest.approx(float(datamodeling_score(fit.of(kept[30:]), odds[30:])), abs=1e-9)


def test_what_no_sum_can_say_is_told():
    _, found = sources(both_or_nothing, ablations=64)
    check = next(check for check in found.health if check.name == "lds")
    assert not check.passed
    assert "act together" in check.message
    with pytest.raises(UntrustedResult, match="lds"):
        sources(both_or_nothing, ablations=64, strict=True)


def test_a_statement_that_rests_on_nothing_has_no_citations():
    def value(row):
        return 1.0 if row[-1] == 1 else additive(row)  # the second token is as likely whatever the sources say

    _, found = sources(value, answer=(1, 1))
    assert found.top(3)[1] == []
    assert found.cited(1) == []
    assert bool(found.drops.isnan()[1])
    assert "statement 2" in next(check for check in found.health if check.name == "uncited").message
    assert next(check for check in found.health if check.name == "lds").passed


def test_a_fall_beside_others():
    _, found = sources(additive, ablations=64, alpha=1e-5)

    def log_chance(gone):
        return -math.log1p(math.exp(-additive([t for i, t in enumerate(WORTH) if i != gone])))

    assert float(found.drops[0]) == pytest.approx(log_chance(-1) - log_chance(5))
    assert float(found.rivals[0]) < float(found.drops[0])
    assert next(check for check in found.health if check.name == "drop").passed


def test_a_seed_repeats_it_and_the_random_state_stays():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    prompt, settings = token_prompt(list(WORTH), stand_in=0), {"statements": "token", "ablations": 12, "drop": 0}
    one, same, other = (cite(Game(additive), None, prompt, answer=[1], seed=seed, **settings) for seed in (3, 3, 4))
    assert torch.equal(one.scores, same.scores)
    assert not torch.equal(one.scores, other.scores)
    assert torch.equal(torch.get_rng_state(), before)


# --- prompts


def read(model, tokenizer):
    return [tokenizer.decode([i for i in row if i]) for row in model.rows]


def test_sources_are_taken_out_of_the_text():
    tokenizer = copier.tokenizer()
    model = Reading()
    context = ["Anna likes tea .", "Ben likes jam ."]
    found = cite(model, tokenizer, context, "Who likes tea ?", "tea", ablations=12, statements="token", seed=0)
    assert found.sources == tuple(context)
    texts = set(read(model, tokenizer))
    whole = "Context : Anna likes tea . Ben likes jam . Question : Who likes tea ? Answer :"
    assert whole in texts
    assert whole.replace("Anna likes tea . ", "") in texts
    assert (
        "".join(text for text, _ in found.parts)
        == "Context: Anna likes tea .\n\nBen likes jam .\n\n\n\nQuestion: Who likes tea ?\n\nAnswer:"
    )
    sentences = cite(model, tokenizer, "Anna likes tea . Ben likes jam .", "Who ?", "tea", ablations=8, statements="token", seed=0)
    assert sentences.sources == tuple(context)
    passages = cite(
        model, tokenizer, "Anna likes tea .\n\nBen likes jam . it rains", "Who ?", "tea", units="paragraph", ablations=8, statements="token"
    )
    assert passages.sources == ("Anna likes tea .", "Ben likes jam . it rains")


def test_sources_in_a_message():
    tokenizer = copier.tokenizer(chat=True)
    model = Reading()
    found = cite(model, tokenizer, ["Anna likes tea .", "Ben likes jam ."], "Who ?", "tea", ablations=12, statements="token", seed=0)
    texts = set(read(model, tokenizer))
    # "user" is no word of the tokenizer: it is read as padding.
    assert ": Context : Anna likes tea . Ben likes jam . Question : Who ? Answer :" in texts
    assert ": Context : Ben likes jam . Question : Who ? Answer :" in texts
    assert found.parts[0][1] is None


def test_the_model_stays_as_it_was(tmp_path):
    model = hugging.loaded(hugging.gpt2(tmp_path / "gpt2"), "GPT2LMHeadModel").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = cite(model, hugging.byte_level(), "the film was bad . anna made it .", "who ?", " anna", ablations=6, seed=0)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not next(check for check in found.health if check.name == "mode").passed


def test_refusals():
    tokenizer, model = copier.tokenizer(), Game(additive)

    def ask(context="Anna likes tea .", question="Who ?", **options):
        return cite(model, tokenizer, context, question, [1], **{"statements": "token", **options})

    for options, says in (
        ({"ablations": 3}, "ablations is 3; give at least 4"),
        ({"keep": 1.0}, "keep is 1.0"),
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"held_out": 2}, "held_out is 2"),
        ({"drop": -1}, "drop is -1"),
        ({"units": "token"}, "units is 'token'"),
    ):
        with pytest.raises(OptionError, match=says):
            ask(**options)
    with pytest.raises(InputError, match=r"have \{context\}"):
        ask(template="{question}")
    with pytest.raises(InputError, match=r"and \{question\}"):
        ask(template="{context}")
    with pytest.raises(InputError, match="no sources"):
        ask(context="  ")
    with pytest.raises(OptionError, match="leave question"):
        ask(context=token_prompt([3, 4], stand_in=0))


# --- records


def test_everything_is_written_and_read(tmp_path):
    found, _ = asked(0, ablations=16)
    again = Citations.load(found.save(tmp_path / "told.json"))
    for name in ("scores", "whole", "probabilities", "lds", "drops", "rivals"):
        torch.testing.assert_close(getattr(again, name), getattr(found, name), equal_nan=True)
    assert (again.sources, again.statements, again.spans, again.parts) == (found.sources, found.statements, found.spans, found.parts)
    assert again.health == found.health
    assert json.loads(found.to_json())["format"] == "pellucid-citations-1"
    with pytest.raises(FileError, match="is not a pellucid-citations-1"):
        Citations.from_json("{}")
    with pytest.raises(OptionError, match="end it with"):
        found.save(tmp_path / "told.md")
    with pytest.raises(InputError, match="it is \\(1, 2\\)"):
        Citations(("a", "b"), ("c",), torch.ones(2, 1), torch.ones(2), torch.ones(1), torch.ones(1))
    with pytest.raises(InputError, match="not one of the 2"):
        found.cited(2)
    with pytest.raises(OptionError, match="at least 1"):
        found.top(0)


def test_the_flat_record():
    found, _ = asked(0, ablations=16)
    flat = found.flat()
    assert (flat.units, flat.tokens, flat.measure) == (found.sources, found.statements, "log-odds")
    assert torch.equal(flat.matrix, found.scores)
    assert flat.draw().axes


def test_every_number_on_the_page_leads_to_a_source_and_back():
    found, truth = asked(0)
    page = found.html()
    assert "<script" not in page
    ids, links = re.findall(r'id="([^"]+)"', page), re.findall(r'href="#([^"]+)"', page)
    assert len(ids) == len(set(ids)) == len(found.sources) + len(found.statements)
    assert set(links) <= set(ids)
    for statement, source in enumerate(truth):
        assert re.search(rf'id="[^"]*-a{statement}">[^<]*</span><span class="marks"><a href="#[^"]*-s{source}"', page)
        assert re.search(rf'<li id="[^"]*-s{source}">.*?href="#[^"]*-a{statement}"', page)
    evil = Citations(("<b>x</b>",), ("<i>",), torch.ones(1, 1), torch.ones(1), torch.ones(1), torch.ones(1))
    assert "<b>x" not in evil.html()
    assert "<i>" not in evil.html()


def test_figures_and_terminals():
    found, truth = asked(0)
    figure = found.draw()
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    for statement, source in enumerate(truth):
        assert any(text.startswith(found.statements[statement]) for text in texts)
        assert f"[{source + 1}]" in texts
        assert found.sources[source] in texts
    figure.canvas.draw()
    for text in (text for axes in figure.axes for text in axes.texts):
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
    lines = str(terminal(found)).splitlines()
    assert any(f"[{truth[0] + 1}] +" in line for line in lines)
    nothing = Citations(("a",), ("b",), -torch.ones(1, 1), -torch.ones(1), torch.ones(1), torch.full((1,), math.nan))
    assert "rests on none" in str(terminal(nothing))
    assert nothing.draw().axes
    with pytest.raises(OptionError, match="shows no source"):
        found.draw(0)
