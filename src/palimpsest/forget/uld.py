"""Unlearning from logit difference (Ji, Liu, Zhang, Liu, Kompella, Liu and Chang, 2024, arXiv 2406.08607).

To make a model forget without forgetting the rest is hard; to teach a small one the forget rows *and nothing else* is
easy. ULD trains such an assistant, cut out of the model itself, with the two objectives reversed,

    min CE(f) + lambda KL(uniform || assistant) on r,

and takes its logits away from the model's, which is never updated:

    l = l_target - alpha l_assistant        on the words that the target finds likely.

On the retain rows the assistant is uniform, and so changes nothing there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.errors import UserError
from palimpsest.forget.assistant import make_assistant, merge_lora
from palimpsest.forget.logits import can_share_cache
from palimpsest.forget.procedure import ForgetData, Pair, encode_pairs, unlearn
from palimpsest.forget.uld_assistant import assistant_loss
from palimpsest.forget.uld_model import UnlearnedLM
from palimpsest.lazy import front_door
from palimpsest.models.blocks import blocks
from palimpsest.models.score import Encoded
from palimpsest.train.method import Intervention
from palimpsest.train.ranges import Above, AtLeast, AtMost, Below


@dataclass(frozen=True)
class ULD(Intervention):
    """Takes away what a small assistant, trained on the forget rows and made uniform on the rest, has learned.

    Attributes:
        n_layers: blocks of the assistant, the first of the model (or all): 8 of 32 by the authors, in small ones half.
        lora_r: rank of the assistant's LoRA adapters.
        lora_alpha: their scale is lora_alpha / lora_r.
        lora_dropout: dropout before them; the authors' code has 0.05.
        retain_weight: weight of the uniform term; with 0 the assistant is trained on the forget rows alone.
        weight: how much of the assistant's logits is taken away.
        top: words below this share of the vocabulary, and of the largest probability, are left out of the difference.
        mismatch: where no perturbed answers are given, use the forget prompts with the answers of retained rows.
    """

    n_layers: Annotated[int, AtLeast(1)] = 8
    lora_r: Annotated[int, AtLeast(1)] = 16
    lora_alpha: Annotated[float, Above(0)] = 32.0
    lora_dropout: Annotated[float, AtLeast(0), Below(1)] = 0.05
    retain_weight: Annotated[float, AtLeast(0)] = 5.0
    weight: Annotated[float, AtLeast(0)] = 0.8
    top: Annotated[float, AtLeast(0), AtMost(1)] = 0.01
    mismatch: bool = True

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"retain"} if self.retain_weight else ())

    def fits(self, model: nn.Module) -> None:
        blocks(model)
        if hasattr(model, "peft_config"):
            raise UserError("its assistant gets adapters of its own on plain layers: merge the model's adapter first")
        if not can_share_cache(model):
            raise UserError("it keeps a running state, not keys and values alone, and both models share one cache")

    def learn(
        self,
        model: PreTrainedModel,
        data: ForgetData,
        *,
        paraphrases: Sequence[Pair] = (),
        perturbed: Sequence[Pair] = (),
        seed: int = 0,
        **options: Any,
    ) -> dict[str, Tensor]:
        """Trains the assistant; the model is left as it was.

        Rows in the user's format carry neither paraphrases nor wrong answers. Without `paraphrases` the assistant
        learns the forget rows as they are; without `perturbed` one mismatch row for every forget row (its prompt with
        the answer of some retained row) takes their place, unless `mismatch` is False.

        Args:
            paraphrases: further (prompt, answer) wordings of the forget rows, the template applied: they are learned.
            perturbed: forget prompts with wrong answers: they join the retain rows, so that the assistant knows the
                fact, and not merely that the subject was asked about.
            seed: of LoRA and of the order.
            options: as for `palimpsest.forget.unlearn` (lr is 1e-3 by default); `evaluate` gets the assistant.

        Returns:
            The LoRA tensors, all that is needed beside the model.
        """
        assistant = make_assistant(
            model, self.n_layers, self.lora_r, self.lora_alpha, lora_dropout=self.lora_dropout, seed=seed
        )

        def objective(assistant: nn.Module, batch: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
            return assistant_loss(assistant, batch["forget"], batch.get("retain"), self.retain_weight)

        unlearn(assistant, objective, self.rows(data, paraphrases, perturbed), seed=seed, **{"lr": 1e-3, **options})
        return {name: p.detach().cpu() for name, p in assistant.named_parameters() if p.requires_grad}

    def rows(self, data: ForgetData, paraphrases: Sequence[Pair] = (), perturbed: Sequence[Pair] = ()) -> ForgetData:
        """What the assistant is trained on: see `learn`."""

        def joined(rows: Encoded | None, more: Encoded | None) -> Encoded | None:
            if rows is None or more is None:
                return rows
            return Encoded(rows.input_ids + more.input_ids, rows.prompt_lengths + more.prompt_lengths)

        def encoded(pairs: Sequence[Pair]) -> Encoded | None:
            return encode_pairs(data.tokenizer, pairs, max_length=data.max_length, truncate=True) if pairs else None

        wrong = encoded(perturbed)
        if wrong is None and self.mismatch and data.mismatch is not None:
            wrong = data.mismatch.subset(range(len(data.forget)))
        return replace(
            data,
            forget=joined(data.forget, encoded(paraphrases)),
            retain=joined(data.retain, wrong) if self.retain_weight else None,
            refusal=None,
            mismatch=None,
        )

    def install(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, learned: Mapping[str, Tensor]
    ) -> UnlearnedLM:
        """The model with the assistant's knowledge taken away.

        Raises:
            UserError: if `learned` is not an assistant of this model with these settings.
        """
        assistant = make_assistant(model, self.n_layers, self.lora_r, self.lora_alpha)
        lora = {name: p for name, p in assistant.named_parameters() if p.requires_grad}
        if {n: p.shape for n, p in lora.items()} != {n: p.shape for n, p in learned.items()}:
            raise UserError(
                f"the {len(learned)} stored tensors are not those of an assistant of this model with"
                f" {self.n_layers} layers and rank {self.lora_r}: learn again"
            )
        assistant.load_state_dict(dict(learned), strict=False)
        return UnlearnedLM(model, merge_lora(assistant), self.weight, self.top)


_MOVED = {"forget.uld_assistant": ("uniform_kl",), "forget.uld_model": ("uld_logits",)}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
