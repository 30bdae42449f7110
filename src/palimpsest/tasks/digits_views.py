"""Random views of the digits, for contrastive and self-supervised learning.

Seven kinds of change, each with a strength: at 1 a view keeps its digit readable, at 0 nothing changes. Shift,
rotation and scale are sampled together, so that an image is interpolated once. A batch of views is a pure function of
its generator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from palimpsest.tasks.digits_images import Images, blur, warp
from palimpsest.tasks.splits import Split
from palimpsest.train.order import shuffled

KINDS = ("shift", "rotate", "scale", "contrast", "noise", "erase", "blur")


def augment(
    x: Images, generator: torch.Generator, *, kinds: Sequence[str] = KINDS[:5], strength: float = 1.0
) -> Images:
    """One random view of every image.

    At strength s and for images of side d, independently for every image and always uniformly:
    shift: up to s * d / 8 pixels either way; rotate: up to 20 s degrees either way; scale: from 1 / (1 + 0.2 s) to 1
    + 0.2 s (in the logarithm); contrast: values times 1 - 0.4 s to 1 + 0.4 s; noise: Gaussian with a standard
    deviation from 0 to 0.2 s; erase: a black square of side d / 4 at a random place, in a share min(s, 1) of the
    images; blur: a share from 0 to min(s, 1) of the way to the image blurred by d / 8 pixels. The result is clipped
    to [0, 1].

    Args:
        x: images in [0, 1].
        generator: the source of randomness; the same state gives the same views.
        kinds: which changes, out of `KINDS`; the order does not matter.
        strength: how strong, from 0.

    Example:
        >>> x = torch.rand(4, 1, 8, 8)
        >>> view = augment(x, torch.Generator().manual_seed(0))
        >>> bool((view == augment(x, torch.Generator().manual_seed(0))).all()), bool((view == x).all())
        (True, False)
    """
    unknown = set(kinds) - set(KINDS)
    if unknown:
        raise ValueError(f"kinds must be among {', '.join(KINDS)}, got {sorted(unknown)[0]!r}")
    if not strength >= 0:
        raise ValueError(f"strength must not be negative, got {strength}")
    n, side = len(x), x.shape[-1]
    # All numbers are drawn whatever the kinds are, so that a choice of kinds does not change the draws of the others.
    draws = torch.rand(10, n, generator=generator).to(x)
    normal = torch.randn(x.shape, generator=generator).to(x)
    signed = 2 * draws - 1
    if not {"shift", "rotate", "scale"}.isdisjoint(kinds):
        zero = torch.zeros_like(draws[0])
        x = warp(
            x,
            torch.deg2rad(20 * strength * signed[0]) if "rotate" in kinds else zero,
            (1 + 0.2 * strength) ** signed[1] if "scale" in kinds else zero + 1,
            *((strength * side / 8 * signed[2:4]) if "shift" in kinds else (zero, zero)),
        )
    per_image = (slice(None), None, None, None)
    if "blur" in kinds:
        x = x + (min(strength, 1) * draws[4])[per_image] * (blur(x, side / 8) - x)
    if "contrast" in kinds:
        x = x * (1 + 0.4 * strength * signed[5])[per_image]
    if "noise" in kinds:
        x = x + (0.2 * strength * draws[6])[per_image] * normal
    if "erase" in kinds:
        square = max(1, side // 4)
        corner = (torch.stack([draws[7], draws[8]]) * (side - square + 1)).floor()
        axis = torch.arange(side, device=x.device)
        hit = (axis >= corner[..., None]) & (axis < corner[..., None] + square)
        hit = hit[0][:, :, None] & hit[1][:, None, :] & (draws[9] < strength)[:, None, None]
        x = x * ~hit[:, None]
    return x.clamp(0, 1)


def views(
    x: Images,
    generator: torch.Generator,
    *,
    n: int = 2,
    kinds: Sequence[str] = KINDS[:5],
    strength: float = 1.0,
) -> Float[Tensor, "batch views channels height width"]:
    """n random views of every image, as in `augment`.

    >>> views(torch.rand(4, 1, 8, 8), torch.Generator(), n=5).shape
    torch.Size([4, 5, 1, 8, 8])
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    made = augment(x.repeat_interleave(n, 0), generator, kinds=kinds, strength=strength)
    return made.unflatten(0, (len(x), n))


def view_batches(
    split: Split,
    batch_size: int,
    *,
    seed: int = 0,
    n: int = 2,
    kinds: Sequence[str] = KINDS[:5],
    strength: float = 1.0,
    draw: Callable[..., Tensor] = views,
) -> Callable[[int], dict[str, Tensor]]:
    """step -> {"views" [batch, n, channels, height, width], "labels" [batch], "index" [batch]}.

    `index` holds row numbers of the split. Order and views depend on (seed, step) alone, so that a run that resumes
    at a step needs no replay. Another pool's `views` may `draw` them.

    >>> from palimpsest.tasks.digits import digits
    >>> view_batches(digits(0).train, 64)(0)["views"].shape
    torch.Size([64, 2, 1, 8, 8])
    """
    order = shuffled(len(split), batch_size, seed)

    def batch(step: int) -> dict[str, Tensor]:
        rows = order(step)
        generator = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
        made = draw(split.x[rows], generator, n=n, kinds=kinds, strength=strength)
        return {"views": made, "labels": split.y[rows], "index": rows}

    return batch
