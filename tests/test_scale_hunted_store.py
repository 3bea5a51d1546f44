"""Runs over data sets, hunted: going on, trying again, other runs, damage and a full disk."""

import os
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import nn

import pellucid
from pellucid import PellucidWarning, scale
from pellucid.errors import FileError, OptionError
from pellucid.scale import Explainer, run

from .scale_cases import Colours, Pairs, draw, same

pytest.importorskip("pyarrow")


@pytest.fixture
def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


@pytest.fixture
def data():
    torch.manual_seed(2)
    return torch.randn(11, 6, dtype=torch.float64), torch.arange(11) % 3


# -- going on, and trying again -----------------------------------------------------------------------------------------------------------


def test_blocks_with_failed_examples_are_tried_again(net, data, tmp_path):
    items = Pairs(*data, broken=[0, 5])
    explainer = Explainer(net, steps=6)
    with pytest.warns(PellucidWarning, match="2 of 11"):
        before = run(explainer, items, tmp_path / "out", block=4)
    kept = before.store.path(2, "safetensors").stat().st_mtime_ns
    with pytest.warns(PellucidWarning, match="2 of 11"):
        run(explainer, items, tmp_path / "out")  # it is complete: nothing is tried
    assert len(list((tmp_path / "out").rglob("*.parquet"))) == 3
    items.broken = {5}
    with pytest.warns(PellucidWarning, match="1 of 11"):
        once = run(explainer, items, tmp_path / "out", retry=True)
    assert [i for i, _ in once.failed] == [5]
    items.broken = set()
    results = run(explainer, items, tmp_path / "out", retry=True)
    assert (results.total.failed, results.total.examples, results.complete) == (0, 11, True)
    assert results.store.path(2, "safetensors").stat().st_mtime_ns == kept
    assert sorted(p.name for p in (tmp_path / "out").rglob("*.parquet")) == [
        "0000000000.1.parquet", "0000000001.2.parquet", "0000000002.parquet"
    ]  # fmt: skip
    for found in (results, before, scale.open(tmp_path / "out"), run(explainer, items, tmp_path / "out")):  # `before` was open all the time
        for i in (0, 1, 5, 6, 10):
            same(found[i], pellucid.explain(net, data[0][i : i + 1], steps=6, seed=0))
        assert found.refresh().total.failed == 0
        assert found.total.backwards == 11 * 6
        assert found.total.bytes == sum(p.stat().st_size for p in (tmp_path / "out" / "blocks").rglob("*.*"))


@pytest.mark.parametrize("cut", ["after the shard", "before the line"])
def test_a_kill_while_a_block_is_replaced(cut, net, data, tmp_path, monkeypatch):
    from pellucid.scale import store

    items = Pairs(*data, broken=[1])
    with pytest.warns(PellucidWarning):
        run(Explainer(net, steps=6), items, tmp_path / "out", block=4)
    items.broken = set()

    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    monkeypatch.setattr(*{"after the shard": (store, "_write_rows"), "before the line": (store.Store, "_told")}[cut], kill)
    with pytest.raises(Killed):
        run(Explainer(net, steps=6), items, tmp_path / "out", retry=True)
    monkeypatch.undo()
    part = scale.open(tmp_path / "out")  # the old block stands
    assert [i for i, _ in part.failed] == [1]
    same(part[2], pellucid.explain(net, data[0][2:3], steps=6, seed=0))
    results = run(Explainer(net, steps=6), items, tmp_path / "out", retry=True)
    assert results.total.failed == 0
    same(results[1], pellucid.explain(net, data[0][1:2], steps=6, seed=0))


def test_a_picture_is_mended(tmp_path):
    for name in "abc":
        draw(tmp_path / "in" / f"{name}.png")
    whole = (tmp_path / "in" / "b.png").read_bytes()
    (tmp_path / "in" / "b.png").write_bytes(whole[:50])
    with pytest.warns(PellucidWarning):
        run(Explainer(Colours(), "saliency", 0), tmp_path / "in", tmp_path / "out", block=1)
    (tmp_path / "in" / "b.png").write_bytes(whole)
    with pytest.raises(FileError, match="belongs to another run: mark was"):
        run(Explainer(Colours(), "saliency", 0), tmp_path / "in", tmp_path / "out")
    assert run(Explainer(Colours(), "saliency", 0), tmp_path / "in", tmp_path / "out", retry=True).total.failed == 0
    assert run(Explainer(Colours(), "saliency", 0), tmp_path / "in", tmp_path / "out").complete
    with pytest.raises(FileError, match="belongs to another run: method was"):
        run(Explainer(Colours(), "gradient", 0), tmp_path / "in", tmp_path / "out", retry=True)


