"""DIET, the datum's index as its target (Ibrahim, Klindt and Balestriero, 2024, arXiv 2406.10743).

No projector, no second view, no teacher, no negatives: every training row is a class of its own, and a network with a
linear head learns to say which row a random view was made from, with strong label smoothing s:

    p = softmax(W h),  W [n, d] without bias,      loss = -(1 - s) log p_i - (s / n) sum_j log p_j
                                                        = -log p_i + s h . (w_i - mean_j w_j)

The second line is what makes it cheap for many rows: the smoothed part needs one mean of W, and log p_i comes from
`palimpsest.models.last_layer`, which walks through W in blocks and never holds logits of the batch by n. The head is
thrown away after training. The authors train with AdamW at 1e-3, weight decay 0.05 and a cosine schedule after ten
epochs of warm-up; the training loss follows the quality of the features, see `loss_tracks_probe`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from palimpsest.contrast.input_checks import check_embeddings, look
from palimpsest.contrast.precision import wide_dtype, without_autocast
from palimpsest.lazy import front_door
from palimpsest.models.last_layer import linear_logprobs
from palimpsest.train.method import Objective
from palimpsest.train.ranges import AtLeast, Below


def diet_loss(
    h: Float[Tensor, "batch d"],
    index: Int[Tensor, " batch"],
    weight: Float[Tensor, "n d"],
    smoothing: float = 0.8,
    *,
    block: int | None = None,
) -> Float[Tensor, ""]:
    """The mean cross-entropy, with label smoothing, of telling which of n rows each feature vector was made from.

    Exactly `F.cross_entropy(h @ weight.T, index, label_smoothing=smoothing)`, in memory that grows as batch + n and not
    as their product. Differentiable once, in `h` and `weight`.

    Args:
        h: features of random views.
        index: the rows that they are views of, int64 or int32, each in [0, n).
        weight: the head, a vector for each row.
        smoothing: share of the target that is spread over all n rows, in [0, 1).
        block: rows of `weight` whose logits are held at once; by default as many as stay in cache.

    Raises:
        ValueError, TypeError: what does not fit, with its value.

    >>> h, weight, index = torch.randn(4, 8), torch.randn(100, 8), torch.tensor([3, 99, 0, 3])
    >>> plain = F.cross_entropy(h @ weight.T, index, label_smoothing=0.8)
    >>> torch.allclose(diet_loss(h, index, weight, block=16), plain, rtol=1e-5)
    True
    """
    check_embeddings(h=h, weight=weight, values=False)
    if not isinstance(index, Tensor) or index.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"index must be a tensor of int64 or int32, got {getattr(index, 'dtype', type(index))}")
    if index.shape != h.shape[:1]:
        raise ValueError(f"index must be [{len(h)}], one a row of h, got {list(index.shape)}")
    if not len(h):
        raise ValueError("the batch is empty")
    outside = (index < 0) | (index >= len(weight))
    if not torch.compiler.is_compiling() and outside.any():
        raise ValueError(f"index must be in [0, {len(weight)}), the rows of the head, got {index[outside][0].item()}")
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be in [0, 1), got {smoothing}")
    index, wide = index.long(), wide_dtype(h)
    with without_autocast(h):
        chosen = linear_logprobs(h, weight, index, block=block)
    if smoothing:
        apart = (h.to(wide) * (weight[index].to(wide) - weight.mean(0, dtype=wide))).sum(1)
        loss = (smoothing * apart - chosen).mean()
    else:
        loss = -chosen.mean()
    look(loss, h=h, weight=weight)
    return loss


class DIET(nn.Module):
    """An encoder with a vector for every training row; calling it, or its `features`, gives the encoder's features.

    Args:
        encoder: its `features(x)`, if it has that method, or its output, is a tensor [batch, dim].
        n: training rows.
        dim: width of the features.

    >>> model = DIET(nn.Linear(4, 8), n=100, dim=8)
    >>> model(torch.randn(5, 4)).shape, model.head.weight.shape
    (torch.Size([5, 8]), torch.Size([100, 8]))
    """

    def __init__(self, encoder: nn.Module, n: int, dim: int) -> None:
        super().__init__()
        if not isinstance(encoder, nn.Module):
            raise TypeError(f"encoder must be a module, whose weights can be trained, got {type(encoder).__name__}")
        for name, value, least in (("n", n, 2), ("dim", dim, 1)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self.encoder = encoder
        self.head = nn.Linear(dim, n, bias=False)

    def features(self, x: Tensor) -> Float[Tensor, "batch dim"]:
        return getattr(self.encoder, "features", self.encoder)(x)

    def forward(self, x: Tensor) -> Float[Tensor, "batch dim"]:
        return self.features(x)


@dataclass(frozen=True)
class IndexTargets(Objective):
    """What `palimpsest.train.fit` trains a `DIET` on.

    Attributes:
        smoothing: of the labels.
        block: see `diet_loss`.

    A batch has "index" [batch] and "views" [batch, views, ...]: one view a row is what the method asks for, and more of
    them count as more rows with the same target.

    >>> from palimpsest.train import fit
    >>> x, model = torch.randn(32, 8), DIET(nn.Linear(8, 16), n=32, dim=16)
    >>> batches = [{"views": x[:, None], "index": torch.arange(32)}]
    >>> history = fit(model, IndexTargets(), batches, steps=50, lr=1e-2)
    >>> history.steps[-1]["diet"] < history.steps[0]["diet"]
    True
    """

    smoothing: Annotated[float, AtLeast(0), Below(1)] = 0.8
    block: Annotated[int | None, AtLeast(1)] = None

    def loss(self, state: None, model: DIET, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        views, index = batch["views"], batch["index"]
        if views.ndim < 3 or len(views) != len(index):
            raise ValueError(
                f'batch["views"] must be [batch, views, ...] and "index" [batch], got {list(views.shape)} and'
                f" {list(index.shape)}"
            )
        h = model(views.flatten(0, 1))
        index = index.repeat_interleave(views.shape[1])
        return {"diet": diet_loss(h, index, model.head.weight, self.smoothing, block=self.block)}


_MOVED = {"contrast.diet_measures": ("IndexedViews", "loss_tracks_probe")}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
