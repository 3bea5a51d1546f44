"""Insights in a real browser: everything a person does is done by clicks and keys, in Chromium; skipped where there is none."""

from __future__ import annotations

import csv
import os
import re
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from pellucid import Sample, Task
from pellucid.insights import insights

from . import test_insights as plain
from .test_insights import CLASSES, Counting, Gate, rows, words_task

pytest.importorskip("uvicorn", reason="the page needs uvicorn (extra 'insights')")
sync_api = pytest.importorskip("playwright.sync_api", reason="the browser is driven by Playwright (requirements-dev.txt)")

look = plain.look
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = os.environ.get("PELLUCID_CHROMIUM") or next((path for path in map(shutil.which, NAMES) if path), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (or named in PELLUCID_CHROMIUM)")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def visit(browser):
    """Open a page; at the end nothing may have gone wrong in it unnoticed."""
    contexts, wrong = [], []

    def go(url, **settings):
        context = browser.new_context(viewport={"width": 1300, "height": 1000}, accept_downloads=True, **settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console", lambda said: wrong.append(said.text) if said.type == "error" and "Failed to load resource" not in said.text else None
        )
        page.on("dialog", lambda dialog: wrong.append(f"a dialog: {dialog.message}"))
        page.goto(url)
        return page

    yield go
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture
def table(look):
    """A page of rows: two models, labels, 60 examples."""
    looked = look(
        {"first": Counting(seed=0), "second": Counting(seed=5)},
        rows(60),
        labels=[i % 3 for i in range(60)],
        classes=CLASSES,
        names=("height", "weight", "age", "<i>score</i>"),
    )
    return looked, looked.serve()


def explained(page, count=1):
    """Wait until so many explanations are there."""
    page.wait_for_function("count => document.querySelectorAll('.p-health').length === count", arg=count)
    return page


def counted(page):
    """How many examples the list says there are, once it has settled."""
    page.wait_for_selector(".p-scanning[aria-busy=false]", state="attached")
    page.wait_for_selector(".p-list[aria-busy=false]")
    return int(re.match(r"[\d,]+", page.inner_text(".p-count"))[0].replace(",", ""))


def targets(page):
    return page.locator(".p-target").filter(has_text="score").all_inner_texts()


def test_the_page_opens_lists_and_explains_and_takes_the_key_out_of_the_address(table, visit):
    looked, serving = table
    page = explained(visit(serving.url))
    assert counted(page) == 60
    assert page.locator(".p-item").count() == 50
    assert "key" not in page.url
    assert page.evaluate("() => document.cookie") == ""
    assert page.locator("h1").inner_text() == "Insights"
    page.reload()
    explained(page)
    assert page.locator(".p-health summary").inner_text().startswith("✓ All checks passed")
    page.get_by_role("button", name="Next page").click()
    page.wait_for_function("() => document.querySelectorAll('.p-item').length === 10")
    assert looked.session.jobs.computed >= 1


def test_without_the_key_the_page_says_what_to_do(table, visit):
    page = visit(table[1].url.split("#")[0])
    assert "open the link that was printed" in page.locator(".p-error").inner_text()


def test_five_thousand_are_listed_fifty_at_a_time(look, visit):
    model = Counting()
    looked = look(model, rows(5000), labels=[i % 3 for i in range(5000)], classes=CLASSES)
    page = visit(looked.serve().url)
    assert counted(page) == 5000
    assert page.locator(".p-item").count() == 50
    assert len(looked.session.jobs.kept) <= 1, "only the example that is shown was explained"
    page.select_option(".p-sort", "loss")
    assert counted(page) == 5000
    assert page.locator(".p-item").count() == 50


def test_filters_and_the_confusion_matrix_choose_what_is_listed(table, visit):
    looked, serving = table
    page = explained(visit(serving.url))
    counted(page)
    told = [(row.label, row.said[0].predicted) for row in looked.session.catalogue.rows]
    page.select_option(".p-verdict", "incorrect")
    assert counted(page) == sum(label != said for label, said in told)
    page.select_option(".p-predicted", label="bee")
    assert counted(page) == sum(label != said == 1 for label, said in told)
    page.get_by_role("button", name="Clear filters").click()
    assert counted(page) == 60
    page.fill(".p-search", "#17 ")
    assert counted(page) == 1
    page.get_by_role("button", name="Clear filters").click()
    page.get_by_role("tab", name="Confusion").click()
    cell = page.locator(".p-confusion td:not(.p-diagonal) button").first
    words = cell.get_attribute("aria-label")
    count, label, said = re.match(r"(\d+) labelled (\w+), predicted (\w+)", words).groups()
    cell.click()
    assert counted(page) == int(count) == sum((CLASSES[a], CLASSES[b]) == (label, said) for a, b in told)
    page.fill(".p-search", "nothing like this")
    assert counted(page) == 0
    assert "No example passes" in page.inner_text(".p-list")


def test_a_click_on_a_class_explains_it_and_on_an_example_shows_it(table, visit):
    page = explained(visit(table[1].url))
    picks = page.locator(".p-tops").first.locator(".p-pick")
    second = picks.nth(1).locator(".p-class").inner_text()
    picks.nth(1).click()
    page.wait_for_function("name => document.querySelector('p.p-target')?.textContent.includes(`(${name})`)", arg=second)
    explained(page)
    page.select_option(".p-versus", label="cat" if second != "cat" else "ant")
    page.wait_for_function("() => document.querySelector('p.p-target')?.textContent.includes(' - ')")
    page.locator(".p-item").nth(3).click()
    page.wait_for_function("() => document.querySelector('h2').textContent === 'Example 3'")
    explained(page)
    assert " - " not in targets(page)[0], "another example begins with its own prediction"


def test_another_method_and_its_arguments(table, visit):
    looked, serving = table
    page = explained(visit(serving.url))
    page.select_option(".p-method", "smoothgrad")
    explained(page)
    page.get_by_text("Arguments").click()
    page.locator("[data-argument=samples]").fill("7")
    page.get_by_label("seed").fill("4")
    page.get_by_role("button", name="Explain", exact=True).click()
    page.wait_for_function("() => document.querySelector('.p-health')?.textContent.includes('seed 4')")
    answer = list(looked.session.jobs.kept._values.values())[-1][0]
    assert answer.question.options == {"samples": 7}
    assert answer.question.seed == 4
    page.locator("[data-argument=stdev]").fill("-3")
    page.get_by_role("button", name="Explain", exact=True).click()
    assert "stdev" in page.locator(".p-card .p-error").inner_text()
    page.locator("[data-argument=stdev]").fill("0.1")
    page.get_by_role("button", name="Explain", exact=True).click()
    explained(page)


def test_two_methods_and_two_models_side_by_side(table, visit):
    page = explained(visit(table[1].url))
    page.click(".p-compare")
    explained(page, 2)
    assert page.locator(".p-model").nth(1).input_value() == "1"
    page.wait_for_function("() => document.querySelectorAll('.p-agree')[1]?.textContent.includes('rank correlation')")
    page.click(".p-compare")
    explained(page, 3)
    assert len(set(page.locator(".p-method").evaluate_all("all => all.map(one => one.value)"))) == 2
    page.get_by_label("Same scale").check()
    page.get_by_role("button", name="Remove comparison 2").click()
    explained(page, 2)


def test_bars_add_up_from_the_baseline_to_the_score_and_names_are_texts(table, visit):
    page = explained(visit(table[1].url))
    cells = page.locator(".p-bars tbody tr").evaluate_all(
        "rows => rows.map(row => [row.cells[0].textContent, Number(row.cells[3].textContent.replace('−', '-'))])"
    )
    values = dict(cells)
    assert values["score"] == pytest.approx(
        values["score of the baseline"] + sum(v for name, v in cells if not name.startswith("score")), abs=0.02
    )
    assert "<i>score</i>" in values


COLOUR = """([x, y]) => {
    const canvas = document.querySelector('.p-map');
    const at = canvas.getContext('2d').getImageData((x + .5) * canvas.width / 4, (y + .5) * canvas.height / 4, 1, 1);
    return [...at.data].slice(0, 3);
}"""


class Corner(nn.Module):
    """The first class looks at one pixel, for, and at another, against; the second class at nothing."""

    def forward(self, x):
        return torch.stack([3 * x[:, 0, 0, 0] - 3 * x[:, 0, 3, 3], 0 * x.sum((1, 2, 3)) - 1], 1)


def test_pictures_are_painted_where_the_attribution_is(look, visit):
    looked = look(Corner(), [torch.ones(1, 4, 4)], classes=("first", "second"))
    page = explained(visit(looked.serve().url))
    assert "(first)" in targets(page)[0]

    def colour(x, y):
        return page.evaluate(COLOUR, [x, y])

    (red, _, blue), (red2, _, blue2), nothing = colour(0, 0), colour(3, 3), colour(1, 2)
    assert red > blue + 80
    assert blue2 > red2 + 80
    assert max(nothing) - min(nothing) < 8
    page.select_option(".p-sign", "positive")
    assert max(colour(3, 3)) - min(colour(3, 3)) < 8, "only what speaks for the class is left"
    assert colour(0, 0)[0] > colour(0, 0)[2] + 80
    page.locator(".p-map").hover(position={"x": 5, "y": 5})
    assert "row 1, column 1: 3" in page.inner_text(".p-reading")


def test_an_edited_text_is_predicted_and_explained_and_the_edit_can_be_undone(look, visit):
    looked = look(words_task(), [("a good day", 0), ("a bad day", 1)])
    page = explained(visit(looked.serve().url))
    assert page.locator(".p-pick .p-class").first.inner_text() == "happy"
    page.get_by_text("Edit the text").click()
    page.get_by_label("Text").fill("a bad bad day <img src=x onerror=alert(1)>")
    page.get_by_role("button", name="Predict and explain").click()
    page.wait_for_function("() => document.querySelector('.p-pick .p-class')?.textContent === 'sad'")
    explained(page)
    assert "changed the prediction from happy" in page.inner_text(".p-was")
    assert page.locator(".p-word", has_text="bad").count() == 2
    assert page.locator("img").count() == 0
    page.get_by_label("Text").fill("  ")
    page.get_by_role("button", name="Predict and explain").click()
    assert "at least one word" in page.locator(".p-error").first.inner_text()
    page.get_by_role("button", name="Undo the edit").click()
    page.wait_for_function("() => document.querySelector('.p-pick .p-class')?.textContent === 'happy'")


def test_a_part_of_a_picture_is_hidden_by_dragging_and_by_typing(look, visit):
    picture = torch.zeros(1, 4, 4)
    picture[0, 0, 0] = 1
    looked = look(Corner(), [picture], classes=("first", "second"))
    page = explained(visit(looked.serve().url))
    assert page.locator(".p-pick .p-class").first.inner_text() == "first"
    before = page.locator(".p-pick .p-number").first.inner_text()
    page.get_by_text("Hide a part of the picture").click()
    box = page.locator(".p-drag").bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + box["height"] * 0.2)
    page.mouse.up()
    page.wait_for_function("was => document.querySelector('.p-pick .p-number')?.textContent !== was", arg=before)
    assert "before the edit: first" in page.inner_text(".p-was")
    page.get_by_role("button", name="Undo the edit").click()
    page.wait_for_function("was => document.querySelector('.p-pick .p-number')?.textContent === was", arg=before)
    page.get_by_text("Hide a part of the picture").click()
    for name, value in (("left", "0"), ("top", "0"), ("width", "25"), ("height", "25")):
        page.locator(f"[data-box={name}]").fill(value)
    page.get_by_role("button", name="Hide this part").click()
    page.wait_for_function("was => document.querySelector('.p-pick .p-number')?.textContent !== was", arg=before)


