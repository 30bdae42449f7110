"""In small batches, is a yes or no for every pair better than a softmax over the batch, and what is its bias for?
(Zhai et al. 2023, 2303.15343)"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor, nn

from palimpsest.benches.arm import Recipe
from palimpsest.benches.docpairs import DOCPAIRS, SMALL_BATCH
from palimpsest.benches.docpairs_world import RETRIEVAL
from palimpsest.contrast.siglip import BIAS, SigmoidLoss
from palimpsest.evidence.sentences import beats, mechanism
from palimpsest.train.method import Objective
from palimpsest.train.ranges import Above


@dataclass(frozen=True)
class SigmoidPairs(Objective):
    """The sigmoid loss of pairs of texts; its scale and bias are trained with the model, and stay in it.

    Attributes:
        temperature: one over the scale at the start.
        b: the bias at the start.
    """

    temperature: Annotated[float, Above(0)] = 0.1
    b: float = BIAS

    def init(self, model: nn.Module, data: Any) -> None:
        model.loss = SigmoidLoss(-math.log(self.temperature), self.b, normalize=True)

    def loss(self, state: None, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"contrast": model.loss(model(batch["query"]), model(batch["key"]))}


claim = DOCPAIRS.claim(
    paper="siglip",
    question=(
        "In batches of 16 pairs, are texts found better by an encoder trained with the sigmoid loss than with the "
        "softmax, and does it help that the bias starts at -10?"
    ),
    method=Recipe(SigmoidPairs(), grid={"temperature": [0.02, 0.05, 0.1], "lr": [3e-3, 1e-2]}, settings=SMALL_BATCH),
    arms={"b = 0 at start": {"b": 0.0}},
    alive=[beats("untrained", on=RETRIEVAL, by=0.0)],
    central=beats("info_nce, batch 16", on=RETRIEVAL),
    also=[mechanism(beats("b = 0 at start", on=RETRIEVAL, by=0.0))],
    differs=(
        "Pairs of texts and one encoder that learns the vectors of their words, where the paper has images, texts and "
        "two towers; 1,000 pairs seen about six times, where it sees billions once. Small is 16 here and below 16,384 "
        "there; large batches are not tested, and the loss in chunks equals the plain one in the tests. The softmax's "
        "temperature is tuned and stays, that of the sigmoid is learned from a start that is tuned. The arm with b = 0 "
        "is not tuned again."
    ),
)
