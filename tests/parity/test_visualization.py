"""`pellucid.captum.attr.visualization` against the installed Captum: signatures, what is plotted, what it refuses."""

import inspect
import re
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
import torch

captum = pytest.importorskip("captum.attr").visualization

from pellucid import InputError, OptionError, PellucidWarning  # noqa: E402
from pellucid.captum.attr import visualization as ours  # noqa: E402

NAMES = [name for name in ours.__all__ if not isinstance(getattr(ours, name), type)]
METHODS = list(ours.ImageVisualizationMethod.__members__)
SIGNS = list(ours.VisualizeSign.__members__)
# Both refuse to show two signs as a mask or as transparency.
DRAWN = [(m, s) for m in METHODS for s in SIGNS if not (s == "all" and m in ("masked_image", "alpha_scaling"))]
BOTH = (captum, ours)


@pytest.fixture(autouse=True)
def _captum_runs(monkeypatch):
    """Captum 0.9 asks matplotlib for a function that 3.11 no longer has."""
    monkeypatch.setattr(matplotlib.cm, "get_cmap", lambda name: matplotlib.colormaps.get_cmap(name), raising=False)


@pytest.fixture(autouse=True)
def _nothing_left():
    from matplotlib import pyplot

    pyplot.close("all")
    yield
    pyplot.close("all")


def data(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def image(*shape):
    return np.random.default_rng(1).random(shape)


@pytest.mark.parametrize("name", [*NAMES, "VisualizationDataRecord"])
def test_signatures_are_captums(name):
    def parts(function):
        return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]

    assert parts(getattr(ours, name)) == parts(getattr(captum, name))


@pytest.mark.parametrize("name", ["ImageVisualizationMethod", "TimeseriesVisualizationMethod", "VisualizeSign"])
def test_enumerations_are_captums(name):
    mine, theirs = (list(getattr(module, name).__members__.items()) for module in (ours, captum))
    assert [(key, member.value) for key, member in mine] == [(key, member.value) for key, member in theirs]


def test_nothing_public_is_missing():
    made_there = {name for name, value in vars(captum).items() if getattr(value, "__module__", "") == captum.__name__}
    assert {name for name in made_there if name[0] != "_"} == set(ours.__all__)


@pytest.mark.parametrize("shape", [(6, 5, 3), (6, 5, 1)], ids=str)
@pytest.mark.parametrize("scale", [1, 255], ids=["unit", "bytes"])
@pytest.mark.parametrize(("method", "sign"), DRAWN)
def test_images_show_captums_numbers(method, sign, scale, shape):
    if shape[2] == 1 and method == "alpha_scaling":
        shape = (6, 5, 3)  # Captum fails with one channel.
    attr, picture = data(*shape), (image(*shape) * scale).astype(float if scale == 1 else np.uint8)
    look = {"outlier_perc": 5, "show_colorbar": True, "title": "t", "use_pyplot": False}
    drawn = [module.visualize_image_attr(attr, picture, method, sign, **look) for module in BOTH]
    theirs, mine = (list(axes.images) for _, axes in drawn)
    assert len(mine) == len(theirs)
    for a, b in zip(mine, theirs, strict=True):
        a_array, b_array = np.squeeze(a.get_array()), np.squeeze(b.get_array())
        # One channel under a mask: Captum shows it in false colours, we in grey.
        np.testing.assert_allclose(a_array[..., 0] if a_array.ndim > b_array.ndim else a_array, b_array, rtol=1e-12)
        assert a.get_alpha() == b.get_alpha()
    if "heat_map" in method:
        assert mine[-1].get_clim() == theirs[-1].get_clim()
        samples = np.linspace(0, 1, 20)
        np.testing.assert_array_equal(mine[-1].cmap(samples), theirs[-1].cmap(samples))
    assert [len(figure.axes) for figure, _ in drawn] == [2, 2]
    assert [axes.get_title() for _, axes in drawn] == ["t", "t"]


def test_two_dimensional_attributions_and_grey_pictures():
    (_, theirs), (_, mine) = (m.visualize_image_attr(data(6, 5), sign="all", use_pyplot=False) for m in BOTH)
    np.testing.assert_allclose(mine.images[0].get_array(), theirs.images[0].get_array())
    for method in ("blended_heat_map", "masked_image", "alpha_scaling", "original_image"):
        _, axes = ours.visualize_image_attr(data(6, 5), image(6, 5), method, use_pyplot=False)
        assert axes.images


