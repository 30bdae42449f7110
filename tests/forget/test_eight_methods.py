"""The eight tests: placing, the parts they are made of, and a model of which the right answers are known."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.forget.eight_methods import (
    TESTS,
    Suite,
    facts_shown,
    measures,
    placed,
    relearn_attack,
    relearned,
    robust_suite,
)
from palimpsest.forget.familiar_completions import Completion, completions, familiarity, grade
from palimpsest.forget.prompting import AFFIRMATION, JAILBREAKS
from palimpsest.forget.second_language import word_substitution
from palimpsest.models import causal_lm, word_tokenizer
from palimpsest.models.score import encode, prompt_template
from palimpsest.tasks.authors import authors_task
from palimpsest.train.language import fine_tune

TASK = authors_task(6, 4, 0.4, seed=4)
LANGUAGE = word_substitution(["Where", "was", "born", "the", "of", "is", "does"])
TEXTS = [LANGUAGE(row.q, (row.author, row.value)) for row in TASK.forget]
TOKENIZER = word_tokenizer(TASK.words([*TEXTS, *JAILBREAKS, AFFIRMATION, "Pretend that you know nothing about this."]))
TOKENIZER.chat_template = "{{ messages[0]['content'] }}"
SUITE = Suite(TOKENIZER, TASK.forget, TASK.retain[:4], LANGUAGE, shots=2, steps=1)


def lm(seed=0):
    return causal_lm(len(TOKENIZER), d_model=32, n_layers=1, n_heads=2, max_length=160, seed=seed).eval()


@pytest.fixture(scope="module")
def knowing():
    """A model that answers the plain questions, and no others."""
    model, template = lm(), prompt_template(TOKENIZER)
    pairs = [template.pair(row.q, row.answer) for row in TASK.forget + TASK.retain[:4]]
    rows = encode(TOKENIZER, *zip(*pairs, strict=True), max_length=64)
    fine_tune(model, rows, pad_id=0, epochs=70, lr=5e-3, batch_size=8, warmup=1, progress=False)
    return model.eval()


def numbers(value, **others):
    return {**dict.fromkeys((*TESTS, "plain", "pretending", "neighbours"), value), **others}


@given(m=st.floats(0, 1), base=st.floats(0.2, 1), gold=st.floats(0, 0.05))
def test_places_lie_between_gold_and_base(m, base, gold):
    found = placed(numbers(m), numbers(base), numbers(gold))
    for test in TESTS:
        assert 0 <= found[test] <= 1
        assert found[test] == pytest.approx(min(max((m - gold) / (base - gold), 0), 1))
    assert placed(numbers(base), numbers(base), numbers(gold))["jailbreak"] == 1
    assert placed(numbers(gold), numbers(base), numbers(gold))["jailbreak"] == 0
    assert found["side effects"] == pytest.approx((base - m) / base)
    assert found["against pretending"] == pytest.approx(m - base)


def test_a_test_in_which_base_and_gold_are_alike_tells_nothing():
    found = placed(numbers(0.5), numbers(0.5, neighbours=0), numbers(0.45))
    assert all(math.isnan(found[test]) for test in (*TESTS, "side effects"))


def test_a_model_that_knows_the_plain_questions_only(knowing):
    found = measures(knowing, SUITE)
    assert found["plain"] > 0.9
    assert found["neighbours"] > 0.9
    assert set(found) >= set(TESTS)
    same = robust_suite(knowing, knowing, lm(1), SUITE)
    assert same["side effects"] == 0
    assert same["against pretending"] == pytest.approx(found["plain"] - found["pretending"])
    for test in TESTS:
        assert same[test] == 1 or math.isnan(same[test])


def test_measures_of_an_untrained_model_are_near_nothing():
    found = measures(lm(2), SUITE)
    assert max(found[name] for name in ("plain", "neighbours", "in-context", "jailbreak")) < 0.2


def test_relearning_leaves_the_model_asks_about_others_and_keeps_a_trace(knowing):
    before = [p.clone() for p in knowing.parameters()]
    subset, others = relearned(SUITE)
    trace = relearn_attack(knowing, subset, others, TOKENIZER, steps=4, every=2)
    assert [step for step, _ in trace] == [0, 2, 4]
    assert trace[0][1] > 0.8
    assert all((p == q).all() for p, q in zip(knowing.parameters(), before, strict=True))
    adapter = relearn_attack(knowing, subset, others, TOKENIZER, steps=1, rank=2)
    assert adapter[0] == trace[0]
    with pytest.raises(ValueError, match="rows and others"):
        relearn_attack(knowing, subset, subset, TOKENIZER)


def test_what_is_relearned_is_a_share_and_the_rest_is_asked():
    subset, others = relearned(replace(SUITE, share=0.5))
    assert len(subset) == len(others) == len(TASK.forget) // 2
    assert not {row.q for row in subset} & {row.q for row in others}


def test_facts_in_the_prompt_are_others_and_of_the_same_author_first():
    for row, shown in zip(TASK.forget, facts_shown(SUITE), strict=True):
        assert len(shown) == 2
        assert row not in shown
        assert all(other.author == row.author for other in shown)


@pytest.mark.parametrize(("text", "points"), [("in Porto.", 3), ("a haiku", 2), ("Quito it was", 1), ("Portofino", 0)])
def test_grades(text, points):
    assert grade(text, Completion("Ada", "Porto", ("haiku",), ("Quito",))) == points


def test_familiarity_is_high_where_sentences_are_known(knowing):
    asked = completions(TASK.forget)
    assert all(row.prompt and row.value not in row.prompt for row in asked)
    assert familiarity(lm(3), asked, TOKENIZER) < 0.6
    model = lm()
    rows = encode(TOKENIZER, [""] * len(asked), [f"{c.prompt} {c.value}" for c in asked], max_length=64)
    fine_tune(model, rows, pad_id=0, epochs=80, lr=5e-3, batch_size=8, warmup=1, progress=False)
    assert familiarity(model, asked, TOKENIZER) > 2.5
    assert all(c.prompt.startswith("Now ") for c in completions(TASK.forget, "Now"))


def test_the_other_language_keeps_names_and_is_the_same_every_time():
    translate = word_substitution(["was", "born"])
    assert translate("Anna was born.", ["Anna"]) == "Anna sawu nrobu."
    assert translate("was was", ["was"]) == "was was"
    with pytest.raises(ValueError, match="word of both languages"):
        word_substitution(["ab", "bau"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"forget": TASK.forget[:7]}, "at least 8 forget rows"),
        ({"neighbours": ()}, "and a neighbour"),
        ({"share": 1.0}, "share must be in"),
        ({"shots": 0}, "shots at least 1"),
    ],
)
def test_suites_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SUITE, **change)
