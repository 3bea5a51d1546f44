"""Interpretable inputs and the LLM result against the installed Captum: signatures, attributes, every perturbed input, refusals."""

import inspect
import itertools
import random

import numpy as np
import pytest
import torch
from PIL import Image

theirs = pytest.importorskip("captum.attr")
Captums = pytest.importorskip("captum.attr._core.llm_attr").LLMAttributionResult

from pellucid import InputError, OptionError  # noqa: E402
from pellucid.captum.attr import ProductBaselines, interpretable  # noqa: E402
from pellucid.captum.attr.llm_result import LLMAttributionResult  # noqa: E402

ours = interpretable
CLASSES = ["InterpretableInput", "TextTemplateInput", "TextTokenInput", "ImageMaskInput"]


def parts(function):
    return [(p.name, p.kind, None if callable(p.default) else p.default) for p in inspect.signature(function).parameters.values()]


def methods(cls):
    return sorted(name for name, value in inspect.getmembers(cls, inspect.isfunction) if name == "__init__" or name[0] != "_")


def presences(count):
    return [torch.tensor([row], dtype=torch.float32) for row in itertools.product((0, 1), repeat=count)]


@pytest.mark.parametrize("name", CLASSES)
def test_signatures_are_captums(name):
    mine, captums = getattr(ours, name), getattr(theirs, name)
    assert methods(mine) == methods(captums)
    for method in methods(captums):
        assert parts(getattr(mine, method)) == parts(getattr(captums, method)), method
    assert inspect.isabstract(mine) == inspect.isabstract(captums)


# --- templates

CITY = {"name": "Dave", "city": "Palm Coast", "state": "FL"}
NEUTRAL = {"name": "Ann", "city": "Rome", "state": "TX"}
TEMPLATES = {
    "by place": ("{} feels {} in {}", ["He", "low", "May"], ["It", "fine", "June"], None),
    "no baselines": ("{} feels {}", ["He", "low"], None, None),
    "numbered": ("{1} before {0}, {1} again", ["a", "b"], ["x", "y"], None),
    "conversions": ("{0!r:>8} and {1:*^9}", ["a", "b"], ["x", "y"], None),
    "by name": ("{name} of {city}, {state}: {name}", CITY, NEUTRAL, None),
    "in another order": ("{name} of {city}, {state}", CITY, dict(reversed(NEUTRAL.items())), None),
    "a function of places": (lambda *words: " / ".join(words), ["a", "b", "c"], ["x", "y", "z"], None),
    "a function of names": (lambda city, name, state: f"{city} {name} {state}", CITY, NEUTRAL, None),
    "a mask": ("{} {} {}", ["a", "b", "c"], ["x", "y", "z"], [0, 1, 0]),
    "a mask of other ids": ("{} {} {}", ["a", "b", "c"], ["x", "y", "z"], [5, 2, 2]),
    "a mask by name": ("{name} {city} {state}", CITY, NEUTRAL, {"state": 1, "name": 0, "city": 1}),
    "a function for baselines": ("{} {}", ["a", "b"], lambda: ["x", "y"], None),
    "a function for named baselines": ("{name} {city} {state}", CITY, lambda: dict(NEUTRAL), {"name": 0, "city": 1, "state": 1}),
    "drawn baselines": ("{} {}", ["a", "b"], ProductBaselines([["x", "y", "z"], ["u", "v"]]), None),
    "drawn together": (
        "{name}: {city}, {state}", CITY, ProductBaselines({"name": ["A", "B"], ("city", "state"): [("C", "D"), ("E", "F")]}), None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TEMPLATES)
def test_templates_write_what_captums_do(case):
    mine, captums = ours.TextTemplateInput(*TEMPLATES[case]), theirs.TextTemplateInput(*TEMPLATES[case])
    for name in ("values", "dict_keys", "n_features", "n_itp_features", "template", "mask"):
        assert getattr(mine, name) == getattr(captums, name), name
    assert mine.format_fn(*mine.values) == captums.format_fn(*captums.values) if not mine.dict_keys else True
    assert torch.equal(mine.to_tensor(), captums.to_tensor())
    assert mine.to_tensor().dtype == captums.to_tensor().dtype
    assert mine.to_model_input() == captums.to_model_input()
    texts = set()
    for present in presences(captums.n_itp_features):
        random.seed(7)
        found = mine.to_model_input(present)
        random.seed(7)
        assert found == captums.to_model_input(present), present
        texts.add(found)
    assert len(texts) == 2**captums.n_itp_features
    attributed = torch.randn(3, captums.n_itp_features)
    assert torch.equal(mine.format_attr(attributed), captums.format_attr(attributed))
    if captums.mask:
        assert mine.formatted_mask == captums.formatted_mask


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("{} {}", ["a"]), "by place"),
        (("{name}", ["a"]), "name"),
        (("{} {}", {"a": "x", "b": "y"}), "by place"),
        (("{a}", {"b": "x"}), "{a}"),
        (("{} {}", ["a", "b"], ["x"]), "baselines has 1"),
        (("{} {}", ["a", "b"], {"a": "x"}), "baselines is a dict"),
        (("{a}", {"a": "x"}, ["y"]), "baselines is a list"),
        (("{a}", {"a": "x"}, {"b": "y"}), "nothing for 'a'"),
        (("{} {}", ["a", "b"], None, [0]), "mask has 1"),
        (("{a}", {"a": "x"}, None, [0]), "mask is a list"),
        ((3, ["a"]), "template is a int"),
        (("{}", "abc"), "values is a str"),
    ],
)
def test_what_captum_refuses_early_or_late_is_refused_at_once(given, says):
    def captums():
        text = theirs.TextTemplateInput(*given)
        return [text.to_model_input(present) for present in presences(text.n_itp_features)]

    with pytest.raises((AssertionError, IndexError, KeyError)):
        captums()
    with pytest.raises(InputError, match=says):
        ours.TextTemplateInput(*given)


