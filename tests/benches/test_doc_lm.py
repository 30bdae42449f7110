"""A language model of docstrings: counts are those of the task, bits those of a naive loop."""

import math

import pytest
import torch

from palimpsest.benches.doc_lm import DOC_LM
from palimpsest.benches.doc_lm_world import BITS, Docstrings, measures, next_token, validate
from palimpsest.tasks.doc_text import BYTES, ngram_bits


@pytest.mark.parametrize("name", DOC_LM.recipes)
def test_every_arm_runs_and_is_measured_alike(name):
    found = DOC_LM.arm(name)(3, "smoke")
    assert 0 < found[BITS] < 30


def test_counts_predict_as_the_task_says():
    world = Docstrings(3, smoke=True)
    train, test = world.splits.train, world.splits.test
    for n, kind in enumerate(("unigram", "bigram"), start=1):
        found = measures(world, world.model(kind))[BITS]
        assert found == pytest.approx(ngram_bits(train, test, n, BYTES), rel=1e-5)


@torch.no_grad()
def test_bits_are_those_of_a_loop_over_tokens():
    world = Docstrings(3, smoke=True)
    model, test = world.model("decoder").eval(), world.splits.test
    logp = model(input_ids=test.ids).logits.log_softmax(-1)
    nats = -sum(float(logp[i, t - 1, test.ids[i, t]]) for i in range(len(test)) for t in range(1, 128))
    assert measures(world, model)[BITS] == pytest.approx(nats / math.log(2) / (127 * len(test)), rel=1e-4)
    batch = world.batches(4, 0)(0)
    assert batch["input_ids"].shape == (4, 128)
    assert float(next_token(model, batch)) == pytest.approx(float(model(**batch_of(batch)).loss), rel=1e-4)


def batch_of(batch):
    return {name: batch[name] for name in ("input_ids", "labels")}


def test_a_model_that_is_broken_is_tuned_away():
    world = Docstrings(3, smoke=True)
    model = world.model("bigram")
    assert validate(world, model, {}) < 0
    model.logits.data.fill_(math.nan)
    assert validate(world, model, {}) == -math.inf


def test_models_are_the_seeds():
    one, again, other = (Docstrings(seed, smoke=True).model("decoder").lm_head.weight for seed in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
