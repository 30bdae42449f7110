"""The methods by name, each with its default fields: what `palimpsest forget --method` and the comparisons offer."""

from typing import Any

from palimpsest.forget.baselines import IDK, LLMU, RMU, GradAscent, IdkDPO
from palimpsest.forget.booster import Booster
from palimpsest.forget.causal_whp import WHP, CausalWHP
from palimpsest.forget.concept_vectors import Needle
from palimpsest.forget.eco_prompts import ECO
from palimpsest.forget.flat import FLAT
from palimpsest.forget.knowundo import MemFlex
from palimpsest.forget.npo import NPO
from palimpsest.forget.pretrained_unlearning import AdversarialLabel, RandomTokens
from palimpsest.forget.prompt_gate import RefusalGuard
from palimpsest.forget.relearn import ReLearn
from palimpsest.forget.rwku import Steering
from palimpsest.forget.sae_unlearning import SaeClamp
from palimpsest.forget.simnpo import SimNPO
from palimpsest.forget.skill_unlearning import KeySpaceDetection, NeuronAdjust
from palimpsest.forget.uld import ULD
from palimpsest.forget.unforgettable import RandomOptions
from palimpsest.forget.unstar import UnStar
from palimpsest.forget.wagle import Wagle

METHODS: dict[str, Any] = {
    "grad_ascent": GradAscent(retain="none"),
    "grad_diff": GradAscent(retain="ce"),
    "kl": GradAscent(retain="kl"),
    "idk": IDK(),
    "idk_dpo": IdkDPO(),
    "rmu": RMU(),
    "llmu": LLMU(),
    "npo": NPO(),
    "simnpo": SimNPO(),
    "random_label": RandomTokens(retain="none"),
    "adversarial_label": AdversarialLabel(retain="none"),
    "random_options": RandomOptions(),
    "needle": Needle(),
    "flat": FLAT(),
    "relearn": ReLearn(),
    "unstar": UnStar(),
    "booster": Booster(),
    "whp": WHP(),
    "causal_whp": CausalWHP(),
    "wagle": Wagle(),
    "memflex": MemFlex(grad=None),
    "uld": ULD(),
    "eco_prompts": ECO(),
    "refusal_guard": RefusalGuard(),
    "neuron_adjust": NeuronAdjust(),
    "key_space": KeySpaceDetection(),
    "rwku_steering": Steering(),
    "sae_unlearning": SaeClamp(),
}
