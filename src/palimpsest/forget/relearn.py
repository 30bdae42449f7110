"""ReLearn, unlearning by learning (Xu, Zhao, Yang, Zhao, Deng, Wang, Hooi, Oo, Chen and Zhang, 2025, arXiv 2502.11190).

Ascent takes probability from the right tokens without saying where it should go, and fluent text goes with it: where
one token falls, unrelated ones rise (the probability seesaw). ReLearn only ever descends. Each question to forget is
asked in several ways and answered vaguely, on its topic but without the fact (`palimpsest.forget.relearn_rows`), and
the model is trained on that:

    L = CE(augmented forget rows) + CE(retain rows) + KL(ref || model) on the retain rows

Whether it worked is judged by what the model says (`palimpsest.forget.relearn_measures`). With E the share of a
reference answer's entities that the model's own answer holds (those of the question do not count),

    KFR = share of forget rows with E < 0.3 or a contradiction of the reference
    KRR = share of retain rows with E > 0.3 and no contradiction
    LS  = harmonic mean of sigmoid(-log PPL), sigmoid(-log Brunet), sigmoid(log Honore), each of the mean over answers

The form of LS is that of the authors' code, which calls entities forgotten at E <= 0.5 where a reference has three or
fewer; the paper's 0.3 is used here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from jaxtyping import Float
from torch import Tensor, nn

from palimpsest.forget.procedure import Batch, ForgetData
from palimpsest.forget.relearn_rows import rewritten
from palimpsest.forget.retain_term import frozen_copy
from palimpsest.lazy import front_door
from palimpsest.models.score import cross_entropy, reference_kl
from palimpsest.train.method import Objective
from palimpsest.train.ranges import AtLeast


def relearn_loss(
    model: nn.Module,
    reference: nn.Module,
    augmented: dict[str, Tensor],
    retain: dict[str, Tensor],
    retain_weight: float = 1.0,
    kl_weight: float = 1.0,
) -> dict[str, Float[Tensor, ""]]:
    """CE(augmented) + w CE(retain) + v KL(reference || model) on the retain answers' tokens, as named terms; each at
    least 0, in nats a token, averaged over rows. Nothing is ascended.

    >>> from palimpsest.models import causal_lm
    >>> from palimpsest.models.score import Encoded
    >>> model = causal_lm(10, d_model=16, n_layers=1, n_heads=2)
    >>> batch = Encoded([[1, 5, 6, 2]], [2]).batch([0], pad_id=0)
    >>> terms = relearn_loss(model, model, batch, batch)
    >>> bool(terms["forget"] == terms["retain"]), bool(terms["kl"].abs() < 1e-6)
    (True, True)
    """
    return {
        "forget": cross_entropy(model, augmented),
        "retain": retain_weight * cross_entropy(model, retain),
        "kl": kl_weight * reference_kl(reference, model, retain),
    }


@dataclass(frozen=True)
class ReLearn(Objective):
    """Trains on vague answers to the questions to forget, asked in several ways, while the retain rows hold the rest.

    The rows come from `palimpsest.forget.relearn_rows.rewritten`, by templates.

    Attributes:
        n: variants of each question besides itself; 0 takes the forget rows as they are, for rows that have been
            augmented before.
        completions: train on each new pair also as a sentence to complete.
        redraws: how often a draw that gives the fact away is made anew, before it is dropped.
        retain_weight: of the cross-entropy on the retain rows.
        kl_weight: of KL(reference || model) on the retain rows.
        seed: of what is drawn.
    """

    n: Annotated[int, AtLeast(0)] = 4
    completions: bool = True
    redraws: Annotated[int, AtLeast(0)] = 3
    retain_weight: Annotated[float, AtLeast(0)] = 1.0
    kl_weight: Annotated[float, AtLeast(0)] = 1.0
    seed: int = 0

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"retain"})

    def rewrite(self, data: ForgetData) -> ForgetData:
        if self.n == 0:
            return data
        return rewritten(data, self.n, redraws=self.redraws, completions=self.completions, seed=self.seed)

    def init(self, model: nn.Module, data: ForgetData) -> nn.Module:
        return frozen_copy(model)

    def loss(self, state: nn.Module, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return relearn_loss(model, state, batch["forget"], batch["retain"], self.retain_weight, self.kl_weight)


_MOVED = {
    "forget.relearn_rows": ("Vague", "Vary", "augment"),
    "forget.relearn_measures": (
        "Contradicts",
        "MOST_HONORE",
        "Reference",
        "brunet",
        "entity_coverage",
        "honore",
        "kfr",
        "krr",
        "linguistic_score",
        "perplexities",
        "share_distinct",
        "states_another",
    ),
}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
