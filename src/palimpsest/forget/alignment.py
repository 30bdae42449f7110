"""Alignment of a language model before its users fine-tune it: by its safe answers alone (SFT), and against attacks.

In `ForgetData`'s terms the harmful rows are the forget rows, and the alignment rows (harmful prompts with a refusal,
benign ones with an answer) are the retain rows. Vaccine (Huang, Hu and Liu, 2024, arXiv 2402.01109) aligns under the
worst small shift of the attentions' outputs, RepNoise (Rosati et al., 2024, arXiv 2405.14577) makes the hidden states
of harmful answers noise; `palimpsest.forget.booster` is a room of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from palimpsest.forget.procedure import Batch
from palimpsest.models.blocks import attention, blocks
from palimpsest.models.hooks import capture, edit_activation
from palimpsest.models.score import IGNORED, cross_entropy
from palimpsest.train.method import Objective
from palimpsest.train.ranges import AtLeast

TINY = 1e-7  # below it a gradient has no direction
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the mean squared distance: RepNoise's five kernels


def global_norm(tensors: Sequence[Tensor]) -> Float[Tensor, ""]:
    """The Euclidean norm of all entries of all tensors together.

    >>> global_norm([torch.tensor([3.0]), torch.tensor([[0.0, 4.0]])])
    tensor(5.)
    """
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors]))


def vaccine_loss(model: nn.Module, batch: dict[str, Tensor], rho: float = 2.0) -> Float[Tensor, ""]:
    """f with rho g_l / |g| added to the output of every block l's attention: g_l is the gradient of f with respect to
    it, |g| the norm over all blocks together, and the shift is held fixed. Two passes; not for gradient checkpointing.

    The paper writes of the hidden embeddings of every layer; its code shifts the attention's output, as here.

    Args:
        batch: encoded rows; the shift is of the whole batch, so that rho = 2 is spread over its tokens.
        rho: length of the shift.
    """
    modules = {str(i): attention(block) for i, block in enumerate(blocks(model))}
    with capture(modules) as seen:
        loss = cross_entropy(model, batch)
    moved = {name: hidden for name, hidden in seen.items() if hidden.requires_grad}
    gradients = torch.autograd.grad(loss, list(moved.values()))
    scale = rho / global_norm(gradients).clamp(min=TINY)
    handles = [
        edit_activation(modules[name], lambda hidden, shift=scale * g: hidden + shift)
        for name, g in zip(moved, gradients, strict=True)
    ]
    try:
        return cross_entropy(model, batch)
    finally:
        for handle in handles:
            handle.remove()


def mmd(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, ""]:
    """The squared maximum mean discrepancy of two samples (biased: at least 0, and 0 for equal samples), under the sum
    of five Gaussian kernels around the mean squared distance of the pooled rows.

    >>> rows = torch.eye(3)
    >>> mmd(rows, rows).item(), mmd(rows, rows + 9).item() > 1
    (0.0, True)
    """
    rows = torch.cat([x, y])
    squared = (rows[:, None] - rows[None]).square().sum(-1)
    width = (squared.detach().sum() / max(1, len(rows) * (len(rows) - 1))).clamp(min=TINY)
    kernel = sum(torch.exp(-squared / (scale * width)) for scale in SCALES)
    n = len(x)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


@dataclass(frozen=True)
class Alignment(Objective):
    """SFT: the cross-entropy of the alignment rows, and nothing against an attack."""

    needs: ClassVar[frozenset[str]] = frozenset({"retain"})

    def loss(self, state: None, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"alignment": cross_entropy(model, batch["retain"])}


@dataclass(frozen=True)
class Vaccine(Alignment):
    """f where the attentions' outputs are shifted; the harmful rows are not used.

    Attributes:
        rho: length of the shift.
    """

    rho: Annotated[float, AtLeast(0)] = 2.0

    def loss(self, state: None, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"alignment": vaccine_loss(model, batch["retain"], self.rho)}


@dataclass(frozen=True)
class RepNoise(Alignment):
    """f - alpha log h + beta MMD(states, N(0, I)), the last averaged over blocks, at the harmful answers' tokens.

    The paper's ascent also reads every block through the output matrix; here h is that of the model itself.

    Attributes:
        alpha: weight of the ascent on harmful rows.
        beta: weight of the noise.
    """

    alpha: Annotated[float, AtLeast(0)] = 1.0
    beta: Annotated[float, AtLeast(0)] = 0.001

    def loss(self, state: None, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        answer = batch["forget"]["labels"] != IGNORED
        with capture({str(i): block for i, block in enumerate(blocks(model))}) as seen:
            h = cross_entropy(model, batch["forget"])
        states = [hidden[answer] for hidden in seen.values()]
        noise = torch.stack([mmd(s, torch.randn_like(s)) for s in states]).mean()
        return {
            "alignment": cross_entropy(model, batch["retain"]),
            "ascent": -self.alpha * h.clamp(min=TINY).log(),
            "noise": self.beta * noise,
        }
