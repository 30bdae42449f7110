"""The arguments of a run: checked at the door, and described, so that a checkpoint knows whose it is."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from palimpsest.errors import UserError
from palimpsest.train.optimizers import FOLLOWS_THE_LOSS, check_names

DECISIVE = (
    "steps", "lr", "optimizer", "weight_decay", "momentum", "schedule", "warmup", "clip", "accumulate", "precision",
    "seed", "evaluate", "evaluate_every", "stop",
)  # fmt: skip


def check(model: Any, objective: Any, batches: Any, **arguments: Any) -> None:
    """Raise ValueError or TypeError for the first argument of `fit` that cannot be meant."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}, not a torch.nn.Module")
    if isinstance(objective, type):
        raise TypeError(f"objective is the class {objective.__name__}: pass an instance, {objective.__name__}(...)")
    if hasattr(objective, "loss") and not hasattr(objective, "init"):
        raise TypeError(f"the objective {type(objective).__name__} has a loss but no init(model, data): add one")
    if not (hasattr(objective, "loss") or callable(objective)):
        raise TypeError(f"objective is a {type(objective).__name__}: pass an Objective or a function (model, batch)")
    if isinstance(batches, Iterator):
        raise TypeError(
            "batches is an iterator, which runs dry after one pass: pass a list, a DataLoader or a function"
        )
    if _length(batches) == 0:
        raise ValueError("batches is empty: pass at least one batch")
    if not (callable(batches) or hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")):
        raise TypeError(f"batches is a {type(batches).__name__}: pass a list, a DataLoader or a function of the step")

    check_numbers(arguments)
    for name in ("evaluate_every", "checkpoint_every"):
        if arguments[name] is not None:
            _whole_number(name, arguments[name], 1)
            if arguments[needs := name.removesuffix("_every")] is None:
                raise ValueError(f"{name} is given but not {needs}: give both or neither")
    if arguments["stop"] is not None and arguments["evaluate"] is None:
        raise ValueError("stop is given but not evaluate: stop looks at what evaluate returns")


def check_numbers(arguments: dict[str, Any]) -> None:
    """The checks of those arguments of `fit` that are numbers and names, for whoever takes them from a user."""
    for name, least in (("steps", 1), ("accumulate", 1), ("warmup", 0), ("seed", 0)):
        _whole_number(name, arguments[name], least)
    for name, above in (("lr", True), ("clip", True), ("weight_decay", False), ("momentum", False)):
        value = arguments[name]
        if name == "clip" and value is None:
            continue
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise TypeError(f"{name} is {value!r}, not a number")
        if not math.isfinite(value) or value < 0 or (above and value == 0):
            raise ValueError(f"{name}={value!r}: it must be finite and {'above' if above else 'at least'} 0")
    if arguments["precision"] not in ("no", "bf16", "fp16"):
        raise ValueError(f"unknown precision {arguments['precision']!r}: there are 'no', 'bf16', 'fp16'")
    check_names(arguments["optimizer"], arguments["schedule"])
    if arguments["warmup"] > arguments["steps"]:
        raise ValueError(f"warmup={arguments['warmup']} is longer than steps={arguments['steps']}: shorten it")
    if arguments["warmup"] and arguments["schedule"] in FOLLOWS_THE_LOSS:
        raise ValueError(f"warmup={arguments['warmup']}: {arguments['schedule']!r} has no warm-up: leave it out")
    if arguments["momentum"] and arguments["optimizer"] != "sgd":
        raise ValueError(f"momentum={arguments['momentum']} is for optimizer='sgd' only: set it in your own optimizer")
    if arguments["weight_decay"] and callable(arguments["optimizer"]):
        raise ValueError("weight_decay is not passed to an optimizer of your own: set it there")


def _whole_number(name: str, value: Any, least: int) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}, not a whole number")
    if value < least:
        raise ValueError(f"{name}={value}: it must be at least {least}")
    if value >= 2**63:
        raise ValueError(f"{name} is too large: it must be below 2^63, as all whole numbers of torch")


def describe(objective: Any, batches: Any, **arguments: Any) -> dict[str, Any]:
    """Everything that decides the bits of a run, as flat JSON values: numbers, names, digests of tensors."""
    settings = {name: _plain(arguments[name]) for name in DECISIVE}
    settings["objective"] = _plain(type(objective) if hasattr(objective, "loss") else objective)
    settings |= {f"objective.{name}": _plain(value) for name, value in _fields(objective).items()}
    length = _length(batches)
    settings["batches"] = _plain(batches) if length is None else f"{type(batches).__name__} of {length}"
    return settings


def _fields(objective: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(objective):
        return {field.name: getattr(objective, field.name) for field in dataclasses.fields(objective)}
    return vars(objective) if hasattr(objective, "loss") else {}


def _length(batches: Any) -> int | None:
    try:
        return len(batches)
    except TypeError:  # a function, or the DataLoader of an endless stream
        return None


def describe_model(model: nn.Module) -> str:
    """The model's class, size and the digest of its parameters' names, shapes, dtypes and trainability."""
    parameters = [(n, tuple(p.shape), str(p.dtype), p.requires_grad) for n, p in model.named_parameters()]
    numbers = sum(math.prod(shape) for _, shape, _, _ in parameters)
    return f"{type(model).__name__} of {numbers} weights ({_digest(repr(parameters).encode())})"


def check_same(settings: dict[str, Any], stored: dict[str, Any], path: Path) -> None:
    """Raise UserError, naming the first setting that differs, if a checkpoint is of another run."""
    for name in [*settings, *(stored.keys() - settings.keys())]:
        mine, theirs = settings.get(name, "nothing"), stored.get(name, "nothing")
        if mine != theirs:
            raise UserError(
                f"the checkpoint {path} was made with {name}={theirs}, not {name}={mine}: "
                "use the same settings, or another checkpoint folder"
            )


def _plain(value: Any) -> Any:
    """A value that JSON gives back unchanged, the same in every process run."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, Tensor):
        value = value.detach().cpu().float().numpy()
    if isinstance(value, np.ndarray):
        return f"array {value.shape} ({_digest(np.ascontiguousarray(value).tobytes())})"
    if isinstance(value, Mapping):
        return str({str(k): _plain(v) for k, v in value.items()})
    if isinstance(value, (list, tuple)):
        return str([_plain(v) for v in value])
    if isinstance(value, functools.partial):
        return f"{_plain(value.func)} with {_plain(value.args)} {_plain(value.keywords)}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return f"{type(value).__qualname__} {fields}"
    # Without the module: a script is `__main__` when it is run and has a name when it is imported.
    return (value if hasattr(value, "__qualname__") else type(value)).__qualname__


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
