"""Batches of several processes taken together, gathered or in a ring.

Gathered, every process keeps its own queries and gets the keys of all; gradients go back to the process that a key
came from. In a ring, keys travel from rank to rank, and no process ever holds those of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.bool)


def gather_rows(tensor: Tensor, group: Any = None) -> Tensor:
    """The rows of all processes, in the order of their ranks: [processes * rows, ...]. Differentiable, once: the
    gradient of a process's rows is the sum over what all processes made of them.

    Raises:
        ValueError: in every process, if they do not all have equally many rows of one width and dtype.
    """
    return _Gather.apply(tensor, group)


def gathered(loss: Callable[..., Tensor], group: Any = None) -> Callable[..., Tensor]:
    """Any loss of a batch as the loss of the joint batch of all processes, which each of them gets.

    Tensors [rows, ...] among the arguments are gathered (see `gather_rows`); numbers and tensors without dimensions are
    handed on as they are. Gradients that are averaged over processes, as DDP does, are those of the joint batch. Each
    process computes the whole loss: where it has a `group` of its own, as `info_nce` and `nt_xent` do, that costs less.
    Where torch.distributed does not run, the loss is what it was.

    >>> gathered(lambda z1, z2: (z1 - z2).square().sum())(torch.ones(2, 1), torch.zeros(2, 1))
    tensor(2.)
    """

    def joint(*arguments: Any, **options: Any) -> Tensor:
        if not (dist.is_available() and dist.is_initialized()):
            return loss(*arguments, **options)
        return loss(*map(rows, arguments), **{name: rows(value) for name, value in options.items()})

    def rows(value: Any) -> Any:
        return gather_rows(value, group) if isinstance(value, Tensor) and value.ndim else value

    return joint


def position(rows: int, group: Any = None) -> int:
    """Where a process's own rows begin among the gathered ones."""
    return dist.get_rank(group) * rows


def check_alike(tensor: Tensor, group: Any = None, **more: int) -> None:
    """Raises the same ValueError in every process if their tensors differ in shape or dtype, or in one of `more`.

    Processes that exchanged what does not fit would read garbage, or wait for each other for ever.
    """
    mine = {"rows": len(tensor), "elements": tensor.numel(), "dtype": _DTYPES.index(tensor.dtype), **more}
    sent = torch.tensor(list(mine.values()), device=tensor.device)
    found = [torch.empty_like(sent) for _ in range(dist.get_world_size(group))]
    dist.all_gather(found, sent, group=group)
    differing = [
        f"{name} {', '.join(str(_DTYPES[value] if name == 'dtype' else value) for value in values)}"
        for name, *values in zip(mine, *(each.tolist() for each in found), strict=True)
        if len(set(values)) > 1
    ]
    if differing:
        raise ValueError(f"all processes must give alike shards, but by rank they have {'; '.join(differing)}")


class OneProcess:
    """All ranks of a ring in one process: what travels is handed from place to place of a list."""

    def __init__(self, size: int) -> None:
        self.size = size

    def check(self, tensor: Tensor, **more: int) -> None:
        """Nothing to agree on."""

    def pass_on(self, held: list[Tensor]) -> Callable[[], list[Tensor]]:
        """Sends what each rank here holds to its successor; the result waits for what the predecessors sent."""
        return lambda: held[-1:] + held[:-1]


class Processes:
    """A ring of which one rank is here, and the others are in other processes of the group."""

    def __init__(self, group: Any) -> None:
        self.group, self.size, rank = group, dist.get_world_size(group), dist.get_rank(group)
        self.successor, self.predecessor = (
            dist.get_global_rank(group, (rank + step) % self.size) for step in (1, self.size - 1)
        )

    def check(self, tensor: Tensor, **more: int) -> None:
        """`check_alike` with the group's other ranks."""
        check_alike(tensor, self.group, **more)

    def pass_on(self, held: list[Tensor]) -> Callable[[], list[Tensor]]:
        """As in `OneProcess`; the lists have one tensor."""
        if self.size == 1:
            return lambda: held
        # Both directions are begun before either is waited for: with blocking calls all would send and none receive.
        sent = held[0].contiguous()
        coming = torch.empty_like(sent)
        works = dist.batch_isend_irecv(
            [
                dist.P2POp(dist.isend, sent, self.successor, self.group),
                dist.P2POp(dist.irecv, coming, self.predecessor, self.group),
            ]
        )

        def wait(sent: Tensor = sent) -> list[Tensor]:  # `sent` has to live until it is gone
            for work in works:
                work.wait()
            return [coming]

        return wait


def visits(ring: OneProcess | Processes, *travellers: list) -> Iterator[tuple[list, ...]]:
    """What visits each rank here, its own first; the next ones are under way while these are worked on.

    >>> [keys for (keys,) in visits(OneProcess(3), ["a", "b", "c"])]
    [['a', 'b', 'c'], ['c', 'a', 'b'], ['b', 'c', 'a']]
    """
    for hop in range(ring.size):
        last = hop == ring.size - 1
        coming = [] if last else [held if held[0] is None else ring.pass_on(held) for held in travellers]
        yield travellers
        travellers = tuple(each() if callable(each) else each for each in coming)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor, group):
        check_alike(tensor, group)
        ctx.group, ctx.rows = group, len(tensor)
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, tensor.contiguous(), group=group)
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        # A sum of everything and a slice: gloo has no reduce_scatter.
        total = grad.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        start = position(ctx.rows, ctx.group)
        return total[start : start + ctx.rows], None
