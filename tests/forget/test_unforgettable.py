"""Random-label forgetting and its measures, against closed forms and naive versions."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from palimpsest.errors import UserError
from palimpsest.forget.procedure import ForgetData, prepare, unlearn
from palimpsest.forget.unforgettable import RandomOptions, random_label_forget, random_labels
from palimpsest.forget.unforgettable_measures import (
    accuracy,
    forget_matrix,
    forget_ratio,
    last_token_states,
    option_probabilities,
    predictor_correlations,
    predictors,
    probe_recovery,
    total_variance,
)
from palimpsest.models import causal_lm, encode, word_tokenizer
from palimpsest.tasks.choices import choice_tasks, choice_words
from palimpsest.train.language import fine_tune

TASKS = choice_tasks(0, n_train=40, n_test=24, names=["parity", "majority"])
TOKENIZER = word_tokenizer(choice_words(TASKS.values()))
PARITY = TASKS["parity"]


def small(seed=0):
    return causal_lm(
        len(TOKENIZER), d_model=32, n_layers=2, n_heads=2, max_length=32, architecture="gpt2", seed=seed
    ).eval()


@pytest.fixture(scope="module")
def able():
    """A model that knows the parity of the train rows."""
    model = small()
    rows = encode(TOKENIZER, *zip(*PARITY.pairs(), strict=True), max_length=32, add_eos=False)
    fine_tune(model, rows, pad_id=0, epochs=250, batch_size=40, lr=2e-3, progress=False)
    return model


def test_random_labels_are_uniform_fixed_by_their_seed_and_may_be_right():
    labels = random_labels(4000, ["a", "b", "c", "d"], seed=5)
    counts = np.unique(labels, return_counts=True)[1]
    assert (abs(counts - 1000) < 5 * np.sqrt(4000 * 0.25 * 0.75)).all()
    assert labels == random_labels(4000, ["a", "b", "c", "d"], seed=5) != random_labels(4000, ["a", "b", "c", "d"])


def pairs():
    return [(row.prompt, f" {row.answer}") for row in PARITY.train]


def test_rewrite_replaces_answers_only_and_scores_the_label_token_alone():
    data = prepare(TOKENIZER, pairs(), pairs()[:3], max_length=32)
    new = RandomOptions(seed=1).rewrite(data)
    assert [prompt for prompt, _ in new.forget_pairs] == [prompt for prompt, _ in pairs()]
    assert {answer for _, answer in new.forget_pairs} == {" even", " odd"}
    assert [answer for _, answer in new.forget_pairs] != [answer for _, answer in pairs()]
    assert new.retain is data.retain
    labels = new.forget.batch([0, 5], pad_id=0)["labels"]
    assert (labels != -100).sum(1).tolist() == [1, 1]
    assert new.forget == RandomOptions(seed=1).rewrite(data).forget != RandomOptions(seed=2).rewrite(data).forget


def test_loss_is_the_cross_entropy_of_the_label_at_the_last_prompt_token():
    data = RandomOptions(options=("even", "odd", "x")).rewrite(prepare(TOKENIZER, pairs(), max_length=32))
    model, batch = small(), data.forget.batch([0, 1, 2], pad_id=0)
    loss = RandomOptions().loss(None, model, {"forget": batch})["random labels"]
    prompts = TOKENIZER([prompt for prompt, _ in data.forget_pairs[:3]], return_tensors="pt")
    targets = torch.tensor([TOKENIZER(answer).input_ids[-1] for _, answer in data.forget_pairs[:3]])
    torch.testing.assert_close(loss, F.cross_entropy(model(**prompts).logits[:, -1], targets))


def test_rows_without_common_answers_are_refused():
    own = [(f"the parity of {i} is", f" {word}") for i, word in enumerate(["even", "odd", "x"])]
    with pytest.raises(UserError, match="3 forget rows have 3 different answers"):
        RandomOptions().rewrite(prepare(TOKENIZER, own, max_length=32))
    with pytest.raises(UserError, match="at least two different answers"):
        RandomOptions().rewrite(prepare(TOKENIZER, [("the parity is", " even")] * 4, max_length=32))
    with pytest.raises(UserError, match="prepare"):
        RandomOptions().rewrite(ForgetData(forget=prepare(TOKENIZER, own, max_length=32).forget))
    with pytest.raises(ValueError, match="two different options"):
        random_labels(3, ["a", "a"])


def test_option_probabilities_are_the_softmax_over_the_options_and_accuracy_their_argmax(able):
    found = option_probabilities(able, TOKENIZER, PARITY.test, PARITY.options)
    inputs = TOKENIZER([row.prompt for row in PARITY.test], return_tensors="pt")
    ids = [TOKENIZER(option).input_ids[-1] for option in PARITY.options]
    naive = able(**inputs).logits[:, -1, ids].softmax(-1).detach()
    torch.testing.assert_close(found, naive.double(), atol=1e-5, rtol=1e-4)
    hits = [PARITY.options[i] == row.answer for i, row in zip(naive.argmax(-1), PARITY.test, strict=True)]
    assert accuracy(able, TOKENIZER, PARITY.test, PARITY.options) == np.mean(hits)


def test_it_forgets_the_rows_by_learning_the_random_labels(able):
    assert accuracy(able, TOKENIZER, PARITY.train, PARITY.options) == 1
    model = deepcopy(able)
    history = random_label_forget(
        model, TOKENIZER, PARITY.train, PARITY.options, steps=80, lr=3e-3, batch_size=20, seed=3, progress=False
    )
    assert history.steps[-1]["loss"] < 0.8 * history.steps[0]["loss"]
    drawn = random_labels(len(PARITY.train), PARITY.options, seed=3)
    coincide = np.mean([a == row.answer for a, row in zip(drawn, PARITY.train, strict=True)])
    after = accuracy(model, TOKENIZER, PARITY.train, PARITY.options)
    assert abs(after - coincide) < 0.2
    assert forget_ratio(1.0, after, 0.5) > 0.5


def test_it_runs_as_an_objective_on_a_users_rows(able):
    model, data = deepcopy(able), prepare(TOKENIZER, pairs(), max_length=32)
    unlearn(model, RandomOptions(seed=3), data, steps=2, lr=3e-3, batch_size=20, seed=3, progress=False)
    other = deepcopy(able)
    random_label_forget(
        other, TOKENIZER, PARITY.train, PARITY.options, steps=2, lr=3e-3, batch_size=20, seed=3, progress=False
    )
    assert not torch.equal(model.transformer.wte.weight, able.transformer.wte.weight)
    for one, same in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, same)  # the rows' own answers are the task's options


@given(st.floats(0.51, 1), st.floats(0, 1))
def test_forget_ratio_is_linear_from_none_to_all(before, share):
    assert forget_ratio(before, before, 0.5) == 0
    assert forget_ratio(before, 0.5, 0.5) == 1
    assert forget_ratio(before, before + share * (0.5 - before), 0.5) == pytest.approx(share, abs=1e-6)


def test_forget_ratio_refuses_a_model_without_the_skill():
    with pytest.raises(ValueError, match=r"accuracy 0\.25 is not above"):
        forget_ratio(0.25, 0.2, 0.25)


def test_matrix_has_zero_for_an_untouched_model_and_nan_for_what_was_never_known(able):
    opposite = deepcopy(able)  # swaps the two answers: accuracy 1 - a, a ratio of 2
    ids = [TOKENIZER(option).input_ids[-1] for option in PARITY.options]
    opposite.lm_head.weight = torch.nn.Parameter(opposite.lm_head.weight.detach().clone())
    with torch.no_grad():
        opposite.lm_head.weight[ids] = opposite.lm_head.weight[ids[::-1]].clone()
    tasks = {"parity": PARITY}
    found = forget_matrix({"parity": able, "other": opposite}, able, TOKENIZER, tasks)
    assert found == {"parity": {"parity": 0}, "other": {"parity": pytest.approx(2)}}
    never = forget_matrix({"parity": able}, opposite, TOKENIZER, tasks)
    assert np.isnan(never["parity"]["parity"])


def test_states_are_those_of_each_prompts_last_token_in_spite_of_padding(able):
    rows = [PARITY.train[0], TASKS["majority"].train[0]]  # of different length
    states = last_token_states(able, TOKENIZER, rows)
    for i, row in enumerate(rows):
        alone = able(**TOKENIZER(row.prompt, return_tensors="pt"), output_hidden_states=True).hidden_states
        torch.testing.assert_close(states[:, i], torch.stack([h[0, -1] for h in alone]).detach(), atol=1e-5, rtol=1e-4)


def test_total_variance_is_the_trace_of_the_covariance():
    states = torch.randn(30, 7, dtype=torch.float64)
    assert total_variance(states) == pytest.approx(np.trace(np.cov(states.numpy().T)))
    assert total_variance(torch.ones(4, 3)) == 0
    with pytest.raises(ValueError, match=r"\[rows, d\]"):
        total_variance(torch.ones(1, 3))


def test_predictors(able):
    found = predictors(able, TOKENIZER, PARITY.train, PARITY.options)
    p = option_probabilities(able, TOKENIZER, PARITY.train, PARITY.options)
    assert found["confidence"] == pytest.approx(np.mean([row.max() for row in p.numpy()]))
    assert found["total variance"] == total_variance(last_token_states(able, TOKENIZER, PARITY.train)[-1])


def test_correlations_go_by_rank_and_a_constant_has_none():
    ratios = {"a": 0.1, "b": 0.5, "c": 0.9}
    found = {task: {"falls": -(ratio**5), "constant": 1.0} for task, ratio in ratios.items()}
    assert predictor_correlations(found, ratios) == {"falls": pytest.approx(-1), "constant": 0}
    with pytest.raises(ValueError, match="three tasks"):
        predictor_correlations({"a": {"x": 1.0}}, {"a": 1.0})


def test_a_probe_reads_what_the_output_no_longer_says(able):
    """A model whose output layer is gone says nothing, and a probe finds the skill all the same."""
    mute = deepcopy(able)
    mute.lm_head.weight = torch.nn.Parameter(torch.zeros_like(mute.lm_head.weight))
    assert accuracy(mute, TOKENIZER, PARITY.train, PARITY.options) == pytest.approx(0.5)
    per_layer = probe_recovery(mute, TOKENIZER, PARITY.train, PARITY.train)
    assert len(per_layer) == 3
    assert per_layer[0] == pytest.approx(0.5)  # the last prompt word is the same in every row
    assert max(per_layer) > 0.9
    with pytest.raises(ValueError, match="two different answers"):
        probe_recovery(mute, TOKENIZER, [row for row in PARITY.train if row.answer == "even"], PARITY.test)
