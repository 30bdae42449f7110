"""The best of a comparison, and what it does not beat."""

import pytest

from palimpsest.benches.comparison import Comparison, Line
from palimpsest.cli.comparing import notes


def line(name, tested, valid, lr=0.1, error=""):
    values = {"score": [tested] * 2, "validation": [valid] * 2}
    return Line(name, {} if error else values, lr, error)


def comparison(*lines, lower=frozenset()):
    return Comparison(lines, (200, 201), ("score",), {}, lower)


FLOOR = line("untrained", 0.73, 0.72, None)
WORSE, WORST = line("decoupled_cl", 0.66, 0.65), line("info_nce", 0.6, 0.6)


def test_where_no_method_beats_the_model_as_it_is_it_is_said():
    found = comparison(FLOOR, WORST, WORSE)
    assert found.best is WORSE
    assert found.ahead == (FLOOR,)
    says = "0.730 against 0.660 of decoupled_cl in score on the test rows, 0.720 against 0.650 on the validation rows"
    assert f"no method beat 'untrained': {says}" in notes(found)


@pytest.mark.parametrize(
    ("method", "ahead"),
    [
        (line("a", 0.8, 0.8), False),
        (line("a", 0.73, 0.8), True),
        (line("a", 0.7, 0.8), True),  # chosen on rows that it did better on
        (line("a", 0.8, 0.72), True),
    ],
)
def test_the_best_beats_on_both_kinds_of_rows(method, ahead):
    assert comparison(FLOOR, WORST, method).ahead == ((FLOOR,) if ahead else ())


def test_a_method_that_was_not_the_best_may_have_beaten_it():
    found = comparison(FLOOR, line("a", 0.75, 0.73), line("b", 0.7, 0.8))
    assert any(note.startswith("b did not beat 'untrained': 0.730 against 0.700 of b") for note in notes(found))


def test_less_is_better_where_the_bench_says_so():
    assert comparison(line("floor", 2.0, 0.5, None), line("a", 1.0, 0.6), lower=frozenset({"score"})).ahead == ()
    assert comparison(line("floor", 1.0, 0.5, None), line("a", 2.0, 0.6), lower=frozenset({"score"})).ahead != ()


def test_nothing_is_known_of_a_line_that_failed():
    failed = line("gradient boosting", 0, 0, None, "no memory")
    assert comparison(FLOOR, failed, line("a", 0.9, 0.9)).ahead == ()
    assert comparison(FLOOR, line("b", 0, 0, error="diverged"), WORSE).ahead == (FLOOR,)
