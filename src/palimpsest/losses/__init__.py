"""The field's standard losses."""

from palimpsest.losses.classification import (
    average_candidate_cross_entropy,
    candidate_cross_entropy,
    class_balanced_cross_entropy,
    generalized_cross_entropy,
    logit_adjusted_cross_entropy,
    weak_negative_cross_entropy,
)
from palimpsest.losses.divergence import kl_divergence
from palimpsest.losses.embeddings import barlow_twins_loss, contrastive_loss, triplet_loss
from palimpsest.losses.preference import dpo_loss
from palimpsest.losses.ranking import bpr, sampled_softmax

__all__ = [
    "average_candidate_cross_entropy",
    "barlow_twins_loss",
    "bpr",
    "candidate_cross_entropy",
    "class_balanced_cross_entropy",
    "contrastive_loss",
    "dpo_loss",
    "generalized_cross_entropy",
    "kl_divergence",
    "logit_adjusted_cross_entropy",
    "sampled_softmax",
    "triplet_loss",
    "weak_negative_cross_entropy",
]
