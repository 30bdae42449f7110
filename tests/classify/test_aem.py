"""The entropy of attentions: closed forms, padding, the authors' expression, and what it does to a pooling."""

import math

import pytest
import torch

from palimpsest.classify.aem import AEM, aem_loss, concentration, mask_top, subsample
from palimpsest.classify.bag_pooling import ClassTokenAttention, CriticalInstance, GatedAttention, masked_log_softmax
from palimpsest.train import apply

POOLINGS = [GatedAttention(6, 2), GatedAttention(6, 2, heads=3), CriticalInstance(6, 2), ClassTokenAttention(6, 2, 3)]


def scores(seed=0, shape=(4, 7)):
    draws = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(*shape, generator=draws, dtype=torch.float64)


def test_it_is_the_negative_entropy_and_its_gradient_that_of_differences():
    z = scores().requires_grad_()
    naive = 0.0
    for row in z.softmax(1).tolist():
        naive += sum(a * math.log(a) for a in row) / 4
    assert aem_loss(z.log_softmax(1)).item() == pytest.approx(naive)
    assert torch.autograd.gradcheck(lambda z: aem_loss(z.log_softmax(1)), z)
    assert torch.autograd.gradcheck(lambda z: aem_loss(z.log_softmax(1), normalize=True), z)


def test_it_is_the_authors_expression():
    """dazhangyu123/AEM at 4a928a8, main.py: sum of softmax times log-softmax of the raw scores over the number of rows,
    here of 3 x 4 scores (i - 5) / 2."""
    z = ((torch.arange(12, dtype=torch.float64) - 5) / 2).view(3, 4)
    assert aem_loss(z.log_softmax(1)).item() == pytest.approx(-1.2450504274673975, abs=1e-6)


def test_even_attention_is_the_least_and_one_instance_the_most():
    even, single = torch.zeros(1, 8).log_softmax(1), torch.tensor([[0.0] + [-torch.inf] * 7])
    assert aem_loss(even).item() == pytest.approx(-math.log(8))
    assert aem_loss(even, normalize=True).item() == pytest.approx(-1)
    assert aem_loss(single) == aem_loss(single, normalize=True) == 0


def test_padding_adds_exactly_nothing():
    z = scores(shape=(3, 1, 5)).requires_grad_()
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] + [False] * 4])
    loss = aem_loss(masked_log_softmax(z, mask))
    alone = [aem_loss(z[i, :, :n].log_softmax(1)) for i, n in enumerate((5, 3, 1))]
    torch.testing.assert_close(loss, torch.stack(alone).mean())
    (gradient,) = torch.autograd.grad(loss, z)
    assert gradient.isfinite().all()
    assert (gradient[~mask[:, None]] == 0).all()


@pytest.mark.parametrize("pool", POOLINGS, ids=lambda pool: type(pool).__name__)
def test_every_pooling_gives_its_attention_and_knows_no_padding(pool):
    pool = pool.double()
    bags, mask = scores(shape=(3, 5, 6)), torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] * 5])
    logits, log_attention = pool(bags, mask)
    torch.testing.assert_close(log_attention.exp().sum(-1), torch.ones(log_attention.shape[:2]).double())
    alone, _ = pool(bags[1:2, :3])
    torch.testing.assert_close(logits[1:2], alone)
    order = torch.tensor([4, 2, 0, 1, 3])
    moved, moved_attention = pool(bags[:, order], mask[:, order])
    torch.testing.assert_close(moved, logits)
    torch.testing.assert_close(moved_attention, log_attention[:, :, order])
    gradients = torch.autograd.grad(aem_loss(log_attention) + logits.sum(), pool.parameters())
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_training_with_it_spreads_the_attention():
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(12) % 2
    bags = torch.randn(12, 10, 6, generator=draws)
    bags[:, 0] += 2.0 * labels[:, None]
    batch = {"instances": bags, "mask": torch.ones(12, 10, dtype=torch.bool), "labels": labels}
    spread = {}
    for lam in (0.0, 1.0):
        torch.manual_seed(0)
        pool = GatedAttention(6, 2)
        apply(pool, AEM(lam=lam, keep=0.9), None, batches=[batch], steps=60, lr=1e-2)
        spread[lam] = concentration(pool(bags)[1][:, 0])["entropy"]
    assert spread[1.0] > spread[0.0] + 0.1


def test_instances_are_dropped_and_the_highest_hidden():
    mask = torch.tensor([[True] * 8, [True] * 3 + [False] * 5, [True] + [False] * 7])
    left = subsample(mask, 0.5, torch.Generator().manual_seed(1))
    assert left.sum(1).tolist() == [4, 2, 1]
    assert not (left & ~mask).any()
    hidden = mask_top(scores(shape=(5, 30)), k=10, share=0.6, generator=torch.Generator().manual_seed(0)) == -torch.inf
    assert hidden.sum(1).tolist() == [6] * 5
    top = scores(shape=(5, 30)) >= scores(shape=(5, 30)).topk(10).values[:, -1:]
    assert (hidden & ~top).sum() == 0
    assert (mask_top(scores(shape=(2, 3)), k=10, share=1.0) > -torch.inf).sum(1).tolist() == [1, 1]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="must sum to 1, got 2 to 2"):
        aem_loss(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="with an instance in each bag"):
        masked_log_softmax(torch.zeros(2, 1, 3), torch.zeros(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="ratio must be in"):
        subsample(torch.ones(1, 2, dtype=torch.bool), 0.0, torch.Generator())
    with pytest.raises(ValueError, match="k must be 1 at least"):
        mask_top(torch.zeros(1, 2), k=0)
    with pytest.raises(ValueError, match="d must be a multiple"):
        ClassTokenAttention(6, 2, heads=4)
