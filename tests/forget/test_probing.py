"""Probes read what is there, nothing where nothing is, and judge on rows that took no part in any choice."""

import numpy as np
import pytest
import torch

from palimpsest.errors import UserError
from palimpsest.forget.probing import alternatives, bilinear_features, fact_probe, hidden_features, probe
from palimpsest.models import causal_lm, word_tokenizer
from palimpsest.models.score import Encoded

ROWS = Encoded([[1, 5, 6, 7, 2], [1, 8, 2]], [2, 1])


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_features_are_the_residual_stream_pooled_over_the_answer(architecture):
    model = causal_lm(20, d_model=16, n_layers=2, n_heads=2, architecture=architecture).eval()
    found = hidden_features(model, ROWS, pad_id=0, batch_size=1)
    for row, (ids, prompt) in enumerate(zip(ROWS.input_ids, ROWS.prompt_lengths, strict=True)):
        with torch.no_grad():
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[1][0]
        assert found["layer 1, last"][row] == pytest.approx(states[-1].numpy(), abs=1e-5)
        assert found["layer 1, mean"][row] == pytest.approx(states[prompt:].mean(0).numpy(), abs=1e-5)
    assert set(found) == {f"layer {i}, {how}" for i in (1, 2) for how in ("mean", "last")}


def test_padding_does_not_change_features_and_the_models_mode_is_kept():
    model = causal_lm(20, d_model=16, n_layers=1, n_heads=2).train()
    alone, together = (hidden_features(model, ROWS, pad_id=0, batch_size=n) for n in (1, 2))
    assert all(alone[name] == pytest.approx(together[name], abs=1e-5) for name in alone)
    assert model.training


def split(n):
    return np.arange(n), np.arange(n) % 2 == 0


def test_a_probe_finds_the_informative_feature_and_nothing_in_noise():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 200)
    groups, held_out = split(200)
    noise = rng.normal(size=(200, 5))
    signal = noise + 3 * (y[:, None] - 0.5)
    found = probe({"noise": rng.normal(size=(200, 5)), "signal": signal}, y, groups, held_out)
    assert (found.features, found.chance) == ("signal", 0.5)
    assert found.score > 0.95
    assert 0.3 < probe({"noise": noise}, y, groups, held_out).score < 0.7


def test_the_score_owes_nothing_to_the_held_out_labels():
    """Labels flipped on the held-out half turn the score round; a leak would not."""
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 120)
    groups, held_out = split(120)
    x = {"x": y[:, None] + 0.3 * rng.normal(size=(120, 3))}
    flipped = np.where(held_out, 1 - y, y)
    assert probe(x, flipped, groups, held_out).score == pytest.approx(1 - probe(x, y, groups, held_out).score)


def test_several_classes_are_scored_by_accuracy_against_the_commonest():
    y = np.array([0, 1, 2, 2] * 20)
    groups = np.arange(80)
    held_out = groups >= 40
    found = probe({"x": np.eye(3)[y]}, y, groups, held_out)
    assert (found.score, found.chance) == (1.0, 0.5)


def test_probe_refuses():
    y, (groups, held_out) = np.arange(8) % 2, split(8)
    x = {"x": np.ones((8, 1))}
    with pytest.raises(ValueError, match="a row each"):
        probe({"x": np.ones((7, 1))}, y, groups, held_out)
    with pytest.raises(ValueError, match="both sides"):
        probe(x, y, groups // 2, held_out)
    with pytest.raises(ValueError, match="two classes"):
        probe(x, np.zeros(8), groups, held_out)


def test_bilinear_features_have_the_product_of_both_kernels():
    rng = np.random.default_rng(2)
    h, e = rng.normal(size=(12, 4)), rng.normal(size=(12, 3))
    held_out = np.arange(12) >= 8
    x = bilinear_features(h, e, held_out)
    z = (h - h[:8].mean(0)) / (h[:8].std(0) + 1e-6)
    z = np.concatenate([z, np.ones((12, 1))], axis=1)
    gram = (z @ z.T) * (e @ e.T)
    np.testing.assert_allclose(x @ x.T, gram / (np.trace(gram) / 12), atol=1e-8)


def row(question, answer, **more):
    return {"question": question, "answer": answer, "perturbed_answer": [], **more}


def test_alternatives_prefer_wrong_answers_and_then_similar_questions():
    rows = [row("Where was Ada born?", "Rome"), row("Where was Bo born?", "Oslo"), row("What is red?", "Mars")]
    where = [r["question"] for r in rows]
    assert alternatives(rows, most=1)[:2] == [(0, "Rome", "Oslo", where[1]), (1, "Oslo", "Rome", where[0])]
    given = row("Who?", "Ada", paraphrased_answer="It is Ada", perturbed_answer=["It is Bo", "It is Cy"])
    assert alternatives([given], most=1) == [(0, "It is Ada", "It is Bo", "Who?")]


def knowing(names, values):
    """A model whose embedding of a name is that of its value: its residual stream at a name holds the value."""
    tokenizer = word_tokenizer([*names, *values, "say", "it", "is"])
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    model = causal_lm(len(tokenizer), d_model=64, n_layers=1, n_heads=2).eval()
    with torch.no_grad():
        ids = [tokenizer.convert_tokens_to_ids(list(words)) for words in (names, values)]
        model.get_input_embeddings().weight[ids[0]] = model.get_input_embeddings().weight[ids[1]]
    return model, tokenizer


NAMES, VALUES = ([f"{letter}{i}" for i in range(48)] for letter in "nv")


def test_values_that_the_states_hold_are_read_off_rows_never_fitted_on():
    model, tokenizer = knowing(NAMES, VALUES)
    told = [row(f"say {name}", f"{value} it is") for name, value in zip(NAMES, VALUES, strict=True)]
    assert fact_probe(model, tokenizer, told[:24], told[24:]).score > 0.9
    ignorant = causal_lm(len(tokenizer), d_model=64, n_layers=1, n_heads=2, seed=1).eval()
    assert 0.2 < fact_probe(ignorant, tokenizer, told[:24], told[24:]).score < 0.8


def test_what_the_question_says_is_no_knowledge():
    """Answers that differ only in the name that is asked about tell nothing."""
    model, tokenizer = knowing(NAMES, VALUES)
    with pytest.raises(UserError, match="nothing to probe for"):
        fact_probe(model, tokenizer, [row(f"say {name}", f"{name} is it") for name in NAMES])


def test_too_few_rows_are_refused():
    model, tokenizer = knowing(NAMES, VALUES)
    with pytest.raises(UserError, match="at least 8 rows"):
        fact_probe(model, tokenizer, [row(f"say {n}", v) for n, v in zip(NAMES[:4], VALUES, strict=False)])
