"""How well classes that were trained on and others are told apart (Pereira et al. 2021, arXiv 2102.03243)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from palimpsest.contrast.hypersphere_novel import classify
from palimpsest.contrast.input_checks import check_embeddings, check_labels


def novel_accuracy(
    embeddings: Float[Tensor, "n dim"],
    truth: Int[Tensor, " n"],
    support: Float[Tensor, "examples dim"],
    labels: Int[Tensor, " examples"],
    seen: Sequence[int],
    mode: str = "prototype",
    k: int = 5,
) -> dict[str, float]:
    """How well seen and novel classes are told apart.

    Args:
        embeddings, truth: test rows of all classes.
        support, labels: of all classes, see `classify`.
        seen: the classes that were trained on; all others are novel.

    Returns:
        disjoint: accuracy on the novel classes' rows with only these as candidates; seen, novel: accuracies with all
        classes as candidates; joint: the harmonic mean of the two.

    >>> x, y = torch.eye(3), torch.arange(3)
    >>> novel_accuracy(x, y, x, y, seen=(0, 1))
    {'disjoint': 1.0, 'seen': 1.0, 'novel': 1.0, 'joint': 1.0}
    """
    check_embeddings(embeddings=embeddings)
    check_labels(truth, len(embeddings))
    seen = torch.as_tensor(list(seen)).tolist()
    old = torch.isin(truth, torch.tensor(seen, device=truth.device))
    if old.all() or not old.any():
        raise ValueError(
            f"there must be test rows of seen and of novel classes, got {int(old.sum())} of {len(old)} seen"
        )
    new = sorted(set(labels.tolist()) - set(seen))
    alone = classify(embeddings[~old], support, labels, mode, k, among=new)
    right = classify(embeddings, support, labels, mode, k) == truth
    on_seen, on_novel = right[old].double().mean().item(), right[~old].double().mean().item()
    return {
        "disjoint": (alone == truth[~old]).double().mean().item(),
        "seen": on_seen,
        "novel": on_novel,
        "joint": 2 * on_seen * on_novel / max(on_seen + on_novel, 1e-12),
    }
