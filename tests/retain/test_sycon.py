"""Sy-CON against its authors' code and loops, what its queues hold, and that labels are not learned from."""

from dataclasses import replace

import pytest
import torch
from tests.retain.streams import SETTINGS, SIDE, model, second_task, stream
from torch.nn import functional as F

from palimpsest.retain.continual import everything_of
from palimpsest.retain.sequence import _batches, _present, learn_stream
from palimpsest.retain.sycon import SyCON, sycon_in_batch, sycon_loss
from palimpsest.retain.unlabelled import CaSSLe, MoCo, Projecting, distillation_nce, nce, random_view


def draw(*shape, seed=0):
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(drawn, dim=-1)


def table(rows, columns, rate):
    values = torch.sin(rate * torch.arange(1, rows * columns + 1, dtype=torch.float64))
    return F.normalize(values.reshape(rows, columns), dim=1)


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Projecting(model(), features=8, projected=5, hidden=7).double()


def test_a_query_finds_its_key_among_negatives():
    q, k, N = draw(3, 4), draw(3, 4, seed=1), draw(6, 4, seed=2)
    naive = 0.0
    for i in range(3):
        positive = torch.exp(q[i] @ k[i] / 0.2)
        naive -= torch.log(positive / (positive + sum(torch.exp(q[i] @ n / 0.2) for n in N))) / 3
    torch.testing.assert_close(nce(q, k, N, 0.2), naive)


def test_loss_and_gradient_of_the_authors_code():
    """csm9493/PNR at 123d9c5, moco_pnr_loss_func in both orders of the views, in float64."""
    z = [table(3, 4, 0.7).requires_grad_(), table(3, 4, 1.1)]
    predicted, keys, old, queue, before = (
        [table(n, 4, a), table(n, 4, b)]
        for n, a, b in ((3, 1.3, 1.7), (3, 1.9, 2.1), (3, 2.3, 2.5), (5, 2.7, 2.9), (5, 3.3, 3.5))
    )
    orders = [(z[i], keys[1 - i], old[i], queue[1 - i], before[1 - i], 0.2, predicted[i]) for i in (0, 1)]
    loss = sum(sum(sycon_loss(*order)) for order in orders)
    (slope,) = torch.autograd.grad(loss / 2, z[0])
    assert loss.item() / 2 == pytest.approx(6.781402623378817, abs=1e-12)
    theirs = [-0.28698977644356405, 0.35151054640509044, 0.020712758758484332, -0.4015207268747028]
    assert slope[0].tolist() == pytest.approx(theirs, abs=1e-12)


def test_cassle_s_distillation_is_that_of_its_authors():
    """DonkeyShot21/cassle at b5b0929, simclr_distill_loss_func both ways, in float64."""
    predicted, old = (torch.cat([table(3, 4, a), table(3, 4, b)]) for a, b in ((1.3, 1.7), (2.3, 2.5)))
    assert distillation_nce(predicted, old, 0.2).item() == pytest.approx(3.826555559284656, abs=1e-12)


def test_with_one_model_and_no_predictor_both_terms_are_one():
    z, key, N = draw(3, 4), draw(3, 4, seed=1), draw(6, 4, seed=2)
    plastic, stable = sycon_loss(z, key, key, N, N)
    assert plastic == stable


def test_in_a_batch_negatives_are_all_others_by_both_models():
    z, old, predicted = draw(6, 4), draw(6, 4, seed=1), draw(6, 4, seed=2)
    plastic, stable = 0.0, 0.0
    for i in range(6):
        partner = (i + 3) % 6
        others = [j for j in range(6) if j != i]
        below = sum(torch.exp(z[i] @ z[j] / 0.2) + torch.exp(z[i] @ old[j] / 0.2) for j in others)
        plastic = plastic - torch.log(torch.exp(z[i] @ z[partner] / 0.2) / below) / 6
        held = torch.exp(predicted[i] @ old[i] / 0.2)
        below = sum(torch.exp(predicted[i] @ old[j] / 0.2) + torch.exp(predicted[i] @ z[j] / 0.2) for j in others)
        stable = stable - torch.log(held / (held + below)) / 6
    torch.testing.assert_close(sycon_in_batch(z, old, 0.2, predicted), (plastic, stable))


