"""Does attribution pick weights whose training forgets at less cost than others? (Jia et al. 2024, 2410.17509)"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from torch import nn

from palimpsest.evidence import Claim, expect
from palimpsest.forget.authors_trial import AuthorsTrial
from palimpsest.forget.procedure import unlearn
from palimpsest.forget.wagle import Wagle
from palimpsest.train import NonFiniteLoss

LEVELS = tuple(round(0.4 + 0.05 * i, 2) for i in range(11))  # of 1 - forget ROUGE-L
MASKS = ("dense", "random", "magnitude", "|g_f|", "wagle")
OBJECTIVES = {"grad_diff": "grad_diff", "npo-rt": "npo"}
KEEP = 0.8
RUN = {"steps": 60, "batch_size": 16, "optimizer": "adamw", "clip": 1.0, "progress": False}
EVERY = 2
RATE = {"grad_diff": 1e-3, "npo-rt": 1e-3}


def method(objective: str, mask: str, seed: int) -> Any:
    if mask == "dense":
        return Wagle(OBJECTIVES[objective]).inner
    return Wagle(OBJECTIVES[objective], keep=KEEP, mask={"|g_f|": "gradient"}.get(mask, mask), seed=seed)


def area(trajectory: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The area under utility over the forget levels, and the highest level reached. Utility at a level is interpolated
    between the evaluations where the run first crosses it, and 0 at a level that it never reaches."""
    at = []
    for level in LEVELS:
        crossing = next((i for i, (found, _) in enumerate(trajectory) if found >= level), None)
        if not crossing:  # never, or before the first step
            at.append(trajectory[0][1] if crossing == 0 else 0.0)
            continue
        (x0, y0), (x1, y1) = trajectory[crossing - 1 : crossing + 1]
        at.append(y0 + (y1 - y0) * (level - x0) / (x1 - x0))
    return float(np.trapezoid(at, LEVELS)), max(level for level, _ in trajectory)


def arm(objective: str, mask: str):
    def run(seed: int, budget: str = "full") -> dict[str, float | list[tuple[float, float]]]:
        smoke = budget == "smoke"
        trial = AuthorsTrial(seed, smoke=smoke)
        model = trial.world.model("base")
        trajectory: list[tuple[float, float]] = []

        def evaluate(model: nn.Module, step: int) -> dict[str, float]:
            scores = trial.scores(model, against_gold=False)
            trajectory.append((1 - float(scores.sets["forget"].rouge.mean()), scores.model_utility))
            return {"level": trajectory[-1][0]}

        with suppress(NonFiniteLoss):  # then what it reached before counts
            unlearn(
                model,
                method(objective, mask, seed),
                trial.data,
                lr=RATE[objective],
                seed=seed,
                evaluate=evaluate,
                evaluate_every=EVERY,
                stop=lambda found: found["level"] >= LEVELS[-1],
                **{**RUN, **({"steps": 2} if smoke else {})},
            )
        under, reached = area(trajectory)
        return {
            "area under utility": under,
            "mean utility over levels": under / (LEVELS[-1] - LEVELS[0]),
            "highest forget level": reached,
            "steps": float(EVERY * (len(trajectory) - 1)),
            "utility before": trajectory[0][1],
            "utility by forget level": sorted(trajectory),
        }

    return run


claim = Claim(
    paper="wagle",
    question=(
        "When four fifths of the weights may move, does attribution pick a fifth to freeze that leaves the model more "
        "useful, at each level of forgetting, than a random fifth, and no less useful than when all move?"
    ),
    arms={f"{objective}, {mask}": arm(objective, mask) for objective in OBJECTIVES for mask in MASKS},
    expects=[
        expect("npo-rt, wagle").above("npo-rt, random", on="area under utility", by=0.02),
        expect("grad_diff, wagle").above("grad_diff, random", on="area under utility", by=0.02),
        expect("npo-rt, wagle").above("npo-rt, dense", on="area under utility", by=-0.01),
        expect("grad_diff, wagle").above("grad_diff, dense", on="area under utility", by=-0.01),
    ],
    settings={
        "share of weights that train": KEEP,
        "unlearning": RUN,
        "learning rates": RATE,
        "tried": "3e-4, 1e-3 and 3e-3 on seed 0, without a mask; every mask runs at the rate chosen there",
        "forget levels": LEVELS,
    },
    notes=(
        "A two-layer model that knows 40 made-up authors forgets 8 of them; the paper works on models of 7 billion "
        "parameters, of which far fewer matter. Forget level is 1 - ROUGE-L of the answers to the forget questions; "
        "the area is that under TOFU's model utility from 0.4 to 0.9, at most 0.5, and a level that is not reached "
        "within the steps counts as utility 0. mu is the median of the retain loss's diagonal Fisher information. The "
        "rates suit the unmasked runs, which makes the comparison with them, if anything, harder on the masks."
    ),
)
