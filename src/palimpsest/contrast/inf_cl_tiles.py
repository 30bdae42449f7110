"""The loss of `palimpsest.contrast.inf_cl` and its gradient: scores tile by tile, which are made twice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from palimpsest.contrast.distributed import visits

SAFE = 40.0  # exponentials of such scores, and of minus them, lose nothing in float32, even divided by a large batch


class Ring(torch.autograd.Function):
    """The loss of the ranks that are here, from their queries and then their keys."""

    @staticmethod
    def forward(ctx, ring, tile, symmetric, keys_need, scale, *shards):
        q, k = shards[: len(shards) // 2], shards[len(shards) // 2 :]
        rows = [scale.new_full((len(q[0]),), -torch.inf) for _ in q]
        columns = [each.clone() for each in rows] if symmetric else []
        for hop, (keys,) in enumerate(visits(ring, list(k))):
            for rank, tiles in enumerate(tiles_of(q, keys, scale, tile, own=hop == 0)):
                for part, other, scores, room in tiles:
                    by_row, by_column = log_sums(scores, room, tiles.safe, symmetric)
                    torch.logaddexp(rows[rank][part], by_row, out=rows[rank][part])
                    if symmetric:
                        torch.logaddexp(columns[rank][other], by_column, out=columns[rank][other])
            if symmetric:  # after the last hop they are home again
                columns = ring.pass_on(columns)()
        losses, pulls = [], []
        for rank, (own, keys) in enumerate(zip(q, k, strict=True)):
            positive = scale * row_products(own, keys, tile, scale.dtype)
            sides = [each[rank] for each in (rows, columns) if each]
            losses.append(sum(softplus(each - positive) for each in sides).mean() / len(sides))
            pulls.append(sum(torch.sigmoid(each - positive) for each in sides) / len(sides))
            for each in sides:
                torch.logaddexp(each, positive, out=each)
        ctx.ring, ctx.tile, ctx.symmetric, ctx.keys_need = ring, tile, symmetric, keys_need
        ctx.save_for_backward(scale, *shards, *pulls, *rows, *columns)
        return torch.stack(losses).mean()

    @staticmethod
    def backward(ctx, grad):
        if torch.is_grad_enabled():
            raise NotImplementedError("tiles have no second derivative (create_graph=True): use info_nce")
        ring, tile, symmetric, (scale, *saved) = ctx.ring, ctx.tile, ctx.symmetric, ctx.saved_tensors
        ranks = len(saved) // (5 if symmetric else 4)
        q, k, pulls, rows, columns = (saved[i * ranks : (i + 1) * ranks] for i in range(5))
        weight = grad / (ranks * len(q[0]))
        by_row = weight / 2 if symmetric else weight
        # A column's weight travels with it: it is that of the process that the column is from.
        columns = [torch.stack([column, by_row.expand_as(column)]) for column in columns] or [None] * ranks
        dq = [torch.zeros_like(own, dtype=scale.dtype) for own in q]
        # Keys without a gradient (a frozen tower) save a product and the way round; all processes agreed on it.
        dk = [torch.zeros_like(keys, dtype=scale.dtype) if ctx.keys_need else None for keys in k]
        for hop, (keys, beside) in enumerate(visits(ring, list(k), columns)):
            for rank, tiles in enumerate(tiles_of(q, keys, scale, tile, own=hop == 0)):
                for part, other, scores, room in tiles:
                    by_column = beside[rank][:, other] if symmetric else None
                    slopes = slope_of(scores, room, rows[rank][part], by_row, by_column, tiles.safe)
                    dq[rank][part].addmm_(slopes, tiles.keys(other))
                    if ctx.keys_need:
                        dk[rank][other].addmm_(slopes.T, tiles.queries(part))  # queries come times scale
            dk = ring.pass_on(dk)() if ctx.keys_need else dk
        for own, keys, pull, of_own, of_keys in zip(q, k, pulls, dq, dk, strict=True):
            for part in parts_of(len(own), tile):
                pulled = -weight * pull[part, None]
                of_own[part].addcmul_(keys[part].to(scale.dtype), pulled)
                if ctx.keys_need:
                    of_keys[part].addcmul_(own[part].to(scale.dtype), pulled * scale)
        d_scale = sum(row_products(own, of_own, tile, scale.dtype).sum() for own, of_own in zip(q, dq, strict=True))
        gradients = [each.mul_(scale) for each in dq] + dk
        found = (None if d is None else d.to(shard.dtype) for d, shard in zip(gradients, (*q, *k), strict=True))
        return None, None, None, None, d_scale, *found


def tiles_of(q: Sequence[Tensor], k: Sequence[Tensor], scale: Tensor, tile: int, *, own: bool) -> Iterator[Tiles]:
    """Of each rank that is here."""
    return (Tiles(queries, keys, scale, tile, own) for queries, keys in zip(q, k, strict=True))


class Tiles:
    """The scores of queries against keys, tile by tile: which rows, which columns, scores, and as much room again.

    With their own keys the positives are left out.
    """

    def __init__(self, q: Tensor, k: Tensor, scale: Tensor, tile: int, own: bool) -> None:
        self.q, self.k, self.scale, self.tile, self.own = q, k, scale, tile, own
        largest = [torch.linalg.vector_norm(each, dim=1, dtype=scale.dtype).max() for each in (q, k)]
        bound = (largest[0] * largest[1] * scale).item()
        if not math.isfinite(bound):
            raise ValueError(f"scores overflow: norms up to {largest[0].item():g} and {largest[1].item():g}, normalize")
        self.safe = bound < SAFE

    def queries(self, part: slice) -> Tensor:
        return self.q[part].to(self.scale.dtype) * self.scale

    def keys(self, other: slice) -> Tensor:
        return self.k[other].to(self.scale.dtype)

    def __iter__(self) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
        parts = parts_of(len(self.q), self.tile)
        buffers = self.scale.new_empty(2, min(len(self.q), self.tile) ** 2)
        for part in parts:
            queries = self.queries(part)
            for other in parts:
                shape = (part.stop - part.start, other.stop - other.start)
                scores, room = (flat[: shape[0] * shape[1]].view(shape) for flat in buffers)
                torch.mm(queries, self.keys(other).T, out=scores)
                if self.own and part == other:
                    scores.fill_diagonal_(-torch.inf)
                yield part, other, scores, room


def parts_of(n: int, tile: int) -> list[slice]:
    """Rows in pieces of at most a tile."""
    return [slice(start, min(start + tile, n)) for start in range(0, n, tile)]


def row_products(a: Tensor, b: Tensor, tile: int, dtype: torch.dtype) -> Tensor:
    """a_i . b_i for each row."""
    return torch.cat([(a[part].to(dtype) * b[part].to(dtype)).sum(1) for part in parts_of(len(a), tile)])


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x)"""
    return torch.logaddexp(x, torch.zeros_like(x))


