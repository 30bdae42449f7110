"""Dynamic bad pair mining (Lan, Yan, Hong and Feng, 2023, arXiv 2302.03357).

Two kinds of positive pair do harm. In a noisy pair both views share little but noise, which is aligned early and with
ease: its loss stays far below the others'. In a faulty pair one view has lost what the other shows: its loss stays far
above. The method remembers every pair's loss, epoch by epoch, and after a warm-up gives outliers a small weight:

    m_i = mean over past epochs e of ((e + 1) / epochs) l_{i,e};    mu, sd: mean and deviation of m over all pairs
    noisy: m_i <= mu - b_np sd      faulty: m_i >= mu + b_fp sd
    L = mean w_i l_i,    w_i = N(l_i; mu, sd), the Gaussian density, for both kinds, and 1 for all other pairs

Nothing is learned, and any contrastive loss that gives a value a pair will do. Two remarks. A density is no weight: for
sd < 0.4 it may exceed 1 and so strengthen a flagged pair, as it does in the authors' code; here it is capped at 1 (None
lifts the cap). And mu is a mean of losses that were scaled by (e + 1) / epochs, so it lies below the losses themselves:
a faulty pair gets a weight near 0, a noisy one a larger weight, up to the cap where its loss is near mu.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from palimpsest.contrast.dbpm_measures import BadPairs, PairMemory, nt_xent_per_sample
from palimpsest.contrast.distributed import gather_rows
from palimpsest.contrast.precision import widened
from palimpsest.lazy import front_door
from palimpsest.train.method import Objective
from palimpsest.train.ranges import Above, AtLeast, AtMost


def pair_weights(
    loss: Float[Tensor, " batch"],
    flagged: Bool[Tensor, " batch"],
    mean: Float[Tensor, ""],
    std: Float[Tensor, ""],
    cap: float | None = 1.0,
) -> Float[Tensor, " batch"]:
    """1 for normal pairs; for flagged ones the density of N(mean, std^2) at their present loss, at most `cap`. Without
    gradient, in float32 at least.

    >>> pair_weights(torch.tensor([1.0, 1.0, 4.0]), torch.tensor([False, True, True]), torch.ones(()), torch.ones(()))
    tensor([1.0000, 0.3989, 0.0044])
    """
    if loss.ndim != 1 or loss.shape != flagged.shape:
        raise ValueError(f"loss and flagged must be [batch] each, got {list(loss.shape)} and {list(flagged.shape)}")
    if not loss.is_floating_point() or flagged.dtype != torch.bool:
        raise TypeError(f"loss must be of floats and flagged boolean, got {loss.dtype} and {flagged.dtype}")
    loss = widened(loss.detach())
    mean, std = mean.to(loss), std.to(loss).clamp(min=torch.finfo(loss.dtype).tiny)
    density = torch.exp(-(((loss - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))
    return torch.where(flagged, density if cap is None else density.clamp(max=cap), torch.ones_like(density))


@dataclass(frozen=True)
class DBPM(Objective):
    """Bad pair mining around a contrastive loss, as an objective for `palimpsest.train.fit`, or step by step.

    As an objective it takes batches with "views" [batch, 2, ...] and "index" [batch], the rows' numbers; `data`, handed
    to `fit`, is what the rows are of (its length is the number of pairs). Where epochs leave rows out (`drop_last`),
    batches must say the "epoch" too, a number from 0: the memory's own count of rows falls behind.

    Where torch.distributed runs with several processes, each hands in its own rows, equally many, and all keep the same
    memory of everybody's.

    Attributes:
        epochs: of the whole training.
        per_sample: (query, key) -> one value a pair.
        warmup: share of the epochs in which nothing is weighted; 50 of 80 in the authors' recipe for ECG.
        b_np: how many deviations below the mean a pair is noisy.
        b_fp: how many above it is faulty.
        cap: largest weight of a flagged pair; None for none.

    >>> mining = DBPM(epochs=2, warmup=0.5, b_np=1, b_fp=1)
    >>> memory = mining.init(nn.Identity(), range(3))
    >>> rows, losses = torch.arange(3), torch.tensor([1.0, 1.0, 9.0])
    >>> mining.step(memory, losses, rows, epoch=0), mining.step(memory, losses, rows, epoch=1)  # without the 9
    (tensor(3.6667), tensor(0.6671))
    """

    epochs: Annotated[int, AtLeast(1)]
    per_sample: Callable[[Tensor, Tensor], Tensor] = nt_xent_per_sample
    warmup: Annotated[float, AtLeast(0), AtMost(1)] = 5 / 8
    b_np: Annotated[float, Above(0)] = 2.0
    b_fp: Annotated[float, Above(0)] = 3.0
    cap: Annotated[float | None, Above(0)] = 1.0

    @property
    def first_epoch(self) -> int:
        """The first epoch, from 0, in which pairs are weighted: at least one must have gone before."""
        return max(1, round(self.warmup * self.epochs))

    def init(self, model: nn.Module, data: Sized) -> PairMemory:
        if not hasattr(data, "__len__"):
            raise TypeError(
                f"data must be the rows, or anything of their number: fit(..., data=rows), got {data!r:.80}"
            )
        device = next((p.device for p in model.parameters()), None)
        return PairMemory(len(data), self.epochs).to(device)

    def find(self, memory: PairMemory, epoch: int) -> BadPairs:
        """Which pairs to weigh at this epoch."""
        return memory.bad_pairs(epoch, self.b_np, self.b_fp)

    def step(
        self,
        memory: PairMemory,
        loss: Float[Tensor, " batch"],
        index: Int[Tensor, " batch"],
        epoch: int | None = None,
    ) -> Float[Tensor, ""]:
        """mean w_i l_i over the batch, whose losses are written down.

        Args:
            memory: as made by `init`; changed in place.
            loss: one value a pair, with gradient.
            index: the pairs' rows.
            epoch: counted from 0; None takes the memory's own count.
        """
        epoch = memory.epoch if epoch is None else epoch
        memory.record(_of_all_processes(loss.detach()), _of_all_processes(index.to(loss.device)), epoch)
        if epoch < self.first_epoch:
            return loss.mean()
        bad = self.find(memory, epoch)
        flagged = bad.flagged[index.to(bad.flagged.device).long()].to(loss.device)
        return (pair_weights(loss, flagged, bad.mean, bad.std, self.cap) * loss).mean()

    def loss(self, state: PairMemory, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if missing := {"views", "index"} - batch.keys():
            raise ValueError(f"a batch needs {' and '.join(sorted(missing))}, got {', '.join(batch)}")
        views, epoch = batch["views"], batch.get("epoch")
        if views.ndim < 3 or views.shape[1] != 2:
            raise ValueError(f'batch["views"] must be [batch, 2, ...], got {list(views.shape)}')
        query, key = model(views.transpose(0, 1).flatten(0, 1)).chunk(2)
        epoch = epoch.item() if isinstance(epoch, Tensor) and epoch.numel() == 1 else epoch
        return {"contrast": self.step(state, self.per_sample(query, key), batch["index"], epoch)}


def _of_all_processes(tensor: Tensor) -> Tensor:
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return gather_rows(tensor) if several else tensor


_MOVED = {"contrast.dbpm_measures": ("bad_pairs",)}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
