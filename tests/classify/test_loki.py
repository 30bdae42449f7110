"""Loki: the Fréchet mean against naive sums, its limits, distances on labels, and what can be reached."""

import pytest
import torch

from palimpsest.classify.loki import (
    embedding_distance,
    frechet_variance,
    graph_distance,
    loki_predict,
    squared_distance,
    tree_distance,
)
from palimpsest.classify.loki_locus import is_cover, locus, nearest_embedding, next_class, sample_bound

TREE = [-1, 0, 0, 1, 1, 2, 2]  # two levels below the root; 3 to 6 are leaves


def line(n):
    return (torch.arange(float(n))[:, None] - torch.arange(float(n))).abs()


def grid(side):
    places = torch.cartesian_prod(torch.arange(float(side)), torch.arange(float(side)))
    return torch.cdist(places, places, p=1)


def probabilities(rows, classes):
    draws = torch.Generator().manual_seed(0)
    return torch.randn(rows, classes, generator=draws, dtype=torch.float64).softmax(1)


def test_it_is_the_naive_sum_over_observed_labels():
    p, distances, observed = probabilities(20, 3), grid(3), [0, 5, 7]
    naive = torch.zeros(20, 9, dtype=torch.float64)
    for row in range(20):
        for label in range(9):
            naive[row, label] = sum(p[row, i] * distances[label, seen] ** 2 for i, seen in enumerate(observed))
    torch.testing.assert_close(frechet_variance(p, distances, observed), naive)
    assert loki_predict(p, distances, observed).tolist() == naive.argmin(1).tolist()


def test_it_is_the_authors_expression():
    """SprocketLab/loki, simclr_exps/loki.py, loki_exact_predict: the largest of -p @ d^2."""
    p, distances = probabilities(200, 7).float(), tree_distance(TREE)
    torch.testing.assert_close(-frechet_variance(p, distances), -p.double() @ distances**2)
    assert loki_predict(p, distances).tolist() == (-p.double() @ distances**2).argmax(1).tolist()


def test_with_equal_distances_it_is_the_likeliest_label():
    p = probabilities(500, 6)
    assert loki_predict(p, 1 - torch.eye(6)).tolist() == p.argmax(1).tolist()


def test_on_a_line_it_is_the_mean_and_with_power_one_the_median():
    p = torch.tensor([[0.6, 0.0, 0.4]])
    assert loki_predict(p, line(11), [0, 5, 10]).tolist() == [4]
    assert loki_predict(p, line(11), [0, 5, 10], power=1.0).tolist() == [0]


def test_distances_of_trees_graphs_and_vectors():
    tree = tree_distance(TREE)
    assert tree[3].tolist() == [2, 1, 3, 0, 2, 4, 4]
    ring = torch.zeros(5, 5)
    for i in range(5):
        ring[i, (i + 1) % 5] = ring[(i + 1) % 5, i] = 1
    assert graph_distance(ring)[0].tolist() == [0, 1, 2, 2, 1]
    vectors = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    assert embedding_distance(vectors)[0, 1].item() == pytest.approx(2**0.5)
    assert squared_distance(torch.tensor([0, 6]), torch.tensor([3, 6]), tree) == 2.0


def test_leaves_cover_a_tree_ends_a_path_and_corners_a_grid():
    tree = tree_distance(TREE)
    assert is_cover(tree, [3, 4, 5, 6])
    assert locus(tree, [3, 4]) == [1, 3, 4]
    assert is_cover(line(9), [0, 8])
    assert not is_cover(line(9), [0, 7])
    assert is_cover(grid(3), [0, 2, 6, 8])


def test_what_is_in_the_locus_can_be_predicted_and_the_rest_cannot():
    distances, observed = grid(3), [0, 2, 3]
    draws = torch.distributions.Dirichlet(torch.full((3,), 0.4, dtype=torch.float64))
    torch.manual_seed(0)
    found = set(loki_predict(draws.sample((3000,)), distances, observed).tolist())
    assert found <= set(locus(distances, observed, grid=24))


def test_the_next_class_enlarges_the_locus_most():
    tree = tree_distance(TREE)
    assert next_class(tree, [3, 4]) in (5, 6)
    assert next_class(line(9), [3]) == 8
    sizes = {label: len(locus(line(9), [2, 4, label])) for label in (0, 1, 5, 8)}
    assert len(locus(line(9), [2, 4, next_class(line(9), [2, 4])])) == max(sizes.values())
    with pytest.raises(ValueError, match="every label is observed"):
        next_class(line(2), [0, 1])


def test_the_bound_falls_and_the_nearest_vector_is_found():
    assert sample_bound(1000, 4, 2.0, 8) < sample_bound(100, 4, 2.0, 8) < sample_bound(100, 9, 2.0, 8)
    assert nearest_embedding(torch.tensor([[0.4, 0.6]]), torch.arange(11.0)[:, None], [0, 10]).tolist() == [6]


@pytest.mark.parametrize(
    ("distances", "observed", "why"),
    [
        (torch.tensor([[0.0, 1.0], [2.0, 0.0]]), [0, 1], "symmetric"),
        (torch.ones(2, 2), [0, 1], "0 on its diagonal"),
        (torch.zeros(2, 3), [0, 1], "square"),
        (line(2), [0, 0], "different labels"),
        (line(3), [0, 1, 2], "probabilities of the 3 observed"),
    ],
)
def test_what_is_no_distance_is_refused(distances, observed, why):
    with pytest.raises(ValueError, match=why):
        loki_predict(torch.tensor([[0.5, 0.5]]), distances, observed)


def test_graphs_in_parts_and_parents_in_circles_are_refused():
    with pytest.raises(ValueError, match="parts that no path joins"):
        graph_distance(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="one root"):
        tree_distance([-1, -1])
    with pytest.raises(ValueError, match="cannot have the parent"):
        tree_distance([0])
