"""The benches on streams: every arm runs, seeds have test rows of their own, and measures are those of the log."""

import pytest
import torch

from palimpsest.benches import stream_worlds as W
from palimpsest.benches import streams
from palimpsest.benches.bench import SEEDS
from palimpsest.benches.exemplar_free import EXEMPLAR_FREE
from palimpsest.metrics.continual import forgetting
from palimpsest.retain.buffers import Examples, rows_within
from palimpsest.retain.replay import FineTune
from palimpsest.retain.sequence import learn_stream
from palimpsest.train import loop  # noqa: F401  what takes seconds to load is no test's own

BENCHES = [
    streams.SPLIT_MNIST,
    streams.SPLIT_GLYPHS,
    streams.ROTATED_MNIST,
    streams.DOMAIN_STREAM,
    streams.PERMUTED_MNIST,
    streams.LONG_PERMUTED,
    EXEMPLAR_FREE,
]
ARMS = [(one, arm) for one in BENCHES for arm in one.recipes]


@pytest.mark.parametrize(("one", "arm"), ARMS, ids=[f"{one.name}-{arm}" for one, arm in ARMS])
def test_every_arm_runs_on_few_rows_and_gives_every_measure(one, arm):
    found = one.arm(arm)(SEEDS[0], "smoke")
    assert set(one.read) <= set(found)
    assert found["diverged"] == 0.0
    for name, measure in one.read.items():
        if measure.bounds:
            assert measure.bounds[0] <= found[name] <= measure.bounds[1]


@pytest.mark.parametrize("world", [W.split_mnist, W.rotated_mnist, W.permuted_mnist])
def test_no_two_seeds_of_a_claim_are_tested_on_the_same_image_and_none_is_learned(world):
    tested = []
    for seed in SEEDS[::5]:
        tasks = world(seed, False).data.tasks
        keys = set(torch.cat([task.test.index for task in tasks]).tolist())
        for task in tasks:
            assert not keys & set(task.train.index.tolist())
            assert not keys & set(task.validation.index.tolist())
            assert not set(task.train.index.tolist()) & set(task.validation.index.tolist())
        tested.append(keys)
    assert sum(map(len, tested)) == len(set.union(*tested))


@pytest.mark.parametrize(("one", "side", "logits"), [(streams.SPLIT_MNIST, 14, 10), (streams.DOMAIN_STREAM, 8, 10)])
def test_buffers_weigh_alike_with_and_without_logits(one, side, logits):
    rows = Examples.of(one.world(SEEDS[0], True).data.tasks[0].train, task=0)
    with_logits = Examples({**rows.columns, "logits": torch.zeros(len(rows), logits)})
    nbytes = {"split_mnist": 40_000, "domain_stream": 8_000}[one.name]
    assert streams.rows_of(nbytes, side) == rows_within(nbytes, rows)
    assert streams.rows_of(nbytes, side, logits) == rows_within(nbytes, with_logits)
    assert one.baselines["er"].method.method.size == rows_within(nbytes, rows)
    assert one.baselines["der_pp"].method.method.size == rows_within(nbytes, with_logits)


def test_measures_are_those_of_the_log_and_of_the_model_where_training_diverged():
    world = W.split_mnist(SEEDS[0], True)
    learner = learn_stream(world.model("network"), FineTune(), world.data, steps=5, batch_size=8, progress=False)
    found = W.retained(world, learner)
    assert found["forgetting"] == forgetting(learner.log.accuracy["test"])
    assert found["average accuracy"] == pytest.approx(learner.accuracies(world.data).mean().item())
    diverged = W.retained(world, learner.model)
    assert diverged["average accuracy"] == found["average accuracy"]
    assert diverged["forgetting"] == diverged["bytes kept"] == 0.0
    assert W.valid_retained(world, learner, {}) == learner.log.accuracy["validation"][-1].mean()
    assert W.plastic(world, learner.model) == {"late online accuracy": 0.0, "fall of online accuracy": 1.0}


def test_told_streams_can_be_asked_for():
    world = W.split_mnist(SEEDS[0], True, told=True)
    assert world.data.allowed(1).sum(1).tolist() == [2] * 5
