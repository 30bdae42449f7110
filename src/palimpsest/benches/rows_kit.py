"""A small language model that has learned rows, of which it is to forget some: what worlds of such rows share.

A world says which rows there are (`Rows`) and inherits the rest: the tokenizer, the model that has learned them all
("base"), the one that never saw the rows to forget ("gold", from other weights and in another order), the untrained
one, the data that methods are given, and what is kept. How far forgetting has come is told by the retrained model, as
for authors (`palimpsest.benches.authors_kit`): methods are compared where the forgotten answers are hardly
likelier than it finds them.

No row that a method is given is one that it is tuned or judged by, and none that it is tuned by one that it is judged
by. What training broke, so that its output is not a number, is judged as a model that knows nothing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.benches.authors_kit import FORGOTTEN, blank
from palimpsest.errors import NotFinite
from palimpsest.forget.procedure import ForgetData, Pair, encode_pairs, prepare
from palimpsest.forget.refusals import REFUSALS
from palimpsest.metrics.text import rouge_1_recall
from palimpsest.models.language import causal_lm
from palimpsest.models.score import greedy, prompt_template, score
from palimpsest.models.tokenizers import word_tokenizer
from palimpsest.tasks.worlds import MAX_TOKENS, cached, trained_lm

Part = Literal["test", "validation"]
ABOVE_GOLD = "forget probability above gold"


@dataclass(frozen=True)
class Rows:
    """The rows of a world by what becomes of them, as (question, answer).

    Attributes:
        forget: what is to be forgotten, as methods are given it.
        given: what is to be kept, as methods are given it.
        validation, test: what is to be kept and no method is given: by which they are tuned, and judged.
        besides: what every model has learned and nobody asks for.
    """

    forget: Sequence[Pair]
    given: Sequence[Pair]
    validation: Sequence[Pair]
    test: Sequence[Pair]
    besides: Sequence[Pair] = ()

    @property
    def kept(self) -> list[Pair]:
        """All that the retrained model learns."""
        return [*self.given, *self.validation, *self.test, *self.besides]


@dataclass(frozen=True)
class RowsWorld:
    """The world of a seed; a subclass has the rows.

    Attributes:
        seed: of the rows, the weights and the order.
        smoke: few rows and a model that has barely learned, to see that everything runs.
    """

    seed: int
    smoke: bool = False

    training: ClassVar[dict[str, Any]] = {"d_model": 128, "n_layers": 2, "epochs": 20, "lr": 3e-3, "batch_size": 16}
    small: ClassVar[dict[str, Any]] = {"d_model": 16, "n_layers": 1, "epochs": 5, "lr": 3e-3, "batch_size": 8}
    max_length: ClassVar[int] = MAX_TOKENS

    @property
    def rows(self) -> Rows:
        """The rows; a subclass has them."""
        raise NotImplementedError

    @property
    def texts(self) -> list[str]:
        """What the tokenizer knows the words of besides those of the rows."""
        return []

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Of all that the first model learns, whatever of it is to be forgotten; its template is the bare question."""
        learned = {text for pair in self.learned("base") for text in pair}
        tokenizer = word_tokenizer(sorted({*learned, *self.texts, *REFUSALS}))
        tokenizer.chat_template = "{{ messages[0]['content'] }}"
        return tokenizer

    def told(self, rows: Sequence[Pair]) -> list[Pair]:
        """Rows as the model sees them; what has no question is a text of its own."""
        template = prompt_template(self.tokenizer)
        return [template.pair(*row) if row[0] else row for row in rows]

    def model(self, kind: str = "base") -> PreTrainedModel:
        """A fresh copy of the model of a kind: "untrained", "base" or "gold"; trained once and kept on disk.

        Raises:
            ValueError: for another kind.
        """
        kinds = ("base", "gold", "untrained")
        if kind not in kinds:
            raise ValueError(f"kind must be one of {', '.join(kinds)}, got {kind!r}")
        seed, settings = self.seed + 10_000_000 * kinds.index(kind), self.small if self.smoke else self.training
        settings = {**settings, "max_length": self.max_length}
        if kind == "untrained":
            shape = {name: settings[name] for name in ("d_model", "n_layers", "max_length")}
            return causal_lm(len(self.tokenizer), seed=seed, **shape).eval()
        name = f"{type(self).__name__.lower()}-{kind}-{self.seed}"
        return trained_lm(name, self.tokenizer, self.told(self.learned(kind)), seed=seed, **settings)

    def learned(self, kind: str) -> list[Pair]:
        """What a model is trained on, in an order that does not depend on which of the rows are to be forgotten."""
        return sorted([*self.rows.kept, *(self.rows.forget if kind == "base" else ())])

    @cached_property
    def data(self) -> ForgetData:
        """The rows to forget and those to keep that methods are given."""
        forget, given = self.told(self.rows.forget), self.told(self.rows.given)
        return prepare(self.tokenizer, forget, given, max_length=self.max_length, seed=self.seed)

    @cached_property
    def gold(self) -> dict[str, float]:
        """How likely the retrained model finds the forgotten answers. Kept on disk."""

        def build(folder: Path) -> None:
            found = {"probability": self.forget_probability(self.model("gold"))}
            (folder / "gold.json").write_text(json.dumps(found))

        settings = {"rows": [self.told(self.rows.forget), self.learned("gold")], "recipe": 1}
        settings |= {"training": self.small if self.smoke else self.training, "seed": self.seed}
        name = f"{type(self).__name__.lower()}-scores-{self.seed}"
        return json.loads((cached(name, settings, build) / "gold.json").read_text())

    def forget_probability(self, model: nn.Module) -> float:
        """Mean P(answer | question) over what is to be forgotten, by default the rows that methods are given for it."""
        return self.probability(model, self.rows.forget)

    def probability(self, model: nn.Module, rows: Sequence[Pair]) -> float:
        """Mean over rows of the answer's probability, the geometric mean over its tokens."""
        encoded = encode_pairs(self.tokenizer, self.told(rows), max_length=self.max_length)
        return float(np.exp(-score(model, encoded, pad_id=self.tokenizer.pad_token_id).nll).mean())

    def recall(self, model: nn.Module, rows: Sequence[Pair]) -> float:
        """Mean ROUGE-1 recall of what the model answers, greedily."""
        longest = max(len(self.tokenizer(answer).input_ids) for _, answer in rows)
        said = greedy(model, self.tokenizer, [p for p, _ in self.told(rows)], max_new_tokens=longest + 2)
        return float(np.mean([rouge_1_recall(text, row[1]) for text, row in zip(said, rows, strict=True)]))

    def kept(self, model: nn.Module, part: Part) -> float:
        """How much of what should be kept and no method was given is still there, the higher the better: what methods
        are tuned and judged by."""
        return self.recall(model, self.rows.test if part == "test" else self.rows.validation)

    def measured(self, model: nn.Module) -> dict[str, float]:
        """The numbers of the world's own."""
        return {"kept recall": self.kept(model, "test"), "forget recall": self.recall(model, self.rows.forget)}


