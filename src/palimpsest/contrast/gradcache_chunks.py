"""A batch that goes through encoders in chunks: its rows, what is drawn at random on the way, and when DDP averages."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# What an encoder is called with: encoder(x), encoder(*x) or encoder(**x).
Rows = Tensor | tuple | Mapping[str, Any]


class RandomState:
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


class Autocast:
    """Autocast as it is now, on the CPU and on the kinds of device of some tensors: trainers differentiate outside of
    theirs."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        kinds = {"cpu", *(tensor.device.type for tensor in tensors)}
        self.kinds = [(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)) for kind in kinds]

    @contextmanager
    def again(self) -> Iterator[None]:
        with ExitStack() as stack:
            for kind, dtype, enabled in self.kinds:
                stack.enter_context(torch.autocast(kind, dtype, enabled))
            yield


def modules_of(encoders: nn.Module | Sequence[nn.Module]) -> list[nn.Module]:
    """One module or several, as a list; at least one."""
    found = [encoders] if isinstance(encoders, nn.Module) else list(encoders)
    for encoder in found:
        if not isinstance(encoder, nn.Module):
            raise TypeError(f"encoders must be modules, got {type(encoder).__name__}")
    if not found:
        raise ValueError("there is no encoder")
    return found


def one_each(encoders: list[nn.Module], inputs: Sequence[Rows]) -> list[nn.Module]:
    """A module for each input."""
    if not inputs:
        raise ValueError("a step needs an input")
    if len(encoders) == 1:
        return encoders * len(inputs)
    if len(encoders) != len(inputs):
        raise ValueError(f"there are {len(encoders)} encoders and {len(inputs)} inputs")
    return encoders


def chunk_sizes(chunk: int | Sequence[int], inputs: int) -> list[int]:
    """A number of rows for each input."""
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


def rows_of(x: Rows) -> int:
    """How many rows an input has, which all of its tensors must agree on."""
    if not isinstance(x, (Tensor, tuple, Mapping)):
        raise TypeError(f"an input must be a tensor, or a tuple or mapping of tensors, got {type(x).__name__}")
    sizes = [len(tensor) for tensor in _tensors(x)]
    if not sizes or len(set(sizes)) > 1 or not sizes[0]:
        raise ValueError(f"an input's tensors must have equally many rows, at least one, got {sizes}")
    return sizes[0]


def chunks_of(x: Rows, size: int) -> Iterator[Rows]:
    """An input in pieces of so many rows."""

    def rows(value: Any, part: slice) -> Any:
        return value[part] if isinstance(value, Tensor) and value.ndim else value

    for start in range(0, rows_of(x), size):
        part = slice(start, start + size)
        if isinstance(x, Mapping):
            yield {name: rows(value, part) for name, value in x.items()}
        else:
            yield tuple(rows(value, part) for value in x) if isinstance(x, tuple) else rows(x, part)


def represented(encoder: nn.Module, part: Rows) -> Tensor:
    """What a module makes of a piece, a row for each of its own."""
    arguments = part if isinstance(part, tuple) else () if isinstance(part, Mapping) else (part,)
    rep = encoder(*arguments, **(part if isinstance(part, Mapping) else {}))
    if not isinstance(rep, Tensor):
        raise TypeError(f"an encoder must give a tensor [rows, ...], got {type(rep).__name__}: wrap it in a module")
    if not rep.ndim or len(rep) != rows_of(part):
        raise ValueError(f"an encoder must give a row for each of {rows_of(part)}, got {list(rep.shape)}")
    return rep


def encode_again(
    encoder: nn.Module, parts: Sequence[Rows], states: Sequence[RandomState], gradient: Tensor, synchronise: bool
) -> None:
    """Differentiates a module's pieces, each from the random state in which it was first encoded; DDP averages with the
    last of them, if at all."""
    start = 0
    for number, (part, state) in enumerate(zip(parts, states, strict=True)):
        final = synchronise and number == len(parts) - 1
        with synchronised([encoder], final), state.replayed(), torch.enable_grad():
            rep = represented(encoder, part)
            if rep.requires_grad:  # else no trainable parameter is in use
                torch.autograd.backward(rep, gradient[start : start + len(rep)])
        start += len(rep)


def scalar(loss: Any) -> Tensor:
    """A loss that has one element, without dimensions."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise ValueError(f"loss_fn must give a scalar, got {list(loss.shape) if isinstance(loss, Tensor) else loss!r}")
    return loss.reshape(())


def scaled(loss: Tensor, scaler: Any) -> Tensor:
    return loss if scaler is None else scaler.scale(loss)


@contextmanager
def synchronised(encoders: Iterable[nn.Module], now: bool) -> Iterator[None]:
    """Lets DDP average gradients in this backward pass, or not yet."""
    with ExitStack() as stack:
        for encoder in encoders:
            if not now and hasattr(encoder, "no_sync"):
                stack.enter_context(encoder.no_sync())
        yield


def refuse_static_graphs(encoders: Sequence[nn.Module]) -> None:
    for encoder in encoders:
        if getattr(encoder, "static_graph", False):
            raise ValueError(
                "GradCache runs a module several times a step, which DDP's static_graph=True rules out: leave"
                " static_graph out"
            )


def warn_of_mixing(encoders: Sequence[nn.Module]) -> None:
    """Of batch norm on batch statistics, which sees chunks."""
    for encoder in encoders:
        for name, module in encoder.named_modules():
            batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
            if batch_norm and (module.training or module.running_mean is None):
                shown = name or type(module).__name__
                warnings.warn(f"{shown} is batch norm on batch statistics: it sees chunks, not the batch", stacklevel=3)
                return
