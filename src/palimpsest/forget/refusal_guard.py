"""A fixed refusal for the prompts that a gate flags: the plainest use of one, and the baseline of every method that
needs one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.forget.gated_prompts import fit_gate
from palimpsest.forget.guarded_model import GuardedLM
from palimpsest.forget.procedure import ForgetData
from palimpsest.forget.prompt_encoders import EncoderName, prompt_encoder
from palimpsest.forget.prompt_gate import PromptGate
from palimpsest.lazy import front_door
from palimpsest.train.method import Intervention
from palimpsest.train.ranges import Above, Below, require


def refusal_ids(data: ForgetData, refusal: str) -> Int[Tensor, "tokens"]:
    """A refusal as it follows a prompt, with the end token."""
    # A chat template has no space before the answer, the plain one has: the refusal follows the forget rows.
    lead = " " if data.forget_pairs[0][1].startswith(" ") else ""
    ids = data.tokenizer(lead + refusal, add_special_tokens=False)["input_ids"]
    eos = [] if data.tokenizer.eos_token_id is None else [data.tokenizer.eos_token_id]
    return torch.tensor(ids + eos)


@dataclass(frozen=True)
class RefusalGuard(Intervention):
    """A gate, and a fixed refusal for what it flags: forgets nothing, says so, and tells whoever asks what is hidden.

    Attributes:
        encoder: what the gate reads prompts with: "model", the mean of the model's own input embeddings, or "minilm", a
            sentence encoder (extra `encoder`).
        alpha: the share of retained prompts that may be flagged by mistake.
        confidence: the probability of "forget" that a prompt must have, at least, to be flagged; more spares prompts
            unlike all that the gate has seen.
        refusal: the answer to flagged prompts.
    """

    encoder: EncoderName = "model"
    alpha: Annotated[float, Above(0), Below(1)] = 0.01
    confidence: Annotated[float, Above(0), Below(1)] = 0.5
    refusal: str = "I don't know."
    needs: ClassVar[frozenset[str]] = frozenset({"retain"})

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.refusal.strip()), "refusal", self.refusal, "a text")

    def learn(self, model: PreTrainedModel, data: ForgetData, *, seed: int = 0, **options: Any) -> dict[str, Tensor]:
        gate = fit_gate(self.encoder, model, data, alpha=self.alpha, confidence=self.confidence, seed=seed)
        return {**gate.tensors(), "refusal": refusal_ids(data, self.refusal)}

    def install(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, learned: Mapping[str, Tensor]
    ) -> GuardedLM:
        gate = PromptGate.from_tensors(prompt_encoder(self.encoder, model, tokenizer), learned)
        return GuardedLM(model, tokenizer, gate, learned["refusal"].to(model.device))


_MOVED = {"forget.guarded_model": ("CERTAIN",)}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
