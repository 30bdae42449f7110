"""The sigmoid loss against loops, shards against the whole batch, and what masks keep."""

import math

import pytest
import torch
from tests.contrast.training import pairs
from torch.nn import functional as F

from palimpsest.contrast.siglip import SigmoidLoss, sigmoid_loss
from palimpsest.contrast.siglip_chunked import chunked_sigmoid_loss
from palimpsest.contrast.siglip_measures import keep_negatives, softmax_loss, zero_shot


def naive(img, txt, t_prime, b, mask=None):
    total = 0
    for i in range(len(img)):
        for j in range(len(txt)):
            if mask is None or mask[i, j]:
                score = math.exp(t_prime) * (img[i] @ txt[j]) + b
                total = total - torch.log(torch.sigmoid(score if i == j else -score))
    return total / len(img)


@pytest.mark.parametrize(("t_prime", "b"), [(math.log(10), -10.0), (0.3, 0.0), (-1.0, 2.0)])
def test_value_and_gradient_are_those_of_a_loop(t_prime, b):
    img, txt = pairs()
    mine, plain = sigmoid_loss(img, txt, t_prime, b), naive(img, txt, t_prime, b)
    torch.testing.assert_close(mine, plain)
    for one, other in zip(torch.autograd.grad(mine, (img, txt)), torch.autograd.grad(plain, (img, txt)), strict=True):
        torch.testing.assert_close(one, other)


def test_gradcheck_with_scale_and_bias():
    img, txt = pairs(4, 3)
    numbers = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (1.2, -3.0)]

    def loss(img, txt, t_prime, b):
        return sigmoid_loss(F.normalize(img, dim=1), F.normalize(txt, dim=1), t_prime, b)

    assert torch.autograd.gradcheck(loss, (img, txt, *numbers))


def test_at_the_start_negatives_cost_next_to_nothing():
    img, txt = pairs(32, 64)
    positives = F.softplus(-(10 * (img * txt).sum(1) - 10)).mean()
    assert sigmoid_loss(img, txt) - positives < 0.1
    assert sigmoid_loss(img, txt, b=0.0) > 31 * 0.5


def test_perfect_pairs_with_a_high_scale_cost_nothing():
    z = torch.eye(6)
    assert sigmoid_loss(z, z, t_prime=5.0, b=-50.0) < 1e-6


def test_a_batch_of_one_has_its_positive_only():
    z = torch.tensor([[1.0, 0.0]])
    torch.testing.assert_close(sigmoid_loss(z, z, 0.0, 0.5), F.softplus(torch.tensor(-1.5)))


@pytest.mark.parametrize("sizes", [[8], [4, 4], [2, 2, 2, 2], [1] * 8, [3, 5]])
def test_shards_give_the_value_and_gradient_of_the_joint_batch(sizes):
    img, txt = pairs(8)
    numbers = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (2.0, -4.0)]
    inputs = (img, txt, *numbers)
    whole, chunked = sigmoid_loss(*inputs), chunked_sigmoid_loss(img.split(sizes), txt.split(sizes), *numbers)
    torch.testing.assert_close(chunked, whole)
    for one, other in zip(torch.autograd.grad(chunked, inputs), torch.autograd.grad(whole, inputs), strict=True):
        torch.testing.assert_close(one, other)


