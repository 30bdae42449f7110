"""PEC: its score, its training, and that neither order nor division of classes matters."""

import pytest
import torch
from tests.retain.streams import CLASSES, model, rows, stream
from torch.func import functional_call

from palimpsest.errors import UserError
from palimpsest.models.vision import mlp
from palimpsest.retain.pec import PEC, prediction_errors
from palimpsest.retain.pec_measures import arc_cosine_kernel, posterior_variance
from palimpsest.retain.pec_networks import Dense
from palimpsest.retain.sequence import learn_stream
from palimpsest.tasks.streams import Stream, Task
from palimpsest.tasks.tabular import tabular

SMALL = PEC(width=4, wider=25, outputs=9)


def run(method=SMALL, data=None):
    return learn_stream(model(), method, data or stream(), steps=1, progress=False)


def of_classes(groups):
    """A stream of the same rows of six classes, in tasks of some."""
    tasks = [
        Task(
            str(number),
            *(_joined([rows([c], n, 10 * part + c) for c in group]) for part, n in ((0, 20), (1, 8))),
            group,
        )
        for number, group in enumerate(groups)
    ]
    return Stream(tuple(tasks))


def _joined(parts):
    x, y = (torch.cat([getattr(part, name) for part in parts]) for name in ("x", "y"))
    return type(parts[0])(x, y, torch.arange(len(x)))


def test_the_order_and_the_division_of_classes_do_not_matter():
    x = rows(range(CLASSES), 30, 7).x
    forward = run(data=of_classes([(0, 1), (2, 3), (4, 5)]))(x)
    for groups in ([(4, 5), (0, 1), (2, 3)], [(5, 0), (3, 2), (1, 4)], [(2,), (0, 1, 5), (3, 4)]):
        assert torch.equal(run(data=of_classes(groups))(x, task=len(groups) - 1), forward)


def test_a_student_is_taught_by_adam_row_by_row_at_a_falling_rate():
    learner = run()
    state, first = learner.state, stream().tasks[0].train
    student, teacher = Dense(16, 4, 9), Dense(16, 100, 9)
    student.load_state_dict(state["first"])
    teacher.load_state_dict(state["teacher"])
    own = first.x[first.y == 1]
    adam = torch.optim.Adam(student.parameters(), lr=1e-2)
    for number, row in enumerate(own):
        adam.param_groups[0]["lr"] = 1e-2 * (1 - number / len(own))
        adam.zero_grad()
        (student(row[None]) - teacher(row[None]).detach()).square().mean().backward()
        adam.step()
    for name, value in student.state_dict().items():
        torch.testing.assert_close(state["students"][1][name], value)
    x = first.x[:5]
    naive = -(student(x) - teacher(x)).square().mean(1).detach()
    torch.testing.assert_close(learner(x, task=0)[:, 1], naive)


def test_a_class_that_was_never_seen_is_never_answered_and_a_perfect_student_never_errs():
    first = run()
    state = {**first.state, "students": {0: first.state["students"][0]}}
    batch = {"pixel_values": stream().tasks[0].test.x, "allowed": torch.ones(16, 6, dtype=torch.bool)}
    scores = SMALL.answer(state, first.model, batch)
    assert scores[:, 1:].isneginf().all()
    assert (scores[:, 0] < 0).all()
    same = PEC(width=4, wider=1, outputs=9)
    kept = {"teacher": state["first"], "first": state["first"], "students": {0: state["first"]}}
    assert (same.answer(kept, first.model, batch)[:, 0] == 0).all()


def test_the_model_is_neither_asked_nor_trained():
    learner = run()
    assert all(torch.equal(a, b) for a, b in zip(learner.model.parameters(), model().parameters(), strict=True))
    assert learner.log.accuracy["test"][-1].mean() > 0.8


def test_networks_begin_as_torch_begins_them():
    state = run(PEC(width=200, wider=2, outputs=300)).state
    for name, value in Dense(16, 200, 300).state_dict().items():
        mine = state["first"][name]
        assert mine.shape == value.shape
        assert mine.std(correction=0) == pytest.approx(value.std(correction=0).item(), rel=0.15)
        assert mine.abs().max() <= max(value.abs().max() * 1.2, 1)


def test_a_convolution_is_for_images():
    learner = run(PEC(network="convolution", width=4, wider=5, outputs=9))
    assert learner.log.accuracy["test"].isfinite().all()
    assert state_shapes(learner)["0.weight"] == (4, 1, 3, 3)
    data = tabular("wine", 0)
    tasks = (Task("all", data.train, data.test, (0, 1, 2)),)
    with pytest.raises(UserError, match=r"a convolution needs images, got rows of shape \[13\]"):
        learn_stream(mlp(13, 3), PEC(network="convolution"), Stream(tasks), steps=1, progress=False)


def state_shapes(learner):
    return {name: tuple(value.shape) for name, value in learner.state["students"][0].items()}


def test_the_kernel_is_the_covariance_of_wide_networks():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    # Normal weights of the same variance: of uniform ones, sums of three are not normal yet.
    weight, bias = (torch.randn(n, 200_000, generator=generator, dtype=torch.float64) / 3 for n in (3, 1))
    features = (x @ weight + bias).relu()
    naive = features @ features.T / (3 * features.shape[1])
    torch.testing.assert_close(arc_cosine_kernel(x, x), naive, rtol=0.02, atol=1e-4)


def test_a_row_like_those_seen_is_one_that_the_process_is_sure_of():
    seen = rows([0], 20, 1).x.flatten(1)
    variance = posterior_variance(seen, torch.cat([seen[:5], rows([3], 5, 2).x.flatten(1)]))
    assert variance[:5].max() < variance[5:].min()
    assert (variance > -1e-9).all()


def test_errors_are_mean_squares():
    network = Dense(3, 2, 4)
    out = functional_call(network, dict(network.named_parameters()), torch.ones(2, 3))
    torch.testing.assert_close(prediction_errors(out, out + 2), torch.full((2,), 4.0))


def test_a_class_that_comes_again_is_learned_further():
    state = learn_stream(model(classes=1), SMALL, of_classes([(0,)] * 2), steps=1, progress=False).state
    own, network, weights = rows([0], 20, 0).x, Dense(16, 4, 9), state["first"]
    goals = functional_call(Dense(16, 100, 9), state["teacher"], own).detach()
    for _ in range(2):
        weights = SMALL.taught(network, weights, own, goals)
    for name, value in weights.items():
        torch.testing.assert_close(state["students"][0][name], value)
