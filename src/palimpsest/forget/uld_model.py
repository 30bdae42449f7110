"""A model with an assistant's logits taken away: the arithmetic of ULD, and what speaks so (Ji et al. 2024, arXiv
2406.08607)."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from palimpsest.forget.logits import TwoModelLM, filtered_difference


def uld_logits(
    target: Float[Tensor, "... vocabulary"],
    assistant: Float[Tensor, "... vocabulary"],
    weight: float = 0.8,
    top: float = 0.01,
    *,
    generating: bool = False,
) -> Float[Tensor, "... vocabulary"]:
    """l_target - weight l_assistant on the words that the target finds likely; see
    `palimpsest.forget.logits.filtered_difference`.

    The others keep the target's logit when answers are scored, and get -1000 when text is generated, as in the authors'
    code: a word must not be said only because the likely ones were pushed below it. An assistant whose logits are all
    equal leaves the odds between likely words as they are; where they are 0, or `top` is 1 and no word is filtered, it
    leaves the whole distribution.

    Args:
        target, assistant: raw logits, not log-probabilities.
        weight: alpha, at least 0; 0 is the target as it is.
        top: share of the vocabulary, and of the largest probability, below which a word is filtered.

    >>> import torch
    >>> uld_logits(torch.tensor([2.0, 1.0]), torch.tensor([5.0, 0.0]), weight=0.8)
    tensor([-2.,  1.])
    """
    if not (weight >= 0 and math.isfinite(weight)):
        raise ValueError(f"weight must be a number of at least 0, got {weight}")
    return filtered_difference(target, assistant, weight, top, filtered="drop" if generating else "keep")


class UnlearnedLM(TwoModelLM):
    """The target with the assistant's knowledge taken away: `forward` and `generate` as transformers' models have them,
    without gradients. What counts as generating: see `TwoModelLM`.

    Attributes:
        weight, top: see `uld_logits`.
    """

    def __init__(self, target: PreTrainedModel, assistant: PreTrainedModel, weight: float = 0.8, top: float = 0.01):
        super().__init__(target, assistant)
        self.weight, self.top = weight, top

    def combine(self, target: Tensor, assistant: Tensor, generating: bool) -> Tensor:
        return uld_logits(target, assistant, self.weight, self.top, generating=generating)
