"""What single dimensions of embeddings stand for: of which class are the samples that activate one
(`class_consistency`), how few activate at all (`sparsity`), how far dimensions repeat each other (`dim_correlation`),
and whether another training run finds the same ones (`rotation_test`).

As Wang, Zhang, Guo and Wang (2024, arXiv 2403.12459) measure them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from palimpsest.contrast.input_checks import check_embeddings, check_labels
from palimpsest.contrast.precision import widened, without_autocast
from palimpsest.metrics.probes import linear_probe


def alive(features: Float[Tensor, "n d"], eps: float = 1e-5) -> Bool[Tensor, " d"]:
    """Which dimensions some row activates: there |f| > eps once the rows have norm 1.

    >>> alive(torch.tensor([[1.0, 0.0, 0.2], [0.0, 0.0, 3.0]]))
    tensor([ True, False,  True])
    """
    return _active(features, eps).any(0)


def class_consistency(
    features: Float[Tensor, "n d"], labels: Int[Tensor, " n"], eps: float = 1e-5
) -> Float[Tensor, ""]:
    """For each dimension the share of the most frequent class among the rows that activate it; the mean over
    dimensions that are alive (there must be one).

    Features without zeros are active everywhere and get the share of the largest class, whatever they hold.

    >>> features = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    >>> class_consistency(features, torch.tensor([0, 0, 1, 1]))  # 2 of 2, 2 of 3
    tensor(0.8333)
    """
    active = _active(features, eps)
    if not active.any():
        raise ValueError(f"no dimension is active: all of features is within {eps:g} of 0")
    classes = F.one_hot(check_labels(labels, len(features)).unique(return_inverse=True)[1]).float()
    with without_autocast(active):
        counts = classes.T @ active.float()
    total = counts.sum(0)
    return (counts.amax(0) / total.clamp(min=1))[total > 0].mean()


def sparsity(features: Float[Tensor, "n d"], eps: float = 1e-5) -> Float[Tensor, ""]:
    """The share of entries that are not active.

    >>> sparsity(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    tensor(0.2500)
    """
    return 1 - _active(features, eps).float().mean()


def select_dims(features: Float[Tensor, "n d"], k: int) -> Int[Tensor, " k"]:
    """The k dimensions of the largest mean |f| over rows of norm 1, the largest first: for features that are not
    negative, of the largest expected activation.

    >>> select_dims(torch.tensor([[1.0, 0.0, 0.5], [1.0, 0.1, 0.0]]), 2)
    tensor([0, 2])
    """
    means = _unit_rows(features).abs().mean(0)
    if not 1 <= k <= len(means):
        raise ValueError(f"k must be from 1 to the {len(means)} dimensions, got {k}")
    return means.topk(k).indices


def accuracy_kept(
    train: Float[Tensor, "train d"],
    train_labels: Int[Tensor, " train"],
    test: Float[Tensor, "test d"],
    test_labels: Int[Tensor, " test"],
    k: int,
) -> float:
    """Test accuracy of a linear probe that sees only the k dimensions which `select_dims` picks on the training rows.

    >>> train = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.1]]).repeat(4, 1)
    >>> accuracy_kept(train, torch.arange(8) % 2, train[:2], torch.arange(2), 2)
    1.0
    """
    dims = select_dims(train, k)
    return linear_probe(train[:, dims], train_labels, test[:, dims], test_labels)


def dim_correlation(features: Float[Tensor, "n d"], *, centered: bool = True) -> Float[Tensor, ""]:
    """The mean absolute correlation of two different dimensions, among those that vary (two at least): Pearson's, or
    with `centered=False` the cosine of columns, which the paper's code takes. (Its mean is over all d x d entries, the
    diagonal's zeros among them, and is (d - 1) / d of this one; it prints the median.)

    >>> dim_correlation(torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, -1.0]]))
    tensor(1.0000, dtype=torch.float64)
    """
    columns = _columns(features, centered)[0]
    d = columns.shape[1]
    if d < 2:
        raise ValueError(f"a correlation needs two dimensions that vary, got {d}")
    return ((columns.T @ columns).abs().sum() - d) / (d * (d - 1))


class Match(NamedTuple):
    """How alike two feature matrices are.

    Attributes:
        of_first: the dimensions of the first that were matched, in rising order.
        of_second: the dimension of the second that each of them was matched with.
        matched: mean |correlation| of matched dimensions: 1 for equal up to order, scale and sign.
        rotated: similarity after the best rotation: 1 for equal up to a rotation (and one common scale).
    """

    of_first: Int[Tensor, " matches"]
    of_second: Int[Tensor, " matches"]
    matched: float
    rotated: float


def rotation_test(a: Float[Tensor, "n d"], b: Float[Tensor, "n e"]) -> Match:
    """Compares the features that two training runs give the same inputs, dimension by dimension and up to rotation.

    Dimensions are matched one to one so that the sum of |correlation| is largest. Those that do not vary are left out,
    and where one has more dimensions than the other those that would add least. `rotated` is the nuclear norm of a^T b
    over |a| |b|, columns centred.

    >>> a = torch.randn(50, 3)
    >>> match = rotation_test(a, a[:, [2, 0, 1]] * torch.tensor([1.0, -5.0, 2.0]))
    >>> match.of_second, round(match.matched, 3)
    (tensor([1, 2, 0]), 1.0)
    """
    from scipy.optimize import linear_sum_assignment  # late, as it is slow to import

    (first, of_first, whole_first), (second, of_second, whole_second) = _columns(a, True), _columns(b, True)
    if len(first) != len(second):
        raise ValueError(f"a and b must have equally many rows, got {len(first)} and {len(second)}")
    if not (len(of_first) and len(of_second)):
        raise ValueError("no dimension varies in " + ("b" if len(of_first) else "a"))
    correlation = (first.T @ second).abs()
    rows, columns = map(torch.from_numpy, linear_sum_assignment(correlation.numpy(), maximize=True))
    together = torch.linalg.svdvals(whole_first.T @ whole_second).sum()
    rotated = together / (whole_first.norm() * whole_second.norm())
    return Match(of_first[rows], of_second[columns], correlation[rows, columns].mean().item(), rotated.item())


def _unit_rows(features: Tensor) -> Tensor:
    check_embeddings(features=features)
    if not len(features):
        raise ValueError("features must have at least one row, got 0")
    return F.normalize(widened(features.detach()), dim=1)


def _active(features: Tensor, eps: float) -> Tensor:
    if not 0 <= eps < 1:
        raise ValueError(f"eps must be from 0 to below 1, the norm of a row, got {eps}")
    return _unit_rows(features).abs() > eps


def _columns(features: Tensor, centered: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The columns that vary (or are not 0) brought to norm 1, their numbers, and all columns, centred if asked; in
    float64, on the processor."""
    check_embeddings(features=features)
    values = features.detach().cpu().double()
    size = values.norm(dim=0)
    if centered:
        values = values - values.mean(0)
    kept = values.norm(dim=0) > 1e-6 * size.clamp(min=1e-12)
    return F.normalize(values[:, kept], dim=0), kept.nonzero()[:, 0], values
