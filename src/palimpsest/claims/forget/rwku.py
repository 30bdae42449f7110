"""Told only a name, do the usual methods forget a person also when one asks in other ways? (Jin et al. 2024,
2406.10890)"""

from palimpsest.benches import Recipe
from palimpsest.benches.targets import TARGETS
from palimpsest.evidence.sentences import at_least, beats, mechanism, safety

claim = TARGETS.claim(
    paper="rwku",
    question=(
        "Given only the names, methods make a model forget four people until plain questions bring out no more than of "
        "a model that never met them: do adversarial questions still bring out more, and does NPO spare the "
        "neighbours more than gradient difference?"
    ),
    name="npo",
    method=TARGETS.baselines["npo"],
    arms={"base": Recipe(start="base")},
    alive=[at_least(0.5, on="adversarial recall", arm="base")],
    central=at_least(0.05, on="adversarial excess"),
    also=[
        mechanism(at_least(0.05, on="adversarial excess", arm="grad_diff")),
        safety(beats("grad_diff", on="neighbour recall", share_of_room=0.10)),
    ],
    differs=(
        "A two-layer model that knows 14 made-up people of six facts forgets four of them together, from sixteen "
        "passages a target that it samples itself; the paper forgets famous people, one by one, with models of 3.8 and "
        "8 billion parameters, and gives nothing to keep, where both methods here are given rows about other people. A "
        "fact is learned in three of the adversarial kinds and asked for in these and in other words. What a question "
        "gives away by itself is taken off: the excess of adversarial over plain questions is that beyond the excess of"
        " the model that never met the targets. In-context unlearning, rejection tuning, DPO, steering, membership and "
        "general abilities are not compared; the room has them."
    ),
)
