"""The command line as an impatient newcomer meets it: every answer whole, every refusal one message and exit code 2."""

import importlib
import inspect
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import pellucid
from pellucid import Explanation, MissingExtra, PellucidWarning, Sample, Task, zoo
from pellucid.cli import app

demo = importlib.import_module("pellucid.cli.demo")  # the name in the package is the command

HERE = "tests.test_cli"
WIDTH = 60


# --- models that a user could have written


def table():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3))


def picture():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def letters():
    torch.manual_seed(1)
    embedding, model = nn.Embedding(128, 4), nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    prepare = lambda text: Sample((embedding(torch.tensor([[ord(c) for c in text]])).detach(),), names=tuple(text))  # noqa: E731
    return Task(model.eval(), "text", prepare, ("no", "yes"))


class Nan(nn.Module):
    def forward(self, x):
        return x * float("nan")


class Raises(nn.Module):
    def forward(self, x):
        raise RuntimeError("inside forward")


class Pair(nn.Module):
    def forward(self, x):
        return x, x


def unprepared():
    def prepare(raw):
        raise ValueError("a bad row")

    return Task(table(), "table", prepare)


def misprepared():
    return Task(table(), "table", lambda raw: 5)


def nothing():
    return None


def interrupted():
    raise KeyboardInterrupt


ready = table()
number = 5


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A fresh current folder, with a table and a picture; what the command line adds to sys.path goes again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("t.csv").write_text("age,height,weight\n1,2,3\n4,5,-6\n")
    Path("t.txt").write_text("abc\n")
    colours = np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    Image.fromarray(colours).save("im.png")
    return tmp_path


def run(*args, width=WIDTH):
    return CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": str(width), "TERMINAL_WIDTH": str(width)})


def explained(*args, method="gradient"):
    """What the command line computed, as it saved it."""
    result = run("explain", *args, "--save", "-m", method)
    assert result.exit_code == 0, result.output
    return Explanation.load(f"pellucid-out/{method}.safetensors")


def assert_whole(text):
    """Nothing is cut, and but for paths nothing is wider than the screen."""
    assert "…" not in text
    assert not [line for line in text.splitlines() if len(line) > WIDTH and os.sep not in line]


# --- finding one's way


@pytest.mark.parametrize("args", [(), ("--help",)])
def test_without_a_command_there_is_help(args):
    result = run(*args)
    for command in ("demo", "explain", "methods", "--version"):
        assert command in result.output
    assert_whole(result.output)


