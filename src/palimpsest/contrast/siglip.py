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

from palimpsest.contrast.checks import Blaming, check_finite, check_pairs, check_unit, one_number
from palimpsest.contrast.distributed import OneProcess, Processes, visits
from palimpsest.contrast.info_nce import info_nce
from palimpsest.contrast.precision import wide_dtype, widened
from palimpsest.contrast.sigmoid import sigmoid_nce
from palimpsest.contrast.streaming import OfPairs
from palimpsest.metrics.probes import zero_shot as zero_shot

T_PRIME, BIAS = math.log(10), -10.0  # where the sigmoid loss starts
T_SOFTMAX = math.log(1 / 0.07)  # where the softmax starts
MODES = ("random", "hard", "easy")


def sigmoid_loss(
    img: Float[Tensor, "batch d"],
    txt: Float[Tensor, "batch d"],
    t_prime: float | Float[Tensor, ""] = T_PRIME,
    b: float | Float[Tensor, ""] = BIAS,
    *,
    mask: OfPairs | None = None,
) -> Float[Tensor, ""]:
    """-(1/B) sum_ij log sigmoid( z_ij (e^{t'} img_i . txt_j + b) ), streamed.

    Args:
        img, txt: unit-norm, row by row a pair.
        t_prime, b: numbers, or tensors of one element, which get a gradient.
        mask: which pairs count (True), as `keep_negatives` makes it; the divisor stays B.

    Raises:
        ValueError, TypeError: what does not fit, with its value.

    >>> z = torch.eye(2)
    >>> expected = 2 * F.softplus(torch.tensor(-1.0)) + 2 * F.softplus(torch.tensor(0.0))  # scores 1 and 0
    >>> torch.isclose(sigmoid_loss(z, z, t_prime=0.0, b=0.0), expected / 2)
    tensor(True)
    """
    check_pairs(img=img, txt=txt, values=False)
    check_unit(img=img, txt=txt)
    with Blaming(img=img, txt=txt):
        return sigmoid_nce(img, txt, t_prime, b, mask=mask)


def chunked_sigmoid_loss(
    img_shards: Sequence[Float[Tensor, "rows d"]] | Float[Tensor, "rows d"],
    txt_shards: Sequence[Float[Tensor, "rows d"]] | Float[Tensor, "rows d"],
    t_prime: float | Float[Tensor, ""] = T_PRIME,
    b: float | Float[Tensor, ""] = BIAS,
    *,
    group: Any = None,
) -> Float[Tensor, ""]:
    """`sigmoid_loss` of a joint batch that is spread over ranks: the texts move on from rank to rank, and each rank
    scores its own images against the texts that it holds, so that no rank ever has the texts of all.

    The loss is a sum over pairs, so that its gradient is known when a block is scored: that of the texts travels with
    them and is home after one round. There are no second derivatives.

    Args:
        img_shards, txt_shards: without a group one pair of shards a rank, and one process plays all ranks; with one,
            this process's own two tensors, with as many rows as any other's. Unit-norm.
        t_prime, b: as in `sigmoid_loss`.
        group: a group of processes, `torch.distributed.group.WORLD` for all. Each gets the loss of its own images; the
            mean over processes is the loss of the joint batch, and so are gradients that are averaged, as DDP does.

    Raises:
        ValueError, TypeError: as in `sigmoid_loss`; shards that do not go together, in all processes alike.

    >>> z = F.normalize(torch.randn(6, 3), dim=1)
    >>> torch.isclose(chunked_sigmoid_loss(z.split(2), z.split(2)), sigmoid_loss(z, z))
    tensor(True)
    """
    if group is not None:
        ring, img_shards, txt_shards = Processes(group), [img_shards], [txt_shards]
    elif isinstance(img_shards, Tensor) or isinstance(txt_shards, Tensor):
        raise ValueError("shards must be lists of tensors, one a rank, unless a group is given")
    else:
        ring = OneProcess(len(img_shards))
    if not len(img_shards) or len(txt_shards) != len(img_shards):
        raise ValueError(f"there must be as many text as image shards, got {len(txt_shards)} and {len(img_shards)}")
    for img, txt in zip(img_shards, txt_shards, strict=True):
        check_pairs(img=img, txt=txt, values=False)
        check_unit(img=img, txt=txt)
    ring.check(img_shards[0])
    numbers = (torch.as_tensor(value, dtype=wide_dtype(img), device=img.device) for value in (t_prime, b))
    return _Ring.apply(ring, *numbers, *img_shards, *txt_shards)


