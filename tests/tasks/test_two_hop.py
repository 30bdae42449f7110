"""Every conclusion follows from its premises, the sets are disjoint and complete, and the seed decides everything."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palimpsest.models import word_tokenizer
from palimpsest.tasks.two_hop import HopRow, two_hop_task


def told(rows):
    return {(row.kind, row.subject): row.answer for row in rows}


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 500),
    n_countries=st.integers(2, 6),
    more=st.tuples(st.integers(0, 8), st.integers(5, 30)),
    share=st.floats(0.1, 0.6),
)
def test_conclusions_follow_and_the_sets_are_a_partition(seed, n_countries, more, share):
    n_cities = n_countries + more[0]
    n_persons = n_cities + more[1]
    task = two_hop_task(seed, n_persons=n_persons, n_cities=n_cities, n_countries=n_countries, forget=share)
    facts = told(task.rows)
    assert len(facts) == len(task.rows) == 3 * n_persons + 2 * n_cities
    persons = {subject for kind, subject in facts if kind == "person-city"}
    for person in persons:
        city = facts["person-city", person]
        assert facts["person-country", person] == facts["city-country", city]
        assert facts["person-river", person] == facts["city-river", city]
    assert len(task.chosen) == len(set(task.chosen)) == round(share * n_persons)
    for forget in ("conclusions", "premises"):
        parts = task.split(forget)
        assert Counter(row for rows in parts.values() for row in rows) == Counter(task.rows)


def test_what_is_forgotten_kept_and_left_alone():
    task = two_hop_task(seed=4)
    chosen = set(task.chosen)
    conclusions, premises = task.split("conclusions"), task.split("premises")
    assert {(row.kind, row.subject) for row in conclusions["forget"]} == {("person-country", p) for p in chosen}
    assert conclusions["derived"] == []
    kept = told(conclusions["retain"])
    assert all(("person-city", p) in kept for p in chosen), "the premises of a forgotten conclusion stay"
    assert {(row.kind, row.subject) for row in premises["forget"]} == {("person-city", p) for p in chosen}
    assert premises["derived"] == conclusions["forget"]
    assert not {row.subject for row in premises["retain"]} & chosen, "nothing of these persons is trained on"
    for parts in (conclusions, premises):
        assert {(row.kind, row.subject) for row in parts["benign"]} == {("person-river", p) for p in chosen}
        assert {row.subject for row in parts["retain"] if row.kind == "city-country"} == set(task.countries)


def test_answers_are_spread_evenly():
    task = two_hop_task(seed=7)
    assert set(Counter(task.homes.values()).values()) == {3}
    assert set(Counter(task.countries.values()).values()) == {2}
    assert len(set(task.rivers.values())) == 20
    names = [*task.countries, *set(task.countries.values()), *task.rivers.values()]
    assert len(set(names)) == len(names)


def test_rules_lead_to_the_conclusion_by_questions_that_are_trained_on():
    task = two_hop_task(seed=2)
    asked = {pair[0]: pair[1] for row in task.rows for pair in row.pairs}
    assert len(asked) == 2 * len(task.rows), "no two questions are the same"
    assert len(task.rules()) == len(task.chosen)
    for rule in task.rules():
        city = asked[rule.first]
        assert asked[rule.second.replace("{answer}", city)] == rule.answer == asked[rule.question]
        assert city in rule.premises[0]
        assert city in rule.premises[1]
        assert rule.answer in rule.premises[1]


def test_both_wordings_ask_for_the_same():
    first, second = HopRow("person-city", "Ada Verin", "Porto").pairs
    assert first == ("Where does Ada Verin live?", "Porto")
    assert second == ("Which city is home to Ada Verin?", "Porto")


def test_the_seed_decides():
    assert two_hop_task(3) == two_hop_task(3)
    one, other = two_hop_task(3), two_hop_task(4)
    assert not set(one.homes) & set(other.homes)
    assert list(one.countries) != list(other.countries)


def test_the_words_cover_rows_and_premises():
    task = two_hop_task(seed=1)
    tokenizer = word_tokenizer(task.words())
    texts = [text for row in task.rows for pair in row.pairs for text in pair]
    texts += [text for rule in task.rules() for text in rule.premises]
    assert all(tokenizer.unk_token_id not in ids for ids in tokenizer(texts).input_ids)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_countries": 1}, "n_countries <= n_cities .*got 1, 20 and 60"),
        ({"n_cities": 70}, "got 10, 70 and 60"),
        ({"n_persons": 901}, "<= 900"),
        ({"forget": 0.0}, "both sides, got 0.0 of 60"),
        ({"forget": 0.999}, "both sides"),
        ({"forget": 0.001}, "both sides"),
    ],
)
def test_numbers_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        two_hop_task(0, **options)


def test_unknown_forget_set():
    with pytest.raises(ValueError, match="'conclusions' or 'premises', got 'cities'"):
        two_hop_task(0).split("cities")
