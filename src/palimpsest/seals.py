"""Sealed folders: a list of digests beside the files tells whether a folder is still what was written.

Also what is said where the disk is full while one is written.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from palimpsest.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SEAL = "palimpsest.sha256"


def seal(folder: Path) -> None:
    """Write the list of all files in a folder with their SHA-256, as `sha256sum --check` reads it.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a").write_text("1")
    >>> seal(folder)
    >>> (folder / SEAL).read_text()
    '6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b  a\\n'
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    lines = [f"{_digest(folder / name)}  {name}\n" for name in names if name != SEAL]
    (folder / SEAL).write_text("".join(lines), encoding="utf-8")


def broken(folder: Path) -> str | None:
    """What in a folder is not as it was sealed, in a few words; None where everything is.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a").write_text("1")
    >>> seal(folder)
    >>> print(broken(folder))
    None
    >>> _ = (folder / "a").write_text("2")
    >>> broken(folder)
    'a was changed'
    """
    try:
        lines = (folder / SEAL).read_text(encoding="utf-8").split("\n")
        digests = {name: digest for digest, name in (line.split("  ", 1) for line in lines if line)}
    except (OSError, ValueError):
        return f"it has no readable {SEAL}"
    expected = {SEAL, *digests}
    folders = {parent.as_posix() for name in digests for parent in Path(name).parents}
    for where, below, files in os.walk(folder):
        for name in (*below, *files):
            path = Path(where, name)
            seen = path.relative_to(folder).as_posix()
            if path.is_symlink() or seen not in (folders if name in below else expected):
                return f"{seen} was added"
    for name, digest in digests.items():
        try:
            same = _digest(folder / name) == digest
        except OSError:
            return f"{name} is missing"
        if not same:
            return f"{name} was changed"
    return None


@contextmanager
def explained(what: Path) -> Iterator[None]:
    """A full disk in one line that names what was being written; half of it is left to the caller to remove."""
    try:
        yield
    except Exception as error:  # Rust's libraries have errors of their own
        full = getattr(error, "errno", None) in FULL or any(os.strerror(code) in str(error) for code in FULL)
        if not full:
            raise
        raise UserError(f"no space is left to write {what}: free some, then give the same command again") from error


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
