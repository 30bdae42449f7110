"""Does taking away a small assistant's logits keep more than training the model to forget? (Ji et al. 2024,
2406.08607)"""

from palimpsest.benches import Recipe
from palimpsest.benches.authors import AUTHORS
from palimpsest.benches.authors_kit import FORGOTTEN
from palimpsest.evidence.sentences import at_most, beats, cost, mechanism
from palimpsest.forget.uld import ULD

claim = AUTHORS.claim(
    paper="uld",
    question=(
        "Once the forget answers are gone, has a model lost less where a small assistant's logits were taken away than"
        " where it was trained by gradient difference; and is it the assistant's uniform output on the rest that spares"
        " it?"
    ),
    method=Recipe(
        ULD(n_layers=1, mismatch=False),
        grid={"lr": [1e-2, 2e-2], "weight": [1.0, 1.5, 2.0]},
        settings={"steps": 200, "clip": None, "schedule": "linear", "warmup": 20},
    ),
    alive=[at_most(FORGOTTEN, on="forget probability above gold")],
    central=beats("grad_diff", on="model utility", share_of_room=0.10),
    also=[
        mechanism(beats("uld without uniform", on="model utility", share_of_room=0.10)),
        cost(beats("grad_diff", on="seconds", by=0.0)),
    ],
    arms={"uld without uniform": {"retain_weight": 0.0}},
    differs=(
        "A two-layer model forgets 20 of 40 authors and is given ten others to keep; the assistant has one of its two"
        " layers, as against 8 of 32 in Llama-2-7B. Gradient difference stops where the forget answers are gone; the"
        " assistant is trained to the end, since before it has learned to be uniform it takes everything away. Each"
        " forget row is trained on in two wordings, which stand for the paper's paraphrases; perturbed answers are left"
        " out, because here they share all words but one with the right ones."
    ),
)
