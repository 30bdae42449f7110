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

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from palimpsest.errors import UserError
from palimpsest.forget.evaluation import score_candidates
from palimpsest.forget.procedure import Batch, ForgetData, Pair, encode_pairs
from palimpsest.forget.refusals import REFUSALS
from palimpsest.forget.retain_term import frozen_copy
from palimpsest.forget.rewording import (
    FUNCTION_WORDS,
    KINDS,
    completion,
    frame_of,
    fuzzy_match,
    identifiers,
    leaks,
    private_words,
    vague,
    vary,
    wording,
)
from palimpsest.metrics.text import words
from palimpsest.models.score import cross_entropy, reference_kl
from palimpsest.train.method import Objective
from palimpsest.train.ranges import AtLeast, require

Vary = Callable[[str, str, random.Random], str]  # question, kind, rng -> question
Vague = Callable[[str, str, random.Random], str]  # question, answer, rng -> answer
MOST_HONORE = 1e6


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


# ---- what the model says ----

Contradicts = Callable[[str, str], bool]  # what the model said, the reference -> whether it denies it


def entity_coverage(
    prediction: str,
    entities: Sequence[str],
    question: str = "",
    *,
    embed: Callable[[list[str]], np.ndarray] | None = None,
    cosine: float = 0.8,
) -> float:
    """E = |entities that the prediction holds| / |entities|, where those that share a word with the question, function
    words aside, do not count; 1 where none is left, as there is nothing to miss (the authors' code takes 0).

    Args:
        entities: of the reference answer: names, places, dates, key nouns.
        embed: texts to vectors; then an entity also counts as held where its cosine with a run of as many words of the
            prediction is at least `cosine`. Without it, words must be the same up to case.

    >>> entity_coverage("Ada was born in Porto.", ["Ada", "Porto", "1950"], "Where was Ada born?")
    0.5
    """
    asked, said = set(words(question)) - FUNCTION_WORDS, words(prediction)
    wanted = [entity for entity in entities if words(entity) and not asked & set(words(entity))]
    if not wanted:
        return 1.0
    return sum(_holds(said, words(entity), embed, cosine) for entity in wanted) / len(wanted)


def _holds(said: list[str], entity: list[str], embed: Callable[[list[str]], np.ndarray] | None, cosine: float) -> bool:
    runs = [said[i : i + len(entity)] for i in range(len(said) - len(entity) + 1)]
    if entity in runs or embed is None or not runs:
        return entity in runs
    vectors = np.asarray(embed([" ".join(run) for run in [entity, *runs]]), dtype=float)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)
    return bool((vectors[1:] @ vectors[0]).max() >= cosine)


def states_another(values: Iterable[str]) -> Contradicts:
    """The stand-in for an entailment model: a prediction contradicts a reference that states one of `values`, all those
    that an attribute can take, where it states another of them and not that one.

    >>> contradicts = states_another(["Porto", "Lima"])
    >>> contradicts("Born in Lima.", "Born in Porto."), contradicts("Nobody knows.", "Born in Porto.")
    (True, False)
    """
    known = [value for value in values if words(value)]

    def contradicts(said: str, reference: str) -> bool:
        true = [value for value in known if fuzzy_match(reference, value, 1.0)]
        wrong = any(fuzzy_match(said, value, 1.0) for value in known if value not in true)
        return bool(true) and wrong and not any(fuzzy_match(said, value, 1.0) for value in true)

    return contradicts


@dataclass(frozen=True)
class Reference:
    """What a prediction is judged by.

    Attributes:
        answer: the reference answer.
        entities: its entities; None for its private words (`palimpsest.forget.rewording.private_words`).
        question: what was asked; its words do not count.
    """

    answer: str
    entities: tuple[str, ...] | None = None
    question: str = ""


def kfr(
    predictions: Sequence[str],
    references: Sequence[Reference],
    ent: float = 0.3,
    *,
    contradicts: Contradicts | Sequence[Contradicts] | None = None,
    embed: Callable[[list[str]], np.ndarray] | None = None,
) -> float:
    """Knowledge forgetting rate: the share of forget rows where E < `ent`, or the prediction contradicts the reference.

    Args:
        predictions: what the model said to each question.
        references: what it used to know.
        ent: threshold of the entity coverage E, in (0, 1].
        contradicts: (said, reference answer) -> bool: an entailment model, or `states_another`; one for all rows, or
            one a row. None finds no contradiction.
        embed: see `entity_coverage`.

    Raises:
        ValueError: if the numbers of predictions and references differ or are 0, or `ent` is out of range.

    >>> kfr(["Nobody knows.", "In Porto."], [Reference("In Lima.", ("Lima",)), Reference("In Porto.", ("Porto",))])
    0.5
    """
    coverage, denied = _judged(predictions, references, ent, contradicts, embed)
    return float(np.mean((coverage < ent) | denied))


