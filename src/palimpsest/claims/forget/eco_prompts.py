"""Does a model that hears flagged questions through noise answer as if it had never been told? (Liu et al. 2024,
2406.07933)"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from palimpsest.evidence import Claim, expect, given
from palimpsest.forget.baselines import GradAscent
from palimpsest.forget.eco_prompts import ECO, forget_measure
from palimpsest.forget.evaluation import states
from palimpsest.forget.mixture_trial import MixtureTrial, mixture_model_arm
from palimpsest.forget.npo import NPO
from palimpsest.forget.prompt_gate import PromptGate, RefusalGuard
from palimpsest.models.score import greedy, prompt_template
from palimpsest.tasks.authors import AuthorRow, authors_task

SGD = {"steps": 120, "optimizer": "sgd", "batch_size": 16, "until_gold": 0.05}
GATE = {"encoder": "minilm", "confidence": 0.99}
# Of 0.001, 0.002, 0.005, 0.01, 0.02 and 0.05, on seed 0: the highest model utility at the level; 0.001 is too slow for
# the level to be reached on seed 1.
TRAINED = {"grad_diff": (GradAscent(retain="ce", per_token=False), 0.002), "npo-rt": (NPO(), 0.002)}
INSTALLED = {"refusal guard": RefusalGuard(**GATE), "eco": ECO(**GATE), "eco, own embeddings": ECO()}
STRANGERS = {"seed": 500_000, "authors": 8}


def unseen_measure(trial: MixtureTrial, model: nn.Module) -> float:
    """The surrogate, without a retrained model: how near the model comes to the truth about authors it never met."""
    task = authors_task(STRANGERS["authors"], 8, 0.5, trial.seed + STRANGERS["seed"])
    template = prompt_template(trial.world.tokenizer)
    rows = (task.forget + task.retain)[: 4 if trial.smoke else 64]
    return forget_measure(model, trial.world.tokenizer, [template.pair(row.q, row.answer) for row in rows])


def distance(trial: MixtureTrial, metrics: dict[str, Any]) -> dict[str, float]:
    """How far the answers to the forget rows are from those of a model that never saw them, as ROUGE-L sees it."""
    return {"forget rouge distance to gold": abs(metrics["forget rouge"] - trial.gold_rouge)}


def at_the_gate(trial: MixtureTrial, model: nn.Module, gate: PromptGate) -> dict[str, float]:
    """Whom the gate stops by mistake, and what gets past it in a wording it was not fitted on."""
    tokenizer, task = trial.world.tokenizer, trial.world.task
    template = prompt_template(tokenizer)

    def share(rows: tuple[AuthorRow, ...], *, new_wording: bool) -> float:
        prompts = [template.prompt(row.q_para if new_wording else row.q) for row in rows]
        ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
        return float(gate.flags(tokenizer.batch_decode(ids, skip_special_tokens=True)).float().mean())

    forget = task.forget
    asked_anew = [template.prompt(row.q_para) for row in forget]
    said = greedy(model, tokenizer, asked_anew, max_new_tokens=4 if trial.smoke else 24)
    facts = task.real_authors + task.world_facts
    return {
        "gate misses": 1 - share(forget, new_wording=False),
        "gate misses, new wording": 1 - share(forget, new_wording=True),
        "forget accuracy, new wording": float(
            np.mean([states(answer, row.value) for answer, row in zip(said, forget, strict=True)])
        ),
        "gate false positives": share(task.retain, new_wording=False),
        "gate false positives, new wording": share(task.retain, new_wording=True),
        "gate false positives, facts": share(facts, new_wording=False),
    }


def arm(name: str):
    def run(seed: int, budget: str = "full") -> dict[str, Any]:
        trial = MixtureTrial(seed, smoke=budget == "smoke")
        if name in TRAINED:
            method, lr = TRAINED[name]
            model, metrics = trial.run(method, lr=lr, **SGD)
            return {**metrics, **trial.skills(model), **distance(trial, metrics)}
        # Loading the sentence encoder is no part of a smoke run.
        method = replace(INSTALLED[name], encoder="model") if trial.smoke else INSTALLED[name]
        if isinstance(method, ECO):
            method = replace(method, surrogate=unseen_measure(trial, trial.world.model("base")))
        model, metrics = trial.run(method)
        gate = model.gate if isinstance(method, RefusalGuard) else model.eco.gate
        if isinstance(method, ECO):
            metrics |= {"surrogate": method.surrogate, "strength": model.eco.strength}
        return {**metrics, **trial.skills(model), **distance(trial, metrics), **at_the_gate(trial, model, gate)}

    return run


def as_it_is(kind: str):
    def run(seed: int, budget: str = "full") -> dict[str, Any]:
        metrics = mixture_model_arm(kind)(seed, budget)
        return {**metrics, **distance(MixtureTrial(seed, smoke=budget == "smoke"), metrics)}

    return run


claim = Claim(
    paper="eco_prompts",
    question=(
        "When the prompts that a gate flags are corrupted on their way in, and no weight is touched, does the model "
        "keep everything else, and does it answer the flagged ones more like a model that never saw the rows than "
        "one that refuses them?"
    ),
    seeds=tuple(range(105, 110)),
    arms={"full": as_it_is("base"), **{name: arm(name) for name in (*TRAINED, *INSTALLED)}, "gold": as_it_is("gold")},
    expects=[
        given("full").at_least(0.8, on="forget probability"),
        given("full").at_least(0.9, on="arithmetic accuracy"),
        expect("eco").above("full", on="model utility", by=-0.02),
        expect("eco").within("full", on="arithmetic accuracy", by=0.0),
        expect("eco").at_most(0.1, on="forget rouge distance to gold"),
        expect("eco").below("refusal guard", on="forget rouge distance to gold"),
        expect("eco").above("full", on="log10 forget quality", by=3.0),
    ],
    settings={
        "baselines": SGD,
        "baselines' learning rates": TRAINED,
        "learning rates tried, each baseline, seed 0": [0.001, 0.002, 0.005, 0.01, 0.02, 0.05],
        "interventions": INSTALLED,
        "confidences tried, seeds 0-2, by misses and false positives": [0.02, 0.5, 0.9, 0.99],
        "strangers, for the surrogate": STRANGERS,
    },
    notes=(
        "A two-layer model knows 40 fictitious authors, sums of one digit, some sentences of Python's documentation "
        "and how to refuse; 8 authors are to be forgotten. The paper's gate is a fine-tuned RoBERTa with a threshold "
        "of 0.99 or a conformal one; here a logistic regression on frozen MiniLM embeddings has both (the exploratory "
        "arm reads the model's own embeddings, and is content with 0.5). As in the authors' code, the gate never sees "
        "the questions about the real world: those that it stops are what utility it costs. The surrogate is the base "
        "model's own ROUGE-L on authors whom nobody ever met, so that nothing is taken from the retrained model. "
        "Baselines stop at the first even step at which the forget rows' ROUGE-L is at most the retrained model's plus "
        "0.05. Forget questions in a wording that neither the model nor the gate was trained on show what leaks past "
        "the gate (above 10% it is the method's limit); forget accuracy shows what the noise leaves of the answers "
        "where the gate holds. Answers that are scored are heard through the noise too, as the authors score them. The "
        "arms with MiniLM need the extra `encoder`."
    ),
)
