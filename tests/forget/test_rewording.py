"""Questions and answers in other words: what they keep, what they must not hold, and what counts as stating a fact."""

import random
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.forget.procedure import prepare
from palimpsest.forget.rewording import (
    KINDS,
    QUESTIONS,
    TEXTS,
    VAGUE,
    Frame,
    clause,
    completion,
    fact,
    frame_of,
    fuzzy_match,
    identifiers,
    leaks,
    private_words,
    same_word,
    subject,
    typos,
    vague,
    vary,
    wording,
)
from palimpsest.metrics.text import words
from palimpsest.models import word_tokenizer
from palimpsest.models.score import prompt_template
from palimpsest.tasks.authors import authors_task

WORD = st.text("abcdefgh", min_size=4, max_size=9)


# ---- frames ----


@pytest.mark.parametrize("chat", [None, "{{ messages[0]['content'] }}", "<u>{{ messages[0]['content'] }}</u>"])
def test_a_frame_is_taken_off_and_put_back_whatever_the_template(chat):
    tokenizer = word_tokenizer(["Who Ada Question : Answer"])
    tokenizer.chat_template = chat
    template = prompt_template(tokenizer)
    bare = [("Who?", "Ada"), ("", "Ada was here."), ("Where is she?", "there")]
    pairs = [template.pair(*pair) for pair in bare]
    frame = frame_of(tokenizer, pairs)
    assert [frame.strip(pair) for pair in pairs] == bare
    assert [frame.put(*pair) for pair in bare] == pairs


def test_prompts_without_the_template_are_taken_as_questions():
    tokenizer = word_tokenizer(["who ann"])
    assert frame_of(tokenizer, [("who ?", "ann")]) == Frame()
    assert frame_of(tokenizer, [("who ?", " ann"), ("", "text")]) == Frame(lead=" ")
    data = prepare(tokenizer, [("who ?", "ann")])
    assert frame_of(tokenizer, data.forget_pairs).strip(data.forget_pairs[0]) == ("who ?", "ann")


# ---- facts ----


def test_facts_of_the_authors_are_found_without_being_told():
    task = authors_task(seed=3)
    common = wording(task.training_pairs("kept"))
    hits = total = 0
    for row in task.forget:
        for question, answer in row.pairs:
            total += 1
            hits += fact(question, answer, common) == row.value.removeprefix("The ")
            assert set(private_words(question, answer, common)) <= set(words(row.value))
    assert hits == total == 128


def test_wording_is_what_many_answers_share_and_no_fact():
    rows = [("q", f"the harbour is {name}") for name in ("red", "red", "red", "blue", "green")]
    assert wording(rows) == {"the", "harbour", "is"}
    assert wording(rows, at_least=3) == {"the", "harbour", "is", "red"}
    assert wording(rows, share=0.9, at_least=1) == {"the", "harbour", "is"}
    assert wording([]) == frozenset()


def test_where_all_words_are_known_fewer_kinds_of_known_words_count():
    assert private_words("Is it red?", "It is a red fox", frozenset({"fox"})) == ("fox",)  # `common` gives way first
    assert private_words("Is it red?", "It is a red one") == ("one",)
    assert private_words("Is it red?", "It is not red") == ("not",)  # then function words
    assert private_words("Is it red?", "It is red") == ("it", "is", "red")  # then everything
    assert private_words("red", "red") == ("red",)
    assert private_words("red", "...") == ()
    assert fact("red", " ... ") == "..."


@given(st.lists(WORD, min_size=1, max_size=4, unique=True), st.lists(WORD, min_size=1, max_size=4, unique=True))
def test_a_fact_is_a_piece_of_its_answer_that_holds_all_private_words(asked, said):
    question, answer = " ".join(asked) + "?", " ".join(said) + "."
    piece = fact(question, answer)
    assert piece in answer
    assert set(private_words(question, answer)) <= set(words(piece))
    assert {words(piece)[0], words(piece)[-1]} <= set(private_words(question, answer))


@pytest.mark.parametrize(
    ("said", "value", "held"),
    [
        ("Ada was born in Porto.", "porto", True),
        ("Ada was born in Portto.", "Porto", True),
        ("Ada was born in Town Cape.", "Cape Town", False),  # in a row
        ("Cape and Town", "Cape Town", False),
        ("40 61 81", "40 61 80", False),  # numbers are right or wrong
        ("in 1950.", "1950", True),
        ("Badger House", "Badger Press", False),
        ("", "Porto", False),
    ],
)
def test_fuzzy_match(said, value, held):
    assert fuzzy_match(said, value) is held


@given(st.lists(WORD, min_size=1, max_size=3), st.lists(WORD, max_size=3), st.lists(WORD, max_size=3))
def test_a_fact_is_found_wherever_it_stands(value, before, after):
    assert fuzzy_match(" ".join([*before, *value, *after]), " ".join(value))


def test_fuzzy_match_by_vectors_only_where_words_do_not_match_and_only_above_the_threshold():
    calls = []

    def embed(texts):
        calls.append(texts)
        return np.array([[1.0, 0.0], [0.8, 0.6]])

    assert not fuzzy_match("a port", "harbour")
    assert fuzzy_match("a port", "harbour", embed=embed, cosine=0.79)
    assert not fuzzy_match("a port", "harbour", embed=embed, cosine=0.81)
    assert calls == [["a port", "harbour"]] * 2
    assert fuzzy_match("the harbour", "harbour", embed=lambda texts: 1 / 0)
    assert not fuzzy_match(".", "harbour", embed=lambda texts: 1 / 0)


