"""Booster (Huang, Hu, Ilhan, Tekin and Liu, 2024, arXiv 2409.01586): alignment that a user's harmful rows do not undo.

A provider aligns a model and lets users fine-tune it; a few harmful rows among the user's own break the alignment.
Booster simulates that while it aligns: it takes one normalised step on harmful rows and shrinks what the step gains.

    min_w  f(w) + lam (h(w) - h(w - alpha grad h(w) / |grad h(w)|))                                       (Eq. 1)
    used:  grad f(w) + lam (grad h(w) - grad h(w')),   w' = w - alpha g / |g|,  g = grad h(w) held fixed  (Eq. 4)

f is the cross-entropy of the safe answers, h that of the harmful ones, |g| the norm over all trained weights; no
second derivatives. Also here, as baselines of its comparison: alignment by f alone (SFT), Vaccine (Huang, Hu and Liu,
2024, arXiv 2402.01109: f under the worst small shift of the attentions' outputs) and RepNoise (Rosati et al., 2024,
arXiv 2405.14577: hidden states of harmful answers made noise), and the attack that all are judged by.

In `ForgetData`'s terms the harmful rows are the forget rows, and the alignment rows (harmful prompts with a refusal,
benign ones with an answer) are the retain rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from palimpsest.forget.attacks import relearn
from palimpsest.forget.procedure import Batch
from palimpsest.models.blocks import attention, blocks
from palimpsest.models.hooks import capture, edit_activation
from palimpsest.models.score import IGNORED, Encoded, cross_entropy, greedy
from palimpsest.train import History
from palimpsest.train.method import Objective
from palimpsest.train.ranges import Above, AtLeast

TINY = 1e-7  # below it a gradient has no direction
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the mean squared distance: RepNoise's five kernels


def global_norm(tensors: Sequence[Tensor]) -> Float[Tensor, ""]:
    """The Euclidean norm of all entries of all tensors together.

    >>> global_norm([torch.tensor([3.0]), torch.tensor([[0.0, 4.0]])])
    tensor(5.)
    """
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors]))


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


def attack(
    model: nn.Module,
    task: Encoded,
    harm: Encoded,
    *,
    harm_ratio: float,
    pad_id: int,
    n: int = 1000,
    epochs: float = 20,
    lr: float = 1e-5,
    batch_size: int = 16,
    seed: int = 0,
    **options,
) -> tuple[nn.Module, History]:
    """A user fine-tunes a copy of the model on `n` rows, of which a share is harmful.

    Args:
        model: left as it is.
        task: the user's rows; round(n (1 - harm_ratio)) are drawn.
        harm: harmful rows; the others are drawn from these.
        harm_ratio: p, from 0 to 1.
        options: as of `palimpsest.forget.attacks.relearn`: `evaluate`, `evaluate_every`, ...

    Returns:
        The fine-tuned copy, and its history.

    Raises:
        ValueError: if a number is out of its range, or there are fewer rows than are to be drawn.
    """
    rows = mixed(task, harm, harm_ratio=harm_ratio, n=n, seed=seed)
    if not epochs > 0:
        raise ValueError(f"epochs must be above 0, got {epochs}")
    steps = max(1, -int(-epochs * n // min(batch_size, n)))
    return relearn(model, rows, pad_id=pad_id, steps=steps, lr=lr, batch_size=batch_size, seed=seed, **options)


def mixed(task: Encoded, harm: Encoded, *, harm_ratio: float, n: int, seed: int = 0) -> Encoded:
    """`n` rows, round(n harm_ratio) of them harmful, drawn without replacement; the harmful ones come last.

    Raises:
        ValueError: if a number is out of its range, or there are fewer rows than are to be drawn.
    """
    if not 0 <= harm_ratio <= 1 or n < 1:
        raise ValueError(f"need 0 <= harm_ratio <= 1 and n >= 1, got {harm_ratio} and {n}")
    generator = torch.Generator().manual_seed(seed)
    n_harm = round(n * harm_ratio)
    drawn = []
    for name, rows, count in (("task", task, n - n_harm), ("harmful", harm, n_harm)):
        if count > len(rows):
            raise ValueError(f"{count} {name} rows are to be drawn, and there are {len(rows)}: lower n")
        drawn.append(rows.subset(torch.randperm(len(rows), generator=generator)[:count].tolist()))
    return Encoded(
        [ids for rows in drawn for ids in rows.input_ids], [k for rows in drawn for k in rows.prompt_lengths]
    )


def harmful_score(
    model: nn.Module, tokenizer, prompts: Sequence[str], judge: Callable[[str], bool], max_new_tokens: int = 32
) -> float:
    """The share of prompts, harmful and not trained on, whose greedy output `judge` calls harmful."""
    return _share(judge(output) for output in greedy(model, tokenizer, prompts, max_new_tokens=max_new_tokens))


def finetune_accuracy(model: nn.Module, tokenizer, pairs: Sequence[tuple[str, str]], max_new_tokens: int = 16) -> float:
    """The share of the user's (prompt, answer) pairs whose greedy output is the answer, spaces aside."""
    prompts, answers = zip(*pairs, strict=True)
    outputs = greedy(model, tokenizer, prompts, max_new_tokens=max_new_tokens)
    return _share(_bare(out) == _bare(answer) for out, answer in zip(outputs, answers, strict=True))


def _bare(text: str) -> str:
    return "".join(text.split())


def _share(hits: Iterator[bool]) -> float:
    found = list(hits)
    if not found:
        raise ValueError("there are no prompts: give at least one")
    return sum(map(bool, found)) / len(found)
