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

import random
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.errors import UserError
from palimpsest.forget.baselines import GradAscent
from palimpsest.forget.evaluation import states
from palimpsest.forget.npo import NPO
from palimpsest.forget.procedure import Batch, ForgetData, Pair, encode_pairs, prepare
from palimpsest.forget.procedure import unlearn as train
from palimpsest.forget.retain_term import Retain, frozen_copy
from palimpsest.losses.divergence import kl_divergence
from palimpsest.models.blocks import blocks, mlp_output
from palimpsest.models.language import seeded
from palimpsest.models.score import IGNORED, Encoded, cross_entropy, greedy, reference_kl, score
from palimpsest.train.language import fine_tune
from palimpsest.train.method import Edit, Objective
from palimpsest.train.ranges import Above, AtLeast, require

Kind = Literal["text", "labels"]


def task_vector(theta: Mapping[str, Tensor], theta_f: Mapping[str, Tensor], lam: float = 1.0) -> dict[str, Tensor]:
    """theta - lam (theta_f - theta) of every weight: away from what fine-tuning on the forget rows changed.

    >>> task_vector({"w": torch.tensor([1.0])}, {"w": torch.tensor([3.0])}, lam=0.5)
    {'w': tensor([0.])}
    """
    if theta.keys() != theta_f.keys():
        raise ValueError(f"the two models' weights differ: {sorted(theta.keys() ^ theta_f.keys())[:3]}")
    return {name: value - lam * (theta_f[name] - value) for name, value in theta.items()}


def answer_kl(p: nn.Module, q: nn.Module, batch: dict[str, Tensor]) -> Float[Tensor, ""]:
    """KL(p || q) at the answers' tokens, averaged over each row's tokens, then over rows; through both models."""
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    return kl_divergence(p(**inputs).logits[:, :-1], q(**inputs).logits[:, :-1], batch["labels"][:, 1:] != IGNORED)


def mean_kl(p: nn.Module, q: nn.Module, rows: Encoded, pad_id: int, batch_size: int = 32) -> float:
    """`answer_kl` over all rows, without gradients."""
    device, total = next(p.parameters()).device, 0.0
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            chosen = range(start, min(start + batch_size, len(rows)))
            batch = {name: value.to(device) for name, value in rows.batch(chosen, pad_id).items()}
            total += len(chosen) * float(answer_kl(p, q, batch))
    return total / len(rows)


@dataclass(frozen=True)
class TaskVector(Edit):
    """Fine-tunes a copy on the forget rows, and goes the other way.

    Attributes:
        lam: how far: 0 is the model as it is.
    """

    lam: float = 1.0

    def edit(self, model: nn.Module, data: ForgetData, *, steps: int = 60, batch_size: int = 16, **training: Any):
        """The model, changed in place; `training` goes to `palimpsest.train.fit`."""
        tuned, size = deepcopy(model), min(batch_size, len(data.forget))
        epochs = steps * size / len(data.forget)
        fine_tune(tuned, data.forget, pad_id=data.pad_id, epochs=epochs, batch_size=size, **training)
        model.load_state_dict(task_vector(model.state_dict(), tuned.state_dict(), self.lam))
        return model


@dataclass(frozen=True)
class NewRows(ForgetData):
    """Rows with some besides that the model has never seen, of the same kind, which KGA needs."""

    new: Encoded | None = None


