"""What a continual method is: an objective whose state goes from one task to the next.

A method is a frozen dataclass of its hyperparameters, as every objective is; all that it remembers is its state, a dict
of tensors and numbers (a `Buffer`, a dict of weights), which a checkpoint can hold. `learn_stream`
(`palimpsest.retain.sequence`) takes it through a stream, with one `fit` a task:

    state = init(model, data)                      once, before the first task
    for each task:
        state = before_task(state, model, data)    prepare: keep the old weights, start again from the first ones
        rows(state, data)                          what is trained on: the task's rows, or others with them
        steps(state, data, steps)                  for how long: 0 where a method learns without gradients
        fit:
            batch = replay(state, batch, generator)    widens a batch by rows from a buffer
            loss(state, model, batch)                  the terms; their sum is minimised
            gradients(state, model)                    optional: rewrites the gradients in place
            after_step(state, model)                   optional: changes the weights in place behind an update
        state = after_task(state, model, data)     remember: rows, importances, prototypes; or change the weights
        answer(state, model, batch)                what it says of rows of any task, whenever it is asked

`data` is a `Present`: what may be known of the task that is there now, never its test rows. All that is drawn is drawn
from `data.generator` or the generator that is handed over, so that a run is a function of its seed. Hooks may change
what the state holds in place (a running sum) where a step needs it, but give back the state that counts. Of the model
they change weights in `before_task`, `after_step` and `after_task` only. What is no tensor, number, list or dict (a
`Buffer`) is in the state that `init` gives: by that a checkpoint can be read.

A batch has `task`, the number of each row's task, and `allowed` [batch, classes], the classes that may be answered for
it: those known so far, or those of its own task where tasks are told. So have the batches inside it, such as `memory`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.errors import UserError
from palimpsest.models.forward import device_of, evaluating
from palimpsest.retain.buffers import Examples
from palimpsest.train.classification import logits_of
from palimpsest.train.method import Objective

BLOCK = 512  # rows that are asked at once

State = dict[str, Any]
Weights = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Present:
    """What a method may know of the task that is there now.

    Attributes:
        rows: to train on, with the columns `labels` and `task`.
        number: of the task, from 0.
        allowed: which classes may be answered for a row of each task of the stream, now [tasks, classes].
        heads: the sets of classes among which answers were chosen before this task: one for all where tasks are not
            told, else one for each earlier task; none in the first [heads, classes].
        generator: the source of all that is drawn besides the batches.
        training: the settings of training (`lr`, `batch_size`, ...), for what a method has to train on the way.
    """

    rows: Examples
    number: int
    allowed: Bool[Tensor, "tasks classes"]
    heads: Bool[Tensor, "heads classes"]
    generator: torch.Generator
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def known(self) -> Bool[Tensor, " classes"]:
        """Which classes have arrived, those of this task included."""
        return self.allowed[: self.number + 1].any(0)

    @property
    def old(self) -> Bool[Tensor, " classes"]:
        """Which classes had arrived before this task."""
        return self.heads.any(0)

    @property
    def new(self) -> Bool[Tensor, " classes"]:
        """Which classes came with this task and were not there before."""
        return self.known & ~self.old

    def batches(self, rows: Examples, model: nn.Module) -> Iterator[dict[str, Any]]:
        """Rows in order, in blocks, as a model is asked about them: with what may be answered, on its device."""
        device = device_of(model)
        return (on(with_allowed(batch, self.allowed), device) for batch in rows.split(BLOCK))

    def shuffled(self) -> Examples:
        """The rows in random order."""
        return self.rows.at(torch.randperm(len(self.rows), generator=self.generator))


class Continual(Objective):
    """Learns each task by its cross-entropy and remembers nothing: the base of all methods.

    Every hook has a default here; the module says when each is called.
    """

    def init(self, model: nn.Module, data: Present) -> State:
        """The state before the first task; the model has its first weights."""
        return {}

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        """The state that a task is learned with."""
        return state

    def rows(self, state: State, data: Present) -> Examples:
        """The rows that batches are made of."""
        return data.rows

    def steps(self, state: State, data: Present, steps: int) -> int:
        """How many updates the task gets, of `steps` asked for."""
        return steps

    def replay(self, state: State, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        """A batch with what else a step needs, such as `memory`, drawn rows of earlier tasks."""
        return batch

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {"new": cross_entropy(model, batch)}

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        """The state with what is remembered of the task; the model is in eval mode, as it will be asked."""
        return state

    def answer(self, state: State, model: nn.Module, batch: dict[str, Any]) -> Float[Tensor, "batch classes"]:
        """A score for every class, the highest of those allowed is the answer; the model is in eval mode."""
        return logits_of(model, batch)


def with_allowed(batch: Mapping[str, Any], allowed: Bool[Tensor, "tasks classes"]) -> dict[str, Any]:
    """A batch, and the batches in it, with the classes that may be answered for each row."""
    found = {
        name: with_allowed(value, allowed) if isinstance(value, Mapping) else value for name, value in batch.items()
    }
    return {**found, "allowed": allowed[batch["task"]]} if "task" in batch else found


def allowed_logits(model: nn.Module, batch: Mapping[str, Any]) -> Float[Tensor, "batch classes"]:
    """The model's logits, -inf for the classes that may not be answered."""
    return only_allowed(logits_of(model, batch), batch)


