"""Generative replay: what was seen is not kept but drawn again from a generator, and named by the model of before.

Source: Shin, Lee, Kim and Kim (2017), Continual learning with deep generative replay, arXiv 1705.08690; in the review
of Parisi, Kemker, Part, Kanan and Wermter (2018), arXiv 1802.07569, the learned form of a second, faster memory. The
generator is a variational autoencoder: Kingma and Welling (2013), arXiv 1312.6114.

In task t, with r = 1 / t,

    r CE(batch) + (1 - r) CE(drawn rows, the old model's answers)

and then the generator itself learns from today's rows and from what it drew before, in the same proportion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from palimpsest.models.forward import device_of
from palimpsest.retain.buffers import Examples
from palimpsest.retain.continual import (
    Continual,
    Present,
    State,
    as_it_was,
    cross_entropy,
    everything_of,
    only_allowed,
)
from palimpsest.retain.pec_networks import drawn_weights
from palimpsest.retain.phases import input_name, trained_on
from palimpsest.train.classification import logits_of
from palimpsest.train.method import Objective
from palimpsest.train.ranges import Above, AtLeast


class VAE(nn.Module):
    """A variational autoencoder of flattened rows, with one hidden layer each way."""

    def __init__(self, inputs: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent))
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, inputs))

    def forward(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch inputs"]:
        """Rows of points of the latent space."""
        return self.decoder(z)


@dataclass(frozen=True)
class Evidence(Objective):
    """The negative lower bound of a row's log-likelihood, but for constants:

        |x - x'|^2 / (2 variance) + KL(N(m, s^2) || N(0, 1)),    x' = decoder(m + s e),  e ~ N(0, I)

    Attributes:
        variance: of a value around what the decoder says.
        latent: dimensions.
    """

    variance: float
    latent: int

    def augment(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        """A batch with the draws e."""
        return {**batch, "e": torch.randn(len(batch["rows"]), self.latent, generator=generator)}

    def loss(self, state: None, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        x = batch["rows"]
        m, log_s = model.encoder(x).chunk(2, 1)
        far = (model(m + log_s.exp() * batch["e"].to(x)) - x).square().sum(1) / (2 * self.variance)
        kl = (m.square() + (2 * log_s).exp() - 1 - 2 * log_s).sum(1) / 2
        return {"rows": far.mean(), "latent": kl.mean()}


@dataclass(frozen=True)
class GenerativeReplay(Continual):
    """The model and a generator that remembers for it.

    Attributes:
        hidden, latent: sizes of the generator.
        variance: of a value around what the generator says; smaller makes sharper rows of a less regular space.
        updates: of the generator in each task.
        generator_lr: of its training, by Adam.
        replayed: rows drawn in a step; None for as many as the batch has.
    """

    hidden: Annotated[int, AtLeast(1)] = 256
    latent: Annotated[int, AtLeast(1)] = 16
    variance: Annotated[float, Above(0)] = 0.05
    updates: Annotated[int, AtLeast(1)] = 500
    generator_lr: Annotated[float, Above(0)] = 1e-3
    replayed: Annotated[int | None, AtLeast(1)] = None

    def before_task(self, state: State, model: nn.Module, data: Present) -> State:
        if "generator" not in state:
            return state
        return {**state, "old": everything_of(model), "heads": data.heads, "r": 1 / (data.number + 1)}

    def drawn(self, state: State, n: int, like: Tensor, generator: torch.Generator) -> Tensor:
        """Rows from the generator, of a shape as others have."""
        z = torch.randn(n, self.latent, generator=generator).to(like)
        network = self.made(like)
        with torch.no_grad():
            found = functional_call(network, {name: value.to(z) for name, value in state["generator"].items()}, z)
        return found.reshape(n, *like.shape[1:])

    def made(self, like: Tensor) -> VAE:
        """A generator for such rows, without weights."""
        with torch.device("meta"):
            return VAE(like[0].numel(), self.hidden, self.latent).to(like.dtype)

    def replay(self, state: State, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        if "old" not in state:
            return batch
        name = input_name(batch)
        return {**batch, "drawn": {name: self.drawn(state, self.replayed or len(batch[name]), batch[name], generator)}}

    def loss(self, state: State, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        new = cross_entropy(model, batch)
        if "old" not in state:
            return {"new": new}
        drawn, heads = batch["drawn"], state["heads"].to(new.device)
        with as_it_was(model, state["old"]):
            labels = logits_of(model, drawn).masked_fill(~heads.any(0), -torch.inf).argmax(1)
        # Of several heads that of the label.
        own = {"allowed": heads[heads[:, labels].int().argmax(0)]}
        held = F.cross_entropy(only_allowed(logits_of(model, drawn), own), labels)
        return {"new": state["r"] * new, "drawn": (1 - state["r"]) * held}

    def after_task(self, state: State, model: nn.Module, data: Present) -> State:
        x = data.rows.columns[input_name(data.rows.columns)]
        network, weights = self.made(x), state.get("generator")
        if weights is None:
            weights = drawn_weights(network, data.generator)
        else:  # today's rows are 1 / t of what is learned
            x = torch.cat([x, self.drawn(state, data.number * len(x), x, data.generator)])
        network = network.to_empty(device=device_of(model))
        network.load_state_dict(weights)
        rows = Examples({"rows": x.flatten(1)})
        own = {"lr": self.generator_lr, "optimizer": "adam", "weight_decay": 0.0}
        trained_on(network, Evidence(self.variance, self.latent), rows, data, self.updates, **own)
        return {"generator": everything_of(network)}
