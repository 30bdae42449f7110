"""Frozen lower layers stay to the bit; what came back is a share of what fell; angles and planes by hand."""

import math
from copy import deepcopy

import pytest
import torch
from torch import nn

from palimpsest.errors import UserError
from palimpsest.models.language import causal_lm
from palimpsest.models.score import cross_entropy
from palimpsest.models.tokenizers import word_tokenizer
from palimpsest.retain.sequence import learn_stream
from palimpsest.retain.spurious_forgetting import FreezeBottom, bottom, early_stop, freeze_bottom
from palimpsest.retain.spurious_forgetting_measures import (
    Recovery,
    answers_right,
    curve,
    encoded,
    loss_plane,
    recovery_probe,
    update_angle,
)
from palimpsest.retain.tokens import token_stream
from palimpsest.tasks.streams import Stream
from palimpsest.train.method import apply

PEOPLE = ("Ada", "Bo", "Cy", "Di", "Ed", "Flo", "Gus", "Hal", "Ivo", "Jo")
PLACES = ("Porto", "Quito", "Fez", "Riga", "Oslo", "Rome")
OLD = [(f"Where was {name} born?", f" {place}") for name, place in zip(PEOPLE, PLACES, strict=False)]
NEW = [(f"Where was {name} born?", f" {place}") for name, place in zip(PEOPLE[6:], PLACES[2:], strict=True)]


class Rows:
    def __init__(self, tokenizer, pairs):
        self.tokenizer, self.rows = tokenizer, encoded(tokenizer, pairs)

    def batches(self, batch_size, seed):
        return lambda step: self.rows.batch(range(len(self.rows)), self.tokenizer.pad_token_id)


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer([word for pair in OLD + NEW for text in pair for word in text.split()])


@pytest.fixture(scope="module")
def knows_old(tokenizer):
    model = causal_lm(len(tokenizer), d_model=32, n_layers=3, n_heads=2, seed=0)
    apply(model, cross_entropy, Rows(tokenizer, OLD), steps=60, lr=1e-2, progress=False)
    assert answers_right(model, tokenizer, OLD) == 1.0
    return model


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("embeddings", [True, False])
def test_what_is_frozen_is_the_same_to_the_bit_and_everything_else_moves(tokenizer, architecture, embeddings):
    model = causal_lm(len(tokenizer), d_model=16, n_layers=3, n_heads=2, architecture=architecture, tie=False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    still = bottom(model, 2, embeddings)
    method, data = FreezeBottom(frozen=2, embeddings=embeddings), Rows(tokenizer, NEW)
    apply(model, method, data, steps=3, lr=1e-2, weight_decay=0.1, progress=False)
    same = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    assert same == set(still)
    assert any("embed" in name or "wte" in name for name in still) == embeddings
    assert len([name for name in still if ".0." in name]) == len([name for name in still if ".1." in name]) > 0
    assert not any(".2." in name for name in still)
    assert all(p.requires_grad for p in model.parameters())


def test_in_a_stream_the_first_task_may_move_everything_and_later_ones_do_not(tokenizer):
    model = causal_lm(len(tokenizer), d_model=16, n_layers=2, n_heads=2, seed=0)
    rows = {name: (encoded(tokenizer, pairs),) * 2 for name, pairs in (("old", OLD), ("new", NEW))}
    stream = token_stream(rows, tokenizer.pad_token_id)
    options = {"steps": 3, "batch_size": 4, "lr": 1e-2, "weight_decay": 0.1, "progress": False}
    first = {name: p.detach().clone() for name, p in bottom(model, 1).items()}
    learn_stream(model, FreezeBottom(1), Stream(stream.tasks[:1]), **options)
    after = {name: p.detach().clone() for name, p in bottom(model, 1).items()}
    assert not any(torch.equal(after[name], first[name]) for name in first)
    learn_stream(model, FreezeBottom(1), stream, already=1, **options)
    assert all(torch.equal(p, after[name]) for name, p in bottom(model, 1).items())


def test_nothing_frozen_is_plain_fine_tuning_and_too_much_is_an_error(tokenizer, knows_old):
    models = [deepcopy(knows_old), deepcopy(knows_old)]
    for model, method in zip(models, (FreezeBottom(0, embeddings=False), cross_entropy), strict=True):
        apply(model, method, Rows(tokenizer, NEW), steps=3, lr=1e-2, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))
    with pytest.raises(UserError, match="3 blocks"):
        apply(models[0], FreezeBottom(4), Rows(tokenizer, NEW), steps=1)