def test_softmax_is_the_mean_of_two_cross_entropies():
    img, txt = pairs(6)
    t = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    mine, scores, own = softmax_loss(img, txt, t), t.exp() * img @ txt.T, torch.arange(6)
    plain = (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2
    torch.testing.assert_close(mine, plain)
    torch.testing.assert_close(mine, softmax_loss(img, txt, 1.5))
    inputs = (img, txt, t)
    for one, other in zip(torch.autograd.grad(mine, inputs), torch.autograd.grad(plain, inputs), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("mode", ["random", "hard", "easy"])
@pytest.mark.parametrize("ratio", [0, 0.5, 2, 5])
def test_masks_keep_all_positives_and_as_many_negatives_as_asked(mode, ratio):
    img, txt = pairs(6)
    mask = keep_negatives(img, txt, mode, ratio)
    off = ~torch.eye(6, dtype=torch.bool)
    assert mask.diagonal().all()
    assert int((mask & off).sum()) == round(ratio * 6)
    scores = (img @ txt.T).detach()
    if mode != "random" and 0 < ratio < 5:
        kept, dropped = scores[mask & off], scores[~mask & off]
        assert kept.min() >= dropped.max() if mode == "hard" else kept.max() <= dropped.min()


def test_random_masks_come_from_the_generator():
    img, txt = pairs(6)
    masks = [keep_negatives(img, txt, ratio=2, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_masked_loss_is_that_of_a_loop_and_with_all_negatives_the_plain_one():
    img, txt = pairs(6)
    mask = keep_negatives(img, txt, "hard", 2)
    torch.testing.assert_close(sigmoid_loss(img, txt, 1.0, -1.0, mask=mask), naive(img, txt, 1.0, -1.0, mask))
    torch.testing.assert_close(sigmoid_loss(img, txt, mask=keep_negatives(img, txt, ratio=5)), sigmoid_loss(img, txt))


def test_zero_shot_averages_the_directions_of_a_classs_prompts():
    img = F.normalize(torch.tensor([[1.0, 0.2], [0.1, 1.0], [1.0, 0.9]]), dim=1)
    labels = torch.tensor([0, 1, 0])
    single = torch.eye(2)
    assert zero_shot(img, single, labels) == 1.0
    several = torch.stack([single, F.normalize(single + 0.1, dim=1)], 1)
    assert zero_shot(img, several, labels) == 1.0
    assert zero_shot(img, torch.stack([single, 100 * single], 1), 1 - labels) == 0.0


def test_refusals():
    z = torch.eye(3)
    with pytest.raises(ValueError, match="norm 1"):
        sigmoid_loss(2 * z, z)
    with pytest.raises(ValueError, match="equally many rows"):
        chunked_sigmoid_loss([z], [z[:2]])
    with pytest.raises(ValueError, match="as many text"):
        chunked_sigmoid_loss([z], [])
    with pytest.raises(ValueError, match="as many text"):
        chunked_sigmoid_loss([], [])
    with pytest.raises(ValueError, match="mode must be"):
        keep_negatives(z, z, "soft")
    with pytest.raises(ValueError, match="ratio must be from 0 to 2"):
        keep_negatives(z, z, ratio=3)
    with pytest.raises(ValueError, match="class_texts"):
        zero_shot(z, z[0], torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="one for each of 3 rows"):
        zero_shot(z, z, torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="0 to 2, got 0 to 3"):
        zero_shot(z, z, torch.tensor([0, 1, 3]))
    with pytest.raises(ValueError, match="unless a group is given"):
        chunked_sigmoid_loss(z, z)
    for too_large in (88.8, 1000.0, torch.tensor(100.0)):
        with pytest.raises(ValueError, match=r"the scale e.* must be finite, got inf"):
            softmax_loss(z, z, too_large)
        with pytest.raises(ValueError, match=r"the scale e.* must be finite, got inf"):
            sigmoid_loss(z, z, too_large)
    with pytest.raises(ValueError, match="log_scale must have one element"):
        softmax_loss(z, z, torch.zeros(3))
    for mask in (torch.ones(6, 3).bool(), torch.ones(1, 3).bool()):
        with pytest.raises(ValueError, match=r"mask must be \[3, 3\], one value a pair"):
            sigmoid_loss(z, z, mask=mask)
    with pytest.raises(TypeError, match=r"mask must be a boolean tensor or a function, got torch.float32"):
        sigmoid_loss(z, z, mask=torch.ones(3, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_random_negatives_are_random_in_half_precision(dtype):
    z = F.normalize(torch.randn(256, 8, generator=torch.Generator().manual_seed(0)), dim=1).to(dtype)
    mask = keep_negatives(z, z, ratio=64, generator=torch.Generator().manual_seed(0))
    shares = torch.stack([part.float().sum() for part in mask.split(64)]) / mask.sum()
    torch.testing.assert_close(shares, torch.full((4,), 0.25), atol=0.02, rtol=0)


def test_the_module_takes_a_mask():
    img, txt = pairs(6)
    mask = keep_negatives(img, txt, "hard", 2)
    loss = SigmoidLoss().double()
    torch.testing.assert_close(loss(img, txt, mask=mask), sigmoid_loss(img, txt, mask=mask))


def test_chunks_without_gradients():
    z, t = (F.normalize(torch.randn(6, 3, generator=torch.Generator().manual_seed(i))) for i in range(2))
    expected = chunked_sigmoid_loss(z.split(2), t.split(2))
    loss = SigmoidLoss()  # with trainable scale and bias, as a model under validation has them
    for without in (torch.no_grad, torch.inference_mode):
        with without():
            torch.testing.assert_close(chunked_sigmoid_loss(z.split(2), t.split(2)), expected)
            trainable = chunked_sigmoid_loss(z.split(2), t.split(2), loss.t_prime, loss.b)
            torch.testing.assert_close(trainable, expected)
            made_here = F.normalize(z + 0)
            torch.testing.assert_close(chunked_sigmoid_loss(made_here.split(2), t.split(2)), expected)
