"""Folders of transformers as tasks: what they prepare, and what the command line draws of them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

import pellucid
from pellucid import Explanation, FileError, InputError, huggingface
from pellucid.cli import app
from tests import hugging

transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")


def vilt(folder):
    sizes = {"image_size": 32, "patch_size": 16, "vocab_size": len(hugging.wordpiece()), **hugging.SIZES}
    labels = {"id2label": {0: "yes", 1: "no", 2: "red"}, "label2id": {"yes": 0, "no": 1, "red": 2}}
    model = hugging.lively(transformers.ViltForQuestionAnswering(transformers.ViltConfig(**sizes, **labels)))
    transformers.ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=16).save_pretrained(folder)
    return hugging.saved(folder, model, hugging.wordpiece())


def vit(folder):
    made = hugging.vit(folder)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return made


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("folders")
    hugging.quiet()
    kinds = {"qa": "QuestionAnswering", "mlm": "MaskedLM"}
    made = {name: hugging.bert(root / name, f"BertFor{kind}") for name, kind in kinds.items()}
    made["ner"] = hugging.bert(root / "ner", "BertForTokenClassification", ("O", "PER", "LOC"))
    made["classes"] = hugging.bert(root / "classes")
    makers = {"gpt": hugging.gpt2, "t5": hugging.t5, "vit": vit, "vilt": vilt}
    return made | {name: make(root / name) for name, make in makers.items()}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)).save("im.png")
    return tmp_path


def run(*args: Any):
    return CliRunner().invoke(app, ["explain", *map(str, args)])


TEXTS = {
    "classes": "a good film",
    "qa": ("who made it ?", "anna made the film in paris ."),
    "ner": "anna was in paris .",
    "mlm": "the film was [MASK] .",
    "gpt": "the film was",
    "t5": "the film was",
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_task_of_tensors_says_what_the_whole_model_says(folders, name):
    task = huggingface.task_in(folders[name])
    sample = task.prepare(TEXTS[name])
    assert task.kind == "text"
    assert len(sample.names) == sample.inputs[0].shape[1]
    whole = pellucid.explain(task.whole, sample.entries, tokenizer=task.tokenizer)
    plain = task.model(*sample.inputs, **sample.keywords)
    scores = plain if plain.dim() == 1 else plain.amax(1)
    torch.testing.assert_close(scores, whole.scores, rtol=1e-4, atol=1e-5)
    by_tensors = pellucid.explain(
        task.model, sample.inputs, None, baselines=sample.baselines, kwargs=sample.keywords, names=sample.names, classes=task.classes
    )
    torch.testing.assert_close(by_tensors.attribution, whole.attributions[0], rtol=1e-3, atol=2e-5)


def test_pictures_and_questions_about_them_are_tasks(folders, here):
    image = Image.open("im.png")
    task = huggingface.task_in(folders["vit"])
    sample = task.prepare(image)
    assert task.classes == ("cat", "dog", "cow")
    assert pellucid.explain(task.model, sample.inputs, "dog", "saliency", classes=task.classes).attribution.shape == (1, 3, 16, 16)
    task = huggingface.task_in(folders["vilt"])
    sample = task.prepare((image, "who made it ?"))
    found = pellucid.explain(task.whole, sample.entries, "red", "saliency", tokenizer=task.tokenizer, picture=sample.picture)
    assert [part.title for part in found.display.parts] == ["input_ids", "pixel_values"]
    assert found.display.parts[1].picture.shape == (*found.features[1].shape[2:], 3)
    with pytest.raises(InputError, match="an image and a question"):
        task.prepare(image)


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("classes", ("--target", "POS"), "explained: output 1 (POS)"),
        ("qa", ("--context", TEXTS["qa"][1]), "explained: start_logits, output"),
        ("qa", ("--context", TEXTS["qa"][1], "--target", "end", "--token", "paris"), "end_logits, output 11 ('paris')"),
        ("ner", ("--token", "4", "--target", "LOC"), "(LOC of 'paris')"),
        ("ner", ("--token", "paris"), "of 'paris')"),
        ("mlm", ("--target", "good - bad"), "('good') - output"),
        ("gpt", ("--target", "good"), "good')"),
        ("t5", ("--target", "not"), "not')"),
    ],
)
def test_the_command_draws_words(folders, here, name, args, words):
    text = TEXTS[name] if isinstance(TEXTS[name], str) else TEXTS[name][0]
    result = run("--model", folders[name], "--text", text, *args, "-m", "integrated_gradients", "--save")
    assert result.exit_code == 0, result.output
    flat = re.sub(r"\s+", " ", result.stdout)
    assert words in flat
    assert text in flat
    assert (here / "pellucid-out" / "index.html").read_text().count("film") >= 1 or name == "ner"
    found = Explanation.load(here / "pellucid-out" / "integrated_gradients.safetensors")
    shown = found.display.of_input(0)
    assert shown.kind == "text"
    assert len([t for t in shown.tokens[0] if t]) == found.attributions[0].shape[1]


def test_the_command_takes_files_in_place_of_texts(folders, here):
    (here / "context.txt").write_text("anna made the film in paris .")
    asked = run(folders["qa"], "context.txt", "--text", "who made it ?", "-m", "saliency")
    assert asked.exit_code == 0, asked.output
    assert "[SEP] anna made the film" in re.sub(r"\s+", " ", asked.stdout)
    seen = run("im.png", "--model", folders["vilt"], "--text", "who made it ?", "--target", "red", "-m", "saliency")
    assert seen.exit_code == 0, seen.output
    assert "pixel_values" in seen.stdout
    assert run(folders["vit"], "im.png", "--target", "dog", "-m", "saliency").exit_code == 0


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("qa", ("--text", "who ?"), "(question, context)"),
        ("classes", ("--text", "a good film", "--target", "MAYBE"), "'MAYBE' is not a class; the classes are 'NEG', 'POS'"),
        ("classes", ("--text", " "), "at least one word"),
        ("classes", ("--context", "a", "im.png"), "goes with a question"),
        ("classes", (), "--text"),
        ("vit", ("--text", "a good film"), "takes images"),
        ("mlm", ("--text", "a film", "--target", "good"), "0 mask tokens"),
        ("ner", ("--text", "anna", "--target", "PER"), "(token, class)"),
        ("ner", ("--text", "anna", "--token", "cow", "--target", "PER"), "'cow' is 0 of the text's tokens"),
    ],
)
def test_what_the_command_refuses(folders, here, name, args, words):
    result = run("--model", folders[name], *args, "-m", "saliency")
    assert result.exit_code == 2
    assert words in re.sub(r"[\s│]+", " ", result.stderr)


def test_a_folder_without_what_reads_its_inputs_is_refused(folders, tmp_path):
    for name, kinds, what in (("mlm", "tokenizer*", "tokenizer"), ("vilt", "*processor*", "processor")):
        copy = tmp_path / name
        copy.mkdir()
        for file in folders[name].iterdir():
            if not file.match(kinds):
                (copy / file.name).write_bytes(file.read_bytes())
        with pytest.raises(FileError, match=f"holds no {what}"):
            huggingface.task_in(copy)


def test_places_of_tensors_move_with_their_rows(folders):
    task = huggingface.task_in(folders["gpt"])
    one, two = (task.prepare(text) for text in ("the film", "the plot"))
    both = {name: torch.cat([one.keywords[name], two.keywords[name]]) for name in one.keywords}
    scores: Tensor = task.model(torch.cat([one.inputs[0], two.inputs[0]]), **both)
    torch.testing.assert_close(scores[1:], task.model(*two.inputs, **two.keywords))
