"""Runs over data sets on one machine: equal numbers through every door, blocks that are whole, runs that go on where they were."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import pellucid
from pellucid import PellucidWarning, scale
from pellucid.errors import FileError, InputError, MissingExtra, OptionError, UntrustedResult
from pellucid.scale import Explainer, run

pytest.importorskip("pyarrow")


@pytest.fixture
def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


@pytest.fixture
def data():
    return torch.randn(23, 6, dtype=torch.float64), torch.arange(23) % 3


class Pairs(Dataset):
    """Examples one by one, some of which may be broken."""

    def __init__(self, x, y, broken=()):
        self.x, self.y, self.broken = x, y, broken

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        if i in self.broken:
            raise ValueError(f"number {i} is broken")
        return self.x[i], int(self.y[i])


class Named(Pairs):
    """As data sets of Hugging Face: examples by name."""

    def __getitem__(self, i):
        return {"row": self.x[i].tolist(), "label": int(self.y[i])}


class Counted(Dataset):
    """Writes down what was read, so that nothing is computed twice unseen."""

    def __init__(self, x, log):
        self.x, self.log = x, log

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        with open(self.log, "a") as file:
            file.write(f"{i}\n")
        return self.x[i]


class Streamed(IterableDataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __iter__(self):
        return iter(zip(self.x, self.y.tolist(), strict=True))


def expected(net, data, method="integrated_gradients", target=None, **options):
    """What a plain loop over `explain` gives."""
    x, y = data
    targets = y.tolist() if target == "label" else [target] * len(x)
    each = [pellucid.explain(net, x[i : i + 1], targets[i], method, seed=0, **options) for i in range(len(x))]
    return torch.cat([e.attribution for e in each])


def attributions(results):
    return torch.cat([e.attribution for _, e in results.explanations()])


def lines_of(folder):
    """Every line of every worker, as JSON."""
    found = []
    for path in sorted((folder / "manifest").glob("*.jsonl")):
        found += [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
    return [line for line in found if "block" in line]


# -- doors ---------------------------------------------------------------------------------------------------------------------------


def table_of(path, data):
    import pyarrow as arrow
    import pyarrow.parquet

    columns = {f"c{i}": data[0][:, i].tolist() for i in range(6)} | {"label": data[1].tolist()}
    if path.suffix == ".csv":
        lines = [",".join(columns), *(",".join(map(repr, row)) for row in zip(*columns.values(), strict=True))]
        path.write_text("\n".join(lines) + "\n")
    else:
        arrow.parquet.write_table(arrow.table(columns), path, row_group_size=5)
    return path


DOORS = {
    "tensors": lambda data, folder: data,
    "tensor data set": lambda data, folder: TensorDataset(*data),
    "loader": lambda data, folder: DataLoader(TensorDataset(*data), batch_size=4),
    "loader that collates": lambda data, folder: DataLoader(
        Pairs(*data), batch_size=4, collate_fn=lambda items: (torch.stack([x for x, _ in items]), torch.tensor([y for _, y in items]))
    ),
    "data set": lambda data, folder: Pairs(*data),
    "named columns": lambda data, folder: Named(*data),
    "list": lambda data, folder: list(zip(data[0], data[1].tolist(), strict=True)),
    "stream": lambda data, folder: DataLoader(Streamed(*data), batch_size=3),
    "batches": lambda data, folder: [(x, y) for x, y in zip(data[0].split(4), data[1].split(4), strict=True)],
    "csv": lambda data, folder: table_of(folder / "table.csv", data),
    "parquet": lambda data, folder: table_of(folder / "table.parquet", data),
}


@pytest.mark.parametrize("door", DOORS)
def test_every_door_gives_what_a_loop_gives(door, net, data, tmp_path):
    single = door in ("named columns", "csv", "parquet")  # numbers without a type of their own are single precision
    net, data = (net.float(), (data[0].float(), data[1])) if single else (net, data)
    results = run(Explainer(net, target="label", steps=8), DOORS[door](data, tmp_path), tmp_path / "out", block=5)
    wanted = expected(net, data, target="label", steps=8)
    assert torch.allclose(attributions(results), wanted, rtol=0, atol=1e-6 if single else 1e-12)
    assert results.complete
    assert len(results) == 23
    rows = results.table().to_pydict()
    assert rows["example"] == list(range(23))
    assert rows["label"] == data[1].tolist()
    assert torch.allclose(torch.tensor(rows["score"]).double(), net(data[0])[range(23), data[1]].double(), atol=1e-6)
    assert rows["prediction"] == net(data[0]).argmax(1).tolist()


def pictures(folder, count=7):
    generator = np.random.default_rng(0)
    for i in range(count):
        (folder / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (8, 8), dtype=np.uint8)).save(folder / "ab"[i % 2] / f"{i}.png")
    return sorted(folder.rglob("*.png"), key=lambda p: str(p.relative_to(folder)))


def test_a_folder_of_pictures_its_labels_and_a_corrupt_one(tmp_path):
    paths = pictures(tmp_path / "in")
    paths[2].write_bytes(paths[2].read_bytes()[:60])
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).eval()
    with pytest.warns(PellucidWarning, match="1 of 7 examples could not be explained, the first is example 2"):
        results = run(Explainer(net, "input_x_gradient", target="label"), tmp_path / "in", tmp_path / "out", block=3)
    assert [place for place, _ in results.failed] == [2]
    assert "not an image" in dict(results.failed)[2]
    rows = results.table().to_pydict()
    assert rows["label"] == [0, 0, None, 0, 1, 1, 1]
    assert rows["key"][5] == "b/3.png"
    assert list(results.facts["classes"]) == ["a", "b"]
    x = torch.tensor(np.asarray(Image.open(paths[5])) / 255).float()[None, None]
    assert torch.allclose(results[5].attribution, x * net[1].weight[1].view(1, 1, 8, 8), atol=1e-6)
    with pytest.raises(InputError, match="example 2 could not be explained: FileError"):
        results[2]
    assert len(results[0:7]) == 6


def test_pictures_of_another_shape_fail_alone_and_a_size_mends_them(tmp_path):
    paths = pictures(tmp_path / "in")
    Image.new("L", (5, 9)).save(paths[4])
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).eval()
    with pytest.warns(PellucidWarning, match="example 4: InputError: its shape is"):
        run(Explainer(net, "saliency", 0), tmp_path / "in", tmp_path / "out")
    assert run(Explainer(net, "saliency", 0), tmp_path / "in", tmp_path / "resized", size=(8, 8)).total.failed == 0


def test_prepare_makes_tensors_of_raw_examples(net, data, tmp_path):
    rows = [{"numbers": list(map(str, x)), "truth": int(y)} for x, y in zip(data[0].tolist(), data[1], strict=True)]
    prepare = lambda raw: torch.tensor([float(cell) for cell in raw], dtype=torch.float64)  # noqa: E731
    results = run(Explainer(net, steps=8, target="label"), rows, tmp_path / "out", prepare=prepare, columns=["numbers"], label="truth")
    assert torch.allclose(attributions(results), expected(net, data, target="label", steps=8), atol=1e-12)


def test_csv_cells_in_quotes_and_what_is_no_number(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text('a,"the\nother",kind\n1,2,"x, y"\n3,"4","z\nz"\n5,six,w\n\n7,8,v\n')
    net = nn.Linear(2, 2)
    with pytest.warns(PellucidWarning, match="'six' is not a number"):
        results = run(Explainer(net, "gradient", 0), path, tmp_path / "out", label="kind")
    rows = results.table().to_pydict()
    assert rows["label"] == ["x, y", "z\nz", None, "v"]
    assert torch.equal(results[0:4].features[0], torch.tensor([[1.0, 2.0], [3.0, 4.0], [7.0, 8.0]]))
    assert results[3].display.names == ("a", "the\nother")


# -- what is kept --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arrays", ["safetensors", "zarr"])
def test_an_example_comes_back_as_its_explanation(arrays, net, data, tmp_path):
    if arrays == "zarr":
        pytest.importorskip("zarr")
    results = run(Explainer(net, classes=("a", "b", "c"), steps=8), data, tmp_path / "out", block=10, arrays=arrays)
    for i in (0, 9, 10, 22):
        own = pellucid.explain(net, data[0][i : i + 1], steps=8, classes=("a", "b", "c"), seed=0)
        found = results[i]
        assert torch.allclose(found.attribution, own.attribution, rtol=0, atol=1e-14)
        assert torch.equal(found.features[0], own.features[0])
        assert torch.equal(found.baselines[0], own.baselines[0])
        assert torch.allclose(found.scores, own.scores)
        assert (found.target, found.method, dict(found.options)) == (own.target, own.method, dict(own.options))
        assert torch.equal(found.predictions, own.predictions)
        assert torch.allclose(found.confidences, own.confidences)
        assert found.provenance.weights == own.provenance.weights
        assert [c.name for c in found.health] == [c.name for c in own.health]
        assert found.check("completeness").value == pytest.approx(own.check("completeness").value, rel=1e-6)
        assert found.draw() is not None
    several = results[8:13]
    assert torch.equal(several.attribution, torch.cat([results[i].attribution for i in range(8, 13)]))
    assert torch.equal(results[-1].attribution, results[22].attribution)
    with pytest.raises(IndexError):
        results[23]


def test_a_shard_is_an_explanation_by_itself(net, data, tmp_path):
    run(Explainer(net, steps=8), data, tmp_path / "out", block=10)
    found = pellucid.Explanation.load(tmp_path / "out" / "blocks" / "000" / "0000000001.safetensors")
    assert torch.allclose(found.attribution, expected(net, data, steps=8)[10:20], atol=1e-12)


def test_the_health_of_each_example_is_its_own(tmp_path):
    """One example of a block is explained badly: the others are healthy."""
    net = nn.Sequential(nn.Linear(2, 1), nn.ReLU())
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 1.0]]))
        net[0].bias.zero_()
    x = torch.tensor([[1.0, 2.0], [-1.0, -2.0], [3.0, 1.0]])
    results = run(Explainer(net, "input_x_gradient"), x, tmp_path / "out")
    assert results.table(["healthy", "health"]).to_pydict() == {"healthy": [True, False, True], "health": ["", "signal", ""]}
    assert results[0].healthy
    assert not results[1].healthy
    assert results.total.unhealthy == 1


def test_without_inputs_the_data_give_them(net, data, tmp_path):
    run(Explainer(net, steps=8), data, tmp_path / "out", keep_inputs=False, block=10)
    with pytest.raises(FileError, match="did not keep its inputs; give open the data, too"):
        scale.open(tmp_path / "out")[3]
    assert torch.equal(scale.open(tmp_path / "out", data)[13].features[0], data[0][13:14])


def test_costs_add_up(net, data, tmp_path):
    results = run(Explainer(net, steps=8), data, tmp_path / "out", block=10)
    assert results.total.backwards == 23 * 8
    assert sum(results.table(["backwards"]).to_pydict()["backwards"]) == 23 * 8
    assert results.total.examples == 23
    assert results.total.bytes == sum(p.stat().st_size for p in (tmp_path / "out" / "blocks").rglob("*.*"))


def test_layers_and_low_precision(net, data, tmp_path):
    net, x = net.float(), data[0].float()
    results = run(Explainer(net, "gradient", 1, layer=net[1]), x, tmp_path / "layer")
    assert torch.allclose(attributions(results), net[2].weight[1].expand(23, 8))
    before = {name: p.clone() for name, p in net.named_parameters()}
    low = run(Explainer(net, "gradient", 1, dtype="bfloat16"), x, tmp_path / "low")
    assert low[0].attribution.dtype == torch.bfloat16
    high = pellucid.explain(net, x, 1, "gradient").attribution
    assert torch.allclose(attributions(low).float(), high, rtol=0.1, atol=0.02)
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())


# -- going on ------------------------------------------------------------------------------------------------------------------------


class Stop(Exception):
    pass


class Until(Dataset):
    """Data whose reading is interrupted at one example."""

    def __init__(self, x, at, error):
        self.x, self.at, self.error, self.read = x, at, error, []

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        if i == self.at and self.read:
            raise self.error
        self.read.append(i)
        return self.x[i]


def test_interrupted_and_run_again_nothing_is_lost_or_computed_twice(net, data, tmp_path):
    x = data[0]
    items = Until(x, 17, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(Explainer(net, steps=8), items, tmp_path / "out", block=4)
    part = scale.open(tmp_path / "out")
    assert not part.complete
    stored = list(part.blocks())
    assert stored == [0, 1, 2, 3]
    assert torch.allclose(part[0:16].attribution, expected(net, (x[:16], None), steps=8), atol=1e-12)
    with pytest.raises(InputError, match="example 17 is not explained yet; 16 of 23 are"):
        part[17]
    times = {block: part.store.path(block, "safetensors").stat().st_mtime_ns for block in stored}
    items.at, items.read = -1, []
    whole = run(Explainer(net, steps=8), items, tmp_path / "out")
    assert min(items.read[3:]) >= 16  # but for the three that tell these data from others
    assert {block: whole.store.path(block, "safetensors").stat().st_mtime_ns for block in stored} == times
    assert sorted(line["block"] for line in lines_of(tmp_path / "out")) == [0, 1, 2, 3, 4, 5]
    assert torch.allclose(attributions(whole), expected(net, data, steps=8), atol=1e-12)
    assert part.refresh().complete


@pytest.mark.parametrize("cut", ["after the shard", "before the line", "in the line"])
def test_a_kill_between_the_files_of_a_block(cut, net, data, tmp_path):
    """What a SIGKILL leaves at each point: the block is whole, or made again."""
    out = tmp_path / "out"
    results = run(Explainer(net, steps=8), data, out, block=10)
    wanted = attributions(results)
    (manifest,) = (out / "manifest").glob("*.jsonl")
    lines = manifest.read_text().splitlines(keepends=True)
    last = "".join(lines[:-1])
    manifest.write_text(last + (lines[-1][:20] if cut == "in the line" else ""))
    (out / "blocks" / "000" / "0000000002.safetensors.part77").write_bytes(b"half")
    if cut == "after the shard":
        results.store.path(2, "parquet").unlink()
    before = results.store.path(2, "safetensors").stat().st_mtime_ns
    assert not scale.open(out).complete
    again = run(Explainer(net, steps=8), data, out)
    assert again.complete
    assert torch.equal(attributions(again), wanted)
    kept = again.store.path(2, "safetensors").stat().st_mtime_ns == before
    assert kept == (cut != "after the shard")
    assert not list(out.rglob("*.part*"))
    assert (again.total.examples, again.total.backwards) == (23, 23 * 8)


def test_a_shard_that_was_deleted_is_made_again(net, data, tmp_path):
    results = run(Explainer(net, steps=8), data, tmp_path / "out", block=10)
    wanted = attributions(results)
    results.store.path(1, "safetensors").unlink()
    with pytest.raises(FileError, match="delete it and run again"):
        results[12]
    assert torch.equal(attributions(run(Explainer(net, steps=8), data, tmp_path / "out")), wanted)


def test_a_stream_goes_on_too(net, data, tmp_path):
    def batches(stop):
        for number, x in enumerate(data[0].split(4)):
            if number == stop:
                raise Stop
            yield x

    with pytest.raises(Stop):
        run(Explainer(net, steps=8), batches(4), tmp_path / "out", block=4)
    part = scale.open(tmp_path / "out")
    assert (part.complete, len(part)) == (False, 16)
    whole = run(Explainer(net, steps=8), batches(None), tmp_path / "out")
    assert (whole.complete, len(whole)) == (True, 23)
    assert sorted(line["block"] for line in lines_of(tmp_path / "out")) == list(range(6))
    assert torch.allclose(attributions(whole), expected(net, data, steps=8), atol=1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "saliency"}, "method was 'integrated_gradients' and now is 'saliency'"),
        ({"steps": 9}, "options was"),
        ({"target": 1}, "target was None and now is 1"),
        ({"weights": True}, "weights was"),
        ({"seed": 3}, "seed was 0 and now is 3"),
        ({"data": True}, "mark was"),
        ({"fewer": True}, "examples was 23 and now is 20"),
    ],
)
def test_another_run_is_not_mixed_in(change, words, net, data, tmp_path):
    run(Explainer(net, steps=8), data, tmp_path / "out")
    x, y = data
    if change.pop("weights", False):
        with torch.no_grad():
            net[0].weight[0, 0] += 1e-3
    if change.pop("data", False):
        x = torch.cat([x[:-1], x[-1:] + 1e-6])
    if change.pop("fewer", False):
        x, y = x[:20], y[:20]
    seed = change.pop("seed", 0)
    options = ({} if change.get("method") else {"steps": 8}) | change
    with pytest.raises(FileError, match=f"belongs to another run: {words}"):
        run(Explainer(net, **options), (x, y), tmp_path / "out", seed=seed)
    assert scale.open(tmp_path / "out").complete


def test_two_runs_do_not_write_at_once(net, data, tmp_path):
    from pellucid.scale.store import alone

    with alone(tmp_path), pytest.raises(OptionError, match="another run is writing"):
        run(Explainer(net), data, tmp_path)


# -- randomness ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gradient_shap", "shapley", "lime", "smoothgrad", "rise"])
def test_numbers_do_not_depend_on_blocks_and_are_those_of_explain(method, net, data, tmp_path):
    options = {"shapley": {"evaluations": 30}, "lime": {"samples": 60}}.get(method, {"samples": 12})
    options |= {"baselines": torch.randn(4, 6, dtype=torch.float64)} if method == "gradient_shap" else {}
    if method == "rise":
        net, data = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), (torch.randn(9, 1, 4, 4), None)
    x = data[0][:9]
    one = run(Explainer(net, method, 1, **options), x, tmp_path / "one", block=9, seed=5)
    other = run(Explainer(net, method, 1, **options), x, tmp_path / "other", block=2, seed=5)
    alone = torch.cat([pellucid.explain(net, x[i : i + 1], 1, method, seed=5, **options).attribution for i in range(9)])
    assert torch.allclose(attributions(one), alone, rtol=1e-5, atol=1e-6)
    assert torch.allclose(attributions(other), alone, rtol=1e-5, atol=1e-6)
    different = run(Explainer(net, method, 1, **options), x, tmp_path / "different", seed=6)
    assert not torch.allclose(attributions(different), alone, rtol=1e-3)


class Noisy(Pairs):
    """A transform that draws."""

    def __getitem__(self, i):
        return self.x[i] + torch.randn(6, dtype=torch.float64) + np.random.rand()


def test_what_data_draw_belongs_to_the_example_and_the_users_draws_stay(net, data, tmp_path):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one = run(Explainer(net, steps=4), Noisy(*data), tmp_path / "one", block=23)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    other = run(Explainer(net, steps=4), Noisy(*data), tmp_path / "other", block=5)
    assert torch.equal(one[0:23].features[0], other[0:23].features[0])
    assert torch.allclose(attributions(one), attributions(other), atol=1e-12)


# -- what goes wrong -----------------------------------------------------------------------------------------------------------------


class Picky(nn.Module):
    """Refuses some inputs."""

    def forward(self, x):
        if (x[:, 0] > 1e6).any():
            raise ValueError("too large")
        return x @ torch.ones(x.shape[1], 2, dtype=x.dtype)


def test_an_example_that_fails_is_written_down_and_stops_nothing(data, tmp_path):
    x = data[0].clone()
    x[7, 0] = x[20, 0] = 1e9
    with pytest.warns(PellucidWarning, match="2 of 23 examples could not be explained, the first is example 7: ValueError: too large"):
        results = run(Explainer(Picky(), "input_x_gradient", 1), x, tmp_path / "out", block=10)
    assert dict(results.failed) == {7: "ValueError: too large", 20: "ValueError: too large"}
    assert results.complete
    good = [i for i in range(23) if i not in (7, 20)]
    assert torch.equal(attributions(results), x[good])
    assert torch.equal(results[8].attribution, x[8:9])
    table = results.table(["row", "error"]).to_pydict()
    assert [i for i, row in enumerate(table["row"]) if row is None] == [7, 20]


def test_strict_stops_at_it_and_what_is_stored_stays(data, tmp_path):
    x = data[0].clone()
    x[17, 0] = 1e9
    with pytest.raises(ValueError, match="too large"):
        run(Explainer(Picky(), "input_x_gradient", 1), x, tmp_path / "out", block=5, strict=True)
    assert list(scale.open(tmp_path / "out").blocks()) == [0, 1, 2]
    with pytest.raises(OptionError, match="cannot be read: ValueError: number 3 is broken"):
        run(Explainer(Picky(), "gradient", 1), Pairs(*data, broken=[3]), tmp_path / "read", strict=True)
    net = nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.5)).double().train()
    with pytest.raises(UntrustedResult, match="train mode"):
        run(Explainer(net, "gradient", 1), data, tmp_path / "health", strict=True)


def test_zarr_keeps_the_places_of_those_that_fail(data, tmp_path):
    zarr = pytest.importorskip("zarr")
    x = data[0].clone()
    x[7, 0] = 1e9
    with pytest.warns(PellucidWarning):
        results = run(Explainer(Picky(), "input_x_gradient", 1), x, tmp_path / "out", block=10, arrays="zarr")
    values = zarr.open_array(tmp_path / "out" / "arrays.zarr" / "attributions.0", mode="r")[:]
    wanted = x.clone()
    wanted[7] = 0
    assert np.array_equal(values, wanted.numpy())
    assert torch.equal(results[8].attribution, x[8:9])


def test_what_fails_for_all_fails_before_anything_is_written(net, data, tmp_path):
    with pytest.raises(pellucid.TargetError):
        run(Explainer(net, target=7), data, tmp_path / "out")
    with pytest.raises(OptionError, match="has no option 'stepz'"):
        run(Explainer(net, stepz=7), data, tmp_path / "out")
    with pytest.raises(InputError, match="none of the first 8 examples can be read; example 0: ValueError: number 0 is broken"):
        run(Explainer(net), Pairs(*data, broken=range(23)), tmp_path / "out")
    with pytest.raises(OptionError, match="the data have no labels"):
        run(Explainer(net, target="label"), data[0], tmp_path / "out")
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.parametrize("place", ["safetensors", "parquet", "manifest"])
def test_a_full_disk_leaves_a_store_that_opens_and_goes_on(place, net, data, tmp_path, monkeypatch):
    from pellucid.scale import manifest, store

    calls = []

    def full(number):
        def write(*args, **kwargs):
            calls.append(number)
            if len(calls) > 2:
                raise OSError(28, "No space left on device")
            return real(*args, **kwargs)

        return write

    owner, name = {"safetensors": (store, "save_file"), "parquet": (store, "_write_rows"), "manifest": (manifest.Line, "add")}[place]
    real = getattr(owner, name)
    monkeypatch.setattr(owner, name, full(1))
    with pytest.raises(FileError, match=r"No space left on device; what is stored stays; make room and run again"):
        run(Explainer(net, steps=8), data, tmp_path / "out", block=5)
    part = scale.open(tmp_path / "out")
    assert list(part.blocks()) == [0, 1]
    assert torch.allclose(part[0:10].attribution, expected(net, (data[0][:10], None), steps=8), atol=1e-12)
    monkeypatch.undo()
    assert torch.allclose(attributions(run(Explainer(net, steps=8), data, tmp_path / "out")), expected(net, data, steps=8), atol=1e-12)


def test_a_folder_that_cannot_be_used(net, data, tmp_path):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(FileError, match=r"cannot be used: .*; name a folder that can be written to"):
        run(Explainer(net), data, tmp_path / "file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    with pytest.raises(FileError, match="holds other files"):
        run(Explainer(net), data, tmp_path / "full")
    with pytest.raises(FileError, match="holds no run of pellucid"):
        scale.open(tmp_path / "full")


def test_an_engine_that_is_not_installed(net, data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"ray is not installed; it comes with the extra 'scale'"):
        run(Explainer(net), data, tmp_path / "out", engine="ray")
    with pytest.raises(OptionError, match="engine is 'spark'; give one of local, ray, torchrun"):
        run(Explainer(net), data, tmp_path / "out", engine="spark")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match="pyarrow is not installed"):
        run(Explainer(net), data, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"workers": 0}, "workers is 0"),
        ({"block": 0}, "block is 0"),
        ({"arrays": "hdf5"}, "arrays is 'hdf5'"),
        ({"tune": ["magic"]}, "tune has 'magic'"),
    ],
)
def test_options_that_do_not_exist(options, words, net, data, tmp_path):
    with pytest.raises(OptionError, match=words):
        run(Explainer(net), data, tmp_path / "out", **options)


def test_data_that_are_none(net, tmp_path):
    with pytest.raises(InputError, match="shuffles"):
        run(Explainer(net), DataLoader(TensorDataset(torch.ones(4, 6)), shuffle=True), tmp_path / "out")
    with pytest.raises(FileError, match="is not there"):
        run(Explainer(net), tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(InputError, match="data is int; give a DataLoader"):
        run(Explainer(net), 3, tmp_path / "out")
    with pytest.raises(InputError, match="hold no examples"):
        run(Explainer(net), torch.ones(0, 6), tmp_path / "out")


# -- processes -----------------------------------------------------------------------------------------------------------------------

SCRIPT = """
import os, signal, sys, time, torch
from torch import nn
from torch.utils.data import Dataset
from pellucid.scale import Explainer, run

