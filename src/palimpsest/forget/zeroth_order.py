"""Descent on a score of one number without its derivative: the search of ECO (Liu et al. 2024, arXiv 2406.07933)."""

from __future__ import annotations

from collections.abc import Callable


def zo_search(
    score: Callable[[float], float],
    strength0: float,
    lr: float,
    eps: float,
    *,
    steps: int = 10,
    s_min: float = 1e-8,
    tolerance: float = 0.0,
) -> tuple[float, list[tuple[float, float]]]:
    """Two-point zeroth-order descent on a score of one number; stops as soon as a score is at most `tolerance`.

        s <- max(s - lr (score(s + eps) - score(max(s - eps, 1e-8))) / (2 eps), s_min)

    Returns:
        The strength with the lowest score of all that were tried, and all of them with their scores, in order.

    Raises:
        ValueError: if a number is out of its range.

    >>> strength, tried = zo_search(lambda s: abs(s - 3.0), 1.0, lr=0.5, eps=0.1, tolerance=0.15)
    >>> round(strength, 1), len(tried)
    (3.1, 10)
    """
    if not (strength0 > 0 and lr > 0 and eps > 0 and s_min > 0):
        raise ValueError(f"strength0, lr, eps and s_min must be above 0, got {strength0}, {lr}, {eps} and {s_min}")
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")
    tried: list[tuple[float, float]] = []

    def reached(s: float) -> bool:
        tried.append((s, float(score(s))))
        return tried[-1][1] <= tolerance

    s = strength0
    if not reached(s):
        for _ in range(steps):
            if reached(s + eps) or reached(max(s - eps, 1e-8)):
                break
            s = max(s - lr * (tried[-2][1] - tried[-1][1]) / (2 * eps), s_min)
    return min(tried, key=lambda found: found[1])[0], tried
