"""Does a sigmoid for every pair lose less than the softmax when batches are small, and what is its bias for?
(Zhai et al. 2023, 2303.15343)"""

from __future__ import annotations

import torch

from palimpsest.contrast.captions_trial import Captioned, CaptionsTrial, TwoTowers
from palimpsest.contrast.siglip import BIAS, SigmoidLoss, SoftmaxLoss, chunked_sigmoid_loss, sigmoid_loss
from palimpsest.evidence import Claim, expect, given

SAMPLES = 64_000  # scenes seen in a run, whatever the batch
BATCHES = (8, 32, 128, 512)
LEARNING_RATES = {  # by batch
    "softmax": (1.875e-4, 7.5e-4, 3e-3, 3e-3),
    "sigmoid": (1.875e-4, 7.5e-4, 1.5e-3, 7.5e-4),
    "sigmoid, b = 0 at start": (3.75e-4, 7.5e-4, 7.5e-4, 7.5e-4),
    "sigmoid without bias": (3.75e-4, 7.5e-4, 7.5e-4, 7.5e-4),
}
SHARDS = 4
LOSSES = {
    "softmax": SoftmaxLoss,
    "sigmoid": SigmoidLoss,
    "sigmoid, b = 0 at start": lambda: SigmoidLoss(b=0.0),
    "sigmoid without bias": lambda: SigmoidLoss(b=None),
}
ACCURACY = "zero-shot digit accuracy, batch {}"


def arm(name: str):
    """One run for every batch size."""

    def run(seed: int, budget: str = "full") -> dict[str, float]:
        metrics = {}
        for batch, lr in zip(BATCHES, LEARNING_RATES[name], strict=True):
            trial = CaptionsTrial(seed, budget == "smoke", batch_size=batch, steps=round(SAMPLES / batch), lr=lr)
            loss = LOSSES[name]()
            model = trial.fit(Captioned(loss), trial.model({"loss": loss}))
            found = trial.measures(model)
            metrics[ACCURACY.format(batch)] = found["zero-shot digit accuracy"]
            metrics[f"R@1, batch {batch}"] = found["R@1"]
            metrics[f"scale, batch {batch}"] = next(loss.parameters()).exp().item()
            if getattr(loss, "b", None) is not None:
                metrics[f"bias, batch {batch}"] = loss.b.item()
        return {**metrics, "difference in shards": shards_difference(trial, model)}

    return run


def shards_difference(trial: CaptionsTrial, model: TwoTowers) -> float:
    """Of the chunked sigmoid loss from the plain one on test scenes, with the scale and bias of the start: the largest
    of the relative differences of the values and of the gradients by images and texts."""
    inputs = [embedded[:400].requires_grad_() for embedded in trial.embeddings(model, trial.gallery)]
    shards = [tuple(embedded.tensor_split(SHARDS)) for embedded in inputs]
    found = []
    for loss in (sigmoid_loss(*inputs), chunked_sigmoid_loss(*shards)):
        found.append([loss.detach(), *torch.autograd.grad(loss, inputs)])
    return max(((one - other).norm() / one.norm()).item() for one, other in zip(*found, strict=True))


claim = Claim(
    paper="siglip",
    question=(
        "After equally many image-text pairs, do towers trained with the sigmoid loss name digits better than with the "
        "softmax in batches of 8 and as well in batches of 512, and does a bias that starts at -10 help in large ones?"
    ),
    arms={name: arm(name) for name in LOSSES},
    expects=[
        given("softmax").at_least(0.5, on=ACCURACY.format(128)),
        expect("sigmoid").above("softmax", on=ACCURACY.format(8), by=0.01),
        expect("sigmoid").within("softmax", on=ACCURACY.format(512), by=0.02),
        expect("sigmoid").above("sigmoid, b = 0 at start", on=ACCURACY.format(128)),
        expect("sigmoid").above("sigmoid, b = 0 at start", on=ACCURACY.format(512)),
        expect("sigmoid").at_most(1e-5, on="difference in shards"),
    ],
    seeds=range(120, 125),
    settings={
        "samples seen": SAMPLES,
        "batches": BATCHES,
        "learning rates by batch": LEARNING_RATES,
        "optimizer": "AdamW, weight decay 1e-4, clip 1.0, cosine after a warm-up over a twentieth of the steps",
        "start": {"softmax scale": 1 / 0.07, "sigmoid scale": 10.0, "sigmoid bias": BIAS},
        "shards": SHARDS,
        "tried": (
            "for every arm, by digits named on validation scenes (seeds 0 and 1; 0 alone at batch 8): learning rates "
            "from 9.4e-5 to 1.5e-3 at batch 8, 7.5e-4 to 3e-3 at 32, 3.75e-4 to 6e-3 at 128, 7.5e-4 to 1.2e-2 at 512, "
            "each twice the one before; 3.75e-4 at 32 on seed 0. Best, softmax and sigmoid: 0.71 and 0.59 at 8, 0.86 "
            "and 0.88 at 32, 0.90 and 0.88 at 128, 0.80 and 0.43 at 512; b = 0 and no bias: 0.54 and 0.51, 0.70 and "
            "0.70, 0.49 and 0.49, 0.19 and 0.19. The three sigmoids are best at the lowest rate tried at 512, where "
            "the first differs from its neighbours by 0.01. With 32,000 samples the sigmoid at 512 had not left its "
            "start"
        ),
    },
    notes=(
        "Small towers trained from nothing on 2,000 scenes of digits and their captions: 32 passes over the same "
        "pairs, where the paper sees billions once, at batches from 512 to a million. Batches of 512 make only 125 "
        "updates, in which scale and bias hardly move from where they start. Half of the scenes hold one digit, so "
        "that large batches have pairs that mean the same. A digit is named by the mean of its prompts, all captions "
        "that it could have alone. The paper's best run, a large LiT model at batch 20,000, reaches 84.5% on ImageNet "
        "zero-shot. A first run, on seeds 100 to 104, had one rate a batch for all arms, compared on the test scenes "
        "of seed 0: the sigmoid was 0.42 behind the softmax at 512 (refuted), undecided at 8, and ahead of b = 0 by "
        "0.52 at 128 and by 0.22 (open) at 512. Now every arm has its own rate, from validation scenes. With it the "
        "sigmoid is where the softmax is at 8 and 128, ahead by 0.03 at 32 (not asked for), and nearly as far "
        "behind as before at 512, where its scale ends at 10.3 and its bias at -10.0: it has not left its start."
    ),
)
