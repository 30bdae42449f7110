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
from numbers import Integral
from typing import Annotated

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from palimpsest.contrast.distributed import gather_rows
from palimpsest.contrast.info_nce import nt_xent
from palimpsest.contrast.input_checks import check_finite, check_pairs, check_positive
from palimpsest.contrast.precision import widened
from palimpsest.renamed import renamed
from palimpsest.train.method import Objective
from palimpsest.train.ranges import Above, AtLeast, AtMost


@dataclass(frozen=True, eq=False)
class BadPairs:
    """Which pairs are outliers, and the mean and deviation of the summaries they were found by."""

    noisy: Bool[Tensor, " pairs"]
    faulty: Bool[Tensor, " pairs"]
    mean: Float[Tensor, ""]
    std: Float[Tensor, ""]

    @property
    def flagged(self) -> Bool[Tensor, " pairs"]:
        return self.noisy | self.faulty


@renamed(z1="query", z2="key", tau="temperature")
def nt_xent_per_sample(
    query: Float[Tensor, "batch d"], key: Float[Tensor, "batch d"], temperature: float = 0.2
) -> Float[Tensor, " batch"]:
    """SimCLR's loss of every pair: the mean of its two views' values.

    >>> nt_xent_per_sample(torch.eye(3), torch.eye(3), 0.5)  # -2 + log(e^2 + 4), each
    tensor([0.4327, 0.4327, 0.4327])
    """
    check_pairs(least=2, query=query, key=key, values=False)
    return nt_xent(query, key, temperature, reduction="none").view(2, -1).mean(0)


def bad_pairs(summary: Float[Tensor, " pairs"], b_np: float = 2.0, b_fp: float = 3.0) -> BadPairs:
    """Pairs whose summary lies at least b_np deviations below the mean (noisy) or b_fp above it (faulty).

    Args:
        summary: m; NaN where a pair was never seen: it is left out, and not flagged.
        b_np, b_fp: thresholds, above 0; the authors' for ECG.

    No pair is flagged where all summaries are the same.

    >>> found = bad_pairs(torch.tensor([1.0] * 10 + [0.0] + [9.0]), b_np=0.5, b_fp=2.0)
    >>> found.noisy.nonzero().flatten(), found.faulty.nonzero().flatten()
    (tensor([10]), tensor([11]))
    """
    check_positive(b_np, "b_np")
    check_positive(b_fp, "b_fp")
    if summary.ndim != 1 or not summary.is_floating_point():
        raise ValueError(f"summary must be [pairs] of floats, got {list(summary.shape)} of {summary.dtype}")
    summary = widened(summary)
    known = summary[~summary.isnan()]
    if not len(known):
        raise ValueError("no pair has been seen yet: record losses first")
    check_finite(known, "summary")
    mean, std = known.mean(), known.std(unbiased=False)
    differs = known.max() > known.min()
    return BadPairs(
        (summary <= mean - b_np * std) & differs, (summary >= mean + b_fp * std) & differs, mean=mean, std=std
    )


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


class PairMemory(nn.Module):
    """The loss of every positive pair at every epoch, [n, epochs], NaN where there is none yet. No parameters.

    It is the state of `DBPM`, which a checkpoint keeps: 4 n epochs bytes.

    Args:
        n: pairs.
        epochs: of the whole training.

    >>> memory = PairMemory(n=3, epochs=4)
    >>> memory.record(torch.tensor([2.0, 4.0]), torch.tensor([0, 2]), epoch=0)
    >>> memory.record(torch.tensor([1.0, 6.0]), torch.tensor([0, 2]), epoch=1)
    >>> memory.summary(2)  # (2 * 1/4 + 1 * 2/4) / 2, and (4 * 1/4 + 6 * 2/4) / 2
    tensor([0.5000,    nan, 2.0000])
    """

    losses: Tensor
    seen: Tensor

    def __init__(self, n: int, epochs: int) -> None:
        super().__init__()
        for name, value in (("n", n), ("epochs", epochs)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.register_buffer("losses", torch.full((n, epochs), math.nan))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self._found: tuple[tuple, BadPairs] | None = None

    @property
    def epoch(self) -> int:
        """The epoch at hand, where every pair is visited once in each: rows recorded so far, over pairs. A batch that
        runs on over the seam between two epochs belongs to the first."""
        return int(self.seen) // len(self.losses)

    def record(self, loss: Float[Tensor, " batch"], index: Int[Tensor, " batch"], epoch: int) -> None:
        """Writes down the losses of pairs (without weights); a second visit in an epoch replaces the first."""
        n, epochs = self.losses.shape
        if loss.ndim != 1 or loss.shape != index.shape or not len(loss):
            raise ValueError(
                f"loss and index must be [batch] each, of one pair at least, got {list(loss.shape)} and"
                f" {list(index.shape)}"
            )
        if index.dtype == torch.bool or index.is_floating_point():
            raise TypeError(f"index must be whole numbers, got {index.dtype}")
        if index.min() < 0 or index.max() >= n:
            raise ValueError(f"index must be from 0 to {n - 1}, got {index.min().item()} to {index.max().item()}")
        _check_epoch(epoch, epochs - 1)
        check_finite(loss, "loss")
        self.losses[index.to(self.losses.device).long(), epoch] = loss.detach().to(self.losses)
        self.seen += len(loss)
        if self._found and self._found[0][0] > epoch:
            self._found = None

    def summary(self, epoch: int) -> Float[Tensor, " pairs"]:
        """m_i over the epochs before this one."""
        _check_epoch(epoch, self.losses.shape[1])
        past = self.losses[:, :epoch]
        weight = torch.arange(1, past.shape[1] + 1, device=past.device) / self.losses.shape[1]
        return (past * weight).nanmean(1)

    def bad_pairs(self, epoch: int, b_np: float = 2.0, b_fp: float = 3.0) -> BadPairs:
        """`bad_pairs` of the summary, found once an epoch."""
        key = (epoch, b_np, b_fp)
        if self._found is None or self._found[0] != key:
            self._found = (key, bad_pairs(self.summary(epoch), b_np, b_fp))
        return self._found[1]


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


def _check_epoch(epoch: int, last: int) -> None:
    if not isinstance(epoch, Integral) or not 0 <= epoch <= last:
        raise ValueError(f"epoch must be a whole number from 0 to {last}, got {epoch!r}")
