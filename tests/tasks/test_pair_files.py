from __future__ import annotations

import json

import pytest

from palimpsest.errors import UserError
from palimpsest.tasks.docpairs import Pairs
from palimpsest.tasks.pair_files import read_corpus, read_pairs

WORDS = [
    "red",
    "green",
    "blue",
    "black",
    "white",
    "round",
    "square",
    "heavy",
    "light",
    "cold",
    "warm",
    "loud",
    "quiet",
    "old",
    "new",
]


def text(n: int) -> str:
    return " ".join(WORDS[(n * step + step) % len(WORDS)] + str(n) for step in range(1, 12))


ROWS = [{"query": f"What is number {n}?", "document": text(n)} for n in range(60)]


def write(tmp_path, rows, name="pairs.jsonl"):
    path = tmp_path / name
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def test_pairs_are_those_of_the_file(tmp_path):
    pairs = read_pairs(write(tmp_path, ROWS))
    task = pairs.splits(0)
    assert isinstance(task.train, Pairs)
    assert [len(part) for part in vars(task).values()] == [36, 12, 12]
    assert (pairs.notes, len(pairs)) == ((), 60)
    for part in vars(task).values():
        assert part.asked.all()
        assert [(row["query"], row["document"]) for row in (ROWS[row] for row in part.index.tolist())] == [
            *zip(part.summary, part.body, strict=True)
        ]
        assert (part.answers(part).sum(1) == 1).all()
    assert task.test.index.tolist() == pairs.splits(9).test.index.tolist()
    assert str(tmp_path) not in repr(pairs) + repr(vars(pairs))


@pytest.mark.parametrize(
    ("query", "document"),
    [
        ("question", "answer"),
        ("anchor", "positive"),
        ("query", "passage"),
        ("sentence1", "sentence2"),
        ("question", "context"),
    ],
)
def test_the_two_texts_have_several_names(tmp_path, query, document):
    rows = [{query: row["query"], document: row["document"], "id": n, "negative": None} for n, row in enumerate(ROWS)]
    pairs = read_pairs(write(tmp_path, rows))
    assert pairs.pairs.summary[5] == "What is number 5?"
    assert pairs.digest == read_pairs(write(tmp_path, ROWS)).digest


def test_equal_queries_and_documents_that_are_alike_stay_in_one_part(tmp_path):
    rows = [*ROWS]
    rows += [{"query": f"what is  NUMBER {n}", "document": text(100 + n)} for n in range(20)]
    rows += [{"query": f"And this is {n}?", "document": text(n).upper() + "!"} for n in range(10, 30)]
    pairs = read_pairs(write(tmp_path, rows))
    assert pairs.notes == (
        "20 more queries are like an earlier one: such pairs stay in one part",
        "20 more documents are like an earlier one: such pairs stay in one part",
    )
    for seed in range(3):
        for values in (pairs.pairs.wording, pairs.pairs.content):
            of_parts = [set(values[part.index].tolist()) for part in vars(pairs.splits(seed)).values()]
            assert sum(map(len, of_parts)) == len(set(values.tolist()))


def test_the_same_pair_twice_is_counted(tmp_path):
    assert read_pairs(write(tmp_path, ROWS + ROWS[:7])).notes == (
        "7 of 67 pairs equal an earlier one: equal pairs stay in one part",
    )


def test_negatives_are_kept_by_row(tmp_path):
    rows = [{**row, "negative": [text(n + 200), "no"] if n % 2 else text(n + 200)} for n, row in enumerate(ROWS)]
    pairs = read_pairs(write(tmp_path, rows))
    test = pairs.splits(0).test
    for row, wrong in zip(test.index.tolist(), pairs.hard_negatives(test), strict=True):
        assert wrong == ((text(row + 200), "no") if row % 2 else (text(row + 200),))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"document": "d"}, r"no query \(or question, anchor, summary, sentence1\); the row has document"),
        ({"query": "q"}, "no document .* the row has query"),
        ({}, "the row has nothing"),
        ({"query": " ", "document": "d"}, "query is empty"),
        ({"query": "q", "document": ""}, "document is empty"),
        ({"query": 3, "document": "d"}, "query must be a text, got '3'"),
        ({"query": "q", "document": ["d"]}, "document must be a text"),
        ({"query": "q", "document": "\ud800"}, "surrogate"),
        ({"query": "q", "document": "d", "negative": [""]}, "negative must be a text or a list of texts"),
        ({"query": "q", "document": "d", "negative": {"a": 1}}, "negative must be a text or a list of texts"),
        ('["q", "d"]', "expected an object"),
        ('"q"', "expected an object"),
        ('{"query": "q"', "not valid JSON"),
        ("q\td", "not valid JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path, row, message):
    path = write(tmp_path, [*ROWS[:2], row, *ROWS[2:]])
    with pytest.raises(UserError, match=message) as caught:
        read_pairs(path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "the file has no rows"),
        (ROWS[:4], "4 rows are too few"),
        ([{"query": "same", "document": text(n)} for n in range(20)], "of 20 pairs only 1 have no query or document"),
        ([{"query": f"q{n}", "document": "the same for all"} for n in range(20)], "of 20 pairs only 1 have no query"),
    ],
)
def test_a_file_that_cannot_be_divided(tmp_path, rows, message):
    path = write(tmp_path, rows)
    with pytest.raises(UserError, match=message) as caught:
        read_pairs(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("a\nb\r\n\n a \n", ("a", "b")),
        ('{"text": "a"}\n{"document": "b"}\n', ("a", "b")),
        ("\ufeffa\nb", ("a", "b")),
    ],
)
def test_a_corpus_is_a_text_a_line(tmp_path, content, texts):
    path = tmp_path / "corpus"
    path.write_text(content)
    assert read_corpus(path) == texts


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ('{"text": "a"}\nb', ":2: not valid JSON"),
        ('{"t": 1}', ":1: no text"),
        ('{"text": ""}', "text is empty"),
    ],
)
def test_a_corpus_that_cannot_be_read(tmp_path, content, message):
    path = tmp_path / "corpus"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_corpus(path)


@pytest.mark.parametrize("read", [read_pairs, read_corpus])
def test_no_file_and_a_folder(tmp_path, read):
    with pytest.raises(UserError, match="a folder: give a file"):
        read(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "absent")


def test_one_document_that_is_alike_is_told_of_in_the_singular(tmp_path):
    rows = [*ROWS, {"query": "And this?", "document": text(3).upper() + "!"}]
    assert read_pairs(write(tmp_path, rows)).notes == (
        "1 more document is like an earlier one: such pairs stay in one part",
    )
