"""The field's standard measures."""

from palimpsest.metrics.text import (
    distinct_n,
    exact_match,
    exact_memorization,
    extraction_strength,
    ngram_overlap,
    rouge_l_recall,
)

__all__ = [
    "distinct_n",
    "exact_match",
    "exact_memorization",
    "extraction_strength",
    "ngram_overlap",
    "rouge_l_recall",
]
