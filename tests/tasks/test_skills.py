import pytest

from palimpsest.tasks.skills import NAMES, skill_tasks, skill_words

SKILLS = skill_tasks(3, n_train=40, n_test=20, n_people=5)


def test_every_answer_is_right():
    for question, answer in SKILLS["addition"].train + SKILLS["addition"].test:
        a, plus, b, equals = question.split()
        assert (plus, equals, int(answer)) == ("+", "=", int(a) + int(b))
    for name, verb in (("reversal", "reverse"), ("sorting", "sort")):
        for question, answer in SKILLS[name].train + SKILLS[name].test:
            first, *items, colon = question.split()
            assert (first, colon) == (verb, ":")
            assert answer.split() == (items[::-1] if name == "reversal" else sorted(items))


def test_held_out_sums_are_trained_the_other_way_round():
    train = {tuple(question.split()[::2]) for question, _ in SKILLS["addition"].train}
    test = {tuple(question.split()[::2]) for question, _ in SKILLS["addition"].test}
    assert len(train | test) == 100
    assert not train & test
    assert {pair[::-1] for pair in test} <= train


def test_held_out_facts_are_trained_in_other_words():
    train, test = SKILLS["facts"].train, SKILLS["facts"].test
    assert len(train) == 2 * len(test) == 30
    answers = {answer for _, answer in train}
    assert {answer for _, answer in test} <= answers
    assert not {question for question, _ in test} & {question for question, _ in train}


def test_a_skill_is_the_same_alone_and_for_a_seed():
    assert skill_tasks(3, n_train=40, n_test=20, n_people=5, names=["sorting"])["sorting"] == SKILLS["sorting"]
    assert skill_tasks(4, n_train=40, n_test=20, n_people=5)["addition"] != SKILLS["addition"]


def test_pairs_and_words():
    assert SKILLS["reversal"].pairs("test")[0] == (SKILLS["reversal"].test[0][0], f" {SKILLS['reversal'].test[0][1]}")
    assert SKILLS["facts"].train[0][0] in skill_words(SKILLS.values())
    with pytest.raises(ValueError, match="'train' or 'test'"):
        SKILLS["facts"].pairs("all")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ["chess"]}, f"out of {', '.join(NAMES)}"),
        ({"names": []}, "names must be different skills"),
        ({"n_train": 0}, "at least 1"),
        ({"length": 11}, "length must be from 2 to 10"),
        ({"n_train": 4000}, "ask for fewer"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        skill_tasks(0, **options)
