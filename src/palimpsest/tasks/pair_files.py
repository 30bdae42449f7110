"""The user's own pairs of texts: what is asked and what answers it, one JSON object a line.

They come as `Pairs`, as the docstrings do (`palimpsest.tasks.docpairs`): rows of one `wording` have the same query but
for case and signs, rows of one `content` have documents that are alike, and both stay in one part of the split, so that
no query and no document of the test was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from palimpsest.errors import UserError
from palimpsest.metrics.text import fold
from palimpsest.tasks.columns import decoded
from palimpsest.tasks.docpairs import Pairs, alike
from palimpsest.tasks.held_out import OF_A_CLASS, content_digest, duplicates_note, key, naming, parts
from palimpsest.tasks.rows import read_bytes, read_objects
from palimpsest.tasks.splits import Splits

QUERIES = ("query", "question", "anchor", "summary", "sentence1")
DOCUMENTS = ("document", "passage", "positive", "answer", "context", "body", "sentence2")
"""accepted names of the two texts, the first that a line has"""
NEGATIVE = "negative"
COMPARED = 20_000  # documents up to which alike ones are looked for, and not only equal ones


@dataclass(frozen=True, eq=False)
class PairFile:
    """Pairs that were read, with what was found out about them.

    Attributes:
        pairs: all of them, each asked; `index` is the row in the file, from 0, blank lines aside.
        negatives: of each pair, documents that do not answer its query; none where the file has none.
        notes: what a user should know, a sentence each.
        digest: SHA-256 of the content.
    """

    notes: tuple[str, ...]
    digest: str
    pairs: Pairs = field(repr=False)
    negatives: tuple[tuple[str, ...], ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.pairs)

    def splits(self, seed: int) -> Splits[Pairs]:
        """Pairs to train on, to choose settings on, and to test on; the last are the same for every seed."""
        keys = [key(*row) for row in zip(self.pairs.summary, self.pairs.body, strict=True)]
        divided = parts(keys, seed, groups=_connected(self.pairs))
        return Splits(*(self.pairs[torch.from_numpy(rows)] for rows in divided))

    def hard_negatives(self, pairs: Pairs) -> tuple[tuple[str, ...], ...]:
        """Those of the given pairs."""
        return tuple(self.negatives[row] for row in pairs.index.tolist())


def read_pairs(path: str | Path) -> PairFile:
    """Pairs of a JSON-lines file (compressed or not): {"query": ..., "document": ...} a line, both texts.

    The query may also be named question, anchor, summary or sentence1, the document passage, positive, answer, context,
    body or sentence2; of several names in a line the first of these counts. "negative", a text or a list of them,
    gives documents that do not answer.

    Raises:
        UserError: the file is missing, empty or not UTF-8; a line is not JSON, or lacks a text; fewer than 10 pairs, or
            fewer than three groups of pairs without a query or a document in common.

    Example:
        >>> import json, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "pairs.jsonl")
        ...     lines = [json.dumps({"question": f"What is {n}?", "answer": f"{n} is a number"}) for n in range(50)]
        ...     _ = file.write_text("\\n".join(lines))
        ...     pairs = read_pairs(file)
        >>> [len(part) for part in vars(pairs.splits(0)).values()]
        [30, 10, 10]
    """
    records = read_objects(_file(path))
    rows = [_pair(record, where) for where, record in records]
    queries, documents, negatives = zip(*rows, strict=True)
    wording, content = _numbers([_plain(text) for text in queries]), _content(documents)
    everything = torch.arange(len(rows))
    pairs = Pairs(queries, documents, wording, content, everything >= 0, everything)
    keys = [key(query, document) for query, document in zip(map(_plain, queries), map(_plain, documents), strict=True)]
    digests = [key(query, document, *wrong) for query, document, wrong in rows]
    notes = duplicates_note(keys, "pairs")
    for one, many, values in (("query", "queries", wording), ("document", "documents", content)):
        again = len(set(keys)) - int(values.unique().numel())
        if again > 0:
            said = f"1 more {one} is" if again == 1 else f"{again:,} more {many} are"
            notes.append(f"{said} like an earlier one: such pairs stay in one part")
    connected = len(set(_connected(pairs).tolist()))
    if connected < OF_A_CLASS <= len(rows):
        says = "have no query or document in common, or one like it: three are the least, one for each part"
        raise UserError(f"{path}: of {len(rows)} pairs only {connected} {says}")
    found = PairFile(tuple(notes), content_digest(digests), pairs, negatives)
    with naming(path):
        found.splits(0)
    return found


def read_corpus(path: str | Path) -> tuple[str, ...]:
    """Texts, one a line, or as {"text": ...} (or a document by a name of `read_pairs`) a line; each distinct one once.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "corpus.txt")
    ...     _ = file.write_text("one text\\n\\nanother\\none text\\n")
    ...     read_corpus(file)
    ('one text', 'another')

    Raises:
        UserError: the file is missing, empty or not UTF-8, or a line is not JSON where the first is, or has no text.
    """
    path = _file(path)
    text = decoded(read_bytes(path), path)
    if text.lstrip().startswith("{"):
        texts = [_text(record, ("text", *DOCUMENTS), where) for where, record in read_objects(path)]
    else:
        texts = [line.strip() for line in text.split("\n") if line.strip()]
    return tuple(dict.fromkeys(texts))


def _file(path: str | Path) -> Path:
    if Path(path).is_dir():
        raise UserError(f"{path}: a folder: give a file")
    return Path(path)


def _pair(record: Any, where: str) -> tuple[str, str, tuple[str, ...]]:
    query, document = _text(record, QUERIES, where), _text(record, DOCUMENTS, where)
    wrong = record.get(NEGATIVE) or []
    wrong = [wrong] if isinstance(wrong, str) else wrong
    if not isinstance(wrong, list) or not all(isinstance(each, str) and each.strip() for each in wrong):
        raise UserError(f"{where}: {NEGATIVE} must be a text or a list of texts, got {str(record[NEGATIVE])[:60]!r}")
    return query, document, tuple(wrong)


def _text(record: Any, names: Sequence[str], where: str) -> str:
    """The text of a record under the first of the names that it has."""
    if not isinstance(record, Mapping):
        raise UserError(f'{where}: expected an object like {{"{names[0]}": ...}}, got {str(record)[:60]!r}')
    name = next((name for name in names if record.get(name) is not None), None)
    if name is None:
        raise UserError(
            f"{where}: no {names[0]} (or {', '.join(names[1:])}); the row has {', '.join(record) or 'nothing'}"
        )
    text = record[name]
    if not isinstance(text, str):
        raise UserError(f"{where}: {name} must be a text, got {str(text)[:60]!r}")
    if not text.strip():
        raise UserError(f"{where}: {name} is empty")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{where}: {name} holds half of a surrogate pair, which no tokenizer can read")
    return text


def _plain(text: str) -> str:
    """A text without case, signs and spaces; its signs where it has nothing else."""
    words = "".join(character if character.isalnum() else " " for character in fold(text)).split()
    return " ".join(words or text.split())


def _numbers(texts: Sequence[str]) -> Int[torch.Tensor, " n"]:
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(text, len(numbers)) for text in texts])


def _content(documents: Sequence[str]) -> Int[torch.Tensor, " n"]:
    """Numbers of documents, equal where they are alike; where there are many, where they are the same."""
    plain = [_plain(text) for text in documents]
    same = _numbers(plain)
    distinct = list(dict.fromkeys(plain))
    if len(distinct) > COMPARED:
        return same
    return torch.from_numpy(alike(distinct))[same]


def _connected(pairs: Pairs) -> Int[np.ndarray, " n"]:
    """Numbers of pairs, equal where queries or documents connect them."""
    from scipy import sparse

    n = len(pairs)
    rows = np.tile(np.arange(n), 2)
    columns = np.concatenate([pairs.wording.numpy(), pairs.content.numpy() + n]) + n
    links = sparse.coo_matrix((np.ones(2 * n), (rows, columns)), (3 * n, 3 * n))
    return sparse.csgraph.connected_components(links, directed=False)[1][:n]