def test_work_is_shown_cancelled_and_begun_again_and_the_model_is_free(look, visit):
    model = Gate()
    model.open.set()
    looked = look(model, rows(5), classes=CLASSES)
    page = explained(visit(looked.serve().url))
    counted(page)
    page.select_option(".p-method", "vargrad")
    explained(page)
    page.get_by_text("Arguments").click()
    page.locator("[data-argument=samples]").fill("3")
    model.open.clear()
    model.entered.clear()
    page.get_by_role("button", name="Explain", exact=True).click()
    page.wait_for_function("() => document.querySelector('.p-working')?.textContent.includes('through the model')")
    assert page.locator(".p-working progress").count() == 1
    assert model.entered.wait(60)
    (job,) = looked.session.jobs._live.values()
    page.click(".p-cancel")
    page.wait_for_selector(".p-cancelled")
    assert job.ticket.stop.wait(60)
    model.open.set()
    assert job.finished.wait(60)
    assert job.state == "cancelled"
    page.locator(".p-cancelled button").click()
    explained(page)


def test_many_examples_are_averaged_with_progress_and_then_sorted_by_mass(table, visit):
    page = explained(visit(table[1].url))
    counted(page)
    page.get_by_role("tab", name="Importance").click()
    page.locator(".p-limit").fill("60")
    page.click(".p-sum")
    page.wait_for_function("() => document.querySelector('.p-global')?.textContent.includes('Means over 60 examples')")
    assert page.locator(".p-global .p-bars tbody tr").count() == 4
    counted(page)
    page.select_option(".p-sort", "mass")
    counted(page)
    masses = [float(re.search(r"mass ([\d.]+)", text)[1]) for text in page.locator(".p-item .p-note").all_inner_texts()]
    assert len(masses) == 50
    assert masses == sorted(masses)


