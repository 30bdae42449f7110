"""How well classes that were trained on and others are told apart (Pereira et al. 2021, arXiv 2102.03243)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from palimpsest.contrast.hypersphere_novel import cosines, novel_weights
from palimpsest.contrast.input_checks import check_embeddings, check_labels
from palimpsest.contrast.precision import widened


def classify(
    embeddings: Float[Tensor, "n dim"],
    support: Float[Tensor, "examples dim"],
    labels: Int[Tensor, " examples"],
    mode: str = "prototype",
    k: int = 5,
    among: Sequence[int] | None = None,
) -> Int[Tensor, " n"]:
    """The label of each row, by cosine to labelled embeddings.

    Args:
        embeddings: what to classify.
        support, labels: examples, or the class vectors of a head (one a label).
        mode: "prototype" compares with `novel_weights` of the support; "knn" lets the k nearest examples vote, and the
            nearer ones decide a tie.
        k: neighbours; fewer where there are not that many.
        among: the candidates; by default all labels of the support.

    Cosines are float32 at least.

    >>> support, labels = torch.eye(3), torch.tensor([0, 1, 2])
    >>> classify(torch.tensor([[0.9, 0.5, 0.0]]), support, labels), classify(
    ...     torch.tensor([[0.9, 0.5, 0.0]]), support, labels, among=(1, 2)
    ... )
    (tensor([0]), tensor([1]))
    """
    check_embeddings(embeddings=widened(embeddings), support=widened(support))
    check_embeddings(support=support)
    check_labels(labels, len(support))
    if among is not None:
        kept = torch.isin(labels, torch.as_tensor(list(among), device=labels.device))
        support, labels = support[kept], labels[kept]
    if not len(labels):
        raise ValueError(f"no example to compare with: none has a label among {None if among is None else list(among)}")
    if mode == "prototype":
        vectors, classes = novel_weights(support, labels)
        return classes[cosines(embeddings, vectors).argmax(1)]
    if mode != "knn":
        raise ValueError(f'mode must be "prototype" or "knn", got {mode!r}')
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    near, which = cosines(embeddings, support).double().topk(min(k, len(labels)), dim=1)
    classes, column = labels.unique(return_inverse=True)
    votes = near.new_zeros(len(near), len(classes))
    votes.scatter_add_(1, column[which], 1 + near / (2 * k))  # k cosines weigh less than a vote
    return classes[votes.argmax(1)]


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
