"""The sigmoid loss for images and texts (Zhai, Mustafa, Kolesnikov and Beyer, 2023, SigLIP, arXiv 2303.15343).

CLIP's softmax compares each pair with the whole batch. Here every pair of an image and a text is a yes-or-no question
of its own, so that no normaliser ties the batch together, small batches lose less, and devices exchange texts only:

    L = -(1/B) sum_ij log sigmoid( z_ij (e^{t'} x_i . y_j + b) ),      z_ij = 1 where i = j, else -1

With B - 1 negatives for each positive, learning would begin by bringing all scores down; b starts at -10, where the
negatives cost next to nothing. The sum is divided by B, not by the number of pairs. (The paper prints the score as
-t x.y + b inside of 1 / (1 + e^...), with the opposite sign for b; its listing and its code have it as above.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from palimpsest.contrast.distributed import OneProcess, Processes, visits
from palimpsest.contrast.info_nce import info_nce
from palimpsest.contrast.input_checks import Blaming, check_finite, check_pairs, one_number, unit_rows
from palimpsest.contrast.precision import wide_dtype, widened
from palimpsest.contrast.sigmoid import sigmoid_nce
from palimpsest.contrast.streaming import OfPairs
from palimpsest.metrics.probes import zero_shot as zero_shot
from palimpsest.renamed import renamed

T_PRIME, BIAS = math.log(10), -10.0  # where the sigmoid loss starts
T_SOFTMAX = math.log(1 / 0.07)  # where the softmax starts
MODES = ("random", "hard", "easy")


@renamed(img="query", txt="key")
def sigmoid_loss(
    query: Float[Tensor, "batch d"],
    key: Float[Tensor, "batch d"],
    t_prime: float | Float[Tensor, ""] = T_PRIME,
    b: float | Float[Tensor, ""] = BIAS,
    *,
    mask: OfPairs | None = None,
    normalize: bool = False,
) -> Float[Tensor, ""]:
    """-(1/B) sum_ij log sigmoid( z_ij (e^{t'} q_i . k_j + b) ), streamed.

    Args:
        query, key: images and texts, unit-norm, row by row a pair.
        t_prime, b: log(1 / temperature) and a bias: numbers, or tensors of one element, which get a gradient.
        mask: which pairs count (True), as `keep_negatives` makes it; the divisor stays B.
        normalize: bring rows to norm 1; otherwise they must have it.

    Raises:
        ValueError, TypeError: what does not fit, with its value.

    >>> z = torch.eye(2)
    >>> expected = 2 * F.softplus(torch.tensor(-1.0)) + 2 * F.softplus(torch.tensor(0.0))  # scores 1 and 0
    >>> torch.isclose(sigmoid_loss(z, z, t_prime=0.0, b=0.0), expected / 2)
    tensor(True)
    """
    check_pairs(query=query, key=key, values=False)
    with Blaming(query=query, key=key):
        query, key = unit_rows(normalize, query=query, key=key)
        return sigmoid_nce(query, key, t_prime, b, mask=mask)


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


@renamed(img="query", txt="key", t="log_scale")
def softmax_loss(
    query: Float[Tensor, "batch d"],
    key: Float[Tensor, "batch d"],
    log_scale: float | Float[Tensor, ""] = T_SOFTMAX,
    *,
    normalize: bool = False,
) -> Float[Tensor, ""]:
    """CLIP's loss, the baseline: cross-entropy of the scores e^log_scale q_i . k_j, the mean of both directions.

    Args:
        query, key: images and texts, unit-norm, row by row a pair.
        log_scale: log(1 / temperature); a tensor of one element gets a gradient.
        normalize: bring rows to norm 1; otherwise they must have it.

    >>> z = torch.eye(3)
    >>> softmax_loss(z, z, log_scale=0.0).item()  # -1 + log(e + 2)
    0.5514...
    """
    check_pairs(query=query, key=key, values=False)
    scale = torch.as_tensor(one_number(log_scale, "log_scale"), dtype=wide_dtype(query), device=query.device).exp()
    try:
        with Blaming(query=query, key=key):
            query, key = unit_rows(normalize, query=query, key=key)
            return info_nce(query, key, 1 / scale, symmetric=True)
    except ValueError:
        check_finite(scale, "the scale e^log_scale")
        raise


class SigmoidLoss(nn.Module):
    """`sigmoid_loss` with its learnable scale and bias.

    Args:
        t_prime, b: where they start; None leaves the bias out.
        normalize: bring rows to norm 1; otherwise they must have it.

    >>> sorted(name for name, _ in SigmoidLoss().named_parameters())
    ['b', 't_prime']
    """

    def __init__(self, t_prime: float = T_PRIME, b: float | None = BIAS, *, normalize: bool = False) -> None:
        super().__init__()
        self.normalize = normalize
        self.t_prime = nn.Parameter(torch.tensor(float(t_prime)))
        self.b = None if b is None else nn.Parameter(torch.tensor(float(b)))

    @renamed(img="query", txt="key")
    def forward(
        self, query: Float[Tensor, "batch d"], key: Float[Tensor, "batch d"], *, mask: OfPairs | None = None
    ) -> Float[Tensor, ""]:
        return sigmoid_loss(
            query, key, self.t_prime, 0.0 if self.b is None else self.b, mask=mask, normalize=self.normalize
        )


class SoftmaxLoss(nn.Module):
    """`softmax_loss` with its learnable scale; `t` is where its logarithm starts, `normalize` as for `SigmoidLoss`.

    >>> SoftmaxLoss().t.exp().item()
    14.28...
    """

    def __init__(self, t: float = T_SOFTMAX, *, normalize: bool = False) -> None:
        super().__init__()
        self.normalize = normalize
        self.t = nn.Parameter(torch.tensor(float(t)))

    @renamed(img="query", txt="key")
    def forward(self, query: Float[Tensor, "batch d"], key: Float[Tensor, "batch d"]) -> Float[Tensor, ""]:
        return softmax_loss(query, key, self.t, normalize=self.normalize)


@renamed(img="query", txt="key")
@torch.no_grad()
def keep_negatives(
    query: Float[Tensor, "batch d"],
    key: Float[Tensor, "batch d"],
    mode: str = "random",
    ratio: float = 1.0,
    generator: torch.Generator | None = None,
) -> Bool[Tensor, "batch batch"]:
    """Which pairs count when only round(ratio * B) of the batch's B (B - 1) negatives do; all positives count.

    Args:
        query, key: images and texts, unit-norm, row by row a pair.
        mode: "random" negatives are kept, or those with the highest scores ("hard"), or with the lowest ("easy").
        ratio: negatives kept a positive, from 0 to B - 1.
        generator: of the random ones; the global one by default.

    >>> z = F.normalize(torch.randn(8, 3), dim=1)
    >>> keep_negatives(z, z, "hard", ratio=2).sum().item()
    24
    """
    check_pairs(query=query, key=key)
    n = len(query)
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if not 0 <= ratio <= n - 1:
        raise ValueError(f"ratio must be from 0 to {n - 1} for a batch of {n}, got {ratio}")
    if mode == "random":
        device = query.device if generator is None else generator.device
        order = torch.rand(n, n, generator=generator, device=device).to(query.device)
    else:
        scores = widened(query) @ widened(key).T
        order = scores if mode == "hard" else -scores
    kept = order.fill_diagonal_(-torch.inf).flatten().topk(round(ratio * n)).indices
    mask = torch.eye(n, dtype=torch.bool, device=query.device)
    mask.view(-1)[kept] = True
    return mask
