"""The best matching against all matchings, and that names of groups do not matter."""

from itertools import permutations

import pytest
import torch

from palimpsest.metrics.clustering import cluster_acc


def draw(n, classes, seed):
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(5))
def test_no_matching_is_better_and_names_do_not_matter(seed):
    answers, labels = draw(40, 4, seed), draw(40, 4, seed + 50)
    best = max(float((torch.tensor(names)[answers] == labels).double().mean()) for names in permutations(range(4)))
    old = torch.tensor([True, True, False, False])
    found = cluster_acc(answers, labels, {"old": old, "new": ~old})
    assert found["all"] == pytest.approx(best)
    share = float(old[labels].double().mean())
    assert share * found["old"] + (1 - share) * found["new"] == pytest.approx(found["all"])
    assert cluster_acc(torch.tensor([2, 0, 3, 1])[answers], labels)["all"] == found["all"]


def test_shares_of_groups_do_not_depend_on_names_where_one_matching_is_best():
    labels = draw(40, 4, 0)
    answers = torch.where(torch.arange(40) % 5 == 0, (labels + 1) % 4, labels)
    groups = {"old": torch.tensor([True, True, False, False])}
    assert cluster_acc(answers, labels, groups) == cluster_acc(torch.tensor([2, 0, 3, 1])[answers], labels, groups)


def test_more_groups_than_classes_leave_rows_unmatched():
    assert cluster_acc(torch.arange(4), torch.tensor([0, 0, 1, 1])) == {"all": 0.5}


@pytest.mark.parametrize(("answers", "labels"), [([], []), ([0], [0, 1]), ([0, -1], [0, 1])])
def test_what_does_not_fit_is_refused(answers, labels):
    with pytest.raises(ValueError, match="answers and labels must"):
        cluster_acc(torch.tensor(answers, dtype=torch.long), torch.tensor(labels, dtype=torch.long))
