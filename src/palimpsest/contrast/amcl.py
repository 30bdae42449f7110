"""Adaptive multi-head contrastive learning (Wang, Koniusz, Gedeon and Zheng, 2023, arXiv 2310.05615).

Under many kinds of augmentation two views of one image may look less alike than views of two images, and one similarity
at one temperature cannot serve all pairs. AMCL compares views through several projection heads, and divides every
similarity by a temperature of that pair, which a small network per head gives:

    tau_ij = lo + (hi - lo) sigmoid(phi(z_i) . phi(z_j) + b)
    L = sum over heads of  mean_i [ -s_ip / tau_ip + log sum_{j != i} e^{s_ij / tau_ij} ]
                           + beta mean_{i != j} [ d/2 log tau_ij + 1 / tau_ij ]

With z_j Gaussian around z_i with variance tau_ij in all d directions, and both of norm 1, the negative log-likelihood
is d/2 log tau + 1/tau - s/tau and a constant: the second term is what the similarity leaves of it. Its logarithm keeps
tau from growing, its 1/tau from vanishing; alone it is least at tau = 2/d.

The authors' published code is not complete: it makes temperatures for the positive pair only, between 1e-5 and 2, by an
MLP on both embeddings side by side, so that tau_ij is not tau_ji. `PairTemperature(..., form="concatenated")` is that
MLP, for all pairs. The symmetric form above, lo and the start at 0.2 are this library's, the rest that code's.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from palimpsest.contrast.amcl_heads import Temperatures, summed, units
from palimpsest.contrast.amcl_temperatures import Heads, PairTemperature
from palimpsest.contrast.input_checks import Blaming
from palimpsest.lazy import front_door
from palimpsest.renamed import renamed


@renamed(z1="query", z2="key")
def amcl_loss(
    query: Heads, key: Heads, temperatures: Temperatures, beta: float = 0.1, *, rows: int = 512
) -> Float[Tensor, ""]:
    """L above for two views: for each head NT-Xent with a temperature a pair, and beta times its penalty.

    Pairs are visited `rows` queries at a time, and made once more for the gradient where that is not all of them: no
    more than [rows, 2 batch] of them are held. Sums are in float32 or wider, under autocast too.

    Args:
        query, key: two views' heads, brought to norm 1 here.
        temperatures: one function (embeddings [n, d], others [m, d]) -> tau [n, m] a head, such as `PairTemperature`;
            or a number, or a tensor with one or with one a head: then it is the sum of the heads' NT-Xent and a
            constant times beta.
        beta: weight of the penalty, not negative.
        rows: queries at a time.

    Raises:
        ValueError, TypeError: shapes, dtypes, values that are not finite, a batch of one pair, too few or too many
            functions, temperatures that are not positive.

    >>> z = torch.eye(3)[:, None]  # one head
    >>> amcl_loss(z, z, 0.5, beta=0.0).item()  # -2 + log(e^2 + 4)
    0.4326...
    """
    z = torch.cat(units(2, query=query, key=key), 1)
    row = torch.arange(z.shape[1], device=z.device)

    def counted(part: slice) -> Tensor:
        return row[part, None] != row

    with Blaming(query=query.flatten(1), key=key.flatten(1)):
        return summed(z, z, temperatures, beta, rows, row.roll(len(query)), counted, len(row) - 1)


def amcl_queue_loss(
    query: Heads,
    key: Heads,
    queue: Float[Tensor, "size heads d"],
    temperatures: Temperatures,
    beta: float = 0.1,
    *,
    rows: int = 512,
) -> Float[Tensor, ""]:
    """The form for MoCo: each query's positive is its key and its negatives are the queue, with a temperature a pair.

    Args:
        query, key: the query encoder's heads and the momentum encoder's, row by row a pair; brought to norm 1 here.
        queue: earlier keys of all heads, at least one.
        temperatures, beta, rows: as for `amcl_loss`; the penalty is a mean over the pairs that are compared.

    >>> z = torch.eye(2)[:, None]
    >>> amcl_queue_loss(z, z, -z, 1.0, beta=0.0).item()  # log(1 + e^-1 (e^-1 + 1))
    0.4076...

    `Momentum` and its queue know one vector a sample, so heads travel side by side:

    >>> from palimpsest.contrast import Momentum, MultiHead, Projected
    >>> from palimpsest.train import fit
    >>> amcl = AMCL(4, heads=3)
    >>> model = Projected(nn.Linear(8, 8), nn.Sequential(MultiHead(8, 4, heads=3), nn.Flatten(1)), {"amcl": amcl})
    >>> def compare(*sides):
    ...     return amcl_queue_loss(*(side.unflatten(1, (3, 4)) for side in sides), amcl.temperatures, amcl.beta)
    >>> batches = [{"views": torch.randn(16, 1, 8) + 0.1 * torch.randn(16, 2, 8)} for _ in range(8)]
    >>> history = fit(model, Momentum(compare, size=64, dim=12), batches, steps=40, lr=1e-2)
    >>> history.steps[-1]["contrast"] < history.steps[4]["contrast"]  # since the queue was full
    True
    """
    given = {"query": query, "key": key, "queue": queue}
    query, key, queue = units(1, **given)
    own = torch.arange(query.shape[1], device=query.device)
    known = torch.cat([own, own.new_full((queue.shape[1],), -1)])
    keys = torch.cat([key, queue], 1)

    def counted(part: slice) -> Tensor:
        return (own[part, None] == known) | (known < 0)

    with Blaming(**{name: z.flatten(1) for name, z in given.items()}):
        return summed(query, keys, temperatures, beta, rows, own, counted, 1 + queue.shape[1])


class AMCL(nn.Module):
    """`amcl_loss` with its learned temperatures: a module of two views' heads, for `palimpsest.contrast.Views`.

    Its parameters are trained with the model's (`Projected` takes it under `extra`).

    Args:
        dim: of a head's embeddings.
        heads: how many.
        beta: weight of the penalty.
        options: hidden, lo, hi, start and form of `PairTemperature`.

    >>> from palimpsest.contrast import MultiHead, Projected, Views
    >>> from palimpsest.train import fit
    >>> model = Projected(nn.Linear(8, 8), MultiHead(8, 4), {"amcl": AMCL(4)})
    >>> batches = [{"views": torch.randn(16, 1, 8) + 0.1 * torch.randn(16, 2, 8)}]
    >>> history = fit(model, Views(model.extra["amcl"]), batches, steps=20)
    >>> history.steps[-1]["contrast"] < history.steps[0]["contrast"]
    True
    """

    def __init__(self, dim: int = 16, heads: int = 3, beta: float = 0.1, **options: Any) -> None:
        super().__init__()
        self.beta = beta
        self.temperatures = nn.ModuleList(PairTemperature(dim, **options) for _ in range(heads))

    @renamed(z1="query", z2="key")
    def forward(self, query: Heads, key: Heads) -> Float[Tensor, ""]:
        return amcl_loss(query, key, self.temperatures, self.beta)


_MOVED = {
    "contrast.amcl_heads": ("multi_head_loss",),
    "contrast.amcl_temperatures": ("ELEMENTS", "MultiHead", "pair_temperature", "start_bias", "temperature_penalty"),
}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
