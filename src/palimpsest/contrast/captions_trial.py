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
from jaxtyping import Float
from torch import Tensor, nn

from palimpsest.contrast.pretrain import Captioned as Captioned  # registered claims import it from here
from palimpsest.metrics.probes import zero_shot
from palimpsest.metrics.retrieval import recall_at_1
from palimpsest.models.towers import SceneTower, TextTower, TwoTowers
from palimpsest.tasks.digits import CLASSES, digits
from palimpsest.tasks.digits_captions import LENGTH, WORDS, caption_tokens, fits
from palimpsest.tasks.digits_scenes import (
    COLOURS,
    PLACES,
    WORDINGS,
    Scenes,
    describe,
    digits_captions,
    draw_scenes,
    minimal_pairs,
)
from palimpsest.tasks.fresh import generator
from palimpsest.tasks.splits import Splits
from palimpsest.train import fit
from palimpsest.train.order import shuffled

TEXT = 32  # width of the text tower
NEAR, SINGLE = 121, 123  # random streams of this file
SMOKE = {"train": 64, "test": 24}
PART = 512  # scenes embedded at a time


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
            image, text = SceneTower(), TextTower(len(WORDS), LENGTH, TEXT)
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
        tokens = caption_tokens(scenes.captions)
        images = torch.cat([model.images(part) for part in scenes.x.split(PART)])
        return images, torch.cat([model.texts(part) for part in tokens.split(PART)])

    @torch.no_grad()
    def measures(self, model: TwoTowers) -> dict[str, float]:
        """The share of single digits whose nearest prompt names them, and R@1 over the gallery, both ways and their
        mean; see `recall_at_1`."""
        images, texts = self.embeddings(model, self.gallery)
        flat = caption_tokens([prompt for prompts in self.prompts for prompt in prompts])
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
        return rows, caption_tokens(self.pairs.captions)

    def _near_duplicates(self, scenes: Scenes, split: str) -> list[Scenes]:
        pool, drawn = getattr(digits(self.seed), split), generator(self.seed, split, NEAR)
        return [minimal_pairs(scenes, pool, drawn, colours=self.colours)[0] for _ in range(self.near)]


def _together(parts: Sequence[Scenes]) -> Scenes:
    columns = {}
    for field in dataclasses.fields(Scenes):
        values = [getattr(part, field.name) for part in parts]
        joined = torch.cat(values) if isinstance(values[0], Tensor) else tuple(row for value in values for row in value)
        columns[field.name] = joined
    return Scenes(**columns)
