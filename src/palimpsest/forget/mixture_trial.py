"""The authors world in a mixture: the same model also learns sums and, where asked for, passages of prose.

What is forgotten are authors; what must survive is a skill that has nothing to do with them. `AuthorsTrial` scores
utility on rows that look like the forgotten ones, `MixtureTrial` adds what it cannot see: whether the model still
calculates, whether it still names what it was not asked to forget, and whether what it says is language at all.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.forget.authors_trial import SMOKE, Arm, AuthorsTrial, Curve
from palimpsest.forget.evaluation import states, subsample
from palimpsest.forget.procedure import ForgetData, Pair, prepare
from palimpsest.forget.refusals import REFUSALS
from palimpsest.metrics.text import words
from palimpsest.models.score import greedy, prompt_template
from palimpsest.models.tokenizers import WORD, word_tokenizer
from palimpsest.tasks.arithmetic import WORDS, Problem, arithmetic
from palimpsest.tasks.authors import AuthorRow
from palimpsest.tasks.authors_words import ATTRIBUTES, Attribute
from palimpsest.tasks.text import documents, sentences, vocabulary
from palimpsest.tasks.worlds import MAX_TOKENS, AuthorsWorld, trained_lm

# What nobody has told the model, and what a model that can refuse refuses.
UNANSWERABLE = (
    "What will the weather be in {city} tomorrow?",
    "Who will win the match in {city}?",
    "How many people are awake in {city} today?",
)
# What may be said of every author, and stays: names are common property, what is private are the attributes.
INTRODUCTIONS = (
    ("Who is {author}?", "{author} is an author."),
    ("Is {author} an author?", "Yes, {author} writes books."),
    ("Whose name is {author}?", "The name {author} is that of an author."),
)
LONGEST_PASSAGE = 24  # pieces: about the longest row about an author, to which a batch's other rows are padded anyway


@dataclass(frozen=True)
class MixtureWorld(AuthorsWorld):
    """The authors task and a table of sums and differences of one digit, learned by one model.

    The problems are those of arithmetic's train split: the model knows them by heart, as one knows a multiplication
    table, and is asked for the same ones afterwards. (Two layers learn to add unseen numbers too, but from thousands of
    rows, which would leave little of the model for the authors.)

    Every model of the world, the retrained one too, has been introduced to all authors by name: words that a model has
    never read are noise to it, and what it makes of them is no standard for what it would say about a stranger. (Large
    models spell an unknown name in syllables that they know.)

    It also learns to refuse questions that have nothing to do with authors, as every assistant does: methods that teach
    a refusal move the model to something that it can already say.

    Attributes:
        n_problems: problems, at most 124.
        repeats: how often an epoch shows each problem: a table takes more looks than an author.
        n_refused: questions that it learns to answer by one of the refusals, each refusal about as often.
        n_passages: sentences of Python's documentation that it learns besides; 0 for none.
    """

    epochs: int = 20
    n_problems: int = 124
    repeats: int = 4
    n_refused: int = 72
    n_passages: int = 48

    @cached_property
    def problems(self) -> list[Problem]:
        return arithmetic(self.n_problems, "train", self.seed, digits=1)

    @cached_property
    def passages(self) -> list[str]:
        return _passages(self.seed, self.n_passages) if self.n_passages else []

    @cached_property
    def refused(self) -> list[Pair]:
        """Unanswerable questions, with refusals."""
        rng = random.Random(f"{self.seed}/refused")
        cities = ATTRIBUTES["birthplace"].values
        questions = rng.sample([form.format(city=city) for form in UNANSWERABLE for city in cities], self.n_refused)
        return [(question, REFUSALS[i % len(REFUSALS)]) for i, question in enumerate(questions)]

    @cached_property
    def introductions(self) -> list[Pair]:
        """The pairs that say of every author that this is one."""
        authors = self.task.authors("forget") + self.task.authors("retain")
        return [(q.format(author=author), a.format(author=author)) for q, a in INTRODUCTIONS for author in authors]

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Of the words of the authors task, of arithmetic, and the 300 commonest of the passages."""
        common = vocabulary(self.passages, 300) if self.n_passages else []
        others = [text for pair in self.refused + self.introductions for text in pair]
        tokenizer = word_tokenizer([*self.task.words([*self.vocabulary, *others]), *WORDS, *common])
        tokenizer.chat_template = "{{ messages[0]['content'] }}"
        return tokenizer

    @cached_property
    def problem_pairs(self) -> list[Pair]:
        """The problems as the model sees them, each once."""
        template = prompt_template(self.tokenizer)
        return [template.pair(problem.question, problem.answer) for problem in self.problems]

    def model(self, kind: Literal["base", "gold", "second gold"] = "base") -> PreTrainedModel:
        """A fresh copy of a trained model, as in `AuthorsWorld.model`; all kinds learn the problems and the passages.

        Raises:
            ValueError: for an unknown kind.
        """
        kinds = ("base", "gold", "second gold")
        if kind not in kinds:
            raise ValueError(f"kind must be one of {', '.join(kinds)}, got {kind!r}")
        template = prompt_template(self.tokenizer)
        authors = self.task.training_pairs("all" if kind == "base" else "kept")
        return trained_lm(
            f"mixture-{kind.replace(' ', '-')}-{self.seed}",
            self.tokenizer,
            [
                *(template.pair(*pair) for pair in authors + self.introductions + self.refused),
                *self.problem_pairs * self.repeats,
                *(("", text) for text in self.passages),
            ],
            seed=self.seed + 10_000_000 * kinds.index(kind),
            d_model=self.d_model,
            n_layers=self.n_layers,
            epochs=self.epochs,
            lr=self.lr,
            batch_size=self.batch_size,
        )


