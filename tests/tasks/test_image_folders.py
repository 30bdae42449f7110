from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from palimpsest.errors import UserError
from palimpsest.tasks.digits_domains import leave_one_out
from palimpsest.tasks.image_folders import read_images

RNG = np.random.default_rng(0)


def pixels(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def folder_of(tmp_path, per_class=5, classes=("cat", "dog"), domains=("",)):
    for domain in domains:
        for name in classes:
            (tmp_path / domain / name).mkdir(parents=True)
            for n in range(per_class):
                Image.fromarray(pixels(12, 10)).save(tmp_path / domain / name / f"{name}{n}.png")
    return tmp_path


def only(tmp_path, image, name="one.png", **settings):
    """What a folder of grey images and this one gives for this one: it is the first of its class."""
    folder = folder_of(tmp_path)
    image.save(folder / "cat" / name.replace("one", "a"), **settings)
    images = read_images(folder, size=8)
    return images.x[0] / 255, images


def test_images_become_squares_with_labels(tmp_path):
    images = read_images(folder_of(tmp_path))
    task = images.splits(0)
    assert (images.classes, images.domains, images.size, images.channels) == (("cat", "dog"), (), 10, 1)
    assert (images.notes, len(images)) == ((), 10)
    assert tuple(task.train.x.shape) == (6, 1, 10, 10)
    assert task.train.x.dtype == torch.float32
    assert 0 <= task.train.x.min() <= task.train.x.max() <= 1
    assert task.train.domain is None
    assert torch.equal(task.train.y, torch.from_numpy(images.y)[task.train.index])
    assert torch.equal(task.test.index, images.splits(7).test.index)
    assert str(tmp_path) not in repr(images) + repr(vars(images))


def test_the_middle_is_kept_and_nothing_is_turned(tmp_path):
    wide = np.zeros((8, 24), dtype=np.uint8)
    wide[:, 8:16] = np.arange(64).reshape(8, 8)
    seen, _ = only(tmp_path, Image.fromarray(wide))
    np.testing.assert_array_equal((seen[0] * 255).round(), np.arange(64).reshape(8, 8))


def test_shrinking_takes_means(tmp_path):
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (64, 32))
    seen, _ = only(tmp_path, Image.fromarray(stripes))
    assert abs(seen[0, 1:-1, 1:-1] - 0.5).max() < 0.02


@pytest.mark.parametrize(
    ("mode", "channels", "value"),
    [
        ("L", 1, 0.8),
        ("1", 1, 1.0),
        ("LA", 1, 0.8),
        ("RGB", 1, 0.8),
        ("I;16", 1, 0.8),
        ("P", 3, None),
        ("CMYK", 3, None),
        ("RGBA", 3, None),
    ],
)
def test_every_mode_is_grey_or_in_colours(tmp_path, mode, channels, value):
    grey = Image.new("L", (9, 9), 204)
    colour = Image.new("RGB", (9, 9), (204, 102, 0))
    if mode == "I;16":
        image = Image.fromarray(np.full((9, 9), 52428, dtype=np.uint16))
    else:
        image = (colour if value is None else grey).convert(mode, dither=Image.Dither.NONE)
    seen, images = only(tmp_path, image, "one.tiff" if mode == "CMYK" else "one.png")
    assert images.channels == channels
    wanted = [value] if value is not None else [0.8, 0.4, 0.0]
    for channel, level in zip(seen, wanted, strict=True):
        assert abs(channel - level).max() < 0.01
    # Grey images among coloured ones have three equal channels.
    assert (images.x[1:] == images.x[1:, :1]).all()


def test_what_is_transparent_is_white(tmp_path):
    image = Image.new("RGBA", (9, 9), (255, 0, 0, 0))
    image.putpixel((4, 4), (0, 0, 255, 255))
    seen, images = only(tmp_path, image)
    assert seen[:, 0, 0].tolist() == [1, 1, 1]
    assert images.channels == 3
    palette = Image.new("P", (9, 9), 0)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    (tmp_path / "p").mkdir()
    seen, _ = only(tmp_path / "p", palette, transparency=0)
    assert (seen == 1).all()


