"""The user's images in class folders as a world of representations: networks see views, and no labels.

Features are asked which class the nearest training image has, and which images of the test part are of one class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetModel

from palimpsest.benches.bench import Bench, Measure, Recipe
from palimpsest.benches.yours import Yours, unchanged
from palimpsest.contrast.heads import Projected, projection_head
from palimpsest.contrast.pair_losses import Paired, PairLoss
from palimpsest.metrics.retrieval import average_precision
from palimpsest.tasks.image_folders import ImageFolder, read_images
from palimpsest.tasks.image_views import view_batches
from palimpsest.tasks.splits import Split, Splits

NEAREST, RETRIEVAL = "nearest neighbour", "retrieval"
READ = {NEAREST: Measure(), RETRIEVAL: Measure()}
WIDTHS, PROJECTED = (32, 64, 128), 64
SMOKE = 40  # rows of a smoke run
BLOCK = 1024  # images that are compared with all others at a time


@dataclass(frozen=True)
class PicturesWorld:
    """(seed, smoke) -> images and a small residual network.

    Attributes:
        path, size: what `read_images` takes.
        flip: whether left and right may change places.
        digest: of the content that was read at first.
    """

    path: str
    size: int | None = None
    flip: bool = True
    digest: str = ""

    @property
    def images(self) -> ImageFolder:
        """What the folder holds.

        Raises:
            UserError: the folder has changed since.
        """
        return unchanged(_images(self.path, self.size), self.digest, self.path)

    def __call__(
        self,
        seed: int,
        smoke: bool,
        *,
        loss: Any = None,
        views: int = 2,
        head: Callable[[int], nn.Module] | None = None,
        extra: Mapping[str, Callable[[int], nn.Module]] | None = None,
    ) -> Pictures:
        task = self.images.splits(seed)
        if smoke:
            task = task.mapped(lambda part: part[:SMOKE])
        return Pictures(seed, smoke, task, self.flip, loss, views, head, extra or {})


@dataclass(frozen=True)
class Pictures:
    """A seed's images and networks.

    Attributes:
        splits: the images.
        flip: whether left and right may change places.
        loss: with `modules()`, which are trained too.
        views: of each image in a batch.
        head: (width of the features) -> another projection head.
        extra: name -> (width of the features) -> modules of the loss.
    """

    seed: int
    smoke: bool
    splits: Splits[Split]
    flip: bool = True
    loss: Any = None
    views: int = 2
    head: Callable[[int], nn.Module] | None = None
    extra: Mapping[str, Callable[[int], nn.Module]] = field(default_factory=dict)

    @property
    def data(self) -> Pictures:
        return self

    @property
    def train(self) -> Split:
        """The images that views are made of."""
        return self.splits.train

    def batches(self, batch_size: int, seed: int) -> Callable[[int], dict[str, Tensor]]:
        return view_batches(self.train, batch_size, seed=seed, n=self.views, flip=self.flip)

    def model(self, kind: str) -> nn.Module:
        """ "network": with fresh weights; "untrained": the same, with the statistics of training images in its batch
        norm."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            body = Residual(self.train.x.shape[1])
            head = (self.head or _head)(WIDTHS[-1])
            modules = self.loss.modules() if self.loss is not None else {}
            more = {name: build(WIDTHS[-1]) for name, build in self.extra.items()}
            model = Projected(body, head, {**modules, **more})
        if kind == "untrained":
            with torch.no_grad():
                model.train()(self.train.x[:512])
        return model


class Residual(nn.Module):
    """Images [batch, channels, side, side] to features [batch, 128]: a ResNet of three stages of a block each, which
    transformers loads again."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        config = ResNetConfig(
            num_channels=channels,
            embedding_size=WIDTHS[0],
            hidden_sizes=list(WIDTHS),
            depths=[1] * len(WIDTHS),
            layer_type="basic",
        )
        self.network = ResNetModel(config)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).pooler_output.flatten(1)


def measures(world: Pictures, model: nn.Module) -> dict[str, float]:
    """Of the features of the test images, by cosine: whether the nearest training image is of their class, and how well
    each finds the others of its class among the test images."""
    return _scores(model, world.splits.train, world.splits.test)


def validate(world: Pictures, model: nn.Module, cost: Mapping[str, Any]) -> float:
    """The nearest neighbours of the validation part."""
    return _scores(model, world.splits.train, world.splits.validation)[NEAREST]


def on_images(bench: Bench | None = None, *, images: Path, size: int | None = None, flip: bool = True) -> Yours:
    """The comparison of losses on a user's images; of a bench, where one is given."""
    world = PicturesWorld(str(Path(images).absolute()), size, flip)
    read = world.images
    about = f"{Path(images).name}, {len(read)} images of {read.size} x {read.size} pixels, {len(read.classes)} classes"
    on = Bench(
        name="images on your data" if bench is None else f"{bench.name} on your data",
        about=about,
        world=replace(world, digest=read.digest),
        measures=measures,
        read=READ,
        validate=validate,
        start="network",
        floor=("untrained", Recipe(start="untrained")),
        ceiling=None,
        baselines={} if bench is None else bench.baselines,
        points=6 if bench is None else bench.points,
        training={} if bench is None else bench.training,
        pilots=(0, 1) if bench is None else bench.pilots,
    )
    names = {"retrieval of unseen letters": RETRIEVAL, "nearest neighbour of unseen letters": NEAREST}
    starts, takes = frozenset({"network", "untrained"}), frozenset({"views", "head", "extra"})
    return Yours(on, starts, about, tuple(read.notes), {**names, **{name: name for name in READ}}, takes)


def recipe(loss: PairLoss, training: Mapping[str, Any]) -> Recipe:
    """How an arm is made of a loss."""
    return Recipe(Paired(loss), settings={**training, "weight_decay": 1e-4}, world={"loss": loss})


def save_best(world: PicturesWorld, seed: int, model: nn.Module, folder: Path) -> None:
    """The network without its head, as `ResNetModel.from_pretrained` of transformers loads it."""
    model.encoder.network.save_pretrained(folder)


@torch.no_grad()
def _scores(model: nn.Module, train: Split, asked: Split) -> dict[str, float]:
    model.eval()
    known, query = (
        F.normalize(torch.cat([model.features(x) for x in part.x.split(256)]), dim=1) for part in (train, asked)
    )
    right, precision = [], []
    for rows in torch.arange(len(query)).split(BLOCK):
        right.append(train.y[(query[rows] @ known.T).argmax(1)] == asked.y[rows])
        likeness = query[rows] @ query.T
        likeness[torch.arange(len(rows)), rows] = -2.0  # an image is no answer to itself, and comes last
        hits = (asked.y[likeness.argsort(1, descending=True)] == asked.y[rows, None])[:, :-1]
        precision.append(average_precision(hits[hits.any(1)]))
    return {
        NEAREST: float(torch.cat(right).float().mean()),
        RETRIEVAL: float(torch.cat(precision).mean()),
    }


def _head(features: int) -> nn.Sequential:
    return projection_head(features, features, PROJECTED)


@lru_cache(maxsize=2)
def _images(path: str, size: int | None) -> ImageFolder:
    return read_images(path, size=size)
