"""Operations on batches of images [n, channels, height, width] with values in [0, 1].

Pure functions: the input is never changed, the device is kept, and what is random takes its generator.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

Images = Float[Tensor, "n channels height width"]

PALETTE = torch.tensor(
    [
        [1, 0, 0],
        [0, 1, 0],
        [0, 0, 1],
        [1, 1, 0],
        [1, 0, 1],
        [0, 1, 1],
        [1, 0.5, 0],
        [0.5, 0, 1],
        [0, 0.4, 0.2],
        [1, 1, 1],
    ]
)  # red, green, blue, yellow, magenta, cyan, orange, violet, dark green, white
DEFORMATIONS = ("rotation", "blur", "noise", "shuffle", "inversion")


def resize(x: Images, size: int) -> Images:
    """Square images of another side, bilinearly.

    >>> resize(torch.zeros(2, 1, 8, 8), 16).shape
    torch.Size([2, 1, 16, 16])
    """
    _images(x)
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    if x.shape[-2:] == (size, size):
        return x
    if not len(x):
        return x.new_empty(0, x.shape[1], size, size)
    return F.interpolate(x, (size, size), mode="bilinear", align_corners=False)


def add_noise(x: Images, sd: float, generator: torch.Generator, *, clip: bool = True) -> Images:
    """Gaussian noise of standard deviation `sd` on every pixel, then clipped to [0, 1] unless told otherwise.

    >>> x = torch.full((1, 1, 100, 100), 0.5)
    >>> round(add_noise(x, 0.1, torch.Generator().manual_seed(0)).std().item(), 2)
    0.1
    """
    _images(x)
    _not_negative(sd, "sd")
    x = x + sd * torch.randn(x.shape, generator=generator).to(x)
    return x.clamp(0, 1) if clip else x


def speckle(x: Images, pixels: int, generator: torch.Generator) -> Images:
    """In every image, `pixels` random places get a random grey in [0, 1]: a mark by which it can be memorised.

    >>> changed = speckle(torch.zeros(3, 1, 8, 8), 4, torch.Generator().manual_seed(0)) > 0
    >>> changed.flatten(1).sum(1)
    tensor([4, 4, 4])
    """
    n, channels, height, width = _images(x)
    if not 0 <= pixels <= height * width:
        raise ValueError(f"pixels must be from 0 to {height * width}, got {pixels}")
    places = torch.rand(n, height * width, generator=generator).argsort(1)[:, None, :pixels]
    grey = torch.rand(n, 1, pixels, generator=generator)
    flat = x.flatten(2).clone()
    return flat.scatter_(2, places.expand(-1, channels, -1).to(x.device), grey.expand(-1, channels, -1).to(x)).view_as(
        x
    )


def invert(x: Images) -> Images:
    """1 - x, its own inverse."""
    _images(x)
    return 1 - x


def rotate(x: Images, degrees: float | Float[Tensor, " n"]) -> Images:
    """Rotation counterclockwise about the centre, one angle for all or one an image; what comes in is black.

    Multiples of 90 degrees given as one number are exact; other angles are sampled bilinearly.

    >>> x = torch.tensor([[[[0.0, 1.0], [0.0, 0.0]]]])
    >>> rotate(x, 90)
    tensor([[[[1., 0.],
              [0., 0.]]]])
    """
    _images(x)
    if not isinstance(degrees, Tensor):
        if degrees % 90 == 0 and x.shape[-1] == x.shape[-2]:
            return torch.rot90(x, int(degrees // 90) % 4, (2, 3))
        degrees = torch.full((len(x),), float(degrees))
    if degrees.shape != x.shape[:1]:
        raise ValueError(f"degrees must be a number or [{len(x)}], got the shape {tuple(degrees.shape)}")
    angle = torch.deg2rad(degrees.to(x))
    zero = torch.zeros_like(angle)
    return warp(x, angle, torch.ones_like(angle), zero, zero)


def warp(
    x: Images,
    angle: Float[Tensor, " n"],
    scale: Float[Tensor, " n"],
    down: Float[Tensor, " n"],
    right: Float[Tensor, " n"],
) -> Images:
    """Rotation by `angle` (radians, counterclockwise) and magnification about the centre, then a shift in pixels.

    Sampled once, bilinearly; what comes in from outside is black.
    """
    n, _, height, width = _images(x)
    if not n:
        return x
    # In pixels measured from the centre, row r and column c of the result show the source at R(-angle) / scale applied
    # to (r - down, c - right); affine_grid measures in half sides, hence the ratios.
    cos, sin = angle.cos() / scale, angle.sin() / scale
    ratio = height / width
    theta = torch.stack(
        [
            torch.stack([cos, -sin * ratio, 2 * (-cos * right + sin * down) / width], 1),
            torch.stack([sin / ratio, cos, 2 * (-sin * right - cos * down) / height], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def place(x: Images, height: int, width: int, top: Int[Tensor, " n"], left: Int[Tensor, " n"]) -> Images:
    """Images on black canvases of `height` x `width`, each with its corner at (top, left); what hangs over is cut
    off.

    >>> canvas = place(torch.ones(1, 1, 2, 2), 3, 3, torch.tensor([1]), torch.tensor([0]))
    >>> canvas[0, 0]
    tensor([[0., 0., 0.],
            [1., 1., 0.],
            [1., 1., 0.]])
    """
    n, _, source_height, source_width = _images(x)
    if min(height, width) < 1 or top.shape != (n,) or left.shape != (n,):
        raise ValueError(
            f"place needs a canvas of at least 1 x 1 and top and left of shape [{n}], "
            f"got {height} x {width}, {tuple(top.shape)} and {tuple(left.shape)}"
        )
    rows, inside_rows = _source(height, top.to(x.device), source_height)
    columns, inside_columns = _source(width, left.to(x.device), source_width)
    item = torch.arange(n, device=x.device)[:, None, None]
    canvas = x.permute(0, 2, 3, 1)[item, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return canvas * (inside_rows[:, None, :, None] & inside_columns[:, None, None, :])


def shift(x: Images, down: Int[Tensor, " n"], right: Int[Tensor, " n"]) -> Images:
    """Every image moved by whole pixels; what leaves is lost, what comes in is black."""
    _images(x)
    return place(x, *x.shape[-2:], down, right)


def blur(x: Images, sd: float) -> Images:
    """Gaussian blur with a standard deviation of `sd` pixels; borders are continued.

    >>> bool(torch.allclose(blur(torch.ones(1, 1, 8, 8), 1.0), torch.ones(1, 1, 8, 8)))
    True
    """
    channels = _images(x)[1]
    _not_negative(sd, "sd")
    if sd == 0:
        return x
    radius = max(1, math.ceil(3 * sd))
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1).to(x) / sd) ** 2)
    kernel = (kernel / kernel.sum()).expand(channels, 1, -1)
    x = F.conv2d(F.pad(x, (radius, radius, 0, 0), mode="replicate"), kernel[:, :, None, :], groups=channels)
    return F.conv2d(F.pad(x, (0, 0, radius, radius), mode="replicate"), kernel[:, :, :, None], groups=channels)


def texture(x: Images, strength: float, generator: torch.Generator) -> Images:
    """A smooth random pattern behind the ink: x + strength * (1 - x) * pattern, the pattern in [0, 1].

    The pattern is uniform noise at a third of the resolution, enlarged, one for every image.
    """
    n, _, height, width = _images(x)
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be from 0 to 1, got {strength}")
    if not n:
        return x
    coarse = torch.rand(n, 1, max(2, height // 3 + 1), max(2, width // 3 + 1), generator=generator).to(x)
    pattern = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)
    return x + strength * (1 - x) * pattern


def colourise(
    x: Float[Tensor, "n 1 height width"],
    colour: Int[Tensor, " n"],
    palette: Float[Tensor, "colours 3"] = PALETTE,
    *,
    background: bool = False,
) -> Float[Tensor, "n 3 height width"]:
    """Grey images in colour: coloured ink on black or, with `background`, white ink on the colour.

    >>> colourise(torch.ones(1, 1, 1, 1), torch.tensor([1])).flatten()
    tensor([0., 1., 0.])
    """
    if _images(x)[1] != 1:
        raise ValueError(f"colourise takes images of one channel, got {x.shape[1]}")
    if len(colour) and not 0 <= int(colour.min()) <= int(colour.max()) < len(palette):
        raise ValueError(
            f"colours must be from 0 to {len(palette) - 1}, got {int(colour.min())} to {int(colour.max())}"
        )
    tint = palette.to(x)[colour][:, :, None, None]
    return x + (1 - x) * tint if background else x * tint


def mark(x: Images, code: Int[Tensor, " n"]) -> Images:
    """A mark of 2 x 2 pixels in the upper left corner: the four bits of `code` (0 to 15) as white or black.

    So class + 1 marks the class (none is all black), and 15 is a white patch.

    >>> mark(torch.zeros(1, 1, 3, 3), torch.tensor([5]))[0, 0]
    tensor([[1., 0., 0.],
            [1., 0., 0.],
            [0., 0., 0.]])
    """
    _images(x)
    if len(code) and not 0 <= int(code.min()) <= int(code.max()) <= 15:
        raise ValueError(f"codes must be from 0 to 15, got {int(code.min())} to {int(code.max())}")
    bits = (code[:, None] >> torch.arange(4, device=code.device)) & 1
    x = x.clone()
    x[:, :, :2, :2] = bits.view(-1, 1, 2, 2).to(x)
    return x


def random_permutation(pixels: int, generator: torch.Generator, *, share: float = 1.0) -> Int[Tensor, " pixels"]:
    """A permutation of the pixels that moves only a random `share` of them (among themselves).

    >>> permutation = random_permutation(64, torch.Generator().manual_seed(0), share=0.5)
    >>> bool((permutation != torch.arange(64)).sum() <= 32), permutation.sort().values.equal(torch.arange(64))
    (True, True)
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be from 0 to 1, got {share}")
    moved = torch.randperm(pixels, generator=generator)[: round(share * pixels)]
    permutation = torch.arange(pixels)
    permutation[moved.sort().values] = moved
    return permutation


