"""Unlearning with a sparse autoencoder (Farrell, Lau and Conmy, 2024, "Applying sparse autoencoders to unlearn
knowledge in language models", arXiv 2410.19278).

No weight changes: the features that the forget rows have and the retain rows hardly ever are pushed far below zero,
wherever they are active (never at a text's first token, nor at bos), in the residual stream after one block,

    h'' = h + sum_{i: f_i > 0} (clamp - f_i) d_i,          clamp < 0;  0 ablates

d_i: feature i's direction. h is edited, not replaced by its reconstruction: what the autoencoder misses is kept. The
paper clamps at -20 in its autoencoders' units; as these differ, `scale_by` counts in the feature's own mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.errors import UserError
from palimpsest.forget.feature_clamp import hook
from palimpsest.forget.procedure import ForgetData
from palimpsest.lazy import front_door
from palimpsest.models.blocks import blocks
from palimpsest.models.hooks import activations
from palimpsest.models.sae import SparseAutoencoder
from palimpsest.models.score import Encoded
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


_MOVED = {
    "forget.feature_clamp": ("clamped", "clamping"),
    "forget.sae_unlearning_measures": ("flipping_feature", "side_effect"),
}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
