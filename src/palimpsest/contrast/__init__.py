"""Pull together, push apart: contrastive and self-supervised learning.

The hall: `info_nce` (InfoNCE and relatives, streamed; `comparison` holds what is compared with what) and `sigmoid` (the
sigmoid loss, streamed), both on `streaming`;
`distributed` (batches of several processes), `momentum` (key encoder and queue), `heads` (projection heads), `pretrain`
(what `fit` trains encoders on), `sentences` (any loss in sentence-transformers), `clustering` (k-means on the sphere),
`checks`, `precision`, `dimensions` (what single dimensions stand for), `digits_trial` and `captions_trial` (what claims
on views of digits, and on captions, repeat). Rooms, one paper each, are beside them. The names below can be imported
from here.
"""

from __future__ import annotations

# Not on demand like the others: the file has the same name, and importing it from anywhere would take the name.
from palimpsest.contrast.info_nce import info_nce as info_nce
from palimpsest.lazy import front_door

_ROOMS = {
    "clustering": ("spherical_kmeans",),
    "distributed": ("gather_rows", "gathered"),
    "heads": ("Projected", "projection_head"),
    "info_nce": ("nt_xent", "reference_info_nce"),
    "momentum": ("KeyQueue", "MomentumPair"),
    "pretrain": ("Momentum", "SentencePairs", "Views"),
    "sentences": ("SentenceLoss",),
    "sigmoid": ("reference_sigmoid_nce", "sigmoid_nce"),
}

__getattr__, __dir__, __all__ = front_door(__name__, _ROOMS)
__all__ += ["info_nce"]
