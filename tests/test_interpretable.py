"""What can be taken away from a prompt, and what a generated text rests on: laws, refusals, figures, pages, JSON."""

import itertools
import json
import math
import random
import re
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from pellucid import Check, Cost, FileError, InputError, OptionError, PellucidWarning, Provenance
from pellucid.captum.attr import ProductBaselines
from pellucid.captum.attr.interpretable import ImageMaskInput, TextTemplateInput, TextTokenInput
from pellucid.captum.attr.llm_result import LLMAttributionResult
from pellucid.language.interpretable import Template, Tokens, presence
from pellucid.language.result import PROBABILITY, Generated
from pellucid.perturb.regions import Regions
from pellucid.show.label import labels, rests_on
from pellucid.show.numbers import number
from pellucid.show.style import CARD
from pellucid.show.transcript import LEVELS, MODES, shades

# --- presence


def test_a_presence_is_of_zeros_and_ones():
    for given in ([1.0, 0.0], [[1, 0]], [[True, False]]):
        assert presence(torch.tensor(given), 2).tolist() == [[True, False]]
    for wrong in (torch.ones(3), torch.ones(1, 1), torch.ones(1, 1, 2)):
        with pytest.raises(InputError, match="2 units"):
            presence(wrong, 2)
    for wrong in (0.5, -1.0, math.nan):
        with pytest.raises(InputError, match="0 and 1"):
            presence(torch.tensor([1.0, wrong]), 2)


# --- templates


def test_what_a_template_writes_is_the_format_of_what_is_there():
    values, fills = {"who": "Ann", "what": "tea"}, {"who": "someone", "what": "something"}
    prompt = Template.of("{who} likes {what}; {who}!", values, fills)
    for present in itertools.product((False, True), repeat=2):
        held = {name: (values if there else fills)[name] for name, there in zip(values, present, strict=True)}
        assert prompt.text(present) == "{who} likes {what}; {who}!".format(**held)


def test_units_come_in_the_order_of_their_ids_however_these_are_hashed():
    prompt = Template.of("{}{}{}", ["a", "b", "c"], ["x", "y", "z"], [64, 1, 33])
    assert prompt.unit_of == (2, 0, 1)
    assert prompt.text([False, True, True]) == "ayc"
    assert Template.of("{}{}", ["a", "b"], None, ["second", "first"]).unit_of == (1, 0)
    with pytest.raises(InputError, match="ordered"):
        Template.of("{}{}", ["a", "b"], None, [1, "x"])


@pytest.mark.parametrize(
    ("form", "values", "says"),
    [
        ("no fields", ["a"], "no fields"),
        ("no {{fields}}", {"a": "b"}, "no fields"),
        ("", ["a"], "no fields"),
        ("{} {}", ["a"], "by place"),
        ("{a} {b}", {"a": "x"}, "{b}"),
        ("{0} {}", ["a", "b"], "cannot be filled"),
        ("{a", {"a": "x"}, "cannot be filled"),
        ("{a.size}", {"a": "x"}, "cannot be filled"),
        ("{:d}", ["x"], "cannot be filled"),
        ("{}", [], "empty"),
        ("{}", {}, "empty"),
        ("{}", 5, "values is a int"),
        ("{a}", {1: "x"}, "key 1"),
        (None, ["a"], "template"),
    ],
)
def test_templates_that_cannot_be_filled_are_refused(form, values, says):
    with pytest.raises(InputError, match=re.escape(says)):
        Template.of(form, values)


def test_values_that_no_field_uses_are_told():
    with pytest.warns(PellucidWarning, match="'b'.*only be 0") as told:
        prompt = Template.of("{a}", {"a": "x", "b": "y"})
    assert told[0].message.code == "unused"
    assert prompt.text([True, False]) == prompt.text()


