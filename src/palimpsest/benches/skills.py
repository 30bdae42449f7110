"""One of a small model's skills is to go and the others are to stay: with training and without.

Nothing stops a method but its own settings: what is judged is how much more of the skill is gone than of the others.
"""

from __future__ import annotations

from palimpsest.benches.arm import Recipe
from palimpsest.benches.bench import Bench, Measure
from palimpsest.benches.skills_world import Skills, measures, validate
from palimpsest.forget.baselines import GradAscent
from palimpsest.forget.skill_unlearning import NeuronAdjust

SHARES = [2.0, 5.0, 10.0, 20.0, 30.0, 40.0]

SKILLS = Bench(
    name="skills",
    about=(
        "A two-layer language model answers three kinds of questions by true or false: what follows, which letter is"
        " more frequent, odd or even. It is to lose one of the skills, which one the seed decides; of one other,"
        " methods are given rows to keep."
    ),
    world=Skills,
    measures=measures,
    read={
        "selectivity": Measure(bounds=(-1.0, 1.0)),
        "forget ratio": Measure(),
        "forget ratio of other skills": Measure("lower"),
        "least skill before": Measure(),
        "seconds": Measure("lower", None),
    },
    validate=validate,
    start="base",
    floor=("base", Recipe(start="base")),
    ceiling=("gold", Recipe(start="gold")),
    baselines={
        "grad_diff": Recipe(GradAscent(), grid={"lr": [1e-4, 3e-4, 1e-3], "retain_weight": [5.0, 20.0]}),
        "neuron_adjust": Recipe(NeuronAdjust(), grid={"percent": SHARES}),
        "pruning": Recipe(NeuronAdjust(to="zero"), grid={"percent": SHARES}),
    },
    pilots=(0, 1, 2),  # one for each skill
    training={"steps": 60, "optimizer": "adamw", "clip": 1.0, "batch_size": 16},
)
