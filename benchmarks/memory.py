"""The most memory that forgetting takes on a real chat model, by the type of its weights and of its arithmetic.

    python benchmarks/memory.py [--steps 3] [--batch-size 4]

SmolLM2-135M-Instruct (`palimpsest pretrained smollm2`) forgets rows of examples/smollm2 by NPO, in a process of its own
for each line of the table, which does what `palimpsest forget` does with these flags from loading to the last step.
Peak is the largest resident memory of that process, as the system counts it, Python and PyTorch included (some 500
MiB); the time is the processor's, of the steps alone, one thread.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from palimpsest.forget.compare import pairs
from palimpsest.forget.npo import NPO
from palimpsest.forget.procedure import prepare, unlearn
from palimpsest.models.files import add_lora, load
from palimpsest.models.packaged import pretrained_folder
from palimpsest.tasks.rows import read_rows

ROWS = Path(__file__).parents[1] / "examples" / "smollm2"
WAYS = {  # flags -> type of the weights, precision of the steps, rank of adapters
    "float32": ("float32", "no", None),
    "--precision bf16": ("float32", "bf16", None),
    "--dtype bfloat16": ("bfloat16", "no", None),
    "--precision bf16 --dtype bfloat16": ("bfloat16", "bf16", None),
    "--precision bf16 --lora 16": ("float32", "bf16", 16),
}


def one(way: str, steps: int, batch_size: int) -> str:
    """Takes the steps in this process; a line of the table."""
    dtype, precision, rank = WAYS[way]
    torch.set_num_threads(1)
    folder = pretrained_folder("smollm2")
    model, tokenizer = load(folder, dtype=dtype)
    if rank is not None:
        model = add_lora(model, rank, folder, 0)
    rows = [pairs(tokenizer, read_rows(ROWS / f"{name}.jsonl")[:batch_size]) for name in ("forget", "keep")]
    data = prepare(tokenizer, *rows)
    started = time.process_time()
    unlearn(model, NPO(), data, steps=steps, lr=1e-5, batch_size=batch_size, precision=precision, progress=False)
    seconds = time.process_time() - started
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB on Linux
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return f"{way:<36}{peak:>10,.0f}{seconds / steps:>26.1f}"


def main(steps: int, batch_size: int, way: str | None) -> None:
    if min(steps, batch_size) < 1:
        raise SystemExit(f"--steps and --batch-size must be at least 1, got {steps} and {batch_size}")
    if way is not None:
        print(one(way, steps, batch_size))
        return
    print(f"{'flags':<36}{'peak, MiB':>10}{'processor seconds a step':>26}", flush=True)
    for name in WAYS:
        size = ["--steps", str(steps), "--batch-size", str(batch_size)]
        subprocess.run([sys.executable, __file__, "--way", name, *size], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--way", choices=WAYS, help="this one alone, in this process")
    main(**vars(parser.parse_args()))