def test_a_link_to_what_is_known_only_later_shows_its_first_example(table, visit):
    page = visit(f"{table[1].url}&filter=%7B%22verdict%22%3A%22incorrect%22%7D")
    explained(page)
    assert page.locator(".p-item[aria-current=true]").count() == 1
    assert 0 < counted(page) < 60
    other = visit(f"{table[1].url}&tab=importance&target=%7B%22class%22%3A1%7D&filter=%7B%22verdict%22%3A%22incorrect%22%7D")
    counted(other)
    explained(other)
    assert other.locator("[role=tab][aria-selected=true]").inner_text() == "Importance"
    assert "bee" in other.evaluate("() => document.querySelector('p.p-target').innerText")


def test_a_file_of_a_sorted_view_opens_at_its_first_example(look, visit, tmp_path):
    looked = look(Counting(), rows(40), labels=[i % 3 for i in range(40)], classes=CLASSES)
    path = looked.export(tmp_path / "sorted.html", verdict="incorrect", sort="loss", descending=True, examples=3)
    page = explained(visit(path.as_uri()))
    losses = [float(re.search(r"loss ([\d.]+)", text)[1]) for text in page.locator(".p-item").all_inner_texts()]
    assert len(losses) > 3
    assert losses == sorted(losses, reverse=True)
    assert page.locator(".p-item").first.get_attribute("aria-current") == "true"
    assert page.locator(".p-error").count() == 0


