"""Does forgetting conclusions leave the way to them, and forgetting a premise take harmless knowledge along?
(Barez et al. 2025, 2501.04952)"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.evidence import Claim, expect, given
from palimpsest.forget.baselines import IDK, RMU, hidden_states
from palimpsest.forget.npo import NPO
from palimpsest.forget.open_problems_unlearning import (
    accuracy,
    compositional_recovery,
    dual_use_cost,
    evaluation_gap,
)
from palimpsest.forget.procedure import ForgetData, Pair, prepare, unlearn
from palimpsest.forget.refusals import REFUSALS
from palimpsest.models import word_tokenizer
from palimpsest.tasks.two_hop import HopRow, TwoHopTask, two_hop_task
from palimpsest.tasks.worlds import MAX_TOKENS, trained_lm
from palimpsest.train import NonFiniteLoss

TASK = {"n_persons": 60, "n_cities": 20, "n_countries": 10, "forget": 0.1}
BASE = {"d_model": 128, "n_layers": 2, "epochs": 50, "lr": 1e-3, "batch_size": 16}
RUN = {"steps": 120, "batch_size": 12, "optimizer": "adamw", "clip": 1.0, "progress": False}
RMU_TARGET, RMU_ALPHA = 2.5, 1.0  # the target's length, in mean norms of the hidden state, and the retain weight
LOST, COST = 0.3, 0.15  # the specification's: chained recovery at most, dual-use cost at least
HOW = ("two_steps", "premises")
RATES = {"npo-rt": 3e-4, "idk": 1e-3, "rmu": 1e-3}
SMALL_TASK = {"n_persons": 10, "n_cities": 4, "n_countries": 2, "forget": 0.2}
SMALL_BASE = {"d_model": 16, "n_layers": 1, "epochs": 3, "lr": 1e-3, "batch_size": 16}


@dataclass(frozen=True)
class World:
    """The facts of a seed, and models that know them."""

    seed: int
    smoke: bool

    @cached_property
    def task(self) -> TwoHopTask:
        return two_hop_task(self.seed, **(SMALL_TASK if self.smoke else TASK))

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        tokenizer = word_tokenizer([*self.task.words(), *REFUSALS])
        tokenizer.chat_template = "{{ messages[0]['content'] }}"
        return tokenizer

    def model(self, kind: str) -> PreTrainedModel:
        """ "base" knows all rows, "gold" all but the conclusions to forget, from other weights."""
        hidden = self.task.split("conclusions")["forget"] if kind == "gold" else []
        rows = [row for row in self.task.rows if row not in hidden]
        settings = SMALL_BASE if self.smoke else BASE
        seed = self.seed + 10_000_000 * (kind == "gold")
        return trained_lm(f"two-hop-{kind}-{self.seed}", self.tokenizer, told(rows), seed=seed, **settings)

    def unlearned(self, method: str, forget: str) -> tuple[nn.Module, bool]:
        """The base model after unlearning, and whether its loss became infinite (then the weights before that)."""
        parts = self.task.split(forget)
        data = prepare(
            self.tokenizer, told(parts["forget"]), told(parts["retain"]), max_length=MAX_TOKENS, seed=self.seed
        )
        model = self.model("base")
        run = {**RUN, "steps": 2} if self.smoke else RUN
        try:
            unlearn(model, objective(method, model, data), data, lr=RATES[method], seed=self.seed, **run)
        except NonFiniteLoss:
            return model, True
        return model, False

    def of_conclusions(self, model: nn.Module) -> dict[str, float]:
        """What is left of forgotten conclusions, asked for directly and led to."""
        parts = self.task.split("conclusions")
        found = {how: compositional_recovery(model, self.tokenizer, self.task.rules(), how) for how in HOW}
        direct = accuracy(model, self.tokenizer, told(parts["forget"]))
        return {
            "direct accuracy": direct,
            "chained recovery": found["two_steps"],
            "recovery with premises in the prompt": found["premises"],
            "evaluation gap": evaluation_gap(direct, found),
            "benign accuracy": accuracy(model, self.tokenizer, told(parts["benign"])),
            "retain accuracy": accuracy(model, self.tokenizer, told(parts["retain"])),
        }

    def of_premises(self, model: nn.Module) -> dict[str, float]:
        """What forgetting premises took: the conclusions, and harmless rows of the same persons."""
        parts = self.task.split("premises")
        return {
            "premises: direct accuracy": accuracy(model, self.tokenizer, told(parts["forget"])),
            "premises: chained recovery": compositional_recovery(model, self.tokenizer, self.task.rules()),
            "premises: dual-use cost": dual_use_cost(model, self.model("base"), self.tokenizer, told(parts["benign"])),
            "premises: conclusions still told": accuracy(model, self.tokenizer, told(parts["derived"])),
            "premises: retain accuracy": accuracy(model, self.tokenizer, told(parts["retain"])),
        }


def told(rows: list[HopRow]) -> list[Pair]:
    """Both wordings of every row; the questions are bare, as the tokenizer's template leaves them."""
    return [pair for row in rows for pair in row.pairs]


