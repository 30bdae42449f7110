"""Scores of several arms, paired by seed and by test item; what does not pair is refused."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

Items = ArrayLike | Mapping[object, float | int]


def paired_tables(arm_scores: Mapping[str, Mapping[int, float | Items]]) -> dict[str, dict[int, np.ndarray]]:
    """arm -> seed -> one row of scores, in the first arm's order of seeds and items; refuses what does not pair."""
    if len(arm_scores) < 2:
        raise ValueError(f"a comparison needs two arms or more, got {len(arm_scores)}")
    first, reference = next(iter(arm_scores.items()))
    if not reference:
        raise ValueError(f"arm {first!r} has no seeds")
    tables: dict[str, dict[int, np.ndarray]] = {}
    for arm, by_seed in arm_scores.items():
        if set(by_seed) != set(reference):
            odd = sorted(set(by_seed) ^ set(reference))
            raise ValueError(f"arms are paired by seed, but {arm!r} and {first!r} do not share {odd}")
        tables[arm] = {seed: _row(arm, first, seed, by_seed[seed], reference[seed]) for seed in reference}
    return tables


def _row(arm: str, first: str, seed: int, scores: float | Items, reference: float | Items) -> np.ndarray:
    where = f"seed {seed}: {arm!r} and {first!r}"
    if isinstance(scores, Mapping) != isinstance(reference, Mapping):
        raise ValueError(f"{where} must both name their items, or neither")
    if isinstance(scores, Mapping) and isinstance(reference, Mapping):
        if set(scores) != set(reference):
            raise ValueError(f"{where} were not tested on the same items")
        scores = [scores[item] for item in reference]
        reference = list(reference.values())
    row = np.atleast_1d(np.asarray(scores, dtype=float))
    if row.ndim != 1 or not row.size or row.shape != np.atleast_1d(np.asarray(reference)).shape:
        raise ValueError(f"{where} must have one score, or a row of as many items, got shape {np.shape(scores)}")
    if not np.isfinite(row).all():
        raise ValueError(f"seed {seed}: {arm!r} has the score {row[~np.isfinite(row)][0]}; scores must be finite")
    return row
