"""GEM against the authors' quadratic programme, a naive step, and its limits."""

import pytest
import torch
from tests.retain.streams import model, stream
from torch.nn import functional as F

from palimpsest.errors import UserError
from palimpsest.retain.gem import GEM, memory_gradients, violation_rate
from palimpsest.retain.replay import AGEM, FineTune
from palimpsest.retain.sequence import _batches, _present, learn_stream
from palimpsest.train.gradients import gem

SETTINGS = {"seed": 0, "lr": 1e-2, "batch_size": 8}


def run(method, **options):
    settings = {"steps": 8, "batch_size": 8, "lr": 0.05, "optimizer": "sgd", "progress": False, **options}
    return learn_stream(model(), method, stream(), **settings)


def third_task(method):
    """The state in the third task, with rows of two earlier ones, a model and a batch."""
    data, base = stream(dtype=torch.float64), model().double()
    state = method.init(base, _present(data, 0, SETTINGS))
    for number in range(2):
        state = method.after_task(state, base, _present(data, number, SETTINGS))
    third = _present(data, 2, SETTINGS)
    return state, base, _batches(method, state, third, 8)(0)


def step(method, state, base, batch):
    """The gradient before the step and after what the method makes of it."""
    sum(method.loss(state, base, batch).values()).backward()
    before = torch.cat([p.grad.flatten() for p in base.parameters()])
    method.gradients(state, base)
    return before, torch.cat([p.grad.flatten() for p in base.parameters()])


@pytest.mark.parametrize(
    ("margin", "theirs"),
    [
        (0.0, [-0.377018885, 0.466919255, -0.362356567, 0.115571708, -0.549524872, 0.199221928]),
        (0.5, [-0.943432833, 0.203288002, -0.252484128, 0.093862056, -0.943938671, 0.822031626]),
    ],
)
def test_vector_of_the_authors_programme(margin, theirs):
    """Their project2cone2 with quadprog, in float64, gave these vectors."""
    rows = torch.sin(torch.arange(24, dtype=torch.float64).square()).reshape(4, 6)
    torch.testing.assert_close(
        gem(rows[0], rows[1:], margin=margin), torch.tensor(theirs, dtype=torch.float64), rtol=0, atol=1e-6
    )


def test_a_step_is_the_projection_on_each_tasks_memory():
    method = GEM(size=9)
    state, base, batch = third_task(method)
    rows, allowed = state["buffer"].columns, batch["memory"]["allowed"]
    naive = []
    for task in (0, 1):
        logits = base(pixel_values=rows["pixel_values"]).logits.masked_fill(~allowed, -torch.inf)
        loss = F.cross_entropy(logits[rows["task"] == task], rows["labels"][rows["task"] == task])
        naive.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(base.parameters()))]))
    G = torch.stack(naive)
    torch.testing.assert_close(memory_gradients(base, batch["memory"], list(base.parameters())), G)
    before, after = step(method, state, base, batch)
    torch.testing.assert_close(after, gem(before, G))
    assert (state["asked"], state["violated"]) == (1, int((G @ before).min() < 0))


def test_after_a_step_no_memory_is_in_conflict():
    method = GEM(size=9, margin=0.0, eps=0.0)
    state, base, batch = third_task(method)
    G = memory_gradients(base, batch["memory"], list(base.parameters()))
    before, after = step(method, state, base, batch)
    assert (G @ before).min() < 0
    assert (G @ after).min() > -1e-9 * G.norm() * before.norm()


def test_a_gradient_without_conflict_stays_as_it_is():
    method = GEM(size=9)
    state, base, batch = third_task(method)
    batch = {**batch["memory"], "memory": batch["memory"]}  # the memory's own rows
    before, after = step(method, state, base, batch)
    assert torch.equal(before, after)
    assert violation_rate(state) == 0


def test_with_one_earlier_task_it_is_a_gem_with_all_of_the_memory():
    two = stream()
    two = type(two)(two.tasks[:2])
    options = {"steps": 6, "batch_size": 8, "lr": 0.05, "optimizer": "sgd", "progress": False}
    ours = learn_stream(model(classes=4), GEM(size=48, margin=0.0, eps=0.0), two, **options)
    averaged = learn_stream(model(classes=4), AGEM(size=24, replayed=24), two, **options)
    for mine, theirs in zip(ours.parameters(), averaged.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    assert ours.state["violated"] > 0


def test_every_task_has_an_equal_part_of_the_memory():
    learner = run(GEM(size=10))
    assert learner.state["buffer"].columns["task"].bincount().tolist() == [3, 3, 3]
    assert learner.state["asked"] == 16
    with pytest.raises(UserError, match="size must be at least 1 for each of the stream's 3 tasks, got 2"):
        run(GEM(size=2))


def test_it_forgets_less_than_nothing_at_all():
    kept, floor = (run(method, steps=40).log.accuracy["test"][-1] for method in (GEM(size=24), FineTune()))
    assert kept[:2].mean() > floor[:2].mean()
