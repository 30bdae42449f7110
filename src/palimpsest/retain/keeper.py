"""A continual method in a training loop of one's own: what it adds to the loss, to the gradients and to the weights.

    keeper = Keeper(EWC(strength=10.0), model, old)        old: columns of rows that the model can do
    for batch in batches:
        keeper.loss(batch).backward()                      the batch's own loss, and what holds the old
        keeper.before_step()
        optimizer.step()
        keeper.after_step()
        optimizer.zero_grad()
    keeper.finish()

Rows and batches are columns as a collator makes them: `input_ids`, `attention_mask` and `labels` of a causal language
model, or `x` or `pixel_values` with `labels` of a classifier. `palimpsest.retain.trainer` puts it into the Trainer of
Hugging Face; `learn_stream` is the loop that measures, and goes on after an interruption.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.errors import UserError
from palimpsest.models.forward import device_of
from palimpsest.retain.buffers import Examples
from palimpsest.retain.continual import Continual, Present, on, with_allowed
from palimpsest.train.method import check_model

FILL = {"input_ids": 0, "attention_mask": 0, "labels": -100}  # of padding; the token does not matter


class Keeper:
    """A method that holds what a model can do while it is taught something else.

    Attributes:
        state: what the method remembers.

    >>> from palimpsest.models.vision import mlp
    >>> from palimpsest.retain import ER
    >>> old = {"x": torch.eye(4), "labels": torch.tensor([0, 1, 0, 1])}
    >>> new = {"x": -torch.eye(4), "labels": torch.tensor([1, 1, 0, 0])}
    >>> model = mlp(4, 2, hidden=(8,))
    >>> keeper = Keeper(ER(size=4), model, old, classes=2)
    >>> optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    >>> for _ in range(100):
    ...     optimizer.zero_grad()
    ...     keeper.loss(new).backward()
    ...     keeper.before_step()
    ...     optimizer.step()
    ...     keeper.after_step()
    >>> keeper.finish()
    >>> [(model(rows["x"]).logits.argmax(1) == rows["labels"]).all().item() for rows in (old, new)]
    [True, True]
    """

    def __init__(
        self, method: Any, model: nn.Module, old: Mapping[str, Tensor], *, classes: int = 1, seed: int = 0
    ) -> None:
        """Looks at the old rows, and at the model, which can do them; call it before the optimizer is made.

        Args:
            method: a `Continual` that trains on whatever rows come.
            model: changed in place, in the caller's loop.
            old: columns of rows that it can do: of the user's, or written by the model (`self_written_rows`).
            classes: of a classifier.
            seed: of what the method draws.

        Raises:
            UserError: the method chooses the rows itself, or the model lacks a part that it needs.
        """
        for name in ("rows", "steps"):
            if getattr(type(method), name) is not getattr(Continual, name):
                kind = type(method).__name__
                raise UserError(f"{kind} chooses what is trained on: give your loop those rows, or use learn_stream")
        check_model(method, model)
        self.method, self.model, self.classes, self.seed = method, model, classes, seed
        self.generator, self.old = torch.Generator().manual_seed(seed), self._rows(old, 0)
        first, second = self._present(self.old, 0), self._present(self.old, 1)
        self.state = self._asked(lambda: method.after_task(method.init(model, first), model, first))
        self.state = self._asked(lambda: method.before_task(self.state, model, second))

    def terms(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The terms of the loss of a batch of new rows, by name."""
        own = self._rows(batch, 1).columns
        drawn = self.method.replay(self.state, own, self.generator)
        device = device_of(self.model)
        ready = on(with_allowed(_one_width(drawn), torch.ones(2, self.classes, dtype=torch.bool)), device)
        return self.method.loss(self.state, self.model, ready)

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Their sum."""
        return torch.stack([term.float() for term in self.terms(batch).values()]).sum()

    def before_step(self) -> None:
        """Between the backward pass, or clipping, and the optimizer's step: rewrites gradients where a method does."""
        if hasattr(self.method, "gradients"):
            self.method.gradients(self.state, self.model)

    def after_step(self) -> None:
        """Behind the optimizer's step: changes weights where the method does."""
        if hasattr(self.method, "after_step"):
            self.method.after_step(self.state, self.model)

    def finish(self, new: Mapping[str, Tensor] | None = None) -> None:
        """When training has ended: changes the weights (a mean of old and new), and remembers what was learned.

        Args:
            new: columns of the rows that were learned, for what a method remembers of them; None for none of them.
        """
        rows = self.old if new is None else self._rows(new, 1)
        self.state = self._asked(lambda: self.method.after_task(self.state, self.model, self._present(rows, 1)))

    def _present(self, rows: Examples, number: int) -> Present:
        every = torch.ones(2, self.classes, dtype=torch.bool)
        return Present(rows, number, every, every[:number], self.generator, {"seed": self.seed})

    def _rows(self, columns: Mapping[str, Tensor], task: int) -> Examples:
        """Rows with a task, and of tokens with a mask, where what is drawn is drawn: on the CPU."""
        kept = {name: value.cpu() for name, value in columns.items() if isinstance(value, Tensor) and value.ndim}
        n = len(kept["labels"])
        if "input_ids" in kept:
            kept = {name: kept[name] for name in FILL if name in kept}
            kept.setdefault("attention_mask", torch.ones_like(kept["input_ids"]))
        return Examples({**kept, "task": torch.full((n,), task)})

    def _asked(self, what: Any) -> Any:
        """What a hook gives, which sees the model as it will be asked."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            return what()
        finally:
            for module, training in modes:
                module.training = training


def _one_width(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch of tokens and the batches in it, padded alike."""
    parts = [batch, *(value for value in batch.values() if isinstance(value, dict))]
    if "input_ids" not in batch:
        return batch
    width = max(part["input_ids"].shape[1] for part in parts)

    def padded(part: dict[str, Any]) -> dict[str, Any]:
        return {
            name: padded(value)
            if isinstance(value, dict)
            else F.pad(value, (0, width - value.shape[1]), value=FILL[name])
            if name in FILL
            else value
            for name, value in part.items()
        }

    return padded(batch)
