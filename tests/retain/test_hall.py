"""The hall of continual learning: the driver, and every baseline against its formula or a naive version."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from tests.retain.streams import model, stream
from torch import nn
from torch.nn import functional as F

from palimpsest.models.vision import cnn
from palimpsest.retain.buffers import Examples, herding
from palimpsest.retain.continual import (
    Continual,
    as_it_was,
    cross_entropy,
    everything_of,
    features_of,
    last_layer,
    of_all,
    only_allowed,
    weights_of,
)
from palimpsest.retain.distillation import LwF, distillation
from palimpsest.retain.penalties import (
    EWC,
    SI,
    Interpolation,
    L2Init,
    OnlineEWC,
    diagonal_fisher,
    interpolated,
    penalty,
)
from palimpsest.retain.prototypes import ICaRL, NearestClassMean, PrototypeReplay, StreamingLDA
from palimpsest.retain.renewal import Restart, ShrinkPerturb
from palimpsest.retain.replay import AGEM, ER, DERpp, FineTune, GDumb, Joint
from palimpsest.retain.sequence import _batches, _present, learn_stream
from palimpsest.train.classification import logits_of
from palimpsest.train.gradients import flat_gradient, gradient_of

SETTINGS = {"seed": 0, "lr": 1e-2, "batch_size": 8}


def present(number=0, kind="class", **options):
    return _present(stream(kind, **options), number, SETTINGS)


def learned(method, kind="class", **options):
    data = stream(kind)
    settings = {"steps": 15, "batch_size": 8, "lr": 1e-2, "progress": False, **options}
    return learn_stream(model(classes=data.classes), method, data, **settings)


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


# The driver.


def test_the_matrix_is_what_each_model_on_the_way_says():
    data, found = stream(), []

    @dataclasses.dataclass(frozen=True)
    class Watched(FineTune):
        def after_task(self, state, model, data_):
            allowed, row = data.allowed(data_.number + 1), []
            for number, task in enumerate(data.tasks):
                scores = model(task.test.x).logits.masked_fill(~allowed[number], -torch.inf)
                row.append((scores.argmax(1) == task.test.y).double().mean())
            found.append(torch.stack(row))
            return state

    learner = learn_stream(model(), Watched(), data, steps=10, batch_size=8, lr=1e-2, progress=False)
    assert torch.equal(learner.log.accuracy["test"], torch.stack(found))
    assert learner.log.accuracy["test"][0, 1:].tolist() == [0.0, 0.0]  # classes that had not come


def test_looks_and_online_accuracy_leave_training_as_it_is():
    plain, watched = learned(ER(size=9)), learned(ER(size=9), every=4, online=True)
    assert same(plain, watched)
    steps = [record["step"] for record in watched.log.curve]
    assert steps == [0, 4, 8, 12, 15] * 3
    assert watched.log.curve[-1]["accuracy"] == watched.log.accuracy["test"][-1].tolist()
    assert watched.log.curve[5]["task"] == 1
    assert len(watched.log.online) == 3
    assert 0 < watched.log.online[0] < 1


def test_one_optimizer_for_all_tasks_keeps_its_moments():
    apart, kept = learned(FineTune(), optimizer="adam"), learned(FineTune(), optimizer="adam", keep_optimizer=True)
    assert not same(apart, kept)
    sgd = {"optimizer": "sgd"}  # without moments there is nothing to keep
    assert same(learned(FineTune(), **sgd), learned(FineTune(), keep_optimizer=True, **sgd))


def test_arguments_that_cannot_be_meant_are_refused():
    with pytest.raises(ValueError, match="an output for each of 6 classes, and has 4"):
        learn_stream(model(classes=4), FineTune(), stream(), steps=1)
    with pytest.raises(ValueError, match="already must be from 0 to 3, the number of tasks, got 4"):
        learned(FineTune(), already=4)
    with pytest.raises(ValueError, match="kept in no checkpoint"):
        learned(FineTune(), keep_optimizer=True, checkpoint="nowhere")


def test_a_method_knows_of_the_present_task_and_never_of_its_test():
    first, second = present(0), present(1)
    assert first.heads.shape == (0, 6)
    assert not first.old.any()
    assert second.known.int().tolist() == [1, 1, 1, 1, 0, 0]
    assert second.new.int().tolist() == [0, 0, 1, 1, 0, 0]
    told = present(2, "task")
    assert told.heads.int().tolist() == [[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0]]
    tested = {tuple(row.flatten().tolist()) for row in stream().tasks[1].test.x}
    assert not tested & {tuple(row.flatten().tolist()) for row in second.rows.columns["pixel_values"]}


def test_the_old_weights_are_there_for_a_moment_and_a_graph_made_before_stays_whole():
    net = cnn(image_size=4, classes=6, norm="batch", seed=0)
    kept, x = everything_of(net), torch.randn(5, 1, 4, 4)
    old = net.eval()(x).logits.detach()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1)
    net.train()
    logits = net(x).logits
    with as_it_was(net, kept):
        assert not net.training
        assert torch.equal(net(x).logits, old)
    assert net.training
    expected = torch.autograd.grad(net(x).logits.square().sum(), net.head.weight)[0]
    torch.testing.assert_close(torch.autograd.grad(logits.square().sum(), net.head.weight)[0], expected)


# Penalties.


@pytest.mark.parametrize("labels", ["exact", "empirical"])
def test_the_fisher_information_is_that_of_a_loop_over_rows(labels):
    net, data = model(), present()
    found = diagonal_fisher(net, data, rows=100, labels=labels)
    total = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    rows = next(iter(data.batches(data.rows, net)))
    for i in range(len(data.rows)):
        one = {name: value[i : i + 1] for name, value in rows.items()}
        log_p = only_allowed(logits_of(net, one), one).log_softmax(1)[0]
        for label in range(2):
            share = float(label == one["labels"]) if labels == "empirical" else log_p[label].exp().item()
            slopes = torch.autograd.grad(log_p[label], list(net.parameters()), retain_graph=True)
            for name, slope in zip(total, slopes, strict=True):
                total[name] += share * slope.square()
    for name, value in found.items():
        torch.testing.assert_close(value, total[name] / len(data.rows), rtol=1e-4, atol=1e-7)


def test_labels_that_are_drawn_give_the_exact_information_in_the_mean():
    net, data = model(), present()
    exact = diagonal_fisher(net, data, labels="exact")["head.bias"]
    drawn = torch.stack([diagonal_fisher(net, data, labels="sampled")["head.bias"] for _ in range(60)]).mean(0)
    torch.testing.assert_close(drawn, exact, rtol=0.15, atol=1e-3)


def drawn_like(net, seed, positive=False):
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(p.shape, generator=generator) for name, p in net.named_parameters()}
    return {name: value.abs() * (value > -0.5) for name, value in drawn.items()} if positive else drawn


def test_one_parabola_is_the_sum_of_the_penalties_of_all_tasks():
    net, method, state, naive = model(), EWC(strength=2.0), {}, 0.0
    for seed in range(4):
        fisher, weights = drawn_like(net, seed, positive=True), drawn_like(net, 10 + seed)
        state = method.added(state, fisher, weights)
        naive = naive + sum((fisher[name] * (p - weights[name]).square()).sum() for name, p in net.named_parameters())
    batch = _batches(method, {}, present(), 8)(0)
    held = method.loss(state, net, batch)["held"]
    torch.testing.assert_close(held, naive, rtol=1e-5, atol=1e-5)
    mine, theirs = (torch.autograd.grad(value, net.head.weight)[0] for value in (held, naive))
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_online_importances_fade_around_the_last_weights():
    net, method = model(), OnlineEWC(gamma=0.5)
    fishers, weights = [drawn_like(net, s, positive=True) for s in (0, 1)], [drawn_like(net, s) for s in (2, 3)]
    state = method.added(method.added({}, fishers[0], weights[0]), fishers[1], weights[1])
    for name in fishers[0]:
        torch.testing.assert_close(state["importance"][name], 0.5 * fishers[0][name] + fishers[1][name])
        assert state["anchor"][name] is weights[1][name]


def test_what_a_weight_is_worth_to_si_is_the_sum_along_the_way():
    """With gradients followed by small steps, the sum over all weights is how far the loss fell."""
    net, data = model(), present()
    method = SI(damping=0.1)
    state = method.before_task(method.init(net, data), net, data)
    start = weights_of(net)
    rows = next(iter(data.batches(data.rows, net)))
    fallen = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    first = cross_entropy(net, rows).item()
    for _ in range(200):
        net.zero_grad()
        sum(method.loss(state, net, rows).values()).backward()
        method.gradients(state, net)
        with torch.no_grad():
            for name, p in net.named_parameters():
                fallen[name] -= p.grad * (-0.02 * p.grad)
                p.sub_(0.02 * p.grad)
    last = cross_entropy(net, rows).item()
    importance = method.after_task(state, net, data)["importance"]
    for name, p in net.named_parameters():
        expected = fallen[name].clamp(min=0) / ((p.detach() - start[name]).square() + 0.1)
        torch.testing.assert_close(importance[name], expected, rtol=1e-4, atol=1e-6)
    assert sum(value.sum().item() for value in fallen.values()) == pytest.approx(first - last, rel=0.05)


def test_si_counts_the_fall_of_the_task_s_own_loss_and_cuts_the_sum_over_tasks_at_0():
    """As pathint/protocols.py of ganguli-lab/pathint has it: `unreg_grads`, and relu of the running omega."""
    net, data, method = model().double(), present(dtype=torch.float64), SI(strength=3.0, damping=0.1)
    rows = next(iter(data.batches(data.rows, net)))
    state = method.init(net, data)
    omega = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for _ in range(2):
        state, start = method.before_task(state, net, data), weights_of(net)
        fallen = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
        for _ in range(5):
            net.zero_grad()
            sum(method.loss(state, net, rows).values()).backward()
            method.gradients(state, net)
            own = torch.autograd.grad(cross_entropy(net, rows), list(net.parameters()))
            with torch.no_grad():
                for (name, p), g in zip(net.named_parameters(), own, strict=True):
                    step = -0.3 * p.grad
                    fallen[name] -= g * step
                    p.add_(step)
        state = method.after_task(state, net, data)
        for name, p in net.named_parameters():
            added = fallen[name] / ((p.detach() - start[name]).square() + 0.1)
            omega[name] = (omega[name] + added).clamp(min=0)
            torch.testing.assert_close(state["importance"][name], omega[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", [EWC(strength=0.0), SI(strength=0.0), L2Init(strength=0.0), LwF(strength=0.0)])
def test_without_strength_it_is_fine_tuning(method):
    assert same(learned(method).model, learned(FineTune()).model)


def test_a_strong_penalty_holds_the_weights_where_they_were():
    net = model()
    before = weights_of(net)
    learner = learn_stream(net, L2Init(strength=1e4), stream(), steps=15, batch_size=8, lr=1e-4, progress=False)
    ones = {name: torch.ones_like(value) for name, value in before.items()}
    free = learned(FineTune(), lr=1e-4).model
    assert penalty(learner.model, ones, before) < 0.05 * penalty(free, ones, before)


def test_interpolation_ends_at_the_models_themselves_and_goes_straight_between():
    data = stream()
    after = learn_stream(model(), FineTune(), data, steps=15, batch_size=8, lr=1e-2, progress=False)
    assert same(after.model, learned(Interpolation(share=0.0)).model)
    first = learn_stream(model(), FineTune(), stream(), already=1, steps=15, batch_size=8, lr=1e-2, progress=False)
    held = learn_stream(model(), Interpolation(share=1.0), stream(), already=1, steps=15, batch_size=8, progress=False)
    assert same(held.model, model())
    assert not same(first.model, model())
    old, new = everything_of(model(0)), everything_of(model(1))
    for name, value in interpolated(old, new, 0.25).items():
        torch.testing.assert_close(value, 0.25 * old[name] + 0.75 * new[name])


def test_batch_norm_takes_its_statistics_anew_between_two_models():
    net = nn.Sequential(nn.BatchNorm2d(1, momentum=0.1), nn.Flatten(), nn.Linear(16, 6))
    learner = learn_stream(net, Interpolation(), stream(), steps=3, batch_size=8, lr=1e-3, progress=False)
    x = stream().tasks[2].train.x
    torch.testing.assert_close(learner.model[0].running_mean, x.mean()[None], rtol=1e-4, atol=1e-5)
    assert learner.model[0].momentum == 0.1


# Replay.


def test_joint_learns_from_all_rows_so_far_and_may_begin_again():
    method, data = Joint(restart=True), present(2)
    assert method.steps({}, data, 10) == 30
    state = Joint().after_task(Joint().init(model(), data), model(), present(0))
    rows = Joint().rows(state, present(1))
    assert rows.columns["task"].bincount().tolist() == [24, 24]
    net = model(seed=3)
    method.before_task({"first": everything_of(model())}, net, data)
    assert same(net, model())


def test_replay_is_one_mean_over_new_and_old_rows():
    net, method = model(), ER(size=9)
    state = method.after_task(method.init(net, present()), net, present())
    batch = _batches(method, state, present(1), 8)(0)
    logits = [only_allowed(logits_of(net, part), part) for part in (batch, batch["memory"])]
    labels = torch.cat([batch["labels"], batch["memory"]["labels"]])
    expected = F.cross_entropy(torch.cat(logits), labels)
    torch.testing.assert_close(method.loss(state, net, batch)["both"], expected)
    assert len(batch["memory"]["labels"]) == 8
    again = _batches(method, state, present(1), 8)(0)
    assert torch.equal(again["memory"]["pixel_values"], batch["memory"]["pixel_values"])
    other = _batches(method, state, present(1), 8)(1)
    assert not torch.equal(other["memory"]["pixel_values"], batch["memory"]["pixel_values"])


def test_stored_logits_are_those_of_the_task_s_end_and_cost_nothing_while_the_model_is_the_same():
    net, method = model(), DERpp(size=9, alpha=1.0, beta=0.5)
    state = method.after_task(method.init(net, present()), net, present())
    rows = state["buffer"]
    torch.testing.assert_close(rows.columns["logits"], net(rows.columns["pixel_values"]).logits.detach())
    batch = _batches(method, state, present(1), 8)(0)
    terms = method.loss(state, net, batch)
    assert terms["dark"].item() == pytest.approx(0.0, abs=1e-10)
    torch.testing.assert_close(terms["new"], cross_entropy(net, batch))
    torch.testing.assert_close(terms["old"], 0.5 * cross_entropy(net, batch["memory"]))
    assert not torch.equal(batch["dark"]["pixel_values"], batch["memory"]["pixel_values"])


def test_no_step_of_a_gem_goes_against_the_buffer():
    net, method = model(), AGEM(size=9)
    state = method.after_task(method.init(net, present()), net, present())
    seen = []
    for step in range(20):
        batch = _batches(method, state, present(1), 8)(step)
        net.zero_grad()
        method.loss(state, net, batch)["new"].backward()
        before = flat_gradient(list(net.parameters()))
        method.gradients(state, net)
        after, along = (
            flat_gradient(list(net.parameters())),
            gradient_of(cross_entropy(net, batch["memory"]), list(net.parameters())),
        )
        assert after @ along >= -1e-5
        seen.append(bool(before @ along < 0))
        assert torch.equal(before, after) != seen[-1]
        with torch.no_grad():
            for p in net.parameters():
                p.sub_(0.05 * p.grad)
    assert any(seen)
    assert "reference" not in state


def test_gdumb_learns_from_its_buffer_alone_from_the_first_weights():
    method, net = GDumb(size=8, share=0.5), model()
    state = method.init(net, present())
    with torch.no_grad():
        net.head.bias.add_(1.0)
    state = method.before_task(state, net, present())
    assert same(net, model())
    state = method.before_task(state, net, present(1))
    assert method.rows(state, present(1)).labels.bincount().tolist() == [2] * 4
    assert [method.steps(state, present(i), 10) for i in range(3)] == [5, 10, 15]
    assert method.after_task(state, net, present(1)) is state
    elsewhere = method.after_task(method.init(net, present()), net, present())
    assert elsewhere["buffer"].labels.bincount().tolist() == [4, 4]


# Old answers and prototypes.


@pytest.mark.parametrize("kind", ["class", "task"])
def test_distillation_compares_old_classes_alone_and_each_head_for_itself(kind):
    student, teacher = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    heads = present(2, kind).heads
    expected = torch.zeros(())
    for head in heads:
        p, q = ((z[:, head] / 2).softmax(1) for z in (teacher, student))
        expected += (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(distillation(student, teacher, heads, 2.0), expected)
    moved = student.clone()
    moved[:, 4:] += 3  # the classes of the present task
    torch.testing.assert_close(distillation(moved, teacher, heads, 2.0), expected)
    assert distillation(student, teacher, heads[:0]) == 0


def test_an_unchanged_model_is_not_held_back_by_its_old_answers():
    net, method = model(), LwF(strength=3.0)
    state = method.before_task({}, net, present(1))
    terms = method.loss(state, net, _batches(method, state, present(1), 8)(0))
    assert terms["held"].item() == pytest.approx(0.0, abs=1e-7)


def test_icarl_keeps_the_herded_and_answers_by_their_mean():
    net, method = model(), ICaRL(size=6)
    state = method.after_task(method.init(net, present()), net, present())
    rows = present().rows.of_class(1)
    features = of_all(features_of, net, rows)
    best = herding(features, 3)
    kept = state["buffer"].of_class(1)
    assert torch.equal(kept.columns["pixel_values"], rows.columns["pixel_values"][best])
    mean = F.normalize(F.normalize(features[best], dim=1).mean(0), dim=0)
    torch.testing.assert_close(state["means"][1], mean)
    state = method.after_task(state, net, present(1))
    assert state["buffer"].labels.bincount().tolist() == [1, 1, 1, 1]
    assert torch.equal(state["buffer"].of_class(1).columns["pixel_values"], rows.columns["pixel_values"][best[:1]])
    batch = next(iter(present(1).batches(present(1).rows, net)))
    scores = method.answer(state, net, batch)
    near = (F.normalize(features_of(net, batch), dim=1)[:, None] - state["means"][:4]).square().sum(2).argmin(1)
    assert torch.equal(scores.argmax(1), near)


def test_old_classes_of_icarl_are_taught_by_the_old_model_and_new_ones_by_labels():
    net, method = model(), ICaRL(size=6)
    state = method.after_task(method.init(net, present()), net, present())
    state = method.before_task(state, net, present(1))
    batch = _batches(method, state, present(1), 8)(0)
    z = logits_of(net, batch)[:, :4]
    targets = F.one_hot(batch["labels"], 6)[:, :4].float()
    targets[:, :2] = z[:, :2].sigmoid()
    torch.testing.assert_close(
        method.loss(state, net, batch)["each"], F.binary_cross_entropy_with_logits(z, targets.detach())
    )


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_streaming_lda_is_that_of_all_rows_at_once_whatever_the_order(order):
    net, method, state = model(), StreamingLDA(learn="never", shrinkage=1e-9), {}
    for number in order:
        state = method.after_task(state, net, present(number))
    rows = Examples({k: torch.cat([present(i).rows.columns[k] for i in range(3)]) for k in present().rows.columns})
    features = of_all(features_of, net, rows).double().numpy()
    lda = LinearDiscriminantAnalysis(solver="lsqr", priors=np.full(6, 1 / 6)).fit(features, rows.labels.numpy())
    scores = method.answer(state, net, rows.columns)
    assert np.array_equal(scores.argmax(1).numpy(), lda.predict(features))
    means = NearestClassMean().answer(state, net, rows.columns)
    centres = np.stack([features[rows.labels == label].mean(0) for label in range(6)])
    expected = ((features[:, None] - centres) ** 2).sum(2)
    np.testing.assert_allclose(-means.detach().numpy(), expected, rtol=1e-4, atol=1e-4)


def test_features_that_stand_still_are_learned_once_and_nothing_is_forgotten():
    learner = learned(NearestClassMean(), "task", steps=40)
    R = learner.log.accuracy["test"]
    assert torch.equal(R[1:, 1], R[1, 1].expand(2))
    never = learn_stream(model(), NearestClassMean(learn="never"), stream(), steps=9, progress=False)
    assert same(never.model, model())


def test_prototypes_are_means_and_what_is_drawn_lies_around_them():
    net, method = model(), PrototypeReplay()
    state = method.after_task(method.init(net, present()), net, present())
    features, labels = of_all(features_of, net, present().rows), present().rows.labels
    means = torch.stack([features[labels == label].mean(0) for label in (0, 1)])
    torch.testing.assert_close(state["prototypes"].columns["features"], means)
    spread = torch.stack([features[labels == label].var(0, correction=0).mean() for label in (0, 1)]).mean()
    assert state["radius"].square().item() == pytest.approx(spread.item(), rel=1e-5)
    state = method.before_task(state, net, present(1))
    drawn = _batches(method, state, present(1), 24)(0)["drawn"]
    far = drawn["features"] - means[drawn["labels"]]
    assert far.std().item() == pytest.approx(state["radius"].item(), rel=0.2)
    terms = method.loss(state, net, _batches(method, state, present(1), 24)(0))
    assert terms["held"].item() == pytest.approx(0.0, abs=1e-10)
    drawn = _batches(method, state, present(1), 24)(0)["drawn"]
    scores = only_allowed(last_layer(net)(drawn["features"]), drawn)
    torch.testing.assert_close(terms["drawn"], F.cross_entropy(scores, drawn["labels"]))


# Renewal.


def test_weights_begin_again_or_shrink_with_noise():
    net = model(seed=3)
    method = Restart()
    state = method.init(model(), present())
    method.before_task(state, net, present(1))
    assert same(net, model())
    shrunk = model()
    ShrinkPerturb(keep=0.5, noise=0.0).before_task({}, shrunk, present(1))
    torch.testing.assert_close(shrunk.head.weight, 0.5 * model().head.weight)
    ShrinkPerturb(keep=1.0, noise=0.1).before_task({}, shrunk, present(2))
    moved = torch.cat([(a - 0.5 * b).flatten() for a, b in zip(shrunk.parameters(), model().parameters(), strict=True)])
    assert moved.std().item() == pytest.approx(0.1, rel=0.15)
    assert same(learned(Continual()).model, learned(FineTune()).model)


@pytest.mark.parametrize("keep_optimizer", [False, True])
def test_weight_decay_goes_with_a_method_that_acts_behind_every_update(keep_optimizer):
    def sizes(decay):
        learned = learn_stream(
            *(model(), SI(), stream()),
            steps=3,
            lr=1e-2,
            weight_decay=decay,
            keep_optimizer=keep_optimizer,
            progress=False,
        )
        return torch.stack([p.detach().norm() for p in learned.model.parameters()]).sum()

    assert sizes(10.0) < 0.9 * sizes(0.0)


def test_the_old_weights_answer_under_autocast_and_the_present_ones_after_them():
    net, x = nn.Linear(3, 2), torch.ones(1, 3)
    kept, said = everything_of(net), {}
    nn.init.zeros_(net.weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        said["before"] = net(x)
        with as_it_was(net, kept):
            said["old"] = net(x)
        said["after"] = net(x)
    torch.testing.assert_close(said["after"], said["before"])
    assert not torch.equal(said["old"], said["before"])
