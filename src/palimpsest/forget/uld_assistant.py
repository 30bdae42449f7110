"""What ULD's assistant is trained by: the two objectives of unlearning, reversed (Ji et al. 2024, arXiv 2406.08607)."""

from __future__ import annotations

import math

from jaxtyping import Float, Int
from torch import Tensor, nn

from palimpsest.forget.baselines import token_mean
from palimpsest.models.score import cross_entropy


def uniform_kl(
    logits: Float[Tensor, "batch tokens vocabulary"], mask: Int[Tensor, "batch tokens"]
) -> Float[Tensor, ""]:
    """KL(uniform || softmax(logits)) = logsumexp(l) - mean(l) - log V in nats, averaged over each row's tokens where
    `mask` is 1, then over rows.

    >>> import torch
    >>> uniform_kl(torch.full((1, 2, 10), 3.0), torch.ones(1, 2)).abs() < 1e-6
    tensor(True)
    """
    if logits.ndim != 3 or mask.shape != logits.shape[:2]:
        raise ValueError(
            f"expected logits [batch, tokens, vocabulary] and mask [batch, tokens], got {list(logits.shape)} and"
            f" {list(mask.shape)}"
        )
    kl = logits.logsumexp(-1) - logits.mean(-1) - math.log(logits.shape[-1])
    return token_mean(kl, mask.to(kl.dtype))


def assistant_loss(
    assistant: nn.Module,
    forget: dict[str, Tensor],
    retain: dict[str, Tensor] | None = None,
    retain_weight: float = 5.0,
) -> dict[str, Tensor]:
    """The reversed objectives: CE on the answers of the forget rows, and `retain_weight` times the uniform KL at all
    tokens of the retain rows, their prompts included.

    Args:
        forget, retain: batches as `Encoded.batch` makes them.
    """
    terms = {"forget": cross_entropy(assistant, forget)}
    if retain is not None and retain_weight:
        inputs = {"input_ids": retain["input_ids"], "attention_mask": retain["attention_mask"]}
        terms["retain"] = retain_weight * uniform_kl(assistant(**inputs).logits, retain["attention_mask"])
    return terms
