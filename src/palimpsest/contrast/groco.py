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

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from palimpsest.contrast.input_checks import Blaming
from palimpsest.contrast.many_views import check_negatives, checked_views
from palimpsest.contrast.precision import without_autocast
from palimpsest.contrast.sorting_network import top_probability
from palimpsest.lazy import front_door
from palimpsest.renamed import renamed

ROWS = 512  # anchors whose similarities are held at a time


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


_MOVED = {"contrast.many_views": ("views_nt_xent",), "contrast.sorting_network": ("diff_sort",)}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
