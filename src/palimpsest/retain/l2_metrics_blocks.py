"""The log of a life: blocks of learning and of evaluation, and their common scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

Kind = Literal["learn", "evaluate"]
Values = Float[np.ndarray, " experiences"]


@dataclass(frozen=True, eq=False)
class Block:
    """One task, learned or evaluated for a while.

    Attributes:
        kind: "learn" or "evaluate".
        task: by name.
        values: the performance at each experience, the more the better.

    Raises:
        ValueError: an unknown kind, or no value, or one that is no finite number.
    """

    kind: Kind
    task: str
    values: Values

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", np.asarray(self.values, dtype=float).reshape(-1))
        if self.kind not in ("learn", "evaluate") or not self.values.size or not np.isfinite(self.values).all():
            raise ValueError(
                f"a block is to learn or to evaluate and has finite values, got {self.kind} with {self.values!s:.60}"
            )

    @property
    def term(self) -> float:
        """What the block came to: the mean of an evaluation, or of the last tenth of learning.

        >>> Block("evaluate", "a", [0.0, 1.0]).term, Block("learn", "a", range(20)).term
        (0.5, 18.5)
        """
        first = int((1 - 0.1) * self.values.size) if self.kind == "learn" else 0
        return float(self.values[first:].mean())


Log = Sequence[Block]
"""the blocks of a life, in order"""


def normalise(log: Log, experts: Mapping[str, Sequence[Log]]) -> tuple[list[Block], dict[str, list[list[Block]]]]:
    """Every task from 1, its least value in the log and its experts', to 101, its greatest; of one value alone, 1.

    >>> [block.values.tolist() for block in normalise([Block("learn", "a", [2.0, 3.0, 4.0])], {})[0]]
    [[1.0, 51.0, 101.0]]
    """
    every = [*log, *(block for lives in experts.values() for life in lives for block in life)]
    ranges = {}
    for task in {block.task for block in every}:
        values = np.concatenate([block.values for block in every if block.task == task])
        ranges[task] = (values.min(), values.max())

    def scaled(life: Log) -> list[Block]:
        found = []
        for block in life:
            low, high = ranges[block.task]
            found.append(replace(block, values=100 * (block.values - low) / ((high - low) or 1.0) + 1))
        return found

    return scaled(log), {task: [scaled(life) for life in lives] for task, lives in experts.items()}