def test_faithfulness_is_measured_on_request_and_an_explanation_is_saved(table, visit, tmp_path):
    from pellucid import Explanation

    page = explained(visit(table[1].url))
    page.click(".p-asktrust")
    page.wait_for_selector(".p-chart")
    assert "low is good" in page.inner_text(".p-legend")
    page.click(".p-askweights")
    page.wait_for_selector(".p-weights")
    assert page.locator(".p-weights tbody tr").count() == 2
    assert page.locator(".p-chart").count() == 1
    with page.expect_download() as saved:
        page.click(".p-save")
    saved.value.save_as(tmp_path / "one.safetensors")
    assert saved.value.suggested_filename == "integrated_gradients-0.safetensors"
    assert Explanation.load(tmp_path / "one.safetensors").method == "integrated_gradients"


def test_the_exported_file_opens_from_disk_without_a_network(look, visit, tmp_path):
    nasty = "good </script><script>alert('x')</script> day"
    looked = look(words_task(), [(nasty, 0), *((f"a {w} day", int(w == "bad")) for w in ("good", "bad", "fine", "good"))], title="Moods")
    serving = looked.serve()
    page = explained(visit(serving.url))
    page.click(".p-compare")
    explained(page, 2)
    page.locator(".p-item").nth(2).click()
    page.wait_for_function("() => document.querySelector('h2').textContent === 'Example 2'")
    explained(page, 2)
    page.select_option(".p-target", label="sad")
    page.wait_for_function("() => [...document.querySelectorAll('p.p-target')].filter(p => p.textContent.includes('(sad)')).length === 2")
    with page.expect_download() as saved:
        page.click(".p-export")
    path = tmp_path / saved.value.suggested_filename
    saved.value.save_as(path)
    assert path.name == "moods.html"
    looked.close()
    still = visit(path.as_uri(), offline=True)
    explained(still, 2)
    assert still.locator("h1").inner_text() == "Moods"
    assert still.locator("h2").first.inner_text() == "Example 2", "the view that was exported is the one that opens"
    assert "(sad)" in targets(still)[0]
    assert counted(still) == 5
    still.locator(".p-item").first.click()
    still.wait_for_function("() => document.querySelector('.p-words')?.textContent.includes('</script><script>alert')")
    still.select_option(".p-verdict", "incorrect")
    assert counted(still) == 0 or still.locator(".p-item").count() > 0
    still.get_by_role("button", name="Clear filters").click()
    still.get_by_role("tab", name="Confusion").click()
    assert "right" in still.locator(".p-main").inner_text()
    still.get_by_role("tab", name="Importance").click()
    still.wait_for_function("() => document.querySelector('.p-global')?.textContent.includes('Means over 5 examples')")
    still.get_by_role("tab", name="Example").click()
    still.select_option(".p-method >> nth=0", "occlusion")
    assert "does not hold that explanation" in still.locator(".p-card .p-error").first.inner_text()


