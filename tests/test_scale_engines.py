"""Runs on torchrun and Ray: the numbers of the local engine, and workers that are killed lose nothing and repeat nothing."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

import pellucid
from pellucid import scale
from pellucid.errors import OptionError
from pellucid.scale import Explainer, run

from .test_scale import attributions, blocks_in, no_block_twice, pids, wait_for, wanted_of_script

pytest.importorskip("pyarrow")

BODY = """
import os, sys, time, torch
from torch import nn
from torch.utils.data import Dataset
from pellucid.scale import Explainer, run
log, pause = sys.argv[2], float(sys.argv[3])

class Slow(Dataset):
    def __len__(self): return 40
    def __getitem__(self, i):
        with open(log, "a") as file: file.write(f"{os.getpid()} {i}\\n")
        time.sleep(pause)
        return torch.linspace(-1, 1, 6, dtype=torch.float64) * (i + 1)

torch.manual_seed(1)
net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
"""
TORCHRUN = BODY + 'run(Explainer(net, steps=8), Slow(), sys.argv[1], block=2, progress=False, engine="torchrun")\n'
RAY = BODY + 'run(Explainer(net, steps=8), Slow(), sys.argv[1], block=2, progress=False, engine="ray", workers=2)\n'


def start(script, tmp_path, *launcher, pause=0.05):
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    paths = os.pathsep.join(filter(None, [os.path.abspath("src"), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, *launcher, "script.py", str(tmp_path / "out"), str(tmp_path / "log"), str(pause)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": paths, "RAY_USAGE_STATS_ENABLED": "0"},
    )


def launcher(restarts=0):
    return ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", str(restarts))


def kill_three_workers(process, tmp_path):
    """One that has just read something, each time a few more blocks are stored."""
    out, killed = tmp_path / "out", [process.pid]
    for more in (2, 4, 4):
        goal = blocks_in(out) + more

        def ready(goal=goal, killed=tuple(killed)):
            fresh = [pid for pid in pids(tmp_path)[-6:] if pid not in killed and os.path.exists(f"/proc/{pid}")]
            return process.poll() is not None or (blocks_in(out) >= goal and fresh)

        wait_for(ready, 240)
        assert process.poll() is None, "it ended before it was killed"
        victim = next(pid for pid in reversed(pids(tmp_path)) if pid not in killed and os.path.exists(f"/proc/{pid}"))
        os.kill(victim, signal.SIGKILL)
        killed += sorted(set(pids(tmp_path)))
    return killed


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torchrun", "ray"])
def test_three_workers_are_killed_and_nothing_is_lost_or_repeated(engine, tmp_path):
    if engine == "ray":
        pytest.importorskip("ray")
    script, command = (TORCHRUN, launcher(3)) if engine == "torchrun" else (RAY, ())
    process = start(script, tmp_path, *command, pause=0.15)
    try:
        kill_three_workers(process, tmp_path)
        assert process.wait(300) == 0
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(60)
    assert sorted(no_block_twice(tmp_path / "out")) == list(range(20))
    assert torch.equal(attributions(scale.open(tmp_path / "out")), wanted_of_script())


SPREAD = """
import sys, torch, torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
import pellucid
from pellucid.captum.attr import IntegratedGradients
from pellucid.scale import Explainer, run

dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()
torch.manual_seed(1)
net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).double().eval()
spread = DistributedDataParallel(net)
x = torch.randn(12, 6, dtype=torch.float64)
mine = x[rank::size]
own = pellucid.explain(net, mine, 1, steps=8).attribution
for method in ("integrated_gradients", "deeplift", "occlusion"):
    options = {"steps": 8} if method == "integrated_gradients" else {}
    one = pellucid.explain(net, mine, 1, method, **options).attribution
    assert torch.allclose(pellucid.explain(spread, mine, 1, method, **options).attribution, one), method
captum = IntegratedGradients(spread).attribute(mine, target=1, n_steps=8, method="riemann_middle")
assert torch.allclose(captum, IntegratedGradients(net).attribute(mine, target=1, n_steps=8, method="riemann_middle"))
gathered = [torch.empty_like(own) for _ in range(size)]
dist.all_gather(gathered, own)
results = run(Explainer(spread, target=1, steps=8), x, sys.argv[1], block=5, engine="torchrun", progress=False)
assert results.complete
whole = torch.empty_like(x)
for r in range(size):
    whole[r::size] = gathered[r]
assert torch.allclose(results[0:12].attribution, whole)
print("rank", rank, "is right", flush=True)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_a_model_in_distributed_data_parallel(tmp_path):
    (tmp_path / "script.py").write_text(SPREAD)
    paths = os.pathsep.join(filter(None, [os.path.abspath("src"), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, *launcher(), "script.py", str(tmp_path / "out")],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("is right") == 2


@pytest.mark.slow
def test_torchrun_gives_the_numbers_of_one_process_and_errors_end_all(tmp_path):
    assert start(TORCHRUN, tmp_path, *launcher(), pause=0).wait(200) == 0
    assert torch.equal(attributions(scale.open(tmp_path / "out")), wanted_of_script())
    assert len(set(pids(tmp_path))) == 2
    other = start(TORCHRUN.replace("steps=8", "steps=9"), tmp_path, *launcher(), pause=0)
    assert other.wait(200) != 0
    assert scale.open(tmp_path / "out").complete


def test_torchrun_did_not_start_this(tmp_path):
    with pytest.raises(OptionError, match="is for a program that torchrun started"):
        run(Explainer(nn.Linear(2, 2)), torch.ones(3, 2), tmp_path / "out", engine="torchrun")


def test_models_in_data_parallel(tmp_path):
    torch.manual_seed(1)
    net, x = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)), torch.randn(5, 6)
    spread = nn.DataParallel(net)
    for method in ("integrated_gradients", "occlusion", "deeplift"):
        one = pellucid.explain(net, x, 1, method).attribution
        assert torch.allclose(pellucid.explain(spread, x, 1, method).attribution, one)
    run(Explainer(spread, target=1), x, tmp_path / "out")
    assert run(Explainer(net, target=1), x, tmp_path / "out").complete  # the same run


@pytest.mark.slow
def test_ray_gives_the_numbers_of_one_process(tmp_path):
    pytest.importorskip("ray")
    assert start(RAY, tmp_path, pause=0).wait(300) == 0
    assert torch.equal(attributions(scale.open(tmp_path / "out")), wanted_of_script())
