"""Insights without a browser: lists, filters, questions, the queue, the server and who may ask it, export, widget, Captum's names."""

from __future__ import annotations

import base64
import contextlib
import copy
import csv
import hashlib
import http.client
import importlib
import inspect
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import pellucid
from pellucid import Sample, Task
from pellucid.errors import FileError, InputError, OptionError, PellucidWarning
from pellucid.insights import insights
from pellucid.insights.arguments import offered
from pellucid.insights.catalogue import Filter
from pellucid.insights.examples import Examples
from pellucid.insights.given import Given
from pellucid.insights.jobs import Cancelled, Jobs, told_error
from pellucid.insights.kept import Kept
from pellucid.insights.widget import Talk
from pellucid.methods import METHODS, kinds_of

CLASSES = ("ant", "bee", "cat")


class Counting(nn.Module):
    """A linear model that counts its calls and the examples it was given."""

    def __init__(self, columns=4, classes=3, seed=0):
        super().__init__()
        self.linear = nn.Linear(columns, classes)
        generator = torch.Generator().manual_seed(seed)
        self.linear.weight.data = torch.randn(classes, columns, generator=generator)
        self.calls = self.rows = 0

    def forward(self, x):
        self.calls += 1
        self.rows += len(x)
        return self.linear(x)


class Gate(nn.Module):
    """A model that waits until it may go on, or sleeps in every call."""

    def __init__(self, sleep=0.0):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.open, self.entered = threading.Event(), threading.Event()
        self.sleep, self.calls = sleep, 0

    def forward(self, x):
        self.calls += 1
        self.entered.set()
        assert self.open.wait(30)
        time.sleep(self.sleep)
        return self.linear(x)


