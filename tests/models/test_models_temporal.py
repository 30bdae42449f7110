"""The temporal network: how far it sees, and what it refuses."""

import pytest
import torch

from palimpsest.models.temporal import TCN, tcn


def test_a_block_of_dilations_sees_so_far_and_no_farther_but_for_its_norm():
    network = tcn(bands=3, classes=2, width=4, hidden=4, blocks=3, repeats=1, seed=1)
    layers = [block.block[3] for block in network.body[2:]]
    x = torch.zeros(1, 4, 41, requires_grad=True)
    seen = x
    for layer in layers:
        seen = layer(seen)
    slope = torch.autograd.grad(seen[0, :, 20].sum(), x)[0][0].abs().sum(0)
    assert slope.nonzero()[:, 0].min() == 20 - 7
    assert slope.nonzero()[:, 0].max() == 20 + 7


def test_features_are_what_the_head_reads_and_the_seed_makes_the_weights():
    network, same = (tcn(classes=5, blocks=2, hidden=16, stride=2, seed=3).eval() for _ in range(2))
    x = torch.randn(2, 1, 40, 60, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network.head(network.features(x)), network(x).logits)
    assert torch.equal(network(x).logits, same(x).logits)
    torch.testing.assert_close(network(x[:, 0]).logits, network(x).logits)


def test_other_shapes_and_sizes_are_refused():
    with pytest.raises(ValueError, match="40 bands, frames"):
        tcn()(torch.zeros(2, 1, 39, 60))
    with pytest.raises(ValueError, match="blocks must be at least 1, got 0"):
        TCN(blocks=0)