@dataclass(frozen=True)
class KGA(Objective):
    """Knowledge gap alignment: after unlearning, the forget rows should be as far from a helper that knows only them as
    unseen rows are, before it, from a helper that knows only those.

    The helpers have the model's architecture and fresh weights, and stay fixed.

    Attributes:
        retain_weight: a, of the divergence from the model as it was, on the retain rows.
        helper_epochs, helper_lr: of the training of both helpers.
        seed: of their weights and of the order of their rows.
    """

    retain_weight: Annotated[float, AtLeast(0)] = 1.0
    helper_epochs: Annotated[float, Above(0)] = 10.0
    helper_lr: float = 3e-3
    seed: int = 0
    needs: ClassVar[frozenset[str]] = frozenset({"retain"})

    def init(self, model: PreTrainedModel, data: ForgetData) -> dict[str, Any]:
        new = getattr(data, "new", None)
        if new is None:
            raise UserError("KGA needs new rows, that the model has not seen, to measure its gap on: give some")
        teacher, helper_n = frozen_copy(model), self.helper(model, new, data)
        gap = mean_kl(teacher, helper_n, new, data.pad_id)
        return {"teacher": teacher, "helper": self.helper(model, data.forget, data), "gap": gap}

    def helper(self, model: PreTrainedModel, rows: Encoded, data: ForgetData) -> PreTrainedModel:
        """A model that has learned these rows and nothing else."""
        fresh = seeded(self.seed, lambda: type(model)(model.config)).to(next(model.parameters()).device)
        training = {"lr": self.helper_lr, "seed": self.seed, "progress": False}
        fine_tune(fresh, rows, pad_id=data.pad_id, epochs=self.helper_epochs, batch_size=16, **training)
        return fresh.requires_grad_(False)

    def loss(self, state: dict[str, Any], model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        gap = answer_kl(model, state["helper"], batch["forget"])
        retain = self.retain_weight * reference_kl(state["teacher"], model, batch["retain"])
        return {"gap": (gap - state["gap"]).abs(), "retain": retain}


class Adapter(nn.Module):
    """`inner`, then h + W_up relu(W_down h): at first nothing but `inner`, because W_up is 0."""

    def __init__(self, inner: nn.Module, d: int, width: int):
        super().__init__()
        self.inner, self.down, self.up = inner, nn.Linear(d, width), nn.Linear(width, d)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, *args: Any) -> Tensor:
        h = self.inner(*args)
        return h + self.up(self.down(h).relu())


def insert_adapters(model: PreTrainedModel, width: int = 16, seed: int = 0) -> PreTrainedModel:
    """Puts an `Adapter` behind the MLP of every block, in place; the model computes what it did."""
    require(width >= 1, "width", width, "at least 1")
    like, d = next(model.parameters()), model.config.get_text_config().hidden_size
    for number, block in enumerate(blocks(model)):
        output = mlp_output(block)
        name = next(name for name, module in block.named_modules() if module is output)
        parent, _, leaf = name.rpartition(".")
        adapter = seeded(seed + number, lambda output=output: Adapter(output, d, width))
        setattr(block.get_submodule(parent), leaf, adapter.to(device=like.device, dtype=like.dtype))
    return model


