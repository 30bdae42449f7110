"""Erase: make a language model forget rows, and find out whether it did.

Rooms, one paper each:

- `palimpsest.forget.tofu`: forget quality and model utility, the benchmark's scores for any causal language model;
- `palimpsest.forget.npo`: negative preference optimisation;
- `palimpsest.forget.simnpo`: the same without a reference model.

Their hall: `procedure` (rows, batches, `unlearn`), `baselines` (gradient ascent and difference, KL, IDK, IdkDPO, RMU,
LLMU), `intervention` (forgetting at inference: `save`, `load`), `retrain` (the gold standard), `methods` (all of them
by name), `compare` (several on one model), `forgotten_and_kept` (both as shares of what was known), `stop_at_level`
(looks that end training at a level of forgetting), `learning_rates` (the choice of one), `evaluation` and `attacks`
(scoring), `refusals`, and `authors_trial` (what the claims repeat). The names below can be imported from here.
"""

from __future__ import annotations

from palimpsest.lazy import front_door

_ROOMS = {
    "anti_samples": ("TEXTS",),
    "attacks": ("membership",),
    "baselines": ("GradAscent", "IDK", "IdkDPO", "LLMU", "RMU"),
    "booster": ("Booster",),
    "booster_measures": ("attack",),
    "causal_whp": ("CausalWHP", "teacher_distribution"),
    "causal_whp_measures": ("criteria",),
    "concept_vectors": ("Needle", "needle"),
    "concept_vectors_measures": ("concept_vectors_score", "intrinsic_scores"),
    "data_erasure_survey_measures": ("scorecard",),
    "data_erasure_survey_registry": ("registry",),
    "eco_prompts": ("ECO",),
    "eight_methods": ("Suite", "robust_suite"),
    "familiar_completions": ("Completion", "familiarity"),
    "flat": ("FLAT", "flat_loss"),
    "intervention": ("Intervention", "intervene", "load", "save"),
    "knowundo": ("MemFlex",),
    "knowundo_measures": ("knowundo_score",),
    "methods": ("METHODS",),
    "npo": ("NPO", "logistic_divergence", "npo_loss", "npo_total", "npo_weight"),
    "open_problems_unlearning": ("evaluation_gap", "report"),
    "pistol": ("deviation_score", "pistol_graph", "pistol_score"),
    "pretrained_unlearning": ("AdversarialLabel", "RandomTokens", "seven_methods", "tune"),
    "pretrained_unlearning_measures": ("approximate_gold",),
    "procedure": ("ForgetData", "prepare", "unlearn"),
    "refusal_guard": ("RefusalGuard",),
    "relearn": ("ReLearn",),
    "relearn_rows": ("augment",),
    "rwku": ("Steering",),
    "rwku_measures": ("Frames", "rwku_score"),
    "sae_unlearning": ("SaeClamp",),
    "simnpo": ("SimNPO", "simnpo_loss", "simnpo_weight"),
    "skill_unlearning": ("KeySpaceDetection", "NeuronAdjust"),
    "tofu": ("forget_quality", "model_utility", "truth_ratio"),
    "tofu_measures": ("evaluate_tofu", "tofu_score"),
    "truly_unlearn": ("black_box_suite", "rephrasings"),
    "uld": ("ULD",),
    "uld_model": ("uld_logits",),
    "unforgettable": ("RandomOptions", "random_label_forget"),
    "unforgettable_measures": ("forget_matrix", "forget_ratio", "probe_recovery"),
    "unstar": ("UnStar",),
    "value_vectors": ("causal_check", "find_concept_vectors"),
    "wagle": ("Wagle", "wagle_mask", "wagle_scores"),
    "whp": ("WHP",),
    "zero_shot": ("rwku_task",),
}

__getattr__, __dir__, __all__ = front_door(__name__, _ROOMS)
