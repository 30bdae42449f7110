"""Does the benchmark separate models that know from models that never knew, and do its baselines forget cleanly?
(Maini et al. 2024, 2401.06121)"""

from palimpsest.evidence import Claim, expect, given
from palimpsest.forget.authors_trial import AuthorsTrial, model_arm
from palimpsest.forget.baselines import IDK, GradAscent

RUN = {"steps": 60, "lr": 1e-3, "optimizer": "adamw", "batch_size": 16, "every": 10}


def baseline(objective):
    """A run whose every checkpoint is judged: clean where forget quality is above 0.05 and at least 0.9 of the full
    model's utility is left."""

    def run(seed: int, budget: str = "full"):
        trial = AuthorsTrial(seed, smoke=budget == "smoke")
        full = trial.untouched("base")["model utility"]
        _, metrics = trial.run(objective, **RUN)
        utilities = metrics["model utility by step"]
        qualities = metrics["log10 forget quality by step"]
        # How near the run came to the corner: the worse of both margins, in its own unit, at the best checkpoint.
        kept = [utility / full if full else 0.0 for _, utility in utilities]
        clean = [10**quality > 0.05 and share >= 0.9 for (_, quality), share in zip(qualities, kept, strict=True)]
        forgot = [share for (_, quality), share in zip(qualities, kept, strict=True) if 10**quality > 0.05]
        return {
            **metrics,
            "clean checkpoints": float(sum(clean)),
            "utility kept once forgotten": max(forgot, default=0.0),
        }

    return run


BASELINES = {
    "grad_ascent": GradAscent(retain="none"),
    "grad_diff": GradAscent(retain="ce"),
    "kl": GradAscent(retain="kl"),
    "idk": IDK(),
}

claim = Claim(
    paper="tofu",
    question=(
        "Does forget quality tell a model that knows the forget rows from one retrained without them, without telling "
        "two retrained models apart; and does any of the four baselines forget cleanly at any checkpoint?"
    ),
    arms={
        "full": model_arm("base"),
        "second gold": model_arm("second gold"),
        **{name: baseline(objective) for name, objective in BASELINES.items()},
    },
    expects=[
        given("full").at_least(0.8, on="forget probability"),
        expect("full").at_most(-6.0, on="log10 forget quality"),
        expect("second gold").at_least(-1.301, on="log10 forget quality"),
        expect("full").at_most(0.75, on="forget truth ratio"),
        expect("second gold").at_least(0.9, on="forget truth ratio"),
        *(expect(name).at_most(0.0, on="clean checkpoints") for name in BASELINES),
    ],
    settings={
        "run": RUN,
        "clean": "forget quality > 0.05 and utility >= 0.9 x the full model's, at the same checkpoint",
    },
    notes=(
        "The paper's finding is that none of its baselines unlearns cleanly on 7B models; here the model has two "
        "layers and knows 40 generated authors. The forget truth ratio of a gold model is taken from the second "
        "gold model, since the first one is the reference of forget quality. The same claim was first run on a "
        "world trained for 12 epochs; the world was then made faster (13 epochs, bare questions) and the claim "
        "run again on the same seeds: both verdicts are in the history."
    ),
)
