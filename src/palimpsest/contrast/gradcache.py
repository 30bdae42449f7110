"""Batches larger than memory, with the full batch's gradient (Gao, Zhang, Han and Callan, 2021, arXiv 2101.06983).

A contrastive loss compares all rows of a batch, so that gradients of smaller batches do not add up to it. But encoder
and loss meet only in the representations R, which are small:

    dL/dtheta = sum over chunks of (dL/dR_chunk) (dR_chunk/dtheta)

Representations are computed without a graph, chunk by chunk; the loss of all of them gives the cache g = dL/dR; then
every chunk is encoded once more, from the same random state, and sum(R_chunk * g_chunk) is differentiated. One chunk's
activations live at a time, at the price of a second forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from palimpsest.contrast.gradcache_chunks import (
    Autocast,
    RandomState,
    Rows,
    chunk_sizes,
    chunks_of,
    encode_again,
    modules_of,
    one_each,
    refuse_static_graphs,
    represented,
    scalar,
    scaled,
    warn_of_mixing,
)
from palimpsest.lazy import front_door


class GradCache:
    """One training step whose batch goes through the encoders in chunks.

    Args:
        encoders: modules from rows to representations [rows, d], one for each input of a step; a single module serves
            all inputs. Wrapped in DDP (or whatever has `no_sync`), only a module's last chunk of a step synchronises.
        chunk: rows a chunk; one number, or one for each input.
        loss_fn: from the representations of all inputs to a scalar; any loss of a batch. Parameters of its own get
            their gradient too (under DDP they are yours to average).
        scaler: a `torch.amp.GradScaler` for float16: the gradients are scaled by it, the loss that is returned is not.

    The result is the full batch's gradient, dropout included: the second pass draws what the first drew, on the CPU
    and on CUDA devices. Layers that mix the rows of a batch see chunks instead; batch norm in train mode is warned of
    (its running statistics also move twice). Gradients do not reach the inputs, only parameters.

    Raises:
        ValueError, TypeError: a chunk below 1, something that is no module, inputs that do not fit.

    >>> from palimpsest.contrast.info_nce import nt_xent
    >>> encoder, first, second = nn.Linear(4, 3), torch.randn(8, 4), torch.randn(8, 4)
    >>> nt_xent(encoder(first), encoder(second)).backward()
    >>> whole, encoder.weight.grad = encoder.weight.grad, None
    >>> loss = GradCache(encoder, chunk=3, loss_fn=nt_xent).step(first, second)
    >>> torch.allclose(encoder.weight.grad, whole, atol=1e-6)
    True
    """

    def __init__(
        self,
        encoders: nn.Module | Sequence[nn.Module],
        chunk: int | Sequence[int],
        loss_fn: Callable[..., Tensor],
        *,
        scaler: Any = None,
    ) -> None:
        self.encoders, self.chunk = modules_of(encoders), chunk
        self.loss_fn, self.scaler = loss_fn, scaler
        chunk_sizes(chunk, len(chunk) if isinstance(chunk, Sequence) else 1)

    def step(self, *inputs: Rows, **options: Any) -> Float[Tensor, ""]:
        """Adds the gradient of the loss of these inputs to `.grad`, and returns the loss, detached.

        Args:
            inputs: one for each encoder: a tensor, or a tuple or mapping of arguments, whose tensors have the rows as
                their first dimension (tensors without dimensions, and what is no tensor, go to every chunk as it is).
            options: handed to the loss.

        >>> cached = GradCache(nn.Embedding(9, 3), 2, lambda a, scale: scale * a.sum())
        >>> cached.step({"input": torch.arange(5)}, scale=0.0).abs()
        tensor(0.)
        """
        with torch.enable_grad():
            loss = scalar(self.loss_fn(*self.represent(*inputs), **options))
        if not loss.requires_grad:
            raise ValueError("loss_fn's value does not depend on the representations: there is no gradient")
        scaled(loss, self.scaler).backward()
        return loss.detach()

    def represent(self, *inputs: Rows) -> tuple[Float[Tensor, "rows *d"], ...]:
        """The representations of each input. Differentiating what is made of them, once, encodes the inputs again and
        adds to the parameters' `.grad`, as `step` does: for a trainer that calls `backward` itself.

        >>> encoder, x = nn.Linear(4, 3), torch.randn(8, 4)
        >>> a, b = GradCache(encoder, 3, nn.Identity()).represent(x, x + 1)
        >>> (a * b).sum().backward()
        >>> encoder.weight.grad.shape
        torch.Size([3, 4])
        """
        encoders = one_each(self.encoders, inputs)
        chunks = [list(chunks_of(x, n)) for x, n in zip(inputs, chunk_sizes(self.chunk, len(inputs)), strict=True)]
        warn_of_mixing(encoders)
        refuse_static_graphs(encoders)
        # No input of the function is a tensor with a gradient: the first argument stands for the parameters.
        found = _Representations.apply(torch.zeros((), requires_grad=True), encoders, chunks)
        # Autocast keeps copies of the weights; those of a pass without a graph would cut the next one's.
        torch.clear_autocast_cache()
        return found


class _Representations(torch.autograd.Function):
    """Of every input, chunk by chunk; the backward pass encodes them again."""

    @staticmethod
    def forward(ctx, parameters, encoders, chunks):
        ctx.encoders, ctx.chunks, ctx.states, found = encoders, chunks, [], []
        ctx.set_materialize_grads(False)
        for encoder, parts in zip(encoders, chunks, strict=True):
            ctx.states.append([])
            reps = []
            for part in parts:
                ctx.states[-1].append(RandomState(encoder, part))
                reps.append(represented(encoder, part))
            found.append(torch.cat(reps))
        ctx.autocast = Autocast(found)
        return tuple(found)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        # Inputs that the loss takes no gradient of are not encoded again: the last one that is synchronises.
        last = {id(encoder): place for place, encoder in enumerate(ctx.encoders) if gradients[place] is not None}
        with ctx.autocast.again():
            for place, (encoder, parts, gradient) in enumerate(zip(ctx.encoders, ctx.chunks, gradients, strict=True)):
                if gradient is not None and any(parameter.requires_grad for parameter in encoder.parameters()):
                    encode_again(encoder, parts, ctx.states[place], gradient, last[id(encoder)] == place)
        return None, None, None


_MOVED = {"contrast.gradcache_measures": ("naive_accumulation",)}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