def permute_pixels(x: Images, permutation: Int[Tensor, " pixels"]) -> Images:
    """Pixel i of the result is pixel `permutation[i]` of the image, alike in every channel.

    `permute_pixels(., permutation.argsort())` takes it back.
    """
    _, _, height, width = _images(x)
    if permutation.shape != (height * width,):
        raise ValueError(
            f"the permutation must have {height * width} entries, got the shape {tuple(permutation.shape)}"
        )
    return x.flatten(2)[:, :, permutation].view_as(x)


def shuffle_patches(x: Images, patch: int, generator: torch.Generator) -> Images:
    """Every image cut into squares of `patch` pixels, which are put back in a random order."""
    n, channels, height, width = _images(x)
    if patch < 1 or height % patch or width % patch:
        raise ValueError(f"patch must divide the sides {height} and {width}, got {patch}")
    patches = F.unfold(x, patch, stride=patch)
    order = torch.rand(n, patches.shape[-1], generator=generator).argsort(1).to(x.device)
    patches = patches.gather(2, order[:, None, :].expand(-1, channels * patch**2, -1))
    return F.fold(patches, (height, width), patch, stride=patch)


def deform(x: Images, kind: str, severity: int, generator: torch.Generator) -> Images:
    """A deformation that takes images away from the digits, by degrees.

    rotation: by 45 to 90 degrees either way; blur: standard deviation 0.4 to 2 pixels; noise: 0.1 to 0.5; shuffle: in
    one to five fifths of the images the 2 x 2 patches are shuffled; inversion: one to five fifths of the way to 1 -
    x.

    Args:
        x: images.
        kind: one of `DEFORMATIONS`.
        severity: 1 to 5.
        generator: the source of randomness.
    """
    n = _images(x)[0]
    if severity not in range(1, 6):
        raise ValueError(f"severity must be from 1 to 5, got {severity}")
    if kind == "rotation":
        side = 1 - 2 * torch.randint(2, (n,), generator=generator)
        return rotate(x, side * (45 + 45 * (severity - 1) / 4))
    if kind == "blur":
        return blur(x, 0.4 * severity)
    if kind == "noise":
        return add_noise(x, 0.1 * severity, generator)
    if kind == "shuffle":
        shuffled: Bool[Tensor, "n 1 1 1"] = torch.rand(n, 1, 1, 1, generator=generator) < severity / 5
        return torch.where(shuffled.to(x.device), shuffle_patches(x, 2, generator), x)
    if kind == "inversion":
        return torch.lerp(x, 1 - x, severity / 5)
    raise ValueError(f"kind must be one of {', '.join(DEFORMATIONS)}, got {kind!r}")


