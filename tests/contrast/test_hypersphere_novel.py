"""The normalised softmax and what goes with it, against closed forms and plain versions."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from palimpsest.contrast.hypersphere_novel import NormSoftmax, add_classes, novel_weights
from palimpsest.contrast.hypersphere_novel_measures import classify, novel_accuracy
from palimpsest.contrast.info_nce import info_nce
from palimpsest.losses import contrastive_loss, triplet_loss
from palimpsest.train import fit


def data(n=12, dim=5, classes=3, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=generator, dtype=dtype), torch.arange(n) % classes


def test_logits_are_cosines_over_sigma_and_order_as_distances_do():
    x, _ = data()
    head = NormSoftmax(5, 4, sigma=0.2).double()
    logits = head(x)
    for i, c in product(range(12), range(4)):
        w = head.weight[c].detach()
        cosine = float(x[i] @ w) / (float(x[i].norm()) * float(w.norm()))
        assert logits[i, c].item() == pytest.approx(cosine / 0.2)
    distances = torch.cdist(F.normalize(x, dim=1), F.normalize(head.weight, dim=1)).square()
    torch.testing.assert_close(distances, 2 - 2 * 0.2 * logits)
    assert torch.equal(distances.argsort(1), logits.argsort(1, descending=True))


def test_norms_do_not_matter():
    x, y = data()
    head = NormSoftmax(5, 3).double()
    before = head.loss(x, y)
    with torch.no_grad():
        head.weight *= torch.tensor([[0.1], [3.0], [20.0]])
    torch.testing.assert_close(head.loss(7 * x, y), before)


def test_loss_is_info_nce_against_the_class_vectors():
    x, y = data(n=3, classes=3)
    head = NormSoftmax(5, 3, sigma=0.3).double()
    torch.testing.assert_close(head.loss(x, y), info_nce(x, head.weight, 0.3, normalize=True))


def test_two_opposite_classes_have_a_closed_form():
    head = NormSoftmax(2, 2, sigma=0.5)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    loss = head.loss(torch.tensor([[5.0, 0.0]]), torch.tensor([0]))
    assert loss.item() == pytest.approx(math.log1p(math.exp(-4)), rel=1e-5)


def test_gradcheck():
    x, y = data(n=7)
    x.requires_grad_()
    head = NormSoftmax(5, 3, sigma=0.5).double()
    assert torch.autograd.gradcheck(lambda e: head.loss(e, y), x)


def test_novel_weights_do_not_depend_on_order_or_norms():
    e, y = data()
    vectors, classes = novel_weights(e, y)
    order = torch.randperm(12)
    again, _ = novel_weights(e[order] * torch.rand(12, 1) * 9, y[order])
    torch.testing.assert_close(vectors, again)
    assert classes.tolist() == [0, 1, 2]
    for c in range(3):
        mean = sum(e[i] / e[i].norm() for i in range(12) if y[i] == c)
        torch.testing.assert_close(vectors[c], mean / mean.norm())


def test_added_classes_are_recognised_and_old_logits_stay():
    head = NormSoftmax(5, 3).double()
    e, _ = data(n=8, seed=1)
    y = torch.tensor([3, 4] * 4)
    before = head.weight.detach().clone()
    wider = add_classes(head, e, y)
    assert wider.weight.shape == (5, 5)
    assert wider.sigma == head.sigma
    assert torch.equal(head.weight, before)
    torch.testing.assert_close(wider(e)[:, :3], head(e))
    torch.testing.assert_close(wider.weight[3:], novel_weights(e, y)[0])
    one = add_classes(head, e[:1], torch.tensor([3]))
    assert one(e[:1])[0, 3].item() == pytest.approx(10)
    for bad in ([4, 5] * 4, [2, 3] * 4, [3, 5] * 4):
        with pytest.raises(ValueError, match="without gaps"):
            add_classes(head, e, torch.tensor(bad))


def test_add_classes_takes_over_what_the_head_is_and_draws_nothing():
    head = NormSoftmax(5, 3, sigma=0.3).double().eval()
    head.weight.requires_grad_(False)
    e, _ = data(n=4, seed=1)
    state = torch.get_rng_state()
    wider = add_classes(head, e, torch.tensor([3, 4, 3, 4]))
    assert torch.equal(torch.get_rng_state(), state)
    assert not wider.weight.requires_grad
    assert not wider.training
    head.weight.requires_grad_(True)
    assert add_classes(head, e, torch.tensor([3, 4, 3, 4])).weight.requires_grad
    assert add_classes(head.bfloat16(), e.bfloat16(), torch.tensor([3, 4, 3, 4])).weight.dtype == torch.bfloat16


def test_opposite_examples_have_no_direction():
    opposite = torch.tensor([[0.3, 0.7], [-0.6, -1.4], [1.0, 0.0]])
    vectors, _ = novel_weights(opposite, torch.tensor([2, 2, 3]))
    assert vectors.tolist() == [[0, 0], [1, 0]]
    with pytest.raises(ValueError, match="label 2 cancel out"):
        add_classes(NormSoftmax(2, 2), opposite, torch.tensor([2, 2, 3]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    x, y = data(n=12, dtype=dtype)
    x[0] = 0
    head = NormSoftmax(5, 3).to(dtype)
    logits = head(x)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, NormSoftmax.forward(add_classes(head.float(), x, y + 3), x)[:, :3])
    assert (logits[0] == 0).all()
    assert head.loss(x, y).isfinite()
    for mode in ("prototype", "knn"):
        assert torch.equal(classify(x[1:], x[1:], y[1:], mode, 3), classify(*[x[1:].float()] * 2, y[1:], mode, 3))


def test_under_autocast_logits_are_as_without():
    x, _ = data(dtype=torch.float32)
    head = NormSoftmax(5, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(head(x), NormSoftmax.forward(head, x), rtol=0, atol=0)
        inside = head(x)
        assert head(x.bfloat16()).dtype == torch.float32  # what a network gives there
    torch.testing.assert_close(inside, head(x))


def test_prototypes_of_class_vectors_are_the_head():
    x, _ = data(n=30)
    head = NormSoftmax(5, 4).double()
    assert torch.equal(classify(x, head.weight, torch.arange(4)), head(x).argmax(1))


def plain_knn(x, support, labels, k):
    found = []
    for row in x:
        cosines = [
            (float(row @ s / (row.norm() * s.norm())), int(label)) for s, label in zip(support, labels, strict=True)
        ]
        near = sorted(cosines, reverse=True)[:k]
        tally = {label: (sum(n == label for _, n in near), sum(c for c, n in near if n == label)) for _, label in near}
        found.append(max(tally, key=tally.get))
    return torch.tensor(found)


@pytest.mark.parametrize("k", [1, 3, 6, 100])
def test_knn(k):
    support, labels = data(n=20, classes=4)
    x, _ = data(n=25, seed=2)
    assert torch.equal(classify(x, support, labels, "knn", k), plain_knn(x, support, labels, k))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_knn_ties_go_to_the_nearer_one(dtype):
    angle = torch.tensor([0.3, 0.2], dtype=torch.float64)  # cosines .955 and .980
    support = torch.stack([angle.cos(), angle.sin()], 1).to(dtype)
    assert classify(torch.tensor([[1.0, 0.0]], dtype=dtype), support, torch.tensor([0, 1]), "knn", 2).item() == 1
    many = support.repeat_interleave(1000, 0)
    many[:999] = many[1000:1999]  # one of a thousand differs
    labels = torch.arange(2000) // 1000
    assert classify(torch.tensor([[1.0, 0.0]], dtype=dtype), many, labels, "knn", 2000).item() == 1


def test_knn_nearness_never_outweighs_a_vote():
    support = torch.cat([torch.tensor([[1.0, 0.0]]).expand(20_000, 2), torch.tensor([[-1.0, 0.0]]).expand(20_001, 2)])
    labels = torch.arange(40_001) // 20_000
    labels[-1] = 1
    assert classify(torch.tensor([[1.0, 0.0]]), support, labels, "knn", 40_001).item() == 1


def test_candidates():
    support, labels = data(n=20, classes=4)
    x, _ = data(n=25, seed=2)
    for mode in ("prototype", "knn"):
        assert set(classify(x, support, labels, mode, among=(1, 3)).tolist()) <= {1, 3}
    with pytest.raises(ValueError, match="none has a label"):
        classify(x, support, labels, among=(9,))
    with pytest.raises(ValueError, match="'mean'"):
        classify(x, support, labels, "mean")
    with pytest.raises(ValueError, match="k must"):
        classify(x, support, labels, "knn", 0)


def test_novel_accuracy_counts():
    support, labels = torch.eye(4), torch.arange(4)
    x = torch.eye(4)[[0, 0, 1, 0, 2, 3, 0, 2]]
    truth = torch.tensor([0, 0, 1, 1, 2, 3, 2, 3])
    found = novel_accuracy(x, truth, support, labels, seen=(0, 1))
    assert found["seen"] == 0.75
    assert found["novel"] == 0.5
    assert found["joint"] == pytest.approx(0.6)
    assert found["disjoint"] == 0.75  # the row that looks like class 0 is a tie: the first of 2 and 3 is taken
    for same in (torch.tensor([0, 1]), range(2), np.array([0, 1])):
        assert novel_accuracy(x, truth, support, labels, seen=same) == found
    none = novel_accuracy(torch.eye(4)[[1, 0, 0, 1]], torch.arange(4), support, labels, seen=(0, 1))
    assert none["joint"] == 0
    with pytest.raises(ValueError, match="seen and of novel"):
        novel_accuracy(x, truth, support, labels, seen=(0, 1, 2, 3))


def test_refuses():
    with pytest.raises(ValueError, match="sigma"):
        NormSoftmax(3, 2, sigma=0)
    with pytest.raises(ValueError, match="classes"):
        NormSoftmax(3, 0)
    with pytest.raises(ValueError, match="same width"):
        NormSoftmax(3, 2)(torch.ones(1, 4))
    for sigma in (1e-45, math.inf):
        with pytest.raises(ValueError, match=f"sigma .* got {sigma}"):
            NormSoftmax(3, 2, sigma)


@pytest.mark.parametrize(
    "labels",
    [torch.tensor([-100, -100]), torch.tensor([0, -100]), torch.tensor([0, 2]), torch.zeros(0, dtype=torch.long)],
)
def test_loss_refuses_labels_that_are_no_classes(labels):
    with pytest.raises(ValueError, match=r"labels must be (from 0 to 1|one a row), got"):
        NormSoftmax(3, 2).loss(torch.ones(len(labels), 3), labels)


def test_loss_wants_whole_numbers():
    head, x = NormSoftmax(3, 2), torch.ones(2, 3)
    with pytest.raises(TypeError, match=r"whole numbers, got torch\.float32"):
        head.loss(x, torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="one a row"):
        head.loss(x, torch.tensor([0]))
    assert head.loss(x, torch.tensor([0, 1], dtype=torch.uint8)) == head.loss(x, torch.tensor([0, 1]))


def blobs(classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, 8, generator=generator) * 2
    y = torch.arange(60) % classes
    return centres[y] + torch.randn(60, 8, generator=generator), y


@pytest.mark.parametrize("kind", ["norm", "triplet", "contrastive"])
def test_in_a_plain_loop(kind):
    torch.manual_seed(0)
    x, y = blobs()
    net, head = nn.Linear(8, 4), NormSoftmax(4, 5)
    optimizer = torch.optim.Adam([*net.parameters(), *head.parameters()], lr=0.02)
    values = []
    for _ in range(60):
        e = net(x)
        unit = F.normalize(e, dim=1)
        pairwise = {"triplet": triplet_loss, "contrastive": contrastive_loss}
        value = head.loss(e, y) if kind == "norm" else pairwise[kind](unit, y)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.8 * values[0]


def test_trained_by_fit_it_takes_in_classes_it_never_saw():
    torch.manual_seed(0)
    x, y = blobs()
    model = nn.ModuleDict({"net": nn.Linear(8, 4), "head": NormSoftmax(4, 3)})
    seen = y < 3
    fit(
        model,
        lambda m, batch: m["head"].loss(m["net"](batch[0]), batch[1]),
        [(x[seen], y[seen])],
        steps=80,
        lr=0.02,
        progress=False,
    )
    with torch.no_grad():
        e = model["net"](x)
        first = torch.tensor([int((y == c).nonzero()[0]) for c in (3, 4)])
        head = add_classes(model["head"], e[first], y[first])
        assert (head(e).argmax(1) == y).float().mean() > 0.7
