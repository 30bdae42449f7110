"""Happy's terms against its authors' code, its beginnings and prototypes by hand, and what labels do not do."""

from dataclasses import replace

import pytest
import torch
from tests.retain.streams import CLASSES, model, rows
from torch.nn import functional as F

from palimpsest.retain.happy import Happy
from palimpsest.retain.happy_losses import (
    hardness,
    initial_prototypes,
    mean_entropy,
    pairs_nce,
    self_distillation,
    soft_entropy,
    supervised_contrast,
)
from palimpsest.retain.sequence import _batches, _present, learn_stream
from palimpsest.retain.unlabelled import Projecting
from palimpsest.tasks.streams import Stream, Task

SETTINGS = {"seed": 0, "lr": 1e-2, "batch_size": 8, "steps": 10}


def discovery(dtype=torch.float32, exchanged=False):
    """Two named classes, then two more among them, twice."""
    tasks = []
    for number in range(3):
        classes = tuple(range(2 + 2 * number))
        train = rows(classes, 12 * len(classes), number, dtype=dtype)
        if exchanged and number:
            train = replace(train, y=len(classes) - 1 - train.y)
        tasks.append(Task(f"stage {number}", train, rows(classes, 6 * len(classes), 50 + number, dtype=dtype), classes))
    return Stream(tuple(tasks))


def second_task(method):
    data, base = discovery(torch.float64), model().double()
    first, second = (_present(data, number, SETTINGS) for number in range(2))
    state = method.after_task(method.before_task(method.init(base, first), base, first), base, first)
    before = base.head.weight.detach().clone()
    state = method.before_task(state, base, second)
    return state, base, _batches(method, state, second, 8)(0), before


def table():
    return torch.sin(torch.arange(12.0).double()).reshape(3, 4), torch.cos(torch.arange(12.0).double()).reshape(3, 4)


def test_terms_of_the_authors_code():
    """mashijie1028/Happy-CGCD at 55fc93f: DistillLoss, info_nce_logits, SupConLoss, the entropies of train_online and
    the shares of compute_proto_aug_hardness_aware_loss, in float64."""
    a, b = table()
    z = F.normalize(torch.cat([a, b]), dim=1)
    answers = torch.tensor([0.1, 0.2, 0.3, 0.25, 0.15]).double()
    theirs = [8.961185765941279, 1.552494576125219, 10.810495833965568, 0.13892747991341015]
    mine = [
        self_distillation(a, b, 0.05),
        pairs_nce(z[:3], z[3:]),
        supervised_contrast(z, torch.tensor([0, 1, 0] * 2)),
        soft_entropy(answers, torch.tensor([False] * 3 + [True] * 2)),
    ]
    for value, other in zip(mine, theirs, strict=True):
        assert value.item() == pytest.approx(other, abs=1e-7)
    shares = [0.028398844327333514, 0.0002833707516261654, 0.45058541258418155, 0.5207323723368588]
    assert hardness(z[:4]).tolist() == pytest.approx(shares, abs=1e-9)


def test_entropy_of_balanced_groups_is_zero_however_many_classes_they_have():
    new = torch.tensor([False] * 6 + [True] * 2)
    balanced = 0.5 / torch.tensor([6.0] * 6 + [2.0] * 2).double()
    assert soft_entropy(balanced, new).item() == pytest.approx(0, abs=1e-12)
    assert mean_entropy(balanced) > 0.1
    one = torch.tensor([0.25, 0.25, 0.5]).double()
    assert soft_entropy(one, torch.tensor([False, False, True])).item() == pytest.approx(0, abs=1e-12)
    nothing_new = torch.tensor([0.5, 0.5, 0.0]).double()
    assert soft_entropy(nothing_new, torch.tensor([False, False, True])).isfinite()


def test_orthogonal_prototypes_are_drawn_alike_and_near_ones_more_often():
    torch.testing.assert_close(hardness(torch.eye(5)), torch.full((5,), 0.2))
    near = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.0, 0.0, 1.0]])
    shares = hardness(near)
    assert shares[2] < 0.1 < shares[:2].min()


def test_new_prototypes_begin_where_no_old_one_is():
    state, base, _, before = second_task(Happy())
    weight = base.head.weight.detach()
    assert torch.equal(weight[:2], before[:2])
    assert torch.equal(weight[4:], before[4:])
    torch.testing.assert_close(weight[2:4].norm(dim=1), before[2:4].norm(dim=1).mean().expand(2))
    corners = torch.eye(4).repeat_interleave(5, 0)
    found = initial_prototypes(corners, torch.eye(4)[:2], 2)
    assert sorted(found.argmax(1).tolist()) == [2, 3]
    state, base, _, before = second_task(Happy(start="drew"))
    assert torch.equal(base.head.weight, before)
    assert state["prototypes"][:2].norm(dim=1).tolist() == pytest.approx([1, 1])


