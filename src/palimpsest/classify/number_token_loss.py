"""Number token loss: where the next token is a number, a near one is better than a far one (Zausinger et al. 2024,
arXiv 2411.02083).

Cross-entropy holds a 9 for as wrong as a 4 where a 5 is right. With p the softmax over number tokens alone, v their
values and t the label's value, at the positions whose label is a number token:

    NTL-WAS = sum_j p_j |v_j - t|                                   (Wasserstein distance to the label)
    NTL-MSE = (t - sum_j p_j v_j)^2                                 (which is 0, too, with half on 4 and half on 6)

beside cross-entropy of all tokens: L = CE + lam NTL.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

IGNORED = -100
MARKS = "\u2581\u0120 "  # of a space before a token, in sentencepiece and in byte-level vocabularies


def number_values(tokenizer: Any, size: int | None = None, multi_digit: bool = False) -> Float[Tensor, " vocabulary"]:
    """The value of each token, nan for what is no number: single ASCII digits, as the authors' last version, or with
    `multi_digit` every token that reads as a finite number.

    Args:
        tokenizer: of Hugging Face.
        size: of the logits, where a model has more of them than tokens.

    Raises:
        ValueError: no token is a number, or all are.

    >>> from types import SimpleNamespace
    >>> toy = SimpleNamespace(get_vocab=lambda: {"a": 0, "7": 1, "12": 2, "\u21923": 3})
    >>> number_values(toy), number_values(toy, multi_digit=True)
    (tensor([nan, 7., nan, nan]), tensor([nan,  7., 12., nan]))
    """
    vocabulary = tokenizer.get_vocab()
    values = torch.full((max(size or 0, max(vocabulary.values()) + 1),), torch.nan)
    for token, number in vocabulary.items():
        bare = token.lstrip(MARKS)
        digit = len(bare) == 1 and bare.isdigit()
        number_like = bare.replace(".", "", 1).lstrip("+-").isdigit()
        if bare.isascii() and (digit or (multi_digit and number_like)):
            values[number] = float(bare)
    known = int((~values.isnan()).sum())
    if not 0 < known < len(values):
        raise ValueError(f"{known} of {len(values)} tokens are numbers: some must be, and not all")
    return values


def ntl_was(
    logits: Float[Tensor, "batch tokens vocabulary"],
    labels: Int[Tensor, "batch tokens"],
    values: Float[Tensor, " vocabulary"],
) -> Float[Tensor, ""]:
    """The mean Wasserstein distance to the label, over the positions whose label is a number; 0 without any, with a
    path for gradients.

    Args:
        logits: of the tokens that the labels are, shifted already; -100 is left out.
        values: of each token, nan for what is no number.

    Raises:
        ValueError: shapes that do not fit.

    >>> values = torch.tensor([4.0, 5.0, 6.0, torch.nan])
    >>> half = torch.tensor([[[9.0, -30.0, 9.0, 9.0]]])  # on 4 and on 6
    >>> ntl_was(half, torch.tensor([[1]]), values), ntl_mse(half, torch.tensor([[1]]), values)
    (tensor(1.), tensor(0.))
    """
    p, known, target = _at_numbers(logits, labels, values)
    return _mean((p * (known - target[:, None]).abs()).sum(1), logits)


def ntl_mse(
    logits: Float[Tensor, "batch tokens vocabulary"],
    labels: Int[Tensor, "batch tokens"],
    values: Float[Tensor, " vocabulary"],
    error: Callable[..., Tensor] = F.mse_loss,
) -> Float[Tensor, ""]:
    """The error of the mean value, over the positions whose label is a number; as `ntl_was` without any.

    Args:
        error: of (mean values, labels' values) with `reduction`: `F.mse_loss`, `F.l1_loss`, `F.huber_loss`.
    """
    p, known, target = _at_numbers(logits, labels, values)
    return _mean(error(p @ known, target, reduction="none"), logits)


def number_token_loss(
    logits: Float[Tensor, "batch tokens vocabulary"],
    labels: Int[Tensor, "batch tokens"],
    values: Float[Tensor, " vocabulary"],
    lam: float = 0.3,
    term: Callable[[Tensor, Tensor, Tensor], Tensor] = ntl_was,
) -> Float[Tensor, ""]:
    """Cross-entropy of all tokens and `lam` times the term of numbers.

    >>> logits, labels = torch.zeros(1, 1, 3), torch.tensor([[0]])
    >>> round(number_token_loss(logits, labels, torch.tensor([1.0, 2.0, torch.nan])).item(), 4)  # log 3 + 0.3 / 2
    1.2486
    """
    if not lam >= 0:
        raise ValueError(f"lam must not be negative, got {lam}")
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    plain = F.cross_entropy(wide.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    return plain + lam * term(logits, labels, values)


def _at_numbers(logits: Tensor, labels: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the positions whose label is a number: softmax over number tokens, these' values, and the labels' values."""
    if logits.ndim != 3 or labels.shape != logits.shape[:2] or values.shape != logits.shape[2:]:
        raise ValueError(
            f"need logits [batch, tokens, vocabulary], labels and values, got {list(logits.shape)}, "
            f"{list(labels.shape)}, {list(values.shape)}"
        )
    values = values.to(logits.device)
    numbers = (~values.isnan()).nonzero()[:, 0]
    # What is ignored is dropped before the look-up: -100 is no token.
    target = torch.where(labels == IGNORED, torch.nan, values[labels.clamp(min=0)])
    at = ~target.isnan()
    row, place = at.nonzero(as_tuple=True)
    chosen = logits[row[:, None], place[:, None], numbers]  # and no copy of whole vocabularies
    wide = chosen.to(torch.promote_types(chosen.dtype, torch.float32))
    return wide.softmax(1), values[numbers].to(wide), target[at].to(wide)


def _mean(each: Tensor, logits: Tensor) -> Tensor:
    return each.mean() if each.numel() else logits.sum() * 0.0
