"""Are more unnamed classes found and named ones kept with Happy's parts? (Ma et al. 2024, 2410.06535)"""

from __future__ import annotations

from palimpsest.benches.arm import Recipe
from palimpsest.benches.discovery import DISCOVERY, RATES
from palimpsest.benches.discovery_world import ALL, NEW, OLD
from palimpsest.evidence.sentences import beats, mechanism
from palimpsest.retain.happy import Happy
from palimpsest.retain.sequence import InSequence

claim = DISCOVERY.claim(
    paper="happy",
    question=(
        "Among old digits and without labels, are new ones found and old ones kept better by centroids as beginnings, "
        "entropies of old and new classes as groups and drawn old prototypes, than by self-distillation alone?"
    ),
    method=Recipe(InSequence(Happy()), grid={"lr": RATES, "entropy_weight": [1.0, 2.0]}),
    arms={"mean entropy": {"entropy": "mean"}, "no prototypes": {"prototypes": "none"}},
    alive=[beats("simgcd", on=OLD, by=0.0)],
    central=beats("simgcd", on=ALL, share_of_room=0.10),
    also=[
        mechanism(beats("mean entropy", on=NEW, by=0.0)),
        mechanism(beats("no prototypes", on=OLD, by=0.0)),
    ],
    differs=(
        "The paper fine-tunes the last block of a ViT-B pretrained by DINO on CIFAR-100, ImageNet-100, Tiny ImageNet "
        "and CUB, half of whose classes have labels, in five later tasks. Here a network of two hidden layers begins "
        "with random weights, four digits have labels, 150 batches of 64 make a task, and Adam is used. The baseline "
        "is self-distillation with mean entropy, as SimGCD, without what keeps old classes."
    ),
)