@pytest.mark.parametrize("command", ["demo", "explain", "methods"])
def test_the_help_of_a_command_is_whole_on_a_narrow_screen(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert_whole(result.output)


def test_the_version_is_that_of_the_package():
    assert run("--version").output == f"pellucid {pellucid.__version__} (torch {torch.__version__})\n"


def test_every_method_is_listed_with_its_options():
    result = run("methods")
    assert result.exit_code == 0
    assert_whole(result.output)
    rows = {cells[1].strip() for line in result.output.splitlines() if len(cells := re.split("[│|]", line)) > 2}
    assert rows >= set(pellucid.METHODS)
    for method in pellucid.METHODS.values():
        assert all(f"{name}=" in result.output for name in inspect.signature(method).parameters if name != "asked")


# --- the demo


def test_the_demo_writes_a_page_and_a_picture_for_every_method(here):
    result = run("demo", "--out", "a [bold] b", "--model", "digits", "--model", "digits")
    assert result.exit_code == 0, result.output
    assert_whole(result.output)
    task, (raw, _) = zoo.digits(), zoo.held_out("digits")[0]
    with torch.no_grad():
        guess = task.classes[int(task.model(*task.prepare(raw).inputs).argmax())]
    assert f": {guess} (" in result.output
    for method in demo.METHODS:
        assert len(re.findall(rf"^{method} .*(?:✓ passed|look at)", result.output, re.M)) == 1
        with Image.open(next(Path("a [bold] b").glob(f"*-{method}.png"))) as drawn:
            assert drawn.width > 100
    assert str(here / "a [bold] b" / "index.html") in result.output.replace("\n", "")
    assert Path("a [bold] b/index.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_the_demo_leaves_out_what_is_not_installed_and_refuses_to_show_nothing(here, monkeypatch):
    def tiles():
        raise MissingExtra("no scikit-image here")

    monkeypatch.setattr(zoo, "tiles", tiles)
    monkeypatch.setattr(demo, "METHODS", {"saliency": {}})
    both = run("demo", "--model", "tiles", "--model", "cancer", "--out", "both")
    assert both.exit_code == 0
    assert "tiles is left out: no scikit-image here" in both.output
    none = run("demo", "--model", "tiles", "--out", "none")
    assert none.exit_code == 2
    assert "nothing is left to explain" in none.stderr
    assert not Path("none/index.html").exists()


def test_the_demo_names_its_models_when_one_is_wrong(here):
    result = run("demo", "--model", "nope")
    assert result.exit_code == 2
    assert all(word in result.output for word in ("nope", *zoo.NAMES))
    assert not Path("pellucid-demo").exists()


# --- explaining one's own


def test_a_row_is_explained_as_python_would(here):
    result = run("explain", f"{HERE}:table", "t.csv", "--row", 1, "--save", "--target", 2)
    assert result.exit_code == 0, result.output
    assert_whole(result.output)
    assert str(here / "pellucid-out" / "index.html") in result.output
    assert {path.suffix for path in Path("pellucid-out").iterdir()} == {".html", ".png", ".safetensors"}
    for method in ("saliency", "integrated_gradients", "feature_ablation"):
        found = Explanation.load(f"pellucid-out/{method}.safetensors")
        expected = pellucid.explain(table().eval(), torch.tensor([[4.0, 5.0, -6.0]]), 2, method)
        torch.testing.assert_close(found.attribution, expected.attribution)
        assert tuple(found.display.names) == ("age", "height", "weight")
        assert re.search(rf"^{method} .*✓ passed", result.output, re.M)


def test_the_prediction_is_shown_however_few_the_methods(here):
    result = run("explain", f"{HERE}:table", "t.csv", "--classes", "cat, dog, bird", "-m", "saliency")
    with torch.no_grad():
        likely = table()(torch.tensor([[1.0, 2.0, 3.0]])).softmax(1)[0]
    name = ("cat", "dog", "bird")[int(likely.argmax())]
    assert f"t.csv: {name} ({100 * likely.max():.1f} %)" in result.output


def test_a_difference_of_named_classes_is_a_difference(here):
    names = ("--classes", "cat, dog, bird", "--target")
    cat, bird, both = (explained(f"{HERE}:table", "t.csv", *names, target).attribution for target in ("cat", "bird", "cat - bird"))
    torch.testing.assert_close(both, cat - bird)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"\xef\xbb\xbfage,height,weight\n1,2,3\n", ("age", "height", "weight")),
        (b"\xef\xbb\xbf1,2,3\n", ()),
        (b'"a\nb","c,d",e\r\n1,2,3\r\n', ("a\nb", "c,d", "e")),
        (b"\n1,2,3\n\n", ()),
    ],
)
def test_tables_as_spreadsheets_write_them(here, content, names):
    Path("t.csv").write_bytes(content)
    found = explained(f"{HERE}:table", "t.csv", "--target", 0)
    assert tuple(found.display.names) == names
    assert found.features[0].tolist() == [[1, 2, 3]]


def test_a_table_of_tabs(here):
    Path("t.tsv").write_text("a\tb, c\td\n1\t2\t3\n")
    found = explained(f"{HERE}:table", "t.tsv", "--target", 0)
    assert tuple(found.display.names) == ("a", "b, c", "d")


