"""How much of its gradient InfoNCE keeps (Yeh et al. 2021, arXiv 2110.06848)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from palimpsest.contrast.info_nce import nt_xent
from palimpsest.contrast.input_checks import check_pairs
from palimpsest.renamed import renamed


@renamed(z1="query", z2="key", tau="temperature")
def npc_multiplier(
    query: Float[Tensor, "batch d"], key: Float[Tensor, "batch d"], temperature: float | Tensor = 0.1
) -> Float[Tensor, " views"]:
    """1 - P_i(positive) under NT-Xent: the factor on a view's gradient that decoupling removes. No gradient.

    Close to 1 where the task is hard (many negatives, or near ones), close to 0 where the positive is easily found.
    Arguments as for `dcl_loss`; one value a view, the first view's first.

    >>> npc_multiplier(torch.eye(3), torch.eye(3), 0.5)  # 4 / (e^2 + 4)
    tensor([0.3512, 0.3512, 0.3512, 0.3512, 0.3512, 0.3512])
    """
    check_pairs(least=2, query=query, key=key, values=False)
    with torch.no_grad():
        return -torch.expm1(-nt_xent(query, key, temperature, reduction="none"))