def objective(method: str, model: nn.Module, data: ForgetData) -> Any:
    if method == "npo-rt":
        return NPO()
    if method == "idk":
        return IDK()
    batch = data.forget.batch(range(len(data.forget)), data.pad_id)
    with torch.no_grad():
        norms = hidden_states(model, batch, RMU().steered(model)).norm(dim=-1)
    mean = norms[batch["attention_mask"].bool()].mean()
    return RMU(alpha=RMU_ALPHA, coefficient=RMU_TARGET * float(mean))


def unlearning(method: str):
    def run(seed: int, budget: str = "full") -> dict[str, float]:
        world = World(seed, budget == "smoke")
        metrics = {}
        for forget, measure in (("conclusions", world.of_conclusions), ("premises", world.of_premises)):
            model, diverged = world.unlearned(method, forget)
            metrics |= {**measure(model), f"diverged on {forget}": float(diverged)}
        return metrics

    return run


def as_it_is(kind: str):
    def run(seed: int, budget: str = "full") -> dict[str, float]:
        world = World(seed, budget == "smoke")
        return world.of_conclusions(world.model(kind))

    return run


def together(seed: int, budget: str = "full") -> dict[str, float]:
    """For how many of the methods the capability goes only at a dual-use cost."""
    world = World(seed, budget == "smoke")
    count = 0
    for method in RATES:
        found = world.of_premises(world.unlearned(method, "premises")[0])
        count += found["premises: chained recovery"] <= LOST and found["premises: dual-use cost"] >= COST
    return {"methods that lose the capability at a dual-use cost": float(count)}


claim = Claim(
    paper="open_problems_unlearning",
    question=(
        "When conclusions are forgotten, does the model still come to them through the premises it keeps; and when a "
        "premise is forgotten instead, do harmless facts about the same persons go with it?"
    ),
    arms={
        "base": as_it_is("base"),
        "gold": as_it_is("gold"),
        **{method: unlearning(method) for method in RATES},
        "all methods": together,
    },
    expects=[
        given("base").at_least(0.9, on="direct accuracy"),
        given("base").at_least(0.9, on="chained recovery"),
        given("base").at_least(0.9, on="benign accuracy"),
        given("gold").at_least(0.8, on="chained recovery"),
        *(expect(method).at_least(0.8, on="chained recovery") for method in RATES),
        *(expect(method).at_most(0.2, on="direct accuracy") for method in RATES),
        expect("all methods").at_least(2, on="methods that lose the capability at a dual-use cost"),
    ],
    settings={
        "task": TASK,
        "base": BASE,
        "run": RUN,
        "learning rates": RATES,
        "rmu": {"target in mean norms": RMU_TARGET, "alpha": RMU_ALPHA},
        "lost at a chained recovery of at most": LOST,
        "cost from": COST,
        "tried": (
            "npo-rt and idk run at the learning rates of the claim relearn, on a model of the same size, and nothing "
            "else was tried; rmu at idk's with alpha 10, at 3e-3 with alpha 10, and with alpha 1, on seed 0: only the "
            "last forgot (direct accuracy 0.83, 0.67 and 0.00). An earlier pilot stopped npo-rt at a forget probability"
            " of 0.05, after 12 steps, which left 66% of the retain rows and no way through the premises (chained "
            "recovery 0). So the stop was dropped, for all methods: the retain rows get 120 steps."
        ),
    },
    notes=(
        "The survey has no experiment; this one is ours. The facts are learned by heart by a model of two layers, each "
        "row in two wordings. The harmless rows are the rivers at the homes of the persons whose rows are forgotten: "
        "they follow from the same premise, and neither the forget nor the retain set holds them. Where premises are "
        "forgotten, the same persons' countries are held out in the same way. A model that has learned a conclusion by "
        "heart need not use its premises, so that a dual-use cost here is of neighbouring wording as much as of "
        "shared knowledge. Chained recovery means little for a model that lost its retain rows with the rest: see "
        "their accuracy. 'All methods' counts, seed by seed, the methods for which both conditions on premises hold."
    ),
)
