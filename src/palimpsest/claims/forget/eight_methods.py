"""Does a model whose answers are gone still know them, attacked or probed? (Lynch et al. 2024, 2402.16835)"""

from __future__ import annotations

from palimpsest.benches.arm import Drawn, Recipe
from palimpsest.benches.authors import AUTHORS, UNTIL_FORGOTTEN
from palimpsest.benches.authors_kit import Forgetting, relearned
from palimpsest.evidence.sentences import at_least, mechanism, safety
from palimpsest.forget.eight_methods import TELLS
from palimpsest.forget.probing import fact_probe
from palimpsest.forget.whp import WHP
from palimpsest.train.method import Applied

RECOVERED, LATENT = "ROUGE-L relearned beyond gold's", "probe's lead over gold's"


def renamed(world: Forgetting) -> WHP:
    """After "Who's Harry Potter?", with the world's names."""
    task = world.authors.task
    return WHP(target="|".join(task.authors("forget")), names=tuple({row.author: None for row in world.given}))


def tested(world: Forgetting, applied: Applied) -> dict[str, float]:
    """Two of the eight tests, each beside the retrained model."""
    gold, rows = world.model("gold"), [row.to_json() for row in world.authors.task.forget]
    probes = [fact_probe(m, world.authors.tokenizer, rows, seed=world.seed).score for m in (applied.model, gold)]
    attacked = [relearned(world, model) for model in (applied.model, gold)]
    return {RECOVERED: attacked[0] - attacked[1], LATENT: probes[0] - probes[1]}


claim = AUTHORS.claim(
    paper="eight_methods",
    question=(
        'Where "Who\'s Harry Potter?" has made the forget answers hardly likelier than a retrained model finds them,'
        " do half of the facts bring the other half back, and does a probe find them?"
    ),
    name="whp",
    method=Recipe(
        Drawn(renamed),
        grid={"lr": [3e-5, 1e-4, 3e-4, 5e-4, 1e-3, 3e-3]},
        level=UNTIL_FORGOTTEN,
    ),
    then=tested,
    central=at_least(TELLS, on=RECOVERED),
    also=[
        mechanism(at_least(TELLS, on=LATENT)),
        safety(at_least(TELLS, on=RECOVERED, arm="rmu")),
        safety(at_least(TELLS, on=LATENT, arm="rmu")),
    ],
    differs=(
        "The paper tests Llama-2-7B that was made to forget Harry Potter by this method. A two-layer model forgets 20"
        " of 40 authors, whose names are those of ten others to the teacher, and stops at one level of forgetting,"
        " where the paper looks at how familiar completions are. Of the eight tests two are asked, beside the retrained"
        " model: relearning (ten steps on half of the authors) and the probe; a lead of a tenth counts, as in the room."
        " Other languages, jailbreaks and uses further on, for which a small model must first be taught to answer, are"
        " tests of the room."
    ),
)