def test_an_image_is_resized_and_between_0_and_1(here):
    as_is = explained(f"{HERE}:picture", "im.png").features[0]
    with Image.open("im.png") as image:
        torch.testing.assert_close(as_is[0, :, 2, 5] * 255, torch.tensor(image.getpixel((5, 2))).float())
    assert explained(f"{HERE}:picture", "im.png", "--size", "6x5").features[0].shape == (1, 3, 6, 5)
    Image.new("L", (9, 8), 51).save("grey.png")
    torch.testing.assert_close(explained(f"{HERE}:picture", "grey.png").features[0], torch.full((1, 3, 8, 9), 0.2))


def test_a_text_goes_to_its_task(here):
    found = explained(f"{HERE}:letters", "t.txt", "--target", "yes")
    assert tuple(found.display.names) == ("a", "b", "c")
    assert explained(f"{HERE}:letters", "t.txt", "--classes", "bad,good", "--target", "good").attribution.equal(found.attribution)


def test_options_reach_the_methods_that_have_them(here):
    result = run("explain", f"{HERE}:table", "t.csv", "-m", "IG", "-m", "saliency", "-m", "Saliency", "-o", "steps=7", "--save")
    assert result.exit_code == 0, result.output
    assert Explanation.load("pellucid-out/integrated_gradients.safetensors").options == {"steps": 7}
    assert Explanation.load("pellucid-out/saliency.safetensors").options == {}
    assert len(re.findall("^saliency ", result.output, re.M)) == 1


def test_a_module_is_taken_where_a_function_is_expected(here):
    found = explained(f"{HERE}:ready", "t.csv", "--target", 1)
    assert found.attribution.equal(explained(f"{HERE}:table", "t.csv", "--target", 1).attribution)


def test_what_fails_a_check_is_named_and_strict_makes_it_an_error(here):
    lax = run("explain", f"{HERE}:Nan", "t.csv", "--target", 0, "-m", "saliency")
    assert lax.exit_code == 0
    assert "look at finite" in lax.output
    strict = run("explain", f"{HERE}:Nan", "t.csv", "--target", 0, "-m", "saliency", "--strict")
    assert strict.exit_code == 2
    assert "UntrustedResult: saliency" in strict.stderr
    guessed = run("explain", f"{HERE}:table", "t.csv", "-m", "saliency", "--strict")
    assert guessed.exit_code == 2
    assert "no target was given" in guessed.stderr
    assert run("explain", f"{HERE}:table", "t.csv", "-m", "saliency", "--strict", "--target", 1).exit_code == 0


# --- what is refused


def assert_refused(result, *words):
    assert result.exit_code == 2, result.output
    assert re.match(r"\w+(Error|Result): ", result.stderr)
    assert "Traceback" not in result.output
    for word in words:
        assert word in result.stderr


FILES = {
    "nofile.png": None,
    "folder.csv": "folder",
    "x.xyz": b"1",
    "noending": b"1",
    "bad.png": b"not an image",
    "words.csv": b"age,name,weight\n1,ann,3\n",
    "gap.csv": b"age,height,weight\n1,,3\n",
    "empty.csv": b"",
    "header.csv": b"a,b,c\n",
    "ragged.csv": b"a,b,c\n1,2\n",
    "nan.csv": b"a,b,c\n1,nan,3\n",
    "semicolons.csv": b"a;b;c\n1;2;3\n",
    "latin.csv": "ä,b,c\n1,2,3\n".encode("latin-1"),
    "field.csv": b"a,b,c\n" + b"1" * 200_000 + b",2,3\n",
    "empty.txt": b" \n",
    "bad.txt": b"\xff\xfe\xfa",
}
REFUSED_FILES = [
    ("nofile.png", "is not there"),
    ("folder.csv", "is a folder"),
    ("x.xyz", "known endings are"),
    ("noending", "known endings are"),
    ("bad.png", "not an image"),
    ("words.csv", "column 1 (name): 'ann' is not a number"),
    ("gap.csv", "column 1 (height): '' is not a number"),
    ("empty.csv", "no row of numbers"),
    ("header.csv", "no row of numbers"),
    ("ragged.csv", "2 cells under a header of 3"),
    ("nan.csv", "1 NaN"),
    ("semicolons.csv", "separated by commas"),
    ("latin.csv", "not UTF-8"),
    ("field.csv", "field larger than field limit"),
    ("empty.txt", "holds no text"),
    ("bad.txt", "not UTF-8"),
]


