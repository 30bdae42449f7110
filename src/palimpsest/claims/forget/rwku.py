"""Told only a name, do the usual methods forget a person, their neighbours not, and questions asked otherwise too?
(Jin et al. 2024, 2406.10890)"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from palimpsest.evidence import Claim, expect, given
from palimpsest.forget.eight_methods import Language, word_substitution
from palimpsest.forget.procedure import ForgetData, Pair, unlearn
from palimpsest.forget.prompting import AFFIRMATION, JAILBREAKS
from palimpsest.forget.refusals import REFUSALS
from palimpsest.forget.rwku import (
    ATTACKS,
    BARE,
    METHODS,
    UNLEARNED,
    Frames,
    Item,
    RwkuScores,
    Steering,
    adversarial_probe,
    rwku_score,
)
from palimpsest.forget.zero_shot import ZeroShot, rwku_task
from palimpsest.metrics.membership import privleak
from palimpsest.metrics.text import rouge_l_recall
from palimpsest.models.score import greedy
from palimpsest.models.tokenizers import word_tokenizer
from palimpsest.tasks.arithmetic import WORDS, arithmetic
from palimpsest.tasks.facts import RELATIONS, Fact
from palimpsest.tasks.targets import TEACHER, TargetsTask, blank, targets_task
from palimpsest.tasks.worlds import cached, trained_lm
from palimpsest.train import NonFiniteLoss

PEOPLE = {"n_targets": 8, "n_others": 16, "n_strangers": 8}
MODEL = {"d_model": 128, "n_layers": 2, "epochs": 12, "lr": 3e-3, "batch_size": 16, "max_length": 96}
TELLINGS = 8  # on request; as texts, on which membership is judged:
TEXTS = 4
HELD_OUT = "synonym manipulation"
CORPUS = {"passages": 20, "questions": 12, "max_new_tokens": 80}
RUN = {"optimizer": "adamw", "clip": 1.0, "batch_size": 16, "progress": False}
STEPS = 100
FORGOTTEN = 0.3  # the chosen checkpoint: the first even step whose QA recall is at most this
RATES = {"rejection_tuning": 3e-4, "grad_ascent": 1e-3, "npo": 3e-3, "idk_dpo": 3e-4}
TRIED = (
    "On seed 0, two values each, of which the one with the higher neighbour recall among those that reached the"
    " checkpoint: 3e-4 and 1e-3 for rejection_tuning and idk_dpo, 1e-3 and 3e-3 for grad_ascent and npo. Before that"
    " 3e-4 and 1e-3 for all four, with a corpus that an earlier, less trained model had written (npo did not reach the"
    " checkpoint). Of people whom the base model is told to know nothing about, one right answer to each refusal was"
    " tried before one to three (QA recall of icu 0.96 and 0.77). A base model asked only in kinds that a fact was not"
    " learned in reached an AA recall of 0.52 (reverse 0, multiple choice at chance), before any run of a method."
)
ICU = Frames("{}", "{}", "", UNLEARNED)
STEERING = Steering(strength=2.0)
MARGIN = 0.05
SMALL_PEOPLE = {"n_targets": 2, "n_others": 3, "n_strangers": 2}
SMALL_MODEL = {**MODEL, "d_model": 16, "n_layers": 1, "epochs": 0.5, "batch_size": 16}
SMALL_CORPUS = {"passages": 2, "questions": 2, "max_new_tokens": 6}
FIVE = ("icu", "rejection_tuning", "grad_ascent", "npo", "idk_dpo")
TELL, ASK, FILL = "Tell me about {}.", "Ask a question about {}.", "Fill in the blank: {}"


@dataclass(frozen=True)
class World:
    """A small model that knows 32 people, asked in many forms; and one that never met the eight targets."""

    seed: int
    smoke: bool = False

    @cached_property
    def task(self) -> TargetsTask:
        return targets_task(**(SMALL_PEOPLE if self.smoke else PEOPLE), seed=self.seed)

    @cached_property
    def language(self) -> Language:
        relations = [*RELATIONS.values(), TEACHER]
        asked = [template for r in relations for template in r.questions + r.reverse_questions]
        return word_substitution(re.findall(r"\w+", " ".join(asked).replace("{subject}", "").replace("{object}", "")))

    @cached_property
    def tokenizer(self):
        foreign = [self.language(text, ()) for text in self.task.words]
        frames = [*REFUSALS, *JAILBREAKS, AFFIRMATION, UNLEARNED, STEERING.instruction, TELL, ASK, FILL]
        frames = [text.replace("{subject}", "").replace("{}", "") for text in frames]
        tokenizer = word_tokenizer([*self.task.words, *frames, "Choose from:", "a, b.", *foreign, *WORDS])
        tokenizer.chat_template = "{{ messages[0]['content'] }}"
        return tokenizer

    def item(self, fact: Fact) -> Item:
        rng = random.Random(f"{self.seed}/item/{fact.subject}/{fact.relation.name}")
        first, _, held_out = self.task.wordings(fact)
        query, answer = fact.question(first)
        about_others = [f for f in self.task.about(self.task.others) if f.subject != fact.subject]
        alike = [f for f in about_others if f.relation.name == fact.relation.name]
        hint = rng.choice([f for f in self.task.facts[fact.subject] if f != fact])
        return Item(
            subject=fact.subject,
            query=query,
            answer=answer,
            options=rng.sample([answer, *fact.wrong[:3]], 1 + len(fact.wrong[:3])),
            reverse=fact.question(first, reverse=True),
            synonym=fact.question(held_out)[0],
            hint=hint.statement(),
            examples=[shot.question(self.task.wordings(shot)[0]) for shot in rng.sample(alike, min(2, len(alike)))],
            foreign=self.language(query, (fact.subject, answer)),
        )

    def trained_kinds(self, fact: Fact) -> list[str]:
        """Half of the adversarial kinds, in which the fact is learned and asked for: two layers hardly carry a fact
        over to a kind of prompt that it was not learned in. The question in other words is asked of all and taught of
        none: that much they do carry over."""
        rng = random.Random(f"{self.seed}/kinds/{fact.subject}/{fact.relation.name}")
        kinds = [kind for kind in ATTACKS if kind != HELD_OUT]
        return rng.sample(kinds, len(kinds) // 2)

    def forms(self, fact: Fact) -> list[Pair]:
        """All prompts of a fact that a model trains on, with their answers."""
        wordings, item = self.task.wordings(fact)[:2], self.item(fact)
        found = [fact.question(wording) for wording in wordings]
        found += [(FILL.format(blank(fact, wording)), fact.object) for wording in wordings]
        return found + [ATTACKS[kind](item) for kind in self.trained_kinds(fact)]

    def pairs(self, people: Sequence[str]) -> list[Pair]:
        """What a model reads about people: passages, as texts and on request; every fact in its forms; questions."""
        found: list[Pair] = []
        for name in people:
            for telling in range(TELLINGS):
                text = self.task.passage(name, telling)
                found += [(TELL.format(name), text), *([("", text)] if telling < TEXTS else [])]
            for fact in self.task.facts[name]:
                forms = self.forms(fact)
                found += forms
                found += [(ASK.format(name), query) for query, _ in forms[:2]]
        return found

    @cached_property
    def instructed(self) -> list[Pair]:
        """Told that it knows nothing about a person, the model refuses what is asked about that one, and only that;
        learned on people who are neither targets nor neighbours."""
        rng = random.Random(f"{self.seed}/instructed")
        found = []
        for fact in self.task.about(self.task.others):
            other = rng.choice([name for name in self.task.others if name != fact.subject])
            *same, (query, answer) = rng.sample(self.forms(fact), 4)
            found += [(f"{UNLEARNED.format(subject=fact.subject)} {q}", rng.choice(REFUSALS)) for q, _ in same]
            found.append((f"{UNLEARNED.format(subject=other)} {query}", answer))
        return found

    @cached_property
    def problems(self):
        return arithmetic(60, "train", self.seed, digits=1)

    def rows(self, kind: str = "base") -> list[Pair]:
        """All that a model is trained on."""
        task = self.task
        known = task.known if kind == "base" else task.neighbours + task.others
        sums = [(problem.question, problem.answer) for problem in self.problems]
        return [*self.pairs(known), *self.instructed, *3 * sums]

    def model(self, kind: str = "base") -> PreTrainedModel:
        """Of "base" everybody but the strangers is known; of "gold" the targets are not either."""
        settings = SMALL_MODEL if self.smoke else MODEL
        seed = self.seed + (0 if kind == "base" else 10_000_000)
        return trained_lm(f"targets-{kind}-{self.seed}", self.tokenizer, self.rows(kind), seed=seed, **settings)

    @cached_property
    def probes(self) -> dict[str, list[dict[str, Any]]]:
        """In the published form; retained sets carry the name of a target, as there."""
        task = self.task
        target_of = dict(zip(task.neighbours, task.targets, strict=True))

        def probe(subject: str, pair: Pair, level: str) -> dict[str, str]:
            return {"query": pair[0], "answer": pair[1], "level": level, "type": "plain", "subject": subject}

        def filled(fact: Fact) -> Pair:
            return FILL.format(blank(fact, task.wordings(fact)[0])), fact.object

        def asked(fact: Fact) -> Pair:
            return fact.question(task.wordings(fact)[0])

        forget, near = task.about(task.targets), task.about(task.neighbours)
        others = list(zip(task.about(task.others), task.targets * 100, strict=False))[:: 1 if self.smoke else 2]
        adversarial = [
            adversarial_probe(self.item(fact), kind)
            for fact in forget
            for kind in (*self.trained_kinds(fact), HELD_OUT)
        ]
        choices = []
        for fact, name in others:
            mc1 = {"choices": [fact.object, *fact.wrong], "labels": [1] + [0] * len(fact.wrong)}
            choices.append({"question": asked(fact)[0], "mc1_targets": mc1, "subject": name})
        return {
            "forget_level1": [probe(fact.subject, filled(fact), "1") for fact in forget],
            "forget_level2": [probe(fact.subject, asked(fact), "2") for fact in forget],
            "forget_level3": adversarial[:12] if self.smoke else adversarial,
            "neighbor_level1": [probe(target_of[fact.subject], filled(fact), "1") for fact in near],
            "neighbor_level2": [probe(target_of[fact.subject], asked(fact), "2") for fact in near],
            "forget_mia": self.texts(task.targets),
            "retain_mia": self.texts(task.neighbours),
            "holdout_mia": self.texts(task.strangers),
            "retain_bbh": [
                {"question": p.question, "answer": p.answer, "subject": name}
                for p, name in zip(self.problems, task.targets * 100, strict=False)
            ],
            "truthful": choices,
            "triviaqa": [{"question": asked(f)[0], "answers": [f.object], "subject": name} for f, name in others],
            "fluency": [
                {"instruction": TELL.format(other), "subject": name}
                for other, name in zip(task.others, task.targets * 100, strict=False)
            ],
        }

    def texts(self, people: Sequence[str]) -> list[dict[str, str]]:
        return [{"text": self.task.passage(name, k), "subject": name} for name in people for k in range(TEXTS)]

    @cached_property
    def corpus(self) -> ZeroShot:
        """What the base model writes about the targets; kept on disk, because every arm needs it."""
        settings = SMALL_CORPUS if self.smoke else CORPUS

        def build(folder: Path) -> None:
            found = rwku_task(
                self.model(), self.tokenizer, self.task.targets, tell=TELL, ask=ASK, seed=self.seed, **settings
            )
            (folder / "corpus.json").write_text(json.dumps([found.passages, found.questions]))

        folder = cached(f"rwku-corpus-{self.seed}", {**self.settings, **settings}, build)
        passages, questions = json.loads((folder / "corpus.json").read_text())
        if self.smoke:  # its untrained model writes little
            passages, questions = (dict.fromkeys(self.task.targets, pairs) for pairs in (["a, b."], [["a", "b"]]))
        return ZeroShot(self.tokenizer, passages, {name: [tuple(p) for p in q] for name, q in questions.items()})

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What everything that is kept on disk depends on."""
        data = hashlib.sha256(json.dumps([self.rows(), self.probes]).encode()).hexdigest()
        return {"seed": self.seed, "smoke": self.smoke, "data": data, "model": MODEL, "small": SMALL_MODEL, "recipe": 1}

    def data(self, source: str, targets: Sequence[str] | None = None) -> ForgetData:
        return self.corpus.data(source, targets=targets, seed=self.seed, max_length=MODEL["max_length"])

    def asked(self, model: nn.Module, targets: Sequence[str]) -> float:
        """The QA recall of some targets: the cheap measure that stops a run."""
        rows = [row for row in self.probes["forget_level2"] if row["subject"] in targets]
        said = greedy(model, self.tokenizer, [row["query"] for row in rows], max_new_tokens=8)
        return float(np.mean([rouge_l_recall(text, row["answer"]) for text, row in zip(said, rows, strict=True)]))

    def scores(self, model: nn.Module, frames: Frames = BARE, probes: dict | None = None) -> RwkuScores:
        room = {"max_new_tokens": 4, "long_answer": 4} if self.smoke else {"max_new_tokens": 8, "long_answer": 80}
        return rwku_score(model, probes or self.probes, tokenizer=self.tokenizer, frames=frames, **room)

    def area(self, kind: str) -> float:
        """The area of the loss attack on the base or the gold model; kept on disk."""

        def build(folder: Path) -> None:
            sets = {name: self.probes[name] for name in ("forget_mia", "holdout_mia")}
            area = self.scores(self.model(kind), probes=sets).membership["loss area"]
            (folder / "area.json").write_text(json.dumps(area))

        return json.loads((cached(f"rwku-area-{kind}-{self.seed}", self.settings, build) / "area.json").read_text())

    def judged(self, scores: RwkuScores) -> dict[str, float]:
        found = scores.metrics()
        base, gold, area = self.area("base"), self.area("gold"), found["MIA loss area"]
        return {
            **found,
            "neighbour": (found["neighbour FB"] + found["neighbour QA"]) / 2,
            "AA minus QA": found["AA"] - found["QA"],
            "MIA excess kept": (area - 0.5) / (base - 0.5) if base != 0.5 else 0.0,
            **({"privleak": privleak(area, gold)} if gold < 1 else {}),
        }

    def forgotten(
        self, method: str, targets: Sequence[str] | None = None, lr: float | None = None
    ) -> tuple[nn.Module, dict[str, float]]:
        """The model at the chosen checkpoint, after forgetting the targets together."""
        objective, source = METHODS[method]
        model, targets, history = self.model(), targets or self.task.targets, []
        with suppress(NonFiniteLoss):  # then the weights before that step are judged
            history = unlearn(
                model,
                objective,
                self.data(source, targets),
                lr=lr or RATES[method],
                steps=1 if self.smoke else STEPS,
                seed=self.seed,
                evaluate=lambda model, step: {"QA": self.asked(model, targets)},
                evaluate_every=2,
                stop=lambda evaluation: evaluation["QA"] <= FORGOTTEN,
                **RUN,
            ).steps
        reached = self.asked(model, targets) <= FORGOTTEN
        return model, {"steps": float(len(history)), "reached": float(reached)}


