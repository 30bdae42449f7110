"""Persons live in cities and cities lie in countries: of some persons the country is to be forgotten, which follows
from what is kept, or the city, from which it follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

from torch import nn

from palimpsest.benches.rows_kit import Rows, RowsWorld, dealt
from palimpsest.forget.composed_knowledge import compositional_recovery
from palimpsest.forget.procedure import Pair
from palimpsest.tasks.two_hop import HopRow, TwoHopTask, two_hop_task

TASK = {"n_persons": 24, "n_cities": 12, "n_countries": 6, "forget": 0.25}
PREMISES = ("person-city", "city-country")
SMALL = {"n_persons": 10, "n_cities": 4, "n_countries": 2, "forget": 0.2}


@dataclass(frozen=True)
class TwoHop(RowsWorld):
    """24 persons, 12 cities, 6 countries and 12 rivers; something of six of the persons is to be forgotten.

    Methods are given all premises that stay, where the persons live and where the cities lie, and nothing else about
    these six; of what can be concluded about the others, and of the rivers, they are given a third.

    Attributes:
        forget: whether those persons' countries or their home cities are to be forgotten.
    """

    forget: Literal["conclusions", "premises"] = "conclusions"

    training: ClassVar[dict[str, Any]] = {"d_model": 128, "n_layers": 2, "epochs": 50, "lr": 2e-3, "batch_size": 16}

    @cached_property
    def task(self) -> TwoHopTask:
        """The persons."""
        return two_hop_task(self.seed, **(SMALL if self.smoke else TASK))

    @cached_property
    def rows(self) -> Rows:
        sets = self.task.split(self.forget)
        premises = [row for row in sets["retain"] if row.kind in PREMISES]
        others = [row for row in sets["retain"] if row not in premises and row.subject not in self.task.chosen]
        left = [row for row in sets["retain"] if row not in premises and row not in others]
        given, validation, test = dealt(others, self.seed, (1 / 3, 1 / 3, 1 / 3))
        besides = told([*left, *sets["benign"], *sets["derived"]])
        return Rows(told(sets["forget"]), told([*premises, *given]), told(validation), told(test), besides)

    def measured(self, model: nn.Module) -> dict[str, float]:
        """What is left of the six persons' countries, asked for directly and by way of their cities, and of the
        rivers at their homes, which no method is told to forget or to keep."""
        sets = {name: told(rows) for name, rows in self.task.split("conclusions").items()}
        return {
            "chained recovery": compositional_recovery(model, self.tokenizer, self.task.rules()),
            "direct recall": self.recall(model, sets["forget"]),
            "benign recall": self.recall(model, sets["benign"]),
            **super().measured(model),
        }


def told(rows: Sequence[HopRow]) -> list[Pair]:
    """Both wordings of every row."""
    return [pair for row in rows for pair in row.pairs]