def strokes(n: int, generator: torch.Generator, *, lines: int = 3, size: int = 8) -> Float[Tensor, "n 1 size size"]:
    """Images that are no digits but look handwritten: `lines` random straight strokes each.

    >>> strokes(5, torch.Generator().manual_seed(0)).shape
    torch.Size([5, 1, 8, 8])
    """
    if n < 0 or lines < 1 or size < 2:
        raise ValueError(f"need n >= 0, lines >= 1 and size >= 2, got {n}, {lines} and {size}")
    start, end = (size - 1) * torch.rand(2, n, lines, 1, 2, generator=generator)
    axis = torch.arange(float(size))
    pixels = torch.cartesian_prod(axis, axis)
    along = end - start
    at = (((pixels - start) * along).sum(-1) / along.square().sum(-1).clamp_min(1e-6)).clamp(0, 1)
    distance = (pixels - start - at[..., None] * along).norm(dim=-1)
    # Ink fades over one pixel from the middle of the stroke, about as wide as the digits' own.
    return (1.5 - distance).clamp(0, 1).amax(1).view(n, 1, size, size)


def _source(side: int, offset: Int[Tensor, " n"], length: int) -> tuple[Tensor, Tensor]:
    at = torch.arange(side, device=offset.device) - offset[:, None]
    return at.clamp(0, length - 1), (at >= 0) & (at < length)


def _images(x: Tensor) -> torch.Size:
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"images must be floating point [n, channels, height, width], got {x.dtype} {tuple(x.shape)}")
    return x.shape


def _not_negative(value: float, name: str) -> None:
    if not value >= 0:
        raise ValueError(f"{name} must not be negative, got {value}")
