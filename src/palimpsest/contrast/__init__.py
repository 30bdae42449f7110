"""Pull together, push apart: contrastive and self-supervised learning.

The hall: `info_nce` (InfoNCE and relatives, streamed) and `sigmoid` (the sigmoid loss, streamed), both on `streaming`;
`distributed` (batches of several processes), `momentum` (key encoder and queue), `heads` (projection heads), `pretrain`
(what `fit` trains encoders on), `sentences` (any loss in sentence-transformers), `clustering` (k-means on the sphere),
`checks`, `precision`, `dimensions` (what single dimensions stand for), `digits_trial` and `captions_trial` (what claims
on views of digits, and on captions, repeat). Rooms, one paper each, are beside them. The names below can be imported
from here.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

# Not on demand like the others: the file has the same name, and importing it from anywhere would take the name.
from palimpsest.contrast.info_nce import info_nce as info_nce

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
_HOMES = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = sorted([*_HOMES, "info_nce"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