def test_an_example_that_could_not_be_read_at_first_does_not_lock_the_run(net, data, tmp_path):
    items = Pairs(*data, broken=[0])
    with pytest.warns(PellucidWarning):
        run(Explainer(net, steps=6), items, tmp_path / "out", block=4)
    items.broken = set()
    with pytest.warns(PellucidWarning):
        assert run(Explainer(net, steps=6), items, tmp_path / "out").total.failed == 1


def changed_table(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,c\n1,2,0\n3,4,1\n")
    return tmp_path / "t.csv"


@pytest.mark.parametrize("change", ["columns", "label", "prepare", "size", "activation", "mode", "array", "example"])
def test_another_run_is_not_mixed_in(change, net, data, tmp_path):
    """Changes that once passed unseen."""
    table, out = changed_table(tmp_path), tmp_path / "out"
    draw(tmp_path / "in" / "1.png")
    other = nn.Sequential(net[0], nn.ReLU(), net[2])
    x = data[0].clone()
    x[3] += 1
    mask, two = np.arange(2000) % 7, nn.Linear(2, 2)
    wide, changed = nn.Linear(2000, 2), np.where(np.arange(2000) == 1000, 6, mask)
    first, second = {
        "columns": [lambda c=c: run(Explainer(two, "saliency", 0), table, out, columns=c) for c in (["a", "b"], ["b", "a"])],
        "label": [lambda c=c: run(Explainer(two, "saliency", 0), table, out, columns=["a", "b"], label=c) for c in ("c", "")],
        "prepare": [
            lambda c=c: run(Explainer(two, "saliency", 0), table, out, prepare=c, columns=["a", "b"])
            for c in (lambda row: torch.tensor([*row.values()]), lambda row: torch.tensor([*row.values()]) * 2)
        ],
        "size": [lambda c=c: run(Explainer(Colours(), "saliency", 0), tmp_path / "in", out, size=c) for c in ((8, 8), (4, 4))],
        "activation": [lambda c=c: run(Explainer(c, "saliency", 0), data[0], out) for c in (net, other)],
        "mode": [lambda c=c: run(Explainer(c, "saliency", 0), data[0], out) for c in (net.eval(), nn.Sequential(*net).train())],
        "array": [
            lambda c=c: run(Explainer(wide, "feature_ablation", 0, feature_mask=torch.from_numpy(c)), torch.randn(1, 2000), out)
            for c in (mask, changed)
        ],
        "example": [lambda c=c: run(Explainer(net, "saliency", 0), c, out) for c in (data[0], x)],
    }[change]
    if change == "mode":
        net.eval()
    first()
    with pytest.raises(FileError, match="belongs to another run"):
        (net.train(), second()) if change == "mode" else second()


def test_inputs_are_asked_of_the_same_data_only(net, data, tmp_path):
    run(Explainer(net, "saliency", 0), data[0], tmp_path / "out", keep_inputs=False, block=4, seed=5)
    with pytest.raises(FileError, match="belongs to another run: mark"):
        scale.open(tmp_path / "out", data[0] + 1)
    with pytest.raises(OptionError, match="open has no option 'columnz'"):
        scale.open(tmp_path / "out", data[0], columnz=3)
    bare = scale.open(tmp_path / "out")
    assert bare.means().features is None
    assert len(bare.clusters(2).groups) == 11
    assert scale.open(tmp_path / "out", data[0]).means(None).features.shape == (1, 6)


class Drawn(Pairs):
    def __getitem__(self, i):
        return self.x[i] + torch.rand(6, dtype=torch.float64)


def test_inputs_that_draw_are_drawn_as_in_the_run(net, data, tmp_path):
    kept = run(Explainer(net, "saliency", 0), Drawn(*data), tmp_path / "kept", seed=5)
    run(Explainer(net, "saliency", 0), Drawn(*data), tmp_path / "out", keep_inputs=False, seed=5)
    assert torch.equal(scale.open(tmp_path / "out", Drawn(*data))[7].features[0], kept[7].features[0])


def test_what_are_no_inputs_cannot_be_left_out(net, data, tmp_path):
    with pytest.raises(OptionError, match="what is explained are not the inputs"):
        run(Explainer(net, "gradient", 1, layer="1"), data[0], tmp_path / "out", keep_inputs=False)


def test_lines_that_were_damaged(net, data, tmp_path):
    run(Explainer(net, steps=6), data, tmp_path / "out", block=4)
    with next((tmp_path / "out" / "manifest").glob("*.jsonl")).open("ab") as file:
        file.write(b'5\nnull\n{"blocks": 3}\n{"block": "x"}\n\xff\xfe\n{"block": 1}\n')
    assert scale.open(tmp_path / "out").total.examples == 11
    assert run(Explainer(net, steps=6), data, tmp_path / "out").complete


@pytest.mark.parametrize("ending", ["parquet", "safetensors"])
def test_files_that_were_damaged_are_made_again(ending, net, data, tmp_path):
    results = run(Explainer(net, steps=6), data, tmp_path / "out", block=4)
    wanted, path = results[0:11].attribution, results.store.path(1, ending)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(FileError, match="delete it and run again"):
        scale.open(tmp_path / "out")[5]
    path.unlink()
    again = run(Explainer(net, steps=6), data, tmp_path / "out")
    assert torch.equal(again[0:11].attribution, wanted)
    assert torch.equal(scale.open(tmp_path / "out")[0:11].attribution, wanted)
    assert (again.total.examples, again.total.backwards) == (11, 66)
    assert len(list((tmp_path / "out").rglob(f"*.{ending}"))) == 3


def test_a_kill_before_the_arrays_were_made(net, data, tmp_path):
    pytest.importorskip("zarr")
    out = tmp_path / "out"
    run(Explainer(net, steps=6), data, out, arrays="zarr", block=4)
    for name in ("arrays.zarr", "blocks", "manifest"):
        shutil.rmtree(out / name)
    assert run(Explainer(net, steps=6), data, out, arrays="zarr").complete


def test_zarr_holds_one_shape(tmp_path):
    pytest.importorskip("zarr")
    rows = [torch.ones(3, 4, 4), torch.ones(3, 5, 5)]
    with pytest.raises(OptionError, match="zarr arrays hold one shape"):
        run(Explainer(Colours(), "saliency", 0), rows, tmp_path / "out", arrays="zarr", block=1)
    assert len(scale.open(tmp_path / "out")[0:1]) == 1


DISK = """
import resource, signal, sys, torch
from torch import nn
from pellucid.scale import Explainer, run

if sys.argv[2] != "0":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
class Sums(nn.Module):
    def forward(self, x): return torch.stack([x.sum(1), 2 * x.sum(1)], 1)

x = torch.arange(12.0)[:, None].expand(12, 3000)
try:
    run(Explainer(Sums(), "input_x_gradient", 1), x, sys.argv[1], block=2, arrays=sys.argv[3], progress=False, workers=int(sys.argv[4]))
except Exception as error:
    print(type(error).__name__, error)
    raise SystemExit(3)
"""


@pytest.mark.parametrize(("arrays", "workers"), [("safetensors", 1), ("zarr", 1), ("safetensors", 2)])
def test_a_disk_that_is_really_full(arrays, workers, tmp_path):
    """Files may not grow beyond 20 kB: a block needs more."""
    if arrays == "zarr":
        pytest.importorskip("zarr")
    (tmp_path / "script.py").write_text(textwrap.dedent(DISK))
    paths = os.pathsep.join(filter(None, [os.path.abspath("src"), os.environ.get("PYTHONPATH")]))

    def start(limit):
        command = [sys.executable, "script.py", str(tmp_path / "out"), str(limit), arrays, str(workers)]
        return subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=120)

    first = start(20_000)
    assert first.returncode == 3, first.stdout + first.stderr
    assert first.stdout.startswith("FileError block"), first.stdout
    assert "make room and run again" in first.stdout
    assert not scale.open(tmp_path / "out").complete
    again = start(0)
    assert again.returncode == 0, again.stdout + again.stderr
    results = scale.open(tmp_path / "out")
    assert results.complete
    assert torch.equal(results[0:12].attribution, 2 * torch.arange(12.0)[:, None].expand(12, 3000))
