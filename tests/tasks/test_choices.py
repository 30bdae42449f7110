"""Every choice is answered right by an independent solver, splits share no item, and the impossible is refused."""

from collections import Counter

import pytest

from palimpsest.models import word_tokenizer
from palimpsest.tasks.choices import NAMES, choice_tasks, choice_words


def parity(words):
    return "even" if words[-2] in "02468" else "odd"


def comparison(words):
    return "less" if words[1:3] < words[4:6] else "more"


def modular_sum(words):
    total = int("".join(words[2:4])) + int("".join(words[5:7]))
    return "zero" if total % 2 == 0 else "one"


def majority(words):
    letters = words[1:-2]
    return "x" if letters.count("x") > len(letters) / 2 else "y"


def entailment(words):
    cut = words.index("so")
    quantifier, premise = words[0], words[1:cut]
    hypothesis = words[cut + 1 :]
    claimed, rest = hypothesis[: -len(premise)], hypothesis[-len(premise) :]
    assert rest == premise
    # In a world of two things of the sort, how many may do it: the premise's worlds must lie within the hypothesis's.
    worlds = {"every": {2}, "some": {1, 2}, "no": {0}, "not every": {0, 1}, "at least one": {1, 2}}
    return "true" if worlds[quantifier] <= worlds[" ".join(claimed)] else "false"


SOLVERS = {f.__name__: f for f in (parity, comparison, modular_sum, majority, entailment)}


@pytest.mark.parametrize("name", SOLVERS)
def test_an_independent_solver_gives_every_answer(name):
    task = choice_tasks(3, names=[name])[name]
    for row in task.train + task.test:
        assert SOLVERS[name](row.prompt.split()) == row.answer


def test_the_documents_state_the_kind_of_every_word_of_both_splits_and_only_that():
    task = choice_tasks(3, names=["lexical"])["lexical"]
    kinds = {row.item: row.answer for row in task.train + task.test}
    assert len(kinds) == 600
    for text in task.documents:
        (item,) = set(text.split()) & set(kinds)
        assert set(text.split()) & set(task.options) == {kinds[item]}
    assert {word for text in task.documents for word in text.split()} >= set(kinds)


@pytest.mark.parametrize("name", NAMES)
def test_splits_are_balanced_and_share_no_item(name):
    task = choice_tasks(1, n_train=42, n_test=21, names=[name])[name]
    assert (len(task.train), len(task.test)) == (42, 21)
    for split in (task.train, task.test):
        counts = Counter(row.answer for row in split)
        assert set(counts) == set(task.options)
        assert max(counts.values()) - min(counts.values()) <= 1
    assert not {row.item for row in task.train} & {row.item for row in task.test}
    assert not {row.prompt for row in task.train} & {row.prompt for row in task.test}
    assert task.chance == 1 / len(task.options)


def test_a_seed_fixes_a_task_whichever_others_are_asked_for():
    alone = choice_tasks(2, n_train=10, n_test=4, names=["majority"])["majority"]
    assert alone == choice_tasks(2, n_train=10, n_test=4)["majority"]
    assert alone != choice_tasks(4, n_train=10, n_test=4)["majority"]


def test_words_cover_every_text_and_every_option_is_one_token():
    tasks = choice_tasks(0, n_train=12, n_test=6)
    tokenizer = word_tokenizer(choice_words(tasks.values()))
    for task in tasks.values():
        pairs = task.pairs("train") + task.pairs("test")
        texts = [prompt + answer for prompt, answer in pairs] + list(task.documents)
        assert tokenizer.unk_token_id not in {i for ids in tokenizer(texts).input_ids for i in ids}
        for option in task.options:
            assert len(tokenizer(f" {option}", add_special_tokens=False).input_ids) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ["sorting"]}, "sorting"),
        ({"names": ["parity", "parity"]}, "different tasks"),
        ({"names": []}, "different tasks"),
        ({"n_train": 0}, "got 0"),
        ({"n_train": 900, "n_test": 4, "names": ["parity"]}, "parity has too few items"),
    ],
)
def test_refuses_what_it_cannot_give(options, message):
    with pytest.raises(ValueError, match=message):
        choice_tasks(**options)


def test_refuses_an_unknown_split():
    with pytest.raises(ValueError, match="'dev'"):
        choice_tasks(n_train=2, n_test=2)["parity"].pairs("dev")
