"""The methods that every comparison of the family knows, by name, with the papers' settings."""

from __future__ import annotations

from palimpsest.lazy import Table

METHODS = Table(
    "palimpsest.retain",
    {
        "fine_tune": ("replay", "FineTune", {}),
        "joint": ("replay", "Joint", {}),
        "er": ("replay", "ER", {}),
        "der_pp": ("replay", "DERpp", {}),
        "a_gem": ("replay", "AGEM", {}),
        "gdumb": ("replay", "GDumb", {}),
        "ewc": ("penalties", "EWC", {}),
        "online_ewc": ("penalties", "OnlineEWC", {}),
        "si": ("penalties", "SI", {}),
        "l2_init": ("penalties", "L2Init", {}),
        "interpolation": ("penalties", "Interpolation", {}),
        "freeze": ("freezing", "Freeze", {}),
        "kl_replay": ("old_answers", "OldAnswers", {}),
        "lwf": ("distillation", "LwF", {}),
        "icarl": ("prototypes", "ICaRL", {}),
        "ncm": ("prototypes", "NearestClassMean", {}),
        "slda": ("prototypes", "StreamingLDA", {}),
        "prototype_replay": ("prototypes", "PrototypeReplay", {}),
        "continual_backprop": ("continual_backprop", "ContinualBackprop", {}),
        "gem": ("gem", "GEM", {}),
        "bfp": ("bfp", "BFP", {}),
        "bic": ("bic", "BiC", {}),
        "bcwi": ("bcwi", "BCWI", {}),
        "hfc": ("hfc", "HFC", {}),
        "pec": ("pec", "PEC", {}),
        "power_law_rehearsal": ("power_law_rehearsal", "PowerLawRehearsal", {}),
        "spectral_reg": ("spectral_reg", "SpectralReg", {}),
        "wasserstein_init": ("wasserstein_init", "WassersteinInit", {}),
        "plwf": ("plwf", "PLwF", {}),
        "foster": ("foster", "FOSTER", {}),
        "rehearsal_kd": ("rehearsal_kd", "RehearsalKD", {}),
        "icl_features": ("ideal_continual_learner", "ICLFeatures", {}),
        "generative_replay": ("generative_replay", "GenerativeReplay", {}),
        "gwr": ("growing_when_required", "GWR", {}),
        "progressive_columns": ("progressive_columns", "ProgressiveColumns", {}),
        "weight_aligning": ("weight_aligning", "WeightAligning", {}),
        "restart": ("renewal", "Restart", {}),
        "shrink_perturb": ("renewal", "ShrinkPerturb", {}),
    },
)
"""name -> the method, made when it is first asked for. A room adds its line here."""
