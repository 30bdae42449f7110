"""The tensors in which forgetting does not pull at what stays (Tian et al. 2024, arXiv 2407.01920)."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from statistics import median
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from palimpsest.errors import UserError
from palimpsest.forget.masks import gradients
from palimpsest.forget.random_answers import random_answers
from palimpsest.models.score import Encoded


def region(
    unlearn: Mapping[str, Float[Tensor, "..."]],
    retain: Mapping[str, Float[Tensor, "..."]],
    sim: float = 0.92,
    grad: float | None = 6e-4,
) -> list[str]:
    """The names of the tensors whose two gradients have a cosine below `sim`, and whose mean absolute gradient on the
    rows to forget is above `grad` (None: above its median over all tensors). A gradient of 0 has the cosine 0.

    Raises:
        UserError: if there is none.

    >>> u = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([1.0, 0.0]), "c": torch.tensor([1e-5, 0.0])}
    >>> r = {"a": torch.tensor([1.0, 0.1]), "b": torch.tensor([0.0, 1.0]), "c": torch.tensor([0.0, 1.0])}
    >>> region(u, r)
    ['b']
    """
    cosine = {name: F.cosine_similarity(g.flatten(), retain[name].flatten(), 0).item() for name, g in unlearn.items()}
    size = {name: g.abs().mean().item() for name, g in unlearn.items()}
    least = median(size.values()) if grad is None else grad
    found = [name for name in unlearn if cosine[name] < sim and size[name] > least]
    if not found:
        raise UserError(
            f"none of {len(unlearn)} tensors has a cosine below sim={sim} (lowest {min(cosine.values()):.3g}) and a"
            f" gradient above grad={least:.3g} (highest {max(size.values()):.3g}): raise sim or lower grad"
        )
    return found


def memflex_locate(
    model: nn.Module,
    unlearn: Encoded,
    retain: Encoded,
    sim: float = 0.92,
    grad: float | None = 6e-4,
    copies: int = 3,
    *,
    pad_id: int,
    special_ids: Collection[int] = (),
    replaced: Literal["half", "all"] = "half",
    names: str = "",
    seed: int = 0,
) -> list[str]:
    """The tensors in which the rows can be forgotten at little cost to those that stay: `region` of the mean gradients
    of CE over the rows with random answers.

    Args:
        model: its trainable parameters are looked at: of a `PeftModel`, the LoRA matrices.
        special_ids, replaced: see `random_answers`.
        names: a regular expression: only parameters whose name it finds.

    Raises:
        UserError: if no tensor qualifies.
    """
    vocab_size = model.get_input_embeddings().num_embeddings
    found = []
    for number, rows in enumerate((unlearn, retain)):
        options = {"special_ids": special_ids, "copies": copies, "replaced": replaced, "seed": 2 * seed + number}
        every = gradients(model, random_answers(rows, vocab_size, **options), pad_id=pad_id)
        found.append({name: g for name, g in every.items() if re.search(names, name)})
    if not found[0]:
        raise UserError(f"no trainable parameter's name has names={names!r} in it: give another, or '' for all")
    return region(*found, sim, grad)