class _Ring(torch.autograd.Function):
    """The loss of the ranks that are here, and its gradient, block by block."""

    @staticmethod
    def forward(ctx, ring, t_prime, b, *shards):
        own, texts = shards[: len(shards) // 2], list(shards[len(shards) // 2 :])
        batch = sum(len(img) for img in own)
        d_own, d_texts = ([torch.zeros_like(each, dtype=t_prime.dtype) for each in part] for part in (own, texts))
        d_numbers = [torch.zeros_like(t_prime), torch.zeros_like(b)]
        total = torch.zeros_like(t_prime)
        for hop, (visiting,) in enumerate(visits(ring, texts)):
            for rank, (img, txt) in enumerate(zip(own, visiting, strict=True)):
                given = [each.detach() for each in (img, txt, t_prime, b)]
                if not any(ctx.needs_input_grad):
                    with Blaming(img=img, txt=txt):
                        total += len(img) / batch * sigmoid_nce(*given, positives=hop == 0)
                    continue
                with torch.enable_grad(), Blaming(img=img, txt=txt):
                    given = [each.requires_grad_() for each in given]
                    loss = len(img) / batch * sigmoid_nce(*given, positives=hop == 0)
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


def softmax_loss(
    img: Float[Tensor, "batch d"], txt: Float[Tensor, "batch d"], t: float | Float[Tensor, ""] = T_SOFTMAX
) -> Float[Tensor, ""]:
    """CLIP's loss, the baseline: cross-entropy of the scores e^t img_i . txt_j, the mean of both directions.

    >>> z = torch.eye(3)
    >>> softmax_loss(z, z, t=0.0).item()  # -1 + log(e + 2)
    0.5514...
    """
    check_pairs(img=img, txt=txt, values=False)
    check_unit(img=img, txt=txt)
    scale = torch.as_tensor(one_number(t, "t"), dtype=wide_dtype(img), device=img.device).exp()
    try:
        with Blaming(img=img, txt=txt):
            return info_nce(img, txt, 1 / scale, symmetric=True)
    except ValueError:
        check_finite(scale, "the scale e^t")
        raise


class SigmoidLoss(nn.Module):
    """`sigmoid_loss` with its learnable scale and bias.

    Args:
        t_prime, b: where they start; None leaves the bias out.

    >>> sorted(name for name, _ in SigmoidLoss().named_parameters())
    ['b', 't_prime']
    """

    def __init__(self, t_prime: float = T_PRIME, b: float | None = BIAS) -> None:
        super().__init__()
        self.t_prime = nn.Parameter(torch.tensor(float(t_prime)))
        self.b = None if b is None else nn.Parameter(torch.tensor(float(b)))

    def forward(
        self, img: Float[Tensor, "batch d"], txt: Float[Tensor, "batch d"], *, mask: OfPairs | None = None
    ) -> Float[Tensor, ""]:
        return sigmoid_loss(img, txt, self.t_prime, 0.0 if self.b is None else self.b, mask=mask)


class SoftmaxLoss(nn.Module):
    """`softmax_loss` with its learnable scale.

    >>> SoftmaxLoss().t.exp().item()
    14.28...
    """

    def __init__(self, t: float = T_SOFTMAX) -> None:
        super().__init__()
        self.t = nn.Parameter(torch.tensor(float(t)))

    def forward(self, img: Float[Tensor, "batch d"], txt: Float[Tensor, "batch d"]) -> Float[Tensor, ""]:
        return softmax_loss(img, txt, self.t)


@torch.no_grad()
def keep_negatives(
    img: Float[Tensor, "batch d"],
    txt: Float[Tensor, "batch d"],
    mode: str = "random",
    ratio: float = 1.0,
    generator: torch.Generator | None = None,
) -> Bool[Tensor, "batch batch"]:
    """Which pairs count when only round(ratio * B) of the batch's B (B - 1) negatives do; all positives count.

    Args:
        img, txt: unit-norm, row by row a pair.
        mode: "random" negatives are kept, or those with the highest scores ("hard"), or with the lowest ("easy").
        ratio: negatives kept a positive, from 0 to B - 1.
        generator: of the random ones; the global one by default.

    >>> z = F.normalize(torch.randn(8, 3), dim=1)
    >>> keep_negatives(z, z, "hard", ratio=2).sum().item()
    24
    """
    check_pairs(img=img, txt=txt)
    n = len(img)
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if not 0 <= ratio <= n - 1:
        raise ValueError(f"ratio must be from 0 to {n - 1} for a batch of {n}, got {ratio}")
    if mode == "random":
        device = img.device if generator is None else generator.device
        order = torch.rand(n, n, generator=generator, device=device).to(img.device)
    else:
        scores = widened(img) @ widened(txt).T
        order = scores if mode == "hard" else -scores
    kept = order.fill_diagonal_(-torch.inf).flatten().topk(round(ratio * n)).indices
    mask = torch.eye(n, dtype=torch.bool, device=img.device)
    mask.view(-1)[kept] = True
    return mask
