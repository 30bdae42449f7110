"""What does each way of telling the story cost, where there is no story to tell? (Gencoglu et al. 2019, 1904.07633)"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from palimpsest.audit.hark_measures import POLICIES, Policy, harking_rate, selective_report
from palimpsest.evidence import Claim, expect
from palimpsest.tasks.digits import digits
from palimpsest.tasks.worlds import cached
from palimpsest.train import fit

ALPHA = 0.05
FULL = {"models": 480, "studies": 5000, "variants": 20, "seeds": 20, "fresh": 30, "hidden": 32, "steps": 200}
SMOKE = {"models": 24, "studies": 8, "variants": 3, "seeds": 4, "fresh": 4, "hidden": 8, "steps": 2}
TRAINING = {"images": 500, "batch": 50, "lr": 0.01, "optimizer": "adam"}
RATE = "false discovery rate"
METRICS = ("accuracy", "worst-class recall", "top-2 accuracy", "log-likelihood", "Brier score", "margin")


class Networks(nn.Module):
    """Many perceptrons with one hidden layer, side by side: each has weights, batches and a gradient of its own."""

    def __init__(self, models: int, sizes: tuple[int, int, int], generator: torch.Generator) -> None:
        super().__init__()

        def uniform(fan_in: int, *shape: int) -> nn.Parameter:
            return nn.Parameter((2 * torch.rand(models, *shape, generator=generator) - 1) / fan_in**0.5)

        pixels, hidden, classes = sizes
        self.weight_1, self.bias_1 = uniform(pixels, pixels, hidden), uniform(pixels, 1, hidden)
        self.weight_2, self.bias_2 = uniform(hidden, hidden, classes), uniform(hidden, 1, classes)

    def forward(self, x: Float[Tensor, "models batch pixels"]) -> Float[Tensor, "models batch classes"]:
        return torch.baddbmm(self.bias_2, torch.baddbmm(self.bias_1, x, self.weight_1).relu(), self.weight_2)


def train(seed: int, size: dict[str, int], folder: Path) -> None:
    """Train a bank of networks that differ in nothing but the seed of their weights and batches; write their scores."""
    task, models, batch = digits(seed, train=TRAINING["images"]), size["models"], TRAINING["batch"]
    x, y = task.train.x.flatten(1), task.train.y
    networks = Networks(models, (x.shape[1], size["hidden"], 10), torch.Generator().manual_seed(seed))

    def batches(step: int) -> dict[str, Tensor]:
        epoch, offset = divmod(step * batch, len(x))
        generator = torch.Generator().manual_seed(1_000_000 + 1000 * seed + epoch)
        rows = torch.rand(models, len(x), generator=generator).argsort(dim=1)[:, offset : offset + batch]
        return {"x": x[rows], "y": y[rows]}

    def loss(networks: Networks, batch: dict[str, Tensor]) -> Tensor:
        # A sum over the networks of the mean over each one's batch: no network's gradient depends on another.
        return F.cross_entropy(networks(batch["x"]).flatten(0, 1), batch["y"].flatten()) * models

    fit(networks, loss, batches, steps=size["steps"], lr=TRAINING["lr"], optimizer=TRAINING["optimizer"], seed=seed)
    with torch.no_grad():
        device = networks.weight_1.device
        logits = networks(task.test.x.flatten(1).to(device).expand(models, -1, -1)).cpu()
    (folder / "scores.json").write_text(json.dumps(scores(logits, task.test.y).tolist()))


def scores(logits: Float[Tensor, "models items classes"], y: Int[Tensor, " items"]) -> Float[Tensor, "models metrics"]:
    """Six ways to score a classifier, higher is better; the order of METRICS."""
    p, log_p = logits.softmax(-1), logits.log_softmax(-1)
    truth = F.one_hot(y, logits.shape[-1]).to(p)
    right = (logits.argmax(-1) == y).to(p)
    p_true = (p * truth).sum(-1)
    recall = (right @ truth) / truth.sum(0)
    columns = (
        right.mean(1),
        recall.amin(1),
        (logits.topk(2).indices == y[:, None]).any(-1).to(p).mean(1),
        (log_p * truth).sum(-1).mean(1),
        -(p - truth).square().sum(-1).mean(1),
        (p_true - (p - 2 * truth).amax(-1)).mean(1),
    )
    return torch.stack(columns, dim=1)


def bank(seed: int, size: dict[str, int]) -> Float[np.ndarray, "models metrics"]:
    """The scores of the seed's networks, in standard deviations of each metric."""
    trained = {name: size[name] for name in ("models", "hidden", "steps")} | TRAINING
    settings = {"seed": seed, "recipe": 1, "metrics": METRICS, **trained}
    folder = cached("digits-bank", settings, lambda folder: train(seed, size, folder))
    table = np.array(json.loads((folder / "scores.json").read_text()))
    return (table - table.mean(axis=0)) / np.maximum(table.std(axis=0), 1e-12)


