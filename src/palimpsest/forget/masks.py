"""Which weights may move: gradients over rows to choose them by, masks that name them, and steps that obey.

A mask is a dict, parameter name -> bool tensor that broadcasts to the parameter's shape: True moves, False stays.

    {"lm_head.weight": torch.tensor(True)}            a whole tensor
    {"mlp.down_proj.weight": torch.arange(n) == 3}    its column 3
    {"mlp.down_proj.weight": scores > 0.1}            single weights

A parameter that no mask names stays as it is. An objective obeys by `apply_masks(model, masks)` in its `gradients`:
that keeps the frozen weights, to the bit, under any optimizer of torch without weight decay, clipped or not. Under
weight decay train with `unlearn(..., optimizer=sparing("adamw", weight_decay=0.1))`, or call `spare_idle` on an
optimizer of your own.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce as fold
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers.pytorch_utils import Conv1D

from palimpsest.models.score import Encoded, cross_entropy
from palimpsest.train.optimizers import build_optimizer

Masks = Mapping[str, Bool[Tensor, "..."]]
Loss = Callable[[nn.Module, dict[str, Tensor]], Tensor]  # (model, batch) -> a mean over the batch's rows


def gradients(
    model: nn.Module,
    rows: Encoded,
    *,
    pad_id: int,
    loss: Loss = cross_entropy,
    batch_size: int = 16,
    reduce: Literal["mean", "sum"] = "mean",
) -> dict[str, Float[Tensor, "..."]]:
    """The gradient of a loss over rows, for every trainable parameter by name; in eval mode, the model is left as it
    was.

    Args:
        rows: all of them are used, `batch_size` at a time; how they are cut into batches does not matter.
        loss: of a batch, a mean over its rows.
        reduce: the mean over all rows, or their sum.

    Raises:
        ValueError: if there are no rows, nothing trains, or the loss is not a finite number.

    >>> from palimpsest.models import causal_lm
    >>> found = gradients(causal_lm(10, d_model=16, n_layers=1), Encoded([[1, 5, 6, 2]], [2]), pad_id=0)
    >>> found["model.layers.0.mlp.down_proj.weight"].shape
    torch.Size([16, 48])
    """
    if reduce not in ("mean", "sum"):
        raise ValueError(f"reduce must be 'mean' or 'sum', got {reduce!r}")
    n = len(rows)
    with fresh_gradients(model) as parameters:
        for start in range(0, n, batch_size):
            chosen = range(start, min(start + batch_size, n))
            share = len(chosen) if reduce == "sum" else len(chosen) / n
            _backward(model, rows, chosen, pad_id, loss, share)
        return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in parameters.items()}


def squared_gradients(
    model: nn.Module, rows: Encoded, *, pad_id: int, loss: Loss = cross_entropy
) -> dict[str, Float[Tensor, "..."]]:
    """The mean over rows of the square of each row's own gradient: the diagonal of the empirical Fisher matrix, where
    the loss is a negative log-likelihood. One backward pass a row. Arguments and errors as for `gradients`."""
    with fresh_gradients(model) as parameters:
        found = {name: torch.zeros_like(p, requires_grad=False) for name, p in parameters.items()}
        for row in range(len(rows)):
            _backward(model, rows, [row], pad_id, loss, 1.0)
            for name, p in parameters.items():
                if p.grad is not None:
                    found[name].addcmul_(p.grad, p.grad, value=1 / len(rows))
                    p.grad = None
        return found


@contextmanager
def fresh_gradients(model: nn.Module) -> Iterator[dict[str, nn.Parameter]]:
    """The trainable parameters by name, in eval mode and without gradients; afterwards modes and gradients are what
    they were."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise ValueError("the model has no trainable parameter: set requires_grad on those to look at")
    grads, modes = {name: p.grad for name, p in parameters.items()}, {m: m.training for m in model.modules()}
    try:
        model.eval()
        for p in parameters.values():
            p.grad = None
        with torch.enable_grad():
            yield parameters
    finally:
        for name, p in parameters.items():
            p.grad = grads[name]
        for module, training in modes.items():
            module.training = training


