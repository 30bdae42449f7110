from __future__ import annotations

import gzip
import json

import pytest

from palimpsest.errors import UserError
from palimpsest.tasks.text import Corpus, sentences
from palimpsest.tasks.text_files import read_texts

WORDS = [
    "river",
    "stone",
    "cloud",
    "winter",
    "table",
    "window",
    "garden",
    "letter",
    "candle",
    "bridge",
    "market",
    "teacher",
    "engine",
    "island",
]


def sentence(n: int) -> str:
    return " ".join(f"{WORDS[(n * step) % len(WORDS)]}{n}" for step in range(1, 9)).capitalize() + "."


PARAGRAPHS = [f"{sentence(2 * n)} {sentence(2 * n + 1)}" for n in range(50)]


def text_file(tmp_path, paragraphs=PARAGRAPHS, name="mine.txt"):
    path = tmp_path / name
    path.write_text("\n\n".join(paragraphs))
    return path


@pytest.mark.parametrize("form", ["paragraphs", "windows", "lines", "folder", "packed"])
def test_documents_of_every_form(tmp_path, form):
    path = text_file(tmp_path)
    if form == "windows":
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    elif form == "packed":
        path.write_bytes(gzip.compress(path.read_bytes()))
    elif form == "lines":
        path.write_text("\n".join(json.dumps({"text": text, "id": 1}) for text in PARAGRAPHS))
    elif form == "folder":
        path.unlink()
        path = tmp_path / "folder"
        (path / "inner").mkdir(parents=True)
        for n, text in enumerate(PARAGRAPHS):
            (path / ("inner" if n % 2 else "") / f"{n:02}.txt").write_text(text)
        (path / "data.csv").write_text("a,b")
    texts = read_texts(path, characters=10)
    corpus = texts.splits(0)
    assert isinstance(corpus, Corpus)
    assert sorted(document.text for document in texts.documents) == sorted(PARAGRAPHS)
    assert [len(part) for part in vars(corpus).values()] == [30, 10, 10]
    assert texts.notes == (("1 other file of the folder are skipped",) if form == "folder" else ())
    assert corpus.test == texts.splits(8).test
    assert corpus.validation != texts.splits(8).validation
    assert str(tmp_path) not in repr(texts) + repr(vars(texts))


def test_a_document_ends_with_the_paragraph_that_reaches_the_length(tmp_path):
    texts = read_texts(text_file(tmp_path, [*PARAGRAPHS, "The  end\nof it."]), characters=300)
    assert {len(document.paragraphs) for document in texts.documents[:-1]} == {3}
    assert texts.documents[-1].paragraphs[-1] == "The end of it."


def test_what_is_nearly_held_out_is_taken_out_of_training(tmp_path):
    copied = [
        f"{text} {PARAGRAPHS[n].replace('river', 'RIVER')}" for n, text in enumerate(map(sentence, range(200, 240)))
    ]
    texts = read_texts(text_file(tmp_path, [*PARAGRAPHS, *copied]), characters=10)
    corpus = texts.splits(0)
    held = {each.text.lower() for each in sentences(corpus.test)}
    for part in (corpus.train, corpus.validation):
        assert not held & {each.text.lower() for each in sentences(part)}
    assert len(corpus.test) == 18
    assert any(note.endswith("it is nearly what is held out") for note in texts.notes)


def test_equal_documents_stay_together(tmp_path):
    texts = read_texts(text_file(tmp_path, [*PARAGRAPHS, *PARAGRAPHS[:20]]), characters=10)
    assert "20 of 70 documents equal an earlier one: equal documents stay in one part" in texts.notes
    of_parts = [{document.text for document in part} for part in vars(texts.splits(0)).values()]
    assert sum(map(len, of_parts)) == 50


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"One.\n\nTwo.", "1 rows are too few"),
        (b"One.\n\n\xff", ":3: not UTF-8"),
        ("One.".encode("utf-16"), "UTF-16"),
        (b"One.\x00", ":1: a NUL byte"),
        (b'{"text": "a"}\n{"txt": "b"}', ":2: no text; the row has txt"),
        (b'{"text": "a"}\n{"text": 3}', ":2: text must be a string, got '3'"),
        (b'{"text": "a"}\n{"text": " "}', ":2: text is empty"),
        (b'{"text": "a"}\n{"text": "\\ud800"}', ":2: text holds half of a surrogate pair"),
        (b'{"text": "a"}\n3', ":2: no text; the row has 3"),
        (b'{"text": "a"}\nb', ":2: not valid JSON"),
        (b"%PDF-1.4", "the file is PDF"),
    ],
)
def test_a_file_that_holds_no_texts(tmp_path, content, message):
    path = tmp_path / "mine.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_texts(path)
    assert str(caught.value).startswith(str(path))


def test_no_file_a_folder_without_texts_and_no_length(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_texts(tmp_path / "absent")
    with pytest.raises(UserError, match=r"no \.txt or \.md files"):
        read_texts(tmp_path)
    with pytest.raises(UserError, match="characters must be at least 1"):
        read_texts(tmp_path, characters=0)