def test_a_late_error_does_not_cover_what_was_chosen_meanwhile(table, visit):
    """The answer to a link's broken example comes after that to the example that was clicked."""
    page = visit("about:blank")
    late = {}

    def hold(route):
        if '"index":99999' in (route.request.post_data or ""):
            late["route"] = route
        else:
            route.continue_()

    page.route("**/api/sample", hold)
    page.goto(f"{table[1].url}&example=99999")
    page.locator(".p-item").first.click()
    explained(page)
    with page.expect_response("**/api/sample"):
        late["route"].continue_()
    page.wait_for_timeout(100)
    assert page.locator(".p-error").count() == 0
    assert page.locator(".p-health").count() == 1


def test_a_link_brings_back_what_was_seen_and_a_broken_one_does_no_harm(table, visit):
    _, serving = table
    page = explained(visit(serving.url))
    counted(page)
    page.select_option(".p-verdict", "incorrect")
    counted(page)
    page.locator(".p-item").nth(2).click()
    explained(page)
    page.select_option(".p-method", "input_x_gradient")
    explained(page)
    page.get_by_role("tab", name="Confusion").click()
    heading, link = page.locator(".p-count").inner_text(), page.url
    other = visit(f"{serving.url}&{link.split('#')[1]}")
    other.wait_for_selector(".p-confusion")
    assert other.locator(".p-count").inner_text() == heading
    other.get_by_role("tab", name="Example").click()
    explained(other)
    assert other.locator(".p-method").input_value() == "input_x_gradient"
    assert other.locator("h2").first.inner_text() == page.locator("h2").first.inner_text()
    other.evaluate("() => { location.hash = 'example=5' }")
    other.wait_for_function("() => document.querySelector('h2')?.textContent === 'Example 5'")
    explained(other)
    other.keyboard.press("j")
    other.wait_for_function("() => document.querySelector('h2')?.textContent === 'Example 6'")
    for broken in (
        "example=99999",
        "columns=[[[",
        'columns=[{"method":"__proto__","model":7}]',
        'filter={"verdict":"x","predicted":["a"],"model":-1}',
        "tab=%00&look=3",
        'target={"class":"<b>"}',
    ):
        odd = visit(f"{serving.url}&{broken}")
        odd.wait_for_selector(".p-item")
        odd.locator(".p-item").first.click()
        explained(odd)


