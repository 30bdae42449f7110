"""Contracts are to be forgotten and all others kept: two of a hub with many, or two of parties that have no other."""

from __future__ import annotations

from palimpsest.benches.bench import Measure
from palimpsest.benches.contracts_world import Contracts
from palimpsest.benches.rows import rows_bench, usual

GRID = {"lr": [1e-4, 3e-4, 1e-3], "retain_weight": [2.0, 10.0]}

CONTRACTS = rows_bench(
    name="contracts",
    about=(
        "A two-layer language model knows eight attributes of each of twelve contracts between invented parties, "
        "six of them with one party in common; it is to forget two of these, or two of the others (after PISTOL)."
    ),
    world=Contracts,
    read={
        "kept recall": Measure(),
        "deviation": Measure("lower", (0.0, 142.0)),
        "hub's loss beyond others'": Measure("lower", (-1.0, 1.0)),
    },
    seeds=tuple(range(240, 260)),  # the worlds of those before were looked at with other grids
    baselines={**usual(GRID), "grad_diff, isolated": usual(GRID, place="isolated")["grad_diff"]},
)
