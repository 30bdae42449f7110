"""Distributions over the next token that are computed once for every row to forget and learned on the row as it is:
what `palimpsest.forget.causal_whp` and `palimpsest.forget.whp` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from palimpsest.errors import UserError
from palimpsest.forget.procedure import Batch, ForgetData, Pair
from palimpsest.forget.renaming import NAMES
from palimpsest.forget.retain_term import Retain
from palimpsest.train.ranges import Above, AtLeast, require

GIB = 2**30


def causal_whp_loss(
    logits: Float[Tensor, "positions vocabulary"],
    teacher: Float[Tensor, "positions top"],
    words: Int[Tensor, "positions top"] | None = None,
) -> Float[Tensor, ""]:
    """mean_t sum_v teacher_tv (log teacher_tv - log softmax(logits)_tv), in nats.

    Args:
        logits: of the model at the kept positions.
        teacher: the distributions to learn, held fixed.
        words: which words the columns of `teacher` are, where it holds only the likeliest; None: all, in order.

    Raises:
        ValueError: if the shapes do not fit.

    >>> causal_whp_loss(torch.zeros(1, 4), torch.tensor([[0.5, 0.5, 0.0, 0.0]])).exp()
    tensor(2.)
    """
    if logits.ndim != 2 or teacher.shape != (logits if words is None else words).shape or len(teacher) != len(logits):
        raise ValueError(
            f"logits must be [positions, vocabulary] and teacher [positions, words], got {list(logits.shape)} and"
            f" {list(teacher.shape)}"
        )
    if not len(logits):
        raise ValueError("there are no positions: the teacher must have at least one")
    logp = logits.log_softmax(-1)
    logp = logp if words is None else logp.gather(-1, words)
    teacher = teacher.to(logp.dtype)
    # A word that the teacher rules out costs nothing, also where the model rules it out: 0 log 0 = 0.
    return (torch.xlogy(teacher, teacher) - (teacher * logp).masked_fill(teacher == 0, 0)).sum(-1).mean()


@torch.no_grad()
def read(model: nn.Module, ids: Sequence[int], positions: Sequence[int]) -> Float[Tensor, "positions vocabulary"]:
    """The logits at some positions of one text, in at least float32."""
    device = next(model.parameters()).device
    last = max(positions) + 1  # behind causal attention nothing depends on what follows
    inputs = torch.tensor([ids[:last]], device=device)
    logits = model(input_ids=inputs, attention_mask=torch.ones_like(inputs)).logits[0, list(positions)]
    return logits if logits.dtype == torch.float64 else logits.float()


@dataclass(frozen=True)
class Distilled(Retain):
    """What both objectives share: distributions computed once for every forget row, and learned on the row as it is.

    They are kept on the CPU: 4 bytes for each kept position and word, so that a thousand positions take 128 MB with a
    vocabulary of 32,000. `top` keeps the likeliest words only.

    Attributes:
        target: whom to forget: the name as the rows write it; several, or shorter forms of it, separated by "|".
            Where it is empty, every row is searched for the name it is about.
        names: what the target's name is replaced by; several targets begin at different ones. Names that the model
            knows nothing of, or as many different things of as possible.
        top: 0 keeps the whole distribution; else, as an approximation, that many of its likeliest words, renormalised.
        max_gib: the most memory that the distributions may take, in GiB.
    """

    retain: Literal["ce", "kl", "none"] = "none"
    target: str = ""
    names: tuple[str, ...] = NAMES
    top: Annotated[int, AtLeast(0)] = 0
    max_gib: Annotated[float, Above(0)] = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.names) and all(name.strip() for name in self.names), "names", self.names, "one or more names")

    def teacher(self, model: nn.Module, data: ForgetData) -> Callable[[Pair, int], tuple[Tensor, Tensor]]:
        """The distributions of a row of which `length` tokens count: (row, length) -> (positions, probabilities)."""
        raise NotImplementedError

    @torch.no_grad()
    def init(self, model: nn.Module, data: ForgetData) -> dict[str, Any]:
        if data.tokenizer is None or len(data.forget_pairs) != len(data.forget):
            raise UserError(
                f"{type(self).__name__} needs the rows' texts and their tokenizer: make the data with `prepare`"
            )
        teacher = self.teacher(model, data)
        ends, parts, size = [0], [], 0
        for row, ids in zip(data.forget_pairs, data.forget.input_ids, strict=True):
            positions, probs = (x.cpu() for x in teacher(row, len(ids)))
            words = None
            if 0 < self.top < probs.shape[-1]:
                probs, words = probs.topk(self.top)
                probs = probs / probs.sum(-1, keepdim=True)
            parts.append((positions, probs, words))
            ends.append(ends[-1] + len(positions))
            size += probs.numel() * (probs.element_size() + (0 if words is None else words.element_size()))
            require(size <= self.max_gib * GIB, "max_gib", self.max_gib, "larger for these rows, or top above 0")
        positions, probs, words = zip(*parts, strict=True)
        state = {"ends": torch.tensor(ends), "positions": torch.cat(positions), "probs": torch.cat(probs)}
        if words[0] is not None:
            state["words"] = torch.cat(words)
        return {**state, "reference": self.reference(model)}

    def loss(self, state: dict[str, Any], model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        rows = batch["forget"]
        logits = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits
        logits = logits if logits.dtype == torch.float64 else logits.float()
        terms = []
        for row, number in enumerate(rows["index"].tolist()):
            part = slice(*state["ends"][number : number + 2].tolist())
            positions, probs = (state[name][part].to(logits.device) for name in ("positions", "probs"))
            words = state["words"][part].to(logits.device) if "words" in state else None
            terms.append(causal_whp_loss(logits[row, positions], probs, words))
        return {"forget": torch.stack(terms).mean(), **self.retain_term(state["reference"], model, batch)}
