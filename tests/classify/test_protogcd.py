"""ProtoGCD: its terms against the authors' expressions and naive sums, its ramp, and new classes that are found."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from palimpsest.classify.protogcd import contrast, entropy_reg, pseudo_labels, self_label_loss, separation
from palimpsest.classify.protogcd_training import ProtoGCD, ProtoHead, estimate_k, gcd_accuracy, outlier_score


def cosines(batch=12, classes=5, seed=0):
    draws = torch.Generator().manual_seed(seed)
    return (2 * torch.rand(batch, classes, generator=draws, dtype=torch.float64) - 1).requires_grad_()


def test_regularisers_are_the_authors_expressions():
    """mashijie1028/ProtoGCD, models/loss.py: entropy_regularization_loss and prototype_separation_loss, to 1e-12."""
    z = cosines()
    mean = (z / 0.1).softmax(1).mean(0)
    theirs = (mean**-mean).log().sum().neg() + math.log(5)
    assert abs((entropy_reg(z) - theirs).item()) < 1e-12
    vectors = F.normalize(cosines(4, 6), dim=1)
    grown = (vectors @ vectors.T / 0.1).exp() * (1 - torch.eye(4))
    assert abs((separation(vectors) - (grown.sum(1) / 3).log().mean()).item()) < 1e-12


@pytest.mark.parametrize("certain", [0.0, 0.3, 1.0])
def test_self_labels_are_the_authors_expression(certain):
    """DistillLoss_ratio of the same file, row by row: each view is taught by the other's labels alone."""
    first, second = cosines(), cosines(seed=1)
    total = 0.0
    for teacher, student in ((first, second), (second, first)):
        said = (teacher.detach() / 0.05).softmax(1)
        ratios = [float(p.sort(descending=True).values[0] / (p.sort(descending=True).values[1] + 1e-6)) for p in said]
        surest = sorted(range(12), key=lambda i: -ratios[i])[: int(12 * certain)]
        for i in range(12):
            goal = F.one_hot(said[i].argmax(), 5).double() if i in surest else said[i]
            total = total - (goal * (student[i] / 0.1).log_softmax(0)).sum() / 12 / 2
    torch.testing.assert_close(self_label_loss(first, second, certain), total)


def test_pseudo_labels_go_from_soft_to_certain():
    z = cosines()
    torch.testing.assert_close(pseudo_labels(z, 0.0), (z.detach() / 0.05).softmax(1))
    torch.testing.assert_close(pseudo_labels(z, 1.0), F.one_hot(z.argmax(1), 5).double())
    assert not pseudo_labels(z, 0.5).requires_grad
    with pytest.raises(ValueError, match="a share in"):
        pseudo_labels(z, 1.5)


def test_the_contrast_is_the_naive_sum():
    first, second, labels = cosines(6, 4), cosines(6, 4, seed=1), torch.tensor([0, 1, 0, 2, 2, 0])
    z, y = F.normalize(torch.cat([first, second]), dim=1), torch.cat([labels, labels]).tolist()
    total = 0.0
    for i in range(12):
        others = torch.stack([z[i] @ z[j] / 0.5 for j in range(12) if j != i]).logsumexp(0)
        mine = [z[i] @ z[j] / 0.5 - others for j in range(12) if j != i and y[j] == y[i]]
        total = total - sum(mine) / len(mine) / 12
    torch.testing.assert_close(contrast(first, second, labels, 0.5), total)


def test_terms_have_their_weights_and_rows_without_labels_have_none():
    torch.manual_seed(0)
    model = ProtoHead(nn.Linear(4, 6), features=6, old=2, new=2)
    batch = {"first": torch.randn(8, 4), "second": torch.randn(8, 4), "labels": torch.tensor([0, 1, -1, -1] * 2)}
    method = ProtoGCD(ramp=2)
    state = method.init(model, None)
    terms = method.loss(state, model, batch)
    first, second = model(batch["first"]), model(batch["second"])
    torch.testing.assert_close(terms["self labels"], 0.65 * self_label_loss(first, second, 0.0))
    torch.testing.assert_close(terms["entropy"], 1.3 * entropy_reg(torch.cat([first, second])))
    torch.testing.assert_close(terms["separation"], 0.065 * separation(model.prototypes))
    later = [method.loss(state, model, batch)["self labels"] for _ in range(3)]
    torch.testing.assert_close(later[0], 0.65 * self_label_loss(first, second, 0.5))
    torch.testing.assert_close(later[2], 0.65 * self_label_loss(first, second, 1.0))
    without = method.loss(state, model, {**batch, "labels": torch.full((8,), -1)})
    assert set(terms) - set(without) == {"labels", "supervised contrast"}


def test_new_classes_are_found_and_their_number():
    """Four clouds on a circle's sides, of two of which half of the rows have labels."""
    draws = torch.Generator().manual_seed(0)
    centres = torch.tensor([[4.0, 0.0], [0.0, 4.0], [-4.0, 0.0], [0.0, -4.0]])
    labels = torch.arange(80) % 4
    x = centres[labels] + 0.5 * torch.randn(80, 2, generator=draws)
    known = torch.where((labels < 2) & (torch.arange(80) < 40), labels, -1)
    torch.manual_seed(0)
    model = ProtoHead(nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 8)), features=8, old=2, new=2)
    method, optimizer = ProtoGCD(ramp=40), torch.optim.Adam(model.parameters(), lr=0.01)
    state = method.init(model, None)
    for _ in range(80):
        views = {name: x + 0.1 * torch.randn(80, 2, generator=draws) for name in ("first", "second")}
        optimizer.zero_grad()
        sum(method.loss(state, model, {**views, "labels": known}).values()).backward()
        optimizer.step()
    with torch.no_grad():
        found = gcd_accuracy(model(x).argmax(1), labels, old=2)
        assert (model(x).argmax(1)[known >= 0] == known[known >= 0]).float().mean() > 0.95
    assert found["all"] > 0.9
    assert estimate_k(x, [2, 3, 4, 6]) == 4


def test_outliers_and_what_is_refused():
    scores = outlier_score(torch.tensor([[0.9, 0.0, 0.0], [0.1, 0.1, 0.1]]))
    assert scores[0] > 0.99
    assert scores[1].item() == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="2 or more"):
        estimate_k(torch.eye(3), [1, 2])
