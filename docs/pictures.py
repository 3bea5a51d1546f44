"""The pictures of Insights in this documentation: python docs/pictures.py [name ...]."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from playwright.sync_api import Browser, Locator, Page, ViewportSize, sync_playwright

import pellucid
from pellucid import zoo
from pellucid.insights import Insights, insights

CHROMIUM = os.environ.get("PELLUCID_CHROMIUM") or shutil.which("chromium")
IMAGES = Path(__file__).parent / "images"
SIZE: ViewportSize = {"width": 1240, "height": 860}
TITLES = {"tiles": "Tiles of photographs", "sentences": "Sentences of documentation", "digits": "Digits"}
FLARE = {"example": 39, "filter": {"verdict": "incorrect", "sort": "loss", "descending": True}}  # a rocket that is taken for coffee
BOTH = [{}, {"method": "feature_ablation"}]
CELL = 'from pellucid import zoo\nfrom pellucid.insights import insights\n\ninsights(zoo.cancer(), zoo.held_out("cancer"), title="Tumours")'
NO_NEWS = '{"@jupyterlab/apputils-extension:notification": {"fetchNews": "false"}}'


def of_zoo(name: str) -> Insights:
    return insights(getattr(zoo, name)(), zoo.held_out(name, 10_000), title=TITLES[name])


@contextmanager
def opened(browser: Browser, url: str, **settings: Any) -> Iterator[Page]:
    page = browser.new_page(viewport=SIZE, device_scale_factor=1, **settings)
    page.set_default_timeout(60_000)
    page.goto(url)
    yield page
    page.close()


@contextmanager
def served(browser: Browser, looked: Insights, **view: Any) -> Iterator[Page]:
    """The page at the address of a view, once everything is predicted and what the view shows is explained."""
    address = urlencode({name: part if isinstance(part, str) else json.dumps(part) for name, part in view.items()})
    with opened(browser, f"{looked.serve().url}&{address}") as page:
        page.wait_for_selector(".p-scanning[aria-busy=false]", state="attached")
        if "tab" not in view:
            if page.get_by_text("There is no example to show").count():  # none was predicted yet when the page chose one
                page.locator(".p-item").first.click()
            explained(page, len(view.get("columns", [{}])))
        yield page
    looked.close()


def explained(page: Page, count: int = 1) -> None:
    page.wait_for_function("count => document.querySelectorAll('.p-health').length === count", arg=count)


def keep(seen: Page, name: str, part: Locator | None = None, end: str = "") -> None:
    """Write what is seen, if nothing went wrong in it: a part, or all down to the end of something, where the last line would be cut."""
    seen.mouse.move(SIZE["width"] - 1, SIZE["height"] - 1)
    seen.wait_for_selector(".p-list[aria-busy=false]")
    if seen.locator(".p-error").count():
        raise RuntimeError(f"{name}: the page says {seen.locator('.p-error').first.inner_text()!r}")
    if end:
        bottom = seen.locator(end).first.evaluate("element => element.getBoundingClientRect().bottom")
        seen.set_viewport_size({"width": SIZE["width"], "height": round(bottom) + 2})
    (part or seen).screenshot(path=IMAGES / f"insights-{name}.png", animations="disabled")


def page(browser: Browser) -> None:
    with served(browser, of_zoo("tiles"), **FLARE) as seen:
        keep(seen, "page", end=".p-reading")


def compare(browser: Browser) -> None:
    with served(browser, of_zoo("tiles"), **FLARE, columns=[{"method": "grad_cam"}, {"method": "shapley"}]) as seen:
        seen.locator(".p-asktrust").evaluate_all("all => all.forEach((one) => one.click())")
        seen.wait_for_function("() => document.querySelectorAll('.p-chart').length === 2")
        keep(seen, "compare", seen.locator(".p-cards"))


def text(browser: Browser) -> None:
    with served(browser, of_zoo("sentences"), filter={"search": "logger names"}, columns=BOTH) as seen:
        seen.get_by_text("Edit the text").click()
        box = seen.get_by_label("Text")
        box.fill(box.input_value().replace("handlers", "tensors"))
        seen.get_by_role("button", name="Predict and explain").click()
        seen.wait_for_selector(".p-was")
        explained(seen, 2)
        keep(seen, "text", end=".p-card .p-words + .p-note + .p-scale + .p-more")


def hide(browser: Browser) -> None:
    with served(browser, of_zoo("tiles"), **FLARE) as seen:
        seen.get_by_text("Hide a part of the picture").click()
        seen.drag_and_drop(".p-drag", ".p-drag", source_position={"x": 25, "y": 73}, target_position={"x": 119, "y": 167})
        seen.wait_for_selector(".p-was")
        explained(seen)
        keep(seen, "hide", end="p.p-target")


def confusion(browser: Browser) -> None:
    with served(browser, of_zoo("digits"), tab="confusion") as seen:
        seen.locator(".p-confusion td:not(.p-diagonal) button").first.click()
        seen.wait_for_selector(".p-confusion button[aria-pressed=true]")
        keep(seen, "confusion")


def importance(browser: Browser) -> None:
    torch = zoo.sentences().classes.index("torch")
    with served(browser, of_zoo("sentences"), tab="importance", filter={"predicted": [torch]}, target={"class": torch}) as seen:
        seen.locator(".p-limit").fill("120")
        seen.click(".p-sum")
        seen.wait_for_selector(".p-global .p-bars")
        keep(seen, "importance")


def cancel(browser: Browser) -> None:
    with served(browser, of_zoo("digits")) as seen:
        seen.select_option(".p-method", "smoothgrad")
        seen.get_by_text("Arguments").click()
        seen.locator("[data-argument=samples]").fill("400000")
        seen.get_by_role("button", name="Explain", exact=True).click()
        seen.wait_for_function("() => document.querySelector('.p-card progress')?.position > 0.25")
        keep(seen, "cancel", seen.locator(".p-card"))


def file(browser: Browser) -> None:
    with tempfile.TemporaryDirectory() as folder:
        looked = of_zoo("sentences")
        written = looked.export(Path(folder) / "sentences.html", verdict="incorrect", columns=BOTH)
        looked.close()
        with opened(browser, written.as_uri(), color_scheme="dark") as seen:
            explained(seen, 2)
            keep(seen, "file")


def notebook(browser: Browser) -> None:
    with laboratory(CELL) as url, opened(browser, url) as seen:
        seen.get_by_text("| Idle").wait_for()
        seen.locator(".jp-Cell .cm-content").click()
        seen.keyboard.press("Control+Enter")
        explained(seen)
        seen.keyboard.press("Control+b")  # puts the list of files away
        seen.keyboard.press("Control+s")
        seen.wait_for_selector(".jp-mod-dirty", state="detached")
        keep(seen, "notebook")


@contextmanager
def laboratory(source: str) -> Iterator[str]:
    """A JupyterLab with nobody's settings and a notebook of one cell."""
    cell: dict[str, Any] = {"id": "look", "cell_type": "code", "source": source, "metadata": {}, "outputs": [], "execution_count": None}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        Path(folder, "look.ipynb").write_text(json.dumps({"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
        Path(folder, "labconfig").mkdir()
        Path(folder, "labconfig", "default_setting_overrides.json").write_text(NO_NEWS)
        options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0", f"--ServerApp.root_dir={folder}"]
        command, home = [sys.executable, "-m", "jupyterlab", *options], os.environ | {"HOME": folder, "JUPYTER_CONFIG_DIR": folder}
        with subprocess.Popen(command, env=home, stderr=subprocess.PIPE, text=True) as lab:
            try:
                yield next(line for line in lab.stderr or () if "/lab?token=" in line).split()[-1].replace("/lab?", "/lab/tree/look.ipynb?")
            finally:
                lab.terminate()


def run(browser: Browser) -> None:
    task, held_out = zoo.digits(), zoo.data.digits().held_out
    explainer = pellucid.Explainer(task.model, "integrated_gradients", steps=20, kind="image", classes=task.classes)
    with tempfile.TemporaryDirectory() as folder:
        results = pellucid.run(explainer, (held_out.x, held_out.y), folder, progress=False)
        with served(browser, results.insights(), filter={"verdict": "incorrect"}) as seen:
            keep(seen, "run")


PICTURES = {made.__name__: made for made in (page, compare, text, hide, confusion, importance, cancel, file, notebook, run)}


def main(names: list[str]) -> None:
    if unknown := [name for name in names if name not in PICTURES]:
        sys.exit(f"unknown picture {', '.join(unknown)}; the pictures are {', '.join(PICTURES)}")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name in names or PICTURES:
            print(name, flush=True)
            PICTURES[name](browser)


if __name__ == "__main__":
    main(sys.argv[1:])
