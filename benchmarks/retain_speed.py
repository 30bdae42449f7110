"""What one update of each continual method costs, against one of plain fine-tuning; and against Mammoth's.

    python benchmarks/retain_speed.py [--mammoth FOLDER]

A network 784-100-100-10 in the second of five tasks of MNIST's shape, batches of 32, buffers of 200 rows, SGD, one
thread. An update is all that happens for a batch: rows are drawn, the loss, its gradients, the optimizer's step.
Time is the median over interleaved updates; memory is the peak of what an update allocates, plus what the method's
state holds. Methods whose weights no update changes are named at the end.

`--mammoth` is a checkout of aimagelab/mammoth (e75a491). Its methods' own files run on the same layers, with stubs
for what they import of torchvision and kornia; GEM needs quadprog. Before anything is timed, an update of both from
the same weights on the same rows has to leave the same weights. Mammoth fills its buffers in every update and ours
fill when a task ends, so its time is also given without that.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import statistics
import sys
import time
import types
from argparse import Namespace
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from palimpsest.metrics.memory import peak_memory
from palimpsest.models.vision import mlp
from palimpsest.retain.gem import GEM
from palimpsest.retain.methods import METHODS
from palimpsest.retain.penalties import OnlineEWC
from palimpsest.retain.replay import ER, DERpp
from palimpsest.retain.sequence import _batches, _present, nbytes
from palimpsest.tasks.splits import Split
from palimpsest.tasks.streams import Stream, Task
from palimpsest.train.gradients import set_gradient

ROWS, BATCH, BUFFER, LR, REPEATS = 640, 32, 200, 0.03, 41
SETTINGS = {"seed": 0, "lr": LR, "batch_size": BATCH, "steps": 1, "optimizer": "sgd"}
Step = Callable[[], Any]


def stream() -> Stream:
    """Five tasks of two digits each, of noise around a mean for each digit."""
    means = torch.randn(10, 1, 28, 28)

    def rows(classes: tuple[int, ...], n: int) -> Split:
        y = torch.tensor(classes)[torch.arange(n) % 2]
        return Split(means[y] + torch.randn(n, 1, 28, 28), y, torch.arange(n))

    groups = [(2 * k, 2 * k + 1) for k in range(5)]
    return Stream(tuple(Task(f"digits {a} {b}", rows((a, b), ROWS), rows((a, b), 20), (a, b)) for a, b in groups))


def network() -> nn.Module:
    return mlp(784, 10, hidden=(100, 100), seed=0)


def update_of(method: Any) -> tuple[Step, nn.Module, Any, Any]:
    """An update of one of our methods in the second task, its model, its state and its first batch."""
    data, model = stream(), network()
    first = _present(data, 0, SETTINGS)
    state = method.before_task(method.init(model, first), model, first)
    state = method.after_task(state, model, first)
    second = _present(data, 1, SETTINGS)
    state = method.before_task(state, model, second)
    if not method.steps(state, second, 1):
        raise ValueError("no update changes the model")
    batches, number = _batches(method, state, second, BATCH), iter(range(10**9))
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)

    def step() -> None:
        batch = batches(next(number))
        optimizer.zero_grad()
        sum(method.loss(state, model, batch).values()).backward()
        if hasattr(method, "gradients"):
            method.gradients(state, model)
        optimizer.step()
        if hasattr(method, "after_step"):
            method.after_step(state, model)

    return step, model.train(), state, batches(0)


def medians(steps: dict[str, Step]) -> dict[str, float]:
    """Seconds of one step of each, taken in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(REPEATS):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in seconds.items()}


def ours() -> None:
    """The table of all methods."""
    steps, memory, left_out = {}, {}, {}
    for name, method in METHODS.items():
        sized = {each.name for each in fields(method)} & {"size"}
        torch.manual_seed(0)
        try:
            step, _, state, _ = update_of(replace(method, **dict.fromkeys(sized, BUFFER)))
        except ValueError as error:
            left_out[name] = str(error)
            continue
        step()
        steps[name], memory[name] = step, peak_memory(step) + nbytes(state)
    seconds = medians(steps)
    base = "fine_tune"
    print("| method | time | memory |\n|---|---|---|")
    for name in sorted(steps, key=seconds.get):
        print(f"| {name} | {seconds[name] / seconds[base]:.2f} | {memory[name] / memory[base]:.2f} |")
    print(f"\n1 is {seconds[base] * 1e3:.2f} ms and {memory[base] / 2**20:.2f} MiB")
    for name, why in left_out.items():
        print(f"no update: {name} ({why})")


