"""Batches larger than memory, with the full batch's gradient (Gao, Zhang, Han and Callan, 2021, arXiv 2101.06983).

A contrastive loss compares all rows of a batch, so that gradients of smaller batches do not add up to it. But encoder
and loss meet only in the representations R, which are small:

    dL/dtheta = sum over chunks of (dL/dR_chunk) (dR_chunk/dtheta)

Representations are computed without a graph, chunk by chunk; the loss of all of them gives the cache g = dL/dR; then
every chunk is encoded once more, from the same random state, and sum(R_chunk * g_chunk) is differentiated. One chunk's
activations live at a time, at the price of a second forward pass.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# What an encoder is called with: encoder(x), encoder(*x) or encoder(**x).
Rows = Tensor | tuple | Mapping[str, Any]


class GradCache:
    """One training step whose batch goes through the encoders in chunks.

    Args:
        encoders: modules from rows to representations [rows, d], one for each input of a step; a single module serves
            all inputs. Wrapped in DDP (or whatever has `no_sync`), only a module's last chunk of a step synchronises.
        chunk: rows a chunk; one number, or one for each input.
        loss_fn: from the representations of all inputs to a scalar; any loss of a batch. Parameters of its own get
            their gradient too (under DDP they are yours to average).
        scaler: a `torch.amp.GradScaler` for float16: the gradients are scaled by it, the loss that is returned is not.

    `step` goes forward and backward; `represent` gives representations for a loss that is differentiated elsewhere.

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
        self.encoders, self.chunk = _encoders(encoders), chunk
        self.loss_fn, self.scaler = loss_fn, scaler
        _chunks_of(chunk, len(chunk) if isinstance(chunk, Sequence) else 1)

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
            loss = _scalar(self.loss_fn(*self.represent(*inputs), **options))
        if not loss.requires_grad:
            raise ValueError("loss_fn's value does not depend on the representations: there is no gradient")
        _scaled(loss, self.scaler).backward()
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
        encoders = _one_each(self.encoders, inputs)
        chunks = [list(_chunks(x, n)) for x, n in zip(inputs, _chunks_of(self.chunk, len(inputs)), strict=True)]
        _warn_of_mixing(encoders)
        for encoder in encoders:
            if getattr(encoder, "static_graph", False):
                raise ValueError(
                    "GradCache runs a module several times a step, which DDP's static_graph=True rules out: leave"
                    " static_graph out"
                )
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
                ctx.states[-1].append(_RandomState(encoder, part))
                reps.append(_represent(encoder, part))
            found.append(torch.cat(reps))
        kinds = {"cpu", *(rep.device.type for rep in found)}
        ctx.autocast = [(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)) for kind in kinds]
        return tuple(found)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        # Inputs that the loss takes no gradient of are not encoded again: the last one that is synchronises.
        last = {id(encoder): place for place, encoder in enumerate(ctx.encoders) if gradients[place] is not None}
        with ExitStack() as stack:
            for kind, dtype, enabled in ctx.autocast:  # trainers differentiate outside of their autocast
                stack.enter_context(torch.autocast(kind, dtype, enabled))
            for place, (encoder, parts, gradient) in enumerate(zip(ctx.encoders, ctx.chunks, gradients, strict=True)):
                if gradient is None or not any(parameter.requires_grad for parameter in encoder.parameters()):
                    continue
                start = 0
                for number, part in enumerate(parts):
                    final = number == len(parts) - 1 and last[id(encoder)] == place
                    with _synchronised([encoder], final), ctx.states[place][number].replayed(), torch.enable_grad():
                        rep = _represent(encoder, part)
                        if rep.requires_grad:  # else no trainable parameter is in use
                            torch.autograd.backward(rep, gradient[start : start + len(rep)])
                    start += len(rep)
        return None, None, None


def naive_accumulation(
    encoders: nn.Module | Sequence[nn.Module],
    chunk: int,
    loss_fn: Callable[..., Tensor],
    *inputs: Rows,
    scaler: Any = None,
) -> Float[Tensor, ""]:
    """What gradient accumulation does instead: every chunk is a small batch, whose negatives are the chunk's own.

    The weighted mean of the chunks' losses, by rows, is differentiated into `.grad`, and returned detached. All inputs
    need equally many rows, and what is left for the last chunk must be enough for the loss. The baseline that
    `GradCache` is compared with; same memory, another loss.

    >>> encoder = nn.Linear(4, 3)
    >>> loss = naive_accumulation(encoder, 2, lambda a: a.square().mean(), torch.randn(6, 4))
    >>> encoder.weight.grad.shape
    torch.Size([3, 4])
    """
    modules = _one_each(_encoders(encoders), inputs)
    sizes = [_rows(x) for x in inputs]
    if len(set(sizes)) > 1:
        raise ValueError(f"inputs must have equally many rows, got {sizes}")
    _warn_of_mixing(modules)
    parts = list(zip(*(_chunks(x, *_chunks_of(chunk, 1)) for x in inputs), strict=True))
    total = torch.zeros(())
    for number, together in enumerate(parts):
        share = _rows(together[0]) / sizes[0]
        wrapped = {id(module): module for module in modules}.values()
        with _synchronised(wrapped, number == len(parts) - 1), torch.enable_grad():
            reps = [_represent(module, part) for module, part in zip(modules, together, strict=True)]
            loss = _scalar(loss_fn(*reps)) * share
            _scaled(loss, scaler).backward()
        total = total.to(loss.device) + loss.detach()
    return total


