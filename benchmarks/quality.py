"""`python -m benchmarks.quality [model ...]`: all methods by all metrics on the zoo's models; writes `docs/quality/`.

For each model one table in Markdown, with 95 % intervals, next to random and constant maps, and two pictures.
"""

from __future__ import annotations

import io
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image

import pellucid
from pellucid import zoo
from pellucid.evaluation import METRICS
from pellucid.zoo import data

DOCS = Path(__file__).parents[1] / "docs"
EXAMPLES, SEED = {"digits": 24, "tiles": 8, "cancer": 48}, 0
LOCALISATION = tuple(name for name, metric in METRICS.items() if metric.family == "localisation")
# What costs an explanation for every point is asked at fewer of them.
FEWER = {name: {"samples": 4} for name, metric in METRICS.items() if metric.family == "robustness"}
SAMPLED: dict[str, Any] = {
    "shapley": {"evaluations": 200},
    "owen": {"evaluations": 200},
    "banzhaf": {"evaluations": 200},
    "lime": {"samples": 200},
    "rise": {"samples": 200},
}
BY_GROUPS = ("feature_ablation", "shapley", "owen", "banzhaf", "lime")
LAYERS = {"digits": "features", "tiles": "layer3"}
TITLES = {
    "digits": "Digits: a convolutional network on 8 x 8 pictures",
    "tiles": "Tiles: a residual network on 32 x 32 photographs, coalitions of blocks of 4 x 4 pixels",
    "cancer": "Tumours: a perceptron on 30 measurements",
}


def main(names: list[str] | None = None) -> None:
    """Evaluate, print, and write the page's tables and pictures."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    folder = DOCS / "quality"
    folder.mkdir(exist_ok=True)
    for name in names or list(TITLES):
        start, found = time.perf_counter(), evaluated(name)
        for (method, metric), why in found.failures.items():
            print(f"{name}: {method} by {metric}: {why}")
        (folder / f"{name}.md").write_text(page(name, found), encoding="utf-8")
        save(found.draw("ranks"), folder / f"{name}-ranks.png")
        print(f"{name}: {found}, {time.perf_counter() - start:.0f} s, {found.cost.forwards:,} forwards", flush=True)


def save(figure: Figure, path: Path) -> None:
    """A picture of few colours takes a quarter of the room."""
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=90)
        Image.open(file).convert("RGB").quantize(64).save(path, optimize=True)


def evaluated(name: str) -> pellucid.Evaluation:
    """All methods that fit the model, by all metrics."""
    model, held_out = getattr(zoo, name)().model, getattr(data, name)().held_out
    x, y = held_out.x[: EXAMPLES[name]], held_out.y[: EXAMPLES[name]]
    pictures = x.dim() == 4
    left_out = ("attn_lrp",) if pictures else ("attn_lrp", "occlusion")
    methods: dict[str, Any] = {method: SAMPLED.get(method, {}) for method in pellucid.METHODS if method not in left_out}
    if name == "tiles":  # of a thousand pixels one at a time would cost hours
        blocks = torch.arange(64).view(8, 8).repeat_interleave(4, 0).repeat_interleave(4, 1).view(1, 1, 32, 32)
        methods |= {method: {**methods[method], "feature_mask": blocks} for method in BY_GROUPS}
    if pictures:
        methods |= {method: {"layer": LAYERS[name]} for method in pellucid.MAPS}
    ink = name == "digits"  # where the object is known: the ink
    metrics = {m: FEWER.get(m, {}) for m in METRICS if (ink or m not in LOCALISATION) and (pictures or m != "road")}
    return pellucid.evaluate(model, x, y, methods, metrics, truth=x[:, 0] > 0.3 if ink else None, seed=SEED)


def page(name: str, found: pellucid.Evaluation) -> str:
    """A section of the page."""
    health = "; ".join(f"{m}: {', '.join(names)}" for m, names in found.health.items() if names) or "none"
    lost = {f"{m} by {metric or 'all'}": why.splitlines()[0] for (m, metric), why in found.failures.items()}
    lines = (
        f"## {TITLES[name]}",
        f"{len(found)} held-out examples, the true class, logits; removed places become 0; seed {SEED}. Methods that failed health",
        f"checks: {health}. What could not be had: {'; '.join(f'{what}: {why}' for what, why in lost.items()) or 'nothing'}.",
        "",
        f"```{{image}} quality/{name}-ranks.png\n:alt: means of all methods by all metrics, coloured by rank\n```",
        "",
        "The same with 95 % intervals:",
        "",
        transposed(found),
    )
    return "\n".join(lines) + "\n"


def transposed(found: pellucid.Evaluation) -> str:
    """Metrics down, so that the table is no wider than it must be: a block of columns at a time."""
    rows = [line.strip("| \n").split(" | ") for line in found.markdown().splitlines() if not line.startswith("|---")]
    blocks = []
    for start in range(1, len(rows), 6):
        chosen = [rows[0], *rows[start : start + 6]]
        lines = ["| " + " | ".join(row[i] for row in chosen) + " |" for i in range(len(rows[0]))]
        blocks.append("\n".join([lines[0], "|---" * len(chosen) + "|", *lines[1:]]))
    return "\n\n".join(blocks)


if __name__ == "__main__":
    main(sys.argv[1:])
