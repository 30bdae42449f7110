"""Does pushing a sparse autoencoder's features below zero make a model forget, and at what cost?
(Farrell, Lau and Conmy 2024, 2410.19278)"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from palimpsest.claims.forget.truly_unlearn import RATES, UNLEARNING, rows, unlearned, zero_shot
from palimpsest.evidence import Claim, expect, given
from palimpsest.forget.procedure import encode_pairs
from palimpsest.forget.sae_unlearning import SaeClamp, residual_stream, side_effect
from palimpsest.models.sae import quality, train_sae
from palimpsest.models.score import Encoded
from palimpsest.tasks.multiple_choice import MAX_TOKENS, MultipleChoiceWorld, smoke_world, training_pairs
from palimpsest.tasks.worlds import cached

LAYER, WIDTH, ACTIVE = 2, 8, 8
TRAINING = {"steps": 4000, "lr": 2e-3}
KS, SCALES = (1, 5, 20), (1.0, 5.0, 20.0)
FINER = (5.0, 20.0, 80.0, 160.0, 320.0, 1280.0)  # to match rmu's level with many features
COST = 0.1  # the largest loss of retained accuracy that counts as little
MANY = max(KS)


def world_of(seed: int, smoke: bool) -> MultipleChoiceWorld:
    return smoke_world(seed) if smoke else MultipleChoiceWorld(seed, n_things=12, shared=False)


def reading(world: MultipleChoiceWorld) -> Encoded:
    """What the autoencoder is trained on: both subjects in all phrasings, without examples, and text."""
    pairs = [pair for questions in world.task.values() for pair in training_pairs(questions, shots=(0,))]
    pairs += [("", text) for text in world.known_text]
    return encode_pairs(world.tokenizer, pairs, max_length=MAX_TOKENS)


def learned(seed: int, smoke: bool) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The autoencoder with the `MANY` chosen features, and how good it is; kept on disk, because every arm needs it."""
    world = world_of(seed, smoke)
    training = {"steps": 3, "lr": 1e-3} if smoke else TRAINING

    def build(folder: Path) -> None:
        model, data = world.model("base"), rows(world)
        seen = residual_stream(model, reading(world), LAYER, pad_id=data.pad_id)
        sae = train_sae(seen, WIDTH * seen.shape[1], k=ACTIVE, seed=seed, **training)
        # The features are chosen on the rows that every method gets: questions in the plain form.
        forget, retain = (residual_stream(model, r, LAYER, pad_id=data.pad_id) for r in (data.forget, data.retain))
        found = SaeClamp(layer=LAYER, k=MANY, active=ACTIVE, retain_max=1.0 if smoke else 0.01).choose(
            sae, forget, retain
        )
        save_file({name: value.contiguous() for name, value in found.items()}, folder / "learned.safetensors")
        (folder / "quality.json").write_text(json.dumps(quality(sae, seen)))

    settings = {
        "seed": seed,
        "world": repr(world),
        "training": training,
        "active": ACTIVE,
        "width": WIDTH,
        "layer": LAYER,
    }
    folder = cached(f"sae-unlearning-{seed}", {**settings, "k": MANY, "recipe": 2}, build)
    return load_file(folder / "learned.safetensors"), json.loads((folder / "quality.json").read_text())


def rmu_measures(seed: int, smoke: bool) -> dict[str, float]:
    """RMU as in the claim truly_unlearn, on this world; kept on disk, because another arm needs its level."""
    world = world_of(seed, smoke)

    def build(folder: Path) -> None:
        model, _ = unlearned("rmu", world, 2 if smoke else UNLEARNING["steps"], RATES["rmu"])
        (folder / "rmu.json").write_text(json.dumps(measures(world, model)))

    settings = {"seed": seed, "world": repr(world), "unlearning": UNLEARNING, "recipe": 1}
    return json.loads((cached(f"sae-unlearning-rmu-{seed}", settings, build) / "rmu.json").read_text())


def measures(world: MultipleChoiceWorld, model: Any) -> dict[str, float]:
    base = world.model("base")
    cost = side_effect(model, base, world.tokenizer, questions=world.task[world.retain], texts=world.known_text)
    accuracy = zero_shot(world, model)
    return {"forget accuracy": accuracy, "drop": zero_shot(world, base) - accuracy, **cost}


def clamp(seed: int, smoke: bool, k: int, scale: float) -> dict[str, float]:
    """What the first k features do, clamped at minus `scale` times their means."""
    world, (found, _) = world_of(seed, smoke), learned(seed, smoke)
    model = world.model("base")
    first = {**found, "features": found["features"][:k], "mean": found["mean"][:k]}
    SaeClamp(layer=LAYER, active=ACTIVE, scale_by=scale).install(model, world.tokenizer, first)
    return measures(world, model)


