"""Run by `test_every_method`, once a rank: two steps of every method, of whose joint batches each rank has its share.

Called as `python -m tests.forget.two_processes OUT`, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch
from tests import ranks


def launch(out, processes=2):
    """What every rank wrote: name of a method -> its `outcome`."""
    ranks.launch("tests.forget.two_processes", out, processes)
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
