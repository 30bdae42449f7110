"""A language model behind a gate: flagged prompts get a fixed answer, the others go through it."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import CausalLMOutput

from palimpsest.forget.gated_prompts import flagged, prompt_positions
from palimpsest.models.score import pad_token_id

CERTAIN = 30.0  # logit of a forced token beside zeros: the others keep a probability of about 1e-13, and a finite score


class GuardedLM(nn.Module):
    """A language model that answers flagged prompts by a fixed text; the others go through it untouched.

    `forward` scores answers (the fixed text is certain, whatever answer follows the prompt), `generate` writes them.
    """

    takes_prompt_mask = True
    reads_answers = False  # whether a row may also be refused for what is written after its prompt

    def __init__(
        self, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, gate: Any, refusal: Int[Tensor, "tokens"]
    ) -> None:
        super().__init__()
        self.lm, self.tokenizer, self.gate = lm, tokenizer, gate
        self.register_buffer("refusal", refusal.long(), persistent=False)

    def flags(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        positions: Bool[Tensor, "batch tokens"],
        written: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Bool[Tensor, "batch"]:
        """Which rows are refused, by their prompts at `positions`; `written` is where their answers are, if known."""
        return flagged(self.gate, self.tokenizer, input_ids, positions)

    @property
    def config(self) -> Any:
        return self.lm.config

    @property
    def generation_config(self) -> Any:
        return self.lm.generation_config

    @property
    def device(self) -> torch.device:
        return self.lm.device

    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        attention_mask: Tensor | None = None,
        prompt_mask: Tensor | None = None,
        answer_mask: Tensor | None = None,
        **inputs: Any,
    ) -> CausalLMOutput:
        """As the model's own, for whole rows (no cache); a flagged row's logits name the refusal's tokens one by one
        after its prompt, then its last for ever.

        Raises:
            ValueError: where a cache of earlier tokens is given: `generate` knows what came before, `forward` does not.
        """
        if inputs.get("past_key_values") is not None:
            raise ValueError("a guarded model reads whole rows: leave past_key_values out, or call generate")
        keep = inputs.pop("logits_to_keep", 0)
        logits = self.lm(input_ids=input_ids, attention_mask=attention_mask, **inputs).logits
        positions = prompt_positions(input_ids, attention_mask, prompt_mask)
        for row in self.flags(input_ids, positions, answer_mask).nonzero()[:, 0].tolist():
            end = int(positions[row].nonzero()[-1])
            step = (torch.arange(logits.shape[1], device=logits.device) - end).clamp(0, len(self.refusal) - 1)
            forced = CERTAIN * F.one_hot(self.refusal[step], logits.shape[-1]).to(logits)
            logits = torch.cat([logits[:row], forced[None], logits[row + 1 :]])
        return CausalLMOutput(logits=logits[:, -keep:] if keep else logits)

    @torch.no_grad()
    def generate(
        self, input_ids: Int[Tensor, "batch tokens"], attention_mask: Tensor | None = None, **options: Any
    ) -> Int[Tensor, "batch longer"]:
        """As transformers' `generate`, which the rows that are not flagged go to; gives token ids, prompt included.

        Raises:
            ValueError: where several sequences a prompt, or more than token ids, are asked for.
        """
        if options.get("return_dict_in_generate") or options.get("num_return_sequences", 1) != 1:
            raise ValueError("a guarded model generates one sequence of token ids a prompt: drop the other options")
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        positions = prompt_positions(input_ids, attention_mask)
        flags = self.flags(input_ids, positions)
        room = options.get("max_new_tokens") or options.get("max_length", 2**31) - input_ids.shape[1]
        written: dict[int, Tensor] = {int(row): self.refusal[: max(0, room)] for row in flags.nonzero()[:, 0]}
        others = (~flags).nonzero()[:, 0]
        if len(others):
            out = self.lm.generate(input_ids[others], attention_mask=attention_mask[others], **options)
            new = out[:, input_ids.shape[1] :]
            late = torch.zeros(len(out), dtype=torch.bool)
            if self.reads_answers:
                late = self.flags(
                    out,
                    F.pad(positions[others], (0, new.shape[1]), value=False),
                    F.pad(self._before_end(new), (input_ids.shape[1], 0), value=False),
                )
            for row, ids, refused in zip(others.tolist(), new, late.tolist(), strict=True):
                written[row] = self.refusal[: max(0, room)] if refused else ids
        pad = options.get("pad_token_id")
        new = nn.utils.rnn.pad_sequence(
            [written[row] for row in range(len(input_ids))],
            batch_first=True,
            padding_value=pad_token_id(self.tokenizer) if pad is None else pad,
        )
        return torch.cat([input_ids, new], dim=1)

    def _before_end(self, new: Int[Tensor, "batch tokens"]) -> Bool[Tensor, "batch tokens"]:
        """What was written, up to the end token and with it."""
        eos = self.lm.generation_config.eos_token_id
        ends = torch.isin(new, torch.tensor([] if eos is None else eos, dtype=new.dtype, device=new.device))
        return ends.cumsum(1) - ends.long() == 0