# --- tokens


@pytest.fixture(scope="module")
def tokenizer():
    tokenizers, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    words = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "the", "old", "sun", "is", "red"]
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    special = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **special)


@pytest.mark.parametrize("baseline", [0, 3, "[PAD]", "[UNK]", "sun"])
@pytest.mark.parametrize("skip", [None, [], [1, 2], ["[CLS]", "[SEP]"], ["the", "[UNK]"]])
def test_tokens_are_replaced_as_captum_does(tokenizer, skip, baseline):
    given = ("the sun is blue the sun", tokenizer, baseline, skip)
    mine, captums = ours.TextTokenInput(*given), theirs.TextTokenInput(*given)
    for name in ("values", "n_itp_features", "skip_tokens", "baselines"):
        assert getattr(mine, name) == getattr(captums, name), name
    assert (mine.itp_mask is None) == (captums.itp_mask is None)
    assert captums.itp_mask is None or torch.equal(mine.itp_mask, captums.itp_mask)
    tensors = [(each.to_tensor(), each.inp_tensor, each.itp_tensor) for each in (mine, captums)]
    for found, known in zip(*tensors, strict=True):
        assert torch.equal(found, known)
        assert found.dtype == known.dtype
    assert torch.equal(mine.to_model_input(), captums.to_model_input())
    rows = torch.cat(presences(captums.n_itp_features))
    for some in (rows[:1], rows, rows.bool(), rows.long()):
        assert torch.equal(mine.to_model_input(some), captums.to_model_input(some))
    attributed = torch.randn(2, captums.n_itp_features)
    assert torch.equal(mine.format_attr(attributed), captums.format_attr(attributed))


# --- images


def picture(height=5, width=7):
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def masks(count, height=5, width=7):
    return [torch.rand(height, width) < 0.4 for _ in range(count)]


IMAGES = {
    "one region": {},
    "ids": {"mask": torch.arange(35).view(5, 7) % 3},
    "ids with gaps": {"mask": torch.tensor([[-2, 9, 4]])[:, torch.arange(35) % 3].view(5, 7)},
    "int32": {"mask": (torch.arange(35).view(5, 7) % 2).int(), "baseline": (1, 2, 3)},
    "overlapping": {"mask_list": "masks"},
    "both": {"mask": torch.arange(35).view(5, 7) % 4, "mask_list": "masks", "baseline": (0, 0, 0)},
}


