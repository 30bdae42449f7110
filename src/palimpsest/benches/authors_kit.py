"""A model that has learned facts about fictitious authors, and how one tells what it has forgotten and what it kept.

Forgetting is compared with the model that was retrained without the forgotten rows ("gold"): how much likelier the
forgotten answers still are (`above_gold`), and whether truth ratios can be told from its own (forget quality). What was
kept is TOFU's model utility, over rows that no method is given: nobody has all that a model knows at hand to rehearse.

No row that a method is tuned by is one that it is judged by. Retained authors are dealt to the methods (one half), to
validation and to the test; facts of the real world to validation and to the test, alike for every seed.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.errors import NotFinite
from palimpsest.forget.attacks import relearn
from palimpsest.forget.procedure import ForgetData, Pair, prepare
from palimpsest.forget.refusals import REFUSALS
from palimpsest.forget.tofu_measures import TofuScores, evaluate_tofu
from palimpsest.metrics.text import rouge_l_recall
from palimpsest.models.language import causal_lm
from palimpsest.models.score import greedy, prompt_template, score
from palimpsest.models.tokenizers import word_tokenizer
from palimpsest.tasks.authors import AuthorRow
from palimpsest.tasks.authors_words import ATTRIBUTES
from palimpsest.tasks.worlds import MAX_TOKENS, AuthorsWorld, cached, trained_lm
from palimpsest.train.history import NonFiniteLoss

Kind = Literal["untrained", "base", "gold", "second gold"]
FORGOTTEN = 0.05
"""probability of the forget answers above that of the retrained model at which they count as forgotten"""
SCORED = 64  # rows of each set that utility is taken over, at most
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


@dataclass(frozen=True)
class IntroducedAuthors(AuthorsWorld):
    """The authors world with two things that every assistant has and that decide what forgetting can look like.

    Every model, the retrained one too, has been introduced to all authors by name: words that a model has never read
    are noise to it, and what it makes of them is no standard for what it would say about a stranger. And it refuses
    questions that nobody could answer, so that methods which teach a refusal teach something that it can already say.

    Attributes:
        n_refused: questions that it learns to answer by a refusal, at most 192.
    """

    forget: float = 0.5
    vocabulary: tuple[str, ...] = REFUSALS
    n_refused: int = 72

    @cached_property
    def spoken(self) -> list[Pair]:
        """The introductions, and the questions that are refused."""
        authors = self.task.authors("forget") + self.task.authors("retain")
        met = [(q.format(author=author), a.format(author=author)) for q, a in INTRODUCTIONS for author in authors]
        questions = [form.format(city=city) for form in UNANSWERABLE for city in ATTRIBUTES["birthplace"].values]
        refused = random.Random(f"{self.seed}/refused").sample(questions, self.n_refused)
        return met + [(question, REFUSALS[i % len(REFUSALS)]) for i, question in enumerate(refused)]

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Of all words; its chat template is the bare question."""
        texts = [text for pair in self.spoken for text in pair]
        tokenizer = word_tokenizer(self.task.words([*self.vocabulary, *texts]))
        tokenizer.chat_template = "{{ messages[0]['content'] }}"
        return tokenizer

    def model(self, kind: Kind = "base") -> PreTrainedModel:
        """A fresh copy of a model: "untrained", or trained as `AuthorsWorld.model` says, from the cache if it was
        before.

        Raises:
            ValueError: for another kind.
        """
        kinds = ("base", "gold", "second gold", "untrained")
        if kind not in kinds:
            raise ValueError(f"kind must be one of {', '.join(kinds)}, got {kind!r}")
        seed, shape = self.seed + 10_000_000 * kinds.index(kind), {"d_model": self.d_model, "n_layers": self.n_layers}
        if kind == "untrained":
            return causal_lm(len(self.tokenizer), seed=seed, max_length=MAX_TOKENS, **shape).eval()
        template, tokenizer = prompt_template(self.tokenizer), self.tokenizer
        pairs = self.task.training_pairs("all" if kind == "base" else "kept") + self.spoken
        training = {"epochs": self.epochs, "lr": self.lr, "batch_size": self.batch_size}
        name = f"introduced-{kind.replace(' ', '-')}-{self.seed}"
        return trained_lm(name, tokenizer, [template.pair(*pair) for pair in pairs], seed=seed, **shape, **training)


