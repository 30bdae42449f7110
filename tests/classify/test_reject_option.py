"""Rejectors of the three kinds: closed forms, thresholds by search, and what each of them finds."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from palimpsest.classify.reject_option import Rejector, agreement, chow, fit_threshold, trust
from palimpsest.classify.reject_option_integrated import SelectiveHeads, SelectiveNet, abstain_loss, selective_loss
from palimpsest.classify.reject_option_novelty import Familiarity
from palimpsest.metrics.membership import auc
from palimpsest.tasks.labelled import Labelled
from palimpsest.tasks.tabular import tabular
from palimpsest.train import apply


def test_trust_of_each_kind():
    logits = torch.randn(20, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = logits.softmax(1)
    ordered = p.sort(descending=True).values
    torch.testing.assert_close(trust(logits), ordered[:, 0])
    torch.testing.assert_close(trust(logits, "margin"), ordered[:, 0] - ordered[:, 1])
    torch.testing.assert_close(trust(logits, "entropy"), (p * p.log()).sum(1))
    torch.testing.assert_close(trust(logits, "energy"), logits.exp().sum(1).log())
    assert trust(torch.tensor([[1e4, 0.0]]), "entropy").item() == 0
    with pytest.raises(ValueError, match="kind must be"):
        trust(logits, "hope")


def test_members_that_agree_are_trusted_however_unsure_they_are():
    unsure = torch.full((3, 1, 2), 0.5)
    apart = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[0.5, 0.5]]])
    assert agreement(unsure).item() == pytest.approx(0.0, abs=1e-6)
    assert agreement(apart).item() == pytest.approx(-2 / 3 * torch.tensor(2.0).log().item())


def test_chow_minimises_the_cost_where_probabilities_are_true():
    p = torch.rand(2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = torch.stack([p, 1 - p], 1)
    for cost in (0.1, 0.3):
        expected = lambda rejected: torch.where(rejected, cost, 1 - p.max(1).values).mean()  # noqa: B023, E731
        best = expected(chow(p, cost))
        for other in torch.linspace(0, 0.5, 11).tolist():
            assert best <= expected(chow(p, other)) + 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_thresholds_are_those_of_a_search_over_all(seed):
    draws = torch.Generator().manual_seed(seed)
    scores = torch.randint(8, (40,), generator=draws).double()
    right = torch.rand(40, generator=draws) < 0.3 + scores / 12
    every = [*scores.unique().tolist(), float("inf")]

    def cost(at):
        return float((~right[scores >= at]).sum() + 0.4 * (scores < at).sum())

    assert fit_threshold(scores, right, cost=0.4) == min(every, key=cost)
    within = [at for at in every if float((scores < at).double().mean()) <= 0.3]
    assert fit_threshold(scores, right, budget=0.3) == max(within)
    reach = [at for at in every[:-1] if float(right[scores >= at].double().mean()) >= 0.7]
    assert fit_threshold(scores, right, accuracy=0.7) == min(reach, default=float("inf"))
    assert fit_threshold(scores, right & False, accuracy=0.5) == float("inf")
    with pytest.raises(ValueError, match="one of budget"):
        fit_threshold(scores, right)


def test_novel_rows_are_far_and_ambiguous_ones_are_unsure():
    """Two clouds: what lies between them is ambiguous, what lies far beyond one of them is novel."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    x = torch.randn(200, 2, generator=draws) + 6 * labels[:, None] * torch.tensor([1.0, 0.0])
    known = Familiarity.fit(x, labels)
    novel = torch.randn(50, 2, generator=draws) + torch.tensor([0.0, 12.0])
    fresh = torch.randn(50, 2, generator=draws)
    between = torch.randn(50, 2, generator=draws) * 0.3 + torch.tensor([3.0, 0.0])
    for score in (known.mahalanobis, known.neighbours):
        assert auc(score(fresh).numpy(), score(novel).numpy()) == 1.0

    def logits(x):
        return torch.stack([-(x - 0).square().sum(1), -(x - torch.tensor([6.0, 0.0])).square().sum(1)], 1) / 4

    assert auc(trust(logits(fresh)).numpy(), trust(logits(between)).numpy()) > 0.97
    both = Rejector((known.neighbours, lambda x: trust(logits(x))), (-3.0, 0.9))
    assert both.rejects(novel).all()
    assert both.rejects(between).float().mean() > 0.6
    assert both.rejects(fresh).float().mean() < 0.2


def test_mahalanobis_is_the_distance_in_units_of_the_spread():
    x = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, -2.0], [0.0, 2.0]])  # variances 1/2 and 2 around 0
    known = Familiarity.fit(x, torch.zeros(4).long(), k=1, ridge=0.0)
    torch.testing.assert_close(known.mahalanobis(torch.tensor([[1.0, 2.0]])), torch.tensor([-(2 + 2.0)]).double())
    with pytest.raises(ValueError, match="k = 5 rows"):
        Familiarity.fit(x, torch.zeros(4).long())


def test_the_selective_loss_is_cross_entropy_where_all_is_selected():
    logits, labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
    torch.testing.assert_close(selective_loss(logits, torch.full((6,), 50.0), labels), F.cross_entropy(logits, labels))
    half = torch.tensor([50.0, -50.0] * 3)
    wanted = F.cross_entropy(logits[::2], labels[::2]) + 32 * (0.8 - 0.5) ** 2
    torch.testing.assert_close(selective_loss(logits, half, labels), wanted)


def test_abstaining_is_never_taken_at_long_odds_and_gives_the_stake_back():
    logits, labels = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
    torch.testing.assert_close(abstain_loss(logits, labels, odds=1e12), F.cross_entropy(logits, labels))
    p = logits.softmax(1)
    naive = -(p[torch.arange(6), labels] + p[:, 3] / 2.5).log().mean()
    torch.testing.assert_close(abstain_loss(logits, labels, odds=2.5), naive)
    with pytest.raises(ValueError, match="labels must be below 3"):
        abstain_loss(logits, labels + 1)
    with pytest.raises(ValueError, match="odds must be above 1"):
        abstain_loss(logits, labels, odds=1.0)


def test_a_selective_network_learns_what_to_answer():
    task = tabular("wine", 0)
    data = Labelled(task.train, classes=3)
    torch.manual_seed(0)
    heads = SelectiveHeads(nn.Sequential(nn.Linear(13, 16), nn.ReLU()), 16, 3)
    applied = apply(heads, SelectiveNet(coverage=0.7), data, steps=150, lr=1e-2)
    batch = task.test.batch(slice(None))
    logits, selection, _ = applied.model(batch["x"])
    assert (logits.argmax(1) == batch["labels"]).float().mean() > 0.9
    assert selection.sigmoid().mean() > 0.6
    with pytest.raises(Exception, match="coverage must be"):
        SelectiveNet(coverage=0.0)
