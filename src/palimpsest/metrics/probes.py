"""What features are worth: linear and nearest-neighbour probes, and the geometry of embeddings.

Alignment and uniformity: Wang and Isola (2020, arXiv 2005.10242). Tolerance: Wang and Liu (2021, arXiv 2012.09740).
Effective rank: Roy and Vetterli (2007). CKA: Kornblith et al. (2019, arXiv 1905.00414).

All raise ValueError for features that are no finite [n, d] and for labels that are no whole numbers, one a row. Nothing
here has a gradient; cosines and distances are taken in float32, spectra in float64.
"""

from __future__ import annotations

import math
from statistics import fmean

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional as F

BLOCK = 1024  # rows whose similarities to all others are held at once


@torch.no_grad()
def knn_accuracy(
    train: Float[Tensor, "train d"],
    train_labels: Int[Tensor, " train"],
    test: Float[Tensor, "test d"],
    test_labels: Int[Tensor, " test"],
    *,
    k: int = 20,
    temperature: float | None = 0.07,
) -> float:
    """Share of test rows whose nearest neighbours by cosine vote for their label.

    Args:
        k: neighbours; at most as many as there are training rows.
        temperature: a neighbour's vote weighs e^{cosine / temperature} (Wu et al. 2018, arXiv 1805.01978); None: 1.

    >>> x, y = torch.eye(3), torch.arange(3)
    >>> knn_accuracy(x, y, x + 0.1, y, k=1)
    1.0
    """
    _check_both(train, train_labels, test, test_labels)
    if min(train_labels.min(), test_labels.min()) < 0:
        raise ValueError(f"labels must not be negative, got {min(train_labels.min(), test_labels.min())}")
    if not isinstance(k, int) or not 1 <= k <= len(train):
        raise ValueError(f"k must be in [1, {len(train)}], the number of training rows, got {k}")
    if temperature is not None and not temperature > 0:
        raise ValueError(f"temperature must be above 0 or None, got {temperature}")
    train = F.normalize(train.float(), dim=1)
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    right = 0
    for rows, labels in zip(test.float().split(BLOCK), test_labels.split(BLOCK), strict=True):
        near, which = (F.normalize(rows, dim=1) @ train.T).topk(k, dim=1)
        votes = torch.ones_like(near) if temperature is None else ((near - 1) / temperature).exp()
        tally = votes.new_zeros(len(rows), classes).scatter_add_(1, train_labels[which], votes)
        right += int((tally.argmax(1) == labels).sum())
    return right / len(test)


def linear_probe(
    train: Float[Tensor, "train d"],
    train_labels: Int[Tensor, " train"],
    test: Float[Tensor, "test d"],
    test_labels: Int[Tensor, " test"],
    *,
    C: float = 1.0,
) -> float:
    """Test accuracy of a logistic regression on the features, standardised by the training rows.

    Args:
        C: inverse strength of the L2 penalty.

    >>> x, y = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]]), torch.tensor([0, 0, 1, 1])
    >>> linear_probe(x, y, 3 * x, y)
    1.0
    """
    _check_both(train, train_labels, test, test_labels)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=2000))
    probe.fit(_array(train), train_labels.cpu().numpy())
    return float(probe.score(_array(test), test_labels.cpu().numpy()))


