"""Does the label-free correction for false negatives take their bias away, and are the features better for it?
(Chuang et al. 2020, 2007.00224)"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from palimpsest.contrast.debiased_cl import debiased_loss
from palimpsest.contrast.debiased_cl_measures import bias_gap, oracle_loss
from palimpsest.contrast.digits_trial import DigitsTrial
from palimpsest.contrast.info_nce import nt_xent
from palimpsest.contrast.pretrain import Views
from palimpsest.evidence import Claim, expect, given
from palimpsest.tasks.digits_views import views

TEMPERATURE = 0.5
TASKS = {"10 classes": None, "3 classes": (3, 8, 9)}
# tau+ as a multiple of the true prior, 1 over the number of classes; None: not corrected.
PRIORS = {"NT-Xent": None, "debiased, half the prior": 0.5, "debiased": 1.0, "debiased, twice the prior": 2.0}
ORACLE = "oracle"
WAY = 0.25  # the part of the way from NT-Xent to oracle
PROBE = "linear probe, one label a class"
AHEAD = f"3 classes: {PROBE}, above a quarter of the way to oracle"


def objective(name: str, classes: int) -> Views:
    if name == ORACLE:
        return Views(with_labels, with_batch=True)
    times = PRIORS[name]
    if times is None:
        return Views(partial(nt_xent, temperature=TEMPERATURE))
    return Views(partial(debiased_loss, tau_plus=times / classes, temperature=TEMPERATURE))


def with_labels(z1: Tensor, z2: Tensor, batch: dict[str, Tensor], **_) -> Tensor:
    return oracle_loss(z1, z2, batch["labels"], TEMPERATURE)


def measured(name: str, trial: DigitsTrial) -> dict[str, float]:
    classes = 10 if trial.classes is None else len(trial.classes)
    model = trial.train(objective(name, classes))
    test = trial.splits.test
    both = views(test.x, torch.Generator().manual_seed(trial.seed), kinds=trial.kinds, strength=trial.strength)
    with torch.no_grad():
        z1, z2 = (model(view) for view in both.unbind(1))
    gap = bias_gap(z1, z2, test.y, (PRIORS.get(name) or 1.0) / classes, TEMPERATURE)
    return {
        **trial.measures(model),
        **trial.one_label(model),
        "bias gap": abs(float(gap.biased / gap.true)),
        "bias gap after the correction": abs(float(gap.debiased / gap.true)),
        "share of the bias gap left": abs(float(gap.debiased / gap.biased)),
    }


def arm(name: str) -> Callable[..., dict[str, float]]:
    def run(seed: int, budget: str = "full") -> dict[str, float]:
        metrics = {}
        for task, classes in TASKS.items():
            trial = DigitsTrial(seed, smoke=budget == "smoke", classes=classes)
            metrics.update({f"{task}: {metric}": value for metric, value in measured(name, trial).items()})
        if name == "debiased":
            trial = DigitsTrial(seed, smoke=budget == "smoke", classes=TASKS["3 classes"])
            ends = [measured(end, trial)[PROBE] for end in ("NT-Xent", ORACLE)]
            metrics[AHEAD] = metrics[f"3 classes: {PROBE}"] - ((1 - WAY) * ends[0] + WAY * ends[1])
        return metrics

    return run


claim = Claim(
    paper="debiased_cl",
    question=(
        "With the true prior, does the debiased negative term lose at least half of its bias, and does a linear "
        "probe read the features better than those of NT-Xent, most of all where false negatives are many?"
    ),
    arms={name: arm(name) for name in [*PRIORS, ORACLE]},
    expects=[
        expect("debiased").at_most(0.5, on="10 classes: share of the bias gap left"),
        expect("debiased").above("NT-Xent", on=f"10 classes: {PROBE}", by=0.005),
        expect("debiased").above("NT-Xent", on=f"3 classes: {PROBE}", by=0.01),
        expect("debiased").at_least(0.0, on=AHEAD),
        given(ORACLE).above("NT-Xent", on=f"10 classes: {PROBE}", by=0.005),
        given(ORACLE).above("NT-Xent", on=f"3 classes: {PROBE}", by=0.01),
    ],
    seeds=range(120, 140),
    settings={
        "trial": DigitsTrial(0),
        "temperature": TEMPERATURE,
        "tasks": TASKS,
        "priors, times the true one": PRIORS,
        "way to oracle": WAY,
        "tried": (
            "the paper's temperature and the trial as it is. The probe with one label a class was taken because on "
            "seeds 0, 1 and 2 it leaves room between NT-Xent and oracle (0.85 to 0.92 on ten classes, 0.78 to 0.97 on "
            "three), where all labels leave none; debiased had 0.84 and 0.89 there"
        ),
    },
    notes=(
        "Digits and a small convolutional network instead of CIFAR-10, STL-10 and ImageNet-100 with a ResNet-50. On "
        "three classes (3, 8 and 9, some of the most alike) the test set has about 135 images, so one of them is "
        "0.007 of accuracy. A first run, on seeds 100 to 104, took probes of all labels: NT-Xent was within 0.0075 of "
        "the ceiling there, less than the margin asked for, and as good as the oracle. Now a probe sees one label a "
        "class, twenty times over. The oracle removes negatives of the anchor's class "
        "and lets the others stand for all N. The bias gap is of the mean negative term over two views of the test "
        "images, taken on the arm's own projections, relative to the term of true negatives; the arms without a prior "
        "of their own are corrected by the true one. Priors of half and of twice the true one are 0.05 and 0.2 on ten "
        "classes, 1/6 and 2/3 on three. "
        "On seeds 110 to 114, one label a class, three of the four comparisons were open; hence twenty new seeds."
    ),
)