def dealt(rows: Sequence[Any], seed: int, shares: Sequence[float]) -> list[list[Any]]:
    """Rows dealt at random to parts of about these shares, the order within a part as it was.

    >>> [len(part) for part in dealt(range(10), 0, (0.5, 0.2, 0.3))]
    [5, 2, 3]
    """
    order = random.Random(f"{seed}/dealt").sample(range(len(rows)), len(rows))
    ends = [0, *(round(len(rows) * float(share)) for share in np.cumsum(shares))]
    return [[rows[i] for i in sorted(order[a:b])] for a, b in pairwise(ends)]


def measures(world: RowsWorld, model: nn.Module) -> dict[str, float]:
    """How much likelier the forgotten answers are than they should be, and what the world measures."""
    try:
        return {ABOVE_GOLD: above(world, model), **world.measured(model)}
    except NotFinite:
        return measures(world, blank(model))


def above(world: RowsWorld, model: nn.Module) -> float:
    """How much likelier the model finds the forgotten answers than the retrained one does."""
    try:
        return world.forget_probability(model) - world.gold["probability"]
    except NotFinite:
        return above(world, blank(model))


def validate(world: RowsWorld, model: nn.Module, cost: dict[str, float]) -> float:
    """What a model that has forgotten has kept of the validation rows; of one that has not, how far it is from that,
    below 0."""
    try:
        far = above(world, model)
        return world.kept(model, "validation") if far <= FORGOTTEN else -far
    except NotFinite:
        return validate(world, blank(model), cost)
