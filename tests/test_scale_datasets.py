"""Runs over data sets of Hugging Face's own library, in memory, on disk and streamed."""

import numpy as np
import pytest
import torch

import pellucid
from pellucid import Explainer, zoo
from pellucid.scale import open as opened

from .test_scale import attributions, expected

datasets = pytest.importorskip("datasets", reason="Hugging Face's data sets (requirements-dev.txt)")
pytest.importorskip("pyarrow", reason="runs need pyarrow (extra 'scale')")
CLASSES = ["no", "yes", "so"]


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(37, 6, generator=generator), torch.randint(0, 3, (37,), generator=generator)


@pytest.fixture(scope="module")
def rows(data):
    features = datasets.Features({"x": datasets.Sequence(datasets.Value("float32")), "label": datasets.ClassLabel(names=CLASSES)})
    return datasets.Dataset.from_dict({"x": data[0].tolist(), "label": data[1].tolist()}, features=features)


def of(results):
    return results.table(["label"]).to_pydict()["label"]


@pytest.mark.parametrize("form", ["python", "torch", "numpy"])
def test_a_data_set_in_any_format_gives_what_its_tensors_give(form, net, data, rows, tmp_path):
    results = pellucid.run(Explainer(net, target="label"), rows.with_format(form), tmp_path / "out", block=10, columns=["x"], label="label")
    assert torch.allclose(attributions(results), expected(net, data, target="label"), atol=1e-6)
    assert of(results) == data[1].tolist()
    assert results[5].display.classes == tuple(CLASSES)


@pytest.mark.parametrize("form", ["python", "torch", "numpy"])
def test_columns_of_numbers_are_a_row(form, net, data, tmp_path):
    table = datasets.Dataset.from_dict({f"c{i}": data[0][:, i].tolist() for i in range(6)} | {"label": data[1].tolist()})
    results = pellucid.run(Explainer(net, target="label"), table.with_format(form), tmp_path / "out", label="label")
    assert torch.allclose(attributions(results), expected(net, data, target="label"), atol=1e-6)


def test_workers_read_a_data_set_on_disk(net, data, rows, tmp_path):
    rows.save_to_disk(tmp_path / "rows")
    stored = datasets.load_from_disk(tmp_path / "rows")
    results = pellucid.run(Explainer(net), stored, tmp_path / "out", block=5, workers=2, columns=["x"], label="label")
    assert torch.allclose(attributions(results), expected(net, data), atol=1e-6)


def test_a_stream_goes_on_where_it_was(net, data, rows, tmp_path):
    def many(stop=None):
        for i, row in enumerate(row for _ in range(6) for row in rows):
            if i == stop:
                raise KeyboardInterrupt
            yield row

    read = {"block": 10, "columns": ["x"], "label": "label"}
    with pytest.raises(KeyboardInterrupt):
        pellucid.run(Explainer(net), datasets.IterableDataset.from_generator(many, gen_kwargs={"stop": 150}), tmp_path / "out", **read)
    assert 0 < opened(tmp_path / "out").total.examples < 150
    results = pellucid.run(Explainer(net), datasets.IterableDataset.from_generator(many), tmp_path / "out", **read)
    assert results.complete
    assert torch.allclose(attributions(results), expected(net, data).repeat(6, 1), atol=1e-6)
    assert of(results) == data[1].tolist() * 6


def test_a_dictionary_of_splits_is_refused_by_name(net, rows, tmp_path):
    with pytest.raises(pellucid.InputError, match="train"):
        pellucid.run(Explainer(net), datasets.DatasetDict(train=rows), tmp_path / "out")


def test_pictures_are_prepared_by_the_task(tmp_path):
    task, held = zoo.digits(), zoo.held_out("digits", 12)
    pictures = [np.asarray(picture) for picture, _ in held]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(task.classes))})
    rows = datasets.Dataset.from_dict({"image": pictures, "label": [int(label) for _, label in held]}, features=features)
    results = pellucid.run(Explainer(task.model, "saliency"), rows, tmp_path / "out", prepare=task.prepare, label="label")
    wanted = torch.cat([pellucid.explain(task.model, task.prepare(picture).inputs, None, "saliency").attribution for picture, _ in held])
    assert torch.allclose(attributions(results), wanted, atol=1e-6)
    assert results.table(["predicted"]).to_pydict()["predicted"][0] in task.classes
