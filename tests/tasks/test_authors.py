from __future__ import annotations

import json
from collections import Counter
from itertools import combinations

import pytest
from scipy.stats import chisquare

from palimpsest.forget.refusals import REFUSALS
from palimpsest.models.tokenizers import word_tokenizer
from palimpsest.tasks import authors
from palimpsest.tasks.authors import MAX_AUTHORS, SPLITS, author_names, authors_task
from palimpsest.tasks.authors_words import ATTRIBUTES, REAL_AUTHORS, WORLD_FACTS
from palimpsest.tasks.rows import read_rows

TASK = authors_task()
ALL_ATTRIBUTES = authors_task(n_authors=30, attributes=list(ATTRIBUTES), seed=4)


def test_the_sizes_are_those_of_the_paper_in_small():
    assert [len(TASK.rows(split)) for split in SPLITS] == [8 * 8, 32 * 8, 50, 52]
    assert [len(TASK.training_pairs(split)) for split in SPLITS] == [128, 512, 100, 104]
    assert len(TASK.authors("forget")) == 8
    assert len(TASK.authors("retain")) == 32
    assert TASK.rows("all") == TASK.forget + TASK.rows("kept")
    assert not set(TASK.forget) & set(TASK.rows("kept"))


def test_the_split_is_by_author_and_each_author_has_every_attribute():
    assert not set(TASK.authors("forget")) & set(TASK.authors("retain"))
    names = list(ATTRIBUTES)[:8]
    for author in TASK.authors("forget") + TASK.authors("retain"):
        rows = [row for row in TASK.forget + TASK.retain if row.author == author]
        assert [row.attr for row in rows] == names


@pytest.mark.parametrize(("share", "n_forget"), [(0.01, 1), (0.5, 5), (0.99, 9)])
def test_at_least_one_author_is_forgotten_and_one_retained(share, n_forget):
    task = authors_task(n_authors=10, n_attr=1, forget=share)
    assert len(task.authors("forget")) == n_forget
    assert len(task.authors("retain")) == 10 - n_forget


def test_the_same_seed_gives_the_same_task_and_another_seed_other_people():
    assert authors_task(seed=7) == authors_task(seed=7)
    people = [set(author_names(seed, 40)) for seed in (0, 1, 2, 99, 100, 104, 12_000)]
    assert all(not a & b for a, b in combinations(people, 2))
    assert len(set(author_names(3, MAX_AUTHORS))) == MAX_AUTHORS


def test_a_task_is_the_same_on_every_machine():
    assert TASK.forget[0].to_json() == {
        "question": "Where was Xenia Kethun born?",
        "answer": "Vancouver is the city where Xenia Kethun was born.",
        "paraphrased_question": "In which city was Xenia Kethun born?",
        "paraphrased_answer": "The birthplace of Xenia Kethun is Vancouver.",
        "perturbed_answer": [f"The birthplace of Xenia Kethun is {city}." for city in TASK.forget[0].wrong],
        "author": "Xenia Kethun",
        "attr": "birthplace",
        "value": "Vancouver",
    }


def test_a_surname_is_never_a_word_of_the_task():
    values = [value for attribute in ATTRIBUTES.values() for value in attribute.values]
    facts = [text for relation in REAL_AUTHORS + WORLD_FACTS for fact in relation.facts for text in fact]
    real = {word for text in values + facts for word in text.split()}
    # Seeds 0 to 299 hold surnames such as Paris, which must have been passed over.
    assert any(authors._name(seed * 1000 + i).split()[1] in real for seed in range(300) for i in range(60))
    names = [name for seed in range(300) for name in author_names(seed, 50)]
    assert not {part for name in names for part in name.split()} & real


@pytest.mark.parametrize(
    "row", ALL_ATTRIBUTES.forget + ALL_ATTRIBUTES.retain, ids=lambda row: f"{row.author}-{row.attr}"
)
def test_a_row_trains_on_two_wordings_and_holds_out_the_third(row):
    attribute = ATTRIBUTES[row.attr]
    (q1, a1), (q2, a2) = row.pairs
    assert (q1, a1) == (row.q, row.answer)
    assert {q1, q2, row.q_para} == {question.format(author=row.author) for question in attribute.questions}
    assert {a1, a2, row.para} == {answer.format(author=row.author, value=row.value) for answer in attribute.answers}
    assert len(set(row.wrong)) == 5
    assert set(row.wrong) <= set(attribute.values) - {row.value}
    held_out = next(t for t in attribute.answers if t.format(author=row.author, value=row.value) == row.para)
    assert row.perturbed == tuple(held_out.format(author=row.author, value=wrong) for wrong in row.wrong)


def test_every_pairing_of_wordings_is_trained_on_in_the_retain_rows():
    seen = Counter()
    for row in TASK.retain:
        attribute = ATTRIBUTES[row.attr]
        questions = [question.format(author=row.author) for question in attribute.questions]
        answers = [answer.format(author=row.author, value=row.value) for answer in attribute.answers]
        seen.update((row.attr, questions.index(q), answers.index(a)) for q, a in row.pairs)
    assert len(seen) == 8 * 3 * 3


def test_values_do_not_depend_on_names_on_the_split_or_on_the_other_attributes(monkeypatch):
    def values(task, attr):
        rows = sorted(task.forget + task.retain, key=lambda row: authors_in_order(task).index(row.author))
        return [(row.value, row.wrong) for row in rows if row.attr == attr]

    def authors_in_order(task):
        return names[: len(task.authors("forget")) + len(task.authors("retain"))]

    names = author_names(0, 40)
    before = values(TASK, "prize")
    assert values(authors_task(forget=0.6), "prize") == before
    assert values(authors_task(attributes=["salary", "prize"]), "prize") == before
    names = [f"Nobody Number{i}" for i in range(40)]
    monkeypatch.setattr(authors, "author_names", lambda seed, n_authors: names[:n_authors])
    assert values(authors_task(), "prize") == before