def arm(*scales: float):
    """All numbers of features at these scales."""

    def run(seed: int, budget: str = "full") -> dict[str, float]:
        smoke = budget == "smoke"
        pairs = [(k, scale) for k in KS for scale in scales][: 1 if smoke else None]
        found = {f"k={k}, c={scale:g}": clamp(seed, smoke, k, scale) for k, scale in pairs}
        cheap = [each["drop"] for each in found.values() if each["accuracy loss"] <= COST]
        metrics = {f"{name}, {where}": value for where, each in found.items() for name, value in each.items()}
        return {
            **metrics,
            "largest drop": max(each["drop"] for each in found.values()),
            "largest drop at little cost": max(cheap, default=0.0),
        }

    return run


def many_features(seed: int, budget: str = "full") -> dict[str, float]:
    """Many features at the scale whose forget accuracy is nearest to rmu's."""
    smoke = budget == "smoke"
    level = rmu_measures(seed, smoke)["forget accuracy"]
    found = {scale: clamp(seed, smoke, MANY, scale) for scale in FINER[: 1 if smoke else None]}
    scale = min(found, key=lambda c: (abs(found[c]["forget accuracy"] - level), c))
    return {**found[scale], "scale": scale, "away from rmu's level": abs(found[scale]["forget accuracy"] - level)}


def rmu(seed: int, budget: str = "full") -> dict[str, float]:
    return rmu_measures(seed, budget == "smoke")


def base(seed: int, budget: str = "full") -> dict[str, float]:
    world, (found, good) = world_of(seed, budget == "smoke"), learned(seed, budget == "smoke")
    return {"forget accuracy": zero_shot(world, world.model("base")), "chosen": float(len(found["features"])), **good}


claim = Claim(
    paper="sae_unlearning",
    question=(
        "Is it necessary to push features below zero rather than to ablate them, does that make a model forget at "
        "little cost, and do many features cost as much as RMU?"
    ),
    arms={
        "base": base,
        "zero ablation": arm(0.0),
        **{f"clamp c={scale:g}": arm(scale) for scale in SCALES},
        "negative clamps": arm(*SCALES),
        "many features": many_features,
        "rmu": rmu,
    },
    expects=[
        given("base").at_least(0.8, on="forget accuracy"),
        given("base").at_least(0.8, on="explained"),
        expect("negative clamps").at_least(0.3, on="largest drop at little cost"),
        expect("zero ablation").at_most(0.1, on="largest drop"),
        expect("many features").above("rmu", on="added text loss", by=-0.02),
    ],
    settings={
        "world": {"n_things": 12, "shared": False},
        "autoencoder": {"layer": LAYER, "width": WIDTH, "active": ACTIVE, **TRAINING},
        "numbers of features": KS,
        "clamps, in means of the feature": SCALES,
        "clamps that are tried to match rmu": FINER,
        "little cost: accuracy on the retained subject falls by at most": COST,
        "tried": (
            "On seed 0. With the questions of truly_unlearn, which both subjects share, no feature that at most 1% of "
            "the retain tokens have was on more than 0.3% of the forget tokens, and no clamp changed an answer; hence "
            "properties of their own. With an l1 of 0.3, 1 and 4 at layers 1 and 2 (1500 steps; 4 also with 4000) no "
            "clamp changed an answer either. With the 8 largest features a token (4000 steps), 20 features and c = 20: "
            "a drop of 0.00 at layer 1 and of 0.42 at layer 2, with as large a loss on the retained subject; with a "
            "retain_max of 0.05 instead of 0.01, up to 0.67 and 0.67. Scales up to 80 left many features 0.33 above "
            "rmu's level, so larger ones were added."
        ),
    },
    notes=(
        "A four-layer model with a residual stream of 96 dimensions, whose two subjects share little but the form of a "
        "question; the paper takes Gemma's public autoencoders, of 16 thousand features and more, and biology against "
        "other subjects of MMLU. The model knows letters by heart, and its features are mostly of tokens. Costs are "
        "measured on the retained subject and on sentences of Python's documentation that the model was trained on. "
        "'Many features' is clamped where its forget accuracy is nearest to RMU's, of the scales listed; on "
        "seed 0 no scale brought it within 0.3, and then the last sentence compares unequal levels: see 'away from "
        "rmu's level'. That zero ablation does nothing is held, and so it would be for the milder negative clamps: the "
        "chosen features are on few tokens, and most of the autoencoder's are dead. The pilots ran before the world "
        "was trained for 20 epochs. Features that flip an answer in every order of the options (in the room) are not "
        "looked for: this model knows one order only."
    ),
)
