"""Bias correction: what the line recovers, that rows held out are held out, and who is corrected."""

import pytest
import torch
from tests.retain.streams import draw, model, stream
from torch.nn import functional as F

from palimpsest.retain.bic import BiC, fit_line
from palimpsest.retain.sequence import _present, learn_stream
from palimpsest.train.classification import logits_of

SETTINGS = {"seed": 0, "lr": 1e-2, "batch_size": 8}
NEW = torch.tensor([False] * 3 + [True] * 3)


def labelled(n=600):
    """Logits, and labels drawn as these logits say."""
    logits = 2 * draw(n, 6)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=torch.Generator().manual_seed(1))[:, 0]


def run(method, data=None, steps=30):
    return learn_stream(model(), method, data or stream(), steps=steps, batch_size=8, lr=1e-2, progress=False)


@pytest.mark.parametrize("shift", [-0.8, 1.3])
def test_a_shift_of_new_logits_is_recovered(shift):
    logits, labels = labelled(4000)
    straight = fit_line(logits, labels, NEW, steps=600)
    alpha, beta = fit_line(logits + shift * NEW, labels, NEW, steps=600)
    assert alpha == pytest.approx(straight[0], abs=0.05)
    assert beta == pytest.approx(straight[1] - alpha * shift, abs=0.05)
    assert beta == pytest.approx(-shift, abs=0.15)


def test_a_line_is_the_minimum_of_the_cross_entropy():
    logits, labels = labelled()
    alpha, beta = fit_line(logits + 0.5 * NEW, labels, NEW, steps=2000)

    def value(a, b):
        return F.cross_entropy(torch.where(NEW, a * (logits + 0.5 * NEW) + b, logits), labels)

    best = value(alpha, beta)
    assert all(best <= value(alpha + da, beta + db) for da in (-0.05, 0, 0.05) for db in (-0.05, 0, 0.05))
    assert abs(fit_line(logits + 0.5 * NEW, labels, NEW, steps=2000, penalty=10.0)[1]) < abs(beta)


def test_classes_that_may_not_be_answered_do_not_count():
    logits, labels = labelled()
    shut = torch.cat([logits, torch.full((len(logits), 1), -torch.inf).double()], 1)
    new = torch.cat([NEW, torch.tensor([True])])
    assert fit_line(shut, labels, new) == pytest.approx(fit_line(logits, labels, NEW))


def test_rows_that_are_held_out_are_never_learned_from():
    method, data, base = BiC(size=12), stream(n=40), model()
    state = method.init(base, _present(data, 0, SETTINGS))
    held = []
    for number in range(3):
        present = _present(data, number, SETTINGS)
        state = method.before_task(state, base, present)
        learned = method.rows(state, present)
        held = [*held, *state["apart"]["pixel_values"]]
        assert not any(torch.equal(a, b) for a in learned.columns["pixel_values"] for b in held)
        state = method.after_task(state, base, present)
        counts = [state[name].labels.bincount().tolist() for name in ("buffer", "held")]
        classes = 2 * (number + 1)
        assert counts == [[12 // classes - 1] * classes, [1] * classes]


def test_the_network_is_no_other_than_without_a_correction_and_only_new_logits_change():
    one, two = (run(BiC(size=12, line_steps=steps), type(stream())(stream().tasks[:3]), 10) for steps in (1, 100))
    batch = {"pixel_values": stream().tasks[1].test.x}
    lines = two.state["lines"]
    assert lines[:, :4].tolist() == [[1.0] * 4, [0.0] * 4]
    assert len(set(lines[0, 4:].tolist())) == 1
    assert lines[0, 4] != 1
    raw = logits_of(two.model, batch)
    answered = two.method.answer(two.state, two.model, batch)
    assert torch.equal(answered[:, :4], raw[:, :4])
    torch.testing.assert_close(answered[:, 4:], lines[0, 4] * raw[:, 4:] + lines[1, 4])
    assert one.log.accuracy["test"].shape == two.log.accuracy["test"].shape


def test_all_lines_are_kept_where_they_are_asked_for():
    lines = run(BiC(size=12, correct="all"), steps=10).state["lines"]
    assert (lines[0, :2] == 1).all()
    assert len(set(lines[0, [0, 2, 4]].tolist())) == 3


def test_the_teacher_is_the_model_before_with_its_correction():
    method, base, data = BiC(size=12), model(), stream()
    first, second = (_present(data, number, SETTINGS) for number in range(2))
    state = method.after_task(method.before_task(method.init(base, first), base, first), base, first)
    state = method.before_task(state, base, second)
    state["lines"] = torch.stack([torch.full((6,), 2.0), torch.tensor([0.5, -0.5, 0, 0, 0, 0])])
    x = second.rows.columns["pixel_values"][:8]
    batch = {"pixel_values": x, "labels": second.rows.labels[:8], "task": torch.ones(8).long()}
    batch["allowed"] = second.allowed[batch["task"]]
    logits = logits_of(base, batch)
    teacher = 2 * logits[:, :2] + torch.tensor([0.5, -0.5])
    p, q = ((each / 2).log_softmax(1) for each in (teacher, logits[:, :2]))
    torch.testing.assert_close(method.loss(state, base, batch)["held"], 0.5 * (p.exp() * (p - q)).sum(1).mean())
