"""Prompts whose embeddings are corrupted on their way into a model: how, and the hooks that do it to those that a gate
flags. What `palimpsest.forget.eco_prompts` installs.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from palimpsest.lazy import front_door

Mode = Literal[
    "rand_noise_first_n",
    "rand_noise_top_k",
    "zero_out_top_k",
    "flip_sign_first_n",
    "flip_sign_top_k",
    "reverse_order",
    "shuffle",
]


MODES = get_args(Mode)


NOISE = ("rand_noise_first_n", "rand_noise_top_k")  # the modes that have a strength


def corrupt(
    emb: Float[Tensor, "batch tokens d"],
    mask: Bool[Tensor, "batch tokens"],
    strength: float,
    mode: Mode = "rand_noise_first_n",
    *,
    n: int = 1,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch tokens d"]:
    """Embeddings, corrupted where `mask` is set and untouched elsewhere.

    Args:
        emb: input embeddings.
        mask: the tokens to corrupt, usually `corruptible` of the prompt.
        strength: standard deviation of the noise; the other modes have none.
        mode: "rand_noise_first_n" adds N(0, strength^2) to the first n dimensions, "rand_noise_top_k" to each token's n
            dimensions of largest absolute value; "zero_out_top_k" and "flip_sign_top_k" set those to 0 or change their
            sign, "flip_sign_first_n" changes the sign of the first n; "reverse_order" and "shuffle" put each row's
            masked tokens in another order.
        n: how many dimensions.
        generator: of the noise and of the order, on the CPU.

    Raises:
        ValueError: if shapes do not fit, the mode is unknown, n is not in 1 .. d, or the strength is negative.

    >>> corrupt(torch.tensor([[[3.0, -5.0], [1.0, 2.0]]]), torch.tensor([[True, False]]), 0.0, "zero_out_top_k")
    tensor([[[3., 0.],
             [1., 2.]]])
    """
    if emb.ndim != 3 or mask.shape != emb.shape[:2]:
        raise ValueError(f"emb [batch, tokens, d] and mask [batch, tokens]: got {list(emb.shape)}, {list(mask.shape)}")
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if not 1 <= n <= emb.shape[-1]:
        raise ValueError(f"n must lie between 1 and the {emb.shape[-1]} dimensions, got {n}")
    if not strength >= 0:
        raise ValueError(f"strength must be at least 0, got {strength}")
    if mode in ("reverse_order", "shuffle"):
        out = emb.clone()
        for row, places in enumerate(m.nonzero()[:, 0] for m in mask):
            order = torch.randperm(len(places), generator=generator).to(places.device)
            out[row, places] = emb[row, places.flip(0) if mode == "reverse_order" else places[order]]
        return out
    if mode.endswith("first_n"):
        dims = torch.arange(n, device=emb.device).expand(*emb.shape[:2], n)
    else:
        dims = emb.abs().topk(n, dim=-1).indices
    old = emb.gather(-1, dims)
    if mode in NOISE:
        new = old + strength * torch.randn(old.shape, generator=generator).to(old)
    else:
        new = torch.zeros_like(old) if mode == "zero_out_top_k" else -old
    return torch.where(mask[..., None], emb.scatter(-1, dims, new), emb)


def corruptible(tokens: Bool[Tensor, "batch tokens"]) -> Bool[Tensor, "batch tokens"]:
    """All of each row's tokens but the last, which predicts what is written next.

    >>> corruptible(torch.tensor([[True, True, True, False]])).tolist()
    [[True, True, False, False]]
    """
    after = tokens.flip(1).cumsum(1).flip(1)  # how many of them there are from here on
    return tokens & (after > 1)


_MOVED = {"forget.corrupting_hooks": ("EcoLM",)}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
