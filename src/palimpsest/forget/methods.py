"""The methods by name, each with its default fields: what `palimpsest forget --method` and the comparisons offer.

A method is imported when it is first asked for: the command's help names them all, and loads none.
"""

from palimpsest.lazy import Table

METHODS = Table(
    "palimpsest.forget",
    {
        "grad_ascent": ("baselines", "GradAscent", {"retain": "none"}),
        "grad_diff": ("baselines", "GradAscent", {"retain": "ce"}),
        "kl": ("baselines", "GradAscent", {"retain": "kl"}),
        "idk": ("baselines", "IDK", {}),
        "idk_dpo": ("baselines", "IdkDPO", {}),
        "rmu": ("baselines", "RMU", {}),
        "llmu": ("baselines", "LLMU", {}),
        "npo": ("npo", "NPO", {}),
        "simnpo": ("simnpo", "SimNPO", {}),
        "random_label": ("pretrained_unlearning", "RandomTokens", {"retain": "none"}),
        "adversarial_label": ("pretrained_unlearning", "AdversarialLabel", {"retain": "none"}),
        "random_options": ("unforgettable", "RandomOptions", {}),
        "needle": ("concept_vectors", "Needle", {}),
        "flat": ("flat", "FLAT", {}),
        "relearn": ("relearn", "ReLearn", {}),
        "unstar": ("unstar", "UnStar", {}),
        "booster": ("booster", "Booster", {}),
        "whp": ("whp", "WHP", {}),
        "causal_whp": ("causal_whp", "CausalWHP", {}),
        "wagle": ("wagle", "Wagle", {}),
        "memflex": ("knowundo", "MemFlex", {"grad": None}),
        "uld": ("uld", "ULD", {}),
        "eco_prompts": ("eco_prompts", "ECO", {}),
        "refusal_guard": ("refusal_guard", "RefusalGuard", {}),
        "neuron_adjust": ("skill_unlearning", "NeuronAdjust", {}),
        "key_space": ("skill_unlearning", "KeySpaceDetection", {}),
        "rwku_steering": ("rwku", "Steering", {}),
        "sae_unlearning": ("sae_unlearning", "SaeClamp", {}),
    },
)
MOST_RATES = 25
"""learning rates that --tune tries at most: half a decade apart, these span twelve decades"""
