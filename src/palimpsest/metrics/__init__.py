"""The field's standard measures."""

from palimpsest.metrics.calibration import expected_calibration_error
from palimpsest.metrics.membership import (
    attacks,
    auc,
    loss_attack,
    min_k_attack,
    min_k_plus_plus_attack,
    zlib_attack,
)
from palimpsest.metrics.text import (
    bleu,
    distinct_n,
    exact_match,
    exact_memorization,
    extraction_strength,
    ngram_overlap,
    rouge_1_recall,
    rouge_l_f1,
    rouge_l_recall,
    unprompted_recall,
)

__all__ = [
    "attacks",
    "auc",
    "bleu",
    "distinct_n",
    "exact_match",
    "exact_memorization",
    "expected_calibration_error",
    "extraction_strength",
    "loss_attack",
    "min_k_attack",
    "min_k_plus_plus_attack",
    "ngram_overlap",
    "rouge_1_recall",
    "rouge_l_f1",
    "rouge_l_recall",
    "unprompted_recall",
    "zlib_attack",
]
