"""`Summarizer`, `ClassSummarizer` and the statistics against the installed Captum and numpy."""

import inspect

import numpy as np
import pytest
import torch
from captum import attr as theirs
from captum.attr._utils import stat as their_stats

from pellucid.captum import attr as ours
from pellucid.captum.attr.stat import Stat
from pellucid.errors import InputError, OptionError

CLASSES = ["Count", "Mean", "MSE", "Var", "StdDev", "Min", "Max", "Sum", "Summarizer", "SummarizerSingleTensor", "ClassSummarizer"]


def all_of(place):
    plain = [getattr(place, name)() for name in ("Count", "Mean", "MSE", "Var", "StdDev", "Min", "Max", "Sum")]
    return [*plain, place.Var(order=1), place.StdDev(order=1), place.Var(order=2), place.StdDev("third", 2), place.Mean("other name")]


def same(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, list):
        for f, e in zip(found, expected, strict=True):
            same(f, e)
    elif isinstance(expected, dict):
        assert expected.keys() <= found.keys()
        for name in expected:
            same(found[name], expected[name])
    elif isinstance(expected, torch.Tensor):
        torch.testing.assert_close(found.to(expected.dtype), expected.detach(), rtol=1e-5, atol=1e-6)
    else:
        assert found == expected


def summaries(kind, updates, stats=all_of):
    found = []
    for place in (ours, theirs):
        summarizer = getattr(place, kind)(stats(place))
        for update in updates:
            summarizer.update(*update)
        found.append(summarizer)
    return found


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("method", ["__init__", "update", "get"])
def test_signatures(name, method):
    if not hasattr(getattr(theirs, name), method):
        assert not hasattr(getattr(ours, name), method)
        return
    found, expected = (inspect.signature(getattr(getattr(place, name), method)).parameters.values() for place in (ours, theirs))
    assert [(p.name, p.default, p.kind) for p in found] == [(p.name, p.default, p.kind) for p in expected]


def test_names_and_equality():
    for make in (
        lambda place: [
            place.Mean(),
            place.Var(),
            place.Var(order=1),
            place.Var(order=3),
            place.StdDev(),
            place.StdDev(order=1),
            place.MSE(),
        ],
        lambda place: [place.Min(), place.Max("most"), place.Sum(), place.Count("n"), place.Var("v", 1), place.StdDev(name="s")],
    ):
        assert [s.name for s in make(ours)] == [s.name for s in make(theirs)]
    assert Stat(a=1).name == their_stats.Stat(a=1).name
    assert ours.Mean() == ours.Mean("x")
    assert hash(ours.Var("q", 2)) == hash(ours.Var(order=2))
    assert ours.Var() != ours.Var(order=1)
    assert ours.Min() != ours.Min(min_fn=torch.fmin)
    assert ours.Mean() != "mean"
    assert [type(s).__name__ for s in ours.CommonStats()] == [type(s).__name__ for s in theirs.CommonStats()]
    assert [s.name for s in ours.CommonStats()] == [s.name for s in theirs.CommonStats()]


UPDATES = {
    "nothing": [],
    "once": [(torch.randn(3, 2),)],
    "tensors": [(torch.randn(3, 2),) for _ in range(6)],
    "doubles": [(torch.randn(4).double(),) for _ in range(5)],
    "integers": [(torch.randint(-9, 9, (5,)),) for _ in range(5)],
    "numbers": [(float(v),) for v in range(5)],
    "no dimension": [(torch.tensor(v),) for v in (1.0, 5.0)],
    "tuples": [((torch.randn(2), torch.randn(3, 1), 0.5 * i),) for i in range(4)],
    "tuple of one": [((torch.randn(2),),) for _ in range(3)],
}


@pytest.mark.parametrize("updates", UPDATES)
def test_summaries(updates):
    found, expected = summaries("Summarizer", UPDATES[updates])
    same(found.summary, expected.summary)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int32])
def test_dtypes(dtype):
    found, expected = summaries("Summarizer", [(torch.arange(3).to(dtype) + i,) for i in range(4)])
    for name, value in expected.summary.items():
        assert not isinstance(value, torch.Tensor) or found.summary[name].dtype == value.dtype, name


def test_numpy_and_large_offsets():
    values = np.random.default_rng(0).normal(1e4, 1e-1, (200, 5)).astype(np.float32)
    summarizer = ours.Summarizer(all_of(ours))
    for row in values:
        summarizer.update(torch.from_numpy(row))
    found, wide = summarizer.summary, values.astype(np.float64)
    expected = {
        "mean": wide.mean(0),
        "min": wide.min(0),
        "max": wide.max(0),
        "sum": wide.sum(0),
        "mse": ((wide - wide.mean(0)) ** 2).sum(0),
    }
    expected |= {"variance": wide.var(0), "sample_variance": wide.var(0, ddof=1), "std_dev": wide.std(0), "third": wide.std(0, ddof=2)}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name].numpy(), value, rtol=1e-5 if name in ("sum", "mse") else 1e-7, err_msg=name)
    assert found["count"] == 200


def test_a_summary_in_the_order_asked_for():
    summarizer = ours.Summarizer([ours.Max(), ours.StdDev("s"), ours.Mean("a"), ours.Mean(), ours.Count()])
    summarizer.update(torch.ones(2))
    assert list(summarizer.summary) == ["max", "s", "a", "mean", "count"]


def test_what_was_seen_stays():
    x = torch.ones(2, requires_grad=True)
    summarizer = ours.Summarizer(all_of(ours))
    summarizer.update(x)
    summarizer.update(2 * x)
    held = {name: value.clone() for name, value in summarizer.summary.items() if isinstance(value, torch.Tensor)}
    before = summarizer.summary
    with torch.no_grad():
        x.mul_(10)
    assert all(torch.equal(value, summarizer.summary[name]) and not value.requires_grad for name, value in held.items())
    summarizer.update(7 * x)
    assert all(torch.equal(value, before[name]) for name, value in held.items())