def rows(count, columns=4, seed=1):
    return torch.randn(count, columns, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def look():
    """`pellucid.insights`, closed at the end."""
    made = []

    def make(*args, **kwargs):
        made.append(insights(*args, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.close()


def events(session, name, **given):
    """All events of a request that takes work."""
    heard, done = [], threading.Event()

    def tell(event):
        heard.append(event)
        if event is None:
            done.set()

    session.follow(name, Given(given), tell)
    assert done.wait(60)
    return heard[:-1]


def result(session, name, **given):
    last = events(session, name, **given)[-1]
    assert last["kind"] == "result", last
    return last["value"]


def numbers(text):
    return np.frombuffer(base64.b64decode(text), "<f4")


def told(session, **question):
    return result(session, "explain", questions=[{"index": 0, "method": "saliency", **question}])


# Examples, and what the models say of them.


def test_examples_are_pairs_lists_and_iterables_and_are_read_only_when_needed():
    assert Examples([(1.5, 2), (2.5, None)])[0].label == 2
    assert Examples(rows(3), [0, "bee", np.int64(2)], CLASSES)[1].label == 1
    assert Examples(rows(3), torch.tensor([0, 1, 2]))[2].label == 2
    pulled = []

    def endless():
        for i in range(10_000):
            pulled.append(i)
            yield torch.full((4,), float(i)), i % 3

    lazy = Examples(endless())
    assert lazy.size == 0
    assert not pulled
    assert lazy.upto(5) == 5
    assert pulled == [0, 1, 2, 3, 4]
    assert lazy[3].label == 0
    assert lazy[3].raw[0] == 3
    assert lazy[3].raw is lazy[3].raw, "what was iterated is kept, so that one can go back"


def test_data_sets_loaders_and_arrays_are_read_in_the_models_precision(look):
    from torch.utils.data import DataLoader, TensorDataset

    data, labels = rows(5).double(), torch.arange(5) % 3
    for given in (
        TensorDataset(data, labels),
        DataLoader(TensorDataset(data, labels), 2),
        list(zip(data.numpy(), labels.tolist(), strict=True)),
    ):
        for model in (Counting(), Counting().double()):
            session = look(model, given).session
            result(session, "scan")
            assert [row.label for row in session.catalogue.rows] == labels.tolist()
            assert [row.said[0].predicted for row in session.catalogue.rows] == copy.deepcopy(model).double()(data).argmax(1).tolist()
            assert session.ready(0, 1).sample.inputs[0].dtype == model.linear.weight.dtype


def test_an_example_that_cannot_be_read_is_a_value_and_an_iterator_that_raises_ends():
    class Broken:
        def __len__(self):
            return 3

        def __getitem__(self, i):
            if i == 1:
                raise OSError("the disk is gone")
            return rows(1)[0], 0

    read = Examples(Broken()).read([0, 1, 2])
    assert [hasattr(one, "error") for one in read] == [False, True, False]

    def stops():
        yield rows(1)[0]
        raise ValueError("no more")

    examples = Examples(stops())
    assert examples.upto(10) == 1
    assert examples.ended
    assert str(examples.stopped) == "no more"
    for labels in ([1], [0, "dog"]):
        with pytest.raises(InputError):
            Examples(rows(2), labels, CLASSES)[1]
    with pytest.raises(InputError, match="iterable"):
        Examples(3)


def test_five_thousand_are_listed_without_a_call_of_the_model_and_predicted_in_batches(look):
    model, data = Counting(), rows(5000)
    session = look(model, data, labels=[i % 3 for i in range(5000)], classes=CLASSES).session
    page = session.samples(Given({"limit": 50, "offset": 4900}))
    assert [row["index"] for row in page["rows"]] == list(range(4900, 4950))
    assert page["total"] == 5000
    assert page["scanned"] == 0
    assert model.calls == 0
    heard = events(session, "scan")
    assert model.rows == 5000
    assert model.calls < 5000 / 32
    assert [e["done"] for e in heard if e["kind"] == "progress"][-1] == 5000
    assert len(session.jobs.kept) == 0, "nothing was explained"
    expected = model.linear(data).softmax(1).detach()
    page = session.samples(Given({"limit": 200, "offset": 1000}))
    for row in page["rows"]:
        top = row["said"][0]["top"]
        assert top[0]["index"] == int(expected[row["index"]].argmax())
        assert top[0]["probability"] == pytest.approx(float(expected[row["index"]].max()), abs=1e-5)
        assert row["said"][0]["loss"] == pytest.approx(-float(expected[row["index"], row["index"] % 3].log()), abs=1e-4)


def test_examples_of_several_shapes_share_calls_and_one_that_fails_does_so_alone(look):
    calls = []

    def model(x):
        calls.append(tuple(x.shape))
        if bool((x > 100).any()):
            raise ValueError("too bright")
        return torch.stack([x.flatten(1).sum(1), -x.flatten(1).sum(1)], 1)

    data = [torch.full((2 + i % 2, 2), float(i)) for i in range(12)]
    data[4] = torch.full((2, 2), 101.0)
    session = look(model, data).session
    result(session, "scan")
    said = [row.said[0] for row in session.catalogue.rows]
    assert (6, 3, 2) in calls, "all of one shape in one call"
    assert [one.error is not None for one in said] == [i == 4 for i in range(12)]
    assert "too bright" in said[4].error["message"]
    assert [row["index"] for row in session.samples(Given({"verdict": "unreadable"}))["rows"]] == [4]


def test_the_model_is_left_as_it_was(look):
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.Linear(4, 3))
    model[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [p.requires_grad for p in model.parameters()]
    session = look(model, rows(70)).session
    assert "train mode" in session.quick["start"](Given({}))["notices"][0]
    result(session, "scan")
    told(session)
    assert model.training
    assert flags == [p.requires_grad for p in model.parameters()]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


# Filters, orders, the confusion matrix: against loops that say the same slowly.


@pytest.fixture
def known(look):
    """Two models, 150 examples, every tenth without a label; all predicted."""
    labels = [None if i % 10 == 0 else i % 3 for i in range(150)]
    looked = look({"first": Counting(seed=0), "second": Counting(seed=5)}, rows(150), labels=labels, classes=CLASSES)
    result(looked.session, "scan")
    return looked.session


def is_wrong(row):
    return row.label is not None and row.said[0].predicted != row.label


FILTERS = {
    "correct": ({"verdict": "correct"}, lambda row: row.label is not None and row.said[0].predicted == row.label),
    "incorrect": ({"verdict": "incorrect"}, lambda row: row.label is not None and row.said[0].predicted != row.label),
    "unlabelled": ({"verdict": "unlabelled"}, lambda row: row.label is None),
    "unreadable": ({"verdict": "unreadable"}, lambda row: False),
    "predicted": ({"predicted": [1, 2]}, lambda row: row.said[0].predicted in (1, 2)),
    "cell": ({"labels": [0], "predicted": [2]}, lambda row: row.label == 0 and row.said[0].predicted == 2),
    "confidence": ({"low": 0.5, "high": 0.9}, lambda row: 0.5 <= row.said[0].confidence <= 0.9),
    "second model": ({"model": 1, "predicted": [0]}, lambda row: row.said[1].predicted == 0),
    "disagree": ({"disagree": True}, lambda row: row.said[0].predicted != row.said[1].predicted),
    "search": ({"search": "BEE"}, lambda row: row.label == 1 or row.said[0].predicted == 1),
    "both": ({"search": "bee", "verdict": "incorrect"}, lambda row: is_wrong(row) and 1 in (row.label, row.said[0].predicted)),
}  # fmt: skip


@pytest.mark.parametrize("name", FILTERS)
def test_filters_keep_what_a_loop_keeps(known, name):
    given, passes = FILTERS[name]
    found = known.samples(Given(given | {"limit": 200}))
    expected = [row.index for row in known.catalogue.rows if passes(row)]
    assert [row["index"] for row in found["rows"]] == expected
    assert found["total"] == len(expected)
    assert found["all"] == 150
    if name != "unreadable":
        assert 0 < len(expected) < 150, "a filter that keeps all or nothing is no test"


@pytest.mark.parametrize("descending", [False, True])
def test_sorting_is_total_and_pages_are_its_parts(known, descending):
    found = known.samples(Given({"sort": "loss", "descending": descending, "limit": 200}))["rows"]
    losses = [row["said"][0]["loss"] for row in found]
    have = [v for v in losses if v is not None]
    assert have == sorted(have, reverse=descending)
    assert None not in losses[: len(have)]
    pages = [
        row["index"]
        for offset in range(0, 150, 40)
        for row in known.samples(Given({"sort": "loss", "descending": descending, "limit": 40, "offset": offset}))["rows"]
    ]
    assert pages == [row["index"] for row in found]
    assert sorted(pages) == list(range(150))


def test_sorting_by_attribution_mass_and_health_knows_only_what_was_explained(known):
    for index in (3, 7, 11):
        told(known, index=index)
    masses = {i: float(np.abs(numbers(told(known, index=i)["parts"][0]["values"])).sum()) for i in (3, 7, 11)}
    manner = known.question(Given({"index": 3, "method": "saliency"})).manner
    found = known.samples(Given({"sort": "mass", "method": manner, "limit": 5}))["rows"]
    assert [row["index"] for row in found][:3] == sorted(masses, key=masses.get)
    assert [row["mass"] for row in found][:3] == pytest.approx(sorted(masses.values()), rel=1e-5)
    assert found[3]["mass"] is None
    assert known.samples(Given({"sort": "health", "method": manner, "limit": 4}))["rows"][0]["healthy"] is True


def test_the_confusion_matrix_counts_what_a_loop_counts(known):
    found = known.catalogue.confusion(Filter(model=1))
    for i, row in enumerate(found["classes"]):
        for j, column in enumerate(found["classes"]):
            expected = sum(r.label == row["index"] and r.said[1].predicted == column["index"] for r in known.catalogue.rows)
            assert found["counts"][i][j] == expected
    assert found["total"] == 135
    assert found["accuracy"] == sum(r.label == r.said[1].predicted for r in known.catalogue.rows if r.label is not None) / 135


def test_without_labels_or_classes_nothing_loops_or_fails(look):
    session = look(lambda x: x.sum(1), rows(20), labels=[0.5] * 20).session
    result(session, "scan")
    found = session.samples(Given({"verdict": "incorrect"}))
    assert found["total"] == 0
    assert found["rows"] == []
    assert session.samples(Given({}))["rows"][0]["said"][0]["value"] == pytest.approx(float(rows(20)[0].sum()), abs=1e-5)
    assert session.catalogue.confusion(Filter())["accuracy"] is None
    assert told(session)["target"] == "output"


# Questions and answers.


def test_an_answer_is_what_explain_gives(look):
    model, data = Counting(), rows(6)
    session = look(model, data, classes=CLASSES).session
    for given, asked in (
        ({"method": "integrated_gradients", "options": {"steps": 7}, "target": 2}, {"target": 2, "steps": 7}),
        ({"method": "integrated_gradients", "options": {"rule": "riemann_left"}}, {"rule": "riemann_left"}),
        ({"method": "smoothgrad", "options": {"samples": 5}, "seed": 3, "target": 0}, {"target": 0, "samples": 5, "seed": 3}),
        ({"method": "input_x_gradient", "target": 1, "versus": 2}, {"target": pellucid.target(1) - pellucid.target(2)}),
        ({"method": "saliency", "target": 1, "probability": True}, {"target": lambda out: out.softmax(1)[:, 1]}),
        ({"method": "saliency"}, {"target": int(model(data[4:5]).argmax())}),
    ):  # fmt: skip
        found = told(session, index=4, **given)
        expected = pellucid.explain(model, data[4:5], method=given["method"], **asked)
        assert numbers(found["parts"][0]["values"]) == pytest.approx(expected.attribution[0].numpy(), abs=1e-6)
        assert found["score"] == pytest.approx(float(expected.scores[0]), abs=1e-5)
        assert [check["passed"] for check in found["health"] if check["name"] != "target"] == [
            c.passed for c in expected.health if c.name != "target"
        ]
        assert found["cost"]["forwards"] > 0


def test_methods_and_their_arguments_are_those_of_the_signatures(look):
    session = look(Counting(), rows(20), classes=CLASSES).session
    methods = {method["name"]: method for method in offered(session.subjects)}
    assert set(methods) == set(METHODS), "no attention and no pictures: no maps"
    for name, method in methods.items():
        parameters = {p.name: p for p in inspect.signature(METHODS[name]).parameters.values() if p.name != "asked"}
        scalar = {p for p in parameters if set(kinds_of(name, p)) & {int, float, bool, str}}
        assert {argument["name"] for argument in method["arguments"]} == scalar
        assert all(argument["default"] == parameters[argument["name"]].default for argument in method["arguments"])
        stated = {argument["name"]: argument["default"] for argument in method["arguments"] if argument["default"] is not None}
        assert told(session, method=name, options=stated)["method"] == name, "every default can be sent"
        for argument in method["arguments"]:
            for choice in argument["choices"]:
                last = events(session, "explain", questions=[{"index": 0, "method": name, "options": {argument["name"]: choice}}])[-1]
                assert last["kind"] == "result" or "unknown" not in last["error"]["message"], "every word that is offered is known"


REFUSED = [
    {"method": "no_such_method"},
    {"method": "integrated_gradients", "options": {"steps": "many"}},
    {"method": "integrated_gradients", "options": {"__class__": 1}},
    {"method": "saliency", "options": {"steps": 3}},
    {"index": 99},
    {"index": -1},
    {"index": True},
    {"index": 1.0},
    {"model": 1},
    {"target": 5},
    {"target": "cat"},
    {"seed": -1},
    {"method": "grad_cam"},
    {"edit": {"text": "no text here"}},
    {"edit": []},
    {"options": [1]},
]


@pytest.mark.parametrize("wrong", REFUSED, ids=str)
def test_a_wrong_question_is_an_error_as_a_value_and_the_others_are_answered(look, wrong):
    session = look(Counting(), rows(3), classes=CLASSES).session
    heard = events(
        session, "explain", questions=[{"index": 0, "method": "saliency"}, {"index": 0, **wrong}, {"index": 1, "method": "saliency"}]
    )
    ends = {event["n"]: event["kind"] for event in heard}
    if wrong in ({"edit": []},):  # nothing is changed by nothing
        assert ends[1] == "result"
    else:
        assert ends[1] == "error"
        assert len(next(e for e in heard if e["n"] == 1 and e["kind"] == "error")["error"]["message"]) > 10
    assert ends[0] == ends[2] == "result"


def test_several_inputs_further_arguments_and_shares(look):
    def model(image, row, *, scale):
        return torch.stack([scale * image.flatten(1).sum(1), row.sum(1)], 1)

    pictures, tables = torch.rand(5, 1, 4, 4), rows(5, 3)

    def prepare(i):
        return Sample((pictures[i : i + 1], tables[i : i + 1]), {"scale": 2.0})

    session = look(model, list(range(5)), prepare=prepare, labels=[0] * 5).session
    result(session, "scan")
    found = told(session, index=2, method="input_x_gradient", target=0)
    assert [part["kind"] for part in found["parts"]] == ["image", "table"]
    assert numbers(found["parts"][0]["values"]) == pytest.approx(2 * pictures[2].flatten().numpy(), abs=1e-5)
    assert [part["share"] for part in found["parts"]] == pytest.approx([1, 0])
    assert told(session, index=2, method="feature_ablation", target=1)["parts"][1]["share"] == pytest.approx(1)


def test_opposite_attributions_do_not_cancel_in_shares(look):
    session = look(lambda a, b: a[:, 0] - a[:, 1] + b[:, 0], [(torch.ones(2), torch.ones(1))]).session
    assert [part["share"] for part in told(session, method="input_x_gradient")["parts"]] == pytest.approx([2 / 3, 1 / 3])


def test_pictures_are_painted_from_sums_over_channels_and_grey_ones_work(look):
    class Bright(nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0, 1, 2], x.flatten(1).sum(1)], 1)

    for channels in (1, 3):
        data = torch.rand(2, channels, 4, 5)
        session = look(Bright(), data).session
        part = told(session, method="input_x_gradient", target=0)["parts"][0]
        expected = torch.zeros(4, 5)
        expected[1, 2] = data[0, 0, 1, 2]
        assert part["kind"] == "image"
        assert part["shape"] == [4, 5]
        assert part["picture"]["channels"] == channels
        assert numbers(part["values"]) == pytest.approx(expected.flatten().numpy(), abs=1e-6)
        assert base64.b64decode(part["picture"]["data"]) == np.rint(data[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8).tobytes()


def words_task():
    """A model of texts: the score is the number of good words less that of bad ones; planted, so the truth is known."""
    values = {"good": 1.0, "fine": 0.5, "bad": -1.0}

    class Mood(nn.Module):
        def forward(self, x):
            mood = x[..., 0].sum(1)
            return torch.stack([mood, -mood], 1)

    def prepare(text):
        if not isinstance(text, str) or not text.split():
            raise InputError("give a text with at least one word")
        names = tuple(text.split())
        return Sample((torch.tensor([[[values.get(name, 0.0), 1.0] for name in names]]),), names=names)

    return Task(Mood(), "text", prepare, ("happy", "sad"))


def test_texts_are_words_and_an_edited_text_is_predicted_and_explained(look):
    session = look(words_task(), [("a good day", 0), ("a bad day", 1)]).session
    result(session, "scan")
    found = session.sample(Given({"index": 0}))
    assert found["editable"] == "text"
    assert found["text"] == "a good day"
    assert found["models"][0]["said"]["top"][0]["name"] == "happy"
    edit = {"text": "a bad bad day <b>"}
    assert result(session, "predict", index=0, edit=edit)["said"][0]["top"][0]["name"] == "sad"
    part = told(session, method="input_x_gradient", target=1, edit=edit)["parts"][0]
    assert part["names"] == ["a", "bad", "bad", "day", "<b>"]
    assert numbers(part["values"]) == pytest.approx([0, 1, 1, 0, 0])
    assert [row["index"] for row in session.samples(Given({"search": "bad"}))["rows"]] == [1]
    assert events(session, "predict", index=0, edit={"text": ""})[-1]["error"]["type"] == "InputError"
    assert session.sample(Given({"index": 0, "edit": {"text": "x" * 30_000}}))["models"][0]["error"]["type"] == "InputError"


def test_values_and_parts_of_pictures_are_edited_as_asked(look):
    model = Counting()
    raws = [[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]]
    task = Task(model, "table", lambda raw: Sample((torch.tensor([raw]),), names=("a", "b", "c", "d")), CLASSES)
    session = look(task, raws).session
    assert session.sample(Given({"index": 0}))["editable"] == "values"
    said = result(session, "predict", index=0, edit={"values": {"c": -7}})["said"][0]["top"]
    expected = model.linear(torch.tensor([1.0, 2.0, -7.0, 4.0]))
    assert {one["index"]: one["score"] for one in said} == pytest.approx(dict(enumerate(expected.tolist())), abs=1e-5)
    assert raws[0] == [1.0, 2.0, 3.0, 4.0]
    for wrong in ({"values": {"z": 1}}, {"values": {"a": "1"}}, {"values": {"a": float("inf")}}):
        assert events(session, "predict", index=0, edit=wrong)[-1]["kind"] == "error"

    picture = torch.rand(1, 3, 4, 8)
    session = look(lambda x: x.flatten(1).sum(1), picture).session
    hidden = session.ready(0, 0, {"boxes": [[0.5, 0.0, 1.0, 0.5]]}).sample.inputs[0]
    expected = picture.clone()
    expected[:, :, :2, 4:] = picture.mean((2, 3), keepdim=True)
    assert torch.equal(hidden, expected)
    for wrong in ([[0, 0, 2, 1]], [[1, 0, 0, 1]], [["a", 0, 1, 1]], [[0, 0, 1]]):
        assert events(session, "predict", index=0, edit={"boxes": wrong})[-1]["kind"] == "error"


def test_importance_is_the_mean_over_the_chosen_and_each_failure_is_counted(look):
    model, data = Counting(), rows(30)
    session = look(model, data, labels=[0] * 30, classes=CLASSES, names=("a", "b", "c", "d")).session
    result(session, "scan")
    found = result(session, "importance", predicted=[1], question={"method": "input_x_gradient", "target": 1}, limit=5)
    chosen = [i for i in range(30) if int(model.linear(data[i]).argmax()) == 1]
    expected = (data * model.linear.weight[1]).detach()[chosen[:5]]
    assert found["examples"] == 5
    assert found["chosen"] == len(chosen)
    assert found["failed"] == 0
    assert {one["name"]: one["magnitude"] for one in found["parts"][0]["named"]} == pytest.approx(
        dict(zip("abcd", expected.abs().mean(0).tolist(), strict=True)), rel=1e-5
    )
    assert {one["name"]: one["signed"] for one in found["parts"][0]["named"]} == pytest.approx(
        dict(zip("abcd", expected.mean(0).tolist(), strict=True)), rel=1e-4
    )

    def fussy(x):
        if float(x.detach().flatten()[0]) > 0:
            raise ValueError("no")
        return x.sum(1)

    session = look(fussy, data).session
    found = result(session, "importance", question={"method": "saliency"}, limit=30)
    assert found["failed"] == int((data[:, 0] > 0).sum())
    assert found["examples"] == 30 - found["failed"]


def test_words_are_averaged_over_their_occurrences(look):
    session = look(words_task(), ["good bad", "good day", "Good good"]).session
    named = result(session, "importance", question={"method": "input_x_gradient", "target": 0})["parts"][0]["named"]
    found = {one["name"]: (one["size"], one["magnitude"], one["signed"]) for one in named}
    assert found["good"] == (4, pytest.approx(3 / 4), pytest.approx(3 / 4))
    assert found["bad"] == (1, pytest.approx(1), pytest.approx(-1))


def test_whether_an_answer_depends_on_the_weights(look):
    """Two stages; the class stays the one that was predicted; a function and a map that knows no weights are told apart."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3)).eval()
    data, before = rows(3), copy.deepcopy(model.state_dict())
    session = look(model, data, classes=CLASSES).session
    assert session.quick["start"](Given({}))["models"][0]["learned"]
    found = result(session, "weights", index=1, method="saliency")
    assert found["layers"] == ["2", "0"]
    predicted = int(model(data[1:2]).argmax())
    explained = lambda net: pellucid.explain(net, data[1:2], predicted, "saliency").attribution  # noqa: E731
    wanted = pellucid.metrics.cascade(model, explained, seed=0, layers=["0", "2"]).similarities[:, 0]
    assert found["similarities"] == pytest.approx(wanted.tolist())
    assert found["similarities"][0] == pytest.approx(1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    function = look(lambda x: model(x), data, classes=CLASSES).session
    assert not function.quick["start"](Given({}))["models"][0]["learned"]
    assert "is a function" in events(function, "weights", index=0, method="saliency")[-1]["error"]["message"]


def test_trust_begins_at_the_example_and_ends_at_the_baseline(look):
    model, data = Counting(), rows(3)
    session = look(model, data, classes=CLASSES).session
    found = result(session, "trust", index=0, method="input_x_gradient", target=1)
    chance = model.linear(data[0]).softmax(0)[1].detach()
    assert found["deletion"][0] == pytest.approx(float(chance), abs=1e-5)
    assert found["insertion"][-1] == pytest.approx(float(chance), abs=1e-5)
    nothing = model.linear(torch.zeros(4)).softmax(0)[1].detach()
    assert found["deletion"][-1] == pytest.approx(float(nothing), abs=1e-5)
    assert found["insertion"][0] == pytest.approx(float(nothing), abs=1e-5)
    order = (model.linear.weight[1] * data[0]).argsort(descending=True)
    x, hidden = data[0].clone(), []
    for column in order:
        x[column] = 0
        hidden.append(float(model.linear(x).softmax(0)[1].detach()))
    assert found["shares"] == [0, 0.25, 0.5, 0.75, 1]
    assert found["deletion"][1:] == pytest.approx(hidden, abs=1e-5)
    halves = [(a + b) / 2 for a, b in zip(found["deletion"], found["deletion"][1:], strict=False)]
    assert found["means"]["deletion"] == pytest.approx(np.mean(halves), abs=1e-5)


def test_agreement_is_spearmans_and_what_is_gone_or_another_shape_has_none(look):
    session = look(Counting(), rows(3), classes=CLASSES).session
    first = told(session, method="input_x_gradient", target=0)
    second = told(session, method="saliency", target=0)
    ranks = [np.argsort(np.argsort(numbers(one["parts"][0]["values"]))) for one in (first, second)]
    found = session.agreement(Given({"first": first["key"], "second": second["key"]}))["correlation"]
    assert found == pytest.approx(np.corrcoef(ranks)[0, 1], abs=1e-6)
    assert session.agreement(Given({"first": first["key"], "second": "gone"}))["correlation"] is None


def test_an_explanation_is_saved_in_the_librarys_own_format(look, tmp_path):
    session = look(Counting(), rows(3), classes=CLASSES).session
    found = told(session, index=2)
    saved = session.save(Given({"key": found["key"]}))
    path = tmp_path / saved["name"]
    path.write_bytes(base64.b64decode(saved["data"]))
    loaded = pellucid.Explanation.load(path)
    assert loaded.method == "saliency"
    assert torch.equal(loaded.features[0], rows(3)[2:3])
    with pytest.raises(OptionError, match="no longer kept"):
        session.save(Given({"key": "gone"}))


# The queue.


def test_sixty_at_once_are_queued_and_none_is_lost_or_computed_twice(look):
    model = Gate()
    session = look(model, rows(60), classes=CLASSES).session
    questions = [{"index": i, "method": "gradient", "target": 0} for i in range(60)]
    heard, done = [[], [], []], [threading.Event() for _ in range(3)]

    def telling(i):
        def tell(event):
            heard[i].append(event)
            if event is None:
                done[i].set()

        return tell

    for i in range(3):  # three pages ask for the same
        session.follow("explain", Given({"questions": questions}), telling(i))
    assert model.entered.wait(10)
    assert [e["ahead"] for e in heard[0] if e["kind"] == "queued"][-1] > 50, "they are told how many are ahead"
    model.open.set()
    assert all(one.wait(60) for one in done)
    for one in heard:
        assert sorted(e["n"] for e in one if e and e["kind"] == "result") == list(range(60))
    assert session.jobs.computed == 60
    assert len(session.jobs.kept) == 60
    calls = model.calls
    assert told(session, index=5, method="gradient", target=0)["index"] == 5
    assert model.calls == calls, "what is kept is not computed again"


def test_a_request_that_is_given_up_frees_the_model_and_one_that_others_wait_for_goes_on(look):
    model = Gate(sleep=0.02)
    session = look(model, rows(4), classes=CLASSES).session
    asked = Given({"questions": [{"index": 0, "method": "smoothgrad", "options": {"samples": 100_000}, "target": 0}]})
    first, second = [], []
    one = session.follow("explain", asked, first.append)
    other = session.follow("explain", asked, second.append)
    assert model.entered.wait(10)
    model.open.set()
    one.stop()
    time.sleep(0.1)
    assert session.jobs.waiting == 1, "another still waits for it"
    job = other.jobs[0][0]
    other.stop()
    assert job.finished.wait(10)
    assert job.state == "cancelled"
    assert session.jobs.waiting == 0
    calls = model.calls
    time.sleep(0.2)
    assert model.calls == calls
    assert told(session, index=1, method="gradient", target=0)["index"] == 1


def test_a_cancelled_question_can_be_asked_again(look):
    model = Gate()
    session = look(model, rows(2), classes=CLASSES).session
    given = Given({"questions": [{"index": 0, "method": "gradient", "target": 0}]})
    session.follow("explain", given, lambda event: None).stop()
    model.open.set()
    assert told(session, method="gradient", target=0)["index"] == 0


def test_work_that_takes_too_long_is_stopped_and_says_so(look):
    model = Gate(sleep=0.3)
    model.open.set()
    session = look(model, rows(2), classes=CLASSES, seconds=0.2).session
    last = events(session, "explain", questions=[{"index": 0, "method": "vargrad", "options": {"samples": 5_000}, "target": 0}])[-1]
    assert last["kind"] == "error"
    assert last["error"]["type"] == "TooLong"
    assert "fewer" in last["error"]["message"]
    model.sleep = 0
    assert told(session, method="gradient", target=0)["index"] == 0


def test_a_full_queue_refuses_and_goes_on(look):
    model = Gate()
    session = look(model, rows(9), classes=CLASSES, most=4).session
    heard = []
    for i in range(9):
        session.follow("explain", Given({"questions": [{"index": i, "method": "gradient", "target": 0}]}), heard.append)
    refused = [e for e in heard if e and e["kind"] == "error"]
    assert len(refused) == 5
    assert "4 pieces of work wait already" in refused[0]["error"]["message"]
    jobs = list(session.jobs._live.values())
    model.open.set()
    assert all(job.finished.wait(10) for job in jobs)
    assert told(session, index=8, method="gradient", target=0)["index"] == 8


def test_a_model_that_raises_is_told_and_the_queue_goes_on(look):
    def model(x):
        if float(x.detach().flatten()[0]) == 7:
            raise RuntimeError("the model fell over")
        return x.sum(1)

    session = look(model, torch.tensor([[7.0, 1.0], [1.0, 2.0]])).session
    last = events(session, "explain", questions=[{"index": 0, "method": "gradient"}])[-1]
    assert last["kind"] == "error"
    assert "the model fell over" in last["error"]["message"]
    assert told(session, index=1, method="gradient")["index"] == 1


def test_urgent_work_goes_between_the_parts_of_long_work():
    jobs, order, go = Jobs(), [], threading.Event()

    def long(ticket):
        for i in range(3):
            go.wait(10)
            order.append(f"long {i}")
            yield {"done": i}

    def short(ticket):
        order.append("short")
        yield from ()
        return 1

    slow = jobs.submit("long", long, priority=2, stays=True)
    quick = jobs.submit("short", short, priority=0, stays=True)
    go.set()
    assert slow.finished.wait(10)
    assert quick.finished.wait(10)
    assert order.index("short") <= 1
    assert order[-1] == "long 2"
    jobs.close()
    with pytest.raises(OptionError, match="closed"):
        jobs.submit("more", short)


def test_cancelling_is_no_exception_that_retries_could_swallow():
    assert issubclass(Cancelled, BaseException)
    assert not issubclass(Cancelled, Exception)


def test_results_are_kept_up_to_so_many_bytes_the_oldest_go_first():
    kept = Kept(100)
    for i in range(10):
        kept.put(str(i), i, 30)
        kept.get("0")
        assert kept.size <= 100
    assert kept.get("9") == 9
    assert kept.get("0") == 0
    assert kept.get("1") is None
    assert len(kept) == 3
    kept.put("huge", 1, 101)
    assert kept.get("huge") is None
    assert len(kept) == 3


def test_memory_does_not_grow_with_the_number_of_explanations(look):
    session = look(Counting(), rows(300), classes=CLASSES, memory=40_000).session
    result(session, "importance", question={"method": "saliency"}, limit=300)
    assert session.jobs.kept.size <= 40_000
    assert 0 < len(session.jobs.kept) < 300


# The server, and who may ask it.


@pytest.fixture
def served(look):
    pytest.importorskip("uvicorn")
    looked = look(Counting(), rows(40), labels=[i % 3 for i in range(40)], classes=CLASSES)
    return looked, looked.serve()


def place(serving):
    parts = urlsplit(serving.url)
    return parts.hostname, parts.port, parts.fragment.removeprefix("key=")


def send(serving, method="POST", path="/api/start", body=b"{}", drop=(), **headers):
    host, port, key = place(serving)
    given = {"host": f"{host}:{port}", "authorization": f"Bearer {key}", "content-type": "application/json"}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection(host, port, timeout=30)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in given.items():
        if name not in drop:
            connection.putheader(name, value)
    if body is not None and "transfer-encoding" not in given:
        connection.putheader("content-length", str(len(body)))
    connection.endheaders()
    if body is not None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before all was sent
            connection.send(body)
    response = connection.getresponse()
    found = response.status, {n.lower(): v for n, v in response.getheaders()}, response.read()
    connection.close()
    return found


def streamed(serving, name, **given):
    status, _, body = send(serving, path=f"/api/{name}", body=json.dumps(given).encode())
    assert status == 200, body
    return [json.loads(part.removeprefix("data: ")) for part in body.decode().split("\n\n") if part]


def test_the_page_is_served_to_its_link_and_answers_with_the_key(served):
    looked, serving = served
    assert serving.url.startswith("http://127.0.0.1:")
    assert len(place(serving)[2]) >= 32
    for path, kind in (("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css")):
        status, headers, body = send(serving, "GET", path, None, drop=("authorization", "content-type"))
        assert status == 200
        assert headers["content-type"].startswith(kind)
        assert len(body) > 300
        assert place(serving)[2].encode() not in body
    status, headers, body = send(serving)
    assert status == 200
    assert json.loads(body)["models"][0]["classes"] == list(CLASSES)
    assert streamed(serving, "scan")[-1]["value"]["scanned"] == 40
    assert streamed(serving, "explain", questions=[{"index": 3, "method": "saliency"}])[-1]["value"]["index"] == 3
    with pytest.raises(OptionError, match="port"):
        looked.serve(port=serving.port)


def test_every_answer_forbids_what_the_page_does_not_need(served):
    _, serving = served
    for path, method in (("/", "GET"), ("/api/start", "POST"), ("/nowhere", "GET")):
        _, headers, _ = send(serving, method, path, b"{}" if method == "POST" else None)
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "set-cookie" not in headers
        assert "access-control-allow-origin" not in headers
    page = send(serving, "GET", "/", None)[2].decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)", page)
    assert not re.search(r"\son\w+=|style=", page)


ATTACKS = {
    "no key": (401, {"drop": ("authorization",)}),
    "a wrong key": (401, {"authorization": "Bearer x"}),
    "a key that is a prefix": (401, {"authorization": "Bearer "}),
    "another scheme": (401, {"authorization": "Basic x"}),
    "a key in the query": (401, {"drop": ("authorization",), "path": "/api/start?key=x"}),
    "another site's name (rebinding)": (421, {"host": "evil.example"}),
    "another site's name, our port": (421, {"host": "evil.example:{port}"}),
    "no name": (400, {"drop": ("host",), "path": "/", "method": "GET", "body": None}),
    "another port": (421, {"host": "127.0.0.1:1"}),
    "another site's page": (403, {"origin": "http://evil.example"}),
    "no site's page": (403, {"origin": "null"}),
    "our name over another port": (403, {"origin": "http://127.0.0.1:1"}),
    "a page in a frame of another site": (403, {"sec_fetch_site": "cross-site"}),
    "a form": (415, {"content_type": "application/x-www-form-urlencoded"}),
    "a form that claims to be text": (415, {"content_type": "text/plain"}),
    "an upload": (415, {"content_type": "multipart/form-data; boundary=x"}),
    "no type": (415, {"drop": ("content-type",)}),
    "a large body": (413, {"body": b'{"a": "' + b"x" * 70_000 + b'"}'}),
    "deep nesting": (400, {"body": b"[" * 60_000}),
    "no JSON": (400, {"body": b"pickle"}),
    "not UTF-8": (400, {"body": b"\xff\xfe{"}),
    "a pickle": (400, {"body": b"\x80\x04\x95"}),
    "a list": (422, {"body": b"[]"}),
    "a number": (422, {"body": b"3"}),
    "a method of the session": (404, {"path": "/api/close"}),
    "an attribute": (404, {"path": "/api/__class__"}),
    "a file": (404, {"path": "/api/..%2f..%2fetc%2fpasswd"}),
    "a file of the page's folder": (404, {"path": "/server.py", "method": "GET", "body": None}),
    "a path": (404, {"path": "/../../etc/passwd", "method": "GET", "body": None}),
    "a path beside the files": (404, {"path": "/page.js/../server.py", "method": "GET", "body": None}),
    "reading by GET": (405, {"method": "GET", "body": None}),
    "another verb": (405, {"method": "DELETE"}),
    "asking what is allowed": (405, {"method": "OPTIONS"}),
    "a made-up order": (422, {"path": "/api/samples", "body": b'{"sort": "__class__"}'}),
    "a huge page": (422, {"path": "/api/samples", "body": b'{"limit": 100000}'}),
    "infinity": (422, {"path": "/api/samples", "body": b'{"low": Infinity}'}),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_who_may_not_ask_is_refused_and_the_server_goes_on(served, name):
    _, serving = served
    status, given = ATTACKS[name]
    given = {n: v.format(port=serving.port) if n == "host" else v for n, v in given.items()}
    try:
        found, headers, body = send(serving, **given)
    except ConnectionResetError:  # refused before all of it was sent, and cut off
        assert status == 413
        return
    assert found == status, body
    if name == "no name":  # the protocol itself refuses that
        return
    assert b"Traceback" not in body
    assert b"site-packages" not in body
    assert "content-security-policy" in headers
    assert send(serving)[0] == 200


def test_the_key_and_the_origin_of_the_page_itself_pass(served):
    _, serving = served
    assert send(serving, origin=f"http://127.0.0.1:{serving.port}", sec_fetch_site="same-origin")[0] == 200
    assert send(serving, host=f"LOCALHOST:{serving.port}")[0] == 200


def test_a_name_twice_is_refused(served):
    _, serving = served
    host, port, key = place(serving)
    connection = http.client.HTTPConnection(host, port, timeout=10)
    connection.putrequest("POST", "/api/start", skip_host=True)
    for value in (f"{host}:{port}", "evil.example"):
        connection.putheader("Host", value)
    connection.putheader("Authorization", f"Bearer {key}")
    connection.endheaders()
    assert connection.getresponse().status in (400, 421)
    connection.close()


def test_another_address_needs_a_word_and_warns(look):
    pytest.importorskip("uvicorn")
    looked = look(Counting(), rows(2))
    for host in ("0.0.0.0", "::", "192.168.0.1", "example.org"):
        with pytest.raises(OptionError, match="expose"):
            looked.serve(host)
    with pytest.warns(PellucidWarning, match="whoever reaches it"):
        serving = looked.serve("0.0.0.0", expose=True)
    assert send_at(serving, "127.0.0.1", drop_key=True) == 401
    assert send_at(serving, "127.0.0.1") == 200


def send_at(serving, host, drop_key=False):
    key = urlsplit(serving.url).fragment.removeprefix("key=")
    connection = http.client.HTTPConnection(host, serving.port, timeout=10)
    headers = {"content-type": "application/json"} | ({} if drop_key else {"authorization": f"Bearer {key}"})
    connection.request("POST", "/api/start", b"{}", headers)
    status = connection.getresponse().status
    connection.close()
    return status


def test_what_a_request_names_is_a_field_and_never_an_attribute(served):
    looked, serving = served
    before = set(vars(looked.session))
    for name in ("__init__", "jobs", "subjects", "follow", "..", "quick"):
        assert send(serving, path=f"/api/{name}")[0] == 404
    for field in ("__class__", "constructor", "__proto__", "self"):
        assert send(serving, path="/api/samples", body=json.dumps({field: 1}).encode())[0] == 200, "unknown fields are not looked at"
    assert set(vars(looked.session)) == before


def test_a_body_that_does_not_arrive_is_not_waited_for(served, monkeypatch):
    monkeypatch.setattr(importlib.import_module("pellucid.insights.server"), "SECONDS", 0.2)
    _, serving = served
    host, port, key = place(serving)
    with socket.create_connection((host, port), 10) as line:
        head = ["POST /api/start HTTP/1.1", f"Host: {host}:{port}", f"Authorization: Bearer {key}"]
        head += ["Content-Type: application/json", "Content-Length: 10", "", "{"]
        line.sendall("\r\n".join(head).encode())
        assert b" 408 " in line.recv(4096).split(b"\r\n")[0]
    assert send(serving)[0] == 200


def test_the_browser_is_shown_the_link_by_a_file_of_ones_own(served, monkeypatch):
    _, serving = served
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    serving.show()
    path = Path(urlsplit(opened[0]).path)
    assert "key" not in opened[0]
    assert serving.url in path.read_text()
    assert os.name == "nt" or path.stat().st_mode & 0o077 == 0
    serving.stop()
    assert not path.exists()


def test_sixty_requests_at_once_over_http(look):
    pytest.importorskip("uvicorn")
    model = Gate()
    looked = look(model, rows(60), classes=CLASSES)
    serving = looked.serve()
    found, lock = [], threading.Lock()

    def ask(i):
        heard = streamed(serving, "explain", questions=[{"index": i // 2, "method": "gradient", "target": 0}])
        with lock:
            found.append((i // 2, heard[-1]))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(60)]
    for thread in threads:
        thread.start()
    assert model.entered.wait(20)
    model.open.set()
    for thread in threads:
        thread.join(60)
    assert sorted(i for i, _ in found) == sorted([*range(30), *range(30)])
    assert all(end["kind"] == "result" and end["value"]["index"] == i for i, end in found)
    assert looked.session.jobs.computed == 30, "each was computed once, though two asked"


def test_a_browser_that_disconnects_frees_the_model(look):
    pytest.importorskip("uvicorn")
    model = Gate(sleep=0.02)
    looked = look(model, rows(2), classes=CLASSES)
    serving = looked.serve()
    host, port, key = place(serving)
    connection = http.client.HTTPConnection(host, port, timeout=30)
    question = {"questions": [{"index": 0, "method": "smoothgrad", "options": {"samples": 1_000_000}, "target": 0}]}
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    connection.request("POST", "/api/explain", json.dumps(question).encode(), headers)
    response = connection.getresponse()
    assert response.readline().startswith(b"data: ")
    assert model.entered.wait(10)
    assert looked.session.jobs.waiting == 1
    response.close()
    connection.close()
    model.open.set()
    end = time.monotonic() + 20
    while looked.session.jobs.waiting and time.monotonic() < end:
        time.sleep(0.02)
    assert looked.session.jobs.waiting == 0
    assert streamed(serving, "explain", questions=[{"index": 1, "method": "gradient", "target": 0}])[-1]["kind"] == "result"


def test_a_request_that_waits_is_given_up_too(look):
    """Nothing is told to a request that waits, so only the closed connection says that nobody waits for it."""
    pytest.importorskip("uvicorn")
    model = Gate()
    looked = look(model, rows(3), classes=CLASSES)
    serving = looked.serve()
    host, port, key = place(serving)
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    connections = []
    for i in range(2):
        connection = http.client.HTTPConnection(host, port, timeout=30)
        connection.request(
            "POST", "/api/explain", json.dumps({"questions": [{"index": i, "method": "gradient", "target": 0}]}).encode(), headers
        )
        response = connection.getresponse()
        assert response.readline().startswith(b"data: ")
        connections.append((connection, response))
    assert model.entered.wait(10)
    for part in reversed(connections[1]):
        part.close()
    waiting = next(job for job in looked.session.jobs._live.values() if "[1," in job.key)
    end = time.monotonic() + 20
    while not waiting.ticket.stop.is_set() and time.monotonic() < end:
        time.sleep(0.02)
    assert waiting.ticket.stop.is_set()
    model.open.set()
    for part in reversed(connections[0]):
        part.close()


# One file.


def test_the_file_holds_the_view_and_nothing_in_it_can_become_markup(look, tmp_path):
    nasty = "</script><script>alert(1)</script><!-- good & bad \u2028"
    looked = look(words_task(), [(nasty, 0), ("a good day", 1)], title="</title><b>")
    path = looked.export(tmp_path / "view.html", columns=[{"method": "saliency"}, {"method": "input_x_gradient"}])
    text = path.read_text("utf-8")
    assert text.count("<script") == 2
    assert text.count("</script>") == 2
    assert "alert(1)<" not in text
    data = json.loads(re.search(r'id="pellucid-data">(.*?)</script>', text, re.S)[1])
    assert data["rows"][0]["title"].startswith("</script><script>")
    assert data["start"]["title"] == "</title><b>"
    assert len(data["answers"]) == 4
    assert {a["told"]["method"] for a in data["answers"]} == {"saliency", "input_x_gradient"}
    assert (
        numbers(data["answers"][3]["told"]["parts"][0]["values"]) == pytest.approx([0, 1, 0])
        or data["answers"][3]["told"]["target"] == "output 0 (happy)"
    )
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', text)[1]
    for tag in ("style", 'script type="module"'):
        inside = re.search(f"<{tag}>(.*?)</{tag.split()[0]}>", text, re.S)[1]
        assert f"sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}" in policy
    assert "unsafe" not in policy
    assert "http" not in policy.replace("http-equiv", "")
    with pytest.raises(pellucid.FileError):
        looked.export(tmp_path / "nowhere" / "view.html")
    with pytest.raises(OptionError):
        looked.export(tmp_path / "view.html", verdict="perhaps")


def test_the_page_is_plain_source_in_the_package_and_makes_no_markup_of_data():
    from importlib.resources import files

    page = files("pellucid.insights") / "page"
    code = (page / "page.js").read_text("utf-8")
    assert len(code.splitlines()) < 2000
    assert "import " not in re.sub(r"//.*", "", code)
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        'setAttribute("style"',
        "</script",
    ):
        assert word not in code, word
    assert "http://" not in code.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in code
    assert "url(" not in (page / "page.css").read_text("utf-8")


# The notebook's messages, Captum's names, the command line.


def test_messages_of_a_notebook_are_answered_followed_and_stopped(look):
    model = Gate(sleep=0.01)
    session = look(model, rows(3), classes=CLASSES).session
    said, lock = [], threading.Lock()

    def hear(message):
        with lock:
            said.append(message)

    talk = Talk(session, hear)
    talk.hear({"id": "1", "name": "start", "given": {}})
    talk.hear({"id": "2", "name": "__init__", "given": {}})
    talk.hear({"id": "3", "name": "sample", "given": {"index": 77}})
    for odd in (None, 3, {}, {"id": 1, "name": "start"}, {"id": "x"}):
        talk.hear(odd)
    assert said[0]["value"]["version"]
    assert said[1]["id"] == "3"
    assert said[1]["error"]["type"] == "OptionError"
    assert len(said) == 2
    talk.hear(
        {
            "id": "4",
            "name": "explain",
            "given": {"questions": [{"index": 0, "method": "vargrad", "options": {"samples": 100_000}, "target": 0}]},
        }
    )
    assert model.entered.wait(10)
    talk.hear({"id": "4", "name": "stop", "given": {}})
    model.open.set()
    end = time.monotonic() + 10
    while session.jobs.waiting and time.monotonic() < end:
        time.sleep(0.01)
    assert session.jobs.waiting == 0
    assert not talk.open
    talk.hear({"id": "5", "name": "explain", "given": {"questions": [{"index": 0, "method": "gradient", "target": 0}]}})
    while not any(message.get("end") for message in list(said)) and time.monotonic() < end:
        time.sleep(0.01)
    mine = [message for message in said if message["id"] == "5"]
    assert mine[-1] == {"id": "5", "end": True}
    assert mine[-2]["event"]["kind"] == "result"


def test_the_widget_is_the_page(look):
    pytest.importorskip("anywidget")
    looked = look(Counting(), rows(3))
    widget = looked.widget()
    assert "Pellucid Insights" in widget._esm
    assert ".pellucid" in widget._css
    assert "application/vnd.jupyter.widget-view+json" in looked._repr_mimebundle_()[0]
    widget.close()


class Captums:
    """A visualizer of two inputs as Captum's users write it."""

    def __init__(self, **kwargs):
        from pellucid.captum.insights import AttributionVisualizer, Batch
        from pellucid.captum.insights.features import GeneralFeature, ImageFeature

        class Both(nn.Module):
            def __init__(self):
                super().__init__()
                self.one, self.two = nn.Linear(9, 3), nn.Linear(2, 3)

            def forward(self, image, row, scale=None):
                return self.one(image.flatten(1)) + self.two(row) * (1 if scale is None else scale)

        self.model = Both()
        self.images, self.rows, self.labels = torch.rand(10, 1, 3, 3), rows(10, 2), torch.arange(10) % 3
        batches = [Batch((self.images[i : i + 5], self.rows[i : i + 5]), self.labels[i : i + 5], kwargs.pop("args", None)) for i in (0, 5)]
        features = [ImageFeature("Photo", [lambda x: x * 0 + 0.5], [lambda x: x * 2]), GeneralFeature("Row", ["a", "b"])]
        self.visualizer = AttributionVisualizer([self.model], list(CLASSES), features, batches, **kwargs)


def test_captums_visualizer_shows_what_captum_computes():
    captum_attr = pytest.importorskip("captum.attr")
    made = Captums(score_func=lambda output: output.softmax(1))
    shown = made.visualizer.visualize()
    assert len(shown) == 4
    for i, output in enumerate(shown):
        inputs = (made.images[i : i + 1] * 2, made.rows[i : i + 1])
        scores = made.model(*inputs).softmax(1)[0]
        assert [score.index for score in output.predicted] == scores.argsort(descending=True).tolist()
        assert [score.score for score in output.predicted] == pytest.approx(scores.sort(descending=True).values.tolist(), abs=1e-6)
        assert output.actual.label == CLASSES[i % 3]
        assert output.active_index == i % 3
        assert output.model_index == 0
        baselines = (torch.full_like(inputs[0], 0.5), torch.zeros_like(inputs[1]))
        expected = captum_attr.IntegratedGradients(made.model).attribute(inputs, baselines, target=int(scores.argmax()), n_steps=25)
        sums = [float(e.sum()) for e in expected]
        found = output.feature_outputs
        assert [f.contribution for f in found] == pytest.approx([s / sum(map(abs, sums)) for s in sums], abs=1e-5)
        assert found[1].modified == pytest.approx((100 * expected[1][0] / expected[1].norm()).tolist(), abs=1e-3)
        assert found[1].base == [f"a: {made.rows[i, 0]:.2f}", f"b: {made.rows[i, 1]:.2f}"]
        assert (found[0].type, found[1].type) == ("image", "general")
        assert base64.b64decode(found[0].base)[:4] == b"\x89PNG"
    made.visualizer.insights.close()


def test_captums_filter_ends_where_the_data_end_and_unlabelled_data_are_shown():
    from pellucid.captum.insights import FilterConfig

    made = Captums()
    made.visualizer._config = FilterConfig(
        prediction="incorrect", num_examples=100, attribution_method="Saliency", attribution_arguments={}
    )
    wrong = [i for i in range(10) if int(made.model(made.images[i : i + 1] * 2, made.rows[i : i + 1]).argmax()) != i % 3]
    assert [output.actual.index for output in made.visualizer.visualize()] == [i % 3 for i in wrong]
    session = made.visualizer.insights.session
    result(session, "scan")
    assert session.samples(Given({"verdict": "incorrect"}))["total"] == len(wrong)
    assert [part["name"] for part in told(session, index=3, method="saliency")["parts"]] == ["Photo", "Row"]
    made.visualizer.insights.close()


@pytest.mark.parametrize(
    "method",
    [
        "Deconvolution",
        "Deep Lift",
        "Guided Backprop",
        "InputXGradient",
        "Integrated Gradients",
        "Saliency",
        "Feature Ablation",
        "Occlusion",
    ],
)
def test_all_of_captums_eight_methods_run_with_their_defaults(method):
    from pellucid.captum.insights import FilterConfig

    made = Captums()
    made.visualizer._config = FilterConfig(method, {}, num_examples=1)
    assert len(made.visualizer.visualize()) == 1
    made.visualizer.insights.close()


def test_captums_scalar_output_and_text_and_empty_features():
    from pellucid.captum.insights import AttributionVisualizer, Batch
    from pellucid.captum.insights.features import BaseFeature, EmptyFeature, TextFeature

    tokens = torch.tensor([[1, 2, 0]])
    table = torch.tensor([[0.0], [1.0], [-2.0]])
    text = TextFeature("Question", [lambda x: x * 0], [lambda x: table[x]], lambda x: ["pad", "up", "down"])
    model = nn.Module()
    model.forward = lambda embedded, other: embedded.sum((1, 2)) + 0 * other.sum(1)
    shown = AttributionVisualizer(
        model, ["neg", "pos"], [text, EmptyFeature()], [Batch((tokens, torch.ones(1, 1)), None)], use_label_for_attr=False
    )
    found = shown.visualize()[0]
    assert found.actual is None
    assert found.predicted == []
    assert found.feature_outputs[0].base == ["pad", "up", "down"]
    assert found.feature_outputs[0].modified == pytest.approx([50, -100, 0], abs=1e-4)
    assert found.feature_outputs[1][1:4] == (None, None, "empty")
    answer = told(shown.insights.session, index=0, method="input_x_gradient")
    assert answer["parts"][0]["names"] == ["pad", "up", "down"]
    assert answer["parts"][1]["kind"] == "empty"
    with pytest.raises(NotImplementedError):
        BaseFeature("x", None, None, None).visualization_type()
    shown.insights.close()


def test_captums_own_paths_lead_here_after_install():
    code = """
import pellucid.captum
pellucid.captum.install()
from captum.insights import AttributionVisualizer, Batch
from captum.insights.attr_vis import AttributionVisualizer as again, features
from captum.insights.attr_vis.app import FilterConfig, VisualizationOutput
from captum.insights.attr_vis.features import BaseFeature, EmptyFeature, GeneralFeature, ImageFeature, TextFeature
assert again is AttributionVisualizer and AttributionVisualizer.__module__.startswith("pellucid.captum.insights")
assert features.ImageFeature is ImageFeature
assert FilterConfig()._asdict() == {
    "attribution_method": "Integrated Gradients", "attribution_arguments": {"n_steps": 25, "method": "gausslegendre"},
    "prediction": "all", "classes": [], "num_examples": 4}
assert VisualizationOutput._fields == ("feature_outputs", "actual", "predicted", "active_index", "model_index")
pellucid.captum.uninstall()
import sys
assert "captum.insights" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_captums_signatures():
    from pellucid.captum.insights import AttributionVisualizer, Batch, features

    def asked(function):
        return [(p.name, p.default) for p in inspect.signature(function).parameters.values() if p.name != "self"]

    none = inspect.Parameter.empty
    assert asked(AttributionVisualizer) == [
        ("models", none),
        ("classes", none),
        ("features", none),
        ("dataset", none),
        ("score_func", None),
        ("use_label_for_attr", True),
    ]
    assert asked(AttributionVisualizer.render) == [("debug", True)]
    assert asked(AttributionVisualizer.serve) == [("blocking", False), ("debug", False), ("port", None), ("bind_all", False)]
    assert asked(Batch) == [("inputs", none), ("labels", none), ("additional_args", None)]
    assert [name for name, _ in asked(features.ImageFeature)] == [
        "name",
        "baseline_transforms",
        "input_transforms",
        "visualization_transform",
    ]
    assert asked(features.GeneralFeature) == [("name", none), ("categories", none)]
    assert asked(features.EmptyFeature)[0] == ("name", "empty")
    assert asked(features.BaseFeature.visualize) == [("attribution", none), ("data", none), ("contribution_frac", none)]


def test_how_far_work_is_is_told_with_how_much_there_is(look):
    model = Gate(sleep=0.03)
    model.open.set()
    session = look(model, rows(3), classes=CLASSES).session
    question = {"index": 0, "method": "vargrad", "options": {"samples": 2000}, "target": 0}
    heard = [e for e in events(session, "explain", questions=[question]) if e["kind"] == "passes"]
    assert heard[0]["expected"] == 2000, "at first what the options say"
    heard = [e for e in events(session, "explain", questions=[question | {"index": 1}]) if e["kind"] == "passes"]
    cost = next(iter(session.jobs.kept._values.values()))[0].explanation.cost.forwards
    assert heard[0]["expected"] == cost >= 2000, "then what it took last time"
    assert [e["passes"] for e in heard] == sorted(e["passes"] for e in heard)


def test_without_anywidget_a_notebook_is_told_how_to_get_it(look, monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    looked = look(Counting(), rows(3))
    assert "pellucid[insights]" in looked._repr_mimebundle_()["text/plain"]
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(pellucid.MissingExtra, match="insights"):
        looked.serve()


def test_nothing_that_draws_or_serves_is_imported_before_it_is_used():
    code = """
import torch, sys
before = set(sys.modules)
import pellucid.insights, pellucid.captum.insights
heavy = ("matplotlib", "PIL", "sklearn", "starlette", "uvicorn", "anywidget", "IPython")
assert not [name for name in heavy if name in sys.modules and name not in before]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_command_writes_a_file_and_refuses_what_it_cannot_show(tmp_path, monkeypatch):
    from pellucid.cli import app

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_for_insights.py").write_text(
        "import torch\nfrom pellucid.insights import insights\n"
        "def pair():\n    return torch.nn.Linear(4, 2), torch.randn(5, 4)\n"
        "def named():\n    return {'models': torch.nn.Linear(4, 2), 'data': torch.randn(5, 4), 'title': 'Mine'}\n"
        "def looked():\n    return insights(*pair())\n"
        "def wrong():\n    return 3\n"
    )
    run = CliRunner()
    for function in ("pair", "named", "looked"):
        out = tmp_path / f"{function}.html"
        found = run.invoke(app, ["insights", f"mine_for_insights:{function}", "--export", str(out)])
        assert found.exit_code == 0, found.output
        assert "pellucid-data" in out.read_text("utf-8")
    for arguments in (
        ["mine_for_insights:wrong"],
        ["demo", "--model", "nothing"],
        ["mine_for_insights:pair", "--host", "0.0.0.0", "--no-open"],
    ):
        assert run.invoke(app, ["insights", *arguments]).exit_code == 2


# What a reviewer found.


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, GeneratorExit, RuntimeError("CUDA error: device-side assert")])
def test_whatever_a_model_raises_is_told_and_the_work_goes_on(look, stop):
    class Raising(Counting):
        bad = True

        def forward(self, x):
            if self.bad:
                raise stop
            return super().forward(x)

    model = Raising()
    session = look(model, rows(3)).session
    last = events(session, "explain", questions=[{"index": 0, "method": "saliency"}])[-1]
    assert last["kind"] == "error"
    assert last["error"]["type"] == (stop.__name__ if isinstance(stop, type) else "RuntimeError")
    model.bad = False
    assert told(session, index=1)["method"] == "saliency"


