"""Membership attacks on language models: was this text among the training data?

Every attack gives one number a text, larger where the text looks more like a member, from the log-probabilities that
the model gives to its tokens. Sources: loss, Yeom et al. 2018 (1709.01604); zlib, Carlini et al. 2021 (2012.07805);
min-k, Shi et al. 2024 (2310.16789); min-k++, Zhang et al. 2024 (2404.02936).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def loss_attack(logps: Float[np.ndarray, "tokens"]) -> float:
    """The mean log-probability of the tokens, in nats: minus the loss.

    >>> loss_attack(np.array([-1.0, -3.0]))
    -2.0
    """
    return float(np.mean(logps)) if len(logps) else 0.0


def zlib_attack(logps: Float[np.ndarray, "tokens"], text: str) -> float:
    """The mean log-probability of the tokens over the length in bytes of the zlib-compressed text: how likely the
    model finds the text, for how much there is to know in it."""
    return loss_attack(logps) / len(zlib.compress(text.encode("utf-8")))


def min_k_attack(logps: Float[np.ndarray, "tokens"], share: float = 0.2) -> float:
    """The mean of the lowest `share` of the tokens' log-probabilities, of at least one token.

    >>> min_k_attack(np.array([-5.0, -1.0, -1.0, -1.0, -1.0]))
    -5.0
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], got {share}")
    if not len(logps):
        return 0.0
    k = max(1, int(len(logps) * share))
    return float(np.partition(logps, k - 1)[:k].mean())


def min_k_plus_plus_attack(
    logps: Float[np.ndarray, "tokens"],
    means: Float[np.ndarray, "tokens"],
    variances: Float[np.ndarray, "tokens"],
    share: float = 0.2,
) -> float:
    """`min_k_attack` of the standardised log-probabilities (log p - mu) / sigma: is this token likelier than what the
    model would say in its place?

    Args:
        means: mu = sum_v p(v) log p(v) at each token's position, over the vocabulary.
        variances: sigma^2 = sum_v p(v) log^2 p(v) - mu^2.
    """
    deviations = np.sqrt(np.maximum(variances, 1e-12))
    return min_k_attack((np.asarray(logps) - means) / deviations, share)


def attacks(
    token_logps: Sequence[Float[np.ndarray, "tokens"]],
    token_means: Sequence[Float[np.ndarray, "tokens"]],
    token_variances: Sequence[Float[np.ndarray, "tokens"]],
    texts: Sequence[str],
    share: float = 0.2,
) -> dict[str, Float[np.ndarray, "texts"]]:
    """Every attack's score of every text: "loss", "zlib", "min_k", "min_k++"."""
    moments = zip(token_logps, token_means, token_variances, strict=True)
    return {
        "loss": np.array([loss_attack(logps) for logps in token_logps]),
        "zlib": np.array([zlib_attack(logps, text) for logps, text in zip(token_logps, texts, strict=True)]),
        "min_k": np.array([min_k_attack(logps, share) for logps in token_logps]),
        "min_k++": np.array([min_k_plus_plus_attack(*row, share) for row in moments]),
    }


def auc(members: Float[np.ndarray, "members"], non_members: Float[np.ndarray, "others"]) -> float:
    """Area under the ROC curve: how often a member scores above a non-member, ties counted as half.

    >>> auc(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
    0.875

    Raises:
        ValueError: if one of the groups is empty, or a score is not a number.
    """
    members, non_members = np.asarray(members, dtype=float), np.asarray(non_members, dtype=float)
    if not len(members) or not len(non_members):
        raise ValueError(f"need members and non-members, got {len(members)} and {len(non_members)}")
    if np.isnan(members).any() or np.isnan(non_members).any():
        raise ValueError("scores must be numbers, got NaN")
    below = np.searchsorted(np.sort(non_members), members, side="left")
    up_to = np.searchsorted(np.sort(non_members), members, side="right")
    return float((below + up_to).mean() / (2 * len(non_members)))


def privleak(area: float, retrained: float) -> float:
    """100 ((1 - A) - (1 - A0)) / (1 - A0): 0 where the texts look as they do to a model that never saw them.

    Raises:
        ValueError: if an area is outside [0, 1], or that of the retrained model is 1.

    >>> privleak(1.0, 0.5), round(privleak(0.4, 0.5), 6)
    (-100.0, 20.0)
    """
    if not (0 <= area <= 1 and 0 <= retrained < 1):
        raise ValueError(f"areas must lie in [0, 1], that of the retrained model below 1: got {area} and {retrained}")
    return 100 * ((1 - area) - (1 - retrained)) / (1 - retrained)
