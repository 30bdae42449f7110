"""NAPA-VQ's graph on vectors placed by hand and against its authors' code, its loss against a naive one."""

import math

import pytest
import torch
from tests.retain.streams import SETTINGS, model, second_task, stream
from torch.nn import functional as F

from palimpsest.retain.napa_vq import NAPAVQ
from palimpsest.retain.napa_vq_measures import overlap
from palimpsest.retain.neighbour_graph import between, distances, neighbourhood_loss, updated
from palimpsest.retain.quarter_turns import turned
from palimpsest.retain.sequence import _batches, _present, learn_stream

PLACED = torch.tensor([[0.0, 0.0], [1.0, 0.0], [5.0, 0.0]], dtype=torch.float64)


def test_edges_between_vectors_placed_by_hand():
    near_first = torch.tensor([[0.1, 0.0], [0.2, 0.0]], dtype=torch.float64)
    edges = updated(torch.eye(3).double(), distances(near_first, PLACED), near=2, decay=0.9)
    assert edges.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    # Two visits of the first that meet the second; an edge to the third fades by both.
    edges[0, 2] = 1.0
    torch.testing.assert_close(
        updated(edges, distances(near_first, PLACED), 2, 0.9)[0], torch.tensor([1, 1, 0.81]).double()
    )
    visits = near_first[:1].expand(11, 2)
    assert updated(edges, distances(visits, PLACED), 2, 0.9)[0].tolist() == [1, 1, 0], "cut below decay^10"
    assert updated(edges, distances(PLACED[2:], PLACED), 2, 0.9)[0].tolist() == [1, 1, 1], (
        "without a visit nothing fades"
    )


def test_a_feature_that_is_nearer_its_own_vector_than_every_neighbour_costs_nothing():
    apart = distances(torch.tensor([[0.1, 0.0], [0.9, 0.0]], dtype=torch.float64), PLACED)
    edges = torch.ones(3, 3).double()
    assert neighbourhood_loss(apart, torch.tensor([0, 1]), edges) == 0
    assert neighbourhood_loss(apart, torch.tensor([1, 0]), edges) == 0, "the third is far: its share counts"
    edges[:, 2] = 0
    torch.testing.assert_close(neighbourhood_loss(apart, torch.tensor([1, 0]), edges), torch.tensor(0.8).double())
    alone = neighbourhood_loss(apart, torch.tensor([1, 0]), torch.eye(3).double())
    torch.testing.assert_close(alone, torch.tensor(0.81).double())


def test_graph_and_loss_of_the_authors_code():
    """TamashaM/NAPA-VQ at 0a8b78d, losses/na_loss.py in float64, after three batches."""
    n, d, edges = 16, 3, torch.eye(16).double()
    vectors = torch.sin(torch.arange(n * d).double().square()).reshape(n, d).requires_grad_()
    for step in range(3):
        features = torch.cos((torch.arange(8 * d).double() + step).square()).reshape(8, d).requires_grad_()
        apart = distances(features, vectors)
        edges = updated(edges, apart, 15)
        loss = neighbourhood_loss(apart, (torch.arange(8) + 5 * step) % n, edges)
        slopes = torch.autograd.grad(loss, (features, vectors))
        edges = (edges + edges.T) / 2
    # fmt: off
    theirs = (
        torch.tensor([[-0.258205553, 0.006461872, 0.032343356], [0.0, 0.0, 0.0]]),
        torch.tensor([[0.131161823, 0.077189708, -0.350215454], [-0.049323863, 0.065755047, 0.052058147],
                      [0.088065963, 0.13075656, -0.050969508], [0.034584683, 0.044077794, -0.05244644]]),
    )
    row = [1.0, 0.875, 0.475, 0.5, 0.5, 1.0, 0.5, 1.0, 0.5, 0.75, 0.75, 1.0, 1.0, 0.5, 1.0, 0.5]
    # fmt: on
    assert loss.item() == pytest.approx(0.6028870946028142, abs=1e-12)
    for slope, rows in zip(slopes, theirs, strict=True):
        torch.testing.assert_close(slope[: len(rows)], rows.double(), rtol=0, atol=1e-7)
    torch.testing.assert_close(edges[0], torch.tensor(row).double(), rtol=0, atol=1e-7)
    assert (int((edges > 0).sum()), edges.sum().item()) == (226, pytest.approx(176.1125))


def test_every_image_is_learned_in_four_turns_of_their_own_classes():
    x = torch.arange(8.0).reshape(2, 1, 2, 2)
    allowed = torch.tensor([[True, False]] * 2)
    rows = turned({"pixel_values": x, "labels": torch.tensor([0, 1]), "allowed": allowed}, 4)
    assert rows["labels"].tolist() == list(range(8))
    assert rows["pixel_values"][1].flatten().tolist() == [1, 3, 0, 2]
    assert torch.equal(rows["pixel_values"][4], x[1])
    assert rows["allowed"].tolist() == [[True] * 4 + [False] * 4] * 8


