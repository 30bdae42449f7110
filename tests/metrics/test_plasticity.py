"""Measures of plasticity against closed forms, and against the whole Hessian."""

import pytest
import torch
from torch import nn

from palimpsest.metrics.plasticity import dormant_units, feature_rank, sharpness, stable_rank, weight_growth


def test_dormant_units_are_counted_against_their_layer():
    h = torch.tensor([[2.0, 0.0, 0.01, -2.0], [-2.0, 0.0, 0.01, 2.0]])
    assert dormant_units(h) == 0.25
    assert dormant_units(h, 0.1) == 0.5
    assert dormant_units(100 * h, 0.1) == 0.5
    with pytest.raises(ValueError, match=r"at least 0, got -1"):
        dormant_units(h, -1)


def test_ranks_of_matrices_whose_spectrum_is_known():
    q = torch.linalg.qr(torch.randn(20, 5, generator=torch.Generator().manual_seed(0)))[0]
    values = torch.tensor([4.0, 2.0, 1.0, 0.02, 0.0])
    matrix = q * values
    assert stable_rank(matrix) == pytest.approx(float(values.square().sum() / 16), rel=1e-5)
    assert feature_rank(matrix) == 3
    assert feature_rank(matrix, 0.004) == 4
    assert stable_rank(torch.zeros(3, 2)) == 0.0


def test_growth_is_a_ratio_of_norms():
    layer = nn.Linear(3, 2)
    first = {name: p.detach().clone() for name, p in layer.named_parameters()}
    assert weight_growth(layer, first) == pytest.approx(1.0)
    with torch.no_grad():
        for p in layer.parameters():
            p.mul_(3)
    assert weight_growth(layer, first) == pytest.approx(3.0)
    with pytest.raises(ValueError, match="'bias' is only in one"):
        weight_growth(layer, {"weight": first["weight"]})


@pytest.mark.parametrize("sign", [1, -1])
def test_sharpness_is_the_top_eigenvalue_of_the_whole_hessian_and_leaves_gradients_alone(sign):
    torch.manual_seed(0)
    x, y = torch.randn(30, 3, dtype=torch.float64), torch.randint(2, (30,))
    w, b = nn.Parameter(torch.randn(2, 3, dtype=torch.float64)), nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def loss(w=w, b=b):
        return sign * nn.functional.cross_entropy(x @ w.T + b, y)

    flat = torch.cat([w.detach().flatten(), b.detach()])
    hessian = torch.autograd.functional.hessian(lambda v: loss(v[:6].view(2, 3), v[6:]), flat)
    top = max(torch.linalg.eigvalsh(hessian).tolist(), key=abs)
    assert sharpness(loss, [w, b], iterations=500, tolerance=1e-9) == pytest.approx(top, rel=1e-3)
    assert w.grad is None


def test_a_linear_loss_has_no_curvature():
    w = nn.Parameter(torch.ones(3))
    assert sharpness(lambda: w.sum(), [w]) == 0.0
