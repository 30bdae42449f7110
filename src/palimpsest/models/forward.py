"""What a causal language model takes: its context, its vocabulary, its arguments, its device and its mode."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PretrainedConfig


def by_length(rows: list[list[int]], batch_size: int) -> Iterator[list[int]]:
    """Batches of row numbers, rows of similar length together."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    return (order[i : i + batch_size] for i in range(0, len(order), batch_size))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No gradients and evaluation mode; afterwards every module has its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def check_vocabulary(model: nn.Module, input_ids: Int[Tensor, "batch tokens"]) -> None:
    """A token that the embedding lacks is an obscure error on a CPU and kills the process's CUDA context on a GPU."""
    size = config_of(model).vocab_size
    low, high = (int(bound) for bound in torch.aminmax(input_ids))
    if low < 0 or high >= size:
        raise ValueError(
            f"token id {low if low < 0 else high} is outside the model's vocabulary of {size} tokens:"
            " use the tokenizer that belongs to the model"
        )


def context_length(model: nn.Module) -> int | None:
    """How many positions the model was made for, whether it has a table of them or turns them (rotary); None where it
    names no number, as models with a running state do.

    A rotary model computes any position, but what it says beyond those it was made for tells nothing. Where its
    positions are stretched by a factor, they reach that much further.

    >>> from palimpsest.models import causal_lm
    >>> context_length(causal_lm(10, d_model=16, n_heads=2, max_length=64))
    64
    """
    config = config_of(model)
    length = getattr(config, "max_position_embeddings", None)
    if length is None or length < 1 or getattr(config, "alibi", False):  # XLNet says -1
        return None
    rope = getattr(config, "rope_parameters", None) or {}
    parts = (rope, *(value for value in rope.values() if isinstance(value, dict)))  # some have one a kind of layer
    stretched = [(part.get("original_max_position_embeddings") or length, part.get("factor") or 1) for part in parts]
    return max(length, *(int(before * factor) for before, factor in stretched))


def config_of(model: nn.Module) -> PretrainedConfig:
    """The text part's configuration."""
    # Wrappers for several processes have no config; the model inside does.
    return getattr(model, "module", model).config.get_text_config()


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter is."""
    return next(model.parameters()).device


def arguments(model: nn.Module) -> frozenset[str]:
    """The names of what the model's `forward` takes."""
    inner = getattr(model, "module", model)
    # An adapter passes on whatever the model under it takes.
    return _forward_arguments(type(inner.get_base_model() if hasattr(inner, "get_base_model") else inner))


@lru_cache
def _forward_arguments(kind: type[nn.Module]) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)
