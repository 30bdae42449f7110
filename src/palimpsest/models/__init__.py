"""Small models built from scratch; Hugging Face models loaded, saved and scored safely.

The function `score` is imported from its module, `palimpsest.models.score`, whose name it would hide here.
"""

from palimpsest.models.files import load, save
from palimpsest.models.language import causal_lm, encoder_decoder_lm, masked_lm
from palimpsest.models.output_folders import check_out
from palimpsest.models.pretrained import pretrained, pretrained_folder
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
    token_logprobs,
)
from palimpsest.models.tokenizers import train_tokenizer, word_tokenizer
from palimpsest.models.vision import cnn, mlp, vit

__all__ = [
    "Encoded",
    "Scores",
    "Template",
    "answer_logprobs",
    "answer_nll",
    "causal_lm",
    "check_out",
    "choice_logprob",
    "cnn",
    "cross_entropy",
    "encode",
    "encoder_decoder_lm",
    "greedy",
    "load",
    "masked_lm",
    "mlp",
    "pad_token_id",
    "pretrained",
    "pretrained_folder",
    "prompt_template",
    "save",
    "token_logprobs",
    "train_tokenizer",
    "vit",
    "word_tokenizer",
]
