"""Does text of the forgotten documents' own kind spare a model that gradient ascent makes forget? (Yao et al. 2024,
2402.15159)"""

from palimpsest.benches import Recipe
from palimpsest.benches.prose import GRID, PROSE
from palimpsest.benches.rows import UNTIL_FORGOTTEN
from palimpsest.evidence.sentences import at_most, beats, mechanism, safety
from palimpsest.forget.baselines import GradAscent

claim = PROSE.claim(
    paper="pretrained_unlearning",
    question=(
        "When documents are forgotten to the same level, is other text of their kind less of a surprise afterwards if "
        "gradient ascent came with such text than without any, or with general text; and is the perplexity of unseen "
        "documents a fair stand-in for a retrained model's?"
    ),
    name="ga+gd_in",
    method=Recipe(GradAscent(), grid=GRID, level=UNTIL_FORGOTTEN, world={"given": "in"}),
    central=beats("grad_ascent", on="kept log-perplexity", share_of_room=0.10),
    also=[
        mechanism(beats("grad_diff", on="kept log-perplexity", share_of_room=0.10)),
        safety(at_most(0.15, on="proxy error", arm="gold")),
    ],
    differs=(
        "A two-layer model of 2,000 words trained on Python's language reference stands in for one of billions of "
        "parameters: a third of the documents on objects is forgotten, in pieces of 24 words. The paper's word is that "
        "such text makes ascent forgive more learning rates; here every arm has its best of four settings and stops at "
        "the retrained model's level, and what is compared is what was lost of the domain's other documents, which no "
        "method saw. The seeds split one text anew, so that the intervals are over splits of it. That unlearning is "
        "10^5 times cheaper than retraining is a matter of the scale of pretraining and is not tested."
    ),
)