def test_a_photograph_is_turned_as_its_camera_says(tmp_path):
    image = np.zeros((8, 8), dtype=np.uint8)
    image[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    seen, _ = only(tmp_path, Image.fromarray(image), exif=exif)
    assert seen[0, :, -1].min() == 1
    assert seen[0, :, 0].max() == 0


def test_domains_are_numbered_and_taken_one_by_one(tmp_path):
    images = read_images(folder_of(tmp_path, domains=("photo", "sketch")))
    task = images.splits(0)
    assert (images.domains, images.classes) == (("photo", "sketch"), ("cat", "dog"))
    assert sorted(set(task.test.domain.tolist())) == [0, 1]
    tasks = images.by_domain(0)
    assert sum(len(each.test) for each in tasks.values()) == len(task.test)
    held = leave_one_out(tasks, "sketch")
    assert (held.train.domain.unique().tolist(), held.test.domain.unique().tolist()) == ([0], [1])


def test_images_of_a_group_stay_together(tmp_path):
    folder = folder_of(tmp_path, per_class=0)
    for n in range(40):
        Image.fromarray(pixels(8, 8)).save(folder / ("cat", "dog")[n % 2] / f"anna{n // 4}_{n}.png")
    images = read_images(folder, group=r"(anna\d+)_")
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.png"))
    parts = vars(images.splits(0)).values()
    groups = [{names[row].split("_")[0].split("/")[1] for row in part.index.tolist()} for part in parts]
    assert sum(map(len, groups)) == 10
    with pytest.raises(UserError, match=r"anna0_0\.png: the group 'x\+y' finds nothing in this name"):
        read_images(folder, group="x+y")
    with pytest.raises(UserError, match="no regular expression"):
        read_images(folder, group="(")


def test_equal_images_stay_together_and_are_counted(tmp_path):
    folder = folder_of(tmp_path, per_class=8)
    first = Image.open(folder / "cat" / "cat0.png")
    for name in ("x", "y"):
        first.save(folder / "cat" / f"{name}.bmp")
    first.save(folder / "dog" / "x.png")
    images = read_images(folder)
    assert images.notes == (
        "3 of 19 images equal an earlier one: equal images stay in one part",
        "1 image is in more than one class",
    )
    equal = {row for row, key in enumerate(images.keys) if key == images.keys[0]}
    assert len(equal) == 4
    assert sum(bool(equal & set(part.index.tolist())) for part in vars(images.splits(0)).values()) == 1


def test_a_folder_without_images_is_no_class_and_it_is_said(tmp_path):
    folder = folder_of(tmp_path)
    (folder / "horse").mkdir()
    (folder / "notes").mkdir()
    (folder / "notes" / "todo.txt").write_text("a horse")
    images = read_images(folder)
    assert images.notes == (
        "the folder 'horse' holds no image: there is no such class",
        "the folder 'notes' holds no image: there is no such class",
        "files that are no images are skipped: 1 .txt",
    )
    assert not {"horse", "notes"} & set(images.classes)


def test_what_is_no_image_is_skipped_and_an_animation_is_its_first_picture(tmp_path):
    folder = folder_of(tmp_path)
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "cat" / "notes.txt").write_text("a cat")
    (folder / "cat" / "README").write_text("a cat")
    frames = [Image.new("L", (9, 9), level) for level in (51, 102)]
    frames[0].save(folder / "cat" / "a.gif", save_all=True, append_images=frames[1:])
    images = read_images(folder)
    assert images.notes == (
        "files that are no images are skipped: 1 .txt, 1 hidden, 1 without an ending",
        "of 1 animation the first picture is taken",
    )
    assert set(images.x[0].flatten().tolist()) == {51}


def bomb(path, side=100_000):
    """A PNG whose header says that it is endless."""
    from struct import pack

    def chunk(kind, data):
        return pack(">I", len(data)) + kind + data + pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda f: (f / "cat" / "a.png").write_bytes(b""),
            r"1 of 11 images cannot be read, first cat/a\.png \(is empty\)",
        ),
        (lambda f: (f / "cat" / "a.png").write_text("a cat"), r"a\.png \(is no image, whatever its name says\)"),
        (
            lambda f: [file.write_bytes(file.read_bytes()[:60]) for file in sorted((f / "dog").iterdir())[:2]],
            r"2 of 10 images cannot be read, first dog/dog0\.png",
        ),
        (lambda f: bomb(f / "cat" / "a.png"), r"a\.png \(more than 50,000,000 pixels\)"),
        (lambda f: bomb(f / "cat" / "a.png", 8000), "more than 50,000,000 pixels"),
        (lambda f: (f / "cat" / "a.png").write_bytes(b"\x80\x04\x95pickle"), "is no image"),
        (lambda f: Image.new("L", (4, 4)).save(f / "loose.png"), r"loose\.png: in no class folder"),
        (
            lambda f: [(f / "cat" / "x").mkdir(), Image.new("L", (4, 4)).save(f / "cat" / "x" / "y.png")],
            r"y\.png: deeper than .*cat0\.png",
        ),
        (
            lambda f: [(f / "a/b/c").mkdir(parents=True), Image.new("L", (4, 4)).save(f / "a/b/c/y.png")],
            r"y\.png: too deep",
        ),
        (lambda f: (f / "a/b/c/d/e").mkdir(parents=True), "too deep"),
        (lambda f: [file.unlink() for file in (f / "dog").iterdir()], "all rows are of one class, 'cat'|too few"),
        (lambda f: [file.unlink() for file in sorted((f / "dog").iterdir())[2:]], r"\('dog': 2\)"),
        (lambda f: [file.unlink() for file in f.rglob("*.png")], "no images"),
    ],
)
def test_a_folder_that_cannot_be_read(tmp_path, spoil, message):
    folder = folder_of(tmp_path)
    spoil(folder)
    with pytest.raises(UserError, match=message) as caught:
        read_images(folder)
    assert "\n" not in str(caught.value)


def test_no_folder_and_a_size_that_is_none(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        read_images(tmp_path / "absent")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="not a folder"):
        read_images(tmp_path / "file")
    for size in (0, 2000, 8.0, True):
        with pytest.raises(UserError, match="size must be a whole number"):
            read_images(tmp_path, size=size)
