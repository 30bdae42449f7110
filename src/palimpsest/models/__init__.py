"""Small models built from scratch; Hugging Face models loaded, saved and scored safely.

The function `score` is imported from its module, `palimpsest.models.score`, whose name it would hide here.
"""

from __future__ import annotations

from palimpsest.lazy import front_door

_ROOMS = {
    "files": ("load", "save"),
    "language": ("causal_lm", "encoder_decoder_lm", "masked_lm"),
    "output_folders": ("check_out",),
    "packaged": ("pretrained", "pretrained_folder"),
    "score": (
        "Encoded",
        "Scores",
        "Template",
        "answer_logprobs",
        "answer_nll",
        "choice_logprob",
        "cross_entropy",
        "encode",
        "greedy",
        "pad_token_id",
        "prompt_template",
        "token_logprobs",
    ),
    "tokenizers": ("train_tokenizer", "word_tokenizer"),
    "vision": ("cnn", "mlp", "vit"),
}

__getattr__, __dir__, __all__ = front_door(__name__, _ROOMS)
