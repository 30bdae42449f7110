"""RWKU: forgetting real people by name (Jin, Cao, Wang, He, Yuan, Li, Chen, Liu and Zhao, 2024, arXiv 2406.10890).

Whoever is to forget gets a name and the model, no corpus: `zero_shot.rwku_task` lets the model write its own. What
is left is scored by `palimpsest.forget.rwku_measures`.

Of the baselines, ascent, NPO and DPO are the hall's (`METHODS`), rejection tuning is `IDK` on questions that the model
asked itself, in-context unlearning is a text before every prompt (`rwku_measures.Frames.before`), and `Steering` an
intervention.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.forget.baselines import IDK, GradAscent, IdkDPO, hidden_states
from palimpsest.forget.npo import NPO
from palimpsest.forget.procedure import ForgetData
from palimpsest.lazy import front_door
from palimpsest.models.blocks import blocks
from palimpsest.models.hooks import edit_activation
from palimpsest.models.score import encode
from palimpsest.train.method import Intervention
from palimpsest.train.ranges import AtLeast, require

UNLEARNED = "You know nothing about {subject}."
METHODS: dict[str, Any] = {  # and what of the model's own corpus they learn from
    "grad_ascent": (GradAscent(retain="none"), "passages"),
    "npo": (NPO(retain="none"), "passages"),
    "idk_dpo": (IdkDPO(retain="none"), "questions"),
    "rejection_tuning": (IDK(retain="none"), "questions"),
}


@dataclass(frozen=True)
class Steering(Intervention):
    """Representation steering: h <- h - strength v after one block, at every token, with
    v = mean h(text) - mean h(text after the instruction to know nothing), over the tokens of the forget rows.

    Attributes:
        layer: the block, 0 the first; None is the middle one.
        strength: how much of v is taken away.
        instruction: what turns a model that knows into one that does not.
    """

    layer: Annotated[int | None, AtLeast(0)] = None
    strength: float = 1.0
    instruction: str = "You know nothing about this."

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.instruction.strip()), "instruction", self.instruction, "a text")

    def fits(self, model: nn.Module) -> None:
        self.steered(model)

    def steered(self, model: nn.Module) -> int:
        last = len(blocks(model)) - 1
        layer = last // 2 if self.layer is None else self.layer
        require(layer <= last, "layer", layer, f"at most {last} in this model")
        return layer

    @torch.no_grad()
    def learn(self, model: PreTrainedModel, data: ForgetData, **options: Any) -> dict[str, Tensor]:
        layer, device = self.steered(model), next(model.parameters()).device
        means = []
        for before in ("", f"{self.instruction}\n"):
            prompts, answers = zip(*((before + prompt, answer) for prompt, answer in data.forget_pairs), strict=True)
            longest = data.max_length + 64  # room for the instruction
            rows = encode(data.tokenizer, prompts, answers, max_length=longest, truncate=True)
            total, tokens = 0.0, 0
            for start in range(0, len(rows), 32):
                batch = rows.batch(range(start, min(start + 32, len(rows))), data.pad_id)
                batch = {name: tensor.to(device) for name, tensor in batch.items()}
                scored = batch["labels"] != -100
                total = total + hidden_states(model.eval(), batch, layer)[scored].double().sum(0)
                tokens += int(scored.sum())
            means.append(total / tokens)
        return {"direction": (means[0] - means[1]).float()}

    def install(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, learned: Mapping[str, Tensor]
    ) -> PreTrainedModel:
        shift = self.strength * learned["direction"]
        edit_activation(blocks(model)[self.steered(model)], lambda h: h - shift.to(h))
        return model


_MOVED = {
    "forget.concept_vectors_measures": ("JAILBREAKS",),
    "forget.rwku_measures": (
        "ATTACKS",
        "BARE",
        "Frames",
        "Item",
        "RECALLED",
        "RwkuScores",
        "adversarial_probe",
        "rwku_score",
    ),
}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