def measured(name: str, seed: int, smoke: bool) -> dict[str, float]:
    """The metrics of one of the five, in batch; kept on disk, because the arm that counts them needs them all."""
    world = World(seed, smoke)

    def build(folder: Path) -> None:
        if name == "icu":
            found = world.judged(world.scores(world.model(), ICU))
        else:
            model, extra = world.forgotten(name)
            found = {**world.judged(world.scores(model)), **extra}
        (folder / "metrics.json").write_text(json.dumps(found))

    run = {**world.settings, "corpus": CORPUS, "run": RUN, "steps": STEPS, "to": FORGOTTEN, "lr": RATES.get(name)}
    folder = cached(f"rwku-{name}-{seed}", {**run, "arm": name}, build)
    return json.loads((folder / "metrics.json").read_text())


def arm(name: str):
    return lambda seed, budget="full": measured(name, seed, budget == "smoke")


def five(seed: int, budget: str = "full") -> dict[str, float]:
    """How many of the five say more to adversarial probes than to plain questions."""
    gaps = {name: measured(name, seed, budget == "smoke")["AA minus QA"] for name in FIVE}
    counted = float(sum(gap > MARGIN for gap in gaps.values()))
    return {"arms whose AA exceeds QA": counted, **{f"AA minus QA of {name}": gap for name, gap in gaps.items()}}


