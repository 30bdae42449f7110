"""What is private of people is to be forgotten, and what is public of the same people kept."""

from __future__ import annotations

from palimpsest.benches.bench import Measure
from palimpsest.benches.private_people_world import PrivatePeople
from palimpsest.benches.rows import rows_bench

PRIVATE_PEOPLE = rows_bench(
    name="private_people",
    about=(
        "A two-layer language model knows the address, phone, salary, book, prize, language and publisher of 16 "
        "invented people; it is to forget the first three and to keep the others, of which methods are given one of "
        "each person (after KnowUnDo)."
    ),
    world=PrivatePeople,
    read={"retention success": Measure()},
    seeds=tuple(range(220, 240)),  # the worlds of the usual ones were looked at with other grids
)