@pytest.mark.parametrize("count", [1, 3])
def test_several_pictures_come_as_captums_do(count):
    methods, signs = ["original_image", "heat_map", "masked_image"][:count], ["all", "positive", "negative"][:count]
    given = (data(6, 5, 3), image(6, 5, 3), methods, signs, list("abc")[:count])
    made = [module.visualize_image_attr_multiple(*given, use_pyplot=False) for module in BOTH]
    (_, theirs), (_, mine) = made
    assert type(theirs) is type(mine)
    for a, b in zip(np.ravel(mine), np.ravel(theirs), strict=True):
        assert a.get_title() == b.get_title()
        np.testing.assert_allclose(a.images[0].get_array(), b.images[0].get_array())


def test_pyplot_knows_the_figure_only_if_asked(monkeypatch):
    from matplotlib import pyplot

    shown = []
    monkeypatch.setattr(pyplot, "show", lambda: shown.append(1))
    for module in BOTH:
        pyplot.close("all")
        figure, axes = module.visualize_image_attr(data(4, 4, 3))
        assert pyplot.gcf() is figure
        module.visualize_image_attr(data(4, 4, 3), plt_fig_axis=(figure, axes))
        module.visualize_image_attr_multiple(data(4, 4, 3), None, ["heat_map"], ["all"])
        module.visualize_timeseries_attr(data(9, 2), data(9, 2))
        assert pyplot.get_fignums() == [1, 2, 3]
    assert len(shown) == 8
    pyplot.close("all")
    ours.visualize_timeseries_attr(data(9, 2), data(9, 2), use_pyplot=False)
    ours.visualize_image_attr(data(4, 4, 3), use_pyplot=False)
    assert pyplot.get_fignums() == []


