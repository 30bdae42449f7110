"""The authors in a mixture: the same model also calculates, has read prose, and says what one could say.

What is to be forgotten and what is kept of authors is as in `palimpsest.benches.authors_kit`. Here one sees besides
what no row about an author shows: whether the model still calculates, which no method is given to rehearse, whether
prose still reads to it as it did, and whether what it answers is language at all.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from torch import nn

from palimpsest.benches.authors_kit import (
    FORGOTTEN,
    Forgetting,
    IntroducedAuthors,
    above_gold,
    blank,
)
from palimpsest.errors import NotFinite
from palimpsest.forget.evaluation import states
from palimpsest.forget.procedure import Pair, encode_pairs
from palimpsest.forget.refusals import REFUSALS
from palimpsest.forget.tofu_measures import TofuScores, evaluate_tofu
from palimpsest.metrics.text import words
from palimpsest.models.score import greedy, prompt_template, score
from palimpsest.models.tokenizers import WORD
from palimpsest.tasks.arithmetic import Problem, arithmetic
from palimpsest.tasks.authors import AuthorRow
from palimpsest.tasks.authors_words import ATTRIBUTES, Attribute
from palimpsest.tasks.text import documents, sentences
from palimpsest.tasks.worlds import MAX_TOKENS

Part = Literal["test", "validation"]
SCORED = 32  # rows of each set that utility is taken over, at most
LONGEST_PASSAGE = 24  # pieces: about the longest row about an author, to which a batch's other rows are padded anyway


@dataclass(frozen=True)
class MixedAuthors(IntroducedAuthors):
    """The authors world whose models have also learned a table of sums and differences of one digit, by heart, and some
    sentences of Python's documentation.

    Attributes:
        n_problems: problems, at most 124.
        repeats: how often an epoch shows each problem: a table takes more looks than an author.
        n_passages: sentences.
    """

    n_authors: int = 20
    d_model: int = 64
    epochs: int = 16
    lr: float = 6e-3
    batch_size: int = 32
    n_refused: int = 40
    n_problems: int = 36
    repeats: int = 4
    n_passages: int = 20

    @cached_property
    def problems(self) -> list[Problem]:
        return arithmetic(self.n_problems, "train", self.seed, digits=1)

    @cached_property
    def passages(self) -> list[Pair]:
        """The sentences, as documents: without a question."""
        return [("", text) for text in _passages(self.seed, self.n_passages)]

    @cached_property
    def spoken(self) -> list[Pair]:
        """All that every model has learned besides facts about authors."""
        sums = [(problem.question, problem.answer) for problem in self.problems]
        return super().spoken + sums * self.repeats + self.passages


@dataclass(frozen=True)
class Mixture(Forgetting):
    """The world of a seed: a model that knows 20 authors, sums and prose is to forget 10 of the authors."""

    @cached_property
    def authors(self) -> MixedAuthors:
        """The task and its trained models."""
        small = {"n_authors": 10, "n_attr": 2, "d_model": 32, "n_layers": 1, "epochs": 1, "n_refused": 4}
        few = {"batch_size": 16, "n_problems": 6, "repeats": 1, "n_passages": 4}
        return MixedAuthors(self.seed, **({**small, **few} if self.smoke else {}))

    def _scores(self, model: nn.Module, part: Part, gold: np.ndarray | None) -> TofuScores:
        return evaluate_tofu(model, self.authors.tokenizer, self.rows(part), gold, max_rows=4 if self.smoke else SCORED)

    def asked(self, part: Part) -> dict[str, tuple[AuthorRow, ...]]:
        """The rows that are asked for whether the answers are language: forgotten authors are dealt to the parts one
        by one; of retained authors those of `rows`."""
        mine = set(self.authors.task.authors("forget")[part == "validation" :: 2])
        rows = self.rows(part)
        asked = {"forget": tuple(row for row in rows["forget"] if row.author in mine), "retain": rows["retain"]}
        return {split: found[: 4 if self.smoke else SCORED] for split, found in asked.items()}

    def skills(self, model: nn.Module, part: Part = "test") -> dict[str, float]:
        """What TOFU's scores do not show.

        Returns:
            "arithmetic accuracy", on half of the problems; "forget accuracy" and "retain accuracy", the share of first
            questions in whose answer the value is named, however it is put; "well-formed share" and "retain well-formed
            share", the share of those answers that are `well_formed`; "prose loss", nats a token of the passages.
        """
        tokenizer = self.authors.tokenizer
        template, problems = prompt_template(tokenizer), self.authors.problems[part == "validation" :: 2]
        passages = encode_pairs(tokenizer, self.authors.passages, max_length=MAX_TOKENS)
        try:
            prose = float(score(model, passages, pad_id=tokenizer.pad_token_id).nll.mean())
        except NotFinite:
            return self.skills(blank(model), part)
        said = greedy(model, tokenizer, [template.prompt(p.question) for p in problems], max_new_tokens=4)
        right = [answer.split() == problem.answer.split() for answer, problem in zip(said, problems, strict=True)]
        found = {"arithmetic accuracy": float(np.mean(right)), "prose loss": prose}
        for split, rows in self.asked(part).items():
            prefix = "" if split == "forget" else f"{split} "
            answers = list(zip([answer for answer, _ in self.answered(model, rows)], rows, strict=True))
            found[f"{split} accuracy"] = float(np.mean([states(answer, row.value) for answer, row in answers]))
            found[f"{prefix}well-formed share"] = float(np.mean([well_formed(*pair) for pair in answers]))
        return found


def measures(world: Mixture, model: nn.Module) -> dict[str, float]:
    """TOFU's numbers on the test rows, how much likelier the forget answers are than they should be, and the skills."""
    return {
        **world.scores(model).metrics(),
        "forget probability above gold": above_gold(world, model),
        **world.skills(model),
    }


