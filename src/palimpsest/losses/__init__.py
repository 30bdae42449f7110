"""The field's standard losses."""

from palimpsest.losses.divergence import kl_divergence
from palimpsest.losses.embeddings import barlow_twins_loss, contrastive_loss, triplet_loss
from palimpsest.losses.preference import dpo_loss

__all__ = ["barlow_twins_loss", "contrastive_loss", "dpo_loss", "kl_divergence", "triplet_loss"]
