"""The hooks that corrupt a flagged prompt on its way into a model: what `palimpsest.forget.eco_prompts` installs."""

from __future__ import annotations

import zlib
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.forget.corrupted_prompts import NOISE, Mode, corrupt, corruptible
from palimpsest.forget.gated_prompts import flagged, prompt_positions
from palimpsest.forget.prompt_gate import PromptGate


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
