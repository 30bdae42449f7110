"""Small language models, built from scratch in the Hugging Face format.

They are the published architectures with small numbers in the configuration, so that what is tried on them
runs unchanged on the checkpoints a user has. Every model is seeded, and building one leaves the global random
state as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

ARCHITECTURES = ("llama", "gpt2")

M = TypeVar("M", bound=torch.nn.Module)


def causal_lm(
    vocab_size: int,
    *,
    d_model: int = 128,
    n_layers: int = 2,
    n_heads: int = 4,
    d_ff: int | None = None,
    max_length: int = 128,
    architecture: str = "llama",
    tie: bool = True,
    dropout: float = 0.0,
    pad_id: int = 0,
    bos_id: int = 1,
    eos_id: int = 2,
    seed: int = 0,
) -> PreTrainedModel:
    """A decoder that predicts the next token.

    Args:
        vocab_size: the number of tokens.
        d_model: the width of the residual stream, a multiple of `n_heads`.
        n_layers: the number of blocks.
        n_heads: the number of attention heads.
        d_ff: the width of the feed-forward layer; by default 4 d_model for GPT-2, and for Llama, whose gated
            layer has three matrices instead of two, 8/3 d_model rounded to a multiple of 16.
        max_length: the longest sequence in tokens.
        architecture: "llama" (rotary positions, RMS norm, SwiGLU) or "gpt2" (learned positions, layer norm,
            GELU).
        tie: whether the output matrix is the embedding matrix.
        dropout: the dropout rate; Llama has dropout in its attention only.
        pad_id: the padding token.
        bos_id: the token that begins a text.
        eos_id: the token that ends a text.
        seed: seeds the weights.

    Returns:
        A `LlamaForCausalLM` or `GPT2LMHeadModel` on the CPU, in float32 and in training mode.

    Raises:
        ValueError: a size is not positive, a token id is outside the vocabulary, or the architecture is
            unknown.

    Example:
        >>> model = causal_lm(100, d_model=32, n_layers=1, n_heads=2)
        >>> model(torch.tensor([[1, 5, 7]])).logits.shape
        torch.Size([1, 3, 100])

    Source: Touvron et al. (2023), arXiv 2302.13971; Radford et al. (2019), Language models are unsupervised
    multitask learners.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}, got {architecture!r}")
    _check(vocab_size, d_model, n_layers, n_heads, d_ff, max_length, dropout, (pad_id, bos_id, eos_id))
    tokens = {"pad_token_id": pad_id, "bos_token_id": bos_id, "eos_token_id": eos_id}
    if architecture == "gpt2":
        config = GPT2Config(
            vocab_size=vocab_size,
            n_embd=d_model,
            n_layer=n_layers,
            n_head=n_heads,
            n_inner=d_ff or 4 * d_model,
            n_positions=max_length,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            tie_word_embeddings=tie,
            attn_implementation="sdpa",
            **tokens,
        )
        return seeded(seed, lambda: GPT2LMHeadModel(config))
    if (d_model // n_heads) % 2:
        raise ValueError(f"rotary positions need an even head width, got d_model / n_heads = {d_model // n_heads}")
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=d_model,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        intermediate_size=d_ff or max(16, 16 * round(8 * d_model / 3 / 16)),
        max_position_embeddings=max_length,
        attention_dropout=dropout,
        tie_word_embeddings=tie,
        attn_implementation="sdpa",
        **tokens,
    )
    return seeded(seed, lambda: LlamaForCausalLM(config))


