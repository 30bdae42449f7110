"""Booster (Huang, Hu, Ilhan, Tekin and Liu, 2024, arXiv 2409.01586): alignment that a user's harmful rows do not undo.

A provider aligns a model and lets users fine-tune it; a few harmful rows among the user's own break the alignment.
Booster simulates that while it aligns: it takes one normalised step on harmful rows and shrinks what the step gains.

    min_w  f(w) + lam (h(w) - h(w - alpha grad h(w) / |grad h(w)|))                                       (Eq. 1)
    used:  grad f(w) + lam (grad h(w) - grad h(w')),   w' = w - alpha g / |g|,  g = grad h(w) held fixed  (Eq. 4)

f is the cross-entropy of the safe answers, h that of the harmful ones, |g| the norm over all trained weights; no
second derivatives. In `ForgetData`'s terms the harmful rows are the forget rows, and the alignment rows (harmful
prompts with a refusal, benign ones with an answer) are the retain rows. Its rivals are in
`palimpsest.forget.alignment`, the attack that all are judged by in `palimpsest.forget.booster_measures`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn

from palimpsest.forget.alignment import TINY, Alignment, global_norm
from palimpsest.forget.procedure import Batch
from palimpsest.lazy import front_door
from palimpsest.models.score import cross_entropy
from palimpsest.train.ranges import Above, AtLeast


@contextmanager
def stepped(parameters: Sequence[Tensor], direction: Sequence[Tensor], size: float) -> Iterator[None]:
    """For the time of the block, the parameters stand at p - size * direction / |direction|; then, whatever happens,
    at the very bits of before (a copy is kept: adding the step back would round).

    >>> w = torch.tensor([0.1, 0.2])
    >>> with stepped([w], [torch.tensor([0.0, 5.0])], 0.5):
    ...     print(w)
    tensor([ 0.1000, -0.3000])
    >>> w
    tensor([0.1000, 0.2000])
    """
    scale = size / global_norm(direction).clamp(min=TINY)
    before = [parameter.detach().clone() for parameter in parameters]
    try:
        for parameter, d in zip(parameters, direction, strict=True):
            parameter.data.sub_(scale.to(d.device) * d)
        torch.clear_autocast_cache()  # it may hold the weights of before, in half precision
        yield
    finally:
        for parameter, old in zip(parameters, before, strict=True):
            parameter.data.copy_(old)
        torch.clear_autocast_cache()


def attenuation(
    parameters: Sequence[Tensor], harm: Callable[[], Float[Tensor, ""]], alpha: float = 0.1
) -> Float[Tensor, ""]:
    """h(w) - h(w'), what one normalised step of length `alpha` on harmful rows gains, with grad h(w) - grad h(w') as
    its gradient (first order: w' moves with w).

    The gradients are taken here, at both points; what is returned carries them to the parameters in one backward, so
    that any training loop delivers them. Call it before the other losses of a step: the weights move, and come back.

    Args:
        parameters: w, all that is trained; those that h does not depend on are left alone.
        harm: computes h at the parameters' present values.
        alpha: length of the step, over all parameters together, above 0.

    Raises:
        ValueError: if `alpha` is not above 0, or no parameter is trained.

    >>> w = torch.tensor([3.0, 4.0], requires_grad=True)
    >>> gain = attenuation([w], lambda: w.square().sum() / 2, alpha=0.5)  # from |w| = 5 to 4.5
    >>> gain.item(), torch.autograd.grad(gain, w)[0]
    (2.375, tensor([0.3000, 0.4000]))
    """
    if not alpha > 0:
        raise ValueError(f"alpha must be above 0, got {alpha}")
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    if not parameters:
        raise ValueError("no parameter requires grad: Booster steps along those that are trained")

    def gradient() -> tuple[Tensor, list[Tensor]]:
        loss = harm()
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return loss.detach(), [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]

    here, g = gradient()
    with stepped(parameters, g, alpha):
        there, g_there = gradient()
    # p - p.detach() is 0 and its gradient 1: the value is the gain, the gradient the difference of gradients.
    carried = [((p - p.detach()) * (a - b)).sum() for p, a, b in zip(parameters, g, g_there, strict=True)]
    return here - there + sum(carried)


def booster_step(
    model: nn.Module,
    align_batch: dict[str, Tensor],
    harm_batch: dict[str, Tensor],
    alpha: float = 0.1,
    lam: float = 5.0,
) -> dict[str, Tensor]:
    """The terms of one step: "alignment", f, and "harm", lam times the attenuated gain; backward of their sum gives
    grad f(w) + lam (grad h(w) - grad h(w')). Three passes; the weights are as before when it returns.

    Args:
        align_batch, harm_batch: encoded rows (`input_ids`, `attention_mask`, `labels` [batch, tokens]).
        alpha: length of the harmful step, in weight space.
        lam: weight of the regulariser.
    """
    gain = attenuation(list(model.parameters()), lambda: cross_entropy(model, harm_batch), alpha)
    return {"alignment": cross_entropy(model, align_batch), "harm": lam * gain}


@dataclass(frozen=True)
class Booster(Alignment):
    """f on the retain rows (alignment), h on the forget rows (harmful). In several processes, or with accumulated
    batches, each part steps along its own harmful gradient.

    Attributes:
        alpha: length of the simulated harmful step.
        lam: weight of what it gains.
    """

    alpha: Annotated[float, Above(0)] = 0.1
    lam: Annotated[float, AtLeast(0)] = 5.0

    def loss(self, state: None, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return booster_step(model, batch["retain"], batch["forget"], self.alpha, self.lam)


_MOVED = {
    "forget.alignment": ("RepNoise", "SCALES", "Vaccine", "mmd", "vaccine_loss"),
    "forget.booster_measures": ("attack", "finetune_accuracy", "harmful_score", "mixed"),
}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
