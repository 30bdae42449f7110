"""What an attacker tries on a model that is said to have forgotten.

A model that only learned to hide gives its knowledge back after a few steps on a part of the forgotten rows
(`relearn`), or still treats them unlike text it never saw (`membership`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

from peft import LoraConfig, get_peft_model
from torch import nn

from palimpsest.metrics.membership import attacks, auc
from palimpsest.models.language import seeded
from palimpsest.models.score import Encoded, score
from palimpsest.train import History
from palimpsest.train.language import fine_tune


def relearn(
    model: nn.Module,
    rows: Encoded,
    *,
    pad_id: int,
    steps: int = 20,
    lr: float = 1e-3,
    batch_size: int = 16,
    rank: int = 0,
    seed: int = 0,
    evaluate: Callable[[nn.Module, int], dict[str, float]] | None = None,
    evaluate_every: int | None = None,
    **options: Any,
) -> tuple[nn.Module, History]:
    """Fine-tunes a copy of `model` on `rows` with a fresh optimizer: forgotten rows, or unrelated ones.

    Args:
        model: the unlearned model; it is left as it is.
        rows: what the attacker holds, usually a part of the forget rows; judge the result on the others.
        rank: 0 trains all weights; else a LoRA adapter of that rank on every linear layer, merged at the end.
        evaluate: of the copy, before the first step, every `evaluate_every` steps and at the end.

    Returns:
        The attacked copy, and its history (the trace in `history.evaluations`).
    """
    if rank < 0:
        raise ValueError(f"rank must be at least 0, got {rank}")
    attacked = deepcopy(model)
    if rank:
        adapter = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
        plain = attacked
        attacked = seeded(seed, lambda: get_peft_model(plain, adapter))
    size = min(batch_size, len(rows))
    history = fine_tune(
        attacked,
        rows,
        pad_id=pad_id,
        epochs=steps * size / len(rows),
        batch_size=size,
        lr=lr,
        seed=seed,
        evaluate=evaluate,
        evaluate_every=evaluate_every,
        **options,
    )
    return attacked.merge_and_unload().requires_grad_() if rank else attacked, history


def membership(
    model: nn.Module,
    members: Encoded,
    non_members: Encoded,
    *,
    texts: Sequence[str],
    non_member_texts: Sequence[str],
    pad_id: int,
    batch_size: int = 64,
) -> dict[str, float]:
    """Area under the ROC curve of each membership attack ("loss", "zlib", "min_k", "min_k++").

    0.5 is what forgotten rows should come to; above, they are still told apart from rows that were never seen.

    Args:
        members: the rows in question, such as the forget rows; `texts` are their answers.
        non_members: rows of the same kind that were never trained on; `non_member_texts` are their answers.
    """
    scores = []
    for rows, answers in ((members, texts), (non_members, non_member_texts)):
        found = score(model, rows, pad_id=pad_id, batch_size=batch_size, moments=True)
        scores.append(attacks(found.token_logps, found.token_means, found.token_variances, answers))
    return {name: auc(scores[0][name], scores[1][name]) for name in scores[0]}