@pytest.mark.parametrize(("name", "words"), REFUSED_FILES)
def test_files_that_cannot_be_read_are_refused(here, name, words):
    content = FILES[name]
    if content == "folder":
        Path(name).mkdir()
    elif content is not None:
        Path(name).write_bytes(content)
    assert_refused(run("explain", f"{HERE}:{'letters' if name.endswith('txt') else 'table'}", name), words)


def test_an_image_cut_short_is_refused(here):
    Path("cut.png").write_bytes(Path("im.png").read_bytes()[:150])
    assert_refused(run("explain", f"{HERE}:picture", "cut.png"), "'cut.png' is not an image")


def test_an_image_that_would_lose_its_depth_is_refused(here):
    Image.fromarray(np.full((8, 8), 800, np.uint16)).save("deep.png")
    assert_refused(run("explain", f"{HERE}:picture", "deep.png"), "more than 8 bits")


def test_a_file_that_may_not_be_read_is_refused(here, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    assert_refused(run("explain", f"{HERE}:table", "t.csv"), "cannot read 't.csv': Permission denied")


SOURCES = [
    ("nomodule:f", "no module 'nomodule' can be found from"),
    (f"{HERE}:nofunction", "has no function 'nofunction'"),
    (HERE, "neither a folder nor module:function"),
    (":f", "neither a folder nor module:function"),
    ("..up:f", "neither a folder nor module:function"),
    ("models.py:f", "without .py"),
    (f"{HERE}:nothing", "gave NoneType; it must give"),
    (f"{HERE}:number", "gave int; it must give"),
    ("torch.nn:Linear", "missing 2 required positional arguments"),
    (f"{HERE}:unprepared", "prepare, given a row of numbers, raised ValueError: a bad row"),
    (f"{HERE}:misprepared", "prepare returned int"),
    (f"{HERE}:Raises", "the model raised RuntimeError: inside forward"),
    (f"{HERE}:Raises", "with inputs ['(1, 3) torch.float32 on cpu']"),
    (f"{HERE}:Pair", "the model returned tuple"),
]


@pytest.mark.parametrize(("source", "words"), SOURCES)
def test_models_that_cannot_be_had_or_run_are_refused(here, source, words):
    assert_refused(run("explain", source, "t.csv"), words)


def test_a_bare_module_cannot_read_a_text(here):
    assert_refused(run("explain", f"{HERE}:table", "t.txt"), "return a pellucid.Task")


def test_an_error_in_the_users_file_is_told_with_its_line(here):
    Path("mine_for_cli.py").write_text("def load():\n    x = 1\n    return open('nowhere.pt')\n\ndef lazy():\n    import nopackage\n")
    where = str(here / "mine_for_cli.py")
    assert_refused(run("explain", "mine_for_cli:load", "t.csv"), "FileNotFoundError", "nowhere.pt", f"line 3 of {where}")
    assert_refused(run("explain", "mine_for_cli:lazy", "t.csv"), "no module 'nopackage'", "install it")
    Path("broken_for_cli.py").write_text("x = 1\ndef (\n")
    assert_refused(run("explain", "broken_for_cli:f", "t.csv"), "SyntaxError", "line 2")


def test_an_error_of_our_own_is_not_passed_off_as_the_users(here, monkeypatch):
    def ours(*args, **kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr(demo, "explain", ours)
    result = run("explain", f"{HERE}:table", "t.csv")
    assert isinstance(result.exception, RuntimeError)
    assert result.exit_code == 1


OPTIONS = [
    (("--row", "2"), "give --row 0 to 1"),
    (("--size", "8x8"), "--size is for images"),
    (("-m", "nope"), "unknown method 'nope'"),
    (("-m", "saliency", "-o", "steps=3"), "no option 'steps'"),
    (("-m", "gradient", "-o", "asked=3"), "no option 'asked'"),
    (("-o", "steps"), "give NAME=VALUE"),
    (("-o", "steps=abc"), "option steps is 'abc'; give a whole number or none"),
    (("-o", "steps=1.5"), "option steps is 1.5; give a whole number or none"),
    (("-o", "steps=0"), "steps is 0"),
    (("-o", "rule=3"), "option rule is 3; give a word"),
    (("-o", "tolerance=x"), "option tolerance is 'x'; give a number or none"),
    (("-o", "multiply=5"), "option multiply is 5; give true or false"),
    (("-o", "feature_mask=1"), "cannot be given on the command line"),
    (("-m", "smoothgrad", "-o", "stdev=x"), "option stdev is 'x'; give a number"),
    (("--target", "7"), "target 7 is out of range"),
    (("--target", "cat"), "no class names were given"),
    (("--target", "cow", "--classes", "cat,dog,bird"), "the classes are 'cat', 'dog', 'bird'"),
    (("--target", "", "--classes", "cat,dog,bird"), "target ''"),
    (("--classes", "cat,,dog"), "a name is empty"),
    (("--out", "t.csv"), "cannot make the folder 't.csv'"),
    (("--out", "t.csv/sub"), "cannot make the folder 't.csv/sub'"),
]


@pytest.mark.parametrize(("args", "words"), OPTIONS)
def test_wrong_options_are_refused(here, args, words):
    assert_refused(run("explain", f"{HERE}:table", "t.csv", *args), words)


@pytest.mark.parametrize("size", ["8", "8x", "0x4", "-8x8", "axb", "8x8x8", "²x²", "99999999x99999999"])
def test_wrong_sizes_are_refused(here, size):
    assert_refused(run("explain", f"{HERE}:picture", "im.png", "--size", size), f"--size is {size}" if len(size) > 9 else f"{size!r}")


def test_a_size_that_would_be_ignored_is_refused(here):
    assert_refused(run("explain", f"{HERE}:letters", "t.txt", "--size", "8x8"), "prepares its examples itself")


@pytest.mark.parametrize(
    "args", [("explain",), ("explain", "a:b"), ("explain", "a:b", "t.csv", "--row", "x"), ("demo", "--wrong"), ("bogus",)]
)
def test_wrong_words_get_a_hint(here, args):
    result = run(*args)
    assert result.exit_code == 2
    assert "--help" in result.stderr
    assert_whole(result.stderr)


@pytest.mark.parametrize("blocked", ["index.html", "t-csv-saliency.png", "saliency.safetensors"])
def test_what_cannot_be_written_is_named(here, blocked):
    (here / "out" / blocked).mkdir(parents=True)
    result = run("explain", f"{HERE}:table", "t.csv", "-m", "saliency", "--save", "--out", "out")
    assert_refused(result, "cannot write", f"out/{blocked}")


# --- Hugging Face folders

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "film")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random BERT that tells NEG from POS, with its tokenizer."""
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    made = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=12,
        id2label={0: "NEG", 1: "POS"},
    )
    transformers.BertForSequenceClassification(config).save_pretrained(made)
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(made)
    transformers.utils.logging.enable_progress_bar()
    return made


def test_a_hugging_face_folder_is_explained_at_its_embeddings(here, folder):
    transformers = pytest.importorskip("transformers")
    Path("t.txt").write_text("a good film\n")
    result = run("explain", folder, "t.txt", "--target", "POS", "-m", "gradient", "--save")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    found = Explanation.load("pellucid-out/gradient.safetensors")
    assert tuple(found.display.names) == ("[CLS]", "a", "good", "film", "[SEP]")
    model = transformers.BertForSequenceClassification.from_pretrained(folder).eval()
    embedded = model.bert.embeddings.word_embeddings(torch.tensor([[2, 5, 6, 8, 3]])).detach().requires_grad_()
    (expected,) = torch.autograd.grad(model(inputs_embeds=embedded).logits[0, 1], embedded)
    torch.testing.assert_close(found.attribution, expected)


def test_a_text_longer_than_the_model_reads_is_cut_to_its_length(here, folder):
    Path("t.txt").write_text("good " * 50)
    with pytest.warns(PellucidWarning, match="52 tokens; the model reads, and the explanation is about, the first 12"):
        found = explained(folder, "t.txt", "--target", "POS")
    assert found.attribution.shape == (1, 12, 8)


def without(folder, name, *patterns):
    """A copy of the folder that lacks some files."""
    copy = Path(name)
    copy.mkdir()
    for file in folder.iterdir():
        if not any(file.match(pattern) for pattern in patterns):
            (copy / file.name).write_bytes(file.read_bytes())
    return copy


def test_folders_that_hold_half_a_model_are_refused(here, folder):
    assert_refused(run("explain", without(folder, "no-tokenizer", "tokenizer*", "vocab*"), "t.txt"), "holds no tokenizer")
    assert_refused(run("explain", without(folder, "no-weights", "*.safetensors"), "t.txt"), "no model that transformers can load")
    assert_refused(run("explain", without(folder, "nothing", "*"), "t.txt"), "no model that transformers can load")
    broken = without(folder, "broken")
    (broken / "model.safetensors").write_bytes(b"half")
    assert_refused(run("explain", broken, "t.txt"), "'broken' holds no model that transformers can load")


def test_a_model_whose_head_would_be_random_is_refused(here, folder):
    safetensors = pytest.importorskip("safetensors.torch")
    headless = without(folder, "headless")
    weights = safetensors.load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("classifier")}
    safetensors.save_file(kept, headless / "model.safetensors", {"format": "pt"})
    assert_refused(run("explain", headless, "t.txt"), "lacks weights of classifier.bias, classifier.weight")


def test_a_model_for_another_purpose_or_file_is_refused(here, folder):
    other = without(folder, "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"architectures": ["BertForPreTraining"]}))
    assert_refused(run("explain", other, "t.txt"), "holds BertForPreTraining")
    assert_refused(run("explain", folder, "im.png"), "takes texts", "'image'")


# --- leaving early


def test_an_interruption_is_not_an_error_of_ours(here):
    result = run("explain", f"{HERE}:interrupted", "t.csv")
    assert result.exit_code == 130
    assert result.stderr == "interrupted; what was written so far is kept\n"


ENTRY = (sys.executable, "-c", "from pellucid.cli import main; main()")


@pytest.mark.skipif(signal.getsignal(signal.SIGINT) == signal.SIG_IGN, reason="started in the background, where SIGINT is ignored")
def test_control_c_ends_the_command_without_a_traceback(here):
    Path("slow_for_cli.py").write_text("import time\ndef load():\n    print('begun', flush=True)\n    time.sleep(60)\n")
    command = (*ENTRY, "explain", "slow_for_cli:load", "t.csv")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == "interrupted; what was written so far is kept\n"


def test_a_screen_without_unicode_gets_all_there_is_to_read(here):
    Path("mine_for_cli.py").write_text("import torch\ndef load():\n    return torch.nn.Linear(3, 2)\n")
    command = (*ENTRY, "explain", "mine_for_cli:load", "t.csv")
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "COLUMNS": str(WIDTH)}
    result = subprocess.run(command, env=environment, capture_output=True, encoding="ascii", timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout.count("passed") == 3
    assert_whole(result.stdout)
