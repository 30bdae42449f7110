"""Hard ASH beside the authors' activation, its limits, and a network whose settings do not depend on its weights."""

from functools import partial

import pytest
import torch
from tests.retain.streams import model, stream
from torch import nn

from palimpsest.models.vision import mlp
from palimpsest.retain.hard_ash import OPTIMIZERS, HardASH, ash, hard_ash
from palimpsest.retain.limited_updates import limited
from palimpsest.retain.sparse_networks import RowNormLinear, SparseNetwork, elephant, lwta, overlap, sparsity, top_k
from palimpsest.train import apply


def table(n, rate=1.7):
    return 3 * torch.sin(rate * torch.arange(1, n + 1, dtype=torch.float64))


# fmt: off
THEIRS = {
    "ash": (
        [2.9526470862, -0.0013486868, -1.17455e-05, 0.8895184383, 2.2965700207, -6.78386e-05, -0.0001250287,
         2.5147635129],
        [2.826234258, 0.1543855101, 0.0661533455, -1.9463024063, -3.3354263462, 0.0985635002, 0.1097180442,
         3.0789749156],
    ),
    "hard_ash": (
        [2.0, 0.0, 0.0, 0.8414223397, 2.0, 0.0, 0.0, 2.0],
        [0.1990186062, 0.0949544117, 0.0390282173, -1.5800098101, 0.1829002721, 0.0578801674, 0.0647001759,
         0.1879628395],
    ),
}
# fmt: on


@pytest.mark.parametrize("name", THEIRS)
def test_values_and_gradients_of_the_authors_program(name):
    """Their functions (LesserScholar/hard-ash at 7fbb1ed) in jax gave these in float64."""
    x = table(8).requires_grad_()
    function = {"ash": ash, "hard_ash": hard_ash}[name]
    value = function(x, 3.0, 0.5)
    (slope,) = torch.autograd.grad((value * table(8, 0.9)).sum(), [x])
    for mine, theirs in zip((value, slope), THEIRS[name], strict=True):
        torch.testing.assert_close(mine.detach(), torch.tensor(theirs, dtype=torch.float64), rtol=0, atol=1e-9)


def test_it_is_nothing_below_and_bounded_above_and_passes_no_gradient_there():
    x = torch.randn(50, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64).mul(3).requires_grad_()
    value = hard_ash(x, 3.0, 1.0)
    t = 3.0 * (x - x.mean(1, keepdim=True) - x.std(1, keepdim=True, correction=0))
    low, high = t < -3, t > 3
    assert (value[low] == 0).all()
    assert torch.equal(value[high], x[high].clamp(0, 2))
    assert 0.5 < low.double().mean() < 0.99
    assert high.any()
    # With the statistics held, a unit far below hears nothing of what follows.
    (slope,) = torch.autograd.grad(hard_ash(x, 3.0, 1.0, detach=True).sum(), [x])
    assert (slope[low] == 0).all()
    assert torch.equal(hard_ash(x, 3.0, 1.0, None)[high], x[high])


def test_a_steep_ash_is_a_mask():
    x = table(40)
    stands_out = x > x.mean() + 1.2 * x.std(correction=0)
    torch.testing.assert_close(ash(x, 1e6, 1.2), x * stands_out)
    assert 0 < stands_out.sum() < 20


def test_a_layer_of_one_unit_has_no_deviation():
    x = torch.tensor([[0.5], [3.0], [-1.0]], requires_grad=True)
    value = hard_ash(x)
    torch.testing.assert_close(value.detach(), torch.tensor([[0.25], [1.0], [0.0]]))
    assert torch.autograd.grad(value.sum(), [x])[0].isfinite().all()


