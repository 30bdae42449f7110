"""English text that ships with Python: the language reference that `pydoc` prints, cleaned and split.

About 250,000 characters of technical prose on some 79 topics, in three domains. Grammar, code, signatures and
headings are left out; a paragraph that several topics quote is kept in one of them. A document is a run of paragraphs
of one topic. Splits share no document, and no sentence of a held-out document is nearly one of training, by shingles
of 20 characters.

The text differs a little between versions of Python, so results are comparable on one version only; nothing here
depends on what it says. Topics unknown to this file are left out.

Source: The Python Language Reference (Python Software Foundation), through the module `pydoc_data.topics`.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from palimpsest.tasks.fresh import check_disjoint, split_seed, stratified_order

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHINGLE = 20

# What a topic is about: doing something, computing a value, or the things that values are.
_TOPICS = {
    "statements": (
        "assert assignment async augassign break class compound context-managers continue debugger del "
        "dynamic-features else exceptions execmodel for function global if import naming nonlocal pass raise "
        "return try while with"
    ),
    "expressions": (
        "atom-identifiers atom-literals attribute-references await binary bitwise booleans calls comparisons "
        "conversions dict exprlists floating formatstrings id-classes identifiers imaginary in integers lambda "
        "lists numbers operator-summary power shifting slicings string-methods strings subscriptions truth "
        "typesseq unary yield"
    ),
    "objects": (
        "attribute-access bltin-code-objects bltin-ellipsis-object bltin-null-object bltin-type-objects "
        "callable-types customization numeric-types objects sequence-types specialattrs specialnames types "
        "typesfunctions typesmapping typesmethods typesmodules typesseq-mutable"
    ),
}
DOMAINS = {domain: tuple(topics.split()) for domain, topics in _TOPICS.items()}


@dataclass(frozen=True)
class Document:
    """Consecutive paragraphs of one topic, one a line."""

    text: str
    topic: str
    domain: str

    @property
    def paragraphs(self) -> tuple[str, ...]:
        """The paragraphs."""
        return tuple(self.text.split("\n"))


@dataclass(frozen=True)
class Sentence:
    """A sentence, with its topic and domain; `document` is the position of the document it is from."""

    text: str
    topic: str
    domain: str
    document: int


@dataclass(frozen=True)
class Corpus:
    """Documents to train on, to choose settings on, and to test on."""

    train: tuple[Document, ...]
    validation: tuple[Document, ...]
    test: tuple[Document, ...]


@dataclass(frozen=True, eq=False)
class Passages:
    """Pieces of text of one length, as token ids; `document` is the position of the document each begins in."""

    ids: Int[Tensor, "n length"]
    document: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.ids)


def documents(
    seed: int,
    *,
    by: str = "document",
    validation: float = 0.1,
    test: float = 0.1,
    characters: int = 800,
    overlap: float = 0.5,
    domains: Sequence[str] = tuple(DOMAINS),
) -> Corpus:
    """The text as documents, split anew by each seed, without near duplicates across splits.

    Args:
        seed: 0 to 999,999.
        by: "document": documents of the same topic may be in different splits (topics in about equal shares);
            "topic": all of a topic is in one split, so that held-out text is about something else.
        validation: about which share to choose settings on (of the documents, or of the characters if by topic).
        test: about which share to test on.
        characters: a document ends with the paragraph that reaches this length, or with its topic.
        overlap: a sentence of validation is dropped when more than this share of its shingles (20 characters) occurs
            in training; of the test, in training or validation. With 0 no shingle is shared at all, at the price of
            about two thirds of the held-out text.
        domains: which of the domains "statements", "expressions" and "objects".

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> corpus = documents(0)
        >>> len(corpus.train) > 100, len(corpus.test) > 10, sorted({d.domain for d in corpus.train})
        (True, True, ['expressions', 'objects', 'statements'])
    """
    if by not in ("document", "topic"):
        raise ValueError(f"by must be 'document' or 'topic', got {by!r}")
    if validation < 0 or test < 0 or not validation + test < 1:
        raise ValueError(f"validation and test must not be negative and sum to below 1, got {validation} and {test}")
    if characters < 1:
        raise ValueError(f"characters must be at least 1, got {characters}")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must be from 0 to below 1, got {overlap}")
    unknown = set(domains) - set(DOMAINS)
    if unknown or not domains:
        raise ValueError(f"domains must be among {', '.join(DOMAINS)}, got {tuple(domains)}")
    everything = [
        document
        for topic, paragraphs in _paragraphs()
        if _domain(topic) in domains
        for document in _cut(topic, paragraphs, characters)
    ]
    rng = np.random.default_rng(split_seed(seed, "train"))
    shares = {"test": test, "validation": validation, "train": 1 - test - validation}
    parts = _split_by_topic(everything, shares, rng) if by == "topic" else _split(everything, shares, rng)
    seen = _all_shingles(parts["train"])
    parts["validation"] = without_overlap(parts["validation"], seen, at_most=overlap)
    seen |= _all_shingles(parts["validation"])
    parts["test"] = without_overlap(parts["test"], seen, at_most=overlap)
    check_disjoint(**{part: [sentence.text for sentence in sentences(parts[part])] for part in shares})
    if overlap == 0:
        check_disjoint(**{part: _all_shingles(parts[part]) for part in shares})
    return Corpus(tuple(parts["train"]), tuple(parts["validation"]), tuple(parts["test"]))


def sentences(texts: Iterable[Document], *, shortest: int = 1, longest: int | None = None) -> list[Sentence]:
    """The sentences of documents, in order, each distinct one once.

    Args:
        texts: documents.
        shortest: fewest words (separated by spaces).
        longest: most words; None for no limit.

    Example:
        >>> [s.text for s in sentences([Document("It waits, e.g. for I/O. Then it runs.", "async", "statements")])]
        ['It waits, e.g. for I/O.', 'Then it runs.']
    """
    found: dict[str, Sentence] = {}
    for number, document in enumerate(texts):
        for paragraph in document.paragraphs:
            for text in _sentences(paragraph):
                words = len(text.split())
                if words >= shortest and (longest is None or words <= longest):
                    found.setdefault(text, Sentence(text, document.topic, document.domain, number))
    return list(found.values())


def passages(
    texts: Sequence[Document | Sentence | str],
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    *,
    packed: bool = False,
) -> Passages:
    """Text cut into pieces of exactly `length` tokens.

    Args:
        texts: documents, sentences or plain texts.
        tokenizer: any Hugging Face tokenizer.
        length: tokens a piece.
        packed: all texts follow one another, each ended by the tokenizer's end token, so that no token is lost but
            the last ones; otherwise a piece lies within one text, and what is left at a text's end is dropped.

    Returns:
        As many pieces as there are.

    Raises:
        ValueError: `length` is below 1, or the tokenizer has no end token to pack with.

    Example:
        >>> from palimpsest.models.tokenizers import word_tokenizer
        >>> tokenizer = word_tokenizer(["one two three four five six seven"])
        >>> passages(["one two three four five", "six seven"], tokenizer, 2).ids.tolist()
        [[4, 5], [6, 7], [9, 10]]
        >>> passages(["one two three four five", "six seven"], tokenizer, 3, packed=True).document.tolist()
        [0, 0, 1]
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    if packed and tokenizer.eos_token_id is None:
        raise ValueError("packing needs a tokenizer with an end token: set tokenizer.eos_token")
    plain = [text if isinstance(text, str) else text.text for text in texts]
    encoded = tokenizer(plain, add_special_tokens=False, verbose=False).input_ids if plain else []
    if packed:
        encoded = [[*ids, tokenizer.eos_token_id] for ids in encoded]
    source = [number for number, ids in enumerate(encoded) for _ in ids]
    flat = [token for ids in encoded for token in ids]
    if packed:
        starts = range(0, len(flat) - length + 1, length)
    else:
        ends = np.cumsum([0, *map(len, encoded)])
        starts = [
            start
            for first, last in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)
            for start in range(first, last - length + 1, length)
        ]
    ids = torch.tensor([flat[start : start + length] for start in starts], dtype=torch.long).view(-1, length)
    return Passages(ids, torch.tensor([source[start] for start in starts], dtype=torch.long))


