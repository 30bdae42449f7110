"""Does averaging over many replacement names forget a person without inventing another life, and without forgetting
whom the same documents mention? (Liu et al. 2024, 2407.16997)"""

from palimpsest.benches import Recipe
from palimpsest.benches.documents import DOCUMENTS, RATES
from palimpsest.benches.documents_world import OTHERS, TARGET
from palimpsest.benches.rows import UNTIL_FORGOTTEN
from palimpsest.evidence.sentences import beats, mechanism, not_worse, safety
from palimpsest.forget.causal_whp import CausalWHP

claim = DOCUMENTS.claim(
    paper="causal_whp",
    question=(
        "Where documents tell of a person to forget and of another to remember: at equal forgetting, does averaging "
        "over many replacement names do better than Who's Harry Potter? by all criteria together (the other is still "
        "known, nothing is invented of the person, answers are sentences), and is it the averaging that invents less?"
    ),
    method=Recipe(
        CausalWHP(target=TARGET, names=OTHERS, n=16), grid={"lr": RATES, "n": [8, 16]}, level=UNTIL_FORGOTTEN
    ),
    arms={"causal_whp of one name": {"n": 1}},
    central=beats("whp", on="targeted score", share_of_room=0.10),
    also=[
        mechanism(beats("causal_whp of one name", on="fabrication", by=0.1)),
        safety(not_worse("whp", on="hard retain", by=0.05)),
        safety(beats("grad_diff", on="hard retain", share_of_room=0.10)),
    ],
    differs=(
        "A two-layer model has read 24 documents on an author and a companion each; the paper has Llama-2-7B, Wikipedia"
        " pages and TOFU. The companions are in the documents to forget, as in the paper: gradient difference ascends "
        "on them too, and is given half of the other documents. Answers are sentences to complete, of which the value "
        "is scored. The replacement names are the authors that are kept: the model knows something else of each, as the"
        " paper's does of its names. The retrained model has read the documents to forget with invented lives of "
        "their authors, another in each text. The jailbreak by answered examples is not tested."
    ),
)
