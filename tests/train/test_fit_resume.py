"""A run that was broken off and called again has the bits of a run that was not: weights, history, log, evaluations."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.train import killed_run
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from palimpsest.errors import UserError
from palimpsest.train import NonFiniteLoss, checkpoint, fit

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
DATA = TensorDataset(X, X.sum(1, keepdim=True))


def network():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 1))


def squared_error(model, batch):
    return (model(batch[0]) - batch[1]).square().mean()


@dataclass(frozen=True)
class Remembering:
    """A state of every kind that changes at each step, and enters the loss."""

    weight: float = 0.5

    def init(self, model, data):
        return {
            "mean": torch.zeros(1),
            "queue": [],
            "calls": 0,
            "helper": nn.Linear(1, 1),
            "generator": torch.Generator().manual_seed(8),
        }

    def loss(self, state, model, batch):
        state["calls"] += 1
        error = squared_error(model, batch)
        noise = torch.rand(1, generator=state["generator"])
        with torch.no_grad():
            state["mean"].mul_(0.9).add_(0.1 * error)
            state["helper"].weight.add_(noise)
            state["queue"] = [*state["queue"], error.detach().clone()][-4:]
        remembered = state["mean"] + torch.stack(state["queue"]).mean() + state["helper"].weight.detach().squeeze()
        return {
            "error": error,
            "memory": self.weight * (model[3].bias - remembered).square().squeeze() / state["calls"],
        }

    def gradients(self, state, model):
        model[0].weight.grad.mul_(1 + torch.rand(()))


class Wide(torch.optim.SGD):
    """Keeps a state in float64, which torch's load_state_dict would round to the parameters' float32."""

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["sum"] = state.get("sum", torch.zeros_like(parameter, dtype=torch.float64)) + parameter.grad / 3
                parameter.data.sub_(group["lr"] * state["sum"].float())


def seeded_loader(**options):
    return DataLoader(DATA, generator=torch.Generator().manual_seed(9), **options)


def from_generator(kind):
    sampler = RandomSampler(DATA, replacement=kind == "replacement", generator=torch.Generator().manual_seed(4))
    if kind == "batch sampler":
        return DataLoader(DATA, batch_sampler=BatchSampler(sampler, 4, drop_last=False))
    return DataLoader(DATA, sampler=sampler, batch_size=4)


class Augmented(torch.utils.data.Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return X[index] + random.random() + torch.rand(3), X[index].sum(0, keepdim=True)


class Drawing:
    """A re-iterable that draws its batches from the global generator as it goes."""

    def __iter__(self):
        for _ in range(5):
            rows = torch.randint(len(X), (6,))
            yield X[rows], X[rows].sum(1, keepdim=True)


# Epochs of five batches, where there are epochs: the checkpoints at steps 4 and 8 fall inside one.
FEEDS = {
    "function": lambda: lambda index: (X[index % 3 :: 3], X[index % 3 :: 3].sum(1, keepdim=True)),
    "list": lambda: [(X[:8], X[:8].sum(1, keepdim=True)), (X[8:], X[8:].sum(1, keepdim=True))],
    "shuffled by the global generator": lambda: DataLoader(DATA, batch_size=4, shuffle=True),
    "shuffled by its own generator": lambda: seeded_loader(batch_size=4, shuffle=True),
    "sampler's generator": lambda: from_generator("sampler"),
    "with replacement": lambda: from_generator("replacement"),
    "batch sampler": lambda: from_generator("batch sampler"),
    "augmented": lambda: DataLoader(Augmented(), batch_size=4, shuffle=True),
    "drawing": Drawing,
}


class Interrupted(Exception):
    """What a kill looks like from within one process."""


def interrupted_at(call, objective):
    """The same objective, but the loss's call number `call` (from 1) never returns."""
    calls = [0]
    original = objective.loss

    def loss(state, model, batch):
        calls[0] += 1
        if calls[0] == call:
            raise Interrupted
        return original(state, model, batch)

    object.__setattr__(objective, "loss", loss)
    return objective


def evaluate(model, step):
    return {"error": squared_error(model, (X, X.sum(1, keepdim=True)))}


def run(folder=None, feed="list", breaks=(), **options):
    """Train to the end, breaking off at the given calls; arguments are built anew each time, as a new process does."""
    options = {"steps": 11, "lr": 0.05, "clip": 1.0, "evaluate": evaluate, "evaluate_every": 3, **options}
    if folder is not None:
        options = {"log": folder / "log.jsonl", "checkpoint": folder / "points", "checkpoint_every": 4, **options}
    for call in breaks:
        with pytest.raises(Interrupted):
            fit(network(), interrupted_at(call, Remembering()), FEEDS[feed](), **options)
        torch.rand(random.randrange(1, 9))  # what the caller draws does not matter
    model = network()
    return model, fit(model, Remembering(), FEEDS[feed](), **options)


