from __future__ import annotations

import bz2
import gzip
import lzma

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.errors import UserError
from palimpsest.tasks.rows import check_overlap, normalise, read_rows

GOOD = b'{"question": "Who?", "answer": "Ada"}\n'


def write(tmp_path, content: bytes):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    return path


def test_the_three_forms_become_question_and_answer(tmp_path):
    path = write(
        tmp_path,
        b'{"question": "Who?", "answer": "Ada", "id": 7}\n\n'
        b'{"prompt": "2+2=", "completion": "4"}\n{"text": "A story."}',
    )
    assert read_rows(path) == [
        {"question": "Who?", "answer": "Ada", "perturbed_answer": [], "id": 7},
        {"question": "2+2=", "answer": "4", "perturbed_answer": []},
        {"question": "", "answer": "A story.", "perturbed_answer": []},
    ]


def test_unicode_survives_with_a_byte_order_mark_windows_line_ends_and_inner_line_separators(tmp_path):
    text = '{"question": "Où est Zoë?", "answer": "北京\u2028نعم\x85🙂"}\r\n'
    [row] = read_rows(write(tmp_path, b"\xef\xbb\xbf" + text.encode()))
    assert (row["question"], row["answer"]) == ("Où est Zoë?", "北京\u2028نعم\x85🙂")


def test_wrong_answers_come_flat_and_null_counts_as_absent():
    row = normalise(
        {"question": "q", "answer": "a", "perturbed_answer": [["b", ["c"]], "d"], "paraphrased_answer": None}
    )
    assert row == {"question": "q", "answer": "a", "perturbed_answer": ["b", "c", "d"]}
    assert normalise({"question": "q", "answer": "a", "perturbed_answer": "b"})["perturbed_answer"] == ["b"]


