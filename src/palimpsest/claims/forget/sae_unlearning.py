"""Does pushing a sparse autoencoder's features below zero make a model forget, and at what cost?
(Farrell, Lau and Conmy 2024, 2410.19278)"""

from palimpsest.benches.arm import Recipe
from palimpsest.benches.multiple_choice import MULTIPLE_CHOICE
from palimpsest.evidence.sentences import at_most, beats, cost, mechanism, not_worse
from palimpsest.forget.sae_unlearning import SaeClamp

claim = MULTIPLE_CHOICE.claim(
    paper="sae_unlearning",
    question=(
        "Where features of a sparse autoencoder are pushed below zero until a subject is forgotten, has text that has"
        " nothing to do with it suffered as much as under LLMU, or more; and is it necessary to push them below zero,"
        " rather than to ablate them?"
    ),
    method=Recipe(
        SaeClamp(layer=1, k=40, active=8, sae_steps=2500, sae_lr=2e-3),
        grid={"retain_max": [0.05, 0.15], "scale_by": [2.0, 20.0]},
    ),
    arms={"zero ablation": {"scale_by": 0.0}},
    alive=[at_most(0.5, on="forget accuracy")],
    central=not_worse("sae_unlearning", on="text loss", arm="llmu"),
    also=[
        mechanism(beats("zero ablation", on="forget accuracy in all forms", by=0.3)),
        cost(beats("sae_unlearning", on="kept accuracy", arm="llmu")),
    ],
    differs=(
        "A three-layer model with a residual stream of 96 dimensions whose autoencoder has 768 features and is trained"
        " on the rows that every method is given; the paper takes Gemma's public ones, of 16 thousand features, and"
        " biology against other subjects of MMLU. The paper compares with RMU, which here is no measure of anything: at"
        " the best of six points it broke the model within ten steps on three of five pilot seeds, and never forgot"
        " enough on a fourth; hence LLMU, which stops where 0.35 of the questions are right. The clamp is tuned over as"
        " many points and stops nowhere. The model knows letters by heart, so that its features are mostly of tokens."
        " Single features that flip an answer are in the room, and not asked for here."
    ),
)
