"""Has a model that NPO made forget lost less than one made to forget by gradient difference? (Zhang et al. 2024,
2404.05868)"""

from palimpsest.benches.authors import AUTHORS
from palimpsest.evidence.sentences import beats, mechanism, not_worse, safety

claim = AUTHORS.claim(
    paper="npo",
    question=(
        "At equal forgetting, has a model lost less to negative preference optimisation, whose pull on a row fades once"
        " it is forgotten, than to gradient difference; and is it the fading that spares it?"
    ),
    method=AUTHORS.baselines["npo"],
    central=beats("grad_diff", on="model utility", share_of_room=0.10),
    also=[
        mechanism(beats("npo without fading", on="model utility", share_of_room=0.10)),
        safety(not_worse("grad_diff", on="log10 forget quality", by=1.0)),
    ],
    arms={"npo without fading": {"beta": 1e-4}},
    differs=(
        "A two-layer model forgets 20 of 40 authors and is given ten others to keep, where the paper has Llama-2-7B and"
        " TOFU. Both methods have a retain term, whose weight is tuned with the rate, and stop at the same level of"
        " forgetting; the paper compares curves over epochs at one rate and weight. AdamW, as in the paper's"
        " experiments, rescales the fading gradient. With beta near 0 the loss is gradient ascent on summed"
        " log-likelihoods, at NPO's settings. The paper's theory is a test of the room."
    ),
)