def assert_same(broken, unbroken):
    (model, history), (other, wanted) = broken, unbroken
    for name, tensor in other.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert history.steps == wanted.steps
    assert history.evaluations == wanted.evaluations


@pytest.mark.parametrize("feed", FEEDS)
def test_resumes_to_the_same_bits_with_every_feed(tmp_path, feed):
    unbroken = run(feed=feed)
    once = run(tmp_path / "once", feed, breaks=[10])
    assert once[1].resumed_from == 8
    assert_same(once, unbroken)
    again = run(tmp_path / "again", feed, breaks=[3, 6, 2])
    assert again[1].resumed_from == 4
    assert_same(again, unbroken)


def test_resumes_with_worker_processes(tmp_path):
    FEEDS["workers"] = partial(seeded_loader, batch_size=4, shuffle=True, num_workers=1)
    assert_same(run(tmp_path, "workers", breaks=[6]), run(feed="shuffled by its own generator"))


def test_resumes_with_workers_that_persist_and_draw(tmp_path):
    FEEDS["persistent"] = lambda: DataLoader(
        Augmented(), batch_size=4, shuffle=True, num_workers=1, persistent_workers=True
    )
    unbroken = run(feed="persistent")
    assert_same(run(tmp_path, "persistent", breaks=[10]), unbroken)  # after the checkpoint of step 8, in epoch 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_16_bit_weights_resume_to_the_same_bits(tmp_path, dtype, optimizer):
    batches = FEEDS["list"]()

    def trained(steps, folder=None):
        torch.manual_seed(1)
        model = nn.Linear(3, 1).to(dtype)
        options = {"checkpoint": folder, "checkpoint_every": 7} if folder else {}
        calls = []

        def objective(model, batch):
            calls.append(0)
            if len(calls) > steps:
                raise Interrupted
            return squared_error(model, batch)

        fit(model, objective, batches, steps=40, lr=1e-3, optimizer=optimizer, **options)
        return model

    wanted = trained(40)
    with pytest.raises(Interrupted):
        trained(10, tmp_path)
    found = trained(40, tmp_path)
    assert torch.equal(found.weight, wanted.weight)
    assert torch.equal(found.bias, wanted.bias)


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd", "momentum": 0.9},
        {"optimizer": "adamw", "weight_decay": 0.1, "accumulate": 3},
        {"optimizer": partial(torch.optim.AdamW, amsgrad=True), "schedule": "linear", "warmup": 3},
        {"optimizer": Wide},
        {"optimizer": torch.optim.Adagrad, "precision": "bf16"},
        {"optimizer": torch.optim.NAdam, "schedule": "cosine"},
    ],
    ids=["sgd", "accumulate", "amsgrad", "float64 state", "bf16", "cosine"],
)
def test_resumes_to_the_same_bits_with_every_optimizer(tmp_path, options):
    options = {"lr": 0.01, **options}
    parts = options.get("accumulate", 1)
    unbroken = run(feed="shuffled by the global generator", **options)
    broken = run(tmp_path, "shuffled by the global generator", breaks=[9 * parts, parts], **options)
    assert broken[1].resumed_from == 8
    assert_same(broken, unbroken)


def test_the_log_has_every_line_once(tmp_path):
    run(tmp_path / "unbroken")
    wanted = (tmp_path / "unbroken" / "log.jsonl").read_bytes()
    (tmp_path / "broken").mkdir()
    log = tmp_path / "broken" / "log.jsonl"
    log.write_text("what an earlier run wrote\n")
    run(tmp_path / "broken", breaks=[3, 7, 2])
    assert log.read_bytes() == b"what an earlier run wrote\n" + wanted
    lines = [json.loads(line) for line in wanted.splitlines()]
    assert [line["step"] for line in lines] == list(range(12))
    assert [line["step"] for line in lines if "evaluation" in line] == [0, 3, 6, 9, 11]
    assert list(lines[0]) == ["step", "evaluation"]
    assert list(lines[1]) == ["step", "loss", "error", "memory", "grad_norm", "lr"]