def test_normalising_twice_changes_nothing():
    row = normalise({"question": "q", "answer": "a", "paraphrased_question": "r", "perturbed_answer": ["b"], "x": [1]})
    assert normalise(row) == row


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{'question': 1}", "not valid JSON"),
        (b'{"question": "q", "answer": "a"', "not valid JSON"),
        (b"[" * 5000, "JSON array"),
        (b'{"a":' * 50_000, "not valid JSON"),
        (b'[{"question": "q", "answer": "a"}', "a JSON array: write one object a line"),
        (b'"text"', "expected an object"),
        (b"[1]", "expected an object"),
        (b"17", "expected an object.*got 17"),
        (b"{}", "the row has no fields"),
        (b'{"query": "q"}', "no question, prompt or text; the row has query"),
        (b'{"question": "q"}', "no answer; the row has question"),
        (b'{"question": "q", "completion": "a"}', "no answer; the row has question, completion"),
        (b'{"prompt": "q", "answer": "a"}', "no completion"),
        (b'{"question": "q", "answer": null}', "no answer"),
        (b'{"question": "q", "answer": ""}', "answer is empty"),
        (b'{"question": "  ", "answer": "a"}', "question is empty"),
        (b'{"text": " "}', "text is empty"),
        (b'{"question": "q", "answer": 42}', "answer must be a string, got 42"),
        (b'{"question": ["q"], "answer": "a"}', "question must be a string, got \\['q'\\]"),
        (b'{"question": "q", "answer": "a", "paraphrased_answer": 1}', "paraphrased_answer must be a string"),
        (b'{"question": "q", "answer": "a", "perturbed_answer": ["b", 2]}', "perturbed_answer must be a string, got 2"),
        (b'{"question": "q", "answer": "a", "perturbed_answer": {"x": 1}}', "perturbed_answer must be a string"),
        (b'{"question": "q", "answer": "\\ud800"}', "surrogate"),
        (b'{"question": "q", "answer": "\xff"}', "not UTF-8"),
        (b'{"question": "q", "answer": "a", "n": ' + b"9" * 5000 + b"}", "beyond Python"),
        (b'{"question": "q", "answer": "a", "n": ' + b"[" * 99999 + b"]" * 99999 + b"}", "beyond Python"),
        (b'{"question": "q", "answer": "a", "n": ' + b"[" * 500 + b"]" * 500 + b"}", "in more than 100 others"),
        (b'{"question": "q", "answer": "a", "perturbed_answer": ' + b"[" * 500 + b"]" * 500 + b"}", "than 100 others"),
    ],
)
def test_a_bad_line_is_named_with_file_and_number(tmp_path, line, message):
    path = write(tmp_path, GOOD + b"\n" + line + b"\n" + GOOD)
    with pytest.raises(UserError, match=message) as caught:
        read_rows(path)
    assert str(caught.value).startswith(f"{path}:3: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 200


def test_a_missing_file_a_folder_and_an_empty_file(tmp_path):
    with pytest.raises(UserError, match=r"absent\.jsonl: no such file"):
        read_rows(tmp_path / "absent.jsonl")
    with pytest.raises(UserError, match="no such file"):
        read_rows(tmp_path)
    with pytest.raises(UserError, match="the file has no rows"):
        read_rows(write(tmp_path, b"\n \n"))


def test_overlap_counts_rows_and_shows_the_first():
    def rows(*pairs):
        return [normalise({"question": q, "answer": a}) for q, a in pairs]

    check_overlap(rows(("Who?", "Ada")), rows(("Who?", "Bo"), ("Where?", "Ada")))
    check_overlap(rows(("Who?", "Ada")), [])
    with pytest.raises(UserError, match=r"2 of 3 forget rows are also retain rows, first 'Who\?'"):
        check_overlap(
            rows(("New?", "no"), ("Who?", "Ada"), ("Where?", "Rome")), rows(("where?", " ROME"), ("who?", "ada"))
        )
    text = [normalise({"text": "The same story."})]
    with pytest.raises(UserError, match=r"1 of 1 forget rows is also a retain row, first 'The same story\.'"):
        check_overlap(text, text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(
                st.sampled_from(["question", "answer", "prompt", "completion", "text", "perturbed_answer", "x"]), x
            )
        ),
        max_leaves=8,
    )
)
def test_anything_is_a_row_or_a_user_error(record):
    try:
        row = normalise(record)
    except UserError:
        return
    assert row["answer"].strip()
    assert isinstance(row["question"], str)
    assert all(isinstance(wrong, str) for wrong in row["perturbed_answer"])


def test_a_prompt_and_its_completion_stand_as_they_are():
    row = normalise({"prompt": "2 + 2 =", "completion": " 4", "paraphrased_question": "two and two is"})
    assert [type(row[name]).__name__ for name in ("question", "paraphrased_question")] == ["Verbatim"] * 2
    assert type(normalise(row)["question"]).__name__ == "Verbatim"
    assert type(normalise({"question": "2 + 2?", "answer": "4"})["question"]) is str


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_packed_rows_are_read(tmp_path, pack):
    [row] = read_rows(write(tmp_path, pack(b'{"text": "a b"}\n')))
    assert row["answer"] == "a b"
    with pytest.raises(UserError, match=r"compressed .* and damaged"):
        read_rows(write(tmp_path, pack(b'{"text": "a b"}\n' * 99)[:30]))


@pytest.mark.parametrize("begin", [b"PK\x03\x04", b"\x28\xb5\x2f\xfd"])
def test_what_cannot_be_unpacked_is_named(tmp_path, begin):
    with pytest.raises(UserError, match=r"compressed .*unpack it first"):
        read_rows(write(tmp_path, begin + b"rest"))


@pytest.mark.parametrize(
    "other", ["Zoe\u0308  ist da", "ＺＯË　ＩＳＴ ＤＡ", "\ufeffZoë ist\u200b da", "Zo\u00adë ist da"]
)
def test_an_overlap_in_another_form_of_unicode(other):
    with pytest.raises(UserError, match="also a retain row"):
        check_overlap([normalise({"text": "Zoë ist da"})], [normalise({"text": other})])
