"""From coarse to fine: parts that add up, values against all orders, budgets, planted truth, pictures, refusals."""

from __future__ import annotations

import itertools
import json
import math
import re

import pytest
import torch
from torch import nn

from pellucid.errors import FileError, InputError, OptionError, UntrustedResult
from pellucid.language import text_prompt, token_prompt
from pellucid.language.hierarchy import explain_hierarchy
from pellucid.language.tree import Hierarchy, Node
from pellucid.show.nested import lines_of, terminal

from . import copier

pytest.importorskip("transformers")


class Game(nn.Module):
    """A language model of two words whose log-probability of word 1 is a given function of the tokens that it has read."""

    def __init__(self, value):
        super().__init__()
        self.value, self.rows, self.asked = value, 0, []
        self.exact = nn.Parameter(torch.zeros(1, dtype=torch.float64))  # says that it computes in double precision

    def forward(self, ids):
        self.rows += len(ids)
        self.asked += [tuple(row) for row in ids.tolist()]
        scores = torch.tensor([[self.value(tuple(row[: i + 1])) for i in range(len(row))] for row in ids.tolist()], dtype=torch.float64)
        return torch.stack([torch.log(-torch.expm1(scores)), scores], 2)


def additive(row):
    return -5.0 + 0.1 * sum(token for token in row)


TERMS = {(3, 4, 7): 2.0, (5, 7, 8): 1.0, (3, 5, 6): 1.5, (3, 7): 0.5, (4, 5, 6): -0.25, (6,): 0.1}


def together(row):
    """Some tokens are worth something together, in twos and threes."""
    return -8.0 + sum(worth for tokens, worth in TERMS.items() if set(tokens) <= set(row))


PROMPT, HALVES, QUARTERS = (3, 4, 5, 6, 7, 8), [0, 0, 0, 1, 1, 1], [0, 0, 1, 2, 2, 3]


def asked(value, **options):
    model = Game(value)
    prompt = token_prompt(PROMPT, stand_in=0)
    found = explain_hierarchy(
        model, None, prompt, [1], **{"levels": {"half": HALVES, "quarter": QUARTERS}, "seed": 0, "least": 0.0, **options}
    )
    return model, found


def score(value, kept):
    return value(tuple(token if i in kept else 0 for i, token in enumerate(PROMPT)))


def pieces(tree):
    return {(node.level, node.units): node for _, node in tree.walk()}


# --- laws


@pytest.mark.parametrize("orders", [2, 6])
def test_parts_add_up_to_their_piece_at_every_level(orders):
    _, found = asked(together, orders=orders, evaluations=500)
    for _, node in found.tree.walk():
        if node.children:
            assert node.value == pytest.approx(sum(child.value for child in node.children), abs=1e-12)
            for token, value in enumerate(node.values):
                assert value == pytest.approx(sum(child.values[token] for child in node.children), abs=1e-12)
    assert found.tree.value == pytest.approx(score(together, range(6)) - score(together, ()), abs=1e-12)
    assert [leaf.units for leaf in found.tree.leaves()] == [(i,) for i in range(6)]
    assert found.gap() < 1e-12
    assert next(check for check in found.health if check.name == "additivity").passed


@pytest.mark.parametrize("method", ["owen", "feature_ablation"])
def test_where_nothing_acts_together_values_are_what_units_add(method):
    _, found = asked(additive, method=method)
    for (_, units), node in pieces(found.tree).items():
        assert node.value == pytest.approx(0.1 * sum(PROMPT[i] for i in units), abs=1e-9)
        if method == "owen" and node is not found.tree:
            assert node.error == pytest.approx(0.0, abs=1e-9)


def orders_of(groups):
    """Every order of units in which those of a group come one after another, at every level; groups are nested tuples."""
    if isinstance(groups, int):
        return [(groups,)]
    found = []
    for order in itertools.permutations(groups):
        found += [sum(parts, ()) for parts in itertools.product(*map(orders_of, order))]
    return found


def test_values_are_means_over_all_orders_that_keep_pieces_together():
    nested = (((0, 1), 2), ((3, 4), 5))
    every = orders_of(nested)
    assert len(every) == 2 * (2 * 2) * (2 * 2)
    exact = torch.zeros(6, dtype=torch.float64)
    for order in every:
        for place, unit in enumerate(order):
            exact[unit] += (score(together, order[: place + 1]) - score(together, order[:place])) / len(every)
    _, found = asked(together, orders=512, evaluations=10**6)
    leaves = list(found.tree.leaves())
    for unit, leaf in enumerate(leaves):
        assert abs(leaf.value - float(exact[unit])) <= 4 * leaf.error + 1e-9
    assert sum(abs(leaf.value - float(exact[leaf.units[0]])) for leaf in leaves) < 0.05 * float(exact.abs().sum())
    halves = pieces(found.tree)
    for units in ((0, 1, 2), (3, 4, 5)):
        assert halves["half", units].value == pytest.approx(float(exact[list(units)].sum()), abs=1e-9)  # two orders: exact
    assert max(leaf.error for leaf in leaves) > 0


