"""Does a temperature that follows the model's alignment do as well as the best fixed one, without a search for it?
(Huang et al. 2022, 2207.07874)"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor, nn

from palimpsest.contrast import Projected, SentencePairs, Views, nt_xent, projection_head
from palimpsest.contrast.decoupled_cl import dcl_loss
from palimpsest.contrast.digits_trial import DigitsTrial
from palimpsest.contrast.macl import adaptive_tau, alignment, macl_loss, uniformity_tolerance
from palimpsest.evidence import Claim, expect, given
from palimpsest.metrics.probes import knn_accuracy, linear_probe
from palimpsest.tasks.text import Corpus, documents, sentences, vocabulary
from palimpsest.train import fit
from palimpsest.train.order import shuffled

TAU0, ALPHA, A0 = 0.1, 0.5, 0.0
TAUS = (0.05, 0.1, 0.3, 0.5)
BEST_FIXED = 0.5  # of TAUS, by the nearest with one label a class at batch 32, validation rows of seeds 0 and 1
SEEN = 25_600  # samples that a run on digits sees, whatever its batch size
BATCHES = (32, 256)
LR, LR_AT = 2e-3, 32  # lr grows as the square root of the batch size, and is LR at this one
NEAREST = "nearest, one label a class, batch 32"
TEXT = {"words": 2000, "shortest": 6, "longest": 40, "width": 64, "dropout": 0.2, "batch": 64, "steps": 400, "lr": 2e-3}

Loss = Callable[[Tensor, Tensor], Tensor]
LOSSES: dict[str, Loss] = {
    **{f"NT-Xent {tau:g}": partial(nt_xent, temperature=tau) for tau in TAUS},
    "macl without reweighting": partial(macl_loss, tau0=TAU0, alpha=ALPHA, a0=A0, reweight=False),
    "macl": partial(macl_loss, tau0=TAU0, alpha=ALPHA, a0=A0),
    "decoupled": partial(dcl_loss, tau=TAU0),
}


def on_digits(loss: Loss, seed: int, smoke: bool, batch: int) -> dict[str, float]:
    trial = DigitsTrial(seed, smoke=smoke, batch_size=batch, steps=SEEN // batch, lr=LR * (batch / LR_AT) ** 0.5)
    aligned: list[float] = []

    def compare(z1: Tensor, z2: Tensor) -> Tensor:
        aligned.append(float(alignment(z1, z2)))
        return loss(z1, z2)

    model = trial.train(Views(compare))
    measures = {**trial.measures(model), **trial.one_label(model)}
    with torch.no_grad():
        spread, close = uniformity_tolerance(model.eval()(trial.splits.test.x), trial.splits.test.y)
    last = aligned[-10:]
    return {
        **{f"{probe}, batch {batch}": accuracy for probe, accuracy in measures.items()},
        f"uniformity, batch {batch}": spread,
        f"tolerance, batch {batch}": close,
        f"macl's temperature at the end, batch {batch}": float(adaptive_tau(sum(last) / len(last), TAU0, ALPHA, A0)),
    }


class Words(nn.Module):
    """The mean vector of a sentence's distinct words, with dropout, through a layer; 0 stands for no word."""

    def __init__(self, words: int, width: int, dropout: float) -> None:
        super().__init__()
        self.vectors = nn.Embedding(words + 1, width, padding_idx=0)
        self.dropout = nn.Dropout(dropout)
        self.layer = nn.Linear(width, width)

    def forward(self, ids: Tensor) -> Tensor:
        summed = self.dropout(self.vectors(ids)).sum(1)
        return torch.relu(self.layer(summed / (ids > 0).sum(1, keepdim=True).clamp(min=1)))


