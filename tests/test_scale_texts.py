"""Runs over texts that a task makes vectors of: each of its own length, with its own tokens."""

import numpy as np
import pytest
import torch
from torch import nn

import pellucid
from pellucid import Explainer, OptionError, Sample, zoo
from pellucid.scale.rows import One, form_of, is_of_texts, together

from .test_insights import numbers, result

pytest.importorskip("pyarrow", reason="runs need pyarrow (extra 'scale')")


@pytest.fixture(scope="module")
def task():
    return zoo.sentences()


@pytest.fixture(scope="module")
def texts():
    return zoo.held_out("sentences", 20)


def alone(task, text, target, **options):
    sample = task.prepare(text)
    return pellucid.explain(
        task.model, sample.inputs, target, baselines=sample.baselines, kwargs=sample.keywords, names=sample.names, kind="text",
        classes=task.classes, seed=0, **options,
    )  # fmt: skip


@pytest.mark.parametrize("options", [{"method": "integrated_gradients", "steps": 8}, {"method": "feature_ablation"}, {"method": "lime"}])
def test_each_text_gets_what_it_gets_alone(options, task, texts, tmp_path):
    results = pellucid.run(
        Explainer(task.model, classes=task.classes, **options), texts, tmp_path / "out", prepare=task.prepare, label=1, block=7
    )
    assert results.complete
    assert not results.total.failed
    assert len({len(task.prepare(text).names) for text, _ in texts}) > 5
    for i, (text, _) in enumerate(texts):
        own, found = alone(task, text, None, **options), results[i]
        assert found.attribution.shape == own.attribution.shape
        assert torch.allclose(found.attribution, own.attribution, atol=1e-5)
        assert torch.equal(found.features[0], own.features[0])
        assert torch.allclose(found.scores, own.scores, atol=1e-5)
        assert found.display.names == own.display.names == task.prepare(text).names
        assert found.target == own.target
        assert found.provenance.inputs == own.provenance.inputs
    assert results.table(["label"]).to_pydict()["label"] == [
        task.classes.index(label) if label in task.classes else label for _, label in texts
    ]
    few = results[5:9]
    for row, (text, _) in enumerate(texts[5:9]):
        names = task.prepare(text).names
        assert few.display.tokens[row][: len(names)] == names
        assert torch.allclose(few.attribution[row, : len(names)], results[5 + row].attribution[0], atol=1e-6)


def test_workers_and_own_labels(task, texts, tmp_path):
    explainer = Explainer(task.model, "saliency", "label", classes=task.classes)
    one = pellucid.run(explainer, texts, tmp_path / "one", prepare=task.prepare, label=1, block=4)
    two = pellucid.run(explainer, texts, tmp_path / "two", prepare=task.prepare, label=1, block=4, workers=2)
    for i, (text, label) in enumerate(texts):
        assert torch.equal(one[i].attribution, two[i].attribution)
        assert torch.allclose(one[i].attribution, alone(task, text, label, method="saliency").attribution, atol=1e-5)


def test_a_text_that_cannot_be_read_stands_alone(task, tmp_path):
    def prepare(text):
        if not text:
            raise ValueError("nothing to read")
        return task.prepare(text)

    texts = ["the tensor is copied to the device", "", "fit the model", "a logger of its own"]
    with pytest.warns(pellucid.PellucidWarning, match="1 of 4 examples"):
        results = pellucid.run(Explainer(task.model, "saliency"), texts, tmp_path / "out", prepare=prepare)
    assert [i for i, _ in results.failed] == [1]
    assert results[2].display.names == task.prepare(texts[2]).names
    assert results[3].attribution.shape[1] == len(task.prepare(texts[3]).names)


def test_insights_shows_the_tokens(task, texts, tmp_path):
    results = pellucid.run(
        Explainer(task.model, "saliency", classes=task.classes), texts[:5], tmp_path / "out", prepare=task.prepare, label=1
    )
    looked = results.insights()
    part = result(looked.session, "explain", questions=[{"index": 3, "method": "stored"}])["parts"][0]
    looked.close()
    assert part["names"] == list(task.prepare(texts[3][0]).names)
    assert len(numbers(part["values"])) == len(part["names"])
    shown = results[3].attribution[0].numpy()
    assert np.allclose(np.abs(numbers(part["values"])), np.linalg.norm(shown, axis=1), rtol=1e-4)


@pytest.mark.parametrize(("wish", "words"), [({"arrays": "zarr"}, "one shape"), ({"keep_inputs": False}, "keep them")])
def test_what_needs_one_length_is_refused(wish, words, task, texts, tmp_path):
    pytest.importorskip("zarr")
    with pytest.raises(OptionError, match=words):
        pellucid.run(Explainer(task.model, "saliency"), texts, tmp_path / "out", prepare=task.prepare, label=1, **wish)


def test_lengths_are_those_of_tokens_only():
    """A mask goes with its text; what has a size of its own keeps it, also where a text happens to be as long."""

    def one(length):
        tokens = tuple(f"t{i}" for i in range(length))
        keywords = {"mask": torch.ones(length, dtype=torch.bool), "context": torch.full((4, 3), float(length))}
        return One((torch.full((length, 2), float(length)),), None, keywords, (torch.zeros(length, 2),), tokens)

    read = [(0, one(3)), (2, one(6)), (3, one(4)), (4, one(3))]
    assert len({form_of(example) for _, example in read}) == 1
    rows = together(read, 5)
    assert not rows.failed
    assert rows.places == (0, 2, 3, 4)
    assert rows.alike() == [[0, 3], [1], [2]]
    pair = rows.picked([0, 3])
    assert pair.inputs[0].shape == (2, 3, 2)
    assert pair.baselines[0].shape == (2, 3, 2)
    assert pair.keywords["mask"].shape == (2, 3)
    assert bool(pair.keywords["mask"].all())
    assert pair.keywords["context"].shape == (2, 4, 3)
    back = rows.one(2)
    assert torch.equal(back.inputs[0], torch.full((4, 2), 4.0))
    assert torch.equal(back.keywords["context"], torch.full((4, 3), 4.0))
    assert back.names == ("t0", "t1", "t2", "t3")
    assert is_of_texts(form_of(one(3)))
    assert not is_of_texts("(3, 4) float32 keywords {context: (3,) float32, text: (2,) int64}")
    assert is_of_texts("{question: text, picture: (3, 4) float32}")


def test_columns_of_a_row_are_named(tmp_path):
    def prepare(raw):
        return Sample((torch.tensor([raw]),), names=("height", "weight"))

    results = pellucid.run(nn.Linear(2, 3), [[1.0, 2.0], [3.0, 4.0]], tmp_path / "out", prepare=prepare, label="")
    assert results[1].display.names == ("height", "weight")
    assert results.top_features(1)["all"][0][0] in ("height", "weight")
