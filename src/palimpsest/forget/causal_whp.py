"""Targeted unlearning by causal intervention (Liu, Zhang, Jaakkola and Chang, 2024, arXiv 2407.16997).

A model is to forget a person and keep what the same documents say of others. "Who's Harry Potter?" trains it on what
it says itself when the name is replaced by another: the fiction of one replacement, which it then repeats about the
target. Seen causally, what the model knows of a name confounds what it writes next, and an intervention on the name
has to average over that knowledge (backdoor adjustment): over N names c,

    p*(x_t | x_<t) = 1/N sum_c p_ref(x_t | "Complete the following passage about c.", x_<t with c for the target)
    loss           = mean_t KL(p*(. | x_<t) || p(. | x_<t))            on the original text, p* computed once

Both texts are aligned token by token; the tokens of a name and the begin token are not learned. In p* the target keeps
its name: where a mention follows, what the words of the replacement begin with has its mass moved to the mention's
first token; elsewhere, where under more than half of the replacements one of these tokens has a probability above 0.1,
to the first token of the target's name; without instruction, not before the first mention. The older method is N = 1
without instruction. The authors' code differs: it finds pronouns by a coreference model, and titles of books; its
student reads the instruction too, about the target; for questions it learns the rest of a name, from its own prompt; it
leaves out a single token between two names; and mass is moved right before a name's first mention in documents always,
in TOFU's questions never, where here it depends on the instruction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from palimpsest.forget.distilled import Distilled, read
from palimpsest.forget.procedure import ForgetData, Pair
from palimpsest.forget.renaming import NAMES, kept_positions, renamings, word_starts
from palimpsest.lazy import front_door
from palimpsest.models.score import context_length
from palimpsest.train.ranges import require

NAMED = 0.1  # above it, a reading is taken to name its replacement
INSTRUCTION = "Complete the following passage about {name}."


def move_mass(probs: Float[Tensor, "vocabulary"], sources: Sequence[int], to: int) -> None:
    """Adds the probability of the words `sources` to that of `to`, in place.

    >>> probs = torch.tensor([0.5, 0.3, 0.2])
    >>> move_mass(probs, [0, 1], to=1)
    >>> probs
    tensor([0.0000, 0.8000, 0.2000])
    """
    for source in sources:
        if source != to:
            probs[to] += probs[source].clone()
            probs[source] = 0.0


def teacher_distribution(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    row: str | Pair,
    target: str = "",
    names: Sequence[str] = NAMES,
    n: int = 20,
    *,
    instruction: str = INSTRUCTION,
    length: int | None = None,
) -> tuple[Int[Tensor, "positions"], Float[Tensor, "positions vocabulary"]]:
    """p* of one row: the positions at which it is known, and there the distribution of the next token.

    Args:
        model: the reference.
        row: a document, or a prompt and its answer, of which only the answer is learned.
        target: whom to forget, several separated by "|"; empty for a guess (`renaming.likely_name`).
        names, n: the bank of replacements, and N, how many of them are used.
        instruction: what comes before the renamed text; "" for nothing.
        length: how many of the row's tokens count; None for all.

    Raises:
        UserError: if the row does not mention the target, or nothing is left to learn.

    >>> from palimpsest.models import causal_lm, word_tokenizer
    >>> tokenizer = word_tokenizer(["Ada Ivo Una was born here .", INSTRUCTION])
    >>> model = causal_lm(len(tokenizer), d_model=16, n_layers=1, n_heads=2)
    >>> positions, probs = teacher_distribution(model, tokenizer, "Ada was born here.", "Ada", ["Ivo", "Una"], 2)
    >>> positions, probs.shape
    (tensor([2, 3, 4, 5]), torch.Size([4, 19]))
    """
    row = ("", row) if isinstance(row, str) else row
    made = renamings(tokenizer, row, target, names, n, instruction, context_length(model))
    kept = kept_positions(made, len(made[0].original.ids) if length is None else length)
    first = made[0].places()
    spared = 0 if instruction else 1  # of each person's mentions, how many keep the replacement's mass
    total: Any = 0
    starts: dict[str, list[Any]] = {person: [] for person in first}  # of each draw: tokens, their probabilities
    for draw in made:
        probs = read(model, draw.renamed.ids, [draw.pairs[i] for i in kept]).softmax(-1)
        for person, places in first.items():
            forms = word_starts(tokenizer, draw.replacements[person])
            tokens = sorted({*forms[0], *forms[1]})
            for place in places[spared:]:
                if place - 1 in kept:
                    move_mass(probs[kept.index(place - 1)], tokens, to=made[0].original.ids[place])
            likely = [(probs[:, form] > NAMED).any(-1) for form in forms]
            starts[person].append((tokens, probs[:, tokens], likely))
        total = total + probs
    for person, draws in starts.items():
        spaced, bare = (sum(likely[form].int() for *_, likely in draws) > n / 2 for form in (0, 1))
        after_space, at_line = (words[0] for words in word_starts(tokenizer, person))
        for k, position in enumerate(kept):
            if not (spaced[k] or bare[k]) or (spared and position <= first[person][0]):
                continue
            to = after_space if spaced[k] else at_line
            for tokens, mass, _ in draws:
                others = [i for i, token in enumerate(tokens) if token != to]
                total[k, [tokens[i] for i in others]] -= mass[k, others]
                total[k, to] += mass[k, others].sum()
    total = total.clamp(min=0)  # what is left of a moved mass is rounding
    return torch.tensor(kept), total / total.sum(-1, keepdim=True)


@dataclass(frozen=True)
class CausalWHP(Distilled):
    """mean over rows and kept positions of KL(p* || model), p* the average over n replacement names.

    Attributes:
        n: how many of the names are used.
        instruction: what comes before the renamed text, with {name} for the replacement; "" for nothing.
    """

    n: int = 20
    instruction: str = INSTRUCTION

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.n <= len(self.names), "n", self.n, f"from 1 to the number of names, {len(self.names)}")
        require(not self.instruction or "{name}" in self.instruction, "instruction", self.instruction, "with {name}")

    def teacher(self, model: nn.Module, data: ForgetData) -> Callable[[Pair, int], tuple[Tensor, Tensor]]:
        return lambda row, length: teacher_distribution(
            model, data.tokenizer, row, self.target, self.names, self.n, instruction=self.instruction, length=length
        )


_MOVED = {
    "forget.causal_whp_measures": ("Probe", "criteria", "fabrications", "readable"),
    "forget.distilled": ("GIB", "causal_whp_loss"),
    "forget.renaming": ("Renamed", "lead_in"),
    "forget.whp": ("WHP", "hard", "whp_distribution", "whp_loss"),
}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
