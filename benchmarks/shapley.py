"""`python -m benchmarks.shapley [game ...]`: how far estimates of Shapley values are from the exact ones, and what they take.

A game is a scikit-learn model on a bundled data set, a row to explain and the mean row as baseline. The error is squared and
in parts of the squared Shapley values, the median over rows and seeds. The reference is enumeration, an exact walk through
the trees, or very many antithetic orders. SHAP and shapiq take part where they are installed.
"""

from __future__ import annotations

import importlib.util
import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import captum.attr
import numpy as np
import torch
from sklearn import datasets, ensemble, neural_network
from torch import Tensor

from pellucid.perturb import shapley
from pellucid.perturb.estimators import constrained_least_squares, shapley_of_all, shapley_of_orders
from pellucid.perturb.odd_gp import odd_gp
from pellucid.perturb.sampling import every, pairs, permutations
from pellucid.view import at_input

BUDGETS, ROWS, SEEDS = (100, 300, 1000, 3000), 3, 2
ENUMERATED, ORDERS = 14, 20_000

Score = Callable[[Tensor], Tensor]
Tree = tuple[Any, float, int]  # an sklearn tree, the factor of its values, which of its values


class Game(NamedTuple):
    """A model of rows, the row to explain, the baseline, and the exact Shapley values."""

    model: Score
    row: Tensor
    baseline: Tensor
    exact: Tensor

    def play(self, kept: Tensor) -> Tensor:
        """The scores `(m,)` of coalitions `(m, n)`."""
        return self.model(torch.where(kept, self.row, self.baseline))


def network(data: Any, kind: Any, output: int, **options: Any) -> tuple[Score, None]:
    """A trained perceptron, run by torch: one of its outputs before the squashing."""
    net = kind(hidden_layer_sizes=(32, 32), max_iter=300, random_state=0, **options).fit(data.data, data.target)
    layers = [(torch.from_numpy(w), torch.from_numpy(b)) for w, b in zip(net.coefs_, net.intercepts_, strict=True)]
    squash = torch.tanh if options.get("activation") == "tanh" else torch.relu

    def score(rows: Tensor) -> Tensor:
        for index, (weight, bias) in enumerate(layers):
            rows = (squash(rows) if index else rows) @ weight + bias
        return rows[:, output]

    return score, None


def forest(data: Any, kind: Any, output: int) -> tuple[Score, list[Tree]]:
    """A random forest: the prediction, or the probability of a class."""
    trees = kind(50, random_state=0).fit(data.data, data.target)
    predict = trees.predict if kind is ensemble.RandomForestRegressor else lambda x: trees.predict_proba(x)[:, output]
    return lambda rows: torch.from_numpy(predict(rows.numpy())), [(tree.tree_, 1 / 50, output) for tree in trees.estimators_]


def boosting(data: Any, output: int, stages: int) -> tuple[Score, list[Tree]]:
    """Gradient boosting: the log-odds of a class."""
    boosted = ensemble.GradientBoostingClassifier(n_estimators=stages, random_state=0).fit(data.data, data.target)

    def score(rows: Tensor) -> Tensor:
        found = boosted.decision_function(rows.numpy())
        return torch.from_numpy(found if found.ndim == 1 else found[:, output])

    return score, [(tree.tree_, boosted.learning_rate, 0) for tree in boosted.estimators_[:, output]]


def scaled(name: str) -> Any:
    """A bundled data set, its columns of mean 0 and deviation 1."""
    data = getattr(datasets, f"load_{name}")()
    data.data = (data.data - data.data.mean(0)) / np.maximum(data.data.std(0), 1e-9)
    return data


NETWORK, FOREST = neural_network.MLPClassifier, ensemble.RandomForestClassifier
GAMES: dict[str, tuple[str, Callable[[Any], tuple[Score, list[Tree] | None]]]] = {
    "diabetes 10, perceptron": ("diabetes", lambda data: network(data, neural_network.MLPRegressor, 0, alpha=1.0)),
    "diabetes 10, forest": ("diabetes", lambda data: forest(data, ensemble.RandomForestRegressor, 0)),
    "wine 13, perceptron": ("wine", lambda data: network(data, NETWORK, 1, activation="tanh")),
    "cancer 30, perceptron": ("breast_cancer", lambda data: network(data, NETWORK, 0)),
    "cancer 30, boosting": ("breast_cancer", lambda data: boosting(data, 0, 100)),
    "digits 64, forest": ("digits", lambda data: forest(data, FOREST, 3)),
}


