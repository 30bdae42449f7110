"""Erase: make a language model forget rows, and find out whether it did.

Rooms, one paper each:

- `palimpsest.forget.tofu`: forget quality and model utility, the benchmark's scores for any causal language model;
- `palimpsest.forget.npo`: negative preference optimisation;
- `palimpsest.forget.simnpo`: the same without a reference model.

Their hall: `procedure` (rows, batches, `unlearn`), `baselines` (gradient ascent and difference, KL, IDK, IdkDPO, RMU,
LLMU), `intervention` (forgetting at inference: `save`, `load`), `retrain` (the gold standard), `methods` (all of them
by name), `compare` (several on one model), `shares` (what of a model is forgotten and kept), `looks` (training that
ends at a level of forgetting), `rates` (the choice of a learning rate), `evaluation` and `attacks` (scoring),
`refusals`, and `authors_trial` (what the claims repeat). The names below can be imported from here.
"""

from __future__ import annotations

from palimpsest.lazy import front_door

_ROOMS = {
    "attacks": ("membership",),
    "baselines": ("IDK", "LLMU", "RMU", "GradAscent", "IdkDPO"),
    "intervention": ("Intervention", "intervene", "load", "save"),
    "methods": ("METHODS",),
    "npo": ("NPO", "logistic_divergence", "npo_loss", "npo_total", "npo_weight"),
    "procedure": ("ForgetData", "prepare", "unlearn"),
    "simnpo": ("SimNPO", "simnpo_loss", "simnpo_weight"),
    "tofu": ("evaluate_tofu", "forget_quality", "model_utility", "tofu_score", "truth_ratio"),
}

__getattr__, __dir__, __all__ = front_door(__name__, _ROOMS)
