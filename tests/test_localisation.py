"""Localisation: against loops over pixels and over every way to break ties, scikit-learn, and maps whose truth is planted."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from pellucid import InputError, OptionError
from pellucid.metrics.localisation import auc, box_mask, iou, overlap, pointing_game, relevance_mass, relevance_rank

EVERY = [pointing_game, relevance_mass, relevance_rank, iou, auc]
every = pytest.mark.parametrize("measure", EVERY)


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    maps, truth = torch.randn(6, 5, 7), torch.rand(6, 5, 7) < 0.3
    truth[:, 0, 0] = True
    return maps, truth


@pytest.fixture(scope="module")
def tied():
    """Few places, and fewer values."""
    torch.manual_seed(1)
    return torch.randint(0, 3, (12, 6)).double() - 1, torch.stack([torch.arange(6) < 1 + i % 5 for i in range(12)])


def orders(values):
    """Every order of the places, highest first, that breaks ties."""
    for order in itertools.permutations(range(len(values))):
        if all(values[a] >= values[b] for a, b in itertools.pairwise(order)):
            yield order


def test_pointing_game_without_ties(case):
    maps, truth = case
    expected = [float(truth[i].flatten()[maps[i].argmax()]) for i in range(6)]
    assert pointing_game(maps, truth).tolist() == expected
    assert 0 < sum(expected) < 6
    assert pointing_game(maps.float(), truth).dtype == torch.float64


def test_ties_are_broken_at_random_on_average(tied):
    maps, truth = tied
    for i in range(len(maps)):
        values, inside = maps[i].tolist(), truth[i].tolist()
        k = sum(inside)
        ways = [*orders(values)]
        assert float(pointing_game(maps, truth)[i]) == pytest.approx(np.mean([inside[way[0]] for way in ways]))
        common = np.mean([sum(inside[place] for place in way[:k]) for way in ways])
        assert float(relevance_rank(maps, truth)[i]) == pytest.approx(common / k)
        # Marked in part: how often a place is among the k highest.
        marked = np.mean([[place in way[:k] for place in range(6)] for way in ways], axis=0)
        soft = np.minimum(marked, inside).sum() / np.maximum(marked, inside).sum()
        assert float(iou(maps, truth)[i]) == pytest.approx(soft)


@pytest.mark.parametrize("tolerance", [0, 0.9, 1, 1.5, 2, 3.7, 100])
def test_tolerance_is_a_distance(case, tolerance):
    maps, truth = case
    for i in range(6):
        top = np.unravel_index(int(maps[i].argmax()), (5, 7))
        near = min(np.hypot(y - top[0], x - top[1]) for y, x in truth[i].nonzero().tolist())
        assert float(pointing_game(maps, truth, tolerance)[i]) == float(near <= tolerance)


def test_tolerance_in_one_and_three_dimensions():
    line, inside = torch.zeros(1, 9), torch.zeros(1, 9, dtype=torch.bool)
    line[0, 7], inside[0, 4] = 1, True
    assert [pointing_game(line, inside, t).item() for t in (2.9, 3)] == [0, 1]
    room, inside = torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4, 4, dtype=torch.bool)
    room[0, 0, 0, 0], inside[0, 2, 2, 1] = 1, True
    assert [pointing_game(room, inside, t).item() for t in (2.99, 3)] == [0, 1]
    with pytest.raises(InputError, match="4 dimensions of places"):
        pointing_game(torch.zeros(1, 2, 2, 2, 2), torch.ones(1, 2, 2, 2, 2), 1)


def test_mass_is_the_share_of_what_is_positive(case):
    maps, truth = case
    for i in range(6):
        inside = sum(max(v, 0) for v in maps[i][truth[i]].tolist())
        outside = sum(max(v, 0) for v in maps[i][~truth[i]].tolist())
        assert float(relevance_mass(maps, truth)[i]) == pytest.approx(inside / (inside + outside))


def test_rank_and_iou_without_ties(case):
    maps, truth = case
    for i in range(6):
        k = int(truth[i].sum())
        best, true = {*maps[i].flatten().argsort(descending=True)[:k].tolist()}, {*truth[i].flatten().nonzero().flatten().tolist()}
        assert float(relevance_rank(maps, truth)[i]) == pytest.approx(len(best & true) / k)
        assert float(iou(maps, truth)[i]) == pytest.approx(len(best & true) / len(best | true))
        for threshold in (0.0, 0.4, 1.0):
            marked = maps[i] > threshold * maps[i].max()
            expected = float((marked & truth[i]).sum() / (marked | truth[i]).sum())
            assert float(iou(maps, truth, threshold)[i]) == pytest.approx(expected)


def test_auc_and_average_precision_are_those_of_scikit_learn(case, tied):
    for maps, truth in (case, tied):
        found = overlap(maps, truth)
        torch.testing.assert_close(found.auc, auc(maps, truth), rtol=0, atol=0)
        for i in range(len(maps)):
            inside, values = truth[i].flatten().numpy(), maps[i].flatten().numpy()
            assert float(found.auc[i]) == pytest.approx(roc_auc_score(inside, values), abs=1e-12)
            assert float(found.ap[i]) == pytest.approx(average_precision_score(inside, values), abs=1e-12)


def test_auc_is_how_often_inside_is_higher(tied):
    maps, truth = tied
    for i in range(len(maps)):
        wins = [(a > b) + 0.5 * (a == b) for a in maps[i][truth[i]].tolist() for b in maps[i][~truth[i]].tolist()]
        assert float(auc(maps, truth)[i]) == pytest.approx(np.mean(wins))


def test_everything_inside():
    maps, truth = torch.randn(2, 3, 3), torch.ones(1, 3, 3)
    assert auc(maps, truth).isnan().all()
    for measure in (pointing_game, relevance_mass, relevance_rank, iou):
        assert measure(maps, truth).tolist() == [1, 1]


def test_constant_maps_point_nowhere():
    truth = box_mask((1, 0, 3, 1), 4, 5)[None]
    maps = torch.stack([torch.full((4, 5), value) for value in (0.0, 2.0, -1.0)])
    for measure in (pointing_game, relevance_mass, relevance_rank):
        assert measure(maps, truth).tolist() == pytest.approx([0.1, 0.1, 0.1])
    assert iou(maps, truth).tolist() == pytest.approx([0.2 / 3.8] * 3)  # 0.2 of two places, of the 2 and 2 less those
    assert iou(maps, truth, 0.5).tolist() == pytest.approx([0, 0.1, 0])
    assert auc(maps, truth).tolist() == [0.5, 0.5, 0.5]
    assert pointing_game(maps, truth, 1).tolist() == pytest.approx([6 / 20] * 3)  # the two, and their neighbours


@every
def test_truth_is_above_random_and_constant_maps(measure):
    """A model that adds up what is in a box: its attributions are the planted truth."""
    torch.manual_seed(0)
    boxes = [(i, 1, i + 3, 4) for i in range(6)]
    truth = torch.stack([box_mask(box, 8, 9) for box in boxes])
    planted = truth * (torch.rand(6, 8, 9) + 0.5) + 0.05 * torch.randn(6, 8, 9)
    found = measure(planted, truth)
    assert (found > 0.8).all()
    # At random one maximum in eight lies in a box: those of a pointing game that hit tie.
    assert measure(torch.rand(200, 8, 9), truth[:1]).mean() < found.mean() - 0.3
    assert (measure(torch.ones(6, 8, 9), truth) < found).all()
    assert (measure(-planted, truth) < found).all()
    torch.testing.assert_close(measure(planted, boxes), found)
    torch.testing.assert_close(measure(planted, boxes[:1]), measure(planted, truth[:1]))


@every
def test_laws(measure, case):
    maps, truth = case
    whole = measure(maps, truth)
    torch.testing.assert_close(torch.cat([measure(m[None], t[None]) for m, t in zip(maps, truth, strict=True)]), whole)
    torch.testing.assert_close(measure(maps * 7, truth.int()), whole)
    torch.testing.assert_close(measure(maps.flatten(1), truth.flatten(1)), whole)
    turned = measure(maps.flip(1), truth.flip(1))
    torch.testing.assert_close(turned, whole)
    half = measure(maps.half(), truth)
    assert half.dtype == torch.float64
    torch.testing.assert_close(half, measure(maps.half().double(), truth))


@every
def test_refusals(measure, case):
    maps, truth = case
    for given, where, message in (
        (maps, truth[:, :4], r"\(6, 4, 7\)"),
        (maps, truth[:4], "the same, or one for all"),
        (maps[:0], truth[:0], r"\(0, 5, 7\)"),
        (maps, truth.float() * 255, "255"),
        (maps, truth & False, "nothing inside"),
        (maps.where(maps > 0, torch.nan), truth, "NaN or infinite"),
        (maps * torch.inf, truth, "NaN or infinite"),
        (maps, [(0, 0, 2, 2)] * 2, "2 boxes for maps"),
        (maps[:, 0], [(0, 0, 2, 2)], "1 boxes for maps"),
        (maps, [(0, 0, 8, 2)], "reaches beyond"),
    ):
        with pytest.raises(InputError, match=message):
            measure(given, where)


def test_options(case):
    for call in (lambda: iou(*case, threshold=1.1), lambda: iou(*case, threshold=-0.1)):
        with pytest.raises(OptionError, match="threshold is"):
            call()
    for wrong in (-1, float("nan")):
        with pytest.raises(OptionError, match="tolerance is"):
            pointing_game(*case, tolerance=wrong)
