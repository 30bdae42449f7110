"""Look at a model's activations, and change them, while it runs: forward hooks that come off again.

A module's activation is the tensor that goes in first or comes out first: transformers' blocks give a tensor or a
tuple that begins with one, and both are handled alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from palimpsest.models.score import Encoded

Side = Literal["input", "output"]


def edit_activation(module: nn.Module, edit: Callable[[Tensor], Tensor], side: Side = "output") -> RemovableHandle:
    """Puts `edit(activation)` in the place of a module's activation at every call, until the handle's `remove()`.

    Args:
        module: any module, such as a decoder block (its output is the residual stream) or an MLP's down projection
            (its input are the neurons).
        edit: from the activation to one of the same shape.
        side: whether the module's first input is edited, or its (first) output.

    Raises:
        ValueError: if `side` is neither, and, when the module runs, if the edit changes the shape.

    >>> import torch
    >>> layer = nn.Identity()
    >>> handle = edit_activation(layer, lambda h: 2 * h)
    >>> layer(torch.ones(2)), handle.remove(), layer(torch.ones(2))
    (tensor([2., 2.]), None, tensor([1., 1.]))
    """

    def edited(values: Tensor | tuple) -> Tensor | tuple:
        old = values[0] if isinstance(values, tuple) else values
        new = edit(old)
        if new.shape != old.shape:
            raise ValueError(f"an edit must keep the activation's shape {list(old.shape)}, got {list(new.shape)}")
        return (new, *values[1:]) if isinstance(values, tuple) else new

    if side == "input":
        return module.register_forward_pre_hook(lambda _, inputs: edited(inputs))
    if side == "output":
        return module.register_forward_hook(lambda _, inputs, output: edited(output))
    raise ValueError(f"side must be 'input' or 'output', got {side!r}")


@contextmanager
def capture(modules: Mapping[str, nn.Module], side: Side = "output") -> Iterator[dict[str, Tensor]]:
    """The activations of the last call of each module, by name, filled in as they run; as they are, not detached.

    >>> import torch
    >>> model = nn.Sequential(nn.Identity(), nn.ReLU())
    >>> with capture({"before": model[0], "after": model[1]}) as seen:
    ...     _ = model(torch.tensor([-1.0, 1.0]))
    >>> seen["before"], seen["after"]
    (tensor([-1.,  1.]), tensor([0., 1.]))
    """
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[Tensor], Tensor]:
        def edit(activation: Tensor) -> Tensor:
            seen[name] = activation
            return activation

        return edit

    handles = [edit_activation(module, keep(name), side) for name, module in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def activations(
    model: nn.Module,
    rows: Encoded,
    modules: Mapping[str, nn.Module],
    side: Side = "output",
    *,
    pad_id: int,
    batch_size: int = 64,
) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Runs a language model over rows, batch by batch, in eval mode and without gradients.

    Args:
        modules, side: whose activations, as for `capture`.

    Yields:
        Of each batch, on the model's device: `input_ids`, `attention_mask` and `labels`; and the activations by name.

    >>> from palimpsest.models import causal_lm
    >>> model = causal_lm(10, d_model=16, n_layers=1)
    >>> found = activations(model, Encoded([[1, 5], [1, 6, 7]], [0, 0]), {"head": model.lm_head}, pad_id=0)
    >>> [(batch["attention_mask"].sum().item(), seen["head"].shape) for batch, seen in found]
    [(5, torch.Size([2, 3, 10]))]
    """
    device, training = next(model.parameters()).device, model.training
    model.eval()
    try:
        for start in range(0, len(rows), batch_size):
            chosen = range(start, min(start + batch_size, len(rows)))
            batch = {name: tensor.to(device) for name, tensor in rows.batch(chosen, pad_id).items()}
            inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
            if getattr(model, "takes_prompt_mask", False):
                inputs["prompt_mask"] = (batch["labels"] != -100).cumsum(1) == 0
                inputs["answer_mask"] = ~inputs["prompt_mask"] & batch["attention_mask"].bool()
            with torch.no_grad(), capture(modules, side) as seen:
                model(**inputs, use_cache=False)
            yield batch, {name: _by_row(value, batch["input_ids"]) for name, value in seen.items()}
    finally:
        model.train(training)


def _by_row(activation: Tensor, input_ids: Tensor) -> Tensor:
    """OPT's blocks flatten their rows before the MLP: [batch * tokens, d] becomes [batch, tokens, d]."""
    flat = activation.ndim == 2 and len(activation) == input_ids.numel()
    return activation.view(*input_ids.shape, -1) if flat else activation
