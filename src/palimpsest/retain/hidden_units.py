"""The hidden units of a network whose layers follow one another: who makes them, who reads them, and what they say.

What a unit says is what the next layer reads of it, so activations, norms and pooling between the two are taken as they
are. A unit of a convolution is a channel.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

from torch import Tensor, nn

from palimpsest.errors import UserError

Layer = nn.Linear | nn.Conv2d


def hidden_layers(model: nn.Module) -> list[tuple[Layer, Layer]]:
    """The layer that makes each hidden layer's units, and the one that reads them: all linear and convolutional layers,
    in the order in which the model has them.

    Raises:
        UserError: there are no two such layers, or one does not fit the next.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> hidden_layers(model)
    [(Linear(in_features=4, out_features=3, bias=True), Linear(in_features=3, out_features=2, bias=True))]
    """
    layers = [layer for layer in model.modules() if isinstance(layer, Layer)]
    if len(layers) < 2:
        raise UserError("it works on hidden units, and the model has no two linear or convolutional layers")
    for into, out in pairwise(layers):
        units, read = len(into.weight), out.weight.shape[1]
        if read % units or (isinstance(out, nn.Conv2d) and read != units):
            raise UserError(f"it works on layers that follow one another, and {into} is not read by {out}")
    return list(pairwise(layers))


@contextmanager
def hidden_activations(model: nn.Module) -> Iterator[list[Tensor]]:
    """A list that the one forward pass inside fills: what the units of each hidden layer say, without gradients, as the
    next layer reads it ([batch, units], [batch, units, height, width], or that flattened).

    Raises:
        UserError: behind the pass, where a layer was not called once, or two read the same: they do not follow.
    """
    pairs, said = hidden_layers(model), []
    hooks = [out.register_forward_pre_hook(lambda _, inputs: said.append(inputs[0].detach())) for _, out in pairs]
    try:
        yield said
    finally:
        for hook in hooks:
            hook.remove()
    if len(said) != len(pairs) or len({h.data_ptr() for h in said}) < len(said):
        raise UserError("it works on layers that follow one another, each called once: this model's do not")