def test_fills_that_are_drawn_are_drawn_for_every_text_and_only_then():
    calls = []

    def drawn():
        calls.append(1)
        return [f"x{len(calls)}"]

    prompt = Template.of("{}", ["a"], drawn)
    assert (prompt.text(), prompt.text([False]), prompt.text([False]), len(calls)) == ("a", "x1", "x2", 2)
    with pytest.raises(InputError, match="2 entries"):
        prompt.text([True, True])
    for wrong in (lambda: ["x", "y"], lambda: "x", lambda: {"a": "x"}, lambda: None):
        with pytest.raises(InputError, match="baselines"):
            Template.of("{}", ["a"], wrong).text([False])
    random.seed(3)
    before = random.getstate()
    TextTemplateInput("{}", ["a"], ProductBaselines([["x", "y"]])).to_model_input()
    assert random.getstate() == before


@pytest.mark.parametrize(
    ("form", "values"),
    [
        ("{} feels {} {{now}}", ["He", "low"]),
        ("{1}{0}", ["a", "b"]),
        ("{a!r:>6}|{b}|{a}", {"a": "x", "b": "y\n"}),
        ("{a[0]}{b[k]}", {"a": "xyz", "b": {"k": "v"}}),
        ("{:>5}{}", ["a", ""]),
    ],
)
def test_the_parts_of_a_template_are_its_text(form, values):
    prompt = Template.of(form, values)
    parts = prompt.parts()
    assert "".join(text for text, _ in parts) == prompt.text()
    for unit in range(prompt.units):
        # What stands without a unit is what its absence leaves.
        assert all(text in prompt.text([u != unit for u in range(prompt.units)]) for text, own in parts if own is None)
    assert {unit for _, unit in parts if unit is not None} <= set(range(prompt.units))


def test_parts_name_units_or_segments():
    prompt = Template.of("{} and {}", ["a", "b"], None, [7, 7])
    assert prompt.parts() == (("a", 0), (" and ", None), ("b", 0))
    assert prompt.parts(by_segment=True) == (("a", 0), (" and ", None), ("b", 1))
    assert Template.of(lambda a: a, ["x"]).parts() == ()
    assert Template.of("{:{}}", ["x", 5]).parts() == ()


def test_several_rows_are_refused_where_one_text_is_made():
    text = TextTemplateInput("{}", ["a"])
    image = ImageMaskInput(Image.new("RGB", (2, 2)))
    for given in (text, image):
        with pytest.raises(InputError, match="2 rows"):
            given.to_model_input(torch.ones(2, 1))


def test_the_engines_prompt_has_the_same_units_and_texts():
    values, fills = {"a": "x", "b": "y", "c": "z"}, {"a": "1", "b": "2", "c": "3"}
    prompt = Template.of("{c}-{a}-{b}", values, fills, {"a": 9, "b": 4, "c": 9})
    found = prompt.prompt(None)
    assert found.labels == ("y", "x z")
    for present in itertools.product((False, True), repeat=2):
        assert found.text([int(not there) for there in present]) == prompt.text(present)
    drawn = Template.of("{}", ["a"], lambda: [random.choice("xyz")]).prompt(None, draws=4)
    assert drawn.stand_ins == 4


# --- tokens


class Words:
    """A tokenizer of words, with and without a sign for those that it does not know."""

    unk_token, unk_token_id = "?", 0

    def __init__(self, *words):
        self.words = [self.unk_token, *words]

    def encode(self, text, return_tensors=None):
        return torch.tensor([[self.words.index(word) if word in self.words else 0 for word in text.split()]], dtype=torch.long)

    def convert_tokens_to_ids(self, tokens):
        return [self.words.index(token) if token in self.words else self.unk_token_id for token in tokens]

    def convert_ids_to_tokens(self, ids):
        return [self.words[i] for i in ids]

    def decode(self, ids):
        return " ".join(self.convert_ids_to_tokens(ids))


def test_tokens_are_replaced_in_place():
    words = Words("the", "sun", "is", "red")
    prompt = Tokens.of("the sun is red", words, "?", ["the", 3])
    for present in itertools.product((0, 1), repeat=2):
        (row,) = prompt.given(torch.tensor([present])).tolist()
        assert row == [1, 2 if present[0] else 0, 3, 4 if present[1] else 0]
    every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=2)))
    assert torch.equal(prompt.given(every), torch.cat([prompt.given(row[None]) for row in every]))
    rows = prompt.prompt(words).rows([(0, 0), (0, 1), (1, 0), (1, 1)])
    assert rows == [tuple(row) for row in prompt.given(1 - torch.tensor(list(itertools.product((0, 1), repeat=2)))).tolist()]