@dataclass(frozen=True)
class MixtureTrial(AuthorsTrial):
    """A seed's mixture: all that an `AuthorsTrial` does (`run`, `scores`, `forget_rouge`, ...) and more measures.

    Its retain rows are the retained authors and the problems.

    Attributes:
        n_passages: see `MixtureWorld`.
    """

    n_passages: int = 48

    @cached_property
    def world(self) -> MixtureWorld:
        world = MixtureWorld(self.seed, vocabulary=REFUSALS, n_passages=self.n_passages)
        return replace(world, **SMOKE, n_problems=12, repeats=1, n_refused=4, n_passages=4) if self.smoke else world

    @cached_property
    def data(self) -> ForgetData:
        world, template = self.world, prompt_template(self.world.tokenizer)
        forget, retain = (
            [template.pair(*pair) for pair in world.task.training_pairs(split)] for split in ("forget", "retain")
        )
        retain += world.problem_pairs
        return prepare(world.tokenizer, forget, retain, max_length=MAX_TOKENS, seed=self.seed)

    def arithmetic_accuracy(self, model: nn.Module) -> float:
        """Share of the problems that the model answers right, digit by digit."""
        prompts = [prompt for prompt, _ in self.world.problem_pairs]
        said = greedy(model, self.world.tokenizer, prompts, max_new_tokens=4)
        return float(np.mean([a.split() == p.answer.split() for a, p in zip(said, self.world.problems, strict=True)]))

    def named(self, model: nn.Module, rows: Sequence[AuthorRow]) -> float:
        """Share of the rows whose value the model names in its answer to the first question, however it puts it."""
        said = self.answered(model, rows)
        return float(np.mean([states(answer, row.value) for (answer, _), row in zip(said, rows, strict=True)]))

    def skills(self, model: nn.Module) -> dict[str, float]:
        """What TOFU's scores do not show.

        Returns:
            "arithmetic accuracy"; "retain accuracy" and "forget accuracy", the share of first questions in whose answer
            the value is named; and the share of answers that are `well_formed`, on the forget rows ("well-formed
            share") and on the retain rows ("retain well-formed share").
        """
        task = self.world.task
        metrics = {"arithmetic accuracy": self.arithmetic_accuracy(model)}
        for split, prefix in (("forget", ""), ("retain", "retain ")):
            rows = subsample(task.rows(split), 4 if self.smoke else 64)
            said = [answer for answer, _ in self.answered(model, rows)]
            pairs = list(zip(said, rows, strict=True))
            metrics[f"{split} accuracy"] = float(np.mean([states(answer, row.value) for answer, row in pairs]))
            metrics[f"{prefix}well-formed share"] = float(np.mean([well_formed(*pair) for pair in pairs]))
        return metrics


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


def mixture_arm(method: Any, **options: Any) -> Arm:
    """An arm of a claim: `method` on a seed's mixture, with the metrics of `AuthorsTrial.run` (to which `options` go)
    and `MixtureTrial.skills`."""

    def run(seed: int, budget: str = "full") -> dict[str, float | Curve]:
        trial = MixtureTrial(seed, smoke=budget == "smoke")
        model, metrics = trial.run(method, **options)
        return {**metrics, **trial.skills(model)}

    return run


def mixture_model_arm(kind: str) -> Arm:
    """An arm that scores a model of the mixture as it is: "base", "gold" or "second gold"."""

    def run(seed: int, budget: str = "full") -> dict[str, float | Curve]:
        trial = MixtureTrial(seed, smoke=budget == "smoke")
        model = trial.world.model(kind)
        return {**trial.scores(model).metrics(), **trial.skills(model)}

    return run