def test_a_listener_that_fails_does_not_end_the_work_of_others():
    jobs, heard = Jobs(), []

    def work(ticket):
        yield {"done": 1}

    def broken(event):
        if event["kind"] != "queued":
            raise RuntimeError("the page is gone")

    jobs.submit("first", work, broken).finished.wait(30)
    job = jobs.submit("second", work, heard.append)
    assert job.finished.wait(30)
    assert heard[-1]["kind"] == "result"
    jobs.close()


def test_an_error_that_cannot_say_what_it_is_is_told():
    class Mute(Exception):
        def __str__(self):
            raise ValueError

    assert told_error(Mute()) == {"type": "Mute", "message": "no message"}


def test_what_was_given_up_leaves_the_queue_and_leaves_room(look):
    model = Gate()
    session = look(model, rows(40), most=20).session
    first = session.follow("explain", Given({"questions": [{"index": 0}]}), lambda event: None)
    assert model.entered.wait(30)
    for turn in range(5):
        questions = [{"index": i, "seed": turn} for i in range(1, 20)]
        session.follow("explain", Given({"questions": questions}), lambda event: None).stop()
    assert session.jobs.waiting <= 20
    heard = []
    last = session.follow("explain", Given({"questions": [{"index": 30}]}), heard.append)
    assert heard[0] == {"n": 0, "kind": "queued", "ahead": 0}
    model.open.set()
    for job, _ in [*first.jobs, *last.jobs]:
        assert job.finished.wait(30)
    assert [event["kind"] for event in heard if event and event["kind"] != "passes"][-1] == "result"
    assert session.jobs.computed == 2


