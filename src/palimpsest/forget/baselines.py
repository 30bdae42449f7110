"""The baselines of unlearning in language models, as every paper of the family compares against them.

Answers are scored by CE, the mean over rows of the mean negative log-likelihood of the answer's tokens (a mean
over rows, so that accumulated or distributed batches give the joint batch's gradient). f: forget rows, r: retain
rows; all losses are minimised.

    GradAscent   -CE(f) [+ CE(r): gradient difference] [+ KL(ref || model) on r: KL minimisation]
    IDK          CE(f with a refusal) + CE(r)                 (twice TOFU's, which is a mean over both)
    IdkDPO       -(2/b) mean log sigmoid(b (d(refusal) - d(f))) + CE(r)
    RMU          |h(f) - c u|^2 + alpha |h(r) - h_ref(r)|^2   at one layer
    LLMU         -e1 CE(f) + e2 CE(f with an unrelated answer) + e3 KL(ref || model) on r

Retraining without the forget rows, the gold standard, is `palimpsest.train.language.fine_tune` on the retain rows.

Sources: Maini et al. 2024 (2401.06121) for the ascent's three forms and IDK; Zhang et al. 2024 (2404.05868) for
IdkDPO; Li et al. 2024 (2403.03218) for RMU; Yao et al. 2023 (2310.10683) for LLMU.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from palimpsest.forget.procedure import Batch, ForgetData
from palimpsest.forget.retain_term import Retain, frozen_copy, reference_logprobs
from palimpsest.losses.preference import dpo_loss
from palimpsest.models.blocks import blocks, output_weights
from palimpsest.models.hooks import capture
from palimpsest.models.score import answer_logprobs, cross_entropy, reference_kl
from palimpsest.train.method import Objective
from palimpsest.train.ranges import Above, AtLeast, require


@dataclass(frozen=True)
class GradAscent(Retain):
    """-w CE(f), plus the retain term: gradient ascent ("none"), gradient difference ("ce"), KL minimisation ("kl").

    The ascent is unbounded: it ends in a model that is broken on everything unless it is stopped in time.

    Attributes:
        forget_weight: w.
        per_token: divide each answer's log-likelihood by its length (CE); False takes the sum over its tokens, which
            is what NPO becomes as its beta goes to 0.
    """

    forget_weight: float = 1.0
    per_token: bool = True

    def loss(self, state: nn.Module | None, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logp, length = answer_logprobs(model, batch["forget"])
        forget = self.forget_weight * (logp / length.clamp(min=1) if self.per_token else logp).mean()
        return {"forget": forget, **self.retain_term(state, model, batch)}


@dataclass(frozen=True)
class IDK(Retain):
    """CE on the forget prompts answered by a refusal ("I don't know."), plus the retain term."""

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"refusal"}

    def loss(self, state: nn.Module | None, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"refusal": cross_entropy(model, batch["refusal"]), **self.retain_term(state, model, batch)}


@dataclass(frozen=True)
class IdkDPO(Retain):
    """DPO with the refusal preferred to the fact: -(2/b) mean log sigmoid(b (d(refusal) - d(f))), plus the retain
    term; d is the answer's summed log-probability minus the reference's, which is computed once and kept by row.

    Attributes:
        beta: b, how far the model may move from the reference: the smaller, the farther.
    """

    beta: Annotated[float, Above(0)] = 0.1

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"refusal"}

    def init(self, model: nn.Module, data: ForgetData) -> dict[str, Any]:
        return {
            "forget": reference_logprobs(model, data.forget, data.pad_id),
            "refusal": reference_logprobs(model, data.refusal, data.pad_id),
            "reference": self.reference(model),
        }

    def loss(self, state: dict[str, Any], model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        ratios = {}
        for name in ("refusal", "forget"):
            logp, _ = answer_logprobs(model, batch[name])
            ratios[name] = logp - state[name][batch[name]["index"]]
        preference = dpo_loss(ratios["refusal"], ratios["forget"], self.beta) * (2 / self.beta)
        return {"preference": preference, **self.retain_term(state["reference"], model, batch)}


def hidden_states(model: nn.Module, batch: dict[str, Tensor], layer: int) -> Float[Tensor, "batch tokens d"]:
    """What block `layer` (0 is the first) writes to the residual stream. The block itself is asked: of the last one,
    `output_hidden_states` gives the state behind the model's final norm, whose length is the norm's own."""
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    with capture({"block": blocks(model)[layer]}) as seen:
        model(**inputs, use_cache=False, logits_to_keep=1)
    return seen["block"]


def token_mean(values: Float[Tensor, "batch tokens"], mask: Float[Tensor, "batch tokens"]) -> Float[Tensor, ""]:
    """Mean over each row's tokens where `mask` is set, then over rows."""
    return ((values * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()


@dataclass(frozen=True)
class RMU(Objective):
    """Representation misdirection: at one layer, the forget rows' hidden states are driven to a fixed random
    direction, and the retain rows' are held where they were,

        mean_tokens mean_d (h(f) - c u)^2 + alpha mean_tokens mean_d (h(r) - h_ref(r))^2,

    u drawn uniformly from [0, 1]^d and normalised. Only the MLP output matrices of blocks layer - 2 .. layer train.
    Each row's mean is over its own tokens, prompt included. (OpenUnlearning takes the answer's tokens, and its sums are
    divided by every row's length in turn, which is another loss where the lengths differ.)

    Attributes:
        layer: the block whose output is steered, 0 the first; None is block 7, or the last of a shallower model.
        coefficient: c, the length of the target: 6.5 for a 7B model; two to three times the mean norm of h is a
            good start elsewhere.
        alpha: weight of the retain rows.
        seed: of the direction u.
    """

    layer: Annotated[int | None, AtLeast(0)] = None
    coefficient: Annotated[float, Above(0)] = 6.5
    alpha: Annotated[float, AtLeast(0)] = 1200.0
    seed: int = 0
    needs: ClassVar[frozenset[str]] = frozenset({"retain"})

    def steered(self, model: nn.Module) -> int:
        """The number of the block that is steered."""
        last = len(blocks(model)) - 1
        layer = min(7, last) if self.layer is None else self.layer
        require(layer <= last, "layer", layer, f"at most {last} in this model")
        return layer

    def trainable(self, model: nn.Module) -> Iterable[nn.Parameter]:
        layer = self.steered(model)
        for block in blocks(model)[max(0, layer - 2) : layer + 1]:
            yield from output_weights(block)

    def init(self, model: nn.Module, data: ForgetData) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(self.seed)
        u = torch.rand(model.config.get_text_config().hidden_size, generator=generator)
        device = next(model.parameters()).device
        return {"target": (self.coefficient * u / u.norm()).to(device), "reference": frozen_copy(model)}

    def loss(self, state: dict[str, Any], model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        layer = self.steered(state["reference"])
        forget, retain = batch["forget"], batch["retain"]
        away = hidden_states(model, forget, layer) - state["target"]
        with torch.no_grad():
            anchor = hidden_states(state["reference"], retain, layer)
        drift = hidden_states(model, retain, layer) - anchor
        return {
            "forget": token_mean(away.square().mean(-1), forget["attention_mask"]),
            "retain": self.alpha * token_mean(drift.square().mean(-1), retain["attention_mask"]),
        }


@dataclass(frozen=True)
class LLMU(Objective):
    """Ascent on the facts, descent on unrelated answers to the same prompts, and KL to the reference on the rest:

        -e1 CE(f) + e2 CE(f with the answer of a retained row) + e3 KL(ref || model) on r.

    Attributes:
        forget_weight, mismatch_weight, retain_weight: e1, e2, e3, with the defaults of the authors' code.
    """

    forget_weight: Annotated[float, AtLeast(0)] = 0.5
    mismatch_weight: Annotated[float, AtLeast(0)] = 1.0
    retain_weight: Annotated[float, AtLeast(0)] = 1.0
    needs: ClassVar[frozenset[str]] = frozenset({"retain", "mismatch"})

    def init(self, model: nn.Module, data: ForgetData) -> nn.Module:
        return frozen_copy(model)

    def loss(self, state: nn.Module, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {
            "forget": -self.forget_weight * cross_entropy(model, batch["forget"]),
            "mismatch": self.mismatch_weight * cross_entropy(model, batch["mismatch"]),
            "retain": self.retain_weight * reference_kl(state, model, batch["retain"]),
        }
