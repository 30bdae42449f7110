"""Rows of text from JSON-lines files, the one format in which a user's own data comes in.

One JSON object a line, in one of three forms: question and answer (TOFU's published names, with its optional
paraphrases and wrong answers), prompt and completion, or text alone. All become question and answer; a prompt and its
completion are the two halves of one text, which no template is put around, and a text has the question "".
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import unicodedata
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from palimpsest.errors import UserError
from palimpsest.metrics.text import fold
from palimpsest.models.template import Verbatim

FORMS = (("question", "answer"), ("prompt", "completion"), ("text",))
DEEPEST = 100  # more than any data has, and less than what JSON can be written with again
PARAPHRASES = ("paraphrased_question", "paraphrased_answer")
# What compressed files begin with; None is what Python does not unpack by itself.
PACKED = {
    b"\x1f\x8b": ("gzip", gzip.decompress),
    b"BZh": ("bzip2", bz2.decompress),
    b"\xfd7zXZ\x00": ("xz", lzma.decompress),
    b"\x28\xb5\x2f\xfd": ("zstd", None),
    b"PK\x03\x04": ("zip", None),
    b"7z\xbc\xaf": ("7z", None),
}


class _Required(TypedDict):
    question: str
    answer: str
    perturbed_answer: list[str]


class Row(_Required, total=False):
    """A normalised row: these fields, and any others of the file as they were."""

    paraphrased_question: str
    paraphrased_answer: str


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a JSON-lines file, checked one by one and normalised (see `normalise`). Blank lines are skipped.

    Raises:
        UserError: the file is missing, empty or not UTF-8, or a line is not a valid row; the message begins with
            "file:line".
    """
    return [normalise(record, where) for where, record in read_objects(path)]


def read_objects(path: str | Path) -> list[tuple[str, Any]]:
    """What the lines of a JSON-lines file hold, each with its "file:line". Blank lines are skipped.

    Raises:
        UserError: the file is missing, empty or not UTF-8, or a line is not JSON.
    """
    path = Path(path)
    found = []
    # Bytes are split at line ends only, a string would be at U+2028 and others too, which a text may hold.
    for number, line in enumerate(read_bytes(path).splitlines(), start=1):
        where = f"{path}:{number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise UserError(f"{where}: not UTF-8 (byte {error.start}): save the file as UTF-8") from None
        if text:
            found.append((where, _parse(text, where)))
    if not found:
        raise UserError(f"{path}: the file has no rows")
    return found


def read_bytes(path: str | Path) -> bytes:
    """What a file holds, unpacked where it was compressed by gzip, bzip2 or xz.

    Raises:
        UserError: the file is missing or damaged, or compressed in another way.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a file of text")
    content = path.read_bytes()
    for begin, (name, unpack) in PACKED.items():
        if content.startswith(begin):
            if unpack is None:
                raise UserError(f"{path}: compressed ({name}): unpack it first")
            try:
                return unpack(content)
            except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
                raise UserError(f"{path}: compressed ({name}) and damaged: {error}") from None
    return content


def normalise(record: Any, where: str = "row") -> Row:
    """A record as a `Row`: question and answer under these names, `perturbed_answer` a flat list (empty where absent).

    `perturbed_answer` may come as one string or as nested lists. A field that is null counts as absent.

    Args:
        record: a mapping with question and answer, prompt and completion, or text.
        where: what the error messages begin with.

    Raises:
        UserError: a field is missing, empty or not a string.

    >>> normalise({"prompt": "2 + 2 =", "completion": "4"})
    {'question': '2 + 2 =', 'answer': '4', 'perturbed_answer': []}
    """
    if not isinstance(record, Mapping):
        raise UserError(f'{where}: expected an object like {{"question": ..., "answer": ...}}, got {_show(record)}')
    record = {name: value for name, value in record.items() if value is not None}
    form = next((form for form in FORMS if form[0] in record), None)
    if form is None:
        raise UserError(f"{where}: no question, prompt or text; the row has {', '.join(record) or 'no fields'}")
    values = [_text(record, name, where) for name in form]
    as_asked = Verbatim if form[0] == "prompt" or isinstance(values[0], Verbatim) else str
    values[0] = as_asked(values[0])
    row = {"question": values[0] if len(form) == 2 else "", "answer": values[-1]}
    for name in PARAPHRASES:
        if name in record:
            row[name] = (as_asked if name == "paraphrased_question" else str)(_text(record, name, where))
    row["perturbed_answer"] = list(_flatten(record.get("perturbed_answer", []), where))
    return {**row, **{name: value for name, value in record.items() if name not in row and name not in form}}


def identity(row: Row) -> tuple[str, str]:
    """What a row asks and answers, up to case, spaces, Unicode's forms and characters that nobody sees.

    >>> identity({"question": "Who?", "answer": "ADA"}) == identity({"question": " who?", "answer": "\u200bAda"})
    True
    """
    seen = ("".join(c for c in fold(row[name]) if unicodedata.category(c) != "Cf") for name in ("question", "answer"))
    return tuple(" ".join(text.split()) for text in seen)


def check_overlap(forget: Iterable[Row], retain: Iterable[Row]) -> None:
    """Raises a UserError where a row to forget is also to be retained: `identity` is the same.

    >>> check_overlap([normalise({"text": "a b"})], [normalise({"text": "A  b"})])
    Traceback (most recent call last):
    palimpsest.errors.UserError: 1 of 1 forget rows is also a retain row, first 'a b': remove it from one of the two
    """
    retained = {identity(row) for row in retain}
    forget = list(forget)
    shared = [row for row in forget if identity(row) in retained]
    if shared:
        first = shared[0]["question"] or shared[0]["answer"]
        what = "is also a retain row" if len(shared) == 1 else "are also retain rows"
        raise UserError(
            f"{len(shared)} of {len(forget)} forget rows {what}, first {_show(first)}: "
            f"remove {'it' if len(shared) == 1 else 'them'} from one of the two"
        )


def _parse(text: str, where: str) -> Any:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:  # a ValueError of its own for a whole number of thousands of digits
        if text[0] == "[":
            raise UserError(f"{where}: a JSON array: write one object a line instead") from None
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else "beyond Python"
        raise UserError(f"{where}: not valid JSON ({reason}): one complete object a line") from None
    if _depth(record) > DEEPEST:
        raise UserError(f"{where}: lists or objects in more than {DEEPEST} others: write it flat")
    return record


def _depth(value: Any) -> int:
    """How many lists and objects stand in each other."""
    depth, level = 0, [value]
    while level := [each for each in level if isinstance(each, (list, dict))]:
        depth += 1
        level = [part for each in level for part in (each.values() if isinstance(each, dict) else each)]
    return depth


def _text(record: Mapping[str, Any], name: str, where: str) -> str:
    if name not in record:
        raise UserError(f"{where}: no {name}; the row has {', '.join(record)}")
    return _string(record[name], name, where)


def _string(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: {name} must be a string, got {_show(value)}")
    if not value.strip():
        raise UserError(f"{where}: {name} is empty")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{where}: {name} holds half of a surrogate pair, which no tokenizer can read") from None
    return value


def _flatten(value: Any, where: str) -> Iterable[str]:
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _flatten(part, where)
    else:
        yield _string(value, "perturbed_answer", where)


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
