"""Files of predictions in all their forms, and what is refused."""

import json

import numpy as np
import pytest

from palimpsest.errors import UserError
from palimpsest.tasks.prediction_files import read_predictions


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def harness(number, *, which="none", **more):
    """A line as lm-evaluation-harness writes it (`EvaluationTracker.save_results_samples`)."""
    return {
        "doc_id": number,
        "doc": {"question": f"What is {number}?", "choices": ["a", "b"]},
        "target": str(number % 2),
        "arguments": {"gen_args_0": {"arg_0": f"Q: {number}", "arg_1": " a"}},
        "resps": [[["-1.0", "False"]], [["-2.0", "True"]]],
        "filtered_resps": [["-1.0", "False"], ["-2.0", "True"]],
        "filter": which,
        "metrics": ["acc"],
        "doc_hash": f"h{number}",
        "prompt_hash": f"p{number}",
        "target_hash": "t",
        "acc": float(number % 2 == 0),
        **more,
    }


def test_a_log_of_the_harness(tmp_path):
    found = read_predictions(lines(tmp_path / "samples_t.jsonl", [harness(n) for n in range(4)]))
    assert found.ids == ("0", "1", "2", "3")
    assert found.named
    assert found.measures["acc"].tolist() == [1, 0, 1, 0]
    assert found.probabilities[0] == pytest.approx(np.exp([-1, -2]) / np.exp([-1, -2]).sum())
    assert found.right.tolist() == [0, 1, 0, 1]
    assert found.said == ("0",) * 4
    assert found.same == ("h0", "h1", "h2", "h3")
    assert found.asked[2] == "What is 2?"


def test_filters_of_the_harness_are_measures_of_one_item(tmp_path):
    rows = []
    for n in range(3):
        generated = {"filtered_resps": [f"answer {n}"], "metrics": ["exact_match", "ppl"], "ppl": [-3.0, 5]}
        rows += [
            harness(n, which="strict", exact_match=0.0, **generated),
            harness(n, which="flexible", exact_match=1.0, **generated),
        ]
    found = read_predictions(lines(tmp_path / "s.jsonl", rows))
    assert len(found) == 3
    assert set(found.measures) == {"exact_match,strict", "exact_match,flexible"}
    assert found.said == ("answer 0", "answer 1", "answer 2")
    assert found.probabilities is None
    assert "ppl is no number an item" in found.notes[0]
    with pytest.raises(UserError, match="comes twice"):
        read_predictions(lines(tmp_path / "twice.jsonl", [*rows, rows[0]]))


def test_labels_probabilities_and_numbers(tmp_path):
    rows = [
        {"id": 1, "label": 1, "prediction": 1.0, "probabilities": {"0": 0.2, "1": 0.8}, "log_loss": 0.2, "n": None},
        {"id": 2, "label": "0", "prediction": "1", "probabilities": {"0": 0.4, "1": 0.6}, "log_loss": 0.9, "n": 3},
    ]
    found = read_predictions(lines(tmp_path / "a.jsonl", rows))
    assert found.measures["accuracy"].tolist() == [1, 0]
    assert found.measures["probability"].tolist() == [0.8, 0.4]
    assert np.isnan(found.measures["n"][0])
    assert found.lower == {"log_loss"}
    assert found.right.tolist() == [1, 0]


def test_what_predict_prints_with_a_column_of_labels(tmp_path):
    file = tmp_path / "p.csv"
    file.write_text("row,ripe,p(no),p(yes),label\n1,yes,0.1,0.9,yes\n2,no,0.7,0.3,yes\n")
    found = read_predictions(file)
    assert found.said == ("yes", "no")
    assert found.measures["accuracy"].tolist() == [1, 0]
    assert found.measures["probability"].tolist() == [0.9, 0.3]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no rows|no header|empty"),
        ("id,prediction\n1,a\n2,b\n", "nothing to measure in id, prediction"),
        ("id,correct\n1,maybe\n2,1\n", ":2: correct is 'maybe': write 0 or 1"),
        ("id,correct\n1,1\n1,0\n", "the item '1' stands at"),
        ("row,p(a),p(b),label\n1,1.5,0.1,a\n", "no number from 0 to 1"),
        ('{"id": 1, "correct": 1}\n[1]\n', ":2: expected an object"),
    ],
)
def test_bad_files(tmp_path, text, words):
    file = tmp_path / "bad.csv"
    file.write_text(text)
    with pytest.raises(UserError, match=words):
        read_predictions(file)


def test_fields_that_are_named(tmp_path):
    file = lines(tmp_path / "a.jsonl", [{"key": "x", "truth_value": "a", "prediction": "a"}])
    assert read_predictions(file, id="key", target="truth_value").measures["accuracy"].tolist() == [1]
    with pytest.raises(UserError, match="no field 'nope': there are key, truth_value, prediction"):
        read_predictions(file, id="nope")