def test_texts_without_tokens_and_baselines_that_are_none_are_refused():
    words = Words("a", "b")
    with pytest.raises(InputError, match="no tokens"):
        TextTokenInput("", words)
    with pytest.raises(InputError, match="keeps all"):
        TextTokenInput("a b", words, skip_tokens=["a", "b"])
    for wrong in ("[MASK]", -1):
        with pytest.raises(OptionError, match="baselines"):
            TextTokenInput("a b", words, baselines=wrong)
    words.unk_token_id = None
    with pytest.raises(OptionError, match="'c'"):
        TextTokenInput("a b", words, baselines="c")


def test_a_token_to_skip_that_is_unknown_skips_nothing_and_is_told():
    # Its id would be that of every other unknown word.
    with pytest.warns(PellucidWarning, match="'<s>'"):
        text = TextTokenInput("a z b", Words("a", "b"), skip_tokens=["<s>", "b"])
    assert text.values == ["a", "?"]
    assert TextTokenInput("a z b", Words("a", "b"), skip_tokens=["?"]).values == ["a", "b"]


# --- regions


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "I;16", "F", "CMYK"])
def test_regions_are_painted_over_in_every_mode(mode):
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 200, (4, 6, 3), dtype=np.uint8))
    image = Image.fromarray(np.arange(24, dtype=np.uint16).reshape(4, 6)) if mode == "I;16" else noise.convert(mode)
    places = torch.arange(24).view(4, 6) % 3
    regions = Regions.of(image, places, colour=(255, 255, 255))
    before = np.asarray(image).copy()
    found = regions.image([True, False, True])
    assert found.mode == ("RGB" if mode == "P" else mode)
    start = np.asarray(image.convert("RGB") if mode == "P" else image)
    kept = (places != 1).numpy()
    assert np.array_equal(np.asarray(found)[kept], start[kept])
    white = Image.new("RGB", (1, 1), (255, 255, 255)).convert(found.mode)
    assert (np.asarray(found)[~kept] == np.asarray(white)[0, 0]).all()
    assert np.array_equal(np.asarray(image), before)
    assert np.array_equal(np.asarray(regions.image([True] * 3)), start)


def test_arrays_and_tensors_are_images():
    array = np.random.default_rng(2).integers(0, 255, (3, 4, 3), dtype=np.uint8)
    for given in (array, array / 255, torch.tensor(array).movedim(2, 0), array[..., 0]):
        found = ImageMaskInput(given, processor_fn=np.asarray)
        assert np.array_equal(found.to_model_input(), array if np.ndim(given) == 3 else array[..., 0])
        assert (found.to_model_input(torch.zeros(1, 1)) == 255).all()
    for wrong in ("picture.png", np.zeros(5), None):
        with pytest.raises(InputError, match="image"):
            ImageMaskInput(wrong)


def test_masks_that_are_no_masks_and_colours_that_are_none_are_refused():
    image = Image.new("RGB", (4, 2))
    with pytest.raises(InputError, match="mask_list is empty"):
        ImageMaskInput(image, mask_list=[])
    with pytest.raises(InputError, match="whole"):
        ImageMaskInput(image, torch.full((2, 4), 0.5))
    for colour in ((0, 0), (0, 0, 256), (0, 0, 0, 0), -1):
        with pytest.raises(OptionError, match="baseline"):
            ImageMaskInput(image, baseline=colour)
    assert (np.asarray(ImageMaskInput(image, baseline=7).to_model_input(torch.zeros(1, 1))) == 7).all()
    with pytest.raises(InputError, match="2 regions"):
        Regions.of(image, [[0, 0, 1, 1]] * 2).spread(torch.ones(3))
    with pytest.raises(OptionError, match="border_width"):
        ImageMaskInput(image).plot_mask_overlay(border_width=-1)


