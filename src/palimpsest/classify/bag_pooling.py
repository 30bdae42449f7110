"""Pooling the instances of a bag that has one label, by an attention that is returned (multiple-instance learning).

Each is called with instances [bags, n, d] and a mask [bags, n] (True where there is an instance), and gives logits
[bags, classes] and the attention [bags, heads, n] as logarithms, -inf where there is none.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class GatedAttention(nn.Module):
    """a = softmax(w . (tanh(V h) * sigmoid(U h))), bag = sum a h, then a linear layer (Ilse et al. 2018, arXiv
    1802.04712, equation 9).

    >>> pool = GatedAttention(6, classes=2)
    >>> logits, log_attention = pool(torch.randn(3, 5, 6))
    >>> logits.shape, log_attention.shape
    (torch.Size([3, 2]), torch.Size([3, 1, 5]))
    """

    def __init__(self, d: int, classes: int, hidden: int = 64, heads: int = 1) -> None:
        super().__init__()
        self.values, self.gates = nn.Linear(d, hidden), nn.Linear(d, hidden)
        self.scores, self.head = nn.Linear(hidden, heads), nn.Linear(heads * d, classes)

    def attend(self, instances: Float[Tensor, "bags n d"]) -> Float[Tensor, "bags heads n"]:
        """The scores before the softmax."""
        return self.scores(self.values(instances).tanh() * self.gates(instances).sigmoid()).mT

    def forward(
        self, instances: Float[Tensor, "bags n d"], mask: Bool[Tensor, "bags n"] | None = None
    ) -> tuple[Tensor, Tensor]:
        log_attention = masked_log_softmax(self.attend(instances), mask)
        return self.head((log_attention.exp() @ instances).flatten(1)), log_attention


class CriticalInstance(nn.Module):
    """The dual-stream pooling of Li et al. (2021, arXiv 2011.08939): an instance classifier finds each class's most
    critical instance; the others weigh by how near their queries are to its own; the logits are both streams' mean.

    >>> logits, log_attention = CriticalInstance(6, classes=2)(torch.randn(3, 5, 6))
    >>> logits.shape, log_attention.shape  # a head for each class
    (torch.Size([3, 2]), torch.Size([3, 2, 5]))
    """

    def __init__(self, d: int, classes: int, hidden: int = 64) -> None:
        super().__init__()
        self.instance, self.queries = nn.Linear(d, classes), nn.Linear(d, hidden)
        self.values, self.head = nn.Linear(d, d), nn.Linear(d, classes)

    def forward(
        self, instances: Float[Tensor, "bags n d"], mask: Bool[Tensor, "bags n"] | None = None
    ) -> tuple[Tensor, Tensor]:
        said = self.instance(instances)
        if mask is not None:
            said = said.masked_fill(~mask[..., None], -torch.inf)
        largest, critical = said.max(1)
        queries = self.queries(instances).tanh()
        chosen = queries.gather(1, critical[..., None].expand(-1, -1, queries.shape[2]))
        log_attention = masked_log_softmax(chosen @ queries.mT / math.sqrt(queries.shape[2]), mask)
        bag = log_attention.exp() @ self.values(instances)  # [bags, classes, d]
        own = (bag * self.head.weight).sum(2) + self.head.bias
        return (largest + own) / 2, log_attention


class ClassTokenAttention(nn.Module):
    """A class token reads the instances by attention of several heads, as the last layer of a transformer does.

    >>> logits, log_attention = ClassTokenAttention(8, classes=2, heads=4)(torch.randn(3, 5, 8))
    >>> logits.shape, log_attention.shape
    (torch.Size([3, 2]), torch.Size([3, 4, 5]))
    """

    def __init__(self, d: int, classes: int, heads: int = 4) -> None:
        super().__init__()
        if d % heads:
            raise ValueError(f"d must be a multiple of the heads, got {d} and {heads}")
        self.heads, self.token = heads, nn.Parameter(torch.randn(d) / math.sqrt(d))
        self.keys, self.values, self.norm, self.head = (
            nn.Linear(d, d),
            nn.Linear(d, d),
            nn.LayerNorm(d),
            nn.Linear(d, classes),
        )

    def forward(
        self, instances: Float[Tensor, "bags n d"], mask: Bool[Tensor, "bags n"] | None = None
    ) -> tuple[Tensor, Tensor]:
        bags, n, d = instances.shape
        keys, values = (
            each.view(bags, n, self.heads, -1).transpose(1, 2)
            for each in (self.keys(instances), self.values(instances))
        )
        token = self.token.view(self.heads, -1, 1)
        log_attention = masked_log_softmax((keys @ token)[..., 0] / math.sqrt(d / self.heads), mask)
        bag = (log_attention.exp()[:, :, None] @ values).reshape(bags, d)
        return self.head(self.norm(self.token + bag)), log_attention


def masked_log_softmax(
    scores: Float[Tensor, "bags heads n"], mask: Bool[Tensor, "bags n"] | None = None
) -> Float[Tensor, "bags heads n"]:
    """Over the instances that there are, in float32 at least.

    Raises:
        ValueError: a mask that does not fit, or a bag without instances.

    >>> masked_log_softmax(torch.zeros(1, 1, 3), torch.tensor([[True, True, False]])).exp()
    tensor([[[0.5000, 0.5000, 0.0000]]])
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if mask is None:
        return scores.log_softmax(-1)
    if mask.shape != (scores.shape[0], scores.shape[-1]) or not bool(mask.any(1).all()):
        raise ValueError(f"need a mask [bags, n] with an instance in each bag, got {list(mask.shape)}")
    return scores.masked_fill(~mask[:, None], -torch.inf).log_softmax(-1)
