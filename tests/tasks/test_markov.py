"""The Markov mixture: its law, and that its sets are drawn apart."""

import pytest
import torch

from palimpsest.tasks.markov import BLOCKS, BOS, STATES, chains, encode_chains, markov_unlearning, transitions


@pytest.mark.parametrize("block", BLOCKS)
def test_transitions_are_those_of_the_block(block):
    matrix = transitions(block, leak=0.3)
    torch.testing.assert_close(matrix.sum(1), torch.ones(STATES))
    inside = list(BLOCKS[block])
    torch.testing.assert_close(matrix[inside][:, inside], torch.full((3, 3), 0.7 / 3))
    torch.testing.assert_close(matrix[inside].sum(1) - matrix[inside][:, inside].sum(1), torch.full((3,), 0.3))
    assert (matrix[0] == 1 / STATES).all()


def test_chains_follow_the_transitions():
    states = chains("forget1", 4000, 12, seed=3)
    counts = torch.zeros(STATES, STATES)
    counts.index_put_((states[:, :-1].flatten(), states[:, 1:].flatten()), torch.tensor(1.0), accumulate=True)
    observed = counts / counts.sum(1, keepdim=True)
    inside = list(BLOCKS["forget1"])
    assert (observed[inside] - transitions("forget1")[inside]).abs().max() < 0.02
    first = torch.bincount(states[:, 0], minlength=STATES) / len(states)
    assert abs(first[inside].sum() - 0.8) < 0.02


def test_no_leak_never_leaves():
    assert set(chains("forget2", 50, 20, leak=0.0).unique().tolist()) <= set(BLOCKS["forget2"])


def test_task_is_seeded_and_its_parts_differ():
    state = torch.random.get_rng_state()
    task, again, other = markov_unlearning(1), markov_unlearning(1), markov_unlearning(2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert task.train["forget2"].shape == (500, 5)
    assert task.test["retain"].shape == (100, 20)
    for block in BLOCKS:
        assert torch.equal(task.train[block], again.train[block])
        assert not torch.equal(task.train[block], other.train[block])
        assert not torch.equal(task.train[block][:100], task.test[block])


def test_every_state_is_scored():
    rows = encode_chains(torch.tensor([[1, 2, 3]]))
    assert rows.batch(torch.tensor([0]), 0)["labels"].tolist() == [[-100, 1, 2, 3]]
    assert rows.input_ids == [[BOS, 1, 2, 3]]


@pytest.mark.parametrize("bad", [{"block": "rest"}, {"n": 0}, {"length": 0}, {"leak": 1.0}])
def test_refuses(bad):
    with pytest.raises(ValueError, match=r"must|need"):
        chains(**{"block": "retain", "n": 2, "length": 2, **bad})
