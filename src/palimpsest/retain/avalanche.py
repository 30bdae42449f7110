"""Strategies of the library Avalanche as methods of this family, so that both are compared on the same streams.

Source: Lomonaco et al. (2021), Avalanche: an end-to-end library for continual learning, arXiv 2104.00405. The library
is no dependency: `pip install avalanche-lib`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.data import TensorDataset

from palimpsest.errors import UserError
from palimpsest.retain.continual import Continual, Present, State
from palimpsest.retain.phases import input_name


class AvalancheStrategy(Continual):
    """One strategy, made of the stream's model when that begins, which trains it itself, task by task.

    Its state is its own: a stream that is learned by it cannot be resumed from a checkpoint.
    """

    def __init__(self, make: Callable[[nn.Module], Any]) -> None:
        self.make = make

    def init(self, model: nn.Module, data: Present) -> State:
        self.strategy = self.make(_Logits(model))
        return {}

    def steps(self, state: State, data: Present, steps: int) -> int:
        return 0

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        columns = data.rows.columns
        self.strategy.train(_experience(columns[input_name(columns)], data.rows.labels, data.number))
        model.eval()
        return {}


class _Logits(nn.Module):
    """A model that gives logits and nothing else."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        output = self.model(x)
        return getattr(output, "logits", output)


def avalanche_adapter(make: Callable[[nn.Module], Any]) -> AvalancheStrategy:
    """A method that learns by a strategy of Avalanche.

    Args:
        make: the stream's model -> a strategy with `train(experience)`, such as
            `lambda model: Replay(model=model, optimizer=SGD(model.parameters(), lr=0.1), criterion=CrossEntropyLoss(),
            mem_size=200, train_epochs=1)`.

    Raises:
        UserError: the library is not installed.
    """
    _library()
    return AvalancheStrategy(make)


def _library() -> Any:
    try:
        from avalanche.benchmarks import benchmark_from_datasets
    except ImportError:
        raise UserError("this needs the library Avalanche: pip install avalanche-lib") from None
    return benchmark_from_datasets


def _experience(x: Tensor, labels: Tensor, number: int) -> Any:
    from avalanche.benchmarks.utils import DataAttribute, make_avalanche_dataset

    rows = make_avalanche_dataset(
        TensorDataset(x, labels),
        data_attributes=[
            DataAttribute(labels.tolist(), name="targets"),
            DataAttribute([number] * len(labels), name="targets_task_labels", use_in_getitem=True),
        ],
    )
    experience = _library()(train=[rows]).train_stream[0]
    experience.current_experience = number
    return experience