def games(name: str) -> Iterator[Game]:
    """The game of some rows of the data, evenly spread."""
    data_name, make = GAMES[name]
    data = scaled(data_name)
    model, trees = make(data)
    table = torch.from_numpy(data.data).float().double()  # trees compare float32
    for row in table[:: len(table) // ROWS][:ROWS]:
        game = Game(model, row, table.mean(0).float().double(), torch.zeros(0))
        yield game._replace(exact=reference(game, trees))


def reference(game: Game, trees: list[Tree] | None) -> Tensor:
    """The Shapley values `(n,)`."""
    count = len(game.row)
    if count <= ENUMERATED:
        kept = every(count)
        return shapley_of_all(kept, game.play(kept)[:, None])[:, 0]
    if trees is not None:
        return sum((of_tree(*tree, game.row, game.baseline) for tree in trees), torch.zeros(count, dtype=torch.float64))
    return of_orders(game, permutations(count, ORDERS, seed=0))


def of_tree(tree: Any, factor: float, output: int, row: Tensor, baseline: Tensor) -> Tensor:
    """Exact Shapley values of a tree: a leaf is a game that is won if all of some features are kept and none of others."""
    left, feature = tree.children_left, tree.feature
    goes_left = row.numpy()[feature] <= tree.threshold, baseline.numpy()[feature] <= tree.threshold
    values = tree.value[:, 0, output] * factor
    found = np.zeros(len(row))

    def leaf(value: float, needed: frozenset[int], barred: frozenset[int]) -> None:
        a, b = len(needed), len(barred)
        for group in needed:
            found[group] += value * math.factorial(a - 1) * math.factorial(b) / math.factorial(a + b)
        for group in barred:
            found[group] -= value * math.factorial(a) * math.factorial(b - 1) / math.factorial(a + b)

    def walk(node: int, needed: frozenset[int], barred: frozenset[int]) -> None:
        if left[node] < 0:
            leaf(values[node], needed, barred)
            return
        here, there = (int((tree.children_left if side[node] else tree.children_right)[node]) for side in goes_left)
        group = int(feature[node])
        if here == there or group in needed:
            walk(here, needed, barred)
        elif group in barred:
            walk(there, needed, barred)
        else:
            walk(here, needed | {group}, barred)
            walk(there, needed, barred | {group})

    walk(0, frozenset(), frozenset())
    return torch.from_numpy(found)


def of_orders(game: Game, orders: Tensor) -> Tensor:
    """Shapley values from orders."""
    places = orders.argsort(1)
    kept = places[:, None, :] < torch.arange(orders.shape[1] + 1)[None, :, None]
    scores = torch.cat([game.play(part.flatten(0, 1)) for part in kept.split(1000)])
    return shapley_of_orders(orders, scores.view(len(orders), -1, 1)).values[:, 0]


def played(game: Game, budget: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Pairs, their weights, and the scores of one half, the other half, and of all and none."""
    kept, weights = pairs(len(game.row), (budget - 2) // 2, seed)
    ends = torch.tensor([[True], [False]]).expand(2, len(game.row))
    scores = game.play(torch.cat([kept, ~kept, ends]))[:, None]
    return kept, weights, *scores.split([len(kept), len(kept), 2])


def least_squares(game: Game, budget: int, seed: int) -> Tensor:
    """Paired weighted least squares."""
    kept, weights, first, second, ends = played(game, budget, seed)
    both = torch.cat([kept, ~kept]), torch.cat([first, second]), torch.cat([weights, weights])
    return constrained_least_squares(*both, *ends)[:, 0]


def gaussian_process(game: Game, budget: int, seed: int) -> Tensor:
    """Odd-GP."""
    kept, _, first, second, ends = played(game, budget, seed)
    return odd_gp(kept, (first - second) / 2, ends[0] - ends[1], seed).values[:, 0]


def captum_kernel(game: Game, budget: int, seed: int) -> Tensor:
    """Captum's KernelShap."""
    torch.manual_seed(seed)
    method = captum.attr.KernelShap(game.model)
    return method.attribute(game.row[None], game.baseline[None], n_samples=budget, perturbations_per_eval=budget)[0]


def captum_sampling(game: Game, budget: int, seed: int) -> Tensor:
    """Captum's ShapleyValueSampling."""
    torch.manual_seed(seed)
    method, orders = captum.attr.ShapleyValueSampling(game.model), max(1, budget // len(game.row))
    return method.attribute(game.row[None], game.baseline[None], n_samples=orders, perturbations_per_eval=len(game.row))[0]


def shap_kernel(game: Game, budget: int, seed: int) -> Tensor:
    """SHAP's KernelExplainer."""
    import shap

    np.random.seed(seed)
    explainer = shap.KernelExplainer(lambda rows: game.model(torch.from_numpy(rows)).numpy(), game.baseline[None].numpy())
    return torch.from_numpy(explainer.shap_values(game.row[None].numpy(), nsamples=budget, l1_reg=0, silent=True)[0])


def of_shapiq(kind: str, **options: Any) -> Callable[[Game, int, int], Tensor]:
    """One of shapiq's approximators."""

    def estimate(game: Game, budget: int, seed: int) -> Tensor:
        import shapiq

        approximator = getattr(shapiq.approximator, kind)(n=len(game.row), random_state=seed, **options)
        found = approximator.approximate(budget, lambda kept: game.play(torch.from_numpy(np.atleast_2d(kept)).bool()).numpy())
        return torch.from_numpy(found.get_n_order_values(1))

    return estimate


PEERS: dict[str, tuple[str, Callable[[Game, int, int], Tensor]]] = {
    "shap KernelExplainer": ("shap", shap_kernel),
    "shapiq KernelSHAP, pairs": ("shapiq", of_shapiq("KernelSHAP", pairing_trick=True)),
    "shapiq KernelSHAP-IQ": ("shapiq", of_shapiq("InconsistentKernelSHAPIQ", index="SII", pairing_trick=True)),
    "shapiq permutations": ("shapiq", of_shapiq("PermutationSamplingSV")),
    "shapiq SVARM, pairs": ("shapiq", of_shapiq("SVARM", pairing_trick=True)),
    "shapiq ProxySPEX": ("lightgbm", of_shapiq("ProxySPEX", index="SV")),
}
ESTIMATORS: dict[str, Callable[[Game, int, int], Tensor]] = {
    "Captum KernelShap": captum_kernel,
    "Captum ShapleyValueSampling": captum_sampling,
    **{label: estimator for label, (package, estimator) in PEERS.items() if importlib.util.find_spec(package)},
    "paired least squares": least_squares,
    "Odd-GP": gaussian_process,
}


def main() -> None:
    """Print the table."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    chosen = sys.argv[1:] or list(GAMES)
    if unknown := [name for name in chosen if name not in GAMES]:
        sys.exit(f"unknown game {', '.join(unknown)}; the games are {'; '.join(GAMES)}")
    print("relative squared error (seconds), the median over rows and seeds, by the number of evaluations\n")
    for name in chosen:
        print(f"{name:30}" + "".join(f"{budget:>20}" for budget in BUDGETS), flush=True)
        played_games = list(games(name))
        for label, estimator in ESTIMATORS.items():
            print(f"  {label:28}" + "".join(f"{cell(estimator, played_games, budget):>20}" for budget in BUDGETS), flush=True)
    print("\n" + exact_of_sixteen(), flush=True)


def exact_of_sixteen() -> str:
    """Exact values of 16 columns of breast cancer, a perceptron of them: our time in parts of shap's, interleaved."""
    if not importlib.util.find_spec("shap"):
        return ""
    import shap

    data = scaled("breast_cancer")
    data.data = data.data[:, :16]
    score, _ = network(data, NETWORK, 0)
    table = torch.from_numpy(data.data)
    row, baseline = table[:1], table.mean(0, keepdim=True)
    explainer = shap.explainers.Exact(lambda rows: score(torch.from_numpy(rows)).numpy(), shap.maskers.Independent(baseline.numpy()))
    ours, theirs = [], []
    for _ in range(3):
        start = time.perf_counter()
        found = shapley(at_input(score, row), (baseline,), evaluations=2**16).values[0][0]
        middle = time.perf_counter()
        other = explainer(row.numpy(), silent=True).values
        ours.append(middle - start)
        theirs.append(time.perf_counter() - middle)
        assert torch.allclose(found, torch.from_numpy(other), atol=1e-9)
    mine, peer = statistics.median(ours), statistics.median(theirs)
    return f"exact values of 16 groups: {mine:.3f} s, shap {peer:.3f} s, {mine / peer:.2f} of its time (goal 0.5); the values are equal"


def cell(estimator: Callable[[Game, int, int], Tensor], played_games: list[Game], budget: int) -> str:
    """The median error and time."""
    errors, seconds = [], []
    for game in played_games:
        for seed in range(SEEDS):
            start = time.perf_counter()
            found = estimator(game, budget, seed)
            seconds.append(time.perf_counter() - start)
            errors.append(float((found - game.exact).square().sum() / game.exact.square().sum()))
    return f"{statistics.median(errors):.1e} ({statistics.median(seconds):.2f})"


if __name__ == "__main__":
    main()
