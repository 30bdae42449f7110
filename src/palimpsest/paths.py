"""Where Palimpsest keeps things: what can be computed again under `home()`, the results of record under `records()`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from palimpsest.errors import UserError


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
