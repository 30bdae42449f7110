"""The rows of the walk on a real chat model, and the program that found them."""

import importlib.util
from pathlib import Path

from palimpsest.tasks.rows import check_overlap, read_rows

FOLDER = Path(__file__).parents[2] / "examples" / "smollm2"
SETS = {"forget": 20, "keep": 40, "neighbours": 20}


def test_the_rows_are_distinct_and_those_to_forget_have_other_wordings_and_wrong_answers():
    rows = {name: read_rows(FOLDER / f"{name}.jsonl") for name in SETS}
    assert {name: len(found) for name, found in rows.items()} == SETS
    questions = {row["question"] for found in rows.values() for row in found}
    assert len(questions) == sum(SETS.values())
    for name in ("keep", "neighbours"):
        check_overlap(rows["forget"], rows[name])
        assert not any("Egypt" in row["question"] + row["answer"] for row in rows[name])
    for row in rows["forget"]:
        assert row["paraphrased_question"] != row["question"]
        assert len({row["answer"], *row["perturbed_answer"]}) == 3


def test_a_known_answer_ends_with_the_clause_that_holds_the_key():
    spec = importlib.util.spec_from_file_location("known", FOLDER / "known.py")
    known = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(known)
    assert known.clause("It is Mount Fuji (3,776 m), in Japan.", "fuji") == "It is Mount Fuji."
    assert known.clause("Well, it is J.R.R. Tolkien. He", "Tolkien") == "Well, it is J.R.R. Tolkien."
    assert known.clause("It is a town", "town") is None  # the clause has not ended
    assert known.clause("It is Townsville.", "Town") is None
    assert known.clause(f"{'very ' * 14}far.", "far") is None
