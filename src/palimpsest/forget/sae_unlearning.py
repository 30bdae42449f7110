"""Unlearning with a sparse autoencoder (Farrell, Lau and Conmy, 2024, "Applying sparse autoencoders to unlearn
knowledge in language models", arXiv 2410.19278).

No weight changes: the features that the forget rows have and the retain rows hardly ever are pushed far below zero,
wherever they are active (never at a text's first token, nor at bos), in the residual stream after one block,

    h'' = h + sum_{i: f_i > 0} (clamp - f_i) d_i,          clamp < 0;  0 ablates

d_i: feature i's direction. h is edited, not replaced by its reconstruction: what the autoencoder misses is kept. The
paper clamps at -20 in its autoencoders' units; as these differ, `scale_by` counts in the feature's own mean.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.errors import UserError
from palimpsest.forget.procedure import ForgetData, encode_pairs
from palimpsest.forget.truly_unlearn import letter_accuracy
from palimpsest.models.blocks import blocks
from palimpsest.models.hooks import activations, edit_activation
from palimpsest.models.sae import SparseAutoencoder
from palimpsest.models.score import Encoded, context_length, pad_token_id, score
from palimpsest.tasks.multiple_choice import LETTERS, Question, plain
from palimpsest.train.method import Intervention
from palimpsest.train.ranges import Above, AtLeast, AtMost, require
from palimpsest.train.sae import train_sae


def residual_stream(
    model: nn.Module, rows: Encoded, layer: int, *, pad_id: int, batch_size: int = 32
) -> Float[Tensor, "tokens d"]:
    """The residual stream after block `layer` (0 is the first) at all tokens of the rows but each row's first."""
    found = activations(model, rows, {"h": blocks(model)[layer]}, pad_id=pad_id, batch_size=batch_size)
    return torch.cat([seen["h"][:, 1:][batch["attention_mask"][:, 1:].bool()].float() for batch, seen in found])


def select_features(
    forget: Float[Tensor, "tokens m"], retain: Float[Tensor, "others m"], retain_max: float = 0.01, k: int = 20
) -> Int[Tensor, "chosen"]:
    """The k features that most forget tokens have, of those that at most a share `retain_max` of the retain tokens has.

    Fewer than k, if not so many are ever active on the forget tokens.

    Raises:
        UserError: if there is none.

    >>> forget = torch.tensor([[1.0, 2.0, 0.0], [1.0, 0.0, 0.0]])
    >>> select_features(forget, torch.tensor([[5.0, 0.0, 0.0]]), k=2)
    tensor([1])
    """
    share, other = ((f > 0).double().mean(0) for f in (forget, retain))
    order = share.argsort(descending=True, stable=True)
    chosen = order[(other[order] <= retain_max) & (share[order] > 0)][:k]
    if len(chosen) == 0:
        raise UserError(
            f"no feature is active on the forget rows and on at most {retain_max:.0%} of the retain tokens: raise "
            "retain_max, or train a wider autoencoder"
        )
    return chosen


def clamped(
    h: Float[Tensor, "... d"],
    sae: SparseAutoencoder,
    features: Int[Tensor, "k"],
    clamp: Float[Tensor, "k"],
    where: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "... d"]:
    """Activations with every feature that is active set to its clamp; see the module.

    Args:
        clamp: in the features' units, one for each.
        where: which tokens may be edited; None is all.

    >>> sae = SparseAutoencoder(2, 2).requires_grad_(False)
    >>> _ = sae.rows.copy_(torch.eye(2)), sae.encoder.copy_(torch.eye(2))
    >>> clamped(torch.tensor([[3.0, 1.0], [-3.0, 1.0]]), sae, torch.tensor([0]), torch.tensor([-5.0])).tolist()
    [[-5.0, 1.0], [-3.0, 1.0]]
    """
    f = sae.encode(h.to(sae.rows.dtype))[..., features]
    change = torch.where(f > 0, clamp - f, 0.0)
    if where is not None:
        change = change * where[..., None]
    return h + (change @ sae.directions[features]).to(h.dtype)


