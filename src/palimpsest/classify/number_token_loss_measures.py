"""The distance of distributions over numbers, and what answers that should be numbers are worth (of the number token
loss, Zausinger et al. 2024, arXiv 2411.02083)."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor


def wasserstein_1d(
    p: Float[Tensor, "*rows k"], target: Float[Tensor, "*rows k"], support: Float[Tensor, " k"]
) -> Float[Tensor, "*rows"]:
    """The Wasserstein distance of two distributions on a sorted support: the sum of the differences of their
    cumulative sums, times the spacings.

    Raises:
        ValueError: a support that is not sorted, or does not fit.

    >>> import torch
    >>> wasserstein_1d(torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 5.0]))
    tensor(4.5000)
    """
    if support.ndim != 1 or p.shape[-1] != len(support) or bool((support.diff() <= 0).any()):
        raise ValueError(f"the support must be {p.shape[-1]} sorted values, got {support.tolist()[:8]}")
    return ((p - target).cumsum(-1)[..., :-1].abs() * support.diff()).sum(-1)


def number_metrics(answers: Sequence[str], gold: Sequence[float], largest: float = 1e9) -> dict[str, float]:
    """Of answers that should be numbers: "exact" and "unreadable", shares of all, "mae" and "R squared", in which an
    unreadable answer, or one farther away than `largest`, counts as off by that much.

    Raises:
        ValueError: no answer, or not as many as numbers.

    >>> number_metrics(["3", " 5 ", "five"], [3.0, 4.0, 5.0], largest=10.0)["mae"]  # (0 + 1 + 10) / 3
    3.6666666666666665
    """
    if not gold or len(answers) != len(gold):
        raise ValueError(f"need as many answers as numbers, at least one, got {len(answers)} and {len(gold)}")
    errors, unreadable = [], 0
    for answer, number in zip(answers, gold, strict=True):
        try:
            error = abs(float(answer) - number)
        except ValueError:
            error, unreadable = largest, unreadable + 1
        errors.append(min(error, largest) if error == error else largest)
    mean = sum(gold) / len(gold)
    spread = sum((number - mean) ** 2 for number in gold)
    return {
        "exact": sum(error == 0 for error in errors) / len(gold),
        "unreadable": unreadable / len(gold),
        "mae": sum(errors) / len(gold),
        "R squared": 1 - sum(error**2 for error in errors) / spread if spread else float("nan"),
    }
