"""Progressive learning without forgetting: who teaches what, a naive loop of both gradients, and LwF as a limit."""

import pytest
import torch
from tests.retain.streams import draw, model, stream

from palimpsest.retain.continual import as_it_was, on
from palimpsest.retain.distillation import LwF
from palimpsest.retain.plwf import PLwF, conflict_rate, credit_assignment
from palimpsest.retain.sequence import _batches, _present, learn_stream, nbytes
from palimpsest.tasks.streams import Stream
from palimpsest.train.classification import logits_of

SETTINGS = {"seed": 0, "lr": 1e-2, "batch_size": 8}


def moved(network, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))


def third_task(method, kind="class"):
    """The state in the third task, behind two models that differ, the model, a third one, and a batch."""
    data = stream(kind, dtype=torch.float64)
    network = model(classes=data.classes).double()
    state = method.init(network, _present(data, 0, SETTINGS))
    for number in range(2):
        present = _present(data, number, SETTINGS)
        state = method.after_task(method.before_task(state, network, present), network, present)
        moved(network, number)
    present = _present(data, 2, SETTINGS)
    state = method.before_task(state, network, present)
    return state, network, on(_batches(method, state, present, 8)(0), torch.device("cpu"))


def kl(teacher, student, classes, T=2.0):
    p, q = ((each[:, classes] / T).log_softmax(1) for each in (teacher, student))
    return (p.exp() * (p - q)).sum(1).mean()


@pytest.mark.parametrize(
    ("mode", "kind", "among", "asked"),
    [
        ("dense", "class", "knew", {0: [[0, 1]], 1: [[0, 1, 2, 3]]}),
        ("dense", "class", "heads", {0: [[0, 1]], 1: [[0, 1, 2, 3]]}),
        ("sparse", "class", "knew", {0: [[0, 1]], 1: [[2, 3]]}),
        ("last", "class", "knew", {1: [[0, 1, 2, 3]]}),
        ("dense", "task", "knew", {0: [[0, 1]], 1: [[0, 1, 2, 3]]}),
        ("dense", "task", "heads", {0: [[0, 1]], 1: [[0, 1], [2, 3]]}),
        ("last", "task", "heads", {1: [[0, 1], [2, 3]]}),
    ],
)
def test_each_model_teaches_what_it_knew(mode, kind, among, asked):
    method = PLwF(strength=0.7, mode=mode, among=among)
    state, network, batch = third_task(method, kind)
    student, parts = logits_of(network, batch), []
    for number, groups in asked.items():
        with as_it_was(network, state["past"][number]["weights"]):
            teacher = logits_of(network, batch)
        parts.append(sum(kl(teacher, student, group) for group in groups))
    terms = method.loss(state, network, batch)
    torch.testing.assert_close(terms["held"], 0.7 * 4 * sum(parts) / len(parts))
    summed = PLwF(strength=0.7, mode=mode, among=among, combine="sum").loss(state, network, batch)
    torch.testing.assert_close(summed["held"], 0.7 * 4 * sum(parts))


@pytest.mark.parametrize("project", ["both", "new", "held", "none"])
def test_what_conflicts_is_taken_off_as_the_formula_says(project):
    g, h = draw(6), draw(6, seed=1)
    h = h if g @ h < 0 else -h
    new, held = credit_assignment(g, h, project)
    torch.testing.assert_close(new, g - (g @ h) / (h @ h) * h if project in ("both", "new") else g)
    torch.testing.assert_close(held, h - (g @ h) / (g @ g) * g if project in ("both", "held") else h)
    if project == "both":
        # Neither raises the other's loss as it was before.
        assert new @ h >= -1e-12
        assert held @ g >= -1e-12
    assert all(torch.equal(*pair) for pair in zip(credit_assignment(g, -h, project), (g, -h), strict=True))


