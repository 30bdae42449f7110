"""In-context unlearning (Pawelczyk, Neel and Lakkaraju, 2023, 2310.07579): a prompt of flipped labels, and a model that
reads it before every text."""

from __future__ import annotations

import random
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel

from palimpsest.errors import UserError
from palimpsest.forget.data_erasure_survey_methods import flipped, labels_of
from palimpsest.forget.procedure import Pair


def icul_context(forget: Sequence[Pair], retain: Sequence[Pair], n_true: int = 6, seed: int = 0) -> tuple[Pair, ...]:
    """In-context unlearning: all forget rows with flipped labels, then `n_true` retain rows, drawn, as they are."""
    if not 0 <= n_true <= len(retain):
        raise UserError(f"n_true must lie between 0 and the {len(retain)} retain rows, got {n_true}")
    true = random.Random(seed).sample(list(retain), n_true)
    return (*flipped(forget, labels_of(forget, retain), seed), *true)


class PrefixedLM(PreTrainedModel, GenerationMixin):
    """A model that reads the same tokens before every text, without gradients; its logits are those of the text."""

    def __init__(self, model: PreTrainedModel, prefix: Sequence[int]):
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if context is not None and len(prefix) >= context:
            raise UserError(f"the {len(prefix)} tokens of the rows do not fit the model's context of {context}")
        config = deepcopy(model.config)
        config._attn_implementation = "eager"  # of this module, which has no attention
        super().__init__(config)
        self.model, self.generation_config = model, model.generation_config
        self.register_buffer("prefix", torch.tensor(list(prefix), dtype=torch.long, device=model.device))
        self.eval()

    def get_output_embeddings(self) -> None:
        """The last layer alone does not give the logits of the text."""

    @torch.no_grad()
    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        attention_mask: Int[Tensor, "batch all"] | None = None,
        position_ids: Int[Tensor, "batch tokens"] | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if position_ids is None:
            position_ids = (mask.cumsum(1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        before, tokens = self.prefix.expand(len(input_ids), -1), input_ids.shape[1]
        position_ids = position_ids + before.shape[1]
        if past_key_values is None or not past_key_values.get_seq_length():
            positions = torch.arange(before.shape[1], device=before.device).expand_as(before)
            input_ids, position_ids = torch.cat([before, input_ids], 1), torch.cat([positions, position_ids], 1)
        out = self.model(
            input_ids=input_ids,
            attention_mask=torch.cat([torch.ones_like(before, dtype=mask.dtype), mask], 1),
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=bool(use_cache),
            **kwargs,
        )
        out.logits = out.logits[:, -tokens:]
        return out

    def generate(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        """The texts, continued, without what was read before them."""
        before = self.prefix.expand(len(input_ids), -1)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        mask = torch.cat([torch.ones_like(before, dtype=mask.dtype), mask], 1)
        out = self.model.generate(torch.cat([before, input_ids], 1), attention_mask=mask, **kwargs)
        return out[:, before.shape[1] :]