def test_rows_of_weights_count_by_their_direction_alone():
    layer = RowNormLinear(5, 4).double()
    x = table(15).reshape(3, 5)
    before = layer(x)
    with torch.no_grad():
        layer.weight.mul_(torch.tensor([[3.0], [0.1], [1.0], [7.0]])).add_(torch.tensor([[1.0], [-2.0], [0.0], [5.0]]))
    torch.testing.assert_close(layer(x), before)
    torch.testing.assert_close(layer(torch.ones(1, 5).double()), torch.zeros(1, 4).double(), atol=1e-12, rtol=0)


def test_other_activations_let_through_as_many_as_they_say():
    x = torch.randn(20, 60, generator=torch.Generator().manual_seed(0))
    assert ((top_k(x, 7) != 0).sum(1) == 7).all()
    assert ((lwta(x, 12) != 0).sum(1) == 12).all()
    assert torch.equal(
        lwta(x, 12).unflatten(1, (12, 5)).amax(2).clamp(min=0), x.unflatten(1, (12, 5)).amax(2).clamp(min=0)
    )
    torch.testing.assert_close(elephant(torch.tensor([0.32]), a=0.16, d=4), torch.tensor([1 / 17]))


def test_with_hard_ash_few_units_speak_and_two_tasks_share_fewer_of_them():
    one, two = (task.train.x for task in stream().tasks[:2])
    sparse, dense = (
        SparseNetwork(16, 6, activation, width=500, mean=0.0, std=1.0) for activation in (partial(hard_ash), torch.relu)
    )
    assert sparsity(sparse, one) > 0.9
    assert sparsity(dense, one) < 0.6
    assert overlap(sparse, one, two) < overlap(dense, one, two)
    assert overlap(dense, one, one) == pytest.approx(1.0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_update_is_above_the_limit_and_small_ones_are_as_they_were(name):
    w, free = (nn.Parameter(torch.zeros(6)) for _ in range(2))
    bounded, unbounded = limited(OPTIMIZERS[name]([w], lr=0.02), 0.01), OPTIMIZERS[name]([free], lr=0.02)
    gradient = torch.tensor([-3.0, -0.2, -1e-4, 1e-4, 0.2, 3.0])
    w.grad, free.grad = gradient.clone(), gradient.clone()
    bounded.step()
    unbounded.step()
    torch.testing.assert_close(w.detach(), free.detach().clamp(-0.01, 0.01))
    assert (w.abs() > 0.0099).any()


def test_a_stream_is_learned_by_a_network_of_its_own_with_one_optimizer():
    base = mlp(16, 6, hidden=(4,))
    before = [p.clone() for p in base.parameters()]
    method = HardASH(width=200, z=1.5)
    learner = apply(base, method, stream(), steps=40, batch_size=8, lr=3e-3, seed=0, progress=False).model
    assert all(torch.equal(a, b) for a, b in zip(before, base.parameters(), strict=True))
    assert isinstance(learner.model, SparseNetwork)
    R = learner.log.accuracy["test"]
    assert R.diagonal().mean() > 0.6
    again = apply(base, method, stream(), steps=40, batch_size=8, lr=3e-3, seed=0, progress=False).model
    assert torch.equal(again.log.accuracy["test"], R)
    for other in ("ash", "relu", "top_k", "lwta", "elephant"):
        found = apply(base, HardASH(activation=other, width=200), stream(), steps=2, lr=1e-3, progress=False).model
        assert found.log.accuracy["test"].isfinite().all()


def test_one_optimizer_goes_through_all_tasks():
    made = []

    class Watched(HardASH):
        def optimizer(self, parameters, lr):
            made.append(super().optimizer(parameters, lr))
            return made[-1]

    apply(model(), Watched(width=20), stream(), steps=2, batch_size=8, lr=1e-2, seed=0, progress=False)
    (steps,) = {int(state["step"]) for state in made[-1].state.values()}
    assert steps == 6
    (w,), held = [nn.Parameter(torch.zeros(1))], HardASH(by="sgd", limit=0.02)
    optimizer, w.grad = held.optimizer([w], 1.0), torch.ones(1)
    optimizer.step()
    assert w.item() == pytest.approx(-0.02)
