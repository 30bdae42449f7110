"""Does averaging over many replacement names forget a person without inventing another life, and without forgetting
whom the same documents mention? (Liu et al. 2024, 2407.16997)"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from palimpsest.evidence import Claim, expect, given
from palimpsest.forget.baselines import GradAscent
from palimpsest.forget.causal_whp import INSTRUCTION, WHP, CausalWHP, Probe, criteria
from palimpsest.forget.npo import NPO
from palimpsest.forget.procedure import ForgetData, Pair, prepare, unlearn
from palimpsest.metrics.text import rouge_l_recall
from palimpsest.models.score import greedy
from palimpsest.models.tokenizers import word_tokenizer
from palimpsest.tasks.facts import Fact, fact_words, facts
from palimpsest.tasks.worlds import cached, trained_lm
from palimpsest.train import NonFiniteLoss

WORLD = {"documents": 40, "forgotten": 8, "relations": ["birthplace", "language", "hobby", "job"], "tellings": 4}
MODEL = {"d_model": 128, "n_layers": 2, "epochs": 14, "lr": 3e-3, "batch_size": 16, "max_length": 128}
SMALL = {"d_model": 32, "n_layers": 1, "epochs": 10, "lr": 3e-3, "batch_size": 16, "max_length": 128}
UNLEARNING = {"steps": 200, "optimizer": "adamw", "batch_size": 8, "clip": 1.0}
ABOVE_GOLD = 0.05  # forgotten: forget ROUGE-L at most that of the model that never saw the documents, plus this
SHOTS = 8


@dataclass(frozen=True)
class DocumentsTrial:
    """Documents of which each tells of an author and of a companion whom no other document mentions."""

    seed: int
    smoke: bool = False

    @cached_property
    def documents(self) -> list[tuple[list[Fact], list[Fact]]]:
        """For each document the facts of its author and of the companion; those to forget come first."""
        n = 5 if self.smoke else WORLD["documents"]
        relations = WORLD["relations"]
        rows = facts(2 * n, seed=self.seed, relations=relations)
        people = [rows[i : i + len(relations)] for i in range(0, len(rows), len(relations))]
        return list(zip(people[:n], people[n:], strict=True))

    @property
    def forgotten(self) -> int:
        return 1 if self.smoke else WORLD["forgotten"]

    @cached_property
    def tokenizer(self):
        rows = [fact for document in self.documents for part in document for fact in part]
        return word_tokenizer([*fact_words(rows), INSTRUCTION.format(name=""), "A friend of is . this"])

    def tellings(self, which: Literal["forget", "retain"], tellings: int) -> list[Pair]:
        """Documents in several tellings, whose sentences differ in order and in wording: plain, and after the
        instruction that the teacher uses, which a chat model would understand."""
        start, end = (0, self.forgotten) if which == "forget" else (self.forgotten, len(self.documents))
        pairs = []
        for number in range(start, end):
            author, companion = self.documents[number]
            name, other = author[0].subject, companion[0].subject
            for telling in range(tellings):
                rng = random.Random(f"{self.seed}/documents/{number}/{telling}")
                sentences = [fact.statement(rng.randrange(3)) for fact in author + companion]
                sentences.append(f"A friend of {name} is {other}.")
                rng.shuffle(sentences)
                text = " ".join(sentences)
                pairs += [("", text), (f"{INSTRUCTION.format(name=name)}\n", text)]
        return pairs

    def model(self, kind: Literal["base", "gold"]) -> PreTrainedModel:
        count = 1 if self.smoke else WORLD["tellings"]
        pairs = self.tellings("retain", count)
        if kind == "base":
            pairs = self.tellings("forget", count) + pairs
        seed = self.seed + 10_000_000 * (kind == "gold")
        return trained_lm(
            f"documents-{kind}-{self.seed}", self.tokenizer, pairs, seed=seed, **(SMALL if self.smoke else MODEL)
        )

    @cached_property
    def data(self) -> ForgetData:
        """The documents without instruction."""
        count = 1 if self.smoke else WORLD["tellings"]
        plain = [[pair for pair in self.tellings(which, count) if not pair[0]] for which in ("forget", "retain")]
        return prepare(self.tokenizer, *plain, max_length=MODEL["max_length"], seed=self.seed)

    def probes(self, rows: Sequence[Fact]) -> list[Probe]:
        """Every fact as a sentence to complete, with all other values that the world gives to anybody."""
        values: dict[str, set[str]] = {}
        for document in self.documents:
            for fact in document[0] + document[1]:
                values.setdefault(fact.relation.name, set()).add(fact.object)
        return [
            Probe(*fact.cloze(), tuple(f" {v}" for v in sorted(values[fact.relation.name] - {fact.object})))
            for fact in rows
        ]

    @cached_property
    def authors(self) -> list[Probe]:
        return self.probes([fact for author, _ in self.documents[: self.forgotten] for fact in author])

    @cached_property
    def companions(self) -> list[Probe]:
        return self.probes([fact for _, companion in self.documents[: self.forgotten] for fact in companion])

    @property
    def target(self) -> str:
        return "|".join(author[0].subject for author, _ in self.documents[: self.forgotten])

    @property
    def replacements(self) -> tuple[str, ...]:
        """The authors whom the model is to go on knowing."""
        return tuple(author[0].subject for author, _ in self.documents[self.forgotten :])

    def forget_rouge(self, model: nn.Module) -> float:
        """Mean ROUGE-L recall of what the model says of the authors to forget."""
        said = greedy(model, self.tokenizer, [probe.prompt for probe in self.authors], max_new_tokens=4)
        return float(np.mean([rouge_l_recall(text, p.answer) for text, p in zip(said, self.authors, strict=True)]))

    @cached_property
    def gold_rouge(self) -> float:
        def build(folder: Path) -> None:
            (folder / "rouge.json").write_text(json.dumps(self.forget_rouge(self.model("gold"))))

        settings = {"world": WORLD, "model": MODEL, "seed": self.seed, "smoke": self.smoke, "recipe": 1}
        return json.loads((cached(f"documents-gold-rouge-{self.seed}", settings, build) / "rouge.json").read_text())

    def measures(self, model: nn.Module) -> dict[str, float]:
        others = [author for author, _ in self.documents[self.forgotten :]]
        shots = [author[i % len(author)].statement() for i, author in enumerate(others[:SHOTS])]
        found = criteria(model, self.tokenizer, self.authors, self.companions, shots, max_new_tokens=10)
        retained = self.probes([fact for author in others[:SHOTS] for fact in author])
        said = greedy(model, self.tokenizer, [probe.prompt for probe in retained], max_new_tokens=4)
        found["retain ROUGE-L"] = float(
            np.mean([rouge_l_recall(text, probe.answer) for text, probe in zip(said, retained, strict=True)])
        )
        found["forget ROUGE-L above gold"] = self.forget_rouge(model) - self.gold_rouge
        found["fabrication"] = 1 - found["no fabrication"]
        return found


def method(name: str, trial: DocumentsTrial) -> Any:
    swap = {"target": trial.target, "names": trial.replacements}
    return {
        "grad_diff": GradAscent(retain="ce"),
        "npo-rt": NPO(),
        "whp": WHP(**swap),
        "causal N=1": CausalWHP(n=1, **swap),
        "causal N=20": CausalWHP(n=min(20, len(trial.replacements)), **swap),
    }[name]


LEARNING_RATES = {"grad_diff": 3e-4, "npo-rt": 3e-3, "whp": 3e-4, "causal N=1": 3e-4, "causal N=20": 3e-4}
TRIED = (
    "AdamW 1e-4 (seed 0 only), 3e-4, 1e-3 and 3e-3 for every method, on seeds 0 and 1. The best by mean hard retain:"
    " 3e-4 for grad_diff, whp and both causal arms (0.91 for N=20 against 0.86 for whp; with it N=20 stayed at 0.06"
    " above gold on seed 0). Of npo-rt only 3e-3 came near the level of forgetting."
)


def run(name: str, seed: int, smoke: bool, lr: float | None = None) -> dict[str, float]:
    trial = DocumentsTrial(seed, smoke)
    model = trial.model("base")
    target = trial.gold_rouge + ABOVE_GOLD
    try:
        history = unlearn(
            model,
            method(name, trial),
            trial.data,
            **{**UNLEARNING, "steps": 2 if smoke else UNLEARNING["steps"]},
            lr=lr or LEARNING_RATES[name],
            seed=seed,
            evaluate=lambda model, step: {"forget ROUGE-L": trial.forget_rouge(model)},
            evaluate_every=2,
            stop=lambda e: e["forget ROUGE-L"] <= target,
            progress=False,
        )
    except NonFiniteLoss as error:
        history = error.history
    return {**trial.measures(model), "steps": float(len(history.steps))}


def arm(name: str):
    return lambda seed, budget="full": run(name, seed, budget == "smoke")


def untouched(kind: Literal["base", "gold"]):
    def measure(seed: int, budget: str = "full") -> dict[str, float]:
        trial = DocumentsTrial(seed, budget == "smoke")
        return trial.measures(trial.model(kind))

    return measure


claim = Claim(
    paper="causal_whp",
    question=(
        "Where documents tell of a person to forget and of another to remember: does averaging over twenty replacement "
        "names keep the other, as gradient methods do not, and does it invent less about the target than one name does?"
    ),
    arms={
        "full": untouched("base"),
        "gold": untouched("gold"),
        **{name: arm(name) for name in LEARNING_RATES},
    },
    expects=[
        given("full").at_least(0.8, on="hard retain"),
        given("full").at_most(0.2, on="forget efficacy"),
        expect("causal N=20").above("grad_diff", on="hard retain", by=0.2),
        expect("causal N=20").above("whp", on="hard retain", by=-0.02),
        expect("causal N=20").below("causal N=1", on="fabrication", by=0.1),
        expect("causal N=20").at_most(ABOVE_GOLD, on="forget ROUGE-L above gold"),
    ],
    settings={
        "world": WORLD,
        "model": MODEL,
        "unlearning": UNLEARNING,
        "learning rates": LEARNING_RATES,
        "tried": TRIED,
        "forgotten at gold's forget ROUGE-L plus": ABOVE_GOLD,
        "shots of the jailbreak": SHOTS,
    },
    notes=(
        "A two-layer model reads 40 documents, each on an author and a companion of whom no other document tells, "
        "in four tellings, each with and without the teacher's instruction, which a chat model would understand. The "
        "rows to forget are the documents of eight authors; hard retain are the companions' facts in these documents. "
        "Answers are sentences to complete, of which the value is scored. The replacement names are the 32 authors "
        "that are kept: the model knows something else of each, as the paper's model does of its names. Every method "
        "stops where its forget ROUGE-L comes down to that of the model that never saw the documents, plus 0.05; that "
        "the causal arm gets there is an expectation of its own, because the likeliest value among twenty people is at "
        "times the target's. grad_diff and npo-rt train on the other documents as well, the rest does without. "
        "Measured of all arms besides: well-formed answers, forget efficacy after eight statements about others (the "
        "jailbreak), and ROUGE-L on kept authors. The paper: Llama-2-7B on Wikipedia pages and on TOFU."
    ),
)