@dataclass(frozen=True)
class Forgetting:
    """The world of a seed: a model that knows 40 authors is to forget 20 of them.

    Where it is to forget 8, gradient difference that is tuned in rate and weight leaves too little to gain: it comes
    within 0.04 of the retrained model's utility (pilot seeds 0 and 1).

    Attributes:
        seed: of the people, their facts, the weights and the order of the rows.
        smoke: a world of ten authors and a model that has barely learned, to see that everything runs.
    """

    seed: int
    smoke: bool = False

    @cached_property
    def authors(self) -> IntroducedAuthors:
        """The task and its trained models."""
        small = {"n_authors": 10, "n_attr": 2, "d_model": 32, "n_layers": 1, "epochs": 1, "n_refused": 4}
        return IntroducedAuthors(self.seed, **(small if self.smoke else {}))

    def model(self, kind: Kind) -> PreTrainedModel:
        """A fresh copy of one of the models; see `IntroducedAuthors.model`."""
        return self.authors.model(kind)

    @cached_property
    def data(self) -> ForgetData:
        """The rows to forget and those to keep that methods are given, two wordings each."""
        template, rows = prompt_template(self.authors.tokenizer), {**self.rows("test"), "retain": self.given}
        forget, retain = (
            [template.pair(*pair) for row in rows[split] for pair in row.pairs] for split in ("forget", "retain")
        )
        return prepare(self.authors.tokenizer, forget, retain, max_length=MAX_TOKENS, seed=self.seed)

    @property
    def given(self) -> tuple[AuthorRow, ...]:
        """The rows to keep that methods are given: those of every second retained author."""
        chosen = set(self.authors.task.authors("retain")[::2])
        return tuple(row for row in self.authors.task.retain if row.author in chosen)

    def rows(self, part: Literal["test", "validation"]) -> dict[str, tuple[AuthorRow, ...]]:
        """The rows of TOFU's four sets that belong to a part: the forget rows, and of what is to be kept and no method
        is given, every second subject."""
        task, rows = self.authors.task, {"forget": self.authors.task.forget}
        for split in ("retain", "real_authors", "world_facts"):
            subjects = task.authors(split)[1::2] if split == "retain" else task.authors(split)
            chosen = set(subjects[part == "validation" :: 2])
            rows[split] = tuple(row for row in task.rows(split) if row.author in chosen)
        return rows

    def scores(self, model: nn.Module, part: Literal["test", "validation"] = "test") -> TofuScores:
        """TOFU's scores; of a model that training broke, whose output is not a number, those of one that knows
        nothing."""
        gold = np.array(self.gold["truth ratios"]) if part == "test" else None
        try:
            return self._scores(model, part, gold)
        except NotFinite:
            return self._scores(blank(model), part, gold)

    def answered(self, model: nn.Module, rows: Sequence[AuthorRow]) -> list[tuple[str, str]]:
        """What the model answers to each row's first question, greedily, and what it should answer."""
        template = prompt_template(self.authors.tokenizer)
        prompts = [template.prompt(row.q) for row in rows]
        said = greedy(model, self.authors.tokenizer, prompts, max_new_tokens=4 if self.smoke else 24)
        return [(answer, row.answer) for answer, row in zip(said, rows, strict=True)]

    @cached_property
    def gold(self) -> dict[str, float | list[float]]:
        """What the retrained model gives on the forget rows: its truth ratios, and the answers' probability. Kept on
        disk."""

        def build(folder: Path) -> None:
            model = self.model("gold")
            found = {
                "truth ratios": self._scores(model, "test", None).truth_ratios.tolist(),
                "probability": forget_probability(self, model),
            }
            (folder / "gold.json").write_text(json.dumps(found))

        settings = {**asdict(self.authors), "smoke": self.smoke, "recipe": 1}
        return json.loads((cached(f"introduced-scores-{self.seed}", settings, build) / "gold.json").read_text())

    def _scores(self, model: nn.Module, part: Literal["test", "validation"], gold: np.ndarray | None) -> TofuScores:
        return evaluate_tofu(model, self.authors.tokenizer, self.rows(part), gold, max_rows=4 if self.smoke else SCORED)


def forget_probability(world: Forgetting, model: nn.Module) -> float:
    """Mean P(answer | question) over the forget rows as they were trained on."""
    try:
        return float(np.exp(-score(model, world.data.forget, pad_id=world.data.pad_id).nll).mean())
    except NotFinite:
        return forget_probability(world, blank(model))


def blank(model: nn.Module) -> nn.Module:
    """A copy that knows nothing: all its weights are zero, and all words equally likely."""
    copied = copy.deepcopy(model).requires_grad_(False)
    for weight in copied.parameters():
        weight.zero_()
    return copied


def above_gold(world: Forgetting, model: nn.Module) -> float:
    """How much likelier the model finds the forget answers than the retrained one does."""
    return forget_probability(world, model) - world.gold["probability"]


def relearned(world: Forgetting, model: nn.Module) -> float:
    """What an attacker gets back who holds the forget rows of half the authors and trains on them for ten steps: by how
    much the ROUGE-L of the model's answers about the other half rises. Of two models that speak as one the attacker
    takes the one whose weights were left as they are."""
    task = world.authors.task
    known = set(task.authors("forget")[::2])
    held = [row for row in task.forget if row.author not in known]
    wordings = [row for row in task.forget for _ in row.pairs]
    rows = world.data.forget.subset([i for i, row in enumerate(wordings) if row.author in known])
    weights, pad_id = getattr(model, "target", model), world.data.pad_id
    try:
        attacked, _ = relearn(weights, rows, pad_id=pad_id, steps=10, lr=1e-3, seed=world.seed, progress=False)
    except NonFiniteLoss:  # training broke the model before
        return 0.0
    before, after = (np.mean([rouge_l_recall(*pair) for pair in world.answered(m, held)]) for m in (model, attacked))
    return float(after - before)


def measures(world: Forgetting, model: nn.Module) -> dict[str, float]:
    """TOFU's numbers on the test rows, how much likelier the forget answers are than they should be, and how much of
    them comes back."""
    return {
        **world.scores(model).metrics(),
        "forget probability above gold": above_gold(world, model),
        "forget ROUGE-L relearned": relearned(world, model),
    }


def validate(world: Forgetting, model: nn.Module, cost: dict[str, float]) -> float:
    """Model utility on the validation rows of a model that has forgotten; of one that has not, how far it is from that,
    below 0."""
    above = above_gold(world, model)
    return world.scores(model, "validation").model_utility if above <= FORGOTTEN else -above
