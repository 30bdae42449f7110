"""The sigmoid loss of a batch that is spread over ranks, block by block (Zhai et al. 2023, arXiv 2303.15343; that of
one batch is in `palimpsest.contrast.siglip`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from palimpsest.contrast.distributed import OneProcess, Processes, visits
from palimpsest.contrast.input_checks import Blaming, check_pairs, unit_rows
from palimpsest.contrast.precision import wide_dtype
from palimpsest.contrast.siglip import BIAS, T_PRIME
from palimpsest.contrast.sigmoid import sigmoid_nce
from palimpsest.renamed import renamed


@renamed(img_shards="query_shards", txt_shards="key_shards")
def chunked_sigmoid_loss(
    query_shards: Sequence[Float[Tensor, "rows d"]] | Float[Tensor, "rows d"],
    key_shards: Sequence[Float[Tensor, "rows d"]] | Float[Tensor, "rows d"],
    t_prime: float | Float[Tensor, ""] = T_PRIME,
    b: float | Float[Tensor, ""] = BIAS,
    *,
    group: Any = None,
    normalize: bool = False,
) -> Float[Tensor, ""]:
    """`sigmoid_loss` of a joint batch that is spread over ranks: the texts move on from rank to rank, and each rank
    scores its own images against the texts that it holds, so that no rank ever has the texts of all.

    The loss is a sum over pairs, so that its gradient is known when a block is scored: that of the texts travels with
    them and is home after one round. There are no second derivatives.

    Args:
        query_shards, key_shards: of images and of texts, unit-norm; without a group one pair of shards a rank, and one
            process plays all ranks; with one, this process's own two tensors, with as many rows as any other's.
        t_prime, b, normalize: as in `sigmoid_loss`.
        group: a group of processes, `torch.distributed.group.WORLD` for all. Each gets the loss of its own images; the
            mean over processes is the loss of the joint batch, and so are gradients that are averaged, as DDP does.

    Raises:
        ValueError, TypeError: as in `sigmoid_loss`; shards that do not go together, in all processes alike.

    >>> from palimpsest.contrast.siglip import sigmoid_loss
    >>> z = F.normalize(torch.randn(6, 3), dim=1)
    >>> torch.isclose(chunked_sigmoid_loss(z.split(2), z.split(2)), sigmoid_loss(z, z))
    tensor(True)
    """
    if group is not None:
        ring, query_shards, key_shards = Processes(group), [query_shards], [key_shards]
    elif isinstance(query_shards, Tensor) or isinstance(key_shards, Tensor):
        raise ValueError("shards must be lists of tensors, one a rank, unless a group is given")
    else:
        ring = OneProcess(len(query_shards))
    if not len(query_shards) or len(key_shards) != len(query_shards):
        raise ValueError(f"there must be as many text as image shards, got {len(key_shards)} and {len(query_shards)}")
    pairs = []
    for query, key in zip(query_shards, key_shards, strict=True):
        check_pairs(query=query, key=key, values=False)
        pairs.append(unit_rows(normalize, query=query, key=key))
    query_shards, key_shards = zip(*pairs, strict=True)
    ring.check(query_shards[0])
    numbers = (torch.as_tensor(value, dtype=wide_dtype(query), device=query.device) for value in (t_prime, b))
    inputs = [*numbers, *query_shards, *key_shards]
    if not torch.is_grad_enabled():  # nobody asks for a gradient; forward cannot tell, there it is always disabled
        inputs = [each.detach() for each in inputs]
    return _Ring.apply(ring, *inputs)


class _Ring(torch.autograd.Function):
    """The loss of the ranks that are here, and its gradient, block by block."""

    @staticmethod
    def forward(ctx, ring, t_prime, b, *shards):
        own, texts = shards[: len(shards) // 2], list(shards[len(shards) // 2 :])
        batch = sum(len(query) for query in own)
        d_own, d_texts = ([torch.zeros_like(each, dtype=t_prime.dtype) for each in part] for part in (own, texts))
        d_numbers = [torch.zeros_like(t_prime), torch.zeros_like(b)]
        total = torch.zeros_like(t_prime)
        for hop, (visiting,) in enumerate(visits(ring, texts)):
            for rank, (query, key) in enumerate(zip(own, visiting, strict=True)):
                given = [each.detach() for each in (query, key, t_prime, b)]
                if not any(ctx.needs_input_grad):
                    with Blaming(query=query, key=key):
                        total += len(query) / batch * sigmoid_nce(*given, positives=hop == 0)
                    continue
                with torch.enable_grad(), Blaming(query=query, key=key):
                    given = [each.requires_grad_() for each in given]
                    loss = len(query) / batch * sigmoid_nce(*given, positives=hop == 0)
                found = torch.autograd.grad(loss, given)
                total += loss.detach()
                for sums, each in zip((d_own[rank], d_texts[rank], *d_numbers), found, strict=True):
                    sums += each
            d_texts = ring.pass_on(d_texts)()
        ctx.gradients, ctx.dtype = (*d_numbers, *d_own, *d_texts), own[0].dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        numbers, shards = ctx.gradients[:2], ctx.gradients[2:]
        return None, *(each * grad for each in numbers), *((each * grad).to(ctx.dtype) for each in shards)
