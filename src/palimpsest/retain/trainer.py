"""Continual methods in the Trainer of Hugging Face: a callback for what happens between steps, and a loss.

    keeping = Keeping(EWC(strength=10.0), model, old)
    trainer = Trainer(model, arguments, train_dataset=new, data_collator=collate, callbacks=[keeping])
    keeping.attach(trainer)
    trainer.train()

`WithReplay` is experience replay alone, as a collator: it needs neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from palimpsest.retain.keeper import Keeper


class Keeping(TrainerCallback):
    """A method of `palimpsest.retain` that holds what the model can do while a Trainer teaches it new rows.

    The Trainer's batches, clipping, precision, accumulation and optimizer are its own. Gradients are rewritten behind
    clipping. For one process; what the method remembers is in none of the Trainer's checkpoints.

    Attributes:
        keeper: the method at work.

    Args:
        method, model, old, classes, seed: as for `Keeper`. Make it before the Trainer, which looks at what trains.
    """

    def __init__(
        self, method: Any, model: nn.Module, old: Mapping[str, Tensor], *, classes: int = 1, seed: int = 0
    ) -> None:
        self.keeper = Keeper(method, model, old, classes=classes, seed=seed)

    def attach(self, trainer: Any) -> None:
        """Has a Trainer minimise the method's loss in the place of its own."""
        trainer.compute_loss = self.compute_loss
        # The loss is a mean, which the Trainer then divides over accumulated batches.
        trainer.model_accepts_loss_kwargs = False

    def compute_loss(
        self, model: nn.Module, inputs: Mapping[str, Tensor], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """What a Trainer's `compute_loss` is: while it trains the method's loss, and the model's own otherwise."""
        if model.training and not return_outputs:
            return self.keeper.loss(inputs)
        outputs = model(**inputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.keeper.before_step()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.keeper.after_step()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.keeper.finish()


class WithReplay:
    """A collator that puts rows of a memory behind those of every batch: experience replay in any loop.

    Args:
        collate: what makes a batch of rows, such as `DataCollatorForLanguageModeling`.
        memory: rows of the same kind as those of the data.
        replayed: how many are drawn for each batch.
        seed: of the draws.

    >>> collate = WithReplay(sum, memory=[100], replayed=2)
    >>> collate([1, 2])
    203
    """

    def __init__(
        self, collate: Callable[[list[Any]], Any], memory: Sequence[Any], replayed: int = 8, seed: int = 0
    ) -> None:
        if not len(memory) or replayed < 1:
            raise ValueError(f"replay needs rows and at least one of them in a batch: {len(memory)} and {replayed}")
        self.collate, self.memory, self.replayed = collate, memory, replayed
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, rows: list[Any]) -> Any:
        drawn = torch.randint(len(self.memory), (self.replayed,), generator=self.generator).tolist()
        return self.collate([*rows, *(self.memory[row] for row in drawn)])
