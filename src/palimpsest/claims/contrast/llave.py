"""Are texts found better where hard negatives weigh more, or is a tuned temperature as good?
(Lan et al. 2025, LLaVE, 2503.04812)"""

from __future__ import annotations

from functools import partial

from palimpsest.benches.arm import Recipe
from palimpsest.benches.bench import Measure
from palimpsest.benches.docpairs import DOCPAIRS, GRID
from palimpsest.benches.docpairs_world import RETRIEVAL, Docstrings, compared
from palimpsest.contrast.llave import hardness_nce
from palimpsest.contrast.llave_measures import overlap
from palimpsest.contrast.pretrain import SentencePairs
from palimpsest.evidence.sentences import beats, mechanism
from palimpsest.train.method import Applied

OVERLAP = "overlap of answers and hardest others"


def confusion(world: Docstrings, applied: Applied) -> dict[str, float]:
    """Of the cosines of each summary that asks with the nearest of its answers, and with the nearest other body."""
    cosines, answers = compared(applied.model, world.splits.test)
    found, hardest = (cosines.masked_fill(~chosen, -1).amax(1) for chosen in (answers, ~answers))
    return {OVERLAP: overlap(found, hardest)}


claim = DOCPAIRS.claim(
    paper="llave",
    question=(
        "Are texts found better where negatives weigh by their hardness than by InfoNCE at the best of the same "
        "temperatures, and are answers and the hardest other bodies told apart more clearly?"
    ),
    method=Recipe(SentencePairs(partial(hardness_nce, temperature=0.05, alpha=9.0, normalize=True)), grid=GRID),
    arms={"alpha = 0": {"alpha": 0.0}},
    then=confusion,
    read={OVERLAP: Measure("lower")},
    alive=[beats("untrained", on=RETRIEVAL, by=0.0)],
    central=beats("info_nce", on=RETRIEVAL),
    also=[
        mechanism(beats("info_nce", on=OVERLAP, by=0.0)),
        mechanism(beats("alpha = 0", on=RETRIEVAL, by=0.0)),
    ],
    differs=(
        "The vectors of words learn from 1,000 pairs of texts; the paper fine-tunes large vision-language models on "
        "MMEB at a temperature of 0.02, which suits these vectors least of those tried. Here the temperature is tuned "
        "for both losses, from 0.05 to 0.2, and alpha is the paper's 9. With alpha = 0 the loss is InfoNCE at the "
        "temperature and rate that suit the weights. Bodies that are alike, or that have the same summary, are each "
        "other's negatives in training: such false negatives get most weight."
    ),
)
