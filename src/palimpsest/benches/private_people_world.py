"""People of whom the address, phone and salary are to be forgotten, and the rest of the same people kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from torch import nn

from palimpsest.benches.rows_kit import Part, Rows, RowsWorld, dealt
from palimpsest.forget.knowundo_measures import accuracy
from palimpsest.forget.procedure import Pair, encode_pairs
from palimpsest.tasks.private_people import KnowUnDoTask, SubjectRow, knowundo_task


@dataclass(frozen=True)
class PrivatePeople(RowsWorld):
    """Three private and four public attributes of each of 16 people, asked for in two ways. Of the public ones methods
    are given one of each person; the others are split between validation and test."""

    training: ClassVar[dict[str, Any]] = {"d_model": 64, "n_layers": 2, "epochs": 40, "lr": 5e-3, "batch_size": 16}

    @cached_property
    def task(self) -> KnowUnDoTask:
        """The people."""
        return knowundo_task(self.seed, n=4 if self.smoke else 16, shown=0.25)

    @cached_property
    def rows(self) -> Rows:
        validation, test = dealt(self.task.held_out, self.seed, (1 / 3, 2 / 3))
        return Rows(self.task.pairs("unlearn"), self.task.pairs("retention"), asked(validation), asked(test))

    def accuracy(self, model: nn.Module, rows: Sequence[Pair]) -> float:
        """The share of the answers' tokens that are the model's first choice after the true ones before them."""
        encoded = encode_pairs(self.tokenizer, self.told(rows), max_length=self.max_length)
        return accuracy(model, encoded, pad_id=self.tokenizer.pad_token_id, end_id=self.tokenizer.eos_token_id)

    def kept(self, model: nn.Module, part: Part) -> float:
        return self.accuracy(model, self.rows.test if part == "test" else self.rows.validation)

    def measured(self, model: nn.Module) -> dict[str, float]:
        """The benchmark's two successes, and the recall of what the model says by itself."""
        success = {"retention success": self.kept(model, "test")}
        return success | {"unlearn success": 1 - self.accuracy(model, self.rows.forget), **super().measured(model)}


def asked(rows: Sequence[SubjectRow]) -> list[Pair]:
    """Rows as questions, in two ways, and answers."""
    return [(question, row.answer) for row in rows for question in row.questions[:2]]