def test_the_loss_is_the_naive_one():
    method = Happy(entropy_weight=0.7, held=0.3)
    state, base, batch, _ = second_task(method)
    old = {name: value.clone() for name, value in base.state_dict().items()}
    with torch.no_grad():
        for p in base.parameters():
            p.add_(0.05)
    images = torch.cat([batch[view]["pixel_values"] for view in ("first", "second")])
    f, W = F.normalize(base.features(images), dim=1), F.normalize(base.head.weight[:4], dim=1)
    first, second = (f @ W.T).chunk(2)
    answers = (f @ W.T / 0.1).softmax(1).mean(0)
    before = model().double()
    before.load_state_dict(old)
    g = F.normalize(before.features(images), dim=1)
    drawn = batch["drawn"]
    naive = {
        "distilled": self_distillation(first, second, 0.05),
        "contrast": pairs_nce(*f.chunk(2)),
        "entropy": 0.7 * soft_entropy(answers, torch.tensor([False, False, True, True])),
        "drawn": F.cross_entropy(F.normalize(drawn["features"], dim=1) @ W.T / 0.1, drawn["labels"]),
        "held": 0.3 * (f - g).square().sum(1).mean(),
    }
    torch.testing.assert_close(method.loss(state, base, batch), naive)
    assert len(drawn["labels"]) == 16
    assert set(drawn["labels"].tolist()) == {0, 1}
    assert "drawn" not in Happy(prototypes="none").replay(state, {"pixel_values": images}, torch.Generator())


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_view_is_encoded_once_by_the_model_and_once_by_the_old_one(wrapped):
    state, base, batch, _ = second_task(Happy())
    if wrapped:
        base = Projecting(base, features=8, projected=5, hidden=7).double()
        state["old"] = {name: value.clone() for name, value in base.state_dict().items()}
    asked, features = [], base.features
    base.features = lambda x: asked.append(len(x)) or features(x)
    terms = Happy().loss(state, base, batch)
    assert asked == [8, 8, 8, 8]
    if wrapped:
        z = [F.normalize(base.projected(batch[view]["pixel_values"]), dim=1) for view in ("first", "second")]
        torch.testing.assert_close(terms["contrast"], pairs_nce(*z))


def test_the_first_task_has_labels_and_a_teacher_that_sharpens():
    method, base, data = Happy(), model().double(), discovery(torch.float64)
    first = _present(data, 0, SETTINGS)
    state = method.before_task(method.init(base, first), base, first)
    temperatures = []
    for _ in range(5):
        temperatures.append(method.teacher(state))
        method.gradients(state, base)
    assert temperatures == pytest.approx([0.07, 0.06, 0.05, 0.04, 0.04])
    batch = _batches(method, state, first, 8)(0)
    terms = method.loss(state, base, batch)
    assert terms.keys() == {"distilled", "contrast", "entropy", "new", "supervised contrast"}
    images = torch.cat([batch[view]["pixel_values"] for view in ("first", "second")])
    logits = F.normalize(base.features(images), dim=1) @ F.normalize(base.head.weight[:2], dim=1).T / 0.1
    torch.testing.assert_close(terms["new"], 0.35 * F.cross_entropy(logits, batch["labels"].repeat(2)))


def test_prototypes_are_means_of_what_is_answered_and_their_radius_that_of_named_classes():
    method, base, data = Happy(), model().double(), discovery(torch.float64)
    first = _present(data, 0, SETTINGS)
    state = method.after_task(method.before_task(method.init(base, first), base, first), base, first)
    own = data.tasks[0].train
    f = F.normalize(base.features(own.x), dim=1).detach()
    parts = [f[own.y == label] for label in (0, 1)]
    for label, part in enumerate(parts):
        torch.testing.assert_close(state["prototypes"][label], F.normalize(part.mean(0), dim=0))
    traces = [torch.cov(part.T, correction=0).trace() / 8 for part in parts]
    torch.testing.assert_close(state["radius"], torch.stack(traces).mean().sqrt())
    assert state["prototypes"][2:].isnan().all()


def test_later_labels_teach_nothing_and_the_same_seed_gives_the_same_bits():
    ends = []
    for exchanged in (False, True):
        base = model(classes=CLASSES)
        learn_stream(base, Happy(), discovery(exchanged=exchanged), steps=4, batch_size=8, lr=1e-2, progress=False)
        ends.append(base.state_dict())
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_without_discovery_later_tasks_are_not_learned():
    data = discovery()
    there = [_present(data, number, SETTINGS) for number in range(2)]
    assert [Happy(discover=False).steps({}, each, 7) for each in there] == [7, 0]
    assert [Happy().steps({}, each, 7) for each in there] == [7, 7]
    learner = learn_stream(model(), Happy(discover=False), data, steps=4, batch_size=8, progress=False)
    assert learner.log.accuracy["test"].isfinite().all()
