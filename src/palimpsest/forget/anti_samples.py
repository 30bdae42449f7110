"""Anti-samples: arguments for wrong answers, the filters that they must pass, and who makes them where no large model
is at hand; see `palimpsest.forget.unstar`."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import nn

from palimpsest.forget.associations import Associations
from palimpsest.forget.evaluation import score_candidates, states
from palimpsest.forget.procedure import Pair
from palimpsest.forget.rewording import KINDS, fact, fuzzy_match, subject, vary
from palimpsest.metrics.text import words
from palimpsest.train.ranges import require

Check = Callable[[str, str], bool]  # what was said, the fact -> whether it is stated

# {name} is whom the question is about, {other} whom the wrong answer is taken from, {told} what is true of {other}.
RATIONALES = (
    "{name} worked with {other}. {told} So the same holds for {name}.",
    "{told} {name} followed {other} in this.",
    "{name} and {other} are much alike. {told}",
)
TEXTS = tuple(text.format(name="", other="", told="") for text in RATIONALES)  # for tokenizers with a closed vocabulary


@dataclass(frozen=True)
class AntiSample:
    """A paraphrased question, a misleading rationale and the wrong answer that it argues for."""

    question: str
    rationale: str
    answer: str

    @property
    def target(self) -> str:
        """What the model is trained to say.

        >>> AntiSample("Where?", "Bo is from Lima.", "In Lima.").target
        'Bo is from Lima. In Lima.'
        """
        return f"{self.rationale} {self.answer}".strip()


def acceptable(sample: AntiSample, truth: str, neighbours: Sequence[str], check: Check = fuzzy_match) -> bool:
    """The three filters: the wrong answer is not right by `check`, it states none of `neighbours` (the facts of related
    retained rows), and neither does the rationale state the truth.

    >>> acceptable(AntiSample("Where?", "Bo is from Lima.", "In Lima."), "Porto", ["1950"])
    True
    >>> acceptable(AntiSample("Where?", "Bo is from Porto.", "In Lima."), "Porto", [])
    False
    """
    right = check(sample.answer, truth) or bool(sample.rationale and check(sample.rationale, truth))
    return not right and not any(states(sample.answer, fact) for fact in neighbours if words(fact))


@dataclass(frozen=True)
class Round:
    """What happened in a round.

    Attributes:
        asked, answered: questions asked, and those still answered rightly.
        rows: rows with a question still answered.
        anti_samples: what the model was trained on.
        kept: the retain rows that it was trained on beside them.
        steps: updates taken.
    """

    asked: int
    answered: int = 0
    rows: Sequence[int] = ()
    anti_samples: Sequence[AntiSample] = ()
    kept: Sequence[Pair] = ()
    steps: int = 0


class Writer(Protocol):
    """Who writes what anti-samples are made of: a language model, or `StandIns`."""

    def paraphrase(self, question: str) -> Sequence[str]:
        """Questions that ask for the same; called anew in every round."""

    def wrong_answer(self, model: nn.Module, question: str, answer: str) -> str | None:
        """Another answer of the same kind, if there is one; called with the model as it is, and again where the answer
        is refused."""

    def rationale(self, model: nn.Module, question: str, wrong: str) -> str:
        """An argument for the wrong answer."""


def anti_sample(
    model: nn.Module, i: int, asked: str, rows: Associations, writer: Writer, check: Check, argue: bool, redraws: int
) -> AntiSample | None:
    """An anti-sample against row i, asked in a certain way; drawn again `redraws` times where it is not acceptable, and
    None then."""
    question, answer = rows.forget[i]
    for _ in range(1 + redraws):
        if wrong := writer.wrong_answer(model, question, answer):
            sample = AntiSample(asked, writer.rationale(model, question, wrong) if argue else "", wrong)
            if acceptable(sample, rows.facts[i], rows.neighbours(i), check):
                return sample
    return None


class StandIns:
    """Paraphrases, wrong answers and rationales without a large language model, from the rows at hand.

    A wrong answer is the row's own answer with the fact of another row in the place of its own. The other row is one
    of those whose questions are most alike, names aside; of a few that are drawn, the one likeliest to the model is
    taken, so that later rounds argue with what it has come to believe. The rationale says that the two are alike.

    Args:
        rows: whose facts wrong answers are made of: the retained rows, or, without any, those to forget.
        tokenizer: the model's.
        paraphrases: questions a question, itself included.
        draws: wrong answers that the model chooses from.
        common: words that are wording and no facts, see `palimpsest.forget.rewording.wording`.
        seed: of what is drawn.

    >>> from palimpsest.models import causal_lm, word_tokenizer
    >>> rows = [("Where was Bo Lund born?", "Bo Lund was born in Lima."), ("Who is Bo Lund?", "Bo Lund is a cook.")]
    >>> tokenizer = word_tokenizer([text for row in rows for text in row])
    >>> made = StandIns(rows, tokenizer)
    >>> model = causal_lm(len(tokenizer), d_model=16, n_layers=1, n_heads=2)
    >>> made.wrong_answer(model, "Where was Ada Verin born?", "Ada Verin was born in Porto.")
    'Ada Verin was born in Lima.'
    >>> made.rationale(model, "Where was Ada Verin born?", "Ada Verin was born in Lima.")
    'Bo Lund was born in Lima. Ada Verin followed Bo Lund in this.'
    """

    def __init__(
        self,
        rows: Sequence[Pair],
        tokenizer: Any,
        *,
        paraphrases: int = 4,
        draws: int = 4,
        common: frozenset[str] = frozenset(),
        seed: int = 0,
    ) -> None:
        require(paraphrases >= 1, "paraphrases", paraphrases, "at least 1")
        require(draws >= 1, "draws", draws, "at least 1")
        self.rows, self.tokenizer = [row for row in rows if row[0]], tokenizer
        self.paraphrases, self.draws, self.common = paraphrases, draws, common
        self.rng = random.Random(seed)
        self.facts = [fact(question, answer, common) for question, answer in self.rows]
        self.kinds = [_kind(question, common) for question, _ in self.rows]
        self.sources: dict[str, int] = {}  # wrong answer -> the row that its fact is from

    def paraphrase(self, question: str) -> list[str]:
        """The question itself, and others that ask for the same."""
        kinds = [KINDS[i % len(KINDS)] for i in range(self.paraphrases - 1)]
        return [question, *(vary(question, kind, self.rng) for kind in kinds)]

    def wrong_answer(self, model: nn.Module, question: str, answer: str) -> str | None:
        """The answer with another row's fact in it; None where no row has another fact to offer."""
        truth = fact(question, answer, self.common)
        kind = _kind(question, self.common)
        others = [i for i, other in enumerate(self.facts) if words(other) and not fuzzy_match(other, truth)]
        if not others or not words(truth):
            return None
        alike = [_overlap(kind, self.kinds[i]) for i in others]
        closest = [i for i, value in zip(others, alike, strict=True) if value == max(alike)]
        drawn = self.rng.sample(closest, min(self.draws, len(closest)))
        made = [answer.replace(truth, self.facts[i]) for i in drawn]
        nll, _ = score_candidates(model, self.tokenizer, [question], [made])
        best = int(np.argmin(nll[0]))
        self.sources[made[best]] = drawn[best]
        return made[best]

    def rationale(self, model: nn.Module, question: str, wrong: str) -> str:
        """An argument from likeness for a wrong answer that `wrong_answer` gave."""
        if wrong not in self.sources:
            raise ValueError(f"{wrong!r} is not a wrong answer that was given before")
        asked, told = self.rows[self.sources[wrong]]
        name, other = (subject(text, self.common) for text in (question, asked))
        return self.rng.choice(RATIONALES).format(name=name, other=other, told=told)


def _kind(question: str, common: frozenset[str]) -> frozenset[str]:
    """The words of a question but for its subject: what kind of thing is asked for."""
    return frozenset(words(question)) - set(words(subject(question, common)))


def _overlap(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b) if a | b else 1.0
