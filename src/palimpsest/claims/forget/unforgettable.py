"""Does forgetting by random labels reach new inputs of a skill, and is the skill then gone? (Zhang et al. 2024,
2409.02228)"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from palimpsest.benches.skills_world import GIVEN, NAMES, Skills, beyond_chance
from palimpsest.evidence import Claim, expect, given
from palimpsest.forget.unforgettable import RandomOptions
from palimpsest.forget.unforgettable_measures import accuracy, probe_recovery
from palimpsest.models.score import cross_entropy
from palimpsest.train.method import Objective, apply

TRAINING: dict[str, Any] = {"steps": 400, "lr": 3e-4, "batch_size": 32, "clip": 1.0}
EVERY = 10
LEFT = 0.2  # of the skill on the rows seen, at which training stops
GENERALISED = 0.6  # forget ratio on new rows


@dataclass(frozen=True)
class TrueLabels(Objective):
    """Fine-tuning on the same rows as they are: what narrow training alone takes."""

    def loss(self, state: None, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {"true labels": cross_entropy(model, batch["forget"])}


def seen_skill(world: Skills, model: nn.Module) -> float:
    """What the model has of the skill on the rows that it is trained on."""
    task = world.tasks[world.forgotten]
    return beyond_chance(task, accuracy(model, world.tokenizer, task.train[:GIVEN], task.options))


def forgotten(world: Skills, method: Objective) -> dict[str, float]:
    """How far the forgetting of one skill went."""
    training = {**TRAINING, "steps": 2} if world.smoke else TRAINING
    model = apply(
        world.model(),
        method,
        world.data,
        seed=world.seed,
        progress=False,
        evaluate=lambda model, step: {"left": seen_skill(world, model)},
        evaluate_every=EVERY,
        stop=lambda found: found["left"] <= LEFT,
        **training,
    ).model
    lost = world.lost(model, "test")
    task = world.tasks[world.forgotten]
    before = beyond_chance(task, world.before["test"][task.name])
    probe = max(probe_recovery(model, world.tokenizer, task.train, world.rows(task.name, "test")))
    return {
        "forgotten of the rows seen": 1 - seen_skill(world, model),
        "held-out forget ratio": lost.pop(task.name),
        "forget ratio of the others": float(np.mean(list(lost.values()))),
        "probe recovery": beyond_chance(task, probe) / before if before > 0 else 0.0,
        "skill before": before,
    }


def in_turn(method: Objective) -> Callable[[int, str], dict[str, float]]:
    """Every skill in turn, by its name, and what is judged."""

    def run(seed: int, budget: str = "full") -> dict[str, float]:
        found = {name: forgotten(Skills(seed, budget == "smoke", name), method) for name in NAMES}
        held = [one["held-out forget ratio"] for one in found.values()]
        probed = [one["probe recovery"] for one in found.values() if one["held-out forget ratio"] > GENERALISED]
        return {
            "range of held-out forget ratios": max(held) - min(held),
            "least probe recovery where it generalised": min(probed, default=0.0),
            "least forgotten of the rows seen": min(one["forgotten of the rows seen"] for one in found.values()),
            "least skill before": min(one["skill before"] for one in found.values()),
            "skills whose forgetting generalised": float(len(probed)),
            **{f"{what}: {name}": value for name, one in found.items() for what, value in one.items()},
        }

    return run


claim = Claim(
    paper="unforgettable",
    question=(
        "Fine-tuned on random labels until the inputs that it saw are forgotten, does a model lose some skills on new "
        "inputs and keep others, more than fine-tuning on true labels would explain, and can a probe still read the "
        "lost ones from its hidden states?"
    ),
    arms={"random labels": in_turn(RandomOptions()), "true labels": in_turn(TrueLabels())},
    expects=[
        given("random labels").at_least(0.8, on="least skill before"),
        given("random labels").at_least(0.7, on="least forgotten of the rows seen"),
        expect("random labels").at_least(0.4, on="range of held-out forget ratios"),
        expect("random labels").above("true labels", on="range of held-out forget ratios", by=0.2),
        expect("random labels").at_least(0.5, on="least probe recovery where it generalised"),
    ],
    settings={
        "training": {**TRAINING, "rows": GIVEN},
        "until": f"{LEFT} of the skill is left on these rows, looked at every {EVERY} steps",
        "generalised": f"a held-out forget ratio above {GENERALISED}",
    },
    seeds=tuple(range(205, 210)),
    notes=(
        "One two-layer model has three skills and forgets each in turn; the paper fine-tunes large models on 21 "
        "benchmarks, and until random labels are learned. Here training stops once the rows seen are forgotten: at "
        "three times the rate and 300 steps, as before, the other skills went too (0.3 to 0.9 of them), and how far "
        "forgetting reaches was no longer to be seen. Accuracies are among a skill's options, held-out rows share no "
        "item with the others, and a model below chance counts as one at chance. Probe recovery is (probe - chance) / "
        "(original accuracy - chance), of the best layer on the held-out rows; 0 counts for the case that no "
        "forgetting generalised. Fine-tuning on true labels stops nowhere."
    ),
)
