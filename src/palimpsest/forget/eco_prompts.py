"""ECO, embedding-corrupted prompts (Liu, Wang, Flanigan and Liu, 2024, arXiv 2406.07933).

The model is not changed at all. A gate in front of it flags the prompts that ask for what is to be forgotten
(`palimpsest.forget.prompt_gate`), and the embeddings of a flagged prompt's tokens are corrupted before the first block
reads them,

    e~ = e + s z on the first n dimensions, z ~ N(0, 1)          (or zeroed, flipped, reordered: see `corrupt`)

so that the model answers like one who has not understood whom the question is about. Where a given answer is scored,
the authors' code corrupts its tokens like the prompt's, and so does this one by default: all of the row but its last
token. What a user reads is written after a corrupted prompt alone: `answers=False` scores that. How strong the noise
has to be is the only thing that is learned, offline and without gradients: s is searched for by two-point descent on
the distance between a measure of the corrupted model's answers and the value expected of a model that never saw the
forget rows,

    s <- max(s - lr (score(s + eps) - score(s - eps)) / (2 eps), s_min),        score(s) = |measure(s) - surrogate|.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.forget.corrupted_prompts import NOISE, Mode
from palimpsest.forget.corrupting_hooks import EcoLM
from palimpsest.forget.eco_prompts_measures import forget_measure, nearest_answers
from palimpsest.forget.evaluation import subsample
from palimpsest.forget.gated_prompts import fit_gate
from palimpsest.forget.procedure import ForgetData
from palimpsest.forget.prompt_encoders import EncoderName, prompt_encoder
from palimpsest.forget.prompt_gate import PromptGate
from palimpsest.forget.zeroth_order import zo_search
from palimpsest.lazy import front_door
from palimpsest.train.method import Intervention
from palimpsest.train.ranges import Above, AtLeast, AtMost, Below, require


@dataclass(frozen=True)
class ECO(Intervention):
    """ECO as an intervention: learns the gate and the strength, installs the hooks. No weight ever changes.

    The measure of the search is the mean ROUGE-L recall of the model's own answers to the forget prompts.

    Attributes:
        encoder: what the gate reads prompts with: "model", the mean of the model's own input embeddings, or "minilm", a
            sentence encoder (extra `encoder`).
        alpha: the share of retained prompts that may be flagged by mistake.
        confidence: the probability of "forget" that a prompt must have, at least, to be flagged; the authors take 0.99
            of a large classifier, which spares prompts unlike all it has seen.
        mode: the corruption: noise on the first n or on the largest dimensions, those zeroed or their signs flipped, or
            the tokens in another order.
        n: how many dimensions are corrupted.
        tokens: "prompt" corrupts all its tokens but the last, "names" only those that no retained prompt has.
        answers: where answers are scored, corrupt their tokens too, as the authors' code does: all tokens of prompt and
            answer but the last. Without, a score is that of the answer after a corrupted prompt, which is what a user
            gets to read; probabilities, truth ratios and forget quality of the two are different numbers.
        surrogate: the measure expected of a model that never saw the forget rows: that of a retrained model, or of
            answers about things that this one never met. None takes the answers of the most similar retained prompts.
        strength: of the noise where the search begins, in units of the mean length of the model's input embeddings. If
            that changes no answer, the search has no slope to follow: begin with more.
        search_lr: step size of the search, in the same units.
        search_eps: how far its two probes lie to the sides, in the same units; below `strength`.
        search_steps: at most so many steps, of two probes each; modes without noise are not searched.
        tolerance: the search ends where the measure is so near to the surrogate.
        rows: how many forget prompts, at most, the measure is taken on.
    """

    encoder: EncoderName = "model"
    alpha: Annotated[float, Above(0), Below(1)] = 0.01
    confidence: Annotated[float, Above(0), Below(1)] = 0.5
    mode: Mode = "rand_noise_first_n"
    n: Annotated[int, AtLeast(1)] = 1
    tokens: Literal["prompt", "names"] = "prompt"
    answers: bool = True
    surrogate: Annotated[float | None, AtLeast(0), AtMost(1)] = None
    strength: Annotated[float, Above(0)] = 1.0
    search_lr: Annotated[float, Above(0)] = 5.0
    search_eps: float = 0.5
    search_steps: Annotated[int, AtLeast(0)] = 10
    tolerance: Annotated[float, AtLeast(0)] = 0.02
    rows: Annotated[int, AtLeast(1)] = 64
    needs: ClassVar[frozenset[str]] = frozenset({"retain"})

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.search_eps < self.strength, "search_eps", self.search_eps, "above 0 and below strength")

    def learn(self, model: PreTrainedModel, data: ForgetData, *, seed: int = 0, **options: Any) -> dict[str, Tensor]:
        gate = fit_gate(self.encoder, model, data, alpha=self.alpha, confidence=self.confidence, seed=seed)
        pairs = subsample([pair for pair in data.forget_pairs if pair[0].strip()], self.rows, seed)
        surrogate = nearest_answers(gate, pairs, data.retain_pairs) if self.surrogate is None else self.surrogate
        unit = float(model.get_input_embeddings().weight.detach().float().norm(dim=-1).mean())
        learned = {**gate.tensors(), "surrogate": torch.tensor(surrogate), "seed": torch.tensor(seed)}
        if self.tokens == "names":
            forget, retain = ({t for row in rows.input_ids for t in row} for rows in (data.forget, data.retain))
            learned["names"] = torch.tensor(sorted(forget - retain), dtype=torch.long)
        learned["strength"] = torch.tensor(self.strength * unit)
        if self.mode in NOISE:
            eco = self._hooked(model, data.tokenizer, gate, learned)

            def score(strength: float) -> float:
                eco.strength = strength * unit
                return abs(forget_measure(model, data.tokenizer, pairs) - surrogate)

            try:
                strength, _ = zo_search(
                    score,
                    self.strength,
                    self.search_lr,
                    self.search_eps,
                    steps=self.search_steps,
                    s_min=self.search_eps,
                    tolerance=self.tolerance,
                )
            finally:
                eco.remove()
            learned["strength"] = torch.tensor(strength * unit)
        return learned

    def install(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, learned: Mapping[str, Tensor]
    ) -> PreTrainedModel:
        gate = PromptGate.from_tensors(prompt_encoder(self.encoder, model, tokenizer), learned)
        return self._hooked(model, tokenizer, gate, learned).lm

    def _hooked(self, model: PreTrainedModel, tokenizer: Any, gate: PromptGate, learned: Mapping[str, Tensor]) -> EcoLM:
        names, seed = learned.get("names"), int(learned["seed"])
        options = {"names": names, "seed": seed, "answers": self.answers}
        return EcoLM(model, tokenizer, gate, float(learned["strength"]), self.mode, self.n, **options)


_MOVED = {"forget.corrupted_prompts": ("MODES", "corrupt", "corruptible")}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
