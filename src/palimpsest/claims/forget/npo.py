"""Does NPO forget without the collapse of gradient ascent? (Zhang et al. 2024, 2404.05868)"""

import numpy as np

from palimpsest.evidence import Claim, expect, given
from palimpsest.forget.authors_trial import arm, model_arm
from palimpsest.forget.baselines import GradAscent
from palimpsest.forget.npo import NPO, logistic_divergence

SGD = {"steps": 60, "lr": 0.02, "optimizer": "sgd", "batch_size": 16, "every": 10}
ADAM = {**SGD, "lr": 1e-3, "optimizer": "adamw", "clip": 1.0}
THEORY = {"steps": 2000, "lr": 1.0}


def theory(loss: str):
    """Which law the distance travelled follows in the paper's logistic model: linear in the steps, or logarithmic."""

    def run(seed: int, budget: str = "full") -> dict[str, float | list[tuple[float, float]]]:
        steps = THEORY["steps"] if budget == "full" else 50
        distance = logistic_divergence(steps, THEORY["lr"], loss, seed=seed)[1:].numpy()
        step = np.arange(1, steps + 1)
        linear, logarithmic = (np.corrcoef(law, distance)[0, 1] ** 2 for law in (step, np.log(step)))
        return {
            "R2 of a linear law": float(linear),
            "R2 logarithmic minus linear": float(logarithmic - linear),
            "distance by step": [(float(s), float(distance[s - 1])) for s in step[:: max(1, steps // 50)]],
        }

    return run


claim = Claim(
    paper="npo",
    question=(
        "After the same 60 steps of SGD, does NPO with a retain term keep the model useful where gradient ascent and "
        "gradient difference destroy it, and still forget?"
    ),
    arms={
        "base": model_arm("base"),
        "grad_ascent": arm(GradAscent(retain="none", per_token=False), **SGD),
        "grad_diff": arm(GradAscent(retain="ce", per_token=False), **SGD),
        "npo": arm(NPO(retain="none"), **SGD),
        "npo-rt": arm(NPO(), **SGD),
        "npo-rt, AdamW": arm(NPO(), **ADAM),
        "gold": model_arm("gold"),
        "theory: ascent": theory("ga"),
        "theory: npo": theory("npo"),
    },
    expects=[
        given("base").at_least(0.8, on="forget probability"),
        expect("npo-rt").above("grad_diff", on="model utility", by=0.15),
        expect("npo-rt").at_least(-2.0, on="log10 forget quality"),
        expect("grad_ascent").at_most(0.05, on="model utility"),
        expect("theory: ascent").at_least(0.98, on="R2 of a linear law"),
        expect("theory: npo").at_least(0.0, on="R2 logarithmic minus linear"),
    ],
    settings={"SGD": SGD, "AdamW (exploratory)": ADAM, "theory": THEORY, "beta": 0.1},
    notes=(
        "A two-layer model that knows 40 fictitious authors forgets 8 of them; the paper works on Llama-2-7B and "
        "TOFU. Plain SGD without clipping, because Adam rescales the shrinking gradient of NPO and hides the "
        "effect: the AdamW arm shows it. All methods sum an answer's log-likelihood over its tokens, so that "
        "gradient ascent is what NPO becomes as beta goes to 0. The paper's second result, forgetting half of the "
        "data where others fail at a tenth, is not tested here. The same claim was first run on a world trained "
        "for 12 epochs; the world was then made faster (13 epochs, bare questions) and the claim run again on the "
        "same seeds: both verdicts are in the history."
    ),
)
