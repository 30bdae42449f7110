"""Does weighing negatives by hardness help to tell near-duplicates apart, and is it more than a lower temperature?
(Lan et al. 2025, LLaVE, 2503.04812)"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from palimpsest.contrast.captions_trial import Captioned, CaptionsTrial, fits
from palimpsest.contrast.llave import gradient_share, hardness_nce, overlap
from palimpsest.evidence import Claim, expect, given

TRIAL = {"batch_size": 128, "near": 3, "steps": 500, "lr": 3e-3}
HARDEST = 0.01  # of a batch of 128: one negative a query
LOSSES = {  # scale, alpha
    "InfoNCE": (50.0, 0.0),
    "InfoNCE, scale 59": (59.0, 0.0),
    "alpha = 1": (50.0, 1.0),
    "alpha = 9": (50.0, 9.0),
    "alpha = 30": (50.0, 30.0),
}


def arm(name: str) -> Callable:
    scale, alpha = LOSSES[name]

    def run(seed: int, budget: str = "full") -> dict[str, float]:
        trial = CaptionsTrial(seed, smoke=budget == "smoke", **TRIAL)
        model = trial.fit(Captioned(partial(hardness_nce, scale=scale, alpha=alpha)))
        images, texts = trial.embeddings(model, trial.gallery)
        rows = batch_of(trial)
        plain, weighted = gradient_share(images[rows], texts[rows], scale, alpha, HARDEST)
        return {
            **trial.measures(model),
            **confusion(trial, images, texts),
            "gradient share of the hardest, unweighted": plain,
            "gradient share of the hardest, as trained": weighted,
        }

    return run


def batch_of(trial: CaptionsTrial) -> Tensor:
    """Rows of the gallery as a batch of training has them: scenes, then their near-duplicates."""
    scenes = len(trial.gallery) // (1 + trial.near)
    anchors = torch.arange(min(scenes, trial.batch_size // (1 + trial.near)))
    return torch.cat([anchors + copy * scenes for copy in range(1 + trial.near)])


def confusion(trial: CaptionsTrial, images: Tensor, texts: Tensor) -> dict[str, float]:
    """Of each query's own partner and its hardest negative, images and captions both being queries; what is true of a
    scene in other words, or of another scene, is no negative."""
    scores, fitting = images @ texts.T, fits(trial.gallery)
    own = scores.diagonal().repeat(2)
    false = scores.masked_fill(fitting, -torch.inf)
    hardest = torch.cat([false.amax(1), false.amax(0)])
    return {
        "overlap": overlap(own, hardest),
        "negative above the positive": (hardest > own).float().mean().item(),
        "cosine of positives": own.mean().item(),
        "cosine of hardest negatives": hardest.mean().item(),
    }


claim = Claim(
    paper="llave",
    question=(
        "In batches of near-duplicates, do towers trained with hardness weights find the right caption and name digits "
        "more often than with InfoNCE, with less overlap of positives and hardest negatives, and more often than with "
        "InfoNCE at the temperature that is as sharp?"
    ),
    arms={name: arm(name) for name in LOSSES},
    expects=[
        given("InfoNCE").at_least(0.3, on="R@1"),
        expect("alpha = 9").above("InfoNCE", on="R@1", by=0.01),
        expect("alpha = 9").below("InfoNCE", on="overlap"),
        expect("alpha = 9").above("InfoNCE, scale 59", on="R@1"),
        expect("alpha = 9").above("InfoNCE", on="zero-shot digit accuracy", by=0.01),
        expect("alpha = 9").above("InfoNCE, scale 59", on="zero-shot digit accuracy"),
    ],
    seeds=range(120, 140),
    settings={
        "trial": TRIAL,
        "optimizer": "AdamW, weight decay 1e-4, clip 1.0, cosine after a warm-up over a twentieth of the steps",
        "scale and alpha": LOSSES,
        "hardest share of the negatives": HARDEST,
        "tried": (
            "learning rates 1.5e-3, 3e-3 and 6e-3 for every arm on seeds 0 to 2, by R@1 over validation scenes: 3e-3 "
            "is the best for each (InfoNCE 0.832, 0.846, 0.837; alpha = 9 0.843, 0.857, 0.855). Digits were named "
            "better with hardness weights there, by 0.09 at 3e-3, which is why it is expected now"
        ),
    },
    notes=(
        "Small towers trained from nothing on scenes of digits and their captions, where the paper fine-tunes large "
        "vision-language models on MMEB. A quarter of a batch are scenes of the data set, the rest are three "
        "near-duplicates of each, with one concept changed and new glyphs for new digits, drawn once; the test gallery "
        "is made alike. A caption that is true of a scene counts as found, whoever's it is. At scale 59 InfoNCE "
        "spreads its gradient over the negatives as alpha = 9 does at scale 50; what remains between the two is that "
        "the positive keeps the score of scale 50, as with a margin. Two scenes of a batch may be true of each other's "
        "captions: such false negatives get most weight. A first run, on seeds 100 to 104, had its learning rate from "
        "the test gallery of seed 0 (3e-3 as well): alpha = 9 was 0.010 above InfoNCE by R@1, which five seeds could "
        "not tell from the 0.01 asked for, and as much above InfoNCE at scale 59. Now there are twenty seeds, the "
        "learning rate is from validation scenes, and naming digits is judged too, for classification is among the "
        "paper's tasks. In the paper alpha is 9 and the scale 50, and LLaVE-7B is 6.2 points above the best model "
        "before it. On the seeds of record alpha = 9 finds 0.009 more (0.006 to 0.012: 0.01 stays open) and "
        "names 0.13 more digits; InfoNCE at scale 59 does neither. Later pilots ran InfoNCE at scale 1/0.07 too, where "
        "it names as many digits (0.927 against 0.919): what helps was not the weights alone, and is not settled here."
    ),
)
