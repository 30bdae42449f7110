"""What single dimensions stand for, on known features."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from palimpsest.contrast.dimensions import (
    accuracy_kept,
    alive,
    class_consistency,
    dim_correlation,
    rotation_test,
    select_dims,
    sparsity,
)


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def test_class_consistency_is_a_loop():
    features, labels = rand(30, 6).sub(0.8).relu(), torch.arange(30) % 4
    features[:, 2] = 0
    shares = []
    for column in features.T:
        active = labels[column > 0]
        if len(active):
            shares.append(active.bincount().max().item() / len(active))
    assert class_consistency(features, labels).item() == pytest.approx(sum(shares) / len(shares))
    assert alive(features).tolist() == [True, True, False, True, True, True]
    assert sparsity(features).item() == pytest.approx((features == 0).double().mean().item())


def test_one_dimension_a_class_is_consistent_and_dense_features_are_not():
    labels = torch.arange(20) % 5
    assert class_consistency(F.one_hot(labels).float(), labels) == 1
    assert class_consistency(rand(20, 5), labels).item() == pytest.approx(0.2)
    assert sparsity(F.one_hot(labels).float()).item() == pytest.approx(0.8)
    assert class_consistency(F.one_hot(labels).float(), labels * 7 - 3) == 1  # labels need not be 0, 1, ...


def test_scale_of_rows_does_not_matter():
    features, labels = rand(12, 4).relu(), torch.arange(12) % 3
    scaled = features * torch.logspace(-3, 3, 12).double()[:, None]
    torch.testing.assert_close(class_consistency(scaled, labels), class_consistency(features, labels))
    assert torch.equal(select_dims(scaled, 2), select_dims(features, 2))


def test_select_dims_and_what_they_keep():
    labels = torch.arange(40) % 4
    features = torch.cat([0.01 * rand(40, 4).abs(), F.one_hot(labels).double()], 1)
    assert set(select_dims(features, 4).tolist()) == {4, 5, 6, 7}
    assert accuracy_kept(features, labels, features, labels, 4) == 1
    assert accuracy_kept(features, labels, features, labels, 1) <= 0.6


def test_dimensions_of_signed_features_are_picked_by_their_size():
    features = torch.tensor([[-3.0, 1.0, 0.5], [-2.0, 1.0, -1.0]])
    assert select_dims(features, 1).tolist() == [0]
    assert 2 not in select_dims(torch.tensor([[1.0, -1.0, 0.8], [-1.0, 1.0, 0.8]]), 2)


def test_dimensions_are_chosen_on_the_training_rows():
    labels = torch.arange(40) % 2
    telling, noise = F.one_hot(labels).double(), 0.1 * rand(40, 2).abs()
    train = torch.cat([telling, noise], 1)
    other = torch.cat([telling, 100 + noise], 1)  # here the dimensions that tell nothing are the largest
    assert accuracy_kept(train, labels, other, labels, 2) == 1
    assert accuracy_kept(other, labels, train, labels, 2) < 0.8


def test_dim_correlation():
    one_hot = torch.eye(4).repeat(5, 1)
    assert dim_correlation(one_hot).item() == pytest.approx(1 / 3)  # of indicators of 4 equal classes
    assert dim_correlation(one_hot, centered=False).item() == pytest.approx(0)
    assert dim_correlation(torch.cat([one_hot, torch.zeros(20, 2)], 1)).item() == pytest.approx(1 / 3)
    x = rand(50, 3)
    table = torch.corrcoef(x.T).abs()
    assert dim_correlation(x).item() == pytest.approx((table.sum().item() - 3) / 6)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(5)), st.integers(0, 99))
def test_matching_undoes_order_scale_and_sign(order, seed):
    a = rand(40, 5, seed=seed)
    factors = torch.tensor([1.0, -2.0, 0.5, 3.0, -0.1]).double()
    match = rotation_test(a, (a * factors)[:, order])
    assert match.matched == pytest.approx(1)
    assert match.of_first.tolist() == [0, 1, 2, 3, 4]
    assert [order[j] for j in match.of_second] == [0, 1, 2, 3, 4]


def test_a_rotation_is_seen_by_one_measure_only():
    a = rand(200, 6)
    turn = torch.linalg.qr(rand(6, 6, seed=1))[0]
    match = rotation_test(a, 3 * a @ turn)
    assert match.rotated == pytest.approx(1)
    assert match.matched < 0.9
    unrelated = rotation_test(a, rand(200, 6, seed=5))
    assert unrelated.matched < 0.3
    assert unrelated.rotated < 0.5


def test_dimensions_that_do_not_vary_are_not_matched():
    a = torch.cat([rand(20, 2), torch.full((20, 1), 0.3).double(), torch.zeros(20, 1).double()], 1)
    match = rotation_test(a, a[:, [3, 1, 0, 2]])
    assert match.of_first.tolist() == [0, 1]
    assert match.of_second.tolist() == [2, 1]
    assert match.matched == pytest.approx(1)


def test_of_unequal_widths_the_best_are_matched():
    few, more = rand(60, 2), rand(60, 3, seed=1)
    wide = torch.cat([more[:, :1], few[:, 1:], more[:, 1:], few[:, :1], torch.ones(60, 1).double()], 1)
    for match in (rotation_test(few, wide), rotation_test(wide, few)):
        assert match.matched == pytest.approx(1)
        assert len(match.of_first) == len(match.of_second) == 2
    assert (match.of_first.tolist(), match.of_second.tolist()) == ([1, 4], [1, 0])
    back = rotation_test(few, wide)
    assert (back.of_first.tolist(), back.of_second.tolist()) == ([0, 1], [4, 1])


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8, torch.int64])
def test_labels_may_be_of_any_whole_type(kind):
    z, labels = rand(4, 3), torch.tensor([0, 3, 1, 1])
    assert class_consistency(z, labels.to(kind)) == class_consistency(z, labels)


def test_errors_at_the_door():
    features, labels = rand(4, 3), torch.arange(4)
    with pytest.raises(ValueError, match=r"labels must be one a row, got \[3\] for 4 rows"):
        class_consistency(features, labels[:3])
    with pytest.raises(ValueError, match="no dimension is active"):
        class_consistency(torch.zeros(4, 3), labels)
    with pytest.raises(ValueError, match="k must be from 1 to the 3 dimensions, got 4"):
        select_dims(features, 4)
    with pytest.raises(ValueError, match="two dimensions that vary, got 0"):
        dim_correlation(torch.ones(4, 3))
    with pytest.raises(ValueError, match="equally many rows, got 4 and 3"):
        rotation_test(features, features[:3])
    with pytest.raises(ValueError, match="no dimension varies in b"):
        rotation_test(features, torch.ones(4, 2).double())
    for eps in (-1, 1.0, math.nan):
        with pytest.raises(ValueError, match=f"eps must be from 0 to below 1, the norm of a row, got {eps}"):
            sparsity(features, eps)
    for measure in (sparsity, alive, lambda f: class_consistency(f, labels[:0]), lambda f: select_dims(f, 1)):
        with pytest.raises(ValueError, match="features must have at least one row, got 0"):
            measure(features[:0])
