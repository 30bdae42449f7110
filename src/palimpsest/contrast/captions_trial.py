"""One run of two small towers on captioned scenes, measured: what the claims about images and texts repeat.

A convolutional network reads scenes of one or two coloured digits, a small transformer reads their captions, and both
are projected to one sphere (as in CLIP: Radford et al. 2021, arXiv 2103.00020). A loss compares the two; then the test
scenes are searched by caption, captions by scene, and single digits are named by the nearest prompt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.contrast.checks import check_pairs
from palimpsest.metrics.probes import zero_shot
from palimpsest.tasks.digits import CLASSES, digits
from palimpsest.tasks.digits_scenes import (
    COLOURS,
    PLACES,
    WORDINGS,
    Scenes,
    caption_words,
    describe,
    digits_captions,
    draw_scenes,
    minimal_pairs,
)
from palimpsest.tasks.fresh import generator
from palimpsest.tasks.splits import Splits
from palimpsest.train import fit
from palimpsest.train.method import Objective
from palimpsest.train.order import shuffled

WORDS = {word: number for number, word in enumerate(caption_words(), start=1)}  # 0 is padding
LENGTH = 17  # words of the longest caption
TEXT = 32  # width of the text tower
NEAR, SINGLE = 121, 123  # random streams of this file
SMOKE = {"train": 64, "test": 24}
PART = 512  # scenes embedded at a time


def encode(captions: Sequence[str]) -> Int[Tensor, "n 17"]:
    """Captions as word numbers, padded with 0.

    >>> encode(["a red three at the top left"])[0].count_nonzero().item()
    7

    Raises:
        ValueError: a caption is too long, or has a word that no caption of a scene has.
    """
    rows = []
    for caption in captions:
        words = caption.split()
        unknown = [word for word in words if word not in WORDS]
        if unknown or not 1 <= len(words) <= LENGTH:
            raise ValueError(f"not the caption of a scene (1 to {LENGTH} words, all known): {caption!r}")
        rows.append([WORDS[word] for word in words] + [0] * (LENGTH - len(words)))
    return torch.tensor(rows, dtype=torch.long).reshape(-1, LENGTH)


class SceneTower(nn.Sequential):
    """Scenes of 16 x 16 pixels to one vector: two convolutions of stride 2, and a hidden layer on the 4 x 4 positions.

    Args:
        width: channels of the first convolution; the second has twice as many.
        features: width of the vector.

    >>> SceneTower()(torch.zeros(2, 3, 16, 16)).shape
    torch.Size([2, 64])
    """

    def __init__(self, width: int = 24, features: int = 64) -> None:
        super().__init__(
            nn.Conv2d(3, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.GroupNorm(1, 2 * width),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * width, features),
            nn.ReLU(),
        )


class CaptionTower(nn.Module):
    """Words to one vector: embeddings with positions, transformer layers, and the mean over the words.

    Args:
        width: of the vector.
        layers: of the transformer; with 0 the vector is the mean of the embeddings, and word order is lost.

    >>> CaptionTower(32, layers=1)(encode(["a red three at the top left"])).shape
    torch.Size([1, 32])
    """

    def __init__(self, width: int = 64, layers: int = 1) -> None:
        super().__init__()
        self.words = nn.Embedding(len(WORDS) + 1, width, padding_idx=0)
        self.positions = nn.Parameter(0.1 * torch.randn(LENGTH, width)) if layers else None
        layer = {"dropout": 0.0, "batch_first": True, "norm_first": True}
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(width, 4, 2 * width, **layer) for _ in range(layers))

    def tokens(self, tokens: Int[Tensor, "n words"]) -> Float[Tensor, "n words width"]:
        """A vector for every word; those of padding mean nothing."""
        x, padding = self.words(tokens), tokens == 0
        if self.positions is not None:
            x = x + self.positions[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=padding)
        return x

    def forward(self, tokens: Int[Tensor, "n words"]) -> Float[Tensor, "n width"]:
        present = (tokens > 0)[..., None].to(self.words.weight.dtype)
        return (self.tokens(tokens) * present).sum(1) / present.sum(1).clamp(min=1)


class TwoTowers(nn.Module):
    """An image tower and a text tower, each followed by a linear map to the common sphere.

    Args:
        image: its `features(x)`, if it has that method, or its output, is a tensor [n, image_dim].
        text: tokens [n, words] -> [n, text_dim].
        image_dim, text_dim, dim: widths.
        extra: modules of the loss that are trained too (a learnable temperature), under their names.

    >>> model = TwoTowers(nn.Linear(6, 4), CaptionTower(8), 4, 8, dim=3)
    >>> image, text = model(torch.randn(2, 6), encode(["a red three", "an eight"]))
    >>> image.shape, torch.allclose(text.norm(dim=1), torch.ones(2))
    (torch.Size([2, 3]), True)
    """

    def __init__(
        self,
        image: nn.Module,
        text: nn.Module,
        image_dim: int,
        text_dim: int,
        dim: int = 32,
        extra: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.image, self.text = image, text
        self.image_map, self.text_map = nn.Linear(image_dim, dim), nn.Linear(text_dim, dim)
        self.extra = nn.ModuleDict(extra or {})

    def images(self, x: Tensor) -> Float[Tensor, "n dim"]:
        """Unit-norm embeddings of images."""
        return F.normalize(self.image_map(getattr(self.image, "features", self.image)(x)), dim=1)

    def texts(self, tokens: Int[Tensor, "n words"]) -> Float[Tensor, "n dim"]:
        """Unit-norm embeddings of texts."""
        return F.normalize(self.text_map(self.text(tokens)), dim=1)

    def forward(self, x: Tensor, tokens: Int[Tensor, "n words"]) -> tuple[Tensor, Tensor]:
        return self.images(x), self.texts(tokens)


@dataclass(frozen=True)
class Captioned(Objective):
    """What `fit` trains two towers on: images and captions of a batch, row by row a pair.

    Attributes:
        compare: called with the embeddings of images and captions [batch, dim], unit-norm; its value is the term
            "contrast".

    A batch has "images", "tokens" and "index", see `CaptionsTrial.batches`.
    """

    compare: Callable[..., Tensor]

    def loss(self, state: None, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"contrast": self.compare(*model(batch["images"], batch["tokens"]))}


@dataclass(frozen=True)
class CaptionsTrial:
    """A seed's scenes, model and training, with what every run on it shares.

    Attributes:
        seed: of the scenes, the weights and the order.
        smoke: three steps on a few scenes, to see that everything runs.
        batch_size, steps, lr: of training with AdamW, weight decay 1e-4, gradients clipped to norm 1, and a cosine
            schedule after a warm-up over a twentieth of the steps.
        train, test: how many scenes.
        objects, style, wordings, colours: as in `digits_captions`.
        near: near-duplicates a scene: scenes with their captions that differ from it in one concept, drawn once. They
            stand beside it in every batch (batch_size counts them), and beside their scenes in the gallery.
        searched: the split that is measured on; "validation" to choose settings by.

    >>> trial = CaptionsTrial(0, smoke=True, batch_size=16, near=1)
    >>> {name: tuple(value.shape) for name, value in trial.batches(0).items()}
    {'images': (16, 3, 16, 16), 'tokens': (16, 17), 'index': (16,)}
    """

    seed: int
    smoke: bool = False
    batch_size: int = 128
    steps: int = 600
    lr: float = 2e-3
    train: int = 2000
    test: int = 500
    objects: tuple[int, int] = (1, 2)
    style: str = "place"
    wordings: int = WORDINGS
    colours: int = len(COLOURS)
    near: int = 0
    searched: str = "test"

    def __post_init__(self) -> None:
        if self.searched not in ("train", "validation", "test"):
            raise ValueError(f"searched must be train, validation or test, got {self.searched!r}")
        if self.near < 0:
            raise ValueError(f"near must not be negative, got {self.near}")
        if self.batch_size % (1 + self.near) or self.batch_size < 1:
            raise ValueError(
                f"batch_size must be a multiple of 1 + near, got {self.batch_size} with {self.near} near-duplicates"
            )

    @cached_property
    def splits(self) -> Splits[Scenes]:
        """The scenes, before near-duplicates are added."""
        sizes = SMOKE if self.smoke else {"train": self.train, "test": self.test}
        options = {"objects": self.objects, "style": self.style, "wordings": self.wordings, "colours": self.colours}
        return digits_captions(self.seed, **sizes, **options)

    @cached_property
    def pairs(self) -> Scenes:
        """All that is trained on: the training scenes, then `near` times as many near-duplicates, in their order."""
        return _together([self.splits.train, *self._near_duplicates(self.splits.train, "train")])

    @cached_property
    def gallery(self) -> Scenes:
        """What is searched: the scenes of one split, then `near` times as many near-duplicates."""
        scenes = getattr(self.splits, self.searched)
        return _together([scenes, *self._near_duplicates(scenes, self.searched)])

    @cached_property
    def singles(self) -> Scenes:
        """Scenes of one digit each, made from the glyphs of the searched scenes; twice as many as test scenes."""
        n = SMOKE["test"] if self.smoke else 2 * self.test
        drawn = generator(self.seed, self.searched, SINGLE)
        pool = getattr(digits(self.seed), self.searched)
        return draw_scenes(pool, n, drawn, objects=(1, 1), colours=self.colours)

    @cached_property
    def prompts(self) -> list[list[str]]:
        """For every digit the captions that a single one may have: in all colours, places and wordings."""
        ways = list(product(range(self.colours), range(len(PLACES)), range(self.wordings)))
        return [[describe(digit, *way) for way in ways] for digit in range(CLASSES)]

    def batches(self, step: int) -> dict[str, Tensor]:
        """A batch: "images", "tokens" of their captions, "index" of the rows among `pairs`. Scenes first, then their
        near-duplicates, in the same order."""
        order, tokens = self._order
        n = len(self.splits.train)
        rows = torch.cat([order(step) + copy * n for copy in range(1 + self.near)])
        return {"images": self.pairs.x[rows], "tokens": tokens[rows], "index": rows}

    def model(self, extra: Mapping[str, nn.Module] | None = None) -> TwoTowers:
        """Two towers, not trained; `extra` holds modules of the loss that are trained with them."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            image, text = SceneTower(), CaptionTower(TEXT)
            return TwoTowers(image, text, image[-2].out_features, TEXT, extra=extra)

    def fit(self, objective: Any, model: TwoTowers | None = None, **options: Any) -> TwoTowers:
        """Trains a model (a new one by default) on the captioned scenes; options go to `palimpsest.train.fit`."""
        model = self.model() if model is None else model
        steps = options.pop("steps", self.steps)
        steps = 3 if self.smoke else steps
        settings = {"lr": self.lr, "weight_decay": 1e-4, "schedule": "cosine", "warmup": steps // 20, "clip": 1.0}
        fit(model, objective, self.batches, steps=steps, seed=self.seed, progress=False, **{**settings, **options})
        return model

    @torch.no_grad()
    def embeddings(self, model: TwoTowers, scenes: Scenes) -> tuple[Float[Tensor, "n dim"], Float[Tensor, "n dim"]]:
        """Of the images and of the captions."""
        model.eval()
        tokens = encode(scenes.captions)
        images = torch.cat([model.images(part) for part in scenes.x.split(PART)])
        return images, torch.cat([model.texts(part) for part in tokens.split(PART)])

    @torch.no_grad()
    def measures(self, model: TwoTowers) -> dict[str, float]:
        """The share of single digits whose nearest prompt names them, and R@1 over the gallery, both ways and their
        mean; see `recall_at_1`."""
        images, texts = self.embeddings(model, self.gallery)
        flat = encode([prompt for prompts in self.prompts for prompt in prompts])
        prompts = torch.cat([model.texts(part) for part in flat.split(PART)]).unflatten(0, (CLASSES, -1))
        forth, back = recall_at_1(images, texts, fits(self.gallery))
        single = model.images(self.singles.x)
        return {
            "zero-shot digit accuracy": zero_shot(single, prompts, self.singles.digit[:, 0]),
            "R@1": (forth + back) / 2,
            "image to text R@1": forth,
            "text to image R@1": back,
        }

    @cached_property
    def _order(self) -> tuple[Callable[[int], Tensor], Tensor]:
        rows = shuffled(len(self.splits.train), self.batch_size // (1 + self.near), self.seed)
        return rows, encode(self.pairs.captions)

    def _near_duplicates(self, scenes: Scenes, split: str) -> list[Scenes]:
        pool, drawn = getattr(digits(self.seed), split), generator(self.seed, split, NEAR)
        return [minimal_pairs(scenes, pool, drawn, colours=self.colours)[0] for _ in range(self.near)]


def fits(scenes: Scenes) -> Bool[Tensor, "n n"]:
    """Which caption (column) is true of which scene (row), in whatever words.

    >>> scenes = CaptionsTrial(0, smoke=True).gallery
    >>> fits(scenes).diagonal().all()
    tensor(True)
    """
    order = scenes.place.argsort(1)  # from the top and from the left, whichever the caption names first
    digit, colour, place = (column.gather(1, order) for column in (scenes.digit, scenes.colour, scenes.place))
    row = place // 2
    placed = _same(torch.cat([digit, colour, place], 1))
    related = _same(torch.cat([digit, colour, (row[:, :1] == row[:, 1:]).long()], 1))
    return torch.where(scenes.relation >= 0, related, placed)


def recall_at_1(
    images: Float[Tensor, "n dim"], texts: Float[Tensor, "n dim"], fitting: Bool[Tensor, "n n"] | None = None
) -> tuple[float, float]:
    """The share of images whose nearest caption is true of them, and of captions whose nearest image they are true of.

    Args:
        images, texts: embeddings, row by row a pair.
        fitting: which caption (column) is true of which image (row); by default its own alone.

    >>> recall_at_1(torch.eye(3), torch.eye(3)[[1, 0, 2]])
    (0.333..., 0.333...)
    """
    check_pairs(images=images, texts=texts)
    rows = torch.arange(len(images), device=images.device)
    fitting = rows[:, None] == rows if fitting is None else fitting
    if fitting.shape != (len(images), len(images)):
        raise ValueError(f"fitting must be [{len(images)}, {len(images)}], got {list(fitting.shape)}")
    scores = images @ texts.T
    forth, back = fitting[rows, scores.argmax(1)], fitting[scores.argmax(0), rows]
    return forth.float().mean().item(), back.float().mean().item()


def _same(keys: Int[Tensor, "n columns"]) -> Bool[Tensor, "n n"]:
    _, which = keys.unique(dim=0, return_inverse=True)
    return which[:, None] == which


def _together(parts: Sequence[Scenes]) -> Scenes:
    columns = {}
    for field in dataclasses.fields(Scenes):
        values = [getattr(part, field.name) for part in parts]
        joined = torch.cat(values) if isinstance(values[0], Tensor) else tuple(row for value in values for row in value)
        columns[field.name] = joined
    return Scenes(**columns)
