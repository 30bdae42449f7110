"""The field's standard losses."""

from palimpsest.losses.divergence import kl_divergence
from palimpsest.losses.preference import dpo_loss

__all__ = ["dpo_loss", "kl_divergence"]
