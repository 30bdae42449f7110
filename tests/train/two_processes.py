"""Run by test_fit_processes, alone or twice at once: trains a few small models and writes what came out.

Called as `two_processes.py OUT`, with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT for several.
"""

import gc
import json
import os
import sys
import weakref
from pathlib import Path

import torch
from torch import nn

from palimpsest.train import NonFiniteLoss, fit

RANK = int(os.environ.get("RANK", "0"))


class Model(nn.Module):
    """A trunk of which a part is frozen, two heads of which a step may use one, and an attribute of its own."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.frozen, self.trunk = nn.Linear(6, 8), nn.Linear(8, 8)
            self.head, self.other = nn.Linear(8, 3), nn.Linear(8, 3)
            self.norm = nn.BatchNorm1d(8)
        self.frozen.requires_grad_(False)
        self.config = {"classes": 3}

    def features(self, x):
        return torch.tanh(self.trunk(self.frozen(x)))

    def forward(self, x):
        return self.head(self.features(x))


class TwoForwards:
    """Forget and retain: two passes a loss, one of them not through `forward`; a head is touched on some steps only."""

    def init(self, model, data):
        return {"calls": 0}

    def loss(self, state, model, batch):
        state["calls"] += 1
        classes = model.config["classes"]
        head = model.other if state["calls"] % 2 else model.head
        forget = nn.functional.cross_entropy(model(batch["forget"]["x"]), batch["forget"]["y"])
        retain = nn.functional.cross_entropy(head(model.features(batch["retain"]["x"])), batch["retain"]["y"])
        return {"forget": -0.1 * forget.clamp(max=classes), "retain": retain}

    def gradients(self, state, model):
        for parameter in model.trunk.parameters():
            parameter.grad.mul_(0.5)


def batch(index):
    generator = torch.Generator().manual_seed(index)
    rows = {"forget": 8, "retain": 12}
    return {
        name: {
            "x": torch.randn(n, 6, generator=generator),
            "y": torch.randint(3, (n,), generator=generator),
            "weight": torch.tensor(1.0),
        }
        for name, n in rows.items()
    }


def plain(model, batch):
    return nn.functional.cross_entropy(model(batch["retain"]["x"]), batch["retain"]["y"])


def normalized(model, batch):
    features = model.norm(model.features(batch["retain"]["x"]))
    return nn.functional.cross_entropy(model.head(features), batch["retain"]["y"])


def bad(model, batch):
    return plain(model, batch) * (float("nan") if batch["retain"]["weight"].item() > 1 else 1.0)


def main(out: Path) -> None:
    results = {}

    def keep(name, model, history):
        results[name] = {
            "steps": history.steps,
            "evaluations": history.evaluations,
            "resumed_from": history.resumed_from,
            "weights": torch.cat([p.detach().flatten() for p in model.parameters()]).tolist(),
        }

    for name, options in {
        "two forwards": {"objective": TwoForwards(), "optimizer": "sgd", "lr": 0.1, "clip": 0.5},
        "accumulated": {"objective": TwoForwards(), "optimizer": "adamw", "lr": 0.01, "accumulate": 2},
        "bf16": {"objective": plain, "optimizer": "sgd", "lr": 0.1, "precision": "bf16"},
    }.items():
        model = Model()
        history = fit(
            model,
            batches=batch,
            steps=6,
            evaluate=lambda model, step: {"rank": RANK, "norm": model.head.weight.norm().item()},
            evaluate_every=2,
            log=out / f"{name}.jsonl",
            **options,
        )
        keep(name, model, history)
        assert all(p.grad is None for p in model.parameters())

    # A run that stops in the middle and goes on; the second call trains the same model that the first DDP wrapped.
    for part in ("first", "second"):
        options = {
            "checkpoint": out / "checkpoint",
            "checkpoint_every": 2,
            "steps": 6,
            "optimizer": "adamw",
            "lr": 0.01,
        }
        calls = []

        def objective(model, batch, part=part, calls=calls):
            calls.append(1)
            if part == "first" and len(calls) == 6:
                raise KeyboardInterrupt
            return plain(model, batch)

        model = model if part == "second" else Model()
        try:
            history = fit(model, objective, batch, **options)
        except KeyboardInterrupt:
            continue
        keep("resumed", model, history)
    model = Model()
    keep("unbroken", model, fit(model, objective, batch, steps=6, optimizer="adamw", lr=0.01))

    gc.disable()
    model = Model()
    fit(model, plain, batch, steps=1)
    kept = weakref.ref(model)
    del model
    replicas = [each for each in gc.get_objects() if isinstance(each, nn.parallel.DistributedDataParallel)]
    results["freed"] = kept() is None and not replicas
    gc.enable()

    model = Model()
    fit(model, normalized, batch, steps=2)
    results["running mean"] = model.norm.running_mean.tolist()

    for name, rows in (("NaN", None), ("odd", 7)):
        batches = {"retain": {"x": torch.randn(rows or 8, 6), "y": torch.zeros(rows or 8).long()}}
        batches["retain"]["weight"] = torch.tensor(2.0)
        try:
            fit(Model(), bad, [batches], steps=2)
        except (NonFiniteLoss, ValueError) as error:
            results[name] = str(error)

    (out / f"{RANK}.json").write_text(json.dumps(results))


main(Path(sys.argv[1]))