def _backward(model: nn.Module, rows: Encoded, chosen: Iterable[int], pad_id: int, loss: Loss, share: float) -> None:
    device = next(model.parameters()).device
    batch = {name: value.to(device) for name, value in rows.batch(list(chosen), pad_id).items()}
    value = loss(model, batch)
    if not value.isfinite():
        first = int(batch["index"][0])
        raise ValueError(f"the loss of row {first} and those of its batch is {value.item()}: no gradient to go by")
    (share * value).backward()


@torch.no_grad()
def input_norms(
    model: nn.Module, rows: Encoded, *, pad_id: int, batch_size: int = 16
) -> dict[str, Float[Tensor, " inputs"]]:
    """|x_j|, the Euclidean norm over all tokens of the rows of every input j of every linear layer, by the name of the
    layer's weight; padding does not count, and the model is run in eval mode."""
    names = {p: name for name, p in model.named_parameters()}
    layers = {names[m.weight]: m for m in model.modules() if isinstance(m, nn.Linear | Conv1D) and m.weight in names}
    squares: dict[str, Tensor] = {}
    real: Tensor | None = None

    def watch(name: str) -> Callable:
        def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach().double() * real[..., None]
            squares[name] = squares.get(name, 0) + x.square().flatten(0, -2).sum(0)

        return add

    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    device = next(model.parameters()).device
    try:
        with fresh_gradients(model):
            for start in range(0, len(rows), batch_size):
                batch = rows.batch(range(start, min(start + batch_size, len(rows))), pad_id)
                real = batch["attention_mask"].to(device)
                model(input_ids=batch["input_ids"].to(device), attention_mask=real)
    finally:
        for handle in handles:
            handle.remove()
    return {name: square.sqrt().to(layers[name].weight.dtype) for name, square in squares.items()}


def kth_largest(values: Iterable[Float[Tensor, "..."]], k: int) -> float:
    """The k-th largest of all numbers in several tensors, which must be at least 0: without sorting or copying them.

    Floats that are not negative are ordered like their bits: the answer is found by halving the range of bit patterns
    and counting, in 63 passes.

    Raises:
        ValueError: for a negative or missing (NaN) or infinite number, or if there are fewer than k.

    >>> kth_largest([torch.tensor([3.0, 1.0]), torch.tensor([[2.0]])], 2)
    2.0
    """
    values = [v.detach() for v in values]
    total = sum(v.numel() for v in values)
    if not 1 <= k <= total:
        raise ValueError(f"k must lie between 1 and {total}, how many numbers there are, got {k}")
    if any(not (v.isfinite().all() and (v >= 0).all()) for v in values if v.numel()):
        raise ValueError("scores must be finite and at least 0: take absolute values, and look for NaN")

    def number(bits: int) -> float:
        return struct.unpack("<d", struct.pack("<q", bits))[0]

    low, high = 0, struct.unpack("<q", struct.pack("<d", max(v.max().item() for v in values if v.numel())))[0]
    while low < high:
        middle = (low + high + 1) // 2
        if sum(int((v >= number(middle)).sum()) for v in values) >= k:
            low = middle
        else:
            high = middle - 1
    # The largest double that rounds to the answer in the tensors' own type was found: round it.
    widest = fold(torch.promote_types, (v.dtype for v in values))
    return torch.tensor(number(low), dtype=widest).item()


def top_fraction(scores: Mapping[str, Float[Tensor, "..."]], keep: float) -> dict[str, Bool[Tensor, "..."]]:
    """The masks of the highest scores among all parameters together: exactly round(keep * weights) of them move.

    Equal scores at the threshold: the first in the order of the dict.

    Raises:
        ValueError: if `keep` is not in (0, 1], or a score is negative or not finite.

    >>> top_fraction({"a": torch.tensor([1.0, 4.0]), "b": torch.tensor([2.0, 3.0])}, 0.5)
    {'a': tensor([False,  True]), 'b': tensor([False,  True])}
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be a share in (0, 1], got {keep}")
    k = max(1, round(keep * sum(s.numel() for s in scores.values())))
    least = kth_largest(scores.values(), k)
    left = k - sum(int((s > least).sum()) for s in scores.values())
    masks = {}
    for name, s in scores.items():
        tied = s == least
        if (n := int(tied.sum())) > left:
            tied &= (tied.flatten().cumsum(0) <= left).view_as(tied)
        left -= min(n, left)
        masks[name] = (s > least) | tied
    return masks


def top_fraction_by_row(scores: Float[Tensor, "rows columns"], keep: float) -> Bool[Tensor, "rows columns"]:
    """The mask of the round(keep * columns) highest scores of every row, at least one.

    >>> top_fraction_by_row(torch.tensor([[1.0, 4.0], [9.0, 8.0]]), 0.5)
    tensor([[False,  True],
            [ True, False]])
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep must be a share in (0, 1], got {keep}")
    best = scores.topk(max(1, round(keep * scores.shape[1])), dim=1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, best, True)