def test_an_iterable_without_end_is_read_so_far_and_further_as_one_looks(look, monkeypatch):
    monkeypatch.setattr(importlib.import_module("pellucid.insights.work"), "AHEAD", 100)
    monkeypatch.setattr(importlib.import_module("pellucid.insights.session"), "FURTHER", 500)
    session = look(Counting(), (row for row in iter(lambda: torch.zeros(4), None))).session
    assert result(session, "scan")["scanned"] == session.examples.size == 100
    assert session.samples(Given({}))["known"] is False
    assert result(session, "scan")["scanned"] == len(session.catalogue.rows) == 200
    with pytest.raises(OptionError, match="index"):
        session.sample(Given({"index": 9_999_999}))
    assert session.examples.size <= 200 + 500


def test_halves_of_letters_in_a_text_are_listed_and_exported(look, tmp_path):
    looked = look(words_task(), [("good \udc80 day", 0), ("bad", 1)])
    serving = looked.serve()
    status, _, body = send(serving, path="/api/samples")
    assert status == 200
    assert json.loads(body)["rows"][0]["title"] == "good \udc80 day"
    assert "good" in looked.export(tmp_path / "view.html").read_text("utf-8")


def test_labels_as_real_numbers_are_classes_and_missing_ones_are_none(look):
    session = look(Counting(), rows(4), labels=np.array([0.0, 1.0, 2.0, np.nan]), classes=CLASSES).session
    result(session, "scan")
    told_rows = session.samples(Given({}))["rows"]
    assert [row["labelName"] for row in told_rows] == ["ant", "bee", "cat", ""]
    assert [row["said"][0]["loss"] is None for row in told_rows] == [False, False, False, True]
    assert session.catalogue.confusion(Filter())["total"] == 3
    assert [row.index for row in session.catalogue.chosen(Filter(verdict="unlabelled"))] == [3]