def test_standard_errors_are_what_seeds_differ_by():
    found = [asked(together, orders=8, evaluations=10**5, seed=seed)[1] for seed in range(40)]
    values = torch.tensor([[leaf.value for leaf in one.tree.leaves()] for one in found])
    told = torch.tensor([[leaf.error for leaf in one.tree.leaves()] for one in found]).square().mean(0).sqrt()
    moved = values.std(0)
    some = moved > 0.02
    assert int(some.sum()) >= 3
    assert bool((told[some] / moved[some] > 0.6).all())
    assert bool((told[some] / moved[some] < 1.7).all())


def test_ablation_is_the_fall_without_a_piece():
    _, found = asked(together, method="feature_ablation")
    for (level, units), node in pieces(found.tree).items():
        if level != "prompt":
            expected = score(together, range(6)) - score(together, set(range(6)) - set(units))
            assert node.value == pytest.approx(expected, abs=1e-9)
    assert not math.isfinite(found.tree.children[0].error)
    check = next(check for check in found.health if check.name == "additivity")
    assert check.passed
    assert "without a law" in check.message


def test_a_piece_of_one_part_is_not_divided_for_nothing():
    model = Game(additive)
    levels = {"one": [0] * 6, "alone": [0, 0, 0, 0, 0, 1]}
    found = explain_hierarchy(model, None, token_prompt(PROMPT, stand_in=0), [1], levels=levels, seed=0)
    assert [child.level for child in found.tree.children] == ["alone", "alone"]
    assert found.tree.children[1].children == ()


# --- budgets


@pytest.mark.parametrize("method", ["owen", "feature_ablation"])
@pytest.mark.parametrize("evaluations", [4, 5, 9, 14, 23, 40, 64, 100])
def test_no_more_is_asked_than_allowed(method, evaluations):
    model, found = asked(together, method=method, evaluations=evaluations)
    assert found.evaluations == model.rows == len(set(model.asked)) == found.cost.forwards
    assert model.rows <= evaluations


def test_all_that_is_worth_it_is_looked_into_if_the_budget_lasts():
    assert asked(together, method="feature_ablation", evaluations=12)[1].evaluations <= 12
    _, found = asked(together, method="feature_ablation", evaluations=100)
    assert found.evaluations == 2 + 2 + 4 + 4  # the ends, the halves, two parts of each, two words of each pair
    assert len(list(found.tree.leaves())) == 6


def test_weak_pieces_stay_closed():
    def one(row):
        return -3.0 + 2.0 * (4 in row) + 0.001 * (7 in row)

    _, found = asked(one, least=0.01, method="feature_ablation")
    opened = {node.units for _, node in found.tree.walk() if node.children}
    assert opened == {tuple(range(6)), (0, 1, 2), (0, 1)}
    assert "too weak" in next(check for check in found.health if check.name == "budget").message


def test_what_is_left_goes_into_further_orders():
    def error(evaluations):
        leaves = asked(together, evaluations=evaluations)[1].tree.leaves()
        return sum(leaf.error for leaf in leaves)

    assert asked(together, evaluations=64)[1].evaluations > asked(together, evaluations=24)[1].evaluations
    assert error(64) < error(24)


def test_stand_ins_are_meant_and_counted():
    model = Game(additive)
    prompt = token_prompt(PROMPT, stand_in=(0, 2))
    found = explain_hierarchy(model, None, prompt, [1], levels={"half": HALVES}, seed=0, evaluations=60)
    assert found.evaluations == model.rows <= 60
    for leaf in found.tree.leaves():
        assert leaf.value == pytest.approx(0.1 * (sum(PROMPT[i] for i in leaf.units) - len(leaf.units)), abs=1e-9)


def test_a_seed_repeats_it():
    one, same, other = (asked(together, orders=4, seed=seed)[1].tree for seed in (3, 3, 4))
    assert one == same
    assert one != other


# --- planted truth


