"""Arithmetic problems are right, fresh across splits, and refuse what they cannot give."""

import pytest

from palimpsest.tasks.arithmetic import arithmetic, spelled


@pytest.mark.parametrize("digits", [1, 2])
def test_every_answer_is_the_result_and_no_wrong_one_is(digits):
    for problem in arithmetic(20 if digits == 1 else 300, "train", seed=1, digits=digits):
        expression = problem.question.removesuffix(" =").replace(" ", "")
        a, op, b = expression.partition("+") if "+" in expression else expression.partition("-")
        result = int(a) + int(b) if op == "+" else int(a) - int(b)
        assert problem.answer == spelled(result)
        assert len(a) == len(b) == digits
        assert problem.answer not in problem.wrong
        assert len(set(problem.wrong)) == 3


def test_splits_share_no_problem_and_a_seed_fixes_them():
    splits = {s: {p.question for p in arithmetic(400, s, seed=2)} for s in ("train", "validation", "test")}
    assert all(len(questions) == 400 for questions in splits.values())
    assert len(set.union(*splits.values())) == 1200
    assert arithmetic(5, seed=2) == arithmetic(5, seed=2) != arithmetic(5, seed=3)


@pytest.mark.parametrize(
    ("n", "options", "message"),
    [
        (0, {}, "n=0"),
        (10**6, {}, "owns"),
        (1, {"split": "dev"}, "split must be"),
        (1, {"digits": 4}, "digits must be"),
        (1, {"operations": ("*",)}, "operations must be"),
    ],
)
def test_refuses_what_it_cannot_give(n, options, message):
    with pytest.raises(ValueError, match=message):
        arithmetic(n, **options)