def masked_lm(
    vocab_size: int,
    *,
    d_model: int = 128,
    n_layers: int = 2,
    n_heads: int = 4,
    d_ff: int | None = None,
    max_length: int = 128,
    tie: bool = True,
    dropout: float = 0.0,
    pad_id: int = 0,
    bos_id: int = 1,
    eos_id: int = 2,
    seed: int = 0,
) -> PreTrainedModel:
    """An encoder that fills in masked tokens (BERT).

    Args:
        vocab_size: the number of tokens.
        d_model: the width of the residual stream, a multiple of `n_heads`.
        n_layers: the number of blocks.
        n_heads: the number of attention heads.
        d_ff: the width of the feed-forward layer, by default 4 d_model.
        max_length: the longest sequence in tokens.
        tie: whether the output matrix is the embedding matrix.
        dropout: the dropout rate.
        pad_id: the padding token.
        bos_id: the token that begins a text.
        eos_id: the token that ends a text.
        seed: seeds the weights.

    Returns:
        A `BertForMaskedLM` on the CPU, in float32 and in training mode.

    Raises:
        ValueError: a size is not positive or a token id is outside the vocabulary.

    Example:
        >>> model = masked_lm(100, d_model=32, n_layers=1, n_heads=2)
        >>> model(torch.tensor([[1, 5, 7]])).logits.shape
        torch.Size([1, 3, 100])

    Source: Devlin et al. (2019), arXiv 1810.04805.
    """
    _check(vocab_size, d_model, n_layers, n_heads, d_ff, max_length, dropout, (pad_id, bos_id, eos_id))
    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=d_model,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        intermediate_size=d_ff or 4 * d_model,
        max_position_embeddings=max_length,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        tie_word_embeddings=tie,
        attn_implementation="sdpa",
        pad_token_id=pad_id,
        bos_token_id=bos_id,
        eos_token_id=eos_id,
    )
    return seeded(seed, lambda: BertForMaskedLM(config))


def encoder_decoder_lm(
    vocab_size: int,
    *,
    d_model: int = 128,
    n_layers: int = 2,
    n_heads: int = 4,
    d_ff: int | None = None,
    max_length: int = 128,
    tie: bool = True,
    dropout: float = 0.0,
    pad_id: int = 0,
    eos_id: int = 2,
    seed: int = 0,
) -> PreTrainedModel:
    """An encoder and a decoder for text to text (T5).

    Args:
        vocab_size: the number of tokens.
        d_model: the width of the residual stream, a multiple of `n_heads`.
        n_layers: the number of blocks of the encoder, and of the decoder.
        n_heads: the number of attention heads.
        d_ff: the width of the feed-forward layer, by default 4 d_model.
        max_length: the distance in tokens beyond which two positions look alike (T5 has no longest sequence).
        tie: whether the output matrix is the embedding matrix.
        dropout: the dropout rate.
        pad_id: the padding token, with which the decoder also begins.
        eos_id: the token that ends a text.
        seed: seeds the weights.

    Returns:
        A `T5ForConditionalGeneration` on the CPU, in float32 and in training mode.

    Raises:
        ValueError: a size is not positive or a token id is outside the vocabulary.

    Example:
        >>> model = encoder_decoder_lm(100, d_model=32, n_layers=1, n_heads=2)
        >>> model(input_ids=torch.tensor([[5, 7, 2]]), labels=torch.tensor([[9, 2]])).logits.shape
        torch.Size([1, 2, 100])

    Source: Raffel et al. (2020), arXiv 1910.10683.
    """
    _check(vocab_size, d_model, n_layers, n_heads, d_ff, max_length, dropout, (pad_id, eos_id))
    config = T5Config(
        vocab_size=vocab_size,
        d_model=d_model,
        d_kv=d_model // n_heads,
        d_ff=d_ff or 4 * d_model,
        num_layers=n_layers,
        num_heads=n_heads,
        relative_attention_max_distance=max_length,
        dropout_rate=dropout,
        tie_word_embeddings=tie,
        pad_token_id=pad_id,
        decoder_start_token_id=pad_id,
        eos_token_id=eos_id,
    )
    return seeded(seed, lambda: T5ForConditionalGeneration(config))


def seeded(seed: int, build: Callable[[], M]) -> M:
    """Build a module from a seed, leaving the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def _check(
    vocab_size: int,
    d_model: int,
    n_layers: int,
    n_heads: int,
    d_ff: int | None,
    max_length: int,
    dropout: float,
    token_ids: tuple[int, ...],
) -> None:
    sizes = {"vocab_size": vocab_size, "d_model": d_model, "n_layers": n_layers, "n_heads": n_heads}
    for name, size in {**sizes, "d_ff": 1 if d_ff is None else d_ff, "max_length": max_length}.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    if d_model % n_heads:
        raise ValueError(f"d_model must be a multiple of n_heads, got {d_model} and {n_heads}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
    for token_id in token_ids:
        if not 0 <= token_id < vocab_size:
            raise ValueError(f"token id {token_id} is outside the vocabulary of {vocab_size} tokens")