@pytest.mark.parametrize("method", ["owen", "feature_ablation"])
def test_what_is_copied_is_found_from_coarse_to_fine(method):
    """Of four passages with two facts each one holds the answer: it is opened first, and its sentence is the strongest."""
    model, tokenizer = copier.Copier(sharp=6.0), copier.tokenizer()
    hits = {"passage": 0, "sentence": 0}
    for seed in range(10):
        facts = copier.facts(8, seed)
        name, thing = facts[seed % 8]
        sentences = [f"{n} likes {t} ." for n, t in facts]
        text = "\n\n".join(" ".join(sentences[i : i + 2]) for i in range(0, 8, 2))
        options = {"levels": ("passage", "sentence"), "method": method, "evaluations": 60, "seed": seed, "stand_in": "<pad>"}
        found = explain_hierarchy(model, tokenizer, f"{text}\n\n{name} likes", thing, **options)
        passages = found.tree.children[:4]
        best = max(range(4), key=lambda i: passages[i].value)
        hits["passage"] += best == seed % 8 // 2
        inside = passages[best].children
        hits["sentence"] += bool(inside) and max(inside, key=lambda node: node.value).text.split()[:3] == [name, "likes", thing]
    assert hits["passage"] >= 8  # 2.5 by chance
    assert hits["sentence"] >= 8  # 1.25 by chance


def test_levels_of_texts():
    model, tokenizer = copier.Copier(), copier.tokenizer()
    texts = ["Anna likes tea . Ben likes jam .\n", "Cleo likes figs .\n", "Ben likes"]
    found = explain_hierarchy(model, tokenizer, texts, "jam", seed=0, stand_in="<pad>", least=0.0)
    assert found.levels == ("document", "sentence", "word")
    assert [child.level for child in found.tree.children] == ["document"] * 3
    assert [child.text for child in found.tree.children[0].children] == ["Anna likes tea .", "Ben likes jam ."]
    words = found.tree.children[2].children
    assert [(word.level, word.text) for word in words] == [("word", "Ben"), ("word", "likes")]
    assert found.tree.text == "Anna likes tea . Ben likes jam . Cleo likes figs . Ben likes"


def test_levels_of_messages():
    model, tokenizer = copier.Copier(), copier.tokenizer(chat=True)
    messages = [{"role": "Context", "content": "Anna likes tea . Ben likes jam ."}, {"role": "Question", "content": "Ben likes"}]
    found = explain_hierarchy(model, tokenizer, messages, "jam", seed=0, stand_in="it", evaluations=80)
    assert found.levels == ("message", "sentence", "word")
    assert [child.text for child in found.tree.children] == ["Anna likes tea . Ben likes jam .", "Ben likes"]
    assert found.gap() < 1e-5


def test_a_contrast():
    model, tokenizer = copier.Copier(sharp=6.0), copier.tokenizer()
    text = "Anna likes tea . Ben likes jam .\n\nBen likes"
    found = explain_hierarchy(
        model, tokenizer, text, "jam", against="tea", levels=("sentence",), method="feature_ablation", stand_in="<pad>"
    )
    assert found.tree.values == ()
    assert found.flat().matrix is None
    assert found.tree.children[1].value > abs(found.tree.children[0].value)


# --- records


def test_the_flat_record():
    _, found = asked(together, evaluations=30, method="feature_ablation")
    flat = found.flat()
    leaves = list(found.tree.leaves())
    assert flat.units == tuple(leaf.text for leaf in leaves)
    assert flat.sequence.tolist() == [leaf.value for leaf in leaves]
    assert flat.matrix.tolist() == [[leaf.values[0] for leaf in leaves]]
    assert flat.health == found.health
    assert flat.draw().axes
    model, tokenizer = copier.Copier(), copier.tokenizer()
    text = "Anna likes tea .\n\nBen likes"
    told = explain_hierarchy(model, tokenizer, text, "tea", levels=("passage", "word"), evaluations=4, seed=0)
    assert told.flat().units == ("Anna likes tea .", "Ben likes")
    assert {unit for _, unit in told.flat().parts} <= {0, 1, None}


def test_everything_is_written_and_read(tmp_path):
    _, found = asked(together)
    again = Hierarchy.load(found.save(tmp_path / "told.json"))
    assert again.tree == found.tree
    assert again.health == found.health
    assert (again.levels, again.tokens, again.evaluations, again.cost) == (found.levels, found.tokens, found.evaluations, found.cost)
    _, without = asked(together, method="feature_ablation")
    again = Hierarchy.from_json(without.to_json())
    assert math.isnan(again.tree.error)
    assert json.loads(without.to_json())["tree"]["error"] == "NaN"
    for wrong in ("{}", "[", '{"format": "other"}'):
        with pytest.raises(FileError, match="is not a pellucid-hierarchy-1"):
            Hierarchy.from_json(wrong)
    with pytest.raises(FileError, match="cannot read"):
        Hierarchy.load(tmp_path / "nothing.json")
    with pytest.raises(OptionError, match="end it with"):
        found.save(tmp_path / "told.txt")


