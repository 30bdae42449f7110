"""Folders and files that are written beside their place and renamed: never seen half-written, never put over anybody's
work."""

from __future__ import annotations

import glob
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from palimpsest import seals
from palimpsest.errors import UserError
from palimpsest.paths import resolved


def write_folder(write: Callable[[Path], object], out: str | Path, force: bool, extra: Mapping[str, str]) -> None:
    """`write(folder)` makes a folder beside `out`, which takes its name when it is complete."""
    for name in extra:
        if name in ("", ".", "..") or Path(name).name != name or "\\" in name:
            raise ValueError(f"extra files need plain names, got {name!r}")
    out = check_out(out, force)
    out.parent.mkdir(parents=True, exist_ok=True)
    new = out.with_name(f".{out.name}-{uuid.uuid4().hex}")
    try:
        with seals.explained(out):
            write(new)
            (new / seals.SEAL).unlink(missing_ok=True)  # of the folder that was copied
            for name, text in extra.items():
                if (new / name).exists():
                    raise ValueError(f"{name!r} in extra is a file of the model itself: choose another name")
                (new / name).write_text(text, encoding="utf-8")
            seals.seal(new)
        check_out(out, force)  # again: somebody may have put something there meanwhile
        _put(new, out)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def check_out(out: str | Path, force: bool = False, inputs: Iterable[Path] = ()) -> Path:
    """The folder that `save` would make, in full, or the error that it would raise: ask before a long computation.

    Args:
        out, force: as for `save`.
        inputs: files and folders that are still needed, and may therefore not be replaced with the folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     check_out(f"{folder}/model").name
        'model'
    """
    named, out = Path(out).expanduser(), resolved(out)
    if named.is_symlink():
        raise UserError(f"{out} is reached through a link, which is not replaced: choose another folder")
    for path in map(resolved, inputs):
        if out == path or out in path.parents:
            raise UserError(f"{out} holds {path}, which this reads: choose another folder")
    if not out.exists():
        parent = next(path for path in out.parents if path.exists())
        if not parent.is_dir():
            raise UserError(f"{parent} is a file, which cannot hold {out.name}: choose another folder")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise UserError(f"{parent} may not be written to: choose another folder")
        return out
    if not out.is_dir():
        raise UserError(f"{out} is a file: choose another folder")
    if not force:
        raise UserError(f"{out} exists: choose another folder, or replace it with force")
    if any(out.iterdir()) and (why := seals.broken(out)):
        raise UserError(
            f"{out} is not replaced, because it is not just what was saved there ({why}): choose another folder"
        )
    return out


def check_space(*needs: tuple[Path, int]) -> None:
    """Raises a UserError where a disk has less room than will be written at least: (where, how many bytes) each.

    >>> check_space((Path("."), 1), (Path("deep/down"), 1))
    """
    wanted: dict[int, tuple[Path, int]] = {}
    for path, size in needs:
        place = next(each for each in (path, *path.absolute().parents) if each.exists())
        _, before = wanted.get(place.stat().st_dev, (place, 0))
        wanted[place.stat().st_dev] = place, before + size
    for place, size in wanted.values():
        if (free := shutil.disk_usage(place).free) < size:
            raise UserError(
                f"{place} has {free / 1e9:.3g} GB left, and at least {size / 1e9:.3g} GB will be written: free some"
            )


def _put(new: Path, out: Path) -> None:
    """Rename `new` to `out`; what was there goes only after that, and comes back if it fails."""
    if not out.exists():
        new.rename(out)
        return
    old = out.with_name(f".{out.name}-{uuid.uuid4().hex}.old")
    out.rename(old)
    try:
        new.rename(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old)


@contextmanager
def written(path: Path, text: str) -> Iterator[None]:
    """Writes a file beside its place, where it is put when the block, which belongs to it, has ended well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        with seals.explained(path):
            new.write_text(text, encoding="utf-8", errors="replace")
        yield
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def tidy(out: Path) -> None:
    """Clear away what killed calls of `save` or `written` left beside a folder or a file, into which nobody else may be
    writing.

    Where one was killed between its two renamings, the model that was there comes back.
    """
    for left in out.parent.glob(f".{glob.escape(out.name)}-*"):
        if re.fullmatch(r"-[0-9a-f]{32}(\.old)?", left.name[len(out.name) + 1 :]):
            if left.suffix == ".old" and not out.exists():
                left.rename(out)
            elif left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()
