"""Targets in all their forms."""

import numpy as np
import pytest
import torch

import pellucid
from pellucid.target import Every, resolve, target

OUTPUT = torch.randn(3, 4)
DEEP = torch.randn(3, 5, 4)
CLASSES = ("ant", "bee", "cat - dog", "cow")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (2, OUTPUT[:, 2]),
        (-1, OUTPUT[:, 3]),
        (np.int64(2), OUTPUT[:, 2]),
        ((2,), OUTPUT[:, 2]),
        (torch.tensor(2), OUTPUT[:, 2]),
        (torch.tensor([2]), OUTPUT[:, 2]),
        (torch.tensor([0, 3, 1]), OUTPUT[[0, 1, 2], [0, 3, 1]]),
        (np.array([0, 3, 1]), OUTPUT[[0, 1, 2], [0, 3, 1]]),
        ([0, 3, 1], OUTPUT[[0, 1, 2], [0, 3, 1]]),
        (range(3), OUTPUT[[0, 1, 2], [0, 1, 2]]),
        ([torch.tensor(0), torch.tensor([3]), 1], OUTPUT[[0, 1, 2], [0, 3, 1]]),
        ("bee", OUTPUT[:, 1]),
        ("cat - dog", OUTPUT[:, 2]),
        ("bee - ant", OUTPUT[:, 1] - OUTPUT[:, 0]),
        ("3 - 1", OUTPUT[:, 3] - OUTPUT[:, 1]),
        (["ant", 2, "bee - cow"], torch.stack([OUTPUT[0, 0], OUTPUT[1, 2], OUTPUT[2, 1] - OUTPUT[2, 3]])),
        (target("bee") - target(0), OUTPUT[:, 1] - OUTPUT[:, 0]),
        (0.5 * target(2) + target("bee") * 2, 0.5 * OUTPUT[:, 2] + 2 * OUTPUT[:, 1]),
        (-target(2), -OUTPUT[:, 2]),
        (lambda y: y.logsumexp(1), OUTPUT.logsumexp(1)),
    ],
)
def test_forms(spec, expected):
    pick = resolve(spec, 3, CLASSES)
    torch.testing.assert_close(pick.scores(OUTPUT, 3), expected[None])
    twice = pick.scores(torch.cat([OUTPUT, 2 * OUTPUT]), 6)
    if not callable(spec):
        torch.testing.assert_close(twice, torch.cat([expected, 2 * expected])[None])
    torch.testing.assert_close(pick.at([2, 0]).scores(OUTPUT[[2, 0]], 2), expected[[2, 0]][None])


@pytest.mark.parametrize(
    ("spec", "expected"),
    [((4, 1), DEEP[:, 4, 1]), ([(0, 1), (4, 3), (2, 2)], DEEP[[0, 1, 2], [0, 4, 2], [1, 3, 2]])],
)
def test_deep_forms(spec, expected):
    torch.testing.assert_close(resolve(spec, 3).scores(DEEP, 3), expected[None])


def test_one_index_into_a_deep_output_asks_for_the_rest():
    with pytest.raises(pellucid.TargetError, match="tuple of 2 indices"):
        resolve(1, 3).scores(DEEP, 3)


@pytest.mark.parametrize("output", [torch.randn(3), torch.randn(3, 1)])
def test_none_takes_one_score_per_example(output):
    torch.testing.assert_close(resolve(None, 3).scores(output, 3), output.reshape(1, 3))


def test_every_output_is_a_target():
    torch.testing.assert_close(Every().scores(DEEP, 3), DEEP.reshape(3, -1).T)


def test_words():
    assert str(resolve(1, 3, CLASSES)) == "output 1 (bee)"
    assert str(resolve("bee - ant", 3, CLASSES)) == "output 1 (bee) - output 0 (ant)"
    assert str(resolve([1, 2, 0], 3)) == "outputs 1, 2, 0"
    assert str(resolve(-target(2), 3)) == "-output 2"


def test_a_guessed_target_is_the_prediction_and_says_so():
    net, x = torch.nn.Linear(4, 3), torch.randn(5, 4)
    explanation = pellucid.explain(net, x, None, "gradient")
    with torch.no_grad():
        assert explanation.predictions.tolist() == net(x).argmax(1).tolist()
        torch.testing.assert_close(explanation.confidences, net(x).softmax(1).max(1).values)
        torch.testing.assert_close(explanation.scores, net(x).max(1).values)
    check = explanation.check("target")
    assert check.guessed
    assert "no target was given" in check.message
    assert not pellucid.explain(net, x, 1, "gradient").check("target").guessed


def test_a_function_gets_whatever_the_model_returns():
    net, x = torch.nn.Linear(4, 3), torch.randn(5, 4)
    found = pellucid.explain(lambda x: {"logits": net(x)}, x, lambda out: out["logits"][:, 1], "gradient")
    torch.testing.assert_close(found.attribution, net.weight[1].detach().expand(5, 4))