def wide(count=12):
    sentences = tuple(Node(f"sentence {i}", "sentence", (i,), float(i) - 3, (), 0.1) for i in range(count))
    words = (Node("one", "word", (20,), 1.5), Node(" two", "word", (21,), -0.5))
    opened = Node("one two", "sentence", (20, 21), 1.0, (), math.nan, words)
    whole = Node("all", "prompt", tuple(range(22)), 40.0, (), math.nan, (*sentences, opened))
    return Hierarchy(whole, ("sentence", "word"), ("jam",), (0.5,), evaluations=30)


def test_lines_show_the_strongest_and_the_rest_together():
    told = wide()
    lines = lines_of(told, 5)
    shown = [line for line in lines if not line.left_out]
    rest = next(line for line in lines if line.left_out)
    assert {line.nodes[0].text for line in shown} == {f"sentence {i}" for i in (7, 8, 9, 10, 11)}
    assert sum(line.value for line in lines) == pytest.approx(sum(node.value for node in told.tree.children))
    assert rest.left_out == 8
    assert len(lines_of(told, 40)) == 13


def test_figures_say_what_there_is():
    told = wide()
    figure = told.draw()
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    for node in told.tree.children:
        assert node.text in texts or node.children
    assert {"one", "two"} <= set(texts)
    assert "+8.00" in texts
    figure.canvas.draw()
    for text in (text for axes in figure.axes[:-1] for text in axes.texts):
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1 + 1


def test_pages_hold_every_piece_and_no_scripts():
    told = wide()
    page = told.html()
    assert "<script" not in page
    for _, node in told.tree.walk():
        assert node is told.tree or node.children or node.text.strip() in page
    assert page.count("<details") == page.count("</details>")
    _, found = asked(together, levels={"half": HALVES})
    assert "budget" in found.html()
    evil = Hierarchy(Node("<b>", "prompt", (0,), 1.0, (), 0.0, (Node("<i>x</i>", "sentence", (0,), 1.0),)), ("sentence",), ("<u>",))
    assert "<i>x" not in evil.html()
    assert "<u>" not in evil.html()


def test_terminals_indent():
    lines = str(terminal(wide())).splitlines()
    assert any(re.match(r" *\+8.00 +sentence 11", line) for line in lines)
    assert any("one two" in line for line in lines)


# --- what is told, and refused


def test_health_of_a_small_budget_says_so():
    _, found = asked(together, orders=2)
    spread = next(check for check in found.health if check.name == "spread")
    assert not spread.passed
    with pytest.raises(UntrustedResult, match="spread"):
        asked(together, orders=2, strict=True)


def test_refusals():
    prompt = token_prompt(PROMPT, stand_in=0)
    for options, says in (
        ({"method": "lime"}, "choose one of 'owen', 'feature_ablation'"),
        ({"scale": "logit"}, "scale is 'logit'"),
        ({"evaluations": 2}, "first level take"),
        ({"orders": 3}, "even number"),
        ({"orders": 4, "method": "feature_ablation"}, "no orders"),
    ):
        with pytest.raises(OptionError, match=says):
            explain_hierarchy(Game(additive), None, prompt, [1], levels={"half": HALVES}, **options)
    with pytest.raises(InputError, match="3 ids for 6 units"):
        explain_hierarchy(Game(additive), None, prompt, [1], levels={"half": [0, 0, 1]})
    with pytest.raises(OptionError, match="coarse ones first"):
        explain_hierarchy(Game(additive), copier.tokenizer(), "Anna likes", [1], levels=("word", "passage"))
    with pytest.raises(OptionError, match="one piece only"):
        explain_hierarchy(Game(additive), None, token_prompt([3], stand_in=0), [1], levels={"all": [0]})
    ready = text_prompt("Anna likes tea", copier.tokenizer())
    with pytest.raises(OptionError, match="already"):
        explain_hierarchy(Game(additive), copier.tokenizer(), ready, [1], levels=("sentence", "word"))
    with pytest.raises(OptionError, match="as a mapping"):
        explain_hierarchy(Game(additive), copier.tokenizer(), ready, [1])
