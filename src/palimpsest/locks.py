"""Locks between the processes of one machine, each a file under `home()`; a process that dies lets go of its own."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from palimpsest.errors import UserError
from palimpsest.paths import home


@contextmanager
def held(path: str | Path, doing: str) -> Iterator[None]:
    """Holds the lock on a path for the time of the block; whoever holds it already is named.

    Args:
        path: what no other process may work on meanwhile; it need not exist.
        doing: what the block does, for the message.

    Raises:
        UserError: another process, or another block of this one, holds it.

    >>> with held("some/folder", "writes some/folder"), held("some/folder", "writes some/folder"):
    ...     pass
    Traceback (most recent call last):
    palimpsest.errors.UserError: another process (...) writes some/folder: wait until it has ended, or stop it
    """
    name = hashlib.sha256(os.path.realpath(path).encode(errors="surrogateescape")).hexdigest()[:16]
    file = home() / "locks" / f"{name}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    holder = file.with_suffix(".holder")  # beside the lock, which some systems let nobody read while it is held
    lock = FileLock(file, is_singleton=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        process = holder.read_text(encoding="utf-8") if holder.is_file() else "unknown"
        raise UserError(f"another process ({process}) {doing}: wait until it has ended, or stop it") from None
    try:
        holder.write_text(f"{os.getpid()}", encoding="utf-8")
        yield
    finally:
        lock.release()
