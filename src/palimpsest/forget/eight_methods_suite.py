"""What the eight tests of robust unlearning ask, and how (Lynch et al. 2024, arXiv 2402.16835)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from palimpsest.forget.second_language import Language
from palimpsest.tasks.authors import AuthorRow


@dataclass(frozen=True)
class Suite:
    """What the tests ask, and how.

    Attributes:
        tokenizer: the models'.
        forget, neighbours: rows to be forgotten, and rows near them that should be kept.
        language: (text, what stays as it is) -> the text in another language, which the models speak.
        before: put before every question, such as an instruction; "" for nothing.
        shots: facts in the prompt of test 3.
        share, steps, lr, rank: of test 4: which share of the rows is relearned, and `relearn_attack`'s.
        seed: of the facts in the prompt, of the rows relearned, and of the probe.
    """

    tokenizer: Any
    forget: Sequence[AuthorRow]
    neighbours: Sequence[AuthorRow]
    language: Language
    before: str = ""
    shots: int = 4
    share: float = 0.25
    steps: int = 20
    lr: float = 1e-3
    rank: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.forget) < 8 or not self.neighbours:
            counts = f"{len(self.forget)} and {len(self.neighbours)}"
            raise ValueError(f"the suite needs at least 8 forget rows and a neighbour, got {counts}")
        if not 0 < self.share < 1 or self.shots < 1:
            raise ValueError(f"share must be in (0, 1) and shots at least 1, got {self.share} and {self.shots}")

    def question(self, text: str) -> str:
        return f"{self.before} {text}" if self.before else text

    def record(self, row: AuthorRow) -> dict[str, Any]:
        record = row.to_json()
        return record | {name: self.question(record[name]) for name in ("question", "paraphrased_question")}
