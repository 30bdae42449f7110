"""Measures of several labels against scikit-learn's and by hand."""

import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score

from palimpsest.metrics.multilabel import average_precisions, best_thresholds, f1_of_labels, mean_average_precision


def rows():
    draws = torch.Generator().manual_seed(0)
    scores, targets = torch.rand(40, 5, generator=draws), torch.rand(40, 5, generator=draws) < 0.3
    targets[:, 4] = False
    return scores, targets.long()


def test_precision_is_of_the_classes_that_have_a_positive():
    scores, targets = rows()
    expected = average_precision_score(targets[:, :4].numpy(), scores[:, :4].numpy(), average="macro")
    assert mean_average_precision(scores, targets) == pytest.approx(expected)
    assert average_precisions(scores, targets)[4].isnan()


@pytest.mark.parametrize("average", ["micro", "macro", "none"])
def test_f1_is_scikit_learns(average):
    scores, targets = rows()
    name = None if average == "none" else average
    expected = f1_score(targets.numpy(), (scores > 0.5).numpy(), average=name, zero_division=1.0)
    torch.testing.assert_close(f1_of_labels(scores, targets, average=average), torch.as_tensor(expected).double())


def test_the_best_thresholds_are_those_of_a_search():
    scores, targets = rows()
    scores = (scores * 10).round() / 10  # equal scores as well
    found = f1_of_labels(scores, targets, best_thresholds(scores, targets), average="none")
    for label in range(4):
        tried = [f1_of_labels(scores, targets, t, average="none")[label] for t in torch.linspace(-0.05, 1.05, 23)]
        assert found[label] == max(tried)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"need scores and targets \[rows, classes\]"):
        mean_average_precision(torch.zeros(3), torch.zeros(3))
    with pytest.raises(ValueError, match="scores must be finite"):
        mean_average_precision(torch.full((2, 1), torch.nan), torch.ones(2, 1))
    with pytest.raises(ValueError, match="an average that is micro, macro or none, got 'weighted'"):
        f1_of_labels(torch.zeros(2, 1), torch.ones(2, 1), average="weighted")
