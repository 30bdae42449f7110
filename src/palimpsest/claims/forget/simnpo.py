"""Without a reference model, does SimNPO treat short and weakly memorised rows better than NPO, and keep as much?
(Fan et al. 2024, 2410.07163)"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from palimpsest.evidence import Claim, expect, given
from palimpsest.forget.attacks import relearn
from palimpsest.forget.authors_trial import AuthorsTrial
from palimpsest.forget.baselines import GradAscent
from palimpsest.forget.npo import NPO
from palimpsest.forget.procedure import ForgetData, unlearn
from palimpsest.forget.simnpo import SimNPO
from palimpsest.models.language import causal_lm
from palimpsest.models.score import Encoded, score
from palimpsest.tasks.markov import BOS, EOS, PAD, VOCABULARY, MarkovTask, encode_chains, markov_unlearning
from palimpsest.tasks.worlds import cached
from palimpsest.train import NonFiniteLoss
from palimpsest.train.language import fine_tune

MARKOV = {"d_model": 64, "n_layers": 2, "epochs": 4, "pretrain lr": 2e-3, "lr": 5e-4, "batch": 16, "most steps": 120}
FORGET_PERPLEXITY = (
    8.0  # of forget1 at which runs are compared: it is 4.6 by the chains' law, and 10 for a uniform guess
)
AUTHORS = {"steps": 60, "lr": 0.02, "optimizer": "sgd", "batch_size": 16, "until": 0.1}
RELEARN = {"rows": 20, "steps": 10, "lr": 1e-3}
METHODS = {
    "grad_diff": GradAscent(retain="ce"),
    "npo-rt": NPO(beta=1.0),
    "simnpo": SimNPO(beta=2.5, forget_weight=1.0),
}


def _model(seed: int, smoke: bool) -> nn.Module:
    width = 16 if smoke else MARKOV["d_model"]
    return causal_lm(
        VOCABULARY,
        d_model=width,
        n_layers=MARKOV["n_layers"],
        max_length=32,
        pad_id=PAD,
        bos_id=BOS,
        eos_id=EOS,
        seed=seed,
    )
