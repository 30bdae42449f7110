"""The frontier of data erasure, a survey (Qu, Ding, Sun, Thilakarathna, Zhu and Niyato, 2024, arXiv
2403.15779): one door to its methods, those that no other room holds included.

    task_vector    theta - lam (theta_f - theta), theta_f = theta fine-tuned on the forget rows f
    kga            |KL_f(model || f_f) - gap| + a KL_r(teacher || model),   gap = KL_n(teacher || f_n)
                   f_f, f_n: helpers that learned nothing but f, nothing but new rows n
    eul            KL_r(teacher || model) - b KL_f(teacher || model) + c CE(r) - d CE(f), in adapter layers only
    icul           no training: forget rows with flipped labels, then true rows, before every prompt
    ppu            ascent on those forget rows only that the model finds least perplexing
    random_labels  CE on the forget rows with other labels

KGA is Wang et al. 2023 (2305.06535), EUL is Chen and Yang 2023 (2310.20150), ICUL is Pawelczyk et al. 2023
(2310.07579), task vectors are Ilharco et al. 2022 (2212.04089). The survey gives no equations: the directions of the
divergences are those above. Rows are (prompt, answer) texts; of "labels", the answer is one of a few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import fields
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.errors import UserError
from palimpsest.forget.baselines import GradAscent
from palimpsest.forget.data_erasure_survey_methods import EUL, KGA, FlippedLabels, NewRows, TaskVector, insert_adapters
from palimpsest.forget.data_erasure_survey_registry import Kind, registry
from palimpsest.forget.icul import PrefixedLM, icul_context
from palimpsest.forget.npo import NPO
from palimpsest.forget.procedure import Pair, encode_pairs, prepare
from palimpsest.forget.procedure import unlearn as train
from palimpsest.lazy import front_door
from palimpsest.models.score import score
from palimpsest.train.ranges import require


def ppu_rows(nll: Float[np.ndarray, "rows"], share: float = 0.5) -> list[int]:
    """The rows that the model finds least perplexing, most memorised first: `share` of them, at least one.

    >>> ppu_rows(np.array([2.0, 0.1, 1.0, 3.0]), share=0.5)
    [1, 2]
    """
    require(0 < share <= 1, "share", share, "above 0 and at most 1")
    return np.argsort(nll, kind="stable")[: max(1, round(share * len(nll)))].tolist()


def unlearn(
    method: str,
    model: PreTrainedModel,
    forget: Sequence[Pair],
    retain: Sequence[Pair] = (),
    data: Kind = "text",
    *,
    tokenizer: PreTrainedTokenizerBase,
    new: Sequence[Pair] = (),
    settings: Mapping[str, Any] | None = None,
    max_length: int = 512,
    seed: int = 0,
    **training: Any,
) -> nn.Module:
    """Any of the survey's methods, by name.

    Args:
        method: see `registry`.
        model: is left as it is.
        forget, retain: (prompt, answer) texts, the template applied.
        data: whether answers are free text or labels.
        new: rows that the model has not seen, for "kga".
        settings: the method's own: the fields of its class (`KGA`, `EUL` and "width", `TaskVector`, `FlippedLabels`,
            `GradAscent`, `NPO`, `CausalWHP`), "share" for "ppu", "n_true" for "icul", "loc" and "std" for "needle".
        training: steps, lr, batch_size, optimizer, ..., see `palimpsest.forget.procedure.unlearn`.

    Returns:
        A copy of the model that has forgotten; of "eul", with adapters in it; of "icul", behind a prompt.

    Raises:
        UserError: if the method is unknown or not for such data, or rows that it needs are missing.
    """
    entry = next((entry for entry in registry() if entry.method == method), None)
    if entry is None:
        raise UserError(f"no method {method!r}: {', '.join(entry.method for entry in registry())}")
    if data not in entry.data:
        raise UserError(f"{method} is not for data={data!r}, but for {' and '.join(entry.data)}")
    if entry.retain == "yes" and not retain:
        raise UserError(f"{method} needs retain rows, and there are none: give some")
    settings = dict(settings or {})
    rows = prepare(tokenizer, forget, retain, max_length=max_length, seed=seed)
    if method == "icul":
        context = icul_context(forget, retain, settings.pop("n_true", min(6, len(retain))), seed)
        text = "".join(f"{prompt}{answer}\n" for prompt, answer in context)
        return PrefixedLM(deepcopy(model), tokenizer(text).input_ids)
    model = deepcopy(model)
    if method == "task_vector":
        return TaskVector(**settings).edit(model, rows, seed=seed, **training)
    if method == "needle":
        from palimpsest.forget.concept_vectors import needle

        ascent = {"data": rows, **training} if training.get("steps") else {}
        return needle(model, **settings, seed=seed, **ascent)
    if method == "eul":
        insert_adapters(model, settings.pop("width", 16), seed)
    if method == "kga":
        unseen = encode_pairs(tokenizer, new, max_length=max_length) if new else None
        rows = NewRows(**{field.name: getattr(rows, field.name) for field in fields(rows)}, new=unseen)
    if method == "ppu":
        kept = ppu_rows(score(model, rows.forget, pad_id=rows.pad_id).nll, settings.pop("share", 0.5))
        rows = prepare(tokenizer, [forget[row] for row in kept], retain, max_length=max_length, seed=seed)
    train(model, _objective(method, bool(retain), settings), rows, seed=seed, **training)
    return model


def _objective(method: str, has_retain: bool, settings: dict[str, Any]) -> Any:
    if method == "causal_whp":
        from palimpsest.forget.causal_whp import CausalWHP

        return CausalWHP(**settings)
    if method == "npo":
        return NPO(**{"retain": "ce" if has_retain else "none", **settings})
    if method in ("grad_ascent", "grad_diff", "ppu"):
        return GradAscent(**{"retain": "ce" if method == "grad_diff" else "none", **settings})
    return {"kga": KGA, "eul": EUL, "random_labels": FlippedLabels}[method](**settings)


_MOVED = {
    "forget.data_erasure_survey_measures": ("Question", "scorecard"),
    "forget.data_erasure_survey_methods": ("Adapter", "answer_kl", "flipped", "labels_of", "mean_kl", "task_vector"),
    "forget.data_erasure_survey_registry": ("BOTH", "Entry", "registry"),
}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
