"""Skill unlearning without training: neuron adjustment and key-space detection (Li, Wang, Weng and others, 2025,
"Effective Skill Unlearning through Intervention and Abstention", arXiv 2503.21730).

A skill shows in the MLPs. `NeuronAdjust` takes the neurons whose mean pre-activation grows most under the skill, and
moves a value z that looks like the skill to where the mirrored one of other text would be:

    if N(z; mu_f, s_f) >= N(z; mu_r, s_r), with probability N_f / (N_f + N_r):     z <- mu_r - (z - mu_f) s_r / s_f

mu, s: mean and standard deviation on forget and retain text; setting z to 0 instead prunes the neuron.
The authors' code has the forget text's mean in the place of s_f, the retain text's variance in that of s_r, and one
draw for all tokens of a text; here it is the paper's formula, with a draw for each value.

`KeySpaceDetection` refuses instead. The key of a prompt, the input of an MLP's output matrix at its last token, lies
for a skill in a box of its own,

    |key_i - m_i| <= c k s_i   for all i,         k: the least for which the box holds the keys of all forget prompts

m, s: mean and standard deviation of these keys; c widens the box. While an answer is written, the key at every token is
looked at, as in the authors' code: one of them in the box, and the whole answer is the refusal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.forget.procedure import ForgetData
from palimpsest.forget.refusal_guard import GuardedLM, refusal_ids
from palimpsest.models.blocks import blocks, mlp_activation, mlp_output
from palimpsest.models.hooks import activations, edit_activation
from palimpsest.models.score import Encoded, pad_token_id
from palimpsest.train.method import Intervention
from palimpsest.train.ranges import Above, AtLeast, AtMost, require

LEAST = 1e-6  # a standard deviation, so that a neuron that never moves divides nothing by 0


def probe(
    model: nn.Module, rows: Encoded, *, pad_id: int, batch_size: int = 64
) -> tuple[Float[Tensor, "neurons"], Float[Tensor, "neurons"]]:
    """Mean and standard deviation of every MLP neuron's pre-activation over all tokens of the rows.

    Returns:
        Both in float64, the neurons of the first block first.

    >>> from palimpsest.models import causal_lm
    >>> mean, std = probe(causal_lm(10, d_model=16, n_layers=2), Encoded([[1, 5, 6], [7, 8]], [0, 0]), pad_id=0)
    >>> mean.shape, bool((std >= 0).all())
    (torch.Size([96]), True)
    """
    modules = {str(i): mlp_activation(block) for i, block in enumerate(blocks(model))}
    n, total, squares = 0, 0.0, 0.0
    for batch, seen in activations(model, rows, modules, "input", pad_id=pad_id, batch_size=batch_size):
        real = batch["attention_mask"].bool()
        z = torch.cat([seen[name][real] for name in modules], dim=-1).double()
        n, total, squares = n + len(z), total + z.sum(0), squares + z.square().sum(0)
    mean = total / n
    return mean, (squares / n - mean.square()).clamp(min=0).sqrt()


def adjusted(
    z: Float[Tensor, "... k"],
    forget: tuple[Float[Tensor, "k"], Float[Tensor, "k"]],
    retain: tuple[Float[Tensor, "k"], Float[Tensor, "k"]],
    uniform: Float[Tensor, "... k"],
) -> Float[Tensor, "... k"]:
    """Pre-activations, mirrored where they look like the skill; see the module.

    Args:
        z: of k neurons.
        forget, retain: mean and standard deviation of each neuron.
        uniform: draws from [0, 1), which decide.

    >>> one, zero = torch.ones(1), torch.zeros(1)
    >>> adjusted(torch.tensor([[5.0], [0.1]]), (5 * one, one), (zero, one), torch.zeros(2, 1)).tolist()
    [[0.0], [0.10000000149011612]]
    """
    (mu_f, s_f), (mu_r, s_r) = ((mu, s.clamp(min=LEAST)) for mu, s in (forget, retain))
    # log N_f - log N_r: of it the probability is the logistic function, without the densities' underflow.
    log_ratio = ((z - mu_r) / s_r).square() / 2 - ((z - mu_f) / s_f).square() / 2 + (s_r / s_f).log()
    hit = (log_ratio >= 0) & (uniform < log_ratio.sigmoid())
    return torch.where(hit, mu_r - (z - mu_f) * s_r / s_f, z)


@dataclass(frozen=True)
class NeuronAdjust(Intervention):
    """Moves the pre-activations of the neurons that a skill excites; no weight changes. See the module.

    Attributes:
        percent: share of all MLP neurons that are adjusted, in percent, those with the largest mean under the forget
            rows less that under the retain rows (the paper: 0.5 to 5); 0 leaves the model as it is.
        to: "mirror", or "zero", which prunes the same neurons.
        seed: of the draws.
    """

    percent: Annotated[float, AtLeast(0), AtMost(100)] = 2.0
    to: Literal["mirror", "zero"] = "mirror"
    seed: int = 0
    needs: ClassVar[frozenset[str]] = frozenset({"retain"})

    def fits(self, model: nn.Module) -> None:
        for block in blocks(model):
            mlp_activation(block)

    def learn(self, model: PreTrainedModel, data: ForgetData, **options: Any) -> dict[str, Tensor]:
        mu_f, s_f = probe(model, data.forget, pad_id=data.pad_id)
        mu_r, s_r = probe(model, data.retain, pad_id=data.pad_id)
        chosen = (mu_f - mu_r).topk(round(self.percent / 100 * len(mu_f))).indices
        found = {"mu_f": mu_f, "s_f": s_f, "mu_r": mu_r, "s_r": s_r}
        return {"neurons": chosen, **{name: value[chosen].float() for name, value in found.items()}}

    def install(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, learned: Mapping[str, Tensor]
    ) -> PreTrainedModel:
        self.hook(model, learned)
        return model

    def hook(self, model: nn.Module, learned: Mapping[str, Tensor]) -> list[Any]:
        """Puts the hooks on; `remove()` of each handle takes it off again."""
        generator, start, handles = torch.Generator().manual_seed(self.seed), 0, []
        for block in blocks(model):
            width = mlp_output(block).weight.shape[1 if isinstance(mlp_output(block), nn.Linear) else 0]
            here = (learned["neurons"] >= start) & (learned["neurons"] < start + width)
            if here.any():
                mine = {name: value[here].to(next(block.parameters()).device) for name, value in learned.items()}
                columns = mine.pop("neurons") - start

                def edit(z: Tensor, columns: Tensor = columns, mine: dict[str, Tensor] = mine) -> Tensor:
                    old = z[..., columns]
                    if self.to == "zero":
                        new = torch.zeros_like(old)
                    else:
                        uniform = torch.rand(old.shape, generator=generator).to(old.device)
                        of = {name: value.to(old.dtype) for name, value in mine.items()}
                        new = adjusted(old, (of["mu_f"], of["s_f"]), (of["mu_r"], of["s_r"]), uniform)
                    return z.index_copy(-1, columns, new)

                handles.append(edit_activation(mlp_activation(block), edit, "input"))
            start += width
        return handles


@dataclass(frozen=True)
class KeySpace:
    """A box around keys.

    Attributes:
        mean, std: of the keys.
        radius: k, the largest distance of a key from the mean in any dimension, in standard deviations.
    """

    mean: Float[Tensor, "d"]
    std: Float[Tensor, "d"]
    radius: float

    @classmethod
    def fit(cls, keys: Float[Tensor, "prompts d"]) -> KeySpace:
        """The least box that holds all keys.

        Raises:
            ValueError: if there are no keys.

        >>> space = KeySpace.fit(torch.tensor([[0.0, 1.0], [2.0, 5.0]]))
        >>> space.radius, space.holds(torch.tensor([[1.0, 3.0], [2.0, 5.5]])).tolist()
        (1.0, [True, False])
        """
        if keys.ndim != 2 or len(keys) == 0:
            raise ValueError(f"keys must be [prompts, d] with at least one, got {list(keys.shape)}")
        mean, std = keys.mean(0), keys.std(0, correction=0).clamp(min=LEAST)
        return cls(mean, std, float(((keys - mean).abs() / std).max()))

    def holds(self, keys: Float[Tensor, "prompts d"], scale: float = 1.0) -> Bool[Tensor, "prompts"]:
        """Whether each key lies in the box, widened by `scale`."""
        # A hair more: the keys on the box's sides must not fall out by rounding.
        return ((keys - self.mean).abs() <= scale * self.radius * (1 + 1e-5) * self.std).all(-1)


def prompt_keys(
    model: nn.Module, prompts: Sequence[Sequence[int]], *, pad_id: int, batch_size: int = 64
) -> Float[Tensor, "layers prompts d"]:
    """The key of each prompt in each block: what its MLP's output matrix reads at the prompt's last token.

    Args:
        prompts: token ids, without padding.

    Raises:
        ValueError: if a prompt has no tokens.
    """
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise ValueError("every prompt needs at least one token")
    modules = {str(i): mlp_output(block) for i, block in enumerate(blocks(model))}
    rows, found = Encoded([list(prompt) for prompt in prompts], [0] * len(prompts)), []
    for batch, seen in activations(model, rows, modules, "input", pad_id=pad_id, batch_size=batch_size):
        last = batch["attention_mask"].sum(1) - 1
        each = torch.arange(len(last), device=last.device)
        found.append(torch.stack([seen[name][each, last].float() for name in modules]))
    return torch.cat(found, dim=1)


class KeyGuardedLM(GuardedLM):
    """A model that answers by a refusal where a key lies in the box: the prompt's, or one at a token of the answer that
    has a token after it. `gate` is (layer, `KeySpace`, scale).

    Args:
        reads_answers: whether the answer's keys count.
    """

    def __init__(
        self,
        lm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        gate: tuple[int, KeySpace, float],
        refusal: Int[Tensor, "tokens"],
        *,
        reads_answers: bool = True,
    ) -> None:
        super().__init__(lm, tokenizer, gate, refusal)
        self.reads_answers = reads_answers

    def flags(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        positions: Bool[Tensor, "batch tokens"],
        written: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Bool[Tensor, "batch"]:
        layer, space, scale = self.gate
        flags = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        kept = positions.any(1).nonzero()[:, 0].tolist()
        if not kept:
            return flags
        prompts = [input_ids[row][positions[row]].tolist() for row in kept]
        # The last token of an answer is never read: nothing is written after it.
        answers = [[] for _ in kept]
        if self.reads_answers and written is not None:
            answers = [input_ids[row][written[row].bool()].tolist()[:-1] for row in kept]
        rows = Encoded([a + b for a, b in zip(prompts, answers, strict=True)], [len(prompt) for prompt in prompts])
        module = {"key": mlp_output(blocks(self.lm)[layer])}
        found = []
        for batch, seen in activations(self.lm, rows, module, "input", pad_id=pad_token_id(self.tokenizer)):
            held = space.holds(seen["key"].float().flatten(0, 1), scale).view(batch["input_ids"].shape)
            found += list(held & batch["attention_mask"].bool())
        flags[kept] = torch.stack(
            [held[len(prompt) - 1 :].any() for held, prompt in zip(found, prompts, strict=True)]
        ).to(flags.device)
        return flags


@dataclass(frozen=True)
class KeySpaceDetection(Intervention):
    """Refuses the prompts that one block reads like those to forget; no training, no weight changes. See the module.

    Attributes:
        k_scale: c, how much the box is widened: more finds more prompts of the skill, and more others by mistake.
        layer: the block whose keys are looked at, 0 the first; None is the one in whose box the fewest retain prompts
            lie, or the last block where there are none.
        every_token: whether the key at every token of an answer is looked at too, as the authors' code does while it
            writes; where a given answer is scored, that of every token but its last. False looks at the prompt alone.
        refusal: the answer to those prompts.
    """

    k_scale: Annotated[float, Above(0)] = 1.0
    layer: Annotated[int | None, AtLeast(0)] = None
    every_token: bool = True
    refusal: str = "I don't know."

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.refusal.strip()), "refusal", self.refusal, "a text")

    def fits(self, model: nn.Module) -> None:
        for block in blocks(model):
            mlp_output(block)

    def learn(self, model: PreTrainedModel, data: ForgetData, **options: Any) -> dict[str, Tensor]:
        last = len(blocks(model)) - 1
        require(self.layer is None or self.layer <= last, "layer", self.layer, f"at most {last} in this model")
        spaces = [KeySpace.fit(keys) for keys in self._keys(model, data.forget, data.pad_id)]
        layer = last if self.layer is None else self.layer
        if self.layer is None and data.retain is not None:
            others = self._keys(model, data.retain, data.pad_id)
            alarms = [int(s.holds(keys, self.k_scale).sum()) for s, keys in zip(spaces, others, strict=True)]
            layer = min(range(len(alarms)), key=lambda i: (alarms[i], -i))
        space = spaces[layer]
        refusal = refusal_ids(data, self.refusal)
        found = {"mean": space.mean, "std": space.std, "radius": torch.tensor(space.radius)}
        return {**found, "layer": torch.tensor(layer), "refusal": refusal}

    @staticmethod
    def _keys(model: nn.Module, rows: Encoded, pad_id: int) -> Float[Tensor, "layers prompts d"]:
        # A plain text has no prompt: what it begins with is its key.
        prompts = {tuple(ids[: max(n, 1)]) for ids, n in zip(rows.input_ids, rows.prompt_lengths, strict=True)}
        return prompt_keys(model, sorted(prompts), pad_id=pad_id)

    def install(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, learned: Mapping[str, Tensor]
    ) -> KeyGuardedLM:
        of = {name: value.to(model.device) for name, value in learned.items()}
        space = KeySpace(of["mean"], of["std"], float(of["radius"]))
        gate = (int(of["layer"]), space, self.k_scale)
        return KeyGuardedLM(model, tokenizer, gate, of["refusal"], reads_answers=self.every_token)