def test_the_loss_is_the_naive_one():
    method = NAPAVQ(neighbours=4, strength=2.0, held=3.0)
    state, base, batch = second_task(method, updates=1)
    vectors, edges = state["vectors"], state["edges"][:16, :16]
    images = torch.cat([torch.rot90(x, k, (1, 2))[None] for x in batch["pixel_values"] for k in range(4)])
    labels = torch.tensor([4 * y + k for y in batch["labels"].tolist() for k in range(4)])
    features, before = base.features(images), model().double().features(images)

    def entropy(f, y):
        return F.cross_entropy(-torch.cdist(f, vectors[:16]) / 0.1, y)

    naive = {"new": entropy(features, labels)}
    apart = distances(features, vectors[:16])
    edges = updated(edges, apart, 4)
    naive["apart"] = neighbourhood_loss(apart, labels, edges)
    edges = (edges + edges.T) / 2
    made = []
    drawn = batch["drawn"]
    for label, chance, own in zip(drawn["labels"], drawn["which"], drawn["own"], strict=True):
        near = edges[4 * label].nonzero()[:, 0]
        other = near[int(chance * len(near))]
        made.append(own * state["prototypes"][4 * label] + (1 - own) * state["prototypes"][other])
    made = torch.stack(made)
    naive["drawn"] = 2 * entropy(made, 4 * drawn["labels"])
    apart = distances(made, vectors[:16])
    edges = updated(edges, apart, 4)
    naive["drawn apart"] = neighbourhood_loss(apart, 4 * drawn["labels"], edges)
    naive["held"] = 3 * (features - before).square().sum().sqrt()
    terms = method.loss(state, base, batch)
    torch.testing.assert_close(terms, naive)
    method.gradients(state, base)
    torch.testing.assert_close(state["edges"][:16, :16], (edges + edges.T) / 2)
    assert torch.equal(state["vectors"][:8], vectors[:8]), "vectors of old classes stand still"
    assert (state["vectors"][8:16] != vectors[8:16]).all()
    assert torch.equal(state["vectors"][16:], vectors[16:])


def test_vectors_make_a_step_of_their_own():
    method, base, data = NAPAVQ(vector_lr=0.5), model().double(), stream(dtype=torch.float64)
    first = _present(data, 0, SETTINGS)
    state = method.before_task(method.init(base, first), base, first)
    batch = _batches(method, state, first, 8)(0)
    vectors = state["vectors"][:8].clone().requires_grad_()
    rows = turned(batch, 4)
    features = base.features(rows["pixel_values"]).detach()
    apart = distances(features, vectors)
    edges = updated(torch.eye(8).double(), apart, 3)
    loss = F.cross_entropy(-torch.cdist(features, vectors) / 0.1, rows["labels"])
    loss = loss + neighbourhood_loss(apart, rows["labels"], edges)
    (slope,) = torch.autograd.grad(loss, vectors)
    method.loss(state, base, batch)
    method.gradients(state, base)
    torch.testing.assert_close(state["vectors"][:8], (vectors - 0.5 * slope).detach())


def test_classes_are_drawn_towards_themselves_and_neighbours_alike():
    prototypes = torch.tensor([[0.0], [1.0], [torch.nan], [3.0]])
    edges = torch.tensor([[1.0, 0.0, 1.0, 0.3], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    draws = {"which": torch.arange(1000) / 1000, "own": torch.full((1000,), 0.75)}
    made = between(prototypes, edges, torch.zeros(1000, dtype=torch.long), draws)
    assert made.unique().tolist() == [0.0, 0.75]
    assert (made == 0.75).sum() == 500
    made = between(prototypes, torch.ones(4, 4), torch.zeros(1000, dtype=torch.long), draws)
    assert made.unique().tolist() == [0.0, 0.25, 0.75]


def test_no_row_is_kept():
    learner = learn_stream(model(), NAPAVQ(), stream(), steps=2, batch_size=8, lr=1e-2, progress=False)
    n, d, classes = 24, 8, 6
    assert learner.log.memory == [4 * (2 * n * d + n * n) + 8 * classes] * 3


def test_overlap_is_the_share_of_old_rows_nearest_a_new_mean():
    features = torch.tensor([[0.0], [0.2], [1.0], [0.9]])
    labels = torch.tensor([0, 0, 1, 0])
    assert overlap(features, labels, torch.tensor([False, True])) == pytest.approx(1 / 3)
    assert math.isnan(overlap(features, labels, torch.tensor([True, True])))
