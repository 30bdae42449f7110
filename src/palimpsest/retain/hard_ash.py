"""Hard ASH: few units speak of each row, so that what one task changes hardly touches what another uses.

Source: Keskinen (2024), Hard ASH: sparsity and the right optimizer make a continual learner, arXiv 2404.17651.

An activation (adaptive swish) that lets through what stands out of a layer, with m and s the mean and the standard
deviation of what the layer's own units get for the row:

    t = alpha (x - m - z s),    ASH(x) = x sigmoid(t),    HardASH(x) = clip(x, 0, x_max) clip(t / 6 + 1/2, 0, 1)

With z above 2 all but a few units are 0, and pass no gradient. Two things belong to it. The rows of the weights before
it are centred and brought to length 1 at every pass: the settings are in units of what comes out. And an optimizer that
slows down where gradients have been, Adagrad, none of whose updates is above a limit. No rows are kept, nobody tells
where a task ends, and one head answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, Optimizer, RMSprop

from palimpsest.models.forward import device_of
from palimpsest.retain.limited_updates import limited
from palimpsest.retain.replay import FineTune
from palimpsest.retain.sequence import Learner, learn_stream
from palimpsest.retain.sparse_networks import SparseNetwork, elephant, lwta, top_k
from palimpsest.tasks.streams import Stream
from palimpsest.train.method import Edit
from palimpsest.train.ranges import Above, AtLeast

OPTIMIZERS = {
    "adagrad": partial(Adagrad, initial_accumulator_value=1e-6),
    "adam": partial(Adam, betas=(0.98, 0.9995)),
    "rmsprop": partial(RMSprop, alpha=0.9993),
    "sgd": SGD,
}


def above_the_rest(
    x: Float[Tensor, "... units"], alpha: float, z: float, detach: bool = False
) -> Float[Tensor, "... units"]:
    """t = alpha (x - m - z s): how far each unit stands out of its layer; `detach` lets no gradient through m and s."""
    level = x.mean(-1, keepdim=True) + z * x.std(-1, keepdim=True, unbiased=False)
    return alpha * (x - (level.detach() if detach else level))


def ash(
    x: Float[Tensor, "... units"], alpha: float = 3.0, z: float = 2.3, *, detach: bool = False
) -> Float[Tensor, "... units"]:
    """x sigmoid(t).

    >>> ash(torch.tensor([0.0, 0.0, 0.0, 4.0]), alpha=100.0, z=1.0)
    tensor([0., 0., 0., 4.])
    """
    return x * torch.sigmoid(above_the_rest(x, alpha, z, detach))


def hard_ash(
    x: Float[Tensor, "... units"],
    alpha: float = 3.0,
    z: float = 2.3,
    x_max: float | None = 2.0,
    *,
    detach: bool = False,
) -> Float[Tensor, "... units"]:
    """clip(x, 0, x_max) clip(t / 6 + 1/2, 0, 1); `x_max` None leaves x as it is.

    >>> hard_ash(torch.tensor([0.0, 0.0, 0.0, 8.0]), z=1.0)
    tensor([0., 0., 0., 2.])
    """
    gate = (above_the_rest(x, alpha, z, detach) / 6 + 0.5).clamp(0, 1)
    return (x if x_max is None else x.clamp(0, x_max)) * gate


@dataclass(frozen=True)
class HardASH(Edit):
    """A sparse network learns a stream with one optimizer for all tasks; the model that is given is not used.

    `apply(model, HardASH(), stream, steps=200, lr=2e-4)`; the optimizer is the method's own.

    Attributes:
        activation: of the hidden layer: "hard_ash", "ash", or what it is compared with.
        alpha, z, x_max, detach: as in `hard_ash`.
        kept: units that "top_k" lets through, and groups of "lwta".
        width: of the hidden layer.
        row_norm: bring the rows of its weights to length 1.
        by: the optimizer.
        limit: of the update of an entry.
        online: as in `learn_stream`.
    """

    activation: Literal["hard_ash", "ash", "relu", "top_k", "lwta", "elephant"] = "hard_ash"
    alpha: Annotated[float, Above(0)] = 3.0
    z: float = 2.3
    x_max: Annotated[float | None, Above(0)] = 2.0
    detach: bool = False
    kept: Annotated[int, AtLeast(1)] = 50
    width: Annotated[int, AtLeast(1)] = 1000
    row_norm: bool = True
    by: Literal["adagrad", "adam", "rmsprop", "sgd"] = "adagrad"
    limit: Annotated[float, Above(0)] = 0.01
    online: bool = False

    def edit(self, model: nn.Module, data: Stream, *, seed: int = 0, **training: Any) -> Learner:
        values = data.tasks[0].train.x[0].numel()
        own = {"width": self.width, "row_norm": self.row_norm, "seed": seed}
        network = SparseNetwork(values, data.classes, self.function, **own).to(device_of(model))
        training = {**training, "optimizer": self.optimizer, "keep_optimizer": True, "online": self.online}
        return learn_stream(network, FineTune(), data, seed=seed, **training)

    @property
    def function(self) -> Any:
        """The activation with its settings."""
        stands_out = {"alpha": self.alpha, "z": self.z, "detach": self.detach}
        return {
            "hard_ash": partial(hard_ash, x_max=self.x_max, **stands_out),
            "ash": partial(ash, **stands_out),
            "relu": torch.relu,
            "top_k": partial(top_k, k=self.kept),
            "lwta": partial(lwta, groups=self.kept),
            "elephant": elephant,
        }[self.activation]

    def optimizer(self, parameters: list[nn.Parameter], lr: float) -> Optimizer:
        """The optimizer, whose updates are limited."""
        return limited(OPTIMIZERS[self.by](parameters, lr=lr), self.limit)
