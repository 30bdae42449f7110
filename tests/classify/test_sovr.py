"""SOVR: naive sums, its ends, the paper's theorem on margins, and adversarial training that withstands more."""

import pytest
import torch
from torch.nn import functional as F

from palimpsest.classify.logits import margins
from palimpsest.classify.sovr import AdversarialTraining, gairat_weights, mail_weights, ovr_loss, sovr_loss
from palimpsest.classify.sovr_margins import margin_growth
from palimpsest.metrics.robustness import strong_attack
from palimpsest.models.vision import mlp


def rows(batch=10, classes=4):
    draws = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(batch, classes, generator=draws, dtype=torch.float64)
    return logits.requires_grad_(), torch.randint(classes, (batch,), generator=draws)


def test_it_is_the_naive_sum_over_the_hardest_and_the_others():
    logits, labels = rows()
    order = margins(logits.detach(), labels).tolist()
    hardest = sorted(range(10), key=lambda i: order[i])[:3]  # of 0.25 * 10, rounded up
    total = 0.0
    for i in range(10):
        if i in hardest:
            total += 0.7 * sum(F.softplus(-z if k == int(labels[i]) else z) for k, z in enumerate(logits[i]))
        else:
            total += F.cross_entropy(logits[i], labels[i])
    torch.testing.assert_close(sovr_loss(logits, labels, m=0.25, lam=0.7), total / 10)


def test_its_ends_are_cross_entropy_and_one_versus_the_rest():
    logits, labels = rows()
    torch.testing.assert_close(sovr_loss(logits, labels, m=0.0), F.cross_entropy(logits, labels))
    hot = F.one_hot(labels, 4).double()
    every = F.binary_cross_entropy_with_logits(logits, hot, reduction="none").sum(1)
    torch.testing.assert_close(ovr_loss(logits, labels), every)
    torch.testing.assert_close(sovr_loss(logits, labels, m=1.0, lam=0.3), 0.3 * every.mean())
    assert torch.autograd.gradcheck(lambda z: sovr_loss(z, labels), logits)


@pytest.mark.parametrize("classes", [2, 10])
def test_margins_grow_twice_as_fast_under_one_versus_the_rest_and_no_faster_under_a_weight(classes):
    slopes = {}
    losses = {
        "ce": F.cross_entropy,
        "5 ce": lambda z, y: 5 * F.cross_entropy(z, y),
        "ovr": lambda z, y: ovr_loss(z, y)[0],
    }
    for name, loss in losses.items():
        times, found = margin_growth(torch.zeros(classes), 0, loss, until=1e6)
        late = times > 1e4
        slopes[name] = float((found[late][-1] - found[late][0]) / (times[late][-1] / times[late][0]).log())
    assert slopes == pytest.approx({"ce": 1.0, "5 ce": 1.0, "ovr": 2.0}, rel=0.03)


def test_weights_of_others_have_mean_one_and_prefer_what_is_near_the_boundary():
    weights = gairat_weights(torch.tensor([0, 5, 10]), steps=10)
    raw = (1 + torch.tanh(torch.tensor([-1 + 5.0, -1.0, -6.0]))) / 2
    torch.testing.assert_close(weights, raw / raw.mean())
    logits, labels = rows()
    mail = mail_weights(logits, labels)
    assert mail.mean().item() == pytest.approx(1.0)
    apart = margins(logits.detach().softmax(1), labels)
    assert mail[apart.argmin()] == mail.max()
    assert not mail.requires_grad


@pytest.mark.parametrize(
    "setting",
    [{}, {"compare": sovr_loss}, {"geometry": True}, {"compare": sovr_loss, "attack": "kl", "clean": 1.0}],
)
def test_adversarial_training_withstands_what_plain_training_does_not(setting):
    """Of two features the attack can turn one over, and not the other."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (200,), generator=draws)
    x = 0.5 + 0.1 * (2 * labels[:, None] - 1) * torch.tensor([1.0, 3.0]) + 0.02 * torch.randn(200, 2, generator=draws)
    method = AdversarialTraining(eps=0.2, steps=3, **setting)
    model = mlp(2, 2, hidden=[16], seed=0)
    state, optimizer = method.init(model, None), torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(60):
        optimizer.zero_grad()
        sum(method.loss(state, model, {"x": x.clamp(0, 1), "labels": labels}).values()).backward()
        optimizer.step()
    assert strong_attack(model, x.clamp(0, 1), labels, 0.2, steps=5, restarts=1).mean() > 0.9


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"m must be in \[0, 1\]"):
        sovr_loss(torch.zeros(1, 2), torch.tensor([0]), m=2.0)
    with pytest.raises(Exception, match="eps must be"):
        AdversarialTraining(eps=-1.0)
