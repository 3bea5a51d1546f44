"""Figures of training dynamics: they show the numbers of `pellucid.dynamics`, name what they show, and fit on their paper."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib._pylab_helpers import Gcf
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from pellucid import InputError, OptionError
from pellucid.dynamics import (
    SUSPICIONS,
    Dynamics,
    data_map,
    draw_data_map,
    draw_forgetting,
    draw_suspects,
    draw_trajectories,
    forgetting,
    suspicion,
)
from pellucid.dynamics.pictures import BINS, LAST_BAR, LINES, LOOKS, MOST
from pellucid.dynamics.suspects import MEASURES
from pellucid.show.tiles import PAPER

LONG = ("plane", "great white shark, man-eater, Carcharodon carcharias", "a_name_with_$_and_underscores_that_is_long", "日本語の名前")
WORDS = "A film that begins as a comedy and ends, I $must$ say, as something else. " * 9


def made(size=60, epochs=8, unseen=2, seed=0):
    """Examples from easy to hard, the last of which were never seen; of four classes."""
    generator = torch.Generator().manual_seed(seed)
    skill = torch.linspace(3, -3, size)[:, None] + torch.linspace(-1, 1, epochs)
    margin = skill + torch.randn(size, epochs, generator=generator)
    labels = torch.randint(0, 4, (size,), generator=generator)
    predicted = torch.where(margin > 0, labels[:, None], (labels[:, None] + 1) % 4)
    probability = margin.sigmoid()
    if unseen:
        probability[-unseen:], margin[-unseen:], predicted[-unseen:], labels[-unseen:] = torch.nan, torch.nan, -1, -2
    return Dynamics(probability, margin, predicted, labels)


@pytest.fixture(autouse=True)
def _pyplot_knows_nothing():
    yield
    assert not Gcf.get_all_fig_managers()


@pytest.fixture(scope="module")
def dynamics():
    return made()


def texts_of(figure):
    return [text.get_text().replace("\N{NO-BREAK SPACE}", " ") for text in figure.findobj(Text) if text.get_text().strip()]


def words_of(figure):
    return " ".join(" ".join(texts_of(figure)).split())


def scattered(axes):
    """What lies where, by name."""
    return {found.get_label(): np.asarray(found.get_offsets()) for found in axes.collections if isinstance(found, PathCollection)}


def assert_it_fits(figure):
    """All text is on the paper, and no text touches another."""
    figure.draw_without_rendering()
    page = figure.bbox
    # What lies beyond the limits of an axis is a tick that is not drawn.
    hidden = {
        id(label)
        for axes in figure.axes
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim()))
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        for label in (tick.label1, tick.label2)
        if not axes.axison or not min(limits) <= tick.get_loc() <= max(limits) or not label.get_visible()
    }
    shown = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip() and id(text) not in hidden]
    # Of an annotation without its arrow.
    boxes = [(text.get_text(), Text.get_window_extent(text).padded(-1)) for text in shown]
    for words, box in boxes:
        assert page.x0 <= box.x0 < box.x1 <= page.x1, words
        assert page.y0 <= box.y0 < box.y1 <= page.y1, words
    for tile in figure.findobj(lambda artist: isinstance(artist, Rectangle) and to_hex(artist.get_facecolor()) == PAPER):
        frame = tile.get_window_extent()
        inside = [box for _, box in boxes if frame.contains(box.x0, (box.y0 + box.y1) / 2) or frame.contains(box.x1, (box.y0 + box.y1) / 2)]
        assert inside
        assert all(frame.x0 < box.x0 < box.x1 < frame.x1 and frame.y0 < box.y0 < box.y1 < frame.y1 for box in inside)
    for (words, box), (others, other) in itertools.combinations(boxes, 2):
        assert not box.overlaps(other), (words, others)


# The data map


def test_every_example_has_its_place_in_the_map(dynamics):
    figure = draw_data_map(dynamics, suspects=[50, 3, 3], classes=LONG)
    points, found = scattered(figure.axes[0]), data_map(dynamics)
    assert (points.pop("suspects") == np.stack([found.variability[[50, 3]], found.confidence[[50, 3]]], 1)).all()
    correct = dynamics.correct[:58].sum(1).tolist()
    names = ["never" if n == 0 else "always" if n == 8 else BINS[1 + n * 4 // 8] for n in correct]
    assert set(points) == set(BINS)
    assert min(map(names.count, BINS)) > 0  # each bin is tried
    for name, places in points.items():
        own = [i for i in range(58) if names[i] == name]
        np.testing.assert_array_equal(places, np.stack([found.variability[own], found.confidence[own]], 1))
    words = words_of(figure)
    assert "data map of 58 examples" in words
    assert "2 examples never seen, and left out" in words
    assert "ringed: #50 labelled " in words
    for region in ("easy to learn", "ambiguous", "hard to learn"):
        assert region in words


def test_the_histograms_and_the_legend_count_all(dynamics):
    _, confidence, variability, legend = draw_data_map(dynamics).axes
    found = data_map(dynamics)
    for axes, values, limit in ((confidence, found.confidence, 1), (variability, found.variability, 0.5)):
        heights = [bar.get_height() for bar in axes.patches]
        assert heights == np.histogram(values[:58], 20, (0, limit))[0].tolist()
    sizes = [bar.get_width() for bar in legend.patches]
    assert sum(sizes) == 58
    assert [to_hex(bar.get_facecolor()) for bar in legend.patches] == [colour for colour, _ in LOOKS]
    assert [line.get_marker() for line in legend.lines] == [sign for _, sign in LOOKS]
    assert [text.get_text() for text in legend.texts] == [f"{size:.0f}" for size in sizes]
    assert [text.get_text() for text in legend.get_yticklabels()] == list(BINS)


def test_no_point_lies_right_of_the_dashed_line(dynamics):
    axes = draw_data_map(dynamics).axes[0]
    limit, up = axes.lines[0].get_data()
    for places in scattered(axes).values():
        assert (places[:, 0] <= np.interp(places[:, 1], up, limit) + 1e-3).all()


def test_of_many_examples_some_are_drawn_and_all_are_counted():
    many, far = made(25_000, 3, 0), range(40)
    figure = draw_data_map(many, suspects=far)
    points = scattered(figure.axes[0])
    rings = points.pop("suspects")
    drawn = np.concatenate(list(points.values()))
    assert len(drawn) == MOST
    assert len(rings) == 40  # more than a choice would hold by chance
    assert all((drawn == ring).all(1).any() for ring in rings)
    assert all(found.get_rasterized() for found in figure.axes[0].collections if found.get_label() in BINS)
    assert "20,000 of 25,000 points are drawn, chosen at random (seed 0)" in words_of(figure)
    assert sum(bar.get_width() for bar in figure.axes[3].patches) == 25_000
    again, other = (np.concatenate(list(scattered(draw_data_map(many, seed=seed).axes[0]).values())[:6]) for seed in (0, 1))
    alone = np.concatenate(list(scattered(draw_data_map(many).axes[0]).values())[:6])
    assert (again == alone).all()
    assert other.shape != again.shape or (other != again).any()


def test_training_that_diverged(dynamics):
    lost = Dynamics(dynamics.probability.clone(), dynamics.margin.clone(), dynamics.predicted, dynamics.labels)
    lost.probability[:5], lost.margin[:5] = torch.nan, torch.nan
    figure = draw_data_map(lost, suspects=[2, 59, 9])
    assert len(scattered(figure.axes[0])["suspects"]) == 1
    assert "data map of 53 examples" in words_of(figure)
    assert "5 examples with nothing but NaN" in words_of(figure)
    assert "2 suspects without a place" in words_of(figure)
    assert "of 53 labels" in words_of(draw_suspects(lost, ["text"] * 60, count=3))
    with pytest.raises(InputError, match="only with NaN"):
        draw_trajectories(lost, [1])
    lost.probability[:] = torch.nan
    with pytest.raises(InputError, match=r"58 examples that were seen all are NaN; .*lower learning rate"):
        draw_data_map(lost)


# Forgetting


def forgotten(dynamics, index):
    """How often, step by step; None if it was never right."""
    right = [bool(c) for c, s in zip(dynamics.correct[index], dynamics.seen[index], strict=True) if s]
    return sum(a and not b for a, b in itertools.pairwise(right)) if any(right) else None


def test_bars_of_forgetting(dynamics):
    axes = draw_forgetting(dynamics).axes[0]
    events = [forgotten(dynamics, i) for i in range(58)]
    known = [n for n in events if n is not None]
    assert max(known) > 1
    assert 0 < events.count(None) < 30
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == [*(known.count(n) for n in range(max(known) + 1)), events.count(None)]
    assert [text.get_text() for text in axes.texts] == [str(height) for height in heights]
    assert [text.get_text() for text in axes.get_xticklabels()] == [*map(str, range(max(known) + 1)), "never\nlearned"]
    assert axes.patches[-1].get_x() > axes.patches[-2].get_x() + 1.2  # apart
    words = words_of(axes.figure)
    assert f"{known.count(0)} of 58 examples were never forgotten" in words
    assert f"{events.count(None)} never learned" in words
    assert "2 examples never seen" in words


def test_what_was_forgotten_very_often_shares_a_bar():
    right = torch.arange(80).remainder(2)[None].repeat(3, 1)  # forgotten 39 times
    right[1, 8:] = 1  # 3 times
    one = Dynamics(right.float(), right.float(), right, torch.ones(3).long())
    assert forgetting(one).events.tolist() == [39, 3, 39]
    axes = draw_forgetting(one).axes[0]
    heights = [bar.get_height() for bar in axes.patches]
    assert (heights[3], heights[LAST_BAR], sum(heights)) == (1, 2, 3)
    assert [text.get_text() for text in axes.get_xticklabels()][-2:] == [f"{LAST_BAR}+", "never\nlearned"]
    assert_it_fits(axes.figure)


# Trajectories


def test_lines_and_crosses(dynamics):
    some = Dynamics(dynamics.probability.clone(), dynamics.margin, dynamics.predicted.clone(), dynamics.labels)
    some.probability[30, 2:4], some.predicted[30, 2:4] = torch.nan, -1
    chosen = [57, 30, 0]
    axes = draw_trajectories(some, torch.tensor(chosen), classes=LONG).axes[0]
    assert len(axes.lines) == 2 * len(chosen)
    for i, line, crosses in zip(chosen, axes.lines[::2], axes.lines[1::2], strict=True):
        seen = some.seen[i].nonzero().flatten().tolist()
        assert line.get_xdata().tolist() == seen
        assert line.get_ydata().tolist() == some.probability[i, seen].tolist()
        assert crosses.get_xdata().tolist() == [e for e in seen if some.predicted[i, e] != some.labels[i]]
        assert crosses.get_color() == line.get_color()
    assert len(axes.lines[3].get_xdata()) > 1
    for text, i in zip(axes.texts, sorted(chosen, key=lambda i: some.probability[i, -1]), strict=True):
        assert text.get_text().startswith(f"#{i} labelled {LONG[some.labels[i]][:4]}")
        assert to_hex(text.arrow_patch.get_edgecolor()) == LINES[chosen.index(i)][0]


@pytest.mark.parametrize("chosen", [range(12), range(46, 58), range(24, 36)])
def test_labels_of_lines_keep_clear_of_each_other(dynamics, chosen):
    figure = draw_trajectories(dynamics, list(chosen), classes=LONG)
    assert len(figure.axes[0].texts) == 12
    assert_it_fits(figure)


# Suspects


def pictures_of(figure):
    return [axes.images[0].get_array() for axes in figure.axes if axes.images]


@pytest.mark.parametrize("by", SUSPICIONS)
def test_the_most_suspicious_come_first(dynamics, by):
    figure = draw_suspects(dynamics, [f"text {i}" for i in range(60)], by=by, count=7)
    scores = suspicion(dynamics, by)
    worst = sorted(range(58), key=lambda i: -float(scores[i]))[:7]
    texts = texts_of(figure)
    assert [text for text in texts if text.startswith("#")] == [f"#{i}" for i in worst]
    assert [text for text in texts if text.startswith("text ")] == [f"text {i}" for i in worst]
    assert set(MEASURES) == set(SUSPICIONS)
    short, sign, *_ = MEASURES[by]
    at = texts.index(f"#{worst[0]}")
    captions = texts[at : texts.index(f"text {worst[0]}")]
    label, last = int(dynamics.labels[worst[0]]), int(dynamics.predicted[worst[0], -1])
    assert label != last
    assert captions[1:6] == ["label", str(label), "model", str(last), short]
    assert float(captions[6].replace("\N{MINUS SIGN}", "-")) == pytest.approx(sign * float(scores[worst[0]]), rel=0.01)


def test_the_prediction_is_shown_only_where_it_differs():
    easy = made(4, 3, 0)
    easy = Dynamics(easy.probability, easy.margin, easy.labels[:, None].repeat(1, 3), easy.labels)
    easy.predicted[2, -1] = 3 - easy.labels[2]
    easy.predicted[1] = torch.tensor([3 - int(easy.labels[1]), int(easy.labels[1]), -1])  # right when it was last seen
    assert texts_of(draw_suspects(easy, ["a"] * 4)).count("model") == 1
    easy.predicted[2, -1] = easy.labels[2]
    figure = draw_suspects(easy, ["a"] * 4)
    assert "model" not in texts_of(figure)
    assert "its last prediction was the label of all of these" in words_of(figure)


def test_pictures_of_every_kind_are_the_same_pictures(dynamics):
    colour = np.random.default_rng(0).integers(0, 256, (60, 5, 7, 3), dtype=np.uint8)
    floats = colour.astype(np.float32) / 255
    worst = suspicion(dynamics).nan_to_num(-torch.inf).argsort(descending=True)[:2].tolist()
    tensor = torch.tensor(floats).permute(0, 3, 1, 2)
    several = [
        colour, floats, tensor, torch.tensor(colour).permute(0, 3, 1, 2), list(tensor), list(colour),
        [Image.fromarray(one) for one in colour], lambda i: tensor[i], lambda i: Image.fromarray(colour[i]),
    ]  # fmt: skip
    for given in several:
        found = pictures_of(draw_suspects(dynamics, given, count=2))
        np.testing.assert_array_equal(np.stack(found), colour[worst])
    for given in (
        colour[..., 0],
        floats[..., 0],
        tensor[:, :1],
        tensor[:, 0],
        colour[..., :1],
        [Image.fromarray(one) for one in colour[..., 0]],
    ):
        found = np.stack(pictures_of(draw_suspects(dynamics, given, count=2)))
        np.testing.assert_array_equal(found.reshape(2, 5, 7, -1)[..., 0], colour[worst][..., 0])


def test_channels_of_a_tensor_come_first_whatever_its_width(dynamics):
    tensor = torch.rand(60, 3, 5, 3)
    (found,) = pictures_of(draw_suspects(dynamics, tensor, count=1))
    worst = int(suspicion(dynamics).nan_to_num(-torch.inf).argmax())
    np.testing.assert_allclose(found / 255, tensor[worst].permute(1, 2, 0), atol=0.5 / 255 + 1e-6)


def test_a_picture_with_a_palette_has_its_colours(dynamics):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    assert pictures_of(draw_suspects(dynamics, lambda i: image, count=1))[0][0, 0].tolist() == [255, 0, 0]


def test_texts_and_rows_are_cut_with_an_ellipsis(dynamics):
    words = draw_suspects(dynamics, [WORDS] * 60, count=1)
    lines = texts_of(words)
    body = lines[next(i for i, line in enumerate(lines) if line.startswith("A film")) :]
    body = body[: next(i for i, line in enumerate(body) if line.endswith("…")) + 1]
    assert len(body) == 7
    assert WORDS.startswith(" ".join(body)[:-1].replace(r"\$", "$"))
    row = {f"column {k}": k / 3 for k in range(20)}
    found = texts_of(draw_suspects(dynamics, [row] * 60, count=1))
    assert "… and 12 more" in found
    assert found[found.index("column 7") + 1] == "2.33"
    assert "column 8" not in found
    assert "3.50" in texts_of(draw_suspects(dynamics, [{"x": torch.tensor(3.5)}] * 60, count=1))
    assert "(empty)" in texts_of(draw_suspects(dynamics, [" "] * 60, count=1))


ROW = {"age": 39, "capital gain (EUR per year, before tax)": 1234.5678, "occupation": "protective service of a long kind", "": None} | {
    f"c{k}": k for k in range(9)
}
KINDS = {
    "texts": lambda i: [WORDS, "word" * 90, "日本語の文章は空白なしで書かれる。" * 9, "<b>\n\t\x07_{a}^2 \\alpha 100% $", ""][i % 5],
    "rows": lambda i: dict(list(ROW.items())[: 3 + i % 12]),
    "pictures": lambda i: np.full((3 + i % 9, 20 - i % 11), 0.5),
    "mixed": lambda i: [WORDS, ROW, np.zeros((4, 4))][i % 3],
}
FIGURES = {
    "map": lambda d: draw_data_map(d, suspects=range(40), classes=LONG),
    "narrow map": lambda d: draw_data_map(d, suspects=[1], width=6),
    "map of one": lambda d: draw_data_map(d, classes=LONG),
    "forgetting": draw_forgetting,
    "lines": lambda d: draw_trajectories(d, [0, 1], classes=LONG),
} | {kind: lambda d, see=see: draw_suspects(d, see, classes=LONG, count=11) for kind, see in KINDS.items()}


@pytest.mark.parametrize("name", FIGURES)
def test_everything_fits_on_the_paper(dynamics, name):
    tried = made(1, 1, 0, 2) if name == "map of one" else dynamics
    assert_it_fits(FIGURES[name](tried))


@pytest.mark.parametrize(("width", "count"), [(6.0, 7), (12.5, 1)])
def test_galleries_of_any_width_fit(dynamics, width, count):
    for see in KINDS.values():
        figure = draw_suspects(dynamics, see, classes=LONG, count=count, width=width)
        assert figure.get_figwidth() == width
        assert_it_fits(figure)


# What is refused, and what is left behind


def test_the_smallest_of_training_runs():
    one = made(1, 3, 0)
    assert sum(map(len, scattered(draw_data_map(one).axes[0]).values())) == 1
    assert sum(bar.get_height() for bar in draw_forgetting(one).axes[0].patches) == 1
    assert len(draw_trajectories(one, [0]).axes[0].lines) == 2
    assert "the most suspicious of 1 label" in words_of(draw_suspects(one, np.zeros((1, 4, 4))))
    assert "nothing could vary" in words_of(draw_data_map(made(5, 1, 0)))


NOBODY = Dynamics(torch.empty(0, 3), torch.empty(0, 3), torch.empty(0, 3, dtype=torch.long), torch.empty(0, dtype=torch.long))
REFUSED = {
    "nobody": (lambda d: draw_data_map(NOBODY), InputError, "of 0 examples none was seen; record"),
    "unseen": (lambda d: draw_forgetting(made(3, 3, 3)), InputError, "of 3 examples none was seen"),
    "nobody's lines": (lambda d: draw_trajectories(NOBODY, [0]), InputError, "none was seen"),
    "nobody's label": (lambda d: draw_suspects(NOBODY, []), InputError, "none was seen"),
    "suspects": (lambda d: draw_data_map(d, suspects=[3, 60]), InputError, "suspects holds 60, and there are the examples 0 to 59"),
    "negative": (lambda d: draw_data_map(d, suspects=[-1]), InputError, "suspects holds -1"),
    "mask": (lambda d: draw_data_map(d, suspects=torch.zeros(60).bool()), InputError, r"mask\.nonzero"),
    "no indices": (lambda d: draw_trajectories(d, ["a"]), InputError, "which is a list"),
    "which": (lambda d: draw_trajectories(d, [99]), InputError, "which holds 99"),
    "too many": (lambda d: draw_trajectories(d, range(13)), InputError, "which names 13 examples; give 1 to 12"),
    "none": (lambda d: draw_trajectories(d, []), InputError, "which names 0 examples"),
    "never seen": (lambda d: draw_trajectories(d, [0, 58]), InputError, "example 58, which was never seen"),
    "classes": (lambda d: draw_data_map(d, classes=("a", "b")), InputError, "2 names of classes, and class 3 occurs"),
    "width": (lambda d: draw_data_map(d, width=2), OptionError, "width=2 leaves no room; give 6"),
    "NaN": (lambda d: draw_suspects(d, ["a"] * 60, width=float("nan")), OptionError, "width=nan"),
    "by": (lambda d: draw_suspects(d, ["a"] * 60, by="loss"), OptionError, "by is 'loss'; choose one of 'area_under_margin'"),
    "count": (lambda d: draw_suspects(d, ["a"] * 60, count=0), OptionError, "count=0 shows no example"),
    "half": (lambda d: draw_suspects(d, ["a"] * 60, count=2.5), OptionError, r"count=2\.5"),
    "number": (lambda d: draw_suspects(d, np.zeros((59, 4, 4))), InputError, "59 pictures for 60 examples; give one for each"),
    "range": (lambda d: draw_suspects(d, torch.full((60, 4, 4), 16.0)), InputError, r"has values from 16\.0 to 16\.0; give uint8"),
    "normalised": (lambda d: draw_suspects(d, torch.full((60, 3, 4, 4), -1.5)), InputError, "has values from"),
    "lost": (lambda d: draw_suspects(d, np.full((60, 4, 4), np.nan)), InputError, "has values from NaN to NaN"),
    "shape": (lambda d: draw_suspects(d, np.zeros((60, 300))), InputError, r"has the shape \(300,\); .* a mapping from names to values"),
    "channels": (lambda d: draw_suspects(d, torch.zeros(60, 2, 4, 4)), InputError, r"has the shape \(2, 4, 4\)"),
    "pairs": (lambda d: draw_suspects(d, [(np.zeros((4, 4)), 3)] * 60), InputError, r"is a tuple; .*lambda i: data\[i\]\[0\]"),
    "by name": (lambda d: draw_suspects(d, dict.fromkeys(map(str, range(60)), "a")), InputError, "of a dict fails .*to_dict"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_value_and_the_way_out(dynamics, name):
    call, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        call(dynamics)


def test_matplotlib_comes_with_the_first_picture():
    code = "import sys, pellucid.dynamics as d; print('matplotlib' in sys.modules, callable(d.draw_data_map), 'matplotlib' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "True", "True"]
    import pellucid.dynamics

    with pytest.raises(AttributeError, match="no attribute 'draw_nothing'"):
        _ = pellucid.dynamics.draw_nothing
