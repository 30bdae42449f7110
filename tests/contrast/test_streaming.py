import pytest
import torch
from torch.utils.checkpoint import checkpoint

from palimpsest.contrast import info_nce
from palimpsest.contrast.streaming import Pairs, logsumexp, reference_logsumexp, strip_rows, weighted_logsumexp

KEEP = torch.tensor([[True, False, True], [False, False, False], [True, True, True], [True, False, False]])


def inputs(scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((4, 2), (3, 2))]
    return [(scale * value).requires_grad_() for value in drawn]


# At scale 30 the norms' product is far above what exponentials bear without a maximum taken off.
@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("columns", [0, 2, 3])
@pytest.mark.parametrize("rows", [1, 3, 10])
def test_rows_and_columns_are_the_plain_ones(scale, columns, rows) -> None:
    q, k = inputs(scale)
    pairs = Pairs(columns=columns, left_out=torch.tensor([[0], [1], [2], [0]]))
    expected = reference_logsumexp(q, k, pairs=pairs)
    found = logsumexp(q, k, pairs=pairs, rows=rows)
    weights = (torch.tensor([0.1, 0.2, 0.3, 0.0], dtype=torch.float64), torch.rand(columns, dtype=torch.float64))
    total = weighted_logsumexp(q, k, row_weights=weights[0], column_weights=weights[1], pairs=pairs, rows=rows)
    for ours, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, plain)
    plain_total = (expected[0] * weights[0]).sum() + (expected[1] * weights[1]).sum()
    torch.testing.assert_close(total, plain_total)
    wanted = torch.autograd.grad(plain_total, (q, k))
    for got, want in zip(torch.autograd.grad(total, (q, k)), wanted, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_a_row_of_which_nothing_counts_is_minus_infinity_and_has_no_gradient(scale) -> None:
    q, k = inputs(scale)
    pairs = Pairs(keep=KEEP, columns=3)
    found, by_column = logsumexp(q, k, pairs=pairs, rows=2)
    assert found[1] == -torch.inf
    assert by_column.isfinite().all()
    weights = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    total = weighted_logsumexp(q, k, row_weights=weights, column_weights=torch.ones(3).double(), pairs=pairs, rows=2)
    gradient = torch.autograd.grad(total, q)[0]
    assert gradient[1].eq(0).all()
    assert gradient.isfinite().all()


def test_against_a_positive_and_beside_extra_scores() -> None:
    q, k = inputs()
    p, extra = torch.randn(4, dtype=torch.float64, requires_grad=True), torch.randn(4, 2, dtype=torch.float64)
    scores = torch.cat([q @ k.T, extra, p[:, None]], 1)
    found, _ = logsumexp(q, k, p, None, extra, rows=3)
    torch.testing.assert_close(found, scores.logsumexp(1) - p)
    assert torch.autograd.gradcheck(lambda *a: logsumexp(a[0], a[1], a[2], None, extra, rows=3)[0], (q, k, p))


def test_a_checkpoint_may_hand_each_tensor_over_only_once() -> None:
    q, k = inputs()

    def loss(key):
        return info_nce(q[:3], key, 0.2, reduction="none")

    found = torch.autograd.grad(checkpoint(loss, k, use_reentrant=False).sum(), (q, k))
    for got, want in zip(found, torch.autograd.grad(loss(k).sum(), (q, k)), strict=True):
        torch.testing.assert_close(got, want)


def test_strips_fit_the_cache() -> None:
    assert strip_rows(torch.empty(0, 1), torch.empty(2**15, 0), None) == 128
    assert strip_rows(torch.empty(0, 1), torch.empty(1, 0), None) == 512
    with pytest.raises(ValueError, match="rows must be at least 1, got 0"):
        strip_rows(torch.empty(0, 1), torch.empty(1, 0), 0)