class Last(Stat):
    """A statistic of a user's own."""

    def __init__(self, name=None, scale=1):
        super().__init__(name, scale=scale)
        self.found, self.scale, self.mean = None, scale, None

    def init(self):
        self.mean = self._get_stat(ours.Mean())

    def update(self, x):
        self.found = self.scale * x - (self.mean.get() if self.mean else 0)

    def get(self):
        return self.found


def test_own_statistics():
    summarizer = ours.Summarizer([ours.Mean(), Last(), Last(scale=2), ours.Sum("largest", torch.maximum)])
    for x in ([1.0, 5.0], [3.0, 1.0]):
        summarizer.update(torch.tensor(x))
    found = {name: value.tolist() for name, value in summarizer.summary.items()}
    assert found == {"mean": [2, 3], "last({'scale': 1})": [1, -2], "last({'scale': 2})": [4, -1], "largest": [3, 5]}
    with pytest.raises(NotImplementedError, match="does not say"):
        ours.Summarizer([Stat()]).update(torch.ones(1))


def test_a_single_tensor():
    found, expected = (
        place.SummarizerSingleTensor([place.Count(), place.Mean(), place.Max()], [2, 1]) for place in (ours, theirs)
    )  # fmt: skip
    for summarizer in (found, expected):
        for _ in range(2):
            summarizer.update(torch.arange(3.0))
    same(found.summary, expected.summary)
    assert found.get(ours.Mean("any")) is found.get(ours.Mean())
    assert found.get(ours.Mean()).name == "mean"
    assert found.get(ours.Min()) is expected.get(theirs.Min()) is None
    lonely = ours.SummarizerSingleTensor([ours.StdDev()], [0])  # what it is made of comes by itself
    assert lonely.summary == {"std_dev": None}
    lonely.update(torch.ones(2))
    assert lonely.get(ours.Count()).get() == 1


X = torch.randn(4, 3)
LABELS = [
    None, [0, 1, 0, 1], ["a", "b", "b", "b"], 3, "dog", (1, 2), ["all"], [(0, 1), (0, 1), (1, 1), (0, 1)]
]  # fmt: skip


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("x", [X, (X,), (X, X[:, :1].double())])
def test_classes(x, labels):
    found, expected = summaries("ClassSummarizer", [(x, labels), (x, labels)])
    same(found.summary, expected.summary)
    same(found.class_summaries, expected.class_summaries)
    assert list(found.class_summaries) == list(expected.class_summaries)


@pytest.mark.parametrize("labels", [torch.tensor([2, 0, 2, 2]), np.array([2, 0, 2, 2]), [torch.tensor(v) for v in (2, 0, 2, 2)]])
def test_labels_in_tensors_are_numbers(labels):
    summarizer = ours.ClassSummarizer(all_of(ours))
    summarizer.update(X, labels)
    assert list(summarizer.class_summaries) == [2, 0]
    (second,), (whole,) = summarizer.class_summaries[2], summarizer.summary
    np.testing.assert_allclose(second["mean"], X[[0, 2, 3]].numpy().mean(0), rtol=1e-6)
    np.testing.assert_allclose(whole["variance"], X.double().numpy().var(0), rtol=1e-6)
    assert (second["count"], whole["count"]) == (3, 4)


def test_one_tensor_as_label():
    summarizer = ours.ClassSummarizer[int]([ours.Count()])
    summarizer.update(X, torch.tensor(7))
    assert summarizer.class_summaries == {7: [{"count": 4}]}


@pytest.mark.parametrize(
    ("updates", "words"),
    [
        ([([1.0],)], "the update has list"),
        ([((X, "a"),)], "the update has str"),
        ([(X,), ((X,),)], "those before had a tensor"),
        ([((X, X),), ((X,),)], "those before had a tuple of 2"),
        ([(X,), (X[:2],)], r"a tensor of shape \(2, 3\) after one of \(4, 3\)"),
        ([(X, [0, 1])], "2 labels for 4 examples"),
        ([(X, [])], "0 labels for 4 examples"),
        ([(X, torch.zeros(2, 2))], r"labels have shape \(2, 2\)"),
        ([((X, X[:2]), [0, 1, 0, 1])], "dimension 0 of each must be the same"),
        ([(torch.tensor(1.0), 0)], "dimension 0 of each must be the same"),
    ],
)
def test_updates_that_are_refused(updates, words):
    summarizer = ours.ClassSummarizer([ours.Mean()])
    for update in updates[:-1]:
        summarizer.update(*update)
    with pytest.raises(InputError, match=words):
        summarizer.update(*updates[-1])


def test_statistics_that_are_refused():
    with pytest.raises(OptionError, match="two different statistics are named 'a'"):
        ours.Summarizer([ours.Mean("a"), ours.Max("a")])
    with pytest.raises(OptionError, match="which is no statistic"):
        ours.Summarizer([ours.Mean])
    for stat in (ours.Mean(), ours.MSE()):
        with pytest.raises(OptionError, match="made of others"):
            stat.update(X)
    for stat in (ours.Var(), ours.StdDev()):
        with pytest.raises(OptionError, match="made of others"):
            stat.get()


def test_statistics_that_need_no_other():
    for name in ("Count", "Min", "Max", "Sum"):
        found, expected = (getattr(place, name)() for place in (ours, theirs))
        assert found.get() is expected.get() is None
        for stat in (found, expected):
            stat.update(X)
            stat.update(-2 * X)
        same(found.get(), expected.get())
