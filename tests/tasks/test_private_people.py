"""Both sides of the line are about the same subjects, what is judged was not shown, and files come back as written."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest.errors import UserError
from palimpsest.tasks.private_people import DOMAINS, PARTS, PRIVATE, PUBLIC, knowundo_task, read_knowundo


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 500), domain=st.sampled_from(DOMAINS), n=st.integers(1, 8), shown=st.floats(0.05, 0.95))
def test_every_subject_has_rows_on_both_sides(seed, domain, n, shown):
    task = knowundo_task(seed, domain, n=n, shown=shown)
    scopes = [task.unlearn, task.retention, task.held_out]
    assert [len({row.subject for row in rows}) for rows in scopes] == [n] * 3
    facts = [(row.subject, row.attr) for row in task.retention + task.held_out]
    assert len(facts) == len(set(facts)) == n * len(PUBLIC if domain == "privacy" else PARTS)
    wanted = PRIVATE if domain == "privacy" else PARTS
    assert sorted((row.subject, row.attr) for row in task.unlearn) == sorted(
        (subject, attr) for subject in {row.subject for row in task.unlearn} for attr in wanted
    )
    assert task == knowundo_task(seed, domain, n=n, shown=shown)


@pytest.mark.parametrize("domain", DOMAINS)
def test_what_is_judged_is_not_shown_and_the_model_learns_all(domain):
    task = knowundo_task(3, domain, n=5)
    learned = set(task.learned())
    for scope in ("unlearn", "retention"):
        train, val = task.pairs(scope), task.pairs(scope, "val")
        assert not {question for question, _ in train} & {question for question, _ in val}
        assert {*train, *val} <= learned
    # The private facts are the same, asked otherwise; the public ones are others, of the same people.
    assert {answer for _, answer in task.pairs("unlearn")} == {answer for _, answer in task.pairs("unlearn", "val")}
    shown = {(row.subject, row.attr) for row in task.retention}
    assert not shown & {(row.subject, row.attr) for row in task.held_out}
    assert len(learned) == 3 * len(task.unlearn + task.retention + task.held_out) + 2 * len(task.general)
    words = set(task.words(["extra one"]))
    assert {"extra", "one"} <= words
    assert all(set(f"{question} {answer}".split()) <= words for question, answer in learned)


def test_people_of_two_seeds_differ_and_values_carry_no_filler():
    one, two = knowundo_task(1, n=20), knowundo_task(2, n=20)
    assert not {row.subject for row in one.unlearn} & {row.subject for row in two.unlearn}
    values = {attr: [row.answer for row in one.unlearn + one.retention + one.held_out if row.attr == attr]
              for attr in PRIVATE + PUBLIC}  # fmt: skip
    assert not any(value.startswith("The ") for value in values["book"])
    assert {len(value.split()) for value in values["address"]} == {2}
    assert all(len(set(found)) > 5 for found in values.values())


def test_a_summary_tells_what_happens_and_not_how_it_is_told():
    task = knowundo_task(0, "copyright", n=6)
    passages = {(row.subject, row.attr): row.answer for row in task.unlearn}
    for row in task.retention + task.held_out:
        passage = passages[row.subject, row.attr].replace(",", " ").replace(".", " ").split()
        told = {word for word in row.answer.rstrip(".").split() if word not in ("In", "a")}
        assert told < set(passage)
        assert len(passage) > 2 * len(told)


@pytest.mark.parametrize("domain", DOMAINS)
def test_files_come_back(tmp_path, domain):
    task = knowundo_task(0, domain, n=3)
    paths = task.write_json(tmp_path)
    assert paths["unlearn"] == tmp_path / domain / "unlearn.json"
    for scope, path in paths.items():
        for split in ("train", "val"):
            rows = read_knowundo(path, split)
            assert [(row["question"], row["answer"]) for row in rows] == task.pairs(scope, split)
        wrapped, bare = tmp_path / "wrapped.json", tmp_path / "bare.json"
        content = json.loads(path.read_text())
        wrapped.write_text(json.dumps([content]))
        bare.write_text(json.dumps(content["val"]))
        assert read_knowundo(wrapped) == read_knowundo(bare) == read_knowundo(path)
        bare.write_text(json.dumps(content["val"][:1]))
        assert len(read_knowundo(bare)) == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b'{"train": "\xff"}', "not UTF-8"),
        (b'{"train": []}', "no rows of the split 'val'"),
        (b'{"val": []}', "no rows of the split 'val'"),
        (b'"text"', "no rows of the split 'val'"),
        (b"[]", "no rows of the split 'val'"),
        (b'{"val": [3]}', 'row 1 of \'val\': expected "text" and "labels", got int'),
        (b'{"val": [{"question": "a", "answer": "b"}]}', 'expected "text" and "labels", got question, answer'),
        (b'{"val": [{"text": "a", "labels": "b"}, {"text": "a", "labels": ""}]}', "row 2"),
        (b'{"val": [{"text": "a", "labels": 3}]}', "row 1"),
    ],
)
def test_a_bad_file_gives_one_line(tmp_path, content, says):
    path = tmp_path / "unlearn.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"unlearn\.json") as error:
        read_knowundo(path)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_errors(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_knowundo(tmp_path / "none.json")
    with pytest.raises(ValueError, match="'privacy' or 'copyright', got 'music'"):
        knowundo_task(0, "music")
    with pytest.raises(ValueError, match="n must lie between 1 and 900, got 0"):
        knowundo_task(n=0)
    with pytest.raises(ValueError, match=r"in \(0, 1\), got 1"):
        knowundo_task(shown=1)
    with pytest.raises(ValueError, match="negative, got -1"):
        knowundo_task(-1)
    with pytest.raises(ValueError, match="got 'forget' and 'train'"):
        knowundo_task(n=1).pairs("forget")
