"""Do misleading arguments unteach one fact about a person, and only that one? (Sinha et al. 2024, 2410.17050)"""

from palimpsest.benches.arm import Recipe
from palimpsest.benches.one_fact import ONE_FACT, UNTIL_LEFT
from palimpsest.benches.one_fact_world import OTHERS, SAME
from palimpsest.evidence.sentences import beats, mechanism, not_worse, safety
from palimpsest.forget.unstar import UnStar

claim = ONE_FACT.claim(
    paper="unstar",
    question=(
        "Where the birthplaces of twelve people are forgotten, also in a wording that nothing was trained on, does"
        " UnStar leave more of other people's birthplaces than gradient difference; and is it the misleading argument?"
    ),
    method=Recipe(UnStar(), grid={"lr": [1e-4, 3e-4, 1e-3], "max_rounds": [20, 40]}, level=UNTIL_LEFT),
    central=beats("grad_diff", on=OTHERS, share_of_room=0.10),
    also=[
        mechanism(beats("no argument", on=OTHERS, share_of_room=0.10)),
        safety(not_worse("grad_diff", on=SAME, by=0.05)),
    ],
    arms={"no argument": {"rationales": False}},
    differs=(
        "Templates stand in for the language model that writes paraphrases and arguments; an argument tells of another"
        " author who has the wrong answer. A two-layer model never learned to reason: the argument is more text to"
        " learn before the wrong answer comes. Both methods, tuned, take at most 240 steps and stop when a tenth of the"
        " facts is left; UnStar also ends when nothing that it asks is answered any more. Without arguments it runs at"
        " UnStar's settings. How many rounds an argument saves is not asked."
    ),
)
