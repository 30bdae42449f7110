"""The field's standard measures. Those of texts load no torch."""

from __future__ import annotations

from palimpsest.lazy import front_door

_ROOMS = {
    "calibration": ("expected_calibration_error",),
    "continual": ("average_accuracy", "backward_transfer", "forgetting", "forward_transfer", "learning_accuracy"),
    "membership": ("attacks", "auc", "loss_attack", "min_k_attack", "min_k_plus_plus_attack", "zlib_attack"),
    "multilabel": ("average_precisions", "best_thresholds", "f1_of_labels", "mean_average_precision"),
    "rejection": (
        "accuracy_rejection_area",
        "excess_risk_coverage_area",
        "rejection_scores",
        "risk_coverage",
        "risk_coverage_area",
    ),
    "robustness": ("pgd", "strong_attack"),
    "text": (
        "bleu",
        "distinct_n",
        "exact_match",
        "exact_memorization",
        "extraction_strength",
        "ngram_overlap",
        "rouge_1_recall",
        "rouge_l_f1",
        "rouge_l_recall",
        "unprompted_recall",
    ),
}

__getattr__, __dir__, __all__ = front_door(__name__, _ROOMS)
