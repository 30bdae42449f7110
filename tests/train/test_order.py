"""The order of rows: every epoch a permutation, and a pure function of seed and step."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palimpsest.train.order import shuffled


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 10**6))
def test_every_epoch_sees_every_row_once(n, batch_size, seed):
    order = shuffled(n, batch_size, seed)
    size = min(n, batch_size)
    stream = torch.cat([order(step) for step in range(3 * n)])
    assert len(stream) == 3 * n * size
    for epoch in range(3 * size):
        assert sorted(stream[epoch * n : (epoch + 1) * n].tolist()) == list(range(n))


def test_any_step_can_be_asked_for_first():
    forwards, again = shuffled(17, 5, seed=2), shuffled(17, 5, seed=2)
    batches = [forwards(step) for step in range(40)]
    for step in (39, 3, 22, 0):
        assert torch.equal(again(step), batches[step])


def test_seeds_differ():
    assert not torch.equal(shuffled(100, 100, 0)(0), shuffled(100, 100, 1)(0))


@pytest.mark.parametrize("bad", [(0, 4), (4, 0)])
def test_refuses(bad):
    with pytest.raises(ValueError, match="at least one row"):
        shuffled(*bad)