@dataclass(frozen=True)
class EUL(Objective):
    """Efficient unlearning: adapters learn to agree with the model as it was on the retain rows, and to disagree with
    it on the forget rows; `insert_adapters` comes first. Two of the four terms have no lower bound.

    Attributes:
        forget_weight: b, of the divergence on the forget rows.
        task_weight: c, of the retain rows' cross-entropy.
        lm_weight: d, of the ascent on the forget rows.
    """

    forget_weight: Annotated[float, AtLeast(0)] = 1.0
    task_weight: Annotated[float, AtLeast(0)] = 1.0
    lm_weight: Annotated[float, AtLeast(0)] = 0.5
    needs: ClassVar[frozenset[str]] = frozenset({"retain"})

    def trainable(self, model: nn.Module) -> Iterator[nn.Parameter]:
        adapters = [module for module in model.modules() if isinstance(module, Adapter)]
        if not adapters:
            raise UserError("EUL trains adapters only, and the model has none: call insert_adapters first")
        for adapter in adapters:
            yield from (*adapter.down.parameters(), *adapter.up.parameters())

    def init(self, model: nn.Module, data: ForgetData) -> nn.Module:
        return frozen_copy(model)

    def loss(self, state: nn.Module, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        forget, retain = batch["forget"], batch["retain"]
        return {
            "retain_kl": reference_kl(state, model, retain),
            "forget_kl": -self.forget_weight * reference_kl(state, model, forget),
            "task": self.task_weight * cross_entropy(model, retain),
            "lm": -self.lm_weight * cross_entropy(model, forget),
        }


@dataclass(frozen=True)
class FlippedLabels(Retain):
    """CE on the forget rows, each with another of the labels that occur; plus a retain term, by default none.

    Attributes:
        seed: of the labels that are drawn.
    """

    retain: Literal["ce", "kl", "none"] = "none"
    seed: int = 0

    def rewrite(self, data: ForgetData) -> ForgetData:
        pairs = flipped(data.forget_pairs, labels_of(data.forget_pairs, data.retain_pairs), self.seed)
        return replace(data, forget=encode_pairs(data.tokenizer, pairs, max_length=data.max_length), forget_pairs=pairs)

    def loss(self, state: nn.Module | None, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"forget": cross_entropy(model, batch["forget"]), **self.retain_term(state, model, batch)}


def labels_of(*rows: Sequence[Pair]) -> tuple[str, ...]:
    """The different answers, in order; at least two of them."""
    labels = tuple(dict.fromkeys(answer for part in rows for _, answer in part))
    if len(labels) < 2:
        raise UserError(f"labels must be at least two different answers, got {labels}")
    return labels


def flipped(rows: Sequence[Pair], labels: Sequence[str], seed: int = 0) -> tuple[Pair, ...]:
    """The rows, each with another label than its own.

    >>> flipped([("good film:", " yes"), ("bad film:", " no")], [" yes", " no"])
    (('good film:', ' no'), ('bad film:', ' yes'))
    """
    rng = random.Random(seed)
    return tuple((prompt, rng.choice([label for label in labels if label != answer])) for prompt, answer in rows)


def icul_context(forget: Sequence[Pair], retain: Sequence[Pair], n_true: int = 6, seed: int = 0) -> tuple[Pair, ...]:
    """In-context unlearning: all forget rows with flipped labels, then `n_true` retain rows, drawn, as they are."""
    if not 0 <= n_true <= len(retain):
        raise UserError(f"n_true must lie between 0 and the {len(retain)} retain rows, got {n_true}")
    true = random.Random(seed).sample(list(retain), n_true)
    return (*flipped(forget, labels_of(forget, retain), seed), *true)


class PrefixedLM(PreTrainedModel, GenerationMixin):
    """A model that reads the same tokens before every text, without gradients; its logits are those of the text."""

    def __init__(self, model: PreTrainedModel, prefix: Sequence[int]):
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if context is not None and len(prefix) >= context:
            raise UserError(f"the {len(prefix)} tokens of the rows do not fit the model's context of {context}")
        config = deepcopy(model.config)
        config._attn_implementation = "eager"  # of this module, which has no attention
        super().__init__(config)
        self.model, self.generation_config = model, model.generation_config
        self.register_buffer("prefix", torch.tensor(list(prefix), dtype=torch.long, device=model.device))
        self.eval()

    def get_output_embeddings(self) -> None:
        """The last layer alone does not give the logits of the text."""

    @torch.no_grad()
    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        attention_mask: Int[Tensor, "batch all"] | None = None,
        position_ids: Int[Tensor, "batch tokens"] | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if position_ids is None:
            position_ids = (mask.cumsum(1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        before, tokens = self.prefix.expand(len(input_ids), -1), input_ids.shape[1]
        position_ids = position_ids + before.shape[1]
        if past_key_values is None or not past_key_values.get_seq_length():
            positions = torch.arange(before.shape[1], device=before.device).expand_as(before)
            input_ids, position_ids = torch.cat([before, input_ids], 1), torch.cat([positions, position_ids], 1)
        out = self.model(
            input_ids=input_ids,
            attention_mask=torch.cat([torch.ones_like(before, dtype=mask.dtype), mask], 1),
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=bool(use_cache),
            **kwargs,
        )
        out.logits = out.logits[:, -tokens:]
        return out

    def generate(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        """The texts, continued, without what was read before them."""
        before = self.prefix.expand(len(input_ids), -1)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        mask = torch.cat([torch.ones_like(before, dtype=mask.dtype), mask], 1)
        out = self.model.generate(torch.cat([before, input_ids], 1), attention_mask=mask, **kwargs)
        return out[:, before.shape[1] :]


def ppu_rows(nll: Float[np.ndarray, "rows"], share: float = 0.5) -> list[int]:
    """The rows that the model finds least perplexing, most memorised first: `share` of them, at least one.

    >>> ppu_rows(np.array([2.0, 0.1, 1.0, 3.0]), share=0.5)
    [1, 2]
    """
    require(0 < share <= 1, "share", share, "above 0 and at most 1")
    return np.argsort(nll, kind="stable")[: max(1, round(share * len(nll)))].tolist()


@dataclass(frozen=True)
class Entry:
    """A method's place in the survey.

    Attributes:
        method: its name for `unlearn`.
        data: the kinds of rows it is for.
        access: what must be accessible of the model.
        cost: what it takes.
        retain: whether it needs rows to keep.
        source: who proposed it.
    """

    method: str
    data: tuple[Kind, ...]
    access: Literal["weights", "prompt"]
    cost: str
    retain: Literal["no", "optional", "yes"]
    source: str


BOTH: tuple[Kind, Kind] = ("text", "labels")
_ENTRIES = (
    Entry("grad_ascent", BOTH, "weights", "some steps on the forget rows", "no", "2210.01504"),
    Entry("grad_diff", BOTH, "weights", "some steps on forget and retain rows", "yes", "2203.12817"),
    Entry("npo", BOTH, "weights", "some steps; the model scores the forget rows once", "optional", "2404.05868"),
    Entry("causal_whp", ("text",), "weights", "many teacher passes, then some steps", "optional", "2407.16997"),
    Entry("needle", ("text",), "weights", "no training, once the vector is found", "no", "2406.11614"),
    Entry("task_vector", BOTH, "weights", "fine-tuning on the forget rows", "no", "2212.04089"),
    Entry("kga", BOTH, "weights", "two helpers trained, some steps, four models held", "yes", "2305.06535"),
    Entry("eul", BOTH, "weights", "some steps in adapters; they stay in the model", "yes", "2310.20150"),
    Entry("random_labels", ("labels",), "weights", "some steps on the forget rows", "optional", "1911.04933"),
    Entry("ppu", BOTH, "weights", "some steps on a part of the forget rows", "no", "2403.15779"),
    Entry("icul", ("labels",), "prompt", "no training; a longer prompt for every query", "yes", "2310.07579"),
)


def registry() -> tuple[Entry, ...]:
    """The taxonomy: every method that `unlearn` knows, for which data, at which price.

    >>> [entry.method for entry in registry() if entry.access == "prompt"]
    ['icul']
    """
    return _ENTRIES


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
    entry = next((entry for entry in _ENTRIES if entry.method == method), None)
    if entry is None:
        raise UserError(f"no method {method!r}: {', '.join(entry.method for entry in _ENTRIES)}")
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


@dataclass(frozen=True)
class Question:
    """One thing to ask, in one or more wordings (prompts, the template applied), and what an answer must state."""

    prompts: tuple[str, ...]
    answer: str


def scorecard(
    model: nn.Module,
    gold: nn.Module,
    forget: Sequence[Question],
    retain: Sequence[Question],
    *,
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int = 24,
) -> dict[str, float]:
    """What the survey asks of an unlearned model, next to one that was retrained without the forget rows.

    A question counts as known where the greedy answer to its first wording states the answer.

    Returns:
        "forgetting", the share of the forget questions not known; "retention", the share of the retain questions known;
        "consistency", the share of all questions whose wordings are either all answered rightly or all wrongly;
        "over-deletion", how much less of the retain questions it knows than the gold model; "under-deletion", how much
        more of the forget questions; "distance to gold", the two accuracies' absolute gaps, summed.
    """
    if not forget or not retain:
        raise ValueError(f"questions of both kinds are needed, got {len(forget)} and {len(retain)}")

    def known(model: nn.Module, questions: Sequence[Question]) -> list[list[bool]]:
        prompts = [prompt for question in questions for prompt in question.prompts]
        said = iter(greedy(model, tokenizer, prompts, max_new_tokens=max_new_tokens))
        return [[states(next(said), question.answer) for _ in question.prompts] for question in questions]

    def accuracy(rows: list[list[bool]]) -> float:
        return float(np.mean([row[0] for row in rows]))

    forget_rows, retain_rows = known(model, forget), known(model, retain)
    forget_gap = accuracy(forget_rows) - accuracy(known(gold, [_first(q) for q in forget]))
    retain_gap = accuracy(retain_rows) - accuracy(known(gold, [_first(q) for q in retain]))
    return {
        "forgetting": 1 - accuracy(forget_rows),
        "retention": accuracy(retain_rows),
        "consistency": float(np.mean([len(set(row)) == 1 for row in forget_rows + retain_rows])),
        "over-deletion": max(0.0, -retain_gap),
        "under-deletion": max(0.0, forget_gap),
        "distance to gold": abs(forget_gap) + abs(retain_gap),
    }


def _first(question: Question) -> Question:
    return replace(question, prompts=question.prompts[:1])