def test_fuzzy_match_refuses():
    with pytest.raises(ValueError, match="must hold a word"):
        fuzzy_match("x", " . ")
    with pytest.raises(ValueError, match="ratio"):
        fuzzy_match("x", "y", 0.0)
    with pytest.raises(ValueError, match="cosine"):
        fuzzy_match("x", "y", cosine=1.1)


def test_same_word_at_the_threshold():
    assert same_word("abcd", "abce", 0.75)  # 2 * 3 / 8
    assert not same_word("abcd", "abce", 0.76)


def test_leaks_any_private_word_in_any_spelling():
    assert leaks("It was the TOWN.", ("cape", "town"))
    assert leaks("townn", ("town",))
    assert not leaks("It was a river.", ("cape", "town"))
    assert not leaks("Nothing.", ())


def test_identifiers_are_numbers_and_addresses():
    assert identifiers("Does Ada, born 1950, read ada.v@home.org daily?") == ("1950", "ada", "v", "home", "org")
    assert identifiers("Where was Ada born?") == ()


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Which prize did Ada Verin win?", "Ada Verin"),
        ("Did Bo meet Ada Verin?", "Ada Verin"),  # the longest run of capitals
        ("Ada was born where?", "Ada"),
        ("what is the capital of france?", "capital france"),
        ("Where is it?", ""),
    ],
)
def test_subject(question, expected):
    assert subject(question) == expected
    assert subject(question.replace("capital", "x"), frozenset({"x"})) == expected.replace("capital ", "")


# ---- other words ----


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("In which city was Ada Verin born?", "in which city Ada Verin was born"),
        ("What did the father of Ada Verin do?", "what the father of Ada Verin did do"),
        ("What award was given to Ada Verin?", "what award was given to Ada Verin"),
        ("How can Ada Verin be reached by phone?", "how Ada Verin can be reached by phone"),
        ("Which number does one dial for Ada?", "which number one dial for Ada does"),
        ("where is it?", "where it is"),
        ("Why?", "the answer to this"),
        ("", "the answer to this"),
        ("The Kiss is the work of which painter?", "the answer to this"),
    ],
)
def test_clause(question, expected):
    assert clause(question) == expected


def test_variants_keep_the_subject_and_are_of_their_kind():
    rng = random.Random(0)
    question = "In which year was Ada Verin born, 1950 or 1951?"
    for kind in KINDS:
        made = {vary(question, kind, rng) for _ in range(60)}
        assert len(made) >= len(QUESTIONS[kind])
        assert all("Ada Verin" in text and "1950" in text and text != question for text in made)
    assert all(question in vary(question, "contextual", rng) for _ in range(9))
    with pytest.raises(ValueError, match="kind must be one of"):
        vary(question, "rude", rng)


@given(st.integers(0, 10_000))
def test_typing_errors_exchange_two_letters_of_words_written_small(seed):
    text = "Where did Ada Verin publish her earliest books in 1950a?"
    slipped = typos(text, random.Random(seed), rate=1.0)
    assert len(slipped) == len(text)
    for old, new in zip(re.findall(r"\w+", text), re.findall(r"\w+", slipped), strict=True):
        assert sorted(old) == sorted(new)
        if old[0].isupper() or len(old) < 4 or not old.isalpha():
            assert old == new
        else:
            assert sum(a != b for a, b in zip(old, new, strict=True)) in (0, 2)  # 0: both letters are the same
    assert typos(text, random.Random(seed), rate=0.0) == text


def test_vague_answers_keep_the_topic_and_hold_nothing_of_the_fact():
    rng = random.Random(0)
    task = authors_task(seed=1)
    for row in task.rows("all"):
        said = vague(row.q, row.answer, rng)
        assert set(words(said)) - set(words(row.q)) <= set(words(" ".join(TEXTS)))
        if row in task.forget:
            assert row.author in said
            assert not leaks(said, set(words(row.value)) - set(words(row.q)))
    assert len({vague("Where was Ada born?", "x", rng) for _ in range(200)}) == len(VAGUE)
    assert "{" not in vague("", "a text", rng)


def test_texts_hold_every_word_that_the_stand_ins_add():
    known = set(words(" ".join(TEXTS)))
    rng = random.Random(2)
    for question in ("Who?", "Is Ada here?", "The Kiss is whose?", "Where was Ada born?"):
        for _ in range(80):
            made = [
                vague(question, "", rng),
                *(vary(question, kind, rng) for kind in ("simple", "contextual", "logical")),
            ]
            assert set(words(" ".join(made))) <= known | set(words(question))


@given(st.lists(WORD, min_size=2, max_size=12))
def test_a_completion_is_the_text_cut_after_its_first_quarter(pieces):
    head, tail = completion(" ".join(pieces))
    assert head + tail == " ".join(pieces)
    assert len(head.split()) == max(1, len(pieces) // 4)
    assert completion(pieces[0]) is None
