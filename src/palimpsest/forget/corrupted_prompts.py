"""Prompts whose embeddings are corrupted on their way into a model: how, and the hooks that do it to those that a gate
flags. What `palimpsest.forget.eco_prompts` installs.
"""

from __future__ import annotations

import zlib
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.forget.prompt_gate import (
    PromptGate,
    flagged,
    prompt_positions,
)

Mode = Literal[
    "rand_noise_first_n",
    "rand_noise_top_k",
    "zero_out_top_k",
    "flip_sign_first_n",
    "flip_sign_top_k",
    "reverse_order",
    "shuffle",
]


MODES = get_args(Mode)


NOISE = ("rand_noise_first_n", "rand_noise_top_k")  # the modes that have a strength


def corrupt(
    emb: Float[Tensor, "batch tokens d"],
    mask: Bool[Tensor, "batch tokens"],
    strength: float,
    mode: Mode = "rand_noise_first_n",
    *,
    n: int = 1,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch tokens d"]:
    """Embeddings, corrupted where `mask` is set and untouched elsewhere.

    Args:
        emb: input embeddings.
        mask: the tokens to corrupt, usually `corruptible` of the prompt.
        strength: standard deviation of the noise; the other modes have none.
        mode: "rand_noise_first_n" adds N(0, strength^2) to the first n dimensions, "rand_noise_top_k" to each token's n
            dimensions of largest absolute value; "zero_out_top_k" and "flip_sign_top_k" set those to 0 or change their
            sign, "flip_sign_first_n" changes the sign of the first n; "reverse_order" and "shuffle" put each row's
            masked tokens in another order.
        n: how many dimensions.
        generator: of the noise and of the order, on the CPU.

    Raises:
        ValueError: if shapes do not fit, the mode is unknown, n is not in 1 .. d, or the strength is negative.

    >>> corrupt(torch.tensor([[[3.0, -5.0], [1.0, 2.0]]]), torch.tensor([[True, False]]), 0.0, "zero_out_top_k")
    tensor([[[3., 0.],
             [1., 2.]]])
    """
    if emb.ndim != 3 or mask.shape != emb.shape[:2]:
        raise ValueError(f"emb [batch, tokens, d] and mask [batch, tokens]: got {list(emb.shape)}, {list(mask.shape)}")
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if not 1 <= n <= emb.shape[-1]:
        raise ValueError(f"n must lie between 1 and the {emb.shape[-1]} dimensions, got {n}")
    if not strength >= 0:
        raise ValueError(f"strength must be at least 0, got {strength}")
    if mode in ("reverse_order", "shuffle"):
        out = emb.clone()
        for row, places in enumerate(m.nonzero()[:, 0] for m in mask):
            order = torch.randperm(len(places), generator=generator).to(places.device)
            out[row, places] = emb[row, places.flip(0) if mode == "reverse_order" else places[order]]
        return out
    if mode.endswith("first_n"):
        dims = torch.arange(n, device=emb.device).expand(*emb.shape[:2], n)
    else:
        dims = emb.abs().topk(n, dim=-1).indices
    old = emb.gather(-1, dims)
    if mode in NOISE:
        new = old + strength * torch.randn(old.shape, generator=generator).to(old)
    else:
        new = torch.zeros_like(old) if mode == "zero_out_top_k" else -old
    return torch.where(mask[..., None], emb.scatter(-1, dims, new), emb)


def corruptible(tokens: Bool[Tensor, "batch tokens"]) -> Bool[Tensor, "batch tokens"]:
    """All of each row's tokens but the last, which predicts what is written next.

    >>> corruptible(torch.tensor([[True, True, True, False]])).tolist()
    [[True, True, False, False]]
    """
    after = tokens.flip(1).cumsum(1).flip(1)  # how many of them there are from here on
    return tokens & (after > 1)


class EcoLM:
    """Hooks on a model: flagged prompts are corrupted on their way in, everything else passes bit by bit as it was.

    The decision is made where a prompt is read: in the first call of a generation (later ones, which bring a cache, are
    left alone) and, where answers are scored, from `prompt_mask`, with `answer_mask` where what follows is corrupted
    too. A prompt gets the same noise every time, so that scores of several answers can be compared and nobody averages
    it away. Generation needs its cache: without it, what
    has been written would count as prompt.

    Args:
        lm: the model; it is hooked in place, and found again as `model.eco`.
        gate: see `PromptGate`.
        strength, mode, n: see `corrupt`.
        names: token ids; where given, only these tokens are corrupted.
        seed: of the noise.
        answers: where answers are scored, whether their tokens are corrupted too, all of the row but its last.

    Raises:
        ValueError: if the model is hooked already.
    """

    def __init__(
        self,
        lm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        gate: PromptGate,
        strength: float,
        mode: Mode = "rand_noise_first_n",
        n: int = 1,
        *,
        names: Int[Tensor, "names"] | None = None,
        seed: int = 0,
        answers: bool = True,
    ) -> None:
        if hasattr(lm, "eco"):
            raise ValueError("the model has ECO's hooks already: take them off with model.eco.remove()")
        self.lm, self.tokenizer, self.gate = lm, tokenizer, gate
        self.strength, self.mode, self.n, self.names, self.seed = strength, mode, n, names, seed
        self.answers = answers
        self._mask: Tensor | None = None
        self._prompt: Tensor | None = None
        self._prompts: list[bytes] = []
        # Bound methods: a deep copy of the model gets hooks of its own.
        self._handles = [
            lm.register_forward_pre_hook(self._decide, with_kwargs=True),
            lm.get_input_embeddings().register_forward_hook(self._corrupt),
        ]
        lm.takes_prompt_mask, lm.eco = True, self

    def remove(self) -> PreTrainedModel:
        """Takes the hooks off; gives the model as it was."""
        for handle in self._handles:
            handle.remove()
        del self.lm.takes_prompt_mask, self.lm.eco
        return self.lm

    def _decide(self, module: nn.Module, args: tuple, inputs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        inputs = dict(inputs)
        prompt_mask, answer_mask = inputs.pop("prompt_mask", None), inputs.pop("answer_mask", None)
        cache = inputs.get("past_key_values")
        self._mask = None
        if cache is None or cache.get_seq_length() == 0:
            ids = args[0] if args else inputs.get("input_ids")
            if ids is None:
                raise ValueError("ECO reads prompts from their token ids: give input_ids, not inputs_embeds")
            prompt = prompt_positions(ids, args[1] if len(args) > 1 else inputs.get("attention_mask"), prompt_mask)
            flags = flagged(self.gate, self.tokenizer, ids, prompt)
            row = prompt | answer_mask.bool() if self.answers and answer_mask is not None else prompt
            mask = corruptible(row) & flags[:, None]
            if self.names is not None:
                mask &= torch.isin(ids, self.names.to(ids.device))
            if mask.any():
                self._mask, self._prompt = mask, prompt
                self._prompts = [ids[row][prompt[row]].cpu().numpy().tobytes() for row in range(len(ids))]
        return args, inputs

    def _corrupt(self, module: nn.Module, args: tuple, emb: Tensor) -> Tensor | None:
        mask, self._mask = self._mask, None
        if mask is None:
            return None
        emb = emb.clone()
        for row in mask.any(1).nonzero()[:, 0].tolist():
            generator = torch.Generator().manual_seed(zlib.crc32(self._prompts[row], self.seed))
            parts = [mask[row]]
            if self.mode in NOISE:  # drawn for the prompt first: its noise depends on no answer
                parts = [mask[row] & self._prompt[row], mask[row] & ~self._prompt[row]]
            for part in parts:
                tokens = emb[row, part][None]
                everywhere = torch.ones(tokens.shape[:2], dtype=torch.bool, device=emb.device)
                options = {"n": self.n, "generator": generator}
                emb[row, part] = corrupt(tokens, everywhere, self.strength, self.mode, **options)[0]
        return emb
