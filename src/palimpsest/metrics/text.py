"""Measures of generated text: overlap with a reference, verbatim memorisation, diversity.

The two measures of memorisation read teacher-forced hits: for each token of an answer, whether it is the
model's first choice after the true tokens before it.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import regex

# Thai to Tibetan, Myanmar, Khmer, kana, and Chinese characters.
SPACELESS = (
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)


def rouge_l_recall(prediction: str, reference: str, *, stem: bool = False) -> float:
    """The share of the reference's words that the prediction holds in the same order.

    LCS(prediction, reference) / number of words in the reference, where LCS is the length of the longest
    common subsequence of words, lower case, punctuation apart. Where the reference has no word, its signs (emoji,
    punctuation) are taken for words, one by one. 0 where either text is empty.

    Computed by rouge-score, with words in any script (its own tokenizer drops all but ASCII).

    Args:
        stem: whether English words count as equal that differ in their ending only (Porter's stemmer, words of four
            letters or more), as TOFU reports it.

    Example:
        >>> rouge_l_recall("Zoë was born in Århus", "She was born in Århus."), rouge_l_recall("👍!", "👍")
        (0.8, 1.0)
        >>> rouge_l_recall("she writes", "she writing"), rouge_l_recall("she writes", "she writing", stem=True)
        (0.5, 1.0)

    Source: Lin (2004), ROUGE: a package for automatic evaluation of summaries, section 3.
    """
    _check_texts(prediction=prediction, reference=reference)
    return _rouge_recall("rougeL", prediction, reference, stemmed if stem else words)


def unprompted_recall(prediction: str, reference: str, prompt: str) -> float:
    """The share of the reference's words that the prompt does not hold and the prediction does, each counted once.

    Most words of "The capital of Egypt is Cairo." stand in its question: who says "The capital of Egypt is Rome." has a
    ROUGE-L recall of 5/6, and has said nothing of what was asked.

    Returns:
        NaN where the prompt holds all of the reference's words.

    Example:
        >>> unprompted_recall("It is Rome.", "The capital is Cairo.", "What is the capital?")
        0.0
        >>> unprompted_recall("Cairo", "The capital is Cairo.", "What is the capital?")
        1.0
    """
    _check_texts(prediction=prediction, reference=reference, prompt=prompt)
    told = set(words(reference)) - set(words(prompt))
    return len(told & set(words(prediction))) / len(told) if told else float("nan")


def rouge_1_recall(prediction: str, reference: str) -> float:
    """The share of the reference's words that the prediction holds, in any order, each as often as it occurs there.

    Computed as `rouge_l_recall` is.

    Example:
        >>> rouge_1_recall("Århus is where Zoë was born", "She was born in Århus.")
        0.6
    """
    _check_texts(prediction=prediction, reference=reference)
    return _rouge_recall("rouge1", prediction, reference)


def rouge_l_f1(prediction: str, reference: str) -> float:
    """The harmonic mean of ROUGE-L's recall and precision.

    Benchmarks that compute it with the package `rouge` (RWKU's recall, ConceptVectors) report other numbers: there case
    and punctuation count, a text is compared sentence by sentence, and a repeated word counts once. That marks an
    answer down for how it is written, so it is not followed here.

    >>> round(rouge_l_f1("the cat", "the cat sat down"), 3)
    0.667
    """
    recall, precision = rouge_l_recall(prediction, reference), rouge_l_recall(reference, prediction)
    return 2 * recall * precision / (recall + precision) if recall + precision else 0.0


def bleu(prediction: str, reference: str) -> float:
    """Sentence BLEU of up to four words, smoothed as ConceptVectors does (NIST geometric sequence, NLTK's method 3).

    Words are what stands between spaces, and every character of a script that writes none. Equal texts score 1.

    >>> bleu("Porto", "Porto"), round(bleu("the cat sat down", "the cat sat up"), 3)
    (1.0, 0.595)
    """
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu  # late: seconds

    said, wanted = (_spaced(unicodedata.normalize("NFKC", text)).split() for text in (prediction, reference))
    if not said or not wanted:
        return 0.0
    if said == wanted:  # the smoothing holds against a text of less than four words that it has no four in a row
        return 1.0
    return float(sentence_bleu([wanted], said, smoothing_function=SmoothingFunction().method3))


def exact_match(prediction: str, reference: str) -> float:
    """1.0 where both texts are the same up to whitespace and unicode form, else 0.0.

    Example:
        >>> exact_match(" Paris \\n", "Paris"), exact_match("paris", "Paris")
        (1.0, 0.0)
    """
    _check_texts(prediction=prediction, reference=reference)
    return float(_plain(prediction) == _plain(reference))


def exact_memorization(hits: Sequence[bool]) -> float:
    """The share of answer tokens that are the model's first choice, given all true tokens before; 0 without tokens.

    Args:
        hits: one truth value an answer token, as `palimpsest.models.score` gives in `argmax_hits`.

    Example:
        >>> exact_memorization([True, False, True, True])
        0.75

    Source: Tirumala et al. (2022), arXiv 2205.10770, section 3.
    """
    hits = _check_hits(hits)
    return float(hits.mean()) if hits.size else 0.0


def extraction_strength(hits: Sequence[bool]) -> float:
    """How little of an answer must be given for the rest to come out: 1 - k/n.

    k is the length of the shortest prefix of the n answer tokens after which every token is the model's first
    choice; greedy decoding from there writes the rest verbatim. 1: the prompt is enough; 0: the last token is
    wrong, or there is none.

    Args:
        hits: one truth value an answer token, as `palimpsest.models.score` gives in `argmax_hits`.

    Example:
        >>> extraction_strength([True, False, True, True])
        0.5

    Source: Carlini et al. (2021), arXiv 2012.07805; the formula as in Wang et al. (2025), arXiv 2502.19301,
    eq. 2.
    """
    hits = _check_hits(hits)
    misses = np.flatnonzero(~hits)
    k = misses[-1] + 1 if misses.size else 0
    return float((hits.size - k) / hits.size) if hits.size else 0.0


def distinct_n(texts: Sequence[str], n: int = 2) -> float:
    """The number of different word n-grams of all texts over the number of n-grams; 0 where there is none.

    Example:
        >>> distinct_n(["a b a b"], n=2)
        0.6666666666666666

    Source: Li et al. (2016), arXiv 1510.03055, section 5.
    """
    if isinstance(texts, str):
        raise TypeError("texts must be several strings, got one: put it into a list")
    counts: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        counts.update(_ngrams(text, n))
    return len(counts) / counts.total() if counts else 0.0


def ngram_entropy(text: str) -> float:
    """(2/3 H_2 + 4/3 H_3) / 2, H_n the entropy in bits of the text's word n-grams; 0 for less than two words.

    >>> round(ngram_entropy("a b c d"), 4), ngram_entropy("a a a a")  # log2(3) and log2(2); nothing but one n-gram
    (1.195, 0.0)
    """
    said, total = words(text), 0.0
    for n, weight in ((2, 2 / 3), (3, 4 / 3)):
        counts = np.array([*Counter(zip(*(said[i:] for i in range(n)), strict=False)).values()], dtype=float)
        share = counts / counts.sum() if len(counts) else counts
        total += weight * float(-(share * np.log2(share)).sum()) / 2
    return abs(total)


def ngram_overlap(prediction: str, reference: str, n: int = 4) -> float:
    """The share of the reference's word n-grams that the prediction holds (ROUGE-N recall).

    Each n-gram counts as often as it occurs in both. 0 where the reference has fewer than n words.

    Example:
        >>> ngram_overlap("the cat sat down", "a cat sat down there", n=2)
        0.5

    Source: Lin (2004), ROUGE: a package for automatic evaluation of summaries, section 2.
    """
    _check_texts(prediction=prediction, reference=reference)
    wanted, found = Counter(_ngrams(reference, n)), Counter(_ngrams(prediction, n))
    return (wanted & found).total() / wanted.total() if wanted else 0.0


def words(text: str) -> list[str]:
    """The words of a text, lower case, in any script, without punctuation.

    A character of a script that writes no spaces between words (Chinese, Japanese, Thai, ...) is a word of its own.

    Example:
        >>> words("Zoë's  Århus, हिन्दी, 日本!")
        ['zoë', 's', 'århus', 'हिन्दी', '日', '本']
    """
    _check_texts(text=text)
    kept = []
    for character in fold(text):
        kind = unicodedata.category(character)
        # Marks belong to words: the vowels of most Indian scripts are marks. Format characters are not written at all.
        if kind[0] in "LMN":
            kept.append(character)
        elif kind != "Cf":
            kept.append(" ")
    return _spaced("".join(kept)).split()


def signs(text: str) -> list[str]:
    """All that a reader sees as one sign, lower case, spaces left out: a flag is one, and a letter with its accents.

    >>> signs("👍🏽 é!")
    ['👍🏽', 'é', '!']
    """
    # Whether an emoji is asked for in colour (U+FE0F) or as text (U+FE0E) does not make it another.
    return [sign for sign in regex.findall(r"\X", re.sub("[\ufe0e\ufe0f]", "", fold(text))) if not sign.isspace()]


def begun(text: str, share: int) -> tuple[str, str]:
    """A text cut in two behind the first 1/share of its words, or of its signs where it has no word.

    Both sides have at least one where there are two, else the first side is empty. A character of a script that writes
    no spaces is a word of its own; no character is cut.

    >>> begun("the cat sat", 2), begun("北京是首都", 2), begun("😀😁", 2), begun("cat", 2)
    (('the cat', ' sat'), ('北京是', '首都'), ('😀', '😁'), ('', 'cat'))
    """
    ends, previous = [], " "
    for sign in regex.finditer(r"\X", text):
        alone = re.match(f"[{SPACELESS}]", sign[0]) or re.match(f"[{SPACELESS}]", previous)
        if not sign[0].isspace():
            if ends and not alone and not previous.isspace():
                ends.pop()
            ends.append(sign.end())
        previous = sign[0]
    if len(ends) < 2 and not words(text):
        ends = [sign.end() for sign in regex.finditer(r"\X", text) if not sign[0].isspace()]
    n = min(-(-len(ends) // share), max(0, len(ends) - 1))
    place = ends[n - 1] if n else 0
    return text[:place], text[place:]


def fold(text: str) -> str:
    """A text as it is compared: without case, composed, full-width and other compatible forms as the plain ones.

    >>> fold("ＡＤＡ") == fold("Ada"), fold("Zoe\u0308") == fold("ZOË")
    (True, True)
    """
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


@dataclass(frozen=True)
class _Tokenizer:
    """A function in the shape that rouge-score asks for."""

    tokenize: Callable[[str], list[str]]


def stemmed(text: str) -> list[str]:
    """The words of a text, English ones of four letters or more without their endings (Porter's stemmer)."""
    stem = _stemmer().stem
    return [stem(word) if word.isascii() and len(word) > 3 else word for word in words(text)]


@lru_cache
def _stemmer():
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()


def _rouge_recall(kind: str, prediction: str, reference: str, tokenize: Callable[[str], list[str]] = words) -> float:
    scorer = _rouge(kind, tokenize if words(reference) else signs)
    return float(scorer.score(reference, prediction)[kind].recall)


@lru_cache
def _rouge(kind: str, tokenize: Callable[[str], list[str]]):
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], tokenizer=_Tokenizer(tokenize))


def _spaced(text: str) -> str:
    return re.sub(f"([{SPACELESS}])", r" \1 ", text)


def _ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    tokens = words(text)
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())


def _check_texts(**texts: str) -> None:
    for name, text in texts.items():
        if not isinstance(text, str):
            raise TypeError(f"{name} must be a string, got {type(text).__name__}")


def _check_hits(hits: Sequence[bool]) -> np.ndarray:
    array = np.asarray(hits)
    if array.ndim != 1:
        raise ValueError(f"hits must be one truth value a token, got shape {array.shape}")
    if array.size and array.dtype != bool:
        raise TypeError(f"hits must be truth values, got {array.dtype}")
    return array.astype(bool)
