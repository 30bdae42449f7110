"""The user's own images: a folder for every class, or for every domain and in it for every class.

Images may be of any size and mode. All become squares of one side: the middle of the image, its shorter side brought to
that many pixels. They have one channel where all are grey, and else three; what is transparent is laid on white, and a
photograph is turned as its camera says. Nothing but images is read, and those that cannot be read are named.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from palimpsest.errors import UserError
from palimpsest.tasks.held_out import check_classes, content_digest, duplicates_note, key, naming, parts
from palimpsest.tasks.splits import Split, Splits

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pnm"})
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
LARGEST_SIDE = 64  # where the user asks for none
GREY = torch.tensor([0.299, 0.587, 0.114])  # of red, green and blue, as they are seen
PIXELS = 50_000_000  # of one image: more is refused, for a small file can hold an endless one


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """Images that were read, with what was found out about them.

    Attributes:
        classes: names of the classes, sorted.
        domains: names of the domains, sorted; empty where there are none.
        size: the side of the images in pixels.
        channels: 1 where all are grey, else 3.
        notes: what a user should know, a sentence each.
        digest: SHA-256 of the images as they were brought to one size, with their classes and domains.
    """

    classes: tuple[str, ...]
    domains: tuple[str, ...]
    size: int
    channels: int
    notes: tuple[str, ...]
    digest: str
    x: UInt8[np.ndarray, "n channels size size"] = field(repr=False)
    y: Int[np.ndarray, " n"] = field(repr=False)
    domain: Int[np.ndarray, " n"] | None = field(repr=False)
    keys: tuple[str, ...] = field(repr=False)
    groups: tuple[str, ...] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.y)

    def splits(self, seed: int) -> Splits[Split]:
        """Images to train on, to choose settings on, and to test on; the last are the same for every seed.

        `x` is float32 in [0, 1]; `index` is the image's place among all, from 0, in the order of their names.
        """
        # Every class of every domain is spread over the parts.
        strata = None if self.domain is None else self.domain * len(self.classes) + self.y
        divided = parts(self.keys, seed, labels=self.y, classes=self.classes, strata=strata, groups=self.groups)

        def part(rows: np.ndarray) -> Split:
            domain = None if self.domain is None else torch.from_numpy(self.domain[rows])
            x = torch.from_numpy(self.x[rows]).float() / 255
            return Split(x, torch.from_numpy(self.y[rows]), torch.from_numpy(rows), domain=domain)

        return Splits(*map(part, divided))

    def by_domain(self, seed: int) -> dict[str, Splits[Split]]:
        """The same, a task for every domain by its name, as `palimpsest.tasks.digits_domains.leave_one_out` takes them.

        Raises:
            UserError: a domain has no image in one of the parts.
        """
        task = self.splits(seed)
        tasks = {
            name: task.mapped(lambda split, number=number: split[split.domain == number])
            for number, name in enumerate(self.domains)
        }
        for name, of_domain in tasks.items():
            if not all(map(len, vars(of_domain).values())):
                raise UserError(f"the domain {name!r} has too few images, or groups, for three parts: leave it out")
        return tasks


def read_images(folder: str | Path, *, size: int | None = None, group: str | None = None) -> ImageFolder:
    """Images by class (`folder/class/image.png`), or by domain and class (`folder/domain/class/image.png`).

    Of an animation the first picture is taken. What is hidden, or no image by the ending of its name, is skipped, and
    said so in the notes, as is a folder without images.

    Args:
        folder: holds the folders.
        size: the side that all images are brought to; None for the median of their shorter sides, at most 64.
        group: a regular expression; images for which its first group (or all of it) finds the same in the path below
            the folder, "cats/anna_01.png" say, stay in one part.

    Raises:
        UserError: no folder, no images, images at other depths or at several, one class, a class of fewer than 3
            images, images that are damaged or too large, a group that an image lacks.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for n in range(12):
        ...         Path(folder, "ab"[n % 2]).mkdir(exist_ok=True)
        ...         Image.new("L", (20, 16 + n), color=n).save(Path(folder, "ab"[n % 2], f"{n}.png"))
        ...     images = read_images(folder)
        >>> images.classes, images.size, tuple(images.splits(0).train.x.shape)
        (('a', 'b'), 20, (8, 1, 20, 20))
    """
    folder = Path(folder)
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 1024):
        raise UserError(f"size must be a whole number of pixels from 1 to 1024, got {size!r}")
    if not folder.is_dir():
        raise UserError(
            f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}: give one of class folders"
        )
    files, notes = _files(folder)
    names = [file.relative_to(folder).parts[:-1] for file in files]
    groups = None if group is None else _groups(files, folder, group)
    sides = _each(_shorter_side, files, folder)
    side = size or int(min(LARGEST_SIDE, np.median(sides)))
    images, frames = zip(*_each(partial(_read, side=side), files, folder), strict=True)
    if animations := sum(count > 1 for count in frames):
        notes.append(f"of {animations} animation{'s'[: animations > 1]} the first picture is taken")
    channels = max(len(image) for image in images)
    x = np.stack([np.broadcast_to(image, (channels, side, side)) for image in images])
    classes = tuple(sorted({name[-1] for name in names}))
    y = np.array([classes.index(name[-1]) for name in names])
    domains = tuple(sorted({name[0] for name in names})) if len(names[0]) == 2 else ()
    domain = np.array([domains.index(name[0]) for name in names]) if domains else None
    keys = [key(image.tobytes()) for image in x]
    told = len(set(zip(keys, y.tolist(), strict=True))) - len(set(keys))
    notes += duplicates_note(keys, "images")
    if told:
        notes.append(f"{told} image{' is' if told == 1 else 's are'} in more than one class")
    content = [f"{each} {'/'.join(name)}" for each, name in zip(keys, names, strict=True)]
    found = ImageFolder(
        classes, domains, side, channels, tuple(notes), content_digest(content), x, y, domain, tuple(keys), groups
    )
    with naming(folder):
        check_classes(y, classes)
        found.splits(0)
    return found


def read_unlabelled(path: str | Path, *, size: int, channels: int) -> tuple[list[str], Float[Tensor, "n c h w"]]:
    """Images without classes: an image, or all in a folder and below it, brought to the form of those that a network
    was trained on.

    Returns:
        their paths below the folder, sorted, and the images, float32 in [0, 1].

    Raises:
        UserError: no such file, no images, or images that cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder of images")
    folder = path if path.is_dir() else path.parent
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.suffix.lower() in ENDINGS)
    if not files:
        raise UserError(f"{path}: no images ({', '.join(sorted(ENDINGS))}) in it")
    images = [
        torch.from_numpy(image.copy()).float() / 255 for image, _ in _each(partial(_read, side=size), files, folder)
    ]
    if channels == 1:
        images = [image if len(image) == 1 else (image * GREY[:, None, None]).sum(0, keepdim=True) for image in images]
    x = torch.stack([image.expand(channels, -1, -1) for image in images])
    return [file.relative_to(folder).as_posix() for file in files], x