@pytest.mark.parametrize("loss_of_it", ["deleted", "cut", "another path", "none before"])
def test_lost_lines_are_written_anew(tmp_path, loss_of_it):
    run(tmp_path / "unbroken")
    folder, options, held = tmp_path / "broken", {}, ""
    log = folder / "log.jsonl"
    if loss_of_it == "none before":
        options["log"] = None
    with pytest.raises(Interrupted):
        fit(
            network(),
            interrupted_at(6, Remembering()),
            FEEDS["list"](),
            **{"steps": 11, "lr": 0.05, "clip": 1.0, "evaluate": evaluate, "evaluate_every": 3, "log": log, **options},
            checkpoint=folder / "points",
            checkpoint_every=4,
        )
    if loss_of_it == "deleted":
        log.unlink()
    elif loss_of_it == "cut":
        log.write_bytes(b"")
    elif loss_of_it == "another path":
        log = folder / "other.jsonl"
        log.write_text(held := "what somebody else wrote\n" * 200)
    run(folder, log=log)
    assert log.read_bytes() == held.encode() + (tmp_path / "unbroken" / "log.jsonl").read_bytes()


def test_numbers_that_json_lacks_are_null_in_the_log(tmp_path):
    log = tmp_path / "new" / "log.jsonl"
    fit(network(), squared_error, FEEDS["list"](), steps=1, log=log, evaluate=lambda model, step: {"x": float("nan")})
    assert [json.loads(line)["evaluation"] for line in log.read_text().splitlines()] == [{"x": None}] * 2


def test_a_finished_run_returns_at_once(tmp_path):
    model, history = run(tmp_path)
    log = (tmp_path / "log.jsonl").read_bytes()
    fresh = network()
    again = fit(
        fresh,
        interrupted_at(1, Remembering()),
        FEEDS["list"](),
        steps=11,
        lr=0.05,
        clip=1.0,
        evaluate=evaluate,
        evaluate_every=3,
        log=tmp_path / "log.jsonl",
        checkpoint=tmp_path / "points",
    )
    assert_same((fresh, again), (model, history))
    assert again.resumed_from == 11
    assert not fresh.training
    assert (tmp_path / "log.jsonl").read_bytes() == log


@pytest.mark.parametrize("after", [0, 4, 6])
def test_a_stopped_run_is_finished(tmp_path, after):
    options = {"evaluate": lambda model, step: {"at": step}, "evaluate_every": 2}
    options["stop"] = lambda evaluation: evaluation["at"] >= after
    model, history = run(tmp_path, **options)
    assert len(history.steps) == after
    fresh, again = run(tmp_path, **options)
    assert again.resumed_from == after
    assert_same((fresh, again), (model, history))


@pytest.mark.parametrize(("operation", "death"), [("replace", 3), ("fsync", 17), ("fsync", 5)])
def test_a_run_killed_while_it_saves_goes_on(tmp_path, monkeypatch, operation, death):
    calls, real = [], getattr(os, operation)

    def dies(*arguments):
        calls.append(1)
        if len(calls) == death:
            raise Interrupted
        return real(*arguments)

    monkeypatch.setattr(checkpoint.os, operation, dies)
    with pytest.raises(Interrupted):
        run(tmp_path)
    assert_same(run(tmp_path), run())


