"""The box in which the keys of a skill lie, and a model that refuses what falls into it: see
`palimpsest.forget.skill_unlearning`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.forget.mirrored_neurons import LEAST
from palimpsest.forget.refusal_guard import GuardedLM
from palimpsest.models.blocks import blocks, mlp_output
from palimpsest.models.hooks import activations
from palimpsest.models.score import Encoded, pad_token_id


@dataclass(frozen=True)
class KeySpace:
    """A box around keys.

    Attributes:
        mean, std: of the keys.
        radius: k, the largest distance of a key from the mean in any dimension, in standard deviations.
    """

    mean: Float[Tensor, "d"]
    std: Float[Tensor, "d"]
    radius: float

    @classmethod
    def fit(cls, keys: Float[Tensor, "prompts d"]) -> KeySpace:
        """The least box that holds all keys.

        Raises:
            ValueError: if there are no keys.

        >>> space = KeySpace.fit(torch.tensor([[0.0, 1.0], [2.0, 5.0]]))
        >>> space.radius, space.holds(torch.tensor([[1.0, 3.0], [2.0, 5.5]])).tolist()
        (1.0, [True, False])
        """
        if keys.ndim != 2 or len(keys) == 0:
            raise ValueError(f"keys must be [prompts, d] with at least one, got {list(keys.shape)}")
        mean, std = keys.mean(0), keys.std(0, correction=0).clamp(min=LEAST)
        return cls(mean, std, float(((keys - mean).abs() / std).max()))

    def holds(self, keys: Float[Tensor, "prompts d"], scale: float = 1.0) -> Bool[Tensor, "prompts"]:
        """Whether each key lies in the box, widened by `scale`."""
        # A hair more: the keys on the box's sides must not fall out by rounding.
        return ((keys - self.mean).abs() <= scale * self.radius * (1 + 1e-5) * self.std).all(-1)


def prompt_keys(
    model: nn.Module, prompts: Sequence[Sequence[int]], *, pad_id: int, batch_size: int = 64
) -> Float[Tensor, "layers prompts d"]:
    """The key of each prompt in each block: what its MLP's output matrix reads at the prompt's last token.

    Args:
        prompts: token ids, without padding.

    Raises:
        ValueError: if a prompt has no tokens.
    """
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise ValueError("every prompt needs at least one token")
    modules = {str(i): mlp_output(block) for i, block in enumerate(blocks(model))}
    rows, found = Encoded([list(prompt) for prompt in prompts], [0] * len(prompts)), []
    for batch, seen in activations(model, rows, modules, "input", pad_id=pad_id, batch_size=batch_size):
        last = batch["attention_mask"].sum(1) - 1
        each = torch.arange(len(last), device=last.device)
        found.append(torch.stack([seen[name][each, last].float() for name in modules]))
    return torch.cat(found, dim=1)


class KeyGuardedLM(GuardedLM):
    """A model that answers by a refusal where a key lies in the box: the prompt's, or one at a token of the answer that
    has a token after it. `gate` is (layer, `KeySpace`, scale).

    Args:
        reads_answers: whether the answer's keys count.
    """

    def __init__(
        self,
        lm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        gate: tuple[int, KeySpace, float],
        refusal: Int[Tensor, "tokens"],
        *,
        reads_answers: bool = True,
    ) -> None:
        super().__init__(lm, tokenizer, gate, refusal)
        self.reads_answers = reads_answers

    def flags(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        positions: Bool[Tensor, "batch tokens"],
        written: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Bool[Tensor, "batch"]:
        layer, space, scale = self.gate
        flags = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        kept = positions.any(1).nonzero()[:, 0].tolist()
        if not kept:
            return flags
        prompts = [input_ids[row][positions[row]].tolist() for row in kept]
        # The last token of an answer is never read: nothing is written after it.
        answers = [[] for _ in kept]
        if self.reads_answers and written is not None:
            answers = [input_ids[row][written[row].bool()].tolist()[:-1] for row in kept]
        rows = Encoded([a + b for a, b in zip(prompts, answers, strict=True)], [len(prompt) for prompt in prompts])
        module = {"key": mlp_output(blocks(self.lm)[layer])}
        found = []
        for batch, seen in activations(self.lm, rows, module, "input", pad_id=pad_token_id(self.tokenizer)):
            held = space.holds(seen["key"].float().flatten(0, 1), scale).view(batch["input_ids"].shape)
            found += list(held & batch["attention_mask"].bool())
        flags[kept] = torch.stack(
            [held[len(prompt) - 1 :].any() for held, prompt in zip(found, prompts, strict=True)]
        ).to(flags.device)
        return flags
