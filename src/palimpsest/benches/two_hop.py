"""Conclusions are to be forgotten that follow from what is kept, or the premises that they follow from."""

from __future__ import annotations

from palimpsest.benches.bench import Measure
from palimpsest.benches.rows import rows_bench, usual
from palimpsest.benches.two_hop_world import TwoHop

TWO_HOP = rows_bench(
    name="two_hop",
    about=(
        "A two-layer language model knows where 24 persons live, in which countries and on which rivers their cities "
        "lie, and of every person the country and the river; of six persons it is to forget the country, or the city "
        "(after the survey of open problems of unlearning for safety)."
    ),
    world=TwoHop,
    read={"kept recall": Measure(), "chained recovery": Measure(), "benign recall": Measure()},
    seeds=tuple(range(220, 240)),  # the worlds of the usual ones were looked at with other grids
    baselines={**usual(), "grad_diff, premises": usual(forget="premises")["grad_diff"]},
)
