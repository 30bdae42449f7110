"""Does it matter how what is forgotten is connected to what is kept? (Qiu et al. 2024, 2406.16810)"""

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.evidence import Claim, expect, given
from palimpsest.forget.pistol import METHODS, PistolScores, choose_learning_rate, pistol_score
from palimpsest.forget.procedure import prepare, unlearn
from palimpsest.forget.refusals import REFUSALS
from palimpsest.models import word_tokenizer
from palimpsest.tasks.contracts import ContractGraph, ContractRow, Edge, contract_graph
from palimpsest.tasks.worlds import trained_lm
from palimpsest.train import NonFiniteLoss

GRAPH = {"hub_degree": 6, "chains": 0, "isolated": 6, "attrs": 20}
BASE = {"epochs": 70, "lr": 7e-4, "batch_size": 16}
RUN = {"steps": 20, "batch_size": 16, "optimizer": "adamw", "clip": 1.0, "progress": False}
RATES = (1e-4, 3e-4, 1e-3)
CUTOFF = 3
SMALL = {"hub_degree": 5, "chains": 0, "isolated": 2, "attrs": 2}


@dataclass(frozen=True)
class World:
    """A small model that knows all contracts of a graph."""

    seed: int
    types: tuple[str, ...]
    skew: float
    smoke: bool

    @cached_property
    def graph(self) -> ContractGraph:
        shape = SMALL if self.smoke else GRAPH
        return contract_graph(**shape, types=self.types, skew=self.skew, seed=self.seed)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        tokenizer = word_tokenizer([*self.graph.words(), *REFUSALS])
        tokenizer.chat_template = "{{ messages[0]['content'] }}"
        return tokenizer

    def base(self) -> PreTrainedModel:
        rows = [(row.question, row.answer) for row in (*self.graph.rows, *self.graph.facts)]
        settings = {**BASE, "epochs": 12, "d_model": 16, "n_layers": 1} if self.smoke else BASE
        return trained_lm(f"contracts-{self.seed}", self.tokenizer, rows, seed=self.seed, **settings)

    def score(self, model: PreTrainedModel, sets: dict[str, list[ContractRow]]) -> PistolScores:
        return pistol_score(model, sets, tokenizer=self.tokenizer, cutoff=CUTOFF)

    def forgotten(self, method: str, edges: list[Edge], rate: float) -> PistolScores:
        model, sets = self.base(), {name: rows for name, rows in self.graph.split(edges).items() if rows}
        forget, retain = (
            [(row.question, row.answer) for name, rows in sets.items() for row in rows if (name == "forget") == wanted]
            for wanted in (True, False)
        )
        data = prepare(self.tokenizer, forget, retain, max_length=64, seed=self.seed)
        run = {**RUN, "steps": 1} if self.smoke else RUN
        with suppress(NonFiniteLoss):  # then the weights before that step are judged
            unlearn(model, METHODS[method], data, lr=rate, seed=self.seed, **run)
        return self.score(model, sets)


def forgetting(place: str, n_edges: int = 1, types: tuple[str, ...] = ("sales", "employment"), skew: float = 0.5):
    """All four methods forget edges of the hub, or isolated ones, each at the rate that is best on the edges after
    them."""

    def run(seed: int, budget: str = "full") -> dict[str, float]:
        world = World(seed, types, skew, budget == "smoke")
        hub = world.graph.edges[0][0]
        edges = [edge for edge in world.graph.edges if (hub in edge) == (place == "hub")]
        chosen, validation = edges[:n_edges], edges[n_edges : n_edges + 1]
        metrics: dict[str, float] = {}
        found = []
        for name in METHODS:
            rate, _ = choose_learning_rate(
                lambda rate, name=name: world.forgotten(name, validation, rate).deviation,
                RATES[:1] if world.smoke else RATES,
            )
            scores = world.forgotten(name, chosen, rate)
            found.append(scores)
            metrics[f"deviation of {name}"] = scores.deviation
            metrics[f"log10 rate of {name}"] = float(np.log10(rate))
        for name in ("forget", "adjacent", "distant", "factual"):
            if name in found[0].rouge_1:
                metrics[f"{name} ROUGE-1"] = float(np.mean([scores.rouge_1[name] for scores in found]))
                metrics[f"{name} MRR"] = float(np.mean([scores.mrr[name] for scores in found]))
                metrics[f"{name} top hits"] = float(np.mean([scores.top_hit[name] for scores in found]))
        metrics["deviation"] = float(np.mean([scores.deviation for scores in found]))
        if "adjacent" in found[0].rouge_1:
            before = world.score(world.base(), world.graph.split(chosen)).rouge_1
            lost = {name: before[name] - metrics[f"{name} ROUGE-1"] for name in ("adjacent", "distant")}
            metrics["adjacent loss minus distant loss"] = lost["adjacent"] - lost["distant"]
        return metrics

    return run


def base(seed: int, budget: str = "full") -> dict[str, float]:
    world = World(seed, ("sales", "employment"), 0.5, budget == "smoke")
    scores = world.score(world.base(), world.graph.split([world.graph.edges[0]]))
    return {**{f"{name} ROUGE-1": value for name, value in scores.rouge_1.items()}, "deviation": scores.deviation}


claim = Claim(
    paper="pistol",
    question=(
        "When a contract of a hub is forgotten, do its neighbours suffer more than distant contracts, and is it harder "
        "to forget cleanly than an isolated one?"
    ),
    arms={
        "base": base,
        "hub edge": forgetting("hub"),
        "isolated edge": forgetting("isolated"),
        "4 hub edges": forgetting("hub", 4),
        "hub edge, mostly sales": forgetting("hub", skew=0.8),
        "hub edge, employment only": forgetting("hub", types=("employment",)),
    },
    expects=[
        given("base").at_least(0.9, on="adjacent ROUGE-1"),
        expect("hub edge").at_least(0.1, on="adjacent loss minus distant loss"),
        expect("hub edge").above("isolated edge", on="deviation", by=3),
    ],
    settings={
        "graph": GRAPH,
        "base": BASE,
        "run": RUN,
        "rates tried on the validation edge": RATES,
        "top hits": CUTOFF,
    },
    notes=(
        "A two-layer model that knows twelve contracts of twenty attributes, six of them with one party in common; "
        "the paper fine-tunes models of 7 billion parameters on like graphs. Each method's learning rate is the one of "
        "three with the lowest deviation when another edge of the same place is forgotten. The arms with four edges "
        "and with other types of contracts are exploratory, as in the specification. The attributes are ours."
    ),
)
