"""Nobody shares what they are asked about, wordings are held out, and a bad file is named in one line."""

import json

import pytest

from palimpsest.errors import UserError
from palimpsest.models import word_tokenizer
from palimpsest.tasks.targets import BLANK, FIELDS, blank, read_probes, targets_task

GOOD = {
    "forget_level1": {"query": "Ada was born in ___.", "answer": "Porto"},
    "forget_level2": {"query": "Where was Ada born?", "answer": "Porto"},
    "forget_level3": {"query": "Where was Ada born?", "answer": "Porto", "type": "role play"},
    "neighbor_level1": {"query": "Bo was born in ___.", "answer": "Riga", "neighbor": "Bo"},
    "neighbor_level2": {"query": "Where was Bo born?", "answer": "Riga"},
    "forget_mia": {"text": "Ada was born in Porto."},
    "retain_mia": {"text": "Bo was born in Riga."},
    "holdout_mia": {"text": "Cy was born in Fez."},
    "retain_mmlu": {"question": "Q?", "choices": ["a", "b"], "answer": 1, "examples": []},
    "retain_bbh": {"question": "Q?", "answer": "yes", "cot": "Think."},
    "truthful": {"question": "Q?", "mc1_targets": {"choices": ["a", "b"], "labels": [1, 0]}},
    "triviaqa": {"question": "Q?", "answers": ["a", "an a"]},
    "fluency": {"instruction": "Tell me."},
}


def test_people_are_apart_and_no_two_who_are_known_share_an_object():
    task = targets_task(4, 6, 3, seed=1)
    groups = (task.targets, task.neighbours, task.others, task.strangers)
    assert [len(group) for group in groups] == [4, 4, 6, 3]
    assert len({name for group in groups for name in group}) == 17
    answers = [(fact.relation.name, fact.object) for fact in task.about(task.known)]
    assert len(set(answers)) == len(answers)
    assert all(fact.object not in fact.wrong and fact.wrong for fact in task.about(task.known))


def test_a_neighbour_taught_the_target_and_nobody_else():
    task = targets_task(3, 4, 2, seed=2)
    for target, neighbour in zip(task.targets, task.neighbours, strict=True):
        pupils = [fact.subject for fact in task.about(task.known) if fact.object == neighbour]
        assert pupils == [target]
    assert not {fact.object for fact in task.about(task.strangers)} & set(task.targets)


def test_two_tellings_hold_every_fact_once_and_are_the_same_every_time():
    task = targets_task(2, 3, 1, seed=3)
    for name in task.known:
        told = " ".join(task.passage(name, telling) for telling in (2, 3))
        assert all(told.count(fact.object) == 1 for fact in task.facts[name])
        assert told.count(name) == len(task.facts[name])
    assert task.passage(task.targets[0], 1) == targets_task(2, 3, 1, seed=3).passage(task.targets[0], 1)
    assert len({task.passage(task.targets[0], telling) for telling in range(8)}) == 8


def test_wordings_are_the_three_and_differ_between_facts():
    task = targets_task(4, 6, 1)
    found = {task.wordings(fact) for fact in task.about(task.known)}
    assert all(sorted(wordings) == [0, 1, 2] for wordings in found)
    assert {wordings[2] for wordings in found} == {0, 1, 2}


def test_a_blank_hides_the_object_and_the_vocabulary_holds_every_text():
    task = targets_task(2, 3, 2, seed=4)
    tokenizer = word_tokenizer(task.words)
    for fact in task.about([*task.known, *task.strangers]):
        for wording in range(3):
            assert fact.object not in blank(fact, wording).split(BLANK)[1]
            assert blank(fact, wording).count(BLANK) == 1
            assert blank(fact, wording).replace(BLANK, fact.object) == fact.statement(wording)
            for text in (blank(fact, wording), *fact.question(wording), *fact.question(wording, reverse=True)):
                assert tokenizer.unk_token_id not in tokenizer(text).input_ids


@pytest.mark.parametrize("sizes", [(0, 4, 1), (2, 1, 1), (2, 4, 0), (12, 16, 1)])
def test_impossible_numbers_of_people(sizes):
    with pytest.raises(ValueError, match=r"^(need|at most)"):
        targets_task(*sizes)


@pytest.mark.parametrize("name", FIELDS)
def test_every_set_is_read_from_rows_arrays_and_lines(name, tmp_path):
    rows = [GOOD[name], {**GOOD[name], "subject": "Ada"}]
    assert read_probes(name, rows) == rows
    (tmp_path / "array.json").write_text(json.dumps(rows, indent=4))
    (tmp_path / "lines.json").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (tmp_path / "one.json").write_text(json.dumps(rows[1]))
    assert read_probes(name, tmp_path / "array.json") == read_probes(name, str(tmp_path / "lines.json")) == rows
    assert read_probes(name, tmp_path / "one.json") == rows[1:]


@pytest.mark.parametrize("name", FIELDS)
def test_a_row_without_a_field_or_with_a_wrong_one_is_named(name):
    for field in FIELDS[name]:
        with pytest.raises(UserError, match=rf"^{name}: row 2 has no '{field}'"):
            read_probes(name, [GOOD[name], {k: v for k, v in GOOD[name].items() if k != field}])
        with pytest.raises(UserError, match=rf"^{name}: row 1: '{field}' must be .*, got None"):
            read_probes(name, [{**GOOD[name], field: None}])


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("forget_level2", "answer", "  "),
        ("forget_level2", "query", 3),
        ("retain_mmlu", "answer", 2),
        ("retain_mmlu", "answer", True),
        ("retain_mmlu", "answer", -1),
        ("retain_mmlu", "examples", [{"question": "Q?", "choices": ["a"], "answer": 1}]),
        ("truthful", "mc1_targets", {"choices": ["a", "b"], "labels": [0, 0]}),
        ("truthful", "mc1_targets", {"choices": ["a", "b"], "labels": [1]}),
        ("triviaqa", "answers", []),
        ("triviaqa", "answers", "a"),
        ("retain_bbh", "answer", 7),
    ],
)
def test_wrong_values(name, field, value):
    with pytest.raises(UserError, match=f"row 1: '{field}' must be"):
        read_probes(name, [{**GOOD[name], field: value}])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "not valid JSON"),
        (b"[1, 2", "not valid JSON"),
        (b'{"query": "a"}\n{"query"', "not valid JSON"),
        (b"[]", "expected a JSON array"),
        (b'"text"', "expected a JSON array"),
        (b"[3]", "row 1 is no object"),
        (b"\xff\xfe[", "cannot be read as UTF-8"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, text, said):
    path = tmp_path / "forget_level1.json"
    path.write_bytes(text)
    with pytest.raises(UserError, match=said) as error:
        read_probes("forget_level1", path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_no_file_and_no_such_set(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.json: no such file"):
        read_probes("forget_mia", tmp_path / "nothing.json")
    with pytest.raises(UserError, match="unknown set 'level9': there are forget_level1"):
        read_probes("level9", [])