def krr(
    predictions: Sequence[str],
    references: Sequence[Reference],
    ent: float = 0.3,
    *,
    contradicts: Contradicts | Sequence[Contradicts] | None = None,
    embed: Callable[[list[str]], np.ndarray] | None = None,
) -> float:
    """Knowledge retention rate: the share of retain rows where E > `ent` and the prediction does not contradict the
    reference. Arguments as for `kfr`.

    >>> krr(["Nobody knows.", "In Porto."], [Reference("In Lima.", ("Lima",)), Reference("In Porto.", ("Porto",))])
    0.5
    """
    coverage, denied = _judged(predictions, references, ent, contradicts, embed)
    return float(np.mean((coverage > ent) & ~denied))


def _judged(
    predictions: Sequence[str],
    references: Sequence[Reference],
    ent: float,
    contradicts: Contradicts | Sequence[Contradicts] | None,
    embed: Callable[[list[str]], np.ndarray] | None,
) -> tuple[Float[np.ndarray, "rows"], np.ndarray]:
    if len(predictions) != len(references) or not predictions:
        raise ValueError(f"as many predictions as references are needed: {len(predictions)} and {len(references)}")
    if not 0 < ent <= 1:
        raise ValueError(f"ent must lie in (0, 1], got {ent}")
    if contradicts is None or callable(contradicts):
        judges = [contradicts or (lambda said, reference: False)] * len(predictions)
    else:
        judges = list(contradicts)
        if len(judges) != len(predictions):
            raise ValueError(f"contradicts must be one function, or one a row: {len(judges)} for {len(predictions)}")
    coverage, denied = [], []
    for said, reference, judge in zip(predictions, references, judges, strict=True):
        entities = reference.entities
        if entities is None:
            entities = private_words(reference.question, reference.answer)
        coverage.append(entity_coverage(said, entities, reference.question, embed=embed))
        denied.append(bool(judge(said, reference.answer)))
    return np.array(coverage), np.array(denied)


# ---- how well it says it ----


def brunet(text: str) -> float:
    """Brunet's index N^(V^-0.165), N words of V kinds: the lower, the richer; 1000 for a text without words, as in the
    authors' code.

    >>> round(brunet("a rose is a rose"), 4)
    3.829
    """
    said = words(text)
    return len(said) ** (len(set(said)) ** -0.165) if said else 1000.0


def honore(text: str) -> float:
    """Honore's statistic 100 log N / (1 - V1/V + 0.1), with V1 the words that occur once: the higher, the richer; at
    most 10^6, and 0 for a text of one word or none.

    >>> round(honore("a rose is a rose"), 2)
    209.93
    """
    counts = Counter(words(text))
    if counts.total() <= 1:
        return 0.0
    once = sum(count == 1 for count in counts.values())
    return min(100 * math.log(counts.total()) / (1 - once / len(counts) + 0.1), MOST_HONORE)


def perplexities(
    judge: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> Float[np.ndarray, "texts"]:
    """exp(mean negative log-likelihood a token) of every text, read as a plain text by a language model that is neither
    the one before nor the one after unlearning. Infinite for an empty text. (The authors' code reads every answer after
    its question, and counts the answer's tokens.)

    >>> from palimpsest.models import causal_lm, word_tokenizer
    >>> tokenizer = word_tokenizer(["a rose is red"])
    >>> perplexities(causal_lm(len(tokenizer), d_model=16), tokenizer, ["a rose", ""]).shape
    (2,)
    """
    nll, _ = score_candidates(judge, tokenizer, [""] * len(texts), [[text] if words(text) else [] for text in texts])
    return np.exp(np.where(np.isnan(nll), np.inf, nll))[:, 0] if nll.size else np.full(len(texts), np.inf)


def linguistic_score(texts: Sequence[str], perplexity: Sequence[float]) -> float:
    """LS, in (0, 1): the harmonic mean of 1 / (1 + PPL), 1 / (1 + Brunet) and Honore / (1 + Honore), which are the
    sigmoids of -log PPL, -log Brunet and log Honore; each quantity is first averaged over the texts.

    A finite perplexity of at most 10^6 stands for one that is infinite.

    Args:
        texts: what the model said.
        perplexity: of each text, see `perplexities`.

    Raises:
        ValueError: if there is no text, the numbers differ, or a perplexity is below 1 or not a number.

    >>> round(linguistic_score(["a rose is a rose"], [3.0]), 4)
    0.3051
    """
    ppl = np.asarray(perplexity, dtype=float)
    if isinstance(texts, str) or not len(texts) or ppl.shape != (len(texts),):
        raise ValueError(f"one perplexity a text is needed: {len(texts)} texts, perplexities of shape {ppl.shape}")
    if np.isnan(ppl).any() or (ppl < 1).any():
        raise ValueError(f"perplexities must be at least 1, got {ppl.min()}")
    richness = np.mean([honore(text) for text in texts])
    if richness == 0:
        return 0.0
    poverty = np.mean([brunet(text) for text in texts])
    return float(3 / ((1 + ppl.clip(max=1e6).mean()) + (1 + poverty) + (1 + 1 / richness)))


def share_distinct(texts: Sequence[str]) -> float:
    """The share of different texts, up to case and signs: near 0 where the model says one thing to every question.

    >>> share_distinct(["I do not know.", "i do not know", "In Porto."])
    0.6666666666666666
    """
    if not texts:
        raise ValueError("there are no texts: give at least one")
    return len({tuple(words(text)) for text in texts}) / len(texts)
