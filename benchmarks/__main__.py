"""`python -m benchmarks [case ...]`: measure, print, and, if all cases ran, write `benchmarks/RESULTS.md`."""

from __future__ import annotations

import os

THREADS = int(os.environ.setdefault("OMP_NUM_THREADS", "1"))
os.environ.setdefault("TQDM_DISABLE", "1")

import platform  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import warnings  # noqa: E402
from pathlib import Path  # noqa: E402

import captum  # noqa: E402
import torch  # noqa: E402

from benchmarks.cases import CASES  # noqa: E402


def main() -> None:
    """Run the named cases, or all of them."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(THREADS)
    chosen = sys.argv[1:] or list(CASES)
    if unknown := [name for name in chosen if name not in CASES]:
        sys.exit(f"unknown case {', '.join(unknown)}; the cases are {', '.join(CASES)}")
    versions = f"torch {torch.__version__}, captum {captum.__version__}, Python {platform.python_version()}"
    lines = [f"`make bench`, {versions}, CPU, {THREADS} thread(s).", ""]
    lines += ["| what | measured | goal |", "|---|---|---|"]
    for name in chosen:
        lines.append(f"| **{CASES[name].__doc__}** | | |")
        print(f"\n{CASES[name].__doc__}", flush=True)
        for what, figure, goal in CASES[name]():
            print(f"  {what:52} {figure:36} {goal}", flush=True)
            lines.append(f"| {what} | {figure} | {goal} |")
    if chosen == list(CASES):
        for name in TABLES:
            lines += ["", f"`python -m benchmarks.{name}`", "", "```", *_printed(name), "```"]
        Path(__file__).with_name("RESULTS.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


# Scripts with tables of their own.
TABLES = ("occlusion", "shapley", "completeness", "influence", "language", "paddle_bridge", "scale")


def _printed(name: str) -> list[str]:
    """What a script prints in a process of its own, shown and kept: what others have loaded and started is not timed with it."""
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], stdout=subprocess.PIPE, text=True, check=True)
    print(f"\n{name}\n{done.stdout}", flush=True)
    return done.stdout.strip("\n").splitlines()


if __name__ == "__main__":
    main()
