"""A frozen language model behind a pool of prompts: which prompts an input is given, its own embedding says.

Sources: Wang et al. (2022), Learning to prompt for continual learning, arXiv 2112.08654; for image and instruction
Zheng, Ma, Liu, Wu and Feng (2024), arXiv 2401.09181.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import CausalLMOutput


class PromptPool(nn.Module):
    """Prompts, and keys by which they are chosen.

    Args:
        size: M, how many.
        length: L, tokens a prompt.
        dim: d, of the model's embeddings.
        parts: what the query is a mean over, each by itself, one after the other: 2 for image and instruction.
        top_k: how many are chosen.
    """

    def __init__(self, size: int, length: int, dim: int, parts: int = 1, top_k: int = 3, seed: int = 0) -> None:
        super().__init__()
        if not 1 <= top_k <= size:
            raise ValueError(f"top_k must lie between 1 and the pool's size, {size}, got {top_k}")
        draws, self.top_k = torch.Generator().manual_seed(seed), top_k
        self.keys = nn.Parameter(torch.randn(size, parts * dim, generator=draws))
        self.prompts = nn.Parameter(0.02 * torch.randn(size, length, dim, generator=draws))

    def forward(
        self, query: Float[Tensor, "batch q"]
    ) -> tuple[Float[Tensor, "batch tokens d"], Float[Tensor, ""], Int[Tensor, "batch k"]]:
        """The chosen prompts one after the other, nearest first; 1 - the mean cosine to their keys; which they are."""
        cosine = F.normalize(query, dim=-1) @ F.normalize(self.keys, dim=-1).T
        nearest, chosen = cosine.topk(self.top_k, dim=-1)
        return self.prompts[chosen].flatten(1, 2), 1 - nearest.mean(), chosen


class PromptedLM(nn.Module):
    """A frozen causal language model behind a pool of prompts; it takes token ids and gives their logits.

    Args:
        lm: the model.
        pool: its prompts.
        image_tokens: token ids from this one on are an image's: their mean is a query's first part and that of the
            instruction its second. None for text alone.
    """

    takes_prompt_mask = True

    def __init__(self, lm: nn.Module, pool: PromptPool, image_tokens: int | None = None) -> None:
        super().__init__()
        wanted = lm.get_input_embeddings().embedding_dim * (1 if image_tokens is None else 2)
        if pool.keys.shape[1] != wanted:
            raise ValueError(
                f"keys must have {wanted} values, got {pool.keys.shape[1]}: give the pool its dim and parts"
            )
        self.lm, self.pool, self.image_tokens, self.key_loss = lm.requires_grad_(False), pool, image_tokens, None
        self.config = lm.config

    def get_input_embeddings(self) -> nn.Module:
        return self.lm.get_input_embeddings()

    def query(
        self, input_ids: Int[Tensor, "batch tokens"], asked: Bool[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch q"]:
        """The mean embedding of what is asked, of each part by itself; 0 for a part that is not there."""
        embedded = self.get_input_embeddings()(input_ids)
        image = input_ids >= (self.image_tokens or 0)
        parts = [asked] if self.image_tokens is None else [asked & image, asked & ~image]
        means = [(embedded * part[..., None]).sum(1) / part.sum(1, keepdim=True).clamp(min=1) for part in parts]
        return torch.cat(means, 1)

    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        attention_mask: Tensor | None = None,
        prompt_mask: Bool[Tensor, "batch tokens"] | None = None,
        **_: Any,
    ) -> CausalLMOutput:
        asked = torch.ones_like(input_ids, dtype=torch.bool) if prompt_mask is None else prompt_mask
        chosen, self.key_loss, _which = self.pool(self.query(input_ids, asked))
        embedded = torch.cat([chosen, self.get_input_embeddings()(input_ids)], 1)
        logits = self.lm(inputs_embeds=embedded, use_cache=False).logits
        return CausalLMOutput(logits=logits[:, chosen.shape[1] :])
