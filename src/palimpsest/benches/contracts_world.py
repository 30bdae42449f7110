"""Contracts between companies and people, of which a model is to forget two: of a hub, or of parties that have no
other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

from torch import nn

from palimpsest.benches.rows_kit import Rows, RowsWorld, dealt
from palimpsest.forget.pistol import deviation_score
from palimpsest.forget.procedure import Pair
from palimpsest.tasks.contracts import ContractGraph, ContractRow, contract_graph

GRAPH = {"hub_degree": 6, "chains": 0, "isolated": 6, "attrs": 8, "n_facts": 0}
SMALL = {"hub_degree": 4, "chains": 0, "isolated": 4, "attrs": 6, "n_facts": 0}
PLACES, FORGOTTEN_EDGES = ("hub", "isolated"), 2


@dataclass(frozen=True)
class Contracts(RowsWorld):
    """Twelve contracts of eight attributes, six of them with one party in common.

    Two of the hub's and two isolated ones are such as can be forgotten: the retrained model never saw the four, so that
    what is kept is the same wherever one forgets. Of it methods are given a quarter; the rest is split between
    validation and test, row by row, so that something of every contract is in each.

    Attributes:
        place: which contracts are to be forgotten: the two of the hub, or the two isolated ones.
    """

    place: Literal["hub", "isolated"] = "hub"

    training: ClassVar[dict[str, Any]] = {"d_model": 128, "n_layers": 2, "epochs": 75, "lr": 2e-3, "batch_size": 16}

    @cached_property
    def graph(self) -> ContractGraph:
        """The contracts."""
        return contract_graph(**(SMALL if self.smoke else GRAPH), seed=self.seed)

    @cached_property
    def parts(self) -> dict[str, list[ContractRow]]:
        """Rows of the hub's and of the isolated contracts that can be forgotten; those that methods are given, and
        those of validation; and the rows of the test, on the hub's other contracts and on the others."""
        hub = self.graph.edges[0][0]
        edges = {place: [e for e in self.graph.edges if (hub in e) == (place == "hub")] for place in PLACES}
        found = {place: self.graph.of(edges[place][:FORGOTTEN_EDGES]) for place in PLACES}
        kept = [self.graph.of(edges[place][FORGOTTEN_EDGES:]) for place in PLACES]
        dealt_rows = [dealt(rows, self.seed, (1 / 4, 3 / 8, 3 / 8)) for rows in kept]
        for number, name in enumerate(("given", "validation")):
            found[name] = [row for parts in dealt_rows for row in parts[number]]
        return {**found, "hub's others": dealt_rows[0][2], "others": dealt_rows[1][2]}

    @cached_property
    def rows(self) -> Rows:
        parts = {name: asked(rows) for name, rows in self.parts.items()}
        test = [*parts["hub's others"], *parts["others"]]
        return Rows(parts[self.place], parts["given"], parts["validation"], test)

    def learned(self, kind: str) -> list[Pair]:
        hidden = [row for place in PLACES for row in asked(self.parts[place])]
        return sorted([*self.rows.kept, *(hidden if kind == "base" else ())])

    def measured(self, model: nn.Module) -> dict[str, float]:
        """What is left of the forgotten contracts, of the hub's other ones and of the others; the deviation score
        between what is forgotten and all that is kept, and how much more of the hub's was lost than of the others'."""
        found = super().measured(model)
        found["deviation"] = deviation_score(found["forget recall"], found["kept recall"])
        of = {f"recall of {name}": self.recall(model, asked(self.parts[name])) for name in ("hub's others", "others")}
        return {**found, **of, "hub's loss beyond others'": of["recall of others"] - of["recall of hub's others"]}


def asked(rows: list[ContractRow]) -> list[Pair]:
    """Rows as questions and answers."""
    return [(row.question, row.answer) for row in rows]
