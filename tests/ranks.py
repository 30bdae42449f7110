"""Runs a module of the tests as the ranks of one gloo group on this machine."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def launch(module, out, processes):
    """`python -m module out` as every rank, until all have ended well; each writes what it found into the new folder
    `out`."""
    out.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1"}
    environment |= {"MASTER_PORT": str(port)}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", module, str(out)],
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
