"""Does SimNPO, which has no reference model, keep more than NPO at equal forgetting? (Fan et al. 2024, 2410.07163)"""

from palimpsest.benches import Recipe
from palimpsest.benches.authors import AUTHORS, GRID, UNTIL_FORGOTTEN
from palimpsest.evidence.sentences import beats, not_worse, safety
from palimpsest.forget.simnpo import SimNPO

claim = AUTHORS.claim(
    paper="simnpo",
    question=(
        "At equal forgetting, has a model lost less to SimNPO, which judges an answer by its probability per token and"
        " needs no reference model, than to NPO; and does relearning bring back no more?"
    ),
    method=Recipe(SimNPO(beta=2.5, forget_weight=1.0), grid=GRID, level=UNTIL_FORGOTTEN),
    central=beats("npo", on="model utility", share_of_room=0.10),
    also=[
        safety(not_worse("npo", on="log10 forget quality", by=1.0)),
        safety(not_worse("npo", on="forget ROUGE-L relearned", by=0.02)),
    ],
    differs=(
        "A two-layer model forgets 20 of 40 authors and is given ten others to keep, where the paper has Llama-2-7B and"
        " TOFU. Both methods are tuned over the same rates and retain weights, and stop at the same level of"
        " forgetting; the paper compares forget quality after equal epochs (0.99 against 0.79). The authors weigh"
        " forgetting 0.125 against a retain weight of 1, which is 8 to 1; here 20 and more to 1 were tried, for both."
        " The paper's second world, chains of which some are short or were never memorised, is not tested."
    ),
)
