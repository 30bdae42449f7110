"""Small models built from scratch; Hugging Face models loaded, saved and scored safely."""

from palimpsest.models.language import causal_lm, encoder_decoder_lm, masked_lm
from palimpsest.models.score import (
    Encoded,
    Scores,
    Template,
    answer_logprobs,
    answer_nll,
    choice_logprob,
    cross_entropy,
    encode,
    greedy,
    pad_token_id,
    prompt_template,
    score,
    token_logprobs,
)
from palimpsest.models.tokenizers import train_tokenizer, word_tokenizer

__all__ = [
    "Encoded",
    "Scores",
    "Template",
    "answer_logprobs",
    "answer_nll",
    "causal_lm",
    "choice_logprob",
    "cross_entropy",
    "encode",
    "encoder_decoder_lm",
    "greedy",
    "masked_lm",
    "pad_token_id",
    "prompt_template",
    "score",
    "token_logprobs",
    "train_tokenizer",
    "word_tokenizer",
]
