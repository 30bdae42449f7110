"""Value vectors: what a model's MLPs write into the residual stream, one vector a neuron. Which of them promote given
words, and whether noise on one hurts some answers more than others; see `palimpsest.forget.concept_vectors`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from palimpsest.errors import UserError
from palimpsest.forget.procedure import ForgetData
from palimpsest.models.blocks import blocks, mlp_output
from palimpsest.models.score import Encoded, score

CHUNK = 1024  # value vectors that are projected onto the vocabulary together


class Location(NamedTuple):
    """A value vector: the block's number from 0, and the column (neuron) of its MLP's output matrix."""

    layer: int
    dim: int


class ConceptVector(NamedTuple):
    """A candidate: where it is, the share of concept tokens that are found among its top tokens, and their mean logit
    over all concept tokens."""

    loc: Location
    share: float
    logit: float


class CausalCheck(NamedTuple):
    """The share of right answer tokens about the concept and about other things, before noise and with it."""

    concept_before: float
    concept_after: float
    unrelated_before: float
    unrelated_after: float

    @property
    def effect(self) -> float:
        """How much more the concept's answers fall than the others; the vector passes where it is above 0."""
        return (self.concept_before - self.concept_after) - (self.unrelated_before - self.unrelated_after)

    @property
    def passes(self) -> bool:
        return self.effect > 0


def value_vectors(model: nn.Module, layer: int) -> Float[Tensor, "neurons d"]:
    """A block's value vectors, one a row: a view of the weights, with which they can be changed.

    >>> from palimpsest.models import causal_lm
    >>> value_vectors(causal_lm(20, d_model=16, n_heads=2, architecture="gpt2"), 1).shape
    torch.Size([64, 16])
    """
    layers = blocks(model)
    if not 0 <= layer < len(layers):
        raise ValueError(f"layer must be from 0 to {len(layers) - 1}, got {layer}")
    down = mlp_output(layers[layer])
    return down.weight.detach() if isinstance(down, Conv1D) else down.weight.detach().T


def value_vector(model: nn.Module, loc: Location) -> Float[Tensor, "d"]:
    """The value vector at `loc`: a view of the weights."""
    vectors = value_vectors(model, loc[0])
    if not 0 <= loc[1] < len(vectors):
        raise ValueError(f"dim must be from 0 to {len(vectors) - 1}, got {loc[1]}")
    return vectors[loc[1]]


def top_tokens(vector: Float[Tensor, "d"], unembedding: Float[Tensor, "vocab d"], top: int = 200) -> Int[Tensor, "top"]:
    """The tokens that a value vector promotes most: the largest of E v.

    >>> top_tokens(torch.tensor([1.0, 0.0]), torch.tensor([[0.0, 9.0], [2.0, 0.0], [3.0, 0.0]]), top=2)
    tensor([2, 1])
    """
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    return (unembedding @ vector).topk(min(top, len(unembedding))).indices


@torch.no_grad()
def find_concept_vectors(
    model: PreTrainedModel,
    concept_tokens: Sequence[int],
    *,
    top: int = 200,
    drop: float = 0.3,
    keep: int = 10,
    by: Literal["share", "logit"] = "share",
) -> list[ConceptVector]:
    """The value vectors of all layers that promote a concept's tokens most, best first.

    The `drop` share of the vectors whose mean logit over the vocabulary is lowest is left out. The others are ranked
    by `share`, |top tokens ∩ concept tokens| / min(top, |concept tokens|), or by `logit`, the concept tokens' mean
    logit; the other decides among equals. A short vector may have a high share and still say little: in small models
    many are so, and `logit` passes them over.

    Args:
        model: any causal language model with MLPs.
        concept_tokens: token ids that belong to the concept.
        top: how many tokens of a vector are looked at.
        keep: how many vectors are returned.
        by: what they are ranked by.

    Raises:
        ValueError: if there are no concept tokens, one is outside the vocabulary, or an argument is out of range.
    """
    unembedding = model.get_output_embeddings().weight
    concept = torch.as_tensor(sorted(set(concept_tokens)), device=unembedding.device)
    if len(concept) == 0 or concept[0] < 0 or concept[-1] >= len(unembedding):
        raise ValueError(f"concept_tokens must be ids below {len(unembedding)}, at least one, got {concept.tolist()}")
    if top < 1 or keep < 1 or not 0 <= drop < 1:
        raise ValueError(f"need top >= 1, keep >= 1 and drop in [0, 1), got {top}, {keep} and {drop}")
    if by not in ("share", "logit"):
        raise ValueError(f"by must be 'share' or 'logit', got {by!r}")
    layers = [value_vectors(model, layer) for layer in range(len(blocks(model)))]
    mean_token = unembedding.mean(0)  # the mean logit of v is v . mean(E): no [vectors, vocabulary] array is needed
    floor = torch.cat([vectors @ mean_token for vectors in layers]).float().quantile(drop)
    most, top = min(top, len(concept)), min(top, len(unembedding))
    found = []
    for layer, vectors in enumerate(layers):
        for start in range(0, len(vectors), CHUNK):
            part = vectors[start : start + CHUNK]
            logits = part @ unembedding.T
            share = torch.isin(logits.topk(top).indices, concept).sum(1) / most
            logit = logits[:, concept].mean(1)
            for i in (part @ mean_token >= floor).nonzero()[:, 0].tolist():
                found.append(ConceptVector(Location(layer, start + i), float(share[i]), float(logit[i])))
    other = "logit" if by == "share" else "share"
    return sorted(found, key=lambda vector: (-getattr(vector, by), -getattr(vector, other)))[:keep]


