"""Pull together, push apart: contrastive and self-supervised learning.

The hall: `info_nce` (InfoNCE and relatives, streamed; `comparison` holds what is compared with what) and `sigmoid` (the
sigmoid loss, streamed), both on `streaming`; `distributed` (batches of several processes), `momentum` (key encoder and
queue), `pair_losses` (what `palimpsest contrast` offers, in one form), `heads` (projection heads), `pretrain` (what
`fit` trains encoders on), `sentences` (any loss in sentence-transformers), `clustering` (k-means on the sphere),
`input_checks` (what losses ask of their inputs), `precision`, `dimensions` (what single dimensions stand for),
`many_views` and `moco` (NT-Xent of several views, and with a queue), `sorting_network`. Rooms, one paper each, are
beside them. The names below can be imported from here.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from palimpsest.lazy import front_door

_ROOMS = {
    "amcl": ("AMCL", "amcl_loss", "amcl_queue_loss"),
    "amcl_temperatures": ("MultiHead",),
    "cacr": ("cacr_loss",),
    "cacr_measures": ("weights_report",),
    "cacr_views": ("multi_view_cacr", "queue_cacr"),
    "clustering": ("spherical_kmeans",),
    "dbpm": ("DBPM",),
    "dbpm_measures": ("PairMemory", "bad_pairs", "nt_xent_per_sample"),
    "debiased_cl": ("debiased_loss", "hard_debiased_loss"),
    "debiased_cl_measures": ("bias_gap",),
    "decoupled_cl": ("dcl_loss", "dcl_queue_loss", "dclw_loss"),
    "decoupled_cl_measures": ("npc_multiplier",),
    "diet": ("DIET", "IndexTargets", "diet_loss"),
    "diet_measures": ("IndexedViews", "loss_tracks_probe"),
    "dimensions": ("class_consistency", "rotation_test", "sparsity"),
    "distributed": ("gather_rows", "gathered"),
    "gradcache": ("GradCache",),
    "groco": ("groco_loss",),
    "heads": ("Projected", "projection_head"),
    "hypersphere_novel": ("NormSoftmax", "add_classes"),
    "hypersphere_novel_measures": ("classify", "novel_accuracy"),
    "inf_cl": ("ring_nce", "tiled_nce"),
    "info_nce": ("nt_xent", "reference_info_nce"),
    "llave": ("hardness_nce",),
    "llave_measures": ("gradient_share", "overlap"),
    "macl": ("adaptive_tau", "alignment", "macl_loss", "uniformity_tolerance"),
    "many_views": ("views_mse", "views_nt_xent"),
    "moco": ("queue_nce",),
    "moco_dualview": ("dual_view_loss", "hard_mask"),
    "momentum": ("KeyQueue", "MomentumPair"),
    "nonneg_cl": ("ncl_loss", "nonneg"),
    "pair_losses": ("InfoNCE", "Paired"),
    "pretrain": ("Captioned", "Momentum", "SentencePairs", "Views"),
    "sentences": ("SentenceLoss",),
    "siglip": ("SigmoidLoss",),
    "siglip_chunked": ("chunked_sigmoid_loss",),
    "sigmoid": ("reference_sigmoid_nce", "sigmoid_nce"),
    "sorting_network": ("diff_sort",),
    "w_mse": ("whiten",),
}

__getattr__, __dir__, __all__ = front_door(__name__, _ROOMS)
__all__ += ["info_nce"]


class _Package(ModuleType):
    """Here `info_nce` is the function, although a file has the same name, which its import would put in its place."""

    @property
    def info_nce(self) -> Any:
        return import_module("palimpsest.contrast.info_nce").info_nce

    @info_nce.setter
    def info_nce(self, module: ModuleType) -> None:
        pass


sys.modules[__name__].__class__ = _Package
