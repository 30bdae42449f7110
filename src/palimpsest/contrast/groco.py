"""Group ordering constraints (Shvetsova, Petersen, Kukleva, Schiele and Kuehne, 2023, arXiv 2301.02009).

The similarities of an anchor to its positives should all rank above those to its negatives; the order among positives,
or among negatives, does not matter. A differentiable odd-even sorting network (Petersen et al. 2021, arXiv 2105.04019)
ranks the positives together with the nearest negatives and says how probable every rank is, and the loss asks that
each similarity ends among the ranks of its own group:

    neighbours a, b in a layer:  alpha = 1/2 + atan(steepness (b - a)) / pi;  a' = alpha a + (1 - alpha) b, b' likewise
    P = M_1 M_2 ... M_n, the layers' swaps;     P[i, r] = probability that input i gets rank r
    Q[i] = sum_{r >= k_neg} P[i, r]             probability that input i ranks among the positives
    L = mean over anchors and inputs of BCE(Q[i], i is a positive)

Inputs are sorted inside their group before they enter (negatives ascending, then positives ascending), so that the
strongest negative and the weakest positive are neighbours: they are compared first and get the largest gradient.

As in the authors' code, the probability of a negative rank is also scored; since ranks sum to 1 that is the same number
twice, and here it is computed once. Their call passes `art_lambda=0.25` to the sorting library (diffsort), which heeds
it only for its logistic networks: the published Cauchy network runs without that trick, and so does `art=0` here.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from palimpsest.contrast.input_checks import Blaming, look
from palimpsest.contrast.many_views import check_negatives, checked_views
from palimpsest.contrast.precision import without_autocast
from palimpsest.renamed import renamed

ROWS = 512  # anchors whose similarities are held at a time


def diff_sort(
    s: Float[Tensor, "batch n"], steepness: float = 1.0, art: float = 0.0
) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n n"]]:
    """Ascending values and the relaxed permutation, by n layers that compare 0 and 1, 2 and 3, ..., then 1 and 2, ...

    Args:
        s: what to sort, row by row.
        steepness: of a comparison; the larger, the nearer to exact sorting (whose limit it is).
        art: from 0 to below 1: b - a is divided by its size to this power (activation replacement), which makes small
            differences decide more.

    Returns:
        The relaxed sorted values, and P, whose rows and columns sum to 1 (up to the rounding of s's dtype); P[i, r] is
        input i's share of rank r.

    Raises:
        ValueError, TypeError: shapes, dtypes, values that are not finite, parameters out of range.

    >>> ranked, p = diff_sort(torch.tensor([[2.0, -1.0, 1.0]]), steepness=1e6)
    >>> ranked, p[0].argmax(1)
    (tensor([[-1.0000,  1.0000,  2.0000]]), tensor([2, 0, 1]))
    """
    ranked, layers = _sort(s, steepness, art)
    look(ranked, s=s)
    p = torch.eye(s.shape[1], dtype=s.dtype, device=s.device).expand(len(s), -1, -1)
    for first, keep in layers:
        p = _swapped(p, first, keep[:, None])
    return ranked, p


def top_probability(
    s: Float[Tensor, "batch n"], k: int, steepness: float = 1.0, art: float = 0.0
) -> Float[Tensor, "batch n"]:
    """Q[i] = sum_{r >= k} P[i, r] of `diff_sort`: how probable it is that input i is not among the k lowest.

    P itself is not made: the layers act on the n numbers [r >= k], last layer first.

    >>> q = top_probability(torch.tensor([[0.0, 1.0]]), k=1)  # 1/2 -+ atan(1)/pi
    >>> q
    tensor([[0.2500, 0.7500]])
    """
    _, layers = _sort(s, steepness, art)
    if not isinstance(k, int) or not 1 <= k < s.shape[1]:
        raise ValueError(f"k must be a whole number from 1 to {s.shape[1] - 1}, got {k}")
    top = (torch.arange(s.shape[1], device=s.device) >= k).to(s).expand_as(s)
    for first, keep in reversed(layers):  # every layer's matrix is symmetric
        top = _swapped(top, first, keep)
    top = top.clamp(0, 1)
    look(top, s=s)
    return top


@renamed(z="views")
def groco_loss(
    views: Float[Tensor, "views batch d"],
    k_neg: int = 10,
    stop_grad: bool = True,
    *,
    steepness: float = 1.0,
    art: float = 0.0,
    preorder: bool = True,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """The ordering loss of every view as anchor: its partners in the other views above k_neg samples of its own view.

    Similarities are held `ROWS` anchors at a time, in float32 or wider, under autocast too.

    Args:
        views: at least two views of the same samples, in the same order; brought to norm 1 here.
        k_neg: negatives of an anchor, at most batch - 1: those with the highest cosine.
        stop_grad: the gradient goes to anchors only, not to what they are compared with.
        steepness, art: of `diff_sort`.
        preorder: without it (the paper's ablation) k_neg random negatives enter, and both groups as they come.
        generator: of that random choice.

    Raises:
        ValueError, TypeError: shapes, dtypes, values that are not finite, a single view, parameters out of range.

    >>> z = torch.eye(3).expand(2, 3, 3)  # the positive's cosine is 1, the two negatives' are 0
    >>> apart = groco_loss(z, k_neg=2)
    >>> bool(apart < groco_loss(torch.ones(2, 3, 3), k_neg=2))
    True
    """
    z = checked_views(views)
    number, batch, _ = z.shape
    check_negatives(k_neg, batch - 1, batch)
    others = z.detach() if stop_grad else z
    partners = torch.tensor([[w for w in range(number) if w != v] for v in range(number)], device=z.device)
    with without_autocast(z):
        cosines = torch.einsum("vbd,wbd->vbw", z, others)
        positives = cosines.gather(2, partners[:, None].expand(-1, batch, -1))
        if preorder:
            positives = positives.sort(-1).values
        both = zip(z, others, strict=True)
        negatives = torch.stack([_negatives(*sides, k_neg, preorder, generator) for sides in both])
        s = torch.cat([negatives, positives], 2).flatten(0, 1)
        with Blaming(views=views.flatten(0, 1)):
            q = top_probability(s, k_neg, steepness, art)  # no values but probabilities may enter the cross-entropy
        return F.binary_cross_entropy(q, (torch.arange(s.shape[1], device=s.device) >= k_neg).to(s).expand_as(s))


def _sort(s: Tensor, steepness: float, art: float) -> tuple[Tensor, list[tuple[int, Tensor]]]:
    """Sorted values, and each layer's first place and probabilities of staying in order."""
    if s.ndim != 2 or s.shape[1] < 2:
        raise ValueError(f"s must be [batch, n] with n of at least 2, got {list(s.shape)}")
    if not s.is_floating_point():
        raise TypeError(f"s must be floating point, got {s.dtype}")
    if not 0 < steepness < math.inf:
        raise ValueError(f"steepness must be above 0 and finite, got {steepness}")
    if not 0 <= art < 1:
        raise ValueError(f"art must be at least 0 and below 1, got {art}")
    layers = []
    for layer in range(s.shape[1]):
        first = layer % 2
        a, b = _neighbours(s, first)
        x = b - a
        if art:
            x = x / (x.abs() + 1e-10) ** art  # kept off 0, where the power has no derivative
        layers.append((first, 0.5 + torch.atan(steepness * x) / math.pi))
        s = _swapped(s, *layers[-1])
    return s, layers


def _neighbours(x: Tensor, first: int) -> tuple[Tensor, Tensor]:
    last = x.shape[-1] - (x.shape[-1] - first) % 2
    return x[..., first:last:2], x[..., first + 1 : last : 2]


def _swapped(x: Tensor, first: int, keep: Tensor) -> Tensor:
    """One layer: neighbours a, b become keep a + (1 - keep) b and the reverse."""
    a, b = _neighbours(x, first)
    moved = (1 - keep) * (b - a)
    mixed = torch.stack([a + moved, b - moved], -1).flatten(-2)
    return torch.cat([x[..., :first], mixed, x[..., first + mixed.shape[-1] :]], -1)


def _negatives(
    anchors: Tensor, others: Tensor, k: int, preorder: bool, generator: torch.Generator | None
) -> Float[Tensor, "batch k"]:
    found, device = [], None if generator is None else generator.device
    for own in torch.arange(len(anchors), device=anchors.device)[:, None].split(ROWS):
        cosines = anchors[own[:, 0]] @ others.T
        if preorder:
            found.append(cosines.scatter(1, own, -torch.inf).topk(k, 1).values.flip(1))
        else:
            drawn = torch.rand(len(own), len(others) - 1, generator=generator, device=device).topk(k, 1).indices.to(own)
            found.append(cosines.gather(1, drawn + (drawn >= own)))
    return torch.cat(found)
