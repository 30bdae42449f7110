"""The calibration error against a loop over bins, and where it is known."""

import pytest
import torch

from palimpsest.metrics.calibration import expected_calibration_error


def by_bins(p, y, bins):
    confidence, predicted = p.max(1)
    total = 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if inside.any():
            right = (predicted[inside] == y[inside]).double().mean()
            total += inside.double().mean() * (right - confidence[inside].mean()).abs()
    return float(total)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_against_a_loop_over_bins(bins):
    generator = torch.Generator().manual_seed(bins)
    p = (3 * torch.randn(200, 5, generator=generator, dtype=torch.float64)).softmax(1)
    y = torch.randint(5, (200,), generator=generator)
    assert expected_calibration_error(p, y, bins) == pytest.approx(by_bins(p, y, bins))


def test_labels_drawn_from_the_probabilities_have_an_error_that_goes_to_0_with_the_rows():
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(40_000, 3, generator=generator).softmax(1)
    y = torch.multinomial(p, 1, generator=generator)[:, 0]
    few, many = expected_calibration_error(p[:100], y[:100]), expected_calibration_error(p, y)
    assert many < 0.01 < few


def test_sure_and_always_wrong_is_1_and_sure_and_right_is_0():
    sure = torch.eye(3)
    assert expected_calibration_error(sure, torch.tensor([1, 2, 0])) == 1.0
    assert expected_calibration_error(sure, torch.tensor([0, 1, 2])) == 0.0


@pytest.mark.parametrize(
    ("p", "y", "bins", "why"),
    [
        (torch.eye(3), torch.tensor([0, 1]), 15, "need probabilities"),
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), 15, "need probabilities"),
        (2 * torch.eye(3), torch.tensor([0, 1, 2]), 15, r"must be in \[0, 1\]"),
        (torch.eye(3) / 0, torch.tensor([0, 1, 2]), 15, r"must be in \[0, 1\]"),
        (torch.eye(3), torch.tensor([0, 1, 2]), 0, "bins must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(p, y, bins, why):
    with pytest.raises(ValueError, match=why):
        expected_calibration_error(p, y, bins)
