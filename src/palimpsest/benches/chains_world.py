"""The world of Markov chains, of which those on two blocks of states are to be forgotten: what should be left is known.

A model that never saw the blocks 4-6 and 7-9 knows of their states only what the kept chains do there: from outside
their block they go anywhere. So what a model says next can be compared with what it should say, at every place of every
chain, without a retrained model; that one is the ceiling (`palimpsest.tasks.markov`). The chains on 7-9 are short.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from palimpsest.errors import NotFinite
from palimpsest.forget.procedure import ForgetData
from palimpsest.models.forward import evaluating
from palimpsest.models.language import causal_lm
from palimpsest.models.score import Encoded
from palimpsest.tasks.fresh import split_seed
from palimpsest.tasks.markov import (
    BLOCKS,
    BOS,
    PAD,
    STATES,
    VOCABULARY,
    MarkovTask,
    chains,
    encode_chains,
    markov_unlearning,
    transitions,
)
from palimpsest.tasks.worlds import cached
from palimpsest.train.language import fine_tune

GIVEN = 100  # chains to keep that methods are given
SHAPE = {"d_model": 32, "n_layers": 2, "max_length": 24}
TRAINING = {"epochs": 10, "lr": 3e-3, "batch_size": 32}
FORGOTTEN = 0.05
ADVANTAGE, BOTH, KEPT, GONE = "forget advantage", "divergence", "kept divergence", "forgotten divergence"


@dataclass(frozen=True)
class Chains:
    """The chains of a seed, and models that have learned them.

    Attributes:
        seed: of chains, weights and order.
        smoke: few chains, and models that have learned little.
    """

    seed: int
    smoke: bool = False

    @cached_property
    def task(self) -> MarkovTask:
        n = (200, 40, 40) if self.smoke else (1000, 500, 500)
        return markov_unlearning(self.seed, n=n, n_test=20 if self.smoke else 100)

    @cached_property
    def validation(self) -> dict[str, Int[Tensor, "n length"]]:
        """Chains of each block that are neither given nor tested on."""
        seed = 3 * split_seed(self.seed, "validation")
        return {
            block: chains(block, *test.shape, leak=self.task.leak, seed=seed + place)
            for place, (block, test) in enumerate(self.task.test.items())
        }

    @cached_property
    def data(self) -> ForgetData:
        """What methods are given: all chains to forget, and a tenth of those to keep."""
        forget = self._learned("forget1", "forget2")
        return ForgetData(forget, encode_chains(self.task.train["retain"][:GIVEN]), pad_id=PAD)

    def model(self, kind: str = "base") -> PreTrainedModel:
        """A fresh copy of a model: "base" has learned all chains, "gold" those to keep, "untrained" none."""
        kinds = ("base", "gold", "untrained")
        if kind not in kinds:
            raise ValueError(f"kind must be one of {', '.join(kinds)}, got {kind!r}")
        model = causal_lm(VOCABULARY, seed=self.seed + 10_000_000 * kinds.index(kind), **SHAPE)
        if kind != "untrained":
            settings = {"kind": kind, "seed": self.seed, "smoke": self.smoke, **SHAPE, **TRAINING, "recipe": 1}

            def build(folder: Path) -> None:
                rows = self._learned(*(BLOCKS if kind == "base" else ["retain"]))
                options = {**TRAINING, "epochs": 1} if self.smoke else TRAINING
                fine_tune(model, rows, pad_id=PAD, schedule="linear", seed=self.seed, progress=False, **options)
                save_model(model, folder / "weights.safetensors")

            folder = cached(f"chains-{kind}-{self.seed}", settings, build)
            load_model(model, folder / "weights.safetensors")
        return model.eval()

    def _learned(self, *blocks: str) -> Encoded:
        parts = [encode_chains(self.task.train[block]) for block in blocks]
        return Encoded([row for part in parts for row in part.input_ids], [1] * sum(map(len, parts)))


def expected(rows: Int[Tensor, "n length"]) -> Float[Tensor, "n length states"]:
    """What a model that knows the kept chains alone should say at every place of a chain."""
    matrix = transitions("retain")
    first = matrix[BLOCKS["retain"][0]].expand(len(rows), 1, STATES)  # a chain begins as its block goes on
    return torch.cat([first, matrix[rows[:, :-1]]], 1)


@torch.no_grad()
def said(model: nn.Module, rows: Int[Tensor, "n length"]) -> Float[Tensor, "n length states"]:
    """Log-probabilities of the states at every place of a chain.

    Raises:
        NotFinite: training broke the model.
    """
    begun = torch.cat([torch.full((len(rows), 1), BOS), rows[:, :-1]], 1)
    with evaluating(model):
        found = model(input_ids=begun).logits.float().log_softmax(-1)[..., :STATES]
    if not found.isfinite().all():
        raise NotFinite("the model says what is not a number")
    return found


def divergence(model: nn.Module, rows: Int[Tensor, "n length"]) -> float:
    """KL(what should be said || what the model says), mean over all places, in nats."""
    p = expected(rows)
    return float((p * (p.log() - said(model, rows))).sum(-1).mean())


def advantage(model: nn.Module, rows: Int[Tensor, "n length"]) -> float:
    """How much likelier the model finds a chain's states than it should, mean over all places, in nats."""
    likelier = said(model, rows) - expected(rows).log()
    return float(likelier.gather(-1, rows[..., None]).mean())


def forgotten(world: Chains, model: nn.Module) -> float:
    """The advantage on the chains to forget that methods are given, of the block on which it is larger."""
    return max(_or_worst(advantage, model, world.task.train[block][:100], -10.0) for block in ("forget1", "forget2"))


def measures(world: Chains, model: nn.Module) -> dict[str, float]:
    """On new chains: how far what is said of kept and of forgotten ones is from what should be, and the mean of both;
    and by how much the chains that methods were given are still likelier than they should be."""
    return {**_divergences(model, world.task.test), ADVANTAGE: forgotten(world, model)}


def validate(world: Chains, model: nn.Module, cost: Mapping[str, Any]) -> float:
    """Of a model that has forgotten, how near what it says is to what should be; of one that has not, how far it is
    from that, and 10 more below."""
    far = forgotten(world, model)
    return -_divergences(model, world.validation)[BOTH] if far <= FORGOTTEN else -10.0 - far


def _divergences(model: nn.Module, of: Mapping[str, Int[Tensor, "n length"]]) -> dict[str, float]:
    each = {block: _or_worst(divergence, model, rows, 10.0) for block, rows in of.items()}
    kept, gone = each["retain"], (each["forget1"] + each["forget2"]) / 2
    return {BOTH: (kept + gone) / 2, KEPT: kept, GONE: gone, **{f"divergence on {b}": v for b, v in each.items()}}


def _or_worst(measure: Callable[..., float], model: nn.Module, rows: Tensor, worst: float) -> float:
    try:
        return measure(model, rows)
    except NotFinite:
        return worst
