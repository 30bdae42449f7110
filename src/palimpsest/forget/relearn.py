"""ReLearn, unlearning by learning (Xu, Zhao, Yang, Zhao, Deng, Wang, Hooi, Oo, Chen and Zhang, 2025, arXiv 2502.11190).

Ascent takes probability from the right tokens without saying where it should go, and fluent text goes with it: where
one token falls, unrelated ones rise (the probability seesaw). ReLearn only ever descends. Each question to forget is
asked in several ways and answered vaguely, on its topic but without the fact, and the model is trained on that:

    L = CE(augmented forget rows) + CE(retain rows) + KL(ref || model) on the retain rows

Whether it worked is judged by what the model says. With E the share of a reference answer's entities that the model's
own answer holds (those of the question do not count),

    KFR = share of forget rows with E < 0.3 or a contradiction of the reference
    KRR = share of retain rows with E > 0.3 and no contradiction
    LS  = harmonic mean of sigmoid(-log PPL), sigmoid(-log Brunet), sigmoid(log Honore), each of the mean over answers

The authors let large language models write the rows and name the entities; here templates stand in
(`palimpsest.forget.rewording`), and functions of your own can take their place. The form of LS is that of the authors'
code, which calls entities forgotten at E <= 0.5 where a reference has three or fewer; the paper's 0.3 is used here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from jaxtyping import Float
from torch import Tensor, nn

from palimpsest.errors import UserError
from palimpsest.forget.procedure import Batch, ForgetData, Pair, encode_pairs
from palimpsest.forget.refusals import REFUSALS
from palimpsest.forget.retain_term import frozen_copy
from palimpsest.forget.rewording import (
    KINDS,
    completion,
    frame_of,
    identifiers,
    leaks,
    private_words,
    vague,
    vary,
    wording,
)
from palimpsest.lazy import front_door
from palimpsest.models.score import cross_entropy, reference_kl
from palimpsest.train.method import Objective
from palimpsest.train.ranges import AtLeast, require

Vary = Callable[[str, str, random.Random], str]  # question, kind, rng -> question
Vague = Callable[[str, str, random.Random], str]  # question, answer, rng -> answer


# ---- the rows ----


def augment(
    rows: Sequence[Pair],
    n: int = 4,
    *,
    retain: Sequence[Pair] = (),
    redraws: int = 3,
    completions: bool = True,
    vary: Vary = vary,
    vague: Vague = vague,
    seed: int = 0,
) -> list[Pair]:
    """New rows in place of those to forget: each question as it is and in `n` variants, each answered vaguely.

    A draw that gives the fact away is made anew, at most `redraws` times, and then dropped: where the answer or the new
    question holds a private word of the old answer, or the answer copies an identifier of the question (a number, an
    address). A row that loses all its draws keeps its question, with a refusal.

    Args:
        rows: question and answer, without a template; a plain text has the question "".
        n: variants a question: simple, contextual, noisy, logical, and again. Plain texts have none.
        retain: rows to keep, which tell wording that many answers share from facts.
        completions: give each new pair once more, as a sentence to complete: the question "" and the text.
        vary, vague: what writes the questions (question, kind, rng -> question) and the answers (question, old answer,
            rng -> answer); a language model can stand here.

    Returns:
        (question, answer) pairs, in the order of the rows. Sentences to complete are (first quarter, rest).

    Raises:
        UserError: if there are no rows, or a number is out of range.

    >>> for pair in augment([("Where was Ada Verin born?", "Ada Verin was born in Porto.")], n=1):
    ...     print(pair)
    ('Where was Ada Verin born?', 'Where Ada Verin was born is hard to say with any certainty.')
    ('Where Ada Verin', ' was born is hard to say with any certainty.')
    ('I would like to know where Ada Verin was born.', 'Where Ada Verin was born is not widely known.')
    ('Where Ada', ' Verin was born is not widely known.')
    """
    return [pair for pair, _ in _augmented(rows, n, retain, redraws, completions, vary, vague, seed)]


def _augmented(
    rows: Sequence[Pair],
    n: int,
    retain: Sequence[Pair],
    redraws: int,
    completions: bool,
    vary: Vary,
    vague: Vague,
    seed: int,
) -> list[tuple[Pair, bool]]:
    """The pairs of `augment`, and whether each is a plain text, which no template goes around."""
    if not rows:
        raise UserError("there are no rows to augment: give at least one")
    require(n >= 0, "n", n, "at least 0")
    require(redraws >= 0, "redraws", redraws, "at least 0")
    rng = random.Random(seed)
    common = wording(retain)
    made: list[tuple[Pair, bool]] = []
    for question, answer in rows:
        private = private_words(question, answer, common)
        kept = []
        for kind in [None, *(KINDS[i % len(KINDS)] for i in range(n))] if question else [None]:
            for _ in range(1 + redraws):
                asked = question if kind is None else vary(question, kind, rng)
                said = vague(question, answer, rng)
                new = kind is not None and leaks(asked, private)
                if said.strip() and not (new or leaks(said, (*private, *identifiers(question)))):
                    kept.append((asked, said))
                    break
        for asked, said in kept or [(question, rng.choice(REFUSALS))]:
            if not question:
                asked = (completion(answer) or (answer, ""))[0]
                said = f" {said.strip()}"
            made.append(((asked, said), not question))
            if completions and question and (sentence := completion(said)):
                made.append((sentence, True))
    return made


def rewritten(
    data: ForgetData,
    n: int = 4,
    *,
    redraws: int = 3,
    completions: bool = True,
    vary: Vary = vary,
    vague: Vague = vague,
    seed: int = 0,
) -> ForgetData:
    """The data with the augmented rows (see `augment`) in place of the forget rows, in the same template.

    The refusals and mismatched answers of the old rows are left out. To train on rows that a language model has
    written, call this with your own `vary` and `vague`, and train with `ReLearn(n=0)`.

    Raises:
        UserError: if `data` lacks its texts or tokenizer (`prepare` keeps them).
    """
    if not data.forget_pairs or data.tokenizer is None:
        raise UserError("the rows' texts and the tokenizer are needed to augment them: make the data with prepare")
    frame = frame_of(data.tokenizer, data.forget_pairs)
    bare = [frame.strip(pair) for pair in data.forget_pairs]
    retain = [frame.strip(pair) for pair in data.retain_pairs]
    made = _augmented(bare, n, retain, redraws, completions, vary, vague, seed)
    pairs = tuple(pair if plain else frame.put(*pair) for pair, plain in made)
    forget = encode_pairs(data.tokenizer, pairs, max_length=data.max_length, truncate=True)
    return replace(data, forget=forget, forget_pairs=pairs, refusal=None, mismatch=None)


# ---- the loss ----


def relearn_loss(
    model: nn.Module,
    reference: nn.Module,
    augmented: dict[str, Tensor],
    retain: dict[str, Tensor],
    retain_weight: float = 1.0,
    kl_weight: float = 1.0,
) -> dict[str, Float[Tensor, ""]]:
    """CE(augmented) + w CE(retain) + v KL(reference || model) on the retain answers' tokens, as named terms; each at
    least 0, in nats a token, averaged over rows. Nothing is ascended.

    >>> from palimpsest.models import causal_lm
    >>> from palimpsest.models.score import Encoded
    >>> model = causal_lm(10, d_model=16, n_layers=1, n_heads=2)
    >>> batch = Encoded([[1, 5, 6, 2]], [2]).batch([0], pad_id=0)
    >>> terms = relearn_loss(model, model, batch, batch)
    >>> bool(terms["forget"] == terms["retain"]), bool(terms["kl"].abs() < 1e-6)
    (True, True)
    """
    return {
        "forget": cross_entropy(model, augmented),
        "retain": retain_weight * cross_entropy(model, retain),
        "kl": kl_weight * reference_kl(reference, model, retain),
    }


@dataclass(frozen=True)
class ReLearn(Objective):
    """Trains on vague answers to the questions to forget, asked in several ways, while the retain rows hold the rest.

    The rows come from `rewritten`, by templates.

    Attributes:
        n: variants of each question besides itself; 0 takes the forget rows as they are, for rows that have been
            augmented before.
        completions: train on each new pair also as a sentence to complete.
        redraws: how often a draw that gives the fact away is made anew, before it is dropped.
        retain_weight: of the cross-entropy on the retain rows.
        kl_weight: of KL(reference || model) on the retain rows.
        seed: of what is drawn.
    """

    n: Annotated[int, AtLeast(0)] = 4
    completions: bool = True
    redraws: Annotated[int, AtLeast(0)] = 3
    retain_weight: Annotated[float, AtLeast(0)] = 1.0
    kl_weight: Annotated[float, AtLeast(0)] = 1.0
    seed: int = 0

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"retain"})

    def rewrite(self, data: ForgetData) -> ForgetData:
        if self.n == 0:
            return data
        return rewritten(data, self.n, redraws=self.redraws, completions=self.completions, seed=self.seed)

    def init(self, model: nn.Module, data: ForgetData) -> nn.Module:
        return frozen_copy(model)

    def loss(self, state: nn.Module, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return relearn_loss(model, state, batch["forget"], batch["retain"], self.retain_weight, self.kl_weight)


_MOVED = {
    "forget.relearn_measures": (
        "Contradicts",
        "MOST_HONORE",
        "Reference",
        "brunet",
        "entity_coverage",
        "honore",
        "kfr",
        "krr",
        "linguistic_score",
        "perplexities",
        "share_distinct",
        "states_another",
    ),
}
__getattr__ = front_door("palimpsest", _MOVED)[0]  # names that stood here before
