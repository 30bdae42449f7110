"""Curves of rejection against naive sums, and their ends."""

import math

import pytest
import torch

from palimpsest.metrics.rejection import (
    accuracy_rejection_area,
    excess_risk_coverage_area,
    rejection_scores,
    risk_coverage,
    risk_coverage_area,
)


def test_a_curve_is_the_risk_of_the_rows_above_each_score():
    draws = torch.Generator().manual_seed(0)
    scores, errors = torch.randint(6, (50,), generator=draws).double(), torch.rand(50, generator=draws).double()
    coverage, risk = risk_coverage(scores, errors)
    naive = [(float((scores >= s).double().mean()), float(errors[scores >= s].mean())) for s in range(5, -1, -1)]
    torch.testing.assert_close(torch.stack([coverage, risk], 1), torch.tensor(naive, dtype=torch.float64))


def test_the_area_is_the_mean_over_random_orders_of_ties():
    draws = torch.Generator().manual_seed(0)
    scores, errors = (
        torch.randint(4, (12,), generator=draws).double(),
        torch.randint(2, (12,), generator=draws).double(),
    )
    areas = []
    for _ in range(4000):
        order = (scores + 0.5 * torch.rand(12, generator=draws)).argsort(descending=True)
        areas.append(float((errors[order].cumsum(0) / torch.arange(1, 13)).mean()))
    assert risk_coverage_area(scores, errors) == pytest.approx(sum(areas) / len(areas), abs=3e-3)


def test_a_perfect_rejector_has_no_excess_and_a_blind_one_changes_nothing():
    errors = torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0])
    assert excess_risk_coverage_area(1 - errors, errors) == pytest.approx(0.0, abs=1e-12)
    assert risk_coverage_area(torch.zeros(5), errors) == pytest.approx(0.4)
    assert accuracy_rejection_area(torch.zeros(5), errors == 0) == pytest.approx(0.6)
    assert excess_risk_coverage_area(errors, errors) > excess_risk_coverage_area(torch.zeros(5), errors) > 0


def test_scores_of_a_choice_are_counted_and_empty_sets_are_said():
    right = torch.tensor([True, True, False, False, True])
    scores = rejection_scores(torch.tensor([False, True, True, False, False]), right, cost=0.3)
    assert scores == pytest.approx(
        {
            "accuracy": 2 / 3,
            "classification quality": 3 / 5,
            "rejection quality": 1 / (2 / 3),
            "cost": (1 + 0.3 * 2) / 5,
            "coverage": 0.6,
        }
    )
    everything, nothing = rejection_scores(torch.ones(5) > 0, right), rejection_scores(torch.zeros(5) > 0, right)
    assert math.isnan(everything["accuracy"])
    assert math.isnan(nothing["rejection quality"])
    assert math.isinf(rejection_scores(~right, right)["rejection quality"])
    assert math.isnan(rejection_scores(torch.tensor([True]), torch.tensor([True]))["rejection quality"])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="as many"):
        risk_coverage(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="NaN"):
        risk_coverage_area(torch.tensor([math.nan]), torch.zeros(1))
    with pytest.raises(ValueError, match="as many"):
        rejection_scores(torch.zeros(0).bool(), torch.zeros(0).bool())
