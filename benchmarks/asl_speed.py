"""Asymmetric loss, forward and backward, beside binary cross-entropy and the authors' own classes.

    python benchmarks/asl_speed.py --authors losses.py     src/loss_functions/losses.py of Alibaba-MIIL/ASL

Processor seconds of one thread at 256 x 5,000 with one positive in a hundred. Values and gradients are compared first.
"""

import argparse
import importlib.util
import time
from functools import partial
from pathlib import Path

import torch

from palimpsest.classify.asl import asymmetric_loss
from palimpsest.losses.multilabel import binary_cross_entropy


def milliseconds(step, logits, repeats=15):
    """The first quartile."""
    found = []
    for _ in range(repeats):
        logits.grad, start = None, time.process_time()
        step().backward()
        found.append(1e3 * (time.process_time() - start))
    return sorted(found)[repeats // 4]


def authors(path):
    spec = importlib.util.spec_from_file_location("authors", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--authors", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    logits, targets = torch.randn(256, 5000, requires_grad=True), (torch.rand(256, 5000) < 0.01).float()
    steps = {
        "binary cross-entropy": lambda: binary_cross_entropy(logits, targets),
        "asymmetric loss": lambda: asymmetric_loss(logits, targets, g_pos=1.0),
        "asymmetric loss, focus with gradient": lambda: asymmetric_loss(logits, targets, g_pos=1.0, detach_focus=False),
    }
    if arguments.authors:
        theirs = authors(arguments.authors)
        for name, kind in (("plain", theirs.AsymmetricLoss), ("optimized", theirs.AsymmetricLossOptimized)):
            for detach in (True, False):
                wide = logits.detach()[:32, :500].double().requires_grad_()
                y, loss = targets[:32, :500].double(), kind(disable_torch_grad_focal_loss=detach)
                ours = asymmetric_loss(wide, y, g_pos=1.0, detach_focus=detach, reduction="sum")
                pair = [torch.autograd.grad(value, wide)[0] for value in (loss(wide, y), ours)]
                torch.testing.assert_close(loss(wide, y), ours, rtol=1e-9, atol=1e-9)
                torch.testing.assert_close(*pair, rtol=0, atol=1e-9)
            steps[f"the authors', {name}"] = partial(kind(), logits, targets)
    found = {name: milliseconds(step, logits) for name, step in steps.items()}
    for name, value in found.items():
        print(f"{name:38} {value:7.1f} ms  {value / found['binary cross-entropy']:5.2f}x")


if __name__ == "__main__":
    main()
