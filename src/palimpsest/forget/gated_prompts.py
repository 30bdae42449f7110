"""What a gate is shown: the prompts of rows of token ids, decoded as they will be when the model runs."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from palimpsest.forget.procedure import ForgetData
from palimpsest.forget.prompt_encoders import Encoder, EncoderName, prompt_encoder
from palimpsest.forget.prompt_gate import PromptGate
from palimpsest.models.score import Encoded


def fit_gate(
    encoder: EncoderName | Encoder,
    model: nn.Module,
    data: ForgetData,
    *,
    alpha: float,
    confidence: float = 0.5,
    seed: int = 0,
) -> PromptGate:
    """The gate between the prompts of the forget and the retain rows, read as they will be when the model runs: decoded
    from their tokens.

    Raises:
        UserError: as `PromptGate.fit`.
    """
    forget, retain = (
        [text for text in _decoded(data.tokenizer, _prompts(rows)) if text.strip()]
        for rows in (data.forget, data.retain)
    )
    encode = prompt_encoder(encoder, model, data.tokenizer)
    return PromptGate.fit(encode, forget, retain, alpha=alpha, confidence=confidence, seed=seed)


def prompt_positions(
    input_ids: Int[Tensor, "batch tokens"],
    attention_mask: Tensor | None = None,
    prompt_mask: Bool[Tensor, "batch tokens"] | None = None,
) -> Bool[Tensor, "batch tokens"]:
    """Where the prompts are: `prompt_mask`, or everything, without padding."""
    positions = torch.ones_like(input_ids, dtype=torch.bool) if prompt_mask is None else prompt_mask.bool()
    if attention_mask is not None and attention_mask.shape == positions.shape:
        positions = positions & attention_mask.bool()
    return positions


def flagged(
    gate: PromptGate,
    tokenizer: PreTrainedTokenizerBase,
    input_ids: Int[Tensor, "batch tokens"],
    positions: Bool[Tensor, "batch tokens"],
) -> Bool[Tensor, "batch"]:
    """Which rows' prompts the gate flags."""
    prompts = [ids[row].tolist() for ids, row in zip(input_ids, positions, strict=True)]
    return gate.flags(_decoded(tokenizer, prompts)).to(input_ids.device)


def _prompts(rows: Encoded) -> list[list[int]]:
    return [ids[:length] for ids, length in zip(rows.input_ids, rows.prompt_lengths, strict=True)]


def _decoded(tokenizer: PreTrainedTokenizerBase, rows: list[list[int]]) -> list[str]:
    return tokenizer.batch_decode(rows, skip_special_tokens=True)