def _files(folder: Path) -> tuple[list[Path], list[str]]:
    """The images, all two or all three levels below, and what is said of the other files."""
    found: dict[int, list[Path]] = {}
    skipped: Counter[str] = Counter()
    empty: list[str] = []

    def walk(inner: Path, depth: int) -> None:
        entries = sorted(inner.iterdir())
        if not any(entry.is_dir() or entry.suffix.lower() in ENDINGS for entry in entries):
            empty.append(inner.relative_to(folder).as_posix())
        for entry in entries:
            if entry.name.startswith((".", "__")):
                skipped["hidden"] += 1
            elif entry.is_dir():
                if depth == 4:  # links may lead in circles
                    raise UserError(f"{entry}: too deep: images stand in class folders, or in domain and class folders")
                walk(entry, depth + 1)
            elif entry.suffix.lower() in ENDINGS:
                found.setdefault(depth, []).append(entry)
            else:
                skipped[entry.suffix.lower() or "without an ending"] += 1

    walk(folder, 1)
    if not found:
        raise UserError(f"{folder}: no images ({', '.join(sorted(ENDINGS))}) in it")
    for depth, says in ((1, "in no class folder"), (4, "too deep")):
        if depth in found:
            first = found[depth][0]
            raise UserError(f"{first}: {says}: images stand in class folders, or in domain and class folders")
    if len(found) > 1:
        raise UserError(
            f"{found[3][0]}: deeper than {found[2][0]}: images stand all in class folders, or all in domains"
        )
    notes = [f"the folder {name!r} holds no image: there is no such class" for name in empty]
    if skipped:
        said = ", ".join(f"{count} {what}" for what, count in sorted(skipped.items()))
        notes.append(f"files that are no images are skipped: {said}")
    return next(iter(found.values())), notes


