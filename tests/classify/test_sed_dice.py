"""The Dice loss of sound events, the task's measures by hand, the network, its transfer and the augmentation."""

import pytest
import torch

from palimpsest.classify.sed_dice import CRNN, augment, event_dice_loss, transfer
from palimpsest.classify.sed_dice_measures import event_scores


def test_it_is_the_ratio_of_sums_over_all_of_the_batch():
    draws = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 3, generator=draws, dtype=torch.float64, requires_grad=True)
    targets = (torch.rand(2, 5, 3, generator=draws) < 0.3).double()
    p = logits.sigmoid()
    expected = 1 - (2 * (p * targets).sum() + 1e-6) / (p.sum() + targets.sum() + 1e-6)
    torch.testing.assert_close(event_dice_loss(logits, targets), expected)
    assert torch.autograd.gradcheck(lambda z: event_dice_loss(z, targets), logits)


def test_a_silent_batch_costs_one_and_hardly_pulls():
    logits = torch.zeros(1, 4, 2, requires_grad=True)
    loss = event_dice_loss(logits, torch.zeros(1, 4, 2))
    assert loss.item() == pytest.approx(1, abs=1e-5)
    assert torch.autograd.grad(loss, logits)[0].abs().max() < 1e-5


def test_scores_by_hand():
    said = torch.tensor([[[1, 0, 0], [0, 0, 0], [1, 1, 1], [0, 0, 0]]]).bool()
    true = torch.tensor([[[0, 1, 0], [0, 0, 0], [1, 0, 0], [0, 1, 1]]])
    by_frame = event_scores(said, true)  # one swapped; two inserted; two deleted; four active
    assert (by_frame.substitutions, by_frame.insertions, by_frame.deletions) == (0.25, 0.5, 0.5)
    assert by_frame.error_rate == 1.25
    assert by_frame.f1 == pytest.approx(2 / (2 + 3 + 3))
    pooled = event_scores(said, true, segment=2)  # {0} for {1}, and {0, 1, 2} for {0, 1, 2}
    assert (pooled.substitutions, pooled.insertions, pooled.deletions) == (0.25, 0.0, 0.0)
    assert pooled.f1 == pytest.approx(6 / 8)
    perfect = event_scores(true.bool(), true, segment=3)
    assert (perfect.f1, perfect.error_rate) == (1.0, 0.0)


def test_transfer_gives_the_convolutions_and_nothing_else():
    source, model = CRNN(1, 16, 3), CRNN(4, 16, 5)
    head = model.head.weight.clone()
    transfer(model, source)
    assert model.head.weight.equal(head)
    one = torch.rand(2, 1, 6, 16)
    source.eval(), model.eval()
    torch.testing.assert_close(model.blocks(one.expand(-1, 4, -1, -1)), source.blocks(one))


def test_what_is_heard_stays_its_own_frame_by_frame():
    draws = torch.Generator().manual_seed(0)
    x, y = torch.rand(6, 4, 16, 8), (torch.rand(6, 16, 5) < 0.2).float()
    same_x, same_y = augment(x, y, draws, time=0, band=0, mix=0.0)
    assert same_y.equal(y)
    torch.testing.assert_close(same_x.sort(1).values, x.sort(1).values)
    masked, _ = augment(x, y, draws, time=4, band=2, mix=0.0)
    silent = (masked == 0).all(1)
    assert silent.all(2).sum(1).max() <= 4
    assert silent.all(1).sum(1).max() <= 2
    assert silent.any()
    _, mixed = augment(x, y, draws, mix=1.0)
    assert (mixed >= y).all()
    assert mixed.sum() > y.sum()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="no event is active"):
        event_scores(torch.ones(1, 2, 1).bool(), torch.zeros(1, 2, 1))
    with pytest.raises(ValueError, match="a segment of 1 frame at least"):
        event_scores(torch.ones(1, 2, 1).bool(), torch.ones(1, 2, 1), segment=0)
    with pytest.raises(ValueError, match="bands must be a multiple of 8"):
        CRNN(1, 20, 3)