@pytest.mark.parametrize("gives", ["logits", "probabilities"])
def test_one_output_and_two_names_are_a_classifier_whose_explanations_have_the_sign_of_the_class(look, gives):
    linear = Counting(classes=1)
    model = linear if gives == "logits" else nn.Sequential(linear, nn.Sigmoid())
    data = rows(8)
    session = look(model, data, labels=[0, 1] * 4, classes=["no", "yes"]).session
    result(session, "scan")
    logits = linear.linear(data)[:, 0].detach()
    for i, (row, logit) in enumerate(zip(session.catalogue.rows, logits, strict=True)):
        said, chance = row.said[0], float(logit.sigmoid())
        assert said.predicted == int(chance > 0.5)
        assert said.confidence == pytest.approx(max(chance, 1 - chance), abs=1e-6)
        assert said.loss == pytest.approx(-np.log(chance if i % 2 else 1 - chance), abs=1e-5)
        assert said.right(row.label) == (int(chance > 0.5) == i % 2)
    for i in range(2):
        plain = pellucid.explain(model, data[i : i + 1], 0, "input_x_gradient").attributions[0][0].double()
        found = {t: numbers(told(session, index=i, method="input_x_gradient", target=t)["parts"][0]["values"]) for t in (0, 1)}
        own = numbers(told(session, index=i, method="input_x_gradient")["parts"][0]["values"])
        assert found[1] == pytest.approx(plain.numpy(), abs=1e-6)
        assert found[0] == pytest.approx(-plain.numpy(), abs=1e-6)
        assert own == pytest.approx(found[session.catalogue.rows[i].said[0].predicted], abs=1e-6)
    curve = result(session, "trust", index=0, method="input_x_gradient")
    assert curve["deletion"][0] == pytest.approx(session.catalogue.rows[0].said[0].confidence, abs=1e-5)