@pytest.mark.parametrize("kind", ["class", "domain"])
@pytest.mark.parametrize("credit", ["both", "new", "held", "none"])
def test_a_step_follows_both_gradients_of_a_naive_loop(credit, kind):
    conflicts = []
    for seed in range(8):
        method = PLwF(strength=3.0, credit=credit)
        state, network, batch = third_task(method, kind)
        moved(network, 10 + seed)
        if kind == "domain":  # labels that earlier models hold to be the least likely
            with as_it_was(network, state["teachers"][seed % 2]["weights"]):
                batch["labels"] = logits_of(network, batch).argmin(1)
        trained = list(network.parameters())
        terms = method.loss(state, network, batch)
        g, h = (
            torch.cat([each.flatten() for each in torch.autograd.grad(term, trained, retain_graph=True)])
            for term in terms.values()
        )
        own = 4  # all there are where every task has the same
        alone = torch.autograd.grad(terms["new"], network.head.bias, retain_graph=True)[0][own:]
        sum(terms.values()).backward()
        method.gradients(state, network)
        found = torch.cat([p.grad.flatten() for p in trained])
        new, held = credit_assignment(g * (h != 0), h, credit)
        torch.testing.assert_close(found, new + held + g * (h == 0))
        # Those of the classes that come with this task follow the labels alone.
        torch.testing.assert_close(network.head.bias.grad[own:], alone)
        conflicts.append(bool(g @ h < 0))
        if credit != "none":
            assert conflict_rate(state) == conflicts[-1]
            assert "slopes" not in state
    assert kind == "class" or any(conflicts)


def test_batches_of_one_update_count_together():
    one, several = (
        learn_stream(model(), PLwF(), stream(), steps=4, lr=1e-2, progress=False, batch_size=8, accumulate=n)
        for n in (1, 2)
    )
    assert one.state["asked"] == several.state["asked"] == 8
    assert all(p.isfinite().all() for p in several.parameters())
    state, network, batch = third_task(PLwF())
    halves = [{name: value[part] for name, value in batch.items()} for part in (slice(4), slice(4, None))]
    found = []
    for parts in ([batch], halves):
        network.zero_grad()
        for part in parts:
            (sum(PLwF().loss(state, network, part).values()) / len(parts)).backward()
        PLwF().gradients(state, network)
        found.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("kind", ["class", "task"])
def test_two_tasks_without_credit_are_lwfs_and_the_last_model_alone_is_lwf(kind):
    data = stream(kind)
    two, options = Stream(data.tasks[:2], data.told), {"steps": 5, "batch_size": 8, "lr": 1e-2, "progress": False}
    for each, classes, method in ((two, 4, PLwF(credit="none")), (data, 6, PLwF(mode="last", among="heads"))):
        method = PLwF(mode=method.mode, among=method.among, credit="none")
        ours, lwf = (learn_stream(model(classes=classes), one, each, **options) for one in (method, LwF()))
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), lwf.parameters(), strict=True))


def test_the_last_model_alone_asks_no_other():
    method = PLwF(mode="last")
    state, network, batch = third_task(method)
    value = method.loss(state, network, batch)["held"]
    state["past"][0]["weights"] = {name: value + 1 for name, value in state["past"][0]["weights"].items()}
    again = method.before_task(state, network, _present(stream(dtype=torch.float64), 2, SETTINGS))
    assert torch.equal(method.loss(again, network, batch)["held"], value)
    assert not torch.equal(
        PLwF().loss(PLwF().before_task(state, network, _present(stream(), 2, SETTINGS)), network, batch)["held"], value
    )


def test_halved_models_weigh_half_and_say_nearly_the_same():
    options = {"steps": 3, "batch_size": 8, "lr": 1e-2, "progress": False}
    whole, half = (learn_stream(model(), PLwF(half=flag), stream(), **options) for flag in (False, True))
    weights = [sum(nbytes(one["weights"]) for one in each.state["past"]) for each in (whole, half)]
    assert weights[0] == 2 * weights[1] == 3 * sum(4 * p.numel() for p in model().parameters())
    assert whole.log.memory[-1] - half.log.memory[-1] == weights[1]
    state, network, batch = third_task(PLwF(half=True))
    value = PLwF().loss(state, network, batch)["held"]
    torch.testing.assert_close(value, PLwF().loss(third_task(PLwF())[0], network, batch)["held"], rtol=1e-2, atol=0)
