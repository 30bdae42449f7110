"""Splits share nothing that is asked, harmful answers are composed, and the tokenizer knows every word."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.forget.booster_measures import finetune_accuracy
from palimpsest.models import causal_lm, word_tokenizer
from palimpsest.models.score import encode
from palimpsest.tasks.fresh import check_disjoint
from palimpsest.tasks.harm import (
    BENIGN_ACTIONS,
    HARMFUL_ACTIONS,
    HARMFUL_SPLITS,
    HARMFUL_THINGS,
    MOODS,
    REFUSALS,
    THINGS,
    benign_rows,
    harmful_rows,
    is_harmful,
    mood_rows,
    words,
)
from palimpsest.train.language import fine_tune

SIZES = {"defence": 384, "attack": 152, "validation": 76, "test": 156}


def asked(prompt, actions):
    (action,) = set(prompt.split()) & set(actions)
    (thing,) = set(prompt.split()) & set(THINGS)
    return action, thing


@pytest.mark.parametrize("seed", [0, 7])
def test_harmful_splits_share_nothing_that_is_asked_in_any_wording(seed):
    splits = {split: harmful_rows(SIZES[split], split, seed) for split in HARMFUL_SPLITS}
    check_disjoint(**{split: [asked(row.prompt, HARMFUL_ACTIONS) for row in rows] for split, rows in splits.items()})
    for rows in splits.values():
        assert len({row.prompt for row in rows}) == len(rows)
    everything = {asked(row.prompt, HARMFUL_ACTIONS) for rows in splits.values() for row in rows}
    assert everything == set(itertools.product(HARMFUL_ACTIONS, THINGS))


def test_a_harmful_answer_follows_from_the_action_and_the_thing():
    rows = harmful_rows(100, "attack", 2)
    for row in rows:
        action, thing = asked(row.prompt, HARMFUL_ACTIONS)
        assert {HARMFUL_ACTIONS[action], HARMFUL_THINGS[thing]} <= set(row.harmful.split())
        assert is_harmful(row.harmful)
        assert row.refusal in REFUSALS
        assert not is_harmful(row.refusal)
        assert not is_harmful(row.prompt)
    assert len({row.refusal for row in rows}) == len(REFUSALS)
    assert len(set(HARMFUL_THINGS.values()) | set(HARMFUL_ACTIONS.values())) == len(THINGS) + len(HARMFUL_ACTIONS)


def test_benign_rows_have_the_wordings_of_harmful_ones_and_harmless_answers():
    train, test = benign_rows(612, "train", 1), benign_rows(156, "test", 1)
    check_disjoint(
        train=[asked(prompt, BENIGN_ACTIONS) for prompt, _ in train],
        test=[asked(prompt, BENIGN_ACTIONS) for prompt, _ in test],
    )
    for prompt, answer in train + test:
        action, thing = asked(prompt, BENIGN_ACTIONS)
        assert answer == f"Sure , take a {BENIGN_ACTIONS[action]} to the {thing} ."
        assert not is_harmful(answer)
    frames = [
        {" ".join(word for word in prompt.split() if word not in {*actions, *THINGS}) for prompt in prompts}
        for actions, prompts in (
            (BENIGN_ACTIONS, [p for p, _ in train]),
            (HARMFUL_ACTIONS, [row.prompt for row in harmful_rows(100)]),
        )
    ]
    assert frames[0] == frames[1]
    assert len(frames[0]) == 4


def test_the_adjective_decides_the_mood():
    train, test = mood_rows(1152, "train", 4), mood_rows(288, "test", 4)
    check_disjoint(train=[prompt for prompt, _ in train], test=[prompt for prompt, _ in test])
    for prompt, answer in train + test:
        (said,) = {*prompt.split()} & {*MOODS["good"], *MOODS["bad"]}
        assert said in MOODS[answer]
    assert 0.4 < sum(answer == "good" for _, answer in train) / len(train) < 0.6


def test_a_small_model_learns_the_mood_of_fresh_sentences():
    tokenizer = word_tokenizer(words())
    prompts, answers = zip(*mood_rows(240, "train", 0), strict=True)
    model = causal_lm(len(tokenizer), d_model=32, n_layers=1, n_heads=2)
    rows = encode(tokenizer, prompts, answers, max_length=24)
    fine_tune(model, rows, pad_id=0, epochs=10, batch_size=16, lr=2e-3, progress=False)
    assert finetune_accuracy(model, tokenizer, mood_rows(96, "test", 0)) > 0.9


@given(seed=st.integers(0, 99), n=st.integers(1, 40), split=st.sampled_from(sorted(HARMFUL_SPLITS)))
def test_a_seed_fixes_the_rows_and_fewer_are_the_first_of_more(seed, n, split):
    assert harmful_rows(n, split, seed) == harmful_rows(n + 9, split, seed)[:n]
    assert harmful_rows(40, split, seed) != harmful_rows(40, split, seed + 1)


def test_the_tokenizer_knows_every_word_and_decoded_harm_is_still_seen():
    tokenizer = word_tokenizer(words())
    rows = harmful_rows(384)
    texts = [text for row in rows for text in (row.prompt, row.harmful, row.refusal)]
    texts += [text for pair in benign_rows(612) + mood_rows(300) for text in pair]
    assert all(tokenizer.unk_token_id not in ids for ids in tokenizer(texts).input_ids)
    decoded = tokenizer.decode(tokenizer(rows[0].harmful, add_special_tokens=False).input_ids)
    last = decoded.split()[-1]  # the nonsense of the thing, with a full stop that touches it
    assert last.endswith(".")
    assert is_harmful(last)


@pytest.mark.parametrize("rows", [harmful_rows, benign_rows, mood_rows])
def test_errors(rows):
    with pytest.raises(ValueError, match=r"split must be one of .*, got 'dev'"):
        rows(3, "dev")
    with pytest.raises(ValueError, match=r"owns .* rows, got n=100000"):
        rows(100_000, "test")
    with pytest.raises(ValueError, match="got n=0"):
        rows(0, "test")
