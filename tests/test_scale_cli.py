"""`pellucid run`: a data set as a TOML file says; and runs over texts."""

import pytest
import torch
from typer.testing import CliRunner

import pellucid
from pellucid import scale
from pellucid.cli import app
from pellucid.scale import Explainer, run

from . import hugging

pytest.importorskip("pyarrow")

MODULE = """
import torch
from torch import nn
from pellucid import Sample, Task

def load():
    torch.manual_seed(0)
    return nn.Linear(3, 2)

def task():
    return Task(load(), "table", lambda row: Sample((torch.tensor([row]) / 10,)), ("no", "yes"))

def double(cells):
    return 2 * torch.tensor(list(cells.values()))

def data():
    return torch.ones(5, 3)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    name = f"models_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / "table.csv").write_text("a,b,c,label\n1,2,3,0\n4,5,6,1\n7,8,9,1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path, name


def told(place, text, *arguments):
    folder, name = place
    (folder / "run.toml").write_text(text.replace("MODULE", name))
    return CliRunner().invoke(app, ["run", str(folder / "run.toml"), "--quiet", *arguments])


def test_a_table_is_explained_and_again_nothing_is_done(place):
    text = (
        'model = "MODULE:load"\ndata = "table.csv"\nout = "out"\nmethod = "integrated_gradients"\ntarget = "label"\n[options]\nsteps = 5\n'
    )
    answer = told(place, text)
    assert answer.exit_code == 0, answer.output
    assert "3 of 3" in answer.output
    torch.manual_seed(0)
    net, x = torch.nn.Linear(3, 2), torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])
    results = scale.open(place[0] / "out")
    assert torch.allclose(results[0:3].attribution, x * net.weight[[0, 1, 1]], atol=1e-5)
    assert results[0].display.names == ("a", "b", "c")
    before = {path: path.stat().st_mtime_ns for path in (place[0] / "out").rglob("*.parquet")}
    assert told(place, text).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in (place[0] / "out").rglob("*.parquet")} == before


def test_a_task_prepares_raw_rows_and_prepare_comes_before_it(place):
    assert told(place, 'model = "MODULE:task"\ndata = "table.csv"\nout = "task"\nmethod = "saliency"\n').exit_code == 0
    results = scale.open(place[0] / "task")
    assert torch.allclose(results[1].features[0], torch.tensor([[0.4, 0.5, 0.6]]))
    assert results.table(["predicted"]).to_pydict()["predicted"][0] in ("no", "yes")
    assert (
        told(place, 'model = "MODULE:task"\ndata = "table.csv"\nprepare = "MODULE:double"\nout = "own"\nmethod = "saliency"\n').exit_code
        == 0
    )
    assert torch.allclose(scale.open(place[0] / "own")[1].features[0], torch.tensor([[8.0, 10.0, 12.0]]))


def test_data_from_a_function_and_the_command_lines_own_folder(place):
    answer = told(place, 'model = "MODULE:load"\ndata = "MODULE:data"\nout = "out"\n', "--out", str(place[0] / "other"))
    assert answer.exit_code == 0, answer.output
    assert len(scale.open(place[0] / "other")) == 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('model = "MODULE:load"\n', "has no 'data'"),
        ('model = "MODULE:load"\ndata = "table.csv"\nout = "out"\nspeed = 3\n', "has 'speed'; what it may have is"),
        ("model = \n", "cannot be read as TOML"),
        ('model = "MODULE:nothing"\ndata = "table.csv"\nout = "out"\n', "has no function 'nothing'"),
        ('model = "MODULE:load"\ndata = "nowhere.csv"\nout = "out"\n', "is not there"),
        ('model = "MODULE:load"\ndata = "table.csv"\nout = "out"\nengine = "spark"\n', "engine is 'spark'"),
    ],
)
def test_what_a_file_may_not_say(text, words, place):
    answer = told(place, text)
    assert answer.exit_code == 2
    assert words in " ".join(answer.output.split())


@pytest.mark.filterwarnings("ignore")
def test_texts_by_their_tokens(tmp_path):
    folder = hugging.bert(tmp_path / "model")
    model, tokenizer = hugging.loaded(folder, "AutoModelForSequenceClassification"), hugging.wordpiece()
    texts = [{"text": text, "label": i % 2} for i, text in enumerate(["a good film", "bad", "the film was not good", "good good"])]
    results = run(Explainer(model, "saliency", 1, tokenizer=tokenizer), texts, tmp_path / "out", block=2)
    for i, row in enumerate(texts):
        own = pellucid.explain(model, [row["text"]], 1, "saliency", tokenizer=tokenizer)
        length = own.attribution.shape[1]
        assert torch.allclose(results[i].attribution[:, :length], own.attribution, atol=1e-5)
        assert [t for t in results[i].display.tokens[0] if t is not None] == [t for t in own.display.tokens[0] if t is not None]
    assert results.table(["label"]).to_pydict()["label"] == [0, 1, 0, 1]
    assert len(results[0:4]) == 4
