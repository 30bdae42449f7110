"""Does training on vague answers keep a model's speech intact where ascent breaks it? (Xu et al. 2025, 2502.11190)"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from palimpsest.evidence import Claim, expect, given
from palimpsest.forget.authors_trial import AuthorsTrial
from palimpsest.forget.baselines import IDK, GradAscent
from palimpsest.forget.npo import NPO
from palimpsest.forget.procedure import encode_pairs, unlearn
from palimpsest.forget.refusals import REFUSALS
from palimpsest.forget.relearn import (
    Reference,
    ReLearn,
    kfr,
    krr,
    linguistic_score,
    perplexities,
    share_distinct,
    states_another,
)
from palimpsest.forget.rewording import TEXTS, vague
from palimpsest.models.score import prompt_template
from palimpsest.tasks.authors import AuthorRow
from palimpsest.tasks.worlds import MAX_TOKENS, AuthorsWorld, trained_lm
from palimpsest.train import NonFiniteLoss

EPOCHS = 20  # of the base model: after the world's usual 13 it answers only some 60% of the questions it has seen
TRAINING = {"steps": 160, "optimizer": "adamw", "batch_size": 16, "clip": 1.0}
FORGOTTEN = 0.8
RETAINED = 64  # retain rows that KRR is measured on
JUDGE = {"d_model": 64, "n_layers": 2, "epochs": 6, "lr": 3e-3}
METHODS: dict[str, tuple[Any, float]] = {
    "grad_diff": (GradAscent(retain="ce"), 3e-4),
    "npo-rt": (NPO(), 3e-4),
    "idk": (IDK(), 1e-3),
    "relearn": (ReLearn(), 1e-3),
}
TRIED = (
    "On seed 0, of four values each the one with the highest KRR among those with KFR at least 0.8, then looked at on"
    " seed 1: grad_diff and npo-rt 1e-5, 3e-5, 1e-4, 3e-4; idk 1e-4, 3e-4, 1e-3, 3e-3; relearn 3e-4, 1e-3, 2e-3, 3e-3."
    " Before that: 80 steps instead of 160, and a stop at the first step with KFR at least 0.8, which caught relearn"
    " half way between two answers. Book titles, which share an article with their question, were left out of KFR and"
    " KRR at first. Measured again on seed 0 without that error: grad_diff 3e-5, 1e-4, 3e-4 (its choice moved from"
    " 1e-4 to 3e-4), npo-rt 3e-4, relearn 3e-4 and 1e-3; idk 3e-3 was measured only so. The other values were not."
)


@dataclass(frozen=True)
class Trial(AuthorsTrial):
    """The authors world whose tokenizer also knows the words of the vague answers, and a judge of its language."""

    @cached_property
    def world(self) -> AuthorsWorld:
        world = replace(super().world, vocabulary=REFUSALS + TEXTS)
        return world if self.smoke else replace(world, epochs=EPOCHS)

    @cached_property
    def judge(self) -> nn.Module:
        """A third language model: of all answers, wordings and refusals, and of vague answers to all questions."""
        rng = random.Random(self.seed)
        rows = self.world.task.rows("all")
        texts = [text for row in rows for text in (*(answer for _, answer in row.pairs), row.para)]
        texts += [vague(row.q, row.answer, rng) for row in rows] + [rng.choice(REFUSALS) for _ in rows]
        settings = {**JUDGE, "d_model": 16, "n_layers": 1, "epochs": 1} if self.smoke else JUDGE
        pairs = [("", text) for text in texts[:: 3 if self.smoke else 1]]
        return trained_lm("relearn-judge", self.world.tokenizer, pairs, seed=self.seed + 40_000_000, **settings)

    @cached_property
    def retained(self) -> list[AuthorRow]:
        rows = list(self.world.task.retain)
        return random.Random(self.seed).sample(rows, min(4 if self.smoke else RETAINED, len(rows)))

    def rate(self, measure: Any, model: nn.Module, rows: list[AuthorRow]) -> tuple[float, list[str]]:
        """KFR or KRR of what the model says to the rows' first questions, and what it says."""
        said = [text.strip() for text, _ in self.answered(model, rows)]
        values = {attribute.name: states_another(attribute.values) for attribute in self.world.task.attributes}
        references = [Reference(row.answer, (row.value,), row.q) for row in rows]
        return measure(said, references, contradicts=[values[row.attr] for row in rows]), said

    def top1(self, model: nn.Module) -> float:
        """The largest probability at the answer's first token, the mean over the forget rows' first questions."""
        template = prompt_template(self.world.tokenizer)
        pairs = [template.pair(row.q, row.answer) for row in self.world.task.forget]
        rows = encode_pairs(self.world.tokenizer, pairs, max_length=MAX_TOKENS)
        batch = rows.batch(range(len(rows)), self.data.pad_id)
        with torch.no_grad():
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        last = torch.tensor(rows.prompt_lengths) - 1
        return float(logits[torch.arange(len(rows)), last].softmax(-1).amax(-1).mean())

    def measures(self, model: nn.Module) -> dict[str, float]:
        forget = list(self.world.task.forget[: 4 if self.smoke else None])
        forgotten, said = self.rate(kfr, model, forget)
        kept, said_kept = self.rate(krr, model, self.retained)
        ppl, ppl_kept = (perplexities(self.judge, self.world.tokenizer, texts) for texts in (said, said_kept))
        return {
            "KFR": forgotten,
            "KRR": kept,
            "LS": linguistic_score(said, ppl),
            "LS on retain rows": linguistic_score(said_kept, ppl_kept),
            "median perplexity": float(min(sorted(ppl)[len(ppl) // 2], 1e6)),
            "distinct outputs": share_distinct(said),
            "top-1 probability": self.top1(model),
        }


def base(seed: int, budget: str = "full") -> dict[str, float]:
    trial = Trial(seed, smoke=budget == "smoke")
    return trial.measures(trial.world.model("base"))


def arm(name: str):
    """All methods train for the same number of steps, each at the learning rate that suits it best."""

    def run(seed: int, budget: str = "full") -> dict[str, float]:
        trial = Trial(seed, smoke=budget == "smoke")
        model = trial.world.model("base")
        before = trial.top1(model)
        method, lr = METHODS[name]
        options = {**TRAINING, "steps": 2} if trial.smoke else TRAINING
        diverged = 0.0
        try:
            unlearn(model, method, trial.data, lr=lr, seed=seed, progress=False, **options)
        except NonFiniteLoss:  # the weights before that step are judged
            diverged = 1.0
        found = trial.measures(model)
        return {
            **found,
            "top-1 probability lost": before - found["top-1 probability"],
            "top-1 probability moved": abs(before - found["top-1 probability"]),
            "diverged": diverged,
        }

    return run


claim = Claim(
    paper="relearn",
    question=(
        "Where at least 80% of the forget rows are forgotten, does a model trained on vague answers speak better than "
        "one that gradient difference or NPO has made forget, does it keep as much, and does it stay as sure of its "
        "first token?"
    ),
    arms={"base": base, **{name: arm(name) for name in METHODS}},
    expects=[
        given("base").at_most(0.2, on="KFR"),
        *(given(name).at_least(FORGOTTEN, on="KFR") for name in ("grad_diff", "npo-rt", "relearn")),
        expect("relearn").above("npo-rt", on="LS", by=0.05),
        expect("relearn").above("grad_diff", on="LS", by=0.05),
        expect("relearn").above("npo-rt", on="KRR", by=-0.02),
        expect("relearn").at_most(0.2, on="top-1 probability moved"),
        expect("grad_diff").at_least(0.3, on="top-1 probability lost"),
    ],
    settings={
        "epochs of the base model": EPOCHS,
        "training": TRAINING,
        "retain rows": RETAINED,
        "judge": JUDGE,
        "methods and learning rates": METHODS,
        "learning rates tried": TRIED,
    },
    notes=(
        "The authors let language models write the variants and the vague answers, and name and compare entities; here "
        "templates write them, a row's only entity is its value, and another value of the same attribute counts as a "
        "contradiction. Their templates begin with the question as a clause, so the judge's language is narrow. The "
        "linguistic score rewards short fluent text: a refusal that is the same for every question scores well, which "
        "the share of distinct outputs shows (exploratory). The base model is trained for 20 epochs, where the authors "
        "world takes 13, so that it answers nearly all questions to begin with."
    ),
)
