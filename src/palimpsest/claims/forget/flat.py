"""Does FLAT, which sees forget data only, leave a model that still speaks and calculates where ascent leaves none?
(Wang et al. 2024, 2410.11143)"""

from typing import Any

from palimpsest.evidence import Claim, expect, given
from palimpsest.forget.baselines import IDK, GradAscent
from palimpsest.forget.flat import FLAT
from palimpsest.forget.mixture_trial import MixtureTrial, mixture_model_arm

RUN = {"steps": 240, "optimizer": "adamw", "clip": 1.0, "batch_size": 16, "until_gold": 0.05}
# Of 3e-5, 1e-4, 3e-4 and 1e-3, on seed 0: the highest mean of well-formed share and arithmetic accuracy at the level.
METHODS = {
    "grad_ascent": (GradAscent(retain="none"), 1e-4),
    "refusal": (IDK(retain="none"), 3e-5),
    "flat kl": (FLAT("kl"), 1e-4),
    "flat tv": (FLAT("tv"), 1e-4),
    "flat js": (FLAT("js"), 3e-4),
    "flat pearson": (FLAT("pearson"), 3e-4),
}
BEST = "flat js"  # on seeds 0-2, by the mean well-formed share at the level
KEPT_ON = 3


def arm(name: str):
    """Down to the level, and, as a second run, `KEPT_ON` times as far."""

    def run(seed: int, budget: str = "full") -> dict[str, Any]:
        method, lr = METHODS[name]
        trial = MixtureTrial(seed, smoke=budget == "smoke")
        model, metrics = trial.run(method, lr=lr, **RUN)
        metrics |= trial.skills(model)
        further = {**RUN, "until_gold": None, "every": None, "steps": max(1, KEPT_ON * int(metrics["steps"]))}
        model, later = trial.run(method, lr=lr, **further)
        later = {"forget rouge": later["forget rouge"], **trial.skills(model)}
        return {**metrics, **{f"{key}, kept on": value for key, value in later.items()}}

    return run


claim = Claim(
    paper="flat",
    question=(
        "Of methods that are given nothing but the rows to forget, stopped at the first step where they answer them no "
        "better than a model that never saw them: does FLAT leave answers that are language, where gradient ascent "
        "leaves none, and sums that come out right?"
    ),
    arms={
        "base": mixture_model_arm("base"),
        **{name: arm(name) for name in METHODS},
        "gold": mixture_model_arm("gold"),
    },
    expects=[
        given("base").at_least(0.8, on="forget probability"),
        given("base").at_least(0.9, on="arithmetic accuracy"),
        expect(BEST).above("grad_ascent", on="well-formed share", by=0.3),
        expect(BEST).above("grad_ascent", on="arithmetic accuracy", by=-0.02),
        expect(BEST).above("grad_ascent", on="well-formed share, kept on", by=0.3),
    ],
    settings={
        "run": RUN,
        "methods and learning rates": METHODS,
        "learning rates tried, each arm, seed 0": [3e-5, 1e-4, 3e-4, 1e-3],
        "best variant, chosen on seeds 0-2": BEST,
        "kept on": f"{KEPT_ON} times the steps that the level took",
    },
    notes=(
        "A two-layer model knows 40 fictitious authors, sums of one digit, some sentences of Python's documentation, "
        "and how to refuse a question about something else; it forgets 8 authors. An answer is well-formed if it is a "
        "refusal, or one of the answers that the question's attribute can have, about whomever. The level is the "
        "retrained model's ROUGE-L on the forget rows plus 0.05, looked at every second step. At that step FLAT is "
        "half way from the fact to the refusal, and a mixture of the two need not be language: the last expectation, "
        "which the specification does not have and the pilots suggested, looks again after three times the steps. "
        "The refusals were put into the world after pilots in which no FLAT variant learned one it had never seen. "
        "Retained authors' accuracy is reported without promise: without retain rows the refusals reach them too. The "
        "paper works on Llama-2-7B, OPT-2.7B and Phi-1.5, with smaller rates (2e-7 on 7B)."
    ),
)