def _groups(files: list[Path], folder: Path, group: str) -> tuple[str, ...]:
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise UserError(f"the group {group!r} is no regular expression: {error}") from None
    matches = [pattern.search(file.relative_to(folder).as_posix()) for file in files]
    for file, match in zip(files, matches, strict=True):
        if match is None:
            raise UserError(f"{file}: the group {group!r} finds nothing in this name")
    return tuple(str(match[1] if pattern.groups else match[0]) for match in matches)


def _each(read: Callable[[Path], Any], files: list[Path], folder: Path) -> list[Any]:
    """What is read of each image.

    Raises:
        UserError: some cannot be read; it counts them and names the first.
    """
    found, damaged = [], []
    with warnings.catch_warnings():
        # Of odd metadata; and of many pixels, of which fewer are refused here.
        warnings.simplefilter("ignore")
        for file in files:
            try:
                found.append(read(file))
            except Exception as error:  # whatever a decoder says of bytes that it does not like
                damaged.append((file, error))
    if damaged:
        file, error = damaged[0]
        says = "is empty" if not file.stat().st_size else str(error).split("\n")[0]
        says = "is no image, whatever its name says" if "cannot identify" in says else says
        raise UserError(
            f"{folder}: {len(damaged)} of {len(files)} images cannot be read, "
            f"first {file.relative_to(folder)} ({says}): mend or remove them"
        )
    return found


def _open(file: Path) -> Any:
    from PIL import Image  # late: takes a tenth of a second

    try:
        image = Image.open(file, formats=FORMATS)
        large = image.width * image.height > PIXELS
    except Image.DecompressionBombError:
        large = True
    if large:
        raise ValueError(f"more than {PIXELS:,} pixels")
    return image


def _shorter_side(file: Path) -> int:
    with _open(file) as image:
        return min(image.size)


def _read(file: Path, side: int) -> tuple[UInt8[np.ndarray, "channels side side"], int]:
    """An image as a square, grey or in colours, and how many pictures the file has."""
    from PIL import Image, ImageOps

    with _open(file) as image:
        frames = getattr(image, "n_frames", 1)
        image = _plain(ImageOps.exif_transpose(image))
    short = min(image.size)
    left, top = (image.width - short) / 2, (image.height - short) / 2
    box = (left, top, left + short, top + short)
    image = image.resize((side, side), Image.Resampling.BILINEAR, box=box)  # widened where it shrinks: no aliasing
    pixels = np.asarray(image)
    if pixels.dtype == np.float32:
        pixels = (pixels * 255).round().clip(0, 255).astype(np.uint8)
    pixels = pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None]
    return (pixels[:1] if (pixels == pixels[:1]).all() else pixels), frames


def _plain(image: Any) -> Any:
    """An image as RGB, or as grey: of bytes, or of floats in [0, 1] where it has more than 256 steps."""
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float32)
        most = 1.0 if image.mode == "F" else 65535.0
        if not (values.min() >= 0 and values.max() <= most):
            raise ValueError(f"values from {values.min():g} to {values.max():g}, expected 0 to {most:g}")
        return Image.fromarray(values / most)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
