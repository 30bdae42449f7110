"""Squentropy against naive versions, its gradient, its limits, and the authors' own expression."""

import pytest
import torch
from torch.nn import functional as F

from palimpsest.classify import decision_norm, rescaled_square, squentropy_loss
from palimpsest.models.vision import mlp


def rows(batch=16, classes=5, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(batch, classes, generator=generator, dtype=torch.float64)
    return logits.to(dtype).requires_grad_(), torch.randint(classes, (batch,), generator=generator)


def naive(logits, labels):
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        wrong = [logit for j, logit in enumerate(row) if j != label]
        total = total - row.log_softmax(0)[label] + sum(w * w for w in wrong) / len(wrong)
    return total / len(labels)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_it_is_the_naive_sum(classes):
    logits, labels = rows(classes=classes)
    torch.testing.assert_close(squentropy_loss(logits, labels), naive(logits, labels))


def test_it_is_the_authors_expression():
    """Like-Hui/Squentropy-for-classification, main_121_data.py: the square of all outputs less that of the true ones,
    over C - 1 and over the rows, plus cross-entropy. Value and gradient, to 1e-12."""
    logits, labels = rows(batch=64, classes=26)
    hot = F.one_hot(labels, 26)
    theirs = (logits.square().sum() - logits[hot == 1].square().sum()) / 25 / 64 + F.cross_entropy(logits, labels)
    ours = squentropy_loss(logits, labels)
    assert abs(ours.item() - theirs.item()) < 1e-12
    grads = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*grads, rtol=0, atol=1e-12)


def test_only_the_wrong_logits_are_pulled():
    """The gradient is that of cross-entropy, and 2 f_j / (C - 1) besides where j is wrong."""
    logits, labels = rows()
    (grad,) = torch.autograd.grad(squentropy_loss(logits, labels), logits)
    (plain,) = torch.autograd.grad(F.cross_entropy(logits, labels), logits)
    pulled = 2 * logits.detach() / (4 * len(labels))
    pulled[torch.arange(len(labels)), labels] = 0
    torch.testing.assert_close(grad - plain, pulled)


def test_gradcheck_of_both_losses():
    logits, labels = rows(batch=4)
    assert torch.autograd.gradcheck(lambda f: squentropy_loss(f, labels), logits)
    assert torch.autograd.gradcheck(lambda f: rescaled_square(f, labels, 2.0, 3.0), logits)


def test_the_square_loss_is_the_mean_square_error_of_one_hot_labels():
    logits, labels = rows()
    hot = F.one_hot(labels, 5).double()
    torch.testing.assert_close(rescaled_square(logits, labels), F.mse_loss(logits, hot))
    scaled = ((1 + 2 * hot) * (logits - 4 * hot).square()).mean()
    torch.testing.assert_close(rescaled_square(logits, labels, k=3.0, target=4.0), scaled)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_taken_in_float32(dtype):
    logits, labels = rows(dtype=dtype)
    assert squentropy_loss(logits, labels).dtype == torch.float32
    torch.testing.assert_close(squentropy_loss(logits, labels), squentropy_loss(logits.float(), labels))
    assert torch.isfinite(squentropy_loss(logits * 1e3, labels))  # whose squares float16 could not hold


def test_the_order_of_rows_does_not_matter():
    logits, labels = rows()
    order = torch.randperm(len(labels))
    torch.testing.assert_close(squentropy_loss(logits[order], labels[order]), squentropy_loss(logits, labels))


def test_the_norm_of_the_margins_gradient_is_that_of_differences():
    model = mlp(6, 4, hidden=[8], seed=0).double().eval()
    x = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    step = 1e-6

    def margin(x):
        first, second = model(x).logits.topk(2).values.unbind(1)
        return first - second

    with torch.no_grad():
        parts = [(margin(x + step * e) - margin(x - step * e)) / (2 * step) for e in torch.eye(6, dtype=torch.float64)]
        torch.testing.assert_close(decision_norm(model, x), torch.stack(parts, 1).norm(dim=1), rtol=1e-5, atol=1e-8)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("logits", "labels", "why"),
    [
        (torch.zeros(2, 1), torch.zeros(2).long(), "two classes or more"),
        (torch.zeros(2), torch.zeros(2).long(), r"got \[2\] and \[2\]"),
        (torch.zeros(2, 3), torch.zeros(3).long(), r"got \[2, 3\] and \[3\]"),
    ],
)
def test_what_does_not_fit_is_refused(logits, labels, why):
    for loss in (squentropy_loss, rescaled_square):
        with pytest.raises(ValueError, match=why):
            loss(logits, labels)
    with pytest.raises(ValueError, match="k and target must be above 0, got 0 and 1"):
        rescaled_square(torch.zeros(2, 3), torch.zeros(2).long(), k=0, target=1)