@pytest.mark.parametrize("case", IMAGES)
def test_images_are_painted_as_captum_does(case):
    options = IMAGES[case] | ({"mask_list": masks(3)} if "mask_list" in IMAGES[case] else {})
    mine, captums = (module.ImageMaskInput(picture(), **options, processor_fn=np.asarray) for module in (ours, theirs))
    for name in ("n_itp_features", "mask_id_to_idx", "values", "baseline"):
        assert getattr(mine, name) == getattr(captums, name), name
    assert torch.equal(mine.mask, captums.mask)
    assert len(mine.mask_list) == len(captums.mask_list)
    assert torch.equal(mine.to_tensor(), captums.to_tensor())
    assert np.array_equal(mine.to_model_input(), captums.to_model_input())
    for present in presences(captums.n_itp_features):
        assert np.array_equal(mine.to_model_input(present), captums.to_model_input(present)), present
    for found, known in zip(mine.get_mask_list(), captums.get_mask_list(), strict=True):
        assert torch.equal(found, known.bool())
    for attributed in (torch.randn(1, captums.n_itp_features), torch.randn(4, captums.n_itp_features)):
        assert torch.equal(mine.format_attr(attributed), captums.format_attr(attributed))
        torch.testing.assert_close(mine.format_pixel_attr(attributed), captums.format_pixel_attr(attributed))


@pytest.mark.parametrize("options", [{"mask": torch.zeros(7, 5, dtype=torch.long)}, {"mask_list": [torch.ones(5, 7), torch.ones(5, 6)]}])
def test_masks_of_another_size_are_refused(options):
    with pytest.raises(AssertionError):
        theirs.ImageMaskInput(picture(), **options)
    with pytest.raises(InputError, match=r"\(height, width\)"):
        ours.ImageMaskInput(picture(), **options)


@pytest.mark.parametrize(("border", "named"), [(0, True), (1, False), (2, True)])
def test_the_overlay_is_drawn_over_the_image(border, named, monkeypatch):
    from matplotlib import pyplot

    monkeypatch.setattr(pyplot, "show", lambda: None)
    given = {"mask": IMAGES["ids"]["mask"]}
    found = [module.ImageMaskInput(picture(), **given) for module in (ours, theirs)]
    drawn = [image.plot_mask_overlay(border_width=border, show_legends=named)[1] for image in found]
    assert (
        [text.get_text() for text in drawn[0].texts] == [text.get_text() for text in drawn[1].texts] == (["0", "1", "2"] if named else [])
    )
    assert np.array_equal(drawn[0].images[0].get_array(), np.asarray(picture()))
    assert [image.plot_mask_overlay(show=True) for image in found] == [None, None]
    pyplot.close("all")


# --- the result


def both(**options):
    given = {"input_tokens": ["the", "sun", "is"], "output_tokens": ["very", "red"]}
    given |= {"seq_attr": torch.tensor([1.0, -3.0, 0.25]), "token_attr": torch.tensor([[0.5, -1.0, 0.0], [0.5, -2.0, 0.25]])}
    return [cls(**(given | options)) for cls in (LLMAttributionResult, Captums)]


def test_the_result_is_captums():
    assert parts(LLMAttributionResult) == parts(Captums)
    for method in ("plot_token_attr", "plot_seq_attr", "plot_image_heatmap"):
        assert parts(getattr(LLMAttributionResult, method)) == parts(getattr(Captums, method))
    for options in ({}, {"token_attr": None}, {"seq_attr": [1.0, 2.0, 3.0]}, {"output_probs": [0.5, 0.25]}, {"seq_attr": np.ones(3)}):
        mine, captums = both(**options)
        for name in ("seq_attr", "token_attr", "output_probs"):
            found, known = getattr(mine, name), getattr(captums, name)
            assert (found is None and known is None) or (torch.equal(found, known) and found.dtype == known.dtype), name
        assert mine.seq_attr_dict == captums.seq_attr_dict
        mine.seq_attr = captums.seq_attr = [0.0, 0.5, 1.0]
        assert mine.seq_attr_dict == captums.seq_attr_dict == {"the": 0.0, "sun": 0.5, "is": 1.0}
        assert (mine.input_tokens, mine.output_tokens, mine.inp) == (captums.input_tokens, captums.output_tokens, captums.inp)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seq_attr", torch.ones(1, 3)),
        ("seq_attr", [1.0]),
        ("token_attr", torch.ones(3)),
        ("token_attr", torch.ones(3, 2)),
        ("output_probs", [1.0]),
    ],
)
def test_shapes_that_do_not_fit_are_refused_and_nothing_changes(name, value):
    mine, captums = both()
    with pytest.raises(AssertionError):
        setattr(captums, name, value)
    before = getattr(mine, name)
    with pytest.raises(InputError, match=f"{name} has shape"):
        setattr(mine, name, value)
    assert getattr(mine, name) is before
    with pytest.raises(InputError, match=f"{name} has shape"):
        LLMAttributionResult(**({"input_tokens": ["a"] * 3, "output_tokens": ["b"] * 2, "seq_attr": torch.ones(3)} | {name: value}))


