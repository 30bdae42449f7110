"""Forgetting by arithmetic on next-token logits: what a second model prefers is taken away from the first.

    reinforced_difference   v_base - alpha relu(v_reinforced - v_base)     a model trained further on what is to be
                                                                           forgotten shows which words belong to it
    filtered_difference     l_target - weight l_assistant                  where the target finds the word likely at all

`TwoModelLM` is the model that speaks so: both in one, with transformers' `forward` and `generate`.

Sources: Eldan and Russinovich 2023 (2310.02238) for the first, Ji et al. 2024 (2406.08607) for the second.
"""

from __future__ import annotations

import inspect
import math
from copy import deepcopy
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

FILTERED = -1000.0  # the logit of a word that must not be generated: finite, so that no arithmetic on it gives NaN


def reinforced_difference(
    base: Float[Tensor, "... vocabulary"], reinforced: Float[Tensor, "... vocabulary"], alpha: float = 5.0
) -> Float[Tensor, "... vocabulary"]:
    """base - alpha relu(reinforced - base): lowers the words that the reinforced model likes more, leaves the others.

    Args:
        base: logits of the model as it is.
        reinforced: logits of the same model trained further on the rows to forget.
        alpha: how strongly, at least 0; 5 in the paper.

    Raises:
        ValueError: if the shapes differ, or `alpha` is negative.

    >>> reinforced_difference(torch.tensor([1.0, 1.0]), torch.tensor([3.0, 0.0]), alpha=5.0)
    tensor([-9.,  1.])
    """
    _check_shapes(base, reinforced)
    if not (alpha >= 0 and math.isfinite(alpha)):
        raise ValueError(f"alpha must be a number of at least 0, got {alpha}")
    return base - alpha * torch.relu(reinforced - base)


def likely_words(logits: Float[Tensor, "... vocabulary"], top: float) -> Bool[Tensor, "... vocabulary"]:
    """Which words a model finds likely: log p >= min(max log p + log top, log p of the ceil(top V)-th word).

    So at least ceil(top V) words, and beyond them all whose probability is at least `top` times the largest one; with
    top = 0 or 1 all words.

    Raises:
        ValueError: if `top` is not in [0, 1].

    >>> likely_words(torch.tensor([0.5, 0.3, 0.15, 0.05]).log(), top=0.25)
    tensor([ True,  True,  True, False])
    """
    if not 0 <= top <= 1:
        raise ValueError(f"top must be in [0, 1], got {top}")
    if top == 0:
        return torch.ones_like(logits, dtype=torch.bool)
    # log p is the logit minus a number that all words share, which drops out of the comparison. The product is
    # rounded before the ceiling: 0.07 * 100 is a little more than 7.
    count = max(1, math.ceil(round(top * logits.shape[-1], 6)))
    highest = logits.topk(count, dim=-1).values
    return logits >= torch.minimum(highest[..., :1] + math.log(top), highest[..., -1:])


def filtered_difference(
    target: Float[Tensor, "... vocabulary"],
    assistant: Float[Tensor, "... vocabulary"],
    weight: float = 0.8,
    top: float = 0.01,
    filtered: Literal["keep", "drop"] = "keep",
) -> Float[Tensor, "... vocabulary"]:
    """target - weight * assistant on the words that the target finds likely (`likely_words`).

    Both are raw logits. Where the assistant's are all equal, every likely word is shifted alike.

    Args:
        target, assistant: logits over the same vocabulary.
        weight: how much of the assistant is taken away.
        top: which words are likely.
        filtered: what becomes of the other words: "keep" leaves them the target's logit (the assistant's is taken to
            be 0), "drop" gives them -1000, so that they are never generated.

    Raises:
        ValueError: if the shapes differ, `top` is not in [0, 1], or `filtered` is neither.

    >>> target, assistant = torch.tensor([2.0, 1.0, -9.0]), torch.tensor([3.0, 0.0, -5.0])
    >>> filtered_difference(target, assistant, weight=1.0, top=0.1)
    tensor([-1.,  1., -9.])
    >>> filtered_difference(target, assistant, weight=1.0, top=0.1, filtered="drop")
    tensor([   -1.,     1., -1000.])
    """
    _check_shapes(target, assistant)
    if filtered not in ("keep", "drop"):
        raise ValueError(f"filtered must be 'keep' or 'drop', got {filtered!r}")
    kept = likely_words(target, top)
    other = target if filtered == "keep" else torch.full_like(target, FILTERED)
    return torch.where(kept, target - weight * assistant, other)