def test_everything_is_done_by_keys_alone(table, visit):
    page = explained(visit(table[1].url))
    page.keyboard.press("j")
    page.wait_for_function("() => document.querySelector('h2').textContent === 'Example 1'")
    page.keyboard.press("k")
    page.wait_for_function("() => document.querySelector('h2').textContent === 'Example 0'")
    page.keyboard.press("/")
    page.keyboard.type("j#5")
    assert page.locator(".p-search").input_value() == "j#5", "letters that are typed are no commands"
    page.locator(".p-search").fill("")
    page.keyboard.press("Tab")
    page.locator(".p-item").nth(4).focus()
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('h2').textContent === 'Example 4'")
    page.get_by_role("tab", name="Example").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("() => document.activeElement.textContent") == "Confusion"
    assert page.get_by_role("tab", name="Confusion").get_attribute("aria-selected") == "true"
    page.keyboard.press("1")
    page.keyboard.press("c")
    explained(page, 2)
    page.keyboard.press("?")
    assert page.get_by_role("dialog").is_visible()
    page.keyboard.press("Escape")
    assert not page.get_by_role("dialog").is_visible()
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("() => document.activeElement.className || document.activeElement.tagName"))
    assert {"p-method", "p-pick", "p-sign"} & reached


def test_what_goes_wrong_is_said_and_the_page_goes_on(look, visit):
    class Disk:
        def __len__(self):
            return 4

        def __getitem__(self, i):
            if i == 1:
                raise OSError("sector 7 <b>is gone</b>")
            return (torch.tensor([7.0, 1.0]) if i == 2 else rows(4, 2)[i]), 0

    def model(x):
        if bool((x.detach()[:, 0] == 7).any()):
            raise RuntimeError("the model fell over <script>")
        return torch.stack([x.sum(1), x[:, 0]], 1)

    looked = look(model, Disk(), classes=("a", "b"))
    serving = looked.serve()
    page = explained(visit(serving.url))
    assert counted(page) == 4
    page.locator(".p-item").nth(1).click()
    assert "sector 7 <b>is gone</b>" in page.locator(".p-main .p-error").first.inner_text()
    page.locator(".p-item").nth(2).click()
    page.wait_for_function(
        "() => [...document.querySelectorAll('.p-main .p-error')].filter(e => e.textContent.includes('fell over <script>')).length === 2"
    )
    page.locator(".p-item").nth(3).click()
    explained(page)
    serving.stop()
    page.locator(".p-item").nth(0).click()
    page.wait_for_function("() => document.querySelector('.p-main .p-error')?.textContent.includes('does not answer')")
    assert page.get_by_role("button", name="Try again").first.is_visible()


def test_a_browser_that_leaves_frees_the_model(look, visit):
    model = Gate()
    model.open.set()
    looked = look(model, rows(5), classes=CLASSES)
    page = explained(visit(looked.serve().url))
    counted(page)
    model.open.clear()
    model.entered.clear()
    page.select_option(".p-method", "vargrad")
    assert model.entered.wait(60), "the model is in the middle of a call"
    (job,) = looked.session.jobs._live.values()
    page.close()
    assert job.ticket.stop.wait(60)
    model.open.set()
    assert job.finished.wait(60)
    assert job.state == "cancelled"
    assert looked.session.jobs.waiting == 0


def axe():
    """Where axe-core lies: in PELLUCID_AXE, or in node_modules after `npm install axe-core`."""
    places = [os.environ.get("PELLUCID_AXE", ""), "node_modules/axe-core/axe.min.js"]
    return next((Path(place) for place in places if place and Path(place).is_file()), None)


