"""The network that weighs a pair of rows, as a list of tensors, with what it reads, its scale and its optimizer.

Four numbers of a pair go in, two weights come out, 1 each at the start: the last layer begins with zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from palimpsest.retain.continual import only_allowed
from palimpsest.train.classification import logits_of

INPUTS = 4
KEEP, BETA1, BETA2, EPS = 0.99, 0.9, 0.999, 1e-8


def new_relation_network(hidden: int, generator: torch.Generator) -> list[Tensor]:
    """Its weights and biases, layer by layer."""
    first = torch.randn(hidden, INPUTS, generator=generator) / INPUTS**0.5
    return [first, torch.zeros(hidden), torch.zeros(2, hidden), torch.zeros(2)]


def pair_weights(network: Sequence[Tensor], inputs: Float[Tensor, "pairs 4"]) -> Float[Tensor, "pairs 2"]:
    """Twice the sigmoid of what a network of two layers says: of the new row, of the old one.

    >>> pair_weights(new_relation_network(3, torch.Generator().manual_seed(0)), torch.randn(1, 4)).tolist()
    [[1.0, 1.0]]
    """
    w1, b1, w2, b2 = network
    return 2 * torch.sigmoid(torch.relu(inputs.to(w1) @ w1.T + b1) @ w2.T + b2)


def standardised(inputs: Float[Tensor, "pairs 4"], scale: dict[str, Tensor]) -> Float[Tensor, "pairs 4"]:
    """Inputs less their running mean, in their running spread."""
    spread = (scale["square"] - scale["mean"].square()).clamp(min=1e-4).sqrt()
    return (inputs - scale["mean"].to(inputs)) / spread.to(inputs)


def running(inputs: Float[Tensor, "pairs 4"], scale: dict[str, Tensor]) -> None:
    """Takes inputs into the running means, in place."""
    scale["mean"].lerp_(inputs.mean(0).to(scale["mean"]), 1 - KEEP)
    scale["square"].lerp_(inputs.square().mean(0).to(scale["square"]), 1 - KEEP)


def adam_step(state: dict[str, Any], slopes: Sequence[Tensor], lr: float) -> None:
    """One step of Adam on `state["network"]`, whose moments are in `state["adam"]` and whose number is in
    `state["steps"]`; in place."""
    state["steps"] += 1
    n = state["steps"]
    adam = state["adam"]
    for p, first, second, slope in zip(state["network"], adam["first"], adam["second"], slopes, strict=True):
        first.lerp_(slope, 1 - BETA1)
        second.mul_(BETA2).addcmul_(slope, slope, value=1 - BETA2)
        p.sub_(lr * (first / (1 - BETA1**n)) / ((second / (1 - BETA2**n)).sqrt() + EPS))


def pair_losses(
    model: nn.Module, batch: Mapping[str, Any], dark: tuple[float, float] | None
) -> tuple[Float[Tensor, " pairs"], Float[Tensor, " pairs"], Float[Tensor, "pairs 4"]]:
    """The loss of each new row and of each old one, and what the network reads of both: losses and norms of the logits.

    Args:
        batch: with as many rows in `memory`, and in `dark`, as it has itself.
        dark: alpha and beta of DER++; None for replay, whose two halves have one mean.
    """
    new_logits, old_logits = logits_of(model, batch), logits_of(model, batch["memory"])
    new, old = (
        F.cross_entropy(only_allowed(logits, part), part["labels"], reduction="none")
        for logits, part in ((new_logits, batch), (old_logits, batch["memory"]))
    )
    inputs = torch.stack([new, old, new_logits.norm(dim=1), old_logits.norm(dim=1)], 1).detach().float()
    if dark is None:
        return new / 2, old / 2, inputs
    held = (logits_of(model, batch["dark"]) - batch["dark"]["logits"]).square().mean(1)
    return new, dark[0] * held + dark[1] * old, inputs


def loss_after_a_step(
    model: nn.Module,
    inner: Float[Tensor, ""],
    parameters: Sequence[nn.Parameter],
    lr: float,
    rows: Mapping[str, Tensor],
) -> Float[Tensor, ""]:
    """The cross-entropy of rows after a step along the gradient of another loss, which is only thought of: it can be
    differentiated through the step."""
    moves = {id(p) for p in parameters if p.requires_grad}
    named = {name: p for name, p in model.named_parameters() if id(p) in moves}
    slopes = torch.autograd.grad(inner, list(named.values()), create_graph=True, allow_unused=True)
    moved = {n: p if g is None else p - lr * g for (n, p), g in zip(named.items(), slopes, strict=True)}
    said = functional_call(model, moved, (rows["pixel_values"] if "pixel_values" in rows else rows["x"],))
    return F.cross_entropy(only_allowed(getattr(said, "logits", said), rows), rows["labels"])


def relations(state: Mapping[str, Any]) -> Float[Tensor, "tasks tasks 2"]:
    """The mean weights of the pairs that were met: of rows of a task when it was new (row), and of replayed rows of an
    earlier one (column); nan where no such pair was met.

    >>> relations({"relations": torch.tensor([[[3.0, 1.0, 2.0]]])})
    tensor([[[1.5000, 0.5000]]])
    """
    sums = state["relations"]
    return sums[..., :2] / sums[..., 2:]
