"""Whether ReLearn worked, judged by what the model says: the rates of forgetting and of retention by entities, and how
well it speaks; the formulas are in `palimpsest.forget.relearn`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import nn
from transformers import PreTrainedTokenizerBase

from palimpsest.forget.evaluation import score_candidates
from palimpsest.forget.rewording import FUNCTION_WORDS, fuzzy_match, private_words
from palimpsest.metrics.text import words

MOST_HONORE = 1e6
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
