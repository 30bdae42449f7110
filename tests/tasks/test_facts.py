"""Facts: every wording tells the fact and ends where it should, splits share nobody, and what cannot be is refused."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest.models import word_tokenizer
from palimpsest.tasks.facts import RELATIONS, SHARES, Fact, Relation, fact_words, facts


@pytest.mark.parametrize("name", RELATIONS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("wording", [0, 1, 2])
def test_a_cloze_and_its_answer_make_the_statement_and_hide_the_answer(name, reverse, wording):
    for fact in facts(20, relations=[name]):
        prompt, answer = fact.cloze(wording, reverse=reverse)
        assert f"{prompt}{answer}." == fact.statement(wording, reverse=reverse)
        last, first = (fact.subject, fact.object) if reverse else (fact.object, fact.subject)
        assert answer == f" {last}"
        assert re.search(rf"\b{re.escape(first)}\b", prompt)
        assert last not in prompt
        question, told = fact.question(wording, reverse=reverse)
        assert (told, question[-1]) == (last, "?")
        assert first in question
        assert last not in question


@pytest.mark.parametrize("name", RELATIONS)
def test_wordings_differ(name):
    relation = RELATIONS[name]
    told = relation.statements + relation.reversals + relation.questions + relation.reverse_questions
    assert len(set(told)) == 12
    assert all("{subject}" in t and "{object}" in t for t in relation.statements + relation.reversals)


def test_splits_of_a_seed_and_seeds_share_nobody():
    people = [{fact.subject for fact in facts(150, split, seed)} for split in SHARES for seed in (0, 1)]
    assert all(len(group) == 150 for group in people)
    assert len(set.union(*people)) == 6 * 150


@given(seed=st.integers(0, 1000), n=st.integers(1, 40))
@settings(max_examples=20, deadline=None)
def test_a_seed_fixes_the_facts_and_a_relation_does_not_depend_on_the_others(seed, n):
    both = facts(n, seed=seed, relations=["job", "hobby"])
    assert both == facts(n, seed=seed, relations=["job", "hobby"])
    assert both[1::2] == facts(n, seed=seed, relations=["hobby"])
    assert [fact.subject for fact in both[::2]] == [fact.subject for fact in both[1::2]]
    for fact in both:
        assert fact.object in fact.relation.objects
        assert len(set(fact.wrong)) == 5
        assert fact.object not in fact.wrong
        assert set(fact.wrong) <= set(fact.relation.objects)


def test_unique_objects_can_be_turned_round():
    n = len(RELATIONS["birthplace"].objects)
    rows = facts(n, relations=["birthplace"], unique=True)
    assert len({fact.object for fact in rows}) == n
    assert len({fact.object for fact in facts(n, relations=["birthplace"])}) < n
    with pytest.raises(ValueError, match=rf"birthplace has {n} objects, fewer than {n + 1}"):
        facts(n + 1, relations=["birthplace"], unique=True)


def test_words_cover_every_telling():
    rows = facts(10, seed=3)
    tokenizer = word_tokenizer(fact_words(rows))
    texts = []
    for fact in rows:
        for wording in range(3):
            for reverse in (False, True):
                texts += [fact.statement(wording, reverse=reverse), *fact.question(wording, reverse=reverse)]
        texts += fact.wrong
    assert tokenizer.unk_token_id not in {i for ids in tokenizer(texts).input_ids for i in ids}


def test_a_relation_of_ones_own():
    colour = Relation(
        "colour",
        tuple(f"{{subject}} {verb} {{object}}." for verb in ("is", "likes", "wears")),
        tuple(f"{{object}} {verb} {{subject}}." for verb in ("is", "suits", "becomes")),
        ("What is {subject}?",) * 3,
        ("Who is {object}?",) * 3,
        ("red", "blue"),
    )
    (fact,) = facts(1, relations=[colour])
    assert fact.wrong == tuple({"red", "blue"} - {fact.object})
    assert Fact("Bo", colour, "red").statement(2, reverse=True) == "red becomes Bo."
    with pytest.raises(ValueError, match=r"must end with ' \{object\}\.'"):
        Relation("x", ("{object} is {subject}.",) * 3, colour.reversals, colour.questions, colour.questions, ("a", "b"))
    with pytest.raises(ValueError, match="two or more different"):
        Relation("x", colour.statements, colour.reversals, colour.questions, colour.questions, ("a", "a"))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((1, "dev"), {}, "'dev'"),
        ((0,), {}, "got 0"),
        ((151, "test"), {}, "1 to 150 people"),
        ((1,), {"relations": ["shoe size"]}, "shoe size"),
        ((1,), {"relations": []}, "relations must be"),
    ],
)
def test_refuses_what_it_cannot_give(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        facts(*arguments, **options)