def test_an_example_may_have_several_classes(look):
    model, data = Counting(), rows(5)
    labels = [[0], ["bee", "cat"], [], torch.tensor([1, 0, 1]), {2}]
    session = look(model, data, labels=labels, classes=CLASSES, exclusive=False).session
    result(session, "scan")
    chances = model.linear(data).sigmoid().detach()
    truth = [(0,), (1, 2), (), (0, 2), (2,)]
    for row, chance, label in zip(session.catalogue.rows, chances, truth, strict=True):
        assert row.label == label
        assert row.said[0].present == tuple(i for i in range(3) if chance[i] >= 0.5)
        right = torch.tensor([float(i in label) for i in range(3)])
        assert row.said[0].loss == pytest.approx(float(nn.functional.binary_cross_entropy(chance, right)), abs=1e-5)
        assert row.said[0].right(row.label) == (row.said[0].present == label)
    assert [row.index for row in session.catalogue.chosen(Filter(labels=(2,)))] == [1, 3, 4]
    wanted = [i for i, chance in enumerate(chances) if chance[1] >= 0.5]
    assert [row.index for row in session.catalogue.chosen(Filter(predicted=(1,)))] == wanted
    assert told(session, target=1, probability=True)["score"] == pytest.approx(float(chances[0, 1]), abs=1e-6)
    with pytest.raises(OptionError, match="logits"):
        insights(model, data, scores="softmax")


