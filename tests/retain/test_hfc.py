"""HFC's weights against the authors' code, its loss against a naive loop, and the block that gathers tokens."""

import pytest
import torch
from tests.retain.streams import SETTINGS, draw, model, second_task, stream
from torch import nn
from torch.nn import functional as F

from palimpsest.models.vision import vit
from palimpsest.retain.hfc import HFC, gradient_balanced_weights, relation_loss
from palimpsest.retain.sequence import _batches, _present, learn_stream
from palimpsest.retain.task_semantic_aggregation import (
    AggregatingClassifier,
    TaskSemanticAggregation,
    forgetting_spread,
)

OLD = torch.tensor([True] * 4 + [False] * 2)


def test_weights_of_the_authors_code():
    """Their gradient_balanced_weight, in float64, gave these numbers for three tasks of two classes."""
    logits = 2 * torch.sin(torch.arange(48, dtype=torch.float64).square()).reshape(8, 6)
    labels = torch.tensor([0, 1, 2, 3, 4, 5, 0, 2])
    w_cls, w_dis = gradient_balanced_weights(logits, labels, labels // 2, OLD)
    theirs = (
        torch.tensor(
            [0.655057688, 0.685222672, 0.370063385, 0.640624158, 0.333333313, 0.333216094, 0.391770417, 0.692820311],
            dtype=torch.float64,
        ),
        torch.tensor(
            [0.756395501, 0.791227026, 0.42731241, 0.739729095, 0.533333349, 0.533333349, 0.452377533, 0.800000024],
            dtype=torch.float64,
        ),
    )
    torch.testing.assert_close(w_cls, theirs[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(w_dis, theirs[1], rtol=0, atol=1e-6)


def test_equal_gradients_have_equal_weights():
    labels = torch.tensor([0, 2, 3, 5])
    w_cls, w_dis = gradient_balanced_weights(torch.zeros(4, 6).double(), labels, labels // 2, OLD)
    torch.testing.assert_close(w_cls, torch.tensor([(1 / 3) ** 0.5] * 3 + [1 / 3]).double(), rtol=0, atol=1e-7)
    torch.testing.assert_close(w_dis, torch.tensor([2 / 3] * 3 + [1.6 / 3]).double(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("labels", [[0, 1, 3], [4, 5, 5]])
def test_a_batch_without_old_or_without_new_rows_has_weights(labels):
    labels = torch.tensor(labels)
    logits = torch.zeros(3, 6).double()
    logits[0, labels[0]] = 1000.0  # nothing is left of its gradient
    for weights in gradient_balanced_weights(logits, labels, labels // 2, OLD):
        assert weights.isfinite().all()
        assert (weights > 0).all()


def test_rows_of_a_task_that_are_forgotten_faster_weigh_more():
    logits = torch.zeros(3, 6).double()
    logits[torch.arange(3), torch.tensor([0, 1, 2])] = torch.tensor([2.0, 0.0, 1.0]).double()
    w_cls, w_dis = gradient_balanced_weights(logits, torch.tensor([0, 1, 2]), torch.tensor([0, 0, 1]), OLD)
    assert w_cls[0] < w_cls[2] < w_cls[1]
    assert w_dis[0] < w_dis[2] < w_dis[1]


def test_the_loss_is_the_naive_one():
    method = HFC(size=9)
    state, base, batch = second_task(method, batch_size=24)
    old = model().double()
    logits, answers = (each(pixel_values=batch["pixel_values"]).logits[:, :4] for each in (base, old))
    labels = batch["labels"]
    w_cls, w_dis = gradient_balanced_weights(logits, labels, batch["task"], torch.tensor([True] * 2 + [False] * 2))
    new, held, related, classes = 0.0, 0.0, 0.0, sorted(set(labels.tolist()))
    goals = []
    for i, label in enumerate(labels.tolist()):
        target = F.one_hot(torch.tensor(label), 4).double()
        goal = torch.cat([answers[i, :2].sigmoid(), target[2:]])
        goals.append(goal)
        new = new + w_cls[i] * F.binary_cross_entropy_with_logits(logits[i], target) / len(labels)
        held = held + w_dis[i] * F.binary_cross_entropy_with_logits(logits[i], goal) / len(labels)
    for label in classes:
        rows = labels == label
        mean = F.binary_cross_entropy_with_logits(logits[rows].mean(0), torch.stack(goals)[rows].mean(0))
        related = related + 0.5 * w_dis[rows].mean() * mean / len(classes)
    terms = method.loss(state, base, batch)
    for name, naive in {"new": new, "held": held, "related": related}.items():
        torch.testing.assert_close(terms[name], naive)
    trained = list(base.parameters())
    slopes, by_hand = (torch.autograd.grad(value, trained) for value in (sum(terms.values()), new + held + related))
    for slope, naive in zip(slopes, by_hand, strict=True):
        torch.testing.assert_close(slope, naive)
    logits = logits.detach()
    plain = HFC(size=9, balance=False, relate=False).loss(state, base, batch)
    assert plain.keys() == {"new", "held"}
    target = F.one_hot(labels, 4).double()
    torch.testing.assert_close(plain["new"], F.binary_cross_entropy_with_logits(logits, target))
    torch.testing.assert_close(plain["held"], F.binary_cross_entropy_with_logits(logits, torch.stack(goals)))


def test_the_first_task_is_plain_cross_entropy_of_sigmoids():
    method, base, data = HFC(), model().double(), stream(dtype=torch.float64)
    first = _present(data, 0, SETTINGS)
    state = method.before_task(method.init(base, first), base, first)
    batch = _batches(method, state, first, 8)(0)
    logits = base(pixel_values=batch["pixel_values"]).logits[:, :2]
    naive = F.binary_cross_entropy_with_logits(logits, F.one_hot(batch["labels"], 2).double())
    torch.testing.assert_close(method.loss(state, base, batch), {"new": naive})


def test_classes_that_are_related_need_not_be_all():
    logits, targets = draw(4, 6), draw(4, 6, seed=1).sigmoid()
    labels = torch.tensor([5, 1, 5, 5])
    naive = [
        weight * F.binary_cross_entropy_with_logits(logits[rows].mean(0), targets[rows].mean(0))
        for weight, rows in ((2.0, [1]), (3.0, [0, 2, 3]))
    ]
    weights = torch.tensor([2.0, 2.0, 3.0, 4.0]).double()
    torch.testing.assert_close(relation_loss(logits, targets, labels, weights), sum(naive) / 2)


def test_the_token_is_attention_with_one_query():
    block = TaskSemanticAggregation(8, heads=2).double().eval()
    for p in block.parameters():
        nn.init.normal_(p, std=0.5, generator=torch.Generator().manual_seed(p.numel()))
    tokens = draw(3, 5, 8)
    attention = nn.MultiheadAttention(8, 2, bias=True, batch_first=True).double()
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat([block.query.weight, block.key.weight, block.value.weight]))
        attention.in_proj_bias.zero_()
        attention.out_proj.weight.copy_(block.out.weight)
        attention.out_proj.bias.copy_(block.out.bias)
    joined = torch.cat([block.token.expand(3, 1, 8), tokens], 1)
    read = block.norm(joined)
    # All tokens ask here; the answer to the first is the token's.
    token = joined[:, 0] + attention(read, read, read)[0][:, 0]
    torch.testing.assert_close(block(tokens), token + block.mlp(block.norm_mlp(token)))


def test_a_transformer_with_aggregation_learns_a_stream():
    transformer = AggregatingClassifier(vit(image_size=4, d_model=16, classes=6))
    learner = learn_stream(transformer, HFC(size=12), stream(), steps=3, batch_size=8, lr=1e-2, progress=False)
    assert learner.log.accuracy["test"].isfinite().all()
    assert (transformer.aggregation.token != 0).any()


def test_spread_is_the_deviation_of_losses():
    accuracies = torch.tensor([[1.0, 0.6, torch.nan], [0.9, 0.8, torch.nan], [0.4, 0.8, 1.0]])
    assert forgetting_spread(accuracies) == pytest.approx(0.3)


def test_exemplars_are_kept_and_classes_that_come_again_are_not_held_to_old_answers():
    method = HFC(size=9)
    state, _, _ = second_task(method)
    assert state["buffer"].labels.bincount().tolist() == [4, 4]
    assert state["taught"].tolist() == [True, True, False, False]
    again, base = stream("domain"), model()
    first, second = (_present(again, number, SETTINGS) for number in range(2))
    state = method.after_task(method.before_task(method.init(base, first), base, first), base, first)
    assert not method.before_task(state, base, second)["taught"].any()
