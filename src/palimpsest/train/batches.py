"""Batches in order, from a function or epoch after epoch, with a position to come back to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from accelerate.utils import recursively_apply, send_to_device

from palimpsest.train import randomness


class Feed:
    """The stream of batches that a run consumes.

    A function is called with 0, 1, 2, ...; anything else is iterated over, again and again. To come back to a
    position inside an epoch, the generators are put back to where they were when the epoch began, and the batches
    already consumed are drawn once more and dropped: a DataLoader shuffles as it did, with its own generator or with
    the global one. Its worker processes are started anew each epoch, persistent ones too.

    Args:
        batches: `callable(index) -> batch`, or a re-iterable (DataLoader, list).
        resumable: remember the generators at the start of each epoch.
    """

    def __init__(self, batches: Any, *, resumable: bool) -> None:
        self.batches, self.resumable = batches, resumable
        self.stateless = callable(batches) and not isinstance(batches, Iterable)
        self.consumed = 0  # in all for a function, in this epoch for an iterable
        self.iterator: Iterator | None = None
        self.generators = [] if self.stateless else _generators(batches)
        self.epoch_start: dict | None = None

    def next(self) -> Any:
        """The next batch."""
        if self.stateless:
            batch = self.batches(self.consumed)
        else:
            try:
                batch = next(self.iterator) if self.iterator is not None else self._first()
            except StopIteration:
                batch = self._first()
        self.consumed += 1
        return batch

    def position(self) -> dict:
        """Where the stream is, for a checkpoint."""
        return {"consumed": self.consumed, "epoch_start": self.epoch_start}

    def go_to(self, position: dict) -> None:
        """Come back to a position. The global generators are left somewhere else: restore them afterwards."""
        self.consumed, self.epoch_start = position["consumed"], position["epoch_start"]
        if self.epoch_start is not None:
            randomness.restore(self.epoch_start["global"])
            for generator, state in zip(self.generators, self.epoch_start["own"], strict=True):
                generator.set_state(state)
            self.iterator = self._begin()
            for _ in range(self.consumed):
                next(self.iterator)

    def _first(self) -> Any:
        if self.resumable:
            own = [generator.get_state() for generator in self.generators]
            self.epoch_start = {"global": randomness.capture(), "own": own}
        self.iterator, self.consumed = self._begin(), 0
        for batch in self.iterator:
            return batch
        raise ValueError("batches is empty: an epoch gave no batch; pass at least one (or drop_last=False)")

    def _begin(self) -> Iterator:
        if getattr(self.batches, "persistent_workers", False):
            # Workers that outlive an epoch carry their random generators into the next, out of reach of a checkpoint.
            self.iterator = self.batches._iterator = None
        return iter(self.batches)


def _generators(loader: Any) -> list[torch.Generator]:
    """The generators that a DataLoader owns: its own, its sampler's, its batch sampler's."""
    samplers = [getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)]
    samplers.append(getattr(samplers[1], "sampler", None))
    found = [getattr(owner, "generator", None) for owner in (loader, *samplers)]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def share(batch: Any, index: int, processes: int, device: torch.device) -> Any:
    """This process's rows of the joint batch, on its device.

    Every tensor of n rows is cut into equal runs of n / processes rows; scalars go to everybody.
    """
    if processes > 1:
        batch = recursively_apply(_rows, batch, index, processes)
    if device.type != "cpu":
        batch = send_to_device(batch, device, non_blocking=True)
    return batch


def _rows(tensor: torch.Tensor, index: int, processes: int) -> torch.Tensor:
    if tensor.ndim == 0:
        return tensor
    rows, left = divmod(len(tensor), processes)
    if left:
        raise ValueError(
            f"a batch of {len(tensor)} rows cannot be shared by {processes} processes: "
            f"make the batch size a multiple of {processes} (and drop the last, smaller batch)"
        )
    return tensor[index * rows : (index + 1) * rows]
