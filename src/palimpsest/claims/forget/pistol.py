"""Is a contract whose party has many others harder to forget cleanly? (Qiu et al. 2024, 2406.16810)"""

from palimpsest.benches.contracts import CONTRACTS
from palimpsest.evidence.sentences import at_least, beats, mechanism

claim = CONTRACTS.claim(
    paper="pistol",
    question=(
        "When two contracts are forgotten to the same level, is more lost of all others if the two hang on a hub than "
        "if they stand alone; and do the hub's other contracts lose more than distant ones?"
    ),
    name="grad_diff, isolated",
    method=CONTRACTS.baselines["grad_diff, isolated"],
    central=beats("grad_diff", on="deviation", share_of_room=0.10),
    also=[
        mechanism(at_least(0.1, on="hub's loss beyond others'", arm="grad_diff")),
        mechanism(at_least(0.1, on="hub's loss beyond others'", arm="npo")),
    ],
    differs=(
        "A two-layer model knows twelve contracts of eight attributes and forgets two by gradient difference, tuned "
        "for the hub and for isolated contracts apart; the paper averages four methods on models of 7 billion "
        "parameters, at a rate chosen on another edge. All arms stop at one level of forgetting, and are given a "
        "quarter of the rows to keep, where the paper compares after equal steps, so that what the deviation score "
        "tells apart here is what was lost. The attributes are ours. Not tested: chains, more edges, other mixes."
    ),
)
"""the paper's finding, read the other way round: isolated contracts come out lower on a score that should be low"""
