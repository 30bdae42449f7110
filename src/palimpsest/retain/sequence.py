"""A stream learned task by task: one `fit` a task, the method's state carried on, everything measured after each.

`learn_stream` is the driver, `InSequence` the same as an `Edit`, which `palimpsest.train.apply` and benches run.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.optim import Optimizer

from palimpsest.errors import UserError
from palimpsest.models.forward import device_of, evaluating
from palimpsest.retain.buffers import Examples, joined
from palimpsest.retain.continual import BLOCK, Continual, Present, State, on, only_allowed, with_allowed
from palimpsest.tasks.streams import Stream
from palimpsest.train import checkpoint as checkpoints
from palimpsest.train.classification import logits_of
from palimpsest.train.loop import fit
from palimpsest.train.method import Edit, check_model, only_trainable
from palimpsest.train.optimizers import build_optimizer
from palimpsest.train.order import shuffled
from palimpsest.train.randomness import of_batch
from palimpsest.train.settings import check_same

PARTS = ("test", "validation")
REPLAY = 2**40  # of the draws of a step, beside those that `fit` makes with the same seed
DEFAULTS = {"optimizer": "adamw", "weight_decay": 0.0, "momentum": 0.0}  # of `fit`, where one optimizer is kept


@dataclass
class StreamLog:
    """What happened while a stream was learned.

    Attributes:
        accuracy: "test" and, where every task has such rows, "validation": row i holds the accuracy on each task after
            task i was learned [tasks, tasks], nan for what was not measured.
        untrained: the accuracy on the test rows of each task before the first was learned, by any class.
        curve: a record a look while tasks are learned: `task`, `step` (0 before its first update), and `accuracy`, a
            list, that on the test rows of each task.
        online: the accuracy on the batches of each task, each asked before it is learned from.
        memory: what the method's state weighs after each task, in bytes.
        seconds: of processor time that each task took, looks included.
    """

    accuracy: dict[str, Tensor]
    untrained: Tensor
    curve: list[dict[str, Any]] = field(default_factory=list)
    online: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


class Learner(nn.Module):
    """A model with the method that it was taught by, which answers for it.

    Attributes:
        model: the network.
        method, state: who answers.
        allowed: which classes may be answered for a row of each task [tasks, classes].
        log: what happened on the way.
    """

    def __init__(self, model: nn.Module, method: Any, state: State, allowed: Tensor, log: StreamLog) -> None:
        super().__init__()
        self.model, self.method, self.state, self.allowed, self.log = model, method, state, allowed, log

    def forward(self, batch: Mapping[str, Tensor] | Tensor, task: int = 0) -> Float[Tensor, "batch classes"]:
        """Scores, -inf for classes that may not be answered.

        Args:
            batch: images or rows, or a batch as `Examples` gives it.
            task: that of the rows, which counts where tasks are told and the batch has no column `task`.
        """
        if isinstance(batch, Tensor):
            batch = {"pixel_values" if batch.ndim == 4 else "x": batch}
        if "task" not in batch:
            batch = {**batch, "task": torch.full((len(next(iter(batch.values()))),), task)}
        batch = on(with_allowed(dict(batch), self.allowed), device_of(self.model))
        return only_allowed(self.method.answer(self.state, self.model, batch), batch)

    def accuracies(self, stream: Stream, part: str = "test") -> Float[Tensor, " tasks"]:
        """The accuracy on every task of a stream."""
        return _accuracies(self.method, self.state, self.model, _rows(stream, part), self.allowed)


@dataclass(frozen=True)
class InSequence(Edit):
    """A continual method as an edit, whose data are a stream: `apply(model, InSequence(EWC()), stream, steps=200)`.

    Attributes:
        method: what `palimpsest.retain.continual` describes.
        every, online, keep_optimizer: as in `learn_stream`.
    """

    method: Any
    every: int | None = None
    online: bool = False
    keep_optimizer: bool = False

    def fits(self, model: nn.Module) -> None:
        self.method.fits(model)

    def edit(self, model: nn.Module, data: Stream, **training: Any) -> Learner:
        own = {"every": self.every, "online": self.online, "keep_optimizer": self.keep_optimizer}
        return learn_stream(model, self.method, data, **own, **training)


def learn_stream(
    model: nn.Module,
    method: Any,
    stream: Stream,
    *,
    steps: int,
    batch_size: int = 32,
    seed: int = 0,
    already: int = 0,
    every: int | None = None,
    online: bool = False,
    keep_optimizer: bool = False,
    checkpoint: str | os.PathLike | None = None,
    **training: Any,
) -> Learner:
    """Teach a model one task after another by a continual method.

    A classifier learns labelled rows, a causal language model rows of tokens (`palimpsest.retain.tokens`): then what
    the log calls accuracy is the mean probability of the answers.

    Args:
        model: changed in place; it has an output for every class of the stream.
        method: a `Continual`, or whatever has the same functions.
        stream: the tasks.
        steps: updates a task.
        batch_size: rows of the task in a batch; what a method replays comes on top.
        seed: of the batches, of what methods draw and of the training of each task.
        already: so many of the first tasks the model can do: they are not learned, but the method remembers of them
            what it needs (a pretrained model that must keep what it can).
        every: updates between two looks at all tasks while one is learned; None for none.
        online: take the accuracy on every batch before it is learned from; costs a forward pass a step.
        keep_optimizer: one optimizer for all tasks, as if their borders were not known; its moments go on.
        checkpoint: a folder, in which model, state and log are kept after every task; the same call made again goes on
            from there, to the same bits.
        training: as for `palimpsest.train.fit`: `lr`, `optimizer`, `weight_decay`, `clip`, ...

    Returns:
        The learner: the model, who answers for it, and the log of what was measured.

    Raises:
        ValueError: the model has more or fewer outputs than the stream has classes, or `already` is no number of tasks.
        UserError: the method needs a part that the model lacks, or the checkpoint is of another call.
        NonFiniteLoss: a loss that is no number.

    >>> from palimpsest.models.vision import mlp
    >>> from palimpsest.tasks.mnist_streams import mnist_classes
    >>> stream = Stream(tuple(mnist_classes(100, train=200)[:2]))
    >>> learner = learn_stream(mlp(196, 4, hidden=(32,)), Continual(), stream, steps=20, lr=1e-2, progress=False)
    >>> (learner.log.accuracy["test"].diagonal() > 0.8).all().item(), learner.log.accuracy["test"].shape
    (True, torch.Size([2, 2]))
    """
    if not 0 <= already <= len(stream):
        raise ValueError(f"already must be from 0 to {len(stream)}, the number of tasks, got {already}")
    if checkpoint is not None and keep_optimizer:
        raise UserError("one optimizer for all tasks is kept in no checkpoint: leave out one of the two")
    check_model(method, model)
    # `fit` trains there, and what a method makes of the model before that has to be there too.
    model.to(Accelerator().device).eval()
    settings = {"steps": steps, "batch_size": batch_size, "seed": seed, "already": already, **training}
    asked = {part: _rows(stream, part) for part in PARTS if all(len(getattr(t, part) or ()) for t in stream.tasks)}
    _check_outputs(model, stream, asked["test"])
    nothing = torch.full((len(stream), len(stream)), torch.nan, dtype=torch.float64)
    untrained = _accuracies(Continual(), {}, model, asked["test"], stream.allowed(len(stream)))
    log = StreamLog({part: nothing.clone() for part in asked}, untrained)
    state = method.init(model, _present(stream, 0, settings))
    kept = None if checkpoint is None else _Checkpoints(checkpoint, method, settings)
    begin, state, log = kept.found(model, state, log) if kept else (0, state, log)
    if keep_optimizer:
        training = _with_optimizer(training, _one_optimizer(training))
    for number in range(begin, len(stream)):
        data, since = _present(stream, number, settings), time.process_time()
        if number >= already:
            state = method.before_task(state, model, data)
            if updates := method.steps(state, data, steps):
                task = _OneTask(method, state, online)

                def look(model: nn.Module, step: int, state: State = state, data: Present = data) -> dict[str, float]:
                    found = _accuracies(method, state, model, asked["test"], data.allowed)
                    return {str(each): value for each, value in enumerate(found.tolist())}

                with only_trainable(model, method), _after_steps(method, state, model, training) as options:
                    history = fit(
                        model,
                        task,
                        _batches(method, state, data, batch_size),
                        steps=updates,
                        seed=_seed(seed, number),
                        evaluate=look if every else None,
                        evaluate_every=every,
                        **options,
                    )
                log.online += [task.right / task.asked] if online else []
                for found in history.evaluations:
                    accuracy = [found[str(each)] for each in range(len(stream))]
                    log.curve.append({"task": number, "step": found["step"], "accuracy": accuracy})
        state = method.after_task(state, model, data)
        log.seconds.append(time.process_time() - since)
        log.memory.append(nbytes(state))
        for part, rows in asked.items():
            log.accuracy[part][number] = _accuracies(method, state, model, rows, data.allowed)
        if kept:
            kept.save(number + 1, model, state, log)
    return Learner(model, method, state, stream.allowed(len(stream)), log)


def nbytes(state: Any) -> int:
    """What a state weighs: all tensors in it.

    >>> nbytes({"fisher": {"weight": torch.zeros(10)}, "count": 3})
    40
    """
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Examples):
        return state.nbytes
    if isinstance(state, Mapping):
        return sum(map(nbytes, state.values()))
    return sum(map(nbytes, state)) if isinstance(state, (list, tuple)) else 0


class _OneTask:
    """A method, seen by `fit` as the objective of one task."""

    def __init__(self, method: Any, state: State, online: bool) -> None:
        self.method, self.state, self.online = method, state, online
        self.right = self.asked = 0
        for name in ("gradients", "augment"):
            if hasattr(method, name):
                setattr(self, name, getattr(method, name))

    def init(self, model: nn.Module, data: None) -> State:
        return self.state

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        if self.online:
            with evaluating(model):
                answers = only_allowed(self.method.answer(state, model, batch), batch).argmax(1)
            self.right += int((answers == batch["labels"]).sum())
            self.asked += len(answers)
        return self.method.loss(state, model, batch)


class _Checkpoints:
    """Model, state and log after every task, in a folder; the newest is kept."""

    def __init__(self, folder: str | os.PathLike, method: Any, settings: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        plain = {name: re.sub(r" at 0x\w+", "", repr(value)) for name, value in {"method": method, **settings}.items()}
        self.settings = {name: value for name, value in plain.items() if name != "progress"}

    def found(self, model: nn.Module, state: State, log: StreamLog) -> tuple[int, State, StreamLog]:
        """The task to go on with, and how things stood then."""
        newest = checkpoints.latest(self.folder)
        if newest is None:
            return 0, state, log
        weights, facts, tensors = checkpoints.load(newest)
        check_same(self.settings, facts["settings"], newest)
        checkpoints.fill(model, weights, newest)
        kept = checkpoints.decode(facts["training"], tensors, {"state": state, "log": log})
        return facts["tasks"], on(kept["state"], device_of(model)), kept["log"]

    def save(self, tasks: int, model: nn.Module, state: State, log: StreamLog) -> None:
        facts = {"tasks": tasks, "settings": self.settings}
        checkpoints.save(self.folder, f"step-{tasks:09d}", model, facts, {"state": state, "log": log})


def _present(stream: Stream, number: int, settings: Mapping[str, Any]) -> Present:
    heads = stream.allowed(number)[: number if stream.told else min(1, number)]
    rows = Examples.of(stream.tasks[number].train, task=number)
    return Present(
        rows, number, stream.allowed(number + 1), heads, of_batch(_seed(settings["seed"], number), 0), settings
    )


def _rows(stream: Stream, part: str) -> Examples:
    """Those of all tasks, one task after the other."""
    parts = [Examples.of(getattr(task, part), task=number).columns for number, task in enumerate(stream.tasks)]
    return Examples(joined(parts))


def _batches(method: Any, state: State, data: Present, batch_size: int) -> Callable[[int], dict[str, Any]]:
    """step -> a batch of the task, with what the method replays."""
    rows, seed = method.rows(state, data), _seed(data.training["seed"], data.number)
    order = shuffled(len(rows), batch_size, seed)

    def batch(step: int) -> dict[str, Any]:
        drawn = method.replay(state, rows.batch(order(step)), of_batch(seed, REPLAY + step))
        return with_allowed(drawn, data.allowed)

    return batch


def _accuracies(
    method: Any, state: State, model: nn.Module, rows: Examples, allowed: Bool[Tensor, "tasks classes"]
) -> Float[Tensor, " tasks"]:
    """The share of the rows of each task that is answered rightly; of tokens, the mean probability of the answers."""
    if "input_ids" in rows.columns:
        from palimpsest.retain.tokens import probabilities  # late: transformers takes seconds

        found = probabilities(model, rows.columns)
    else:
        device, right = device_of(model), []
        with evaluating(model):
            for batch in rows.split(BLOCK):
                batch = on(with_allowed(batch, allowed), device)
                answers = only_allowed(method.answer(state, model, batch), batch).argmax(1)
                right.append((answers == batch["labels"]).cpu())
        found = torch.cat(right).double()
    task = rows.columns["task"]
    return task.bincount(found, len(allowed)) / task.bincount(minlength=len(allowed))


def _check_outputs(model: nn.Module, stream: Stream, rows: Examples) -> None:
    if "input_ids" in rows.columns:  # a language model, which has an output for every token
        return
    with evaluating(model):
        outputs = logits_of(model, on(rows.batch(slice(2)), device_of(model))).shape[-1]
    if outputs != stream.classes:
        raise ValueError(f"the model must have an output for each of {stream.classes} classes, and has {outputs}")


def _with_optimizer(training: Mapping[str, Any], build: Callable[..., Optimizer]) -> dict[str, Any]:
    """The settings with an optimizer that has been made of those which belong to one."""
    return {**{name: value for name, value in training.items() if name not in DEFAULTS}, "optimizer": build}


def _one_optimizer(training: Mapping[str, Any]) -> Callable[[list[nn.Parameter], float], Optimizer]:
    """Builds the optimizer that is asked for when it is first called, and gives the same one ever after."""
    made: list[Optimizer] = []
    name, decay, momentum = (training.get(key, of) for key, of in DEFAULTS.items())

    def build(parameters: list[nn.Parameter], lr: float) -> Optimizer:
        if not made:
            made.append(build_optimizer(name, parameters, lr, decay, momentum))
        return made[0]

    return build


@contextmanager
def _after_steps(
    method: Any, state: State, model: nn.Module, training: Mapping[str, Any]
) -> Iterator[Mapping[str, Any]]:
    """The settings with an optimizer that calls the method's `after_step` behind every update, where it has one."""
    if not hasattr(method, "after_step"):
        yield training
        return
    hooks = []
    name, decay, momentum = (training.get(key, of) for key, of in DEFAULTS.items())

    def build(parameters: list[nn.Parameter], lr: float) -> Optimizer:
        optimizer = build_optimizer(name, parameters, lr, decay, momentum)
        hooks.append(optimizer.register_step_post_hook(lambda *_: method.after_step(state, model)))
        return optimizer

    try:
        yield _with_optimizer(training, build)
    finally:
        for hook in hooks:
            hook.remove()


def _seed(seed: int, number: int) -> int:
    """That of a task: of a run's seed and the task's number."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1)
