"""How well a network can still learn: its error on random targets, and what is known to go with it.

Source: Lyle, Zheng, Nikishin, Avila Pires, Pascanu and Dabney (2023), Understanding plasticity in neural networks,
arXiv 2303.01486.

The plasticity of a network on rows x is how far a copy of it, trained for a fixed number of steps, gets on targets that
have nothing to do with what it knows. They come from another network r of its shape with fresh weights:

    g(x) = sin(frequency r(x)),     plasticity = mean over targets of  Var g - mean over rows (h(x) - g(x))^2

with h the copy's first output in the end. Targets are moved to the mean of what the copy says in the beginning, so that
its last bias is not what is tested. What was lost is the plasticity of fresh weights minus that of the network.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.metrics.plasticity import dormant_units, feature_rank, sharpness
from palimpsest.metrics.probes import effective_rank
from palimpsest.models.forward import evaluating
from palimpsest.retain.hidden_units import hidden_activations
from palimpsest.retain.renewal import redrawn
from palimpsest.train.classification import logits_of
from palimpsest.train.loop import fit

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Plasticity:
    """What a probe found.

    Attributes:
        trained: the plasticity of the network as it is.
        fresh: that of a network of its shape with fresh weights.
    """

    trained: float
    fresh: float

    @property
    def lost(self) -> float:
        """What fresh weights have and the network has not."""
        return self.fresh - self.trained


def random_targets(model: nn.Module, batch: Batch, *, frequency: float = 30.0, seed: int = 0) -> Float[Tensor, " n"]:
    """sin(frequency r(x)), r the first output of a fresh network."""
    other = redrawn(model, seed)
    with evaluating(other):
        return torch.sin(frequency * logits_of(other, batch)[:, 0])


def plasticity(
    model: nn.Module,
    batch: Batch,
    *,
    targets: int = 5,
    steps: int = 200,
    lr: float = 1e-3,
    frequency: float = 30.0,
    seed: int = 0,
) -> Plasticity:
    """How far the network, and fresh weights in its place, get on random targets; the network is left as it is.

    Args:
        batch: rows, "pixel_values" or "x", all of which every step of Adam sees.
        targets: how many, each learned by a copy of its own.
        steps, lr: of each copy's training.
        frequency: of the targets in what a fresh network says.
        seed: of all fresh weights.
    """
    found: dict[str, list[float]] = {"trained": [], "fresh": []}
    for number in range(targets):
        g = random_targets(model, batch, frequency=frequency, seed=seed + 2 * number)
        for name, learner in (("trained", copy.deepcopy(model)), ("fresh", redrawn(model, seed + 2 * number + 1))):
            with evaluating(learner):
                offset = logits_of(learner, batch)[:, 0].mean() - g.mean()
            rows = {**batch, "targets": g + offset}
            fit(learner, _error, [rows], steps=steps, lr=lr, optimizer="adam", seed=seed, progress=False)
            with evaluating(learner):
                found[name].append(float(g.var(correction=0) - _error(learner, rows)))
    return Plasticity(fmean(found["trained"]), fmean(found["fresh"]))


def _error(model: nn.Module, batch: Batch) -> Tensor:
    return (logits_of(model, batch)[:, 0] - batch["targets"]).square().mean()


def class_gradients(model: nn.Module, batch: Batch) -> Float[Tensor, "classes parameters"]:
    """The gradient of the cross-entropy of the rows of each class that the batch has."""
    parameters, rows = [p for p in model.parameters() if p.requires_grad], []
    for label in batch["labels"].unique():
        part = {name: value[batch["labels"] == label] for name, value in batch.items()}
        loss = F.cross_entropy(logits_of(model, part), part["labels"])
        slopes = torch.autograd.grad(loss, parameters, materialize_grads=True, allow_unused=True)
        rows.append(torch.cat([slope.flatten() for slope in slopes]))
    return torch.stack(rows)


def gradient_gram(model: nn.Module, batch: Batch) -> Float[Tensor, "classes classes"]:
    """The cosines between the gradients of classes: all near 1 or -1 where one step decides for all rows alike."""
    gradients = F.normalize(class_gradients(model, batch), dim=1)
    return gradients @ gradients.T


def diagnostics(model: nn.Module, batch: Batch) -> dict[str, float]:
    """What is said to tell of lost plasticity, for rows with labels: the share of hidden units that are silent on all
    rows, the rank of the features (singular values above 1% of the first), the norms of weights and gradient, the
    curvature (the Hessian's eigenvalue of largest size), and the effective rank of `gradient_gram`."""
    parameters = [p for p in model.parameters() if p.requires_grad]

    def loss() -> Tensor:
        return F.cross_entropy(logits_of(model, batch), batch["labels"])

    with hidden_activations(model) as said, evaluating(model):
        logits_of(model, batch)
    units = [hidden.flatten(2).amax(2) if hidden.ndim > 2 else hidden for hidden in said]
    slopes = torch.autograd.grad(loss(), parameters, allow_unused=True, materialize_grads=True)
    return {
        "dead units": fmean(dormant_units(hidden.clamp(min=0)) for hidden in units),
        "feature rank": float(feature_rank(said[-1])),
        "weight norm": float(nn.utils.parameters_to_vector(parameters).detach().norm()),
        "gradient norm": float(torch.cat([slope.flatten() for slope in slopes]).norm()),
        "sharpness": sharpness(loss, parameters),
        "gradient rank": effective_rank(gradient_gram(model, batch), center=False),
    }