CHANGES = [
    ({"lr": 0.06}, "was made with lr=0.05, not lr=0.06"),
    ({"steps": 12}, "steps=11, not steps=12"),
    ({"optimizer": "sgd"}, "optimizer=adamw, not optimizer=sgd"),
    ({"optimizer": partial(torch.optim.SGD, momentum=0.5)}, "optimizer=adamw, not optimizer=SGD with"),
    ({"seed": 3}, "seed=0, not seed=3"),
    ({"precision": "bf16"}, "precision=no, not precision=bf16"),
    ({"clip": None}, "clip=1.0, not clip=None"),
    ({"evaluate_every": 4}, "evaluate_every=3, not evaluate_every=4"),
    ({"objective": Remembering(weight=0.25)}, "objective.weight=0.5, not objective.weight=0.25"),
    (
        {"objective": squared_error},
        "objective=Remembering, not objective=squared_error",
    ),
    ({"batches": []}, "batches=list of 2, not batches=list of 3"),
    ({"model": nn.Linear(3, 1)}, "model=Sequential of .* weights .*, not model=Linear of 4 weights"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES, ids=[next(iter(change)) for change, _ in CHANGES])
def test_a_checkpoint_of_other_settings_is_refused_by_name(tmp_path, change, message):
    options = {
        "model": network(),
        "objective": Remembering(),
        "batches": FEEDS["list"](),
        "steps": 11,
        "lr": 0.05,
        "clip": 1.0,
        "evaluate": evaluate,
        "evaluate_every": 3,
        "checkpoint": tmp_path,
    }
    fit(**options)
    if change == {"batches": []}:
        change = {"batches": [*options["batches"], options["batches"][0]]}
    with pytest.raises(UserError, match=message) as caught:
        fit(**{**options, **change})
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("use the same settings, or another checkpoint folder")


def test_how_often_to_save_and_where_to_log_may_change(tmp_path):
    unbroken = run()
    with pytest.raises(Interrupted):
        fit(
            network(),
            interrupted_at(6, Remembering()),
            FEEDS["list"](),
            steps=11,
            lr=0.05,
            clip=1.0,
            evaluate=evaluate,
            evaluate_every=3,
            checkpoint=tmp_path / "points",
            checkpoint_every=2,
        )
    assert_same(run(tmp_path, checkpoint_every=3), unbroken)


def test_nan_keeps_the_last_good_checkpoint_and_the_weights_before_the_step(tmp_path):
    def nan_at(call):
        calls = []

        def objective(model, batch):
            calls.append(1)
            return squared_error(model, batch) * (float("nan") if len(calls) == call else 1.0)

        return objective

    wanted = network()
    fit(wanted, nan_at(0), FEEDS["list"](), steps=6)
    model = network()
    with pytest.raises(NonFiniteLoss) as caught:
        fit(model, nan_at(7), FEEDS["list"](), steps=9, checkpoint=tmp_path, checkpoint_every=4)
    kept = tmp_path / "step-000000004"
    assert caught.value.checkpoint == kept == checkpoint.latest(tmp_path)
    assert str(kept) in str(caught.value)
    assert torch.equal(model[0].weight, wanted[0].weight)
    assert torch.equal(model[1].weight, wanted[1].weight)
    assert load_file(kept / "model.safetensors")["0.weight"].isfinite().all()


def test_weights_that_are_no_numbers_are_never_saved(tmp_path):
    class Spoiling(torch.optim.SGD):
        def step(self, closure=None):
            super().step()
            if self.param_groups[0]["params"][0].grad is not None and len(steps := self.param_groups[0]["seen"]) == 2:
                self.param_groups[0]["params"][0].data.view(-1)[1] = float("inf")
            steps.append(1)

    def build(parameters, lr):
        optimizer = Spoiling(parameters, lr)
        optimizer.param_groups[0]["seen"] = []
        return optimizer

    with pytest.raises(NonFiniteLoss, match=r"step 3: 0.weight is inf: was found after the step, the last good"):
        fit(
            network(), squared_error, FEEDS["list"](), steps=9, optimizer=build, checkpoint=tmp_path, checkpoint_every=1
        )
    assert checkpoint.latest(tmp_path).name == "step-000000002"


def test_a_file_in_place_of_a_folder_and_the_other_way_round(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file: name a folder"):
        fit(network(), squared_error, FEEDS["list"](), steps=1, checkpoint=tmp_path / "file")
    with pytest.raises(UserError, match="is a folder: name a file"):
        fit(network(), squared_error, FEEDS["list"](), steps=1, log=tmp_path)


def test_a_state_that_cannot_be_kept_is_found_before_training(tmp_path):
    class Strange:
        def init(self, model, data):
            return {"ids": {1, 2}}

        def loss(self, state, model, batch):
            raise AssertionError("trained")

    with pytest.raises(TypeError, match=r"a set at .*ids cannot be kept in a checkpoint"):
        fit(network(), Strange(), FEEDS["list"](), steps=1, checkpoint=tmp_path)


@pytest.mark.slow
def test_sigkill_at_a_random_moment_costs_no_bit(tmp_path):
    script, seed = Path(killed_run.__file__), int(time.time())
    broken, unbroken = tmp_path / "broken", tmp_path / "unbroken"
    broken.mkdir(), unbroken.mkdir()
    killed_run.main(unbroken, unbroken=True)
    generator = random.Random(seed)
    for _ in range(2):
        process = subprocess.Popen([sys.executable, str(script), str(broken)], stderr=subprocess.PIPE)
        log = broken / "log.jsonl"
        before = log.stat().st_size if log.exists() else 0
        while not (log.exists() and log.stat().st_size > before) and process.poll() is None:
            time.sleep(0.005)
        time.sleep(generator.uniform(0.0, 0.4))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.stderr.read().decode()
    killed_run.main(broken)
    record, wanted = (json.loads((folder / "history.json").read_text()) for folder in (broken, unbroken))
    assert record["resumed_from"] is not None
    assert wanted["resumed_from"] is None
    assert record["steps"] == wanted["steps"], f"seed {seed}"
    assert record["evaluations"] == wanted["evaluations"]
    assert (broken / "log.jsonl").read_bytes() == (unbroken / "log.jsonl").read_bytes()
    mine, theirs = (load_file(folder / "model.safetensors") for folder in (broken, unbroken))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
