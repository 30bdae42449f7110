"""The world of letters that comparisons of representations are made on: small networks, views, and what is asked of the
features.

A network sees random views of 312 letters in five faces each, 14 x 14 pixels large. Its features, without the head that
a loss reads, must then tell letters apart that no training set held: 160 others, of which each seed asks for its own 88
images (`palimpsest.tasks.glyphs`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.contrast.heads import Projected, projection_head
from palimpsest.metrics.retrieval import average_precision
from palimpsest.tasks.fresh import generator
from palimpsest.tasks.glyphs import SEEN, Search, episode, glyphs, unseen_glyphs, view_batches, views
from palimpsest.tasks.splits import Split, Splits

SIZE, STRENGTH = 14, 0.7
WIDTH, FEATURES, PROJECTED = 16, 128, 64
ASKED = 4  # views of each image that asks
EPISODES = 100
STREAM = 150  # random streams of this file: this one and the two after it
CALIBRATION = 512  # images whose statistics an untrained network's batch norm has
UNSEEN, SEEN_LETTERS = "retrieval of unseen letters", "retrieval of seen letters"
NEAREST, EPISODE = "nearest neighbour of unseen letters", "5-way 1-shot of unseen letters"


@dataclass(frozen=True)
class Letters:
    """A seed's letters, networks and batches of views.

    Attributes:
        seed: of the data, the weights, and what is drawn to ask with.
        smoke: a few images.
        views: of each image in a batch.
        head: (width of the features) -> another projection head.
        extra: name -> (width of the features) -> modules of the loss, which are trained too: `model.extra[name]`.
    """

    seed: int
    smoke: bool = False
    views: int = 2
    head: Callable[[int], nn.Module] | None = None
    extra: Mapping[str, Callable[[int], nn.Module]] = field(default_factory=dict)

    @cached_property
    def splits(self) -> Splits[Split]:
        return glyphs(self.seed, strength=0.0, size=SIZE)

    @cached_property
    def train(self) -> Split:
        """The images that views are made of."""
        return self.splits.train[:64] if self.smoke else self.splits.train

    @property
    def data(self) -> Letters:
        return self

    def batches(self, batch_size: int, seed: int) -> Callable[[int], dict[str, Tensor]]:
        size = min(batch_size, len(self.train))
        return view_batches(self.train, size, seed=seed, n=self.views, strength=STRENGTH)

    def model(self, kind: str) -> nn.Module:
        """ "network": an encoder with a projection head; "untrained": the same, with the statistics of training images
        in its batch norm; "classifier": with a linear layer for every letter; "pixels": the images themselves."""
        if kind == "pixels":
            return Pixels()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            body = encoder()
            if kind == "classifier":
                return Projected(body, nn.Linear(FEATURES, SEEN))
            head = (self.head or projected)(FEATURES)
            model = Projected(body, head, {name: build(FEATURES) for name, build in self.extra.items()})
        if kind == "untrained":
            with torch.no_grad():
                model.train()(self.train.x[:CALIBRATION])
        return model

    def search(self, part: Literal["validation", "test"]) -> Search:
        """Some views of every image that asks, and the gallery as drawn."""
        found = unseen_glyphs(self.seed, part, strength=0.0, size=SIZE)
        return replace(found, queries=_asked(found.queries, generator(self.seed, part, STREAM)))


class Pixels(nn.Module):
    """An image is what is there."""

    def features(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def encoder() -> nn.Sequential:
    """Three convolutions that halve the image, and a layer over what is left."""
    layers: list[nn.Module] = []
    for c_in, c_out, kernel in ((1, WIDTH, 5), (WIDTH, 2 * WIDTH, 3), (2 * WIDTH, 4 * WIDTH, 3)):
        layers += [nn.Conv2d(c_in, c_out, kernel, 2, kernel // 2, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(16 * WIDTH, FEATURES, bias=False), nn.BatchNorm1d(FEATURES), nn.ReLU()
    )


def projected(features: int) -> nn.Sequential:
    """The head that all have who ask for none of their own."""
    return projection_head(features, features, PROJECTED)


def measures(world: Letters, model: nn.Module) -> dict[str, float]:
    """Of the features of the seed's images to test on; by cosine."""
    unseen = _embedded(world.search("test"), model)
    drawn = generator(world.seed, "test", STREAM + 1)
    splits = world.splits
    seen = Search(_asked(splits.test, generator(world.seed, "test", STREAM + 2)), splits.train)
    return {
        UNSEEN: _retrieval(unseen),
        NEAREST: float(_hits(unseen)[:, 0].float().mean()),
        EPISODE: fmean(_named(*episode(unseen, drawn)) for _ in range(2 if world.smoke else EPISODES)),
        SEEN_LETTERS: _retrieval(_embedded(seen, model)),
    }


def validate(world: Letters, model: nn.Module, cost: Mapping[str, Any]) -> float:
    """The retrieval of 40 unseen letters that no test asks for."""
    return _retrieval(_embedded(world.search("validation"), model))


def letters_crossentropy(*logits: Tensor, batch: Mapping[str, Tensor], model: nn.Module) -> Tensor:
    """Of the letters' labels, the mean over views."""
    return F.cross_entropy(torch.cat(logits), batch["labels"].repeat(len(logits)))


@torch.no_grad()
def embedded(model: nn.Module, x: Tensor) -> Tensor:
    """The features of images, of norm 1."""
    return F.normalize(model.eval().features(x), dim=1)


def _embedded(search: Search, model: nn.Module) -> Search:
    return Search(*(part.mapped(lambda x: embedded(model, x)) for part in (search.queries, search.gallery)))


def _asked(split: Split, draws: torch.Generator) -> Split:
    rows = torch.arange(len(split)).repeat_interleave(ASKED)
    return replace(split[rows], x=views(split.x, draws, n=ASKED, strength=STRENGTH).flatten(0, 1))


def _hits(search: Search) -> Tensor:
    """Whether each image of the gallery, the nearest first, is of the query's letter [queries, gallery]."""
    order = (search.queries.x @ search.gallery.x.T).argsort(1, descending=True)
    return search.gallery.y[order] == search.queries.y[:, None]


def _retrieval(search: Search) -> float:
    return float(average_precision(_hits(search)).mean())


def _named(support: Split, queries: Split) -> float:
    """How many queries are named by the nearest of the support."""
    return float((support.y[(queries.x @ support.x.T).argmax(1)] == queries.y).float().mean())