def distinctive_tokens(forget: Encoded, retain: Encoded, *, ratio: float = 5.0, most: int = 200) -> list[int]:
    """The tokens of the forget answers that are far more frequent there than in the retain answers: their share of the
    forget answers' tokens is at least `ratio` times their (add-one) share of the retain answers'. The most
    overrepresented ones first, weighted by how often they occur."""

    def counts(rows: Encoded) -> Counter[int]:
        return Counter(
            token for ids, length in zip(rows.input_ids, rows.prompt_lengths, strict=True) for token in ids[length:]
        )

    wanted, other = counts(forget), counts(retain)
    n_wanted, n_other = wanted.total(), other.total() + len(wanted)
    lift = {token: (n / n_wanted) / ((other[token] + 1) / n_other) for token, n in wanted.items()}
    chosen = [token for token in wanted if lift[token] >= ratio]
    return sorted(chosen, key=lambda token: (-wanted[token] * np.log(lift[token]), token))[:most]


@torch.no_grad()
def add_noise(model: nn.Module, loc: Location, std: float = 5.0, seed: int = 0) -> None:
    """Adds to the value vector at `loc`, in place, Gaussian noise of `std` times the standard deviation of its
    entries."""
    vector = value_vector(model, loc)
    noise = torch.randn(len(vector), generator=torch.Generator().manual_seed(seed)).to(vector)
    vector += std * vector.std() * noise


@torch.no_grad()
def causal_check(
    model: nn.Module,
    loc: Location,
    concept: Encoded,
    unrelated: Encoded,
    *,
    pad_id: int,
    std: float = 5.0,
    draws: int = 3,
    seed: int = 0,
) -> CausalCheck:
    """Whether noise on a vector hurts the answers about its concept more than others (mean over `draws` of noise).

    An answer is judged by the share of its tokens that are the model's first choice, given the true ones before. The
    model is left as it was, to the bit.
    """

    def accuracies() -> np.ndarray:
        return np.array(
            [
                np.mean([hits.mean() for hits in score(model, rows, pad_id=pad_id).argmax_hits if len(hits)])
                for rows in (concept, unrelated)
            ]
        )

    vector = value_vector(model, loc)
    kept, before, after = vector.clone(), accuracies(), []
    try:
        for draw in range(draws):
            add_noise(model, loc, std, seed + draw)
            after.append(accuracies())
            vector.copy_(kept)
    finally:
        vector.copy_(kept)
    now = np.mean(after, axis=0)
    return CausalCheck(float(before[0]), float(now[0]), float(before[1]), float(now[1]))


def most_causal(
    model: PreTrainedModel,
    data: ForgetData,
    *,
    top: int,
    keep: int,
    ratio: float,
    margin: float,
    std: float,
    seed: int,
) -> Location:
    """Of the `keep` vectors that promote the forget answers' own words most, the one whose noise costs these answers
    most beyond the retain answers.

    Args:
        top: how many tokens of a vector are looked at, and how many words of the answers' own at most.
        ratio: see `distinctive_tokens`.
        margin: how much more of the forget answers' accuracy than of the retain answers' the noise must cost.
        std, seed: of the noise.

    Raises:
        UserError: if the forget answers have no words of their own, or no candidate passes the causal check.
    """
    tokens = distinctive_tokens(data.forget, data.retain, ratio=ratio, most=top)
    if not tokens:
        raise UserError(
            f"no token is {ratio:g} times as frequent in the forget answers as in the retain answers:"
            " lower ratio, or give rows that are about one thing"
        )
    found = find_concept_vectors(model, tokens, top=top, keep=keep)
    effects = [
        causal_check(model, vector.loc, data.forget, data.retain, pad_id=data.pad_id, std=std, seed=seed).effect
        for vector in found
    ]
    best = max(range(len(found)), key=lambda i: effects[i])
    if not effects[best] > margin:
        raise UserError(
            f"noise on none of the {len(found)} vectors that promote the concept most costs the forget answers"
            f" {margin:g} more accuracy than the retain answers (at most {effects[best]:.3f}): what they say is not in"
            " one vector; use another method, or more candidates"
        )
    return found[best].loc
