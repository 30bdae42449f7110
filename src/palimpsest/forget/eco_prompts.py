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

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.forget.evaluation import subsample
from palimpsest.forget.procedure import ForgetData, Pair
from palimpsest.forget.prompt_gate import (
    EncoderName,
    PromptGate,
    fit_gate,
    flagged,
    prompt_encoder,
    prompt_positions,
)
from palimpsest.metrics.text import rouge_l_recall
from palimpsest.models.score import greedy
from palimpsest.train.method import Intervention
from palimpsest.train.ranges import Above, AtLeast, AtMost, Below, require

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


def zo_search(
    score: Callable[[float], float],
    strength0: float,
    lr: float,
    eps: float,
    *,
    steps: int = 10,
    s_min: float = 1e-8,
    tolerance: float = 0.0,
) -> tuple[float, list[tuple[float, float]]]:
    """Two-point zeroth-order descent on a score of one number; stops as soon as a score is at most `tolerance`.

        s <- max(s - lr (score(s + eps) - score(max(s - eps, 1e-8))) / (2 eps), s_min)

    Returns:
        The strength with the lowest score of all that were tried, and all of them with their scores, in order.

    Raises:
        ValueError: if a number is out of its range.

    >>> strength, tried = zo_search(lambda s: abs(s - 3.0), 1.0, lr=0.5, eps=0.1, tolerance=0.15)
    >>> round(strength, 1), len(tried)
    (3.1, 10)
    """
    if not (strength0 > 0 and lr > 0 and eps > 0 and s_min > 0):
        raise ValueError(f"strength0, lr, eps and s_min must be above 0, got {strength0}, {lr}, {eps} and {s_min}")
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")
    tried: list[tuple[float, float]] = []

    def reached(s: float) -> bool:
        tried.append((s, float(score(s))))
        return tried[-1][1] <= tolerance

    s = strength0
    if not reached(s):
        for _ in range(steps):
            if reached(s + eps) or reached(max(s - eps, 1e-8)):
                break
            s = max(s - lr * (tried[-2][1] - tried[-1][1]) / (2 * eps), s_min)
    return min(tried, key=lambda found: found[1])[0], tried


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


def forget_measure(model: nn.Module, tokenizer: PreTrainedTokenizerBase, pairs: list[Pair]) -> float:
    """Mean ROUGE-L recall of the model's greedy answers to the pairs' prompts."""
    prompts, answers = zip(*pairs, strict=True)
    longest = max(len(ids) for ids in tokenizer(list(answers), add_special_tokens=False)["input_ids"])
    said = greedy(model, tokenizer, prompts, max_new_tokens=longest + 1)
    return float(np.mean([rouge_l_recall(*pair) for pair in zip(said, answers, strict=True)]))


def nearest_answers(gate: PromptGate, forget: list[Pair], retain: tuple[Pair, ...]) -> float:
    """A surrogate without a retrained model: the mean ROUGE-L recall, against each forget answer, of the answer to the
    most similar retained prompt, which has the form of the right answer and another content."""
    retain = tuple(pair for pair in retain if pair[0].strip())  # documents have no prompt
    asked, known = (
        F.normalize(gate.encoder([prompt for prompt, _ in pairs]).float(), dim=-1) for pairs in (forget, retain)
    )
    nearest = [retain[k][1] for k in (asked @ known.T).argmax(1).tolist()]
    return float(np.mean([rouge_l_recall(said, answer) for said, (_, answer) in zip(nearest, forget, strict=True)]))