def validate(world: Mixture, model: nn.Module, cost: dict[str, float]) -> float:
    """Of a model that has forgotten, the mean of model utility, arithmetic accuracy and well-formed share on the
    validation rows; of one that has not, how far it is from that, below 0."""
    above = above_gold(world, model)
    if above > FORGOTTEN:
        return -above
    skills = world.skills(model, "validation")
    kept = world.scores(model, "validation").model_utility
    return (kept + skills["arithmetic accuracy"] + skills["well-formed share"]) / 3


def well_formed(text: str, row: AuthorRow, refusals: Sequence[str] = REFUSALS) -> bool:
    """Whether a text is a thing that one could say to a question about an author's attribute: one of `refusals`, or one
    of the attribute's answers in full, about whomever, with any of the values that the attribute can take.

    >>> from palimpsest.tasks.authors import authors_task
    >>> row = authors_task(n_authors=5, n_attr=1).forget[0]  # a birthplace
    >>> well_formed("Ada Verin was born in Porto.", row), well_formed("I don't know.", row)
    (True, True)
    >>> well_formed("Ada Verin was born in the the.", row), well_formed("", row)
    (False, False)
    """
    said = " ".join(words(text))
    if any(said == " ".join(words(refusal)) for refusal in refusals):
        return True
    return any(pattern.fullmatch(said) for pattern in _answers(ATTRIBUTES[row.attr]))


@lru_cache(maxsize=4)
def _passages(seed: int, n: int) -> list[str]:
    found = [sentence.text for sentence in sentences(documents(seed).train, shortest=6, longest=20)]
    short = [text for text in found if len(re.findall(WORD, text)) <= LONGEST_PASSAGE]
    return random.Random(f"{seed}/passages").sample(short, n)


@lru_cache
def _answers(attribute: Attribute) -> tuple[re.Pattern[str], ...]:
    """What matches each of the attribute's answers, in lower-case words: a name has one or two."""
    values = "|".join(re.escape(" ".join(words(value))) for value in attribute.values)
    patterns = []
    for template in attribute.answers:
        plain = re.escape(" ".join(words(template.format(author="authorslot", value="valueslot"))))
        patterns.append(re.compile(plain.replace("authorslot", r"\w+(?: \w+)?").replace("valueslot", f"(?:{values})")))
    return tuple(patterns)
