"""The optimizer and its learning rate schedule, by name."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

OPTIMIZERS = ("adamw", "adam", "sgd")
FOLLOWS_THE_LOSS = ("reduce_lr_on_plateau", "greedy")  # schedules that are told the loss of each step


def build_optimizer(
    optimizer: str | Callable,
    parameters: list[nn.Parameter],
    lr: float,
    weight_decay: float,
    momentum: float,
    *,
    scaled: bool = False,
) -> Optimizer:
    """`adamw`, `adam` or `sgd` with torch's defaults but no weight decay of its own; or `optimizer(parameters, lr)`."""
    # One kernel for all parameters: on a small model torch's default spends a fifth of a step in the optimizer. Under a
    # gradient scaler the fused kernels skip overflowing steps by themselves, and the schedule would not hear of it.
    fused = not scaled and all(p.device.type in ("cpu", "cuda") and p.dtype.is_floating_point for p in parameters)
    if optimizer == "adamw":
        return AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=fused)
    if optimizer == "adam":
        return Adam(parameters, lr=lr, weight_decay=weight_decay, fused=fused)
    if optimizer == "sgd":
        return SGD(parameters, lr=lr, weight_decay=weight_decay, momentum=momentum, fused=fused)
    built = optimizer(parameters, lr)
    if not isinstance(built, Optimizer):
        raise TypeError(
            f"optimizer gave a {type(built).__name__}: it must map (parameters, lr) to a torch.optim.Optimizer"
        )
    return built


def build_schedule(name: str, optimizer: Optimizer, *, warmup: int, steps: int) -> LRScheduler:
    """A schedule of transformers over `steps` updates, the first `warmup` of which rise linearly from 0.

    Those with a setting of their own get: a least learning rate of a tenth of the first (`cosine_with_min_lr`,
    `cosine_warmup_with_min_lr`), a decay over the last tenth of the steps (`warmup_stable_decay`).
    """
    if name == "constant" and not warmup:
        return LambdaLR(optimizer, lambda step: 1.0)  # spares the import, which takes seconds
    from transformers.optimization import get_scheduler

    own = {}
    if name in ("cosine_with_min_lr", "cosine_warmup_with_min_lr"):
        own = {"min_lr_rate": 0.1}
    elif name == "warmup_stable_decay":
        own = {"num_decay_steps": max(1, steps // 10)}
    return get_scheduler(
        "constant_with_warmup" if name == "constant" else name,
        optimizer,
        num_warmup_steps=warmup,
        num_training_steps=steps,
        scheduler_specific_kwargs=own,
    )


def load_optimizer(optimizer: Optimizer, saved: dict) -> None:
    """Load a state as it was saved. torch's own `load_state_dict` rounds it to the dtype of the parameters."""
    optimizer.load_state_dict(saved)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, values in saved["state"].items():
        loaded = optimizer.state[parameters[index]]
        for name, value in values.items():
            if isinstance(value, Tensor) and loaded[name].dtype != value.dtype:
                loaded[name] = value.to(loaded[name].device)


def check_names(optimizer: str | Callable, schedule: str) -> None:
    """Raise ValueError for a name that is not known, with the nearest that is."""
    if not callable(optimizer) and optimizer not in OPTIMIZERS:
        raise ValueError(_unknown("optimizer", optimizer, OPTIMIZERS) + ", or pass callable(parameters, lr)")
    if schedule != "constant":
        from transformers.trainer_utils import SchedulerType

        names = [kind.value for kind in SchedulerType]
        if schedule not in names:
            raise ValueError(_unknown("schedule", schedule, names))


def _unknown(what: str, name: object, names: list[str] | tuple[str, ...]) -> str:
    near = get_close_matches(str(name).lower(), names, n=1, cutoff=0.4)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {what} {name!r}: {meant}there are {', '.join(names)}"
