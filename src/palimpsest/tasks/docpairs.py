"""Summary lines and bodies of real docstrings: 15,000 pairs for contrastive learning of texts and for dense retrieval.

A docstring whose first paragraph is one line gives a pair: the line asks, the rest answers. They are real, and so are
their faults: some bodies are nearly the same (methods of related classes), and some summaries are repeated over other
bodies ("Fit the model."). Such false negatives are kept and labelled: `Pairs.content` tells which bodies are alike,
`Pairs.wording` which summaries are the same, and `Pairs.answers` puts both together.

The pool is cut once, never through bodies that are alike: five corpora of 1,500 pairs to test on, 1,500 pairs to choose
settings on, and the rest (6,117), which training pairs are drawn from. Seed s searches corpus s mod 5 with a quarter of
its summaries: twenty consecutive seeds ask different questions, and five consecutive ones search different bodies.
Summaries may be repeated across the cuts.

How many of the bodies that belong to a summary are found first in a corpus of 1,500 (R@1), and in parentheses how often
one of `answers` is: 0.15 (0.16) by the mean of random word vectors, 0.38 (0.41) once these are trained on the 4,000
pairs, 0.44 (0.46) by TF-IDF; by MiniLM as it comes 0.54 (0.57), on the queries of seed 0 alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int
from scipy import sparse
from torch import Tensor

from palimpsest.tasks import docstrings as pool
from palimpsest.tasks.fresh import split_seed
from palimpsest.tasks.splits import Rows, Splits

CORPORA, CORPUS, QUARTERS = 5, 1500, 4
"""corpora to test on, the pairs of each, and the parts of each whose summaries one seed asks"""
VALIDATION = 1500
SUMMARY_WORDS, BODY_WORDS = 3, 10  # the least that a pair has
SHINGLE, ALIKE = 5, (4, 5)  # bodies are alike where 4/5 of the runs of 5 words that either has are in both
RECIPE = 1  # raised when `_pair` or `alike` changes its result


@dataclass(frozen=True, eq=False)
class Pairs(Rows):
    """Summaries with their bodies.

    Attributes:
        summary: one line each.
        body: what follows it, of one or more paragraphs.
        wording: rows of one number have the same summary, but for case and signs.
        content: rows of one number have bodies that are alike, directly or through others.
        asked: the rows whose summaries are queries; the bodies of all rows are the corpus.
        index: the place of the docstring in `docstrings()`.
    """

    summary: tuple[str, ...]
    body: tuple[str, ...]
    wording: Int[Tensor, " n"]
    content: Int[Tensor, " n"]
    asked: Bool[Tensor, " n"]
    index: Int[Tensor, " n"]

    def answers(self, corpus: Pairs) -> Bool[Tensor, "n corpus"]:
        """Which bodies of a corpus answer each summary: those like its own, and those of the same summary.

        >>> two = torch.tensor([0, 0])
        >>> pairs = Pairs(("Fit it.", "Fit it."), ("a b", "c d"), two, torch.tensor([0, 1]), two == 0, two)
        >>> pairs.answers(pairs).all()
        tensor(True)
        """
        return (self.wording[:, None] == corpus.wording) | (self.content[:, None] == corpus.content)


def docpairs(seed: int, *, train: int = 4000) -> Splits[Pairs]:
    """Training pairs drawn by the seed, the validation pairs, and a corpus with the seed's own queries.

    Args:
        seed: 0 to 999,999.
        train: how many pairs to train on; a smaller set of a seed is contained in a larger one.

    Returns:
        `test` holds a corpus of 1,500 pairs, of which the 375 that are `asked` belong to this seed; all pairs of
        `train` and of `validation` (1,500) are asked.

    Raises:
        UserError: a package whose docstrings are read is not installed.
        ValueError: `train` is below 1 or above what the installed packages give.

    >>> task = docpairs(0)  # doctest: +SKIP
    >>> len(task.train), len(task.validation), len(task.test), int(task.test.asked.sum())  # doctest: +SKIP
    (4000, 1500, 1500, 375)
    """
    table = _pairs()
    *parts, validation, rest = _cut()
    if not 1 <= train <= len(rest):
        raise ValueError(f"train must be from 1 to {len(rest)}, got {train}")
    drawn = np.random.default_rng(split_seed(seed, "train")).permutation(rest)[:train]
    corpus, quarter = seed % CORPORA, seed // CORPORA % QUARTERS
    tested = np.sort(np.concatenate(parts[corpus * QUARTERS :][:QUARTERS]))
    asked = torch.from_numpy(np.isin(tested, parts[corpus * QUARTERS + quarter]))
    return Splits(table[drawn], table[validation], replace(table[tested], asked=asked))


@cache
def digest() -> str:
    """SHA-256 over all pairs in their order, with the numbers of their bodies: equal where the pool is."""
    table = _pairs()
    hashed = hashlib.sha256()
    for row in zip(table.summary, table.body, table.content.tolist(), strict=True):
        hashed.update(json.dumps(row).encode() + b"\n")
    return hashed.hexdigest()


@cache
def _cut() -> list[np.ndarray]:
    """The rows of the twenty parts to test on, those of validation, and the rest; bodies that are alike stay together.

    The groups of alike bodies stand in one random order, and a part takes from it what still fits.
    """
    content = _pairs().content.numpy()
    order = np.random.default_rng(0).permutation(int(content.max()) + 1)
    by_content = np.split(np.argsort(content, kind="stable"), np.bincount(content).cumsum()[:-1])
    groups = [by_content[number] for number in order]
    parts = []
    for size in [CORPUS // QUARTERS] * (CORPORA * QUARTERS) + [VALIDATION]:
        taken, left = [], []
        for group in groups:
            fits = len(group) <= size
            (taken if fits else left).append(group)
            size -= len(group) if fits else 0
        parts.append(np.sort(np.concatenate(taken)))
        groups = left
    return [*parts, np.sort(np.concatenate(groups))]


@cache
def _pairs() -> Pairs:
    """All pairs in the order of the docstrings; which bodies are alike is kept on disk."""
    from palimpsest.tasks.worlds import cached  # late: loads transformers

    split = [(index, *pair) for index, doc in enumerate(pool.docstrings()) if (pair := _pair(doc.text))]
    index, summaries, bodies = zip(*split, strict=True)

    def build(folder: Path) -> None:
        np.save(folder / "content.npy", alike(bodies))

    folder = cached("docpairs", {"recipe": RECIPE, "docstrings": pool.digest()}, build)
    content = torch.from_numpy(np.load(folder / "content.npy"))
    numbers: dict[str, int] = {}
    wording = torch.tensor([numbers.setdefault(" ".join(_words(line)), len(numbers)) for line in summaries])
    return Pairs(summaries, bodies, wording, content, torch.ones(len(index), dtype=torch.bool), torch.tensor(index))


def alike(texts: Sequence[str]) -> Int[np.ndarray, " n"]:
    """Numbers of texts, equal where two are alike or connected by texts that are.

    Two texts are alike where the runs of five words that are in both are at least 4/5 of those in either (their
    Jaccard similarity); a shorter text is one run. Words are compared without case and signs.

    >>> alike(["a b c d e f", "A b (c) d e, f!", "f e d c b a"]).tolist()
    [0, 0, 1]
    """
    numbers: dict[tuple[str, ...], int] = {}
    runs = []
    for text in texts:
        of_text = dict.fromkeys(_runs(_words(text)))
        runs.append(np.array([numbers.setdefault(run, len(numbers)) for run in of_text]))
    sizes = np.array([len(each) for each in runs])
    ends = np.concatenate([[0], sizes.cumsum()])
    columns = np.concatenate(runs)
    table = sparse.csr_matrix((np.ones(len(columns), np.int64), columns, ends), (len(texts), len(numbers)))
    pairs = []
    for start in range(0, len(texts), 1000):  # so that few of the counts are held at once
        shared = (table[start : start + 1000] @ table.T).tocoo()
        either = sizes[shared.row + start] + sizes[shared.col] - shared.data
        near = ALIKE[1] * shared.data >= ALIKE[0] * either
        pairs.append((shared.row[near] + start, shared.col[near]))
    rows, columns = (np.concatenate(each) for each in zip(*pairs, strict=True))
    graph = sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), (len(texts),) * 2)
    return sparse.csgraph.connected_components(graph, directed=False)[1].astype(np.int64)


def _pair(text: str) -> tuple[str, str] | None:
    """The summary line and the body of a docstring, if it has both."""
    summary, _, body = text.partition("\n\n")
    summary, body = summary.strip(), body.strip()
    if "\n" in summary or len(_words(summary)) < SUMMARY_WORDS or len(_words(body)) < BODY_WORDS:
        return None
    return summary, body


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _runs(text: list[str]) -> Iterator[tuple[str, ...]]:
    return (tuple(text[start : start + SHINGLE]) for start in range(max(1, len(text) - SHINGLE + 1)))