def test_a_zeroed_gradient_still_moves_a_weight_by_decay_and_a_frozen_one_does_not(knows_old):
    # What the authors' code does, step by step, beside the context manager.
    zeroed, frozen = deepcopy(knows_old), deepcopy(knows_old)
    batch = {"input_ids": torch.tensor([[1, 5, 6]]), "labels": torch.tensor([[1, 5, 6]])}
    optimizer = torch.optim.AdamW(zeroed.parameters(), lr=1e-2, weight_decay=0.1)
    cross_entropy(zeroed, batch).backward()
    names = list(bottom(zeroed, 1))
    for name, p in zeroed.named_parameters():
        if name in names:
            p.grad = p.grad * 0
    optimizer.step()
    with freeze_bottom(frozen, 1) as found:
        assert found == names
        optimizer = torch.optim.AdamW([p for p in frozen.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1)
        cross_entropy(frozen, batch).backward()
        optimizer.step()
    assert all(p.requires_grad for p in frozen.parameters())
    pairs = zip(zeroed.named_parameters(), frozen.parameters(), knows_old.parameters(), strict=True)
    for (name, one), two, start in pairs:
        if name in names:
            assert torch.equal(two, start)
            torch.testing.assert_close(one, start * (1 - 1e-2 * 0.1))
        else:
            torch.testing.assert_close(one, two)


def test_nothing_that_fell_is_not_a_number_and_a_question_in_both_halves_is_refused(tokenizer, knows_old):
    before = {name: p.clone() for name, p in knows_old.named_parameters()}
    found = recovery_probe(knows_old, tokenizer, OLD[:3], OLD[3:], before=1.0, lr=1e-3)
    assert found.after == 1.0
    assert math.isnan(found.spurious)
    assert all(torch.equal(p, before[name]) for name, p in knows_old.named_parameters())
    assert Recovery(0.75, 0.25, 0.75).spurious == 1.0
    assert Recovery(0.75, 0.25, 0.25).spurious == 0.0
    with pytest.raises(ValueError, match="both halves"):
        recovery_probe(knows_old, tokenizer, OLD[:3], OLD[2:], before=1.0)


def test_the_curve_begins_with_the_old_task_known_and_ends_where_the_new_one_is_learned(tokenizer, knows_old):
    model = deepcopy(knows_old)
    options = {"steps": 80, "every": 10, "batch_size": 4, "lr": 1e-2, "stop": early_stop("new", 1.0)}
    found = curve(model, tokenizer, NEW, OLD, **options)
    assert found["step"][0] == 0
    assert found["old"][0] == 1.0 > found["new"][0]
    assert found["new"][-1] == 1.0
    assert found["step"][-1] < 80
    assert min(found["old"]) < 1.0


def test_angles_are_of_the_updates_and_the_share_of_their_leading_columns():
    start = {"w": torch.zeros(3, 2), "b": torch.zeros(3)}
    then = {"w": torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), "b": torch.ones(3)}
    last = {"w": then["w"] + torch.tensor([[3.0, 0.0], [0.0, 0.0], [0.0, 4.0]]), "b": then["b"] * 2}
    found = update_angle(start, then, last, "w", rank=1)
    assert found.cosine == pytest.approx(6 / (math.sqrt(5) * 5))
    assert found.inside == pytest.approx(9 / 25)
    assert update_angle(start, then, last, "w", rank=2).inside == pytest.approx(9 / 25)
    bias = update_angle(start, then, last, "b")
    assert bias.cosine == pytest.approx(1.0)
    assert math.isnan(bias.inside)
    assert math.isnan(update_angle(start, then, then, "w").cosine)


def test_a_plane_holds_the_loss_at_each_point_and_leaves_the_model_as_it_was():
    model = nn.Linear(2, 1)
    weight = model.weight.data.clone()
    one, two = {"weight": torch.tensor([[1.0, 0.0]])}, {"weight": torch.tensor([[0.0, 2.0]]), "bias": torch.ones(1)}
    x = torch.tensor([1.0, 1.0])
    found = loss_plane(model, (one, two), lambda model: model(x).item(), (0.0, 1.0, 3.0))
    start = model(x).item()
    expected = [[start + s + 3 * t for t in (0, 1, 3)] for s in (0, 1, 3)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=1e-5, rtol=0)
    assert torch.equal(model.weight, weight)
