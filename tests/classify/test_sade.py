"""SADE: its three terms against the authors' expression, and weights that find the distribution of the test rows."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from palimpsest.classify.sade import SADE, ThreeExperts, inverse_prior, sade_loss
from palimpsest.classify.sade_test_time import KINDS, aggregate, make_test, predict, stability, steadiness, weighted
from palimpsest.tasks.labelled import Labelled
from palimpsest.tasks.tabular import tabular
from palimpsest.train import apply

COUNTS = torch.tensor([60, 5, 20, 1])


def three(batch=12, classes=4):
    draws = torch.Generator().manual_seed(0)
    logits = [torch.randn(batch, classes, generator=draws, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    return logits, torch.randint(classes, (batch,), generator=draws)


def test_the_shares_are_given_away_in_reverse():
    assert inverse_prior(COUNTS).tolist() == [1, 20, 5, 60]


def test_it_is_the_authors_expression():
    """Vanint/SADE-AgnosticLT, model/loss.py, DiverseExpertLoss: ranks by two sorts, log(prior + 1e-9), tau = 2. Value
    and gradients to 1e-12."""
    experts, labels = three()
    prior = COUNTS.double() / COUNTS.sum()
    value, first = prior.sort()
    inverse = value[3 - first.argsort()]
    theirs = F.cross_entropy(experts[0], labels) + F.cross_entropy(experts[1] + (prior + 1e-9).log(), labels)
    theirs = theirs + F.cross_entropy(experts[2] + (prior + 1e-9).log() - 2 * (inverse + 1e-9).log(), labels)
    ours = sum(sade_loss(experts, labels, COUNTS).values())
    assert abs((ours - theirs).item()) < 1e-12
    for a, b in zip(*(torch.autograd.grad(loss, experts) for loss in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_without_lam_the_third_is_the_second_and_equal_counts_make_all_plain():
    experts, labels = three()
    same = sade_loss([experts[0]] * 3, labels, COUNTS, lam=0.0)
    assert same["tail"] == same["uniform"] != same["head"]
    plain = sade_loss([experts[0]] * 3, labels, torch.ones(4).long())
    torch.testing.assert_close(torch.stack(list(plain.values())), F.cross_entropy(experts[0], labels).expand(3))


class Known(nn.Module):
    """Two experts: the first knows the left rows, the second the right ones; each guesses by noise elsewhere."""

    def experts(self, x):
        sure, unsure = 6 * x[:, :2], 6 * x[:, 2:4]
        left = x[:, 4:5]
        return [left * sure + (1 - left) * unsure, left * unsure + (1 - left) * sure]

    def forward(self, x):
        return torch.stack(self.experts(x)).mean(0)


def rows_of(left, n=400):
    draws = torch.Generator().manual_seed(3)
    labels = torch.randint(2, (n,), generator=draws)
    return torch.cat([F.one_hot(labels, 2).float(), torch.zeros(n, 2), torch.full((n, 1), left)], 1), labels


def noisy(x, draws):
    x = x.clone()
    x[:, 2:4] = torch.randn(len(x), 2, generator=draws)
    return x


@pytest.mark.parametrize(("left", "expert"), [(1.0, 0), (0.0, 1)])
def test_weights_go_to_the_expert_that_is_steady_on_the_test_rows(left, expert):
    x, labels = rows_of(left)
    model = Known()
    weights = aggregate(model, x, noisy, epochs=8)
    assert weights.sum().item() == pytest.approx(1.0)
    assert weights[expert] > 0.7
    turned = noisy(x, torch.Generator().manual_seed(9))
    again = noisy(x, torch.Generator().manual_seed(8))
    before, after = (steadiness(model.experts(turned), model.experts(again), w) for w in (torch.ones(2) / 2, weights))
    assert after > before
    assert (predict(model, x, weights).argmax(1) == labels).float().mean() > 0.95
    steady = stability(model.experts(turned), model.experts(again), labels, [[0], [1]])
    assert steady.shape == (2, 2)
    assert (steady[expert] > steady[1 - expert]).all()


def test_weights_are_the_same_from_the_same_seed_and_stop_early():
    x, _ = rows_of(1.0)
    assert torch.equal(aggregate(Known(), x, noisy), aggregate(Known(), x, noisy))
    one = aggregate(Known(), x, noisy, epochs=1)
    assert torch.equal(aggregate(Known(), x, noisy, epochs=50, stop=0.49), one)
    with pytest.raises(ValueError, match="need rows"):
        aggregate(Known(), x[:0], noisy)


def test_an_expert_alone_is_its_softmax():
    experts, _ = three()
    torch.testing.assert_close(weighted(experts, torch.tensor([0.0, 1.0, 0.0]).double()), experts[1].softmax(1))


def test_test_rows_have_the_distribution_that_is_asked_for():
    labels, order = torch.arange(4).repeat_interleave(torch.tensor([100, 110, 120, 130])), torch.tensor([2, 0, 3, 1])
    counts = {kind: labels[make_test(labels, kind, order)].bincount(minlength=4)[order].tolist() for kind in KINDS}
    assert counts["uniform"] == [100] * 4
    assert counts["forward50"] == [100, 27, 7, 2]
    assert counts["backward50"] == counts["forward50"][::-1]
    assert counts["forward2"][0] == 2 * counts["forward2"][-1]
    for wrong in ("uniform2", "sideways3"):
        with pytest.raises(ValueError, match="kind must be"):
            make_test(labels, wrong, order)


def test_three_experts_train_and_differ_in_what_they_are_good_for():
    """On wine with 40, 8 and 3 rows: the first expert names the frequent class most often, the third the rarest."""
    train, test = tabular("wine", 0).train, tabular("wine", 0).test
    kept = torch.cat([(train.y == label).nonzero()[:most, 0] for label, most in enumerate((40, 8, 3))])
    torch.manual_seed(0)
    model = ThreeExperts(nn.Sequential(nn.Linear(13, 16), nn.ReLU()), lambda: nn.Linear(16, 8), features=8, classes=3)
    applied = apply(model, SADE(), Labelled(train[kept], classes=3), steps=60, lr=1e-2)
    with torch.no_grad():
        said = [
            logits.argmax(1).bincount(minlength=3) for logits in applied.model.experts(test.batch(slice(None))["x"])
        ]
    assert said[0][0] >= said[2][0]
    assert said[2][2] > said[0][2]


def test_what_does_not_fit_is_refused():
    experts, labels = three()
    with pytest.raises(ValueError, match="three experts"):
        sade_loss(experts[:2], labels, COUNTS)
    with pytest.raises(ValueError, match=r"counts must be \[4\]"):
        sade_loss(experts, labels, COUNTS[:3])
    with pytest.raises(Exception, match="lam must be"):
        SADE(lam=-1.0)