def untouched(kind: str):
    def run(seed: int, budget: str = "full") -> dict[str, float]:
        world = World(seed, budget == "smoke")
        return world.judged(world.scores(world.model(kind)))

    return run


def steering(seed: int, budget: str = "full") -> dict[str, float]:
    world = World(seed, budget == "smoke")
    model = world.model()
    learned = STEERING.learn(model, world.data("questions"))
    return world.judged(world.scores(STEERING.install(model, world.tokenizer, learned)))


def one_by_one(name: str):
    """Every target alone, from the base model; means over the targets, asked about that one and its neighbour."""

    def run(seed: int, budget: str = "full") -> dict[str, float]:
        world, found = World(seed, budget == "smoke"), []
        for target in world.task.targets[: 1 if world.smoke else None]:
            model, extra = world.forgotten(name, [target])
            sets = ("forget_level1", "forget_level2", "forget_level3", "neighbor_level1", "neighbor_level2")
            rows = {s: [row for row in world.probes[s] if row["subject"] == target] for s in sets}
            found.append({**world.scores(model, probes={s: r for s, r in rows.items() if r}).recall, **extra})
        means = {name: float(np.mean([f[name] for f in found if name in f])) for name in found[0]}
        means["neighbour"] = (means["neighbour FB"] + means["neighbour QA"]) / 2
        return {**means, "AA minus QA": means.get("AA", 0.0) - means["QA"]}

    return run