class PairedCache(DynamicCache):
    """Keys and values of both models in one cache, whose layers are the target's followed by the assistant's: what
    generation does to its rows or its length (beams, rows that have ended) happens to both alike."""

    def __init__(self, target: PreTrainedModel, assistant: PreTrainedModel):
        super().__init__()
        self.parts = DynamicCache(config=target.config), DynamicCache(config=assistant.config)
        self.layers = [layer for part in self.parts for layer in part.layers]


def can_share_cache(model: PreTrainedModel) -> bool:
    """Whether a model keeps keys and values alone: a `PairedCache` drops rows that have ended from both models, which a
    running state does not offer."""
    cached = "past_key_values" in inspect.signature(model.forward).parameters
    return cached and all(hasattr(layer, "batch_select_indices") for layer in DynamicCache(config=model.config).layers)


class TwoModelLM(PreTrainedModel, GenerationMixin):
    """Two models that read the same tokens and speak as one: `forward` and `generate` as transformers' models have
    them, without gradients. A subclass says with `combine(target, assistant, generating)` what their logits make.

    Words that the target finds unlikely may be treated unlike when answers are scored and when text is generated. A
    call counts as generation if `generating` says so, which `generate` does, or, where `generating` is
    None, if it uses the cache (`use_cache=True`), as a decoding loop does and scoring does not.

    Attributes:
        target, assistant: the two models; configuration and device are the target's.

    Raises:
        ValueError: if their vocabularies differ in size.
    """

    def __init__(self, target: PreTrainedModel, assistant: PreTrainedModel):
        sizes = [model.config.get_text_config().vocab_size for model in (target, assistant)]
        if sizes[0] != sizes[1]:
            raise ValueError(f"both models must have the same vocabulary, got {sizes[0]} and {sizes[1]} tokens")
        # This module has no attention of its own, and every model may have the eager one.
        config = deepcopy(target.config)
        config._attn_implementation = "eager"
        config._experts_implementation = "eager"
        super().__init__(config)
        self.target, self.assistant = target, assistant
        self.generation_config = target.generation_config
        self.eval()

    def get_input_embeddings(self) -> nn.Module:
        return self.target.get_input_embeddings()

    def get_output_embeddings(self) -> None:
        """No one layer gives the logits."""

    def combine(
        self,
        target: Float[Tensor, "batch tokens vocabulary"],
        assistant: Float[Tensor, "batch tokens vocabulary"],
        generating: bool,
    ) -> Float[Tensor, "batch tokens vocabulary"]:
        """The logits of both models together."""
        raise NotImplementedError(f"{type(self).__name__} does not say how to combine the logits")

    @torch.no_grad()
    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"] | None = None,
        attention_mask: Int[Tensor, "batch all"] | None = None,
        position_ids: Int[Tensor, "batch tokens"] | None = None,
        past_key_values: PairedCache | None = None,
        labels: Int[Tensor, "batch tokens"] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        generating: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """As transformers' causal models; `labels` give the mean loss over the labelled tokens.

        Raises:
            ValueError: if `past_key_values` is the cache of some other model.
        """
        caches = (None, None)
        if use_cache or past_key_values is not None:
            if not isinstance(past_key_values, PairedCache):
                if past_key_values is not None and past_key_values.get_seq_length():
                    raise ValueError("past_key_values holds one model's keys and values: pass what this model returned")
                past_key_values = PairedCache(self.target, self.assistant)
            caches = past_key_values.parts
        target, assistant = (
            model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=cache is not None,
                logits_to_keep=logits_to_keep,
                **{**kwargs, "return_dict": True},
            )
            for model, cache in zip((self.target, self.assistant), caches, strict=True)
        )
        generating = bool(use_cache) if generating is None else generating
        logits = self.combine(target.logits, assistant.logits.to(target.logits.device), generating)
        loss = None
        if labels is not None:
            following = labels[:, -logits.shape[1] :][:, 1:]
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), following.flatten())
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=past_key_values, hidden_states=target.hidden_states
        )

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers' `generate`; every call counts as generation, with a cache or without."""
        return super().generate(*args, **{"generating": True, **kwargs})


def _check_shapes(one: Tensor, other: Tensor) -> None:
    if one.shape != other.shape or one.ndim == 0:
        raise ValueError(
            f"logits must be [..., vocabulary], the same for both, got {list(one.shape)} and {list(other.shape)}"
        )
