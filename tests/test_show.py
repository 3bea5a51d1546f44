"""Pictures and pages: what holds for all of them, and for each kind."""

import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
import torch

from pellucid import Check, Cost, Display, Explanation, InputError, OptionError, Provenance
from pellucid.show import Section, draw, html, page
from pellucid.show.colour import diverging, ink_on, palette
from pellucid.show.example import example_of, pixels
from pellucid.show.numbers import number, percent, shortened
from pellucid.show.picture import METHODS, upright
from pellucid.show.scale import SIGNS, pooled, scaled
from pellucid.show.table import bars
from pellucid.show.text import draw_text

HEALTH = (
    Check("finite", True, "all attributions and scores are finite"),
    Check("completeness", False, "attributions <do not> add up", 0.31),
)
SHAPES = {"image": (2, 3, 8, 8), "table": (2, 30), "text": (2, 6, 4), "series": (2, 3, 20), "tensor": (2, 3, 4, 5)}
NAMES = {"table": [f"column {i} $x$" for i in range(30)], "text": ["a", "<b>", "$x", "good", "\n", "film & more"]}


def explanation(kind="image", attributions=None, **options):
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(SHAPES[kind], generator=generator)
    attributions = torch.randn(SHAPES[kind], generator=generator) if attributions is None else attributions
    return Explanation(
        attributions=(attributions,),
        features=(features,),
        scores=torch.tensor([1.5, 2.5]),
        method="integrated_gradients",
        target="output 1 (<cat>)",
        predictions=torch.tensor([1, 0]),
        confidences=torch.tensor([0.9, 0.8]),
        health=HEALTH,
        cost=Cost(50, 40, 2, 0.25, 1_500_000),
        provenance=Provenance("abcdef0123", "9876543210", "Net", 7, {"pellucid": "0.1.0"}, "2025-01-01"),
        display=Display(kind, tuple(NAMES.get(kind, ())), ("dog & co", "<cat>")),
        **options,
    )


def words_of(figure):
    return " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