def vocabulary(texts: Iterable[Document | Sentence | str], size: int | None = None) -> list[str]:
    """Words and signs by how often they occur, the most frequent first (ties by alphabet), at most `size` of them.

    They are the pieces into which `palimpsest.models.tokenizers.word_tokenizer` splits a text.

    >>> vocabulary(["to be, or not to be"], 3)
    ['be', 'to', ',']
    """
    from palimpsest.models.tokenizers import WORD  # late: it brings all of transformers

    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    counts = Counter(word for text in texts for word in re.findall(WORD, text if isinstance(text, str) else text.text))
    return sorted(counts, key=lambda word: (-counts[word], word))[:size]


def shingles(text: str, size: int = SHINGLE) -> set[str]:
    """All stretches of `size` characters, in lower case and with single spaces; a shorter text is its own shingle.

    >>> sorted(shingles("To be  or", 6))
    [' be or', 'o be o', 'to be ']
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    text = _plain(text)
    return {text[start : start + size] for start in range(max(1, len(text) - size + 1))}


def without_overlap(texts: Iterable[Document], seen: set[str], *, at_most: float = 0.0) -> list[Document]:
    """Documents without the sentences of which more than the share `at_most` of the shingles were seen.

    The shingles across the seam between a sentence and what is kept before it count too, so that with 0 the documents
    that come back hold no seen shingle anywhere. Documents that lose all their sentences are left out.

    >>> seen = shingles("The statement is executed once and for all.")
    >>> held_out = Document("The statement is executed twice. Nothing else happens here.", "for", "statements")
    >>> without_overlap([held_out], seen)[0].text
    'Nothing else happens here.'
    """
    kept = []
    for document in texts:
        paragraphs, before = [], ""
        for paragraph in document.paragraphs:
            chosen = []
            for sentence in _sentences(paragraph):
                runs = (shingles(sentence), shingles(f"{before} {sentence}"))
                if all(len(found & seen) <= at_most * len(found) for found in runs):
                    chosen.append(sentence)
                    # One character more than a shingle reaches back: a space at its beginning does not count.
                    before = _plain(f"{before} {sentence}")[-SHINGLE:]
            if chosen:
                paragraphs.append(" ".join(chosen))
        if paragraphs:
            kept.append(dataclasses.replace(document, text="\n".join(paragraphs)))
    return kept


@cache
def _paragraphs() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The prose of every known topic; of the topics that quote a paragraph, the shortest (most specific) keeps it."""
    from pydoc_data.topics import topics

    seen: set[str] = set()
    found: dict[str, tuple[str, ...]] = {}
    for topic in sorted(topics, key=lambda name: (len(topics[name]), name)):
        if _domain(topic) is None:
            continue
        blocks = (block for block in re.split(r"\n\s*\n", topics[topic]) if "::=" not in block and ">>>" not in block)
        prose = [text for text in map(_clean, blocks) if _is_prose(text) and text not in seen]
        seen.update(prose)
        if prose:
            found[topic] = tuple(dict.fromkeys(prose))
    return tuple(sorted(found.items()))