@contextmanager
def clamping(
    model: nn.Module,
    sae: SparseAutoencoder,
    layer: int,
    features: Int[Tensor, "k"],
    clamp: Float[Tensor, "k"],
    *,
    spared: int | None = None,
) -> Iterator[nn.Module]:
    """Clamps features while the block lasts; the first token of a text and padding are
    never edited, nor is the token id `spared`."""
    handles = hook(model, sae, layer, features, clamp, spared)
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def hook(
    model: nn.Module,
    sae: SparseAutoencoder,
    layer: int,
    features: Int[Tensor, "k"],
    clamp: Float[Tensor, "k"],
    spared: int | None,
) -> list[Any]:
    """Puts the clamp on; `remove()` of each handle takes it off again."""
    read: dict[str, Any] = {}

    def remember(module: nn.Module, args: tuple, inputs: dict[str, Any]) -> None:
        cache = inputs.get("past_key_values")
        read["ids"] = inputs.get("input_ids", args[0] if args else None)
        read["mask"] = inputs.get("attention_mask", args[1] if len(args) > 1 else None)
        read["past"] = 0 if cache is None else cache.get_seq_length()

    @torch.no_grad()
    def edit(h: Tensor) -> Tensor:
        ids, mask, tokens = read["ids"], read["mask"], h.shape[1]
        if mask is None:
            mask = torch.ones(1, read["past"] + tokens, dtype=torch.long, device=h.device)
        # Not padding, where the mask is 0, nor the first token, where its running sum is 1.
        where = ((mask.cumsum(1) > 1) & mask.bool())[:, -tokens:]
        if spared is not None and ids is not None:
            where = where & (ids != spared)
        return clamped(h, sae, features, clamp, where)

    return [
        model.register_forward_pre_hook(remember, with_kwargs=True),
        edit_activation(blocks(model)[layer], edit),
    ]


@dataclass(frozen=True)
class SaeClamp(Intervention):
    """Trains a sparse autoencoder on the rows, and clamps the features of those to forget. See the module.

    Attributes:
        layer: the block after which the residual stream is edited, 0 the first; None is the middle one.
        k: how many features are clamped.
        scale_by: a feature is clamped at minus this many times its mean over the forget tokens that have it; 0 ablates.
        clamp: the same number for all features instead, in the autoencoder's units (the paper: -20).
        retain_max: the largest share of retain tokens on which a clamped feature may be active.
        width: features, in multiples of the residual stream's size.
        l1: weight of the features' sum in the autoencoder's loss.
        active: how many features a token may have, the largest, in place of that weight; None leaves it to l1.
        sae_steps, sae_lr: of its training.
    """

    layer: Annotated[int | None, AtLeast(0)] = None
    k: Annotated[int, AtLeast(1)] = 20
    scale_by: Annotated[float, AtLeast(0)] = 5.0
    clamp: float | None = None
    retain_max: Annotated[float, AtLeast(0), AtMost(1)] = 0.01
    width: Annotated[int, AtLeast(1)] = 8
    l1: Annotated[float, AtLeast(0)] = 1.0
    active: Annotated[int | None, AtLeast(1)] = None
    sae_steps: Annotated[int, AtLeast(1)] = 1000
    sae_lr: Annotated[float, Above(0)] = 1e-3
    needs: ClassVar[frozenset[str]] = frozenset({"retain"})

    def fits(self, model: nn.Module) -> None:
        self.edited(model)

    def edited(self, model: nn.Module) -> int:
        """The number of the block."""
        last = len(blocks(model)) - 1
        layer = last // 2 if self.layer is None else self.layer
        require(layer <= last, "layer", layer, f"at most {last} in this model")
        return layer

    def learn(self, model: PreTrainedModel, data: ForgetData, *, seed: int = 0, **options: Any) -> dict[str, Tensor]:
        layer = self.edited(model)
        forget, retain = (residual_stream(model, r, layer, pad_id=data.pad_id) for r in (data.forget, data.retain))
        both = torch.cat([forget, retain])
        settings = {"k": self.active, "l1": self.l1, "steps": self.sae_steps, "lr": self.sae_lr, "seed": seed}
        sae = train_sae(both, self.width * both.shape[1], **settings)
        return self.choose(sae, forget, retain)

    @torch.no_grad()
    def choose(
        self, sae: SparseAutoencoder, forget: Float[Tensor, "tokens d"], retain: Float[Tensor, "others d"]
    ) -> dict[str, Tensor]:
        """What is learned, once the autoencoder is there."""
        f = sae.encode(forget)
        features = select_features(f, sae.encode(retain), self.retain_max, self.k)
        active = f[:, features]
        mean = active.sum(0) / (active > 0).sum(0).clamp(min=1)
        return {**sae.state_dict(), "features": features, "mean": mean}

    def install(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, learned: Mapping[str, Tensor]
    ) -> PreTrainedModel:
        of = {name: value.to(model.device) for name, value in learned.items()}
        features, mean = of.pop("features"), of.pop("mean")
        clamp = -self.scale_by * mean if self.clamp is None else torch.full_like(mean, self.clamp)
        sae = SparseAutoencoder.from_tensors(of, k=self.active)
        hook(model, sae, self.edited(model), features, clamp, tokenizer.bos_token_id)
        return model