def policy(name: Policy) -> Callable[..., dict[str, float]]:
    """How often a study of null variants announces a gain under this habit, and what is left of it on fresh seeds."""

    def run(seed: int, budget: str = "full") -> dict[str, float]:
        size = FULL if budget == "full" else SMOKE
        networks, rng = bank(seed, size), np.random.default_rng([seed, 1])
        arms, seeds, fresh = size["variants"] + 1, size["seeds"], size["fresh"]
        announced, again, studies = [], [], 0
        for _ in range(size["studies"]):
            drawn = networks[rng.permutation(len(networks))[: arms * seeds + 2 * fresh]]
            study = drawn[: arms * seeds].reshape(arms, seeds, -1).transpose(0, 2, 1)
            found = selective_report(study[1:] - study[0], name, alpha=ALPHA).announced
            studies += bool(found)
            # Variants are exchangeable: networks not drawn before serve as the winner's and the baseline's next seeds.
            retest = drawn[arms * seeds :].reshape(2, fresh, -1).mean(axis=1)
            announced += [finding.gain for finding in found]
            again += [retest[0, finding.metric] - retest[1, finding.metric] for finding in found]
        rates = {RATE: studies / size["studies"]}
        if not announced:
            return rates
        gain, left = float(np.mean(announced)), float(np.mean(again))
        return {**rates, "announced gain, sd": gain, "gain on fresh seeds, sd": left, "shrinkage": 1 - left / gain}

    return run


def predicted(seed: int, budget: str = "full") -> dict[str, float]:
    """The closed form for the best of 20 variants that share a baseline, which correlates their gains by 1/2."""
    return {RATE: harking_rate(FULL["variants"], ALPHA, rho=0.5)}


claim = Claim(
    paper="hark",
    question=(
        "Twenty variants that change nothing are compared with their baseline: how often does a study announce a gain "
        "if it reports all of them as registered, and how often if it picks what to report afterwards?"
    ),
    arms={**{name: policy(name) for name in POLICIES}, "harking_rate": predicted},
    expects=[
        expect("best_variant").above("all", on=RATE, by=0.2),
        expect("best_variant").within("harking_rate", on=RATE, by=0.03),
        expect("best_variant").at_least(0.80, on="shrinkage"),
        expect("all").at_most(0.08, on=RATE),
    ],
    seeds=range(110, 115),
    settings={"alpha": ALPHA, **FULL, **TRAINING, "metrics": METRICS, "least seeds": 3, "test images": 450},
    notes=(
        "The paper is a discussion without experiments; the habits are our operational form of what it describes. A "
        "study draws its 21 x 20 networks, and 60 more for the retest, without replacement from 480 that were trained "
        "on the same images and differ in the seed alone, so every announcement is false. All studies of a seed share "
        "one bank. Gains are in standard deviations of a metric over the bank; p-values are one-sided and uncorrected "
        "except under `all` (Holm over the variants). stop_when_significant looks after each seed from the third on. "
        "A first run, on seeds 100 to 104, found rates of 0.33 for the best variant, 0.19 where one stops when "
        "significant and 0.035 as registered, by which the margins were chosen."
    ),
)
