"""Distillation of answers over old classes, and how it and that of features go with cross-entropy.

Source: Cappellazzo, Falavigna and Brutti (2022), An investigation of the combination of rehearsal and knowledge
distillation in continual learning for spoken language understanding, arXiv 2211.08161; the method is
`palimpsest.retain.rehearsal_kd`.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from palimpsest.retain.distillation import distillation


def kd_logits(
    student: Float[Tensor, "batch classes"],
    teacher: Float[Tensor, "batch classes"],
    heads: Bool[Tensor, "heads classes"],
    temperature: float = 1.0,
    reduction: Literal["mean", "batchmean"] = "mean",
) -> Float[Tensor, ""]:
    """T^2 KL(teacher || student) among the classes of each head, over rows and, with "mean", over the head's classes.

    >>> student, teacher = torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 5.0]])
    >>> heads = torch.tensor([[True, True, False]])
    >>> kd_logits(student, teacher, heads) * 2 == kd_logits(student, teacher, heads, reduction="batchmean")
    tensor(True)
    """
    parts = [distillation(student, teacher, head[None], temperature) for head in heads]
    sizes = heads.sum(1) if reduction == "mean" else heads.new_ones(len(heads), dtype=torch.long)
    return temperature**2 * sum((part / size for part, size in zip(parts, sizes, strict=True)), student.new_zeros(()))


def combined_loss(
    ce: Float[Tensor, ""],
    feature: tuple[float, Float[Tensor, ""]] | None = None,
    logits: tuple[float, Float[Tensor, ""]] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy with the weight and the value of one distillation, of both, or of none.

    >>> one = torch.ones(())
    >>> combined_loss(one, (0.25, 2 * one)), combined_loss(one, None, (0.25, 2 * one))
    (tensor(1.2500), tensor(1.2500))
    >>> combined_loss(one, (0.25, 2 * one), (0.25, 2 * one))
    tensor(1.7500)
    """
    if feature:
        ce = (1 - feature[0]) * ce + feature[0] * feature[1]
    if logits:
        ce = (ce if feature else (1 - logits[0]) * ce) + logits[0] * logits[1]
    return ce
