"""Can a skill be taken away without training, and leave the others? (Li and others 2025, 2503.21730)"""

from palimpsest.benches.arm import Recipe
from palimpsest.benches.skills import SKILLS
from palimpsest.evidence.sentences import at_least, beats, cost, mechanism
from palimpsest.forget.skill_unlearning import KeySpaceDetection

claim = SKILLS.claim(
    paper="skill_unlearning",
    name="key_space_detection",
    question=(
        "Without any training, does refusing the prompts whose keys lie in a skill's box take that skill away and "
        "leave the others, more cleanly than gradient difference?"
    ),
    method=Recipe(KeySpaceDetection(every_token=False), grid={"k_scale": [0.5, 0.75, 1.0, 1.25, 1.5, 2.0]}),
    alive=[at_least(0.8, on="least skill before", arm="base")],
    central=beats("grad_diff", on="selectivity", share_of_room=0.10),
    also=[mechanism(at_least(0.8, on="forget ratio")), cost(beats("grad_diff", on="seconds", by=0.0))],
    differs=(
        "A two-layer model and three skills, whose questions have wordings of their own and the answers true and false "
        "in common; the paper's skills are mathematics, code and languages in models of billions of parameters. A "
        "method sees 100 rows of the skill and as many of one other, and is asked held-out rows of all; 0.8 is the "
        "paper's figure. The width of the box and gradient difference's rate and weight are tuned alike. A refused "
        "prompt counts as a guess. Gradient difference takes 60 steps and stops nowhere. The paper's other method is "
        "not asked: this model does nearly without its MLPs, and neither mirroring nor pruning takes a skill away."
    ),
)
