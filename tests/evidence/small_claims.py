"""Claims that cost nothing, for the runner's tests. Every execution is noted in the file $EXECUTIONS."""

import os
import signal
import time

import numpy as np

from palimpsest.evidence import Claim, expect


def note(arm, seed):
    if path := os.environ.get("EXECUTIONS"):
        # One short O_APPEND write is whole, also when several processes write.
        with open(path, "a") as file:
            file.write(f"{arm} {seed}\n")


def executions(path):
    with open(path) as file:
        return [(arm, int(seed)) for arm, seed in (line.rsplit(" ", 1) for line in file)]


def measure(arm, seed, level):
    import torch

    note(arm, seed)
    # A sum whose last bits depend on how many threads share it.
    generator = torch.Generator().manual_seed(seed)
    noise = (torch.randn(300, 300, generator=generator) @ torch.randn(300, 300, generator=generator)).sum()
    return {
        "utility": level + 1e-6 * float(noise),
        "threads": float(torch.get_num_threads()),
        "path": [(step, level * step) for step in range(3)],
    }


def low(seed, budget):
    return measure("low", seed, 0.2)


def high(seed, budget):
    return measure("high", seed, 0.6)


def slow(seed, budget):
    time.sleep(0.4)
    return measure("slow", seed, 0.4)


def failing(seed, budget):
    if seed == 102:
        raise RuntimeError("seed 102 went wrong")
    return measure("failing", seed, 0.5)


def dying(seed, budget):
    if seed == 101:
        os.kill(os.getpid(), signal.SIGKILL)
    return measure("dying", seed, 0.5)


def leaving(seed, budget):
    raise SystemExit(3)


ARMS = {"low": low, "high": high, "slow": slow, "failing": failing, "dying": dying, "leaving": leaving}


def claim(*arms, paper="small", **fields):
    settings = {
        "question": "Is high above low?",
        "expects": [expect(arms[1]).above(arms[0], on="utility", by=0.1)],
        **fields,
    }
    return Claim(paper=paper, arms={arm: ARMS[arm] for arm in arms}, **settings, module=__name__)


def uniform(seed, budget):
    return {"utility": float(np.random.default_rng(seed).uniform())}
