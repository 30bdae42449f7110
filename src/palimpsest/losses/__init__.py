"""The field's standard losses."""

from __future__ import annotations

from palimpsest.lazy import front_door

_ROOMS = {
    "classification": (
        "average_candidate_cross_entropy",
        "candidate_cross_entropy",
        "class_balanced_cross_entropy",
        "generalized_cross_entropy",
        "logit_adjusted_cross_entropy",
        "weak_negative_cross_entropy",
    ),
    "divergence": ("kl_divergence",),
    "embeddings": ("barlow_twins_loss", "contrastive_loss", "triplet_loss"),
    "multilabel": (
        "binary_cross_entropy",
        "binary_focal_loss",
        "dice_loss",
        "positive_weights",
        "soft_dice",
        "weighted_binary_cross_entropy",
    ),
    "preference": ("dpo_loss",),
    "ranking": ("bpr", "sampled_softmax"),
}

__getattr__, __dir__, __all__ = front_door(__name__, _ROOMS)