@pytest.fixture
def pyplot(monkeypatch):
    from matplotlib import pyplot

    pyplot.close("all")
    monkeypatch.setattr(pyplot, "show", lambda: None)
    yield pyplot
    pyplot.close("all")


def test_plots_return_figure_and_axes_or_are_shown(pyplot):
    for result in both():
        for plot in (result.plot_token_attr, result.plot_seq_attr):
            figure, axes = plot()
            assert axes in figure.axes
            assert figure.number in pyplot.get_fignums()
            assert plot(show=True) is None
    (_, mine), (_, captums) = (result.plot_token_attr() for result in both())
    for axis in ("x", "y"):
        found, known = ([text.get_text() for text in getattr(axes, f"get_{axis}ticklabels")()] for axes in (mine, captums))
        assert found == known
    assert np.array_equal(np.sign(mine.images[0].get_array()), np.sign(captums.images[0].get_array()))


def test_an_images_heat_map_has_the_sums_of_what_overlaps(pyplot):
    found = masks(2)
    values = torch.tensor([1.0, -0.5])
    tokens = torch.tensor([[3.0, 1.0], [-2.0, 4.0], [0.0, 1.0]])
    for cls, module in ((LLMAttributionResult, ours), (Captums, theirs)):
        inp = module.ImageMaskInput(picture(), mask_list=found)
        given = {"input_tokens": inp.values, "output_tokens": ["a", "b", "c"], "seq_attr": values, "token_attr": tokens, "inp": inp}
        for place in (None, 1, -1, (0, 2)):
            figure, axes = cls(**given).plot_image_heatmap(target_token_pos=place)
            assert [text.get_text() for text in axes.texts] == ["0", "1"]
            ends = [text.get_text().replace("\N{MINUS SIGN}", "-") for text in figure.axes[1].get_yticklabels()]
            if module is ours:
                row = values if place is None else tokens[place] if isinstance(place, int) else tokens[slice(*place)].sum(0)
                most = (row[0] * found[0] + row[1] * found[1]).abs().max()
                assert float(ends[-1]) == -float(ends[0]) == pytest.approx(float(most), rel=0.01)
        assert cls(**given).plot_image_heatmap(show=True) is None
    mine = LLMAttributionResult(**(given | {"inp": ours.ImageMaskInput(picture(), mask_list=found)}))
    with pytest.raises(InputError, match=r"\(3, 3\)"):
        mine.plot_image_heatmap(target_token_pos=(3, 3))
    with pytest.raises(InputError, match="token=7"):
        mine.plot_image_heatmap(target_token_pos=7)


def test_plots_that_cannot_be_drawn_say_why(pyplot):
    for result in both(token_attr=None):
        with pytest.raises(ValueError, match="plot_seq_attr"):
            result.plot_token_attr()
        with pytest.raises(ValueError, match="ImageMaskInput"):
            result.plot_image_heatmap()
    inp = ours.ImageMaskInput(picture(), mask_list=masks(3))
    result = LLMAttributionResult(input_tokens=inp.values, output_tokens=["a"], seq_attr=torch.ones(3), inp=inp)
    for place in (0, (0, 1)):
        with pytest.raises(OptionError, match="single tokens"):
            result.plot_image_heatmap(target_token_pos=place)


def test_names_that_come_again_are_kept_apart():
    given = {"input_tokens": ["the", "sun", "the", "the (2)", "the"], "output_tokens": ["a"], "seq_attr": [1.0, 2.0, 3.0, 4.0, 5.0]}
    assert Captums(**given).seq_attr_dict == {"the": 5.0, "sun": 2.0, "the (2)": 4.0}  # two are lost
    found = LLMAttributionResult(**given).seq_attr_dict
    assert sum(found.values()) == 15.0
    assert (found["the"], found["sun"]) == (1.0, 2.0)
    assert len(found) == 5


def test_captums_own_methods_take_these_inputs():
    """Planted truth: a score that counts two of three segments, one of them twice."""
    text = ours.TextTemplateInput("{} {} {}", ["sun", "moon", "rain"])

    def score(present):
        return torch.tensor(
            [2.0 * text.to_model_input(row[None]).count("sun") + text.to_model_input(row[None]).count("rain") for row in present]
        )

    for method in (theirs.FeatureAblation, theirs.ShapleyValues):
        assert method(score).attribute(text.to_tensor()).tolist() == [[2.0, 0.0, 1.0]]
