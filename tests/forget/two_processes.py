"""Run by `test_every_method`, once a rank: two steps of every method, of whose joint batches each rank has its share.

Called as `python -m tests.forget.two_processes OUT`, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parents[2]


def launch(out, processes=2):
    """What every rank wrote: name of a method -> its `outcome`."""
    out.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1"}
    environment |= {"MASTER_PORT": str(port)}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.forget.two_processes", str(out)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    for process in running:
        try:
            _, errors = process.communicate(timeout=240)
        finally:
            process.kill()
        assert process.returncode == 0, errors
    return [dict(np.load(out / f"{rank}.npz")) for rank in range(processes)]


def outcome(name):
    """What becomes of a model in float64, where nothing but rounding may differ: the losses of the steps, the weights
    and what an intervention learned, in one vector."""
    from tests.forget.test_every_method import model, run

    base, applied = run(name, model().double())
    history, learned = (applied.history, applied.learned or {}) if applied else (None, {})
    losses = torch.tensor([step["loss"] for step in history.steps] if history else [], dtype=torch.float64)
    tensors = [losses, *base.parameters(), *(learned[key] for key in sorted(learned))]
    return torch.cat([tensor.detach().flatten().double() for tensor in tensors]).numpy()


if __name__ == "__main__":
    from tests.forget.test_every_method import METHOD

    found = {name: outcome(name) for name in METHOD}
    np.savez(Path(sys.argv[1]) / f"{os.environ['RANK']}.npz", **found)
