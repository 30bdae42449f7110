"""Prompts that transfer forward: new tasks use the directions of pretraining and leave those of earlier tasks alone.

Source: Zheng, Ma, Liu, Wu and Feng (2024), Beyond anti-forgetting: multimodal continual instruction tuning with
positive forward transfer, arXiv 2401.09181.

A frozen language model reads, before each input, the few prompts of a pool whose keys are nearest to the input's mean
embedding. Prompts of different tasks collide where their inputs' embeddings span the same directions. So what an
update may change are the directions that pretraining uses, and those that no earlier task does:

    P_pre g + P_res g,    P_pre = B_pre B_pre^T,    P_res = I - P_pre - B_old B_old^T

with B_pre and B_old orthonormal bases of the core spaces of embeddings, their leading right singular vectors. It is the
update that is projected and not the gradient: Adam's division by its second moments would turn it out of the space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from palimpsest.errors import UserError
from palimpsest.models.forward import device_of
from palimpsest.models.score import cross_entropy
from palimpsest.retain.continual import Continual, Present, State
from palimpsest.retain.prompt_pool import PromptedLM
from palimpsest.train.ranges import Above, AtLeast, AtMost

Basis = Float[Tensor, "d rank"]
Mode = Literal["none", "residual", "pretrained", "both"]
CORE_ROWS = 512  # embeddings that a core space is of


def core_space(embeddings: Float[Tensor, "n d"], basis: Basis | None = None, energy: float = 0.95) -> Basis:
    """An orthonormal basis of where embeddings lie, outside of the span of `basis`: as many right singular vectors as
    hold the share `energy` of the squared singular values that are left.

    >>> core_space(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), energy=0.9).abs()
    tensor([[1.],
            [0.]])
    """
    if embeddings.ndim != 2 or not 0 < energy <= 1:
        raise ValueError(f"embeddings must be [n, d] and energy in (0, 1], got {list(embeddings.shape)} and {energy}")
    whole = embeddings.double()
    left = whole if basis is None else whole - whole @ basis.double() @ basis.double().T
    _, singular, right = torch.linalg.svd(left, full_matrices=False)
    squares = singular.square()
    if squares.sum() <= 1e-12 * whole.square().sum():
        return embeddings.new_zeros(embeddings.shape[1], 0)
    rank = int((squares.cumsum(0) < energy * squares.sum() * (1 - 1e-12)).sum()) + 1
    found = right[:rank].T
    if basis is not None:  # a second time, for what rounding left of the first
        found = torch.linalg.qr(found - basis.double() @ (basis.double().T @ found)).Q
    return found.to(embeddings)


def embedding_discrepancy(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], energy: float = 0.95) -> float:
    """The share of b's squared length that lies outside of a's core space: near 0 two tasks collide.

    >>> embedding_discrepancy(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    1.0
    """
    basis = core_space(a, energy=energy)
    return float(1 - (b @ basis).square().sum() / b.square().sum())


def projected(g: Float[Tensor, "n d"], pre: Basis, old: Basis, mode: Mode = "both") -> Float[Tensor, "n d"]:
    """What is left of an update's rows.

    Of "both", only directions owned by earlier tasks and not by pretraining are taken away; "residual" takes away
    pretraining's too, "pretrained" leaves nothing but those, "none" leaves all.

    >>> e = torch.eye(3)
    >>> projected(torch.ones(1, 3), pre=e[:, :1], old=e[:, 1:2])
    tensor([[1., 0., 1.]])
    """
    if mode == "none":
        return g
    kept = g @ pre @ pre.T
    residual = g - kept - g @ old @ old.T
    return {"residual": residual, "pretrained": kept, "both": kept + residual}[mode]


@dataclass(frozen=True)
class FwdPrompt(Continual):
    """Tunes the pool of a `PromptedLM` task by task, with each update of prompts and keys projected.

    Attributes:
        mode: which directions an update may have; see `projected`.
        energy: of a core space.
        key_weight: of the key loss.
        first: how many of the stream's first tasks are pretraining's: B_pre is of their embeddings.
    """

    mode: Mode = "both"
    energy: Annotated[float, Above(0), AtMost(1)] = 0.95
    key_weight: Annotated[float, AtLeast(0)] = 0.5
    first: Annotated[int, AtLeast(0)] = 1

    def fits(self, model: nn.Module) -> None:
        if not isinstance(model, PromptedLM):
            raise UserError("it tunes prompts: put the model into a PromptedLM")

    def trainable(self, model: PromptedLM) -> list[nn.Parameter]:
        return list(model.pool.parameters())

    def init(self, model: PromptedLM, data: Present) -> State:
        nothing = model.pool.prompts.detach().new_zeros(model.pool.prompts.shape[-1], 0)
        return {"pre": nothing, "old": nothing, "last": _kept(model)}

    def before_task(self, state: State, model: PromptedLM, data: Present) -> State:
        return {**state, "last": _kept(model)}

    def loss(self, state: State, model: PromptedLM, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        answers = cross_entropy(model, batch)
        return {"answers": answers, "keys": self.key_weight * model.key_loss}

    def after_step(self, state: State, model: PromptedLM) -> None:
        with torch.no_grad():
            for name, p in model.pool.named_parameters():
                rows = (p - state["last"][name]).reshape(-1, state["pre"].shape[0])
                p.copy_(state["last"][name] + projected(rows, state["pre"], state["old"], self.mode).view_as(p))
                state["last"][name].copy_(p)

    def after_task(self, state: State, model: PromptedLM, data: Present) -> State:
        embedded = embeddings_of(model, data.rows.columns["input_ids"], data.rows.columns["attention_mask"])
        if data.number < self.first:
            more = core_space(embedded, state["pre"], self.energy)
            return {**state, "pre": torch.cat([state["pre"], more], 1)}
        more = core_space(embedded, torch.cat([state["pre"], state["old"]], 1), self.energy)
        return {**state, "old": torch.cat([state["old"], more], 1)}


def embeddings_of(
    model: PromptedLM, input_ids: Int[Tensor, "n tokens"], attention_mask: Int[Tensor, "n tokens"]
) -> Float[Tensor, "m d"]:
    """The mean embeddings of rows, each part's by itself; of 512 rows at most."""
    ids, real = (value[:CORE_ROWS].to(device_of(model)) for value in (input_ids, attention_mask))
    with torch.no_grad():
        found = model.query(ids, real.bool())
    return found.reshape(-1, model.get_input_embeddings().embedding_dim)


def _kept(model: PromptedLM) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.pool.named_parameters()}
