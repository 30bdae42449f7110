"""The user's own texts: a file of paragraphs, a JSON-lines file with a text a line, or a folder of files.

They come as the `Corpus` that the built-in text is (`palimpsest.tasks.text`): whole documents to train on, to choose
settings on and to test on. A sentence that is nearly one of a held-out document is taken out of what is trained on, not
out of the test, which is the same for every seed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from palimpsest.errors import UserError
from palimpsest.tasks.columns import decoded
from palimpsest.tasks.held_out import content_digest, duplicates_note, key, naming, parts
from palimpsest.tasks.rows import read_bytes, read_objects
from palimpsest.tasks.text import Corpus, Document, shingles, without_overlap

CHARACTERS = 800  # a document of a file of paragraphs ends with the one that reaches it
NEAR = 0.5  # share of a sentence's shingles that are held out, above which it is nearly one that is
COMPARED = 20_000_000  # characters up to which sentences are compared
ENDINGS = (".txt", ".md")


@dataclass(frozen=True, eq=False)
class TextFile:
    """Texts that were read, with what was found out about them.

    Attributes:
        notes: what a user should know, a sentence each.
        digest: SHA-256 of the content.
        documents: all of them; `topic` is the number of the document, from 0.
    """

    notes: tuple[str, ...]
    digest: str
    documents: tuple[Document, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.documents)

    def splits(self, seed: int) -> Corpus:
        """Documents to train on, to choose settings on, and to test on; the last are the same for every seed."""
        keys = [_plain(document.text) for document in self.documents]
        divided = parts([key(text) for text in keys], seed)
        train, validation, test = ([self.documents[row] for row in rows] for rows in divided)
        if sum(map(len, keys)) <= COMPARED:
            seen = _shingles(test)
            validation = without_overlap(validation, seen, at_most=NEAR)
            train = without_overlap(train, seen | _shingles(validation), at_most=NEAR)
        if not train or not validation:
            raise UserError("nearly all sentences occur in several documents: nothing is left to train or choose on")
        return Corpus(tuple(train), tuple(validation), tuple(test))


def read_texts(path: str | Path, *, characters: int = CHARACTERS) -> TextFile:
    """Texts, cut into documents.

    A file of paragraphs, which empty lines divide, is cut after every paragraph that brings a document to `characters`.
    A line {"text": ...} of a JSON-lines file is a document, and so is each file (.txt or .md) of a folder and of the
    folders in it. Files may be compressed.

    Raises:
        UserError: the file is missing, empty or not UTF-8; a line is not JSON or has no text; fewer than 10 documents.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "mine.txt")
        ...     _ = file.write_text("\\n\\n".join(f"The number {n} is {n * n}\\nwhen squared." for n in range(50)))
        ...     texts = read_texts(file, characters=10)
        >>> texts.documents[3].text, [len(part) for part in vars(texts.splits(0)).values()][2]
        ('The number 3 is 9 when squared.', 10)
    """
    if characters < 1:
        raise UserError(f"characters must be at least 1, got {characters}")
    path = Path(path)
    if path.is_dir():
        texts, notes = _of_folder(path)
    else:
        text, notes = decoded(read_bytes(path), path), []
        texts = _of_lines(path) if text.lstrip().startswith("{") else _of_paragraphs(text, characters)
    keys = [key(_plain(text)) for text in texts]
    documents = tuple(Document(text, str(number), "") for number, text in enumerate(texts))
    notes += duplicates_note(keys, "documents")
    found = TextFile(tuple(notes), content_digest(map(key, texts)), documents)
    with naming(path):
        corpus = found.splits(0)
        rows = parts(keys, 0)
    before = sum(len(texts[row]) for row in (*rows.train, *rows.validation))
    lost = before - sum(len(document.text) for document in (*corpus.train, *corpus.validation))
    if sum(map(len, texts)) > COMPARED:
        notes.append("the text is too long to look for sentences that occur in several documents: equal documents only")
    elif lost > 0:
        notes.append(f"about {lost / before:.1%} of what is not tested on is left out: it is nearly what is held out")
    return TextFile(tuple(notes), found.digest, documents)


def _of_paragraphs(text: str, characters: int) -> list[str]:
    found: list[str] = []
    run: list[str] = []
    for paragraph in _paragraphs(text):
        run.append(paragraph)
        if sum(map(len, run)) >= characters:
            found.append("\n".join(run))
            run = []
    return found + (["\n".join(run)] if run else [])


def _of_lines(path: Path) -> list[str]:
    texts = []
    for where, record in read_objects(path):
        if not isinstance(record, dict) or record.get("text") is None:
            has = ", ".join(record) or "nothing" if isinstance(record, dict) else str(record)[:60]
            raise UserError(f"{where}: no text; the row has {has}")
        if not isinstance(record["text"], str):
            raise UserError(f"{where}: text must be a string, got {str(record['text'])[:60]!r}")
        if not (paragraphs := _paragraphs(record["text"])):
            raise UserError(f"{where}: text is empty")
        if any("\ud800" <= character <= "\udfff" for character in record["text"]):
            raise UserError(f"{where}: text holds half of a surrogate pair, which no tokenizer can read")
        texts.append("\n".join(paragraphs))
    return texts


def _of_folder(folder: Path) -> tuple[list[str], list[str]]:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    kept = [file for file in files if file.suffix.lower() in ENDINGS]
    if not kept:
        raise UserError(f"{folder}: no {' or '.join(ENDINGS)} files in it")
    texts = ["\n".join(_paragraphs(decoded(read_bytes(file), file))) for file in kept]
    skipped = len(files) - len(kept)
    return texts, [f"{skipped} other file{'s'[: skipped > 1]} of the folder are skipped"] if skipped else []


def _paragraphs(text: str) -> list[str]:
    blocks = re.split(r"\n[^\S\n]*\n", text.replace("\r\n", "\n").replace("\r", "\n"))
    return [line for block in blocks if (line := " ".join(block.split()))]


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _shingles(texts: list[Document]) -> set[str]:
    return set().union(*(shingles(document.text) for document in texts))
