"""Per-class normalised steps: first order against differences, the theorem's predicate, and what training shows."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from palimpsest.classify.pcngd import (
    agreements,
    class_grads,
    descend,
    first_order,
    gd_direction,
    minority_drops,
    pcngd_direction,
    sum_direction,
)
from palimpsest.classify.pcngd_training import (
    RULES,
    class_batches,
    directional_noise,
    learning_lag,
    minority_initial_drop,
    recalls,
    train,
)


def problem(seed, many=30, few=5, classes=2):
    draws = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.zeros(many), *(torch.full((few,), float(c)) for c in range(1, classes))]).long()
    x = torch.randn(len(labels), 4, generator=draws, dtype=torch.float64) + labels[:, None] * 0.7
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, classes)).double()
    with torch.no_grad():
        model[2].bias.copy_(torch.randn(classes, generator=draws, dtype=torch.float64))
    return model, x, labels


def losses(model, x, labels):
    with torch.no_grad():
        return {c: float(F.cross_entropy(model(x[labels == c]), labels[labels == c])) for c in labels.unique().tolist()}


def test_class_gradients_add_up_to_that_of_all_rows():
    model, x, labels = problem(0, classes=3)
    F.cross_entropy(model(x), labels).backward()
    whole = torch.cat([p.grad.flatten() for p in model.parameters()])
    counts = dict(enumerate(labels.bincount().tolist()))
    torch.testing.assert_close(gd_direction(class_grads(model, F.cross_entropy, x, labels), counts), whole)
    assert set(class_grads(model, F.cross_entropy, x[labels != 1], labels[labels != 1])) == {0, 2}


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("classes", [2, 4])
def test_first_order_is_the_slope_of_each_class_s_loss(normalised, classes):
    for seed in range(10):
        model, x, labels = problem(seed, classes=classes)
        counts = dict(enumerate(labels.bincount().tolist()))
        grads = class_grads(model, F.cross_entropy, x, labels)
        slopes = first_order(grads, None if normalised else counts)
        direction = pcngd_direction(grads) if normalised else gd_direction(grads, counts)
        ends = []
        for lr in (1e-6, -2e-6):
            descend(model, direction, lr)
            ends.append(losses(model, x, labels))
        for label, slope in slopes.items():
            assert (ends[0][label] - ends[1][label]) / 2e-6 == pytest.approx(slope, rel=1e-4, abs=1e-7)


def test_the_predicate_says_whether_the_rare_class_s_loss_rises_and_pcngd_raises_none():
    seen = set()
    for seed in range(60):
        model, x, labels = problem(seed, few=2 + seed % 20)
        counts = dict(enumerate(labels.bincount().tolist()))
        grads, before = class_grads(model, F.cross_entropy, x, labels), losses(model, x, labels)
        start = {name: p.clone() for name, p in model.state_dict().items()}
        descend(model, gd_direction(grads, counts), 1e-6)
        rises = losses(model, x, labels)[1] > before[1]
        assert minority_drops(grads, counts) == rises
        seen.add(rises)
        model.load_state_dict(start)
        descend(model, pcngd_direction(grads), 1e-6)
        after = losses(model, x, labels)
        assert all(after[label] <= before[label] for label in (0, 1))
    assert seen == {True, False}


def test_a_normalised_step_has_the_length_of_unit_vectors_and_is_blind_to_scale():
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([-1.0, 0.0])
    torch.testing.assert_close(pcngd_direction({0: a, 1: b}), pcngd_direction({0: 10 * a, 1: b / 7}))
    torch.testing.assert_close(pcngd_direction({0: a, 1: torch.zeros(2)}), a / 5)
    torch.testing.assert_close(pcngd_direction({0: a}, {0: 0.5}), a / 2.5)
    torch.testing.assert_close(pcngd_direction({0: a}, {0: -0.3}), a / 5 / 0.05)
    torch.testing.assert_close(sum_direction({0: a, 1: b}), a + b)


def test_batches_hold_each_class_in_its_share_or_equally_and_no_row_is_left_out():
    members = {0: torch.arange(90), 1: torch.arange(90, 100)}
    batches = class_batches(members, 20, seed=0)
    seen = torch.cat([next(batches) for _ in range(5)])
    assert sorted(seen.tolist()) == list(range(100))
    equal = next(class_batches(members, 20, equal=True))
    assert int((equal >= 90).sum()) == 10


def test_a_rare_class_s_direction_is_noisier():
    model, x, labels = problem(0, many=180, few=20)
    noise = directional_noise(model, x, labels, batch_size=20)
    assert noise[1] < noise[0] < 1
    whole = class_grads(model, F.cross_entropy, x, labels)
    assert agreements(whole, whole) == pytest.approx({0: 1.0, 1: 1.0})


def test_gradient_descent_unlearns_the_rare_class_first_and_pcngd_does_not():
    """From a network that names the rare class often, and a frequent class of 20 to 1."""
    drops = {}
    for rule in ("GD", "PCNGD"):
        model, x, labels = problem(3, many=200, few=10)
        with torch.no_grad():
            model[2].bias.copy_(torch.tensor([0.0, 0.5]))
        curve = train(model, x, labels, rule, steps=60, lr=0.05)
        drops[rule] = minority_initial_drop([each[1] for each in curve])[0]
    assert drops["PCNGD"] < drops["GD"]


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_learns(rule):
    model, x, labels = problem(1, many=60, few=20)
    x = x + 2 * labels[:, None]
    curve = train(model, x, labels, rule, steps=80, lr=0.1, batch_size=20)
    assert min(curve[-1].values()) > 0.7
    assert curve[-1] == recalls(model, x, labels)


def test_how_curves_are_read():
    assert minority_initial_drop([0.5, 0.6, 0.1]) == (0.0, 0)
    assert minority_initial_drop([0.5, 0.2, 0.1]) == (pytest.approx(0.4), 2)
    assert learning_lag([0.1, 0.6], [0.1, 0.1]) == 1
    assert learning_lag([0.6, 0.7], [0.6, 0.7]) == 0


def test_what_does_not_fit_is_refused():
    model, x, labels = problem(0, classes=3)
    with pytest.raises(ValueError, match="need two classes"):
        minority_drops(class_grads(model, F.cross_entropy, x, labels), {0: 1, 1: 1, 2: 1})
    with pytest.raises(ValueError, match="need one of GD"):
        train(model, x, labels, "Adam", steps=1, lr=0.1)