def _clean(block: str) -> str:
    """One line of plain text out of a block of reStructuredText."""
    # A line that ends within a hyphenated word is joined without a space.
    text = re.sub(r"(?<=\w-)\n\s*(?=\w)", "", block)
    text = " ".join(text.split()).translate(_ASCII)
    text = re.sub(r"``?([^`]+)``?", r'"\1"', text)
    text = re.sub(r"(?<![\w*\"'])\*{1,2}(\w(?:[^*]*[^*\s])?)\*{1,2}(?![\w*\"'])", r"\1", text)
    text = re.sub(r"^(?:[*+-]|\d+\.|\[\d+\]) ", "", text)
    return re.sub(r"^(?:New|Added|Changed|Deprecated) (?:in|since) version [\d.]+[:.] ?", "", text)


_ASCII = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "…": "...", "—": "-", "–": "-", "−": "-"})


def _is_prose(text: str) -> bool:
    """A paragraph of sentences: begins and ends like one, and most of it is words."""
    if len(text) < 40 or not re.match(r'[A-Z"(]', text) or not re.search(r'[.:!?][)"]*$', text):
        return False
    words = text.split()
    ordinary = sum(re.fullmatch(r"[\"'(]*[A-Za-z][A-Za-z'-]*[\"').,:;!?]*", word) is not None for word in words)
    return ordinary >= 0.7 * len(words)


def _sentences(paragraph: str) -> list[str]:
    return re.split(r"(?<=[.!?])(?<!\b[eE]\.g\.)(?<!\b[iI]\.e\.)(?<!\bcf\.)\s+(?=[A-Z\"(])", paragraph)


def _cut(topic: str, paragraphs: Sequence[str], characters: int) -> list[Document]:
    made, run = [], []
    for number, paragraph in enumerate(paragraphs, 1):
        run.append(paragraph)
        if sum(map(len, run)) >= characters or number == len(paragraphs):
            made.append(Document("\n".join(run), topic, _domain(topic)))
            run = []
    return made


def _split(
    everything: Sequence[Document], shares: dict[str, float], rng: np.random.Generator
) -> dict[str, list[Document]]:
    order = stratified_order([document.topic for document in everything], rng)
    ends = np.round(np.cumsum(list(shares.values())) * len(order)).astype(int)
    parts = np.split(order, ends[:-1])
    return {part: [everything[row] for row in sorted(rows)] for part, rows in zip(shares, parts, strict=True)}


def _split_by_topic(
    everything: Sequence[Document], shares: dict[str, float], rng: np.random.Generator
) -> dict[str, list[Document]]:
    """Topics in random order, those of a domain spread evenly, each to the part that lacks the most for its share."""
    topics = sorted({document.topic for document in everything})
    sizes = Counter()
    for document in everything:
        sizes[document.topic] += len(document.text)
    parts: dict[str, list[Document]] = {part: [] for part in shares}
    filled = dict.fromkeys(shares, 0)
    for row in stratified_order([_domain(topic) for topic in topics], rng):
        wanting = [part for part in shares if shares[part] > 0]
        part = min(wanting, key=lambda part: filled[part] / shares[part])
        parts[part] += [document for document in everything if document.topic == topics[row]]
        filled[part] += sizes[topics[row]]
    return parts


@cache
def _domain(topic: str) -> str | None:
    return next((domain for domain, topics in DOMAINS.items() if topic in topics), None)


def _all_shingles(texts: Iterable[Document]) -> set[str]:
    found: set[str] = set()
    for document in texts:
        found |= shingles(document.text)
        for paragraph in document.paragraphs:
            # Sentences shorter than a shingle are not in the text's shingles, but in the check.
            found.update(*(shingles(sentence) for sentence in _sentences(paragraph) if len(sentence) < SHINGLE))
    return found


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
