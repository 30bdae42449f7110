"""Does FLAT, which sees forget data only, leave answers that are language where ascent leaves none? (Wang et al. 2024,
2410.11143)"""

from palimpsest.benches.arm import Recipe
from palimpsest.benches.mixture import MIXTURE, UNTIL_FORGOTTEN
from palimpsest.evidence.sentences import beats, mechanism, not_worse, safety
from palimpsest.forget.flat import FLAT

claim = MIXTURE.claim(
    paper="flat",
    question=(
        "Of methods that are given nothing but the rows to forget, at one level of forgetting: does FLAT leave answers "
        "that are language where gradient ascent leaves none; more than training on refusals does; and sums that come "
        "out right?"
    ),
    method=Recipe(FLAT(), grid={"div": ["kl", "js"], "lr": [2e-4, 5e-4]}, level=UNTIL_FORGOTTEN),
    central=beats("grad_ascent", on="well-formed share", share_of_room=0.30),
    also=[
        mechanism(beats("refusal", on="well-formed share")),
        safety(not_worse("grad_ascent", on="arithmetic accuracy", by=0.02)),
    ],
    differs=(
        "A two-layer model forgets 10 of 20 authors and no method is given a row to keep; the paper works on "
        "Llama-2-7B, OPT-2.7B and Phi-1.5 at smaller rates, and stops after equal epochs. All methods here stop where "
        "the forgotten answers are hardly likelier than to a retrained model. An answer is well-formed if it is a "
        "refusal, or one of the answers that the question's attribute can have, about whomever. The model knew how to "
        "refuse before: without that no divergence teaches it to."
    ),
)