class _RandomState:
    """The generators' states before a chunk: the CPU's, and those of the CUDA devices that it uses."""

    def __init__(self, encoder: nn.Module, part: Rows) -> None:
        used = [*_tensors(part), *encoder.parameters()]
        self.devices = sorted({tensor.get_device() for tensor in used if tensor.is_cuda})
        self.cpu = torch.get_rng_state()
        self.cuda = [torch.cuda.get_rng_state(device) for device in self.devices]

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Within, the generators are as they were; afterwards, as they are now."""
        with torch.random.fork_rng(devices=self.devices):
            torch.set_rng_state(self.cpu)
            for device, state in zip(self.devices, self.cuda, strict=True):
                torch.cuda.set_rng_state(state, device)
            yield


def _encoders(encoders: nn.Module | Sequence[nn.Module]) -> list[nn.Module]:
    found = [encoders] if isinstance(encoders, nn.Module) else list(encoders)
    for encoder in found:
        if not isinstance(encoder, nn.Module):
            raise TypeError(f"encoders must be modules, got {type(encoder).__name__}")
    if not found:
        raise ValueError("there is no encoder")
    return found


def _one_each(encoders: list[nn.Module], inputs: Sequence[Rows]) -> list[nn.Module]:
    if not inputs:
        raise ValueError("a step needs an input")
    if len(encoders) == 1:
        return encoders * len(inputs)
    if len(encoders) != len(inputs):
        raise ValueError(f"there are {len(encoders)} encoders and {len(inputs)} inputs")
    return encoders


def _chunks_of(chunk: int | Sequence[int], inputs: int) -> list[int]:
    sizes = list(chunk) if isinstance(chunk, Sequence) else [chunk] * inputs
    if len(sizes) != inputs:
        raise ValueError(f"there are {len(sizes)} chunk sizes and {inputs} inputs")
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"chunk must be a whole number of at least 1, got {size!r}")
    return sizes


def _values(x: Rows) -> list[Any]:
    return list(x.values()) if isinstance(x, Mapping) else list(x) if isinstance(x, tuple) else [x]


def _tensors(x: Rows) -> list[Tensor]:
    return [value for value in _values(x) if isinstance(value, Tensor) and value.ndim]


def _rows(x: Rows) -> int:
    if not isinstance(x, (Tensor, tuple, Mapping)):
        raise TypeError(f"an input must be a tensor, or a tuple or mapping of tensors, got {type(x).__name__}")
    sizes = [len(tensor) for tensor in _tensors(x)]
    if not sizes or len(set(sizes)) > 1 or not sizes[0]:
        raise ValueError(f"an input's tensors must have equally many rows, at least one, got {sizes}")
    return sizes[0]


def _chunks(x: Rows, size: int) -> Iterator[Rows]:
    def rows(value: Any, part: slice) -> Any:
        return value[part] if isinstance(value, Tensor) and value.ndim else value

    for start in range(0, _rows(x), size):
        part = slice(start, start + size)
        if isinstance(x, Mapping):
            yield {name: rows(value, part) for name, value in x.items()}
        else:
            yield tuple(rows(value, part) for value in x) if isinstance(x, tuple) else rows(x, part)


def _represent(encoder: nn.Module, part: Rows) -> Tensor:
    arguments = part if isinstance(part, tuple) else () if isinstance(part, Mapping) else (part,)
    rep = encoder(*arguments, **(part if isinstance(part, Mapping) else {}))
    if not isinstance(rep, Tensor):
        raise TypeError(f"an encoder must give a tensor [rows, ...], got {type(rep).__name__}: wrap it in a module")
    if not rep.ndim or len(rep) != _rows(part):
        raise ValueError(f"an encoder must give a row for each of {_rows(part)}, got {list(rep.shape)}")
    return rep


def _scalar(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise ValueError(f"loss_fn must give a scalar, got {list(loss.shape) if isinstance(loss, Tensor) else loss!r}")
    return loss.reshape(())


def _scaled(loss: Tensor, scaler: Any) -> Tensor:
    return loss if scaler is None else scaler.scale(loss)


@contextmanager
def _synchronised(encoders: Iterable[nn.Module], now: bool) -> Iterator[None]:
    """Lets DDP average gradients in this backward pass, or not yet."""
    with ExitStack() as stack:
        for encoder in encoders:
            if not now and hasattr(encoder, "no_sync"):
                stack.enter_context(encoder.no_sync())
        yield


def _warn_of_mixing(encoders: Sequence[nn.Module]) -> None:
    for encoder in encoders:
        for name, module in encoder.named_modules():
            batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
            if batch_norm and (module.training or module.running_mean is None):
                shown = name or type(module).__name__
                warnings.warn(f"{shown} is batch norm on batch statistics: it sees chunks, not the batch", stacklevel=3)
                return
