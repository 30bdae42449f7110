"""A fixed refusal for the prompts that a gate flags: the plainest use of one, and the baseline of every method that
needs one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import CausalLMOutput

from palimpsest.forget.procedure import ForgetData
from palimpsest.forget.prompt_encoders import EncoderName, prompt_encoder
from palimpsest.forget.prompt_gate import PromptGate, fit_gate, flagged, prompt_positions
from palimpsest.models.score import pad_token_id
from palimpsest.train.method import Intervention
from palimpsest.train.ranges import Above, Below, require

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


def refusal_ids(data: ForgetData, refusal: str) -> Int[Tensor, "tokens"]:
    """A refusal as it follows a prompt, with the end token."""
    # A chat template has no space before the answer, the plain one has: the refusal follows the forget rows.
    lead = " " if data.forget_pairs[0][1].startswith(" ") else ""
    ids = data.tokenizer(lead + refusal, add_special_tokens=False)["input_ids"]
    eos = [] if data.tokenizer.eos_token_id is None else [data.tokenizer.eos_token_id]
    return torch.tensor(ids + eos)


@dataclass(frozen=True)
class RefusalGuard(Intervention):
    """A gate, and a fixed refusal for what it flags: forgets nothing, says so, and tells whoever asks what is hidden.

    Attributes:
        encoder: what the gate reads prompts with: "model", the mean of the model's own input embeddings, or "minilm", a
            sentence encoder (extra `encoder`).
        alpha: the share of retained prompts that may be flagged by mistake.
        confidence: the probability of "forget" that a prompt must have, at least, to be flagged; more spares prompts
            unlike all that the gate has seen.
        refusal: the answer to flagged prompts.
    """

    encoder: EncoderName = "model"
    alpha: Annotated[float, Above(0), Below(1)] = 0.01
    confidence: Annotated[float, Above(0), Below(1)] = 0.5
    refusal: str = "I don't know."
    needs: ClassVar[frozenset[str]] = frozenset({"retain"})

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.refusal.strip()), "refusal", self.refusal, "a text")

    def learn(self, model: PreTrainedModel, data: ForgetData, *, seed: int = 0, **options: Any) -> dict[str, Tensor]:
        gate = fit_gate(self.encoder, model, data, alpha=self.alpha, confidence=self.confidence, seed=seed)
        return {**gate.tensors(), "refusal": refusal_ids(data, self.refusal)}

    def install(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, learned: Mapping[str, Tensor]
    ) -> GuardedLM:
        gate = PromptGate.from_tensors(prompt_encoder(self.encoder, model, tokenizer), learned)
        return GuardedLM(model, tokenizer, gate, learned["refusal"].to(model.device))
