"""Hardness-weighted InfoNCE (Lan, Niu, Meng, Zhou and Su, 2025, LLaVE, arXiv 2503.04812).

Fine-tuned embedding models leave positives and hard negatives with much the same similarities. Here every negative
counts in the denominator by how hard a reward model finds it; in the paper the reward model is the model itself, seen
without gradient, so that the reward is the cosine:

    l_i = -log( e^{s c_ii} / (e^{s c_ii} + sum_{j != i} e^{alpha r_ij} e^{s c_ij}) ),      r_ij = sg(c_ij)

averaged over both directions. alpha multiplies the cosine, not the scaled score. With r = sg(c) each negative has the
score it would have at the scale s + alpha, and the positive that of s: for the softmax over negatives it is a sharper
temperature, for the positive a margin of alpha c_ij / s against negative j, and slopes stay s.

A learnable s gets its gradient through the scores alone here; in the authors' code also through the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from palimpsest.contrast.info_nce import info_nce
from palimpsest.contrast.input_checks import (
    Blaming,
    check_finite,
    check_pairs,
    check_positive,
    check_unit,
    one_number,
    one_scale,
    unit_rows,
)
from palimpsest.contrast.precision import without_autocast
from palimpsest.lazy import front_door
from palimpsest.renamed import renamed

# Cosines of all pairs, or the reward model's own embeddings of queries and keys.
Reward = Float[Tensor, "batch batch"] | tuple[Float[Tensor, "batch r"], Float[Tensor, "batch r"]]
MOST = 80.0  # e^80 fits float32
SCALE = 50.0  # the default


@renamed(q="query", k="key")
def hardness_nce(
    query: Float[Tensor, "batch d"],
    key: Float[Tensor, "batch d"],
    scale: float | Tensor | None = None,
    alpha: float = 9.0,
    reward: Reward | None = None,
    *,
    temperature: float | Tensor | None = None,
    normalize: bool = False,
    group: Any = None,
    rows: int | None = None,
) -> Float[Tensor, ""]:
    """The mean over both directions of -log( e^{s c_ii} / (e^{s c_ii} + sum_{j != i} e^{alpha r_ij + s c_ij}) ).

    Streamed, see `palimpsest.contrast.info_nce`.

    Args:
        query, key: unit-norm, row by row a pair.
        scale: s, one over the temperature, by default 50; a tensor of one element gets a gradient.
        alpha: how much hardness counts: 0 is InfoNCE. At most 80 away from 0. (The paper's runs use 9; the default of
            its code is 0.5.)
        reward: of another encoder: its cosines [batch, batch], or its unit-norm embeddings of queries and keys. None
            takes the cosines of query and key themselves. No gradient.
        temperature: in the place of the scale.
        normalize: bring rows to norm 1; otherwise they must have it. A reward's own embeddings must have it anyway.
        group: processes whose batches are taken together, see `info_nce` (without a reward of another encoder).
        rows: of a strip of scores.

    Raises:
        ValueError, TypeError: what does not fit, with its value.

    >>> z = F.normalize(torch.randn(6, 4), dim=1)
    >>> bool(hardness_nce(z, z, 5.0, alpha=9.0) > hardness_nce(z, z, 5.0, alpha=0.0))
    True
    """
    check_pairs(query=query, key=key, values=False)
    scale = checked_scale(one_scale(scale, temperature, SCALE), alpha)
    blaming = Blaming(query=query, key=key)
    query, key = unit_rows(normalize, query=query, key=key)
    rewards = _rewards(reward, len(query))

    def weights(part: slice, cosines: Tensor) -> Tensor:
        with without_autocast(cosines):
            return (alpha * (cosines if rewards is None else rewards(part).to(cosines))).exp()

    if group is not None and reward is not None:
        raise ValueError("a reward of another encoder is of one process: leave reward out, or group")
    with blaming:
        if group is None:
            return info_nce(query, key, 1 / scale, symmetric=True, pair_weights=weights, rows=rows)
        forth, back = (
            info_nce(*pair, 1 / scale, pair_weights=weights, group=group, rows=rows)
            for pair in ((query, key), (key, query))
        )
        return (forth + back) / 2


def checked_scale(scale: float | Tensor, alpha: float) -> float | Tensor:
    """The scale as a number, or as a tensor that has one; both are refused out of their ranges."""
    check_positive(scale, "scale")
    if not abs(alpha) <= MOST:
        raise ValueError(f"alpha must be from -{MOST:g} to {MOST:g}, got {alpha}")
    return one_number(scale, "scale")


def _rewards(reward: Reward | None, n: int) -> Callable[[slice], Tensor] | None:
    """A function of a slice of rows, or None."""
    if reward is None:
        return None
    if isinstance(reward, Tensor):
        if reward.shape != (n, n):
            raise ValueError(f"reward must be [{n}, {n}], got {list(reward.shape)}")
        check_finite(reward, "reward")
        if (largest := reward.abs().max().item()) > 1 + 1e-2:
            raise ValueError(f"reward must be cosines, from -1 to 1, got one of size {largest:g}")
        return lambda part: reward[part].detach()
    if len(reward) != 2:
        raise ValueError(f"reward must be cosines, or the embeddings of queries and of keys, got {len(reward)} tensors")
    queries, keys = reward
    check_pairs(reward_queries=queries, reward_keys=keys)
    check_unit(reward_queries=queries, reward_keys=keys)
    if len(queries) != n:
        raise ValueError(f"reward must have embeddings of {n} pairs, got {len(queries)}")
    return lambda part: queries[part].detach() @ keys.detach().T


_MOVED = {
    "contrast.llave_measures": (
        "gather",
        "gradient_share",
        "negatives",
        "overlap",
    ),
}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
