"""Do several heads with a temperature for every pair help where views vary in many ways? (Wang et al. 2023,
2310.05615)"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from palimpsest.contrast import Projected, Views
from palimpsest.contrast.amcl import AMCL, amcl_loss
from palimpsest.contrast.amcl_temperatures import MultiHead
from palimpsest.contrast.digits_trial import DigitsTrial, over
from palimpsest.evidence import Claim, expect, given
from palimpsest.tasks.digits_views import KINDS
from palimpsest.tasks.digits_views import views as random_views
from palimpsest.tasks.fresh import generator

AUGMENTATIONS = {"1 kind": {"kinds": KINDS[:1]}, "3 kinds": {"kinds": KINDS[:3]}, "5 kinds": {"kinds": KINDS[:5]}}
TRAIN = {"batch_size": 128, "steps": 150, "lr": 2e-3}
HEAD = {"out_dim": 16, "hidden": 64}
WIDER = {"out_dim": 48, "hidden": 192}
RANGE = {"lo": 0.05, "hi": 2.0, "start": 0.2}
PROBES = {"shots": 20, "draws": 10, "neighbours": 20}
ARMS = {
    "simclr": {"heads": 1},
    "simclr, head three times as wide": {"heads": 1, "wider": True},
    "3 heads": {"heads": 3},
    "1 head, adaptive": {"heads": 1, "form": "product"},
    "amcl": {"heads": 3, "form": "product"},
    "amcl, concatenated": {"heads": 3, "form": "concatenated", "hidden": 16},
}
# The fixed temperature, or beta where temperatures are learned: kNN accuracy on the validation rows, as in PROBES, mean
# of seeds 0 and 1. The best is taken; three kinds take what is best with five.
TRIED = {
    "1 kind": {
        "simclr": {"0.05": 0.847, "0.1": 0.847, "0.2": 0.864, "0.5": 0.854},
        "simclr, head three times as wide": {"0.05": 0.834, "0.1": 0.825, "0.2": 0.837, "0.5": 0.828},
        "3 heads": {"0.05": 0.855, "0.1": 0.826, "0.2": 0.816, "0.5": 0.820},
        "1 head, adaptive": {"0.1": 0.840, "1": 0.839, "10": 0.857, "100": 0.805},
        "amcl": {"0.1": 0.805, "1": 0.812, "10": 0.808, "100": 0.829},
        "amcl, concatenated": {"0.1": 0.814, "1": 0.810, "10": 0.853, "100": 0.719},
    },
    "5 kinds": {
        "simclr": {"0.05": 0.909, "0.1": 0.914, "0.2": 0.906, "0.5": 0.902},
        "simclr, head three times as wide": {"0.05": 0.912, "0.1": 0.902, "0.2": 0.929, "0.5": 0.914},
        "3 heads": {"0.05": 0.902, "0.1": 0.909, "0.2": 0.911, "0.5": 0.915},
        "1 head, adaptive": {"0.1": 0.925, "1": 0.925, "10": 0.911, "100": 0.830},
        "amcl": {"0.1": 0.917, "1": 0.917, "10": 0.920, "100": 0.888},
        "amcl, concatenated": {"0.1": 0.906, "1": 0.915, "10": 0.911, "100": 0.627},
    },
}
SHOWN = 21  # the random stream of the views on which temperatures are read


def chosen(label: str, name: str) -> float:
    tried = TRIED["1 kind" if label == "1 kind" else "5 kinds"][name]
    return float(max(tried, key=tried.get))


def trained(trial: DigitsTrial, value: float, heads: int, wider: bool = False, **temperature: str | int) -> Projected:
    """With one temperature for all pairs; or, if their form is given, with learned ones and the value as beta."""
    encoder = trial.model().encoder
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial.seed)
        head = MultiHead(encoder.config.feature_dim, heads=heads, **(WIDER if wider else HEAD))
        extra = {"amcl": AMCL(HEAD["out_dim"], heads, value, **RANGE, **temperature)} if temperature else {}
    loss = extra.get("amcl", partial(amcl_loss, temperatures=value, beta=0.0))
    return trial.train(Views(loss), Projected(encoder, head, extra))


@torch.no_grad()
def temperatures(trial: DigitsTrial, model: Projected) -> dict[str, float]:
    """Mean temperature of pairs of views of one image, and of two, over heads; on views of training images."""
    x = trial.splits.train.x[: TRAIN["batch_size"]]
    shown = random_views(x, generator(trial.seed, "train", SHOWN), kinds=trial.kinds)
    z1, z2 = (F.normalize(model.eval()(shown[:, view]), dim=2).transpose(0, 1) for view in range(2))
    tau: Tensor = torch.stack([f(a, b) for f, a, b in zip(model.extra["amcl"].temperatures, z1, z2, strict=True)])
    same = torch.eye(len(x), dtype=torch.bool).expand_as(tau)
    return {
        "temperature of positives": float(tau[same].mean()),
        "temperature of negatives": float(tau[~same].mean()),
    }


def run(name: str, label: str, trial: DigitsTrial) -> dict[str, float]:
    model = trial.model() if name == "untrained" else trained(trial, chosen(label, name), **ARMS[name])
    found = trial.few_labels(model, **PROBES)
    found |= {f"{metric}, all labels": value for metric, value in trial.measures(model).items()}
    return found | (temperatures(trial, model) if "amcl" in model.extra else {})


def arm(name: str) -> Callable[..., dict[str, float]]:
    measure = over(AUGMENTATIONS, partial(run, name), **TRAIN)

    def with_differences(seed: int, budget: str = "full") -> dict[str, float]:
        metrics = measure(seed, budget)
        for probe in ("kNN accuracy", "linear probe"):
            metrics[f"{probe}, 5 kinds over 1"] = metrics[f"5 kinds: {probe}"] - metrics[f"1 kind: {probe}"]
        return metrics

    return with_differences


claim = Claim(
    paper="amcl",
    question=(
        "With five kinds of augmentation, do three heads with learned temperatures for every pair give better features "
        "than SimCLR's one head at one temperature, and is their lead larger than with one kind?"
    ),
    arms={name: arm(name) for name in ("untrained", *ARMS)},
    expects=[
        given("simclr").above("untrained", on="5 kinds: kNN accuracy", by=0.05),
        expect("amcl").above("simclr", on="5 kinds: kNN accuracy", by=0.01),
        expect("amcl").above("simclr", on="5 kinds: linear probe", by=0.01),
        expect("amcl").above("simclr", on="kNN accuracy, 5 kinds over 1"),
        expect("amcl").above("simclr", on="1 kind: kNN accuracy", by=-0.01),
        expect("amcl").above("simclr, head three times as wide", on="5 kinds: kNN accuracy"),
        expect("amcl, concatenated").above("simclr", on="5 kinds: kNN accuracy", by=0.01),
    ],
    settings={
        "augmentations": AUGMENTATIONS,
        "training": TRAIN,
        "head": HEAD,
        "wider head": WIDER,
        "range of temperatures": RANGE,
        "arms": ARMS,
        "probes": PROBES,
        "chosen": {label: {name: chosen(label, name) for name in ARMS} for label in AUGMENTATIONS},
        "tried": {
            "temperature or beta, seeds 0 and 1, kNN accuracy on validation rows": TRIED,
            "first run: temperature or beta, 5 kinds, seeds 0 and 1, kNN accuracy on test rows, all labels": {
                "simclr": {"0.1": 0.963, "0.2": 0.962, "0.5": 0.949},
                "simclr, head three times as wide": {"0.1": 0.974, "0.2": 0.971, "0.5": 0.967},
                "3 heads": {"0.1": 0.962, "0.2": 0.971, "0.5": 0.966},
                "1 head, adaptive": {"0.01": 0.962, "0.1": 0.966, "1": 0.971},
                "amcl": {"0.01": 0.967, "0.1": 0.969, "1": 0.970},
            },
            "amcl, concatenated, whole, seed 5, for timing: kNN accuracy with 5 kinds": 0.911,
            "to choose the number of labels: 5 kinds, kNN accuracy on test rows, seeds 0 to 4": {
                "untrained": {
                    "5, 5 neighbours": (0.715, 0.736, 0.676, 0.702, 0.698),
                    "10, 5 neighbours": (0.788, 0.809, 0.766, 0.790, 0.806),
                    "10, 20 neighbours": (0.711, 0.724, 0.696, 0.715, 0.735),
                    "20, 20 neighbours": (0.790, 0.820, 0.790, 0.801, 0.825),
                },
                "simclr at 0.2": {
                    "5, 5 neighbours": (0.868, 0.897, 0.900, 0.905, 0.887),
                    "10, 5 neighbours": (0.906, 0.924, 0.926, 0.939, 0.920),
                    "10, 20 neighbours": (0.892, 0.912, 0.914, 0.917, 0.906),
                    "20, 20 neighbours": (0.911, 0.935, 0.938, 0.937, 0.930),
                },
            },
        },
    },
    notes=(
        "A first run (seeds 100-104) probed with all training labels, where all arms are near the ceiling and even an "
        "untrained network is at 0.92, and took over for one kind what was best with five: AMCL was 0.005 ahead of "
        "SimCLR with five kinds, and its lead only grew because it was 0.02 behind with one. So probes now have few "
        "labels, every arm is tuned for one kind and for five, on validation rows, AMCL must not be behind with one "
        "kind, and the published form of the temperature is an arm. A lead that grows from one kind of augmentation to "
        "five is the same as a larger difference between five kinds and one. The paper trains ResNets on CIFAR, "
        "STL-10, Tiny-ImageNet and ImageNet for hundreds of epochs with crops, blur, gray, colour and flips; here a "
        "small convolutional network sees 8 x 8 digits for 150 steps, and the kinds are shift, then rotation and "
        "scale, then contrast and noise. Best values at the edge of what was tried (3 heads; amcl with one kind) are "
        "within the noise of two seeds and 200 rows. In the default form, with the sigmoid of phi(z_i) . phi(z_j) + b, "
        "learned temperatures hardly told pairs apart in the pilots: means over positives and over negatives were "
        "within 0.005 of each other, near 0.18, with positives above. The concatenated form is that of the authors' "
        "code, which has it for positive pairs only; its temperatures moved to between 0.10 and 0.13, positives below "
        "negatives by up to 0.004. On seeds 110 to 114 every comparison was open, with intervals of up to 0.03 to each "
        "side; hence twenty new seeds. On these AMCL with five kinds is 0.002 (kNN) and 0.004 (linear probe) ahead of "
        "SimCLR, less than the 0.01 asked for, and 0.007 behind SimCLR with one head three times as wide."
    ),
    seeds=range(120, 140),
)
