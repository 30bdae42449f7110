"""Does forgetting conclusions leave the way to them, and forgetting a premise take harmless knowledge along?
(Barez et al. 2025, 2501.04952)"""

from palimpsest.benches.two_hop import TWO_HOP
from palimpsest.evidence.sentences import at_least, beats, cost, mechanism

claim = TWO_HOP.claim(
    paper="open_problems_unlearning",
    question=(
        "When conclusions are forgotten, does the model still come to them through the premises it keeps; and when the "
        "premises are forgotten instead, do harmless facts about the same persons go with them?"
    ),
    name="grad_diff",
    method=TWO_HOP.baselines["grad_diff"],
    central=at_least(0.8, on="chained recovery"),
    also=[
        mechanism(at_least(0.8, on="chained recovery", arm="npo")),
        mechanism(beats("grad_diff, premises", on="chained recovery", by=0.3)),
        cost(beats("grad_diff, premises", on="benign recall", by=0.15)),
    ],
    alive=[at_least(0.8, on="chained recovery", arm="gold")],
    differs=(
        "The survey has no experiment; this one is ours. A two-layer model has learned by heart where 24 persons live, "
        "in two wordings a row; the country of six is forgotten until it is hardly likelier than to a model that was "
        "never told it. Methods are given the premises to keep, and not the rivers at these persons' homes, which are "
        "harmless and follow from the same premise. The way is asked for in two questions, the first answer put into "
        "the second. A model that has learned a conclusion by heart need not use its premises, so that what goes with a"
        " premise here is neighbouring wording as much as shared knowledge."
    ),
)