def test_pixels_have_the_sum_of_the_regions_that_they_are_in():
    masks = [torch.rand(5, 6) < 0.5 for _ in range(3)]
    regions = Regions.of(Image.new("RGB", (6, 5)), masks=masks)
    values = torch.randn(2, 4, 3, dtype=torch.float64)
    found = regions.spread(values)
    for place in itertools.product(range(2), range(4), range(5), range(6)):
        known = sum(float(values[place[0], place[1], i]) for i, mask in enumerate(masks) if mask[place[2:]])
        assert float(found[place]) == pytest.approx(known, abs=1e-12)
    assert found.dtype == values.dtype
    lost = regions.spread(torch.tensor([math.nan, 1.0, 2.0]))
    assert torch.equal(lost.isnan(), masks[0])  # what is not finite stays where it is


def test_drawing_regions_moves_no_random_numbers_and_leaves_the_image():
    from matplotlib import pyplot

    image = ImageMaskInput(Image.fromarray(np.full((6, 6, 3), 90, np.uint8)), torch.arange(36).view(6, 6) // 12)
    state = np.random.get_state()[1].copy()
    image.plot_mask_overlay(border_width=1)
    assert np.array_equal(np.random.get_state()[1], state)
    assert (np.asarray(image.image) == 90).all()
    pyplot.close("all")


# --- what a generated text rests on

NAN, INF = math.nan, math.inf
NASTY = (
    "<script>alert(1)</script>",
    '"onmouseover="x',
    "</style>",
    "&amp;",
    "'",
    "{}",
    "\u0120caf",
    "\u00c3\u00a9",
    "",
    "\u010a",
    "[SEP]",
    "a</button>",
)


def made(units=5, tokens=4, seed=0, names=(), **options):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(tokens, units, generator=generator, dtype=torch.float64)
    given = {
        "units": names or tuple(f"u{i}" for i in range(units)),
        "tokens": tuple(f"t{i}" for i in range(tokens)),
        "sequence": matrix.sum(0),
        "matrix": matrix,
        "probabilities": torch.linspace(0.1, 1.0, tokens, dtype=torch.float64),
    }
    return Generated(**(given | options))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sequence": torch.ones(4)}, "sequence has shape"),
        ({"matrix": torch.ones(5, 4)}, "matrix has shape"),
        ({"probabilities": torch.ones(5)}, "probabilities has shape"),
        ({"parts": (("a", 5),)}, "unit 5"),
    ],
)
def test_records_that_do_not_fit_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        made(**options)


def test_the_strongest_are_the_largest_magnitudes():
    told = made(matrix=torch.tensor([[0.0, -3.0, 1.0, NAN, INF]] * 4))
    assert told.strongest(0) == [(1, -3.0), (2, 1.0)]
    assert told.strongest(None, 2) == sorted(enumerate(told.sequence.tolist()), key=lambda pair: -abs(pair[1]))[:2]
    with pytest.raises(InputError, match="token=4"):
        told.of(4)
    with pytest.raises(OptionError, match="single tokens"):
        made(matrix=None).of(0)


def test_a_row_is_an_explanation():
    told = made(health=(Check("completeness", True, "adds up"),), cost=Cost(3))
    one = told.explanation(1)
    assert torch.equal(one.attribution[0], told.matrix[1])
    assert one.scores.item() == pytest.approx(math.log(told.probabilities[1]))
    assert told.explanation().scores.item() == pytest.approx(sum(math.log(p) for p in told.probabilities))
    assert made(measure=PROBABILITY).explanation().scores.item() == pytest.approx(math.prod(told.probabilities.tolist()))
    assert made(probabilities=None).explanation().scores.isnan().all()
    assert one.display.names == told.units
    assert one.check("completeness").passed
    assert one.draw() is not None