def few_label_accuracy(
    train: Float[Tensor, "train d"],
    train_labels: Int[Tensor, " train"],
    test: Float[Tensor, "test d"],
    test_labels: Int[Tensor, " test"],
    *,
    shots: int = 1,
    draws: int = 20,
    neighbours: int = 1,
    seed: int = 0,
) -> dict[str, float]:
    """Test accuracy of probes that see the labels of a few training rows only, the mean over draws of these.

    Where all labels together bring every probe near its ceiling, this still tells features apart: a class must lie
    together for its other rows to be found from one of them.

    Args:
        shots: labelled rows of each class; every class must have that many.
        draws: of the labelled rows.
        neighbours: of the nearest-neighbour probe.
        seed: of the draws: the same rows for features of the same training rows.

    Returns:
        "linear probe" and "kNN accuracy", as `linear_probe` and `knn_accuracy` of the drawn rows.

    >>> x, y = torch.eye(2).repeat(5, 1), torch.arange(10) % 2
    >>> few_label_accuracy(x, y, x, y)
    {'linear probe': 1.0, 'kNN accuracy': 1.0}
    """
    _check_both(train, train_labels, test, test_labels)
    classes, count = train_labels.unique(return_counts=True)
    if shots < 1 or draws < 1 or shots > count.min():
        raise ValueError(
            f"shots must be from 1 to {int(count.min())}, the rows of the smallest class, and draws at least 1,"
            f" got {shots} and {draws}"
        )
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[float]] = {"linear probe": [], "kNN accuracy": []}
    for _ in range(draws):
        order = torch.randperm(len(train), generator=generator).to(train_labels.device)
        drawn = torch.cat([order[train_labels[order] == label][:shots] for label in classes])
        rows = (train[drawn], train_labels[drawn], test, test_labels)
        found["linear probe"].append(linear_probe(*rows))
        found["kNN accuracy"].append(knn_accuracy(*rows, k=neighbours))
    return {probe: fmean(accuracies) for probe, accuracies in found.items()}


@torch.no_grad()
def zero_shot(
    img: Float[Tensor, "n d"],
    class_texts: Float[Tensor, "classes d"] | Float[Tensor, "classes prompts d"],
    labels: Int[Tensor, " n"],
) -> float:
    """The share of images whose nearest class, by cosine with its text, is their label.

    Args:
        img: embeddings of images.
        class_texts: embeddings of each class's prompt; or of several, whose directions are averaged.
        labels: 0 to classes - 1.

    >>> zero_shot(torch.eye(3), torch.eye(3), torch.tensor([0, 1, 1]))
    0.666...
    """
    prompts = class_texts[:, None] if class_texts.ndim == 2 else class_texts
    if prompts.ndim != 3 or not prompts.shape[1]:
        raise ValueError(f"class_texts must be [classes, d] or [classes, prompts, d], got {list(class_texts.shape)}")
    _check(prompts.flatten(1), name="class_texts")
    _check(img, labels, name="img")
    if img.shape[1] != prompts.shape[2]:
        raise ValueError(f"img must be [n, {prompts.shape[2]}], as wide as class_texts, got {list(img.shape)}")
    if labels.min() < 0 or labels.max() >= len(prompts):
        raise ValueError(f"labels must be from 0 to {len(prompts) - 1}, got {labels.min()} to {labels.max()}")
    # Norms of images do not change the order of the classes; norms of averages would.
    classes = F.normalize(F.normalize(prompts.float(), dim=2).mean(1), dim=1)
    return ((img.float() @ classes.T).argmax(1) == labels).float().mean().item()


@torch.no_grad()
def alignment(z1: Float[Tensor, "n d"], z2: Float[Tensor, "n d"], *, alpha: float = 2.0) -> float:
    """Mean of |x - y|^alpha over pairs of unit-norm embeddings; 0 where both views of every row agree.

    >>> alignment(torch.eye(2), torch.eye(2))
    0.0
    """
    _check(z1, name="z1")
    _check(z2, name="z2")
    if z1.shape != z2.shape:
        raise ValueError(f"z1 and z2 must have the same shape, got {list(z1.shape)} and {list(z2.shape)}")
    z1, z2 = (F.normalize(z.float(), dim=1) for z in (z1, z2))
    return float((z1 - z2).norm(dim=1).pow(alpha).mean())


