"""Does taking away a small assistant's logits forget as much as training the model, at no cost to the rest?
(Ji et al. 2024, 2406.08607)"""

from __future__ import annotations

import random
import time
from typing import Any

from torch import nn

from palimpsest.evidence import Claim, expect, given
from palimpsest.forget.authors_trial import AuthorsTrial, Curve, model_arm
from palimpsest.forget.baselines import GradAscent
from palimpsest.forget.intervention import intervene
from palimpsest.forget.npo import NPO
from palimpsest.forget.procedure import Pair, unlearn
from palimpsest.forget.uld import ULD
from palimpsest.models.score import prompt_template
from palimpsest.train import NonFiniteLoss

TRAINING = {"steps": 200, "optimizer": "adamw", "batch_size": 16}
BASELINES = {**TRAINING, "clip": 1.0}
ASSISTANT = {**TRAINING, "schedule": "linear", "warmup": 20}
ABOVE_GOLD = 0.05  # forgotten: forget ROUGE-L at most that of the model that never saw the rows, plus this
EVERY = 4
METHODS: dict[str, tuple[Any, float]] = {
    "grad_diff": (GradAscent(retain="ce", per_token=False), 3e-3),
    "kl": (GradAscent(retain="kl", per_token=False), 3e-4),
    "npo-rt": (NPO(), 3e-4),
    "uld": (ULD(n_layers=1, weight=1.5, mismatch=False), 2e-2),
    "uld without uniform": (ULD(n_layers=1, weight=1.5, retain_weight=0.0), 2e-2),
    "uld with perturbed answers": (ULD(n_layers=1, weight=1.5), 1e-2),
}
TRIED = (
    "On seed 0, eight settings a method, and the best of them again on seed 1. Baselines, at most 120 steps, by model"
    " utility where they had forgotten: SGD 0.001, 0.003, 0.01, 0.03 and AdamW 1e-4, 3e-4, 1e-3, 3e-3. ULD, by model"
    " utility and forget ROUGE-L: AdamW 0.003, 0.01, 0.02, 0.04, each with and without perturbed answers; the weight,"
    " which only scales what was learned, among 0.8, 1, 1.2, 1.5 and 3. Looked at besides, for ULD only: a constant"
    " learning rate of 0.001, 0.003, 0.01 and 0.03, 400 steps, and no dropout."
)


def perturbed(trial: AuthorsTrial) -> list[Pair]:
    """The wordings that the model was trained on, with a value that is neither the right one nor one of those that the
    truth ratio will be measured with."""
    rng = random.Random(trial.seed)
    values = {attribute.name: attribute.values for attribute in trial.world.task.attributes}
    template = prompt_template(trial.world.tokenizer)
    made = []
    for row in trial.world.task.forget:
        others = [value for value in values[row.attr] if value not in (row.value, *row.wrong)]
        for question, answer in row.pairs:
            made.append(template.pair(question, answer.replace(row.value, rng.choice(others))))
    return made


def forgotten(trial: AuthorsTrial, method: Any, lr: float) -> tuple[nn.Module, dict[str, float | Curve]]:
    """The base model made to forget, and what that took: baselines stop where they have forgotten; the assistant is
    trained to the end, because at first it takes away everything."""
    model = trial.world.model("base")
    size = sum(p.numel() for p in model.parameters())
    target = trial.gold_rouge + ABOVE_GOLD
    scoring = 0.0

    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        nonlocal scoring
        started = time.perf_counter()
        rouge = trial.forget_rouge(model)
        scoring += time.perf_counter() - started
        return {"forget ROUGE-L": rouge}

    options = {**(ASSISTANT if isinstance(method, ULD) else BASELINES), "lr": lr, "seed": trial.seed, "progress": False}
    if trial.smoke:
        options |= {"steps": 2, "warmup": 0}
    started, steps, share = time.perf_counter(), options["steps"], 1.0
    if isinstance(method, ULD):
        wrong = perturbed(trial) if method.mismatch and method.retain_weight else ()
        model, learned = intervene(model, method, trial.data, perturbed=wrong, **options)
        share = sum(value.numel() for value in learned.values()) / size
    else:
        try:
            history = unlearn(
                model,
                method,
                trial.data,
                evaluate=evaluate,
                evaluate_every=EVERY,
                stop=lambda e: e["forget ROUGE-L"] <= target,
                **options,
            )
        except NonFiniteLoss as error:
            history = error.history
        steps = len(history.steps)
    seconds = time.perf_counter() - started - scoring
    return model, {
        "forget ROUGE-L above gold": trial.forget_rouge(model) - trial.gold_rouge,
        "steps": float(steps),
        "seconds": seconds,
        "trained share": share,
    }


def arm(name: str):
    method, lr = METHODS[name]

    def run(seed: int, budget: str = "full") -> dict[str, float | Curve]:
        trial = AuthorsTrial(seed, smoke=budget == "smoke")
        model, cost = forgotten(trial, method, lr)
        return {**trial.scores(model).metrics(), **cost}

    return run


claim = Claim(
    paper="uld",
    question=(
        "Once the forget answers are gone, has the model lost less where a small assistant's logits were taken away "
        "than where it was trained to forget; and is it the assistant's uniform output on the rest that spares it?"
    ),
    arms={"full": model_arm("base"), **{name: arm(name) for name in METHODS}},
    expects=[
        given("full").at_least(0.8, on="forget probability"),
        expect("uld").above("full", on="model utility", by=-0.03),
        expect("uld").at_most(ABOVE_GOLD, on="forget ROUGE-L above gold"),
        expect("grad_diff").below("full", on="model utility", by=0.05),
        expect("kl").below("full", on="model utility", by=0.05),
        expect("uld").at_most(0.25, on="trained share"),
        expect("uld without uniform").below("uld", on="model utility", by=0.05),
    ],
    settings={
        "baselines": BASELINES,
        "assistant": ASSISTANT,
        "forgotten at gold's forget ROUGE-L plus": ABOVE_GOLD,
        "baselines scored every": EVERY,
        "methods and learning rates": METHODS,
        "tried": TRIED,
    },
    notes=(
        "A two-layer model that knows 40 fictitious authors forgets 8 of them; the assistant has one of its two "
        "layers, as against 8 of 32 in Llama-2-7B. The baselines stop where their forget ROUGE-L falls to the "
        "retrained model's plus 0.05; the assistant is trained to the end, since before it has learned to be uniform "
        "it takes everything away. Every forget row is trained on in two wordings, which stand for the paper's "
        "paraphrases. Its perturbed answers are an arm of their own: here they share all words but the value with "
        "the right answer, so that what the assistant is to know and what it is not to know meet at the same words. "
        "The weight is 1.5 in place of 0.8, because a small model's assistant is less sure than the model. The "
        "retrained model's forget ROUGE-L is near 0.07 here, because it answers questions about strangers with the "
        "bare names of its general knowledge; that a model says none of the words of a sentence is more than to have "
        "forgotten its fact. Seconds depend on the machine. The paper: no loss of utility on TOFU, where baselines "
        "lose 17% on average, in less than a third of the training time."
    ),
)