log, pause = sys.argv[2], float(sys.argv[4])

class Slow(Dataset):  # in the script's own main module, without a guard
    def __len__(self): return 40
    def __getitem__(self, i):
        with open(log, "a") as file: file.write(f"{os.getpid()} {i}\\n")
        time.sleep(pause)
        return torch.linspace(-1, 1, 6, dtype=torch.float64) * (i + 1)

torch.manual_seed(1)
net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
run(Explainer(net, steps=8), Slow(), sys.argv[1], workers=int(sys.argv[3]), block=2, progress=False)
"""


def start(script, tmp_path, workers, pause=0.02):
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    command = [sys.executable, "script.py", str(tmp_path / "out"), str(tmp_path / "log"), str(workers), str(pause)]
    paths = os.pathsep.join(filter(None, [os.path.abspath("src"), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths})


def wanted_of_script():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x = torch.stack([torch.linspace(-1, 1, 6, dtype=torch.float64) * (i + 1) for i in range(40)])
    return expected(net, (x, None), steps=8)


def pids(tmp_path):
    return [int(line.split()[0]) for line in (tmp_path / "log").read_text().splitlines()] if (tmp_path / "log").exists() else []


def blocks_in(out):
    return len(list((out / "blocks").rglob("*.parquet"))) if (out / "blocks").exists() else 0


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.01)


def no_block_twice(out):
    numbers = [line["block"] for line in lines_of(out)]
    assert sorted(numbers) == sorted(set(numbers))
    return numbers


def test_the_run_is_killed_three_times_and_run_again(tmp_path):
    out = tmp_path / "out"
    for stored in (2, 7, 13):
        process = start(SCRIPT, tmp_path, 1)
        wait_for(lambda stored=stored: blocks_in(out) >= stored)
        process.send_signal(signal.SIGKILL)
        process.wait()
        part = scale.open(out)
        assert part.total.examples >= 2 * (stored - 1)
        assert torch.isfinite(attributions(part)).all()
    assert start(SCRIPT, tmp_path, 1).wait() == 0
    assert sorted(no_block_twice(out)) == list(range(20))
    assert torch.equal(attributions(scale.open(out)), wanted_of_script())


def test_workers_are_killed_three_times_and_nothing_is_lost_or_repeated(tmp_path):
    out = tmp_path / "out"
    process = start(SCRIPT, tmp_path, 2)
    killed = []
    for stored in (2, 6, 10):
        wait_for(lambda stored=stored: blocks_in(out) >= stored and any(p not in (*killed, process.pid) for p in pids(tmp_path)[-4:]))
        victim = next(p for p in reversed(pids(tmp_path)) if p not in (*killed, process.pid))
        os.kill(victim, signal.SIGKILL)
        killed.append(victim)
    assert process.wait(120) == 0
    assert sorted(no_block_twice(out)) == list(range(20))
    assert torch.equal(attributions(scale.open(out)), wanted_of_script())
    assert len(set(pids(tmp_path)) - {process.pid}) >= 4


def test_interrupted_with_workers_it_ends_and_goes_on(tmp_path):
    out = tmp_path / "out"
    process = start(SCRIPT, tmp_path, 2)
    wait_for(lambda: blocks_in(out) >= 3)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    workers = set(pids(tmp_path)) - {process.pid}
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers), 20)
    assert start(SCRIPT, tmp_path, 2, 0).wait(120) == 0
    assert sorted(no_block_twice(out)) == list(range(20))
    assert torch.equal(attributions(scale.open(out)), wanted_of_script())


def test_a_model_that_cannot_be_pickled(data, tmp_path):
    class Held(nn.Module):
        def __init__(self):
            super().__init__()
            self.lock = threading.Lock()

        def forward(self, x):
            return x[:, :2]

    net = Held()
    with pytest.raises(OptionError, match=r"the explainer cannot be pickled for other processes .*; give load="):
        run(Explainer(net, "gradient", 0), data, tmp_path / "out", workers=2)
    assert scale.open(tmp_path / "out").total.examples == 0
    assert run(Explainer(net, "gradient", 0), data, tmp_path / "out").complete
