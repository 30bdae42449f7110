from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.tasks.multiple_choice import (
    PHRASINGS,
    PROPERTIES,
    SUBJECTS,
    after_examples,
    multiple_choice_task,
    plain,
    training_pairs,
)


@given(n=st.integers(1, 12), seed=st.integers(0, 10_000))
def test_options_are_different_values_and_hold_the_answer(n, seed):
    task = multiple_choice_task(n, seed)
    assert tuple(task) == SUBJECTS
    for questions in task.values():
        assert len(questions) == n * len(PROPERTIES)
        for question in questions:
            assert len(set(question.options)) == 4
            assert question.options[question.answer]
            assert set(question.options) <= set(PROPERTIES[question.prop][1])
            assert question.thing in question.text
        counts = Counter(question.letter for question in questions).values()
        assert max(counts) - min(counts) <= 1


def test_the_same_seed_gives_the_same_questions_and_another_gives_others():
    assert multiple_choice_task(4, 1) == multiple_choice_task(4, 1)
    assert multiple_choice_task(4, 1) != multiple_choice_task(4, 2)


def test_subjects_may_have_properties_of_their_own():
    task = multiple_choice_task(4, shared=False)
    animals, minerals = ({question.prop for question in task[subject]} for subject in SUBJECTS)
    assert animals | minerals == set(PROPERTIES)
    assert not animals & minerals
    assert {len(questions) for questions in task.values()} == {12}


def test_every_form_keeps_the_options_in_order_and_is_unlike_the_others():
    question = multiple_choice_task(1)["animals"][0]
    forms = [plain(question), *(phrase(question) for phrase in PHRASINGS.values())]
    assert len(set(forms)) == len(forms)
    for form in forms:
        assert question.listed() in form
        assert question.thing in form


def test_examples_are_other_questions_with_their_letters():
    questions = multiple_choice_task(2)["minerals"]
    pairs = training_pairs(questions, shots=(0, 3), phrasings=False)
    assert len(pairs) == 2 * len(questions)
    for question, (zero, three) in zip(questions, zip(pairs[::2], pairs[1::2], strict=True), strict=True):
        assert zero == (plain(question), f" {question.letter}")
        assert three[0].endswith(plain(question))
        assert three[0].count("Answer:") == 4
        assert three[0].count(question.text) == 1
    assert after_examples(questions[0], []) == plain(questions[0])


@pytest.mark.parametrize("n", [0, 197])
def test_the_number_of_things_is_checked(n):
    with pytest.raises(ValueError, match="n_things must be from 1 to 196"):
        multiple_choice_task(n)
