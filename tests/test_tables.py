"""Explanations of models on tables, against slow loops and by hand; columns of any type; importance over a data set."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import pellucid
from pellucid import Display, Explanation, InputError, OptionError, OutputError, TargetError
from pellucid.methods import WITHOUT_GRADIENT
from pellucid.perturb import marginal
from pellucid.show.table import bars
from pellucid.tables import explain_table, importance

ROWS = [
    {"age": 41, "job": "clerk", "city": "A", "paid": True},
    {"age": 23, "job": "smith", "city": "B", "paid": False},
    {"age": 35, "job": "cook", "city": "A", "paid": False},
    {"age": 60, "job": "clerk", "city": "C", "paid": True},
]
USUAL = [{"age": 30, "job": "clerk", "city": "B", "paid": True}, {"age": 50, "job": "cook", "city": "A", "paid": False}]


def wage(rows):
    return [row["age"] * (2 if row["job"] == "smith" else 1) + 5 * (row["city"] == "A") * row["paid"] for row in rows]


def slowly(model, row, background):
    """Shapley values over all coalitions, one call each."""
    names = list(row)

    def value(kept):
        return np.mean([model([{n: (row if n in kept else other)[n] for n in names}])[0] for other in background])

    found = []
    for name in names:
        others = [n for n in names if n != name]
        total = 0.0
        for size in range(len(names)):
            for some in itertools.combinations(others, size):
                weight = math.factorial(size) * math.factorial(len(names) - size - 1) / math.factorial(len(names))
                total += weight * (value({*some, name}) - value(set(some)))
        found.append(total)
    return found


def frame():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(
        {
            "age": [41, 23, 35, 52, 28, 60] * 5,
            "job": pandas.Categorical(["clerk", "smith", "clerk", "cook", "smith", "cook"] * 5),
            "city": ["A", "B", None, "A", "B", "A"] * 5,
            "paid": [True, False] * 15,
            "height": [1.5, np.nan, 1.75, 1.8, 1.65, 1.9] * 5,
        }
    )
    return table, np.array(["no", "yes"])[np.array([0, 1, 0, 1, 1, 0] * 5)]


def pipeline():
    table, labels = frame()
    encoded = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["job", "city", "paid"]), ("passthrough", ["age"]))
    return make_pipeline(encoded, LogisticRegression(max_iter=5000)).fit(table, labels), table


def same(one, other):
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


# --- values


def test_values_are_those_of_a_slow_loop_over_all_coalitions():
    found = explain_table(wage, ROWS, background=USUAL)
    assert found.display.names == ("age", "job", "city", "paid")
    for row, values in zip(ROWS, found.attribution.tolist(), strict=True):
        assert values == pytest.approx(slowly(wage, row, USUAL))
    assert found.check("completeness").passed


def test_a_batch_is_a_loop():
    together = explain_table(wage, ROWS, background=USUAL)
    for i, row in enumerate(ROWS):
        alone = explain_table(wage, row, background=USUAL)
        same(together.attribution[i], alone.attribution[0])
        assert together.display.cells[i] == alone.display.cells[0]


def test_a_pipeline_on_mixed_columns():
    model, table = pipeline()
    found = explain_table(model, table[:6], "yes", background=table)
    same(found.scores, torch.from_numpy(model.predict_proba(table[:6])[:, 1]))
    same(found.attribution.sum(1), found.scores - found.baseline_scores)
    same(found.baseline_scores, torch.full((6,), float(model.predict_proba(table)[:, 1].mean()), dtype=torch.float64))
    assert found.attribution[:, 4].abs().max() < 1e-12  # the model never sees it
    assert found.display.classes == ("no", "yes")
    assert found.display.cells[1] == ("23", "smith", "B", "False", "missing")
    assert found.display.cells[2][2] == "missing"
    assert found.features[0][:, 1].tolist() == [0, 2, 0, 1, 2, 1]
    assert found.target == "output 1 (yes)"
    assert found.provenance.model == "Pipeline"
    assert {"sklearn", "pandas"} <= set(found.provenance.versions)
    assert model.predict(table[:6]).tolist() == [found.display.classes[int(i)] for i in found.predictions]


def test_the_model_gets_the_types_of_the_data():
    table, _ = frame()
    seen = []

    def model(rows):
        seen.append(rows.dtypes.astype(str).to_dict())
        assert rows["job"].cat.categories.tolist() == ["clerk", "cook", "smith"]
        return rows["age"].to_numpy(float)

    found = explain_table(model, table)
    assert all(types == table.dtypes.astype(str).to_dict() for types in seen)
    # The typical row: the rounded mean of whole numbers, the most frequent of everything else; what is missing does not count.
    assert found.baselines[0][0].tolist() == [40, 0, 0, 1, pytest.approx(1.72)]
    same(found.attribution[:, 0], torch.from_numpy(table["age"].to_numpy(float) - 40))


@pytest.mark.parametrize("kind", ["list", "array", "objects", "records", "tensor"])
def test_every_kind_of_table_is_given_as_it_came(kind):
    numbers = [[1.0, 2.0, 3.0], [4.0, 5.0, 7.0]]
    data = {
        "list": numbers,
        "array": np.array(numbers),
        "objects": np.array(numbers, dtype=object),
        "records": [dict(zip("abc", row, strict=True)) for row in numbers],
        "tensor": torch.tensor(numbers),
    }[kind]
    types = []

    def model(rows):
        types.append((type(rows), getattr(rows, "dtype", None)))
        found = [list(row.values()) if isinstance(row, dict) else list(row) for row in rows]
        return torch.tensor([[float(r[0] * r[1]), float(r[2])] for r in found])

    columns = None if kind == "records" else "abc"
    found = explain_table(model, data, 0, background=data[:1], columns=columns)
    assert set(types) == {(type(data), getattr(data, "dtype", None))}
    assert found.display.names == ("a", "b", "c")
    torch.testing.assert_close(found.attribution.double()[1], torch.tensor([10.5, 7.5, 0.0]).double())


@pytest.mark.parametrize("method", sorted(WITHOUT_GRADIENT))
def test_every_method_without_gradients(method):
    options = {"samples": 200} if method in ("lime", "rise") else {}
    found = explain_table(wage, ROWS, None, method, background=USUAL, seed=0, **options)
    assert found.attribution.shape == (4, 4)
    again = explain_table(wage, ROWS, None, method, background=USUAL, seed=0, **options)
    same(found.attribution, again.attribution)


def test_many_columns_are_sampled_until_they_are_good_enough():
    data = load_breast_cancer()
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(data.data, data.target_names[data.target])
    found = explain_table(model, data.data[:3], "malignant", background=data.data[::100], columns=data.feature_names, seed=1)
    same(found.attribution.sum(1), found.scores - found.baseline_scores)
    assert found.check("sampling").passed
    assert found.errors[0].shape == (3, 30)
    assert found.display.names[0] == "mean radius"
    assert found.cost.calls < 40


def test_exact_values_of_a_regression_and_of_a_forest():
    data = load_diabetes()
    model = RandomForestRegressor(8, max_depth=4, random_state=0).fit(data.data, data.target)
    found = explain_table(model, data.data[:2], background=data.data[:4])
    same(found.attribution.sum(1), found.scores - found.baseline_scores)
    assert found.predictions is None
    classes = RandomForestClassifier(5, max_depth=3, random_state=0).fit(data.data[:, :4], data.target > 140)
    forest = explain_table(classes, data.data[:2, :4], "True", background=data.data[:4, :4])
    same(forest.scores, torch.from_numpy(classes.predict_proba(data.data[:2, :4])[:, 1]))


def test_margins_are_those_of_the_second_class():
    data = load_breast_cancer()
    model = RidgeClassifier().fit(data.data[:, :4], data.target_names[data.target])
    rows = data.data[:2, :4]
    for name, sign in (("malignant", 1), ("benign", -1)):
        found = explain_table(model, rows, name, background=data.data[:1, :4])
        same(found.scores, torch.from_numpy(sign * model.decision_function(rows)))
    assert found.confidences is None  # a margin is no probability
    assert "predicted malignant" in str(found.draw().texts[0].get_text())


# --- categories


def one_hot():
    names = ["age", "job=clerk", "job=smith", "job=cook", "height"]
    grid = np.array([[41, 1, 0, 0, 1.5], [23, 0, 1, 0, 1.6], [35, 0, 0, 1, 1.7]])
    return names, grid, lambda x: x[:, 0] * x[:, 2] + 3 * x[:, 3] + x[:, 4]


@pytest.mark.parametrize("categories", ["=", {"job": ["job=clerk", "job=smith", "job=cook"]}])
def test_a_category_is_one_feature(categories):
    names, grid, model = one_hot()
    found = explain_table(model, grid, background=grid[:2], columns=names, categories=categories)
    mask = torch.tensor([[0, 1, 1, 1, 2]])
    by_hand = pellucid.explain(
        model, torch.from_numpy(grid), None, "shapley", baselines=marginal(torch.from_numpy(grid[:2])), feature_mask=mask
    ).attribution[:, [0, 1, 4]]
    same(found.attribution, by_hand)
    assert found.display.names == ("age", "job", "height")
    assert [cells[1] for cells in found.display.cells] == ["clerk", "smith", "cook"]
    assert found.features[0][:, 1].tolist() == [0, 1, 2]
    assert found.check("completeness").passed


def test_a_typical_row_has_one_category():
    names, grid, model = one_hot()
    many = np.concatenate([grid] * 7 + [grid[1:2]])
    found = explain_table(model, many, columns=names, categories="=")
    assert found.baselines[0][0, 1] == 1  # smith, who comes most often
    assert found.scores[0] - found.attribution[0].sum() == pytest.approx(float(found.baseline_scores[0]))


def test_categories_and_gradients():
    _, grid, _ = one_hot()
    net = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()
    plain = explain_table(net, grid, 1, "integrated_gradients", background=grid[:1])
    grouped = explain_table(
        net, grid, 1, "integrated_gradients", background=grid[:1], categories={"job": ["feature 1", "feature 2", "feature 3"]}
    )
    same(grouped.attribution[:, 1], plain.attribution[:, 1:4].sum(1))
    same(grouped.attribution[:, 2], plain.attribution[:, 4])


# --- torch


@pytest.mark.parametrize("method", ["integrated_gradients", "saliency", "deeplift", "gradient_shap", "deeplift_shap", "shapley", "lrp"])
def test_a_torch_module_is_explained_as_ever(method):
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    x, rows = torch.randn(3, 4), torch.randn(1 if method in ("integrated_gradients", "deeplift") else 5, 4)
    found = explain_table(net, x.numpy(), 2, method, background=rows.numpy(), seed=3)
    none = method in ("saliency", "lrp")
    given = {"baselines": marginal(rows) if method == "shapley" else None if none else rows}
    expected = pellucid.explain(net, x, 2, method, seed=3, **given)
    torch.testing.assert_close(found.attribution, expected.attribution)
    torch.testing.assert_close(found.features[0].float(), x)
    assert found.provenance.weights == expected.provenance.weights != ""
    assert [c.name for c in found.health if not c.passed] == [c.name for c in expected.health if not c.passed]


def test_a_frame_of_numbers_goes_to_a_module():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"a": [1, 2], "b": [True, False], "c": [0.5, 1.5]})
    net = torch.nn.Linear(3, 1)
    found = explain_table(net, table, 0, "input_x_gradient")
    torch.testing.assert_close(found.attribution, torch.tensor([[1, 1, 0.5], [2, 0, 1.5]]) * net.weight.detach())
    with pytest.raises(InputError, match="'c' holds 'x'"):
        explain_table(net, table.assign(c=["x", "y"]), 0, background=table)


# --- what is refused


def refusing(rows):
    if any(row["job"] == "smith" and row["paid"] for row in rows):
        raise RuntimeError("no smith is paid")
    return [float(row["age"]) for row in rows]


GRID = np.arange(12.0).reshape(3, 4)
REFUSED = {
    "no background": (lambda: explain_table(wage, ROWS), InputError, "no background.*4 rows of data are"),
    "no rows": (lambda: explain_table(wage, np.zeros((0, 3))), InputError, "data has 0 rows"),
    "nothing": (lambda: explain_table(wage, []), InputError, "0|no rows"),
    "shape": (lambda: explain_table(wage, np.zeros(3)), InputError, r"\(rows, columns\)"),
    "type": (lambda: explain_table(wage, 3), InputError, "data is int"),
    "unequal": (lambda: explain_table(wage, [[1, 2], [3]]), InputError, r"\[1, 2\] values"),
    "unequal records": (lambda: explain_table(wage, [{"a": 1}, {"b": 1}]), InputError, "row 1 of data has the columns 'b'"),
    "column": (lambda: explain_table(wage, ROWS, columns=["age", "wage"], background=USUAL), InputError, "'wage', which does not exist"),
    "names": (lambda: explain_table(wage, GRID, columns=["a"], background=GRID), InputError, "1 names for 4 columns"),
    "background": (lambda: explain_table(wage, ROWS, background={"age": 3, "wage": 2}), InputError, "lacks 'job'.*only it has 'wage'"),
    "width": (lambda: explain_table(wage, GRID, background=GRID[:, :2]), InputError, "2 columns and data 4"),
    "separator": (lambda: explain_table(wage, ROWS, background=USUAL, categories="="), InputError, "'=' is in no column"),
    "category": (
        lambda: explain_table(wage, ROWS, background=USUAL, categories={"x": ["age", "pay"]}), InputError, "'x' names the column 'pay'"),
    "empty category": (lambda: explain_table(wage, ROWS, background=USUAL, categories={"x": []}), InputError, "'x' has no columns"),
    "two categories": (
        lambda: explain_table(wage, ROWS, background=USUAL, categories={"x": ["age"], "y": ["age"]}), InputError, "more than one category"),
    "gradient": (lambda: explain_table(wage, ROWS, None, "saliency"), OptionError, "saliency needs gradients.*shapley"),
    "rows": (
        lambda: explain_table(torch.nn.Linear(4, 1), GRID, 0, "integrated_gradients", background=GRID), OptionError, "one row.*has 3"),
    "baselines": (lambda: explain_table(wage, ROWS, baselines=0), OptionError, "use background"),
    "model": (lambda: explain_table(3, ROWS, background=USUAL), OptionError, "model is int"),
    "words": (lambda: explain_table(lambda rows: ["a"] * len(rows), ROWS, background=USUAL), OutputError, "returned <U1"),
    "method": (lambda: explain_table(wage, ROWS, None, "magic", background=USUAL), OptionError, "unknown method"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_explained_says_why(case):
    call, error, words = REFUSED[case]
    with pytest.raises(error, match=words):
        call()


def test_columns_of_one_name_are_refused():
    pandas = pytest.importorskip("pandas")
    with pytest.raises(InputError, match="more than one column of the name 'a'"):
        explain_table(wage, pandas.DataFrame([[1, 2]], columns=["a", "a"]))


def test_an_unknown_class_is_refused():
    model, table = pipeline()
    with pytest.raises(TargetError, match=r"'maybe' is not a class.*'no', 'yes'"):
        explain_table(model, table, "maybe")


def test_a_row_that_the_model_refuses_is_named():
    rows = [{"age": 23, "job": "smith", "paid": False}]
    with pytest.raises(RuntimeError, match="no smith is paid") as caught:
        explain_table(refusing, rows, background={"age": 30, "job": "clerk", "paid": True})
    assert any("job = smith, paid = True" in note for note in caught.value.__notes__)


def test_columns_choose_and_order():
    model, table = pipeline()
    found = explain_table(model, table.assign(label=1), "yes", background=table.assign(label=1), columns=list(table.columns))
    assert found.display.names == tuple(table.columns)
    shuffled = explain_table(model, table, "yes", background=table[table.columns[::-1]])
    same(found.attribution, shuffled.attribution)


def test_an_estimator_fitted_on_a_frame_gets_one_from_records():
    model, table = pipeline()
    records = table.astype(object).where(table.notna(), None).to_dict("records")
    found = explain_table(model, records[:3], "yes", background=records)
    expected = explain_table(model, table[:3], "yes", background=table)
    same(found.attribution, expected.attribution)


def test_new_categories_of_the_background_are_kept():
    pandas = pytest.importorskip("pandas")
    data = pandas.DataFrame({"job": pandas.Categorical(["a", "b"])})
    seen = set()
    explain_table(lambda rows: seen.update(rows["job"]) or np.zeros(len(rows)), data, background=pandas.DataFrame({"job": ["c"]}))
    assert seen == {"a", "b", "c"}


# --- what comes back


def test_saving_and_drawing(tmp_path):
    model, table = pipeline()
    found = explain_table(model, table[:2], "yes", background=table)
    again = Explanation.load(found.save(tmp_path / "table"))
    assert again.display.cells == found.display.cells
    assert "job\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}clerk" in [bar.name for bar in bars(again)]
    figure = again.draw(1)
    figure.canvas.draw()
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert "height\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}missing" in shown
    assert "missing" in again._repr_html_() or "clerk" in again._repr_html_()


def test_explanations_saved_before_there_were_cells_still_load():
    told = Display._from({"kind": "table", "names": ["a"], "classes": [], "pooling": "sum"}, {})
    assert told.cells == ()
    assert told.gallery is None
    assert told.names == ("a",)


# --- importance


def explained(values, names=("a", "b", "c"), **display):
    values = torch.as_tensor(values, dtype=torch.float64)
    return Explanation((values,), (values,), values.sum(1), "shapley", "output", display=Display("table", names, **display))


@pytest.mark.parametrize("kind", ["mean_abs", "normlime"])
def test_importance_is_what_a_slow_loop_gives(kind):
    rows = torch.randn(7, 3, dtype=torch.float64)
    found = importance(explained(rows), kind)
    for name, value, error in zip(found.names, found.values.tolist(), found.errors.tolist(), strict=True):
        j = "abc".index(name)
        each = [abs(float(row[j])) if kind == "mean_abs" else float(row[j] ** 2 / row.abs().sum()) for row in rows]
        assert value == pytest.approx(np.mean(each))
        assert error == pytest.approx(np.std(each, ddof=1) / np.sqrt(7))
    assert found.values.tolist() == sorted(found.values.tolist(), reverse=True)
    loop = importance([explained(row[None]) for row in rows], kind)
    assert loop.names == found.names
    same(loop.values, found.values)
    same(loop.errors, found.errors)


def test_importance_of_nothing_is_nothing():
    found = importance(explained(torch.zeros(2, 3)), "normlime")
    assert found.values.tolist() == [0, 0, 0]
    assert importance(explained(torch.ones(1, 3))).errors.isnan().all()


def test_importance_of_tokens():
    ids = torch.tensor([[5, 7, 5], [7, 9, 9]])
    values = torch.tensor([[1.0, -2.0, 3.0], [4.0, 0.0, 1.0]])
    one = Explanation((values,), (ids,), values.sum(1), "shapley", "output", display=Display("text"))
    found = importance(one, words={5: "good", 7: "bad", 9: "plot"}.__getitem__)
    assert found.names == ("bad", "good", "plot")
    assert found.values.tolist() == [3.0, 2.0, 0.5]
    assert found.counts.tolist() == [2, 2, 2]
    assert importance(one).names[0] == "token 7"
    embedded = Explanation(
        (values[..., None].expand(2, 3, 4) / 4,), (torch.zeros(2, 3, 4),), one.scores, "ig", "o", display=Display("text")
    )
    same(importance(embedded, ids=ids).values.double(), found.values.double())
    with pytest.raises(InputError, match="needs token ids"):
        importance(embedded)


def test_importance_draws_itself():
    found = importance(explained(torch.randn(5, 3)))
    figure = found.draw(top=2)
    figure.canvas.draw()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(found.names[:2])
    assert "1 less important one not shown" in "".join(text.get_text() for text in figure.texts)
    assert "importance over 5 examples" in str(found.__rich__())
    with pytest.raises(OptionError, match="top=0"):
        found.draw(top=0)
    with pytest.raises(OptionError, match="mean_abs"):
        importance(explained(torch.ones(2, 3)), "max")
    with pytest.raises(InputError, match="different columns"):
        importance([explained(torch.ones(2, 3)), explained(torch.ones(2, 3), ("x", "y", "z"))])
    with pytest.raises(InputError, match="no explanation"):
        importance([])


def test_types_stay_whatever_the_background_is():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(
        {
            0: pandas.array([1, None, 3] * 8, dtype="Int64"),
            "truth": pandas.array([True, None, False] * 8, dtype="boolean"),
            "day": pandas.to_datetime(["2020-01-01", "2021-01-01", None] * 8),
            "mixed": pandas.Series([1, "a", None] * 8, dtype=object),
            "small": np.arange(24, dtype="uint8"),
            "word": pandas.array(["x", "y", None] * 8, dtype="string"),
            "float": np.arange(24, dtype="float32"),
        }
    )
    seen = []

    def model(rows):
        seen.append(rows.dtypes.tolist())
        assert rows.columns.tolist() == table.columns.tolist()
        return rows["small"].to_numpy(float) + 2 * rows["mixed"].isna() + rows["day"].dt.year.fillna(0).to_numpy()

    for background in (None, table[:3], table.iloc[0], table.iloc[0].to_dict()):
        found = explain_table(model, table, background=background)
        assert all(types == table.dtypes.tolist() for types in seen)
        same(found.attribution.sum(1), found.scores - found.baseline_scores)
        assert found.display.names[0] == "0"
    wider = explain_table(lambda rows: rows[:, 0], np.array([[1], [2]]), background=np.array([[0.5]]))
    assert wider.attribution.flatten().tolist() == [0.5, 1.5]
    longer = explain_table(lambda rows: [len(row[0]) for row in rows], np.array([["a"], ["b"]]), background=np.array([["long"]]))
    assert longer.attribution.flatten().tolist() == [-3.0, -3.0]
    words = explain_table(lambda rows: [row[0] == 1 for row in rows], np.array([[1], [2]]), background=[["none"]])
    assert words.attribution.flatten().tolist() == [1.0, 0.0]
