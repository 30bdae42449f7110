"""Does unlearning what is private of a person cost what is public of the same person, and does it cost less where only
located tensors move? (Tian et al. 2024, 2407.01920)"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.evidence import Claim, expect, given
from palimpsest.forget.knowundo import MemFlex, knowundo_task
from palimpsest.forget.knowundo_measures import BASELINES, accuracy, knowundo_score
from palimpsest.forget.procedure import encode_pairs, prepare, unlearn
from palimpsest.forget.refusals import REFUSALS
from palimpsest.models import word_tokenizer
from palimpsest.models.score import prompt_template
from palimpsest.tasks.private_people import KnowUnDoTask
from palimpsest.tasks.rows import normalise
from palimpsest.tasks.worlds import MAX_TOKENS, trained_lm
from palimpsest.train import NonFiniteLoss

WORLD = {"n": 24, "shown": 0.5}
MODEL = {"d_model": 128, "n_layers": 2, "epochs": 40, "lr": 2e-3, "batch_size": 16}
SMALL = {"d_model": 16, "n_layers": 1, "epochs": 3, "lr": 3e-3, "batch_size": 16}
RUN = {"steps": 200, "batch_size": 16, "optimizer": "adamw", "clip": 1.0, "progress": False}
SUCCESS = 0.9
MATRICES = "_proj"
LEARNING_RATES = {
    "grad_ascent": 3e-4,
    "grad_diff": 3e-4,
    "kl": 3e-4,
    "random-located": 3e-4,
    "memflex": 3e-4,
    "grad_diff at 0.4 : 2": 3e-4,
}


def method(name: str, seed: int) -> Any:
    if name == "grad_diff at 0.4 : 2":
        return MemFlex().inner
    if name in BASELINES:
        return BASELINES[name]
    located = "random" if name == "random-located" else "memflex"
    return MemFlex(grad=None, names=MATRICES, located=located, seed=seed)


@dataclass(frozen=True)
class World:
    """A small model that knows all of everybody, and facts of the world."""

    seed: int
    smoke: bool

    @cached_property
    def task(self) -> KnowUnDoTask:
        return knowundo_task(self.seed, **({"n": 2} if self.smoke else WORLD))

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        tokenizer = word_tokenizer(self.task.words(REFUSALS))
        tokenizer.chat_template = "{{ messages[0]['content'] }}"
        return tokenizer

    def base(self) -> PreTrainedModel:
        template = prompt_template(self.tokenizer)
        pairs = [template.pair(*pair) for pair in (self.task.learned()[:64] if self.smoke else self.task.learned())]
        settings = SMALL if self.smoke else MODEL
        return trained_lm(f"private-people-{self.seed}", self.tokenizer, pairs, seed=self.seed, **settings)

    def measures(self, model: nn.Module) -> dict[str, float]:
        general = [normalise(row.to_json()) for row in self.task.general[: 4 if self.smoke else None]]
        sets = (self.task.pairs("unlearn", "val"), self.task.pairs("retention", "val"), {"facts": general})
        found = knowundo_score(model, *sets, tokenizer=self.tokenizer)
        shown = knowundo_score(model, self.task.pairs("retention", "train"), tokenizer=self.tokenizer, generate=False)
        return {
            "unlearn success": found.unlearn_success,
            "retention success": found.retention_success,
            "accuracy on shown public rows": 1 - shown.unlearn_success,
            "general accuracy": found.general["facts"],
            "unlearn ROUGE-L": found.sets["unlearn"].rouge_l,
            "retention ROUGE-L": found.sets["retention"].rouge_l,
            "retention perplexity": min(found.sets["retention"].perplexity, 1e12),
        }


def run(name: str, seed: int, smoke: bool, lr: float | None = None) -> dict[str, float]:
    world = World(seed, smoke)
    model, tokenizer = world.base(), world.tokenizer
    template = prompt_template(tokenizer)
    private, public, judged = (
        [template.pair(*pair) for pair in world.task.pairs(*part)]
        for part in (("unlearn", "train"), ("retention", "train"), ("unlearn", "val"))
    )
    data = prepare(tokenizer, private, public, max_length=MAX_TOKENS, seed=seed)
    rows = encode_pairs(tokenizer, judged, max_length=MAX_TOKENS)
    ids = {"pad_id": data.pad_id, "end_id": tokenizer.eos_token_id}
    objective, steps, reached = method(name, seed), 0, False

    def evaluate(model: nn.Module, step: int) -> dict[str, float]:
        nonlocal steps
        steps = step
        return {"unlearn success": 1 - accuracy(model, rows, **ids)}

    with suppress(NonFiniteLoss):
        history = unlearn(
            model,
            objective,
            data,
            **{**RUN, **({"steps": 2} if smoke else {})},
            lr=lr or LEARNING_RATES[name],
            seed=seed,
            evaluate=evaluate,
            evaluate_every=1,
            stop=lambda found: found["unlearn success"] >= SUCCESS,
        )
        reached = history.evaluations[-1]["unlearn success"] >= SUCCESS
    found = world.measures(model)
    # Where the level is not reached there is no checkpoint to judge: nothing counts as kept.
    found["retention success"], found["retention at the end"] = (
        reached * found["retention success"],
        found["retention success"],
    )
    found |= {"reached": float(reached), "steps": float(steps)}
    if isinstance(objective, MemFlex):
        found["tensors located"] = float(len(objective.locate(world.base(), data)))
    return found


def arm(name: str):
    return lambda seed, budget="full": run(name, seed, budget == "smoke")


def base(seed: int, budget: str = "full") -> dict[str, float]:
    world = World(seed, budget == "smoke")
    return world.measures(world.base())


claim = Claim(
    paper="knowundo",
    question=(
        "When people's private attributes are unlearned: are public ones of them lost too, and are fewer lost "
        "where only the tensors move that gradients on random answers locate, than where as many others move?"
    ),
    arms={"base": base, **{name: arm(name) for name in LEARNING_RATES}},
    expects=[
        given("base").at_most(0.1, on="unlearn success"),
        given("base").at_least(0.9, on="retention success"),
        given("grad_ascent").at_least(1, on="reached"),
        expect("grad_ascent").at_most(0.5, on="retention success"),
        expect("memflex").above("random-located", on="retention success", by=0.05),
        expect("memflex").above("grad_diff", on="retention success", by=-0.01),
    ],
    settings={
        "world": WORLD,
        "model": MODEL,
        "unlearning": RUN,
        "stop at unlearn success": SUCCESS,
        "learning rates": LEARNING_RATES,
        "candidates of the located arms": MATRICES,
        "tried": (
            "AdamW 3e-4, 1e-3 and 3e-3 for every arm on seeds 0 and 1, with a base model of 30 epochs at 3e-3: by the "
            "mean of both, 3e-4, the lowest, kept most public rows in every arm. The base then got 40 epochs at 2e-3, "
            "because it did not know all of seed 1. On seed 0 the located arms also ran over all tensors, norms and "
            "embeddings included: then random kept 0.75 and memflex 0.65."
        ),
    },
    notes=(
        "A two-layer model knows the addresses, phones and salaries (private) and the books, prizes, languages and "
        "publishers (public) of 24 invented people; the paper has rows of its own, and 7B models with LoRA. "
        "Unlearning is shown all private rows and half of each person's public ones, and judged by the private rows "
        "asked in another way and by the other half of the public ones: what is trained on as a retain row is hardly "
        "ever lost. Answers are bare values of independent words, so that a teacher-forced accuracy, the benchmark's, "
        "can come down to a tenth. An arm that never reaches the level keeps nothing (see `reached`). The paper "
        "locates among LoRA matrices; here the 14 matrices of the linear layers are the candidates, and those above "
        "the median gradient move. The threshold of the cosine is the paper's, 0.92; on the pilot seeds it excluded "
        "none of these, so that the gradient's size alone decided. The located arms weigh both terms 0.4 : 2, as the "
        "paper does; the last arm gives these weights to all tensors and tells how much of a difference to grad_diff "
        "is theirs. General accuracy is that of choosing among four answers to questions about the world, which no "
        "arm is shown while it unlearns."
    ),
)
