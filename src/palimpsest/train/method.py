"""The shapes of a method, and `apply`, which runs a method of any of them.

    Objective     init(model, data) -> state;  loss(state, model, batch) -> {term: scalar}       trained by `fit`
    Edit          edit(model, data, **training) -> model                                        in one go, no loop
    Intervention  learn(model, data, **training) -> {name: tensor};  install(model, tokenizer, learned) -> model

A method is a frozen dataclass of its hyperparameters, each with its range (`palimpsest.train.ranges`); all that changes
while it works lives in the state, so that a checkpoint holds it. The base classes have the defaults of what a method
may leave out; whatever else has the same functions is taken as well.

>>> from dataclasses import dataclass
>>> from typing import Annotated
>>> import torch
>>> from palimpsest.train import fit
>>> from palimpsest.train.ranges import AtLeast
>>> @dataclass(frozen=True)
... class Ridge(Objective):
...     penalty: Annotated[float, AtLeast(0)] = 0.1
...     def loss(self, state, model, batch):
...         x, y = batch
...         return {"error": (model(x) - y).square().mean(), "size": self.penalty * model.weight.square().sum()}
>>> rows = torch.eye(2), torch.ones(2, 1)
>>> model = apply(torch.nn.Linear(2, 1), Ridge(), None, batches=[rows], steps=3, lr=0.1).model
>>> Ridge(penalty=-1.0)
Traceback (most recent call last):
    ...
palimpsest.errors.UserError: penalty must be at least 0, got -1.0
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from palimpsest.errors import UserError
from palimpsest.train.history import History
from palimpsest.train.loop import fit
from palimpsest.train.ranges import check_fields


class Method:
    """What methods of every shape have.

    Attributes:
        needs: the parts of the data that the method cannot do without, by name: `{"retain"}`.
    """

    needs: frozenset[str] | Any = frozenset()

    def __post_init__(self) -> None:
        check_fields(self)

    def fits(self, model: nn.Module) -> None:
        """Raises a UserError, which says what is missing, for a model without a part that the method needs."""


class Objective(Method):
    """A loss that `fit` minimises. Two functions are optional, and not there by default:

    gradients(state, model) -> None     called between backward and clipping, may rewrite the parameters' `.grad` in
                                        place (projections, conflict-free averages)
    augment(batch, generator) -> batch  called on every joint batch before its rows go to the processes; what it draws
                                        from the generator (of the CPU) is a function of the seed and the batch's place
    """

    def init(self, model: nn.Module, data: Any) -> Any:
        """The state: reference log-probabilities, masks, prototypes; or None. The model is in eval mode."""
        return None

    def loss(self, state: Any, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """The named terms, scalars; their sum is minimised."""
        raise NotImplementedError(f"{type(self).__name__} has no loss(state, model, batch): write one")

    def trainable(self, model: nn.Module) -> Iterable[nn.Parameter]:
        """The parameters that train; the others are frozen meanwhile."""
        return model.parameters()

    def rewrite(self, data: Any) -> Any:
        """The data that it trains on, made from what it is given."""
        return data


class Edit(Method):
    """A change of the weights in one go."""

    def edit(self, model: nn.Module, data: Any, **training: Any) -> nn.Module:
        """The changed model; `training` (steps, lr, seed, ...) is for what it may have to train on the way."""
        raise NotImplementedError(f"{type(self).__name__} has no edit(model, data): write one")


class Intervention(Method):
    """Something learned beside a model, whose weights stay as they are, that changes what comes out of it."""

    def learn(self, model: nn.Module, data: Any, **training: Any) -> dict[str, Tensor]:
        """What it has to know, as tensors, so that it can be saved; the model is left as it was."""
        raise NotImplementedError(f"{type(self).__name__} has no learn(model, data): write one")

    def install(self, model: nn.Module, tokenizer: Any, learned: Mapping[str, Tensor]) -> nn.Module:
        """The model that behaves otherwise: the same one with hooks on it, or one around it."""
        raise NotImplementedError(f"{type(self).__name__} has no install(model, tokenizer, learned): write one")


@dataclass(frozen=True)
class Applied:
    """What became of a model.

    Attributes:
        model: the changed model: the same object for an objective, and as a rule for an edit.
        history: of an objective's training; None for other shapes.
        learned: what an intervention learned, which saving it wants; None for other shapes.
    """

    model: nn.Module
    history: History | None = None
    learned: dict[str, Tensor] | None = None


def apply(
    model: nn.Module,
    method: Any,
    data: Any,
    *,
    batches: Any = None,
    batch_size: int = 16,
    seed: int = 0,
    **training: Any,
) -> Applied:
    """Applies a method of any shape to a model.

    Args:
        model: changed in place by all but interventions.
        method: an objective (or a plain function, as for `fit`), an edit or an intervention.
        data: what the method learns from. For an objective its `batches(batch_size, seed)` gives the batches, unless
            `batches` does.
        batches, training: as for `palimpsest.train.fit`; `batches` and checkpoints are for objectives only.

    Raises:
        UserError: if the method needs data that are missing, or parts that the model lacks.
        NonFiniteLoss: if an objective's loss is not finite.
    """
    check_needs(method, data)
    check_model(method, model)
    if not is_objective(method):
        training = {name: value for name, value in training.items() if not name.startswith("checkpoint")}
        training |= {"batch_size": batch_size, "seed": seed}
        if hasattr(method, "edit"):
            return Applied(method.edit(model, data, **training))
        learned = method.learn(model, data, **training)
        return Applied(method.install(model, data.tokenizer, learned), learned=learned)
    data = method.rewrite(data) if hasattr(method, "rewrite") else data
    batches = data.batches(batch_size, seed) if batches is None else batches
    with only_trainable(model, method):
        return Applied(model, fit(model, method, batches, seed=seed, data=data, **training))


def is_objective(method: Any) -> bool:
    """Whether `fit` trains on it, step by step, with checkpoints: an objective or a plain function, not an edit or an
    intervention."""
    return not hasattr(method, "edit") and not hasattr(method, "learn")


def check_needs(method: Any, data: Any) -> None:
    """Raises a UserError that names the part of the data which a method needs and `data` lacks."""
    needs = getattr(method, "needs", frozenset())
    in_order = [name for name in getattr(data, "__dict__", ()) if name in needs]  # first what others are made from
    for name in in_order or sorted(needs):
        if getattr(data, name, None) is None:
            raise UserError(f"{type(method).__name__} needs {name} rows, and there are none: give some")


def check_model(method: Any, model: nn.Module) -> None:
    """Raises a UserError that names method and architecture where the method needs a part that the model lacks: what
    its `fits(model)` says, and whether anything trains."""
    try:
        if hasattr(method, "fits"):
            method.fits(model)
        if not hasattr(method, "learn"):
            chosen = method.trainable(model) if hasattr(method, "trainable") else model.parameters()
            if not any(p.requires_grad for p in chosen):
                raise UserError("it trains weights that are frozen in this model: merge its adapter first")
    except UserError as error:
        name = type(getattr(model, "get_base_model", lambda: model)()).__name__
        raise UserError(f"{type(method).__name__} cannot be applied to {name}: {error}") from None


@contextmanager
def only_trainable(model: nn.Module, objective: Any) -> Iterator[None]:
    """Freezes, for the time of the block, all parameters that `objective.trainable(model)` does not name."""
    if not hasattr(objective, "trainable"):
        yield
        return
    chosen = {id(p) for p in objective.trainable(model)}
    before = [(p, p.requires_grad) for p in model.parameters()]
    try:
        for p, flag in before:
            p.requires_grad_(flag and id(p) in chosen)
        yield
    finally:
        for p, flag in before:
            p.requires_grad_(flag)