def test_the_loss_is_the_naive_one():
    method = SyCON(size=12)
    state, base, batch = second_task(method, network(), updates=1)
    views = [batch[name]["pixel_values"] for name in ("first", "second")]
    assert not torch.equal(*views)
    z = [F.normalize(base.projected(view), dim=1) for view in views]
    first = network()
    old = [F.normalize(first.projected(view), dim=1).detach() for view in views]
    keys = old  # nothing was learned in between
    plastic = stable = 0.0
    for i in (0, 1):
        N = torch.cat([state["queue"][1 - i], state["old queue"][1 - i]])
        plastic = plastic + nce(z[i], keys[1 - i], N, 0.2) / 2
        stable = stable + nce(F.normalize(base.predicted(z[i]), dim=1), old[i], N, 0.2) / 2
    torch.testing.assert_close(method.loss(state, base, batch), {"plastic": plastic, "stable": stable})
    own = SyCON(size=12, negatives="own").loss(state, base, batch)
    torch.testing.assert_close(own["plastic"], MoCo(size=12).contrast(state, z, torch.stack(keys)))


def test_queues_take_the_same_images_and_let_the_oldest_go():
    method = SyCON(size=12)
    state, base, batch = second_task(method, network(), updates=1)
    torch.testing.assert_close(state["old queue"], state["queue"])
    before = state["queue"].clone()
    method.loss(state, base, batch)
    method.gradients(state, base)
    with torch.no_grad():
        views = [network().projected(batch[view]["pixel_values"]) for view in ("first", "second")]
    now = F.normalize(torch.stack(views), dim=2)
    for name in ("queue", "old queue"):
        torch.testing.assert_close(state[name], torch.cat([now, before], 1)[:, :12])


def test_the_momentum_copy_follows_and_the_first_task_is_moco():
    data, base = stream(dtype=torch.float64), network()
    first = _present(data, 0, SETTINGS)
    found = []
    for method in (MoCo(m=0.9, size=12), SyCON(m=0.9, size=12), CaSSLe(m=0.9, size=12)):
        first = _present(data, 0, SETTINGS)
        state = method.before_task(method.init(base, first), base, first)
        found.append(method.loss(state, base, _batches(method, state, first, 8)(0)))
    assert found[0] == found[1] == found[2]
    kept, now = {name: value.clone() for name, value in state["momentum"].items()}, network()
    with torch.no_grad():
        for p in now.parameters():
            p.add_(1.0)
    method.after_step(state, now)
    for name, value in everything_of(now).items():
        torch.testing.assert_close(state["momentum"][name], 0.9 * kept[name] + 0.1 * value)


def test_neither_old_model_nor_keys_have_a_gradient():
    method = SyCON(size=12)
    state, base, batch = second_task(method, network(), updates=1)
    sum(method.loss(state, base, batch).values()).backward()
    assert not any(value.requires_grad for value in state["old"].values())
    assert not state["pushed"]["queue"].requires_grad
    assert not state["pushed"]["old queue"].requires_grad
    assert all(p.grad is not None for name, p in base.named_parameters() if "head" not in name)


@pytest.mark.parametrize("method", [MoCo(size=12), CaSSLe(size=12), SyCON(size=12), MoCo(size=12, joint=True)])
def test_labels_are_never_learned_from(method):
    ends, begun = [], network().float().state_dict()
    for exchanged in (False, True):
        data = stream()
        tasks = [
            replace(task, train=replace(task.train, y=sum(task.classes) - task.train.y if exchanged else task.train.y))
            for task in data.tasks
        ]
        base = network().float()
        base.load_state_dict(begun)
        learn_stream(base, method, replace(data, tasks=tuple(tasks)), steps=3, batch_size=8, lr=1e-2, progress=False)
        ends.append(base.state_dict())
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    assert not torch.equal(ends[0]["projector.0.weight"], begun["projector.0.weight"])


def test_views_of_images_outside_their_range_are_the_images_with_noise():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 1, SIDE, SIDE, generator=generator)
    noise = random_view(x, generator, 0.5) - x
    assert noise.std().item() == pytest.approx(0.1, rel=0.1)
    assert torch.equal(random_view(x, generator, 0.0), x)
    inside = x.abs().clamp(max=1)
    assert random_view(inside, generator, 1.0).max() <= 1
