"""Does ordering positives above negatives beat NT-Xent, above all for nearest neighbours? (Shvetsova et al. 2023,
2301.02009)"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from palimpsest.contrast import Views
from palimpsest.contrast.digits_trial import DigitsTrial, over
from palimpsest.contrast.groco import groco_loss
from palimpsest.contrast.many_views import views_nt_xent
from palimpsest.evidence import Claim, expect, given

VIEWS = {"2 views": {"views": 2}, "4 views": {"views": 4}}
TRAIN = {"batch_size": 128, "steps": 150, "lr": 2e-3}
PROBES = {"shots": 20, "draws": 10, "neighbours": 20}
K_NEG = 10
# A loss, what is tuned of it, and its options.
ARMS = {
    "nt-xent": (views_nt_xent, "temperature", {}),
    "nt-xent, hard negatives": (views_nt_xent, "temperature", {"k_neg": K_NEG, "stop_grad": True}),
    "groco": (groco_loss, "steepness", {"k_neg": K_NEG}),
    "groco, not pre-ordered": (groco_loss, "steepness", {"k_neg": K_NEG, "preorder": False}),
}
# kNN accuracy on the validation rows, as in PROBES, mean of seeds 0 and 1; the best is taken.
TRIED = {
    "2 views": {
        "nt-xent": {"0.05": 0.910, "0.1": 0.903, "0.2": 0.919, "0.5": 0.913, "1": 0.899},
        "nt-xent, hard negatives": {"0.05": 0.861, "0.1": 0.882, "0.2": 0.869, "0.5": 0.871, "1": 0.875},
        "groco": {"0.1": 0.875, "0.3": 0.878, "1": 0.861, "3": 0.861, "10": 0.876},
        "groco, not pre-ordered": {"0.1": 0.802, "0.3": 0.812, "1": 0.862, "3": 0.921, "10": 0.908},
    },
    "4 views": {
        "nt-xent": {"0.05": 0.929, "0.1": 0.921, "0.2": 0.930, "0.5": 0.934, "1": 0.920},
        "nt-xent, hard negatives": {"0.05": 0.841, "0.1": 0.857, "0.2": 0.852, "0.5": 0.849, "1": 0.845},
        "groco": {"0.1": 0.910, "0.3": 0.907, "1": 0.904, "3": 0.904, "10": 0.891},
        "groco, not pre-ordered": {"0.1": 0.853, "0.3": 0.871, "1": 0.885, "3": 0.921, "10": 0.923},
    },
}


def chosen(label: str, name: str) -> dict[str, float]:
    tried = TRIED[label][name]
    return {ARMS[name][1]: float(max(tried, key=tried.get))}


def of_stack(loss: Callable[..., Tensor], *views: Tensor) -> Tensor:
    return loss(torch.stack(views))


def run(name: str, label: str, trial: DigitsTrial) -> dict[str, float]:
    model = trial.model()
    if name != "untrained":
        loss, _, options = ARMS[name]
        trial.train(Views(partial(of_stack, partial(loss, **chosen(label, name), **options))), model)
    found = trial.few_labels(model, **PROBES)
    found["kNN minus linear probe"] = found["kNN accuracy"] - found["linear probe"]
    return found | {f"{metric}, all labels": value for metric, value in trial.measures(model).items()}


claim = Claim(
    paper="groco",
    question=(
        "Trained for equally many steps on views of digits, are the features of the ordering loss better for nearest "
        "neighbours than those of NT-Xent, and is that gain at least as large as the one of a linear probe?"
    ),
    arms={name: over(VIEWS, partial(run, name), **TRAIN) for name in ("untrained", *ARMS)},
    expects=[
        given("nt-xent").above("untrained", on="4 views: kNN accuracy", by=0.05),
        expect("groco").above("nt-xent", on="4 views: kNN accuracy", by=0.005),
        expect("groco").above("nt-xent", on="4 views: kNN minus linear probe"),
        expect("groco").above("nt-xent, hard negatives", on="4 views: kNN accuracy"),
        expect("groco").above("groco, not pre-ordered", on="4 views: kNN accuracy"),
    ],
    settings={
        "views": VIEWS,
        "training": TRAIN,
        "losses": {name: options for name, (_, _, options) in ARMS.items()},
        "probes": PROBES,
        "chosen": {label: {name: chosen(label, name) for name in ARMS} for label in VIEWS},
        "tried": {
            "temperature or steepness, seeds 0 and 1, kNN accuracy on validation rows": TRIED,
            "groco, whole, seed 5, for timing: kNN accuracy with 4 views": 0.890,
            "for the precondition: 4 views, seeds 0 to 4, kNN accuracy on test rows": {
                "untrained": (0.790, 0.816, 0.785, 0.794, 0.818),
                "nt-xent 0.5": (0.958, 0.940, 0.925, 0.959, 0.949),
            },
            "first run: temperature or steepness, 2 views, seeds 0 and 1, kNN accuracy on test rows, all labels": {
                "nt-xent": {"0.1": 0.967, "0.2": 0.968, "0.5": 0.972},
                "nt-xent, hard negatives": {"0.1": 0.950, "0.2": 0.946, "0.5": 0.950},
                "groco": {"1": 0.949, "3": 0.947, "10": 0.942},
                "groco, not pre-ordered": {"1": 0.934, "3": 0.967, "10": 0.966},
            },
            "first run: kNN accuracy on test rows after 60 steps, all labels, seed 0, for timing": {
                "nt-xent 0.2, 2 views": 0.956,
                "groco 1, 2 views": 0.956,
                "nt-xent 0.2, 4 views": 0.978,
                "groco 1, 4 views": 0.964,
            },
            "first run: nt-xent 0.1, 4 views, 200 steps, seed 0, kNN accuracy on test rows, all labels": 0.976,
        },
    },
    notes=(
        "A first run (seeds 100-104) probed with all training labels, where all arms are near the ceiling and even an "
        "untrained network is at 0.92, and set temperature and steepness by test rows with two views; the ordering "
        "loss was 0.01 behind NT-Xent with four views, and nothing was decided. So probes now have few labels, and "
        "every arm is tuned for each number of views, on validation rows. The paper trains a ResNet-50 on ImageNet for "
        "up to 800 epochs at batch 1024, with a projection of 2048 dimensions; with two views it reports 65.3 for 20 "
        "nearest neighbours and 71.2 for a linear probe, and its gain over contrastive learning is larger for the "
        "neighbours. Here a small convolutional network sees 8 x 8 digits for 150 steps at batch 128. NT-Xent with "
        "four views is the authors': every pair of views once, negatives from all views. Its variant with ten "
        "negatives stops the gradient of keys, as theirs does. Negatives of the ordering loss come from the anchor's "
        "own view. The arm without pre-ordering draws its ten negatives at random. Best values at the edge of what was "
        "tried (steepness 0.1 and 10, with four views) differ from their neighbours by less than the noise of two "
        "seeds and 200 rows. In the pilots the ordering loss was behind NT-Xent with two and with four views. On seeds "
        "110 to 114 the kNN accuracy less the linear probe was open; hence twenty new seeds. On these the ordering "
        "loss with ten random negatives is as good as NT-Xent (both 0.932): what costs it 0.04 is that it takes the "
        "nearest, of which many are of the anchor's class where there are ten classes, few where there are a thousand."
    ),
    seeds=range(120, 140),
)
