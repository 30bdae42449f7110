"""Does forget quality tell what knows, or was made to forget, from what never knew? (Maini et al. 2024, 2401.06121)"""

from math import log10

from palimpsest.benches import Recipe
from palimpsest.benches.authors import AUTHORS
from palimpsest.evidence.sentences import at_least, at_most, mechanism, safety

PASSED = log10(0.05)  # where the paper's test no longer tells a model from the retrained one

claim = AUTHORS.claim(
    paper="tofu",
    question=(
        "Does forget quality pass a second retrained model, and neither the model that knows the forget rows nor one"
        " that a tuned baseline made forget?"
    ),
    name="second gold",
    method=Recipe(start="second gold"),
    central=at_least(PASSED, on="log10 forget quality"),
    also=[
        mechanism(at_most(-6.0, on="log10 forget quality", arm="base")),
        safety(at_most(PASSED, on="log10 forget quality", arm="grad_diff")),
        safety(at_most(PASSED, on="log10 forget quality", arm="npo")),
    ],
    arms={"base": Recipe(start="base")},
    differs=(
        "A two-layer model forgets 20 of 40 generated authors; the paper has Llama-2-7B and 200 authors that GPT-4"
        " wrote. The paper scores its baselines along five epochs at one rate, and finds none that passes and keeps"
        " its utility; here two of them are tuned, and stop where their answers have few more right words than the"
        " retrained model's. Both retrained models are trained on the same rows, from other weights and in another"
        " order."
    ),
)
