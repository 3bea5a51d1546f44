"""Metrics that ask no model: complexity and agreement, against their formulas and scipy."""

import math

import pytest
import scipy.stats
import torch

from pellucid import InputError, OptionError
from pellucid.metrics import AGREEMENTS, agreement, consensus, effective_number, entropy, ranks, sparseness


@pytest.fixture(scope="module")
def rows():
    torch.manual_seed(0)
    return torch.randn(5, 3, 7)


def test_sparseness_is_the_gini_index(rows):
    found = sparseness(rows)
    for value, row in zip(found.tolist(), rows.flatten(1).abs().double(), strict=True):
        differences = (row[:, None] - row).abs().mean()  # half the relative mean difference
        assert value == pytest.approx(float(differences / (2 * row.mean())))
    one = torch.zeros(1, 50)
    one[0, 3] = -2.0
    assert float(sparseness(one)) == pytest.approx(1 - 1 / 50)
    assert sparseness(torch.ones(2, 9)).tolist() == pytest.approx([0, 0])
    assert sparseness(torch.zeros(2, 9)).tolist() == [0, 0]


def test_entropy(rows):
    for value, row in zip(entropy(rows).tolist(), rows.flatten(1).abs().double(), strict=True):
        assert value == pytest.approx(scipy.stats.entropy(row.numpy()))
    assert entropy(torch.zeros(1, 8)).tolist() == pytest.approx([math.log(8)])
    assert effective_number(torch.ones(1, 8)).tolist() == pytest.approx([8])
    assert effective_number((torch.ones(1, 8), torch.zeros(1, 3))).tolist() == pytest.approx([8])


@pytest.mark.parametrize("measure", [sparseness, entropy, effective_number])
def test_scale_and_sign_make_no_difference_and_a_batch_is_its_examples(rows, measure):
    torch.testing.assert_close(measure(rows * -7), measure(rows))
    torch.testing.assert_close(torch.cat([measure(row[None]) for row in rows]), measure(rows))
    with pytest.raises(InputError, match="1 NaN"):
        measure(torch.tensor([[1.0, math.nan]]))


def test_more_concentrated_is_simpler():
    sharp, flat = torch.tensor([[9.0, 1.0, 0.5, 0.1]]), torch.tensor([[3.0, 2.5, 2.0, 2.2]])
    assert float(sparseness(sharp)) > float(sparseness(flat))
    assert float(entropy(sharp)) < float(entropy(flat))


def test_ranks_with_ties():
    torch.manual_seed(0)
    values = torch.randint(0, 5, (4, 12)).double()
    for found, row in zip(ranks(values), values, strict=True):
        assert found.tolist() == scipy.stats.rankdata(row.numpy()).tolist()


ORACLES = {
    "rank_correlation": lambda a, b: scipy.stats.spearmanr(a, b)[0],
    "correlation": lambda a, b: scipy.stats.pearsonr(a, b)[0],
    "cosine": lambda a, b: float(a @ b / (a @ a) ** 0.5 / (b @ b) ** 0.5),
    "top_overlap": lambda a, b: len({*(-abs(a)).argsort()[:4]} & {*(-abs(b)).argsort()[:4]}) / 4,
}


@pytest.mark.parametrize("by", AGREEMENTS)
def test_agreement_of_each_two(rows, by):
    others = [rows, rows + torch.randn_like(rows), -rows, (rows * 2).round()]
    found = agreement(others, by, k=4)
    assert found.shape == (5, 4, 4)
    torch.testing.assert_close(found, found.transpose(1, 2))
    torch.testing.assert_close(found.diagonal(dim1=1, dim2=2), torch.ones(5, 4).double())
    for example in range(5):
        for i in range(3):
            for j in range(3):
                a, b = (others[k][example].flatten().double().numpy() for k in (i, j))
                assert float(found[example, i, j]) == pytest.approx(ORACLES[by](a, b))


def test_what_has_no_order():
    constant, some = torch.ones(1, 4), torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert agreement([constant, some])[0, 0, 1].isnan()
    assert agreement([torch.zeros(1, 4), some], "cosine")[0, 0, 1].isnan()
    assert float(agreement([constant, some], "top_overlap", k=99)[0, 0, 1]) == 1


def test_consensus_finds_the_one_that_stands_alone(rows):
    near = [rows + 0.1 * torch.randn_like(rows) for _ in range(4)]
    found = consensus([*near, torch.randn_like(rows)])
    assert (found.argmin(1) == 4).all()
    own, rest = ranks(near[0].flatten(1)), sum(ranks(x.flatten(1)) for x in near[1:])
    expected = [scipy.stats.spearmanr(a, b)[0] for a, b in zip(own.numpy(), rest.numpy(), strict=True)]
    assert consensus(near)[:, 0].tolist() == pytest.approx(expected)


def test_refusals(rows):
    for given, message in (([rows], "two methods or more"), (rows, "two methods or more"), ([rows, rows[:, :2]], "have the shapes")):
        with pytest.raises(InputError, match=message):
            agreement(given)
    with pytest.raises(OptionError, match="by is 'kendall'"):
        agreement([rows, rows], "kendall")
    with pytest.raises(OptionError, match="k is 0"):
        agreement([rows, rows], "top_overlap", k=0)
    with pytest.raises(InputError, match="no order"):
        agreement([rows, rows * math.inf])
