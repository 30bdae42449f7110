"""Checkpoints: any nest of tensors and plain values, as safetensors and JSON, replaced atomically.

A checkpoint is a folder `step-000000100` in the folder that the user names:

- `model.safetensors`: the model's parameters and buffers under their own names;
- `training.safetensors`: every other tensor (optimizer, objective, random generators);
- `training.json`: everything else, with a reference wherever a tensor belongs;
- `palimpsest.sha256`: the digests of these files, by which damage is noticed.

It is written under another name, flushed to disk and renamed; only then is its predecessor deleted. Whenever the
process dies, the newest folder of that name is whole.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from palimpsest import seals
from palimpsest.errors import UserError

PARTIAL = ".partial"


def latest(folder: Path) -> Path | None:
    """The newest checkpoint in a folder, or None."""
    return max(folder.glob("step-*"), default=None)


def save(folder: Path, name: str, model: nn.Module, facts: dict, training: dict) -> Path:
    """Write the checkpoint `folder/name`, then delete the older ones.

    Args:
        facts: plain JSON.
        training: a nest that `encode` understands.
    """
    tensors: dict[str, Tensor] = {}
    document = json.dumps({**facts, "training": encode(training, tensors, "")})
    partial, final = folder / PARTIAL, folder / name
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        with seals.explained(folder):
            save_file(_apart(_named(model)), partial / "model.safetensors")
            save_file(_apart(tensors), partial / "training.safetensors")
            (partial / "training.json").write_text(document, encoding="utf-8")
            seals.seal(partial)
            for path in (*partial.iterdir(), partial):
                _flush(path)
    except Exception:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    os.replace(partial, final)
    _flush(folder)
    for old in folder.glob("step-*"):
        if old != final:
            shutil.rmtree(old)
    return final


def load(path: Path) -> tuple[dict[str, Tensor], dict, dict[str, Tensor]]:
    """The model's tensors, the JSON, and the tensors that `decode` puts into its `training`."""
    if why := seals.broken(path):
        raise UserError(f"the checkpoint {path} is damaged ({why}): delete it to start again")
    try:
        document = json.loads((path / "training.json").read_text(encoding="utf-8"))
        return load_file(path / "model.safetensors"), document, load_file(path / "training.safetensors")
    except Exception as error:
        raise UserError(f"the checkpoint {path} cannot be read ({error}): delete it to start again") from error


@torch.no_grad()
def fill(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy a checkpoint's tensors into the model's parameters and buffers."""
    mine = _named(model)
    for name in sorted(mine.keys() ^ tensors.keys()):
        where = "the model" if name in mine else "the checkpoint"
        raise UserError(f"the checkpoint {path} is of another model: only {where} has {name!r}; use another folder")
    for name, tensor in tensors.items():
        if mine[name].shape != tensor.shape:
            raise UserError(
                f"the checkpoint {path} is of another model: {name!r} has shape {tuple(tensor.shape)} there and "
                f"{tuple(mine[name].shape)} here; use another folder"
            )
        mine[name].copy_(tensor)


def encode(value: Any, tensors: dict[str, Tensor], path: str) -> Any:
    """A nest as JSON; its tensors are collected under the paths that stand for them.

    Understands None, numbers, strings, lists, tuples, dicts, tensors, NumPy arrays, dataclasses, torch generators, and
    whatever has `state_dict` and `load_state_dict` (modules, optimizers). Raises TypeError for anything else.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Tensor):
        tensors[path] = value.detach()
        return {"tensor": path}
    if isinstance(value, (np.ndarray, np.generic)):
        tensors[path] = torch.from_numpy(np.array(value))
        return {"array": path}
    if type(value) is list:
        return [encode(each, tensors, f"{path}/{i}") for i, each in enumerate(value)]
    if isinstance(value, tuple):
        return {"tuple": [encode(each, tensors, f"{path}/{i}") for i, each in enumerate(value)]}
    if isinstance(value, dict):
        pairs = enumerate(value.items())
        return {"dict": [[encode(k, tensors, ""), encode(v, tensors, f"{path}/{i}:{k}")] for i, (k, v) in pairs]}
    if isinstance(value, torch.Generator):
        return {"generator": encode(value.get_state(), tensors, path)}
    if hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
        return {"stateful": encode(dict(value.state_dict()), tensors, path)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {"fields": encode(fields, tensors, path)}
    raise TypeError(
        f"a {type(value).__name__} at {path or '/'} cannot be kept in a checkpoint: hold the objective's state in "
        "tensors, numbers, strings, lists, dicts, dataclasses or modules, or train without checkpoint"
    )


def decode(structure: Any, tensors: dict[str, Tensor], template: Any = None) -> Any:
    """The nest that `encode` took apart.

    Args:
        template: a nest of the same make, as `init` gave it. Tensors that fit are filled in place (whoever else holds
            them sees the values), and dataclasses, modules and generators, which JSON cannot make, are taken from it.
    """
    if isinstance(structure, list):
        return [decode(each, tensors, t) for each, t in zip(structure, _items(template, structure), strict=True)]
    if not isinstance(structure, dict):
        return structure
    [(kind, content)] = structure.items()
    if kind == "tensor":
        return _placed(tensors[content], template)
    if kind == "array":
        return tensors[content].numpy()[()]
    if kind == "tuple":
        items = [decode(each, tensors, t) for each, t in zip(content, _items(template, content), strict=True)]
        return type(template)(*items) if hasattr(template, "_fields") else tuple(items)
    if kind == "dict":
        keys = [decode(key, tensors) for key, _ in content]
        known = template if isinstance(template, dict) else {}
        values = {k: decode(v, tensors, known.get(k)) for k, (_, v) in zip(keys, content, strict=True)}
        if type(known) is dict:
            return values
        known.clear()
        known.update(values)
        return known
    if kind == "generator":
        template.set_state(decode(content, tensors))
        return template
    if kind == "stateful":
        template.load_state_dict(decode(content, tensors))
        return template
    filled = copy.copy(template)
    for name, value in decode(content, tensors, vars(template)).items():
        object.__setattr__(filled, name, value)
    return filled


def _items(template: Any, items: list) -> list:
    fits = isinstance(template, (list, tuple)) and len(template) == len(items)
    return list(template) if fits else [None] * len(items)


@torch.no_grad()
def _placed(tensor: Tensor, template: Any) -> Tensor:
    if not isinstance(template, Tensor):
        return tensor
    if template.shape == tensor.shape and template.dtype == tensor.dtype:
        return template.copy_(tensor)
    return tensor.to(template.device).requires_grad_(template.requires_grad)


def _named(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, those that `state_dict` leaves out included; a tied tensor once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous on the CPU, none sharing memory with another: what safetensors writes."""
    apart, seen = {}, set()
    for name, tensor in tensors.items():
        moved = tensor.detach().to("cpu").contiguous()
        memory = moved.untyped_storage()
        if memory.data_ptr() in seen or memory.nbytes() != moved.nbytes:
            moved = moved.clone()
        seen.add(moved.untyped_storage().data_ptr())
        apart[name] = moved
    return apart


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
