"""Methods that the survey describes and no other room holds: task vectors, KGA, EUL and flipped labels; their formulas
are in `palimpsest.forget.data_erasure_survey`."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from palimpsest.errors import UserError
from palimpsest.forget.procedure import Batch, ForgetData, Pair, encode_pairs
from palimpsest.forget.retain_term import Retain, frozen_copy
from palimpsest.losses.divergence import kl_divergence
from palimpsest.models.blocks import blocks, mlp_output
from palimpsest.models.language import seeded
from palimpsest.models.score import IGNORED, Encoded, cross_entropy, reference_kl
from palimpsest.train.language import fine_tune
from palimpsest.train.method import Edit, Objective
from palimpsest.train.ranges import Above, AtLeast, require


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