def mammoth(folder: Path) -> None:
    """The table of ours against Mammoth's."""
    stand_in(folder)
    columns = ["method", "ours / Mammoth", "ours / Mammoth without filling", "largest difference of a weight"]
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name, (method, args) in THEIRS.items():
        torch.manual_seed(0)
        step, model, state, batch = update_of(method)
        with torch.no_grad():
            for p in model.parameters():  # away from where the first task ended, so that penalties are not 0
                p.add_(0.01 * torch.randn_like(p))
        try:
            theirs = theirs_of(name, args, model, state)
        except ImportError as error:
            print(f"| {name} | not run: {error} | | |")
            continue
        x, y = batch["pixel_values"], batch["labels"]
        observe, buffer = partial(theirs.observe, x, y, x), getattr(theirs, "buffer", None)
        fill = buffer and buffer.add_data
        if buffer:
            buffer.add_data = lambda **rows: None
        step()
        observe()
        far = max((a - b).abs().max().item() for a, b in zip(model.parameters(), theirs.net.parameters(), strict=True))
        still = medians({"ours": step, "theirs": observe})
        if buffer:
            buffer.add_data = fill
        whole = medians({"ours": step, "theirs": observe})
        ratios = [f"{found['ours'] / found['theirs']:.2f}" for found in (whole, still)]
        print(f"| {name} | {' | '.join(ratios)} | {far:.0e} |")


ALL = 2 * BUFFER  # more than there is: all rows are drawn, and the order of draws does not matter
THEIRS = {
    "Er": (ER(size=BUFFER, replayed=ALL), {}),
    "Derpp": (DERpp(size=BUFFER, replayed=ALL, alpha=0.1, beta=0.5), {"alpha": 0.1, "beta": 0.5}),
    "EwcOn": (OnlineEWC(strength=20.0), {"e_lambda": 10.0, "gamma": 1.0}),
    "Gem": (GEM(size=5 * BUFFER), {"gamma": 0.5}),
}
FILES = {"Er": "er", "Derpp": "derpp", "EwcOn": "ewc_on", "Gem": "gem"}
KEPT = {"Er": {"labels": "labels"}, "Derpp": {"labels": "labels", "logits": "logits"}}
KEPT["Gem"] = {"labels": "labels", "task_labels": "task"}


def theirs_of(name: str, args: dict[str, float], model: nn.Module, state: Any) -> Any:
    """Mammoth's method with the weights of ours and what ours remembers."""
    kind = getattr(importlib.import_module(f"models.{FILES[name]}"), name)
    layers = [copy.deepcopy(part) for part in model.modules() if isinstance(part, nn.Linear)]
    net = nn.Sequential(nn.Flatten(), layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    net.get_params = lambda: nn.utils.parameters_to_vector(net.parameters())
    net.get_grads = lambda: torch.cat([p.grad.flatten() for p in net.parameters()])
    net.set_grads = lambda grads: set_gradient(list(net.parameters()), grads)
    ahead = torch.zeros(10).masked_fill_(torch.arange(10) > 3, -torch.inf)  # classes that are still to come

    def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(logits + ahead, labels)

    method = kind(net, loss, Namespace(buffer_size=BUFFER, minibatch_size=ALL, **args), None)
    if name in KEPT:
        rows = state["buffer"].columns
        method.buffer.add_data(rows["pixel_values"], **{theirs: rows[mine] for theirs, mine in KEPT[name].items()})
    if name == "Gem":
        method.grads_cs = [torch.zeros(sum(method.grad_dims))]
    if name == "EwcOn":
        method.fish = nn.utils.parameters_to_vector(state["importance"].values())
        method.checkpoint = nn.utils.parameters_to_vector(state["anchor"].values())
    return method


def stand_in(folder: Path) -> None:
    """Lets Mammoth's files be imported, with what they need of its base class but not kornia and torchvision."""

    class ContinualModel(nn.Module):
        def __init__(self, backbone: nn.Module, loss: Any, args: Any, transform: Any, dataset: Any = None) -> None:
            super().__init__()
            self.net, self.loss, self.args, self.transform, self.device = backbone, loss, args, transform, "cpu"
            self.opt = torch.optim.SGD(backbone.parameters(), lr=LR)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

    def stub(name: str, **content: Any) -> None:
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(content)

    def each_row(x: torch.Tensor, transform: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        return torch.stack([transform(row) for row in x])

    stub("utils", __path__=[str(folder / "utils")], register_dynamic_module_fn=lambda *_: lambda kind: kind)
    stub("utils.augmentations", apply_transform=each_row)
    stub("utils.conf", create_seeded_dataloader=None, get_device=None, warn_once=lambda *_: None)
    stub("utils.args", add_rehearsal_args=None, ArgumentParser=None)
    stub("models", __path__=[str(folder / "models")])
    stub("models.utils")
    stub("models.utils.continual_model", ContinualModel=ContinualModel)
    sys.path.insert(0, str(folder))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mammoth", type=Path, help="a checkout of aimagelab/mammoth")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    ours()
    if asked.mammoth:
        mammoth(asked.mammoth)