@pytest.mark.skipif(axe() is None, reason="axe-core is not here: npm install axe-core, or name axe.min.js in PELLUCID_AXE")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_fault(look, visit, scheme):
    looked = look({"one": words_task(), "two": words_task()}, [("a good day", 0), ("a bad day", 0)] * 20, title="Moods")
    page = explained(visit(looked.serve().url, color_scheme=scheme))
    page.click(".p-compare")
    explained(page, 2)
    page.get_by_text("Edit the text").click()
    page.get_by_text("Arguments").first.click()
    page.locator(".p-health summary").first.click()
    page.evaluate(axe().read_text("utf-8") + "; undefined")
    for tab in ("Example", "Confusion", "Importance"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_selector({"Example": ".p-card", "Confusion": ".p-confusion", "Importance": ".p-sum"}[tab])
        if tab == "Importance":
            page.click(".p-sum")
            page.wait_for_function("() => document.querySelector('.p-global')?.textContent.includes('Means over')")
        found = page.evaluate(
            "async () => (await axe.run()).violations.map(v => [v.impact, v.id, v.nodes.length, v.nodes[0].html.slice(0, 200)])"
        )
        assert found == [], (tab, found)


def test_light_and_dark(table, visit):
    page = explained(visit(table[1].url, color_scheme="dark"))
    ground = "() => getComputedStyle(document.querySelector('.pellucid')).backgroundColor"
    assert page.evaluate(ground) == "rgb(20, 23, 26)"
    page.click(".p-theme")
    assert page.evaluate(ground) == "rgb(245, 246, 248)"
    page.click(".p-theme")
    assert page.evaluate(ground) == "rgb(20, 23, 26)"


def test_a_narrow_window_cuts_nothing_off(table, visit):
    page = explained(visit(table[1].url))
    page.set_viewport_size({"width": 420, "height": 900})
    page.wait_for_function("() => innerWidth === 420 && document.documentElement.scrollWidth <= innerWidth + 1")


def test_a_long_list_scrolls_by_itself_and_does_not_lengthen_the_page(table, visit):
    page = explained(visit(table[1].url))
    counted(page)
    assert page.locator(".p-item .p-mark").count() == 50, "verdicts have words that only screen readers meet"
    heights = "() => [document.documentElement.scrollHeight, document.querySelector('.p-body').getBoundingClientRect().bottom + scrollY]"
    whole, content = page.evaluate(heights)
    assert whole <= max(content, 1000) + 1


def test_the_chosen_are_saved_as_a_table(table, visit):
    looked, serving = table
    page = explained(visit(serving.url))
    counted(page)
    page.select_option(".p-verdict", "incorrect")
    count = counted(page)
    with page.expect_download() as download:
        page.click(".p-csv")
    read = list(csv.DictReader(Path(download.value.path()).read_text("utf-8").splitlines()))
    assert len(read) == count
    assert {line["first: correct"] for line in read} == {"False"}
    assert [int(line["index"]) for line in read] == [r.index for r in looked.session.catalogue.rows if r.said[0].predicted != r.label]


def test_one_channel_of_a_picture_is_painted_and_a_link_keeps_it(look, visit):
    # The class is what the second channel holds; the others count for nothing.
    class Second(nn.Module):
        def forward(self, x):
            total = x[:, 1].sum((1, 2))
            return torch.stack([total, -total], 1)

    looked = look(Second(), torch.rand(3, 3, 6, 6), kind="image", classes=["much", "little"])
    page = explained(visit(looked.serve().url))
    for label, holds in (("1 of 3", False), ("2 of 3", True)):
        page.select_option(".p-channel", label=label)
        page.wait_for_function("c => document.querySelector('.p-maps')?.textContent.includes(`channel ${c}`)", arg=label[0])
        assert page.locator(".p-reading").inner_text().startswith("strongest: 0 in") is not holds
    page.reload()
    explained(page)
    page.wait_for_function("() => document.querySelector('.p-maps')?.textContent.includes('channel 2')")
    page.select_option(".p-channel", label="all together")
    page.wait_for_function("() => !document.querySelector('.p-maps').textContent.includes('channel')")


def test_examples_with_several_classes(look, visit, tmp_path):
    labels = [[i % 3] if i % 2 else [0, i % 3] for i in range(30)]
    looked = look(Counting(), rows(30), labels=labels, classes=CLASSES, exclusive=False)
    page = explained(visit(looked.serve().url))
    counted(page)
    page.select_option(".p-verdict", "correct")
    right = sum(r.said[0].present == r.label for r in looked.session.catalogue.rows)
    assert counted(page) == right
    page.get_by_role("tab", name="Confusion").click()
    page.wait_for_function("() => document.querySelector('.p-main').textContent.includes('several classes')")
    written = looked.export(tmp_path / "view.html", examples=1)
    still = explained(visit(written.as_uri()))
    still.select_option(".p-verdict", "correct")
    assert counted(still) == right


@pytest.mark.slow
def test_a_notebook_shows_the_widget(browser, tmp_path):
    """A real JupyterLab: the notebook is run there, and its widget is used."""
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")
    pytest.importorskip("anywidget")
    import socket
    import subprocess
    import sys

    import nbformat

    cells = [
        "import torch\nfrom pellucid.insights import insights\nmodel, data = torch.nn.Linear(4, 3), torch.randn(30, 4)",
        "insights({'one': model, 'two': model}, data, labels=[i % 3 for i in range(30)], classes=['ant', 'bee', 'cat'])",
    ]
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        ),
        tmp_path / "look.ipynb",
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        "--IdentityProvider.token=t",
        f"--ServerApp.root_dir={tmp_path}",
    ]
    home = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(tmp_path / "c"),
        "JUPYTER_DATA_DIR": str(tmp_path / "d"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "r"),
        "IPYTHONDIR": str(tmp_path / "i"),
    }
    lab = subprocess.Popen(command, env=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.3)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(90_000)
        page.goto(f"http://127.0.0.1:{port}/lab/tree/look.ipynb?token=t")
        page.wait_for_selector(".jp-Notebook")
        page.get_by_text("| Idle").wait_for()
        page.get_by_text("Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        page.wait_for_selector(".pellucid .p-health")
        assert page.locator(".pellucid .p-item").count() == 30
        page.locator(".pellucid .p-item").nth(3).click()
        page.wait_for_function("() => document.querySelector('.pellucid h2:not(.p-title)').textContent === 'Example 3'")
        page.locator(".pellucid .p-method").select_option("saliency")
        page.wait_for_selector(".pellucid .p-health")
        page.locator(".pellucid .p-compare").click()
        page.wait_for_function("() => document.querySelectorAll('.pellucid .p-health').length === 2")
    finally:
        lab.terminate()
        lab.wait(20)


def test_two_pages_at_once_do_not_disturb_each_other(table, visit):
    _, serving = table
    first, second = explained(visit(serving.url)), explained(visit(serving.url))
    first.select_option(".p-method", "occlusion")
    explained(first)
    assert second.locator(".p-method").input_value() == "integrated_gradients"
    second.reload()
    explained(second)
    assert second.locator(".p-method").input_value() == "integrated_gradients"
    assert threading.active_count() < 40


def test_a_task_with_a_failing_prepare_says_so(look, visit):
    def prepare(raw):
        if raw == 1:
            raise ValueError("cannot be prepared")
        return Sample((rows(3)[raw : raw + 1],))

    looked = look(Task(Counting(), "table", prepare, CLASSES), [0, 1, 2], labels=[0, 0, 0])
    page = explained(visit(looked.serve().url))
    page.locator(".p-item").nth(1).click()
    page.wait_for_function("() => document.querySelector('.p-main .p-error')?.textContent.includes('cannot be prepared')")
    assert insights is not None
