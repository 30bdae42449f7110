"""Unlearning from logit difference (Ji, Liu, Zhang, Liu, Kompella, Liu and Chang, 2024, arXiv 2406.08607).

To make a model forget without forgetting the rest is hard; to teach a small one the forget rows *and nothing else* is
easy. ULD trains such an assistant, cut out of the model itself, with the two objectives reversed,

    min CE(f) + lambda KL(uniform || assistant) on r,

and takes its logits away from the model's, which is never updated:

    l = l_target - alpha l_assistant        on the words that the target finds likely.

On the retain rows the assistant is uniform, and so changes nothing there.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.errors import UserError
from palimpsest.forget.assistant import make_assistant, merge_lora
from palimpsest.forget.baselines import token_mean
from palimpsest.forget.logits import TwoModelLM, filtered_difference
from palimpsest.forget.procedure import ForgetData, Pair, encode_pairs, unlearn
from palimpsest.models.blocks import blocks
from palimpsest.models.score import Encoded, cross_entropy
from palimpsest.train.method import Intervention
from palimpsest.train.ranges import Above, AtLeast, AtMost, Below


def uld_logits(
    target: Float[Tensor, "... vocabulary"],
    assistant: Float[Tensor, "... vocabulary"],
    weight: float = 0.8,
    top: float = 0.01,
    *,
    generating: bool = False,
) -> Float[Tensor, "... vocabulary"]:
    """l_target - weight l_assistant on the words that the target finds likely; see
    `palimpsest.forget.logits.filtered_difference`.

    The others keep the target's logit when answers are scored, and get -1000 when text is generated, as in the authors'
    code: a word must not be said only because the likely ones were pushed below it. An assistant whose logits are all
    equal leaves the odds between likely words as they are; where they are 0, or `top` is 1 and no word is filtered, it
    leaves the whole distribution.

    Args:
        target, assistant: raw logits, not log-probabilities.
        weight: alpha, at least 0; 0 is the target as it is.
        top: share of the vocabulary, and of the largest probability, below which a word is filtered.

    >>> import torch
    >>> uld_logits(torch.tensor([2.0, 1.0]), torch.tensor([5.0, 0.0]), weight=0.8)
    tensor([-2.,  1.])
    """
    if not (weight >= 0 and math.isfinite(weight)):
        raise ValueError(f"weight must be a number of at least 0, got {weight}")
    return filtered_difference(target, assistant, weight, top, filtered="drop" if generating else "keep")


def uniform_kl(
    logits: Float[Tensor, "batch tokens vocabulary"], mask: Int[Tensor, "batch tokens"]
) -> Float[Tensor, ""]:
    """KL(uniform || softmax(logits)) = logsumexp(l) - mean(l) - log V in nats, averaged over each row's tokens where
    `mask` is 1, then over rows.

    >>> import torch
    >>> uniform_kl(torch.full((1, 2, 10), 3.0), torch.ones(1, 2)).abs() < 1e-6
    tensor(True)
    """
    if logits.ndim != 3 or mask.shape != logits.shape[:2]:
        raise ValueError(
            f"expected logits [batch, tokens, vocabulary] and mask [batch, tokens], got {list(logits.shape)} and"
            f" {list(mask.shape)}"
        )
    kl = logits.logsumexp(-1) - logits.mean(-1) - math.log(logits.shape[-1])
    return token_mean(kl, mask.to(kl.dtype))


def assistant_loss(
    assistant: nn.Module,
    forget: dict[str, Tensor],
    retain: dict[str, Tensor] | None = None,
    retain_weight: float = 5.0,
) -> dict[str, Tensor]:
    """The reversed objectives: CE on the answers of the forget rows, and `retain_weight` times the uniform KL at all
    tokens of the retain rows, their prompts included.

    Args:
        forget, retain: batches as `Encoded.batch` makes them.
    """
    terms = {"forget": cross_entropy(assistant, forget)}
    if retain is not None and retain_weight:
        inputs = {"input_ids": retain["input_ids"], "attention_mask": retain["attention_mask"]}
        terms["retain"] = retain_weight * uniform_kl(assistant(**inputs).logits, retain["attention_mask"])
    return terms


class UnlearnedLM(TwoModelLM):
    """The target with the assistant's knowledge taken away: `forward` and `generate` as transformers' models have them,
    without gradients. What counts as generating: see `TwoModelLM`.

    Attributes:
        weight, top: see `uld_logits`.
    """

    def __init__(self, target: PreTrainedModel, assistant: PreTrainedModel, weight: float = 0.8, top: float = 0.01):
        super().__init__(target, assistant)
        self.weight, self.top = weight, top

    def combine(self, target: Tensor, assistant: Tensor, generating: bool) -> Tensor:
        return uld_logits(target, assistant, self.weight, self.top, generating=generating)


@dataclass(frozen=True)
class ULD(Intervention):
    """Takes away what a small assistant, trained on the forget rows and made uniform on the rest, has learned.

    Attributes:
        n_layers: blocks of the assistant, the first ones of the model (all, where it has fewer). The authors take 8 of
            32; in small models take half.
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
        cached = "past_key_values" in inspect.signature(model.forward).parameters
        # Rows that have ended are dropped from both models' cache, which a running state does not offer.
        if not cached or not all(
            hasattr(layer, "batch_select_indices") for layer in DynamicCache(config=model.config).layers
        ):
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
