"""What a checkpoint of a run holds, and how a run goes on from it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from palimpsest.errors import UserError
from palimpsest.train import checkpoint, randomness
from palimpsest.train.batches import Feed
from palimpsest.train.history import History, Log, NonFiniteLoss
from palimpsest.train.optimizers import load_optimizer
from palimpsest.train.settings import check_same


@dataclass
class Run:
    """Everything that changes while a model is trained, and so everything that a checkpoint holds."""

    model: nn.Module
    state: Any
    optimizer: Optimizer
    schedule: LRScheduler
    scaler: torch.amp.GradScaler | None
    feed: Feed
    log: Log
    history: History = field(default_factory=History)
    step: int = 0
    finished: bool = False

    def check_weights(self, last_good: Path | None) -> None:
        """Stop before weights that are no numbers are saved or handed back."""
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        finite = torch.stack([parameter.isfinite().all() for parameter in trained.values()])
        if not finite.all():
            name, weights = list(trained.items())[finite.tolist().index(False)]
            bad = weights[~weights.isfinite()].flatten()[0].item()
            raise NonFiniteLoss(name, bad, self.step, last_good, self.history, taken=True)


class Checkpoints:
    """The checkpoints of one run in one folder, of which the newest is kept. With folder None there are none.

    Args:
        settings: what decides the run's bits; a checkpoint made with others is refused.
    """

    def __init__(self, folder: str | os.PathLike | None, settings: dict[str, Any], accelerator: Accelerator) -> None:
        self.folder = None if folder is None else Path(folder)
        self.settings, self.accelerator = settings, accelerator
        self.last: Path | None = None
        if self.folder is not None and self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"checkpoint={folder} is a file: name a folder")

    def save(self, run: Run) -> None:
        """Write the run as it stands; the main process does."""
        if self.folder is None:
            return
        run.check_weights(self.last)
        name = f"step-{run.step:09d}" + ("-finished" if run.finished else "")
        if self.accelerator.is_main_process:
            facts = {
                "step": run.step,
                "finished": run.finished,
                "settings": self.settings,
                "log": run.log.position(self.folder),
                "steps": run.history.steps,
                "evaluations": run.history.evaluations,
            }
            # A finished run goes on no more: its weights are all that is asked for again, a third of the whole.
            training = (
                {}
                if run.finished
                else {
                    "optimizer": run.optimizer.state_dict(),
                    "schedule": run.schedule.state_dict(),
                    "scaler": run.scaler.state_dict() if run.scaler else None,
                    "objective": run.state,
                    "batches": run.feed.position(),
                    "random": randomness.capture(),
                }
            )
            checkpoint.save(self.folder, name, run.model, facts, training)
        self.accelerator.wait_for_everyone()
        self.last = self.folder / name

    def resume(self, run: Run) -> None:
        """Bring the run to where the newest checkpoint was made; where there is none, make the first.

        The checkpoint of step 0 lets a run that is killed early cut its log back, and start from the same weights.
        """
        if self.folder is None:
            return
        self.last = checkpoint.latest(self.folder)
        if self.last is None:
            self.accelerator.wait_for_everyone()  # all have looked before one writes
            self.save(run)
            return
        weights, facts, tensors = checkpoint.load(self.last)
        check_same(self.settings, facts["settings"], self.last)
        checkpoint.fill(run.model, weights, self.last)
        run.step, run.finished = facts["step"], facts["finished"]
        run.history = History(facts["steps"], facts["evaluations"], resumed_from=run.step)
        if not run.finished:
            training = checkpoint.decode(facts["training"], tensors, {"objective": run.state})
            run.state = training["objective"]
            load_optimizer(run.optimizer, training["optimizer"])
            run.schedule.load_state_dict(training["schedule"])
            if run.scaler:
                run.scaler.load_state_dict(training["scaler"])
            run.log.rewind(facts["log"], self.folder, run.history)
            run.feed.go_to(training["batches"])
            randomness.restore(training["random"])
        self.accelerator.wait_for_everyone()
