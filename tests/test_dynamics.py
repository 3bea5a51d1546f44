"""Training dynamics: recorded in one line, scored as the papers say, and flipped labels found."""

import itertools
import json

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pellucid.interpretdl as it
from pellucid import FileError, InputError, OptionError
from pellucid.dynamics import (
    SUSPICIONS,
    Dynamics,
    Indexed,
    Recorder,
    area_under_margin,
    data_map,
    forgetting,
    learning_epoch,
    outliers,
    suspicion,
)
from pellucid.interpretdl.training import counted, noisy_labels
from tests.parity.test_interpretdl import KEPT, given


def recorded(logits, labels, **options):
    """`logits` `(E, N, C)`, recorded in two batches of each epoch."""
    recorder = Recorder(**options)
    half = len(labels) // 2
    for epoch in logits:
        for rows in (range(half), range(half, len(labels))):
            recorder.update(list(rows), epoch[list(rows)], labels[list(rows)])
    return recorder.dynamics


@pytest.fixture(scope="module")
def random():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(7, 10, 3, generator=generator), torch.randint(0, 3, (10,), generator=generator)


def test_what_is_recorded(random):
    logits, labels = random
    found = recorded(logits, labels, chances=True)
    assert found.probability.shape == (10, 7)
    for i in range(10):
        for e in range(7):
            row, label = logits[e, i], int(labels[i])
            others = [float(row[k]) for k in range(3) if k != label]
            assert found.margin[i, e] == pytest.approx(float(row[label]) - max(others), abs=1e-6)
            assert found.probability[i, e] == pytest.approx(float(row.softmax(0)[label]), abs=1e-6)
            assert found.predicted[i, e] == int(row.argmax())
    torch.testing.assert_close(found.chances, logits.softmax(2).transpose(0, 1))


def test_scores_are_slow_loops(random):
    found = recorded(*random)
    correct = found.correct
    for i in range(10):
        trace = correct[i].tolist()
        events = sum(a and not b for a, b in itertools.pairwise(trace))
        assert forgetting(found).events[i] == events
        assert forgetting(found).learned[i] == any(trace)
        assert forgetting(found).first[i] == (trace.index(True) if any(trace) else -1)
        right = [e for e, ok in enumerate(trace) if ok]
        assert learning_epoch(found)[i] == pytest.approx(sum(right) / len(right) if right else 7)
        assert area_under_margin(found)[i] == pytest.approx(float(found.margin[i].mean()), abs=1e-6)
        assert data_map(found).confidence[i] == pytest.approx(float(found.probability[i].mean()), abs=1e-6)
        assert data_map(found).variability[i] == pytest.approx(float(found.probability[i].std(unbiased=False)), abs=1e-6)
        assert data_map(found).correctness[i] == pytest.approx(sum(trace) / 7)


def test_epochs_in_which_an_example_is_missing_do_not_count():
    recorder = Recorder(size=4)
    up, down = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    recorder.update([0], up, torch.tensor([0]), epoch=0)
    recorder.update([1], up, torch.tensor([0]), epoch=0)
    recorder.update([1], up, torch.tensor([0]), epoch=1)
    recorder.update([0], down, torch.tensor([0]), epoch=2)
    found = recorder.dynamics
    assert found.predicted.tolist() == [[0, -1, 1], [0, 0, -1], [-1] * 3, [-1] * 3]
    assert forgetting(found).events.tolist() == [1, 0, 0, 0]
    assert data_map(found).correctness.tolist()[:2] == [0.5, 1.0]
    assert suspicion(found).isnan().tolist() == [False, False, True, True]
    assert area_under_margin(found)[:2].tolist() == [0.0, 1.0]


def test_binary_logits_and_order_within_an_epoch():
    recorder = Recorder()
    recorder.update(torch.tensor([1, 0]), torch.tensor([2.0, -1.0]), torch.tensor([1, 1]))
    found = recorder.dynamics
    torch.testing.assert_close(found.probability[:, 0], torch.sigmoid(torch.tensor([-1.0, 2.0])))
    assert found.correct[:, 0].tolist() == [False, True]