class Page(HTMLParser):
    """An HTML document: closed tags, attributes and visible text."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, document):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(document)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if "style" not in self.open:
            self.text += text

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


HARD = {
    "ordinary": lambda a: a,
    "zero": torch.zeros_like,
    "positive": torch.abs,
    "negative": lambda a: -a.abs(),
    "constant": torch.ones_like,
    "one NaN": lambda a: a.masked_fill(a == a[0].max(), float("nan")),
    "one infinity": lambda a: a.masked_fill(a == a[0].max(), -float("inf")),
    "all NaN": lambda a: torch.full_like(a, float("nan")),
    "tiny": lambda a: a * 1e-30,
    "huge": lambda a: a.double() * 1e300,
    "half": lambda a: a.half(),
    "bfloat16": lambda a: a.bfloat16(),
    "with gradient": lambda a: a.requires_grad_(),
    "whole": lambda a: a.mul(10).long(),
}


# --- what holds for all


@pytest.mark.parametrize("hard", HARD)
@pytest.mark.parametrize("kind", SHAPES)
def test_everything_draws_and_says_what_is_wrong(kind, hard):
    one = explanation(kind)
    one = replace(one, attributions=(HARD[hard](one.attribution.clone()),))
    figure = draw(one)
    figure.canvas.draw()
    document = Page(html(one))
    for words in (words_of(figure), document.text + str(document.all("img"))):
        assert "<cat>" in words
    assert ("all attributions are zero" in words_of(figure)) == (hard == "zero")
    assert ("NaN or infinite" in words_of(figure)) == (hard in ("one NaN", "one infinity", "all NaN"))


@pytest.mark.parametrize("kind", SHAPES)
def test_titles_say_prediction_target_method_and_completeness(kind):
    words = words_of(draw(explanation(kind), 1)).replace("\N{NO-BREAK SPACE}", " ").replace("\n", " ")
    for part in (
        "predicted dog & co (80 %)",
        "output 1 (<cat>)",
        "integrated gradients",
        "✗ completeness gap 31 %",
        "example 2 of 2",
    ):
        assert part in words


def test_a_model_without_classes_is_titled_by_its_score():
    assert "score 2.50" in words_of(draw(replace(explanation(), predictions=None, confidences=None), 1))
    unnamed = replace(explanation(), display=Display("image"), health=())
    assert "predicted class 1" in words_of(draw(unnamed))
    assert "completeness" not in words_of(draw(unnamed))


@pytest.mark.parametrize("kind", SHAPES)
def test_pyplot_never_knows(kind):
    from matplotlib import pyplot

    before = dict(matplotlib.rcParams)
    html(explanation(kind))
    draw(explanation(kind))
    assert pyplot.get_fignums() == []
    assert dict(matplotlib.rcParams) == before


def test_importing_show_loads_neither_matplotlib_nor_pyplot():
    code = "import sys, pellucid.show, pellucid.captum.attr.visualization; print('matplotlib' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_the_explanation_draws_itself():
    assert words_of(explanation().draw(1, method="heat_map"))
    assert "<style>" in explanation()._repr_html_()


REFUSED = {
    "example": ("image", {"example": 2}, InputError, r"example=2.*0 to 1"),
    "negative example": ("image", {"example": -1}, InputError, "example=-1"),
    "which": ("text", {"which": 1}, InputError, "which=1.*can be 0"),
    "option": ("table", {"sign": "all"}, OptionError, "no option 'sign'; it has top"),
    "method": ("image", {"method": "heat"}, OptionError, "'heat'.*heat_map"),
    "sign": ("image", {"sign": "both"}, OptionError, "'both'.*absolute_value"),
    "two signs": ("image", {"method": "masked_image"}, OptionError, "two signs"),
    "outliers": ("image", {"outliers": -1}, OptionError, "0 to 100"),
    "colours": ("image", {"colours": "nonsense"}, OptionError, "nonsense"),
    "top": ("table", {"top": 0}, OptionError, "top=0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_arguments_name_the_way_out(case):
    kind, options, error, words = REFUSED[case]
    with pytest.raises(error, match=words):
        draw(explanation(kind), **options)


@pytest.mark.parametrize(
    ("kind", "names", "shape"),
    [("table", ("a",), (2, 30)), ("text", ("a", "b"), (2, 6, 4)), ("series", ("a",) * 7, (2, 3, 20))],
)
def test_names_that_do_not_fit_are_refused(kind, names, shape):
    with pytest.raises(InputError, match=f"{len(names)} names"):
        draw(replace(explanation(kind), display=Display(kind, names)))


@pytest.mark.parametrize(("kind", "shape"), [("image", (2, 8)), ("series", (2, 3, 4, 5))])
def test_shapes_that_do_not_fit_are_refused(kind, shape):
    with pytest.raises(InputError, match="attributions"):
        draw(replace(explanation(kind), attributions=(torch.ones(shape),), features=(torch.ones(shape),)))


def test_missing_names_are_numbered():
    for kind, word in (("table", "feature 0"), ("text", "token 0"), ("series", "channel 0"), ("tensor", "feature [")):
        options = {"top": 30} if kind == "table" else {}
        assert word in words_of(draw(replace(explanation(kind), display=Display(kind)), **options))


# --- the colour scale


@pytest.mark.parametrize("sign", SIGNS)
def test_zero_is_always_neutral(sign):
    used = palette(sign)
    colour = used.colours(used.norm(scaled([0.0, 1.0, 3.0, -2.0], sign).values[0]))
    assert max(colour[:3]) - min(colour[:3]) < 0.02
    assert min(colour[:3]) > 0.9


def test_the_two_signs_are_mirror_images_that_colour_blind_readers_tell_apart():
    against, for_ = (np.array(diverging()(end)[:3]) for end in (0.0, 1.0))
    # What a protanope sees (Viénot, Brettel & Mollon 1999), roughly: red and green weigh as one.
    seen = [np.array([0.112 * c[0] + 0.888 * c[1], c[2]]) for c in (against, for_)]
    assert np.abs(seen[0] - seen[1]).max() > 0.3
    values = scaled(np.array([-2.0, -1.0, 0.0, 1.0, 2.0])).values
    np.testing.assert_array_equal(values, -values[::-1])


def test_a_colour_bar_is_centred_at_zero_in_units_of_the_attributions():
    figure = draw(explanation("image", attributions=torch.full((2, 3, 8, 8), 0.25)))
    bar = figure.axes[-1]
    assert bar.get_ylim() == (-0.75, 0.75)
    assert "units of the score" in bar.get_ylabel()
    assert [label.get_text() for label in bar.get_yticklabels()] == ["−0.75", "−0.38", "0", "0.38", "0.75"]
    negative = draw(explanation("image"), sign="negative").axes[-1]
    assert negative.get_ylim()[0] < 0 == negative.get_ylim()[1]


@pytest.mark.parametrize("sign", SIGNS)
def test_scaling_is_what_a_slow_reading_gives(sign):
    values, outliers = np.random.default_rng(0).normal(size=200), 7.0
    above, below = values.clip(0), values.clip(None, 0)
    kept = {"all": values, "positive": above, "negative": below, "absolute_value": abs(values)}[sign]
    total, reached, limit = abs(kept).sum(), 0.0, 0.0
    for limit in sorted(abs(kept)):
        reached += limit
        if reached >= (1 - outliers / 100) * total:
            break
    shown = scaled(values, sign, outliers)
    unit = -limit if sign == "negative" else limit
    assert shown.unit == pytest.approx(unit)
    np.testing.assert_allclose(shown.values, np.clip(kept / unit, -1, 1))
    assert shown.clipped


def test_scaling_lets_nan_be_and_counts_it():
    shown = scaled(torch.tensor([float("nan"), 1.0, -float("inf"), -2.0]), outliers=0)
    assert shown.lost == 2
    np.testing.assert_array_equal(shown.values, [np.nan, 0.5, np.nan, -1.0])
    assert scaled([0.0, 0.0]).unit == 0
    assert scaled([1.0, 2.0], outliers=100).values.tolist() == [1.0, 1.0]
    with pytest.raises(InputError, match="nothing to draw"):
        scaled([])
    with pytest.raises(InputError, match="numbers"):
        scaled(["a"])


def test_channels_are_summed():
    values = torch.randn(3, 8, 8).half()
    assert pooled(np.asarray(values.double()), 0) == pytest.approx(values.double().sum(0).numpy())
    figure = draw(explanation(attributions=values.expand(2, 3, 8, 8)), method="heat_map", outliers=0)
    drawn = figure.axes[1].images[0].get_array()
    expected = values.double().sum(0).numpy()
    np.testing.assert_allclose(drawn, expected / abs(expected).max())


# --- each kind


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 3, 32, 24), (2, 5, 8, 8), (2, 8, 8)])
def test_images_of_any_channels_are_drawn_crisp(shape, method):
    one = replace(explanation(), attributions=(torch.randn(shape),), features=(torch.randn(shape),))
    figure = draw(one, method=method, sign="positive")
    figure.canvas.draw()
    assert all(image.get_interpolation() == "nearest" for axes in figure.axes[:2] for image in axes.images)
    assert not figure.axes[0].images[0].get_extent()[3] > figure.axes[0].images[0].get_extent()[2]


def test_a_coarse_map_lies_over_the_whole_image():
    one = replace(explanation(), attributions=(torch.randn(2, 1, 2, 2),), features=(torch.rand(2, 3, 8, 8),))
    for method in ("overlay", "blended_heat_map"):
        images = draw(one, method=method).axes[1].images
        assert {tuple(image.get_extent()) for image in images} == {(-0.5, 1.5, 1.5, -0.5)}
    with pytest.raises(InputError, match="do not match"):
        draw(replace(one, attributions=(torch.randn(2, 1, 2, 8),)))


def test_the_picture_shown_is_that_of_the_first_example_only():
    picture = np.zeros((8, 8, 3), np.uint8)
    one = replace(explanation(), display=Display("image", picture=picture))
    assert draw(one, 0).axes[0].images[0].get_array().max() == 0
    assert draw(one, 1).axes[0].images[0].get_array().max() > 0


def test_pixels_keep_what_is_already_an_image_and_stretch_what_is_not():
    assert pixels(np.array([[0.0, 1.0]])).tolist() == [[0, 255]]
    assert pixels(np.array([[0.0, 200.0]])).tolist() == [[0, 200]]
    assert pixels(np.array([[-2.0, 2.0]])).tolist() == [[0, 255]]
    assert pixels(np.full((2, 2), -3.0)).tolist() == [[0, 0], [0, 0]]
    assert upright(np.zeros((1, 3, 8, 9))).shape == (8, 9, 3)
    assert upright(np.zeros((3, 9, 1))).shape == (3, 9, 1)


@pytest.mark.parametrize("top", [1, 5, 29, 30, 100])
def test_bars_are_sorted_and_lose_nothing(top):
    one = explanation("table")
    found = bars(one, 1, top)
    assert sum(bar.value for bar in found) == pytest.approx(one.attribution[1].sum().item(), abs=1e-5)
    shown = found[:top]
    assert [abs(bar.value) for bar in shown] == sorted((abs(bar.value) for bar in shown), reverse=True)
    assert len(found) <= max(top + 1, 1)
    assert ("others" in found[-1].name) == (top < 29)
    figure = draw(one, 1, top=top)
    assert [bar.get_width() for bar in figure.axes[0].patches] == pytest.approx([bar.value for bar in found])


def test_bars_show_what_is_not_finite_first():
    values = torch.ones(2, 30)
    values[0, 7] = float("nan")
    found = bars(explanation("table", attributions=values), 0, 3)
    assert "column 7" in found[0].name
    assert sum(bar.length for bar in found) == 29


def test_bars_of_several_inputs_are_one_table():
    name = lambda bar: bar.name.replace("\N{NO-BREAK SPACE}", " ")  # noqa: E731
    one = replace(
        explanation("table"),
        attributions=(torch.ones(2, 2), 2 * torch.ones(2, 1)),
        features=(torch.zeros(2, 2), torch.ones(2, 1)),
    )
    assert [name(bar) for bar in bars(replace(one, display=Display("table")))] == [
        "input 1: feature 0 = 1.00",
        "input 0: feature 0 = 0",
        "input 0: feature 1 = 0",
    ]
    assert name(bars(replace(one, display=Display("table", ("a", "b", "c"))))[0]) == "c = 1.00"


def test_words_are_summed_over_the_embedding_wrapped_and_inside_the_picture():
    one = explanation("text", attributions=torch.ones(2, 6, 4) * torch.arange(6).view(1, 6, 1))
    figure = draw_text(one, width=3.0)
    figure.canvas.draw()
    boxes = figure.axes[0].patches
    assert len(boxes) == 6
    assert len({box.get_y() for box in boxes}) > 1
    for box, text in zip(boxes, figure.axes[0].texts, strict=True):
        assert box.get_x() >= 0
        assert box.get_x() + box.get_width() <= 3.0 - 0.24 + 1e-6
        assert text.get_window_extent().width <= box.get_window_extent().width
    assert figure.axes[1].get_xlim() == (-20, 20)
    assert 'title="+4.00"' in html(one)


def test_words_are_escaped_and_readable_on_their_colour():
    document = html(explanation("text"))
    assert not Page(document).all("b")
    assert "&lt;b&gt;" in document
    assert "film &amp; more" in document
    assert {ink_on("#ffffff"), ink_on("#000000")} == {"#111111", "#ffffff"}


@pytest.mark.parametrize("shape", [(2, 3, 20), (2, 20, 3), (2, 20)])
def test_signals_are_recognised(shape):
    values = torch.randn(shape)
    figure = draw(replace(explanation("series"), attributions=(values,), features=(values,)))
    panels = figure.axes[:-1]
    assert len(panels) == (3 if len(shape) == 3 else 1)
    expected = values[0] if shape != (2, 20, 3) else values[0].T
    np.testing.assert_allclose(panels[0].lines[0].get_ydata(), np.atleast_2d(expected)[0])
    assert panels[0].get_ylim()[0] < float(np.atleast_2d(expected)[0].min())


def test_signals_that_are_left_out_are_counted():
    many = torch.arange(1, 21).view(1, 20, 1) * torch.ones(2, 20, 50)
    figure = draw(replace(explanation("series"), attributions=(many,), features=(many,)))
    assert "12 weaker channels not drawn" in words_of(figure)
    assert "channel 19" in words_of(figure)
    square = replace(explanation("series"), attributions=(many[:, :, :20],), features=(many[:, :, :20],))
    assert draw(square, channels_last=True).axes[0].lines[0].get_ydata().tolist() == list(range(1, 21))


def test_one_score_for_the_whole_batch_has_one_attribution():
    one = replace(explanation(), attributions=(torch.ones(1, 3, 8, 8),), scores=torch.ones(1), predictions=None)
    assert "score 1" in words_of(draw(one, 1))


# --- HTML


def everything():
    return page(
        [
            Section(
                "A <first> one",
                "Text & more.\n\nA second <paragraph>.",
                [explanation(), replace(explanation(), method="saliency", health=())],
            ),
            *(Section(kind, "", [explanation(kind)] * count, 1) for kind in SHAPES for count in (1, 2)),
            Section("Nothing"),
        ],
        "Title & <more>",
        "An introduction.",
    )


def test_a_page_is_whole_and_needs_no_network():
    document = everything()
    seen = Page(document)
    assert document.startswith("<!DOCTYPE html>")
    assert "<title>Title &amp; &lt;more&gt;</title>" in document
    words = document.replace("data:image/png;base64,", "").lower()
    assert not re.search(r"https?:|@import|url\(|<script|<link|<iframe|\bon\w+=", words)
    assert {attrs.get("src", "data:")[:5] for _, attrs in seen.tags} == {"data:"}
    for shown in seen.all("img"):
        assert shown["src"].startswith("data:image/png;base64,")
        assert len(shown["alt"]) > 10
    assert all(head["scope"] in ("col", "row") for head in seen.all("th"))
    assert {"lang": "en"} in seen.all("html")
    assert any(meta.get("name") == "viewport" for meta in seen.all("meta"))
    assert "prefers-color-scheme" in document
    targets = {link["href"] for link in seen.all("a")}
    assert targets == {f"#{section['id']}" for section in seen.all("section")}


def test_a_page_compares_methods_in_words():
    seen = Page(everything()).text
    for words in (
        "integrated gradients",
        "saliency",
        "✗ 1 of 2 checks failed",
        "? nothing was checked",
        "31\N{NO-BREAK SPACE}%",
        "no such law",
        "1.5 MB",
    ):
        assert words in seen
    assert "50 forwards and 40 backwards in 2 calls, 0.25 s" in seen
    assert "weights abcdef01" in seen


def test_a_card_says_health_in_words_and_symbols():
    seen = Page(html(explanation())).text
    for words in ("✓ passed", "✗ failed", "attributions <do not> add up", "seed 7", "Net", "predicted <cat>"):
        assert words in seen
    assert "✓ 1 check passed" in Page(html(replace(explanation(), health=HEALTH[:1]))).text


def test_an_image_without_a_class_name_in_the_font_makes_no_noise():
    one = replace(explanation("series"), display=Display("series", ("猫", "犬", "鳥")))
    assert Page(html(one)).all("img")


def test_numbers_are_read_by_people():
    assert [number(v) for v in (0.0, -0.0, 1.0, 1234.5, 1e9, float("nan"), -float("inf"))] == [
        "0",
        "0",
        "1.00",
        "1,234",
        "1.00e+09",
        "NaN",
        "−infinite",
    ]
    assert number(0.5, signed=True) == "+0.500"
    assert percent(0.99999).startswith(">99.9")
    assert shortened("a" * 50, 11) == "aaaaaaa…aaa"


@pytest.mark.parametrize(("pooling", "expected"), [("sum", 2.0), ("mean", 2 / 3), ("norm", 14**0.5)])
def test_the_numbers_of_one_token_become_one_as_the_method_says(pooling, expected):
    values = torch.tensor([3.0, -2.0, 1.0]).expand(2, 6, 3)
    one = explanation("text", attributions=values)
    one = replace(one, features=(torch.zeros(2, 6, 3),), display=replace(one.display, pooling=pooling))
    assert example_of(one).pooled() == pytest.approx([expected] * 6)


def test_a_sum_of_gradients_is_not_shown():
    one = explanation("table")
    gradients = replace(one, display=replace(one.display, pooling="norm"))
    assert len(bars(one)) == 11
    assert len(bars(gradients)) == 10
    assert "all together" in html(one)
    assert "all together" not in html(gradients)
    assert "20 weaker ones not shown" in html(gradients)
