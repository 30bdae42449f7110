"""Both rank a positive above negatives: by hand, by a naive loop, and alike where there is one negative."""

import math

import pytest
import torch

from palimpsest.losses.ranking import bpr, sampled_softmax


@pytest.fixture
def scores():
    draws = torch.Generator().manual_seed(0)
    return 5 * torch.randn(4, generator=draws), 5 * torch.randn(4, 3, generator=draws)


def test_losses_are_those_of_a_loop(scores):
    positive, negatives = (values.tolist() for values in scores)
    pairs = [math.log1p(math.exp(n - p)) for p, row in zip(positive, negatives, strict=True) for n in row]
    choices = [math.log1p(sum(math.exp(n - p) for n in row)) for p, row in zip(positive, negatives, strict=True)]
    assert float(bpr(*scores)) == pytest.approx(sum(pairs) / 12, rel=1e-5)
    assert float(sampled_softmax(*scores)) == pytest.approx(sum(choices) / 4, rel=1e-5)


def test_one_negative_makes_them_the_same(scores):
    positive, negatives = scores[0], scores[1][:, :1]
    assert torch.allclose(bpr(positive, negatives), sampled_softmax(positive, negatives))


@pytest.mark.parametrize("loss", [bpr, sampled_softmax])
@pytest.mark.parametrize(("n", "shape"), [((2, 1), (2, 3)), ((2,), (3, 3)), ((2,), (2,)), ((2,), (2, 0))])
def test_what_does_not_go_together_is_refused(loss, n, shape):
    with pytest.raises(ValueError, match="positive must be"):
        loss(torch.zeros(n), torch.zeros(shape))
