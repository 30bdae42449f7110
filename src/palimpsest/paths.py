"""Where Palimpsest keeps things: what can be computed again under `home()`, the results of record under `records()`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from palimpsest.errors import UserError


def resolved(path: str | Path, what: str = "") -> Path:
    """The path in full, its links followed.

    Args:
        path: of anything, there or not.
        what: how an error names it, with a space behind: "the report ".

    Raises:
        UserError: its links lead round in a circle, or its name is not UTF-8.

    >>> resolved("a/../b").name
    'b'
    """
    try:
        found = Path(path).expanduser().resolve()
        str(found).encode("utf-8")
        found.exists()
    except (OSError, RuntimeError, ValueError):
        raise UserError(f"{what}{path} cannot be the name of a file or folder: choose another") from None
    return found


def home() -> Path:
    """The folder for worlds, the store of results and reports: `$PALIMPSEST_HOME`, or the user's cache folder.

    That is `~/.cache/palimpsest` (or under `$XDG_CACHE_HOME`) on Linux, `~/Library/Caches/palimpsest` on macOS and
    `palimpsest` under `%LOCALAPPDATA%` on Windows. The folder is not created.

    Raises:
        UserError: nothing says where the user's home is.

    >>> home().is_absolute()
    True
    """
    try:
        return _home().absolute()
    except RuntimeError:
        raise UserError("there is no home folder: set PALIMPSEST_HOME to a folder for results") from None


def _home() -> Path:
    if chosen := os.environ.get("PALIMPSEST_HOME"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        cache = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        cache = Path.home() / "Library" / "Caches"
    else:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "palimpsest"


def records() -> Path:
    """The folder of the results of record: `results/` in the installed package, or in the checkout beside `src/`."""
    package = Path(__file__).parent
    installed = package / "results"
    return installed if installed.is_dir() else package.parents[1] / "results"