@torch.no_grad()
def uniformity(z: Float[Tensor, "n d"], *, t: float = 2.0) -> float:
    """log of the mean of e^{-t |x - y|^2} over all pairs of different rows, brought to unit norm; 0 for one point,
    lower the more evenly the rows cover the sphere.

    >>> uniformity(torch.ones(3, 2))
    0.0
    """
    _check(z)
    if len(z) < 2:
        raise ValueError(f"uniformity needs at least two rows, got {len(z)}")
    z = F.normalize(z.float(), dim=1)
    found = []
    for start in range(0, len(z), BLOCK):
        rows = z[start : start + BLOCK]
        # Differences and not dot products: near rows are 0 apart, and not a rounding error.
        exponents = -t * torch.cdist(rows, z, compute_mode="donot_use_mm_for_euclid_dist").square().double()
        own = torch.arange(len(rows), device=z.device)
        exponents[own, start + own] = -torch.inf
        found.append(exponents.flatten().logsumexp(0))
    return float(torch.stack(found).logsumexp(0)) - math.log(len(z) * (len(z) - 1))


@torch.no_grad()
def tolerance(z: Float[Tensor, "n d"], labels: Int[Tensor, " n"]) -> float:
    """Mean cosine of two different rows of one class, over all such pairs.

    >>> tolerance(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([0, 0, 1]))
    0.0
    """
    _check(z, labels)
    _, which, count = labels.unique(return_inverse=True, return_counts=True)
    pairs = (count * (count - 1)).sum()
    if not pairs:
        raise ValueError("tolerance needs a class with two rows, and there is none")
    z = F.normalize(z.double(), dim=1)
    # All products of a class's rows are the square of their sum; those of rows with themselves are taken off.
    sums = z.new_zeros(len(count), z.shape[1]).index_add_(0, which, z)
    return float((sums.square().sum() - z.square().sum()) / pairs)


@torch.no_grad()
def effective_rank(features: Float[Tensor, "n d"], *, center: bool = True) -> float:
    """e^H of the singular values taken as a distribution: d for features that fill all dimensions evenly, 1 for a line
    (and for rows that are all the same).

    >>> round(effective_rank(torch.cat([torch.eye(4), -torch.eye(4)])), 3)
    4.0
    """
    _check(features)
    features = features.double()
    if center:
        features = features - features.mean(0)
    values = torch.linalg.svdvals(features)
    if not values.sum() > 0:
        return 1.0
    share = values / values.sum()
    return float(torch.special.entr(share).sum().exp())


@torch.no_grad()
def cka(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"]) -> float:
    """Linear centred kernel alignment of two representations of the same rows: 1 where one is the other rotated and
    scaled, near 0 for unrelated ones (given many more rows than dimensions).

    |Y^T X|_F^2 / (|X^T X|_F |Y^T Y|_F), columns centred.

    >>> x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    >>> round(cka(x, 3 * x.flip(1)), 6)
    1.0
    """
    _check(x, name="x")
    _check(y, name="y")
    if len(x) != len(y) or len(x) < 2:
        raise ValueError(f"x and y must have the same rows, at least two, got {len(x)} and {len(y)}")
    x, y = (z.double() - z.double().mean(0) for z in (x, y))
    scale = (x.T @ x).norm() * (y.T @ y).norm()
    if not scale > 0:
        raise ValueError("x and y must vary between rows, and one does not")
    return float((y.T @ x).norm() ** 2 / scale)


def _array(features: Tensor) -> np.ndarray:
    return features.detach().cpu().double().numpy()


def _check(features: Tensor, labels: Tensor | None = None, *, name: str = "features") -> None:
    if features.ndim != 2 or not features.numel():
        raise ValueError(f"{name} must be [n, d] with at least one row, got {list(features.shape)}")
    if not features.isfinite().all():
        row = int((~features.isfinite()).any(1).nonzero()[0])
        raise ValueError(
            f"{name} must be finite, got {features[row][~features[row].isfinite()][0].item()} in row {row}"
        )
    if labels is not None and (labels.shape != features.shape[:1] or labels.is_floating_point()):
        raise ValueError(
            f"labels must be whole numbers, one for each of {len(features)} rows, got {list(labels.shape)} of"
            f" {labels.dtype}"
        )


def _check_both(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> None:
    _check(train, train_labels, name="train")
    _check(test, test_labels, name="test")
    if train.shape[1] != test.shape[1]:
        raise ValueError(f"train and test must be equally wide, got {train.shape[1]} and {test.shape[1]}")
