"""Which rows to keep touch what is to be forgotten: an association of a subject with a fact, such as a person with a
birthplace; see `palimpsest.forget.unstar`."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from palimpsest.errors import UserError
from palimpsest.forget.procedure import ForgetData, Pair, encode_pairs
from palimpsest.forget.rewording import Frame, fact, frame_of, subject, wording
from palimpsest.metrics.text import words


def related(question: str, answer: str, retain: Sequence[Pair], common: frozenset[str] = frozenset()) -> list[int]:
    """Which retained rows touch the association of a row: those about the same subject, and those with the same fact.

    >>> retain = [("Where does Ada live?", "In Lima."), ("Where was Bo born?", "In Porto."), ("Who is Bo?", "A cook.")]
    >>> related("Where was Ada born?", "In Porto.", retain)
    [0, 1]
    """
    who, what = set(words(subject(question, common))), words(fact(question, answer, common))
    return [i for i, (q, a) in enumerate(retain) if (who and who <= set(words(q))) or words(fact(q, a, common)) == what]


@dataclass(frozen=True)
class Associations:
    """The associations of rows to forget, among rows to keep; bare questions and answers, without a template.

    Attributes:
        forget: of which each has one.
        retain: what is to be kept.
        frame: what stands around questions and answers.
    """

    forget: Sequence[Pair]
    retain: Sequence[Pair]
    frame: Frame

    @classmethod
    def of(cls, data: ForgetData) -> Associations:
        """Those of rows that were prepared.

        Raises:
            UserError: if the data lack their texts or tokenizer, or a row to forget is a plain text.
        """
        if not data.forget_pairs or data.tokenizer is None:
            raise UserError("the rows' texts and the tokenizer are needed: make the data with prepare")
        frame = frame_of(data.tokenizer, data.forget_pairs)
        forget, retain = ([frame.strip(pair) for pair in pairs] for pairs in (data.forget_pairs, data.retain_pairs))
        if plain := [i for i, (question, _) in enumerate(forget) if not question]:
            raise UserError(f"forget row {plain[0]} is a plain text, which cannot be asked: give questions and answers")
        return cls(forget, retain, frame)

    @cached_property
    def common(self) -> frozenset[str]:
        """Words that many answers share: wording and no facts."""
        return wording(self.retain)

    @cached_property
    def facts(self) -> list[str]:
        """The fact of each row to forget."""
        return [fact(question, answer, self.common) for question, answer in self.forget]

    @cached_property
    def near(self) -> list[list[int]]:
        """Of each row to forget, the related rows to keep."""
        return [related(question, answer, self.retain, self.common) for question, answer in self.forget]

    def neighbours(self, i: int) -> list[str]:
        """The other facts about the subject of row i. Another subject's fact may well be the same type of thing, and is
        what a wrong answer is made of."""
        about = set(words(subject(self.forget[i][0], self.common)))
        rows = [self.retain[j] for j in self.near[i]]
        return [fact(*row, self.common) for row in rows if about <= set(words(row[0]))]

    def kept(
        self, rows: Sequence[int], paraphrase: Callable[[str], Sequence[str]], least: int, rng: random.Random
    ) -> list[Pair]:
        """What is to be kept beside the forgetting of some rows: the related rows as they are and paraphrased, and as
        many others, `least` at least."""
        close = sorted({j for i in rows for j in self.near[i]})
        others = sorted(set(range(len(self.retain))) - set(close))
        kept = [self.retain[j] for j in close]
        kept += [(rng.choice(list(paraphrase(question))), answer) for question, answer in kept if question]
        return kept + [self.retain[j] for j in rng.sample(others, min(len(others), max(len(kept), least)))]

    def encoded(self, data: ForgetData, taught: Sequence[Pair], kept: Sequence[Pair]) -> ForgetData:
        """Rows to train on, and rows to keep beside them, in the frame and encoded as `data` are."""
        sets = ([self.frame.put(*pair) for pair in pairs] for pairs in (taught, kept))
        found = [
            encode_pairs(data.tokenizer, pairs, max_length=data.max_length, truncate=True) if pairs else None
            for pairs in sets
        ]
        return ForgetData(*found, pad_id=data.pad_id)
