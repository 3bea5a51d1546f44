"""A program of the kind of Captum's distributed tutorial, as processes of its own: only the import differs.

The numbers of its first part are the ones that tutorial shows; its second part is compared with Captum run the same way.
"""

import ast
import os
import socket
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
import torch, torch.distributed as dist, torch.nn as nn
from torch.multiprocessing import Process
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler
from {library}.attr import IntegratedGradients


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.linear.weight = nn.Parameter(torch.ones(4, 3))
        self.linear.bias = nn.Parameter(torch.tensor([-10.0, 1.0, 1.0, 1.0]))
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.linear(x))


class Passengers(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(nn.Linear(12, 12), nn.Sigmoid(), nn.Linear(12, 8), nn.Sigmoid(), nn.Linear(8, 2), nn.Softmax(dim=1))

    def forward(self, x):
        return self.layers(x)


def of_a_batch(rank, size, chunk):
    ig = IntegratedGradients(DDP(Toy()))
    found = ig.attribute(chunk, target=0)
    if rank == 0:
        gathered = [torch.zeros_like(found) for _ in range(size)]
        dist.gather(found, gather_list=gathered)
        print(repr(torch.cat(gathered).tolist()), flush=True)
    else:
        dist.gather(found)


def of_a_data_set(rank, size, _):
    data = TensorDataset(torch.randn(90, 12, generator=torch.Generator().manual_seed(5)))
    loader = DataLoader(data, batch_size=20, sampler=DistributedSampler(data, num_replicas=size, rank=rank, shuffle=False))
    ig, total, examples = IntegratedGradients(DDP(Passengers())), torch.zeros(12), torch.tensor([0])
    for batch in loader:
        total += ig.attribute(batch[0], target=1).sum(0)
        examples += len(batch[0])
    dist.reduce(total, dst=0)
    dist.reduce(examples, dst=0)
    if rank == 0:
        print(repr((total / examples).tolist()), flush=True)


def started(rank, size, work, part):
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = "127.0.0.1", sys.argv[1]
    dist.init_process_group("gloo", rank=rank, world_size=size)
    work(rank, size, part)
    dist.destroy_process_group()


if __name__ == "__main__":
    batch = torch.arange(12.0).reshape(4, 3)
    for work in (of_a_batch, of_a_data_set):
        processes = [Process(target=started, args=(r, 2, work, part)) for r, part in enumerate(batch.chunk(2))]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0
    one = IntegratedGradients(nn.DataParallel(Toy()))
    print(repr(one.attribute(batch, target=0).tolist()))
"""
SHOWN = [[0, 0, 0], [0.4813, 0.6417, 0.8021], [3.1865, 3.7176, 4.2487], [5.8774, 6.5305, 7.1835]]


def printed(library, folder):
    script = folder / f"with_{library.replace('.', '_')}.py"
    script.write_text(PROGRAM.replace("{library}", library))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = os.pathsep.join(filter(None, [os.path.abspath("src"), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(port)],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [ast.literal_eval(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="its processes are forked")
def test_a_distributed_program_runs_with_the_import_changed(tmp_path):
    batch, data, parallel = printed("pellucid.captum", tmp_path)
    theirs = printed("captum", tmp_path)
    for found, other in zip((batch, parallel), (theirs[0], theirs[2]), strict=True):
        assert [pytest.approx(row, abs=1e-4) for row in SHOWN] == found
        assert [pytest.approx(row, abs=1e-5) for row in other] == found
    assert data == pytest.approx(theirs[1], abs=1e-6)