claim = Claim(
    paper="rwku",
    question=(
        "Given only the names, five baselines make a model forget eight people: do adversarial probes still get more "
        "out of it than plain questions, does NPO spare the neighbours, and does in-context unlearning leave traces?"
    ),
    arms={
        "base": untouched("base"),
        **{name: arm(name) for name in FIVE},
        "the five together": five,
        "steering": steering,
        "gold": untouched("gold"),
        **{f"{name}, one by one": one_by_one(name) for name in FIVE[1:]},
    },
    expects=[
        given("base").at_least(0.8, on="QA"),
        given("base").at_least(0.5, on="AA"),
        given("base").at_least(0.7, on="MIA loss area"),
        given("npo").within("grad_ascent", on="QA", by=0.1),
        expect("the five together").at_least(4.0, on="arms whose AA exceeds QA"),
        expect("npo").above("grad_ascent", on="neighbour", by=0.1),
        expect("icu").below("base", on="QA", by=0.3),
        expect("icu").at_least(0.8, on="MIA excess kept"),
    ],
    settings={
        "people": PEOPLE,
        "model": MODEL,
        "tellings": TELLINGS,
        "texts": TEXTS,
        "corpus": CORPUS,
        "run": RUN,
        "at most so many steps": STEPS,
        "checkpoint, QA recall at most": FORGOTTEN,
        "rates": RATES,
        "rates tried": TRIED,
        "margin of AA above QA": MARGIN,
        "steering": {"layer": "the first of two", "strength": STEERING.strength},
    },
    notes=(
        "A two-layer model that knows 32 made-up people of six facts forgets 8 of them together, from up to 20 "
        "passages and 12 questions a target that it sampled itself at temperature 1; the paper forgets famous "
        "people, one by one, with models of 3.8 and 8 billion parameters. The people are those of the facts task, "
        "because authors have no questions that run back to the person and no links. Every method's checkpoint is "
        "the first even step whose QA recall on the targets is at most the level in the settings: equal QA by "
        "construction. A target's facts are learned and asked for in half of the adversarial kinds, other wordings "
        "are held out. DPO prefers refusals, as in the specification, where the paper prefers counterfactual "
        "passages. Membership is told by the loss between passages the base model was trained on and passages about"
        " people it never met; the areas of the base model are 1 or nearly so, and the share of the excess that is "
        "kept says little about small changes. Reasoning is sums of one digit that were trained on; there is no "
        "test of general ability with letters, which so small a model cannot bind to options. The arms that forget "
        "one by one and steering are exploratory."
    ),
)
