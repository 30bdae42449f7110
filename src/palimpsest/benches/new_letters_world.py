"""The world of letters with labels, and of others that come later: what an embedding of classes is worth on new ones.

A network learns 312 letters by their labels, in batches of 32 letters with four images each, all seen in random views.
Then 160 other letters get a few examples each, without training, and all images are named by the nearest class mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.benches.glyphs_world import ASKED, CALIBRATION, FEATURES, SIZE, STRENGTH, encoder
from palimpsest.contrast.heads import Projected
from palimpsest.tasks.fresh import generator
from palimpsest.tasks.glyphs import SEEN, Search, glyphs, unseen_glyphs, views
from palimpsest.tasks.splits import Split, Splits

EMBEDDED = 64
LETTERS, IMAGES = 32, 4  # of a batch
EXAMPLES, DRAWS = 5, 10  # of each new letter, and how often they are drawn
STREAM = 160  # random streams of this file: this one and the two after it
AMONG_NEW, AMONG_ALL = "accuracy among new letters", "accuracy among all letters"


@dataclass(frozen=True)
class Classes:
    """A seed's letters, networks and batches of views.

    Attributes:
        seed: of the data, the weights, and what is drawn to ask with.
        smoke: a few images.
        known: train on the images of the new letters too, other than those that ask.
        last: (width of the embedding, letters to train on) -> the last layer, trained too: `model.extra["last"]`.
    """

    seed: int
    smoke: bool = False
    known: bool = False
    last: Callable[[int, int], nn.Module] | None = None

    @cached_property
    def splits(self) -> Splits[Split]:
        return glyphs(self.seed, strength=0.0, size=SIZE)

    @cached_property
    def train(self) -> Split:
        """The images to train on, and their letters."""
        rows = self.splits.train[:64] if self.smoke else self.splits.train
        if not self.known:
            return rows
        new = self.search("test").gallery
        new = replace(new, y=new.y.unique(return_inverse=True)[1] + SEEN)
        return Split(*(torch.cat([getattr(rows, name), getattr(new, name)]) for name in ("x", "y", "index")))

    @property
    def data(self) -> Classes:
        return self

    def batches(self, batch_size: int, seed: int) -> Callable[[int], dict[str, Tensor]]:
        """step -> {"views" [images, 1, 1, side, side], "labels" [images]}, IMAGES of each of some letters."""
        x, y = self.train.x, self.train.y
        letters = y.unique()
        rows = {int(letter): (y == letter).nonzero()[:, 0] for letter in letters}

        def batch(step: int) -> dict[str, Tensor]:
            draws = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
            chosen = letters[torch.randperm(len(letters), generator=draws)[: batch_size // IMAGES]].tolist()
            drawn = [rows[one][torch.randperm(len(rows[one]), generator=draws)[:IMAGES]] for one in chosen]
            picked = torch.cat(drawn)
            return {"views": views(x[picked], draws, n=1, strength=STRENGTH), "labels": y[picked]}

        return batch

    def model(self, kind: str) -> nn.Module:
        """ "network": an encoder with a linear embedding; "untrained": the same, with the statistics of training images
        in its batch norm; "pixels": the images themselves."""
        if kind == "pixels":
            return nn.Sequential(nn.Flatten(1))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = Projected(encoder(), nn.Linear(FEATURES, EMBEDDED))
            if self.last is not None:
                model.extra["last"] = self.last(EMBEDDED, int(self.train.y.max()) + 1)
        if kind == "untrained":
            with torch.no_grad():
                model.train()(self.train.x[:CALIBRATION])
        return model

    def search(self, part: Literal["validation", "test"]) -> Search:
        """Some views of every image of new letters that asks, and the others as drawn."""
        found = unseen_glyphs(self.seed, part, strength=0.0, size=SIZE)
        return replace(found, queries=_asked(found.queries, generator(self.seed, part, STREAM)))


def measures(world: Classes, model: nn.Module) -> dict[str, float]:
    """Class means are of unit vectors, of five examples for new letters and of all training images for seen ones.

    Among new letters these alone are candidates. Among all it is the harmonic mean of the accuracies on new and on
    seen letters, each with all letters as candidates.
    """
    splits, draws = world.splits, generator(world.seed, "test", STREAM + 1)
    seen = _asked(splits.test, generator(world.seed, "test", STREAM + 2))
    search = world.search("test")
    known, few = means(_unit(model, splits.train.x), splits.train.y), _unit(model, search.gallery.x)
    new, old = _unit(model, search.queries.x), _unit(model, seen.x)
    among_new, on_new, on_seen = [], [], []
    for _ in range(2 if world.smoke else DRAWS):
        rows = examples(search.gallery.y, draws)
        classes, vectors = means(few[rows], search.gallery.y[rows])
        every, all_vectors = torch.cat([known[0], classes]), torch.cat([known[1], vectors])
        among_new.append(named(new, vectors, classes, search.queries.y))
        on_new.append(named(new, all_vectors, every, search.queries.y))
        on_seen.append(named(old, all_vectors, every, seen.y))
    both = [2 * a * b / max(a + b, 1e-12) for a, b in zip(on_new, on_seen, strict=True)]
    return {AMONG_NEW: sum(among_new) / len(among_new), AMONG_ALL: sum(both) / len(both)}


def validate(world: Classes, model: nn.Module, cost: Mapping[str, Any]) -> float:
    """The accuracy among 40 new letters that no test asks for, from five examples of each."""
    search = world.search("validation")
    few, asked = _unit(model, search.gallery.x), _unit(model, search.queries.x)
    draws, found = generator(world.seed, "validation", STREAM + 1), []
    for _ in range(DRAWS):
        rows = examples(search.gallery.y, draws)
        classes, vectors = means(few[rows], search.gallery.y[rows])
        found.append(named(asked, vectors, classes, search.queries.y))
    return sum(found) / len(found)


def examples(labels: Tensor, draws: torch.Generator) -> Tensor:
    """Rows of EXAMPLES images of each class, at random."""
    order = torch.randperm(len(labels), generator=draws)
    return torch.cat([order[labels[order] == label][:EXAMPLES] for label in labels.unique()])


def means(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The classes, and the direction of the mean of each one's rows."""
    classes, which = labels.unique(return_inverse=True)
    sums = embeddings.new_zeros(len(classes), embeddings.shape[1]).index_add_(0, which, embeddings)
    return classes, F.normalize(sums, dim=1)


def named(embeddings: Tensor, vectors: Tensor, classes: Tensor, truth: Tensor) -> float:
    """The share of rows whose nearest vector is their class's."""
    return float((classes[(embeddings @ vectors.T).argmax(1)] == truth).float().mean())


@torch.no_grad()
def _unit(model: nn.Module, x: Tensor) -> Tensor:
    return F.normalize(model.eval()(x), dim=1)


def _asked(split: Split, draws: torch.Generator) -> Split:
    rows = torch.arange(len(split)).repeat_interleave(ASKED)
    return replace(split[rows], x=views(split.x, draws, n=ASKED, strength=STRENGTH).flatten(0, 1))