def test_one_channel_of_a_picture_is_what_explain_gives_for_it(look):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    pictures = torch.rand(2, 3, 8, 8)
    session = look(model, pictures, classes=CLASSES).session
    found = told(session, method="input_x_gradient", target=1)
    full = pellucid.explain(model, pictures[:1], 1, "input_x_gradient").attributions[0][0]
    assert found["parts"][0]["channels"] == 3
    for channel in range(3):
        one = session.channel(Given({"key": found["key"], "part": 0, "channel": channel}))
        assert numbers(one["values"]) == pytest.approx(full[channel].flatten().numpy(), abs=1e-6)
    with pytest.raises(OptionError, match="channel"):
        session.channel(Given({"key": found["key"], "part": 0, "channel": 3}))


def test_the_table_holds_the_chosen_and_no_formula(look):
    session = look(words_task(), [("=1+1 good", 0), ("bad", 1), ('a "quoted", text', 0)]).session
    result(session, "scan")
    table = session.quick["table"](Given({"labels": [0]}))
    read = list(csv.DictReader(io.StringIO(table["text"])))
    assert [(line["index"], line["example"]) for line in read] == [("0", "'=1+1 good"), ("2", 'a "quoted", text')]
    said = session.catalogue.rows[0].said[0]
    assert float(read[0]["confidence"]) == said.confidence
    assert read[0]["correct"] == str(said.predicted == 0)


def test_a_file_in_no_folder_is_refused_before_anything_is_explained(look, tmp_path):
    model = Counting()
    with pytest.raises(FileError, match="folder"):
        look(model, rows(3)).export(tmp_path / "none" / "view.html")
    assert model.calls == 0
