"""Accelerate, set up for one run: device, precision, processes, trackers; and set back afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    broadcast,
    broadcast_object_list,
)
from torch import nn

from palimpsest.models.last_layer import float32_outputs
from palimpsest.train.objective import Terms

SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM, DistributedType.XLA)


@contextmanager
def prepared(
    given: Accelerator | None, precision: str, accumulate: int, tracker: Any, settings: dict
) -> Iterator[Accelerator]:
    """The run's Accelerator: the one given, or our own.

    Accelerate keeps one global state for a whole Python process and refuses a second precision. Our own Accelerator
    therefore lives in a fresh state, and what was there before is put back.
    """
    if given is not None:
        if precision not in ("no", given.mixed_precision):
            raise ValueError(
                f"precision={precision!r} but the accelerator has mixed_precision={given.mixed_precision!r}: "
                "set it there, and leave precision out"
            )
        if tracker is not None:
            raise ValueError("tracker goes with an Accelerator of our own: give yours log_with=... instead")
        before = given.gradient_accumulation_steps, given.ddp_handler, len(given._models), len(given._optimizers)
        given.gradient_accumulation_steps = accumulate
        given.ddp_handler = given.ddp_handler or _ddp()
        try:
            yield _supported(given)
        finally:
            given.gradient_accumulation_steps, given.ddp_handler = before[:2]
            del given._models[before[2] :], given._optimizers[before[3] :]
        return

    kept = [(shared, dict(shared)) for shared in (AcceleratorState._shared_state, GradientState._shared_state)]
    for shared, _ in kept:
        shared.clear()
    accelerator = None
    try:
        accelerator = _own(precision, accumulate, tracker)
        if tracker is not None:
            accelerator.init_trackers("palimpsest", config={k: v for k, v in settings.items() if v is not None})
        yield _supported(accelerator)
    finally:
        for each in accelerator.trackers if accelerator is not None else []:
            each.finish()
        for shared, content in kept:
            shared.clear()
            shared.update(content)


def _own(precision: str, accumulate: int, tracker: Any) -> Accelerator:
    accelerator = Accelerator(
        mixed_precision=precision,
        gradient_accumulation_steps=accumulate,
        cpu=not torch.accelerator.is_available(),  # else, without a GPU, Accelerate forms no group of processes
        log_with=tracker,
        project_dir=".",
        kwargs_handlers=[_ddp()],
    )
    if tracker is not None and not accelerator.log_with:
        raise ValueError(f"tracker={tracker!r} is not installed: pip install it, or pass an Accelerate GeneralTracker")
    return accelerator


def _ddp() -> DistributedDataParallelKwargs:
    # A parameter that some step's loss does not touch is no error with one process, so it is none with several.
    return DistributedDataParallelKwargs(find_unused_parameters=True)


def _supported(accelerator: Accelerator) -> Accelerator:
    if accelerator.distributed_type in SHARDED:
        raise ValueError(
            f"fit trains whole copies of the model (one process, or DDP), not {accelerator.distributed_type.value}: "
            "launch it without that plugin"
        )
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError("precision='fp16' needs a GPU: use 'bf16' or 'no' on the CPU")
    return accelerator


@contextmanager
def replicated(
    accelerator: Accelerator, model: nn.Module, loss_terms: Callable[[nn.Module, Any], Any]
) -> Iterator[nn.Module]:
    """The map from a batch to the named terms, in every process (DDP) and in the precision of the Accelerator.

    Under mixed precision the model's outputs are converted to float32: losses are not computed in 16 bits.
    """
    terms = Terms(model, loss_terms)
    hook = None
    if accelerator.native_amp:
        hook = model.register_forward_hook(float32_outputs)
    try:
        yield accelerator.prepare_model(terms)
    finally:
        terms.model = terms.compute = None  # Accelerate and DDP leave cycles, which would keep the model for a while
        if hook is not None:
            hook.remove()


def of_main_process(accelerator: Accelerator, value: Any) -> Any:
    """The main process's value, in every process."""
    return broadcast_object_list([value])[0] if accelerator.num_processes > 1 else value


def share_buffers(accelerator: Accelerator, model: nn.Module) -> None:
    """Give every process the main process's buffers (running statistics differ: each process saw other rows)."""
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            buffer.copy_(broadcast(buffer))
