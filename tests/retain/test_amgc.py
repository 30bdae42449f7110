"""AMGC's bound against draws, its margins against loops, and its loss against a naive one."""

import pytest
import torch
from tests.retain.streams import CLASSES, SETTINGS, draw, model, second_task, stream
from torch.nn import functional as F

from palimpsest.retain.adaptive_margins import amarx_loss, db_loss, enlarged, margins
from palimpsest.retain.amgc import AMGC, SHRINKAGE
from palimpsest.retain.amgc_measures import old_new_bias
from palimpsest.retain.sequence import _batches, _present, learn_stream


def gaussians(classes=4, d=3, seed=0):
    root = draw(classes, d, d, seed=seed)
    return (
        draw(classes, d, seed=seed + 1),
        root @ root.mT / d,
        draw(classes, d, seed=seed + 2),
        draw(classes, seed=seed + 3),
    )


@pytest.mark.parametrize("seed", range(5))
def test_it_bounds_the_expected_cross_entropy(seed):
    means, covariance, weight, bias = gaussians(seed=10 * seed)
    noise = draw(4, 20_000, 3, seed=99)
    features = means[:, None] + noise @ torch.linalg.cholesky(covariance).mT
    logits = features @ weight.T + bias
    expected = F.cross_entropy(logits.flatten(0, 1), torch.arange(4).repeat_interleave(20_000))
    assert expected <= db_loss(means, covariance, weight, bias)


def test_it_is_the_formula_of_the_paper():
    means, covariance, weight, bias = gaussians()
    total = 0.0
    for k in range(4):
        v = weight - weight[k]
        terms = torch.stack([v[j] @ means[k] + v[j] @ covariance[k] @ v[j] / 2 + bias[j] - bias[k] for j in range(4)])
        total = total + terms.logsumexp(0) / 4
    torch.testing.assert_close(db_loss(means, covariance, weight, bias), total)
    diagonal = covariance.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(
        db_loss(means, diagonal, weight, bias), db_loss(means, diagonal.diag_embed(), weight, bias)
    )


def test_enlarging_variances_is_a_margin():
    means, covariance, weight, bias = gaussians()
    labels, variance = torch.arange(4), covariance.diagonal(dim1=1, dim2=2)
    more = margins(enlarged(covariance, 0.7), weight, labels) - margins(covariance, weight, labels)
    torch.testing.assert_close(more, margins(0.7 * variance, weight, labels))
    assert (more >= 0).all()
    assert (more.diagonal() == 0).all()
    torch.testing.assert_close(
        amarx_loss(means, labels, weight, bias, variance, 0.7),
        F.cross_entropy(means @ weight.T + bias + more, labels),
    )
    assert torch.equal(enlarged(covariance, 0.0), covariance)


def test_the_loss_weighs_every_class_alike():
    method = AMGC(enlarge=0.5)
    state, base, batch = second_task(method)
    state["mean"], state["square"] = draw(6, 8), draw(6, 8, seed=4).square() + 4
    terms = method.loss(state, base, batch)
    old, labels, allowed = batch["classes"], batch["labels"], torch.arange(CLASSES) < 4
    features, head = base.features(batch["pixel_values"]), base.head
    rows_of = {label: features[labels == label] for label in set(labels.tolist())}
    total = 0.0
    for label, rows in rows_of.items():
        variance = state["square"][label] - state["mean"][label].square()
        for row in rows:
            v = head.weight - head.weight[label]
            logits = head(row) + (v.square() * variance).sum(1) / 2
            total = total + F.cross_entropy(logits[allowed], torch.tensor(label)) / len(rows)
    for k in range(2):
        own = stream(dtype=torch.float64).tasks[0].train
        kept = model().double().features(own.x[own.y == k])
        covariance = torch.cov(kept.T, correction=0) + SHRINKAGE * torch.eye(8)
        v = head.weight - head.weight[k]
        spread = covariance + 0.5 * covariance.diagonal().diag()
        logits = head(kept.mean(0)) + torch.einsum("jd,de,je->j", v, spread, v) / 2
        total = total + F.cross_entropy(logits[allowed], torch.tensor(k))
    assert old["labels"].tolist() == [0, 1]
    torch.testing.assert_close(sum(terms.values()), total / (2 + len(rows_of)))


def test_drawn_features_have_the_mean_and_the_spread_of_their_class():
    method = AMGC(enlarge=0.5, draws=20_000)
    state, _, batch = second_task(method)
    kept = state["classes"].columns
    for k in range(2):
        rows = batch["classes"]["features"][batch["classes"]["labels"] == k]
        torch.testing.assert_close(rows.mean(0), kept["features"][k], rtol=0, atol=0.03)
        torch.testing.assert_close(torch.cov(rows.T), enlarged(kept["spread"], 0.5)[k], rtol=0, atol=0.03)


def test_running_variances_reach_those_of_the_rows_and_stay_where_a_class_is_absent():
    method = AMGC(momentum=0.9)
    state, base, batch = second_task(method)
    for _ in range(200):
        method.loss(state, base, batch)
        method.gradients(state, base)
    features = base.features(batch["pixel_values"]).detach()
    variance = state["square"] - state["mean"].square()
    for label in range(CLASSES):
        rows = features[batch["labels"] == label]
        naive = rows.var(0, correction=0) if len(rows) else torch.zeros(8, dtype=torch.float64)
        torch.testing.assert_close(variance[label], naive)


def test_without_spread_a_first_task_is_cross_entropy_by_class():
    method, base, data = AMGC(spread_new=False), model().double(), stream(dtype=torch.float64)
    first = _present(data, 0, SETTINGS)
    state = method.before_task(method.init(base, first), base, first)
    batch = _batches(method, state, first, 8)(0)
    logits = base(pixel_values=batch["pixel_values"]).logits[:, :2]
    means = [F.cross_entropy(logits[batch["labels"] == k], batch["labels"][batch["labels"] == k]) for k in (0, 1)]
    torch.testing.assert_close(method.loss(state, base, batch), {"new": sum(means) / 2})


def test_a_class_weighs_its_mean_and_its_spread_and_no_row():
    sizes = []
    for kept, of_class in (("diagonal", 2 * 8 * 4 + 16), ("covariance", 8 * 4 + 64 * 4 + 16)):
        learner = learn_stream(model(), AMGC(kept=kept), stream(), steps=2, batch_size=8, lr=1e-2, progress=False)
        sizes.append(learner.log.memory == [2 * of_class, 4 * of_class, 6 * of_class])
    assert all(sizes)


def test_bias_is_the_share_of_new_answers_over_the_true_one():
    labels, new = torch.tensor([0, 1, 2, 3]), torch.tensor([False, False, True, True])
    assert old_new_bias(labels, labels, new) == 0
    assert old_new_bias(torch.tensor([2, 2, 3, 3]), labels, new) == 0.5
    assert old_new_bias(torch.tensor([0, 0, 1, 1]), labels, new) == -0.5


def test_features_of_new_rows_are_held_where_they_were():
    state, base, batch = second_task(AMGC(held=0.3))
    features, old = (each.features(batch["pixel_values"]) for each in (base, model().double()))
    naive = 0.3 * (features - old.detach()).square().sum(1).mean()
    held = AMGC(held=0.3).loss(state, base, batch)["held"]
    torch.testing.assert_close(held, naive)
    weight = next(base.parameters())
    torch.testing.assert_close(*(torch.autograd.grad(value, weight)[0] for value in (held, naive)))