def test_labels_are_what_people_write():
    tokens = ("[CLS]", "\u0120the", "sun", "\u0120", "\u010a", "\u0120caf", "\u00c3", "\u00a9", "")
    found = labels(tokens)
    assert [label.text for label in found] == ["[CLS]", "the", "sun", "␣", "↵", "caf", "\u00c3", "é", "␣"]
    assert [label.spaced for label in found][:4] == [True, True, False, True]
    assert [label.special for label in found] == [True, *[False] * 8]
    assert [label.spaced for label in labels(["un", "##able"])] == [True, False]
    decoded = labels(["The", " sun", "ny", " ", "\n", " \n", "a ", "b", "[SEP]"])
    assert [label.text for label in decoded] == ["The", "sun", "ny", "␣", "↵", "↵", "a", "b", "[SEP]"]
    assert [label.spaced for label in decoded] == [False, True, False, True, True, True, False, True, False]
    assert "sunny" in str(made(3, names=("The", " sun", "ny")).__rich__())
    assert [(label.text, label.spaced) for label in labels(["Palm Coast", "FL"])] == [("Palm Coast", True), ("FL", True)]


# --- JSON


def test_json_keeps_everything(tmp_path):
    told = made(
        len(NASTY),
        2,
        names=NASTY,
        method="shapley",
        measure=PROBABILITY,
        parts=(("Say ", None), ("it", 3), ("\n", None)),
        options={"samples": 5, "baseline": "<b>"},
        health=(Check("gap", False, "it does not add up", INF), Check("x", True, "fine", 0.5)),
        cost=Cost(1, 2, 3, 4.5, 6),
        provenance=Provenance("w", "i", "Tiny", 7, {"torch": "2"}, "today"),
    )
    told.matrix[0, :3] = torch.tensor([NAN, INF, -INF])
    back = Generated.load(told.save(tmp_path / "told.json"))
    for name in ("units", "tokens", "method", "measure", "parts", "options", "health", "cost", "provenance"):
        assert getattr(back, name) == getattr(told, name), name
    for name in ("sequence", "matrix", "probabilities"):
        torch.testing.assert_close(getattr(back, name), getattr(told, name), rtol=0, atol=0, equal_nan=True)
    words = json.loads(told.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert words["format"] == "pellucid-generated-1"
    assert words["matrix"][0][:3] == ["NaN", "Infinity", "-Infinity"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_json_keeps_precision(dtype):
    told = made(sequence=torch.randn(5).to(dtype), matrix=None, probabilities=None)
    back = Generated.from_json(told.to_json())
    assert torch.equal(back.sequence, told.sequence)
    assert back.sequence.dtype == dtype
    assert back.matrix is back.probabilities is None


def test_what_is_no_record_is_refused(tmp_path):
    for text in ("", "[]", "{}", '{"format": "other"}', made().to_json().replace('"units"', '"u"'), made().to_json().replace("[[", "[[1,")):
        with pytest.raises(FileError, match="pellucid-generated-1"):
            Generated.from_json(text)
    with pytest.raises(FileError, match="cannot read"):
        Generated.load(tmp_path / "missing.json")
    with pytest.raises(OptionError, match=r"\.txt"):
        made().save(tmp_path / "told.txt")
    with pytest.raises(FileError, match="cannot write"):
        made().save(tmp_path / "missing" / "told.json")


# --- the page


SAFE = {"html", "head", "meta", "title", "style", "body", "header", "h1", "main", "article", "p", "div", "span", "button", "br", "b"}
SAFE |= {"details", "summary", "table", "thead", "tbody", "tr", "th", "td"}


class Page(HTMLParser):
    """Elements with their attributes and texts; refuses tags that are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.found, self.text = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in ("br", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)


def nasty(**options):
    size = len(NASTY)
    matrix = torch.randn(size, size)
    given = {"units": NASTY, "tokens": NASTY, "sequence": matrix.sum(0), "matrix": matrix, "probabilities": torch.rand(size)}
    return Generated(**(given | {"method": "<i>shap", "measure": "<b>score", "parts": (("<u>\n", None), ("<s>", 0))} | options))


@pytest.mark.parametrize(
    "options", [{}, {"matrix": None}, {"parts": ()}, {"probabilities": None}, {"health": (Check("<a>", False, "<p>"),)}]
)
def test_pages_are_whole_escaped_and_alone(options):
    page = Page(nasty(**options).html("<title> & more"))
    tags = {tag for tag, _ in page.found}
    assert tags <= SAFE
    for _, attributes in page.found:
        assert not {name for name in attributes if name.startswith("on")} | set(attributes) & {"src", "href", "srcdoc"}
    css = "".join(re.findall(r"<style>(.*?)</style>", nasty(**options).html(), re.DOTALL))
    assert "http" not in css
    assert "url(" not in css
    assert "@import" not in css
    text = "".join(page.text)
    for word in ("<script>alert(1)</script>", "</style>", "a</button>", "<i>shap", "<b>score"):
        assert word in text
    ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(set(ids)) == len(ids)
    described = [attributes["aria-describedby"] for _, attributes in page.found if "aria-describedby" in attributes]
    assert described == ids
    assert len(ids) == (0 if options.get("matrix", 1) is None else len(NASTY))


def rules(told):
    """What each rule sets: the whole text's first, then those of the tokens."""
    css = told._repr_html_()
    own = re.search(r'class="pellucid transcript (g\w+)"', css)[1]
    found = re.findall(rf"^(\.{own}\S*?)\{{(.*?)\}}$", css, re.MULTILINE)
    return [(selector, dict(pair.split(":", 1) for pair in body.strip(";").split(";"))) for selector, body in found]


def test_each_token_lights_the_units_that_it_rests_on():
    matrix = torch.tensor([[1.0, 0.0, -0.5, 0.01], [0.0, NAN, 0.0, -1.0]])
    told = made(4, 2, matrix=matrix, sequence=torch.tensor([2.0, -1.0, 0.0, 0.0]), probabilities=None)
    whole, first, second = rules(told)
    assert whole[1] == {"--rw": "block", "--u0": f"var(--p{LEVELS})", "--u1": f"var(--n{LEVELS // 2})"}
    assert first[1] == {"--r0": "block", "--u0": f"var(--p{LEVELS})", "--u2": f"var(--n{LEVELS // 2})"}
    assert second[1] == {"--r1": "block", "--u1": "var(--x)", "--u3": f"var(--n{LEVELS})"}
    # What is pointed at comes before what is focused, and the whole text is shown while neither is.
    assert ":has(.t0:hover)" in first[0]
    assert ":not(:has(.token:hover)):has(.t0:focus)" in first[0]
    assert whole[0].endswith(":not(:has(.token:hover,.token:focus))")


def test_without_single_tokens_nothing_waits_to_be_pointed_at():
    told = made(matrix=None)
    ((selector, _),) = rules(told)
    assert ":" not in selector
    assert "<button" not in told.html()


def test_what_a_token_rests_on_is_told_in_words_too():
    told = made()
    page = unescape(told._repr_html_())
    for token in range(4):
        assert f"“t{token}”" in page
        assert rests_on(told, token) in page
    unit, value = told.strongest(2, 1)[0]
    assert rests_on(told, 2).startswith(f"“u{unit}” {number(value, signed=True)}, ")


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("mode", "ink"), [("light", "#1b1b1b"), ("dark", "#ececec")])
@pytest.mark.parametrize("sign", [-1, 1])
def test_words_can_be_read_on_every_shade(mode, ink, sign):
    found = shades(mode, sign)
    assert len(found) == len(set(found)) == LEVELS
    for shade in found:
        low, high = sorted((luminance(shade), luminance(ink)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, shade
    assert f"--ink:{ink}" in CARD
    assert f"--paper:{MODES[mode][0]}" in CARD


def test_a_prompt_in_parts_is_shown_in_its_own_words():
    told = made(2, 1, parts=(("Where ", None), ("is", 1), (" it?\n", None)))
    page = unescape(re.sub("<.*?>", "", re.sub("<style>.*?</style>", "", told._repr_html_(), flags=re.DOTALL)))
    assert "Where is it?\n u0Generated" not in page  # units that no part shows come after it, spaced
    assert "PromptWhere is it?\nu0Generated" in page


def test_large_matrices_are_left_to_the_file():
    told = made(60, 50)
    page = told.html()
    assert "3,000 numbers" in page
    assert len(page) < 150_000
    assert len(re.findall("<tr>", page)) == 61


# --- figures


def test_the_heat_map_shows_the_matrix():
    told = made()
    figure = told.draw()
    cells, below, bar = figure.axes
    shown = np.asarray(cells.images[0].get_array())
    unit = np.abs(told.matrix.numpy()).max()
    clipped = np.abs(shown) < 1
    ratio = told.matrix.numpy()[clipped] / shown[clipped]
    assert np.allclose(ratio, ratio.flat[0])
    assert 0 < ratio.flat[0] <= unit
    assert [text.get_text() for text in cells.get_xticklabels()] == list(told.units)
    assert [text.get_text() for text in cells.get_yticklabels()] == list(told.tokens)
    assert [patch.get_height() for patch in below.patches] == pytest.approx(told.sequence.tolist())
    written = [text.get_text() for text in cells.texts]
    assert written[:20] == [f"{value:.2f}".replace("-", "\N{MINUS SIGN}") for value in told.matrix.flatten().tolist()]
    assert "10\N{NO-BREAK SPACE}%" in written
    assert "log-probability" in bar.get_xlabel()


def test_bars_are_in_the_order_of_the_prompt_and_nothing_is_lost():
    told = made(40, 1)
    axes = told.draw("sequence", top=10).axes[0]
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names[:-1] == sorted(names[:-1], key=lambda name: int(name[1:]))
    assert names[-1] == "30 weaker ones (net)"
    kept = {told.units[i] for i in torch.argsort(told.sequence.abs(), descending=True)[:10].tolist()}
    assert set(names[:-1]) == kept
    assert sum(patch.get_width() for patch in axes.patches) == pytest.approx(float(told.sequence.sum()))


@pytest.mark.parametrize("kind", ["tokens", "sequence", "words"])
@pytest.mark.parametrize(
    "told", [nasty(), made(1, 1), made(300, 90), made(3, 2, matrix=torch.full((2, 3), NAN)), made(2, 2, matrix=torch.zeros(2, 2))]
)
def test_figures_of_anything_are_drawn_and_fit_a_screen(kind, told):
    from matplotlib import pyplot

    figure = told.draw(kind)
    figure.canvas.draw()
    assert max(figure.get_size_inches()) < 20
    assert not pyplot.get_fignums()


def test_what_cannot_be_drawn_says_why():
    with pytest.raises(OptionError, match="kind"):
        made().draw("bars")
    with pytest.raises(OptionError, match="no option 'size'"):
        made().draw("tokens", size=3)
    with pytest.raises(OptionError, match="sequence"):
        made(matrix=None).draw("tokens")
    with pytest.raises(OptionError, match="top=0"):
        made().draw("sequence", top=0)
    with pytest.raises(InputError, match="nothing to draw"):
        Generated((), ("a",), torch.ones(0), torch.ones(1, 0)).draw()
    assert len(made(matrix=None).draw().axes) == 1


def test_a_terminal_shows_the_prompt_and_what_the_tokens_rest_on():
    lines = str(made(5, 20, health=(Check("gap", False, "large"),)).__rich__()).splitlines()
    assert lines[0].startswith("generated: “t0 t1")
    assert "u0 u1 u2 u3 u4" in lines
    assert any(line.startswith("t3 (") and "←" in line for line in lines)
    assert "… and 8 tokens more" in lines
    assert "gap" in lines[-1]
    escape = str(nasty(units=("\x1b[31m", *NASTY[1:])).__rich__())
    assert "\x1b" not in escape


# --- Captum's result


def test_the_result_has_the_record_and_its_page():
    text = TextTemplateInput("{a} of {b}!", {"a": "Dave", "b": "Rome"}, mask={"a": 0, "b": 0})
    attributed = text.format_attr(torch.tensor([[1.0], [0.25], [0.75]]))
    result = LLMAttributionResult(
        input_tokens=text.values, output_tokens=["x", "y"], seq_attr=attributed[0], token_attr=attributed[1:], inp=text
    )
    told = result.generated()
    assert told.parts == (("Dave", 0), (" of ", None), ("Rome", 1), ("!", None))
    assert result._repr_html_() == told._repr_html_()
    assert "Dave" in str(result.__rich__())
    assert "seq_attr=tensor([1., 1.])" in repr(result)
    Page(result._repr_html_())