def test_saving_and_refusals(random, tmp_path):
    found = recorded(*random)
    again = Dynamics.load(found.save(tmp_path / "d.safetensors"))
    assert torch.equal(again.margin, found.margin)
    assert again.chances is None
    (tmp_path / "x").write_text("no")
    with pytest.raises(FileError, match="holds no training dynamics"):
        Dynamics.load(tmp_path / "x")
    with pytest.raises(FileError, match="cannot write"):
        found.save(tmp_path / "missing" / "d")
    recorder = Recorder()
    with pytest.raises(InputError, match="nothing was recorded"):
        _ = recorder.dynamics
    recorder.update([0], torch.zeros(1, 2), torch.tensor([1]))
    for words, arguments in (
        ("do not fit", ([0, 1], torch.zeros(1, 2), torch.tensor([1]))), ("2 classes", ([1], torch.zeros(1, 2), torch.tensor([2]))),
        ("now has 0", ([0], torch.zeros(1, 2), torch.tensor([0]))), ("negative", ([-1], torch.zeros(1, 2), torch.tensor([0]))),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            recorder.update(*arguments)
    with pytest.raises(OptionError, match="numbered from 0"):
        recorder.update([0], torch.zeros(1, 2), torch.tensor([1]), epoch=-1)
    with pytest.raises(OptionError, match="'area_under_margin'"):
        suspicion(found, "magic")


# Planted errors


@pytest.fixture(scope="module")
def flipped():
    """A network on digits of which one label in twenty was changed."""
    x, y = (torch.tensor(part) for part in load_digits(return_X_y=True))
    x, y = (x[:1200].float() / 16), y[:1200].clone()
    generator = torch.Generator().manual_seed(0)
    wrong = torch.randperm(1200, generator=generator)[:60]
    y[wrong] = (y[wrong] + torch.randint(1, 10, (60,), generator=generator)) % 10
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    recorder = Recorder(1200, chances=True)
    loader = DataLoader(Indexed(TensorDataset(x, y)), 64, shuffle=True, generator=torch.Generator().manual_seed(0))
    for _ in range(20):
        for indices, rows, labels in loader:
            logits = model(rows)
            recorder.update(indices, logits, labels)
            loss = nn.functional.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    truth = torch.zeros(1200)
    truth[wrong] = 1
    return recorder.dynamics, truth


@pytest.mark.parametrize(("by", "least"), [("area_under_margin", 0.9), ("learning_epoch", 0.8), ("confidence", 0.9), ("forgetting", 0.5)])
def test_flipped_labels_are_found(flipped, by, least):
    dynamics, truth = flipped
    assert set(SUSPICIONS) == {"area_under_margin", "learning_epoch", "confidence", "forgetting"}
    found = average_precision_score(truth, suspicion(dynamics, by))
    assert found >= least
    assert average_precision_score(truth, -suspicion(dynamics, by)) < 0.1


def test_a_detector_learns_what_flipped_labels_look_like(flipped, tmp_path):
    dynamics, truth = flipped
    logits = {i: dynamics.chances[i].numpy() for i in range(1200)}
    own = it.TrainingDynamics(nn.Identity())
    path = own.save(logits, dynamics.labels.numpy(), truth.numpy(), tmp_path / "td.npz")
    table, _ = own.transform(logits, dynamics.labels.numpy())
    half = np.arange(1200) % 2 == 0
    detector = it.BHDFInterpreter().fit(table[half], truth.numpy()[half])
    order, scores = detector.interpret(training_dynamics_path=path)
    assert average_precision_score(truth[~half], np.asarray(scores)[~half]) > 0.8
    assert truth[order[-20:]].mean() > 0.8
    with pytest.raises(OptionError, match="no detector"):
        it.BHDFInterpreter().interpret(table, None)
    with pytest.raises(OptionError, match="one of the two"):
        detector.interpret(table)
    with pytest.raises(FileError, match="holds no training dynamics"):
        detector.interpret(training_dynamics_path=tmp_path / "missing.npz")


# InterpretDL's own numbers


def test_forgetting_events_and_noisy_labels_are_interpretdls():
    right, predicted = torch.tensor(given("forgetting_events/right")), torch.tensor(given("forgetting_events/predicted"))
    targets = torch.tensor(given("forgetting_events/targets"))
    dynamics = Dynamics(right.float(), right.float(), predicted.long(), targets.long())
    assert torch.equal(dynamics.correct, right.bool())
    counts, forgotten = counted(dynamics)
    by_id = {i: number for number, ids in counts.items() for i in ids}
    assert [by_id[i] for i in range(len(targets))] == KEPT["out/forgetting_events/counts"].tolist()
    assert [p for i in range(len(targets)) for p in forgotten[i]] == KEPT["out/forgetting_events/forgotten"].tolist()
    assert noisy_labels(dynamics).tolist() == KEPT["out/forgetting_events/noisy"].tolist()


def test_training_dynamics_are_interpretdls():
    history, targets = given("training_dynamics/history"), given("training_dynamics/targets")
    logits = dict(enumerate(history))
    seen = [i for i, row in enumerate(history) if not np.isnan(row).any()]  # what was missing InterpretDL fills in wrongly
    found, labels = it.TrainingDynamics.transform({i: logits[i] for i in seen}, targets)
    np.testing.assert_allclose(found, KEPT["out/training_dynamics/dynamics"][seen], atol=1e-3)
    assert labels.tolist() == KEPT["out/training_dynamics/labels"][seen].tolist()
    gap = np.array([[[0.2, 0.8], [np.nan, np.nan], [0.4, 0.6]]])
    np.testing.assert_allclose(it.TrainingDynamics.transform({0: gap[0]}, [0])[0][0, 1], [0.3, 0.7], atol=1e-3)
    with pytest.raises(InputError, match="in no epoch"):
        it.TrainingDynamics.transform({0: gap[0] * np.nan}, [0])


def test_the_facade_trains_and_counts(tmp_path):
    x, y = (torch.tensor(part) for part in load_digits(return_X_y=True))
    x, y = x[:200].float() / 16, y[:200]
    torch.manual_seed(0)
    for reader in (
        list(DataLoader(Indexed(TensorDataset(x, y)), 50)),
        [(i, x[i].numpy(), int(y[i])) for i in range(200)],
        [[(i, x[i].numpy(), int(y[i])) for i in range(s, s + 50)] for s in range(0, 200, 50)],
    ):
        model = nn.Sequential(nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        interpreter = it.ForgettingEventsInterpreter(model)
        stats, (counts, forgotten) = interpreter.interpret(reader, optimizer, 50, 4, save_path=tmp_path / "out")
        assert sorted(i for ids in counts.values() for i in ids) == list(range(200))
        assert len(stats[3][0]) == len(stats[3][1]) == 4
        assert set(forgotten) == set(range(200))
        assert len(json.loads((tmp_path / "out" / "stats.json").read_text())) == 200
    _, noisy = interpreter.interpret(reader, optimizer, 50, 2, find_noisy_labels=True, save_path=None)
    assert isinstance(noisy, list)
    with pytest.raises(InputError, match="yields 2 things"):
        interpreter.interpret([(x, y)], optimizer, save_path=None)
    made, labels = it.TrainingDynamics(model).generator(DataLoader(Indexed(TensorDataset(x, y)), 64), optimizer, 2)
    assert made[5].shape == (2, 10)
    assert not np.isnan(np.stack(list(made.values()))).any()  # the last batch, shorter, is there too
    assert labels.tolist() == y.tolist()


def test_outliers():
    assert outliers(torch.tensor([1.0, 2.0, 1.5] * 20 + [40.0, torch.nan, 30.0]), 3.0).tolist() == [60, 62]
