"""The zoo: what is shipped does what is written beside it, on examples it never saw, without a network."""

import json
import os
import platform
import socket
import subprocess
import sys
from collections import Counter
from functools import cache, partial
from importlib.metadata import version
from importlib.resources import files

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn

import pellucid
from pellucid import FileError, InputError, MissingExtra, OptionError, zoo
from pellucid.zoo import data, docstrings, shelf, train, words

GOALS = {"digits": 0.97, "tiles": 0.88, "cancer": 0.94, "sentences": 0.85}
SHAPES = {"digits": (1, 1, 8, 8), "tiles": (1, 3, 32, 32), "cancer": (1, 30)}
ALL = 10**9
every_model = pytest.mark.parametrize("name", GOALS)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refused(*_):
        raise AssertionError("the zoo used the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


@cache
def loaded(name):
    return data.LOADERS[name]()


def task_of(name):
    return getattr(zoo, name)()


def raw_of(name, index=0):
    return zoo.held_out(name, index + 1)[index]


def logits(task, raw):
    sample = task.prepare(raw)
    with torch.no_grad():
        return task.model(*sample.inputs, **sample.keywords)


def key(raw):
    """What makes two raw examples the same."""
    if isinstance(raw, str):
        return " ".join(words.split(raw))
    return np.asarray(raw).tobytes()


def test_there_are_four():
    assert set(zoo.NAMES) == set(GOALS)


@every_model
def test_a_model_loads_in_eval_mode_the_same_each_time_and_moves_no_random_state(name):
    state = torch.get_rng_state()
    first, second = task_of(name), task_of(name)
    assert torch.equal(state, torch.get_rng_state())
    assert not any(module.training for module in first.model.modules())
    assert all(p.device.type == "cpu" and p.dtype == torch.float32 for p in first.model.parameters())
    assert first.model is not second.model
    raw, _ = raw_of(name)
    found = logits(first, raw)
    assert found.shape == (1, len(first.classes))
    assert torch.equal(found, logits(second, raw))
    assert torch.equal(found, logits(first, raw))  # no randomness in the pass itself


@every_model
def test_the_accuracy_written_beside_the_weights_is_found_again_from_raw_examples(name):
    task, examples = task_of(name), zoo.held_out(name, ALL)
    right = sum(int(logits(task, raw).argmax()) == label for raw, label in examples)
    stored = shelf.facts(name)
    assert zoo.accuracy(name) == stored["held_out_accuracy"]
    assert right / len(examples) >= GOALS[name]
    packages = {package: version(package) for package in ("torch", "numpy", "scikit-learn")}
    if stored["versions"] == {"python": platform.python_version(), **packages}:
        assert len(examples) == stored["held_out_size"]
        assert right / len(examples) == pytest.approx(zoo.accuracy(name), abs=1e-12)
    else:  # rounding may turn an example that lies on the edge; docstrings change from version to version
        assert right / len(examples) == pytest.approx(zoo.accuracy(name), abs=0.02)


@every_model
def test_what_is_held_out_is_not_among_what_was_trained_on(name):
    parts = loaded(name)
    trained, held_out = ({key(raw) for raw in split.raw} for split in (parts.train, parts.held_out))
    assert len(held_out) > 100
    assert len(trained) > 100
    assert not trained & held_out
    rows = {row.numpy().tobytes() for row in parts.train.x}
    assert not any(row.numpy().tobytes() in rows for row in parts.held_out.x) or name == "sentences"


@pytest.mark.parametrize("name", ["digits", "cancer"])
def test_the_two_parts_are_the_whole_data_set(name):
    import sklearn.datasets

    source = sklearn.datasets.load_digits() if name == "digits" else sklearn.datasets.load_breast_cancer()
    parts = loaded(name)
    assert len(parts.train.raw) + len(parts.held_out.raw) == len(source.target)
    labels = [*parts.train.y.tolist(), *parts.held_out.y.tolist()]
    assert Counter(labels) == Counter(source.target.tolist())
    assert tuple(map(str, source.target_names)) == parts.classes == task_of(name).classes


def test_standardisation_knows_only_the_training_part():
    parts, stored = loaded("cancer"), shelf.facts("cancer")
    rows = np.stack(parts.train.raw)
    for facts in (stored, parts.facts):
        np.testing.assert_allclose(facts["mean"], rows.mean(0), rtol=1e-12)
        np.testing.assert_allclose(facts["scale"], rows.std(0), rtol=1e-12)
    torch.testing.assert_close(parts.train.x.mean(0), torch.zeros(30), rtol=0, atol=1e-5)
    torch.testing.assert_close(parts.train.x.std(0, correction=0), torch.ones(30), rtol=0, atol=1e-5)


def test_tiles_are_cut_from_their_photograph_and_do_not_overlap():
    import sklearn.datasets

    parts, temple = loaded("tiles"), sklearn.datasets.load_sample_image("china.jpg")
    assert parts.classes[0] == "temple"
    grid = {
        temple[top : top + 32, left : left + 32].tobytes()
        for top in range(0, temple.shape[0] - 31, 32)
        for left in range(0, temple.shape[1] - 31, 32)
    }
    mine = [key(raw) for split in (parts.train, parts.held_out) for raw, y in zip(split.raw, split.y.tolist(), strict=True) if y == 0]
    assert len(mine) > 50
    assert len(set(mine)) == len(mine)
    assert set(mine) <= grid


def test_no_two_sentences_differ_only_in_case_numbers_or_punctuation():
    parts = loaded("sentences")
    bare = ([" ".join(w for w in words.split(raw) if not w.isdigit()) for raw in split.raw] for split in (parts.train, parts.held_out))
    trained, held_out = map(set, bare)
    assert not trained & held_out


@pytest.mark.slow
def test_the_split_of_sentences_does_not_depend_on_the_process():
    code = "from pellucid import zoo; print(repr(zoo.held_out('sentences', 400)))"
    environment = os.environ | {"PYTHONHASHSEED": "77"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, encoding="utf-8")
    assert found.stdout.strip() == repr(zoo.held_out("sentences", 400))


@every_model
def test_held_out_examples_come_in_the_same_order_as_many_as_asked_for(name):
    few, more = zoo.held_out(name, 3), zoo.held_out(name, 7)
    assert [len(few), len(more), len(zoo.held_out(name))] == [3, 7, 48]
    assert [(key(raw), label) for raw, label in few] == [(key(raw), label) for raw, label in more[:3]]
    assert {label for _, label in zoo.held_out(name, ALL)} == set(range(len(task_of(name).classes)))


def test_the_weights_are_small():
    folder = files("pellucid.zoo") / "weights"
    stored = {path.name: len(path.read_bytes()) for path in folder.iterdir()}
    assert set(stored) == {f"{name}.{end}" for name in GOALS for end in ("json", "safetensors")}
    assert sum(stored.values()) <= 2_000_000


@every_model
def test_the_facts_are_those_of_the_model(name):
    stored, task = shelf.facts(name), task_of(name)
    assert stored["parameters"] == sum(p.numel() for p in task.model.parameters())
    assert stored["name"] == name
    assert len(stored["classes"]) == len(task.classes)


@every_model
def test_prepared_examples_fit_the_model_and_explain(name):
    task, (raw, _) = task_of(name), raw_of(name, 1)
    sample = task.prepare(raw)
    assert all(i.shape[0] == 1 and i.dtype == torch.float32 for i in sample.inputs)
    if name in SHAPES:
        assert sample.inputs[0].shape == SHAPES[name]
    explanation = pellucid.explain(
        task.model, sample.inputs, 0, "saliency", kwargs=sample.keywords, classes=task.classes, names=sample.names, kind=task.kind
    )
    assert explanation.attribution.shape == sample.inputs[0].shape
    assert explanation.healthy
    if sample.baselines is not None:
        assert [getattr(b, "shape", None) for b in sample.baselines] == [i.shape for i in sample.inputs]


@pytest.mark.parametrize("name", ["digits", "tiles"])
def test_a_picture_is_prepared_as_it_was_for_training_in_whatever_form_it_comes(name):
    task, split = task_of(name), loaded(name).held_out
    image = split.raw[4]
    pixels = np.asarray(image)
    for raw in (image, pixels, pixels / 255, pixels.astype(np.int64)):
        sample = task.prepare(raw)
        torch.testing.assert_close(sample.inputs[0], split.x[4:5], rtol=0, atol=1e-6)
        assert np.array_equal(sample.picture, pixels)
    large = task.prepare(np.full((50, 71, 3), 51, dtype=np.uint8))
    torch.testing.assert_close(large.inputs[0], torch.full(SHAPES[name], 0.2))


def test_a_digit_on_bright_paper_is_inverted():
    task, image = zoo.digits(), loaded("digits").held_out.raw[0]
    assert torch.equal(task.prepare(ImageOps.invert(image)).inputs[0], task.prepare(image).inputs[0])


def test_a_row_is_standardised_and_its_baseline_is_the_mean():
    task, stored = zoo.cancer(), shelf.facts("cancer")
    mean, scale = np.array(stored["mean"]), np.array(stored["scale"])
    sample = task.prepare(mean + 2 * scale)
    torch.testing.assert_close(sample.inputs[0], torch.full((1, 30), 2.0))
    assert torch.equal(sample.baselines[0], task.prepare(mean).inputs[0])
    assert sample.names == tuple(stored["columns"])


def test_a_text_is_embedded_word_by_word_and_its_baseline_is_padding():
    task = zoo.sentences()
    sample = task.prepare("Return the flooglewump, 3!")
    assert sample.names == ("return", "the", "[flooglewump]", "3")
    numbers = [shelf.facts("sentences")["words"].index(word) + 2 for word in ("return", "the")]
    assert torch.equal(sample.inputs[0][0, :2], task.model.words.weight[numbers])
    assert torch.equal(sample.inputs[0][0, 2], task.model.words.weight[1])
    assert not sample.inputs[0].requires_grad
    assert not sample.baselines[0].any()
    assert sample.keywords["mask"].tolist() == [[True] * 4]


WRONG = [
    ("digits", np.zeros((2, 8, 8, 3)), "(2, 8, 8, 3)"),
    ("digits", np.full((8, 8), 300), "300"),
    ("digits", np.full((8, 8), 3.5), "3.5"),
    ("tiles", np.full((4, 4, 3), np.nan), "nan"),
    ("tiles", "a picture", "a picture"),
    ("tiles", Image.new("I;16", (32, 32)), "more than 8 bits"),
    ("cancer", np.zeros(29), "(29,)"),
    ("cancer", np.zeros((2, 30)), "one by one"),
    ("cancer", [0.0] * 29 + [float("inf")], "worst fractal dimension"),
    ("cancer", ["many"] * 30, "not an array of numbers"),
    ("sentences", "", "0 words"),
    ("sentences", "word " * 65, "65 words"),
    ("sentences", ["a", "list"], "list"),
]


@pytest.mark.parametrize(("name", "raw", "word"), WRONG)
def test_examples_that_do_not_fit_are_refused_in_words(name, raw, word):
    with pytest.raises(InputError) as caught:
        task_of(name).prepare(raw)
    assert word in str(caught.value)


def test_a_name_that_is_not_in_the_zoo():
    for ask in (zoo.held_out, zoo.accuracy, train.train):
        with pytest.raises(OptionError, match=r"'lion'.*digits, tiles, cancer, sentences"):
            ask("lion")


def test_without_scikit_image_the_tiles_name_the_extra_and_the_rest_works(monkeypatch):
    for module in [m for m in sys.modules if m.startswith("skimage.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(MissingExtra, match=r"pellucid\[vision\]"):
        zoo.held_out("tiles")
    assert zoo.tiles().prepare(np.zeros((5, 5, 3))).inputs[0].shape == (1, 3, 32, 32)
    assert len(zoo.held_out("digits", 2)) == 2


def test_missing_weights_and_missing_sources_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(shelf, "files", lambda package: tmp_path)
    with pytest.raises(FileError, match=r"digits\.safetensors.*pellucid\.zoo\.train"):
        shelf.trained("digits")
    monkeypatch.setattr(docstrings, "_root", lambda name: tmp_path)
    with pytest.raises(FileError, match=r"0 passages.*python"):
        docstrings.passages.__wrapped__()


def test_training_the_smallest_model_again_gives_a_model_as_good(tmp_path):
    state = torch.get_rng_state()
    report = train.train("cancer", tmp_path / "new")
    assert torch.equal(state, torch.get_rng_state())
    assert report == json.loads((tmp_path / "new" / "cancer.json").read_text())
    assert report["held_out_accuracy"] >= GOALS["cancer"]
    again = train.train("cancer", tmp_path / "again")
    assert again["held_out_accuracy"] == report["held_out_accuracy"]
    one, other = ((tmp_path / folder / "cancer.safetensors").read_bytes() for folder in ("new", "again"))
    assert one == other


def test_what_training_writes_is_what_is_loaded(tmp_path, monkeypatch, capsys):
    recipe = train.Recipe(epochs=1, rate=3e-3, decay=0.0, batch=64)
    monkeypatch.setattr(train, "RECIPES", {"cancer": recipe})
    monkeypatch.setattr(train, "train", partial(train.train, folder=tmp_path / "weights"))
    monkeypatch.setattr(train, "WEIGHTS", tmp_path / "weights")
    threads = torch.get_num_threads()
    train.main(["cancer"])
    torch.set_num_threads(threads)
    monkeypatch.setattr(shelf, "files", lambda package: tmp_path)
    monkeypatch.setattr(shelf, "facts", shelf.facts.__wrapped__)
    model, split = shelf.trained("cancer"), loaded("cancer").held_out
    with torch.no_grad():
        right = (model(split.x).argmax(1) == split.y).double().mean()
    assert shelf.facts("cancer")["held_out_accuracy"] == pytest.approx(float(right), abs=1e-12)
    assert f"held-out accuracy {float(right):.3f} on {len(split.y)}" in capsys.readouterr().out


def test_fitting_lowers_the_loss_of_a_fresh_model_and_leaves_it_in_eval_mode():
    split, model = loaded("cancer").train, nn.Sequential(nn.Linear(30, 2), nn.Dropout(0.1))
    loss = lambda: nn.functional.cross_entropy(model.eval()(split.x), split.y).item()  # noqa: E731
    before = loss()
    train.fit(model, split.x, split.y, train.Recipe(epochs=2, rate=1e-2, decay=0.0))
    assert not model.training
    assert loss() < before / 2


@pytest.mark.parametrize(("name", "batch"), [("digits", (5, 1, 8, 8)), ("tiles", (5, 3, 32, 32))])
def test_changes_of_training_examples_move_pixels_and_keep_shapes(name, batch):
    images = torch.rand(batch)
    changed = [train.RECIPES[name].change(images) for _ in range(20)]
    assert all(c.shape == images.shape for c in changed)
    assert any(not torch.equal(c, images) for c in changed)
    if name == "tiles":
        assert all(torch.equal(c, images) or torch.equal(c, images.flip(3)) for c in changed)
    else:
        windows = [images[..., top : top + 4, left : left + 4] for top in (1, 2, 3) for left in (1, 2, 3)]
        assert all(any(torch.equal(c[..., 2:6, 2:6], w) for w in windows) for c in changed)


def test_forgetful_training_never_touches_padding():
    ids = torch.tensor([[5, 6, 7, words.PADDING]] * 200)
    changed = train.RECIPES["sentences"].change(ids)
    assert torch.equal(changed[:, 3], ids[:, 3])
    assert set(changed[:, :3].unique().tolist()) == {words.UNKNOWN, 5, 6, 7}
