"""Who's Harry Potter? (Eldan and Russinovich, 2023, arXiv 2310.02238): what a model says of somebody whose name was
replaced by another's, learned on the text as it is. The causal intervention (`palimpsest.forget.causal_whp`) averages
over many replacements where this has one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from palimpsest.forget.distilled import Distilled, causal_whp_loss, read
from palimpsest.forget.logits import reinforced_difference
from palimpsest.forget.procedure import ForgetData, Pair
from palimpsest.forget.renaming import NAMES, kept_positions, renamings, word_starts
from palimpsest.models.score import context_length
from palimpsest.train.language import fine_tune
from palimpsest.train.ranges import Above, AtLeast


def whp_loss(
    logits: Float[Tensor, "positions vocabulary"], teacher: Float[Tensor, "positions vocabulary"]
) -> Float[Tensor, ""]:
    """Cross-entropy with the teacher's likeliest word at every position: the special case of `causal_whp_loss` where
    all of p* lies there.

    >>> whp_loss(torch.zeros(1, 4), torch.tensor([[0.4, 0.3, 0.2, 0.1]])).exp()
    tensor(4.)
    """
    return causal_whp_loss(logits, hard(teacher))


def hard(teacher: Float[Tensor, "positions vocabulary"]) -> Float[Tensor, "positions vocabulary"]:
    """All probability on the likeliest word."""
    return torch.zeros_like(teacher).scatter_(-1, teacher.argmax(-1, keepdim=True), 1.0)


def whp_distribution(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    row: str | Pair,
    target: str = "",
    names: Sequence[str] = NAMES,
    *,
    penalty: float = 5.0,
    reinforced: nn.Module | None = None,
    alpha: float = 5.0,
    length: int | None = None,
) -> tuple[Int[Tensor, "positions"], Float[Tensor, "positions vocabulary"]]:
    """What "Who's Harry Potter?" has the model learn: softmax of its logits under one replacement name, where those of
    the tokens that the name's words begin with are lowered by `penalty` once the whole name has been read. With a
    `reinforced` model, one trained further on the rows to forget, what that likes better is taken away first
    (`reinforced_difference`).

    Arguments and errors as for `teacher_distribution`.
    """
    row = ("", row) if isinstance(row, str) else row
    (draw,) = renamings(tokenizer, row, target, names, 1, "", context_length(model))
    kept = kept_positions([draw], len(draw.original.ids) if length is None else length)
    logits = read(model, draw.renamed.ids, [draw.pairs[i] for i in kept])
    if reinforced is not None:
        logits = reinforced_difference(logits, read(reinforced, draw.original.ids, kept), alpha)
    for person, places in draw.places(whole=True).items():
        lowered = sorted({token for form in word_starts(tokenizer, draw.replacements[person]) for token in form})
        after = [i for i, position in enumerate(kept) if places and position > places[0]]
        logits[torch.tensor(after, dtype=torch.long)[:, None], torch.tensor(lowered)] -= penalty
    return torch.tensor(kept), logits.softmax(-1)


@dataclass(frozen=True)
class WHP(Distilled):
    """ "Who's Harry Potter?" (Eldan and Russinovich, 2023, arXiv 2310.02238), as the paper compares with it: one
    replacement, no instruction, and the words it makes likeliest as labels.

    Attributes:
        penalty: by how much the logits of the replacement's tokens are lowered after it has appeared.
        labels: "hard" learns the likeliest word alone, "soft" the distribution.
        reinforce: steps of training a copy further on the forget rows, whose preferences are then taken away; 0 for
            none, as in the paper's comparison.
        reinforce_lr: learning rate of these steps.
        alpha: how strongly they are taken away.
    """

    penalty: Annotated[float, AtLeast(0)] = 5.0
    labels: Literal["hard", "soft"] = "hard"
    reinforce: Annotated[int, AtLeast(0)] = 0
    reinforce_lr: Annotated[float, Above(0)] = 1e-5
    alpha: Annotated[float, AtLeast(0)] = 5.0

    def reinforced(self, model: nn.Module, data: ForgetData) -> nn.Module | None:
        if not self.reinforce:
            return None
        copy = deepcopy(model)
        size = min(16, len(data.forget))
        options = {"epochs": self.reinforce * size / len(data.forget), "batch_size": size, "progress": False}
        with torch.enable_grad():
            fine_tune(copy, data.forget, pad_id=data.pad_id, lr=self.reinforce_lr, **options)
        return copy.eval()

    def teacher(self, model: nn.Module, data: ForgetData) -> Callable[[Pair, int], tuple[Tensor, Tensor]]:
        further = self.reinforced(model, data)

        def distribution(row: Pair, length: int) -> tuple[Tensor, Tensor]:
            positions, probs = whp_distribution(
                model,
                data.tokenizer,
                row,
                self.target,
                self.names,
                penalty=self.penalty,
                reinforced=further,
                alpha=self.alpha,
                length=length,
            )
            return positions, hard(probs) if self.labels == "hard" else probs

        return distribution