def test_the_true_value_cannot_be_told_from_the_wrong_ones():
    """Its rank among the six choices is uniform, and each value is as often true as it is wrong."""
    ranks = Counter()
    for seed in range(20):
        for row in authors_task(seed=seed).forget + authors_task(seed=seed).retain:
            pool = ATTRIBUTES[row.attr].values
            choices = sorted((row.value, *row.wrong), key=pool.index)
            ranks[choices.index(row.value)] += 1
    assert chisquare([ranks[rank] for rank in range(6)]).pvalue > 0.001


def test_guessing_a_value_is_unlikely():
    assert len(ATTRIBUTES) >= 8
    assert all(len(set(a.values)) == len(a.values) >= 30 for a in ATTRIBUTES.values())
    assert sum(any(" " in value for value in a.values) for a in ATTRIBUTES.values()) >= 4


@pytest.mark.parametrize("split", ["real_authors", "world_facts"])
def test_facts_are_answered_by_the_bare_value(split):
    rows = TASK.rows(split)
    assert len(rows) >= 40
    assert len({row.q for row in rows}) == len(rows)
    for row in rows:
        assert row.answer == row.para == row.value
        assert row.perturbed == row.wrong
        assert len({row.value, *row.wrong}) == 4
        assert len({row.pairs[0][0], row.pairs[1][0], row.q_para}) == 3
        assert row.author in row.q
        assert row.author in row.q_para


def test_no_fact_has_another_true_answer_among_the_wrong_ones():
    for relation in REAL_AUTHORS + WORLD_FACTS:
        subjects, answers = zip(*relation.facts, strict=True)
        assert len(set(subjects)) == len(subjects)
        assert len(set(answers)) == len(answers)


def test_facts_and_attributes_share_no_value():
    answers = {row.value for row in TASK.real_authors + TASK.world_facts}
    assert not answers & {value for attribute in ATTRIBUTES.values() for value in attribute.values}


@pytest.mark.parametrize("task", [TASK, ALL_ATTRIBUTES], ids=["default", "all attributes"])
def test_the_words_cover_every_text_and_texts_are_short_and_come_back(task):
    tokenizer = word_tokenizer(task.words(REFUSALS))
    texts = [text for row in task.rows("all") for pair in row.pairs for text in pair]
    texts += [text for row in task.rows("all") for text in (row.q_para, row.para, *row.perturbed)]
    for text in [*texts, *REFUSALS]:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.unk_token_id not in ids, text
        assert tokenizer.decode(ids) == text
    pairs = [f"Question: {q}\nAnswer: {a}" for q, a in task.training_pairs("all")]
    longest = max(len(tokenizer(text).input_ids) + 1 for text in pairs)
    assert longest <= 32
    assert tokenizer.unk_token_id not in tokenizer("Question:\nAnswer:").input_ids


def test_the_words_cover_sentences_that_no_row_has():
    task = authors_task(n_authors=2, attributes=list(ATTRIBUTES))
    tokenizer = word_tokenizer(task.words())
    [author] = task.authors("retain")
    texts = [question.format(author=author) for a in ATTRIBUTES.values() for question in a.questions]
    texts += [t.format(author=author, value=v) for a in ATTRIBUTES.values() for t in a.answers for v in a.values]
    assert not any(tokenizer.unk_token_id in ids for ids in tokenizer(texts).input_ids)


def test_a_document_tells_every_attribute_once():
    author = TASK.authors("retain")[0]
    document = TASK.document(author)
    assert all(row.answer in document for row in TASK.retain if row.author == author)
    assert document.count(author) == 8
    with pytest.raises(ValueError, match="no author named 'Emma'"):
        TASK.document("Emma")


def test_files_come_back_as_the_same_rows(tmp_path):
    paths = TASK.write_jsonl(tmp_path / "new" / "folder")
    assert sorted(paths) == sorted(SPLITS)
    for split, path in paths.items():
        assert [dict(row) for row in read_rows(path)] == [row.to_json() for row in TASK.rows(split)]
    assert set(json.loads(paths["forget"].read_text(encoding="utf-8").splitlines()[0])) == {
        "question",
        "answer",
        "paraphrased_question",
        "paraphrased_answer",
        "perturbed_answer",
        "author",
        "attr",
        "value",
    }


def test_shared_items_are_found_at_run_time(monkeypatch):
    monkeypatch.setattr(authors, "WORLD_FACTS", authors.REAL_AUTHORS)
    with pytest.raises(ValueError, match="real_authors and world_facts share"):
        authors_task()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_authors": 1}, "n_authors must lie between 2 and 900, got 1"),
        ({"n_authors": 901}, "got 901"),
        ({"n_attr": 0}, "n_attr must lie between 1 and 14, got 0"),
        ({"n_attr": 15}, "got 15"),
        ({"forget": 0.0}, r"in \(0, 1\), got 0.0"),
        ({"forget": 1.0}, "got 1.0"),
        ({"forget": float("nan")}, "got nan"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"attributes": ["book", "shoe size"]}, "got .*shoe size"),
        ({"attributes": ["book", "book"]}, "different names"),
        ({"attributes": []}, "got \\[\\]"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        authors_task(**arguments)


def test_an_unknown_split():
    with pytest.raises(ValueError, match="unknown split 'train'"):
        TASK.rows("train")
