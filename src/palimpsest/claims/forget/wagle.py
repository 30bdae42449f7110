"""Does attribution pick weights whose training forgets at less cost than that of all? (Jia et al. 2024, 2410.17509)"""

from __future__ import annotations

import torch

from palimpsest.benches.arm import Recipe
from palimpsest.benches.authors import AUTHORS, GRID, UNTIL_FORGOTTEN
from palimpsest.benches.authors_kit import Forgetting
from palimpsest.evidence.sentences import at_least, beats, mechanism
from palimpsest.forget.wagle import Wagle
from palimpsest.train.method import Applied

LEFT = "share of weights left as they were"


def left(world: Forgetting, applied: Applied) -> dict[str, float]:
    """The share of the base model's weights that training did not move, to the bit."""
    before, after = world.model("base").state_dict(), applied.model.state_dict()
    same = torch.cat([(after[name] == value).flatten() for name, value in before.items()])
    return {LEFT: same.float().mean().item()}


claim = AUTHORS.claim(
    paper="wagle",
    question=(
        "At equal forgetting, has a model lost less to NPO where only the four fifths of its weights train that"
        " attribution picks than where all train; and does it matter which fifth is left?"
    ),
    method=Recipe(Wagle("npo", keep=0.8), grid=GRID, level=UNTIL_FORGOTTEN),
    then=left,
    alive=[at_least(0.19, on=LEFT)],
    central=beats("npo", on="model utility", share_of_room=0.10),
    also=[
        mechanism(beats("random mask", on="model utility", share_of_room=0.10)),
        mechanism(beats("gradient mask", on="model utility", share_of_room=0.0)),
    ],
    arms={"random mask": {"mask": "random"}, "gradient mask": {"mask": "gradient"}},
    differs=(
        "A two-layer model forgets 20 of 40 authors and is given ten others to keep; the paper works on models of 7"
        " billion parameters, of which far fewer matter, and trains up to 95% of them. NPO with all weights and with"
        " WAGLE's are tuned over the same rates and retain weights, and stop at the same level of forgetting. The"
        " random mask leaves a fifth of every matrix, WAGLE's and the one by the forget gradient alone a quarter of all"
        " that can train; both have WAGLE's settings. mu is the median of the retain loss's diagonal Fisher"
        " information. Gradient difference is left out."
    ),
)