def apply_masks(target: nn.Module | Mapping[str, Tensor], masks: Masks) -> None:
    """Sets to 0, in place, every gradient that the masks do not let through.

    Args:
        target: a model, whose parameters' `.grad` are meant, or gradients by name.
        masks: see the module; a parameter that none names is frozen.

    Raises:
        ValueError: if a mask is not bool, does not broadcast to its gradient, or names no parameter.

    >>> grads = {"w": torch.ones(2, 3), "b": torch.ones(2)}
    >>> apply_masks(grads, {"w": torch.arange(3) == 1})
    >>> grads["w"], grads["b"]
    (tensor([[0., 1., 0.],
            [0., 1., 0.]]), tensor([0., 0.]))
    """
    named = target.named_parameters() if isinstance(target, nn.Module) else target.items()
    grads = {name: value.grad if isinstance(target, nn.Module) else value for name, value in named}
    if unknown := set(masks) - set(grads):
        raise ValueError(f"a mask names {min(unknown)!r}, and there is no such parameter: take named_parameters' names")
    for name, grad in grads.items():
        if grad is None:
            continue
        mask = masks.get(name)
        if mask is None:
            grad.zero_()
            continue
        if mask.dtype != torch.bool or torch.broadcast_shapes(mask.shape, grad.shape) != grad.shape:
            raise ValueError(
                f"the mask of {name!r} must be bool and broadcast to {list(grad.shape)},"
                f" got {mask.dtype} of shape {list(mask.shape)}"
            )
        grad.masked_fill_(~mask.to(grad.device), 0)


def spare_idle(optimizer: Optimizer) -> Optimizer:
    """Makes an optimizer leave alone, to the bit, every weight whose gradient has been 0 at all of its steps so far.

    A gradient of 0 does not move such a weight, but weight decay does: it would shrink what a mask has frozen. With
    this no optimizer of torch touches it. (A weight that is not frozen and had no gradient yet, such as the embedding
    of a word that no row has, is not decayed either.) What has moved is kept in the optimizer's state under "moved",
    one bool a weight, and so comes back with a checkpoint.

    >>> weight = nn.Parameter(torch.ones(2))
    >>> optimizer = spare_idle(torch.optim.SGD([weight], lr=0.1, weight_decay=1.0))
    >>> weight.grad = torch.tensor([0.0, 1.0])
    >>> optimizer.step(); weight.data
    tensor([1.0000, 0.8000])
    """
    idle: list[tuple[Tensor, Tensor, Tensor]] = []

    def hold(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        idle.clear()
        for p in (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
            moved = p.grad != 0
            if "moved" in optimizer.state[p]:
                moved |= optimizer.state[p]["moved"].bool()  # torch loads a state in the parameter's dtype
            idle.append((p, moved, p.detach()[~moved]))

    def put_back(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for p, moved, values in idle:
            p.detach()[~moved] = values
            optimizer.state[p]["moved"] = moved  # after the step: before it, an empty state makes Adam set up its own
        idle.clear()

    optimizer.register_step_pre_hook(hold)
    optimizer.register_step_post_hook(put_back)
    return optimizer


def sparing(
    optimizer: str | Callable[[list[nn.Parameter], float], Optimizer] = "adamw",
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
) -> Callable[[list[nn.Parameter], float], Optimizer]:
    """An optimizer for `unlearn(..., optimizer=sparing(...))` whose weight decay spares what masks freeze: one of
    `palimpsest.train.fit`'s, or a callable of your own (which then sets its decay itself), with `spare_idle`.

    >>> build = sparing("adamw", weight_decay=0.1)
    >>> type(build([nn.Parameter(torch.ones(2))], 1e-3)).__name__
    'AdamW'
    """

    def build(parameters: list[nn.Parameter], lr: float) -> Optimizer:
        return spare_idle(build_optimizer(optimizer, parameters, lr, weight_decay, momentum))

    return build
