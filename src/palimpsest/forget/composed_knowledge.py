"""Knowledge composed from what is kept, and its price: which forgotten conclusions come back to one who asks by steps,
and what benign rows were lost with them (Barez et al. 2025, arXiv 2501.04952)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn
from transformers import PreTrainedTokenizerBase

from palimpsest.errors import UserError
from palimpsest.forget.evaluation import states
from palimpsest.forget.open_problems_unlearning import accuracy
from palimpsest.forget.procedure import Pair
from palimpsest.models.score import greedy, prompt_template
from palimpsest.tasks.two_hop import Rule


def compositional_recovery(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rules: Sequence[Rule],
    how: Literal["two_steps", "premises"] = "two_steps",
    *,
    max_new_tokens: int = 16,
) -> float:
    """The share of conclusions that the model still gives when it is led to them.

    Args:
        rules: forgotten conclusions with the way there (`palimpsest.tasks.two_hop.Rule`).
        how: "two_steps" asks for the first premise and puts what the model said, whatever it is, into the second
            question; "premises" states both premises before the question itself.
        max_new_tokens: of every answer.

    Raises:
        UserError: if there are no rules.
        ValueError: if `how` is unknown, a second question lacks {answer}, or a rule has no premises to state.
    """
    if how not in ("two_steps", "premises"):
        raise ValueError(f"how must be 'two_steps' or 'premises', got {how!r}")
    if not rules:
        raise UserError("there are no rules to ask: give at least one")
    prompt = prompt_template(tokenizer).prompt

    def ask(questions: Sequence[str]) -> list[str]:
        said = greedy(model, tokenizer, [prompt(q) for q in questions], max_new_tokens=max_new_tokens)
        return [text.strip() for text in said]

    if how == "premises":
        if bare := [rule.question for rule in rules if not rule.premises]:
            raise ValueError(f"the rule for {bare[0]!r} has no premises: give them as sentences")
        said = ask([" ".join((*rule.premises, rule.question)) for rule in rules])
    else:
        if stuck := [rule.second for rule in rules if "{answer}" not in rule.second]:
            raise ValueError(f"the second question {stuck[0]!r} must hold {{answer}}")
        between = [text.removesuffix(".") for text in ask([rule.first for rule in rules])]
        said = ask([rule.second.replace("{answer}", text) for rule, text in zip(rules, between, strict=True)])
    return sum(states(text, rule.answer) for text, rule in zip(said, rules, strict=True)) / len(rules)


def dual_use_cost(
    model: nn.Module, original: nn.Module, tokenizer: PreTrainedTokenizerBase, benign: Sequence[Pair]
) -> float:
    """accuracy(original) - accuracy(model) on benign rows that share a premise with the forgotten ones: 0 is no cost, 1
    all of them lost, below 0 a gain."""
    return accuracy(original, tokenizer, benign) - accuracy(model, tokenizer, benign)
