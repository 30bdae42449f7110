"""The world of docstrings that comparisons of training a language model are made on: bytes of technical English.

A decoder sees each of 2,400 blocks of 127 bytes once, and is judged by the bits per byte of modules that it was
not trained on (`palimpsest.tasks.doc_text`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import CausalLMOutput

from palimpsest.models.language import causal_lm
from palimpsest.tasks.doc_text import BYTES, Blocks, doc_text, ngram
from palimpsest.tasks.splits import Splits
from palimpsest.train.order import shuffled

LENGTH, WIDTH, LAYERS = 128, 64, 2
VALIDATED, TESTED = 300, 600
"""blocks, of about 3,000 and 1,500"""
BITS = "bits per byte"


@dataclass(frozen=True)
class Docstrings:
    """A seed's blocks and models.

    Attributes:
        seed: of the blocks to train on, of the modules to test on, and of the weights.
        smoke: blocks of noise, so that no docstring is read.
        blocks: how many to train on.
    """

    seed: int
    smoke: bool = False
    blocks: int = 2_400

    @cached_property
    def splits(self) -> Splits[Blocks]:
        if self.smoke:
            draws = torch.Generator().manual_seed(self.seed)
            noise = Blocks(torch.randint(4, BYTES, (24, LENGTH), generator=draws), torch.full((24,), LENGTH - 1))
            return Splits(noise[:8], noise[8:16], noise[16:])
        task = doc_text(self.seed, vocabulary=BYTES, length=LENGTH, train=self.blocks)
        return Splits(task.train, task.validation[:VALIDATED], task.test[:TESTED])

    @property
    def data(self) -> Docstrings:
        return self

    def batches(self, batch_size: int, seed: int) -> Callable[[int], dict[str, Tensor]]:
        """step -> {"input_ids", "labels" [batch, 128], "index"}."""
        train = self.splits.train
        order = shuffled(len(train), batch_size, seed)
        return lambda step: train.batch(order(step))

    def model(self, kind: str) -> nn.Module:
        """ "decoder": two layers of width 64; "unigram", "bigram": counts of the blocks."""
        if kind in ("unigram", "bigram"):
            return Counts(ngram(self.splits.train, 1 if kind == "unigram" else 2, BYTES).log().float())
        return causal_lm(BYTES, d_model=WIDTH, n_layers=LAYERS, max_length=LENGTH, seed=self.seed)


class Counts(nn.Module):
    """A causal language model that looks at the last token only.

    Args:
        logits: log p(next | last).
    """

    def __init__(self, logits: Float[Tensor, "vocabulary vocabulary"]) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, input_ids: Int[Tensor, "batch length"], **more: Any) -> CausalLMOutput:
        return CausalLMOutput(logits=self.logits[input_ids])


def next_token(model: nn.Module, batch: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """What is minimised: mean -log p(token | those before it in its block)."""
    logits = model(input_ids=batch["input_ids"]).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())


def measures(world: Docstrings, model: nn.Module) -> dict[str, float]:
    """Bits per byte of the seed's test blocks."""
    return {BITS: _bits(model, world.splits.test)}


def validate(world: Docstrings, model: nn.Module, cost: Mapping[str, Any]) -> float:
    """Bits per byte, below 0, of modules that no test is on."""
    bits = _bits(model, world.splits.validation)
    return -bits if math.isfinite(bits) else -math.inf


@torch.no_grad()
def _bits(model: nn.Module, blocks: Blocks) -> float:
    model.eval()
    rows = (blocks.batch(slice(start, start + 100)) for start in range(0, len(blocks), 100))
    return blocks.bits_per_byte(sum(next_token(model, row) * row["labels"][:, 1:].numel() for row in rows))