def side_effect(
    model: nn.Module, base: nn.Module, tokenizer: Any, *, questions: Sequence[Question], texts: Sequence[str]
) -> dict[str, float]:
    """What an intervention costs: "accuracy loss" on other questions, and "added text loss" on unrelated plain texts,
    in nats a token."""
    longest, pad = min(512, context_length(model) or 512), pad_token_id(tokenizer)
    rows = encode_pairs(tokenizer, [("", text) for text in texts], max_length=longest, truncate=True)
    prompts, answers = [plain(question) for question in questions], [question.answer for question in questions]
    right, nll = [], []
    for m in (base, model):
        right.append(letter_accuracy(m, tokenizer, prompts, answers))
        scores = score(m, rows, pad_id=pad)
        nll.append(float(-scores.logp.sum() / scores.length.sum()))
    return {"accuracy loss": right[0] - right[1], "added text loss": nll[1] - nll[0]}


def flipping_feature(
    model: nn.Module,
    tokenizer: Any,
    sae: SparseAutoencoder,
    layer: int,
    question: Question,
    candidates: Int[Tensor, "features"],
    clamp: float = -20.0,
) -> int | None:
    """The first feature whose clamp makes the model answer a question wrong in every order of its options; None if
    there is none, or the model does not know the answer in every order to begin with.

    >>> from palimpsest.models import causal_lm, word_tokenizer
    >>> q = Question("", "", "", "Who ?", ("ann", "bob", "cid", "dan"), 1)
    >>> tokenizer = word_tokenizer([plain(q), *LETTERS])
    >>> model = causal_lm(len(tokenizer), d_model=16, n_layers=1)
    >>> flipping_feature(model, tokenizer, SparseAutoencoder(16, 4), 0, q, torch.arange(4)) is None
    True
    """
    orders = list(itertools.permutations(range(len(LETTERS))))
    asked = [replace(question, options=tuple(question.options[i] for i in order)) for order in orders]
    prompts, answers = list(map(plain, asked)), [order.index(question.answer) for order in orders]
    if letter_accuracy(model, tokenizer, prompts, answers) < 1:
        return None
    for feature in candidates.tolist():
        chosen = torch.tensor([feature], device=sae.rows.device)
        value = torch.full((1,), clamp, device=sae.rows.device)
        with clamping(model, sae, layer, chosen, value, spared=tokenizer.bos_token_id):
            if letter_accuracy(model, tokenizer, prompts, answers) == 0:
                return feature
    return None
