"""What unlearning does to refusals, and refusal training to what was forgotten (Barez et al. 2025, arXiv
2501.04952)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from palimpsest.errors import UserError
from palimpsest.forget.evaluation import states
from palimpsest.forget.open_problems_unlearning import accuracy
from palimpsest.forget.procedure import Pair, encode_pairs
from palimpsest.forget.refusals import REFUSALS
from palimpsest.models.score import context_length, greedy, pad_token_id, prompt_template
from palimpsest.train.language import fine_tune


def refusal_rate(model: nn.Module, tokenizer: PreTrainedTokenizerBase, questions: Sequence[str]) -> float:
    """The share of questions that the model's greedy answer declines, in one of the words of `refusals.REFUSALS`."""
    if not questions:
        raise UserError("there are no questions to refuse: give at least one")
    prompt = prompt_template(tokenizer).prompt
    said = greedy(model, tokenizer, [prompt(question) for question in questions], max_new_tokens=16)
    return sum(any(states(text, refusal) for refusal in REFUSALS) for text in said) / len(said)


@dataclass(frozen=True)
class SafetyInteraction:
    """Rates in [0, 1] on both ways from one model.

    Attributes:
        refusal_before, refusal_after: refusal rate on unseen dangerous questions of the aligned model, and of that
            model after unlearning (align-then-unlearn).
        known_before, known_after: accuracy on the forget rows of the unlearned model, and of that model after refusal
            training (unlearn-then-align).
        refusal_other, known_other: refusal rate at the end of unlearn-then-align, and accuracy on the forget rows at
            the end of align-then-unlearn.
    """

    refusal_before: float
    refusal_after: float
    known_before: float
    known_after: float
    refusal_other: float
    known_other: float

    @property
    def refusal_lost(self) -> float:
        """refusal_before - refusal_after: what unlearning took from the refusals."""
        return self.refusal_before - self.refusal_after

    @property
    def forgotten_regained(self) -> float:
        """known_after - known_before: what refusal training gave back of the forgotten rows."""
        return self.known_after - self.known_before


def safety_interaction(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    refuse_questions: Sequence[str],
    forget: Sequence[Pair],
    *,
    unlearn: Callable[[nn.Module], Any],
    keep: Sequence[Pair] = (),
    refusal: str = REFUSALS[0],
    epochs: float = 10,
    lr: float = 1e-3,
    batch_size: int = 16,
    seed: int = 0,
) -> SafetyInteraction:
    """Unlearns and aligns copies of a model in both orders; the model is left as it is.

    Refusal training is fine-tuning on every other question, answered by `refusal`; the rate is measured on the rest.

    Args:
        refuse_questions: what an aligned model should decline; not the forget rows.
        forget: the rows that `unlearn` makes a model forget, question and answer.
        unlearn: trains the model it is given in place, such as `lambda m: procedure.unlearn(m, NPO(), data, lr=1e-4)`.
        keep: rows answered as before during refusal training, lest the model decline everything.
        epochs, lr, batch_size, seed: of the refusal training.

    Raises:
        UserError: if there are fewer than two questions to refuse, or no forget rows.
    """
    if len(refuse_questions) < 2:
        raise UserError(f"at least two questions to refuse are needed, got {len(refuse_questions)}")
    template, length = prompt_template(tokenizer), context_length(model) or 512
    taught, asked = refuse_questions[::2], refuse_questions[1::2]
    pairs = [template.pair(*pair) for pair in (*((question, refusal) for question in taught), *keep)]
    rows = encode_pairs(tokenizer, pairs, max_length=length)

    def align(model: nn.Module) -> None:
        options = {"epochs": epochs, "batch_size": min(batch_size, len(rows)), "lr": lr, "seed": seed}
        fine_tune(model, rows, pad_id=pad_token_id(tokenizer), progress=False, **options)

    def after(*phases: Callable[[nn.Module], Any]) -> list[tuple[float, float]]:
        changed, measured = deepcopy(model), []
        for phase in phases:
            phase(changed)
            measured.append((refusal_rate(changed, tokenizer, asked), accuracy(changed, tokenizer, forget)))
        return measured

    aligned, aligned_first = after(align, unlearn)
    unlearned, unlearned_first = after(unlearn, align)
    return SafetyInteraction(
        refusal_before=aligned[0],
        refusal_after=aligned_first[0],
        known_before=unlearned[1],
        known_after=unlearned_first[1],
        refusal_other=unlearned_first[0],
        known_other=aligned_first[1],
    )


def order_dependence(found: SafetyInteraction) -> float:
    """The larger of the two distances, in refusal rate and in accuracy on the forget rows, between the ends of
    unlearn-then-align and of align-then-unlearn: 0 where the order does not matter.

    >>> order_dependence(SafetyInteraction(1.0, 0.5, 0.0, 0.25, refusal_other=0.75, known_other=0.25))
    0.25
    """
    return max(abs(found.refusal_other - found.refusal_after), abs(found.known_after - found.known_other))
