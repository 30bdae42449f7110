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

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palimpsest.forget.key_space import KeyGuardedLM, KeySpace, prompt_keys
from palimpsest.forget.mirrored_neurons import adjusted, edit_neurons, probe
from palimpsest.forget.procedure import ForgetData
from palimpsest.forget.refusal_guard import refusal_ids
from palimpsest.lazy import front_door
from palimpsest.models.blocks import blocks, mlp_activation, mlp_output
from palimpsest.models.score import Encoded
from palimpsest.train.method import Intervention
from palimpsest.train.ranges import Above, AtLeast, AtMost, require


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
        generator = torch.Generator().manual_seed(self.seed)

        def new(z: Tensor, of: Mapping[str, Tensor]) -> Tensor:
            if self.to == "zero":
                return torch.zeros_like(z)
            uniform = torch.rand(z.shape, generator=generator).to(z.device)
            return adjusted(z, (of["mu_f"], of["s_f"]), (of["mu_r"], of["s_r"]), uniform)

        return edit_neurons(model, learned, new)


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


_MOVED = {"forget.mirrored_neurons": ("LEAST",)}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