@cache
def text_rows(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids and topics of the training and test sentences."""
    corpus: Corpus = documents(seed)
    train, test = (
        sentences(part, shortest=TEXT["shortest"], longest=TEXT["longest"]) for part in (corpus.train, corpus.test)
    )
    known = {word: number for number, word in enumerate(vocabulary(train, TEXT["words"]), start=1)}
    topics = {topic: number for number, topic in enumerate(sorted({row.topic for row in train}))}
    found = []
    for part in (train, test):
        rows = [row for row in part if row.topic in topics]
        ids = torch.zeros(len(rows), 2 * TEXT["longest"], dtype=torch.long)
        for place, row in enumerate(rows):
            own = [known[word] for word in vocabulary([row]) if word in known][: ids.shape[1]]
            ids[place, : len(own)] = torch.tensor(own)
        found += [ids, torch.tensor([topics[row.topic] for row in rows])]
    return tuple(found)


def on_text(loss: Loss, seed: int, smoke: bool) -> dict[str, float]:
    """Two passes with different dropout are two views of a sentence; the probes look for its topic."""
    train, train_topics, test, test_topics = text_rows(seed)
    if smoke:
        train, train_topics, test, test_topics = (rows[:100] for rows in (train, train_topics, test, test_topics))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        width = TEXT["width"]
        model = Projected(Words(TEXT["words"], width, TEXT["dropout"]), projection_head(width, width, 32))
    order = shuffled(len(train), TEXT["batch"], seed)

    def batches(step: int) -> dict[str, Tensor]:
        rows = train[order(step)]
        return {"query": rows, "key": rows}

    steps = 3 if smoke else TEXT["steps"]
    fit(model, SentencePairs(loss), batches, steps=steps, lr=TEXT["lr"], schedule="cosine", seed=seed, progress=False)
    with torch.no_grad():
        model.eval()
        rows = (model.features(train), train_topics, model.features(test), test_topics)
        spread, close = uniformity_tolerance(model(test), test_topics)
    return {
        "kNN, text": knn_accuracy(*rows, k=20),
        "linear probe, text": linear_probe(*rows, C=0.1),
        "uniformity, text": spread,
        "tolerance, text": close,
    }


def arm(name: str) -> Callable[..., dict[str, float]]:
    def run(seed: int, budget: str = "full") -> dict[str, float]:
        smoke = budget == "smoke"
        untrained = DigitsTrial(seed, smoke=smoke)
        metrics = {"nearest, untrained": untrained.one_label(untrained.model())["nearest, one label a class"]}
        for batch in BATCHES[:1] if smoke else BATCHES:
            metrics.update(on_digits(LOSSES[name], seed, smoke, batch))
        metrics["gained by training"] = metrics[NEAREST] - metrics["nearest, untrained"]
        return {**metrics, **on_text(LOSSES[name], seed, smoke)}

    return run


claim = Claim(
    paper="macl",
    question=(
        "With its defaults, is model-aware contrastive learning as good at batch 32 as NT-Xent at the best fixed "
        "temperature, better than NT-Xent at the temperature it starts from, and more tolerant of rows of one class?"
    ),
    arms={name: arm(name) for name in LOSSES},
    expects=[
        given(f"NT-Xent {BEST_FIXED:g}").at_least(0.1, on="gained by training"),
        expect("macl").above(f"NT-Xent {BEST_FIXED:g}", on=NEAREST, by=-0.005),
        expect("macl").above(f"NT-Xent {TAU0:g}", on=NEAREST, by=0.01),
        expect("macl").above(f"NT-Xent {TAU0:g}", on="tolerance, batch 32"),
    ],
    seeds=range(120, 125),
    settings={
        "macl": {"tau0": TAU0, "alpha": ALPHA, "A0": A0, "floor": 0.01},
        "fixed temperatures": TAUS,
        "best fixed temperature": BEST_FIXED,
        "temperature of decoupled": TAU0,
        "samples seen by a run": SEEN,
        "batch sizes": BATCHES,
        "learning rate": {"value": LR, "at batch": LR_AT, "rule": "grows as the square root of the batch size"},
        "text": TEXT,
        "trial": "DigitsTrial, its defaults otherwise",
        "tried": (
            "learning rates 1e-3, 2e-3 and 4e-3 for every arm at batch 32, seeds 0 and 1, by the nearest with one "
            "label a class on validation rows: 2e-3 is the best, or within 0.006 of it, for each, and has for the "
            "fixed temperatures 0.771, 0.779, 0.826 and 0.842, for macl 0.781, without its reweighting 0.791, "
            "decoupled 0.765. At batch 256 a half and twice the rule's rate change no arm by more than 0.022. macl's "
            "own settings were not searched, nor was anything on the text"
        ),
    },
    notes=(
        "The paper trains a ResNet-50 on ImageNet, BERT on Wikipedia and graph networks; here are digits of 8 by 8 "
        "pixels with a small CNN, and the documentation of Python with an average of word vectors, whose two views are "
        "two dropout masks and whose probes look for a sentence's topic (69 of them); the text is exploratory. "
        "Uniformity and tolerance are those of the projections of the test rows, on the sphere that the loss sees. All "
        "four fixed temperatures are shown, for the best of the verdict's seeds may be another. A first run, on seeds "
        "100 to 104, chose it by probes of all labels on test rows, which are near their ceiling: macl was as good as "
        "NT-Xent at 0.5 and 0.002 better than at 0.1 (both open), and less tolerant than at 0.1 (refuted). Now "
        "settings are chosen on validation rows, and a probe sees one label a class, twenty times over. All seeds "
        "split the same images. The probes of the text are the nearest 20 and a regression with C = 0.1. Reweighting "
        "multiplies the gradients of solved samples, as decoupling does, at the same temperature: the two arms differ "
        "by macl's higher temperature and the floor. On the seeds of record macl ends at a temperature of 0.14 and is "
        "where NT-Xent is at 0.1 and its own form without reweighting is: its range does not reach the 0.5 that is "
        "best here."
    ),
)
