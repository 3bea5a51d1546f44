"""A run over a data set, looked at: what it stored is told as it is, and no model is asked."""

from __future__ import annotations

import csv
import io
import re

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import pellucid
from pellucid.errors import InputError, OptionError
from pellucid.insights import insights
from pellucid.insights.given import Given
from pellucid.insights.questions import Question
from pellucid.scale import open as opened

from . import test_insights as plain
from . import test_insights_page as pages
from .test_insights import CLASSES, Counting, events, numbers, result, rows, words_task
from .test_insights_page import counted, explained

pytest.importorskip("pyarrow", reason="runs need pyarrow (extra 'scale')")
look, browser, visit = plain.look, pages.browser, pages.visit

METHOD = "integrated_gradients"
MANNER = Question(0, 0, "stored").manner


def data(count=70, bad=11):
    """Rows with labels; one of them cannot be explained."""
    x = rows(count)
    return [(torch.zeros(2) if i == bad else x[i], i % 3) for i in range(count)]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    model = Counting()
    names = ("height", "weight", "age", "score")
    with pytest.warns(UserWarning, match="1 of 70"):
        return pellucid.run(
            pellucid.Explainer(model, METHOD, classes=CLASSES, names=names), data(), tmp_path_factory.mktemp("run") / "out", block=16
        ), model


def stored_answer(session, index, **question):
    return result(session, "explain", questions=[{"index": index, "method": "stored", **question}])


def test_what_is_stored_is_told_and_no_model_is_called(stored, look):
    results, model = stored
    before = model.calls
    session = look(None, results).session
    assert session.title == "Counting: integrated gradients of 70 examples, 1 failed"
    assert result(session, "scan")["scanned"] == 70
    told = stored_answer(session, 43)
    found = results[43]
    assert told["method"] == METHOD
    assert np.array_equal(numbers(told["parts"][0]["values"]), found.attribution[0].numpy())
    assert told["parts"][0]["names"] == ["height", "weight", "age", "score"]
    assert told["score"] == pytest.approx(float(found.scores[0]))
    assert told["healthy"]
    assert told["seed"] == found.provenance.seed
    assert model.calls == before


def test_the_list_says_what_the_run_found(stored, look):
    results, model = stored
    session = look(None, results).session
    result(session, "scan")
    with torch.no_grad():
        chances = model.linear(rows(70)).softmax(1)
    table = list(csv.DictReader(io.StringIO(session.quick["table"](Given({"method": MANNER}))["text"])))
    assert [int(row["index"]) for row in table] == list(range(70))
    for i in (0, 10, 12, 69):
        row = session.samples(Given({"offset": i, "limit": 1, "method": MANNER}))["rows"][0]
        top = row["said"][0]["top"][0]
        assert (top["index"], top["name"]) == (int(chances[i].argmax()), CLASSES[int(chances[i].argmax())])
        assert top["probability"] == pytest.approx(float(chances[i].max()), abs=1e-6)
        assert row["label"] == i % 3
        assert row["correct"] == [int(chances[i].argmax()) == i % 3]
        assert row["healthy"] is True
    right = sum(int(chances[i].argmax()) == i % 3 for i in range(70) if i != 11)
    assert session.samples(Given({"verdict": "correct"}))["total"] == right
    assert session.samples(Given({"verdict": "unreadable"}))["rows"][0]["index"] == 11
    assert "the run could not explain it" in session.samples(Given({"verdict": "unreadable"}))["rows"][0]["error"]["message"]
    assert session.quick["confusion"](Given({}))["total"] == 69


def test_what_was_not_run_is_refused_and_said_how_to_get(stored, look):
    session = look(None, stored[0]).session
    for question, words in (
        ({"target": 1}, "results.insights"),
        ({"probability": True}, "results.insights"),
        ({"edit": {"boxes": []}}, ""),
    ):
        last = events(session, "explain", questions=[{"index": 0, "method": "stored", **question}])[-1]
        assert last["kind"] == "error"
        assert words in last["error"]["message"]
    last = events(session, "explain", questions=[{"index": 0, "method": "saliency"}])[-1]
    assert "give it, too" in last["error"]["message"]
    with pytest.raises(OptionError, match="settled when the run was made"):
        session.question(Given({"index": 0, "options": {"steps": 3}}))
    assert events(session, "explain", questions=[{"index": 11}])[-1]["error"]["type"] == "InputError"


def test_a_model_beside_the_run_is_fed_what_the_run_was(stored, look):
    results, model = stored
    session = results.insights(model, title="both").session
    try:
        assert session.title == "both"
        methods = {m["name"]: m["models"] for m in session.quick["start"](Given({}))["methods"]}
        assert methods["stored"] == [0]
        assert methods["saliency"] == [1]
        live = result(session, "explain", questions=[{"index": 5, "method": METHOD, "model": 1}])
        kept = stored_answer(session, 5)
        assert np.allclose(numbers(live["parts"][0]["values"]), numbers(kept["parts"][0]["values"]), atol=1e-6)
        assert (
            result(session, "explain", questions=[{"index": 5, "method": "saliency", "model": 1, "target": 2}])["target"]
            == "output 2 (cat)"
        )
        assert result(session, "trust", index=5, method=METHOD, model=1)["probability"]
        assert events(session, "explain", questions=[{"index": 5, "method": "stored", "model": 1}])[-1]["kind"] == "error"
    finally:
        session.close()