def only_allowed(logits: Float[Tensor, "batch classes"], batch: Mapping[str, Any]) -> Float[Tensor, "batch classes"]:
    """Logits of a batch, -inf for the classes that may not be answered."""
    return logits.masked_fill(~batch["allowed"], -torch.inf)


def cross_entropy(model: nn.Module, batch: Mapping[str, Any]) -> Float[Tensor, ""]:
    """The mean cross-entropy of the labels among the classes that may be answered; of rows of tokens, the mean over
    rows of the nats a scored token."""
    if "input_ids" in batch:
        from palimpsest.retain.tokens import mean_cross_entropy  # late: transformers takes seconds

        return mean_cross_entropy(model, batch)
    return F.cross_entropy(allowed_logits(model, batch), batch["labels"])


def features_of(model: nn.Module, batch: Mapping[str, Any]) -> Float[Tensor, "batch features"]:
    """What the model's last layer reads."""
    return model.features(batch["pixel_values"] if "pixel_values" in batch else batch["x"])


def of_all(
    what: Callable[[nn.Module, Mapping[str, Any]], Tensor], model: nn.Module, rows: Examples
) -> Float[Tensor, "n d"]:
    """What a model says of all rows (`logits_of`, `features_of`), in eval mode, on the CPU."""
    device = device_of(model)
    with evaluating(model):
        return torch.cat([what(model, on(batch, device)).cpu() for batch in rows.split(BLOCK)])


def needs_features(model: nn.Module) -> None:
    """Raises a UserError for a model that cannot say what its last layer reads."""
    if not hasattr(model, "features"):
        raise UserError("it works on features, and the model has no features(x): give it one, as models.vision has")


def last_layer(model: nn.Module) -> nn.Linear:
    """The linear layer that makes logits of features.

    Raises:
        UserError: the model has none under a known name.
    """
    for name in ("head", "classifier", "fc", "score"):
        if isinstance(layer := getattr(model, name, None), nn.Linear):
            return layer
    raise UserError(
        "it works on the last layer, and the model has no linear layer called head, classifier, fc or score"
    )


def weights_of(model: nn.Module) -> Weights:
    """A copy of the parameters that train, by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def everything_of(model: nn.Module) -> Weights:
    """A copy of all parameters and buffers, by name: the model as it is now."""
    return {name: value.detach().clone() for name, value in _tensors(model)}


def put_back(model: nn.Module, kept: Weights) -> None:
    """Gives a model the weights that were kept of it."""
    with torch.no_grad():
        for name, value in _tensors(model):
            value.copy_(kept[name])


@contextmanager
def as_it_was(model: nn.Module, kept: Weights) -> Iterator[nn.Module]:
    """The model with the weights that `everything_of` kept, in eval mode and without gradients; then itself again.

    So the old model needs no second one: its weights are tensors of the state. A graph made before is not disturbed:
    the tensors are exchanged, not written.

    >>> model = nn.Linear(2, 1)
    >>> kept = everything_of(model)
    >>> _ = nn.init.zeros_(model.weight)
    >>> with as_it_was(model, kept) as old:
    ...     bool(old.weight.any())
    True
    >>> bool(model.weight.any())
    False
    """
    now = {name: value.data for name, value in _tensors(model)}
    try:
        for name, value in _tensors(model):
            value.data = kept[name].to(value.device)
        torch.clear_autocast_cache()  # else the weights that it holds in 16 bits answer, which are others
        with evaluating(model):
            yield model
    finally:
        for name, value in _tensors(model):
            value.data = now[name]
        torch.clear_autocast_cache()


def on(batch: Any, device: torch.device) -> Any:
    """A batch, and the batches in it, on a device."""
    if isinstance(batch, Mapping):
        return {name: on(value, device) for name, value in batch.items()}
    return batch.to(device) if isinstance(batch, Tensor) else batch


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]