def log_sums(scores: Tensor, room: Tensor, safe: bool, symmetric: bool) -> tuple[Tensor, Tensor | None]:
    """The log-sum-exp of a tile's rows and columns; overwrites the scores."""
    if safe:
        scores.exp_()
        return scores.sum(1).log_(), scores.sum(0).log_() if symmetric else None
    of = []
    for dim, out in [(1, room), (0, scores)] if symmetric else [(1, scores)]:
        top = scores.amax(dim, keepdim=True)
        top.masked_fill_(top == -torch.inf, 0)  # a positive alone
        of.append(torch.sub(scores, top, out=out).exp_().sum(dim).log_().add_(top.squeeze(dim)))
    return of[0], of[1] if symmetric else None


def slope_of(scores: Tensor, room: Tensor, row: Tensor, by_row: Tensor, by_column: Tensor | None, safe: bool) -> Tensor:
    """w e^{S - row} + v e^{S - column}, in the place of the scores S; `by_column` has the columns and their v."""
    row = row[:, None]
    if by_column is None:
        return scores.sub_(row).exp_().mul_(by_row)
    column, weights = by_column
    if safe:
        factors = torch.add((-row).exp() * by_row, (-column).exp() * weights, out=room)
        return scores.exp_().mul_(factors)
    torch.sub(scores, column, out=room).exp_().mul_(weights)
    return scores.sub_(row).exp_().mul_(by_row).add_(room)
