"""TAG against torch's optimizers, the formula in a loop, the authors' numbers, and its limits."""

import math

import pytest
import torch
from tests.retain.streams import model, stream
from torch import nn

from palimpsest.errors import UserError
from palimpsest.retain.replay import AGEM, ER, FineTune
from palimpsest.retain.sequence import learn_stream
from palimpsest.retain.tag import TAG, relatedness
from palimpsest.retain.tag_learner import TAGLearner, alpha_history

TORCHS = {
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-2, alpha=0.99, eps=1e-8),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2, eps=1e-8),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, betas=(0.9, 0.999), eps=1e-8),
}
THEIRS = [
    -1.539156954171609,
    -0.5632038050901828,
    -0.20541616209224922,
    0.2946083615453842,
    0.6237585252681913,
    1.239388264207879,
]
SETTINGS = {"steps": 6, "batch_size": 8, "lr": 1e-3, "progress": False}


def gradient(task, step):
    return torch.sin(torch.arange(6, dtype=torch.float64) * (task + 1) + step).reshape(2, 3)


def weight():
    return nn.Parameter(torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3))


def run(tasks, **options):
    w = weight()
    optimizer = TAG([w], lr=1e-2, **options)
    for task in range(tasks):
        optimizer.start_task()
        for step in range(4):
            w.grad = gradient(task, step)
            optimizer.step()
    return w, optimizer


@pytest.mark.parametrize("rule", TORCHS)
def test_in_one_task_it_is_torchs_own(rule):
    w, v = run(1, rule=rule)[0], weight()
    optimizer = TORCHS[rule]([v])
    for step in range(4):
        v.grad = gradient(0, step)
        optimizer.step()
    torch.testing.assert_close(w, v, rtol=1e-12, atol=1e-12)


def test_weights_of_the_authors_code():
    """Their TAG, in float64, came to these after three tasks of four steps."""
    torch.testing.assert_close(
        run(3)[0].detach().flatten(), torch.tensor(THEIRS, dtype=torch.float64), rtol=0, atol=1e-9
    )


def test_the_formula_in_a_loop():
    w, v, old = run(3, b=2.0)[0], weight().detach(), []
    for task in range(3):
        M, V = torch.zeros_like(v), torch.zeros_like(v)
        for step in range(4):
            g = gradient(task, step)
            M, V = 0.9 * M + 0.1 * g, 0.99 * V + 0.01 * g**2
            total = V if task == 0 else math.exp(-2.0) * V
            for M_old, V_old in old:
                cosine = (M * M_old).sum() / M.norm() / M_old.norm()
                total = total + torch.exp(-2.0 * cosine) * V_old
            v = v - 1e-2 * g / (total.sqrt() + 1e-8)
        old.append((M, V))
    torch.testing.assert_close(w.detach(), v, rtol=1e-12, atol=1e-12)


def test_tasks_that_agree_take_larger_steps_than_tasks_that_do_not():
    moved = {}
    for sign in (1.0, 0.0, -1.0):
        w = nn.Parameter(torch.zeros(2))
        optimizer = TAG([w], lr=1.0)
        for direction in ([1.0, 0.0], [sign, 1.0 - abs(sign)]):
            optimizer.start_task()
            before = w.detach().clone()
            w.grad = torch.tensor(direction) + 1e-3
            optimizer.step()
            moved[sign] = float((w.detach() - before).abs().max())
    assert moved[1.0] > moved[-1.0]
    assert relatedness(torch.tensor([3.0, 0.0]), torch.eye(2), b=5.0).tolist() == pytest.approx([math.exp(-5), 1.0])


def test_zero_moments_divide_nothing_by_zero_and_unused_tensors_are_left():
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    optimizer = TAG([used, unused], lr=0.1)
    for grad in (torch.zeros(2), torch.ones(2), torch.zeros(2)):
        optimizer.start_task()
        used.grad = grad
        optimizer.step()
    assert used.isfinite().all()
    assert torch.equal(unused, torch.ones(3))
    optimizer.end_task()
    history = alpha_history({"used": optimizer.state[used]})
    assert history[1, 0, 0] == history[2, 0, 0] == history[2, 1, 0] == 1.0
    assert history.isnan().sum() == 6
    # Two tensors for each of three tasks and the one that is next, and three means.
    assert optimizer.state_bytes() >= 2 * 4 * 5 * 4


def test_the_state_of_the_optimizer_goes_on_to_the_same_bits():
    w, optimizer = run(2)
    v = nn.Parameter(w.detach().clone())
    again = TAG([v], lr=1e-2)
    again.load_state_dict(optimizer.state_dict())
    for each, of in ((w, optimizer), (v, again)):
        of.start_task()
        each.grad = gradient(2, 0)
        of.step()
    assert torch.equal(w, v)
    with pytest.raises(ValueError, match="b at least 0"):
        TAG([w], lr=1e-2, b=-1.0)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_in_a_stream_it_is_the_optimizer_that_is_told_the_tasks(optimizer):
    made = []

    def ours(parameters, lr):
        made.append(made[0] if made else TAG(parameters, lr=lr))
        made[-1].start_task()
        return made[-1]

    learner = learn_stream(model(), TAGLearner(), stream(), optimizer=optimizer, **SETTINGS)
    plain = learn_stream(model(), FineTune(), stream(), optimizer=ours, **SETTINGS)
    assert all(torch.equal(a, b) for a, b in zip(learner.parameters(), plain.parameters(), strict=True))
    assert alpha_history(learner.state["memories"]).shape == (3, 3, 6)


def test_replay_and_a_gem_beneath_make_its_gradient():
    for beneath, method in (("er", ER(size=9)), ("a_gem", AGEM(size=9))):
        made = []

        def ours(parameters, lr, made=made):
            made.append(made[0] if made else TAG(parameters, lr=lr))
            made[-1].start_task()
            return made[-1]

        learner = learn_stream(model(), TAGLearner(beneath=beneath, size=9), stream(), **SETTINGS)
        plain = learn_stream(model(), method, stream(), optimizer=ours, **SETTINGS)
        assert all(torch.equal(a, b) for a, b in zip(learner.parameters(), plain.parameters(), strict=True))


def test_opposite_labels_are_more_unlike_than_the_same_again():
    def alphas(turned):
        data = stream("task")
        first = data.tasks[0]
        labels = (1 - first.train.y) if turned else first.train.y
        again = type(first)("again", type(first.train)(first.train.x, labels, first.train.index), first.test, (0, 1))
        two = type(data)((first, again), told=True)
        learner = learn_stream(model(classes=2), TAGLearner(), two, **SETTINGS)
        return alpha_history(learner.state["memories"])[1, 0].mean()

    assert alphas(turned=True) > alphas(turned=False)


def test_a_rate_that_changes_is_refused():
    with pytest.raises(UserError, match="leave out schedule, warmup and clip"):
        learn_stream(model(), TAGLearner(), stream(), schedule="cosine", **SETTINGS)
