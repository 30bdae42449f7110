"""The user's pairs of texts and their encoder, as a world: which document belongs to a query?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from palimpsest.benches.bench import Bench, Measure, Recipe
from palimpsest.benches.yours import Yours, unchanged
from palimpsest.contrast.pair_losses import Paired, PairLoss
from palimpsest.metrics.retrieval import average_precision
from palimpsest.models.sentence_encoders import load_encoder
from palimpsest.tasks.docpairs import Pairs
from palimpsest.tasks.pair_files import PairFile, read_pairs
from palimpsest.tasks.splits import Splits
from palimpsest.train.order import shuffled

RETRIEVAL, FIRST, GAIN = "retrieval", "found first", "nDCG@10"
READ = {GAIN: Measure(), RETRIEVAL: Measure(), FIRST: Measure()}
SMOKE = 30  # rows of a smoke run
BLOCK = 1024  # queries that are compared with all documents at a time


@dataclass(frozen=True)
class PairsWorld:
    """(seed, smoke) -> pairs, and the encoder as the user has it.

    Attributes:
        path: of the pairs.
        model: folder of the encoder.
        digest: of the pairs' content that was read at first.
    """

    path: str
    model: str
    digest: str = ""

    @property
    def pairs(self) -> PairFile:
        """What the file holds.

        Raises:
            UserError: the file has changed since.
        """
        return unchanged(_pairs(self.path), self.digest, self.path)

    def __call__(
        self,
        seed: int,
        smoke: bool,
        *,
        loss: Any = None,
        extra: Mapping[str, Callable[[int], nn.Module]] | None = None,
    ) -> PairsOfAUser:
        task = self.pairs.splits(seed)
        if smoke:
            task = task.mapped(lambda part: part[:SMOKE])
        return PairsOfAUser(seed, smoke, task, self.model, loss, extra or {})


@dataclass(frozen=True)
class PairsOfAUser:
    """A seed's pairs and encoder.

    Attributes:
        splits: the pairs.
        folder: of the encoder.
        loss: with `modules()`, which are trained too.
        extra: name -> (width of the embeddings) -> such modules.
    """

    seed: int
    smoke: bool
    splits: Splits[Pairs]
    folder: str
    loss: Any = None
    extra: Mapping[str, Callable[[int], nn.Module]] = field(default_factory=dict)

    @property
    def data(self) -> PairsOfAUser:
        return self

    def batches(self, batch_size: int, seed: int) -> Callable[[int], dict[str, Any]]:
        """step -> {"query", "key"}: what the encoder takes, row by row a pair; and the rows' "wording", "content"."""
        train = self.splits.train
        order = shuffled(len(train), min(batch_size, len(train)), seed)
        encoder = _untrained(self.folder)
        prepared = getattr(encoder, "preprocess", None) or encoder.tokenize  # its name before version 6

        def batch(step: int) -> dict[str, Any]:
            part = train[order(step)]
            query, key = (prepared(list(texts)) for texts in (part.summary, part.body))
            return {"query": dict(query), "key": dict(key), "wording": part.wording, "content": part.content}

        return batch

    def model(self, kind: str) -> nn.Module:
        """ "encoder": as the folder has it."""
        encoder = load_encoder(self.folder)
        modules = self.loss.modules() if self.loss is not None else {}
        if self.extra:
            width = encoder.encode(["a"], show_progress_bar=False).shape[1]
            modules |= {name: build(width) for name, build in self.extra.items()}
        return SentenceEncoder(encoder, modules)


class SentenceEncoder(nn.Module):
    """An encoder of sentence-transformers: features of texts to embeddings [batch, d].

    Args:
        encoder: a SentenceTransformer.
        extra: modules of a loss that are trained too.
    """

    def __init__(self, encoder: Any, extra: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.encoder, self.extra = encoder, nn.ModuleDict(extra)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        return self.encoder(dict(features))["sentence_embedding"]

    def texts(self, texts: tuple[str, ...]) -> Tensor:
        """Embeddings of norm 1."""
        found = self.encoder.encode(list(texts), convert_to_tensor=True, show_progress_bar=False, batch_size=64)
        return F.normalize(found.float(), dim=1)


def measures(world: PairsOfAUser, model: nn.Module) -> dict[str, float]:
    """Queries of the test part among all of its documents; an equal document, or another one of an equal query, is
    right too."""
    return _scores(model, world.splits.test)


def validate(world: PairsOfAUser, model: nn.Module, cost: Mapping[str, Any]) -> float:
    """nDCG@10 of the validation part."""
    return _scores(model, world.splits.validation)[GAIN]


def on_pairs(bench: Bench | None = None, *, pairs: Path, model: Path) -> Yours:
    """The comparison of losses on a user's pairs and encoder; of a bench, where one is given."""
    world = PairsWorld(str(Path(pairs).absolute()), str(Path(model).absolute()))
    read = world.pairs
    _untrained(world.model)  # what is wrong with it is said before anything is trained
    about = f"{len(read)} pairs of {Path(pairs).name}, encoder {Path(model).name}"
    floor = ("as it is", Recipe(start="encoder"))
    on = Bench(
        name="pairs on your data" if bench is None else f"{bench.name} on your data",
        about=about,
        world=replace(world, digest=read.digest),
        measures=measures,
        read=READ,
        validate=validate,
        start="encoder",
        floor=floor,
        ceiling=None,
        baselines={} if bench is None else bench.baselines,
        points=6 if bench is None else bench.points,
        training={} if bench is None else bench.training,
        pilots=(0, 1) if bench is None else bench.pilots,
    )
    names = {"retrieval of bodies": RETRIEVAL, "bodies found first": FIRST}
    measured = {**names, **{name: name for name in READ}}
    return Yours(on, frozenset({"encoder"}), about, tuple(read.notes), measured, frozenset({"extra"}))


def recipe(loss: PairLoss, training: Mapping[str, Any]) -> Recipe:
    """How an arm is made of a loss."""
    return Recipe(Paired(loss), settings=training, world={"loss": loss})


def save_best(world: PairsWorld, seed: int, model: nn.Module, folder: Path) -> None:
    """The encoder, as sentence-transformers loads it."""
    model.encoder.save(str(folder))


@torch.no_grad()
def of_queries(model: nn.Module, pairs: Pairs) -> dict[str, Float[Tensor, " queries"]]:
    """The measures of every query that is asked."""
    asked = pairs[pairs.asked]
    query, key = model.texts(asked.summary), model.texts(pairs.body)
    found: dict[str, list[Tensor]] = {name: [] for name in READ}
    for rows in torch.arange(len(asked)).split(BLOCK):
        order = (query[rows] @ key.T).argsort(1, descending=True).cpu()
        hits = asked[rows].answers(pairs).gather(1, order)
        place = torch.arange(2, min(10, hits.shape[1]) + 2).log2()
        ideal = (torch.arange(len(place)) < hits.sum(1, keepdim=True)) / place
        found[GAIN].append((hits[:, : len(place)] / place).sum(1) / ideal.sum(1))
        found[RETRIEVAL].append(average_precision(hits))
        found[FIRST].append(hits[:, 0].float())
    return {name: torch.cat(values) for name, values in found.items()}


def _scores(model: nn.Module, pairs: Pairs) -> dict[str, float]:
    return {name: float(values.mean()) for name, values in of_queries(model, pairs).items()}


@lru_cache(maxsize=1)
def _untrained(folder: str) -> Any:
    """The encoder as the folder has it, never trained: to cut texts into tokens with."""
    return load_encoder(folder)


@lru_cache(maxsize=2)
def _pairs(path: str) -> PairFile:
    return read_pairs(path)
