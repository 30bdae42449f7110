"""Random views of a user's images: a crop, a flip, other light and colours (after SimCLR, Chen et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from palimpsest.tasks import digits_views
from palimpsest.tasks.splits import Split

SMALLEST = 0.3  # share of the image that a crop shows at least
LIGHT, GREY = 0.4, 0.2  # how far brightness, contrast and saturation go; how often colours are taken away

Images = Float[Tensor, "batch channels side side"]


def views(x: Images, draws: torch.Generator, *, n: int = 2, flip: bool = True) -> Float[Tensor, "batch n c side side"]:
    """n random views of every image: a square of 30% to 100% of its area, scaled to the whole and perhaps flipped, its
    brightness, contrast and saturation changed by up to 40%, one in five without colours.

    Args:
        draws: of the CPU.
        flip: whether left and right may change places; letters and digits are no longer themselves then.

    >>> x = torch.rand(4, 3, 16, 16)
    >>> views(x, torch.Generator().manual_seed(0)).shape
    torch.Size([4, 2, 3, 16, 16])
    >>> bool((views(x, torch.Generator().manual_seed(0)) == views(x, torch.Generator().manual_seed(0))).all())
    True
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    x = x.repeat_interleave(n, 0)
    rows = len(x)

    def drawn(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(rows, generator=draws)

    side = drawn(SMALLEST, 1.0).sqrt()
    across, down = ((1 - side) * drawn(-1.0, 1.0) for _ in range(2))
    mirrored = torch.where(drawn(0.0, 1.0) < 0.5, -1.0, 1.0) if flip else torch.ones(rows)
    zero = torch.zeros(rows)
    where = torch.stack([torch.stack([side * mirrored, zero, across], 1), torch.stack([zero, side, down], 1)], 1)
    grid = F.affine_grid(where, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)

    def mixed(x: Tensor, other: Tensor) -> Tensor:
        by = drawn(1 - LIGHT, 1 + LIGHT)[:, None, None, None]
        return (other + by * (x - other)).clamp(0, 1)

    x = mixed(x, torch.zeros_like(x))
    x = mixed(x, x.mean((1, 2, 3), keepdim=True))
    if x.shape[1] > 1:
        grey = x.mean(1, keepdim=True).expand_as(x)
        x = mixed(x, grey)
        without = drawn(0.0, 1.0) < GREY
        x = torch.where(without[:, None, None, None], x.mean(1, keepdim=True).expand_as(x), x)
    return x.unflatten(0, (-1, n))


def view_batches(
    split: Split, batch_size: int, *, seed: int = 0, n: int = 2, flip: bool = True
) -> Callable[[int], dict[str, Tensor]]:
    """step -> {"views" [batch, n, channels, side, side], "labels" [batch], "index" [batch]}, as in `digits_views`."""

    def draw(x: Images, draws: torch.Generator, *, n: int, **other_views: object) -> Tensor:
        return views(x, draws, n=n, flip=flip)

    return digits_views.view_batches(split, min(batch_size, len(split)), seed=seed, n=n, draw=draw)