def test_a_growing_run_is_shown_as_far_as_it_has_come(tmp_path, look):
    model, x = Counting(), rows(40)

    class Watched(torch.utils.data.Dataset):
        """The user interrupts where an example of the fourth block is read."""

        most = 25

        def __len__(self):
            return 40

        def __getitem__(self, i):
            if self.most <= i < 39:
                raise KeyboardInterrupt
            return x[i]

    watched = Watched()
    with pytest.raises(KeyboardInterrupt):
        pellucid.run(pellucid.Explainer(model, "saliency"), watched, tmp_path / "out", block=8)
    session = look(None, opened(tmp_path / "out")).session
    assert result(session, "scan")["scanned"] in (16, 24)  # the block before the one that is read may not have been stored
    watched.most = 40
    pellucid.run(pellucid.Explainer(model, "saliency"), watched, tmp_path / "out", block=8)
    assert session.samples(Given({}))["total"] == 40
    assert result(session, "scan")["scanned"] == 40
    assert stored_answer(session, 39)["method"] == "saliency"


def test_texts_need_the_raw_examples_for_another_model(tmp_path, look):
    task = words_task()
    texts = ["good bad day", "fine bad day", "bad bad day"]
    results = pellucid.run(
        pellucid.Explainer(task.model, "input_x_gradient", target=0, kind="text", classes=task.classes), texts, tmp_path / "out",
        prepare=task.prepare,
    )  # fmt: skip
    alone = look(None, results).session
    assert numbers(stored_answer(alone, 1)["parts"][0]["values"]) == pytest.approx([0.5, -1, 0])
    without = look(task, results).session
    question = {"index": 0, "method": "saliency", "model": 1}
    assert "give the raw examples" in events(without, "explain", questions=[question])[-1]["error"]["message"]
    session = results.insights(task, texts).session
    assert result(session, "explain", questions=[question])["parts"][0]["names"] == ["good", "bad", "day"]
    session.close()


def test_outputs_that_are_one_number_are_told_as_that(tmp_path, look):
    results = pellucid.run(pellucid.Explainer(Counting(classes=1), "saliency"), (rows(6), torch.arange(6.0)), tmp_path / "out")
    session = look(None, results).session
    result(session, "scan")
    row = session.samples(Given({"offset": 2, "limit": 1}))["rows"][0]
    score = float(results[2].scores[0])
    assert row["said"][0]["value"] == pytest.approx(score)
    assert row["said"][0]["loss"] == pytest.approx((score - 2) ** 2)


def test_a_run_is_exported_and_opened_from_the_command_line(stored, tmp_path):
    results, _ = stored
    from pellucid.cli import app

    path = tmp_path / "run.html"
    done = CliRunner().invoke(app, ["insights", str(results.store.folder), "--export", str(path)])
    assert done.exit_code == 0, done.output
    assert "integrated gradients of 70 examples" in path.read_text("utf-8")
    wrong = CliRunner().invoke(app, ["insights", str(tmp_path), "--export", str(path)])
    assert wrong.exit_code != 0
    assert "no run" in re.sub(r"\s+", " ", wrong.output)


def test_labels_that_are_words_of_no_class_are_left_out(tmp_path, look):
    x = rows(4)
    results = pellucid.run(Counting(), [(x[i], word) for i, word in enumerate(("ant", "dog", "bee", "ant"))], tmp_path / "out", label=1)
    session = look(None, results, classes=("ant", "bee", "cat")).session
    result(session, "scan")
    assert [row["label"] for row in session.samples(Given({}))["rows"]] == [0, None, 1, 0]


def test_data_that_are_not_the_runs_are_refused(stored):
    with pytest.raises(InputError, match="69"):
        stored[0].insights(Counting(), rows(69))


def test_insights_without_models_needs_a_run():
    with pytest.raises(OptionError, match="None"):
        insights(None, rows(3))


def test_the_page_of_a_run(stored, visit, look):
    results, model = stored
    page = explained(visit(look(None, results).serve().url))
    assert counted(page) == 70
    assert page.get_by_text("How faithful is it?").count() == 0
    assert page.get_by_role("button", name="Compare with another").count() == 0
    page.get_by_label("Predictions").select_option("incorrect")
    page.wait_for_function("() => !document.querySelector('.p-count').innerText.startsWith('70 ')")
    page.locator(".p-item").nth(1).click()
    explained(page)
    assert page.locator(".p-error").count() == 0
    page.get_by_role("tab", name="Importance").click()
    page.wait_for_timeout(100)

    both = explained(visit(results.insights(model).serve().url))
    both.get_by_role("button", name="Compare with another").click()
    explained(both, 2)
    assert both.locator(".p-method").nth(0).input_value() == "stored"
    assert both.locator(".p-method").nth(1).input_value() == METHOD
    both.locator(".p-pick").filter(has_text="ant").last.click()
    explained(both, 2)
    assert both.locator(".p-error").count() == 0
    both.locator(".p-model").nth(0).select_option("1")
    explained(both, 2)
    assert both.locator(".p-error").count() == 0