TENSORS = {
    "HWC": lambda attr: torch.tensor(attr),
    "CHW": lambda attr: torch.tensor(attr).permute(2, 0, 1),
    "1CHW": lambda attr: torch.tensor(attr).permute(2, 0, 1)[None],
    "with gradient": lambda attr: torch.tensor(attr, requires_grad=True),
    "CHW array": lambda attr: attr.transpose(2, 0, 1),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_show_what_arrays_do(kind):
    attr, picture = data(6, 5, 3), image(6, 5, 3)
    _, expected = ours.visualize_image_attr(attr, picture, "blended_heat_map", use_pyplot=False)
    attr, picture = TENSORS[kind](attr), TENSORS[kind](picture)
    _, axes = ours.visualize_image_attr(attr, picture, "blended_heat_map", use_pyplot=False)
    for a, b in zip(axes.images, expected.images, strict=True):
        np.testing.assert_allclose(a.get_array(), b.get_array())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_drawn(dtype):
    attr = torch.tensor(data(6, 5, 3), dtype=dtype)
    _, axes = ours.visualize_image_attr(attr, sign="all", use_pyplot=False)
    _, expected = ours.visualize_image_attr(attr.double(), sign="all", use_pyplot=False)
    np.testing.assert_array_equal(axes.images[0].get_array(), expected.images[0].get_array())


HARD = {
    "zero": (np.zeros((6, 5, 3)), "all attributions are zero"),
    "one sign": (-np.abs(data(6, 5, 3)), ""),
    "nan": (np.where(data(6, 5, 3, seed=3) > 1.5, np.nan, data(6, 5, 3)), "NaN or infinite"),
    "inf": (np.where(data(6, 5, 3, seed=3) > 1.5, np.inf, data(6, 5, 3)), "NaN or infinite"),
    "all nan": (np.full((6, 5, 3), np.nan), "30 of 30"),
    "constant": (np.ones((6, 5, 3)), ""),
}


@pytest.mark.parametrize(("method", "sign"), DRAWN)
@pytest.mark.parametrize("kind", HARD)
def test_what_captum_refuses_is_drawn_and_said(kind, method, sign):
    attr, said = HARD[kind]
    figure, axes = ours.visualize_image_attr(attr, image(6, 5, 3), method, sign, show_colorbar=True, use_pyplot=False)
    figure.canvas.draw()
    if method != "original_image" and sign in ("absolute_value", "all"):
        assert said in axes.get_title()
    if kind == "one sign" and sign == "positive" and method != "original_image":
        assert "no attribution is positive" in axes.get_title()


def test_the_original_image_needs_no_attributions():
    _, axes = ours.visualize_image_attr(None, image(6, 5, 3), "original_image", use_pyplot=False)
    np.testing.assert_array_equal(axes.images[0].get_array(), (image(6, 5, 3) * 255).astype(np.uint8))


def test_tiny_attributions_are_warned_about():
    with pytest.warns(PellucidWarning, match="close to 0"):
        ours.visualize_image_attr(data(6, 5, 3) * 1e-9, use_pyplot=False)


REFUSED = {
    "method": ({"method": "heatmap"}, OptionError, "heat_map"),
    "sign": ({"sign": "both"}, OptionError, "absolute_value"),
    "outliers": ({"outlier_perc": 101}, OptionError, "0 to 100"),
    "cmap": ({"cmap": "no such map"}, OptionError, "no such map"),
    "two signs": ({"method": "masked_image", "sign": "all"}, OptionError, "two signs"),
    "no image": ({"method": "masked_image", "original_image": None}, InputError, "original image"),
    "other image": ({"method": "masked_image", "original_image": image(5, 6, 3)}, InputError, "do not match"),
    "shape": ({"attr": data(2, 6, 5, 3)}, InputError, r"\(2, 6, 5, 3\)"),
    "no numbers": ({"attr": "cat"}, InputError, "str"),
    "nothing": ({"attr": np.zeros((0, 5))}, InputError, "nothing to draw"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_arguments_name_the_way_out_and_leave_no_figure(case):
    from matplotlib import pyplot

    options, error, words = REFUSED[case]
    with pytest.raises(error, match=words):
        ours.visualize_image_attr(**{"attr": data(6, 5, 3), "original_image": image(6, 5, 3), **options})
    assert pyplot.get_fignums() == []


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(OptionError, match="2 methods, 1 signs"):
        ours.visualize_image_attr_multiple(data(6, 5, 3), None, ["heat_map"] * 2, ["all"])


def background(axes):
    """Colours of the time steps: Captum draws rectangles, we a mesh."""
    meshes = [c for c in axes.collections if hasattr(c, "get_coordinates")]
    if meshes:
        meshes[0].update_scalarmappable()
        return meshes[0].get_facecolor()
    return np.array([patch.get_facecolor() for patch in axes.patches])


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("method", list(ours.TimeseriesVisualizationMethod.__members__))
def test_signals_show_captums_numbers(method, sign, channels_last):
    shape = (12, 3) if channels_last else (3, 12)
    options = {"method": method, "sign": sign, "channels_last": channels_last, "channel_labels": list("abc")}
    options |= {"show_colorbar": True, "title": "t"}
    made = [m.visualize_timeseries_attr(data(*shape), data(*shape, seed=1), use_pyplot=False, **options) for m in BOTH]
    (their_figure, theirs), (figure, mine) = made
    assert type(theirs) is type(mine)
    assert len(their_figure.axes) == len(figure.axes)
    for a, b in zip(np.ravel(mine), np.ravel(theirs), strict=True):
        for line, other in zip(a.lines, b.lines, strict=True):
            np.testing.assert_allclose(line.get_xydata(), other.get_xydata())
        if method == "colored_graph":
            np.testing.assert_allclose(a.collections[0].get_array(), b.collections[0].get_array())
        else:
            np.testing.assert_allclose(background(a), background(b), atol=1e-12)
            assert a.get_xlim() == (0, 11)
        assert a.get_ylabel() == b.get_ylabel()
    assert np.ravel(mine)[0].get_title() == "t"


@pytest.mark.parametrize("method", list(ours.TimeseriesVisualizationMethod.__members__))
@pytest.mark.parametrize("value", [0.0, np.nan, -1.0])
def test_hard_signals_are_drawn(value, method):
    attr = np.full((9, 2), value)
    look = {"sign": "positive", "show_colorbar": True, "use_pyplot": False}
    figure, _ = ours.visualize_timeseries_attr(attr, data(9, 2), method=method, **look)
    figure.canvas.draw()


def test_the_whole_curve_is_in_sight():
    """Captum's limits, 1.2 times the least value, cut off a curve that lies above zero."""
    signal = torch.linspace(5, 6, 9)[:, None]
    _, axes = ours.visualize_timeseries_attr(torch.ones(9, 1), signal, method="colored_graph", use_pyplot=False)
    assert axes.get_ylim()[0] < 5
    assert axes.get_ylim()[1] > 6


def test_signals_that_do_not_fit_are_refused():
    for options, words in (
        ({"attr": data(9), "data": data(9)}, r"\(9,\)"),
        ({"attr": data(9, 2), "data": data(9, 3)}, "do not fit"),
        ({"attr": data(9, 2), "data": data(9, 2), "x_values": np.arange(8)}, "8"),
        ({"attr": data(9, 2), "data": data(9, 2), "channel_labels": ["a"]}, "labels"),
    ):
        with pytest.raises(InputError, match=words):
            ours.visualize_timeseries_attr(**options, use_pyplot=False)
    with pytest.raises(OptionError, match="overlay_individual"):
        ours.visualize_timeseries_attr(data(9, 2), data(9, 2), method="lines", use_pyplot=False)
    with pytest.warns(PellucidWarning, match="channels_last"):
        ours.visualize_timeseries_attr(data(2, 9), data(2, 9), use_pyplot=False)


class Seen(HTMLParser):
    """Tags in order, which must be closed, and colours of marks."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.colours, self.open = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open.append(tag)
        self.colours += re.findall(r"background-color:\s*(hsl[^;]*\))", dict(attrs).get("style") or "")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def words_of(html):
    return re.sub(r"<[^>]*>", " ", html).split()


def records(module, words=("a", "<pad>", "good", "film")):
    return [module.VisualizationDataRecord(torch.tensor(data(len(words))), 0.9, 1, 0, 1, 2.345, list(words), 0.01)] * 2


def test_texts_look_as_captums_do(capsys):
    theirs, mine = (module.visualize_text(records(module)) for module in BOTH)
    assert type(theirs) is type(mine)
    expected = re.findall(r"hsl[^;\"]*\)", theirs.data)
    assert Seen(mine.data).colours == expected
    assert words_of(mine.data) == words_of(theirs.data)
    assert capsys.readouterr().out.count("IPython") == 2
    assert "Legend" not in ours.visualize_text(records(ours), legend=False).data


def test_texts_need_no_ipython(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    html = ours.visualize_text(records(ours))
    assert html._repr_html_() == html.data
    assert "good" in html.data


def test_texts_are_escaped():
    for html in (
        ours.visualize_text(records(ours, ["<script>alert(1)</script>", "a & b"])).data,
        ours.format_classname("<script>"),
        ours.format_tooltip("<script>", "<script>"),
        ours.format_word_importances(["a<script>"], [0.5]),
    ):
        assert "script" not in Seen(html).tags


def test_formats_are_captums():
    assert ours.format_classname("cat") == captum.format_classname("cat")
    for token in ("<pad>", "pad", "<", "<a", "[CLS]"):
        assert ours.format_special_tokens(token) == captum.format_special_tokens(token)
    assert words_of(ours.format_tooltip("a", "b")) == words_of(captum.format_tooltip("a", "b"))
    for nothing in (None, []):
        assert ours.format_word_importances(["a"], nothing) == captum.format_word_importances(["a"], nothing)


def test_importances_that_do_not_fit_are_refused_and_nan_is_grey():
    with pytest.raises(InputError, match="2 words and 1"):
        ours.format_word_importances(["a", "b"], [0.5])
    with pytest.raises(InputError, match="sum"):
        ours.format_word_importances(["a", "b"], torch.zeros(2, 3))
    assert "hsl(0, 0%, 75%)" in ours.format_word_importances(["a"], [float("nan")])
    assert "hsl" in ours.format_word_importances(["a"], torch.tensor([0.3], dtype=torch.bfloat16))


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("colour", ["black", np.array([1.0, 0.5, 0.0, 1.0])], ids=["name", "rgba"])
def test_borders_of_masks_are_captums(width, colour):
    from matplotlib.figure import Figure

    mask = np.random.default_rng(0).random((12, 14)) > 0.15
    axes = [Figure().subplots() for _ in BOTH]
    for module, each in zip(BOTH, axes, strict=True):
        module.draw_mask_border(each, mask, width, colour)
        module.draw_mask_legend(each, mask, "7")
        module.draw_mask_border(each, np.zeros((3, 3), bool))
        module.draw_mask_legend(each, np.zeros((3, 3), bool), "7")
    theirs, mine = axes
    assert [len(each.images) for each in axes] == [1, 1]
    np.testing.assert_array_equal(mine.images[0].get_array(), theirs.images[0].get_array())
    assert mine.texts[0].get_position() == theirs.texts[0].get_position()
    assert mine.texts[0].get_bbox_patch().get_facecolor() == theirs.texts[0].get_bbox_patch().get_facecolor()
    ours.draw_mask_border(Figure().subplots(), torch.tensor(mask))
    with pytest.raises(OptionError, match="at least 1"):
        ours.draw_mask_border(mine, mask, 0)
    with pytest.raises(InputError, match="height"):
        ours.draw_mask_legend(mine, mask[0], "7")
