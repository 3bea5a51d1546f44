"""Runs over data sets, hunted: doors, tables and pictures by which examples were lost or others."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from pellucid import PellucidWarning
from pellucid.errors import FileError, InputError, OptionError, TargetError
from pellucid.scale import Explainer, run

from .scale_cases import Colours, Pairs, draw

pytest.importorskip("pyarrow")


@pytest.fixture
def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


@pytest.fixture
def data():
    torch.manual_seed(2)
    return torch.randn(11, 6, dtype=torch.float64), torch.arange(11) % 3


# -- doors --------------------------------------------------------------------------------------------------------------------------------


class Doubled(DataLoader):
    def __iter__(self):
        return ((2 * x, y) for x, y in super().__iter__())


class OneByOne(IterableDataset):
    def __init__(self, data):
        self.data = data

    def __iter__(self):
        return iter(zip(self.data[0], self.data[1].tolist(), strict=True))


def in_batches(x, y):
    return list(zip(x.split(4), y.split(4), strict=True))


DOORS = {
    "a batch sampler of one's own": (lambda x, y: DataLoader(TensorDataset(x, y), batch_sampler=[[3, 1], [0, 5]]), [3, 1, 0, 5]),
    "a loader of one's own": (lambda x, y: Doubled(TensorDataset(x / 2, y), batch_size=4), range(11)),
    "no batches, examples": (lambda x, y: DataLoader(Pairs(x, y), batch_size=None), range(11)),
    "no batches, made before": (lambda x, y: DataLoader(in_batches(x, y), batch_size=None), range(11)),
    "a stream without batches": (lambda x, y: DataLoader(OneByOne((x, y)), batch_size=None), range(11)),
    "a generator of examples": (lambda x, y: ((a, int(b)) for a, b in zip(x, y, strict=True)), range(11)),
    "a generator of named examples": (lambda x, y: ({"x": a, "label": int(b)} for a, b in zip(x, y, strict=True)), range(11)),
    "tensor and list": (lambda x, y: (x, y.tolist()), range(11)),
    "tensor and array": (lambda x, y: (x, y.numpy()), range(11)),
    "arrays": (lambda x, y: (x.numpy(), y.numpy()), range(11)),
    "labels in a column": (lambda x, y: (x, y[:, None]), range(11)),
    "batches with labels in a column": (lambda x, y: in_batches(x, y[:, None]), range(11)),
    "numbers of numpy": (lambda x, y: list(zip(x.numpy(), y.numpy(), strict=True)), range(11)),
    "a sampler": (lambda x, y: DataLoader(Pairs(x, y), batch_size=2, sampler=[4, 2, 0]), [4, 2, 0]),
    "the last one dropped": (lambda x, y: DataLoader(Pairs(x, y), batch_size=4, drop_last=True), range(8)),
    "workers": (lambda x, y: DataLoader(Pairs(x, y), batch_size=4, num_workers=1), range(11)),
}


@pytest.mark.parametrize("door", DOORS)
def test_examples_are_those_that_the_data_give_in_their_order(door, net, data, tmp_path):
    make, numbers = DOORS[door]
    results = run(Explainer(net, "saliency", "label"), make(*data), tmp_path / "out", block=3)
    assert torch.equal(results[0 : len(results)].features[0], data[0][list(numbers)])
    assert results.table(["label"]).to_pydict()["label"] == data[1][list(numbers)].tolist()
    assert results.table(["target"]).to_pydict()["target"] == [f"output {y}" for y in data[1][list(numbers)]]


def test_a_generator_is_read_once_for_all_workers(data, tmp_path):
    torch.manual_seed(1)
    net = nn.Linear(6, 3).double()
    results = run(Explainer(net, "input_x_gradient", 1), (x for x in data[0].split(4)), tmp_path / "out", block=3, workers=2)
    assert torch.allclose(results[0:11].attribution, data[0] * net.weight[1])


def test_batches_of_texts_have_no_label():
    from pellucid.scale.batches import Stream
    from pellucid.scale.rows import Reader

    rows = list(Stream([["one", "two"], ["three"]], Reader()).blocks(8))
    assert [row.inputs for row in rows] == [["one", "two", "three"]]
    assert rows[0].labels == ()


def test_a_batch_that_cannot_be_collated_loses_its_odd_example_only(net, data, tmp_path):
    rows = [(x, int(y)) for x, y in zip(*data, strict=True)]
    rows[5] = (torch.ones(2, dtype=torch.float64), 0)
    loader = DataLoader(rows, batch_size=4, collate_fn=lambda items: (torch.stack([x for x, _ in items]), [y for _, y in items]))
    with pytest.warns(PellucidWarning, match="1 of 11 examples could not be explained, the first is example 5: InputError: its shape is"):
        results = run(Explainer(net, "saliency", "label"), loader, tmp_path / "out", block=4)
    assert torch.equal(results[6].features[0], data[0][6:7])


def test_an_odd_first_example_is_the_one_that_fails(net, data, tmp_path):
    rows = list(data[0])
    rows[4] = torch.ones(2, dtype=torch.float64)
    with pytest.warns(PellucidWarning, match="1 of 11 examples could not be explained, the first is example 4"):
        run(Explainer(net, "saliency", 0), rows, tmp_path / "out", block=4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": None}, "seed is None"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"strict": "no"}, "strict is 'no'"),
        ({"keep_inputs": "no"}, "keep_inputs is 'no'"),
        ({"tune": "folded"}, "tune is 'folded'; give True, False, or a list"),
        ({"prepare": 3}, "prepare is int"),
        ({"label": True}, "label is True"),
        ({"size": (8, 8)}, "only the pictures of a folder"),
    ],
)
def test_values_that_are_none(options, words, net, data, tmp_path):
    with pytest.raises(OptionError, match=words):
        run(Explainer(net, "saliency", 0), data, tmp_path / "out", **options)


def test_what_is_none_of_ours(net, data, tmp_path):
    with pytest.raises(OptionError, match="out is 3"):
        run(Explainer(net), data, 3)
    with pytest.raises(OptionError, match="model is str"):
        run("net", data, tmp_path)
    with pytest.raises(OptionError, match="give the labels with the data"):
        Explainer(net, target=[0] * 11)
    with pytest.raises(InputError, match="give a place among them"):
        run(Explainer(net), data, tmp_path / "out", label=5)
    with pytest.raises(InputError, match="labels in words"):
        run(Explainer(net), (data[0], ["a"] * 11), tmp_path / "out")
    with pytest.raises(InputError, match="an example is asked for by its number"):
        run(Explainer(net, "saliency", 0), data, tmp_path / "index")[1.5]


# -- tables -------------------------------------------------------------------------------------------------------------------------------


def rows_of(path, words, tmp_path, net=None, **options):
    (tmp_path / path).write_bytes(words if isinstance(words, bytes) else words.encode())
    net = nn.Linear(2, 2) if net is None else net
    results = run(Explainer(net, "input_x_gradient", 0), tmp_path / path, tmp_path / "out", **options)
    return results[0 : len(results)].features[0].tolist(), results


def test_a_quotation_mark_in_a_cell_loses_no_row(tmp_path):
    rows, results = rows_of("t.csv", 'a,b,label\n1,2,5" pipe\n3,4,x\n5,6,y\n7,8,9" z\n', tmp_path)
    assert rows == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert results.table(["label"]).to_pydict()["label"] == ['5" pipe', "x", "y", '9" z']


def test_empty_lines_before_the_header_and_within_a_cell(tmp_path):
    rows, results = rows_of("t.csv", '\ufeff\n\na,b,label\n1,2,"x\n\ny"\n3,4,z\n', tmp_path)
    assert rows == [[1, 2], [3, 4]]
    assert results.table(["label"]).to_pydict()["label"] == ["x\n\ny", "z"]


def test_a_row_of_nothing_keeps_its_number(tmp_path):
    with pytest.warns(PellucidWarning, match="1 of 3 examples could not be explained, the first is example 1"):
        rows, _ = rows_of("t.tsv", "a\tb\n1\t2\n\t\n3\t4\n", tmp_path)
    assert rows == [[1, 2], [3, 4]]


def test_numbers_have_the_models_precision(tmp_path):
    rows, _ = rows_of("t.csv", "a,b\n16777217,1\n", tmp_path, nn.Linear(2, 2).double())
    assert rows == [[16777217.0, 1.0]]


def test_labels_are_numbers_only_where_that_is_all_they_are(tmp_path):
    _, results = rows_of("t.csv", "a,b,label\n1,2,007\n3,4,5\n5,6,nan\n7,8,\n9,0,cat\n", tmp_path, block=2)
    assert results.table(["label"]).to_pydict()["label"] == ["007", "5", None, None, "cat"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("a,a\n1,2\n", "two columns that are called 'a'"),
        ('a,b,label\n1,2,x\n3,4,"y\n5,6,z\n', "quotation mark behind byte 16 is never closed"),
        ("a,b\n1,2\n".encode("utf-16"), "is UTF-16 text"),
        ("caf\xe9,b\n1,2\n".encode("latin-1"), "is not UTF-8"),
        ("a,b\r1,2\r3,4\r", "is no csv table"),
        ("a,b,label\n1,2," + "x" * 200_000 + "\n", "field larger than field limit"),
    ],
)
def test_tables_that_cannot_be_read_rightly(words, expected, tmp_path):
    with pytest.raises((InputError, FileError), match=expected):
        rows_of("t.csv", words, tmp_path)


def test_a_file_that_is_no_parquet_table(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"xxx")
    with pytest.raises(FileError, match="is not a Parquet table"):
        run(Explainer(nn.Linear(2, 2), "saliency", 0), tmp_path / "t.parquet", tmp_path / "out")


LABELS = {
    "words and numbers": (["a", 1, None], ["a", "1", None]),
    "numbers of all kinds": ([True, 1, 2.5], ["True", "1", "2.5"]),
    "more than a column holds": ([2**70, 1, None], [str(2**70), "1", None]),
    "words in one block": ([1, 2, "x"], ["1", "2", "x"]),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_every_type_are_written(kind, net, data, tmp_path):
    labels, expected = LABELS[kind]
    results = run(Explainer(net, "saliency", 0), Pairs(data[0][:3], labels), tmp_path / "out", block=3 if "block" not in kind else 2)
    assert results.table(["label"]).to_pydict()["label"] == expected


# -- pictures -----------------------------------------------------------------------------------------------------------------------------


def test_pictures_of_all_modes(tmp_path):
    for number, mode in enumerate(["L", "RGB", "RGBA", "P", "1", "LA", "L"]):
        draw(tmp_path / "in" / f"{number}.png", mode, seed=number)
    Image.fromarray(np.full((8, 8), 60000, dtype=np.uint16)).save(tmp_path / "in" / "7.png")
    draw(tmp_path / "in" / "8.JPG", "CMYK")
    with pytest.warns(
        PellucidWarning, match="1 of 9 examples could not be explained, the first is example 7: FileError: '7.png' has more than"
    ):
        results = run(Explainer(Colours(), "input_x_gradient", 0), tmp_path / "in", tmp_path / "out", block=3)
    grey = torch.from_numpy(np.array(Image.open(tmp_path / "in" / "0.png"))).float() / 255
    assert torch.allclose(results[0].features[0], grey.expand(1, 3, 8, 8))
    assert len(results[0:9]) == 8


def test_pictures_are_turned_as_cameras_say(tmp_path):
    turned = Image.Exif()
    turned[274] = 6
    path = draw(tmp_path / "in" / "a.png", size=(4, 8), exif=turned)
    results = run(Explainer(Colours(), "saliency", 0), tmp_path / "in", tmp_path / "out")
    upright = np.rot90(np.asarray(Image.open(path)), -1).transpose(2, 0, 1)
    assert torch.allclose(results[0].features[0][0], torch.from_numpy(upright.copy()).float() / 255)


def test_files_that_are_hidden_linked_or_oddly_called(tmp_path):
    for name in ("cat/1.png", "dog/a\nb.png", ".cache/1.png", "dog/back\\slash.png"):
        draw(tmp_path / "in" / name)
    (tmp_path / "in" / "cat" / "._1.png").write_bytes(b"not a picture")
    (tmp_path / "in" / "empty").mkdir()
    os.symlink(tmp_path / "in", tmp_path / "in" / "dog" / "round")
    os.symlink(tmp_path / "nowhere.png", tmp_path / "in" / "dog" / "z.png")
    with pytest.warns(PellucidWarning, match="1 of 4 examples could not be explained, the first is example 3: FileError: 'z.png'"):
        results = run(Explainer(Colours(), "saliency", "label"), tmp_path / "in", tmp_path / "out")
    rows = results.table(["key", "label"]).to_pydict()
    assert rows["key"][:3] == ["cat/1.png", "dog/a\nb.png", "dog/back\\slash.png"]
    assert rows["label"][:3] == [0, 1, 1]
    assert tuple(results.facts["classes"]) == ("cat", "dog")


def test_a_folders_label_is_the_class_of_its_name(tmp_path):
    for name in ("cat/1.png", "dog/1.png"):
        draw(tmp_path / "in" / name)
    results = run(Explainer(Colours(4), "saliency", "label", classes=("bird", "dog", "cat", "fish")), tmp_path / "in", tmp_path / "out")
    assert [results[i].target for i in range(2)] == ["output 2 (cat)", "output 1 (dog)"]
    assert results.means("label").names == ("cat", "dog")
    with pytest.raises(TargetError, match="the folder 'cat' is no class: the model has another number of classes"):
        run(Explainer(Colours(4), "saliency", "label"), tmp_path / "in", tmp_path / "other")
    with pytest.raises(TargetError, match="the folder 'cat' is no class: the classes are bird, dog"):
        run(Explainer(Colours(2), "saliency", "label", classes=("bird", "dog")), tmp_path / "in", tmp_path / "third")
