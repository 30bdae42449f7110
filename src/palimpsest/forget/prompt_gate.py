"""Which prompts ask for what is to be forgotten: a classifier before the model.

A gate is a logistic regression on sentence embeddings of prompts, forget against retain. Its threshold is calibrated on
retain prompts that it was not fitted on (split-conformal prediction): whatever the classifier is worth, at most a share
alpha of prompts like the retained ones are flagged. Of prompts unlike any of its rows a gate knows nothing: a least
confidence keeps those unflagged about which it is not sure.

    flag x  iff  log-odds(forget | x) > max(q, logit(confidence)),
    q the ceil((n + 1)(1 - alpha))-th smallest log-odds of n retain prompts

The plainest use of it, a fixed refusal, is in `palimpsest.forget.refusal_guard`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from palimpsest.errors import UserError
from palimpsest.forget.prompt_encoders import Encoder, minilm
from palimpsest.lazy import front_door

REMEMBERED = 2**14  # prompts whose log-odds a gate keeps, because answers are scored several to a prompt


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

        >>> from palimpsest.forget.prompt_encoders import MeanEmbedding
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


_MOVED = {
    "forget.gated_prompts": ("fit_gate", "flagged", "prompt_positions"),
    "forget.guarded_model": ("CERTAIN", "GuardedLM"),
    "forget.prompt_encoders": ("EncoderName", "MeanEmbedding", "prompt_encoder"),
    "forget.refusal_guard": ("RefusalGuard", "refusal_ids"),
}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
