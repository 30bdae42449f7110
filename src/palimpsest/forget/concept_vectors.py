"""Concept vectors (Hong, Yu, Yang, Ravfogel and Geva, 2024, "Intrinsic Evaluation of Unlearning Using Parametric
Knowledge Traces", arXiv 2406.11614).

Behaviour may change while the knowledge stays in the weights. An MLP writes into the residual stream a sum of its
neurons' *value vectors* v, the columns of its output matrix; E v, with the unembedding E, says which tokens a vector
promotes. Some vectors promote a concept's words: a *concept vector* at (layer, column). What unlearning did to it is

    jaccard(top-k tokens of E v, top-k tokens of E' v')        cosine(v, v')        |v - v'|

and Needle, the paper's reference for what erasing would look like, destroys that one column: Gaussian noise on it, then
optionally gradient ascent that moves nothing else. A vector counts only where noise on it hurts the answers about its
concept more than others.

The noise is given in units of the column's own standard deviation. The authors add noise of 0.1 to columns of Llama-2
and OLMo whose entries have a standard deviation of about 0.02: five units, the default here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from torch import nn
from transformers import PreTrainedModel

from palimpsest.errors import UserError
from palimpsest.forget.procedure import ForgetData, unlearn
from palimpsest.forget.value_training import ColumnAscent
from palimpsest.forget.value_vectors import Location, add_noise, most_causal, value_vectors
from palimpsest.lazy import front_door
from palimpsest.models.blocks import blocks, mlp_output
from palimpsest.train.method import Edit, check_needs
from palimpsest.train.ranges import Above, AtLeast


def needle(
    model: PreTrainedModel,
    loc: Location,
    std: float = 5.0,
    steps: int = 0,
    *,
    data: ForgetData | None = None,
    lr: float = 0.01,
    batch_size: int = 16,
    seed: int = 0,
    **options: Any,
) -> PreTrainedModel:
    """Destroys the value vector at `loc`, in place: noise, then `steps` of gradient ascent on the forget rows of `data`
    that move this vector only. All other weights stay as they are, to the bit.

    Args:
        std: of the noise, in units of the standard deviation of the vector's entries.
        lr, batch_size, options: of the ascent; see `palimpsest.forget.unlearn`. `options` must not decay weights.

    Returns:
        The model.
    """
    if std < 0 or steps < 0:
        raise ValueError(f"std and steps must be at least 0, got {std} and {steps}")
    if steps and data is None:
        raise ValueError(f"the {steps} steps of ascent need rows to forget: give data")
    if options.get("weight_decay"):
        raise ValueError(f"weight_decay={options['weight_decay']} would shrink the vectors beside it: leave it at 0")
    add_noise(model, loc, std, seed)
    if steps:
        unlearn(model, ColumnAscent(*loc), data, steps=steps, lr=lr, batch_size=batch_size, seed=seed, **options)
    return model


@dataclass(frozen=True)
class Needle(Edit):
    """Finds the value vector that carries what the forget rows are about, and destroys it.

    The concept's tokens are those that the forget answers have far more often than the retain answers. Of the vectors
    that promote them most, the one whose noise hurts the forget answers most beyond the retain answers is taken.

    Attributes:
        std: of the noise, in units of the standard deviation of the vector's entries.
        steps: of gradient ascent on the vector after the noise.
        lr: of the ascent.
        top: how many tokens of a vector are looked at.
        candidates: how many of the vectors that promote the concept most are tried.
        ratio: how many times as frequent a token of the concept is in the forget answers.
        margin: how much more of the forget answers' accuracy than of the retain answers' the noise must cost.
        seed: of the noise.
    """

    std: Annotated[float, Above(0)] = 5.0
    steps: Annotated[int, AtLeast(0)] = 0
    lr: Annotated[float, Above(0)] = 0.01
    top: Annotated[int, AtLeast(1)] = 200
    candidates: Annotated[int, AtLeast(1)] = 10
    ratio: Annotated[float, Above(1)] = 5.0
    margin: Annotated[float, AtLeast(0)] = 0.02
    seed: int = 0
    needs: ClassVar[frozenset[str]] = frozenset({"retain"})

    def fits(self, model: nn.Module) -> None:
        head = model.get_output_embeddings()
        for layer, block in enumerate(blocks(model)):
            if not mlp_output(block).weight.requires_grad:
                raise UserError("it changes weights that are frozen in this model: merge its adapter first")
            if head is None or value_vectors(model, layer).shape[1] != head.weight.shape[1]:
                raise UserError("its value vectors are not of the output layer's width: no words can be read off them")

    def locate(self, model: PreTrainedModel, data: ForgetData) -> Location:
        """The vector to destroy; see `palimpsest.forget.value_vectors.most_causal`."""
        check_needs(self, data)
        search = {"top": self.top, "keep": self.candidates, "ratio": self.ratio, "margin": self.margin}
        return most_causal(model, data, **search, std=self.std, seed=self.seed)

    def edit(self, model: PreTrainedModel, data: ForgetData, **options: Any) -> PreTrainedModel:
        """The model, changed in place. `options`: `batch_size` of the ascent, and others of `unlearn`."""
        ascent = {"steps": self.steps, "lr": self.lr, "data": data, "seed": self.seed}
        kept = {name: value for name, value in options.items() if name not in ascent}
        return needle(model, self.locate(model, data), self.std, **ascent, **kept)


_MOVED = {
    "forget.value_training": ("ValueMatricesOnly",),
    "forget.concept_vectors_measures": (
        "JAILBREAKS",
        "concept_vectors_score",
        "intrinsic_scores",
        "jailbreak_prompts",
        "read_concepts",
    ),
    "forget.value_vectors": (
        "CHUNK",
        "CausalCheck",
        "ConceptVector",
        "causal_check",
        "distinctive_tokens",
        "find_concept_vectors",
        "top_tokens",
        "value_vector",
    ),
    "metrics.text": ("rouge_l_f1",),
}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
