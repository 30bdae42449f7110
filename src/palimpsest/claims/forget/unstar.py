"""Do misleading rationales unteach one fact about a person, and only that one? (Sinha et al. 2024, 2410.17050)"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from torch import nn

from palimpsest.evidence import Claim, expect, given
from palimpsest.forget import rewording, unstar
from palimpsest.forget.authors_trial import AuthorsTrial
from palimpsest.forget.baselines import IDK, GradAscent
from palimpsest.forget.procedure import ForgetData, Pair, encode_pairs, prepare, unlearn
from palimpsest.forget.refusals import REFUSALS
from palimpsest.models.score import greedy, prompt_template
from palimpsest.tasks.authors import AuthorRow
from palimpsest.tasks.worlds import AuthorsWorld
from palimpsest.train import NonFiniteLoss

EPOCHS = 20  # of the base model: after the world's usual 13 it answers only some 60% of the questions it has seen
ATTRIBUTE = "birthplace"
TRAINING = {"steps": 4, "optimizer": "adamw", "batch_size": 16, "clip": 1.0}  # of a round
ROUNDS = 60
FORGOTTEN = 0.1
ANSWER = 48  # tokens of an answer that are looked at: a rationale and what follows from it
OTHERS = 64  # rows of retained authors that are asked
RATES = {"grad_diff": 3e-5, "idk": 1e-4, "no rationale": 3e-5, "no rationale, same rate": 3e-4, "unstar": 3e-4}
TRIED = (
    "On seeds 0 to 2, for every method that of four values which reached the level on all three and had the highest"
    " mean of same-author and retained-author accuracy: grad_diff, idk and no rationale 3e-5, 1e-4, 3e-4, 1e-3 within"
    " 60 rounds; unstar 1e-4 and 3e-4 within 40 rounds (of two seeds at 1e-4 neither got there), 1e-3 within 20 (one"
    " of three did not), 3e-3 on seed 0 alone, before its questions were asked in new wordings too."
)


@dataclass(frozen=True)
class Trial(AuthorsTrial):
    """The authors world, of which one attribute of the forgotten authors is forgotten, and nothing else."""

    max_length: int = 96

    @cached_property
    def world(self) -> AuthorsWorld:
        world = replace(super().world, vocabulary=REFUSALS + rewording.TEXTS + unstar.TEXTS)
        return world if self.smoke else replace(world, epochs=EPOCHS)

    @cached_property
    def rows(self) -> list[AuthorRow]:
        return [row for row in self.world.task.forget if row.attr == ATTRIBUTE]

    @cached_property
    def same_authors(self) -> list[AuthorRow]:
        return [row for row in self.world.task.forget if row.attr != ATTRIBUTE]

    @cached_property
    def others(self) -> list[AuthorRow]:
        rows = list(self.world.task.retain)
        return random.Random(self.seed).sample(rows, min(4 if self.smoke else OTHERS, len(rows)))

    @cached_property
    def pairs(self) -> tuple[list[Pair], list[Pair]]:
        """Questions and answers to forget and to keep."""
        kept = [*self.same_authors, *self.world.task.rows("kept")]
        return [pair for row in self.rows for pair in row.pairs], [pair for row in kept for pair in row.pairs]

    @cached_property
    def data(self) -> ForgetData:
        template = prompt_template(self.world.tokenizer)
        forget, retain = ([template.pair(*pair) for pair in pairs] for pairs in self.pairs)
        return prepare(self.world.tokenizer, forget, retain, max_length=self.max_length, seed=self.seed)

    def accuracy(
        self, model: nn.Module, rows: Sequence[AuthorRow], questions: Callable[[AuthorRow], list[str]]
    ) -> float:
        """The share of the rows' questions whose answer states the row's value."""
        template = prompt_template(self.world.tokenizer)
        asked = [(template.prompt(question), row.value) for row in rows for question in questions(row)]
        prompts, values = zip(*asked, strict=True)
        said = greedy(model, self.world.tokenizer, prompts, max_new_tokens=4 if self.smoke else ANSWER)
        return float(np.mean([rewording.fuzzy_match(text, value) for text, value in zip(said, values, strict=True)]))

    def held_out(self, model: nn.Module) -> float:
        return self.accuracy(model, self.rows, lambda row: [row.q_para])

    def measures(self, model: nn.Module) -> dict[str, float]:
        return {
            "forget accuracy, held out": self.held_out(model),
            "forget accuracy, trained": self.accuracy(model, self.rows, lambda row: [q for q, _ in row.pairs]),
            "same-author accuracy": self.accuracy(model, self.same_authors, lambda row: [row.q]),
            "retained-author accuracy": self.accuracy(model, self.others, lambda row: [row.q]),
        }

    def stand_ins(self) -> unstar.StandIns:
        _, retain = self.pairs
        return unstar.StandIns(retain, self.world.tokenizer, common=rewording.wording(retain), seed=self.seed)

    def wordings(self, question: str) -> list[str]:
        """The questions for the same that the model was trained on; the third one is held out."""
        return self.trained_questions.get(question, [question])

    @cached_property
    def trained_questions(self) -> dict[str, list[str]]:
        rows = self.world.task.rows("all")
        return {question: [q for q, _ in row.pairs] for row in rows for question, _ in row.pairs}


def base(seed: int, budget: str = "full") -> dict[str, float]:
    trial = Trial(seed, smoke=budget == "smoke")
    return trial.measures(trial.world.model("base"))


def settings(trial: Trial, name: str) -> dict:
    steps = 1 if trial.smoke else TRAINING["steps"]
    return {**TRAINING, "steps": steps, "lr": RATES[name], "progress": False}


def trained(name: str, method, data_of: Callable[[Trial, nn.Module], ForgetData]):
    """An arm that trains on the same rows in every round, until its held-out accuracy is low enough."""

    def run(seed: int, budget: str = "full") -> dict[str, float]:
        trial = Trial(seed, smoke=budget == "smoke")
        model = trial.world.model("base")
        data = data_of(trial, model)
        reached = False
        for number in range(2 if trial.smoke else ROUNDS):
            try:
                unlearn(model, method, data, seed=seed + number, **settings(trial, name))
            except NonFiniteLoss:  # the weights before that step are judged
                break
            if reached := trial.held_out(model) <= FORGOTTEN:
                break
        return found(trial, model, number + 1, reached)

    return run


def found(trial: Trial, model: nn.Module, rounds: int, reached: bool) -> dict[str, float]:
    """The measures; where the level was not reached, it would have taken one round more than there were at least."""
    rounds = rounds if reached else ROUNDS + 1
    return {
        **trial.measures(model),
        "rounds": float(rounds),
        "steps": float(rounds * TRAINING["steps"]),
        "reached": float(reached),
    }


def wrong_answers(trial: Trial, model: nn.Module) -> ForgetData:
    """One wrong answer a row, drawn once, in the place of the refusals."""
    made = trial.stand_ins()
    template = prompt_template(trial.world.tokenizer)
    answers = {}
    pairs = []
    for row in trial.rows:
        for question, answer in row.pairs:
            if row.author not in answers:
                wrong = made.wrong_answer(model, question, answer)
                answers[row.author] = made.facts[made.sources[wrong]]
            pairs.append(template.pair(question, answer.replace(row.value, answers[row.author])))
    return replace(
        trial.data, refusal=encode_pairs(trial.world.tokenizer, pairs, max_length=trial.max_length, truncate=True)
    )


def unstar_arm(seed: int, budget: str = "full") -> dict[str, float]:
    trial = Trial(seed, smoke=budget == "smoke")
    model = trial.world.model("base")
    made = trial.stand_ins()
    forget, retain = trial.pairs
    reached = []

    def paraphrase(question: str) -> list[str]:
        # Those that the base model was trained on, and some that are new in every round.
        return [*trial.wordings(question), *made.paraphrase(question)[1:]]

    def stop(model: nn.Module, number: int) -> bool:
        reached.append(trial.held_out(model) <= FORGOTTEN)
        return reached[-1]

    history = unstar.unstar(
        model,
        forget[::2],
        paraphrase,
        made.wrong_answer,
        made.rationale,
        max_rounds=2 if trial.smoke else ROUNDS,
        tokenizer=trial.world.tokenizer,
        retain_rows=retain,
        max_length=trial.max_length,
        max_new_tokens=4 if trial.smoke else ANSWER,
        seed=seed,
        stop=stop,
        **settings(trial, "unstar"),
    )
    return {
        **found(trial, model, len(reached), bool(reached) and reached[-1]),
        "anti-samples": float(sum(len(entry.anti_samples) for entry in history)),
    }


claim = Claim(
    paper="unstar",
    question=(
        "Where one fact about each of eight people is forgotten, also in wordings that were not trained on, does "
        "UnStar keep their other facts better than gradient difference, and does a misleading rationale save rounds?"
    ),
    arms={
        "base": base,
        "grad_diff": trained("grad_diff", GradAscent(retain="ce"), lambda trial, model: trial.data),
        "idk": trained("idk", IDK(), lambda trial, model: trial.data),
        "no rationale": trained("no rationale", IDK(), wrong_answers),
        "no rationale, same rate": trained("no rationale, same rate", IDK(), wrong_answers),
        "unstar": unstar_arm,
    },
    expects=[
        given("base").at_least(0.5, on="forget accuracy, held out"),
        *(given(name).at_most(FORGOTTEN, on="forget accuracy, held out") for name in ("unstar", "grad_diff")),
        expect("unstar").above("grad_diff", on="same-author accuracy", by=0.2),
        # No more rounds, with as many allowed: a margin smaller than any difference between means of whole numbers.
        expect("unstar").below("no rationale", on="rounds", by=-1e-3),
        expect("unstar").below("no rationale, same rate", on="rounds", by=-1e-3),
    ],
    settings={
        "epochs of the base model": EPOCHS,
        "attribute": ATTRIBUTE,
        "round": TRAINING,
        "most rounds": ROUNDS,
        "forgotten": FORGOTTEN,
        "tokens of an answer": ANSWER,
        "rows of retained authors": OTHERS,
        "learning rates": RATES,
        "learning rates tried": TRIED,
    },
    notes=(
        "Templates stand in for the language model: paraphrases are the two wordings that the base model was "
        "trained on, for unstar with three more that are made anew in every round; another is held out. A rationale "
        "tells of another author who has the wrong answer. The model has two layers and never learned to reason, so "
        "that a rationale cannot move a belief the way it may in the 7B model of the paper: it is more text to "
        "learn before the wrong answer comes. Every arm runs in rounds of four updates with a fresh optimizer, and "
        "is stopped by its held-out accuracy. How many rounds that takes depends on the learning rate first of all, "
        "and the rates are chosen by what is kept; the arm at unstar's own rate shows what the rationale does "
        "alone. The base model is trained for 20 epochs, where the authors world takes 13, so that it answers "
        "nearly all questions to begin with. On record unstar is void twice, because its loop ends when no question "
        "that it asks is answered any more, while some of the held-out questions still are: first it asked in the "
        "two trained wordings only, and up to a quarter of the held-out questions were answered; then in new ones "
        "as well, and on two of five seeds an eighth and three eighths were (on three pilot seeds none)."
    ),
)
